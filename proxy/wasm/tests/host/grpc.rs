//! gRPC calls and streams, as far as the host goes: what is asked for, and what the guest sees of the answers.

use std::time::Duration;

use bytes::Bytes;
use outrigger_http::{HeaderName, Headers};
use outrigger_wasm::{Effect, GrpcEvent};

use crate::fixture::{Fixture, OneVm, effects, on};

const METADATA: &str = r#"@"\01\00\00\00\03\00\00\00\01\00\00\00x-m\001\00""#;

/// The callbacks report under their letters.
fn callbacks() -> String {
    [
        on(
            "grpc_receive_initial_metadata",
            r#"(call $s %h (local.get 2)) (call $s %i (call $get #4 @"x-a" #32 #36)) (call $s %j (i32.load #36))
               (call $s %k (call $get #5 @"x-a" #32 #36)) (call $s %l (call $add #4 @"x" @"1"))"#,
        ),
        on(
            "grpc_receive",
            r#"(call $s %m (local.get 2)) (call $s %n (call $buffer #5 #0 #99 #32 #36)) (call $s %o (i32.load #36))
               (call $s %p (call $pairs #4 #32 #36)) (call $s %q (i32.load #36))
               (call $s %r (call $set_buffer #5 #0 #0 @"x"))"#,
        ),
        on(
            "grpc_receive_trailing_metadata",
            r#"(call $s %t (local.get 2)) (call $s %u (call $get #5 @"x-a" #32 #36))"#,
        ),
        on(
            "grpc_close",
            r#"(call $s %v (local.get 2)) (call $s %w (call $get_status #40 #32 #36)) (call $s %x (i32.load #40))
               (call $s %y (i32.load #36)) (call $s %z (call $buffer #5 #0 #99 #32 #36))"#,
        ),
    ]
    .concat()
}

fn ticking(body: &str) -> String {
    [on("configure", "(drop (call $tick_period #100))"), on("tick", body), callbacks()].concat()
}

fn tick(vm: &mut OneVm) {
    vm.on_tick().expect("no trap");
}

fn headers() -> Headers {
    let mut headers = Headers::new();
    headers.append(HeaderName::from_bytes(b"x-a").expect("a token"), Bytes::from_static(b"value"));
    headers
}

#[test]
fn a_call_is_asked_for_and_its_answer_is_one_message() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&ticking(&format!(
        r#"(call $s %a (call $grpc_call @"known" @"pkg.Service" @"Method" {METADATA} @"question" #250 #44))
           (call $s %b (call $grpc_send (i32.load #44) #0 #0 #0))"#
    )));
    tick(&mut vm);
    assert_eq!(fixture.statuses(), "a0 b2", "nothing is sent into a call");
    let found = vm.take_effects();
    let [Effect::GrpcOpen(open)] = &found[..] else { panic!("{found:?}") };
    assert_eq!((open.cluster.as_str(), open.authority.as_str()), ("known", "known"));
    assert_eq!((open.service.as_str(), open.method.as_str()), ("pkg.Service", "Method"));
    assert_eq!((open.message.as_deref(), open.timeout), (Some(&b"question"[..]), Some(Duration::from_millis(250))));
    assert_eq!(open.metadata.len(), 1);
    vm.on_grpc(open.token, GrpcEvent::InitialMetadata(headers())).expect("not shown");
    vm.on_grpc(open.token, GrpcEvent::Message(Bytes::from_static(b"answer"))).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b2 m6 n0 o6 p0 q0 r2", "maps 4 and 5 are empty");
    vm.on_grpc(open.token, GrpcEvent::Message(Bytes::from_static(b"again"))).expect("over");
    vm.on_grpc(open.token, GrpcEvent::Close { status: 0, message: String::new() }).expect("over");
    assert_eq!(fixture.statuses(), "a0 b2 m6 n0 o6 p0 q0 r2");
}

#[test]
fn a_failed_call_is_closed_with_its_status() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&ticking(r#"(call $s %a (call $grpc_call @"known" @"s" @"m" #0 #0 #0 #0 #0 #44))"#));
    tick(&mut vm);
    assert_eq!(effects(&mut vm), ["grpc known 1"]);
    vm.on_grpc(1, GrpcEvent::Close { status: 14, message: "down".to_owned() }).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 v14 w0 x14 y4 z0");
}

#[test]
fn a_stream_sends_receives_and_is_closed() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&ticking(&format!(
        r#"(call $s %a (call $grpc_stream @"known" @"s" @"m" {METADATA} #44))
           (call $s %b (call $grpc_send (i32.load #44) @"one" #0))
           (call $s %c (call $grpc_send (i32.load #44) #0 #0 #0))
           (call $s %d (call $grpc_close (i32.load #44)))
           (call $s %e (call $grpc_close #77)) (call $s %f (call $grpc_cancel #77))
           (call $s %g (call $grpc_send #77 @"x" #0))"#
    )));
    tick(&mut vm);
    assert_eq!(fixture.statuses(), "a0 b0 c0 d0 e1 f1 g1");
    assert_eq!(
        effects(&mut vm),
        ["grpc known 1", r#"send 1 Some(b"one") false"#, r#"send 1 Some(b"") false"#, "send 1 None true"]
    );
    vm.on_grpc(1, GrpcEvent::InitialMetadata(headers())).expect("no trap");
    vm.on_grpc(1, GrpcEvent::Message(Bytes::new())).expect("no trap");
    vm.on_grpc(1, GrpcEvent::Message(Bytes::from_static(b"m"))).expect("no trap");
    vm.on_grpc(1, GrpcEvent::TrailingMetadata(headers())).expect("no trap");
    vm.on_grpc(1, GrpcEvent::Close { status: 0, message: String::new() }).expect("no trap");
    let expected = "a0 b0 c0 d0 e1 f1 g1 h1 i0 j5 k1 l2 m1 n0 o1 p0 q0 r2 t1 u0 v0 w0 x0 y0 z0";
    assert_eq!(fixture.statuses(), expected);
    vm.on_grpc(1, GrpcEvent::Message(Bytes::from_static(b"late"))).expect("over");
    assert_eq!(fixture.statuses(), expected);
}

#[test]
fn what_is_cancelled_is_never_answered() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&ticking(
        r#"(drop (call $grpc_stream @"known" @"s" @"m" #0 #0 #44)) (call $s %a (call $grpc_cancel (i32.load #44)))
           (call $s %b (call $grpc_cancel (i32.load #44))) (call $s %c (call $grpc_send (i32.load #44) @"x" #1))
           (drop (call $grpc_call @"known" @"s" @"m" #0 #0 #0 #0 #0 #44)) (call $s %d (call $grpc_close (i32.load #44)))
           (call $s %e (call $grpc_close (i32.load #44)))"#,
    ));
    tick(&mut vm);
    assert_eq!(effects(&mut vm), ["grpc known 1", "cancel 1", "grpc known 2", "cancel 2"]);
    vm.on_grpc(1, GrpcEvent::Message(Bytes::new())).expect("nobody waits");
    vm.on_grpc(2, GrpcEvent::Close { status: 1, message: String::new() }).expect("nobody waits");
    assert_eq!(fixture.statuses(), "a0 b1 c1 d0 e1");
}

#[test]
fn what_cannot_be_opened_is_refused() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&ticking(
        r#"(call $s %a (call $grpc_call @"unknown" @"s" @"m" #0 #0 #0 #0 #0 #44))
           (call $s %b (call $grpc_call @"known" #0 #0 @"m" #0 #0 #0 #0 #0 #44))
           (call $s %c (call $grpc_call @"known" @"a/b" @"m" #0 #0 #0 #0 #0 #44))
           (call $s %d (call $grpc_call @"known" @"s" @"m\0d\0a" #0 #0 #0 #0 #0 #44))
           (call $s %e (call $grpc_call @"known" @"s" @"m" @"rubbish" #0 #0 #0 #44))
           (call $s %f (call $grpc_call @"known" @"s" @"m" #0 #0 #0 #0 #0 #-1))
           (call $s %g (call $grpc_call @"known" @"s" @"m" #0 #0 #-1 #9 #0 #44))
           (call $s %h (call $grpc_call @"known" @"s" @"m" #0 #0 #0 #200000 #0 #44))
           (call $s %i (call $grpc_stream @"\0a\09\0a\05known\12\00" @"s" @"m" #0 #0 #44))
           (call $s %j (call $grpc_stream @"\0a\09\0a\05other\12\00" @"s" @"m" #0 #0 #44))
           (call $s %k (call $grpc_stream @"\12\02\0a\00" @"s" @"m" #0 #0 #44))
           (call $s %l (call $grpc_stream #0 #0 @"s" @"m" #0 #0 #44))"#,
    ));
    tick(&mut vm);
    assert_eq!(fixture.statuses(), "a4 b4 c4 d4 e4 f6 g6 h0 i0 j4 k4 l4");
    assert_eq!(effects(&mut vm), ["grpc known 1", "grpc known 2"]);
}
