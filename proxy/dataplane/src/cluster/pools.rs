//! The connections to an address: those that wait for a request, those that are shared, and those that are being made.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Waker};

use bytes::Bytes;
use h2::client::SendRequest;
use outrigger_config::UpstreamHttpOptions;
use outrigger_http::{TlsInfo, UpstreamConnection};
use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;

use super::announce::MadeFor;
use super::breakers::Permit;
use super::connect::Failure;
use super::preconnect::Warming;
use crate::stats::ClusterStats;
use crate::transport::Transport;
use crate::upstream::h1;

/// Idle HTTP/1 connections that one worker keeps for one endpoint.
const IDLE_MAX: usize = 1024;

/// What a worker has of connections to an address: it outlives a change of the endpoint's weight or health.
#[derive(Debug, Default)]
pub(super) struct Pools {
    idle: RefCell<VecDeque<Idle>>,
    pub(super) h2: RefCell<Vec<Rc<H2Connection>>>,
    /// Made ahead, and of no protocol that we speak.
    pub(super) raw: RefCell<VecDeque<(Transport, ConnectionGuard)>>,
    /// Being made ahead, and not claimed by anybody yet.
    pub(super) warming: RefCell<Vec<Warming>>,
    /// Somebody is making an HTTP/2 connection.
    pub(super) connecting: Cell<bool>,
    /// How often those that waited for such a one have waited in vain, and what the last ones are told.
    pub(super) failures: Cell<u64>,
    pub(super) failed: RefCell<Option<Failure>>,
    /// The server has chosen HTTP/1, where it had the choice.
    pub(super) chose_http1: Cell<bool>,
    /// A connection was made, got free or was closed: for who waits for one of his own, or for the right to make one.
    pub(super) changed: Notify,
    /// One that is shared was made, or wasn't, or has room: for who waits until somebody else has made it. Not the same
    /// as above, since each would sleep through what the other is woken by.
    pub(super) shared: Notify,
    /// Its health has failed: tunnels end.
    over: Notify,
    /// The endpoint is no more: nothing is kept for a next request.
    retired: Cell<bool>,
}

/// The pools as their endpoint has them. Connections hold their pools and pools their connections: dropping this closes
/// what is idle, or both would stay for ever.
#[derive(Debug, Default)]
pub(super) struct OwnPools(pub(super) Rc<Pools>);

impl Drop for OwnPools {
    fn drop(&mut self) {
        self.0.retire();
    }
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

impl ConnectionGuard {
    /// The wait until the cluster wants the connection closed (`close_connections_on_host_health_failure`).
    pub(crate) fn is_over(&self) -> impl Future<Output = ()> + use<> {
        let pools = self.pools.clone();
        async move { pools.over.notified().await }
    }
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

/// A shared HTTP/2 connection; its task ends when the pool and the last stream have let it go.
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
    pub(super) upstream: Option<UpstreamConnection>,
    pub(super) made_for: Option<Arc<MadeFor>>,
    /// Dropped with it, which its task is told by.
    pub(super) _held: oneshot::Sender<()>,
}

impl H2Connection {
    /// The streams that it may have at a time.
    pub(super) fn streams_max(&self, options: &UpstreamHttpOptions) -> u32 {
        let servers = u32::try_from(self.sender.current_max_send_streams()).unwrap_or(u32::MAX);
        options.http2.max_concurrent_streams.min(servers)
    }
}

/// The last one that fits. Taken from its queue in any case where it is closed: its guard counts it.
fn last<T>(queue: &RefCell<VecDeque<T>>, fits: impl Fn(&T) -> bool) -> Option<T> {
    let mut queue = queue.borrow_mut();
    let at = queue.iter().rposition(fits)?;
    queue.remove(at)
}

impl Pools {
    /// The connection that was used last, is still open and was made for the same, where that counts.
    pub(super) fn take_idle(&self, made_for: Option<&Arc<MadeFor>>) -> Option<(Box<h1::Stream>, ConnectionGuard)> {
        // An idle connection that the origin closed has an event waiting: asking needs no system call and no waker.
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            let mut idle = last(&self.idle, |idle| idle.stream.transport.made_for.as_ref() == made_for)?;
            if idle.stream.is_open(&mut cx) {
                idle.stream.reused = true;
                return Some((idle.stream, idle.guard));
            }
            idle.guard.stats.upstream_cx_destroy_remote().inc();
        }
    }

    pub(super) fn put_idle(&self, stream: Box<h1::Stream>, guard: ConnectionGuard, now: Instant) {
        if self.retired.get() {
            return;
        }
        let mut idle = self.idle.borrow_mut();
        if idle.len() >= IDLE_MAX {
            idle.pop_front();
        }
        idle.push_back(Idle { stream, guard, since: now });
        drop(idle);
        self.changed.notify_one();
    }

    /// A connection that was made ahead and isn't closed. What its server has said already is in its `input`.
    pub(super) fn take_raw(&self, made_for: Option<&Arc<MadeFor>>) -> Option<(Transport, ConnectionGuard)> {
        loop {
            let (mut transport, guard) = last(&self.raw, |(transport, _)| transport.made_for.as_ref() == made_for)?;
            if is_open(&mut transport) {
                return Some((transport, guard));
            }
            guard.stats.upstream_cx_destroy_remote().inc();
        }
    }

    pub(super) fn put_raw(&self, transport: Transport, guard: ConnectionGuard) {
        if self.retired.get() {
            return;
        }
        self.raw.borrow_mut().push_back((transport, guard));
        self.changed.notify_one();
    }

    /// Lets others have streams of a connection too. Also where the endpoint is no more: requests that chose it before may
    /// wait for one.
    pub(super) fn share(&self, connection: &Rc<H2Connection>) {
        self.h2.borrow_mut().push(connection.clone());
        self.has_room();
    }

    /// Drops shared connections without a stream where nothing is kept for a next request.
    pub(super) fn let_go(&self) {
        if self.retired.get() {
            let mut shared = self.h2.borrow_mut();
            let unused: Vec<_> = shared.extract_if(.., |connection| connection.streams.get() == 0).collect();
            drop(shared);
            // Their tasks end them, and note that in the pools.
            drop(unused);
        }
    }

    pub(super) fn is_retired(&self) -> bool {
        self.retired.get()
    }

    /// Nobody else gets a stream of a connection; `false`: nobody did before. It ends with those that it has.
    pub(super) fn unshare(&self, connection: &Rc<H2Connection>) -> bool {
        let mut shared = self.h2.borrow_mut();
        let before = shared.len();
        shared.retain(|known| !Rc::ptr_eq(known, connection));
        shared.len() < before
    }

    /// A shared connection has room for a stream.
    pub(super) fn has_room(&self) {
        // Not all who wait can use it: they may want one for another name, or one of their own.
        self.changed.notify_waiters();
        self.shared.notify_waiters();
    }

    /// Makes room for a connection; `false`: there is none yet.
    pub(super) fn close_oldest_idle(&self) -> bool {
        let oldest = self.idle.borrow_mut().pop_front();
        if oldest.is_some() || self.raw.borrow_mut().pop_front().is_some() {
            return true;
        }
        let mut shared = self.h2.borrow_mut();
        let unused = shared.iter().position(|connection| connection.streams.get() == 0);
        let unused = unused.map(|at| shared.remove(at));
        drop(shared);
        // Its task ends it, and notes that in the pools.
        drop(unused);
        false
    }

    /// Closes what isn't in use.
    pub(super) fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let raw = std::mem::take(&mut *self.raw.borrow_mut());
        let shared = std::mem::take(&mut *self.h2.borrow_mut());
        // Dropping them notes it in the pools.
        drop((idle, raw, shared));
    }

    /// Closes what isn't in use, and what is in use once it no longer is: the endpoint is no more, or is another's.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        let idle = std::mem::take(&mut *self.idle.borrow_mut());
        let raw = std::mem::take(&mut *self.raw.borrow_mut());
        drop((idle, raw));
        self.let_go();
    }

    /// Closes what is in use and of no protocol that could be drained.
    pub(super) fn close_tunnels(&self) {
        self.over.notify_waiters();
    }

    /// Closes what was idle for too long, is too old, or was closed by its origin: the newest are taken first, and nobody
    /// would come upon the others.
    pub(super) fn sweep(&self, stats: &ClusterStats, options: &UpstreamHttpOptions, now: Instant) {
        let timeout = options.idle_timeout.filter(|timeout| !timeout.is_zero());
        let unused_since = |since: Instant| timeout.is_some_and(|timeout| now.duration_since(since) >= timeout);
        let too_old =
            |opened: Instant| options.max_connection_duration.is_some_and(|max| now.duration_since(opened) >= max);
        let mut cx = Context::from_waker(Waker::noop());
        self.idle.borrow_mut().retain_mut(|idle| {
            let reason = match () {
                () if unused_since(idle.since) => stats.upstream_cx_idle_timeout(),
                () if too_old(idle.guard.opened) => stats.upstream_cx_max_duration_reached(),
                () if !idle.stream.is_open(&mut cx) => stats.upstream_cx_destroy_remote(),
                () => return true,
            };
            reason.inc();
            false
        });
        self.raw.borrow_mut().retain_mut(|(transport, guard)| {
            let reason = match () {
                () if unused_since(guard.opened) => stats.upstream_cx_idle_timeout(),
                () if !is_open(transport) => stats.upstream_cx_destroy_remote(),
                () => return true,
            };
            reason.inc();
            false
        });
        self.h2.borrow_mut().retain(|connection| {
            let unused = connection.streams.get() == 0;
            let aged = too_old(connection.opened);
            if unused && aged {
                stats.upstream_cx_max_duration_reached().inc();
            }
            !connection.closed.get() && !(unused && (aged || unused_since(connection.idle_since.get())))
        });
    }
}

/// Whether a connection that nobody has used yet is open. Reads no more than what one read takes.
fn is_open(transport: &mut Transport) -> bool {
    if !transport.input.is_empty() {
        return true;
    }
    let read = transport.poll_fill(&mut Context::from_waker(Waker::noop()));
    !matches!(read, std::task::Poll::Ready(Ok(0) | Err(_)))
}
