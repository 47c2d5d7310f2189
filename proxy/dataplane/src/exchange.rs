//! One request and its answer: route, filters, upstream, timers, access log.
//!
//! [`Exchange::run`] is one state machine that is polled until both messages are through: it moves what can be moved,
//! flushes each side once, and sleeps on whatever is missing. It names no protocol: both sides are enums with the same
//! shape. Back-pressure is a comparison: a side is read only while the other one's queue is below its limit.

mod deadlines;
mod hash;
mod mirror;
mod redirect;
mod request;
mod response;
mod retry;
mod route;
mod selection;
mod timeouts;

use std::cell::RefCell;
use std::future::poll_fn;
use std::rc::Rc;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use outrigger_http::{CloseType, LogType, ResponseFlags, StreamState, TimingPoint};
use tokio::time::Instant;

use crate::cluster::{Checkout, ClusterHandle, Picked};
use crate::downstream::Downstream;
use crate::error::{ErrorKind, ErrorSource, StreamError};
use crate::filter::{FilterEvent, Filters, Way, unused_slot};
use crate::iteration::{Iteration, Stop};
use crate::listener::ChainSlot;
use crate::live::HttpChain;
use crate::stats::{ActiveGuard, HttpStats};
use crate::timer::{LazyTimer, earlier};
use crate::trace::Trace;
use crate::worker::WorkerCx;
use rand::RngCore;

use deadlines::Deadlines;
pub(crate) use request::QUEUE_BYTES_MAX;
pub(crate) use selection::Selection;
pub(crate) use timeouts::{grpc_text, grpc_timeout};

/// How answers begin that tell of an origin which gave none.
const NO_ANSWER: &[u8] = b"upstream connect error or disconnect/reset before headers. ";

/// How the connection goes on after an exchange.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// The answer is sent, at this time; the connection knows whether it can serve another request.
    Done(Instant),
    /// The stream was cut short.
    Aborted,
    /// The connection is a tunnel now.
    Tunnel(Box<Picked>),
}

/// Where the way to the origin stands.
#[derive(Debug)]
enum Origin {
    /// The request's head hasn't passed the filters.
    None,
    Connecting(Checkout),
    Connected(Box<Picked>),
    /// For the pause before the next attempt.
    Waiting,
    /// The answer is complete, or the proxy answers itself.
    Done,
}

/// What of the answer was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Sent {
    Nothing,
    Head,
    All,
}

/// A request on its way.
pub(crate) struct Exchange<'a> {
    pub(crate) cx: &'a Rc<WorkerCx>,
    pub(crate) chain: Rc<HttpChain>,
    /// Of the client's connection.
    pub(crate) slot: &'a ChainSlot,
    pub(crate) down: Downstream<'a>,
    pub(crate) stream: Rc<RefCell<StreamState>>,
    pub(crate) timer: &'a mut LazyTimer,
    /// Reading from the origin stops while so much is queued for the client.
    down_queue_max: usize,
    filters: Filters,
    request: Iteration,
    response: Iteration,
    origin: Origin,
    sent: Sent,
    request_ended: bool,
    upgrade: Option<Bytes>,
    upgraded: bool,
    /// Informational responses of the origin so far.
    interim: u8,
    /// The origin's head has come.
    answered: bool,
    trace: Option<Box<Trace>>,
    /// Sent again on a fresh connection, since a pooled one was closed.
    repeated: bool,
    /// The client may steer the proxy by its headers.
    internal: bool,
    /// There are such headers.
    steered: bool,
    /// The cluster that the request goes to.
    cluster: Option<Rc<ClusterHandle>>,
    /// The router has the request: what it answers itself is the route's answer.
    routed: bool,
    /// Attempts begun.
    attempts: u32,
    retry: Option<Box<retry::Retry>>,
    mirrors: Option<Box<mirror::Mirrors>>,
    /// Redirects that were followed.
    redirects: Option<Box<redirect::Redirects>>,
    /// Of the route's hash policies.
    hash: Option<u64>,
    /// A cookie that the answer sets for them.
    cookie: Option<Bytes>,
    /// For one attempt.
    attempt_timeout: Option<Duration>,
    /// What the origin is told.
    expected_timeout: Option<Duration>,
    deadlines: Deadlines,
    /// The time of this turn, and since the stream's start: one reading of the clock serves all that happens in it.
    now: Instant,
    elapsed: Duration,
    _active: ActiveGuard<HttpStats>,
}

/// A request as its codec hands it over.
#[derive(Debug)]
pub(crate) struct Incoming {
    /// No body follows.
    pub(crate) end: bool,
    pub(crate) upgrade: Option<Bytes>,
    /// The client waits for a 100 before it sends the body.
    pub(crate) expect_continue: bool,
    /// Memory is short: the request is refused.
    pub(crate) shed: bool,
}

impl<'a> Exchange<'a> {
    /// `received`: when the head was there.
    pub(crate) fn new(
        cx: &'a Rc<WorkerCx>,
        chain: Rc<HttpChain>,
        slot: &'a ChainSlot,
        down: Downstream<'a>,
        stream: Rc<RefCell<StreamState>>,
        timer: &'a mut LazyTimer,
        received: Instant,
    ) -> Box<Exchange<'a>> {
        let stats = &chain.stats;
        stats.downstream_rq_total().inc();
        let elapsed = received.into_std().saturating_duration_since(stream.borrow().info.start);
        let active = ActiveGuard::new(stats, HttpStats::downstream_rq_active);
        let selection = Selection::new(chain.clone(), cx.random().next_u64());
        let filters = Filters {
            list: Vec::new(),
            response_len: 0,
            seen: usize::MAX,
            stream: stream.clone(),
            slot: unused_slot(),
            selection,
        };
        // In its place at once: it is too large to be copied there.
        Box::write(
            Box::new_uninit(),
            Exchange {
                cx,
                chain,
                slot,
                down,
                stream,
                timer,
                down_queue_max: slot.buffer_limit().min(request::QUEUE_BYTES_MAX),
                filters,
                request: Iteration::new(Way::Request, 0, 0),
                response: Iteration::new(Way::Response, 0, 0),
                origin: Origin::None,
                sent: Sent::Nothing,
                request_ended: false,
                upgrade: None,
                upgraded: false,
                interim: 0,
                answered: false,
                trace: None,
                repeated: false,
                internal: false,
                steered: false,
                cluster: None,
                routed: false,
                attempts: 0,
                retry: None,
                mirrors: None,
                redirects: None,
                hash: None,
                cookie: None,
                attempt_timeout: None,
                expected_timeout: None,
                deadlines: Deadlines::default(),
                now: received,
                elapsed,
                _active: active,
            },
        )
    }

    /// Runs the exchange to its end and writes its access log. It is in a box: so it isn't moved again, and a connection
    /// that rests holds none of it.
    pub(crate) async fn run(mut self: Box<Self>, incoming: Incoming) -> Outcome {
        let mut begun = self.begin(incoming);
        loop {
            let result = self.poll_through(begun).await;
            let Some(next) = self.redirects.as_mut().and_then(|redirects| redirects.next.take()) else {
                return self.finish(result);
            };
            let body;
            (self, body) = self.anew(next);
            begun = self.begin_whole(body);
        }
    }

    /// Reads the clock.
    fn begin_turn(&mut self) {
        self.now = Instant::now();
        self.elapsed = self.now.into_std().saturating_duration_since(self.stream.borrow().info.start);
    }

    async fn poll_through(&mut self, begun: Result<(), Stop>) -> Result<(), StreamError> {
        if let Err(stop) = begun {
            self.stop(stop)?;
        }
        let mut same_turn = true;
        poll_fn(|cx| {
            if !std::mem::take(&mut same_turn) {
                self.begin_turn();
            }
            self.poll(cx)
        })
        .await
    }

    fn finish(&mut self, result: Result<(), StreamError>) -> Outcome {
        let tunnel = self.upgraded && result.is_ok();
        if let Err(error) = result {
            self.down.reset();
            let mut state = self.stream.borrow_mut();
            state.info.flags.insert(error.flags());
            if error.source == ErrorSource::Downstream {
                self.chain.stats.downstream_rq_rx_reset().inc();
                if error.kind == ErrorKind::Terminated {
                    self.chain.stats.downstream_cx_destroy_remote_active_rq().inc();
                }
            } else {
                self.chain.stats.downstream_rq_tx_reset().inc();
            }
        }
        if self.filters.len() > 0 {
            // What they took counts.
            self.begin_turn();
        }
        {
            let info = &mut self.stream.borrow_mut().info;
            info.timings.set(TimingPoint::ResponseComplete, self.elapsed);
            info.downstream_wire = self.down.wire_bytes();
            info.downstream_closed.how = Some(CloseType::Normal);
        }
        let origin = std::mem::replace(&mut self.origin, Origin::Done);
        let outcome = match origin {
            Origin::Connected(picked) if tunnel => {
                self.record(&picked);
                Outcome::Tunnel(picked)
            }
            Origin::Connected(picked) => {
                self.record(&picked);
                picked.finish(self.now);
                if result.is_ok() { Outcome::Done(self.now) } else { Outcome::Aborted }
            }
            _ if result.is_ok() => Outcome::Done(self.now),
            _ => Outcome::Aborted,
        };
        self.log();
        outcome
    }

    fn record(&self, picked: &Picked) {
        self.count_bytes(picked);
        let state = self.stream.borrow();
        let status = state.response.as_ref().map_or(503, |head| head.status);
        picked.record(status, state.info.flags);
        let elapsed = state.info.timings.get(TimingPoint::ResponseComplete).unwrap_or_default();
        picked.cluster.stats.upstream_rq_time().record(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
    }

    /// What the last attempt has had on the wire.
    fn count_bytes(&self, picked: &Picked) {
        self.stream.borrow_mut().info.upstream_wire = picked.stream.wire_bytes();
    }

    fn log(&mut self) {
        self.filters.log();
        let stats = &self.chain.stats;
        let state = self.stream.borrow();
        let elapsed = state.info.timings.get(TimingPoint::ResponseComplete).unwrap_or_default();
        stats.downstream_rq_completed().inc();
        stats.downstream_rq_time().record(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
        if let Some(trace) = &self.trace {
            trace.finish(&state, &self.cx.spans);
        }
        drop(state);
        self.chain.live.log(self.cx, &self.chain.hcm.access_logs, LogType::DownstreamEnd, &self.stream);
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        let result = self.poll_all(cx);
        if matches!(result, Poll::Ready(Err(_))) && self.sent != Sent::Nothing {
            // What has come of the answer is the client's, the cut that follows too.
            _ = self.down.poll_flush(cx);
        }
        result
    }

    /// Moves what can be moved, until nothing moves.
    fn poll_all(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        loop {
            let mut progress = false;
            if self.filters.len() > 0 && self.sent != Sent::All {
                progress |= self.poll_filters(cx)?;
            }
            progress |= self.poll_request(cx)?;
            let mut again = self.poll_origin(cx)?;
            progress |= again;
            // A request that is whole and on its way has nothing to be read for it.
            again &= !(self.request_ended && matches!(self.origin, Origin::Connected(_)));
            again |= self.poll_response(cx)?;
            if self.sent == Sent::All || self.upgraded {
                return self.poll_last_flush(cx);
            }
            let full = self.down.buffered() >= self.down_queue_max;
            if let Poll::Ready(result) = self.down.poll_flush(cx) {
                result?;
            }
            // Where there is room again, the origin must be read again.
            again |= full && self.down.buffered() < self.down_queue_max;
            if again || progress {
                if self.deadlines.attempt_idle.is_some() {
                    self.arm_attempt();
                }
                if self.deadlines.idle_timeout.is_some() {
                    self.deadlines.idle = self.deadlines.idle_timeout.map(|timeout| self.now + timeout);
                }
            }
            // What the first steps have moved, the later ones have seen.
            if again {
                continue;
            }
            if let Poll::Ready(error) = self.poll_gone(cx) {
                return Poll::Ready(Err(error));
            }
            let deadline = self.deadlines.next();
            if self.timer.poll_until(deadline, cx).is_pending() {
                return Poll::Pending;
            }
            self.expire()?;
        }
    }

    /// The answer is queued whole: the exchange is over when the client has taken it, or is too slow to.
    fn poll_last_flush(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), StreamError>> {
        if let Poll::Ready(result) = self.down.poll_flush(cx) {
            return Poll::Ready(result);
        }
        let deadline = earlier(self.deadlines.idle, self.deadlines.stream);
        match self.timer.poll_until(deadline, cx) {
            Poll::Ready(()) => Poll::Ready(Err(StreamError::internal(ErrorKind::IdleTimeout))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn poll_gone(&mut self, cx: &mut Context<'_>) -> Poll<StreamError> {
        let connects = matches!(self.origin, Origin::Connecting(_) | Origin::Waiting);
        // While the body is read, reading tells.
        if self.request_ended || connects || !self.wants_request() { self.down.poll_gone(cx) } else { Poll::Pending }
    }

    /// Events for paused filters.
    fn poll_filters(&mut self, cx: &mut Context<'_>) -> Result<bool, StreamError> {
        let mut progress = false;
        while let Poll::Ready((index, event)) = self.filters.slot.poll(cx) {
            progress = true;
            let result = match event {
                FilterEvent::Resume(Way::Request) => self.request.resume(index, &mut self.filters),
                FilterEvent::Resume(Way::Response) => match self.filters.response_len.checked_sub(index + 1) {
                    Some(at) => self.response.resume(at, &mut self.filters),
                    None => Ok(()),
                },
                FilterEvent::Respond(reply) => Err(Stop::Reply(reply)),
                FilterEvent::Failed(error) => Err(Stop::Error(error)),
                FilterEvent::Reset => Err(Stop::Reset),
                FilterEvent::ClearRouteCache => {
                    self.clear_route();
                    Ok(())
                }
            };
            if let Err(stop) = result {
                self.stop(stop)?;
            }
        }
        Ok(progress)
    }

    /// A walk was stopped: the proxy answers itself where nothing was sent, else the stream is cut.
    fn stop(&mut self, stop: Stop) -> Result<(), StreamError> {
        match stop {
            Stop::Reply(reply) => self.reply(reply, ResponseFlags::NONE),
            Stop::Error(error) => self.fail(error),
            Stop::Reset => Err(StreamError::internal(ErrorKind::FilterFailed)),
        }
    }

    fn fail(&mut self, error: StreamError) -> Result<(), StreamError> {
        if error.kind == ErrorKind::ResponseTooLarge {
            // Also where the head is out, and only the end can tell.
            self.stream.borrow_mut().info.code_details = error.reply().details;
        }
        if self.sent != Sent::Nothing
            || (error.source == ErrorSource::Downstream && error.kind == ErrorKind::Terminated)
        {
            return Err(error);
        }
        let flags = error.flags();
        let mut reply = error.reply();
        let why = self.stream.borrow().info.extras().upstream_transport_failure_reason.clone();
        if error.kind == ErrorKind::ConnectFailure && !why.is_empty() {
            // Lines of logs are split at spaces.
            let why = format!("|{}}}", why.replace(' ', "_"));
            reply.details = reply.details.replace('}', &why).into();
        }
        if self.routed && error.is_routers() {
            if self.attempts > 1
                && let Some(rest) = reply.body.strip_prefix(NO_ANSWER)
            {
                reply.body = [NO_ANSWER, b"retried and the latest ", rest].concat().into();
            }
            self.mutate_reply(&mut reply);
            self.count_reply(error, reply.status);
        }
        if error.kind == ErrorKind::RequestTooLarge {
            // What else the client is sending isn't read.
            self.down.close_after();
        }
        if error.kind == ErrorKind::IdleTimeout && !self.request_ended {
            // It was the client that kept us waiting.
            reply.status = 408;
        }
        self.reply(reply, flags)
    }
}
