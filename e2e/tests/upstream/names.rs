//! How often name servers are asked, and in how many tries.

use std::net::UdpSocket;

use outrigger_e2e::bootstrap::{HttpListener, route, with};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::dns::DnsServer;
use outrigger_e2e::wait::{DEADLINE, until};
use outrigger_e2e::{Bootstrap, Origin};
use serde_json::json;

use super::{ip, resolved};

#[test]
fn a_name_server_is_asked_so_often() {
    // Takes questions and never answers.
    let silent = UdpSocket::bind("127.0.0.1:0").expect("a socket");
    let at = silent.local_addr().expect("its address");
    for peer in Peer::all() {
        let patient = |name: &str, tries: u32| {
            let patience = json!({
                "name": name, "load_assignment": {"cluster_name": name},
                "dns_failure_refresh_rate": {"base_interval": "3600s", "max_interval": "3600s"},
                "typed_dns_resolver_config": {"typed_config": {"query_timeout_seconds": 1, "query_tries": tries}},
            });
            with(resolved("STRICT_DNS", 80, at), patience)
        };
        let bootstrap = Bootstrap::new()
            .cluster(patient("long", 4))
            .cluster(patient("short", 1))
            .listener(HttpListener::new("main", &json!([route("/", "short")])));
        // Envoy waits for both.
        let options = Options { until_ready: false, ..Options::default() };
        let plane = DataPlane::start_with(peer, &bootstrap, &options).expect("the proxy starts");
        let failures = |name: &str| plane.admin.stat(&format!("cluster.{name}.update_failure")).unwrap_or_default();
        until(DEADLINE, "one gives up", || failures("short") == 1).expect("it gives up");
        assert_eq!(failures("long"), 0, "{peer:?}: of the same patience at each try");
        until(DEADLINE, "the other one, too", || failures("long") == 1).expect("it gives up");
    }
}

/// Where one name is asked for at once and the other one after a random part of a day, the first is asked for more often.
#[test]
fn questions_are_spread() {
    let origin = Origin::start("a").expect("an origin");
    for peer in Peer::all() {
        let [steady, spread] = [(); 2].map(|()| DnsServer::start().expect("a server"));
        let cluster = |server: &DnsServer, name: &str, jitter: &str| {
            server.set("svc.test", &[ip(1)]);
            let more = json!({"name": name, "load_assignment": {"cluster_name": name}, "dns_jitter": jitter});
            with(resolved("STRICT_DNS", origin.address().port(), server.address()), more)
        };
        let bootstrap = Bootstrap::new()
            .cluster(cluster(&steady, "steady", "0s"))
            .cluster(cluster(&spread, "spread", "86400s"))
            .listener(HttpListener::new("main", &json!([route("/", "steady")])));
        let _plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        until(DEADLINE, "one is asked again and again", || steady.questions() > 20).expect("asked");
        assert!(spread.questions() <= 2, "{peer:?}: {}", spread.questions());
    }
}
