//! What was accepted and rejected, for `/config_dump`, `/ready` and metrics.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use bytes::Bytes;
use outrigger_config::{ResourceKind, Source};
use tokio::sync::Notify;

use crate::batch::{Held, SecretFiles};
use crate::{Bootstrap, Rejected};

/// Shared by the sources that write it and the admin interface that reads it. Clones are the same status.
#[derive(Debug, Clone, Default)]
pub struct Status(Arc<Mutex<State>>);

#[derive(Debug, Default)]
struct State {
    kinds: [KindStatus; ResourceKind::COUNT],
    ads: AdsStatus,
    /// Folders to watch for files, where `watched_directory` says so.
    watched: BTreeMap<Arc<str>, Arc<str>>,
    /// Told when secrets that name files come or go.
    files_changed: Arc<Notify>,
}

/// The resources of one kind.
#[derive(Debug, Clone, Default)]
pub struct KindStatus {
    pub accepted: BTreeMap<Arc<str>, AcceptedResource>,
    /// The last rejected version of a resource, until a later one is accepted or the resource is removed.
    pub rejected: BTreeMap<Arc<str>, RejectedResource>,
    /// `version_info` or `system_version_info` of the last response that was accepted whole.
    pub version: Arc<str>,
    pub last_update: Option<SystemTime>,
    /// Responses (and file contents) received, accepted whole, and rejected in part or whole: Envoy's counters
    /// `update_attempt`, `update_success`, `update_rejected`; and sources that failed: `update_failure`.
    pub update_attempt: u64,
    pub update_success: u64,
    pub update_rejected: u64,
    pub update_failure: u64,
    /// Secrets whose content stands in files, by source and name.
    files: BTreeMap<(Source, Arc<str>), (Held, SecretFiles)>,
}

#[derive(Debug, Clone)]
pub struct AcceptedResource {
    pub source: Source,
    pub version: Arc<str>,
    /// The message as it came, of the type of its kind.
    pub bytes: Bytes,
    pub since: SystemTime,
    /// Fields that are set and without effect.
    pub warnings: Arc<[String]>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RejectedResource {
    pub source: Source,
    pub version: Arc<str>,
    pub reason: String,
    pub since: SystemTime,
}

/// The ADS stream.
#[derive(Debug, Clone, Default)]
pub struct AdsStatus {
    /// A stream is open and has answered.
    pub connected: bool,
    /// When `connected` changed last.
    pub since: Option<SystemTime>,
    /// When the server sent anything last: the configuration's age is the time since.
    pub last_response: Option<SystemTime>,
    /// `control_plane.identifier` of the last response.
    pub control_plane: String,
    /// Why the last stream ended or didn't start.
    pub last_error: String,
    /// Streams started.
    pub streams: u64,
}

impl Status {
    #[must_use]
    pub fn new() -> Status {
        Status::default()
    }

    /// Notes which folders the static resources of a bootstrap want to be watched, for
    /// [`run_files`](crate::run_files).
    pub fn note_bootstrap(&self, bootstrap: &Bootstrap) {
        self.watch(bootstrap.watched.iter().cloned());
    }

    /// A copy of what is known of a kind; resources share their bytes.
    #[must_use]
    pub fn kind(&self, kind: ResourceKind) -> KindStatus {
        self.lock().kinds[kind as usize].clone()
    }

    /// Runs `read` on what is known of a kind; it must not come back here.
    pub fn read<T>(&self, kind: ResourceKind, read: impl FnOnce(&KindStatus) -> T) -> T {
        read(&self.lock().kinds[kind as usize])
    }

    /// The version of a resource that was accepted last.
    #[must_use]
    pub fn accepted(&self, kind: ResourceKind, name: &str) -> Option<AcceptedResource> {
        self.lock().kinds[kind as usize].accepted.get(name).cloned()
    }

    /// Why a resource is rejected.
    #[must_use]
    pub fn rejected(&self, kind: ResourceKind, name: &str) -> Option<RejectedResource> {
        self.lock().kinds[kind as usize].rejected.get(name).cloned()
    }

    #[must_use]
    pub fn ads(&self) -> AdsStatus {
        self.lock().ads.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Writers only assign: what a panicking one left is still good to read.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Runs `write` on a kind's status. Never across an await.
    pub(crate) fn update<T>(&self, kind: ResourceKind, write: impl FnOnce(&mut KindStatus) -> T) -> T {
        let mut state = self.lock();
        let out = write(&mut state.kinds[kind as usize]);
        if kind == ResourceKind::Secret {
            state.files_changed.notify_one();
        }
        out
    }

    /// Secrets whose content stands in files, and what tells that there are others.
    pub(crate) fn secret_files(&self) -> (Vec<FiledSecret>, Arc<Notify>) {
        let state = self.lock();
        let files = state.kinds[ResourceKind::Secret as usize].files.iter();
        let secrets = files.map(|((source, name), (held, files))| FiledSecret {
            source: source.clone(),
            name: Arc::clone(name),
            held: held.clone(),
            files: files.clone(),
        });
        (secrets.collect(), Arc::clone(&state.files_changed))
    }

    pub(crate) fn update_ads(&self, write: impl FnOnce(&mut AdsStatus)) {
        write(&mut self.lock().ads);
    }

    pub(crate) fn watch(&self, watched: impl IntoIterator<Item = (Arc<str>, Arc<str>)>) {
        self.lock().watched.extend(watched);
    }

    pub(crate) fn watched(&self, path: &str) -> Option<Arc<str>> {
        self.lock().watched.get(path).cloned()
    }
}

/// A secret that names files.
#[derive(Debug, Clone)]
pub(crate) struct FiledSecret {
    pub(crate) source: Source,
    pub(crate) name: Arc<str>,
    pub(crate) held: Held,
    /// Each with the folder to watch for it.
    pub(crate) files: Vec<(Arc<str>, Arc<Path>)>,
}

impl KindStatus {
    /// Notes the files that an accepted secret names.
    pub(crate) fn note_files(&mut self, source: &Source, name: &Arc<str>, held: &Held, files: SecretFiles) {
        let key = (source.clone(), Arc::clone(name));
        if files.is_empty() {
            self.files.remove(&key);
        } else {
            self.files.insert(key, (held.clone(), files));
        }
    }

    pub(crate) fn accept(&mut self, name: &Arc<str>, resource: AcceptedResource) {
        self.rejected.remove(name);
        self.accepted.insert(Arc::clone(name), resource);
    }

    pub(crate) fn reject(&mut self, source: &Source, version: &Arc<str>, rejected: &Rejected) {
        let (source, version) = (source.clone(), Arc::clone(version));
        let reason = rejected.reason.clone();
        let entry = RejectedResource { source, version, reason, since: SystemTime::now() };
        let again = self.rejected.get(&rejected.name).filter(|old| old.reason == entry.reason).map(|old| old.since);
        let since = again.unwrap_or(entry.since);
        self.rejected.insert(Arc::clone(&rejected.name), RejectedResource { since, ..entry });
    }

    pub(crate) fn forget(&mut self, name: &str, source: &Source) {
        if !self.files.is_empty() {
            self.files.remove(&(source.clone(), Arc::from(name)));
        }
        if self.accepted.get(name).is_some_and(|resource| resource.source == *source) {
            self.accepted.remove(name);
        }
        if self.rejected.get(name).is_some_and(|resource| resource.source == *source) {
            self.rejected.remove(name);
        }
    }
}
