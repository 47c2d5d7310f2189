//! What stands around a request: who asks, by which host, with which id, and what an answer is dressed with.

use outrigger_e2e::bootstrap::{HttpListener, with};
use serde_json::{Value, json};

use super::listeners::{all, listener};

pub(crate) const NAMES: &[&str] = &[
    "hop",
    "hops",
    "inner-hop",
    "no-append",
    "ids",
    "own-ids",
    "strip",
    "strip-any",
    "ports",
    "cookies",
    "specific",
    "general",
    "suppressed",
];

fn echo() -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}})
}

fn named(name: &str, fields: Value) -> Value {
    let matching = with(json!({"prefix": format!("/{name}")}), fields);
    json!({"name": name, "match": matching, "direct_response": {"status": 200, "body": {"inline_string": name}}})
}

pub(crate) fn listeners() -> Vec<HttpListener> {
    let echoes = |name: &str, manager: Value| listener(name, &all(&json!([echo()]))).manager(manager);
    let at_edge = |name: &str, manager: Value| echoes(name, manager).manager(json!({"use_remote_address": true}));
    let port = |name: &str, manager: Value| {
        let host = |name: &str, domains: Value| json!({"name": name, "domains": domains, "routes": [echo()]});
        let hosts =
            json!([host("a", json!(["a.test"])), host("port", json!(["b.test:81"])), host("v6", json!(["[::1]"]))]);
        listener(name, &hosts).manager(manager)
    };
    vec![
        at_edge("hop", json!({"xff_num_trusted_hops": 1})),
        at_edge("hops", json!({"xff_num_trusted_hops": 2})),
        echoes("inner-hop", json!({"use_remote_address": false, "xff_num_trusted_hops": 1})),
        at_edge("no-append", json!({"skip_xff_append": true})),
        listener("ids", &all(&ids())).manager(json!({
            "use_remote_address": true, "preserve_external_request_id": true, "always_set_request_id_in_response": true,
        })),
        listener("own-ids", &all(&ids())).manager(json!({"use_remote_address": true})),
        port("strip", json!({"strip_matching_host_port": true})),
        port("strip-any", json!({"strip_any_host_port": true})),
        port("ports", json!({"route_config": {"ignore_port_in_host_matching": true}})),
        listener("cookies", &all(&cookies())),
        listener("specific", &layered()).manager(json!({"route_config": {
            "most_specific_header_mutations_wins": true,
            "request_headers_to_add": [add("x-layer", "all")], "response_headers_to_add": [add("x-layer", "all")],
        }})),
        listener("general", &layered()).manager(json!({"route_config": {
            "request_headers_to_add": [add("x-layer", "all")], "response_headers_to_add": [add("x-layer", "all")],
        }})),
        suppressed(),
    ]
}

/// Ids are masked where they are compared, so that routes tell them.
fn ids() -> Value {
    json!([
        {"name": "kept", "match": {"prefix": "/", "headers": [
            {"name": "x-request-id", "string_match": {"exact": "5f0e1b2c-9a34-4d5e-8f60-123456789abc"}}]},
         "direct_response": {"status": 200, "body": {"inline_string": "kept"}},
         "response_headers_to_add": [add("x-told", "%REQ(X-REQUEST-ID)%")]},
        {"name": "odd", "match": {"prefix": "/", "headers": [{"name": "x-request-id", "string_match": {"exact": "odd"}}]},
         "direct_response": {"status": 200, "body": {"inline_string": "odd"}}},
        echo(),
    ])
}

fn cookies() -> Value {
    let cookie = |name: &str, fields: Value| {
        [
            named(name, json!({"cookies": [fields]})),
            json!({"match": {"prefix": format!("/{name}")}, "direct_response": {"status": 404}}),
        ]
    };
    let two = json!([{"name": "k", "string_match": {"exact": "v"}}, {"name": "l", "string_match": {"prefix": "w"}}]);
    let mut routes = vec![named("two", json!({"cookies": two}))];
    for pair in [
        cookie("exact", json!({"name": "k", "string_match": {"exact": "v"}})),
        cookie("prefix", json!({"name": "k", "string_match": {"prefix": "v"}})),
        cookie("regex", json!({"name": "k", "string_match": {"safe_regex": {"regex": "[a-z]+"}}})),
        cookie("not", json!({"name": "k", "string_match": {"exact": "v"}, "invert_match": true})),
    ] {
        routes.extend(pair);
    }
    json!(routes)
}

fn add(name: &str, value: &str) -> Value {
    json!({"header": {"key": name, "value": value}, "append_action": "OVERWRITE_IF_EXISTS_OR_ADD"})
}

/// Every scope says something else of the same header.
fn layered() -> Value {
    let scope = |name: &str| json!({"request_headers_to_add": [add("x-layer", name)], "response_headers_to_add": [add("x-layer", name)]});
    let to = |prefix: &str, cluster: Value, scope: Value| {
        let clusters = json!([with(json!({"name": "a", "weight": 1}), cluster)]);
        with(json!({"match": {"prefix": prefix}, "route": {"weighted_clusters": {"clusters": clusters}}}), scope)
    };
    let host = |name: &str, domain: &str, fields: Value| {
        let routes = json!([
            to("/cluster", scope("cluster"), scope("route")),
            to("/route", json!({}), scope("route")),
            to("/", json!({}), json!({})),
        ]);
        with(json!({"name": name, "domains": [domain], "routes": routes}), fields)
    };
    json!([host("bare", "bare.test", json!({})), host("dressed", "*", scope("host"))])
}

/// A router that says nothing of itself.
fn suppressed() -> HttpListener {
    let routes = json!([
        {"match": {"prefix": "/none"}, "route": {"cluster": "nowhere"}},
        {"match": {"prefix": "/rewritten"}, "route": {"cluster": "a", "prefix_rewrite": "/new"}},
        echo(),
    ]);
    let router = json!({"name": "router", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router", "suppress_envoy_headers": true,
    }});
    listener("suppressed", &all(&routes)).manager(json!({"http_filters": [router]}))
}

const ID: &str = "x-request-id: 5f0e1b2c-9a34-4d5e-8f60-123456789abc";

/// Each request goes to each of these listeners.
pub(crate) fn cases() -> Vec<(&'static str, String)> {
    let mut cases = Vec::new();
    let mut add = |listeners: &[&'static str], requests: &[&str]| {
        for listener in listeners {
            cases.extend(requests.iter().map(|request| (*listener, (*request).to_owned())));
        }
    };
    add(&["hop", "hops", "inner-hop", "no-append"], FORWARDED);
    for request in ["GET /\n", "GET /\nx-forwarded-for: 1.2.3.4\n"] {
        add(&["ids", "own-ids"], &[&format!("{request}{ID}")]);
    }
    add(&["ids", "own-ids"], &["GET /", "GET /\nx-request-id: odd", "GET /\nx-request-id:"]);
    add(&["strip", "strip-any", "ports"], HOSTS);
    for name in ["exact", "prefix", "regex", "not", "two"] {
        for cookie in COOKIES {
            add(&["cookies"], &[&format!("GET /{name}{cookie}")]);
        }
    }
    for host in ["bare.test", "other.test"] {
        for path in ["cluster", "route", ""] {
            add(&["specific", "general"], &[&format!("GET /{path}\nhost: {host}")]);
        }
    }
    add(&["suppressed"], &["GET /none", "GET /", "GET /rewritten", "GET /\nx-envoy-upstream-rq-timeout-ms: 7000"]);
    cases
}

const FORWARDED: &[&str] = &[
    "GET /",
    "GET /\nx-forwarded-for: 1.2.3.4",
    "GET /\nx-forwarded-for: 1.2.3.4, 5.6.7.8",
    "GET /\nx-forwarded-for: 1.2.3.4,5.6.7.8, 9.10.11.12",
    "GET /\nx-forwarded-for: 1.2.3.4\nx-forwarded-for: 5.6.7.8",
    "GET /\nx-forwarded-for: ::1",
    "GET /\nx-forwarded-for: 1.2.3.4, unknown",
    "GET /\nx-forwarded-for: unknown",
    "GET /\nx-forwarded-for:",
    "GET /\nx-forwarded-for: 1.2.3.4\nx-forwarded-proto: https",
    "GET /\nx-forwarded-proto: https",
    "GET /\nx-forwarded-for: 10.1.2.3\nx-envoy-internal: true\nx-envoy-original-path: /x",
];

const HOSTS: &[&str] = &[
    "GET /\nhost: a.test",
    "GET /\nhost: a.test:PORT",
    "GET /\nhost: A.test:PORT",
    "GET /\nhost: a.test:1",
    "GET /\nhost: b.test:81",
    "GET /\nhost: b.test",
    "GET /\nhost: b.test:82",
    "GET /\nhost: [::1]:PORT",
    "GET /\nhost: [::1]",
];

const COOKIES: &[&str] = &[
    "",
    "\ncookie: k=v",
    "\ncookie: k=\"v\"",
    "\ncookie: k=vw",
    "\ncookie: k=",
    "\ncookie: k",
    "\ncookie: a=b; k=v",
    "\ncookie: a=b;k=v",
    "\ncookie: a=b\ncookie: k=v; l=wx",
    "\ncookie: k=v\ncookie: k=x",
    "\ncookie: k=x; k=v",
    "\ncookie: kk=v",
    "\ncookie: K=v",
    "\ncookie: k = v",
];
