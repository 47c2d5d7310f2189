//! What endpoints count for that are new or weighted, and what becomes of connections when the set of endpoints changes.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use outrigger_e2e::bootstrap::with;
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::wait::{DEADLINE, until};
use outrigger_e2e::yaml::to_yaml;
use outrigger_e2e::{Connection, Request};
use serde_json::{Value, json};

use super::{endpoint, of, origins, settles, share, spread, start};

/// Writes the cluster's endpoints into a watched file, in one locality.
fn discover(file: &Path, version: &str, endpoints: &[Value]) {
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
        "cluster_name": "c", "endpoints": [{"lb_endpoints": endpoints}],
    });
    let beside = file.with_extension("new");
    let text = to_yaml(&json!({"version_info": version, "resources": [resource]}));
    std::fs::write(&beside, text).and_then(|()| std::fs::rename(&beside, file)).expect("writes");
}

fn discovered(file: &Path, more: Value) -> Value {
    let source = json!({"path_config_source": {"path": file}, "resource_api_version": "V3"});
    with(
        json!({
            "name": "c", "type": "EDS", "connect_timeout": "2s", "eds_cluster_config": {"eds_config": source},
        }),
        more,
    )
}

fn has_endpoints(plane: &DataPlane, count: u64) {
    let total = || plane.admin.stat("cluster.c.membership_total").unwrap_or_default();
    until(DEADLINE, &format!("{:?}: {count} endpoints", plane.peer), || total() == count).expect("they are there");
}

/// One whose first check isn't over is as good as ill, or counts for nothing.
#[test]
fn a_new_endpoint_counts_before_its_first_check_or_not() {
    // Takes connections, and never says anything.
    let silent = TcpListener::bind("127.0.0.1:0").expect("a socket");
    let port = silent.local_addr().expect("its address").port();
    for (peer, ignored) in Peer::all().into_iter().flat_map(|peer| [(peer, false), (peer, true)]) {
        let [a, b] = origins(["a", "b"]);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("eds.yaml");
        let first = endpoint(a.address(), json!({}));
        discover(&file, "1", std::slice::from_ref(&first));
        let (plane, main) = start(
            peer,
            discovered(
                &file,
                json!({
                    "common_lb_config": {
                        "ignore_new_hosts_until_first_hc": ignored, "healthy_panic_threshold": {"value": 60},
                    },
                    "health_checks": [{
                        "timeout": "600s", "interval": "0.05s", "no_traffic_interval": "0.05s", "unhealthy_threshold": 1,
                        "healthy_threshold": 1, "http_health_check": {"path": "/healthz"},
                    }],
                }),
            ),
        );
        settles(main, &["a"]);
        let unchecked = json!({"endpoint": {"health_check_config": {"port_value": port}}});
        discover(&file, "2", &[first, endpoint(b.address(), unchecked)]);
        has_endpoints(&plane, 2);
        // Of two one is healthy, which is panic; or of one.
        settles(main, if ignored { &["a"] } else { &["a", "b"] });
        let excluded = plane.admin.stat("cluster.c.membership_excluded").expect("a statistic");
        assert_eq!(excluded, u64::from(ignored), "{peer:?}");
    }
}

/// How healthy a priority is goes by the number of its endpoints, or by their weights.
#[test]
fn a_priority_is_as_healthy_as_its_weights() {
    let [a, b, c] = origins(["a", "b", "c"]);
    let sick = json!({"health_status": "UNHEALTHY", "load_balancing_weight": 9});
    let priorities = json!([
        {"priority": 0, "lb_endpoints": [
            endpoint(a.address(), json!({"load_balancing_weight": 1})), endpoint(b.address(), sick),
        ]},
        {"priority": 1, "lb_endpoints": [endpoint(c.address(), json!({}))]},
    ]);
    for peer in Peer::all() {
        // Half of two and a tenth of ten, each times 1.4.
        for (weighted, percent) in [(false, 70), (true, 14)] {
            let policy = json!({"load_assignment": {"policy": {"weighted_priority_health": weighted}}});
            let (_plane, main) = start(peer, with(of(priorities.clone(), json!({})), policy));
            let counts = spread(main, 500);
            let found = share(&counts, "a");
            assert!((percent - 9..=percent + 9).contains(&(found / 5)), "{peer:?} {weighted}: {counts:?}");
            assert_eq!(found + share(&counts, "c"), 500, "{peer:?}: {counts:?}");
        }
    }
}

#[test]
fn connections_end_when_the_set_of_endpoints_changes() {
    for (peer, closes) in Peer::all().into_iter().flat_map(|peer| [(peer, false), (peer, true)]) {
        let [a, b] = origins(["a", "b"]);
        let dir = tempfile::tempdir().expect("a folder");
        let file = dir.path().join("eds.yaml");
        let first = endpoint(a.address(), json!({}));
        discover(&file, "1", std::slice::from_ref(&first));
        let options = json!({"common_lb_config": {"close_connections_on_host_set_change": closes}});
        let (plane, main) = start(peer, discovered(&file, options));
        let mut held = hold(main, "gate=open");
        until(DEADLINE, "the origin has it", || !a.seen_at("/held").is_empty()).expect("held");
        discover(&file, "2", &[first, endpoint(b.address(), json!({}))]);
        has_endpoints(&plane, 2);
        // What is on its way goes on.
        a.open_gate("open");
        assert_eq!(held.response().expect("an answer").status, 200, "{peer:?}");
        settles(main, &["a", "b"]);
        assert_eq!(a.connections(), if closes { 2 } else { 1 }, "{peer:?}");
    }
}

fn hold(main: SocketAddr, directive: &str) -> Connection {
    let mut client = Connection::open(main).expect("a connection");
    client.send(Request::get("/held").origin(directive).bytes()).expect("sends");
    client.expect_answer_to("GET");
    client
}
