//! `outrigger-proxy compile`: a module in, machine code out. The proxy runs it as a child for modules that it gets, and a
//! control plane for a fleet; then the module is on standard input.
//!
//! It takes memory in proportion to the module, and its input is hostile; so it bounds itself before it reads a byte, and
//! is the first to go when memory is short. The parent sees which of the two happened by [`meaning`].

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{ExitCode, ExitStatus};
use std::time::Duration;

use anyhow::Context;
use outrigger_proto::machine_code;
use outrigger_proto::pb::outrigger::code::v1::{Envelope, Header};
use prost::Message;
use tempfile::NamedTempFile;

use crate::args::CompileArgs;
use crate::cache::digest;
use crate::child::PARENT;
use crate::fetch::MODULE_BYTES_MAX;
use crate::system;

/// Exit code of a module that does not compile; the reason is on standard error.
const REFUSED: u8 = 2;
/// CPU time, far beyond what the largest module takes.
const CPU_TIME_MAX: Duration = Duration::from_secs(600);
/// How long the parent waits: more than the CPU time, since the child runs only when nobody else wants the CPU.
pub(crate) const TIME_MAX: Duration = Duration::from_secs(900);

/// Runs in the child.
pub(crate) fn run(arguments: &CompileArgs) -> ExitCode {
    match compile(arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // The parent reads it.
            _ = writeln!(std::io::stderr(), "{error:#}");
            ExitCode::from(REFUSED)
        }
    }
}

fn compile(arguments: &CompileArgs) -> anyhow::Result<()> {
    bound(arguments.memory_bytes)?;
    let wasm = match &arguments.module {
        Some(path) => read(File::open(path).with_context(|| path.display().to_string())?)?,
        None => read(std::io::stdin().lock())?,
    };
    let engine = outrigger_wasm::Engine::new()?;
    let code = engine.compile(&wasm)?;
    let before = if arguments.raw { Vec::new() } else { before(&engine, &wasm, &code)? };
    match &arguments.output {
        Some(path) => replace(path, &before, &code).with_context(|| path.display().to_string())?,
        None => {
            let mut stdout = std::io::stdout().lock();
            stdout.write_all(&before)?;
            stdout.write_all(&code)?;
            stdout.flush()?;
        }
    }
    Ok(())
}

fn read(from: impl Read) -> anyhow::Result<Vec<u8>> {
    let mut wasm = Vec::new();
    from.take(MODULE_BYTES_MAX as u64 + 1).read_to_end(&mut wasm)?;
    anyhow::ensure!(wasm.len() <= MODULE_BYTES_MAX, "the module has more than {MODULE_BYTES_MAX} bytes");
    Ok(wasm)
}

/// What the code is and for whom, unsigned.
fn before(engine: &outrigger_wasm::Engine, wasm: &[u8], code: &[u8]) -> anyhow::Result<Vec<u8>> {
    let header = Header {
        module_sha256: digest(wasm).to_vec(),
        engine: engine.compatibility(),
        target: format!("{}-{}", std::env::consts::ARCH, std::env::consts::OS),
        compiler: format!("outrigger-proxy {}", env!("CARGO_PKG_VERSION")),
        code_sha256: digest(code).to_vec(),
        code_bytes: code.len() as u64,
    };
    let envelope = Envelope { header: header.encode_to_vec(), ..Envelope::default() };
    machine_code::encode(&envelope).context("the header is too large")
}

/// Whoever looks never sees half of it.
fn replace(path: &Path, before: &[u8], code: &[u8]) -> anyhow::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or_else(|| Path::new("."));
    let mut file = NamedTempFile::with_prefix_in(".outrigger", folder)?;
    file.write_all(before)?;
    file.write_all(code)?;
    file.persist(path)?;
    Ok(())
}

fn bound(memory_bytes: u64) -> std::io::Result<()> {
    system::disable_core_files()?;
    system::limit_cpu_time(CPU_TIME_MAX)?;
    system::limit_address_space(memory_bytes)?;
    let parent = std::env::var(PARENT).ok().and_then(|parent| parent.parse().ok());
    if let Some(parent) = parent {
        system::end_with_parent(parent)?;
        system::lowest_priority()?;
    }
    Ok(())
}

/// What a child's end says, for whoever sent the module; `None`: it succeeded.
pub(crate) fn meaning(status: ExitStatus, stderr: &str, memory_bytes: u64) -> Option<String> {
    let short =
        || format!("too little memory to compile the module: the compiler may use {} MiB here", memory_bytes >> 20);
    if status.success() {
        return None;
    }
    if status.code() == Some(i32::from(REFUSED)) {
        return Some(stderr.trim().to_owned());
    }
    Some(match status.signal() {
        Some(libc::SIGKILL) => short(),
        Some(libc::SIGXCPU) => format!("the module takes more than {} s to compile", CPU_TIME_MAX.as_secs()),
        // What Rust's runtime and jemalloc say before they abort, and how threads that cannot start look.
        _ if ["memory allocation of", "Cannot allocate memory", "out of memory"]
            .iter()
            .any(|text| stderr.contains(text)) =>
        {
            short()
        }
        _ => {
            let last = stderr.lines().next_back().unwrap_or_default();
            format!("the compiler ended with {status}: {}", last.chars().take(300).collect::<String>())
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ends_are_explained() {
        let code = |code: i32| ExitStatus::from_raw(code << 8);
        let table = [
            (code(0), "", None),
            (code(2), "not a Wasm module: x\n", Some("not a Wasm module: x")),
            (ExitStatus::from_raw(libc::SIGKILL), "", Some("may use 512 MiB")),
            (ExitStatus::from_raw(libc::SIGABRT), "memory allocation of 9 bytes failed", Some("may use 512 MiB")),
            (ExitStatus::from_raw(libc::SIGXCPU), "", Some("more than 600 s")),
            (code(101), "a\nthread panicked", Some("thread panicked")),
        ];
        for (status, stderr, expected) in table {
            let meaning = meaning(status, stderr, 512 << 20);
            match expected {
                None => assert_eq!(meaning, None),
                Some(part) => assert!(meaning.as_deref().is_some_and(|text| text.contains(part)), "{meaning:?}"),
            }
        }
    }
}
