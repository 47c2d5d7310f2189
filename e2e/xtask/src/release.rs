//! `cargo xtask release`: the proxy as it is shipped. It is built twice: first so that it counts where it goes under the
//! benchmark's loads, then optimised for where it went.
//!
//! Each build has a folder of its own, since other flags than those of `cargo build --release` are other dependencies too.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, bail};

use crate::bench;
use crate::progress::Progress;
use crate::{paths, shell};

/// Loads that go the ways which a sidecar goes most.
const TRAINING: [&str; 8] =
    ["h1-c32", "h1-c256", "h2c-10k", "tls-c32", "tls-handshakes", "policies", "headers", "body-16k"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Use this profile (of an earlier run, from the same source) instead of making one.
    #[arg(long, value_name = "FILE")]
    profile: Option<PathBuf>,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    let folder = paths::target().join("profile-guided");
    std::fs::create_dir_all(&folder).with_context(|| format!("create {}", folder.display()))?;
    let profile = match &args.profile {
        Some(profile) => profile.canonicalize().with_context(|| format!("{}", profile.display()))?,
        None => make_profile(&progress, &folder)?,
    };
    let flag = format!("-Cprofile-use={}", profile.display());
    let program = progress.step("build the proxy by its profile (10 minutes)", || build(&folder.join("use"), &flag))?;
    println!("{}", program.display());
    println!("its profile: {}", profile.display());
    Ok(())
}

/// Counts under load, and returns the file of what was counted.
fn make_profile(progress: &Progress, folder: &Path) -> Result<PathBuf> {
    let merger = merger()?;
    let counts = folder.join("counts");
    if counts.exists() {
        std::fs::remove_dir_all(&counts).with_context(|| format!("{}", counts.display()))?;
    }
    let flag = format!("-Cprofile-generate={}", counts.display());
    let words = "build the proxy that counts where it goes (10 minutes)";
    let program = progress.step(words, || build(&folder.join("generate"), &flag))?;
    progress.step("run it under the benchmark's loads", || bench::run(&bench::Args::training(program, &TRAINING)))?;
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    // Another name each time: cargo looks at flags, not at what is in files.
    let profile = folder.join(format!("{since}.profdata"));
    shell::output(Command::new(merger).arg("merge").arg("-o").arg(&profile).arg(&counts))?;
    Ok(profile)
}

fn build(target: &Path, flag: &str) -> Result<PathBuf> {
    let mut cargo = shell::cargo();
    cargo.args(["build", "--release", "-p", "outrigger-proxy", "--bin", "outrigger-proxy"]);
    cargo.env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flag).env("CARGO_TARGET_DIR", target);
    shell::run(&mut cargo)?;
    Ok(target.join("release/outrigger-proxy"))
}

/// LLVM's tool that merges profiles, of the version that the compiler is of.
fn merger() -> Result<PathBuf> {
    let sysroot = shell::output(Command::new("rustc").args(["--print", "sysroot"]))?;
    let host = shell::output(Command::new("rustc").args(["--print", "host-tuple"]))?;
    let tool = Path::new(sysroot.trim()).join("lib/rustlib").join(host.trim()).join("bin/llvm-profdata");
    if !tool.is_file() {
        shell::run(Command::new("rustup").args(["component", "add", "llvm-tools"]))
            .context("llvm-profdata is missing, and so is rustup, which has it (its component llvm-tools)")?;
    }
    if !tool.is_file() {
        bail!("{} is missing after `rustup component add llvm-tools`", tool.display());
    }
    Ok(tool)
}
