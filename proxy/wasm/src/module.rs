//! A loaded module: checked once, shared by all VMs that run it.

use std::fmt;
use std::fs::File;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use wasmtime::{ExternType, InstancePre};

use crate::engine::Engine;
use crate::host::Host;
use crate::pool::{Exhausted, Place, Share};

/// In the order of preference of the reference host.
pub(crate) const ALLOCATORS: [&str; 2] = ["malloc", "proxy_on_memory_allocate"];

/// The Proxy-Wasm ABI that a module announces.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Abi {
    V0_1_0,
    V0_2_0,
    V0_2_1,
}

impl Abi {
    const ALL: [(Abi, &str); 3] = [
        (Abi::V0_1_0, "proxy_abi_version_0_1_0"),
        (Abi::V0_2_0, "proxy_abi_version_0_2_0"),
        (Abi::V0_2_1, "proxy_abi_version_0_2_1"),
    ];
}

/// Which callbacks a plugin has, so that the data plane can skip the others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[expect(clippy::struct_excessive_bools, reason = "one per callback")]
pub struct Callbacks {
    pub request_headers: bool,
    pub request_body: bool,
    pub request_trailers: bool,
    pub response_headers: bool,
    pub response_body: bool,
    pub response_trailers: bool,
    pub log: bool,
    pub tick: bool,
    pub http_call_response: bool,
    pub new_connection: bool,
    pub downstream_data: bool,
    pub upstream_data: bool,
}

/// A module cannot be run.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LoadError {
    #[error("cannot load machine code: {reason}")]
    Code { reason: String },
    #[error("announces no Proxy-Wasm ABI: no function proxy_abi_version_0_2_1, _0_2_0 or _0_1_0 is exported{}", markers(.found))]
    NoAbi { found: Vec<String> },
    /// An import that no host has, or that is no function.
    #[error("{reason}")]
    Import { reason: String },
    #[error("exports {name} as {found}, expected {expected}")]
    ExportType { name: String, found: String, expected: String },
    #[error("exports no memory named \"memory\"")]
    NoMemory,
    #[error("exports no allocator: neither malloc nor proxy_on_memory_allocate")]
    NoAllocator,
}

fn markers(found: &[String]) -> String {
    if found.is_empty() { String::new() } else { format!(" (but {})", found.join(", ")) }
}

/// A module that this host can run. Cheap to clone.
#[derive(Clone)]
pub struct CompiledModule {
    inner: Arc<Inner>,
}

/// Machine code, to be loaded once more by another engine.
pub(crate) enum MappedCode {
    /// Open as long as the module lives: whoever wrote it may have dropped its name since.
    File(File),
    Bytes(Vec<u8>),
}

struct Inner {
    engine: Engine,
    instance_pre: InstancePre<Host>,
    abi: Abi,
    warnings: Vec<String>,
    memory_bytes_min: u64,
    code: Arc<MappedCode>,
    /// What it has of the pool that its instances come from; `None`: they are made one by one.
    share: Option<Arc<Share>>,
    /// The same module with instances from the pool.
    pooled: Mutex<Weak<Inner>>,
}

impl fmt::Debug for CompiledModule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledModule").field("abi", &self.inner.abi).finish_non_exhaustive()
    }
}

impl CompiledModule {
    pub(crate) fn new(
        engine: &Engine,
        module: &wasmtime::Module,
        code: Arc<MappedCode>,
    ) -> Result<CompiledModule, LoadError> {
        let abi = abi(module)?;
        for (name, expected) in EXPORTS {
            check_export(module, name, expected)?;
        }
        let memory_bytes_min = match module.get_export("memory") {
            Some(ExternType::Memory(memory)) if !memory.is_64() => memory.minimum().saturating_mul(memory.page_size()),
            Some(other) => {
                let found = format!("{other:?}").chars().take(80).collect();
                return Err(LoadError::ExportType {
                    name: "memory".to_owned(),
                    found,
                    expected: "a 32-bit memory".to_owned(),
                });
            }
            None => return Err(LoadError::NoMemory),
        };
        if ALLOCATORS.iter().all(|name| module.get_export(name).is_none()) {
            return Err(LoadError::NoAllocator);
        }
        let linked = engine.shared.hostcalls.link(module).map_err(|reason| LoadError::Import { reason })?;
        let inner = Inner {
            engine: engine.clone(),
            instance_pre: linked.instance_pre,
            abi,
            warnings: linked.warnings,
            memory_bytes_min,
            code,
            share: engine.shared.pool.as_ref().map(Share::new),
            pooled: Mutex::default(),
        };
        Ok(CompiledModule { inner: Arc::new(inner) })
    }

    /// The same module, whose instances come from a pool: fresh each time, at a fraction of the cost. For
    /// [`Isolation::Stream`](crate::Isolation::Stream). The pool holds guests of ordinary size: one memory of
    /// [`STREAM_MEMORY_BYTES_MAX`](crate::STREAM_MEMORY_BYTES_MAX) at most, two tables.
    pub fn pooled(&self) -> Result<CompiledModule, LoadError> {
        let mut pooled = self.inner.pooled.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(inner) = pooled.upgrade() {
            return Ok(CompiledModule { inner });
        }
        let engine = self.inner.engine.pooled().map_err(|error| LoadError::Code { reason: error.to_string() })?;
        let module = engine.load_mapped(self.inner.code.clone())?;
        *pooled = Arc::downgrade(&module.inner);
        Ok(module)
    }

    /// A place in the pool, where instances come from one.
    pub(crate) fn place(&self) -> Result<Option<Place>, Exhausted> {
        self.inner.share.as_ref().map(Share::take).transpose()
    }

    #[must_use]
    pub fn abi(&self) -> Abi {
        self.inner.abi
    }

    /// Imports that are only stubs: to be shown to whoever deploys the module.
    #[must_use]
    pub fn warnings(&self) -> &[String] {
        &self.inner.warnings
    }

    /// Linear memory at start.
    #[must_use]
    pub fn memory_bytes_min(&self) -> u64 {
        self.inner.memory_bytes_min
    }

    pub(crate) fn engine(&self) -> &Engine {
        &self.inner.engine
    }

    pub(crate) fn instance_pre(&self) -> &InstancePre<Host> {
        &self.inner.instance_pre
    }
}

fn abi(module: &wasmtime::Module) -> Result<Abi, LoadError> {
    let is_function = |name: &str| matches!(module.get_export(name), Some(ExternType::Func(_)));
    if let Some((abi, _)) = Abi::ALL.into_iter().find(|(_, marker)| is_function(marker)) {
        return Ok(abi);
    }
    let found = module
        .exports()
        .map(|export| export.name().to_owned())
        .filter(|name| name.starts_with("proxy_abi_version_"))
        .map(|name| name.chars().take(64).collect())
        .take(4)
        .collect();
    Err(LoadError::NoAbi { found })
}

/// How an export must look: parameters and results, all i32.
#[derive(Clone, Copy)]
enum Shape {
    Exactly(usize, usize),
    /// With or without `end_of_stream` (ABI 0.1.0 has two parameters).
    TwoOrThree,
}

/// Everything that the host calls. `main` and its likes have toolchains' own types and are checked where they are called.
const EXPORTS: &[(&str, Shape)] = &[
    ("malloc", Shape::Exactly(1, 1)),
    ("proxy_on_memory_allocate", Shape::Exactly(1, 1)),
    ("_initialize", Shape::Exactly(0, 0)),
    ("_start", Shape::Exactly(0, 0)),
    ("proxy_on_context_create", Shape::Exactly(2, 0)),
    ("proxy_on_vm_start", Shape::Exactly(2, 1)),
    ("proxy_on_configure", Shape::Exactly(2, 1)),
    ("proxy_on_tick", Shape::Exactly(1, 0)),
    ("proxy_on_request_headers", Shape::TwoOrThree),
    ("proxy_on_request_body", Shape::Exactly(3, 1)),
    ("proxy_on_request_trailers", Shape::Exactly(2, 1)),
    ("proxy_on_response_headers", Shape::TwoOrThree),
    ("proxy_on_response_body", Shape::Exactly(3, 1)),
    ("proxy_on_response_trailers", Shape::Exactly(2, 1)),
    ("proxy_on_http_call_response", Shape::Exactly(5, 0)),
    ("proxy_on_new_connection", Shape::Exactly(1, 1)),
    ("proxy_on_downstream_data", Shape::Exactly(3, 1)),
    ("proxy_on_upstream_data", Shape::Exactly(3, 1)),
    ("proxy_on_downstream_connection_close", Shape::Exactly(2, 0)),
    ("proxy_on_upstream_connection_close", Shape::Exactly(2, 0)),
    ("proxy_validate_configuration", Shape::Exactly(2, 1)),
    ("proxy_on_request_metadata", Shape::Exactly(2, 1)),
    ("proxy_on_response_metadata", Shape::Exactly(2, 1)),
    ("proxy_on_grpc_receive_initial_metadata", Shape::Exactly(3, 0)),
    ("proxy_on_grpc_receive", Shape::Exactly(3, 0)),
    ("proxy_on_grpc_receive_trailing_metadata", Shape::Exactly(3, 0)),
    ("proxy_on_grpc_close", Shape::Exactly(3, 0)),
    ("proxy_on_queue_ready", Shape::Exactly(2, 0)),
    ("proxy_on_foreign_function", Shape::Exactly(3, 0)),
    ("proxy_on_done", Shape::Exactly(1, 1)),
    ("proxy_on_log", Shape::Exactly(1, 0)),
    ("proxy_on_delete", Shape::Exactly(1, 0)),
];

fn check_export(module: &wasmtime::Module, name: &str, expected: &Shape) -> Result<(), LoadError> {
    let fail = |found: String| {
        let expected = match expected {
            Shape::Exactly(params, results) => format!("a function of {params} i32 with {results} i32 result"),
            Shape::TwoOrThree => "a function of 2 or 3 i32 with 1 i32 result".to_owned(),
        };
        Err(LoadError::ExportType { name: name.to_owned(), found, expected })
    };
    let ty = match module.get_export(name) {
        None => return Ok(()),
        Some(ExternType::Func(ty)) => ty,
        Some(_) => return fail("something that is no function".to_owned()),
    };
    let all_i32 = ty.params().chain(ty.results()).all(|ty| ty.is_i32());
    let (params, results) = (ty.params().len(), ty.results().len());
    let fits = match *expected {
        Shape::Exactly(expected_params, expected_results) => params == expected_params && results == expected_results,
        Shape::TwoOrThree => (2..=3).contains(&params) && results == 1,
    };
    if all_i32 && fits { Ok(()) } else { fail(crate::hostcall::signature(&ty)) }
}
