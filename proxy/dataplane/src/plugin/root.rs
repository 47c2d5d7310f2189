//! A plugin in one instance: its root context there, its ticks, and how many streams it has.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_wasm::{FailurePolicy, Plugin, RootId};

use super::Instance;

/// A root context. It ends when it has been superseded and its last stream is over.
#[derive(Debug)]
pub(crate) struct Root {
    pub(super) instance: Rc<Instance>,
    pub(super) id: RootId,
    plugin: Arc<Plugin>,
    streams: Cell<usize>,
    /// No new streams, no ticks.
    superseded: Cell<bool>,
    tick: Cell<Option<Duration>>,
    /// Which ticking task is the current one.
    ticker: Cell<u64>,
}

impl Root {
    pub(super) fn new(instance: &Rc<Instance>, id: RootId, plugin: &Arc<Plugin>) -> Rc<Root> {
        let root = Rc::new(Root {
            instance: instance.clone(),
            id,
            plugin: plugin.clone(),
            streams: Cell::new(0),
            superseded: Cell::new(false),
            tick: Cell::new(None),
            ticker: Cell::new(0),
        });
        instance.adopt(&root);
        root.update_ticker();
        root
    }

    #[inline]
    pub(crate) fn policy(&self) -> FailurePolicy {
        self.plugin.failure_policy
    }

    pub(super) fn is_in(&self, instance: &Rc<Instance>) -> bool {
        Rc::ptr_eq(&self.instance, instance)
    }

    #[inline]
    pub(super) fn stream_begins(&self) {
        self.streams.set(self.streams.get() + 1);
    }

    #[inline]
    pub(super) fn stream_ends(&self) {
        self.streams.set(self.streams.get() - 1);
        self.instance.stream_ends();
        if self.superseded.get() && self.streams.get() == 0 {
            self.instance.end(self.id);
        }
    }

    /// There is a newer context for its plugin, or the plugin is gone: its ticks stop now, it ends with its last stream.
    pub(super) fn supersede(&self) {
        self.superseded.set(true);
        self.tick.set(None);
        self.ticker.set(self.ticker.get() + 1);
        if self.streams.get() == 0 {
            self.instance.end(self.id);
        }
    }

    /// It has a VM of its own, which ends with its stream; ticks are for VMs that last.
    pub(super) fn belongs_to_one_stream(&self) {
        self.superseded.set(true);
        self.tick.set(None);
        self.ticker.set(self.ticker.get() + 1);
    }

    /// Keeps one ticking task for the period that the guest wants.
    pub(super) fn update_ticker(self: &Rc<Self>) {
        let period = if self.superseded.get() { None } else { self.instance.tick_period(self.id) };
        if period == self.tick.replace(period) {
            return;
        }
        let ticker = self.ticker.get() + 1;
        self.ticker.set(ticker);
        let Some(period) = period else { return };
        let root = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(root) = root.upgrade().filter(|root| root.ticker.get() == ticker) else { return };
                root.instance.enter(|vm| vm.on_tick(root.id));
                root.instance.run_effects(None, |_| {});
            }
        });
    }
}
