//! From an accepted socket to a filter chain: listener filters, the hand-off to the listener of the original destination,
//! the choice of the chain and its handshake.
//!
//! A client that says nothing may wait for the server to speak first (SMTP, MySQL). So a connection that stays silent for a
//! moment is connected, if what it would get as it is passes bytes: who speaks first decides.

use std::cell::RefCell;
use std::future::{Future, poll_fn};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use outrigger_http::{CloseType, ConnectionInfo, LogType, ResponseFlags, StreamState, TimingPoint};
use tokio::time::Instant;

use super::secure::secure;
use super::{Accepted, Counted, ListenerSlot, chain};
use crate::inspect::{Found, Inspection, Refused};
use crate::live::LiveChain;
use crate::network;
use crate::serve;
use crate::stats::{ActiveGuard, ListenerStats};
use crate::tcp::{self, Early, Ends};
use crate::timer::{LazyTimer, earlier};
use crate::transport::Transport;
use crate::worker::WorkerCx;

/// How long a client is waited for before the server is asked whether it speaks first. A client that has something to say
/// says it with its first packet.
const SILENCE: Duration = Duration::from_millis(200);

/// A connection whose chain isn't known yet.
#[derive(Debug)]
struct Pending {
    transport: Box<Transport>,
    found: Found,
    early: Option<Early>,
}

/// Serves a connection to its end. What it does stands in boxes: a connection holds the memory of what it does now, not of all
/// that it may have done.
pub(super) async fn serve(
    cx: &Rc<WorkerCx>,
    slot: &Rc<ListenerSlot>,
    transport: Box<Transport>,
    mut counted: Option<Counted>,
) {
    let mut pending = Pending { transport, found: Found::default(), early: None };
    let mut slot = slot.clone();
    if slot.inspects() && Box::pin(inspect(cx, &slot, &mut pending)).await.is_err() {
        return;
    }
    if let Some(other) = slot.hand_off(cx, &pending) {
        slot = other;
        // As in Envoy: bounds are of the listeners that accept.
        counted = None;
        if slot.inspects() && Box::pin(inspect(cx, &slot, &mut pending)).await.is_err() {
            return;
        }
    }
    serve_chosen(cx, &slot, pending).await;
    drop(counted);
}

/// Serves a connection by the listener that it turned out to be for.
fn serve_chosen<'a>(cx: &'a Rc<WorkerCx>, slot: &'a Rc<ListenerSlot>, pending: Pending) -> Serving<'a> {
    let Pending { transport, found, early } = pending;
    let info = found.info(&transport);
    let mut record = Record::begin(cx, slot, &transport, info.as_ref());
    let Some(chain) = slot.find(&found.facts(&transport)) else {
        slot.stats.no_filter_chain_match().inc();
        if let Some(mut record) = record {
            record.0.info.flags.insert(ResponseFlags::NO_ROUTE);
            record.0.info.code_details = "filter_chain_not_found".into();
            record.write(cx, slot);
        }
        return Box::pin(std::future::ready(()));
    };
    if let Some(record) = &mut record {
        record.0.info.listener = chain.info();
    }
    let accepted = Accepted { chain, transport, info, early };
    Box::pin(async move {
        slot.stats.downstream_cx_total().inc();
        let active = ActiveGuard::new(&slot.stats, ListenerStats::downstream_cx_active);
        match Box::pin(secure(cx, slot, accepted)).await {
            Ok(accepted) => serve_chain(cx, accepted, record.as_mut()).await,
            Err(reason) => {
                if let Some(record) = &mut record {
                    record.0.info.downstream_mut().transport_failure_reason = reason;
                }
            }
        }
        slot.stats.downstream_cx_destroy().inc();
        drop(active);
        if let Some(record) = record {
            record.write(cx, slot);
        }
    })
}

type Serving<'a> = Pin<Box<dyn Future<Output = ()> + 'a>>;

fn serve_chain<'a>(cx: &'a Rc<WorkerCx>, accepted: Accepted, record: Option<&'a mut Record>) -> Serving<'a> {
    let keep = |state: StreamState| {
        if let Some(record) = record {
            *record.0 = state;
        }
    };
    match accepted.chain.live() {
        LiveChain::Http(_) => {
            let filters = accepted.chain.network_filters();
            if filters.is_empty() {
                Box::pin(serve::http(cx, accepted))
            } else {
                Box::pin(async move { keep(network::serve_http(cx, accepted, &filters).await) })
            }
        }
        LiveChain::Tcp(chain) => Box::pin(async move { keep(tcp::proxy(cx, &chain, accepted).await) }),
    }
}

/// What the listener's own access logs tell of a connection.
#[derive(Debug)]
struct Record(Box<StreamState>);

impl Record {
    /// `None`: there are no such logs.
    fn begin(
        cx: &WorkerCx,
        slot: &ListenerSlot,
        transport: &Transport,
        connection: Option<&Arc<ConnectionInfo>>,
    ) -> Option<Record> {
        let listener = slot.listener.borrow();
        if listener.access_logs.is_empty() {
            return None;
        }
        let of_listener = Rc::new(chain::describe(&listener, None));
        let state = transport.connection_state(cx.connection_id(), connection.cloned(), of_listener);
        Some(Record(Box::new(state)))
    }

    fn write(mut self, cx: &WorkerCx, slot: &ListenerSlot) {
        self.0.info.mark(TimingPoint::ResponseComplete, std::time::Instant::now());
        self.0.info.downstream_closed.how.get_or_insert(CloseType::Normal);
        let state = Rc::new(RefCell::new(*self.0));
        cx.live().log(cx, &slot.listener().access_logs, LogType::NotSet, &state);
    }
}

/// Runs the listener filters; `Err`: the connection is closed.
async fn inspect(cx: &Rc<WorkerCx>, slot: &Rc<ListenerSlot>, pending: &mut Pending) -> Result<(), Refused> {
    let listener = slot.listener();
    let stats = &slot.stats;
    let mut inspection = Inspection::new(listener.clone());
    let began = Instant::now();
    let deadline = listener.listener_filters_timeout.map(|timeout| began + timeout);
    let mut silence = Some(began + SILENCE);
    let mut timer = LazyTimer::default();
    let id = cx.connection_id();
    let waiting = ActiveGuard::new(stats, ListenerStats::downstream_pre_cx_active);
    let end = poll_fn(|task| {
        if let Poll::Ready(end) = inspection.poll(&mut pending.transport, &mut pending.found, &cx.inspect_stats, task) {
            return Poll::Ready(end);
        }
        if pending.transport.input.is_empty() {
            cx.register_idle(id, task.waker());
            if slot.closing.is_over_for(began) || cx.ending.is_over() {
                return Poll::Ready(Err(Refused::Closed));
            }
        }
        // Whom a server would be connected for isn't known before a PROXY header.
        let server_may_speak = pending.transport.input.is_empty() && !inspection.awaits_header();
        if !server_may_speak {
            silence = Some(Instant::now() + SILENCE);
        } else if poll_server(cx, slot, pending, &mut silence, task).is_ready() {
            return Poll::Ready(Ok(()));
        }
        let due = if server_may_speak { earlier(deadline, silence) } else { deadline };
        if timer.poll_until(due, task).is_ready() {
            if deadline.is_some_and(|deadline| Instant::now() >= deadline) {
                stats.downstream_pre_cx_timeout().inc();
                let goes_on = listener.continue_on_listener_filters_timeout;
                return Poll::Ready(if goes_on { Ok(()) } else { Err(Refused::Filter) });
            }
            task.waker().wake_by_ref();
        }
        Poll::Pending
    });
    let end = end.await;
    cx.unregister_idle(id);
    drop(waiting);
    if end == Err(Refused::Closed) {
        stats.downstream_listener_filter_remote_close().inc();
    } else if end == Err(Refused::Filter) {
        stats.downstream_listener_filter_error().inc();
    }
    end
}

/// Ready when the server speaks. Connects to it once the client has been silent for long enough.
fn poll_server(
    cx: &Rc<WorkerCx>,
    slot: &Rc<ListenerSlot>,
    pending: &mut Pending,
    silence: &mut Option<Instant>,
    task: &mut Context<'_>,
) -> Poll<()> {
    if silence.is_some_and(|silence| Instant::now() >= silence) {
        *silence = None;
        // Another listener will look at the connection: it asks by itself.
        if pending.early.is_none() && slot.hand_off(cx, pending).is_none() {
            let chain = slot.find(&pending.found.facts(&pending.transport));
            let transport = &pending.transport;
            let ends =
                Ends { source: transport.remote, local: transport.local, connection: pending.found.info(transport) };
            pending.early = chain.and_then(|chain| Early::begin(cx, chain, ends));
        }
    }
    match &mut pending.early {
        Some(early) => early.poll_speaks(task),
        None => Poll::Pending,
    }
}

impl ListenerSlot {
    /// The listener of the address that a connection was redirected from (`use_original_dst`).
    fn hand_off(&self, cx: &WorkerCx, pending: &Pending) -> Option<Rc<ListenerSlot>> {
        let listener = self.listener.borrow();
        if !listener.use_original_dst {
            return None;
        }
        let destination = pending.transport.local?;
        if !pending.found.restored {
            return None;
        }
        let other = cx.listener_at(destination)?;
        (!std::ptr::eq(&*other, self)).then_some(other)
    }
}

/// The addresses that a listener for a destination may be configured with, the most exact first.
pub(crate) fn listener_addresses(destination: SocketAddr) -> [SocketAddr; 3] {
    let port = destination.port();
    let wildcard = |ip: IpAddr| SocketAddr::new(ip, port);
    let (v4, v6) = (wildcard(Ipv4Addr::UNSPECIFIED.into()), wildcard(Ipv6Addr::UNSPECIFIED.into()));
    if destination.is_ipv4() { [destination, v4, v6] } else { [destination, v6, v6] }
}
