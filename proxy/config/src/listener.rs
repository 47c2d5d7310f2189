//! Listeners (`envoy.config.listener.v3.Listener`) and their network filters.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_http::Direction;

use crate::{
    AccessLog, Cidr, ClientCertDetails, ConnectionFilter, FilterChain, FilterChainTable, ForwardClientCert,
    Http1Options, Http2Options, HttpFilter, ListenAddress, ListenerFilter, Metadata, Origin, RouteConfig, Source,
    Tracing, WasmPlugin,
};

#[derive(Debug, PartialEq, Eq)]
pub struct Listener {
    pub name: Arc<str>,
    /// `stat_prefix`, or the address: the value of the tag `envoy_listener_address`.
    pub stat_prefix: Arc<str>,
    pub origin: Arc<Origin>,
    pub metadata: Option<Arc<Metadata>>,
    /// `address`, then `additional_addresses`: at least one.
    pub addresses: Vec<ListenAddress>,
    /// `bind_to_port`: unset, nothing listens, and connections come from listeners with `use_original_dst`.
    pub bind_to_port: bool,
    /// `use_original_dst`: a connection that was redirected goes to the listener of the address that it wanted.
    pub use_original_dst: bool,
    /// `transparent`: connections to any address are accepted (TPROXY).
    pub transparent: bool,
    /// In order.
    pub listener_filters: Vec<ListenerFilter>,
    /// 15 s unless set; `None`: for ever.
    pub listener_filters_timeout: Option<Duration>,
    /// A connection that listener filters wait for too long is served as it is, instead of being closed.
    pub continue_on_listener_filters_timeout: bool,
    pub direction: Direction,
    /// In order; the default chain, where there is one, is the last.
    pub chains: Vec<FilterChain>,
    /// Finds a connection's chain among [`Listener::chains`].
    pub table: FilterChainTable,
    /// What filters may keep of a body, and about what a connection may have queued. `None`: they have limits of their own.
    pub per_connection_buffer_limit_bytes: Option<u32>,
    /// `tcp_backlog_size`: 1024 unless set.
    pub backlog: u32,
    pub access_logs: Vec<AccessLog>,
    /// `ignore_global_conn_limit`: connections here are not refused for the limit of the whole process.
    pub ignores_connection_limit: bool,
    /// `bypass_overload_manager`: nothing is shed here.
    pub bypasses_overload: bool,
}

impl Listener {
    /// The plugins that it names itself, but for its HTTP filters: network filters and access loggers.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<WasmPlugin>> {
        let logs = self.chains.iter().flat_map(|chain| match &chain.filter {
            NetworkFilter::Http(manager) => &manager.access_logs,
            NetworkFilter::Tcp(proxy) => &proxy.access_logs,
        });
        let filters = self.chains.iter().flat_map(|chain| &chain.filters).filter_map(ConnectionFilter::plugin);
        filters.chain(self.access_logs.iter().chain(logs).filter_map(AccessLog::plugin))
    }

    /// Whether it listens on an address.
    #[must_use]
    pub fn listens_on(&self, address: SocketAddr) -> bool {
        self.socket_addresses().any(|own| {
            own.port() == address.port() && (own.ip().is_unspecified() || own.ip().to_canonical() == address.ip())
        })
    }

    /// The addresses but for Unix sockets.
    pub fn socket_addresses(&self) -> impl Iterator<Item = SocketAddr> {
        self.addresses.iter().filter_map(|listen| listen.address.socket())
    }
}

/// The terminal network filter of a chain.
#[derive(Debug, PartialEq, Eq)]
pub enum NetworkFilter {
    Http(Arc<HttpConnectionManager>),
    Tcp(Arc<TcpProxy>),
}

#[derive(Debug, PartialEq, Eq)]
pub struct HttpConnectionManager {
    /// The value of the tag `envoy_http_conn_manager_prefix`.
    pub stat_prefix: Arc<str>,
    pub codec: CodecType,
    pub routes: RouteSource,
    /// In order; the router is last and not in here.
    pub filters: Vec<HttpFilter>,
    pub access_logs: Vec<AccessLog>,
    /// `None`: nothing is traced.
    pub tracing: Option<Arc<Tracing>>,
    /// `server_name`: `envoy` unless set, as filters and tests of Envoy's users expect.
    pub server_name: bytes::Bytes,
    pub server_header: ServerHeader,
    pub http1: Http1Options,
    pub http2: Http2Options,
    pub limits: HttpLimits,
    /// `stream_idle_timeout`: 5 minutes unless set; `None` is none.
    pub stream_idle_timeout: Option<Duration>,
    /// `request_timeout`: from the first byte of the request's head to its last byte.
    pub request_timeout: Option<Duration>,
    /// `request_headers_timeout`: `None` is 10 s (Envoy's edge recommendation), so that a slow client holds nothing.
    pub request_headers_timeout: Option<Duration>,
    /// `common_http_protocol_options.idle_timeout`: one hour unless set.
    pub idle_timeout: Option<Duration>,
    pub max_connection_duration: Option<Duration>,
    /// `common_http_protocol_options.max_stream_duration`.
    pub max_stream_duration: Option<Duration>,
    /// `internal_address_config`: clients that may steer the proxy by `x-envoy-*` headers. Nobody unless set.
    pub internal_addresses: Vec<Cidr>,
    /// The router's `suppress_envoy_headers`.
    pub suppress_envoy_headers: bool,
    pub max_requests_per_connection: Option<u32>,
    /// `use_remote_address`: trust nothing of x-forwarded-for, append the client's address.
    pub use_remote_address: bool,
    pub xff_num_trusted_hops: u32,
    pub skip_xff_append: bool,
    /// Endpoints that are told who the client is hear of the client's connection, not of ours.
    pub add_proxy_protocol_connection_state: bool,
    /// `forward_client_cert_details`, and `set_current_client_cert_details`.
    pub forward_client_cert: ForwardClientCert,
    pub client_cert_details: ClientCertDetails,
    pub generate_request_id: bool,
    pub preserve_external_request_id: bool,
    pub always_set_request_id_in_response: bool,
    pub via: bytes::Bytes,
    pub path: PathNormalization,
    pub upgrades: Vec<UpgradeConfig>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CodecType {
    /// HTTP/2 by its preface, else HTTP/1.
    Auto,
    Http1,
    Http2,
}

#[derive(Debug, PartialEq, Eq)]
pub enum RouteSource {
    Inline(Arc<RouteConfig>),
    /// `from` is where it is fetched: ADS or a file.
    Rds {
        name: Arc<str>,
        initial_fetch_timeout: Option<Duration>,
        from: Source,
    },
}

/// What a head may be. The defaults are Envoy's for an edge proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HttpLimits {
    /// `max_request_headers_kb`: 60 unless set.
    pub max_request_headers_bytes: u32,
    /// `max_headers_count`: 100 unless set.
    pub max_headers_count: u32,
}

impl Default for HttpLimits {
    fn default() -> HttpLimits {
        HttpLimits { max_request_headers_bytes: 60 * 1024, max_headers_count: 100 }
    }
}

/// What is done to a path before it is matched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct PathNormalization {
    pub normalize_path: bool,
    pub merge_slashes: bool,
    pub escaped_slashes: EscapedSlashes,
    pub strip_any_host_port: bool,
    pub strip_matching_host_port: bool,
}

/// `path_with_escaped_slashes_action`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum EscapedSlashes {
    #[default]
    Keep,
    Reject,
    UnescapeAndRedirect,
    UnescapeAndForward,
}

/// `upgrade_configs`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpgradeConfig {
    /// Lower case: `websocket`.
    pub upgrade_type: String,
    pub enabled: bool,
}

#[derive(Debug, PartialEq, Eq)]
pub struct TcpProxy {
    pub stat_prefix: Arc<str>,
    pub clusters: Vec<TcpCluster>,
    pub total_weight: u32,
    /// One hour unless set; `None` is none.
    pub idle_timeout: Option<Duration>,
    pub max_connect_attempts: u32,
    /// `hash_policy`: the client's address decides, where the cluster's balancer goes by a hash.
    pub hashes_source_ip: bool,
    pub max_downstream_connection_duration: Option<Duration>,
    pub access_logs: Vec<AccessLog>,
}

#[derive(Debug, PartialEq, Eq)]
pub struct TcpCluster {
    pub name: Arc<str>,
    pub weight: u32,
}

/// `server_header_transformation`: whose name an answer's `server` header tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ServerHeader {
    /// The proxy's.
    #[default]
    Overwrite,
    /// The origin's, and the proxy's where the origin tells none.
    AppendIfAbsent,
    /// The origin's or none.
    PassThrough,
}

impl ServerHeader {
    /// Whether the proxy's name goes into an answer.
    #[must_use]
    pub fn tells_ours(self, origin_told: bool) -> bool {
        match self {
            ServerHeader::Overwrite => true,
            ServerHeader::AppendIfAbsent => !origin_told,
            ServerHeader::PassThrough => false,
        }
    }
}
