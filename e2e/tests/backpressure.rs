//! Whoever is slow holds the other side back, and once there is room again everything goes on to the last byte.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::bootstrap::{HttpListener, cluster, http2, route};
use outrigger_e2e::h2raw::{ACK, END_STREAM, Frame, INITIAL_WINDOW_SIZE, RawH2, Sent, block, get, kind};
use outrigger_e2e::origin::pattern;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, DataPlane, Origin, Peer, Request};
use serde_json::{Value, json};

fn start(peer: Peer, cluster: Value) -> (DataPlane, std::net::SocketAddr) {
    let bootstrap = Bootstrap::new().cluster(cluster).listener(HttpListener::new("main", &json!([route("/", "o")])));
    let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("its listener");
    (plane, address)
}

#[test]
fn a_client_that_reads_late_gets_everything() {
    // More than all kernels' buffers.
    const BODY: usize = 24_000_000;
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let (plane, address) = start(peer, cluster("o", &[origin.address()]));
        let mut client = Connection::open(address).expect("connect");
        client.send(Request::get("/late").origin(&format!("body={BODY}")).bytes()).expect("send");
        let read = plane.admin.stat_reaches("cluster.o.upstream_cx_rx_bytes_total", 500_000, DEADLINE);
        read.expect("the proxy reads ahead");
        let response = client.response().unwrap_or_else(|error| panic!("{}: {error:#}", peer.name()));
        assert!(response.body == pattern(BODY), "{}: {} bytes", peer.name(), response.body.len());
    }
}

#[test]
fn a_window_that_opens_a_little_at_a_time_gets_everything() {
    const BODY: usize = 400_000;
    const STEP: u32 = 10_000;
    for peer in Peer::all() {
        for h2_origin in [false, true] {
            let origin = Origin::start("o").expect("origin");
            let plain = cluster("o", &[origin.address()]);
            let (_plane, address) = start(peer, if h2_origin { http2(plain) } else { plain });
            let mut client = RawH2::open(address, &[(INITIAL_WINDOW_SIZE, STEP)]).expect("connect");
            let directive = format!("body={BODY}");
            let request = get("/window", &[(b"x-origin", directive.as_bytes())]);
            assert_eq!(client.send(&[Frame::headers(1, request, true)]), Sent::All);
            let (mut body, mut owed) = (Vec::new(), 0);
            loop {
                let frame = client.frame().unwrap_or_else(|error| panic!("{}: {error:#}", peer.name()));
                let frame = frame.expect("the connection stays");
                if frame.kind == kind::DATA {
                    owed += u32::try_from(frame.payload.len()).expect("a frame's length");
                    body.extend_from_slice(&frame.payload);
                    if owed >= STEP {
                        let updates = [Frame::window_update(0, owed), Frame::window_update(1, owed)];
                        assert_eq!(client.send(&updates), Sent::All);
                        owed = 0;
                    }
                    if frame.flags & END_STREAM != 0 {
                        break;
                    }
                }
            }
            assert!(body == pattern(BODY), "{}: {} bytes", peer.name(), body.len());
        }
    }
}

#[test]
fn an_upload_larger_than_every_window_arrives() {
    const PIECE: usize = 16_000;
    const PIECES: usize = 60;
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let (_plane, address) = start(peer, http2(cluster("o", &[origin.address()])));
        let mut client = RawH2::open(address, &[]).expect("connect");
        let post =
            block(&[(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/upload"), (b":authority", b"a")]);
        assert_eq!(client.send(&[Frame::headers(1, post, false)]), Sent::All);
        let piece = pattern(PIECE);
        // As the peer's windows allow.
        let (mut stream, mut connection, mut sent) = (65_535_i64, 65_535_i64, 0);
        let mut initial = 65_535_i64;
        while sent < PIECES {
            let need = i64::try_from(PIECE).expect("small");
            if stream >= need && connection >= need {
                sent += 1;
                stream -= need;
                connection -= need;
                assert_eq!(client.send(&[Frame::data(1, piece.clone(), sent == PIECES)]), Sent::All);
                continue;
            }
            let frame = client.frame().unwrap_or_else(|error| panic!("{}: {sent} pieces: {error:#}", peer.name()));
            let frame = frame.expect("the connection stays");
            let number = |at: usize| {
                frame.payload.get(at..at + 4).map_or(0, |b| i64::from(u32::from_be_bytes([b[0], b[1], b[2], b[3]])))
            };
            match (frame.kind, frame.stream) {
                (kind::WINDOW_UPDATE, 0) => connection += number(0),
                (kind::WINDOW_UPDATE, _) => stream += number(0),
                (kind::SETTINGS, _) if frame.flags == 0 => {
                    // The peer counts by its new window once it is acknowledged.
                    assert_eq!(client.send(&[Frame::new(kind::SETTINGS, ACK, 0, Vec::new())]), Sent::All);
                    for at in (0..frame.payload.len()).step_by(6) {
                        if frame.payload[at..at + 2] == INITIAL_WINDOW_SIZE.to_be_bytes() {
                            stream += number(at + 2) - initial;
                            initial = number(at + 2);
                        }
                    }
                }
                _ => {}
            }
        }
        let ends = |frame: &Frame| frame.kind == kind::RST_STREAM || frame.flags & END_STREAM != 0;
        let end = client.until(|frame| frame.stream == 1 && ends(frame));
        end.unwrap_or_else(|error| panic!("{}: {error:#}", peer.name()));
        let seen = origin.seen_at("/upload");
        assert_eq!(seen.len(), 1, "{}", peer.name());
        assert!(seen[0].whole && seen[0].body == piece.repeat(PIECES), "{}: {}", peer.name(), seen[0].body.len());
    }
}
