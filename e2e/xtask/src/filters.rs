//! `cargo xtask filters`: builds the Wasm filters on any machine (and the tests' guest in Rust, for both Wasm targets).
//!
//! The target comes from rustup where that is there and can fetch it; else from Debian's newer compiler, which builds
//! the standard library itself. What is up to date is left alone, and a module that did not change keeps its file, so
//! that nobody who watches it sees an update that is none. Paths of this machine are kept out of the modules: the same
//! source and compiler make the same bytes, and so the same digest, wherever they are built.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::setup::debian;
use crate::{paths, shell};

/// Packages, in the order in which [`build`] returns their modules.
const FILTERS: [&str; 3] = ["header-policy", "api-key-auth", "rate-limit"];
const TARGET: &str = "wasm32-wasip1";
const DEBIAN_PACKAGES: [&str; 5] = ["rustc-web", "rust-web-src", "rust-web-llvm", "lld-22", "wasi-libc"];

/// What can compile for a Wasm target.
enum Toolchain {
    /// The compiler that cargo uses has the target.
    Installed,
    /// Debian's compiler and its library source.
    Debian { linker: PathBuf },
}

/// Builds the filters; the paths of `header_policy.wasm`, `api_key_auth.wasm` and `rate_limit.wasm`.
pub(crate) fn build() -> Result<Vec<PathBuf>> {
    let target = compile(TARGET, &FILTERS)?;
    let out = paths::target().join("filters");
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    FILTERS.iter().map(|filter| install(filter, &target, &out)).collect()
}

/// Builds packages of the workspace for a Wasm target, and returns the folder with their modules.
pub(crate) fn compile(triple: &str, packages: &[&str]) -> Result<PathBuf> {
    let toolchain = toolchain(triple)?;
    // A folder of their own: other flags than the rest, and no waiting for a cargo that builds that.
    let target = paths::target().join("wasm");
    println!("filters: compile {} for {triple}", packages.join(", "));
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet", "--profile", "filter", "--target", triple]);
    cargo.args(packages.iter().flat_map(|package| ["-p", package]));
    let mut flags = remap_flags();
    if let Toolchain::Debian { linker } = &toolchain {
        if triple == TARGET {
            // rustc's own linking wants files that only rustup's target has.
            flags.extend(["-Clink-self-contained=no".into(), "-Lnative=/usr/lib/wasm32-wasi".into()]);
        }
        cargo.args(["-Zbuild-std=std,panic_abort", "--ignore-rust-version"]);
        cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        cargo.env(format!("CARGO_TARGET_{}_LINKER", triple.replace('-', "_").to_uppercase()), linker);
    }
    // The user's own flags are for this machine's processor.
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join(std::ffi::OsStr::new("\x1f")));
    shell::run(cargo.env("CARGO_TARGET_DIR", &target))?;
    Ok(target.join(triple).join("filter"))
}

/// Panic messages name source files: by paths that are the same everywhere.
fn remap_flags() -> Vec<OsString> {
    let home = std::env::var_os("HOME").map(PathBuf::from);
    let cargo_home = std::env::var_os("CARGO_HOME").map(PathBuf::from).or_else(|| Some(home?.join(".cargo")));
    let remaps = [(cargo_home, "/cargo"), (Some(paths::root()), "/outrigger")];
    let flag = |(from, to): (Option<PathBuf>, &str)| {
        let mut flag = OsString::from("--remap-path-prefix=");
        flag.push(from?);
        flag.push("=");
        flag.push(to);
        Some(flag)
    };
    remaps.into_iter().filter_map(flag).collect()
}

fn install(filter: &str, target: &Path, out: &Path) -> Result<PathBuf> {
    let file = format!("{}.wasm", filter.replace('-', "_"));
    let module = out.join(&file);
    copy_if_changed(&target.join(&file), &module)?;
    Ok(module)
}

/// Copies a module to its place, at once, and only if it differs.
pub(crate) fn copy_if_changed(built: &Path, module: &Path) -> Result<()> {
    let bytes = std::fs::read(built).with_context(|| format!("read {}", built.display()))?;
    let unchanged = std::fs::read(module).is_ok_and(|old| old == bytes);
    if !unchanged {
        let partial = module.with_extension(format!("{}", std::process::id()));
        std::fs::write(&partial, &bytes).with_context(|| format!("write {}", partial.display()))?;
        std::fs::rename(&partial, module).with_context(|| format!("write {}", module.display()))?;
    }
    let state = if unchanged { ", unchanged" } else { "" };
    println!("filters: {} ({} kB{state})", module.display(), bytes.len() / 1000);
    Ok(())
}

/// Finds a compiler for the target, or gets one.
fn toolchain(triple: &str) -> Result<Toolchain> {
    if is_installed(triple) {
        println!("filters: target {triple} is installed");
        return Ok(Toolchain::Installed);
    }
    if paths::which("rustup").is_some() {
        println!("filters: rustup target add {triple}");
        match shell::output(Command::new("rustup").args(["target", "add", triple])) {
            Ok(_) if is_installed(triple) => return Ok(Toolchain::Installed),
            Ok(_) => println!("filters: rustup added it to another compiler than the one in use"),
            Err(error) => println!("filters: rustup cannot: {error:#}"),
        }
    }
    debian(triple)
}

/// Whether the compiler that cargo will use has the target's standard library.
fn is_installed(triple: &str) -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let printed = shell::output(Command::new(rustc).args(["--print", "target-libdir", "--target", triple]));
    let is_std = |name: OsString| name.to_string_lossy().starts_with("libstd-");
    printed.is_ok_and(|folder| {
        let Ok(entries) = std::fs::read_dir(folder.trim()) else { return false };
        entries.flatten().any(|entry| is_std(entry.file_name()))
    })
}

/// Debian's compiler, installed if need be and possible.
fn debian(triple: &str) -> Result<Toolchain> {
    if debian_linker().is_none() || !is_debian_complete() {
        debian::install(&Progress::new(), &DEBIAN_PACKAGES)
            .with_context(|| format!("no Rust target {triple}: `rustup target add {triple}` is the other way"))?;
    }
    let linker = debian_linker().context("no wasm-ld in /usr/bin after lld was installed")?;
    println!("filters: Debian's rustc builds the standard library too, with {}", linker.display());
    Ok(Toolchain::Debian { linker })
}

fn is_debian_complete() -> bool {
    let sysroot = shell::output(Command::new("/usr/bin/rustc").args(["--print", "sysroot"]));
    let has_source =
        sysroot.is_ok_and(|sysroot| Path::new(sysroot.trim()).join("lib/rustlib/src/rust/library/std").exists());
    has_source && Path::new("/usr/lib/wasm32-wasi/libc.a").exists()
}

/// The newest `wasm-ld` that Debian has installed.
fn debian_linker() -> Option<PathBuf> {
    let version = |name: &str| name.strip_prefix("wasm-ld-")?.parse::<u32>().ok();
    let entries = std::fs::read_dir("/usr/bin").ok()?.flatten();
    let found = entries.filter_map(|entry| Some((version(entry.file_name().to_str()?)?, entry.path())));
    found.max().map(|(_, path)| path)
}
