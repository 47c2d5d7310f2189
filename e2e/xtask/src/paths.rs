//! Where things lie.

use std::path::{Path, PathBuf};

/// The root of the checkout.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.ancestors().nth(2).map_or_else(|| here.to_path_buf(), Path::to_path_buf)
}

/// The user's cache folder.
fn cache() -> PathBuf {
    let home = std::env::var_os("HOME").map_or_else(std::env::temp_dir, PathBuf::from);
    std::env::var_os("XDG_CACHE_HOME").map_or_else(|| home.join(".cache"), PathBuf::from)
}

/// Where cargo builds to: `CARGO_TARGET_DIR`, else a folder in the user's cache, so that a checkout stays small.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| cache().join("outrigger-target"), PathBuf::from)
}

/// Where the peers of tests and benchmarks live: `OUTRIGGER_PEERS`, else a folder in the user's cache.
pub(crate) fn peers() -> PathBuf {
    std::env::var_os("OUTRIGGER_PEERS").map_or_else(|| cache().join("outrigger-peers"), PathBuf::from)
}

/// A peer's program.
pub(crate) fn peer(name: &str) -> PathBuf {
    peers().join("bin").join(name)
}

/// The Python of the peers.
pub(crate) fn python() -> PathBuf {
    peers().join("venv/bin/python3")
}

/// The first program of that name on the path, or in the folders where Debian keeps servers.
pub(crate) fn which(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let dirs = std::env::split_paths(&path).chain(["/usr/sbin", "/usr/local/go/bin", "/usr/bin"].map(PathBuf::from));
    dirs.map(|dir| dir.join(name)).find(|program| program.is_file())
}
