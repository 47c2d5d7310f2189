//! What a handshake agrees on, whom it believes, and how long certificates last: one table for Envoy and ours.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::with;
use outrigger_e2e::tls::{Authority, Client, secure, start};
use outrigger_e2e::wait::{DEADLINE, until};
use outrigger_e2e::{Origin, Peer, Request};
use rustls::crypto::SupportedKxGroup;
use rustls::crypto::aws_lc_rs::kx_group::{SECP256R1, X25519, X25519MLKEM768};
use serde_json::{Value, json};

fn listener(name: &str, context: &Value) -> Value {
    with(secure(name, context), json!({"stat_prefix": name}))
}

fn with_group(group: &'static dyn SupportedKxGroup) -> Client {
    Client { only_group: Some(group), ..Client::named("server.test") }
}

#[test]
fn a_group_is_agreed_on() {
    let authority = Authority::new("mesh").expect("an authority");
    let leaf = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let context = |curves: Value| {
        json!({"common_tls_context": {
            "tls_certificates": [leaf.config()], "tls_params": {"ecdh_curves": curves},
        }})
    };
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let listeners = vec![
            listener("new", &context(json!(["X25519MLKEM768"]))),
            listener("both", &context(json!(["X25519MLKEM768", "X25519"]))),
            listener("old", &context(json!(["X25519"]))),
        ];
        let plane = start(peer, &origin, listeners).expect("the proxy starts");
        let ask = |name: &str, group: &'static dyn SupportedKxGroup| {
            let at: SocketAddr = plane.listener(name).expect("its listener");
            with_group(group).send(at, &Request::get("/")).map(|response| response.status)
        };
        for (name, group, curve, agrees) in [
            ("new", X25519MLKEM768, "X25519MLKEM768", true),
            ("new", X25519, "", false),
            ("both", X25519MLKEM768, "X25519MLKEM768", true),
            ("both", X25519, "X25519", true),
            ("both", SECP256R1, "", false),
            ("old", X25519, "X25519", true),
            ("old", X25519MLKEM768, "", false),
        ] {
            let answer = ask(name, group);
            let what = format!("{}: {name} {:?}: {answer:?}", peer.name(), group.name());
            assert_eq!(answer.is_ok_and(|status| status == 200), agrees, "{what}");
            if agrees {
                plane.admin.stat_reaches(&format!("listener.{name}.ssl.curves.{curve}"), 1, DEADLINE).expect(&what);
            }
        }
    }
}

#[test]
fn names_are_matched_in_the_older_field_too() {
    let authority = Authority::new("mesh").expect("an authority");
    let server = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let (a, b) = (
        authority.issue("a.test", "spiffe://mesh/a").expect("a leaf"),
        authority.issue("b.test", "spiffe://mesh/b").expect("a leaf"),
    );
    let context = |matchers: Value| {
        json!({"require_client_certificate": true, "common_tls_context": {
            "tls_certificates": [server.config()],
            "validation_context": {
                "trusted_ca": {"inline_string": authority.pem()}, "match_subject_alt_names": matchers,
            },
        }})
    };
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let listeners = vec![
            listener("uri", &context(json!([{"exact": "spiffe://mesh/a"}]))),
            listener("dns", &context(json!([{"exact": "b.test"}]))),
            listener("either", &context(json!([{"exact": "a.test"}, {"prefix": "spiffe://mesh/b"}]))),
            listener("none", &context(json!([{"exact": "c.test"}]))),
        ];
        let plane = start(peer, &origin, listeners).expect("the proxy starts");
        for (name, leaf, passes) in [
            ("uri", &a, true),
            ("uri", &b, false),
            ("dns", &a, false),
            ("dns", &b, true),
            ("either", &a, true),
            ("either", &b, true),
            ("none", &a, false),
        ] {
            let at = plane.listener(name).expect("its listener");
            let answer = Client::named("server.test").with(leaf).send(at, &Request::get("/"));
            assert_eq!(answer.is_ok_and(|answer| answer.status == 200), passes, "{}: {name}", peer.name());
        }
        let failed = plane.admin.stat_reaches("listener.uri.ssl.fail_verify_san", 1, DEADLINE).expect("it is counted");
        assert_eq!(failed, 1, "{}", peer.name());
    }
}

/// The first certificate to expire counts, wherever it is.
#[test]
fn the_first_expiry_is_told() {
    let authority = Authority::new("mesh").expect("an authority");
    let until_day = |days: i64| {
        let leaf = authority.issue_with("server.test", "spiffe://mesh/server", |params| {
            // Half a day more, so that the number doesn't hang on the second.
            let days = std::time::Duration::from_secs(u64::try_from(days).unwrap_or_default() * 86_400 + 43_200);
            params.not_after = (std::time::SystemTime::now() + days).into();
        });
        let leaf = leaf.expect("a leaf");
        json!({"common_tls_context": {"tls_certificates": [leaf.config()]}})
    };
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let listeners = vec![listener("long", &until_day(30)), listener("short", &until_day(9))];
        let plane = start(peer, &origin, listeners).expect("the proxy starts");
        let days = || plane.admin.stat("server.days_until_first_cert_expiring").unwrap_or_default();
        until(DEADLINE, &format!("{}: 9 days and not {}", peer.name(), days()), || days() == 9).expect("told");
    }
}
