//! What the process knows of its endpoints' health: shared by the workers, kept by the control thread.
//!
//! Only clusters with outlier detection or health checks have it. Workers count results into atomics and draw the
//! consequences that need no timer; the control thread ([`super::keeper`]) runs the timers and the checks. Whoever
//! changes what may be chosen raises the version, and every worker builds its balancer anew at its next pick. The state
//! of an address outlives updates.

use std::collections::HashMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use arc_swap::ArcSwap;
use outrigger_config::{Cluster, ClusterEntry, Endpoint, LbOptions, Locality, Snapshot};
use outrigger_http::EndpointAddress;
use outrigger_stats::Registry;
use tokio::sync::Notify;

use super::outlier::{Ejections, OutlierCounts};
use super::stats::GroupStats;

/// Envoy's health flags of a host; several may be set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct HealthFlags(u32);

impl HealthFlags {
    pub const FAILED_ACTIVE_HC: HealthFlags = HealthFlags(0x1);
    pub const FAILED_OUTLIER_CHECK: HealthFlags = HealthFlags(0x2);
    pub const FAILED_EDS_HEALTH: HealthFlags = HealthFlags(0x4);
    pub const DEGRADED_ACTIVE_HC: HealthFlags = HealthFlags(0x8);
    pub const DEGRADED_EDS_HEALTH: HealthFlags = HealthFlags(0x10);
    pub const PENDING_DYNAMIC_REMOVAL: HealthFlags = HealthFlags(0x20);
    pub const PENDING_ACTIVE_HC: HealthFlags = HealthFlags(0x40);
    pub const ACTIVE_HC_TIMEOUT: HealthFlags = HealthFlags(0x100);
    pub const EDS_STATUS_DRAINING: HealthFlags = HealthFlags(0x200);

    /// In the order in which `/clusters` names them.
    pub const NAMED: [(HealthFlags, &'static str); 9] = [
        (HealthFlags::FAILED_ACTIVE_HC, "failed_active_hc"),
        (HealthFlags::FAILED_OUTLIER_CHECK, "failed_outlier_check"),
        (HealthFlags::FAILED_EDS_HEALTH, "failed_eds_health"),
        (HealthFlags::DEGRADED_ACTIVE_HC, "degraded_active_hc"),
        (HealthFlags::DEGRADED_EDS_HEALTH, "degraded_eds_health"),
        (HealthFlags::PENDING_DYNAMIC_REMOVAL, "pending_dynamic_removal"),
        (HealthFlags::PENDING_ACTIVE_HC, "pending_active_hc"),
        (HealthFlags::ACTIVE_HC_TIMEOUT, "active_hc_timeout"),
        (HealthFlags::EDS_STATUS_DRAINING, "eds_status_draining"),
    ];

    #[must_use]
    pub const fn contains(self, other: HealthFlags) -> bool {
        self.0 & other.0 != 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    #[must_use]
    pub const fn with(self, other: HealthFlags) -> HealthFlags {
        HealthFlags(self.0 | other.0)
    }
}

impl fmt::Display for HealthFlags {
    /// As `/clusters` shows them: `healthy`, or `/failed_active_hc/failed_outlier_check`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return f.write_str("healthy");
        }
        let mut set = HealthFlags::NAMED.iter().filter(|(flag, _)| self.contains(*flag));
        set.try_for_each(|(_, name)| write!(f, "/{name}"))
    }
}

/// What the process knows of one address.
#[derive(Debug, Default)]
pub(crate) struct HostState {
    flags: AtomicU32,
    pub(super) outlier: OutlierCounts,
}

impl HostState {
    pub(crate) fn flags(&self) -> HealthFlags {
        HealthFlags(self.flags.load(Ordering::Relaxed))
    }

    /// Whether that changed anything.
    pub(super) fn set(&self, flags: HealthFlags) -> bool {
        self.flags.fetch_or(flags.0, Ordering::Relaxed) & flags.0 != flags.0
    }

    pub(super) fn clear(&self, flags: HealthFlags) -> bool {
        self.flags.fetch_and(!flags.0, Ordering::Relaxed) & flags.0 != 0
    }
}

/// An endpoint with the place that it has.
#[derive(Debug, Clone)]
pub(super) struct Placed {
    pub(super) endpoint: Endpoint,
    /// Without endpoints.
    pub(super) locality: Arc<Locality>,
}

/// A host of a cluster, as the control thread keeps it.
#[derive(Debug)]
pub(super) struct Host {
    pub(super) state: Arc<HostState>,
    pub(super) placed: Placed,
    /// The configuration names it no longer; it stays while it passes its checks.
    pub(super) retained: bool,
}

/// What the process knows of one cluster.
#[derive(Debug)]
pub(crate) struct ClusterHealth {
    pub(super) name: Arc<str>,
    pub(super) entry: ArcSwap<ClusterEntry>,
    /// Goes up with every change of what may be chosen.
    version: AtomicU64,
    /// Goes up with every change of the hosts that are retained.
    membership: AtomicU64,
    pub(super) hosts: Mutex<HashMap<EndpointAddress, Host>>,
    pub(super) ejections: Mutex<Ejections>,
    /// Somebody has connected: health checks leave `no_traffic_interval`.
    pub(super) used: AtomicBool,
    pub(super) removed: AtomicBool,
    /// For the keeper: the hosts or the configuration have changed.
    pub(super) changed: Notify,
    pub(super) stats: Mutex<GroupStats>,
    pub(super) registry: Arc<Registry>,
}

pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether a cluster needs state of its own.
fn is_watched(cluster: &Cluster) -> bool {
    cluster.outlier.is_some() || cluster.health_check.is_some()
}

impl ClusterHealth {
    fn new(entry: &Arc<ClusterEntry>, registry: &Arc<Registry>) -> ClusterHealth {
        let cluster = &entry.cluster;
        ClusterHealth {
            name: cluster.name.clone(),
            entry: ArcSwap::new(entry.clone()),
            version: AtomicU64::new(0),
            membership: AtomicU64::new(0),
            hosts: Mutex::default(),
            ejections: Mutex::new(Ejections::new(registry, &cluster.stat_name)),
            used: AtomicBool::new(false),
            removed: AtomicBool::new(false),
            changed: Notify::new(),
            stats: Mutex::new(GroupStats::new(registry, &cluster.stat_name, "health_check")),
            registry: registry.clone(),
        }
    }

    pub(crate) fn version(&self) -> u64 {
        self.version.load(Ordering::Acquire)
    }

    pub(crate) fn membership(&self) -> u64 {
        self.membership.load(Ordering::Acquire)
    }

    /// What may be chosen has changed.
    pub(super) fn touch(&self) {
        self.version.fetch_add(1, Ordering::Release);
    }

    pub(crate) fn note_used(&self) {
        if !self.used.load(Ordering::Relaxed) {
            self.used.store(true, Ordering::Relaxed);
        }
    }

    /// The states of addresses, and the endpoints that are kept though the configuration no longer names them.
    pub(super) fn states(&self) -> (HashMap<EndpointAddress, Arc<HostState>>, Vec<Placed>) {
        let hosts = lock(&self.hosts);
        let states = hosts.iter().map(|(address, host)| (address.clone(), host.state.clone())).collect();
        (states, hosts.values().filter(|host| host.retained).map(|host| host.placed.clone()).collect())
    }

    pub(crate) fn state(&self, address: &EndpointAddress) -> Option<Arc<HostState>> {
        lock(&self.hosts).get(address).map(|host| host.state.clone())
    }

    /// Takes a cluster's new version over.
    fn update(&self, entry: &Arc<ClusterEntry>) {
        let cluster = &entry.cluster;
        let checked = cluster.health_check.is_some();
        let ignore_new =
            cluster.lb_options.as_deref().is_some_and(|options: &LbOptions| options.ignore_new_until_checked);
        let mut hosts = lock(&self.hosts);
        let mut before: HashMap<EndpointAddress, Host> = std::mem::take(&mut *hosts);
        for locality in entry.assignment.iter().flat_map(|assignment| assignment.localities.iter()) {
            let place = Arc::new(locality.without_endpoints());
            for endpoint in &locality.endpoints {
                let placed = Placed { endpoint: endpoint.clone(), locality: place.clone() };
                let known = before.remove(&endpoint.address).map(|host| host.state);
                let state = known.unwrap_or_else(|| new_state(checked, ignore_new));
                state.clear(HealthFlags::PENDING_DYNAMIC_REMOVAL);
                if !checked || endpoint.is_unchecked() {
                    state.clear(ALL_ACTIVE);
                }
                hosts.insert(endpoint.address.clone(), Host { state, placed, retained: false });
            }
        }
        // A host that discovery no longer names serves on while it passes its checks.
        let mut left: Vec<EndpointAddress> = Vec::new();
        for (address, host) in before {
            if checked && !cluster.ignore_health_on_host_removal && !host.state.flags().contains(ALL_ACTIVE_FAILED) {
                host.state.set(HealthFlags::PENDING_DYNAMIC_REMOVAL);
                hosts.insert(address, Host { retained: true, ..host });
            } else {
                left.push(address);
            }
        }
        drop(hosts);
        if cluster.outlier.is_none() {
            self.uneject_all();
        }
        let mut ejections = lock(&self.ejections);
        left.iter().for_each(|address| ejections.forget(address));
        drop(ejections);
        self.entry.store(entry.clone());
        self.membership.fetch_add(1, Ordering::Release);
        self.touch();
        self.changed.notify_one();
    }

    /// Brings the gauges up to date.
    pub(super) fn count_healthy(&self) {
        let hosts = lock(&self.hosts);
        let count = |flag, wanted| hosts.values().filter(|host| host.state.flags().contains(flag) == wanted).count();
        let (healthy, degraded) =
            (count(HealthFlags::FAILED_ACTIVE_HC, false), count(HealthFlags::DEGRADED_ACTIVE_HC, true));
        drop(hosts);
        let stats = lock(&self.stats);
        stats.set("healthy", i64::try_from(healthy).unwrap_or(i64::MAX));
        stats.set("degraded", i64::try_from(degraded).unwrap_or(i64::MAX));
    }

    /// A retained host has failed its checks.
    pub(super) fn drop_retained(&self, address: &EndpointAddress) -> bool {
        let mut hosts = lock(&self.hosts);
        let gone = hosts.get(address).is_some_and(|host| host.retained);
        if gone {
            hosts.remove(address);
            drop(hosts);
            lock(&self.ejections).forget(address);
            self.membership.fetch_add(1, Ordering::Release);
            self.touch();
        }
        gone
    }
}

/// What active health checks set.
const ALL_ACTIVE: HealthFlags = HealthFlags(
    HealthFlags::FAILED_ACTIVE_HC.0
        | HealthFlags::DEGRADED_ACTIVE_HC.0
        | HealthFlags::PENDING_ACTIVE_HC.0
        | HealthFlags::ACTIVE_HC_TIMEOUT.0,
);
const ALL_ACTIVE_FAILED: HealthFlags = HealthFlags(HealthFlags::FAILED_ACTIVE_HC.0 | HealthFlags::PENDING_ACTIVE_HC.0);

fn new_state(checked: bool, ignore_new: bool) -> Arc<HostState> {
    let state = HostState::default();
    if checked {
        // A host serves once it has passed its first check.
        state.set(HealthFlags::FAILED_ACTIVE_HC);
        if ignore_new {
            state.set(HealthFlags::PENDING_ACTIVE_HC);
        }
    }
    Arc::new(state)
}

/// The health of all clusters that have any.
#[derive(Debug, Clone, Default)]
pub(crate) struct HealthSet(Arc<Inner>);

#[derive(Debug, Default)]
struct Inner {
    clusters: Mutex<HashMap<Arc<str>, Arc<ClusterHealth>>>,
    /// For the keeper: there are other clusters than before.
    changed: Notify,
}

impl HealthSet {
    pub(crate) fn get(&self, cluster: &str) -> Option<Arc<ClusterHealth>> {
        lock(&self.0.clusters).get(cluster).cloned()
    }

    pub(super) fn all(&self) -> Vec<Arc<ClusterHealth>> {
        lock(&self.0.clusters).values().cloned().collect()
    }

    pub(super) async fn changed(&self) {
        self.0.changed.notified().await;
    }

    /// Brings the states up to date with a generation, before the workers see it.
    pub(crate) fn update(&self, snapshot: &Snapshot, previous: Option<&Snapshot>, registry: &Arc<Registry>) {
        let names = match previous {
            Some(previous) => snapshot.clusters.changed(&previous.clusters, Arc::ptr_eq),
            None => snapshot.clusters.keys().cloned().collect(),
        };
        let mut clusters = lock(&self.0.clusters);
        let mut other = false;
        for name in names {
            match snapshot.clusters.get(&name).filter(|entry| is_watched(&entry.cluster)) {
                Some(entry) => {
                    let health = clusters.entry(name).or_insert_with(|| {
                        other = true;
                        Arc::new(ClusterHealth::new(entry, registry))
                    });
                    health.update(entry);
                }
                None => {
                    if let Some(gone) = clusters.remove(&name) {
                        gone.removed.store(true, Ordering::Relaxed);
                        gone.changed.notify_one();
                    }
                }
            }
        }
        if other {
            self.0.changed.notify_one();
        }
    }
}
