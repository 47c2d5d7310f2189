//! `drop_overloads`: the control plane has a share of requests refused.

use outrigger_e2e::data_plane::Peer;
use outrigger_e2e::{Connection, Origin, Request};
use serde_json::{Value, json};

use super::{endpoint, of, share, spread, start};

fn dropping(origin: &Origin, percent: u32) -> Value {
    let mut cluster = of(json!([{"lb_endpoints": [endpoint(origin.address(), json!({}))]}]), json!({}));
    cluster["load_assignment"]["policy"] =
        json!({"drop_overloads": [{"category": "throttle", "drop_percentage": {"numerator": percent}}]});
    cluster
}

#[test]
fn a_share_of_requests_is_refused() {
    let origin = Origin::start("a").expect("an origin");
    for peer in Peer::all() {
        let (plane, main) = start(peer, dropping(&origin, 100));
        let refused = Request::get("/").with("x-test", "drop").send(main).expect("an answer");
        assert_eq!((refused.status, refused.text().as_str()), (503, "unconditional drop overload"), "{peer:?}");
        assert_eq!(refused.header("x-envoy-unconditional-drop-overload"), Some("true"), "{peer:?}");
        assert_eq!(plane.access_record("drop").expect("its record")["flags"], "UDO", "{peer:?}");
        assert_eq!(plane.admin.stat("cluster.c.upstream_rq_503").expect("stats"), 1, "{peer:?}");
        let (_plane, main) = start(peer, dropping(&origin, 50));
        let counts = spread(main, 400);
        let (served, dropped) = (share(&counts, "a"), share(&counts, "503"));
        let mut connection = Connection::open(main).expect("a connection");
        let refused = (0..100).map(|_| connection.exchange(&Request::get("/")).expect("an answer"));
        let refused = refused.filter(|answer| answer.status == 503).last().expect("one of a hundred");
        assert_eq!(
            (refused.text().as_str(), refused.header("x-envoy-drop-overload")),
            ("drop overload", Some("true")),
            "{peer:?}"
        );
        assert!(served + dropped == 400 && (120..=280).contains(&dropped), "{peer:?}: {counts:?}");
    }
}
