//! The origin's side of a stream, whatever its protocol.

pub(crate) mod h1;
pub(crate) mod h2;

use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use outrigger_http::{Headers, RequestHead, ResponseHead, UpstreamInfo, WireBytes};

use crate::cluster::EndpointHandle;
use crate::error::StreamError;
use crate::http1::BodyEvent;

/// A stream to an origin. Writing queues; [`Upstream::poll_flush`] moves what the origin takes.
#[derive(Debug)]
pub(crate) enum Upstream {
    H1(Box<h1::Stream>),
    H2(Box<h2::Stream>),
}

/// What an origin answered.
#[derive(Debug)]
pub(crate) struct UpstreamHead {
    pub(crate) head: ResponseHead,
    /// No body follows.
    pub(crate) end: bool,
    /// The protocol that the connection was switched to (101).
    pub(crate) upgrade: Option<Bytes>,
    pub(crate) head_bytes: usize,
}

impl Upstream {
    pub(crate) fn send_head(
        &mut self,
        head: &RequestHead,
        end: bool,
        upgrade: Option<&Bytes>,
    ) -> Result<(), StreamError> {
        match self {
            Upstream::H1(stream) => {
                stream.send_head(head, end, upgrade);
                Ok(())
            }
            Upstream::H2(stream) => stream.send_head(head, end),
        }
    }

    pub(crate) fn send_data(&mut self, bytes: Bytes, end: bool) -> Result<(), StreamError> {
        match self {
            Upstream::H1(stream) => stream.send_data(bytes, end),
            Upstream::H2(stream) => stream.send_data(bytes, end),
        }
    }

    pub(crate) fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        match self {
            Upstream::H1(stream) => stream.send_trailers(trailers),
            Upstream::H2(stream) => stream.send_trailers(trailers),
        }
    }

    pub(crate) fn buffered(&self) -> usize {
        match self {
            Upstream::H1(stream) => stream.transport.output.len(),
            Upstream::H2(stream) => stream.buffered(),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Upstream::H1(stream) => stream.poll_flush(cx),
            Upstream::H2(stream) => stream.poll_flush(cx),
        }
    }

    /// The next head: any number of 1xx, then the final one.
    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamHead, StreamError>> {
        match self {
            Upstream::H1(stream) => stream.poll_head(cx),
            Upstream::H2(stream) => stream.poll_head(cx),
        }
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BodyEvent>, StreamError>> {
        match self {
            Upstream::H1(stream) => stream.poll_body(cx),
            Upstream::H2(stream) => stream.poll_body(cx),
        }
    }

    /// A connection that served others before: the origin may have closed it while the request was on its way.
    pub(crate) const fn reused(&self) -> bool {
        match self {
            Upstream::H1(stream) => stream.reused,
            Upstream::H2(stream) => stream.reused,
        }
    }

    /// Whether a byte of the answer has come.
    pub(crate) const fn answered(&self) -> bool {
        match self {
            Upstream::H1(stream) => stream.answered,
            Upstream::H2(_) => false,
        }
    }

    /// What the stream tells of its endpoint and of its connection.
    pub(crate) fn info(&mut self, endpoint: &EndpointHandle) -> Rc<UpstreamInfo> {
        match self {
            Upstream::H1(stream) => stream.info(endpoint),
            Upstream::H2(stream) => stream.info(endpoint),
        }
    }

    /// What the stream has on the wire so far.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        match self {
            Upstream::H1(stream) => stream.wire_bytes(),
            Upstream::H2(stream) => stream.wire_bytes(),
        }
    }
}
