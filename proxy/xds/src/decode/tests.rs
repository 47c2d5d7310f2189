//! Decoding, by example: YAML in, configuration or problems out.

mod access_logs;
mod addresses;
mod discovered;
mod fields;
mod filter_chains;
mod listener_filters;
mod native;
mod proxy_protocol;
mod routes;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{
    AccessLogFormat, AccessLogSink, Assignment, Cluster, CodeSource, CodecType, DiscoveredFilter, Discovery,
    ExtensionConfig, FailurePolicy, Guardrails, Health, HttpConnectionManager, HttpFilterKind, LbPolicy, Listener,
    MetadataValue, NetworkFilter, Protocol, Real, Resource, ResourceKind, RetryBudget, RolloutShare, RouteSource,
    RoutingPriority, Source,
};

use crate::testing::{cluster_yaml, decode_yaml};
use crate::{Accepted, Invalid};

fn good(kind: ResourceKind, yaml: &str) -> Accepted {
    decode_yaml(kind, yaml).unwrap_or_else(|invalid| panic!("{}\n{yaml}", invalid.reason()))
}

/// The reason, a problem a line.
fn bad(kind: ResourceKind, yaml: &str) -> String {
    let invalid: Invalid = decode_yaml(kind, yaml).map(|accepted| accepted.name).expect_err(yaml);
    invalid.reason()
}

fn cluster(yaml: &str) -> Arc<Cluster> {
    let Resource::Cluster(cluster) = good(ResourceKind::Cluster, yaml).resource else { panic!() };
    cluster
}

fn assignment(yaml: &str) -> Arc<Assignment> {
    let Resource::Endpoints(assignment) = good(ResourceKind::Endpoints, yaml).resource else { panic!() };
    assignment
}

fn listener(yaml: &str) -> Arc<Listener> {
    let Resource::Listener(listener) = good(ResourceKind::Listener, yaml).resource else { panic!() };
    listener
}

/// A listener with an HTTP connection manager, whose further fields are given.
fn http_listener(fields: &str) -> String {
    format!(
        "{{name: l, address: {{socket_address: {{address: '::1', port_value: 8080}}}}, filter_chains: [{{filters: \
         [{{name: hcm, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.\
         http_connection_manager.v3.HttpConnectionManager, stat_prefix: in, {fields}}}}}]}}]}}"
    )
}

const ROUTER: &str =
    "{name: router, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}";
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const OWN_WASM: &str = "type.googleapis.com/outrigger.filters.http.wasm.v1.Wasm";
const RDS: &str = "rds: {route_config_name: r, config_source: {ads: {}, initial_fetch_timeout: 0s}}";

fn manager(fields: &str) -> Arc<HttpConnectionManager> {
    let listener = listener(&http_listener(fields));
    let NetworkFilter::Http(manager) = &listener.chains[0].filter else { panic!() };
    Arc::clone(manager)
}

fn bad_manager(fields: &str) -> String {
    bad(ResourceKind::Listener, &http_listener(fields)).replace("filter_chains[0].filters[0].typed_config.", "")
}

#[test]
fn clusters() {
    let found = cluster(&cluster_yaml("a", 80));
    let Discovery::Static(endpoints) = &found.discovery else { panic!() };
    let endpoint = endpoints.endpoints().next().unwrap();
    assert_eq!(endpoint.address, "127.0.0.1:80".parse::<SocketAddr>().unwrap().into());
    assert_eq!((endpoint.weight, endpoint.health), (1, Health::Healthy));
    assert_eq!((found.connect_timeout, found.lb), (Duration::from_secs(5), LbPolicy::RoundRobin));
    assert_eq!(*found.stat_name, *"a");

    let found = cluster(
        "{name: a, alt_stat_name: s, type: EDS, connect_timeout: 0.25s, lb_policy: LEAST_REQUEST, \
         least_request_lb_config: {choice_count: 3}, eds_cluster_config: {service_name: x, eds_config: {ads: {}, \
         initial_fetch_timeout: 3s}}, circuit_breakers: {thresholds: [{max_connections: 5}, {priority: HIGH, \
         max_requests: 7, retry_budget: {budget_percent: {value: 12.5}}}]}, \
         upstream_connection_options: {tcp_keepalive: {keepalive_time: 9}}, metadata: {filter_metadata: \
         {outrigger.dev: {kind: HTTPRoute, namespace: shop, name: api, file: a.yaml, line: 12}}}}",
    );
    assert_eq!((&*found.stat_name, found.connect_timeout), ("s", Duration::from_millis(250)));
    assert!(matches!(found.lb, LbPolicy::LeastRequest { choices: 3, full_scan: false, .. }));
    assert_eq!((found.breakers.max_connections, found.breakers.max_retries), (5, 3));
    let high = found.breakers_of(RoutingPriority::High);
    assert_eq!((high.max_connections, high.max_requests), (1024, 7));
    assert_eq!(high.retry_budget, Some(RetryBudget { percent_millis: 12_500, min_retry_concurrency: 3 }));
    assert_eq!(found.tcp_keepalive, Some((9, 75, 9)));
    assert_eq!(&*found.origin.object, "HTTPRoute shop/api (a.yaml:12)");
    assert_eq!(found.metadata, None, "the control plane's own notes are nothing to show");
    let Discovery::Eds { service, initial_fetch_timeout, from } = &found.discovery else { panic!() };
    assert_eq!((&**service, *initial_fetch_timeout, from), ("x", Some(Duration::from_secs(3)), &Source::Ads));
}

#[test]
fn upstream_protocols_old_and_new() {
    let check = |fields: &str, expected: Protocol| {
        let yaml = cluster_yaml("a", 80).replacen('{', &format!("{{{fields}, "), 1);
        assert_eq!(cluster(&yaml).http.protocol, expected, "{fields}");
    };
    let typed = |inner: &str| {
        format!(
            "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{'@type': \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, {inner}}}}}"
        )
    };
    check("http2_protocol_options: {}", Protocol::Http2);
    check("protocol_selection: USE_DOWNSTREAM_PROTOCOL", Protocol::Downstream);
    check(&typed("explicit_http_config: {http2_protocol_options: {}}"), Protocol::Http2);
    check(&typed("explicit_http_config: {http_protocol_options: {}}"), Protocol::Http1);
    check(&typed("use_downstream_protocol_config: {}"), Protocol::Downstream);
    check("lb_policy: RANDOM", Protocol::Http1);
}

#[test]
fn policies_of_load_balancing() {
    let check = |policies: &str, expected: Option<LbPolicy>| {
        let fields = format!("load_balancing_policy: {{policies: [{policies}]}}");
        let yaml = cluster_yaml("a", 80).replacen('{', &format!("{{{fields}, "), 1);
        let found = decode_yaml(ResourceKind::Cluster, &yaml).ok().map(|accepted| match accepted.resource {
            Resource::Cluster(cluster) => cluster.lb,
            _ => panic!(),
        });
        assert_eq!(found, expected, "{policies}");
    };
    let policy = |name: &str, fields: &str| {
        format!(
            "{{typed_extension_config: {{name: x, typed_config: {{'@type': \
             type.googleapis.com/envoy.extensions.load_balancing_policies.{name}{fields}}}}}}}"
        )
    };
    check(&policy("round_robin.v3.RoundRobin", ""), Some(LbPolicy::RoundRobin));
    check(&policy("random.v3.Random", ""), Some(LbPolicy::Random));
    let least = policy("least_request.v3.LeastRequest", ", choice_count: 4");
    let four = LbPolicy::LeastRequest { choices: 4, full_scan: false, active_request_bias: Real::new(1.0) };
    check(&least, Some(four));
    let unknown = policy("client_side_weighted_round_robin.v3.ClientSideWeightedRoundRobin", "");
    check(&format!("{unknown}, {least}, {unknown}"), Some(four));
    check(&unknown, None);
    check("", None);
}

#[test]
fn bad_clusters_name_the_field() {
    let check = |yaml: &str, expected: &str| assert_eq!(bad(ResourceKind::Cluster, yaml), expected, "{yaml}");
    check("{type: STATIC, load_assignment: {}}", "name: is required");
    check("{name: a}", "load_assignment: is required for a STATIC cluster");
    check("{name: a, type: STRICT_DNS}", "load_assignment: is required for a cluster that is resolved through DNS");
    check(
        "{name: a, lb_policy: CLUSTER_PROVIDED, load_assignment: {}}",
        "lb_policy: CLUSTER_PROVIDED is not supported for this cluster",
    );
    check(
        "{name: a, type: EDS, eds_cluster_config: {eds_config: {api_config_source: {api_type: GRPC}}}}",
        "eds_cluster_config.eds_config.api_config_source: streams of their own are not supported, use ads",
    );
    check("{name: a, load_assignment: {}, connect_timeout: -1s}", "connect_timeout: is not a duration from 0 on");
    let endpoint = |endpoint: &str| {
        format!("{{name: a, load_assignment: {{endpoints: [{{lb_endpoints: [{{endpoint: {{{endpoint}}}}}]}}]}}}}")
    };
    let path = "load_assignment.endpoints[0].lb_endpoints[0].endpoint.address";
    check(&endpoint(""), &format!("{path}: is required"));
    check(
        &endpoint("address: {socket_address: {address: a.test, port_value: 80}}"),
        &format!("{path}.socket_address.address: \"a.test\" is no IP address (names are not resolved)"),
    );
    check(
        &endpoint("address: {socket_address: {address: 10.0.0.1, port_value: 70000}}"),
        &format!("{path}.socket_address.port_value: is not a port number up to 65535"),
    );
    let reason = bad(ResourceKind::Cluster, "{name: a, load_assignment: {}, transport_socket: {name: tls}}");
    assert_eq!(
        reason,
        "transport_socket: tls is not supported, only UpstreamTlsContext, ProxyProtocolUpstreamTransport and raw_buffer"
    );
}

#[test]
fn assignments() {
    let found = assignment(
        "{cluster_name: a, policy: {overprovisioning_factor: 200, drop_overloads: [{category: c, drop_percentage: {numerator: 5, denominator: MILLION}}]}, endpoints: [\
         {priority: 1, lb_endpoints: [{endpoint: {address: {socket_address: {address: 10.0.0.2, port_value: 80}}}}]},\
         {locality: {zone: z}, load_balancing_weight: 3, lb_endpoints: [\
         {health_status: DRAINING, load_balancing_weight: 7, metadata: {filter_metadata: {envoy.lb: {v: 2, c: true}}}, endpoint: {hostname: h, address: {socket_address: \
         {address: 'fd00::1', port_value: 80}}}}]}]}",
    );
    assert_eq!(found.policy.overprovisioning_percent, 200);
    assert_eq!(found.policy.drop_overload, Some(outrigger_config::Fraction { numerator: 5, denominator: 1_000_000 }));
    let [first, second] = &found.localities[..] else { panic!() };
    assert_eq!((first.priority, &*first.zone, first.weight), (0, "z", Some(3)));
    assert_eq!((second.priority, second.endpoints.len()), (1, 1));
    let endpoint = &first.endpoints[0];
    assert_eq!((endpoint.health, endpoint.weight, &*endpoint.hostname), (Health::Draining, 7, "h"));
    let metadata = endpoint.metadata.as_ref().unwrap();
    assert_eq!(metadata.get("envoy.lb", "v"), Some(&MetadataValue::number(2.0)));
    assert_eq!(metadata.get("envoy.lb", "c"), Some(&MetadataValue::Bool(true)));
    assert_eq!(endpoint.address, "[fd00::1]:80".parse::<SocketAddr>().unwrap().into());
    assert_eq!(bad(ResourceKind::Endpoints, "{endpoints: [{priority: 200}]}").lines().count(), 2);
}

#[test]
fn connection_managers() {
    let found = manager(&format!("{RDS}, http_filters: [{ROUTER}]"));
    assert!(
        matches!(&found.routes, RouteSource::Rds { name, initial_fetch_timeout: Some(Duration::ZERO), from: Source::Ads } if **name == *"r")
    );
    assert_eq!((found.codec, &found.server_name[..]), (CodecType::Auto, &b"envoy"[..]));
    assert_eq!(found.stream_idle_timeout, Some(Duration::from_secs(300)));
    assert_eq!((found.idle_timeout, found.request_timeout), (Some(Duration::from_secs(3600)), None));
    assert!(found.generate_request_id && !found.use_remote_address && found.filters.is_empty());

    let found = manager(&format!(
        "codec_type: HTTP2, {RDS}, http_filters: [{ROUTER}], server_name: me, stream_idle_timeout: 0s, \
         max_request_headers_kb: 8, common_http_protocol_options: {{idle_timeout: 2s, max_headers_count: 7}}, \
         http2_protocol_options: {{max_concurrent_streams: 9}}, upgrade_configs: [{{upgrade_type: WebSocket}}], \
         path_with_escaped_slashes_action: REJECT_REQUEST, normalize_path: true, strip_any_host_port: true"
    ));
    assert_eq!(
        (found.codec, found.stream_idle_timeout, found.idle_timeout),
        (CodecType::Http2, None, Some(Duration::from_secs(2)))
    );
    assert_eq!((found.limits.max_request_headers_bytes, found.limits.max_headers_count), (8192, 7));
    assert_eq!(found.http2.max_concurrent_streams, 9);
    assert_eq!((&*found.upgrades[0].upgrade_type, found.upgrades[0].enabled), ("websocket", true));
    assert!(found.path.normalize_path && found.path.strip_any_host_port);
}

#[test]
fn filters_are_wasm_discovered_or_ignored() {
    let wasm = |name: &str| {
        format!(
            "{{name: {name}, typed_config: {{'@type': {WASM}, config: {{vm_config: {{code: {{local: {{inline_string: \
             code}}}}}}, configuration: {{'@type': type.googleapis.com/google.protobuf.Struct, value: {{b: 1, a: [x, \
             null]}}}}}}}}}}"
        )
    };
    let discovered = format!(
        "{{name: d, config_discovery: {{config_source: {{ads: {{}}}}, type_urls: [{OWN_WASM}]}}, disabled: true}}"
    );
    let stats = "{name: s, typed_config: {'@type': \
                 type.googleapis.com/envoy.extensions.filters.http.grpc_stats.v3.FilterConfig}}";
    let optional = "{name: o, is_optional: true, typed_config: {'@type': \
                    type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}";
    let yaml =
        http_listener(&format!("{RDS}, http_filters: [{}, {discovered}, {stats}, {optional}, {ROUTER}]", wasm("w")));
    let accepted = good(ResourceKind::Listener, &yaml);
    assert_eq!(accepted.warnings.len(), 2, "{:?}", accepted.warnings);
    let Resource::Listener(listener) = accepted.resource else { panic!() };
    let NetworkFilter::Http(manager) = &listener.chains[0].filter else { panic!() };
    let [first, second] = &manager.filters[..] else { panic!() };
    let HttpFilterKind::Wasm(plugin) = &first.kind else { panic!() };
    assert_eq!((&*plugin.name, &plugin.configuration[..]), ("w", &br#"{"a":["x",null],"b":1}"#[..]));
    assert_eq!(plugin.vm.code.source, CodeSource::Inline(Bytes::from_static(b"code")));
    assert!(plugin.vm.code.sha256.is_some() && second.disabled);
    assert!(matches!(
        &second.kind,
        HttpFilterKind::Discovered(DiscoveredFilter { default: None, from: Source::Ads, .. })
    ));
}

/// An entry of filters that only some routes use.
fn route_filters(names: &str) -> String {
    let discovery = format!("{{config_source: {{ads: {{}}}}, type_urls: [{OWN_WASM}]}}");
    let kind = "type.googleapis.com/outrigger.filters.http.wasm.v1.RouteFilters";
    format!("{{name: some, typed_config: {{'@type': {kind}, discovery: {discovery}, names: [{names}]}}}}")
}

#[test]
fn filters_of_routes_stand_in_one_entry() {
    let entry = |name: &str| {
        format!(
            "{{name: {name}, disabled: true, config_discovery: {{config_source: {{ads: {{}}}}, type_urls: [{OWN_WASM}]}}}}"
        )
    };
    let filters_of = |filters: &str| {
        let accepted =
            good(ResourceKind::Listener, &http_listener(&format!("{RDS}, http_filters: [{filters}, {ROUTER}]")));
        assert!(accepted.warnings.is_empty(), "{:?}", accepted.warnings);
        let Resource::Listener(listener) = accepted.resource else { panic!() };
        let NetworkFilter::Http(manager) = &listener.chains[0].filter else { panic!() };
        format!("{:?}", manager.filters)
    };
    let apart = format!("{}, {}, {}", entry("before"), entry("a"), entry("b"));
    assert_eq!(filters_of(&format!("{}, {}", entry("before"), route_filters("a, b"))), filters_of(&apart));
    let check = |filters: &str, expected: &str| {
        assert_eq!(bad_manager(&format!("{RDS}, http_filters: [{filters}, {ROUTER}]")), expected, "{filters}");
    };
    let path = "http_filters[0].typed_config";
    check(&route_filters("a, a"), &format!("{path}.names[1]: \"a\" stands here twice"));
    check(&format!("{}, {}", route_filters("a"), entry("a")), "http_filters[1].name: \"a\" stands here twice");
    check(&route_filters("''"), &format!("{path}.names[0]: is required"));
    check(
        &route_filters("a").replace(OWN_WASM, "x/y.Z"),
        &format!("{path}.discovery.type_urls: names no supported type: only Wasm filters are discovered"),
    );
}

#[test]
fn typed_structs_are_known_by_what_they_hold() {
    let struct_of = |url: &str, inner: &str| {
        let length = u8::try_from(inner.len()).unwrap();
        let value = [&[0x0a, length], inner.as_bytes()].concat();
        super::http::inner_type(&outrigger_proto::pb::google::protobuf::Any { type_url: url.to_owned(), value })
    };
    let inner = "type.googleapis.com/stats.PluginConfig";
    assert_eq!(struct_of("type.googleapis.com/udpa.type.v1.TypedStruct", inner), "stats.PluginConfig");
    assert_eq!(struct_of("type.googleapis.com/xds.type.v3.TypedStruct", inner), "stats.PluginConfig");
    assert_eq!(struct_of("type.googleapis.com/a.B", inner), "a.B");
}

#[test]
fn bad_listeners_name_the_field() {
    let check = |fields: &str, expected: &str| assert_eq!(bad_manager(fields), expected, "{fields}");
    check(
        &format!("http_filters: [{ROUTER}]"),
        "filter_chains[0].filters[0].typed_config: has no routes: rds or route_config",
    );
    check(RDS, "http_filters: don't end with the router (envoy.filters.http.router)");
    let lua = "{name: lua, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.lua.v3.Lua}}";
    check(
        &format!("{RDS}, http_filters: [{lua}, {ROUTER}]"),
        "http_filters[0].typed_config: type envoy.extensions.filters.http.lua.v3.Lua is not supported",
    );
    check(&format!("{RDS}, http_filters: [{ROUTER}], add_user_agent: true"), "add_user_agent: is not supported");
    check(&format!("codec_type: HTTP3, {RDS}, http_filters: [{ROUTER}]"), "codec_type: HTTP3 is not supported");
    assert_eq!(bad(ResourceKind::Listener, "{name: l, default_filter_chain: {}}").lines().count(), 2);
}

#[test]
fn tcp_proxies() {
    let found = listener(
        "{name: l, address: {socket_address: {address: 0.0.0.0, port_value: 0}}, filter_chains: [{filters: [{name: t, \
         typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
         stat_prefix: t, weighted_clusters: {clusters: [{name: a, weight: 1}, {name: b, weight: 3}]}, \
         access_log: [{typed_config: {'@type': type.googleapis.com/envoy.extensions.access_loggers.stream.v3.\
         StdoutAccessLog, log_format: {json_format: {code: '%RESPONSE_CODE%', n: {x: 1}}, omit_empty_values: true}}}]}}]}]}",
    );
    assert_eq!(&*found.stat_prefix, "0.0.0.0_0");
    let NetworkFilter::Tcp(proxy) = &found.chains[0].filter else { panic!() };
    assert_eq!((proxy.clusters.len(), proxy.total_weight), (2, 4));
    assert_eq!(proxy.access_logs[0].sink, AccessLogSink::Stdout);
    let AccessLogFormat::Json(fields) = &proxy.access_logs[0].format else { panic!() };
    assert_eq!(fields.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>(), ["code", "n"]);
}

#[test]
fn extensions() {
    let remote = |fields: &str| {
        format!(
            "{{name: shop/keys, typed_config: {{'@type': {OWN_WASM}, limits: {{callback_timeout: 0.02s, memory_bytes: \
             1048576}}, config: {{failure_policy: FAIL_OPEN, vm_config: {{runtime: envoy.wasm.runtime.v8, code: {{remote: \
             {{http_uri: {{uri: 'http://h/m', cluster: modules, timeout: 5s}}, {fields}}}}}}}, configuration: {{'@type': \
             type.googleapis.com/google.protobuf.StringValue, value: hi}}}}}}}}"
        )
    };
    let digest = "0123456789abcdef".repeat(4);
    let accepted = good(ResourceKind::Extension, &remote(&format!("sha256: {digest}")));
    let Resource::Extension(extension) = accepted.resource else { panic!() };
    let ExtensionConfig { plugin, type_url, .. } = &*extension;
    assert_eq!((type_url.as_str(), &*plugin.name, &plugin.configuration[..]), (OWN_WASM, "shop/keys", &b"hi"[..]));
    assert_eq!(
        (plugin.vm.limits.callback_timeout, plugin.vm.limits.memory_bytes),
        (Duration::from_millis(20), 1 << 20)
    );
    assert_eq!(plugin.failure_policy, FailurePolicy::Open);
    assert_eq!(plugin.vm.code.sha256.unwrap()[..3], [0x01, 0x23, 0x45]);
    let reason = bad(ResourceKind::Extension, &remote("sha256: abc"));
    assert_eq!(
        reason,
        "typed_config.config.vm_config.code.remote.sha256: is not a SHA-256 digest of 64 hexadecimal digits"
    );
    let large = remote(&format!("sha256: {digest}")).replace("1048576", "67108865");
    good(ResourceKind::Extension, &large);
    let reason = bad(ResourceKind::Extension, &large.replace("limits:", "isolation: ISOLATION_STREAM, limits:"));
    assert_eq!(
        reason,
        "typed_config.limits.memory_bytes: is more than 67108864, which a stream's own instance can have"
    );
    let other = "{name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC}}";
    assert!(bad(ResourceKind::Extension, other).contains("rbac.v3.RBAC is not supported"));
}

#[test]
fn machine_code_lies_beside_remote_code() {
    let remote = format!(
        "{{remote: {{http_uri: {{uri: 'http://h/m', cluster: modules, timeout: 5s}}, sha256: {}}}}}",
        "0123456789abcdef".repeat(4)
    );
    let extension = |code: &str, uri: &str| {
        format!(
            "{{name: shop/keys, typed_config: {{'@type': {OWN_WASM}, machine_code_uri: '{uri}', config: {{vm_config: \
             {{code: {code}}}}}}}}}"
        )
    };
    let accepted = good(ResourceKind::Extension, &extension(&remote, "http://h/c"));
    let Resource::Extension(found) = accepted.resource else { panic!() };
    let CodeSource::Remote(code) = &found.plugin.vm.code.source else { panic!() };
    assert_eq!(code.machine_code.as_deref(), Some("http://h/c"));
    assert!(bad(ResourceKind::Extension, &extension(&remote, "file:///c")).contains("machine_code_uri: is no http://"));
    let local = "{local: {inline_string: x}}";
    assert!(bad(ResourceKind::Extension, &extension(local, "http://h/c")).contains("needs remote code"));
}

#[test]
fn what_is_unreadable_has_no_name() {
    let source = Source::Ads;
    for kind in ResourceKind::ALL {
        let invalid = super::decode(kind, &[0xff, 0xff, 0xff], &source, &Arc::from("")).unwrap_err();
        assert_eq!(invalid.name, None);
        assert!(invalid.reason().starts_with("malformed message"), "{}", invalid.reason());
    }
}

#[test]
fn rollouts() {
    let wasm = |vm: &str, more: &str| {
        format!("{{'@type': {OWN_WASM}, config: {{vm_config: {{code: {{local: {{inline_string: {vm}}}}}}}}}{more}}}")
    };
    let candidate = "config: {vm_config: {code: {local: {inline_string: b}}}}, revision: r2";
    let extension =
        |rollout: &str| format!("{{name: f, typed_config: {}}}", wasm("a", &format!(", rollout: {rollout}")));
    let with = |fields: &str| extension(&format!("{{id: try, candidate: {{{candidate}}}, {fields}}}"));
    let found = |yaml: &str| {
        let Resource::Extension(extension) = good(ResourceKind::Extension, yaml).resource else { panic!() };
        extension.rollout.clone().unwrap()
    };
    let rollout = found(&with("share: 2500, guardrails: {trap_rate: 0.001, error_rate: 0, added_latency: 0.005s}"));
    assert_eq!((&*rollout.id, rollout.share), ("try", RolloutShare::Of10k(2500)));
    let Guardrails { trap_rate, error_rate, added_latency } = rollout.guardrails;
    assert_eq!((trap_rate, error_rate, added_latency), (Some(1000), Some(0), Some(Duration::from_millis(5))));
    assert_eq!((&*rollout.candidate.vm.revision, rollout.candidate.vm.shadow), ("r2", false));
    let shadow = found(&with("shadow: true"));
    assert!(shadow.share == RolloutShare::Shadow && shadow.candidate.vm.shadow);
    assert_eq!(found(&with("shadow: true, shadow_only: true")).share, RolloutShare::ShadowOnly);
    for (yaml, problem) in [
        (with("share: 10001"), "rollout.share: is more than 10000"),
        (with("shadow_only: true"), "rollout.shadow_only: is set without shadow"),
        (with("guardrails: {trap_rate: 1.5}"), "rollout.guardrails.trap_rate: is not a share"),
        (extension("{id: try, share: 1}"), "rollout.candidate: is required"),
        (extension(&format!("{{candidate: {{{candidate}}}}}")), "rollout.id: is not a name"),
        (
            extension(&format!(
                "{{id: try, candidate: {{{candidate}, rollout: {{id: x, candidate: {{{candidate}}}}}}}}}"
            )),
            "rollout.candidate.rollout: a rollout has no rollout",
        ),
    ] {
        let reason = bad(ResourceKind::Extension, &yaml);
        assert!(reason.contains(problem), "{problem}: {reason}");
    }
}

mod upstream;
