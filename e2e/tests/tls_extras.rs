//! What a server's TLS has beside certificates: OCSP staples, tickets that other processes take, and logs of keys; OpenSSL
//! is the client, real Envoy the referee.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;
use std::path::Path;
use std::process::Command;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::tls::{Authority, Leaf, secure, upstream};
use outrigger_e2e::wait::{DEADLINE, eventually};
use outrigger_e2e::{Bootstrap, Origin};
use serde_json::{Value, json};

/// A file of these bytes, as a data source.
fn file(folder: &Path, name: &str, bytes: &[u8]) -> Value {
    let path = folder.join(name);
    std::fs::write(&path, bytes).expect("writes");
    json!({"filename": path})
}

/// What OpenSSL's client prints of a request to `server.test`.
fn openssl(address: SocketAddr, folder: &Path, arguments: &[&str]) -> String {
    let arguments = [&["-servername", "server.test"], arguments].concat();
    outrigger_e2e::tls::openssl(address, folder, &arguments).expect("openssl")
}

fn run(folder: &Path, program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).current_dir(folder).output().expect(program);
    assert!(output.status.success(), "{program} {arguments:?}: {}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// An OCSP response about a leaf; without an end it counts as expired.
fn response(authority: &Authority, leaf: &Leaf, ends: bool) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("a folder");
    let at = folder.path();
    let write = |name: &str, text: &str| std::fs::write(at.join(name), text).expect("writes");
    write("ca.pem", &authority.pem());
    write("ca.key", &authority.key_pem());
    write("leaf.pem", &leaf.chain);
    let serial = run(at, "openssl", &["x509", "-in", "leaf.pem", "-noout", "-serial"]);
    let serial = serial.trim().trim_start_matches("serial=");
    write("index.txt", &format!("V\t20991231000000Z\t\t{serial}\tunknown\t/CN=server.test\n"));
    let mut arguments = vec![
        "ocsp",
        "-index",
        "index.txt",
        "-CA",
        "ca.pem",
        "-rsigner",
        "ca.pem",
        "-rkey",
        "ca.key",
        "-issuer",
        "ca.pem",
        "-cert",
        "leaf.pem",
        "-respout",
        "response.der",
        "-noverify",
    ];
    if ends {
        arguments.extend(["-ndays", "2"]);
    }
    run(at, "openssl", &arguments);
    std::fs::read(at.join("response.der")).expect("a response")
}

#[test]
fn certificates_come_with_their_state() {
    let authority = Authority::new("ours").expect("an authority");
    let (leaf, other) = (
        authority.issue("server.test", "spiffe://mesh/server").expect("a leaf"),
        authority.issue("server.test", "spiffe://mesh/server").expect("another one"),
    );
    let folder = tempfile::tempdir().expect("a folder");
    let fresh = file(folder.path(), "fresh", &response(&authority, &leaf, true));
    let old = file(folder.path(), "old", &response(&authority, &leaf, false));
    let garbage = file(folder.path(), "garbage", b"0");
    let certificate = |staple: Option<&Value>| match staple {
        Some(staple) => with(leaf.config(), json!({"ocsp_staple": staple})),
        None => leaf.config(),
    };
    let context = |policy: &str, staple: Option<&Value>| json!({"ocsp_staple_policy": policy, "common_tls_context": {"tls_certificates": [certificate(staple)]}});
    let (stapled, bare, refused) = ("OCSP Response Status: successful", "OCSP response: no response sent", "alert");
    // What there is, whether the client asks, what it gets.
    let cases = [
        ("LENIENT_STAPLING", Some(&fresh), true, stapled),
        ("LENIENT_STAPLING", Some(&old), true, bare),
        ("LENIENT_STAPLING", None, true, bare),
        ("STRICT_STAPLING", Some(&fresh), true, stapled),
        ("STRICT_STAPLING", Some(&old), true, refused),
        ("STRICT_STAPLING", Some(&old), false, "HTTP/1.1 200"),
        ("STRICT_STAPLING", None, true, bare),
        ("MUST_STAPLE", Some(&fresh), true, stapled),
        ("MUST_STAPLE", Some(&old), true, refused),
    ];
    let origin = Origin::start("a").expect("an origin");
    for peer in Peer::all() {
        let listeners = cases.iter().enumerate();
        let listeners = listeners.map(|(at, (policy, staple, ..))| secure(&at.to_string(), &context(policy, *staple)));
        let bootstrap = listeners
            .fold(Bootstrap::new().cluster(cluster("o", &[origin.address()])), |all, listener| all.listener(listener));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for (at, (policy, staple, asks, expected)) in cases.iter().enumerate() {
            let address = plane.listener(&at.to_string()).expect("its listener");
            for version in ["-tls1_2", "-tls1_3"] {
                let arguments = if *asks { &[version, "-status"][..] } else { &[version] };
                let text = openssl(address, folder.path(), arguments);
                let what = format!(
                    "{peer:?} {policy} {} {asks} {version}",
                    staple.map_or("none", |it| it["filename"].as_str().unwrap_or_default())
                );
                assert!(text.contains(expected), "{what}: {text}");
                assert_eq!(text.contains("HTTP/1.1 200"), *expected != refused, "{what}: {text}");
            }
        }
        // What cannot be right is refused with the configuration.
        let about_another = with(other.config(), json!({"ocsp_staple": fresh}));
        let about_another = json!({"common_tls_context": {"tls_certificates": [about_another]}});
        for bad in [context("MUST_STAPLE", None), about_another, context("LENIENT_STAPLING", Some(&garbage))] {
            let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(secure("bad", &bad));
            let (code, log) = DataPlane::validate(peer, &bootstrap).expect("it ends");
            assert_ne!(code, 0, "{peer:?}: {log}");
        }
    }
}

#[test]
fn tickets_are_taken_by_who_has_the_keys() {
    let authority = Authority::new("ours").expect("an authority");
    let issue = |uri: &str| authority.issue("server.test", uri).expect("a leaf");
    let leaf = issue("spiffe://mesh/server");
    let (renewed, another) = (issue("spiffe://mesh/server"), issue("spiffe://mesh/another"));
    let origin = Origin::start("a").expect("an origin");
    let files = tempfile::tempdir().expect("a folder");
    let key = |seed: u8| file(files.path(), &format!("key-{seed}"), &[seed; 80]);
    let common = json!({"tls_certificates": [leaf.config()]});
    let keys = |keys: Value| json!({"session_ticket_keys": {"keys": keys}, "common_tls_context": common});
    let of = |leaf: &Leaf| {
        let common = json!({"tls_certificates": [leaf.config()]});
        json!({"session_ticket_keys": {"keys": [key(1)]}, "common_tls_context": common})
    };
    let of_secret = json!({"session_ticket_keys_sds_secret_config": {"name": "keys"}, "common_tls_context": common});
    for peer in Peer::all() {
        let start = || {
            let secrets = json!([{"name": "keys", "session_ticket_keys": {"keys": [key(3), key(1)]}}]);
            let mut bootstrap = Bootstrap::new()
                .cluster(cluster("o", &[origin.address()]))
                .listener(secure("first", &keys(json!([key(1)]))))
                .listener(secure("rolled", &keys(json!([key(2), key(1)]))))
                .listener(secure("secret", &of_secret))
                .listener(secure("strange", &keys(json!([key(9)]))))
                .listener(secure("renewed", &of(&renewed)))
                .listener(secure("another", &of(&another)));
            let resources = with(bootstrap.value()["static_resources"].clone(), json!({"secrets": secrets}));
            bootstrap = bootstrap.set("static_resources", resources);
            DataPlane::start(peer, &bootstrap).expect("the proxy starts")
        };
        let (one, another) = (start(), start());
        let folder = tempfile::tempdir().expect("a folder");
        for version in ["-tls1_2", "-tls1_3"] {
            let first = one.listener("first").expect("its listener");
            let text = openssl(first, folder.path(), &[version, "-sess_out", "session"]);
            assert!(text.contains("New, TLS"), "{peer:?} {version}: {text}");
            for (listener, expected) in [
                ("first", "Reused, TLS"),
                ("rolled", "Reused, TLS"),
                ("secret", "Reused, TLS"),
                ("strange", "New, TLS"),
                // Sessions are those of whom the certificate is for.
                ("renewed", "Reused, TLS"),
                ("another", "New, TLS"),
            ] {
                let address = another.listener(listener).expect("its listener");
                let text = openssl(address, folder.path(), &[version, "-sess_in", "session"]);
                assert!(text.contains(expected), "{peer:?} {version} {listener}: {text}");
                assert!(text.contains("HTTP/1.1 200"), "{peer:?} {version} {listener}: {text}");
            }
        }
    }
}

#[test]
fn keys_are_logged_for_those_addresses() {
    let authority = Authority::new("ours").expect("an authority");
    let leaf = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let origin = Origin::start("a").expect("an origin");
    let nowhere =
        json!({"common_tls_context": {"tls_certificates": [leaf.config()], "key_log": {"path": "/nowhere/keys"}}});
    let range = |prefix: &str| json!([{"address_prefix": prefix, "prefix_len": 8}]);
    let logged = |log: Value| json!({"common_tls_context": {"tls_certificates": [leaf.config()], "key_log": log}});
    for peer in Peer::all() {
        let here = logged(json!({"path": "@DIR@/here", "remote_address_range": range("127.0.0.0")}));
        let elsewhere = json!({
            "path": "@DIR@/elsewhere", "local_address_range": range("127.0.0.0"), "remote_address_range": range("10.0.0.0"),
        });
        // A cluster leads to the first listener, and logs what that logs.
        let client = json!({"common_tls_context": {"key_log": {"path": "@DIR@/client"}}});
        let server = DataPlane::start(
            Peer::Outrigger,
            &Bootstrap::new()
                .cluster(cluster("o", &[origin.address()]))
                .listener(secure("to", &json!({"common_tls_context": {"tls_certificates": [leaf.config()]}}))),
        )
        .expect("the server starts");
        let mut secured = cluster("s", &[server.listener("to").expect("its listener")]);
        secured["transport_socket"] = upstream(&client);
        let bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .cluster(secured)
            .listener(secure("here", &here))
            .listener(secure("elsewhere", &logged(elsewhere)))
            .listener(HttpListener::new("out", &json!([route("/", "s")])));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let folder = tempfile::tempdir().expect("a folder");
        let read = |path: &Path| std::fs::read_to_string(path).unwrap_or_default();
        for version in ["-tls1_2", "-tls1_3"] {
            for listener in ["here", "elsewhere"] {
                let address = plane.listener(listener).expect("its listener");
                let text = openssl(address, folder.path(), &[version, "-keylogfile", listener]);
                assert!(text.contains("HTTP/1.1 200"), "{peer:?} {version} {listener}: {text}");
            }
        }
        // Of both versions there is what the client has written down itself.
        let theirs = read(&folder.path().join("here"));
        let labels = ["CLIENT_RANDOM", "CLIENT_HANDSHAKE_TRAFFIC_SECRET", "SERVER_TRAFFIC_SECRET_0"];
        let complete = eventually(DEADLINE, || {
            let ours = read(&plane.dir().join("here"));
            let wanted =
                theirs.lines().filter(|line| labels.iter().any(|label| line.split(' ').next() == Some(*label)));
            let wanted: Vec<&str> = wanted.collect();
            assert_eq!(wanted.len(), 3, "{theirs}");
            if wanted.iter().all(|line| ours.lines().any(|our| our == *line)) { Ok(()) } else { Err(ours) }
        });
        complete.unwrap_or_else(|error| panic!("{peer:?}: {error:#}\n{theirs}"));
        assert_eq!(read(&plane.dir().join("elsewhere")), "", "{peer:?}");
        let out = plane.listener("out").expect("its listener");
        assert_eq!(outrigger_e2e::Request::get("/").send(out).expect("an answer").status, 200, "{peer:?}");
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(secure("bad", &nowhere));
        let (code, log) = DataPlane::validate(peer, &bootstrap).expect("it ends");
        assert!(code != 0 && log.contains("/nowhere/keys"), "{peer:?}: {log}");
        let noted = eventually(DEADLINE, || {
            let text = read(&plane.dir().join("client"));
            // Envoy's clients speak TLS 1.2 unless they are told to speak more.
            let labels = ["CLIENT_TRAFFIC_SECRET_0 ", "CLIENT_RANDOM "];
            if labels.iter().any(|label| text.contains(label)) { Ok(()) } else { Err(text) }
        });
        noted.unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
    }
}
