//! One byte stream never has two interpretations: bytes that two readers could cut differently are refused, or they reach the
//! origin as exactly what the client was answered for. The same for what an origin sends, and for HTTP/2 that becomes HTTP/1.
//!
//! Every payload hides a request for `/smuggled` (or a response `smuggled`) where a sloppy reader would find it.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route};
use outrigger_e2e::h2raw::{Frame, Outcome, RawH2, block};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, DataPlane, Origin, Peer, Request};
use serde_json::json;

/// What hides behind a message.
const HIDDEN: &str = "GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n";
const HIDDEN_RESPONSE: &str = "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nsmuggled";

/// What must come of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    /// One answer with an error status, and the connection ends.
    Refused,
    /// The origin sees one request with this body and no more than that.
    Once(&'static str),
    /// Two requests, as any reader would say, and two answers.
    Both,
}

struct Target {
    plane: DataPlane,
    origin: Origin,
    address: SocketAddr,
}

impl Target {
    fn start() -> Target {
        let origin = Origin::start("o").expect("origin");
        let listener = HttpListener::new("main", &json!([route("/", "o")]));
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
        let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        Target { plane, origin, address }
    }
}

fn wants_ours() -> bool {
    Peer::all().contains(&Peer::Outrigger)
}

fn post(headers: &str, body: &str) -> String {
    format!("POST /first HTTP/1.1\r\nHost: a\r\n{headers}\r\n{body}")
}

/// Name, bytes, what must come of them.
type Case = (&'static str, String, Wanted);

fn requests() -> Vec<Case> {
    [lengths(), names_and_lines(), chunks(), clear()].concat()
}

/// Lengths that contradict each other, or are said twice.
fn lengths() -> Vec<Case> {
    use Wanted::{Once, Refused};
    let te = |value: &str| {
        post(&format!("Transfer-Encoding: {value}\r\nContent-Length: 4\r\n"), &format!("0\r\n\r\n{HIDDEN}"))
    };
    let one_te = |value: &str| post(&format!("Transfer-Encoding: {value}\r\n"), &format!("0\r\n\r\n{HIDDEN}"));
    vec![
        ("length and chunked", te("chunked"), Refused),
        (
            "chunked and length",
            post("Content-Length: 4\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{HIDDEN}")),
            Refused,
        ),
        ("chunked in capitals and length", te("CHUNKED"), Refused),
        ("an unknown coding and length", te("xchunked"), Refused),
        ("chunked with a tab and length", te("\tchunked"), Refused),
        ("chunked with a vertical tab", te("\x0bchunked"), Refused),
        ("chunked in quotes", te("\"chunked\""), Refused),
        ("chunked twice", one_te("chunked, chunked"), Refused),
        ("chunked, then identity", one_te("chunked, identity"), Refused),
        ("identity alone", one_te("identity"), Refused),
        ("an empty coding", one_te(""), Refused),
        (
            "two codings in two lines",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", &format!("0\r\n\r\n{HIDDEN}")),
            Refused,
        ),
        (
            "chunked in two lines",
            post("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{HIDDEN}")),
            Refused,
        ),
        ("a coding with a parameter", one_te("chunked;q=1"), Refused),
        ("two lengths, the longer last", post("Content-Length: 0\r\nContent-Length: 35\r\n", HIDDEN), Refused),
        ("two lengths, the longer first", post("Content-Length: 35\r\nContent-Length: 0\r\n", HIDDEN), Refused),
        ("the same length twice", post("Content-Length: 2\r\nContent-Length: 2\r\n", "ok"), Refused),
        ("a list of the same length", post("Content-Length: 2, 2\r\n", "ok"), Refused),
        ("a length in octal clothes", post("Content-Length: 0x23\r\n", HIDDEN), Refused),
        ("a length with a blank inside", post("Content-Length: 3 5\r\n", HIDDEN), Refused),
        ("a length with a plus", post("Content-Length: +35\r\n", HIDDEN), Refused),
        ("an empty length", post("Content-Length: \r\n", HIDDEN), Refused),
        ("a length with an underscore", post("Content-Length: 3_5\r\n", HIDDEN), Refused),
        ("a length in other digits", post("Content-Length: \u{ff13}\r\n", HIDDEN), Refused),
        ("leading zeros are the same number", post("Content-Length: 0002\r\n", "ok"), Once("ok")),
        ("blanks around a length", post("Content-Length: \t 2 \t\r\n", "ok"), Once("ok")),
    ]
}

/// Names that one reader takes for a length and another does not, lines that end in two ways.
fn names_and_lines() -> Vec<Case> {
    use Wanted::{Once, Refused};
    vec![
        ("a blank before the colon", post("Content-Length : 35\r\n", HIDDEN), Refused),
        ("a tab before the colon", post("Transfer-Encoding\t: chunked\r\n", &format!("0\r\n\r\n{HIDDEN}")), Refused),
        ("a NUL in the name", post("Content-Length\0: 35\r\n", HIDDEN), Refused),
        ("a blank before the name", post(" Transfer-Encoding: chunked\r\n", &format!("0\r\n\r\n{HIDDEN}")), Refused),
        ("a name of 8-bit bytes", post("Transfer-Enc\u{f6}ding: chunked\r\n", &format!("0\r\n\r\n{HIDDEN}")), Refused),
        ("an underscore makes another name", post("Content_Length: 36\r\nContent-Length: 2\r\n", "ok"), Once("ok")),
        ("bare CR before a header", post("X-A: 1\rContent-Length: 35\r\n", HIDDEN), Refused),
        ("bare LF before a header", post("X-A: 1\nContent-Length: 35\r\n", HIDDEN), Refused),
        (
            "bare LF ends the head",
            format!("POST /first HTTP/1.1\r\nHost: a\r\nContent-Length: 35\n\n{HIDDEN}"),
            Refused,
        ),
        ("CR CR LF", post("X-A: 1\r\r\nContent-Length: 35\r\n", HIDDEN), Refused),
        ("a folded length", post("Content-Length:\r\n 35\r\n", HIDDEN), Refused),
        ("a folded coding", post("Transfer-Encoding:\r\n\tchunked\r\n", &format!("0\r\n\r\n{HIDDEN}")), Refused),
        ("a folded value", post("X-A: 1\r\n Content-Length: 35\r\n", HIDDEN), Refused),
        ("a fold in the first line", format!("POST /first HTTP/1.1\r\n Host: a\r\nHost: a\r\n\r\n{HIDDEN}"), Refused),
        ("CR in the target", format!("GET /fi\rrst HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}"), Refused),
        ("LF ends the request line", format!("GET /first HTTP/1.1\nHost: a\r\n\r\n{HIDDEN}"), Refused),
        ("a NUL in the target", format!("GET /fi\0rst HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}"), Refused),
        ("two blanks in the request line", format!("GET  /first HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}"), Refused),
        ("a version of its own", format!("GET /first HTTP/1.1x\r\nHost: a\r\n\r\n{HIDDEN}"), Refused),
        ("a lower-case version", format!("GET /first http/1.1\r\nHost: a\r\n\r\n{HIDDEN}"), Refused),
    ]
}

fn chunked(body: &str) -> String {
    post("Transfer-Encoding: chunked\r\n", body)
}

fn chunks() -> Vec<Case> {
    use Wanted::Refused;
    vec![
        ("a chunk size with 0x", chunked(&format!("0x23\r\n{HIDDEN}\r\n0\r\n\r\n")), Refused),
        ("a chunk size with a blank first", chunked(&format!(" 23\r\n{HIDDEN}\r\n0\r\n\r\n")), Refused),
        ("a chunk size with a minus", chunked(&format!("-1\r\n{HIDDEN}")), Refused),
        (
            "a chunk size that wraps at 64 bits",
            chunked(&format!("10000000000000002\r\nok\r\n0\r\n\r\n{HIDDEN}")),
            Refused,
        ),
        ("a chunk size with an underscore", chunked(&format!("2_3\r\n{HIDDEN}\r\n0\r\n\r\n")), Refused),
        ("bare LF after a size", chunked(&format!("2\nok\r\n0\r\n\r\n{HIDDEN}")), Refused),
        ("bare CR after a size", chunked(&format!("2\rok\r\n0\r\n\r\n{HIDDEN}")), Refused),
        ("bare LF after data", chunked(&format!("2\r\nok\n0\r\n\r\n{HIDDEN}")), Refused),
        ("more data than the size", chunked(&format!("2\r\nokay\r\n0\r\n\r\n{HIDDEN}")), Refused),
        ("less data than the size", chunked(&format!("5\r\nok\r\n0\r\n\r\n{HIDDEN}")), Refused),
        ("a bare LF in an extension", chunked(&format!("2;a\nok\r\n0\r\n\r\n{HIDDEN}")), Refused),
        ("a bare CR in an extension", chunked(&format!("2;a\rb\r\nok\r\n0\r\n\r\n{HIDDEN}")), Refused),
        ("bare LF after the last chunk", chunked(&format!("2\r\nok\r\n0\n\r\n{HIDDEN}")), Refused),
        ("bare LF ends the trailers", chunked(&format!("2\r\nok\r\n0\r\n\n{HIDDEN}")), Refused),
        (
            "a bare LF in the trailers",
            chunked(&format!("2\r\nok\r\n0\r\nX-T: 1\nContent-Length: 35\r\n\r\n{HIDDEN}")),
            Refused,
        ),
        ("a fold in the trailers", chunked(&format!("2\r\nok\r\n0\r\nX-T: 1\r\n more\r\n\r\n{HIDDEN}")), Refused),
    ]
}

/// What any reader cuts in the same way.
fn clear() -> Vec<Case> {
    use Wanted::{Both, Once};
    vec![
        ("two requests in one packet", post("Content-Length: 2\r\n", &format!("ok{HIDDEN}")), Both),
        ("two requests, the first chunked", chunked(&format!("2\r\nok\r\n0\r\n\r\n{HIDDEN}")), Both),
        ("a chunk size with leading zeros", chunked("0000000002\r\nok\r\n0\r\n\r\n"), Once("ok")),
        ("a chunk extension", chunked("2;name=value\r\nok\r\n0\r\n\r\n"), Once("ok")),
        ("a hidden request is a body", post("Content-Length: 35\r\n", HIDDEN), Once(HIDDEN)),
        ("an empty line before a request", format!("\r\n{}", post("Content-Length: 2\r\n", "ok")), Once("ok")),
    ]
}

/// What the client got, in statuses, until it had `most` answers or the connection ended.
fn statuses(address: SocketAddr, bytes: &str, most: usize) -> Vec<u16> {
    let mut client = Connection::open(address).expect("connect");
    client.send(bytes).expect("send");
    let mut statuses = Vec::new();
    while statuses.len() < 2 {
        let (response, whole) = client.partial_response();
        if response.status != 0 {
            statuses.push(response.status);
        }
        if statuses.len() == most && most < 2 {
            // Whoever waits for another request learns that there is none.
            _ = client.half_close();
        }
        if !whole {
            break;
        }
    }
    statuses
}

#[test]
fn a_request_is_what_any_reader_says_or_it_is_refused() {
    if !wants_ours() {
        return;
    }
    let target = Target::start();
    let mut failures = Vec::new();
    for (name, bytes, wanted) in requests() {
        let before = target.origin.seen().len();
        let answers = statuses(target.address, &bytes, if wanted == Wanted::Both { 2 } else { 1 });
        // The proxy has answered, so whatever reached the origin whole is known there.
        let seen: Vec<_> = target.origin.seen().into_iter().skip(before).filter(|seen| seen.whole).collect();
        let bodies: Vec<_> = seen.iter().map(|seen| String::from_utf8_lossy(&seen.body).into_owned()).collect();
        let paths: Vec<&str> = seen.iter().map(|seen| seen.path.as_str()).collect();
        let is_right = match wanted {
            Wanted::Refused => answers.len() == 1 && (400..=505).contains(&answers[0]) && paths.is_empty(),
            Wanted::Once(body) => answers == [200] && paths == ["/first"] && bodies == [body],
            Wanted::Both => answers == [200, 200] && paths == ["/first", "/smuggled"],
        };
        if !is_right {
            failures
                .push(format!("{name}: answers {answers:?}, at the origin {paths:?} {bodies:?}; wanted {wanted:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    assert_eq!(Request::get("/after").send(target.address).expect("an answer").status, 200);
}

#[test]
fn the_authority_of_a_request_is_one() {
    if !wants_ours() {
        return;
    }
    let target = Target::start();
    let get = |line: &str, headers: &str| format!("{line}\r\n{headers}\r\n");
    // Bytes, and the Host that the origin sees; nothing: refused.
    let table: [(&str, String, Option<&str>); 11] = [
        ("absolute-form beats Host", get("GET http://b.example/first HTTP/1.1", "Host: a\r\n"), Some("b.example")),
        (
            "absolute-form with a port",
            get("GET http://b.example:81/first HTTP/1.1", "Host: a\r\n"),
            Some("b.example:81"),
        ),
        ("absolute-form with userinfo", get("GET http://a@b.example/first HTTP/1.1", "Host: a\r\n"), None),
        ("absolute-form without a host", get("GET http:///first HTTP/1.1", "Host: a\r\n"), None),
        ("absolute-form of another scheme", get("GET ftp://b.example/first HTTP/1.1", "Host: a\r\n"), None),
        ("two Hosts", get("GET /first HTTP/1.1", "Host: a\r\nHost: b\r\n"), None),
        ("the same Host twice", get("GET /first HTTP/1.1", "Host: a\r\nHost: a\r\n"), None),
        ("an empty Host", get("GET /first HTTP/1.1", "Host: \r\n"), None),
        ("a Host with a path", get("GET /first HTTP/1.1", "Host: a/b\r\n"), None),
        ("a Host with a blank", get("GET /first HTTP/1.1", "Host: a b\r\n"), None),
        ("a Host list", get("GET /first HTTP/1.1", "Host: a, b\r\n"), None),
    ];
    let mut failures = Vec::new();
    for (name, bytes, wanted) in table {
        let before = target.origin.seen().len();
        let answers = statuses(target.address, &bytes, 1);
        let seen: Vec<_> = target.origin.seen().into_iter().skip(before).collect();
        let hosts: Vec<&str> =
            seen.iter().filter_map(|seen| outrigger_e2e::parser::header(&seen.headers, "host")).collect();
        let is_right = match wanted {
            Some(host) => answers == [200] && hosts == [host],
            None => answers.first().is_some_and(|status| (400..=404).contains(status)) && hosts.is_empty(),
        };
        if !is_right {
            failures.push(format!("{name}: answers {answers:?}, Host at the origin {hosts:?}; wanted {wanted:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_response_is_what_any_reader_says_or_it_is_refused() {
    if !wants_ours() {
        return;
    }
    let target = Target::start();
    // What the origin sends, and the status that the client gets.
    let table: [(&str, String, u16); 22] = [
        (
            "length and chunked",
            format!(
                "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n{HIDDEN_RESPONSE}"
            ),
            502,
        ),
        (
            "two lengths",
            format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\nContent-Length: 46\r\n\r\n{HIDDEN_RESPONSE}"),
            502,
        ),
        ("a length with a plus", format!("HTTP/1.1 200 OK\r\nContent-Length: +0\r\n\r\n{HIDDEN_RESPONSE}"), 502),
        ("a negative length", format!("HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n{HIDDEN_RESPONSE}"), 502),
        ("an unknown coding", format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: xchunked\r\n\r\n{HIDDEN_RESPONSE}"), 502),
        (
            "chunked twice",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n{HIDDEN_RESPONSE}"),
            502,
        ),
        ("a bare CR in a value", format!("HTTP/1.1 200 OK\r\nX-A: 1\rContent-Length: 0\r\n\r\n{HIDDEN_RESPONSE}"), 502),
        (
            "a bare LF in the head",
            format!("HTTP/1.1 200 OK\r\nX-A: 1\nContent-Length: 0\r\n\r\n{HIDDEN_RESPONSE}"),
            502,
        ),
        ("a fold", format!("HTTP/1.1 200 OK\r\nX-A: 1\r\n Content-Length: 0\r\n\r\n{HIDDEN_RESPONSE}"), 502),
        ("a blank before the colon", format!("HTTP/1.1 200 OK\r\nContent-Length : 0\r\n\r\n{HIDDEN_RESPONSE}"), 502),
        ("a NUL in a value", "HTTP/1.1 200 OK\r\nX-A: 1\0\r\nContent-Length: 2\r\n\r\nok".to_owned(), 502),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), 502),
        ("a status of four digits", "HTTP/1.1 2000 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), 502),
        ("a status that is no number", "HTTP/1.1 2x0 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), 502),
        ("another version", "HTTP/2.0 200 OK\r\nContent-Length: 2\r\n\r\nok".to_owned(), 502),
        ("an unasked 101", format!("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\n\r\n{HIDDEN_RESPONSE}"), 502),
        ("no HTTP at all", "SSH-2.0-OpenSSH_9.2\r\n".to_owned(), 502),
        ("204 with a body", format!("HTTP/1.1 204 No Content\r\nContent-Length: 46\r\n\r\n{HIDDEN_RESPONSE}"), 204),
        ("304 with a body", format!("HTTP/1.1 304 Not Modified\r\nContent-Length: 46\r\n\r\n{HIDDEN_RESPONSE}"), 304),
        ("more than the length", format!("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok{HIDDEN_RESPONSE}"), 200),
        (
            "more than the last chunk",
            format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\n\r\n{HIDDEN_RESPONSE}"),
            200,
        ),
        (
            "interim responses without end",
            format!("{}{HIDDEN_RESPONSE}", "HTTP/1.1 100 Continue\r\n\r\n".repeat(5_000)),
            502,
        ),
    ];
    let mut failures = Vec::new();
    for (index, (name, bytes, status)) in table.into_iter().enumerate() {
        let script = format!("script-{index}");
        target.origin.script(&script, bytes);
        let mut client = Connection::open(target.address).expect("connect");
        let request = Request::get("/scripted").origin(&format!("raw={script}"));
        match client.exchange(&request) {
            Ok(response) if response.status == status && !response.text().contains("smuggled") => {}
            Ok(response) => failures.push(format!("{name}: {} {:?}", response.status, response.text())),
            Err(error) => failures.push(format!("{name}: {error:#}")),
        }
        // What was left over belongs to nobody: the next request, on a pooled connection or not, gets its own answer.
        for round in 0..2 {
            let path = format!("/next-{index}-{round}");
            let next = Request::get(&path).send(target.address).map(|response| (response.status, response.json()));
            match next {
                Ok((200, Ok(echo))) if echo["path"] == path.as_str() => {}
                other => failures.push(format!("{name}: the next request got {other:?}")),
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// A request's fields for HTTP/2, with some of them changed.
fn fields<'f>(changes: &[(&'f [u8], &'f [u8])], more: &[(&'f [u8], &'f [u8])]) -> Vec<u8> {
    let mut all: Vec<(&[u8], &[u8])> =
        vec![(b":method", b"GET"), (b":scheme", b"http"), (b":path", b"/first"), (b":authority", b"a")];
    for (name, value) in changes {
        for field in all.iter_mut().filter(|field| field.0 == *name) {
            field.1 = value;
        }
    }
    all.extend_from_slice(more);
    block(&all)
}

#[test]
fn http2_never_becomes_two_requests_of_http1() {
    if !wants_ours() {
        return;
    }
    let target = Target::start();
    let injected = format!("1\r\n\r\n{HIDDEN}");
    let path = format!("/first HTTP/1.1\r\nHost: a\r\n\r\n{HIDDEN}");
    let name_with_all = format!("x-a: 1\r\n\r\n{HIDDEN}x");
    type Field<'f> = (&'f [u8], &'f [u8]);
    let changed: [(&str, Field<'_>); 10] = [
        ("CR LF in the path", (b":path", path.as_bytes())),
        ("a blank in the path", (b":path", b"/first HTTP/1.1")),
        ("an empty path", (b":path", b"")),
        ("a path without a slash", (b":path", b"first")),
        ("CR LF in the method", (b":method", b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\nGET")),
        ("a blank in the method", (b":method", b"GET /smuggled")),
        ("CR LF in the authority", (b":authority", b"a\r\nX-Smuggled: 1")),
        ("a blank in the authority", (b":authority", b"a b")),
        ("userinfo in the authority", (b":authority", b"u@a")),
        ("CR LF in the scheme", (b":scheme", b"http\r\nX-Smuggled: 1")),
    ];
    let added: [(&str, Field<'_>); 21] = [
        ("CR LF in a value", (b"x-a", injected.as_bytes())),
        ("LF in a value", (b"x-a", b"1\nx-smuggled: 1")),
        ("CR in a value", (b"x-a", b"1\rx-smuggled: 1")),
        ("NUL in a value", (b"x-a", b"1\0")),
        ("CR LF in a name", (name_with_all.as_bytes(), b"1")),
        ("LF in a name", (b"x-a\nx-smuggled", b"1")),
        ("a colon in a name", (b"x-a:b", b"1")),
        ("a name that begins with a colon", (b":x-a", b"1")),
        ("a blank in a name", (b"x a", b"1")),
        ("a blank behind a name", (b"content-length ", b"35")),
        ("an empty name", (b"", b"1")),
        ("capitals in a name", (b"X-A", b"1")),
        ("8-bit bytes in a name", (b"x-\xff", b"1")),
        ("chunked", (b"transfer-encoding", b"chunked")),
        ("connection", (b"connection", b"close")),
        ("keep-alive", (b"keep-alive", b"timeout=5")),
        ("proxy-connection", (b"proxy-connection", b"close")),
        ("upgrade", (b"upgrade", b"websocket")),
        ("te with more than trailers", (b"te", b"gzip")),
        ("another host", (b"host", b"b")),
        ("a second path", (b":path", b"/smuggled")),
    ];
    let mut blocks: Vec<(String, Vec<u8>)> =
        changed.into_iter().map(|(name, field)| (name.to_owned(), fields(&[field], &[]))).collect();
    blocks.extend(added.into_iter().map(|(name, field)| (name.to_owned(), fields(&[], &[field]))));
    let mut failures = Vec::new();
    for (name, block) in blocks {
        let before = target.origin.seen().len();
        let mut client = RawH2::open(target.address, &[]).expect("connect");
        let outcome = client.outcome(1, &[Frame::headers(1, block, true)]).expect("an answer");
        let is_refused = !matches!(outcome, Outcome::Status(status) if status < 400);
        let seen: Vec<_> = target.origin.seen().into_iter().skip(before).map(|seen| seen.path).collect();
        if !is_refused || !seen.is_empty() {
            failures.push(format!("{name}: {outcome:?}, at the origin {seen:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn http2_bodies_are_as_long_as_they_say() {
    if !wants_ours() {
        return;
    }
    let target = Target::start();
    let head = |length: &'static [u8]| fields(&[(b":method", b"POST")], &[(b"content-length", length)]);
    let two = fields(&[(b":method", b"POST")], &[(b"content-length", b"0"), (b"content-length", b"35")]);
    // Header block, data, whether that is a request.
    let table: [(&str, Vec<u8>, &[u8], bool); 8] = [
        ("as it says", head(b"2"), b"ok", true),
        ("more than it says", head(b"2"), b"okGET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n", false),
        ("less than it says", head(b"35"), b"ok", false),
        ("something after nothing", head(b"0"), HIDDEN.as_bytes(), false),
        ("a length with a plus", head(b"+2"), b"ok", false),
        ("a length that is no number", head(b"two"), b"ok", false),
        ("a list of lengths", head(b"2, 2"), b"ok", false),
        ("two lengths", two, HIDDEN.as_bytes(), false),
    ];
    let mut failures = Vec::new();
    for (name, block, data, is_request) in table {
        let before = target.origin.seen().len();
        let mut client = RawH2::open(target.address, &[]).expect("connect");
        let frames = [Frame::headers(1, block, false), Frame::data(1, data.to_vec(), true)];
        let outcome = client.outcome(1, &frames).expect("an answer");
        let is_served = outcome == Outcome::Status(200);
        // Nobody waits for a request that isn't one; the next one tells that it never arrives whole.
        assert_eq!(Request::get("/next").send(target.address).expect("an answer").status, 200);
        let seen = target.origin.seen().into_iter().skip(before).filter(|seen| seen.path != "/next" && seen.whole);
        let seen: Vec<_> = seen.map(|seen| (seen.path, String::from_utf8_lossy(&seen.body).into_owned())).collect();
        let is_right = if is_request { is_served && seen.len() == 1 } else { !is_served && seen.is_empty() };
        if !is_right {
            failures.push(format!("{name}: {outcome:?}, at the origin {seen:?}"));
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    target.plane.admin.stat_reaches("http.main.downstream_rq_total", 8, DEADLINE).expect("they were counted");
}
