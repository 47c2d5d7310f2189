//! A stream on a connection of its own to an HTTP/1 origin.

use std::rc::Rc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use outrigger_http::{Headers, Method, RequestHead, UpstreamInfo, Version, WireBytes};

use super::UpstreamHead;
use crate::cluster::EndpointHandle;
use crate::error::{ErrorKind, StreamError};
use crate::http1::{
    BodyDecoder, BodyEncoder, BodyError, BodyEvent, BodyLength, HeadError, HeadLimits, HeadScan, Meter, parse_response,
    write_request,
};
use crate::transport::Transport;

/// Limits on an origin's head, as Envoy's upstream defaults.
const LIMITS: HeadLimits = HeadLimits { bytes_max: 60 * 1024, headers_max: 100, accept_http_10: true };

/// A connection and the exchange that it is in.
#[derive(Debug)]
pub(crate) struct Stream {
    pub(crate) transport: Transport,
    scan: HeadScan,
    method: Method,
    decoder: BodyDecoder,
    encoder: BodyEncoder,
    trailers: bool,
    upgrade_asked: bool,
    head_seen: bool,
    /// The answer's body ends with the connection.
    until_close: bool,
    request_sent: bool,
    keep_alive: bool,
    pub(crate) answered: bool,
    pub(crate) reused: bool,
    pub(crate) requests: u32,
    meter: Meter,
    /// Made for the first of its streams.
    info: Option<Rc<UpstreamInfo>>,
}

impl Stream {
    pub(crate) fn new(transport: Transport, trailers: bool) -> Stream {
        Stream {
            transport,
            scan: HeadScan::default(),
            method: Method::Get,
            decoder: BodyDecoder::new(BodyLength::None, LIMITS, trailers),
            encoder: BodyEncoder::None,
            trailers,
            upgrade_asked: false,
            head_seen: false,
            until_close: false,
            request_sent: false,
            keep_alive: true,
            answered: false,
            reused: false,
            requests: 0,
            meter: Meter::default(),
            info: None,
        }
    }

    /// What a stream to the endpoint tells of it and of the connection.
    pub(crate) fn info(&mut self, endpoint: &EndpointHandle) -> Rc<UpstreamInfo> {
        if let Some(known) = self.info.as_ref().filter(|known| endpoint.is_told_by(known)) {
            return known.clone();
        }
        let transport = &self.transport;
        let info = UpstreamInfo {
            local: transport.local,
            version: Some(Version::Http11),
            tls: transport.tls().cloned(),
            connection: transport.upstream,
            ..endpoint.info(transport.remote)
        };
        self.info.insert(Rc::new(info)).clone()
    }

    /// What the current exchange has on the wire so far.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        self.meter.read(&self.transport)
    }

    pub(crate) fn send_head(&mut self, head: &RequestHead, end: bool, upgrade: Option<&Bytes>) {
        self.requests += 1;
        self.method = head.method.clone();
        self.upgrade_asked = upgrade.is_some();
        self.head_seen = false;
        self.answered = false;
        self.keep_alive = true;
        self.request_sent = end && upgrade.is_none();
        self.meter = Meter::begin(&self.transport, 0);
        let (encoder, field_bytes) = write_request(&mut self.transport.output, head, end, upgrade, self.trailers);
        self.encoder = encoder;
        self.meter.header_sent = field_bytes as u64;
    }

    pub(crate) fn send_data(&mut self, bytes: Bytes, end: bool) -> Result<(), StreamError> {
        self.request_sent |= end;
        // A body that doesn't fit its head would prefix the next request: the connection is never used again.
        self.encoder.data(bytes, end, &mut self.transport.output).map_err(|_| {
            self.keep_alive = false;
            StreamError::internal(ErrorKind::Protocol)
        })
    }

    pub(crate) fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        self.request_sent = true;
        self.encoder.trailers(trailers, &mut self.transport.output).map_err(|_| {
            self.keep_alive = false;
            StreamError::internal(ErrorKind::Protocol)
        })
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let result = ready!(self.transport.poll_flush(cx));
        Poll::Ready(result.or_else(|_| {
            // An origin may answer and close without reading: its answer, if any, is still in the socket.
            self.keep_alive = false;
            self.transport.output.clear();
            Ok(())
        }))
    }

    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamHead, StreamError>> {
        loop {
            if !self.transport.input.is_empty() {
                self.answered = true;
                let parsed = parse_response(&mut self.transport.input, &mut self.scan, LIMITS, &self.method);
                match parsed {
                    Ok(Some(response)) => return Poll::Ready(self.head(response)),
                    Ok(None) => {}
                    Err(_) => return Poll::Ready(Err(self.protocol_error())),
                }
            }
            match ready!(self.transport.poll_fill(cx)) {
                Ok(0) | Err(_) if !self.transport.input.is_empty() => return Poll::Ready(Err(self.protocol_error())),
                Ok(0) | Err(_) => {
                    self.keep_alive = false;
                    return Poll::Ready(Err(StreamError::upstream(ErrorKind::Terminated)));
                }
                Ok(_) => {}
            }
        }
    }

    fn head(&mut self, response: crate::http1::ParsedResponse) -> Result<UpstreamHead, StreamError> {
        let status = response.head.status;
        self.meter.header_received += response.field_bytes as u64;
        if status == 101 {
            if !self.upgrade_asked {
                return Err(self.protocol_error());
            }
            self.keep_alive = false;
            self.head_seen = true;
            self.decoder = BodyDecoder::new(BodyLength::UntilClose, LIMITS, false);
            let upgrade = Some(response.upgrade.unwrap_or_else(|| Bytes::from_static(b"websocket")));
            return Ok(UpstreamHead { head: response.head, end: false, upgrade, head_bytes: response.head_bytes });
        }
        if status >= 200 {
            self.head_seen = true;
            self.keep_alive &= response.keep_alive && !self.upgrade_asked;
            self.until_close = response.body == BodyLength::UntilClose;
            self.decoder = BodyDecoder::new(response.body, LIMITS, self.trailers);
        }
        Ok(UpstreamHead {
            end: status >= 200 && self.decoder.is_done(),
            head: response.head,
            upgrade: None,
            head_bytes: response.head_bytes,
        })
    }

    fn protocol_error(&mut self) -> StreamError {
        self.keep_alive = false;
        StreamError::upstream(ErrorKind::Protocol)
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BodyEvent>, StreamError>> {
        loop {
            // What runs until the close and ends without TLS's own end may be cut.
            if self.transport.truncated && self.until_close && self.transport.input.is_empty() {
                return Poll::Ready(Err(self.protocol_error()));
            }
            match self.decoder.decode(&mut self.transport.input, self.transport.eof) {
                Ok(Some(event)) => return Poll::Ready(Ok(Some(event))),
                Ok(None) if self.decoder.is_done() => return Poll::Ready(Ok(None)),
                Ok(None) => {}
                Err(BodyError::Truncated | BodyError::Framing | BodyError::Trailers) => {
                    return Poll::Ready(Err(self.protocol_error()));
                }
            }
            if ready!(self.transport.poll_fill(cx)).is_err() {
                self.keep_alive = false;
                return Poll::Ready(Err(StreamError::upstream(ErrorKind::Terminated)));
            }
        }
    }

    /// Whether the connection may serve another request: both messages are complete and nothing is left over.
    pub(crate) fn reusable(&self) -> bool {
        self.keep_alive
            && self.request_sent
            && self.head_seen
            && self.decoder.is_done()
            && self.transport.input.is_empty()
            && self.transport.output.is_empty()
            && !self.transport.eof
    }

    /// Whether an idle connection is still open; bytes that nobody asked for count as closed.
    pub(crate) fn is_open(&mut self, cx: &mut Context<'_>) -> bool {
        !self.transport.may_read() || self.transport.poll_fill(cx).is_pending()
    }
}

impl From<HeadError> for StreamError {
    fn from(_: HeadError) -> StreamError {
        StreamError::upstream(ErrorKind::Protocol)
    }
}
