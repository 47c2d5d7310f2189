//! The proxy's configuration: validated, immutable and neutral of the protocol that it came by.
//!
//! The xDS client turns protos into these types (static, file and ADS resources alike), [`ResourceSet`] holds the last
//! accepted ones, and [`Snapshot::compile`] makes an internally consistent generation of them, which workers serve from.
//! Regexes, CIDRs and formats are compiled when a type is built, so that whoever holds one can only use it.
//!
//! *Architecture invariant:* no tokio, prost, hyper or wasmtime here, no I/O, no clock.
//!
//! Every part is `Eq`, so that a balancer, a pool or a VM survives an update that didn't change its part.

mod access_log;
mod balancing;
mod cidr;
mod cluster;
mod dns;
mod endpoint;
pub mod explain;
mod expression;
mod filter;
mod filter_chain;
mod format;
mod fraction;
mod hash_policy;
mod health_check;
mod internal_redirect;
mod json;
mod listener;
mod listener_filter;
mod matcher;
mod metadata;
mod mutation;
mod native;
mod origin;
mod outlier;
mod overload;
mod overrides;
mod refs;
mod resources;
mod retry;
mod route;
mod select;
mod shared;
mod snapshot;
mod socket;
#[cfg(test)]
mod testing;
mod tls;
mod tracing;
mod upstream_proxy_protocol;
mod wasm_override;

pub use access_log::{AccessLog, AccessLogFormat, AccessLogSink, Comparison, ComparisonOp, JsonNode, LogFilter};
pub use balancing::{
    HashFunction, LbOptions, LbPolicy, PeakEwma, Real, SelectorFallback, SlowStart, SubsetFallback, SubsetSelector,
    Subsets, ZoneAware,
};
pub use cidr::Cidr;
pub use cluster::{
    AutoSni, CircuitBreakers, Cluster, Discovery, Http1Options, Http2Keepalive, Http2Options, OriginalDst, Preconnect,
    Protocol, RetryBudget, RoutingPriority, TransportMatch, Transports, UpstreamBind, UpstreamHttpOptions,
};
pub use dns::{DNS_ADDRESSES_MAX, DnsEndpoint, DnsFamily, DnsLocality, DnsOptions, DnsResolver, DnsTargets};
pub use endpoint::{Assignment, AssignmentPolicy, Endpoint, Health, Locality};
pub use filter::{
    Backoff, CodeSource, DiscoveredFilter, ExtensionConfig, FailurePolicy, Guardrails, HttpFilter, HttpFilterKind,
    Isolation, Limits, ModuleCode, RemoteCode, Rollout, RolloutShare, WasmPlugin, WasmVm,
};
pub use filter_chain::{
    ConnectionFacts, ConnectionFilter, ConnectionFilterKind, FilterChain, FilterChainClash, FilterChainMatch,
    FilterChainTable, SourceType,
};
pub use format::{Format, FormatError, FormatValue, LocalZone, set_hostname, set_local_zone};
pub use fraction::Fraction;
pub use hash_policy::{HashCookie, HashFrom, HashPolicy};
pub use health_check::{
    EndpointHealthCheck, GrpcHealthCheck, HealthCheck, HealthCheckKind, HttpHealthCheck, TcpHealthCheck,
};
pub use internal_redirect::{InternalRedirect, RedirectPredicate, RedirectTarget};
pub use listener::{
    CodecType, EscapedSlashes, HttpConnectionManager, HttpLimits, Listener, NetworkFilter, PathNormalization,
    RouteSource, ServerHeader, TcpCluster, TcpProxy, UpgradeConfig,
};
pub use listener_filter::{
    ListenerFilter, ListenerFilterKind, PortPredicate, ProxyEntryRule, ProxyProtocol, TlsInspector,
};
pub use matcher::{
    Branches, CookieMatcher, HeaderMatch, HeaderMatchName, HeaderMatcher, Input, MatchTree, MetadataMatcher, OnMatch,
    PathMatcher, Predicate, QueryMatch, QueryMatcher, Regex, StringMatch, StringMatcher, UriTemplate,
    UriTemplateRewrite, ValueMatcher, cookie,
};
pub use metadata::{LB_NAMESPACE, MetadataMatch};
pub use mutation::{AppendAction, HeaderMutations, HeaderValueOption};
pub use native::{
    ActiveCount, BufferLimit, ConnectionLimit, CorsPolicy, Fault, FaultAbort, FaultDelay, HeaderChange,
    HeaderMutationFilter, HostLimits, LimitAction, LimitActions, LimitDescriptor, LocalRateLimit, NativeFilter,
    NetworkRbac, Permission, Principal, RateLimit, RbacAction, RbacEngine, RbacFilter, RbacMatch, RbacMatcher,
    RbacPolicy, RbacRules, RbacVerdict, TokenBucket,
};
pub use origin::{Origin, Source, StreamSource};
pub use outlier::{FailurePercentage, OutlierDetection, Rule, SuccessRate};
pub use outrigger_http::{Metadata, MetadataStruct, MetadataValue};
pub use overload::{
    Action, OverloadAction, OverloadManager, ResourceMonitor, Threshold, Trigger as OverloadTrigger, monitored,
};
pub use overrides::{FilterOverride, OverrideConfig, OverrideNames, Overrides};
pub use resources::{Changes, Dependency, Resource, ResourceKind, ResourceSet, Update};
pub use retry::{BackOff, HostPredicates, RateLimitedBackOff, ResetFormat, RetryOn, RetryPolicy};
pub use route::{
    ClusterSpec, DirectResponse, GrpcTimeout, HostRewrite, MaxStreamDuration, Mirror, MirrorCluster, PathRewrite,
    Redirect, RedirectPath, Route, RouteAction, RouteConfig, RouteForward, VirtualHost, WeightedCluster,
    expected_timeout,
};
pub use select::RouteTable;
pub use shared::{Iter, SharedMap};
pub use snapshot::{ClusterEntry, FilterConfig, Needed, Snapshot, Warming};
pub use socket::{Address, ListenAddress, SocketOption, TcpKeepalive};
pub use tls::{
    Bundle, CertificateSource, CipherSuite, ClientCertDetails, Curve, DownstreamTls, DownstreamTransport,
    ForwardClientCert, HANDSHAKE_TIMEOUT, KeyLog, PrivateKey, ResolvedTls, SanKind, SanMatcher, Secret, SecretContent,
    SecretRef, Staple, StaplePolicy, TicketKey, TicketKeySource, TicketKeys, TlsCertificate, TlsContext, TlsParams,
    TlsVersions, Trust, TrustDomain, Unresolved, UpstreamTls, UpstreamTransport, ValidationContext,
};
pub use tracing::{CustomTag, OtlpTransport, Share, TagValue, Tracer, Tracing};
pub use upstream_proxy_protocol::{PassedEntries, ProxyProtocolVersion, UpstreamProxyProtocol};
pub use wasm_override::WasmOverride;
