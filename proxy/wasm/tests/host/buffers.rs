//! Bodies and configurations.

use bytes::Bytes;
use outrigger_wasm::{DataAction, Direction, Effect};

use crate::fixture::{Fixture, effects, on, stream};

#[test]
fn bodies_are_read_in_ranges() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&on(
        "request_body",
        r#"(call $s %a (call $buffer #0 #0 #-1 #32 #36)) (call $keep %a)
           (call $s %b (call $buffer #0 #2 #3 #32 #36)) (call $keep %b)
           (call $s %c (call $buffer #0 #-1 #-1 #32 #36)) (call $s %d (i32.load #36))
           (call $s %e (call $buffer #1 #0 #9 #32 #36)) (call $s %f (i32.load #36))
           (call $s %g (call $buffer #2 #0 #9 #32 #36))
           (call $s %h (call $buffer #4 #0 #9 #32 #36))
           (call $s %i (call $buffer #7 #0 #9 #32 #36))
           (call $s %j (call $buffer #8 #0 #9 #32 #36))
           (call $s %k (call $buffer #55 #0 #9 #32 #36))
           (call $s %l (call $buffer_status #0 #40 #44)) (call $s %m (i32.load #40))
           (call $s %n (call $buffer_status #1 #40 #44))
           (call $s %o (local.get 1)) (call $s %p (local.get 2))
           (return #1)"#,
    ));
    let stream = stream(&mut vm);
    for chunk in ["ab", "cdef", "g"] {
        stream.state.borrow_mut().request_body.push(Bytes::from_static(chunk.as_bytes()));
    }
    assert_eq!(vm.on_request_body(stream.id, true), Ok(DataAction::StopIterationAndBuffer));
    assert_eq!(fixture.statuses(), "a0 b0 c0 d0 e0 f0 g0 h1 i1 j0 k1 l0 m7 n0 o7 p1");
    assert_eq!(stream.kept("a").as_deref(), Some("abcdefg"));
    assert_eq!(stream.kept("b").as_deref(), Some("cde"));
    assert!(!vm.has_effects());
}

#[test]
fn bodies_are_edited_at_both_ends() {
    let check = |edit: &str, expected: &str, status: &str| {
        let fixture = Fixture::new();
        let mut vm = fixture.vm(&on("response_body", &format!("(call $s %a (call $set_buffer #1 {edit}))")));
        let stream = stream(&mut vm);
        stream.state.borrow_mut().response_body.push(Bytes::from_static(b"body"));
        assert_eq!(vm.on_response_body(stream.id, true), Ok(DataAction::Continue));
        assert_eq!(fixture.statuses(), status, "{edit}");
        let body = stream.state.borrow().response_body.copy_range(0, usize::MAX);
        assert_eq!(String::from_utf8_lossy(&body), expected, "{edit}");
        let changed = vm.take_effects();
        let is_changed = matches!(changed[..], [Effect::BodyChanged { direction: Direction::Response, .. }]);
        assert_eq!(is_changed, expected != "body", "{edit}");
    };
    check(r#"#0 #-1 @"new""#, "new", "a0");
    check(r#"#0 #4 @"longer than before""#, "longer than before", "a0");
    check(r#"#0 #0 @"pre""#, "prebody", "a0");
    check(r#"#0 #2 @"X""#, "Xdy", "a0");
    check(r#"#4 #0 @"post""#, "bodypost", "a0");
    check(r#"#99 #5 @"post""#, "bodypost", "a0");
    check(r#"#0 #-1 #0 #0"#, "", "a0");
    check(r#"#0 #0 #0 #0"#, "body", "a0");
    check(r#"#2 #1 @"X""#, "body", "a2");
    check(r#"#0 #-1 #262000 #9999"#, "body", "a6");
}

#[test]
fn bodies_are_bounded_and_closed_outside_of_their_phase() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        // 4 MiB + of guest memory, given as a body.
        on(
            "request_body",
            r#"(drop (memory.grow #64)) (call $s %a (call $set_buffer #0 #0 #0 #0 #2000000))
                   (call $s %b (call $set_buffer #1 #0 #0 @"x")) (call $s %c (call $set_buffer #7 #0 #0 @"x"))
                   (return #2)"#,
        ),
        on(
            "response_headers",
            r#"(call $s %d (call $set_buffer #1 #0 #0 @"x")) (call $s %e (call $set_buffer #0 #0 #0 @"y"))"#,
        ),
        on("response_body", "(return #3)"),
    ]
    .concat());
    let stream = stream(&mut vm);
    assert_eq!(vm.on_request_body(stream.id, false), Ok(DataAction::StopIterationAndWatermark));
    stream.respond(200);
    vm.on_response_headers(stream.id, false).expect("no trap");
    assert_eq!(fixture.statuses(), "a2 b2 c1 d2 e0", "the paused request's body is still open");
    assert_eq!(vm.on_response_body(stream.id, true), Ok(DataAction::StopIterationNoBuffer));
    assert_eq!(effects(&mut vm), ["body Request"]);
}

#[test]
fn configurations_are_there_while_their_callback_runs() {
    let fixture = Fixture::new();
    // The name of a metric is how a root context shows bytes here.
    let show = r#"(drop (call $define #0 (i32.load #32) (i32.load #36) #40))"#;
    let mut vm = fixture.vm(&[
        on("vm_start", &format!("(call $s %a (call $buffer #6 #0 #99 #32 #36)) (call $s %b (local.get 1)) {show}")),
        on("configure", &format!("(call $s %c (call $buffer #7 #7 #6 #32 #36)) (call $s %d (local.get 1)) {show}")),
        on(
            "request_headers",
            "(call $s %e (call $buffer #6 #0 #9 #32 #36)) (call $s %f (call $buffer #7 #0 #9 #32 #36))",
        ),
    ]
    .concat());
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b16 c0 d20 e0 f1");
    assert!(fixture.custom("vm configuration").is_some());
    assert!(fixture.custom("config").is_some());
}
