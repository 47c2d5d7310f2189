//! What endpoints say of their health checks.

use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, route, tcp_listener, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::talker::{self, Talker};
use outrigger_e2e::wait::{DEADLINE, eventually};
use outrigger_e2e::{Bootstrap, Origin};
use serde_json::{Value, json};

use super::{becomes, endpoint, of, settles, start};

/// A cluster of one endpoint with health checks, which say more.
fn checked(endpoint: Value, more: Value) -> Value {
    let check = json!({
        "timeout": "1s", "interval": "0.05s", "unhealthy_threshold": 2, "healthy_threshold": 1,
        "no_traffic_interval": "0.05s", "http_health_check": {"path": "/healthz"},
    });
    of(json!([{"lb_endpoints": [endpoint]}]), json!({"health_checks": [with(check, more)]}))
}

fn config(at: SocketAddr, fields: Value) -> Value {
    endpoint(at, json!({"endpoint": {"health_check_config": fields}}))
}

#[test]
fn an_endpoint_may_go_unchecked() {
    for peer in Peer::all() {
        let origin = Origin::start("a").expect("an origin");
        origin.call_in_sick(true);
        let unchecked = config(origin.address(), json!({"disable_active_health_check": true}));
        let (plane, main) = start(peer, checked(unchecked, json!({})));
        becomes(&plane, origin.address(), "healthy");
        settles(main, &["a"]);
        assert!(origin.seen_at("/healthz").is_empty(), "{peer:?}");
    }
}

#[test]
fn checks_have_hosts_of_their_own() {
    for peer in Peer::all() {
        let origin = Origin::start("a").expect("an origin");
        let named = config(origin.address(), json!({"hostname": "checked.test"}));
        let (plane, _main) = start(peer, checked(named, json!({})));
        becomes(&plane, origin.address(), "healthy");
        let seen = origin.seen_at("/healthz").first().cloned().expect("a check");
        let host = seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        assert_eq!(host.map(|(_, value)| value.as_str()), Some("checked.test"), "{peer:?}");
    }
}

#[test]
fn checks_have_ports_of_their_own() {
    for peer in Peer::all() {
        for at_endpoint in [true, false] {
            // Envoy does not know the port of the checks themselves, whatever its API says.
            if peer == Peer::Envoy && !at_endpoint {
                continue;
            }
            let (origin, checker) = (Origin::start("a").expect("an origin"), Origin::start("b").expect("another"));
            let port = checker.address().port();
            let cluster = match at_endpoint {
                true => checked(config(origin.address(), json!({"port_value": port})), json!({})),
                false => checked(endpoint(origin.address(), json!({})), json!({"alt_port": port})),
            };
            let (plane, main) = start(peer, cluster);
            becomes(&plane, origin.address(), "healthy");
            settles(main, &["a"]);
            checker.call_in_sick(true);
            becomes(&plane, origin.address(), "/failed_active_hc");
            assert!(origin.seen_at("/healthz").is_empty() && !checker.seen_at("/healthz").is_empty(), "{peer:?}");
        }
    }
}

#[test]
fn some_answers_may_get_better() {
    // Who is ill isn't asked again: the failures that there are have made it ill.
    let rare = json!({"unhealthy_interval": "3600s", "unhealthy_edge_interval": "0.05s", "unhealthy_threshold": 3});
    let ranges = |start: u32| json!({"http_health_check": {"path": "/healthz", "retriable_statuses": [{"start": start, "end": start + 1}]}});
    for peer in Peer::all() {
        for (retriable, failures) in [(503, 3), (500, 1)] {
            let origin = Origin::start("a").expect("an origin");
            let (plane, main) =
                start(peer, checked(endpoint(origin.address(), json!({})), with(rare.clone(), ranges(retriable))));
            settles(main, &["a"]);
            origin.call_in_sick(true);
            becomes(&plane, origin.address(), "/failed_active_hc");
            let failed = plane.admin.stat("cluster.c.health_check.failure").expect("stats");
            assert_eq!(failed, failures, "{peer:?} {retriable}");
        }
    }
}

/// A network filter that lets everybody pass and has to see every connection's bytes for it.
fn watching() -> Value {
    let present = json!({"filter": "any", "path": [{"key": "k"}], "value": {"present_match": true}});
    json!({"name": "envoy.filters.network.rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "rbac",
        "enforcement_type": "CONTINUOUS",
        "rules": {"action": "ALLOW", "policies": {"all": {
            "permissions": [{"any": true}], "principals": [{"metadata": present}, {"any": true}],
        }}},
    }})
}

#[test]
fn connections_end_with_the_health_of_their_endpoint() {
    for peer in Peer::all() {
        for closes in [false, true] {
            let (checker, server) = (Origin::start("h").expect("an origin"), Talker::start("a").expect("a server"));
            let origin = Origin::start("b").expect("an origin");
            let port = json!({"port_value": checker.address().port()});
            let more = json!({"close_connections_on_host_health_failure": closes});
            let tunnels = with(checked(config(server.address(), port.clone()), json!({})), more.clone());
            let requests = with(checked(config(origin.address(), port), json!({})), more);
            let requests = with(requests, json!({"name": "r", "load_assignment": {"cluster_name": "r"}}));
            let mut filtered = tcp_listener("filtered", "c");
            let filters = &mut filtered["filter_chains"][0]["filters"];
            *filters = json!([watching(), filters[0]]);
            let bootstrap = Bootstrap::new()
                .cluster(tunnels)
                .cluster(requests)
                .listener(tcp_listener("tcp", "c"))
                .listener(filtered)
                .listener(HttpListener::new("main", &json!([route("/", "r")])));
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            becomes(&plane, server.address(), "healthy");
            let tunnels = ["tcp", "filtered"].map(|listener| {
                let mut tunnel = talker::connect(plane.listener(listener).expect("its listener")).expect("a tunnel");
                tunnel.write_all(b"hello\n").expect("sends");
                let mut tunnel = BufReader::new(tunnel);
                assert_eq!(talker::name(&talker::line(&mut tunnel).expect("an answer")), "a", "{peer:?}");
                assert_eq!(talker::line(&mut tunnel).expect("an echo"), "hello", "{peer:?}");
                tunnel
            });
            settles(plane.listener("main").expect("its listener"), &["b"]);
            checker.call_in_sick(true);
            becomes(&plane, server.address(), "/failed_active_hc");
            // Idle connections go in any case, tunnels where that is wanted.
            let gone = eventually(DEADLINE, || match plane.admin.stat("cluster.r.upstream_cx_active") {
                Ok(0) => Ok(()),
                other => Err(format!("{other:?}")),
            });
            gone.unwrap_or_else(|error| panic!("{peer:?} {closes}: {error:#}"));
            for mut tunnel in tunnels {
                if closes {
                    let mut rest = Vec::new();
                    assert_eq!(tunnel.read_to_end(&mut rest).expect("it ends"), 0, "{peer:?}");
                } else {
                    tunnel.get_mut().write_all(b"again\n").expect("sends");
                    assert_eq!(talker::line(&mut tunnel).expect("an echo"), "again", "{peer:?}");
                }
            }
        }
    }
}
