//! Rollouts as they run: what proxies report goes in, and what must outlive this process is kept in the state folder.
//!
//! `rollouts.json` has, for each filter with a rollout or a shadow, the revision that runs, the new one with its step, and
//! the one that was given up; `modules/HEX.wasm` has their code, since the folder's own files may be overwritten. Both come
//! into being by rename. A state that cannot be read is no reason not to serve: it is said, and what the folder has is
//! taken as what runs.

use std::collections::BTreeMap;
use std::fs::{self, DirBuilder};
use std::io::Write as _;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use outrigger_model::{
    Digest, FailurePolicy, GivenUp, Isolation, Limits, Module, ObjectId, Objects, Progress, Record, Reports, Revision,
    RolloutEvent, RolloutState, Rollouts,
};
use outrigger_xds_server::{ProxyStatus, SyncState};
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};
use tracing::{error, info, warn};

const STATE_BYTES_MAX: u64 = 64 << 20;
const MODULE_BYTES_MAX: u64 = 64 << 20;

/// Shared by the loop that loads and the pages.
#[derive(Debug)]
pub(crate) struct Staging {
    /// `None`: nothing outlives the process.
    folder: Option<PathBuf>,
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    rollouts: Rollouts,
    saved: Option<BTreeMap<ObjectId, Record>>,
}

/// A rollout, for people and programs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ShownRollout {
    /// Complete, Progressing, Shadow, RolledBack.
    pub(crate) state: String,
    /// The new revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) revision: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) percent: Option<u8>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) steps: Vec<u8>,
    /// For how long every proxy has had this step; absent while some don't have it yet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) step_seconds: Option<u64>,
    /// Why the new revision was given up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
}

impl Staging {
    /// Continues what was remembered in the folder.
    pub(crate) fn open(folder: Option<PathBuf>) -> Self {
        let folder = folder.and_then(|folder| match prepare(&folder) {
            Ok(()) => Some(folder),
            Err(error) => {
                warn!("no state folder: {error:#}; a restart in the middle of a rollout promotes the new revision");
                None
            }
        });
        let records = folder.as_deref().map_or_else(BTreeMap::new, |folder| match read(folder) {
            Ok(records) => records,
            Err(error) => {
                error!("the state of rollouts is lost: {error:#}");
                BTreeMap::new()
            }
        });
        let inner = Inner { rollouts: Rollouts::restore(records), saved: None };
        Self { folder, inner: Mutex::new(inner) }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Turns what users wrote into what proxies get, and remembers it.
    pub(crate) fn stage(&self, objects: &mut Objects) {
        let mut inner = self.lock();
        inner.rollouts.stage(objects);
        let records = inner.rollouts.records();
        if inner.saved.as_ref() == Some(&records) {
            return;
        }
        if let Some(folder) = &self.folder
            && let Err(error) = write(folder, &records)
        {
            error!("the state of rollouts cannot be kept: {error:#}");
        }
        inner.saved = Some(records);
    }

    pub(crate) fn is_active(&self) -> bool {
        self.lock().rollouts.is_active()
    }

    /// Whether anything changed; then [`Staging::stage`] tells what proxies get.
    pub(crate) fn advance(&self, proxies: &[ProxyStatus]) -> bool {
        let connected: Vec<_> = proxies.iter().filter(|proxy| proxy.state != SyncState::Disconnected).collect();
        let mut inner = self.lock();
        let states: BTreeMap<ObjectId, RolloutState> = inner
            .rollouts
            .active()
            .map(|id| (id.clone(), inner.rollouts.state(id)))
            .filter_map(|(id, state)| Some((id, state?)))
            .collect();
        let events = inner.rollouts.advance(now(), |id| reports(id, states.get(id), &connected));
        for (id, event) in &events {
            match event {
                RolloutEvent::Step { percent } => info!(filter = %id, percent, "rollout: next step"),
                RolloutEvent::Promoted { revision } => info!(filter = %id, revision, "rollout: promoted"),
                RolloutEvent::GivenUp { revision, reason } => {
                    warn!(filter = %id, revision, "rollout: rolled back: {reason}");
                }
            }
        }
        !events.is_empty()
    }

    pub(crate) fn shown(&self, id: &ObjectId) -> Option<ShownRollout> {
        let state = self.lock().rollouts.state(id)?;
        let none = ShownRollout {
            state: String::new(),
            revision: None,
            percent: None,
            steps: Vec::new(),
            step_seconds: None,
            reason: None,
        };
        Some(match state {
            RolloutState::Complete => ShownRollout { state: "Complete".to_owned(), ..none },
            RolloutState::Progressing { progress, percent, steps, since } => ShownRollout {
                state: "Progressing".to_owned(),
                revision: Some(progress.revision.name()),
                percent: Some(percent),
                steps,
                step_seconds: since.map(|since| now().saturating_sub(since) / 1000),
                ..none
            },
            RolloutState::Shadow { progress } => {
                ShownRollout { state: "Shadow".to_owned(), revision: Some(progress.revision.name()), ..none }
            }
            RolloutState::GivenUp(GivenUp { revision, percent, reason, .. }) => ShownRollout {
                state: "RolledBack".to_owned(),
                revision: Some(revision),
                percent: Some(percent),
                reason: Some(reason),
                ..none
            },
        })
    }
}

/// Milliseconds since 1970.
fn now() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// What connected proxies say of a filter. Clients that cannot try revisions count only where there are no others.
fn reports(id: &ObjectId, state: Option<&RolloutState>, connected: &[&ProxyStatus]) -> Reports {
    let name = id.to_string();
    let stage = state.and_then(RolloutState::stage).unwrap_or_default();
    let states = || {
        connected.iter().filter_map(|proxy| {
            let filter = proxy.filters.iter().find(|filter| filter.name == name)?;
            Some((proxy, filter))
        })
    };
    let able = || states().filter(|(_, filter)| filter.stage.is_some());
    let rejected = able().find_map(|(proxy, filter)| {
        let is_it = filter.stage.as_deref() == Some(stage.as_str()) && filter.state == SyncState::Nacked;
        is_it.then(|| (proxy.node.clone(), filter.reason.clone().unwrap_or_default()))
    });
    let current = |stage_of: Option<&str>, filter: SyncState| {
        filter == SyncState::Acked && stage_of.is_none_or(|found| found == stage)
    };
    let of_interest: Vec<_> = if able().next().is_some() { able().collect() } else { states().collect() };
    Reports {
        proxies: of_interest.len(),
        current: of_interest.iter().filter(|(_, filter)| current(filter.stage.as_deref(), filter.state)).count(),
        rejected,
    }
}

/// Where the state of a configuration folder is kept unless somebody says otherwise.
pub(crate) fn default_folder(config: &Path, variable: impl Fn(&str) -> Option<PathBuf>) -> PathBuf {
    let absolute = |name: &str| variable(name).filter(|path| path.is_absolute());
    let base = match (absolute("XDG_STATE_HOME"), absolute("HOME")) {
        (Some(state), _) => state.join("outrigger"),
        (None, Some(home)) if home != Path::new("/") => home.join(".local/state/outrigger"),
        _ => PathBuf::from("/var/lib/outrigger"),
    };
    let config = fs::canonicalize(config).unwrap_or_else(|_| config.to_owned());
    let digest = Digest(Sha256::digest(config.as_os_str().as_encoded_bytes()).into()).to_string();
    base.join(&digest[..16])
}

fn prepare(folder: &Path) -> Result<()> {
    let modules = folder.join("modules");
    DirBuilder::new().recursive(true).mode(0o700).create(&modules).with_context(|| modules.display().to_string())?;
    // A folder on a read-only file system shows here.
    replace(&folder.join("probe"), b"")?;
    let _ = fs::remove_file(folder.join("probe"));
    Ok(())
}

#[derive(Debug, Serialize, Deserialize)]
struct Saved {
    filters: BTreeMap<String, SavedRecord>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRecord {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    stable: Option<SavedRevision>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    progress: Option<SavedProgress>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    given_up: Option<SavedGivenUp>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedRevision {
    module: Digest,
    /// Text, which it always is where it came from YAML.
    config: String,
    failure_policy: FailurePolicy,
    limits: Limits,
    isolation: Isolation,
    env: Vec<(String, String)>,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedProgress {
    id: String,
    revision: SavedRevision,
    step: usize,
}

#[derive(Debug, Serialize, Deserialize)]
struct SavedGivenUp {
    id: String,
    revision: String,
    percent: u8,
    reason: String,
}

fn write(folder: &Path, records: &BTreeMap<ObjectId, Record>) -> Result<()> {
    let mut used = Vec::new();
    let mut filters = BTreeMap::new();
    for (id, record) in records {
        let Record { stable, progress, given_up } = record;
        for revision in stable.iter().chain(progress.iter().map(|progress| &progress.revision)) {
            let path = module_path(folder, &revision.module.sha256());
            if !path.exists() {
                replace(&path, revision.module.bytes())?;
            }
            used.push(path);
        }
        let saved = SavedRecord {
            stable: stable.as_deref().map(save),
            progress: progress.as_ref().map(|Progress { id, revision, step }| SavedProgress {
                id: id.clone(),
                revision: save(revision),
                step: *step,
            }),
            given_up: given_up.clone().map(|GivenUp { id, revision, percent, reason }| SavedGivenUp {
                id,
                revision,
                percent,
                reason,
            }),
        };
        filters.insert(id.to_string(), saved);
    }
    replace(&folder.join("rollouts.json"), &serde_json::to_vec_pretty(&Saved { filters })?)?;
    // Only then: what the file names is there at any time.
    for entry in fs::read_dir(folder.join("modules"))?.flatten() {
        if !used.contains(&entry.path()) {
            let _ = fs::remove_file(entry.path());
        }
    }
    Ok(())
}

fn save(revision: &Revision) -> SavedRevision {
    let Revision { module, config, failure_policy, limits, isolation, env } = revision;
    SavedRevision {
        module: module.sha256(),
        config: String::from_utf8_lossy(config).into_owned(),
        failure_policy: *failure_policy,
        limits: *limits,
        isolation: *isolation,
        env: env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect(),
    }
}

fn read(folder: &Path) -> Result<BTreeMap<ObjectId, Record>> {
    let path = folder.join("rollouts.json");
    if !path.exists() {
        return Ok(BTreeMap::new());
    }
    let saved: Saved =
        serde_json::from_slice(&bounded(&path, STATE_BYTES_MAX)?).with_context(|| path.display().to_string())?;
    let mut records = BTreeMap::new();
    for (id, saved) in saved.filters {
        let parsed: ObjectId = id.parse().with_context(|| format!("{}: {id:?} names no filter", path.display()))?;
        let SavedRecord { stable, progress, given_up } = saved;
        let progress = match progress {
            Some(SavedProgress { id, revision, step }) => {
                Some(Progress { id, revision: load(folder, revision)?, step })
            }
            None => None,
        };
        let record = Record {
            stable: stable.map(|stable| load(folder, stable)).transpose()?,
            progress,
            given_up: given_up.map(|SavedGivenUp { id, revision, percent, reason }| GivenUp {
                id,
                revision,
                percent,
                reason,
            }),
        };
        records.insert(parsed, record);
    }
    Ok(records)
}

fn load(folder: &Path, saved: SavedRevision) -> Result<Arc<Revision>> {
    let SavedRevision { module, config, failure_policy, limits, isolation, env } = saved;
    let path = module_path(folder, &module);
    let bytes = Module::new(Bytes::from(bounded(&path, MODULE_BYTES_MAX)?));
    ensure!(bytes.sha256() == module, "{} holds other bytes than were written", path.display());
    let env = env.into_iter().map(|(name, value)| (Arc::from(name), Arc::from(value))).collect();
    Ok(Arc::new(Revision { module: bytes, config: config.into(), failure_policy, limits, isolation, env }))
}

fn module_path(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("modules").join(format!("{digest}.wasm"))
}

fn bounded(path: &Path, bytes_max: u64) -> Result<Vec<u8>> {
    let read = || {
        let length = fs::metadata(path)?.len();
        ensure!(length <= bytes_max, "it is larger than {bytes_max} bytes");
        Ok(fs::read(path)?)
    };
    read().with_context(|| path.display().to_string())
}

/// Whoever reads never sees half of it.
fn replace(path: &Path, bytes: &[u8]) -> Result<()> {
    let temporary = path.with_extension(format!("tmp{}", std::process::id()));
    let write = || {
        let mut file = fs::File::create(&temporary)?;
        file.write_all(bytes)?;
        file.sync_data()?;
        fs::rename(&temporary, path)
    };
    write().with_context(|| path.display().to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn revision(code: &str) -> Arc<Revision> {
        Arc::new(Revision {
            module: Module::new(Bytes::copy_from_slice(code.as_bytes())),
            config: Bytes::from_static(b"{\"a\":1}"),
            failure_policy: FailurePolicy::Open,
            limits: Limits { memory_bytes: Some(1 << 20), ..Limits::default() },
            isolation: Isolation::Plugin,
            env: vec![("A".into(), "B".into())],
        })
    }

    fn records() -> BTreeMap<ObjectId, Record> {
        let progress = Progress { id: "x".to_owned(), revision: revision("new"), step: 2 };
        let given_up = GivenUp { id: "y".to_owned(), revision: "r".to_owned(), percent: 5, reason: "traps".to_owned() };
        BTreeMap::from([
            (
                ObjectId::new("shop", "keys"),
                Record { stable: Some(revision("old")), progress: Some(progress), given_up: None },
            ),
            (
                ObjectId::new("shop", "other"),
                Record { stable: Some(revision("old")), progress: None, given_up: Some(given_up) },
            ),
        ])
    }

    #[test]
    fn what_is_written_is_read() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).unwrap();
        assert!(read(folder.path()).unwrap().is_empty());
        write(folder.path(), &records()).unwrap();
        assert_eq!(read(folder.path()).unwrap(), records());
        assert_eq!(fs::read_dir(folder.path().join("modules")).unwrap().count(), 2);
        // Modules that nobody names any more go.
        write(folder.path(), &BTreeMap::new()).unwrap();
        assert_eq!(fs::read_dir(folder.path().join("modules")).unwrap().count(), 0);
    }

    #[test]
    fn what_is_broken_is_said() {
        let folder = tempfile::tempdir().unwrap();
        prepare(folder.path()).unwrap();
        write(folder.path(), &records()).unwrap();
        let module = module_path(folder.path(), &revision("old").module.sha256());
        fs::write(&module, "other").unwrap();
        assert!(format!("{:#}", read(folder.path()).unwrap_err()).contains("other bytes"));
        fs::write(folder.path().join("rollouts.json"), "{").unwrap();
        assert!(format!("{:#}", read(folder.path()).unwrap_err()).contains("rollouts.json"));
        // It serves all the same.
        assert!(!Staging::open(Some(folder.path().to_owned())).is_active());
        assert!(!Staging::open(Some("/dev/null/x".into())).is_active());
    }

    #[test]
    fn each_configuration_has_a_state_of_its_own() {
        let home = |name: &str| (name == "HOME").then(|| PathBuf::from("/home/me"));
        let one = default_folder(Path::new("/a"), home);
        assert!(one.starts_with("/home/me/.local/state/outrigger"), "{one:?}");
        assert_ne!(one, default_folder(Path::new("/b"), home));
    }
}
