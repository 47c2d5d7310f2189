//! The configuration that both proxies run.

use outrigger_e2e::bootstrap::{HttpListener, cluster, with};
use outrigger_e2e::ports::closed;
use outrigger_e2e::{Bootstrap, Origin};
use serde_json::{Value, json};

pub(crate) const NAMES: &[&str] = &[
    "hosts", "match", "rewrite", "retry", "inside", "time", "plain", "strict", "reject", "redirect", "forward",
    "filters", "mirror",
];

pub(crate) fn bootstrap(origin: &Origin, other: &Origin) -> Bootstrap {
    let tight = json!({"circuit_breakers": {"thresholds": [{"max_retries": 0}]}});
    let bootstrap = Bootstrap::new()
        .cluster(cluster("a", &[origin.address()]))
        .cluster(cluster("b", &[other.address()]))
        .cluster(cluster("refused", &[closed().expect("a port")]))
        .cluster(cluster("empty", &[]))
        .cluster(with(cluster("tight", &[origin.address()]), tight))
        .listener(listener("hosts", &hosts()))
        .listener(listener("match", &all(&matching())))
        .listener(listener("rewrite", &rewriting()))
        .listener(listener("retry", &retrying()))
        .listener(listener("inside", &retrying()).manager(json!({
            "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        })))
        .listener(listener("time", &all(&timing())))
        .listener(listener("plain", &all(&paths())))
        .listener(listener("strict", &all(&paths())).manager(json!({
            "normalize_path": true, "merge_slashes": true, "server_header_transformation": "APPEND_IF_ABSENT",
        })))
        .listener(listener("reject", &all(&paths())).manager(json!({
            "normalize_path": true, "path_with_escaped_slashes_action": "REJECT_REQUEST",
            "server_header_transformation": "PASS_THROUGH",
        })))
        .listener(listener("redirect", &all(&paths())).manager(json!({
            "normalize_path": true, "path_with_escaped_slashes_action": "UNESCAPE_AND_REDIRECT",
        })))
        .listener(listener("forward", &all(&paths())).manager(json!({
            "normalize_path": true, "merge_slashes": true, "path_with_escaped_slashes_action": "UNESCAPE_AND_FORWARD",
        })))
        .listener(listener("mirror", &mirroring()))
        .listener(super::filters::listener());
    super::edges::listeners().into_iter().fold(bootstrap, Bootstrap::listener)
}

pub(crate) fn listener(name: &str, hosts: &Value) -> HttpListener {
    let format = json!({
        "test": "%REQ(X-TEST)%", "status": "%RESPONSE_CODE%", "flags": "%RESPONSE_FLAGS%", "route": "%ROUTE_NAME%",
        "cluster": "%UPSTREAM_CLUSTER%", "attempts": "%UPSTREAM_REQUEST_ATTEMPT_COUNT%",
        "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "authority": "%REQ(:AUTHORITY)%", "received": "%BYTES_RECEIVED%",
        "remote": "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%",
    });
    HttpListener::hosts(name, hosts).manager(json!({
        "route_config": {"validate_clusters": false},
        "access_log": [{"name": "envoy.access_loggers.file", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "@DIR@/access.log", "log_format": {"json_format": format},
        }}],
    }))
}

pub(crate) fn all(routes: &Value) -> Value {
    json!([{"name": "all", "domains": ["*"], "routes": routes}])
}

/// A route that answers with its name.
fn named(name: &str, matching: Value) -> Value {
    json!({"name": name, "match": matching, "direct_response": {"status": 200, "body": {"inline_string": name}}})
}

fn hosts() -> Value {
    let host = |name: &str, domains: Value| json!({"name": name, "domains": domains, "routes": [named(name, json!({"prefix": "/"}))]});
    json!([
        host("exact", json!(["a.test", "b.test:81"])),
        host("suffix", json!(["*.test"])),
        host("longer", json!(["*.a.test"])),
        host("prefix", json!(["a.*"])),
        host("longer-prefix", json!(["a.b.*"])),
        host("dashes", json!(["*-x.example"])),
    ])
}

fn matching() -> Value {
    let header = |name: &str, fields: Value| named(name, json!({"prefix": format!("/{name}"), "headers": [fields]}));
    let query =
        |name: &str, fields: Value| named(name, json!({"prefix": format!("/{name}"), "query_parameters": [fields]}));
    let miss = |name: &str| json!({"match": {"prefix": format!("/{name}")}, "direct_response": {"status": 404, "body": {"inline_string": "miss"}}});
    let mut routes = vec![
        named("exact", json!({"path": "/exact"})),
        named("exact-any-case", json!({"path": "/EXact-any", "case_sensitive": false})),
        named("separated", json!({"path_separated_prefix": "/separated"})),
        named("separated-any-case", json!({"path_separated_prefix": "/Separated-Any", "case_sensitive": false})),
        named("prefix-any-case", json!({"prefix": "/Prefix-Any", "case_sensitive": false})),
        named("regex", json!({"safe_regex": {"regex": "/regex/[0-9]+(/.*)?"}})),
        named("regex-word", json!({"safe_regex": {"regex": "/word/\\w+"}})),
        named(
            "template",
            json!({"path_match_policy": {"name": "t", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
                "path_template": "/template/{a}/x/{b=**}",
            }}}),
        ),
        named("grpc", json!({"prefix": "/grpc", "grpc": {}})),
        named("never", json!({"prefix": "/fraction", "runtime_fraction": {"default_value": {"numerator": 0}}})),
        named("always", json!({"prefix": "/fraction", "runtime_fraction": {"default_value": {"numerator": 100}}})),
        named(
            "two",
            json!({"prefix": "/two", "headers": [
            {"name": "x-a", "string_match": {"exact": "1"}}, {"name": "x-b", "present_match": true}]}),
        ),
    ];
    for (name, fields) in [
        ("h-exact", json!({"name": "x-a", "string_match": {"exact": "One"}})),
        ("h-exact-case", json!({"name": "x-a", "string_match": {"exact": "One", "ignore_case": true}})),
        ("h-prefix", json!({"name": "x-a", "string_match": {"prefix": "On"}})),
        ("h-suffix", json!({"name": "x-a", "string_match": {"suffix": "ne"}})),
        ("h-contains", json!({"name": "x-a", "string_match": {"contains": "n"}})),
        ("h-regex", json!({"name": "x-a", "string_match": {"safe_regex": {"regex": "O.*e"}}})),
        ("h-old-exact", json!({"name": "x-a", "exact_match": "One"})),
        ("h-present", json!({"name": "x-a", "present_match": true})),
        ("h-absent", json!({"name": "x-a", "present_match": false})),
        ("h-not-present", json!({"name": "x-a", "present_match": true, "invert_match": true})),
        ("h-not-exact", json!({"name": "x-a", "string_match": {"exact": "One"}, "invert_match": true})),
        (
            "h-not-or-empty",
            json!({"name": "x-a", "string_match": {"exact": "One"}, "invert_match": true,
            "treat_missing_header_as_empty": true}),
        ),
        ("h-empty", json!({"name": "x-a", "string_match": {"exact": ""}, "treat_missing_header_as_empty": true})),
        ("h-range", json!({"name": "x-a", "range_match": {"start": "-5", "end": "10"}})),
        ("h-not-range", json!({"name": "x-a", "range_match": {"start": "-5", "end": "10"}, "invert_match": true})),
        ("h-method", json!({"name": ":method", "string_match": {"exact": "POST"}})),
        ("h-path", json!({"name": ":path", "string_match": {"suffix": "?x"}})),
        ("h-authority", json!({"name": ":authority", "string_match": {"prefix": "test"}})),
        ("h-host", json!({"name": "host", "string_match": {"prefix": "test"}})),
        ("h-scheme", json!({"name": ":scheme", "string_match": {"exact": "http"}})),
    ] {
        routes.push(header(name, fields));
        routes.push(miss(name));
    }
    for (name, fields) in [
        ("q-exact", json!({"name": "k", "string_match": {"exact": "v"}})),
        ("q-prefix", json!({"name": "k", "string_match": {"prefix": "v"}})),
        ("q-regex", json!({"name": "k", "string_match": {"safe_regex": {"regex": "[a-z]+"}}})),
        ("q-present", json!({"name": "k", "present_match": true})),
        ("q-absent", json!({"name": "k", "present_match": false})),
        ("q-any", json!({"name": "k"})),
    ] {
        routes.push(query(name, fields));
        routes.push(miss(name));
    }
    json!(routes)
}

fn rewriting() -> Value {
    let to = |prefix: &str, action: Value| json!({"name": prefix, "match": {"prefix": prefix}, "route": with(json!({"cluster": "a"}), action)});
    let substitute = |regex: &str, with: &str| json!({"pattern": {"regex": regex}, "substitution": with});
    let redirect = |prefix: &str, action: Value| json!({"match": {"prefix": prefix}, "redirect": action});
    let add = |name: &str, value: &str, action: &str| json!({"header": {"key": name, "value": value}, "append_action": action});
    let mutated = json!({
        "name": "mutate", "match": {"prefix": "/mutate"}, "route": {"weighted_clusters": {"clusters": [{
            "name": "a", "weight": 1,
            "request_headers_to_add": [add("x-order", "cluster", "APPEND_IF_EXISTS_OR_ADD")],
            "response_headers_to_add": [add("x-order", "cluster", "APPEND_IF_EXISTS_OR_ADD")],
        }]}},
        "request_headers_to_add": [
            add("x-order", "route", "APPEND_IF_EXISTS_OR_ADD"), add("x-set", "%REQ(X-IN)%!", "OVERWRITE_IF_EXISTS_OR_ADD"),
            add("x-absent", "new", "ADD_IF_ABSENT"), add("x-if", "changed", "OVERWRITE_IF_EXISTS"),
            add("x-protocol", "%PROTOCOL%", "APPEND_IF_EXISTS_OR_ADD"), add("x-empty", "%REQ(X-NOT-THERE)%", "APPEND_IF_EXISTS_OR_ADD"),
            add("x-path", "%REQ(:PATH)%", "APPEND_IF_EXISTS_OR_ADD"), add("x-percent", "100%%", "APPEND_IF_EXISTS_OR_ADD"),
            add("x-route", "%ROUTE_NAME%", "APPEND_IF_EXISTS_OR_ADD"), add("x-cut", "%REQ(X-IN):2%", "APPEND_IF_EXISTS_OR_ADD"),
        ],
        "request_headers_to_remove": ["x-gone"],
        "response_headers_to_add": [add("x-order", "route", "APPEND_IF_EXISTS_OR_ADD"), add("x-code", "%RESPONSE_CODE%", "OVERWRITE_IF_EXISTS_OR_ADD"),
            add("x-flags", "%RESPONSE_FLAGS%", "APPEND_IF_EXISTS_OR_ADD"), add("x-origin-name", "hidden", "OVERWRITE_IF_EXISTS")],
        "response_headers_to_remove": ["x-secret"],
    });
    let routes = json!([
        mutated,
        to("/prefix/", json!({"prefix_rewrite": "/"})),
        to("/prefix", json!({"prefix_rewrite": "/new"})),
        to("/regex", json!({"regex_rewrite": substitute("^/regex/([^/]+)/(.*)$", "/\\2/of/\\1")})),
        to("/all", json!({"regex_rewrite": substitute("a", "b")})),
        to("/host/literal", json!({"host_rewrite_literal": "new.test"})),
        to("/host/forwarded", json!({"host_rewrite_literal": "new.test", "append_x_forwarded_host": true})),
        to("/host/header", json!({"host_rewrite_header": "x-host"})),
        to("/host/path", json!({"host_rewrite_path_regex": substitute("^/host/path/([a-z]+).*$", "\\1.test"), "prefix_rewrite": "/moved"})),
        {"match": {"path_match_policy": {"name": "t", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.path.match.uri_template.v3.UriTemplateMatchConfig",
            "path_template": "/template/{a}/{b=**}"}}},
         "route": {"cluster": "a", "path_rewrite_policy": {"name": "t", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.path.rewrite.uri_template.v3.UriTemplateRewriteConfig",
            "path_template_rewrite": "/{b}/from/{a}"}}}},
        {"match": {"path": "/exact"}, "route": {"cluster": "a", "prefix_rewrite": "/whole"}},
        {"match": {"prefix": "/ANY", "case_sensitive": false}, "route": {"cluster": "a", "prefix_rewrite": "/lower"}},
        redirect("/r/host", json!({"host_redirect": "new.test"})),
        redirect("/r/path", json!({"path_redirect": "/there"})),
        redirect("/r/query", json!({"path_redirect": "/there?q=1"})),
        redirect("/r/prefix", json!({"prefix_rewrite": "/there"})),
        redirect("/r/regex", json!({"regex_rewrite": substitute("^/r/regex/(.*)$", "/\\1")})),
        redirect("/r/https", json!({"https_redirect": true})),
        redirect("/r/port", json!({"port_redirect": 8443})),
        redirect("/r/both", json!({"https_redirect": true, "port_redirect": 443})),
        redirect("/r/strip", json!({"strip_query": true, "response_code": "FOUND"})),
        redirect("/r/303", json!({"path_redirect": "/x", "response_code": "SEE_OTHER"})),
        redirect("/r/307", json!({"path_redirect": "/x", "response_code": "TEMPORARY_REDIRECT"})),
        redirect("/r/308", json!({"path_redirect": "/x", "response_code": "PERMANENT_REDIRECT"})),
        {"match": {"prefix": "/d/empty"}, "direct_response": {"status": 200}},
        {"match": {"prefix": "/d/204"}, "direct_response": {"status": 204}},
        {"match": {"prefix": "/d/body"}, "direct_response": {"status": 418, "body": {"inline_string": "teapot"}},
         "response_headers_to_add": [add("x-route", "yes", "APPEND_IF_EXISTS_OR_ADD"), add("content-type", "text/css", "OVERWRITE_IF_EXISTS_OR_ADD")]},
        {"match": {"prefix": "/d/format"}, "direct_response": {"status": 200,
         "body_format": {"text_format_source": {"inline_string": "path %REQ(:PATH)%"}}}},
        {"match": {"prefix": "/c/header"}, "route": {"cluster_header": "x-cluster"}},
        {"match": {"prefix": "/c/none"}, "route": {"cluster": "nowhere", "cluster_not_found_response_code": "NOT_FOUND"}},
        {"match": {"prefix": "/c/empty"}, "route": {"cluster": "empty"}},
        {"match": {"prefix": "/c/refused"}, "route": {"cluster": "refused"}},
        {"match": {"prefix": "/c/weighted"}, "route": {"weighted_clusters": {"clusters": [
            {"name": "a", "weight": 0}, {"name": "b", "weight": 5, "host_rewrite_literal": "weighted.test"}]}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "a"}},
    ]);
    json!([{
        "name": "all", "domains": ["*"], "routes": routes, "include_request_attempt_count": true,
        "request_headers_to_add": [add("x-order", "host", "APPEND_IF_EXISTS_OR_ADD")],
        "response_headers_to_add": [add("x-order", "host", "APPEND_IF_EXISTS_OR_ADD")],
    }])
}

fn retrying() -> Value {
    let to = |name: &str, policy: Value| {
        json!({"name": name, "match": {"prefix": format!("/{name}/")}, "route": {
        "cluster": "a", "retry_policy": with(json!({"num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}}), policy)}})
    };
    let cluster = |name: &str, cluster: &str, on: &str| {
        json!({"name": name, "match": {"prefix": format!("/{name}/")}, "route": {
        "cluster": cluster, "retry_policy": {"retry_on": on, "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}}}})
    };
    json!([{"name": "all", "domains": ["*"], "include_request_attempt_count": true, "include_attempt_count_in_response": true, "routes": [
        {"name": "5xx", "match": {"prefix": "/5xx/"}, "route": {"cluster": "a", "timeout": "0.7s", "retry_policy": {
            "retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}}}},
        to("gateway", json!({"retry_on": "gateway-error"})),
        to("reset", json!({"retry_on": "reset"})),
        to("before", json!({"retry_on": "reset-before-request"})),
        to("connect", json!({"retry_on": "connect-failure"})),
        to("4xx", json!({"retry_on": "retriable-4xx"})),
        to("ratelimited", json!({"retry_on": "envoy-ratelimited"})),
        to("codes", json!({"retry_on": "retriable-status-codes", "retriable_status_codes": [418, 404]})),
        to("headers", json!({"retry_on": "retriable-headers", "retriable_headers": [
            {"name": "x-again", "string_match": {"exact": "yes"}}, {"name": ":status", "string_match": {"prefix": "42"}}]})),
        to("only", json!({"retry_on": "5xx", "retriable_request_headers": [{"name": "x-retry", "present_match": true}]})),
        to("grpc", json!({"retry_on": "unavailable,cancelled,internal"})),
        to("none", json!({"retry_on": "5xx", "num_retries": 0})),
        to("one", json!({"retry_on": "5xx", "num_retries": 1})),
        to("per-try", json!({"retry_on": "5xx", "per_try_timeout": "0.1s"})),
        to("per-try-only", json!({"retry_on": "connect-failure", "per_try_timeout": "0.1s"})),
        to("idle", json!({"retry_on": "5xx", "per_try_idle_timeout": "0.1s"})),
        to("after", json!({"retry_on": "5xx", "rate_limited_retry_back_off": {"reset_headers": [{"name": "retry-after", "format": "SECONDS"}]}})),
        cluster("refused", "refused", "connect-failure"), cluster("refused-5xx", "refused", "5xx"),
        cluster("refused-reset", "refused", "reset-before-request"), cluster("refused-4xx", "refused", "retriable-4xx"),
        cluster("tight", "tight", "5xx"), cluster("empty", "empty", "5xx"),
        {"match": {"prefix": "/small/"}, "per_request_buffer_limit_bytes": 10,
         "route": {"cluster": "a", "retry_policy": {"retry_on": "5xx", "num_retries": 2, "retry_back_off": {"base_interval": "0.001s"}}}},
        {"match": {"prefix": "/"}, "route": {"cluster": "a", "timeout": "0.7s"}},
    ]}])
}

/// Copies go to the other origin.
fn mirroring() -> Value {
    let to = |prefix: &str, mirrors: Value| json!({"match": {"prefix": prefix}, "route": {"cluster": "a", "request_mirror_policies": mirrors}});
    let share = |numerator: u32| json!({"default_value": {"numerator": numerator}});
    json!([{"name": "all", "domains": ["*"], "request_mirror_policies": [{"cluster": "b"}], "routes": [
        to("/mirror/always", json!([{"cluster": "b", "runtime_fraction": share(100)}])),
        to("/mirror/plain-host", json!([{"cluster": "b", "disable_shadow_host_suffix_append": true}])),
        to("/mirror/header", json!([{"cluster_header": "x-mirror"}])),
        to("/mirror/rewritten", json!([{"cluster": "b"}])),
        to("/never", json!([{"cluster": "b", "runtime_fraction": share(0)}])),
        to("/unknown", json!([{"cluster": "nowhere"}])),
        {"match": {"prefix": "/"}, "route": {"cluster": "a", "host_rewrite_literal": "new.test"}},
    ]}])
}

fn timing() -> Value {
    let to = |prefix: &str, action: Value| json!({"match": {"prefix": prefix}, "route": with(json!({"cluster": "a"}), action)});
    json!([
        to("/timeout", json!({"timeout": "0.1s"})),
        to("/idle", json!({"timeout": "0s", "idle_timeout": "0.1s"})),
        to("/none", json!({"timeout": "0s"})),
        to("/max", json!({"max_stream_duration": {"max_stream_duration": "0.1s"}})),
        to("/grpc-max", json!({"max_stream_duration": {"grpc_timeout_header_max": "0.1s"}})),
        to(
            "/grpc-offset",
            json!({"max_stream_duration": {"grpc_timeout_header_max": "0s", "grpc_timeout_header_offset": "0.05s"}})
        ),
        to("/old-grpc", json!({"max_grpc_timeout": "0.1s"})),
        to("/old-offset", json!({"max_grpc_timeout": "5s", "grpc_timeout_offset": "1s"})),
        to("/", json!({})),
    ])
}

fn paths() -> Value {
    json!([
        {"name": "admin", "match": {"prefix": "/admin"}, "direct_response": {"status": 403, "body": {"inline_string": "no"}}},
        {"name": "echo", "match": {"prefix": "/"}, "route": {"cluster": "a"}},
        {"name": "rest", "match": {"safe_regex": {"regex": ".*"}}, "direct_response": {"status": 418}},
    ])
}
