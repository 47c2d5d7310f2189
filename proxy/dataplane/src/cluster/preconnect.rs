//! Connections for requests that are yet to come (`preconnect_policy`): as many as the present ones, times a ratio.
//! Envoy's arithmetic.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{Real, RoutingPriority};
use tokio::sync::oneshot;

use super::announce::MadeFor;
use super::breakers::Breaker;
use super::checkout::Connected;
use super::connect::{Alone, ConnectPermit, Failure};
use super::endpoint::{EndpointHandle, Standing};
use super::hosts::Hosts;
use super::pools::ConnectionGuard;
use super::{ClusterHandle, PickKey};
use tokio::time::Instant;

use crate::error::StreamError;
use crate::tls::Alpn;
use crate::transport::Transport;

/// Connections that one request may bring about, as in Envoy.
const AT_ONCE_MAX: usize = 3;

type Made = (Transport, ConnectionGuard);

/// Who has claimed a connection that is being made gets it, or is told why there is none.
pub(super) type Claim = oneshot::Receiver<Result<Made, Failure>>;

/// A connection that is being made, for whoever comes next.
#[derive(Debug)]
pub(super) struct Warming {
    ticket: Rc<()>,
    alpn: Alpn,
    made_for: Option<Arc<MadeFor>>,
    claim: Claim,
}

/// What connections are for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Purpose<'a> {
    /// `None`: bytes.
    pub(super) alpn: Alpn,
    pub(super) priority: RoutingPriority,
    pub(super) made_for: Option<&'a Arc<MadeFor>>,
}

/// Streams that there are or that wait, and those that connections, open or on their way, have room for.
#[derive(Debug, Clone, Copy, Default)]
struct Load {
    streams: u64,
    capacity: u64,
}

impl Load {
    fn is_short(self, ratio: Real) -> bool {
        #[expect(clippy::cast_precision_loss, reason = "numbers of streams")]
        let (wanted, capacity) = (self.streams as f64 * ratio.get(), self.capacity as f64);
        wanted > capacity
    }

    /// With one more stream, and the connection that is about to be made for it.
    const fn and(self, streams: u64, capacity: u64) -> Load {
        Load { streams: self.streams + streams, capacity: self.capacity + capacity }
    }
}

impl EndpointHandle {
    /// Connections made for others count as well.
    fn load(&self, shared_max: Option<u32>, options: &outrigger_config::UpstreamHttpOptions, alpn: Alpn) -> Load {
        let pools = self.pools();
        let (open, making) = (self.counts.cx_active.get(), self.counts.cx_connecting.get());
        if alpn == Alpn::None {
            let warming = pools.warming.borrow();
            let unused = pools.raw.borrow().len() + warming.iter().filter(|warming| warming.alpn == alpn).count();
            return Load { streams: (open + making).saturating_sub(unused as u64), capacity: open + making };
        }
        let streams = u64::from(self.active.get());
        let h2 = pools.h2.borrow();
        let shared = h2.iter().filter(|connection| !connection.closed.get());
        let capacity = match shared_max {
            Some(max) => {
                let room: u64 = shared.map(|connection| u64::from(connection.streams_max(options))).sum();
                room + making * u64::from(max)
            }
            None => open.saturating_sub(shared.count() as u64) + making,
        };
        Load { streams, capacity }
    }
}

impl ClusterHandle {
    /// The streams of a connection, where it is shared.
    fn shared_max(&self, endpoint: &EndpointHandle, alpn: Alpn) -> Option<u32> {
        let shared = alpn == Alpn::Http2 || alpn == Alpn::Any && !endpoint.pools().chose_http1.get();
        shared.then_some(self.cluster().http.http2.max_concurrent_streams)
    }

    fn load(&self, endpoint: &EndpointHandle, alpn: Alpn) -> Load {
        endpoint.load(self.shared_max(endpoint, alpn), &self.cluster().http, alpn)
    }

    /// A connection that is being made and that nobody has claimed yet.
    pub(super) fn claim(&self, endpoint: &EndpointHandle, purpose: Purpose<'_>) -> Option<Claim> {
        let mut warming = endpoint.pools().warming.borrow_mut();
        let fits = |it: &Warming| it.alpn == purpose.alpn && it.made_for.as_ref() == purpose.made_for;
        let at = warming.iter().position(fits)?;
        Some(warming.remove(at).claim)
    }

    /// The claimed connection; `None`: it is shared, or was never claimed.
    pub(super) async fn claimed(
        &self,
        claim: Option<Claim>,
        priority: RoutingPriority,
    ) -> Result<Option<Made>, StreamError> {
        let Some(claim) = claim else { return Ok(None) };
        let _pending = self.pending(priority)?;
        self.stats.upstream_rq_pending_total().inc();
        match claim.await {
            Ok(Ok(made)) => Ok(Some(made)),
            Ok(Err(failure)) => Err(self.failed_with(failure)),
            Err(_) => Ok(None),
        }
    }

    /// Counts and tells the failure of a connection that a request has waited for.
    pub(super) fn failed_with(&self, failure: Failure) -> StreamError {
        self.stats.upstream_rq_pending_failure_eject().inc();
        *self.failed.borrow_mut() = failure.connect;
        failure.error
    }

    /// Makes an endpoint's connections ahead, where a request has got one of them or, with `own`, is about to make one.
    pub(super) fn preconnect(self: &Rc<Self>, endpoint: &Rc<EndpointHandle>, purpose: Purpose<'_>, own: bool) {
        let Some(policy) = &self.cluster().preconnect else { return };
        let own = u64::from(own);
        let own_room = own * u64::from(self.shared_max(endpoint, purpose.alpn).unwrap_or(1));
        // The endpoint counts requests when they choose it, and other connections when they are made.
        let own = if purpose.alpn == Alpn::None { own } else { 0 };
        for _ in 0..AT_ONCE_MAX {
            let load = self.load(endpoint, purpose.alpn).and(own, own_room);
            if !load.is_short(policy.per_upstream_ratio) || !self.warm(endpoint, purpose, policy.per_upstream_ratio) {
                return;
            }
        }
    }

    /// The same of the whole cluster, where another request comes: at the endpoints that are chosen next.
    pub(super) fn preconnect_ahead(self: &Rc<Self>, key: &PickKey<'_>, alpn: Alpn) {
        let Some(policy) = &self.cluster().preconnect else { return };
        let ratio = policy.predictive_ratio;
        if ratio.get() <= 1.0 || self.destinations.is_some() {
            return;
        }
        for _ in 0..AT_ONCE_MAX {
            let all = self.with_hosts(|hosts| {
                let loads = hosts.list.iter().map(|endpoint| self.load(endpoint, alpn));
                loads.fold(Load::default(), |sum, load| sum.and(load.streams, load.capacity))
            });
            if !all.and(1, 0).is_short(ratio) {
                return;
            }
            let Some(endpoint) = self.peek(key) else { return };
            let made_for = self.made_for(key, &endpoint);
            let purpose = Purpose { alpn, priority: key.priority, made_for: made_for.as_ref() };
            let short = self.load(&endpoint, alpn).and(1, 0).is_short(ratio);
            if !short || !self.warm(&endpoint, purpose, ratio) {
                return;
            }
        }
    }

    /// The endpoint of a request that is yet to come.
    fn peek(&self, key: &PickKey<'_>) -> Option<Rc<EndpointHandle>> {
        self.with_hosts(|Hosts { list, balancer, .. }| {
            let index = balancer.peek(|| self.recipe(), list, key)?;
            list.get(index as usize).cloned()
        })
    }

    /// Begins to make a connection; `false`: not now.
    fn warm(self: &Rc<Self>, endpoint: &Rc<EndpointHandle>, purpose: Purpose<'_>, ratio: Real) -> bool {
        let pools = endpoint.pools();
        let shared = self.shared_max(endpoint, purpose.alpn).is_some();
        if pools.is_retired() || shared && pools.connecting.get() || endpoint.standing(false) != Standing::Healthy {
            return false;
        }
        let Some(permit) = self.ahead(endpoint, purpose.priority) else { return false };
        let (cluster, endpoint, made_for) = (self.clone(), endpoint.clone(), purpose.made_for.cloned());
        let Purpose { alpn, priority, .. } = purpose;
        // The tasks end with their connections, within the cluster's time for connecting.
        if shared {
            let first = (Alone::take(pools), permit);
            tokio::task::spawn_local(async move {
                let purpose = Purpose { alpn, priority, made_for: made_for.as_ref() };
                cluster.make_shared(&endpoint, first, purpose, ratio).await;
            });
            return true;
        }
        let (tell, claim) = oneshot::channel();
        let ticket = Rc::new(());
        let warming = Warming { ticket: ticket.clone(), alpn, made_for: made_for.clone(), claim };
        pools.warming.borrow_mut().push(warming);
        tokio::task::spawn_local(async move {
            let made = cluster.connect(&endpoint, permit, alpn, made_for.clone()).await;
            let made = made.map_err(|error| Failure { made_for, error, connect: cluster.take_failed() });
            cluster.hand_out(&endpoint, alpn, made, (&ticket, tell)).await;
        });
        true
    }

    /// The right to connect for nobody in particular.
    fn ahead(&self, endpoint: &Rc<EndpointHandle>, priority: RoutingPriority) -> Option<ConnectPermit> {
        let permit = self.breakers.acquire(priority, Breaker::Connections);
        if permit.is_none() {
            self.stats.upstream_cx_overflow().inc();
        }
        Some(ConnectPermit::new(endpoint, permit?, None))
    }

    /// Gives a connection to who has claimed it, or keeps it for others.
    async fn hand_out(
        &self,
        endpoint: &Rc<EndpointHandle>,
        alpn: Alpn,
        made: Result<Made, Failure>,
        to: (&Rc<()>, oneshot::Sender<Result<Made, Failure>>),
    ) {
        let pools = endpoint.pools();
        let (ticket, tell) = to;
        // Where nobody has claimed it, the receiver goes with its entry.
        pools.warming.borrow_mut().retain(|warming| !Rc::ptr_eq(&warming.ticket, ticket));
        let is_shared = alpn == Alpn::Any && made.as_ref().is_ok_and(|(transport, _)| transport.chose_h2());
        let left = if is_shared { Err(made) } else { tell.send(made) };
        let Err(Ok((transport, guard))) = left else { return };
        if is_shared {
            pools.chose_http1.set(false);
            // It is in the pool then, or has failed by itself.
            _ = self.start_h2(endpoint, transport, guard).await;
            pools.let_go();
        } else if alpn == Alpn::None {
            pools.put_raw(transport, guard);
        } else {
            pools.put_idle(self.start_h1(transport), guard, Instant::now());
        }
    }

    /// Makes connections that requests share, one at a time, while they are short.
    async fn make_shared(
        self: &Rc<Self>,
        endpoint: &Rc<EndpointHandle>,
        first: (Alone, ConnectPermit),
        purpose: Purpose<'_>,
        ratio: Real,
    ) {
        let (mut alone, mut permit) = first;
        for _ in 0..AT_ONCE_MAX {
            match self.connect_as(endpoint, permit, purpose.alpn, purpose.made_for).await {
                Ok(Connected::H1(stream, guard)) => endpoint.pools().put_idle(stream, guard, Instant::now()),
                Ok(Connected::H2(_)) => endpoint.pools().let_go(),
                Err(error) => {
                    return alone.fail(Failure {
                        made_for: purpose.made_for.cloned(),
                        error,
                        connect: self.take_failed(),
                    });
                }
            }
            drop(alone);
            let is_short = self.load(endpoint, purpose.alpn).is_short(ratio);
            if !is_short || endpoint.pools().connecting.get() {
                return;
            }
            let Some(next) = self.ahead(endpoint, purpose.priority) else { return };
            (alone, permit) = (Alone::take(endpoint.pools()), next);
        }
    }
}
