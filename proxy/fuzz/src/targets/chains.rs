//! Filter chains: the table against a model that looks at every chain, level by level.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use outrigger_config::{
    Cidr, ConnectionFacts, FilterChain, FilterChainMatch, FilterChainTable, NetworkFilter, SourceType, TcpProxy,
};

use crate::{Target, fingerprint};

pub(super) const CHAINS: Target = Target {
    name: "chains",
    about: "the table finds the chain that Envoy's order does, and refuses chains that take the same connections",
    seeds: || vec![vec![0; 40], (0..60).collect(), (0..120).rev().collect()],
    words: &[b"\0\0\0\0", b"\x01", b"\x02\x01\x02", b"\xff\xff"],
    prepare: || Box::new(|input| fingerprint(&chains(&mut Choices(input)))),
    short: 5_000,
};

const CHAINS_MAX: usize = 6;
const CONNECTIONS: usize = 12;

/// Small numbers out of the input; zeros behind its end.
struct Choices<'a>(&'a [u8]);

impl Choices<'_> {
    fn below(&mut self, bound: usize) -> usize {
        let Some((first, rest)) = self.0.split_first() else { return 0 };
        self.0 = rest;
        usize::from(*first) % bound
    }

    /// Up to two of these, sorted, each once; most often none.
    fn some<T: Clone + Ord>(&mut self, of: &[T]) -> Vec<T> {
        let count = self.below(4).saturating_sub(1);
        let mut chosen: Vec<T> = (0..count).map(|_| of[self.below(of.len())].clone()).collect();
        chosen.sort_unstable();
        chosen.dedup();
        chosen
    }
}

fn prefixes() -> Vec<Cidr> {
    let v4 = |a, b, len| Cidr::new(IpAddr::V4(Ipv4Addr::new(10, a, 0, b)), len);
    let v6 = |last, len| Cidr::new(IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, last)), len);
    [v4(0, 0, 8), v4(0, 0, 16), v4(0, 1, 32), v4(1, 0, 16), v4(0, 0, 0), v6(0, 8), v6(1, 128), v6(0, 0)]
        .into_iter()
        .flatten()
        .collect()
}

const NAMES: [&str; 5] = ["a.test", ".test", "b.a.test", ".a.test", "c"];
const PORTS: [u16; 3] = [80, 443, 8080];
const TRANSPORTS: [&str; 2] = ["tls", "raw_buffer"];
const PROTOCOLS: [&[u8]; 3] = [b"h2", b"http/1.1", b"x"];

fn criteria(choices: &mut Choices<'_>) -> FilterChainMatch {
    let names: Vec<Box<str>> = NAMES.iter().map(|name| Box::from(*name)).collect();
    let protocols: Vec<Box<[u8]>> = PROTOCOLS.iter().map(|protocol| Box::from(*protocol)).collect();
    let transport = choices.below(TRANSPORTS.len() * 2);
    FilterChainMatch {
        destination_port: choices.some(&PORTS).first().copied(),
        destination_prefixes: choices.some(&prefixes()),
        server_names: choices.some(&names),
        transport_protocol: TRANSPORTS.get(transport).map(|name| Box::from(*name)),
        application_protocols: choices.some(&protocols),
        direct_source_prefixes: choices.some(&prefixes()),
        source_type: [SourceType::Any, SourceType::SameIpOrLoopback, SourceType::External][choices.below(3)],
        source_prefixes: choices.some(&prefixes()),
        source_ports: choices.some(&PORTS),
    }
}

fn chain(criteria: FilterChainMatch) -> FilterChain {
    let proxy = TcpProxy {
        stat_prefix: "t".into(),
        clusters: Vec::new(),
        total_weight: 1,
        idle_timeout: None,
        max_connect_attempts: 1,
        hashes_source_ip: false,
        max_downstream_connection_duration: None,
        access_logs: Vec::new(),
    };
    FilterChain { criteria, ..FilterChain::new(NetworkFilter::Tcp(Arc::new(proxy))) }
}

fn address(choices: &mut Choices<'_>) -> Option<SocketAddr> {
    let v4 = |a, b| Ipv4Addr::new(10, a, 0, b);
    let ip = match choices.below(9) {
        0 => return None,
        1 => IpAddr::V4(v4(0, 1)),
        2 => IpAddr::V4(v4(0, 2)),
        3 => IpAddr::V4(v4(1, 1)),
        4 => IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)),
        5 => IpAddr::V4(Ipv4Addr::LOCALHOST),
        // An IPv4 address as a socket for both families shows it.
        6 => IpAddr::V6(v4(0, 1).to_ipv6_mapped()),
        7 => IpAddr::V6(Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, 1)),
        _ => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    Some(SocketAddr::new(ip, [80, 443, 1][choices.below(3)]))
}

fn chains(choices: &mut Choices<'_>) -> Vec<Option<usize>> {
    let count = 1 + choices.below(CHAINS_MAX);
    let default = choices.below(count * 2);
    let default = (default < count).then_some(default);
    let chains: Vec<FilterChain> = (0..count)
        .map(|index| chain(if default == Some(index) { FilterChainMatch::default() } else { criteria(choices) }))
        .collect();
    let matching: Vec<usize> = (0..count).filter(|index| default != Some(*index)).collect();
    let clash = matching.iter().enumerate().any(|(at, one)| {
        matching[at + 1..].iter().any(|other| clashes(&chains[*one].criteria, &chains[*other].criteria))
    });
    let table = match FilterChainTable::new(&chains, default) {
        Ok(table) => table,
        Err(error) => {
            assert!(clash, "{error}, and no two take the same connections: {chains:?}");
            return vec![None, None];
        }
    };
    assert!(!clash, "two take the same connections: {chains:?}");
    let connection = |choices: &mut Choices<'_>| {
        let offered: Vec<Box<[u8]>> =
            (0..choices.below(3)).map(|_| Box::from(PROTOCOLS[choices.below(PROTOCOLS.len())])).collect();
        let facts = ConnectionFacts {
            destination: address(choices),
            source: address(choices),
            direct_source: address(choices),
            server_name: ["", "a.test", "b.a.test", "x.b.a.test", "test", "c", "x.test"][choices.below(7)],
            transport_protocol: TRANSPORTS[choices.below(TRANSPORTS.len())],
            application_protocols: &offered,
        };
        let found = table.find(&facts);
        assert_eq!(found, model(&chains, default, &facts), "{facts:?} among {chains:?}");
        found
    };
    (0..CONNECTIONS).map(|_| connection(choices)).collect()
}

/// Whether there is a combination that both ask for.
fn clashes(one: &FilterChainMatch, other: &FilterChainMatch) -> bool {
    fn shared<T: PartialEq>(a: &[T], b: &[T]) -> bool {
        if a.is_empty() || b.is_empty() {
            a.is_empty() && b.is_empty()
        } else {
            a.iter().any(|value| b.contains(value))
        }
    }
    one.destination_port == other.destination_port
        && shared(&one.destination_prefixes, &other.destination_prefixes)
        && shared(&one.server_names, &other.server_names)
        && one.transport_protocol == other.transport_protocol
        && shared(&one.application_protocols, &other.application_protocols)
        && shared(&one.direct_source_prefixes, &other.direct_source_prefixes)
        && one.source_type == other.source_type
        && shared(&one.source_prefixes, &other.source_prefixes)
        && shared(&one.source_ports, &other.source_ports)
}

/// How well a chain fits at a level: 0 where it asks for nothing, more the closer; `None`: not at all.
type Fit = fn(&FilterChainMatch, &ConnectionFacts<'_>) -> Option<usize>;

/// Envoy's order. At each level only those stay that fit best.
const LEVELS: [Fit; 9] = [
    |of, facts| exact(of.destination_port.as_slice(), facts.destination.map(|to| to.port()).as_ref()),
    |of, facts| longest(&of.destination_prefixes, facts.destination),
    |of, facts| best(&of.server_names, |name| name_fits(name, facts.server_name)),
    |of, facts| best(of.transport_protocol.as_slice(), |name| (**name == *facts.transport_protocol).then_some(1)),
    |of, facts| {
        best(&of.application_protocols, |protocol| {
            let at = facts.application_protocols.iter().position(|offered| offered == protocol)?;
            Some(facts.application_protocols.len() - at)
        })
    },
    |of, facts| longest(&of.direct_source_prefixes, facts.direct_source),
    |of, facts| match of.source_type {
        SourceType::Any => Some(0),
        SourceType::SameIpOrLoopback => is_local(facts).then_some(1),
        SourceType::External => (!is_local(facts)).then_some(1),
    },
    |of, facts| longest(&of.source_prefixes, facts.source),
    |of, facts| exact(&of.source_ports, facts.source.map(|from| from.port()).as_ref()),
];

fn model(chains: &[FilterChain], default: Option<usize>, facts: &ConnectionFacts<'_>) -> Option<usize> {
    let mut left: Vec<usize> = (0..chains.len()).filter(|index| default != Some(*index)).collect();
    for level in LEVELS {
        let fits = |index: usize| level(&chains[index].criteria, facts);
        let most = left.iter().filter_map(|index| fits(*index)).max();
        left.retain(|index| most.is_some() && fits(*index) == most);
    }
    left.first().copied().or(default)
}

fn best<T>(wanted: &[T], fit: impl Fn(&T) -> Option<usize>) -> Option<usize> {
    if wanted.is_empty() { Some(0) } else { wanted.iter().filter_map(fit).max() }
}

fn exact<T: PartialEq>(wanted: &[T], found: Option<&T>) -> Option<usize> {
    best(wanted, |value| (found == Some(value)).then_some(1))
}

fn longest(wanted: &[Cidr], found: Option<SocketAddr>) -> Option<usize> {
    let found = found.map(|address| address.ip().to_canonical());
    let fits =
        |prefix: &Cidr| found.is_some_and(|ip| ip.is_ipv4() == prefix.address().is_ipv4() && prefix.contains(ip));
    best(wanted, |prefix| fits(prefix).then(|| 1 + usize::from(prefix.prefix_len())))
}

fn name_fits(wanted: &str, found: &str) -> Option<usize> {
    if wanted == found {
        return Some(usize::MAX);
    }
    (wanted.starts_with('.') && found.ends_with(wanted)).then_some(wanted.len())
}

fn is_local(facts: &ConnectionFacts<'_>) -> bool {
    let ip = |address: Option<SocketAddr>| address.map(|address| address.ip().to_canonical());
    ip(facts.source).is_none_or(|source| source.is_loopback() || Some(source) == ip(facts.destination))
}
