//! Start, canary, shutdown, and which callbacks run.

use std::collections::BTreeSet;
use std::sync::Arc;

use outrigger_stats::{Name, Value};
use outrigger_wasm::{Abi, HeadersAction, Plugin, StartError, TrapKind, VmConfig};

use crate::fixture::{Fixture, effects, guest, in_vm, load, on, plugin, raw, stream};

/// Appends a letter to the order that a guest was called in, and shows the whole as a metric's name.
const ORDER: &str = r#"
(global $order (mut i32) (i32.const 512))
(func $o (param $letter i32)
  (i32.store8 (global.get $order) (local.get $letter))
  (global.set $order (i32.add (global.get $order) (i32.const 1)))
  (drop (call $define #0 #512 (i32.sub (global.get $order) #512) #40)))
"#;

#[test]
fn start_functions_run_in_order() {
    let fixture = Fixture::new();
    let callbacks = [
        on("context_create", "(if (i32.eqz (local.get 1)) (then (call $o %r)) (else (call $o %s)))"),
        on("vm_start", "(call $o %v)"),
        on("configure", "(call $o %c)"),
        on("log", "(call $o %l)"),
        on("done", "(call $o %d)"),
        on("delete", "(call $o %x)"),
    ]
    .concat();
    let check = |starts: &str, expected: &str| {
        let mut vm = fixture.vm(&format!("{ORDER}{starts}{callbacks}"));
        let stream = stream(&mut vm);
        vm.on_log(stream.id).expect("no trap");
        vm.delete_stream(stream.id).expect("no trap");
        assert!(vm.shutdown());
        assert!(fixture.custom(expected).is_some(), "{expected}");
    };
    let initialize = r#"(func (export "_initialize") (call $o %i))"#;
    let main = r#"(func (export "main") (param i32 i32) (result i32) (call $o %m) #0)"#;
    let start = r#"(func (export "_start") (call $o %S))"#;
    check(&format!("{initialize}{main}{start}"), "imrvcsldxdx");
    check(start, "SrvcsldxDx".replace('D', "d").as_str());
    check(initialize, "irvcsldxdx");
    check(r#"(func $z (call $o %z)) (start $z)"#, "zrvcsldxdx");
    check("", "rvcsldxdx");
}

#[test]
fn a_start_that_fails_says_what_failed() {
    let fixture = Fixture::new();
    let check =
        |body: &str| fixture.start(&guest(body), &plugin()).map(|_| ()).expect_err("does not start").to_string();
    assert_eq!(
        check(&on("vm_start", r#"(drop (call $log #4 @"no key")) (return #0)"#)),
        "proxy_on_vm_start returned false: no key"
    );
    assert_eq!(
        check(&on("configure", r#"(drop (call $log #4 @"first")) (drop (call $log #5 @"second")) (return #0)"#)),
        "refused its configuration: first | second"
    );
    assert_eq!(check(&on("configure", "(return #0)")), "refused its configuration");
    let message = check(r#"(func $boom (unreachable)) (func (export "_initialize") (call $boom))"#);
    assert!(message.starts_with("trapped while it started: start: ") && message.contains("in boom"), "{message}");
    let message = check("(func $boom (unreachable)) (start $boom)");
    assert!(message.starts_with("trapped while it started: start: "), "{message}");
}

#[test]
fn command_modules_may_exit_with_zero_and_no_other_code() {
    let fixture = Fixture::new();
    let module = |code: u32| {
        raw(&format!(
            r#"(import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
               (memory (export "memory") 1) (func (export "malloc") (param i32) (result i32) #8)
               (func (export "proxy_abi_version_0_2_0"))
               (func (export "_start") (call $exit #{code}))"#
        ))
    };
    fixture.start(&module(0), &plugin()).expect("starts");
    let error = fixture.start(&module(3), &plugin()).map(|_| ()).expect_err("exits");
    assert!(matches!(&error, StartError::Trap(trap) if trap.kind == TrapKind::Exit(3)), "{error}");
}

#[test]
fn a_canary_changes_nothing() {
    let fixture = Fixture::new();
    let headers = r#"@"\03\00\00\00\07\00\00\00\03\00\00\00\05\00\00\00\01\00\00\00\0a\00\00\00\01\00\00\00:method\00GET\00:path\00/\00:authority\00a\00""#;
    let body = on(
        "configure",
        &format!(
            r#"(if (i32.or (call $define #0 @"canary" #40) (call $increment (i32.load #40) (i64.const 5))) (then (return #0)))
               (if (call $set_shared @"key" @"value" #0) (then (return #0)))
               (if (call $http_call @"any" {headers} #0 #0 #0 #0 #100 #40) (then (return #0)))
               (if (call $tick_period #5) (then (return #0)))"#
        ),
    );
    let mut canary = fixture.canary(&guest(&body), &plugin()).unwrap_or_else(|error| panic!("{error}"));
    assert!(!canary.has_effects());
    assert_eq!(canary.tick_period(), None);
    assert_eq!(fixture.custom("canary"), None);
    assert_eq!(
        fixture
            .value(&Name::new("wasm", "vm_created").tag("wasm_plugin", "tested").tag("wasm_revision", "000000000000")),
        None
    );
    assert!(canary.shutdown());

    let mut vm = fixture.start(&guest(&body), &plugin()).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(effects(&mut vm), ["call any 1"]);
    assert_eq!(vm.tick_period(), Some(std::time::Duration::from_millis(5)));
    assert_eq!(fixture.custom("canary"), Some(Value::Counter(5)));
    assert_eq!(
        fixture
            .value(&Name::new("wasm", "vm_created").tag("wasm_plugin", "tested").tag("wasm_revision", "000000000000")),
        Some(Value::Counter(1))
    );
}

#[test]
fn a_root_context_may_say_later_that_it_is_done() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        on("vm_start", "(call $s %a (call $done)) (drop (call $tick_period #5))"),
        on("done", "(call $s %b (call $done)) (return #0)"),
        on("delete", "(call $s %c #0)"),
    ]
    .concat());
    assert!(!vm.shutdown());
    assert_eq!(vm.tick_period(), None, "ticks stop");
    assert!(!vm.shutdown() && !vm.is_over());
    assert_eq!(fixture.statuses(), "a1 b1");
}

#[test]
fn callbacks_that_are_not_exported_are_skipped() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm("");
    assert_eq!(vm.exports(), outrigger_wasm::Callbacks::default());
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::Continue));
    vm.on_log(stream.id).expect("nothing to call");
    vm.delete_stream(stream.id).expect("nothing to call");
    let vm = fixture.vm(&[on("request_headers", ""), on("log", "")].concat());
    assert!(vm.exports().request_headers && vm.exports().log && !vm.exports().response_headers);
}

#[test]
fn header_actions_are_translated() {
    let check = |answer: u32, allow: bool, expected: HeadersAction| {
        let fixture = Fixture::new();
        let plugin = Arc::new(Plugin { allow_on_headers_stop_iteration: allow, ..Plugin::clone(&plugin()) });
        let body = on("request_headers", &format!("(return #{answer})"));
        let mut vm = fixture.start(&guest(&body), &plugin).unwrap_or_else(|error| panic!("{error}"));
        let stream = stream(&mut vm);
        assert_eq!(vm.on_request_headers(stream.id, false), Ok(expected), "{answer} {allow}");
    };
    check(0, false, HeadersAction::Continue);
    check(1, false, HeadersAction::StopAllIterationAndWatermark);
    check(1, true, HeadersAction::StopIteration);
    check(2, false, HeadersAction::ContinueAndEndStream);
    check(3, true, HeadersAction::StopAllIterationAndBuffer);
    check(4, true, HeadersAction::StopAllIterationAndWatermark);
    check(77, false, HeadersAction::StopAllIterationAndWatermark);
    check(77, true, HeadersAction::StopIteration);
}

#[test]
fn abi_0_1_0_has_two_arguments_and_its_own_configuration() {
    let fixture = Fixture::new();
    let wasm = raw(r#"(import "env" "proxy_get_configuration" (func $configuration (param i32 i32) (result i32)))
           (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
           (import "env" "proxy_continue_request" (func $continue (result i32)))
           (memory (export "memory") 1)
           (func (export "proxy_on_memory_allocate") (param i32) (result i32) #4096)
           (func (export "proxy_abi_version_0_1_0"))
           (func (export "proxy_on_configure") (param i32 i32) (result i32)
             (i32.and (i32.eqz (call $configuration #32 #36)) (i32.eq (i32.load #36) (local.get 1))))
           (func (export "proxy_on_request_headers") (param i32 i32) (result i32)
             (drop (call $continue))
             (call $get #0 @"missing" #32 #36))"#);
    assert_eq!(load(&wasm).expect("loads").abi(), Abi::V0_1_0);
    let mut vm = fixture.start(&wasm, &plugin()).unwrap_or_else(|error| panic!("{error}"));
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::Continue), "a missing header is an empty one");
    assert_eq!(effects(&mut vm), ["continue Request"]);
}

#[test]
fn capabilities_close_hostcalls_and_callbacks() {
    let fixture = Fixture::new();
    let allowed = ["proxy_define_metric", "proxy_record_metric", "proxy_on_vm_start", "proxy_on_request_headers"];
    let capabilities: BTreeSet<String> = allowed.into_iter().map(str::to_owned).collect();
    let plugin = in_vm(VmConfig { capabilities: Some(capabilities), ..VmConfig::clone(&plugin().vm) });
    let wasm = guest(
        &[
            on("vm_start", "(call $s %a (call $tick_period #5)) (call $s %b (call $log #2 #0 #0))"),
            on("configure", "(unreachable)"),
            on("request_headers", ""),
        ]
        .concat(),
    );
    let vm = fixture.start(&wasm, &plugin).unwrap_or_else(|error| panic!("{error}"));
    assert_eq!(fixture.statuses(), "a10 b10");
    assert_eq!(vm.tick_period(), None);
    assert!(vm.exports().request_headers);
}

#[test]
fn streams_go_without_callbacks_that_the_guest_has_no_need_of() {
    let fixture = Fixture::new();
    let body = [
        ORDER.to_owned(),
        on("context_create", "(if (local.get 1) (then (call $o %s)))"),
        on(
            "vm_start",
            r#"(call $s %a (call $foreign @"skip_stream_callbacks" @"proxy_on_log,proxy_on_response_headers" #32 #36))
               (call $s %b (call $foreign @"skip_stream_callbacks" @"proxy_on_done" #0 #0))
               (call $s %c (call $foreign @"skip_stream_callbacks" @"proxy_on_log,proxy_on_delete" #32 #36))
               (call $s %d (call $foreign @"skip_stream_callbacks" @"" #32 #36))
               (call $s %e (call $foreign @"skip_stream_callbacks" #-1 #4 #32 #36))"#,
        ),
        on("request_headers", "(call $o %h)"),
        on("response_headers", "(unreachable)"),
        on("response_body", "(call $o %b)"),
        on("log", "(unreachable)"),
        on("done", "(call $o %d)"),
        on("delete", "(call $o %x)"),
    ]
    .concat();
    let mut vm = fixture.vm(&body);
    assert_eq!(fixture.statuses(), "a0 b0 c2 d2 e6");
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::Continue));
    stream.respond(200);
    assert_eq!(vm.on_response_headers(stream.id, false), Ok(HeadersAction::Continue));
    vm.on_response_body(stream.id, true).expect("no trap");
    vm.on_log(stream.id).expect("no trap");
    vm.delete_stream(stream.id).expect("no trap");
    assert!(vm.shutdown());
    // A root context is still asked whether it is done.
    assert!(fixture.custom("shbxdx").is_some());
}
