//! TCP through either proxy: shares of clusters, and connections that say nothing.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::collections::BTreeMap;
use std::io::Read;
use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{cluster, tcp_listener, with};
use outrigger_e2e::talker::{self, Talker, connect};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, DataPlane, Peer};
use serde_json::{Value, json};

/// A TCP listener whose proxy says more.
fn listener(name: &str, fields: Value) -> Value {
    let mut listener = tcp_listener(name, "a");
    let proxy = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    if fields["weighted_clusters"].is_object() {
        proxy.as_object_mut().expect("an object").remove("cluster");
    }
    *proxy = with(proxy.clone(), fields);
    listener
}

/// Who answers so many connections.
fn shares(address: SocketAddr, connections: usize) -> BTreeMap<String, usize> {
    let mut shares = BTreeMap::new();
    for _ in 0..connections {
        let answer = talker::ask(address, b"hello\n").expect("an answer");
        *shares.entry(talker::name(&answer).to_owned()).or_default() += 1;
    }
    shares
}

#[test]
fn clusters_take_connections_by_their_weights() {
    let (a, b) = (Talker::start("a").expect("a talker"), Talker::start("b").expect("a talker"));
    let weights = |a: u32, b: u32| json!({"weighted_clusters": {"clusters": [{"name": "a", "weight": a}, {"name": "b", "weight": b}]}});
    let only = json!({"weighted_clusters": {"clusters": [{"name": "b", "weight": 7}]}});
    for peer in Peer::all() {
        let bootstrap = Bootstrap::new()
            .cluster(cluster("a", &[a.address()]))
            .cluster(cluster("b", &[b.address()]))
            .listener(listener("shared", weights(1, 3)))
            .listener(listener("turned", weights(3, 1)))
            .listener(listener("only", only.clone()));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let ask = |name: &str, count: usize| shares(plane.listener(name).expect("its listener"), count);
        // Five standard deviations around 50 of 200.
        for (name, less) in [("shared", "a"), ("turned", "b")] {
            let found = ask(name, 200);
            let share = found.get(less).copied().unwrap_or_default();
            assert!((20..=80).contains(&share), "{}: {name}: {found:?}", peer.name());
        }
        assert_eq!(ask("only", 5), BTreeMap::from([("b".to_owned(), 5)]), "{}", peer.name());
    }
}

#[test]
fn connections_that_say_nothing_are_closed() {
    let talker = Talker::start("a").expect("a talker");
    for peer in Peer::all() {
        let bootstrap = Bootstrap::new()
            .cluster(cluster("a", &[talker.address()]))
            .listener(listener("idle", json!({"idle_timeout": "0.2s"})))
            .listener(listener("patient", json!({"idle_timeout": "0s"})));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut patient = connect(plane.listener("patient").expect("its listener")).expect("a connection");
        let mut idle = connect(plane.listener("idle").expect("its listener")).expect("a connection");
        let mut rest = Vec::new();
        // A reset is an end too.
        let _ = idle.read_to_end(&mut rest);
        assert!(rest.is_empty(), "{}: {rest:?}", peer.name());
        let closed = plane.admin.stat_reaches("tcp.idle.idle_timeout", 1, DEADLINE).expect("it is counted");
        assert_eq!((closed, plane.admin.stat("tcp.patient.idle_timeout").unwrap_or_default()), (1, 0));
        std::io::Write::write_all(&mut patient, b"still here\n").expect("it writes");
        let mut answer = std::io::BufReader::new(patient);
        assert_eq!(talker::name(&talker::line(&mut answer).expect("an answer")), "a", "{}", peer.name());
    }
}
