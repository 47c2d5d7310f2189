//! A started VM with its first plugins on its way to a worker, and what of it goes on there.

use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use wasmtime::Store;

use super::{Vm, WorkerHost};
use crate::action::RootId;
use crate::exports::Exports;
use crate::host::{Host, Worker};
use crate::metrics::{PluginStats, VmStats};
use crate::module::CompiledModule;
use crate::plugin::{Plugin, VmConfig};
use crate::pool::Place;
use crate::start::{StartError, configure};
use crate::ticker::TickerSlot;
use crate::trap::Trap;

/// Everything of a VM; [`ReadyVm`] and [`Vm`] are its two lives.
pub(crate) struct Guest {
    pub(crate) store: Store<Host>,
    pub(crate) exports: Exports,
    pub(crate) slot: TickerSlot,
    pub(crate) failed: Option<Trap>,
    pub(crate) module: CompiledModule,
    pub(crate) vm: Arc<VmConfig>,
    /// CPU time from nothing to the first plugin's configuration, and of the last plugin's configuration alone.
    pub(crate) started_in: Duration,
    pub(crate) configured_in: Duration,
    /// `None`: a canary.
    pub(crate) stats: Option<VmStats>,
    /// Given back last, when the instance is gone.
    pub(crate) _place: Option<Place>,
}

impl Guest {
    pub(super) fn memory_bytes(&self) -> usize {
        self.store.data().memory.map_or(0, |memory| memory.data_size(&self.store))
    }

    /// Brings what is shown of the VM up to date.
    pub(crate) fn refresh(&self) {
        if let Some(stats) = &self.stats {
            stats.refresh(self.memory_bytes(), self.store.data().contexts.len());
        }
    }

    /// What is counted about a plugin: one for all that share a name here.
    pub(crate) fn plugin_stats(&self, plugin: &Plugin) -> Rc<PluginStats> {
        let host = self.store.data();
        if !host.is_serving() {
            return Rc::new(PluginStats::detached());
        }
        let known = host.contexts.roots().find(|(_, root)| root.plugin.name == plugin.name);
        known.map_or_else(
            || Rc::new(PluginStats::new(&host.services.registry, plugin)),
            |(_, root)| root.plugin.stats.clone(),
        )
    }
}

/// A started VM with its first plugins on its way to a worker.
pub struct ReadyVm(Guest);

// SAFETY: the only parts of a guest that are not `Send` are the streams of its contexts, the worker's `Rc` and the counts of
// its plugins. Neither of the first exists before `into_vm`: streams are only created by `Vm`, which is not `Send`, and the
// worker is set by `into_vm` itself. The counts' `Rc`s are made by the guest and never leave it. The rest is its own.
#[expect(unsafe_code, reason = "a VM starts on a prepare thread and serves on a worker")]
unsafe impl Send for ReadyVm {}

impl fmt::Debug for ReadyVm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReadyVm").field("vm_id", &self.0.vm.vm_id).finish_non_exhaustive()
    }
}

impl ReadyVm {
    pub(crate) fn new(guest: Guest) -> ReadyVm {
        ReadyVm(guest)
    }

    #[must_use]
    pub fn config(&self) -> &Arc<VmConfig> {
        &self.0.vm
    }

    /// The plugins in this VM.
    pub fn roots(&self) -> impl Iterator<Item = (RootId, &Arc<Plugin>)> {
        self.0.store.data().contexts.roots().map(|(id, root)| (id, &root.plugin.plugin))
    }

    /// Configures one more plugin, whose VM configuration is equal to this VM's, within the start budget.
    pub fn add(&mut self, plugin: &Arc<Plugin>) -> Result<RootId, StartError> {
        let outcome = configure(&mut self.0, plugin, plugin.vm.limits.start_timeout);
        self.0.refresh();
        outcome
    }

    /// Why the VM can no longer be entered.
    #[must_use]
    pub fn failed(&self) -> Option<&Trap> {
        self.0.failed.as_ref()
    }

    /// CPU time from nothing to the first plugin's configuration.
    #[must_use]
    pub fn started_in(&self) -> Duration {
        self.0.started_in
    }

    /// CPU time that the configuration of the last plugin took.
    #[must_use]
    pub fn configured_in(&self) -> Duration {
        self.0.configured_in
    }

    /// Takes the VM over on the worker that will enter it.
    #[must_use]
    pub fn into_vm(mut self, host: Rc<dyn WorkerHost>) -> Vm {
        self.0.store.data_mut().worker = Some(Worker(host));
        Vm(self.0)
    }
}
