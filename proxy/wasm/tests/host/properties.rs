//! Properties, from streams and from the root.

use bytes::Bytes;
use outrigger_stats::{Name, Value};

use crate::fixture::{Fixture, on, stream};

#[test]
fn properties_are_found_by_path() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on(
        "request_headers",
        r#"(call $s %a (call $property @"request\00path" #32 #36)) (call $keep %a)
           (call $s %b (call $property @"request\00headers\00x-a" #32 #36)) (call $keep %b)
           (call $s %c (call $property @"source\00address\00" #32 #36)) (call $keep %c)
           (call $s %d (call $property @"plugin_root_id" #32 #36)) (call $keep %d)
           (call $s %e (call $property @"xds\00node\00metadata\00NAME" #32 #36)) (call $keep %e)
           (call $s %f (call $property @"request" #32 #36))
           (call $s %g (call $property #0 #0 #32 #36))
           (call $s %h (call $property @"response\00code" #32 #36))
           (call $s %i (call $property @"nothing\00here" #32 #36))
           (call $s %j (call $property @"\ff" #32 #36))
           (call $s %k (call $property #-1 #4 #32 #36))
           (call $s %l (call $property @"connection_id" #32 #36)) (call $s %m (i32.load (i32.load #32)))
           (call $s %n (i32.load #36))
           (call $s %o (call $set_property @"own\00state" @"value"))
           (call $s %p (call $property @"own\00state" #32 #36)) (call $keep %p)
           (call $s %q (call $set_property #0 #0 @"value"))
           (call $s %r (call $property @"node\00id" #32 #36)) (call $keep %r)
           (call $s %t (call $property @"xds\00node" #32 #36)) (call $keep %t)"#,
    ));
    let stream = stream(&mut vm);
    stream.state.borrow_mut().info.downstream_mut().remote = Some(([10, 0, 0, 1], 99).into());
    stream.state.borrow_mut().info.downstream_mut().id = 42;
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b0 c0 d0 e0 f3 g3 h1 i1 j1 k6 l0 m42 n8 o0 p0 q0 r0 t0");
    for (letter, expected) in [
        ("a", "/path?query"),
        ("b", "1,2"),
        ("c", "10.0.0.1:99"),
        ("d", "root"),
        ("e", "node-name"),
        ("p", "value"),
        ("r", "node-1"),
        ("t", "serialized"),
    ] {
        assert_eq!(stream.kept(letter).as_deref(), Some(expected), "{letter}");
    }
    assert_eq!(
        stream.state.borrow().info.extras().filter_state.get("wasm.own.state"),
        Some(&Bytes::from_static(b"value"))
    );
}

#[test]
fn the_root_context_sees_plugin_and_node() {
    let fixture = Fixture::new();
    let _vm = fixture.vm(&on(
        "configure",
        r#"(call $s %a (call $property @"plugin_name" #32 #36))
           (call $s %b (call $property @"plugin_vm_id" #32 #36))
           (call $s %c (call $property @"xds\00node\00metadata\00N" #32 #36)) (call $s %d (i32.load #36))
           (call $s %e (call $property @"request\00path" #32 #36))
           (call $s %f (call $set_property @"x" @"1"))"#,
    ));
    assert_eq!(fixture.statuses(), "a0 b0 c0 d8 e1 f1");
}

#[test]
fn state_is_bounded() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on(
        "request_headers",
        r#"(call $s %a (call $set_property @"big" #0 #60000)) (call $s %b (call $set_property @"small" @"1"))
           (call $s %c (call $set_property @"bigger" #0 #60000)) (call $s %d (call $property @"bigger" #32 #36))
           (call $s %e (call $set_property @"small" #0 #60000)) (call $s %f (call $property @"small" #32 #36))
           (call $s %g (call $set_property #0 #2000 @"1"))
           (call $s %h (call $property @"big" #32 #36)) (call $s %i (call $set_property @"next" @"1"))"#,
    ));
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b0 c0 d1 e0 f1 g0 h0 i0", "what was there before would pass for the newest");
    let lost = Name::new("wasm", "properties_dropped").tag("wasm_plugin", "tested");
    assert_eq!(fixture.value(&lost.tag("wasm_revision", "000000000000")), Some(Value::Counter(3)));
}
