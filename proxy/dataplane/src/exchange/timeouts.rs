//! How long a request may take: the route, the call's own `grpc-timeout`, and what a trusted client asks for.

use std::time::Duration;

use bytes::Bytes;
use outrigger_config::RouteForward;
use outrigger_http::{HeaderName, Headers, StreamState};
use tokio::time::Instant;

use super::Exchange;
use super::retry::take_millis;
use crate::texts::decimal;

impl Exchange<'_> {
    /// Sets the deadlines of the chosen route, counted from the stream's start.
    pub(super) fn stream_deadlines(&mut self, forward: &RouteForward) {
        if let Some(idle) = forward.idle_timeout {
            self.deadlines.idle_timeout = Some(idle).filter(|timeout| !timeout.is_zero());
            self.deadlines.idle = self.deadlines.idle_timeout.map(|timeout| self.now + timeout);
        }
        let limit = &forward.max_stream_duration;
        if !limit.set && self.chain.hcm.max_stream_duration.is_none() {
            return;
        }
        let asked = limit.grpc_header_max.and_then(|max| {
            let state = self.stream.borrow();
            grpc_timeout(&state.request.headers).map(|asked| less(cap(asked, max), limit.grpc_header_offset))
        });
        if let Some(asked) = asked.filter(|asked| !asked.is_zero()) {
            let text = grpc_text(u64::try_from(asked.as_millis()).unwrap_or(u64::MAX));
            self.stream.borrow_mut().request.headers.set(HeaderName::GRPC_TIMEOUT, text);
        }
        let duration = asked.or(limit.max).or(self.chain.hcm.max_stream_duration);
        self.deadlines.stream = duration.filter(|duration| !duration.is_zero()).map(|duration| {
            let start = self.stream.borrow().info.start;
            Instant::from_std(start) + duration
        });
    }

    /// The time of the whole request and of one attempt, from the route and from headers, which are taken.
    pub(super) fn route_timeouts(&mut self, forward: &RouteForward) {
        let steered = self.steered;
        let mut state = self.stream.borrow_mut();
        let mut timeout = match forward.grpc_timeout {
            _ if forward.max_stream_duration.set => None,
            Some(limit) if is_grpc(&state) => {
                let asked = grpc_timeout(&state.request.headers).unwrap_or_default();
                Some(cap(less(asked, limit.offset), limit.max))
            }
            _ => forward.timeout,
        };
        let mut attempt = forward.retry.as_ref().and_then(|policy| policy.per_try_timeout);
        if steered {
            let headers = &mut state.request.headers;
            if let Some(asked) = take_millis(headers, &HeaderName::X_ENVOY_UPSTREAM_RQ_TIMEOUT_MS) {
                timeout = Some(asked);
            }
            if let Some(asked) = take_millis(headers, &HeaderName::X_ENVOY_UPSTREAM_RQ_PER_TRY_TIMEOUT_MS) {
                attempt = Some(asked);
            }
        }
        drop(state);
        let set = |timeout: Option<Duration>| timeout.filter(|timeout| !timeout.is_zero());
        timeout = set(timeout);
        self.attempt_timeout = set(attempt).filter(|attempt| timeout.is_none_or(|timeout| *attempt < timeout));
        self.deadlines.route_timeout = if self.upgrade.is_some() { None } else { timeout };
        self.expected_timeout = self.attempt_timeout.or(timeout);
        if self.request_ended {
            self.deadlines.route = self.deadlines.route_timeout.map(|timeout| self.now + timeout);
        }
    }

    /// Tells the origin how long it has.
    pub(super) fn timeout_headers(&self, forward: &RouteForward) {
        let Some(expected) = self.expected_timeout else { return };
        let mut state = self.stream.borrow_mut();
        // Before the first attempt no time counts as used.
        let again = self.retry.as_ref().is_some_and(|retry| retry.made > 0);
        let deadline = self.deadlines.route.filter(|_| again);
        let left = deadline.map(|deadline| deadline.saturating_duration_since(self.now));
        let expected = left.map_or(expected, |left| expected.min(left).max(Duration::from_millis(1)));
        let millis = u64::try_from(expected.as_millis()).unwrap_or(u64::MAX);
        let value = match &forward.expected_timeout {
            Some((usual, text)) if *usual == millis => text.clone(),
            _ => decimal(millis),
        };
        if !self.chain.hcm.suppress_envoy_headers {
            state.request.headers.set(HeaderName::X_ENVOY_EXPECTED_RQ_TIMEOUT_MS, value);
        }
        if forward.grpc_timeout.is_some() && is_grpc(&state) {
            state.request.headers.set(HeaderName::GRPC_TIMEOUT, grpc_text(millis));
        }
    }
}

/// Milliseconds as `grpc-timeout` says them, in eight digits at most.
pub(crate) fn grpc_text(millis: u64) -> Bytes {
    const DIGITS: u64 = 100_000_000;
    let (number, unit) = match millis {
        millis if millis < DIGITS => (millis, 'm'),
        millis if millis / 1000 < DIGITS => (millis / 1000, 'S'),
        millis if millis / 60_000 < DIGITS => (millis / 60_000, 'M'),
        millis => ((millis / 3_600_000).min(DIGITS - 1), 'H'),
    };
    Bytes::from(format!("{number}{unit}"))
}

/// An asked time within a maximum; zero is none, for both.
fn cap(asked: Duration, max: Duration) -> Duration {
    if !max.is_zero() && (asked.is_zero() || asked > max) { max } else { asked }
}

/// A time less an offset, where that leaves something of it.
fn less(asked: Duration, offset: Option<Duration>) -> Duration {
    match offset {
        Some(offset) if offset < asked => asked - offset,
        _ => asked,
    }
}

fn is_grpc(state: &StreamState) -> bool {
    let value = state.request.headers.get(&HeaderName::CONTENT_TYPE);
    value
        .and_then(|value| value.strip_prefix(b"application/grpc"))
        .is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
}

/// `grpc-timeout`: up to eight digits and a unit (gRPC over HTTP/2); rounded up to milliseconds.
pub(crate) fn grpc_timeout(headers: &Headers) -> Option<Duration> {
    let value = headers.get(&HeaderName::GRPC_TIMEOUT)?;
    let (unit, digits) = value.split_last()?;
    if digits.is_empty() || digits.len() > 8 || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let number: u64 = std::str::from_utf8(digits).ok()?.parse().ok()?;
    Some(Duration::from_millis(match unit {
        b'H' => number * 3_600_000,
        b'M' => number * 60_000,
        b'S' => number * 1000,
        b'm' => number,
        b'u' => number.div_ceil(1000),
        b'n' => number.div_ceil(1_000_000),
        _ => return None,
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_says_how_long_it_waits() {
        let check = |value: &'static str, expected: Option<u64>| {
            let mut headers = Headers::new();
            headers.append(HeaderName::GRPC_TIMEOUT, Bytes::from_static(value.as_bytes()));
            assert_eq!(grpc_timeout(&headers), expected.map(Duration::from_millis), "{value}");
        };
        check("1H", Some(3_600_000));
        check("2M", Some(120_000));
        check("3S", Some(3000));
        check("4m", Some(4));
        check("1500u", Some(2));
        check("1n", Some(1));
        check("99999999H", Some(99_999_999 * 3_600_000));
        check("999999999m", None);
        check("m", None);
        check("-1S", None);
        check("1s", None);
    }

    #[test]
    fn a_time_is_told_in_eight_digits() {
        let check = |millis, expected: &str| assert_eq!(grpc_text(millis), expected, "{millis}");
        check(99_999_999, "99999999m");
        check(100_000_000, "100000S");
        check(100_000_000_000, "1666666M");
        check(99_999_999 * 3_600_000, "99999999H");
        check(u64::MAX, "99999999H");
    }

    #[test]
    fn asked_times_are_capped_and_shortened() {
        let millis = Duration::from_millis;
        let check = |asked, max, offset: Option<u64>, expected| {
            assert_eq!(less(cap(millis(asked), millis(max)), offset.map(millis)), millis(expected));
        };
        check(100, 0, None, 100);
        check(100, 50, None, 50);
        check(0, 50, None, 50);
        check(100, 0, Some(30), 70);
        check(100, 0, Some(100), 100);
        check(100, 80, Some(30), 50);
        assert_eq!(cap(less(millis(100), Some(millis(30))), millis(80)), millis(70));
    }
}
