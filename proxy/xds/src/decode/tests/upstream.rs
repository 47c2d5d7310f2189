//! Balancing, outlier detection, health checks and pools of clusters.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    Cluster, Discovery, DnsFamily, HashFunction, HealthCheckKind, LbPolicy, Protocol, ResourceKind, SelectorFallback,
    SubsetFallback,
};

use super::{bad, cluster};

fn with(fields: &str) -> Cluster {
    let found = cluster(&format!("{{name: a, load_assignment: {{cluster_name: a}}, {fields}}}"));
    Arc::into_inner(found).unwrap()
}

fn refused(fields: &str) -> String {
    bad(ResourceKind::Cluster, &format!("{{name: a, load_assignment: {{cluster_name: a}}, {fields}}}"))
}

fn typed(name: &str, version: &str, fields: &str) -> String {
    format!(
        "load_balancing_policy: {{policies: [{{typed_extension_config: {{name: x, typed_config: \
         {{'@type': type.googleapis.com/{name}.{version}{fields}}}}}}}]}}"
    )
}

const POLICIES: &str = "envoy.extensions.load_balancing_policies";

#[test]
fn policies_in_both_forms() {
    let ring = LbPolicy::RingHash { function: HashFunction::Murmur2, ring_size_min: 2, ring_size_max: 8 << 20 };
    let found = with("lb_policy: RING_HASH, ring_hash_lb_config: {hash_function: MURMUR_HASH_2, minimum_ring_size: 2}");
    assert_eq!(found.lb, ring);
    let fields = ", hash_function: MURMUR_HASH_2, minimum_ring_size: 2, consistent_hashing_lb_config: \
                  {use_hostname_for_hashing: true, hash_balance_factor: 150}";
    let found = with(&typed(&format!("{POLICIES}.ring_hash.v3"), "RingHash", fields));
    let options = found.lb_options.as_ref().unwrap();
    assert_eq!((found.lb, options.hash_by_hostname, options.hash_balance_percent), (ring, true, Some(150)));
    assert_eq!(with("lb_policy: MAGLEV").lb, LbPolicy::Maglev { table_size: 65_537 });
    let found =
        with(&typed(&format!("{POLICIES}.maglev.v3"), "Maglev", ", table_size: 11, locality_weighted_lb_config: {}"));
    assert_eq!((found.lb, found.lb_options.unwrap().locality_weighted), (LbPolicy::Maglev { table_size: 11 }, true));
    let found = with(&typed("outrigger.load_balancing_policies.peak_ewma.v1", "PeakEwma", ", decay_time: 3s"));
    let LbPolicy::PeakEwma(config) = found.lb else { panic!("{:?}", found.lb) };
    assert_eq!((config.choices, config.decay), (2, Duration::from_secs(3)));
    let found = with(
        "lb_policy: LEAST_REQUEST, least_request_lb_config: {active_request_bias: {default_value: 0.5, runtime_key: x}, \
         slow_start_config: {slow_start_window: 60s, aggression: {default_value: 2, runtime_key: x}}}",
    );
    let LbPolicy::LeastRequest { choices: 2, full_scan: false, active_request_bias } = found.lb else { panic!() };
    let slow = found.lb_options.unwrap().slow_start.unwrap();
    assert_eq!((active_request_bias.get(), slow.aggression.get(), slow.min_weight_millis), (0.5, 2.0, 10_000));
    assert!(with("lb_policy: ROUND_ROBIN").lb_options.is_none());

    for (fields, path) in [
        ("lb_policy: MAGLEV, maglev_lb_config: {table_size: 12}", "maglev_lb_config.table_size: "),
        (
            "lb_policy: RING_HASH, ring_hash_lb_config: {maximum_ring_size: 7}",
            "ring_hash_lb_config.minimum_ring_size: ",
        ),
        ("lb_policy: CLUSTER_PROVIDED", "lb_policy: "),
        ("common_lb_config: {healthy_panic_threshold: {value: 101}}", "common_lb_config.healthy_panic_threshold: "),
        ("load_balancing_policy: {}", "load_balancing_policy.policies: names no supported policy"),
    ] {
        assert!(refused(fields).starts_with(path), "{fields}: {}", refused(fields));
    }
}

#[test]
fn panic_localities_and_subsets() {
    let found = with("common_lb_config: {healthy_panic_threshold: {value: 0}, locality_weighted_lb_config: {}}");
    let options = found.lb_options.unwrap();
    assert_eq!((options.panic_millis, options.locality_weighted), (0, true));
    let subset = "{fallback_policy: DEFAULT_SUBSET, default_subset: {stage: prod}, subset_selectors: [{keys: [v, stage, v]}, \
                  {keys: [stage, v, w], fallback_policy: KEYS_SUBSET, fallback_keys_subset: [v]}]";
    let legacy = with(&format!("lb_subset_config: {subset}}}")).lb_options.unwrap().subsets.unwrap();
    let keys: Vec<&str> = legacy.selectors[0].keys.iter().map(|key| &**key).collect();
    assert_eq!((legacy.fallback, &keys[..]), (SubsetFallback::DefaultSubset, &["stage", "v"][..]));
    assert_eq!(legacy.selectors[1].fallback, Some(SelectorFallback::Keys(vec!["v".into()])));
    let inner = typed(&format!("{POLICIES}.random.v3"), "Random", "");
    let nested = inner.replacen("load_balancing_policy", "subset_lb_policy", 1);
    let found = with(&typed(&format!("{POLICIES}.subset.v3"), "Subset", &format!(", {}, {nested}", &subset[1..])));
    assert_eq!((found.lb, found.lb_options.unwrap().subsets), (LbPolicy::Random, Some(legacy)));
    let nested = inner.replacen("load_balancing_policy", "endpoint_picking_policy", 1);
    let found = with(&typed(&format!("{POLICIES}.wrr_locality.v3"), "WrrLocality", &format!(", {nested}")));
    assert!(found.lb_options.unwrap().locality_weighted);
    let bad = "lb_subset_config: {subset_selectors: [{keys: []}]}";
    assert_eq!(refused(bad), "lb_subset_config.subset_selectors[0].keys: is required");
}

#[test]
fn outliers_and_health_checks() {
    let found = with(
        "outlier_detection: {consecutive_5xx: 3, base_ejection_time: 400s, max_ejection_percent: 100, \
         enforcing_consecutive_gateway_failure: 50}",
    );
    let outlier = found.outlier.unwrap();
    assert_eq!((outlier.consecutive_5xx.threshold, outlier.max_ejection_time), (3, Duration::from_secs(400)));
    assert_eq!((outlier.consecutive_gateway_failure.enforcing, outlier.max_ejection_percent), (50, 100));
    assert!(
        refused("outlier_detection: {max_ejection_percent: 101}").starts_with("outlier_detection.max_ejection_percent")
    );

    let check = |kind: &str| {
        format!("health_checks: [{{timeout: 1s, interval: 5s, unhealthy_threshold: 2, healthy_threshold: 1, {kind}}}]")
    };
    let found = with(&check(
        "http_health_check: {path: /healthz, host: h, codec_client_type: HTTP2, method: HEAD, expected_statuses: \
         [{start: 200, end: 300}], request_headers_to_add: [{header: {key: x-a, value: b}}]}, unhealthy_interval: 1s",
    ));
    let found = found.health_check.unwrap();
    let HealthCheckKind::Http(http) = &found.kind else { panic!() };
    assert_eq!(
        (&http.path[..], http.protocol, &http.expected[..]),
        (&b"/healthz"[..], Protocol::Http2, &[(200, 300)][..])
    );
    assert_eq!((found.unhealthy_edge_interval, found.healthy_edge_interval).0, Duration::from_secs(1));
    assert_eq!(found.no_traffic_healthy_interval, Duration::from_secs(60));
    let found = with(&check("tcp_health_check: {send: {text: '50494E47'}, receive: [{text: '2b50'}]}"));
    let HealthCheckKind::Tcp(tcp) = &found.health_check.unwrap().kind else { panic!() };
    assert_eq!((&tcp.send[..], &tcp.receive[0][..]), (&b"PING"[..], &b"+P"[..]));
    let found = with(&check("grpc_health_check: {service_name: s}"));
    assert!(matches!(&found.health_check.unwrap().kind, HealthCheckKind::Grpc(grpc) if &*grpc.service == "s"));
    for (kind, path) in [
        ("http_health_check: {path: healthz}", "health_checks[0].http_health_check.path"),
        (
            "http_health_check: {path: /, expected_statuses: [{start: 50, end: 60}]}",
            "health_checks[0].http_health_check.expected",
        ),
        ("tcp_health_check: {send: {text: abc}}", "health_checks[0].tcp_health_check.send.text"),
        ("interval_jitter_percent: 5", "health_checks[0]: names no health checker"),
    ] {
        assert!(refused(&check(kind)).starts_with(path), "{kind}: {}", refused(&check(kind)));
    }
    assert!(refused("health_checks: [{tcp_health_check: {}}]").contains("health_checks[0].timeout: is required"));
}

#[test]
fn keepalive_of_http2() {
    let options = |keepalive: &str| {
        format!(
            "typed_extension_protocol_options: {{envoy.extensions.upstreams.http.v3.HttpProtocolOptions: {{'@type': \
             type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions, explicit_http_config: \
             {{http2_protocol_options: {{connection_keepalive: {keepalive}}}}}}}}}"
        )
    };
    let found = with(&options("{interval: 30s, timeout: 5s}")).http.http2.keepalive.unwrap();
    assert_eq!((found.interval, found.timeout), (Duration::from_secs(30), Duration::from_secs(5)));
    assert!(refused(&options("{interval: 30s}")).contains("connection_keepalive.timeout: is required"));
}

fn dns(fields: &str) -> String {
    format!(
        "{{name: a, {fields}, load_assignment: {{cluster_name: a, endpoints: [{{priority: 1, lb_endpoints: [{{endpoint: \
         {{address: {{socket_address: {{address: svc.test, port_value: 80}}}}}}}}]}}]}}}}"
    )
}

#[test]
fn clusters_that_are_resolved() {
    let found = cluster(&dns(
        "type: STRICT_DNS, dns_lookup_family: V4_PREFERRED, respect_dns_ttl: true, dns_refresh_rate: 2s, \
         dns_failure_refresh_rate: {base_interval: 1s}, use_tcp_for_dns_lookups: true, dns_resolvers: [{socket_address: \
         {address: 10.0.0.53, port_value: 5353}}]",
    ));
    let Discovery::Dns(targets) = &found.discovery else { panic!() };
    let target = targets.endpoints().next().unwrap();
    assert_eq!(
        (&*target.host, target.template.address.port(), targets.localities[0].place.priority),
        ("svc.test", 80, 1)
    );
    let options = &targets.options;
    assert_eq!((options.family, options.respect_ttl, targets.logical), (DnsFamily::V4Preferred, true, false));
    assert_eq!(options.failure_refresh, Some((Duration::from_secs(1), Duration::from_secs(10))));
    let resolver = options.resolver.as_ref().unwrap();
    assert_eq!((resolver.servers[0].to_string().as_str(), resolver.use_tcp), ("10.0.0.53:5353", true));

    let typed = "cluster_type: {name: envoy.clusters.dns, typed_config: {'@type': type.googleapis.com/\
                 envoy.extensions.clusters.dns.v3.DnsCluster, all_addresses_in_single_endpoint: true, dns_refresh_rate: 3s, \
                 typed_dns_resolver_config: {name: x, typed_config: {'@type': type.googleapis.com/envoy.extensions.network.\
                 dns_resolver.hickory.v3.HickoryDnsResolverConfig, query_tries: 2}}}}";
    let found = cluster(&dns(typed));
    let Discovery::Dns(targets) = &found.discovery else { panic!() };
    assert_eq!((targets.logical, targets.options.refresh), (true, Duration::from_secs(3)));
    assert_eq!(targets.options.resolver.as_ref().unwrap().tries, Some(2));

    let reason = bad(ResourceKind::Cluster, "{name: a, type: LOGICAL_DNS, load_assignment: {cluster_name: a}}");
    assert_eq!(reason, "load_assignment: has not exactly one endpoint, as LOGICAL_DNS asks for");
    let reason = bad(ResourceKind::Cluster, &dns("type: STRICT_DNS, dns_refresh_rate: 0s"));
    assert_eq!(reason, "dns_refresh_rate: is less than a millisecond");
}

#[test]
fn original_destinations_and_where_connections_come_from() {
    use outrigger_config::{Discovery, OriginalDst, SocketOption};
    let found = super::cluster(
        "{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, cleanup_interval: 9s, original_dst_lb_config: \
         {upstream_port_override: 81}, upstream_bind_config: {source_address: {address: 127.0.0.6, port_value: 0}, freebind: \
         true, extra_source_addresses: [{address: {address: '::6', port_value: 0}}], socket_options: [{level: 1, name: 36, \
         int_value: 1337}]}}",
    );
    let cleanup_interval = std::time::Duration::from_secs(9);
    assert_eq!(found.discovery, Discovery::OriginalDst(OriginalDst { port: Some(81), cleanup_interval }));
    let bind = found.bind.as_ref().unwrap();
    assert_eq!(bind.sources, ["127.0.0.6:0".parse().unwrap(), "[::6]:0".parse().unwrap()]);
    assert!(bind.freebind && bind.options == [SocketOption::Mark(1337)]);
    let reason = super::bad(outrigger_config::ResourceKind::Cluster, "{name: a, type: ORIGINAL_DST}");
    assert_eq!(reason, "lb_policy: is not CLUSTER_PROVIDED, as it must be for an ORIGINAL_DST cluster");
    let reason = super::bad(
        outrigger_config::ResourceKind::Cluster,
        "{name: a, type: ORIGINAL_DST, lb_policy: CLUSTER_PROVIDED, original_dst_lb_config: {use_http_header: true}}",
    );
    assert!(reason.starts_with("original_dst_lb_config"), "{reason}");
}
