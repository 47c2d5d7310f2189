//! Network filters: the callbacks, buffers and hostcalls of a connection.

use bytes::Bytes;
use outrigger_wasm::{CloseType, NetworkAction, TrapKind};

use crate::fixture::{Fixture, connection, effects, on, stream};

#[test]
fn data_is_seen_changed_and_held() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        on("new_connection", "(call $s %a (call $buffer #2 #0 #99 #32 #36)) (call $s %b (i32.load #36)) (return #1)"),
        on(
            "downstream_data",
            r#"(call $s %c (local.get 1)) (call $s %d (call $buffer #2 #0 #99 #32 #36)) (call $keep %k)
               (call $s %e (call $buffer #0 #0 #99 #32 #36)) (call $s %f (i32.load #36))
               (call $s %g (call $set_buffer #0 #0 #0 @"no")) (call $s %h (call $set_buffer #3 #0 #0 @"no"))
               (if (i32.eqz (local.get 2)) (then (return #1)))
               (call $s %i (call $set_buffer #2 #0 #99 @"replaced"))"#,
        ),
        on(
            "upstream_data",
            r#"(call $s %j (call $set_buffer #3 #0 #0 @"> ")) (call $s %l (call $buffer_status #3 #32 #36))
               (call $s %m (i32.load #32)) (call $s %n (call $buffer_status #1 #32 #36))"#,
        ),
    ]
    .concat());
    let connection = connection(&mut vm);
    assert_eq!(vm.on_new_connection(connection.id), Ok(NetworkAction::StopIteration));
    connection.receive("hello ");
    assert_eq!(vm.on_downstream_data(connection.id, false), Ok(NetworkAction::StopIteration));
    assert_eq!(connection.kept("k").as_deref(), Some("hello "));
    connection.receive("world");
    assert_eq!(vm.on_downstream_data(connection.id, true), Ok(NetworkAction::Continue));
    assert_eq!(connection.kept("k").as_deref(), Some("hello world"));
    assert_eq!(connection.state.borrow().request_body.copy_range(0, 99), "replaced");
    connection.state.borrow_mut().response_body.push(Bytes::from_static(b"answer"));
    assert_eq!(vm.on_upstream_data(connection.id, true), Ok(NetworkAction::Continue));
    assert_eq!(connection.state.borrow().response_body.copy_range(0, 99), "> answer");
    assert_eq!(fixture.statuses(), "a0 b0 c11 d0 e0 f0 g2 h2 i0 j0 l0 m8 n0");
    assert!(effects(&mut vm).is_empty(), "a connection has no content-length to mend");
}

#[test]
fn streams_of_the_other_kind_are_not_there() {
    let fixture = Fixture::new();
    let all = r#"(call $s %a (call $continue #0)) (call $s %b (call $continue #1)) (call $s %c (call $continue #2))
                 (call $s %d (call $continue #3)) (call $s %e (call $continue #4)) (call $s %f (call $close #0))
                 (call $s %g (call $close #2)) (call $s %h (call $close #3)) (call $s %i (call $close #9))
                 (call $s %j (call $reply #403 #0 #0 #0 #0 #0 #0 #-1)) (call $s %k (call $get #0 @":path" #32 #36))
                 (call $s %l (call $add #0 @"x" @"1")) (call $s %m (call $property @"request\00path" #32 #36))
                 (call $s %n (call $property @"source\00address" #32 #36))"#;
    let mut vm = fixture.vm(&[on("downstream_data", all), on("request_headers", all)].concat());
    let connection = connection(&mut vm);
    connection.receive("x");
    vm.on_downstream_data(connection.id, false).expect("no trap");
    assert_eq!(fixture.statuses(), "a0 b0 c0 d0 e2 f0 g0 h0 i2 j0 k1 l2 m1 n0");
    assert_eq!(effects(&mut vm), ["continue Request", "continue Response", "close"]);
    let stream = stream(&mut vm);
    vm.on_request_headers(stream.id, true).expect("no trap");
    assert_eq!(effects(&mut vm), ["route", "continue Request", "continue Response", "reset", "reply 403 "]);
}

#[test]
fn closes_are_told_and_the_end_comes_in_order() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[
        "(global $at (mut i32) (i32.const 0)) (func $next (result i32)
           (global.set $at (i32.add (global.get $at) #1)) (global.get $at))"
            .to_owned(),
        on("downstream_connection_close", "(call $s %a (local.get 1)) (call $s %b (call $next))"),
        on("upstream_connection_close", "(call $s %c (local.get 1)) (call $s %d (call $next))"),
        on("done", "(call $s %e (call $next))"),
        on("log", r#"(call $s %f (call $next)) (call $s %g (call $property @"source\00port" #32 #36))"#),
        on("delete", "(call $s %h (call $next)) (call $s %i (call $close #2))"),
    ]
    .concat());
    let connection = connection(&mut vm);
    vm.on_upstream_connection_close(connection.id, CloseType::Unknown).expect("no trap");
    vm.on_downstream_connection_close(connection.id, CloseType::Remote).expect("no trap");
    vm.delete_connection(connection.id).expect("no trap");
    assert_eq!(fixture.statuses(), "a2 b2 c0 d1 e3 f4 g0 h5 i0");
    assert_eq!((vm.contexts(), effects(&mut vm)), (0, Vec::new()));
    // A context that is gone is skipped, whatever is asked.
    assert_eq!(vm.on_downstream_data(connection.id, true), Ok(NetworkAction::Continue));
    vm.on_downstream_connection_close(connection.id, CloseType::Local).expect("skipped");
    vm.delete_connection(connection.id).expect("skipped");
}

#[test]
fn a_trap_ends_the_connection_too_and_garbage_actions_stop() {
    let fixture = Fixture::new();
    let mut vm = fixture.vm(&[on("new_connection", "(return #77)"), on("downstream_data", "(unreachable)")].concat());
    let connection = connection(&mut vm);
    assert_eq!(vm.on_new_connection(connection.id), Ok(NetworkAction::StopIteration));
    let trap = vm.on_downstream_data(connection.id, false).expect_err("traps");
    assert_eq!((trap.kind, trap.callback), (TrapKind::Unreachable, "proxy_on_downstream_data"));
    assert!(vm.on_upstream_data(connection.id, false).is_err());
    assert!(vm.delete_connection(connection.id).is_err());
    assert_eq!(vm.contexts(), 0);
}
