//! Finds the descriptor set that the `envoy-types` package ships beside the code generated from it.
//!
//! Cargo tells a build script nothing about where a dependency's source lies, but `cargo metadata` does. It is asked
//! about a package of one dependency, made for the purpose in the output folder, with the workspace's lock file: the
//! workspace itself may name packages that this build never fetched, which metadata could not read offline.

use std::error::Error;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

const FILE: &str = "src/generated/types.bin";

pub(crate) fn descriptor_set(manifest: &Path, out: &Path) -> Result<PathBuf, Box<dyn Error>> {
    let probe = out.join("locate");
    std::fs::create_dir_all(&probe)?;
    std::fs::write(probe.join("Cargo.toml"), PROBE)?;
    std::fs::write(probe.join("lib.rs"), "")?;
    // Without the lock file cargo picks the newest version, which may not be the one that is linked.
    std::fs::copy(manifest.join("../Cargo.lock"), probe.join("Cargo.lock"))?;

    let metadata = metadata(manifest, &probe, true).or_else(|_| metadata(manifest, &probe, false))?;
    let package = metadata["packages"]
        .as_array()
        .into_iter()
        .flatten()
        .find(|package| package["name"] == "envoy-types")
        .and_then(|package| package["manifest_path"].as_str())
        .ok_or("cargo metadata names no package envoy-types")?;
    let file = Path::new(package).with_file_name("").join(FILE);
    if !file.is_file() {
        return Err(
            format!("{} is missing: this version of envoy-types ships no descriptor set", file.display()).into()
        );
    }
    Ok(file)
}

/// A package that is no member of any workspace. The lock file says which version.
const PROBE: &str = r#"
[workspace]
[package]
name = "locate"
version = "0.0.0"
edition = "2024"
[lib]
path = "lib.rs"
[dependencies]
envoy-types = { version = "*", default-features = false }
"#;

fn metadata(manifest: &Path, probe: &Path, offline: bool) -> Result<Value, Box<dyn Error>> {
    let mut command = Command::new(crate::env("CARGO")?);
    // The working folder decides which configuration (source replacement, proxies) cargo reads.
    command.current_dir(manifest).args(["metadata", "--format-version", "1", "--filter-platform"]);
    command.arg(crate::env("TARGET")?).arg("--manifest-path").arg(probe.join("Cargo.toml"));
    if offline {
        command.arg("--offline");
    }
    let output = command.output()?;
    if !output.status.success() {
        return Err(format!("cargo metadata: {}", String::from_utf8_lossy(&output.stderr).trim()).into());
    }
    Ok(serde_json::from_slice(&output.stdout)?)
}
