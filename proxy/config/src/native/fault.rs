//! `envoy.extensions.filters.http.fault.v3`.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::{Fraction, HeaderMatcher};

/// Faults that are injected into requests.
#[derive(Debug, PartialEq, Eq)]
pub struct Fault {
    pub delay: Option<(FaultDelay, Fraction)>,
    pub abort: Option<(FaultAbort, Fraction)>,
    /// Only requests that are routed to this cluster.
    pub upstream_cluster: Option<Arc<str>>,
    pub headers: Vec<HeaderMatcher>,
    /// Only requests from these nodes (`x-envoy-downstream-service-node`).
    pub downstream_nodes: Vec<String>,
    pub active: ActiveFaults,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultDelay {
    Fixed(Duration),
    /// `x-envoy-fault-delay-request`, in milliseconds.
    Header,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultAbort {
    Status(u16),
    Grpc(u32),
    /// `x-envoy-fault-abort-request` and `x-envoy-fault-abort-grpc-request`.
    Header,
}

/// How many faults are under way in the whole process.
#[derive(Debug)]
pub struct ActiveFaults {
    max: Option<u32>,
    count: AtomicU32,
}

impl PartialEq for ActiveFaults {
    fn eq(&self, other: &ActiveFaults) -> bool {
        self.max == other.max
    }
}

impl Eq for ActiveFaults {}

impl ActiveFaults {
    #[must_use]
    pub const fn new(max: Option<u32>) -> ActiveFaults {
        ActiveFaults { max, count: AtomicU32::new(0) }
    }

    /// One more; false: there are enough. Who gets true gives it back.
    #[must_use]
    pub fn begin(&self) -> bool {
        let within = |count: u32| self.max.is_none_or(|max| count < max).then(|| count.saturating_add(1));
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    pub fn end(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}
