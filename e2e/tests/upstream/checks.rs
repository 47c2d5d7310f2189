//! Health by gRPC and over TLS; outliers among connections, and where connections go.

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::ports::closed;
use outrigger_e2e::tls::{Authority, downstream, upstream};
use outrigger_e2e::wait::{DEADLINE, eventually};
use outrigger_e2e::{Bootstrap, Origin, talker};
use serde_json::{Value, json};

use super::{becomes, endpoint, of, settles, start};

fn check(kind: Value) -> Value {
    let base = json!({
        "timeout": "1s", "interval": "0.05s", "unhealthy_threshold": 2, "healthy_threshold": 2,
        "no_traffic_interval": "0.05s",
    });
    json!({"health_checks": [with(base, kind)]})
}

fn one(at: SocketAddr) -> Value {
    json!([{"lb_endpoints": [endpoint(at, json!({}))]}])
}

#[test]
fn grpc_checks_hear_what_the_service_says() {
    for peer in Peer::all() {
        let origin = Origin::start("a").expect("an origin");
        let config = json!({"service_name": "shop", "authority": "checked.test", "initial_metadata": [
            {"header": {"key": "x-check", "value": "yes"}},
        ]});
        let with_checks = with(
            outrigger_e2e::bootstrap::http2(of(one(origin.address()), json!({}))),
            check(json!({"grpc_health_check": config})),
        );
        let (plane, main) = start(peer, with_checks);
        becomes(&plane, origin.address(), "healthy");
        settles(main, &["a"]);
        let seen = origin.seen_at("/grpc.health.v1.Health/Check").first().cloned().expect("a check");
        let header = |name: &str| seen.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str());
        assert_eq!(
            (seen.method.as_str(), header("x-check"), header("te")),
            ("POST", Some("yes"), Some("trailers")),
            "{peer:?}"
        );
        assert_eq!(seen.body, b"\0\0\0\0\x06\x0a\x04shop", "{peer:?}");
        origin.call_in_sick(true);
        becomes(&plane, origin.address(), "/failed_active_hc");
        origin.call_in_sick(false);
        becomes(&plane, origin.address(), "healthy");
    }
}

#[test]
fn checks_shake_hands_as_connections_do() {
    let (ours, theirs) =
        (Authority::new("ours").expect("an authority"), Authority::new("theirs").expect("an authority"));
    let leaf = ours.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let origin = Origin::start("a").expect("an origin");
    let mut listener: Value = HttpListener::new("secure", &json!([route("/", "o")])).into();
    listener["filter_chains"][0]["transport_socket"] =
        downstream(&json!({"common_tls_context": {"tls_certificates": [leaf.config()]}}));
    let front = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    let server = DataPlane::start(Peer::Outrigger, &front).expect("the server starts");
    let at = server.listener("secure").expect("its listener");
    for peer in Peer::all() {
        for (authority, expected) in [(&ours, "healthy"), (&theirs, "/failed_active_hc")] {
            let validation = json!({"trusted_ca": {"inline_string": authority.pem()}});
            let tls = json!({"sni": "server.test", "common_tls_context": {
                "validation_context": validation, "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"}}});
            let mut secured = of(one(at), check(json!({"http_health_check": {"path": "/healthz"}})));
            secured["transport_socket"] = upstream(&tls);
            let (plane, main) = start(peer, secured);
            becomes(&plane, at, expected);
            if expected == "healthy" {
                settles(main, &["a"]);
                assert!(!origin.seen_at("/healthz").is_empty(), "{peer:?}");
            } else {
                // An endpoint is taken to be ill until its first check, which may still be on its way.
                let refused = plane.admin.stat_reaches("cluster.c.ssl.fail_verify_error", 1, DEADLINE);
                refused.unwrap_or_else(|error| panic!("{peer:?}: {error}"));
            }
        }
    }
}

#[test]
fn connections_that_fail_make_an_outlier() {
    let (a, gone) = (talker::Talker::start("a").expect("a server"), closed().expect("a port"));
    let two = json!([{"lb_endpoints": [endpoint(a.address(), json!({})), endpoint(gone, json!({}))]}]);
    let base = json!({"interval": "3600s", "base_ejection_time": "3600s", "max_ejection_percent": 50});
    let kinds = [
        (json!({"consecutive_5xx": 3}), "consecutive_5xx"),
        (
            json!({"split_external_local_origin_errors": true, "consecutive_local_origin_failure": 3}),
            "consecutive_local_origin_failure",
        ),
        (
            json!({"consecutive_5xx": 100, "consecutive_gateway_failure": 3, "enforcing_consecutive_gateway_failure": 100}),
            "consecutive_gateway_failure",
        ),
    ];
    for peer in Peer::all() {
        for (kind, name) in &kinds {
            let detection = json!({"outlier_detection": with(base.clone(), kind.clone())});
            let bootstrap = Bootstrap::new().cluster(of(two.clone(), detection)).listener(tcp_listener("tcp", "c"));
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            let tcp = plane.listener("tcp").expect("its listener");
            let ejected = eventually(DEADLINE, || {
                _ = talker::ask(tcp, b"hello\n");
                match super::flags(&plane, gone).as_str() {
                    "/failed_outlier_check" => Ok(()),
                    flags => Err(flags.to_owned()),
                }
            });
            ejected.unwrap_or_else(|error| panic!("{peer:?} {name}: {error}"));
            let stat = format!("cluster.c.outlier_detection.ejections_enforced_{name}");
            assert_eq!(plane.admin.stat(&stat).expect("stats"), 1, "{peer:?}");
            for _ in 0..10 {
                talker::ask(tcp, b"hello\n").unwrap_or_else(|error| panic!("{peer:?} {name}: {error:#}"));
            }
        }
    }
}

#[test]
fn a_connections_source_decides_its_endpoint() {
    let servers = ["a", "b", "c"].map(|name| talker::Talker::start(name).expect("a server"));
    let three: Vec<Value> = servers.iter().map(|server| endpoint(server.address(), json!({}))).collect();
    let ring = of(json!([{"lb_endpoints": three}]), json!({"lb_policy": "RING_HASH"}));
    let mut listener = tcp_listener("tcp", "c");
    listener["filter_chains"][0]["filters"][0]["typed_config"]["hash_policy"] = json!([{"source_ip": {}}]);
    let mut chosen = std::collections::BTreeSet::new();
    for peer in Peer::all() {
        let bootstrap = Bootstrap::new().cluster(ring.clone()).listener(listener.clone());
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let tcp = plane.listener("tcp").expect("its listener");
        for _ in 0..12 {
            let line = talker::ask(tcp, b"hello\n").expect("an answer");
            chosen.insert(talker::name(&line).to_owned());
        }
    }
    assert_eq!(chosen.len(), 1, "one source, one endpoint, through either proxy: {chosen:?}");
}
