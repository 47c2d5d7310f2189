//! What a resource names: clusters, and resources to be fetched for it.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::{
    Cluster, ClusterSpec, ConnectionFilterKind, Dependency, DiscoveredFilter, Discovery, ExtensionConfig, HttpFilter,
    HttpFilterKind, Listener, MirrorCluster, NetworkFilter, Resource, RouteAction, RouteConfig, RouteSource, SecretRef,
    Source,
};

#[derive(Debug, Default)]
pub(crate) struct Refs {
    /// Sorted, each once.
    pub(crate) clusters: Vec<Arc<str>>,
    pub(crate) endpoints: Option<Dependency>,
    pub(crate) routes: Vec<Dependency>,
    pub(crate) extensions: Vec<ExtensionDependency>,
    pub(crate) secrets: Vec<SecretRef>,
}

#[derive(Debug)]
pub(crate) struct ExtensionDependency {
    pub(crate) dependency: Dependency,
    /// `apply_default_config_without_warming`: nobody waits for it.
    pub(crate) has_instant_default: bool,
    /// Its filter is off unless a route turns it on.
    pub(crate) is_off: bool,
}

impl ExtensionDependency {
    fn of(name: &Arc<str>, filter: &DiscoveredFilter, is_off: bool) -> ExtensionDependency {
        ExtensionDependency {
            dependency: Dependency {
                name: Arc::clone(name),
                from: filter.from.clone(),
                initial_fetch_timeout: filter.initial_fetch_timeout,
            },
            has_instant_default: filter.default.is_some() && filter.apply_default_without_warming,
            is_off,
        }
    }
}

impl Refs {
    pub(crate) const NONE: Refs =
        Refs { clusters: Vec::new(), endpoints: None, routes: Vec::new(), extensions: Vec::new(), secrets: Vec::new() };

    /// `None` where it names nothing.
    pub(crate) fn of(resource: &Resource) -> Option<Refs> {
        match resource {
            Resource::Cluster(cluster) => of_cluster(cluster),
            Resource::Route(route) => Some(Refs { clusters: sorted(route_clusters(route)), ..Refs::NONE }),
            Resource::Listener(listener) => Some(of_listener(listener)),
            Resource::Endpoints(_) | Resource::Extension(_) | Resource::Secret(_) => None,
        }
    }
}

fn of_cluster(cluster: &Cluster) -> Option<Refs> {
    let endpoints = match &cluster.discovery {
        Discovery::Static(_) | Discovery::OriginalDst(_) => None,
        Discovery::Dns(targets) => {
            Some(Dependency { name: Arc::clone(&targets.name), from: Source::Dns, initial_fetch_timeout: None })
        }
        Discovery::Eds { service, initial_fetch_timeout, from } => Some(Dependency {
            name: Arc::clone(service),
            from: from.clone(),
            initial_fetch_timeout: *initial_fetch_timeout,
        }),
    };
    let secrets: Vec<SecretRef> = cluster.transports.secrets().cloned().collect();
    (endpoints.is_some() || !secrets.is_empty()).then_some(Refs { endpoints, secrets, ..Refs::NONE })
}

fn sorted<'a>(names: impl IntoIterator<Item = &'a Arc<str>>) -> Vec<Arc<str>> {
    names.into_iter().collect::<BTreeSet<_>>().into_iter().cloned().collect()
}

fn route_clusters(config: &RouteConfig) -> Vec<&Arc<str>> {
    let mut names = Vec::new();
    for route in config.virtual_hosts.iter().flat_map(|host| &host.routes) {
        let RouteAction::Forward(forward) = &route.action else { continue };
        match &forward.cluster {
            ClusterSpec::Single(name) => names.push(name),
            // A cluster of weight 0 takes no traffic.
            ClusterSpec::Weighted { clusters, .. } => {
                names.extend(clusters.iter().filter(|cluster| cluster.weight > 0).map(|cluster| &cluster.name));
            }
            ClusterSpec::Header(_) => {}
        }
        names.extend(forward.mirrors.iter().filter_map(|mirror| match &mirror.cluster {
            MirrorCluster::Named(name) => Some(name),
            MirrorCluster::Header(_) => None,
        }));
    }
    names
}

fn of_listener(listener: &Listener) -> Refs {
    let mut refs = Refs::default();
    let mut clusters = Vec::new();
    for chain in &listener.chains {
        refs.secrets.extend(chain.transport.tls().into_iter().flat_map(|tls| tls.context.secrets()).cloned());
        match &chain.filter {
            NetworkFilter::Tcp(proxy) => {
                clusters
                    .extend(proxy.clusters.iter().filter(|cluster| cluster.weight > 0).map(|cluster| &cluster.name));
            }
            NetworkFilter::Http(manager) => match &manager.routes {
                RouteSource::Inline(config) => clusters.extend(route_clusters(config)),
                RouteSource::Rds { name, initial_fetch_timeout, from } => refs.routes.push(Dependency {
                    name: Arc::clone(name),
                    from: from.clone(),
                    initial_fetch_timeout: *initial_fetch_timeout,
                }),
            },
        }
    }
    refs.clusters = sorted(clusters);
    refs.extensions =
        listener.discovered().map(|(name, filter, is_off)| ExtensionDependency::of(name, filter, is_off)).collect();
    refs
}

impl Listener {
    /// The HTTP filters of all chains.
    pub(crate) fn http_filters(&self) -> impl Iterator<Item = &HttpFilter> {
        self.chains.iter().flat_map(|chain| match &chain.filter {
            NetworkFilter::Tcp(_) => &[],
            NetworkFilter::Http(manager) => &manager.filters[..],
        })
    }

    /// The filters of all chains that are discovered, with their names, and whether they are off unless a route turns
    /// them on.
    fn discovered(&self) -> impl Iterator<Item = (&Arc<str>, &DiscoveredFilter, bool)> {
        let network = self.chains.iter().flat_map(|chain| &chain.filters).filter_map(|filter| match &filter.kind {
            ConnectionFilterKind::Discovered(discovered) => Some((&filter.name, &**discovered, false)),
            ConnectionFilterKind::Wasm(_)
            | ConnectionFilterKind::Rbac(_)
            | ConnectionFilterKind::ConnectionLimit(_) => None,
        });
        network.chain(self.http_filters().filter_map(|filter| match &filter.kind {
            HttpFilterKind::Discovered(discovered) => Some((&filter.name, discovered, filter.disabled)),
            HttpFilterKind::Wasm(_) | HttpFilterKind::Native(_) => None,
        }))
    }

    /// False where a filter of this listener asks for the extension by name and doesn't allow its type.
    pub(crate) fn admits(&self, extension: &ExtensionConfig) -> bool {
        self.discovered().all(|(name, filter, _)| *name != extension.name || extension.is_one_of(&filter.type_urls))
    }
}

impl ExtensionConfig {
    /// Whether its type is among these; the host part of a type URL means nothing.
    pub(crate) fn is_one_of(&self, type_urls: &[String]) -> bool {
        let message = |url: &str| url.rsplit('/').next().unwrap_or_default().to_owned();
        type_urls.iter().any(|url| message(url) == message(&self.type_url))
    }
}
