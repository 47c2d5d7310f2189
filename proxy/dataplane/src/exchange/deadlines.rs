//! When a stream, or an attempt of it, has taken too long.

use std::time::Duration;

use tokio::time::Instant;

use super::Exchange;
use crate::error::{ErrorKind, StreamError};
use crate::timer::earlier;

/// When the stream has taken too long.
#[derive(Debug, Default)]
pub(super) struct Deadlines {
    /// From the end of the request to the end of the answer.
    pub(super) route_timeout: Option<Duration>,
    pub(super) route: Option<Instant>,
    pub(super) idle_timeout: Option<Duration>,
    pub(super) idle: Option<Instant>,
    pub(super) stream: Option<Instant>,
    pub(super) request: Option<Instant>,
    /// Of one attempt: for its answer to begin, and for anything to come.
    pub(super) attempt: Option<Instant>,
    pub(super) attempt_idle: Option<Instant>,
    /// The pause before the next attempt ends.
    pub(super) back_off: Option<Instant>,
}

impl Deadlines {
    pub(super) fn next(&self) -> Option<Instant> {
        let whole = earlier(earlier(self.route, self.idle), earlier(self.stream, self.request));
        earlier(whole, earlier(earlier(self.attempt, self.attempt_idle), self.back_off))
    }
}

impl Exchange<'_> {
    /// A deadline has passed.
    pub(super) fn expire(&mut self) -> Result<(), StreamError> {
        self.begin_turn();
        let now = self.now;
        let passed = |deadline: Option<Instant>| deadline.is_some_and(|deadline| deadline <= now);
        let stats = &self.chain.stats;
        let kind = if passed(self.deadlines.stream) {
            stats.downstream_rq_max_duration_reached().inc();
            ErrorKind::MaxStreamDuration
        } else if passed(self.deadlines.request) {
            stats.downstream_rq_timeout().inc();
            ErrorKind::RequestTimeout
        } else if passed(self.deadlines.route) {
            if let Some(cluster) = &self.cluster {
                cluster.stats.upstream_rq_timeout().inc();
            }
            ErrorKind::RouteTimeout
        } else if passed(self.deadlines.idle) {
            stats.downstream_rq_idle_timeout().inc();
            ErrorKind::IdleTimeout
        } else if passed(self.deadlines.back_off) {
            return self.next_attempt();
        } else {
            let idle = !passed(self.deadlines.attempt);
            return self.attempt_expired(idle);
        };
        self.deadlines = Deadlines { idle_timeout: self.deadlines.idle_timeout, ..Deadlines::default() };
        self.deadlines.idle = self.deadlines.idle_timeout.map(|timeout| now + timeout);
        self.fail(StreamError::internal(kind))
    }
}
