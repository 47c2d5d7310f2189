//! A worker's view of a cluster: its endpoints, its balancer and its pools.

mod announce;
mod balancer;
mod breakers;
mod checker;
mod checkout;
mod connect;
mod endpoint;
mod eyeballs;
mod gauges;
mod health;
mod hosts;
mod keeper;
mod latency;
mod local;
mod original_dst;
mod outlier;
mod pick;
mod picked;
mod pools;
mod preconnect;
mod probe;
mod secure;
mod source;
mod stats;

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{Cluster, ClusterEntry, Discovery, Fraction};

pub(crate) use announce::{Client, MadeFor, Told, header};
pub(crate) use breakers::{BreakerSet, Breakers, RetryGuard};
pub(crate) use checkout::Checkout;
pub(crate) use connect::FailedConnect;
pub(crate) use endpoint::EndpointHandle;
pub use endpoint::{ClusterStatus, EndpointStatus};
pub use health::HealthFlags;
pub(crate) use health::HealthSet;
pub(crate) use keeper::keep;
pub(crate) use local::LocalCluster;
pub use local::LocalZone;
pub(crate) use outlier::Outcome;
pub(crate) use pick::PickKey;
pub(crate) use picked::Picked;
pub(crate) use pools::ConnectionGuard;

use crate::error::{ErrorKind, StreamError};
use crate::stats::ClusterStats;
use crate::worker::{ConnectionIds, WorkerCx};
use balancer::Recipe;
use gauges::Gauges;
use health::ClusterHealth;
use hosts::Hosts;
use original_dst::Destinations;
use secure::Security;
use stats::GroupStats;

/// Cheap worker-local access to a cluster. Survives updates that don't change the cluster; endpoints survive those that
/// don't change them.
#[derive(Debug)]
pub(crate) struct ClusterHandle {
    pub(crate) entry: Arc<ClusterEntry>,
    pub(crate) stats: Rc<ClusterStats>,
    pub(crate) breakers: Arc<Breakers>,
    /// `None`: nothing watches its endpoints' health.
    health: Option<Arc<ClusterHealth>>,
    /// Made at first use.
    hosts: RefCell<Option<Hosts>>,
    /// The endpoints of the version before, until this one's are made.
    before: RefCell<Vec<Rc<EndpointHandle>>>,
    /// In place of all that, where clients name the endpoints.
    destinations: Option<Rc<Destinations>>,
    gauges: RefCell<Option<Gauges>>,
    /// `None`: connections are in cleartext.
    security: Option<Rc<Security>>,
    drop_overload: Option<Fraction>,
    /// `None`: zones don't matter.
    local: Option<Rc<LocalCluster>>,
    /// No later version has its place: what it keeps for a next request is swept.
    current: Cell<bool>,
    /// The connection that has failed last, for the log of the stream that it was for.
    failed: RefCell<Option<Rc<FailedConnect>>>,
    ids: Rc<ConnectionIds>,
}

impl ClusterHandle {
    /// Builds a handle, with the endpoints (connections, counts) of the previous one that are still there. `current`: no
    /// later version may have its place already.
    pub(crate) fn build(
        entry: &Arc<ClusterEntry>,
        cx: &WorkerCx,
        previous: Option<&Rc<ClusterHandle>>,
        current: bool,
    ) -> Rc<ClusterHandle> {
        let cluster = &entry.cluster;
        let same_name = previous.filter(|previous| previous.cluster().stat_name == cluster.stat_name);
        let stats = match same_name {
            Some(previous) => previous.stats.clone(),
            None => ClusterStats::new(&cx.registry, &cluster.stat_name),
        };
        let breakers = cx.breakers.get(cluster);
        let gauges = match same_name {
            Some(previous) => previous.gauges.borrow_mut().take(),
            None => None,
        };
        let gauges = gauges.or_else(|| {
            let claim = current.then(|| breakers.claim_gauges()).flatten()?;
            Some(Gauges::new(GroupStats::new(&cx.registry, &cluster.stat_name, ""), claim))
        });
        if previous.is_some() {
            stats.membership_change().inc();
        }
        let before = previous.filter(|previous| keeps_connections(previous.cluster(), cluster));
        match (before, previous) {
            (Some(before), _) => before.current.set(false),
            (None, Some(previous)) => previous.retire(),
            (None, None) => {}
        }
        let known = before.filter(|before| before.cluster().discovery == cluster.discovery);
        let known = known.and_then(|before| before.destinations.clone());
        if known.is_none() {
            previous.iter().filter_map(|previous| previous.destinations.as_ref()).for_each(|gone| gone.retire());
        }
        Rc::new(ClusterHandle {
            health: cx.health.get(&cluster.name),
            hosts: RefCell::new(None),
            before: RefCell::new(before.map(|before| before.endpoints()).unwrap_or_default()),
            destinations: match &cluster.discovery {
                Discovery::OriginalDst(config) => Some(known.unwrap_or_else(|| Rc::new(Destinations::new(config)))),
                _ => None,
            },
            gauges: RefCell::new(gauges),
            breakers,
            security: Security::build(entry, &cx.registry, previous.map(|previous| &**previous)),
            drop_overload: entry.assignment.as_ref().and_then(|assignment| assignment.policy.drop_overload),
            entry: entry.clone(),
            local: cx.local.clone(),
            current: Cell::new(current),
            failed: RefCell::default(),
            ids: cx.connection_ids.clone(),
            stats,
        })
    }

    /// The connection that has just failed.
    pub(crate) fn take_failed(&self) -> Option<Rc<FailedConnect>> {
        self.failed.borrow_mut().take()
    }

    pub(crate) fn cluster(&self) -> &Arc<Cluster> {
        &self.entry.cluster
    }

    /// `per_connection_buffer_limit_bytes`.
    pub(crate) fn buffer_limit(&self) -> usize {
        self.cluster().per_connection_buffer_limit_bytes as usize
    }

    /// The endpoints as far as this worker knows them.
    fn endpoints(&self) -> Vec<Rc<EndpointHandle>> {
        match &*self.hosts.borrow() {
            Some(hosts) => hosts.list.clone(),
            None => self.before.borrow().clone(),
        }
    }

    /// Keeps no connection for a next request: the cluster is no more, or its connections would be others now. Those of
    /// streams that still come are closed after them: nobody sweeps here any more.
    pub(crate) fn retire(&self) {
        self.current.set(false);
        self.destinations.iter().for_each(|destinations| destinations.retire());
        self.endpoints().into_iter().for_each(|endpoint| endpoint.pools().retire());
    }

    /// Calls with the endpoints as they are now.
    fn with_hosts<T>(&self, call: impl FnOnce(&mut Hosts) -> T) -> T {
        let mut slot = self.hosts.borrow_mut();
        let health = self.health.as_ref();
        match &mut *slot {
            Some(hosts) if !hosts.is_stale(health, self.local.as_deref()) => call(hosts),
            _ => {
                let current = self.current.get();
                let hosts = match slot.take() {
                    Some(stale) => stale.refresh(&self.entry, health, &self.recipe(), current),
                    None => Hosts::new(&self.entry, health, &self.recipe(), &self.before.take(), current),
                };
                if self.health.is_some() {
                    hosts.close_failed(self.cluster().close_connections_on_health_failure);
                }
                if let Some(gauges) = &*self.gauges.borrow() {
                    gauges.membership(&hosts);
                }
                call(slot.insert(hosts))
            }
        }
    }

    fn recipe(&self) -> Recipe<'_> {
        Recipe::new(&self.entry, self.breakers.tables(), self.local.as_deref())
    }

    /// An endpoint for a new request; `None`: none can serve.
    pub(crate) fn pick(&self, key: &PickKey<'_>) -> Option<Rc<EndpointHandle>> {
        if let Some(destinations) = &self.destinations {
            return destinations.pick(key.destination);
        }
        self.with_hosts(|hosts| {
            let Hosts { list, balancer, .. } = hosts;
            let mut picked = None;
            for round in 0..key.rounds() {
                let Some(index) = balancer.pick(|| self.recipe(), list, key, round) else { break };
                picked = list.get(index as usize);
                if picked.is_none_or(|endpoint| !key.avoid.contains(&endpoint.endpoint.address)) {
                    break;
                }
            }
            balancer.count(&self.stats);
            picked.cloned()
        })
    }

    /// Why a request with this random number is refused, where the control plane wants that (`drop_overloads`).
    pub(crate) fn dropped(&self, random: impl FnOnce() -> u64) -> Option<StreamError> {
        let share = self.drop_overload.filter(|share| share.holds(random()))?;
        self.stats.answered(503);
        let all = share.numerator == share.denominator;
        Some(StreamError::upstream(if all { ErrorKind::DropAll } else { ErrorKind::DropOverload }))
    }

    /// Counts what became of a request or a connection, for outlier detection.
    pub(crate) fn report(&self, endpoint: &EndpointHandle, outcome: Outcome) {
        if let (Some(health), Some(state)) = (&self.health, endpoint.state()) {
            health.record(&endpoint.endpoint.address, state, outcome);
        }
    }

    /// Closes connections that were idle for too long; called about once a second.
    pub(crate) fn sweep(&self, now: tokio::time::Instant) {
        let http = &self.cluster().http;
        // Gauges tell of endpoints also where no request follows an update; a worker without them makes none for that.
        let tells = self.gauges.borrow().is_some() && self.destinations.is_none();
        if tells || self.hosts.borrow().is_some() || !self.before.borrow().is_empty() {
            self.with_hosts(|hosts| {
                hosts.list.iter().for_each(|endpoint| endpoint.pools().sweep(&self.stats, http, now));
            });
        }
        if let Some(destinations) = &self.destinations {
            destinations.sweep(&self.stats, &self.cluster().http, now);
        }
        if let Some(gauges) = &mut *self.gauges.borrow_mut() {
            gauges.breakers(&self.breakers);
        }
    }

    pub(crate) fn status(&self) -> ClusterStatus {
        let endpoints = match &self.destinations {
            Some(destinations) => destinations.list().iter().map(|endpoint| endpoint.status()).collect(),
            None => self.with_hosts(|hosts| hosts.list.iter().map(|endpoint| endpoint.status()).collect()),
        };
        ClusterStatus { name: self.cluster().name.clone(), endpoints }
    }
}

/// Connections made under other settings are not kept.
fn keeps_connections(before: &Cluster, now: &Cluster) -> bool {
    before.http == now.http
        && before.tcp_keepalive == now.tcp_keepalive
        && before.bind == now.bind
        && before.transports == now.transports
        && !now.lb_options.as_ref().is_some_and(|options| options.close_connections_on_change)
}
