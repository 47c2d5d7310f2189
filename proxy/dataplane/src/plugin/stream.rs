//! A plugin as a filter of one stream.

use std::rc::Rc;

use outrigger_http::HeaderName;
use outrigger_wasm::{ContextId, DataAction, Direction, Effect, HeadersAction, TrailersAction, Trap, Vm};

use super::context::{Gone, GuestContext, Of, Place, way};
use super::{FAILED, PluginHandle, local_reply};
use crate::error::StreamError;
use crate::filter::{Action, FilterEvent, Pause, StreamCx, StreamFilter, Way};

/// A stream's context in a plugin's VM.
#[derive(Debug)]
pub(crate) struct WasmFilter {
    context: GuestContext,
    logged: bool,
}

impl WasmFilter {
    pub(crate) fn new(handle: &Rc<PluginHandle>) -> WasmFilter {
        WasmFilter { context: GuestContext::new(handle, Of::Stream), logged: false }
    }

    /// Calls the guest in this stream's context; `Err` is what the stream does instead.
    fn enter<T>(
        &mut self,
        cx: &StreamCx<'_>,
        f: impl FnOnce(&mut Vm, ContextId) -> Result<T, Trap>,
    ) -> Result<T, Action> {
        let place = Place { state: cx.stream, slot: cx.slot, index: cx.index };
        self.context.enter(place, f).map_err(|gone| match gone {
            Gone::PassedOver => Action::Continue,
            Gone::Failed => Action::Fail(FAILED),
        })
    }

    /// Whether the stream met a failure of the plugin.
    pub(crate) const fn has_failed(&self) -> bool {
        self.context.has_failed()
    }

    /// Turns the guest's effects and its answer into the stream's action.
    fn settle(&self, cx: &StreamCx<'_>, on: Way, mut action: Action) -> Action {
        let (mut replied, mut reset) = (None, false);
        self.context.run_effects(|effect| match effect {
            Effect::Continue { direction, .. } => {
                if way(direction) == on && matches!(action, Action::Pause(_)) {
                    action = Action::Continue;
                } else {
                    cx.slot.push(cx.index, FilterEvent::Resume(way(direction)));
                }
            }
            Effect::LocalReply { reply, .. } => {
                replied.get_or_insert(*reply);
            }
            Effect::Reset { .. } => reset = true,
            Effect::ClearRouteCache { .. } => cx.slot.mark_route_dirty(),
            // The length is the new body's to tell.
            Effect::BodyChanged { direction, .. } => forget_length(cx, direction),
            // None of them is for an HTTP stream.
            Effect::CloseConnection { .. }
            | Effect::HttpCall(_)
            | Effect::GrpcOpen(_)
            | Effect::GrpcSend { .. }
            | Effect::GrpcCancel { .. } => {}
        });
        match replied {
            _ if reset => Action::Reset,
            Some(reply) => Action::Respond(local_reply(reply)),
            None => action,
        }
    }

    fn headers(&self, cx: &StreamCx<'_>, way: Way, result: Result<HeadersAction, Action>) -> Action {
        let action = match result {
            Ok(HeadersAction::Continue | HeadersAction::ContinueAndEndStream) => Action::Continue,
            Ok(HeadersAction::StopIteration) => Action::Pause(Pause::Hold),
            Ok(HeadersAction::StopAllIterationAndBuffer) => Action::Pause(Pause::Buffer { all: true }),
            Ok(HeadersAction::StopAllIterationAndWatermark) => Action::Pause(Pause::Watermark),
            Err(action) => return action,
        };
        self.settle(cx, way, action)
    }

    fn data(&self, cx: &StreamCx<'_>, way: Way, result: Result<DataAction, Action>) -> Action {
        let action = match result {
            Ok(DataAction::Continue) => Action::Continue,
            Ok(DataAction::StopIterationAndBuffer) => Action::Pause(Pause::Buffer { all: false }),
            Ok(DataAction::StopIterationAndWatermark) => Action::Pause(Pause::Watermark),
            Ok(DataAction::StopIterationNoBuffer) => Action::Pause(Pause::Drop),
            Err(action) => return action,
        };
        self.settle(cx, way, action)
    }

    fn trailers(&self, cx: &StreamCx<'_>, way: Way, result: Result<TrailersAction, Action>) -> Action {
        let action = match result {
            Ok(TrailersAction::Continue) => Action::Continue,
            Ok(TrailersAction::StopIteration) => Action::Pause(Pause::Hold),
            Err(action) => return action,
        };
        self.settle(cx, way, action)
    }
}

fn forget_length(cx: &StreamCx<'_>, direction: Direction) {
    let mut stream = cx.stream.borrow_mut();
    let headers = match direction {
        Direction::Request => Some(&mut stream.request.headers),
        Direction::Response => stream.response.as_mut().map(|head| &mut head.headers),
    };
    if let Some(headers) = headers {
        headers.remove(&HeaderName::CONTENT_LENGTH);
    }
}

impl StreamFilter for WasmFilter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        let result = self.enter(cx, |vm, context| vm.on_request_headers(context, end));
        self.headers(cx, Way::Request, result)
    }

    fn ignores_data(&self, way: Way) -> bool {
        let direction = match way {
            Way::Request => Direction::Request,
            Way::Response => Direction::Response,
        };
        self.context.ignores_body(direction)
    }

    fn on_request_data(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        let result = self.enter(cx, |vm, context| vm.on_request_body(context, end));
        self.data(cx, Way::Request, result)
    }

    fn on_request_trailers(&mut self, cx: &mut StreamCx<'_>) -> Action {
        let result = self.enter(cx, Vm::on_request_trailers);
        self.trailers(cx, Way::Request, result)
    }

    fn on_response_headers(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        let result = self.enter(cx, |vm, context| vm.on_response_headers(context, end));
        self.headers(cx, Way::Response, result)
    }

    fn on_response_data(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        let result = self.enter(cx, |vm, context| vm.on_response_body(context, end));
        self.data(cx, Way::Response, result)
    }

    fn on_response_trailers(&mut self, cx: &mut StreamCx<'_>) -> Action {
        let result = self.enter(cx, Vm::on_response_trailers);
        self.trailers(cx, Way::Response, result)
    }

    fn on_log(&mut self, cx: &mut StreamCx<'_>) {
        if !std::mem::replace(&mut self.logged, true) && !self.context.is_passed_over() {
            // A stream that never ran in the guest is created for its log, as in Envoy.
            _ = self.enter(cx, Vm::on_log);
        }
        self.context.delete();
    }
}

/// Stands for a filter that can't run: every request fails.
#[derive(Debug)]
pub(crate) struct FailedFilter(pub(crate) StreamError);

impl StreamFilter for FailedFilter {
    fn on_request_headers(&mut self, _cx: &mut StreamCx<'_>, _end: bool) -> Action {
        Action::Fail(self.0)
    }
}
