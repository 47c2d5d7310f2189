//! Tables of requests and configurations, on the SDK's test host.

use outrigger_filter_sdk::testing::{Exchange, TestHost};

use crate::ApiKeyAuth;

fn sha256(text: &str) -> String {
    use sha2::{Digest, Sha256};
    Sha256::digest(text).iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A configuration with alice's and bob's keys and these other fields.
fn config(fields: &str) -> String {
    let key = |name: &str, key: &str| format!(r#"{{"name": "{name}", "sha256": "{}"}}"#, sha256(key));
    let keys = [key("alice", "alice-key"), key("alice", "alice-new"), key("bob", "bob-key")].join(", ");
    format!(r#"{{"keys": [{keys}]{fields}}}"#)
}

fn host(fields: &str) -> TestHost<ApiKeyAuth> {
    TestHost::with_config(&config(fields))
}

fn send(host: &mut TestHost<ApiKeyAuth>, path: &str, headers: &[(&str, &str)]) -> Exchange {
    let mut all = vec![(":method", "GET"), (":path", path), (":authority", "shop")];
    all.extend_from_slice(headers);
    host.request(&all)
}

/// Sends a request; the identity that the upstream gets, or the details of the denial.
fn outcome(host: &mut TestHost<ApiKeyAuth>, path: &str, headers: &[(&str, &str)]) -> Result<Vec<String>, String> {
    let exchange = send(host, path, headers);
    match exchange.reply() {
        Some(reply) => Err(reply.details.clone()),
        None => Ok(exchange.request_header("x-api-key-name")),
    }
}

fn check(fields: &str, path: &str, headers: &[(&str, &str)], expected: Result<&str, &str>) {
    let found = outcome(&mut host(fields), path, headers);
    let expected = expected.map(|name| vec![name.to_owned()]).map_err(str::to_owned);
    assert_eq!(found, expected, "{fields} {path} {headers:?}");
}

#[test]
fn keys_in_a_header() {
    for (headers, expected) in [
        (&[("x-api-key", "alice-key")][..], Ok("alice")),
        (&[("X-API-Key", "alice-new")], Ok("alice")),
        (&[("x-api-key", "bob-key")], Ok("bob")),
        (&[], Err("api_key_missing")),
        (&[("x-api-key", "")], Err("api_key_missing")),
        (&[("x-api-keys", "bob-key")], Err("api_key_missing")),
        (&[("x-api-key", "bob-key ")], Err("api_key_unknown")),
        (&[("x-api-key", "BOB-KEY")], Err("api_key_unknown")),
        (&[("x-api-key", "0e0f98fb5b4f6b9e4a5f7ba1f4e8c1de")], Err("api_key_unknown")),
        (&[("x-api-key", "bob-key, alice-key")], Err("api_key_unknown")),
        (&[("x-api-key", "bob-key"), ("x-api-key", "bob-key")], Err("api_key_repeated")),
        (&[("x-api-key", "bob-key"), ("X-Api-Key", "guess")], Err("api_key_repeated")),
        (&[("authorization", "Bearer bob-key")], Err("api_key_missing")),
    ] {
        check("", "/?x-api-key=bob-key", headers, expected);
    }
    let long = "x".repeat(4097);
    check("", "/", &[("x-api-key", &long)], Err("api_key_unknown"));
    // The hash itself is no key.
    check("", "/", &[("x-api-key", &sha256("bob-key"))], Err("api_key_unknown"));
}

#[test]
fn keys_after_a_scheme() {
    let fields = r#", "header": "Authorization", "scheme": "Bearer""#;
    for (value, expected) in [
        ("Bearer bob-key", Ok("bob")),
        ("bearer   bob-key", Ok("bob")),
        ("Bearer", Err("api_key_missing")),
        ("Bearer ", Err("api_key_missing")),
        ("Bearerbob-key", Err("api_key_missing")),
        ("Basic bob-key", Err("api_key_missing")),
        ("bob-key", Err("api_key_missing")),
        ("Bearer guess", Err("api_key_unknown")),
    ] {
        check(fields, "/", &[("authorization", value)], expected);
    }
}

#[test]
fn keys_in_the_query() {
    let fields = r#", "query_param": "key""#;
    for (path, headers, expected) in [
        ("/?key=bob-key", &[][..], Ok("bob")),
        ("/?a=b&k%65y=bob%2Dkey", &[], Ok("bob")),
        ("/", &[("x-api-key", "bob-key")], Ok("bob")),
        ("/?key=bob-key", &[("x-api-key", "bob-key")], Err("api_key_repeated")),
        ("/?key=", &[("x-api-key", "bob-key")], Err("api_key_repeated")),
        ("/?key=bob-key&key=bob-key", &[], Err("api_key_repeated")),
        ("/?key=bob-key&%6bey=x", &[], Err("api_key_repeated")),
        ("/?key", &[], Err("api_key_missing")),
        ("/key=bob-key", &[], Err("api_key_missing")),
        ("/?key=guess", &[], Err("api_key_unknown")),
    ] {
        check(fields, path, headers, expected);
    }
    let only_query = r#", "query_param": "key", "header": null"#;
    check(only_query, "/?key=bob-key", &[], Ok("bob"));
    check(only_query, "/", &[("x-api-key", "bob-key")], Err("api_key_missing"));
}

#[test]
fn credentials_are_hidden_unless_told() {
    for (fields, path, header, path_left) in [
        ("", "/a?key=1", &[][..], "/a?key=1"),
        (r#", "hide_credentials": false"#, "/", &["bob-key"], "/"),
        (r#", "query_param": "key""#, "/a?x=1&key=bob-key", &[], "/a?x=1"),
        (r#", "query_param": "key", "hide_credentials": false"#, "/a?key=bob-key", &[], "/a?key=bob-key"),
    ] {
        let headers: &[(&str, &str)] = if path.contains("bob-key") { &[] } else { &[("x-api-key", "bob-key")] };
        let exchange = send(&mut host(fields), path, headers);
        assert_eq!(exchange.reply(), None, "{fields}");
        assert_eq!(exchange.request_header("x-api-key"), header, "{fields}");
        assert_eq!(exchange.request_header(":path"), [path_left], "{fields}");
    }
}

#[test]
fn a_client_cannot_name_itself() {
    let forged = &[("x-api-key", "bob-key"), ("x-api-key-name", "root"), ("X-Api-Key-Name", "alice")];
    check("", "/", forged, Ok("bob"));
    let exchange = send(
        &mut host(r#", "forward_identity_header": "X-Consumer""#),
        "/",
        &[("x-api-key", "bob-key"), ("x-consumer", "root")],
    );
    assert_eq!(exchange.request_header("x-consumer"), ["bob"]);
    let exchange = send(&mut host(r#", "forward_identity_header": null"#), "/", &[("x-api-key", "bob-key")]);
    assert_eq!(exchange.request_header("x-api-key-name"), [""; 0]);
}

#[test]
fn denials() {
    let mut host = host(r#", "realm": "a \"shop\"""#);
    let mut exchange = send(&mut host, "/", &[]);
    let reply = exchange.reply().unwrap().clone();
    assert_eq!((reply.status, reply.grpc_status), (401, 16));
    assert_eq!(reply.header("content-type"), ["application/problem+json"]);
    assert_eq!(reply.header("www-authenticate"), [r#"ApiKey realm="a \"shop\"""#]);
    let problem =
        r#"{"type":"about:blank","title":"Unauthorized","status":401,"detail":"The request has no API key."}"#;
    assert_eq!(reply.body.trim_end(), problem);
    assert!(exchange.paused());
    assert_eq!(exchange.respond(&[(":status", "200")]).calls(), [""; 0]);
    let details: Vec<_> = [&[("x-api-key", "guess")][..], &[("x-api-key", "a"), ("x-api-key", "b")]]
        .into_iter()
        .map(|headers| send(&mut host, "/", headers).reply().unwrap().json()["detail"].as_str().unwrap().to_owned())
        .collect();
    assert_eq!(details, ["The API key is not known.", "The request has more than one API key."]);
    assert!(host.take_logs().is_empty(), "nothing of a request is logged");
}

#[test]
fn counters() {
    let mut host = host("");
    assert_eq!((host.metric("api_key_auth_allowed"), host.metric("api_key_auth_denied")), (Some(0), Some(0)));
    for key in ["bob-key", "guess", "alice-key", "alice-new", ""] {
        drop(send(&mut host, "/", &[("x-api-key", key)]));
    }
    assert_eq!((host.metric("api_key_auth_allowed"), host.metric("api_key_auth_denied")), (Some(3), Some(2)));
}

#[test]
fn a_host_that_fails_lets_nobody_in() {
    for call in ["proxy_get_header_map_pairs", "proxy_add_header_map_value", "proxy_remove_header_map_value"] {
        let mut host = host("");
        host.fail(call, 10);
        let exchange = send(&mut host, "/", &[("x-api-key", "bob-key")]);
        assert_eq!(exchange.reply().map(|reply| reply.status), Some(500), "{call}");
    }
}

#[test]
fn configurations_that_are_refused() {
    let key = format!(r#"{{"name": "a", "sha256": "{}"}}"#, sha256("x"));
    let keys = |extra: &str| format!(r#"{{"keys": [{key}]{extra}}}"#);
    for (json, expected) in [
        (String::new(), "keys: missing"),
        ("{}".into(), "keys: missing"),
        (r#"{"keys": []}"#.into(), "keys: is empty, nobody could pass"),
        (r#"{"keys": [{"name": "a"}]}"#.into(), "keys[0].sha256: missing"),
        (format!(r#"{{"keys": [{key}, {{"sha256": ""}}]}}"#), "keys[1].name: missing"),
        (
            r#"{"keys": [{"name": "a", "sha256": "abc"}]}"#.into(),
            "keys[0].sha256: is not a SHA-256 of 64 hexadecimal digits",
        ),
        (
            r#"{"keys": [{"name": "a", "key": "plain"}]}"#.into(),
            "keys[0].key: unknown field, expected `name` or `sha256`",
        ),
        (r#"{"keys": [{"name": "", "sha256": ""}]}"#.into(), "keys[0].name: has not 1 to 256 bytes"),
        (
            r#"{"keys": [{"name": "a\nb", "sha256": ""}]}"#.into(),
            "keys[0].name: has a line feed, which no header value may have",
        ),
        (format!(r#"{{"keys": [{key}, {key}]}}"#), "keys[1].sha256: is the same as keys[0].sha256"),
        (format!(r#"{{"keys": [{}]}}"#, vec![key.as_str(); 10_001].join(",")), "keys: has more than 10000 elements"),
        (keys(r#", "header": "x y""#), "header: `x y` has a space, which no header name may have"),
        (keys(r#", "header": ":path""#), "header: `:path` is a pseudo-header"),
        (keys(r#", "header": "Host""#), "header: `host` belongs to the proxy"),
        (keys(r#", "header": null"#), "header: is null, and there is no query_param either"),
        (keys(r#", "header": null, "query_param": "k", "scheme": "Bearer""#), "scheme: needs a header"),
        (keys(r#", "scheme": "a b""#), "scheme: `a b` has a space, which no header name may have"),
        (keys(r#", "query_param": """#), "query_param: has not 1 to 256 bytes"),
        (
            keys(r#", "forward_identity_header": "X-Api-Key""#),
            "forward_identity_header: is the header that carries the key",
        ),
        (keys(r#", "hide_credentials": "yes""#), "hide_credentials: is a string, expected true or false"),
        (keys(r#", "realm": "a\rb""#), "realm: has a carriage return, which no header value may have"),
        (
            keys(r#", "relam": "a""#),
            "relam: unknown field, expected `keys`, `header`, `scheme`, `query_param`, `forward_identity_header`, `hide_credentials` or `realm`",
        ),
    ] {
        let error = TestHost::<ApiKeyAuth>::new().configure(&json).unwrap_err();
        assert_eq!(error, format!("invalid configuration: {expected}"), "{json}");
    }
}
