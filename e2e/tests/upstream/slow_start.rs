//! New endpoints that get less at first (`slow_start_config`).

use std::net::SocketAddr;

use outrigger_e2e::Origin;
use outrigger_e2e::bootstrap::with;
use outrigger_e2e::data_plane::Peer;
use outrigger_e2e::dns::DnsServer;
use outrigger_e2e::wait::{DEADLINE, eventually, until};
use serde_json::json;

use super::{ip, resolved, settles, share, spread, start};

#[test]
fn a_new_endpoint_starts_slowly() {
    // Until nine tenths of the window are over its weight is the least one: the curve is steep.
    const WINDOW_SECONDS: u64 = 10;
    let config = json!({
        "slow_start_window": format!("{WINDOW_SECONDS}s"), "aggression": {"default_value": 0.05, "runtime_key": "x"},
        "min_weight_percent": {"value": 5},
    });
    let a = Origin::start("a").expect("an origin");
    let b = Origin::bind("b", SocketAddr::new(ip(2), a.address().port()), true).expect("another one");
    let planes: Vec<_> = Peer::all()
        .into_iter()
        .map(|peer| {
            let server = DnsServer::start().expect("a server");
            server.set("svc.test", &[ip(1)]);
            let cluster = resolved("STRICT_DNS", b.address().port(), server.address());
            let slow = json!({"round_robin_lb_config": {"slow_start_config": config}});
            let (plane, main) = start(peer, with(cluster, slow));
            settles(main, &["a"]);
            (peer, server, plane, main)
        })
        .collect();
    for (peer, server, plane, main) in &planes {
        // The first one has grown up.
        let known = plane.admin.stat("server.uptime").expect("stats");
        until(DEADLINE, "the window is over", || {
            plane.admin.stat("server.uptime").is_ok_and(|uptime| uptime > known + WINDOW_SECONDS + 1)
        })
        .expect("time passes");
        server.set("svc.test", &[ip(1), ip(2)]);
        until(DEADLINE, "it is known", || plane.admin.stat("cluster.c.membership_total").is_ok_and(|total| total == 2))
            .expect("resolved");
        let counts = spread(*main, 200);
        let share_of_b = share(&counts, "b");
        assert!((1..40).contains(&share_of_b), "{peer:?}: a twentieth of the other's weight: {counts:?}");
        // And it grows up.
        let equal = eventually(DEADLINE, || {
            let counts = spread(*main, 100);
            if (45..=55).contains(&share(&counts, "b")) { Ok(()) } else { Err(format!("{counts:?}")) }
        });
        equal.unwrap_or_else(|error| panic!("{peer:?}: {error}"));
    }
}
