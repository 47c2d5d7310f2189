use outrigger_config::{FilterChainMatch, SourceType};

use super::{bad, good};
use outrigger_config::{Listener, Resource, ResourceKind};
use std::sync::Arc;

const TCP: &str = "filters: [{name: t, typed_config: {'@type': \
                   type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, \
                   cluster: a}}]";

fn yaml(chains: &[&str], rest: &str) -> String {
    let chains: Vec<String> = chains.iter().map(|criteria| format!("{{{criteria}, {TCP}}}")).collect();
    let address = "address: {socket_address: {address: 0.0.0.0, port_value: 1}}";
    format!("{{name: l, {address}, filter_chains: [{}]{rest}}}", chains.join(", "))
}

fn listener(yaml: &str) -> Arc<Listener> {
    let Resource::Listener(listener) = good(ResourceKind::Listener, yaml).resource else { panic!() };
    listener
}

#[test]
fn what_chains_match() {
    let found = listener(&yaml(
        &[
            "name: a, filter_chain_match: {destination_port: 443, prefix_ranges: [{address_prefix: 10.1.2.3, prefix_len: \
             8}], server_names: ['*.B.test', a.test, a.test], transport_protocol: tls, application_protocols: [h2], \
             source_type: EXTERNAL, source_prefix_ranges: [{address_prefix: '::1', prefix_len: 128}], source_ports: [9, \
             7], direct_source_prefix_ranges: [{address_prefix: 0.0.0.0}]}, transport_socket_connect_timeout: 3s",
            "name: b",
        ],
        &format!(", default_filter_chain: {{name: d, {TCP}}}"),
    ));
    let [a, b, d] = &found.chains[..] else { panic!() };
    let text = |list: &[outrigger_config::Cidr]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    let criteria = &a.criteria;
    assert_eq!((criteria.destination_port, criteria.source_type), (Some(443), SourceType::External));
    assert_eq!(text(&criteria.destination_prefixes), ["10.0.0.0/8"]);
    assert_eq!(text(&criteria.source_prefixes), ["::1/128"]);
    assert_eq!(text(&criteria.direct_source_prefixes), ["0.0.0.0/0"]);
    assert_eq!(criteria.server_names, [".b.test".into(), "a.test".into()]);
    assert_eq!(criteria.application_protocols, [Box::from(&b"h2"[..])]);
    assert_eq!((criteria.transport_protocol.as_deref(), &criteria.source_ports[..]), (Some("tls"), &[7, 9][..]));
    assert_eq!(a.transport_timeout, Some(std::time::Duration::from_secs(3)));
    assert_eq!((&b.criteria, &d.criteria), (&FilterChainMatch::default(), &FilterChainMatch::default()));
    assert_eq!((&*d.name, found.table.default_chain()), ("d", Some(2)));
}

#[test]
fn bad_matches_name_the_field() {
    let check = |chains: &[&str], expected: &str| {
        assert_eq!(bad(ResourceKind::Listener, &yaml(chains, "")), expected, "{chains:?}");
    };
    let path = "filter_chains[0].filter_chain_match";
    let one = |criteria: &str, expected: &str| {
        let chain = format!("filter_chain_match: {{{criteria}}}");
        check(&[&chain], &format!("{path}.{expected}"));
    };
    one("destination_port: 0", "destination_port: 0 is not a port number from 1 to 65535");
    one("source_ports: [1, 65536]", "source_ports[1]: 65536 is not a port number from 1 to 65535");
    one("prefix_ranges: [{address_prefix: x}]", "prefix_ranges[0].address_prefix: \"x\" is no IP address");
    one(
        "source_prefix_ranges: [{address_prefix: 1.2.3.4, prefix_len: 33}]",
        "source_prefix_ranges[0].prefix_len: 33 bits are more than 1.2.3.4 has",
    );
    let wildcard = "a wildcard stands for whole labels at the start, as in *.example.com";
    one("server_names: ['a*.test']", &format!("server_names[0]: \"a*.test\": {wildcard}"));
    one("server_names: ['*']", &format!("server_names[0]: \"*\": {wildcard}"));
    one("server_names: ['']", "server_names[0]: is empty");
    one("suffix_len: 3", "suffix_len: is not supported");
    check(
        &["name: a", "name: b, filter_chain_match: {}"],
        "filter_chains[1].filter_chain_match: filter chains 0 and 1 match the same connections",
    );
}
