//! What is taken as a plugin and what isn't.

use outrigger_wasm::{Abi, Code, CompileError, LoadError};

use crate::fixture::{Fixture, engine, load, plugin, raw};

const REST: &str = r#"(memory (export "memory") 1) (func (export "malloc") (param i32) (result i32) #8)
                      (func (export "proxy_abi_version_0_2_1"))"#;

fn message(body: &str) -> String {
    load(&raw(body)).map(|_| ()).expect_err("is refused").to_string()
}

#[test]
fn what_is_no_module_does_not_compile() {
    let error = |wasm: &[u8]| engine().compile(wasm).expect_err("does not compile");
    assert!(matches!(error(b""), CompileError::NotWasm { .. }));
    assert!(matches!(error(b"hello, world"), CompileError::NotWasm { .. }));
    assert!(error(b"\0asm\x0d\0\x01\0").to_string().contains("component"));
    assert!(matches!(error(b"\0asm\x01\0\0\0rubbish"), CompileError::Invalid { .. }));
    assert!(matches!(error(&vec![0; 65 << 20]), CompileError::TooLarge { .. }));
}

#[test]
fn rubbish_is_no_machine_code() {
    assert!(matches!(engine().load(Code::Bytes(b"rubbish".to_vec())), Err(LoadError::Code { .. })));
    assert!(matches!(engine().load(Code::File("/nowhere".into())), Err(LoadError::Code { .. })));
}

#[test]
fn machine_code_is_mapped_from_a_file() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("module.cwasm");
    std::fs::write(&path, engine().compile(&raw(REST)).expect("compiles")).expect("written");
    let module = engine().load(Code::File(path)).expect("loads");
    assert_eq!((module.abi(), module.memory_bytes_min(), module.warnings().len()), (Abi::V0_2_1, 65536, 0));
    assert_eq!(engine().compatibility(), outrigger_wasm::Engine::new().expect("an engine").compatibility());
}

#[test]
fn plugins_announce_an_abi_and_export_memory_and_allocator() {
    assert!(message(r#"(memory (export "memory") 1)"#).starts_with("announces no Proxy-Wasm ABI"));
    assert!(message(r#"(func (export "proxy_abi_version_0_3_0"))"#).ends_with("(but proxy_abi_version_0_3_0)"));
    assert_eq!(message(r#"(func (export "proxy_abi_version_0_2_1"))"#), "exports no memory named \"memory\"");
    assert!(
        message(r#"(memory (export "memory") 1) (func (export "proxy_abi_version_0_2_0"))"#)
            .starts_with("exports no allocator")
    );
    assert!(
        message(&format!(r#"{REST} (func (export "proxy_on_tick"))"#))
            .starts_with("exports proxy_on_tick as (), expected a function of 1 i32")
    );
    assert!(message(&format!(r#"{REST} (global (export "proxy_on_log") i32 #1)"#)).contains("no function"));
    assert!(
        message(&format!(r#"{REST} (func (export "proxy_on_request_headers") (param i32) (result i32) #0)"#))
            .contains("2 or 3")
    );
    assert!(
        message(
            r#"(memory (export "memory") i64 1) (func (export "malloc") (param i32) (result i32) #8)
               (func (export "proxy_abi_version_0_2_1"))"#
        )
        .contains("expected a 32-bit memory")
    );
}

#[test]
fn imports_that_no_host_has_are_refused_by_name() {
    assert_eq!(
        message(&format!(r#"(import "env" "proxy_foo" (func)) {REST}"#)),
        "imports env.proxy_foo, which no host offers"
    );
    assert_eq!(
        message(&format!(r#"(import "wasi_snapshot_preview1" "foo" (func)) {REST}"#)),
        "imports wasi_snapshot_preview1.foo, which no host offers"
    );
    assert_eq!(
        message(&format!(r#"(import "other" "proxy_log" (func)) {REST}"#)),
        "imports other.proxy_log, which no host offers"
    );
    assert_eq!(message(&format!(r#"(import "env" "g" (global i32)) {REST}"#)), "imports env.g, which is no function");
}

#[test]
fn imports_that_are_declared_otherwise_answer_unimplemented() {
    let fixture = Fixture::new();
    // AssemblyScript's gRPC call, imports of another host and of somebody's own, and a result of another type.
    let wasm = raw(&format!(
        r#"(import "env" "proxy_grpc_call"
             (func $grpc (param i32 i32 i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
           (import "env" "proxy_redis_call" (func $redis (param i32 f64) (result i32)))
           (import "env" "our_own" (func $own (param i64) (result i32)))
           (import "env" "proxy_done" (func $done (result i64)))
           (import "wasi_unstable" "fd_close" (func $close (param i64) (result i32)))
           {REST}
           (func (export "proxy_on_configure") (param i32 i32) (result i32)
             (if (i32.ne (call $grpc #0 #0 #0 #0 #0 #0 #0 #0 #0 #0) #12) (then (return #0)))
             (if (i32.ne (call $redis #0 (f64.const 1)) #12) (then (return #0)))
             (if (i32.ne (call $own (i64.const 1)) #12) (then (return #0)))
             (if (i64.ne (call $done) (i64.const 0)) (then (return #0)))
             (i32.eq (call $close (i64.const 1)) #58))"#
    ));
    let module = load(&wasm).expect("loads");
    assert_eq!(module.warnings().len(), 5, "{:?}", module.warnings());
    assert!(module.warnings()[0].starts_with("env.proxy_grpc_call is imported as (i32, i32"));
    fixture.start(&wasm, &plugin()).unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn duplicate_imports_are_fine() {
    let fixture = Fixture::new();
    let write = r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32 i32 i32 i32) (result i32)))"#;
    fixture.start(&raw(&format!("{write}{write}{write}{REST}")), &plugin()).unwrap_or_else(|error| panic!("{error}"));
    let other = r#"(import "wasi_snapshot_preview1" "fd_write" (func (param i32) (result i32)))"#;
    assert!(message(&format!("{write}{other}{REST}")).starts_with("does not link"));
}

#[test]
fn what_newer_toolchains_emit_loads() {
    let check = |what: &str, body: &str| {
        assert!(load(&raw(&format!("{REST} {body}"))).is_ok(), "{what}: {}", message(&format!("{REST} {body}")));
    };
    check("a second memory", "(memory 1)");
    check("a second memory of 64 bits", "(memory i64 1)");
    check("tail calls", "(func $f (result i32) (return_call $f))");
    check("vectors", "(func (result v128) (i32x4.splat #1))");
    check(
        "relaxed vectors",
        "(func (param v128 v128) (result v128) (i8x16.relaxed_swizzle (local.get 0) (local.get 1)))",
    );
    check("references", "(table 1 externref) (func (result funcref) (ref.null func))");
    check("function references", "(type $t (func)) (func (param (ref $t)) (call_ref $t (local.get 0)))");
    check("garbage collection", "(type $s (struct (field i32))) (func (result (ref $s)) (struct.new $s #1))");
    check("exceptions", "(tag $e) (func (block $b (try_table (catch_all $b) (throw $e))))");
    // A guest is one thread's: what waits on others would wait for ever.
    let threads = raw(&format!("{REST} (memory 1 1 shared)"));
    assert!(engine().compile(&threads).expect_err("no threads").to_string().contains("threads"));
}
