//! Bootstraps, by example.

use outrigger_config::ResourceKind;

use super::{ApiVariant, Bootstrap, BootstrapOptions, ResourceSource, decode_bootstrap};
use crate::testing::{cluster_yaml, message};

fn decode(yaml: &str) -> Result<Bootstrap, Vec<String>> {
    let options = BootstrapOptions { service_node: Some("me".to_owned()), ..BootstrapOptions::default() };
    decode_bootstrap(&message("envoy.config.bootstrap.v3.Bootstrap", yaml), &options)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect())
}

#[test]
fn a_bootstrap_with_everything() {
    let yaml = format!(
        "{{node: {{id: n, cluster: c}}, admin: {{address: {{socket_address: {{address: 127.0.0.1, port_value: 0}}}}}}, \
         layered_runtime: {{layers: [{{name: x, static_layer: {{a: 1}}}}]}}, static_resources: {{clusters: [{}]}}, \
         dynamic_resources: {{ads_config: {{api_type: DELTA_GRPC, transport_api_version: V3, grpc_services: \
         [{{envoy_grpc: {{cluster_name: xds}}, initial_metadata: [{{key: k, value: v}}]}}]}}, cds_config: {{ads: {{}}}}, \
         lds_config: {{path_config_source: {{path: /l.yaml, watched_directory: {{path: /w}}}}}}}}}}",
        cluster_yaml("xds", 18000)
    );
    let found = decode(&yaml).unwrap();
    assert_eq!((found.node.id.as_str(), found.node.cluster.as_str()), ("me", "c"));
    assert_eq!(found.node.user_agent_name, "outrigger");
    assert_eq!(found.admin.as_ref().unwrap().address.to_string(), "127.0.0.1:0");
    let ads = found.ads.as_ref().unwrap();
    assert_eq!((ads.variant, &*ads.cluster, ads.authority.as_str()), (ApiVariant::Delta, "xds", "xds"));
    assert_eq!(ads.initial_metadata, [("k".to_owned(), "v".to_owned())]);
    assert_eq!(found.cds, Some(ResourceSource::Ads));
    let [file] = &found.files()[..] else { panic!() };
    assert_eq!(
        (file.kind, &*file.path, file.watched_directory.as_deref()),
        (ResourceKind::Listener, "/l.yaml", Some("/w"))
    );
    let counts: Vec<_> = found.static_resources.iter().map(|update| (update.kind, update.upserts.len())).collect();
    assert_eq!(counts, [(ResourceKind::Cluster, 1), (ResourceKind::Listener, 0)]);
    let warnings: Vec<_> = found.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(warnings, ["layered_runtime.layers[0].static_layer[\"a\"]"]);
}

#[test]
fn every_problem_is_told_by_its_path() {
    let check = |yaml: &str, expected: &[&str]| assert_eq!(decode(yaml).unwrap_err(), expected, "{yaml}");
    check(
        "{static_resources: {clusters: [{name: a}, {name: b, type: LOGICAL_DNS}], listeners: [{name: l, filter_chains: \
         [{filters: [{name: x, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.filters.network.redis_proxy.v3.RedisProxy}}]}]}]}}",
        &[
            "static_resources.clusters[0].load_assignment: is required for a STATIC cluster",
            "static_resources.clusters[1].load_assignment: is required for a cluster that is resolved through DNS",
            "static_resources.listeners[0].address: is required",
            "static_resources.listeners[0].filter_chains[0].filters[0].typed_config: type \
             envoy.extensions.filters.network.redis_proxy.v3.RedisProxy is not supported",
        ],
    );
    check(
        &format!("{{static_resources: {{clusters: [{0}, {0}], secrets: [{{}}]}}}}", cluster_yaml("a", 1)),
        &[
            "static_resources.secrets[0].name: is required",
            "static_resources.secrets[0]: holds no secret",
            "static_resources.clusters[1].name: \"a\" stands here twice",
        ],
    );
    check(
        "{dynamic_resources: {cds_config: {ads: {}}}}",
        &["dynamic_resources.cds_config.ads: needs dynamic_resources.ads_config"],
    );
    let grpc = "grpc_services: [{envoy_grpc: {cluster_name: xds}}]";
    check(
        &format!("{{dynamic_resources: {{ads_config: {{api_type: REST, {grpc}}}}}}}"),
        &["dynamic_resources.ads_config.api_type: REST is not supported, only GRPC and DELTA_GRPC"],
    );
    check(
        &format!("{{dynamic_resources: {{ads_config: {{api_type: GRPC, {grpc}}}}}}}"),
        &[
            "dynamic_resources.ads_config.grpc_services[0].envoy_grpc.cluster_name: \"xds\" is no cluster of static_resources",
        ],
    );
    check("{admin: {allow_paths: [{exact: /ready}]}}", &["admin.allow_paths: is not supported"]);
}

#[test]
fn what_is_no_message_is_said_to_be_none() {
    let problems = decode_bootstrap(b"\xff\xff\xff", &BootstrapOptions::default()).unwrap_err();
    assert!(problems[0].message.starts_with("malformed message"), "{problems:?}");
}

/// Prints what the start with a large configuration costs.
#[test]
fn ten_thousand_clusters_and_routes_decode() {
    use std::fmt::Write;
    let mut yaml = String::from("static_resources:\n  clusters:\n");
    for number in 0..10_000 {
        let _ = writeln!(yaml, "  - {}", cluster_yaml(&format!("cluster-{number}"), 80));
    }
    yaml.push_str(
        "  listeners:\n  - name: l\n    address: {socket_address: {address: 127.0.0.1}}\n    filter_chains:\n    - filters:\n      \
         - name: hcm\n        typed_config:\n          '@type': type.googleapis.com/envoy.extensions.filters.network.\
         http_connection_manager.v3.HttpConnectionManager\n          stat_prefix: l\n          http_filters: [{name: r, \
         typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}]\n          \
         route_config:\n            name: r\n            virtual_hosts:\n            - name: v\n              domains: ['*']\n              \
         routes:\n",
    );
    for number in 0..10_000 {
        let _ = writeln!(
            yaml,
            "              - {{match: {{path_separated_prefix: /r{number}}}, route: {{cluster: cluster-{number}}}}}"
        );
    }
    let bytes = message("envoy.config.bootstrap.v3.Bootstrap", &yaml);
    // Nanoseconds on a CPU, where the system tells.
    let on_cpu = || {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        text.split(' ').next().and_then(|number| number.parse().ok()).unwrap_or(0_u64)
    };
    let start = on_cpu();
    let found = decode_bootstrap(&bytes, &BootstrapOptions::default()).unwrap();
    println!("{} kB: {} ms", bytes.len() / 1000, (on_cpu() - start) / 1_000_000);
    assert_eq!(found.static_resources[0].upserts.len(), 10_000);
    assert_eq!(found.warnings, []);
}

const MONITORS: &str = "resource_monitors: [{name: heap, typed_config: {'@type': \
    type.googleapis.com/envoy.extensions.resource_monitors.fixed_heap.v3.FixedHeapConfig, max_heap_size_bytes: 1000}}, \
    {name: cx, typed_config: {'@type': \
    type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig, \
    max_active_downstream_connections: 7}}]";

#[test]
fn an_overload_manager_says_what_is_shed() {
    use outrigger_config::{Action, OverloadManager};
    let yaml = format!(
        "{{overload_manager: {{refresh_interval: 0.5s, {MONITORS}, actions: [{{name: \
         envoy.overload_actions.stop_accepting_requests, triggers: [{{name: heap, scaled: {{scaling_threshold: 0.8, \
         saturation_threshold: 0.9}}}}]}}]}}}}"
    );
    let overload = decode(&yaml).unwrap().overload;
    assert_eq!((overload.refresh_interval.as_millis(), overload.max_downstream_connections), (500, Some(7)));
    let [action] = &overload.actions[..] else { panic!("{overload:?}") };
    assert_eq!(action.action, Action::StopAcceptingRequests);
    assert!((action.state(&[0.85]) - 0.5).abs() < 1e-9);
    assert_eq!(decode("{}").unwrap().overload, OverloadManager::default());
}

#[test]
fn an_overload_manager_that_would_not_act_is_refused() {
    let check = |fields: &str, expected: &str| {
        let problems = decode(&format!("{{overload_manager: {{{MONITORS}, {fields}}}}}")).unwrap_err();
        assert!(problems.iter().any(|problem| problem.contains(expected)), "{fields}: {problems:?}");
    };
    check("actions: [{name: envoy.overload_actions.reset_high_memory_stream}]", "actions[0].name:");
    let action =
        |trigger: &str| format!("actions: [{{name: envoy.overload_actions.shrink_heap, triggers: [{trigger}]}}]");
    check(&action("{name: other, threshold: {value: 0.5}}"), "triggers[0].name: \"other\" is no resource monitor");
    check(&action("{name: heap, threshold: {value: 1.5}}"), "triggers[0].threshold.value: is not between 0 and 1");
    check(&action("{name: heap}"), "triggers[0]: needs threshold or scaled");
    check(
        &action("{name: heap, scaled: {scaling_threshold: 0.9, saturation_threshold: 0.9}}"),
        "triggers[0].scaled: needs",
    );
}

#[test]
fn static_layers_of_the_runtime_bound_connections() {
    let decode = |layers: &str, more: &str| decode(&format!("{{layered_runtime: {{layers: [{layers}]}}{more}}}"));
    let key = |name: &str| format!("envoy.resource_limits.listener.{name}.connection_limit");
    let layers = format!(
        "{{name: a, static_layer: {{{}: 1, {}: 2, overload: {{global_downstream_max_connections: '9'}}}}}}, \
         {{name: b, static_layer: {{{}: '3', {}: '', envoy: {{resource_limits: {{listener: {{z.connection_limit: 4}}}}}}}}}}, \
         {{name: c, admin_layer: {{}}}}",
        key("x"),
        key("y.y"),
        key("x"),
        key("y.y"),
    );
    let found = decode(&layers, "").unwrap();
    let bounds: Vec<_> = found.overload.max_listener_connections.iter().map(|(name, max)| (&**name, *max)).collect();
    assert_eq!(bounds, [("x", 3), ("z", 4)]);
    assert_eq!(found.overload.max_downstream_connections, Some(9));
    let warnings: Vec<_> = found.warnings.iter().map(|warning| warning.path.as_str()).collect();
    assert_eq!(warnings, ["layered_runtime.layers[2].admin_layer"]);
    let found = decode(&layers, &format!(", overload_manager: {{{MONITORS}}}")).unwrap();
    assert_eq!(found.overload.max_downstream_connections, Some(7), "a monitor wins");
    for value in ["-1", "1.5", "true", "many", "[1]"] {
        let problems = decode(&format!("{{name: a, static_layer: {{{}: {value}}}}}", key("x")), "").unwrap_err();
        let place = "layered_runtime.layers[0].static_layer[\"envoy.resource_limits.listener.x.connection_limit\"]";
        assert_eq!(problems, [format!("{place}: is no whole number from 0 on")], "{value}");
    }
}

#[test]
fn requests_that_wait_are_a_resource() {
    use outrigger_config::monitored::Resource;
    let monitor = |fields: &str| {
        decode(&format!(
            "{{overload_manager: {{resource_monitors: [{{name: waiting, typed_config: {{'@type': \
             type.googleapis.com/outrigger.resource_monitors.pending_requests.v1.PendingRequestsConfig{fields}}}}}]}}}}"
        ))
    };
    let found = monitor(", max_pending_requests: 9").unwrap().overload;
    assert_eq!(found.monitors[0].resource, Resource::PendingRequests { max: 9 });
    let place = "overload_manager.resource_monitors[0].typed_config.max_pending_requests";
    assert_eq!(monitor("").unwrap_err(), [format!("{place}: must be above zero")]);
}
