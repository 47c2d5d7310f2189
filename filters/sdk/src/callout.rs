//! Requests that a filter sends itself, e.g. to ask an authorization service.
//!
//! A filter sends a [`Callout`], returns [`Flow::Pause`](crate::Flow::Pause), and hears the answer in
//! [`HttpFilter::on_callout`](crate::HttpFilter::on_callout); what that returns decides how the stream goes on.

use std::time::Duration;

use proxy_wasm::hostcalls;
use proxy_wasm::types::Status;

use crate::abi::{self, Buffer, HostError, Map};
use crate::headers::Headers;

/// A request to one of the proxy's clusters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Callout {
    cluster: String,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    timeout: Duration,
}

/// Tells a stream's callouts apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct CalloutId(pub(crate) u32);

impl Callout {
    /// A request without a body, which may take a second. `cluster` is a name in the proxy's configuration.
    #[must_use]
    pub fn new(cluster: &str, method: &str, authority: &str, path: &str) -> Self {
        let head = [(":method", method), (":authority", authority), (":path", path)];
        Self {
            cluster: cluster.to_owned(),
            headers: head.into_iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
            body: Vec::new(),
            timeout: Duration::from_secs(1),
        }
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    #[must_use]
    pub fn body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.body = body.into();
        self
    }

    /// Sets how long it may take, at least a millisecond: a stream that waits for ever helps nobody.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout.max(Duration::from_millis(1));
        self
    }

    /// Sends it. The answer never comes before the running callback has returned.
    ///
    /// # Errors
    /// The host does not know the cluster, or cannot send.
    pub fn send(&self) -> Result<CalloutId, HostError> {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        let body = if self.body.is_empty() { None } else { Some(self.body.as_slice()) };
        // The proxy-wasm crate keeps which stream a token belongs to, so its wrapper must make the call. It panics on
        // statuses other than these three, which no host gives.
        hostcalls::dispatch_http_call(&self.cluster, headers, body, Vec::new(), self.timeout).map(CalloutId).map_err(
            |status| {
                let status = if status == Status::BadArgument { 2 } else { 10 };
                HostError::new("proxy_http_call", status)
            },
        )
    }
}

/// The answer to a callout, in its callback.
#[derive(Debug)]
pub struct CalloutAnswer {
    header_count: usize,
    body_bytes: usize,
}

impl CalloutAnswer {
    pub(crate) fn new(header_count: usize, body_bytes: usize) -> Self {
        Self { header_count, body_bytes }
    }

    /// The answer's status, `None` if there was no answer. Hosts report a timeout as 504, an unreachable cluster as
    /// 503, or either as no answer.
    ///
    /// # Errors
    /// A hostcall failed.
    pub fn status(&self) -> Result<Option<u16>, HostError> {
        if self.header_count == 0 {
            return Ok(None);
        }
        let status = self.headers().get(":status")?;
        Ok(status.and_then(|status| str::from_utf8(&status).ok()?.parse().ok()))
    }

    /// The answer's headers, `:status` included.
    #[must_use]
    pub fn headers(&self) -> Headers {
        Headers::new(Map::CalloutHeaders)
    }

    /// At most `size_max` bytes of the answer's body.
    ///
    /// # Errors
    /// A hostcall failed.
    pub fn body(&self, size_max: usize) -> Result<Vec<u8>, HostError> {
        if self.body_bytes == 0 {
            return Ok(Vec::new());
        }
        Ok(abi::buffer_read(Buffer::CalloutBody, 0, size_max.min(self.body_bytes))?.unwrap_or_default())
    }
}
