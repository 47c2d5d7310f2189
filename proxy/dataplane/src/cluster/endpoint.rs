//! An endpoint with its connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;

use bytes::Bytes;
use h2::client::SendRequest;
use outrigger_config::{Endpoint, Health, LB_NAMESPACE, Locality, Metadata, MetadataValue, UpstreamHttpOptions};
use outrigger_http::{EndpointAddress, TlsInfo};
use tokio::time::Instant;

use super::announce::MadeFor;
use super::breakers::Permit;
use super::health::{ClusterHealth, HealthFlags, HostState, Placed};
use super::latency::Latency;
use crate::stats::ClusterStats;
use crate::upstream::h1;

/// Idle HTTP/1 connections that one worker keeps for one endpoint.
const IDLE_MAX: usize = 1024;

/// A worker's state of an endpoint.
#[derive(Debug)]
pub(crate) struct EndpointHandle {
    pub(crate) endpoint: Endpoint,
    /// Without its endpoints.
    locality: Arc<Locality>,
    /// Region, zone and sub-zone for properties; `None`: it has no name.
    pub(crate) locality_names: Option<Arc<[String; 3]>>,
    /// What the whole process knows; `None`: nothing watches the cluster's health.
    state: Option<Arc<HostState>>,
    /// Since when it takes requests: the beginning of its slow start.
    pub(super) since: Cell<Instant>,
    /// Whether it could serve when the balancer was last made.
    served: Cell<bool>,
    pub(super) latency: Latency,
    pub(crate) active: Cell<u32>,
    pub(crate) counts: Counts,
    pools: Rc<Pools>,
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

/// The connections to an address: they outlive a change of the endpoint's weight or health.
#[derive(Debug, Default)]
pub(super) struct Pools {
    idle: RefCell<VecDeque<Idle>>,
    pub(super) h2: RefCell<Vec<Rc<H2Connection>>>,
    /// Somebody is making an HTTP/2 connection.
    pub(super) connecting: Cell<bool>,
    /// The server has chosen HTTP/1, where it had the choice.
    pub(super) chose_http1: Cell<bool>,
    /// A connection was made, got free or was closed.
    pub(super) changed: tokio::sync::Notify,
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

/// An open connection as the statistics and the breaker count it.
#[derive(Debug)]
pub(crate) struct ConnectionGuard {
    pub(super) _permit: Permit,
    pub(super) stats: Rc<ClusterStats>,
    pub(super) active: Rc<Cell<u64>>,
    pub(super) pools: Rc<Pools>,
    pub(super) opened: Instant,
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.stats.upstream_cx_active().dec();
        self.stats.upstream_cx_destroy().inc();
        self.active.set(self.active.get().saturating_sub(1));
        self.pools.changed.notify_one();
    }
}

/// A connection that waits for its next request.
#[derive(Debug)]
struct Idle {
    stream: Box<h1::Stream>,
    guard: ConnectionGuard,
    since: Instant,
}

/// A shared HTTP/2 connection; its task ends when the last sender and stream are gone.
#[derive(Debug)]
pub(crate) struct H2Connection {
    pub(super) sender: SendRequest<Bytes>,
    pub(super) streams: Cell<u32>,
    pub(super) streams_total: Cell<u32>,
    pub(super) closed: Rc<Cell<bool>>,
    pub(super) idle_since: Cell<Instant>,
    pub(super) opened: Instant,
    pub(super) pools: Rc<Pools>,
    pub(super) addresses: (Option<SocketAddr>, Option<SocketAddr>),
    pub(super) tls: Option<Arc<TlsInfo>>,
    pub(super) made_for: Option<Arc<MadeFor>>,
}

impl Pools {
    fn last(&self, made_for: Option<&Arc<MadeFor>>) -> Option<Idle> {
        let mut idle = self.idle.borrow_mut();
        let at = idle.iter().rposition(|idle| idle.stream.transport.made_for.as_ref() == made_for)?;
        idle.remove(at)
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
        let eds = match self.endpoint.health {
            Health::Healthy => HealthFlags::default(),
            Health::Degraded => HealthFlags::DEGRADED_EDS_HEALTH,
            Health::Unhealthy => HealthFlags::FAILED_EDS_HEALTH,
            Health::Draining => HealthFlags::EDS_STATUS_DRAINING,
        };
        self.state.as_ref().map_or(eds, |state| state.flags().with(eds))
    }

    pub(super) fn standing(&self, ignore_new: bool) -> Standing {
        const FAILED: HealthFlags = HealthFlags::FAILED_ACTIVE_HC
            .with(HealthFlags::FAILED_OUTLIER_CHECK)
            .with(HealthFlags::FAILED_EDS_HEALTH)
            .with(HealthFlags::EDS_STATUS_DRAINING);
        const DEGRADED: HealthFlags = HealthFlags::DEGRADED_ACTIVE_HC.with(HealthFlags::DEGRADED_EDS_HEALTH);
        let flags = self.flags();
        match () {
            () if flags.is_empty() => Standing::Healthy,
            () if ignore_new && flags.contains(HealthFlags::PENDING_ACTIVE_HC) => Standing::Excluded,
            () if flags.contains(FAILED) => Standing::Unhealthy,
            () if flags.contains(DEGRADED) => Standing::Degraded,
            () => Standing::Healthy,
        }
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
        &self.pools
    }

    /// The connection that was used last, is still open and was made for the same, where that counts.
    pub(super) fn take_idle(&self, made_for: Option<&Arc<MadeFor>>) -> Option<(Box<h1::Stream>, ConnectionGuard)> {
        // An idle connection that the origin closed has an event waiting: asking needs no system call and no waker.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            let mut idle = self.pools.last(made_for)?;
            if idle.stream.is_open(&mut cx) {
                idle.stream.reused = true;
                return Some((idle.stream, idle.guard));
            }
            idle.guard.stats.upstream_cx_destroy_remote().inc();
        }
    }

    pub(super) fn put_idle(&self, stream: Box<h1::Stream>, guard: ConnectionGuard) {
        let mut idle = self.pools.idle.borrow_mut();
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { stream, guard, since: Instant::now() });
        drop(idle);
        self.pools.changed.notify_one();
    }

    /// Makes room for a connection; `false`: there is none yet.
    pub(super) fn close_oldest_idle(&self) -> bool {
        let oldest = self.pools.idle.borrow_mut().pop_front();
        if oldest.is_some() {
            return true;
        }
        let mut shared = self.pools.h2.borrow_mut();
        let unused = shared.iter().position(|connection| connection.streams.get() == 0);
        let unused = unused.map(|at| shared.remove(at));
        drop(shared);
        // Its task ends it, and notes that in the pools.
        drop(unused);
        false
    }

    /// Closes what isn't in use.
    pub(super) fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.pools.idle.borrow_mut());
        let shared = std::mem::take(&mut *self.pools.h2.borrow_mut());
        // Dropping them notes it in the pools.
        drop((idle, shared));
    }

    pub(super) fn sweep(&self, stats: &ClusterStats, options: &UpstreamHttpOptions, now: Instant) {
        let idle_for = options.idle_timeout.filter(|timeout| !timeout.is_zero());
        let old =
            |opened: Instant| options.max_connection_duration.is_some_and(|max| now.duration_since(opened) >= max);
        let mut closed = Vec::new();
        let mut idle = self.pools.idle.borrow_mut();
        while let Some(timeout) = idle_for
            && idle.front().is_some_and(|oldest| now.duration_since(oldest.since) >= timeout)
        {
            closed.extend(idle.pop_front());
            stats.upstream_cx_idle_timeout().inc();
        }
        if options.max_connection_duration.is_some() {
            while let Some(at) = idle.iter().position(|idle| old(idle.guard.opened)) {
                closed.extend(idle.remove(at));
                stats.upstream_cx_max_duration_reached().inc();
            }
        }
        // Those whose origin has closed: the newest are taken first, and nobody would come upon the others.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut at = 0;
        while let Some(connection) = idle.get_mut(at) {
            if connection.stream.is_open(&mut cx) {
                at += 1;
            } else {
                stats.upstream_cx_destroy_remote().inc();
                closed.extend(idle.remove(at));
            }
        }
        drop(idle);
        drop(closed);
        let mut gone = Vec::new();
        self.pools.h2.borrow_mut().retain(|connection| {
            let unused = connection.streams.get() == 0;
            let idle = idle_for.is_some_and(|timeout| now.duration_since(connection.idle_since.get()) >= timeout);
            let aged = old(connection.opened);
            if unused && aged {
                stats.upstream_cx_max_duration_reached().inc();
            }
            let keep = !connection.closed.get() && !(unused && (idle || aged));
            if !keep {
                gone.push(connection.clone());
            }
            keep
        });
    }

    /// The address of a connection to it whose peer is known, if it is no Unix socket.
    pub(crate) fn address_of(&self, remote: Option<SocketAddr>) -> EndpointAddress {
        remote.map_or_else(|| self.endpoint.address.clone(), EndpointAddress::Ip)
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
