//! What is counted of answers that no origin gave, beside their flags: as Envoy counts them.

use std::collections::BTreeMap;

use outrigger_e2e::bootstrap::{HttpListener, address, cluster, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Origin, Request, ports};
use serde_json::{Value, json};

/// A cluster, what is asked of it, and how it is answered: the status and the flags.
const CASES: [(&str, &str, u64, &str); 6] = [
    ("empty", "/", 503, "UH"),
    ("sick", "/", 503, "UH"),
    ("refuses", "/", 503, "UF"),
    ("full", "/", 503, "UO"),
    ("slow", "/", 504, "UT"),
    ("cuts", "/", 503, "UC"),
];
/// Of a cluster.
const COUNTERS: [&str; 13] = [
    "upstream_rq_503",
    "upstream_rq_504",
    "upstream_rq_5xx",
    "upstream_rq_completed",
    "upstream_rq_total",
    "upstream_rq_timeout",
    "upstream_rq_retry",
    "upstream_rq_pending_total",
    "upstream_rq_pending_overflow",
    "upstream_cx_none_healthy",
    "upstream_cx_connect_fail",
    "upstream_cx_overflow",
    "upstream_rq_pending_failure_eject",
];

fn bootstrap(origin: &Origin, nobody: std::net::SocketAddr) -> Bootstrap {
    let at = origin.address();
    let sick = json!([{"lb_endpoints": [{"endpoint": {"address": address(at)}, "health_status": "UNHEALTHY"}]}]);
    let no_panic = json!({"common_lb_config": {"healthy_panic_threshold": {"value": 0}}});
    let none = json!({"circuit_breakers": {"thresholds": [{"max_pending_requests": 0, "max_connections": 0}]}});
    let routes: Vec<Value> = CASES
        .iter()
        .map(|(name, ..)| {
            let mut route = json!({"match": {"prefix": format!("/{name}")}, "route": {"cluster": name}});
            if *name == "slow" {
                route["route"]["timeout"] = json!("0.2s");
            }
            route
        })
        .collect();
    Bootstrap::new()
        .listener(HttpListener::new("main", &json!(routes)))
        .cluster(cluster("empty", &[]))
        .cluster(with(with(cluster("sick", &[]), json!({"load_assignment": {"endpoints": sick}})), no_panic))
        .cluster(cluster("refuses", &[nobody]))
        .cluster(with(cluster("full", &[at]), none))
        .cluster(cluster("slow", &[at]))
        .cluster(cluster("cuts", &[at]))
}

fn counted(plane: &DataPlane, cluster: &str) -> BTreeMap<&'static str, u64> {
    let stat = |name| (name, plane.admin.stat(&format!("cluster.{cluster}.{name}")).unwrap_or_default());
    COUNTERS.into_iter().map(stat).filter(|(_, count)| *count > 0).collect()
}

#[test]
fn answers_of_the_proxy_are_counted_as_the_clusters() {
    let origin = Origin::start("o").expect("origin");
    origin.script("cut", "");
    let nobody = std::net::SocketAddr::from(([127, 0, 0, 1], ports::free_port().expect("a port")));
    let bootstrap = bootstrap(&origin, nobody);
    let mut all = Vec::new();
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut client = Connection::open(plane.listener("main").expect("the listener")).expect("a connection");
        let mut found = Vec::new();
        for (name, _, status, flags) in CASES {
            let request = Request::get(&format!("/{name}")).with("x-test", name);
            let request = match name {
                "slow" => request.origin("gate=never"),
                "cuts" => request.origin("raw=cut"),
                _ => request,
            };
            let answer = client.exchange(&request).expect("an answer");
            assert_eq!(u64::from(answer.status), status, "{peer:?} {name}: {}", answer.text());
            let record = plane.access_record(name).expect("its record");
            assert_eq!(record["flags"], flags, "{peer:?} {name}: {record}");
            plane
                .admin
                .stat_reaches(&format!("cluster.{name}.upstream_rq_{status}"), 1, DEADLINE)
                .unwrap_or_else(|error| panic!("{peer:?} {name}: {error:#} {:?}", counted(&plane, name)));
            found.push((name, counted(&plane, name)));
        }
        plane.admin.stat_reaches("http.main.downstream_rq_5xx", CASES.len() as u64, DEADLINE).expect("counted");
        all.push(found);
    }
    assert!(all.windows(2).all(|pair| pair[0] == pair[1]), "{all:#?}");
}
