//! `envoy.filters.http.buffer`: a request goes on when all of its body is there, up to a limit.

use std::rc::Rc;

use outrigger_config::{BufferLimit, OverrideConfig};
use outrigger_http::{HeaderName, StreamState};

use super::NativeHandle;
use crate::error::{ErrorKind, StreamError};
use crate::filter::{Action, Pause, StreamCx, StreamFilter};
use crate::texts::decimal;

#[derive(Debug)]
pub(super) struct Filter {
    limit: BufferLimit,
    handle: Rc<NativeHandle>,
    off: bool,
}

impl Filter {
    pub(super) fn new(limit: BufferLimit, handle: &Rc<NativeHandle>) -> Filter {
        Filter { limit, handle: handle.clone(), off: false }
    }

    fn is_over(&self, state: &StreamState) -> bool {
        state.request_body.len() > self.limit.0 as usize
    }

    /// What was buffered is sent with its length.
    fn measure(state: &mut StreamState) {
        if !state.request.headers.contains(&HeaderName::CONTENT_LENGTH) {
            let length = decimal(state.request_body.len() as u64);
            state.request.headers.append(HeaderName::CONTENT_LENGTH, length);
        }
    }
}

impl StreamFilter for Filter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        match self.handle.by_route(cx) {
            Some(OverrideConfig::Buffer(Some(own))) => self.limit = *own,
            Some(OverrideConfig::Buffer(None)) => self.off = true,
            _ => {}
        }
        if end || self.off { Action::Continue } else { Action::Pause(Pause::Hold) }
    }

    fn on_request_data(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        if self.off {
            return Action::Continue;
        }
        let mut state = cx.stream.borrow_mut();
        if self.is_over(&state) {
            return Action::Fail(StreamError::internal(ErrorKind::RequestTooLarge));
        }
        if !end {
            return Action::Pause(Pause::Buffer { all: false });
        }
        Filter::measure(&mut state);
        Action::Continue
    }

    fn on_request_trailers(&mut self, _cx: &mut StreamCx<'_>) -> Action {
        Action::Continue
    }
}
