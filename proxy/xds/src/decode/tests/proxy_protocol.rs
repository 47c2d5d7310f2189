//! The PROXY protocol towards endpoints.

use outrigger_config::{PassedEntries, ProxyProtocolVersion, Resource, ResourceKind};

use super::{bad, cluster, good};

const TYPE: &str = "type.googleapis.com/envoy.extensions.transport_sockets";

fn telling(fields: &str) -> String {
    let socket = format!(
        "{{name: p, typed_config: {{'@type': {TYPE}.proxy_protocol.v3.ProxyProtocolUpstreamTransport{fields}}}}}"
    );
    format!("{{name: a, load_assignment: {{}}, transport_socket: {socket}}}")
}

fn over(inner: &str, config: &str) -> String {
    telling(&format!(", config: {config}, transport_socket: {inner}"))
}

const RAW: &str = "{name: envoy.transport_sockets.raw_buffer}";

#[test]
fn clients_are_told_of() {
    let found = cluster(&over(RAW, "{}"));
    let transport = &found.transports.default;
    let told = transport.proxy_protocol.as_ref().unwrap();
    assert_eq!((told.version, told.added.len()), (ProxyProtocolVersion::V1, 0));
    assert!(transport.tls.is_none() && !found.transports.are_raw());
    let tls = format!("{{name: tls, typed_config: {{'@type': {TYPE}.tls.v3.UpstreamTlsContext, sni: a}}}}");
    let values = "[{type: 224, value: aGk=}, {type: 224, value: AAAA}, {type: 4, value: AA==}]";
    let found = cluster(&over(&tls, &format!("{{version: V2, added_tlvs: {values}}}")));
    let told = found.transports.default.proxy_protocol.as_ref().unwrap();
    assert_eq!(told.version, ProxyProtocolVersion::V2);
    let entry = |kind: u8, value: &[u8]| (kind, Box::from(value));
    assert_eq!(told.added, [entry(224, b"hi"), entry(224, &[0; 3]), entry(4, &[0])]);
    assert_eq!(told.passed, PassedEntries::None);
    assert!(found.transports.are_secure());
}

#[test]
fn entries_are_passed_and_an_endpoints_own() {
    let passed = |yaml: &str| {
        let found = cluster(&over(RAW, &format!("{{version: V2, pass_through_tlvs: {yaml}}}")));
        found.transports.default.proxy_protocol.as_ref().unwrap().passed.clone()
    };
    assert_eq!(passed("{tlv_type: [1]}"), PassedEntries::All);
    assert_eq!(passed("{match_type: INCLUDE, tlv_type: [1, 255]}"), PassedEntries::Of([1, 255].into()));
    let assigned = |name: &str, fields: &str| {
        format!(
            "{{cluster_name: a, endpoints: [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 1.2.3.4, \
             port_value: 1}}}}}}, metadata: {{typed_filter_metadata: {{{name}: {{'@type': \
             type.googleapis.com/envoy.config.core.v3.PerHostConfig, {fields}}}}}}}}}]}}]}}"
        )
    };
    let own = "envoy.transport_sockets.proxy_protocol";
    let decoded = good(ResourceKind::Endpoints, &assigned(own, "added_tlvs: [{type: 2, value: aGk=}]"));
    assert!(decoded.warnings.is_empty(), "{:?}", decoded.warnings);
    let Resource::Endpoints(found) = decoded.resource else { panic!() };
    assert_eq!(*found.localities[0].endpoints[0].proxy_entries, [(2, b"hi".as_slice().into())]);
    let other = good(ResourceKind::Endpoints, &assigned("other", "added_tlvs: []"));
    assert_eq!(other.warnings.len(), 1, "{:?}", other.warnings);
    let reason = bad(ResourceKind::Endpoints, &assigned(own, "added_tlvs: [{type: 256, value: aGk=}]"));
    assert!(reason.contains("added_tlvs[0].type: is more than 255"), "{reason}");
}

#[test]
fn what_is_wrong_is_named() {
    let check = |yaml: &str, expected: &str| {
        let reason = bad(ResourceKind::Cluster, yaml);
        let field = format!("transport_socket.typed_config.{expected}");
        assert!(reason.starts_with(&field), "{reason}");
    };
    check(&telling(""), "transport_socket: is required");
    let twice = format!(
        "{{name: p, typed_config: {{'@type': {TYPE}.proxy_protocol.v3.ProxyProtocolUpstreamTransport, transport_socket: {RAW}}}}}"
    );
    check(&over(&twice, "{}"), "transport_socket: tells of the client a second time");
    check(&over("{name: other}", "{}"), "transport_socket: other is not supported");
    check(&over(RAW, "{version: V2, added_tlvs: [{type: 256, value: AA==}]}"), "config.added_tlvs[0].type: is more");
    check(&over(RAW, "{version: V2, added_tlvs: [{type: 1}]}"), "config.added_tlvs[0].value: is required");
    check(
        &over(RAW, "{version: V2, pass_through_tlvs: {match_type: INCLUDE, tlv_type: [1, 256]}}"),
        "config.pass_through_tlvs.tlv_type[1]: is more than 255",
    );
    check(
        &over(RAW, "{version: V2, added_tlvs: [{type: 1, format_string: {}}]}"),
        "config.added_tlvs[0].format_string: is not supported",
    );
    let long = format!("{{version: V2, added_tlvs: [{{type: 1, value: {}}}]}}", "AAAA".repeat(22_000));
    check(&over(RAW, &long), "config.added_tlvs: are more than 65499 bytes");
}
