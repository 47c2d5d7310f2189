//! Instances of single streams: fresh ones, out of a bounded pool.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_wasm::{
    Code, CompiledModule, Engine, Isolation, LoadError, Plugin, RootId, StartError, StartMode, Vm, VmConfig, start,
};

use crate::fixture::{Clusters, Fixture, engine, guest, in_vm, load, on, plugin, raw, stream_of};

fn of_a_stream() -> Arc<Plugin> {
    in_vm(VmConfig { isolation: Isolation::Stream, ..VmConfig::clone(&plugin().vm) })
}

fn instance(fixture: &Fixture, module: &CompiledModule) -> Result<(Vm, RootId), StartError> {
    let vm = start(module, &of_a_stream(), &fixture.services, StartMode::Serving)?;
    let root = vm.roots().map(|(root, _)| root).next().expect("the plugin that it was started for");
    Ok((vm.into_vm(Rc::new(Clusters)), root))
}

/// Serves one stream.
fn serve(fixture: &Fixture, module: &CompiledModule) -> bool {
    let (mut vm, root) = instance(fixture, module).expect("an instance");
    let stream = stream_of(&mut vm, root);
    vm.on_request_headers(stream.id, true).is_ok() && vm.delete_stream(stream.id).is_ok()
}

#[test]
fn nothing_of_a_stream_shows_in_the_next() {
    // It traps where anything isn't as the module has it: its data, what lies before and behind them, grown memory, a
    // global, tables. Then it writes to all of it; the last stream's values lie in more pages than a slot keeps.
    let body = [
        "(data (i32.const 200000) \"\\2a\\2a\\2a\\2a\") (table $t 300 funcref) (elem (i32.const 7) func $f) (global $g (mut i32) (i32.const 5))
         (func $f (export \"f\"))
         (func $must (param i32) (if (i32.eqz (local.get 0)) (then (unreachable))))
         (func $zero (param $from i32) (param $to i32)
           (loop $l (if (i32.lt_u (local.get $from) (local.get $to)) (then
             (call $must (i32.eqz (i32.load (local.get $from))))
             (local.set $from (i32.add (local.get $from) (i32.const 4)))
             (br $l)))))
         (func $fill (param $from i32) (param $to i32)
           (memory.fill (local.get $from) (i32.const 255) (i32.sub (local.get $to) (local.get $from))))",
        &on(
            "request_headers",
            "(call $must (i32.eq (memory.size) (i32.const 4)))
             (call $must (i32.eq (global.get $g) (i32.const 5)))
             (call $must (i32.eq (i32.load (i32.const 200000)) (i32.const 0x2a2a2a2a)))
             (call $must (ref.is_null (table.get $t (i32.const 299))))
             (call $must (i32.eqz (ref.is_null (table.get $t (i32.const 7)))))
             (call $zero (i32.const 4096) (i32.const 131072))
             (call $zero (i32.const 200004) (i32.const 262144))
             (call $must (i32.ne (memory.grow (i32.const 2)) (i32.const -1)))
             (call $zero (i32.const 262144) (i32.const 393216))
             (global.set $g (i32.const 6))
             (table.set $t (i32.const 299) (ref.func $f))
             (table.set $t (i32.const 7) (ref.null func))
             (call $fill (i32.const 4096) (i32.const 131072))
             (call $fill (i32.const 200000) (i32.const 393216))",
        ),
    ]
    .concat();
    let fixture = Fixture::new();
    let module = load(&guest(&body)).and_then(|module| module.pooled()).expect("a module");
    for stream in 0..20 {
        assert!(serve(&fixture, &module), "stream {stream}");
    }
    // Nor in the instance of another module that gets the slot.
    let other = load(&guest(&body.replace("0x2a2a2a2a", "0x2b2a2a2a").replace("\\2a\\2a\\2a\\2a", "\\2a\\2a\\2a\\2b")));
    let other = other.and_then(|module| module.pooled()).expect("a module");
    for stream in 0..20 {
        assert!(serve(&fixture, &other) && serve(&fixture, &module), "stream {stream}");
    }
}

#[test]
fn streams_side_by_side_share_nothing() {
    let body = on("request_headers", "(if (i32.load #8192) (then (unreachable))) (i32.store #8192 #1)");
    let fixture = Fixture::new();
    let module = load(&guest(&body)).and_then(|module| module.pooled()).expect("a module");
    let mut held: Vec<(Vm, RootId)> = (0..50).map(|_| instance(&fixture, &module).expect("an instance")).collect();
    for (vm, root) in &mut held {
        let stream = stream_of(vm, *root);
        vm.on_request_headers(stream.id, true).expect("its own memory");
    }
}

#[test]
fn a_module_that_has_all_it_may_have_is_told_so_and_others_go_on() {
    // An engine of its own: no other test's instances are in its pool.
    let engine = Engine::new().expect("an engine");
    let load = |body: &str| {
        let code = engine.compile(&raw(body)).expect("it compiles");
        engine.load(Code::Bytes(code)).and_then(|module| module.pooled()).expect("a module")
    };
    const SMALL: &str = "(memory (export \"memory\") 1) (func (export \"malloc\") (param i32) (result i32) #4096)
        (func (export \"proxy_abi_version_0_2_1\"))";
    let (greedy, modest) = (load(SMALL), load(&format!("{SMALL} (global i32 #1)")));
    let fixture = Fixture::new();
    let mut held = Vec::new();
    let error = loop {
        match instance(&fixture, &greedy) {
            Ok(instance) => held.push(instance),
            Err(error) => break error,
        }
    };
    assert_eq!(error, StartError::PoolExhausted { live: held.len() });
    assert!(error.to_string().contains("no instance is left"), "{error}");
    assert!(held.len() >= 1000, "{}", held.len());
    instance(&fixture, &modest).expect("another module is not starved");
    held.pop();
    held.push(instance(&fixture, &greedy).expect("what one stream gave back the next one has"));
    assert!(instance(&fixture, &greedy).is_err());
    drop(held);
    instance(&fixture, &greedy).expect("all are back");
}

#[test]
fn machine_code_serves_both_ways() {
    let module = load(&guest("")).expect("a module");
    let (one, two) = (module.pooled().expect("a module"), module.pooled().expect("a module"));
    let fixture = Fixture::new();
    for module in [&module, &one, &two] {
        assert!(serve(&fixture, module));
    }
    assert_eq!(Engine::new().expect("an engine").compatibility(), engine().compatibility());
}

#[test]
fn guests_that_the_pool_has_no_room_for_are_refused() {
    let check = |more: &str, expected: &str| {
        let module = load(&raw(&format!(
            "(func (export \"malloc\") (param i32) (result i32) #4096) (func (export \"proxy_abi_version_0_2_1\")) {more}"
        )));
        match module.expect("a module").pooled() {
            Err(LoadError::Code { reason }) => assert!(reason.contains(expected), "{reason}"),
            other => panic!("{other:?}"),
        }
    };
    check("(memory (export \"memory\") 1025)", "memory");
    check("(memory (export \"memory\") 1) (memory 1)", "memories");
    check("(memory (export \"memory\") 1) (table 70000 funcref)", "table");
    check("(memory (export \"memory\") 1) (table 1 funcref) (table 1 funcref) (table 1 funcref)", "table");
}
