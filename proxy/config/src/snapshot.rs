//! A generation of the configuration: what is served, made of what was accepted.
//!
//! A resource whose dependencies aren't there yet is *warming*: its previous version, with what that needs, keeps
//! serving, and everything else is published. Compiling costs as much as what changed: unchanged parts are the previous
//! snapshot's own objects.

mod compile;
mod dirty;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use crate::resources::Entry;
use crate::{
    Assignment, Cluster, ConnectionFilter, ConnectionFilterKind, Dependency, DiscoveredFilter, DnsTargets,
    ExtensionConfig, HttpFilter, HttpFilterKind, Listener, NativeFilter, Resource, ResourceKind, ResourceSet, Rollout,
    RouteConfig, Secret, SharedMap, Source, WasmPlugin,
};

/// An immutable, internally consistent generation.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    pub generation: u64,
    pub listeners: BTreeMap<Arc<str>, Arc<Listener>>,
    pub routes: SharedMap<Arc<RouteConfig>>,
    pub clusters: SharedMap<Arc<ClusterEntry>>,
    pub extensions: SharedMap<Arc<ExtensionConfig>>,
    /// Accepted and not served yet.
    pub warming: Vec<Warming>,
    /// What is to be fetched for the resources of this generation and for the warming ones.
    pub needed: Needed,
    /// What this was compiled from.
    set: ResourceSet,
    /// Names in `set` whose version there is warming, with the version that is published instead.
    held: BTreeMap<(ResourceKind, Arc<str>), Option<Entry>>,
    /// Published though no longer in `set`, since something in `held` needs it.
    kept: BTreeMap<(ResourceKind, Arc<str>), Entry>,
    /// Assignments by the clusters that use them.
    assignment_users: SharedMap<Arc<BTreeMap<Arc<str>, Dependency>>>,
}

/// A cluster with its endpoints.
#[derive(Debug, PartialEq, Eq)]
pub struct ClusterEntry {
    pub cluster: Arc<Cluster>,
    /// `None`: the assignment of an EDS cluster doesn't exist, says the server or its silence.
    pub assignment: Option<Arc<Assignment>>,
    /// The secrets that its transport sockets name, by their keys, as far as they are there.
    pub secrets: BTreeMap<Arc<str>, Arc<Secret>>,
}

/// A resource that waits for others.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Warming {
    pub kind: ResourceKind,
    pub name: Arc<str>,
    /// Never empty.
    pub waiting_for: Vec<(ResourceKind, Arc<str>)>,
    /// An older version serves meanwhile.
    pub has_previous: bool,
}

/// Names to fetch.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Needed {
    /// Over ADS, with `initial_fetch_timeout` (`None`: 15 s; zero: wait for ever).
    pub endpoints: SharedMap<Option<Duration>>,
    pub routes: SharedMap<Option<Duration>>,
    pub extensions: SharedMap<Option<Duration>>,
    pub secrets: SharedMap<Option<Duration>>,
    /// Secrets over streams of their own.
    pub streams: BTreeMap<Source, SharedMap<Option<Duration>>>,
    /// Through DNS, by the names of the assignments that the answers make.
    pub dns: SharedMap<Arc<DnsTargets>>,
    /// Paths of `path_config_source`, with the names that are expected in each file.
    pub files: BTreeMap<(ResourceKind, Arc<str>), BTreeSet<Arc<str>>>,
}

impl Needed {
    /// The names of a kind that are fetched from a source other than files; `None` where it isn't asked for names.
    #[must_use]
    pub fn names_from(&self, source: &Source, kind: ResourceKind) -> Option<SharedMap<Option<Duration>>> {
        match source {
            Source::Ads => self.names(kind).cloned(),
            Source::Stream(_) if kind == ResourceKind::Secret => {
                Some(self.streams.get(source).cloned().unwrap_or_default())
            }
            Source::Stream(_) | Source::Static | Source::File(_) | Source::Dns => None,
        }
    }

    /// The names of a named kind over ADS; `None` for clusters and listeners, which are fetched whole.
    #[must_use]
    pub fn names(&self, kind: ResourceKind) -> Option<&SharedMap<Option<Duration>>> {
        match kind {
            ResourceKind::Endpoints => Some(&self.endpoints),
            ResourceKind::Route => Some(&self.routes),
            ResourceKind::Extension => Some(&self.extensions),
            ResourceKind::Secret => Some(&self.secrets),
            ResourceKind::Cluster | ResourceKind::Listener => None,
        }
    }
}

/// What an HTTP filter runs with.
#[derive(Debug, Clone, Copy)]
pub enum FilterConfig<'a> {
    Plugin(&'a Arc<WasmPlugin>),
    Native(&'a NativeFilter),
    /// Its configuration doesn't exist: every request is answered with 500 and the flag NFCF.
    Missing,
}

impl Snapshot {
    /// The configuration of a filter: its own, or the extension of its name, or its default.
    #[must_use]
    pub fn filter_config<'a>(&'a self, filter: &'a HttpFilter) -> FilterConfig<'a> {
        match &filter.kind {
            HttpFilterKind::Wasm(plugin) => FilterConfig::Plugin(plugin),
            HttpFilterKind::Native(filter) => FilterConfig::Native(filter),
            HttpFilterKind::Discovered(discovered) => {
                self.discovered(&filter.name, discovered).map_or(FilterConfig::Missing, FilterConfig::Plugin)
            }
        }
    }

    /// The plugin of a filter that is discovered by its name; `None`: it doesn't exist, and there is no default.
    #[must_use]
    pub fn discovered<'a>(&'a self, name: &str, filter: &'a DiscoveredFilter) -> Option<&'a Arc<WasmPlugin>> {
        let found = self.extensions.get(name).filter(|extension| extension.is_one_of(&filter.type_urls));
        found.map(|extension| &extension.plugin).or(filter.default.as_ref())
    }

    /// The plugin of a network filter, likewise; `None` for those that have none, too.
    #[must_use]
    pub fn network_plugin<'a>(&'a self, filter: &'a ConnectionFilter) -> Option<&'a Arc<WasmPlugin>> {
        match &filter.kind {
            ConnectionFilterKind::Wasm(plugin) => Some(plugin),
            ConnectionFilterKind::Rbac(_) | ConnectionFilterKind::ConnectionLimit(_) => None,
            ConnectionFilterKind::Discovered(discovered) => self.discovered(&filter.name, discovered),
        }
    }

    /// A secret by its key.
    #[must_use]
    pub fn secret(&self, key: &str) -> Option<&Arc<Secret>> {
        match self.set.get(ResourceKind::Secret, key) {
            Some(Resource::Secret(secret)) => Some(secret),
            _ => None,
        }
    }

    /// The new revision that is tried beside a filter's plugin.
    #[must_use]
    pub fn rollout(&self, filter: &HttpFilter) -> Option<&Arc<Rollout>> {
        let HttpFilterKind::Discovered(discovered) = &filter.kind else { return None };
        let found = self.extensions.get(&filter.name);
        found.filter(|extension| extension.is_one_of(&discovered.type_urls))?.rollout.as_ref()
    }

    /// The set that this was compiled from.
    #[must_use]
    pub fn resources(&self) -> &ResourceSet {
        &self.set
    }

    /// The version of a resource that is published.
    fn published(&self, kind: ResourceKind, name: &Arc<str>) -> Option<&Entry> {
        // Both maps are empty but for a while.
        if self.held.is_empty() && self.kept.is_empty() {
            return self.set.entry(kind, name);
        }
        let key = (kind, Arc::clone(name));
        if let Some(previous) = self.held.get(&key) {
            return previous.as_ref();
        }
        if let Some(kept) = self.kept.get(&key) {
            return Some(kept);
        }
        self.set.entry(kind, name)
    }
}

#[cfg(test)]
#[path = "snapshot/tests.rs"]
mod tests;
