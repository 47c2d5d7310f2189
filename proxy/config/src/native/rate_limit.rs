//! `envoy.extensions.filters.http.local_ratelimit.v3`.

use std::sync::Arc;

use super::TokenBucket;
use crate::{Fraction, HeaderMatcher, HeaderMutations};

/// The filter, or a route's own limit.
#[derive(Debug, PartialEq, Eq)]
pub struct LocalRateLimit {
    pub stat_prefix: Arc<str>,
    /// 429 unless set.
    pub status: u16,
    /// `None`: requests that no descriptor limits are not limited.
    pub bucket: Option<TokenBucket>,
    /// Of so many requests a token is taken; none unless set.
    pub enabled: Fraction,
    /// So many of those without a token are refused; none unless set.
    pub enforced: Fraction,
    /// Added to requests that go on without a token.
    pub request_headers: HeaderMutations,
    /// Added to answers of refused requests.
    pub response_headers: HeaderMutations,
    pub descriptors: Vec<LimitDescriptor>,
    /// What of a request makes its descriptors. Empty: what its route and virtual host say.
    pub actions: Vec<LimitActions>,
    /// Which of their `rate_limits` count.
    pub stage: u32,
    pub host_limits: HostLimits,
    /// A request that a descriptor limits takes a token of the filter's bucket too.
    pub takes_from_both: bool,
    /// For gRPC: RESOURCE_EXHAUSTED instead of UNAVAILABLE.
    pub resource_exhausted: bool,
}

/// A limit of its own for requests with these entries.
#[derive(Debug, PartialEq, Eq)]
pub struct LimitDescriptor {
    /// An empty value: any.
    pub entries: Vec<(String, String)>,
    pub bucket: TokenBucket,
}

/// `vh_rate_limits`: when the virtual host's limits count, where the route doesn't ask for them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum HostLimits {
    /// Where the route has none.
    #[default]
    Override,
    /// Beside the route's.
    Include,
    Ignore,
}

/// `envoy.config.route.v3.RateLimit` of a route or a virtual host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateLimit {
    pub stage: u32,
    pub actions: LimitActions,
}

/// One descriptor in the making: all its entries, or none of it.
pub type LimitActions = Vec<LimitAction>;

/// `envoy.config.route.v3.RateLimit.Action`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LimitAction {
    GenericKey { key: String, value: String },
    RequestHeader { name: outrigger_http::HeaderName, key: String, skip_if_absent: bool },
    RemoteAddress,
    HeaderValueMatch { key: String, value: String, expect: bool, headers: Vec<HeaderMatcher> },
    DestinationCluster,
}
