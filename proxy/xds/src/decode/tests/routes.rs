//! Routes: YAML in, configuration or problems out.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{
    AppendAction, ClusterSpec, HostRewrite, PathMatcher, PathRewrite, Redirect, RedirectPath, Resource, ResourceKind,
    RetryOn, Route, RouteAction, RouteConfig, RouteForward, Source,
};
use outrigger_http::{HeaderName, RequestHead, Scheme};
use outrigger_proto::pb::envoy::config::route::v3::{self as pb, FilterConfig};
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::type_url::FILTER_CONFIG;
use prost::Message;

use super::{bad, good};
use crate::decode::decode;

fn routes(yaml: &str) -> Arc<RouteConfig> {
    let Resource::Route(routes) = good(ResourceKind::Route, yaml).resource else { panic!() };
    routes
}

/// A route configuration with one route, whose YAML is given.
fn one_route(route: &str) -> String {
    format!("{{name: r, virtual_hosts: [{{name: v, domains: ['*'], routes: [{route}]}}]}}")
}

fn route(yaml: &str) -> Arc<Route> {
    Arc::clone(&routes(&one_route(yaml)).virtual_hosts[0].routes[0])
}

fn forward(action: &str) -> RouteForward {
    let route = route(&format!("{{match: {{prefix: /}}, route: {action}}}"));
    let Some(Route { action: RouteAction::Forward(forward), .. }) = Arc::into_inner(route) else { panic!() };
    *forward
}

fn bad_route(route: &str) -> String {
    bad(ResourceKind::Route, &one_route(route)).replace("virtual_hosts[0].routes[0].", "")
}

#[test]
fn paths_headers_and_queries_match() {
    let check = |path: &str, target: &str, expected: bool| {
        let route = route(&format!("{{match: {{{path}}}, direct_response: {{status: 200}}}}"));
        let head = RequestHead { path: Bytes::copy_from_slice(target.as_bytes()), ..RequestHead::default() };
        assert_eq!(route.path.matches(head.path_only(), !route.case_sensitive), expected, "{path} {target}");
        let headers = route.headers.iter().all(|header| header.matches(&head));
        let query = route.query.iter().all(|query| query.matches(head.query()));
        (headers, query)
    };
    check("prefix: /a", "/ab", true);
    check("path: /a", "/a?x", true);
    check("path: /a, case_sensitive: false", "/A", true);
    check("path_separated_prefix: /a", "/ab", false);
    check("path_separated_prefix: /a", "/a/b", true);
    check("safe_regex: {regex: '/a/[0-9]+'}", "/a/12", true);
    check("safe_regex: {google_re2: {}, regex: '/a/[0-9]+'}", "/a/12/", false);
    let get = "prefix: /, headers: [{name: ':method', string_match: {exact: GET}}, {name: x, present_match: false}]";
    assert_eq!(check(get, "/", true), (true, true));
    let old = "prefix: /, headers: [{name: ':path', prefix_match: /b}, {name: x, exact_match: y}]";
    assert!(!check(old, "/b", true).0);
    let query = "prefix: /, query_parameters: [{name: a, string_match: {prefix: x}}, {name: b, present_match: true}]";
    assert!(check(query, "/?a=xy&b", true).1);
    assert!(!check(query, "/?a=xy", true).1);
}

#[test]
fn forwards() {
    let found = forward("{cluster: a}");
    assert_eq!((found.timeout, found.idle_timeout), (Some(Duration::from_secs(15)), None));
    assert_eq!((found.cluster_not_found_status, found.cluster), (503, ClusterSpec::Single("a".into())));
    let found = forward(
        "{weighted_clusters: {total_weight: 100, clusters: [{name: a, weight: 0}, {name: b, weight: 5}]}, timeout: 0s, \
         idle_timeout: 0s, cluster_not_found_response_code: NOT_FOUND, auto_host_rewrite: true, prefix_rewrite: /x}",
    );
    assert!(matches!(&found.cluster, ClusterSpec::Weighted { total: 5, clusters } if clusters.len() == 2));
    assert_eq!((found.timeout, found.idle_timeout, found.cluster_not_found_status), (None, Some(Duration::ZERO), 404));
    assert_eq!(found.host_rewrite, Some(HostRewrite::Auto));
    assert_eq!(found.path_rewrite, Some(PathRewrite::Prefix(Bytes::from_static(b"/x"))));
    let found = forward(r"{cluster: a, regex_rewrite: {pattern: {regex: '^/(\w+)/(\w+)'}, substitution: '/\2/$\1\\'}}");
    let Some(PathRewrite::Regex { regex, substitution }) = found.path_rewrite else { panic!() };
    assert_eq!(&substitution[..], br"/${2}/$$${1}\");
    assert_eq!(&regex.replace_all(b"/one/two", &substitution)[..], br"/two/$one\");
}

#[test]
fn internal_redirects_and_rate_limits() {
    use outrigger_config::{LimitAction, RedirectPredicate};
    let kind = "type.googleapis.com/envoy.extensions.internal_redirect";
    let policy = forward(&format!(
        "{{cluster: c, internal_redirect_policy: {{redirect_response_codes: [301], response_headers_to_copy: [x-a], \
         predicates: [{{name: p, typed_config: {{'@type': {kind}.previous_routes.v3.PreviousRoutesConfig}}}}]}}}}"
    ));
    let policy = policy.internal_redirect.expect("a policy");
    assert_eq!((policy.redirects_max, &policy.status_codes[..], policy.cross_scheme), (1, &[301][..], false));
    assert_eq!((policy.copied_headers.len(), &policy.predicates[..]), (1, &[RedirectPredicate::PreviousRoutes][..]));
    assert_eq!(
        forward("{cluster: c, internal_redirect_policy: {}}").internal_redirect.expect("one").status_codes,
        [302]
    );
    let limited = forward(
        "{cluster: c, include_vh_rate_limits: true, rate_limits: [{stage: 2, actions: [{remote_address: {}}]}]}",
    );
    assert!(limited.includes_host_limits);
    assert_eq!(
        (limited.rate_limits[0].stage, &limited.rate_limits[0].actions[..]),
        (2, &[LimitAction::RemoteAddress][..])
    );
    let bad = bad_route(
        "{match: {prefix: /}, route: {cluster: c, rate_limits: [{stage: 11, actions: [{remote_address: {}}]}]}}",
    );
    assert!(bad.contains("route.rate_limits[0].stage: 11 is more than 10"), "{bad}");
}

#[test]
fn redirects_and_direct_responses() {
    let found = route(
        "{match: {prefix: /}, redirect: {https_redirect: true, host_redirect: h, port_redirect: 8443, \
         path_redirect: /x, response_code: TEMPORARY_REDIRECT, strip_query: true}}",
    );
    let RouteAction::Redirect(redirect) = &found.action else { panic!() };
    let expected = Redirect {
        status: 307,
        scheme: Some(Scheme::Https),
        host: Some(Bytes::from_static(b"h")),
        port: Some(8443),
        path: Some(RedirectPath::Full(Bytes::from_static(b"/x"))),
        strip_query: true,
    };
    assert_eq!(*redirect, expected);
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("body");
    std::fs::write(&file, "from a file").unwrap();
    for (body, expected) in [
        ("inline_string: hi".to_owned(), "hi"),
        ("inline_bytes: aGk=".to_owned(), "hi"),
        (format!("filename: {}", file.display()), "from a file"),
    ] {
        let found = route(&format!("{{match: {{prefix: /}}, direct_response: {{status: 418, body: {{{body}}}}}}}"));
        let RouteAction::DirectResponse(direct) = &found.action else { panic!() };
        assert_eq!((direct.status, &direct.body[..]), (418, expected.as_bytes()));
    }
    let long = format!(
        "{{match: {{prefix: /}}, direct_response: {{status: 200, body: {{inline_string: {}}}}}}}",
        "x".repeat(4097)
    );
    assert_eq!(bad_route(&long), "direct_response.body.inline_string: 4097 bytes are more than 4096");
}

#[test]
fn headers_are_added_by_their_action() {
    let found = route(
        "{match: {prefix: /}, direct_response: {status: 200}, request_headers_to_remove: [X-A], request_headers_to_add: \
         [{header: {key: X-B, value: '%REQ(:PATH)%'}}, {header: {key: c, value: v}, append: false}, \
         {header: {key: d, value: v}, append: true}, {header: {key: e, value: v}, append_action: ADD_IF_ABSENT}], \
         typed_per_filter_config: {f: {'@type': type.googleapis.com/envoy.config.route.v3.FilterConfig, disabled: true}}}",
    );
    assert_eq!(found.request_headers.remove, [HeaderName::from_bytes(b"x-a").unwrap()]);
    let actions: Vec<AppendAction> = found.request_headers.add.iter().map(|option| option.action).collect();
    use AppendAction::{AddIfAbsent, AppendIfExistsOrAdd, OverwriteIfExistsOrAdd};
    assert_eq!(actions, [AppendIfExistsOrAdd, OverwriteIfExistsOrAdd, AppendIfExistsOrAdd, AddIfAbsent]);
    assert!(found.overrides.get(0).unwrap().disabled);
    let on = FilterConfig { config: Some(Any::default()), ..FilterConfig::default() };
    let host = pb::VirtualHost {
        name: "v".to_owned(),
        domains: vec!["*".to_owned()],
        typed_per_filter_config: [(
            "f".to_owned(),
            Any { type_url: FILTER_CONFIG.to_owned(), value: on.encode_to_vec() },
        )]
        .into(),
        ..pb::VirtualHost::default()
    };
    let config = pb::RouteConfiguration { name: "r".to_owned(), virtual_hosts: vec![host], ..Default::default() };
    let bytes = config.encode_to_vec();
    let accepted = decode(ResourceKind::Route, &bytes, &Source::Ads, &Arc::from("")).unwrap();
    let Resource::Route(found) = accepted.resource else { panic!() };
    assert!(!found.virtual_hosts[0].overrides.get(0).unwrap().disabled && accepted.warnings.is_empty());
}

#[test]
fn a_route_configures_a_wasm_filter() {
    let wasm = |fields: &str| {
        format!(
            "{{match: {{prefix: /}}, direct_response: {{status: 200}}, typed_per_filter_config: {{f: {{'@type': \
             type.googleapis.com/outrigger.filters.http.wasm.v1.Wasm, {fields}}}}}}}"
        )
    };
    let text = "'@type': type.googleapis.com/google.protobuf.StringValue, value: own";
    let found = route(&wasm(&format!("config: {{configuration: {{{text}}}, failure_policy: FAIL_OPEN}}")));
    let Some(outrigger_config::OverrideConfig::Wasm(own)) = &found.overrides.get(0).unwrap().config else { panic!() };
    assert_eq!((own.configuration.as_deref(), own.name.as_deref(), &own.root_id), (Some(&b"own"[..]), None, &None));
    assert!(own.vm.is_none() && own.failure_policy == Some(outrigger_config::FailurePolicy::Open));
    let code = "vm_config: {code: {local: {inline_string: x}}}";
    let found = route(&wasm(&format!("config: {{name: other, {code}}}, limits: {{recycle_streams: 7}}")));
    let Some(outrigger_config::OverrideConfig::Wasm(own)) = &found.overrides.get(0).unwrap().config else { panic!() };
    assert_eq!(own.vm.as_ref().unwrap().limits.recycle_streams, Some(7));
    let path = "typed_per_filter_config[\"f\"]";
    for (fields, expected) in [
        ("config: {name: x}, limits: {}", "limits: is the VM's: only with config.vm_config, or at the filter itself"),
        ("isolation: ISOLATION_STREAM", "config: is required"),
    ] {
        assert_eq!(bad_route(&wasm(fields)), format!("{path}.{expected}"));
    }
}

#[test]
fn retries_mirrors_and_hashes() {
    let found = forward(
        "{cluster: a, retry_policy: {retry_on: '5xx,unavailable', num_retries: 3, per_try_timeout: 1s, \
         retriable_status_codes: [418], host_selection_retry_max_attempts: 5, retry_host_predicate: [{name: \
         envoy.retry_host_predicates.previous_hosts}], rate_limited_retry_back_off: {reset_headers: [{name: Retry-After, \
         format: SECONDS}]}}, request_mirror_policies: [{cluster: m, runtime_fraction: {default_value: {numerator: 5}}}], \
         hash_policy: [{header: {header_name: x-a}, terminal: true}, {cookie: {name: c, ttl: 60s, path: /p}}, \
         {connection_properties: {source_ip: true}}, {query_parameter: {name: q}}], priority: HIGH, \
         max_stream_duration: {grpc_timeout_header_max: 0s}}",
    );
    let retry = found.retry.unwrap();
    assert!(retry.on.has(RetryOn::SERVER_ERROR) && retry.on.grpc(14) && !retry.on.has(RetryOn::RESET));
    assert_eq!(
        (retry.retries, retry.per_try_timeout, &retry.status_codes[..]),
        (3, Some(Duration::from_secs(1)), &[418][..])
    );
    assert!(retry.hosts.previous && retry.hosts.attempts == 5 && retry.rate_limited.is_some());
    assert_eq!(found.expected_timeout.unwrap().0, 1000);
    assert_eq!((found.mirrors[0].fraction.numerator, found.mirrors[0].host_suffix), (5, true));
    assert_eq!((found.hash.len(), found.hash[0].terminal), (4, true));
    assert!(found.max_stream_duration.set && found.max_stream_duration.grpc_header_max == Some(Duration::ZERO));
    let inherited = routes(
        "{name: r, virtual_hosts: [{name: v, domains: ['*'], retry_policy: {retry_on: reset}, request_body_buffer_limit: 7, \
         routes: [{match: {prefix: /a}, route: {cluster: a}}, {match: {prefix: /}, route: {cluster: a, retry_policy: \
         {retry_on: 5xx}}, request_body_buffer_limit: 9}]}]}",
    );
    let of = |index: usize| match &inherited.virtual_hosts[0].routes[index].action {
        RouteAction::Forward(forward) => (forward.retry.as_ref().unwrap().on, forward.replay_bytes_max),
        _ => panic!(),
    };
    assert_eq!((of(0), of(1)), ((RetryOn::RESET, Some(7)), (RetryOn::SERVER_ERROR, Some(9))));
}

#[test]
fn bad_routes_name_the_field() {
    let check = |route: &str, expected: &str| assert_eq!(bad_route(route), expected, "{route}");
    check("{direct_response: {status: 200}}", "match: is required");
    check("{match: {prefix: /}}", "virtual_hosts[0].routes[0]: has no action: route, redirect or direct_response");
    check("{match: {prefix: /}, route: {}}", "route: names no cluster: cluster, cluster_header or weighted_clusters");
    check(
        "{match: {safe_regex: {regex: 'a('}}, route: {cluster: a}}",
        "match.safe_regex.regex: is no regular expression: unclosed group",
    );
    check(
        r"{match: {prefix: /}, route: {cluster: a, regex_rewrite: {pattern: {regex: a}, substitution: '\1'}}}",
        "route.regex_rewrite.substitution: \\1 names a group that the pattern doesn't have",
    );
    check(
        "{match: {prefix: /}, route: {cluster: a, hedge_policy: {initial_requests: 2}}}",
        "route.hedge_policy: is not supported",
    );
    check(
        "{match: {prefix: /}, route: {cluster: a, retry_policy: {retry_on: 5xx, retry_back_off: {base_interval: 1s, \
         max_interval: 0.5s}}}}",
        "route.retry_policy.retry_back_off.max_interval: is less than base_interval",
    );
    check(
        "{match: {prefix: /}, route: {cluster: a, retry_policy: {retry_host_predicate: [{name: x}]}}}",
        "route.retry_policy.retry_host_predicate[0].typed_config: is required",
    );
    check(
        "{match: {prefix: /}, route: {cluster: a, hash_policy: [{cookie: {name: 'a b'}}]}}",
        "route.hash_policy[0].cookie.name: \"a b\" is no name of a cookie",
    );
    check(
        "{match: {prefix: /}, route: {weighted_clusters: {clusters: [{name: a, weight: 0}]}}}",
        "route.weighted_clusters.clusters: the weights sum up to 0",
    );
    check(
        "{match: {prefix: /}, route: {cluster: a}, request_headers_to_add: [{header: {key: ':path', value: /}}]}",
        "request_headers_to_add[0].header.key: \":path\" is no header name",
    );
    check(
        "{match: {prefix: /}, route: {cluster: a}, response_headers_to_add: [{header: {key: a, value: '%NO%'}}]}",
        "response_headers_to_add[0].header.value: unknown operator %NO%",
    );
    let two = "{name: r, virtual_hosts: [{name: v, domains: [A.test]}, {name: w, domains: [a.test]}]}";
    assert_eq!(bad(ResourceKind::Route, two), "virtual_hosts: the domain a.test is in two virtual hosts");
    assert!(matches!(route("{match: {connect_matcher: {}}, route: {cluster: a}}").path, PathMatcher::Connect));
}
