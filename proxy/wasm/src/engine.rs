//! The engine: how modules are compiled and loaded.

use std::hash::{Hash, Hasher};
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use aws_lc_rs::digest;
use wasmtime::{Config, InstanceAllocationStrategy, WasmBacktraceDetails};

use crate::hostcall::HostcallTable;
use crate::module::{CompiledModule, LoadError, MappedCode};
use crate::pool;
use crate::ticker::Ticker;
use crate::trap::Trap;

/// The largest module that is compiled.
const WASM_BYTES_MAX: usize = 64 << 20;

/// Compiles and loads modules; shared by all threads, cheap to clone.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) shared: Arc<Shared>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) wasmtime: wasmtime::Engine,
    pub(crate) hostcalls: HostcallTable,
    pub(crate) ticker: Ticker,
    /// Instances that are taken from the pool; `None`: this engine makes each as it is wanted.
    pub(crate) pool: Option<Arc<pool::Pool>>,
    /// The same engine with a pool, as long as some module needs it.
    pooled: Mutex<Weak<Shared>>,
}

/// Machine code as [`Engine::compile`] made it.
#[derive(Debug, Clone)]
pub enum Code {
    /// Mapped; must not change as long as a module of it lives.
    File(PathBuf),
    Bytes(Vec<u8>),
}

/// The engine cannot run on this machine.
#[derive(Debug, thiserror::Error)]
#[error("cannot make a Wasm engine: {reason}")]
pub struct EngineError {
    pub reason: String,
}

/// A module does not compile.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CompileError {
    #[error("not a Wasm module: {reason}")]
    NotWasm { reason: String },
    #[error("the module has {bytes} bytes, more than {WASM_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("does not compile: {reason}")]
    Invalid { reason: String },
}

impl Engine {
    pub fn new() -> Result<Engine, EngineError> {
        Engine::with(config().allocation_strategy(InstanceAllocationStrategy::OnDemand), None)
    }

    /// For measuring what deadlines cost, and for nothing else: a guest that doesn't return never does.
    #[doc(hidden)]
    pub fn without_deadlines() -> Result<Engine, EngineError> {
        Engine::with(config().epoch_interruption(false), None)
    }

    fn with(config: &Config, pool: Option<Arc<pool::Pool>>) -> Result<Engine, EngineError> {
        let fail = |error: wasmtime::Error| EngineError { reason: format!("{error:#}") };
        let wasmtime = wasmtime::Engine::new(config).map_err(fail)?;
        let hostcalls = HostcallTable::new(&wasmtime).map_err(fail)?;
        let ticker = Ticker::new(wasmtime.weak());
        Ok(Engine { shared: Arc::new(Shared { wasmtime, hostcalls, ticker, pool, pooled: Mutex::default() }) })
    }

    /// The engine beside this one whose instances come from a pool: made for the first module that wants it, gone with the
    /// last. What one has compiled the other loads, since how instances are allocated is no matter of machine code.
    pub(crate) fn pooled(&self) -> Result<Engine, EngineError> {
        let mut pooled = self.shared.pooled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(shared) = pooled.upgrade() {
            return Ok(Engine { shared });
        }
        let engine = Engine::with(config().allocation_strategy(pool::strategy()), Some(Arc::default()))?;
        *pooled = Arc::downgrade(&engine.shared);
        Ok(engine)
    }

    /// Machine code of a module, for [`Engine::load`] of an engine with the same [`Engine::compatibility`].
    ///
    /// Takes CPU time and memory in proportion to the module: run it in a child process.
    pub fn compile(&self, wasm: &[u8]) -> Result<Vec<u8>, CompileError> {
        if wasm.len() > WASM_BYTES_MAX {
            return Err(CompileError::TooLarge { bytes: wasm.len() });
        }
        match wasm.get(..8) {
            Some([0, b'a', b's', b'm', 1, 0, 0, 0]) => {}
            Some([0, b'a', b's', b'm', _, 0, 1, 0]) => {
                return Err(CompileError::NotWasm { reason: "it is a component, not a core module".to_owned() });
            }
            _ => return Err(CompileError::NotWasm { reason: "it does not start with Wasm's magic bytes".to_owned() }),
        }
        self.shared
            .wasmtime
            .precompile_module(wasm)
            .map_err(|error| CompileError::Invalid { reason: bounded(&format!("{error:#}")) })
    }

    /// What machine code must agree on with the engine that loads it: version, CPU, settings. Part of a cache's key; a
    /// hash of 32 hexadecimal digits that is the same in every build with this version of wasmtime.
    #[must_use]
    pub fn compatibility(&self) -> String {
        let mut hasher = ShaHasher(digest::Context::new(&digest::SHA256));
        self.shared.wasmtime.precompile_compatibility_hash().hash(&mut hasher);
        let hash = hasher.0.finish();
        hash.as_ref().iter().take(16).fold(String::with_capacity(32), |mut text, byte| {
            text.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
            text.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
            text
        })
    }

    /// Loads machine code and checks that it is a Proxy-Wasm plugin which this host can run.
    ///
    /// The caller vouches that the code was made by [`Engine::compile`] and that nobody else could write to it since: it
    /// is run, not checked.
    pub fn load(&self, code: Code) -> Result<CompiledModule, LoadError> {
        let code = match code {
            Code::File(path) => std::fs::File::open(&path)
                .map(MappedCode::File)
                .map_err(|error| LoadError::Code { reason: format!("{}: {error}", path.display()) })?,
            Code::Bytes(bytes) => MappedCode::Bytes(bytes),
        };
        self.load_mapped(Arc::new(code))
    }

    pub(crate) fn load_mapped(&self, code: Arc<MappedCode>) -> Result<CompiledModule, LoadError> {
        let module =
            self.deserialize(&code).map_err(|error| LoadError::Code { reason: bounded(&format!("{error:#}")) })?;
        CompiledModule::new(self, &module, code)
    }

    #[expect(unsafe_code, reason = "machine code is loaded in this one place")]
    fn deserialize(&self, code: &MappedCode) -> wasmtime::Result<wasmtime::Module> {
        // SAFETY: `load` hands on its contract: the code comes from `precompile_module` through storage that only we can
        // write to, and a file stays as it is. wasmtime itself refuses code of another version, CPU or configuration.
        unsafe {
            match code {
                MappedCode::File(file) => {
                    wasmtime::Module::deserialize_open_file(&self.shared.wasmtime, file.try_clone()?)
                }
                MappedCode::Bytes(bytes) => wasmtime::Module::deserialize(&self.shared.wasmtime, bytes),
            }
        }
    }
}

/// What is hashed goes into a SHA-256: Rust's own hasher promises nothing from one version to the next.
struct ShaHasher(digest::Context);

impl Hasher for ShaHasher {
    /// Nobody asks for it.
    fn finish(&self) -> u64 {
        0
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// Every setting that bears on speed, memory or safety, with its reason.
fn config() -> Config {
    let mut config = Config::new();
    // Deadlines: a check at each loop and function costs 7 % of guest time where fuel costs 27 %.
    config.epoch_interruption(true).consume_fuel(false);
    // No DWARF: names come from the name section, and parsing debug sections of a guest costs memory.
    config.wasm_backtrace_details(WasmBacktraceDetails::Disable);
    config.wasm_backtrace_max_frames(NonZeroUsize::new(Trap::FRAMES_MAX));
    config.native_unwind_info(false);
    // Four pages of guard fold most bounds checks; a memory is reserved up to the default limit and moves beyond.
    config
        .memory_reservation(pool::MEMORY_BYTES_MAX as u64)
        .memory_guard_size(64 << 10)
        .memory_reservation_for_growth(16 << 20);
    // One table write at start instead of a check at each indirect call.
    config.table_lazy_init(false);
    config.max_wasm_stack(512 << 10);
    config
}

/// Text from a compiler or a guest, cut to what a NACK or a log line can carry.
pub(crate) fn bounded(text: &str) -> String {
    const MAX: usize = 2048;
    let mut end = text.len().min(MAX);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    let mut out = text[..end].to_owned();
    if end < text.len() {
        out.push_str("...");
    }
    out
}
