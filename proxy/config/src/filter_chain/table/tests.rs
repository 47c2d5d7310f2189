use std::sync::Arc;

use super::*;
use crate::{NetworkFilter, TcpProxy};

fn proxy() -> NetworkFilter {
    NetworkFilter::Tcp(Arc::new(TcpProxy {
        stat_prefix: "t".into(),
        clusters: Vec::new(),
        total_weight: 1,
        idle_timeout: None,
        max_connect_attempts: 1,
        hashes_source_ip: false,
        max_downstream_connection_duration: None,
        access_logs: Vec::new(),
    }))
}

fn chain(name: &str, criteria: FilterChainMatch) -> FilterChain {
    FilterChain { name: name.into(), criteria, ..FilterChain::new(proxy()) }
}

fn any() -> FilterChainMatch {
    FilterChainMatch::default()
}

fn cidrs(texts: &[&str]) -> Vec<Cidr> {
    let parse = |text: &&str| {
        let (address, len) = text.split_once('/').unwrap();
        Cidr::new(address.parse().unwrap(), len.parse().unwrap()).unwrap()
    };
    texts.iter().map(parse).collect()
}

fn names(texts: &[&str]) -> Vec<Box<str>> {
    texts.iter().map(|text| Box::from(*text)).collect()
}

/// A connection from 10.0.0.9:999 to 10.0.0.1:80.
fn facts<'a>() -> ConnectionFacts<'a> {
    let source = Some("10.0.0.9:999".parse().unwrap());
    ConnectionFacts {
        destination: Some("10.0.0.1:80".parse().unwrap()),
        source,
        direct_source: source,
        server_name: "",
        transport_protocol: "raw_buffer",
        application_protocols: &[],
    }
}

struct Chains {
    chains: Vec<FilterChain>,
    table: FilterChainTable,
}

impl Chains {
    fn new(criteria: Vec<(&str, FilterChainMatch)>) -> Chains {
        let mut chains: Vec<FilterChain> = criteria.into_iter().map(|(name, criteria)| chain(name, criteria)).collect();
        let default = chains.iter().position(|chain| &*chain.name == "default");
        if let Some(default) = default {
            chains[default].criteria = any();
        }
        let table = FilterChainTable::new(&chains, default).unwrap();
        Chains { chains, table }
    }

    fn check(&self, facts: &ConnectionFacts<'_>, expected: &str) {
        let found = self.table.find(facts).map_or("none", |index| &*self.chains[index].name);
        assert_eq!(found, expected, "{facts:?}");
    }
}

#[test]
fn one_chain_takes_everything_or_what_it_asks_for() {
    Chains::new(vec![("a", any())]).check(&facts(), "a");
    Chains::new(vec![("default", any())]).check(&facts(), "default");
    let port = FilterChainMatch { destination_port: Some(81), ..any() };
    Chains::new(vec![("a", port.clone())]).check(&facts(), "none");
    Chains::new(vec![("a", port), ("default", any())]).check(&facts(), "default");
}

#[test]
fn ports_and_prefixes_take_the_most_specific() {
    let to = |port: Option<u16>, prefixes: &[&str]| FilterChainMatch {
        destination_port: port,
        destination_prefixes: cidrs(prefixes),
        ..any()
    };
    let chains = Chains::new(vec![
        ("any", any()),
        ("80", to(Some(80), &["10.0.0.0/8", "fd00::/8"])),
        ("80/16", to(Some(80), &["10.0.0.0/16"])),
        ("v4", to(None, &["0.0.0.0/0"])),
        ("host", to(None, &["10.0.0.1/32"])),
    ]);
    let check = |address: &str, expected: &str| {
        let destination = Some(address.parse().unwrap());
        chains.check(&ConnectionFacts { destination, ..facts() }, expected);
    };
    check("10.0.0.1:80", "80/16");
    check("10.1.0.1:80", "80");
    check("[fd00::1]:80", "80");
    check("[::ffff:10.1.0.1]:80", "80");
    // The port has an entry, which has nothing for the address: no way back.
    check("11.0.0.1:80", "none");
    check("10.0.0.1:81", "host");
    check("10.0.0.2:81", "v4");
    check("[fd00::1]:81", "any");
    chains.check(&ConnectionFacts { destination: None, ..facts() }, "any");
}

#[test]
fn server_names_from_exact_to_none() {
    let name = |texts: &[&str]| FilterChainMatch { server_names: names(texts), ..any() };
    let tls = FilterChainMatch { transport_protocol: Some("tls".into()), ..name(&["only-tls.test"]) };
    let chains = Chains::new(vec![
        ("exact", name(&["a.b.test"])),
        ("b", name(&[".b.test", ".c.test"])),
        ("test", name(&[".test"])),
        ("tls", tls),
        ("default", any()),
    ]);
    let check = |server_name: &str, expected: &str| {
        chains.check(&ConnectionFacts { server_name, ..facts() }, expected);
    };
    check("a.b.test", "exact");
    check("x.b.test", "b");
    check("y.x.b.test", "b");
    check("b.test", "test");
    check("x.c.test", "b");
    check("test", "default");
    check(".test", "test");
    check("x.test.", "default");
    check("", "default");
    // Its own entry wants TLS: the suffix isn't asked.
    check("only-tls.test", "default");
}

#[test]
fn protocols_in_the_clients_order() {
    let with = |transport: &str, protocols: &[&str]| FilterChainMatch {
        transport_protocol: (!transport.is_empty()).then(|| transport.into()),
        application_protocols: protocols.iter().map(|protocol| Box::from(protocol.as_bytes())).collect(),
        ..any()
    };
    let chains = Chains::new(vec![
        ("h2", with("", &["h2"])),
        ("old", with("", &["http/1.1", "http/1.0"])),
        ("tls-h2", with("tls", &["h2"])),
        ("any", any()),
    ]);
    let check = |transport_protocol: &str, offered: &[&str], expected: &str| {
        let application_protocols: Vec<Box<[u8]>> = offered.iter().map(|text| Box::from(text.as_bytes())).collect();
        let application_protocols = &application_protocols[..];
        chains.check(&ConnectionFacts { transport_protocol, application_protocols, ..facts() }, expected);
    };
    check("raw_buffer", &[], "any");
    check("raw_buffer", &["x", "http/1.1", "h2"], "old");
    check("raw_buffer", &["h2", "http/1.1"], "h2");
    check("raw_buffer", &["x"], "any");
    check("tls", &["h2"], "tls-h2");
    check("tls", &["http/1.1"], "none");
}

#[test]
fn sources() {
    let from = |direct: &[&str], source_type, prefixes: &[&str], ports: &[u16]| FilterChainMatch {
        direct_source_prefixes: cidrs(direct),
        source_type,
        source_prefixes: cidrs(prefixes),
        source_ports: ports.to_vec(),
        ..any()
    };
    let chains = Chains::new(vec![
        ("any", any()),
        ("local", from(&[], SourceType::SameIpOrLoopback, &[], &[])),
        ("outside", from(&[], SourceType::External, &["10.0.0.0/8"], &[])),
        ("port", from(&[], SourceType::External, &["10.0.0.0/8"], &[1, 2])),
        ("balancer", from(&["192.168.0.0/16"], SourceType::Any, &[], &[])),
    ]);
    let check = |direct: &str, source: &str, expected: &str| {
        let (direct_source, source) = (Some(direct.parse().unwrap()), Some(source.parse().unwrap()));
        chains.check(&ConnectionFacts { direct_source, source, ..facts() }, expected);
    };
    check("10.0.0.9:9", "10.0.0.9:9", "outside");
    check("10.0.0.9:9", "10.0.0.9:2", "port");
    check("11.0.0.9:9", "11.0.0.9:9", "none");
    check("127.0.0.1:9", "127.0.0.1:9", "local");
    check("127.0.0.1:9", "10.0.0.1:9", "local");
    check("192.168.0.1:9", "10.0.0.9:9", "balancer");
    let unix = ConnectionFacts { destination: None, source: None, direct_source: None, ..facts() };
    chains.check(&unix, "local");
}

#[test]
fn chains_that_match_the_same_are_refused() {
    let check = |a: FilterChainMatch, b: FilterChainMatch, expected: Result<(), FilterChainClash>| {
        let found = FilterChainTable::new(&[chain("a", a), chain("b", b)], None);
        assert_eq!(found.map(|_| ()), expected);
    };
    let name = |texts: &[&str]| FilterChainMatch { server_names: names(texts), ..any() };
    check(any(), any(), Err(FilterChainClash::Same(0, 1)));
    check(name(&["a", "b"]), name(&["b", "c"]), Err(FilterChainClash::Same(0, 1)));
    check(name(&["a", "a"]), name(&["b"]), Ok(()));
    let ports = FilterChainMatch { source_ports: (0..2000).collect(), ..any() };
    let many = FilterChainMatch { server_names: (0..1000).map(|n| n.to_string().into()).collect(), ..ports };
    check(any(), many, Err(FilterChainClash::TooMany));
}
