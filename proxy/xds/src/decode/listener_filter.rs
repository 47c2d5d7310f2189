//! `ListenerFilter`, and the filters that are built in.

use std::sync::Arc;

use outrigger_config::{
    ListenerFilter, ListenerFilterKind, PassedEntries, PortPredicate, ProxyEntryRule, ProxyProtocol, TlsInspector,
};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::listener::v3 as listener;
use pb::envoy::extensions::filters::listener::proxy_protocol::v3 as proxy_protocol;
use pb::envoy::extensions::filters::listener::tls_inspector::v3 as tls_inspector;
use pb::google::protobuf::Any;

use super::access_log::message;
use super::common::{flag, name, number, variant};
use super::http::inner_type;
use super::proxy_protocol::{entry_type, passed};
use crate::Diagnostics;

/// Where entries of PROXY headers are noted unless a rule says otherwise.
const PROXY_NAMESPACE: &str = "envoy.filters.listener.proxy_protocol";
/// Predicates may be nested this deep.
const DEPTH_MAX: usize = 16;

/// The listener filters, with those that the older flags stand for.
pub(super) fn listener_filters(proto: &listener::Listener, d: &mut Diagnostics) -> Vec<ListenerFilter> {
    let listed = proto.listener_filters.iter().enumerate();
    let mut filters: Vec<ListenerFilter> = listed
        .filter_map(|(index, filter)| d.at_index("listener_filters", index, |d| listener_filter(filter, d)))
        .collect();
    let has = |filters: &[ListenerFilter], kind: &ListenerFilterKind| filters.iter().any(|filter| filter.kind == *kind);
    if proto.use_original_dst.is_some_and(|flag| flag.value) && !has(&filters, &ListenerFilterKind::OriginalDst) {
        filters.push(plain("envoy.filters.listener.original_dst", ListenerFilterKind::OriginalDst));
    }
    #[expect(deprecated, reason = "still in use")]
    let proxy = proto.filter_chains.first().is_some_and(|chain| chain.use_proxy_proto.is_some_and(|flag| flag.value));
    if proxy {
        let kind = ListenerFilterKind::ProxyProtocol(ProxyProtocol {
            optional: false,
            version1: true,
            version2: true,
            rules: Vec::new(),
            passed: PassedEntries::None,
        });
        filters.push(plain("envoy.filters.listener.proxy_protocol", kind));
    }
    filters
}

fn plain(name: &str, kind: ListenerFilterKind) -> ListenerFilter {
    ListenerFilter { name: Arc::from(name), kind, disabled: None }
}

fn listener_filter(proto: &listener::ListenerFilter, d: &mut Diagnostics) -> Option<ListenerFilter> {
    use listener::listener_filter::ConfigType;
    let name = name(&proto.name, "name", d);
    let disabled = proto.filter_disabled.as_ref();
    let disabled = disabled.map(|predicate| d.at("filter_disabled", |d| port_predicate(predicate, DEPTH_MAX, d)));
    let kind = match &proto.config_type {
        Some(ConfigType::TypedConfig(config)) => d.at("typed_config", |d| kind(config, d)),
        Some(ConfigType::ConfigDiscovery(_)) => {
            d.at("config_discovery", |d| d.error("is not supported for listener filters"));
            None
        }
        None => {
            d.at("typed_config", |d| d.error("is required"));
            None
        }
    };
    let disabled = match disabled {
        Some(predicate) => Some(predicate?),
        None => None,
    };
    Some(ListenerFilter { name, kind: kind?, disabled })
}

fn kind(config: &Any, d: &mut Diagnostics) -> Option<ListenerFilterKind> {
    let is = |name: &str, url: &str| name == type_url::message_name(url);
    match type_url::message_name(&config.type_url) {
        name if is(name, type_url::TLS_INSPECTOR) => {
            let proto: tls_inspector::TlsInspector = message(config, d)?;
            Some(ListenerFilterKind::TlsInspector(TlsInspector {
                hello_bytes_max: number(
                    proto.max_client_hello_size,
                    16 * 1024,
                    1..=16 * 1024,
                    "max_client_hello_size",
                    d,
                ),
                close_on_malformed: proto.close_connection_on_client_hello_parsing_errors,
                ja3: flag(proto.enable_ja3_fingerprinting, false),
                ja4: flag(proto.enable_ja4_fingerprinting, false),
            }))
        }
        name if is(name, type_url::HTTP_INSPECTOR) => Some(ListenerFilterKind::HttpInspector),
        name if is(name, type_url::ORIGINAL_DST) => Some(ListenerFilterKind::OriginalDst),
        name if is(name, type_url::PROXY_PROTOCOL) => {
            let proto: proxy_protocol::ProxyProtocol = message(config, d)?;
            Some(ListenerFilterKind::ProxyProtocol(proxy(&proto, d)))
        }
        _ => {
            d.error(format!("type {} is not supported", inner_type(config)));
            None
        }
    }
}

fn proxy(proto: &proxy_protocol::ProxyProtocol, d: &mut Diagnostics) -> ProxyProtocol {
    use core::proxy_protocol_config::Version;
    let mut found = ProxyProtocol {
        optional: proto.allow_requests_without_proxy_protocol,
        version1: true,
        version2: true,
        rules: Vec::new(),
        passed: passed(proto.pass_through_tlvs.as_ref(), d),
    };
    for (index, rule) in proto.rules.iter().enumerate() {
        let Some(rule) = d.at_index("rules", index, |d| entry_rule(rule, d)) else { continue };
        // As in Envoy the last one of a type counts.
        found.rules.retain(|earlier| earlier.kind != rule.kind);
        found.rules.push(rule);
    }
    for version in &proto.disallowed_versions {
        match variant(*version, "disallowed_versions", d) {
            Some(Version::V1) => found.version1 = false,
            Some(Version::V2) => found.version2 = false,
            None => {}
        }
    }
    found
}

fn entry_rule(proto: &proxy_protocol::proxy_protocol::Rule, d: &mut Diagnostics) -> Option<ProxyEntryRule> {
    use proxy_protocol::proxy_protocol::key_value_pair::ValueStringEncoding;
    let kind = d.at("tlv_type", |d| entry_type(proto.tlv_type, d));
    let Some(pair) = &proto.on_tlv_present else {
        return Some(ProxyEntryRule { kind: kind?, namespace: PROXY_NAMESPACE.into(), key: "".into(), base64: false });
    };
    d.at("on_tlv_present", |d| {
        let namespace = Some(&*pair.metadata_namespace).filter(|name| !name.is_empty()).unwrap_or(PROXY_NAMESPACE);
        let key = name(&pair.key, "key", d);
        let encoding = variant::<ValueStringEncoding>(pair.value_string_encoding, "value_string_encoding", d)?;
        let base64 = encoding == ValueStringEncoding::Base64;
        Some(ProxyEntryRule { kind: kind?, namespace: namespace.into(), key, base64 })
    })
}

fn port_predicate(
    proto: &listener::ListenerFilterChainMatchPredicate,
    depth: usize,
    d: &mut Diagnostics,
) -> Option<PortPredicate> {
    use listener::listener_filter_chain_match_predicate::{MatchSet, Rule};
    let Some(depth) = depth.checked_sub(1) else {
        d.error(format!("is nested deeper than {DEPTH_MAX}"));
        return None;
    };
    let set = |set: &MatchSet, d: &mut Diagnostics| -> Option<Vec<PortPredicate>> {
        if set.rules.len() < 2 {
            d.at("rules", |d| d.error("has fewer than two entries"));
        }
        let rules = set.rules.iter().enumerate();
        rules.map(|(index, rule)| d.at_index("rules", index, |d| port_predicate(rule, depth, d))).collect()
    };
    match proto.rule.as_ref() {
        Some(Rule::OrMatch(any)) => d.at("or_match", |d| set(any, d)).map(PortPredicate::Or),
        Some(Rule::AndMatch(all)) => d.at("and_match", |d| set(all, d)).map(PortPredicate::And),
        Some(Rule::NotMatch(inner)) => {
            let inner = d.at("not_match", |d| port_predicate(inner, depth, d));
            inner.map(|inner| PortPredicate::Not(Box::new(inner)))
        }
        Some(Rule::AnyMatch(_)) => Some(PortPredicate::Any),
        Some(Rule::DestinationPortRange(range)) => {
            let bound = |value: i32| u32::try_from(value).ok().filter(|value| *value <= 65_536);
            let (Some(start), Some(end)) = (bound(range.start), bound(range.end)) else {
                d.at("destination_port_range", |d| d.error("is not a range of ports from 0 up to 65536"));
                return None;
            };
            Some(PortPredicate::Ports(start..end))
        }
        None => {
            d.error("has no rule");
            None
        }
    }
}
