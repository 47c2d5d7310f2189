//! Proxy-Wasm plugins on a worker: VMs, the plugins in each, their streams, and what happens when a VM traps.
//!
//! A [`VmHandle`] is one VM of a worker through all its [`Instance`]s: the one that serves, and older ones whose streams
//! finish. Plugins of equal VM configuration share it; each is a root context there ([`Root`]). A plugin that is new in a VM
//! which runs already is configured by the worker itself, at its first stream or in a turn of its own, if its canary took
//! no longer than [`QUICK`]; slower ones come in a VM that a prepare thread started, all of an update in the same one, so
//! that no worker ever waits.

mod breaker;
mod call;
mod connection;
mod context;
mod grpc;
mod instance;
mod rollout;
mod root;
mod set;
mod staged;
mod stream;
mod vm;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_wasm::{CompiledModule, FailurePolicy, Isolation, Plugin, PluginLabels, Tenant};
use tokio::time::Instant;

pub(crate) use connection::WasmConnection;
pub(crate) use instance::Instance;
pub(crate) use rollout::Revision;
pub use rollout::{GivenUp, GivenUps, RevisionFigures, RolloutRun, ShadowDifferences, Verdict};
pub(crate) use root::Root;
pub(crate) use set::Plugins;
pub(crate) use staged::Staged;
pub(crate) use stream::{FailedFilter, WasmFilter};
pub(crate) use vm::VmHandle;

use crate::error::{ErrorKind, LocalReply, StreamError};

/// CPU time of a canary's configuration up to which a worker configures the plugin itself.
const QUICK: Duration = Duration::from_micros(300);
/// When a plugin whose configuration was refused on the worker, though its canary took it, is tried again.
const REFUSED_AGAIN: Duration = Duration::from_secs(1);

/// A plugin that has passed its canary.
#[derive(Debug, Clone)]
pub struct PreparedPlugin {
    pub plugin: Arc<Plugin>,
    pub module: CompiledModule,
    /// CPU time that the canary's configuration took.
    pub configured_in: Duration,
    /// Its statistics are shown as long as somebody holds this.
    pub labels: Arc<PluginLabels>,
    /// And so stay its shared data and queues, though an instance is lost.
    pub tenant: Arc<Tenant>,
}

impl PreparedPlugin {
    /// Whether a worker may configure it in a VM that serves.
    #[must_use]
    pub fn is_quick(&self) -> bool {
        self.configured_in <= QUICK
    }
}

/// A plugin on this worker.
#[derive(Debug)]
pub(crate) struct PluginHandle {
    prepared: PreparedPlugin,
    vm: Rc<VmHandle>,
    /// Its context in the instance that serves.
    root: RefCell<Option<Rc<Root>>>,
    refused: Cell<Option<Instant>>,
    /// A newer generation doesn't have this plugin: no ticks, no new root context.
    retired: Cell<bool>,
}

impl PluginHandle {
    pub(crate) fn new(prepared: &PreparedPlugin, vm: &Rc<VmHandle>) -> Rc<PluginHandle> {
        let handle = Rc::new(PluginHandle {
            prepared: prepared.clone(),
            vm: vm.clone(),
            root: RefCell::new(None),
            refused: Cell::new(None),
            retired: Cell::new(false),
        });
        vm.adopt(&handle);
        handle
    }

    pub(crate) fn policy(&self) -> FailurePolicy {
        self.prepared.plugin.failure_policy
    }

    pub(crate) fn vm(&self) -> &Rc<VmHandle> {
        &self.vm
    }

    /// The context that a new stream belongs to; `None` while there is no VM for it.
    #[inline]
    pub(crate) fn root(self: &Rc<Self>) -> Option<Rc<Root>> {
        if let Some(root) = &*self.root.borrow() {
            return Some(root.clone());
        }
        self.new_root()
    }

    #[cold]
    fn new_root(self: &Rc<Self>) -> Option<Rc<Root>> {
        if self.prepared.plugin.vm.isolation == Isolation::Stream {
            return self.vm.instance_of_a_stream(self);
        }
        let waits = self.refused.get().is_some_and(|at| at.elapsed() < REFUSED_AGAIN);
        if waits || self.retired.get() || !self.prepared.is_quick() {
            return None;
        }
        let instance = self.vm.instance()?;
        match instance.add(&self.prepared.plugin) {
            Ok(id) => {
                let root = self.install(&instance, id);
                instance.run_effects(None, |_| {});
                Some(root)
            }
            Err(error) => {
                tracing::error!(plugin = %self.prepared.plugin.name, "not configured in its VM: {error}");
                self.refused.set(Some(Instant::now()));
                None
            }
        }
    }

    /// Gives the plugin its context in a new instance; an older one finishes its streams.
    fn install(self: &Rc<Self>, instance: &Rc<Instance>, id: outrigger_wasm::RootId) -> Rc<Root> {
        let root = Root::new(instance, id, &self.prepared.plugin);
        let previous = self.root.borrow_mut().replace(root.clone());
        if let Some(previous) = previous {
            previous.supersede();
        }
        root
    }

    fn forget_root(&self, instance: &Rc<Instance>) {
        self.root.borrow_mut().take_if(|root| root.is_in(instance));
    }

    /// Makes its context in the instance that serves, or has one started, if it is to have one and has none.
    pub(crate) fn configure(self: &Rc<Self>) {
        if self.retired.get() || self.prepared.plugin.vm.isolation == Isolation::Stream || self.root().is_some() {
            return;
        }
        if self.vm.instance().is_none() {
            self.vm.restart();
        }
    }

    pub(crate) fn has_root(&self) -> bool {
        self.root.borrow().is_some()
    }

    /// Tells an access logger of a stream or connection that is over.
    pub(crate) fn log(self: &Rc<Self>, state: &Rc<RefCell<outrigger_http::StreamState>>) {
        let Some(root) = self.root() else { return };
        root.instance.enter(|vm| vm.on_access_log(root.id, state.clone()));
        root.instance.run_effects(None, |_| {});
    }

    /// The newest generation doesn't have this plugin: its streams finish, nothing else happens any more.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        let root = self.root.borrow_mut().take();
        if let Some(root) = root {
            root.supersede();
        }
    }
}

pub(crate) const FAILED: StreamError = StreamError::internal(ErrorKind::FilterFailed);

pub(crate) fn local_reply(reply: outrigger_wasm::LocalReply) -> LocalReply {
    LocalReply {
        status: reply.status,
        details: reply.details.into(),
        headers: reply.headers,
        body: reply.body,
        grpc_status: reply.grpc_status.map(u32::from),
    }
}
