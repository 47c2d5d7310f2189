use super::*;

const CLUSTER: &str = "envoy.config.cluster.v3.Cluster";
const LISTENER: &str = "envoy.config.listener.v3.Listener";
const HCM: &str = "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";

#[track_caller]
fn problems(message: &str, text: &str, format: Format, expected: &[&str]) {
    let found = match parse(message, text.as_bytes(), format) {
        Ok(_) => Vec::new(),
        Err(problems) => problems.iter().map(ToString::to_string).collect(),
    };
    assert_eq!(found, expected, "{text}");
}

#[track_caller]
fn yaml(message: &str, text: &str, expected: &[&str]) {
    problems(message, text, Format::Yaml, expected);
}

#[test]
fn every_problem_is_named_by_path_and_line() {
    let text = r#"
name: [a]
nme: b
filter_chains:
- filters:
  - name: http
    typed_config:
      "@type": type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager
      stat_prefix: 7
      codec_type: HTTP_2
      request_timeout: 10ms
      normalize_path: "true"
      max_request_headers_kb: 4294967296
      route_config:
        virtual_hosts:
        - domains: "*"
          routes:
          - match: {prefix: /, path: /a}
            direct_response: {status: -1}
          - route: {retry_policy: {retriable_status_codes: [503, x, ~]}}
      http_filters:
      - typed_config: {name: x}
      - typed_config: {"@type": type.googleapis.com/no.such.Type}
      - typedConfig: 5
address: {socket_address: {address: 127.0.0.1, port_value: 1, portValue: 2}}
metadata: {filter_metadata: {a: {x: 1, x: 2}, a: {}}}
"#;
    let http = "filter_chains[0].filters[0].typed_config";
    let routes = format!("{http}.route_config.virtual_hosts[0].routes");
    yaml(
        LISTENER,
        text,
        &[
            "line 2: name: expected a single value, found a list",
            "line 3: nme: envoy.config.listener.v3.Listener has no such field; did you mean name?",
            &format!("line 9: {http}.stat_prefix: expected a text, found 7: put it in quotes"),
            &format!("line 10: {http}.codec_type: {HCM}.CodecType has no value HTTP_2; did you mean HTTP2?"),
            &format!(
                "line 11: {http}.request_timeout: expected a duration in seconds such as 1s, 0.250s or 3600s, found 10ms"
            ),
            &format!("line 12: {http}.normalize_path: expected true or false, found \"true\": drop the quotes"),
            &format!("line 13: {http}.max_request_headers_kb: 4294967296 is out of range: 0 to 4294967295"),
            &format!("line 16: {http}.route_config.virtual_hosts[0].domains: expected a list, found the text \"*\""),
            &format!("line 18: {routes}[0].match.path: only one of its kind may be set, and prefix is set in line 18"),
            &format!("line 19: {routes}[0].direct_response.status: -1 is out of range: 0 to 4294967295"),
            &format!(
                "line 20: {routes}[1].route.retry_policy.retriable_status_codes[1]: expected a whole number, found x"
            ),
            &format!("line 20: {routes}[1].route.retry_policy.retriable_status_codes[2]: an element has no value"),
            &format!(
                "line 22: {http}.http_filters[0].typed_config: @type is missing: the type URL of what is configured here"
            ),
            &format!(
                "line 23: {http}.http_filters[1].typed_config.@type: there is no type type.googleapis.com/no.such.Type"
            ),
            &format!("line 24: {http}.http_filters[2].typedConfig: expected a mapping with an @type, found `5`"),
            "line 25: address.socket_address.portValue: is set twice, first in line 25",
            "line 26: metadata.filter_metadata[\"a\"].x: is set twice, first in line 26",
            "line 26: metadata.filter_metadata[\"a\"]: is set twice, first in line 26",
        ],
    );
}

#[test]
fn texts_that_are_no_document() {
    yaml(CLUSTER, "", &["is empty"]);
    yaml(CLUSTER, "# nothing\n", &["is empty"]);
    yaml(CLUSTER, "- a", &["line 1: expected a mapping, found a list"]);
    yaml(CLUSTER, "a: b\n---\nc: d\n", &["line 2: a second document starts here; there must be one"]);
    yaml(CLUSTER, "name: !env HOME", &["line 1: the tag !env has no meaning here"]);
    yaml(CLUSTER, "? [a]\n: b", &["line 1: a key must be a word or a text, not a list or mapping"]);
    assert!(parse(CLUSTER, b"name: 'a", Format::Yaml).is_err());
    assert!(parse(CLUSTER, b"name: *a", Format::Yaml).is_err());
    assert!(parse(CLUSTER, b"name: &a [*a]", Format::Yaml).is_err());
    let json = |text, expected: &str| problems(CLUSTER, text, Format::Json, &[expected]);
    json("", "line 1: expected a value, found the end of the text");
    json("{\"name\": \"a\",\n}", "line 2: expected a key in double quotes, found `}`");
    json("{'name': 1}", "line 1: expected a key in double quotes, found `'`");
    json("{\"name\" 1}", "line 1: expected `:`, found `1`");
    json("{\"name\": \"a\"} x", "line 1: expected the end of the text, found `x`");
    json("{\"name\": \"a\nb\"}", "line 1: expected no control character within a text, found `\\n`");
    json("{\"name\": \"\\ud800\"}", "line 1: an escape `\\u` that is no character");
    json("{\"name\": \"\\x\"}", "line 1: expected an escape that JSON has, found `x`");
    json("{\"name\": \"a", "line 1: expected a closing `\"`, found the end of the text");
    json("{\"name\": 01}", "line 1: a number that JSON doesn't have");
    json("{\"name\": 1.}", "line 1: expected a digit, found `}`");
    json("{\"name\": nul}", "line 1: expected a value, found `n`");
    problems(CLUSTER, "{name: a}", Format::Auto, &[]);
    problems(CLUSTER, "{\"name\": \"a\"", Format::Auto, &["line 1: expected `,` or `}`, found the end of the text"]);
    let not_utf8 = parse(CLUSTER, b"name: a\n# \xff\n", Format::Yaml).unwrap_err();
    assert_eq!(not_utf8[0].to_string(), "line 2: is not UTF-8");
    yaml("no.such.Message", "a: b", &["there is no message no.such.Message"]);
    let large = parse_bounded(CLUSTER, b"name: abc", Format::Yaml, 8).unwrap_err();
    assert_eq!(large[0].to_string(), "is larger than 8 bytes");
}

#[test]
fn values_of_every_kind() {
    let duration = |text: &str, ok: bool| {
        let text = format!("connect_timeout: {text}");
        assert_eq!(parse(CLUSTER, text.as_bytes(), Format::Yaml).is_ok(), ok, "{text}");
    };
    for (text, ok) in [("1s", true), ("'1s'", true), ("1", false), ("1m", false), ("{seconds: 1}", false), ("~", true)]
    {
        duration(text, ok);
    }
    // A text that is written as a number; Envoy takes those that it would print as they are.
    for (value, ok) in
        [("a", true), ("'7'", true), ("7", false), ("true", false), ("1.10", true), ("0x10", false), ("on", true)]
    {
        let text = format!("name: {value}");
        assert_eq!(parse(CLUSTER, text.as_bytes(), Format::Yaml).is_ok(), ok, "{text}");
    }
    let bytes = "envoy.config.core.v3.DataSource";
    yaml(bytes, "inline_bytes: AAE", &[]);
    yaml(bytes, "inline_bytes: A", &["line 1: inline_bytes: expected bytes in base64: Invalid input length: 1"]);
    assert!(parse(bytes, b"inline_bytes: '***'", Format::Yaml).is_err());
    let percent = |value: &str| parse("envoy.type.v3.Percent", format!("value: {value}").as_bytes(), Format::Yaml);
    assert_eq!(percent(".inf"), percent("Infinity"));
    assert_eq!(percent("1e1"), percent("10"));
    assert!(percent("NaN").is_ok() && percent("1e999").is_err() && percent("ten").is_err() && percent("inf").is_err());
    let weight = |value: &str| parse("google.protobuf.UInt32Value", value.as_bytes(), Format::Yaml);
    assert_eq!(weight("0x10"), weight("16"));
    assert_eq!(weight("1.6e1"), weight("'16'"));
    assert!(weight("1.5").is_err() && weight("-1").is_err() && weight("0x-1").is_err());
    yaml(CLUSTER, "lb_policy: 2", &[]);
    assert!(parse(CLUSTER, b"lb_policy: 77", Format::Yaml).is_err());
    yaml(
        "google.protobuf.Struct",
        "a: 9007199254740993",
        &["line 1: a: 9007199254740993 is larger than what a number in JSON holds: put it in quotes"],
    );
    yaml("google.protobuf.Empty", "a: 1", &["line 1: expected {}, found a mapping"]);
    let any = r#"{"@type": "type.googleapis.com/google.protobuf.Struct", "a": 1}"#;
    problems(
        "google.protobuf.Any",
        any,
        Format::Json,
        &[
            "line 1: a: google.protobuf.Struct stands in `value`, beside @type",
            "line 1: `value` is missing: google.protobuf.Struct stands there",
        ],
    );
    yaml(
        "google.protobuf.Any",
        "'@type': google.protobuf.Struct",
        &["line 1: @type: there is no type google.protobuf.Struct"],
    );
}

#[test]
fn equal_messages_have_equal_bytes() {
    let first = "{name: a, metadata: {filter_metadata: {x: {a: 1, b: 2}, y: {}}}, connectTimeout: 1s}";
    let second = "connect_timeout: 1.0s\nmetadata: {filterMetadata: {y: {}, x: {b: 2.0, a: 1}}}\nname: 'a'\n";
    assert_eq!(parse(CLUSTER, first.as_bytes(), Format::Yaml), parse(CLUSTER, second.as_bytes(), Format::Yaml));
}

#[test]
fn a_later_text_is_merged_by_appending() {
    use prost::Message;
    let mut bytes = parse(CLUSTER, b"{name: a, common_lb_config: {zone_aware_lb_config: {}}}", Format::Yaml).unwrap();
    bytes.extend(parse(CLUSTER, b"{name: b, connect_timeout: 1s}", Format::Yaml).unwrap());
    let merged = crate::pb::envoy::config::cluster::v3::Cluster::decode(bytes.as_slice()).unwrap();
    assert_eq!((merged.name.as_str(), merged.connect_timeout.unwrap().seconds), ("b", 1));
    assert!(merged.common_lb_config.is_some());
}

#[test]
fn aliases_share_and_do_not_explode() {
    let shared = "{address: &a {socket_address: {address: 127.0.0.1}}, additional_addresses: [{address: *a}]}";
    let written = "{address: {socket_address: {address: 127.0.0.1}}, \
                   additional_addresses: [{address: {socket_address: {address: 127.0.0.1}}}]}";
    assert_eq!(parse(LISTENER, shared.as_bytes(), Format::Yaml), parse(LISTENER, written.as_bytes(), Format::Yaml));
    let key = parse("google.protobuf.Struct", b"{? &k a : 1, b: *k, ? *k : 2}", Format::Yaml);
    assert!(key.is_err(), "the key `a` stands there twice");

    let mut laughs = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n".to_owned();
    for level in 1..12 {
        let names = vec![format!("*a{}", level - 1); 10].join(", ");
        laughs.push_str(&format!("a{level}: &a{level} [{names}]\n"));
    }
    let problems = parse("google.protobuf.Struct", laughs.as_bytes(), Format::Yaml).unwrap_err();
    assert!(problems[0].to_string().contains("aliases make the document too large"), "{problems:?}");

    // A chain of aliases is as deep as what it stands for.
    let mut chain = "a0: &a0 [x]\n".to_owned();
    for level in 1..5000 {
        chain.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
    }
    let problems = parse("google.protobuf.Struct", chain.as_bytes(), Format::Yaml).unwrap_err();
    assert_eq!(problems[0].message, "nested more than 128 deep");
}

#[test]
fn depth_is_bounded() {
    for (open, close) in [("[", "]"), ("{\"a\":", "}")] {
        let nested = |levels: usize| format!("{{\"a\": {}1{}}}", open.repeat(levels), close.repeat(levels));
        for format in [Format::Json, Format::Yaml] {
            assert!(parse("google.protobuf.Struct", nested(20).as_bytes(), format).is_ok());
            for levels in [60, 127, 1000, 100_000] {
                assert!(parse("google.protobuf.Struct", nested(levels).as_bytes(), format).is_err(), "{levels}");
            }
        }
    }
    // What is accepted can be printed, and decoded by a library.
    let deep = format!("{{\"a\": {}1{}}}", "[".repeat(46), "]".repeat(46));
    let bytes = parse("google.protobuf.Struct", deep.as_bytes(), Format::Json).unwrap();
    assert!(to_json("google.protobuf.Struct", &bytes, Style::Compact).is_ok());
    <crate::pb::google::protobuf::Struct as prost::Message>::decode(bytes.as_slice()).unwrap();
}

#[test]
fn problems_are_bounded() {
    let text = format!("filter_chains: [{}]", "{x: 1},".repeat(5000));
    assert_eq!(parse(LISTENER, text.as_bytes(), Format::Yaml).unwrap_err().len(), 1000);
}

#[track_caller]
fn printed(message: &str, text: &str, expected: &str) {
    let bytes = parse(message, text.as_bytes(), Format::Yaml).unwrap();
    assert_eq!(to_json(message, &bytes, Style::Compact).unwrap(), expected);
}

#[test]
fn secrets_are_redacted() {
    let secret = "envoy.extensions.transport_sockets.tls.v3.Secret";
    printed(
        secret,
        "{name: s, tls_certificate: {private_key: {inline_string: KEY}, certificate_chain: {inline_string: CERT}, \
         password: {inline_bytes: AAAA}}}",
        r#"{"name":"s","tls_certificate":{"certificate_chain":{"inline_string":"CERT"},"private_key":{"inline_string":"[redacted]"},"password":{"inline_bytes":"W3JlZGFjdGVkXQ=="}}}"#,
    );
    // Also within an Any.
    let any =
        format!("{{'@type': 'type.googleapis.com/{secret}', generic_secret: {{secret: {{inline_string: KEY}}}}}}");
    printed(
        "google.protobuf.Any",
        &any,
        &format!(
            r#"{{"@type":"type.googleapis.com/{secret}","generic_secret":{{"secret":{{"inline_string":"[redacted]"}}}}}}"#
        ),
    );
}

#[test]
fn json_is_laid_out_as_envoy_does() {
    let bytes = parse(CLUSTER, b"{name: a, lb_policy: RANDOM, metadata: {}}", Format::Yaml).unwrap();
    let expected = "{\n \"name\": \"a\",\n \"lb_policy\": \"RANDOM\",\n \"metadata\": {}\n}";
    assert_eq!(to_json(CLUSTER, &bytes, Style::Pretty).unwrap(), expected);
    assert_eq!(to_json(CLUSTER, &[], Style::Pretty).unwrap(), "{}");
}

#[test]
fn what_is_not_known_is_printed_as_base64() {
    use crate::wire::{put_delimited, put_key};
    let any = |url: &str, value: &[u8]| {
        let mut bytes = Vec::new();
        for (number, part) in [(1, url.as_bytes()), (2, value)] {
            put_key(&mut bytes, number, schema::WireType::Delimited);
            put_delimited(&mut bytes, part);
        }
        to_json("google.protobuf.Any", &bytes, Style::Compact).unwrap()
    };
    assert_eq!(any("x/no.such.Type", &[1, 2]), r#"{"@type":"x/no.such.Type","value":"AQI="}"#);
    let url = format!("x/{CLUSTER}");
    assert_eq!(any(&url, &[0xff]), format!(r#"{{"@type":"{url}","value":"/w=="}}"#));
    // A number that an enum doesn't have, a field that the API doesn't have.
    assert_eq!(any(&url, &[0x30, 77, 0x80, 0x7d, 1]), format!(r#"{{"@type":"{url}","lb_policy":77}}"#));
    assert_eq!(any("x/google.protobuf.Duration", &[8, 1]), r#"{"@type":"x/google.protobuf.Duration","value":"1s"}"#);
    assert_eq!(to_json("google.protobuf.Any", &[], Style::Compact).unwrap(), "{}");
}

#[test]
fn bytes_that_are_no_message() {
    let check = |bytes: &[u8], expected: &str| {
        assert_eq!(to_json(CLUSTER, bytes, Style::Compact).unwrap_err().to_string(), expected);
    };
    check(&[0x0a, 5], "the message is cut off");
    check(&[0x0b], "a field has a wire type that is not in use");
    check(&[0x08, 1], "a field has another wire type than its message defines");
    assert!(to_json("no.such.Message", &[], Style::Compact).is_err());
    // Value → ListValue → Value ...
    let mut nested = Vec::new();
    for _ in 0..2000 {
        for number in [1, 6] {
            let mut outer = Vec::new();
            crate::wire::put_key(&mut outer, number, schema::WireType::Delimited);
            crate::wire::put_delimited(&mut outer, &nested);
            nested = outer;
        }
    }
    assert_eq!(to_json("google.protobuf.Value", &nested, Style::Compact), Err(Unprintable::TooDeep));
}

#[test]
fn no_input_makes_it_panic() {
    let mut seed = 0x0123_4567_89ab_cdef_u64;
    let mut next = move |end: usize| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        (seed % end as u64) as usize
    };
    let text = include_bytes!("../../tests/bootstrap.yaml");
    let bootstrap = "envoy.config.bootstrap.v3.Bootstrap";
    let binary = parse(bootstrap, text, Format::Yaml).unwrap();
    for _ in 0..1500 {
        let mut broken = text.to_vec();
        let mut broken_binary = binary.clone();
        for bytes in [&mut broken, &mut broken_binary] {
            for _ in 0..=next(5) {
                let at = next(bytes.len());
                match next(4) {
                    0 => bytes[at] = next(256) as u8,
                    1 => bytes[at] = b"{}[]:,-&*!|>'\"\n #~"[next(18)],
                    2 => bytes.truncate(at.max(1)),
                    _ => bytes.insert(at, next(256) as u8),
                }
            }
        }
        for format in [Format::Yaml, Format::Json, Format::Auto] {
            let _problems = parse(bootstrap, &broken, format);
        }
        if let Ok(json) = to_json(bootstrap, &broken_binary, Style::Compact) {
            assert!(serde_json::from_str::<serde_json::Value>(&json).is_ok(), "{json}");
        }
    }
}
