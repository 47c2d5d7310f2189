//! Filters that are built into the proxy.

mod active_count;
mod connection_limit;
mod cors;
mod fault;
mod header_mutation;
mod rate_limit;
mod rbac;
mod token_bucket;

use std::sync::Arc;

pub use active_count::ActiveCount;
pub use connection_limit::ConnectionLimit;
pub use cors::CorsPolicy;
pub use fault::{Fault, FaultAbort, FaultDelay};
pub use header_mutation::{HeaderChange, HeaderMutationFilter};
pub use rate_limit::{HostLimits, LimitAction, LimitActions, LimitDescriptor, LocalRateLimit, RateLimit};
pub use rbac::{
    NetworkRbac, Permission, Principal, RbacAction, RbacEngine, RbacFilter, RbacMatch, RbacMatcher, RbacPolicy,
    RbacRules, RbacVerdict,
};
pub use token_bucket::TokenBucket;

/// A native filter with its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NativeFilter {
    Buffer(BufferLimit),
    /// Its policies stand at the routes.
    Cors,
    Fault(Arc<Fault>),
    HeaderMutation(Arc<HeaderMutationFilter>),
    LocalRateLimit(Arc<LocalRateLimit>),
    Rbac(Arc<RbacFilter>),
}

/// `envoy.extensions.filters.http.buffer.v3.Buffer`: the bytes of a request's body at most.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BufferLimit(pub u32);
