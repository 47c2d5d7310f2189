//! Retries: whether a failed attempt is made again, after which pause, and with which bytes.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_config::{RetryOn, RetryPolicy, RouteForward};
use outrigger_http::{BodyBuffer, EndpointAddress, HeaderName, ResponseFlags, ResponseHead, TimingPoint};
use rand::RngCore;

use super::{Exchange, Origin, Sent};
use crate::cluster::{Checkout, ClusterHandle, Outcome, PickKey, RetryGuard};
use crate::error::{ErrorKind, StreamError};

/// What of a request's body is kept where nothing else is configured: as much as a connection may buffer.
const REPLAY_BYTES_MAX: u64 = 1 << 20;
/// Attempts whose endpoint is remembered.
const TRIED_MAX: usize = 64;

/// What a request needs to be sent again.
#[derive(Debug)]
pub(super) struct Retry {
    policy: Arc<RetryPolicy>,
    on: RetryOn,
    remaining: u32,
    /// Retries so far.
    pub(super) made: u32,
    /// Of a trusted client's header, besides the policy's.
    status_codes: Vec<u16>,
    header_names: Vec<HeaderName>,
    replay: Replay,
    /// Endpoints and priorities that were tried.
    tried: Vec<EndpointAddress>,
    priorities: Vec<u32>,
    /// The retry that runs now counts for its cluster until its answer has begun.
    permit: Option<RetryGuard>,
}

/// What of the body went to the origin.
#[derive(Debug, Default)]
struct Replay {
    data: Vec<Bytes>,
    bytes: u64,
    bytes_max: u64,
    end: bool,
    trailers: bool,
}

/// What becomes of a failed attempt.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Final,
    /// The number of retries is used up, or the cluster has too many: with the flag that says so.
    Refused(ResponseFlags),
    Again,
}

impl Retry {
    /// `None`: nothing is retried.
    fn new(forward: &RouteForward, asked: Asked, retries: bool) -> Option<Box<Retry>> {
        let policy = match &forward.retry {
            Some(policy) => policy.clone(),
            None => Arc::default(),
        };
        let mut on = policy.on;
        on.insert(asked.on);
        if !retries {
            on = RetryOn::default();
        }
        // A redirect that is followed sends the request again, too.
        if on.is_empty() && forward.internal_redirect.is_none() {
            return None;
        }
        let replay = Replay { bytes_max: forward.replay_bytes_max.unwrap_or(REPLAY_BYTES_MAX), ..Replay::default() };
        Some(Box::new(Retry {
            remaining: asked.retries.unwrap_or(policy.retries),
            policy,
            on,
            made: 0,
            status_codes: asked.status_codes,
            header_names: asked.header_names,
            replay,
            tried: Vec::new(),
            priorities: Vec::new(),
            permit: None,
        }))
    }

    /// Whether an answer is retried.
    fn by_answer(&self, head: &ResponseHead) -> bool {
        let on = self.on;
        if head.headers.contains(&HeaderName::X_ENVOY_RATELIMITED) {
            return on.has(RetryOn::ENVOY_RATE_LIMITED);
        }
        let status = head.status;
        let grpc = || {
            let value = head.headers.get(&HeaderName::GRPC_STATUS)?;
            std::str::from_utf8(value).ok()?.parse::<u32>().ok()
        };
        (on.has(RetryOn::SERVER_ERROR) && status >= 500)
            || (on.has(RetryOn::GATEWAY_ERROR) && matches!(status, 502..=504))
            || (on.has(RetryOn::RETRIABLE_4XX) && status == 409)
            || (on.has(RetryOn::RETRIABLE_STATUS_CODES)
                && (self.policy.status_codes.contains(&status) || self.status_codes.contains(&status)))
            || (on.has(RetryOn::RETRIABLE_HEADERS)
                && (self.policy.headers.iter().any(|matcher| matcher.matches_response(head))
                    || self.header_names.iter().any(|name| head.headers.contains(name))))
            || grpc().is_some_and(|status| on.grpc(status))
    }

    /// Whether an attempt without an answer is retried. `sent`: the request's head was on its way.
    const fn by_error(&self, kind: ErrorKind, sent: bool) -> bool {
        const NO_ANSWER: [RetryOn; 3] = [RetryOn::RESET, RetryOn::SERVER_ERROR, RetryOn::GATEWAY_ERROR];
        let on = self.on;
        if matches!(kind, ErrorKind::Overflow | ErrorKind::NoHealthyUpstream) {
            return false;
        }
        on.has(NO_ANSWER[0])
            || on.has(NO_ANSWER[1])
            || on.has(NO_ANSWER[2])
            || (on.has(RetryOn::RESET_BEFORE_REQUEST) && !sent)
            || (on.has(RetryOn::REFUSED_STREAM) && matches!(kind, ErrorKind::RefusedStream))
            || (on.has(RetryOn::CONNECT_FAILURE)
                && matches!(kind, ErrorKind::ConnectFailure | ErrorKind::ConnectTimeout))
    }

    /// Keeps what went to the origin; false: it is too much.
    pub(super) fn keep(&mut self, bytes: &Bytes) -> bool {
        self.replay.bytes += bytes.len() as u64;
        self.replay.data.push(bytes.clone());
        self.replay.bytes <= self.replay.bytes_max
    }

    pub(super) const fn keep_end(&mut self, trailers: bool) {
        self.replay.end = true;
        self.replay.trailers = trailers;
    }

    /// The same request, away from where it has failed, as far as the policy wants that.
    pub(super) fn elsewhere<'r>(&'r self, mut key: PickKey<'r>) -> PickKey<'r> {
        if self.policy.hosts.previous {
            key.avoid = &self.tried;
            key.attempts_max = self.policy.hosts.attempts;
        }
        // The priorities that were tried are left alone after every so many attempts.
        if let Some(frequency) = self.policy.previous_priorities {
            let rounds = (self.made / frequency.max(1)) as usize * frequency.max(1) as usize;
            key.avoid_priorities = &self.priorities[..rounds.min(self.priorities.len())];
        }
        key
    }

    /// Remembers where an attempt goes.
    pub(super) fn went_to(&mut self, endpoint: Option<(EndpointAddress, u32)>) {
        if let Some((address, priority)) = endpoint.filter(|_| self.tried.len() < TRIED_MAX) {
            self.tried.push(address);
            self.priorities.push(priority);
        }
    }

    /// The whole body as it went out; `None`: it isn't complete. `empty`: there is none.
    pub(super) fn into_body(self, empty: bool) -> Option<BodyBuffer> {
        let mut body = BodyBuffer::new();
        self.replay.data.into_iter().for_each(|bytes| body.push(bytes));
        (self.replay.end || empty).then_some(body)
    }

    pub(super) fn policy(&self) -> &RetryPolicy {
        &self.policy
    }
}

/// What a trusted client asks for in its headers.
#[derive(Debug, Default)]
struct Asked {
    on: RetryOn,
    retries: Option<u32>,
    status_codes: Vec<u16>,
    header_names: Vec<HeaderName>,
}

impl Asked {
    /// Takes the headers; they are the proxy's to read.
    fn take(headers: &mut outrigger_http::Headers) -> Asked {
        const LIST_MAX: usize = 64;
        let mut asked = Asked::default();
        let mut take = |name: &'static [u8]| {
            let name = HeaderName::from_bytes(name).ok()?;
            let value = headers.get(&name).cloned()?;
            headers.remove(&name);
            String::from_utf8(value.to_vec()).ok()
        };
        for name in [&b"x-envoy-retry-on"[..], b"x-envoy-retry-grpc-on"] {
            if let Some(words) = take(name) {
                asked.on.insert(RetryOn::parse(&words).0);
            }
        }
        asked.retries = take(b"x-envoy-max-retries").and_then(|text| text.trim().parse().ok());
        if let Some(codes) = take(b"x-envoy-retriable-status-codes") {
            asked.status_codes = codes.split(',').filter_map(|code| code.trim().parse().ok()).take(LIST_MAX).collect();
        }
        if let Some(names) = take(b"x-envoy-retriable-header-names") {
            let names = names.split(',').filter_map(|name| HeaderName::from_bytes(name.trim().as_bytes()).ok());
            asked.header_names = names.take(LIST_MAX).collect();
        }
        asked
    }
}

impl Exchange<'_> {
    /// Whether there are headers by which a trusted client, or a filter, steers the proxy; a stranger's are gone by now.
    pub(super) fn has_envoy_headers(&self) -> bool {
        let state = self.stream.borrow();
        state.request.headers.iter().any(|(name, _)| name.as_bytes().starts_with(b"x-envoy-"))
    }

    /// Prepares for retries, where the route or a trusted client asks for them.
    pub(super) fn prepare_retries(&mut self, forward: &RouteForward) {
        let steered = self.steered;
        if forward.retry.is_none() && forward.internal_redirect.is_none() && !steered {
            return;
        }
        let mut state = self.stream.borrow_mut();
        let asked = if steered { Asked::take(&mut state.request.headers) } else { Asked::default() };
        let matches = |policy: &Arc<RetryPolicy>| {
            let wanted = &policy.request_headers;
            wanted.is_empty() || wanted.iter().any(|matcher| matcher.matches(&state.request))
        };
        if self.upgrade.is_none() {
            self.retry = Retry::new(forward, asked, forward.retry.as_ref().is_none_or(matches));
        }
    }

    /// An attempt has failed without an answer: true where another one follows.
    pub(super) fn retry_after_error(&mut self, error: StreamError, sent: bool) -> bool {
        let Some(retry) = &self.retry else { return false };
        let wanted = retry.by_error(error.kind, sent);
        self.retry_if(wanted, None)
    }

    /// Whether the policy makes another attempt.
    pub(super) fn would_retry(&self, error: StreamError) -> bool {
        self.retry.as_ref().is_some_and(|retry| retry.remaining > 0 && retry.by_error(error.kind, true))
    }

    /// An answer has come: true where it is dropped and another attempt follows.
    pub(super) fn retry_after_answer(&mut self, head: &ResponseHead) -> bool {
        let Some(retry) = &self.retry else { return false };
        if retry.by_answer(head) {
            return self.retry_if(true, Some(head));
        }
        if retry.made > 0
            && let Origin::Connected(picked) = &self.origin
        {
            picked.cluster.stats.upstream_rq_retry_success().inc();
        }
        // The answer is on its way: nothing is sent again any more, but where a redirect is followed.
        self.retry.take().is_some_and(|retry| self.redirect(*retry, head))
    }

    fn retry_if(&mut self, wanted: bool, answer: Option<&ResponseHead>) -> bool {
        if !wanted || self.sent != Sent::Nothing {
            return false;
        }
        let Some(cluster) = self.cluster.clone() else { return false };
        match self.judge(&cluster) {
            Verdict::Final => false,
            Verdict::Refused(flag) => {
                self.stream.borrow_mut().info.flags.insert(flag);
                false
            }
            Verdict::Again => {
                self.pause(&cluster, answer);
                true
            }
        }
    }

    fn judge(&mut self, cluster: &ClusterHandle) -> Verdict {
        let priority = self.filters.selection.forward().map(|forward| forward.priority).unwrap_or_default();
        let Some(retry) = &mut self.retry else { return Verdict::Final };
        let stats = &cluster.stats;
        retry.permit = None;
        if retry.remaining == 0 {
            stats.upstream_rq_retry_limit_exceeded().inc();
            return Verdict::Refused(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
        }
        retry.remaining -= 1;
        let Some(permit) = cluster.retry(priority) else {
            return Verdict::Refused(ResponseFlags::UPSTREAM_OVERFLOW);
        };
        retry.permit = Some(permit);
        retry.made += 1;
        stats.upstream_rq_retry().inc();
        Verdict::Again
    }

    /// Gives the failed attempt back and waits for the next one's time.
    fn pause(&mut self, cluster: &ClusterHandle, answer: Option<&ResponseHead>) {
        let random = self.cx.random().next_u64();
        let Some(retry) = &mut self.retry else { return };
        if let Origin::Connected(picked) = std::mem::replace(&mut self.origin, Origin::Waiting) {
            match answer {
                Some(answer) => picked.count_retried(answer.status),
                None => picked.outcome(Outcome::Broken, true),
            }
            picked.finish(self.now);
        }
        let asked = answer.zip(retry.policy.rate_limited.as_ref()).and_then(|(head, back_off)| {
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            back_off.pause(&head.headers, now, random)
        });
        let pause = match asked {
            Some(pause) => {
                cluster.stats.upstream_rq_retry_backoff_ratelimited().inc();
                pause
            }
            None => {
                cluster.stats.upstream_rq_retry_backoff_exponential().inc();
                retry.policy.back_off.pause(retry.made - 1, random)
            }
        };
        self.answered = false;
        self.rewind();
        self.deadlines.attempt = None;
        self.deadlines.attempt_idle = None;
        self.deadlines.back_off = Some(self.now + pause);
    }

    /// Puts what the failed attempt had of the body before what is still to be sent.
    fn rewind(&mut self) {
        let Some(retry) = &mut self.retry else { return };
        if let Some(mirrors) = &mut self.mirrors {
            mirrors.clear();
        }
        let replay = &mut retry.replay;
        let mut data = BodyBuffer::new();
        replay.data.drain(..).for_each(|bytes| data.push(bytes));
        replay.bytes = 0;
        data.append(&mut self.request.passed.data);
        self.request.passed.data = data;
        self.request.passed.end |= std::mem::take(&mut replay.end);
        self.request.passed.trailers |= std::mem::take(&mut replay.trailers);
    }

    /// The pause is over.
    pub(super) fn next_attempt(&mut self) -> Result<(), StreamError> {
        self.deadlines.back_off = None;
        let Some(cluster) = self.cluster.clone() else {
            return self.fail(StreamError::internal(ErrorKind::NoCluster(503)));
        };
        self.attempt_headers();
        self.attempt(&cluster)
    }

    /// Looks for an endpoint and a connection.
    pub(super) fn attempt(&mut self, cluster: &std::rc::Rc<ClusterHandle>) -> Result<(), StreamError> {
        self.attempts += 1;
        {
            let info = &mut self.stream.borrow_mut().info;
            info.upstream_attempts = self.attempts;
            if self.attempts > 1 {
                info.timings.forget_attempt();
            }
            info.timings.set(TimingPoint::UpstreamAsked, self.elapsed);
        }
        self.origin = Origin::Connecting(self.checkout(cluster, false));
        if let Origin::Connecting(Checkout::Failed(error)) = &self.origin {
            let error = *error;
            self.origin = Origin::Done;
            return self.attempt_failed(error, false);
        }
        Ok(())
    }

    /// No answer came of an attempt.
    pub(super) fn attempt_failed(&mut self, error: StreamError, sent: bool) -> Result<(), StreamError> {
        if self.retry_after_error(error, sent) {
            return Ok(());
        }
        self.fail(error)
    }

    /// Too much of the body has gone out to send it again.
    pub(super) fn give_up_retries(&mut self) {
        self.retry = None;
        if let Some(cluster) = &self.cluster {
            cluster.stats.retry_or_shadow_abandoned().inc();
        }
    }

    /// Arms what limits one attempt: it is connected, and the request is complete.
    pub(super) fn arm_attempt(&mut self) {
        if self.answered || !matches!(self.origin, Origin::Connected(_)) {
            return;
        }
        if self.request_ended && self.deadlines.attempt.is_none() {
            self.deadlines.attempt = self.attempt_timeout.map(|timeout| self.now + timeout);
        }
        if let Some(idle) = self.retry.as_ref().and_then(|retry| retry.policy().per_try_idle_timeout) {
            self.deadlines.attempt_idle = Some(self.now + idle);
        }
    }

    /// An attempt took too long.
    pub(super) fn attempt_expired(&mut self, idle: bool) -> Result<(), StreamError> {
        self.deadlines.attempt = None;
        self.deadlines.attempt_idle = None;
        if self.answered {
            return Ok(());
        }
        if let Some(cluster) = &self.cluster {
            if idle {
                cluster.stats.upstream_rq_per_try_idle_timeout().inc();
            } else {
                cluster.stats.upstream_rq_per_try_timeout().inc();
            }
        }
        let kind = if idle { ErrorKind::PerTryIdleTimeout } else { ErrorKind::PerTryTimeout };
        self.attempt_failed(StreamError::internal(kind), true)
    }
}

/// Milliseconds in a header of a trusted client, taken.
pub(super) fn take_millis(headers: &mut outrigger_http::Headers, name: &HeaderName) -> Option<Duration> {
    let value = headers.get(name).cloned()?;
    headers.remove(name);
    std::str::from_utf8(&value).ok()?.trim().parse().ok().map(Duration::from_millis)
}
