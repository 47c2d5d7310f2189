//! `cargo xtask filters`: builds the Wasm filters on any machine.
//!
//! The target comes from rustup where that is there and can fetch it; else from Debian's newer compiler, which builds
//! the standard library itself. What is up to date is left alone, and a module that did not change keeps its file, so
//! that nobody who watches it sees an update that is none. Paths of this machine are kept out of the modules: the same
//! source and compiler make the same bytes, and so the same digest, wherever they are built.

use std::ffi::OsString;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::{paths, shell};

/// Packages, in the order in which [`build`] returns their modules.
const FILTERS: [&str; 3] = ["header-policy", "api-key-auth", "rate-limit"];
const TARGET: &str = "wasm32-wasip1";
const DEBIAN_PACKAGES: [&str; 5] = ["rustc-web", "rust-web-src", "rust-web-llvm", "lld-22", "wasi-libc"];

/// What can compile for [`TARGET`].
enum Toolchain {
    /// The compiler that cargo uses has the target.
    Installed,
    /// Debian's compiler and its library source.
    Debian { linker: PathBuf },
}

/// Builds the filters; the paths of `header_policy.wasm`, `api_key_auth.wasm` and `rate_limit.wasm`.
pub(crate) fn build() -> Result<Vec<PathBuf>> {
    let toolchain = toolchain()?;
    // A folder of their own: other flags than the rest, and no waiting for a cargo that builds that.
    let target = paths::target().join("wasm");
    compile(&toolchain, &target)?;
    let out = paths::target().join("filters");
    std::fs::create_dir_all(&out).with_context(|| format!("create {}", out.display()))?;
    FILTERS.iter().map(|filter| install(filter, &target, &out)).collect()
}

fn compile(toolchain: &Toolchain, target: &Path) -> Result<()> {
    println!("filters: compile {} for {TARGET}", FILTERS.join(", "));
    let mut cargo = shell::cargo();
    cargo.args(["build", "--quiet", "--profile", "filter", "--target", TARGET]);
    cargo.args(FILTERS.iter().flat_map(|filter| ["-p", filter]));
    let mut flags = remap_flags();
    if let Toolchain::Debian { linker } = toolchain {
        // rustc's own linking wants files that only rustup's target has.
        flags.extend(["-Clink-self-contained=no".into(), "-Lnative=/usr/lib/wasm32-wasi".into()]);
        cargo.args(["-Zbuild-std=std,panic_abort", "--ignore-rust-version"]);
        cargo.env("RUSTC", "/usr/bin/rustc").env("RUSTC_BOOTSTRAP", "1");
        cargo.env("CARGO_TARGET_WASM32_WASIP1_LINKER", linker);
    }
    // The user's own flags are for this machine's processor.
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join(std::ffi::OsStr::new("\x1f")));
    shell::run(cargo.env("CARGO_TARGET_DIR", target))
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

/// Copies a module beside the others, at once, and only if it differs.
fn install(filter: &str, target: &Path, out: &Path) -> Result<PathBuf> {
    let file = format!("{}.wasm", filter.replace('-', "_"));
    let built = target.join(TARGET).join("filter").join(&file);
    let module = out.join(&file);
    let bytes = std::fs::read(&built).with_context(|| format!("read {}", built.display()))?;
    let unchanged = std::fs::read(&module).is_ok_and(|old| old == bytes);
    if !unchanged {
        let partial = out.join(format!(".{file}.{}", std::process::id()));
        std::fs::write(&partial, &bytes).with_context(|| format!("write {}", partial.display()))?;
        std::fs::rename(&partial, &module).with_context(|| format!("write {}", module.display()))?;
    }
    let state = if unchanged { ", unchanged" } else { "" };
    println!("filters: {} ({} kB{state})", module.display(), bytes.len() / 1000);
    Ok(module)
}

/// Finds a compiler for the target, or gets one.
fn toolchain() -> Result<Toolchain> {
    if is_installed() {
        println!("filters: target {TARGET} is installed");
        return Ok(Toolchain::Installed);
    }
    if paths::which("rustup").is_some() {
        println!("filters: rustup target add {TARGET}");
        match shell::output(Command::new("rustup").args(["target", "add", TARGET])) {
            Ok(_) if is_installed() => return Ok(Toolchain::Installed),
            Ok(_) => println!("filters: rustup added it to another compiler than the one in use"),
            Err(error) => println!("filters: rustup cannot: {error:#}"),
        }
    }
    debian()
}

/// Whether the compiler that cargo will use has the target's standard library.
fn is_installed() -> bool {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let printed = shell::output(Command::new(rustc).args(["--print", "target-libdir", "--target", TARGET]));
    let is_std = |name: OsString| name.to_string_lossy().starts_with("libstd-");
    printed.is_ok_and(|folder| {
        let Ok(entries) = std::fs::read_dir(folder.trim()) else { return false };
        entries.flatten().any(|entry| is_std(entry.file_name()))
    })
}

/// Debian's compiler, installed if need be and possible.
fn debian() -> Result<Toolchain> {
    if debian_linker().is_none() || !is_debian_complete() {
        let install = format!("apt-get install -y --no-install-recommends {}", DEBIAN_PACKAGES.join(" "));
        if paths::which("apt-get").is_none() {
            bail!("no Rust target {TARGET}: install it (`rustup target add {TARGET}`), or on Debian `{install}`");
        }
        println!("filters: {install}");
        apt_get().with_context(|| format!("no Rust target {TARGET}, and `{install}` failed; run it as root"))?;
    }
    let linker = debian_linker().context("no wasm-ld in /usr/bin after lld was installed")?;
    println!("filters: Debian's rustc builds the standard library too, with {}", linker.display());
    Ok(Toolchain::Debian { linker })
}

fn apt_get() -> Result<()> {
    let is_root = std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0);
    let mut command = if is_root { Command::new("apt-get") } else { Command::new("sudo") };
    if !is_root {
        command.args(["-n", "apt-get"]);
    }
    command.args(["install", "-y", "--no-install-recommends"]).args(DEBIAN_PACKAGES);
    shell::output(command.env("DEBIAN_FRONTEND", "noninteractive")).map(|_| ())
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
