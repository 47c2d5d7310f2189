//! The last accepted resources of every source, as updates bring them.

use std::sync::Arc;
use std::time::Duration;

use crate::refs::Refs;
use crate::tls::secret_key;
use crate::{Assignment, Cluster, ExtensionConfig, Listener, RouteConfig, Secret, SharedMap, Snapshot, Source};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ResourceKind {
    Cluster,
    Endpoints,
    Listener,
    Route,
    Extension,
    Secret,
}

impl ResourceKind {
    /// In the order in which they are asked for and applied: what others need comes first.
    pub const ALL: [ResourceKind; ResourceKind::COUNT] = [
        ResourceKind::Cluster,
        ResourceKind::Endpoints,
        ResourceKind::Listener,
        ResourceKind::Route,
        ResourceKind::Extension,
        ResourceKind::Secret,
    ];
    pub const COUNT: usize = 6;

    /// Whether resources are there because others name them, not for their own sake. Such a resource stays until
    /// nothing names it any more, whatever the server says: its last state serves better than none.
    #[must_use]
    pub fn is_named(self) -> bool {
        matches!(self, ResourceKind::Endpoints | ResourceKind::Route | ResourceKind::Extension | ResourceKind::Secret)
    }

    /// Such as `RouteConfiguration`: the last part of the type's name.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            ResourceKind::Cluster => "Cluster",
            ResourceKind::Endpoints => "ClusterLoadAssignment",
            ResourceKind::Listener => "Listener",
            ResourceKind::Route => "RouteConfiguration",
            ResourceKind::Extension => "TypedExtensionConfig",
            ResourceKind::Secret => "Secret",
        }
    }
}

impl std::fmt::Display for ResourceKind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.type_name())
    }
}

#[derive(Debug, Clone)]
pub enum Resource {
    Cluster(Arc<Cluster>),
    Endpoints(Arc<Assignment>),
    Listener(Arc<Listener>),
    Route(Arc<RouteConfig>),
    Extension(Arc<ExtensionConfig>),
    Secret(Arc<Secret>),
}

impl Resource {
    #[must_use]
    pub fn kind(&self) -> ResourceKind {
        match self {
            Resource::Cluster(_) => ResourceKind::Cluster,
            Resource::Endpoints(_) => ResourceKind::Endpoints,
            Resource::Listener(_) => ResourceKind::Listener,
            Resource::Route(_) => ResourceKind::Route,
            Resource::Extension(_) => ResourceKind::Extension,
            Resource::Secret(_) => ResourceKind::Secret,
        }
    }

    #[must_use]
    pub fn name(&self) -> &Arc<str> {
        match self {
            Resource::Cluster(cluster) => &cluster.name,
            Resource::Endpoints(assignment) => &assignment.name,
            Resource::Listener(listener) => &listener.name,
            Resource::Route(route) => &route.name,
            Resource::Extension(extension) => &extension.name,
            Resource::Secret(secret) => &secret.name,
        }
    }

    /// The very same object.
    #[must_use]
    pub fn is_same(&self, other: &Resource) -> bool {
        match (self, other) {
            (Resource::Cluster(a), Resource::Cluster(b)) => Arc::ptr_eq(a, b),
            (Resource::Endpoints(a), Resource::Endpoints(b)) => Arc::ptr_eq(a, b),
            (Resource::Listener(a), Resource::Listener(b)) => Arc::ptr_eq(a, b),
            (Resource::Route(a), Resource::Route(b)) => Arc::ptr_eq(a, b),
            (Resource::Extension(a), Resource::Extension(b)) => Arc::ptr_eq(a, b),
            (Resource::Secret(a), Resource::Secret(b)) => Arc::ptr_eq(a, b),
            _ => false,
        }
    }
}

impl PartialEq for Resource {
    /// By value.
    fn eq(&self, other: &Resource) -> bool {
        self.is_same(other)
            || match (self, other) {
                (Resource::Cluster(a), Resource::Cluster(b)) => a == b,
                (Resource::Endpoints(a), Resource::Endpoints(b)) => a == b,
                (Resource::Listener(a), Resource::Listener(b)) => a == b,
                (Resource::Route(a), Resource::Route(b)) => a == b,
                (Resource::Extension(a), Resource::Extension(b)) => a == b,
                (Resource::Secret(a), Resource::Secret(b)) => a == b,
                _ => false,
            }
    }
}

impl Eq for Resource {}

/// Resources of one kind that came together.
#[derive(Debug, Clone)]
pub struct Update {
    pub source: Source,
    pub kind: ResourceKind,
    pub upserts: Vec<(Arc<str>, Resource)>,
    /// Gone, says the source.
    pub removed: Vec<Arc<str>>,
    /// Asked for, and told or timed out as not existing.
    pub missing: Vec<Arc<str>>,
    /// Came, and could not be taken. A version that was there before stays.
    pub refused: Vec<Arc<str>>,
}

impl Update {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        let names = [&self.removed, &self.missing, &self.refused];
        self.upserts.is_empty() && names.into_iter().all(Vec::is_empty)
    }
}

/// What an update did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Changes {
    /// New or different.
    pub changed: Vec<Arc<str>>,
    pub removed: Vec<Arc<str>>,
    /// Newly known not to exist.
    pub missing: Vec<Arc<str>>,
    /// Newly known to be refused.
    pub refused: Vec<Arc<str>>,
    /// Removed by the source, and kept because something names them.
    pub retracted: Vec<Arc<str>>,
    /// Not applied, with the reason.
    pub rejected: Vec<(Arc<str>, String)>,
}

impl Changes {
    /// Whether there is anything new to compile.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.changed.is_empty() && self.removed.is_empty() && self.missing.is_empty() && self.refused.is_empty()
    }
}

/// The last accepted resources by kind and name. A clone is cheap and independent.
#[derive(Debug, Clone, Default)]
pub struct ResourceSet {
    kinds: [SharedMap<Slot>; ResourceKind::COUNT],
}

#[derive(Debug, Clone)]
pub(crate) enum Slot {
    Held(Entry),
    Missing,
    /// What came could not be taken, and nothing was there before.
    Refused,
}

#[derive(Debug, Clone)]
pub(crate) struct Entry {
    pub(crate) resource: Resource,
    pub(crate) source: Source,
    /// `None`: it names nothing.
    pub(crate) refs: Option<Arc<Refs>>,
}

impl Entry {
    pub(crate) fn refs(&self) -> &Refs {
        static NONE: Refs = Refs::NONE;
        self.refs.as_deref().unwrap_or(&NONE)
    }
}

impl Slot {
    pub(crate) fn is_same(&self, other: &Slot) -> bool {
        match (self, other) {
            (Slot::Held(a), Slot::Held(b)) => a.resource.is_same(&b.resource),
            (Slot::Missing, Slot::Missing) | (Slot::Refused, Slot::Refused) => true,
            _ => false,
        }
    }
}

impl ResourceSet {
    #[must_use]
    pub fn new() -> ResourceSet {
        ResourceSet::default()
    }

    #[must_use]
    pub fn get(&self, kind: ResourceKind, name: &str) -> Option<&Resource> {
        self.entry(kind, name).map(|entry| &entry.resource)
    }

    /// Where a resource came from.
    #[must_use]
    pub fn source(&self, kind: ResourceKind, name: &str) -> Option<&Source> {
        self.entry(kind, name).map(|entry| &entry.source)
    }

    /// Whether a name is known not to exist.
    #[must_use]
    pub fn is_missing(&self, kind: ResourceKind, name: &str) -> bool {
        matches!(self.slots(kind).get(name), Some(Slot::Missing))
    }

    pub fn resources(&self, kind: ResourceKind) -> impl Iterator<Item = &Resource> {
        self.slots(kind).values().filter_map(|slot| match slot {
            Slot::Held(entry) => Some(&entry.resource),
            Slot::Missing | Slot::Refused => None,
        })
    }

    /// Applies an update. Static resources win over others of their name; between other sources the first one stays.
    pub fn apply(&mut self, update: Update) -> Changes {
        let Update { source, kind, upserts, removed, missing, refused } = update;
        let mut changes = Changes::default();
        for (name, resource) in upserts {
            if resource.kind() != kind {
                changes.rejected.push((name, format!("is a {} and not a {kind}", resource.kind())));
                continue;
            }
            let key = key(kind, &name, &source);
            match self.obstacle(kind, &key, &source, &resource) {
                Some(reason) => changes.rejected.push((name, reason)),
                None => {
                    if self.hold(kind, &key, &source, resource) {
                        changes.changed.push(key);
                    }
                }
            }
        }
        for name in removed.iter().map(|name| key(kind, name, &source)) {
            match self.entry(kind, &name).map(|entry| entry.source == source) {
                Some(true) if kind.is_named() => changes.retracted.push(name),
                Some(true) => {
                    self.slots_mut(kind).remove(&name);
                    changes.removed.push(name);
                }
                // Another source's.
                Some(false) => {}
                None => self.miss(kind, name, &mut changes),
            }
        }
        for name in missing.iter().map(|name| key(kind, name, &source)) {
            if self.entry(kind, &name).is_none() {
                self.miss(kind, name, &mut changes);
            }
        }
        for name in refused.iter().map(|name| key(kind, name, &source)) {
            if kind.is_named() && !self.slots(kind).contains_key(&name) {
                self.slots_mut(kind).insert(Arc::clone(&name), Slot::Refused);
                changes.refused.push(name);
            }
        }
        changes
    }

    /// Forgets what `current` doesn't name any more though `previous` did: of the named kinds, what came over ADS. To be
    /// called when `current` was compiled from this set, before the next update.
    pub fn collect(&mut self, previous: &Snapshot, current: &Snapshot) {
        let gone = current.needed.endpoints.changed(&previous.needed.endpoints, |_, _| true);
        self.forget(ResourceKind::Endpoints, gone.iter(), |name| current.needed.endpoints.contains_key(name));
        for name in current.needed.dns.changed(&previous.needed.dns, |_, _| true) {
            if !current.needed.dns.contains_key(&name) {
                self.slots_mut(ResourceKind::Endpoints).remove(&name);
            }
        }
        let (before, now) = (&previous.needed.routes, &current.needed.routes);
        self.forget(ResourceKind::Route, before.keys(), |name| now.contains_key(name));
        let (before, now) = (&previous.needed.extensions, &current.needed.extensions);
        self.forget(ResourceKind::Extension, before.keys(), |name| now.contains_key(name));
        let (before, now) = (previous.needed.secrets.keys(), &current.needed.secrets);
        self.forget(ResourceKind::Secret, before, |name| now.contains_key(name));
        for (from, names) in &previous.needed.streams {
            for name in names.keys() {
                let needed = current.needed.streams.get(from).is_some_and(|now| now.contains_key(name));
                if !needed {
                    self.slots_mut(ResourceKind::Secret).remove(&secret_key(name, from));
                }
            }
        }
    }

    fn forget<'a>(
        &mut self,
        kind: ResourceKind,
        names: impl Iterator<Item = &'a Arc<str>>,
        needed: impl Fn(&str) -> bool,
    ) {
        for name in names.filter(|name| !needed(name)) {
            let of_ads = match self.slots(kind).get(name) {
                Some(Slot::Held(entry)) => entry.source == Source::Ads,
                Some(Slot::Missing | Slot::Refused) => true,
                None => false,
            };
            if of_ads {
                self.slots_mut(kind).remove(name);
            }
        }
    }

    pub(crate) fn slots(&self, kind: ResourceKind) -> &SharedMap<Slot> {
        &self.kinds[kind as usize]
    }

    pub(crate) fn entry(&self, kind: ResourceKind, name: &str) -> Option<&Entry> {
        match self.slots(kind).get(name) {
            Some(Slot::Held(entry)) => Some(entry),
            _ => None,
        }
    }

    fn slots_mut(&mut self, kind: ResourceKind) -> &mut SharedMap<Slot> {
        &mut self.kinds[kind as usize]
    }

    /// Why a resource cannot be taken.
    fn obstacle(&self, kind: ResourceKind, name: &str, source: &Source, resource: &Resource) -> Option<String> {
        if let Some(entry) = self.entry(kind, name) {
            let wins = entry.source == *source || *source == Source::Static;
            if !wins {
                return Some(format!("the name is taken by {}", entry.source));
            }
        }
        let Resource::Extension(extension) = resource else { return None };
        self.resources(ResourceKind::Listener)
            .filter_map(|listener| match listener {
                Resource::Listener(listener) => Some(listener),
                _ => None,
            })
            .find(|listener| !listener.admits(extension))
            .map(|listener| format!("listener {} doesn't allow the type {}", listener.name, extension.type_url))
    }

    /// Whether anything changed.
    fn hold(&mut self, kind: ResourceKind, name: &Arc<str>, source: &Source, resource: Resource) -> bool {
        if self.entry(kind, name).is_some_and(|entry| entry.source == *source && entry.resource == resource) {
            return false;
        }
        let refs = Refs::of(&resource).map(Arc::new);
        let entry = Entry { resource, source: source.clone(), refs };
        self.slots_mut(kind).insert(Arc::clone(name), Slot::Held(entry));
        true
    }

    fn miss(&mut self, kind: ResourceKind, name: Arc<str>, changes: &mut Changes) {
        if kind.is_named() && !self.is_missing(kind, &name) {
            self.slots_mut(kind).insert(Arc::clone(&name), Slot::Missing);
            changes.missing.push(name);
        }
    }
}

/// What a resource is called in a set: secrets of one name from two sources are two secrets.
fn key(kind: ResourceKind, name: &Arc<str>, from: &Source) -> Arc<str> {
    if kind == ResourceKind::Secret { secret_key(name, from) } else { Arc::clone(name) }
}

/// A name that a resource needs, and how it is fetched.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Dependency {
    pub name: Arc<str>,
    pub from: Source,
    /// `None`: 15 s; zero: wait for ever.
    pub initial_fetch_timeout: Option<Duration>,
}
