//! What workers shed while a resource is short: written by the control side, read with one relaxed load a request.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use outrigger_config::{Action, ActiveCount, OverloadManager};

use crate::cluster::BreakerSet;

/// A state of 1.
const FULL: u32 = 1_000_000;

/// How active each action is, for all workers.
#[derive(Debug)]
pub struct Overload {
    /// By [`Action`], in millionths.
    states: [AtomicU32; Action::ALL.len()],
    connections_max: AtomicU64,
    /// Open connections of the listeners that have a bound, by name; set once.
    listeners: OnceLock<HashMap<Arc<str>, Arc<ActiveCount>>>,
    breakers: BreakerSet,
}

impl Default for Overload {
    fn default() -> Overload {
        Overload {
            states: Default::default(),
            connections_max: AtomicU64::new(u64::MAX),
            listeners: OnceLock::new(),
            breakers: BreakerSet::default(),
        }
    }
}

impl Overload {
    pub(crate) fn new(breakers: BreakerSet) -> Overload {
        Overload { breakers, ..Overload::default() }
    }

    /// Requests of the process that wait for an upstream connection.
    #[must_use]
    pub fn pending_requests(&self) -> u64 {
        self.breakers.pending_requests()
    }

    /// Sets how active an action is, from 0 to 1.
    pub fn set(&self, action: Action, state: f64) {
        let millionths = (state.clamp(0.0, 1.0) * f64::from(FULL)).round();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "it is between 0 and a million")]
        self.states[action as usize].store(millionths as u32, Ordering::Relaxed);
    }

    /// Bounds open downstream connections: of the process, and of listeners. Before any listener opens.
    pub fn bound_connections(&self, manager: &OverloadManager) {
        self.connections_max.store(manager.max_downstream_connections.unwrap_or(u64::MAX), Ordering::Relaxed);
        let listeners = manager.max_listener_connections.iter();
        let counts = listeners.map(|(name, max)| (Arc::clone(name), Arc::new(ActiveCount::new(Some(*max)))));
        _ = self.listeners.set(counts.collect());
    }

    /// The open connections of a listener that has a bound.
    pub(crate) fn connections_of(&self, listener: &str) -> Option<Arc<ActiveCount>> {
        self.listeners.get()?.get(listener).cloned()
    }

    pub(crate) fn connections_max(&self) -> u64 {
        self.connections_max.load(Ordering::Relaxed)
    }

    /// Whether an action holds for the one who asks: by chance where it is partly active. `random` is below [`u32::MAX`].
    #[inline]
    pub(crate) fn applies(&self, action: Action, random: impl FnOnce() -> u32) -> bool {
        let state = self.states[action as usize].load(Ordering::Relaxed);
        state != 0 && (state >= FULL || random() % FULL < state)
    }

    /// Whether an action is fully active.
    pub(crate) fn saturated(&self, action: Action) -> bool {
        self.states[action as usize].load(Ordering::Relaxed) >= FULL
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_state_is_a_share() {
        let overload = Overload::default();
        let shed = |overload: &Overload| {
            (0..1000).filter(|n| overload.applies(Action::StopAcceptingRequests, || n * 1000)).count()
        };
        assert_eq!(shed(&overload), 0);
        overload.set(Action::StopAcceptingRequests, 0.25);
        assert_eq!(shed(&overload), 250);
        assert!(!overload.saturated(Action::StopAcceptingRequests));
        overload.set(Action::StopAcceptingRequests, 7.0);
        assert_eq!(shed(&overload), 1000);
        assert!(overload.saturated(Action::StopAcceptingRequests));
        assert!(!overload.applies(Action::DisableHttpKeepalive, || 0));
    }
}
