//! Servers that a proxy asks for its own configuration: they are told whom it wants, and must be that one, where their
//! cluster says so; as with Envoy.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener, with};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::tls::{Authority, Client, SecretServer, downstream, shows, upstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Origin};
use serde_json::{Value, json};

#[test]
fn servers_of_secrets_are_known_by_their_name() {
    let authority = Authority::new("mesh").expect("an authority");
    let leaf = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let of_server = authority.issue("secrets.test", "spiffe://mesh/secrets").expect("a leaf");
    let origin = Origin::start("o").expect("an origin");
    for peer in Peer::all() {
        let secrets = SecretServer::start().expect("a server");
        secrets.set(&leaf.secret("leaf")).expect("set");
        let mut front = tcp_listener("front", "to");
        front["stat_prefix"] = "front".into();
        front["filter_chains"][0]["transport_socket"] = downstream(&json!({"common_tls_context": {
            "tls_certificates": [of_server.config()], "alpn_protocols": ["h2"],
        }}));
        let front = Bootstrap::new().cluster(cluster("to", &[secrets.address])).listener(front);
        let front = DataPlane::start(Peer::Outrigger, &front).expect("the front starts");
        // Without a name the cluster's is taken.
        for (name, serves) in [("secrets.test", true), ("SECRETS.test:443", true), ("other.test", false), ("", false)] {
            let options = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
            let mut xds = with(
                cluster("xds", &[front.listener("front").expect("its listener")]),
                json!({"typed_extension_protocol_options": {options: {
                    "@type": format!("type.googleapis.com/{options}"),
                    "upstream_http_protocol_options": {"auto_sni": true, "auto_san_validation": true},
                    "explicit_http_config": {"http2_protocol_options": {}},
                }}}),
            );
            xds["transport_socket"] = upstream(&json!({"common_tls_context": {
                "validation_context": {"trusted_ca": {"inline_string": authority.pem()}},
            }}));
            let source = json!({"resource_api_version": "V3", "initial_fetch_timeout": "0s", "api_config_source": {
                "api_type": "GRPC", "transport_api_version": "V3",
                "grpc_services": [{"envoy_grpc": {"cluster_name": "xds", "authority": name}}],
            }});
            let mut listener: Value = HttpListener::new("main", &json!([route("/", "o")])).into();
            listener["filter_chains"][0]["transport_socket"] = downstream(&json!({"common_tls_context": {
                "tls_certificate_sds_secret_configs": [{"name": "leaf", "sds_config": source}],
            }}));
            let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).cluster(xds).listener(listener);
            let (refused, asked) = ("listener.front.ssl.connection_error", secrets.requests().len());
            let before = front.admin.stat(refused).unwrap_or_default();
            let options = Options { until_ready: false, ..Options::default() };
            let mut plane = DataPlane::start_with(peer, &bootstrap, &options).expect("the proxy starts");
            if serves {
                plane.wait_ready().expect("ready");
                let address = plane.listener("main").expect("its listener");
                shows(address, &Client::named("server.test"), &leaf).expect("the secret");
            } else {
                // It tries again, and gets no further.
                front.admin.stat_reaches(refused, before + 2, DEADLINE).expect("it is refused");
                assert_eq!(secrets.requests().len(), asked, "{peer:?} {name}");
            }
        }
    }
}
