use super::*;

const LIMITS: HeadLimits = HeadLimits { bytes_max: 2048, headers_max: 8, accept_http_10: false };

fn request(text: &str) -> Result<Option<ParsedRequest>, HeadError> {
    parse_request(&mut BytesMut::from(text), &mut HeadScan::default(), LIMITS)
}

fn response(text: &str, method: &Method) -> Result<Option<ParsedResponse>, HeadError> {
    parse_response(&mut BytesMut::from(text), &mut HeadScan::default(), LIMITS, method)
}

#[test]
fn requests_that_are_refused() {
    let check = |text: &str, expected: HeadError| {
        assert_eq!(request(text).map(|parsed| parsed.is_some()), Err(expected), "{text:?}");
    };
    check("GET / HTTP/1.1\nHost: a\n\n", HeadError::BareLineBreak);
    check("GET / HTTP/1.1\r\nHost: a\nX: y\r\n\r\n", HeadError::BareLineBreak);
    check("GET / HTTP/1.1\r\nHost: a\r\nX: y\rZ: w\r\n\r\n", HeadError::Malformed);
    check("GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n folded\r\n\r\n", HeadError::Malformed);
    check("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", HeadError::Malformed);
    check("GET\t/\tHTTP/1.1\r\nHost: a\r\n\r\n", HeadError::Malformed);
    check("GET /a#b HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::InvalidTarget);
    check("GET a HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::InvalidTarget);
    check("GET ftp://a/ HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::InvalidTarget);
    check("GET http:///x HTTP/1.1\r\nHost: a\r\n\r\n", HeadError::InvalidHost);
    check("GET / HTTP/1.1\r\n\r\n", HeadError::InvalidHost);
    check("GET http://a/ HTTP/1.1\r\n\r\n", HeadError::InvalidHost);
    check("GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", HeadError::InvalidHost);
    for host in ["", "u@host", "host:x", "[::1", "[]", "a b", "a/b", "host:", "host:123456", "[::1]x"] {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), HeadError::InvalidHost);
    }
    check("GET / HTTP/1.0\r\n\r\n", HeadError::LowVersion);
    check("GET / HTTP/2.0\r\nHost: a\r\n\r\n", HeadError::Malformed);
    check(
        "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
        HeadError::InvalidContentLength,
    );
    for length in ["", "-1", "+1", "1,1", "0x1", "1 1", "99999999999999999999"] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {length}\r\n\r\n");
        check(&text, HeadError::InvalidContentLength);
    }
    let both = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n";
    check(both, HeadError::ConflictingLengths);
    for coding in ["gzip, chunked", "identity, chunked", "identity", "chunked, chunked", "xchunked", ""] {
        let text = format!("POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: {coding}\r\n\r\n");
        check(&text, HeadError::UnsupportedTransferEncoding);
    }
    check(&format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(2048)), HeadError::TooLarge);
    check(&"x".repeat(2048), HeadError::TooLarge);
    check(&format!("GET / HTTP/1.1\r\nHost: a\r\n{}\r\n", "a: b\r\n".repeat(8)), HeadError::TooManyHeaders);
}

#[test]
fn a_target_is_text() {
    let check = |target: &[u8], expected: Result<bool, HeadError>| {
        let text = [b"GET /", target, b" HTTP/1.1\r\nHost: a\r\n\r\n"].concat();
        let parsed = parse_request(&mut BytesMut::from(&text[..]), &mut HeadScan::default(), LIMITS);
        assert_eq!(parsed.map(|parsed| parsed.is_some()), expected, "{target:?}");
    };
    check("\u{e9}".as_bytes(), Ok(true));
    check(b"\xe9", Err(HeadError::Malformed));
    check(b"\x7f", Err(HeadError::Malformed));
}

#[test]
fn requests_that_are_read() {
    let check = |text: &str, authority: &str, path: &str, body: BodyLength, keep_alive: bool| {
        let parsed = request(text).expect("accepted").expect("complete");
        assert_eq!(
            (&parsed.head.authority[..], &parsed.head.path[..]),
            (authority.as_bytes(), path.as_bytes()),
            "{text:?}"
        );
        assert_eq!((parsed.body, parsed.keep_alive), (body, keep_alive), "{text:?}");
    };
    check("GET /a?b HTTP/1.1\r\nHost: h:81\r\n\r\n", "h:81", "/a?b", BodyLength::None, true);
    check("\r\nGET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", "[::1]:80", "/", BodyLength::None, true);
    check("GET HTTP://x:1/p HTTP/1.1\r\nHost: h\r\nConnection: Close\r\n\r\n", "x:1", "/p", BodyLength::None, false);
    check("GET http://x?q HTTP/1.1\r\nHost: h\r\n\r\n", "x", "/?q", BodyLength::None, true);
    check("OPTIONS * HTTP/1.1\r\nHost: h\r\n\r\n", "h", "*", BodyLength::None, true);
    check("CONNECT a:1 HTTP/1.1\r\nHost: h\r\n\r\n", "a:1", "", BodyLength::None, true);
    check("POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 7\r\n\r\n", "h", "/", BodyLength::Length(7), true);
    check("WHAT / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: Chunked\r\n\r\n", "h", "/", BodyLength::Chunked, true);
}

#[test]
fn a_connection_keeps_its_own_fields() {
    let text = "GET / HTTP/1.1\r\nHost: h\r\nConnection: x-mine, Upgrade\r\nX-Mine: 1\r\nUpgrade: websocket\r\nKeep-Alive: 1\r\nX-Yours: 2\r\nTE: gzip\r\n\r\n";
    let parsed = request(text).expect("accepted").expect("complete");
    let names: Vec<&str> = parsed.head.headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["x-yours"]);
    assert_eq!(parsed.upgrade.as_deref(), Some(&b"websocket"[..]));
}

#[test]
fn a_head_may_come_byte_by_byte() {
    let text = b"GET / HTTP/1.1\r\nHost: a\r\n\r\nrest";
    let mut buffer = BytesMut::new();
    let mut scan = HeadScan::default();
    for (index, byte) in text.iter().enumerate() {
        buffer.extend_from_slice(&[*byte]);
        let parsed = parse_request(&mut buffer, &mut scan, LIMITS).expect("well formed");
        assert_eq!(parsed.is_some(), index == text.len() - 5, "{index}");
    }
    assert_eq!(&buffer[..], b"rest");
}

#[test]
fn responses() {
    let body = |text: &str, method: &Method| response(text, method).expect("accepted").expect("complete").body;
    assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", &Method::Get), BodyLength::Length(3));
    assert_eq!(body("HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n", &Method::Head), BodyLength::None);
    assert_eq!(body("HTTP/1.1 304 N\r\nContent-Length: 3\r\n\r\n", &Method::Get), BodyLength::None);
    assert_eq!(body("HTTP/1.1 204\r\n\r\n", &Method::Get), BodyLength::None);
    assert_eq!(body("HTTP/1.1 200 OK\r\n\r\n", &Method::Get), BodyLength::UntilClose);
    assert_eq!(body("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", &Method::Get), BodyLength::Chunked);
    let check =
        |text: &str, expected: HeadError| assert_eq!(response(text, &Method::Get).err(), Some(expected), "{text:?}");
    check("HTTP/1.1 1000 X\r\n\r\n", HeadError::Malformed);
    check("HTTP/1.1 999 X\r\n\r\n", HeadError::InvalidStatus);
    check("HTTP/0.9 200 X\r\n\r\n", HeadError::Malformed);
    check("HTTP/2.0 200 X\r\n\r\n", HeadError::Malformed);
    check("HTTP/1.1 200 X\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n", HeadError::InvalidContentLength);
    check("HTTP/1.1 200 X\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n", HeadError::ConflictingLengths);
}
