//! Notices changes of the folder: by the system's notifications, and by looking every now and then, because some file
//! systems notify nobody.

use std::collections::BTreeSet;
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use notify::{EventKind, RecommendedWatcher, RecursiveMode, Watcher as _};
use tokio::sync::mpsc;
use tracing::{debug, warn};

/// At most so many folders are watched; what is beyond is found by looking.
const FOLDERS_MAX: usize = 4096;

pub(crate) struct Watch {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<PathBuf>,
}

impl Watch {
    /// Something in what is watched changed: a message, and one is enough for many changes.
    pub(crate) fn new() -> (Self, mpsc::Receiver<()>) {
        let (sender, receiver) = mpsc::channel(1);
        let on_event = move |event: notify::Result<notify::Event>| {
            // Our own reading is no change. An error may hide one.
            let is_change = event.map_or(true, |event| !matches!(event.kind, EventKind::Access(_)));
            if is_change {
                // Full: a message is waiting already.
                let _ = sender.try_send(());
            }
        };
        let watcher = notify::recommended_watcher(on_event);
        if let Err(error) = &watcher {
            warn!("changes are not notified and only found by looking: {error}");
        }
        (Self { watcher: watcher.ok(), watched: BTreeSet::new() }, receiver)
    }

    /// Watches these folders, and the folders of these files (editors replace files by renaming).
    pub(crate) fn follow(&mut self, inputs: &[PathBuf]) {
        let Some(watcher) = &mut self.watcher else { return };
        let folder = |path: &PathBuf| {
            if path.is_dir() { Some(path.clone()) } else { path.parent().map(Path::to_path_buf) }
        };
        let wanted: BTreeSet<_> = inputs.iter().filter_map(folder).take(FOLDERS_MAX).collect();
        for gone in self.watched.difference(&wanted) {
            // It is gone because it was removed, most often.
            let _ = watcher.unwatch(gone);
        }
        self.watched.retain(|path| wanted.contains(path));
        for path in wanted {
            if self.watched.contains(&path) {
                continue;
            }
            match watcher.watch(&path, RecursiveMode::NonRecursive) {
                Ok(()) => {
                    self.watched.insert(path);
                }
                Err(error) => debug!("{} is not watched: {error}", path.display()),
            }
        }
    }
}

/// A number that differs when anything in these folders and files does, as far as the file system tells without reading.
pub(crate) fn fingerprint(inputs: &[PathBuf]) -> u64 {
    let mut hasher = DefaultHasher::new();
    for input in inputs {
        input.hash(&mut hasher);
        hash_metadata(input, &mut hasher);
        let Ok(entries) = std::fs::read_dir(input) else { continue };
        let mut paths: Vec<_> = entries.flatten().map(|entry| entry.path()).collect();
        paths.sort();
        for path in paths {
            path.hash(&mut hasher);
            hash_metadata(&path, &mut hasher);
        }
    }
    hasher.finish()
}

/// Follows links, so that a swapped link is a change.
fn hash_metadata(path: &Path, hasher: &mut DefaultHasher) {
    match std::fs::metadata(path) {
        Ok(metadata) => {
            let facts = (metadata.dev(), metadata.ino(), metadata.mtime(), metadata.mtime_nsec(), metadata.mode());
            (facts, if metadata.is_dir() { 0 } else { metadata.len() }).hash(hasher);
        }
        Err(_) => 0_u8.hash(hasher),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints_see_what_happens_in_a_folder() {
        let dir = tempfile::tempdir().unwrap();
        let inputs = [dir.path().to_path_buf(), dir.path().join("missing.wasm")];
        let mut seen = BTreeSet::from([fingerprint(&inputs)]);
        assert!(!seen.insert(fingerprint(&inputs)));
        std::fs::write(dir.path().join("a.yaml"), "a").unwrap();
        assert!(seen.insert(fingerprint(&inputs)));
        std::fs::write(dir.path().join("b.tmp"), "ab").unwrap();
        std::fs::rename(dir.path().join("b.tmp"), dir.path().join("a.yaml")).unwrap();
        assert!(seen.insert(fingerprint(&inputs)));
        std::fs::write(dir.path().join("missing.wasm"), "").unwrap();
        assert!(seen.insert(fingerprint(&inputs)));
    }
}
