//! # header-policy
//!
//! Sets, adds, removes and renames headers of requests and responses.
//!
//! ```json
//! {
//!   "request": {
//!     "remove": ["x-internal-debug"],
//!     "rename": [{"from": "x-old", "to": "x-new"}],
//!     "set":    [{"name": "x-team", "value": "shop"}],
//!     "add":    [{"name": "via", "value": "1.1 outrigger"}]
//!   },
//!   "response": {
//!     "remove": ["server", "x-powered-by"],
//!     "set":    [{"name": "strict-transport-security", "value": "max-age=31536000"}]
//!   }
//! }
//! ```
//!
//! | field | default | meaning |
//! |---|---|---|
//! | `request`, `response` | nothing | what to do with that side's headers; each of the four lists may be left out |
//! | `….remove[]` | `[]` | removes every entry of these headers |
//! | `….rename[].from`, `.to` | required | moves every entry of `from` to `to`, values and their order kept; what `to` held before is gone. Nothing happens where `from` is not there |
//! | `….set[].name`, `.value` | required | the header has this value and no other afterwards |
//! | `….add[].name`, `.value` | required | adds an entry beside those that are there |
//!
//! The lists are applied in the order `remove`, `rename`, `set`, `add`, each from its first to its last element,
//! whatever their order in the JSON. An unknown field is refused.
//!
//! **Names** are tokens (RFC 9110 §5.6.2) of at most 256 bytes, in any case. Refused are pseudo-headers such as
//! `:path` and `:authority`, and `host`: the route has been chosen by them, and rewriting them is the route's business
//! (`hostRewrite`, `prefixRewrite`). Refused are also the headers that frame a message or belong to one connection
//! (`connection`, `content-length`, `keep-alive`, `proxy-connection`, `te`, `trailer`, `transfer-encoding`,
//! `upgrade`): the proxy writes them, and a wrong one lets requests be smuggled.
//!
//! **Values** have at most 8 KiB, no control character (CR, LF and NUL among them), and no white space at their ends;
//! an empty value is allowed.
//!
//! A list has at most 64 elements; a header may appear in `set` once, and once as `from` or `to` of a `rename`.
//!
//! Responses that other filters or the proxy itself give are changed as well. Each operation costs one hostcall, a
//! `rename` one where the header is absent; nothing is allocated for them on a request's way. Where the host refuses
//! an operation the request is answered with 500, never passed half changed.

mod policy;

use std::rc::Rc;

use outrigger_filter_sdk::{ConfigError, Flow, HostError, HttpFilter, Plugin, Request, Response};

use policy::{Operations, Side};

/// The configuration, as the text above says.
#[derive(Debug, Default, serde::Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    request: Side,
    response: Side,
}

/// The filter with a validated configuration.
#[derive(Debug)]
pub struct HeaderPolicy {
    request: Operations,
    response: Operations,
}

impl Plugin for HeaderPolicy {
    type Config = Config;
    type Stream = Stream;

    fn new(config: Config) -> Result<Self, ConfigError> {
        Ok(Self {
            request: Operations::new("request", config.request)?,
            response: Operations::new("response", config.response)?,
        })
    }

    fn stream(self: &Rc<Self>) -> Stream {
        Stream { policy: Rc::clone(self) }
    }
}

/// One stream of the filter.
#[derive(Debug)]
pub struct Stream {
    policy: Rc<HeaderPolicy>,
}

impl HttpFilter for Stream {
    fn on_request_headers(&mut self, request: &mut Request) -> Result<Flow, HostError> {
        self.policy.request.apply(request.headers())?;
        Ok(Flow::Continue)
    }

    fn on_response_headers(&mut self, response: &mut Response) -> Result<Flow, HostError> {
        self.policy.response.apply(response.headers())?;
        Ok(Flow::Continue)
    }
}

outrigger_filter_sdk::register!(HeaderPolicy);

#[cfg(test)]
mod tests;
