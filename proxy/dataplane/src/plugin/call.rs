//! `http_call`: a request of a guest to a cluster, on its worker.

use std::future::poll_fn;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use outrigger_http::{Headers, Version};
use outrigger_wasm::{CallFailure, CallResponse, HttpCall};

use crate::cluster::{Checkout, Picked};
use crate::error::{ErrorKind, StreamError};
use crate::http1::BodyEvent;
use crate::worker::WorkerCx;

/// An answer larger than this isn't kept.
const ANSWER_BYTES_MAX: usize = 4 << 20;

/// The answer to a call that isn't made.
pub(super) fn refused() -> CallResponse {
    CallResponse { failure: Some(CallFailure::Connect), ..CallResponse::default() }
}

/// Makes the call; every failure is an answer.
pub(super) async fn run(cx: &Rc<WorkerCx>, call: HttpCall) -> CallResponse {
    let timeout = call.timeout;
    let exchange = Box::pin(exchange(cx, call));
    let result = match timeout {
        Some(timeout) => tokio::time::timeout(timeout, exchange).await.unwrap_or(Err(CallFailure::Timeout)),
        None => exchange.await,
    };
    result.unwrap_or_else(|failure| CallResponse { failure: Some(failure), ..CallResponse::default() })
}

async fn exchange(cx: &Rc<WorkerCx>, call: HttpCall) -> Result<CallResponse, CallFailure> {
    let cluster = cx.live().cluster(cx, &call.cluster).ok_or(CallFailure::Connect)?;
    let mut picked = match cluster.checkout(Version::Http11, false) {
        Checkout::Ready(picked) => picked,
        Checkout::Connecting(connecting) => connecting.await.map_err(|_| CallFailure::Connect)?,
        Checkout::Failed(_) => return Err(CallFailure::Connect),
    };
    send(&mut picked, call).map_err(|_| CallFailure::Reset)?;
    let answer = receive(&mut picked).await;
    match answer {
        Ok(answer) => {
            picked.count_status(answer.head.as_ref().map_or(503, |head| head.status));
            picked.record(answer.head.as_ref().map_or(503, |head| head.status), outrigger_http::ResponseFlags::NONE);
            picked.finish();
            Ok(answer)
        }
        Err(failure) => {
            picked.record(503, outrigger_http::ResponseFlags::NONE);
            Err(failure)
        }
    }
}

fn send(picked: &mut Picked, call: HttpCall) -> Result<(), StreamError> {
    let (has_body, has_trailers) = (!call.body.is_empty(), !call.trailers.is_empty());
    picked.stream.send_head(&call.head, !has_body && !has_trailers, None)?;
    if has_body {
        picked.stream.send_data(call.body, !has_trailers)?;
    }
    if has_trailers {
        picked.stream.send_trailers(&call.trailers)?;
    }
    Ok(())
}

async fn receive(picked: &mut Picked) -> Result<CallResponse, CallFailure> {
    let reset = |error: StreamError| match error.kind {
        ErrorKind::ConnectFailure => CallFailure::Connect,
        _ => CallFailure::Reset,
    };
    let stream = &mut picked.stream;
    let head = loop {
        let answer = poll_fn(|cx| {
            if let std::task::Poll::Ready(Err(error)) = stream.poll_flush(cx) {
                return std::task::Poll::Ready(Err(error));
            }
            stream.poll_head(cx)
        });
        let answer = answer.await.map_err(reset)?;
        if answer.head.status >= 200 {
            break answer;
        }
    };
    let (mut body, mut trailers) = (BytesMut::new(), Headers::new());
    let mut complete = head.end;
    while !complete {
        let event = poll_fn(|cx| {
            if let std::task::Poll::Ready(Err(error)) = stream.poll_flush(cx) {
                return std::task::Poll::Ready(Err(error));
            }
            stream.poll_body(cx)
        });
        match event.await.map_err(reset)? {
            Some(BodyEvent::Data { bytes, end }) => {
                if body.len() + bytes.len() > ANSWER_BYTES_MAX {
                    return Err(CallFailure::TooLarge);
                }
                body.extend_from_slice(&bytes);
                complete = end;
            }
            Some(BodyEvent::Trailers(found)) => {
                trailers = found;
                complete = true;
            }
            None => complete = true,
        }
    }
    let body: Bytes = body.freeze();
    Ok(CallResponse { head: Some(head.head), body, trailers, failure: None })
}
