//! Circuit breakers through the binary: who is too many is refused at once, and room is shown.

use outrigger_e2e::bootstrap::{HttpListener, http2, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::wait::{DEADLINE, eventually, until};
use outrigger_e2e::{Bootstrap, Connection, Origin, Request};
use serde_json::{Value, json};

use super::{endpoint, of};

/// A cluster of one endpoint with these bounds.
fn bounded(origin: &Origin, default: Value, high: Value) -> Value {
    let mut high = high;
    high["priority"] = json!("HIGH");
    let localities = json!([{"lb_endpoints": [endpoint(origin.address(), json!({}))]}]);
    of(localities, json!({"circuit_breakers": {"thresholds": [default, high]}}))
}

/// A proxy with a route of each priority.
fn plane(peer: Peer, cluster: Value) -> DataPlane {
    let high = with(route("/high", "c"), json!({"route": {"priority": "HIGH"}}));
    let listener = HttpListener::new("main", &json!([high, route("/", "c")]));
    DataPlane::start(peer, &Bootstrap::new().cluster(cluster).listener(listener)).expect("the proxy starts")
}

/// A request that the origin doesn't answer before the gate opens.
fn held(plane: &DataPlane, origin: &Origin, path: &str) -> Connection {
    let mut client = Connection::open(plane.listener("main").expect("its listener")).expect("a connection");
    client.send(Request::get(path).origin("gate=open").bytes()).expect("sends");
    client.expect_answer_to("GET");
    until(DEADLINE, "the origin has it", || !origin.seen_at(path).is_empty()).expect("held");
    client
}

/// A request that is refused.
fn refused(plane: &DataPlane, path: &str, test: &str) {
    let name = plane.peer.name();
    let request = Request::get(path).with("x-test", test);
    let response = request.send(plane.listener("main").expect("its listener")).expect("an answer");
    let told = (response.status, response.header("x-envoy-overloaded").unwrap_or_default());
    assert_eq!(told, (503, "true"), "{name}: {test}");
    assert_eq!(
        response.text(),
        "upstream connect error or disconnect/reset before headers. reset reason: overflow",
        "{name}: {test}"
    );
    assert_eq!(plane.access_record(test).expect("its record")["flags"], "UO", "{name}: {test}");
}

fn gauge(plane: &DataPlane, name: &str, value: u64) {
    let what = format!("{}: {name} is {value}", plane.peer.name());
    let stat = || plane.admin.stat(&format!("cluster.c.circuit_breakers.{name}")).is_ok_and(|found| found == value);
    until(DEADLINE, &what, stat).expect("the gauge");
}

fn serves(plane: &DataPlane, path: &str) {
    let address = plane.listener("main").expect("its listener");
    eventually(DEADLINE, || match Request::get(path).send(address) {
        Ok(response) if response.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("there is room again");
}

#[test]
fn requests_beyond_the_maximum_are_refused() {
    for peer in Peer::all() {
        for protocol in ["h1", "h2"] {
            let origin = Origin::start("a").expect("an origin");
            let default = json!({"max_requests": 1, "track_remaining": true});
            let cluster = bounded(&origin, default, json!({"max_requests": 2, "track_remaining": true}));
            let plane = plane(peer, if protocol == "h2" { http2(cluster) } else { cluster });
            // Ours shows them once somebody has used the cluster.
            serves(&plane, "/");
            gauge(&plane, "default.remaining_rq", 1);
            gauge(&plane, "high.remaining_rq", 2);
            let mut first = held(&plane, &origin, "/held");
            refused(&plane, "/", &format!("default {protocol}"));
            gauge(&plane, "default.remaining_rq", 0);
            gauge(&plane, "default.rq_open", 1);
            // The other priority has its own bound.
            let mut others = [held(&plane, &origin, "/high/a"), held(&plane, &origin, "/high/b")];
            refused(&plane, "/high", &format!("high {protocol}"));
            gauge(&plane, "high.rq_open", 1);
            gauge(&plane, "high.remaining_rq", 0);
            let overflow = plane.admin.stat("cluster.c.upstream_rq_active_overflow").expect("statistics");
            assert_eq!(overflow, 2, "{peer:?} {protocol}");
            origin.open_gate("open");
            assert_eq!(first.response().expect("its answer").status, 200, "{peer:?} {protocol}");
            for other in &mut others {
                assert_eq!(other.response().expect("its answer").status, 200, "{peer:?} {protocol}");
            }
            gauge(&plane, "default.remaining_rq", 1);
            gauge(&plane, "high.remaining_rq", 2);
            gauge(&plane, "default.rq_open", 0);
            serves(&plane, "/");
            serves(&plane, "/high");
        }
    }
}

#[test]
fn requests_that_wait_are_bounded() {
    for peer in Peer::all() {
        let origin = Origin::start("a").expect("an origin");
        let default = json!({"max_connections": 1, "max_pending_requests": 1, "track_remaining": true});
        let plane = plane(peer, bounded(&origin, default, json!({})));
        let mut first = held(&plane, &origin, "/held");
        gauge(&plane, "default.cx_open", 1);
        let address = plane.listener("main").expect("its listener");
        let mut second = Connection::open(address).expect("a connection");
        second.send(Request::get("/waits").bytes()).expect("sends");
        second.expect_answer_to("GET");
        gauge(&plane, "default.rq_pending_open", 1);
        gauge(&plane, "default.remaining_pending", 0);
        refused(&plane, "/", "pending");
        assert!(origin.seen_at("/waits").is_empty(), "{peer:?}");
        origin.open_gate("open");
        assert_eq!(first.response().expect("its answer").status, 200, "{peer:?}");
        assert_eq!(second.response().expect("its answer").status, 200, "{peer:?}");
        gauge(&plane, "default.rq_pending_open", 0);
        serves(&plane, "/");
    }
}
