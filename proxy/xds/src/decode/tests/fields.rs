//! Groups of fields of one type, each with a value of its own: if two were swapped, it would show.

use std::time::Duration;

use outrigger_config::{
    Backoff, CodeSource, Discovery, EndpointHealthCheck, FailurePercentage, HealthCheckKind, Http2Keepalive,
    HttpFilterKind, Limits, OutlierDetection, ResourceKind, Rule, Share, SuccessRate,
};

use super::{OWN_WASM, ROUTER, assignment, bad, cluster, listener, manager};

const fn secs(seconds: u64) -> Duration {
    Duration::from_secs(seconds)
}

fn with(fields: &str) -> std::sync::Arc<outrigger_config::Cluster> {
    cluster(&format!("{{name: a, load_assignment: {{cluster_name: a}}, {fields}}}"))
}

#[test]
fn outlier_detection() {
    let found = with(
        "outlier_detection: {consecutive_5xx: 1, interval: 2s, base_ejection_time: 3s, max_ejection_percent: 4, \
         enforcing_consecutive_5xx: 5, enforcing_success_rate: 6, success_rate_minimum_hosts: 7, \
         success_rate_request_volume: 8, success_rate_stdev_factor: 9, consecutive_gateway_failure: 10, \
         enforcing_consecutive_gateway_failure: 11, split_external_local_origin_errors: true, \
         consecutive_local_origin_failure: 12, enforcing_consecutive_local_origin_failure: 13, \
         enforcing_local_origin_success_rate: 14, failure_percentage_threshold: 15, enforcing_failure_percentage: 16, \
         enforcing_failure_percentage_local_origin: 17, failure_percentage_minimum_hosts: 18, \
         failure_percentage_request_volume: 19, max_ejection_time: 20s, max_ejection_time_jitter: 21s, \
         successful_active_health_check_uneject_host: false, always_eject_one_host: true}",
    );
    let expected = OutlierDetection {
        interval: secs(2),
        base_ejection_time: secs(3),
        max_ejection_time: secs(20),
        max_ejection_time_jitter: secs(21),
        max_ejection_percent: 4,
        always_eject_one: true,
        consecutive_5xx: Rule { threshold: 1, enforcing: 5 },
        consecutive_gateway_failure: Rule { threshold: 10, enforcing: 11 },
        consecutive_local_origin_failure: Rule { threshold: 12, enforcing: 13 },
        split: true,
        success_rate: SuccessRate {
            minimum_hosts: 7,
            request_volume: 8,
            stdev_factor: 9,
            enforcing: 6,
            enforcing_local_origin: 14,
        },
        failure_percentage: FailurePercentage {
            threshold: 15,
            minimum_hosts: 18,
            request_volume: 19,
            enforcing: 16,
            enforcing_local_origin: 17,
        },
        uneject_when_healthy: false,
    };
    assert_eq!(found.outlier.as_deref(), Some(&expected));
    assert_eq!(with("outlier_detection: {}").outlier.as_deref(), Some(&OutlierDetection::default()));
}

#[test]
fn health_checks() {
    let found = with(
        "health_checks: [{timeout: 1s, interval: 2s, initial_jitter: 3s, interval_jitter: 4s, interval_jitter_percent: 5, \
         unhealthy_threshold: 6, healthy_threshold: 7, alt_port: 8, reuse_connection: false, no_traffic_interval: 9s, \
         no_traffic_healthy_interval: 10s, unhealthy_interval: 11s, unhealthy_edge_interval: 12s, healthy_edge_interval: 13s, \
         http_health_check: {path: /p, host: h, expected_statuses: [{start: 201, end: 202}, {start: 300, end: 303}], \
         retriable_statuses: [{start: 500, end: 504}]}}], close_connections_on_host_health_failure: true, common_lb_config: \
         {ignore_new_hosts_until_first_hc: true}",
    );
    let check = found.health_check.as_ref().unwrap();
    assert_eq!((check.timeout, check.interval), (secs(1), secs(2)));
    assert_eq!((check.initial_jitter, check.interval_jitter, check.interval_jitter_percent), (secs(3), secs(4), 5));
    assert_eq!((check.unhealthy_threshold, check.healthy_threshold), (6, 7));
    assert_eq!((check.port, check.reuse_connection), (Some(8), false));
    assert_eq!((check.no_traffic_interval, check.no_traffic_healthy_interval), (secs(9), secs(10)));
    assert_eq!(check.unhealthy_interval, secs(11));
    assert_eq!((check.unhealthy_edge_interval, check.healthy_edge_interval), (secs(12), secs(13)));
    let HealthCheckKind::Http(http) = &check.kind else { panic!() };
    assert_eq!((&http.path[..], &http.host[..]), (&b"/p"[..], &b"h"[..]));
    assert_eq!((&http.expected[..], &http.retriable[..]), (&[(201, 202), (300, 303)][..], &[(500, 504)][..]));
    let options = found.lb_options.as_ref().unwrap();
    let flags = (
        found.close_connections_on_health_failure,
        options.close_connections_on_change,
        options.ignore_new_until_checked,
    );
    assert_eq!(flags, (true, false, true));
    let found = with("common_lb_config: {close_connections_on_host_set_change: true}");
    let options = found.lb_options.as_ref().unwrap();
    let flags = (
        found.close_connections_on_health_failure,
        options.close_connections_on_change,
        options.ignore_new_until_checked,
    );
    assert_eq!(flags, (false, true, false));
}

#[test]
fn endpoints_that_are_checked_elsewhere() {
    let at = |port: u16| format!("{{socket_address: {{address: 127.0.0.1, port_value: {port}}}}}");
    let found = assignment(&format!(
        "{{cluster_name: a, policy: {{overprovisioning_factor: 150, weighted_priority_health: true}}, endpoints: \
         [{{lb_endpoints: [{{endpoint: {{address: {}, health_check_config: {{port_value: 2, hostname: h, address: {}, \
         disable_active_health_check: true}}}}}}]}}]}}",
        at(1),
        at(3)
    ));
    assert!(found.policy.weighted_priority_health);
    assert_eq!(found.policy.overprovisioning_percent, 150);
    let expected = EndpointHealthCheck {
        port: Some(2),
        address: Some("127.0.0.1:3".parse().unwrap()),
        hostname: "h".into(),
        disabled: true,
    };
    assert_eq!(found.endpoints().next().unwrap().health_check.as_deref(), Some(&expected));
}

#[test]
fn http2() {
    let found = manager(&format!(
        "http2_protocol_options: {{max_concurrent_streams: 7, initial_stream_window_size: 70000, \
         initial_connection_window_size: 80000, connection_keepalive: {{interval: 3s, timeout: 4s, interval_jitter: {{value: 5}}}}}}, \
         http_filters: [{ROUTER}], route_config: {{name: r}}"
    ));
    let http2 = found.http2;
    assert_eq!(
        (http2.max_concurrent_streams, http2.initial_stream_window_bytes, http2.initial_connection_window_bytes),
        (7, 70_000, 80_000)
    );
    let keepalive = Http2Keepalive { interval: secs(3), timeout: secs(4), jitter_millis: 5_000 };
    assert_eq!(http2.keepalive, Some(keepalive));
}

#[test]
fn clients() {
    let found = manager(&format!(
        "use_remote_address: true, xff_num_trusted_hops: 3, skip_xff_append: true, http_filters: [{ROUTER}], route_config: \
         {{name: r}}"
    ));
    let forwarded = (found.use_remote_address, found.xff_num_trusted_hops, found.skip_xff_append);
    assert_eq!(forwarded, (true, 3, true));
    let ids = (found.preserve_external_request_id, found.always_set_request_id_in_response, found.generate_request_id);
    assert_eq!(ids, (false, false, true));
    let found = manager(&format!(
        "preserve_external_request_id: true, strip_matching_host_port: true, stream_idle_timeout: 1s, request_timeout: 2s, \
         request_headers_timeout: 3s, common_http_protocol_options: {{idle_timeout: 4s, max_connection_duration: 5s, \
         max_stream_duration: 6s, max_requests_per_connection: 7}}, http_filters: [{ROUTER}], route_config: {{name: r}}"
    ));
    let ids = (found.preserve_external_request_id, found.always_set_request_id_in_response);
    assert_eq!((ids, found.skip_xff_append), ((true, false), false));
    assert_eq!((found.path.strip_matching_host_port, found.path.strip_any_host_port), (true, false));
    let times = [found.stream_idle_timeout, found.request_timeout, found.request_headers_timeout];
    assert_eq!(times, [1, 2, 3].map(|seconds| Some(secs(seconds))));
    let times = [found.idle_timeout, found.max_connection_duration, found.max_stream_duration];
    assert_eq!((times, found.max_requests_per_connection), ([4, 5, 6].map(|seconds| Some(secs(seconds))), Some(7)));
}

#[test]
fn traces() {
    let collector = "{name: o, typed_config: {'@type': type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig, \
                     service_name: s, max_cache_size: 9, grpc_service: {envoy_grpc: {cluster_name: c}, timeout: 8s}}}";
    let found = manager(&format!(
        "tracing: {{provider: {collector}, client_sampling: {{value: 1}}, random_sampling: {{value: 2}}, overall_sampling: \
         {{value: 3}}, max_path_tag_length: 4}}, http_filters: [{ROUTER}], route_config: {{name: r}}"
    ));
    let tracing = found.tracing.as_ref().unwrap();
    let shares = [tracing.client_sampling, tracing.random_sampling, tracing.overall_sampling];
    assert_eq!(shares, [1.0, 2.0, 3.0].map(Share::from_percent));
    assert_eq!((tracing.path_bytes_max, tracing.tracer.spans_max, tracing.tracer.timeout), (4, 9, secs(8)));
    assert_eq!((&*tracing.tracer.service_name, &*tracing.tracer.cluster), ("s", "c"));
}

#[test]
fn limits_of_plugins() {
    let found = manager(&format!(
        "http_filters: [{{name: w, typed_config: {{'@type': {OWN_WASM}, limits: {{callback_timeout: 1s, start_timeout: 2s, \
         memory_bytes: 3000000, body_buffer_bytes: 4, log_bytes_per_second: 5, hostcalls_per_callback: 6, shared_data_bytes: \
         7, http_calls_pending: 8, recycle_memory_bytes: 9, recycle_streams: 10, shared_queues: 11, shared_queue_bytes: 12, \
         shared_queue_messages: 13}}, config: {{vm_config: {{runtime: \
         envoy.wasm.runtime.v8, code: {{local: {{inline_string: x}}}}}}}}}}}}, {ROUTER}], route_config: {{name: r}}"
    ));
    let HttpFilterKind::Wasm(plugin) = &found.filters[0].kind else { panic!("{:?}", found.filters) };
    let expected = Limits {
        callback_timeout: secs(1),
        start_timeout: secs(2),
        memory_bytes: 3_000_000,
        body_buffer_bytes: 4,
        log_bytes_per_second: 5,
        hostcalls_per_callback: 6,
        shared_data_bytes: 7,
        shared_queues: 11,
        shared_queue_bytes: 12,
        shared_queue_messages: 13,
        http_calls_pending: 8,
        recycle_memory_bytes: 9,
        recycle_streams: Some(10),
    };
    assert_eq!(plugin.vm.limits, expected);
}

#[test]
fn names_and_their_resolvers() {
    let found = cluster(
        "{name: a, type: STRICT_DNS, dns_refresh_rate: 5s, dns_jitter: 4s, typed_dns_resolver_config: {name: x, typed_config: \
         {'@type': type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig, \
         query_timeout_seconds: 2, query_tries: 3, resolvers: [{socket_address: {address: 10.0.0.53, port_value: 53}}]}}, \
         load_assignment: {cluster_name: a, endpoints: [{lb_endpoints: [{endpoint: {address: {socket_address: {address: b.test, \
         port_value: 80}}}}]}]}}",
    );
    let Discovery::Dns(targets) = &found.discovery else { panic!() };
    assert_eq!((targets.options.refresh, targets.options.jitter), (secs(5), secs(4)));
    let resolver = targets.options.resolver.as_ref().unwrap();
    assert_eq!((resolver.timeout, resolver.tries, resolver.use_tcp), (Some(secs(2)), Some(3), false));
}

#[test]
fn sockets_of_listeners() {
    let plain = |fields: &str| {
        format!(
            "{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, {fields} filter_chains: [{{filters: \
             [{{name: t, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, \
             stat_prefix: t, cluster: c}}}}]}}]}}"
        )
    };
    let found =
        listener(&plain("tcp_backlog_size: 7, per_connection_buffer_limit_bytes: 8, ignore_global_conn_limit: true,"));
    assert_eq!((found.backlog, found.per_connection_buffer_limit_bytes), (7, Some(8)));
    assert_eq!((found.ignores_connection_limit, found.bypasses_overload), (true, false));
    let found = listener(&plain("bypass_overload_manager: true,"));
    assert_eq!((found.ignores_connection_limit, found.bypasses_overload), (false, true));
    let reason = bad(ResourceKind::Listener, &plain("tcp_backlog_size: 0,"));
    assert!(reason.starts_with("tcp_backlog_size: "), "{reason}");
}

/// `max_direct_response_body_size_bytes`: 4 KiB unless set, as in Envoy.
#[test]
fn direct_responses_are_bounded() {
    let routes = |fields: &str, bytes: usize| {
        let body = "x".repeat(bytes);
        format!(
            "{{name: r, {fields} virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, direct_response: \
             {{status: 200, body: {{inline_string: {body}}}}}}}]}}]}}"
        )
    };
    let take = |fields: &str, bytes: usize| super::decode_yaml(ResourceKind::Route, &routes(fields, bytes)).is_ok();
    assert!(take("", 4096) && !take("", 4097));
    let bound = "max_direct_response_body_size_bytes: 7,";
    assert!(take(bound, 7) && !take(bound, 8));
    let place = "virtual_hosts[0].routes[0].direct_response.body";
    let reason = bad(ResourceKind::Route, &routes(bound, 8));
    assert!(reason.starts_with(place), "{reason}");
}

#[test]
fn fetches_of_code() {
    let filter = |retry_policy: &str| {
        format!(
            "{{name: w, typed_config: {{'@type': {OWN_WASM}, config: {{vm_config: {{code: {{remote: {{http_uri: {{uri: \
             'https://h/m', cluster: modules, timeout: 5s}}, sha256: {}, retry_policy: {retry_policy}}}}}}}}}}}}}",
            "0123456789abcdef".repeat(4)
        )
    };
    let remote = |retry_policy: &str| {
        let found = manager(&format!("http_filters: [{}, {ROUTER}], route_config: {{name: r}}", filter(retry_policy)));
        let HttpFilterKind::Wasm(plugin) = &found.filters[0].kind else { panic!("{:?}", found.filters) };
        let CodeSource::Remote(remote) = &plugin.vm.code.source else { panic!("{plugin:?}") };
        remote.clone()
    };
    let found = remote("{num_retries: 3, retry_back_off: {base_interval: 4s, max_interval: 9s}}");
    assert_eq!((found.uri.as_str(), &*found.cluster, found.timeout), ("https://h/m", "modules", secs(5)));
    assert_eq!((found.retries, found.backoff), (3, Backoff { base: secs(4), max: secs(9) }));
    let found = remote("{retry_back_off: {base_interval: 4s}}");
    assert_eq!((found.retries, found.backoff), (1, Backoff { base: secs(4), max: secs(40) }));
    assert_eq!(remote("{}").backoff, Backoff { base: secs(1), max: secs(10) });
    for (wrong, reason) in [
        ("{max_interval: 1s}", "retry_policy.retry_back_off.base_interval: is required, from 1 ms to 600 s"),
        ("{base_interval: 0s}", "base_interval: is required"),
        ("{base_interval: 2s, max_interval: 1s}", "retry_back_off.max_interval: is less than base_interval"),
    ] {
        let told = bad(ResourceKind::Extension, &filter(&format!("{{retry_back_off: {wrong}}}")));
        assert!(told.contains(reason), "{told}");
    }
}
