//! Connecting to an endpoint: within the cluster's limits and time, with TLS on top and HTTP/2 where it is spoken.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{LbPolicy, RoutingPriority, UpstreamBind};
use outrigger_http::{EndpointAddress, UpstreamConnection};
use tokio::sync::oneshot;
use tokio::time::Instant;

use super::announce::MadeFor;
use super::breakers::{Breaker, Permit};
use super::endpoint::EndpointHandle;
use super::pools::{ConnectionGuard, H2Connection, Pools};
use super::preconnect::Purpose;
use super::{ClusterHandle, Outcome, PickKey, eyeballs, source};
use crate::error::{ErrorKind, StreamError};
use crate::socket::Socket;
use crate::stats::ClusterStats;
use crate::tls::Alpn;
use crate::transport::Transport;

impl ClusterHandle {
    /// A place among those that wait for a connection.
    pub(super) fn pending(&self, priority: RoutingPriority) -> Result<Pending, StreamError> {
        let permit = self.breakers.acquire(priority, Breaker::Pending).ok_or_else(|| {
            self.stats.upstream_rq_pending_overflow().inc();
            StreamError::upstream(ErrorKind::Overflow)
        })?;
        self.stats.upstream_rq_pending_active().inc();
        Ok(Pending { _permit: permit, stats: self.stats.clone() })
    }

    /// The right to connect; at the maximum of connections the wait for one that gets free. An endpoint without any
    /// connection may always have one, or its requests would wait for nobody.
    pub(super) async fn turn<T>(
        &self,
        endpoint: &Rc<EndpointHandle>,
        priority: RoutingPriority,
        free: impl Fn(&EndpointHandle) -> Option<T>,
    ) -> Result<Turn<T>, StreamError> {
        let pending = self.pending(priority)?;
        self.stats.upstream_rq_pending_total().inc();
        let mut overflown = false;
        loop {
            if let Some(permit) = self.breakers.acquire(priority, Breaker::Connections) {
                return Ok(Turn::Connect(ConnectPermit::new(endpoint, permit, Some(pending))));
            }
            if !std::mem::replace(&mut overflown, true) {
                self.stats.upstream_cx_overflow().inc();
            }
            if endpoint.counts.cx_active.get() + endpoint.counts.cx_connecting.get() == 0 {
                let permit = self.breakers.force(priority, Breaker::Connections);
                return Ok(Turn::Connect(ConnectPermit::new(endpoint, permit, Some(pending))));
            }
            // At the limit a pooled connection is better than none, even where a fresh one was asked for.
            if let Some(found) = free(endpoint) {
                // Somebody else may be waiting for what this one leaves.
                endpoint.pools().changed.notify_one();
                return Ok(Turn::Reuse(found));
            }
            // None that is free will do: they were made for others.
            if endpoint.pools().close_oldest_idle() {
                continue;
            }
            endpoint.pools().changed.notified().await;
        }
    }

    /// A connection, within the cluster's timeout.
    pub(super) async fn connect(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        permit: ConnectPermit,
        alpn: Alpn,
        made_for: Option<Arc<MadeFor>>,
    ) -> Result<(Transport, ConnectionGuard), StreamError> {
        let stats = &self.stats;
        stats.upstream_cx_total().inc();
        let counts = &endpoint.counts;
        counts.cx_total.set(counts.cx_total.get() + 1);
        if let Some(health) = &self.health {
            health.note_used();
        }
        let ConnectPermit { permit, pending, connecting: _connecting } = permit;
        let started = Instant::now();
        let connecting = async {
            let failure = |error: io::Error| format!("delayed connect error: {}", told(&error));
            let socket = dial(endpoint, self.cluster().bind.as_deref()).await.map_err(failure)?;
            keep_alive(&socket, self.cluster().tcp_keepalive);
            let mut transport = Transport::new(socket).map_err(failure)?;
            let (id, connect_start, connected) = (self.ids.next(), started.into_std(), transport.opened);
            transport.upstream = Some(UpstreamConnection { id, connect_start, connected });
            transport.made_for = made_for;
            self.announce(&mut transport, endpoint).await.map_err(failure)?;
            self.secure(&mut transport, endpoint, alpn).await?;
            Ok::<_, String>(transport)
        };
        let failed = |kind: ErrorKind, reason: Option<String>| {
            stats.upstream_cx_connect_fail().inc();
            if pending.is_some() {
                stats.upstream_rq_pending_failure_eject().inc();
            }
            counts.cx_connect_fail.set(counts.cx_connect_fail.get() + 1);
            self.report(endpoint, Outcome::Broken);
            self.observe(endpoint, started, true);
            let host_name = endpoint.host_name().cloned();
            let failed = FailedConnect { address: endpoint.endpoint.address.clone(), host_name, reason };
            *self.failed.borrow_mut() = Some(Rc::new(failed));
            StreamError::upstream(kind)
        };
        let transport = match tokio::time::timeout(self.cluster().connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(|reason| failed(ErrorKind::ConnectFailure, Some(reason)))?,
            Err(_) => {
                stats.upstream_cx_connect_timeout().inc();
                return Err(failed(ErrorKind::ConnectTimeout, None));
            }
        };
        self.report(endpoint, Outcome::Connected);
        stats.upstream_cx_connect_ms().record(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        stats.upstream_cx_active().inc();
        counts.cx_active.set(counts.cx_active.get() + 1);
        let guard = ConnectionGuard {
            _permit: permit,
            stats: stats.clone(),
            active: counts.cx_active.clone(),
            pools: endpoint.pools().clone(),
            opened: started,
        };
        Ok((transport, guard))
    }

    /// Notes how long an endpoint took, where latency decides.
    pub(super) fn observe(&self, endpoint: &EndpointHandle, since: Instant, failed: bool) {
        if let LbPolicy::PeakEwma(config) = &self.cluster().lb {
            let now = Instant::now();
            endpoint.latency.observe(config, now.duration_since(since), failed, now);
        }
    }

    /// A raw connection for `tcp_proxy`.
    pub(crate) async fn connect_raw(
        self: &Rc<Self>,
        key: &PickKey<'_>,
    ) -> Result<(Transport, ConnectionGuard, Rc<EndpointHandle>), StreamError> {
        let endpoint = self.pick(key).ok_or_else(|| {
            self.stats.upstream_cx_none_healthy().inc();
            StreamError::upstream(ErrorKind::NoHealthyUpstream)
        })?;
        let made_for = self.made_for(key, &endpoint);
        let purpose = Purpose { alpn: Alpn::None, priority: key.priority, made_for: made_for.as_ref() };
        self.preconnect_ahead(key, purpose.alpn);
        let ready = endpoint.pools().take_raw(purpose.made_for);
        let claim = if ready.is_none() { self.claim(&endpoint, purpose) } else { None };
        self.preconnect(&endpoint, purpose, ready.is_none() && claim.is_none());
        let ready = match ready {
            Some(ready) => Some(ready),
            None => self.claimed(claim, key.priority).await?,
        };
        let nothing = |_: &EndpointHandle| None::<std::convert::Infallible>;
        let (transport, guard) = match ready {
            Some(ready) => ready,
            None => match self.turn(&endpoint, key.priority, nothing).await? {
                Turn::Connect(permit) => self.connect(&endpoint, permit, purpose.alpn, made_for).await?,
                Turn::Reuse(never) => match never {},
            },
        };
        self.report(&endpoint, Outcome::ConnectedFinally);
        Ok((transport, guard, endpoint))
    }

    /// Begins HTTP/2 on a connection, for all requests to come.
    pub(super) async fn start_h2(
        &self,
        endpoint: &Rc<EndpointHandle>,
        transport: Transport,
        guard: ConnectionGuard,
    ) -> Result<Rc<H2Connection>, StreamError> {
        self.stats.upstream_cx_http2_total().inc();
        let made_for = transport.made_for.clone();
        let (addresses, tls) = ((transport.remote, transport.local), transport.tls().cloned());
        let upstream = transport.upstream;
        let options = self.cluster().http.http2;
        let handshake = ::h2::client::Builder::new()
            .initial_window_size(options.initial_stream_window_bytes)
            .initial_connection_window_size(options.initial_connection_window_bytes)
            .max_concurrent_streams(0)
            .enable_push(false)
            .max_header_list_size(60 * 1024)
            .handshake(transport.into_prefixed());
        let failed = |_| StreamError::upstream(ErrorKind::Protocol);
        let (sender, mut driver) = tokio::time::timeout(self.cluster().connect_timeout, handshake)
            .await
            .map_err(|_| StreamError::upstream(ErrorKind::ConnectTimeout))?
            .map_err(failed)?;
        let closed = Rc::new(Cell::new(false));
        let (held, let_go) = oneshot::channel();
        let connection = Rc::new(H2Connection {
            sender,
            streams: Cell::new(0),
            streams_total: Cell::new(0),
            closed: closed.clone(),
            idle_since: Cell::new(Instant::now()),
            opened: guard.opened,
            addresses,
            tls,
            upstream,
            made_for,
            pools: endpoint.pools().clone(),
            _held: held,
        });
        // The task lives as long as the connection, which the pool and its streams hold, and as its last words take.
        let ping = options.keepalive.and_then(|keepalive| Some((keepalive, driver.ping_pong()?)));
        let stats = self.stats.clone();
        tokio::task::spawn_local(async move {
            let mut driven = std::pin::pin!(async move {
                match ping {
                    None => _ = driver.await,
                    Some((keepalive, ping)) => tokio::select! {
                        _ = driver => {}
                        () = crate::http2::keep_alive(keepalive, ping) => stats.inc_rare("http2.keepalive_timeout"),
                    },
                }
            });
            tokio::select! {
                () = &mut driven => {}
                // A server that doesn't read keeps them from going out.
                _ = let_go => {
                    _ = tokio::time::timeout(FAREWELL_MAX, driven).await;
                }
            }
            closed.set(true);
            drop(guard);
        });
        endpoint.pools().share(&connection);
        Ok(connection)
    }
}

/// What a shared connection that nobody uses any more has left for its last frames.
const FAREWELL_MAX: Duration = Duration::from_secs(5);

fn keep_alive(socket: &Socket, options: Option<(u32, u32, u32)>) {
    let Some((idle, interval, probes)) = options else { return };
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(Duration::from_secs(idle.into()))
        .with_interval(Duration::from_secs(interval.into()))
        .with_retries(probes);
    _ = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

/// The right of one to connect; the others wait until it is given back.
#[derive(Debug)]
pub(super) struct Alone(Rc<Pools>);

impl Alone {
    pub(super) fn take(pools: &Rc<Pools>) -> Alone {
        pools.connecting.set(true);
        Alone(pools.clone())
    }

    /// Those who wait needn't try for themselves.
    pub(super) fn fail(&self, failure: Failure) {
        self.0.failures.set(self.0.failures.get() + 1);
        *self.0.failed.borrow_mut() = Some(failure);
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.shared.notify_waiters();
    }
}

/// What a request that waited has got.
pub(super) enum Turn<T> {
    Connect(ConnectPermit),
    Reuse(T),
}

/// A request that waits for a connection, as the breaker and the statistics count it.
#[derive(Debug)]
pub(super) struct Pending {
    _permit: Permit,
    stats: Rc<ClusterStats>,
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.stats.upstream_rq_pending_active().dec();
    }
}

/// A connection within the limits, and a place among the waiting while it is made; `None`: nobody waits.
#[derive(Debug)]
pub(super) struct ConnectPermit {
    permit: Permit,
    pending: Option<Pending>,
    connecting: Connecting,
}

impl ConnectPermit {
    pub(super) fn new(endpoint: &Rc<EndpointHandle>, permit: Permit, pending: Option<Pending>) -> ConnectPermit {
        ConnectPermit { permit, pending, connecting: Connecting::new(endpoint) }
    }
}

/// A connection that is being made, as its endpoint counts it.
#[derive(Debug)]
struct Connecting(Rc<EndpointHandle>);

impl Connecting {
    fn new(endpoint: &Rc<EndpointHandle>) -> Connecting {
        let connecting = &endpoint.counts.cx_connecting;
        connecting.set(connecting.get() + 1);
        Connecting(endpoint.clone())
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        let connecting = &self.0.counts.cx_connecting;
        connecting.set(connecting.get().saturating_sub(1));
        self.0.pools().changed.notify_one();
    }
}

/// What those are told who wait for a connection that isn't made.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Whoever wants a connection for somebody else tries for himself.
    pub(super) made_for: Option<Arc<MadeFor>>,
    pub(super) error: StreamError,
    pub(super) connect: Option<Rc<FailedConnect>>,
}

/// Where a connection wasn't made, and why.
#[derive(Debug)]
pub(crate) struct FailedConnect {
    pub(crate) address: EndpointAddress,
    pub(crate) host_name: Option<Arc<str>>,
    pub(crate) reason: Option<String>,
}

/// What the system calls an error, without its number.
fn told(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

/// A socket to an endpoint, by the first of its addresses that answers.
async fn dial(endpoint: &EndpointHandle, bind: Option<&UpstreamBind>) -> io::Result<Socket> {
    let endpoint = &endpoint.endpoint;
    let EndpointAddress::Ip(first) = endpoint.address else { return Socket::connect(&endpoint.address).await };
    let connected = if endpoint.additional_addresses.is_empty() {
        source::connect(first, bind).await
    } else {
        let order = eyeballs::order(first, &endpoint.additional_addresses);
        eyeballs::race(&order, |address| source::connect(address, bind)).await
    };
    connected.map(Socket::from)
}
