//! A worker's listeners: accepting, and what their connections do in the newest generation.

use std::cell::{Cell, RefCell};
use std::future::{Future, poll_fn};
use std::rc::Rc;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use outrigger_config::Listener;
use outrigger_http::Direction;
use outrigger_stats::Registry;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;

use crate::live::LiveChain;
use crate::serve;
use crate::stats::{ActiveGuard, ListenerStats};
use crate::tcp;
use crate::worker::WorkerCx;

/// A listener as its connections see it: the chain changes under them with each generation.
#[derive(Debug)]
pub(crate) struct ListenerSlot {
    pub(crate) name: Arc<str>,
    pub(crate) stats: Rc<ListenerStats>,
    listener: RefCell<Arc<Listener>>,
    chain: RefCell<LiveChain>,
    /// The listener is gone or drains: connections close when they have answered.
    closing: Cell<bool>,
    stop: RefCell<Option<Rc<Notify>>>,
}

impl ListenerSlot {
    pub(crate) fn new(listener: Arc<Listener>, chain: LiveChain, registry: &Arc<Registry>) -> Rc<ListenerSlot> {
        Rc::new(ListenerSlot {
            name: listener.name.clone(),
            stats: ListenerStats::new(registry, &listener.stat_prefix),
            listener: RefCell::new(listener),
            chain: RefCell::new(chain),
            closing: Cell::new(false),
            stop: RefCell::new(None),
        })
    }

    pub(crate) fn update(&self, listener: Arc<Listener>, chain: LiveChain) {
        *self.listener.borrow_mut() = listener;
        *self.chain.borrow_mut() = chain;
    }

    pub(crate) fn listener(&self) -> Arc<Listener> {
        self.listener.borrow().clone()
    }

    pub(crate) fn chain(&self) -> LiveChain {
        self.chain.borrow().clone()
    }

    pub(crate) fn is_closing(&self) -> bool {
        self.closing.get()
    }

    pub(crate) fn is_inbound(&self) -> bool {
        self.listener.borrow().direction == Direction::Inbound
    }

    /// Accepts on a socket, in place of the one before.
    pub(crate) fn open(self: &Rc<Self>, cx: &Rc<WorkerCx>, socket: std::net::TcpListener) {
        self.stop_accepting();
        let socket = match TcpListener::from_std(socket) {
            Ok(socket) => socket,
            Err(error) => {
                tracing::error!(listener = %self.name, "cannot accept: {error}");
                return;
            }
        };
        let stop = Rc::new(Notify::new());
        *self.stop.borrow_mut() = Some(stop.clone());
        tokio::task::spawn_local(accept_loop(cx.clone(), self.clone(), socket, stop));
    }

    pub(crate) fn stop_accepting(&self) {
        if let Some(stop) = self.stop.borrow_mut().take() {
            stop.notify_one();
        }
    }

    pub(crate) fn close(&self) {
        self.stop_accepting();
        self.closing.set(true);
    }
}

async fn accept_loop(cx: Rc<WorkerCx>, slot: Rc<ListenerSlot>, socket: TcpListener, stop: Rc<Notify>) {
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
            Some(Ok((socket, _))) => dispatch(&cx, &slot, socket),
            Some(Err(error)) => {
                // Out of descriptors or memory: the queue waits, the process goes on.
                slot.stats.downstream_cx_overflow().inc();
                tracing::warn!(listener = %slot.name, "accept: {error}");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

/// Few long connections must not all stay where the kernel put them.
fn dispatch(cx: &Rc<WorkerCx>, slot: &Rc<ListenerSlot>, socket: TcpStream) {
    let worker = cx.lightest();
    if worker == cx.index {
        serve_connection(cx, slot, socket);
    } else if let Ok(socket) = socket.into_std() {
        cx.hand_over(worker, &slot.name, socket);
    }
}

/// Serves a connection that another worker has accepted.
pub(crate) fn adopt(cx: &Rc<WorkerCx>, slot: &Rc<ListenerSlot>, socket: std::net::TcpStream) {
    if let Ok(socket) = TcpStream::from_std(socket) {
        serve_connection(cx, slot, socket);
    }
}

fn serve_connection(cx: &Rc<WorkerCx>, slot: &Rc<ListenerSlot>, socket: TcpStream) {
    slot.stats.downstream_cx_total().inc();
    let count = cx.connection();
    let active = ActiveGuard::new(&slot.stats, ListenerStats::downstream_cx_active);
    let (cx, slot) = (cx.clone(), slot.clone());
    tokio::task::spawn_local(async move {
        match slot.chain() {
            LiveChain::Http(_) => serve::http(&cx, &slot, socket).await,
            LiveChain::Tcp(chain) => tcp::proxy(&cx, &slot, &chain, socket).await,
        }
        slot.stats.downstream_cx_destroy().inc();
        drop((count, active));
    });
}
