//! Debian packages: what the tests and the benchmark run, or compile with.

use std::process::Command;
use std::sync::OnceLock;

use anyhow::{Result, bail};

use crate::paths::which;
use crate::progress::Progress;
use crate::shell::output;

/// A program, the packages that bring it.
type Tool = (&'static str, &'static [&'static str]);

const TEST_TOOLS: [Tool; 5] = [
    (CLANG, &["clang-19", "lld-19", "libc++-19-dev-wasm32", "libclang-rt-19-dev-wasm32", "wasi-libc"]),
    ("promtool", &["prometheus"]),
    // Tests in network namespaces.
    ("nft", &["nftables"]),
    ("ip", &["iproute2"]),
    ("unshare", &["util-linux"]),
];
const BENCH_TOOLS: [Tool; 6] = [
    ("nginx", &["nginx"]),
    ("haproxy", &["haproxy"]),
    ("wrk", &["wrk"]),
    ("h2load", &["nghttp2-client"]),
    ("strace", &["strace"]),
    ("taskset", &["util-linux"]),
];
/// Nice to have for profiling; never needed.
const OPTIONAL_TOOLS: [(&str, &str); 1] = [("valgrind", "valgrind")];

/// The compiler of the C++ guest.
pub(crate) const CLANG: &str = "clang++-19";

pub(super) fn tools(progress: &Progress, test: bool, bench: bool) -> Result<()> {
    let mut wanted = Vec::new();
    wanted.extend(TEST_TOOLS.iter().filter(|_| test));
    wanted.extend(BENCH_TOOLS.iter().filter(|_| bench));
    let is_missing = |tool: &&&Tool| which(tool.0).is_none();
    let missing: Vec<&str> = wanted.iter().filter(is_missing).flat_map(|tool| tool.1.iter().copied()).collect();
    if missing.is_empty() {
        let names: Vec<&str> = wanted.iter().map(|tool| tool.0).collect();
        if !names.is_empty() {
            progress.say(&format!("{}: there", names.join(", ")));
        }
    } else {
        install(progress, &missing)?;
    }
    for (program, package) in OPTIONAL_TOOLS.iter().filter(|_| bench) {
        if which(program).is_none() {
            progress.say(&format!("{program} is not there (optional, for profiling): apt-get install {package}"));
        }
    }
    Ok(())
}

/// Installs Debian packages, as root or with sudo that asks for nothing. The lists are fetched once a run.
pub(crate) fn install(progress: &Progress, packages: &[&str]) -> Result<()> {
    static UPDATED: OnceLock<()> = OnceLock::new();
    let list = packages.join(" ");
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let may_sudo = !is_root && output(Command::new("sudo").args(["-n", "true"])).is_ok();
    if which("apt-get").is_none() || !(is_root || may_sudo) {
        bail!("missing: {list}. Install these Debian packages (root or sudo is needed) and try again");
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
        if !is_root {
            command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "RUNLEVEL=1", "apt-get"]);
        }
        // RUNLEVEL keeps Debian's packages from starting the servers that they install.
        output(command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").args(arguments))
    };
    if UPDATED.set(()).is_ok() {
        progress.step("apt-get update", || apt(&["update", "-qq"]))?;
    }
    progress.step(&format!("apt-get install {list}"), || {
        let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
        install.extend(packages);
        apt(&install).map(|_| ())
    })
}
