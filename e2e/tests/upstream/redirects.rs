//! Redirects of origins that the proxy follows itself (`internal_redirect_policy`): both proxies make the same of them.

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::wait::{DEADLINE, eventually};
use outrigger_e2e::{Bootstrap, Origin, Request};
use serde_json::{Value, json};

/// A predicate without fields, or with some.
fn predicate(kind: &str, message: &str, fields: Value) -> Value {
    let kind = format!("type.googleapis.com/envoy.extensions.internal_redirect.{kind}.v3.{message}");
    json!({"name": message, "typed_config": with(json!({"@type": kind}), fields)})
}

fn following(prefix: &str, policy: Value) -> Value {
    let mut found = route(prefix, "o");
    found["name"] = json!(prefix.trim_matches('/'));
    found["route"]["internal_redirect_policy"] = policy;
    found
}

fn routes() -> Value {
    let previous = predicate("previous_routes", "PreviousRoutesConfig", json!({}));
    let listed =
        predicate("allow_listed_routes", "AllowListedRoutesConfig", json!({"allowed_route_names": ["target"]}));
    let safe = predicate("safe_cross_scheme", "SafeCrossSchemeConfig", json!({}));
    let mut target = route("/target", "o");
    target["name"] = json!("target");
    let mut rewritten = following("/rewritten/", json!({}));
    rewritten["route"]["prefix_rewrite"] = json!("/target/from/");
    rewritten["request_headers_to_add"] = json!([{"header": {"key": "x-by-route", "value": "yes"}}]);
    json!([
        following("/plain/", json!({})),
        following("/codes/", json!({"redirect_response_codes": [301, 303, 307], "max_internal_redirects": 3})),
        following("/cross/", json!({"allow_cross_scheme_redirect": true})),
        following("/safe/", json!({"allow_cross_scheme_redirect": true, "predicates": [safe]})),
        following("/previous/", json!({"max_internal_redirects": 5, "predicates": [previous]})),
        following("/listed/", json!({"predicates": [listed]})),
        following("/copy/", json!({"response_headers_to_copy": ["x-copied", "x-gone"]})),
        rewritten,
        {"match": {"prefix": "/direct"}, "direct_response": {"status": 204}, "name": "direct"},
        target,
    ])
}

/// The request's line and headers, what the origin does at first, and how many requests it sees.
const CASES: &[(&str, &str, usize)] = &[
    ("GET /plain/a", "status=302; header=location:http://b.test/target/x?y#z; flaky=1", 2),
    ("POST /plain/a\n\nbody", "status=302; header=location:http://b.test:81/target/x; flaky=1", 2),
    ("GET /plain/a", "status=302; header=location:http://b.test/plain/x; flaky=2", 2),
    ("GET /plain/a", "status=301; header=location:http://b.test/target; flaky=1", 1),
    ("GET /plain/a", "status=302; header=location:/target; flaky=1", 1),
    ("GET /plain/a", "status=302; flaky=1", 1),
    ("GET /plain/a", "status=302; header=location:http://b.test/nowhere; flaky=1", 1),
    ("GET /plain/a", "status=302; header=location:http://b.test/direct; flaky=1", 1),
    ("GET /plain/a", "status=302; header=location:https://b.test/target; flaky=1", 1),
    ("GET /plain/a", "status=302; body=100000; header=location:http://b.test/target; flaky=1", 2),
    ("POST /codes/a\n\nbody", "status=303; header=location:http://b.test/target; flaky=1", 2),
    ("POST /codes/a\n\nbody", "status=307; header=location:http://b.test/target; flaky=1", 2),
    ("HEAD /codes/a", "status=303; header=location:http://b.test/target; flaky=1", 2),
    ("GET /codes/a", "status=302; header=location:http://b.test/target; flaky=1", 1),
    ("GET /codes/a", "status=301; header=location:http://b.test/codes/x; flaky=3", 4),
    ("GET /codes/a", "status=301; header=location:http://b.test/codes/x; flaky=9", 4),
    ("GET /cross/a", "status=302; header=location:https://b.test/target; flaky=1", 2),
    ("GET /safe/a", "status=302; header=location:https://b.test/target; flaky=1", 1),
    ("GET /safe/a", "status=302; header=location:http://b.test/target; flaky=1", 2),
    ("GET /previous/a", "status=302; header=location:http://b.test/previous/b; flaky=3", 2),
    ("GET /listed/a", "status=302; header=location:http://b.test/target; flaky=1", 2),
    ("GET /listed/a", "status=302; header=location:http://b.test/plain/a; flaky=1", 1),
    (
        "GET /copy/a\nx-copied: old\nx-gone: old",
        "status=302; header=x-copied:new; header=location:http://b.test/target; flaky=1",
        2,
    ),
    ("GET /rewritten/a", "status=302; header=location:http://b.test/target; flaky=1", 2),
    ("GET /plain/a", "status=200; flaky=1", 1),
];

/// What the client got, what the origin saw at last, and what the log says of each leg.
fn observe(plane: &DataPlane, origin: &Origin, text: &str, directive: &str, name: &str) -> Vec<String> {
    let main = plane.listener("main").expect("its listener");
    let (head, body) = text.split_once("\n\n").unwrap_or((text, ""));
    let mut lines = head.lines();
    let (method, path) = lines.next().and_then(|line| line.split_once(' ')).expect("METHOD PATH");
    let mut request = Request::new(method, path).host("a.test").with("x-test", name).origin(directive);
    for (name, value) in lines.filter_map(|line| line.split_once(": ")) {
        request = request.with(name, value);
    }
    if !body.is_empty() {
        request = request.body(body);
    }
    let answer = request.send(main).unwrap_or_else(|error| panic!("{name}: {error:#}"));
    let test = |headers: &[(String, String)]| headers.iter().any(|(key, value)| key == "x-test" && value == name);
    let seen: Vec<_> = origin.seen().into_iter().filter(|seen| test(&seen.headers)).collect();
    let mut found = vec![format!("{} {:?} after {} requests", answer.status, answer.header("location"), seen.len())];
    if let Some(last) = seen.last() {
        let masked = ["x-request-id", "x-test", "x-origin", "x-envoy-expected-rq-timeout-ms"];
        let headers = last.headers.iter().filter(|(name, _)| !masked.contains(&name.to_ascii_lowercase().as_str()));
        let mut headers: Vec<String> =
            headers.map(|(name, value)| format!("{}: {value}", name.to_ascii_lowercase())).collect();
        headers.sort();
        found.push(format!("{} {} {:?}", last.method, last.path, String::from_utf8_lossy(&last.body)));
        found.extend(headers);
    }
    // A direct response is a leg without a request.
    let wanted = seen.len() + usize::from(answer.status == 204);
    let legs = eventually(DEADLINE, || {
        let records: Vec<Value> = plane.access_records().into_iter().filter(|record| record["test"] == name).collect();
        if records.len() >= wanted { Ok(records) } else { Err(format!("{} records", records.len())) }
    });
    let legs = legs.unwrap_or_else(|error| panic!("{name}: {error}"));
    for (index, record) in legs.iter().enumerate() {
        let field = |field: &str| record[field].to_string();
        // Envoy writes the head of the next one for a leg that was redirected.
        let path = if index + 1 == legs.len() { field("path") } else { String::new() };
        found.push(format!("log {} {} {path} {}", field("status"), field("route"), field("flags")));
    }
    found
}

#[test]
fn redirects_are_followed_as_envoy_follows_them() {
    let listener = HttpListener::new("main", &routes());
    let mut failures = Vec::new();
    let mut observed: Vec<Vec<String>> = vec![Vec::new(); CASES.len()];
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener.clone());
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for (index, (text, directive, requests)) in CASES.iter().enumerate() {
            let found = observe(&plane, &origin, text, directive, &format!("case-{index}"));
            if !found[0].ends_with(&format!("after {requests} requests")) {
                failures.push(format!("{peer:?} {text:?} {directive}: {}", found[0]));
            }
            if observed[index].is_empty() {
                observed[index] = found;
            } else if observed[index] != found {
                let lines = |lines: &[String]| lines.join("\n  ");
                failures.push(format!(
                    "{text:?} {directive}\n  {}\n{peer:?}\n  {}",
                    lines(&observed[index]),
                    lines(&found)
                ));
            }
        }
        let stats = plane.admin.stats().expect("stats");
        let stats: Vec<String> = stats
            .iter()
            .filter(|(name, value)| name.contains("internal_redirect") && **value > 0)
            .map(|(name, value)| format!("{name}={value}"))
            .collect();
        observed.push(stats);
    }
    let [.., ours, theirs] = &observed[..] else { panic!("two proxies") };
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(ours, theirs);
}
