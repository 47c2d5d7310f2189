//! Authoring layer for Proxy-Wasm HTTP filters.
//!
//! A filter is two types and a line: a [`Plugin`] that is made from a typed configuration, an [`HttpFilter`] that
//! each stream gets, and [`register!`].
//!
//! ```
//! use std::rc::Rc;
//! use outrigger_filter_sdk::{ConfigError, Flow, HostError, HttpFilter, Plugin, Problem, Request};
//!
//! #[derive(serde::Deserialize)]
//! #[serde(deny_unknown_fields)]
//! struct Config {
//!     header: String,
//! }
//!
//! struct Require {
//!     header: String,
//! }
//!
//! impl Plugin for Require {
//!     type Config = Config;
//!     type Stream = Stream;
//!
//!     fn new(config: Config) -> Result<Self, ConfigError> {
//!         outrigger_filter_sdk::headers::check_name(&config.header).map_err(|what| ConfigError::at("header", what))?;
//!         Ok(Self { header: config.header })
//!     }
//!
//!     fn stream(self: &Rc<Self>) -> Stream {
//!         Stream { plugin: Rc::clone(self) }
//!     }
//! }
//!
//! struct Stream {
//!     plugin: Rc<Require>,
//! }
//!
//! impl HttpFilter for Stream {
//!     fn on_request_headers(&mut self, request: &mut Request) -> Result<Flow, HostError> {
//!         Ok(match request.headers().get(&self.plugin.header)? {
//!             Some(_) => Flow::Continue,
//!             None => Flow::Reply(Problem::new(400).detail("a header is missing").reply()),
//!         })
//!     }
//! }
//!
//! outrigger_filter_sdk::register!(Require);
//!
//! // Natively every hostcall is answered by a test host.
//! use outrigger_filter_sdk::testing::TestHost;
//! let mut host = TestHost::<Require>::new();
//! assert_eq!(host.configure("{}").unwrap_err(), "invalid configuration: header: missing");
//! host.configure(r#"{"header": "x-team"}"#).unwrap();
//! let mut request = host.request(&[(":method", "GET"), (":path", "/")]);
//! assert_eq!(request.reply().unwrap().status, 400);
//! ```
//!
//! Build with `crate-type = ["cdylib", "rlib"]` for `wasm32-wasip1`; `cargo test` runs natively, where [`testing`]
//! answers the hostcalls. Unexpected answers of a host never panic: they are a [`HostError`], and an error that a
//! callback returns is a 500, never a request that passes unfiltered.

mod abi;
mod adapter;
mod callout;
pub mod clock;
pub mod config;
mod filter;
pub mod headers;
pub mod log;
pub mod metric;
pub mod property;
mod reply;
pub mod shared;
#[cfg(not(target_arch = "wasm32"))]
pub mod testing;
mod unused;

pub use abi::HostError;
pub use callout::{Callout, CalloutAnswer, CalloutId};
pub use config::ConfigError;
pub use filter::{Body, Flow, HttpFilter, Plugin, Request, Response};
pub use headers::{HeaderList, Headers};
pub use reply::{Problem, Reply};

/// Makes a [`Plugin`] the filter of this module. Once in a crate, at its top level.
#[macro_export]
macro_rules! register {
    ($plugin:ty) => {
        #[cfg(target_arch = "wasm32")]
        $crate::__private::main! {{ $crate::__private::start::<$plugin>(); }}

        // Natively nothing starts by itself; this keeps the types checked.
        #[cfg(not(target_arch = "wasm32"))]
        const _: fn() = $crate::__private::start::<$plugin>;
    };
}

/// For [`register!`] only.
#[doc(hidden)]
pub mod __private {
    pub use proxy_wasm::main;

    pub use crate::adapter::start;
}
