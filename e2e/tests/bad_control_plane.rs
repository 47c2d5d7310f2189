//! A control plane that vanishes, and one that sends rubbish: the last good configuration serves, its age is a metric, and
//! every rejection names its resource.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, wasm_filter, with};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::rig::{bootstrap, policy, put_module};
use outrigger_e2e::script::RubbishXds;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{ControlPlane, Load, Neighbour, Origin, Request, Rig, eventually, workspace};
use serde_json::{Value, json};

fn both() -> Vec<Peer> {
    Peer::all()
}

#[test]
fn a_control_plane_that_vanishes_is_not_missed_and_is_found_again() {
    for peer in both() {
        let name = peer.name();
        let mut rig = Rig::start_with(peer, "DELTA_GRPC", |folder| {
            put_module(folder, "header_policy")?;
            folder.apply("policy.yaml", &[policy("header_policy", "one")])
        })
        .expect("the mesh");
        let running = Load::new(rig.gateway, 100.0, Request::get("/load")).start().expect("load");
        let (xds, http) = (rig.control_plane.xds, rig.control_plane.http);
        rig.control_plane.process.kill();
        eventually(DEADLINE, || match rig.plane.admin.stat("control_plane.connected_state") {
            Ok(0) => Ok(()),
            other => Err(format!("control_plane.connected_state is {other:?}")),
        })
        .expect(name);
        let mut neighbour = Neighbour::new(rig.gateway, "/").expect("served without a control plane");
        if peer == Peer::Outrigger {
            let age = rig.plane.admin.stat_reaches("server.config_age_seconds", 1, DEADLINE).expect(name);
            assert!(age >= 1);
        }
        assert!(rig.plane.admin.is_ready(), "{name}: still ready");
        // What changes meanwhile arrives after the restart, and nothing is lost on the way.
        rig.folder.apply("policy.yaml", &[policy("header_policy", "two")]).expect("an edit");
        rig.control_plane = ControlPlane::start_at(rig.folder.path(), xds, http).expect("the control plane again");
        rig.serves_when(|response| response.header("x-gen-filter") == Some("two")).expect(name);
        rig.wait_acked(|_| true).expect(name);
        neighbour.must_be_served().expect(name);
        running.stop().expect("the load").must_be_clean().expect(name);
    }
}

const CDS: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const LDS: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";

fn named(resource: &Value) -> Value {
    json!({"name": resource["name"], "json": resource})
}

fn a_cluster(name: &str, origin: SocketAddr) -> Value {
    with(json!({"@type": CDS}), cluster(name, &[origin]))
}

fn a_listener(routes: &Value) -> Value {
    let listener: Value = HttpListener::new("main", routes)
        .manager(json!({"access_log": [], "route_config": {"validate_clusters": false}}))
        .into();
    with(json!({"@type": LDS}), listener)
}

fn response(type_url: &str, nonce: &str, resources: &[Value]) -> Value {
    json!({"type_url": type_url, "version": nonce, "nonce": nonce, "resources": resources})
}

struct Rubbish {
    xds: RubbishXds,
    plane: DataPlane,
    address: SocketAddr,
    origin: Origin,
}

impl Rubbish {
    fn start(peer: Peer) -> Rubbish {
        let origin = Origin::start("o").expect("origin");
        let routes = json!([{"match": {"prefix": "/"}, "route": {"cluster": "good"}}]);
        let xds = RubbishXds::start(vec![
            response(CDS, "cds-1", &[named(&a_cluster("good", origin.address()))]),
            response(LDS, "lds-1", &[named(&a_listener(&routes))]),
        ])
        .expect("the control plane");
        let plane =
            DataPlane::start_with(peer, &bootstrap(xds.address, "DELTA_GRPC"), &Options::default()).expect("the proxy");
        let address = plane.listener("main").expect("its listener");
        assert_eq!(xds.answer("lds-1").expect("an answer"), None, "the good listener is acknowledged");
        Rubbish { xds, plane, address, origin }
    }
}

#[test]
fn rubbish_is_rejected_by_name_and_the_good_part_is_taken() {
    for peer in both().into_iter().filter(|peer| *peer == Peer::Outrigger) {
        let mut rig = Rubbish::start(peer);
        let mut neighbour = Neighbour::new(rig.address, "/").expect("the neighbour");
        let origin = rig.origin.address();
        let before = rig.plane.admin.stat("cluster_manager.cds.update_rejected").expect("stats");
        let broken = json!({"name": "broken", "type_url": CDS, "hex": "ffffffff"});
        let bad_policy =
            with(a_cluster("bad-policy", origin), json!({"lb_policy": "RING_HASH", "connect_timeout": "-1s"}));
        let table = [
            ("cds-bytes", CDS, vec![broken, named(&a_cluster("fine-1", origin))], "broken"),
            ("cds-value", CDS, vec![named(&bad_policy), named(&a_cluster("fine-2", origin))], "bad-policy"),
            ("lds-empty", LDS, vec![named(&json!({"@type": LDS, "name": "no-address"}))], "no-address"),
            (
                "lds-regex",
                LDS,
                vec![named(&with(
                    a_listener(&json!([])),
                    json!({"name": "main", "filter_chains": [{"filters": [{"name": "x"}]}]}),
                ))],
                "main",
            ),
        ];
        for (nonce, type_url, resources, culprit) in table {
            rig.xds.send(response(type_url, nonce, &resources)).expect("send");
            let reason = rig.xds.answer(nonce).expect(nonce).unwrap_or_default();
            assert!(reason.contains(culprit), "{nonce}: {culprit} isn't named in {reason:?}");
            assert!(!reason.contains("fine-"), "{nonce}: a good resource is blamed: {reason:?}");
            neighbour.must_be_served().expect(nonce);
        }
        let rejected = rig.plane.admin.stat("cluster_manager.cds.update_rejected").expect("stats") - before;
        assert_eq!(rejected, 2, "two responses of clusters had a rejected part");
        // The good ones of the same responses serve.
        let clusters = rig.plane.admin.json("/clusters?format=json").expect("clusters");
        let names: Vec<&str> =
            clusters["cluster_statuses"].as_array().into_iter().flatten().filter_map(|c| c["name"].as_str()).collect();
        assert!(names.contains(&"fine-1") && names.contains(&"fine-2"), "{names:?}");
        // The rejected ones show, with the reason.
        let dump = rig.plane.admin.get("/config_dump").expect("dump").text();
        for culprit in ["bad-policy", "no-address"] {
            assert!(dump.contains(culprit), "{culprit} was rejected and doesn't show in /config_dump: {dump}");
        }
    }
}

#[test]
fn bytes_that_are_no_message_end_the_stream_and_nothing_else() {
    for peer in both() {
        let name = peer.name();
        let mut rig = Rubbish::start(peer);
        let mut neighbour = Neighbour::new(rig.address, "/").expect("the neighbour");
        let running = Load::new(rig.address, 100.0, Request::get("/load")).start().expect("load");
        let before = rig.xds.requests().len();
        rig.xds.send(json!({"raw_hex": "ff00ff00ff00"})).expect("send");
        // The proxy comes back on a new stream, and says what it has.
        eventually(Duration::from_secs(60), || {
            let requests = rig.xds.requests();
            let again = requests[before..].iter().any(|request| request.get("node").is_some());
            if again { Ok(()) } else { Err(format!("{} requests", requests.len())) }
        })
        .expect(name);
        neighbour.must_be_served().expect(name);
        running.stop().expect("the load").must_be_clean().expect(name);
    }
}

const RDS: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";
const ECDS: &str = "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig";
const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";

/// The filter `policy`: its code in a file, or none at all, which no proxy takes.
fn extension(stamp: Option<&str>) -> Value {
    let config = json!({"response": {"set": [{"name": "x-stamp", "value": stamp}]}});
    let module = workspace::filter("header_policy").expect("the filter");
    let mut typed = wasm_filter("policy", &module, &config)["typed_config"].clone();
    if stamp.is_none() {
        typed["config"]["vm_config"].as_object_mut().expect("an object").remove("code");
    }
    json!({"@type": ECDS, "name": "policy", "typed_config": typed})
}

/// A listener whose filter and whose routes come over ADS.
fn waiting_listener(routes: &str) -> Value {
    let ads = json!({"ads": {}, "resource_api_version": "V3"});
    let filter = json!({"name": "policy", "config_discovery": {"config_source": ads, "type_urls": [WASM]}});
    let mut listener: Value =
        HttpListener::new("main", &json!([])).manager(json!({"access_log": []})).filter(filter).into();
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().expect("an object").remove("route_config");
    manager["rds"] = json!({"route_config_name": routes, "config_source": ads});
    with(json!({"@type": LDS}), listener)
}

fn routes(name: &str, timeout: &str) -> Value {
    let route = with(route("/", "good"), json!({"route": {"timeout": timeout}}));
    json!({"@type": RDS, "name": name, "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]})
}

/// What no proxy can take, and never had: whoever waits for it waits no longer, is closed where it is needed, and serves as
/// soon as something good comes. Envoy does the same.
#[test]
fn nobody_waits_for_ever_for_what_was_rejected() {
    for peer in both() {
        let name = peer.name();
        let origin = Origin::start("o").expect("origin");
        let mut xds = RubbishXds::start(vec![
            response(CDS, "cds-1", &[named(&a_cluster("good", origin.address()))]),
            response(LDS, "lds-1", &[named(&waiting_listener("routes"))]),
        ])
        .expect("the control plane");
        let options = Options { until_ready: false, ..Options::default() };
        let plane = DataPlane::start_with(peer, &bootstrap(xds.address, "DELTA_GRPC"), &options).expect("the proxy");
        assert_eq!(xds.answer("lds-1").expect("an answer"), None, "{name}");
        xds.send(response(ECDS, "ecds-1", &[named(&extension(None))])).expect("send");
        let reason = xds.answer("ecds-1").expect(name).unwrap_or_default();
        assert!(reason.contains("policy"), "{name}: {reason}");
        xds.send(response(RDS, "rds-1", &[named(&routes("routes", "-1s"))])).expect("send");
        let reason = xds.answer("rds-1").expect(name).unwrap_or_default();
        assert!(!reason.is_empty(), "{name}");
        // Nothing passes: the filter is missing, and so are the routes.
        let address = plane.listener("main").expect(name);
        let serves = |status: u16, stamp: Option<&str>| {
            let seen = eventually(DEADLINE, || {
                let response = Request::get("/").send(address).map_err(|error| format!("{error:#}"))?;
                let is_it = response.status == status && response.header("x-stamp") == stamp;
                if is_it { Ok(()) } else { Err(format!("{response:?}")) }
            });
            seen.unwrap_or_else(|error| panic!("{name}: {status} {stamp:?}: {error:#}"));
        };
        serves(500, None);
        assert!(plane.admin.is_ready(), "{name}: ready, for what else there is");
        xds.send(response(ECDS, "ecds-2", &[named(&extension(Some("one")))])).expect("send");
        assert_eq!(xds.answer("ecds-2").expect("an answer"), None, "{name}");
        serves(404, Some("one"));
        xds.send(response(RDS, "rds-2", &[named(&routes("routes", "5s"))])).expect("send");
        assert_eq!(xds.answer("rds-2").expect("an answer"), None, "{name}");
        serves(200, Some("one"));
    }
}

/// A listener that serves has something better to do than to lose its routes: its new version waits, and says for what.
#[test]
fn an_older_listener_serves_until_a_newer_one_can() {
    for peer in both().into_iter().filter(|peer| *peer == Peer::Outrigger) {
        let mut rig = Rubbish::start(peer);
        let mut neighbour = Neighbour::new(rig.address, "/").expect("the neighbour");
        rig.xds.send(response(LDS, "lds-2", &[named(&waiting_listener("routes"))])).expect("send");
        assert_eq!(rig.xds.answer("lds-2").expect("an answer"), None);
        rig.xds.send(response(RDS, "rds-1", &[named(&routes("routes", "5s"))])).expect("send");
        assert_eq!(rig.xds.answer("rds-1").expect("an answer"), None);
        rig.xds.send(response(ECDS, "ecds-1", &[named(&extension(None))])).expect("send");
        assert!(rig.xds.answer("ecds-1").expect("an answer").is_some_and(|reason| reason.contains("policy")));
        neighbour.must_be_served().expect("the old version");
        let dump = rig.plane.admin.config_dump("ListenersConfigDump").expect("listeners");
        let listener = &dump["dynamic_listeners"][0];
        let told = listener["error_state"]["details"].as_str().unwrap_or_default();
        assert!(listener["active_state"].is_object() && listener["warming_state"].is_object(), "{listener}");
        assert!(told.contains("policy") && told.contains("code"), "{told}");
        rig.xds.send(response(ECDS, "ecds-2", &[named(&extension(Some("one")))])).expect("send");
        assert_eq!(rig.xds.answer("ecds-2").expect("an answer"), None);
        eventually(DEADLINE, || match Request::get("/").send(rig.address) {
            Ok(response) if response.header("x-stamp") == Some("one") => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .expect("the new version");
        neighbour.must_be_served().expect("and nobody noticed");
    }
}
