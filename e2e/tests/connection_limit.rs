//! How many connections a filter chain and a listener may have: one table for Envoy and ours.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener, with};
use outrigger_e2e::process::run;
use outrigger_e2e::wait::{DEADLINE, until};
use outrigger_e2e::{Bootstrap, Connection, DataPlane, Origin, Peer, Request, eventually};
use serde_json::{Value, json};

/// A listener with a limit of one connection.
fn limited(mut listener: Value, delay: Option<&str>) -> Value {
    let name = listener["name"].as_str().expect("a name").to_owned();
    let mut config = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.connection_limit.v3.ConnectionLimit",
        "stat_prefix": name, "max_connections": 1,
    });
    if let Some(delay) = delay {
        config["delay"] = delay.into();
    }
    let filter = json!({"name": "envoy.filters.network.connection_limit", "typed_config": config});
    listener["filter_chains"][0]["filters"].as_array_mut().expect("filters").insert(0, filter);
    listener
}

fn http(name: &str) -> Value {
    HttpListener::new(name, &json!([route("/", "o")])).into()
}

fn bootstrap(origin: &Origin) -> Bootstrap {
    let mut off = limited(http("off"), None);
    off["filter_chains"][0]["filters"][0]["typed_config"]["runtime_enabled"] =
        json!({"default_value": false, "runtime_key": "some.key"});
    Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(limited(http("http"), None))
        .listener(limited(http("http_delayed"), Some("0.05s")))
        .listener(limited(http("http_kept"), Some("60s")))
        .listener(limited(tcp_listener("tcp", "o"), None))
        .listener(limited(tcp_listener("tcp_delayed", "o"), Some("0.05s")))
        .listener(off)
        .listener(with(http("bound.here"), json!({"stat_prefix": "bound"})))
        .listener(http("unbound"))
        .set(
            "layered_runtime",
            json!({"layers": [
                {"name": "a", "static_layer": {"envoy.resource_limits.listener.bound.here.connection_limit": 7}},
                {"name": "b", "static_layer": {"envoy.resource_limits": {
                    "listener.bound.here.connection_limit": 1, "listener.other.connection_limit": 0,
                }}},
            ]}),
        )
}

fn served(address: SocketAddr) -> anyhow::Result<Connection> {
    let mut connection = Connection::open(address)?;
    let response = connection.exchange(&Request::get("/"))?;
    anyhow::ensure!(response.status == 200, "{response:?}");
    Ok(connection)
}

fn check(plane: &DataPlane, name: &str, gauge: Option<&str>, counter: &str) {
    let peer = plane.peer.name();
    let stat = |name: &str| plane.admin.stat(name).unwrap_or_default();
    let settles = |name: &str, value: u64| {
        until(DEADLINE, &format!("{peer}: {name} is {value}"), || stat(name) == value).expect("settles");
    };
    let address = plane.listener(name).expect("a listener");
    let first = served(address).expect("the first one is served");
    let before = stat(counter);
    assert!(served(address).is_err(), "{peer}: {name}: a second one is served");
    settles(counter, before + 1);
    if let Some(gauge) = gauge {
        settles(gauge, 1);
    }
    drop(first);
    let again = eventually(DEADLINE, || served(address)).expect("one more after the first");
    drop(again);
    if let Some(gauge) = gauge {
        settles(gauge, 0);
    }
}

#[test]
fn there_are_so_many_connections() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = DataPlane::start(peer, &bootstrap(&origin)).expect("the proxy starts");
        for name in ["http", "http_delayed", "tcp", "tcp_delayed"] {
            let counter = format!("connection_limit.{name}.limited_connections");
            check(&plane, name, Some(&format!("connection_limit.{name}.active_connections")), &counter);
        }
        check(&plane, "bound.here", None, "listener.bound.downstream_cx_overflow");
        for name in ["off", "unbound"] {
            let address = plane.listener(name).expect("a listener");
            let both = [served(address), served(address)];
            assert!(both.iter().all(Result::is_ok), "{}: {name}: {both:?}", peer.name());
        }
    }
}

/// A connection that is to be closed later counts, is not read, and holds the others off.
#[test]
fn a_delayed_refusal_counts() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = DataPlane::start(peer, &bootstrap(&origin)).expect("the proxy starts");
        let address = plane.listener("http_kept").expect("a listener");
        let active = |count: u64| {
            let is = || plane.admin.stat("connection_limit.http_kept.active_connections").unwrap_or_default() == count;
            until(DEADLINE, &format!("{}: {count} connections", peer.name()), is).expect("counted");
        };
        let first = served(address).expect("the first one is served");
        let mut second = Connection::open(address).expect("a connection");
        second.send(Request::get("/").bytes()).expect("sends");
        active(2);
        assert!(second.wait_closed(Duration::from_millis(50)).is_err(), "{}: it waits", peer.name());
        drop(first);
        active(1);
        let third = Connection::open(address).expect("a connection");
        active(2);
        assert_eq!(origin.seen().len(), 1, "{}: none but the first is served", peer.name());
        drop((second, third));
        active(0);
        drop(served(address).expect("there is room again"));
    }
}

/// The process's limit is not that of a listener that says so.
#[test]
fn a_listener_may_ignore_the_limit_of_all() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let named = |name: &str, more: Value| with(with(http(name), json!({"stat_prefix": name})), more);
        let monitor = json!({"name": "envoy.resource_monitors.global_downstream_max_connections", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.resource_monitors.downstream_connections.v3.DownstreamConnectionsConfig",
            "max_active_downstream_connections": 1,
        }});
        let bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .listener(named("limited", json!({})))
            .listener(named("exempt", json!({"ignore_global_conn_limit": true})))
            .set("overload_manager", json!({"resource_monitors": [monitor]}));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let [limited, exempt] = ["limited", "exempt"].map(|name| plane.listener(name).expect("a listener"));
        let _first = served(limited).expect("the first one is served");
        assert!(served(limited).is_err(), "{}: a second one is served", peer.name());
        let others = [served(exempt), served(exempt)];
        assert!(others.iter().all(Result::is_ok), "{}: {others:?}", peer.name());
        let refused = plane.admin.stat("listener.limited.downstream_global_cx_overflow").expect("a statistic");
        assert_eq!(refused, 1, "{}", peer.name());
    }
}

/// How many connections the kernel keeps for who doesn't come to accept them.
#[test]
fn a_listener_has_its_backlog() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .listener(with(http("short"), json!({"tcp_backlog_size": 7})));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let port = plane.listener("short").expect("a listener").port();
        let sockets = run(Command::new("ss").args(["-Hltn", &format!("sport = :{port}")])).expect("ss");
        let backlogs: Vec<&str> = sockets.lines().filter_map(|line| line.split_whitespace().nth(2)).collect();
        assert_eq!(backlogs, ["7"], "{}: {sockets}", peer.name());
    }
}
