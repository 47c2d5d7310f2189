//! The cluster that this proxy is one of (`cluster_manager.local_cluster_name`): how its like are spread over zones.

use std::cell::{Cell, RefCell};
use std::sync::Arc;

use outrigger_config::{ClusterEntry, Locality};

use super::endpoint::{Standing, flags_of, standing_of};
use super::health::{ClusterHealth, HealthSet};

/// Where this proxy is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalZone {
    /// Whose endpoints are this proxy and its like.
    pub cluster: Arc<str>,
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
}

impl LocalZone {
    pub(super) fn holds(&self, locality: &Locality) -> bool {
        self.region == locality.region && self.zone == locality.zone && self.sub_zone == locality.sub_zone
    }
}

/// A worker's view of the local cluster.
#[derive(Debug)]
pub(crate) struct LocalCluster {
    pub(super) at: LocalZone,
    entry: RefCell<Option<Arc<ClusterEntry>>>,
    health: RefCell<Option<Arc<ClusterHealth>>>,
    changes: Cell<u64>,
}

/// A zone of the local cluster.
#[derive(Debug)]
pub(super) struct LocalPlace {
    pub(super) locality: Locality,
    pub(super) hosts: u64,
    pub(super) healthy: u64,
    pub(super) degraded: u64,
    /// Of the healthy ones.
    pub(super) weight: u64,
}

impl LocalCluster {
    pub(crate) fn new(at: LocalZone) -> LocalCluster {
        LocalCluster { at, entry: RefCell::default(), health: RefCell::default(), changes: Cell::new(0) }
    }

    pub(crate) fn name(&self) -> &str {
        &self.at.cluster
    }

    /// Takes another generation over.
    pub(crate) fn update(&self, entry: Option<&Arc<ClusterEntry>>, health: &HealthSet) {
        let same = match (&*self.entry.borrow(), entry) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (before, now) => before.is_none() && now.is_none(),
        };
        if !same {
            *self.entry.borrow_mut() = entry.cloned();
            *self.health.borrow_mut() = health.get(&self.at.cluster);
            self.changes.set(self.changes.get() + 1);
        }
    }

    /// What shows that something is different.
    pub(super) fn version(&self) -> (u64, u64) {
        (self.changes.get(), self.health.borrow().as_ref().map_or(0, |health| health.version()))
    }

    /// Its zones, of the first priority.
    pub(super) fn places(&self) -> Vec<LocalPlace> {
        let entry = self.entry.borrow();
        let states = self.health.borrow().as_ref().map(|health| health.states().0).unwrap_or_default();
        let assignment = entry.as_ref().and_then(|entry| entry.assignment.as_ref());
        let localities = assignment.into_iter().flat_map(|assignment| &assignment.localities);
        let mut places: Vec<LocalPlace> = Vec::new();
        for locality in localities.filter(|locality| locality.priority == 0) {
            let at = places.iter().position(|place| place.locality.is_same_place(locality)).unwrap_or_else(|| {
                let locality = locality.without_endpoints();
                places.push(LocalPlace { locality, hosts: 0, healthy: 0, degraded: 0, weight: 0 });
                places.len() - 1
            });
            let place = &mut places[at];
            for endpoint in &locality.endpoints {
                let state = states.get(&endpoint.address).map(|state| &**state);
                match standing_of(flags_of(endpoint.health, state), true) {
                    Standing::Excluded => continue,
                    Standing::Healthy => {
                        place.healthy += 1;
                        place.weight += u64::from(endpoint.weight);
                    }
                    Standing::Degraded => place.degraded += 1,
                    Standing::Unhealthy => {}
                }
                place.hosts += 1;
            }
        }
        places.retain(|place| place.hosts > 0);
        places
    }
}
