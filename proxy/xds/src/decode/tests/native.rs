//! Native filters: YAML in, configuration or problems out.

use std::time::Duration;

use outrigger_config::{
    ConnectionFilterKind, HttpFilterKind, NativeFilter, OverrideConfig, RbacAction, RbacEngine, Resource, ResourceKind,
};

use super::{ROUTER, bad, bad_manager, good, manager};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.http";

fn filters(kind: &str, fields: &str) -> String {
    let routes = "route_config: {name: r, virtual_hosts: []}";
    format!("{routes}, http_filters: [{{name: f, typed_config: {{'@type': {FILTERS}.{kind}, {fields}}}}}, {ROUTER}]")
}

fn native(kind: &str, fields: &str) -> NativeFilter {
    let manager = manager(&filters(kind, fields));
    let HttpFilterKind::Native(filter) = &manager.filters[0].kind else { panic!() };
    filter.clone()
}

fn bad_filter(kind: &str, fields: &str) -> String {
    bad_manager(&filters(kind, fields)).replace("http_filters[0].typed_config.", "")
}

/// What a route says about a filter.
fn by_route(kind: &str, fields: &str) -> String {
    format!(
        "{{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{{match: {{prefix: /}}, direct_response: {{status: \
         200}}, typed_per_filter_config: {{f: {{'@type': {FILTERS}.{kind}, {fields}}}}}}}]}}]}}"
    )
}

fn over(kind: &str, fields: &str) -> OverrideConfig {
    let Resource::Route(routes) = good(ResourceKind::Route, &by_route(kind, fields)).resource else { panic!() };
    let found = routes.virtual_hosts[0].routes[0].overrides.get(0).unwrap();
    assert!(!found.disabled);
    found.config.clone().unwrap()
}

#[test]
fn rules_are_whole_or_rejected() {
    let policy = |permission: &str, principal: &str| {
        format!("rules: {{action: DENY, policies: {{p: {{permissions: [{permission}], principals: [{principal}]}}}}}}")
    };
    let NativeFilter::Rbac(found) = native("rbac.v3.RBAC", &policy("{any: true}", "{authenticated: {}}")) else {
        panic!()
    };
    let Some(RbacEngine::Rules(rules)) = &found.rules else { panic!() };
    assert_eq!(rules.action, RbacAction::Deny);
    assert!(found.shadow.is_none());
    let check = |permission: &str, principal: &str, expected: &str| {
        assert_eq!(bad_filter("rbac.v3.RBAC", &policy(permission, principal)), expected);
    };
    let at = |place: &str, text: &str| format!("rules.policies[\"p\"].{place}: {text}");
    check("{any: true}", "{any: false}", &at("principals[0]", "is no principal that is supported"));
    check("{}", "{any: true}", &at("permissions[0]", "is no rule that is supported"));
    check("", "{any: true}", &at("permissions", "is required"));
    check(
        "{or_rules: {rules: [{any: true}, {destination_port: 70000}]}}",
        "{any: true}",
        &at("permissions[0].or_rules.rules[1].destination_port", "is no port number"),
    );
    check(
        "{any: true}",
        "{not_id: {direct_remote_ip: {address_prefix: 10.0.0.0, prefix_len: 33}}}",
        &at("principals[0].not_id.direct_remote_ip.prefix_len", "33 is longer than the address"),
    );
    check(
        "{url_path: {path: {safe_regex: {regex: 'a('}}}}",
        "{any: true}",
        &at("permissions[0].url_path.path.safe_regex.regex", "is no regular expression: unclosed group"),
    );
    let with = |condition: &str| {
        format!(
            "rules: {{policies: {{p: {{permissions: [{{any: true}}], principals: [{{any: true}}], {condition}}}}}}}"
        )
    };
    let bad_condition = |condition: &str, expected: &str| {
        let reason = bad_filter("rbac.v3.RBAC", &with(condition));
        assert!(reason.contains(expected), "{reason}");
    };
    bad_condition("condition: {}", "condition: has an empty or unknown part");
    bad_condition(
        "condition: {call_expr: {function: 'matches', args: [{ident_expr: {name: a}}]}}",
        "condition: matches a",
    );
    bad_condition("condition: {comprehension_expr: {}}", "condition: has an empty or unknown part");
    let sourced = "permissions: [{sourced_metadata: {metadata_source: ROUTE}}]";
    let reason =
        bad_filter("rbac.v3.RBAC", &format!("rules: {{policies: {{p: {{{sourced}, principals: [{{any: true}}]}}}}}}"));
    assert!(reason.contains("sourced_metadata.metadata_matcher: is required"), "{reason}");
    bad_condition("checked_condition: {}", "checked_condition: is not supported");
    let OverrideConfig::Rbac(None) = over("rbac.v3.RBACPerRoute", "") else { panic!() };
    let nested = by_route("rbac.v3.RBACPerRoute", "rbac: {rules: {policies: {p: {permissions: [{any: true}]}}}}");
    assert!(bad(ResourceKind::Route, &nested).contains("principals: is required"));
}

#[test]
fn limits_have_a_bucket_that_fills() {
    let bucket = |fields: &str| format!("stat_prefix: s, token_bucket: {{{fields}}}");
    let kind = "local_ratelimit.v3.LocalRateLimit";
    let NativeFilter::LocalRateLimit(found) = native(kind, &bucket("max_tokens: 5, fill_interval: 1s")) else {
        panic!()
    };
    assert_eq!((found.status, found.enabled.numerator, found.enforced.numerator), (429, 0, 0));
    assert!(found.bucket.as_ref().unwrap().take(Duration::ZERO));
    assert_eq!(
        bad_filter(kind, &bucket("max_tokens: 5")),
        "token_bucket.fill_interval: is required, of 50 ms at least"
    );
    assert_eq!(bad_filter(kind, &bucket("fill_interval: 1s")), "token_bucket.max_tokens: is not above 0");
    let limited = "stat_prefix: s, descriptors: [{entries: [{key: k, value: v}], token_bucket: {max_tokens: 1, fill_interval: \
                   1s}}], rate_limits: [{actions: [{source_cluster: {}}]}]";
    assert!(bad_filter(kind, limited).contains("source_cluster: is not supported"));
    assert!(
        bad_filter(kind, "stat_prefix: s, local_rate_limit_per_downstream_connection: true")
            .contains("is not supported")
    );
    assert!(matches!(over(kind, "stat_prefix: s"), OverrideConfig::LocalRateLimit(_)));
}

#[test]
fn faults_buffers_and_cors() {
    let NativeFilter::Fault(found) =
        native("fault.v3.HTTPFault", "abort: {http_status: 418, percentage: {numerator: 5}}, max_active_faults: 1")
    else {
        panic!()
    };
    assert_eq!(found.abort.unwrap().1.numerator, 5);
    assert!(found.active.begin() && !found.active.begin());
    assert_eq!(
        bad_filter("fault.v3.HTTPFault", "abort: {http_status: 600}"),
        "abort.http_status: is not between 200 and 599"
    );
    assert!(bad_filter("fault.v3.HTTPFault", "response_rate_limit: {}").contains("is not supported"));
    let NativeFilter::Buffer(limit) = native("buffer.v3.Buffer", "max_request_bytes: 7") else { panic!() };
    assert_eq!(limit.0, 7);
    assert!(bad_filter("buffer.v3.Buffer", "").starts_with("max_request_bytes: is required"));
    assert!(matches!(over("buffer.v3.BufferPerRoute", "disabled: true"), OverrideConfig::Buffer(None)));
    let OverrideConfig::Cors(policies) =
        over("cors.v3.CorsPolicy", "allow_origin_string_match: [{exact: 'http://a'}], allow_credentials: true")
    else {
        panic!()
    };
    assert_eq!((policies[0].origins.len(), policies[0].credentials), (1, Some(true)));
    assert!(matches!(native("cors.v3.Cors", ""), NativeFilter::Cors));
}

#[test]
fn header_mutations_by_scope() {
    let fields = "mutations: {request_mutations: [{remove: x-a}, {append: {header: {key: x-b, value: v}}}]}";
    let NativeFilter::HeaderMutation(found) = native("header_mutation.v3.HeaderMutation", fields) else { panic!() };
    assert_eq!((found.request.len(), found.response.len()), (2, 0));
    let OverrideConfig::HeaderMutation(found) = over("header_mutation.v3.HeaderMutationPerRoute", fields) else {
        panic!()
    };
    assert_eq!(found.len(), 1);
    let host = "mutations: {request_mutations: [{remove: host}]}";
    assert!(
        bad_filter("header_mutation.v3.HeaderMutation", host).contains("the host is changed by a host rewrite only")
    );
}

/// A listener with a network filter.
fn filtered_listener(kind: &str, fields: &str) -> String {
    format!(
        "{{name: l, address: {{socket_address: {{address: 127.0.0.1, port_value: 1}}}}, filter_chains: [{{filters: \
         [{{name: f, typed_config: {{'@type': type.googleapis.com/envoy.extensions.filters.network.{kind}, \
         {fields}}}}}, {{name: t, typed_config: {{'@type': \
         type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy, stat_prefix: t, cluster: c}}}}]}}]}}"
    )
}

#[test]
fn chains_have_so_many_connections() {
    let listener = |fields: &str| filtered_listener("connection_limit.v3.ConnectionLimit", fields);
    let filters = |fields: &str| {
        let Resource::Listener(found) = good(ResourceKind::Listener, &listener(fields)).resource else { panic!() };
        found.chains[0].filters.clone()
    };
    let found = filters("stat_prefix: s, max_connections: 7, delay: 2s");
    let ConnectionFilterKind::ConnectionLimit(limit) = &found[0].kind else { panic!() };
    assert_eq!((&*limit.stat_prefix, limit.active.max(), limit.delay), ("s", Some(7), Some(Duration::from_secs(2))));
    let off = "stat_prefix: s, max_connections: 7, runtime_enabled: {default_value: false, runtime_key: k}";
    assert!(filters(off).is_empty());
    let place = "filter_chains[0].filters[0].typed_config.";
    let check = |fields: &str, expected: &str| {
        assert_eq!(bad(ResourceKind::Listener, &listener(fields)).replace(place, ""), expected, "{fields}");
    };
    check("stat_prefix: s", "max_connections: is required, at least 1");
    check("max_connections: 0, stat_prefix: s", "max_connections: is required, at least 1");
    check("max_connections: 1", "stat_prefix: is required");
}

#[test]
fn match_trees_are_whole_or_rejected() {
    let typed = |name: &str, fields: &str| {
        format!("{{name: x, typed_config: {{'@type': type.googleapis.com/{name}, {fields}}}}}")
    };
    let network = |name: &str| typed(&format!("envoy.extensions.matching.common_inputs.network.v3.{name}"), "");
    let action = |name: &str| format!("{{action: {}}}", typed("envoy.config.rbac.v3.Action", &format!("name: {name}")));
    let rule = |predicate: &str, on_match: &str| {
        format!("matcher: {{matcher_list: {{matchers: [{{predicate: {predicate}, on_match: {on_match}}}]}}}}")
    };
    let single = |input: &str, rest: &str| format!("{{single_predicate: {{input: {input}, {rest}}}}}");
    let source = single(&network("SourceIPInput"), "value_match: {exact: 10.0.0.1}");
    let NativeFilter::Rbac(found) = native("rbac.v3.RBAC", &rule(&source, &action("a"))) else { panic!() };
    assert!(matches!(found.rules, Some(RbacEngine::Matcher(_))));
    let check = |fields: &str, expected: &str| assert_eq!(bad_filter("rbac.v3.RBAC", fields), expected);
    let at = |place: &str, text: &str| format!("matcher.matcher_list.matchers[0].{place}: {text}");
    check(&rule("{}", &action("a")), &at("predicate", "has no predicate"));
    check(&rule(&source, "{}"), &at("on_match", "has neither matcher nor action"));
    check(&rule(&source, &action("''")), &at("on_match.action.typed_config.name", "is required"));
    check(
        &rule(&source, &format!("{{keep_matching: true, {}", &action("a")[1..])),
        &at("on_match.keep_matching", "is not supported"),
    );
    check(
        &rule(&format!("{{and_matcher: {{predicate: [{source}]}}}}"), &action("a")),
        &at("predicate.and_matcher.predicate", "are at least two"),
    );
    let metadata =
        typed("envoy.extensions.matching.common_inputs.network.v3.DynamicMetadataInput", "filter: f, path: [{key: k}]");
    check(
        &rule(&single(&metadata, "value_match: {exact: a}"), &action("a")),
        &at("predicate.single_predicate.value_match", "matches texts, and metadata are no text: custom_match does"),
    );
    check(
        &format!("matcher: {{matcher_tree: {{input: {metadata}, exact_match_map: {{map: {{a: {}}}}}}}}}", action("a")),
        "matcher.matcher_tree.input: is of no type that a map can be asked by",
    );
    check(
        &format!("matcher: {{matcher_tree: {{input: {}, prefix_match_map: {{}}}}}}", network("ServerNameInput")),
        "matcher.matcher_tree.prefix_match_map.map: is required",
    );
    let deep = (0..40).fold(source.clone(), |inner, _| format!("{{not_matcher: {inner}}}"));
    assert!(bad_filter("rbac.v3.RBAC", &rule(&deep, &action("a"))).ends_with("is nested more than 32 deep"));
}

#[test]
fn network_filters_see_no_request() {
    let listener = |fields: &str| filtered_listener("rbac.v3.RBAC", fields);
    let rules = |permission: &str, principal: &str| {
        let policy = format!("p: {{permissions: [{permission}], principals: [{principal}]}}");
        listener(&format!("stat_prefix: s, delay_deny: 1s, shadow_rules: {{policies: {{{policy}}}}}"))
    };
    let found = good(ResourceKind::Listener, &rules("{destination_port: 1}", "{any: true}")).resource;
    let Resource::Listener(found) = found else { panic!() };
    let ConnectionFilterKind::Rbac(rbac) = &found.chains[0].filters[0].kind else { panic!() };
    assert!(rbac.filter.rules.is_none() && rbac.filter.shadow.is_some() && !rbac.continuous && !rbac.reads_metadata());
    assert_eq!(rbac.delay_deny, Some(Duration::from_secs(1)));
    let check = |permission: &str, principal: &str, place: &str| {
        let place = format!("filter_chains[0].filters[0].typed_config.shadow_rules.policies[\"p\"].{place}");
        let expected = format!("{place}: looks at a request, and a network filter sees none");
        assert_eq!(bad(ResourceKind::Listener, &rules(permission, principal)), expected);
    };
    check("{not_rule: {url_path: {path: {exact: /}}}}", "{any: true}", "permissions[0].not_rule.url_path");
    check("{any: true}", "{header: {name: a, present_match: true}}", "principals[0].header");
    let expected = "filter_chains[0].filters[0].typed_config.stat_prefix: is required";
    assert_eq!(bad(ResourceKind::Listener, &listener("rules: {}")), expected);
}
