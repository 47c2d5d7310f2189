//! Whom a context believes, and which certificate it shows to whom: revocation lists, the system's authorities, names that
//! no certificate has. One table for Envoy and ours.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use std::time::{Duration, SystemTime};

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::netns::{isolated, run};
use outrigger_e2e::tls::{Authority, Client, Leaf, openssl, secure, start, upstream};
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer, Request};
use rcgen::{KeyPair, PKCS_RSA_SHA256};
use serde_json::{Value, json};

/// A leaf that shows its authority, too.
fn below(authority: &Authority, name: &str, serial: u64) -> Leaf {
    let leaf = authority.issue_with(name, "spiffe://mesh/a", |params| params.serial_number = Some(serial.into()));
    let leaf = leaf.expect("a leaf");
    Leaf { chain: leaf.chain.clone() + &authority.pem(), ..leaf }
}

const LEAF: u64 = 7;
const BETWEEN: u64 = 8;

#[test]
fn who_is_revoked_is_refused() {
    let root = Authority::new("root").expect("an authority");
    let between = root.below("between", BETWEEN).expect("an authority");
    let leaf = below(&between, "server.test", LEAF);
    let later = SystemTime::now() + Duration::from_secs(86_400);
    let over = SystemTime::now() - Duration::from_secs(86_400);
    let list = |authority: &Authority, serials: &[u64], until| authority.revocations(serials, until).expect("a list");
    let (of_root, of_between) = (list(&root, &[], later), list(&between, &[99], later));
    let without_leaf = list(&between, &[LEAF], later);
    let without_between = list(&root, &[BETWEEN], later);
    // The lists, whether the leaf's alone counts, whether the leaf passes.
    let cases = [
        ("both", vec![&of_root, &of_between], false, true),
        ("the leaf", vec![&of_root, &without_leaf], false, false),
        ("the leaf alone", vec![&of_root, &without_leaf], true, false),
        ("its authority", vec![&without_between, &of_between], false, false),
        ("its authority, unasked", vec![&without_between, &of_between], true, true),
        ("none of the root", vec![&of_between], false, false),
        ("none of the root, unasked", vec![&of_between], true, true),
        ("none of the leaf", vec![&of_root], true, false),
    ];
    let outdated = [list(&root, &[], later), list(&between, &[], over)];
    let context = |lists: &[&String], leaf_only: bool| {
        let lists: String = lists.iter().map(|list| list.as_str()).collect();
        json!({
            "trusted_ca": {"inline_string": root.pem()}, "crl": {"inline_string": lists},
            "only_verify_leaf_cert_crl": leaf_only,
        })
    };
    let mut cases: Vec<(String, Value, bool)> = cases
        .into_iter()
        .map(|(name, lists, leaf_only, passes)| (name.into(), context(&lists, leaf_only), passes))
        .collect();
    let outdated = context(&outdated.iter().collect::<Vec<_>>(), false);
    cases.push(("outdated".into(), outdated.clone(), false));
    // Where certificates may be too old, lists may.
    cases.push(("outdated, and taken".into(), with(outdated, json!({"allow_expired_certificate": true})), true));
    let origin = Origin::start("a").expect("an origin");
    for peer in Peer::all() {
        // Each is asked of a client by a listener, and of a server by a cluster.
        let server = json!({"common_tls_context": {"tls_certificates": [leaf.config()]}});
        let server = start(Peer::Outrigger, &origin, vec![secure("server", &server)]).expect("the server starts");
        let server = server.listener("server").map(|address| (server, address)).expect("its listener");
        let mut bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()]));
        for (name, context, _) in &cases {
            let common = json!({"tls_certificates": [leaf.config()], "validation_context": context});
            bootstrap = bootstrap.listener(secure(
                &format!("in {name}"),
                &json!({"require_client_certificate": true, "common_tls_context": common}),
            ));
            let mut to = cluster(name, &[server.1]);
            to["transport_socket"] = upstream(&json!({"common_tls_context": {"validation_context": context}}));
            let out = HttpListener::new(&format!("out {name}"), &json!([route("/", name)]));
            bootstrap = bootstrap.cluster(to).listener(out);
        }
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for (name, _, passes) in &cases {
            let address = plane.listener(&format!("in {name}")).expect("its listener");
            let answer = Client::named("server.test").with(&leaf).send(address, &Request::get("/"));
            assert_eq!(answer.is_ok_and(|answer| answer.status == 200), *passes, "{peer:?}: a client: {name}");
            let address = plane.listener(&format!("out {name}")).expect("its listener");
            let answer = Request::get("/").send(address).expect("an answer");
            assert_eq!(answer.status == 200, *passes, "{peer:?}: a server: {name}");
        }
    }
}

#[test]
fn authorities_are_told_or_not() {
    let authority = Authority::new("told").expect("an authority");
    let leaf = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let context = |suppress: bool| {
        json!({"common_tls_context": {
            "tls_certificates": [leaf.config()],
            "validation_context": {"trusted_ca": {"inline_string": authority.pem()}, "suppress_client_ca_list": suppress},
        }})
    };
    let folder = tempfile::tempdir().expect("a folder");
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = start(peer, &origin, vec![secure("told", &context(false)), secure("not", &context(true))])
            .expect("it starts");
        for (name, told) in [("told", true), ("not", false)] {
            let at = plane.listener(name).expect("its listener");
            for version in ["-tls1_2", "-tls1_3"] {
                let text = openssl(at, folder.path(), &[version]).expect("openssl");
                assert!(text.contains("HTTP/1.1 200"), "{peer:?} {name} {version}: {text}");
                let names = text.contains("Acceptable client certificate CA names");
                assert_eq!(names, told, "{peer:?} {name} {version}: {text}");
            }
        }
    }
}

#[test]
fn a_name_that_no_certificate_has() {
    let authority = Authority::new("mesh").expect("an authority");
    let rsa = KeyPair::generate_for(&PKCS_RSA_SHA256).expect("a key");
    let rsa = authority.issue_for(&rsa, "rsa.test", "spiffe://mesh/rsa", |_| {}).expect("a leaf");
    let ecdsa = authority.issue("ecdsa.test", "spiffe://mesh/ecdsa").expect("a leaf");
    let context = |first: &Leaf, second: &Leaf, full: bool| {
        json!({
            "full_scan_certs_on_sni_mismatch": full,
            "common_tls_context": {"tls_certificates": [first.config(), second.config()]},
        })
    };
    let contexts = [
        ("rsa first", context(&rsa, &ecdsa, false)),
        ("rsa first, all", context(&rsa, &ecdsa, true)),
        ("ecdsa first", context(&ecdsa, &rsa, false)),
        ("ecdsa first, all", context(&ecdsa, &rsa, true)),
    ];
    let (unknown, unnamed) = (&["-servername", "unknown.test"], &["-noservername"]);
    let named = |name| ["-servername", name];
    let (only_rsa, any) = (&["-tls1_2", "-cipher", "ECDHE-RSA-AES128-GCM-SHA256"][..], &["-tls1_2"][..]);
    // Whom the client asks for, what it takes, and what it is shown by each of these.
    let refused = "alert";
    let cases: [(&[&str], &[&str], [&str; 4]); 8] = [
        (&named("rsa.test"), any, ["CN = rsa.test"; 4]),
        (&named("ecdsa.test"), any, ["CN = ecdsa.test"; 4]),
        (unknown, any, ["CN = rsa.test", "CN = ecdsa.test", "CN = ecdsa.test", "CN = ecdsa.test"]),
        (unknown, only_rsa, ["CN = rsa.test", "CN = rsa.test", refused, "CN = rsa.test"]),
        (unnamed, any, ["CN = ecdsa.test"; 4]),
        (unnamed, only_rsa, ["CN = rsa.test"; 4]),
        (unknown, &["-tls1_3"], ["CN = rsa.test", "CN = ecdsa.test", "CN = ecdsa.test", "CN = ecdsa.test"]),
        (unnamed, &["-tls1_3"], ["CN = ecdsa.test"; 4]),
    ];
    let folder = tempfile::tempdir().expect("a folder");
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = start(peer, &origin, contexts.iter().map(|(name, context)| secure(name, context)).collect())
            .expect("it starts");
        for (name, takes, expected) in &cases {
            for ((listener, _), expected) in contexts.iter().zip(expected) {
                let at = plane.listener(listener).expect("its listener");
                let text = openssl(at, folder.path(), &[*name, *takes].concat()).expect("openssl");
                let shown = text.replace("CN=", "CN = ");
                assert!(shown.contains(expected), "{peer:?} {listener} {name:?} {takes:?}, not {expected}: {text}");
                let served = text.contains("HTTP/1.1 200");
                assert_eq!(served, *expected != refused, "{peer:?} {listener} {name:?} {takes:?}: {text}");
            }
        }
    }
}

/// Envoy doesn't have this: it is gRPC's (proposal A82).
#[test]
fn the_systems_authorities() {
    let test = || {
        let (known, other) = (Authority::new("known")?, Authority::new("other")?);
        // Whatever this system has is covered, for as long as this test runs.
        run("mount", &["-t", "tmpfs", "none", "/etc/ssl"])?;
        std::fs::create_dir("/etc/ssl/certs")?;
        std::fs::write("/etc/ssl/certs/ca-certificates.crt", known.pem())?;
        let serves = |authority: &Authority| -> anyhow::Result<Value> {
            let leaf = authority.issue("server.test", "spiffe://mesh/server")?;
            Ok(json!({"common_tls_context": {"tls_certificates": [leaf.config()]}}))
        };
        let origin = Origin::start("o")?;
        let servers = start(
            Peer::Outrigger,
            &origin,
            vec![secure("known", &serves(&known)?), secure("other", &serves(&other)?)],
        )?;
        let system = json!({"validation_context": {"system_root_certs": {}}});
        let beside = json!({"validation_context": {
            "system_root_certs": {}, "trusted_ca": {"inline_string": other.pem()},
        }});
        // What a secret says goes before the default.
        let combined = |default: Value, secret: &str| {
            json!({"combined_validation_context": {
                "default_validation_context": default, "validation_context_sds_secret_config": {"name": secret},
            }})
        };
        let names =
            |name: &str| json!({"match_typed_subject_alt_names": [{"san_type": "DNS", "matcher": {"exact": name}}]});
        let secrets = json!([
            {"name": "system", "validation_context": {"system_root_certs": {}}},
            {"name": "other", "validation_context": {"trusted_ca": {"inline_string": other.pem()}}},
        ]);
        let cases = [
            ("system", system, [200, 503]),
            ("beside", beside, [503, 200]),
            ("completed", combined(names("server.test"), "system"), [200, 503]),
            ("another", combined(names("another.test"), "system"), [503, 503]),
            ("overruled", combined(json!({"system_root_certs": {}}), "other"), [503, 200]),
        ];
        let mut bootstrap = Bootstrap::new();
        for (name, common, _) in &cases {
            for server in ["known", "other"] {
                let to = format!("{name} {server}");
                let mut cluster = cluster(&to, &[servers.listener(server)?]);
                cluster["transport_socket"] = upstream(&json!({"common_tls_context": common}));
                bootstrap = bootstrap.cluster(cluster).listener(HttpListener::new(&to, &json!([route("/", &to)])));
            }
        }
        let resources = with(bootstrap.value()["static_resources"].clone(), json!({"secrets": secrets}));
        let plane = DataPlane::start(Peer::Outrigger, &bootstrap.set("static_resources", resources))?;
        for (name, _, expected) in &cases {
            for (server, expected) in ["known", "other"].iter().zip(expected) {
                let answer = Request::get("/").send(plane.listener(&format!("{name} {server}"))?)?;
                anyhow::ensure!(answer.status == *expected, "{name} {server}: {}", answer.status);
            }
        }
        Ok(())
    };
    isolated("the_systems_authorities", test).expect("the system's authorities");
}
