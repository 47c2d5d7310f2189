//! A stream on an endpoint's connection, and what is counted of it.

use std::rc::Rc;

use outrigger_http::ResponseFlags;
use tokio::time::Instant;

use super::breakers::Permit;
use super::endpoint::EndpointHandle;
use super::pools::{ConnectionGuard, H2Connection};
use super::{ClusterHandle, Outcome};
use crate::exchange::QUEUE_BYTES_MAX;
use crate::upstream::Upstream;

/// A stream with what it holds of its endpoint and cluster; everything is given back when it is finished or dropped.
#[derive(Debug)]
pub(crate) struct Picked {
    pub(crate) stream: Upstream,
    pub(crate) cluster: Rc<ClusterHandle>,
    pub(crate) endpoint: Rc<EndpointHandle>,
    pub(super) connection: Option<ConnectionGuard>,
    /// When it was chosen, where latency decides.
    pub(super) since: Option<Instant>,
    pub(super) _request: RequestGuard,
    pub(super) _shared: Option<StreamCount>,
}

/// An active request of an endpoint.
#[derive(Debug)]
pub(super) struct RequestGuard {
    cluster: Rc<ClusterHandle>,
    endpoint: Rc<EndpointHandle>,
    _permit: Permit,
}

impl RequestGuard {
    pub(super) fn new(cluster: &Rc<ClusterHandle>, endpoint: &Rc<EndpointHandle>, permit: Permit) -> RequestGuard {
        cluster.stats.upstream_rq_active().inc();
        endpoint.active.set(endpoint.active.get() + 1);
        RequestGuard { cluster: cluster.clone(), endpoint: endpoint.clone(), _permit: permit }
    }
}

impl Drop for RequestGuard {
    fn drop(&mut self) {
        self.endpoint.active.set(self.endpoint.active.get().saturating_sub(1));
        self.cluster.stats.upstream_rq_active().dec();
    }
}

impl Picked {
    /// Whether more of the request may be queued.
    pub(crate) fn has_room(&self) -> bool {
        self.stream.buffered() < self.cluster.buffer_limit().min(QUEUE_BYTES_MAX)
    }

    /// The exchange is complete: what can serve again goes back to its pool.
    pub(crate) fn finish(self, now: Instant) {
        let Picked { stream, endpoint, connection, cluster, .. } = self;
        let (Upstream::H1(stream), Some(guard)) = (stream, connection) else { return };
        let http = &cluster.cluster().http;
        if !stream.reusable() {
            return;
        }
        if http.max_requests_per_connection.is_some_and(|max| stream.requests >= max) {
            cluster.stats.upstream_cx_max_requests().inc();
        } else if http.max_connection_duration.is_some_and(|max| now.duration_since(guard.opened) >= max) {
            cluster.stats.upstream_cx_max_duration_reached().inc();
        } else {
            endpoint.pools().put_idle(stream, guard, now);
        }
    }

    /// Counts the outcome for the endpoint and the cluster.
    pub(crate) fn record(&self, status: u16, flags: ResponseFlags) {
        let counts = &self.endpoint.counts;
        if flags.contains(ResponseFlags::UPSTREAM_REQUEST_TIMEOUT) {
            counts.rq_timeout.set(counts.rq_timeout.get() + 1);
        }
        let cell = if status >= 500 { &counts.rq_error } else { &counts.rq_success };
        cell.set(cell.get() + 1);
        self.cluster.stats.upstream_rq_completed().inc();
    }

    /// Counts an answer that is dropped for a retry.
    pub(crate) fn count_retried(&self, status: u16) {
        self.outcome(Outcome::Status(status), status >= 500);
        let errors = &self.endpoint.counts.rq_error;
        errors.set(errors.get() + 1);
        self.cluster.stats.retried(status);
    }

    /// Counts an answer by its status.
    pub(crate) fn count_status(&self, status: u16) {
        self.outcome(Outcome::Status(status), status >= 500);
        self.count_answer(status);
    }

    /// Counts that the endpoint gave no answer, and what the client is told instead.
    pub(crate) fn count_failure(&self, status: u16) {
        let outcome = if status == 504 { Outcome::TimedOut } else { Outcome::Broken };
        self.outcome(outcome, true);
        self.count_answer(status);
    }

    /// Tells outlier detection and latency what became of this try.
    pub(crate) fn outcome(&self, outcome: Outcome, failed: bool) {
        self.cluster.report(&self.endpoint, outcome);
        if let Some(since) = self.since {
            self.cluster.observe(&self.endpoint, since, failed);
        }
    }

    fn count_answer(&self, status: u16) {
        self.cluster.stats.response(status);
        self.cluster.stats.response_code(status);
    }
}

/// One stream of a shared connection.
#[derive(Debug)]
pub(super) struct StreamCount(Rc<H2Connection>);

impl StreamCount {
    pub(super) fn new(connection: &Rc<H2Connection>) -> StreamCount {
        connection.streams.set(connection.streams.get() + 1);
        connection.streams_total.set(connection.streams_total.get() + 1);
        StreamCount(connection.clone())
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
        self.0.idle_since.set(Instant::now());
        self.0.pools.let_go();
        self.0.pools.has_room();
    }
}
