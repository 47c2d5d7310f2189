//! What is shed while memory or connections run short, as in Envoy.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Origin, Request, eventually};
use serde_json::{Value, json};

const MONITORS: &str = "type.googleapis.com/envoy.extensions.resource_monitors";

fn bootstrap(origin: &Origin, manager: Value, listener: Value) -> Bootstrap {
    let main: Value = HttpListener::new("main", &json!([route("/", "o")])).into();
    Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(with(main, listener))
        .set("overload_manager", manager)
}

/// A heap that is far beyond its bound, and one action that follows.
fn full_heap(action: &str) -> Value {
    json!({
        "refresh_interval": "0.05s",
        "resource_monitors": [{
            "name": "envoy.resource_monitors.fixed_heap",
            "typed_config": {"@type": format!("{MONITORS}.fixed_heap.v3.FixedHeapConfig"), "max_heap_size_bytes": 1000},
        }],
        "actions": [{
            "name": format!("envoy.overload_actions.{action}"),
            "triggers": [{"name": "envoy.resource_monitors.fixed_heap", "threshold": {"value": 0.9}}],
        }],
    })
}

#[test]
fn new_streams_are_refused_while_memory_is_short() {
    for peer in Peer::all() {
        let name = peer.name();
        let origin = Origin::start("o").expect("origin");
        let manager = full_heap("stop_accepting_requests");
        let plane = DataPlane::start(peer, &bootstrap(&origin, manager, json!({}))).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let refused = eventually(DEADLINE, || {
            let response = Request::get("/").send(address).map_err(|error| format!("{error:#}"))?;
            if response.status == 503 { Ok(response) } else { Err(format!("{name}: {response:?}")) }
        })
        .expect("a refusal");
        assert_eq!(refused.text(), "envoy overloaded", "{name}");
        let text = plane.admin.get("/stats").expect("stats").text();
        for line in [
            "overload.envoy.overload_actions.stop_accepting_requests.active: 1",
            "overload.envoy.overload_actions.stop_accepting_requests.scale_percent: 100",
        ] {
            assert!(text.contains(line), "{name}: {line} is missing");
        }
    }
}

#[test]
fn connections_close_with_their_answer_while_memory_is_short() {
    for peer in Peer::all() {
        let name = peer.name();
        let origin = Origin::start("o").expect("origin");
        let manager = full_heap("disable_http_keepalive");
        let plane = DataPlane::start(peer, &bootstrap(&origin, manager, json!({}))).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        eventually(DEADLINE, || {
            let response = Request::get("/").send(address).map_err(|error| format!("{error:#}"))?;
            let closes = response.header("connection") == Some("close") && response.status == 200;
            if closes { Ok(()) } else { Err(format!("{name}: {response:?}")) }
        })
        .expect("an answer that closes");
    }
}

#[test]
fn a_listener_may_be_exempt() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let manager = full_heap("stop_accepting_requests");
        let exempt = json!({"bypass_overload_manager": true});
        let plane = DataPlane::start(peer, &bootstrap(&origin, manager, exempt)).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        eventually(DEADLINE, || {
            let text = plane.admin.get("/stats").map_err(|error| format!("{error:#}"))?.text();
            let line = "overload.envoy.overload_actions.stop_accepting_requests.active: 1";
            if text.contains(line) { Ok(()) } else { Err("not active yet".to_owned()) }
        })
        .expect("the action is active");
        assert_eq!(Request::get("/").send(address).expect("answer").status, 200, "{}", peer.name());
    }
}

#[test]
fn connections_beyond_the_limit_of_the_process_are_closed() {
    let manager = json!({
        "resource_monitors": [{
            "name": "envoy.resource_monitors.global_downstream_max_connections",
            "typed_config": {
                "@type": format!("{MONITORS}.downstream_connections.v3.DownstreamConnectionsConfig"),
                "max_active_downstream_connections": 2,
            },
        }],
    });
    for peer in Peer::all() {
        let name = peer.name();
        let origin = Origin::start("o").expect("origin");
        let plane = DataPlane::start(peer, &bootstrap(&origin, manager.clone(), json!({}))).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let mut open: Vec<Connection> =
            (0..2).map(|_| Connection::open(address).expect("a connection within the limit")).collect();
        for connection in &mut open {
            assert_eq!(connection.exchange(&Request::get("/")).expect("answer").status, 200, "{name}");
        }
        let beyond = Request::get("/").send(address);
        assert!(beyond.is_err(), "{name}: {beyond:?}");
        // Envoy's workers tell of their counts a moment later.
        eventually(DEADLINE, || {
            let text = plane.admin.get("/stats").map_err(|error| format!("{error:#}"))?.text();
            let counted = text.lines().any(|line| line.ends_with("downstream_global_cx_overflow: 1"));
            if counted { Ok(()) } else { Err(format!("{name}: the refusal isn't counted")) }
        })
        .expect("counted");
        // Room again: a new connection is served.
        drop(open);
        eventually(DEADLINE, || Request::get("/").send(address).map_err(|error| format!("{name}: {error:#}")))
            .expect("served again");
    }
}

/// Requests that wait for a connection are a resource of ours: Envoy has no monitor for them.
#[test]
fn new_streams_are_refused_while_many_wait_for_a_connection() {
    let (busy, idle) = (Origin::start("busy").expect("origin"), Origin::start("idle").expect("origin"));
    let manager = json!({
        "refresh_interval": "0.05s",
        "resource_monitors": [{
            "name": "waiting",
            "typed_config": {
                "@type": "type.googleapis.com/outrigger.resource_monitors.pending_requests.v1.PendingRequestsConfig",
                "max_pending_requests": 4,
            },
        }],
        "actions": [{
            "name": "envoy.overload_actions.stop_accepting_requests",
            "triggers": [{"name": "waiting", "threshold": {"value": 1}}],
        }],
    });
    let one = json!({"circuit_breakers": {"thresholds": [{"max_connections": 1}]}});
    let bootstrap = Bootstrap::new()
        .cluster(with(cluster("busy", &[busy.address()]), one))
        .cluster(cluster("idle", &[idle.address()]))
        .listener(HttpListener::new("main", &json!([route("/busy", "busy"), route("/", "idle")])))
        .set("overload_manager", manager);
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("listener");
    let asks = |status: u16| {
        eventually(DEADLINE, || {
            let response = Request::get("/").send(address).map_err(|error| format!("{error:#}"))?;
            if response.status == status { Ok(response) } else { Err(format!("{response:?}")) }
        })
        .expect("an answer")
    };
    asks(200);
    // One connection a worker at most: the others wait for it.
    let mut waiting: Vec<Connection> = (0..12).map(|_| Connection::open(address).expect("a connection")).collect();
    for connection in &mut waiting {
        connection.send(Request::get("/busy").origin("gate=open").bytes()).expect("sends");
        connection.expect_answer_to("GET");
    }
    assert_eq!(asks(503).text(), "envoy overloaded");
    plane.admin.stat_reaches("overload.waiting.pressure", 100, DEADLINE).expect("the pressure is shown");
    busy.open_gate("open");
    for connection in &mut waiting {
        assert_eq!(connection.response().expect("an answer").status, 200);
    }
    asks(200);
}
