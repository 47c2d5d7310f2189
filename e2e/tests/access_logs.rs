//! Access logs: which requests they tell of, and what, as in Envoy.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]
#![allow(clippy::needless_pass_by_value, reason = "configurations are plain values")]

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener, with};
use outrigger_e2e::ports::closed;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer, Request, eventually};
use serde_json::{Value, json};

/// Request ids that a share of 10 % takes, and doesn't.
const SAMPLED: &str = "00000009-0000-4000-8000-000000000000";
const UNSAMPLED: &str = "0000000a-0000-4000-8000-000000000000";
const HTTP: &str = "type.googleapis.com/envoy.extensions.filters.http";

/// A log of lines that name it and the request.
fn log(name: &str, filter: Option<Value>) -> Value {
    let mut log = json!({"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "@DIR@/access.log",
        "log_format": {"json_format": {"log": name, "test": "%REQ(X-TEST)%", "port": "%DOWNSTREAM_LOCAL_PORT%"}},
    }});
    if let Some(filter) = filter {
        log["filter"] = filter;
    }
    log
}

fn compare(op: &str, value: u32) -> Value {
    json!({"comparison": {"op": op, "value": {"default_value": value, "runtime_key": "key"}}})
}

/// Filters by the names of their logs.
fn filters() -> Vec<(&'static str, Value)> {
    let status = |op, value| json!({"status_code_filter": compare(op, value)});
    let share = |numerator: u32, independent: bool| {
        json!({"runtime_filter": {
            "runtime_key": "key", "percent_sampled": {"numerator": numerator}, "use_independent_randomness": independent,
        }})
    };
    let grpc =
        |statuses: Value, exclude: bool| json!({"grpc_status_filter": {"statuses": statuses, "exclude": exclude}});
    let noted = |key: &str, value: Value, extra: Value| {
        let matcher = json!({"filter": "envoy.filters.http.rbac", "path": [{"key": key}], "value": value});
        with(json!({"metadata_filter": {"matcher": matcher}}), json!({"metadata_filter": extra}))
    };
    let header = |fields: Value| json!({"header_filter": {"header": fields}});
    let denied = || json!({"string_match": {"exact": "denied"}});
    vec![
        ("eq", status("EQ", 404)),
        ("ge", status("GE", 404)),
        ("le", status("LE", 404)),
        ("ne", status("NE", 404)),
        ("long", json!({"duration_filter": compare("GE", 200)})),
        ("short", json!({"duration_filter": compare("LE", 3_600_000)})),
        ("no_health_check", json!({"not_health_check_filter": {}})),
        ("traceable", json!({"traceable_filter": {}})),
        ("some", share(10, false)),
        ("none", share(0, false)),
        ("all_of_them", share(100, true)),
        ("unset", json!({"runtime_filter": {"runtime_key": "key"}})),
        ("and", json!({"and_filter": {"filters": [status("GE", 400), json!({"response_flag_filter": {}})]}})),
        ("or", json!({"or_filter": {"filters": [status("EQ", 201), header(json!({"name": "x-a"}))]}})),
        ("exact", header(json!({"name": "x-a", "string_match": {"exact": "1"}}))),
        ("path", header(json!({"name": ":path", "string_match": {"prefix": "/found"}}))),
        ("not_there", header(json!({"name": "x-a", "invert_match": true}))),
        ("flagged", json!({"response_flag_filter": {}})),
        ("no_cluster", json!({"response_flag_filter": {"flags": ["NC", "UF"]}})),
        ("not_found", grpc(json!(["NOT_FOUND", "UNIMPLEMENTED"]), false)),
        ("not_unknown", grpc(json!(["UNKNOWN"]), true)),
        ("shadow", noted("shadow_engine_result", denied(), json!({}))),
        ("shadow_or_none", noted("other", denied(), json!({"match_if_key_not_found": true}))),
        ("shadow_there", noted("other", denied(), json!({"match_if_key_not_found": false}))),
        ("no_matcher", json!({"metadata_filter": {"match_if_key_not_found": false}})),
        ("ends", json!({"log_type_filter": {"types": ["DownstreamEnd"]}})),
        ("no_ends", json!({"log_type_filter": {"types": ["DownstreamEnd", "TcpConnectionEnd"], "exclude": true}})),
        ("tcp_ends", json!({"log_type_filter": {"types": ["TcpConnectionEnd"]}})),
    ]
}

fn logs() -> Value {
    let mut logs: Vec<Value> = filters().into_iter().map(|(name, filter)| log(name, Some(filter))).collect();
    // The last one: what it tells of, all others had their chance at.
    logs.push(log("all", None));
    logs.into()
}

fn requests() -> Vec<(&'static str, Request)> {
    let get = |path: &str| Request::get(path);
    vec![
        ("ok", get("/")),
        ("created", get("/").origin("status=201")),
        ("not-found", get("/found/not")),
        ("no-cluster", get("/nowhere")),
        ("refused", get("/refused")),
        ("header", get("/").with("x-a", "1")),
        ("other-header", get("/found/x").with("x-a", "2")),
        ("slow", get("/").with("x-envoy-fault-delay-request", "250")),
        ("grpc-5", get("/").origin("header=grpc-status:5")),
        ("grpc-99", get("/").origin("header=grpc-status:99")),
        ("shadow", get("/").with("x-shadow", "yes")),
        ("sampled", get("/").with("x-request-id", SAMPLED)),
        ("forced", get("/").with("x-envoy-force-trace", "1").with("x-forwarded-for", "10.0.0.1")),
        ("stranger", get("/").with("x-envoy-force-trace", "1")),
    ]
}

fn bootstrap(origin: &Origin, refused: SocketAddr) -> Bootstrap {
    let routes = json!([
        {"match": {"prefix": "/found"}, "direct_response": {"status": 404}},
        route("/nowhere", "nowhere"), route("/refused", "refused"), route("/", "o"),
    ]);
    let shadow = json!({"name": "rbac", "typed_config": {
        "@type": format!("{HTTP}.rbac.v3.RBAC"),
        "shadow_rules": {"action": "DENY", "policies": {"x": {
            "permissions": [{"header": {"name": "x-shadow", "present_match": true}}], "principals": [{"any": true}],
        }}},
    }});
    let fault = json!({"name": "fault", "typed_config": {
        "@type": format!("{HTTP}.fault.v3.HTTPFault"), "delay": {"header_delay": {}, "percentage": {"numerator": 100}},
    }});
    let tracer = json!({"@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig", "service_name": "x",
        "grpc_service": {"envoy_grpc": {"cluster_name": "refused"}, "timeout": "0.2s"}});
    let main = HttpListener::new("main", &routes).filter(shadow).filter(fault).manager(json!({
        "access_log": logs(), "preserve_external_request_id": true, "generate_request_id": true,
        "route_config": {"validate_clusters": false},
        "internal_address_config": {"cidr_ranges": [{"address_prefix": "10.0.0.0", "prefix_len": 8}]},
        "tracing": {"random_sampling": {"value": 0}, "provider": {"name": "otlp", "typed_config": tracer}},
    }));
    let mut tcp = tcp_listener("tcp", "o");
    tcp["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = logs();
    let mut listener = tcp_listener("listener", "o");
    listener["access_log"] = logs();
    Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .cluster(cluster("refused", &[refused]))
        .listener(main)
        .listener(tcp)
        .listener(listener)
}

/// The logs that told of each request.
fn run(peer: Peer) -> BTreeMap<String, BTreeSet<String>> {
    let origin = Origin::start("o").expect("origin");
    let unused = closed().expect("a port");
    let plane = DataPlane::start(peer, &bootstrap(&origin, unused)).expect("the proxy starts");
    let main = plane.listener("main").expect("its listener");
    for (name, request) in requests() {
        let sampled = request.headers.iter().any(|(name, _)| name == "x-request-id");
        let request = if sampled { request } else { request.with("x-request-id", UNSAMPLED) };
        request.with("x-test", name).send(main).expect("an answer");
    }
    let mut ports = BTreeMap::new();
    for name in ["tcp", "listener"] {
        let address = plane.listener(name).expect("its listener");
        Request::get("/").with("connection", "close").send(address).expect("an answer");
        ports.insert(address.port(), name);
    }
    let name_of = |record: &Value| {
        let port = record["port"].as_u64().and_then(|port| u16::try_from(port).ok()).and_then(|port| ports.get(&port));
        port.map_or_else(|| record["test"].as_str().unwrap_or_default().to_owned(), |name| (*name).to_owned())
    };
    let wanted = requests().len() + ports.len();
    let records = eventually(DEADLINE, || {
        let records = plane.access_records();
        let ended = records.iter().filter(|record| record["log"] == "all").count();
        if ended >= wanted { Ok(records) } else { Err(format!("{ended} of {wanted}")) }
    });
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    // Without a request id the share is one of chance.
    let by_chance = |record: &Value| record["log"] == "some" && record["test"].is_null();
    for record in records.expect("all are told of").into_iter().filter(|record| !by_chance(record)) {
        told.entry(name_of(&record)).or_default().insert(record["log"].as_str().unwrap_or_default().to_owned());
    }
    told
}

#[test]
fn filters_choose_as_envoys_do() {
    let (ours, theirs) = (run(Peer::Outrigger), run(Peer::Envoy));
    for (name, theirs) in &theirs {
        assert_eq!(&ours[name], theirs, "{name}");
    }
    assert_eq!(ours.len(), theirs.len());
    let told: BTreeSet<&String> = theirs.values().flatten().collect();
    let never: Vec<&str> =
        filters().into_iter().map(|(name, _)| name).filter(|name| !told.contains(&(*name).to_owned())).collect();
    assert_eq!(never, ["none", "unset", "shadow_there", "no_matcher"]);
}

/// Operators, each a field of its own; and with others as text.
const OPERATORS: &[&str] = &[
    "%REQUEST_HEADER(x-a?x-b)%",
    "%RESPONSE_HEADER(x-missing)%",
    "%RESPONSE_TRAILER(x-trailer)%",
    "%PATH%",
    "%PATH(NQ)%",
    "%PATH(WQ:ORIG)%",
    "%PATH(NQ:PATH):5%",
    "%QUERY_PARAM(a)%",
    "%QUERY_PARAM(b/c):2%",
    "%QUERY_PARAMS%",
    "%QUERY_PARAMS(DECODED)%",
    "%REQUESTED_SERVER_NAME(SNI_FIRST:HOST)%",
    "%REQUESTED_SERVER_NAME(HOST_FIRST)%",
    "%REQUESTED_SERVER_NAME(SNI_ONLY)%",
    "%RESPONSE_CODE_DETAILS%",
    "%RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
    "%RESPONSE_FLAGS_LONG%",
    "%UPSTREAM_PROTOCOL%",
    "%UPSTREAM_HOST%",
    "%UPSTREAM_HOST_NAME%",
    "%UPSTREAM_HOST_NAME_WITHOUT_PORT%",
    "%UPSTREAM_HOSTS_ATTEMPTED%",
    "%UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT%",
    "%UPSTREAM_HOST_NAMES_ATTEMPTED%",
    "%UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT%",
    "%UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)%",
    "%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(0)%",
    "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(64)%",
    "%DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID%",
    "%ACCESS_LOG_TYPE%",
    "%STREAM_ID%",
    "%BYTES_RETRANSMITTED%",
    "%PACKETS_RETRANSMITTED%",
    "%ROUNDTRIP_DURATION%",
    "%CUSTOM_FLAGS%",
    "%ENVIRONMENT(HOME)%",
    "%ENVIRONMENT(NO_SUCH_VARIABLE)%",
    "%TRACE_ID%",
    "%DYNAMIC_METADATA(envoy.filters.http.rbac)%",
    "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result)%",
    "%DYNAMIC_METADATA(envoy.filters.http.rbac:shadow_engine_result):3%",
    "%DYNAMIC_METADATA(envoy.filters.http.rbac:none)%",
    "%DYNAMIC_METADATA(none)%",
    "%CLUSTER_METADATA(ns:list)%",
    "%UPSTREAM_METADATA(ns:number)%",
    "%UPSTREAM_METADATA(ns:flag)%",
    "%UPSTREAM_METADATA(ns:null)%",
    "%UPSTREAM_METADATA(ns:deep:inner)%",
    "%UPSTREAM_METADATA(ns:deep)%",
    "%METADATA(DYNAMIC:envoy.filters.http.rbac:shadow_engine_result)%",
    "%METADATA(CLUSTER:ns:list)%",
    "%METADATA(UPSTREAM_HOST:ns:number)%",
    "%UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID%",
    "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
    "%UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%",
    "%UPSTREAM_CLUSTER%",
    "%METADATA(ROUTE:ns:text)%",
    "%METADATA(ROUTE:ns)%",
    "%METADATA(VIRTUAL_HOST:ns:text)%",
    "%METADATA(LISTENER:ns:text)%",
    "%METADATA(LISTENER:ns:none)%",
    "%METADATA(LISTENER_FILTER_CHAIN:ns:text)%",
    "%FILTER_STATE(none:PLAIN)%",
    "%FILTER_STATE(none:FIELD:of)%",
    "%UPSTREAM_FILTER_STATE(none:PLAIN)%",
    "%LOCAL_REPLY_BODY%",
    "%COALESCE({\"operators\": [\"REQUESTED_SERVER_NAME\", {\"command\": \"REQ\", \"param\": \"x-b\"}, \"UPSTREAM_HOST_NAME\"]})%",
    "%COALESCE({\"operators\": [{\"command\": \"REQ\", \"param\": \":authority\", \"max_length\": 2}]}):1%",
    "%COALESCE({\"operators\": [\"RESPONSE_CODE\"]})%",
    "%COALESCE({\"operators\": [{\"command\": \"UPSTREAM_METADATA\", \"param\": \"ns:deep\"}]})%",
    "%EMIT_TIME_LOCAL(%z %Z)%",
    "%UPSTREAM_SERVER_NAME%",
    "%DOWNSTREAM_TLS_GROUP%",
    "%TLS_JA3_FINGERPRINT%",
    "%DOWNSTREAM_DETECTED_CLOSE_TYPE%",
    "%DOWNSTREAM_LOCAL_CLOSE_REASON%",
    "%UPSTREAM_DETECTED_CLOSE_TYPE%",
    "%UPSTREAM_LOCAL_CLOSE_REASON%",
    "%DOWNSTREAM_WIRE_BYTES_RECEIVED%",
    "%DOWNSTREAM_HEADER_BYTES_RECEIVED%",
    "%DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED%",
    "%UPSTREAM_HEADER_BYTES_RECEIVED%",
    "%DOWNSTREAM_HANDSHAKE_DURATION%",
    "%DOWNSTREAM_CX_RTT%",
    "%UPSTREAM_CONNECTION_POOL_READY_DURATION%",
    "%COMMON_DURATION(DS_CX_BEG:DS_RX_BEG:ns)%",
    "%COMMON_DURATION(DS_RX_BEG:DS_RX_END)%",
    "%COMMON_DURATION(DS_RX_END:DS_TX_BEG:us)%",
    "%COMMON_DURATION(US_TX_BEG:US_TX_END:us)%",
    "%COMMON_DURATION(US_TX_END:US_RX_BEG:us)%",
    "%COMMON_DURATION(US_RX_BEG:US_RX_END:us)%",
    "%COMMON_DURATION(US_RX_BEG:US_RX_BODY_BEG:us)%",
    "%COMMON_DURATION(DS_TX_BEG:DS_TX_END:us)%",
    "%COMMON_DURATION(DS_TX_END:DS_TX_BEG:us)%",
    "%COMMON_DURATION(DS_RX_BEG:DS_CX_END:us)%",
    "%COMMON_DURATION(DS_RX_BEG:US_HS_END:us)%",
    "%COMMON_DURATION(DS_RX_BEG:no_such_point)%",
    "%REQUEST_TX_DURATION%",
];

/// How long it took is a matter of chance; whether it is known isn't.
fn shape(operator: &str, value: &Value) -> String {
    let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
    let number = text.trim_start_matches('=');
    if (operator.contains("DURATION") || operator.contains("RTT")) && number.parse::<u64>().is_ok() {
        return text.replace(number, "number");
    }
    value.to_string()
}

fn telling(origin: &Origin, refused: SocketAddr) -> Bootstrap {
    let noted = |fields: Value| json!({"metadata": {"filter_metadata": {"ns": fields}}});
    let routes = json!([
        {"match": {"prefix": "/found"}, "direct_response": {"status": 404}},
        {"match": {"prefix": "/denied"}, "direct_response": {"status": 200}, "typed_per_filter_config": {"rbac": {
            "@type": format!("{HTTP}.rbac.v3.RBACPerRoute"), "rbac": {"rules": {"policies": {"a b": policy("x-never")}}}}}},
        {"match": {"prefix": "/nowhere"}, "route": {"cluster": "nowhere"}},
        {"match": {"prefix": "/refused"}, "route": {"cluster": "refused", "retry_policy": {"retry_on": "connect-failure"}}},
        {"match": {"prefix": "/retried"}, "route": {"cluster": "o", "retry_policy": {"retry_on": "5xx", "num_retries": 2}}},
        with(route("/old", "o"), json!({"route": {"prefix_rewrite": "/new"}})),
        with(route("/", "o"), noted(json!({"text": "of \"the\" route", "list": [1, "two"]}))),
    ]);
    let rbac = json!({"name": "rbac", "typed_config": {
        "@type": format!("{HTTP}.rbac.v3.RBAC"),
        "shadow_rules": {"action": "DENY", "policies": {"x": policy("x-shadow")}},
    }});
    let format: Value = OPERATORS.iter().map(|operator| ((*operator).to_owned(), Value::from(*operator))).collect();
    let text: Value =
        OPERATORS.iter().map(|operator| ((*operator).to_owned(), Value::from(format!("={operator}")))).collect();
    let file = |format: Value| {
        json!({"name": "f", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "@DIR@/access.log",
            "log_format": {"json_format": format},
        }})
    };
    let logs = json!([
        file(json!({"test": "%REQ(X-TEST)%", "alone": format})),
        file(json!({"test": "%REQ(X-TEST)%", "text": text})),
    ]);
    let main = HttpListener::hosts(
        "main",
        &json!([with(
            json!({"name": "all", "domains": ["*"], "routes": routes}),
            noted(json!({"text": "of the host"})),
        )]),
    );
    let tracer = json!({"@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig", "service_name": "x",
        "grpc_service": {"envoy_grpc": {"cluster_name": "refused"}, "timeout": "0.2s"}});
    let main = main.filter(rbac).manager(json!({
        "access_log": logs, "preserve_external_request_id": true, "generate_request_id": true,
        "route_config": {"validate_clusters": false},
        "tracing": {"random_sampling": {"value": 0}, "provider": {"name": "otlp", "typed_config": tracer}},
    }));
    let endpoint = json!({
        "endpoint": {"address": outrigger_e2e::bootstrap::address(origin.address()), "hostname": "o.test:81"},
        "metadata": {"filter_metadata": {"ns": {
            "number": 3, "flag": true, "null": null, "deep": {"inner": "x", "a": [], "b": {"c": -1000}},
        }}},
    });
    let mut o = with(cluster("o", &[]), noted(json!({"list": ["a", 1, {"b": false}]})));
    o["load_assignment"]["endpoints"][0]["lb_endpoints"] = json!([endpoint]);
    let mut listener = with(main.into(), noted(json!({"text": "of the listener"})));
    listener["filter_chains"][0]["metadata"] = noted(json!({"text": "of the chain"}))["metadata"].clone();
    Bootstrap::new().cluster(o).cluster(cluster("refused", &[refused])).listener(listener)
}

fn policy(header: &str) -> Value {
    json!({"permissions": [{"header": {"name": header, "present_match": true}}], "principals": [{"any": true}]})
}

fn told(peer: Peer, unused: SocketAddr, origin: &Origin) -> BTreeMap<(String, String), String> {
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-00";
    let requests = [
        ("plain", Request::get("/")),
        ("query", Request::get("/a/b?a=1&b%2Fc=x%2Fy&a=2&d")),
        ("headers", Request::get("/?a").with("x-b", "b").with("x-shadow", "1").origin("trailers")),
        ("rewritten", Request::get("/old/x?y=1").host("host.test:81")),
        ("found", Request::get("/found")),
        ("denied", Request::get("/denied")),
        ("nowhere", Request::get("/nowhere")),
        ("refused", Request::get("/refused")),
        ("retried", Request::get("/retried").origin("status=503;flaky=1")),
    ];
    let plane = DataPlane::start(peer, &telling(origin, unused)).expect("the proxy starts");
    let main = plane.listener("main").expect("its listener");
    for (name, request) in &requests {
        let request = request.clone().with("x-test", name).with("x-request-id", SAMPLED).with("traceparent", trace);
        request.send(main).expect("an answer");
    }
    let wanted = requests.len() * 2;
    let records = eventually(DEADLINE, || {
        let records = plane.access_records();
        if records.len() >= wanted { Ok(records) } else { Err(format!("{} of {wanted}", records.len())) }
    });
    let mut told = BTreeMap::new();
    for record in records.expect("all are told of") {
        let test = record["test"].as_str().unwrap_or_default();
        for form in ["alone", "text"] {
            for (operator, value) in record[form].as_object().into_iter().flatten() {
                // Envoy tells flags in the order in which they were set.
                let value = value
                    .as_str()
                    .filter(|_| operator.contains("FLAGS"))
                    .map_or_else(|| shape(operator, value), sorted);
                told.insert((test.to_owned(), format!("{form} {operator}")), value);
            }
        }
    }
    told
}

fn sorted(flags: &str) -> String {
    let mut flags: Vec<&str> = flags.trim_start_matches('=').split(',').collect();
    flags.sort_unstable();
    flags.join(",")
}

#[test]
fn operators_tell_what_envoys_do() {
    let origin = Origin::start("o").expect("origin");
    let unused = closed().expect("a port");
    let (ours, theirs) = (told(Peer::Outrigger, unused, &origin), told(Peer::Envoy, unused, &origin));
    let differences: Vec<String> = theirs
        .iter()
        .filter(|(key, value)| ours.get(*key) != Some(value))
        .map(|(key, value)| format!("{key:?}: {:?}, Envoy: {value:?}", ours.get(key)))
        .collect();
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(ours.len(), theirs.len());
}
