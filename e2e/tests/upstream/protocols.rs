//! Which protocol an origin is spoken to in, how long a connection serves, and pings.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener};

use outrigger_e2e::bootstrap::{HttpListener, cluster, route};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::h2c::{H2Connection, H2Request};
use outrigger_e2e::h2raw::{Frame, RawH2};
use outrigger_e2e::tls::{Authority, downstream, upstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Origin, Request};
use serde_json::{Value, json};

use super::{endpoint, of, share, spread, start};

const OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

fn speaking(at: SocketAddr, mut options: Value) -> Value {
    options["@type"] = json!(format!("type.googleapis.com/{OPTIONS}"));
    let mut cluster = of(json!([{"lb_endpoints": [endpoint(at, json!({}))]}]), json!({}));
    cluster["typed_extension_protocol_options"] = json!({OPTIONS: options});
    cluster
}

#[test]
fn the_clients_protocol_is_spoken() {
    let origin = Origin::start("a").expect("an origin");
    for peer in Peer::all() {
        let (plane, main) = start(peer, speaking(origin.address(), json!({"use_downstream_protocol_config": {}})));
        let version = Request::get("/").send(main).expect("an answer").json().expect("an echo")["version"].clone();
        assert_eq!(version, "HTTP/1.1", "{peer:?}");
        let client = H2Connection::open(main).expect("a connection");
        for _ in 0..3 {
            let version =
                client.exchange(&H2Request::get("/")).expect("an answer").json().expect("an echo")["version"].clone();
            assert_eq!(version, "HTTP/2", "{peer:?}");
        }
        let stats = plane.admin.stats().expect("stats");
        assert_eq!(
            [stats["cluster.c.upstream_cx_http1_total"], stats["cluster.c.upstream_cx_http2_total"]],
            [1, 1],
            "{peer:?}"
        );
    }
}

#[test]
fn the_server_chooses_the_protocol() {
    let authority = Authority::new("ours").expect("an authority");
    let leaf = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let origin = Origin::start("a").expect("an origin");
    let secure = |name: &str, protocols: &[&str]| {
        let mut listener: Value = HttpListener::new(name, &json!([route("/", "o")])).into();
        listener["filter_chains"][0]["transport_socket"] = downstream(
            &json!({"common_tls_context": {"tls_certificates": [leaf.config()], "alpn_protocols": protocols}}),
        );
        listener
    };
    let front = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(secure("both", &["h2", "http/1.1"]))
        .listener(secure("old", &["http/1.1"]))
        .listener(secure("silent", &[]));
    let server = DataPlane::start(Peer::Outrigger, &front).expect("the server starts");
    let validation = json!({"trusted_ca": {"inline_string": authority.pem()}});
    let tls = json!({"sni": "server.test", "common_tls_context": {
        "validation_context": validation, "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"}}});
    for peer in Peer::all() {
        for (name, http1, http2) in [("both", 0, 1), ("old", 1, 0), ("silent", 1, 0)] {
            let mut chosen = speaking(server.listener(name).expect("its listener"), json!({"auto_config": {}}));
            chosen["transport_socket"] = upstream(&tls);
            let (plane, main) = start(peer, chosen);
            assert_eq!(share(&spread(main, 10), "a"), 10, "{peer:?} {name}");
            let requests: Vec<H2Request> = (0..8).map(|_| H2Request::get("/")).collect();
            let client = H2Connection::open(main).expect("a connection");
            let answers = client.exchange_all(&requests).expect("answers");
            assert!(answers.iter().all(|answer| answer.status == 200), "{peer:?} {name}");
            let stats = plane.admin.stats().expect("stats");
            let count = |version: u8| {
                stats.get(&format!("cluster.c.upstream_cx_http{version}_total")).copied().unwrap_or_default()
            };
            assert!(count(1) >= http1 && (http1 > 0 || count(1) == 0), "{peer:?} {name}: {}", count(1));
            assert_eq!(count(2), http2, "{peer:?} {name}");
        }
    }
}

#[test]
fn upgrades_go_out_on_http1_though_the_server_would_choose_http2() {
    let authority = Authority::new("ours").expect("an authority");
    let leaf = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let origin = Origin::start("a").expect("an origin");
    let mut secure: Value = HttpListener::new("both", &json!([route("/", "o")])).websocket().into();
    secure["filter_chains"][0]["transport_socket"] = downstream(&json!({"common_tls_context": {
        "tls_certificates": [leaf.config()], "alpn_protocols": ["h2", "http/1.1"]}}));
    let front = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(secure);
    let server = DataPlane::start(Peer::Outrigger, &front).expect("the server starts");
    let at = server.listener("both").expect("its listener");
    let transport = upstream(&json!({"sni": "server.test", "common_tls_context": {
        "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}}}));
    let mut by_alpn = speaking(at, json!({"auto_config": {}}));
    by_alpn["transport_socket"] = transport.clone();
    let mut http2 = speaking(at, json!({"explicit_http_config": {"http2_protocol_options": {}}}));
    http2["name"] = json!("two");
    http2["transport_socket"] = transport;
    let listener = HttpListener::new("main", &json!([route("/two", "two"), route("/", "c")])).websocket();
    let bootstrap = Bootstrap::new().cluster(by_alpn).cluster(http2).listener(listener);
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("it starts");
    let main = plane.listener("main").expect("the listener");
    // The pool has an HTTP/2 connection by now.
    assert_eq!(share(&spread(main, 3), "a"), 3);
    let upgrade = |path: &str| {
        let mut connection = Connection::open(main).expect("a connection");
        let request = Request::get(path).with("Connection", "Upgrade").with("Upgrade", "websocket");
        connection.send(request.bytes()).expect("sent");
        connection.response().expect("an answer").status
    };
    assert_eq!((upgrade("/chat"), upgrade("/two")), (101, 403));
    let stats = plane.admin.stats().expect("stats");
    assert_eq!([stats["cluster.c.upstream_cx_http1_total"], stats["cluster.c.upstream_cx_http2_total"]], [1, 1]);
}

#[test]
fn connections_serve_so_many_requests() {
    for peer in Peer::all() {
        let origin = Origin::start("a").expect("an origin");
        let options = json!({
            "common_http_protocol_options": {"max_requests_per_connection": 2},
            "explicit_http_config": {"http_protocol_options": {}},
        });
        let (plane, main) = start(peer, speaking(origin.address(), options));
        assert_eq!(share(&spread(main, 6), "a"), 6, "{peer:?}");
        assert_eq!(origin.connections(), 3, "{peer:?}");
        // Counted once the last answer is through: its client may ask before that.
        let closed = plane.admin.stat_reaches("cluster.c.upstream_cx_max_requests", 3, DEADLINE);
        assert_eq!(closed.expect("stats"), 3, "{peer:?}");
        let origin = Origin::start("a").expect("an origin");
        let options = json!({"explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 1}}});
        let (_plane, main) = start(peer, speaking(origin.address(), options));
        let gate = "streams";
        let mut clients: Vec<Connection> = (0..3).map(|_| Connection::open(main).expect("a connection")).collect();
        for client in &mut clients {
            client.send(Request::get("/gated").origin(&format!("gate={gate}")).bytes()).expect("sent");
        }
        let waiting = outrigger_e2e::wait::eventually(DEADLINE, || match origin.seen_at("/gated").len() {
            3 => Ok(()),
            count => Err(format!("{count} of 3")),
        });
        waiting.unwrap_or_else(|error| panic!("{peer:?}: {error}"));
        origin.open_gate(gate);
        for client in &mut clients {
            assert_eq!(client.response().expect("an answer").status, 200, "{peer:?}");
        }
        assert_eq!(origin.connections(), 3, "{peer:?}");
    }
}

/// A server that begins HTTP/2 and never says anything more.
fn mute() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut bytes = [0; 4096];
                _ = stream.write_all(&Frame::settings(&[]).bytes());
                while stream.read(&mut bytes).is_ok_and(|read| read > 0) {}
            });
        }
    });
    address
}

#[test]
fn a_peer_that_answers_no_ping_is_given_up() {
    let at = mute();
    let keepalive = json!({"interval": "0.05s", "timeout": "0.1s"});
    let options = json!({"explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}}});
    for peer in Peer::all() {
        let listener = HttpListener::new("main", &json!([route("/", "c")]))
            .manager(json!({"http2_protocol_options": {"connection_keepalive": keepalive}}));
        let bootstrap = Bootstrap::new().cluster(speaking(at, options.clone())).listener(listener);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let main = plane.listener("main").expect("its listener");
        // Towards the origin: the request ends with its connection.
        assert_eq!(Request::get("/").send(main).expect("an answer").status, 503, "{peer:?}");
        plane.admin.stat_reaches("cluster.c.http2.keepalive_timeout", 1, DEADLINE).expect("the ping's deadline");
        // Towards a client that says nothing either.
        let mut client = RawH2::open(main, &[]).expect("a connection");
        client.patience(DEADLINE).expect("a timeout");
        while let Ok(Some(_)) = client.frame() {}
        plane.admin.stat_reaches("http2.keepalive_timeout", 1, DEADLINE).expect("the ping's deadline");
    }
}
