//! Small resources for this crate's tests; `version` shows in one field of each.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::{
    Assignment, AssignmentPolicy, CircuitBreakers, Cluster, ClusterSpec, CodeSource, CodecType, Discovery, DnsEndpoint,
    DnsFamily, DnsLocality, DnsOptions, DnsTargets, Endpoint, ExtensionConfig, FailurePolicy, FilterChain,
    FilterChainTable, HeaderMutations, Http1Options, Http2Options, HttpConnectionManager, HttpFilter, HttpFilterKind,
    HttpLimits, Isolation, LbPolicy, Limits, ListenAddress, Listener, Locality, ModuleCode, NetworkFilter, Origin,
    OverrideNames, Overrides, PathMatcher, PathNormalization, Resource, Route, RouteAction, RouteConfig, RouteForward,
    RouteSource, RouteTable, Source, UpstreamHttpOptions, VirtualHost, WasmPlugin, WasmVm,
};

pub(crate) fn origin(name: &str) -> Arc<Origin> {
    Arc::new(Origin { source: Source::Ads, name: name.into(), version: "".into(), object: "".into() })
}

fn cluster_with(name: &str, discovery: Discovery, version: u32) -> Cluster {
    Cluster {
        metadata: None,
        name: name.into(),
        stat_name: name.into(),
        origin: origin(name),
        discovery,
        lb: LbPolicy::RoundRobin,
        connect_timeout: Duration::from_secs(5),
        breakers: CircuitBreakers::default(),
        breakers_high: None,
        lb_options: None,
        outlier: None,
        health_check: None,
        ignore_health_on_host_removal: false,
        close_connections_on_health_failure: false,
        http: UpstreamHttpOptions::default(),
        per_connection_buffer_limit_bytes: version,
        tcp_keepalive: None,
        bind: None,
        preconnect: None,
        transports: crate::Transports::default(),
    }
}

pub(crate) fn clone_cluster(template: &Cluster, name: &str) -> Cluster {
    let discovery = Discovery::Static(Arc::new(assignment_of(name, 0)));
    cluster_with(name, discovery, template.per_connection_buffer_limit_bytes)
}

pub(crate) fn cluster(name: &str, version: u32) -> Resource {
    let discovery = Discovery::Static(Arc::new(assignment_of(name, 0)));
    Resource::Cluster(Arc::new(cluster_with(name, discovery, version)))
}

/// A cluster that needs a secret over ADS.
pub(crate) fn tls_cluster(name: &str, service: &str, secret: &str, version: u32) -> Resource {
    let discovery = Discovery::Eds { service: service.into(), initial_fetch_timeout: None, from: Source::Ads };
    let dependency = crate::Dependency { name: secret.into(), from: Source::Ads, initial_fetch_timeout: None };
    let context = crate::TlsContext {
        params: crate::TlsParams::default(),
        certificates: Vec::new(),
        validation: None,
        validation_secret: Some(crate::SecretRef::new(dependency)),
        alpn: Vec::new(),
        ticket_keys: None,
        key_log: None,
    };
    let tls = crate::UpstreamTls {
        context,
        sni: "".into(),
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: 1,
    };
    let default = crate::UpstreamTransport { tls: Some(Arc::new(tls)), ..crate::UpstreamTransport::default() };
    let transports = crate::Transports { default, matches: Vec::new() };
    Resource::Cluster(Arc::new(Cluster { transports, ..cluster_with(name, discovery, version) }))
}

pub(crate) fn secret(name: &str, version: u32) -> Resource {
    let validation = crate::ValidationContext { spkis: vec![[version as u8; 32]], ..Default::default() };
    let content = crate::SecretContent::Validation(Arc::new(validation));
    Resource::Secret(Arc::new(crate::Secret { name: name.into(), origin: origin(name), content }))
}

pub(crate) fn eds(name: &str, service: &str, version: u32) -> Resource {
    let discovery = Discovery::Eds { service: service.into(), initial_fetch_timeout: None, from: Source::Ads };
    Resource::Cluster(Arc::new(cluster_with(name, discovery, version)))
}

/// A cluster whose endpoints are resolved, and what of it is.
pub(crate) fn dns(name: &str, host: &str) -> (Resource, Arc<DnsTargets>) {
    let template = Endpoint::at(SocketAddr::from(([0, 0, 0, 0], 80)).into());
    let place = Locality {
        metadata: None,
        region: String::new(),
        zone: String::new(),
        sub_zone: String::new(),
        priority: 0,
        weight: None,
        endpoints: Vec::new(),
    };
    let targets = DnsTargets {
        name: name.into(),
        origin: origin(name),
        localities: vec![DnsLocality { place, endpoints: vec![DnsEndpoint { host: host.into(), template }] }],
        policy: AssignmentPolicy::default(),
        logical: false,
        options: DnsOptions {
            refresh: Duration::from_secs(5),
            refresh_min: Duration::ZERO,
            jitter: Duration::ZERO,
            failure_refresh: None,
            respect_ttl: false,
            family: DnsFamily::Auto,
            resolver: None,
        },
    };
    let targets = Arc::new(targets.named(name));
    (Resource::Cluster(Arc::new(cluster_with(name, Discovery::Dns(Arc::clone(&targets)), 1))), targets)
}

fn assignment_of(name: &str, version: u32) -> Assignment {
    Assignment {
        name: name.into(),
        origin: origin(name),
        localities: Vec::new(),
        policy: AssignmentPolicy { overprovisioning_percent: version, ..AssignmentPolicy::default() },
    }
}

pub(crate) fn assignment(name: &str, version: u32) -> Resource {
    Resource::Endpoints(Arc::new(assignment_of(name, version)))
}

pub(crate) fn extension(name: &str, version: u32) -> Resource {
    let plugin = WasmPlugin {
        name: name.into(),
        root_id: String::new(),
        configuration: version.to_string().into(),
        failure_policy: FailurePolicy::Closed,
        allow_on_headers_stop_iteration: false,
        vm: Arc::new(WasmVm {
            vm_id: String::new(),
            code: ModuleCode { source: CodeSource::Inline(Bytes::new()), sha256: None },
            configuration: Bytes::new(),
            environment: Vec::new(),
            limits: Limits::default(),
            capabilities: None,
            isolation: Isolation::Shared,
            revision: "".into(),
            shadow: false,
        }),
    };
    Resource::Extension(Arc::new(ExtensionConfig {
        name: name.into(),
        origin: origin(name),
        type_url: "type.googleapis.com/test.Wasm".to_owned(),
        plugin: Arc::new(plugin),
        rollout: None,
    }))
}

pub(crate) fn route_entry(path: PathMatcher, cluster: &str) -> Route {
    Route {
        metadata: None,
        name: "".into(),
        path,
        case_sensitive: true,
        headers: Vec::new(),
        query: Vec::new(),
        cookies: Vec::new(),
        fraction: None,
        grpc_only: false,
        action: RouteAction::Forward(Box::new(RouteForward::to(ClusterSpec::Single(cluster.into())))),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        overrides: Overrides::default(),
        object: "".into(),
    }
}

pub(crate) fn virtual_host(name: &str, domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        metadata: None,
        name: name.into(),
        domains: domains.iter().map(|domain| (*domain).to_owned()).collect(),
        routes: routes.into_iter().map(Arc::new).collect(),
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        overrides: Overrides::default(),
        rate_limits: Vec::new(),
        attempt_count_in_request: false,
        attempt_count_in_response: false,
    }
}

pub(crate) fn route(name: &str, version: u32, clusters: &[&str]) -> Resource {
    let routes = clusters.iter().map(|cluster| route_entry(PathMatcher::Prefix(Bytes::from_static(b"/")), cluster));
    let hosts = vec![Arc::new(virtual_host(&version.to_string(), &["*"], routes.collect()))];
    Resource::Route(Arc::new(RouteConfig {
        name: name.into(),
        origin: origin(name),
        table: RouteTable::compile(&hosts).unwrap(),
        virtual_hosts: hosts,
        request_headers: HeaderMutations::default(),
        response_headers: HeaderMutations::default(),
        most_specific_header_mutations_wins: false,
        ignore_port_in_host_matching: false,
        override_names: OverrideNames::default(),
    }))
}

/// A listener with its routes by RDS and its filters by ECDS; `version` is its backlog.
pub(crate) fn listener(name: &str, version: u32, route: &str, extensions: &[&str]) -> Resource {
    let filters = extensions.iter().map(|name| HttpFilter {
        name: (*name).into(),
        kind: HttpFilterKind::Discovered(crate::DiscoveredFilter {
            default: None,
            apply_default_without_warming: false,
            initial_fetch_timeout: None,
            type_urls: vec!["type.googleapis.com/test.Wasm".to_owned()],
            from: Source::Ads,
        }),
        disabled: false,
    });
    let manager = HttpConnectionManager {
        stat_prefix: name.into(),
        codec: CodecType::Auto,
        routes: RouteSource::Rds { name: route.into(), initial_fetch_timeout: None, from: Source::Ads },
        filters: filters.collect(),
        access_logs: Vec::new(),
        tracing: None,
        server_name: Bytes::from_static(b"envoy"),
        server_header: crate::ServerHeader::Overwrite,
        http1: Http1Options::default(),
        http2: Http2Options::default(),
        limits: HttpLimits::default(),
        stream_idle_timeout: None,
        request_timeout: None,
        request_headers_timeout: None,
        idle_timeout: None,
        max_connection_duration: None,
        max_stream_duration: None,
        internal_addresses: Vec::new(),
        suppress_envoy_headers: false,
        max_requests_per_connection: None,
        use_remote_address: false,
        xff_num_trusted_hops: 0,
        skip_xff_append: false,
        add_proxy_protocol_connection_state: true,
        forward_client_cert: crate::ForwardClientCert::Sanitize,
        client_cert_details: crate::ClientCertDetails::default(),
        generate_request_id: true,
        preserve_external_request_id: false,
        always_set_request_id_in_response: false,
        via: Bytes::new(),
        path: PathNormalization::default(),
        upgrades: Vec::new(),
    };
    let chains = vec![FilterChain::new(NetworkFilter::Http(Arc::new(manager)))];
    Resource::Listener(Arc::new(Listener {
        metadata: None,
        name: name.into(),
        stat_prefix: name.into(),
        origin: origin(name),
        addresses: vec![ListenAddress::ip("127.0.0.1:0".parse().unwrap())],
        bind_to_port: true,
        use_original_dst: false,
        transparent: false,
        listener_filters: Vec::new(),
        listener_filters_timeout: None,
        continue_on_listener_filters_timeout: false,
        direction: outrigger_http::Direction::Unspecified,
        table: FilterChainTable::new(&chains, None).unwrap(),
        chains,
        per_connection_buffer_limit_bytes: None,
        backlog: version,
        ignores_connection_limit: false,
        bypasses_overload: false,
        access_logs: Vec::new(),
    }))
}
