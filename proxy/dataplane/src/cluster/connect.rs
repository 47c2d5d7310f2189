//! From an endpoint to a stream on one of its connections: out of a pool, or by connecting.

use std::cell::Cell;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{LbPolicy, Protocol, RoutingPriority, UpstreamBind, UpstreamHttpOptions};
use outrigger_http::{ResponseFlags, Version};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::breakers::{Breaker, Permit, RetryGuard};
use super::endpoint::{ConnectionGuard, EndpointHandle, H2Connection, Pools};
use super::{ClusterHandle, Outcome, PickKey, eyeballs, source};
use crate::error::{ErrorKind, StreamError};
use crate::tls::Alpn;
use crate::transport::Transport;
use crate::upstream::{Upstream, h1, h2};

/// A stream with what it holds of its endpoint and cluster; everything is given back when it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) stream: Upstream,
    pub(crate) cluster: Rc<ClusterHandle>,
    pub(crate) endpoint: Rc<EndpointHandle>,
    connection: Option<ConnectionGuard>,
    /// When it was chosen, where latency decides.
    since: Option<Instant>,
    _request: RequestGuard,
    _shared: Option<StreamCount>,
}

/// An active request of an endpoint.
#[derive(Debug)]
struct RequestGuard {
    cluster: Rc<ClusterHandle>,
    endpoint: Rc<EndpointHandle>,
    _permit: Permit,
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.endpoint.active.set(self.endpoint.active.get().saturating_sub(1));
        self.cluster.stats.upstream_rq_active().dec();
    }
}

/// A stream, or the way to one.
pub(crate) enum Checkout {
    Ready(Box<Picked>),
    Connecting(Pin<Box<dyn Future<Output = Result<Box<Picked>, StreamError>>>>),
    Failed(StreamError),
}

impl std::fmt::Debug for Checkout {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Checkout")
    }
}

impl ClusterHandle {
    /// A stream for a request that came by `downstream`.
    pub(crate) fn checkout(self: &Rc<Self>, key: &PickKey<'_>, downstream: Version) -> Checkout {
        let Some(endpoint) = self.pick(key) else {
            self.stats.upstream_cx_none_healthy().inc();
            return Checkout::Failed(StreamError::upstream(ErrorKind::NoHealthyUpstream));
        };
        if let Some(told) = key.told {
            told.set(Some((endpoint.endpoint.address, endpoint.priority())));
        }
        let Some(permit) = self.breakers.acquire(key.priority, Breaker::Requests) else {
            self.stats.upstream_rq_pending_overflow().inc();
            return Checkout::Failed(StreamError::upstream(ErrorKind::Overflow));
        };
        self.stats.upstream_rq_total().inc();
        self.stats.upstream_rq_active().inc();
        endpoint.active.set(endpoint.active.get() + 1);
        endpoint.counts.rq_total.set(endpoint.counts.rq_total.get() + 1);
        let request = RequestGuard { cluster: self.clone(), endpoint: endpoint.clone(), _permit: permit };
        let http2 = match self.cluster().http.protocol {
            Protocol::Http1 => false,
            Protocol::Http2 => true,
            Protocol::Downstream => downstream == Version::Http2,
        };
        if http2 {
            return self.checkout_h2(endpoint, request, key);
        }
        let priority = key.priority;
        match if key.fresh { None } else { endpoint.take_idle(key.server_name) } {
            Some((stream, guard)) => {
                Checkout::Ready(Box::new(self.picked(Upstream::H1(stream), endpoint, Some(guard), request, None)))
            }
            None => {
                let (cluster, made_for) = (self.clone(), key.server_name.cloned());
                Checkout::Connecting(Box::pin(async move {
                    let free = |endpoint: &EndpointHandle| endpoint.take_idle(made_for.as_ref());
                    let (stream, guard) = match cluster.turn(&endpoint, priority, free).await? {
                        Turn::Connect(permit) => {
                            let (transport, guard) =
                                cluster.connect(&endpoint, permit, Alpn::Http1, made_for.clone()).await?;
                            cluster.stats.upstream_cx_http1_total().inc();
                            let trailers = cluster.cluster().http.http1.enable_trailers;
                            (Box::new(h1::Stream::new(transport, trailers)), guard)
                        }
                        Turn::Reuse(idle) => idle,
                    };
                    Ok(Box::new(cluster.picked(Upstream::H1(stream), endpoint, Some(guard), request, None)))
                }))
            }
        }
    }

    /// The right to send a request once more; `None`: the breaker's maximum or the budget is reached.
    pub(crate) fn retry(&self, priority: RoutingPriority) -> Option<RetryGuard> {
        let guard = self.breakers.acquire_retry(priority);
        if guard.is_none() {
            self.stats.upstream_rq_retry_overflow().inc();
        }
        guard
    }

    fn picked(
        self: &Rc<Self>,
        stream: Upstream,
        endpoint: Rc<EndpointHandle>,
        connection: Option<ConnectionGuard>,
        request: RequestGuard,
        shared: Option<StreamCount>,
    ) -> Picked {
        let since = matches!(self.cluster().lb, LbPolicy::PeakEwma(_)).then(Instant::now);
        Picked { stream, cluster: self.clone(), endpoint, connection, since, _request: request, _shared: shared }
    }

    fn checkout_h2(
        self: &Rc<Self>,
        endpoint: Rc<EndpointHandle>,
        request: RequestGuard,
        key: &PickKey<'_>,
    ) -> Checkout {
        let (cluster, priority, made_for) = (self.clone(), key.priority, key.server_name.cloned());
        Checkout::Connecting(Box::pin(async move {
            let (connection, reused) = cluster.shared_h2(&endpoint, priority, made_for.as_ref()).await?;
            let count = StreamCount::new(&connection);
            let sender = connection.sender.clone().ready().await.map_err(|_| {
                connection.closed.set(true);
                StreamError::upstream(ErrorKind::Terminated)
            })?;
            let (remote, local) = connection.addresses;
            let stream = h2::Stream::new(sender, reused, (remote, local), connection.tls.clone());
            let stream = Upstream::H2(Box::new(stream));
            Ok(Box::new(cluster.picked(stream, endpoint, None, request, Some(count))))
        }))
    }

    /// A connection with room for a stream: one that is there, or one that is made, by one request for all that wait.
    async fn shared_h2(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        priority: RoutingPriority,
        made_for: Option<&Arc<str>>,
    ) -> Result<(Rc<H2Connection>, bool), StreamError> {
        let pools = endpoint.pools().clone();
        let room = |endpoint: &EndpointHandle| {
            let fits = |connection: &&Rc<H2Connection>| {
                usable(connection, &self.cluster().http) && connection.made_for.as_ref() == made_for
            };
            endpoint.pools().h2.borrow().iter().find(fits).cloned()
        };
        loop {
            let known = room(endpoint);
            if let Some(connection) = known {
                return Ok((connection, true));
            }
            if pools.connecting.get() {
                let _pending = self.pending(priority)?;
                pools.changed.notified().await;
                continue;
            }
            let _alone = Alone::take(&pools);
            return match self.turn(endpoint, priority, room).await? {
                Turn::Reuse(connection) => Ok((connection, true)),
                Turn::Connect(permit) => Ok((self.connect_h2(endpoint, permit, made_for).await?, false)),
            };
        }
    }

    /// A place among those that wait for a connection.
    fn pending(&self, priority: RoutingPriority) -> Result<Permit, StreamError> {
        self.breakers.acquire(priority, Breaker::Pending).ok_or_else(|| {
            self.stats.upstream_rq_pending_overflow().inc();
            StreamError::upstream(ErrorKind::Overflow)
        })
    }

    /// The right to connect; at the maximum of connections the wait for one that gets free. An endpoint without any
    /// connection may always have one, or its requests would wait for nobody.
    async fn turn<T>(
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
                return Ok(Turn::Connect(ConnectPermit { permit, _pending: pending }));
            }
            if !std::mem::replace(&mut overflown, true) {
                self.stats.upstream_cx_overflow().inc();
            }
            if endpoint.counts.cx_active.get() + endpoint.counts.cx_connecting.get() == 0 {
                let permit = self.breakers.force(priority, Breaker::Connections);
                return Ok(Turn::Connect(ConnectPermit { permit, _pending: pending }));
            }
            // At the limit a pooled connection is better than none, even where a fresh one was asked for.
            if let Some(found) = free(endpoint) {
                // Somebody else may be waiting for what this one leaves.
                endpoint.pools().changed.notify_one();
                return Ok(Turn::Reuse(found));
            }
            endpoint.pools().changed.notified().await;
        }
    }

    /// A connection, within the cluster's timeout.
    async fn connect(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        permit: ConnectPermit,
        alpn: Alpn,
        made_for: Option<Arc<str>>,
    ) -> Result<(Transport, ConnectionGuard), StreamError> {
        let stats = &self.stats;
        stats.upstream_cx_total().inc();
        let counts = &endpoint.counts;
        counts.cx_total.set(counts.cx_total.get() + 1);
        if let Some(health) = &self.health {
            health.note_used();
        }
        let _connecting = Connecting::new(endpoint);
        let started = Instant::now();
        let connecting = async {
            let failure = |_| StreamError::upstream(ErrorKind::ConnectFailure);
            let socket = dial(endpoint, self.cluster().bind.as_deref()).await.map_err(failure)?;
            keep_alive(&socket, self.cluster().tcp_keepalive);
            let mut transport = Transport::new(socket).map_err(failure)?;
            transport.made_for = made_for;
            self.secure(&mut transport, endpoint, alpn).await?;
            Ok(transport)
        };
        let failed = |error: StreamError| {
            stats.upstream_cx_connect_fail().inc();
            counts.cx_connect_fail.set(counts.cx_connect_fail.get() + 1);
            self.report(endpoint, Outcome::Broken);
            self.observe(endpoint, started, true);
            error
        };
        let transport = match tokio::time::timeout(self.cluster().connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => {
                stats.upstream_cx_connect_timeout().inc();
                return Err(failed(StreamError::upstream(ErrorKind::ConnectTimeout)));
            }
        };
        self.report(endpoint, Outcome::Connected);
        stats.upstream_cx_connect_ms().record(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        stats.upstream_cx_active().inc();
        counts.cx_active.set(counts.cx_active.get() + 1);
        let guard = ConnectionGuard {
            _permit: permit.permit,
            stats: stats.clone(),
            active: counts.cx_active.clone(),
            pools: endpoint.pools().clone(),
            opened: started,
        };
        Ok((transport, guard))
    }

    /// Notes how long an endpoint took, where latency decides.
    fn observe(&self, endpoint: &EndpointHandle, since: Instant, failed: bool) {
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
        let nothing = |_: &EndpointHandle| None::<std::convert::Infallible>;
        let (transport, guard) = match self.turn(&endpoint, key.priority, nothing).await? {
            Turn::Connect(permit) => self.connect(&endpoint, permit, Alpn::None, None).await?,
            Turn::Reuse(never) => match never {},
        };
        self.report(&endpoint, Outcome::ConnectedFinally);
        Ok((transport, guard, endpoint))
    }

    async fn connect_h2(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        permit: ConnectPermit,
        made_for: Option<&Arc<str>>,
    ) -> Result<Rc<H2Connection>, StreamError> {
        let (transport, guard) = self.connect(endpoint, permit, Alpn::Http2, made_for.cloned()).await?;
        self.stats.upstream_cx_http2_total().inc();
        let (addresses, tls) = ((transport.remote, transport.local), transport.tls().cloned());
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
        let connection = Rc::new(H2Connection {
            sender,
            streams: Cell::new(0),
            streams_total: Cell::new(0),
            closed: closed.clone(),
            idle_since: Cell::new(Instant::now()),
            opened: guard.opened,
            addresses,
            tls,
            made_for: made_for.cloned(),
            pools: endpoint.pools().clone(),
        });
        // The task lives as long as the connection, which the pool and its streams hold.
        let ping = options.keepalive.and_then(|keepalive| Some((keepalive, driver.ping_pong()?)));
        let stats = self.stats.clone();
        tokio::task::spawn_local(async move {
            match ping {
                None => _ = driver.await,
                Some((keepalive, ping)) => tokio::select! {
                    _ = driver => {}
                    () = crate::http2::keep_alive(keepalive, ping) => stats.count_keepalive_timeout(),
                },
            }
            closed.set(true);
            drop(guard);
        });
        endpoint.pools().h2.borrow_mut().push(connection.clone());
        Ok(connection)
    }
}

fn keep_alive(socket: &TcpStream, options: Option<(u32, u32, u32)>) {
    let Some((idle, interval, probes)) = options else { return };
    let keepalive = socket2::TcpKeepalive::new()
        .with_time(std::time::Duration::from_secs(idle.into()))
        .with_interval(std::time::Duration::from_secs(interval.into()))
        .with_retries(probes);
    _ = socket2::SockRef::from(socket).set_tcp_keepalive(&keepalive);
}

fn usable(connection: &Rc<H2Connection>, options: &UpstreamHttpOptions) -> bool {
    let max = options
        .http2
        .max_concurrent_streams
        .min(u32::try_from(connection.sender.current_max_send_streams()).unwrap_or(u32::MAX));
    !connection.closed.get()
        && connection.streams.get() < max
        && options.max_connection_duration.is_none_or(|max| connection.opened.elapsed() < max)
        && options.max_requests_per_connection.is_none_or(|max| connection.streams_total.get() < max)
}

/// One stream of a shared connection.
#[derive(Debug)]
struct StreamCount(Rc<H2Connection>);

impl StreamCount {
    fn new(connection: &Rc<H2Connection>) -> StreamCount {
        connection.streams.set(connection.streams.get() + 1);
        connection.streams_total.set(connection.streams_total.get() + 1);
        StreamCount(connection.clone())
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.idle_since.set(Instant::now());
        self.0.pools.changed.notify_one();
    }
}

/// The right of one to connect; the others wait until it is given back.
struct Alone(Rc<Pools>);

impl Alone {
    fn take(pools: &Rc<Pools>) -> Alone {
        pools.connecting.set(true);
        Alone(pools.clone())
    }
}

impl Drop for Alone {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.changed.notify_waiters();
    }
}

/// What a request that waited has got.
enum Turn<T> {
    Connect(ConnectPermit),
    Reuse(T),
}

/// A connection within the limits, and a place among the waiting while it is made.
struct ConnectPermit {
    permit: Permit,
    _pending: Permit,
}

/// A connection that is being made, as its endpoint counts it.
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

/// A socket to an endpoint, by the first of its addresses that answers.
async fn dial(endpoint: &EndpointHandle, bind: Option<&UpstreamBind>) -> io::Result<TcpStream> {
    if endpoint.endpoint.additional_addresses.is_empty() {
        return source::connect(endpoint.endpoint.address, bind).await;
    }
    eyeballs::race(&eyeballs::order(&endpoint.endpoint), |address| source::connect(address, bind)).await
}

impl Picked {
    /// The exchange is complete: what can serve again goes back to its pool.
    pub(crate) fn finish(self) {
        let Picked { stream, endpoint, connection, cluster, .. } = self;
        let (Upstream::H1(stream), Some(guard)) = (stream, connection) else { return };
        let http = &cluster.cluster().http;
        if !stream.reusable() {
            return;
        }
        if http.max_requests_per_connection.is_some_and(|max| stream.requests >= max) {
            cluster.stats.upstream_cx_max_requests().inc();
        } else if http.max_connection_duration.is_some_and(|max| guard.opened.elapsed() >= max) {
            cluster.stats.upstream_cx_max_duration_reached().inc();
        } else {
            endpoint.put_idle(stream, guard);
        }
    }

    /// Counts the outcome for the endpoint and the cluster.
    pub(crate) fn record(&self, status: u16, flags: ResponseFlags) {
        let counts = &self.endpoint.counts;
        if flags.contains(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT) {
            counts.rq_timeout.set(counts.rq_timeout.get() + 1);
        }
        let cell = if status >= 500 { &counts.rq_error } else { &counts.rq_success };
        cell.set(cell.get() + 1);
        self.cluster.stats.upstream_rq_completed().inc();
    }

    /// Counts an answer that is dropped for a retry.
    pub(crate) fn count_retried(&self, status: u16) {
        self.outcome(Outcome::Status(status), status >= 500);
        let errors = &self.endpoint.counts.rq_error;
        errors.set(errors.get() + 1);
        self.cluster.stats.retried(status);
    }

    /// Counts an answer by its status.
    pub(crate) fn count_status(&self, status: u16) {
        self.outcome(Outcome::Status(status), status >= 500);
        self.count_answer(status);
    }

    /// Counts that the endpoint gave no answer, and what the client is told instead.
    pub(crate) fn count_failure(&self, status: u16) {
        let outcome = if status == 504 { Outcome::TimedOut } else { Outcome::Broken };
        self.outcome(outcome, true);
        self.count_answer(status);
    }

    /// Tells outlier detection and latency what became of this try.
    pub(crate) fn outcome(&self, outcome: Outcome, failed: bool) {
        self.cluster.report(&self.endpoint, outcome);
        if let Some(since) = self.since {
            self.cluster.observe(&self.endpoint, since, failed);
        }
    }

    fn count_answer(&self, status: u16) {
        self.cluster.stats.response(status);
        self.cluster.stats.response_code(status);
    }
}
