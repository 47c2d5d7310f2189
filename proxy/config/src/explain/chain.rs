//! Which listener takes a connection, and which of its filter chains.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use super::{Candidate, Question, Stage, listener_source};
use crate::{Cidr, ConnectionFacts, FilterChain, FilterChainMatch, Listener, Snapshot, SourceType};

pub(super) fn listener<'s>(
    snapshot: &'s Snapshot,
    question: &Question,
    stages: &mut Vec<Stage>,
) -> Option<&'s Arc<Listener>> {
    let listeners = || snapshot.listeners.values();
    let winner = match (&question.listener, question.destination) {
        (Some(name), _) => listeners().find(|listener| *listener.name == **name),
        (None, Some(destination)) => {
            let on = |wanted: &dyn Fn(SocketAddr) -> bool| listeners().find(|l| l.socket_addresses().any(wanted));
            let for_any = |own: SocketAddr| own.port() == destination.port() && own.ip().is_unspecified();
            on(&|own| own == destination).or_else(|| on(&for_any))
        }
        // The only one there is needs no name.
        (None, None) => listeners().next().filter(|_| snapshot.listeners.len() == 1),
    };
    let candidates = listeners().map(|listener| {
        let is_winner = winner.is_some_and(|winner| Arc::ptr_eq(winner, listener));
        let candidate = if is_winner {
            Candidate::won(&*listener.name, format!("listens on {}", addresses(listener)))
        } else {
            Candidate::lost(&*listener.name, mismatch(listener, question))
        };
        candidate.from(listener_source(listener))
    });
    stages.push(Stage::of("listener", candidates.collect()));
    winner
}

fn addresses(listener: &Listener) -> String {
    let addresses = listener.addresses.iter().map(|listen| listen.address.to_string());
    addresses.collect::<Vec<_>>().join(", ")
}

fn mismatch(listener: &Listener, question: &Question) -> String {
    match (&question.listener, question.destination) {
        (Some(name), _) => format!("is not {name:?}"),
        (None, Some(destination)) => format!("listens on {}, not on {destination}", addresses(listener)),
        (None, None) => "the question names neither a listener nor a destination".to_owned(),
    }
}

pub(super) fn filter_chain<'l>(
    listener: &'l Listener,
    facts: &ConnectionFacts<'_>,
    stages: &mut Vec<Stage>,
) -> Option<&'l FilterChain> {
    let winner = listener.table.find(facts);
    let default = listener.table.default_chain();
    let candidates = listener.chains.iter().enumerate().map(|(index, chain)| {
        let name = if chain.name.is_empty() { format!("#{index}") } else { chain.name.to_string() };
        let why_not = if default == Some(index) { None } else { failed(&chain.criteria, facts) };
        let candidate = match (winner == Some(index), why_not) {
            (true, _) if default == Some(index) => Candidate::won(name, "the default chain: no other matches"),
            (true, _) => Candidate::won(name, "matches"),
            (false, Some(reason)) => Candidate::lost(name, reason),
            (false, None) if default == Some(index) => Candidate::lost(name, "the default chain: another one matches"),
            (false, None) => Candidate::lost(name, "matches, and another one matches more specifically"),
        };
        candidate.from(listener_source(listener))
    });
    stages.push(Stage::of("filter chain", candidates.collect()));
    listener.chains.get(winner?)
}

/// The first criterion that a connection fails, in the order in which they count; `None`: it matches.
fn failed(criteria: &FilterChainMatch, facts: &ConnectionFacts<'_>) -> Option<String> {
    let within = |prefixes: &[Cidr], ip: Option<IpAddr>| {
        prefixes.is_empty() || ip.is_some_and(|ip| prefixes.iter().any(|prefix| prefix.contains(ip)))
    };
    let told = |ip: Option<IpAddr>| ip.map_or_else(|| "unknown".to_owned(), |ip| ip.to_string());
    let destination = facts.destination.map(|address| address.ip());
    let source = facts.source.map(|address| address.ip());
    let direct = facts.direct_source.map(|address| address.ip());
    if let Some(port) = criteria.destination_port
        && facts.destination.map(|address| address.port()) != Some(port)
    {
        return Some(format!("destination_port is {port}"));
    }
    if !within(&criteria.destination_prefixes, destination) {
        return Some(format!("prefix_ranges doesn't contain {}", told(destination)));
    }
    if !criteria.server_names.is_empty() && !criteria.server_names.iter().any(|name| covers(name, facts.server_name)) {
        return Some(format!("server_names doesn't contain {:?}", facts.server_name));
    }
    if let Some(protocol) = &criteria.transport_protocol
        && **protocol != *facts.transport_protocol
    {
        return Some(format!("transport_protocol is {protocol:?}, the connection has {:?}", facts.transport_protocol));
    }
    let wanted = &criteria.application_protocols;
    if !wanted.is_empty() && !facts.application_protocols.iter().any(|protocol| wanted.contains(protocol)) {
        return Some("application_protocols has none of the connection's".to_owned());
    }
    if !within(&criteria.direct_source_prefixes, direct) {
        return Some(format!("direct_source_prefix_ranges doesn't contain {}", told(direct)));
    }
    let is_right_type = match criteria.source_type {
        SourceType::Any => true,
        SourceType::SameIpOrLoopback => facts.is_local(),
        SourceType::External => !facts.is_local(),
    };
    if !is_right_type {
        return Some(format!("source_type is {:?}", criteria.source_type));
    }
    if !within(&criteria.source_prefixes, source) {
        return Some(format!("source_prefix_ranges doesn't contain {}", told(source)));
    }
    let port = facts.source.map(|address| address.port());
    let is_right_port =
        criteria.source_ports.is_empty() || port.is_some_and(|port| criteria.source_ports.contains(&port));
    (!is_right_port).then(|| "source_ports doesn't contain the connection's".to_owned())
}

/// `.example.com` stands for `*.example.com`.
fn covers(name: &str, server_name: &str) -> bool {
    if name.starts_with('.') { server_name.ends_with(name) } else { name == server_name }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_criterion_that_fails_is_told() {
        let protocols = [Box::from(&b"h2"[..])];
        let facts = ConnectionFacts {
            destination: Some("10.0.0.1:8443".parse().unwrap()),
            source: Some("192.0.2.7:999".parse().unwrap()),
            direct_source: Some("192.0.2.7:999".parse().unwrap()),
            server_name: "a.shop.test",
            transport_protocol: "tls",
            application_protocols: &protocols,
        };
        let check = |criteria: FilterChainMatch, expected: Option<&str>| {
            let found = failed(&criteria, &facts);
            assert_eq!(found.as_deref(), expected, "{criteria:?}");
        };
        let any = FilterChainMatch::default;
        let cidr = |text: &str, len| vec![Cidr::new(text.parse().unwrap(), len).unwrap()];
        check(any(), None);
        check(FilterChainMatch { destination_port: Some(8443), ..any() }, None);
        check(FilterChainMatch { destination_port: Some(80), ..any() }, Some("destination_port is 80"));
        let elsewhere = FilterChainMatch { destination_prefixes: cidr("10.1.0.0", 16), ..any() };
        check(elsewhere, Some("prefix_ranges doesn't contain 10.0.0.1"));
        check(FilterChainMatch { server_names: vec![".shop.test".into()], ..any() }, None);
        let other = FilterChainMatch { server_names: vec!["shop.test".into()], ..any() };
        check(other, Some("server_names doesn't contain \"a.shop.test\""));
        let raw = FilterChainMatch { transport_protocol: Some("raw_buffer".into()), ..any() };
        check(raw, Some("transport_protocol is \"raw_buffer\", the connection has \"tls\""));
        let http1 = FilterChainMatch { application_protocols: vec![Box::from(&b"http/1.1"[..])], ..any() };
        check(http1, Some("application_protocols has none of the connection's"));
        check(FilterChainMatch { source_type: SourceType::External, ..any() }, None);
        let local = FilterChainMatch { source_type: SourceType::SameIpOrLoopback, ..any() };
        check(local, Some("source_type is SameIpOrLoopback"));
        let source = FilterChainMatch { source_prefixes: cidr("198.51.100.0", 24), ..any() };
        check(source, Some("source_prefix_ranges doesn't contain 192.0.2.7"));
        check(
            FilterChainMatch { source_ports: vec![1], ..any() },
            Some("source_ports doesn't contain the connection's"),
        );
    }
}
