//! The plugins of a VM, each a root context: how they come, their ticks, and their end.

use std::sync::Arc;
use std::time::Duration;

use super::Vm;
use crate::action::RootId;
use crate::host::{Phase, RootDone, Target};
use crate::metrics::PluginStats;
use crate::plugin::Plugin;
use crate::start::{StartError, configure};
use crate::trap::Trap;

impl Vm {
    /// Configures one more plugin on the worker, within a callback's budget and not a start's: for plugins whose canary was
    /// quick. A refusal leaves the VM as it was, a trap fails it.
    pub fn add(&mut self, plugin: &Arc<Plugin>) -> Result<RootId, StartError> {
        if let Some(trap) = &self.0.failed {
            return Err(StartError::Trap(trap.clone()));
        }
        let limits = &plugin.vm.limits;
        let outcome = configure(&mut self.0, plugin, limits.callback_timeout.min(limits.start_timeout));
        if let Some(trap) = &self.0.failed {
            PluginStats::count_trap(&self.0.store.data().services.registry, plugin, trap);
        }
        outcome
    }

    /// How often a plugin wants [`Vm::on_tick`].
    #[must_use]
    pub fn tick_period(&self, root: RootId) -> Option<Duration> {
        let host = self.0.store.data();
        if self.0.failed.is_some() || !host.is_serving() {
            return None;
        }
        host.contexts.root(root).filter(|root| root.done == RootDone::Live)?.tick_period
    }

    /// Whether some plugin asked for other ticks since this was called last.
    #[inline]
    pub fn take_ticks_changed(&mut self) -> bool {
        std::mem::take(&mut self.0.store.data_mut().ticks_changed)
    }

    /// `proxy_on_tick`, after each [`Vm::tick_period`].
    pub fn on_tick(&mut self, root: RootId) -> Result<(), Trap> {
        if self.0.exports.tick.is_none() || self.tick_period(root).is_none() {
            return self.skip(());
        }
        self.enter(Phase::Tick, Target::Root(root), |exports, store| match &exports.tick {
            Some(function) => function.call(store, root.id),
            None => Ok(()),
        })?;
        self.finish_roots()
    }

    /// Ends a plugin in this VM: its ticks stop, `proxy_on_done`, and `proxy_on_delete` unless the guest wants to be asked
    /// later (it says `proxy_done` in the answer to a call). Returns whether it is over. Its streams are to be deleted before.
    pub fn shutdown(&mut self, root: RootId) -> bool {
        let Some(context) = self.0.store.data_mut().contexts.root_mut(root) else { return true };
        if context.done != RootDone::Live || self.0.failed.is_some() {
            return self.0.failed.is_some();
        }
        context.done = RootDone::Pending;
        let done = self.enter(Phase::Done, Target::Root(root), |exports, store| match &exports.done {
            Some(function) => function.call(store, root.id),
            None => Ok(1),
        });
        if done.is_ok_and(|done| done != 0)
            && let Some(context) = self.0.store.data_mut().contexts.root_mut(root)
        {
            context.done = RootDone::Finished;
            self.0.store.data_mut().roots_done = true;
        }
        // A trap has been counted and logged; the VM is over either way.
        _ = self.finish_roots();
        self.is_root_over(root)
    }

    /// Whether nothing more will come of a plugin in this VM.
    #[must_use]
    pub fn is_root_over(&self, root: RootId) -> bool {
        self.0.failed.is_some() || self.0.store.data().contexts.root(root).is_none()
    }

    /// Whether nothing more will come of this VM.
    #[must_use]
    pub fn is_over(&self) -> bool {
        self.0.failed.is_some() || self.0.store.data().contexts.roots_len() == 0
    }

    /// Deletes the root contexts that are done. Any of them may be: a guest says `proxy_done` for whichever is effective.
    pub(super) fn finish_roots(&mut self) -> Result<(), Trap> {
        while std::mem::take(&mut self.0.store.data_mut().roots_done) {
            let mut roots = self.0.store.data().contexts.roots();
            let Some((root, _)) = roots.find(|(_, root)| root.done == RootDone::Finished) else { break };
            drop(roots);
            self.0.store.data_mut().roots_done = true;
            let deleted = self.delete(Target::Root(root), root.id);
            let host = self.0.store.data_mut();
            host.contexts.remove_root(root);
            host.calls.retain(|_, (of, _)| *of != root);
            deleted?;
        }
        Ok(())
    }
}
