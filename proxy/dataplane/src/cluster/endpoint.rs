//! An endpoint with its connections.

use std::cell::Cell;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{Endpoint, Health, LB_NAMESPACE, Locality, Metadata, MetadataValue};
use outrigger_http::{EndpointAddress, UpstreamInfo};
use tokio::time::Instant;

use super::health::{ClusterHealth, HealthFlags, HostState, Placed};
use super::latency::Latency;
use super::pools::{OwnPools, Pools};

/// A worker's state of an endpoint.
#[derive(Debug)]
pub(crate) struct EndpointHandle {
    pub(crate) endpoint: Endpoint,
    /// Without its endpoints.
    locality: Arc<Locality>,
    /// Region, zone and sub-zone for properties; `None`: it has no name.
    locality_names: Option<Arc<[String; 3]>>,
    /// What the whole process knows; `None`: nothing watches the cluster's health.
    state: Option<Arc<HostState>>,
    /// Since when it takes requests: the beginning of its slow start.
    pub(super) since: Cell<Instant>,
    /// Whether it could serve when the balancer was last made.
    served: Cell<bool>,
    pub(super) latency: Latency,
    pub(crate) active: Cell<u32>,
    pub(crate) counts: Counts,
    pools: Rc<OwnPools>,
}

/// What an endpoint may be chosen for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Standing {
    Healthy,
    Degraded,
    Unhealthy,
    /// Not counted at all: it hasn't been checked yet.
    Excluded,
}

/// Envoy's counters of a host.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) cx_active: Rc<Cell<u64>>,
    /// Being made.
    pub(super) cx_connecting: Cell<u64>,
    pub(crate) cx_total: Cell<u64>,
    pub(crate) cx_connect_fail: Cell<u64>,
    pub(crate) rq_total: Cell<u64>,
    pub(crate) rq_success: Cell<u64>,
    pub(crate) rq_error: Cell<u64>,
    pub(crate) rq_timeout: Cell<u64>,
}

/// What speaks against an endpoint, by discovery and by what the process knows.
pub(super) fn flags_of(health: Health, state: Option<&HostState>) -> HealthFlags {
    let eds = match health {
        Health::Healthy => HealthFlags::default(),
        Health::Degraded => HealthFlags::DEGRADED_EDS_HEALTH,
        Health::Unhealthy => HealthFlags::FAILED_EDS_HEALTH,
        Health::Draining => HealthFlags::EDS_STATUS_DRAINING,
    };
    state.map_or(eds, |state| state.flags().with(eds))
}

pub(super) fn standing_of(flags: HealthFlags, ignore_new: bool) -> Standing {
    const FAILED: HealthFlags = HealthFlags::FAILED_ACTIVE_HC
        .with(HealthFlags::FAILED_OUTLIER_CHECK)
        .with(HealthFlags::FAILED_EDS_HEALTH)
        .with(HealthFlags::EDS_STATUS_DRAINING);
    const DEGRADED: HealthFlags = HealthFlags::DEGRADED_ACTIVE_HC.with(HealthFlags::DEGRADED_EDS_HEALTH);
    match () {
        () if flags.is_empty() => Standing::Healthy,
        () if ignore_new && flags.contains(HealthFlags::PENDING_ACTIVE_HC) => Standing::Excluded,
        () if flags.contains(FAILED) => Standing::Unhealthy,
        () if flags.contains(DEGRADED) => Standing::Degraded,
        () => Standing::Healthy,
    }
}

fn locality_names(locality: &Locality) -> Option<Arc<[String; 3]>> {
    let Locality { region, zone, sub_zone, .. } = locality;
    let is_named = !(region.is_empty() && zone.is_empty() && sub_zone.is_empty());
    is_named.then(|| Arc::new([region.clone(), zone.clone(), sub_zone.clone()]))
}

impl EndpointHandle {
    pub(super) fn build(
        placed: Placed,
        state: Option<Arc<HostState>>,
        known: Option<&Rc<EndpointHandle>>,
        now: Instant,
    ) -> Rc<EndpointHandle> {
        let Placed { endpoint, locality } = placed;
        let same_state = |known: &EndpointHandle| match (&known.state, &state) {
            (Some(a), Some(b)) => Arc::ptr_eq(a, b),
            (None, None) => true,
            _ => false,
        };
        if let Some(known) = known
            && known.endpoint == endpoint
            && known.locality == locality
            && same_state(known)
        {
            known.note_recovery(now);
            return known.clone();
        }
        let since = known.map_or(now, |known| known.since.get());
        let handle = EndpointHandle {
            endpoint,
            locality_names: locality_names(&locality),
            locality,
            state,
            since: Cell::new(since),
            served: Cell::new(known.is_none_or(|known| known.served.get())),
            latency: Latency::default(),
            active: Cell::new(0),
            counts: Counts::default(),
            pools: known.map(|known| known.pools.clone()).unwrap_or_default(),
        };
        handle.note_recovery(now);
        Rc::new(handle)
    }

    pub(crate) fn locality_metadata(&self) -> Option<&Arc<Metadata>> {
        self.locality.metadata.as_ref()
    }

    pub(crate) fn priority(&self) -> u32 {
        self.locality.priority
    }

    pub(super) fn locality(&self) -> &Arc<Locality> {
        &self.locality
    }

    pub(super) fn state(&self) -> Option<&Arc<HostState>> {
        self.state.as_ref()
    }

    /// All that speaks against it.
    pub(crate) fn flags(&self) -> HealthFlags {
        flags_of(self.endpoint.health, self.state.as_deref())
    }

    pub(super) fn standing(&self, ignore_new: bool) -> Standing {
        standing_of(self.flags(), ignore_new)
    }

    /// An endpoint that comes back starts slowly again.
    pub(super) fn note_recovery(&self, now: Instant) {
        let serves = matches!(self.standing(true), Standing::Healthy | Standing::Degraded);
        if serves && !self.served.get() {
            self.since.set(now);
        }
        self.served.set(serves);
    }

    /// What consistent hashing knows it by.
    pub(super) fn hash_key(&self, by_hostname: bool) -> Vec<u8> {
        let own = self.endpoint.metadata.as_ref().and_then(|metadata| metadata.get(LB_NAMESPACE, "hash_key"));
        if let Some(key) = own.and_then(MetadataValue::as_str) {
            return key.into();
        }
        if by_hostname && !self.endpoint.hostname.is_empty() {
            return self.endpoint.hostname.as_bytes().into();
        }
        self.endpoint.address.to_string().into_bytes()
    }

    pub(super) fn pools(&self) -> &Rc<Pools> {
        &self.pools.0
    }

    /// The address of a connection to it whose peer is known, if it is no Unix socket.
    pub(crate) fn address_of(&self, remote: Option<SocketAddr>) -> EndpointAddress {
        remote.map_or_else(|| self.endpoint.address.clone(), EndpointAddress::Ip)
    }

    /// What streams tell of it on such a connection.
    pub(crate) fn info(&self, remote: Option<SocketAddr>) -> UpstreamInfo {
        let remote = self.address_of(remote);
        let (host_name, locality) = (self.host_name().cloned(), self.locality_names.clone());
        UpstreamInfo { host_name, locality, ..UpstreamInfo::new(remote) }
    }

    /// Whether that is still what is known: discovery may have changed its names.
    pub(crate) fn is_told_by(&self, info: &UpstreamInfo) -> bool {
        fn same<T: ?Sized>(a: Option<&Arc<T>>, b: Option<&Arc<T>>) -> bool {
            match (a, b) {
                (Some(a), Some(b)) => Arc::ptr_eq(a, b),
                (a, b) => a.is_none() && b.is_none(),
            }
        }
        same(self.host_name(), info.host_name.as_ref()) && same(self.locality_names.as_ref(), info.locality.as_ref())
    }

    pub(super) fn host_name(&self) -> Option<&Arc<str>> {
        Some(&self.endpoint.hostname).filter(|name| !name.is_empty())
    }

    pub(super) fn status(&self) -> EndpointStatus {
        let counts = &self.counts;
        EndpointStatus {
            address: self.endpoint.address.clone(),
            hostname: self.endpoint.hostname.clone(),
            health: self.endpoint.health,
            flags: self.flags(),
            success_rates: self.state.as_ref().map_or((-1.0, -1.0), |state| state.outlier.success_rates()),
            weight: self.endpoint.weight,
            priority: self.priority(),
            locality: {
                let Locality { region, zone, sub_zone, .. } = &*self.locality;
                (region.clone(), zone.clone(), sub_zone.clone())
            },
            cx_active: counts.cx_active.get(),
            cx_total: counts.cx_total.get(),
            cx_connect_fail: counts.cx_connect_fail.get(),
            rq_active: u64::from(self.active.get()),
            rq_total: counts.rq_total.get(),
            rq_success: counts.rq_success.get(),
            rq_error: counts.rq_error.get(),
            rq_timeout: counts.rq_timeout.get(),
        }
    }
}

/// A cluster as `/clusters` shows it.
#[derive(Debug, Clone)]
pub struct ClusterStatus {
    pub name: Arc<str>,
    pub endpoints: Vec<EndpointStatus>,
}

/// An endpoint as `/clusters` shows it.
#[derive(Debug, Clone)]
pub struct EndpointStatus {
    pub address: EndpointAddress,
    pub hostname: Arc<str>,
    pub health: Health,
    pub flags: HealthFlags,
    /// In percent, of answers and of what happened on this side; -1: too few requests, or nobody counts.
    pub success_rates: (f64, f64),
    pub weight: u32,
    pub priority: u32,
    /// Region, zone, sub-zone.
    pub locality: (String, String, String),
    pub cx_active: u64,
    pub cx_total: u64,
    pub cx_connect_fail: u64,
    pub rq_active: u64,
    pub rq_total: u64,
    pub rq_success: u64,
    pub rq_error: u64,
    pub rq_timeout: u64,
}

impl EndpointStatus {
    /// An endpoint that no worker has used.
    pub(crate) fn unused(
        endpoint: &Endpoint,
        locality: &Arc<Locality>,
        health: Option<&Arc<ClusterHealth>>,
    ) -> EndpointStatus {
        let state = health.and_then(|health| health.state(&endpoint.address));
        let placed = Placed { endpoint: endpoint.clone(), locality: locality.clone() };
        EndpointHandle::build(placed, state, None, Instant::now()).status()
    }

    /// Adds another worker's counts.
    pub(crate) fn add(&mut self, other: &EndpointStatus) {
        self.cx_active += other.cx_active;
        self.cx_total += other.cx_total;
        self.cx_connect_fail += other.cx_connect_fail;
        self.rq_active += other.rq_active;
        self.rq_total += other.rq_total;
        self.rq_success += other.rq_success;
        self.rq_error += other.rq_error;
        self.rq_timeout += other.rq_timeout;
    }
}
