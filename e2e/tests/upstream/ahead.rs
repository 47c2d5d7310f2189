//! Connections that are made before anybody needs them (`preconnect_policy`).

use outrigger_e2e::bootstrap::{http2, tcp_listener, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::talker::{self, Talker};
use outrigger_e2e::wait::{DEADLINE, eventually, until};
use outrigger_e2e::{Bootstrap, Connection, Origin, Request};
use serde_json::{Value, json};

use super::{endpoint, of, origins, start};

fn cluster(origins: &[Origin], more: Value) -> Value {
    let endpoints: Vec<Value> = origins.iter().map(|origin| endpoint(origin.address(), json!({}))).collect();
    of(json!([{"lb_endpoints": endpoints}]), more)
}

/// A request that is not answered before the gate opens.
fn held(plane: &DataPlane, origins: &[Origin], path: &str) -> Connection {
    let mut client = Connection::open(plane.listener("main").expect("its listener")).expect("a connection");
    client.send(Request::get(path).origin("gate=open").bytes()).expect("sends");
    client.expect_answer_to("GET");
    let seen = || origins.iter().any(|origin| !origin.seen_at(path).is_empty());
    until(DEADLINE, "an origin has it", seen).expect("held");
    client
}

/// Waits until there are so many connections in all.
fn connections(plane: &DataPlane, expected: u64, what: &str) {
    let seen = eventually(DEADLINE, || match plane.admin.stat("cluster.c.upstream_cx_total") {
        Ok(found) if found == expected => Ok(()),
        other => Err(format!("{other:?}")),
    });
    seen.unwrap_or_else(|error| panic!("{what}: not {expected}: {error:#}"));
}

#[test]
fn connections_are_made_for_those_who_come_next() {
    let per_upstream = |ratio: f64| json!({"preconnect_policy": {"per_upstream_preconnect_ratio": ratio}});
    let one_stream = json!({"http2_protocol_options": {"max_concurrent_streams": 1}});
    let few = json!({"circuit_breakers": {"thresholds": [{"max_connections": 2}]}});
    let cases = [
        ("none", json!({}), 1, [1, 2]),
        ("one and a half", per_upstream(1.5), 1, [2, 3]),
        ("two", per_upstream(2.0), 1, [2, 4]),
        ("three", per_upstream(3.0), 1, [3, 6]),
        ("within the limits", with(per_upstream(3.0), few), 1, [2, 2]),
        ("streams share one", http2(with(per_upstream(3.0), json!({}))), 1, [1, 1]),
        ("one stream each", with(per_upstream(2.0), one_stream), 1, [2, 4]),
        ("of the cluster", json!({"preconnect_policy": {"predictive_preconnect_ratio": 2.0}}), 3, [3, 4]),
        (
            "not known before",
            json!({"preconnect_policy": {"predictive_preconnect_ratio": 3.0}, "lb_policy": "LEAST_REQUEST"}),
            3,
            [1, 2],
        ),
    ];
    for peer in Peer::all() {
        for (name, more, count, expected) in &cases {
            let what = format!("{}: {name}", peer.name());
            let origins = &origins(["a", "b", "c"])[..*count];
            let (plane, main) = start(peer, cluster(origins, more.clone()));
            let mut first = held(&plane, origins, "/first");
            connections(&plane, expected[0], &what);
            let mut second = held(&plane, origins, "/second");
            connections(&plane, expected[1], &what);
            origins.iter().for_each(|origin| origin.open_gate("open"));
            for client in [&mut first, &mut second] {
                assert_eq!(client.response().expect("an answer").status, 200, "{what}");
            }
            for _ in 0..4 {
                assert_eq!(Request::get("/").send(main).expect("an answer").status, 200, "{what}");
            }
            // There are enough for one at a time, wherever it goes.
            if *count == 1 {
                connections(&plane, expected[1], &what);
                let accepted = origins[0].connections();
                assert_eq!(accepted, expected[1], "{what}");
            }
        }
    }
}

#[test]
fn an_ill_endpoint_is_left_alone() {
    for peer in Peer::all() {
        let origins = origins(["a"]);
        let ill = json!({"health_status": "DEGRADED"});
        let localities = json!([{"lb_endpoints": [endpoint(origins[0].address(), ill)]}]);
        let policy = json!({"preconnect_policy": {"per_upstream_preconnect_ratio": 3.0}});
        let (plane, _) = start(peer, of(localities, policy));
        let _first = held(&plane, &origins, "/first");
        let _second = held(&plane, &origins, "/second");
        connections(&plane, 2, peer.name());
        origins[0].open_gate("open");
    }
}

#[test]
fn tunnels_take_what_was_made_ahead() {
    for peer in Peer::all() {
        let server = Talker::start("a").expect("a server");
        let policy = json!({"preconnect_policy": {"per_upstream_preconnect_ratio": 2.0}});
        let cluster = of(json!([{"lb_endpoints": [endpoint(server.address(), json!({}))]}]), policy);
        let bootstrap = Bootstrap::new().cluster(cluster).listener(tcp_listener("tcp", "c"));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let tcp = plane.listener("tcp").expect("its listener");
        let _held = talker::connect(tcp).expect("a connection");
        connections(&plane, 2, peer.name());
        let _another = talker::connect(tcp).expect("a connection");
        connections(&plane, 4, peer.name());
        for _ in 0..3 {
            assert_eq!(talker::name(&talker::ask(tcp, b"hello\n").expect("an answer")), "a", "{peer:?}");
        }
    }
}
