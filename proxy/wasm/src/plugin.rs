//! Configuration: what a VM is made from, and what a plugin in it is told.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

/// One Proxy-Wasm plugin (`envoy.extensions.wasm.v3.PluginConfig`): a root context in a VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Plugin {
    pub name: Arc<str>,
    pub root_id: String,
    pub configuration: Bytes,
    pub failure_policy: FailurePolicy,
    /// Pass a header callback's `StopIteration` on instead of turning it into `StopAllIterationAndWatermark`
    /// (`allow_on_headers_stop_iteration`).
    pub allow_on_headers_stop_iteration: bool,
    pub vm: Arc<VmConfig>,
}

/// What a VM is made from. Plugins whose VMs are equal may live in one: it is the key that they are shared by.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct VmConfig {
    /// SHA-256 of the module.
    pub code: [u8; 32],
    /// VMs of one id share data and queues.
    pub vm_id: String,
    pub configuration: Bytes,
    /// What WASI's `environ_get` shows.
    pub environment: Vec<(String, String)>,
    pub limits: Limits,
    /// The only hostcalls, WASI functions and callbacks that the guest has, by name; `None`: all.
    pub capabilities: Option<BTreeSet<String>>,
    pub isolation: Isolation,
    /// Plugins of different revisions of a filter share no VM, whatever else is equal; empty: it has no name.
    pub revision_name: Arc<str>,
    /// It only ever sees copies of streams: it runs as a canary does.
    pub shadow: bool,
}

impl VmConfig {
    /// The module in few letters, for logs and labels: the first six bytes of its digest.
    #[must_use]
    pub fn revision(&self) -> String {
        self.code[..6].iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

/// What shares a VM with what.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub enum Isolation {
    /// All plugins of equal VM configuration.
    #[default]
    Shared,
    /// The plugins of this name only: one filter with its configurations.
    Plugin(Arc<str>),
    /// A VM for each stream.
    Stream,
}

/// What happens to streams whose VM failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum FailurePolicy {
    /// 503.
    #[default]
    Closed,
    /// Go on without the filter.
    Open,
    /// 503 until the VM is replaced, which waits from its first loss on.
    Reload(Backoff),
}

/// Waits that double up to a bound.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Backoff {
    pub base: Duration,
    pub max: Duration,
}

/// Bounds on what a guest may use. All of them hold for one VM.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Limits {
    /// CPU time of one callback.
    pub callback_timeout: Duration,
    /// CPU time of everything up to and with `proxy_on_configure`.
    pub start_timeout: Duration,
    /// All linear memories, and tables at the size of their elements.
    pub memory_bytes: usize,
    /// The largest body that a guest may make of a buffer, and the largest local reply or call body.
    pub body_buffer_bytes: usize,
    pub log_bytes_per_second: usize,
    pub hostcalls_per_callback: u32,
    /// Up to and with `proxy_on_configure`.
    pub hostcalls_per_start: u32,
    /// Entries that a header map may grow to.
    pub header_entries: usize,
    /// Bytes of names and values that a header map may grow to.
    pub header_bytes: usize,
    /// Metrics that one VM may define.
    pub metrics: usize,
    /// Calls that were asked for and aren't answered yet.
    pub calls_in_flight: usize,
    /// Keys and values of the shared data of the `vm_id`.
    pub shared_data_bytes: usize,
    /// Shared queues that the plugin may register in its `vm_id`.
    pub shared_queues: usize,
    /// Messages of one shared queue that the plugin registers, with 80 bytes for each; a full one loses its oldest.
    pub shared_queue_bytes: usize,
    pub shared_queue_messages: usize,
    /// Linear memory from which the VM should be replaced between streams.
    pub recycle_memory_bytes: usize,
    /// Streams after which the VM should be replaced between streams.
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
            hostcalls_per_start: 1_000_000,
            header_entries: 200,
            header_bytes: 64 << 10,
            metrics: 1000,
            calls_in_flight: 1024,
            shared_data_bytes: 16 << 20,
            shared_queues: 64,
            shared_queue_bytes: 1 << 20,
            shared_queue_messages: 10_000,
            recycle_memory_bytes: 48 << 20,
            recycle_streams: None,
        }
    }
}
