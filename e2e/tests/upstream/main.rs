//! Where requests go: priorities, panic, health, outliers, limits and DNS; one bootstrap for our proxy and for Envoy.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]
#![allow(clippy::needless_pass_by_value, reason = "literals are written where they are used")]

mod ahead;
mod checks;
mod connections;
mod counters;
mod drops;
mod elsewhere;
mod goaway;
mod limits;
mod membership;
mod names;
mod protocols;
mod redirects;
mod retries;
mod slow_start;
mod waiting;
mod zones;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use outrigger_e2e::bootstrap::{HttpListener, address, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::dns::DnsServer;
use outrigger_e2e::ports::closed;
use outrigger_e2e::wait::{DEADLINE, eventually};
use outrigger_e2e::{Bootstrap, Connection, Origin, Request};
use serde_json::{Value, json};

fn origins<const N: usize>(names: [&str; N]) -> [Origin; N] {
    names.map(|name| Origin::start(name).expect("an origin"))
}

/// An endpoint with more fields.
fn endpoint(at: SocketAddr, more: Value) -> Value {
    with(json!({"endpoint": {"address": address(at)}}), more)
}

/// A cluster `c` of these localities.
fn of(localities: Value, more: Value) -> Value {
    let base = json!({
        "name": "c", "type": "STATIC", "connect_timeout": "2s",
        "load_assignment": {"cluster_name": "c", "endpoints": localities},
    });
    with(base, more)
}

fn start(peer: Peer, cluster: Value) -> (DataPlane, SocketAddr) {
    let bootstrap = Bootstrap::new().cluster(cluster).listener(HttpListener::new("main", &json!([route("/", "c")])));
    let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("its listener");
    (plane, address)
}

/// Who answers so many requests, and with which status the others are answered.
fn spread(listener: SocketAddr, requests: usize) -> BTreeMap<String, usize> {
    let mut connection = Connection::open(listener).expect("a connection");
    let mut counts = BTreeMap::new();
    for _ in 0..requests {
        let response = connection.exchange(&Request::get("/")).expect("an answer");
        let who = response.header("x-origin-name").map_or_else(|| response.status.to_string(), str::to_owned);
        *counts.entry(who).or_default() += 1;
    }
    counts
}

fn share(counts: &BTreeMap<String, usize>, who: &str) -> usize {
    counts.get(who).copied().unwrap_or_default()
}

/// Waits until all of some requests are answered by these, and by each of them.
fn settles(listener: SocketAddr, who: &[&str]) {
    let settled = eventually(DEADLINE, || {
        let counts = spread(listener, 20);
        let names: Vec<&str> = counts.keys().map(String::as_str).collect();
        if names == who { Ok(()) } else { Err(format!("{counts:?}, not {who:?}")) }
    });
    settled.expect("requests go elsewhere");
}

/// What `/clusters` says of an endpoint's health.
fn flags(plane: &DataPlane, at: SocketAddr) -> String {
    let text = plane.admin.get("/clusters").map(|page| page.text()).unwrap_or_default();
    let prefix = format!("c::{at}::health_flags::");
    text.lines().find_map(|line| line.strip_prefix(&prefix)).unwrap_or_default().to_owned()
}

fn becomes(plane: &DataPlane, at: SocketAddr, expected: &str) {
    let seen = eventually(DEADLINE, || match flags(plane, at) {
        flags if flags == expected => Ok(()),
        flags => Err(flags),
    });
    seen.unwrap_or_else(|error| panic!("{} of {at} isn't {expected}: {error}", plane.peer.name()));
}

#[test]
fn priorities_fail_over_and_panic_ignores_health() {
    let [a, b, c] = origins(["a", "b", "c"]);
    let sick = json!({"health_status": "UNHEALTHY"});
    let draining = json!({"health_status": "DRAINING"});
    let two = |first: Value, second: Value| json!([{"priority": 0, "lb_endpoints": [first]}, {"priority": 1, "lb_endpoints": [second]}]);
    for peer in Peer::all() {
        let (_plane, main) =
            start(peer, of(two(endpoint(a.address(), json!({})), endpoint(b.address(), json!({}))), json!({})));
        assert_eq!(share(&spread(main, 50), "a"), 50, "{peer:?}: the first priority takes all");
        let (plane, main) =
            start(peer, of(two(endpoint(a.address(), draining.clone()), endpoint(b.address(), json!({}))), json!({})));
        assert_eq!(share(&spread(main, 50), "b"), 50, "{peer:?}: the second one takes over");
        assert_eq!(flags(&plane, a.address()), "/eds_status_draining", "{peer:?}");
        // One of three is healthy: below the threshold all are asked.
        let three = json!([{"lb_endpoints": [
            endpoint(a.address(), json!({})), endpoint(b.address(), sick.clone()), endpoint(c.address(), sick.clone()),
        ]}]);
        let (plane, main) = start(peer, of(three.clone(), json!({})));
        let counts = spread(main, 60);
        assert_eq!(["a", "b", "c"].map(|name| share(&counts, name)), [20, 20, 20], "{peer:?}: {counts:?}");
        assert!(plane.admin.stat("cluster.c.lb_healthy_panic").expect("stats") >= 60, "{peer:?}");
        let off = json!({"common_lb_config": {"healthy_panic_threshold": {"value": 0}}});
        let (plane, main) = start(peer, of(three, off));
        assert_eq!(share(&spread(main, 30), "a"), 30, "{peer:?}: no panic");
        assert_eq!(flags(&plane, b.address()), "/failed_eds_health", "{peer:?}");
        assert_eq!(plane.admin.stat("cluster.c.membership_healthy").expect("stats"), 1, "{peer:?}");
    }
}

#[test]
fn localities_and_weights_share_out() {
    let [a, b, c] = origins(["a", "b", "c"]);
    let zone = |name: &str, weight: u32, endpoints: Value| json!({"locality": {"zone": name}, "load_balancing_weight": weight, "lb_endpoints": endpoints});
    let localities = json!([
        zone("x", 1, json!([endpoint(a.address(), json!({})), endpoint(b.address(), json!({}))])),
        zone("y", 3, json!([endpoint(c.address(), json!({}))])),
    ]);
    let weighted = of(localities.clone(), json!({"common_lb_config": {"locality_weighted_lb_config": {}}}));
    let typed = of(
        localities,
        json!({"load_balancing_policy": {"policies": [{"typed_extension_config": {
        "name": "rr", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.load_balancing_policies.round_robin.v3.RoundRobin",
            "locality_lb_config": {"locality_weighted_lb_config": {}},
        }}}]}}),
    );
    let plain = of(
        json!([{"lb_endpoints": [
            endpoint(a.address(), json!({"load_balancing_weight": 1})),
            endpoint(b.address(), json!({"load_balancing_weight": 1})),
            endpoint(c.address(), json!({"load_balancing_weight": 6})),
        ]}]),
        json!({}),
    );
    for peer in Peer::all() {
        for cluster in [&weighted, &typed, &plain] {
            let (_plane, main) = start(peer, cluster.clone());
            let counts = spread(main, 160);
            let [a, b, c] = ["a", "b", "c"].map(|name| share(&counts, name));
            assert!(
                (15..=25).contains(&a) && (15..=25).contains(&b) && (115..=125).contains(&c),
                "{peer:?}: {counts:?}"
            );
        }
    }
}

#[test]
fn an_outlier_is_ejected() {
    let [a, b] = origins(["a", "b"]);
    let gone = closed().expect("a port");
    let three = json!([{"lb_endpoints": [
        endpoint(a.address(), json!({})), endpoint(b.address(), json!({})), endpoint(gone, json!({})),
    ]}]);
    let detection = json!({"outlier_detection": {
        "consecutive_5xx": 3, "interval": "3600s", "base_ejection_time": "3600s", "max_ejection_percent": 50,
    }});
    for peer in Peer::all() {
        let (plane, main) = start(peer, of(three.clone(), detection.clone()));
        let counts = spread(main, 60);
        // Envoy's workers go on until its main thread has ejected the endpoint.
        let failed = share(&counts, "503");
        assert!(if peer == Peer::Outrigger { failed == 3 } else { failed >= 3 }, "{peer:?}: {counts:?}");
        becomes(&plane, gone, "/failed_outlier_check");
        settles(main, &["a", "b"]);
        let stats = plane.admin.stats().expect("stats");
        for (name, value) in
            [("ejections_active", 1), ("ejections_enforced_consecutive_5xx", 1), ("ejections_enforced_total", 1)]
        {
            assert_eq!(stats.get(&format!("cluster.c.outlier_detection.{name}")), Some(&value), "{peer:?}: {name}");
        }
        // An endpoint that answers 500 is another one: half of three is one, so it stays.
        let mut connection = Connection::open(main).expect("a connection");
        for _ in 0..12 {
            connection.exchange(&Request::get("/").origin("status=500")).expect("an answer");
        }
        plane
            .admin
            .stat_reaches("cluster.c.outlier_detection.ejections_overflow", 1, DEADLINE)
            .unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
        settles(main, &["a", "b"]);
    }
}

#[test]
fn health_checks_follow_the_origin() {
    let check = |kind: Value| {
        let base = json!({
            "timeout": "1s", "interval": "0.05s", "unhealthy_threshold": 2, "healthy_threshold": 2,
            "no_traffic_interval": "0.05s",
        });
        json!({"health_checks": [with(base, kind)]})
    };
    let kinds = [
        json!({"http_health_check": {"path": "/healthz", "host": "checked.test"}}),
        json!({"http_health_check": {"path": "/healthz", "codec_client_type": "HTTP2", "expected_statuses": [{"start": 200, "end": 300}]}}),
        json!({"tcp_health_check": {}}),
    ];
    for peer in Peer::all() {
        for kind in &kinds {
            let [a, b, _] = origins(["a", "b", "c"]);
            let two = json!([{"lb_endpoints": [endpoint(a.address(), json!({})), endpoint(b.address(), json!({}))]}]);
            let (plane, main) = start(peer, of(two, check(kind.clone())));
            becomes(&plane, a.address(), "healthy");
            becomes(&plane, b.address(), "healthy");
            settles(main, &["a", "b"]);
            if kind["http_health_check"]["host"].is_string() {
                let seen = b.seen_at("/healthz").first().cloned().expect("a check");
                let header = |name: &str| {
                    seen.headers.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.clone())
                };
                assert_eq!(
                    (header("host").as_deref(), header("user-agent").as_deref()),
                    (Some("checked.test"), Some("Envoy/HC")),
                    "{peer:?}"
                );
            }
            let at = b.address();
            drop(b);
            becomes(&plane, at, "/failed_active_hc");
            settles(main, &["a"]);
            let healthy = || plane.admin.stat("cluster.c.health_check.healthy").unwrap_or_default();
            assert_eq!(healthy(), 1, "{peer:?} {kind}");
            let _b = Origin::bind("b", at, true).expect("the origin comes back");
            becomes(&plane, at, "healthy");
            settles(main, &["a", "b"]);
        }
    }
}

#[test]
fn a_connection_at_its_limit_is_waited_for() {
    let origin = Origin::start("a").expect("an origin");
    let limits = |pending: u32| json!({"circuit_breakers": {"thresholds": [{"max_connections": 1, "max_pending_requests": pending}]}});
    let one = json!([{"lb_endpoints": [endpoint(origin.address(), json!({}))]}]);
    for peer in Peer::all() {
        let gate = format!("limit-{}", peer.name());
        let first_path = format!("/first-{}", peer.name());
        let (plane, main) = start(peer, of(one.clone(), limits(1)));
        let mut first = Connection::open(main).expect("a connection");
        let mut second = Connection::open(main).expect("a connection");
        let mut third = Connection::open(main).expect("a connection");
        first.send(Request::get(&first_path).origin(&format!("gate={gate}")).bytes()).expect("sent");
        eventually(DEADLINE, || if origin.seen_at(&first_path).is_empty() { Err("not there") } else { Ok(()) })
            .expect("the first request");
        second.send(Request::get("/second").bytes()).expect("sent");
        plane.admin.stat_reaches("cluster.c.upstream_cx_overflow", 1, DEADLINE).expect("the limit is met");
        // The place to wait is taken.
        let refused = third.exchange(&Request::get("/third")).expect("an answer");
        assert_eq!((refused.status, refused.header("x-envoy-overloaded")), (503, Some("true")), "{peer:?}");
        origin.open_gate(&gate);
        assert_eq!(first.response().expect("an answer").status, 200, "{peer:?}");
        assert_eq!(second.response().expect("an answer").status, 200, "{peer:?}");
    }
}

/// A cluster whose endpoints a server of ours resolves.
fn resolved(kind: &str, port: u16, server: SocketAddr) -> Value {
    let assignment = json!({"cluster_name": "c", "endpoints": [{"lb_endpoints": [
        {"endpoint": {"address": {"socket_address": {"address": "svc.test", "port_value": port}}}},
    ]}]});
    json!({
        "name": "c", "type": kind, "connect_timeout": "1s", "dns_lookup_family": "V4_ONLY", "dns_refresh_rate": "0.05s",
        "dns_failure_refresh_rate": {"base_interval": "0.05s", "max_interval": "0.1s"},
        "load_assignment": assignment,
        "typed_dns_resolver_config": {"name": "envoy.network.dns_resolver.cares", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.network.dns_resolver.cares.v3.CaresDnsResolverConfig",
            "resolvers": [address(server)],
            "dns_resolver_options": {"no_default_search_domain": true},
        }},
    })
}

fn ip(last: u8) -> IpAddr {
    IpAddr::from([127, 0, 0, last])
}

#[test]
fn names_are_resolved_and_followed() {
    // Both origins have one port, on two addresses of this host.
    let a = Origin::start("a").expect("an origin");
    let port = a.address().port();
    let b = Origin::bind("b", SocketAddr::new(ip(2), port), true).expect("another one");
    for peer in Peer::all() {
        let server = DnsServer::start().expect("a server");
        server.set("svc.test", &[ip(1)]);
        let (plane, main) = start(peer, resolved("STRICT_DNS", port, server.address()));
        settles(main, &["a"]);
        server.set("svc.test", &[ip(1), ip(2)]);
        settles(main, &["a", "b"]);
        server.set("svc.test", &[ip(2)]);
        settles(main, &["b"]);
        let hostname = format!("c::{}::hostname::svc.test", b.address());
        assert!(plane.admin.get("/clusters").expect("a page").text().contains(&hostname), "{peer:?}");
        // What is known stays while the server fails.
        server.fail("svc.test");
        let asked = server.questions();
        eventually(DEADLINE, || if server.questions() > asked + 4 { Ok(()) } else { Err("not asked") })
            .expect("asked again");
        settles(main, &["b"]);
        server.set("svc.test", &[]);
        settles(main, &["503"]);

        server.set("svc.test", &[ip(2), ip(1)]);
        let (_plane, main) = start(peer, resolved("LOGICAL_DNS", port, server.address()));
        settles(main, &["b"]);
        server.set("svc.test", &[ip(1)]);
        settles(main, &["a"]);
    }
}

#[test]
fn a_name_that_cannot_be_resolved_holds_nobody_up() {
    let origin = Origin::start("a").expect("an origin");
    let server = DnsServer::start().expect("a server");
    server.fail("svc.test");
    let bad = resolved("STRICT_DNS", 80, server.address());
    let routes = json!([route("/dns", "c"), route("/", "good")]);
    let bootstrap = Bootstrap::new()
        .cluster(bad)
        .cluster(cluster("good", &[origin.address()]))
        .listener(HttpListener::new("main", &routes));
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let main = plane.listener("main").expect("its listener");
    assert_eq!(Request::get("/").send(main).expect("an answer").status, 200);
    let refused = Request::get("/dns").with("x-test", "dns").send(main).expect("an answer");
    assert_eq!(refused.status, 503);
    assert_eq!(plane.access_record("dns").expect("its record")["flags"], "UH");
    assert!(plane.admin.stat("cluster.c.update_failure").expect("stats") >= 1);
}

/// Who answers for each of some users, by the hash of their header.
fn placed(main: SocketAddr) -> Vec<String> {
    let mut connection = Connection::open(main).expect("a connection");
    let mut ask = |user: usize| {
        let request = Request::get("/").with("x-user", &format!("user-{user}"));
        connection.exchange(&request).expect("an answer").header("x-origin-name").unwrap_or_default().to_owned()
    };
    (0..40).map(&mut ask).collect()
}

#[test]
fn a_hash_leads_to_the_same_endpoint_through_either_proxy() {
    let [a, b, c] = origins(["a", "b", "c"]);
    let three = json!([{"lb_endpoints": [
        endpoint(a.address(), json!({})), endpoint(b.address(), json!({"load_balancing_weight": 2})), endpoint(c.address(), json!({})),
    ]}]);
    let policies = [
        json!({"lb_policy": "RING_HASH"}),
        json!({"lb_policy": "RING_HASH", "ring_hash_lb_config": {"hash_function": "MURMUR_HASH_2", "minimum_ring_size": 64}}),
        json!({"lb_policy": "MAGLEV", "maglev_lb_config": {"table_size": 1009}}),
    ];
    let mut route = route("/", "c");
    route["route"]["hash_policy"] = json!([{"header": {"header_name": "x-user"}}]);
    for policy in policies {
        let mut answers = Vec::new();
        for peer in Peer::all() {
            let bootstrap = Bootstrap::new()
                .cluster(of(three.clone(), policy.clone()))
                .listener(HttpListener::new("main", &json!([route.clone()])));
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            let main = plane.listener("main").expect("its listener");
            let found = placed(main);
            assert_eq!(found, placed(main), "{peer:?}: users stay where they are");
            let mut names = found.clone();
            names.sort();
            names.dedup();
            assert_eq!(names, ["a", "b", "c"], "{peer:?}");
            answers.push(found);
        }
        assert!(answers.windows(2).all(|pair| pair[0] == pair[1]), "{policy}: {answers:?}");
    }
}

#[test]
fn subsets_are_chosen_by_routes() {
    let [a, b, c] = origins(["a", "b", "c"]);
    let tagged = |origin: &Origin, stage: &str, version: u32| {
        let metadata = json!({"metadata": {"filter_metadata": {"envoy.lb": {"stage": stage, "version": version}}}});
        endpoint(origin.address(), metadata)
    };
    let three = json!([{"lb_endpoints": [tagged(&a, "prod", 1), tagged(&b, "prod", 2), tagged(&c, "dev", 2)]}]);
    let config = json!({"lb_subset_config": {
        "fallback_policy": "DEFAULT_SUBSET", "default_subset": {"stage": "dev"},
        "subset_selectors": [
            {"keys": ["stage"]}, {"keys": ["version", "stage"], "fallback_policy": "NO_FALLBACK"},
        ],
    }});
    let wants = |prefix: &str, criteria: Value| {
        let mut route = route(prefix, "c");
        route["route"]["metadata_match"] = json!({"filter_metadata": {"envoy.lb": criteria}});
        route
    };
    let mut weighted = json!({"match": {"prefix": "/weighted"}, "route": {
        "metadata_match": {"filter_metadata": {"envoy.lb": {"stage": "prod", "version": 1}}},
        "weighted_clusters": {"clusters": [{"name": "c", "weight": 1,
            "metadata_match": {"filter_metadata": {"envoy.lb": {"version": 2}}}}]},
    }});
    weighted["name"] = json!("weighted");
    let routes = json!([
        wants("/prod", json!({"stage": "prod"})),
        wants("/two", json!({"stage": "prod", "version": 2})),
        wants("/none", json!({"stage": "prod", "version": 3})),
        wants("/unknown", json!({"stage": "test"})),
        weighted,
        route("/", "c"),
    ]);
    let bootstrap = Bootstrap::new().cluster(of(three, config)).listener(HttpListener::new("main", &routes));
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let main = plane.listener("main").expect("its listener");
        for (path, expected) in [
            ("/prod", &["a", "b"][..]),
            ("/two", &["b"]),
            ("/none", &["503"]),
            ("/unknown", &["c"]),
            ("/weighted", &["b"]),
            ("/", &["c"]),
        ] {
            let mut connection = Connection::open(main).expect("a connection");
            let mut seen = std::collections::BTreeSet::new();
            for _ in 0..10 {
                let response = connection.exchange(&Request::get(path)).expect("an answer");
                seen.insert(
                    response.header("x-origin-name").map_or_else(|| response.status.to_string(), str::to_owned),
                );
            }
            assert_eq!(seen.iter().map(String::as_str).collect::<Vec<_>>(), expected, "{peer:?} {path}");
        }
        assert!(plane.admin.stat("cluster.c.lb_subsets_selected").expect("stats") >= 30, "{peer:?}");
        assert!(plane.admin.stat("cluster.c.lb_subsets_fallback").expect("stats") >= 20, "{peer:?}");
    }
}
