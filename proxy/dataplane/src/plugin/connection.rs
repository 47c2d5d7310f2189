//! A plugin as a network filter of one connection.

use std::rc::Rc;

use outrigger_wasm::{CloseType, ContextId, Effect, Trap, Vm};

use super::PluginHandle;
use super::context::{Gone, GuestContext, Of, Place, way};
use crate::filter::{FilterEvent, Way};
use crate::network::{ClosedBy, ConnectionCx, NetworkAction, NetworkFilter};

/// A connection's context in a plugin's VM.
#[derive(Debug)]
pub(crate) struct WasmConnection(GuestContext);

impl WasmConnection {
    pub(crate) fn new(handle: &Rc<PluginHandle>) -> WasmConnection {
        WasmConnection(GuestContext::new(handle, Of::Connection))
    }

    /// Calls the guest in this connection's context; `Err` is what the connection does instead.
    fn enter<T>(
        &mut self,
        cx: &ConnectionCx<'_>,
        f: impl FnOnce(&mut Vm, ContextId) -> Result<T, Trap>,
    ) -> Result<T, NetworkAction> {
        let place = Place { state: cx.state, slot: cx.slot, index: cx.index };
        self.0.enter(place, f).map_err(|gone| match gone {
            Gone::PassedOver => NetworkAction::Continue,
            Gone::Failed => NetworkAction::Close,
        })
    }

    /// Turns the guest's effects and its answer into the connection's action.
    fn settle(
        &self,
        cx: &ConnectionCx<'_>,
        on: Way,
        result: Result<outrigger_wasm::NetworkAction, NetworkAction>,
    ) -> NetworkAction {
        let mut action = match result {
            Ok(outrigger_wasm::NetworkAction::Continue) => NetworkAction::Continue,
            Ok(outrigger_wasm::NetworkAction::StopIteration) => NetworkAction::Stop,
            Err(action) => return action,
        };
        let mut close = false;
        self.0.run_effects(|effect| match effect {
            Effect::Continue { direction, .. } => {
                if way(direction) != on {
                    cx.slot.push(cx.index, FilterEvent::Resume(way(direction)));
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
        if end && !self.0.is_passed_over() {
            // As Envoy tells it: with the last bytes, whoever closed.
            _ = self.enter(cx, |vm, context| vm.on_upstream_connection_close(context, CloseType::Unknown));
        }
        action
    }

    fn on_close(&mut self, cx: &ConnectionCx<'_>, by: ClosedBy) {
        if self.0.is_made() && !self.0.is_passed_over() {
            let by = match by {
                ClosedBy::Proxy => CloseType::Local,
                ClosedBy::Client => CloseType::Remote,
            };
            _ = self.enter(cx, |vm, context| vm.on_downstream_connection_close(context, by));
        }
        self.0.delete();
    }
}
