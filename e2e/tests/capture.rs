//! Connections that are redirected to the proxy by the kernel: REDIRECT and TPROXY, IPv4 and IPv6, each in a network
//! namespace of its own, with one table for Envoy and ours.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use outrigger_e2e::bootstrap::{address, cluster, tcp_listener, with};
use outrigger_e2e::netns::{isolated, nft, run};
use outrigger_e2e::talker::{Talker, ask, name};
use outrigger_e2e::{Bootstrap, DataPlane, Peer};
use serde_json::{Value, json};

/// Where redirected connections arrive.
const PORT: u16 = 15_001;

fn socket(text: &str) -> SocketAddr {
    text.parse().expect("an address")
}

/// A listener that isn't bound: what comes for its address comes by the capturing listener.
fn unbound(name: &str, at: &str) -> Value {
    with(tcp_listener(name, name), json!({"address": address(socket(at)), "bind_to_port": false}))
}

fn bootstrap(talkers: &[Talker], names: &[&str], transparent: bool) -> Bootstrap {
    let capturing = with(
        tcp_listener("capture", "own"),
        json!({
            "address": address(socket(&format!("0.0.0.0:{PORT}"))),
            "additional_addresses": [{"address": address(socket(&format!("[::]:{PORT}")))}],
            "use_original_dst": true,
            "transparent": transparent,
            "listener_filters": [{
                "name": "envoy.filters.listener.original_dst",
                "typed_config": {
                    "@type": "type.googleapis.com/envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
                },
            }],
        }),
    );
    let by_port = with(
        tcp_listener("inner", "own"),
        json!({
            "address": address(socket("0.0.0.0:8083")),
            "bind_to_port": false,
            "filter_chains": [chain("prefix", json!({"prefix_ranges": [{"address_prefix": "10.9.0.2", "prefix_len": 32}]}))],
            "default_filter_chain": chain("own", json!({})),
        }),
    );
    // From addresses that are not redirected, or the proxy would meet itself.
    let passing = |name: &str, source: &str| {
        json!({
            "name": name, "type": "ORIGINAL_DST", "lb_policy": "CLUSTER_PROVIDED", "connect_timeout": "2s",
            "upstream_bind_config": {"source_address": address(socket(source))["socket_address"]},
        })
    };
    let clusters = names.iter().zip(talkers).map(|(name, talker)| cluster(name, &[talker.address()]));
    let bootstrap = clusters.fold(Bootstrap::new(), Bootstrap::cluster);
    bootstrap
        .listener(capturing)
        .listener(unbound("exact", "10.9.0.1:8080"))
        .listener(unbound("wild", "0.0.0.0:8081"))
        .listener(unbound("exact6", "[fd09::1]:8080"))
        .listener(unbound("wild6", "[::]:8082"))
        .listener(by_port)
        .cluster(passing("pass", "127.0.0.6:0"))
        .cluster(passing("pass6", "[::6]:0"))
        .listener(unbound("pass", "0.0.0.0:8085"))
        .listener(unbound("pass6", "[::]:8086"))
}

fn chain(cluster: &str, criteria: Value) -> Value {
    let filters = tcp_listener(cluster, cluster)["filter_chains"][0]["filters"].clone();
    let mut chain = json!({"filters": filters});
    if criteria != json!({}) {
        chain["filter_chain_match"] = criteria;
    }
    chain
}

/// Where clients connect to, and who must answer. Nobody listens on any of these addresses.
const TABLE: [(&str, &str); 10] = [
    ("10.9.0.1:8080", "exact"),
    ("10.9.0.2:8080", "own"),
    ("10.9.0.1:8081", "wild"),
    ("10.9.0.2:8081", "wild"),
    ("10.9.0.1:8083", "own"),
    ("10.9.0.2:8083", "prefix"),
    ("10.9.0.7:8089", "own"),
    ("[fd09::1]:8080", "exact6"),
    ("[fd09::2]:8080", "own"),
    ("[fd09::2]:8082", "wild6"),
];

fn everybody_is_reached(transparent: bool) -> Result<()> {
    let names = ["own", "exact", "wild", "exact6", "wild6", "prefix"];
    let talkers: Result<Vec<Talker>> = names.iter().map(|name| Talker::start(name)).collect();
    let talkers = talkers?;
    let there = Talker::on(socket("10.9.0.9:8085"), "there", false)?;
    let there6 = Talker::on(socket("[fd09::9]:8086"), "there", false)?;
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap(&talkers, &names, transparent))?;
        for (to, expected) in TABLE {
            let answer = ask(socket(to), b"hello").with_context(|| format!("{} for {to}", peer.name()))?;
            ensure!(name(&answer) == expected, "{}: {to} is answered by {answer:?}, not {expected}", peer.name());
        }
        // On to where the client wanted to.
        for (there, source) in [(&there, "127.0.0.6"), (&there6, "[::6]")] {
            let answer = ask(there.address(), b"hello").with_context(|| format!("{} for {there:?}", peer.name()))?;
            let wanted = format!("there {source}:");
            ensure!(answer.starts_with(&wanted), "{}: {answer:?}, not {wanted:?}", peer.name());
        }
        // Who comes straight is served by the listener itself.
        for straight in [format!("127.0.0.1:{PORT}"), format!("[::1]:{PORT}")] {
            let answer = ask(socket(&straight), b"hello").with_context(|| format!("{} for {straight}", peer.name()))?;
            ensure!(name(&answer) == "own", "{}: {straight} is answered by {answer:?}", peer.name());
        }
        drop(plane);
    }
    Ok(())
}

/// Addresses for the client, and a way to where nobody is.
fn own_addresses() -> Result<()> {
    run("ip", &["address", "add", "10.8.0.1/32", "dev", "lo"])?;
    run("ip", &["-6", "address", "add", "fd08::1/128", "dev", "lo", "nodad"])?;
    run("ip", &["route", "add", "10.9.0.0/24", "dev", "lo", "src", "10.8.0.1"])?;
    run("ip", &["-6", "route", "add", "fd09::/64", "dev", "lo", "src", "fd08::1"])?;
    run("ip", &["address", "add", "10.9.0.9/32", "dev", "lo"])?;
    for own in ["fd09::9/128", "::6/128"] {
        run("ip", &["-6", "address", "add", own, "dev", "lo", "nodad"])?;
    }
    Ok(())
}

#[test]
fn redirected_connections_go_to_the_listener_of_their_destination() {
    let outcome = isolated("redirected_connections_go_to_the_listener_of_their_destination", || {
        own_addresses()?;
        nft(&format!(
            "table inet capture {{\n chain out {{\n type nat hook output priority -100\n \
             ip saddr 127.0.0.6 return\n ip6 saddr ::6 return\n \
             ip daddr 10.9.0.0/24 meta l4proto tcp redirect to :{PORT}\n \
             ip6 daddr fd09::/64 meta l4proto tcp redirect to :{PORT}\n }}\n}}"
        ))?;
        everybody_is_reached(false)
    });
    outcome.expect("REDIRECT");
}

#[test]
fn transparent_connections_go_to_the_listener_of_their_destination() {
    let outcome = isolated("transparent_connections_go_to_the_listener_of_their_destination", || {
        // What leaves for the captured networks is marked, comes back by the loopback device, and is taken there.
        for family in ["-4", "-6"] {
            run("ip", &[family, "rule", "add", "fwmark", "1", "lookup", "100"])?;
            run("ip", &[family, "route", "add", "local", "default", "dev", "lo", "table", "100"])?;
        }
        own_addresses()?;
        nft(&format!(
            "table inet capture {{\n chain out {{\n type route hook output priority -150\n \
             ip saddr 127.0.0.6 return\n ip6 saddr ::6 return\n \
             ip daddr 10.9.0.0/24 meta l4proto tcp meta mark set 1\n \
             ip6 daddr fd09::/64 meta l4proto tcp meta mark set 1\n }}\n \
             chain pre {{\n type filter hook prerouting priority -150\n \
             ip saddr 127.0.0.6 return\n ip6 saddr ::6 return\n \
             ip daddr 10.9.0.0/24 meta l4proto tcp tproxy ip to :{PORT} meta mark set 1 accept\n \
             ip6 daddr fd09::/64 meta l4proto tcp tproxy ip6 to :{PORT} meta mark set 1 accept\n }}\n}}"
        ))?;
        everybody_is_reached(true)
    });
    outcome.expect("TPROXY");
}
