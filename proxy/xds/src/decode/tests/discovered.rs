//! Network filters that are discovered.

use outrigger_config::{ConnectionFilterKind, ResourceKind, Source};

use super::{bad, listener};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters";

fn with_discovery(fields: &str) -> String {
    let proxy = format!(
        "{{name: t, typed_config: {{'@type': {FILTERS}.network.tcp_proxy.v3.TcpProxy, stat_prefix: a, cluster: a}}}}"
    );
    let address = "{socket_address: {address: 127.0.0.1, port_value: 1}}";
    format!(
        "{{name: l, address: {address}, filter_chains: [{{filters: [{{name: found, config_discovery: {{{fields}}}}}, {proxy}]}}]}}"
    )
}

#[test]
fn network_filters_are_discovered() {
    let found = listener(&with_discovery(&format!(
        "config_source: {{ads: {{}}}}, type_urls: [{FILTERS}.network.wasm.v3.Wasm]"
    )));
    let filter = &found.chains[0].filters[0];
    let ConnectionFilterKind::Discovered(discovered) = &filter.kind else { panic!() };
    assert_eq!((&*filter.name, &discovered.from), ("found", &Source::Ads));
    assert!(discovered.default.is_none() && filter.plugin().is_none());
}

#[test]
fn what_is_no_network_filter_is_not() {
    let check = |fields: &str, expected: &str| {
        let reason = bad(ResourceKind::Listener, &with_discovery(fields));
        let field = format!("filter_chains[0].filters[0].config_discovery.{expected}");
        assert!(reason.starts_with(&field), "{reason}");
    };
    let source = "config_source: {ads: {}}";
    check(source, "type_urls: is required");
    check(&format!("{source}, type_urls: [{FILTERS}.http.wasm.v3.Wasm]"), "type_urls: names no supported type");
    let http = format!("{{'@type': {FILTERS}.http.wasm.v3.Wasm}}");
    let urls = format!("type_urls: [{FILTERS}.network.wasm.v3.Wasm]");
    check(&format!("{source}, {urls}, default_config: {http}"), "default_config: type envoy");
    check(&urls, "config_source: ");
}
