//! A plugin as a network filter of one connection.

use std::rc::Rc;

use outrigger_wasm::{CloseType, ContextId, Direction, Effect, FailurePolicy, Trap, Vm};

use super::{PluginHandle, Root};
use crate::filter::{FilterEvent, Way};
use crate::network::{ClosedBy, ConnectionCx, NetworkAction, NetworkFilter};

/// A connection's context in a plugin's VM, made at the first callback.
#[derive(Debug)]
pub(crate) struct WasmConnection {
    handle: Rc<PluginHandle>,
    context: Option<(Rc<Root>, ContextId)>,
    /// On without the filter: its policy is open and its instance is gone.
    bypass: bool,
}

impl WasmConnection {
    pub(crate) fn new(handle: &Rc<PluginHandle>) -> WasmConnection {
        WasmConnection { handle: handle.clone(), context: None, bypass: false }
    }

    /// Calls the guest in this connection's context; `Err` is what the connection does instead.
    fn enter<T>(
        &mut self,
        cx: &ConnectionCx<'_>,
        f: impl FnOnce(&mut Vm, ContextId) -> Result<T, Trap>,
    ) -> Result<T, NetworkAction> {
        if self.bypass {
            return Err(NetworkAction::Continue);
        }
        if self.context.is_none() && !self.begin(cx) {
            return Err(self.lost());
        }
        let Some((root, context)) = &self.context else { return Err(self.lost()) };
        match root.instance.enter(|vm| f(vm, *context)) {
            Some(value) => Ok(value),
            None => Err(self.lost()),
        }
    }

    fn begin(&mut self, cx: &ConnectionCx<'_>) -> bool {
        let Some(root) = self.handle.root() else { return false };
        let Some(context) = root.instance.enter(|vm| vm.create_connection(root.id, cx.state.clone())) else {
            return false;
        };
        root.instance.register(context, cx.slot, cx.index, root.policy());
        root.stream_begins();
        self.context = Some((root, context));
        true
    }

    fn lost(&mut self) -> NetworkAction {
        match self.handle.policy() {
            FailurePolicy::Open => {
                self.bypass = true;
                NetworkAction::Continue
            }
            FailurePolicy::Closed | FailurePolicy::Reload(_) => NetworkAction::Close,
        }
    }

    /// Turns the guest's effects and its answer into the connection's action.
    fn settle(
        &mut self,
        cx: &ConnectionCx<'_>,
        way: Way,
        result: Result<outrigger_wasm::NetworkAction, NetworkAction>,
    ) -> NetworkAction {
        let mut action = match result {
            Ok(outrigger_wasm::NetworkAction::Continue) => NetworkAction::Continue,
            Ok(outrigger_wasm::NetworkAction::StopIteration) => NetworkAction::Stop,
            Err(action) => return action,
        };
        let Some((root, context)) = &self.context else { return action };
        let mut close = false;
        root.instance.run_effects(Some(*context), |effect| match effect {
            Effect::Continue { direction, .. } => {
                let target = if direction == Direction::Request { Way::Request } else { Way::Response };
                if target != way {
                    cx.slot.push(cx.index, FilterEvent::Resume(target));
                } else if action == NetworkAction::Stop {
                    action = NetworkAction::Continue;
                }
            }
            Effect::CloseConnection { .. } | Effect::Reset { .. } => close = true,
            // None of them is for a connection.
            Effect::LocalReply { .. }
            | Effect::ClearRouteCache { .. }
            | Effect::BodyChanged { .. }
            | Effect::HttpCall(_)
            | Effect::GrpcOpen(_)
            | Effect::GrpcSend { .. }
            | Effect::GrpcCancel { .. } => {}
        });
        if close { NetworkAction::Close } else { action }
    }

    fn delete(&mut self) {
        let Some((root, context)) = self.context.take() else { return };
        root.instance.unregister(context);
        root.instance.enter(|vm| vm.delete_connection(context));
        root.instance.run_effects(None, |_| {});
        root.stream_ends();
    }
}

impl NetworkFilter for WasmConnection {
    fn on_new_connection(&mut self, cx: &ConnectionCx<'_>) -> NetworkAction {
        let result = self.enter(cx, Vm::on_new_connection);
        self.settle(cx, Way::Request, result)
    }

    fn on_downstream_data(&mut self, cx: &ConnectionCx<'_>, end: bool) -> NetworkAction {
        let result = self.enter(cx, |vm, context| vm.on_downstream_data(context, end));
        self.settle(cx, Way::Request, result)
    }

    fn on_upstream_data(&mut self, cx: &ConnectionCx<'_>, end: bool) -> NetworkAction {
        let result = self.enter(cx, |vm, context| vm.on_upstream_data(context, end));
        let action = self.settle(cx, Way::Response, result);
        if end && !self.bypass {
            // As Envoy tells it: with the last bytes, whoever closed.
            _ = self.enter(cx, |vm, context| vm.on_upstream_connection_close(context, CloseType::Unknown));
        }
        action
    }

    fn on_close(&mut self, cx: &ConnectionCx<'_>, by: ClosedBy) {
        if self.context.is_some() && !self.bypass {
            let by = match by {
                ClosedBy::Proxy => CloseType::Local,
                ClosedBy::Client => CloseType::Remote,
            };
            _ = self.enter(cx, |vm, context| vm.on_downstream_connection_close(context, by));
        }
        self.delete();
    }
}

impl Drop for WasmConnection {
    fn drop(&mut self) {
        self.delete();
    }
}
