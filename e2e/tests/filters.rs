//! Our three filters from a bootstrap, in Envoy and in our proxy: the same module, the same requests, the same answers.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, wasm_filter};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::h2c::{H2Connection, H2Request};
use outrigger_e2e::{Bootstrap, Connection, Origin, Request, modules, workspace};
use serde_json::{Value, json};

const KEY: &str = "s3cret-key-of-alice";

fn filter(name: &str, module: &str, config: &Value) -> Value {
    wasm_filter(name, &workspace::filter(module).expect("the filter is built"), config)
}

fn start(peer: Peer, origin: &Origin, filters: &[Value]) -> DataPlane {
    let listener = HttpListener::new("main", &json!([route("/", "o")]));
    let listener = filters.iter().fold(listener, |listener, filter| listener.filter(filter.clone()));
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    DataPlane::start(peer, &bootstrap).expect("the proxy starts")
}

#[test]
fn header_policy_changes_both_sides() {
    let config = json!({
        "request": {
            "remove": ["x-remove"], "rename": [{"from": "x-old", "to": "x-new"}],
            "set": [{"name": "x-set", "value": "by-filter"}], "add": [{"name": "x-add", "value": "one-more"}],
        },
        "response": {
            "remove": ["x-origin-name"], "set": [{"name": "x-stamp", "value": "g1"}],
            "add": [{"name": "x-from", "value": "filter"}],
        },
    });
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let plane = start(peer, &origin, &[filter("header-policy", "header_policy", &config)]);
        let address = plane.listener("main").expect("listener");
        let mut client = Connection::open(address).expect("connect");
        let request = Request::get("/x")
            .with("x-remove", "1")
            .with("x-old", "kept")
            .with("x-set", "by-client")
            .with("x-add", "first")
            .origin("header=x-from:origin");
        for _ in 0..20 {
            let response = client.exchange(&request).expect("answer");
            assert_eq!(response.status, 200, "{}", peer.name());
            assert_eq!(response.header("x-stamp"), Some("g1"), "{}", peer.name());
            assert_eq!(response.header("x-origin-name"), None, "{}", peer.name());
            assert_eq!(response.header_all("x-from"), ["origin", "filter"], "{}", peer.name());
            let expected = [("x-remove", None), ("x-old", None), ("x-new", Some("kept")), ("x-set", Some("by-filter"))];
            for (name, value) in expected {
                assert_eq!(response.seen(name).as_deref(), value, "{}: {name}", peer.name());
            }
        }
        let h2 = H2Connection::open(address).expect("connect");
        let response = h2.exchange(&H2Request::get("/x")).expect("answer");
        assert_eq!((response.status, response.header("x-stamp")), (200, Some("g1")), "{} over HTTP/2", peer.name());
    }
}

#[test]
fn api_key_auth_lets_in_who_has_a_key() {
    let config = json!({"keys": [{"name": "alice", "sha256": modules::sha256(KEY.as_bytes())}]});
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let plane = start(peer, &origin, &[filter("api-key-auth", "api_key_auth", &config)]);
        let address = plane.listener("main").expect("listener");
        let table = [
            ("no key", Request::get("/p"), 401),
            ("a wrong key", Request::get("/p").with("x-api-key", "wrong"), 401),
            ("the key", Request::get("/p").with("x-api-key", KEY), 200),
            ("the key twice", Request::get("/p").with("x-api-key", KEY).with("x-api-key", KEY), 401),
            ("a body without key", Request::new("POST", "/p").body("data"), 401),
            ("a body with key", Request::new("POST", "/p").with("x-api-key", KEY).body("data"), 200),
        ];
        for (name, request, status) in table {
            let response = request.send(address).expect(name);
            assert_eq!(response.status, status, "{}: {name}: {}", peer.name(), response.text());
            if status == 401 {
                assert_eq!(
                    response.header("content-type"),
                    Some("application/problem+json"),
                    "{}: {name}",
                    peer.name()
                );
                assert!(response.header("www-authenticate").is_some(), "{}: {name}", peer.name());
                assert_eq!(response.json().expect("a problem")["status"], 401, "{}: {name}", peer.name());
            } else {
                assert_eq!(response.seen("x-api-key-name").as_deref(), Some("alice"), "{}: {name}", peer.name());
                assert_eq!(response.seen("x-api-key"), None, "{}: the key stays here", peer.name());
            }
        }
        assert_eq!(origin.seen_at("/p").len(), 2, "{}: only those with the key arrive", peer.name());
    }
}

#[test]
fn rate_limit_stops_a_flood_and_only_that() {
    let config = json!({"limits": [{"name": "client", "key": {"header": "x-client"}, "requests": 5, "per": "1h"}]});
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let plane = start(peer, &origin, &[filter("rate-limit", "rate_limit", &config)]);
        let address = plane.listener("main").expect("listener");
        let mut client = Connection::open(address).expect("connect");
        let mut ask = |who: &str| client.exchange(&Request::get("/").with("x-client", who)).expect("answer");
        for left in (0..5).rev() {
            let response = ask("flood");
            assert_eq!(response.status, 200, "{}", peer.name());
            let header = response.header("ratelimit").unwrap_or_default().to_owned();
            assert!(header.contains(&format!("r={left}")), "{}: {header}", peer.name());
        }
        for _ in 0..10 {
            let response = ask("flood");
            assert_eq!(response.status, 429, "{}", peer.name());
            let wait: u64 =
                response.header("retry-after").and_then(|v| v.parse().ok()).expect("Retry-After in seconds");
            assert!((1..=720).contains(&wait), "{}: {wait}", peer.name());
            assert_eq!(response.header("content-type"), Some("application/problem+json"), "{}", peer.name());
            assert!(response.header("ratelimit-policy").is_some(), "{}", peer.name());
        }
        assert_eq!(ask("neighbour").status, 200, "{}: another client has a bucket of its own", peer.name());
        assert_eq!(origin.seen().len(), 6, "{}", peer.name());
    }
}

#[test]
fn a_chain_of_all_three_runs_in_order() {
    let keys = json!({"keys": [{"name": "alice", "sha256": modules::sha256(KEY.as_bytes())}]});
    // Keyed by what api-key-auth found out: only right if it ran before.
    let limit = json!({"limits": [{"name": "key", "key": {"header": "x-api-key-name"}, "requests": 3, "per": "1h"}]});
    let stamp = json!({"response": {"set": [{"name": "x-stamp", "value": "chain"}]}});
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let filters = [
            filter("keys", "api_key_auth", &keys),
            filter("limit", "rate_limit", &limit),
            filter("stamp", "header_policy", &stamp),
        ];
        let plane = start(peer, &origin, &filters);
        let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
        let with_key = Request::get("/").with("x-api-key", KEY);
        let mut statuses = Vec::new();
        for request in [&Request::get("/"), &with_key, &with_key, &with_key, &with_key] {
            let response = client.exchange(request).expect("answer");
            let stamped = response.header("x-stamp") == Some("chain");
            assert_eq!(stamped, response.status == 200, "{}: {response:?}", peer.name());
            statuses.push(response.status);
        }
        assert_eq!(statuses, [401, 200, 200, 200, 429], "{}", peer.name());
    }
}
