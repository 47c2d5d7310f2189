//! A stream of a shared HTTP/2 connection to an origin.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::{ResponseFuture, SendRequest};
use outrigger_http::{
    Headers, Method, RequestHead, ResponseHead, TlsInfo, UpstreamConnection, UpstreamInfo, Version, WireBytes,
};

use super::UpstreamHead;
use crate::cluster::EndpointHandle;
use crate::error::{ErrorKind, StreamError};
use crate::http1::BodyEvent;
use crate::http2::{Reader, Writer, header_bytes, headers_from, headers_to, request_bytes};

/// A request's way and its response's.
pub(crate) struct Stream {
    /// Ready for one more stream, by the pool's promise.
    sender: SendRequest<Bytes>,
    response: Option<ResponseFuture>,
    reader: Option<Reader>,
    writer: Writer,
    pub(crate) reused: bool,
    remote: Option<SocketAddr>,
    local: Option<SocketAddr>,
    tls: Option<Arc<TlsInfo>>,
    connection: Option<UpstreamConnection>,
    header_received: u64,
    header_sent: u64,
}

impl std::fmt::Debug for Stream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Stream").field("remote", &self.remote).finish_non_exhaustive()
    }
}

const GONE: StreamError = StreamError::upstream(ErrorKind::Terminated);

impl Stream {
    /// What the stream tells of its endpoint and of its connection.
    pub(crate) fn info(&self, endpoint: &EndpointHandle) -> Rc<UpstreamInfo> {
        Rc::new(UpstreamInfo {
            local: self.local,
            version: Some(Version::Http2),
            tls: self.tls.clone(),
            connection: self.connection,
            ..endpoint.info(self.remote)
        })
    }

    pub(crate) fn new(
        sender: SendRequest<Bytes>,
        reused: bool,
        (remote, local): (Option<SocketAddr>, Option<SocketAddr>),
        tls: Option<Arc<TlsInfo>>,
        connection: Option<UpstreamConnection>,
    ) -> Stream {
        Stream {
            sender,
            response: None,
            reader: None,
            writer: Writer::default(),
            reused,
            remote,
            local,
            tls,
            connection,
            header_received: 0,
            header_sent: 0,
        }
    }

    /// What the stream has on the wire so far.
    pub(crate) fn wire_bytes(&self) -> WireBytes {
        let (header_received, header_sent) = (self.header_received, self.header_sent);
        let received = header_received + self.reader.as_ref().map_or(0, |reader| reader.bytes);
        WireBytes { received, sent: header_sent + self.writer.bytes, header_received, header_sent }
    }

    pub(crate) fn send_head(&mut self, head: &RequestHead, end: bool) -> Result<(), StreamError> {
        let request = request(head).ok_or(StreamError::internal(ErrorKind::Protocol))?;
        let (response, stream) = self.sender.send_request(request, end).map_err(|_| GONE)?;
        self.header_sent += request_bytes(head);
        self.response = Some(response);
        if !end {
            self.writer.start(stream);
        }
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the same shape as HTTP/1, whose framing can be wrong")]
    pub(crate) fn send_data(&mut self, bytes: Bytes, end: bool) -> Result<(), StreamError> {
        self.writer.data(bytes, end);
        Ok(())
    }

    #[expect(clippy::unnecessary_wraps, reason = "the same shape as HTTP/1, whose framing can be wrong")]
    pub(crate) fn send_trailers(&mut self, trailers: &Headers) -> Result<(), StreamError> {
        self.header_sent += header_bytes(trailers, &[]);
        self.writer.trailers(trailers);
        Ok(())
    }

    pub(crate) const fn buffered(&self) -> usize {
        self.writer.queued()
    }

    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        // A stream that the origin has ended early shows in its response.
        Poll::Ready(ready!(self.writer.poll_flush(cx)).or(Ok(())))
    }

    pub(crate) fn poll_head(&mut self, cx: &mut Context<'_>) -> Poll<Result<UpstreamHead, StreamError>> {
        let Some(response) = &mut self.response else { return Poll::Ready(Err(GONE)) };
        if let Poll::Ready(Some(Ok(informational))) = response.poll_informational(cx) {
            let head = ResponseHead {
                status: informational.status().as_u16(),
                version: Version::Http2,
                headers: headers_from(informational.headers()),
            };
            return Poll::Ready(Ok(UpstreamHead { head, end: false, upgrade: None, head_bytes: 0 }));
        }
        let response = ready!(Pin::new(response).poll(cx)).map_err(|error| reset_kind(&error))?;
        self.response = None;
        let (parts, body) = response.into_parts();
        let reader = Reader::new(body);
        let end = reader.is_done();
        self.reader = Some(reader);
        let head = ResponseHead {
            status: parts.status.as_u16(),
            version: Version::Http2,
            headers: headers_from(&parts.headers),
        };
        let head_bytes = head.headers.byte_size();
        self.header_received += header_bytes(&head.headers, &[(":status", 3)]);
        Poll::Ready(Ok(UpstreamHead { head, end, upgrade: None, head_bytes }))
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BodyEvent>, StreamError>> {
        match &mut self.reader {
            Some(reader) => Poll::Ready(ready!(reader.poll_body(cx)).map_err(|_| GONE)),
            None => Poll::Ready(Err(GONE)),
        }
    }
}

fn reset_kind(error: &h2::Error) -> StreamError {
    // A server that goes away says which streams it hasn't looked at (RFC 9113 §6.8).
    if error.is_go_away() && error.is_remote() {
        return StreamError::upstream(ErrorKind::RefusedStream);
    }
    match error.reason() {
        Some(h2::Reason::PROTOCOL_ERROR) if !error.is_remote() => StreamError::upstream(ErrorKind::Protocol),
        Some(h2::Reason::REFUSED_STREAM) if error.is_reset() => StreamError::upstream(ErrorKind::RefusedStream),
        Some(_) if error.is_reset() && error.is_remote() => StreamError::upstream(ErrorKind::RemoteReset),
        _ => GONE,
    }
}

fn request(head: &RequestHead) -> Option<http::Request<()>> {
    let mut request = http::Request::new(());
    *request.method_mut() = http::Method::from_bytes(head.method.as_bytes()).ok()?;
    *request.version_mut() = http::Version::HTTP_2;
    let mut uri = http::uri::Parts::default();
    uri.authority = Some(http::uri::Authority::from_maybe_shared(head.authority.clone()).ok()?);
    if head.method != Method::Connect {
        uri.scheme = head.scheme.as_str().parse().ok();
        uri.path_and_query = Some(http::uri::PathAndQuery::from_maybe_shared(head.path.clone()).ok()?);
    }
    *request.uri_mut() = http::Uri::from_parts(uri).ok()?;
    headers_to(&head.headers, request.headers_mut());
    Some(request)
}
