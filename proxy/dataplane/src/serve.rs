//! A client's HTTP connection: from its first byte to its last.

mod http2;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::sync::{Arc, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{Action, CodecType, HttpConnectionManager};
use outrigger_http::{
    ClientSocket, DownstreamInfo, HeaderName, LogType, RequestHead, ResponseFlags, ResponseHead, Scheme, StreamInfo,
    StreamState, Version,
};
use tokio::time::Instant;

use crate::downstream::Downstream;
use crate::downstream::h1::{Connection, NoRequest};
use crate::exchange::{Exchange, Incoming, Outcome};
use crate::http1::{BodyLength, HeadError, HeadLimits};
use crate::listener::{Accepted, ChainSlot};
use crate::live::{HttpChain, LiveChain};
use crate::probe::Probe;
use crate::stats::{ActiveGuard, HttpStats};
use crate::timer::{LazyTimer, earlier};
use crate::transport::Transport;
use crate::tunnel;
use crate::worker::WorkerCx;

/// Envoy waits without a bound for a head; an edge should not, and this is what Envoy recommends.
const HEADERS_TIMEOUT: Duration = Duration::from_secs(10);
/// What is read and thrown away of a client that still sends after the last answer, so that it can read it.
const LINGER: Duration = Duration::from_secs(1);
const LINGER_BYTES_MAX: u64 = 1 << 20;
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// A connection's own facts.
struct Client<'a> {
    cx: &'a Rc<WorkerCx>,
    slot: Rc<ChainSlot>,
    info: Rc<DownstreamInfo>,
    /// Held by the streams that may ask, and by nobody else, since there is a price for who outlives the socket.
    socket: Weak<Probe>,
    opened: Instant,
    stats: Rc<HttpStats>,
    /// Who is woken when connections are to close.
    waker: RefCell<Option<Waker>>,
}

impl Drop for Client<'_> {
    fn drop(&mut self) {
        self.cx.unregister_idle(self.info.id);
        self.stats.downstream_cx_destroy().inc();
        self.stats
            .downstream_cx_length_ms()
            .record(u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX));
    }
}

impl Client<'_> {
    fn chain(&self) -> Option<Rc<HttpChain>> {
        match self.slot.live() {
            LiveChain::Http(chain) => Some(chain),
            // The chain does something else now: what was accepted as HTTP ends.
            LiveChain::Tcp(_) => None,
        }
    }

    /// From now on the task is woken when connections are to close.
    fn listen_for_changes(&self, waker: &Waker) {
        let mut known = self.waker.borrow_mut();
        if known.as_ref().is_none_or(|known| !known.will_wake(waker)) {
            *known = Some(waker.clone());
            self.cx.register_idle(self.info.id, waker);
        }
    }

    /// Whether the connection is to close with its next answer.
    fn closing(&self) -> bool {
        self.slot.is_closing(self.info.id) || self.cx.ending.includes(self.info.id)
    }

    /// Whether it closes while it is idle. A request may cross that, so it comes last.
    fn closes_idle(&self) -> bool {
        self.slot.is_over_for(self.opened) || self.cx.ending.is_over()
    }

    /// Whether a new stream is shed.
    fn sheds(&self) -> bool {
        !self.slot.bypasses_overload() && self.cx.overloaded(Action::StopAcceptingRequests)
    }

    /// Whether the connection closes with its next answer, to shed load.
    fn disables_keepalive(&self) -> bool {
        let disables = !self.slot.bypasses_overload() && self.cx.overloaded(Action::DisableHttpKeepalive);
        if disables {
            self.stats.downstream_cx_overload_disable_keepalive().inc();
        }
        disables
    }

    fn state(
        &self,
        mut head: RequestHead,
        head_bytes: usize,
        generation: u64,
        began: Instant,
    ) -> Rc<RefCell<StreamState>> {
        if self.info.tls.is_some() && head.version != Version::Http2 {
            head.scheme = Scheme::Https;
        }
        // Written where it stays: it is too large to be handed around.
        let wall_clock = self.cx.wall_clock(began);
        let info = StreamInfo::new(began.into_std(), wall_clock, self.info.clone(), self.slot.info());
        let mut state = StreamState::new(head, info);
        let info = &mut state.info;
        info.downstream_socket = self.socket.upgrade().map(|probe| probe as Arc<dyn ClientSocket>);
        info.request_header_bytes = head_bytes as u64;
        info.generation = generation;
        Rc::new(RefCell::new(state))
    }
}

/// Serves a connection.
pub(crate) async fn http(cx: &Rc<WorkerCx>, accepted: Accepted) {
    let Accepted { chain: slot, mut transport, info, .. } = accepted;
    let LiveChain::Http(chain) = slot.live() else { return };
    chain.stats.downstream_cx_total().inc();
    let _active = ActiveGuard::new(&chain.stats, HttpStats::downstream_cx_active);
    let id = cx.connection_id();
    let client = Client {
        cx,
        slot,
        info: Rc::new(transport.downstream_info(id, info)),
        socket: transport.probe().map(Arc::downgrade).unwrap_or_default(),
        opened: Instant::now(),
        stats: chain.stats.clone(),
        waker: RefCell::new(None),
    };
    let hcm = chain.hcm.clone();
    drop(chain);
    let http2 = Box::pin(speaks_http2(&hcm, &mut transport, &client)).await;
    let Some(http2) = http2 else { return };
    if http2 {
        Box::pin(http2::serve(&client, transport)).await;
    } else {
        Box::pin(http1_connection(&client, transport)).await;
    }
}

/// Whether the connection is HTTP/2; `None`: it is over.
async fn speaks_http2(hcm: &HttpConnectionManager, transport: &mut Transport, client: &Client<'_>) -> Option<bool> {
    match hcm.codec {
        CodecType::Http1 => Some(false),
        CodecType::Http2 => match tokio::time::timeout(HEADERS_TIMEOUT, starts_with_preface(transport, client)).await {
            Ok(Some(true)) => Some(true),
            Ok(Some(false)) => {
                client.stats.downstream_cx_protocol_error().inc();
                linger(transport).await;
                None
            }
            _ => None,
        },
        CodecType::Auto => match client.info.tls.as_ref().map_or("", |tls| &*tls.alpn) {
            "h2" => Some(true),
            "http/1.1" => Some(false),
            _ => tokio::time::timeout(idle_timeout(hcm), starts_with_preface(transport, client)).await.unwrap_or(None),
        },
    }
}

fn idle_timeout(hcm: &HttpConnectionManager) -> Duration {
    hcm.idle_timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(Duration::from_secs(365 * 86_400))
}

/// Whether the connection speaks HTTP/2; `None`: it closed before it said.
async fn starts_with_preface(transport: &mut Transport, client: &Client<'_>) -> Option<bool> {
    poll_fn(|task| {
        loop {
            let read = transport.input.len().min(PREFACE.len());
            if transport.input[..read] != PREFACE[..read] {
                return Poll::Ready(Some(false));
            }
            if read == PREFACE.len() {
                return Poll::Ready(Some(true));
            }
            match transport.poll_fill(task) {
                Poll::Ready(Ok(n)) if n > 0 => {}
                Poll::Ready(_) => return Poll::Ready((read > 0).then_some(false)),
                Poll::Pending => {
                    client.listen_for_changes(task.waker());
                    return if client.closes_idle() && read == 0 { Poll::Ready(None) } else { Poll::Pending };
                }
            }
        }
    })
    .await
}

async fn http1_connection(client: &Client<'_>, transport: Box<Transport>) {
    let Some(chain) = client.chain() else { return };
    let hcm = &chain.hcm;
    let limits = HeadLimits {
        bytes_max: hcm.limits.max_request_headers_bytes as usize,
        headers_max: hcm.limits.max_headers_count as usize,
        accept_http_10: hcm.http1.accept_http_10,
    };
    chain.stats.downstream_cx_http1_total().inc();
    let _active = ActiveGuard::new(&chain.stats, HttpStats::downstream_cx_http1_active);
    let mut connection = Connection::new(transport, limits, hcm.http1.enable_trailers);
    drop(chain);
    let mut timer = LazyTimer::default();
    let mut requests = 0_u32;
    let mut rests_since = client.opened;
    while let Some(waits) = client.chain().map(|chain| Waits::of(&chain.hcm)) {
        let next = next_request(client, &mut connection, rests_since, waits, &mut timer).await;
        let parsed = match next {
            Some(Ok(parsed)) => parsed,
            Some(Err(error)) => {
                Box::pin(refuse(client, &mut connection, error)).await;
                break;
            }
            None => break,
        };
        // The newest generation, whatever the connection began with.
        let Some(chain) = client.chain() else { break };
        requests = requests.saturating_add(1);
        chain.stats.downstream_rq_http1_total().inc();
        let expired = chain.hcm.max_connection_duration.is_some_and(|max| client.opened.elapsed() >= max);
        if expired {
            chain.stats.downstream_cx_max_duration_reached().inc();
        }
        let over = expired || chain.hcm.max_requests_per_connection.is_some_and(|max| requests >= max);
        if over || client.closing() || client.disables_keepalive() {
            connection.close_after();
        }
        let received = Instant::now();
        let generation = chain.live.prepared.snapshot.generation;
        let state = client.state(parsed.head, parsed.head_bytes, generation, received);
        let incoming = Incoming {
            end: parsed.body == BodyLength::None,
            upgrade: parsed.upgrade,
            expect_continue: parsed.expect_continue,
            shed: client.sheds(),
        };
        let stats = chain.stats.clone();
        let idle = chain.hcm.stream_idle_timeout;
        let exchange =
            Exchange::new(client.cx, chain, &client.slot, Downstream::H1(&mut connection), state, &mut timer, received);
        match exchange.run(incoming).await {
            Outcome::Done(at) if connection.reusable() => rests_since = at,
            Outcome::Tunnel(picked) => {
                stats.downstream_cx_upgrades_total().inc();
                let _active = ActiveGuard::new(&stats, HttpStats::downstream_cx_upgrades_active);
                Box::pin(tunnel::upgraded(connection, picked, client.slot.buffer_limit(), idle)).await;
                return;
            }
            Outcome::Done(_) => {
                Box::pin(linger(&mut connection.transport)).await;
                break;
            }
            Outcome::Aborted => break,
        }
    }
    client.stats.downstream_cx_rx_bytes_total().add(connection.transport.bytes_read);
    client.stats.downstream_cx_tx_bytes_total().add(connection.transport.bytes_written);
}

/// How long a client is waited for. No more of the generation than this: a connection that rests would keep all of it, with
/// its clusters' connections.
#[derive(Debug, Clone, Copy)]
struct Waits {
    idle: Duration,
    /// From the head's first byte; zero: for ever.
    head: Duration,
    /// What the connection may last.
    whole: Option<Duration>,
}

impl Waits {
    fn of(hcm: &HttpConnectionManager) -> Waits {
        Waits {
            idle: idle_timeout(hcm),
            head: hcm.request_headers_timeout.unwrap_or(HEADERS_TIMEOUT),
            whole: hcm.max_connection_duration,
        }
    }
}

/// Waits for a request: idle, then within its head.
async fn next_request(
    client: &Client<'_>,
    connection: &mut Connection,
    rests_since: Instant,
    waits: Waits,
    timer: &mut LazyTimer,
) -> Option<Result<crate::http1::ParsedRequest, HeadError>> {
    let idle = earlier(Some(rests_since + waits.idle), waits.whole.map(|max| client.opened + max));
    let mut head_deadline = None;
    let mut started = false;
    poll_fn(|task: &mut Context<'_>| {
        match connection.poll_request(task, &mut started) {
            Poll::Ready(Ok(parsed)) => return Poll::Ready(Some(Ok(parsed))),
            Poll::Ready(Err(NoRequest::Refused(error))) => return Poll::Ready(Some(Err(error))),
            Poll::Ready(Err(NoRequest::Closed)) => return Poll::Ready(None),
            Poll::Ready(Err(NoRequest::Truncated)) => {
                client.stats.downstream_cx_protocol_error().inc();
                return Poll::Ready(None);
            }
            Poll::Pending => {}
        }
        if started {
            let deadline = *head_deadline.get_or_insert_with(|| Instant::now() + waits.head);
            if !waits.head.is_zero() && timer.poll_until(Some(deadline), task).is_ready() {
                client.stats.downstream_rq_header_timeout().inc();
                return Poll::Ready(Some(Err(HeadError::Timeout)));
            }
            return Poll::Pending;
        }
        client.listen_for_changes(task.waker());
        if client.closes_idle() {
            return Poll::Ready(None);
        }
        connection.transport.rest();
        if timer.poll_until(idle, task).is_ready() {
            client.stats.downstream_cx_idle_timeout().inc();
            return Poll::Ready(None);
        }
        Poll::Pending
    })
    .await
}

/// Answers what is no request, and writes its access log.
async fn refuse(client: &Client<'_>, connection: &mut Connection, error: HeadError) {
    let Some(chain) = client.chain() else { return };
    let stats = &chain.stats;
    stats.downstream_rq_total().inc();
    match error {
        HeadError::TooLarge | HeadError::TooManyHeaders => stats.downstream_rq_too_large().inc(),
        HeadError::Timeout => {}
        _ => stats.downstream_cx_protocol_error().inc(),
    }
    let status = error.status();
    stats.response(status);
    let mut head = ResponseHead::new(status);
    head.headers.append(HeaderName::DATE, client.cx.date());
    if chain.hcm.server_header.tells_ours(false) {
        head.headers.append(HeaderName::SERVER, chain.hcm.server_name.clone());
    }
    connection.close_after();
    connection.send_head(&head, true, None);
    let generation = chain.live.prepared.snapshot.generation;
    let refused = client.state(RequestHead::default(), 0, generation, Instant::now());
    {
        let mut state = refused.borrow_mut();
        state.request.path = Bytes::new();
        state.response = Some(head);
        if error != HeadError::Timeout {
            state.info.flags.insert(ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR);
        }
        state.info.code_details = error.to_string().into();
        state.info.mark(outrigger_http::TimingPoint::ResponseComplete, std::time::Instant::now());
    }
    chain.live.log(client.cx, &chain.hcm.access_logs, LogType::DownstreamEnd, &refused);
    drop(chain);
    linger(&mut connection.transport).await;
}

/// Sends what is queued, closes our side and reads on for a moment: a close with unread bytes would be a reset, which
/// takes the answer away from the client.
async fn linger(transport: &mut Transport) {
    let closing = async {
        if poll_fn(|task| transport.poll_flush(task)).await.is_err() {
            return;
        }
        if transport.eof || poll_fn(|task| transport.poll_shutdown(task)).await.is_err() {
            return;
        }
        let limit = transport.bytes_read + LINGER_BYTES_MAX;
        while let Ok(n) = poll_fn(|task| transport.poll_fill(task)).await {
            transport.input.clear();
            if n == 0 || transport.bytes_read > limit {
                return;
            }
        }
    };
    _ = tokio::time::timeout(LINGER, closing).await;
}
