//! One VM of a worker, through all its instances.

use std::cell::{Cell, RefCell};
use std::collections::BTreeSet;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use outrigger_wasm::{
    CompiledModule, FailurePolicy, Isolation, Plugin, ReadyVm, StartMode, Trap, VmConfig, VmEvent, VmWaits,
    count_vm_event, start_vm,
};
use rand::Rng;
use tokio::time::Instant;

use super::breaker::Breaker;
use super::{Instance, PluginHandle, Root};
use crate::worker::WorkerCx;

/// An instance that is younger is not recycled for its memory: what it takes at once is what it needs.
const RECYCLED_AGE_MIN: Duration = Duration::from_secs(10);
/// Plugins that a new instance is started with; further ones are configured as their streams come.
const STARTED_TOGETHER_MAX: usize = 64;
/// Failures of streams' own instances come as often as streams do: they are told this often.
const TOLD_AGAIN: Duration = Duration::from_secs(1);

/// A VM that plugins of one configuration share.
#[derive(Debug)]
pub(crate) struct VmHandle {
    config: Arc<VmConfig>,
    module: CompiledModule,
    cx: Weak<WorkerCx>,
    /// The one that new streams go to.
    instance: RefCell<Option<Rc<Instance>>>,
    plugins: RefCell<Vec<Weak<PluginHandle>>>,
    breaker: RefCell<Breaker>,
    /// An instance is being started, or waited for.
    starting: Cell<bool>,
    /// Kind and callback of the last trap of its instances.
    last_trap: Cell<Option<(&'static str, &'static str)>>,
    /// What failed of streams' own instances, for one line a second.
    told: Told,
}

/// When something was said last, and how often it happened since.
#[derive(Debug, Default)]
struct Told {
    at: Cell<Option<Instant>>,
    since: Cell<u64>,
}

impl Told {
    /// Whether it is to be said now: how often it happened without being said.
    fn again(&self) -> Option<u64> {
        let now = Instant::now();
        if self.at.get().is_some_and(|at| now.duration_since(at) < TOLD_AGAIN) {
            self.since.set(self.since.get() + 1);
            return None;
        }
        self.at.set(Some(now));
        Some(self.since.take())
    }
}

impl VmHandle {
    pub(crate) fn new(config: &Arc<VmConfig>, module: &CompiledModule, cx: &Rc<WorkerCx>) -> Rc<VmHandle> {
        Rc::new(VmHandle {
            config: config.clone(),
            module: module.clone(),
            cx: Rc::downgrade(cx),
            instance: RefCell::new(None),
            plugins: RefCell::default(),
            breaker: RefCell::default(),
            starting: Cell::new(false),
            last_trap: Cell::new(None),
            told: Told::default(),
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

    pub(super) fn last_trap(&self) -> Option<(&'static str, &'static str)> {
        self.last_trap.get()
    }

    pub(super) fn instance(&self) -> Option<Rc<Instance>> {
        self.instance.borrow().clone()
    }

    pub(super) fn serves(&self, instance: &Rc<Instance>) -> bool {
        self.instance.borrow().as_ref().is_some_and(|serving| Rc::ptr_eq(serving, instance))
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
        self.last_trap.set(Some((trap.kind.label(), trap.callback)));
        let revision = self.config.revision();
        match self.config.isolation {
            Isolation::Stream => {
                if let Some(more) = self.told.again() {
                    let kind = trap.kind.label();
                    tracing::error!(plugin = %trap.plugin, revision = %revision, kind, more, "{trap}");
                }
                return;
            }
            Isolation::Shared | Isolation::Plugin(_) => {
                tracing::error!(plugin = %trap.plugin, revision = %revision, kind = trap.kind.label(), "{trap}");
            }
        }
        let plugins = self.live_plugins();
        plugins.iter().for_each(|plugin| plugin.forget_root(instance));
        let was_serving = self.instance.borrow_mut().take_if(|serving| Rc::ptr_eq(serving, instance)).is_some();
        if was_serving {
            self.restart();
        }
    }

    /// Starts a new instance off the worker's loop, now or when the breaker lets it.
    pub(crate) fn restart(self: &Rc<Self>) {
        let Some(cx) = self.cx.upgrade() else { return };
        if self.starting.replace(true) {
            return;
        }
        let plugins = self.live_plugins();
        let reload = plugins.iter().filter_map(|plugin| match plugin.policy() {
            FailurePolicy::Reload(backoff) => Some(backoff),
            FailurePolicy::Open | FailurePolicy::Closed => None,
        });
        let reload = reload.max_by_key(|backoff| backoff.base);
        let random = cx.random().random::<f64>();
        let (wait, losses) = {
            let mut breaker = self.breaker.borrow_mut();
            (breaker.lost(Instant::now(), random, reload), breaker.losses())
        };
        let mut shown = Vec::new();
        if !wait.is_zero() {
            shown = self.of_each_name(&plugins, |plugin| VmWaits::new(&cx.registry, plugin, wait));
            let (names, revision) = (names(&plugins), self.config.revision());
            tracing::error!(plugin = %names, revision = %revision, losses, "fails too often: replaced again in {wait:?}");
            self.count(&plugins, VmEvent::Waits);
        }
        drop(plugins);
        let handle = self.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep(wait).await;
            // The breaker is closed: what comes now is a try.
            drop(shown);
            handle.replace().await;
        });
    }

    async fn replace(self: Rc<Self>) {
        let started = self.start().await;
        self.starting.set(false);
        let plugins = self.live_plugins();
        match started {
            _ if plugins.is_empty() => {}
            Some(vm) => {
                self.install(vm);
                self.count(&plugins, VmEvent::Replaced);
            }
            None => {
                self.count(&plugins, VmEvent::NotReplaced);
                self.restart();
            }
        }
    }

    /// A VM with the plugins that live; `None` where none of them starts.
    async fn start(&self) -> Option<ReadyVm> {
        let mut plugins = self.live_plugins();
        // Slow ones can only be configured here.
        plugins.sort_by_key(|plugin| plugin.prepared.is_quick());
        let slow = plugins.iter().take_while(|plugin| !plugin.prepared.is_quick()).count();
        plugins.truncate(slow.max(STARTED_TOGETHER_MAX));
        let cx = self.cx.upgrade().filter(|_| !plugins.is_empty())?;
        let configs: Vec<Arc<Plugin>> = plugins.iter().map(|plugin| plugin.prepared.plugin.clone()).collect();
        let (module, services) = (self.module.clone(), cx.services.clone());
        drop((plugins, cx));
        let started = tokio::task::spawn_blocking(move || start_vm(&module, configs, &services)).await.ok()?;
        for (plugin, error) in &started.failed {
            tracing::error!(plugin = %plugin.name, revision = %self.config.revision(), "no new instance: {error}");
        }
        started.vm
    }

    /// The serving instance has served enough: a new one takes the next streams, this one ends with its last.
    pub(super) fn recycle(self: &Rc<Self>, cause: &'static str) {
        if self.starting.replace(true) {
            return;
        }
        let handle = self.clone();
        tokio::task::spawn_local(async move {
            let started = handle.start().await;
            handle.starting.set(false);
            let plugins = handle.live_plugins();
            match started {
                // One that trapped meanwhile is replaced by this as well.
                Some(vm) if !plugins.is_empty() => {
                    handle.count(&plugins, VmEvent::Recycled(cause));
                    handle.install(vm);
                }
                _ if handle.instance.borrow().is_none() => handle.restart(),
                _ => {}
            }
        });
    }

    /// Once a second: statistics, and whether the instance has grown too large.
    pub(crate) fn sweep(self: &Rc<Self>) {
        let Some(instance) = self.instance() else { return };
        let bytes = instance.refresh_stats();
        if bytes > self.config.limits.recycle_memory_bytes
            && bytes > instance.started_bytes
            && instance.since.elapsed() >= RECYCLED_AGE_MIN
        {
            self.recycle("memory");
        }
    }

    /// Counts an event for each name.
    fn count(&self, plugins: &[Rc<PluginHandle>], event: VmEvent) {
        let Some(cx) = self.cx.upgrade() else { return };
        self.of_each_name(plugins, |plugin| count_vm_event(&cx.registry, plugin, event));
    }

    fn of_each_name<T>(&self, plugins: &[Rc<PluginHandle>], of: impl Fn(&Plugin) -> T) -> Vec<T> {
        let mut seen = BTreeSet::new();
        let plugins = plugins.iter().map(|plugin| &plugin.prepared.plugin);
        plugins.filter(|plugin| seen.insert(plugin.name.clone())).map(|plugin| of(plugin)).collect()
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
                count_vm_event(&cx.registry, config, VmEvent::NoneForStream);
                if let Some(more) = self.told.again() {
                    let revision = self.config.revision();
                    tracing::error!(plugin = %config.name, revision = %revision, more, "no VM for a stream: {error}");
                }
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
