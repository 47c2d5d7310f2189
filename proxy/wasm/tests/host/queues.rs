//! Shared queues: between VMs and `vm_id`s, with `proxy_on_queue_ready`.

use std::task::{Context, Poll, Waker};

use outrigger_stats::{Name, Value};
use outrigger_wasm::{Limits, Tenant, Vm, VmConfig};

use crate::fixture::{Fixture, guest, in_vm, of_vm_id, on, plugin};

/// Runs what a VM is told of its queues.
fn deliver(vm: &mut Vm) -> usize {
    let events = vm.queue_events().expect("the guest has the callback");
    let mut delivered = 0;
    while let Poll::Ready((root, queue)) = events.poll(&mut Context::from_waker(Waker::noop())) {
        vm.on_queue_ready(root, queue).expect("no trap");
        delivered += 1;
    }
    delivered
}

#[test]
fn queues_are_written_and_read() {
    let fixture = Fixture::new();
    let _vm = fixture.vm(&on(
        "vm_start",
        r#"(call $s %a (call $resolve_queue @"vm" @"q" #40))
           (call $s %b (call $register_queue @"q" #40))
           (call $s %c (call $dequeue (i32.load #40) #32 #36))
           (call $s %d (call $enqueue (i32.load #40) @"message"))
           (call $s %k (call $dequeue (i32.load #40) #-1 #36)) (call $s %l (call $dequeue (i32.load #40) #32 #-1))
           (call $s %e (call $dequeue (i32.load #40) #32 #36)) (call $s %f (i32.load #36))
           (call $s %g (call $enqueue #999 @"message"))
           (call $s %h (call $dequeue #999 #32 #36))
           (call $s %i (call $resolve_queue @"other" @"q" #40))
           (call $s %j (call $resolve_queue @"vm" @"q" #40))
           (call $s %m (call $register_queue #-1 #1 #40)) (call $s %n (call $register_queue @"q" #-1))
           (call $s %o (call $enqueue (i32.load #40) #0 #0))
           (call $s %p (call $dequeue (i32.load #40) #32 #36)) (call $s %q (i32.or (i32.load #32) (i32.load #36)))"#,
    ));
    // A bad pointer loses no message; an empty message is one, for which nothing is allocated.
    assert_eq!(fixture.statuses(), "a1 b0 c7 d0 e0 f7 g1 h1 i1 j0 k6 l6 m6 n6 o0 p0 q0");
}

fn consumer() -> Vec<u8> {
    guest(
        &[
            on("configure", r#"(call $s %a (call $register_queue @"jobs" #40))"#),
            on(
                "queue_ready",
                r#"(call $s %b (call $dequeue (local.get 1) #32 #36)) (call $s %c (i32.load #36))
               (call $s %d (i32.eq (local.get 1) (i32.load #40)))"#,
            ),
        ]
        .concat(),
    )
}

#[test]
fn the_registrant_is_told_whoever_writes() {
    let fixture = Fixture::new();
    let mut reader = fixture.start(&consumer(), &of_vm_id("reader")).expect("starts");
    let writer = guest(&on(
        "configure",
        r#"(call $s %e (call $resolve_queue @"reader" @"jobs" #40)) (call $s %f (call $enqueue (i32.load #40) @"job"))"#,
    ));
    let _writer = fixture.start(&writer, &of_vm_id("writer")).expect("starts");
    assert_eq!(deliver(&mut reader), 1);
    assert_eq!(fixture.statuses(), "a0 b0 c3 d1 e0 f0");
    // A newer instance takes the queue over, with what waits in it.
    let _another = fixture.start(&writer, &of_vm_id("writer")).expect("starts");
    let mut newer = fixture.start(&consumer(), &of_vm_id("reader")).expect("starts");
    assert_eq!(deliver(&mut newer), 1);
    assert_eq!(deliver(&mut reader), 1, "it was told before; it finds the queue empty");
    assert!(fixture.statuses().contains("b7"), "{}", fixture.statuses());
}

#[test]
fn queues_go_with_the_last_vm_of_their_vm_id() {
    let fixture = Fixture::new();
    let reader = fixture.start(&consumer(), &of_vm_id("reader")).expect("starts");
    drop(reader);
    let resolve = guest(&on("configure", r#"(call $s %z (call $resolve_queue @"reader" @"jobs" #40))"#));
    let _vm = fixture.start(&resolve, &plugin()).expect("starts");
    assert_eq!(fixture.statuses(), "a0 z1");
}

#[test]
fn what_is_shared_outlives_an_instance_while_its_plugin_is_held() {
    let fixture = Fixture::new();
    let plugin = of_vm_id("reader");
    let held = Tenant::new(&fixture.services, &plugin);
    let find = guest(&on(
        "configure",
        r#"(call $s %a (call $register_queue @"jobs" #40)) (call $s %b (call $dequeue (i32.load #40) #32 #36))
           (call $s %c (call $shared @"k" #32 #36 #44))
           (drop (call $set_shared @"k" @"v" #0)) (drop (call $enqueue (i32.load #40) @"job"))"#,
    ));
    let found = || {
        let _vm = fixture.start(&find, &plugin).expect("starts");
        fixture.statuses()
    };
    assert_eq!([found(), found()], ["a0 b7 c1", "a0 b0 c0"]);
    drop(held);
    assert_eq!(found(), "a0 b7 c1", "a plugin that was taken away and comes back begins anew");
}

#[test]
fn a_queue_that_nobody_reads_stays_small_and_a_canary_touches_none() {
    let fixture = Fixture::new();
    let flood = guest(&on(
        "configure",
        r#"(local i32) (drop (call $register_queue @"q" #40)) (local.set 2 #30)
           (loop (drop (call $enqueue (i32.load #40) #0 #100000))
             (br_if 0 (local.tee 2 (i32.sub (local.get 2) #1))))"#,
    ));
    let _canary = fixture.canary(&flood, &plugin()).expect("starts");
    let dropped =
        Name::new("wasm", "queue_messages_dropped").tag("wasm_plugin", "tested").tag("wasm_revision", "000000000000");
    assert_eq!(fixture.value(&dropped), None);
    let vm = fixture.start(&flood, &plugin()).expect("starts");
    assert_eq!(fixture.value(&dropped), Some(Value::Counter(20)), "a mebibyte holds ten");
    drop(vm);
}

#[test]
fn what_one_plugin_puts_into_queues_that_none_reads_ends_at_its_own_limits() {
    let fixture = Fixture::new();
    let limits =
        Limits { shared_queues: 1, shared_queue_bytes: 250_000, shared_queue_messages: 20, ..Limits::default() };
    let mut reader = fixture.start(&consumer(), &of_vm_id("reader")).expect("starts");
    let flood = |message: &str| {
        format!(
            "(local.set 2 #30) (loop (call $s %k (call $enqueue (i32.load #44) {message}))
               (br_if 0 (local.tee 2 (i32.sub (local.get 2) #1))))"
        )
    };
    let filler = guest(&on(
        "configure",
        &format!(
            r#"(local i32) (call $s %g (call $register_queue @"q" #44)) (call $s %h (call $register_queue @"r" #40))
               {} {}
               ;; A queue of others takes what it takes from anybody.
               (call $s %i (call $resolve_queue @"reader" @"jobs" #40))
               (call $s %j (call $enqueue (i32.load #40) #0 #60000)) (call $s %j (call $enqueue (i32.load #40) @"job"))"#,
            flood("#0 #100000"),
            flood("#0 #0"),
        ),
    ));
    let plugin = in_vm(VmConfig { vm_id: "filler".to_owned(), limits, ..VmConfig::default() });
    let vm = fixture.start(&filler, &plugin).expect("starts");
    // The status of a full queue is one that SDKs survive; that of one queue too many can't be (they take no other than Ok).
    assert_eq!(fixture.statuses(), "a0 g0 h10 i0 j0 k0");
    let dropped =
        Name::new("wasm", "queue_messages_dropped").tag("wasm_plugin", "tested").tag("wasm_revision", "000000000000");
    // Two of the first thirty stay, and of the next thirty the last twenty of them all.
    assert_eq!(fixture.value(&dropped), Some(Value::Counter(28 + 12)));
    assert_eq!(deliver(&mut reader), 2);
    assert!(fixture.statuses().contains("b0 c3"), "{}", fixture.statuses());
    drop(vm);
}
