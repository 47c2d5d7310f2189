//! A worker: one thread, one runtime, its own sockets, pools and VMs. Nothing on the request path is shared or locked.

use std::cell::{Cell, RefCell, RefMut};
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::Waker;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_config::{Action, Snapshot};
use outrigger_stats::Registry;
use outrigger_wasm::Services;
use rand::rngs::SmallRng;
use rand::{RngCore, SeedableRng};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use crate::access_log::AccessLogWriter;
use crate::cluster::{BreakerSet, ClusterStatus, HealthSet, LocalCluster, LocalZone};
use crate::listener::{self, Drain, ListenerSlot};
use crate::live::LiveConfig;
use crate::overload::Overload;
use crate::pace;
use crate::prepared::{Prepared, WorkerVms};
use crate::socket::StdSocket;
use crate::stats::InspectStats;
use crate::texts::AddressTexts;
use crate::tls::Handshakes;
use crate::trace::{SpanSink, Spans};
use crate::workers::{DrainOptions, DrainRequest};

/// How long the two clocks are taken to run alike.
const CLOCKS_AGREE: Duration = Duration::from_secs(1);

/// What the control side asks of a worker.
pub(crate) enum Command {
    Publish(Arc<Prepared>, WorkerVms, oneshot::Sender<()>),
    Clusters(oneshot::Sender<Vec<ClusterStatus>>),
    Drain(DrainRequest),
    /// Stops accepting, drains and then ends; at the latest after this long.
    Shutdown(Duration, DrainOptions),
    /// A connection that another worker has accepted and hands over.
    Accept(Arc<str>, StdSocket),
}

/// What all workers share, made once.
#[derive(Debug, Clone)]
pub(crate) struct Shared {
    pub(crate) registry: Arc<Registry>,
    pub(crate) services: Arc<Services>,
    pub(crate) drain: DrainOptions,
    pub(crate) access_log: AccessLogWriter,
    pub(crate) breakers: BreakerSet,
    pub(crate) overload: Arc<Overload>,
    pub(crate) spans: SpanSink,
    pub(crate) health: HealthSet,
    pub(crate) local: Option<LocalZone>,
    /// Open connections of each worker.
    pub(crate) connections: Arc<[AtomicUsize]>,
}

/// A worker's state, for everything that runs on its thread.
#[derive(Debug)]
pub(crate) struct WorkerCx {
    pub(crate) index: usize,
    pub(crate) registry: Arc<Registry>,
    pub(crate) services: Arc<Services>,
    pub(crate) access_log: AccessLogWriter,
    pub(crate) breakers: BreakerSet,
    pub(crate) handshakes: Handshakes,
    pub(crate) overload: Arc<Overload>,
    pub(crate) spans: Spans,
    drain: DrainOptions,
    pub(crate) health: HealthSet,
    /// `None`: zones don't matter.
    pub(crate) local: Option<Rc<LocalCluster>>,
    connections: Arc<[AtomicUsize]>,
    peers: RefCell<Vec<mpsc::UnboundedSender<Command>>>,
    live: RefCell<Rc<LiveConfig>>,
    listeners: RefCell<HashMap<Arc<str>, Rc<ListenerSlot>>>,
    /// For connections that were redirected.
    listeners_by_address: RefCell<HashMap<SocketAddr, Rc<ListenerSlot>>>,
    pub(crate) inspect_stats: InspectStats,
    random: RefCell<SmallRng>,
    date: RefCell<(u64, Bytes)>,
    address_texts: AddressTexts,
    /// One instant by both clocks.
    clocks: Cell<(Instant, SystemTime)>,
    /// The process ends.
    pub(crate) ending: Drain,
    idle: RefCell<HashMap<u64, Waker>>,
    pub(crate) connection_ids: Rc<ConnectionIds>,
    active: Cell<usize>,
    ended: tokio::sync::Notify,
}

/// Ids of connections, of clients and to endpoints. They are unique in the process: the worker stands in the upper bits.
#[derive(Debug)]
pub(crate) struct ConnectionIds {
    worker: u64,
    last: Cell<u64>,
}

impl ConnectionIds {
    pub(crate) fn next(&self) -> u64 {
        let next = self.last.get() + 1;
        self.last.set(next);
        self.worker << 48 | next
    }
}

impl WorkerCx {
    pub(crate) fn new(index: usize, shared: Shared, peers: Vec<mpsc::UnboundedSender<Command>>) -> Rc<WorkerCx> {
        Rc::new(WorkerCx {
            index,
            inspect_stats: InspectStats::new(shared.registry.clone()),
            spans: Spans::new(shared.spans, &shared.registry),
            registry: shared.registry,
            services: shared.services,
            access_log: shared.access_log,
            breakers: shared.breakers,
            handshakes: Handshakes::default(),
            overload: shared.overload,
            drain: shared.drain,
            health: shared.health,
            local: shared.local.map(|local| Rc::new(LocalCluster::new(local))),
            connections: shared.connections,
            peers: RefCell::new(peers),
            live: RefCell::new(LiveConfig::empty()),
            listeners: RefCell::default(),
            listeners_by_address: RefCell::default(),
            random: RefCell::new(SmallRng::from_os_rng()),
            date: RefCell::new((0, Bytes::new())),
            address_texts: AddressTexts::default(),
            clocks: Cell::new((Instant::now(), SystemTime::now())),
            ending: Drain::default(),
            idle: RefCell::default(),
            connection_ids: Rc::new(ConnectionIds { worker: index as u64, last: Cell::new(0) }),
            active: Cell::new(0),
            ended: tokio::sync::Notify::new(),
        })
    }

    /// The newest generation.
    pub(crate) fn live(&self) -> Rc<LiveConfig> {
        self.live.borrow().clone()
    }

    pub(crate) fn random(&self) -> RefMut<'_, SmallRng> {
        self.random.borrow_mut()
    }

    pub(crate) const fn drain_options(&self) -> DrainOptions {
        self.drain
    }

    pub(crate) fn connection_id(&self) -> u64 {
        self.connection_ids.next()
    }

    /// The value of `date`, made once a second.
    pub(crate) fn date(&self) -> Bytes {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut date = self.date.borrow_mut();
        if date.0 != now {
            *date = (now, Bytes::from(crate::date::http_date(now)));
        }
        date.1.clone()
    }

    /// An address as headers tell it.
    pub(crate) fn address_text(&self, address: IpAddr) -> Bytes {
        self.address_texts.get(address)
    }

    /// An instant by the wall clock, which is read once a second.
    pub(crate) fn wall_clock(&self, at: Instant) -> SystemTime {
        let (known, time) = self.clocks.get();
        match at.checked_duration_since(known) {
            Some(since) if since < CLOCKS_AGREE => time + since,
            _ => {
                let now = (Instant::now(), SystemTime::now());
                self.clocks.set(now);
                now.1 - now.0.saturating_duration_since(at)
            }
        }
    }

    /// A random UUID (RFC 9562, version 4).
    pub(crate) fn request_id(&self) -> Bytes {
        let mut bytes = [0; 16];
        self.random().fill_bytes(&mut bytes);
        bytes[6] = bytes[6] & 0x0f | 0x40;
        bytes[8] = bytes[8] & 0x3f | 0x80;
        let mut text = Vec::with_capacity(36);
        for (index, byte) in bytes.iter().enumerate() {
            if matches!(index, 4 | 6 | 8 | 10) {
                text.push(b'-');
            }
            text.push(b"0123456789abcdef"[usize::from(byte >> 4)]);
            text.push(b"0123456789abcdef"[usize::from(byte & 15)]);
        }
        text.into()
    }

    /// The listener that a destination is configured for: by its address, or by its port for any address.
    pub(crate) fn listener_at(&self, destination: SocketAddr) -> Option<Rc<ListenerSlot>> {
        let listeners = self.listeners_by_address.borrow();
        listener::listener_addresses(destination).iter().find_map(|address| listeners.get(address)).cloned()
    }

    /// Counts a connection as long as the guard lives.
    pub(crate) fn connection(self: &Rc<Self>) -> ConnectionCount {
        self.active.set(self.active.get() + 1);
        self.connections[self.index].fetch_add(1, Ordering::Relaxed);
        ConnectionCount(self.clone())
    }

    /// Open connections of the whole process.
    pub(crate) fn connections(&self) -> u64 {
        self.connections.iter().map(|count| count.load(Ordering::Relaxed) as u64).sum()
    }

    /// Whether an overload action holds for the stream or connection that asks.
    #[inline]
    pub(crate) fn overloaded(&self, action: Action) -> bool {
        self.overload.applies(action, || self.random().next_u32())
    }

    /// The worker that should have a new connection: this one, unless another has clearly fewer.
    pub(crate) fn lightest(&self) -> usize {
        let own = self.connections[self.index].load(Ordering::Relaxed);
        let mut best = (own, self.index);
        for (index, count) in self.connections.iter().enumerate() {
            let count = count.load(Ordering::Relaxed);
            // A difference of one is noise: moving costs a message.
            if count + 1 < best.0 {
                best = (count, index);
            }
        }
        best.1
    }

    pub(crate) fn hand_over(&self, worker: usize, listener: &Arc<str>, socket: StdSocket) {
        if let Some(peer) = self.peers.borrow().get(worker) {
            _ = peer.send(Command::Accept(listener.clone(), socket));
        }
    }

    /// An idle connection is woken when it should close.
    pub(crate) fn register_idle(&self, connection: u64, waker: &Waker) {
        self.idle.borrow_mut().insert(connection, waker.clone());
    }

    pub(crate) fn unregister_idle(&self, connection: u64) {
        self.idle.borrow_mut().remove(&connection);
    }

    pub(crate) fn wake_idle(&self) {
        self.idle.borrow().values().for_each(Waker::wake_by_ref);
    }

    fn publish(self: &Rc<Self>, prepared: Arc<Prepared>, vms: WorkerVms) {
        let previous = self.live();
        let live = LiveConfig::build(prepared, vms, &previous, self);
        let snapshot = live.prepared.snapshot.clone();
        let mut listeners = self.listeners.borrow_mut();
        listeners.retain(|name, slot| {
            let kept = snapshot.listeners.contains_key(name);
            if !kept {
                slot.stop_accepting();
                slot.drain(self, self.drain);
            }
            kept
        });
        for (name, listener) in &snapshot.listeners {
            match listeners.get(name) {
                Some(slot) => slot.update(listener, &live, self),
                None => _ = listeners.insert(name.clone(), ListenerSlot::new(listener, &live, self)),
            }
            let Some(slot) = listeners.get(name) else { continue };
            match live.prepared.sockets.get(name) {
                Some(sockets) => slot.open(self, sockets.take(self.index)),
                None => slot.stop_accepting(),
            }
        }
        *self.live.borrow_mut() = live;
        // A generation of other endpoints or routes leaves listeners as they are, and ten thousand connections asleep.
        if !listeners_differ(previous.snapshot(), &snapshot) {
            return;
        }
        let addresses = snapshot.listeners.iter().flat_map(|(name, listener)| {
            listener.socket_addresses().filter_map(|address| Some((address, listeners.get(name)?.clone())))
        });
        *self.listeners_by_address.borrow_mut() = addresses.collect();
        drop(listeners);
        // Nothing else closes a connection that rests.
        self.wake_idle();
    }

    fn drain(self: &Rc<Self>, DrainRequest { inbound_only, graceful, keep_accepting }: DrainRequest) {
        for slot in self.listeners.borrow().values().filter(|slot| !inbound_only || slot.is_inbound()) {
            if graceful {
                slot.drain(self, self.drain);
            }
            match graceful {
                true if keep_accepting => {}
                true => slot.stop_accepting_after(self.drain.time),
                false => slot.stop_accepting(),
            }
        }
        self.wake_idle();
    }

    /// All connections are asked to close, and nothing is accepted any more.
    fn end(self: &Rc<Self>, options: DrainOptions) {
        self.ending.begin(self, options);
        self.listeners.borrow().values().for_each(|slot| slot.stop_accepting());
        self.wake_idle();
    }
}

fn listeners_differ(previous: &Snapshot, next: &Snapshot) -> bool {
    let (previous, next) = (&previous.listeners, &next.listeners);
    previous.len() != next.len() || previous.iter().zip(next).any(|(a, b)| a.0 != b.0 || !Arc::ptr_eq(a.1, b.1))
}

/// An open downstream connection.
#[derive(Debug)]
pub(crate) struct ConnectionCount(Rc<WorkerCx>);

impl Drop for ConnectionCount {
    fn drop(&mut self) {
        self.0.active.set(self.0.active.get() - 1);
        self.0.connections[self.0.index].fetch_sub(1, Ordering::Relaxed);
        if self.0.active.get() == 0 {
            self.0.ended.notify_waiters();
        }
    }
}

/// The worker's thread.
pub(crate) async fn run(
    index: usize,
    shared: Shared,
    mut commands: mpsc::UnboundedReceiver<Command>,
    peers: Vec<mpsc::UnboundedSender<Command>>,
) {
    let cx = WorkerCx::new(index, shared, peers);
    let sweeper = tokio::task::spawn_local(sweep(cx.clone()));
    let keeper = tokio::task::spawn_local(pace::keep());
    while let Some(command) = commands.recv().await {
        match command {
            Command::Publish(prepared, vms, confirm) => {
                cx.publish(prepared, vms);
                _ = confirm.send(());
            }
            Command::Clusters(answer) => _ = answer.send(cx.live().status()),
            Command::Drain(request) => cx.drain(request),
            Command::Accept(name, socket) => {
                let slot = cx.listeners.borrow().get(&name).cloned();
                if let Some(slot) = slot {
                    listener::adopt(&cx, &slot, socket);
                }
            }
            Command::Shutdown(deadline, options) => {
                cx.end(options);
                let ended = async {
                    while cx.active.get() > 0 {
                        cx.ended.notified().await;
                    }
                };
                _ = tokio::time::timeout(deadline, ended).await;
                break;
            }
        }
    }
    sweeper.abort();
    keeper.abort();
    // Pending accesses of the last streams are formatted; the writer thread flushes them.
    *cx.live.borrow_mut() = LiveConfig::empty();
    cx.peers.borrow_mut().clear();
}

async fn sweep(cx: Rc<WorkerCx>) {
    loop {
        tokio::time::sleep(Duration::from_secs(1)).await;
        cx.live().sweep();
    }
}
