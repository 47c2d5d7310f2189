//! A VM: a guest with its memory, entered by one worker, one call at a time.

mod access_log;
mod grpc;
mod http;
mod network;
mod ready;
mod root;

use std::cell::RefCell;
use std::fmt;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Instant;

use outrigger_attributes::Objects;
use outrigger_http::{Headers, StreamState};
use wasmtime::Store;

pub(crate) use self::ready::Guest;
pub use self::ready::ReadyVm;
use crate::action::{CallResponse, ContextId, Effect, RootId};
use crate::call_answer::CallAnswer;
use crate::exports::Exports;
use crate::host::{Host, Phase, Target, open, skip};
use crate::metrics::PluginStats;
use crate::module::{Callbacks, CompiledModule};
use crate::plugin::{Plugin, VmConfig};
use crate::trap::{HostTrap, Trap};

/// What the host asks of the worker while a guest runs.
pub trait WorkerHost: Objects {
    /// Whether `proxy_http_call` may name this cluster.
    fn cluster_exists(&self, name: &str) -> bool;
}

/// A VM on its worker.
pub struct Vm(Guest);

impl fmt::Debug for Vm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Vm")
            .field("vm_id", &self.0.vm.vm_id)
            .field("contexts", &self.contexts())
            .field("failed", &self.0.failed)
            .finish_non_exhaustive()
    }
}

impl Vm {
    #[must_use]
    pub fn config(&self) -> &Arc<VmConfig> {
        &self.0.vm
    }

    /// The plugins in this VM.
    pub fn roots(&self) -> impl Iterator<Item = (RootId, &Arc<Plugin>)> {
        self.0.store.data().contexts.roots().map(|(id, root)| (id, &root.plugin.plugin))
    }

    /// The module that a replacement is started from.
    #[must_use]
    pub fn module(&self) -> &CompiledModule {
        &self.0.module
    }

    /// Why the VM can no longer be entered.
    #[must_use]
    pub fn failed(&self) -> Option<&Trap> {
        self.0.failed.as_ref()
    }

    /// The callbacks that the guest has.
    #[must_use]
    pub fn exports(&self) -> Callbacks {
        self.0.exports.callbacks()
    }

    /// How many stream contexts live.
    #[must_use]
    pub fn contexts(&self) -> usize {
        self.0.store.data().contexts.len()
    }

    /// Bytes of linear memory.
    #[must_use]
    pub fn memory_bytes(&self) -> usize {
        self.0.memory_bytes()
    }

    /// Brings what statistics show of this VM up to date; to be called now and then.
    pub fn refresh_stats(&self) {
        self.0.refresh();
    }

    /// Enters the guest for a context, if it has the callback: budget, phase, call, and the trap if there is one.
    #[inline]
    fn enter<T>(
        &mut self,
        phase: Phase,
        target: Target,
        call: impl FnOnce(&Exports, &mut Store<Host>) -> wasmtime::Result<T>,
    ) -> Result<T, Trap> {
        let guest = &mut self.0;
        if let Some(trap) = &guest.failed {
            return Err(trap.clone());
        }
        guest.store.set_epoch_deadline(1);
        let host = guest.store.data_mut();
        if host.route_changed {
            host.keep_mark();
        }
        host.phase = phase;
        host.current = target;
        host.set_effective(target);
        host.hostcalls_left = guest.vm.limits.hostcalls_per_callback;
        host.limiter.refused = false;
        host.log.forget_errors();
        host.deadline.start(guest.vm.limits.callback_timeout);
        let began = if host.plugin.stats.count_callback() { Some(Instant::now()) } else { None };
        guest.slot.enter();
        let result = call(&guest.exports, &mut guest.store);
        guest.slot.leave();
        if let Some(began) = began {
            let took = u64::try_from(began.elapsed().as_nanos()).unwrap_or(u64::MAX);
            let contexts = &guest.store.data().contexts;
            if let Some(root) = contexts.root_of(target).and_then(|root| contexts.root(root)) {
                root.plugin.stats.callback_time.record(took);
            }
        }
        result.map_err(|error| self.fail(&error))
    }

    #[cold]
    fn fail(&mut self, error: &wasmtime::Error) -> Trap {
        let host = self.0.store.data();
        let trap = Trap::new(error, host.ended(), host.limiter.refused, host.log.last_errors().as_deref());
        // Whoever entered the VM knows what follows from it and says so; this is for who reads the guest's own lines.
        tracing::debug!(target: crate::guest_log::TARGET, plugin = %host.plugin.name, kind = trap.kind.label(), "{trap}");
        PluginStats::count_trap(&host.services.registry, &host.plugin, &trap);
        self.0.failed = Some(trap.clone());
        trap
    }

    /// Opens maps and body of a stream for a callback; `None` for a stream that this VM has no context for.
    #[inline]
    fn open(&mut self, id: ContextId, bits: u16) -> Option<Rc<RefCell<StreamState>>> {
        let stream = self.0.store.data_mut().contexts.get_mut(id)?;
        stream.open |= bits;
        Some(stream.state.clone())
    }

    #[inline]
    fn close(&mut self, id: ContextId, bits: u16) {
        if let Some(stream) = self.0.store.data_mut().contexts.get_mut(id) {
            stream.open &= !bits;
        }
    }

    /// A context for a stream: `proxy_on_context_create`. The state must not be borrowed while a callback runs.
    pub fn create_stream(&mut self, root: RootId, stream: Rc<RefCell<StreamState>>) -> Result<ContextId, Trap> {
        self.create_context(root, stream, 0)
    }

    /// `kind`: [`open::CONNECTION`] for a connection, nothing for an HTTP stream.
    fn create_context(&mut self, root: RootId, stream: Rc<RefCell<StreamState>>, kind: u16) -> Result<ContextId, Trap> {
        if let Some(trap) = &self.0.failed {
            return Err(trap.clone());
        }
        let contexts = &mut self.0.store.data_mut().contexts;
        let id = if contexts.root(root).is_some() { contexts.insert(root, stream, kind) } else { None };
        let Some(id) = id else {
            self.0.store.data_mut().phase = Phase::ContextCreate;
            return Err(self.fail(&HostTrap::ContextIds.into()));
        };
        let created =
            self.enter(Phase::ContextCreate, Target::Stream(id), |exports, store| match &exports.context_create {
                Some(create) => create.call(store, (id.id, root.id)),
                None => Ok(()),
            });
        match created {
            Ok(()) => Ok(id),
            Err(trap) => {
                self.0.store.data_mut().contexts.remove(id);
                Err(trap)
            }
        }
    }

    /// `proxy_on_log`: the stream is over, all of it can be read, nothing changed.
    pub fn on_log(&mut self, id: ContextId) -> Result<(), Trap> {
        if self.0.exports.log.is_none() || self.skips(Phase::Log) {
            return self.skip(());
        }
        self.close(id, open::REQUEST | open::RESPONSE);
        if self.open(id, open::LOG).is_none() {
            return self.skip(());
        }
        self.enter(Phase::Log, Target::Stream(id), |exports, store| match &exports.log {
            Some(function) => function.call(store, id.id),
            None => Ok(()),
        })
    }

    /// The stream's end: `proxy_on_done` and `proxy_on_delete`. The context is gone afterwards, whatever this returns.
    pub fn delete_stream(&mut self, id: ContextId) -> Result<(), Trap> {
        self.close(id, open::REQUEST | open::RESPONSE);
        if self.open(id, open::LOG | open::OVER).is_none() {
            return self.skip(());
        }
        let result = self.done_and_delete(Target::Stream(id), id.id);
        self.0.store.data_mut().contexts.remove(id);
        result
    }

    fn done_and_delete(&mut self, target: Target, id: u32) -> Result<(), Trap> {
        self.done(target, id)?;
        self.delete(target, id)
    }

    fn done(&mut self, target: Target, id: u32) -> Result<(), Trap> {
        if self.0.exports.done.is_none() || self.skips(Phase::Done) {
            return self.skip(());
        }
        // A stream cannot wait: what the guest answers is for root contexts only.
        self.enter(Phase::Done, target, |exports, store| match &exports.done {
            Some(function) => function.call(store, id).map(|_| ()),
            None => Ok(()),
        })
    }

    fn delete(&mut self, target: Target, id: u32) -> Result<(), Trap> {
        if self.0.exports.delete.is_none() {
            return self.skip(());
        }
        self.enter(Phase::Delete, target, |exports, store| match &exports.delete {
            Some(function) => function.call(store, id),
            None => Ok(()),
        })
    }

    /// The answer to an [`Effect::HttpCall`]; a token that isn't awaited is ignored.
    pub fn on_http_call_response(&mut self, token: u32, response: CallResponse) -> Result<(), Trap> {
        let Some((root, _)) = self.0.store.data_mut().calls.remove(&token) else { return self.skip(()) };
        if self.0.exports.http_call_response.is_none() {
            return self.skip(());
        }
        let (answer, status) = CallAnswer::new(response);
        let headers = answer.head.as_ref().map_or(0, |head| count(&head.headers).saturating_add(1));
        let body = u32::try_from(answer.body.len()).unwrap_or(u32::MAX);
        let trailers = count(&answer.trailers);
        let host = self.0.store.data_mut();
        let Some(context) = host.contexts.root_mut(root) else { return self.skip(()) };
        context.call_status = status;
        host.call_answer = Some(Box::new(answer));
        let result = self.enter(Phase::HttpCallResponse, Target::Root(root), |exports, store| {
            match &exports.http_call_response {
                Some(function) => function.call(store, (root.id, token, headers, body, trailers)),
                None => Ok(()),
            }
        });
        self.0.store.data_mut().call_answer = None;
        result?;
        self.finish_roots()
    }

    /// Whether [`Vm::next_effect`] has one.
    #[inline]
    #[must_use]
    pub fn has_effects(&self) -> bool {
        self.0.store.data().has_effects()
    }

    /// What the guest asked for, oldest first. To be taken after every call.
    #[inline]
    pub fn next_effect(&mut self) -> Option<Effect> {
        self.0.store.data_mut().pop()
    }

    /// All effects at once.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::iter::from_fn(|| self.next_effect()).collect()
    }

    /// Whether the guest has said that its streams go without this callback.
    #[inline]
    fn skips(&self, phase: Phase) -> bool {
        self.0.store.data().skipped & skip::bit(phase) != 0
    }

    /// The answer of a callback that the guest doesn't have.
    #[inline]
    fn skip<T>(&self, answer: T) -> Result<T, Trap> {
        match &self.0.failed {
            None => Ok(answer),
            Some(trap) => Err(trap.clone()),
        }
    }
}

fn count(headers: &Headers) -> u32 {
    u32::try_from(headers.len()).unwrap_or(u32::MAX)
}
