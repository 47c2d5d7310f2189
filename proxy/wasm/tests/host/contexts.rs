//! Local replies, continues, resets and contexts.

use outrigger_wasm::{Effect, HeadersAction, LocalReply, TrapKind};

use crate::fixture::{Fixture, effects, on, stream};

const REPLY: &str =
    r#"(call $reply #403 @"no access" @"go away" @"\01\00\00\00\03\00\00\00\01\00\00\00x-r\001\00" #7)"#;

#[test]
fn a_local_reply_is_queued_and_counts_once() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on(
        "request_headers",
        &format!(r#"(call $s %a {REPLY}) (call $s %b (call $reply #500 #0 #0 #0 #0 #0 #0 #-1)) (return #1)"#),
    ));
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::StopAllIterationAndWatermark));
    assert_eq!(fixture.statuses(), "a0 b0");
    let found = vm.take_effects();
    let [Effect::LocalReply { context, reply }] = &found[..] else { panic!("{found:?}") };
    assert_eq!(*context, stream.id);
    let LocalReply { status, details, headers, body, grpc_status } = &**reply;
    assert_eq!((*status, details.as_str(), &body[..], *grpc_status), (403, "no_access", &b"go away"[..], Some(7)));
    assert_eq!(headers.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["x-r"]);
}

#[test]
fn a_reply_to_the_response_replaces_an_earlier_one_and_none_comes_after_the_end() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        on("request_headers", &format!("(drop {REPLY})")),
        on(
            "response_headers",
            "(drop (call $reply #502 #0 #0 #0 #0 #0 #0 #99)) (drop (call $reply #503 #0 #0 #0 #0 #0 #0 #-1))",
        ),
        on("log", &format!("(call $s %a {REPLY}) (call $s %b (call $close #0)) (call $s %c (call $continue #0))")),
        on("done", &format!("(call $s %d {REPLY}) (call $s %e (call $close #1))")),
    ]
    .concat());
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, true).expect("no trap");
    stream.respond(403);
    vm.on_response_headers(stream.id, true).expect("no trap");
    assert_eq!(effects(&mut vm), ["reply 502 "]);
    vm.on_log(stream.id).expect("no trap");
    assert_eq!(effects(&mut vm), ["reset", "continue Request"]);
    vm.delete_stream(stream.id).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b0 c0 d0 e0");
    assert!(!vm.has_effects());
}

#[test]
fn replies_that_are_none_are_refused() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on(
        "request_headers",
        r#"(call $s %a (call $reply #99 #0 #0 #0 #0 #0 #0 #-1))
           (call $s %b (call $reply #100 #0 #0 #0 #0 #0 #0 #-1))
           (call $s %c (call $reply #1000 #0 #0 #0 #0 #0 #0 #-1))
           (call $s %d (call $reply #200 #0 #0 #-1 #2 #0 #0 #-1))
           (call $s %e (call $reply #200 #0 #0 #0 #0 @"\01\00\00\00\03\00\00\00\01\00\00\00x-r\00\0d\00" #-1))
           (call $s %f (call $reply #200 #0 #0 #0 #0 @"rubbish" #-1))"#,
    ));
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a2 b2 c2 d6 e2 f0");
    assert_eq!(effects(&mut vm), ["reply 200 "]);
}

#[test]
fn streams_and_root_are_entered_by_their_numbers() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        on(
            "vm_start",
            &format!("(drop (call $tick_period #10)) (call $s %a {REPLY}) (call $s %b (call $continue #0))"),
        ),
        on(
            "tick",
            r#"(call $s %c (call $effective #3)) (call $s %d (call $close #0))
                   (call $s %e (call $effective #1)) (call $s %f (call $close #0))
                   (call $s %g (call $effective #4)) (call $s %h (call $effective #0))
                   (call $s %i (call $effective #-1)) (call $s %j (call $continue #9))
                   (call $s %k (call $continue #3)) (call $s %l (call $close #9))"#,
        ),
    ]
    .concat());
    let (first, second) = (stream(&mut vm), stream(&mut vm));
    assert_eq!((first.id.get(), second.id.get()), (2, 3));
    vm.on_tick().expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b0 c0 d0 e0 f0 g2 h2 i2 j2 k0 l2");
    let found = vm.take_effects();
    assert!(matches!(found[..], [Effect::Reset { context }] if context == second.id), "{found:?}");
    vm.delete_stream(second.id).expect("no trap");
    vm.on_tick().expect("no trap");
    assert!(fixture.statuses().starts_with("a0 b0 c2 d0"), "{}", fixture.statuses());
    assert!(!vm.has_effects(), "on the root context there is nothing to close");
}

#[test]
fn a_context_that_is_gone_is_never_entered() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on("request_headers", "(unreachable)"));
    let stream = stream(&mut vm);
    vm.delete_stream(stream.id).expect("no trap");
    assert_eq!(vm.on_request_headers(stream.id, true), Ok(HeadersAction::Continue));
    assert_eq!(vm.delete_stream(stream.id), Ok(()));
    assert_eq!(vm.contexts(), 0);
}

#[test]
fn a_trap_fails_the_vm_for_all_its_streams() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&format!(
        r#"(func $inner (drop (call $log #5 @"panicked at the origin")) (unreachable))
           {}"#,
        on("request_headers", "(call $inner)")
    ));
    let (first, second) = (stream(&mut vm), stream(&mut vm));
    let trap = vm.on_request_headers(first.id, true).expect_err("unreachable");
    assert_eq!((trap.kind, trap.callback), (TrapKind::Unreachable, "proxy_on_request_headers"));
    assert!(trap.message.contains("panicked at the origin"), "{}", trap.message);
    assert_eq!(trap.backtrace.first().map(String::as_str), Some("inner"), "{:?}", trap.backtrace);
    assert_eq!(vm.failed(), Some(&trap));
    assert_eq!(vm.on_request_headers(second.id, true), Err(trap.clone()));
    assert_eq!(vm.on_response_headers(second.id, true), Err(trap.clone()));
    assert_eq!(vm.delete_stream(second.id), Err(trap.clone()));
    assert_eq!(vm.contexts(), 1, "a context is dropped all the same");
    assert!(vm.create_stream(second.state.clone()).is_err());
    assert!(vm.is_over() && vm.shutdown());
    let name = outrigger_stats::Name::new("wasm", "traps")
        .tag("wasm_plugin", "tested")
        .tag("wasm_revision", "000000000000")
        .tag("kind", "unreachable");
    assert_eq!(fixture.value(&name), Some(outrigger_stats::Value::Counter(1)));
}
