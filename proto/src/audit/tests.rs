use prost::Message as _;

use super::*;
use crate::pb::envoy::config::cluster::v3::{Cluster, cluster};
use crate::pb::envoy::config::core::v3 as core;
use crate::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, ListenerFilter, filter, listener_filter};
use crate::pb::envoy::config::route::v3 as route;
use crate::pb::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use crate::pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use crate::pb::google::protobuf::{Any, BoolValue, Duration, UInt32Value};
use crate::schema::WireType;
use crate::wire::{put_delimited, put_key, put_varint};

fn any(url: &str, value: Vec<u8>) -> Any {
    Any { type_url: url.to_owned(), value }
}

#[track_caller]
fn check(full_name: &str, bytes: &[u8], expected: &[&str]) {
    let found: Vec<String> = audit(full_name, bytes).iter().map(ToString::to_string).collect();
    assert_eq!(found, expected);
}

#[track_caller]
fn check_listener(listener: &Listener, expected: &[&str]) {
    check("envoy.config.listener.v3.Listener", &listener.encode_to_vec(), expected);
}

#[track_caller]
fn check_cluster(cluster: &Cluster, expected: &[&str]) {
    check("envoy.config.cluster.v3.Cluster", &cluster.encode_to_vec(), expected);
}

/// A listener around an HTTP connection manager.
fn listener(manager: &hcm::HttpConnectionManager) -> Listener {
    let config = any(type_url::HTTP_CONNECTION_MANAGER, manager.encode_to_vec());
    let filter = Filter { config_type: Some(filter::ConfigType::TypedConfig(config)), ..Filter::default() };
    let plain = FilterChain { name: "a".to_owned(), ..FilterChain::default() };
    let http = FilterChain { filters: vec![filter], ..FilterChain::default() };
    Listener { name: "l".to_owned(), filter_chains: vec![plain, http], ..Listener::default() }
}

#[test]
fn what_is_supported_is_silent() {
    let manager = hcm::HttpConnectionManager {
        stat_prefix: "http".to_owned(),
        http_filters: vec![hcm::HttpFilter {
            name: "router".to_owned(),
            config_type: Some(hcm::http_filter::ConfigType::TypedConfig(any(type_url::ROUTER, Vec::new()))),
            ..hcm::HttpFilter::default()
        }],
        normalize_path: Some(BoolValue { value: true }),
        ..hcm::HttpConnectionManager::default()
    };
    check_listener(&listener(&manager), &[]);
    check_cluster(&Cluster { name: "c".to_owned(), lb_policy: 1, ..Cluster::default() }, &[]);
    check("google.protobuf.Struct", &[0xff], &[]);
}

#[test]
fn findings_have_paths_through_lists_anys_and_maps() {
    let matcher = route::RouteMatch { filter_state: vec![Default::default()], ..route::RouteMatch::default() };
    let routes = vec![
        route::Route::default(),
        route::Route { r#match: Some(matcher), stat_prefix: "s".to_owned(), ..route::Route::default() },
    ];
    let wasm = any("type.googleapis.com/no.such.Message", vec![1]);
    let host = route::VirtualHost {
        routes,
        typed_per_filter_config: [("a\"b".to_owned(), wasm)].into(),
        ..route::VirtualHost::default()
    };
    let config = route::RouteConfiguration { virtual_hosts: vec![host], ..route::RouteConfiguration::default() };
    let manager = hcm::HttpConnectionManager {
        route_specifier: Some(hcm::http_connection_manager::RouteSpecifier::RouteConfig(config)),
        represent_ipv4_remote_address_as_ipv4_mapped_ipv6: true,
        ..hcm::HttpConnectionManager::default()
    };
    let base = "filter_chains[1].filters[0].typed_config";
    let host = format!("{base}.route_config.virtual_hosts[0]");
    check_listener(
        &listener(&manager),
        &[
            &format!("{host}.routes[1].match.filter_state: is not supported"),
            &format!("{host}.routes[1].stat_prefix: is not supported (ignored)"),
            &format!(r#"{host}.typed_per_filter_config["a\"b"]: type no.such.Message is not supported"#),
            &format!("{base}.represent_ipv4_remote_address_as_ipv4_mapped_ipv6: is not supported"),
        ],
    );
}

#[test]
fn values_that_change_nothing_are_silent() {
    let wrapper = |value| Some(BoolValue { value });
    let options = |absolute, override_errors| core::Http1ProtocolOptions {
        allow_absolute_url: wrapper(absolute),
        override_stream_error_on_invalid_http_message: wrapper(override_errors),
        ..core::Http1ProtocolOptions::default()
    };
    let name = "envoy.config.core.v3.Http1ProtocolOptions";
    check(name, &options(true, false).encode_to_vec(), &[]);
    check(
        name,
        &options(false, true).encode_to_vec(),
        &["allow_absolute_url: is not supported", "override_stream_error_on_invalid_http_message: is not supported"],
    );

    let empty = cluster::CommonLbConfig::default();
    check_cluster(&Cluster { common_lb_config: Some(empty), ..Cluster::default() }, &[]);
    let set = cluster::CommonLbConfig { close_connections_on_host_set_change: true, ..Default::default() };
    check_cluster(&Cluster { common_lb_config: Some(set), ..Cluster::default() }, &[]);

    // An explicit zero without presence: Listener.enable_mptcp (a warning) and drain_type (a rejection).
    let mut bytes = Vec::new();
    for number in [30, 8] {
        put_key(&mut bytes, number, WireType::Varint);
        put_varint(&mut bytes, 0);
    }
    check("envoy.config.listener.v3.Listener", &bytes, &[]);
}

#[test]
fn a_list_is_one_finding() {
    let original_ip_detection_extensions = vec![core::TypedExtensionConfig::default(); 3];
    let manager = hcm::HttpConnectionManager { original_ip_detection_extensions, ..Default::default() };
    let path = "filter_chains[1].filters[0].typed_config.original_ip_detection_extensions";
    check_listener(&listener(&manager), &[&format!("{path}: is not supported")]);
}

#[test]
fn ours_is_audited_like_theirs() {
    use crate::pb::outrigger::filters::http::wasm::v1::{Limits, Wasm};
    let limits = Limits { callback_timeout: Some(Duration::default()), ..Limits::default() };
    let wasm = Wasm { limits: Some(limits), isolation: 1, ..Wasm::default() };
    let extension = core::TypedExtensionConfig {
        name: "a".to_owned(),
        typed_config: Some(any(type_url::OUTRIGGER_WASM, wasm.encode_to_vec())),
    };
    check("envoy.config.core.v3.TypedExtensionConfig", &extension.encode_to_vec(), &[]);
    // A plugin's configuration is not ours to judge.
    let config = crate::pb::envoy::extensions::wasm::v3::PluginConfig {
        configuration: Some(any("example.com/their.own.Type", vec![0xff])),
        ..Default::default()
    };
    check("outrigger.filters.http.wasm.v1.Wasm", &Wasm { config: Some(config), ..wasm }.encode_to_vec(), &[]);
}

#[test]
fn unknown_types_and_fields_are_rejections_and_sinks_warnings() {
    check("no.such.Message", &[], &["type no.such.Message is not supported"]);
    check(
        "envoy.extensions.filters.http.lua.v3.Lua",
        &[],
        &["type envoy.extensions.filters.http.lua.v3.Lua is not supported"],
    );
    let log = crate::pb::envoy::config::accesslog::v3::AccessLog {
        config_type: Some(crate::pb::envoy::config::accesslog::v3::access_log::ConfigType::TypedConfig(any(
            "type.googleapis.com/envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig",
            vec![0xff],
        ))),
        ..Default::default()
    };
    let listener = Listener { access_log: vec![log], ..Listener::default() };
    let expected = "access_log[0].typed_config: type envoy.extensions.access_loggers.grpc.v3.HttpGrpcAccessLogConfig \
                    is not supported (ignored)";
    check_listener(&listener, &[expected]);

    let mut bytes = Vec::new();
    for number in [60_000, 63, 60_000] {
        put_key(&mut bytes, number, WireType::Varint);
        put_varint(&mut bytes, 1);
    }
    check("envoy.config.listener.v3.Listener", &bytes, &["unknown field 60000", "unknown field 63"]);
    let untyped = any("", vec![1]);
    check("google.protobuf.Any", &untyped.encode_to_vec(), &["has no type URL"]);
    check("google.protobuf.Any", &[], &[]);
}

#[test]
fn a_message_that_stands_twice_is_rejected() {
    let mut bytes = Vec::new();
    for _ in 0..2 {
        put_key(&mut bytes, 2, WireType::Delimited);
        put_delimited(&mut bytes, &core::Address::default().encode_to_vec());
    }
    check("envoy.config.listener.v3.Listener", &bytes, &["address: is set twice"]);
}

#[test]
fn unreadable_bytes_are_rejections() {
    let chains = |bytes: &[u8]| {
        let mut out = Vec::new();
        put_key(&mut out, 3, WireType::Delimited);
        put_delimited(&mut out, bytes);
        out
    };
    check("envoy.config.listener.v3.Listener", &chains(&[0x0a, 200]), &["filter_chains[0]: the message is cut off"]);
    let group = ["filter_chains[0]: a field has a wire type that is not in use"];
    check("envoy.config.listener.v3.Listener", &chains(&[0x0b]), &group);
    let mismatch = ["filter_chains: a field has another wire type than its message defines"];
    check("envoy.config.listener.v3.Listener", &[0x18, 1], &mismatch);
}

#[test]
fn depth_is_bounded() {
    // not_match of not_match ...: no supported message recurses, so an Any in an Any does.
    let mut any_in_any = any(type_url::STRING_VALUE, Vec::new());
    for _ in 0..5000 {
        any_in_any = any("x/google.protobuf.Any", any_in_any.encode_to_vec());
    }
    check("google.protobuf.Any", &any_in_any.encode_to_vec(), &["is nested too deep"]);
}

#[test]
fn findings_are_bounded_and_warnings_hide_no_rejection() {
    let initial_read_buffer_size = Some(UInt32Value { value: 256 });
    let inspector = TlsInspector { initial_read_buffer_size, ..TlsInspector::default() };
    let inspector = any(type_url::TLS_INSPECTOR, inspector.encode_to_vec());
    let config_type = Some(listener_filter::ConfigType::TypedConfig(inspector));
    let warned = ListenerFilter { config_type, ..ListenerFilter::default() };
    let listener_filters = vec![warned; FINDINGS_MAX + 10];
    let udp_listener_config = Some(Default::default());
    let bytes = Listener { listener_filters, udp_listener_config, ..Listener::default() }.encode_to_vec();
    let findings = audit("envoy.config.listener.v3.Listener", &bytes);
    assert_eq!(findings.len(), FINDINGS_MAX + 1);
    assert_eq!(findings.last().unwrap().severity, Severity::Reject);

    let udp_listener_config = Some(Default::default());
    let tcp_fast_open_queue_length = Some(UInt32Value { value: 1 });
    let one = Listener { udp_listener_config, tcp_fast_open_queue_length, ..Listener::default() };
    assert_eq!(audit("envoy.config.listener.v3.Listener", &one.encode_to_vec()).len(), 2);
}

#[test]
fn no_bytes_make_it_panic() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed
    };
    let valid =
        listener(&hcm::HttpConnectionManager { stat_prefix: "x".to_owned(), ..Default::default() }).encode_to_vec();
    for _ in 0..20_000 {
        let mut bytes = valid.clone();
        for _ in 0..=next() % 4 {
            let at = (next() % bytes.len() as u64) as usize;
            match next() % 3 {
                0 => bytes[at] = next() as u8,
                1 => bytes.truncate(at.max(1)),
                _ => bytes.insert(at, next() as u8),
            }
        }
        audit("envoy.config.listener.v3.Listener", &bytes);
        let noise: Vec<u8> = (0..next() % 64).map(|_| next() as u8).collect();
        audit("envoy.config.bootstrap.v3.Bootstrap", &noise);
    }
}
