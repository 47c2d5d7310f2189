//! The client's side of a stream, whatever its protocol.

pub(crate) mod h1;
pub(crate) mod h2;
pub(crate) mod resets;

use std::task::{Context, Poll};

use bytes::Bytes;
use outrigger_http::{Headers, ResponseHead, WireBytes};

use crate::error::StreamError;
use crate::http1::BodyEvent;

/// A client's stream. Writing queues; [`Downstream::poll_flush`] moves what the client takes.
pub(crate) enum Downstream<'a> {
    H1(&'a mut h1::Connection),
    H2(Box<h2::Stream>),
}

impl Downstream<'_> {
    /// The next part of the request's body; `None`: there is no more.
    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BodyEvent>, StreamError>> {
        match self {
            Downstream::H1(connection) => connection.poll_body(cx),
            Downstream::H2(stream) => stream.poll_body(cx),
        }
    }

    /// Resolves when the client is gone, while nothing is read from it.
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        match self {
            Downstream::H1(connection) => connection.poll_gone(cx),
            Downstream::H2(stream) => stream.poll_gone(cx),
        }
    }

    pub(crate) fn send_informational(&mut self, head: &ResponseHead) {
        match self {
            Downstream::H1(connection) => connection.send_informational(head),
            Downstream::H2(stream) => stream.send_informational(head),
        }
    }

    pub(crate) fn send_head(
        &mut self,
        head: &ResponseHead,
        end: bool,
        upgrade: Option<&Bytes>,
    ) -> Result<(), StreamError> {
        match self {
            Downstream::H1(connection) => {
                connection.send_head(head, end, upgrade);
                Ok(())
            }
            Downstream::H2(stream) => stream.send_head(head, end),
        }
    }

    pub(crate) fn send_data(&mut self, bytes: Bytes, end: bool) -> Result<(), StreamError> {
        match self {
            Downstream::H1(connection) => connection.send_data(bytes, end),
            Downstream::H2(stream) => stream.send_data(bytes, end),
        }
    }

    pub(crate) fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        match self {
            Downstream::H1(connection) => connection.send_trailers(trailers),
            Downstream::H2(stream) => stream.send_trailers(trailers),
        }
    }

    /// Bytes that the client hasn't taken yet.
    pub(crate) fn buffered(&self) -> usize {
        match self {
            Downstream::H1(connection) => connection.transport.output.len(),
            Downstream::H2(stream) => stream.buffered(),
        }
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        match self {
            Downstream::H1(connection) => connection.poll_flush(cx),
            Downstream::H2(stream) => stream.poll_flush(cx),
        }
    }

    /// What the stream has on the wire so far.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        match self {
            Downstream::H1(connection) => connection.wire_bytes(),
            Downstream::H2(stream) => stream.wire_bytes(),
        }
    }

    /// Ends the stream so that the client can't take a part for the whole.
    pub(crate) fn reset(&mut self) {
        match self {
            Downstream::H1(connection) => connection.reset(),
            Downstream::H2(stream) => stream.reset(),
        }
    }

    /// The connection must not serve another request after this one.
    pub(crate) fn close_after(&mut self) {
        if let Downstream::H1(connection) = self {
            connection.close_after();
        }
    }
}
