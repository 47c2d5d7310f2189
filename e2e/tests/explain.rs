//! `explain`: a dry run tells what wins, why each other candidate loses and where it came from; and a real request goes
//! that way.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::process::Command;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::{Bootstrap, Origin, Request, workspace};
use serde_json::{Value, json};

fn plane(origin: &Origin) -> DataPlane {
    let blue = with(
        route("/api", "blue"),
        json!({"name": "for-blue", "match": {"prefix": "/api", "headers": [
            {"name": "x-tenant", "string_match": {"exact": "blue"}},
        ]}}),
    );
    let routes = json!([blue, with(route("/api", "green"), json!({"name": "for-all"})), route("/", "nowhere")]);
    let bootstrap = Bootstrap::new()
        .cluster(cluster("blue", &[origin.address()]))
        .cluster(cluster("green", &[origin.address()]))
        .listener(HttpListener::new("main", &routes));
    DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts")
}

/// The candidates of a stage as (name, verdict, reason).
fn stage<'e>(explanation: &'e Value, name: &str) -> Vec<(&'e str, &'e str, &'e str)> {
    let stages = explanation["stages"].as_array().expect("stages");
    let stage = stages.iter().find(|stage| stage["stage"] == name).expect("the stage");
    let field = |candidate: &'e Value, field: &str| candidate[field].as_str().unwrap_or_default();
    let candidates = stage["candidates"].as_array().expect("candidates");
    candidates.iter().map(|c| (field(c, "name"), field(c, "verdict"), field(c, "reason"))).collect()
}

#[test]
fn a_request_is_followed_to_its_endpoint() {
    let origin = Origin::start("o").expect("origin");
    let plane = plane(&origin);
    let ask = |query: &str| plane.admin.json(&format!("/explain?format=json&{query}")).expect("an explanation");

    let explanation = ask("url=http://shop.test/api/cart&header=x-tenant:blue");
    assert_eq!(stage(&explanation, "listener")[0].1, "won");
    assert_eq!(stage(&explanation, "filter chain")[0].1, "won");
    assert_eq!(stage(&explanation, "virtual host")[0].1, "won");
    let routes = stage(&explanation, "route");
    assert_eq!(routes.iter().map(|r| r.1).collect::<Vec<_>>(), ["won", "not reached", "not reached"]);
    assert_eq!(stage(&explanation, "cluster"), [("blue", "won", "the only one")]);
    let endpoint = origin.address().to_string();
    assert_eq!(stage(&explanation, "endpoint")[0].0, endpoint);
    let outcome = explanation["outcome"].as_str().expect("an outcome");
    assert!(outcome.starts_with("forwarded to cluster \"blue\""), "{outcome}");

    let explanation = ask("url=http://shop.test/api/cart&header=x-tenant:red");
    let routes = stage(&explanation, "route");
    assert_eq!((routes[0].0, routes[0].1), ("for-blue", "lost"));
    assert!(routes[0].2.contains("header x-tenant (exact \"blue\")"), "{routes:?}");
    assert_eq!((routes[1].0, routes[1].1), ("for-all", "won"));

    let explanation = ask("url=http://shop.test/elsewhere");
    assert!(stage(&explanation, "route")[0].2.contains("doesn't match \"/elsewhere\""), "{explanation}");
    assert_eq!(stage(&explanation, "cluster")[0].1, "lost");
    assert_eq!(explanation["outcome"], "503: the cluster doesn't exist");
    // And so it is.
    let address = plane.listener("main").expect("listener");
    assert_eq!(Request::get("/elsewhere").host("shop.test").send(address).expect("answer").status, 503);
    assert_eq!(Request::get("/api/cart").host("shop.test").send(address).expect("answer").status, 200);
}

#[test]
fn the_command_line_asks_the_admin_interface() {
    let origin = Origin::start("o").expect("origin");
    let plane = plane(&origin);
    let program = workspace::binary("outrigger-proxy").expect("the proxy");
    let run = |arguments: &[&str]| {
        let admin = plane.admin.address().to_string();
        let output = Command::new(&program)
            .args(["explain", "--admin-address", &admin])
            .args(arguments)
            .output()
            .expect("explain runs");
        let text = String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
        (output.status.code(), text)
    };
    let (code, text) = run(&["-X", "POST", "-H", "x-tenant: blue", "http://shop.test/api?a=b&c=d"]);
    assert_eq!(code, Some(0), "{text}");
    for line in ["=> for-blue: prefix \"/api\"", "=> blue: the only one", "static_resources", "outcome: forwarded"] {
        assert!(text.contains(line), "{line} is missing: {text}");
    }
    let (code, text) = run(&["not-a-url"]);
    assert_eq!(code, Some(1), "{text}");
    assert!(text.contains("url:") && text.contains("usage:"), "{text}");
}

#[test]
fn hostile_questions_are_answered_with_what_is_wrong() {
    let origin = Origin::start("o").expect("origin");
    let plane = plane(&origin);
    for query in ["", "url=", "url=http://", "url=http://a&header=x", "url=http://a&random=-1", "url=http://a&x=1"] {
        let response = plane.admin.get(&format!("/explain?{query}")).expect("an answer");
        assert_eq!(response.status, 400, "{query}: {response:?}");
        assert!(response.text().contains("usage:"), "{query}");
    }
    let long = format!("/explain?url=http://a/{}", "x".repeat(20_000));
    assert_eq!(plane.admin.get(&long).expect("an answer").status, 431);
}
