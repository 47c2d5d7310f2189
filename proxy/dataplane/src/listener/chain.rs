//! A filter chain as its connections see it: what it does changes under them with each generation.

use std::cell::{OnceCell, RefCell};
use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{FilterChain, FilterChainMatch, Listener};
use outrigger_http::ListenerInfo;
use tokio::time::Instant;

use super::drain::Drain;
use crate::live::{LiveChain, LiveConfig};
use crate::network::NetworkFactory;
use crate::worker::WorkerCx;

/// A chain of a listener. It outlives generations that have a chain which takes the same connections in the same way; the
/// connections of a chain that has none close when they have answered.
#[derive(Debug)]
pub(crate) struct ChainSlot {
    current: RefCell<Current>,
    /// The listener is gone or drains.
    listener_closing: Rc<Drain>,
    /// The chain is gone.
    gone: Drain,
}

#[derive(Debug)]
struct Current {
    listener: Arc<Listener>,
    index: usize,
    live: LiveChain,
    filters: Rc<[NetworkFactory]>,
    /// Made for the first stream.
    info: OnceCell<Rc<ListenerInfo>>,
}

/// What tells the chains of a listener apart.
type Key<'a> = (&'a FilterChainMatch, bool);

impl ChainSlot {
    pub(crate) fn live(&self) -> LiveChain {
        self.current.borrow().live.clone()
    }

    /// What makes the network filters of a new connection.
    pub(crate) fn network_filters(&self) -> Rc<[NetworkFactory]> {
        self.current.borrow().filters.clone()
    }

    /// Whose stream it is.
    pub(crate) fn info(&self) -> Rc<ListenerInfo> {
        let Current { listener, index, info, .. } = &*self.current.borrow();
        let make = || Rc::new(describe(listener, listener.chains.get(*index)));
        info.get_or_init(make).clone()
    }

    /// Its configuration.
    pub(crate) fn config<T>(&self, read: impl FnOnce(&FilterChain) -> T) -> Option<T> {
        let current = self.current.borrow();
        current.listener.chains.get(current.index).map(read)
    }

    /// `per_connection_buffer_limit_bytes`; the largest number where it isn't set.
    pub(crate) fn buffer_limit(&self) -> usize {
        self.current.borrow().listener.per_connection_buffer_limit_bytes.map_or(usize::MAX, |limit| limit as usize)
    }

    /// Whether nothing is shed here while memory is short.
    pub(crate) fn bypasses_overload(&self) -> bool {
        self.current.borrow().listener.bypasses_overload
    }

    /// Whether a connection is to close with its next answer.
    pub(crate) fn is_closing(&self, connection: u64) -> bool {
        self.listener_closing.includes(connection) || self.gone.includes(connection)
    }

    /// Whether a connection closes that is idle.
    pub(crate) fn is_over_for(&self, opened: Instant) -> bool {
        self.listener_closing.is_over_for(opened) || self.gone.is_over()
    }
}

/// What streams tell of a listener and of the chain that they came by, once it is known.
pub(super) fn describe(listener: &Listener, chain: Option<&FilterChain>) -> ListenerInfo {
    ListenerInfo {
        name: listener.name.clone(),
        direction: listener.direction,
        metadata: listener.metadata.clone(),
        chain_name: chain.map(|chain| chain.name.clone()).unwrap_or_default(),
        chain_metadata: chain.and_then(|chain| chain.metadata.clone()),
    }
}

/// The chains of a listener, in its order. Those of `previous` that go on are the same objects; the others are gone.
pub(super) fn build(
    listener: &Arc<Listener>,
    previous: Option<(&Arc<Listener>, &[Rc<ChainSlot>])>,
    closing: &Rc<Drain>,
    live: &Rc<LiveConfig>,
    cx: &Rc<WorkerCx>,
) -> Vec<Rc<ChainSlot>> {
    let mut known: HashMap<Key<'_>, (&FilterChain, &Rc<ChainSlot>)> = HashMap::new();
    if let Some((before, slots)) = previous {
        known.extend(before.chains.iter().zip(slots).enumerate().map(|(index, (chain, slot))| {
            let key = (&chain.criteria, before.table.default_chain() == Some(index));
            (key, (chain, slot))
        }));
    }
    let chains = listener.chains.iter().enumerate().map(|(index, chain)| {
        let filters = live.network_filters(chain, cx);
        let key = (&chain.criteria, listener.table.default_chain() == Some(index));
        let before = known.get(&key).map(|(_, slot)| slot.live());
        let current = Current {
            listener: listener.clone(),
            index,
            live: live.chain(&chain.filter, before.as_ref(), cx),
            filters,
            info: OnceCell::new(),
        };
        match known.remove(&key) {
            Some((before, slot)) if before.takes_as(chain) => {
                let filters = NetworkFactory::after(&current.filters, &slot.current.borrow().filters);
                *slot.current.borrow_mut() = Current { filters, ..current };
                slot.clone()
            }
            other => {
                if let Some((_, slot)) = other {
                    slot.gone.begin(cx, cx.drain_options());
                }
                let current = RefCell::new(current);
                Rc::new(ChainSlot { current, listener_closing: closing.clone(), gone: Drain::default() })
            }
        }
    });
    let chains = chains.collect();
    known.values().for_each(|(_, slot)| slot.gone.begin(cx, cx.drain_options()));
    chains
}
