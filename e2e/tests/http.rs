//! One table of HTTP behaviour against both proxies: what Envoy 1.40 does with a bootstrap, ours does too.
//!
//! Where ours is meant to be stricter, the test says so and expects it of ours alone.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::bootstrap::{HttpListener, cluster, http2, route, tcp_listener, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::h2c::{H2Connection, H2Request};
use outrigger_e2e::origin::pattern;
use outrigger_e2e::{Bootstrap, Connection, Origin, Request, Response};
use serde_json::{Value, json};

/// What is expected of one request's exchange.
struct Case {
    name: &'static str,
    request: Request,
    status: u16,
    /// What must be so beyond the status; says what is wrong.
    check: fn(&Response) -> Result<(), String>,
}

fn case(name: &'static str, request: Request, status: u16, check: fn(&Response) -> Result<(), String>) -> Case {
    Case { name, request, status, check }
}

fn is_true(condition: bool, what: impl Into<String>) -> Result<(), String> {
    if condition { Ok(()) } else { Err(what.into()) }
}

fn same(what: &str, seen: Option<&str>, expected: Option<&str>) -> Result<(), String> {
    is_true(seen == expected, format!("{what} is {seen:?}, not {expected:?}"))
}

/// The path that the origin saw.
fn path(response: &Response, expected: &str) -> Result<(), String> {
    let echo = response.json().map_err(|error| error.to_string())?;
    same("the origin's path", echo["path"].as_str(), Some(expected))
}

fn from_origin(response: &Response, expected: &str) -> Result<(), String> {
    same("the origin", response.header("x-origin-name"), Some(expected))
}

fn seen(response: &Response, header: &str, expected: Option<&str>) -> Result<(), String> {
    same(&format!("{header} at the origin"), response.seen(header).as_deref(), expected)
}

/// Runs the table against every proxy, all cases on one connection each and again on connections of their own.
fn run_table(bootstrap: &Bootstrap, cases: &[Case]) {
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let mut shared = Connection::open(address).expect("a connection");
        let mut failures = Vec::new();
        for case in cases {
            for (how, response) in [("shared", shared.exchange(&case.request)), ("own", case.request.send(address))] {
                let outcome = response.map_err(|error| format!("{error:#}")).and_then(|response| {
                    is_true(response.status == case.status, format!("status {} {}", response.status, response.text()))?;
                    (case.check)(&response)
                });
                if let Err(reason) = outcome {
                    failures.push(format!("{} / {} / {how} connection: {reason}", peer.name(), case.name));
                    shared = Connection::open(address).expect("another connection");
                }
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

fn ok(_: &Response) -> Result<(), String> {
    Ok(())
}

fn two_origins() -> (Origin, Origin, Bootstrap) {
    let (a, b) = (Origin::start("a").expect("origin"), Origin::start("b").expect("origin"));
    let bootstrap = Bootstrap::new().cluster(cluster("a", &[a.address()])).cluster(cluster("b", &[b.address()]));
    (a, b, bootstrap)
}

#[test]
fn hosts_and_paths_select_the_route() {
    let (_a, _b, bootstrap) = two_origins();
    let to = |cluster: &str| json!([route("/", cluster)]);
    let tag = |value: &str| json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200, "body": {"inline_string": value}}}]);
    let hosts = json!([
        {"name": "exact", "domains": ["exact.example", "with-port.example:81"], "routes": to("b")},
        {"name": "suffix", "domains": ["*.suffix.example"], "routes": tag("suffix")},
        {"name": "longer", "domains": ["*.longer.suffix.example"], "routes": tag("longer")},
        {"name": "prefix", "domains": ["prefix.*"], "routes": tag("prefix")},
        {"name": "all", "domains": ["*"], "routes": [
            {"match": {"path": "/exact"}, "direct_response": {"status": 200, "body": {"inline_string": "exact path"}}},
            {"match": {"path": "/cased", "case_sensitive": false}, "direct_response": {"status": 200, "body": {"inline_string": "any case"}}},
            {"match": {"path_separated_prefix": "/parts"}, "direct_response": {"status": 200, "body": {"inline_string": "separated"}}},
            {"match": {"safe_regex": {"regex": "/re/[0-9]+"}}, "direct_response": {"status": 200, "body": {"inline_string": "regex"}}},
            {"match": {"prefix": "/h", "headers": [{"name": "x-pick", "string_match": {"exact": "b"}}]}, "route": {"cluster": "b"}},
            {"match": {"prefix": "/h", "headers": [{"name": "x-there", "present_match": true}]}, "direct_response": {"status": 200, "body": {"inline_string": "present"}}},
            {"match": {"prefix": "/h", "headers": [{"name": "x-n", "range_match": {"start": 1, "end": 10}}]}, "direct_response": {"status": 200, "body": {"inline_string": "range"}}},
            {"match": {"prefix": "/h", "headers": [{"name": "x-not", "string_match": {"prefix": "no"}, "invert_match": true}, {"name": "x-not", "present_match": true}]}, "direct_response": {"status": 200, "body": {"inline_string": "inverted"}}},
            {"match": {"prefix": "/q", "query_parameters": [{"name": "v", "string_match": {"exact": "1"}}]}, "direct_response": {"status": 200, "body": {"inline_string": "query"}}},
            {"match": {"prefix": "/q", "query_parameters": [{"name": "w", "present_match": true}]}, "direct_response": {"status": 200, "body": {"inline_string": "query present"}}},
            {"match": {"prefix": "/api"}, "route": {"cluster": "a"}},
        ]},
    ]);
    let get = |target: &str| Request::get(target);
    macro_rules! body {
        ($expected:literal) => {
            |response: &Response| same("body", Some(&response.text()), Some($expected))
        };
    }
    run_table(
        &bootstrap.listener(HttpListener::hosts("main", &hosts)),
        &[
            case("exact host", get("/x").host("exact.example"), 200, |r| from_origin(r, "b")),
            case("a host's letter case doesn't matter", get("/x").host("EXACT.Example"), 200, |r| from_origin(r, "b")),
            case("host with port", get("/x").host("with-port.example:81"), 200, |r| from_origin(r, "b")),
            case("suffix host", get("/").host("www.suffix.example"), 200, body!("suffix")),
            case("the longer suffix wins", get("/").host("www.longer.suffix.example"), 200, body!("longer")),
            case("a suffix isn't the bare name", get("/none").host("suffix.example"), 404, ok),
            case("prefix host", get("/").host("prefix.org"), 200, body!("prefix")),
            case("exact path", get("/exact"), 200, body!("exact path")),
            case("exact path with a query", get("/exact?a=b"), 200, body!("exact path")),
            case("exact path is exact", get("/exact/"), 404, ok),
            case("letter case ignored", get("/CASED"), 200, body!("any case")),
            case("separated prefix itself", get("/parts"), 200, body!("separated")),
            case("separated prefix and more", get("/parts/x"), 200, body!("separated")),
            case("separated prefix is no plain prefix", get("/partsx"), 404, ok),
            case("regex", get("/re/12?x"), 200, body!("regex")),
            case("regex matches the whole path", get("/re/12a"), 404, ok),
            case("header exact", get("/h").with("x-pick", "b"), 200, |r| from_origin(r, "b")),
            case("header present", get("/h").with("X-There", "any"), 200, body!("present")),
            case("header range", get("/h").with("x-n", "9"), 200, body!("range")),
            case("header range ends before its end", get("/h").with("x-n", "10"), 404, ok),
            case("header inverted", get("/h").with("x-not", "yes"), 200, body!("inverted")),
            case("header inverted, no match", get("/h").with("x-not", "no way"), 404, ok),
            case("query exact", get("/q?u=2&v=1"), 200, body!("query")),
            case("query present", get("/q?w"), 200, body!("query present")),
            case("query no match", get("/q?v=2"), 404, ok),
            case("plain prefix", get("/api/v1?x=y"), 200, |r| path(r, "/api/v1?x=y")),
            case("no route", get("/nothing"), 404, ok),
        ],
    );
}

/// Routes that rewrite, redirect, answer and change headers.
fn changing_routes() -> Value {
    let set = |name: &str, value: &str, action: &str| json!({"header": {"key": name, "value": value}, "append_action": action});
    json!([
        {"match": {"prefix": "/old"}, "route": {"cluster": "a", "prefix_rewrite": "/new"}},
        {"match": {"prefix": "/regex"}, "route": {"cluster": "a", "regex_rewrite": {"pattern": {"regex": "^/regex/([^/]+)/(.*)$"}, "substitution": "/\\2/\\1"}}},
        {"match": {"prefix": "/host"}, "route": {"cluster": "a", "host_rewrite_literal": "inner.example"}},
        {"match": {"prefix": "/moved"}, "redirect": {"path_redirect": "/there", "response_code": "FOUND"}},
        {"match": {"prefix": "/to-host"}, "redirect": {"host_redirect": "new.example", "https_redirect": true}},
        {"match": {"prefix": "/swap"}, "redirect": {"prefix_rewrite": "/swapped", "response_code": "PERMANENT_REDIRECT"}},
        {"match": {"prefix": "/strip"}, "redirect": {"path_redirect": "/s", "strip_query": true}},
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 418, "body": {"inline_string": "short and stout"}},
         "response_headers_to_add": [set("x-tea", "pot", "APPEND_IF_EXISTS_OR_ADD")]},
        {"match": {"prefix": "/change"}, "route": {"cluster": "a"},
         "request_headers_to_add": [
             set("x-added", "1", "APPEND_IF_EXISTS_OR_ADD"), set("x-set", "2", "OVERWRITE_IF_EXISTS_OR_ADD"),
             set("x-kept", "3", "ADD_IF_ABSENT"),
         ],
         "request_headers_to_remove": ["x-gone"],
         "response_headers_to_add": [set("x-answer", "42", "OVERWRITE_IF_EXISTS_OR_ADD")],
         "response_headers_to_remove": ["x-origin-name"]},
        {"match": {"prefix": "/weighted"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "a", "weight": 0}, {"name": "b", "weight": 100},
        ]}}},
        {"match": {"prefix": "/slow"}, "route": {"cluster": "a", "timeout": "0.2s"}},
        {"match": {"prefix": "/nowhere"}, "route": {"cluster": "missing"}},
        route("/", "a"),
    ])
}

#[test]
fn rewrites_redirects_and_header_changes() {
    let (_a, _b, bootstrap) = two_origins();
    let listener =
        HttpListener::new("main", &changing_routes()).manager(json!({"route_config": {"validate_clusters": false}}));
    macro_rules! location {
        ($expected:literal) => {
            |response: &Response| same("location", response.header("location"), Some($expected))
        };
    }
    let get = Request::get;
    run_table(
        &bootstrap.listener(listener),
        &[
            case("prefix rewrite", get("/old/x?q=1"), 200, |r| path(r, "/new/x?q=1")),
            case("prefix rewrite keeps the first path", get("/old/x"), 200, |r| {
                seen(r, "x-envoy-original-path", Some("/old/x"))
            }),
            case("regex rewrite", get("/regex/one/two?q"), 200, |r| path(r, "/two/one?q")),
            case("host rewrite", get("/host"), 200, |r| seen(r, "host", Some("inner.example"))),
            case("redirect to a path", get("/moved?x=1"), 302, location!("http://test.example/there?x=1")),
            case("redirect to a host by https", get("/to-host/p"), 301, location!("https://new.example/to-host/p")),
            case("redirect with a new prefix", get("/swap/p?q"), 308, location!("http://test.example/swapped/p?q")),
            case("redirect without the query", get("/strip?q=1"), 301, location!("http://test.example/s")),
            case("direct response", get("/direct"), 418, |r| {
                same("body", Some(&r.text()), Some("short and stout"))?;
                same("x-tea", r.header("x-tea"), Some("pot"))
            }),
            case("header added", get("/change").with("x-added", "0"), 200, |r| {
                let echo = r.json().map_err(|error| error.to_string())?;
                let all: Vec<&str> = echo["headers"]
                    .as_array()
                    .into_iter()
                    .flatten()
                    .filter(|h| h[0] == "x-added")
                    .filter_map(|h| h[1].as_str())
                    .collect();
                is_true(all == ["0", "1"], format!("x-added is {all:?}"))
            }),
            case("header replaced", get("/change").with("x-set", "0"), 200, |r| seen(r, "x-set", Some("2"))),
            case("header only if absent", get("/change").with("x-kept", "0"), 200, |r| seen(r, "x-kept", Some("0"))),
            case("header was absent", get("/change"), 200, |r| seen(r, "x-kept", Some("3"))),
            case("header removed", get("/change").with("X-Gone", "0"), 200, |r| seen(r, "x-gone", None)),
            case("response headers changed", get("/change"), 200, |r| {
                same("x-answer", r.header("x-answer"), Some("42"))?;
                same("x-origin-name", r.header("x-origin-name"), None)
            }),
            case("weight decides", get("/weighted"), 200, |r| from_origin(r, "b")),
            case("route timeout", get("/slow").origin("silent"), 504, |r| {
                same("body", Some(&r.text()), Some("upstream request timeout"))
            }),
            case("unknown cluster", get("/nowhere"), 503, ok),
            case("the origin's status and headers pass", get("/").origin("status=404; header=x-a:1"), 404, |r| {
                same("x-a", r.header("x-a"), Some("1"))
            }),
            case("no content", get("/").origin("status=204"), 204, |r| is_true(r.body.is_empty(), "a body with 204")),
            case("head", Request::new("HEAD", "/"), 200, |r| is_true(r.body.is_empty(), "a body with HEAD")),
            case("chunked answer", get("/").origin("body=100000; chunked"), 200, |r| {
                is_true(r.body == pattern(100_000), "another body")
            }),
            case("body with length", get("/").origin("body=300000"), 200, |r| {
                is_true(r.body == pattern(300_000), "another body")
            }),
            case("hop-by-hop headers stop here", get("/").with("Connection", "x-hop").with("x-hop", "1"), 200, |r| {
                seen(r, "x-hop", None)
            }),
            case("a request's body", Request::new("POST", "/").body(pattern(200_000)), 200, |r| {
                let echo = r.json().map_err(|error| error.to_string())?;
                is_true(echo["body_bytes"] == 200_000, format!("{} bytes", echo["body_bytes"]))
            }),
        ],
    );
}

#[test]
fn weights_split_the_traffic() {
    let (a, b, bootstrap) = two_origins();
    let routes = json!([{"match": {"prefix": "/"}, "route": {"weighted_clusters": {"clusters": [
        {"name": "a", "weight": 30}, {"name": "b", "weight": 70},
    ]}}}]);
    let bootstrap = bootstrap.listener(HttpListener::new("main", &routes));
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
        let before = (a.seen().len(), b.seen().len());
        for _ in 0..400 {
            assert_eq!(client.exchange(&Request::get("/")).expect("answer").status, 200);
        }
        let (to_a, to_b) = (a.seen().len() - before.0, b.seen().len() - before.1);
        assert_eq!(to_a + to_b, 400);
        // 30 % of 400 is 120; seven standard deviations are 64.
        assert!((56..=184).contains(&to_a), "{}: {to_a} of 400 went to a", peer.name());
    }
}

#[test]
fn balancers_use_every_endpoint() {
    let origins: Vec<Origin> = ["a", "b", "c"].map(|name| Origin::start(name).expect("origin")).into();
    let addresses: Vec<_> = origins.iter().map(Origin::address).collect();
    for policy in ["ROUND_ROBIN", "LEAST_REQUEST", "RANDOM"] {
        let cluster = with(cluster("all", &addresses), json!({"lb_policy": policy}));
        let bootstrap =
            Bootstrap::new().cluster(cluster).listener(HttpListener::new("main", &json!([route("/", "all")])));
        for peer in Peer::all() {
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
            let mut hits = [0; 3];
            for _ in 0..90 {
                let response = client.exchange(&Request::get("/")).expect("answer");
                let name = response.header("x-origin-name").unwrap_or_default();
                hits[usize::from(name.as_bytes()[0] - b'a')] += 1;
            }
            assert!(hits.iter().all(|count| *count >= 5), "{} {policy}: {hits:?}", peer.name());
            if policy == "ROUND_ROBIN" {
                assert_eq!(hits, [30, 30, 30], "{}", peer.name());
            }
        }
    }
}

#[test]
fn http2_and_trailers_pass_in_every_combination() {
    let origin = Origin::start("o").expect("origin");
    let bootstrap = Bootstrap::new()
        .cluster(cluster("h1", &[origin.address()]))
        .cluster(http2(cluster("h2", &[origin.address()])))
        .listener(
            HttpListener::new("main", &json!([route("/h1", "h1"), route("/h2", "h2")]))
                .manager(json!({"http_protocol_options": {"enable_trailers": true}})),
        );
    let bootstrap = enable_upstream_trailers(bootstrap);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let h2 = H2Connection::open(address).expect("connect");
        for (path, version) in [("/h1", "HTTP/1.1"), ("/h2", "HTTP/2")] {
            let name = format!("{} {path}", peer.name());
            let mut request = H2Request::get(path).origin("trailers").body(&[b"one ", b"two"]);
            request.trailers = vec![("x-end", "yes".to_owned())];
            let response = h2.exchange(&request).expect("answer");
            let echo = response.json().expect("an echo");
            assert_eq!((response.status, echo["version"].as_str()), (200, Some(version)), "{name}");
            assert_eq!(echo["body"], "one two", "{name}");
            assert_eq!(echo["trailers"], json!([["x-end", "yes"]]), "{name}");
            assert_eq!(response.trailers, [("x-trailer".to_owned(), "end".to_owned())], "{name}");
            // HTTP/1 towards the client.
            let response = Request::get(path).origin("trailers").send(address).expect("answer");
            assert_eq!(response.trailers, [("x-trailer".to_owned(), "end".to_owned())], "{name} over HTTP/1");
        }
        // 50 streams at once, each with its own answer.
        let many: Vec<H2Request> = (0..50).map(|i| H2Request::get(&format!("/h2/{i}"))).collect();
        for (i, response) in h2.exchange_all(&many).expect("answers").iter().enumerate() {
            assert_eq!(response.json().expect("an echo")["path"], format!("/h2/{i}"), "{}", peer.name());
        }
        // Bodies larger than every window.
        let big = pattern(1_000_000);
        let response = h2.exchange(&H2Request::get("/h2").origin("body=1000000").body(&[&big])).expect("answer");
        assert_eq!((response.status, response.body.len()), (200, big.len()), "{}", peer.name());
        assert!(response.body == big, "{}: another body", peer.name());
        assert_eq!(origin.seen_at("/h2").last().expect("seen").body.len(), big.len());
    }
}

/// Trailers towards an HTTP/1 origin are off unless asked for.
fn enable_upstream_trailers(bootstrap: Bootstrap) -> Bootstrap {
    let mut resources = bootstrap.value()["static_resources"].clone();
    resources["clusters"][0]["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicit_http_config": {"http_protocol_options": {"enable_trailers": true}},
        }
    });
    bootstrap.set("static_resources", resources)
}

#[test]
fn websocket_upgrades_become_tunnels() {
    let origin = Origin::start("o").expect("origin");
    let listener = HttpListener::new("main", &json!([route("/", "o")])).websocket();
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
        let request = Request::get("/chat").with("Connection", "Upgrade").with("Upgrade", "websocket");
        let response = client.exchange(&request).expect("answer");
        assert_eq!(response.status, 101, "{}", peer.name());
        assert!(response.header("upgrade").is_some_and(|v| v.eq_ignore_ascii_case("websocket")), "{response:?}");
        for size in [1, 1000, 100_000] {
            let sent = pattern(size);
            client.send(&sent).expect("send");
            assert!(client.read_raw(size).expect("echo") == sent, "{}: {size} bytes", peer.name());
        }
        client.half_close().expect("half-close");
        client.wait_closed(outrigger_e2e::wait::DEADLINE).expect("the tunnel ends");
        // The listener still takes plain requests.
        assert_eq!(Request::get("/").send(plane.listener("main").expect("listener")).expect("answer").status, 200);
    }
}

#[test]
fn upgrades_that_are_not_configured_are_refused() {
    let origin = Origin::start("o").expect("origin");
    let listener = HttpListener::new("main", &json!([route("/", "o")]));
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let request = Request::get("/refused").with("Connection", "Upgrade").with("Upgrade", "websocket");
        assert_eq!(request.send(address).expect("answer").status, 403, "{}", peer.name());
        assert!(origin.seen_at("/refused").is_empty());
    }
}

#[test]
fn tcp_proxy_passes_bytes_both_ways() {
    let origin = Origin::start("o").expect("origin");
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(tcp_listener("main", "o"));
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let response = Request::get("/bytes").origin("body=500000").send(address).expect("answer");
        assert!(response.body == pattern(500_000), "{}", peer.name());
        // A half-close reaches the origin, its answer still comes back, and then the origin's close does.
        let mut client = Connection::open(address).expect("connect");
        client.send("GET /half HTTP/1.1\r\nHost: a\r\nx-origin: close\r\n\r\n").expect("send");
        client.half_close().expect("half-close");
        assert_eq!(client.response().expect("answer").status, 200, "{}", peer.name());
        client.wait_closed(outrigger_e2e::wait::DEADLINE).expect("closed");
        assert!(plane.admin.stat("tcp.main.downstream_cx_total").expect("stats") >= 2, "{}", peer.name());
    }
}

#[test]
fn connections_are_kept_and_pooled() {
    let origin = Origin::start("o").expect("origin");
    let listener = HttpListener::new("main", &json!([route("/", "o")]));
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    for peer in Peer::all() {
        let before = origin.connections();
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
        for _ in 0..50 {
            assert_eq!(client.exchange(&Request::get("/")).expect("answer").status, 200);
        }
        assert_eq!(origin.connections() - before, 1, "{}: one upstream connection serves them all", peer.name());
        // Pipelined requests are answered in order.
        let two = [Request::get("/1").bytes(), Request::get("/2").bytes()].concat();
        client.send(two).expect("send");
        for expected in ["/1", "/2"] {
            let echo = client.response().expect("answer").json().expect("an echo");
            assert_eq!(echo["path"], expected, "{}", peer.name());
        }
        let stats = plane.admin.stats().expect("stats");
        let stat = |name: &str| stats.get(name).copied().unwrap_or_default();
        assert_eq!(stat("http.main.downstream_rq_2xx"), 52, "{}", peer.name());
        assert_eq!(stat("http.main.downstream_rq_total"), 52, "{}", peer.name());
        assert_eq!(stat("cluster.o.upstream_rq_200"), 52, "{}", peer.name());
        assert_eq!(stat("cluster.o.upstream_cx_total"), 1, "{}", peer.name());
    }
}

#[test]
fn the_access_log_says_what_happened() {
    let origin = Origin::start("o").expect("origin");
    let listener = HttpListener::new("main", &json!([route("/", "o")]));
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let request = Request::new("POST", "/logged?q=1").with("x-test", "logged").origin("body=10").body("12345");
        assert_eq!(request.send(address).expect("answer").status, 200);
        let record = plane.access_record("logged").expect("a record");
        let expected = [
            ("method", json!("POST")),
            ("path", json!("/logged?q=1")),
            ("protocol", json!("HTTP/1.1")),
            ("type", json!("text/plain")),
            ("upstream", json!(origin.address().to_string())),
        ];
        for (field, value) in expected {
            assert_eq!(record[field], value, "{}: {field} of {record}", peer.name());
        }
        for (field, value) in [("status", 200), ("sent", 10), ("received", 5)] {
            assert_eq!(number(&record[field]), Some(value), "{}: {field} of {record}", peer.name());
        }
        assert!(record["flags"] == "-" || record["flags"].is_null(), "{}: {record}", peer.name());
    }
}

/// A JSON number, or one in a string.
fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}
