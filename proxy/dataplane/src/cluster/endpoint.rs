//! An endpoint with its connections.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::Context;
use std::time::Duration;

use bytes::Bytes;
use h2::client::SendRequest;
use outrigger_config::{Endpoint, Health, Locality};
use outrigger_http::TlsInfo;
use tokio::time::Instant;

use super::breakers::Permit;
use crate::stats::ClusterStats;
use crate::upstream::h1;

/// Idle HTTP/1 connections that one worker keeps for one endpoint.
const IDLE_MAX: usize = 1024;

/// A worker's state of an endpoint.
#[derive(Debug)]
pub(crate) struct EndpointHandle {
    pub(crate) endpoint: Endpoint,
    pub(crate) priority: u32,
    /// In a locality whose weight is 0.
    pub(crate) excluded: bool,
    locality: (String, String, String),
    /// The same for properties; `None`: it has no name.
    pub(crate) locality_names: Option<Arc<[String; 3]>>,
    pub(crate) active: Cell<u32>,
    pub(crate) counts: Counts,
    pools: Rc<Pools>,
}

/// The connections to an address: they outlive a change of the endpoint's weight or health.
#[derive(Debug, Default)]
pub(super) struct Pools {
    idle: RefCell<VecDeque<Idle>>,
    pub(super) h2: RefCell<Vec<Rc<H2Connection>>>,
    /// Somebody is making an HTTP/2 connection.
    pub(super) connecting: Cell<bool>,
    pub(super) connected: tokio::sync::Notify,
}

/// Envoy's counters of a host.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) cx_active: Rc<Cell<u64>>,
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
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.stats.upstream_cx_active().dec();
        self.stats.upstream_cx_destroy().inc();
        self.active.set(self.active.get().saturating_sub(1));
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
    pub(super) addresses: (Option<SocketAddr>, Option<SocketAddr>),
    pub(super) tls: Option<Arc<TlsInfo>>,
}

fn locality_is_named((region, zone, sub_zone): &(String, String, String)) -> bool {
    !(region.is_empty() && zone.is_empty() && sub_zone.is_empty())
}

impl EndpointHandle {
    pub(super) fn build(
        endpoint: &Endpoint,
        locality: &Locality,
        known: Option<&Rc<EndpointHandle>>,
    ) -> Rc<EndpointHandle> {
        let names = (locality.region.clone(), locality.zone.clone(), locality.sub_zone.clone());
        let excluded = locality.weight == Some(0);
        if let Some(known) = known
            && known.endpoint == *endpoint
            && (known.priority, known.excluded, &known.locality) == (locality.priority, excluded, &names)
        {
            return known.clone();
        }
        Rc::new(EndpointHandle {
            endpoint: endpoint.clone(),
            priority: locality.priority,
            excluded,
            locality_names: locality_is_named(&names)
                .then(|| Arc::new([names.0.clone(), names.1.clone(), names.2.clone()])),
            locality: names,
            active: Cell::new(0),
            counts: Counts::default(),
            pools: known.map(|known| known.pools.clone()).unwrap_or_default(),
        })
    }

    pub(super) fn pools(&self) -> &Rc<Pools> {
        &self.pools
    }

    /// The connection that was used last and is still open.
    pub(super) fn take_idle(&self) -> Option<(Box<h1::Stream>, ConnectionGuard)> {
        // An idle connection that the origin closed has an event waiting: asking needs no system call and no waker.
        let mut cx = Context::from_waker(std::task::Waker::noop());
        loop {
            let mut idle = self.pools.idle.borrow_mut().pop_back()?;
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
    }

    pub(super) fn sweep(&self, stats: &ClusterStats, idle_timeout: Option<Duration>, now: Instant) {
        let Some(timeout) = idle_timeout.filter(|timeout| !timeout.is_zero()) else { return };
        let mut idle = self.pools.idle.borrow_mut();
        while idle.front().is_some_and(|oldest| now.duration_since(oldest.since) >= timeout) {
            idle.pop_front();
            stats.upstream_cx_idle_timeout().inc();
        }
        self.pools.h2.borrow_mut().retain(|connection| {
            let idle = connection.streams.get() == 0 && now.duration_since(connection.idle_since.get()) >= timeout;
            !connection.closed.get() && !idle
        });
    }

    pub(super) fn status(&self) -> EndpointStatus {
        let counts = &self.counts;
        EndpointStatus {
            address: self.endpoint.address,
            hostname: self.endpoint.hostname.clone(),
            health: self.endpoint.health,
            weight: self.endpoint.weight,
            priority: self.priority,
            locality: self.locality.clone(),
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
    pub address: SocketAddr,
    pub hostname: Arc<str>,
    pub health: Health,
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
    pub(crate) fn unused(endpoint: &Endpoint, locality: &Locality) -> EndpointStatus {
        EndpointHandle::build(endpoint, locality, None).status()
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
