//! CEL in access logs and RBAC: what expressions evaluate to, and whom they let in, with real Envoy as the referee.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]
#![allow(clippy::needless_pass_by_value, reason = "configurations are plain values")]

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::TcpStream;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener, with};
use outrigger_e2e::talker::Talker;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer, Request, eventually};
use serde_json::{Value, json};

const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// Expressions, each a field of its own.
const OPERATORS: &[&str] = &[
    "%CEL(request.path)%",
    "%CEL(request.path):3%",
    "%CEL(request.url_path)%",
    "%CEL(request.method == 'GET' && request.host == 'a.test')%",
    "%CEL(request.headers['x-a'])%",
    "%CEL(request.headers['X-A'])%",
    "%CEL(request.headers.none)%",
    "%CEL(has(request.headers.none))%",
    "%CEL('x-a' in request.headers)%",
    "%CEL(request.headers.none == 'a' || request.method == 'GET')%",
    "%CEL(request.path.startsWith('/a') ? 'yes' : 'no')%",
    "%CEL(request.url_path.matches('^/[a-z]+$'))%",
    "%CEL(size(request.path))%",
    "%CEL(response.code)%",
    "%CEL(response.code >= 400)%",
    "%CEL(response.code == 200 ? 1u : 2u)%",
    "%CEL(response.flags)%",
    "%CEL(response.code_details)%",
    "%CEL(connection.mtls)%",
    "%CEL(connection.requested_server_name)%",
    "%CEL(destination.port == 0)%",
    "%CEL(source.address.startsWith('127.0.0.1:'))%",
    "%CEL(xds.cluster_name)%",
    "%CEL(xds.route_name)%",
    "%CEL(xds.node.id)%",
    "%CEL(xds.listener_direction)%",
    "%CEL(metadata.filter_metadata['envoy.filters.http.rbac']['shadow_engine_result'])%",
    "%CEL(metadata.filter_metadata['none']['none'])%",
    "%CEL(upstream.address != '')%",
    "%CEL(nobody)%",
    "%CEL(nobody.at == 1)%",
    "%CEL(null)%",
    "%CEL(1.5)%",
    "%CEL(-3)%",
    "%CEL(b'abc')%",
    "%TYPED_CEL(response.code)%",
    "%TYPED_CEL(request.method == 'GET')%",
    "%TYPED_CEL(request.path)%",
    "%TYPED_CEL(1.5)%",
    "%TYPED_CEL([1, 'a', true])%",
    "%TYPED_CEL({'a': 1})%",
    "%TYPED_CEL(nobody)%",
];

fn log(format: Value, filter: Option<Value>) -> Value {
    let mut log = json!({"name": "f", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "@DIR@/access.log",
        "log_format": {"json_format": format},
    }});
    if let Some(filter) = filter {
        log["filter"] = filter;
    }
    log
}

/// `envoy.access_loggers.extension_filters.cel`.
fn when(expression: &str) -> Value {
    json!({"extension_filter": {"name": "cel", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.filters.cel.v3.ExpressionFilter",
        "expression": expression,
    }}})
}

fn told(peer: Peer, origin: &Origin) -> BTreeMap<(String, String), String> {
    let fields = |prefix: &str| -> Value {
        OPERATORS.iter().map(|operator| ((*operator).to_owned(), Value::from(format!("{prefix}{operator}")))).collect()
    };
    let test = "%REQ(X-TEST)%";
    let filters = [
        ("failed", "response.code >= 400"),
        ("marked", "request.headers['x-a'] == '1'"),
        ("no_condition", "request.headers['x-a']"),
        ("wrong", "nobody == 1"),
        ("both", "response.code == 404 && request.url_path == '/found'"),
    ];
    let mut logs: Vec<Value> = filters
        .iter()
        .map(|(name, expression)| log(json!({"test": test, "log": *name}), Some(when(expression))))
        .collect();
    logs.push(log(json!({"test": test, "alone": fields("")}), None));
    logs.push(log(json!({"test": test, "text": fields("=")}), None));
    let shadow = json!({"name": "rbac", "typed_config": {
        "@type": format!("{HTTP}.rbac.v3.RBAC"),
        "shadow_rules": {"action": "DENY", "policies": {"x": {
            "permissions": [{"header": {"name": "x-shadow", "present_match": true}}], "principals": [{"any": true}],
        }}},
    }});
    let routes = json!([
        {"match": {"prefix": "/found"}, "direct_response": {"status": 404}},
        with(route("/", "o"), json!({"name": "named"})),
    ]);
    let main = HttpListener::new("main", &routes).filter(shadow).manager(json!({"access_log": logs}));
    let bootstrap = Bootstrap::new().node("n", "c").cluster(cluster("o", &[origin.address()])).listener(main);
    let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("its listener");
    let requests = [
        ("plain", Request::get("/abc?d=e").host("a.test")),
        ("marked", Request::get("/").with("x-a", "1").with("x-shadow", "1")),
        ("found", Request::get("/found").with("x-a", "2")),
    ];
    for (name, request) in &requests {
        request.clone().with("x-test", name).send(address).expect("an answer");
    }
    let records = eventually(DEADLINE, || {
        let records = plane.access_records();
        let whole = records.iter().filter(|record| record["text"].is_object()).count();
        if whole == requests.len() { Ok(records) } else { Err(format!("{whole} of {}", requests.len())) }
    });
    let mut told = BTreeMap::new();
    for record in records.expect("all are told of") {
        let test = record["test"].as_str().unwrap_or_default();
        if let Some(log) = record["log"].as_str() {
            told.insert((test.to_owned(), log.to_owned()), "logged".to_owned());
        }
        for form in ["alone", "text"] {
            for (operator, value) in record[form].as_object().into_iter().flatten() {
                told.insert((test.to_owned(), format!("{form} {operator}")), value.to_string());
            }
        }
    }
    told
}

#[test]
fn logs_evaluate_expressions_as_envoys_do() {
    let origin = Origin::start("o").expect("origin");
    let (ours, theirs) = (told(Peer::Outrigger, &origin), told(Peer::Envoy, &origin));
    let keys = theirs.keys().chain(ours.keys());
    let differences: Vec<String> = keys
        .filter(|key| ours.get(*key) != theirs.get(*key))
        .map(|key| format!("{key:?}: {:?}, Envoy: {:?}", ours.get(key), theirs.get(key)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
}

fn text(value: &str) -> Value {
    json!({"const_expr": {"string_value": value}})
}

/// `request.headers`, and the like.
fn path(parts: &[&str]) -> Value {
    let mut expression = json!({"ident_expr": {"name": parts[0]}});
    for part in &parts[1..] {
        expression = json!({"select_expr": {"operand": expression, "field": part}});
    }
    expression
}

fn call(function: &str, args: &[Value]) -> Value {
    json!({"call_expr": {"function": function, "args": args}})
}

fn method(target: &Value, function: &str, args: &[Value]) -> Value {
    json!({"call_expr": {"target": target, "function": function, "args": args}})
}

fn header(name: &str) -> Value {
    call("_[_]", &[path(&["request", "headers"]), text(name)])
}

/// Conditions of policies that let in, by the paths that they guard.
fn conditions() -> Vec<(&'static str, Value)> {
    let has = json!({"select_expr": {"operand": path(&["request", "headers"]), "field": "x-a", "test_only": true}});
    let is_get = call("_==_", &[path(&["request", "method"]), text("GET")]);
    let numbers = json!({"list_expr": {"elements": [text("1"), text("2")]}});
    let map =
        json!({"struct_expr": {"entries": [{"map_key": text("1"), "value": {"const_expr": {"bool_value": true}}}]}});
    vec![
        ("/method", is_get.clone()),
        ("/header", call("_==_", &[header("x-a"), text("1")])),
        ("/has", has),
        ("/and", call("_&&_", &[is_get.clone(), call("_==_", &[header("x-a"), text("1")])])),
        ("/or", call("_||_", &[is_get.clone(), call("_==_", &[header("x-a"), text("1")])])),
        ("/not", call("!_", &[is_get])),
        ("/in", call("@in", &[header("x-a"), numbers])),
        ("/map", call("_[_]", &[map, header("x-a")])),
        ("/starts", method(&path(&["request", "path"]), "startsWith", &[text("/starts/a")])),
        ("/matches", method(&path(&["request", "path"]), "matches", &[text("^/matches/[0-9]+$")])),
        (
            "/size",
            call("_>_", &[call("size", &[path(&["request", "path"])]), json!({"const_expr": {"int64_value": "8"}})]),
        ),
        (
            "/choice",
            call(
                "_?_:_",
                &[
                    call("_==_", &[header("x-a"), text("1")]),
                    json!({"const_expr": {"bool_value": true}}),
                    json!({"const_expr": {"bool_value": false}}),
                ],
            ),
        ),
        ("/port", call("_!=_", &[path(&["destination", "port"]), json!({"const_expr": {"int64_value": "0"}})])),
        ("/no-condition", header("x-a")),
        ("/wrong", call("_==_", &[path(&["nobody"]), text("1")])),
        ("/always", json!({"const_expr": {"bool_value": true}})),
    ]
}

fn policy(condition: &Value) -> Value {
    json!({"policies": {"p": {"permissions": [{"any": true}], "principals": [{"any": true}], "condition": condition}}})
}

#[test]
fn conditions_let_in_whom_envoys_do() {
    let statuses = |peer: Peer| -> Vec<(String, u16)> {
        let guarded = |(prefix, condition): (&'static str, Value)| {
            json!({"match": {"prefix": prefix}, "direct_response": {"status": 200}, "typed_per_filter_config": {"rbac": {
                "@type": format!("{HTTP}.rbac.v3.RBACPerRoute"), "rbac": {"rules": policy(&condition)},
            }}})
        };
        let routes: Vec<Value> = conditions().into_iter().map(guarded).collect();
        let rbac = json!({"name": "rbac", "typed_config": {"@type": format!("{HTTP}.rbac.v3.RBAC")}});
        let main = HttpListener::new("main", &routes.into()).filter(rbac);
        let plane = DataPlane::start(peer, &Bootstrap::new().listener(main)).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let mut found = Vec::new();
        for (prefix, _) in conditions() {
            for (name, request) in [
                ("get", Request::get(prefix)),
                ("deeper", Request::get(&format!("{prefix}/a"))),
                ("digits", Request::get(&format!("{prefix}/42"))),
                ("marked", Request::get(prefix).with("x-a", "1")),
                ("put", Request::new("PUT", prefix).with("x-a", "2")),
                ("put-marked", Request::new("PUT", prefix).with("x-a", "1")),
            ] {
                found.push((format!("{name} {prefix}"), request.send(address).expect("an answer").status));
            }
        }
        found
    };
    let (ours, theirs) = (statuses(Peer::Outrigger), statuses(Peer::Envoy));
    let differences: Vec<_> = ours.iter().zip(&theirs).filter(|(ours, theirs)| ours != theirs).collect();
    assert!(differences.is_empty(), "{differences:?}");
    assert!(theirs.iter().any(|(_, status)| *status == 403) && theirs.iter().any(|(_, status)| *status == 200));
}

#[test]
fn connections_are_let_in_by_conditions() {
    let talker = Talker::start("t").expect("a server");
    let local = method(&path(&["source", "address"]), "startsWith", &[text("127.0.0.1:")]);
    let rows = [
        ("local", local.clone(), true),
        ("not_local", call("!_", &[local]), false),
        (
            "cleartext",
            call("_==_", &[path(&["connection", "mtls"]), json!({"const_expr": {"bool_value": false}})]),
            true,
        ),
        ("of_a_request", call("_==_", &[path(&["request", "method"]), text("GET")]), false),
    ];
    for peer in Peer::all() {
        let mut bootstrap = Bootstrap::new().cluster(cluster("t", &[talker.address()]));
        for (name, condition, _) in &rows {
            let mut listener = tcp_listener(name, "t");
            let proxy = listener["filter_chains"][0]["filters"][0].clone();
            let rbac = json!({"name": "rbac", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC",
                "stat_prefix": "x", "rules": policy(condition),
            }});
            listener["filter_chains"][0]["filters"] = json!([rbac, proxy]);
            bootstrap = bootstrap.listener(listener);
        }
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for (name, _, admitted) in &rows {
            let mut socket = TcpStream::connect(plane.listener(name).expect("its listener")).expect("a connection");
            socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            socket.write_all(b"hello\n").expect("sent");
            let answered = socket.read(&mut [0; 1]).is_ok_and(|bytes| bytes > 0);
            assert_eq!(answered, *admitted, "{peer:?} {name}");
        }
    }
}

#[test]
fn hostile_expressions_are_refused_by_their_path() {
    let pattern = method(&path(&["request", "path"]), "matches", &[path(&["request", "method"])]);
    let check = |manager: Value, filter: Option<Value>, wanted: &str| {
        let mut main = HttpListener::new("main", &json!([route("/", "o")])).manager(manager);
        if let Some(filter) = filter {
            main = main.filter(filter);
        }
        let unused = "127.0.0.1:1".parse().expect("an address");
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[unused])).listener(main);
        let (code, output) = DataPlane::validate(Peer::Outrigger, &bootstrap).expect("it runs");
        assert!(code != 0 && output.contains(wanted), "{output}");
    };
    let rbac = |condition: &Value| {
        Some(
            json!({"name": "rbac", "typed_config": {"@type": format!("{HTTP}.rbac.v3.RBAC"), "rules": policy(condition)}}),
        )
    };
    check(json!({}), rbac(&pattern), "condition: matches a pattern");
    check(json!({}), rbac(&json!({"ident_expr": {}, "id": 1})), "condition");
    let filtered = |expression: &str| json!({"access_log": [log(json!({}), Some(when(expression)))]});
    check(filtered("1 +"), None, "expression: is no CEL expression");
    check(filtered(&"(".repeat(900)), None, "expression: is longer, deeper");
    check(filtered("[1].map(x, x)"), None, "expression: has a loop");
    check(json!({"access_log": [log(json!({"a": "%CEL(1 +)%"}), None)]}), None, "%CEL%");
}
