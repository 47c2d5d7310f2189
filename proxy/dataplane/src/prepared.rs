//! A generation, ready to be served: everything that can fail or takes time has been done.

use std::collections::{BTreeMap, HashMap};
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;

use outrigger_config::{Address, Snapshot, WasmOverride, WasmPlugin};
use outrigger_wasm::ReadyVm;

use crate::bind::ListenerSockets;
use crate::inherited::Inherited;
use crate::plugin::{PreparedPlugin, RolloutRun};
use crate::tls::Acceptors;

/// What workers swap to.
#[derive(Debug)]
pub struct Prepared {
    pub(crate) snapshot: Arc<Snapshot>,
    pub(crate) plugins: HashMap<Arc<WasmPlugin>, PreparedPlugin>,
    pub(crate) by_route: RoutePlugins,
    /// New revisions on trial, by filter.
    pub(crate) rollouts: HashMap<Arc<str>, Arc<RolloutRun>>,
    pub(crate) sockets: BTreeMap<Arc<str>, Arc<ListenerSockets>>,
    pub(crate) acceptors: Acceptors,
}

/// What routes make of filters' plugins, by the filter's plugin and by what the route says; their addresses are those of the
/// snapshot's own.
#[derive(Debug, Clone, Default)]
pub struct RoutePlugins(HashMap<(usize, usize), Arc<WasmPlugin>>);

impl RoutePlugins {
    pub fn insert(&mut self, filter: &Arc<WasmPlugin>, route: &Arc<WasmOverride>, plugin: Arc<WasmPlugin>) {
        self.0.insert((Arc::as_ptr(filter).addr(), Arc::as_ptr(route).addr()), plugin);
    }

    pub(crate) fn get(&self, filter: &Arc<WasmPlugin>, route: &Arc<WasmOverride>) -> Option<&Arc<WasmPlugin>> {
        self.0.get(&(Arc::as_ptr(filter).addr(), Arc::as_ptr(route).addr()))
    }
}

/// What a generation's filters run with.
#[derive(Debug, Clone, Default)]
pub struct GenerationPlugins {
    pub plugins: HashMap<Arc<WasmPlugin>, PreparedPlugin>,
    pub by_route: RoutePlugins,
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

/// A listener as `/listeners` shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BoundListener {
    pub name: Arc<str>,
    /// Where it listens, its own address first; where it would, if it isn't bound.
    pub addresses: Vec<Address>,
}

impl Prepared {
    /// Opens the sockets of the listeners that `previous` doesn't have on the same address; all or nothing.
    pub fn new(
        snapshot: Arc<Snapshot>,
        plugins: GenerationPlugins,
        rollouts: HashMap<Arc<str>, Arc<RolloutRun>>,
        previous: Option<&Arc<Prepared>>,
        concurrency: usize,
        inherited: &Inherited,
    ) -> Result<Prepared, Vec<ListenerFailure>> {
        let mut failures = Vec::new();
        let last = previous.map(|previous| &previous.sockets);
        let mut sockets: BTreeMap<Arc<str>, Arc<ListenerSockets>> = BTreeMap::new();
        let bound = || snapshot.listeners.iter().filter(|(_, listener)| listener.bind_to_port);
        for (name, listener) in bound() {
            if let Some(known) = last.and_then(|last| last.get(name)).filter(|known| known.suit(listener)) {
                sockets.insert(name.clone(), known.clone());
            }
        }
        let in_use =
            |address: &Address| last.is_some_and(|last| last.values().any(|known| known.is_in_the_way(address)));
        for (name, listener) in bound() {
            if sockets.contains_key(name) {
                continue;
            }
            let taken = sockets.iter().find(|(_, other)| listener.addresses.iter().any(|own| other.has(&own.address)));
            let opened = match taken {
                Some((other, _)) => Err(format!("has an address of listener '{other}'")),
                None => ListenerSockets::open(listener, concurrency, in_use, inherited),
            };
            match opened {
                Ok(opened) => _ = sockets.insert(name.clone(), Arc::new(opened)),
                Err(reason) => failures.push(ListenerFailure { listener: name.clone(), reason }),
            }
        }
        if !failures.is_empty() {
            return Err(failures);
        }
        let acceptors = Acceptors::build(&snapshot, previous.map(|previous| &previous.acceptors));
        let GenerationPlugins { plugins, by_route } = plugins;
        Ok(Prepared { snapshot, plugins, by_route, rollouts, sockets, acceptors })
    }

    #[must_use]
    pub fn snapshot(&self) -> &Arc<Snapshot> {
        &self.snapshot
    }

    #[must_use]
    pub fn plugins(&self) -> &HashMap<Arc<WasmPlugin>, PreparedPlugin> {
        &self.plugins
    }

    /// The listening sockets for a successor, with the addresses that they are bound to.
    #[must_use]
    pub fn sockets_for_successor(&self) -> Vec<(SocketAddr, OwnedFd)> {
        self.sockets.values().flat_map(|sockets| sockets.for_successor()).collect()
    }

    #[must_use]
    pub fn listeners(&self) -> Vec<BoundListener> {
        let addresses = |name: &Arc<str>, configured: Vec<Address>| {
            self.sockets.get(name).map_or(configured, |sockets| sockets.bound.clone())
        };
        let listeners = self.snapshot.listeners.iter();
        listeners
            .map(|(name, listener)| {
                let configured = listener.addresses.iter().map(|listen| listen.address.clone()).collect();
                BoundListener { name: name.clone(), addresses: addresses(name, configured) }
            })
            .collect()
    }
}
