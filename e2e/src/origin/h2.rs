//! The origin's HTTP/2 side, by prior knowledge.

use std::sync::Arc;

use std::sync::atomic::Ordering;

use anyhow::{Context, Result};
use bytes::Bytes;
use h2::server::SendResponse;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::net::TcpStream;

use super::{Directive, Seen, State};
use crate::parser::Headers;

/// Turns of the run loop in which the connection's task writes what is queued.
const WRITE_TURNS: usize = 64;

pub(super) async fn serve(stream: TcpStream, state: Arc<State>, number: u64) -> Result<()> {
    let mut connection = h2::server::handshake(stream).await?;
    while let Some(accepted) = connection.accept().await {
        let (request, respond) = accepted?;
        let state = Arc::clone(&state);
        tokio::spawn(async move {
            let _ = exchange(request, respond, &state, number).await;
        });
    }
    Ok(())
}

async fn exchange(
    request: Request<RecvStream>,
    mut respond: SendResponse<Bytes>,
    state: &State,
    number: u64,
) -> Result<()> {
    let (parts, mut body) = request.into_parts();
    let mut headers = readable(&parts.headers);
    if let Some(authority) = parts.uri.authority() {
        headers.insert(0, (":authority".to_owned(), authority.to_string()));
    }
    let path = parts.uri.path_and_query().map_or_else(String::new, ToString::to_string);
    let method = parts.method.to_string();
    let mut seen =
        Seen { method, path, version: "HTTP/2", headers, connection: number, whole: true, ..Seen::default() };
    let directive = state.directive(&seen.path, &seen.headers);
    if !directive.early {
        seen.whole = read_body(&mut body, &mut seen).await.is_ok();
    }
    state.record(&seen);
    if directive.gate_after.is_none() {
        state.pass_gate(&directive).await;
    }
    if directive.silent {
        return std::future::poll_fn(|cx| respond.poll_reset(cx)).await.map(|_| ()).context("until the client resets");
    }
    answer(&mut respond, &seen, &directive, state).await
}

async fn read_body(body: &mut RecvStream, seen: &mut Seen) -> Result<()> {
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        seen.body.extend_from_slice(&data);
    }
    if let Some(trailers) = body.trailers().await? {
        seen.trailers = readable(&trailers);
    }
    Ok(())
}

async fn answer(respond: &mut SendResponse<Bytes>, seen: &Seen, directive: &Directive, state: &State) -> Result<()> {
    if crate::parser::header(&seen.headers, "content-type").is_some_and(|value| value.starts_with("application/grpc")) {
        return answer_grpc(respond, seen, state).await;
    }
    let (headers, body) = state.answer(seen, directive);
    let mut response = Response::builder().status(directive.status());
    for (name, value) in &headers {
        response = response.header(name, value);
    }
    if !directive.chunked && !directive.trailers {
        response = response.header("content-length", body.len());
    }
    let mut stream = respond.send_response(response.body(())?, false)?;
    let body = Bytes::from(body);
    if let Some(at) = directive.break_after() {
        let (before, after) = (body.slice(..at.min(body.len())), body.slice(at.min(body.len())..));
        send(&mut stream, before, false).await?;
        if directive.gate_after.is_none() {
            // A reset drops what is queued: let the connection's task write the head and the data first.
            for _ in 0..WRITE_TURNS {
                tokio::task::yield_now().await;
            }
            stream.send_reset(Reason::INTERNAL_ERROR);
            return Ok(());
        }
        state.pass_gate(directive).await;
        return finish(&mut stream, after, directive.trailers).await;
    }
    finish(&mut stream, body, directive.trailers).await
}

/// A gRPC call gets its own messages back, and status 0; a health check what the origin says of itself.
async fn answer_grpc(respond: &mut SendResponse<Bytes>, seen: &Seen, state: &State) -> Result<()> {
    let status = if state.sick.load(Ordering::Relaxed) { 2 } else { 1 };
    let body = match seen.path.as_str() {
        "/grpc.health.v1.Health/Check" => Bytes::copy_from_slice(&[0, 0, 0, 0, 2, 8, status]),
        _ => Bytes::copy_from_slice(&seen.body),
    };
    let response = Response::builder().header("content-type", "application/grpc").body(())?;
    let mut stream = respond.send_response(response, false)?;
    send(&mut stream, body, false).await?;
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    Ok(stream.send_trailers(trailers)?)
}

async fn finish(stream: &mut SendStream<Bytes>, body: Bytes, trailers: bool) -> Result<()> {
    send(stream, body, !trailers).await?;
    if trailers {
        let mut map = HeaderMap::new();
        map.insert("x-trailer", HeaderValue::from_static("end"));
        stream.send_trailers(map)?;
    }
    Ok(())
}

/// Sends as the peer's windows allow, so that its back-pressure reaches us.
async fn send(stream: &mut SendStream<Bytes>, mut data: Bytes, end: bool) -> Result<()> {
    while !data.is_empty() {
        stream.reserve_capacity(data.len());
        let capacity = std::future::poll_fn(|cx| stream.poll_capacity(cx)).await.context("the stream is gone")??;
        let piece = data.split_to(capacity.min(data.len()));
        let last = end && data.is_empty();
        stream.send_data(piece, last)?;
        if last {
            return Ok(());
        }
    }
    if end {
        stream.send_data(Bytes::new(), true)?;
    }
    Ok(())
}

fn readable(map: &HeaderMap) -> Headers {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
    };
    map.iter().map(pair).collect()
}
