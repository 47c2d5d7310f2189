//! A generation, ready to be served: everything that can fail or takes time has been done.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex, PoisonError};

use outrigger_config::{Listener, Snapshot, WasmPlugin};
use outrigger_wasm::ReadyVm;
use socket2::{Domain, Protocol, Socket, Type};

use crate::plugin::PreparedPlugin;
use crate::tls::Acceptors;

/// What workers swap to.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) plugins: HashMap<Arc<WasmPlugin>, PreparedPlugin>,
    pub(crate) sockets: BTreeMap<Arc<str>, Arc<ListenerSockets>>,
    pub(crate) acceptors: Acceptors,
}

/// One worker's started VMs, for plugins that the previous generation didn't have.
#[derive(Debug, Default)]
pub struct WorkerVms {
    pub vms: Vec<ReadyVm>,
}

/// A listener that couldn't be opened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ListenerFailure {
    pub listener: Arc<str>,
    pub reason: String,
}

/// A listening address as `/listeners` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundListener {
    pub name: Arc<str>,
    pub address: SocketAddr,
}

/// The sockets of a listener: one for each worker, on one address.
#[derive(Debug)]
pub(crate) struct ListenerSockets {
    wanted: SocketAddr,
    pub(crate) bound: SocketAddr,
    sockets: Mutex<Vec<Option<TcpListener>>>,
}

impl ListenerSockets {
    /// A worker's socket; once.
    pub(crate) fn take(&self, worker: usize) -> Option<TcpListener> {
        self.sockets.lock().unwrap_or_else(PoisonError::into_inner).get_mut(worker)?.take()
    }
}

impl Prepared {
    /// Opens the sockets of the listeners that `previous` doesn't have on the same address; all or nothing.
    pub fn new(
        snapshot: Arc<Snapshot>,
        plugins: HashMap<Arc<WasmPlugin>, PreparedPlugin>,
        previous: Option<&Arc<Prepared>>,
        concurrency: usize,
    ) -> Result<Prepared, Vec<ListenerFailure>> {
        let mut sockets = BTreeMap::new();
        let mut failures = Vec::new();
        for (name, listener) in &snapshot.listeners {
            let known = previous
                .and_then(|previous| previous.sockets.get(name))
                .filter(|known| known.wanted == listener.address);
            if let Some(known) = known {
                sockets.insert(name.clone(), known.clone());
                continue;
            }
            let shared =
                previous.is_some_and(|previous| previous.sockets.values().any(|known| known.bound == listener.address));
            match open(listener, concurrency, shared) {
                Ok(opened) => _ = sockets.insert(name.clone(), Arc::new(opened)),
                Err(error) => {
                    let reason = format!("cannot bind '{}': {error}", listener.address);
                    failures.push(ListenerFailure { listener: name.clone(), reason });
                }
            }
        }
        if !failures.is_empty() {
            return Err(failures);
        }
        let acceptors = Acceptors::build(&snapshot, previous.map(|previous| &previous.acceptors));
        Ok(Prepared { snapshot, plugins, sockets, acceptors })
    }

    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    #[must_use]
    pub fn plugins(&self) -> &HashMap<Arc<WasmPlugin>, PreparedPlugin> {
        &self.plugins
    }

    #[must_use]
    pub fn listeners(&self) -> Vec<BoundListener> {
        self.sockets
            .iter()
            .map(|(name, sockets)| BoundListener { name: name.clone(), address: sockets.bound })
            .collect()
    }
}

fn open(listener: &Listener, concurrency: usize, shared: bool) -> io::Result<ListenerSockets> {
    if !shared && listener.address.port() != 0 {
        // Without SO_REUSEPORT another process on the port is noticed, instead of sharing its connections with it.
        drop(bind(listener, listener.address, false)?);
    }
    let mut address = listener.address;
    let mut sockets = Vec::with_capacity(concurrency);
    for _ in 0..concurrency.max(1) {
        let socket = bind(listener, address, true)?;
        socket.listen(i32::try_from(listener.backlog).unwrap_or(i32::MAX))?;
        let socket: TcpListener = socket.into();
        address = socket.local_addr()?;
        sockets.push(Some(socket));
    }
    Ok(ListenerSockets { wanted: listener.address, bound: address, sockets: Mutex::new(sockets) })
}

fn bind(listener: &Listener, address: SocketAddr, reuse_port: bool) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(reuse_port)?;
    if address.is_ipv6() {
        socket.set_only_v6(!listener.ipv4_compat)?;
    }
    socket.bind(&address.into())?;
    Ok(socket)
}
