//! Origins that die, stall, answer rubbish, aren't there or aren't known: what the client gets, which flag and metric say
//! so, and that a neighbour with a healthy origin is served meanwhile.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, cluster, http2, route, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::h2c::{H2Connection, H2Request};
use outrigger_e2e::ports::closed;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Neighbour, Origin, Request};
use serde_json::json;

/// A whole answer of the proxy that stands for the origin's.
struct Refused {
    name: &'static str,
    path: &'static str,
    directive: &'static str,
    status: u16,
    /// One of these; the first is ours.
    flags: &'static [&'static str],
    metric: &'static str,
}

const REFUSED: [Refused; 14] = [
    refused("no route", "/no-route", "", 404, &["NR"], "http.main.no_route"),
    refused("unknown cluster", "/unknown", "", 503, &["NC"], "http.main.no_cluster"),
    refused("no endpoint", "/empty", "", 503, &["UH"], "cluster.empty.upstream_cx_none_healthy"),
    refused("nobody listens", "/refused", "", 503, &["UF"], "cluster.refused.upstream_cx_connect_fail"),
    refused("no pending request allowed", "/full", "", 503, &["UO"], "cluster.full.upstream_rq_pending_overflow"),
    refused(
        "closes without an answer",
        "/bad",
        "die=0; raw=nothing",
        503,
        &["UC"],
        "cluster.bad.upstream_cx_destroy_remote_with_active_rq",
    ),
    refused("too slow for the route", "/slow", "silent", 504, &["UT"], "cluster.bad.upstream_rq_timeout"),
    refused("not HTTP", "/bad", "raw=garbage", 502, &["UPE"], "cluster.bad.upstream_cx_protocol_error"),
    refused("a head cut short", "/bad", "raw=half-head", 502, &["UPE"], "cluster.bad.upstream_cx_protocol_error"),
    refused("length and chunked", "/bad", "raw=two-framings", 502, &["UPE"], "cluster.bad.upstream_cx_protocol_error"),
    refused("two lengths", "/bad", "raw=two-lengths", 502, &["UPE"], "cluster.bad.upstream_cx_protocol_error"),
    refused(
        "a length that is no number",
        "/bad",
        "raw=bad-length",
        502,
        &["UPE"],
        "cluster.bad.upstream_cx_protocol_error",
    ),
    refused("200 headers", "/bad", "raw=many-headers", 502, &["UPE"], "cluster.bad.upstream_cx_protocol_error"),
    refused(
        "a head of 100 KiB",
        "/bad",
        "header-bytes=100000",
        502,
        &["UPE"],
        "cluster.bad.upstream_cx_protocol_error",
    ),
];

const fn refused(
    name: &'static str,
    path: &'static str,
    directive: &'static str,
    status: u16,
    flags: &'static [&'static str],
    metric: &'static str,
) -> Refused {
    Refused { name, path, directive, status, flags, metric }
}

/// What only ours refuses: Envoy passes these on.
const REFUSED_BY_OURS: [Refused; 2] = [
    refused("an unasked 101", "/bad", "raw=unasked-101", 502, &["UPE"], "cluster.bad.upstream_cx_protocol_error"),
    refused("status 1000", "/bad", "raw=status-1000", 502, &["UPE"], "cluster.bad.upstream_cx_protocol_error"),
];

struct Rig {
    plane: DataPlane,
    bad: Origin,
    _good: Origin,
    address: SocketAddr,
    neighbour: Neighbour,
}

impl Rig {
    fn start(peer: Peer) -> Rig {
        let (good, bad) = (Origin::start("good").expect("origin"), Origin::start("bad").expect("origin"));
        scripts(&bad);
        let full = json!({"circuit_breakers": {"thresholds": [{"max_pending_requests": 0, "max_connections": 0}]}});
        let routes = json!([
            route("/good", "good"), route("/bad", "bad"), route("/h2", "bad-h2"), route("/refused", "refused"),
            route("/empty", "empty"), route("/full", "full"), route("/unknown", "unknown"),
            {"match": {"prefix": "/slow"}, "route": {"cluster": "bad", "timeout": "0.2s"}},
        ]);
        let listener =
            HttpListener::new("main", &routes).manager(json!({"route_config": {"validate_clusters": false}}));
        let bootstrap = Bootstrap::new()
            .cluster(cluster("good", &[good.address()]))
            .cluster(cluster("bad", &[bad.address()]))
            .cluster(http2(cluster("bad-h2", &[bad.address()])))
            .cluster(cluster("refused", &[closed().expect("a port")]))
            .cluster(cluster("empty", &[]))
            .cluster(with(cluster("full", &[bad.address()]), full))
            .listener(listener);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let neighbour = Neighbour::new(address, "/good").expect("the neighbour is served");
        Rig { plane, bad, _good: good, address, neighbour }
    }

    fn check(&mut self, case: &Refused) -> Result<(), String> {
        let admin = self.plane.admin;
        let before = admin.stat(case.metric).map_err(|error| error.to_string())?;
        let mut client = Connection::open(self.address).map_err(|error| error.to_string())?;
        let test = format!("{}-{}", case.path, case.name.replace(' ', "-"));
        let request = Request::get(case.path).with("x-test", &test).origin(case.directive);
        client.send(request.bytes()).map_err(|error| error.to_string())?;
        self.neighbour.must_be_served().map_err(|error| format!("{error:#}"))?;
        let response = client.response().map_err(|error| format!("{error:#}"))?;
        if response.status != case.status {
            return Err(format!("status {} {:?}", response.status, response.text()));
        }
        let record = self.plane.access_record(&test).map_err(|error| format!("{error:#}"))?;
        let flags = record["flags"].as_str().unwrap_or("-");
        if !case.flags.contains(&flags) {
            return Err(format!("the flag is {flags}: {record}"));
        }
        admin.stat_reaches(case.metric, before + 1, DEADLINE).map_err(|error| format!("{error:#}"))?;
        // The client's connection survives its origin's fault.
        let next = client.exchange(&Request::get("/good")).map_err(|error| format!("the next request: {error:#}"))?;
        if next.status == 200 { Ok(()) } else { Err(format!("the next request got {}", next.status)) }
    }
}

fn scripts(origin: &Origin) {
    let response = |lines: &str, body: &str| format!("HTTP/1.1 200 OK\r\n{lines}\r\n\r\n{body}");
    let many: Vec<String> = (0..200).map(|i| format!("x-{i}: v")).collect();
    let all = [
        ("nothing", String::new()),
        ("garbage", "\x01\x02\x03 this is not HTTP\r\n\r\n".to_owned()),
        ("half-head", "HTTP/1.1 200 OK\r\nContent-Le".to_owned()),
        ("two-framings", response("Content-Length: 5\r\nTransfer-Encoding: chunked", "0\r\n\r\n")),
        ("two-lengths", response("Content-Length: 5\r\nContent-Length: 6", "hello")),
        ("bad-length", response("Content-Length: five", "hello")),
        ("many-headers", response(&format!("Content-Length: 0\r\n{}", many.join("\r\n")), "")),
        ("unasked-101", "HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n".to_owned()),
        ("status-1000", "HTTP/1.1 1000 Very OK\r\nContent-Length: 0\r\n\r\n".to_owned()),
        ("bad-chunk", response("Transfer-Encoding: chunked", "5\r\nhello\r\nzz\r\n")),
    ];
    all.into_iter().for_each(|(name, bytes)| origin.script(name, bytes));
}

#[test]
fn what_the_origin_cannot_give_is_answered_and_told() {
    for peer in Peer::all() {
        let mut rig = Rig::start(peer);
        let ours: &[Refused] = if peer == Peer::Outrigger { &REFUSED_BY_OURS } else { &[] };
        let mut failures = Vec::new();
        for case in REFUSED.iter().chain(ours) {
            if let Err(reason) = rig.check(case) {
                failures.push(format!("{} / {}: {reason}", peer.name(), case.name));
            }
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
    }
}

/// A body that ends early: the client must notice.
struct Truncated {
    name: &'static str,
    path: &'static str,
    directive: &'static str,
    metric: &'static str,
}

const TRUNCATED: [Truncated; 5] = [
    truncated("with a length", "/bad/1", "body=1000; die=300", "cluster.bad.upstream_cx_destroy_remote_with_active_rq"),
    truncated(
        "chunked",
        "/bad/2",
        "body=1000; chunked; die=300",
        "cluster.bad.upstream_cx_destroy_remote_with_active_rq",
    ),
    truncated("by a reset", "/bad/3", "body=1000; reset=300", "cluster.bad.upstream_cx_destroy_remote_with_active_rq"),
    truncated("a broken chunk", "/bad/4", "raw=bad-chunk", "cluster.bad.upstream_cx_protocol_error"),
    truncated("an HTTP/2 stream reset", "/h2/5", "body=1000; die=300", "cluster.bad-h2.upstream_rq_rx_reset"),
];

const fn truncated(name: &'static str, path: &'static str, directive: &'static str, metric: &'static str) -> Truncated {
    Truncated { name, path, directive, metric }
}

#[test]
fn a_truncated_answer_is_never_completed() {
    for peer in Peer::all() {
        let mut rig = Rig::start(peer);
        for case in &TRUNCATED {
            let name = format!("{} / {}", peer.name(), case.name);
            let before = rig.plane.admin.stat(case.metric).expect("stats");
            let mut client = Connection::open(rig.address).expect("connect");
            let request = Request::get(case.path).with("x-test", case.path).origin(case.directive);
            client.send(request.bytes()).expect("send");
            rig.neighbour.must_be_served().expect(&name);
            let (response, whole) = client.partial_response();
            assert!(!whole, "{name}: the client takes it for whole: {response:?}");
            assert!(response.status == 200 || response.status == 0, "{name}: {response:?}");
            let record = rig.plane.access_record(case.path).expect(&name);
            let flags = record["flags"].as_str().unwrap_or("-");
            assert!(matches!(flags, "UPE" | "UC" | "UR"), "{name}: {record}");
            rig.plane.admin.stat_reaches(case.metric, before + 1, DEADLINE).expect(&name);
            // Towards an HTTP/2 client it is a reset of the stream, and only of that.
            let h2 = H2Connection::open(rig.address).expect("connect");
            let both = [H2Request::get(case.path).origin(case.directive), H2Request::get("/good")];
            let responses = h2.exchange_all(&both).expect(&name);
            assert!(responses[0].reset.is_some(), "{name} to HTTP/2: {:?}", responses[0]);
            assert_eq!(responses[1].status, 200, "{name} to HTTP/2: the other stream");
        }
        assert!(rig.bad.seen_at("/bad").len() >= 8);
        rig.neighbour.must_be_served().expect("the neighbour");
    }
}

#[test]
fn an_early_answer_reaches_the_client_before_its_body_is_sent() {
    for peer in Peer::all() {
        let mut rig = Rig::start(peer);
        let mut client = Connection::open(rig.address).expect("connect");
        let head =
            "POST /bad/early HTTP/1.1\r\nHost: a\r\nx-origin: early; status=413\r\nContent-Length: 1000\r\n\r\nsome";
        client.send(head).expect("send");
        rig.neighbour.must_be_served().expect("the neighbour");
        let response = client.response().expect("the early answer");
        assert_eq!(response.status, 413, "{}", peer.name());
        rig.neighbour.must_be_served().expect("the neighbour");
    }
}

#[test]
fn a_kept_upstream_connection_that_the_origin_closed_is_not_the_clients_fault() {
    // The origin says `Connection: close` each time: the proxy must not use that connection again.
    for peer in Peer::all() {
        let rig = Rig::start(peer);
        let mut client = Connection::open(rig.address).expect("connect");
        for _ in 0..20 {
            let response = client.exchange(&Request::get("/bad").origin("close")).expect("answer");
            assert_eq!(response.status, 200, "{}", peer.name());
        }
    }
}
