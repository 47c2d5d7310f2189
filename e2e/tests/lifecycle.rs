//! The command line, the admin interface and the end of a proxy's life, as Envoy's.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Origin, Request, eventually};
use serde_json::{Value, json};

fn plain(origin: &Origin) -> Bootstrap {
    Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(HttpListener::new("main", &json!([route("/", "o")])))
}

#[test]
fn validate_accepts_the_good_and_names_what_is_wrong() {
    let origin = Origin::start("o").expect("origin");
    let bad = Bootstrap::new()
        .cluster(with(cluster("one", &[origin.address()]), json!({"lb_policy": "NONE_SUCH"})))
        .cluster(with(cluster("two", &[origin.address()]), json!({"connect_tiemout": "1s"})));
    for peer in Peer::all() {
        let (code, words) = DataPlane::validate(peer, &plain(&origin)).expect("validate");
        assert_eq!(code, 0, "{}: {words}", peer.name());
        let (code, words) = DataPlane::validate(peer, &bad).expect("validate");
        assert_eq!(code, 1, "{}: {words}", peer.name());
        if peer == Peer::Outrigger {
            // Every problem, each with the path of its field.
            for field in ["static_resources.clusters[0].lb_policy", "static_resources.clusters[1].connect_tiemout"] {
                assert!(words.contains(field), "{field} isn't named: {words}");
            }
        }
    }
}

#[test]
fn a_proxy_that_cannot_start_says_why() {
    for peer in Peer::all() {
        let bad = Bootstrap::new().set("static_resources", json!({"listeners": [{"name": "x", "adress": {}}]}));
        let error = DataPlane::start(peer, &bad).expect_err("it must not start");
        assert!(format!("{error:#}").contains("adress"), "{}: {error:#}", peer.name());
    }
}

#[test]
fn the_admin_interface_is_envoys() {
    for peer in Peer::all() {
        let name = peer.name();
        let origin = Origin::start("o").expect("origin");
        let plane = DataPlane::start(peer, &plain(&origin)).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        assert_eq!(Request::get("/").send(address).expect("answer").status, 200);
        let admin = plane.admin;
        assert_eq!(admin.get("/ready").expect("ready").text().trim(), "LIVE", "{name}");
        let info = admin.json("/server_info").expect("server_info");
        assert_eq!(info["state"], "LIVE", "{name}: {info}");
        assert_eq!(info["node"]["id"], "test-id", "{name}: {info}");
        assert_eq!(info["command_line_options"]["concurrency"], 1, "{name}");
        let clusters = admin.json("/clusters?format=json").expect("clusters");
        let status = clusters["cluster_statuses"].as_array().into_iter().flatten().find(|c| c["name"] == "o");
        let host = &status.expect("the cluster")["host_statuses"][0]["address"]["socket_address"];
        assert_eq!(host["port_value"], origin.address().port(), "{name}: {clusters}");
        assert!(admin.get("/clusters").expect("text").text().contains("o::"), "{name}");
        for (dump, list, inner) in [
            ("BootstrapConfigDump", "", ""),
            ("ClustersConfigDump", "static_clusters", "cluster"),
            ("ListenersConfigDump", "static_listeners", "listener"),
        ] {
            let section = admin.config_dump(dump).expect("a section");
            let found = list.is_empty()
                || section[list].as_array().is_some_and(|l| l.iter().any(|e| e[inner]["name"].is_string()));
            assert!(found, "{name}: {dump}: {section}");
        }
        let text = admin.get("/stats/prometheus").expect("prometheus").text();
        for line in [
            "envoy_http_downstream_rq_total{envoy_http_conn_manager_prefix=\"main\"} 1",
            "envoy_cluster_upstream_rq_total{envoy_cluster_name=\"o\"} 1",
        ] {
            assert!(text.contains(line), "{name}: {line} isn't in\n{text}");
        }
        let filtered = admin.get("/stats?filter=downstream_rq_total").expect("stats").text();
        assert!(
            filtered.contains("http.main.downstream_rq_total: 1") && !filtered.contains("upstream_cx"),
            "{name}: {filtered}"
        );
        assert_eq!(admin.get("/logging").expect("logging").status, 405, "{name}: changes want POST");
        assert_eq!(admin.post("/logging?level=debug").expect("logging").status, 200, "{name}");
        assert_eq!(admin.get("/nothing-here").expect("an answer").status, 404, "{name}");
        assert_eq!(admin.get("/quitquitquit").expect("an answer").status, 405, "{name}: only by POST");
    }
}

#[test]
fn quitquitquit_ends_the_process() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let mut plane = DataPlane::start(peer, &plain(&origin)).expect("the proxy starts");
        assert_eq!(plane.admin.post("/quitquitquit").expect("an answer").status, 200);
        assert!(plane.process.wait(DEADLINE).expect("it ends").success(), "{}", peer.name());
    }
}

#[test]
fn drain_listeners_lets_running_requests_end() {
    for peer in Peer::all() {
        let name = peer.name();
        let origin = Origin::start("o").expect("origin");
        let options = Options { arguments: vec!["--drain-time-s".into(), "1".into()], ..Options::default() };
        let plane = DataPlane::start_with(peer, &plain(&origin), &options).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let mut client = Connection::open(address).expect("connect");
        client.send(Request::get("/held").origin("gate=drain").bytes()).expect("send");
        eventually(DEADLINE, || if origin.seen_at("/held").is_empty() { Err("not there yet") } else { Ok(()) })
            .expect(name);
        assert_eq!(plane.admin.post("/drain_listeners").expect("an answer").status, 200, "{name}");
        eventually(DEADLINE, || match Request::get("/").send(address) {
            Err(_) => Ok(()),
            Ok(response) => Err(format!("still answers {}", response.status)),
        })
        .expect(name);
        origin.open_gate("drain");
        assert_eq!(client.response().expect("the answer").status, 200, "{name}");
    }
}

fn draining(peer: Peer, origin: &Origin, seconds: &str, strategy: &str) -> DataPlane {
    let arguments = ["--drain-time-s", seconds, "--drain-strategy", strategy].map(Into::into).to_vec();
    DataPlane::start_with(peer, &plain(origin), &Options { arguments, ..Options::default() }).expect("the proxy starts")
}

fn open(plane: &DataPlane) -> Connection {
    let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
    let answer = client.exchange(&Request::get("/")).expect("an answer");
    assert_eq!((answer.status, answer.header("connection")), (200, None));
    client
}

#[test]
fn draining_connections_close_with_an_answer() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let plane = draining(peer, &origin, "3600", "immediate");
        let (mut idle, mut busy) = (open(&plane), open(&plane));
        busy.send(Request::get("/held").origin("gate=drain").bytes()).expect("send");
        eventually(DEADLINE, || if origin.seen_at("/held").is_empty() { Err("not there yet") } else { Ok(()) })
            .expect("it is at the origin");
        assert_eq!(plane.admin.post("/drain_listeners?graceful").expect("an answer").status, 200);
        // New ones are served too, until the drain time is over.
        let mut new = eventually(DEADLINE, || {
            let mut new = Connection::open(plane.listener("main").expect("listener")).map_err(|e| e.to_string())?;
            let answer = new.exchange(&Request::get("/")).map_err(|error| format!("{error:#}"))?;
            if answer.header("connection") == Some("close") { Ok(new) } else { Err("drains not yet".to_owned()) }
        })
        .unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
        new.wait_closed(DEADLINE).expect("closed after its answer");
        origin.open_gate("drain");
        let answer = busy.response().expect("the answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{peer:?}: a running request");
        busy.wait_closed(DEADLINE).expect("closed after its answer");
        // Who is idle has lost nothing: the next request is served.
        let answer = idle.exchange(&Request::get("/")).expect("an answer");
        assert_eq!((answer.status, answer.header("connection")), (200, Some("close")), "{peer:?}: an idle connection");
        idle.wait_closed(DEADLINE).expect("closed after its answer");
    }
}

#[test]
fn a_gradual_drain_asks_one_after_the_other() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let plane = draining(peer, &origin, "3600", "gradual");
        let mut clients: Vec<Connection> = (0..8).map(|_| open(&plane)).collect();
        assert_eq!(plane.admin.post("/drain_listeners?graceful").expect("an answer").status, 200);
        // Within the first moments of an hour (almost) none is asked.
        let kept = clients.iter_mut().filter_map(|client| {
            let answer = client.exchange(&Request::get("/")).expect("an answer");
            (answer.status == 200 && answer.header("connection").is_none()).then_some(())
        });
        assert!(kept.count() > 4, "{peer:?}: connections still have their time");
    }
}

#[test]
fn a_drain_has_an_end() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let plane = draining(peer, &origin, "1", "gradual");
        let address = plane.listener("main").expect("listener");
        let mut idle = open(&plane);
        assert_eq!(plane.admin.post("/drain_listeners?graceful").expect("an answer").status, 200);
        eventually(DEADLINE, || match Connection::open(address) {
            Err(_) => Ok(()),
            Ok(_) => Err("still accepts"),
        })
        .unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
        // Envoy leaves the idle ones to whoever ends the process.
        if peer == Peer::Outrigger {
            idle.wait_closed(DEADLINE).expect("the connection closes");
        }
    }
}

#[test]
fn sigterm_drains_and_exits() {
    // Envoy stops at once on SIGTERM; ours ends what runs first.
    for peer in Peer::all().into_iter().filter(|peer| *peer == Peer::Outrigger) {
        let origin = Origin::start("o").expect("origin");
        let options = Options { arguments: vec!["--drain-time-s".into(), "5".into()], ..Options::default() };
        let mut plane = DataPlane::start_with(peer, &plain(&origin), &options).expect("the proxy starts");
        let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
        client.send(Request::get("/held").origin("gate=term").bytes()).expect("send");
        eventually(DEADLINE, || if origin.seen_at("/held").is_empty() { Err("not there yet") } else { Ok(()) })
            .expect("held");
        plane.process.signal("TERM").expect("SIGTERM");
        origin.open_gate("term");
        let response = client.response().expect("the answer of the running request");
        assert_eq!(response.status, 200);
        assert!(plane.process.wait(DEADLINE).expect("it ends").success());
    }
}

#[test]
fn several_workers_share_a_listener_and_its_numbers() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let options = Options { concurrency: 3, ..Options::default() };
        let plane = DataPlane::start_with(peer, &plain(&origin), &options).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let connections: Vec<Connection> = (0..24).map(|_| Connection::open(address).expect("connect")).collect();
        let threads: Vec<_> = connections
            .into_iter()
            .map(|mut connection| {
                std::thread::spawn(move || {
                    (0..20).all(|_| connection.exchange(&Request::get("/")).is_ok_and(|r| r.status == 200))
                })
            })
            .collect();
        assert!(threads.into_iter().all(|thread| thread.join().unwrap_or(false)), "{}", peer.name());
        plane.admin.stat_reaches("http.main.downstream_rq_2xx", 480, DEADLINE).expect("all are counted");
        assert_eq!(plane.admin.stat("http.main.downstream_rq_total").expect("stats"), 480, "{}", peer.name());
    }
}

#[test]
fn open_streams_outlive_nothing_they_should_not() {
    // Gauges come back to zero once everybody has left.
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let plane = DataPlane::start(peer, &plain(&origin)).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        for _ in 0..10 {
            assert_eq!(Request::get("/").send(address).expect("answer").status, 200);
        }
        for gauge in
            ["http.main.downstream_cx_active", "http.main.downstream_rq_active", "cluster.o.upstream_rq_active"]
        {
            let back = eventually(Duration::from_secs(10), || match plane.admin.stat(gauge) {
                Ok(0) => Ok(()),
                other => Err(format!("{gauge} is {other:?}")),
            });
            back.expect("the gauge");
        }
    }
}

#[test]
fn unsupported_fields_are_told() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    // A field that could widen access is refused, one that cannot is warned about: never silently ignored.
    let origin = Origin::start("o").expect("origin");
    let listener: Value = HttpListener::new("main", &json!([route("/", "o")])).into();
    let tls = with(
        listener,
        json!({"filter_chains": [{
            "filters": [], "transport_socket": {"name": "tls", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext", "require_client_certificate": true}},
        }]}),
    );
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(tls);
    let (code, words) = DataPlane::validate(Peer::Outrigger, &bootstrap).expect("validate");
    assert_eq!(code, 1, "{words}");
    assert!(words.contains("transport_socket"), "{words}");
}
