//! A worker's list of a cluster's endpoints with the balancer over it, made when it is needed: an update costs a worker
//! nothing for what it doesn't use, and several updates between two requests cost it one. Only who writes the cluster's
//! gauges, or has idle connections to its endpoints, makes it within a second.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::ClusterEntry;
use outrigger_http::EndpointAddress;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::time::Instant;

use super::EndpointHandle;
use super::balancer::{Balancer, Recipe};
use super::health::{ClusterHealth, HealthFlags, HostState, Placed};
use super::local::LocalCluster;

/// The endpoints of a cluster's version.
#[derive(Debug)]
pub(super) struct Hosts {
    pub(super) list: Vec<Rc<EndpointHandle>>,
    pub(super) balancer: Balancer,
    /// The states that the balancer was made of.
    version: u64,
    membership: u64,
    local_version: (u64, u64),
}

impl Hosts {
    /// `previous`: endpoints that are still there keep their connections and counts. `current`: no later version has
    /// taken them over.
    pub(super) fn new(
        entry: &ClusterEntry,
        health: Option<&Arc<ClusterHealth>>,
        recipe: &Recipe<'_>,
        previous: &[Rc<EndpointHandle>],
        current: bool,
    ) -> Hosts {
        let (version, membership) = versions(health);
        let local_version = recipe.local_version();
        let (states, retained) = health.map(|health| health.states()).unwrap_or_default();
        let known: HashMap<&EndpointAddress, &Rc<EndpointHandle>> =
            previous.iter().map(|host| (&host.endpoint.address, host)).collect();
        let now = Instant::now();
        let build = |placed: Placed| {
            let address = &placed.endpoint.address;
            let state: Option<Arc<HostState>> = states.get(address).cloned();
            let known = known.get(address).copied();
            EndpointHandle::build(placed, state, known, now)
        };
        let mut list =
            Vec::with_capacity(entry.assignment.iter().map(|assignment| assignment.endpoints().count()).sum());
        for locality in entry.assignment.iter().flat_map(|assignment| assignment.localities.iter()) {
            let place = Arc::new(locality.without_endpoints());
            list.extend(
                locality
                    .endpoints
                    .iter()
                    .map(|endpoint| build(Placed { endpoint: endpoint.clone(), locality: place.clone() })),
            );
        }
        list.extend(retained.into_iter().map(build));
        // Those that are gone; or those that only streams of an earlier version know, and nobody sweeps.
        let (kept, of) = if current { (&list[..], previous) } else { (previous, &list[..]) };
        let kept: HashSet<_> = kept.iter().map(|host| Rc::as_ptr(host.pools())).collect();
        of.iter().filter(|host| !kept.contains(&Rc::as_ptr(host.pools()))).for_each(|host| host.pools().retire());
        let balancer = Balancer::new(recipe, subsets(entry), &list, None, SmallRng::from_os_rng());
        Hosts { list, balancer, version, membership, local_version }
    }

    /// Closes the idle connections of endpoints that have failed, as Envoy drains them; and tunnels where that is wanted.
    pub(super) fn close_failed(&self, tunnels: bool) {
        const FAILED: HealthFlags = HealthFlags::FAILED_ACTIVE_HC.with(HealthFlags::FAILED_OUTLIER_CHECK);
        for host in self.list.iter().filter(|host| host.flags().contains(FAILED)) {
            host.pools().close_idle();
            if tunnels {
                host.pools().close_tunnels();
            }
        }
    }

    /// Whether what it was made of has changed since.
    pub(super) fn is_stale(&self, health: Option<&Arc<ClusterHealth>>, local: Option<&LocalCluster>) -> bool {
        health.is_some_and(|health| health.version() != self.version)
            || local.is_some_and(|local| local.version() != self.local_version)
            || self.balancer.is_stale()
    }

    /// Makes the balancer anew, and the list where it has changed.
    pub(super) fn refresh(
        self,
        entry: &ClusterEntry,
        health: Option<&Arc<ClusterHealth>>,
        recipe: &Recipe<'_>,
        current: bool,
    ) -> Hosts {
        let (version, membership) = versions(health);
        if membership != self.membership {
            return Hosts::new(entry, health, recipe, &self.list, current);
        }
        let local_version = recipe.local_version();
        let now = Instant::now();
        self.list.iter().for_each(|host| host.note_recovery(now));
        let balancer = Balancer::new(recipe, subsets(entry), &self.list, Some(self.balancer), SmallRng::from_os_rng());
        Hosts { list: self.list, balancer, version, membership, local_version }
    }
}

/// Read before the states are: what changes meanwhile shows as a later version.
fn versions(health: Option<&Arc<ClusterHealth>>) -> (u64, u64) {
    health.map_or((0, 0), |health| (health.version(), health.membership()))
}

fn subsets(entry: &ClusterEntry) -> Option<&Arc<outrigger_config::Subsets>> {
    entry.cluster.lb_options.as_ref()?.subsets.as_ref()
}
