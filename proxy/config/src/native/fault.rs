//! `envoy.extensions.filters.http.fault.v3`.

use std::sync::Arc;
use std::time::Duration;

use crate::{ActiveCount, Fraction, HeaderMatcher};

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
    /// How many are under way.
    pub active: ActiveCount,
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
