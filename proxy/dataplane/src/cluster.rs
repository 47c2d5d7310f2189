//! A worker's view of a cluster: its endpoints, its balancer and its pools.

mod balancer;
mod breakers;
mod connect;
mod endpoint;
mod pick;
mod secure;

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{Cluster, ClusterEntry};
use outrigger_stats::Registry;

pub(crate) use breakers::{BreakerSet, Breakers, RetryGuard};
pub(crate) use connect::{Checkout, Picked};
pub use endpoint::{ClusterStatus, EndpointStatus};
pub(crate) use endpoint::{ConnectionGuard, EndpointHandle};
pub(crate) use pick::PickKey;

use crate::stats::ClusterStats;
use balancer::Balancer;
use secure::Security;

/// Cheap worker-local access to a cluster. Survives updates that don't change the cluster; endpoints survive those that
/// don't change them.
#[derive(Debug)]
pub(crate) struct ClusterHandle {
    pub(crate) entry: Arc<ClusterEntry>,
    pub(crate) stats: Rc<ClusterStats>,
    pub(crate) breakers: Arc<Breakers>,
    endpoints: Vec<Rc<EndpointHandle>>,
    balancer: RefCell<Balancer>,
    /// `None`: connections are in cleartext.
    security: Option<Rc<Security>>,
}

impl ClusterHandle {
    /// Builds a handle, with the endpoints (connections, counts) of the previous one that are still there.
    pub(crate) fn build(
        entry: &Arc<ClusterEntry>,
        registry: &Arc<Registry>,
        breakers: &BreakerSet,
        previous: Option<&Rc<ClusterHandle>>,
    ) -> Rc<ClusterHandle> {
        let cluster = &entry.cluster;
        let stats = match previous {
            Some(previous) if previous.cluster().stat_name == cluster.stat_name => previous.stats.clone(),
            _ => ClusterStats::new(registry, &cluster.stat_name),
        };
        // Connections made under other settings are not kept.
        let kept = previous.filter(|previous| {
            previous.cluster().http == cluster.http
                && previous.cluster().tcp_keepalive == cluster.tcp_keepalive
                && previous.cluster().transports == cluster.transports
        });
        let endpoints: Vec<Rc<EndpointHandle>> = entry
            .assignment
            .iter()
            .flat_map(|assignment| assignment.localities.iter())
            .flat_map(|locality| locality.endpoints.iter().map(move |endpoint| (locality, endpoint)))
            .map(|(locality, endpoint)| {
                let known = kept
                    .and_then(|kept| kept.endpoints.iter().find(|known| known.endpoint.address == endpoint.address));
                EndpointHandle::build(endpoint, locality, known)
            })
            .collect();
        if previous.is_some() {
            stats.membership_change().inc();
        }
        Rc::new(ClusterHandle {
            balancer: RefCell::new(Balancer::new(cluster.lb, &endpoints)),
            breakers: breakers.get(cluster),
            security: Security::build(entry, registry, previous.map(|previous| &**previous)),
            entry: entry.clone(),
            stats,
            endpoints,
        })
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.entry.cluster
    }

    /// An endpoint for a new request; `None`: none is healthy.
    pub(crate) fn pick(&self, key: &PickKey<'_>) -> Option<Rc<EndpointHandle>> {
        let mut picked = None;
        for _ in 0..key.rounds() {
            let index = self.balancer.borrow_mut().pick(&self.endpoints)?;
            picked = self.endpoints.get(index);
            if picked.is_none_or(|endpoint| !key.avoid.contains(&endpoint.endpoint.address)) {
                break;
            }
        }
        picked.cloned()
    }

    /// Closes connections that were idle for too long; called about once a second.
    pub(crate) fn sweep(&self, now: tokio::time::Instant) {
        for endpoint in &self.endpoints {
            endpoint.sweep(&self.stats, self.cluster().http.idle_timeout, now);
        }
    }

    /// How many endpoints there are, whatever their health.
    pub(crate) fn endpoint_count(&self) -> usize {
        self.endpoints.len()
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        ClusterStatus {
            name: self.cluster().name.clone(),
            endpoints: self.endpoints.iter().map(|endpoint| endpoint.status()).collect(),
        }
    }
}
