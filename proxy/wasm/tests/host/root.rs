//! What root contexts do: shared data, metrics, calls, ticks.

use std::time::Duration;

use bytes::Bytes;
use outrigger_http::{Headers, ResponseHead};
use outrigger_stats::Value;
use outrigger_wasm::{CallFailure, CallResponse, Effect};

use crate::fixture::{Fixture, effects, on};

const HEADERS: &str = r#"@"\04\00\00\00\07\00\00\00\04\00\00\00\05\00\00\00\05\00\00\00\04\00\00\00\01\00\00\00\03\00\00\00\01\00\00\00:method\00POST\00:path\00/auth\00host\00a\00x-k\001\00""#;

#[test]
fn shared_data_is_conditional() {
    let fixture = Fixture::new();
    let _vm = fixture.vm(&on(
        "vm_start",
        r#"(call $s %a (call $shared @"key" #32 #36 #40))
           (call $s %b (call $set_shared @"key" @"v1" #0))
           (call $s %c (call $shared @"key" #32 #36 #40)) (call $s %d (i32.load #36))
           (call $s %e (call $set_shared @"key" @"v2" (i32.load #40)))
           (call $s %f (call $set_shared @"key" @"v3" (i32.load #40)))
           (call $s %g (call $set_shared @"key" #-1 #1 #0))
           (call $s %h (call $foreign @"shared_data_delete" @"key" #0 #0))
           (call $s %i (call $shared @"key" #32 #36 #40))"#,
    ));
    assert_eq!(fixture.statuses(), "a1 b0 c0 d2 e0 f8 g6 h0 i1");
}

#[test]
fn shared_data_is_shared_by_vm_id() {
    let fixture = Fixture::new();
    let _writer = fixture.vm(&on("vm_start", r#"(drop (call $set_shared @"key" @"value" #0))"#));
    let _reader = fixture.vm(&on("vm_start", r#"(call $s %a (call $shared @"key" #32 #36 #40))"#));
    assert_eq!(fixture.statuses(), "a0");
}

#[test]
fn metrics_are_defined_and_counted() {
    let fixture = Fixture::new();
    let _vm = fixture.vm(&on(
        "vm_start",
        r#"(call $s %a (call $define #0 @"count" #40)) (call $s %b (call $define #0 @"count" #44))
           (call $s %c (i32.eq (i32.load #40) (i32.load #44)))
           (call $s %d (call $increment (i32.load #40) (i64.const 3)))
           (call $s %e (call $increment (i32.load #40) (i64.const -3)))
           (call $s %f (call $record (i32.load #40) (i64.const 4)))
           (call $s %g (call $metric (i32.load #40) #48)) (call $s %h (i32.load #48))
           (call $s %i (call $define #1 @"level" #40)) (call $s %j (call $increment (i32.load #40) (i64.const -2)))
           (call $s %k (call $define #2 @"time" #40)) (call $s %l (call $record (i32.load #40) (i64.const 7)))
           (call $s %m (call $increment (i32.load #40) (i64.const 1))) (call $s %n (call $metric (i32.load #40) #48))
           (call $s %o (call $define #3 @"bad" #40)) (call $s %p (call $define #0 #0 #0 #40))
           (call $s %q (call $increment #4711 (i64.const 1))) (call $s %r (call $record #4711 (i64.const 1)))
           (call $s %t (call $metric #4711 #48)) (call $s %u (call $metric #0 #48))"#,
    ));
    assert_eq!(fixture.statuses(), "a0 b0 c1 d0 e2 f0 g0 h7 i0 j0 k0 l0 m2 n2 o2 p2 q2 r1 t2 u2");
    assert_eq!(fixture.custom("count"), Some(Value::Counter(7)));
    assert_eq!(fixture.custom("level"), Some(Value::Gauge(-2)));
    assert!(matches!(fixture.custom("time"), Some(Value::Histogram(time)) if time.sum() == 7));
}

#[test]
fn a_gauge_is_one_value_for_all_vms() {
    let fixture = Fixture::new();
    let body =
        on("vm_start", r#"(drop (call $define #1 @"set" #40)) (drop (call $record (i32.load #40) (i64.const 5)))"#);
    let (_a, _b) = (fixture.vm(&body), fixture.vm(&body));
    assert_eq!(fixture.custom("set"), Some(Value::Gauge(5)));
}

fn caller(extra: &str) -> String {
    let call = format!(r#"(call $s %a (call $http_call @"known" {HEADERS} @"body" #0 #0 #250 #40))"#);
    [
        on("vm_start", "(drop (call $tick_period #100))"),
        on("tick", &format!("{call} {extra}")),
        on(
            "http_call_response",
            r#"(call $s %h (local.get 1)) (call $s %i (local.get 2)) (call $s %j (local.get 3)) (call $s %k (local.get 4))
               (call $s %l (call $get #6 @":status" #32 #36)) (call $s %m (i32.load8_u (i32.load #32)))
               (call $s %n (call $buffer #4 #0 #99 #32 #36)) (call $s %o (i32.load #36))
               (call $s %p (call $get #7 @"x-t" #32 #36))
               (call $s %q (call $get_status #40 #32 #36)) (call $s %r (i32.load #40))
               (call $s %t (call $add #6 @"x" @"1"))"#,
        ),
    ]
    .concat()
}

#[test]
fn calls_are_queued_and_answered() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&caller(""));
    vm.on_tick().expect("no trap");
    assert_eq!(fixture.statuses(), "a0");
    let found = vm.take_effects();
    let [Effect::HttpCall(call)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((call.token, call.cluster.as_str(), &call.body[..]), (1, "known", &b"body"[..]));
    assert_eq!(call.timeout, Some(Duration::from_millis(250)));
    assert_eq!(
        (call.head.method.as_str(), &call.head.path[..], &call.head.authority[..]),
        ("POST", &b"/auth"[..], &b"a"[..])
    );
    assert_eq!(call.head.headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-k"]);

    let answer = CallResponse {
        head: Some(ResponseHead::new(200)),
        body: Bytes::from_static(b"yes"),
        trailers: Headers::new(),
        failure: None,
    };
    vm.on_http_call_response(99, answer.clone()).expect("an unknown token is ignored");
    vm.on_http_call_response(1, answer.clone()).expect("no trap");
    assert_eq!(fixture.statuses(), format!("a0 h1 i1 j3 k0 l0 m{} n0 o3 p1 q0 r0 t2", b'2'));
    vm.on_tick().expect("no trap");
    vm.on_http_call_response(1, answer).expect("a token is answered once");
    assert_eq!(effects(&mut vm), ["call known 2"]);
}

#[test]
fn failed_calls_look_as_in_envoy() {
    let check = |failure, expected: &str| {
        let fixture = Fixture::new();
        let mut vm = fixture.vm(&caller(""));
        vm.on_tick().expect("no trap");
        vm.on_http_call_response(1, CallResponse { failure: Some(failure), ..CallResponse::default() })
            .expect("no trap");
        assert!(fixture.statuses().ends_with(expected), "{failure:?}: {}", fixture.statuses());
    };
    check(CallFailure::Timeout, "i3 j24 k0 l0 m53 n0 o24 p1 q0 r0 t2");
    check(CallFailure::Connect, "i3 j19 k0 l0 m53 n0 o19 p1 q0 r0 t2");
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&caller(""));
    vm.on_tick().expect("no trap");
    let reset = CallResponse { failure: Some(CallFailure::Reset), ..CallResponse::default() };
    vm.on_http_call_response(1, reset).expect("no trap");
    let found = fixture.statuses();
    assert!(found.contains("i0 j0 k0 l1") && found.contains("n0 o0 p1 q0 r11"), "{found}");
}

#[test]
fn calls_that_cannot_be_made_are_refused() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&caller(&format!(
        r#"(call $s %b (call $http_call @"unknown" {HEADERS} #0 #0 #0 #0 #9 #40))
           (call $s %c (call $http_call @"known" #0 #0 #0 #0 #0 #0 #9 #40))
           (call $s %d (call $http_call @"known" {HEADERS} #0 #0 #0 #0 #-1 #40))
           (call $s %e (call $http_call @"known" {HEADERS} #0 #0 #0 #0 #9 #-1))
           (call $s %f (call $http_call @"known" @"rubbish" #0 #0 #0 #0 #9 #40))
           (call $s %g (call $http_call #0 #0 {HEADERS} #0 #0 #0 #0 #9 #40))"#
    )));
    vm.on_tick().expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b2 c2 d2 e6 f2 g2");
    assert_eq!(effects(&mut vm), ["call known 1"]);
}

#[test]
fn the_rest_answers_what_sdks_survive() {
    let fixture = Fixture::new();
    let _vm = fixture.vm(&on(
        "vm_start",
        r#"(call $s %a (call $grpc_call #0 #0 #0 #0 #0 #0 #0 #0 #0 #0 #0 #40))
           (call $s %b (call $grpc_send #1 #0 #0 #0))
           (call $s %c (call $foreign @"nothing" #0 #0 #32 #36))
           (call $s %d (call $foreign @"clear_route_cache" #0 #0 #32 #36))
           (call $s %e (call $now #40)) (call $s %f (i64.eqz (i64.load #40)))
           (call $s %g (call $get_status #40 #32 #36))"#,
    ));
    assert_eq!(fixture.statuses(), "a4 b1 c1 d0 e0 f0 g0");
}
