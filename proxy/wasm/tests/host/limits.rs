//! Guests that want too much.

use std::sync::Arc;
use std::time::Duration;

use outrigger_stats::{Name, Value};
use outrigger_wasm::{Limits, Plugin, StartError, TrapKind, VmConfig};

use crate::fixture::{Fixture, guest, in_vm, on, plugin, raw, stream};

fn limited(limits: Limits) -> Arc<Plugin> {
    in_vm(VmConfig { limits, ..VmConfig::clone(&plugin().vm) })
}

#[test]
fn a_loop_ends_at_its_deadline() {
    let fixture = Fixture::new();
    let plugin = limited(Limits { callback_timeout: Duration::from_millis(1), ..Limits::default() });
    let wasm = guest(&on("request_headers", "(loop $l (br $l))"));
    let mut vm = fixture.start(&wasm, &plugin).unwrap_or_else(|error| panic!("{error}"));
    let stream = stream(&mut vm);
    let trap = vm.on_request_headers(stream.id, true).expect_err("a deadline");
    assert_eq!(trap.kind, TrapKind::Deadline);
}

#[test]
fn a_loop_at_start_ends_at_the_start_budget() {
    let fixture = Fixture::new();
    let plugin = limited(Limits { start_timeout: Duration::from_millis(1), ..Limits::default() });
    for body in [
        on("configure", "(loop $l (br $l))"),
        on("vm_start", "(loop $l (br $l))"),
        "(func (export \"_initialize\") (loop $l (br $l)))".to_owned(),
        "(func $spin (loop $l (br $l))) (start $spin)".to_owned(),
    ] {
        let error = fixture.start(&guest(&body), &plugin).map(|_| ()).expect_err("a deadline");
        assert!(matches!(error, StartError::Deadline { .. }), "{error}");
    }
}

#[test]
fn memory_is_bounded_and_a_trap_for_want_of_it_says_so() {
    let fixture = Fixture::new();
    let plugin = limited(Limits { memory_bytes: 1 << 20, ..Limits::default() });
    let wasm = guest(
        &[
            on("request_headers", "(call $s %a (memory.grow #1)) (call $s %b (memory.grow #999))"),
            on("response_headers", "(if (i32.eq (memory.grow #999) #-1) (then (unreachable)))"),
        ]
        .concat(),
    );
    let mut vm = fixture.start(&wasm, &plugin).unwrap_or_else(|error| panic!("{error}"));
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a4 b-1");
    assert_eq!(vm.memory_bytes(), 5 << 16);
    let trap = vm.on_response_headers(stream.id, true).expect_err("out of memory");
    assert_eq!(trap.kind, TrapKind::Memory);
    assert!(trap.message.starts_with("ran out of memory"), "{}", trap.message);
}

#[test]
fn a_module_that_starts_too_large_does_not_start() {
    let fixture = Fixture::new();
    let module = |what: &str| {
        raw(&format!(
            r#"{what} (func (export "malloc") (param i32) (result i32) #8) (func (export "proxy_abi_version_0_2_1"))"#
        ))
    };
    for what in [r#"(memory (export "memory") 2000)"#, r#"(memory (export "memory") 1) (table 9999999 funcref)"#] {
        let error = fixture.start(&module(what), &plugin()).map(|_| ()).expect_err("too large");
        assert!(matches!(error, StartError::OutOfMemory { .. }), "{what}: {error}");
    }
}

#[test]
fn hostcalls_are_counted() {
    let fixture = Fixture::new();
    let plugin = limited(Limits { hostcalls_per_callback: 100, ..Limits::default() });
    let wasm = guest(&on("request_headers", r#"(loop $l (drop (call $get #0 @"x-a" #32 #36)) (br $l))"#));
    let mut vm = fixture.start(&wasm, &plugin).unwrap_or_else(|error| panic!("{error}"));
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_headers(stream.id, true).expect_err("a quota").kind, TrapKind::HostcallQuota);
}

#[test]
fn endless_recursion_ends() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&format!("(func $r (call $r) (call $r)) {}", on("request_headers", "(call $r)")));
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_headers(stream.id, true).expect_err("a stack").kind, TrapKind::StackOverflow);
}

/// A guest with an allocator of its own.
fn with_allocator(allocator: &str) -> Vec<u8> {
    raw(&format!(
        r#"(import "env" "proxy_get_property" (func $property (param i32 i32 i32 i32) (result i32)))
           (import "env" "proxy_log" (func $log (param i32 i32 i32) (result i32)))
           (memory (export "memory") 1)
           (func $malloc (export "malloc") (param i32) (result i32) {allocator})
           (func (export "proxy_abi_version_0_2_1"))
           (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
             (call $property @"plugin_name" #32 #36))"#
    ))
}

#[test]
fn hostile_allocators_harm_nobody() {
    let fixture = Fixture::new();
    let run = |allocator: &str| {
        let mut vm = fixture.start(&with_allocator(allocator), &plugin()).unwrap_or_else(|error| panic!("{error}"));
        let stream = stream(&mut vm);
        vm.on_request_headers(stream.id, true).map_err(|trap| trap.kind)
    };
    // What the callback returns is the status: 0 continues, anything else is a pause.
    let failed = Ok(outrigger_wasm::HeadersAction::StopAllIterationAndWatermark);
    assert_eq!(run("#2048"), Ok(outrigger_wasm::HeadersAction::Continue));
    assert_eq!(run("(drop (call $log #2 #0 #0)) #2048"), Ok(outrigger_wasm::HeadersAction::Continue));
    assert_eq!(run("#0"), failed);
    assert_eq!(run("#-1"), failed);
    assert_eq!(run("#65535"), failed);
    assert_eq!(run("(unreachable)"), Err(TrapKind::Unreachable));
    assert_eq!(run("(drop (memory.grow #1)) #65536"), Ok(outrigger_wasm::HeadersAction::Continue));
    assert_eq!(run(r#"(drop (call $property @"plugin_name" #32 #36)) #2048"#), Err(TrapKind::Reentrancy));
}

#[test]
fn logs_are_within_their_budget() {
    let fixture = Fixture::new();
    let plugin = limited(Limits { log_bytes_per_second: 10, ..Limits::default() });
    let body = on(
        "request_headers",
        r#"(call $s %a (call $log #4 @"123456")) (call $s %b (call $log #4 @"123456")) (call $s %c (call $log #6 @"x")) (call $s %d (call $log #2 #-1 #5)) (call $s %e (call $log_level #40)) (call $s %f (i32.gt_u (i32.load #40) #5))"#,
    );
    let mut vm = fixture.start(&guest(&body), &plugin).unwrap_or_else(|error| panic!("{error}"));
    let stream = stream(&mut vm);
    // Lines that nobody listens to cost no budget. For all threads: one that comes upon a line first, while a listener of this
    // thread alone comes or goes, may find it unheard for good.
    tracing::subscriber::set_global_default(Everything).expect("no other test listens");
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b0 c2 d6 e0 f0");
    let dropped =
        Name::new("wasm", "log_lines_dropped").tag("wasm_plugin", "tested").tag("wasm_revision", "000000000000");
    assert_eq!(fixture.value(&dropped), Some(Value::Counter(1)));
}

/// Listens to every level and forgets what it hears.
struct Everything;

impl tracing::Subscriber for Everything {
    fn enabled(&self, _: &tracing::Metadata<'_>) -> bool {
        true
    }
    fn new_span(&self, _: &tracing::span::Attributes<'_>) -> tracing::span::Id {
        tracing::span::Id::from_u64(1)
    }
    fn record(&self, _: &tracing::span::Id, _: &tracing::span::Record<'_>) {}
    fn record_follows_from(&self, _: &tracing::span::Id, _: &tracing::span::Id) {}
    fn event(&self, _: &tracing::Event<'_>) {}
    fn enter(&self, _: &tracing::span::Id) {}
    fn exit(&self, _: &tracing::span::Id) {}
}
