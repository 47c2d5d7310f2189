//! From a plugin's code, wherever it lies, to a module that can run: fetch, compile, keep.
//!
//! A module is known by the digest of its bytes. What is compiled once is kept in memory while it is used lately, on disk
//! for the next start, and never fetched or compiled twice at one time.

mod kept;

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::io::Read;
use std::os::fd::AsRawFd;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{CodeSource, ModuleCode, RemoteCode};
use outrigger_http::hex;
use outrigger_proto::machine_code::{ENVELOPE_BYTES_MAX, PREFIX_BYTES};
use outrigger_wasm::{Code, CompiledModule, Engine};
use rand::seq::IndexedRandom;
use tempfile::NamedTempFile;
use tokio::sync::Mutex;
use tokio::time::Instant;

use self::kept::{Failed, Kept};
use crate::cache::{Cache, Digest, digest};
use crate::channel::Dial;
use crate::child::{self, Ended, Job, Output};
use crate::code_key::CodeKeys;
use crate::compile_child;
use crate::fetch::{FetchError, MODULE_BYTES_MAX, Wanted, fetch, fetch_into};
use crate::machine_code::{Expected, FETCHED_BYTES_MAX, Receiver};
use crate::metrics::WasmMetrics;
use crate::system;

/// The compiler's address space, where the system grants that much.
const COMPILER_BYTES_MAX: u64 = 2 << 30;
/// With less than this no module compiles.
const COMPILER_BYTES_MIN: u64 = 96 << 20;

/// For somebody else's machine code, which may be in the making; beyond it the module is compiled here.
const MACHINE_CODE_TIME_MAX: Duration = Duration::from_secs(45);

/// Endpoints of a cluster, one at least; waits for a cluster that isn't ready yet, within bounds.
pub(crate) trait Endpoints {
    fn endpoints(&self, cluster: &Arc<str>) -> impl Future<Output = Result<Vec<Dial>, String>>;
}

/// A file for machine code.
#[derive(Debug)]
enum Place {
    /// To become an entry of the cache.
    Scratch(NamedTempFile),
    Memory(fs::File),
}

impl Place {
    fn file(&self) -> &fs::File {
        match self {
            Place::Scratch(scratch) => scratch.as_file(),
            Place::Memory(file) => file,
        }
    }
}

/// Why there is no machine code from elsewhere.
#[derive(Debug)]
enum Signed {
    NotThere(String),
    Refused(String),
}

/// Where modules come from.
#[derive(Debug)]
pub(crate) struct Modules {
    engine: OnceCell<Engine>,
    /// `None`: no folder is writable.
    cache: Option<Cache>,
    /// Who may make machine code for us.
    keys: CodeKeys,
    kept: RefCell<Kept>,
    failed: RefCell<Failed>,
    /// Whoever prepares a module holds its lock, so that a second one finds it done.
    turns: RefCell<HashMap<ModuleCode, Rc<Mutex<()>>>>,
    metrics: Rc<WasmMetrics>,
}

impl Modules {
    pub(crate) fn new(cache: Option<Cache>, keys: CodeKeys, metrics: Rc<WasmMetrics>) -> Modules {
        Modules {
            engine: OnceCell::new(),
            cache,
            keys,
            kept: RefCell::default(),
            failed: RefCell::default(),
            turns: RefCell::default(),
            metrics,
        }
    }

    /// The module and its digest, or what is wrong with it in words for whoever sent it.
    pub(crate) async fn load(
        &self,
        code: &ModuleCode,
        asked: Instant,
        endpoints: &impl Endpoints,
    ) -> Result<(CompiledModule, Digest), String> {
        let turn = Rc::clone(self.turns.borrow_mut().entry(code.clone()).or_default());
        let outcome = {
            let _mine = turn.lock().await;
            self.load_alone(code, asked, endpoints).await
        };
        let entries = self.kept.borrow().len() + self.failed.borrow().len();
        self.metrics.remote_entries.set(i64::try_from(entries).unwrap_or(i64::MAX));
        let mut turns = self.turns.borrow_mut();
        if Rc::strong_count(&turn) == 2 {
            turns.remove(code);
        }
        outcome
    }

    async fn load_alone(
        &self,
        code: &ModuleCode,
        asked: Instant,
        endpoints: &impl Endpoints,
    ) -> Result<(CompiledModule, Digest), String> {
        let wasm = match &code.source {
            CodeSource::Remote(remote) => return self.load_remote(code, remote, asked, endpoints).await,
            CodeSource::File(path) => read(path)?,
            CodeSource::Inline(bytes) if bytes.is_empty() => return Err("the module has no bytes".to_owned()),
            CodeSource::Inline(bytes) => bytes.clone(),
        };
        // Inline bytes had their digest taken when they came.
        let inline = code.sha256.filter(|_| matches!(code.source, CodeSource::Inline(_)));
        let sha256 = inline.unwrap_or_else(|| digest(&wasm));
        if let Some(expected) = code.sha256.filter(|expected| *expected != sha256) {
            return Err(format!("the module's digest is {} and not {}", hex(&sha256), hex(&expected)));
        }
        let module = match self.known(&sha256).await? {
            Some(module) => module,
            None => self.compile(sha256, wasm).await?,
        };
        Ok((module, sha256))
    }

    /// Code whose digest is known needs no fetch; one that was fetched in vain while its turn was waited for, none either.
    async fn load_remote(
        &self,
        code: &ModuleCode,
        remote: &RemoteCode,
        asked: Instant,
        endpoints: &impl Endpoints,
    ) -> Result<(CompiledModule, Digest), String> {
        let sha256 = code.sha256.ok_or("remote code needs sha256")?;
        if let Some(module) = self.known(&sha256).await? {
            self.metrics.remote_hits.inc();
            return Ok((module, sha256));
        }
        if let Some(reason) = self.failed.borrow().since(code, asked) {
            self.metrics.remote_negative_hits.inc();
            return Err(reason);
        }
        self.metrics.remote_misses.inc();
        let outcome = self.load_anew(remote, sha256, endpoints).await;
        match &outcome {
            Ok(_) => self.failed.borrow_mut().remove(code),
            Err(reason) => self.failed.borrow_mut().insert(code, reason, Instant::now()),
        }
        Ok((outcome?, sha256))
    }

    async fn load_anew(
        &self,
        remote: &RemoteCode,
        sha256: Digest,
        endpoints: &impl Endpoints,
    ) -> Result<CompiledModule, String> {
        if let Some(uri) = &remote.machine_code
            && !self.keys.is_empty()
            && let Some(module) = self.signed(uri, &remote.cluster, sha256, endpoints).await?
        {
            self.kept.borrow_mut().insert(sha256, module.clone());
            return Ok(module);
        }
        let dials = endpoints.endpoints(&remote.cluster).await?;
        let wasm = self.fetch(remote, dials, sha256).await?;
        self.compile(sha256, wasm).await
    }

    async fn fetch(&self, remote: &RemoteCode, dials: Vec<Dial>, sha256: Digest) -> Result<Bytes, String> {
        let RemoteCode { uri, cluster, timeout, retries, backoff, machine_code: _ } = remote;
        let wanted =
            Wanted { uri: uri.clone(), dials, timeout: *timeout, retries: *retries, backoff: *backoff, sha256 };
        let started = Instant::now();
        let outcome = fetch(&wanted).await;
        self.metrics.fetched(outcome.is_ok(), started.elapsed());
        outcome.map_err(|error| format!("fetching {uri} from cluster {cluster}: {error}"))
    }

    /// From memory or disk.
    async fn known(&self, sha256: &Digest) -> Result<Option<CompiledModule>, String> {
        let kept = self.kept.borrow_mut().get(sha256);
        if kept.is_some() {
            self.metrics.cache_hits.inc();
            return Ok(kept);
        }
        let Some(cache) = self.cache.clone() else { return Ok(None) };
        let (engine, sha256) = (self.engine()?, *sha256);
        let loaded = off_thread(move || {
            let path = cache.get(&sha256, &engine.compatibility())?;
            match engine.load(Code::File(path)) {
                Ok(module) => Some(Ok(module)),
                // Code that cannot be loaded at all is compiled anew; a module that is no plugin stays one.
                Err(outrigger_wasm::LoadError::Code { reason }) => {
                    tracing::warn!("cached machine code of module {}: {reason}", hex(&sha256));
                    None
                }
                Err(error) => Some(Err(format!("the module {error}"))),
            }
        })
        .await?;
        let module = loaded.transpose()?;
        if let Some(module) = &module {
            self.metrics.cache_hits.inc();
            self.metrics.disk_cache_hits.inc();
            self.kept.borrow_mut().insert(sha256, module.clone());
        }
        Ok(module)
    }

    /// Machine code that a key of ours has signed; `None`, and a line in the log: there is none, so it is made here.
    async fn signed(
        &self,
        uri: &str,
        cluster: &Arc<str>,
        sha256: Digest,
        endpoints: &impl Endpoints,
    ) -> Result<Option<CompiledModule>, String> {
        let engine = self.engine()?;
        let name = hex(&sha256);
        let started = Instant::now();
        let fetched = self.fetch_signed(uri, cluster, &sha256, &engine.compatibility(), endpoints).await;
        let place = match fetched {
            Ok(place) => place,
            Err(Signed::NotThere(reason)) => {
                self.metrics.machine_code_unavailable.inc();
                tracing::info!("no machine code for module {name}: {reason}; it is compiled here");
                return Ok(None);
            }
            Err(Signed::Refused(reason)) => {
                self.metrics.machine_code_refused.inc();
                tracing::warn!("machine code for module {name} is refused: {reason}; it is compiled here");
                return Ok(None);
            }
        };
        let loaded = self.load_place(place, sha256, engine).await?;
        match loaded {
            Ok(module) => {
                self.metrics.machine_code_accepted.inc();
                tracing::info!("module {name}: signed machine code, after {} ms", started.elapsed().as_millis());
                Ok(Some(module))
            }
            Err(outrigger_wasm::LoadError::Code { reason }) => {
                self.metrics.machine_code_refused.inc();
                tracing::warn!("machine code for module {name} is refused: {reason}; it is compiled here");
                Ok(None)
            }
            Err(error) => Err(format!("the module {error}")),
        }
    }

    async fn fetch_signed(
        &self,
        uri: &str,
        cluster: &Arc<str>,
        module: &Digest,
        engine: &str,
        endpoints: &impl Endpoints,
    ) -> Result<Place, Signed> {
        let not_there = |error: String| Signed::NotThere(error);
        let dials = endpoints.endpoints(cluster).await.map_err(not_there)?;
        let dial = dials.choose(&mut rand::rng()).ok_or_else(|| not_there("no endpoint".to_owned()))?;
        let place = self.place().map_err(not_there)?;
        let expected = Expected { module, engine, keys: &self.keys };
        let mut receiver = Receiver::new(expected, place.file());
        let mut refusal = None;
        let take = |piece: &[u8]| {
            receiver.take(piece).map_err(|error| {
                let reason = error.to_string();
                refusal = Some(reason.clone());
                reason
            })
        };
        let bytes_max = usize::try_from(FETCHED_BYTES_MAX).unwrap_or(usize::MAX) + PREFIX_BYTES + ENVELOPE_BYTES_MAX;
        let uri = format!("{uri}/{engine}");
        let fetched = fetch_into(&uri, dial, MACHINE_CODE_TIME_MAX, bytes_max, take).await;
        if let Some(reason) = refusal {
            return Err(Signed::Refused(reason));
        }
        match fetched {
            Ok(()) => receiver.finish().map_err(|error| Signed::Refused(error.to_string()))?,
            Err(error @ FetchError::TooLarge(..)) => return Err(Signed::Refused(error.to_string())),
            Err(error) => return Err(not_there(error.to_string())),
        }
        Ok(place)
    }

    /// Where machine code may be written to.
    fn place(&self) -> Result<Place, String> {
        let io = |error: std::io::Error| format!("cannot keep the module's machine code: {error}");
        match &self.cache {
            Some(cache) => cache.scratch().map(Place::Scratch).map_err(io),
            None => system::memory_file().map(Place::Memory).map_err(io),
        }
    }

    /// Keeps machine code that was written, and maps it.
    async fn load_place(
        &self,
        place: Place,
        sha256: Digest,
        engine: Engine,
    ) -> Result<Result<CompiledModule, outrigger_wasm::LoadError>, String> {
        let cache = self.cache.clone();
        off_thread(move || match (place, cache) {
            (Place::Scratch(scratch), Some(cache)) => {
                let kept = cache.insert(&sha256, &engine.compatibility(), scratch);
                let path = kept.map_err(|error| format!("cannot keep the module's machine code: {error}"))?;
                Ok(engine.load(Code::File(path)))
            }
            // The mapping outlives the descriptor of a memory file.
            (place, _) => Ok(engine.load(Code::File(format!("/proc/self/fd/{}", place.file().as_raw_fd()).into()))),
        })
        .await?
    }

    async fn compile(&self, sha256: Digest, wasm: Bytes) -> Result<CompiledModule, String> {
        let room = system::memory_room().unwrap_or(u64::MAX);
        let memory_bytes = room.min(COMPILER_BYTES_MAX);
        if memory_bytes < COMPILER_BYTES_MIN {
            return Err(format!(
                "too little memory to compile the module: {} MiB are free here, a compiler takes {} MiB at least",
                memory_bytes >> 20,
                COMPILER_BYTES_MIN >> 20
            ));
        }
        let started = Instant::now();
        let outcome = self.compile_in_child(sha256, wasm, memory_bytes).await;
        self.metrics.compiled(outcome.is_ok(), started.elapsed());
        let module = outcome?;
        self.kept.borrow_mut().insert(sha256, module.clone());
        Ok(module)
    }

    async fn compile_in_child(&self, sha256: Digest, wasm: Bytes, memory_bytes: u64) -> Result<CompiledModule, String> {
        let engine = self.engine()?;
        let place = self.place()?;
        let target = place.file().try_clone();
        let target = target.map_err(|error| format!("cannot keep the module's machine code: {error}"))?;
        let memory = memory_bytes.to_string();
        let arguments: [OsString; 4] = ["compile".into(), "--raw".into(), "--memory-bytes".into(), memory.into()];
        let ended = child::run(Job::Compile, &arguments, wasm, Output::File(target), compile_child::TIME_MAX).await;
        let Ended { status, stderr, .. } = ended.map_err(|error| format!("cannot compile the module: {error}"))?;
        if let Some(reason) = compile_child::meaning(status, &stderr, memory_bytes) {
            return Err(reason);
        }
        self.load_place(place, sha256, engine).await?.map_err(|error| format!("the module {error}"))
    }

    fn engine(&self) -> Result<Engine, String> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine.clone());
        }
        let engine = Engine::new().map_err(|error| error.to_string())?;
        Ok(self.engine.get_or_init(|| engine).clone())
    }
}

fn read(path: &Path) -> Result<Bytes, String> {
    let fail = |error: std::io::Error| format!("{}: {error}", path.display());
    let file = fs::File::open(path).map_err(fail)?;
    if !file.metadata().map_err(fail)?.is_file() {
        return Err(format!("{} is no regular file", path.display()));
    }
    let mut bytes = Vec::new();
    file.take(MODULE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes).map_err(fail)?;
    if bytes.len() > MODULE_BYTES_MAX {
        return Err(format!("{} has more than {MODULE_BYTES_MAX} bytes", path.display()));
    }
    Ok(bytes.into())
}

/// Runs something that takes a while on a prepare thread.
pub(crate) async fn off_thread<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> Result<T, String> {
    let task = tokio::task::spawn_blocking(|| {
        system::lower_thread_priority();
        work()
    });
    task.await.map_err(|error| format!("a prepare thread ended: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_read_within_bounds() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("module.wasm");
        assert!(read(&path).unwrap_err().contains("module.wasm"));
        assert!(read(folder.path()).unwrap_err().contains("no regular file"));
        fs::write(&path, b"bytes").unwrap();
        assert_eq!(read(&path).unwrap(), "bytes");
        fs::File::options().write(true).open(&path).unwrap().set_len(MODULE_BYTES_MAX as u64 + 1).unwrap();
        assert!(read(&path).unwrap_err().contains("more than"));
    }
}
