//! How listeners drain by the admin interface: who may still come, and how those who are there are told.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::h2raw::{self, ACK, Frame, RawH2, kind};
use outrigger_e2e::wait::{DEADLINE, eventually};
use outrigger_e2e::{Bootstrap, Connection, Origin, Request};
use serde_json::{Value, json};

/// A proxy with a listener of each direction.
fn start(peer: Peer, origin: &Origin, seconds: &str, strategy: &str) -> DataPlane {
    let listener = |name: &str, direction: &str| {
        let listener: Value =
            HttpListener::new(name, &json!([route("/", "o")])).manager(json!({"drain_timeout": "0.1s"})).into();
        with(listener, json!({"traffic_direction": direction}))
    };
    let bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(listener("in", "INBOUND"))
        .listener(listener("out", "OUTBOUND"));
    let arguments = ["--drain-time-s", seconds, "--drain-strategy", strategy].map(Into::into).to_vec();
    DataPlane::start_with(peer, &bootstrap, &Options { arguments, ..Options::default() }).expect("the proxy starts")
}

fn drain(plane: &DataPlane, how: &str) {
    assert_eq!(plane.admin.post(&format!("/drain_listeners{how}")).expect("an answer").status, 200);
}

fn refuses(address: SocketAddr) {
    eventually(DEADLINE, || match Request::get("/").send(address) {
        Err(_) => Ok(()),
        Ok(response) => Err(format!("still answers {}", response.status)),
    })
    .expect("the listener stops");
}

fn serves(plane: &DataPlane, name: &str) -> outrigger_e2e::Response {
    let response = Request::get("/").send(plane.listener(name).expect("its listener")).expect("an answer");
    assert_eq!(response.status, 200, "{}: {name}", plane.peer.name());
    response
}

#[test]
fn inbound_listeners_drain_alone() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = start(peer, &origin, "600", "gradual");
        let inbound = plane.listener("in").expect("its listener");
        drain(&plane, "?inboundonly");
        refuses(inbound);
        serves(&plane, "out");
        drain(&plane, "");
        refuses(plane.listener("out").expect("its listener"));
    }
}

/// Nobody else takes a client that comes while the others leave: it is served, and asked to leave as well.
#[test]
fn a_graceful_drain_serves_who_still_comes() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = start(peer, &origin, "600", "immediate");
        let mut before = Connection::open(plane.listener("in").expect("its listener")).expect("a connection");
        assert_eq!(before.exchange(&Request::get("/")).expect("an answer").header("connection"), None);
        drain(&plane, "?graceful&inboundonly");
        eventually(DEADLINE, || match serves(&plane, "in").header("connection") {
            Some("close") => Ok(()),
            other => Err(format!("{}: {other:?}", peer.name())),
        })
        .expect("an answer that closes");
        assert_eq!(serves(&plane, "out").header("connection"), None, "{}", peer.name());
        // A client that comes first and asks later is served too.
        let mut late = Connection::open(plane.listener("in").expect("its listener")).expect("a connection");
        serves(&plane, "in");
        let response = late.exchange(&Request::get("/")).expect("an answer");
        assert_eq!((response.status, response.header("connection")), (200, Some("close")), "{}", peer.name());
    }
}

/// After its time a listener stops, unless it is asked not to.
#[test]
fn a_graceful_drain_ends() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let stays = start(peer, &origin, "1", "gradual");
        drain(&stays, "?graceful&skip_exit");
        let stops = start(peer, &origin, "1", "gradual");
        drain(&stops, "?graceful");
        refuses(stops.listener("in").expect("its listener"));
        refuses(stops.listener("out").expect("its listener"));
        // This one has begun earlier, with the same time.
        serves(&stays, "in");
        serves(&stays, "out");
    }
}

/// HTTP/2: a GOAWAY that refuses nothing yet; what runs ends, and then the connection does.
#[test]
fn streams_end_after_goaway() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let plane = start(peer, &origin, "600", "immediate");
        let mut client = RawH2::open(plane.listener("in").expect("its listener"), &[]).expect("a connection");
        client.send(&[Frame::headers(1, h2raw::get("/held", &[(b"x-origin", b"gate=open")]), true)]);
        eventually(DEADLINE, || if origin.seen_at("/held").is_empty() { Err("not there yet") } else { Ok(()) })
            .expect("held");
        drain(&plane, "?graceful");
        // Envoy notices with the next answer.
        client.send(&[Frame::headers(3, h2raw::get("/", &[]), true)]);
        let (mut answered, mut refused) = (Vec::new(), None);
        while let Some(frame) = client.frame().expect("a frame") {
            match frame.kind {
                kind::PING if frame.flags & ACK == 0 => {
                    client.send(&[Frame::new(kind::PING, ACK, 0, frame.payload)]);
                }
                kind::SETTINGS if frame.flags & ACK == 0 => {
                    client.send(&[Frame::new(kind::SETTINGS, ACK, 0, [])]);
                }
                kind::HEADERS => answered.push(frame.stream),
                kind::GOAWAY => {
                    assert_eq!(frame.error_code(), 0, "{}", peer.name());
                    let last = u32::from_be_bytes(frame.payload[..4].try_into().expect("its last stream"));
                    assert!(last >= 3, "{}: stream {last} is the last", peer.name());
                    refused = Some(last);
                    origin.open_gate("open");
                }
                _ => {}
            }
        }
        answered.sort_unstable();
        assert_eq!(answered, [1, 3], "{}", peer.name());
        assert_eq!(refused, Some(3), "{}: the last GOAWAY names the last stream", peer.name());
    }
}
