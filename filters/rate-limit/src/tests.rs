//! Tables and a seeded simulation, on the SDK's test host.

use std::collections::HashMap;
use std::time::Duration;

use outrigger_filter_sdk::testing::{Exchange, TestHost};

use crate::RateLimit;

const SECOND: Duration = Duration::from_secs(1);

fn host(limits: &str) -> TestHost<RateLimit> {
    let mut host = TestHost::with_config(&format!(r#"{{"limits": [{limits}]}}"#));
    host.set_property("source.address", "10.0.0.1:1000");
    host
}

fn send(host: &mut TestHost<RateLimit>, headers: &[(&str, &str)]) -> Exchange {
    let mut all = vec![(":method", "GET"), (":path", "/"), (":authority", "shop")];
    all.extend_from_slice(headers);
    host.request(&all)
}

/// The status that a client sees.
fn status(host: &mut TestHost<RateLimit>, headers: &[(&str, &str)]) -> u16 {
    send(host, headers).reply().map_or(200, |reply| reply.status)
}

/// How many of so many requests pass.
fn passing(host: &mut TestHost<RateLimit>, headers: &[(&str, &str)], sent: usize) -> usize {
    (0..sent).filter(|_| status(host, headers) == 200).count()
}

#[test]
fn one_bucket_for_all() {
    let mut host = host(r#"{"name": "all", "requests": 10, "per": "1s", "burst": 3}"#);
    assert_eq!(passing(&mut host, &[("x-a", "1")], 5), 3);
    host.set_property("source.address", "10.0.0.2:1000");
    assert_eq!(passing(&mut host, &[("x-a", "2")], 5), 0);
    host.advance(Duration::from_millis(100));
    assert_eq!(passing(&mut host, &[], 5), 1);
    host.advance(60 * SECOND);
    assert_eq!(passing(&mut host, &[], 5), 3);
}

#[test]
fn a_bucket_for_each_header_value() {
    let mut host = host(r#"{"name": "team", "requests": 2, "per": "1m", "key": {"header": "X-Team"}}"#);
    for (team, expected) in [("a", 2), ("b", 2), ("A", 2), ("", 2), ("a", 0)] {
        assert_eq!(passing(&mut host, &[("x-team", team)], 4), expected, "{team}");
    }
    assert_eq!(passing(&mut host, &[], 4), 2, "requests without the header share a bucket");
    assert_eq!(passing(&mut host, &[("x-other", "a")], 4), 0);
    let long = "x".repeat(100_000);
    assert_eq!(passing(&mut host, &[("x-team", &long)], 4), 2);
    assert!(host.shared_data().1 < 1_000, "keys are hashed");
}

#[test]
fn requests_without_the_header_may_be_skipped() {
    let mut host =
        host(r#"{"name": "team", "requests": 1, "per": "1m", "key": {"header": "x-team", "missing": "skip"}}"#);
    assert_eq!(passing(&mut host, &[], 9), 9);
    assert_eq!(passing(&mut host, &[("x-team", "a")], 9), 1);
    let mut exchange = send(&mut host, &[]);
    exchange.respond(&[(":status", "200")]);
    assert_eq!(exchange.response_header("ratelimit"), [""; 0], "no limit applied");
}

#[test]
fn a_bucket_for_each_client() {
    let mut host = host(r#"{"name": "client", "requests": 2, "per": "1m", "key": {"client_address": true}}"#);
    for (address, expected) in [
        ("10.0.0.1:1000", 2),
        ("10.0.0.1:2000", 0),
        ("10.0.0.2:1000", 2),
        ("[2001:db8::1]:1000", 2),
        ("[2001:db8::2]:1000", 0),
        ("[2001:db8:0:1::1]:1000", 2),
        ("[::ffff:10.0.0.2]:1000", 0),
        ("/run/socket", 2),
    ] {
        host.set_property("source.address", address);
        assert_eq!(passing(&mut host, &[], 4), expected, "{address}");
    }
    host.remove_property("source.address");
    assert_eq!(passing(&mut host, &[], 4), 2);
}

#[test]
fn a_refusal_takes_nothing_from_the_other_limits() {
    let limits = r#"{"name": "team", "requests": 5, "per": "1m", "key": {"header": "x-team"}}, {"name": "all", "requests": 8, "per": "1m"}"#;
    let mut host = host(limits);
    assert_eq!(passing(&mut host, &[("x-team", "a")], 20), 5);
    assert_eq!(passing(&mut host, &[("x-team", "b")], 20), 3, "eight in all");
    host.advance(60 * SECOND);
    assert_eq!(passing(&mut host, &[("x-team", "b")], 20), 5, "b was charged for what passed only");

    let exchange = send(&mut host, &[("x-team", "b")]);
    assert_eq!(exchange.reply().unwrap().json()["violated-policies"], serde_json::json!(["team"]));
    drop(exchange);
    assert_eq!(passing(&mut host, &[("x-team", "c")], 3), 3);
    let exchange = send(&mut host, &[("x-team", "b")]);
    let reply = exchange.reply().unwrap();
    assert_eq!(reply.json()["violated-policies"], serde_json::json!(["team", "all"]));
    assert_eq!(reply.header("ratelimit"), [r#""team";r=0;t=12, "all";r=0;t=8"#]);
    assert_eq!(reply.header("retry-after"), ["12"], "the longest wait");
}

#[test]
fn fields_of_responses() {
    let mut host = host(
        r#"{"name": "team", "requests": 60, "per": "1m", "key": {"header": "x-team"}}, {"name": "all", "requests": 20, "per": "1s", "burst": 40}"#,
    );
    let policies = r#""team";q=60;w=60, "all";q=20;w=1;burst=40"#;
    for left in [r#""team";r=59;t=1, "all";r=39;t=1"#, r#""team";r=58;t=2, "all";r=38;t=1"#] {
        let mut exchange = send(&mut host, &[]);
        assert!(exchange.reply().is_none() && !exchange.paused());
        exchange.respond(&[(":status", "404"), ("ratelimit", "\"origin\";r=1")]);
        assert_eq!(exchange.response_header("ratelimit-policy"), [policies]);
        assert_eq!(exchange.response_header("ratelimit"), ["\"origin\";r=1", left]);
    }
    assert_eq!(host.answered_before().respond(&[(":status", "401")]).calls(), [""; 0]);
}

#[test]
fn refusals() {
    let mut host = host(r#"{"name": "slow", "requests": 2, "per": "1m"}"#);
    assert_eq!(passing(&mut host, &[], 2), 2);
    host.advance(Duration::from_millis(500));
    let mut exchange = send(&mut host, &[]);
    let reply = exchange.reply().unwrap().clone();
    assert_eq!((reply.status, reply.details.as_str(), reply.grpc_status), (429, "rate_limited", 8));
    assert_eq!(reply.header("retry-after"), ["30"]);
    assert_eq!(reply.header("content-type"), ["application/problem+json"]);
    assert_eq!(reply.header("ratelimit-policy"), [r#""slow";q=2;w=60"#]);
    assert_eq!(reply.header("ratelimit"), [r#""slow";r=0;t=30"#]);
    let json = reply.json();
    assert_eq!(json["type"], "https://iana.org/assignments/http-problem-types#quota-exceeded");
    assert_eq!((&json["status"], &json["detail"]), (&429.into(), &"Try again in 30 s.".into()));
    assert_eq!(json["violated-policies"], serde_json::json!(["slow"]));
    assert!(exchange.paused());
    exchange.respond(&[(":status", "429")]);
    assert_eq!(exchange.calls(), [""; 0]);
    drop(exchange);
    // Whoever waits as told passes.
    host.advance(30 * SECOND);
    assert_eq!(status(&mut host, &[]), 200);
}

#[test]
fn fields_can_be_left_out() {
    let mut host = TestHost::<RateLimit>::with_config(
        r#"{"limits": [{"name": "a", "requests": 1, "per": "1s"}], "response_headers": false}"#,
    );
    let mut exchange = send(&mut host, &[]);
    assert_eq!(exchange.respond(&[(":status", "200")]).calls(), [""; 0]);
    let exchange = send(&mut host, &[]);
    let names: Vec<_> = exchange.reply().unwrap().headers.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["content-type", "retry-after"]);
}

#[test]
fn workers_share_buckets() {
    let mut one = host(r#"{"name": "all", "requests": 4, "per": "1m"}"#);
    let mut other = one.worker();
    other.configure(r#"{"limits": [{"name": "all", "requests": 4, "per": "1m"}]}"#).unwrap();
    assert_eq!(passing(&mut one, &[], 3), 3);
    assert_eq!(passing(&mut other, &[], 3), 1);
    // A changed limit is another one.
    other.configure(r#"{"limits": [{"name": "all", "requests": 5, "per": "1m"}]}"#).unwrap();
    assert_eq!(passing(&mut other, &[], 9), 5);
    // So is that of another plugin.
    one.set_property("plugin_name", "other");
    other.configure(r#"{"limits": [{"name": "all", "requests": 4, "per": "1m"}]}"#).unwrap();
    assert_eq!(passing(&mut other, &[], 9), 4);
}

#[test]
fn faster_workers_are_waited_for() {
    let mut host = host(r#"{"name": "all", "requests": 100, "per": "1m"}"#);
    host.conflict(15);
    let mut exchange = send(&mut host, &[]);
    exchange.respond(&[(":status", "200")]);
    assert_eq!(exchange.response_header("ratelimit"), [r#""all";r=99;t=1"#], "charged once");
    host.conflict(16);
    assert_eq!(send(&mut host, &[]).respond(&[(":status", "200")]).response_header("ratelimit"), [""; 0]);
    assert_eq!(host.metric("rate_limit_errors"), Some(1));
}

#[test]
fn what_cannot_be_counted() {
    for call in
        ["proxy_get_shared_data", "proxy_set_shared_data", "proxy_get_property", "proxy_get_current_time_nanoseconds"]
    {
        for (on_failure, expected) in [("allow", 200), ("deny", 503)] {
            let json = format!(
                r#"{{"limits": [{{"name": "a", "requests": 1, "per": "1h", "key": {{"client_address": true}}}}], "on_failure": "{on_failure}"}}"#
            );
            let mut host = TestHost::<RateLimit>::with_config(&json);
            host.set_property("source.address", "10.0.0.1:1");
            host.fail(call, 10);
            for _ in 0..3 {
                assert_eq!(status(&mut host, &[]), expected, "{call} {on_failure}");
            }
            assert_eq!(host.metric("rate_limit_errors"), Some(3));
            let logs = host.take_logs();
            if call != "proxy_get_current_time_nanoseconds" {
                assert_eq!(logs.len(), 1, "one line a second: {logs:?}");
                assert!(logs[0].1.contains(call), "{logs:?}");
            }
            host.heal(call);
            assert_eq!((status(&mut host, &[]), status(&mut host, &[])), (200, 429), "{call} {on_failure}");
        }
    }
    let mut host = TestHost::<RateLimit>::with_config(
        r#"{"limits": [{"name": "a", "requests": 1, "per": "1h"}], "on_failure": "deny"}"#,
    );
    host.fail("proxy_set_shared_data", 10);
    let exchange = send(&mut host, &[]);
    let reply = exchange.reply().unwrap();
    assert_eq!((reply.details.as_str(), reply.grpc_status), ("rate_limit_unavailable", 14));
    assert_eq!(
        (reply.header("retry-after"), reply.header("content-type")),
        (vec!["1"], vec!["application/problem+json"])
    );
}

#[test]
fn counters() {
    let mut host = host(r#"{"name": "a", "requests": 2, "per": "1m"}"#);
    passing(&mut host, &[], 5);
    assert_eq!(
        (host.metric("rate_limit_allowed"), host.metric("rate_limit_denied"), host.metric("rate_limit_errors")),
        (Some(2), Some(3), Some(0))
    );
}

#[test]
fn shared_data_is_bounded() {
    let mut host = host(r#"{"name": "a", "requests": 1, "per": "1h", "max_keys": 64, "key": {"header": "x-a"}}"#);
    for number in 0..5_000 {
        assert_eq!(status(&mut host, &[("x-a", &number.to_string())]), 200);
    }
    let (entries, bytes) = host.shared_data();
    assert_eq!(entries, 16);
    assert!(bytes <= 16 * (64 + 24), "{bytes}");
}

#[test]
fn hostcalls() {
    let mut host = host(r#"{"name": "a", "requests": 9, "per": "1h", "key": {"header": "x-a"}}"#);
    let mut exchange = send(&mut host, &[("x-a", "1")]);
    assert_eq!(
        exchange.calls(),
        [
            "proxy_get_current_time_nanoseconds",
            "proxy_get_header_map_value",
            "proxy_get_shared_data",
            "proxy_set_shared_data",
            "proxy_increment_metric"
        ]
    );
    assert_eq!(exchange.respond(&[(":status", "200")]).calls(), ["proxy_add_header_map_value"; 2]);
}

/// Clients, workers and time at random: each decision is that of a bucket that counts tokens one by one.
#[test]
fn decisions_are_those_of_a_token_bucket() {
    const SEED: u64 = 0x5eed_0001;
    let mut random = SEED;
    let mut next = |below: u64| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        random % below
    };
    let json = r#"{"limits": [{"name": "a", "requests": 50, "per": "10s", "burst": 7, "key": {"header": "x-a"}}]}"#;
    let (interval, burst) = (200_000_000_u128, 7);
    let mut workers = vec![TestHost::<RateLimit>::with_config(json)];
    for _ in 0..3 {
        let mut worker = workers[0].worker();
        worker.configure(json).unwrap();
        workers.push(worker);
    }
    // By client: nanoseconds' worth of tokens, and when they were counted.
    let mut tokens: HashMap<u64, (u128, u128)> = HashMap::new();
    let mut now = 0;
    for step in 0..20_000 {
        let pause = if next(4) == 0 { next(400_000_000) } else { next(20_000_000) };
        now += u128::from(pause);
        let (worker, client, conflicts) = (next(4), next(12), u32::try_from(next(3)).unwrap());
        let worker = &mut workers[usize::try_from(worker).unwrap()];
        worker.advance(Duration::from_nanos(pause));
        worker.conflict(conflicts);
        let found = status(worker, &[("x-a", &client.to_string())]);
        worker.conflict(0);

        let (worth, counted) = tokens.entry(client).or_insert((burst * interval, now));
        *worth = (*worth + now - *counted).min(burst * interval);
        *counted = now;
        let expected = if *worth >= interval { 200 } else { 429 };
        if expected == 200 {
            *worth -= interval;
        }
        assert_eq!(found, expected, "seed {SEED:#x}, step {step}, client {client}");
    }
}

#[test]
fn configurations_that_are_refused() {
    let limit = |fields: &str| format!(r#"{{"limits": [{{"name": "a", "requests": 1, "per": "1s"{fields}}}]}}"#);
    let good = r#"{"name": "a", "requests": 1, "per": "1s"}"#;
    for (json, expected) in [
        (String::new(), "limits: missing"),
        (r#"{"limits": []}"#.into(), "limits: has not 1 to 8 elements"),
        (format!(r#"{{"limits": [{}]}}"#, [good; 9].join(",")), "limits: has not 1 to 8 elements"),
        (format!(r#"{{"limits": [{good}, {good}]}}"#), "limits[1].name: `a` is another limit's name"),
        (format!(r#"{{"limits": [{good}, {{"requests": 1, "per": "1s"}}]}}"#), "limits[1].name: missing"),
        (r#"{"limits": [{"name": "a", "per": "1s"}]}"#.into(), "limits[0].requests: missing"),
        (r#"{"limits": [{"name": "a", "requests": 1}]}"#.into(), "limits[0].per: missing"),
        (
            r#"{"limits": [{"name": "a b", "requests": 1, "per": "1s"}]}"#.into(),
            "limits[0].name: is not 1 to 64 letters, digits, `-`, `_` or `.`",
        ),
        (r#"{"limits": [{"name": "a", "requests": 0, "per": "1s"}]}"#.into(), "limits[0].requests: is 0"),
        (
            r#"{"limits": [{"name": "a", "requests": -1, "per": "1s"}]}"#.into(),
            "limits[0].requests: is -1, expected u64",
        ),
        (
            r#"{"limits": [{"name": "a", "requests": 1000001, "per": "1s"}]}"#.into(),
            "limits[0].requests: is more than 1000000 a second",
        ),
        (
            r#"{"limits": [{"name": "a", "requests": 1, "per": 60}]}"#.into(),
            "limits[0].per: is a number, expected a string",
        ),
        (
            r#"{"limits": [{"name": "a", "requests": 1, "per": "1ms"}]}"#.into(),
            "limits[0].per: is no whole number of `s`, `m`, `h` or `d`",
        ),
        (r#"{"limits": [{"name": "a", "requests": 1, "per": "0s"}]}"#.into(), "limits[0].per: is not within 1s to 31d"),
        (limit(r#", "burst": 0"#), "limits[0].burst: is 0, or more than refills in a year"),
        (limit(r#", "burst": 99999999999"#), "limits[0].burst: is 0, or more than refills in a year"),
        (limit(r#", "max_keys": 3"#), "limits[0].max_keys: is not 4 to 1048576"),
        (limit(r#", "max_keys": 1048577"#), "limits[0].max_keys: is not 4 to 1048576"),
        (limit(r#", "key": {}"#), "limits[0].key: has neither header nor client_address"),
        (limit(r#", "key": {"client_address": false}"#), "limits[0].key: has neither header nor client_address"),
        (limit(r#", "key": {"header": "x", "client_address": true}"#), "limits[0].key.client_address: excludes header"),
        (
            limit(r#", "key": {"header": "x y"}"#),
            "limits[0].key.header: `x y` has a space, which no header name may have",
        ),
        (limit(r#", "key": {"header": "x", "ipv6_prefix": 64}"#), "limits[0].key.ipv6_prefix: needs client_address"),
        (limit(r#", "key": {"client_address": true, "missing": "skip"}"#), "limits[0].key.missing: needs header"),
        (
            limit(r#", "key": {"client_address": true, "ipv6_prefix": 129}"#),
            "limits[0].key.ipv6_prefix: is not 1 to 128",
        ),
        (
            limit(r#", "key": {"header": "x", "missing": "drop"}"#),
            "limits[0].key.missing: is `drop`, expected `share` or `skip`",
        ),
        (
            limit(r#", "keys": {}"#),
            "limits[0].keys: unknown field, expected `name`, `requests`, `per`, `burst`, `key` or `max_keys`",
        ),
        (
            format!(r#"{{"limits": [{good}], "on_failure": "open"}}"#),
            "on_failure: is `open`, expected `allow` or `deny`",
        ),
    ] {
        let error = TestHost::<RateLimit>::new().configure(&json).unwrap_err();
        assert_eq!(error, format!("invalid configuration: {expected}"), "{json}");
    }
}
