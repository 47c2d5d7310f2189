//! HTTP filters and their configuration.

use std::collections::BTreeSet;
use std::hash::{Hash, Hasher};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{NativeFilter, Origin, Source};

/// An entry of `http_filters`.
#[derive(Debug, PartialEq, Eq)]
pub struct HttpFilter {
    pub name: Arc<str>,
    pub kind: HttpFilterKind,
    /// Off unless a route turns it on.
    pub disabled: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum HttpFilterKind {
    Wasm(Arc<WasmPlugin>),
    /// Built into the proxy.
    Native(NativeFilter),
    Discovered(DiscoveredFilter),
}

/// `config_discovery`: the extension configuration of the filter's name.
#[derive(Debug, PartialEq, Eq)]
pub struct DiscoveredFilter {
    /// `default_config`, until the first configuration comes.
    pub default: Option<Arc<WasmPlugin>>,
    pub apply_default_without_warming: bool,
    pub initial_fetch_timeout: Option<Duration>,
    /// Allowed type URLs.
    pub type_urls: Vec<String>,
    /// Where it is fetched: ADS or a file.
    pub from: Source,
}

/// A resource of ECDS (`envoy.config.core.v3.TypedExtensionConfig`).
#[derive(Debug, PartialEq, Eq)]
pub struct ExtensionConfig {
    pub name: Arc<str>,
    pub origin: Arc<Origin>,
    pub type_url: String,
    pub plugin: Arc<WasmPlugin>,
    /// A new revision that is tried beside the plugin.
    pub rollout: Option<Arc<Rollout>>,
}

/// A new revision of a filter that gets a share of the streams, or copies of all of them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rollout {
    /// Of this try.
    pub id: Arc<str>,
    pub candidate: Arc<WasmPlugin>,
    pub share: RolloutShare,
    pub guardrails: Guardrails,
}

/// What a new revision gets of the streams.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RolloutShare {
    /// So many of ten thousand.
    Of10k(u32),
    /// Copies of all of them; the old revision decides.
    Shadow,
    /// Copies of all of them; nobody decides, and the extension's `plugin` is not run.
    ShadowOnly,
}

/// What makes a proxy give a new revision up. `None`: not judged.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Guardrails {
    /// Of its streams, those that met a trap; parts of a million.
    pub trap_rate: Option<u32>,
    /// Of its streams, those answered with 5xx beyond the old revision's share; parts of a million.
    pub error_rate: Option<u32>,
    /// On the average time to the response's head, beyond the old revision's.
    pub added_latency: Option<Duration>,
}

/// A Proxy-Wasm plugin (`envoy.extensions.wasm.v3.PluginConfig`, and our own limits).
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WasmPlugin {
    /// `PluginConfig.name`; the filter's name where it is empty.
    pub name: Arc<str>,
    pub root_id: String,
    pub configuration: Bytes,
    pub failure_policy: FailurePolicy,
    pub allow_on_headers_stop_iteration: bool,
    pub vm: Arc<WasmVm>,
}

/// What a plugin's VM is made from; plugins of equal ones may share a VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct WasmVm {
    pub vm_id: String,
    pub code: ModuleCode,
    pub configuration: Bytes,
    /// Sorted by name.
    pub environment: Vec<(String, String)>,
    pub limits: Limits,
    /// `None`: everything is allowed.
    pub capabilities: Option<BTreeSet<String>>,
    pub isolation: Isolation,
    /// What this revision is called; empty: it has no name. Plugins of different revisions share no VM, so that a trap in
    /// one is not felt in another.
    pub revision: Arc<str>,
    /// It sees copies: its calls, metrics and shared writes are dropped.
    pub shadow: bool,
}

/// What shares a VM with what.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// One VM on each worker for all plugins of equal [`WasmVm`]s.
    #[default]
    Shared,
    /// One VM on each worker for the plugins of one name.
    Plugin,
    /// A fresh instance for each stream, from a bounded pool.
    Stream,
}

impl Isolation {
    /// Linear memory that an instance of a stream has room for in its pool.
    pub const STREAM_MEMORY_BYTES_MAX: u64 = 64 << 20;
}

/// A module, by the digest of its bytes where that is known.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ModuleCode {
    pub source: CodeSource,
    /// Always there for remote code, whose digest is what is asked for.
    pub sha256: Option<[u8; 32]>,
}

impl Hash for ModuleCode {
    fn hash<H: Hasher>(&self, state: &mut H) {
        // Inline bytes are large, and their digest says all about them.
        match self.sha256 {
            Some(sha256) => sha256.hash(state),
            None => self.source.hash(state),
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum CodeSource {
    /// Read when the configuration is prepared.
    File(PathBuf),
    Inline(Bytes),
    Remote(RemoteCode),
}

/// Code that is fetched over HTTP, once for its digest.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct RemoteCode {
    pub uri: String,
    /// Its endpoints are asked, with its transport socket.
    pub cluster: Arc<str>,
    /// For one try, answer included.
    pub timeout: Duration,
    /// Tries after the first one, and the waits before them.
    pub retries: u32,
    pub backoff: Backoff,
    /// Where signed machine code of it lies; the engine's hash is added as a last step of the path.
    pub machine_code: Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FailurePolicy {
    /// 503 for the streams of an instance that trapped.
    #[default]
    Closed,
    /// On without the filter.
    Open,
    /// As Closed, with waits of its own between new instances.
    Reload(Backoff),
}

/// Waits that double up to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

/// Budgets of a plugin; a field left out by the control plane has the default.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// CPU time of one callback.
    pub callback_timeout: Duration,
    /// CPU time of start and configuration together.
    pub start_timeout: Duration,
    /// Linear memory.
    pub memory_bytes: u64,
    /// Buffered body of one stream and direction.
    pub body_buffer_bytes: u64,
    pub log_bytes_per_second: u64,
    pub hostcalls_per_callback: u32,
    pub shared_data_bytes: u64,
    /// Shared queues that the VMs of one `vm_id` may register.
    pub shared_queues: u64,
    /// Of one shared queue that the plugin registers.
    pub shared_queue_bytes: u64,
    pub shared_queue_messages: u64,
    pub http_calls_pending: u64,
    /// Linear memory from which an instance is recycled.
    pub recycle_memory_bytes: u64,
    /// Streams after which an instance is recycled.
    pub recycle_streams: Option<u64>,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits {
            callback_timeout: Duration::from_millis(10),
            start_timeout: Duration::from_secs(5),
            memory_bytes: 64 << 20,
            body_buffer_bytes: 1 << 20,
            log_bytes_per_second: 64 << 10,
            hostcalls_per_callback: 10_000,
            shared_data_bytes: 16 << 20,
            shared_queues: 64,
            shared_queue_bytes: 1 << 20,
            shared_queue_messages: 10_000,
            http_calls_pending: 1024,
            recycle_memory_bytes: 48 << 20,
            recycle_streams: None,
        }
    }
}
