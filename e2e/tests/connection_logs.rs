//! What access logs tell of connections: how they end, their TLS, the certificates and the hellos of their clients. Each
//! table is one for both proxies, with real Envoy as the referee.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpStream};
use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener, with};
use outrigger_e2e::h2c::{H2Connection, H2Request};
use outrigger_e2e::http1::Connection;
use outrigger_e2e::ports::closed;
use outrigger_e2e::talker::Talker;
use outrigger_e2e::tls::{Authority, Client, downstream, secure, start, upstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer, Request, eventually};
use rcgen::SanType;
use serde_json::{Value, json};

/// A log of these operators, each a field.
fn log(operators: &[&str]) -> Value {
    let fields: Value = operators.iter().map(|operator| ((*operator).to_owned(), Value::from(*operator))).collect();
    json!([{"name": "envoy.access_loggers.file", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "@DIR@/access.log",
        "log_format": {"json_format": fields},
    }}])
}

/// A number is told by its kind where its value is one of time or chance.
fn shape(operator: &str, value: &Value) -> Value {
    let by_chance = ["DURATION", "RTT", "CONNECTION_ID", "V_START", "V_END"].iter().any(|part| operator.contains(part));
    if by_chance && value.is_number() { "a number".into() } else { value.clone() }
}

fn records(plane: &DataPlane, count: usize) -> Vec<Value> {
    let found = eventually(DEADLINE, || {
        let records = plane.access_records();
        if records.len() >= count { Ok(records) } else { Err(format!("{} of {count}", records.len())) }
    });
    let mut records = found.expect("all are told of");
    for record in &mut records {
        for (operator, value) in record.as_object_mut().expect("an object") {
            *value = shape(operator, value);
        }
    }
    records
}

fn check_alike(tell: impl Fn(Peer) -> Vec<Value>) {
    let (ours, theirs) = (tell(Peer::Outrigger), tell(Peer::Envoy));
    let mut differences = Vec::new();
    for (row, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        for (operator, value) in theirs.as_object().expect("an object") {
            if ours[operator] != *value {
                differences.push(format!("{row} {operator}: {}, Envoy: {value}", ours[operator]));
            }
        }
    }
    assert!(differences.is_empty(), "{}", differences.join("\n"));
    assert_eq!(ours.len(), theirs.len());
}

const OF_TCP: &[&str] = &[
    "%DOWNSTREAM_DETECTED_CLOSE_TYPE%",
    "%DOWNSTREAM_LOCAL_CLOSE_REASON%",
    "%UPSTREAM_DETECTED_CLOSE_TYPE%",
    "%UPSTREAM_LOCAL_CLOSE_REASON%",
    "%DOWNSTREAM_WIRE_BYTES_RECEIVED%",
    "%DOWNSTREAM_WIRE_BYTES_SENT%",
    "%DOWNSTREAM_HEADER_BYTES_SENT%",
    "%UPSTREAM_WIRE_BYTES_RECEIVED%",
    "%UPSTREAM_WIRE_BYTES_SENT%",
    "%UPSTREAM_CONNECTION_ID%",
    "%COMMON_DURATION(DS_CX_BEG:DS_CX_END)%",
    "%COMMON_DURATION(DS_CX_BEG:US_CX_END:us)%",
    "%COMMON_DURATION(US_CX_BEG:US_CX_END:ns)%",
    "%COMMON_DURATION(DS_RX_END:US_TX_BEG)%",
    "%DOWNSTREAM_HANDSHAKE_DURATION%",
    "%DOWNSTREAM_CX_RTT%",
];

fn told_of_tcp(peer: Peer) -> Vec<Value> {
    let talker = Talker::start("t").expect("a server");
    let unused = closed().expect("a port");
    let listener = |name: &str, cluster: &str, more: Value| {
        let mut listener = tcp_listener(name, cluster);
        let proxy = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
        *proxy = with(with(proxy.clone(), more), json!({"access_log": log(OF_TCP)}));
        listener
    };
    let bootstrap = Bootstrap::new()
        .cluster(cluster("t", &[talker.address()]))
        .cluster(cluster("unused", &[unused]))
        .listener(listener("plain", "t", json!({})))
        .listener(listener("idle", "t", json!({"idle_timeout": "0.3s"})))
        .listener(listener("bounded", "t", json!({"max_downstream_connection_duration": "0.4s"})))
        .listener(listener("refused", "unused", json!({})));
    let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
    let open = |name: &str| {
        let mut socket = TcpStream::connect(plane.listener(name).expect("its listener")).expect("a connection");
        socket.set_read_timeout(Some(DEADLINE)).expect("a timeout");
        socket.write_all(b"hello\n").expect("sent");
        socket
    };
    // A close may be a reset, too.
    let until_closed = |mut socket: TcpStream| _ = socket.read_to_end(&mut Vec::new());
    // One after the other, so that the rows are.
    let ways: [&dyn Fn(); 5] = [
        &|| {
            let mut socket = open("plain");
            socket.read_exact(&mut [0; 2]).expect("an answer");
            socket.shutdown(Shutdown::Write).expect("closed");
            until_closed(socket);
        },
        &|| {
            let mut connection =
                Connection::open(plane.listener("plain").expect("its listener")).expect("a connection");
            connection.send("hello\n").expect("sent");
            connection.read_raw(2).expect("an answer");
            connection.reset().expect("reset");
        },
        &|| until_closed(open("idle")),
        &|| until_closed(open("bounded")),
        &|| until_closed(open("refused")),
    ];
    for (row, go) in ways.iter().enumerate() {
        go();
        records(&plane, row + 1);
    }
    // The talker says who asks, by a port that is another each time.
    let mut records = records(&plane, ways.len());
    for record in &mut records {
        for operator in ["%DOWNSTREAM_WIRE_BYTES_SENT%", "%UPSTREAM_WIRE_BYTES_RECEIVED%"] {
            record[operator] = (record[operator].as_u64() > Some(0)).into();
        }
    }
    records
}

#[test]
fn ends_of_connections_are_told_alike() {
    check_alike(told_of_tcp);
}

const OF_TLS: &[&str] = &[
    "%DOWNSTREAM_TLS_GROUP%",
    "%UPSTREAM_TLS_GROUP%",
    "%UPSTREAM_SERVER_NAME%",
    "%TLS_JA4_FINGERPRINT%",
    "%DOWNSTREAM_PEER_FINGERPRINT_256%",
    "%DOWNSTREAM_PEER_FINGERPRINT_1%",
    "%DOWNSTREAM_PEER_SERIAL%",
    "%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256%",
    "%DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1%",
    "%DOWNSTREAM_PEER_CHAIN_SERIALS%",
    "%DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256%",
    "%DOWNSTREAM_PEER_ISSUER_SERIAL%",
    "%DOWNSTREAM_PEER_OTHERNAME_SAN%",
    "%DOWNSTREAM_LOCAL_OTHERNAME_SAN%",
    "%DOWNSTREAM_HANDSHAKE_DURATION%",
    "%DOWNSTREAM_WIRE_BYTES_RECEIVED%",
    "%DOWNSTREAM_CX_RTT%",
    "%COMMON_DURATION(DS_HS_BEG:DS_HS_END:us)%",
    "%COMMON_DURATION(DS_CX_BEG:DS_RX_BEG:us)%",
    "%COMMON_DURATION(US_CX_BEG:US_HS_END:us)%",
    "%COMMON_DURATION(DS_RX_BEG:DS_TX_END:us)%",
];

#[test]
fn tls_is_told_alike() {
    let authority = Authority::new("ours").expect("an authority");
    let server = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let other_name = SanType::OtherName((vec![1, 3, 6, 1, 4, 1, 311, 20, 2, 3], "user@mesh".into()));
    let client = authority
        .issue_with("client.test", "spiffe://mesh/client", |params| params.subject_alt_names.push(other_name))
        .expect("a leaf");
    let trusted = json!({"trusted_ca": {"inline_string": authority.pem()}});
    let curves = json!({"ecdh_curves": ["X25519", "P-256"]});
    let inspector = json!([{"name": "tls_inspector", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        "enable_ja3_fingerprinting": true, "enable_ja4_fingerprinting": true,
    }}]);
    let origin = Origin::start("o").expect("origin");
    check_alike(|peer| {
        let ends_tls = |name: &str, manager: HttpListener, asks: bool| {
            let mut listener: Value = manager.into();
            listener["filter_chains"][0]["transport_socket"] = downstream(&json!({
                "require_client_certificate": asks,
                "common_tls_context": {
                    "tls_certificates": [server.config()], "validation_context": trusted, "tls_params": curves,
                },
            }));
            listener["listener_filters"] = inspector.clone();
            listener["name"] = name.into();
            listener
        };
        let behind = HttpListener::new("behind", &json!([route("/", "o")]));
        let front = HttpListener::new("front", &json!([route("/", "tls")])).manager(json!({"access_log": log(OF_TLS)}));
        // The origin with TLS is another listener of a proxy of the same kind.
        let second = DataPlane::start(
            peer,
            &Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(ends_tls("behind", behind, false)),
        )
        .expect("the origin's proxy starts");
        let to = second.listener("behind").expect("its listener");
        let mut secured = cluster("tls", &[to]);
        secured["transport_socket"] =
            upstream(&json!({"sni": "server.test", "common_tls_context": {"tls_params": curves}}));
        let bootstrap = Bootstrap::new().cluster(secured).listener(ends_tls("front", front, true));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let who = Client { alpn: vec!["http/1.1"], ..Client::named("server.test").with(&client) };
        let answer = who.send(plane.listener("front").expect("its listener"), &Request::get("/")).expect("an answer");
        assert_eq!(answer.status, 200, "{peer:?}: {answer:?}");
        records(&plane, 1)
    });
}

/// In the words of each proxy's library.
#[test]
fn a_handshake_that_fails_says_why() {
    const WHY: &str = "%DOWNSTREAM_TRANSPORT_FAILURE_REASON%";
    let server = Authority::new("ours").and_then(|ours| ours.issue("server.test", "spiffe://mesh/server"));
    let context = json!({"common_tls_context": {"tls_certificates": [server.expect("a leaf").config()]}});
    let origin = Origin::start("o").expect("origin");
    for peer in [Peer::Outrigger, Peer::Envoy] {
        let listener = with(secure("main", &context), json!({"access_log": log(&[WHY])}));
        let plane = start(peer, &origin, vec![listener]).expect("the proxy starts");
        let mut client = TcpStream::connect(plane.listener("main").expect("its listener")).expect("a connection");
        client.write_all(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n").expect("room for a request");
        let told = records(&plane, 1);
        let why = told[0][WHY].as_str().unwrap_or_default();
        assert!(why.starts_with("TLS_error:") && !why.contains(' '), "{peer:?}: {told:?}");
    }
}

/// Of a stream that can't reach its socket by itself, and of a listener that is asked when the connection is gone.
#[test]
fn round_trips_are_told_alike() {
    let origin = Origin::start("o").expect("origin");
    let operators = ["%DOWNSTREAM_CX_RTT%", "%PROTOCOL%", "%RESPONSE_CODE%"];
    check_alike(|peer| {
        let main = HttpListener::new("main", &json!([route("/", "o")])).manager(json!({"access_log": log(&operators)}));
        let listener = with(main.into(), json!({"access_log": log(&operators)}));
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let connection = H2Connection::open(address).expect("a connection");
        connection.exchange(&H2Request::get("/")).expect("an answer");
        drop(connection);
        // What protocol a connection of a listener spoke is told by Envoy alone.
        let mut records = records(&plane, 2);
        assert_eq!(records[0]["%PROTOCOL%"], "HTTP/2", "{records:?}");
        assert!(records.iter().all(|record| record["%DOWNSTREAM_CX_RTT%"] == "a number"), "{records:?}");
        records.truncate(1);
        records
    });
}

const OF_BYTES: &[&str] = &[
    "%DOWNSTREAM_WIRE_BYTES_RECEIVED%",
    "%DOWNSTREAM_WIRE_BYTES_SENT%",
    "%DOWNSTREAM_HEADER_BYTES_RECEIVED%",
    "%DOWNSTREAM_HEADER_BYTES_SENT%",
    "%DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT%",
    "%UPSTREAM_WIRE_BYTES_RECEIVED%",
    "%UPSTREAM_WIRE_BYTES_SENT%",
    "%UPSTREAM_HEADER_BYTES_RECEIVED%",
    "%UPSTREAM_HEADER_BYTES_SENT%",
];

#[test]
fn bytes_are_counted_alike() {
    let origin = Origin::start("o").expect("origin");
    let retried = json!({"retry_policy": {"retry_on": "5xx", "num_retries": 1}});
    // What tells of time has more digits or fewer.
    let quiet = |route: Value| with(route, json!({"response_headers_to_remove": ["x-envoy-upstream-service-time"]}));
    let routes = json!([
        {"match": {"prefix": "/found"}, "direct_response": {"status": 404, "body": {"inline_string": "nothing"}}},
        quiet(with(route("/retried", "o"), json!({"route": retried}))),
        quiet(route("/", "o")),
    ]);
    let requests = [
        Request::get("/"),
        Request::get("/found"),
        Request::new("POST", "/").body("a body"),
        Request::get("/").origin("status=204"),
        Request::get("/retried").origin("status=503;flaky=1"),
    ];
    check_alike(|peer| {
        let main = HttpListener::new("main", &routes).manager(json!({"access_log": log(OF_BYTES)}));
        let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(main);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        for (row, request) in requests.iter().enumerate() {
            request.send(address).expect("an answer");
            records(&plane, row + 1);
        }
        records(&plane, requests.len())
    });
}

/// The bytes of a hello, the same for both proxies.
fn hello() -> Vec<u8> {
    let client = Client { alpn: vec!["h2", "http/1.1"], ..Client::named("a.test") };
    let name = "a.test".try_into().expect("a name");
    let config = client.config().expect("a configuration").into();
    let mut connection = rustls::ClientConnection::new(config, name).expect("a connection");
    let mut bytes = Vec::new();
    connection.write_tls(&mut bytes).expect("a hello");
    bytes
}

#[test]
fn hellos_have_the_fingerprints_of_envoy() {
    let hello = hello();
    let talker = Talker::start("t").expect("a server");
    check_alike(|peer| {
        let mut listener = tcp_listener("tcp", "t");
        listener["listener_filters"] = json!([{"name": "tls_inspector", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
            "enable_ja3_fingerprinting": true, "enable_ja4_fingerprinting": true,
        }}]);
        let operators = ["%TLS_JA3_FINGERPRINT%", "%TLS_JA4_FINGERPRINT%", "%REQUESTED_SERVER_NAME%"];
        listener["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = log(&operators);
        let plane =
            DataPlane::start(peer, &Bootstrap::new().cluster(cluster("t", &[talker.address()])).listener(listener))
                .expect("the proxy starts");
        let address: SocketAddr = plane.listener("tcp").expect("its listener");
        let mut socket = TcpStream::connect(address).expect("a connection");
        socket.set_read_timeout(Some(Duration::from_secs(10))).expect("a timeout");
        socket.write_all(&hello).expect("sent");
        _ = socket.read(&mut [0; 1]).expect("an answer");
        drop(socket);
        let records = records(&plane, 1);
        assert!(records[0]["%TLS_JA3_FINGERPRINT%"].is_string(), "{peer:?}: {records:?}");
        records
    });
}
