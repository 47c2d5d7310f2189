//! Where modules come from. Files are read once and then found by what the file system says about them, so that a
//! reload of a folder costs no more than the metadata of its modules.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs::{self, File, Metadata};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use bytes::Bytes;
use outrigger_model::{Digest, Module};

use crate::wasm;

/// The largest module that is taken.
pub const MODULE_BYTES_MAX: usize = 64 << 20;
/// All modules of one folder.
const TOTAL_BYTES_MAX: usize = 512 << 20;

/// Fetches what a `source.http` names. It blocks; the loader asks for each digest once and keeps what it got.
pub trait ModuleFetcher: fmt::Debug + Send + Sync {
    /// Of at most `bytes_max` bytes; the loader checks the digest. The error is a sentence for the user.
    fn fetch(&self, url: &str, bytes_max: usize) -> Result<Bytes, String>;
}

/// A `source` that is well formed.
#[derive(Clone, Debug)]
pub(crate) enum Origin<'a> {
    File { path: &'a str, sha256: Option<Digest> },
    Http { url: String, sha256: Digest },
}

/// What a filter's decoder asks.
pub(crate) trait ModuleSource {
    /// `file` is the YAML file, relative to the folder. The error is a sentence for the user.
    fn module(&mut self, file: &str, origin: &Origin<'_>) -> Result<Module, String>;
}

/// For objects that no folder holds: from them, no path leads anywhere.
#[derive(Debug)]
pub(crate) struct NoFiles<'m>(pub(crate) &'m mut Modules);

impl ModuleSource for NoFiles<'_> {
    fn module(&mut self, file: &str, origin: &Origin<'_>) -> Result<Module, String> {
        match origin {
            Origin::File { .. } => Err("a file can be named in a folder only".to_owned()),
            Origin::Http { .. } => self.0.module(file, origin),
        }
    }
}

/// Changes whenever the file's content does: a file that is replaced by renaming has another inode, one that is
/// written in place another change time.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    length: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn new(metadata: &Metadata) -> Self {
        Self {
            device: metadata.dev(),
            inode: metadata.ino(),
            length: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

#[derive(Debug)]
pub(crate) struct Modules {
    root: PathBuf,
    allow_outside: bool,
    fetcher: Option<Arc<dyn ModuleFetcher>>,
    files: BTreeMap<PathBuf, (Stamp, Module)>,
    fetched: BTreeMap<Digest, Module>,
    /// Since the last [`Modules::start`].
    used_files: BTreeSet<PathBuf>,
    used_digests: BTreeMap<Digest, usize>,
}

impl Modules {
    pub(crate) fn new(root: PathBuf, allow_outside: bool, fetcher: Option<Arc<dyn ModuleFetcher>>) -> Self {
        Self {
            root,
            allow_outside,
            fetcher,
            files: BTreeMap::new(),
            fetched: BTreeMap::new(),
            used_files: BTreeSet::new(),
            used_digests: BTreeMap::new(),
        }
    }

    pub(crate) fn start(&mut self) {
        self.used_files.clear();
        self.used_digests.clear();
    }

    /// Forgets what was not asked for since the start; gives the files that were, also those that are not there.
    pub(crate) fn finish(&mut self) -> Vec<PathBuf> {
        let (used_files, used_digests) = (&self.used_files, &self.used_digests);
        self.files.retain(|path, _| used_files.contains(path));
        self.fetched.retain(|digest, _| used_digests.contains_key(digest));
        self.used_files.iter().cloned().collect()
    }

    fn file(&mut self, yaml: &str, path: &str) -> Result<Module, String> {
        let folder = self.root.join(yaml).parent().map(Path::to_path_buf).unwrap_or_default();
        let joined = folder.join(path);
        // Watched, too, while it is missing.
        self.used_files.insert(joined.clone());
        let unreadable = |error: std::io::Error| format!("`{path}` cannot be read: {error}");
        let real = fs::canonicalize(&joined).map_err(unreadable)?;
        let root = fs::canonicalize(&self.root).map_err(unreadable)?;
        if !self.allow_outside && !real.starts_with(&root) {
            return Err(format!("`{path}` is outside of the configuration folder"));
        }
        let file = File::open(&real).map_err(unreadable)?;
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(format!("`{path}` is not a file"));
        }
        let stamp = Stamp::new(&metadata);
        if let Some((_, module)) = self.files.get(&joined).filter(|(known, _)| *known == stamp) {
            return Ok(module.clone());
        }
        let too_large = || format!("`{path}` is larger than {} MiB", MODULE_BYTES_MAX >> 20);
        if metadata.len() > MODULE_BYTES_MAX as u64 {
            return Err(too_large());
        }
        let mut bytes = Vec::with_capacity(usize::try_from(metadata.len()).unwrap_or(0));
        file.take(MODULE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() > MODULE_BYTES_MAX {
            return Err(too_large());
        }
        wasm::check(&bytes).map_err(|message| format!("`{path}`: {message}"))?;
        let module = Module::new(Bytes::from(bytes));
        self.files.insert(joined, (stamp, module.clone()));
        Ok(module)
    }

    fn http(&mut self, url: &str, sha256: Digest) -> Result<Module, String> {
        if let Some(module) = self.fetched.get(&sha256) {
            return Ok(module.clone());
        }
        let fetcher = self.fetcher.as_ref().ok_or("modules over HTTP are not supported here")?;
        let bytes = fetcher.fetch(url, MODULE_BYTES_MAX).map_err(|message| format!("`{url}`: {message}"))?;
        let module = Module::new(bytes);
        check_digest(&module, Some(sha256)).map_err(|message| format!("`{url}`: {message}"))?;
        wasm::check(module.bytes()).map_err(|message| format!("`{url}`: {message}"))?;
        self.fetched.insert(sha256, module.clone());
        Ok(module)
    }
}

impl ModuleSource for Modules {
    fn module(&mut self, file: &str, origin: &Origin<'_>) -> Result<Module, String> {
        let module = match origin {
            Origin::File { path, sha256 } => {
                let module = self.file(file, path)?;
                check_digest(&module, *sha256).map_err(|message| format!("`{path}`: {message}"))?;
                module
            }
            Origin::Http { url, sha256 } => {
                self.used_digests.insert(*sha256, 0);
                self.http(url, *sha256)?
            }
        };
        self.used_digests.insert(module.sha256(), module.bytes().len());
        if self.used_digests.values().sum::<usize>() > TOTAL_BYTES_MAX {
            return Err(format!("the modules have more than {} MiB together", TOTAL_BYTES_MAX >> 20));
        }
        Ok(module)
    }
}

fn check_digest(module: &Module, expected: Option<Digest>) -> Result<(), String> {
    match expected {
        Some(expected) if expected != module.sha256() => {
            Err(format!("its SHA-256 is {}, not {expected}", module.sha256()))
        }
        _ => Ok(()),
    }
}
