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

/// What cargo builds, and where cargo puts it.
type Program = (&'static [&'static str], &'static str);

const PROXY: Program = (&["--bin", "outrigger-proxy"], "outrigger-proxy");
/// The program that times the Wasm host.
const HOTPATH: Program = (&["--example", "hotpath"], "examples/hotpath");

pub(crate) fn run() -> Result<()> {
    let progress = Progress::new();
    prepare(&progress, Purpose::Bench)?;
    let [proxy] = build(progress, [PROXY])?;
    println!("{}", proxy.display());
    Ok(())
}

/// The proxy, and the program that times the Wasm host; with or without a profile.
pub(crate) fn for_bench(progress: Progress, profile: bool) -> Result<[PathBuf; 2]> {
    let programs = [PROXY, HOTPATH];
    if profile {
        return build(progress, programs);
    }
    progress
        .step("build the proxy for release (10 minutes the first time)", || compile("release-plain", None, programs))
}

/// Builds, trains and builds again; what is up to date is left alone.
fn build<const COUNT: usize>(progress: Progress, programs: [Program; COUNT]) -> Result<[PathBuf; COUNT]> {
    let profdata = profdata(progress)?;
    let dir = paths::target().join("profile");
    let counts = dir.join("counts");
    let flag = with_path("-Cprofile-generate=", &counts);
    let [counting] = progress.step("build the proxy with counters (10 minutes the first time)", || {
        compile("release-counting", Some(flag), [PROXY])
    })?;
    let profile = dir.join(format!("proxy-{:016x}.profdata", digest(&counting)?));
    if profile.is_file() {
        progress.say("the profile of this program is there");
    } else {
        _ = std::fs::remove_dir_all(&counts);
        progress.step("serve the training loads", || bench::train(progress, &counting))?;
        let partial = profile.with_extension("partial");
        shell::output(Command::new(profdata).arg("merge").arg("-o").arg(&partial).arg(&counts))?;
        std::fs::rename(&partial, &profile).with_context(|| format!("write {}", profile.display()))?;
    }
    let flag = with_path("-Cprofile-use=", &profile);
    progress.step("build the proxy by its profile (10 minutes the first time)", || {
        compile("release-profiled", Some(flag), programs)
    })
}

/// Builds for release in a folder of that name. `flag`: for the compiler, beside those of the user.
fn compile<const COUNT: usize>(
    folder: &str,
    flag: Option<OsString>,
    programs: [Program; COUNT],
) -> Result<[PathBuf; COUNT]> {
    let host = host()?;
    let target = paths::target().join(folder);
    let mut flags = user_flags();
    flags.extend(flag);
    flags.push(KEEP_SECTIONS.into());
    let mut cargo = shell::cargo();
    // Always of both packages, so that they share their dependencies. With a target named, flags are for what runs there.
    cargo.args(["build", "--release", "--target", &host, "-p", "outrigger-proxy", "-p", "outrigger-wasm"]);
    programs.iter().for_each(|program| _ = cargo.args(program.0));
    cargo.env_remove("RUSTFLAGS").env("CARGO_ENCODED_RUSTFLAGS", flags.join(std::ffi::OsStr::new("\x1f")));
    shell::run(cargo.env("CARGO_TARGET_DIR", &target))?;
    let built = target.join(host).join("release");
    Ok(programs.map(|program| built.join(program.1)))
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
