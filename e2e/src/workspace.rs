//! Where things lie: the binaries under test, the filters that were built for Wasm, and the peers that `cargo xtask setup`
//! installed. Nothing here is fixed: everything follows from environment variables or from where the test itself runs.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};

/// The root of the checkout.
pub fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// The folder with the binaries: `OUTRIGGER_BIN_DIR`, else the profile's folder that this program was itself built into.
pub fn binaries() -> Result<PathBuf> {
    if let Some(dir) = std::env::var_os("OUTRIGGER_BIN_DIR") {
        return Ok(PathBuf::from(dir));
    }
    let exe = std::env::current_exe().context("the path of this program")?;
    let dir = exe.parent().context("this program lies in no folder")?;
    let dir = if dir.ends_with("deps") { dir.parent().unwrap_or(dir) } else { dir };
    Ok(dir.to_path_buf())
}

/// One of our binaries, for example `outrigger-proxy`.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = binaries()?.join(name);
    if !path.is_file() {
        bail!("{} is not built: `cargo build -p {name}` (or `cargo xtask test`)", path.display());
    }
    Ok(path)
}

/// A filter built by `cargo xtask filters`, for example `header_policy`.
pub fn filter(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("OUTRIGGER_FILTER_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => binaries()?.parent().context("the target folder")?.join("filters"),
    };
    let path = dir.join(format!("{name}.wasm"));
    if !path.is_file() {
        bail!("{} is not built: `cargo xtask filters`", path.display());
    }
    Ok(path)
}

/// The SDK tests' guest in one language, built by `cargo xtask test`, for example `go`.
pub fn guest(name: &str) -> Result<PathBuf> {
    let dir = match std::env::var_os("OUTRIGGER_GUEST_DIR") {
        Some(dir) => PathBuf::from(dir),
        None => binaries()?.parent().context("the target folder")?.join("guests"),
    };
    let path = dir.join(format!("{name}.wasm"));
    if !path.is_file() {
        bail!("{} is not built: `cargo xtask filters --guests`", path.display());
    }
    Ok(path)
}

/// The folder of the peers: `OUTRIGGER_PEERS`, else the user's cache folder.
pub fn peers() -> PathBuf {
    if let Some(dir) = std::env::var_os("OUTRIGGER_PEERS") {
        return PathBuf::from(dir);
    }
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    cache.unwrap_or_else(|| home.join(".cache")).join("outrigger-peers")
}

/// A peer's program, for example `bin/envoy` or `venv/bin/python3`.
pub fn peer(relative: &str) -> Result<PathBuf> {
    let path = peers().join(relative);
    if !path.exists() {
        bail!("{} is not installed: `cargo xtask setup`", path.display());
    }
    Ok(path)
}
