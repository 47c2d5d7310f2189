//! From an endpoint to a stream on one of its connections: out of a pool, or by connecting.

use std::future::Future;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{LbPolicy, Protocol, RoutingPriority, UpstreamHttpOptions};
use outrigger_http::Version;
use tokio::time::Instant;

use super::announce::MadeFor;
use super::breakers::{Breaker, RetryGuard};
use super::connect::{Alone, ConnectPermit, Failure, Turn};
use super::endpoint::EndpointHandle;
use super::picked::{Picked, RequestGuard, StreamCount};
use super::pools::{ConnectionGuard, H2Connection, Pools};
use super::preconnect::Purpose;
use super::{ClusterHandle, PickKey};
use crate::error::{ErrorKind, StreamError};
use crate::tls::Alpn;
use crate::transport::Transport;
use crate::upstream::{Upstream, h1, h2};

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

/// A connection whose server has chosen its protocol.
#[derive(Debug)]
pub(super) enum Connected {
    H1(Box<h1::Stream>, ConnectionGuard),
    H2(Rc<H2Connection>),
}

impl ClusterHandle {
    /// A stream for a request that came by `downstream`.
    pub(crate) fn checkout(self: &Rc<Self>, key: &PickKey<'_>, downstream: Version) -> Checkout {
        let Some(endpoint) = self.pick(key) else {
            self.stats.upstream_cx_none_healthy().inc();
            return Checkout::Failed(StreamError::upstream(ErrorKind::NoHealthyUpstream));
        };
        if let Some(told) = key.told {
            // Nobody else tells it.
            _ = told.set((endpoint.endpoint.address.clone(), endpoint.priority()));
        }
        let Some(permit) = self.breakers.acquire(key.priority, Breaker::Requests) else {
            self.stats.upstream_rq_active_overflow().inc();
            return Checkout::Failed(StreamError::upstream(ErrorKind::Overflow));
        };
        let alpn = match self.cluster().http.protocol {
            Protocol::Http1 => Alpn::Http1,
            Protocol::Alpn if key.upgrade => Alpn::Http1,
            Protocol::Http2 if key.upgrade => {
                return Checkout::Failed(StreamError::internal(ErrorKind::UpgradeForbidden));
            }
            Protocol::Http2 => Alpn::Http2,
            Protocol::Downstream if downstream == Version::Http2 => Alpn::Http2,
            Protocol::Downstream => Alpn::Http1,
            Protocol::Alpn => Alpn::Any,
        };
        self.preconnect_ahead(key, alpn);
        let request = RequestGuard::new(self, &endpoint, permit);
        match alpn {
            Alpn::Http2 => self.checkout_h2(endpoint, request, key),
            Alpn::Any => self.checkout_by_alpn(endpoint, request, key),
            Alpn::Http1 | Alpn::None => self.checkout_h1(endpoint, request, key),
        }
    }

    fn checkout_h1(
        self: &Rc<Self>,
        endpoint: Rc<EndpointHandle>,
        request: RequestGuard,
        key: &PickKey<'_>,
    ) -> Checkout {
        let (priority, made_for) = (key.priority, self.made_for(key, &endpoint));
        let purpose = Purpose { alpn: Alpn::Http1, priority, made_for: made_for.as_ref() };
        if !key.fresh
            && let Some((stream, guard)) = endpoint.pools().take_idle(purpose.made_for)
        {
            self.preconnect(&endpoint, purpose, false);
            return Checkout::Ready(Box::new(self.picked(Upstream::H1(stream), endpoint, Some(guard), request, None)));
        }
        let claim = self.claim(&endpoint, purpose);
        self.preconnect(&endpoint, purpose, claim.is_none());
        let cluster = self.clone();
        Checkout::Connecting(Box::pin(async move {
            let free = |endpoint: &EndpointHandle| endpoint.pools().take_idle(made_for.as_ref());
            let (stream, guard) = match cluster.claimed(claim, priority).await? {
                Some((transport, guard)) => (cluster.start_h1(transport), guard),
                None => match cluster.turn(&endpoint, priority, free).await? {
                    Turn::Reuse(idle) => idle,
                    Turn::Connect(permit) => {
                        let (transport, guard) =
                            cluster.connect(&endpoint, permit, Alpn::Http1, made_for.clone()).await?;
                        (cluster.start_h1(transport), guard)
                    }
                },
            };
            Ok(Box::new(cluster.picked(Upstream::H1(stream), endpoint, Some(guard), request, None)))
        }))
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
        self.stats.upstream_rq_total().inc();
        endpoint.counts.rq_total.set(endpoint.counts.rq_total.get() + 1);
        let since = matches!(self.cluster().lb, LbPolicy::PeakEwma(_)).then(Instant::now);
        Picked { stream, cluster: self.clone(), endpoint, connection, since, _request: request, _shared: shared }
    }

    fn checkout_h2(
        self: &Rc<Self>,
        endpoint: Rc<EndpointHandle>,
        request: RequestGuard,
        key: &PickKey<'_>,
    ) -> Checkout {
        let (cluster, priority, made_for) = (self.clone(), key.priority, self.made_for(key, &endpoint));
        self.preconnect_shared(&endpoint, Purpose { alpn: Alpn::Http2, priority, made_for: made_for.as_ref() });
        Checkout::Connecting(Box::pin(async move {
            loop {
                let (connection, reused) = cluster.shared_h2(&endpoint, priority, made_for.as_ref()).await?;
                match cluster.stream_on(&connection, reused).await {
                    // Its server has gone away: another one will do.
                    Err(_) if reused => {}
                    stream => return Ok(Box::new(cluster.picked_shared(stream?, endpoint, request))),
                }
            }
        }))
    }

    /// `auto_config`: which protocol a connection speaks is known when its server has chosen.
    fn checkout_by_alpn(
        self: &Rc<Self>,
        endpoint: Rc<EndpointHandle>,
        request: RequestGuard,
        key: &PickKey<'_>,
    ) -> Checkout {
        let made_for = self.made_for(key, &endpoint);
        let purpose = Purpose { alpn: Alpn::Any, priority: key.priority, made_for: made_for.as_ref() };
        if !key.fresh
            && let Some((stream, guard)) = endpoint.pools().take_idle(made_for.as_ref())
        {
            self.preconnect(&endpoint, purpose, false);
            return Checkout::Ready(Box::new(self.picked(Upstream::H1(stream), endpoint, Some(guard), request, None)));
        }
        let claim = self.claim(&endpoint, purpose);
        match claim {
            Some(_) => self.preconnect(&endpoint, purpose, false),
            None => self.preconnect_shared(&endpoint, purpose),
        }
        let (cluster, priority) = (self.clone(), key.priority);
        Checkout::Connecting(Box::pin(async move {
            let mut connected = match cluster.claimed(claim, priority).await? {
                Some((transport, guard)) => (Connected::H1(cluster.start_h1(transport), guard), false),
                None => cluster.connected_by_alpn(&endpoint, priority, made_for.as_ref()).await?,
            };
            loop {
                let (connection, reused) = match connected {
                    (Connected::H2(connection), reused) => (connection, reused),
                    (Connected::H1(stream, guard), _) => {
                        let picked = cluster.picked(Upstream::H1(stream), endpoint, Some(guard), request, None);
                        return Ok(Box::new(picked));
                    }
                };
                match cluster.stream_on(&connection, reused).await {
                    Err(_) if reused => {}
                    stream => return Ok(Box::new(cluster.picked_shared(stream?, endpoint, request))),
                }
                connected = cluster.connected_by_alpn(&endpoint, priority, made_for.as_ref()).await?;
            }
        }))
    }

    /// A connection that is there, or a new one of either protocol. As long as the server may choose HTTP/2, one request
    /// connects for all that wait.
    async fn connected_by_alpn(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        priority: RoutingPriority,
        made_for: Option<&Arc<MadeFor>>,
    ) -> Result<(Connected, bool), StreamError> {
        let pools = endpoint.pools().clone();
        let free = |endpoint: &EndpointHandle| match self.room(endpoint, made_for) {
            Some(connection) => Some(Connected::H2(connection)),
            None => endpoint.pools().take_idle(made_for).map(|(stream, guard)| Connected::H1(stream, guard)),
        };
        loop {
            if let Some(connection) = self.room(endpoint, made_for) {
                return Ok((Connected::H2(connection), true));
            }
            if pools.connecting.get() && !pools.chose_http1.get() {
                self.wait(&pools, priority, made_for).await?;
                continue;
            }
            let alone = (!pools.chose_http1.get()).then(|| Alone::take(&pools));
            let permit = match self.turn(endpoint, priority, free).await? {
                Turn::Reuse(connected) => return Ok((connected, true)),
                Turn::Connect(permit) => permit,
            };
            let connected = self.connect_as(endpoint, permit, Alpn::Any, made_for).await;
            return self.told(alone.as_ref(), made_for, connected).map(|connected| (connected, false));
        }
    }

    /// Connects, and begins what the server has chosen.
    pub(super) async fn connect_as(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        permit: ConnectPermit,
        alpn: Alpn,
        made_for: Option<&Arc<MadeFor>>,
    ) -> Result<Connected, StreamError> {
        let (transport, guard) = self.connect(endpoint, permit, alpn, made_for.cloned()).await?;
        let http2 = alpn == Alpn::Http2 || alpn == Alpn::Any && transport.chose_h2();
        if alpn == Alpn::Any {
            endpoint.pools().chose_http1.set(!http2);
        }
        Ok(match http2 {
            true => Connected::H2(self.start_h2(endpoint, transport, guard).await?),
            false => Connected::H1(self.start_h1(transport), guard),
        })
    }

    /// The wait for the connection that another request makes: its failure is that of all who would have made the same one.
    async fn wait(
        &self,
        pools: &Pools,
        priority: RoutingPriority,
        made_for: Option<&Arc<MadeFor>>,
    ) -> Result<(), StreamError> {
        let _pending = self.pending(priority)?;
        let before = pools.failures.get();
        pools.shared.notified().await;
        let failed = (pools.failures.get() != before).then(|| pools.failed.borrow().clone()).flatten();
        let failed = failed.filter(|failure| failure.made_for.as_ref() == made_for);
        failed.map_or(Ok(()), |failure| Err(self.failed_with(failure)))
    }

    /// Tells those who wait how it went.
    fn told<T>(
        &self,
        alone: Option<&Alone>,
        made_for: Option<&Arc<MadeFor>>,
        made: Result<T, StreamError>,
    ) -> Result<T, StreamError> {
        if let (Some(alone), Err(error)) = (alone, &made) {
            alone.fail(Failure { made_for: made_for.cloned(), error: *error, connect: self.failed.borrow().clone() });
        }
        made
    }

    pub(super) fn start_h1(&self, transport: Transport) -> Box<h1::Stream> {
        self.stats.upstream_cx_http1_total().inc();
        Box::new(h1::Stream::new(transport, self.cluster().http.http1.enable_trailers))
    }

    /// A stream of a shared connection, which takes no more of them where its server has gone away.
    async fn stream_on(
        &self,
        connection: &Rc<H2Connection>,
        reused: bool,
    ) -> Result<(h2::Stream, StreamCount), StreamError> {
        let count = StreamCount::new(connection);
        let sender = connection.sender.clone().ready().await.map_err(|_| {
            connection.closed.set(true);
            StreamError::upstream(ErrorKind::Terminated)
        })?;
        let requests_max = self.cluster().http.max_requests_per_connection;
        if requests_max.is_some_and(|max| connection.streams_total.get() >= max) && connection.pools.unshare(connection)
        {
            self.stats.upstream_cx_max_requests().inc();
        }
        let stream = h2::Stream::new(sender, reused, connection.addresses, connection.tls.clone(), connection.upstream);
        Ok((stream, count))
    }

    fn picked_shared(
        self: &Rc<Self>,
        (stream, count): (h2::Stream, StreamCount),
        endpoint: Rc<EndpointHandle>,
        request: RequestGuard,
    ) -> Picked {
        self.picked(Upstream::H2(Box::new(stream)), endpoint, None, request, Some(count))
    }

    /// A shared connection with room for a stream.
    fn room(&self, endpoint: &EndpointHandle, made_for: Option<&Arc<MadeFor>>) -> Option<Rc<H2Connection>> {
        let fits = |connection: &&Rc<H2Connection>| {
            usable(connection, &self.cluster().http) && connection.made_for.as_ref() == made_for
        };
        endpoint.pools().h2.borrow().iter().find(fits).cloned()
    }

    /// A connection with room for a stream: one that is there, or one that is made, by one request for all that wait.
    async fn shared_h2(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        priority: RoutingPriority,
        made_for: Option<&Arc<MadeFor>>,
    ) -> Result<(Rc<H2Connection>, bool), StreamError> {
        let pools = endpoint.pools().clone();
        let room = |endpoint: &EndpointHandle| self.room(endpoint, made_for);
        loop {
            if let Some(connection) = room(endpoint) {
                return Ok((connection, true));
            }
            if pools.connecting.get() {
                self.wait(&pools, priority, made_for).await?;
                continue;
            }
            let alone = Alone::take(&pools);
            let permit = match self.turn(endpoint, priority, room).await? {
                Turn::Reuse(connection) => return Ok((connection, true)),
                Turn::Connect(permit) => permit,
            };
            let connected = self.connect(endpoint, permit, Alpn::Http2, made_for.cloned()).await;
            let (transport, guard) = self.told(Some(&alone), made_for, connected)?;
            let connection = self.start_h2(endpoint, transport, guard).await;
            return self.told(Some(&alone), made_for, connection).map(|connection| (connection, false));
        }
    }

    /// Makes connections ahead beside the one that a request may be about to make for all.
    fn preconnect_shared(self: &Rc<Self>, endpoint: &Rc<EndpointHandle>, purpose: Purpose<'_>) {
        let makes_one = self.cluster().preconnect.is_some()
            && self.room(endpoint, purpose.made_for).is_none()
            && !endpoint.pools().connecting.get();
        self.preconnect(endpoint, purpose, makes_one);
    }
}

fn usable(connection: &Rc<H2Connection>, options: &UpstreamHttpOptions) -> bool {
    !connection.closed.get()
        && connection.streams.get() < connection.streams_max(options)
        && options.max_connection_duration.is_none_or(|max| connection.opened.elapsed() < max)
        && options.max_requests_per_connection.is_none_or(|max| connection.streams_total.get() < max)
}
