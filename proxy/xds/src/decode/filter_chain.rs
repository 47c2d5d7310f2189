//! `FilterChain` and `FilterChainMatch`.

use std::sync::Arc;

use outrigger_config::{Cidr, FilterChain, FilterChainClash, FilterChainMatch, FilterChainTable, SourceType};
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::listener::v3 as listener;

use super::common::{duration, shown_metadata, variant};
use super::listener::{FoundFilter, network_filter};
use super::tls::downstream_transport;
use crate::Diagnostics;

/// The chains of a listener, the default chain last, and how they are found.
pub(super) fn chains(proto: &listener::Listener, d: &mut Diagnostics) -> Option<(Vec<FilterChain>, FilterChainTable)> {
    if proto.filter_chains.is_empty() && proto.default_filter_chain.is_none() {
        d.at("filter_chains", |d| d.error("is required"));
        return None;
    }
    let count = proto.filter_chains.len() + usize::from(proto.default_filter_chain.is_some());
    let listed = proto.filter_chains.iter().enumerate();
    let mut chains: Vec<FilterChain> =
        listed.filter_map(|(index, chain)| d.at_index("filter_chains", index, |d| filter_chain(chain, d))).collect();
    let default = proto.default_filter_chain.as_ref();
    chains.extend(default.and_then(|chain| d.at("default_filter_chain", |d| default_chain(chain, d))));
    // Of others the indices would be wrong.
    if chains.len() != count {
        return None;
    }
    let default = default.map(|_| chains.len() - 1);
    match FilterChainTable::new(&chains, default) {
        Ok(table) => Some((chains, table)),
        Err(clash) => {
            let at = match clash {
                FilterChainClash::Same(_, second) => Some(second),
                FilterChainClash::TooMany => None,
            };
            match at {
                Some(at) => d.at_index("filter_chains", at, |d| {
                    d.at("filter_chain_match", |d| d.error(clash.to_string()));
                }),
                None => d.at("filter_chains", |d| d.error(clash.to_string())),
            }
            None
        }
    }
}

fn default_chain(proto: &listener::FilterChain, d: &mut Diagnostics) -> Option<FilterChain> {
    if proto.filter_chain_match.is_some() {
        d.at("filter_chain_match", |d| d.warn("has no effect in the default chain"));
    }
    let chain = filter_chain(proto, d)?;
    Some(FilterChain { criteria: FilterChainMatch::default(), ..chain })
}

fn filter_chain(proto: &listener::FilterChain, d: &mut Diagnostics) -> Option<FilterChain> {
    let transport = downstream_transport(proto.transport_socket.as_ref(), d);
    let criteria = proto.filter_chain_match.as_ref();
    let criteria = criteria.map(|proto| d.at("filter_chain_match", |d| chain_match(proto, d)));
    let transport_timeout =
        duration(proto.transport_socket_connect_timeout.as_ref(), "transport_socket_connect_timeout", d);
    let before = d.errors().len();
    let mut terminal = None;
    let mut filters = Vec::new();
    let last = proto.filters.len().saturating_sub(1);
    for (index, filter) in proto.filters.iter().enumerate() {
        let found = d.at_index("filters", index, |d| network_filter(filter, d));
        match found {
            Some(FoundFilter::Terminal(filter)) if index == last => terminal = Some(filter),
            Some(FoundFilter::Terminal(_)) => {
                d.at_index("filters", index, |d| d.error("is terminal, and not the last filter"));
            }
            Some(FoundFilter::Before(filter)) => filters.push(filter),
            Some(FoundFilter::Off) | None => {}
        }
    }
    if terminal.is_none() && d.errors().len() == before {
        d.at("filters", |d| d.error("don't end with an http_connection_manager or a tcp_proxy"));
    }
    Some(FilterChain {
        metadata: shown_metadata(proto.metadata.as_ref(), d),
        name: Arc::from(proto.name.as_str()),
        criteria: criteria.unwrap_or_default(),
        transport: transport?,
        transport_timeout: transport_timeout.filter(|timeout| !timeout.is_zero()),
        filters,
        filter: terminal?,
    })
}

fn chain_match(proto: &listener::FilterChainMatch, d: &mut Diagnostics) -> FilterChainMatch {
    use listener::filter_chain_match::ConnectionSourceType as Proto;
    let destination_port = proto.destination_port.as_ref();
    let destination_port = destination_port.and_then(|port| d.at("destination_port", |d| valid_port(port.value, d)));
    let source_ports = proto.source_ports.iter().enumerate();
    let source_ports =
        source_ports.filter_map(|(index, port)| d.at_index("source_ports", index, |d| valid_port(*port, d))).collect();
    let source_type = match variant(proto.source_type, "source_type", d) {
        Some(Proto::SameIpOrLoopback) => SourceType::SameIpOrLoopback,
        Some(Proto::External) => SourceType::External,
        Some(Proto::Any) | None => SourceType::Any,
    };
    let server_names = proto.server_names.iter().enumerate();
    let server_names =
        server_names.filter_map(|(index, name)| d.at_index("server_names", index, |d| server_name(name, d))).collect();
    let transport_protocol = proto.transport_protocol.as_str();
    let protocols = proto.application_protocols.iter().map(|protocol| Box::from(protocol.as_bytes())).collect();
    FilterChainMatch {
        destination_port,
        destination_prefixes: prefixes(&proto.prefix_ranges, "prefix_ranges", d),
        server_names: sorted(server_names),
        transport_protocol: (!transport_protocol.is_empty()).then(|| Box::from(transport_protocol)),
        application_protocols: sorted(protocols),
        direct_source_prefixes: prefixes(&proto.direct_source_prefix_ranges, "direct_source_prefix_ranges", d),
        source_type,
        source_prefixes: prefixes(&proto.source_prefix_ranges, "source_prefix_ranges", d),
        source_ports: sorted(source_ports),
    }
}

fn sorted<T: Ord>(mut list: Vec<T>) -> Vec<T> {
    list.sort_unstable();
    list.dedup();
    list
}

fn valid_port(port: u32, d: &mut Diagnostics) -> Option<u16> {
    let valid = u16::try_from(port).ok().filter(|port| *port > 0);
    if valid.is_none() {
        d.error(format!("{port} is not a port number from 1 to 65535"));
    }
    valid
}

/// In lower case, `*.example.com` as `.example.com`.
fn server_name(name: &str, d: &mut Diagnostics) -> Option<Box<str>> {
    let name = name.to_ascii_lowercase();
    let suffix = name.strip_prefix('*').filter(|suffix| suffix.len() > 1 && suffix.starts_with('.'));
    let plain = suffix.unwrap_or(&name);
    if plain.is_empty() {
        d.error("is empty");
        return None;
    }
    if plain.contains('*') {
        d.error(format!("{name:?}: a wildcard stands for whole labels at the start, as in *.example.com"));
        return None;
    }
    Some(Box::from(plain))
}

pub(super) fn prefixes(ranges: &[core::CidrRange], field: &'static str, d: &mut Diagnostics) -> Vec<Cidr> {
    let ranges = ranges.iter().enumerate();
    let prefixes = ranges.filter_map(|(index, range)| d.at_index(field, index, |d| cidr(range, d)));
    sorted(prefixes.collect())
}

fn cidr(range: &core::CidrRange, d: &mut Diagnostics) -> Option<Cidr> {
    let Ok(address) = range.address_prefix.parse() else {
        d.at("address_prefix", |d| d.error(format!("{:?} is no IP address", range.address_prefix)));
        return None;
    };
    let len = range.prefix_len.as_ref().map_or(0, |len| len.value);
    let cidr = Cidr::new(address, len);
    if cidr.is_none() {
        d.at("prefix_len", |d| d.error(format!("{len} bits are more than {address} has")));
    }
    cidr
}
