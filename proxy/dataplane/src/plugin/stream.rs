//! A plugin as a filter of one stream.

use std::rc::Rc;

use outrigger_http::HeaderName;
use outrigger_wasm::{
    ContextId, DataAction, Direction, Effect, FailurePolicy, HeadersAction, TrailersAction, Trap, Vm,
};

use super::{FAILED, PluginHandle, Registered, local_reply};
use crate::error::StreamError;
use crate::filter::{Action, FilterEvent, Pause, StreamCx, StreamFilter, Way};

/// A stream context in a plugin's VM, made at the first callback.
#[derive(Debug)]
pub(crate) struct WasmFilter {
    handle: Rc<PluginHandle>,
    context: Option<(ContextId, u64)>,
    /// On without the filter: its policy is open and its instance is gone.
    bypass: bool,
    logged: bool,
}

impl WasmFilter {
    pub(crate) fn new(handle: &Rc<PluginHandle>) -> WasmFilter {
        WasmFilter { handle: handle.clone(), context: None, bypass: false, logged: false }
    }

    /// Calls the guest in this stream's context; `Err` is what the stream does instead.
    fn enter<T>(
        &mut self,
        cx: &StreamCx<'_>,
        f: impl FnOnce(&mut Vm, ContextId) -> Result<T, Trap>,
    ) -> Result<T, Action> {
        if self.bypass {
            return Err(Action::Continue);
        }
        let Some(context) = self.context(cx) else { return Err(self.lost()) };
        match self.handle.enter(|vm| f(vm, context)) {
            Some(value) => Ok(value),
            None => Err(self.lost()),
        }
    }

    fn context(&mut self, cx: &StreamCx<'_>) -> Option<ContextId> {
        let instance = self.handle.instance.get();
        if let Some((context, made_in)) = self.context {
            return (made_in == instance).then_some(context);
        }
        let context = self.handle.enter(|vm| vm.create_stream(cx.stream.clone()))?;
        self.handle.streams.borrow_mut().insert(context, Registered { slot: cx.slot.clone(), index: cx.index });
        self.context = Some((context, instance));
        Some(context)
    }

    /// The instance is gone, or isn't there yet.
    fn lost(&mut self) -> Action {
        match self.handle.policy() {
            FailurePolicy::Open => {
                self.bypass = true;
                Action::Continue
            }
            FailurePolicy::Closed | FailurePolicy::Reload => Action::Fail(FAILED),
        }
    }

    /// Turns the guest's effects and its answer into the stream's action.
    fn settle(&mut self, cx: &StreamCx<'_>, way: Way, action: Action) -> Action {
        let mut action = action;
        let mut replied = None;
        for effect in self.handle.run_effects(self.context.map(|(context, _)| context)) {
            match effect {
                Effect::Continue { direction, .. } => {
                    let target = if direction == Direction::Request { Way::Request } else { Way::Response };
                    if target == way && matches!(action, Action::Pause(_)) {
                        action = Action::Continue;
                    } else {
                        cx.slot.push(cx.index, FilterEvent::Resume(target));
                    }
                }
                Effect::LocalReply { reply, .. } => {
                    replied.get_or_insert(*reply);
                }
                Effect::Reset { .. } => return Action::Reset,
                Effect::ClearRouteCache { .. } => cx.slot.mark_route_dirty(),
                Effect::BodyChanged { direction, .. } => {
                    // The length is the new body's to tell.
                    let mut stream = cx.stream.borrow_mut();
                    match direction {
                        Direction::Request => _ = stream.request.headers.remove(&HeaderName::CONTENT_LENGTH),
                        Direction::Response => {
                            if let Some(head) = &mut stream.response {
                                head.headers.remove(&HeaderName::CONTENT_LENGTH);
                            }
                        }
                    }
                }
                // None of them is for an HTTP stream.
                Effect::CloseConnection { .. }
                | Effect::HttpCall(_)
                | Effect::GrpcOpen(_)
                | Effect::GrpcSend { .. }
                | Effect::GrpcCancel { .. } => {}
            }
        }
        match replied {
            Some(reply) => Action::Respond(local_reply(reply)),
            None => action,
        }
    }

    fn headers(&mut self, cx: &StreamCx<'_>, way: Way, result: Result<HeadersAction, Action>) -> Action {
        let action = match result {
            Ok(HeadersAction::Continue | HeadersAction::ContinueAndEndStream) => Action::Continue,
            Ok(HeadersAction::StopIteration) => Action::Pause(Pause::Hold),
            Ok(HeadersAction::StopAllIterationAndBuffer) => Action::Pause(Pause::Buffer { all: true }),
            Ok(HeadersAction::StopAllIterationAndWatermark) => Action::Pause(Pause::Watermark),
            Err(action) => return action,
        };
        self.settle(cx, way, action)
    }

    fn data(&mut self, cx: &StreamCx<'_>, way: Way, result: Result<DataAction, Action>) -> Action {
        let action = match result {
            Ok(DataAction::Continue) => Action::Continue,
            Ok(DataAction::StopIterationAndBuffer) => Action::Pause(Pause::Buffer { all: false }),
            Ok(DataAction::StopIterationAndWatermark) => Action::Pause(Pause::Watermark),
            Ok(DataAction::StopIterationNoBuffer) => Action::Pause(Pause::Drop),
            Err(action) => return action,
        };
        self.settle(cx, way, action)
    }

    fn trailers(&mut self, cx: &StreamCx<'_>, way: Way, result: Result<TrailersAction, Action>) -> Action {
        let action = match result {
            Ok(TrailersAction::Continue) => Action::Continue,
            Ok(TrailersAction::StopIteration) => Action::Pause(Pause::Hold),
            Err(action) => return action,
        };
        self.settle(cx, way, action)
    }

    fn delete(&mut self) {
        let Some((context, made_in)) = self.context.take() else { return };
        self.handle.streams.borrow_mut().remove(&context);
        if made_in == self.handle.instance.get() {
            self.handle.enter(|vm| vm.delete_stream(context));
            self.handle.run_effects(None);
        }
        if self.handle.retired.get() && self.handle.streams.borrow().is_empty() {
            self.handle.shut_down();
        }
    }
}

impl StreamFilter for WasmFilter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        let result = self.enter(cx, |vm, context| vm.on_request_headers(context, end));
        self.headers(cx, Way::Request, result)
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
        if !std::mem::replace(&mut self.logged, true) && !self.bypass {
            // A stream that never ran in the guest is created for its log, as in Envoy.
            _ = self.enter(cx, Vm::on_log);
            self.handle.run_effects(None);
        }
        self.delete();
    }
}

impl Drop for WasmFilter {
    fn drop(&mut self) {
        self.delete();
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
