//! Route configurations (`envoy.config.route.v3.RouteConfiguration`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    FilterOverride, Format, HeaderMatcher, HeaderMutations, Origin, PathMatcher, QueryMatcher, Regex, RouteTable,
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
    /// Made by [`RouteTable::compile`] from `virtual_hosts`.
    pub table: RouteTable,
}

#[derive(Debug, PartialEq, Eq)]
pub struct VirtualHost {
    pub name: Arc<str>,
    /// Lower case: `a.b`, `a.b:81`, `*.b`, `a.*`, `*`.
    pub domains: Vec<String>,
    pub routes: Vec<Arc<Route>>,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    /// `typed_per_filter_config`, by filter name.
    pub overrides: BTreeMap<Arc<str>, FilterOverride>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Route {
    /// May be empty.
    pub name: Arc<str>,
    pub path: PathMatcher,
    pub case_sensitive: bool,
    pub headers: Vec<HeaderMatcher>,
    pub query: Vec<QueryMatcher>,
    /// `match.grpc`: only requests with a gRPC content type.
    pub grpc_only: bool,
    pub action: RouteAction,
    pub request_headers: HeaderMutations,
    pub response_headers: HeaderMutations,
    pub overrides: BTreeMap<Arc<str>, FilterOverride>,
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
    /// `idle_timeout`; `None`: the connection manager's `stream_idle_timeout`. Zero turns it off.
    pub idle_timeout: Option<Duration>,
    /// `max_stream_duration.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// `upgrade_configs` of the route by lower-case upgrade type: on or off.
    pub upgrades: BTreeMap<String, bool>,
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
    pub overrides: BTreeMap<Arc<str>, FilterOverride>,
}

#[derive(Debug, PartialEq, Eq)]
pub enum PathRewrite {
    /// `prefix_rewrite`: replaces the matched prefix (or the whole path of an exact match).
    Prefix(Bytes),
    /// `regex_rewrite`; the substitution is in this crate's `${1}` form.
    Regex { regex: Regex, substitution: Bytes },
}

#[derive(Debug, PartialEq, Eq)]
pub enum HostRewrite {
    Literal(Bytes),
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
