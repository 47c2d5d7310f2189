//! The main job through the binaries: a folder becomes live traffic through the control plane, in our proxy and in real
//! Envoy, and one table of requests judges both.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::folder::{self, Folder};
use outrigger_e2e::rig::{KEY, keys, limit, policy, put_module};
use outrigger_e2e::{Connection, Origin, Peer, Request, Rig};
use serde_json::json;

fn three_filters(folder: &Folder) -> anyhow::Result<()> {
    for name in ["api_key_auth", "rate_limit", "header_policy"] {
        put_module(folder, name)?;
    }
    folder.apply("keys.yaml", &[keys()])?;
    folder.apply("limit.yaml", &[limit()])?;
    folder.apply("policy.yaml", &[policy("header_policy", "one")])
}

/// What a client sees of one exchange: the parts that must be equal in both proxies.
fn observe(rig: &Rig, client: &mut Connection, request: &Request) -> String {
    let response = client.exchange(request).expect("an answer");
    let shown =
        ["content-type", "www-authenticate", "retry-after", "ratelimit-policy", "x-gen-filter", "x-seen-gen-filter"];
    let headers: Vec<String> =
        shown.iter().filter_map(|name| response.header(name).map(|value| format!("{name}={value}"))).collect();
    let who = response.seen("x-api-key-name").unwrap_or_default();
    let body = if response.status == 200 { String::new() } else { response.text() };
    assert!(rig.gateway.port() > 0);
    format!("{} [{}] {who} {body}", response.status, headers.join(" ").replace("retry-after=1199", "retry-after=1200"))
}

fn table() -> Vec<Request> {
    let with_key = |path: &str| Request::get(path).with("x-api-key", KEY);
    let mut requests = vec![
        Request::get("/hello"),
        Request::get("/hello").with("x-api-key", "wrong"),
        with_key("/hello"),
        with_key("/hello?x=1").with("x-gen-filter", "from the client"),
    ];
    requests.extend((0..5).map(|_| with_key("/flood").with("x-tenant", "t")));
    requests.push(with_key("/another").with("x-tenant", "u"));
    requests
}

#[test]
fn one_folder_serves_both_proxies_the_same() {
    let mut seen = Vec::new();
    for peer in Peer::all() {
        for api_type in ["DELTA_GRPC", "GRPC"] {
            let rig = Rig::start_with(peer, api_type, three_filters).expect("the mesh");
            let mut client = Connection::open(rig.gateway).expect("connect");
            let answers: Vec<String> = table().iter().map(|request| observe(&rig, &mut client, request)).collect();
            let statuses: Vec<&str> = answers.iter().map(|answer| &answer[..3]).collect();
            assert_eq!(
                statuses,
                ["401", "401", "200", "200", "200", "200", "200", "429", "429", "200"],
                "{} {api_type}",
                peer.name()
            );
            assert!(answers[2].contains("x-gen-filter=one x-seen-gen-filter=one"), "{}", answers[2]);
            assert!(answers[2].contains("alice"), "{}", answers[2]);
            seen.push((format!("{} {api_type}", peer.name()), answers));
        }
    }
    let (first, answers) = &seen[0];
    for (name, others) in &seen[1..] {
        assert_eq!(answers, others, "{first} and {name} differ");
    }
}

#[test]
fn edits_reach_live_traffic_on_a_kept_connection() {
    for peer in Peer::all() {
        let rig = Rig::start_with(peer, "DELTA_GRPC", |folder| {
            put_module(folder, "header_policy")?;
            folder.apply("policy.yaml", &[policy("header_policy", "one")])
        });
        let rig = rig.expect("the mesh");
        let name = peer.name();
        let mut client = Connection::open(rig.gateway).expect("connect");
        assert_eq!(client.exchange(&Request::get("/")).expect("answer").header("x-gen-filter"), Some("one"), "{name}");
        // A filter's configuration.
        rig.push(|folder| folder.apply("policy.yaml", &[policy("header_policy", "two")])).expect(name);
        rig.serves_when(|response| response.header("x-gen-filter") == Some("two")).expect(name);
        assert_eq!(client.exchange(&Request::get("/")).expect("answer").header("x-gen-filter"), Some("two"), "{name}");
        // A route.
        let stamp = folder::stamp("x-gen-route", "x-gen-route", "r1");
        rig.push(|folder| folder.apply("route.yaml", &[folder::route(&stamp)])).expect(name);
        let response = rig.serves_when(|response| response.header("x-gen-route") == Some("r1")).expect(name);
        assert_eq!(response.header("x-seen-gen-route"), Some("r1"), "{name}");
        // Endpoints.
        let other = Origin::start("other").expect("origin");
        rig.push(|folder| folder.apply("service.yaml", &folder::service("api", &[other.address()]))).expect(name);
        rig.serves_when(|response| response.header("x-origin-name") == Some("other")).expect(name);
        assert_eq!(
            client.exchange(&Request::get("/")).expect("answer").header("x-origin-name"),
            Some("other"),
            "{name}"
        );
        // A filter goes.
        rig.push(|folder| folder.remove("policy.yaml")).expect(name);
        rig.serves_when(|response| response.header("x-gen-filter").is_none()).expect(name);
        assert_eq!(client.exchange(&Request::get("/")).expect("answer").status, 200, "{name}: the same connection");
    }
}

#[test]
fn routes_of_the_gateway_api_work_alike() {
    let rules = [
        json!({
            "matches": [{"path": {"type": "Exact", "value": "/exact"}}, {"headers": [{"name": "x-pick", "value": "me"}]}],
            "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-rule", "value": "picked"}]}}],
            "backendRefs": [{"name": "api", "port": 80}],
        }),
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": "/old"}}],
            "filters": [{"type": "URLRewrite", "urlRewrite": {"path": {"type": "ReplacePrefixMatch", "replacePrefixMatch": "/new"}}}],
            "backendRefs": [{"name": "api", "port": 80}],
        }),
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": "/moved"}}],
            "filters": [{"type": "RequestRedirect", "requestRedirect": {"hostname": "new.example", "statusCode": 302}}],
        }),
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": "/split"}}],
            "backendRefs": [{"name": "api", "port": 80, "weight": 0}, {"name": "second", "port": 80, "weight": 1}],
        }),
        json!({
            "matches": [{"path": {"type": "PathPrefix", "value": "/posts"}, "method": "POST"}],
            "filters": [{"type": "ResponseHeaderModifier", "responseHeaderModifier": {"set": [{"name": "x-rule", "value": "posted"}]}}],
            "backendRefs": [{"name": "api", "port": 80}],
        }),
        json!({"matches": [{"path": {"type": "PathPrefix", "value": "/"}}], "backendRefs": [{"name": "api", "port": 80}]}),
    ];
    for peer in Peer::all() {
        let second = Origin::start("second").expect("origin");
        let rig = Rig::start_with(peer, "DELTA_GRPC", |folder| {
            folder.apply("second.yaml", &folder::service("second", &[second.address()]))?;
            folder.apply("route.yaml", &[folder::route_with(&rules)])
        });
        let rig = rig.expect("the mesh");
        let name = peer.name();
        let header = |request: Request, header: &str| {
            let response = request.send(rig.gateway).expect("an answer");
            (response.status, response.header(header).map(str::to_owned))
        };
        let some = |value: &str| Some(value.to_owned());
        assert_eq!(header(Request::get("/exact"), "x-rule"), (200, some("picked")), "{name}");
        assert_eq!(header(Request::get("/any").with("x-pick", "me"), "x-rule"), (200, some("picked")), "{name}");
        assert_eq!(header(Request::get("/exact/no"), "x-rule"), (200, None), "{name}");
        assert_eq!(header(Request::get("/moved/x"), "location").0, 302, "{name}");
        assert_eq!(header(Request::get("/split"), "x-origin-name"), (200, some("second")), "{name}");
        assert_eq!(header(Request::new("POST", "/posts").body(""), "x-rule"), (200, some("posted")), "{name}");
        assert_eq!(header(Request::get("/posts"), "x-rule"), (200, None), "{name}");
        let echo = rig.get("/old/path?q").expect("an answer").json().expect("an echo");
        assert_eq!(echo["path"], "/new/path?q", "{name}");
    }
}

#[test]
fn proxy_status_tells_what_a_proxy_runs() {
    let rig = Rig::start_with(Peer::Outrigger, "DELTA_GRPC", three_filters).expect("the mesh");
    let words = rig.control_plane.proxy_status().expect("proxy-status");
    assert!(words.contains("proxy-under-test"), "{words}");
    assert!(words.to_lowercase().contains("acked"), "{words}");
    let proxy = rig.control_plane.proxy(outrigger_e2e::rig::PROXY).expect("the proxy");
    let filters: Vec<&str> =
        proxy["filters"].as_array().into_iter().flatten().filter_map(|f| f["name"].as_str()).collect();
    for name in ["shop/keys", "shop/limit", "shop/policy"] {
        assert!(filters.contains(&name), "{name} in {filters:?}");
    }
    let metrics = rig.control_plane.metrics().expect("metrics");
    assert!(metrics.contains("outrigger_xds_streams 1"), "{metrics}");
    // Module bytes are served by their digest, and nothing else is.
    let digest =
        outrigger_e2e::modules::sha256(&std::fs::read(rig.folder.file("filters/header_policy.wasm")).expect("module"));
    let module = rig.control_plane.get(&format!("/modules/sha256:{digest}")).expect("an answer");
    assert_eq!((module.status, outrigger_e2e::modules::sha256(&module.body)), (200, digest));
    assert_eq!(rig.control_plane.get(&format!("/modules/sha256:{}", "0".repeat(64))).expect("an answer").status, 404);
}
