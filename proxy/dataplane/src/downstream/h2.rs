//! A stream of a client's HTTP/2 connection.

use std::future::poll_fn;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::server::SendResponse;
use outrigger_http::{HeaderName, Headers, Method, RequestHead, ResponseHead, Scheme, Version, WireBytes};

use crate::error::{ErrorKind, StreamError};
use crate::http1::BodyEvent;
use crate::http2::{Reader, StreamGone, Writer, header_bytes, headers_from, headers_to, request_bytes};

/// A request's body and the way for its response.
#[derive(Debug)]
pub(crate) struct Stream {
    reader: Reader,
    /// What [`Stream::settle`] has read.
    ahead: Option<BodyEvent>,
    respond: SendResponse<Bytes>,
    writer: Writer,
    head_request: bool,
    responded: bool,
    ended: bool,
    header_received: u64,
    header_sent: u64,
}

const GONE: StreamError = StreamError::downstream(ErrorKind::Terminated);

impl From<StreamGone> for StreamError {
    fn from(_: StreamGone) -> StreamError {
        GONE
    }
}

/// A request that must not be forwarded: its status and details.
#[derive(Debug)]
pub(crate) struct Refused(pub(crate) u16, pub(crate) &'static str);

impl Stream {
    pub(crate) fn new(body: h2::RecvStream, respond: SendResponse<Bytes>, head: &RequestHead) -> Stream {
        Stream {
            reader: Reader::new(body),
            ahead: None,
            respond,
            writer: Writer::default(),
            head_request: head.method == Method::Head,
            responded: false,
            ended: false,
            header_received: request_bytes(head),
            header_sent: 0,
        }
    }

    /// What the stream has on the wire so far.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        let (header_received, header_sent) = (self.header_received, self.header_sent);
        let (received, sent) = (header_received + self.reader.bytes, header_sent + self.writer.bytes);
        WireBytes { received, sent, header_received, header_sent }
    }

    pub(crate) const fn request_complete(&self) -> bool {
        self.reader.is_done() && self.ahead.is_none()
    }

    /// Waits until a request that says it has no body is known to have none (the crate refuses what its length forbids).
    pub(crate) async fn settle(&mut self) -> Result<(), StreamError> {
        let event = poll_fn(|cx| self.poll_body(cx)).await?;
        self.ahead = event.filter(|event| !matches!(event, BodyEvent::Data { bytes, end: true } if bytes.is_empty()));
        Ok(())
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BodyEvent>, StreamError>> {
        if let Some(event) = self.ahead.take() {
            return Poll::Ready(Ok(Some(event)));
        }
        Poll::Ready(ready!(self.reader.poll_body(cx)).map_err(|_| GONE))
    }

    pub(crate) fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        if self.ended {
            return Poll::Pending;
        }
        if self.responded {
            ready!(self.writer.poll_reset(cx));
        } else {
            _ = ready!(self.respond.poll_reset(cx));
        }
        Poll::Ready(GONE)
    }

    pub(crate) fn send_informational(&mut self, head: &ResponseHead) {
        if let Some(response) = response(head) {
            _ = self.respond.send_informational(response);
        }
    }

    pub(crate) fn send_head(&mut self, head: &ResponseHead, end: bool) -> Result<(), StreamError> {
        let end = end || self.head_request;
        let response = response(head).ok_or(StreamError::internal(ErrorKind::Protocol))?;
        let stream = self.respond.send_response(response, end).map_err(|_| GONE)?;
        self.header_sent += header_bytes(&head.headers, &[(":status", 3)]);
        self.responded = true;
        self.ended = end;
        if !end {
            self.writer.start(stream);
        }
        Ok(())
    }

    pub(crate) fn send_data(&mut self, bytes: Bytes, end: bool) -> Result<(), StreamError> {
        if !self.ended {
            self.ended = end;
            self.writer.data(bytes, end);
        }
        Ok(())
    }

    pub(crate) fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        if !self.ended {
            self.ended = true;
            self.header_sent += header_bytes(trailers, &[]);
            self.writer.trailers(trailers);
        }
        Ok(())
    }

    pub(crate) const fn buffered(&self) -> usize {
        self.writer.queued()
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        Poll::Ready(ready!(self.writer.poll_flush(cx)).map_err(|_| GONE))
    }

    pub(crate) fn reset(&mut self) {
        self.ended = true;
        if self.responded {
            self.writer.reset(h2::Reason::INTERNAL_ERROR);
        } else {
            self.respond.send_reset(h2::Reason::INTERNAL_ERROR);
        }
    }
}

fn response(head: &ResponseHead) -> Option<http::Response<()>> {
    let mut response = http::Response::new(());
    *response.status_mut() = http::StatusCode::from_u16(head.status).ok()?;
    headers_to(&head.headers, response.headers_mut());
    Some(response)
}

/// The head of a request, or why it is refused (RFC 9113 §8.3; the crate has checked the syntax).
pub(crate) fn request_head(request: &http::request::Parts, headers_max: usize) -> Result<RequestHead, Refused> {
    if request.headers.len() > headers_max {
        return Err(Refused(431, "request_headers_count_exceeded"));
    }
    let mut headers = headers_from(&request.headers);
    let method = Method::from_bytes(request.method.as_str().as_bytes()).ok_or(Refused(400, "http2.invalid_method"))?;
    let mut hosts = headers.get_all(&HeaderName::HOST);
    let host = hosts.next().cloned();
    let repeated = hosts.next().is_some();
    drop(hosts);
    let authority = request.uri.authority().map(|authority| Bytes::copy_from_slice(authority.as_str().as_bytes()));
    let authority = match (authority, host) {
        // Two names for one target would leave it to each hop which one counts (RFC 9113 §8.3.1).
        (Some(authority), Some(host)) if !authority.eq_ignore_ascii_case(&host) => {
            return Err(Refused(400, "http2.authority_and_host_differ"));
        }
        (Some(authority), _) => authority,
        (None, Some(host)) if !repeated => host,
        _ => return Err(Refused(400, "http2.missing_authority")),
    };
    crate::http1::check_host(&authority).map_err(|_| Refused(400, "http2.invalid_authority"))?;
    headers.remove(&HeaderName::HOST);
    let path = match request.uri.path_and_query() {
        _ if method == Method::Connect => Bytes::new(),
        Some(path) if !path.as_str().is_empty() => Bytes::copy_from_slice(path.as_str().as_bytes()),
        _ => return Err(Refused(400, "http2.missing_path")),
    };
    let asterisk = method == Method::Options && &path[..] == b"*";
    if !path.is_empty() && !path.starts_with(b"/") && !asterisk {
        return Err(Refused(400, "http2.invalid_path"));
    }
    let scheme = if request.uri.scheme_str() == Some("https") { Scheme::Https } else { Scheme::Http };
    Ok(RequestHead { method, scheme, authority, path, version: Version::Http2, headers })
}
