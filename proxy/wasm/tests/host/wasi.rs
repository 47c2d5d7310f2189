//! WASI preview 1, under both of its names.

use crate::fixture::{Fixture, plugin, raw};

#[test]
fn wasi_answers_what_runtimes_expect() {
    for module in ["wasi_snapshot_preview1", "wasi_unstable"] {
        let fixture = Fixture::new();
        let wasm = raw(&format!(
            r#"(import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
               (import "env" "proxy_record_metric" (func $record (param i32 i64) (result i32)))
               (import "{module}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
               (import "{module}" "clock_time_get" (func $clock (param i32 i64 i32) (result i32)))
               (import "{module}" "random_get" (func $random (param i32 i32) (result i32)))
               (import "{module}" "environ_sizes_get" (func $environ_sizes (param i32 i32) (result i32)))
               (import "{module}" "environ_get" (func $environ (param i32 i32) (result i32)))
               (import "{module}" "args_sizes_get" (func $args (param i32 i32) (result i32)))
               (import "{module}" "fd_prestat_get" (func $prestat (param i32 i32) (result i32)))
               (import "{module}" "fd_fdstat_get" (func $fdstat (param i32 i32) (result i32)))
               (import "{module}" "poll_oneoff" (func $poll (param i32 i32 i32 i32) (result i32)))
               (import "{module}" "sched_yield" (func $yield (result i32)))
               (import "{module}" "path_open"
                 (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
               (memory (export "memory") 2) (func (export "malloc") (param i32) (result i32) #8)
               (func (export "proxy_abi_version_0_2_0"))
               (func $s (param $letter i32) (param $status i32)
                 (i32.store8 #16 (local.get $letter))
                 (drop (call $define #1 #16 #1 #8))
                 (drop (call $record (i32.load #8) (i64.extend_i32_s (local.get $status)))))
               (func (export "_initialize")
                 (i64.store #64 (i64.const 0x0000000500000400)) (i64.store #72 (i64.const 0x0000000200000400))
                 (call $s %a (call $write #1 #64 #2 #40)) (call $s %b (i32.load #40))
                 (call $s %c (call $write #3 #64 #2 #40)) (call $s %d (call $write #2 #131070 #1 #40))
                 (call $s %e (call $clock #0 (i64.const 0) #40)) (call $s %f (i64.eqz (i64.load #40)))
                 (call $s %g (call $clock #1 (i64.const 0) #40)) (call $s %h (i64.eqz (i64.load #40)))
                 (call $s %i (call $clock #2 (i64.const 0) #40)) (call $s %j (call $clock #0 (i64.const 0) #-1))
                 (call $s %k (call $random #0x1000 #64)) (call $s %l (call $random #0 #99999)) (call $s %m (call $random #-1 #9))
                 (call $s %n (call $environ_sizes #40 #44)) (call $s %o (i32.load #40)) (call $s %p (i32.load #44))
                 (call $s %q (call $environ #80 #96)) (call $s %r (i32.sub (i32.load #84) (i32.load #80)))
                 (call $s %t (i32.load8_u (i32.load #84)))
                 (call $s %u (call $args #40 #44)) (call $s %v (call $prestat #3 #40))
                 (call $s %w (i32.or (call $fdstat #1 #80) (i32.shl (call $fdstat #5 #80) #8)))
                 (call $s %x (call $poll #0 #0 #1 #40)) (call $s %y (call $yield))
                 (call $s %z (call $open #0 #0 #0 #0 #0 (i64.const 0) (i64.const 0) #0 #0)))"#
        ).replace("#0x1000", "(i32.const 4096)"));
        let _vm = fixture.start(&wasm, &plugin()).unwrap_or_else(|error| panic!("{error}"));
        let expected = "a0 b7 c8 d21 e0 f0 g0 h0 i58 j21 k0 l28 m21 n0 o2 p15 q0 r4 t76 u0 v8 w2048 x0 y0 z44";
        assert_eq!(fixture.statuses(), expected, "{module}");
    }
}
