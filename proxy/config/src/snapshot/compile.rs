//! From a set of resources to a generation.

mod needed;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::dirty::Dirty;
use super::{ClusterEntry, Snapshot, Warming};
use crate::refs::Refs;
use crate::resources::{Entry, Slot};
use crate::{Assignment, Cluster, Discovery, Resource, ResourceKind, ResourceSet, RouteConfig, SecretRef};

impl Snapshot {
    /// The generation of a set. `previous` is the one that is served now: what is unchanged is taken from it, and its
    /// versions serve on where newer ones are warming.
    #[must_use]
    pub fn compile(set: &ResourceSet, previous: Option<&Snapshot>, generation: u64) -> Snapshot {
        let nothing = Snapshot::default();
        let previous = previous.unwrap_or(&nothing);
        Snapshot::compile_dirty(set, previous, generation, &Dirty::between(previous, set))
    }

    pub(super) fn compile_dirty(set: &ResourceSet, previous: &Snapshot, generation: u64, dirty: &Dirty) -> Snapshot {
        let next = Snapshot {
            generation,
            set: set.clone(),
            warming: Vec::new(),
            held: BTreeMap::new(),
            kept: BTreeMap::new(),
            ..previous.clone()
        };
        let mut compiler = Compiler { set, previous, next };
        dirty.clusters.iter().for_each(|name| compiler.cluster(name));
        dirty.extensions.iter().for_each(|name| compiler.extension(name));
        dirty.routes.iter().for_each(|name| compiler.route(name));
        // A listener that isn't held is published as it is, whatever happens to what it names.
        if dirty.listeners {
            compiler.listeners();
        }
        compiler.keep();
        compiler.assignments_needed(&dirty.clusters);
        if dirty.listeners {
            compiler.names_needed();
        }
        compiler.secrets_needed(dirty);
        compiler.next.warming.sort_by(|a, b| (a.kind, &a.name).cmp(&(b.kind, &b.name)));
        compiler.next
    }
}

struct Compiler<'a> {
    set: &'a ResourceSet,
    previous: &'a Snapshot,
    next: Snapshot,
}

/// The endpoints of a cluster.
enum Endpoints {
    Known(Option<Arc<Assignment>>),
    /// The assignment of this name has to come first.
    Awaited(Arc<str>),
}

impl Compiler<'_> {
    fn cluster(&mut self, name: &Arc<str>) {
        let Some(Entry { resource: Resource::Cluster(cluster), .. }) = self.set.entry(ResourceKind::Cluster, name)
        else {
            // Gone, unless `keep` finds it needed.
            self.next.clusters.remove(name);
            return;
        };
        let old = self.previous.published(ResourceKind::Cluster, name).cloned();
        let mut awaited = self.secrets_awaited(cluster.transports.secrets(), old.is_some());
        let assignment = match self.endpoints(cluster, old.is_some()) {
            Endpoints::Known(assignment) => assignment,
            Endpoints::Awaited(service) => {
                awaited.push((ResourceKind::Endpoints, service));
                None
            }
        };
        if awaited.is_empty() {
            return self.publish_cluster(name, cluster, assignment);
        }
        self.next.clusters.remove(name);
        if let Some(old) = &old {
            self.publish_old_cluster(name, old);
        }
        self.hold(ResourceKind::Cluster, name, awaited, old);
    }

    /// Whether something has to come before what needs it goes live. For what was refused only an older version waits, which
    /// serves meanwhile: nobody else is kept from serving what doesn't need it.
    fn is_awaited(&self, kind: ResourceKind, name: &str, has_previous: bool) -> bool {
        match self.set.slots(kind).get(name) {
            None => true,
            Some(Slot::Refused) => has_previous,
            Some(Slot::Held(_) | Slot::Missing) => false,
        }
    }

    /// Secrets that haven't come. Of those that don't exist nobody waits: their connections are refused.
    fn secrets_awaited<'s>(
        &self,
        secrets: impl Iterator<Item = &'s SecretRef>,
        has_previous: bool,
    ) -> Vec<(ResourceKind, Arc<str>)> {
        let awaited = secrets.filter(|secret| self.is_awaited(ResourceKind::Secret, &secret.key, has_previous));
        awaited.map(|secret| (ResourceKind::Secret, Arc::clone(&secret.key))).collect()
    }

    fn endpoints(&self, cluster: &Cluster, has_previous: bool) -> Endpoints {
        match &cluster.discovery {
            Discovery::Static(assignment) => Endpoints::Known(Some(Arc::clone(assignment))),
            Discovery::Eds { service, .. } => self.assignment(service, has_previous),
            Discovery::Dns(targets) => self.assignment(&targets.name, has_previous),
            // Its clients name its endpoints.
            Discovery::OriginalDst(_) => Endpoints::Known(None),
        }
    }

    fn assignment(&self, service: &Arc<str>, has_previous: bool) -> Endpoints {
        let kind = ResourceKind::Endpoints;
        match self.set.get(kind, service) {
            Some(Resource::Endpoints(assignment)) => Endpoints::Known(Some(Arc::clone(assignment))),
            _ if self.is_awaited(kind, service, has_previous) => Endpoints::Awaited(Arc::clone(service)),
            _ => Endpoints::Known(None),
        }
    }

    fn publish_cluster(&mut self, name: &Arc<str>, cluster: &Arc<Cluster>, assignment: Option<Arc<Assignment>>) {
        let found = |secret: &SecretRef| match self.set.get(ResourceKind::Secret, &secret.key) {
            Some(Resource::Secret(found)) => Some((Arc::clone(&secret.key), Arc::clone(found))),
            _ => None,
        };
        let secrets: BTreeMap<_, _> = cluster.transports.secrets().filter_map(found).collect();
        let unchanged = self.previous.clusters.get(name).filter(|entry| {
            Arc::ptr_eq(&entry.cluster, cluster)
                && entry.secrets.len() == secrets.len()
                && entry.secrets.iter().zip(&secrets).all(|(a, b)| a.0 == b.0 && Arc::ptr_eq(a.1, b.1))
                && match (&entry.assignment, &assignment) {
                    (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                    (None, None) => true,
                    _ => false,
                }
        });
        let entry = match unchanged {
            Some(entry) => Arc::clone(entry),
            None => Arc::new(ClusterEntry { cluster: Arc::clone(cluster), assignment, secrets }),
        };
        if !self.next.clusters.get(name).is_some_and(|held| Arc::ptr_eq(held, &entry)) {
            self.next.clusters.insert(Arc::clone(name), entry);
        }
    }

    /// The version that was published before, with its endpoints as they are now.
    fn publish_old_cluster(&mut self, name: &Arc<str>, old: &Entry) {
        let Resource::Cluster(cluster) = &old.resource else { return };
        let assignment = match self.endpoints(cluster, true) {
            Endpoints::Known(assignment) => assignment,
            Endpoints::Awaited(_) => self.previous.clusters.get(name).and_then(|entry| entry.assignment.clone()),
        };
        self.publish_cluster(name, cluster, assignment);
    }

    fn route(&mut self, name: &Arc<str>) {
        let Some(entry) = self.set.entry(ResourceKind::Route, name) else {
            self.next.routes.remove(name);
            return;
        };
        let old =
            self.previous.published(ResourceKind::Route, name).filter(|_| self.previous.routes.contains_key(name));
        let waiting_for = match old {
            Some(old) if old.resource.is_same(&entry.resource) => Vec::new(),
            old => {
                let mut awaited = self.clusters_awaited(entry.refs());
                if let (Some(_), Resource::Route(route)) = (old, &entry.resource) {
                    awaited.extend(self.listeners_awaited(route));
                }
                awaited
            }
        };
        let published = if waiting_for.is_empty() { Some(entry) } else { old };
        match published.map(|entry| &entry.resource) {
            Some(Resource::Route(route)) => drop(self.next.routes.insert(Arc::clone(name), Arc::clone(route))),
            _ => drop(self.next.routes.remove(name)),
        }
        if !waiting_for.is_empty() {
            let old = old.cloned();
            self.hold(ResourceKind::Route, name, waiting_for, old);
        }
    }

    /// Clusters that exist and have no version to serve yet. Unknown ones hold nothing.
    fn clusters_awaited(&self, refs: &Refs) -> Vec<(ResourceKind, Arc<str>)> {
        let kind = ResourceKind::Cluster;
        let awaited = |name: &&Arc<str>| !self.next.clusters.contains_key(name) && self.set.entry(kind, name).is_some();
        refs.clusters.iter().filter(awaited).map(|name| (kind, Arc::clone(name))).collect()
    }

    /// Listeners that are held back, for whatever reason, and whose held version has filters that the scopes of a route
    /// configuration speak of and the version that serves lacks: the routes go live together with the chain that they mean.
    /// Without that a route would be served without its filter, or a filter that takes the place of another one would leave a
    /// gap in which neither runs.
    fn listeners_awaited(&self, route: &RouteConfig) -> Vec<(ResourceKind, Arc<str>)> {
        if route.override_names.len() == 0 {
            return Vec::new();
        }
        let kind = ResourceKind::Listener;
        let is_awaited = |(name, slot): &(&Arc<str>, &Slot)| {
            let Slot::Held(entry) = slot else { return false };
            let served = self.previous.published(kind, name).filter(|_| self.previous.listeners.contains_key(*name));
            served.is_some_and(|served| {
                entry.refs().routes.iter().any(|wanted| wanted.name == route.name)
                    && brings_a_filter_of(route, &entry.resource, &served.resource)
                    && !self.listener_awaits(entry.refs(), true).is_empty()
            })
        };
        let awaited = self.set.slots(kind).into_iter().filter(is_awaited);
        let awaited: BTreeSet<&Arc<str>> = awaited.map(|(name, _)| name).collect();
        awaited.into_iter().map(|name| (kind, Arc::clone(name))).collect()
    }

    fn extension(&mut self, name: &Arc<str>) {
        match self.set.entry(ResourceKind::Extension, name).map(|entry| &entry.resource) {
            Some(Resource::Extension(extension)) => {
                self.next.extensions.insert(Arc::clone(name), Arc::clone(extension));
            }
            _ => drop(self.next.extensions.remove(name)),
        }
    }

    fn listeners(&mut self) {
        self.next.listeners.clear();
        let set = self.set;
        for (name, slot) in set.slots(ResourceKind::Listener) {
            let Slot::Held(entry) = slot else { continue };
            let old = self.previous.published(ResourceKind::Listener, name);
            let old = old.filter(|_| self.previous.listeners.contains_key(name));
            let waiting_for = match old {
                Some(old) if old.resource.is_same(&entry.resource) => Vec::new(),
                old => self.listener_awaits(entry.refs(), old.is_some()),
            };
            let published = if waiting_for.is_empty() { Some(entry) } else { old };
            if let Some(Resource::Listener(listener)) = published.map(|entry| &entry.resource) {
                self.next.listeners.insert(Arc::clone(name), Arc::clone(listener));
            }
            if !waiting_for.is_empty() {
                self.hold(ResourceKind::Listener, name, waiting_for, old.cloned());
            }
        }
    }

    fn listener_awaits(&self, refs: &Refs, has_previous: bool) -> Vec<(ResourceKind, Arc<str>)> {
        let mut awaited = self.clusters_awaited(refs);
        let routes = refs
            .routes
            .iter()
            .map(|route| &route.name)
            .filter(|name| !self.next.routes.contains_key(name))
            // One that is held and not published is warming itself.
            .filter(|name| {
                let kind = ResourceKind::Route;
                self.set.entry(kind, name).is_some() || self.is_awaited(kind, name, has_previous)
            });
        awaited.extend(routes.map(|name| (ResourceKind::Route, Arc::clone(name))));
        let extensions = refs.extensions.iter().filter(|extension| !extension.has_instant_default);
        let extensions = extensions.filter(|extension| {
            // One that only some routes turn on is their trouble: others don't wait until somebody mends it.
            let name = &extension.dependency.name;
            !self.next.extensions.contains_key(name)
                && self.is_awaited(ResourceKind::Extension, name, has_previous && !extension.is_off)
        });
        let extensions = extensions.map(|extension| &extension.dependency.name);
        awaited.extend(extensions.map(|name| (ResourceKind::Extension, Arc::clone(name))));
        awaited.extend(self.secrets_awaited(refs.secrets.iter(), has_previous));
        awaited
    }

    fn hold(
        &mut self,
        kind: ResourceKind,
        name: &Arc<str>,
        waiting_for: Vec<(ResourceKind, Arc<str>)>,
        old: Option<Entry>,
    ) {
        let has_previous = old.is_some();
        self.next.warming.push(Warming { kind, name: Arc::clone(name), waiting_for, has_previous });
        self.next.held.insert((kind, Arc::clone(name)), old);
    }

    /// Publishes what the held versions need and the set no longer has.
    fn keep(&mut self) {
        let held: Vec<Entry> = self.next.held.values().flatten().cloned().collect();
        let mut clusters = BTreeSet::new();
        for entry in &held {
            clusters.extend(entry.refs().clusters.iter().cloned());
            for route in &entry.refs().routes {
                if let Some(kept) = self.keep_one(ResourceKind::Route, &route.name) {
                    clusters.extend(kept.refs().clusters.iter().cloned());
                }
            }
            for extension in &entry.refs().extensions {
                self.keep_one(ResourceKind::Extension, &extension.dependency.name);
            }
        }
        for name in clusters {
            self.keep_one(ResourceKind::Cluster, &name);
        }
    }

    /// Publishes the previous version of a resource that isn't in the set; what it is.
    fn keep_one(&mut self, kind: ResourceKind, name: &Arc<str>) -> Option<Entry> {
        if self.set.entry(kind, name).is_some() {
            return None;
        }
        let old = self.previous.published(kind, name)?.clone();
        match &old.resource {
            Resource::Route(route) => drop(self.next.routes.insert(Arc::clone(name), Arc::clone(route))),
            Resource::Extension(extension) => {
                self.next.extensions.insert(Arc::clone(name), Arc::clone(extension));
            }
            Resource::Cluster(_) => self.publish_old_cluster(name, &old),
            Resource::Listener(_) | Resource::Endpoints(_) | Resource::Secret(_) => return None,
        }
        self.next.kept.insert((kind, Arc::clone(name)), old.clone());
        Some(old)
    }
}

/// Whether a listener has a filter that another version of it lacks, and that the scopes of a route configuration speak of.
fn brings_a_filter_of(route: &RouteConfig, listener: &Resource, served: &Resource) -> bool {
    let (Resource::Listener(listener), Resource::Listener(served)) = (listener, served) else { return false };
    let known: BTreeSet<&Arc<str>> = served.http_filters().map(|filter| &filter.name).collect();
    let mut brought = listener.http_filters().map(|filter| &filter.name).filter(|name| !known.contains(name));
    brought.any(|name| route.override_names.position(name).is_some())
}
