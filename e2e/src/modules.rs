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
