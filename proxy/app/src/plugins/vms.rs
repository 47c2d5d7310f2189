//! VMs for the plugins that a generation has and the last one hadn't: for each VM configuration one a worker, with all of
//! its plugins in it that a worker would be held up by.
//!
//! They are started once it is known what a generation runs, and not plugin by plugin: a thousand routes whose
//! configuration takes a guest its time are a thousand root contexts in one VM of each worker.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use outrigger_config::WasmPlugin;
use outrigger_dataplane::{PreparedPlugin, WorkerVms};
use outrigger_wasm::{CompiledModule, Isolation, Plugin, ReadyVm, Services, StartedVm, VmConfig, start_vm};

/// A VM that a generation needs on each worker, and who is to be in it.
#[derive(Debug)]
pub(crate) struct VmsWanted {
    module: CompiledModule,
    plugins: Vec<(Arc<WasmPlugin>, Arc<Plugin>)>,
}

/// What came of starting them.
#[derive(Debug, Default)]
pub(super) struct VmsStarted {
    vms: Vec<ReadyVm>,
    pub(super) failed: Vec<(Arc<WasmPlugin>, String)>,
}

/// VMs that wait for a generation, by their configuration.
#[derive(Debug, Default)]
pub(super) struct WaitingVms(HashMap<Arc<VmConfig>, Vec<ReadyVm>>);

impl VmsWanted {
    pub(super) fn plugins(&self) -> impl Iterator<Item = &Arc<WasmPlugin>> {
        self.plugins.iter().map(|(config, _)| config)
    }
}

impl VmsStarted {
    /// They could not even be tried.
    pub(super) fn none(plugins: Vec<Arc<WasmPlugin>>, reason: &str) -> VmsStarted {
        let failed = plugins.into_iter().map(|plugin| (plugin, reason.to_owned())).collect();
        VmsStarted { vms: Vec::new(), failed }
    }
}

impl WaitingVms {
    /// What is still to be started for a generation's new plugins.
    pub(super) fn wanted<'a>(
        &self,
        new: impl Iterator<Item = (&'a Arc<WasmPlugin>, &'a PreparedPlugin)>,
    ) -> Vec<VmsWanted> {
        let mut by_vm: HashMap<&Arc<VmConfig>, Vec<(&Arc<WasmPlugin>, &PreparedPlugin)>> = HashMap::new();
        for (config, prepared) in new {
            // A stream starts its own.
            if prepared.plugin.vm.isolation != Isolation::Stream {
                by_vm.entry(&prepared.plugin.vm).or_default().push((config, prepared));
            }
        }
        by_vm.into_iter().filter_map(|(vm, plugins)| self.wanted_of(vm, plugins)).collect()
    }

    fn wanted_of(
        &self,
        vm: &Arc<VmConfig>,
        mut plugins: Vec<(&Arc<WasmPlugin>, &PreparedPlugin)>,
    ) -> Option<VmsWanted> {
        let module = plugins.first()?.1.module.clone();
        let waiting = self.0.get(vm).and_then(|vms| vms.first());
        if plugins.iter().all(|(_, prepared)| prepared.is_quick()) {
            // Any of them makes the VM that the others join.
            plugins.truncate(1);
            if waiting.is_some() {
                return None;
            }
        } else {
            plugins.retain(|(_, prepared)| !prepared.is_quick());
            let held: HashSet<*const Plugin> =
                waiting.iter().flat_map(|vm| vm.roots()).map(|(_, held)| Arc::as_ptr(held)).collect();
            if plugins.iter().all(|(_, prepared)| held.contains(&Arc::as_ptr(&prepared.plugin))) {
                return None;
            }
        }
        let plugins = plugins.into_iter().map(|(config, prepared)| (config.clone(), prepared.plugin.clone())).collect();
        Some(VmsWanted { module, plugins })
    }

    pub(super) fn insert(&mut self, started: VmsStarted) {
        if let Some(first) = started.vms.first() {
            self.0.insert(first.config().clone(), started.vms);
        }
    }

    /// Hands over what was started for a plugin, if nobody had it yet.
    pub(super) fn take(&mut self, plugin: &Plugin, workers: &mut [WorkerVms]) {
        for (worker, vm) in workers.iter_mut().zip(self.0.remove(&plugin.vm).unwrap_or_default()) {
            worker.vms.push(vm);
        }
    }

    pub(super) fn give_back(&mut self, workers: Vec<WorkerVms>) {
        for vm in workers.into_iter().flat_map(|worker| worker.vms) {
            self.0.entry(vm.config().clone()).or_default().push(vm);
        }
    }

    /// Drops those that nobody waits for any more.
    pub(super) fn retain(&mut self, waits: impl Fn(&Arc<VmConfig>) -> bool) {
        self.0.retain(|vm, _| waits(vm));
    }
}

/// Starts one VM for each worker. Blocks: for a prepare thread.
pub(super) fn start(wanted: VmsWanted, services: &Arc<Services>, workers: usize) -> VmsStarted {
    let VmsWanted { module, mut plugins } = wanted;
    let mut all = VmsStarted::default();
    for _ in 0..workers {
        let hosted = plugins.iter().map(|(_, plugin)| plugin.clone()).collect();
        let StartedVm { vm, failed } = start_vm(&module, hosted, services);
        all.vms.extend(vm);
        for (plugin, error) in failed {
            let Some(at) = plugins.iter().position(|(_, other)| Arc::ptr_eq(other, &plugin)) else { continue };
            all.failed.push((plugins.swap_remove(at).0, error.to_string()));
        }
    }
    all
}
