//! Requests that wait for a connection: each event wakes who can use it.

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{cluster, with};
use outrigger_e2e::data_plane::Peer;
use outrigger_e2e::wait::{DEADLINE, until};
use outrigger_e2e::{Connection, Origin, Request};
use serde_json::json;

use super::connections::http_options;
use super::start;

fn begin(main: SocketAddr, host: &str, directive: &str, path: &str) -> Connection {
    let mut client = Connection::open(main).expect("a connection");
    client.send(Request::get(path).host(host).origin(directive).bytes()).expect("sends");
    client.expect_answer_to("GET");
    client
}

/// One connection may be there, and is another's; who waits for his turn and who waits for what that one makes must not
/// sleep through what the other is woken by. (Envoy makes another connection for another name, beyond the maximum.)
#[test]
fn a_place_is_for_who_waits_for_it() {
    let origin = Origin::start("a").expect("an origin");
    let limited = json!({"circuit_breakers": {"thresholds": [{"max_connections": 1}]}});
    // A connection serves one server name only.
    let options = http_options(json!({
        "upstream_http_protocol_options": {"auto_sni": true},
        "explicit_http_config": {"http2_protocol_options": {"max_concurrent_streams": 2}},
    }));
    let (plane, main) = start(Peer::Outrigger, with(with(cluster("c", &[origin.address()]), limited), options));
    let seen = |count| until(DEADLINE, "the origin has them", || origin.seen().len() == count).expect("seen");
    let mut clients = vec![begin(main, "a.test", "gate=one", "/1"), begin(main, "a.test", "gate=two", "/2")];
    seen(2);
    for (waiting, path) in ["/3", "/4", "/5"].iter().enumerate() {
        clients.push(begin(main, "b.test", "", path));
        let pending = || plane.admin.stat("cluster.c.upstream_rq_pending_active").unwrap_or_default();
        let wanted = u64::try_from(waiting + 1).unwrap_or_default();
        until(DEADLINE, "it waits", || pending() == wanted).expect("it waits");
    }
    origin.open_gate("one");
    assert_eq!(clients.remove(0).response().expect("an answer").status, 200);
    origin.open_gate("two");
    for (at, client) in clients.iter_mut().enumerate() {
        assert_eq!(client.response().expect("an answer").status, 200, "{at}");
    }
}
