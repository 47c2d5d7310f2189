//! What a filter implements, and what it is given.

use std::rc::Rc;

use serde::de::DeserializeOwned;

use crate::abi::{self, Buffer, HostError, Map};
use crate::callout::{CalloutAnswer, CalloutId};
use crate::config::ConfigError;
use crate::headers::Headers;
use crate::reply::Reply;
use crate::unused::{self, Callback};

/// A filter with one configuration; it lives as long as that configuration does.
pub trait Plugin: Sized + 'static {
    /// What the plugin's JSON is read into.
    type Config: DeserializeOwned;
    /// What one stream gets.
    type Stream: HttpFilter;

    /// Validates and prepares the configuration, once, so that streams only use it.
    ///
    /// # Errors
    /// The field that is wrong. The host then refuses the configuration and keeps the one before.
    fn new(config: Self::Config) -> Result<Self, ConfigError>;

    /// The state of a new stream.
    fn stream(self: &Rc<Self>) -> Self::Stream;
}

/// A stream's callbacks, in the order of a request's life. What is not implemented lets everything pass, and costs nothing
/// after the first stream on a host that can leave it out.
///
/// A hostcall's error may be returned with `?`: the SDK logs it and answers 500. After a filter's own reply none of
/// its callbacks but [`HttpFilter::on_log`] runs.
pub trait HttpFilter: 'static {
    /// The request's head is there.
    ///
    /// # Errors
    /// A hostcall failed.
    fn on_request_headers(&mut self, _request: &mut Request) -> Result<Flow, HostError> {
        unused::default_of::<Self>(Callback::RequestHeaders);
        Ok(Flow::Continue)
    }

    /// A part of the request's body is there; after [`Flow::Pause`] the next call sees all that was held back too.
    ///
    /// # Errors
    /// A hostcall failed.
    fn on_request_body(&mut self, _body: &mut Body) -> Result<Flow, HostError> {
        unused::default_of::<Self>(Callback::RequestBody);
        Ok(Flow::Continue)
    }

    /// The request's trailers are there.
    ///
    /// # Errors
    /// A hostcall failed.
    fn on_request_trailers(&mut self, _trailers: Headers) -> Result<Flow, HostError> {
        unused::default_of::<Self>(Callback::RequestTrailers);
        Ok(Flow::Continue)
    }

    /// The response's head is there, the upstream's or another filter's reply.
    ///
    /// # Errors
    /// A hostcall failed.
    fn on_response_headers(&mut self, _response: &mut Response) -> Result<Flow, HostError> {
        unused::default_of::<Self>(Callback::ResponseHeaders);
        Ok(Flow::Continue)
    }

    /// A part of the response's body is there; after [`Flow::Pause`] the next call sees all that was held back too.
    ///
    /// # Errors
    /// A hostcall failed.
    fn on_response_body(&mut self, _body: &mut Body) -> Result<Flow, HostError> {
        unused::default_of::<Self>(Callback::ResponseBody);
        Ok(Flow::Continue)
    }

    /// The response's trailers are there.
    ///
    /// # Errors
    /// A hostcall failed.
    fn on_response_trailers(&mut self, _trailers: Headers) -> Result<Flow, HostError> {
        unused::default_of::<Self>(Callback::ResponseTrailers);
        Ok(Flow::Continue)
    }

    /// A [`Callout`](crate::Callout) of this stream was answered. [`Flow::Continue`] lets go on what was held back,
    /// [`Flow::Pause`] goes on waiting, e.g. for another answer.
    ///
    /// # Errors
    /// A hostcall failed.
    fn on_callout(&mut self, _id: CalloutId, _answer: &CalloutAnswer) -> Result<Flow, HostError> {
        Ok(Flow::Continue)
    }

    /// The stream is over.
    fn on_log(&mut self) {
        unused::default_of::<Self>(Callback::Log);
    }
}

/// How a stream goes on after a callback.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Flow {
    /// To the next filter.
    Continue,
    /// Hold back what this callback saw. From a body callback: the next part comes together with what was held back, and
    /// the last one must continue. From any callback: until [`HttpFilter::on_callout`] continues. A headers' callback
    /// that pauses without a callout holds its stream for ever, unless the plugin's configuration has
    /// `allow_on_headers_stop_iteration`, with which body callbacks run meanwhile.
    Pause,
    /// Answer now.
    Reply(Reply),
}

/// The request's head, in its callback.
#[derive(Debug)]
pub struct Request {
    end_of_stream: bool,
}

impl Request {
    pub(crate) fn new(end_of_stream: bool) -> Self {
        Self { end_of_stream }
    }

    /// The headers, pseudo-headers (`:method`, `:path`, `:authority`, `:scheme`) included.
    #[must_use]
    pub fn headers(&self) -> Headers {
        Headers::new(Map::RequestHeaders)
    }

    /// True if neither body nor trailers follow.
    #[must_use]
    pub fn end_of_stream(&self) -> bool {
        self.end_of_stream
    }
}

/// The response's head, in its callback.
#[derive(Debug)]
pub struct Response {
    end_of_stream: bool,
}

impl Response {
    pub(crate) fn new(end_of_stream: bool) -> Self {
        Self { end_of_stream }
    }

    /// The headers, `:status` included.
    #[must_use]
    pub fn headers(&self) -> Headers {
        Headers::new(Map::ResponseHeaders)
    }

    /// True if neither body nor trailers follow.
    #[must_use]
    pub fn end_of_stream(&self) -> bool {
        self.end_of_stream
    }
}

/// The buffered part of a body, in its callback. A filter that changes a body's length removes `content-length` in the
/// headers' callback.
#[derive(Debug)]
pub struct Body {
    buffer: Buffer,
    size: usize,
    end_of_stream: bool,
}

impl Body {
    pub(crate) fn new(buffer: Buffer, size: usize, end_of_stream: bool) -> Self {
        Self { buffer, size, end_of_stream }
    }

    /// Bytes in the buffer.
    #[must_use]
    pub fn len(&self) -> usize {
        self.size
    }

    /// True if the buffer has no byte.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.size == 0
    }

    /// True if this is the last part.
    #[must_use]
    pub fn end_of_stream(&self) -> bool {
        self.end_of_stream
    }

    /// A copy of at most `size_max` bytes from `start` on.
    ///
    /// # Errors
    /// A hostcall failed.
    pub fn read(&self, start: usize, size_max: usize) -> Result<Vec<u8>, HostError> {
        Ok(abi::buffer_read(self.buffer, start, size_max)?.unwrap_or_default())
    }

    /// Puts these bytes in the place of the whole buffer.
    ///
    /// # Errors
    /// A hostcall failed.
    pub fn replace(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        abi::buffer_write(self.buffer, 0, self.size, bytes)?;
        self.size = bytes.len();
        Ok(())
    }

    /// Adds bytes at the end.
    ///
    /// # Errors
    /// A hostcall failed.
    pub fn append(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        abi::buffer_write(self.buffer, self.size, 0, bytes)?;
        self.size += bytes.len();
        Ok(())
    }

    /// Adds bytes at the start.
    ///
    /// # Errors
    /// A hostcall failed.
    pub fn prepend(&mut self, bytes: &[u8]) -> Result<(), HostError> {
        abi::buffer_write(self.buffer, 0, 0, bytes)?;
        self.size += bytes.len();
        Ok(())
    }
}
