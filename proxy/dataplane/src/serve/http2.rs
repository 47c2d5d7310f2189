//! A client's HTTP/2 connection: one task polls it and all of its exchanges.

use std::future::{Future, poll_fn};
use std::task::Poll;

use bytes::Bytes;
use futures_util::stream::{FuturesUnordered, StreamExt};
use outrigger_config::HttpConnectionManager;
use outrigger_http::{HeaderName, ResponseFlags};
use outrigger_stats::Name;
use tokio::time::Instant;

use super::{Client, HEADERS_TIMEOUT, idle_timeout};
use crate::downstream::resets::{self, Resets};
use crate::downstream::{Downstream, h2};
use crate::exchange::{Exchange, Incoming, Outcome};
use crate::stats::{ActiveGuard, HttpStats};
use crate::timer::{LazyTimer, earlier};
use crate::transport::Transport;

fn settings(hcm: &HttpConnectionManager) -> ::h2::server::Builder {
    let mut builder = ::h2::server::Builder::new();
    builder
        .initial_window_size(hcm.http2.initial_stream_window_bytes)
        .initial_connection_window_size(hcm.http2.initial_connection_window_bytes)
        .max_concurrent_streams(hcm.http2.max_concurrent_streams)
        .max_header_list_size(hcm.limits.max_request_headers_bytes)
        .max_send_buffer_size(256 * 1024);
    builder
}

pub(super) async fn serve(client: &Client<'_>, transport: Box<Transport>) {
    let Some(chain) = client.chain() else { return };
    let hcm = chain.hcm.clone();
    chain.stats.downstream_cx_http2_total().inc();
    let _active = ActiveGuard::new(&chain.stats, HttpStats::downstream_cx_http2_active);
    drop(chain);
    let handshake = settings(&hcm).handshake::<_, Bytes>(transport.into_prefixed());
    let Ok(Ok(mut connection)) = tokio::time::timeout(HEADERS_TIMEOUT, handshake).await else {
        client.stats.downstream_cx_protocol_error().inc();
        return;
    };
    let keepalive = hcm.http2.keepalive.zip(connection.ping_pong());
    let mut keepalive = keepalive.map(|(options, pings)| Box::pin(crate::http2::keep_alive(options, pings)));
    let mut exchanges = FuturesUnordered::new();
    let mut timer = LazyTimer::default();
    let mut idle_since = Instant::now();
    let mut going_away = false;
    let mut failed = false;
    let mut resets = Resets::default();
    loop {
        let accepted = poll_fn(|task| {
            // First the exchanges: what they write goes out with the connection's own turn.
            while let Poll::Ready(Some(premature)) = exchanges.poll_next_unpin(task) {
                idle_since = Instant::now();
                resets.count(premature);
            }
            if resets.are_too_many() {
                client.stats.downstream_rq_too_many_premature_resets().inc();
                resets = Resets::default();
                going_away = true;
                connection.abrupt_shutdown(::h2::Reason::ENHANCE_YOUR_CALM);
            }
            client.listen_for_changes(task.waker());
            if !going_away && (client.closing() || client.disables_keepalive()) {
                going_away = true;
                connection.graceful_shutdown();
            }
            match connection.poll_accept(task) {
                Poll::Ready(accepted) => return Poll::Ready(accepted),
                Poll::Pending => {}
            }
            if keepalive.as_mut().is_some_and(|pings| pings.as_mut().poll(task).is_ready()) {
                client.cx.registry.counter(&Name::new("", "http2.keepalive_timeout")).inc();
                return Poll::Ready(None);
            }
            if exchanges.is_empty() && !going_away {
                let idle = idle_since + idle_timeout(&hcm);
                if timer
                    .poll_until(earlier(Some(idle), hcm.max_connection_duration.map(|max| client.opened + max)), task)
                    .is_ready()
                {
                    client.stats.downstream_cx_idle_timeout().inc();
                    going_away = true;
                    connection.graceful_shutdown();
                    task.waker().wake_by_ref();
                }
            }
            Poll::Pending
        });
        match accepted.await {
            Some(Ok((request, respond))) => {
                if let Some(exchange) = exchange(client, request, respond) {
                    exchanges.push(exchange);
                }
            }
            Some(Err(error)) => {
                failed = !error.is_io();
                break;
            }
            None => break,
        }
    }
    if failed {
        client.stats.downstream_cx_protocol_error().inc();
    }
    // The connection is gone: its streams notice, end and are logged.
    drop(connection);
    while exchanges.next().await.is_some() {}
}

/// A stream of an HTTP/2 connection; it says whether the client has reset it early.
fn exchange<'c>(
    client: &'c Client<'c>,
    request: http::Request<::h2::RecvStream>,
    mut respond: ::h2::server::SendResponse<Bytes>,
) -> Option<impl Future<Output = bool> + use<'c>> {
    let chain = client.chain()?;
    chain.stats.downstream_rq_http2_total().inc();
    let (parts, body) = request.into_parts();
    let headers_max = chain.hcm.limits.max_headers_count as usize;
    let head = match h2::request_head(&parts, headers_max) {
        Ok(head) => head,
        Err(h2::Refused(status, details)) => {
            tracing::debug!(connection = client.info.id, "{details}");
            chain.stats.downstream_rq_total().inc();
            chain.stats.response(status);
            let mut response = http::Response::new(());
            *response.status_mut() = http::StatusCode::from_u16(status).unwrap_or(http::StatusCode::BAD_REQUEST);
            _ = respond.send_response(response, true);
            return None;
        }
    };
    let head_bytes = head.headers.byte_size();
    let mut stream = h2::Stream::new(body, respond, &head);
    let length = head.headers.get(&HeaderName::CONTENT_LENGTH);
    let says_empty = length.is_some_and(|value| value.iter().all(|byte| *byte == b'0'));
    let received = Instant::now();
    let state = client.state(head, head_bytes, chain.live.prepared.snapshot.generation, received);
    Some(async move {
        let mut now = received;
        if says_empty && !stream.request_complete() {
            // Not a byte goes to the origin before it is known that nothing follows.
            let settled = tokio::time::timeout(HEADERS_TIMEOUT, stream.settle()).await;
            if !matches!(settled, Ok(Ok(()))) {
                chain.stats.downstream_rq_total().inc();
                chain.stats.downstream_rq_tx_reset().inc();
                stream.reset();
                return true;
            }
            now = Instant::now();
        }
        let end = stream.request_complete();
        let incoming = Incoming { end, upgrade: None, expect_continue: false, shed: client.sheds() };
        let mut timer = LazyTimer::default();
        let down = Downstream::H2(Box::new(stream));
        let outcome =
            Exchange::new(client.cx, chain, &client.slot, down, state.clone(), &mut timer, now).run(incoming).await;
        matches!(outcome, Outcome::Aborted)
            && received.elapsed() < resets::LIFETIME_MIN
            && state.borrow().info.flags.contains(ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION)
    })
}
