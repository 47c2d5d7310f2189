//! What a guest is told of TLS, of the client's connection and of the origin's, in real Envoy and in our proxy.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::collections::BTreeMap;
use std::path::Path;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, wasm_filter, with};
use outrigger_e2e::guest::{assemble, reports};
use outrigger_e2e::tls::{Authority, Client, Leaf, secured, upstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer, Request, eventually};
use serde_json::{Value, json};

const INSPECTOR: &str = "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector";

const OF_A_CONNECTION: [&str; 10] = [
    "tls_version",
    "subject_local_certificate",
    "subject_peer_certificate",
    "dns_san_local_certificate",
    "dns_san_peer_certificate",
    "uri_san_local_certificate",
    "uri_san_peer_certificate",
    "sha256_peer_certificate_digest",
    "peer_certificate",
    "transport_failure_reason",
];

/// Which attributes a guest asks for, in three callbacks.
fn asked() -> Vec<String> {
    let named = |side: &'static str| OF_A_CONNECTION.iter().map(move |name| format!("{side}\\x00{name}"));
    let own = ["mtls", "requested_server_name"].map(|name| format!("connection\\x00{name}"));
    own.into_iter().chain(named("connection")).chain(named("upstream")).collect()
}

fn script() -> String {
    let asked: String = asked().iter().map(|path| format!(" get_property '{path}' *v\n")).collect();
    ["request_headers", "response_headers", "log"].map(|callback| format!("{callback}:\n{asked}")).concat()
}

struct Pki {
    authority: Authority,
    server: Leaf,
    client: Leaf,
}

impl Pki {
    fn new() -> Pki {
        let authority = Authority::new("ours").expect("an authority");
        let server = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
        let client = authority.issue("client.test", "spiffe://mesh/client").expect("a leaf");
        Pki { authority, server, client }
    }

    fn context(&self, own: Option<&Leaf>) -> Value {
        let own: Vec<Value> = own.into_iter().map(Leaf::config).collect();
        json!({
            "tls_certificates": own,
            "validation_context": {"trusted_ca": {"inline_string": self.authority.pem()}},
            "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"},
        })
    }

    /// A listener that asks for a certificate.
    fn guarded(&self, listener: HttpListener, is_asked_for: bool) -> Value {
        let context =
            json!({"common_tls_context": self.context(Some(&self.server)), "require_client_certificate": is_asked_for});
        // Without it Envoy doesn't tell which server was asked for.
        let inspector = json!([{"name": "tls_inspector", "typed_config": {"@type": INSPECTOR}}]);
        with(secured(listener, &context), json!({"listener_filters": inspector}))
    }
}

fn guest(name: &str, dir: &Path) -> Value {
    let module = dir.join(format!("{name}.wasm"));
    std::fs::write(&module, wat::parse_str(assemble(name, "0_2_1", &script())).expect("a module")).expect("its file");
    wasm_filter(name, &module, &json!({}))
}

/// What the guests of a proxy were told.
fn observe(peer: Peer, pki: &Pki) -> BTreeMap<String, String> {
    let origin = Origin::start("o").expect("origin");
    let dir = tempfile::tempdir().expect("a folder");
    let behind = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(pki.guarded(HttpListener::new("mutual", &json!([route("/", "o")])), true))
        .listener(pki.guarded(HttpListener::new("anybody", &json!([route("/", "o")])), false));
    let behind = DataPlane::start(peer, &behind).expect("the server starts");
    let server = |name: &str, own: Option<&Leaf>| {
        let mut server = cluster(name, &[behind.listener(name).expect("the listener")]);
        server["transport_socket"] = upstream(&json!({"common_tls_context": pki.context(own), "sni": "server.test"}));
        server
    };
    let listener = |name: &str| HttpListener::new(name, &json!([route("/", name)])).filter(guest(name, dir.path()));
    let bootstrap = Bootstrap::new()
        .cluster(server("mutual", Some(&pki.client)))
        .cluster(server("anybody", None))
        .listener(pki.guarded(listener("mutual"), true))
        .listener(pki.guarded(listener("anybody"), false));
    let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
    let named = Client::named("server.test");
    let mut told = BTreeMap::new();
    for (name, client) in [("mutual", named.clone().with(&pki.client)), ("anybody", named)] {
        let address = plane.listener(name).expect("the listener");
        let response = client.connect(address).and_then(|mut connection| connection.exchange(&Request::get("/")));
        assert_eq!(response.expect("an answer").status, 200, "{}: {name}", peer.name());
        let lines = eventually(DEADLINE, || {
            let lines = reports(&plane.process.log()).remove(name).unwrap_or_default();
            if lines.iter().any(|line| line.starts_with("delete")) { Ok(lines) } else { Err(format!("{lines:?}")) }
        });
        let asked = asked();
        for line in lines.expect("the stream ends") {
            let (call, value) = line.split_once('=').expect("a report");
            let (callback, index) = call.split(' ').next().and_then(|at| at.split_once('.')).expect("its place");
            let path = index.parse().ok().and_then(|index: usize| asked.get(index));
            if callback != "delete" {
                told.insert(format!("{name} {callback} {}", path.expect("what was asked")), value.trim().to_owned());
            }
        }
    }
    told
}

#[test]
fn guests_are_told_of_tls_as_in_envoy() {
    let pki = Pki::new();
    let all: Vec<_> = Peer::all().into_iter().map(|peer| observe(peer, &pki)).collect();
    for told in &all {
        let known = |path: &str, value: &str| assert_eq!(told.get(path).map(String::as_str), Some(value), "{path}");
        known("mutual request_headers connection\\x00uri_san_peer_certificate", "0 spiffe://mesh/client");
        known("mutual log upstream\\x00uri_san_peer_certificate", "0 spiffe://mesh/server");
    }
    if let [ours, envoys] = &all[..] {
        let differences: Vec<String> = ours
            .iter()
            .filter(|(path, value)| envoys.get(*path) != Some(value))
            .map(|(path, value)| format!("{path}: ours {value:?}, Envoy {:?}", envoys.get(path)))
            .collect();
        assert!(differences.is_empty() && ours.len() == envoys.len(), "{}", differences.join("\n"));
    }
}
