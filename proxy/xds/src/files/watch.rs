//! Tells when something moved in one of several folders.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use notify::{RecommendedWatcher, RecursiveMode, Watcher};
use tokio::sync::Notify;

/// Changes come in bursts: so long after the first one everything is looked at.
const SETTLE: Duration = Duration::from_millis(20);
/// Where the system can't tell, and in case that it forgets to.
const POLL: Duration = Duration::from_secs(5);
const POLL_ONLY: Duration = Duration::from_millis(500);

pub(crate) struct Folders {
    watcher: Option<RecommendedWatcher>,
    watched: BTreeSet<Arc<Path>>,
    signal: Arc<Notify>,
}

impl Folders {
    pub(crate) fn new() -> Folders {
        let signal = Arc::new(Notify::new());
        let told = Arc::clone(&signal);
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            // Our own reading is no change.
            if !event.is_ok_and(|event| event.kind.is_access()) {
                told.notify_one();
            }
        });
        let watcher = watcher.map_err(|error| tracing::warn!(%error, "files are polled, not watched")).ok();
        Folders { watcher, watched: BTreeSet::new(), signal }
    }

    /// Watches these folders and no others.
    pub(crate) fn watch(&mut self, folders: BTreeSet<Arc<Path>>) {
        let Some(watcher) = &mut self.watcher else { return };
        for gone in self.watched.difference(&folders) {
            // A folder that was deleted isn't watched any more either.
            let _ = watcher.unwatch(gone);
        }
        let mut watched = BTreeSet::new();
        for folder in folders {
            if self.watched.contains(&folder) || watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
                watched.insert(folder);
            }
        }
        self.watched = watched;
    }

    /// Waits for a change. What happened between two calls counts.
    pub(crate) async fn changed(&mut self) {
        let poll = if self.watcher.is_some() { POLL } else { POLL_ONLY };
        if tokio::time::timeout(poll, self.signal.notified()).await.is_ok() {
            tokio::time::sleep(SETTLE).await;
        }
    }
}
