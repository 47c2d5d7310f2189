//! Clients that use HTTP/2 as a weapon: floods of cheap frames, header bombs, windows that never open. Each is bounded (it is
//! refused, or held back) or answered, memory stays flat, and a neighbour is served meanwhile.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route};
use outrigger_e2e::h2raw::{ACK, Frame, INITIAL_WINDOW_SIZE, Outcome, RawH2, Sent, block, get, integer, kind, string};
use outrigger_e2e::wait::{DEADLINE, until};
use outrigger_e2e::{Bootstrap, DataPlane, Neighbour, Origin, Peer};
use serde_json::{Value, json};

const CANCEL: u32 = 8;
/// What a whole attack may add to the proxy's memory.
const GROWTH_MIB_MAX: u64 = 32;

struct Target {
    plane: DataPlane,
    origin: Origin,
    address: SocketAddr,
    neighbour: Neighbour,
    before: u64,
}

impl Target {
    fn start(manager: Value) -> Target {
        let origin = Origin::start("o").expect("origin");
        let listener = HttpListener::new("main", &json!([route("/", "o")])).manager(manager);
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
        let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let neighbour = Neighbour::new(address, "/neighbour").expect("the neighbour is served");
        let before = plane.process.rss_mib();
        Target { plane, origin, address, neighbour, before }
    }

    fn connect(&self) -> RawH2 {
        let client = RawH2::open(self.address, &[]).expect("connect");
        client.patience(Duration::from_secs(2)).expect("a timeout");
        client
    }

    /// Nobody else noticed, and the proxy is no bigger than before.
    fn must_be_well(&mut self, what: &str) {
        self.plane.process.must_run().expect(what);
        self.neighbour.must_be_served().expect(what);
        let now = self.plane.process.rss_mib();
        assert!(now <= self.before + GROWTH_MIB_MAX, "{what}: {} MiB before, {now} MiB after", self.before);
    }
}

/// Sends the same bytes again and again, and reads nothing: how far it came.
fn flood(client: &mut RawH2, bytes: &[u8], times: usize) -> (Sent, usize) {
    for time in 0..times {
        match client.send_bytes(bytes) {
            Sent::All => {}
            other => return (other, time),
        }
    }
    (Sent::All, times)
}

fn wants_ours() -> bool {
    Peer::all().contains(&Peer::Outrigger)
}

#[test]
fn rapid_reset_ends_the_connection() {
    if !wants_ours() {
        return;
    }
    let mut target = Target::start(json!({}));
    let mut client = target.connect();
    let pair = |index: u32| {
        let stream = index * 2 + 1;
        [Frame::headers(stream, get("/reset", &[]), true).bytes(), Frame::reset(stream, CANCEL).bytes()].concat()
    };
    let mut sent = Sent::All;
    for batch in 0..500_u32 {
        let bytes: Vec<u8> = (batch * 100..(batch + 1) * 100).flat_map(pair).collect();
        sent = client.send_bytes(&bytes);
        if sent != Sent::All {
            break;
        }
    }
    assert_ne!(sent, Sent::All, "50,000 streams were opened and reset on one connection");
    let seen = target.origin.seen_at("/reset").len();
    assert!(seen < 2_000, "{seen} requests that nobody waits for reached the origin");
    target.must_be_well("rapid reset");
}

#[test]
fn slow_resets_end_the_connection_too() {
    if !wants_ours() {
        return;
    }
    // Each stream is reset once its request is under way, so that no queue of unseen streams ever fills.
    let mut target = Target::start(json!({}));
    let mut client = target.connect();
    let mut ended = false;
    for index in 0..3_000_u32 {
        let stream = index * 2 + 1;
        let ping = Frame::new(kind::PING, 0, 0, u64::from(index).to_be_bytes());
        let request = Frame::headers(stream, get("/slow", &[(b"x-origin", b"silent")]), true);
        let answered = client.send(&[request, ping]) == Sent::All
            && client.until(|frame| frame.kind == kind::PING && frame.flags & ACK != 0).is_ok();
        if !answered || client.send(&[Frame::reset(stream, CANCEL)]) != Sent::All {
            ended = true;
            break;
        }
    }
    assert!(ended, "3,000 requests in a row were cancelled on one connection");
    target.must_be_well("slow resets");
}

#[test]
fn header_blocks_that_never_end_are_refused() {
    if !wants_ours() {
        return;
    }
    let mut target = Target::start(json!({}));
    let padding = block(&[(b"x-pad", &[b'p'; 16_000][..])]);
    let full = Frame::new(kind::CONTINUATION, 0, 1, padding).bytes();
    let empty = Frame::new(kind::CONTINUATION, 0, 1, Vec::new()).bytes().repeat(100);
    for (name, bytes, times) in [("full", full, 2_000), ("empty", empty, 2_000)] {
        let mut client = target.connect();
        assert_eq!(client.send(&[Frame::new(kind::HEADERS, 0, 1, get("/continue", &[]))]), Sent::All);
        flood(&mut client, &bytes, times);
        // What the kernel took into its buffers doesn't count: the connection is over.
        client.ending().unwrap_or_else(|error| panic!("{name} CONTINUATION frames are taken without end: {error:#}"));
        target.must_be_well(name);
    }
    assert!(target.origin.seen_at("/continue").is_empty());
}

#[test]
fn answers_that_nobody_reads_are_not_piled_up() {
    if !wants_ours() {
        return;
    }
    let mut target = Target::start(json!({}));
    let settings = Frame::settings(&[(INITIAL_WINDOW_SIZE, 65_535)]).bytes().repeat(1000);
    let pings = Frame::new(kind::PING, 0, 0, [7; 8]).bytes().repeat(1000);
    for (name, bytes) in [("SETTINGS", settings), ("PING", pings)] {
        let mut client = target.connect();
        let (sent, thousands) = flood(&mut client, &bytes, 5_000);
        assert_ne!(sent, Sent::All, "5 million {name} frames were taken unread ({thousands})");
        target.must_be_well(name);
    }
}

#[test]
fn frames_that_carry_nothing_do_no_harm() {
    if !wants_ours() {
        return;
    }
    let mut target = Target::start(json!({}));
    let post = block(&[(b":method", b"POST"), (b":scheme", b"http"), (b":path", b"/empty"), (b":authority", b"a")]);
    let floods = [
        ("empty DATA", Frame::data(1, Vec::new(), false).bytes()),
        ("PRIORITY", Frame::new(kind::PRIORITY, 0, 3, [0, 0, 0, 0, 1]).bytes()),
        ("unknown frames", Frame::new(0xfa, 0, 1, [0; 8]).bytes()),
        ("WINDOW_UPDATE", Frame::window_update(0, 1).bytes()),
    ];
    for (name, frame) in floods {
        let mut client = target.connect();
        assert_eq!(client.send(&[Frame::headers(1, post.clone(), false)]), Sent::All);
        let (sent, _) = flood(&mut client, &frame.repeat(1000), 200);
        // Whoever takes them all must still answer.
        if sent == Sent::All {
            let last = [Frame::data(1, b"end".to_vec(), true)];
            let outcome = client.outcome(1, &last).expect(name);
            assert!(matches!(outcome, Outcome::Status(200) | Outcome::ConnectionError(_)), "{name}: {outcome:?}");
        }
        target.must_be_well(name);
    }
}

#[test]
fn a_header_bomb_is_refused() {
    if !wants_ours() {
        return;
    }
    let mut target = Target::start(json!({}));
    // One entry of 4,000 bytes enters the dynamic table; then each byte of the block is that entry again.
    let mut bomb = get("/bomb", &[]);
    bomb.push(0x40);
    string(&mut bomb, b"x-bomb");
    string(&mut bomb, &[b'b'; 3_900]);
    let mut again = Vec::new();
    integer(&mut again, 7, 0x80, 62);
    bomb.extend(again.repeat(11_000));
    let mut client = target.connect();
    let outcome = client.outcome(1, &[Frame::headers(1, bomb, true)]).expect("an answer");
    assert_ne!(outcome, Outcome::Status(200), "44 MB of headers");
    assert!(target.origin.seen_at("/bomb").is_empty());
    target.must_be_well("a header bomb");
}

#[test]
fn windows_that_never_open_hold_little_and_end() {
    if !wants_ours() {
        return;
    }
    let mut target = Target::start(json!({"stream_idle_timeout": "1s"}));
    let mut client = RawH2::open(target.address, &[(INITIAL_WINDOW_SIZE, 0)]).expect("connect");
    let directive: (&[u8], &[u8]) = (b"x-origin", b"body=300000");
    let requests: Vec<Frame> =
        (0..100).map(|index| Frame::headers(index * 2 + 1, get("/window", &[directive]), true)).collect();
    assert_eq!(client.send(&requests), Sent::All);
    until(DEADLINE, "all requests at the origin", || target.origin.seen_at("/window").len() >= 100)
        .expect("at the origin");
    target.neighbour.must_be_served().expect("the neighbour");
    // A body that cannot be sent makes its stream idle: each of them ends.
    let mut ended = 0;
    while ended < 100 {
        let frame = client.frame().expect("a frame").expect("the connection stays");
        ended += u32::from(frame.kind == kind::RST_STREAM);
    }
    target.neighbour.must_be_served().expect("the neighbour");
    let now = target.plane.process.rss_mib();
    // What is read ahead of 30 MB is bounded.
    assert!(now <= target.before + GROWTH_MIB_MAX, "{} MiB before, {now} MiB after", target.before);
}
