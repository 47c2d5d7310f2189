//! From a plugin's code, wherever it lies, to a module that can run: fetch, compile, keep.
//!
//! A module is known by the digest of its bytes. What is compiled once is kept in memory while it is used lately, on disk
//! for the next start, and never fetched or compiled twice at one time.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::future::Future;
use std::io::Read;
use std::net::SocketAddr;
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::rc::Rc;

use bytes::Bytes;
use outrigger_config::{CodeSource, ModuleCode};
use outrigger_wasm::{Code, CompiledModule, Engine};
use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::cache::{Cache, Digest, digest, hex};
use crate::child::{self, Ended, Job, Output};
use crate::compile_child;
use crate::fetch::{MODULE_BYTES_MAX, Wanted, fetch};
use crate::metrics::WasmMetrics;
use crate::system;

/// Modules that are kept though nobody may use them any more, so that a change back costs nothing.
const KEPT_MAX: usize = 32;
/// The compiler's address space, where the system grants that much.
const COMPILER_BYTES_MAX: u64 = 2 << 30;
/// With less than this no module compiles.
const COMPILER_BYTES_MIN: u64 = 96 << 20;

/// Endpoints of a cluster, by its name; waits for a cluster that isn't there yet, within bounds.
pub(crate) trait Endpoints {
    fn endpoints(&self, cluster: &str) -> impl Future<Output = Result<Vec<SocketAddr>, String>>;
}

/// Where modules come from.
#[derive(Debug)]
pub(crate) struct Modules {
    engine: OnceCell<Engine>,
    /// `None`: no folder is writable.
    cache: Option<Cache>,
    kept: RefCell<Kept>,
    /// Whoever prepares a module holds its lock, so that a second one finds it done.
    turns: RefCell<HashMap<ModuleCode, Rc<Mutex<()>>>>,
    metrics: Rc<WasmMetrics>,
}

impl Modules {
    pub(crate) fn new(cache: Option<Cache>, metrics: Rc<WasmMetrics>) -> Modules {
        Modules { engine: OnceCell::new(), cache, kept: RefCell::default(), turns: RefCell::default(), metrics }
    }

    /// The module and its digest, or what is wrong with it in words for whoever sent it.
    pub(crate) async fn load(
        &self,
        code: &ModuleCode,
        endpoints: &impl Endpoints,
    ) -> Result<(CompiledModule, Digest), String> {
        let turn = Rc::clone(self.turns.borrow_mut().entry(code.clone()).or_default());
        let outcome = {
            let _mine = turn.lock().await;
            self.load_alone(code, endpoints).await
        };
        let mut turns = self.turns.borrow_mut();
        if Rc::strong_count(&turn) == 2 {
            turns.remove(code);
        }
        outcome
    }

    async fn load_alone(
        &self,
        code: &ModuleCode,
        endpoints: &impl Endpoints,
    ) -> Result<(CompiledModule, Digest), String> {
        // A digest that is known saves the fetch; a file is read all the same, since it may have been replaced.
        let is_file = matches!(code.source, CodeSource::File(_));
        if let Some(sha256) = code.sha256.filter(|_| !is_file)
            && let Some(module) = self.known(&sha256).await?
        {
            return Ok((module, sha256));
        }
        let wasm = self.bytes(code, endpoints).await?;
        let sha256 = digest(&wasm);
        if let Some(expected) = code.sha256.filter(|expected| *expected != sha256) {
            return Err(format!("the module's digest is {} and not {}", hex(&sha256), hex(&expected)));
        }
        if let Some(module) = self.known(&sha256).await? {
            return Ok((module, sha256));
        }
        let module = self.compile(sha256, wasm).await?;
        self.kept.borrow_mut().insert(sha256, module.clone());
        Ok((module, sha256))
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
            let path = cache.get(&sha256, &compatibility(&engine))?;
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
            self.kept.borrow_mut().insert(sha256, module.clone());
        }
        Ok(module)
    }

    async fn bytes(&self, code: &ModuleCode, endpoints: &impl Endpoints) -> Result<Bytes, String> {
        match &code.source {
            CodeSource::Inline(bytes) if bytes.is_empty() => Err("the module has no bytes".to_owned()),
            CodeSource::Inline(bytes) => Ok(bytes.clone()),
            CodeSource::File(path) => read(path),
            CodeSource::Remote { uri, cluster, timeout, retries } => {
                let sha256 = code.sha256.ok_or("remote code needs sha256")?;
                let endpoints = endpoints.endpoints(cluster).await?;
                let wanted = Wanted { uri: uri.clone(), endpoints, timeout: *timeout, retries: *retries, sha256 };
                let started = Instant::now();
                let outcome = fetch(&wanted).await;
                self.metrics.fetched(outcome.is_ok(), started.elapsed());
                outcome.map_err(|error| format!("fetching {uri} from cluster {cluster}: {error}"))
            }
        }
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
        outcome
    }

    async fn compile_in_child(&self, sha256: Digest, wasm: Bytes, memory_bytes: u64) -> Result<CompiledModule, String> {
        let engine = self.engine()?;
        let io = |error: std::io::Error| format!("cannot keep the module's machine code: {error}");
        let scratch = self.cache.as_ref().map(Cache::scratch).transpose().map_err(io)?;
        let memory = if scratch.is_none() { Some(system::memory_file().map_err(io)?) } else { None };
        let target = match (&scratch, &memory) {
            (Some(scratch), _) => scratch.as_file().try_clone().map_err(io)?,
            (None, Some(memory)) => memory.try_clone().map_err(io)?,
            (None, None) => return Err("there is nowhere to write machine code to".to_owned()),
        };
        let arguments: [OsString; 3] = ["compile".into(), "--memory-bytes".into(), memory_bytes.to_string().into()];
        let ended = child::run(Job::Compile, &arguments, wasm, Output::File(target), compile_child::TIME_MAX).await;
        let Ended { status, stderr, .. } = ended.map_err(|error| format!("cannot compile the module: {error}"))?;
        if let Some(reason) = compile_child::meaning(status, &stderr, memory_bytes) {
            return Err(reason);
        }
        let cache = self.cache.clone();
        off_thread(move || {
            let path: PathBuf = match (cache, scratch, &memory) {
                (Some(cache), Some(scratch), _) => {
                    cache.insert(&sha256, &compatibility(&engine), scratch).map_err(io)?
                }
                (_, _, Some(memory)) => format!("/proc/self/fd/{}", memory.as_raw_fd()).into(),
                _ => return Err("there is no machine code".to_owned()),
            };
            // The mapping outlives the descriptor of a memory file.
            engine.load(Code::File(path)).map_err(|error| format!("the module {error}"))
        })
        .await?
    }

    fn engine(&self) -> Result<Engine, String> {
        if let Some(engine) = self.engine.get() {
            return Ok(engine.clone());
        }
        let engine = Engine::new().map_err(|error| error.to_string())?;
        Ok(self.engine.get_or_init(|| engine).clone())
    }
}

fn compatibility(engine: &Engine) -> String {
    format!("{:016x}", engine.compatibility())
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

/// Modules by digest, with when they were last asked for.
#[derive(Debug, Default)]
struct Kept {
    modules: HashMap<Digest, (CompiledModule, u64)>,
    clock: u64,
}

impl Kept {
    fn get(&mut self, sha256: &Digest) -> Option<CompiledModule> {
        self.clock += 1;
        let (module, used) = self.modules.get_mut(sha256)?;
        *used = self.clock;
        Some(module.clone())
    }

    fn insert(&mut self, sha256: Digest, module: CompiledModule) {
        self.clock += 1;
        self.modules.insert(sha256, (module, self.clock));
        while self.modules.len() > KEPT_MAX {
            let oldest = self.modules.iter().min_by_key(|(_, (_, used))| *used).map(|(sha256, _)| *sha256);
            match oldest {
                Some(oldest) => self.modules.remove(&oldest),
                None => break,
            };
        }
    }
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
