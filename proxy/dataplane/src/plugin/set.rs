//! The plugins of a generation on a worker, built from the previous one's.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::WasmPlugin;
use outrigger_wasm::{Plugin, ReadyVm, VmConfig};

use super::{PluginHandle, PreparedPlugin, VmHandle};
use crate::prepared::Prepared;
use crate::worker::WorkerCx;

/// Every plugin that a generation runs, by the address of its configuration: whoever prepares a generation takes those of
/// the previous one again where they are equal, so that nothing is hashed or compared here.
#[derive(Debug, Default)]
pub(crate) struct Plugins {
    handles: HashMap<*const WasmPlugin, (Arc<WasmPlugin>, Rc<PluginHandle>)>,
}

impl Plugins {
    /// Plugins that the previous generation had stay as they are; new ones get a VM: one of equal configuration that serves
    /// already, the one that was started for them all, or a new one. Nothing here waits: what is left is configured in turns.
    pub(crate) fn build(prepared: &Prepared, started: Vec<ReadyVm>, previous: &Plugins, cx: &Rc<WorkerCx>) -> Plugins {
        let mut handles = HashMap::with_capacity(prepared.plugins.len());
        let mut vms = Vms::default();
        let mut new = Vec::new();
        for (config, plugin) in &prepared.plugins {
            match previous.handles.get(&Arc::as_ptr(config)) {
                Some((_, known)) => {
                    vms.know(known.vm());
                    handles.insert(Arc::as_ptr(config), (config.clone(), known.clone()));
                }
                None => new.push((config, plugin)),
            }
        }
        for ready in started {
            vms.take(ready, &new, cx);
        }
        let mut made = Vec::with_capacity(new.len());
        for (config, plugin) in new {
            let handle = PluginHandle::new(plugin, &vms.of(plugin, cx));
            handles.insert(Arc::as_ptr(config), (config.clone(), handle.clone()));
            made.push(handle);
        }
        vms.install();
        for (config, (_, known)) in &previous.handles {
            if !handles.contains_key(config) {
                known.retire();
            }
        }
        made.retain(|handle| !handle.has_root());
        if !made.is_empty() {
            configure_in_turns(made);
        }
        Plugins { handles }
    }

    /// Once a second.
    pub(crate) fn sweep(&self) {
        let mut seen = HashSet::new();
        for (_, plugin) in self.handles.values() {
            if seen.insert(Rc::as_ptr(plugin.vm())) {
                plugin.vm().sweep();
            }
        }
    }

    pub(crate) fn get(&self, config: &Arc<WasmPlugin>) -> Option<&Rc<PluginHandle>> {
        if let Some((_, handle)) = self.handles.get(&Arc::as_ptr(config)) {
            return Some(handle);
        }
        // An equal one of another resource.
        self.handles.values().find(|(known, _)| known == config).map(|(_, handle)| handle)
    }
}

/// The VMs that new plugins may get.
#[derive(Default)]
struct Vms {
    /// By their configuration, for plugins that may join.
    serving: HashMap<Arc<VmConfig>, Rc<VmHandle>>,
    known: HashSet<*const VmHandle>,
    started: Vec<(Rc<VmHandle>, ReadyVm)>,
    /// The VM that a plugin was started in, by the plugin.
    of_plugin: HashMap<*const Plugin, Rc<VmHandle>>,
}

impl Vms {
    /// A VM that serves. One that has trapped and waits for its replacement is nothing to join: its successor may be the cure.
    fn know(&mut self, vm: &Rc<VmHandle>) {
        if self.known.insert(Rc::as_ptr(vm)) && vm.instance().is_some() {
            self.serving.entry(vm.config().clone()).or_insert_with(|| vm.clone());
        }
    }

    /// A started VM is needed where its plugin may not join another, or there is none to join.
    fn take(&mut self, ready: ReadyVm, new: &[(&Arc<WasmPlugin>, &PreparedPlugin)], cx: &Rc<WorkerCx>) {
        let holds = |plugin: &&(&Arc<WasmPlugin>, &PreparedPlugin)| {
            ready.roots().any(|(_, held)| Arc::ptr_eq(held, &plugin.1.plugin))
        };
        let Some((_, first)) = new.iter().find(holds) else { return };
        if first.is_quick() && self.serving.contains_key(ready.config()) {
            return;
        }
        let handle = VmHandle::new(ready.config(), &first.module, cx);
        for (_, plugin) in ready.roots() {
            self.of_plugin.insert(Arc::as_ptr(plugin), handle.clone());
        }
        self.serving.insert(ready.config().clone(), handle.clone());
        self.started.push((handle, ready));
    }

    fn of(&mut self, plugin: &PreparedPlugin, cx: &Rc<WorkerCx>) -> Rc<VmHandle> {
        if let Some(handle) = self.of_plugin.get(&Arc::as_ptr(&plugin.plugin)) {
            return handle.clone();
        }
        let config = &plugin.plugin.vm;
        if plugin.is_quick()
            && let Some(handle) = self.serving.get(config)
        {
            return handle.clone();
        }
        let handle = VmHandle::new(config, &plugin.module, cx);
        self.serving.entry(config.clone()).or_insert_with(|| handle.clone());
        handle
    }

    fn install(self) {
        for (handle, ready) in self.started {
            handle.install(ready);
        }
    }
}

/// Configures plugins in VMs that serve, each in a turn of its own, so that no turn is longer than one of them takes.
fn configure_in_turns(plugins: Vec<Rc<PluginHandle>>) {
    tokio::task::spawn_local(async move {
        for plugin in plugins {
            plugin.configure();
            tokio::task::yield_now().await;
        }
    });
}
