//! Filters that are built into both proxies.

use outrigger_e2e::bootstrap::HttpListener;
use serde_json::{Value, json};

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn filter(name: &str, kind: &str, config: Value) -> Value {
    let mut config = config;
    config["@type"] = json!(format!("{HTTP}.{kind}"));
    json!({"name": name, "typed_config": config})
}

fn per_route(kind: &str, config: Value) -> Value {
    let mut config = config;
    config["@type"] = json!(format!("{HTTP}.{kind}"));
    config
}

fn append(name: &str, value: &str) -> Value {
    json!({"append": {"header": {"key": name, "value": value}, "append_action": "APPEND_IF_EXISTS_OR_ADD"}})
}

/// A share of requests; there is no runtime that could change it.
fn share(numerator: u32) -> Value {
    json!({"default_value": {"numerator": numerator}})
}

fn policy(permission: Value, principal: Value) -> Value {
    json!({"permissions": [permission], "principals": [principal]})
}

fn rbac(action: &str, policies: Value) -> Value {
    json!({"rules": {"action": action, "policies": policies}})
}

fn exact(text: &str) -> Value {
    json!({"exact": text})
}

/// Each is what one route's RBAC says.
fn rules() -> Vec<(&'static str, Value)> {
    let any = || json!({"any": true});
    let permission = |permission: Value| rbac("ALLOW", json!({"p": policy(permission, any())}));
    let principal = |principal: Value| rbac("ALLOW", json!({"p": policy(any(), principal)}));
    let header = json!({"name": "x-role", "string_match": {"exact": "admin"}});
    let local = |prefix: u32, address: &str| json!({"address_prefix": address, "prefix_len": prefix});
    vec![
        ("none", rbac("ALLOW", json!({}))),
        ("deny-none", rbac("DENY", json!({}))),
        ("any", permission(any())),
        ("deny", rbac("DENY", json!({"the policy": policy(json!({"header": header}), any())}))),
        ("header", permission(json!({"header": header}))),
        ("path", permission(json!({"url_path": {"path": exact("/rbac/path/x")}}))),
        ("port", permission(json!({"destination_port": 1}))),
        ("ports", permission(json!({"destination_port_range": {"start": 1, "end": 65536}}))),
        ("ip", permission(json!({"destination_ip": local(8, "127.0.0.0")}))),
        ("other-ip", permission(json!({"destination_ip": local(8, "10.0.0.0")}))),
        ("sni", permission(json!({"requested_server_name": exact("a.test")}))),
        ("no-sni", permission(json!({"requested_server_name": {"safe_regex": {"regex": ".*"}}}))),
        ("not", permission(json!({"not_rule": {"header": header}}))),
        (
            "and",
            permission(
                json!({"and_rules": {"rules": [{"header": header}, {"header": {"name": ":method", "string_match": exact("GET")}}]}}),
            ),
        ),
        (
            "or",
            permission(
                json!({"or_rules": {"rules": [{"header": header}, {"header": {"name": ":method", "string_match": exact("POST")}}]}}),
            ),
        ),
        ("authenticated", principal(json!({"authenticated": {}}))),
        ("not-authenticated", principal(json!({"not_id": {"authenticated": {}}}))),
        ("direct", principal(json!({"direct_remote_ip": local(8, "127.0.0.0")}))),
        ("remote", principal(json!({"remote_ip": local(8, "10.0.0.0")}))),
        ("source", principal(json!({"source_ip": local(8, "127.0.0.0")}))),
        ("who", principal(json!({"header": header}))),
        (
            "and-ids",
            principal(json!({"and_ids": {"ids": [{"header": header}, {"direct_remote_ip": local(32, "127.0.0.1")}]}})),
        ),
        (
            "or-ids",
            principal(json!({"or_ids": {"ids": [{"header": header}, {"direct_remote_ip": local(32, "10.0.0.1")}]}})),
        ),
        ("log", rbac("LOG", json!({"p": policy(json!({"header": header}), any())}))),
        ("shadow", json!({"shadow_rules": {"action": "DENY", "policies": {"p": policy(any(), any())}}})),
    ]
}

fn limit(fields: Value) -> Value {
    let base = json!({
        "stat_prefix": "limit", "token_bucket": {"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"},
        "filter_enabled": share(100), "filter_enforced": share(100),
    });
    per_route("local_ratelimit.v3.LocalRateLimit", outrigger_e2e::bootstrap::with(base, fields))
}

/// Limits of what an action says of a request.
fn limits_by_action() -> Vec<(&'static str, Value)> {
    let tight = json!({"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"});
    let plenty = json!({"max_tokens": 1000, "tokens_per_fill": 1000, "fill_interval": "1s"});
    let by = |key: &str, value: &str, action: Value| {
        json!({
            "token_bucket": plenty,
            "descriptors": [{"entries": [{"key": key, "value": value}], "token_bucket": tight}],
            "rate_limits": [{"actions": [action]}],
        })
    };
    let matches = |fields: Value| {
        let headers = json!([{"name": "x-user", "string_match": exact("a")}]);
        json!({"header_value_match": outrigger_e2e::bootstrap::with(json!({"descriptor_value": "x", "headers": headers}), fields)})
    };
    let by_user = json!({"request_headers": {"header_name": "x-user", "descriptor_key": "user"}});
    let default = |always: bool| {
        let mut config = by("user", "a", by_user.clone());
        config["descriptors"][0]["token_bucket"] = plenty.clone();
        config["token_bucket"] = tight.clone();
        config["always_consume_default_token_bucket"] = always.into();
        config
    };
    vec![
        ("match", by("header_match", "x", matches(json!({})))),
        ("match-key", by("k", "x", matches(json!({"descriptor_key": "k"})))),
        ("no-match", by("header_match", "x", matches(json!({"expect_match": false})))),
        ("target", by("destination_cluster", "a", json!({"destination_cluster": {}}))),
        ("other-target", by("destination_cluster", "b", json!({"destination_cluster": {}}))),
        ("default-too", default(true)),
        ("default-not", default(false)),
    ]
}

/// Two requests of a user and two of another to each of those.
pub(crate) fn limit_cases() -> Vec<String> {
    let names = limits_by_action();
    let ask = |name: &str, user: &str, n: u32| format!("GET /limit/{name}/\nx-user: {user}\nx-n: {n}");
    names
        .iter()
        .flat_map(|(name, _)| [("a", 1), ("a", 2), ("b", 3), ("b", 4)].map(|(user, n)| ask(name, user, n)))
        .collect()
}

fn fault(fields: Value) -> Value {
    per_route("fault.v3.HTTPFault", fields)
}

pub(crate) fn listener() -> HttpListener {
    let mutation = |name: &str| {
        json!({"mutations": {
            "request_mutations": [append("x-order", name), {"remove": "x-remove"}, append("x-copy", "%REQ(X-ORDER)%")],
            "response_mutations": [append("x-order", name), {"remove": "x-secret"}],
        }})
    };
    let scope =
        |name: &str| json!({"mutation": per_route("header_mutation.v3.HeaderMutationPerRoute", mutation(name))});
    let disabled =
        json!({"mutation": {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "disabled": true}});
    let to_a = |prefix: &str, overrides: Value| json!({"match": {"prefix": prefix}, "route": {"cluster": "a"}, "typed_per_filter_config": overrides});
    let mut routes = vec![
        to_a("/mutation/off", disabled),
        to_a("/mutation/route", scope("route")),
        json!({"match": {"prefix": "/mutation/direct"}, "direct_response": {"status": 200}, "typed_per_filter_config": scope("route")}),
        json!({"match": {"prefix": "/mutation/weighted"}, "typed_per_filter_config": scope("route"), "route": {"weighted_clusters": {"clusters": [
            {"name": "a", "weight": 1, "typed_per_filter_config": scope("cluster")}]}}}),
        to_a("/rbac/off", json!({"rbac": per_route("rbac.v3.RBACPerRoute", json!({}))})),
    ];
    for (name, rules) in rules() {
        let overrides = json!({"rbac": per_route("rbac.v3.RBACPerRoute", json!({"rbac": rules}))});
        routes.push(to_a(&format!("/rbac/{name}/"), overrides));
    }
    let entry = |key: &str, value: &str| json!({"key": key, "value": value});
    let tight = json!({"max_tokens": 1, "tokens_per_fill": 1, "fill_interval": "3600s"});
    for (name, config) in [
        ("one", json!({})),
        ("status", json!({"status": {"code": "ServiceUnavailable"}})),
        ("headers", json!({"response_headers_to_add": [{"header": {"key": "x-limited", "value": "%REQ(:PATH)%"}}]})),
        ("off", json!({"filter_enabled": share(0)})),
        (
            "watched",
            json!({"filter_enforced": share(0), "request_headers_to_add_when_not_enforced": [{"header": {"key": "x-over", "value": "yes"}}]}),
        ),
        ("exhausted", json!({"rate_limited_as_resource_exhausted": true})),
        (
            "descriptor",
            json!({
                "token_bucket": {"max_tokens": 1000, "tokens_per_fill": 1000, "fill_interval": "1s"},
                "descriptors": [{"entries": [entry("user", "a")], "token_bucket": tight}],
                "rate_limits": [{"actions": [{"request_headers": {"header_name": "x-user", "descriptor_key": "user"}}]}],
            }),
        ),
    ] {
        routes.push(to_a(&format!("/limit/{name}/"), json!({"limit": limit(config)})));
    }
    routes.extend(
        limits_by_action()
            .into_iter()
            .map(|(name, config)| to_a(&format!("/limit/{name}/"), json!({"limit": limit(config)}))),
    );
    let plenty = json!({"max_tokens": 1000, "tokens_per_fill": 1000, "fill_interval": "1s"});
    let by_user = json!({"actions": [{"request_headers": {"header_name": "x-user", "descriptor_key": "user"}}]});
    for (name, config, action) in [
        ("by-route", json!({}), json!({"rate_limits": [by_user]})),
        ("by-host", json!({}), json!({})),
        ("instead", json!({}), json!({"rate_limits": [{"actions": [{"generic_key": {"descriptor_value": "other"}}]}]})),
        ("both", json!({"vh_rate_limits": "INCLUDE"}), json!({"rate_limits": [by_user]})),
        ("included", json!({}), json!({"rate_limits": [by_user], "include_vh_rate_limits": true})),
        ("ignored", json!({"vh_rate_limits": "IGNORE"}), json!({})),
        ("stage", json!({"stage": 3}), json!({"rate_limits": [by_user]})),
        (
            "own",
            json!({"rate_limits": [{"actions": [{"generic_key": {"descriptor_value": "other"}}]}]}),
            json!({"rate_limits": [by_user]}),
        ),
    ] {
        let descriptors = json!([
            {"entries": [entry("user", "a")], "token_bucket": tight},
            {"entries": [entry("generic_key", "host")], "token_bucket": tight},
        ]);
        let config =
            outrigger_e2e::bootstrap::with(json!({"token_bucket": plenty, "descriptors": descriptors}), config);
        let mut route = to_a(&format!("/limit/{name}/"), json!({"limit": limit(config)}));
        route["route"] = outrigger_e2e::bootstrap::with(route["route"].clone(), action);
        routes.push(route);
    }
    let all = json!({"numerator": 100});
    for (name, config) in [
        ("abort", json!({"abort": {"http_status": 418, "percentage": all}})),
        ("grpc", json!({"abort": {"grpc_status": 5, "percentage": all}})),
        ("never", json!({"abort": {"http_status": 418, "percentage": {"numerator": 0}}})),
        ("unset", json!({"abort": {"http_status": 418}})),
        ("header", json!({"abort": {"header_abort": {}, "percentage": all}})),
        ("delay", json!({"delay": {"fixed_delay": "0.02s", "percentage": all}})),
        (
            "both",
            json!({"delay": {"fixed_delay": "0.02s", "percentage": all}, "abort": {"http_status": 503, "percentage": all}}),
        ),
        ("header-delay", json!({"delay": {"header_delay": {}, "percentage": all}})),
        (
            "some",
            json!({"abort": {"http_status": 418, "percentage": all}, "headers": [{"name": "x-fault", "present_match": true}]}),
        ),
        ("cluster", json!({"abort": {"http_status": 418, "percentage": all}, "upstream_cluster": "b"})),
        ("full", json!({"abort": {"http_status": 418, "percentage": all}, "max_active_faults": 0})),
        ("nodes", json!({"abort": {"http_status": 418, "percentage": all}, "downstream_nodes": ["n1", "n2"]})),
    ] {
        routes.push(to_a(&format!("/fault/{name}/"), json!({"fault": fault(config)})));
    }
    let origins = json!([{"exact": "http://a.test"}, {"suffix": ".b.test"}]);
    for (name, config) in [
        ("plain", json!({"allow_origin_string_match": origins})),
        (
            "full",
            json!({"allow_origin_string_match": origins, "allow_methods": "GET,PUT", "allow_headers": "x-a", "expose_headers": "x-b",
            "max_age": "60", "allow_credentials": true, "allow_private_network_access": true}),
        ),
        ("any", json!({"allow_origin_string_match": [{"exact": "*"}]})),
        ("off", json!({"allow_origin_string_match": origins, "filter_enabled": share(0)})),
        ("strict", json!({"allow_origin_string_match": origins, "forward_not_matching_preflights": false})),
    ] {
        routes.push(to_a(&format!("/cors/{name}/"), json!({"cors": per_route("cors.v3.CorsPolicy", config)})));
    }
    routes.push(to_a(
        "/buffer/small/",
        json!({"buffer": per_route("buffer.v3.BufferPerRoute", json!({"buffer": {"max_request_bytes": 5}}))}),
    ));
    routes.push(to_a(
        "/buffer/off/",
        json!({"buffer": per_route("buffer.v3.BufferPerRoute", json!({"disabled": true}))}),
    ));
    routes.push(json!({"match": {"prefix": "/"}, "route": {"cluster": "a"}}));
    let host_limits = json!([{"actions": [{"generic_key": {"descriptor_value": "host"}}]}]);
    let hosts = json!([{"name": "all", "domains": ["*"], "routes": routes, "typed_per_filter_config": scope("host"), "rate_limits": host_limits}]);
    super::listeners::listener("filters", &hosts)
        .filter(filter("cors", "cors.v3.Cors", json!({})))
        .filter(filter("rbac", "rbac.v3.RBAC", json!({})))
        .filter(filter("limit", "local_ratelimit.v3.LocalRateLimit", json!({"stat_prefix": "none"})))
        .filter(filter("fault", "fault.v3.HTTPFault", json!({})))
        .filter(filter("buffer", "buffer.v3.Buffer", json!({"max_request_bytes": 1000})))
        .filter(filter("mutation", "header_mutation.v3.HeaderMutation", mutation("filter")))
}

pub(crate) const CASES: &[&str] = &[
    "GET /mutation/off\nx-remove: 1",
    "GET /mutation/route\nx-remove: 1",
    "GET /mutation/route\nx-order: client",
    "GET /mutation/direct",
    "GET /mutation/weighted",
    "GET /other",
    "GET /rbac/off",
    "GET /rbac/path/x?q",
    "GET /rbac/path/y",
    "POST /rbac/or/\n\nx",
    "POST /rbac/and/\nx-role: admin\n\nx",
    "POST /rbac/none/\ncontent-type: application/grpc",
    "HEAD /rbac/none/",
    "GET /rbac/remote/\nx-forwarded-for: 10.1.2.3",
    "GET /rbac/remote/\nx-forwarded-for: 11.1.2.3",
    "GET /rbac/direct/\nx-forwarded-for: 11.1.2.3",
    "GET /limit/one/\nx-n: 1",
    "GET /limit/one/\nx-n: 2",
    "GET /limit/status/\nx-n: 1",
    "GET /limit/status/\nx-n: 2",
    "GET /limit/headers/\nx-n: 1",
    "GET /limit/headers/\nx-n: 2",
    "GET /limit/off/\nx-n: 1",
    "GET /limit/off/\nx-n: 2",
    "GET /limit/watched/\nx-n: 1",
    "GET /limit/watched/\nx-n: 2",
    "POST /limit/one/\ncontent-type: application/grpc",
    "POST /limit/exhausted/\nx-n: 1",
    "POST /limit/exhausted/\ncontent-type: application/grpc",
    "GET /limit/descriptor/\nx-user: a\nx-n: 1",
    "GET /limit/descriptor/\nx-user: a\nx-n: 2",
    "GET /limit/descriptor/\nx-user: b\nx-n: 3",
    "GET /limit/descriptor/\nx-user: b\nx-n: 4",
    "GET /limit/descriptor/",
    "GET /limit/by-route/\nx-user: a\nx-n: 1",
    "GET /limit/by-route/\nx-user: a\nx-n: 2",
    "GET /limit/by-route/\nx-user: b\nx-n: 3",
    "GET /limit/by-host/\nx-user: a\nx-n: 1",
    "GET /limit/by-host/\nx-user: a\nx-n: 2",
    "GET /limit/by-host/\nx-user: b\nx-n: 3",
    "GET /limit/instead/\nx-user: a\nx-n: 1",
    "GET /limit/instead/\nx-user: a\nx-n: 2",
    "GET /limit/instead/\nx-user: b\nx-n: 3",
    "GET /limit/both/\nx-user: a\nx-n: 1",
    "GET /limit/both/\nx-user: a\nx-n: 2",
    "GET /limit/both/\nx-user: b\nx-n: 3",
    "GET /limit/included/\nx-user: a\nx-n: 1",
    "GET /limit/included/\nx-user: a\nx-n: 2",
    "GET /limit/included/\nx-user: b\nx-n: 3",
    "GET /limit/ignored/\nx-user: a\nx-n: 1",
    "GET /limit/ignored/\nx-user: a\nx-n: 2",
    "GET /limit/ignored/\nx-user: b\nx-n: 3",
    "GET /limit/stage/\nx-user: a\nx-n: 1",
    "GET /limit/stage/\nx-user: a\nx-n: 2",
    "GET /limit/stage/\nx-user: b\nx-n: 3",
    "GET /limit/own/\nx-user: a\nx-n: 1",
    "GET /limit/own/\nx-user: a\nx-n: 2",
    "GET /limit/own/\nx-user: b\nx-n: 3",
    "GET /fault/abort/",
    "HEAD /fault/abort/",
    "POST /fault/abort/\ncontent-type: application/grpc",
    "GET /fault/grpc/",
    "POST /fault/grpc/\ncontent-type: application/grpc",
    "GET /fault/never/",
    "GET /fault/unset/",
    "GET /fault/header/",
    "GET /fault/header/\nx-envoy-fault-abort-request: 503",
    "GET /fault/header/\nx-envoy-fault-abort-request: 99",
    "GET /fault/header/\nx-envoy-fault-abort-request: 503\nx-envoy-fault-abort-request-percentage: 0",
    "POST /fault/header/\nx-envoy-fault-abort-grpc-request: 5\ncontent-type: application/grpc",
    "GET /fault/delay/",
    "POST /fault/delay/\n\nbody",
    "GET /fault/both/",
    "GET /fault/header-delay/\nx-envoy-fault-delay-request: 10",
    "GET /fault/header-delay/",
    "GET /fault/some/",
    "GET /fault/some/\nx-fault: 1",
    "GET /fault/cluster/",
    "GET /fault/full/",
    "GET /fault/nodes/",
    "GET /fault/nodes/\nx-envoy-downstream-service-node: n2",
    "GET /fault/nodes/\nx-envoy-downstream-service-node: n3",
    "GET /cors/plain/",
    "GET /cors/plain/\norigin: http://a.test",
    "GET /cors/plain/\norigin: http://c.test",
    "GET /cors/plain/\norigin: http://x.b.test",
    "OPTIONS /cors/plain/\norigin: http://a.test",
    "OPTIONS /cors/plain/\norigin: http://a.test\naccess-control-request-method: PUT",
    "OPTIONS /cors/full/\norigin: http://a.test\naccess-control-request-method: PUT",
    "OPTIONS /cors/full/\norigin: http://a.test\naccess-control-request-method: PUT\naccess-control-request-private-network: true",
    "GET /cors/full/\norigin: http://a.test",
    "OPTIONS /cors/full/\norigin: http://c.test\naccess-control-request-method: PUT",
    "GET /cors/any/\norigin: http://z.test",
    "OPTIONS /cors/any/\norigin: http://z.test\naccess-control-request-method: PUT",
    "GET /cors/off/\norigin: http://a.test",
    "OPTIONS /cors/strict/\norigin: http://c.test\naccess-control-request-method: PUT",
    "POST /buffer/small/\n\n12345",
    "POST /buffer/small/\n\n123456",
    "GET /buffer/small/",
    "POST /buffer/off/\n\n123456",
    "POST /buffer/other/\n\n123456",
];

/// Every RBAC route, with and without the role.
pub(crate) fn rbac_cases() -> Vec<String> {
    let names = rules();
    let names = names.iter().map(|(name, _)| *name);
    names.flat_map(|name| [format!("GET /rbac/{name}/"), format!("GET /rbac/{name}/\nx-role: admin")]).collect()
}
