//! RBAC of connections, and what of it needs a route: one table for Envoy and ours.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::io::Read;
use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener};
use outrigger_e2e::talker::{Talker, connect};
use outrigger_e2e::tls::{Authority, Client, Leaf, downstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, DataPlane, Origin, Peer, Request};
use serde_json::{Value, json};

/// A case: its rules, and whether the client gets through.
struct Case {
    name: &'static str,
    rules: Value,
    passes: bool,
    /// What the access log tells of it.
    details: &'static str,
}

fn rbac(name: &str, fields: &Value) -> Value {
    let mut config = fields.clone();
    config["@type"] = "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC".into();
    config["stat_prefix"] = format!("rules_{name}").into();
    json!({"name": "envoy.filters.network.rbac", "typed_config": config})
}

fn rules(action: &str, policies: &Value) -> Value {
    json!({"rules": {"action": action, "policies": policies}})
}

fn policy(permission: &Value, principal: &Value) -> Value {
    json!({"permissions": [permission], "principals": [principal]})
}

fn any() -> Value {
    json!({"any": true})
}

fn local(prefix: &str) -> Value {
    json!({"address_prefix": prefix, "prefix_len": 32})
}

/// A policy of an `ALLOW` that lets this permission through.
fn allows(name: &'static str, passes: bool, permission: &Value) -> Case {
    let details = if passes { "-" } else { "rbac_access_denied_matched_policy[none]" };
    Case { name, rules: rules("ALLOW", &json!({"only": policy(permission, &any())})), passes, details }
}

fn allows_whom(name: &'static str, passes: bool, principal: &Value) -> Case {
    let details = if passes { "-" } else { "rbac_access_denied_matched_policy[none]" };
    Case { name, rules: rules("ALLOW", &json!({"only": policy(&any(), principal)})), passes, details }
}

fn plain_cases() -> Vec<Case> {
    let here = || local("127.0.0.1");
    let there = || local("127.0.0.2");
    vec![
        allows("any", true, &any()),
        allows("ip", true, &json!({"destination_ip": here()})),
        allows("other_ip", false, &json!({"destination_ip": there()})),
        allows("port", false, &json!({"destination_port": 1})),
        allows("ports", true, &json!({"destination_port_range": {"start": 1024, "end": 65536}})),
        allows("low_ports", false, &json!({"destination_port_range": {"start": 1, "end": 1024}})),
        allows("no_name", true, &json!({"requested_server_name": {"exact": ""}})),
        allows("a_name", false, &json!({"requested_server_name": {"exact": "a.test"}})),
        allows("not", true, &json!({"not_rule": {"destination_port": 1}})),
        allows("and", false, &json!({"and_rules": {"rules": [any(), {"destination_port": 1}]}})),
        allows("or", true, &json!({"or_rules": {"rules": [{"destination_port": 1}, any()]}})),
        allows_whom("source", true, &json!({"source_ip": here()})),
        allows_whom("other_source", false, &json!({"source_ip": there()})),
        allows_whom("direct", true, &json!({"direct_remote_ip": here()})),
        allows_whom("remote", true, &json!({"remote_ip": here()})),
        allows_whom("nobody", false, &json!({"authenticated": {}})),
        allows_whom("not_there", true, &json!({"not_id": {"remote_ip": there()}})),
        allows_whom("both", false, &json!({"and_ids": {"ids": [{"remote_ip": here()}, {"remote_ip": there()}]}})),
        allows_whom("either", true, &json!({"or_ids": {"ids": [{"remote_ip": there()}, {"remote_ip": here()}]}})),
        Case {
            name: "denied",
            rules: rules(
                "DENY",
                &json!({"a": policy(&json!({"destination_port": 1}), &any()), "b c": policy(&any(), &any())}),
            ),
            passes: false,
            details: "rbac_access_denied_matched_policy[b_c]",
        },
        Case {
            name: "not_denied",
            rules: rules("DENY", &json!({"a": policy(&json!({"destination_port": 1}), &any())})),
            passes: true,
            details: "-",
        },
        Case { name: "logged", rules: rules("LOG", &json!({"a": policy(&any(), &any())})), passes: true, details: "-" },
        Case {
            name: "empty",
            rules: json!({"rules": {}}),
            passes: false,
            details: "rbac_access_denied_matched_policy[none]",
        },
        Case { name: "none", rules: json!({}), passes: true, details: "-" },
        Case {
            name: "continuous",
            rules: json!({"rules": {"action": "DENY"}, "enforcement_type": "CONTINUOUS"}),
            passes: true,
            details: "-",
        },
        Case {
            name: "delayed",
            rules: json!({"rules": {}, "delay_deny": "0.05s"}),
            passes: false,
            details: "rbac_access_denied_matched_policy[none]",
        },
    ]
}

fn tls_cases() -> Vec<Case> {
    let named = |name: &str| json!({"authenticated": {"principal_name": {"exact": name}}});
    vec![
        allows_whom("anybody", true, &json!({"authenticated": {}})),
        allows_whom("uri", true, &named("spiffe://mesh/ns/a/sa/client")),
        allows_whom("other_uri", false, &named("spiffe://mesh/ns/a/sa/other")),
        allows_whom("dns", true, &named("client.test")),
        allows_whom("subject", true, &named("CN=client.test")),
        allows_whom("nobody_known", false, &named("CN=other.test")),
        allows_whom("prefix", true, &json!({"authenticated": {"principal_name": {"prefix": "spiffe://mesh/ns/a/"}}})),
        allows_whom(
            "regex",
            true,
            &json!({"authenticated": {"principal_name": {"safe_regex": {"regex": ".*/ns/a/.*"}}}}),
        ),
        allows("sni", true, &json!({"requested_server_name": {"exact": "server.test"}})),
        allows("suffix", true, &json!({"requested_server_name": {"suffix": ".test"}})),
        allows("other_sni", false, &json!({"requested_server_name": {"exact": "other.test"}})),
    ]
}

/// A TCP listener behind a filter, with its access log.
fn listener(name: &str, filter: Value, tls: Option<&Value>) -> Value {
    let mut listener = tcp_listener(name, "origin");
    let chain = &mut listener["filter_chains"][0];
    chain["filters"][0]["typed_config"]["access_log"] = json!([{
        "name": "file",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
            "path": "@DIR@/access.log",
            "log_format": {"json_format": {
                "name": name, "details": "%CONNECTION_TERMINATION_DETAILS%",
            }},
        },
    }]);
    chain["filters"].as_array_mut().expect("filters").insert(0, filter);
    if let Some(context) = tls {
        chain["transport_socket"] = downstream(context);
        // Envoy knows no server name without it.
        listener["listener_filters"] = json!([{
            "name": "envoy.filters.listener.tls_inspector",
            "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            },
        }]);
    }
    listener
}

fn check(plane: &DataPlane, peer: Peer, case: &Case, ask: impl Fn(SocketAddr) -> bool) {
    let name = case.name;
    let passed = ask(plane.listener(name).expect("a listener"));
    assert_eq!(passed, case.passes, "{}: {name}", peer.name());
    let record = plane.access_record_where(|record| record["name"] == name).expect("a record");
    let details = record["details"].as_str().unwrap_or("-");
    assert_eq!(details, case.details, "{}: {name}: {record}", peer.name());
    if case.rules["rules"].is_null() {
        return;
    }
    let counter = format!("rules_{name}.rbac.{}", if passed { "allowed" } else { "denied" });
    let found = plane.admin.stat_reaches(&counter, 1, DEADLINE).expect("the counter");
    // CONTINUOUS asks again.
    assert!(found == 1 || name == "continuous", "{}: {counter} {found}", peer.name());
}

#[test]
fn connections_pass_by_rules() {
    let origin = Origin::start("origin").expect("an origin");
    let authority = Authority::new("mesh").expect("an authority");
    let server = authority.issue("server.test", "spiffe://mesh/ns/a/sa/server").expect("a leaf");
    let client: Leaf = authority.issue("client.test", "spiffe://mesh/ns/a/sa/client").expect("a leaf");
    let context = json!({
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_certificates": [server.config()],
            "validation_context": {"trusted_ca": {"inline_string": authority.pem()}},
        },
    });
    let mut bootstrap = Bootstrap::new().cluster(cluster("origin", &[origin.address()]));
    for case in plain_cases() {
        bootstrap = bootstrap.listener(listener(case.name, rbac(case.name, &case.rules), None));
    }
    for case in tls_cases() {
        bootstrap = bootstrap.listener(listener(case.name, rbac(case.name, &case.rules), Some(&context)));
    }
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let request = Request::get("/").with("connection", "close");
        for case in plain_cases() {
            check(&plane, peer, &case, |address| request.send(address).is_ok());
        }
        for case in tls_cases() {
            let client = Client::named("server.test").with(&client);
            check(&plane, peer, &case, |address| client.send(address, &request).is_ok());
        }
    }
}

#[test]
fn shadow_rules_only_watch() {
    let origin = Origin::start("origin").expect("an origin");
    let deny = json!({"action": "DENY", "policies": {"nobody": policy(&any(), &any())}});
    let filter = |name: &str, prefix: &str| {
        rbac(
            name,
            &json!({"rules": {"action": "LOG", "policies": {"all": policy(&any(), &any())}},
            "shadow_rules": deny, "shadow_rules_stat_prefix": prefix}),
        )
    };
    let bootstrap = Bootstrap::new()
        .cluster(cluster("origin", &[origin.address()]))
        .listener(listener("plain", filter("plain", ""), None))
        .listener(listener("named", filter("named", "trial"), None))
        .listener(listener("dotted", filter("dotted.", "trial."), None));
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for (name, counter) in [
            ("plain", "rules_plain.rbac.shadow_denied"),
            ("named", "rules_named.rbac.trial.shadow_denied"),
            ("dotted", "rules_dotted.rbac.trial.shadow_denied"),
        ] {
            let address = plane.listener(name).expect("a listener");
            let response = Request::get("/").with("connection", "close").send(address).expect("an answer");
            assert_eq!(response.status, 200, "{} {name}", peer.name());
            let found = plane.admin.stat_reaches(counter, 1, DEADLINE).expect("the counter");
            assert_eq!(found, 1, "{}: {counter}", peer.name());
        }
    }
}

#[test]
fn requests_of_refused_connections_are_not_read() {
    let origin = Origin::start("origin").expect("an origin");
    let http = |name: &str, rules: &Value| {
        let mut listener: Value = HttpListener::new(name, &json!([route("/", "origin")])).into();
        let filters = listener["filter_chains"][0]["filters"].as_array_mut().expect("filters");
        filters.insert(0, rbac(name, rules));
        listener
    };
    let bootstrap = Bootstrap::new()
        .cluster(cluster("origin", &[origin.address()]))
        .listener(http("open", &rules("ALLOW", &json!({"all": policy(&any(), &any())}))))
        .listener(http("again", &json!({"rules": {"action": "DENY"}, "enforcement_type": "CONTINUOUS"})))
        .listener(http("shut", &json!({"rules": {}})));
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for name in ["open", "again"] {
            let address = plane.listener(name).expect("a listener");
            let mut connection = Connection::open(address).expect("a connection");
            for _ in 0..3 {
                assert_eq!(connection.exchange(&Request::get("/")).expect("an answer").status, 200, "{}", peer.name());
            }
        }
        let refused = Request::get("/").send(plane.listener("shut").expect("a listener"));
        assert!(refused.is_err(), "{}: {refused:?}", peer.name());
    }
}

/// Envoy connects before it asks its rules, and such a client hears what the server says first.
#[test]
fn a_refused_client_does_not_hear_the_server() {
    let talker = Talker::greeting("secret").expect("a talker");
    let origin = cluster("origin", &[talker.address()]);
    let shut = listener("shut", rbac("shut", &json!({"rules": {}})), None);
    let delayed = listener("delayed", rbac("delayed", &json!({"rules": {}, "delay_deny": "0.05s"})), None);
    let bootstrap = Bootstrap::new().cluster(origin).listener(shut).listener(delayed);
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    for name in ["shut", "delayed"] {
        let mut client = connect(plane.listener(name).expect("a listener")).expect("a connection");
        let mut heard = Vec::new();
        client.read_to_end(&mut heard).expect("the end");
        assert!(heard.is_empty(), "{heard:?}");
    }
    assert_eq!(talker.connections(), 0);
}

#[test]
fn rules_look_at_the_metadata_of_routes() {
    let matcher = |invert: bool| json!({"filter": "ns", "path": [{"key": "open"}], "value": {"bool_match": true}, "invert": invert});
    let sourced =
        |invert| json!({"sourced_metadata": {"metadata_source": "ROUTE", "metadata_matcher": matcher(invert)}});
    let http = |rules: Value| {
        json!({"name": "rbac", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.rbac.v3.RBAC", "rules": rules,
        }})
    };
    let filters = [
        ("permission", http(json!({"policies": {"p": policy(&sourced(false), &any())}}))),
        ("inverted", http(json!({"policies": {"p": policy(&sourced(true), &any())}}))),
        ("principal", http(json!({"action": "DENY", "policies": {"p": policy(&any(), &sourced(false))}}))),
    ];
    let answer = |prefix: &str, fields: Value| json!({"match": {"prefix": prefix}, "direct_response": {"status": 200}, "metadata": {"filter_metadata": fields}});
    let routes = json!([
        answer("/open", json!({"ns": {"open": true}})),
        answer("/shut", json!({"ns": {"open": false}})),
        answer("/other", json!({"other": {"open": true}})),
        {"match": {"prefix": "/none"}, "direct_response": {"status": 200}},
    ]);
    let statuses = |peer: Peer| -> Vec<(String, u16)> {
        let listeners = filters.iter().map(|(name, filter)| HttpListener::new(name, &routes).filter(filter.clone()));
        let bootstrap = listeners.fold(Bootstrap::new(), Bootstrap::listener);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut found = Vec::new();
        for (name, _) in &filters {
            for path in ["/open", "/shut", "/other", "/none", "/missing"] {
                let address = plane.listener(name).expect("its listener");
                found.push((format!("{name} {path}"), Request::get(path).send(address).expect("an answer").status));
            }
        }
        found
    };
    let theirs = statuses(Peer::Envoy);
    assert_eq!(statuses(Peer::Outrigger), theirs);
    assert!(theirs.iter().any(|(_, status)| *status == 403) && theirs.iter().any(|(_, status)| *status == 200));
}
