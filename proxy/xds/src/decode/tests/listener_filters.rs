use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    Address, Listener, ListenerFilterKind, PassedEntries, PortPredicate, ProxyEntryRule, ProxyProtocol, Resource,
    ResourceKind, SocketOption, TcpKeepalive, TlsInspector,
};

use super::{bad, good};

const PREFIX: &str = "type.googleapis.com/envoy.extensions.filters.listener";

fn yaml(fields: &str) -> String {
    let tcp = "{filters: [{name: t, typed_config: {'@type': \
               type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: \
               a}}]}";
    format!(
        "{{name: l, address: {{socket_address: {{address: 0.0.0.0, port_value: 1}}}}, filter_chains: [{tcp}], {fields}}}"
    )
}

fn listener(fields: &str) -> Arc<Listener> {
    let Resource::Listener(listener) = good(ResourceKind::Listener, &yaml(fields)).resource else { panic!() };
    listener
}

fn filter(kind: &str, fields: &str) -> String {
    format!("{{name: f, typed_config: {{'@type': {PREFIX}.{kind}{fields}}}}}")
}

#[test]
fn the_filters_of_a_listener() {
    let found = listener(&format!(
        "listener_filters: [{}, {}, {}, {}], listener_filters_timeout: 0s, continue_on_listener_filters_timeout: true",
        filter("original_dst.v3.OriginalDst", ""),
        filter(
            "proxy_protocol.v3.ProxyProtocol",
            ", allow_requests_without_proxy_protocol: true, disallowed_versions: [V1], tlv_location: DYNAMIC_METADATA, \
             rules: [{tlv_type: 1}, {tlv_type: 2, on_tlv_present: {key: k}}, {tlv_type: 1, on_tlv_present: {key: k, \
             metadata_namespace: ns, value_string_encoding: BASE64}}], pass_through_tlvs: {}"
        ),
        filter("tls_inspector.v3.TlsInspector", ", max_client_hello_size: 9000"),
        "{name: f, filter_disabled: {not_match: {or_match: {rules: [{any_match: true}, {destination_port_range: {start: \
         80, end: 81}}]}}}, typed_config: {'@type': \
         type.googleapis.com/envoy.extensions.filters.listener.http_inspector.v3.HttpInspector}}",
    ));
    let rule =
        |kind, namespace: &str, base64| ProxyEntryRule { kind, namespace: namespace.into(), key: "k".into(), base64 };
    let kinds: Vec<&ListenerFilterKind> = found.listener_filters.iter().map(|filter| &filter.kind).collect();
    assert_eq!(
        kinds,
        [
            &ListenerFilterKind::OriginalDst,
            &ListenerFilterKind::ProxyProtocol(ProxyProtocol {
                optional: true,
                version1: false,
                version2: true,
                rules: vec![rule(2, "envoy.filters.listener.proxy_protocol", false), rule(1, "ns", true)],
                passed: PassedEntries::All,
            }),
            &ListenerFilterKind::TlsInspector(TlsInspector {
                hello_bytes_max: 9000,
                close_on_malformed: false,
                ja3: false,
                ja4: false,
            }),
            &ListenerFilterKind::HttpInspector,
        ]
    );
    let or = PortPredicate::Or(vec![PortPredicate::Any, PortPredicate::Ports(80..81)]);
    assert_eq!(found.listener_filters[3].disabled, Some(PortPredicate::Not(Box::new(or))));
    assert!(found.listener_filters_timeout.is_none() && found.continue_on_listener_filters_timeout);
}

#[test]
fn older_flags_stand_for_filters() {
    let plain = listener("stat_prefix: s");
    assert!(plain.listener_filters.is_empty() && plain.bind_to_port && !plain.use_original_dst);
    assert_eq!(plain.listener_filters_timeout, Some(Duration::from_secs(15)));
    let found = listener("use_original_dst: true, deprecated_v1: {bind_to_port: false}");
    assert_eq!(found.listener_filters[0].kind, ListenerFilterKind::OriginalDst);
    assert!(found.use_original_dst && !found.bind_to_port);
    let original_dst = filter("original_dst.v3.OriginalDst", "");
    let found = listener(&format!("use_original_dst: true, bind_to_port: false, listener_filters: [{original_dst}]"));
    assert!(found.listener_filters.len() == 1 && !found.bind_to_port);
}

#[test]
fn addresses_and_their_options() {
    let found = listener(
        "additional_addresses: [{address: {socket_address: {address: '::', port_value: 2, ipv4_compat: true}}}, {address: \
         {socket_address: {address: 127.0.0.1, port_value: 3}}, socket_options: {socket_options: [{level: 6, name: 18, \
         int_value: 5000}]}, tcp_keepalive: {keepalive_time: 7}}], freebind: true, transparent: true, tcp_keepalive: \
         {keepalive_probes: 3, keepalive_interval: 4}, socket_options: [{level: 1, name: 9, int_value: 1}, {level: 6, \
         name: 1, int_value: 1}]",
    );
    let [first, second, third] = &found.addresses[..] else { panic!() };
    assert_eq!(first.address.to_string(), "0.0.0.0:1");
    assert_eq!(first.options, [SocketOption::Keepalive(true), SocketOption::Freebind(true)]);
    assert_eq!(first.tcp_keepalive, Some(TcpKeepalive { time: None, interval: Some(4), probes: Some(3) }));
    assert!(matches!(second.address, Address::Ip { ipv4_compat: true, .. }));
    assert_eq!((&second.options, second.tcp_keepalive), (&first.options, first.tcp_keepalive));
    assert_eq!(third.options, [SocketOption::UserTimeout(5000)]);
    assert_eq!(third.tcp_keepalive, Some(TcpKeepalive { time: Some(7), ..TcpKeepalive::default() }));
    assert!(found.transparent);
}

#[test]
fn bad_ones_name_the_field() {
    let check =
        |fields: &str, expected: &str| assert_eq!(bad(ResourceKind::Listener, &yaml(fields)), expected, "{fields}");
    let one = |filter: &str, expected: &str| {
        check(&format!("listener_filters: [{filter}]"), &format!("listener_filters[0].{expected}"));
    };
    one("{name: f}", "typed_config: is required");
    one(
        &filter("local_ratelimit.v3.LocalRateLimit", ""),
        "typed_config: type envoy.extensions.filters.listener.local_ratelimit.v3.LocalRateLimit is not supported",
    );
    one(
        &filter("tls_inspector.v3.TlsInspector", ", max_client_hello_size: 20000"),
        "typed_config.max_client_hello_size: 20000 is not between 1 and 16384",
    );
    let proxy = |fields: &str| filter("proxy_protocol.v3.ProxyProtocol", &format!(", {fields}"));
    one(&proxy("rules: [{tlv_type: 256}]"), "typed_config.rules[0].tlv_type: is more than 255");
    one(&proxy("rules: [{tlv_type: 1, on_tlv_present: {}}]"), "typed_config.rules[0].on_tlv_present.key: is required");
    one(&proxy("tlv_location: FILTER_STATE"), "typed_config.tlv_location: is not supported");
    let original_dst = "typed_config: {'@type': type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.\
                        OriginalDst}";
    one(
        &format!("{{name: f, filter_disabled: {{destination_port_range: {{start: 1, end: 65537}}}}, {original_dst}}}"),
        "filter_disabled.destination_port_range: is not a range of ports from 0 up to 65536",
    );
    one(&format!("{{name: f, filter_disabled: {{}}, {original_dst}}}"), "filter_disabled: has no rule");
    check(
        "socket_options: [{level: 1, name: 999, int_value: 1}]",
        "socket_options[0].name: option 999 of level 1 is not supported",
    );
    check(
        "additional_addresses: [{address: {socket_address: {address: x, port_value: 1}}}]",
        "additional_addresses[0].address.socket_address.address: \"x\" is no IP address (names are not resolved)",
    );
}
