//! The PROXY protocol towards origins: what they are told of clients, byte by byte, and who shares a connection. Real Envoy
//! is the referee.

#![allow(clippy::expect_used, clippy::panic, reason = "a test that cannot set itself up fails")]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::mpsc::{Receiver, channel};

use outrigger_e2e::bootstrap::{HttpListener, cluster, http2, route, tcp_listener, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::talker::Talker;
use outrigger_e2e::tls::{Authority, downstream, upstream};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Origin, Request};
use serde_json::{Value, json};

const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
const LOCAL: [u8; 4] = [0x20, 0, 0, 0];

/// An origin that shows the header of every connection and then answers each request of it.
struct Told {
    address: SocketAddr,
    headers: Receiver<(Vec<u8>, SocketAddr)>,
}

impl Told {
    fn start() -> Told {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a listener");
        let address = listener.local_addr().expect("an address");
        let (tell, headers) = channel();
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let tell = tell.clone();
                std::thread::spawn(move || {
                    let peer = stream.peer_addr().expect("a peer");
                    let mut reader = BufReader::new(stream.try_clone().expect("a stream"));
                    let Some(header) = header(&mut reader) else { return };
                    _ = tell.send((header, peer));
                    answer(&mut reader, stream);
                });
            }
        });
        Told { address, headers }
    }

    /// The header of the next connection, and the proxy's end of it.
    fn next(&self) -> (Vec<u8>, SocketAddr) {
        self.headers.recv_timeout(DEADLINE).expect("a connection")
    }

    fn nothing_more(&self) {
        assert!(self.headers.try_recv().is_err(), "another connection");
    }
}

fn header(reader: &mut impl BufRead) -> Option<Vec<u8>> {
    let mut bytes = vec![0; 6];
    reader.read_exact(&mut bytes).ok()?;
    if bytes == b"PROXY " {
        reader.read_until(b'\n', &mut bytes).ok()?;
        return Some(bytes);
    }
    bytes.resize(16, 0);
    reader.read_exact(&mut bytes[6..]).ok()?;
    let length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    bytes.resize(16 + length, 0);
    reader.read_exact(&mut bytes[16..]).ok()?;
    Some(bytes)
}

fn answer(reader: &mut impl BufRead, mut stream: TcpStream) {
    let mut line = String::new();
    while reader.read_line(&mut line).is_ok_and(|read| read > 0) {
        if line.trim_end().is_empty() && stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").is_err() {
            return;
        }
        line.clear();
    }
}

/// A cluster that tells its endpoints of clients, over another transport socket.
fn telling(mut cluster: Value, config: &Value) -> Value {
    let inner = match &cluster["transport_socket"] {
        Value::Null => json!({"name": "envoy.transport_sockets.raw_buffer", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer"}}),
        inner => inner.clone(),
    };
    cluster["transport_socket"] = json!({"name": "envoy.transport_sockets.upstream_proxy_protocol", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport",
        "config": config, "transport_socket": inner,
    }});
    cluster
}

fn v1(source: SocketAddr, destination: SocketAddr) -> Vec<u8> {
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    format!("PROXY {family} {} {} {} {}\r\n", source.ip(), destination.ip(), source.port(), destination.port()).into()
}

fn v2(source: SocketAddr, destination: SocketAddr, values: &[u8]) -> Vec<u8> {
    let octets = |address: SocketAddr| match address.ip() {
        std::net::IpAddr::V4(ip) => ip.octets().to_vec(),
        std::net::IpAddr::V6(ip) => ip.octets().to_vec(),
    };
    let ports = [source.port().to_be_bytes(), destination.port().to_be_bytes()].concat();
    let body = [octets(source), octets(destination), ports, values.to_vec()].concat();
    let family = if source.is_ipv4() { 0x11 } else { 0x21 };
    let length = u16::try_from(body.len()).expect("a short header").to_be_bytes();
    [SIGNATURE, &[0x21, family], &length, &body].concat()
}

/// Any header that tells of a client and where it connected to.
type Expected = fn(SocketAddr, SocketAddr) -> Vec<u8>;

#[test]
fn origins_are_told_of_clients_byte_by_byte() {
    let cases: [(&str, Value, Expected); 4] = [
        ("v1", json!({}), v1),
        ("v2", json!({"version": "V2"}), |source, destination| v2(source, destination, &[])),
        // A value is base64.
        (
            "tlvs",
            json!({"version": "V2", "added_tlvs": [{"type": 0xe0, "value": "aGk="}, {"type": 4, "value": "AA=="}]}),
            |source, destination| v2(source, destination, &[0xe0, 0, 2, b'h', b'i', 4, 0, 1, 0]),
        ),
        ("v1-tlvs", json!({"version": "V1", "added_tlvs": [{"type": 0xe0, "value": "aGk="}]}), v1),
    ];
    for peer in Peer::all() {
        for host in ["127.0.0.1", "::1"] {
            for (name, config, expected) in &cases {
                let origin = Told::start();
                let at = |mut listener: Value| {
                    listener["address"]["socket_address"]["address"] = json!(host);
                    listener
                };
                let remote = json!({"use_remote_address": true});
                let bootstrap = Bootstrap::new()
                    .cluster(telling(cluster("c", &[origin.address]), config))
                    .listener(at(tcp_listener("bytes", "c")))
                    .listener(at(HttpListener::new("main", &json!([route("/", "c")])).manager(remote).into()));
                let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
                for listener in ["bytes", "main"] {
                    let to = plane.listener(listener).expect("the listener");
                    let mut stream = TcpStream::connect(to).expect("a connection");
                    let own = stream.local_addr().expect("an address");
                    // What a request says of its client changes nothing.
                    stream
                        .write_all(b"GET / HTTP/1.1\r\nhost: a\r\nx-forwarded-for: 9.9.9.9\r\n\r\n")
                        .expect("written");
                    let mut status = [0; 15];
                    stream.read_exact(&mut status).expect("an answer");
                    assert_eq!(&status, b"HTTP/1.1 200 OK");
                    assert_eq!(origin.next().0, expected(own, to), "{}: {name} {host} {listener}", peer.name());
                }
            }
        }
    }
}

#[test]
fn a_connection_serves_the_client_that_it_tells_of() {
    for peer in Peer::all() {
        for breaker in [1024, 1] {
            let origin = Told::start();
            let mut one = telling(cluster("c", &[origin.address]), &json!({"version": "V2"}));
            one["circuit_breakers"] = json!({"thresholds": [{"max_connections": breaker}]});
            let bootstrap =
                Bootstrap::new().cluster(one).listener(HttpListener::new("main", &json!([route("/", "c")])));
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            let main = plane.listener("main").expect("the listener");
            let mut clients = [(); 3].map(|()| Connection::open(main).expect("a connection"));
            let mut seen = Vec::new();
            for client in &mut clients {
                for _ in 0..3 {
                    assert_eq!(client.exchange(&Request::get("/")).expect("an answer").status, 200, "{}", peer.name());
                }
                seen.push(origin.next().0);
                origin.nothing_more();
            }
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), 3, "{}: each of its own", peer.name());
            // At the limit we close an idle one of another client; Envoy goes beyond.
            let open = plane.admin.stat("cluster.c.upstream_cx_active").expect("the gauge");
            let expected = if breaker == 1 && peer == Peer::Outrigger { 1 } else { 3 };
            assert_eq!(open, expected, "{}: {breaker}", peer.name());
        }
    }
}

#[test]
fn nobody_is_told_of_where_there_is_no_client() {
    for peer in Peer::all() {
        for version in ["V1", "V2"] {
            let origin = Told::start();
            let checked = with(
                telling(cluster("c", &[origin.address]), &json!({"version": version})),
                json!({"health_checks": [{
                    "timeout": "2s", "interval": "600s", "healthy_threshold": 1, "unhealthy_threshold": 1,
                    "http_health_check": {"path": "/healthy"},
                }]}),
            );
            let quiet = json!({"add_proxy_protocol_connection_state": false});
            let bootstrap = Bootstrap::new()
                .cluster(checked)
                .listener(HttpListener::new("main", &json!([route("/", "c")])).manager(quiet));
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            let main = plane.listener("main").expect("the listener");
            for _ in 0..2 {
                let (header, from) = origin.next();
                let expected = if version == "V1" { v1(from, origin.address) } else { [SIGNATURE, &LOCAL].concat() };
                assert_eq!(header, expected, "{}: {version}", peer.name());
                // First the health check, then a request that is told of as the proxy's own.
                assert_eq!(Request::get("/").send(main).expect("an answer").status, 200, "{}", peer.name());
            }
        }
    }
}

fn behind_a_balancer(mut listener: Value) -> Value {
    listener["listener_filters"] = json!([{"name": "proxy", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.listener.proxy_protocol.v3.ProxyProtocol"}}]);
    listener["listener_filters_timeout"] = json!("1s");
    listener
}

#[test]
fn who_the_client_is_comes_from_the_balancer() {
    let talker = Talker::greeting("t").expect("a talker");
    let client = |port: u16| SocketAddr::from(([10, 0, 0, 9], port));
    let to = SocketAddr::from(([10, 0, 0, 1], 80));
    for peer in Peer::all() {
        let origin = Told::start();
        let bootstrap = Bootstrap::new()
            .cluster(telling(cluster("c", &[origin.address]), &json!({"version": "V2"})))
            .cluster(cluster("talker", &[talker.address()]))
            .listener(behind_a_balancer(HttpListener::new("main", &json!([route("/", "c")])).into()))
            .listener(behind_a_balancer(tcp_listener("bytes", "c")))
            .listener(behind_a_balancer(tcp_listener("speaks", "talker")));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for (listener, port) in [("main", 1), ("bytes", 2)] {
            let mut stream = TcpStream::connect(plane.listener(listener).expect("the listener")).expect("a connection");
            stream.write_all(&v1(client(port), to)).expect("written");
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("written");
            assert_eq!(origin.next().0, v2(client(port), to, &[]), "{}: {listener}", peer.name());
        }
        // A server that speaks first speaks to nobody who isn't known.
        let speaks = plane.listener("speaks").expect("the listener");
        let mut silent = TcpStream::connect(speaks).expect("a connection");
        let mut heard = Vec::new();
        _ = silent.read_to_end(&mut heard);
        assert_eq!(heard, b"", "{}", peer.name());
        let mut known = TcpStream::connect(speaks).expect("a connection");
        known.write_all(&v1(client(3), to)).expect("written");
        let mut first = [0];
        known.read_exact(&mut first).expect("the server's word");
        assert_eq!(&first, b"t", "{}", peer.name());
    }
}

#[test]
fn the_header_comes_before_tls_and_over_http2() {
    let authority = Authority::new("ours").expect("an authority");
    let leaf = authority.issue("server.test", "spiffe://mesh/server").expect("a leaf");
    let origin = Origin::start("o").expect("an origin");
    // A proxy that takes the header, ends TLS and says who the client is.
    let context =
        json!({"common_tls_context": {"tls_certificates": [leaf.config()], "alpn_protocols": ["h2", "http/1.1"]}});
    let manager = json!({"use_remote_address": true});
    let mut inner: Value = HttpListener::new("inner", &json!([route("/", "o")])).manager(manager).into();
    inner["filter_chains"][0]["transport_socket"] = downstream(&context);
    let server = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(behind_a_balancer(inner));
    let server = DataPlane::start(Peer::Outrigger, &server).expect("the server starts");
    let at = server.listener("inner").expect("the listener");
    let tls = json!({"sni": "server.test", "common_tls_context": {
        "validation_context": {"trusted_ca": {"inline_string": authority.pem()}}}});
    for peer in Peer::all() {
        let mut over_tls = cluster("h1", &[at]);
        over_tls["transport_socket"] = upstream(&tls);
        let over_h2 = http2(with(over_tls.clone(), json!({"name": "h2", "load_assignment": {"cluster_name": "h2"}})));
        let bootstrap = Bootstrap::new()
            .cluster(telling(over_tls, &json!({"version": "V1"})))
            .cluster(telling(over_h2, &json!({"version": "V2"})))
            .listener(HttpListener::new("main", &json!([route("/h2", "h2"), route("/", "h1")])));
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let main = plane.listener("main").expect("the listener");
        for path in ["/h1", "/h2"] {
            for _ in 0..2 {
                let answer = Request::get(path).send(main).expect("an answer");
                assert_eq!(answer.status, 200, "{}: {path}", peer.name());
                let told = answer.seen("x-forwarded-for");
                assert_eq!(told.as_deref(), Some("127.0.0.1"), "{}: {path}", peer.name());
            }
        }
        let stats = server.admin.stats().expect("stats");
        let found: u64 =
            stats.iter().filter(|(name, _)| name.contains("proxy_proto.versions")).map(|(_, count)| count).sum();
        assert!(found >= 4, "{}: {stats:?}", peer.name());
    }
}

/// An entry of a header.
fn entry(kind: u8, value: &[u8]) -> Vec<u8> {
    let length = u16::try_from(value.len()).expect("a short value").to_be_bytes();
    [&[kind], &length[..], value].concat()
}

/// What is noted of entries, and which of them may be passed on.
fn with_rules(mut listener: Value, passed: &Value) -> Value {
    let log = json!([{"name": "f", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog", "path": "@DIR@/access.log",
        "log_format": {"json_format": {
            "port": "%DOWNSTREAM_REMOTE_PORT%", "type": "%ACCESS_LOG_TYPE%",
            "noted": "%DYNAMIC_METADATA(envoy.filters.listener.proxy_protocol)%", "other": "%DYNAMIC_METADATA(other)%",
        }},
    }}]);
    let rules = json!([
        {"tlv_type": 0xea, "on_tlv_present": {"key": "unused"}},
        {"tlv_type": 0xea, "on_tlv_present": {"key": "text"}},
        {"tlv_type": 0xeb, "on_tlv_present": {"key": "bytes", "value_string_encoding": "BASE64"}},
        {"tlv_type": 0xec, "on_tlv_present": {"key": "elsewhere", "metadata_namespace": "other"}},
        {"tlv_type": 0xed},
    ]);
    listener = behind_a_balancer(listener);
    listener["listener_filters"][0]["typed_config"]["rules"] = rules;
    listener["listener_filters"][0]["typed_config"]["pass_through_tlvs"] = passed.clone();
    listener["access_log"] = log.clone();
    listener["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = log;
    listener
}

#[test]
fn entries_are_noted_and_passed_on() {
    let told = [
        entry(0xea, b"x\xff\xc3\xa9\xe2\x82y"),
        entry(0xea, b"second"),
        entry(0xeb, b"\0\x01\xff"),
        entry(0xec, b"o"),
        entry(0xed, b""),
        entry(0xee, b"1"),
        entry(0xee, b"2"),
        entry(0xf0, b"of the client"),
        entry(0xf3, b"more"),
    ]
    .concat();
    let denied = entry(0xea, b"deny");
    let added = json!([
        {"type": 0xf0, "value": "Y2x1c3Rlcg=="}, {"type": 0xf1, "value": "Y2x1c3Rlcg=="}, {"type": 0xf0, "value": "YWdhaW4="},
    ]);
    let own = json!({"typed_filter_metadata": {"envoy.transport_sockets.proxy_protocol": {
        "@type": "type.googleapis.com/envoy.config.core.v3.PerHostConfig",
        "added_tlvs": [{"type": 0xf1, "value": "aG9zdA=="}, {"type": 0xf2, "value": "aG9zdA=="}, {"type": 0xf1, "value": "dHdv"}],
    }}});
    let some = json!({"match_type": "INCLUDE", "tlv_type": [0xea, 0xee, 0xf0]});
    let deny = json!({"name": "rbac", "typed_config": {
        "@type": "type.googleapis.com/envoy.extensions.filters.network.rbac.v3.RBAC", "stat_prefix": "r",
        "rules": {"action": "DENY", "policies": {"p": {"principals": [{"any": true}], "permissions": [{"metadata": {
            "filter": "envoy.filters.listener.proxy_protocol", "path": [{"key": "text"}],
            "value": {"string_match": {"exact": "deny"}},
        }}]}}},
    }});
    let run = |peer: Peer| -> Vec<String> {
        let origin = Told::start();
        let to = |name: &str, passed: &Value| {
            let mut cluster = cluster(name, &[origin.address]);
            cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["metadata"] = own.clone();
            telling(cluster, &json!({"version": "V2", "added_tlvs": added, "pass_through_tlvs": passed}))
        };
        let mut judged = with_rules(tcp_listener("judged", "all"), &json!({}));
        judged["filter_chains"][0]["filters"].as_array_mut().expect("filters").insert(0, deny.clone());
        judged["filter_chains"][0]["filters"][0]["typed_config"].as_object_mut().expect("RBAC").remove("access_log");
        let http = |name: &str, to: &str| -> Value { HttpListener::new(name, &json!([route("/", to)])).into() };
        let bootstrap = Bootstrap::new()
            .cluster(to("all", &json!({"match_type": "INCLUDE_ALL"})))
            .cluster(to("some", &some))
            .cluster(to("none", &Value::Null))
            .listener(with_rules(tcp_listener("bytes", "all"), &json!({})))
            .listener(with_rules(tcp_listener("bytes-some", "all"), &some))
            .listener(with_rules(tcp_listener("none", "none"), &json!({})))
            .listener(with_rules(http("main", "all"), &json!({})))
            .listener(with_rules(http("main-some", "some"), &json!({})))
            .listener(judged);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut found = Vec::new();
        let names = ["bytes", "bytes-some", "none", "main", "main-some", "judged", "judged"];
        for (port, name) in (1..).zip(names) {
            let mut stream = TcpStream::connect(plane.listener(name).expect("the listener")).expect("a connection");
            let values = if port == names.len() as u16 { &denied } else { &told };
            let (client, to) = (SocketAddr::from(([10, 0, 0, 9], port)), SocketAddr::from(([10, 0, 0, 1], 80)));
            stream.write_all(&v2(client, to, values)).expect("written");
            stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").expect("written");
            let answered = stream.read_exact(&mut [0; 15]).is_ok();
            let header = answered.then(|| origin.next().0);
            found.push(format!(
                "{name}: {:?}",
                header.map(|header| String::from_utf8_lossy(&header).escape_debug().to_string())
            ));
            drop(stream);
            for kind in ["NotSet", if name.starts_with("main") { "DownstreamEnd" } else { "TcpConnectionEnd" }] {
                let of = |record: &Value| record["port"] == port && record["type"] == kind;
                // A connection that is refused has never been one of its TCP proxy's in Envoy.
                if answered {
                    found.push(plane.access_record_where(of).expect("a record").to_string());
                }
            }
        }
        found
    };
    let (ours, theirs) = (run(Peer::Outrigger), run(Peer::Envoy));
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours, theirs);
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(theirs.last().is_some_and(|last| last == "judged: None"), "{theirs:?}");
}
