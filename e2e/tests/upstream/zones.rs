//! Requests that stay in their zone, as far as the others leave room (`zone_aware_lb_config`).

use outrigger_e2e::bootstrap::{HttpListener, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::ports::closed;
use outrigger_e2e::{Bootstrap, Origin};
use serde_json::{Value, json};

use super::{endpoint, of, origins, share, spread};

/// Localities with so many endpoints of a list each.
fn localities(zones: &[(&str, usize)], origins: &[Origin]) -> Value {
    let mut rest = origins.iter();
    let locality = |(zone, count): &(&str, usize)| {
        let endpoints: Vec<Value> =
            rest.by_ref().take(*count).map(|origin| endpoint(origin.address(), json!({}))).collect();
        json!({"locality": {"zone": zone}, "lb_endpoints": endpoints})
    };
    Value::Array(zones.iter().map(locality).collect())
}

/// The proxy's own kind: nobody asks them.
fn own(zones: &[(&str, usize)]) -> Value {
    let locality = |(zone, count): &(&str, usize)| {
        let endpoints: Vec<Value> = (0..*count).map(|_| endpoint(closed().expect("a port"), json!({}))).collect();
        json!({"locality": {"zone": zone}, "lb_endpoints": endpoints})
    };
    let localities: Vec<Value> = zones.iter().map(locality).collect();
    with(of(Value::Array(localities), json!({})), json!({"name": "own", "load_assignment": {"cluster_name": "own"}}))
}

fn zone_aware(more: Value) -> Value {
    json!({"common_lb_config": {"zone_aware_lb_config": with(json!({"min_cluster_size": 1}), more)}})
}

/// `force_local_zone` is for extensions only.
fn forced(min: u32) -> Value {
    let zones = json!({"min_cluster_size": 1, "force_local_zone": {"min_size": min}});
    json!({"load_balancing_policy": {"policies": [{"typed_extension_config": {"name": "rr", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
        "locality_lb_config": {"zone_aware_lb_config": zones},
    }}}]}})
}

#[test]
fn requests_stay_in_their_zone() {
    const REQUESTS: usize = 600;
    let [even, half] = [[("x", 2), ("y", 2)], [("x", 1), ("y", 3)]];
    // The own kind's zones, the cluster's, its settings; what each of four origins gets, and what is counted.
    let cases = [
        ("as many of both", even, even, zone_aware(json!({})), [300, 300, 0, 0], "lb_zone_routing_all_directly"),
        ("half as many", even, half, zone_aware(json!({})), [300, 100, 100, 100], "lb_zone_routing_cross_zone"),
        ("more in the zone", half, even, zone_aware(json!({})), [300, 300, 0, 0], "lb_zone_routing_all_directly"),
        ("too few", even, half, json!({}), [150; 4], "lb_zone_cluster_too_small"),
        ("switched off", even, half, zone_aware(json!({"routing_enabled": {"value": 0}})), [150; 4], ""),
        ("nobody here", [("y", 2), ("z", 2)], half, zone_aware(json!({})), [150; 4], "lb_local_cluster_not_ok"),
        ("forced", even, half, forced(1), [600, 0, 0, 0], "lb_zone_routing_all_directly"),
        ("not enough to force", even, half, forced(2), [300, 100, 100, 100], "lb_zone_routing_sampled"),
    ];
    let origins = origins(["a", "b", "c", "d"]);
    for peer in Peer::all() {
        for (name, own_zones, zones, settings, expected, stat) in &cases {
            let node = json!({"id": "n", "cluster": "own", "locality": {"zone": "x"}});
            let bootstrap = Bootstrap::new()
                .set("node", node)
                .set("cluster_manager", json!({"local_cluster_name": "own"}))
                .cluster(own(own_zones))
                .cluster(of(localities(zones, &origins), settings.clone()))
                .listener(HttpListener::new("main", &json!([route("/", "c")])));
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            let counts = spread(plane.listener("main").expect("its listener"), REQUESTS);
            let found = ["a", "b", "c", "d"].map(|who| share(&counts, who));
            // Four standard deviations of the widest binomial, and none where nothing is random.
            let near =
                |(found, expected): (&usize, &usize)| found.abs_diff(*expected) <= if *expected == 0 { 0 } else { 50 };
            assert!(found.iter().zip(expected).all(near), "{peer:?}, {name}: {found:?}, not {expected:?}");
            if !stat.is_empty() {
                let counted = plane.admin.stat(&format!("cluster.c.{stat}")).expect("stats");
                assert!(counted >= 1, "{peer:?}, {name}: {stat}");
            }
        }
    }
}

#[test]
fn the_local_cluster_must_be_there() {
    for peer in Peer::all() {
        let bootstrap = Bootstrap::new().set("cluster_manager", json!({"local_cluster_name": "nobody"}));
        let (code, log) = DataPlane::validate(peer, &bootstrap).expect("it ends");
        assert_ne!(code, 0, "{peer:?}: {log}");
        if peer == Peer::Outrigger {
            let told = "cluster_manager.local_cluster_name: there is no static cluster nobody";
            assert!(log.contains(told), "{log}");
        }
    }
}
