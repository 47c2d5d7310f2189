//! TLS through the binaries: who is let in, what is agreed, what origins are told, and secrets that rotate under load. Where
//! a table serves both, real Envoy is the referee, as server, as client and as the other end.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, cluster, http2, route, tcp_listener, with};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::tls::{
    Authority, Client, Leaf, SecretServer, der, from_file, secured, shows, upstream, write_secrets,
};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Load, Origin, Request, eventually};
use serde_json::{Value, json};

struct Pki {
    ours: Authority,
    theirs: Authority,
    server: Leaf,
    client: Leaf,
}

impl Pki {
    fn new() -> Pki {
        let ours = Authority::new("ours").expect("an authority");
        let theirs = Authority::new("theirs").expect("an authority");
        let server = ours.issue("server.test", "spiffe://mesh/server").expect("a leaf");
        let client = ours.issue("client.test", "spiffe://mesh/client").expect("a leaf");
        Pki { ours, theirs, server, client }
    }

    fn trusted(&self) -> Value {
        json!({"trusted_ca": {"inline_string": self.ours.pem()}})
    }
}

/// A listener with TLS, whose origin is told of the client.
fn secure(name: &str, context: &Value) -> Value {
    let manager = json!({
        "forward_client_cert_details": "SANITIZE_SET",
        "set_current_client_cert_details": {"subject": true, "uri": true, "dns": true},
    });
    secured(HttpListener::new(name, &json!([route("/", "o")])).manager(manager), context)
}

fn uri(pattern: &Value) -> Value {
    json!([{"san_type": "URI", "matcher": pattern}])
}

/// What a client gets: the protocol and what the origin was told of it; or a refusal.
fn outcome(client: &Client, address: SocketAddr) -> Result<(String, String), ()> {
    let mut connection = client.connect(address).map_err(drop)?;
    let alpn = connection.alpn().unwrap_or_default();
    if alpn == "h2" {
        return Ok((alpn, String::new()));
    }
    let request = Request::get("/").with("x-forwarded-client-cert", "By=me;Hash=0");
    let response = connection.exchange(&request).map_err(drop)?;
    assert_eq!(response.status, 200);
    assert_eq!(response.seen("x-forwarded-proto").as_deref(), Some("https"));
    // The digest is of a fresh certificate.
    let told = response.seen("x-forwarded-client-cert").unwrap_or_default();
    let parts = told.split(';').filter(|part| !part.starts_with("Hash="));
    Ok((alpn, parts.collect::<Vec<_>>().join(";")))
}

/// A listener, a client, and what it gets: the protocol and what the origin is told; or a refusal.
type Row = (&'static str, Client, Result<(&'static str, &'static str), ()>);

fn listeners(pki: &Pki, named: &Leaf, origin: SocketAddr) -> Bootstrap {
    let own = |more: Value| with(json!({"common_tls_context": {"tls_certificates": [pki.server.config()]}}), more);
    let mutual = |validation: Value| {
        own(json!({
            "require_client_certificate": true,
            "common_tls_context": {"validation_context": with(pki.trusted(), validation)},
        }))
    };
    let spiffe = json!({
        "name": "envoy.tls.cert_validator.spiffe", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig",
            "trust_domains": [{"name": "mesh", "trust_bundle": {"inline_string": pki.ours.pem()}}],
        },
    });
    Bootstrap::new()
        .cluster(cluster("o", &[origin]))
        .listener(secure("plain", &own(json!({"common_tls_context": {"alpn_protocols": ["h2", "http/1.1"]}}))))
        .listener(secure("optional", &own(json!({"common_tls_context": {"validation_context": pki.trusted()}}))))
        .listener(secure("mutual", &mutual(json!({}))))
        .listener(secure(
            "exact",
            &mutual(json!({"match_typed_subject_alt_names": uri(&json!({"exact": "spiffe://mesh/client"}))})),
        ))
        .listener(secure(
            "prefix",
            &mutual(json!({"match_typed_subject_alt_names": uri(&json!({"prefix": "spiffe://mesh/"}))})),
        ))
        .listener(secure("nobody", &mutual(json!({"match_typed_subject_alt_names": uri(&json!({"suffix": "/x"}))}))))
        .listener(secure("lenient", &mutual(json!({"allow_expired_certificate": true}))))
        .listener(secure("anybody", &mutual(json!({"trust_chain_verification": "ACCEPT_UNTRUSTED"}))))
        .listener(secure(
            "spiffe",
            &own(json!({
                "require_client_certificate": true,
                "common_tls_context": {"validation_context": {"custom_validator_config": spiffe}},
            })),
        ))
        .listener(secure(
            "named",
            &own(json!({"common_tls_context": {"tls_certificates": [pki.server.config(), named.config()]}})),
        ))
        .listener(secure("sni", &own(json!({"require_sni": true}))))
        .listener(secure(
            "only12",
            &own(json!({"common_tls_context": {"tls_params": {"tls_maximum_protocol_version": "TLSv1_2"}}})),
        ))
        .listener(secure(
            "only13",
            &own(json!({"common_tls_context": {"tls_params": {"tls_minimum_protocol_version": "TLSv1_3"}}})),
        ))
}

fn rows(pki: &Pki) -> Vec<Row> {
    let other = pki.theirs.issue("client.test", "spiffe://mesh/client").expect("a leaf");
    let expired = pki.ours.issue_with("client.test", "spiffe://mesh/client", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let expired = expired.expect("a leaf");
    let who = Client::named("server.test");
    let h1 = Client { alpn: vec!["http/1.1"], ..who.clone() };
    let told = "By=spiffe://mesh/server;Subject=\"CN=client.test\";URI=spiffe://mesh/client;DNS=client.test";
    vec![
        ("plain", who.clone(), Ok(("", ""))),
        ("plain", h1.clone(), Ok(("http/1.1", ""))),
        ("plain", Client { alpn: vec!["http/1.1", "h2"], ..who.clone() }, Ok(("h2", ""))),
        ("plain", Client { alpn: vec!["istio"], ..who.clone() }, Ok(("", ""))),
        ("plain", Client::default(), Ok(("", ""))),
        ("optional", who.clone(), Ok(("", ""))),
        ("optional", who.clone().with(&pki.client), Ok(("", told))),
        ("optional", who.clone().with(&other), Err(())),
        ("mutual", who.clone(), Err(())),
        ("mutual", who.clone().with(&pki.client), Ok(("", told))),
        ("mutual", who.clone().with(&other), Err(())),
        ("mutual", who.clone().with(&expired), Err(())),
        ("exact", who.clone().with(&pki.client), Ok(("", told))),
        ("prefix", who.clone().with(&pki.client), Ok(("", told))),
        ("nobody", who.clone().with(&pki.client), Err(())),
        ("lenient", who.clone().with(&expired), Ok(("", told))),
        ("lenient", who.clone().with(&other), Err(())),
        ("anybody", who.clone().with(&other), Ok(("", told))),
        ("spiffe", who.clone().with(&pki.client), Ok(("", told))),
        ("spiffe", who.clone().with(&other), Err(())),
        ("spiffe", who.clone(), Err(())),
        ("sni", who.clone(), Ok(("", ""))),
        ("only12", Client { only_version: Some(&rustls::version::TLS12), ..who.clone() }, Ok(("", ""))),
        ("only12", Client { only_version: Some(&rustls::version::TLS13), ..who.clone() }, Err(())),
        ("only13", Client { only_version: Some(&rustls::version::TLS12), ..who.clone() }, Err(())),
        ("only13", who.clone(), Ok(("", ""))),
    ]
}

#[test]
fn clients_are_let_in_alike() {
    let pki = Pki::new();
    let origin = Origin::start("o").expect("origin");
    let named = pki.ours.issue("named.test", "spiffe://mesh/named").expect("a leaf");
    let bootstrap = listeners(&pki, &named, origin.address());
    let table = rows(&pki);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for (listener, client, expected) in &table {
            let found = outcome(client, plane.listener(listener).expect("the listener"));
            let found = found.as_ref().map(|(alpn, told)| (alpn.as_str(), told.as_str())).map_err(|refused| *refused);
            assert_eq!(found, *expected, "{}: {listener} {client:?}", peer.name());
        }
        let shown = |name: &str| {
            let connection = Client::named(name).connect(plane.listener("named").expect("the listener"));
            connection.expect("a connection").server_leaf().expect("a leaf")
        };
        assert_eq!(shown("named.test"), der(&named).expect("DER"), "{}", peer.name());
        assert_eq!(shown("other.test"), der(&pki.server).expect("DER"), "{}", peer.name());
        // Both count alike.
        let stats = plane.admin.stats().expect("stats");
        let count = |name: &str| -> u64 {
            let of =
                |(key, value): (&String, &u64)| (key.starts_with("listener.") && key.ends_with(name)).then_some(*value);
            stats.iter().filter_map(of).sum()
        };
        assert_eq!(count("ssl.fail_verify_no_cert"), 2, "{}", peer.name());
        assert_eq!(count("ssl.fail_verify_san"), 1, "{}", peer.name());
    }
}

/// A listener in cleartext that goes on to a TLS server.
fn towards(name: &str, address: SocketAddr, context: &Value) -> (Value, Value) {
    let mut cluster = cluster(name, &[address]);
    cluster["transport_socket"] = upstream(context);
    (HttpListener::new(name, &json!([route("/", name)])).into(), cluster)
}

#[test]
fn servers_are_trusted_alike() {
    let pki = Pki::new();
    let origin = Origin::start("o").expect("origin");
    let mutual = json!({
        "require_client_certificate": true,
        "common_tls_context": {
            "tls_certificates": [pki.server.config()], "validation_context": pki.trusted(),
            "alpn_protocols": ["h2", "http/1.1"],
        },
    });
    let server_bootstrap =
        Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(secure("mutual", &mutual));
    let theirs = json!({"trusted_ca": {"inline_string": pki.theirs.pem()}});
    let client = |leaf: Option<&Leaf>, validation: Value, more: Value| {
        let certificates: Vec<Value> = leaf.into_iter().map(Leaf::config).collect();
        let tls = json!({"common_tls_context": {"tls_certificates": certificates, "validation_context": validation, "tls_params": {"tls_maximum_protocol_version": "TLSv1_3"}}});
        with(with(json!({"sni": "server.test"}), tls), more)
    };
    let sans = |sans: Value| with(pki.trusted(), json!({"match_typed_subject_alt_names": sans}));
    let dns = |name: &str| json!([{"san_type": "DNS", "matcher": {"exact": name}}]);
    let good = Some(&pki.client);
    let same_name = json!({"auto_sni_san_validation": true});
    let table: Vec<(&str, Value, u16)> = vec![
        ("trusted", client(good, pki.trusted(), json!({})), 200),
        ("untrusted", client(good, theirs, json!({})), 503),
        ("without", client(None, pki.trusted(), json!({})), 503),
        ("uri", client(good, sans(uri(&json!({"exact": "spiffe://mesh/server"}))), json!({})), 200),
        ("other-uri", client(good, sans(uri(&json!({"exact": "spiffe://mesh/x"}))), json!({})), 503),
        ("dns", client(good, sans(dns("server.test")), json!({})), 200),
        ("other-dns", client(good, sans(dns("x.test")), json!({})), 503),
        ("same-name", client(good, pki.trusted(), same_name.clone()), 200),
        ("another-name", client(good, pki.trusted(), with(same_name, json!({"sni": "x.test"}))), 503),
        ("unverified", client(good, json!({}), json!({})), 200),
    ];
    let peers = Peer::all();
    let servers: Vec<DataPlane> =
        peers.iter().map(|peer| DataPlane::start(*peer, &server_bootstrap).expect("the server starts")).collect();
    for server in &servers {
        let address = server.listener("mutual").expect("the listener");
        for peer in &peers {
            let mut bootstrap = Bootstrap::new();
            for (name, context, _) in &table {
                let (listener, cluster) = towards(name, address, context);
                bootstrap = bootstrap.listener(listener).cluster(cluster);
            }
            let (listener, cluster) = towards("h2", address, &client(good, pki.trusted(), json!({})));
            let bootstrap = bootstrap.listener(listener).cluster(http2(cluster));
            let plane = DataPlane::start(*peer, &bootstrap).expect("the client starts");
            for (name, _, status) in table.iter().map(|(a, b, c)| (*a, b, *c)).chain([("h2", &Value::Null, 200)]) {
                let response = Request::get("/").send(plane.listener(name).expect("the listener"));
                let response = response.expect("an answer");
                let what = format!("{} to {}: {name}", peer.name(), server.peer.name());
                assert_eq!(response.status, status, "{what}: {}", response.text());
                if status == 200 {
                    let told = response.seen("x-forwarded-client-cert").unwrap_or_default();
                    assert!(told.contains("URI=spiffe://mesh/client"), "{what}: {told}");
                }
            }
        }
    }
}

#[test]
fn secrets_rotate_under_load_and_nobody_notices() {
    let pki = Pki::new();
    let origin = Origin::start("o").expect("origin");
    let folder = tempfile::tempdir().expect("a folder");
    let (leaf, bundle) = (folder.path().join("leaf.yaml"), folder.path().join("bundle.yaml"));
    let bundle_of = |pems: &str| json!({"name": "ca", "validation_context": {"trusted_ca": {"inline_string": pems}}});
    write_secrets(&leaf, "1", &[pki.server.secret("leaf")]).expect("written");
    write_secrets(&bundle, "1", &[bundle_of(&pki.ours.pem())]).expect("written");
    let common = json!({
        "tls_certificate_sds_secret_configs": [from_file("leaf", &leaf)],
        "validation_context_sds_secret_config": from_file("ca", &bundle),
    });
    let server = json!({"require_client_certificate": true, "common_tls_context": common});
    // In one process, twice: clients in cleartext reach the origin through our own TLS.
    let port = outrigger_e2e::ports::free_port().expect("a port");
    let inner = SocketAddr::from(([127, 0, 0, 1], port));
    let mut secured = secure("inner", &server);
    secured["address"] = outrigger_e2e::bootstrap::address(inner);
    let client = json!({"sni": "server.test", "common_tls_context": common});
    let (outer, mut cluster_of) = towards("outer", inner, &client);
    // Every request shakes hands anew.
    cluster_of["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "common_http_protocol_options": {"max_requests_per_connection": 1},
        "explicit_http_config": {"http_protocol_options": {}},
    }});
    let bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .cluster(cluster_of)
        .listener(secured)
        .listener(outer);
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let address = plane.listener("outer").expect("the listener");
    let known = Client::named("server.test").with(&pki.client);
    let mut kept = known.connect(inner).expect("a connection");
    kept.exchange(&Request::get("/")).expect("an answer");
    let running = Load::new(address, 200.0, Request::get("/load")).start().expect("load");
    shows(inner, &known, &pki.server).expect("the new certificate");
    for round in 2..6 {
        let renewed = pki.ours.issue("server.test", "spiffe://mesh/server").expect("a leaf");
        write_secrets(&leaf, &round.to_string(), &[renewed.secret("leaf")]).expect("written");
        shows(inner, &known, &renewed).expect("the new certificate");
    }
    // The authority too: first both are trusted, then the leaf is of the new one, then the old one goes.
    write_secrets(&bundle, "2", &[bundle_of(&(pki.ours.pem() + &pki.theirs.pem()))]).expect("written");
    let moved = pki.theirs.issue("client.test", "spiffe://mesh/moved").expect("a leaf");
    let as_moved = Client::named("server.test").with(&moved);
    let lets_in = |client: &Client, expected: bool| {
        eventually(DEADLINE, || {
            let answer = client.send(inner, &Request::get("/"));
            if answer.is_ok() == expected { Ok(()) } else { Err(format!("{answer:?}")) }
        })
        .expect("the bundle counts");
    };
    lets_in(&as_moved, true);
    let renewed = pki.theirs.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    write_secrets(&leaf, "9", &[renewed.secret("leaf")]).expect("written");
    shows(inner, &as_moved, &renewed).expect("the new certificate");
    write_secrets(&bundle, "3", &[bundle_of(&pki.theirs.pem())]).expect("written");
    lets_in(&known, false);
    // A bad one is told, and changes nothing.
    let mut broken = pki.theirs.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    broken.key.clone_from(&pki.client.key);
    write_secrets(&leaf, "10", &[broken.secret("leaf")]).expect("written");
    eventually(DEADLINE, || {
        let rejected = plane.admin.stat("sds.update_rejected").map_err(|error| format!("{error:#}"))?;
        if rejected > 0 { Ok(()) } else { Err("not rejected yet".to_owned()) }
    })
    .expect("the mismatch is noticed");
    shows(inner, &as_moved, &renewed).expect("the new certificate");
    kept.exchange(&Request::get("/")).expect("a connection outlives its certificates");
    running.stop().expect("the load").must_be_clean().expect("nobody notices");

    // Nobody is told a key: not by the dump, not by the log.
    let dump = plane.admin.get("/config_dump").expect("a dump").text();
    assert!(dump.contains("SecretsConfigDump") && dump.contains("is not the key of the certificate"), "{dump}");
    let bodies =
        [&renewed.key, &pki.client.key, &pki.server.key].map(|key| key.lines().nth(1).expect("a line").to_owned());
    for body in bodies {
        assert!(!dump.contains(&body) && !plane.process.log().contains(&body));
    }
    let page = plane.admin.json("/certs").expect("a page");
    let shown = page["certificates"].to_string();
    assert!(shown.contains("spiffe://mesh/server") && shown.contains("days_until_expiration"), "{shown}");
    let stats = plane.admin.get("/stats/prometheus").expect("stats").text();
    assert!(stats.contains("certificate_expiration_unix_time_seconds{certificate_name=\"leaf\"}"), "{stats}");
}

#[test]
fn certificate_files_of_a_secret_are_watched() {
    let pki = Pki::new();
    let origin = Origin::start("o").expect("origin");
    let folder = tempfile::tempdir().expect("a folder");
    let secrets = folder.path().join("secrets.yaml");
    let file = |name: &str| json!({"filename": folder.path().join(name)});
    pki.server.write(folder.path(), "leaf").expect("written");
    write_secrets(
        &secrets,
        "1",
        &[
            json!({"name": "leaf", "tls_certificate": {"certificate_chain": file("leaf.crt"), "private_key": file("leaf.key")}}),
        ],
    )
    .expect("written");
    let context = json!({"common_tls_context": {"tls_certificate_sds_secret_configs": [from_file("leaf", &secrets)]}});
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(secure("main", &context));
    for peer in Peer::all() {
        pki.server.write(folder.path(), "leaf").expect("written");
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("the listener");
        shows(address, &Client::default(), &pki.server).expect("the new certificate");
        let renewed = pki.ours.issue("server.test", "spiffe://mesh/server").expect("a leaf");
        // For a moment key and certificate don't fit.
        renewed.write(folder.path(), "leaf").expect("written");
        shows(address, &Client::default(), &renewed).expect("the new certificate");
    }
}

/// A proxy that ends TLS of clients with a certificate and passes their bytes on.
fn in_front_of(pki: &Pki, server: SocketAddr) -> DataPlane {
    let context = json!({
        "require_client_certificate": true,
        "common_tls_context": {
            "alpn_protocols": ["h2"], "tls_certificates": [pki.server.config()], "validation_context": pki.trusted(),
        },
    });
    let listener = secured(tcp_listener("front", "server"), &context);
    let bootstrap = Bootstrap::new().cluster(cluster("server", &[server])).listener(listener);
    DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy in front starts")
}

#[test]
fn secrets_come_over_streams() {
    let pki = Pki::new();
    let origin = Origin::start("o").expect("origin");
    let cases = [
        ("GRPC", "StreamSecrets", false),
        ("DELTA_GRPC", "DeltaSecrets", false),
        ("ADS", "DeltaAggregatedResources", false),
        ("DELTA_GRPC", "DeltaSecrets", true),
    ];
    for (api, rpc, over_tls) in cases {
        let secrets = SecretServer::start().expect("a server");
        // The server behind TLS, which a proxy ends that passes bytes.
        let front = over_tls.then(|| in_front_of(&pki, secrets.address));
        let server = front.as_ref().map_or(secrets.address, |front| front.listener("front").expect("the listener"));
        let mut xds = http2(cluster("xds", &[server]));
        if over_tls {
            let tls = json!({"tls_certificates": [pki.client.config()], "validation_context": pki.trusted()});
            xds["transport_socket"] = upstream(&json!({"sni": "server.test", "common_tls_context": tls}));
        }
        secrets.set(&pki.server.secret("leaf")).expect("set");
        let source = match api {
            "ADS" => json!({"ads": {}, "resource_api_version": "V3", "initial_fetch_timeout": "0s"}),
            api => json!({"resource_api_version": "V3", "initial_fetch_timeout": "0s", "api_config_source": {
                "api_type": api, "transport_api_version": "V3", "set_node_on_first_message_only": true,
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
            }}),
        };
        let named = |name: &str| json!({"name": name, "sds_config": source});
        let context = json!({
            "require_client_certificate": true,
            "common_tls_context": {
                "tls_certificate_sds_secret_configs": [named("leaf")],
                "validation_context_sds_secret_config": named("ca"),
            },
        });
        let plain = HttpListener::new("plain", &json!([route("/", "o")]));
        let mut bootstrap = Bootstrap::new().node("proxy", "test").cluster(cluster("o", &[origin.address()]));
        if api == "ADS" {
            bootstrap = bootstrap.ads(secrets.address, "DELTA_GRPC").set(
                "dynamic_resources",
                json!({"ads_config": {
                    "api_type": "DELTA_GRPC", "transport_api_version": "V3",
                    "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
                }}),
            );
        }
        let bootstrap = bootstrap.cluster(xds);
        let bootstrap = bootstrap.listener(secure("main", &context)).listener(plain);
        let options = Options { until_ready: false, ..Options::default() };
        let mut plane = DataPlane::start_with(Peer::Outrigger, &bootstrap, &options).expect("the proxy starts");
        // What doesn't need the secret that is missing serves.
        let plain = plane.listener("plain").expect("the listener");
        assert_eq!(Request::get("/").send(plain).expect("an answer").status, 200, "{api}");
        eventually(DEADLINE, || {
            let ready = plane.admin.get("/ready").map_err(|error| format!("{error:#}"))?.text();
            if ready.contains("Secret ca") && ready.contains("missing for Listener main") { Ok(()) } else { Err(ready) }
        })
        .expect("what is missing is named");
        secrets.set(&json!({"name": "ca", "validation_context": pki.trusted()})).expect("set");
        plane.wait_ready().expect("ready");
        let address = plane.listener("main").expect("the listener");
        let known = Client::named("server.test").with(&pki.client);
        shows(address, &known, &pki.server).expect("the new certificate");
        let renewed = pki.ours.issue("server.test", "spiffe://mesh/server").expect("a leaf");
        secrets.set(&renewed.secret("leaf")).expect("set");
        shows(address, &known, &renewed).expect("the new certificate");
        let requests = secrets.requests();
        assert!(requests.iter().any(|request| request["rpc"] == rpc), "{api}: {requests:?}");
        assert!(requests.iter().all(|request| request["request"].get("error_detail").is_none()), "{api}: {requests:?}");
    }
}

#[test]
fn endpoints_choose_their_transport() {
    let pki = Pki::new();
    let (clear, behind) = (Origin::start("clear").expect("origin"), Origin::start("behind").expect("origin"));
    let server = json!({"common_tls_context": {"tls_certificates": [pki.server.config()]}});
    let inner = Bootstrap::new().cluster(cluster("o", &[behind.address()])).listener(secure("inner", &server));
    let inner = DataPlane::start(Peer::Outrigger, &inner).expect("the server starts");
    let at = inner.listener("inner").expect("the listener");
    let mut both = cluster("both", &[clear.address(), at]);
    both["load_assignment"]["endpoints"][0]["lb_endpoints"][1]["metadata"] =
        json!({"filter_metadata": {"envoy.transport_socket_match": {"mode": "tls", "more": 1}}});
    let context = json!({"sni": "server.test", "common_tls_context": {"validation_context": pki.trusted()}});
    both["transport_socket_matches"] = json!([
        {"name": "none", "match": {"mode": "tls", "more": 2}, "transport_socket": {"name": "envoy.transport_sockets.raw_buffer", "typed_config": {"@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}},
        {"name": "tls", "match": {"mode": "tls"}, "transport_socket": upstream(&context)},
    ]);
    let bootstrap = Bootstrap::new().cluster(both).listener(HttpListener::new("main", &json!([route("/", "both")])));
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("the listener");
        let mut names: Vec<String> = (0..6)
            .map(|_| {
                let response = Request::get("/").send(address).expect("an answer");
                response.header("x-origin-name").unwrap_or_default().to_owned()
            })
            .collect();
        names.sort();
        names.dedup();
        assert_eq!(names, ["behind", "clear"], "{}", peer.name());
    }
}

#[test]
fn one_port_is_permissive() {
    let pki = Pki::new();
    let origin = Origin::start("o").expect("origin");
    let context = json!({
        "require_client_certificate": true,
        "common_tls_context": {"tls_certificates": [pki.server.config()], "validation_context": pki.trusted()},
    });
    let mut listener = secure("main", &context);
    let mut plain = listener["filter_chains"][0].clone();
    plain.as_object_mut().expect("a chain").remove("transport_socket");
    plain["filter_chain_match"] = json!({"transport_protocol": "raw_buffer"});
    listener["filter_chains"][0]["filter_chain_match"] = json!({"transport_protocol": "tls"});
    listener["filter_chains"].as_array_mut().expect("chains").push(plain);
    listener["listener_filters"] = json!([{"name": "tls", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
    }}]);
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("the listener");
        let clear = Request::get("/").with("x-forwarded-client-cert", "By=me").send(address).expect("an answer");
        assert_eq!((clear.status, clear.seen("x-forwarded-client-cert")), (200, None), "{}", peer.name());
        let known = Client::named("server.test").with(&pki.client);
        let secret = known.send(address, &Request::get("/")).expect("an answer");
        assert!(secret.seen("x-forwarded-client-cert").is_some_and(|told| told.contains("URI=spiffe://mesh/client")));
        assert!(Client::named("server.test").send(address, &Request::get("/")).is_err(), "{}", peer.name());
    }
}

#[test]
fn servers_are_told_the_name_of_the_request() {
    let pki = Pki::new();
    let origin = Origin::start("o").expect("origin");
    let named = pki.ours.issue("named.test", "spiffe://mesh/named").expect("a leaf");
    let context = json!({"common_tls_context": {"tls_certificates": [pki.server.config(), named.config()]}});
    let inner = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(secure("inner", &context));
    let inner = DataPlane::start(Peer::Outrigger, &inner).expect("the server starts");
    let client = json!({"sni": "other.test", "common_tls_context": {"validation_context": pki.trusted()}});
    let (outer, mut told) = towards("outer", inner.listener("inner").expect("the listener"), &client);
    told["typed_extension_protocol_options"] = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
        "explicit_http_config": {"http_protocol_options": {}},
    }});
    let bootstrap = Bootstrap::new().cluster(told).listener(outer);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("outer").expect("the listener");
        // A connection that was verified for one name serves no other.
        for (host, status) in
            [("server.test", 200), ("x.test", 503), ("named.test", 200), ("named.test:80", 200), ("Server.test", 200)]
        {
            let response = Request::get("/").host(host).send(address).expect("an answer");
            assert_eq!(response.status, status, "{}: {host}: {}", peer.name(), response.text());
        }
    }
}
