//! Clusters (`envoy.config.cluster.v3.Cluster`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_http::HeaderName;

use crate::{
    Assignment, DnsTargets, HealthCheck, LbOptions, LbPolicy, Metadata, MetadataStruct, MetadataValue, Origin,
    OutlierDetection, Real, SecretRef, SocketOption, Source, TlsContext, UpstreamTransport,
};

/// Where an endpoint's metadata says which transport socket it takes.
const TRANSPORT_NAMESPACE: &str = "envoy.transport_socket_match";

#[derive(Debug, PartialEq, Eq)]
pub struct Cluster {
    pub name: Arc<str>,
    /// `alt_stat_name`, or the name: the value of the tag `envoy_cluster_name`.
    pub stat_name: Arc<str>,
    pub origin: Arc<Origin>,
    pub metadata: Option<Arc<Metadata>>,
    pub discovery: Discovery,
    pub lb: LbPolicy,
    /// `None`: the defaults.
    pub lb_options: Option<Box<LbOptions>>,
    pub outlier: Option<Box<OutlierDetection>>,
    pub health_check: Option<Arc<HealthCheck>>,
    /// An endpoint that discovery no longer names goes at once, whatever its checks say.
    pub ignore_health_on_host_removal: bool,
    /// `close_connections_on_host_health_failure`.
    pub close_connections_on_health_failure: bool,
    /// 5 s unless set.
    pub connect_timeout: Duration,
    pub breakers: CircuitBreakers,
    /// Those of the priority `HIGH`, where they are not Envoy's defaults.
    pub breakers_high: Option<Box<CircuitBreakers>>,
    pub http: UpstreamHttpOptions,
    /// Reading from a peer stops at about this much; 1 MiB unless set.
    pub per_connection_buffer_limit_bytes: u32,
    /// `upstream_connection_options.tcp_keepalive`: seconds idle, interval and probes.
    pub tcp_keepalive: Option<(u32, u32, u32)>,
    /// `None`: nothing is said.
    pub bind: Option<Box<UpstreamBind>>,
    /// `None`: a connection is made when it is needed.
    pub preconnect: Option<Box<Preconnect>>,
    pub transports: Transports,
}

/// `preconnect_policy`: connections for more requests than there are; both from 1, where nothing is made ahead, to 3.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Preconnect {
    /// Of an endpoint's requests.
    pub per_upstream_ratio: Real,
    /// Of the cluster's, at the endpoints that come next.
    pub predictive_ratio: Real,
}

/// `transport_socket` and `transport_socket_matches`.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct Transports {
    pub default: UpstreamTransport,
    /// In order: the first one whose criteria an endpoint's metadata meets is its transport.
    pub matches: Vec<TransportMatch>,
}

/// `transport_socket_matches`.
#[derive(Debug, PartialEq, Eq)]
pub struct TransportMatch {
    pub name: Arc<str>,
    /// Empty: every endpoint meets it.
    pub criteria: MetadataStruct,
    pub transport: UpstreamTransport,
}

impl Transports {
    /// The TLS contexts of the sockets.
    pub fn contexts(&self) -> impl Iterator<Item = &TlsContext> {
        let matches = self.matches.iter().map(|found| &found.transport);
        matches.chain([&self.default]).filter_map(|transport| transport.tls.as_ref()).map(|tls| &tls.context)
    }

    /// Whether every endpoint is connected to over TLS.
    #[must_use]
    pub fn are_secure(&self) -> bool {
        let mut all = self.matches.iter().map(|found| &found.transport).chain([&self.default]);
        all.all(|transport| transport.tls.is_some())
    }

    /// Whether every endpoint is connected to as it is, without anything on top.
    #[must_use]
    pub fn are_raw(&self) -> bool {
        let mut all = self.matches.iter().map(|found| &found.transport).chain([&self.default]);
        all.all(|transport| *transport == UpstreamTransport::default())
    }

    /// The transport of an endpoint with this metadata.
    #[must_use]
    pub fn of(&self, metadata: Option<&Metadata>) -> &UpstreamTransport {
        let has = |(key, wanted): (&Arc<str>, &MetadataValue)| {
            metadata.and_then(|metadata| metadata.get(TRANSPORT_NAMESPACE, key)) == Some(wanted)
        };
        let found = self.matches.iter().find(|candidate| candidate.criteria.iter().all(has));
        found.map_or(&self.default, |found| &found.transport)
    }

    /// The secrets that they name.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        self.contexts().flat_map(TlsContext::secrets)
    }
}

#[derive(Debug, PartialEq, Eq)]
pub enum Discovery {
    Static(Arc<Assignment>),
    /// The name of the assignment: `eds_cluster_config.service_name`, or the cluster's name. `from` is where it is
    /// fetched: ADS or a file.
    Eds {
        service: Arc<str>,
        initial_fetch_timeout: Option<Duration>,
        from: Source,
    },
    /// STRICT_DNS and LOGICAL_DNS.
    Dns(Arc<DnsTargets>),
    /// ORIGINAL_DST: each connection goes where its client wanted to, before it was redirected to us.
    OriginalDst(OriginalDst),
}

/// `original_dst_lb_config`, and what belongs to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OriginalDst {
    /// `upstream_port_override`.
    pub port: Option<u16>,
    /// `cleanup_interval`: 5 s unless set. An endpoint is forgotten when nobody has asked for it for so long.
    pub cleanup_interval: Duration,
}

/// `upstream_bind_config` (`envoy.config.core.v3.BindConfig`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamBind {
    /// Where connections come from: the first address of an endpoint's family. None: from any.
    pub sources: Vec<SocketAddr>,
    pub freebind: bool,
    pub options: Vec<SocketOption>,
}

/// `circuit_breakers.thresholds` of one priority. Envoy counts for the whole process; these are shared by the workers
/// too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CircuitBreakers {
    pub max_connections: u32,
    pub max_pending_requests: u32,
    pub max_requests: u32,
    pub max_retries: u32,
    /// In place of `max_retries`.
    pub retry_budget: Option<RetryBudget>,
    /// Gauges of what remains are kept.
    pub track_remaining: bool,
}

impl Default for CircuitBreakers {
    /// Envoy's defaults.
    fn default() -> CircuitBreakers {
        CircuitBreakers {
            max_connections: 1024,
            max_pending_requests: 1024,
            max_requests: 1024,
            max_retries: 3,
            retry_budget: None,
            track_remaining: false,
        }
    }
}

/// Retries in proportion to what is active.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryBudget {
    /// `budget_percent` in thousandths of a percent of the active requests: 20 % unless set.
    pub percent_millis: u32,
    /// 3 unless set.
    pub min_retry_concurrency: u32,
}

/// `envoy.config.core.v3.RoutingPriority`: whose circuit breakers a request counts for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum RoutingPriority {
    #[default]
    Default = 0,
    High = 1,
}

impl Cluster {
    /// The circuit breakers of a priority.
    #[must_use]
    pub fn breakers_of(&self, priority: RoutingPriority) -> CircuitBreakers {
        match priority {
            RoutingPriority::Default => self.breakers,
            RoutingPriority::High => self.breakers_high.as_deref().copied().unwrap_or_default(),
        }
    }
}

/// `envoy.extensions.upstreams.http.v3.HttpProtocolOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamHttpOptions {
    pub protocol: Protocol,
    pub http1: Http1Options,
    pub http2: Http2Options,
    /// One hour unless set; zero turns it off.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    pub max_requests_per_connection: Option<u32>,
    /// `auto_sni`: servers are told the name that a request is for.
    pub auto_sni: Option<AutoSni>,
}

/// `UpstreamHttpProtocolOptions`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AutoSni {
    /// `override_auto_sni_header`: says the name, in place of the authority.
    pub header: Option<HeaderName>,
    /// `auto_san_validation`: the name must be one of the server's certificate.
    pub validates_san: bool,
}

impl Default for UpstreamHttpOptions {
    fn default() -> UpstreamHttpOptions {
        UpstreamHttpOptions {
            protocol: Protocol::Http1,
            http1: Http1Options::default(),
            http2: Http2Options::default(),
            idle_timeout: Some(Duration::from_secs(3600)),
            max_connection_duration: None,
            max_requests_per_connection: None,
            auto_sni: None,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    Http1,
    Http2,
    /// `use_downstream_protocol_config`.
    Downstream,
    /// `auto_config`: what the server chooses by ALPN; HTTP/1 where it doesn't choose.
    Alpn,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Http1Options {
    /// Trailers are dropped unless this is set, as in Envoy.
    pub enable_trailers: bool,
    pub accept_http_10: bool,
}

/// `envoy.config.core.v3.Http2ProtocolOptions`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Options {
    pub max_concurrent_streams: u32,
    pub initial_stream_window_bytes: u32,
    pub initial_connection_window_bytes: u32,
    /// `connection_keepalive`.
    pub keepalive: Option<Http2Keepalive>,
}

/// Pings on a connection, and what happens without an answer: it is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Http2Keepalive {
    pub interval: Duration,
    pub timeout: Duration,
    /// In thousandths of a percent of the interval; 15 % unless set.
    pub jitter_millis: u32,
}

impl Default for Http2Options {
    /// Bounded by memory: a blocked stream holds at most its window (Envoy's default is 16 MiB a stream).
    fn default() -> Http2Options {
        Http2Options {
            max_concurrent_streams: 1024,
            initial_stream_window_bytes: 1 << 20,
            initial_connection_window_bytes: 16 << 20,
            keepalive: None,
        }
    }
}
