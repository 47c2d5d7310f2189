//! Resources in files (`path_config_source`), watched.

use std::future::Future;
use std::path::Path;
use std::sync::Arc;

use outrigger_config::{Needed, ResourceKind};
use tokio::sync::watch;

use crate::{ConfigSink, Status};

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
    _fixed: Vec<FileSource>,
    _render: &impl Render,
    _sink: &impl ConfigSink,
    _needed: watch::Receiver<Needed>,
    _status: &Status,
) {
}
