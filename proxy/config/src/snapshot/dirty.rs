//! What an update may have changed in a snapshot.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::resources::Slot;
use crate::{ResourceKind, ResourceSet, Snapshot};

/// Names whose published version has to be decided anew.
#[derive(Debug, Default)]
pub(crate) struct Dirty {
    pub(crate) clusters: BTreeSet<Arc<str>>,
    pub(crate) routes: BTreeSet<Arc<str>>,
    pub(crate) extensions: BTreeSet<Arc<str>>,
    /// Whether listeners have to be looked at.
    pub(crate) listeners: bool,
}

impl Dirty {
    /// What differs between the set that `previous` was compiled from and `set`, what depends on that, and whatever is
    /// not in its final state.
    pub(crate) fn between(previous: &Snapshot, set: &ResourceSet) -> Dirty {
        let changed = |kind| set.slots(kind).changed(previous.set.slots(kind), Slot::is_same);
        let mut dirty = Dirty {
            clusters: changed(ResourceKind::Cluster).into_iter().collect(),
            routes: changed(ResourceKind::Route).into_iter().collect(),
            extensions: changed(ResourceKind::Extension).into_iter().collect(),
            listeners: !changed(ResourceKind::Listener).is_empty(),
        };
        for assignment in changed(ResourceKind::Endpoints) {
            if let Some(users) = previous.assignment_users.get(&assignment) {
                dirty.clusters.extend(users.keys().cloned());
            }
        }
        let secrets = changed(ResourceKind::Secret);
        if !secrets.is_empty() {
            dirty.listeners = true;
            let users = set.slots(ResourceKind::Cluster).iter().filter(|(_, slot)| match slot {
                Slot::Held(entry) => entry.refs().secrets.iter().any(|secret| secrets.contains(&secret.key)),
                Slot::Missing | Slot::Refused => false,
            });
            dirty.clusters.extend(users.map(|(name, _)| Arc::clone(name)));
        }
        for (kind, name) in previous.held.keys().chain(previous.kept.keys()) {
            match kind {
                ResourceKind::Cluster => drop(dirty.clusters.insert(Arc::clone(name))),
                ResourceKind::Route => drop(dirty.routes.insert(Arc::clone(name))),
                ResourceKind::Extension => drop(dirty.extensions.insert(Arc::clone(name))),
                ResourceKind::Listener => dirty.listeners = true,
                ResourceKind::Endpoints | ResourceKind::Secret => {}
            }
        }
        dirty
    }

    /// Everything: what an update costs without a previous snapshot, and what a test compares with.
    #[cfg(test)]
    pub(crate) fn all(previous: &Snapshot, set: &ResourceSet) -> Dirty {
        let names = |kind| set.slots(kind).keys().chain(previous.set.slots(kind).keys()).cloned();
        let mut dirty = Dirty::between(previous, set);
        dirty.clusters.extend(names(ResourceKind::Cluster));
        dirty.routes.extend(names(ResourceKind::Route));
        dirty.extensions.extend(names(ResourceKind::Extension));
        dirty.listeners = true;
        dirty
    }
}
