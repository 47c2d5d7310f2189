//! HTTP/2 on the `h2` crate: what both sides share.
//!
//! Heads are turned into `outrigger_http`'s and back; a [`Reader`] gives a body's parts and returns the window as they
//! are taken; a [`Writer`] queues and sends only what the peer's window lets through, so that a slow peer stops its
//! source instead of filling memory.

use std::collections::VecDeque;
use std::task::{Context, Poll, ready};

use bytes::{Bytes, BytesMut};
use http::header::HeaderMap;
use outrigger_http::{HeaderName, Headers, RequestHead};
use rand::Rng;

use crate::http1::BodyEvent;

/// RFC 9113 §4.1.
const FRAME_HEADER_BYTES: u64 = 9;
/// What a frame holds at most where a peer has said nothing else (RFC 9113 §6.5.2).
const FRAME_BYTES: usize = 16 << 10;

/// What a head or trailers have on the wire, as if they weren't compressed: the codec doesn't tell more. `pseudo`: of what
/// isn't among the headers.
pub(crate) fn header_bytes(headers: &Headers, pseudo: &[(&str, usize)]) -> u64 {
    let pseudo: usize = pseudo.iter().map(|(name, value)| name.len() + value).sum();
    (headers.byte_size() + pseudo) as u64 + FRAME_HEADER_BYTES
}

/// The same of a request's head.
pub(crate) fn request_bytes(head: &RequestHead) -> u64 {
    let (path, authority) = ((":path", head.path.len()), (":authority", head.authority.len()));
    let (method, scheme) = ((":method", head.method.as_bytes().len()), (":scheme", head.scheme.as_str().len()));
    header_bytes(&head.headers, &[method, scheme, authority, path])
}

/// Pings the peer; done when it didn't answer in time.
pub(crate) async fn keep_alive(options: outrigger_config::Http2Keepalive, mut pings: h2::PingPong) {
    loop {
        let jitter = f64::from(options.jitter_millis) / 100_000.0 * rand::rng().random::<f64>();
        tokio::time::sleep(options.interval.mul_f64(1.0 + jitter)).await;
        match tokio::time::timeout(options.timeout, pings.ping(h2::Ping::opaque())).await {
            Ok(Ok(_)) => {}
            Err(_) => return,
            // The connection has ended, which its driver tells.
            Ok(Err(_)) => std::future::pending().await,
        }
    }
}

/// The stream was reset, or its connection is gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamGone;

impl From<h2::Error> for StreamGone {
    fn from(_: h2::Error) -> StreamGone {
        StreamGone
    }
}

/// The header fields of a message. Crumbs of a cookie are joined (RFC 9113 §8.2.3).
pub(crate) fn headers_from(map: &HeaderMap) -> Headers {
    let mut headers = Headers::with_capacity(map.len() + 4);
    let mut cookies: Option<BytesMut> = None;
    for (name, value) in map {
        if name == http::header::COOKIE {
            let joined = cookies.get_or_insert_with(BytesMut::new);
            if !joined.is_empty() {
                joined.extend_from_slice(b"; ");
            }
            joined.extend_from_slice(value.as_bytes());
            continue;
        }
        let Ok(name) = HeaderName::from_bytes(name.as_str().as_bytes()) else { continue };
        if name.is_hop_by_hop() && name != HeaderName::TE {
            continue;
        }
        // The crate has refused what would split a message; this is the second lock.
        _ = headers.try_append(name, Bytes::copy_from_slice(value.as_bytes()));
    }
    if let Some(cookies) = cookies {
        _ = headers.try_append(HeaderName::COOKIE, cookies.freeze());
    }
    headers
}

/// The header fields for the wire; those that belong to an HTTP/1 connection are left out.
pub(crate) fn headers_to(headers: &Headers, map: &mut HeaderMap) {
    map.reserve(headers.len());
    for (name, value) in headers {
        let forbidden = name.is_hop_by_hop() && *name != HeaderName::TE || *name == HeaderName::HOST;
        if forbidden || (*name == HeaderName::TE && !value.eq_ignore_ascii_case(b"trailers")) {
            continue;
        }
        let name = http::HeaderName::from_lowercase(name.as_bytes());
        let value = http::HeaderValue::from_maybe_shared(value.clone());
        if let (Ok(name), Ok(value)) = (name, value) {
            map.append(name, value);
        }
    }
}

/// A body as it comes.
#[derive(Debug)]
pub(crate) struct Reader {
    body: h2::RecvStream,
    /// On the wire.
    pub(crate) bytes: u64,
    data_done: bool,
    done: bool,
}

impl Reader {
    pub(crate) fn new(body: h2::RecvStream) -> Reader {
        let done = body.is_end_stream();
        Reader { body, bytes: 0, data_done: done, done }
    }

    pub(crate) const fn is_done(&self) -> bool {
        self.done
    }

    pub(crate) fn poll_body(&mut self, cx: &mut Context<'_>) -> Poll<Result<Option<BodyEvent>, StreamGone>> {
        if self.done {
            return Poll::Ready(Ok(None));
        }
        while !self.data_done {
            match ready!(self.body.poll_data(cx)) {
                Some(bytes) => {
                    let bytes = bytes?;
                    self.bytes += bytes.len() as u64 + FRAME_HEADER_BYTES;
                    // Whoever takes it bounds what it keeps, and stops polling when it is full.
                    self.body.flow_control().release_capacity(bytes.len())?;
                    self.done = self.body.is_end_stream();
                    self.data_done = self.done;
                    if !bytes.is_empty() || self.done {
                        return Poll::Ready(Ok(Some(BodyEvent::Data { bytes, end: self.done })));
                    }
                }
                None => self.data_done = true,
            }
        }
        let trailers = ready!(self.body.poll_trailers(cx))?;
        self.done = true;
        Poll::Ready(Ok(Some(match trailers {
            Some(trailers) => BodyEvent::Trailers(headers_from(&trailers)),
            None => BodyEvent::Data { bytes: Bytes::new(), end: true },
        })))
    }
}

/// A body on its way out.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    stream: Option<h2::SendStream<Bytes>>,
    /// On the wire, of data.
    pub(crate) bytes: u64,
    queue: VecDeque<Bytes>,
    queued: usize,
    end: Option<End>,
}

#[derive(Debug)]
enum End {
    Data,
    Trailers(HeaderMap),
}

impl Writer {
    pub(crate) fn start(&mut self, stream: h2::SendStream<Bytes>) {
        self.stream = Some(stream);
    }

    pub(crate) const fn queued(&self) -> usize {
        self.queued
    }

    pub(crate) fn data(&mut self, bytes: Bytes, end: bool) {
        if !bytes.is_empty() {
            self.queued += bytes.len();
            self.queue.push_back(bytes);
        }
        if end {
            self.end = Some(End::Data);
        }
    }

    pub(crate) fn trailers(&mut self, trailers: &Headers) {
        let mut map = HeaderMap::new();
        headers_to(trailers, &mut map);
        self.end = Some(End::Trailers(map));
    }

    /// Hands over what the peer's window takes; pending while something is left.
    pub(crate) fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamGone>> {
        let Some(stream) = &mut self.stream else { return Poll::Ready(Ok(())) };
        while let Some(front) = self.queue.front_mut() {
            stream.reserve_capacity(self.queued);
            let capacity = match stream.capacity() {
                0 => match ready!(stream.poll_capacity(cx)) {
                    Some(capacity) => capacity?,
                    None => return Poll::Ready(Err(StreamGone)),
                },
                capacity => capacity,
            };
            let bytes = if capacity >= front.len() { std::mem::take(front) } else { front.split_to(capacity) };
            if bytes.is_empty() && !front.is_empty() {
                continue;
            }
            self.queued -= bytes.len();
            if front.is_empty() {
                self.queue.pop_front();
            }
            let last = self.queue.is_empty() && matches!(self.end, Some(End::Data));
            self.bytes += bytes.len() as u64 + bytes.len().div_ceil(FRAME_BYTES).max(1) as u64 * FRAME_HEADER_BYTES;
            stream.send_data(bytes, last)?;
            if last {
                self.end = None;
                self.stream = None;
                return Poll::Ready(Ok(()));
            }
        }
        match self.end.take() {
            Some(End::Data) => {
                self.bytes += FRAME_HEADER_BYTES;
                stream.send_data(Bytes::new(), true)?;
            }
            Some(End::Trailers(trailers)) => stream.send_trailers(trailers)?,
            None => return Poll::Ready(Ok(())),
        }
        self.stream = None;
        Poll::Ready(Ok(()))
    }

    pub(crate) fn poll_reset(&mut self, cx: &mut Context<'_>) -> Poll<StreamGone> {
        match &mut self.stream {
            Some(stream) => {
                _ = ready!(stream.poll_reset(cx));
                Poll::Ready(StreamGone)
            }
            None => Poll::Pending,
        }
    }

    pub(crate) fn reset(&mut self, reason: h2::Reason) {
        if let Some(mut stream) = self.stream.take() {
            stream.send_reset(reason);
        }
        self.queue.clear();
        self.queued = 0;
    }
}
