//! `grpc_call` and `grpc_stream`: gRPC of a guest to a cluster, on its worker.
//!
//! Messages are framed and taken apart here (gRPC over HTTP/2, "Length-Prefixed-Message"); their content is the guest's.

use std::cell::Cell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use outrigger_http::{HeaderName, Headers, Method, RequestHead, ResponseFlags, ResponseHead, Version};
use outrigger_wasm::{GrpcEvent, GrpcOpen};
use tokio::sync::mpsc;

use super::call::{ANSWER_BYTES_MAX, checkout};
use crate::cluster::Picked;
use crate::error::{ErrorKind, LocalReply, StreamError};
use crate::http1::BodyEvent;
use crate::worker::WorkerCx;

/// What a stream may have waiting to be sent; beyond it, it is closed.
const SEND_BYTES_MAX: usize = 4 << 20;
/// What is handed to the connection before its peer takes more.
const WRITE_BYTES_MAX: usize = 256 << 10;
/// Flag and length.
const FRAME_HEAD: usize = 5;

/// gRPC statuses that this host gives.
mod status {
    pub(super) const OK: u32 = 0;
    pub(super) const UNKNOWN: u32 = 2;
    pub(super) const DEADLINE_EXCEEDED: u32 = 4;
    pub(super) const RESOURCE_EXHAUSTED: u32 = 8;
    pub(super) const INTERNAL: u32 = 13;
    pub(super) const UNAVAILABLE: u32 = 14;
}

/// The guest's half of an open stream: what it sends.
#[derive(Debug)]
pub(super) struct Sender {
    messages: mpsc::UnboundedSender<Outgoing>,
    queued: Rc<Cell<usize>>,
}

/// What [`run`] takes the guest's messages from.
#[derive(Debug)]
pub(super) struct Receiver {
    messages: mpsc::UnboundedReceiver<Outgoing>,
    queued: Rc<Cell<usize>>,
}

#[derive(Debug)]
struct Outgoing {
    message: Option<Bytes>,
    end: bool,
}

/// A way for a guest's messages, bounded by their bytes.
pub(super) fn channel() -> (Sender, Receiver) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let queued = Rc::new(Cell::new(0));
    (Sender { messages: sender, queued: queued.clone() }, Receiver { messages: receiver, queued })
}

impl Sender {
    /// Queues a message, or only the end. What is beyond the bound is queued too, and ends the stream.
    pub(super) fn send(&self, message: Option<Bytes>, end: bool) {
        self.queued.set(self.queued.get() + FRAME_HEAD + message.as_ref().map_or(0, Bytes::len));
        // A stream that is over takes nothing more.
        _ = self.messages.send(Outgoing { message, end });
    }
}

/// The end of a call or stream: gRPC's status and the text for it.
#[derive(Debug, PartialEq, Eq)]
struct End {
    status: u32,
    message: String,
}

impl End {
    fn new(status: u32, message: &str) -> End {
        End { status, message: message.to_owned() }
    }

    fn of_error(error: StreamError, begun: bool) -> End {
        if begun {
            return End::new(status::INTERNAL, "");
        }
        let reply = error.reply();
        let status =
            if error.kind == ErrorKind::RouteTimeout { status::DEADLINE_EXCEEDED } else { status::UNAVAILABLE };
        End { status, message: String::from_utf8_lossy(&reply.body).into_owned() }
    }

    /// From trailers, or from a head that has no body.
    fn of_trailers(headers: &Headers) -> Option<End> {
        let status = std::str::from_utf8(headers.get(&HeaderName::GRPC_STATUS)?).ok()?.parse().ok();
        let message = headers.get(&HeaderName::GRPC_MESSAGE).map(|text| String::from_utf8_lossy(text).into_owned());
        Some(End { status: status.unwrap_or(status::UNKNOWN), message: message.unwrap_or_default() })
    }
}

/// Runs a call or stream to its end; everything that comes of it goes to `tell`, the end last.
pub(super) async fn run(cx: &Rc<WorkerCx>, open: GrpcOpen, mut outgoing: Receiver, tell: impl Fn(GrpcEvent)) {
    let timeout = open.timeout;
    let is_call = open.message.is_some();
    let mut answer = None;
    let work = async {
        let mut stream = Stream { is_call, answer: &mut answer, tell: &tell };
        Box::pin(exchange(cx, open, &mut outgoing, &mut stream)).await
    };
    let end = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, work)
            .await
            .unwrap_or_else(|_| End::new(status::DEADLINE_EXCEEDED, "upstream request timeout")),
        None => work.await,
    };
    match answer {
        Some(message) if is_call && end.status == status::OK => tell(GrpcEvent::Message(message)),
        // A call that ends well without its answer has not ended well.
        None if is_call && end.status == status::OK => {
            tell(GrpcEvent::Close { status: status::INTERNAL, message: String::new() });
        }
        _ => tell(GrpcEvent::Close { status: end.status, message: end.message }),
    }
}

/// Where what comes in goes.
struct Stream<'a, F> {
    is_call: bool,
    answer: &'a mut Option<Bytes>,
    tell: &'a F,
}

impl<F: Fn(GrpcEvent)> Stream<'_, F> {
    fn message(&mut self, message: Bytes) {
        if self.is_call {
            *self.answer = Some(message);
        } else {
            (self.tell)(GrpcEvent::Message(message));
        }
    }

    fn metadata(&self, event: GrpcEvent) {
        if !self.is_call {
            (self.tell)(event);
        }
    }
}

async fn exchange<F: Fn(GrpcEvent)>(
    cx: &Rc<WorkerCx>,
    open: GrpcOpen,
    outgoing: &mut Receiver,
    stream: &mut Stream<'_, F>,
) -> End {
    let Some(cluster) = cx.live().cluster(cx, &open.cluster) else {
        return End::of_error(StreamError::upstream(ErrorKind::NoHealthyUpstream), false);
    };
    let head = request_head(&open);
    let mut picked = match checkout(&cluster, Version::Http2, &head).await {
        Ok(picked) => picked,
        Err(error) => return End::of_error(error, false),
    };
    let sent = picked.stream.send_head(&head, false, None).and_then(|()| match open.message {
        Some(message) => picked.stream.send_data(frame(&message), true),
        None => Ok(()),
    });
    if let Err(error) = sent {
        return End::of_error(error, false);
    }
    let end = receive(&mut picked, outgoing, stream).await;
    // As HTTP statuses, which is what the balancer learns from.
    let http = match end.status {
        status::OK => 200,
        status::UNAVAILABLE | status::DEADLINE_EXCEEDED => 503,
        _ => 500,
    };
    picked.record(http, ResponseFlags::NONE);
    if end.status == status::OK {
        picked.finish(tokio::time::Instant::now());
    }
    end
}

fn request_head(open: &GrpcOpen) -> RequestHead {
    let mut headers = Headers::with_capacity(open.metadata.len() + 3);
    headers.append(HeaderName::TE, Bytes::from_static(b"trailers"));
    headers.append(HeaderName::CONTENT_TYPE, Bytes::from_static(b"application/grpc"));
    if let Some(timeout) = open.timeout {
        headers.append(HeaderName::GRPC_TIMEOUT, timeout_value(timeout).into());
    }
    for (name, value) in &open.metadata {
        if *name != HeaderName::TE && *name != HeaderName::CONTENT_TYPE && *name != HeaderName::GRPC_TIMEOUT {
            headers.append(name.clone(), value.clone());
        }
    }
    RequestHead {
        method: Method::Post,
        authority: Bytes::copy_from_slice(open.authority.as_bytes()),
        path: format!("/{}/{}", open.service, open.method).into(),
        version: Version::Http2,
        headers,
        ..RequestHead::default()
    }
}

/// At most eight digits and a unit (gRPC's `Timeout`).
fn timeout_value(timeout: Duration) -> String {
    let millis = timeout.as_millis();
    if millis < 100_000_000 { format!("{millis}m") } else { format!("{}S", timeout.as_secs().min(99_999_999)) }
}

fn frame(message: &Bytes) -> Bytes {
    let mut framed = BytesMut::with_capacity(FRAME_HEAD + message.len());
    framed.put_u8(0);
    framed.put_u32(u32::try_from(message.len()).unwrap_or(u32::MAX));
    framed.extend_from_slice(message);
    framed.freeze()
}

/// What a turn of the stream brought.
enum Came {
    Head(ResponseHead, bool),
    Body(Option<BodyEvent>),
    TooMuchQueued,
}

async fn receive<F: Fn(GrpcEvent)>(picked: &mut Picked, outgoing: &mut Receiver, stream: &mut Stream<'_, F>) -> End {
    let mut begun = false;
    let mut frames = Frames::default();
    loop {
        let came = match poll_fn(|cx| poll_turn(picked, outgoing, begun, cx)).await {
            Ok(came) => came,
            Err(error) => return End::of_error(error, begun),
        };
        match came {
            Came::TooMuchQueued => {
                return End::new(status::RESOURCE_EXHAUSTED, "the upstream does not take the messages");
            }
            Came::Head(head, _) if head.status < 200 => {}
            Came::Head(head, end) => {
                begun = true;
                picked.count_status(head.status);
                if let Some(end) = on_head(head, end, stream) {
                    return end;
                }
            }
            Came::Body(Some(BodyEvent::Data { bytes, end })) => {
                frames.push(&bytes);
                loop {
                    match frames.next() {
                        Ok(Some(message)) => stream.message(message),
                        Ok(None) => break,
                        Err(end) => return end,
                    }
                }
                if end {
                    return no_trailers(stream);
                }
            }
            Came::Body(Some(BodyEvent::Trailers(trailers))) => {
                let end = End::of_trailers(&trailers).unwrap_or_else(|| End::new(status::UNKNOWN, ""));
                stream.metadata(GrpcEvent::TrailingMetadata(trailers));
                return end;
            }
            Came::Body(None) => return no_trailers(stream),
        }
    }
}

fn no_trailers<F: Fn(GrpcEvent)>(stream: &Stream<'_, F>) -> End {
    stream.metadata(GrpcEvent::TrailingMetadata(Headers::new()));
    End::new(status::UNKNOWN, "")
}

/// The stream's end, if it ends with its head: another status than 200, or trailers only.
fn on_head<F: Fn(GrpcEvent)>(head: ResponseHead, end: bool, stream: &Stream<'_, F>) -> Option<End> {
    if head.status == 200 && !end {
        stream.metadata(GrpcEvent::InitialMetadata(head.headers));
        return None;
    }
    let of_http = || {
        let reply = LocalReply::new(head.status, "", "");
        End::new(if head.status == 200 { status::UNKNOWN } else { reply.grpc_status() }, "")
    };
    let found = End::of_trailers(&head.headers).filter(|_| end).unwrap_or_else(of_http);
    stream.metadata(GrpcEvent::InitialMetadata(Headers::new()));
    stream.metadata(GrpcEvent::TrailingMetadata(if end { head.headers } else { Headers::new() }));
    Some(found)
}

/// Sends what the guest has queued and the peer takes, and takes what the peer sends.
fn poll_turn(
    picked: &mut Picked,
    outgoing: &mut Receiver,
    begun: bool,
    cx: &mut std::task::Context<'_>,
) -> Poll<Result<Came, StreamError>> {
    let stream = &mut picked.stream;
    loop {
        if outgoing.queued.get() > SEND_BYTES_MAX {
            return Poll::Ready(Ok(Came::TooMuchQueued));
        }
        while stream.buffered() < WRITE_BYTES_MAX
            && let Poll::Ready(Some(Outgoing { message, end })) = outgoing.messages.poll_recv(cx)
        {
            let bytes = message.as_ref().map(frame).unwrap_or_default();
            let taken = FRAME_HEAD + message.as_ref().map_or(0, Bytes::len);
            outgoing.queued.set(outgoing.queued.get().saturating_sub(taken));
            stream.send_data(bytes, end)?;
        }
        match stream.poll_flush(cx) {
            // There may be more to send by now.
            Poll::Ready(Ok(())) if !outgoing.messages.is_empty() => {}
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            _ => break,
        }
    }
    if begun {
        return stream.poll_body(cx).map_ok(Came::Body);
    }
    stream.poll_head(cx).map_ok(|head| Came::Head(head.head, head.end))
}

/// Takes messages apart.
#[derive(Debug, Default)]
struct Frames {
    bytes: BytesMut,
}

impl Frames {
    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// The next whole message; what is compressed or too large ends the stream.
    fn next(&mut self) -> Result<Option<Bytes>, End> {
        let Some(head) = self.bytes.first_chunk::<FRAME_HEAD>() else { return Ok(None) };
        let [flag, len @ ..] = *head;
        let len = usize::try_from(u32::from_be_bytes(len)).unwrap_or(usize::MAX);
        if flag != 0 {
            return Err(End::new(status::INTERNAL, "the answer is compressed"));
        }
        if len > ANSWER_BYTES_MAX {
            return Err(End::new(status::RESOURCE_EXHAUSTED, "the answer is too large"));
        }
        if self.bytes.len() < FRAME_HEAD + len {
            return Ok(None);
        }
        self.bytes.advance(FRAME_HEAD);
        Ok(Some(self.bytes.split_to(len).freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_and_taken_apart() {
        let mut frames = Frames::default();
        let whole =
            [frame(&Bytes::from_static(b"one")), frame(&Bytes::new()), frame(&Bytes::from_static(b"three"))].concat();
        let mut found = Vec::new();
        for byte in whole {
            frames.push(&[byte]);
            while let Ok(Some(message)) = frames.next() {
                found.push(message);
            }
        }
        assert_eq!(found, ["one", "", "three"]);
        for (bytes, status) in
            [(&[1u8, 0, 0, 0, 0][..], status::INTERNAL), (&[0, 0xff, 0, 0, 0], status::RESOURCE_EXHAUSTED)]
        {
            let mut frames = Frames::default();
            frames.push(bytes);
            assert_eq!(frames.next().expect_err("refused").status, status);
        }
    }

    #[test]
    fn timeouts_have_eight_digits_at_most() {
        assert_eq!(timeout_value(Duration::from_millis(250)), "250m");
        assert_eq!(timeout_value(Duration::from_secs(1_000_000)), "1000000S");
        assert_eq!(timeout_value(Duration::MAX), "99999999S");
    }
}
