//! Upstreams on Unix sockets: requests, bytes and health checks; and secrets from an agent's socket, as SPIRE and
//! istio-agent serve them. Real Envoy is the referee.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, address, cluster, http2, route, tcp_listener, with};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::tls::{Authority, Client, SecretServer, der, downstream, upstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Load, Origin, Request, eventually};
use serde_json::{Value, json};

/// A cluster of one endpoint on a Unix socket.
fn at_pipe(name: &str, path: &str, more: Value) -> Value {
    let endpoint = json!({"endpoint": {"address": {"pipe": {"path": path}}}});
    let assignment = json!({"cluster_name": name, "endpoints": [{"lb_endpoints": [endpoint]}]});
    with(json!({"name": name, "type": "STATIC", "connect_timeout": "2s", "load_assignment": assignment}), more)
}

#[test]
fn requests_and_bytes_go_to_unix_sockets() {
    let origin = Origin::start("o").expect("an origin");
    // Behind the sockets the proxy meets itself.
    let behind = |name: &str, path: &str| {
        let mut listener: Value = HttpListener::new(name, &json!([route("/", "o")])).into();
        listener["address"] = json!({"pipe": {"path": path}});
        listener
    };
    for peer in Peer::all() {
        let hidden = format!("@outrigger-e2e-{}-{}", std::process::id(), peer.name());
        let checked = json!({"health_checks": [{
            "timeout": "2s", "interval": "0.1s", "no_traffic_interval": "0.1s", "healthy_threshold": 1, "unhealthy_threshold": 1,
            "http_health_check": {"path": "/healthy"},
        }]});
        let routes = json!([route("/hidden", "hidden"), route("/nobody", "nobody"), route("/", "file")]);
        let told = json!({"route_config": {"response_headers_to_add": [
            {"header": {"key": "x-upstream", "value": "%UPSTREAM_REMOTE_ADDRESS%|%UPSTREAM_REMOTE_PORT%"}},
        ]}});
        let bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .cluster(at_pipe("file", "@DIR@/file.sock", checked))
            .cluster(http2(at_pipe("hidden", &hidden, json!({}))))
            .cluster(at_pipe("nobody", "@DIR@/nobody.sock", json!({})))
            .listener(behind("file", "@DIR@/file.sock"))
            .listener(behind("hidden", &hidden))
            .listener(HttpListener::new("main", &routes).manager(told))
            .listener(tcp_listener("bytes", "file"));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let main = plane.listener("main").expect("the listener");
        let get = |path: &str| Request::get(path).send(main).expect("an answer");
        let file = plane.dir().join("file.sock").to_string_lossy().into_owned();
        let says = |line: &str| {
            let seen = eventually(DEADLINE, || {
                let page = plane.admin.get("/clusters").map_err(|error| format!("{error:#}"))?.text();
                if page.lines().any(|shown| shown == line) { Ok(()) } else { Err(page) }
            });
            seen.unwrap_or_else(|page| panic!("{}: no {line} in {page}", peer.name()));
        };
        says(&format!("file::{file}::health_flags::healthy"));
        for (path, at) in [("/file", file.as_str()), ("/hidden", &hidden)] {
            let answer = get(path);
            assert_eq!(answer.status, 200, "{}: {path}", peer.name());
            assert_eq!(answer.header("x-upstream"), Some(format!("{at}|").as_str()), "{}", peer.name());
        }
        assert_eq!(get("/nobody").status, 503, "{}", peer.name());
        let bytes = plane.listener("bytes").expect("the listener");
        assert_eq!(Request::get("/").send(bytes).expect("an answer").status, 200, "{}", peer.name());
        says(&format!("hidden::{hidden}::cx_total::1"));
    }
}

#[test]
fn secrets_from_a_unix_socket_rotate_under_load() {
    let authority = Authority::new("ours").expect("an authority");
    let issue = || authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let origin = Origin::start("o").expect("an origin");
    for peer in Peer::all() {
        for (api, rpc) in
            [("GRPC", "StreamSecrets"), ("DELTA_GRPC", "DeltaSecrets"), ("ADS", "DeltaAggregatedResources")]
        {
            let secrets = SecretServer::start().expect("a server");
            let first = issue();
            secrets.set(&first.secret("leaf")).expect("set");
            let source =
                json!({"grpc_services": [{"envoy_grpc": {"cluster_name": "agent"}}], "transport_api_version": "V3"});
            let named = match api {
                "ADS" => json!({"ads": {}, "resource_api_version": "V3"}),
                api => {
                    json!({"resource_api_version": "V3", "api_config_source": with(source.clone(), json!({"api_type": api}))})
                }
            };
            let server = json!({"common_tls_context": {
                "tls_certificate_sds_secret_configs": [{"name": "leaf", "sds_config": named}],
            }});
            // Clients in cleartext reach the origin through the proxy's own TLS, every request by a handshake of its own.
            let port = outrigger_e2e::ports::free_port().expect("a port");
            let inner = SocketAddr::from(([127, 0, 0, 1], port));
            let mut secured: Value = HttpListener::new("inner", &json!([route("/", "o")])).into();
            secured["address"] = address(inner);
            secured["filter_chains"][0]["transport_socket"] = downstream(&server);
            let trusted = json!({"validation_context": {"trusted_ca": {"inline_string": authority.pem()}}});
            let mut towards = cluster("inner", &[inner]);
            towards["transport_socket"] = upstream(&json!({"sni": "server.test", "common_tls_context": trusted}));
            towards["max_requests_per_connection"] = json!(1);
            let mut bootstrap = Bootstrap::new()
                .cluster(cluster("o", &[origin.address()]))
                .cluster(towards)
                .cluster(http2(at_pipe("agent", &secrets.socket.to_string_lossy(), json!({}))))
                .listener(secured)
                .listener(HttpListener::new("outer", &json!([route("/", "inner")])));
            if api == "ADS" {
                bootstrap = bootstrap
                    .set("dynamic_resources", json!({"ads_config": with(source, json!({"api_type": "DELTA_GRPC"}))}));
            }
            let plane = DataPlane::start_with(peer, &bootstrap, &Options::default()).expect("the proxy starts");
            let client = Client::named("server.test");
            let shows = |leaf: &outrigger_e2e::tls::Leaf| {
                let wanted = der(leaf).expect("DER");
                eventually(DEADLINE, || {
                    let shown = client.connect(inner).and_then(|connection| connection.server_leaf());
                    if shown.as_ref().is_ok_and(|shown| *shown == wanted) { Ok(()) } else { Err(format!("{shown:?}")) }
                })
                .expect("the certificate is shown");
            };
            shows(&first);
            let outer = plane.listener("outer").expect("the listener");
            let running = Load::new(outer, 100.0, Request::get("/load")).start().expect("load");
            for _ in 0..3 {
                let renewed = issue();
                secrets.set(&renewed.secret("leaf")).expect("set");
                shows(&renewed);
            }
            let report = running.stop().expect("the load");
            report.must_be_clean().unwrap_or_else(|error| panic!("{} {api}: {error:#}", peer.name()));
            let requests = secrets.requests();
            assert!(requests.iter().any(|request| request["rpc"] == rpc), "{} {api}: {requests:?}", peer.name());
        }
    }
}
