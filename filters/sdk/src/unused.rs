//! Callbacks that a filter leaves to [`HttpFilter`](crate::HttpFilter)'s defaults cost a call into the module each time, for
//! nothing. A default that runs tells the host so, once, and a host that knows the foreign function `skip_stream_callbacks`
//! (Outrigger) calls it for no later stream. Others answer that they don't know it, and are not asked again.

use std::any::TypeId;
use std::cell::Cell;

use crate::abi;

/// A callback of a stream that the module exports whether its filter needs it or not.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Callback {
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
    Done,
}

impl Callback {
    const fn export(self) -> &'static str {
        match self {
            Callback::RequestHeaders => "proxy_on_request_headers",
            Callback::RequestBody => "proxy_on_request_body",
            Callback::RequestTrailers => "proxy_on_request_trailers",
            Callback::ResponseHeaders => "proxy_on_response_headers",
            Callback::ResponseBody => "proxy_on_response_body",
            Callback::ResponseTrailers => "proxy_on_response_trailers",
            Callback::Log => "proxy_on_log",
            Callback::Done => "proxy_on_done",
        }
    }

    const fn bit(self) -> u8 {
        1 << self as u8
    }
}

/// What this module has told its host.
struct Told {
    /// The filter whose callbacks the host calls.
    filter: Cell<Option<TypeId>>,
    callbacks: Cell<u8>,
    is_deaf: Cell<bool>,
}

thread_local! {
    static TOLD: Told = const { Told { filter: Cell::new(None), callbacks: Cell::new(0), is_deaf: Cell::new(false) } };
}

/// `F` is what streams get from now on.
pub(crate) fn begin<F: 'static>() {
    TOLD.with(|told| {
        told.filter.set(Some(TypeId::of::<F>()));
        told.callbacks.set(0);
        told.is_deaf.set(false);
    });
}

/// The default of a callback ran for `F`: unless `F` is only a part of the filter, the filter has no need of the callback.
pub(crate) fn default_of<F: ?Sized + 'static>(callback: Callback) {
    TOLD.with(|told| {
        if told.filter.get() == Some(TypeId::of::<F>()) {
            told.tell(callback);
        }
    });
}

/// No filter has a need of the callback.
pub(crate) fn of_all(callback: Callback) {
    TOLD.with(|told| told.tell(callback));
}

impl Told {
    fn tell(&self, callback: Callback) {
        let callbacks = self.callbacks.get();
        if self.is_deaf.get() || callbacks & callback.bit() != 0 {
            return;
        }
        self.callbacks.set(callbacks | callback.bit());
        let answer = abi::foreign_function("skip_stream_callbacks", callback.export().as_bytes());
        self.is_deaf.set(answer.is_err());
    }
}
