//! Retries (`envoy.config.route.v3.RetryPolicy`): when, how often and after what pause a request is sent again.

use std::time::Duration;

use outrigger_http::{HeaderName, Headers};

use crate::HeaderMatcher;

/// `retry_on` and `x-envoy-retry-on`, `x-envoy-retry-grpc-on`: a set of conditions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RetryOn(u32);

macro_rules! conditions {
    ($($(#[$doc:meta])* $name:ident $bit:literal $text:literal)*) => {
        impl RetryOn {
            $($(#[$doc])* pub const $name: RetryOn = RetryOn(1 << $bit);)*
        }
        const NAMES: &[(&str, RetryOn)] = &[$(($text, RetryOn::$name)),*];
    };
}

conditions! {
    /// Any 5xx, and no answer at all.
    SERVER_ERROR 0 "5xx"
    /// 502, 503, 504, and no answer at all.
    GATEWAY_ERROR 1 "gateway-error"
    /// No answer: the stream was reset, closed or timed out.
    RESET 2 "reset"
    /// The same, where no byte of the request was sent.
    RESET_BEFORE_REQUEST 3 "reset-before-request"
    CONNECT_FAILURE 4 "connect-failure"
    /// An answer with `x-envoy-ratelimited`.
    ENVOY_RATE_LIMITED 5 "envoy-ratelimited"
    /// 409.
    RETRIABLE_4XX 6 "retriable-4xx"
    /// An HTTP/2 stream reset with REFUSED_STREAM.
    REFUSED_STREAM 7 "refused-stream"
    RETRIABLE_STATUS_CODES 8 "retriable-status-codes"
    RETRIABLE_HEADERS 9 "retriable-headers"
    CANCELLED 10 "cancelled"
    DEADLINE_EXCEEDED 11 "deadline-exceeded"
    INTERNAL 12 "internal"
    RESOURCE_EXHAUSTED 13 "resource-exhausted"
    UNAVAILABLE 14 "unavailable"
    /// Known, and never true: there is no HTTP/3 here.
    HTTP3_POST_CONNECT_FAILURE 15 "http3-post-connect-failure"
}

impl RetryOn {
    pub const NONE: RetryOn = RetryOn(0);
    const GRPC: [(u32, RetryOn); 5] = [
        (1, RetryOn::CANCELLED),
        (4, RetryOn::DEADLINE_EXCEEDED),
        (8, RetryOn::RESOURCE_EXHAUSTED),
        (13, RetryOn::INTERNAL),
        (14, RetryOn::UNAVAILABLE),
    ];

    /// The conditions of a comma-separated list, and its first word that is none.
    #[must_use]
    pub fn parse(text: &str) -> (RetryOn, Option<&str>) {
        let (mut on, mut unknown) = (RetryOn::NONE, None);
        for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
            match NAMES.iter().find(|(name, _)| *name == word) {
                Some((_, condition)) => on.insert(*condition),
                None => _ = unknown.get_or_insert(word),
            }
        }
        (on, unknown)
    }

    pub const fn insert(&mut self, other: RetryOn) {
        self.0 |= other.0;
    }

    /// Whether one of these is in the set.
    #[must_use]
    pub const fn has(self, any: RetryOn) -> bool {
        self.0 & any.0 != 0
    }

    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Whether a gRPC status that came with the answer's head is retried.
    #[must_use]
    pub fn grpc(self, status: u32) -> bool {
        RetryOn::GRPC.iter().any(|(code, condition)| *code == status && self.has(*condition))
    }
}

/// A retry policy, of a route or of its virtual host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RetryPolicy {
    pub on: RetryOn,
    /// 1 unless set.
    pub retries: u32,
    pub per_try_timeout: Option<Duration>,
    pub per_try_idle_timeout: Option<Duration>,
    pub back_off: BackOff,
    pub rate_limited: Option<RateLimitedBackOff>,
    pub status_codes: Vec<u16>,
    /// Of the answer.
    pub headers: Vec<HeaderMatcher>,
    /// Only requests that match one of these are retried; empty: all.
    pub request_headers: Vec<HeaderMatcher>,
    pub hosts: HostPredicates,
    /// `retry_priority: previous_priorities`: after so many attempts another priority is tried.
    pub previous_priorities: Option<u32>,
}

impl Default for RetryPolicy {
    /// What a client's own headers build on.
    fn default() -> RetryPolicy {
        RetryPolicy {
            on: RetryOn::NONE,
            retries: 1,
            per_try_timeout: None,
            per_try_idle_timeout: None,
            back_off: BackOff::default(),
            rate_limited: None,
            status_codes: Vec::new(),
            headers: Vec::new(),
            request_headers: Vec::new(),
            hosts: HostPredicates::default(),
            previous_priorities: None,
        }
    }
}

/// `retry_host_predicate`: hosts that an attempt doesn't go to while there are others.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HostPredicates {
    /// Those that were tried before.
    pub previous: bool,
    /// `host_selection_retry_max_attempts`: how often another host is looked for; 1 unless set.
    pub attempts: u32,
}

/// Full jitter: anything between zero and an interval that doubles with each retry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BackOff {
    /// 25 ms unless set.
    pub base: Duration,
    /// Ten times the base unless set.
    pub max: Duration,
}

impl Default for BackOff {
    fn default() -> BackOff {
        BackOff { base: Duration::from_millis(25), max: Duration::from_millis(250) }
    }
}

impl BackOff {
    /// The pause before a retry, counted from 0.
    #[must_use]
    pub fn pause(&self, retry: u32, random: u64) -> Duration {
        let factor = 1_u32.checked_shl(retry.min(31)).unwrap_or(u32::MAX);
        let interval = self.base.saturating_mul(factor).min(self.max);
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX).max(1);
        Duration::from_millis(random % millis)
    }
}

/// `rate_limited_retry_back_off`: the origin says when to come again.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimitedBackOff {
    pub headers: Vec<(HeaderName, ResetFormat)>,
    /// What is longer is not believed; 300 s unless set.
    pub max: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ResetFormat {
    Seconds,
    UnixTimestamp,
}

impl RateLimitedBackOff {
    /// The pause that an answer asks for, up to half as long again, so that not everybody comes at once.
    #[must_use]
    pub fn pause(&self, headers: &Headers, unix_now: Duration, random: u64) -> Option<Duration> {
        let interval = self.headers.iter().find_map(|(name, format)| {
            let number: u64 = std::str::from_utf8(headers.get(name)?).ok()?.trim().parse().ok()?;
            let asked = Duration::from_secs(number);
            let interval = match format {
                ResetFormat::Seconds => asked,
                ResetFormat::UnixTimestamp => Duration::from_secs(number.checked_sub(unix_now.as_secs())?),
            };
            (interval <= self.max).then_some(interval)
        })?;
        let millis = u64::try_from(interval.as_millis()).unwrap_or(u64::MAX);
        (millis > 1).then(|| interval + Duration::from_millis(random % (millis / 2).max(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn conditions_are_words() {
        let (on, unknown) = RetryOn::parse("5xx, connect-failure,unavailable,,what");
        assert_eq!(unknown, Some("what"));
        assert!(on.has(RetryOn::SERVER_ERROR) && on.has(RetryOn::CONNECT_FAILURE) && !on.has(RetryOn::RESET));
        assert!(on.grpc(14) && !on.grpc(13));
        assert!(RetryOn::parse("").0.is_empty());
    }

    #[test]
    fn pauses_double_up_to_the_maximum() {
        let back_off = BackOff::default();
        let check = |retry, random, millis| assert_eq!(back_off.pause(retry, random), Duration::from_millis(millis));
        check(0, 24, 24);
        check(0, 25, 0);
        check(1, 49, 49);
        check(3, 199, 199);
        check(4, 249, 249);
        check(40, 250, 0);
    }

    #[test]
    fn an_origin_says_when() {
        let name = HeaderName::RETRY_AFTER;
        let of = |format| RateLimitedBackOff { headers: vec![(name.clone(), format)], max: Duration::from_secs(300) };
        let check = |format, value: &'static str, expected: Option<u64>| {
            let mut headers = Headers::new();
            headers.append(name.clone(), bytes::Bytes::from_static(value.as_bytes()));
            let found = of(format).pause(&headers, Duration::from_secs(1000), 0);
            assert_eq!(found, expected.map(Duration::from_secs), "{value}");
        };
        check(ResetFormat::Seconds, "2", Some(2));
        check(ResetFormat::Seconds, "301", None);
        check(ResetFormat::Seconds, "soon", None);
        check(ResetFormat::Seconds, "0", None);
        check(ResetFormat::UnixTimestamp, "1007", Some(7));
        check(ResetFormat::UnixTimestamp, "999", None);
        let mut headers = Headers::new();
        headers.append(name.clone(), bytes::Bytes::from_static(b"4"));
        let jittered = of(ResetFormat::Seconds).pause(&headers, Duration::ZERO, 1999);
        assert_eq!(jittered, Some(Duration::from_millis(5999)));
    }
}
