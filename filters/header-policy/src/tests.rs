//! Tables of configurations and headers, on the SDK's test host.

use outrigger_filter_sdk::testing::TestHost;

use crate::HeaderPolicy;

const REQUEST: &[(&str, &str)] = &[(":method", "GET"), (":path", "/"), ("x-a", "1"), ("x-b", "2"), ("X-A", "3")];

/// Both sides are the same code, so each configuration runs on both; the expected headers are those with `x-`.
fn check(operations: &str, expected: &[(&str, &str)]) {
    let expected: Vec<_> = expected.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
    let of_policy =
        |headers: Vec<(String, String)>| headers.into_iter().filter(|(name, _)| name.starts_with("x-")).collect();

    let mut host = TestHost::<HeaderPolicy>::with_config(&format!(r#"{{"request": {operations}}}"#));
    let mut exchange = host.request(REQUEST);
    let headers: Vec<_> = of_policy(exchange.request_headers());
    assert_eq!(headers, expected, "request: {operations}");
    exchange.respond(REQUEST);
    assert_eq!(exchange.calls(), [""; 0], "nothing is asked of the response: {operations}");

    let mut host = TestHost::<HeaderPolicy>::with_config(&format!(r#"{{"response": {operations}}}"#));
    let mut exchange = host.request(REQUEST);
    assert_eq!(exchange.calls(), [""; 0], "nothing is asked of the request: {operations}");
    let headers: Vec<_> = of_policy(exchange.respond(REQUEST).response_headers());
    assert_eq!(headers, expected, "response: {operations}");
}

#[test]
fn operations() {
    check("{}", &[("x-a", "1"), ("x-b", "2"), ("x-a", "3")]);
    check(r#"{"remove": ["X-A"]}"#, &[("x-b", "2")]);
    check(r#"{"remove": ["x-none"]}"#, &[("x-a", "1"), ("x-b", "2"), ("x-a", "3")]);
    check(r#"{"add": [{"name": "x-b", "value": "4"}]}"#, &[("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-b", "4")]);
    check(
        r#"{"add": [{"name": "x-c", "value": ""}, {"name": "x-c", "value": "4"}]}"#,
        &[("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-c", ""), ("x-c", "4")],
    );
    check(r#"{"set": [{"name": "X-B", "value": "4 5"}]}"#, &[("x-a", "1"), ("x-b", "4 5"), ("x-a", "3")]);
    check(r#"{"set": [{"name": "x-c", "value": "4"}]}"#, &[("x-a", "1"), ("x-b", "2"), ("x-a", "3"), ("x-c", "4")]);
    check(r#"{"rename": [{"from": "x-a", "to": "x-b"}]}"#, &[("x-b", "1"), ("x-b", "3")]);
    check(r#"{"rename": [{"from": "x-c", "to": "x-b"}]}"#, &[("x-a", "1"), ("x-b", "2"), ("x-a", "3")]);
}

#[test]
fn order_is_remove_rename_set_add() {
    check(
        r#"{"add": [{"name": "x-a", "value": "added"}], "set": [{"name": "x-a", "value": "set"}],
            "rename": [{"from": "x-b", "to": "x-c"}], "remove": ["x-a"]}"#,
        &[("x-c", "2"), ("x-a", "set"), ("x-a", "added")],
    );
    check(r#"{"rename": [{"from": "x-a", "to": "x-c"}], "remove": ["x-a"]}"#, &[("x-b", "2")]);
}

#[test]
fn costs_one_hostcall_an_operation() {
    let mut host = TestHost::<HeaderPolicy>::with_config(
        r#"{"request": {"set": [{"name": "x-s", "value": "1"}]}, "response": {"add": [{"name": "x-s", "value": "1"}]}}"#,
    );
    let mut exchange = host.request(REQUEST);
    assert_eq!(exchange.calls(), ["proxy_replace_header_map_value"]);
    assert_eq!(exchange.respond(&[(":status", "200")]).calls(), ["proxy_add_header_map_value"]);

    let mut host = TestHost::<HeaderPolicy>::with_config(r#"{"request": {"rename": [{"from": "x-c", "to": "x-b"}]}}"#);
    assert_eq!(host.request(REQUEST).calls(), ["proxy_get_header_map_value"]);
}

#[test]
fn other_responses_are_changed_too() {
    let mut host = TestHost::<HeaderPolicy>::with_config(r#"{"response": {"remove": ["server"]}}"#);
    assert_eq!(host.answered_before().respond(&[(":status", "429"), ("server", "x")]).response_headers().len(), 1);
}

#[test]
fn a_refused_operation_is_no_half_done_request() {
    let mut host =
        TestHost::<HeaderPolicy>::with_config(r#"{"request": {"remove": ["x-a"]}, "response": {"remove": ["x-a"]}}"#);
    host.fail("proxy_remove_header_map_value", 10);
    assert_eq!(host.request(REQUEST).reply().unwrap().status, 500);
    assert_eq!(host.answered_before().respond(REQUEST).reply().unwrap().status, 500);
}

#[test]
fn configurations_that_are_accepted() {
    for json in [
        "",
        "{}",
        r#"{"request": {}, "response": {"remove": []}}"#,
        r#"{"request": {"set": [{"name": "a", "value": ""}]}}"#,
    ] {
        assert_eq!(TestHost::<HeaderPolicy>::new().configure(json), Ok(()), "{json}");
    }
}

#[test]
fn configurations_that_are_refused() {
    let many = format!(r#"{{"request": {{"remove": [{}]}}}}"#, vec![r#""a""#; 65].join(","));
    for (json, expected) in [
        (r#"{"requests": {}}"#, "requests: unknown field, expected `request` or `response`"),
        (
            r#"{"request": {"delete": []}}"#,
            "request.delete: unknown field, expected `remove`, `rename`, `set` or `add`",
        ),
        (r#"{"request": {"set": [{"name": "a"}]}}"#, "request.set[0].value: missing"),
        (r#"{"response": {"add": [{"name": "a", "value": "b"}, {"value": "b"}]}}"#, "response.add[1].name: missing"),
        (r#"{"request": {"set": {"a": "b"}}}"#, "request.set: is an object, expected a list"),
        (
            r#"{"request": {"set": [{"name": "a", "value": 5}]}}"#,
            "request.set[0].value: is a number, expected a string",
        ),
        (
            r#"{"request": {"set": [{"name": "a", "value": "b\r\nc: d"}]}}"#,
            "request.set[0].value: has a carriage return, which no header value may have",
        ),
        (
            r#"{"request": {"add": [{"name": "a", "value": "\u0000"}]}}"#,
            "request.add[0].value: has a NUL, which no header value may have",
        ),
        (
            r#"{"request": {"add": [{"name": "a b", "value": ""}]}}"#,
            "request.add[0].name: `a b` has a space, which no header name may have",
        ),
        (r#"{"request": {"remove": [""]}}"#, "request.remove[0]: is empty"),
        (
            r#"{"request": {"set": [{"name": ":path", "value": "/"}]}}"#,
            "request.set[0].name: `:path` is a pseudo-header",
        ),
        (r#"{"response": {"remove": [":status"]}}"#, "response.remove[0]: `:status` is a pseudo-header"),
        (
            r#"{"request": {"set": [{"name": "Host", "value": "a"}]}}"#,
            "request.set[0].name: `host` belongs to the proxy, a filter may not change it",
        ),
        (
            r#"{"response": {"add": [{"name": "Transfer-Encoding", "value": "chunked"}]}}"#,
            "response.add[0].name: `transfer-encoding` belongs to the proxy, a filter may not change it",
        ),
        (
            r#"{"request": {"remove": ["a", "content-length"]}}"#,
            "request.remove[1]: `content-length` belongs to the proxy, a filter may not change it",
        ),
        (
            r#"{"request": {"rename": [{"from": "a", "to": "connection"}]}}"#,
            "request.rename[0].to: `connection` belongs to the proxy, a filter may not change it",
        ),
        (r#"{"request": {"rename": [{"from": "a", "to": "A"}]}}"#, "request.rename[0].to: `a` is renamed to itself"),
        (
            r#"{"request": {"rename": [{"from": "a", "to": "b"}, {"from": "b", "to": "c"}]}}"#,
            "request.rename[1].from: `b` is in another rename already",
        ),
        (
            r#"{"request": {"set": [{"name": "a", "value": "1"}, {"name": "A", "value": "2"}]}}"#,
            "request.set[1].name: `a` is set twice",
        ),
        (&many, "request.remove: has more than 64 elements"),
    ] {
        let error = TestHost::<HeaderPolicy>::new().configure(json).unwrap_err();
        assert_eq!(error, format!("invalid configuration: {expected}"), "{json}");
    }
}
