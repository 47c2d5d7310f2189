//! A plugin's context for one stream or one connection: made at the first callback, entered, and deleted with it.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_http::{StreamEvent, StreamState};
use outrigger_wasm::{ContextId, Direction, Effect, FailurePolicy, Trap, Vm};

use super::{PluginHandle, Root};
use crate::filter::{StreamSlot, Way};

/// What a context is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Of {
    Stream,
    Connection,
}

/// The stream or connection that a callback is for.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place<'a> {
    pub(super) state: &'a Rc<RefCell<StreamState>>,
    pub(super) slot: &'a Rc<StreamSlot>,
    pub(super) index: usize,
}

/// The instance is gone, or isn't there yet: what the plugin's policy makes of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Gone {
    /// On without the filter.
    PassedOver,
    Failed,
}

#[derive(Debug)]
pub(super) struct GuestContext {
    handle: Rc<PluginHandle>,
    of: Of,
    made: Option<(Rc<Root>, ContextId)>,
    /// On without the filter: its policy is open and its instance is gone.
    passed_over: bool,
    /// It could not be called when it should have been: its VM trapped, in this stream or another, or isn't back yet.
    failed: bool,
}

impl GuestContext {
    pub(super) fn new(handle: &Rc<PluginHandle>, of: Of) -> GuestContext {
        GuestContext { handle: handle.clone(), of, made: None, passed_over: false, failed: false }
    }

    /// Calls the guest in this context.
    pub(super) fn enter<T>(
        &mut self,
        place: Place<'_>,
        f: impl FnOnce(&mut Vm, ContextId) -> Result<T, Trap>,
    ) -> Result<T, Gone> {
        if self.passed_over {
            return Err(Gone::PassedOver);
        }
        if self.made.is_none() && !self.begin(place) {
            return Err(self.lost(place));
        }
        let entered = self.made.as_ref().and_then(|(root, context)| root.instance.enter(|vm| f(vm, *context)));
        entered.ok_or_else(|| self.lost(place))
    }

    /// False where no VM takes it.
    fn begin(&mut self, Place { state, slot, index }: Place<'_>) -> bool {
        let Some(root) = self.handle.root() else { return false };
        let made = root.instance.enter(|vm| match self.of {
            Of::Stream => vm.create_stream(root.id, state.clone()),
            Of::Connection => vm.create_connection(root.id, state.clone()),
        });
        let Some(context) = made else { return false };
        root.instance.register(context, slot, index, root.policy());
        root.stream_begins();
        self.made = Some((root, context));
        true
    }

    #[cold]
    fn lost(&mut self, place: Place<'_>) -> Gone {
        if !std::mem::replace(&mut self.failed, true) {
            self.tell(&mut place.state.borrow_mut());
        }
        match self.handle.policy() {
            FailurePolicy::Open => {
                self.passed_over = true;
                Gone::PassedOver
            }
            FailurePolicy::Closed | FailurePolicy::Reload(_) => Gone::Failed,
        }
    }

    /// An event of the stream's span, if it has one.
    fn tell(&self, stream: &mut StreamState) {
        if stream.info.trace.is_none() {
            return;
        }
        let plugin = &self.handle.prepared.plugin;
        let mut attributes =
            vec![("wasm.plugin", Arc::clone(&plugin.name)), ("wasm.revision", Arc::from(plugin.vm.revision()))];
        if let Some((kind, callback)) = self.handle.vm().last_trap() {
            attributes.extend([("wasm.trap", Arc::from(kind)), ("wasm.callback", Arc::from(callback))]);
        }
        let at = stream.info.start.elapsed();
        stream.info.extras_mut().events.push(StreamEvent { name: "wasm.failure", at, attributes });
    }

    pub(super) const fn is_passed_over(&self) -> bool {
        self.passed_over
    }

    pub(super) const fn has_failed(&self) -> bool {
        self.failed
    }

    pub(super) const fn is_made(&self) -> bool {
        self.made.is_some()
    }

    pub(super) fn ignores_body(&self, direction: Direction) -> bool {
        self.made.as_ref().is_some_and(|(root, _)| root.instance.ignores_body(direction))
    }

    /// Runs what the guest asked for; effects of this context are the caller's.
    pub(super) fn run_effects(&self, own: impl FnMut(Effect)) {
        if let Some((root, context)) = &self.made {
            root.instance.run_effects(Some(*context), own);
        }
    }

    /// The stream or connection is over.
    pub(super) fn delete(&mut self) {
        let Some((root, context)) = self.made.take() else { return };
        root.instance.unregister(context);
        root.instance.enter(|vm| match self.of {
            Of::Stream => vm.delete_stream(context),
            Of::Connection => vm.delete_connection(context),
        });
        root.instance.run_effects(None, |_| {});
        root.stream_ends();
    }
}

impl Drop for GuestContext {
    fn drop(&mut self) {
        self.delete();
    }
}

/// The way that an effect's direction is.
pub(super) const fn way(direction: Direction) -> Way {
    match direction {
        Direction::Request => Way::Request,
        Direction::Response => Way::Response,
    }
}
