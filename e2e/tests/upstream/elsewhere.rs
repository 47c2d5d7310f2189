//! What endpoints say of their health checks.

use std::net::SocketAddr;

use outrigger_e2e::Origin;
use outrigger_e2e::bootstrap::with;
use outrigger_e2e::data_plane::Peer;
use serde_json::{Value, json};

use super::{becomes, endpoint, of, settles, start};

/// A cluster of one endpoint with health checks, which say more.
fn checked(endpoint: Value, more: Value) -> Value {
    let check = json!({
        "timeout": "1s", "interval": "0.05s", "unhealthy_threshold": 2, "healthy_threshold": 1,
        "no_traffic_interval": "0.05s", "http_health_check": {"path": "/healthz"},
    });
    of(json!([{"lb_endpoints": [endpoint]}]), json!({"health_checks": [with(check, more)]}))
}

fn config(at: SocketAddr, fields: Value) -> Value {
    endpoint(at, json!({"endpoint": {"health_check_config": fields}}))
}

#[test]
fn an_endpoint_may_go_unchecked() {
    for peer in Peer::all() {
        let origin = Origin::start("a").expect("an origin");
        origin.call_in_sick(true);
        let unchecked = config(origin.address(), json!({"disable_active_health_check": true}));
        let (plane, main) = start(peer, checked(unchecked, json!({})));
        becomes(&plane, origin.address(), "healthy");
        settles(main, &["a"]);
        assert!(origin.seen_at("/healthz").is_empty(), "{peer:?}");
    }
}

#[test]
fn checks_have_hosts_of_their_own() {
    for peer in Peer::all() {
        let origin = Origin::start("a").expect("an origin");
        let named = config(origin.address(), json!({"hostname": "checked.test"}));
        let (plane, _main) = start(peer, checked(named, json!({})));
        becomes(&plane, origin.address(), "healthy");
        let seen = origin.seen_at("/healthz").first().cloned().expect("a check");
        let host = seen.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case("host"));
        assert_eq!(host.map(|(_, value)| value.as_str()), Some("checked.test"), "{peer:?}");
    }
}
