//! Pages of the admin interface that nobody else reads, and windows of HTTP/2 as they are told: both as Envoy's.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::h2raw::{INITIAL_WINDOW_SIZE, RawH2, kind};
use outrigger_e2e::wait::{DEADLINE, until};
use outrigger_e2e::yaml::to_yaml;
use outrigger_e2e::{Bootstrap, Origin, Request, eventually};
use serde_json::{Value, json};

fn start(peer: Peer, origin: &Origin, listener: HttpListener) -> DataPlane {
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    DataPlane::start(peer, &bootstrap).expect("the proxy starts")
}

fn listener() -> HttpListener {
    HttpListener::new("main", &json!([route("/", "o")]))
}

/// As log rotation asks for it: lines go to the file of that name, whichever it is then.
#[test]
fn access_logs_are_opened_anew() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = start(peer, &origin, listener());
        let ask = |test: &str| {
            let request = Request::get("/").with("x-test", test);
            assert_eq!(request.send(plane.listener("main").expect("its listener")).expect("an answer").status, 200);
        };
        ask("before");
        plane.access_record("before").expect("its record");
        let (log, moved) = (plane.dir().join("access.log"), plane.dir().join("access.log.1"));
        std::fs::rename(&log, &moved).expect("it is moved");
        assert_eq!(plane.admin.get("/reopen_logs").expect("an answer").status, 405, "{}", peer.name());
        assert_eq!(plane.admin.post("/reopen_logs").expect("an answer").status, 200, "{}", peer.name());
        ask("after");
        plane.access_record("after").expect("its record, in the new file");
        let old = std::fs::read_to_string(&moved).expect("the old file");
        assert!(old.contains("before") && !old.contains("after"), "{}: {old}", peer.name());
    }
}

#[test]
fn small_pages_have_envoys_form() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = start(peer, &origin, listener());
        let runtime = plane.admin.json("/runtime").expect("a page");
        assert_eq!(runtime, json!({"layers": [], "entries": {}}), "{}", peer.name());
        let version = plane.admin.get("/hot_restart_version").expect("a page");
        assert_eq!((version.status, version.text().trim().is_empty()), (200, false), "{}", peer.name());
    }
}

#[test]
fn layers_of_the_runtime_are_shown() {
    let layers = json!({"layers": [
        {"name": "base", "static_layer": {"a": 1, "b": "text", "deep": {"er": true, "f": 0.5}, "empty": ""}},
        {"name": "top", "static_layer": {"a": 2, "c": {"d": 7}}},
        {"name": "admin", "admin_layer": {}},
    ]});
    let entry = |values: [&str; 3], last: &str| json!({"layer_values": values, "final_value": last});
    let expected = json!({"layers": ["base", "top", "admin"], "entries": {
        "a": entry(["1", "2", ""], "2"), "b": entry(["text", "", ""], "text"), "c.d": entry(["", "7", ""], "7"),
        "deep.er": entry(["true", "", ""], "true"), "deep.f": entry(["0.5", "", ""], "0.5"), "empty": entry(["", "", ""], ""),
    }});
    for peer in Peer::all() {
        let plane =
            DataPlane::start(peer, &Bootstrap::new().set("layered_runtime", layers.clone())).expect("it starts");
        assert_eq!(plane.admin.json("/runtime").expect("a page"), expected, "{}", peer.name());
    }
}

#[test]
fn a_drain_that_neither_drains_nor_stops_is_none() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = start(peer, &origin, listener());
        let address = plane.listener("main").expect("its listener");
        assert_eq!(Request::get("/").send(address).expect("an answer").status, 200, "{}", peer.name());
        let answer = plane.admin.post("/drain_listeners?skip_exit").expect("an answer");
        assert_eq!((answer.status, answer.text().as_str()), (200, "OK\n"), "{}", peer.name());
        assert_eq!(Request::get("/").send(address).expect("an answer").status, 200, "{}", peer.name());
        assert_eq!(plane.admin.post("/drain_listeners").expect("an answer").status, 200, "{}", peer.name());
        let refused = || std::net::TcpStream::connect(address).is_err();
        let ended = until(DEADLINE, "nobody listens any more", refused);
        assert!(ended.is_ok(), "{}: {ended:?}", peer.name());
    }
}

#[test]
fn windows_are_told() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let options = json!({"initial_stream_window_size": 70_000, "initial_connection_window_size": 100_000});
        let plane = start(peer, &origin, listener().manager(json!({"http2_protocol_options": options})));
        let mut client = RawH2::open(plane.listener("main").expect("its listener"), &[]).expect("a connection");
        let settings = client.until(|frame| frame.kind == kind::SETTINGS && frame.flags == 0).expect("its settings");
        let pairs = settings.payload.chunks(6).map(|pair| {
            let value = u32::from_be_bytes(pair[2..6].try_into().expect("a value"));
            (u16::from_be_bytes([pair[0], pair[1]]), value)
        });
        let window = pairs.filter(|(id, _)| *id == INITIAL_WINDOW_SIZE).map(|(_, value)| value).next_back();
        assert_eq!(window, Some(70_000), "{}", peer.name());
        let update = eventually(DEADLINE, || {
            let frame =
                client.until(|frame| frame.kind == kind::WINDOW_UPDATE).map_err(|error| format!("{error:#}"))?;
            Ok::<_, String>((frame.stream, u32::from_be_bytes(frame.payload[..4].try_into().expect("an increment"))))
        });
        assert_eq!(update.expect("an update"), (0, 100_000 - 65_535), "{}", peer.name());
    }
}

/// What is counted of a cluster that is no more is forgotten after a while.
#[test]
fn statistics_of_what_is_gone_are_forgotten() {
    let origin = Origin::start("o").expect("an origin");
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("cds.yaml");
    let write = |version: &str, clusters: &[&str]| {
        let typed = json!({"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster"});
        let clusters = clusters.iter().map(|name| with(typed.clone(), cluster(name, &[origin.address()])));
        let resources = json!({"version_info": version, "resources": clusters.collect::<Vec<_>>()});
        let beside = file.with_extension("new");
        std::fs::write(&beside, to_yaml(&resources)).and_then(|()| std::fs::rename(&beside, &file)).expect("writes");
    };
    write("1", &["stays", "goes"]);
    let mut listener: Value = HttpListener::new("main", &json!([route("/stays", "stays"), route("/", "goes")])).into();
    listener["filter_chains"][0]["filters"][0]["typed_config"]["route_config"]["validate_clusters"] = false.into();
    let bootstrap = Bootstrap::new().listener(listener).set("stats_eviction_interval", "1s".into()).set(
        "dynamic_resources",
        json!({"cds_config": {
            "path_config_source": {"path": file}, "resource_api_version": "V3",
        }}),
    );
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let main = plane.listener("main").expect("its listener");
    for path in ["/stays", "/goes"] {
        assert_eq!(Request::get(path).send(main).expect("an answer").status, 200, "{path}");
    }
    let shown =
        |name: &str| plane.admin.stats().expect("stats").contains_key(&format!("cluster.{name}.upstream_rq_total"));
    assert!(shown("stays") && shown("goes"));
    write("2", &["stays"]);
    until(DEADLINE, "it is forgotten", || !shown("goes")).expect("forgotten");
    assert!(shown("stays"), "what is there is not");
}
