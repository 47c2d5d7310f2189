//! A worker's view of a generation, built from the previous one so that equal parts keep their connections and VMs.
//! Building cannot fail.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, HashMap};
use std::rc::Rc;
use std::sync::Arc;

use foldhash::fast::RandomState;
use outrigger_config::{
    AccessLog, ClusterEntry, ConnectionFilterKind, FailurePolicy, FilterChain, FilterConfig, HttpConnectionManager,
    HttpFilter, NativeFilter, NetworkFilter, OverrideConfig, RolloutShare, RouteConfig, RouteSource, SharedMap,
    Snapshot, TcpProxy, WasmOverride, WasmPlugin,
};
use outrigger_http::{LogType, StreamState};
use rand::Rng;

use crate::cluster::{ClusterHandle, ClusterStatus};
use crate::enabled::{Enabled, Place};
use crate::error::{ErrorKind, StreamError};
use crate::exchange::Exchange;
use crate::filter::{self, FilterSlot};
use crate::filters::NativeHandle;
use crate::network::{LimitHandle, NetworkFactory, RbacHandle};
use crate::plugin::{FAILED, FailedFilter, PluginHandle, Plugins, Revision, Staged, WasmFilter};
use crate::prepared::{Prepared, RoutePlugins, WorkerVms};
use crate::stats::{HttpStats, TcpStats};
use crate::tls::Acceptors;
use crate::worker::WorkerCx;

/// By name: one is looked up for every request.
type Clusters = HashMap<Arc<str>, Rc<ClusterHandle>, RandomState>;

/// The clusters and plugins of a generation.
#[derive(Debug)]
pub(crate) struct LiveConfig {
    pub(crate) prepared: Arc<Prepared>,
    /// Made at first use: a worker pays for what it talks to. A generation shares them with the previous one but where they
    /// differ.
    clusters: RefCell<SharedMap<Rc<ClusterHandle>>>,
    /// Those that this generation was asked for: requests find them sooner here.
    asked: RefCell<Clusters>,
    plugins: Plugins,
    /// There is no later generation: its clusters' connections are swept.
    current: Cell<bool>,
}

/// What a listener's connections do.
#[derive(Debug, Clone)]
pub(crate) enum LiveChain {
    Http(Rc<HttpChain>),
    Tcp(Rc<TcpChain>),
}

#[derive(Debug)]
pub(crate) struct TcpChain {
    pub(crate) proxy: Arc<TcpProxy>,
    pub(crate) stats: Rc<TcpStats>,
    pub(crate) live: Rc<LiveConfig>,
}

/// A connection manager with its routes and filters.
#[derive(Debug)]
pub(crate) struct HttpChain {
    pub(crate) hcm: Arc<HttpConnectionManager>,
    /// `None`: the route configuration doesn't exist; every request is a 404.
    pub(crate) routes: Option<Arc<RouteConfig>>,
    pub(crate) stats: Rc<HttpStats>,
    pub(crate) live: Rc<LiveConfig>,
    filters: Vec<FilterFactory>,
    enabled: Rc<Enabled>,
}

#[derive(Debug)]
struct FilterFactory {
    place: Place,
    kind: FilterKind,
}

#[derive(Debug)]
enum FilterKind {
    /// The filter's own plugin, and those of routes that configure it.
    Wasm(Rc<PluginHandle>, ByRoute),
    /// Two revisions: which one is decided for each stream.
    Staged(Box<StagedPlugins>),
    Native(Rc<NativeHandle>),
    Failed(StreamError),
}

impl LiveConfig {
    pub(crate) fn empty() -> Rc<LiveConfig> {
        let prepared = Prepared {
            snapshot: Arc::default(),
            plugins: HashMap::new(),
            by_route: RoutePlugins::default(),
            rollouts: HashMap::new(),
            sockets: BTreeMap::new(),
            acceptors: Acceptors::default(),
        };
        LiveConfig::new(Arc::new(prepared), SharedMap::new(), Plugins::default())
    }

    fn new(prepared: Arc<Prepared>, clusters: SharedMap<Rc<ClusterHandle>>, plugins: Plugins) -> Rc<LiveConfig> {
        let (clusters, asked) = (RefCell::new(clusters), RefCell::default());
        Rc::new(LiveConfig { prepared, clusters, asked, plugins, current: Cell::new(true) })
    }

    pub(crate) fn build(
        prepared: Arc<Prepared>,
        mut vms: WorkerVms,
        previous: &LiveConfig,
        cx: &Rc<WorkerCx>,
    ) -> Rc<LiveConfig> {
        if let Some(local) = &cx.local {
            local.update(prepared.snapshot.clusters.get(local.name()), &cx.health);
        }
        let mut clusters = previous.clusters.borrow().clone();
        for name in prepared.snapshot.clusters.changed(&previous.snapshot().clusters, Arc::ptr_eq) {
            let Some(handle) = clusters.remove(&name) else { continue };
            match prepared.snapshot.clusters.get(&name) {
                Some(entry) => _ = clusters.insert(name, ClusterHandle::build(entry, cx, Some(&handle), true)),
                None => handle.retire(),
            }
        }
        previous.current.set(false);
        let plugins = Plugins::build(&prepared, std::mem::take(&mut vms.vms), &previous.plugins, cx);
        LiveConfig::new(prepared, clusters, plugins)
    }

    pub(crate) fn snapshot(&self) -> &Snapshot {
        &self.prepared.snapshot
    }

    pub(crate) fn cluster_exists(&self, name: &str) -> bool {
        self.snapshot().clusters.contains_key(name)
    }

    /// A cluster by name, with its connections.
    pub(crate) fn cluster(&self, cx: &WorkerCx, name: &str) -> Option<Rc<ClusterHandle>> {
        if let Some(handle) = self.asked.borrow().get(name) {
            return Some(handle.clone());
        }
        let (name, entry) = self.snapshot().clusters.get_key_value(name)?;
        let known = self.clusters.borrow().get(name).cloned();
        let handle = known.unwrap_or_else(|| self.first_use(cx, name, entry));
        self.asked.borrow_mut().insert(name.clone(), handle.clone());
        Some(handle)
    }

    fn first_use(&self, cx: &WorkerCx, name: &Arc<str>, entry: &Arc<ClusterEntry>) -> Rc<ClusterHandle> {
        let handle = ClusterHandle::build(entry, cx, None, self.current.get());
        if !self.current.get() {
            handle.retire();
        }
        self.clusters.borrow_mut().insert(name.clone(), handle.clone());
        handle
    }

    pub(crate) fn sweep(&self) {
        let now = tokio::time::Instant::now();
        self.clusters.borrow().values().for_each(|cluster| cluster.sweep(now));
        self.plugins.sweep();
    }

    pub(crate) fn status(&self) -> Vec<ClusterStatus> {
        self.clusters.borrow().values().map(|cluster| cluster.status()).collect()
    }

    /// What makes the network filters of a chain's connections.
    pub(crate) fn network_filters(&self, chain: &FilterChain, cx: &WorkerCx) -> Rc<[NetworkFactory]> {
        let factories = chain.filters.iter().filter_map(|filter| match &filter.kind {
            ConnectionFilterKind::Rbac(rbac) => Some(NetworkFactory::Rbac(RbacHandle::new(rbac, &cx.registry))),
            ConnectionFilterKind::ConnectionLimit(limit) => {
                Some(NetworkFactory::ConnectionLimit(LimitHandle::new(limit, &cx.registry)))
            }
            ConnectionFilterKind::Wasm(_) | ConnectionFilterKind::Discovered(_) => {
                match self.snapshot().network_plugin(filter).map(|plugin| (plugin, self.plugins.get(plugin))) {
                    Some((_, Some(handle))) => Some(NetworkFactory::Wasm(handle.clone())),
                    // It never started, and its policy lets connections pass.
                    Some((plugin, None)) if plugin.failure_policy == FailurePolicy::Open => None,
                    // Without its configuration connections are closed, as in Envoy.
                    Some((_, None)) | None => Some(NetworkFactory::Failed),
                }
            }
        });
        factories.collect()
    }

    /// Tells the access logs of a stream or connection that is over, those whose filters want it. Plugins are told first:
    /// what they say of it may be in a line.
    pub(crate) fn log(&self, cx: &WorkerCx, logs: &[AccessLog], kind: LogType, state: &Rc<RefCell<StreamState>>) {
        state.borrow_mut().info.log_type = kind;
        let wanted = |log: &&AccessLog| log.wants(&state.borrow(), &mut || cx.random().random());
        for log in logs.iter().filter(|log| log.plugin().is_some()).filter(wanted) {
            if let Some(handle) = log.plugin().and_then(|plugin| self.plugins.get(plugin)) {
                handle.log(state);
            }
        }
        for log in logs.iter().filter(|log| log.plugin().is_none()).filter(wanted) {
            cx.access_log.write(log, &state.borrow());
        }
    }

    /// What the connections of a network filter do in this generation; `before` is what they did in the last one.
    pub(crate) fn chain(
        self: &Rc<Self>,
        filter: &NetworkFilter,
        before: Option<&LiveChain>,
        cx: &WorkerCx,
    ) -> LiveChain {
        match filter {
            NetworkFilter::Http(hcm) => {
                let before = before.and_then(LiveChain::http).filter(|before| Arc::ptr_eq(&before.hcm, hcm));
                LiveChain::Http(Rc::new(self.http_chain(hcm, before, cx)))
            }
            NetworkFilter::Tcp(proxy) => LiveChain::Tcp(Rc::new(TcpChain {
                proxy: proxy.clone(),
                stats: TcpStats::new(&cx.registry, &proxy.stat_prefix),
                live: self.clone(),
            })),
        }
    }

    /// The handles of what routes make of a filter's plugin.
    fn by_route(&self, filter: &HttpFilter, plugin: &Arc<WasmPlugin>, routes: Option<&RouteConfig>) -> ByRoute {
        let overrides = routes.map(|routes| routes.wasm_overrides(filter)).unwrap_or_default();
        let made = overrides.into_iter().map(|config| {
            let made = self.prepared.by_route.get(plugin, config).and_then(|made| self.plugins.get(made));
            let policy = config.failure_policy.unwrap_or(plugin.failure_policy);
            (Arc::as_ptr(config), made.cloned().ok_or(policy))
        });
        ByRoute(made.collect())
    }

    /// `before` is made of the same manager.
    fn http_chain(
        self: &Rc<Self>,
        hcm: &Arc<HttpConnectionManager>,
        before: Option<&HttpChain>,
        cx: &WorkerCx,
    ) -> HttpChain {
        let routes = match &hcm.routes {
            RouteSource::Inline(routes) => Some(routes.clone()),
            RouteSource::Rds { name, .. } => self.snapshot().routes.get(name).cloned(),
        };
        let mut filters = Vec::with_capacity(hcm.filters.len());
        for filter in &hcm.filters {
            let mut buffer_bytes_max = usize::MAX;
            let position = routes.as_ref().and_then(|routes| routes.override_names.position(&filter.name));
            let kind = match self.snapshot().filter_config(filter) {
                FilterConfig::Missing => FilterKind::Failed(StreamError::internal(ErrorKind::FilterMissing)),
                FilterConfig::Native(native) => {
                    if let NativeFilter::Buffer(limit) = native {
                        buffer_bytes_max = limit.0 as usize;
                    }
                    FilterKind::Native(NativeHandle::new(native, position, &cx.registry, &hcm.stat_prefix))
                }
                FilterConfig::Plugin(plugin) => {
                    buffer_bytes_max = usize::try_from(plugin.vm.limits.body_buffer_bytes).unwrap_or(usize::MAX);
                    match self.plugins.get(plugin) {
                        stable if let Some(staged) = self.staged(filter, plugin, stable, routes.as_deref()) => {
                            FilterKind::Staged(Box::new(staged))
                        }
                        Some(handle) => {
                            FilterKind::Wasm(handle.clone(), self.by_route(filter, plugin, routes.as_deref()))
                        }
                        // It never started, and its policy lets requests pass.
                        None if plugin.failure_policy == FailurePolicy::Open => continue,
                        None => FilterKind::Failed(FAILED),
                    }
                }
            };
            filters
                .push(FilterFactory { place: Place { position, disabled: filter.disabled, buffer_bytes_max }, kind });
        }
        // Most generations leave the routes alone, and ten thousand virtual hosts are much to look at.
        let known = before.filter(|before| before.walks_as(routes.as_ref(), &filters));
        let enabled =
            known.map_or_else(|| Rc::new(enabled(&filters, routes.as_deref())), |known| known.enabled.clone());
        let stats =
            before.map_or_else(|| HttpStats::new(&cx.registry, &hcm.stat_prefix), |before| before.stats.clone());
        HttpChain { hcm: hcm.clone(), routes, stats, live: self.clone(), filters, enabled }
    }
}

/// A filter of which a new revision is on trial.
#[derive(Debug)]
struct StagedPlugins {
    staged: Staged,
    /// `None`: there is no revision but the new one.
    stable: Option<(Rc<PluginHandle>, ByRoute)>,
    candidate: (Rc<PluginHandle>, ByRoute),
}

impl StagedPlugins {
    fn start(&self, exchange: &Exchange<'_>, position: Option<usize>) -> Option<FilterSlot> {
        self.staged.start(&exchange.stream_key(), |revision| {
            let (handle, by_route) = match revision {
                Revision::Stable => self.stable.as_ref()?,
                Revision::Candidate => &self.candidate,
            };
            by_route.start(exchange, position, handle)
        })
    }
}

impl LiveConfig {
    /// A filter of which a new revision is on trial, where that could be prepared.
    fn staged(
        &self,
        filter: &HttpFilter,
        plugin: &Arc<WasmPlugin>,
        stable: Option<&Rc<PluginHandle>>,
        routes: Option<&RouteConfig>,
    ) -> Option<StagedPlugins> {
        let rollout = self.snapshot().rollout(filter)?;
        let run = self.prepared.rollouts.get(&filter.name)?;
        let candidate = self.plugins.get(&rollout.candidate)?;
        let alone = rollout.share == RolloutShare::ShadowOnly;
        if stable.is_none() && !alone {
            return None;
        }
        let stable = stable.filter(|_| !alone);
        Some(StagedPlugins {
            staged: Staged::new(run, stable.is_some()),
            stable: stable.map(|stable| (stable.clone(), self.by_route(filter, plugin, routes))),
            candidate: (candidate.clone(), self.by_route(filter, &rollout.candidate, routes)),
        })
    }
}

/// The plugins of routes that configure a Wasm filter, by what they say; where there is none, what its policy is.
#[derive(Debug, Default)]
struct ByRoute(HashMap<*const WasmOverride, Result<Rc<PluginHandle>, FailurePolicy>>);

impl ByRoute {
    /// The filter of a stream; `None`: its plugin never started, and its policy lets requests pass.
    fn start(&self, exchange: &Exchange<'_>, position: Option<usize>, own: &Rc<PluginHandle>) -> Option<FilterSlot> {
        let said = if self.0.is_empty() { None } else { exchange.filter_override(position) };
        let by_route = match said.and_then(|said| said.config.as_ref()) {
            Some(OverrideConfig::Wasm(config)) => self.0.get(&Arc::as_ptr(config)),
            _ => None,
        };
        Some(match by_route {
            None => FilterSlot::Wasm(WasmFilter::new(own)),
            Some(Ok(handle)) => FilterSlot::Wasm(WasmFilter::new(handle)),
            Some(Err(FailurePolicy::Open)) => return None,
            Some(Err(FailurePolicy::Closed | FailurePolicy::Reload(_))) => {
                FilterSlot::Other(Box::new(FailedFilter(FAILED)))
            }
        })
    }
}

fn enabled(filters: &[FilterFactory], routes: Option<&RouteConfig>) -> Enabled {
    let places: Vec<Place> = filters.iter().map(|factory| factory.place).collect();
    Enabled::new(&places, routes.into_iter().flat_map(|routes| routes.scopes()))
}

impl LiveChain {
    fn http(&self) -> Option<&HttpChain> {
        match self {
            LiveChain::Http(chain) => Some(chain),
            LiveChain::Tcp(_) => None,
        }
    }
}

impl HttpChain {
    /// Whether streams of these routes walk filters in these places as they do here.
    fn walks_as(&self, routes: Option<&Arc<RouteConfig>>, filters: &[FilterFactory]) -> bool {
        self.routes.as_ref().map(Arc::as_ptr) == routes.map(Arc::as_ptr)
            && self.filters.iter().map(|own| own.place).eq(filters.iter().map(|other| other.place))
    }

    /// Gives a stream its filters.
    pub(crate) fn start_filters(&self, exchange: &mut Exchange<'_>) {
        let walk = self.enabled.of(exchange.overrides());
        if walk.filters.is_empty() {
            return;
        }
        let mut list = filter::new_list();
        list.extend(walk.filters.iter().map(|index| &self.filters[*index]).filter_map(|factory| {
            let position = factory.place.position;
            match &factory.kind {
                FilterKind::Wasm(handle, by_route) => by_route.start(exchange, position, handle),
                FilterKind::Staged(staged) => staged.start(exchange, position),
                FilterKind::Native(handle) => Some(FilterSlot::Other(handle.start())),
                FilterKind::Failed(error) => Some(FilterSlot::Other(Box::new(FailedFilter(*error)))),
            }
        }));
        exchange.set_filters(list, walk.buffer_bytes_max.min(exchange.slot.buffer_limit()));
    }
}

#[cfg(test)]
#[path = "live/tests.rs"]
mod tests;
