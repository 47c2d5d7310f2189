//! From an endpoint to a stream on one of its connections: out of a pool, or by connecting.

use std::cell::Cell;
use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;

use outrigger_config::{Protocol, RoutingPriority, UpstreamHttpOptions};
use outrigger_http::{ResponseFlags, Version};
use tokio::net::TcpStream;
use tokio::time::Instant;

use super::ClusterHandle;
use super::PickKey;
use super::breakers::{Breaker, Permit, RetryGuard};
use super::endpoint::{ConnectionGuard, EndpointHandle, H2Connection, Pools};
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
            told.set(Some((endpoint.endpoint.address, endpoint.priority)));
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
            return self.checkout_h2(endpoint, request, key.priority);
        }
        let priority = key.priority;
        match if key.fresh { None } else { endpoint.take_idle() } {
            Some((stream, guard)) => {
                Checkout::Ready(Box::new(self.picked(Upstream::H1(stream), endpoint, Some(guard), request, None)))
            }
            None => {
                let cluster = self.clone();
                Checkout::Connecting(Box::pin(async move {
                    let (transport, guard) = cluster.connect(&endpoint, priority, Alpn::Http1).await?;
                    cluster.stats.upstream_cx_http1_total().inc();
                    let stream = Box::new(h1::Stream::new(transport, cluster.cluster().http.http1.enable_trailers));
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
        Picked { stream, cluster: self.clone(), endpoint, connection, _request: request, _shared: shared }
    }

    fn checkout_h2(
        self: &Rc<Self>,
        endpoint: Rc<EndpointHandle>,
        request: RequestGuard,
        priority: RoutingPriority,
    ) -> Checkout {
        let cluster = self.clone();
        Checkout::Connecting(Box::pin(async move {
            let (connection, reused) = cluster.shared_h2(&endpoint, priority).await?;
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
    ) -> Result<(Rc<H2Connection>, bool), StreamError> {
        let pools = endpoint.pools().clone();
        loop {
            let known = pools.h2.borrow().iter().find(|connection| usable(connection, &self.cluster().http)).cloned();
            if let Some(connection) = known {
                return Ok((connection, true));
            }
            if pools.connecting.get() {
                let _pending = self.breakers.acquire(priority, Breaker::Pending).ok_or_else(|| {
                    self.stats.upstream_rq_pending_overflow().inc();
                    StreamError::upstream(ErrorKind::Overflow)
                })?;
                pools.connected.notified().await;
                continue;
            }
            let _turn = Turn::take(&pools);
            return Ok((self.connect_h2(endpoint, priority).await?, false));
        }
    }

    /// A TCP connection, within the cluster's timeout and limits.
    async fn connect(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        priority: RoutingPriority,
        alpn: Alpn,
    ) -> Result<(Transport, ConnectionGuard), StreamError> {
        let stats = &self.stats;
        let overflow = || {
            stats.upstream_rq_pending_overflow().inc();
            StreamError::upstream(ErrorKind::Overflow)
        };
        let _pending = self.breakers.acquire(priority, Breaker::Pending).ok_or_else(overflow)?;
        let permit = self.breakers.acquire(priority, Breaker::Connections).ok_or_else(|| {
            stats.upstream_cx_overflow().inc();
            overflow()
        })?;
        stats.upstream_rq_pending_total().inc();
        stats.upstream_cx_total().inc();
        let counts = &endpoint.counts;
        counts.cx_total.set(counts.cx_total.get() + 1);
        let started = Instant::now();
        let connecting = async {
            let failure = |_| StreamError::upstream(ErrorKind::ConnectFailure);
            let socket = TcpStream::connect(endpoint.endpoint.address).await.map_err(failure)?;
            keep_alive(&socket, self.cluster().tcp_keepalive);
            let mut transport = Transport::new(socket).map_err(failure)?;
            self.secure(&mut transport, endpoint, alpn).await?;
            Ok(transport)
        };
        let failed = |error| {
            stats.upstream_cx_connect_fail().inc();
            counts.cx_connect_fail.set(counts.cx_connect_fail.get() + 1);
            error
        };
        let transport = match tokio::time::timeout(self.cluster().connect_timeout, connecting).await {
            Ok(connected) => connected.map_err(failed)?,
            Err(_) => {
                stats.upstream_cx_connect_timeout().inc();
                return Err(failed(StreamError::upstream(ErrorKind::ConnectTimeout)));
            }
        };
        stats.upstream_cx_connect_ms().record(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
        stats.upstream_cx_active().inc();
        counts.cx_active.set(counts.cx_active.get() + 1);
        let guard = ConnectionGuard { _permit: permit, stats: stats.clone(), active: counts.cx_active.clone() };
        Ok((transport, guard))
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
        let (transport, guard) = self.connect(&endpoint, key.priority, Alpn::None).await?;
        Ok((transport, guard, endpoint))
    }

    async fn connect_h2(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        priority: RoutingPriority,
    ) -> Result<Rc<H2Connection>, StreamError> {
        let (transport, guard) = self.connect(endpoint, priority, Alpn::Http2).await?;
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
        let (sender, driver) = tokio::time::timeout(self.cluster().connect_timeout, handshake)
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
            addresses,
            tls,
        });
        // The task lives as long as the connection, which the pool and its streams hold.
        tokio::task::spawn_local(async move {
            _ = driver.await;
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
    }
}

/// The right to connect; the others wait until it is given back.
struct Turn(Rc<Pools>);

impl Turn {
    fn take(pools: &Rc<Pools>) -> Turn {
        pools.connecting.set(true);
        Turn(pools.clone())
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.connecting.set(false);
        self.0.connected.notify_waiters();
    }
}

impl Picked {
    /// The exchange is complete: what can serve again goes back to its pool.
    pub(crate) fn finish(self) {
        let max = self.cluster.cluster().http.max_requests_per_connection;
        let Picked { stream, endpoint, connection, .. } = self;
        if let (Upstream::H1(stream), Some(guard)) = (stream, connection)
            && stream.reusable()
            && max.is_none_or(|max| stream.requests < max)
        {
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
        let errors = &self.endpoint.counts.rq_error;
        errors.set(errors.get() + 1);
        self.cluster.stats.retried(status);
    }

    /// Counts an answer by its status.
    pub(crate) fn count_status(&self, status: u16) {
        self.cluster.stats.response(status);
        self.cluster.stats.response_code(status);
    }
}
