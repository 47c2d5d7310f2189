//! Route configurations (`envoy.config.route.v3.RouteConfiguration`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    CookieMatcher, Format, Fraction, HashPolicy, HeaderMatcher, HeaderMutations, InternalRedirect, Metadata,
    MetadataMatch, Origin, OverrideNames, Overrides, PathMatcher, QueryMatcher, RateLimit, Regex, RetryPolicy,
    RouteTable, RoutingPriority, UriTemplateRewrite,
};

/// A route configuration with its compiled table.
#[derive(Debug, PartialEq, Eq)]
pub struct RouteConfig {
    pub name: Arc<str>,
    pub origin: Arc<Origin>,
    pub virtual_hosts: Vec<Arc<VirtualHost>>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// Route, virtual host, configuration (false) or the other way round.
    pub most_specific_header_mutations_wins: bool,
    pub ignore_port_in_host_matching: bool,
    /// The filters that any scope says something about.
    pub override_names: OverrideNames,
    /// Made by [`RouteTable::compile`] from `virtual_hosts`.
    pub table: RouteTable,
}

#[derive(Debug, PartialEq, Eq)]
pub struct VirtualHost {
    pub name: Arc<str>,
    pub metadata: Option<Arc<Metadata>>,
    /// Lower case: `a.b`, `a.b:81`, `*.b`, `a.*`, `*`.
    pub domains: Vec<String>,
    pub routes: Vec<Arc<Route>>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// `typed_per_filter_config`, that of the route configuration included.
    pub overrides: Overrides,
    pub rate_limits: Vec<RateLimit>,
    /// `include_request_attempt_count`: requests carry `x-envoy-attempt-count`.
    pub attempt_count_in_request: bool,
    /// `include_attempt_count_in_response`.
    pub attempt_count_in_response: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// May be empty.
    pub name: Arc<str>,
    pub metadata: Option<Arc<Metadata>>,
    pub path: PathMatcher,
    pub case_sensitive: bool,
    pub headers: Vec<HeaderMatcher>,
    pub query: Vec<QueryMatcher>,
    pub cookies: Vec<CookieMatcher>,
    /// `runtime_fraction`: only so many of the requests that match otherwise.
    pub fraction: Option<Fraction>,
    /// `match.grpc`: only requests with a gRPC content type.
    pub grpc_only: bool,
    pub action: RouteAction,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// `typed_per_filter_config`, that of the scopes around it included.
    pub overrides: Overrides,
    /// What the control plane made this route from, e.g. `HTTPRoute shop/api (api.yaml:12)`; may be empty.
    pub object: Arc<str>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum RouteAction {
    Forward(Box<RouteForward>),
    Redirect(Redirect),
    DirectResponse(DirectResponse),
}

#[derive(Debug, PartialEq, Eq)]
pub struct RouteForward {
    pub cluster: ClusterSpec,
    /// `cluster_not_found_response_code`: 503 unless set.
    pub cluster_not_found_status: u16,
    pub path_rewrite: Option<PathRewrite>,
    pub host_rewrite: Option<HostRewrite>,
    /// `timeout`: 15 s unless set; `None` is none.
    pub timeout: Option<Duration>,
    /// What `x-envoy-expected-rq-timeout-ms` says as a rule: the milliseconds, and the same as text.
    pub expected_timeout: Option<(u64, Bytes)>,
    /// `idle_timeout`; `None`: the connection manager's `stream_idle_timeout`. Zero turns it off.
    pub idle_timeout: Option<Duration>,
    pub max_stream_duration: MaxStreamDuration,
    /// `max_grpc_timeout` and `grpc_timeout_offset`, the older form.
    pub grpc_timeout: Option<GrpcTimeout>,
    /// The route's retry policy, else that of its virtual host.
    pub retry: Option<Arc<RetryPolicy>>,
    /// How much of a request's body is kept for retries; `None`: as much as may be buffered for a connection.
    pub replay_bytes_max: Option<u64>,
    /// The route's own, else its virtual host's, else those of the whole configuration.
    pub mirrors: Vec<Mirror>,
    pub internal_redirect: Option<Arc<InternalRedirect>>,
    pub rate_limits: Vec<RateLimit>,
    /// `include_vh_rate_limits`.
    pub includes_host_limits: bool,
    pub hash: Vec<HashPolicy>,
    /// `metadata_match`: the subset of the cluster's endpoints.
    pub metadata: Option<Arc<MetadataMatch>>,
    /// Whose circuit breakers requests count for.
    pub priority: RoutingPriority,
    /// A Host that is rewritten is appended to `x-forwarded-host`.
    pub append_x_forwarded_host: bool,
    /// `upgrade_configs` of the route by lower-case upgrade type: on or off.
    pub upgrades: BTreeMap<String, bool>,
}

impl RouteForward {
    /// Forwards to a cluster, everything else being as it is where nothing is set.
    #[must_use]
    pub fn to(cluster: ClusterSpec) -> RouteForward {
        RouteForward {
            cluster,
            cluster_not_found_status: 503,
            path_rewrite: None,
            host_rewrite: None,
            timeout: Some(Duration::from_secs(15)),
            expected_timeout: expected_timeout(Duration::from_secs(15)),
            idle_timeout: None,
            max_stream_duration: MaxStreamDuration::default(),
            grpc_timeout: None,
            retry: None,
            replay_bytes_max: None,
            mirrors: Vec::new(),
            internal_redirect: None,
            rate_limits: Vec::new(),
            includes_host_limits: false,
            hash: Vec::new(),
            metadata: None,
            priority: RoutingPriority::default(),
            append_x_forwarded_host: false,
            upgrades: BTreeMap::new(),
        }
    }
}

/// See [`RouteForward::expected_timeout`].
#[must_use]
pub fn expected_timeout(timeout: Duration) -> Option<(u64, Bytes)> {
    let millis = u64::try_from(timeout.as_millis()).ok().filter(|millis| *millis > 0)?;
    Some((millis, Bytes::from(millis.to_string())))
}

/// `max_stream_duration`: where it is set, `timeout` counts for nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct MaxStreamDuration {
    pub set: bool,
    /// Zero: without end, whatever the connection manager says.
    pub max: Option<Duration>,
    /// `grpc_timeout_header_max`: a call's own `grpc-timeout` counts, up to this (zero: any).
    pub grpc_header_max: Option<Duration>,
    /// Taken off the call's own timeout.
    pub grpc_header_offset: Option<Duration>,
}

/// A gRPC call's own timeout instead of the route's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GrpcTimeout {
    /// Zero: any.
    pub max: Duration,
    /// Taken off the call's own timeout.
    pub offset: Option<Duration>,
}

/// `request_mirror_policies`: a copy of requests goes to another cluster, whose answers nobody waits for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    pub cluster: MirrorCluster,
    pub fraction: Fraction,
    /// `-shadow` is added to the host.
    pub host_suffix: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum MirrorCluster {
    Named(Arc<str>),
    Header(outrigger_http::HeaderName),
}

#[derive(Debug, PartialEq, Eq)]
pub enum ClusterSpec {
    Single(Arc<str>),
    Weighted {
        clusters: Vec<WeightedCluster>,
        total: u32,
    },
    /// `cluster_header`.
    Header(outrigger_http::HeaderName),
}

#[derive(Debug, PartialEq, Eq)]
pub struct WeightedCluster {
    pub name: Arc<str>,
    pub weight: u32,
    pub host_rewrite: Option<Bytes>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// `metadata_match`, that of the route included.
    pub metadata: Option<Arc<MetadataMatch>>,
    /// `typed_per_filter_config`, that of the scopes around it included.
    pub overrides: Overrides,
}

#[derive(Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// `prefix_rewrite`: replaces the matched prefix (or the whole path of an exact match).
    Prefix(Bytes),
    /// `regex_rewrite`; the substitution is in this crate's `${1}` form.
    Regex { regex: Regex, substitution: Bytes },
    /// `path_rewrite_policy`: a URI template.
    Template(UriTemplateRewrite),
}

#[derive(Debug, PartialEq, Eq)]
pub enum HostRewrite {
    Literal(Bytes),
    /// `host_rewrite_path_regex`: made from the path, without its query.
    Path {
        regex: Regex,
        substitution: Bytes,
    },
    /// `auto_host_rewrite`: the endpoint's hostname, where it has one.
    Auto,
    Header(outrigger_http::HeaderName),
}

#[derive(Debug, PartialEq, Eq)]
pub struct Redirect {
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
    pub scheme: Option<outrigger_http::Scheme>,
    pub host: Option<Bytes>,
    pub port: Option<u16>,
    pub path: Option<RedirectPath>,
    pub strip_query: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub enum RedirectPath {
    Full(Bytes),
    Prefix(Bytes),
    Regex { regex: Regex, substitution: Bytes },
}

#[derive(Debug, PartialEq, Eq)]
pub struct DirectResponse {
    pub status: u16,
    /// Read when the configuration is built, at most `max_direct_response_body_size_bytes` (4096).
    pub body: Bytes,
    /// `body_format`, where set: evaluated for each request.
    pub body_format: Option<Format>,
}
