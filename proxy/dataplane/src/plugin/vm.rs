//! One VM of a worker, through all its instances.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use outrigger_wasm::{CompiledModule, Plugin, ReadyVm, StartMode, Trap, VmConfig};
use tokio::time::Instant;

use super::{Instance, PluginHandle, Root, start_vm};
use crate::worker::WorkerCx;

/// How often a trapped instance is replaced within [`RESTART_WINDOW`]; beyond that the plugins' policies hold until the
/// window has room again.
const RESTARTS_MAX: usize = 30;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// Plugins that a new instance is started with; further ones are configured as their streams come.
const STARTED_TOGETHER_MAX: usize = 64;

/// A VM that plugins of one configuration share.
#[derive(Debug)]
pub(crate) struct VmHandle {
    config: Arc<VmConfig>,
    module: CompiledModule,
    cx: Weak<WorkerCx>,
    /// The one that new streams go to.
    instance: RefCell<Option<Rc<Instance>>>,
    plugins: RefCell<Vec<Weak<PluginHandle>>>,
    restarts: RefCell<VecDeque<Instant>>,
    /// An instance is being started.
    starting: Cell<bool>,
}

impl VmHandle {
    pub(crate) fn new(config: &Arc<VmConfig>, module: &CompiledModule, cx: &Rc<WorkerCx>) -> Rc<VmHandle> {
        Rc::new(VmHandle {
            config: config.clone(),
            module: module.clone(),
            cx: Rc::downgrade(cx),
            instance: RefCell::new(None),
            plugins: RefCell::default(),
            restarts: RefCell::default(),
            starting: Cell::new(false),
        })
    }

    pub(crate) fn config(&self) -> &Arc<VmConfig> {
        &self.config
    }

    pub(super) fn adopt(&self, plugin: &Rc<PluginHandle>) {
        let mut plugins = self.plugins.borrow_mut();
        if plugins.len() == plugins.capacity() {
            plugins.retain(|plugin| plugin.strong_count() > 0);
        }
        plugins.push(Rc::downgrade(plugin));
    }

    pub(super) fn instance(&self) -> Option<Rc<Instance>> {
        self.instance.borrow().clone()
    }

    fn live_plugins(&self) -> Vec<Rc<PluginHandle>> {
        let plugins = self.plugins.borrow();
        plugins.iter().filter_map(Weak::upgrade).filter(|plugin| !plugin.retired.get()).collect()
    }

    /// Takes a started VM: new streams go there.
    pub(crate) fn install(self: &Rc<Self>, vm: ReadyVm) {
        let roots: Vec<(outrigger_wasm::RootId, Arc<Plugin>)> =
            vm.roots().map(|(id, plugin)| (id, plugin.clone())).collect();
        let instance = Instance::new(self, &self.cx, vm);
        let plugins = self.live_plugins();
        *self.instance.borrow_mut() = Some(instance.clone());
        for (id, plugin) in roots {
            match plugins.iter().find(|handle| Arc::ptr_eq(&handle.prepared.plugin, &plugin)) {
                Some(handle) => _ = handle.install(&instance, id),
                // It was retired while the VM started.
                None => instance.end(id),
            }
        }
        instance.run_effects(None, |_| {});
    }

    /// An instance has trapped.
    pub(super) fn lost(self: &Rc<Self>, instance: &Rc<Instance>, trap: &Trap) {
        let plugins = self.live_plugins();
        let names = names(&plugins);
        tracing::error!(plugin = %names, revision = %self.config.revision(), "{trap}");
        plugins.iter().for_each(|plugin| plugin.forget_root(instance));
        let was_serving = self.instance.borrow_mut().take_if(|serving| Rc::ptr_eq(serving, instance)).is_some();
        if was_serving {
            self.restart();
        }
    }

    /// Starts a new instance off the worker's loop, now or when the window has room.
    pub(crate) fn restart(self: &Rc<Self>) {
        if self.starting.replace(true) {
            return;
        }
        let now = Instant::now();
        let mut restarts = self.restarts.borrow_mut();
        while restarts.front().is_some_and(|at| now.duration_since(*at) > RESTART_WINDOW) {
            restarts.pop_front();
        }
        let at = if restarts.len() < RESTARTS_MAX {
            now
        } else {
            restarts.front().map_or(now, |oldest| *oldest + RESTART_WINDOW)
        };
        if at > now {
            tracing::error!(revision = %self.config.revision(), "traps too often: replaced again in {:?}", at - now);
        }
        restarts.push_back(at);
        drop(restarts);
        let handle = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(at).await;
            handle.start().await;
        });
    }

    async fn start(self: Rc<Self>) {
        let mut plugins = self.live_plugins();
        // Slow ones can only be configured here.
        plugins.sort_by_key(|plugin| plugin.prepared.is_quick());
        let slow = plugins.iter().take_while(|plugin| !plugin.prepared.is_quick()).count();
        plugins.truncate(slow.max(STARTED_TOGETHER_MAX));
        let (Some(cx), false) = (self.cx.upgrade(), plugins.is_empty()) else {
            self.starting.set(false);
            return;
        };
        let configs: Vec<Arc<Plugin>> = plugins.iter().map(|plugin| plugin.prepared.plugin.clone()).collect();
        let (module, services) = (self.module.clone(), cx.services.clone());
        drop(plugins);
        let started = tokio::task::spawn_blocking(move || start_vm(&module, configs, &services)).await;
        self.starting.set(false);
        let Ok(started) = started else { return };
        for (plugin, error) in &started.failed {
            tracing::error!(plugin = %plugin.name, revision = %self.config.revision(), "no new instance: {error}");
        }
        match started.vm {
            Some(vm) => self.install(vm),
            None if !self.live_plugins().is_empty() => {
                tokio::time::sleep(Duration::from_secs(1)).await;
                self.restart();
            }
            None => {}
        }
    }

    /// A VM of its own for one stream of a plugin.
    pub(super) fn instance_of_a_stream(self: &Rc<Self>, plugin: &Rc<PluginHandle>) -> Option<Rc<Root>> {
        let cx = self.cx.upgrade()?;
        let config = &plugin.prepared.plugin;
        match outrigger_wasm::start(&self.module, config, &cx.services, StartMode::Serving) {
            Ok(vm) => {
                let id = vm.roots().map(|(id, _)| id).next()?;
                let instance = Instance::new(self, &self.cx, vm);
                let root = Root::new(&instance, id, config);
                instance.run_effects(None, |_| {});
                // Nobody else gets it: it ends with the stream.
                root.belongs_to_one_stream();
                Some(root)
            }
            Err(error) => {
                tracing::error!(plugin = %config.name, revision = %self.config.revision(), "no VM for a stream: {error}");
                None
            }
        }
    }
}

/// Names for a log line: all, or the first and how many more.
fn names(plugins: &[Rc<PluginHandle>]) -> String {
    let mut names: Vec<&str> = plugins.iter().map(|plugin| &*plugin.prepared.plugin.name).collect();
    names.sort_unstable();
    names.dedup();
    match names.split_first() {
        None => "(retired)".to_owned(),
        Some((first, [])) => (*first).to_owned(),
        Some((first, others)) => format!("{first} and {} more in its VM", others.len()),
    }
}
