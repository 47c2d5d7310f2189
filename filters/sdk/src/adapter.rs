//! Ties [`Plugin`] and [`HttpFilter`] to the contexts of the `proxy-wasm` crate.

use std::rc::Rc;

use proxy_wasm::traits::{Context, HttpContext, RootContext};
use proxy_wasm::types::{Action, ContextType};

use crate::abi::{self, Buffer, Half, HostError, Map};
use crate::callout::{CalloutAnswer, CalloutId};
use crate::config::{self, ConfigError};
use crate::filter::{Body, Flow, HttpFilter, Plugin, Request, Response};
use crate::headers::Headers;
use crate::log;
use crate::reply::Problem;
use crate::unused::{self, Callback};

/// What `register!` runs when the module starts.
pub fn start<P: Plugin>() {
    // Natively the panic hook stays the test runner's.
    #[cfg(target_arch = "wasm32")]
    proxy_wasm::set_log_level(proxy_wasm::types::LogLevel::Info);
    unused::begin::<P::Stream>();
    proxy_wasm::set_root_context(|_| Box::new(Root::<P> { plugin: None }));
}

/// One plugin configuration in this VM.
struct Root<P> {
    plugin: Option<Rc<P>>,
}

impl<P: Plugin> Context for Root<P> {}

impl<P: Plugin> RootContext for Root<P> {
    fn on_configure(&mut self, _size: usize) -> bool {
        match configure::<P>() {
            // Streams that run keep the configuration that they began with.
            Ok(plugin) => {
                self.plugin = Some(Rc::new(plugin));
                unused::of_all(Callback::Done);
                true
            }
            Err(error) => {
                log::error(&format!("invalid configuration: {error}"));
                false
            }
        }
    }

    fn get_type(&self) -> Option<ContextType> {
        Some(ContextType::HttpContext)
    }

    fn create_http_context(&self, _context_id: u32) -> Option<Box<dyn HttpContext>> {
        // A host that opens a stream on a plugin whose configuration was refused gets a trap: fail closed.
        let plugin = self.plugin.as_ref()?;
        Some(Box::new(Stream { filter: plugin.stream(), replied: false, paused: None }))
    }
}

fn configure<P: Plugin>() -> Result<P, ConfigError> {
    // One byte more than the bound, so that `parse` sees that it is too long.
    let bytes = abi::buffer_read(Buffer::PluginConfiguration, 0, config::CONFIG_BYTES_MAX + 1)
        .map_err(|error| ConfigError::at("", error.to_string()))?;
    P::new(config::parse(&bytes.unwrap_or_default())?)
}

struct Stream<F> {
    filter: F,
    replied: bool,
    /// What a callback has held back; a host may crash when something is continued that is not.
    paused: Option<Half>,
}

impl<F: HttpFilter> Stream<F> {
    /// Runs a callback of one half and turns its outcome into the host's action.
    fn run(&mut self, half: Half, callback: impl FnOnce(&mut F) -> Result<Flow, HostError>) -> Action {
        match self.decide(callback) {
            Some(Decision::Continue) => {
                self.paused = None;
                Action::Continue
            }
            Some(Decision::Pause) => {
                self.paused = Some(half);
                Action::Pause
            }
            // Whatever became of the reply, the request must not go on.
            Some(Decision::Replied) => Action::Pause,
            None => Action::Continue,
        }
    }

    /// Runs a callback and sends its reply. `None` after an earlier reply: then nothing runs, since some hosts show a
    /// reply to the filter that gave it and others don't.
    fn decide(&mut self, callback: impl FnOnce(&mut F) -> Result<Flow, HostError>) -> Option<Decision> {
        if self.replied {
            return None;
        }
        let reply = match callback(&mut self.filter) {
            Ok(Flow::Continue) => return Some(Decision::Continue),
            Ok(Flow::Pause) => return Some(Decision::Pause),
            Ok(Flow::Reply(reply)) => reply,
            Err(error) => {
                log::error(&format!("answered 500: {error}"));
                Problem::new(500).reply().details("filter_hostcall_failed")
            }
        };
        self.replied = true;
        if let Err(error) = reply.send() {
            log::error(&format!("reply not sent: {error}"));
        }
        Some(Decision::Replied)
    }
}

/// What a callback made of its stream.
enum Decision {
    Continue,
    Pause,
    Replied,
}

impl<F: HttpFilter> Context for Stream<F> {
    fn on_http_call_response(&mut self, token: u32, header_count: usize, body_bytes: usize, _trailer_count: usize) {
        let answer = CalloutAnswer::new(header_count, body_bytes);
        let decision = self.decide(|filter| filter.on_callout(CalloutId(token), &answer));
        if matches!(decision, Some(Decision::Continue))
            && let Some(half) = self.paused.take()
            && let Err(error) = abi::continue_stream(half)
        {
            log::error(&format!("stream not continued: {error}"));
        }
    }
}

impl<F: HttpFilter> HttpContext for Stream<F> {
    fn on_http_request_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.run(Half::Request, |filter| filter.on_request_headers(&mut Request::new(end_of_stream)))
    }

    fn on_http_request_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.run(Half::Request, |filter| {
            filter.on_request_body(&mut Body::new(Buffer::RequestBody, size, end_of_stream))
        })
    }

    fn on_http_request_trailers(&mut self, _count: usize) -> Action {
        self.run(Half::Request, |filter| filter.on_request_trailers(Headers::new(Map::RequestTrailers)))
    }

    fn on_http_response_headers(&mut self, _count: usize, end_of_stream: bool) -> Action {
        self.run(Half::Response, |filter| filter.on_response_headers(&mut Response::new(end_of_stream)))
    }

    fn on_http_response_body(&mut self, size: usize, end_of_stream: bool) -> Action {
        self.run(Half::Response, |filter| {
            filter.on_response_body(&mut Body::new(Buffer::ResponseBody, size, end_of_stream))
        })
    }

    fn on_http_response_trailers(&mut self, _count: usize) -> Action {
        self.run(Half::Response, |filter| filter.on_response_trailers(Headers::new(Map::ResponseTrailers)))
    }

    fn on_log(&mut self) {
        self.filter.on_log();
    }
}
