//! Wasm modules for tests: variants of real filters, and broken ones.

use std::path::Path;

use anyhow::{Context, Result};
use sha2::{Digest, Sha256};

/// The same code with other bytes (and so another digest): a custom section with `counter` at the end.
pub fn variant(module: &[u8], counter: u64) -> Vec<u8> {
    let name = b"outrigger-variant";
    let mut payload = vec![u8::try_from(name.len()).unwrap_or_default()];
    payload.extend_from_slice(name);
    payload.extend_from_slice(&counter.to_le_bytes());
    let mut bytes = module.to_vec();
    bytes.push(0);
    bytes.push(u8::try_from(payload.len()).unwrap_or_default());
    bytes.extend_from_slice(&payload);
    bytes
}

/// The digest in lower-case hexadecimal.
pub fn sha256(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Reads a module.
pub fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).with_context(|| format!("{}", path.display()))
}

/// What a broken filter does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Traps in every `proxy_on_request_headers`.
    TrapOnRequest,
    /// Never returns from `proxy_on_request_headers`.
    LoopOnRequest,
    /// Grows its memory without end in `proxy_on_request_headers`, and traps if it can't.
    AllocateOnRequest,
    /// Traps in `proxy_on_configure`.
    TrapOnConfigure,
    /// Never returns from `proxy_on_configure`.
    LoopOnConfigure,
    /// Answers `proxy_on_configure` with false.
    RefuseConfiguration,
    /// Imports a function that no host has.
    UnknownImport,
}

/// A filter in the text format that has exactly this fault; otherwise it does nothing.
pub fn faulty(fault: Fault) -> String {
    let request = match fault {
        Fault::TrapOnRequest => "unreachable",
        Fault::LoopOnRequest => "(loop $l (br $l)) i32.const 0",
        Fault::AllocateOnRequest => {
            "(loop $l (br_if $l (i32.ne (memory.grow (i32.const 16)) (i32.const -1)))) unreachable"
        }
        _ => "i32.const 0",
    };
    let configure = match fault {
        Fault::TrapOnConfigure => "unreachable",
        Fault::LoopOnConfigure => "(loop $l (br $l)) i32.const 1",
        Fault::RefuseConfiguration => "i32.const 0",
        _ => "i32.const 1",
    };
    let import = match fault {
        Fault::UnknownImport => r#"(import "env" "proxy_no_host_has_this" (func (param i32) (result i32)))"#,
        _ => "",
    };
    format!(
        r#"(module
  {import}
  (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 1024)
  (func (export "malloc") (param i32) (result i32) i32.const 1024)
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) i32.const 1)
  (func (export "proxy_on_configure") (param i32 i32) (result i32) {configure})
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) {request})
  (func (export "proxy_on_done") (param i32) (result i32) i32.const 1)
  (func (export "proxy_on_delete") (param i32)))"#
    )
}

/// A filter that takes its time over a configuration of up to 64 bytes (about a millisecond, more than a worker gives it),
/// and that answers every request with the configuration of its root context.
pub fn slow_to_configure() -> String {
    r#"(module
  (import "env" "proxy_get_buffer_bytes" (func $buffer (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_send_local_response"
    (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 8)
  (global $root (mut i32) (i32.const 0))
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) i32.const 1024)
  (func $slot (param $root i32) (result i32)
    (i32.add (i32.const 65536) (i32.mul (i32.const 68) (i32.rem_u (local.get $root) (i32.const 6000)))))
  (func (export "proxy_on_configure") (param $root i32) (param $length i32) (result i32) (local $left i32)
    (local.set $left (i32.const 2000000))
    (loop $l (br_if $l (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))
    (drop (call $buffer (i32.const 7) (i32.const 0) (local.get $length) (i32.const 8) (i32.const 12)))
    (i32.store (call $slot (local.get $root)) (local.get $length))
    (memory.copy (i32.add (call $slot (local.get $root)) (i32.const 4)) (i32.load (i32.const 8)) (local.get $length))
    i32.const 1)
  (func (export "proxy_on_context_create") (param $context i32) (param $root i32)
    (if (local.get $root) (then (global.set $root (local.get $root)))))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $slot i32)
    (local.set $slot (call $slot (global.get $root)))
    (drop (call $reply (i32.const 200) (i32.const 0) (i32.const 0)
      (i32.add (local.get $slot) (i32.const 4)) (i32.load (local.get $slot)) (i32.const 0) (i32.const 0) (i32.const -1)))
    i32.const 1))"#
        .to_owned()
}
