//! Configuration: protos from a control plane, YAML from a user, and what a route does with a request.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::{Resource, ResourceKind, Source};
use outrigger_http::{HeaderName, StreamState};
use outrigger_proto::render::{Format, parse};
use outrigger_xds::decode;

use crate::{Run, Target, fingerprint};

const CLUSTER: &str = "name: c\ntype: STATIC\nconnect_timeout: 2s\nlb_policy: LEAST_REQUEST\nload_assignment:\n  cluster_name: c\n  endpoints:\n  - lb_endpoints:\n    - endpoint: {address: {socket_address: {address: 127.0.0.1, port_value: 80}}}\n      load_balancing_weight: 3\n";
const ROUTES_TEXT: &str = r#"
name: routes
virtual_hosts:
- name: some
  domains: ["a.example", "*.b.example", "c.*", "d.example:80"]
  routes:
  - {match: {path: /exact}, route: {cluster: c}}
  - {match: {path_separated_prefix: /parts}, redirect: {path_redirect: /there}}
  - {match: {safe_regex: {regex: "/re/[0-9]+"}}, route: {cluster: c, regex_rewrite: {pattern: {regex: "^/re/(.*)"}, substitution: '/\1'}}}
  - {match: {prefix: /h, headers: [{name: x-a, string_match: {exact: b}}, {name: x-n, range_match: {start: 1, end: 9}}]}, route: {cluster: c}}
  - {match: {prefix: /q, query_parameters: [{name: v, string_match: {prefix: "1"}}]}, direct_response: {status: 204}}
- name: all
  domains: ["*"]
  routes: [{match: {prefix: /}, route: {cluster: c, timeout: 3s}}]
"#;
const CLUSTER_TYPE: &str = "envoy.config.cluster.v3.Cluster";
const ROUTE_TYPE: &str = "envoy.config.route.v3.RouteConfiguration";

/// The binary form of a text of ours.
#[expect(clippy::expect_used, reason = "the texts are our own")]
fn binary(message: &str, text: &str) -> Vec<u8> {
    parse(message, text.as_bytes(), Format::Yaml).expect("our own text is right")
}

const KINDS: [ResourceKind; 5] = [
    ResourceKind::Cluster,
    ResourceKind::Endpoints,
    ResourceKind::Listener,
    ResourceKind::Route,
    ResourceKind::Extension,
];

pub(super) const XDS: Target = Target {
    name: "xds",
    about: "a resource's bytes are a configuration or a reason, of any kind",
    // The first byte is the kind.
    seeds: || {
        vec![
            [vec![0], binary(CLUSTER_TYPE, CLUSTER)].concat(),
            [vec![3], binary(ROUTE_TYPE, ROUTES_TEXT)].concat(),
            vec![1, 10, 1, b'c'],
            vec![2, 10, 1, b'l'],
            vec![4, 10, 1, b'e'],
        ]
    },
    words: &[
        b"\x0a",
        b"\x12",
        b"\x08\x01",
        b"\x10",
        b"\x1a\x02",
        b"type.googleapis.com/",
        b"127.0.0.1",
        b"/",
        b"(a+)+$",
    ],
    prepare: || {
        Box::new(|input| {
            let Some((kind, bytes)) = input.split_first() else { return 0 };
            let kind = KINDS[usize::from(*kind) % KINDS.len()];
            match decode(kind, bytes, &Source::Ads, &Arc::from("1")) {
                Ok(_) => fingerprint(&"accepted"),
                // Which fields, not which values.
                Err(invalid) => fingerprint(&letters(&invalid.reason())),
            }
        })
    },
    short: 30_000,
};

pub(super) const RENDER: Target = Target {
    name: "render",
    about: "YAML and JSON become the binary form or every problem",
    seeds: || {
        let json = r#"{"name": "c", "type": "STATIC", "connect_timeout": "0.25s", "metadata": {"filter_metadata": {"a": {"b": [1, null, "x", {"c": true}]}}}}"#;
        [CLUSTER, json, "name: c\nname: d\n", "&a {name: *a}", "- [[[[{}]]]]\n"]
            .map(|text| text.as_bytes().to_vec())
            .to_vec()
    },
    words: &[
        b": ",
        b"- ",
        b"\n  ",
        b"{",
        b"}",
        b"[",
        b"]",
        b"\"",
        b"'",
        b"&a ",
        b"*a",
        b"!!binary ",
        b"|\n ",
        b"<<: ",
        b"\"@type\": ",
        b"null",
        b"true",
        b"1e999",
        b"-0",
        b"0x1f",
        b"\xff",
        b"#",
        b"---\n",
        b"name: ",
        b"connect_timeout: ",
    ],
    prepare: || {
        Box::new(|input| {
            let outcomes = [Format::Yaml, Format::Json].map(|format| match parse(CLUSTER_TYPE, input, format) {
                Ok(bytes) => {
                    // What was rendered is a message: the decoder takes it or says why not.
                    let _ = decode(ResourceKind::Cluster, &bytes, &Source::Ads, &Arc::from("1"));
                    "rendered".to_owned()
                }
                Err(problems) => {
                    assert!(!problems.is_empty(), "refused without a reason");
                    letters(&problems.iter().map(|problem| problem.message.as_str()).collect::<Vec<_>>().join("\n"))
                }
            });
            fingerprint(&outcomes)
        })
    },
    short: 10_000,
};

const ROUTE_WORDS: &[&[u8]] = &[
    b"a.example",
    b"x.b.example",
    b"c.",
    b"d.example:80",
    b"/exact",
    b"/parts/",
    b"/re/1",
    b"/h",
    b"/q?v=1",
    b"\n",
    b"b",
    b"5",
    b"%2f",
    b"//",
    b"..",
    b"?",
    b"#",
    b":",
];

pub(super) const ROUTES: Target = Target {
    name: "routes",
    about: "any authority, path and header selects a route or none, and the same one again",
    seeds: || {
        ["a.example\n/exact\n\n", "x.b.example\n/re/12\nb\n5", "d.example:80\n/q?v=12\n\n"]
            .map(|t| t.as_bytes().to_vec())
            .to_vec()
    },
    words: ROUTE_WORDS,
    prepare: routes,
    short: 50_000,
};

#[expect(clippy::expect_used, reason = "the routes are our own")]
fn routes() -> Run {
    let bytes = binary(ROUTE_TYPE, ROUTES_TEXT);
    let accepted =
        decode(ResourceKind::Route, &bytes, &Source::Ads, &Arc::from("1")).expect("our own routes are right");
    let Resource::Route(config) = accepted.resource else { return Box::new(|_| 0) };
    let (first, second) =
        (HeaderName::from_bytes(b"x-a").expect("a name"), HeaderName::from_bytes(b"x-n").expect("a name"));
    Box::new(move |input| {
        let mut lines = input.split(|byte| *byte == b'\n').map(Bytes::copy_from_slice);
        let mut head = StreamState::default().request;
        head.authority = lines.next().unwrap_or_default();
        head.path = lines.next().unwrap_or_default();
        for name in [&first, &second] {
            // What no codec lets through isn't asked for.
            _ = head.headers.try_append(name.clone(), lines.next().unwrap_or_default());
        }
        let place = |ignore_port: bool| {
            let (host, route) = config.table.select(&config.virtual_hosts, &head, ignore_port, 0);
            let at = |host: &Arc<_>| config.virtual_hosts.iter().position(|known| Arc::ptr_eq(known, host));
            let route = route.and_then(|r| host?.routes.iter().position(|known| Arc::ptr_eq(known, r)));
            (host.and_then(at), route)
        };
        let places = (place(false), place(true));
        assert_eq!(places, (place(false), place(true)), "another route for the same request");
        fingerprint(&places)
    })
}

/// Words without numbers and quoted values, so that a kind of problem is one outcome.
fn letters(text: &str) -> String {
    let words =
        text.split_whitespace().filter(|word| word.chars().all(|c| c.is_ascii_lowercase() || "_.,:".contains(c)));
    words.take(24).collect::<Vec<_>>().join(" ")
}
