//! RBAC by match trees: every kind of branch and input, for requests and for connections, with real Envoy as the referee.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]
#![allow(clippy::needless_pass_by_value, reason = "configurations are plain values")]

use outrigger_e2e::bootstrap::{HttpListener, cluster, tcp_listener, with};
use outrigger_e2e::tls::{Authority, Client, downstream};
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer, Request};
use serde_json::{Value, json};

const TYPES: &str = "type.googleapis.com";

fn typed(name: &str, fields: Value) -> Value {
    json!({"name": "x", "typed_config": with(json!({"@type": format!("{TYPES}/{name}")}), fields)})
}

fn action(name: &str, action: &str) -> Value {
    json!({"action": typed("envoy.config.rbac.v3.Action", json!({"name": name, "action": action}))})
}

fn tree(tree: Value) -> Value {
    json!({"matcher": tree})
}

fn input(name: &str) -> Value {
    typed(&format!("envoy.extensions.matching.common_inputs.{name}"), json!({}))
}

fn header(name: &str) -> Value {
    typed("envoy.type.matcher.v3.HttpRequestHeaderMatchInput", json!({"header_name": name}))
}

fn is(input: Value, matcher: Value) -> Value {
    json!({"single_predicate": {"input": input, "value_match": matcher}})
}

fn custom(input: Value, matcher: Value) -> Value {
    json!({"single_predicate": {"input": input, "custom_match": matcher}})
}

fn within(prefixes: &[(&str, u32)]) -> Value {
    let ranges: Vec<Value> =
        prefixes.iter().map(|(prefix, len)| json!({"address_prefix": prefix, "prefix_len": len})).collect();
    typed("envoy.extensions.matching.input_matchers.ip.v3.Ip", json!({"cidr_ranges": ranges, "stat_prefix": "x"}))
}

/// The first predicate that holds.
fn first(rows: &[(Value, Value)]) -> Value {
    let rows: Vec<Value> =
        rows.iter().map(|(predicate, on_match)| json!({"predicate": predicate, "on_match": on_match})).collect();
    json!({"matcher_list": {"matchers": rows}})
}

fn map(kind: &str, input: Value, entries: Value) -> Value {
    json!({"matcher_tree": {"input": input, kind: {"map": entries}}})
}

fn or_else(tree: Value, on_no_match: Value) -> Value {
    with(tree, json!({"on_no_match": on_no_match}))
}

/// Allowed where the predicate holds.
fn allows(predicate: Value) -> Value {
    first(&[(predicate, action("yes", "ALLOW"))])
}

/// What both filters take.
fn of_connections() -> Vec<(&'static str, Value)> {
    let here = || is(input("network.v3.SourceIPInput"), json!({"exact": "127.0.0.1"}));
    let there = || is(input("network.v3.SourceIPInput"), json!({"exact": "127.0.0.2"}));
    let nested = || tree(allows(there()));
    vec![
        ("empty", json!({})),
        ("only_else", or_else(json!({}), action("else", "ALLOW"))),
        ("denied", first(&[(here(), action("a b", "DENY"))])),
        ("logged", first(&[(here(), action("log", "LOG"))])),
        ("may_log", first(&[(there(), action("log", "LOG")), (here(), action("yes", "ALLOW"))])),
        ("may_log_and_denies", first(&[(there(), action("log", "LOG")), (here(), action("no", "DENY"))])),
        ("may_log_and_misses", first(&[(there(), action("log", "LOG"))])),
        ("second", first(&[(there(), action("one", "DENY")), (here(), action("two", "ALLOW"))])),
        ("else", or_else(allows(there()), action("else", "ALLOW"))),
        ("nested_misses", first(&[(here(), nested()), (here(), action("two", "ALLOW"))])),
        ("nested_else", or_else(first(&[(here(), nested())]), action("else", "ALLOW"))),
        ("nested", first(&[(here(), tree(or_else(allows(there()), action("inner", "ALLOW"))))])),
        ("and", allows(json!({"and_matcher": {"predicate": [here(), there()]}}))),
        ("or", allows(json!({"or_matcher": {"predicate": [there(), here()]}}))),
        ("not", allows(json!({"not_matcher": there()}))),
        ("destination", allows(is(input("network.v3.DestinationIPInput"), json!({"prefix": "127.0."})))),
        ("direct", allows(is(input("network.v3.DirectSourceIPInput"), json!({"exact": "127.0.0.1"})))),
        (
            "port",
            allows(is(
                input("network.v3.DestinationPortInput"),
                json!({"safe_regex": {"google_re2": {}, "regex": "[0-9]+"}}),
            )),
        ),
        ("source_port", allows(is(input("network.v3.SourcePortInput"), json!({"exact": "1"})))),
        ("no_name", allows(is(input("network.v3.ServerNameInput"), json!({"exact": ""})))),
        ("ip", allows(custom(input("network.v3.SourceIPInput"), within(&[("10.0.0.0", 8), ("127.0.0.0", 8)])))),
        ("other_ip", allows(custom(input("network.v3.SourceIPInput"), within(&[("10.0.0.0", 8), ("::", 0)])))),
        ("no_ip", allows(custom(input("network.v3.ServerNameInput"), within(&[("0.0.0.0", 0)])))),
        ("uri", allows(is(input("ssl.v3.UriSanInput"), json!({"exact": "spiffe://mesh/client"})))),
        ("dns", allows(is(input("ssl.v3.DnsSanInput"), json!({"exact": "client.test"})))),
        ("subject", allows(is(input("ssl.v3.SubjectInput"), json!({"contains": "client.test"})))),
        ("sni", allows(is(input("network.v3.ServerNameInput"), json!({"exact": "SERVER.test", "ignore_case": true})))),
        (
            "state",
            or_else(
                allows(is(
                    typed(
                        "envoy.extensions.matching.common_inputs.network.v3.FilterStateInput",
                        json!({"key": "none"}),
                    ),
                    json!({"prefix": "x"}),
                )),
                action("else", "LOG"),
            ),
        ),
    ]
}

/// Maps, with what both filters take.
fn of_maps() -> Vec<(&'static str, Value)> {
    let there = || is(input("network.v3.SourceIPInput"), json!({"exact": "127.0.0.2"}));
    let nested = || tree(allows(there()));
    vec![
        (
            "exact",
            map("exact_match_map", input("network.v3.SourceIPInput"), json!({"127.0.0.1": action("here", "ALLOW")})),
        ),
        (
            "exact_misses",
            or_else(
                map("exact_match_map", input("network.v3.SourceIPInput"), json!({"127.0.0": action("part", "DENY")})),
                action("else", "ALLOW"),
            ),
        ),
        (
            "exact_nested",
            or_else(
                map("exact_match_map", input("network.v3.SourceIPInput"), json!({"127.0.0.1": nested()})),
                action("else", "ALLOW"),
            ),
        ),
        (
            "prefix",
            map(
                "prefix_match_map",
                input("network.v3.SourceIPInput"),
                json!({"127.": action("short", "DENY"), "127.0.": action("long", "ALLOW"), "127.0.0.2": action("other", "DENY")}),
            ),
        ),
        (
            "prefix_nested",
            map(
                "prefix_match_map",
                input("network.v3.SourceIPInput"),
                json!({"127.": action("short", "ALLOW"), "127.0.": nested()}),
            ),
        ),
        (
            "map_of_nothing",
            or_else(
                map("exact_match_map", input("network.v3.ServerNameInput"), json!({"": action("none", "DENY")})),
                action("else", "ALLOW"),
            ),
        ),
    ]
}

/// What looks at requests.
fn of_requests() -> Vec<(&'static str, Value)> {
    let metadata = |value: Value, invert: bool| {
        let input = typed(
            "envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput",
            json!({"filter": "envoy.filters.http.rbac", "path": [{"key": "shadow_engine_result"}]}),
        );
        let matcher = json!({"value": value, "invert": invert});
        custom(input, typed("envoy.extensions.matching.input_matchers.metadata.v3.Metadata", matcher))
    };
    vec![
        ("method", allows(is(header(":method"), json!({"exact": "GET"})))),
        ("path", allows(is(header(":path"), json!({"prefix": "/open"})))),
        ("authority", allows(is(header("host"), json!({"exact": "a.test"})))),
        ("header", allows(is(header("X-A"), json!({"exact": "1"})))),
        ("joined", allows(is(header("x-a"), json!({"exact": "1,2"})))),
        ("missing", allows(json!({"not_matcher": is(header("x-a"), json!({"prefix": "1"}))}))),
        ("address", allows(custom(header("x-a"), within(&[("10.0.0.0", 8)])))),
        ("trusted", allows(is(input("network.v3.SourceIPInput"), json!({"exact": "10.1.1.1"})))),
        ("peer", allows(is(input("network.v3.DirectSourceIPInput"), json!({"exact": "127.0.0.1"})))),
        (
            "prefixes",
            map(
                "prefix_match_map",
                header(":path"),
                json!({"/": action("all", "DENY"), "/open": tree(allows(is(header("x-a"), json!({"exact": "1"})))), "/o": action("o", "LOG")}),
            ),
        ),
        ("shadowed", allows(metadata(json!({"string_match": {"exact": "denied"}}), false))),
        ("not_shadowed", allows(metadata(json!({"string_match": {"exact": "denied"}}), true))),
        ("present", allows(metadata(json!({"present_match": true}), false))),
    ]
}

fn log() -> Value {
    json!([{"name": "f", "typed_config": {
        "@type": format!("{TYPES}/envoy.extensions.access_loggers.file.v3.FileAccessLog"), "path": "@DIR@/access.log",
        "log_format": {"json_format": {
            "test": "%REQ(x-test)%", "status": "%RESPONSE_CODE%", "details": "%RESPONSE_CODE_DETAILS%",
            "end": "%CONNECTION_TERMINATION_DETAILS%", "hint": "%DYNAMIC_METADATA(envoy.common:access_log_hint)%",
            "http": "%DYNAMIC_METADATA(envoy.filters.http.rbac)%",
            "network": "%DYNAMIC_METADATA(envoy.filters.network.rbac)%",
        }},
    }}])
}

fn compare(ours: &[(String, Value)], theirs: &[(String, Value)]) {
    let differences: Vec<String> = ours
        .iter()
        .zip(theirs)
        .filter(|(ours, theirs)| ours != theirs)
        .map(|((name, ours), (_, theirs))| format!("{name}: {ours}\n   Envoy: {theirs}"))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(ours.len(), theirs.len());
    let of = |status: u16| theirs.iter().filter(|(_, record)| record["status"] == status).count();
    assert!(of(200) + of(0) > 10 && of(403) + of(0) > 10, "{theirs:?}");
}

fn requests(peer: Peer) -> Vec<(String, Value)> {
    let origin = json!([{"match": {"prefix": "/"}, "direct_response": {"status": 200}}]);
    let cases: Vec<(&str, Value)> = of_connections().into_iter().chain(of_maps()).chain(of_requests()).collect();
    let watched = json!({"shadow_matcher": allows(is(header("x-a"), json!({"exact": "1"})))});
    let bootstrap = cases.iter().fold(Bootstrap::new(), |bootstrap, (name, matcher)| {
        let rbac = "envoy.extensions.filters.http.rbac.v3.RBAC";
        // The shadow's verdict is what the enforced one may look at.
        let shadow = typed(rbac, watched.clone());
        let filter = typed(rbac, json!({"matcher": matcher, "rules": {"action": "DENY"}}));
        let listener = HttpListener::new(name, &origin)
            .filter(with(shadow, json!({"name": "shadow"})))
            .filter(with(filter, json!({"name": "rbac"})))
            .manager(json!({"access_log": log(), "use_remote_address": false, "xff_num_trusted_hops": 0}));
        bootstrap.listener(listener)
    });
    let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
    let asked = [
        Request::get("/"),
        Request::get("/open/x").host("a.test").with("x-a", "1").with("x-forwarded-for", "10.1.1.1"),
        Request::new("POST", "/o").with("x-a", "1").with("x-a", "2"),
        Request::get("/open").with("x-a", "10.2.3.4"),
    ];
    let mut found = Vec::new();
    for (name, _) in &cases {
        let address = plane.listener(name).expect("its listener");
        for (row, request) in asked.iter().enumerate() {
            let test = format!("{name} {row}");
            request.clone().with("x-test", &test).send(address).expect("an answer");
            found.push((test.clone(), plane.access_record(&test).expect("its record")));
        }
    }
    found
}

#[test]
fn requests_are_judged_by_trees() {
    compare(&requests(Peer::Outrigger), &requests(Peer::Envoy));
}

#[test]
fn connections_are_judged_by_trees() {
    let origin = Origin::start("o").expect("an origin");
    let authority = Authority::new("mesh").expect("an authority");
    let server = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let leaf = authority.issue("client.test", "spiffe://mesh/client").expect("a leaf");
    let context = json!({"require_client_certificate": true, "common_tls_context": {
        "tls_certificates": [server.config()], "validation_context": {"trusted_ca": {"inline_string": authority.pem()}},
    }});
    let inspector = json!([{"name": "tls_inspector", "typed_config": {
        "@type": format!("{TYPES}/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector"),
    }}]);
    let listeners = || {
        of_connections().into_iter().chain(of_maps()).flat_map(|(name, matcher)| {
            let fields = json!({"stat_prefix": name, "matcher": matcher, "shadow_matcher": matcher});
            let filter = typed("envoy.extensions.filters.network.rbac.v3.RBAC", fields);
            [false, true].map(|secure| {
                let mut listener = tcp_listener(&format!("{name} {secure}"), "o");
                let chain = &mut listener["filter_chains"][0];
                chain["filters"][0]["typed_config"]["access_log"] = log();
                chain["filters"].as_array_mut().expect("filters").insert(0, filter.clone());
                if secure {
                    chain["transport_socket"] = downstream(&context);
                    listener["listener_filters"] = inspector.clone();
                }
                listener
            })
        })
    };
    let run = |peer: Peer| -> Vec<(String, Value)> {
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()]));
        let plane =
            DataPlane::start(peer, &listeners().fold(bootstrap, Bootstrap::listener)).expect("the proxy starts");
        let request = Request::get("/").with("connection", "close");
        let client = Client::named("server.test").with(&leaf);
        let mut found = Vec::new();
        for listener in listeners() {
            let name = listener["name"].as_str().expect("a name");
            let address = plane.listener(name).expect("its listener");
            let answered = if name.ends_with("true") {
                client.send(address, &request).is_ok()
            } else {
                request.send(address).is_ok()
            };
            let logged = |_: &Value| plane.access_records().len() > found.len();
            plane.access_record_where(logged).expect("its record");
            let mut record = plane.access_records().pop().expect("a record");
            record["answered"] = answered.into();
            found.push((name.to_owned(), record));
        }
        found
    };
    compare(&run(Peer::Outrigger), &run(Peer::Envoy));
}
