//! A client's HTTP/1 connection: one message at a time.

use std::task::{Context, Poll, ready};

use bytes::Bytes;
use outrigger_http::{Headers, Method, ResponseHead, Version, WireBytes};

use crate::error::{ErrorKind, StreamError};
use crate::http1::{
    BodyDecoder, BodyEncoder, BodyError, BodyEvent, BodyLength, HeadError, HeadLimits, HeadScan, Meter, ParsedRequest,
    ResponseFraming, parse_request, write_informational, write_response,
};
use crate::transport::Transport;

/// How much of a next, pipelined request is read while a request runs.
const READ_AHEAD_BYTES_MAX: usize = 64 * 1024;

/// A connection and the message that it is in.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) transport: Box<Transport>,
    scan: HeadScan,
    limits: HeadLimits,
    trailers: bool,
    decoder: BodyDecoder,
    encoder: BodyEncoder,
    /// The current request: how its answer is framed and whether another may follow.
    head_request: bool,
    http10: bool,
    keep_alive: bool,
    broken: bool,
    meter: Meter,
}

/// What came instead of a request.
#[derive(Debug)]
pub(crate) enum NoRequest {
    /// The client closed between requests.
    Closed,
    /// The client closed, or its connection broke, within a head.
    Truncated,
    Refused(HeadError),
}

impl Connection {
    pub(crate) fn new(transport: Box<Transport>, limits: HeadLimits, trailers: bool) -> Connection {
        Connection {
            transport,
            scan: HeadScan::default(),
            limits,
            trailers,
            decoder: BodyDecoder::new(BodyLength::None, limits, trailers),
            encoder: BodyEncoder::None,
            head_request: false,
            http10: false,
            keep_alive: true,
            broken: false,
            meter: Meter::default(),
        }
    }

    /// The next request's head. `started` is told when its first byte is there.
    pub(crate) fn poll_request(
        &mut self,
        cx: &mut Context<'_>,
        started: &mut bool,
    ) -> Poll<Result<ParsedRequest, NoRequest>> {
        loop {
            if !self.transport.input.is_empty() {
                *started = true;
                match parse_request(&mut self.transport.input, &mut self.scan, self.limits) {
                    Ok(None) => {}
                    Ok(Some(request)) => {
                        self.begin(&request);
                        return Poll::Ready(Ok(request));
                    }
                    Err(error) => {
                        self.scan = HeadScan::default();
                        return Poll::Ready(Err(NoRequest::Refused(error)));
                    }
                }
            }
            match ready!(self.transport.poll_fill(cx)) {
                Ok(0) | Err(_) if self.transport.input.is_empty() => return Poll::Ready(Err(NoRequest::Closed)),
                Ok(0) | Err(_) => return Poll::Ready(Err(NoRequest::Truncated)),
                Ok(_) => {}
            }
        }
    }

    fn begin(&mut self, request: &ParsedRequest) {
        self.decoder = BodyDecoder::new(request.body, self.limits, self.trailers);
        self.encoder = BodyEncoder::None;
        self.head_request = request.head.method == Method::Head;
        self.http10 = request.head.version == Version::Http10;
        self.keep_alive = request.keep_alive;
        self.meter = Meter::begin(&self.transport, request.head_bytes);
        self.meter.header_received = request.field_bytes as u64;
    }

    /// What the current exchange has on the wire so far.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        self.meter.read(&self.transport)
    }

    /// Another request may follow: both messages are complete and nobody wants to close.
    pub(crate) const fn reusable(&self) -> bool {
        self.keep_alive && !self.broken && self.decoder.is_done()
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BodyEvent>, StreamError>> {
        loop {
            match self.decoder.decode(&mut self.transport.input, self.transport.eof) {
                Ok(Some(event)) => return Poll::Ready(Ok(Some(event))),
                Ok(None) if self.decoder.is_done() => return Poll::Ready(Ok(None)),
                Ok(None) => {}
                Err(BodyError::Truncated) => {
                    self.broken = true;
                    return Poll::Ready(Err(StreamError::downstream(ErrorKind::Terminated)));
                }
                Err(BodyError::Framing | BodyError::Trailers) => {
                    self.broken = true;
                    return Poll::Ready(Err(StreamError::downstream(ErrorKind::Protocol)));
                }
            }
            if ready!(self.transport.poll_fill(cx)).is_err() {
                self.broken = true;
                return Poll::Ready(Err(StreamError::downstream(ErrorKind::Terminated)));
            }
        }
    }

    /// A client that closes before it has its answer is gone, even where it may have closed its sending side alone: who
    /// gives up a request looks the same (and Envoy takes it so).
    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        while self.transport.input.len() < READ_AHEAD_BYTES_MAX {
            if !matches!(ready!(self.transport.poll_fill(cx)), Ok(1..)) {
                self.broken = true;
                return Poll::Ready(StreamError::downstream(ErrorKind::Terminated));
            }
        }
        Poll::Pending
    }

    pub(crate) fn send_informational(&mut self, head: &ResponseHead) {
        if !self.http10 {
            write_informational(&mut self.transport.output, head);
        }
    }

    pub(crate) fn send_head(&mut self, head: &ResponseHead, end: bool, upgrade: Option<&Bytes>) {
        if !self.decoder.is_done() && upgrade.is_none() && end {
            // The rest of the request won't be waited for.
            self.keep_alive = false;
        }
        let framing = ResponseFraming {
            end,
            head_request: self.head_request,
            http10: self.http10,
            close: !self.keep_alive,
            upgrade,
            trailers: self.trailers,
        };
        let (encoder, field_bytes) = write_response(&mut self.transport.output, head, framing);
        self.encoder = encoder;
        self.meter.header_sent += field_bytes as u64;
        if self.encoder == BodyEncoder::UntilClose {
            self.keep_alive = false;
        }
    }

    pub(crate) fn send_data(&mut self, bytes: Bytes, end: bool) -> Result<(), StreamError> {
        if self.head_request {
            return Ok(());
        }
        self.encoder.data(bytes, end, &mut self.transport.output).map_err(|_| {
            self.broken = true;
            StreamError::upstream(ErrorKind::Protocol)
        })
    }

    pub(crate) fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        if self.head_request {
            return Ok(());
        }
        self.encoder.trailers(trailers, &mut self.transport.output).map_err(|_| {
            self.broken = true;
            StreamError::upstream(ErrorKind::Protocol)
        })
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let result = ready!(self.transport.poll_flush(cx));
        Poll::Ready(result.map_err(|_| {
            self.broken = true;
            self.transport.output.clear();
            StreamError::downstream(ErrorKind::Terminated)
        }))
    }

    pub(crate) const fn close_after(&mut self) {
        self.keep_alive = false;
    }

    pub(crate) fn reset(&mut self) {
        // What was queued is still sent; the framing (or the reset, where the body runs until the close) tells the cut.
        self.broken = true;
        if self.encoder == BodyEncoder::UntilClose {
            self.transport.reset();
        }
    }
}
