//! Traces: what the origin gets to go on with, and what a collector is told, as from Envoy.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::collections::BTreeMap;

use outrigger_e2e::bootstrap::{HttpListener, cluster, http2, route, wasm_filter, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::modules::{Fault, faulty};
use outrigger_e2e::tls::{Authority, downstream, upstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Origin, Request, eventually};
use outrigger_proto::pb::outrigger::otlp::v1::{ExportTraceServiceRequest, KeyValue, Span, any_value};
use prost::Message;
use serde_json::{Value, json};

const TRACE: &str = "4bf92f3577b34da6a3ce929d0e0e4736";
const PARENT: &str = "00f067aa0ba902b7";

/// How the collector is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Transport {
    Grpc,
    Http,
}

fn bootstrap(origin: &Origin, collector: &Origin, transport: Transport, tracing: Value) -> Bootstrap {
    let target = match transport {
        // The origin answers as a collector does that took everything.
        Transport::Grpc => json!({"grpc_service": {
            "envoy_grpc": {"cluster_name": "otlp"}, "timeout": "2s",
            "initial_metadata": [{"key": "x-origin", "value": "header=grpc-status:0;body=0"}],
        }}),
        Transport::Http => json!({"http_service": {"http_uri": {
            "uri": "http://collector.test/v1/traces", "cluster": "otlp", "timeout": "2s",
        }}}),
    };
    let config = with(
        json!({
            "@type": "type.googleapis.com/envoy.config.trace.v3.OpenTelemetryConfig", "service_name": "shop",
        }),
        target,
    );
    let provider = json!({"provider": {"name": "envoy.tracers.opentelemetry", "typed_config": config}});
    let mut listener: Value = HttpListener::new("main", &json!([route("/", "o")])).into();
    listener["traffic_direction"] = json!("INBOUND");
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager["tracing"] = with(provider, tracing);
    // Envoy decides by the request's id.
    manager["generate_request_id"] = json!(true);
    let otlp = cluster("otlp", &[collector.address()]);
    Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .cluster(if transport == Transport::Grpc { http2(otlp) } else { otlp })
        .listener(listener)
        // Envoy waits for five spans or this long.
        .set(
            "layered_runtime",
            json!({"layers": [{"name": "static", "static_layer": {
                "tracing": {"opentelemetry": {"min_flush_spans": 1, "flush_interval_ms": 100}},
            }}]}),
        )
}

/// The spans that a collector was told of, with the attributes of their resources.
fn spans(collector: &Origin, transport: Transport) -> Vec<(BTreeMap<String, String>, Span)> {
    let mut all = Vec::new();
    for seen in collector.seen() {
        let (path, body) = match transport {
            Transport::Grpc => {
                ("/opentelemetry.proto.collector.trace.v1.TraceService/Export", seen.body.get(5..).unwrap_or_default())
            }
            Transport::Http => ("/v1/traces", &seen.body[..]),
        };
        assert_eq!((seen.method.as_str(), seen.path.as_str()), ("POST", path));
        let request = ExportTraceServiceRequest::decode(body).expect("an export");
        for resource in request.resource_spans {
            let of = attributes(&resource.resource.unwrap_or_default().attributes);
            all.extend(resource.scope_spans.into_iter().flat_map(|s| s.spans).map(|span| (of.clone(), span)));
        }
    }
    all
}

fn attributes(list: &[KeyValue]) -> BTreeMap<String, String> {
    let text = |value: Option<&any_value::Value>| match value {
        Some(any_value::Value::StringValue(text)) => text.clone(),
        Some(any_value::Value::IntValue(number)) => number.to_string(),
        None => String::new(),
    };
    let text = |pair: &KeyValue| text(pair.value.as_ref().and_then(|value| value.value.as_ref()));
    list.iter().map(|pair| (pair.key.clone(), text(pair))).collect()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[test]
fn a_context_goes_through_and_its_span_is_told() {
    for (peer, transport) in Peer::all().into_iter().flat_map(|p| [(p, Transport::Http), (p, Transport::Grpc)]) {
        let name = format!("{} {transport:?}", peer.name());
        let (origin, collector) = (Origin::start("o").expect("origin"), Origin::start("otlp").expect("collector"));
        let tags = json!({"custom_tags": [
            {"tag": "team", "literal": {"value": "cart"}},
            {"tag": "tenant", "request_header": {"name": "x-tenant", "default_value": "none"}},
        ]});
        let plane = DataPlane::start(peer, &bootstrap(&origin, &collector, transport, tags)).expect("the proxy starts");
        let address = plane.listener("main").expect("listener");
        let request = Request::get("/cart?id=1")
            .with("traceparent", &format!("00-{TRACE}-{PARENT}-01"))
            .with("tracestate", "vendor=1")
            .with("x-tenant", "blue");
        assert_eq!(request.send(address).expect("answer").status, 200, "{name}");

        let told = eventually(DEADLINE, || {
            spans(&collector, transport).into_iter().next().ok_or_else(|| format!("{name}: no span yet"))
        });
        let (resource, span) = told.expect("a span");
        assert_eq!(resource.get("service.name").map(String::as_str), Some("shop"), "{name}");
        assert_eq!((hex(&span.trace_id), hex(&span.parent_span_id)), (TRACE.to_owned(), PARENT.to_owned()), "{name}");
        assert_eq!((span.name.as_str(), span.kind, span.trace_state.as_str()), ("ingress", 2, "vendor=1"), "{name}");
        assert!(span.start_time_unix_nano < span.end_time_unix_nano, "{name}");
        let found = attributes(&span.attributes);
        for (key, value) in [
            ("http.method", "GET"),
            ("http.status_code", "200"),
            ("http.protocol", "HTTP/1.1"),
            ("component", "proxy"),
            ("upstream_cluster", "o"),
            ("upstream_cluster.name", "o"),
            ("peer.address", "127.0.0.1"),
            ("response_flags", "-"),
            ("team", "cart"),
            ("tenant", "blue"),
        ] {
            assert_eq!(found.get(key).map(String::as_str), Some(value), "{name}: {key} in {found:?}");
        }
        assert!(found.get("http.url").is_some_and(|url| url.ends_with("/cart?id=1")), "{name}: {found:?}");
        // The origin goes on from the proxy's span.
        let seen = origin.seen().pop().expect("the request at the origin");
        let parent = seen.headers.iter().find(|(name, _)| name == "traceparent").map(|(_, value)| value.clone());
        assert_eq!(parent, Some(format!("00-{TRACE}-{}-01", hex(&span.span_id))), "{name}");
    }
}

/// The collector's transport socket counts, and its protocol where that is for the server to choose.
#[test]
fn collectors_are_reached_over_tls() {
    let authority = Authority::new("collectors").expect("an authority");
    let leaf = authority.issue("*.test", "spiffe://mesh/otlp").expect("a leaf");
    let options = |more: Value| {
        let name = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";
        let typed = json!({"@type": format!("type.googleapis.com/{name}")});
        json!({"typed_extension_protocol_options": {name: with(typed, more)}})
    };
    let h1 = json!({"explicit_http_config": {"http_protocol_options": {}}});
    let h2 = json!({"explicit_http_config": {"http2_protocol_options": {}}});
    let any = json!({"auto_config": {"http_protocol_options": {}, "http2_protocol_options": {}}});
    // Whether the server speaks HTTP/2, too, and what the collector is asked in.
    for (transport, more, protocols, version) in [
        (Transport::Grpc, &h2, json!(["h2"]), "HTTP/2"),
        (Transport::Http, &h1, json!(["http/1.1"]), "HTTP/1.1"),
        (Transport::Http, &any, json!(["h2", "http/1.1"]), "HTTP/2"),
        (Transport::Http, &any, json!(["http/1.1"]), "HTTP/1.1"),
    ] {
        let (origin, collector) = (Origin::start("o").expect("origin"), Origin::start("otlp").expect("collector"));
        let mut front: Value = HttpListener::new("front", &json!([route("/", "to")])).into();
        front["filter_chains"][0]["transport_socket"] = downstream(&json!({"common_tls_context": {
            "tls_certificates": [leaf.config()], "alpn_protocols": protocols,
        }}));
        front["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = json!([{
            "name": "file", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                "path": "@DIR@/access.log",
                "log_format": {"json_format": {"protocol": "%PROTOCOL%", "name": "%REQUESTED_SERVER_NAME%"}},
            },
        }]);
        // The origin's own protocol doesn't matter, but for gRPC's trailers.
        let to = cluster("to", &[collector.address()]);
        let to = if transport == Transport::Grpc { http2(to) } else { to };
        let front = DataPlane::start(Peer::Outrigger, &Bootstrap::new().cluster(to).listener(front)).expect("a front");
        for peer in Peer::all() {
            let name = format!("{} {transport:?} {protocols}", peer.name());
            let seen = collector.seen().len();
            let mut bootstrap = bootstrap(&origin, &collector, transport, json!({}));
            let mut otlp = with(
                cluster("otlp", &[front.listener("front").expect("its listener")]),
                options(with(
                    more.clone(),
                    json!({"upstream_http_protocol_options": {
                        "auto_sni": transport == Transport::Http, "auto_san_validation": transport == Transport::Http,
                    }}),
                )),
            );
            otlp["transport_socket"] = upstream(&json!({"sni": "otlp.test", "common_tls_context": {
                "validation_context": {"trusted_ca": {"inline_string": authority.pem()}},
            }}));
            let mut resources = bootstrap.value()["static_resources"].clone();
            resources["clusters"][1] = otlp;
            bootstrap = bootstrap.set("static_resources", resources);
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            let address = plane.listener("main").expect("listener");
            // One export after the other: a connection serves again.
            for told in 1..3 {
                assert_eq!(Request::get("/").send(address).expect("answer").status, 200, "{name}");
                let all = eventually(DEADLINE, || match collector.seen().len() - seen {
                    exports if exports >= told => Ok(()),
                    exports => Err(format!("{name}: {exports} exports")),
                });
                all.expect("an export");
            }
            assert!(spans(&collector, transport).len() >= 2, "{name}");
        }
        let records = eventually(DEADLINE, || {
            let records = front.access_records();
            if records.len() >= 2 * Peer::all().len() { Ok(records) } else { Err(format!("{records:?}")) }
        });
        for record in records.expect("records") {
            let expected = if transport == Transport::Http { "collector.test" } else { "otlp.test" };
            assert_eq!((&record["protocol"], &record["name"]), (&json!(version), &json!(expected)), "{transport:?}");
        }
    }
}

#[test]
fn the_parent_decides_and_only_what_is_sampled_is_told() {
    let (origin, collector) = (Origin::start("o").expect("origin"), Origin::start("otlp").expect("collector"));
    let none = json!({"random_sampling": {"value": 0}});
    let bootstrap = bootstrap(&origin, &collector, Transport::Http, none);
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("listener");
    let parents = [None, Some(format!("00-{TRACE}-{PARENT}-00")), Some(format!("00-{TRACE}-{PARENT}-01"))];
    for (path, parent) in ["/a", "/b", "/c"].into_iter().zip(parents) {
        let request = Request::get(path);
        let request = parent.iter().fold(request, |request, parent| request.with("traceparent", parent));
        assert_eq!(request.send(address).expect("answer").status, 200);
    }
    let told = eventually(DEADLINE, || {
        let told = spans(&collector, Transport::Http);
        if told.is_empty() { Err("no span yet") } else { Ok(told) }
    });
    let urls: Vec<_> =
        told.expect("spans").iter().map(|(_, span)| attributes(&span.attributes)["http.url"].clone()).collect();
    assert!(matches!(&urls[..], [url] if url.ends_with("/c")), "{urls:?}");
    // A context goes on whether it is sampled or not.
    let seen = origin.seen();
    let flags: Vec<_> = seen
        .iter()
        .filter_map(|seen| seen.headers.iter().find(|(name, _)| name == "traceparent"))
        .map(|(_, value)| value[value.len() - 2..].to_owned())
        .collect();
    assert_eq!(flags, ["00", "00", "01"]);
}

#[test]
fn b3_comes_and_goes_and_a_dead_collector_costs_nothing() {
    let origin = Origin::start("o").expect("origin");
    let gone = {
        let collector = Origin::start("otlp").expect("collector");
        bootstrap(&origin, &collector, Transport::Grpc, json!({}))
    };
    let plane = DataPlane::start(Peer::Outrigger, &gone).expect("the proxy starts");
    let address = plane.listener("main").expect("listener");
    let request = Request::get("/").with("x-b3-traceid", TRACE).with("x-b3-spanid", PARENT).with("x-b3-sampled", "1");
    assert_eq!(request.send(address).expect("answer").status, 200);
    let seen = origin.seen().pop().expect("the request");
    let header = |wanted: &str| seen.headers.iter().find(|(name, _)| name == wanted).map(|(_, value)| value.as_str());
    assert_eq!((header("x-b3-traceid"), header("x-b3-parentspanid")), (Some(TRACE), Some(PARENT)));
    assert_ne!(header("x-b3-spanid"), Some(PARENT));
    plane.admin.stat_reaches("tracing.opentelemetry.spans_dropped", 1, DEADLINE).expect("the lost span is counted");
    assert_eq!(Request::get("/").send(address).expect("answer").status, 200);
}

#[test]
fn a_plugin_that_fails_is_an_event_of_the_span() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let (origin, collector) = (Origin::start("o").expect("origin"), Origin::start("otlp").expect("collector"));
    let dir = tempfile::tempdir().expect("a folder");
    let module = dir.path().join("trap.wasm");
    std::fs::write(&module, wat::parse_str(faulty(Fault::TrapOnRequest)).expect("a module")).expect("its file");
    let mut bootstrap = bootstrap(&origin, &collector, Transport::Http, json!({}));
    for (policy, status) in [("FAIL_CLOSED", 503), ("FAIL_OPEN", 200)] {
        let filter = with(
            wasm_filter("guard", &module, &json!({})),
            json!({"typed_config": {"config": {"failure_policy": policy}}}),
        );
        let mut listener: Value = HttpListener::new(policy, &json!([route("/", "o")])).filter(filter).into();
        let main = bootstrap.value()["static_resources"]["listeners"][0].clone();
        let tracing = &main["filter_chains"][0]["filters"][0]["typed_config"]["tracing"];
        listener["filter_chains"][0]["filters"][0]["typed_config"]["tracing"] = tracing.clone();
        bootstrap = bootstrap.listener(listener);
        let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
        let path = format!("/{policy}");
        let answer = Request::get(&path).send(plane.listener(policy).expect("listener")).expect("answer");
        assert_eq!(answer.status, status, "{policy}");
        let told = eventually(DEADLINE, || {
            let found = spans(&collector, Transport::Http).into_iter().map(|(_, span)| span);
            let is_it = |span: &Span| attributes(&span.attributes)["http.url"].ends_with(&path);
            found.into_iter().find(is_it).ok_or("no span yet")
        });
        let span = told.expect("a span");
        let [event] = &span.events[..] else { panic!("{:?}", span.events) };
        assert_eq!(event.name, "wasm.failure");
        assert!((span.start_time_unix_nano..=span.end_time_unix_nano).contains(&event.time_unix_nano));
        let found = attributes(&event.attributes);
        for (key, value) in
            [("wasm.plugin", "guard"), ("wasm.trap", "unreachable"), ("wasm.callback", "proxy_on_request_headers")]
        {
            assert_eq!(found.get(key).map(String::as_str), Some(value), "{policy}: {key} in {found:?}");
        }
        assert_eq!(found["wasm.revision"].len(), 12, "{found:?}");
    }
}

/// Listeners like the first one, with tracing of their own; each with its name as its path.
fn beside(mut bootstrap: Bootstrap, listeners: &[(&str, Value)]) -> Bootstrap {
    let main = bootstrap.value()["static_resources"]["listeners"][0].clone();
    for (name, tracing) in listeners {
        let mut listener = with(main.clone(), json!({"name": name}));
        let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        manager["tracing"] = with(manager["tracing"].clone(), tracing.clone());
        bootstrap = bootstrap.listener(listener);
    }
    bootstrap
}

#[test]
fn shares_of_requests_are_traced_and_paths_are_cut() {
    let shares = |client: u8, random: u8, overall: u8| {
        json!({
            "client_sampling": {"value": client}, "random_sampling": {"value": random},
            "overall_sampling": {"value": overall}, "max_path_tag_length": 5,
        })
    };
    // The shares, and whether a request that its client wants traced is, and any other.
    let cases = [
        ("/all", shares(100, 100, 100), true, true),
        ("/client", shares(100, 0, 100), true, false),
        ("/random", shares(0, 100, 100), true, true),
        ("/nobody", shares(0, 0, 100), false, false),
        ("/never", shares(100, 100, 0), false, false),
    ];
    let listeners: Vec<(&str, Value)> = cases.iter().map(|(name, shares, ..)| (*name, shares.clone())).collect();
    for peer in Peer::all() {
        let (origin, collector) = (Origin::start("o").expect("origin"), Origin::start("otlp").expect("collector"));
        let bootstrap = beside(bootstrap(&origin, &collector, Transport::Http, json!({})), &listeners);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut expected = Vec::new();
        for (name, _, wanted, other) in &cases {
            for (asks, told) in [(true, *wanted), (false, *other)] {
                let id = if asks { "asked" } else { "other" };
                let request = Request::get(&format!("{name}-{id}")).with("user-agent", &format!("{name} {id}"));
                let request = if asks { request.with("x-client-trace-id", "1") } else { request };
                let address = plane.listener(name).expect("listener");
                assert_eq!(request.send(address).expect("answer").status, 200, "{peer:?} {name}");
                if told {
                    expected.push((format!("{name} {id}"), format!("{name}-{id}")[..5].to_owned()));
                }
            }
        }
        let told = eventually(DEADLINE, || {
            let told = spans(&collector, Transport::Http);
            if told.len() >= expected.len() { Ok(told) } else { Err(format!("{} spans", told.len())) }
        });
        let mut told: Vec<(String, String)> = told
            .expect("spans")
            .iter()
            .map(|(_, span)| attributes(&span.attributes))
            .map(|tags| (tags["user_agent"].clone(), tags["http.url"].rsplit_once('/').expect("a path").1.to_owned()))
            .map(|(agent, path)| (agent, format!("/{path}")))
            .collect();
        told.sort();
        expected.sort();
        assert_eq!(told, expected, "{peer:?}");
    }
}

/// A collector that doesn't answer costs what is beyond `max_cache_size`.
#[test]
fn so_many_spans_wait_for_their_collector() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let (origin, collector) = (Origin::start("o").expect("origin"), Origin::start("otlp").expect("collector"));
    let held = json!({"provider": {"typed_config": {"max_cache_size": 2, "http_service": {
        "http_uri": {"timeout": "600s"},
        "request_headers_to_add": [{"header": {"key": "x-origin", "value": "gate=open"}}],
    }}}});
    let bootstrap = bootstrap(&origin, &collector, Transport::Http, json!({}));
    let plane = DataPlane::start(Peer::Outrigger, &beside(bootstrap, &[("held", held)])).expect("the proxy starts");
    let address = plane.listener("held").expect("listener");
    let send = || assert_eq!(Request::get("/").send(address).expect("answer").status, 200);
    send();
    eventually(DEADLINE, || if collector.seen().is_empty() { Err("not asked") } else { Ok(()) }).expect("an export");
    (0..5).for_each(|_| send());
    let dropped = plane.admin.stat_reaches("tracing.opentelemetry.spans_dropped", 3, DEADLINE).expect("counted");
    assert_eq!(dropped, 3);
    collector.open_gate("open");
    assert_eq!(plane.admin.stat_reaches("tracing.opentelemetry.spans_sent", 3, DEADLINE).expect("counted"), 3);
}
