//! `http_call`: a request of a guest to a cluster, on its worker.

use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Poll, ready};

use bytes::BytesMut;
use outrigger_http::{HeaderName, Headers, RequestHead, ResponseFlags, ResponseHead, Version};
use outrigger_wasm::{CallFailure, CallResponse, HttpCall};
use tokio::time::Instant;

use crate::cluster::{Checkout, ClusterHandle, PickKey, Picked};
use crate::error::{ErrorKind, StreamError};
use crate::http1::BodyEvent;
use crate::upstream::{Upstream, UpstreamHead};
use crate::worker::WorkerCx;

/// An answer larger than this isn't kept.
pub(super) const ANSWER_BYTES_MAX: usize = 4 << 20;

/// What a client would be told: guests see it as an answer, as in Envoy, whose calls go through its router.
fn replied(error: StreamError) -> CallResponse {
    let reply = error.reply();
    let mut head = ResponseHead::new(reply.status);
    head.headers.append(HeaderName::CONTENT_LENGTH, reply.body.len().to_string().into());
    head.headers.append(HeaderName::CONTENT_TYPE, "text/plain".into());
    CallResponse { head: Some(head), body: reply.body, ..CallResponse::default() }
}

/// Makes the call; every failure is an answer. Before the origin's head it is what a client would be told, after it a reset.
pub(super) async fn run(cx: &Rc<WorkerCx>, call: HttpCall) -> CallResponse {
    let Some(cluster) = cx.live().cluster(cx, &call.cluster) else {
        return replied(StreamError::upstream(ErrorKind::NoHealthyUpstream));
    };
    let deadline = call.timeout.map(|timeout| Instant::now() + timeout);
    let mut answer = Answer::default();
    let exchange = Box::pin(exchange(&cluster, call, &mut answer));
    let result = match deadline {
        Some(deadline) => tokio::time::timeout_at(deadline, exchange)
            .await
            .unwrap_or(Err(StreamError::upstream(ErrorKind::RouteTimeout))),
        None => exchange.await,
    };
    let begun = answer.head.is_some();
    match result {
        Ok(()) => {
            CallResponse { head: answer.head, body: answer.body.freeze(), trailers: answer.trailers, failure: None }
        }
        Err(error) if error.kind == ErrorKind::ResponseTooLarge => failed(CallFailure::TooLarge),
        Err(_) if begun => failed(CallFailure::Reset),
        Err(error) => replied(error),
    }
}

fn failed(failure: CallFailure) -> CallResponse {
    CallResponse { failure: Some(failure), ..CallResponse::default() }
}

/// What has come so far.
#[derive(Debug, Default)]
struct Answer {
    head: Option<ResponseHead>,
    body: BytesMut,
    trailers: Headers,
}

/// A stream to an endpoint of a cluster, for a request with this head.
pub(super) async fn checkout(
    cluster: &Rc<ClusterHandle>,
    version: Version,
    head: &RequestHead,
) -> Result<Box<Picked>, StreamError> {
    let server_name = cluster.server_name(head);
    let key = PickKey { server_name: server_name.as_ref(), ..PickKey::default() };
    match cluster.checkout(&key, version) {
        Checkout::Ready(picked) => Ok(picked),
        Checkout::Connecting(connecting) => connecting.await,
        Checkout::Failed(error) => Err(error),
    }
}

async fn exchange(cluster: &Rc<ClusterHandle>, call: HttpCall, answer: &mut Answer) -> Result<(), StreamError> {
    let mut picked = checkout(cluster, Version::Http11, &call.head).await?;
    send(&mut picked.stream, call)?;
    let received = receive(&mut picked.stream, answer).await;
    let status = answer.head.as_ref().map_or(503, |head| head.status);
    match received {
        Ok(()) => {
            picked.count_status(status);
            picked.record(status, ResponseFlags::NONE);
            picked.finish(Instant::now());
            Ok(())
        }
        Err(error) => {
            picked.record(503, error.flags());
            Err(error)
        }
    }
}

fn send(stream: &mut Upstream, mut call: HttpCall) -> Result<(), StreamError> {
    let (has_body, has_trailers) = (!call.body.is_empty(), !call.trailers.is_empty());
    if has_body && !has_trailers {
        // With trailers the body's end is told otherwise: HTTP/1 has them only behind chunks.
        let length = call.body.len().to_string().into();
        call.head.headers.append(HeaderName::CONTENT_LENGTH, length);
    }
    stream.send_head(&call.head, !has_body && !has_trailers, None)?;
    if has_body {
        stream.send_data(call.body, !has_trailers)?;
    }
    if has_trailers {
        stream.send_trailers(&call.trailers)?;
    }
    Ok(())
}

/// The origin's final head, while the request goes out.
async fn head(stream: &mut Upstream) -> Result<UpstreamHead, StreamError> {
    loop {
        let head = poll_fn(|cx| match stream.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => stream.poll_head(cx),
        });
        let head = head.await?;
        if head.head.status >= 200 {
            return Ok(head);
        }
    }
}

async fn receive(stream: &mut Upstream, answer: &mut Answer) -> Result<(), StreamError> {
    let head = head(stream).await?;
    answer.head = Some(head.head);
    let mut complete = head.end;
    while !complete {
        let event = poll_fn(|cx| match stream.poll_flush(cx) {
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            _ => Poll::Ready(ready!(stream.poll_body(cx))),
        });
        match event.await? {
            Some(BodyEvent::Data { bytes, end }) => {
                if answer.body.len() + bytes.len() > ANSWER_BYTES_MAX {
                    return Err(StreamError::upstream(ErrorKind::ResponseTooLarge));
                }
                answer.body.extend_from_slice(&bytes);
                complete = end;
            }
            Some(BodyEvent::Trailers(trailers)) => {
                answer.trailers = trailers;
                complete = true;
            }
            None => complete = true,
        }
    }
    Ok(())
}
