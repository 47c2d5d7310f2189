//! Type URLs, as they stand in `Any.type_url` and in discovery requests.

/// What precedes a message's full name in a type URL.
pub const PREFIX: &str = "type.googleapis.com/";

macro_rules! type_urls {
    ($($(#[$doc:meta])* $constant:ident = $name:literal;)*) => {
        $($(#[$doc])* pub const $constant: &str = concat!("type.googleapis.com/", $name);)*

        #[cfg(test)]
        const ALL: &[(&str, &str)] = &[$(($constant, $name)),*];
    };
}

type_urls! {
    /// LDS.
    LISTENER = "envoy.config.listener.v3.Listener";
    /// RDS.
    ROUTE_CONFIGURATION = "envoy.config.route.v3.RouteConfiguration";
    /// VHDS.
    VIRTUAL_HOST = "envoy.config.route.v3.VirtualHost";
    /// SRDS.
    SCOPED_ROUTE_CONFIGURATION = "envoy.config.route.v3.ScopedRouteConfiguration";
    /// CDS.
    CLUSTER = "envoy.config.cluster.v3.Cluster";
    /// EDS.
    CLUSTER_LOAD_ASSIGNMENT = "envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// ECDS.
    TYPED_EXTENSION_CONFIG = "envoy.config.core.v3.TypedExtensionConfig";
    /// SDS.
    SECRET = "envoy.extensions.transport_sockets.tls.v3.Secret";
    /// RTDS.
    RUNTIME = "envoy.service.runtime.v3.Runtime";
    /// The file that a proxy starts from.
    BOOTSTRAP = "envoy.config.bootstrap.v3.Bootstrap";
    /// A filter's place in a virtual host's or route's `typed_per_filter_config`, with a switch.
    FILTER_CONFIG = "envoy.config.route.v3.FilterConfig";
    /// What a watched file holds.
    DISCOVERY_RESPONSE = "envoy.service.discovery.v3.DiscoveryResponse";
    /// A named resource of a delta response.
    RESOURCE = "envoy.service.discovery.v3.Resource";

    /// Network filter: HTTP.
    HTTP_CONNECTION_MANAGER = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
    /// Network filter: TCP to a cluster.
    TCP_PROXY = "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy";
    /// Network filter: Wasm.
    NETWORK_WASM = "envoy.extensions.filters.network.wasm.v3.Wasm";
    /// Network filter: authorization.
    NETWORK_RBAC = "envoy.extensions.filters.network.rbac.v3.RBAC";
    /// Network filter: so many connections at a time.
    CONNECTION_LIMIT = "envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit";

    /// HTTP filter: the last one of a chain.
    ROUTER = "envoy.extensions.filters.http.router.v3.Router";
    /// HTTP filter: Wasm, as Envoy has it.
    HTTP_WASM = "envoy.extensions.filters.http.wasm.v3.Wasm";
    /// HTTP filter: Wasm, as our control plane sends it to our proxies.
    OUTRIGGER_WASM = "outrigger.filters.http.wasm.v1.Wasm";
    /// HTTP filter: Wasm filters that only some routes use, in one entry.
    ROUTE_FILTERS = "outrigger.filters.http.wasm.v1.RouteFilters";
    /// HTTP filter: authorization.
    HTTP_RBAC = "envoy.extensions.filters.http.rbac.v3.RBAC";
    /// HTTP filter: cross-origin requests.
    CORS = "envoy.extensions.filters.http.cors.v3.Cors";
    /// HTTP filter: faults.
    FAULT = "envoy.extensions.filters.http.fault.v3.HTTPFault";

    /// A cluster's `typed_extension_protocol_options`.
    HTTP_PROTOCOL_OPTIONS = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    /// TLS towards clients.
    DOWNSTREAM_TLS_CONTEXT = "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext";
    /// TLS towards endpoints.
    UPSTREAM_TLS_CONTEXT = "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext";
    /// No TLS.
    RAW_BUFFER = "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer";
    /// The PROXY protocol towards endpoints.
    UPSTREAM_PROXY_PROTOCOL = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";
    /// Listener filter: reads the server name of a TLS hello.
    TLS_INSPECTOR = "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";
    /// Listener filter: reads the protocol of a cleartext request.
    HTTP_INSPECTOR = "envoy.extensions.filters.listener.http_inspector.v3.HttpInspector";
    /// Listener filter: the address before redirection.
    ORIGINAL_DST = "envoy.extensions.filters.listener.original_dst.v3.OriginalDst";
    /// Listener filter: the client that a balancer before us tells of.
    PROXY_PROTOCOL = "envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol";

    /// Load balancing policy: round robin.
    LB_ROUND_ROBIN = "envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin";
    /// Load balancing policy: least request.
    LB_LEAST_REQUEST = "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest";
    /// Load balancing policy: random.
    LB_RANDOM = "envoy.extensions.load_balancing_policies.random.v3.Random";
    /// Load balancing policy: consistent hashing on a ring.
    LB_RING_HASH = "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash";
    /// Load balancing policy: consistent hashing by a table.
    LB_MAGLEV = "envoy.extensions.load_balancing_policies.maglev.v3.Maglev";
    /// Load balancing policy: by the endpoints' metadata, then another policy.
    LB_SUBSET = "envoy.extensions.load_balancing_policies.subset.v3.Subset";
    /// Load balancing policy: by the weights of localities, then another policy.
    LB_WRR_LOCALITY = "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality";
    /// A cluster that is resolved through DNS.
    DNS_CLUSTER = "envoy.extensions.clusters.dns.v3.DnsCluster";
    /// Resolver: c-ares.
    DNS_CARES = "envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig";
    /// Resolver: hickory.
    DNS_HICKORY = "envoy.extensions.network.dns_resolver.hickory.v3.HickoryDnsResolverConfig";
    /// Resolver: the C library's.
    DNS_GETADDRINFO = "envoy.extensions.network.dns_resolver.getaddrinfo.v3.GetAddrInfoDnsResolverConfig";
    /// Load balancing policy of our own: by expected latency.
    LB_PEAK_EWMA = "outrigger.load_balancing_policies.peak_ewma.v1.PeakEwma";

    /// Access log to a file.
    FILE_ACCESS_LOG = "envoy.extensions.access_loggers.file.v3.FileAccessLog";
    /// Access log to standard output.
    STDOUT_ACCESS_LOG = "envoy.extensions.access_loggers.stream.v3.StdoutAccessLog";
    /// Access log to a Wasm plugin.
    WASM_ACCESS_LOG = "envoy.extensions.access_loggers.wasm.v3.WasmAccessLog";
    /// Access log to standard error.
    STDERR_ACCESS_LOG = "envoy.extensions.access_loggers.stream.v3.StderrAccessLog";

    /// `google.protobuf.StringValue`.
    STRING_VALUE = "google.protobuf.StringValue";
    /// `google.protobuf.BytesValue`.
    BYTES_VALUE = "google.protobuf.BytesValue";
    /// `google.protobuf.Struct`.
    STRUCT = "google.protobuf.Struct";
    /// `google.protobuf.Empty`.
    EMPTY = "google.protobuf.Empty";
    /// An extension's configuration without its own type, current form.
    TYPED_STRUCT = "xds.type.v3.TypedStruct";
    /// An extension's configuration without its own type, older form.
    UDPA_TYPED_STRUCT = "udpa.type.v1.TypedStruct";

    /// The admin interface's answer to `/config_dump`.
    CONFIG_DUMP = "envoy.admin.v3.ConfigDump";
    /// A part of it.
    BOOTSTRAP_CONFIG_DUMP = "envoy.admin.v3.BootstrapConfigDump";
    /// A part of it.
    LISTENERS_CONFIG_DUMP = "envoy.admin.v3.ListenersConfigDump";
    /// A part of it.
    CLUSTERS_CONFIG_DUMP = "envoy.admin.v3.ClustersConfigDump";
    /// A part of it.
    SECRETS_CONFIG_DUMP = "envoy.admin.v3.SecretsConfigDump";
    /// A part of it.
    ROUTES_CONFIG_DUMP = "envoy.admin.v3.RoutesConfigDump";
    /// A part of it.
    ENDPOINTS_CONFIG_DUMP = "envoy.admin.v3.EndpointsConfigDump";
    /// A part of it.
    ECDS_CONFIG_DUMP = "envoy.admin.v3.EcdsConfigDump";
}

/// The message's full name in a type URL: what follows the last slash, whatever the host before it.
pub fn message_name(type_url: &str) -> &str {
    type_url.rsplit_once('/').map_or(type_url, |(_, name)| name)
}

#[cfg(test)]
mod tests {
    use prost::Name;

    use super::*;
    use crate::pb;

    #[test]
    fn names_follow_the_last_slash() {
        for (url, name) in ALL {
            assert_eq!(message_name(url), *name);
            assert_eq!(*url, format!("{PREFIX}{name}"));
        }
        assert_eq!(message_name("a.B"), "a.B");
        assert_eq!(message_name("example.com/x/a.B"), "a.B");
    }

    #[test]
    fn ours_is_what_the_generated_type_says() {
        assert_eq!(pb::outrigger::filters::http::wasm::v1::Wasm::type_url(), OUTRIGGER_WASM);
        assert_eq!(pb::envoy::config::listener::v3::Listener::type_url(), LISTENER);
    }
}
