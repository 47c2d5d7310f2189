//! Clients that send what they shouldn't, too much of it, too slowly, or only half of it: the answer, the flag, the metric,
//! and a neighbour who is served meanwhile. The limits are Envoy's edge defaults: 60 KiB and 100 headers.
#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;
use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::h2c::{H2Connection, H2Request};
use outrigger_e2e::neighbour::NEIGHBOUR;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Neighbour, Origin, Request, eventually};
use serde_json::{Value, json};

/// Which proxies must answer so. Where Envoy lets something through that the RFC forbids, ours refuses.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Who {
    Both,
    /// Ours is stricter on purpose.
    Ours,
}

struct Case {
    name: &'static str,
    who: Who,
    bytes: Vec<u8>,
    /// One of these.
    statuses: Vec<u16>,
    /// The request's head may already have gone to the origin when the fault shows.
    may_reach_origin: bool,
}

fn case(name: &'static str, who: Who, bytes: impl Into<Vec<u8>>, status: u16) -> Case {
    Case { name, who, bytes: bytes.into(), statuses: vec![status], may_reach_origin: false }
}

/// Whether an unreadable version is a bad request or one to upgrade is a matter of taste.
fn bad_version(name: &'static str, bytes: &[u8]) -> Case {
    Case { statuses: vec![400, 426, 505], ..case(name, Who::Both, bytes, 400) }
}

fn chunked(name: &'static str, who: Who, body: &str) -> Case {
    let bytes = format!("POST /bad HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n{body}").into_bytes();
    Case { name, who, bytes, statuses: vec![400], may_reach_origin: true }
}

fn head(lines: &str) -> Vec<u8> {
    format!("GET /bad HTTP/1.1\r\nHost: a\r\n{lines}\r\n\r\n").into_bytes()
}

fn flood(count: usize) -> Vec<u8> {
    let lines: Vec<String> = (0..count).map(|i| format!("x-flood-{i}: v")).collect();
    head(&lines.join("\r\n"))
}

fn cases() -> Vec<Case> {
    use Who::{Both, Ours};
    vec![
        case("not HTTP at all", Both, &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n"[..], 400),
        bad_version("no version", b"GET /bad\r\nHost: a\r\n\r\n"),
        bad_version("unknown version", b"GET /bad HTTP/7.1\r\nHost: a\r\n\r\n"),
        case("a space in the target", Both, &b"GET /bad path HTTP/1.1\r\nHost: a\r\n\r\n"[..], 400),
        case("tabs between the parts", Ours, &b"GET\t/bad\tHTTP/1.1\r\nHost: a\r\n\r\n"[..], 400),
        case("HTTP/1.0", Both, &b"GET /bad HTTP/1.0\r\nHost: a\r\n\r\n"[..], 426),
        case("no host", Both, &b"GET /bad HTTP/1.1\r\n\r\n"[..], 400),
        case("two hosts", Ours, head("Host: b"), 400),
        case("userinfo in the host", Ours, &b"GET /bad HTTP/1.1\r\nHost: u@a\r\n\r\n"[..], 400),
        case("a header without a colon", Both, head("nonsense"), 400),
        case("a blank in a name", Both, head("x bad: 1"), 400),
        case("a blank before the colon", Both, head("x-bad : 1"), 400),
        case("NUL in a value", Both, head("x-bad: a\0b"), 400),
        case("a bare CR in a value", Ours, head("x-bad: a\rb"), 400),
        case("length and chunked", Both, head("Content-Length: 3\r\nTransfer-Encoding: chunked"), 400),
        case("two different lengths", Both, head("Content-Length: 3\r\nContent-Length: 4"), 400),
        case("two equal lengths", Both, head("Content-Length: 3\r\nContent-Length: 3"), 400),
        case("a list of lengths", Both, head("Content-Length: 3, 3"), 400),
        case("a length that is no number", Both, head("Content-Length: 0x3"), 400),
        case("a negative length", Both, head("Content-Length: -1"), 400),
        case("a length with a sign", Both, head("Content-Length: +3"), 400),
        case("a length beyond 64 bits", Both, head("Content-Length: 99999999999999999999999"), 400),
        case("an encoding that we don't have", Both, head("Transfer-Encoding: gzip, chunked"), 501),
        case("an encoding before chunked", Both, head("Transfer-Encoding: identity, chunked"), 501),
        case("one header of 70 KiB", Both, head(&format!("x-big: {}", "b".repeat(70 * 1024))), 431),
        case("a target of 70 KiB", Both, format!("GET /bad{} HTTP/1.1\r\nHost: a\r\n\r\n", "p".repeat(70 * 1024)), 431),
        case("150 headers", Both, flood(150), 431),
        case(
            "70 KiB in 95 headers",
            Both,
            head(&(0..95).map(|i| format!("x-{i}: {}", "b".repeat(750))).collect::<Vec<_>>().join("\r\n")),
            431,
        ),
        chunked("a chunk size that is no number", Both, "zz\r\nhello\r\n0\r\n\r\n"),
        chunked("an empty chunk size", Both, "\r\nhello\r\n0\r\n\r\n"),
        chunked("a chunk size beyond 64 bits", Both, "fffffffffffffffff\r\nhello\r\n0\r\n\r\n"),
        chunked("a chunk size with a sign", Both, "+5\r\nhello\r\n0\r\n\r\n"),
        chunked("bytes after a chunk", Ours, "5\r\nhello!!\r\n0\r\n\r\n"),
        chunked("a bare LF after a chunk size", Both, "5\nhello\r\n0\r\n\r\n"),
    ]
}

struct Rig {
    plane: DataPlane,
    origin: Origin,
    address: SocketAddr,
    neighbour: Neighbour,
    records: usize,
}

impl Rig {
    fn start(peer: Peer, options: &Value) -> Rig {
        let origin = Origin::start("o").expect("origin");
        let listener = HttpListener::new("main", &json!([route("/", "o")])).manager(options.clone());
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let neighbour = Neighbour::new(address, "/neighbour").expect("the neighbour is served");
        Rig { plane, origin, address, neighbour, records: 0 }
    }

    /// The next access-log record that isn't the neighbour's.
    fn next_record(&mut self) -> Result<Value, String> {
        let at = self.records;
        let next = eventually(Duration::from_secs(5), || {
            let others = self.plane.access_records().into_iter().filter(|record| record["test"] != NEIGHBOUR);
            others.into_iter().nth(at).ok_or("no record of it in the access log")
        });
        self.records += usize::from(next.is_ok());
        next.map_err(|error| format!("{error:#}"))
    }

    fn stat(&self, name: &str) -> u64 {
        self.plane.admin.stat(name).expect("the metrics")
    }
}

fn check(rig: &mut Rig, case: &Case) -> Result<(), String> {
    let before = rig.stat("http.main.downstream_rq_4xx") + rig.stat("http.main.downstream_rq_5xx");
    let reached = rig.origin.seen_at("/bad").len();
    let mut client = Connection::open(rig.address).map_err(|error| error.to_string())?;
    client.send(&case.bytes).map_err(|error| error.to_string())?;
    rig.neighbour.must_be_served().map_err(|error| format!("{error:#}"))?;
    let response = client.response().map_err(|error| format!("{error:#}"))?;
    let status = response.status;
    if !case.statuses.contains(&status) {
        return Err(format!("status {status} {:?}", response.text()));
    }
    // What follows a request that can't be framed can't be a request: the connection ends.
    if status != 431 || response.header("connection") == Some("close") {
        // Envoy lingers for a second otherwise.
        client.half_close().map_err(|error| format!("{error:#}"))?;
        client.wait_closed(DEADLINE).map_err(|error| format!("{error:#}"))?;
    }
    let record = rig.next_record()?;
    if record["status"].to_string().trim_matches('"') != status.to_string() {
        return Err(format!("the access log says {record}"));
    }
    // A missing Host is found after the codec, where Envoy sets no flag.
    let flag = record["flags"].as_str().unwrap_or("-");
    if matches!(status, 400 | 501 | 431) && case.name != "no host" && flag != "DPE" {
        return Err(format!("the flag is {flag:?}, not DPE: {record}"));
    }
    let counted = rig.stat("http.main.downstream_rq_4xx") + rig.stat("http.main.downstream_rq_5xx") - before;
    if counted != 1 {
        return Err(format!("downstream_rq_4xx and _5xx went up by {counted}"));
    }
    let whole =
        rig.origin.seen_at("/bad").into_iter().skip(reached).filter(|seen| seen.whole || !case.may_reach_origin);
    match whole.count() {
        0 => Ok(()),
        count => Err(format!("{count} requests reached the origin")),
    }
}

#[test]
fn malformed_requests_are_refused() {
    for peer in Peer::all() {
        let mut rig = Rig::start(peer, &json!({}));
        let mut failures = Vec::new();
        for case in cases().iter().filter(|case| case.who == Who::Both || peer == Peer::Outrigger) {
            if let Err(reason) = check(&mut rig, case) {
                failures.push(format!("{} / {}: {reason}", peer.name(), case.name));
                rig.records = rig.plane.access_records().iter().filter(|record| record["test"] != NEIGHBOUR).count();
            }
        }
        assert!(rig.stat("http.main.downstream_cx_protocol_error") >= 10, "protocol errors are counted");
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

#[test]
fn heads_at_the_limit_pass() {
    for peer in Peer::all() {
        let rig = Rig::start(peer, &json!({}));
        // 100 headers with Host; 50 KiB in one header.
        let many = (0..90).fold(Request::get("/many"), |request, i| request.with(&format!("x-{i}"), "v"));
        let long = Request::get("/long").with("x-long", &"v".repeat(50 * 1024));
        for request in [many, long] {
            assert_eq!(request.send(rig.address).expect("answer").status, 200, "{} {}", peer.name(), request.target);
        }
    }
}

#[test]
fn a_slow_head_times_out() {
    for peer in Peer::all() {
        let name = peer.name();
        let mut rig = Rig::start(peer, &json!({"request_headers_timeout": "0.3s"}));
        let mut client = Connection::open(rig.address).expect("connect");
        client.send("GET /slow HTTP/1.1\r\nHost: a\r\nx-slow").expect("send");
        rig.neighbour.must_be_served().expect("the neighbour");
        let response = client.response().expect("an answer");
        assert_eq!(response.status, 408, "{}", peer.name());
        client.wait_closed(DEADLINE).expect("closed");
        let counted = rig.plane.admin.stat_reaches("http.main.downstream_rq_header_timeout", 1, DEADLINE);
        counted.expect(name);
        rig.neighbour.must_be_served().expect("the neighbour");
        assert!(rig.origin.seen_at("/slow").is_empty());
    }
}

#[test]
fn a_body_that_stalls_times_out() {
    for peer in Peer::all() {
        let name = peer.name();
        let mut rig = Rig::start(peer, &json!({"stream_idle_timeout": "0.3s"}));
        let mut client = Connection::open(rig.address).expect("connect");
        client
            .send("POST /stall HTTP/1.1\r\nHost: a\r\nx-test: stall\r\nContent-Length: 10\r\n\r\nhalf")
            .expect("send");
        rig.neighbour.must_be_served().expect("the neighbour");
        let response = client.response().expect("an answer");
        // 408: the client's fault; Envoy says so while the request isn't whole.
        assert_eq!(response.status, 408, "{}: {}", peer.name(), response.text());
        client.wait_closed(DEADLINE).expect("closed");
        let record = rig.plane.access_record("stall").expect("a record");
        assert_eq!(record["flags"], "SI", "{}: {record}", peer.name());
        rig.plane.admin.stat_reaches("http.main.downstream_rq_idle_timeout", 1, DEADLINE).expect(name);
        assert!(rig.origin.seen_at("/stall").iter().all(|seen| !seen.whole), "{}", peer.name());
    }
}

#[test]
fn an_origin_that_stalls_runs_into_the_idle_timeout() {
    for peer in Peer::all() {
        let name = peer.name();
        let mut rig = Rig::start(peer, &json!({"stream_idle_timeout": "0.3s"}));
        let mut client = Connection::open(rig.address).expect("connect");
        client.send(Request::get("/idle").with("x-test", "idle").origin("silent").bytes()).expect("send");
        rig.neighbour.must_be_served().expect("the neighbour");
        let response = client.response().expect("an answer");
        assert_eq!((response.status, response.text().as_str()), (504, "stream timeout"), "{}", peer.name());
        let record = rig.plane.access_record("idle").expect("a record");
        assert_eq!(record["flags"], "SI", "{}: {record}", peer.name());
        rig.plane.admin.stat_reaches("http.main.downstream_rq_idle_timeout", 1, DEADLINE).expect(name);
    }
}

#[test]
fn an_idle_connection_is_closed() {
    for peer in Peer::all() {
        let name = peer.name();
        let mut rig = Rig::start(peer, &json!({"common_http_protocol_options": {"idle_timeout": "0.3s"}}));
        let mut client = Connection::open(rig.address).expect("connect");
        assert_eq!(client.exchange(&Request::get("/once")).expect("answer").status, 200);
        client.wait_closed(DEADLINE).expect(name);
        rig.plane.admin.stat_reaches("http.main.downstream_cx_idle_timeout", 1, DEADLINE).expect(name);
        // The neighbour's own connection was idle too.
        rig.neighbour = Neighbour::new(rig.address, "/neighbour").expect("new connections are served");
    }
}

#[test]
fn a_client_that_closes_while_it_waits_is_gone() {
    // Held by a filter, or at the origin; closed for both ways, for one, or with a reset.
    let fault = json!({"name": "held", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault",
        "delay": {"fixed_delay": "3600s", "percentage": {"numerator": 100}},
        "headers": [{"name": "x-held", "present_match": true}],
    }});
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .listener(HttpListener::new("main", &json!([route("/", "o")])).filter(fault.clone()));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("the listener");
        let active = |count: u64| {
            let reached = eventually(DEADLINE, || match plane.admin.stat("http.main.downstream_rq_active") {
                Ok(now) if now == count => Ok(()),
                other => Err(format!("{other:?} requests, not {count}")),
            });
            reached.unwrap_or_else(|error| panic!("{peer:?}: {error:#}"));
        };
        for way in ["close", "half", "reset"] {
            for held in [true, false] {
                let name = format!("{way}-{held}");
                let request = Request::get(&format!("/{name}")).with("x-test", &name);
                let request = if held { request.with("x-held", "1") } else { request.origin("gate=never") };
                let mut client = Connection::open(address).expect("connect");
                client.send(request.bytes()).expect("send");
                active(1);
                let kept = match way {
                    "half" => client.half_close().map(|()| Some(client)),
                    "reset" => client.reset().map(|()| None),
                    _ => {
                        drop(client);
                        Ok(None)
                    }
                };
                let kept = kept.expect("closed");
                active(0);
                let record = plane.access_record(&name).expect("a record");
                let expected = if held { "DI,DC" } else { "DC" };
                assert_eq!((&record["flags"], &record["status"]), (&json!(expected), &json!(0)), "{peer:?}: {record}");
                drop(kept);
            }
        }
    }
}

#[test]
fn a_client_that_leaves_in_the_middle_ends_the_request_at_the_origin() {
    for peer in Peer::all() {
        let name = peer.name();
        let mut rig = Rig::start(peer, &json!({}));
        let head = "POST /gone HTTP/1.1\r\nHost: a\r\nx-test: gone\r\nContent-Length: 100000\r\n\r\nsome";
        let mut client = Connection::open(rig.address).expect("connect");
        client.send(head).expect("send");
        rig.neighbour.must_be_served().expect("the neighbour");
        drop(client);
        let seen = eventually(DEADLINE, || rig.origin.seen_at("/gone").pop().ok_or("not at the origin")).expect("seen");
        assert!(!seen.whole, "{}: a half request must not look whole", peer.name());
        let record = rig.plane.access_record("gone").expect("a record");
        assert_eq!(record["flags"], "DC", "{}: {record}", peer.name());
        let gone = rig.plane.admin.stat_reaches("http.main.downstream_cx_destroy_remote_active_rq", 1, DEADLINE);
        gone.expect(name);
        rig.neighbour.must_be_served().expect("the neighbour");
    }
}

#[test]
fn a_client_that_does_not_read_stops_the_origin() {
    const BODY: usize = 200_000_000;
    for peer in Peer::all() {
        let name = peer.name();
        let mut rig = Rig::start(peer, &json!({}));
        let mut client = Connection::open(rig.address).expect("connect");
        client.send(Request::get("/big").with("x-test", "big").origin(&format!("body={BODY}")).bytes()).expect("send");
        rig.plane.admin.stat_reaches("cluster.o.upstream_cx_rx_bytes_total", 1_000_000, DEADLINE).expect(name);
        rig.neighbour.must_be_served().expect("the neighbour");
        // Whatever the kernel's buffers took, the proxy didn't read the rest.
        let read = rig.stat("cluster.o.upstream_cx_rx_bytes_total");
        assert!(read < BODY as u64 / 4, "{}: {read} bytes were read for a client that reads none", peer.name());
        assert!(rss_mib(rig.plane.process.pid()) < 160, "{}: memory is bounded", peer.name());
        drop(client);
        rig.plane.access_record("big").expect("a record");
        rig.neighbour.must_be_served().expect("the neighbour");
    }
}

fn rss_mib(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() / 1024
}

#[test]
fn http2_clients_are_held_to_the_rules() {
    for peer in Peer::all() {
        let name = peer.name();
        let mut rig = Rig::start(peer, &json!({}));
        // Not a frame: the connection ends, after the preface and settings were fine.
        let mut raw = Connection::open(rig.address).expect("connect");
        raw.send([&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &[0, 0, 0, 4, 0, 0, 0, 0, 0], &[0xff; 64]].concat())
            .expect("send");
        rig.neighbour.must_be_served().expect("the neighbour");
        raw.read_raw(usize::MAX).expect("read to the end");
        rig.plane.admin.stat_reaches("http.main.downstream_cx_protocol_error", 1, DEADLINE).expect(name);
        // A header flood: the stream is refused, the connection's other streams are served.
        let h2 = H2Connection::open(rig.address).expect("connect");
        let mut flood = H2Request::get("/flood");
        flood.headers = (0..200).map(|_| ("x-flood", "v".to_owned())).collect();
        if let Ok(response) = h2.exchange(&flood) {
            assert!(response.status == 431 || response.reset.is_some(), "{}: {response:?}", peer.name());
        }
        let fresh = H2Connection::open(rig.address).expect("connect");
        assert_eq!(fresh.exchange(&H2Request::get("/after")).expect("answer").status, 200, "{}", peer.name());
        assert!(rig.origin.seen_at("/flood").is_empty(), "{}", peer.name());
        rig.neighbour.must_be_served().expect("the neighbour");
    }
}
