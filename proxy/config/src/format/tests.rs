//! Formats: what parses, and what they evaluate to.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_http::{HeaderName, Headers, ResponseFlags, ResponseHead, StreamState, TimingPoint, UpstreamInfo};

use super::{Format, FormatError, FormatValue};

fn name(text: &str) -> HeaderName {
    HeaderName::from_bytes(text.as_bytes()).unwrap()
}

fn stream() -> StreamState {
    let mut state = StreamState::default();
    state.request.path = Bytes::from_static(b"/a/b?q=1");
    state.request.authority = Bytes::from_static(b"a.test");
    state.request.headers.append(HeaderName::USER_AGENT, Bytes::from_static(b"curl/8\x1b[1m\t\x7f"));
    state.request.headers.append(HeaderName::CONTENT_TYPE, Bytes::from_static(b"application/grpc"));
    let mut response = ResponseHead::new(503);
    response.headers.append(name("x-envoy-upstream-service-time"), Bytes::from_static(b"12"));
    state.response = Some(response);
    let mut trailers = Headers::new();
    trailers.append(HeaderName::GRPC_STATUS, Bytes::from_static(b"14"));
    state.response_trailers = Some(trailers);
    let info = &mut state.info;
    info.flags.insert(ResponseFlags::UPSTREAM_CONNECTION_FAILURE);
    info.flags.insert(ResponseFlags::UPSTREAM_RETRY_LIMIT_EXCEEDED);
    info.downstream_mut().remote = Some("[2001:db8::1]:4711".parse().unwrap());
    info.upstream = Some(Rc::new(UpstreamInfo::new(SocketAddr::from(([10, 0, 0, 1], 80)).into())));
    info.cluster_name = Some("shop/api:80".into());
    info.code_details = "via_upstream".into();
    info.request_body_bytes = 7;
    info.downstream_mut().id = 42;
    info.timings.set(TimingPoint::UpstreamResponseStart, Duration::from_micros(5_900));
    info.timings.set(TimingPoint::ResponseComplete, Duration::from_millis(8));
    info.extras_mut().filter_state.insert("wasm.stamp".to_owned(), Bytes::from_static(b"v1"));
    state
}

#[test]
fn operators_evaluate() {
    let state = stream();
    let check = |format: &str, expected: &str| {
        let mut out = Vec::new();
        Format::parse(format).unwrap().write(&state, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
    };
    check("", "");
    check("100%% sure", "100% sure");
    check("%REQ(:METHOD)% %REQ(:PATH)% %REQ(:AUTHORITY)% %REQ(:SCHEME)%", "GET /a/b?q=1 a.test http");
    check("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %REQ(:PATH):4% %REQ_WITHOUT_QUERY(:PATH)%", "/a/b?q=1 /a/b /a/b");
    check("%REQ(X)% %REQ(X?Y)% %RESP(X)% %TRAILER(X)%", "- - - -");
    check("%REQ(User-Agent)%", r"curl/8\x1b[1m\x09\x7f");
    check("%RESP(X-Envoy-Upstream-Service-Time)%ms %RESP(:STATUS)% %RESPONSE_CODE%", "12ms 503 503");
    check("%PROTOCOL% %RESPONSE_FLAGS% %RESPONSE_CODE_DETAILS%", "HTTP/1.1 UF,URX via_upstream");
    check("%BYTES_RECEIVED% %BYTES_SENT% %CONNECTION_ID%", "7 0 42");
    check("%DURATION% %REQUEST_DURATION% %RESPONSE_DURATION% %RESPONSE_TX_DURATION%", "8 - 5 2");
    check("%UPSTREAM_HOST% %UPSTREAM_CLUSTER% %UPSTREAM_LOCAL_ADDRESS%", "10.0.0.1:80 shop/api:80 -");
    check("%DOWNSTREAM_REMOTE_ADDRESS%", "[2001:db8::1]:4711");
    check("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT% %DOWNSTREAM_REMOTE_PORT%", "2001:db8::1 4711");
    check("%GRPC_STATUS% %GRPC_STATUS(SNAKE_STRING)% %GRPC_STATUS(NUMBER)%", "Unavailable UNAVAILABLE 14");
    check("%GRPC_STATUS_NUMBER% %TRAILER(grpc-status)%", "14 14");
    check("%FILTER_STATE(stamp)% %FILTER_STATE(wasm.stamp:PLAIN)% %FILTER_STATE(no:TYPED:8)%", "- v1 -");
    check("%REQUESTED_SERVER_NAME% %DYNAMIC_METADATA(a:b)% %VIRTUAL_CLUSTER_NAME%", "- - -");
    check("%REQUESTED_SERVER_NAME(SNI_FIRST)% %PATH(NQ)% %QUERY_PARAM(q)% %QUERY_PARAMS%", "a.test /a/b 1 q=1");
    check("%RESPONSE_FLAGS_LONG% %ACCESS_LOG_TYPE%", "UpstreamConnectionFailure,UpstreamRetryLimitExceeded NotSet");
    check("%UPSTREAM_HOST_NAME% %UPSTREAM_REMOTE_ADDRESS% %UPSTREAM_HOSTS_ATTEMPTED%", "10.0.0.1:80 - -");
    check("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(16)%", "2001::/16");
    check("%UPSTREAM_CLUSTER:4%|%RESPONSE_FLAGS:2%|%CONNECTION_ID:1%", "shop|UF|4");
}

#[test]
fn start_time_takes_any_bracket_and_percent_sign() {
    let mut state = StreamState::default();
    state.info.start_time = std::time::UNIX_EPOCH;
    let check = |format: &str, expected: &str| {
        let mut out = Vec::new();
        Format::parse(format).unwrap().write(&state, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
    };
    check("%START_TIME%", "1970-01-01T00:00:00.000Z");
    check("%START_TIME(%Y/%m/%d (%H):%%)% x", "1970/01/01 (00):% x");
    check("%START_TIME(%s)%%START_TIME(%3f):2%", "000");
}

#[test]
fn header_values_are_neither_dashed_nor_escaped() {
    let state = stream();
    let mut out = Vec::new();
    Format::parse_header("%REQ(X)%|%REQ(USER-AGENT)%").unwrap().write(&state, &mut out);
    assert_eq!(out, b"|curl/8\x1b[1m\t\x7f");
    out.clear();
    Format::parse("%REQ(X)%|").unwrap().omit_empty().write(&state, &mut out);
    assert_eq!(out, b"|");
}

#[test]
fn values_keep_their_type() {
    let state = stream();
    let check = |format: &str, expected: FormatValue| {
        assert_eq!(Format::parse(format).unwrap().value(&state), expected, "{format}");
    };
    check("%RESPONSE_CODE%", FormatValue::Number(503));
    check("%REQ(X)%", FormatValue::Null);
    check("%REQ(X)%%REQ(Y)%", FormatValue::Text(b"--".to_vec()));
    check("plain", FormatValue::Text(b"plain".to_vec()));
    check("%REQ(USER-AGENT):8%", FormatValue::Text(b"curl/8\x1b[".to_vec()));
}

#[test]
fn bad_formats_name_the_operator() {
    let check = |format: &str, expected: &str| {
        assert_eq!(Format::parse(format).unwrap_err().to_string(), expected, "{format}");
    };
    check("%", "no operator ends the % at byte 0 (a literal percent sign is %%)");
    check("a %REQ(X", "no operator ends the % at byte 2 (a literal percent sign is %%)");
    check("%REQ(X)", "no operator ends the % at byte 0 (a literal percent sign is %%)");
    check("%REQ(X):% ", "no operator ends the % at byte 0 (a literal percent sign is %%)");
    check("50% off", "no operator ends the % at byte 2 (a literal percent sign is %%)");
    check("%NO_SUCH_THING%", "unknown operator %NO_SUCH_THING%");
    check("%REQ%", "operator %REQ%: \"\" is no header name");
    check("%REQ(a b)%", "operator %REQ%: \"a b\" is no header name");
    check("%PROTOCOL(x)%", "operator %PROTOCOL%: takes no argument");
    check("%START_TIME(%Q)%", "operator %START_TIME%: %Q is not known");
    check("%GRPC_STATUS(x)%", "operator %GRPC_STATUS%: takes CAMEL_STRING, SNAKE_STRING or NUMBER");
    check("%DYNAMIC_METADATA%", "operator %DYNAMIC_METADATA%: takes a namespace");
    check(
        "%METADATA(x:y)%",
        "operator %METADATA%: is of DYNAMIC, CLUSTER, UPSTREAM_HOST, ROUTE, VIRTUAL_HOST, LISTENER or LISTENER_FILTER_CHAIN",
    );
    check("%PATH(X)%", "operator %PATH%: takes WQ or NQ");
    check("%PATH(WQ:X)%", "operator %PATH%: takes ORIG, PATH or ORIG_OR_PATH after the colon");
    check("%QUERY_PARAM%", "operator %QUERY_PARAM%: takes the name of a parameter");
    check(
        "%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(x)%",
        "operator %UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%: takes the length of a prefix",
    );
    check("%FILTER_STATE%", "operator %FILTER_STATE%: takes the key of a filter state object");
    assert_eq!(Format::parse(&"x".repeat(Format::TEXT_BYTES_MAX + 1)), Err(FormatError::TooLong));
}

#[test]
fn literals_are_known_as_such() {
    assert_eq!(Format::parse("a%%b").unwrap().as_literal(), Some(&Bytes::from_static(b"a%b")));
    assert_eq!(Format::parse("").unwrap().as_literal(), Some(&Bytes::new()));
    assert_eq!(Format::parse("%PROTOCOL%").unwrap().as_literal(), None);
    assert_eq!(Format::literal(Bytes::from_static(b"%")).as_literal(), Some(&Bytes::from_static(b"%")));
}

#[test]
fn spans_between_points() {
    let mut state = stream();
    let start = state.info.start;
    state.info.downstream_mut().start = start.checked_sub(Duration::from_millis(3));
    let check = |state: &StreamState, format: &str, expected: &str| {
        let mut out = Vec::new();
        Format::parse(format).unwrap().write(state, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{format}");
    };
    check(&state, "%COMMON_DURATION(DS_CX_BEG:DS_RX_BEG)%", "3");
    check(&state, "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG:us)%", "5900");
    check(&state, "%COMMON_DURATION(US_RX_BEG:DS_TX_END:ns)%", "2100000");
    check(&state, "%COMMON_DURATION(DS_TX_END:US_RX_BEG)% %COMMON_DURATION(DS_RX_BEG:US_TX_END)%", "- -");
    check(&state, "%COMMON_DURATION(DS_RX_BEG:of_a_filter)%", "-");
    state.info.timings.forget_attempt();
    check(&state, "%COMMON_DURATION(DS_RX_BEG:US_RX_BEG)% %COMMON_DURATION(DS_RX_BEG:DS_TX_END)%", "- 8");
    for bad in ["%COMMON_DURATION%", "%COMMON_DURATION(DS_RX_BEG)%", "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:h)%"] {
        assert!(Format::parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn the_first_that_has_a_value() {
    let state = stream();
    let check = |operators: &str, expected: &str| {
        let mut out = Vec::new();
        let format = format!("%COALESCE({{\"operators\": [{operators}]}})%");
        Format::parse(&format).unwrap().write(&state, &mut out);
        assert_eq!(String::from_utf8(out).unwrap(), expected, "{operators}");
    };
    check(r#""ROUTE_NAME", "CUSTOM_FLAGS", {"command": "REQ", "param": ":authority"}"#, "a.test");
    check(r#"{"command": "REQ", "param": ":authority", "max_length": 3}"#, "a.t");
    check(r#""ROUTE_NAME""#, "-");
    check(r#"{"command": "COALESCE", "param": "{\"operators\": [\"RESPONSE_CODE\"]}"}"#, "503");
    let bad = |argument: &str| assert!(Format::parse(&format!("%COALESCE({argument})%")).is_err(), "{argument}");
    bad("");
    bad("[]");
    bad(r#"{"operators": []}"#);
    bad(r#"{"operators": ["NOTHING"]}"#);
    bad(r#"{"operators": [{"command": "REQ", "param": 1}]}"#);
    bad(r#"{"operators": [{"command": "REQ", "param": "a", "max_length": 0}]}"#);
}
