//! The tests' guest, built with four SDKs (`e2e/peers/README.md`): Rust for both of its Wasm targets, C++, Go,
//! AssemblyScript. A module is built again only when its sources or its compiler changed.

use std::ffi::OsStr;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::setup::{debian, go, python};
use crate::{filters, paths, shell};

/// A module to build.
struct Guest {
    name: &'static str,
    /// The folder of its sources in `e2e/peers`.
    folder: &'static str,
    build: fn(&Progress, &Path, &Path) -> Result<()>,
    /// Prints the version of the compiler.
    version: fn(&Progress) -> Result<Command>,
}

const GUESTS: [Guest; 5] = [
    Guest { name: "rust-wasip1", folder: "rust", build: |_, _, out| rust("wasm32-wasip1", out), version: rustc },
    Guest {
        name: "rust-unknown",
        folder: "rust",
        build: |_, _, out| rust("wasm32-unknown-unknown", out),
        version: rustc,
    },
    Guest { name: "cpp", folder: "cpp", build: cpp, version: |_| Ok(with(debian::CLANG, &["--version"])) },
    Guest { name: "go", folder: "go", build: golang, version: |p| Ok(with(go::program(p)?, &["version"])) },
    Guest {
        name: "assemblyscript",
        folder: "assemblyscript",
        build: assemblyscript,
        version: |_| node("node", &["--version"]),
    },
];

/// Where the modules lie.
pub(crate) fn folder() -> PathBuf {
    paths::target().join("guests")
}

/// Builds what is out of date.
pub(crate) fn build(progress: &Progress) -> Result<()> {
    let out = folder();
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    for guest in GUESTS {
        let sources = paths::root().join("e2e/peers").join(guest.folder);
        let (module, stamp) = (out.join(format!("{}.wasm", guest.name)), out.join(format!("{}.stamp", guest.name)));
        let wanted = fingerprint(progress, &guest, &sources)?;
        if module.is_file() && std::fs::read_to_string(&stamp).is_ok_and(|built| built == wanted) {
            continue;
        }
        progress.step(&format!("guest {}", guest.name), || (guest.build)(progress, &sources, &module))?;
        std::fs::write(&stamp, wanted)?;
    }
    Ok(())
}

/// A hash of everything that the module is made of.
fn fingerprint(progress: &Progress, guest: &Guest, sources: &Path) -> Result<String> {
    let mut hash = DefaultHasher::new();
    shell::output(&mut (guest.version)(progress)?)?.hash(&mut hash);
    let mut files = vec![sources.to_path_buf()];
    if guest.folder == "rust" {
        files.push(paths::root().join("Cargo.lock"));
    }
    while let Some(path) = files.pop() {
        if path.is_dir() {
            let mut entries: Vec<PathBuf> = std::fs::read_dir(&path)?.flatten().map(|entry| entry.path()).collect();
            entries.sort();
            files.extend(entries);
        } else {
            path.strip_prefix(paths::root()).unwrap_or(&path).hash(&mut hash);
            std::fs::read(&path)?.hash(&mut hash);
        }
    }
    Ok(format!("{:016x}", hash.finish()))
}

fn with(program: impl AsRef<OsStr>, arguments: &[&str]) -> Command {
    let mut command = Command::new(program);
    command.args(arguments);
    command
}

fn rustc(_: &Progress) -> Result<Command> {
    Ok(with(std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()), &["--version"]))
}

fn rust(triple: &str, out: &Path) -> Result<()> {
    filters::copy_if_changed(&filters::compile(triple, &["sdk-guest"])?.join("sdk_guest.wasm"), out)
}

fn cpp(_: &Progress, sources: &Path, out: &Path) -> Result<()> {
    let mut clang = with(debian::CLANG, &["--target=wasm32-wasi", "-std=c++20", "-O2", "-Wall", "-Werror"]);
    clang.args(["-fno-exceptions", "-mexec-model=reactor", "-o"]).arg(out).arg(sources.join("guest.cc"));
    shell::output(&mut clang).map(|_| ())
}

fn golang(progress: &Progress, sources: &Path, out: &Path) -> Result<()> {
    let mut build = with(go::program(progress)?, &["build", "-buildmode=c-shared", "-trimpath", "-o"]);
    build.arg(out).arg(".").current_dir(sources);
    build.env("GOOS", "wasip1").env("GOARCH", "wasm").env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly");
    shell::output(&mut build).map(|_| ())
}

/// In a copy of the sources, so that npm's packages stay out of the checkout.
fn assemblyscript(_: &Progress, sources: &Path, out: &Path) -> Result<()> {
    let work = folder().join("assemblyscript");
    std::fs::create_dir_all(work.join("assembly"))?;
    for file in ["package.json", "package-lock.json", "assembly/index.ts"] {
        std::fs::copy(sources.join(file), work.join(file)).with_context(|| file.to_owned())?;
    }
    let install = ["ci", "--no-audit", "--no-fund", "--silent"];
    shell::output(node("npm", &install)?.current_dir(&work))?;
    let mut compile = node("node", &["node_modules/assemblyscript/bin/asc", "assembly/index.ts", "--optimize"])?;
    compile.args(["--use", "abort=abort_proc_exit", "--binaryFile"]).arg(out);
    shell::output(compile.current_dir(&work)).map(|_| ())
}

/// A program of Node's, with its folder on the path: npm starts `node`.
fn node(program: &str, arguments: &[&str]) -> Result<Command> {
    let dir = python::npm().context("Node and npm are missing: `cargo xtask setup`")?;
    let mut command = with(dir.join(program), arguments);
    let path = std::env::var_os("PATH").unwrap_or_default();
    command.env("PATH", std::env::join_paths(std::iter::once(dir).chain(std::env::split_paths(&path)))?);
    Ok(command)
}
