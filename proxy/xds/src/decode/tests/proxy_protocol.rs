//! The PROXY protocol towards endpoints.

use outrigger_config::{ProxyProtocolVersion, ResourceKind};

use super::{bad, cluster};

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
    assert_eq!(told.added, [(224, b"hi".as_slice().into()), (4, [0].as_slice().into())]);
    assert!(found.transports.are_secure());
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
    check(&over(RAW, "{version: V2, pass_through_tlvs: {}}"), "config.pass_through_tlvs: is not supported");
    let long = format!("{{version: V2, added_tlvs: [{{type: 1, value: {}}}]}}", "AAAA".repeat(22_000));
    check(&over(RAW, &long), "config.added_tlvs: are more than 65499 bytes");
}
