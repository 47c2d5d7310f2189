//! `cargo xtask release`: the proxy as it is shipped, compiled by a profile of its own work.
//!
//! What a request costs is less arithmetic than code that has to come into the processor's cache: told which way requests
//! go, the compiler puts that way together and everything else elsewhere. So the proxy is built twice: with counters, to
//! serve the benchmark's loads, and then by what they counted. A profile belongs to the program that it was counted in:
//! what hasn't changed is neither trained nor built again.

use std::ffi::OsString;
use std::hash::{DefaultHasher, Hasher as _};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::setup::{Purpose, prepare};
use crate::{bench, paths, shell};

/// What the linker needs to keep what runs apart from what hardly ever does.
const KEEP_SECTIONS: &str = "-Clink-arg=-Wl,-z,keep-text-section-prefix";

/// The programs of a release.
#[derive(Debug)]
pub(crate) struct Programs {
    pub(crate) proxy: PathBuf,
    /// The program that times the Wasm host.
    pub(crate) hotpath: PathBuf,
}

pub(crate) fn run() -> Result<()> {
    let progress = Progress::new();
    prepare(&progress, Purpose::Bench)?;
    let programs = build(progress)?;
    println!("{}", programs.proxy.display());
    Ok(())
}

/// Builds, trains and builds again; what is up to date is left alone.
pub(crate) fn build(progress: Progress) -> Result<Programs> {
    let profdata = profdata(progress)?;
    let dir = paths::target().join("profile");
    let counts = dir.join("counts");
    let counting = progress.step("build the proxy with counters (10 minutes the first time)", || {
        compile("release-counting", &[&with_path("-Cprofile-generate=", &counts)])
    })?;
    let profile = dir.join(format!("proxy-{:016x}.profdata", digest(&counting.proxy)?));
    if profile.is_file() {
        progress.say("the profile of this program is there");
    } else {
        _ = std::fs::remove_dir_all(&counts);
        progress.step("serve the training loads", || bench::train(progress, &counting.proxy))?;
        let partial = profile.with_extension("partial");
        shell::output(Command::new(profdata).arg("merge").arg("-o").arg(&partial).arg(&counts))?;
        std::fs::rename(&partial, &profile).with_context(|| format!("write {}", profile.display()))?;
    }
    progress.step("build the proxy by its profile (10 minutes the first time)", || {
        compile("release-profiled", &[&with_path("-Cprofile-use=", &profile)])
    })
}

/// Without a profile.
pub(crate) fn build_plain(progress: Progress) -> Result<Programs> {
    progress.step("build the proxy for release (10 minutes the first time)", || compile("release-plain", &[]))
}

/// Builds for release in a folder of that name. `flags`: for the compiler, beside those of the user.
fn compile(folder: &str, flags: &[&OsString]) -> Result<Programs> {
    let host = host()?;
    let target = paths::target().join(folder);
    let mut all = user_flags();
    all.extend(flags.iter().map(|flag| (*flag).clone()));
    all.push(KEEP_SECTIONS.into());
    let mut cargo = shell::cargo();
    // Always both, so that they share their dependencies. With a target named, flags are for what runs there alone.
    cargo.args(["build", "--release", "-p", "outrigger-proxy", "-p", "outrigger-wasm", "--bins", "--examples"]);
    cargo.args(["--target", &host]).env_remove("RUSTFLAGS");
    cargo.env("CARGO_ENCODED_RUSTFLAGS", all.join(std::ffi::OsStr::new("\x1f")));
    shell::run(cargo.env("CARGO_TARGET_DIR", &target))?;
    let built = target.join(host).join("release");
    Ok(Programs { proxy: built.join("outrigger-proxy"), hotpath: built.join("examples/hotpath") })
}

/// The user's own flags, for example for a newer processor.
fn user_flags() -> Vec<OsString> {
    if let Ok(encoded) = std::env::var("CARGO_ENCODED_RUSTFLAGS") {
        return encoded.split('\x1f').filter(|flag| !flag.is_empty()).map(OsString::from).collect();
    }
    std::env::var("RUSTFLAGS").unwrap_or_default().split_whitespace().map(OsString::from).collect()
}

fn with_path(flag: &str, path: &Path) -> OsString {
    let mut all = OsString::from(flag);
    all.push(path);
    all
}

/// Tells programs apart.
fn digest(program: &Path) -> Result<u64> {
    let mut hasher = DefaultHasher::new();
    hasher.write(&std::fs::read(program).with_context(|| format!("read {}", program.display()))?);
    Ok(hasher.finish())
}

fn rustc(arguments: &[&str]) -> Result<String> {
    let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    shell::output(Command::new(rustc).args(arguments))
}

/// The triple of this machine.
fn host() -> Result<String> {
    let version = rustc(&["-vV"])?;
    let host = version.lines().find_map(|line| line.strip_prefix("host: "));
    host.map(str::to_owned).with_context(|| format!("no host in {version}"))
}

/// `llvm-profdata` of the compiler in use: it alone surely reads what that one's programs count.
fn profdata(progress: Progress) -> Result<PathBuf> {
    let program =
        Path::new(rustc(&["--print", "sysroot"])?.trim()).join("lib/rustlib").join(host()?).join("bin/llvm-profdata");
    if !program.is_file() {
        progress.say("rustup component add llvm-tools");
        let added = shell::output(Command::new("rustup").args(["component", "add", "llvm-tools"]));
        if let Some(error) = added.err().filter(|_| !program.is_file()) {
            bail!("a profile needs rustup's component llvm-tools, which cannot be had: {error:#}");
        }
    }
    Ok(program)
}
