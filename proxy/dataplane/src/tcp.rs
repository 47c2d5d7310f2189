//! `tcp_proxy`.

use std::cell::RefCell;
use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use outrigger_config::{DownstreamTransport, TcpProxy};
use outrigger_http::{
    CloseType, ConnectionInfo, DownstreamInfo, EndpointAddress, LogType, ResponseFlags, StreamInfo, StreamState,
    TimingPoint, UpstreamInfo,
};
use rand::Rng;
use tokio::sync::oneshot;
use tokio::time::Instant;
use xxhash_rust::xxh64::xxh64;

use crate::cluster::{Client, ConnectionGuard, PickKey};
use crate::error::{ErrorKind, StreamError};
use crate::listener::{Accepted, ChainSlot};
use crate::live::{LiveChain, TcpChain};
use crate::network::{self, Close, ClosedBy, NetworkFilters};
use crate::stats::{ActiveGuard, TcpStats};
use crate::transport::Transport;
use crate::tunnel::{self, End};
use crate::worker::WorkerCx;

/// A connection to an endpoint, with what it counts for.
struct Connected {
    transport: Transport,
    remote: EndpointAddress,
    _guard: ConnectionGuard,
    attempts: u32,
    /// `per_connection_buffer_limit_bytes` of its cluster.
    buffer_limit: usize,
}

/// The way to an endpoint of a cluster.
struct Connecting {
    /// `None`: there is no such cluster.
    cluster: Option<Arc<str>>,
    connected: Pin<Box<dyn Future<Output = Result<Connected, StreamError>>>>,
}

/// The way to the upstream, begun before the client said anything: maybe the server speaks first.
pub(crate) struct Early {
    /// What the connection gets if it stays as it is.
    chain: Rc<ChainSlot>,
    tcp: Rc<TcpChain>,
    upstream: EarlyUpstream,
}

enum EarlyUpstream {
    Connecting(Connecting),
    Connected(Option<Arc<str>>, Box<Connected>),
    /// Nobody is there, or it has closed: that is told when the client has chosen this chain.
    Lost,
}

impl std::fmt::Debug for Early {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Early")
    }
}

impl Early {
    /// `None`: the chain doesn't pass bytes, or something is to be decided before it may.
    pub(crate) fn begin(cx: &Rc<WorkerCx>, chain: Rc<ChainSlot>, ends: Ends) -> Option<Early> {
        let LiveChain::Tcp(tcp) = chain.live() else { return None };
        let plain = chain.config(|chain| chain.transport == DownstreamTransport::Raw && chain.filters.is_empty())?;
        let upstream = EarlyUpstream::Connecting(connecting(cx, &tcp, ends));
        plain.then_some(Early { chain, tcp, upstream })
    }

    /// Ready when the server has sent something.
    pub(crate) fn poll_speaks(&mut self, task: &mut Context<'_>) -> Poll<()> {
        if let EarlyUpstream::Connecting(connecting) = &mut self.upstream {
            self.upstream = match ready!(connecting.connected.as_mut().poll(task)) {
                Ok(connected) => EarlyUpstream::Connected(connecting.cluster.take(), Box::new(connected)),
                Err(_) => EarlyUpstream::Lost,
            };
        }
        let EarlyUpstream::Connected(_, connected) = &mut self.upstream else { return Poll::Pending };
        match ready!(connected.transport.poll_fill(task)) {
            Ok(read) if read > 0 => Poll::Ready(()),
            _ => {
                self.upstream = EarlyUpstream::Lost;
                Poll::Pending
            }
        }
    }

    /// What was begun for this very chain.
    fn into_connecting(self, chain: &Rc<ChainSlot>, tcp: &Rc<TcpChain>) -> Option<Connecting> {
        if !Rc::ptr_eq(&self.chain, chain) || !Rc::ptr_eq(&self.tcp, tcp) {
            return None;
        }
        match self.upstream {
            EarlyUpstream::Connecting(connecting) => Some(connecting),
            EarlyUpstream::Connected(cluster, connected) => {
                Some(Connecting { cluster, connected: Box::pin(std::future::ready(Ok(*connected))) })
            }
            EarlyUpstream::Lost => None,
        }
    }
}

/// Passes a client's bytes to a cluster and back; what there is to tell of it.
pub(crate) async fn proxy(cx: &Rc<WorkerCx>, chain: &Rc<TcpChain>, accepted: Accepted) -> StreamState {
    let Accepted { chain: slot, transport: mut down, info, early } = accepted;
    let stats = &chain.stats;
    stats.downstream_cx_total().inc();
    let _active = ActiveGuard::new(stats, TcpStats::downstream_cx_active);
    let started = Instant::now();
    let mut state = down.connection_state(cx.connection_id(), info, slot.info());
    let filters = slot.network_filters();
    let outcome = if filters.is_empty() {
        let early = early.and_then(|early| early.into_connecting(&slot, chain));
        run(cx, chain, &slot, &mut down, &mut state, early).await
    } else {
        let filters = NetworkFilters::new(&filters, state);
        let (outcome, seen) = if filters.decide_at_once() {
            let (verdict, mut state, _decided) = filters.decide();
            let outcome = match verdict {
                Ok(()) => run(cx, chain, &slot, &mut down, &mut state, None).await,
                Err(Close) => Ok(()),
            };
            (outcome, state)
        } else {
            Box::pin(run_filtered(cx, chain, &slot, &mut down, filters)).await
        };
        state = seen;
        outcome
    };
    if let Err(error) = outcome {
        state.info.flags.insert(error.flags());
        if state.info.upstream_connection().is_none() {
            state.info.downstream_closed.local_reason = "tcp_initializion_failure:0";
        }
    }
    if state.info.cluster_name.is_some() {
        state.info.upstream_closed.how.get_or_insert(CloseType::Normal);
    }
    state.info.downstream_closed.how.get_or_insert(CloseType::Normal);
    stats.downstream_cx_rx_bytes_total().add(down.bytes_read);
    stats.downstream_cx_tx_bytes_total().add(down.bytes_written);
    stats.downstream_cx_length_ms().record(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    down.tell_sizes(&mut state.info);
    state.info.mark(TimingPoint::ResponseComplete, std::time::Instant::now());
    let state = Rc::new(RefCell::new(state));
    chain.live.log(cx, &chain.proxy.access_logs, LogType::TcpConnectionEnd, &state);
    state.take()
}

async fn run(
    cx: &Rc<WorkerCx>,
    chain: &Rc<TcpChain>,
    slot: &ChainSlot,
    down: &mut Transport,
    state: &mut StreamState,
    early: Option<Connecting>,
) -> Result<(), StreamError> {
    let Connecting { cluster, connected } = early.unwrap_or_else(|| connecting(cx, chain, Ends::of(&state.info)));
    state.info.cluster_name = cluster;
    state.info.mark(TimingPoint::UpstreamAsked, std::time::Instant::now());
    let Connected { transport: mut up, remote, _guard: guard, attempts, buffer_limit } = connected.await?;
    describe_upstream(&mut state.info, &up, remote, attempts);
    let (idle, deadline) = times(chain);
    let buffer_limit = slot.buffer_limit().min(buffer_limit);
    let end = tokio::select! {
        end = tunnel::run(down, &mut up, buffer_limit, idle, deadline) => end,
        () = guard.is_over() => End::Closed,
    };
    ended(chain, end, down, Some(&up), &mut state.info)
}

/// The same through network filters, which may keep the connection from its upstream; what they have made of its state.
async fn run_filtered(
    cx: &Rc<WorkerCx>,
    chain: &Rc<TcpChain>,
    slot: &ChainSlot,
    down: &mut Transport,
    mut filters: NetworkFilters,
) -> (Result<(), StreamError>, StreamState) {
    let state = filters.state.clone();
    let ends = Ends::of(&state.borrow().info);
    let guard = RefCell::new(None);
    let (tell, told) = oneshot::channel();
    let connect = || {
        let Connecting { cluster, connected } = connecting(cx, chain, ends.clone());
        {
            let info = &mut state.borrow_mut().info;
            info.cluster_name = cluster;
            info.mark(TimingPoint::UpstreamAsked, std::time::Instant::now());
        }
        let (state, guard) = (&state, &guard);
        async move {
            let Connected { transport, remote, _guard, attempts, buffer_limit } = connected.await?;
            describe_upstream(&mut state.borrow_mut().info, &transport, remote, attempts);
            // Nobody is told only where the connection has ended.
            _ = tell.send(_guard.is_over());
            *guard.borrow_mut() = Some(_guard);
            Ok((transport, buffer_limit))
        }
    };
    let mut up = None;
    let over = async {
        match told.await {
            Ok(over) => over.await,
            Err(_) => std::future::pending().await,
        }
    };
    let outcome = tokio::select! {
        biased;
        outcome = network::run(down, &mut up, &mut filters, slot.buffer_limit(), connect, times(chain)) => outcome,
        () = over => Ok((End::Closed, ClosedBy::Proxy)),
    };
    let by = outcome.as_ref().map_or(ClosedBy::Proxy, |(_, by)| *by);
    down.tell_sizes(&mut state.borrow_mut().info);
    let mut state = filters.close(by);
    let outcome = outcome.and_then(|(end, _)| ended(chain, end, down, up.as_ref(), &mut state.info));
    (outcome, state)
}

/// What of a client decides its endpoint, and what that is told of it.
#[derive(Debug, Clone)]
pub(crate) struct Ends {
    pub(crate) source: Option<SocketAddr>,
    pub(crate) local: Option<SocketAddr>,
    pub(crate) connection: Option<Arc<ConnectionInfo>>,
}

impl Ends {
    fn of(info: &StreamInfo) -> Ends {
        let DownstreamInfo { remote, local, connection, .. } = &*info.downstream;
        Ends { source: *remote, local: *local, connection: connection.clone() }
    }
}

fn describe_upstream(info: &mut StreamInfo, up: &Transport, remote: EndpointAddress, attempts: u32) {
    let (local, tls, connection) = (up.local, up.tls().cloned(), up.upstream);
    info.upstream = Some(Rc::new(UpstreamInfo { local, tls, connection, ..UpstreamInfo::new(remote) }));
    info.upstream_attempts = attempts;
    info.mark(TimingPoint::UpstreamReady, std::time::Instant::now());
}

/// The idle timeout, and when it is over in any case.
fn times(chain: &TcpChain) -> (Option<Duration>, Option<Instant>) {
    let proxy = &chain.proxy;
    (proxy.idle_timeout, proxy.max_downstream_connection_duration.map(|duration| Instant::now() + duration))
}

/// What the end of a tunnel means.
fn ended(
    chain: &TcpChain,
    end: End,
    down: &Transport,
    up: Option<&Transport>,
    info: &mut StreamInfo,
) -> Result<(), StreamError> {
    if let Some(up) = up {
        info.upstream_wire = up.wire_bytes();
    }
    let both_for = |info: &mut StreamInfo, reason| {
        info.downstream_closed.local_reason = reason;
        info.upstream_closed.local_reason = reason;
    };
    match end {
        End::Closed | End::Filtered => Ok(()),
        End::DownstreamReset => {
            if let Some(up) = up {
                up.reset();
            }
            info.downstream_closed.how = Some(CloseType::RemoteReset);
            Err(StreamError::downstream(ErrorKind::Terminated))
        }
        End::UpstreamReset => {
            down.reset();
            info.downstream_closed.how = Some(CloseType::LocalReset);
            info.upstream_closed.how = Some(CloseType::RemoteReset);
            Err(StreamError::upstream(ErrorKind::Terminated))
        }
        End::Idle => {
            chain.stats.idle_timeout().inc();
            info.flags.insert(ResponseFlags::STREAM_IDLE_TIMEOUT);
            both_for(info, "tcp_session_idle_timeout");
            Ok(())
        }
        End::Deadline => {
            chain.stats.max_downstream_connection_duration().inc();
            info.flags.insert(ResponseFlags::DURATION_TIMEOUT);
            both_for(info, "max_connection_duration_reached");
            Ok(())
        }
    }
}

/// Chooses a cluster and connects to one of its endpoints.
fn connecting(cx: &Rc<WorkerCx>, chain: &Rc<TcpChain>, ends: Ends) -> Connecting {
    let Ends { source, local, connection } = ends;
    let client = Client::of(source, local);
    let source = source.filter(|_| chain.proxy.hashes_source_ip);
    let hash = source.map(|source| xxh64(source.ip().to_string().as_bytes(), 0));
    let name = choose(&chain.proxy, cx);
    let Some(cluster) = name.as_ref().and_then(|name| chain.live.cluster(cx, name)) else {
        chain.stats.downstream_cx_no_route().inc();
        let error = StreamError::internal(ErrorKind::NoCluster(503));
        return Connecting { cluster: None, connected: Box::pin(std::future::ready(Err(error))) };
    };
    let attempts_max = chain.proxy.max_connect_attempts.max(1);
    let connected = Box::pin(async move {
        let mut attempts = 0;
        loop {
            attempts += 1;
            let connection = connection.as_deref();
            let destination = connection.and_then(|connection| connection.original_dst);
            match cluster.connect_raw(&PickKey { hash, client, connection, destination, ..PickKey::default() }).await {
                Ok((transport, guard, endpoint)) => {
                    let remote = endpoint.address_of(transport.remote);
                    let buffer_limit = cluster.buffer_limit();
                    return Ok(Connected { transport, remote, _guard: guard, attempts, buffer_limit });
                }
                Err(error) if attempts >= attempts_max => return Err(error),
                Err(_) => {}
            }
        }
    });
    Connecting { cluster: name, connected }
}

fn choose(proxy: &TcpProxy, cx: &WorkerCx) -> Option<Arc<str>> {
    if let [only] = &proxy.clusters[..] {
        return Some(only.name.clone());
    }
    let mut at = cx.random().random_range(0..proxy.total_weight.max(1));
    for cluster in &proxy.clusters {
        match at.checked_sub(cluster.weight) {
            Some(rest) => at = rest,
            None => return Some(cluster.name.clone()),
        }
    }
    None
}
