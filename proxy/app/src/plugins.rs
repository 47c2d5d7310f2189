//! Preparing plugins: module and canary, and VMs for the workers, before anything that is served is touched.
//!
//! What is prepared waits here until the generation that uses it is published, and is dropped when no accepted resource
//! names it any more. A plugin that serves already is not prepared again: plugins are compared by value.

mod to_host;
mod vms;

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{
    HttpConnectionManager, HttpFilterKind, Listener, NetworkFilter, Resource, ResourceKind, ResourceSet, RolloutShare,
    RouteConfig, RouteSource, Snapshot, WasmOverride, WasmPlugin,
};
use outrigger_dataplane::{GenerationPlugins, PreparedPlugin, WorkerVms};
use outrigger_wasm::{CompiledModule, Plugin, PluginLabels, Services, StartMode, Tenant};
use tokio::time::Instant;

use self::to_host::to_host;
pub(crate) use self::vms::VmsWanted;
use self::vms::{VmsStarted, WaitingVms};
use crate::metrics::{WasmMetrics, milliseconds};
use crate::modules::{Endpoints, Modules, off_thread};

/// What a generation needs before it can be published.
#[derive(Debug)]
pub(crate) enum Missing {
    /// Plugins that have not passed their canary.
    Plugins(Vec<Arc<WasmPlugin>>),
    /// VMs for those that have.
    Vms(Vec<VmsWanted>),
}

/// What a generation runs with.
#[derive(Debug, Default)]
pub(crate) struct Taken {
    pub(crate) plugins: GenerationPlugins,
    /// One for each worker.
    pub(crate) vms: Vec<WorkerVms>,
}

/// Prepares plugins and hands them over.
#[derive(Debug)]
pub(crate) struct Plugins {
    modules: Modules,
    services: Arc<Services>,
    concurrency: usize,
    waiting: RefCell<HashMap<Arc<WasmPlugin>, PreparedPlugin>>,
    waiting_vms: RefCell<WaitingVms>,
    /// What the published generation has.
    serving: RefCell<HashMap<Arc<WasmPlugin>, PreparedPlugin>>,
    /// Plugins of static listeners that could not be prepared and whose policy lets requests pass without them.
    passed_over: RefCell<HashSet<Arc<WasmPlugin>>>,
    metrics: Rc<WasmMetrics>,
}

impl Plugins {
    pub(crate) fn new(
        modules: Modules,
        services: Arc<Services>,
        concurrency: usize,
        metrics: Rc<WasmMetrics>,
    ) -> Plugins {
        Plugins {
            modules,
            services,
            concurrency,
            waiting: RefCell::default(),
            waiting_vms: RefCell::default(),
            serving: RefCell::default(),
            passed_over: RefCell::default(),
            metrics,
        }
    }

    /// Whether a generation may use a plugin as things are.
    pub(crate) fn is_ready(&self, plugin: &Arc<WasmPlugin>) -> bool {
        self.serving.borrow().contains_key(plugin)
            || self.waiting.borrow().contains_key(plugin)
            || self.passed_over.borrow().contains(plugin)
    }

    /// Makes a plugin ready, or says why it can't be. What failed since `asked` isn't tried again.
    pub(crate) async fn prepare(
        &self,
        plugin: &Arc<WasmPlugin>,
        asked: Instant,
        endpoints: &impl Endpoints,
    ) -> Result<(), String> {
        if self.is_ready(plugin) {
            return Ok(());
        }
        let started = Instant::now();
        let outcome = self.canary(plugin, asked, endpoints).await;
        self.metrics.prepare_time.record(milliseconds(started.elapsed()));
        match outcome {
            Ok(prepared) => {
                self.waiting.borrow_mut().insert(Arc::clone(plugin), prepared);
                Ok(())
            }
            Err(reason) => Err(self.rejected(plugin, &reason)),
        }
    }

    fn rejected(&self, plugin: &WasmPlugin, reason: &str) -> String {
        self.metrics.rejected.inc();
        format!("plugin {}: {reason}", plugin.name)
    }

    async fn canary(
        &self,
        plugin: &Arc<WasmPlugin>,
        asked: Instant,
        endpoints: &impl Endpoints,
    ) -> Result<PreparedPlugin, String> {
        let (module, code) = self.modules.load(&plugin.vm.code, asked, endpoints).await?;
        for warning in module.warnings() {
            tracing::warn!("plugin {}: {warning}", plugin.name);
        }
        let host = Arc::new(to_host(plugin, code));
        let services = Arc::clone(&self.services);
        off_thread(move || canary(&module, &host, &services)).await?
    }

    /// Starts VMs for the workers. Plugins that don't start, though their canaries did, are not ready any more.
    pub(crate) async fn start(&self, wanted: VmsWanted) -> Vec<(Arc<WasmPlugin>, String)> {
        let (services, workers) = (Arc::clone(&self.services), self.concurrency);
        let all: Vec<Arc<WasmPlugin>> = wanted.plugins().cloned().collect();
        let started = off_thread(move || vms::start(wanted, &services, workers)).await;
        let mut started = started.unwrap_or_else(|reason| VmsStarted::none(all, &reason));
        for (plugin, reason) in &mut started.failed {
            self.waiting.borrow_mut().remove(plugin);
            *reason = self.rejected(plugin, reason);
        }
        let failed = std::mem::take(&mut started.failed);
        self.waiting_vms.borrow_mut().insert(started);
        failed
    }

    /// Lets a plugin be left out, as its policy has it.
    pub(crate) fn pass_over(&self, plugin: &Arc<WasmPlugin>) {
        self.passed_over.borrow_mut().insert(Arc::clone(plugin));
    }

    /// What a generation needs before it can be published; `None`: nothing.
    pub(crate) fn missing(&self, snapshot: &Snapshot) -> Option<Missing> {
        let used = used(snapshot).plugins;
        let unready: Vec<Arc<WasmPlugin>> = used.iter().filter(|plugin| !self.is_ready(plugin)).cloned().collect();
        if !unready.is_empty() {
            return Some(Missing::Plugins(unready));
        }
        let waiting = self.waiting.borrow();
        let new = used.iter().filter_map(|plugin| waiting.get_key_value(plugin));
        let wanted = self.waiting_vms.borrow().wanted(new);
        (!wanted.is_empty()).then_some(Missing::Vms(wanted))
    }

    /// Hands over what a generation needs: each plugin of it, and VMs for those that the last one didn't have.
    pub(crate) fn take(&self, snapshot: &Snapshot) -> Taken {
        let mut taken = Taken { vms: Vec::new(), ..Taken::default() };
        taken.vms.resize_with(self.concurrency, WorkerVms::default);
        let serving = self.serving.borrow();
        let used = used(snapshot);
        let plugins = &mut taken.plugins.plugins;
        for plugin in used.plugins {
            // The same address for the same plugin: workers look no further.
            if let Some((known, prepared)) = serving.get_key_value(&plugin) {
                plugins.insert(Arc::clone(known), prepared.clone());
                continue;
            }
            let Some(prepared) = self.waiting.borrow_mut().remove(&plugin) else { continue };
            self.waiting_vms.borrow_mut().take(&prepared.plugin, &mut taken.vms);
            plugins.insert(plugin, prepared);
        }
        for (filter, route, made) in used.by_route {
            if let Some((made, _)) = plugins.get_key_value(&made) {
                taken.plugins.by_route.insert(&filter, &route, Arc::clone(made));
            }
        }
        taken
    }

    /// Gives back what was taken for a generation that is not published after all.
    pub(crate) fn give_back(&self, taken: Taken) {
        let Taken { plugins, vms } = taken;
        let serving = self.serving.borrow();
        let new = plugins.plugins.into_iter().filter(|(plugin, _)| !serving.contains_key(plugin));
        self.waiting.borrow_mut().extend(new);
        self.waiting_vms.borrow_mut().give_back(vms);
    }

    /// Remembers what is published, and drops what no accepted resource names.
    pub(crate) fn published(&self, plugins: GenerationPlugins, snapshot: &Snapshot, resources: &ResourceSet) {
        *self.serving.borrow_mut() = plugins.plugins;
        if self.waiting.borrow().is_empty() && self.passed_over.borrow().is_empty() {
            return;
        }
        let named: HashSet<Arc<WasmPlugin>> = [ResourceKind::Listener, ResourceKind::Extension]
            .into_iter()
            .flat_map(|kind| resources.resources(kind))
            .flat_map(of_resource)
            .collect();
        self.waiting.borrow_mut().retain(|plugin, _| named.contains(plugin));
        let waiting = self.waiting.borrow();
        self.waiting_vms.borrow_mut().retain(|vm| waiting.values().any(|prepared| prepared.plugin.vm == *vm));
        let used = used(snapshot).plugins;
        self.passed_over.borrow_mut().retain(|plugin| named.contains(plugin) || used.contains(plugin));
    }
}

/// Starts a plugin where nobody sees it.
fn canary(module: &CompiledModule, plugin: &Arc<Plugin>, services: &Arc<Services>) -> Result<PreparedPlugin, String> {
    let pooled = match plugin.vm.isolation {
        outrigger_wasm::Isolation::Stream => Some(module.pooled().map_err(|error| format!("the module {error}"))?),
        outrigger_wasm::Isolation::Shared | outrigger_wasm::Isolation::Plugin(_) => None,
    };
    let module = pooled.as_ref().unwrap_or(module);
    let canary =
        outrigger_wasm::start(module, plugin, services, StartMode::Canary).map_err(|error| error.to_string())?;
    let configured_in = canary.configured_in();
    let (labels, tenant) = (PluginLabels::new(services, plugin), Tenant::new(services, plugin));
    Ok(PreparedPlugin { plugin: Arc::clone(plugin), module: module.clone(), configured_in, labels, tenant })
}

/// The plugins that a resource brings: those of a listener's filters, defaults included, or an extension's own.
pub(crate) fn of_resource(resource: &Resource) -> Vec<Arc<WasmPlugin>> {
    match resource {
        Resource::Extension(extension) => {
            let rollout = extension.rollout.as_deref();
            // A shadow that stands beside nothing is all that runs.
            let stable = rollout.is_none_or(|rollout| rollout.share != RolloutShare::ShadowOnly);
            let stable = stable.then(|| Arc::clone(&extension.plugin));
            stable.into_iter().chain(rollout.map(|rollout| Arc::clone(&rollout.candidate))).collect()
        }
        Resource::Listener(listener) => filters(listener)
            .filter_map(|filter| match &filter.kind {
                HttpFilterKind::Wasm(plugin) => Some(Arc::clone(plugin)),
                HttpFilterKind::Native(_) => None,
                HttpFilterKind::Discovered(discovered) => discovered.default.clone(),
            })
            .chain(listener.plugins().cloned())
            .collect(),
        Resource::Cluster(_) | Resource::Endpoints(_) | Resource::Route(_) | Resource::Secret(_) => Vec::new(),
    }
}

/// Whether a resource is a reason that a generation needs a plugin: its own, or one that a route makes of a filter's.
pub(crate) fn brings(resource: &Resource, plugin: &Arc<WasmPlugin>) -> bool {
    let made_by = |routes: &RouteConfig| routes.all_wasm_overrides().into_iter().any(|route| route.made(plugin));
    let is_base = |own: &Arc<WasmPlugin>| own == plugin || own.vm == plugin.vm;
    match resource {
        Resource::Route(routes) => made_by(routes),
        Resource::Listener(listener) => {
            let inline = managers(listener).any(|manager| match &manager.routes {
                RouteSource::Inline(routes) => made_by(routes),
                RouteSource::Rds { .. } => false,
            });
            inline || of_resource(resource).iter().any(is_base)
        }
        Resource::Extension(_) => of_resource(resource).iter().any(is_base),
        Resource::Cluster(_) | Resource::Endpoints(_) | Resource::Secret(_) => false,
    }
}

fn managers(listener: &Listener) -> impl Iterator<Item = &HttpConnectionManager> {
    listener.chains.iter().filter_map(|chain| match &chain.filter {
        NetworkFilter::Http(manager) => Some(&**manager),
        NetworkFilter::Tcp(_) => None,
    })
}

fn filters(listener: &Listener) -> impl Iterator<Item = &outrigger_config::HttpFilter> {
    managers(listener).flat_map(|manager| &manager.filters)
}

/// The plugins that a generation runs.
#[derive(Default)]
struct Used {
    plugins: HashSet<Arc<WasmPlugin>>,
    /// A filter's plugin, what a route says, and what that makes.
    by_route: Vec<(Arc<WasmPlugin>, Arc<WasmOverride>, Arc<WasmPlugin>)>,
}

fn used(snapshot: &Snapshot) -> Used {
    let mut used = Used::default();
    for manager in snapshot.listeners.values().flat_map(|listener| managers(listener)) {
        let routes = match &manager.routes {
            RouteSource::Inline(routes) => Some(routes),
            RouteSource::Rds { name, .. } => snapshot.routes.get(name),
        };
        for filter in &manager.filters {
            let outrigger_config::FilterConfig::Plugin(plugin) = snapshot.filter_config(filter) else { continue };
            let rollout = snapshot.rollout(filter);
            // A shadow that stands beside nothing is all that runs.
            let stable = rollout.is_none_or(|rollout| rollout.share != RolloutShare::ShadowOnly).then_some(plugin);
            for plugin in stable.into_iter().chain(rollout.map(|rollout| &rollout.candidate)) {
                used.plugins.insert(Arc::clone(plugin));
                for route in routes.map(|routes| routes.wasm_overrides(filter)).unwrap_or_default() {
                    let made = Arc::new(route.plugin(plugin));
                    used.plugins.insert(Arc::clone(&made));
                    used.by_route.push((Arc::clone(plugin), Arc::clone(route), made));
                }
            }
        }
    }
    used.plugins.extend(snapshot.listeners.values().flat_map(|listener| listener.plugins().cloned()));
    let network = snapshot.listeners.values().flat_map(|listener| &listener.chains).flat_map(|chain| &chain.filters);
    used.plugins.extend(network.filter_map(|filter| snapshot.network_plugin(filter).cloned()));
    used
}
