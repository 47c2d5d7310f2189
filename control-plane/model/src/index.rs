//! [`MeshIndex`]: objects in, views out. Synchronous and pure: the same objects give the same views, in whatever order
//! and in however many steps they came, and an event that changes nothing is no change.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::compile::Compiled;
use crate::filter::{Digest, Module};
use crate::ids::{ObjectId, ObjectKey};
use crate::objects::{Object, Objects};
use crate::status::ObjectStatus;
use crate::view::{ClusterKey, ClusterView, GatewayView};

#[derive(Clone, Debug, Default)]
pub struct MeshIndex {
    objects: Objects,
    compiled: Compiled,
    generation: u64,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Apply(Object),
    Delete(ObjectKey),
}

/// What differs from the generation before: added, changed or removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Changes {
    /// Whose view changed, endpoints included.
    pub gateways: BTreeSet<ObjectId>,
    pub clusters: BTreeSet<ClusterKey>,
    pub statuses: BTreeSet<ObjectKey>,
}

impl Changes {
    pub fn is_empty(&self) -> bool {
        self.gateways.is_empty() && self.clusters.is_empty() && self.statuses.is_empty()
    }
}

impl MeshIndex {
    pub fn new() -> Self {
        Self::default()
    }

    /// Everything at once: what a folder gives.
    pub fn replace(&mut self, objects: Objects) -> Changes {
        if objects == self.objects {
            return Changes::default();
        }
        self.objects = objects;
        self.recompile()
    }

    /// One by one: what watches give.
    pub fn apply(&mut self, events: impl IntoIterator<Item = Event>) -> Changes {
        for event in events {
            match event {
                Event::Apply(object) => self.objects.insert(object),
                Event::Delete(key) => {
                    self.objects.remove(&key);
                }
            }
        }
        self.recompile()
    }

    fn recompile(&mut self) -> Changes {
        let compiled = Compiled::new(&self.objects, &self.compiled);
        let changes = Changes {
            gateways: differing(&self.compiled.gateways, &compiled.gateways),
            clusters: differing(&self.compiled.clusters, &compiled.clusters),
            statuses: differing(&self.compiled.statuses, &compiled.statuses),
        };
        self.compiled = compiled;
        if !changes.is_empty() {
            self.generation += 1;
        }
        changes
    }

    /// Counts the changes since the start; 0 while there is nothing.
    pub fn generation(&self) -> u64 {
        self.generation
    }

    pub fn objects(&self) -> &Objects {
        &self.objects
    }

    /// None: there is no such gateway.
    pub fn view(&self, query: &NodeQuery) -> Option<Arc<GatewayView>> {
        match query {
            NodeQuery::Gateway(id) => self.compiled.gateways.get(id).cloned(),
        }
    }

    pub fn gateways(&self) -> impl Iterator<Item = &Arc<GatewayView>> {
        self.compiled.gateways.values()
    }

    /// For clients that ask for one service by name; see [`ClusterKey`]'s `FromStr` for the names.
    pub fn cluster(&self, key: &ClusterKey) -> Option<Arc<ClusterView>> {
        self.compiled.clusters.get(key).cloned()
    }

    pub fn clusters(&self) -> impl Iterator<Item = &Arc<ClusterView>> {
        self.compiled.clusters.values()
    }

    /// The module with this digest, of any filter.
    pub fn module(&self, digest: &Digest) -> Option<Module> {
        self.compiled.modules.get(digest).cloned()
    }

    /// Every module of any filter.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        self.compiled.modules.values()
    }

    pub fn status(&self, key: &ObjectKey) -> Option<Arc<ObjectStatus>> {
        self.compiled.statuses.get(key).cloned()
    }

    /// Of the kinds that have one (Gateway, HTTPRoute, TCPRoute, WasmFilter), by key.
    pub fn statuses(&self) -> impl Iterator<Item = &Arc<ObjectStatus>> {
        self.compiled.statuses.values()
    }
}

/// Equal values are the same `Arc` ([`Compiled::new`]), so that pointers decide.
fn differing<K: Ord + Clone, V>(old: &BTreeMap<K, Arc<V>>, new: &BTreeMap<K, Arc<V>>) -> BTreeSet<K> {
    let changed = new.iter().filter(|(key, value)| old.get(*key).is_none_or(|old| !Arc::ptr_eq(old, value)));
    let removed = old.keys().filter(|key| !new.contains_key(*key));
    changed.map(|(key, _)| key).chain(removed).cloned().collect()
}

/// Which configuration a node asks for.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NodeQuery {
    Gateway(ObjectId),
}

#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeQueryError {
    #[error("node.metadata.role: `{0}` is not served (only `gateway` is)")]
    Role(String),
    #[error("node.cluster: `{0}` does not name a Gateway as NAMESPACE/NAME")]
    Cluster(String),
}

impl NodeQuery {
    /// `role` is `node.metadata.role` (default `gateway`), `cluster` is `node.cluster`.
    pub fn new(role: Option<&str>, cluster: &str) -> Result<Self, NodeQueryError> {
        match role {
            None | Some("" | "gateway") => {
                cluster.parse().map(Self::Gateway).map_err(|_| NodeQueryError::Cluster(cluster.to_owned()))
            }
            Some(other) => Err(NodeQueryError::Role(other.to_owned())),
        }
    }
}
