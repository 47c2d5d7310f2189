//! The callbacks of an HTTP stream: heads, bodies and trailers.

use std::cell::RefCell;

use outrigger_http::StreamState;

use super::{Vm, count};
use crate::action::{ContextId, DataAction, Direction, HeadersAction, TrailersAction};
use crate::exports::HeadersCallback;
use crate::host::{Phase, Target, open};
use crate::trap::Trap;

impl Vm {
    pub fn on_request_headers(&mut self, id: ContextId, end_of_stream: bool) -> Result<HeadersAction, Trap> {
        self.on_headers(id, end_of_stream, Phase::RequestHeaders)
    }

    pub fn on_response_headers(&mut self, id: ContextId, end_of_stream: bool) -> Result<HeadersAction, Trap> {
        self.on_headers(id, end_of_stream, Phase::ResponseHeaders)
    }

    #[inline]
    fn on_headers(&mut self, id: ContextId, end_of_stream: bool, phase: Phase) -> Result<HeadersAction, Trap> {
        let is_request = phase == Phase::RequestHeaders;
        let exports = &self.0.exports;
        let exists = if is_request { exports.request_headers.is_some() } else { exports.response_headers.is_some() };
        if !exists || self.skips(phase) {
            return self.skip(HeadersAction::Continue);
        }
        let bit = if is_request { open::REQUEST_HEADERS } else { open::RESPONSE_HEADERS };
        let Some(state) = self.open(id, bit) else { return self.skip(HeadersAction::Continue) };
        let entries = header_entries(&state, is_request);
        let action = self.enter(phase, Target::Stream(id), |exports, store| {
            let callback = if is_request { &exports.request_headers } else { &exports.response_headers };
            match callback {
                HeadersCallback::Three(function) => function.call(store, (id.id, entries, u32::from(end_of_stream))),
                HeadersCallback::Two(function) => function.call(store, (id.id, entries)),
                HeadersCallback::None => Ok(0),
            }
        })?;
        let action = self.headers_action(action);
        if matches!(action, HeadersAction::Continue | HeadersAction::ContinueAndEndStream) {
            self.close(id, bit);
        }
        Ok(action)
    }

    /// Out of range is the member that stops. A plain pause holds everything, unless the plugin is configured otherwise.
    fn headers_action(&self, action: u32) -> HeadersAction {
        match action {
            0 => HeadersAction::Continue,
            2 => HeadersAction::ContinueAndEndStream,
            3 => HeadersAction::StopAllIterationAndBuffer,
            4 => HeadersAction::StopAllIterationAndWatermark,
            _ if self.0.store.data().plugin.allow_on_headers_stop_iteration => HeadersAction::StopIteration,
            _ => HeadersAction::StopAllIterationAndWatermark,
        }
    }

    /// Whether the guest has no use for the bodies of this direction: then the callback would change nothing.
    #[inline]
    #[must_use]
    pub fn ignores_body(&self, direction: Direction) -> bool {
        let (callback, phase) = match direction {
            Direction::Request => (&self.0.exports.request_body, Phase::RequestBody),
            Direction::Response => (&self.0.exports.response_body, Phase::ResponseBody),
        };
        self.0.failed.is_none() && (callback.is_none() || self.skips(phase))
    }

    pub fn on_request_body(&mut self, id: ContextId, end_of_stream: bool) -> Result<DataAction, Trap> {
        self.on_body(id, end_of_stream, Phase::RequestBody)
    }

    pub fn on_response_body(&mut self, id: ContextId, end_of_stream: bool) -> Result<DataAction, Trap> {
        self.on_body(id, end_of_stream, Phase::ResponseBody)
    }

    fn on_body(&mut self, id: ContextId, end_of_stream: bool, phase: Phase) -> Result<DataAction, Trap> {
        let is_request = phase == Phase::RequestBody;
        let exports = &self.0.exports;
        if (if is_request { &exports.request_body } else { &exports.response_body }).is_none() || self.skips(phase) {
            return self.skip(DataAction::Continue);
        }
        let (body, trailers) = if is_request {
            (open::REQUEST_BODY, open::REQUEST_TRAILERS)
        } else {
            (open::RESPONSE_BODY, open::RESPONSE_TRAILERS)
        };
        // With the last chunk trailers may be added.
        let opened = if end_of_stream { body | trailers } else { body };
        let Some(state) = self.open(id, opened) else { return self.skip(DataAction::Continue) };
        let size = state.try_borrow().map_or(0, |state| {
            let body = if is_request { &state.request_body } else { &state.response_body };
            u32::try_from(body.len()).unwrap_or(u32::MAX)
        });
        let action = self.enter(phase, Target::Stream(id), |exports, store| {
            let callback = if is_request { &exports.request_body } else { &exports.response_body };
            match callback {
                Some(function) => function.call(store, (id.id, size, u32::from(end_of_stream))),
                None => Ok(0),
            }
        })?;
        let action = match action {
            0 => DataAction::Continue,
            2 => DataAction::StopIterationAndWatermark,
            3 => DataAction::StopIterationNoBuffer,
            _ => DataAction::StopIterationAndBuffer,
        };
        if action == DataAction::Continue {
            // Headers that were held are released with the body.
            self.close(id, if is_request { open::REQUEST } else { open::RESPONSE });
        }
        Ok(action)
    }

    pub fn on_request_trailers(&mut self, id: ContextId) -> Result<TrailersAction, Trap> {
        self.on_trailers(id, Phase::RequestTrailers)
    }

    pub fn on_response_trailers(&mut self, id: ContextId) -> Result<TrailersAction, Trap> {
        self.on_trailers(id, Phase::ResponseTrailers)
    }

    fn on_trailers(&mut self, id: ContextId, phase: Phase) -> Result<TrailersAction, Trap> {
        let is_request = phase == Phase::RequestTrailers;
        let exports = &self.0.exports;
        let exists = if is_request { &exports.request_trailers } else { &exports.response_trailers }.is_some();
        if !exists || self.skips(phase) {
            return self.skip(TrailersAction::Continue);
        }
        let bit = if is_request { open::REQUEST_TRAILERS } else { open::RESPONSE_TRAILERS };
        let Some(state) = self.open(id, bit) else { return self.skip(TrailersAction::Continue) };
        let entries = state.try_borrow().map_or(0, |state| {
            let trailers = if is_request { &state.request_trailers } else { &state.response_trailers };
            trailers.as_ref().map_or(0, count)
        });
        let action = self.enter(phase, Target::Stream(id), |exports, store| {
            let callback = if is_request { &exports.request_trailers } else { &exports.response_trailers };
            callback.as_ref().map_or(Ok(0), |function| function.call(store, (id.id, entries)))
        })?;
        if action != 0 {
            return Ok(TrailersAction::StopIteration);
        }
        self.close(id, if is_request { open::REQUEST } else { open::RESPONSE });
        Ok(TrailersAction::Continue)
    }
}

fn header_entries(state: &RefCell<StreamState>, is_request: bool) -> u32 {
    state.try_borrow().map_or(0, |state| {
        if is_request {
            crate::maps::request_entries(&state.request)
        } else {
            state.response.as_ref().map_or(0, |head| count(&head.headers).saturating_add(1))
        }
    })
}
