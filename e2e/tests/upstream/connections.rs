//! Connections to origins: how old they get, and how it is noticed that nobody is there any more.

use std::io::Write;
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use outrigger_e2e::bootstrap::{HttpListener, assignment, cluster, http2, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::h2raw::{ACK, Frame, RawH2, kind};
use outrigger_e2e::tls::upstream;
use outrigger_e2e::wait::{DEADLINE, eventually, until};
use outrigger_e2e::yaml::to_yaml;
use outrigger_e2e::{Bootstrap, Connection, Origin, Request};
use serde_json::{Value, json};

use super::{becomes, origins, start};

pub(super) fn http_options(options: Value) -> Value {
    let typed = json!({"@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions"});
    let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
    json!({"typed_extension_protocol_options": {name: with(typed, options)}})
}

#[test]
fn connections_get_only_so_old() {
    let origin = Origin::start("a").expect("an origin");
    for peer in Peer::all() {
        let young = http_options(json!({
            "common_http_protocol_options": {"max_connection_duration": "0.1s"},
            "explicit_http_config": {"http_protocol_options": {}},
        }));
        let (plane, main) = start(peer, with(cluster("c", &[origin.address()]), young));
        let mut client = Connection::open(main).expect("a connection");
        let renewed = eventually(DEADLINE, || {
            let answer = client.exchange(&Request::get("/")).map_err(|error| format!("{error:#}"))?;
            assert_eq!(answer.status, 200, "{peer:?}");
            let count = |name: &str| plane.admin.stat(&format!("cluster.c.{name}")).unwrap_or_default();
            let counts = (count("upstream_cx_total"), count("upstream_cx_max_duration_reached"));
            if counts.0 >= 3 && counts.1 >= 2 { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        renewed.unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
        // One that is idle ends as well.
        let idle = eventually(DEADLINE, || match plane.admin.stat("cluster.c.upstream_cx_active") {
            Ok(0) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        idle.unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
    }
}

/// Writes the cluster's only endpoint into a watched file.
fn discover(file: &Path, endpoint: SocketAddr) {
    let typed = json!({"@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment"});
    let version = endpoint.port().to_string();
    let resource = with(assignment("c", &[endpoint]), typed);
    let beside = file.with_extension("new");
    let text = to_yaml(&json!({"version_info": version, "resources": [resource]}));
    std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, file)).expect("writes");
}

#[test]
fn connections_end_with_their_endpoint() {
    for (peer, is_http2) in Peer::all().into_iter().flat_map(|peer| [(peer, false), (peer, true)]) {
        let what = format!("{peer:?}, HTTP/2: {is_http2}");
        let [old, new] = origins(["old", "new"]);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("eds.yaml");
        discover(&file, old.address());
        let source = json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
        let discovered = json!({
            "name": "c", "type": "EDS", "connect_timeout": "2s", "eds_cluster_config": {"eds_config": source},
        });
        let (plane, main) = start(peer, if is_http2 { http2(discovered) } else { discovered });
        let answered = || match Request::get("/").send(main).map_err(|error| format!("{error:#}"))? {
            answer if answer.status == 200 => Ok(answer),
            answer => Err(format!("{answer:?}")),
        };
        eventually(DEADLINE, answered).expect("it serves");
        let mut held = Connection::open(main).expect("a connection");
        held.send(Request::get("/held").origin("gate=open").bytes()).expect("sends");
        until(DEADLINE, "the origin has it", || !old.seen_at("/held").is_empty()).expect("held");
        // One that is idle, where one in use can't be shared.
        answered().expect("an answer");
        discover(&file, new.address());
        let moved = eventually(DEADLINE, || match answered()? {
            answer if answer.header("x-origin-name") == Some("new") => Ok(()),
            answer => Err(format!("{answer:?}")),
        });
        moved.unwrap_or_else(|error| panic!("{what}: {error:#}"));
        let remain = |expected: u64| {
            let seen = eventually(DEADLINE, || match plane.admin.stat("cluster.c.upstream_cx_active") {
                Ok(found) if found == expected => Ok(()),
                other => Err(format!("{other:?}")),
            });
            seen.unwrap_or_else(|error| panic!("{what}: not {expected}: {error:#}"));
        };
        remain(2);
        old.open_gate("open");
        assert_eq!(held.response().expect("an answer").status, 200, "{what}");
        // What it was on serves nobody any more.
        remain(1);
    }
}

#[test]
fn who_waits_for_an_endpoint_that_goes_is_served() {
    for peer in Peer::all() {
        let [old, new] = origins(["old", "new"]);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("eds.yaml");
        discover(&file, old.address());
        let source = json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
        let discovered = with(
            json!({"name": "c", "type": "EDS", "connect_timeout": "2s", "eds_cluster_config": {"eds_config": source}}),
            json!({"circuit_breakers": {"thresholds": [{"max_connections": 1}]}}),
        );
        let two = http_options(json!({
            "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 2}},
        }));
        let (plane, main) = start(peer, with(discovered, two));
        let from = |who: &str| {
            let answered = eventually(DEADLINE, || match Request::get("/").send(main) {
                Ok(answer) if answer.header("x-origin-name") == Some(who) => Ok(()),
                other => Err(format!("{other:?}")),
            });
            answered.unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
        };
        from("old");
        let held = |gate: &str| {
            let mut client = Connection::open(main).expect("a connection");
            let path = format!("/{gate}");
            client.send(Request::get(&path).origin(&format!("gate={gate}")).bytes()).expect("sends");
            client.expect_answer_to("GET");
            until(DEADLINE, "the origin has it", || !old.seen_at(&path).is_empty()).expect("held");
            client
        };
        let (mut long, mut short) = (held("long"), held("short"));
        let mut waits = Connection::open(main).expect("a connection");
        waits.send(Request::get("/waits").bytes()).expect("sends");
        waits.expect_answer_to("GET");
        let pending = eventually(DEADLINE, || match plane.admin.stat("cluster.c.upstream_rq_pending_active") {
            Ok(1) => Ok(()),
            other => Err(format!("{other:?}")),
        });
        pending.unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
        discover(&file, new.address());
        // A request before that would wait as well.
        becomes(&plane, new.address(), "healthy");
        from("new");
        old.open_gate("short");
        assert_eq!(short.response().expect("an answer").status, 200, "{peer:?}");
        // The stream that is free now is his who waits for it, though the connection is nobody's after that.
        assert_eq!(waits.response().expect("an answer").header("x-origin-name"), Some("old"), "{peer:?}");
        old.open_gate("long");
        assert_eq!(long.response().expect("an answer").status, 200, "{peer:?}");
    }
}

/// Of the sockets that are connected to an address: whether the kernel's keepalive timer runs, and for how many seconds.
fn keepalive_timers(to: SocketAddr) -> Vec<Option<u64>> {
    let SocketAddr::V4(to) = to else { panic!("{to} is of IPv4") };
    let remote = format!("{:08X}:{:04X}", u32::from_ne_bytes(to.ip().octets()), to.port());
    let table = std::fs::read_to_string("/proc/net/tcp").expect("the table of sockets");
    let timer = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        // An established connection to there; "02" is the keepalive timer, in hundredths of a second.
        if columns.get(2) != Some(&&*remote) || columns.get(3) != Some(&"01") {
            return None;
        }
        let (kind, when) = columns.get(5)?.split_once(':')?;
        Some((kind == "02").then(|| u64::from_str_radix(when, 16).unwrap_or_default() / 100))
    };
    table.lines().filter_map(timer).collect()
}

#[test]
fn the_kernel_watches_idle_connections() {
    let origin = Origin::start("a").expect("an origin");
    for peer in Peer::all() {
        let kept = json!({"upstream_connection_options": {"tcp_keepalive": {
            "keepalive_probes": 3, "keepalive_time": 4000, "keepalive_interval": 10,
        }}});
        for (more, expected) in [(json!({}), false), (kept, true)] {
            let (_plane, main) = start(peer, with(cluster("c", &[origin.address()]), more));
            assert_eq!(Request::get("/").send(main).expect("an answer").status, 200, "{peer:?}");
            let seen = eventually(DEADLINE, || {
                let timers = keepalive_timers(origin.address());
                let is_right =
                    |timer: &Option<u64>| timer.is_some_and(|left| (3000..=4000).contains(&left)) == expected;
                if timers.len() == 1 && timers.iter().all(is_right) { Ok(()) } else { Err(timers) }
            });
            seen.unwrap_or_else(|error| panic!("{peer:?}, {expected}: {error:#}"));
        }
    }
}

#[test]
fn who_waits_for_a_shared_connection_fails_with_it() {
    for peer in Peer::all() {
        // Nobody shakes hands there.
        let silent = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let mut shared = http2(cluster("c", &[silent.local_addr().expect("its address")]));
        shared["transport_socket"] = upstream(&json!({"sni": "server.test"}));
        let (plane, main) = start(peer, with(shared, json!({"connect_timeout": "3s"})));
        let names = ["one", "two", "three", "four"].map(|name| format!("{name} {}", peer.name()));
        let mut clients = names.each_ref().map(|name| {
            let mut client = Connection::open(main).expect("a connection");
            client.send(Request::get("/").with("x-test", name).bytes()).expect("sends");
            client.expect_answer_to("GET");
            client
        });
        for (client, name) in clients.iter_mut().zip(&names) {
            assert_eq!(client.response().expect("an answer").status, 503, "{name}");
            assert_eq!(plane.access_record(name).expect("its record")["flags"], "UF", "{name}");
        }
        let stats = plane.admin.stats().expect("stats");
        let count = |name: &str| stats.get(&format!("cluster.c.{name}")).copied().unwrap_or_default();
        let counts = (count("upstream_cx_connect_fail"), count("upstream_rq_pending_failure_eject"));
        assert_eq!(counts, (1, 4), "{peer:?}");
    }
}

/// An HTTP/2 origin that answers requests, and pings if `pongs`, until its connection ends; it counts the pings.
fn serve(listener: &TcpListener, pongs: bool, pings: &AtomicU64) {
    let (socket, _) = listener.accept().expect("a connection");
    let mut server = RawH2::accepted(socket).expect("the preface");
    while let Ok(Some(frame)) = server.frame() {
        match frame.kind {
            kind::SETTINGS if frame.flags & ACK == 0 => _ = server.send(&[Frame::new(kind::SETTINGS, ACK, 0, [])]),
            // `:status: 200` is the eighth entry of HPACK's static table.
            kind::HEADERS => _ = server.send(&[Frame::headers(frame.stream, [0x88], true)]),
            kind::PING if frame.flags & ACK == 0 => {
                pings.fetch_add(1, Ordering::Relaxed);
                if pongs {
                    _ = server.send(&[Frame::new(kind::PING, ACK, 0, frame.payload)]);
                }
            }
            _ => {}
        }
    }
}

#[test]
fn http2_connections_are_pinged() {
    let keepalive = json!({"interval": "0.1s", "timeout": "1s", "interval_jitter": {"value": 0}});
    let options = http_options(json!({
        "explicit_http_config": {"http2_protocol_options": {"connection_keepalive": keepalive}},
    }));
    for (peer, pongs) in Peer::all().into_iter().flat_map(|peer| [(peer, false), (peer, true)]) {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let at = listener.local_addr().expect("its address");
        let pings = Arc::new(AtomicU64::new(0));
        let seen = pings.clone();
        let origin = std::thread::spawn(move || serve(&listener, pongs, &seen));
        let (plane, main) = start(peer, with(cluster("c", &[at]), options.clone()));
        let mut client = Connection::open(main).expect("a connection");
        assert_eq!(client.exchange(&Request::get("/")).expect("an answer").status, 200, "{peer:?}");
        if pongs {
            // One that answers is kept.
            until(DEADLINE, "pings go on", || pings.load(Ordering::Relaxed) > 4).expect("pings");
            assert_eq!(client.exchange(&Request::get("/")).expect("an answer").status, 200, "{peer:?}");
            assert_eq!(plane.admin.stat("cluster.c.upstream_cx_total").expect("stats"), 1, "{peer:?}");
            drop(plane);
        } else {
            plane
                .admin
                .stat_reaches("cluster.c.http2.keepalive_timeout", 1, DEADLINE)
                .expect("a silent one is given up");
        }
        origin.join().expect("the origin's connection ends");
    }
}

/// A request goes on with the version of a cluster that it began with; what it leaves there nobody would look after.
#[test]
fn an_earlier_version_keeps_no_connection() {
    let [first, old, new] = origins(["first", "old", "new"]);
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("eds.yaml");
    discover(&file, old.address());
    let source = json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
    let late = json!({
        "name": "late", "type": "EDS", "connect_timeout": "2s",
        "eds_cluster_config": {"eds_config": source, "service_name": "c"},
    });
    let follows = json!({"match": {"prefix": "/"}, "route": {"cluster": "first", "timeout": "0s", "internal_redirect_policy": {}}});
    let bootstrap = Bootstrap::new()
        .cluster(cluster("first", &[first.address()]))
        .cluster(late)
        .listener(HttpListener::new("main", &json!([route("/late", "late"), follows])));
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let main = plane.listener("main").expect("its listener");
    let begin = |path: &str, directive: &str| {
        let mut client = Connection::open(main).expect("a connection");
        client.send(Request::get(path).host("main.test").origin(directive).bytes()).expect("sends");
        until(DEADLINE, "the origin has it", || !first.seen_at(path).is_empty()).expect("held");
        client
    };
    // Both began before the change, and one of them stays.
    let _stays = begin("/stays", "gate=never");
    let mut redirected = begin("/moves", "gate=go; status=302; header=location:http://main.test/late");
    discover(&file, new.address());
    // Nobody has used the cluster in the version that they began with.
    let shown = || plane.admin.get("/clusters").is_ok_and(|answer| answer.text().contains(&new.address().to_string()));
    until(DEADLINE, "the new endpoint is there", shown).expect("shown");
    let moved =
        eventually(DEADLINE, || match Request::get("/late").send(main).map_err(|error| format!("{error:#}"))? {
            answer if answer.header("x-origin-name") == Some("new") => Ok(()),
            answer => Err(format!("{answer:?}")),
        });
    moved.unwrap_or_else(|error| panic!("{error:#}"));
    // It is redirected once, and the second origin does what the first one did.
    old.open_gate("go");
    first.open_gate("go");
    let answer = redirected.response().expect("an answer");
    assert_eq!((answer.status, answer.header("x-origin-name")), (302, Some("old")));
    let one = || plane.admin.stat("cluster.late.upstream_cx_active").unwrap_or_default() == 1;
    until(DEADLINE, "only the last version's connection stays", one).expect("closed");
}

/// Nobody comes upon a connection that its origin has closed, where its cluster isn't used again.
#[test]
fn what_an_origin_closes_is_closed() {
    for peer in Peer::all() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a socket");
        let (plane, main) = start(peer, cluster("c", &[listener.local_addr().expect("its address")]));
        let mut clients = [(); 3].map(|()| {
            let mut client = Connection::open(main).expect("a connection");
            client.send(Request::get("/").bytes()).expect("sends");
            client.expect_answer_to("GET");
            let (socket, _) = listener.accept().expect("the proxy's connection");
            (client, socket)
        });
        for (client, socket) in &mut clients {
            socket.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").expect("answers");
            assert_eq!(client.response().expect("an answer").status, 200, "{peer:?}");
        }
        // All three are idle.
        let open = || plane.admin.stat("cluster.c.upstream_cx_active").unwrap_or_default();
        assert_eq!(open(), 3, "{peer:?}");
        drop(clients);
        until(DEADLINE, "they are closed", || open() == 0).expect("closed");
        assert_eq!(plane.admin.stat("cluster.c.upstream_cx_destroy_remote").expect("stats"), 3, "{peer:?}");
    }
}
