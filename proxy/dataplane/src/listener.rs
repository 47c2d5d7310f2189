//! A worker's listeners: their sockets and their filter chains.

mod accept;
mod chain;
mod drain;
mod secure;

use std::cell::{OnceCell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use outrigger_config::{Action, ActiveCount, ConnectionFacts, Listener};
use outrigger_http::{ConnectionInfo, Direction};
use tokio::sync::Notify;

pub(crate) use accept::listener_addresses;
pub(crate) use chain::ChainSlot;
pub(crate) use drain::Drain;

use crate::live::LiveConfig;
use crate::pace::paced;
use crate::socket::{Listening, Socket, StdListener, StdSocket};
use crate::stats::ListenerStats;
use crate::tcp::Early;
use crate::tls::TlsStats;
use crate::transport::Transport;
use crate::worker::WorkerCx;
use crate::workers::DrainOptions;

/// How long nothing is accepted before it is tried again, while descriptors or memory are short.
const PAUSE: Duration = Duration::from_millis(50);

/// A connection that has found its filter chain.
#[derive(Debug)]
pub(crate) struct Accepted {
    pub(crate) chain: Rc<ChainSlot>,
    /// What inspectors have read is in its input.
    pub(crate) transport: Box<Transport>,
    pub(crate) info: Option<Arc<ConnectionInfo>>,
    /// The way to the upstream, where it was begun before the chain was known.
    pub(crate) early: Option<Early>,
}

/// A listener of a worker: its chains, and the sockets that it accepts on.
#[derive(Debug)]
pub(crate) struct ListenerSlot {
    pub(crate) name: Arc<str>,
    pub(crate) stats: Rc<ListenerStats>,
    listener: RefCell<Arc<Listener>>,
    /// As in [`Listener::chains`].
    chains: RefCell<Vec<Rc<ChainSlot>>>,
    /// The listener is gone or drains.
    closing: Rc<Drain>,
    /// Ends the loops that accept.
    stops: RefCell<Vec<Rc<Notify>>>,
    tls_stats: OnceCell<Rc<TlsStats>>,
    /// Its open connections, where they have a bound.
    connections: Option<Arc<ActiveCount>>,
}

/// A connection that counts for its listener.
#[derive(Debug)]
struct Counted(Arc<ActiveCount>);

/// `envoy.resource_limits.listener.NAME.connection_limit` is reached.
#[derive(Debug)]
struct Full;

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl ListenerSlot {
    pub(crate) fn new(listener: &Arc<Listener>, live: &Rc<LiveConfig>, cx: &Rc<WorkerCx>) -> Rc<ListenerSlot> {
        let closing = Rc::default();
        Rc::new(ListenerSlot {
            name: listener.name.clone(),
            stats: ListenerStats::new(&cx.registry, &listener.stat_prefix),
            chains: RefCell::new(chain::build(listener, None, &closing, live, cx)),
            listener: RefCell::new(listener.clone()),
            closing,
            stops: RefCell::default(),
            tls_stats: OnceCell::new(),
            connections: cx.overload.connections_of(&listener.name),
        })
    }

    pub(crate) fn update(&self, listener: &Arc<Listener>, live: &Rc<LiveConfig>, cx: &Rc<WorkerCx>) {
        let before = self.listener.replace(listener.clone());
        let slots = self.chains.take();
        let chains = chain::build(listener, Some((&before, &slots)), &self.closing, live, cx);
        *self.chains.borrow_mut() = chains;
    }

    /// The chain of a connection; `None`: none matches.
    fn find(&self, facts: &ConnectionFacts<'_>) -> Option<Rc<ChainSlot>> {
        let index = self.listener.borrow().table.find(facts)?;
        self.chains.borrow().get(index).cloned()
    }

    fn tls_stats(&self, cx: &WorkerCx) -> Rc<TlsStats> {
        let made = || TlsStats::of_listener(&cx.registry, &self.listener.borrow().stat_prefix);
        self.tls_stats.get_or_init(made).clone()
    }

    pub(crate) fn is_inbound(&self) -> bool {
        self.listener.borrow().direction == Direction::Inbound
    }

    pub(crate) fn listener(&self) -> Arc<Listener> {
        self.listener.borrow().clone()
    }

    /// Whether listener filters look at connections.
    fn inspects(&self) -> bool {
        !self.listener.borrow().listener_filters.is_empty()
    }

    /// Accepts on these sockets, in place of those before; none: on those before.
    pub(crate) fn open(self: &Rc<Self>, cx: &Rc<WorkerCx>, sockets: Vec<StdListener>) {
        if sockets.is_empty() {
            return;
        }
        self.stop_accepting();
        for socket in sockets {
            match Listening::from_std(socket) {
                Ok(socket) => {
                    let stop = Rc::new(Notify::new());
                    self.stops.borrow_mut().push(stop.clone());
                    tokio::task::spawn_local(accept_loop(cx.clone(), self.clone(), socket, stop));
                }
                Err(error) => tracing::error!(listener = %self.name, "cannot accept: {error}"),
            }
        }
    }

    /// Whether a connection that was accepted may stay.
    fn admits(&self, cx: &WorkerCx) -> bool {
        let listener = self.listener.borrow();
        if !listener.ignores_connection_limit && cx.connections() >= cx.overload.connections_max() {
            self.stats.downstream_global_cx_overflow().inc();
            return false;
        }
        if !listener.bypasses_overload && cx.overloaded(Action::RejectIncomingConnections) {
            self.stats.downstream_cx_overload_reject().inc();
            return false;
        }
        true
    }

    /// Counts a connection; `Err`: the listener has as many as it may have.
    fn count(&self) -> Result<Option<Counted>, Full> {
        match &self.connections {
            None => Ok(None),
            Some(count) if count.begin() => Ok(Some(Counted(count.clone()))),
            Some(_) => Err(Full),
        }
    }

    /// Leaves connections in the kernel's queue while nothing more is accepted.
    async fn wait_for_room(&self, cx: &WorkerCx) {
        while !self.listener.borrow().bypasses_overload && cx.overload.saturated(Action::StopAcceptingConnections) {
            tokio::time::sleep(PAUSE).await;
        }
    }

    pub(crate) fn stop_accepting(&self) {
        self.stops.borrow_mut().drain(..).for_each(|stop| stop.notify_one());
    }

    /// Connections are asked to close. Whoever stops accepting does so at once or at the end ([`Self::stop_accepting_after`]).
    pub(crate) fn drain(&self, cx: &Rc<WorkerCx>, drain: DrainOptions) {
        self.closing.begin(cx, drain);
    }

    pub(crate) fn stop_accepting_after(self: &Rc<Self>, time: Duration) {
        let slot = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            tokio::time::sleep(time).await;
            if let Some(slot) = slot.upgrade() {
                slot.stop_accepting();
            }
        });
    }
}

async fn accept_loop(cx: Rc<WorkerCx>, slot: Rc<ListenerSlot>, socket: Listening, stop: Rc<Notify>) {
    let mut stopped = std::pin::pin!(stop.notified());
    let mut stopping = false;
    loop {
        let accepted = poll_fn(|task| {
            stopping = stopping || stopped.as_mut().poll(task).is_ready();
            match socket.poll_accept(task) {
                Poll::Ready(accepted) => Poll::Ready(Some(accepted)),
                // Who is in the queue already is served; then the socket closes.
                Poll::Pending if stopping => Poll::Ready(None),
                Poll::Pending => Poll::Pending,
            }
        });
        match accepted.await {
            None => return,
            Some(Ok(socket)) => {
                if slot.admits(&cx) {
                    dispatch(&cx, &slot, socket);
                }
                slot.wait_for_room(&cx).await;
            }
            Some(Err(error)) => {
                // Out of descriptors or memory: the queue waits, the process goes on.
                slot.stats.downstream_cx_overflow().inc();
                tracing::warn!(listener = %slot.name, "accept: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

/// Few long connections must not all stay where the kernel put them.
fn dispatch(cx: &Rc<WorkerCx>, slot: &Rc<ListenerSlot>, socket: Socket) {
    let worker = cx.lightest();
    if worker == cx.index {
        serve_connection(cx, slot, socket);
    } else if let Ok(socket) = socket.into_std() {
        cx.hand_over(worker, &slot.name, socket);
    }
}

/// Serves a connection that another worker has accepted.
pub(crate) fn adopt(cx: &Rc<WorkerCx>, slot: &Rc<ListenerSlot>, socket: StdSocket) {
    if let Ok(socket) = Socket::from_std(socket) {
        serve_connection(cx, slot, socket);
    }
}

fn serve_connection(cx: &Rc<WorkerCx>, slot: &Rc<ListenerSlot>, socket: Socket) {
    let Ok(mut transport) = Transport::new(socket).map(Box::new) else { return };
    transport.let_ask();
    let Ok(of_listener) = slot.count() else {
        slot.stats.downstream_cx_overflow().inc();
        return;
    };
    let count = cx.connection();
    let (cx, slot) = (cx.clone(), slot.clone());
    tokio::task::spawn_local(paced(|rest| async move {
        transport.rest = Some(rest);
        accept::serve(&cx, &slot, transport, of_listener).await;
        drop(count);
    }));
}
