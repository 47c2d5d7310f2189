//! Where a retry goes, and how many there may be.

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::ports::closed;
use outrigger_e2e::{Bootstrap, Origin, Request};
use serde_json::{Value, json};

use super::{endpoint, of, share, spread};

fn retrying(peer: Peer, cluster: Value, policy: Value) -> (DataPlane, SocketAddr) {
    let mut route = route("/", "c");
    route["route"]["retry_policy"] = with(json!({"retry_back_off": {"base_interval": "0.001s"}}), policy);
    let listener = HttpListener::new("main", &json!([route]));
    let plane =
        DataPlane::start(peer, &Bootstrap::new().cluster(cluster).listener(listener)).expect("the proxy starts");
    let main = plane.listener("main").expect("its listener");
    (plane, main)
}

fn extension(package: &str, kind: &str, fields: Value) -> Value {
    let config =
        with(json!({"@type": format!("type.googleapis.com/envoy.extensions.retry.{package}.v3.{kind}")}), fields);
    json!({"name": package, "typed_config": config})
}

#[test]
fn a_retry_goes_to_another_endpoint() {
    let a = Origin::start("a").expect("an origin");
    let two =
        json!([{"lb_endpoints": [endpoint(a.address(), json!({})), endpoint(closed().expect("a port"), json!({}))]}]);
    let random = of(two, json!({"lb_policy": "RANDOM"}));
    let policy = json!({
        "retry_on": "connect-failure", "num_retries": 1, "host_selection_retry_max_attempts": 40,
        "retry_host_predicate": [extension("host.previous_hosts", "PreviousHostsPredicate", json!({}))],
    });
    for peer in Peer::all() {
        let (plane, main) = retrying(peer, random.clone(), policy.clone());
        assert_eq!(share(&spread(main, 60), "a"), 60, "{peer:?}");
        assert!(plane.admin.stat("cluster.c.upstream_rq_retry").expect("stats") >= 5, "{peer:?}");
        assert_eq!(plane.admin.stat("cluster.c.upstream_rq_retry_limit_exceeded").expect("stats"), 0, "{peer:?}");
    }
}

#[test]
fn a_retry_goes_to_another_priority() {
    let a = Origin::start("a").expect("an origin");
    let two = json!([
        {"priority": 0, "lb_endpoints": [endpoint(closed().expect("a port"), json!({}))]},
        {"priority": 1, "lb_endpoints": [endpoint(a.address(), json!({}))]},
    ]);
    let mut policy = json!({"retry_on": "connect-failure", "num_retries": 1});
    for peer in Peer::all() {
        let (_plane, main) = retrying(peer, of(two.clone(), json!({})), policy.clone());
        assert_eq!(share(&spread(main, 10), "503"), 10, "{peer:?}: a healthy priority keeps its retries");
    }
    policy["retry_priority"] =
        extension("priority.previous_priorities", "PreviousPrioritiesConfig", json!({"update_frequency": 1}));
    for peer in Peer::all() {
        let (_plane, main) = retrying(peer, of(two.clone(), json!({})), policy.clone());
        assert_eq!(share(&spread(main, 20), "a"), 20, "{peer:?}");
    }
}

#[test]
fn a_budget_bounds_retries() {
    let a = Origin::start("a").expect("an origin");
    let one = json!([{"lb_endpoints": [endpoint(a.address(), json!({}))]}]);
    let budget = |percent: f64, least: u32| {
        let budget = json!({"budget_percent": {"value": percent}, "min_retry_concurrency": least});
        of(one.clone(), json!({"circuit_breakers": {"thresholds": [{"max_retries": 0, "retry_budget": budget}]}}))
    };
    let policy = json!({"retry_on": "5xx", "num_retries": 1});
    for peer in Peer::all() {
        for (percent, least, status, overflows) in [(0.0, 0, 503, 1), (100.0, 0, 200, 0), (0.0, 1, 200, 0)] {
            let name = format!("{}-{percent}-{least}", peer.name());
            let (plane, main) = retrying(peer, budget(percent, least), policy.clone());
            let request = Request::get("/").with("x-test", &name).origin("status=503; flaky=1");
            assert_eq!(request.send(main).expect("an answer").status, status, "{name}");
            let record = plane.access_record(&name).expect("its record");
            assert_eq!(record["flags"].as_str().unwrap_or_default().contains("UO"), overflows == 1, "{name}: {record}");
            assert_eq!(plane.admin.stat("cluster.c.upstream_rq_retry_overflow").expect("stats"), overflows, "{name}");
        }
    }
}
