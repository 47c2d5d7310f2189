//! Resources in files (`path_config_source`), watched.
//!
//! A file holds a `DiscoveryResponse`, as the state of the world of its kind. It is read again when anything moves in its
//! folder (atomic renames, Kubernetes' symlink swaps); what can't be read or is rejected leaves the last good version.

mod secrets;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::future::Future;
use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::{Needed, ResourceKind, Source, Update};
use outrigger_proto::pb;
use prost::Message;
use sha2::{Digest, Sha256};
use tokio::sync::watch as channel;

use crate::batch::{Batch, Held, prepare, raw};
use crate::{ConfigSink, Rejected, Status};
use watch::Folders;

pub use secrets::run_secret_files;

/// No file is longer.
const FILE_BYTES_MAX: u64 = 256 << 20;

/// A file of resources of one kind: a `DiscoveryResponse` in YAML, JSON or binary.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct FileSource {
    pub kind: ResourceKind,
    pub path: Arc<str>,
    /// Where moves are noticed; the file's folder unless set.
    pub watched_directory: Option<Arc<str>>,
}

/// Turns a `DiscoveryResponse` from YAML or JSON into its binary form. The error names lines and fields.
pub trait Render {
    fn render(&self, path: &Path, text: Vec<u8>) -> impl Future<Output = Result<Vec<u8>, String>>;
}

/// Reads and watches `fixed` and the files of `needed`, until the sender of `needed` is gone.
pub async fn run_files(
    fixed: Vec<FileSource>,
    render: &impl Render,
    sink: &impl ConfigSink,
    mut needed: channel::Receiver<Needed>,
    status: &Status,
) {
    let mut folders = Folders::new();
    let mut files: BTreeMap<(ResourceKind, Arc<str>), File> = BTreeMap::new();
    for source in fixed {
        files.insert((source.kind, Arc::clone(&source.path)), File::new(source));
    }
    loop {
        let names = needed.borrow_and_update().files.clone();
        adopt(&mut files, &names, status);
        folders.watch(files.values().map(|file| file.source.folder()).collect());
        // Clusters first: what they name is asked for next.
        for file in files.values_mut() {
            file.check(render, sink, status).await;
        }
        tokio::select! {
            changed = needed.changed() => if changed.is_err() { return },
            () = folders.changed() => {}
        }
    }
}

/// Takes over files that are newly needed, and the names that are expected of each.
fn adopt(
    files: &mut BTreeMap<(ResourceKind, Arc<str>), File>,
    needed: &BTreeMap<(ResourceKind, Arc<str>), BTreeSet<Arc<str>>>,
    status: &Status,
) {
    for file in files.values_mut() {
        file.names.clear();
    }
    for ((kind, path), names) in needed {
        let key = (*kind, Arc::clone(path));
        let file = files.entry(key).or_insert_with(|| {
            let watched_directory = status.watched(path);
            File::new(FileSource { kind: *kind, path: Arc::clone(path), watched_directory })
        });
        file.names.clone_from(names);
    }
}

impl FileSource {
    fn folder(&self) -> Arc<Path> {
        if let Some(folder) = &self.watched_directory {
            return Arc::from(Path::new(&**folder));
        }
        let parent = Path::new(&*self.path).parent().filter(|parent| !parent.as_os_str().is_empty());
        Arc::from(parent.unwrap_or(Path::new(".")))
    }
}

/// A watched file.
#[derive(Debug)]
struct File {
    source: FileSource,
    /// The digest of what was read last, or why it wasn't.
    last: Option<Result<[u8; 32], String>>,
    held: BTreeMap<Arc<str>, Held>,
    /// Read well at least once.
    read: bool,
    /// Names that others expect here.
    names: BTreeSet<Arc<str>>,
    /// Of these, the ones told as missing.
    missing: BTreeSet<Arc<str>>,
}

impl File {
    fn new(source: FileSource) -> File {
        File {
            source,
            last: None,
            held: BTreeMap::new(),
            read: false,
            names: BTreeSet::new(),
            missing: BTreeSet::new(),
        }
    }

    fn origin(&self) -> Source {
        Source::File(Arc::clone(&self.source.path))
    }

    /// Reads the file, and submits it where it changed.
    async fn check(&mut self, render: &impl Render, sink: &impl ConfigSink, status: &Status) {
        let text = read(&self.source.path);
        let digest = text.as_ref().map(|text| Sha256::digest(text).into()).map_err(Clone::clone);
        if self.last.as_ref() != Some(&digest) {
            self.last = Some(digest);
            status.update(self.source.kind, |status| status.update_attempt += 1);
            let message = match text {
                Ok(text) => to_binary(&self.source.path, text, render).await,
                Err(reason) => Err(reason),
            };
            match message.and_then(|message| parse(&message)) {
                Ok(response) => return self.submit(response, sink, status).await,
                Err(reason) => self.failed(reason, status),
            }
        }
        self.tell_missing(sink).await;
    }

    fn failed(&self, reason: String, status: &Status) {
        tracing::warn!(path = &*self.source.path, reason, "not read; what was read before stays");
        let rejected = Rejected { name: Arc::clone(&self.source.path), reason };
        status.update(self.source.kind, |status| {
            status.update_failure += 1;
            status.reject(&self.origin(), &Arc::from(""), &rejected);
        });
    }

    async fn submit(
        &mut self,
        response: pb::envoy::service::discovery::v3::DiscoveryResponse,
        sink: &impl ConfigSink,
        status: &Status,
    ) {
        let (kind, origin) = (self.source.kind, self.origin());
        let version: Arc<str> = Arc::from(response.version_info);
        let raws = response.resources.into_iter().filter_map(|any| raw(any, &version)).collect();
        let mut batch = prepare(kind, &origin, raws, |name| self.held.get(name), |_| true);
        batch.log(kind);
        status.watch(batch.watched.iter().cloned());
        let removed = self.absent(&batch);
        let update = Update {
            source: origin.clone(),
            kind,
            upserts: std::mem::take(&mut batch.upserts),
            removed: removed.clone(),
            missing: Vec::new(),
            refused: Vec::new(),
        };
        if !update.upserts.is_empty() || !update.removed.is_empty() {
            batch.judge(sink.submit(update).await);
        }
        for (name, (held, _)) in &batch.raws {
            self.held.insert(Arc::clone(name), held.clone());
            self.missing.remove(name);
        }
        for name in &removed {
            self.held.remove(name);
        }
        self.read = true;
        status.update(kind, |status| {
            status.forget(&self.source.path, &origin);
            batch.record(&origin, status);
            for name in &removed {
                status.forget(name, &origin);
            }
            status.version = version;
        });
        self.tell_missing(sink).await;
    }

    /// Names that were in the file and aren't any more; none where that can't be said.
    fn absent(&self, batch: &Batch) -> Vec<Arc<str>> {
        if batch.has_unnamed {
            return Vec::new();
        }
        let there: BTreeSet<&Arc<str>> = batch
            .raws
            .keys()
            .chain(batch.unchanged.iter().map(|(name, _)| name))
            .chain(batch.rejected.iter().map(|(rejected, _)| &rejected.name))
            .collect();
        self.held.keys().filter(|name| !there.contains(name)).cloned().collect()
    }

    /// Tells the names that are expected of this file and aren't in it.
    async fn tell_missing(&mut self, sink: &impl ConfigSink) {
        if !self.read {
            return;
        }
        let missing: Vec<Arc<str>> = self
            .names
            .iter()
            .filter(|name| !self.held.contains_key(*name) && !self.missing.contains(*name))
            .cloned()
            .collect();
        self.missing.retain(|name| self.names.contains(name));
        self.missing.extend(missing.iter().cloned());
        if !missing.is_empty() {
            let (source, kind) = (self.origin(), self.source.kind);
            sink.submit(Update {
                source,
                kind,
                upserts: Vec::new(),
                removed: Vec::new(),
                missing,
                refused: Vec::new(),
            })
            .await;
        }
    }
}

fn read(path: &str) -> Result<Vec<u8>, String> {
    let text = |error: std::io::Error| format!("cannot read: {error}");
    let file = std::fs::File::open(path).map_err(text)?;
    let mut bytes = Vec::new();
    file.take(FILE_BYTES_MAX + 1).read_to_end(&mut bytes).map_err(text)?;
    if bytes.len() as u64 > FILE_BYTES_MAX {
        return Err(format!("is longer than {FILE_BYTES_MAX} bytes"));
    }
    Ok(bytes)
}

/// By the file's extension, as Envoy does.
async fn to_binary(path: &str, text: Vec<u8>, render: &impl Render) -> Result<Bytes, String> {
    let path = Path::new(path);
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("pb") => Ok(Bytes::from(text)),
        Some("yaml" | "yml" | "json") => render.render(path, text).await.map(Bytes::from),
        _ => Err("has none of the extensions .yaml, .yml, .json and .pb".to_owned()),
    }
}

fn parse(message: &Bytes) -> Result<pb::envoy::service::discovery::v3::DiscoveryResponse, String> {
    pb::envoy::service::discovery::v3::DiscoveryResponse::decode(&message[..])
        .map_err(|error| format!("is no DiscoveryResponse: {error}"))
}

#[cfg(test)]
#[path = "files/tests.rs"]
mod tests;
