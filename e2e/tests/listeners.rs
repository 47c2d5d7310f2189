//! What happens before a filter chain is chosen, and how it is: one table for Envoy and ours, over raw sockets.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::io::{BufReader, Read, Write};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener, with};
use outrigger_e2e::parser::header as header_of;
use outrigger_e2e::talker::{Talker, ask, connect, line, name};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer};
use serde_json::{Value, json};

const FILTERS: &str = "type.googleapis.com/envoy.extensions.filters.listener";

fn filter(kind: &str, fields: Value) -> Value {
    let config = with(json!({"@type": format!("{FILTERS}.{kind}")}), fields);
    json!({"name": format!("envoy.filters.listener.{}", kind.split('.').next().unwrap_or_default()), "typed_config": config})
}

fn tls_inspector() -> Value {
    filter("tls_inspector.v3.TlsInspector", json!({}))
}

fn http_inspector() -> Value {
    filter("http_inspector.v3.HttpInspector", json!({}))
}

/// Passes bytes to the cluster of its name.
fn chain(cluster: &str, criteria: Value) -> Value {
    let filters = tcp_listener(cluster, cluster)["filter_chains"][0]["filters"].clone();
    let mut chain = json!({"name": cluster, "filters": filters});
    chain["filter_chain_match"] = criteria;
    chain
}

fn prefix(text: &str) -> Value {
    let (address, len) = text.split_once('/').expect("a prefix");
    json!([{"address_prefix": address, "prefix_len": len.parse::<u32>().expect("its length")}])
}

/// The first bytes of a TLS client.
fn hello(server_name: &str, protocols: &[&str]) -> Vec<u8> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
    let server_name = server_name.to_owned().try_into().expect("a name");
    let mut client = rustls::ClientConnection::new(Arc::new(config), server_name).expect("a client");
    let mut bytes = Vec::new();
    client.write_tls(&mut bytes).expect("a hello");
    bytes
}

/// A PROXY header of version 1.
fn proxied(source: &str, destination: &str) -> Vec<u8> {
    let (source, destination): (SocketAddr, SocketAddr) =
        (source.parse().expect("an address"), destination.parse().expect("an address"));
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

const OUTSIDE: &str = "10.0.0.9:999";
const GET: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// Chains that ask for everything that can be asked for; the talkers have their names.
fn chains() -> Vec<Value> {
    vec![
        chain("port", json!({"destination_port": 443})),
        chain("port-net", json!({"destination_port": 443, "prefix_ranges": prefix("10.1.0.0/16")})),
        chain(
            "port-host",
            json!({"destination_port": 443, "prefix_ranges": prefix("10.1.0.1/32"), "server_names": ["h.test"]}),
        ),
        chain("net6", json!({"prefix_ranges": prefix("fd09::/16")})),
        chain("exact", json!({"server_names": ["a.test", "www.b.test"]})),
        chain("suffix", json!({"server_names": ["*.b.test"]})),
        chain("suffix-h2", json!({"server_names": ["*.x.b.test"], "application_protocols": ["h2"]})),
        chain("tls", json!({"transport_protocol": "tls"})),
        chain("tls-h2", json!({"transport_protocol": "tls", "application_protocols": ["h2"]})),
        chain("http", json!({"application_protocols": ["http/1.1", "http/1.0"]})),
        chain("h2c", json!({"application_protocols": ["h2c"]})),
        chain("from-net", json!({"source_prefix_ranges": prefix("10.2.0.0/16")})),
        chain("from-port", json!({"source_prefix_ranges": prefix("10.2.0.0/16"), "source_ports": [77, 78]})),
        chain("local", json!({"destination_port": 8443, "source_type": "SAME_IP_OR_LOOPBACK"})),
        chain(
            "outside",
            json!({
                "destination_port": 8443, "source_type": "EXTERNAL", "source_prefix_ranges": prefix("10.3.0.0/16"),
            }),
        ),
        chain("anybody", json!({"destination_port": 8443, "source_prefix_ranges": prefix("10.4.0.0/16")})),
        chain("direct", json!({"destination_port": 9443, "direct_source_prefix_ranges": prefix("127.0.0.0/8")})),
        chain("direct-not", json!({"destination_port": 9443, "direct_source_prefix_ranges": prefix("10.0.0.0/8")})),
        chain("buffer", json!({"destination_port": 7443, "transport_protocol": "raw_buffer"})),
    ]
}

/// Source, destination, first bytes, the chain.
fn table() -> Vec<(&'static str, &'static str, Vec<u8>, &'static str)> {
    let raw = || b"\x01\x02 nothing of the kind".to_vec();
    vec![
        (OUTSIDE, "10.0.0.1:443", raw(), "port"),
        (OUTSIDE, "10.1.0.2:443", raw(), "port-net"),
        // The longest prefix has nothing for it: no way back to a shorter one.
        (OUTSIDE, "10.1.0.1:443", raw(), "default"),
        (OUTSIDE, "10.1.0.1:443", hello("h.test", &[]), "port-host"),
        (OUTSIDE, "10.1.0.1:443", hello("a.test", &[]), "default"),
        ("[fd00::9]:999", "[fd09::1]:80", raw(), "net6"),
        ("[fd00::9]:999", "[fd09::1]:80", hello("a.test", &[]), "net6"),
        ("[fd00::9]:999", "[fd08::1]:80", hello("a.test", &[]), "exact"),
        (OUTSIDE, "10.0.0.1:80", hello("a.test", &["h2"]), "exact"),
        (OUTSIDE, "10.0.0.1:80", hello("A.Test", &[]), "exact"),
        (OUTSIDE, "10.0.0.1:80", hello("www.b.test", &[]), "exact"),
        (OUTSIDE, "10.0.0.1:80", hello("c.b.test", &[]), "suffix"),
        (OUTSIDE, "10.0.0.1:80", hello("d.c.b.test", &[]), "suffix"),
        (OUTSIDE, "10.0.0.1:80", hello("b.test", &[]), "tls"),
        (OUTSIDE, "10.0.0.1:80", hello("y.x.b.test", &["h2"]), "suffix-h2"),
        (OUTSIDE, "10.0.0.1:80", hello("y.x.b.test", &["http/1.1"]), "default"),
        (OUTSIDE, "10.0.0.1:80", hello("c.test", &[]), "tls"),
        (OUTSIDE, "10.0.0.1:80", hello("c.test", &["http/1.1", "h2"]), "tls-h2"),
        (OUTSIDE, "10.0.0.1:80", hello("10.0.0.1", &[]), "tls"),
        (OUTSIDE, "10.0.0.1:80", GET.to_vec(), "http"),
        (OUTSIDE, "10.0.0.1:80", PREFACE.to_vec(), "h2c"),
        (OUTSIDE, "10.0.0.1:80", raw(), "default"),
        ("10.2.0.9:999", "10.0.0.1:80", raw(), "from-net"),
        ("10.2.0.9:77", "10.0.0.1:80", raw(), "from-port"),
        ("10.2.0.9:78", "10.0.0.1:80", GET.to_vec(), "http"),
        ("10.3.0.9:999", "10.0.0.1:8443", raw(), "outside"),
        // From outside, and not from there: what asks for no type isn't asked.
        ("10.4.0.9:999", "10.0.0.1:8443", raw(), "default"),
        ("10.0.0.1:999", "10.0.0.1:8443", raw(), "local"),
        ("127.0.0.1:999", "10.0.0.1:8443", raw(), "local"),
        ("127.0.0.9:999", "10.0.0.1:8443", raw(), "default"),
        ("10.2.0.9:999", "10.0.0.1:9443", raw(), "direct"),
        (OUTSIDE, "10.0.0.1:7443", GET.to_vec(), "buffer"),
        (OUTSIDE, "10.0.0.1:7443", hello("a.test", &[]), "default"),
    ]
}

#[test]
fn chains_are_found_as_envoy_finds_them() {
    let mut names: Vec<String> =
        chains().iter().map(|chain| chain["name"].as_str().unwrap_or_default().to_owned()).collect();
    names.push("default".to_owned());
    let talkers: Vec<Talker> = names.iter().map(|name| Talker::start(name).expect("a talker")).collect();
    let mut default = chain("default", json!({}));
    default.as_object_mut().expect("an object").remove("filter_chain_match");
    let listener = with(
        tcp_listener("main", "default"),
        json!({
            "filter_chains": chains(),
            "default_filter_chain": default,
            "listener_filters": [
                filter("proxy_protocol.v3.ProxyProtocol", json!({})), tls_inspector(), http_inspector(),
            ],
        }),
    );
    let clusters = names.iter().zip(&talkers).map(|(name, talker)| cluster(name, &[talker.address()]));
    let bootstrap = clusters.fold(Bootstrap::new(), Bootstrap::cluster).listener(listener);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let mut failures = Vec::new();
        for (index, (source, destination, bytes, expected)) in table().into_iter().enumerate() {
            let answer = ask(address, &[proxied(source, destination), bytes].concat());
            let found = answer.as_ref().map_or_else(|error| format!("{error:#}"), |answer| name(answer).to_owned());
            if found != expected {
                failures.push(format!("{index}: {source} to {destination}: {found}, not {expected}"));
            }
        }
        assert!(failures.is_empty(), "{}:\n{}", peer.name(), failures.join("\n"));
    }
}

#[test]
fn a_connection_without_a_chain_is_closed() {
    let talker = Talker::start("a").expect("a talker");
    let listener = with(
        tcp_listener("main", "a"),
        json!({
            "stat_prefix": "main", "listener_filters": [tls_inspector()],
            "filter_chains": [chain("a", json!({"server_names": ["a.test"]}))],
        }),
    );
    let bootstrap = Bootstrap::new().cluster(cluster("a", &[talker.address()])).listener(listener);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        assert_eq!(name(&ask(address, &hello("a.test", &[])).expect("an answer")), "a", "{}", peer.name());
        for bytes in [hello("b.test", &[]), GET.to_vec()] {
            ask(address, &bytes).expect_err("nobody answers");
        }
        let closed = plane.admin.stat_reaches("listener.main.no_filter_chain_match", 2, DEADLINE);
        assert_eq!(closed.expect("the counter"), 2, "{}", peer.name());
        assert_eq!(plane.admin.stat("tls_inspector.tls_found").expect("a counter"), 2, "{}", peer.name());
        assert_eq!(plane.admin.stat("tls_inspector.tls_not_found").expect("a counter"), 1, "{}", peer.name());
    }
}

/// The header that a balancer puts before a request; what the origin is told of client and destination.
type ProxyCase = (&'static str, Vec<u8>, Option<(&'static str, &'static str)>);

fn version2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
    let length = u16::try_from(body.len()).expect("short").to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, body].concat()
}

fn proxy_table() -> Vec<ProxyCase> {
    let four = [10, 0, 0, 9, 10, 0, 0, 1, 3, 231, 0, 80];
    let with_values = [&four[..], &[0xea, 0, 3, b'a', b'b', b'c']].concat();
    let six = [&[0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9][..], &[0; 15], &[1, 0, 5, 0, 80]].concat();
    let told = Some(("10.0.0.9:999", "10.0.0.1:80"));
    let own = Some(("127.0.0.1", "127.0.0.1"));
    vec![
        ("v1", proxied("10.0.0.9:999", "10.0.0.1:80"), told),
        ("v1 of IPv6", proxied("[fd00::9]:999", "[fd00::1]:80"), Some(("[fd00::9]:999", "[fd00::1]:80"))),
        ("v1 unknown", b"PROXY UNKNOWN\r\n".to_vec(), own),
        ("v2", version2(0x21, 0x11, &four), told),
        ("v2 with values", version2(0x21, 0x11, &with_values), told),
        ("v2 of IPv6", version2(0x21, 0x21, &six), Some(("[fd00::9]:5", "[::1]:80"))),
        ("v2 local", version2(0x20, 0, &[]), own),
        ("none", Vec::new(), None),
        ("v1 without a port", b"PROXY TCP4 10.0.0.9 10.0.0.1 999\r\n".to_vec(), None),
        ("v1 with a port too large", b"PROXY TCP4 10.0.0.9 10.0.0.1 999 65536\r\n".to_vec(), None),
        ("v1 of mixed families", b"PROXY TCP4 10.0.0.9 ::1 999 80\r\n".to_vec(), None),
        ("v1 of another protocol", b"PROXY UDP4 10.0.0.9 10.0.0.1 999 80\r\n".to_vec(), None),
        ("v1 too long", [b"PROXY UNKNOWN ".as_slice(), &[b'a'; 100], b"\r\n"].concat(), None),
        ("v1 from nobody", proxied("0.0.0.0:999", "10.0.0.1:80"), None),
        ("v1 to nobody", proxied("[fd00::9]:999", "[::]:80"), None),
        ("v1 from a group", proxied("224.0.0.1:999", "10.0.0.1:80"), None),
        ("v1 to all", proxied("10.0.0.9:999", "255.255.255.255:80"), None),
        ("v1 of IPv6 from a group", proxied("[ff02::1]:999", "[fd00::1]:80"), None),
        ("v2 from nobody", version2(0x21, 0x11, &[&[0; 4], &four[4..]].concat()), None),
        ("v2 to a group", version2(0x21, 0x11, &[&four[..4], &[239, 0, 0, 1], &four[8..]].concat()), None),
        ("v2 of another version", version2(0x31, 0x11, &four), None),
        ("v2 with another command", version2(0x22, 0x11, &four), None),
        ("v2 for nobody", version2(0x21, 0, &[]), None),
        ("v2 too short", version2(0x21, 0x11, &four[..8]), None),
    ]
}

#[test]
fn the_proxy_protocol_tells_the_client() {
    let origin = Origin::start("origin").expect("an origin");
    let told = json!([
        {"header": {"key": "x-remote", "value": "%DOWNSTREAM_REMOTE_ADDRESS%"}},
        {"header": {"key": "x-local", "value": "%DOWNSTREAM_LOCAL_ADDRESS%"}},
    ]);
    let hosts = json!([{
        "name": "all", "domains": ["*"], "routes": [route("/", "origin")], "request_headers_to_add": told,
    }]);
    let filters = |config: Value| json!({"listener_filters": [filter("proxy_protocol.v3.ProxyProtocol", config)]});
    let strict = with(HttpListener::hosts("strict", &hosts).into(), filters(json!({})));
    let optional = filters(json!({"allow_requests_without_proxy_protocol": true}));
    let optional = with(HttpListener::hosts("optional", &hosts).into(), optional);
    let bootstrap =
        Bootstrap::new().cluster(cluster("origin", &[origin.address()])).listener(strict).listener(optional);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for listener in ["strict", "optional"] {
            let address = plane.listener(listener).expect("its listener");
            for (case, header, expected) in proxy_table() {
                let expected =
                    if case == "none" && listener == "optional" { Some(("127.0.0.1", "127.0.0.1")) } else { expected };
                let what = format!("{} {listener}: {case}", peer.name());
                // In one piece, and byte by byte.
                for pieces in [usize::MAX, 1] {
                    let mut stream = connect(address).expect("a connection");
                    let request = [&header[..], b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"].concat();
                    for piece in request.chunks(pieces.min(request.len())) {
                        if stream.write_all(piece).is_err() {
                            break;
                        }
                    }
                    let mut answer = Vec::new();
                    let _ = stream.read_to_end(&mut answer);
                    let answer = String::from_utf8_lossy(&answer).into_owned();
                    match expected {
                        None => assert!(!answer.contains("200 OK"), "{what}: {answer}"),
                        Some((remote, local)) => {
                            let seen = origin.seen();
                            let last = seen.last().expect(&what);
                            let told = |name: &str| header_of(&last.headers, name).unwrap_or_default().to_owned();
                            assert!(answer.contains("200 OK"), "{what}: {answer}");
                            assert!(told("x-remote").starts_with(remote), "{what}: {}", told("x-remote"));
                            assert!(told("x-local").starts_with(local), "{what}: {}", told("x-local"));
                        }
                    }
                }
            }
        }
    }
}

/// A listener that tells TLS from HTTP from everything else.
fn detecting(fields: Value) -> Value {
    let chains = json!([
        chain("tls", json!({"transport_protocol": "tls"})),
        chain("http", json!({"application_protocols": ["http/1.1", "h2c"]})),
        chain("raw", json!({})),
    ]);
    let base = with(tcp_listener("main", "raw"), json!({"filter_chains": chains}));
    with(with(base, json!({"listener_filters": [tls_inspector(), http_inspector()]})), fields)
}

struct Detecting {
    raw: Talker,
    _others: [Talker; 2],
    bootstrap: Bootstrap,
}

fn detecting_bootstrap(fields: Value) -> Detecting {
    let raw = Talker::greeting("raw").expect("a talker");
    let others = [Talker::start("tls").expect("a talker"), Talker::start("http").expect("a talker")];
    let bootstrap = Bootstrap::new()
        .cluster(cluster("raw", &[raw.address()]))
        .cluster(cluster("tls", &[others[0].address()]))
        .cluster(cluster("http", &[others[1].address()]))
        .listener(detecting(fields));
    Detecting { raw, _others: others, bootstrap }
}

#[test]
fn protocols_are_told_however_their_bytes_come() {
    let set_up = detecting_bootstrap(json!({}));
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &set_up.bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let cases = [
            (hello("a.test", &["h2"]), "tls"),
            (GET.to_vec(), "http"),
            (PREFACE.to_vec(), "http"),
            (b"EHLO a.test\r\n".to_vec(), "raw"),
            (vec![0, 1, 2, 3, 4, 5, 6, 7], "raw"),
        ];
        for (bytes, expected) in cases {
            for pieces in [usize::MAX, 50, 1] {
                // Byte by byte Envoy's inspector takes a request for something else now and then.
                if peer == Peer::Envoy && pieces == 1 {
                    continue;
                }
                let mut stream = connect(address).expect("a connection");
                for piece in bytes.chunks(pieces.min(bytes.len())) {
                    stream.write_all(piece).expect("it is taken");
                }
                let what = format!("{} {pieces} {bytes:?}", peer.name());
                let mut stream = BufReader::new(stream);
                assert_eq!(name(&line(&mut stream).expect(&what)), expected, "{what}");
                // Not a byte is lost.
                let mut back = vec![0; bytes.len()];
                stream.read_exact(&mut back).expect(&what);
                assert_eq!(back, bytes, "{what}");
            }
        }
    }
}

/// Envoy waits for the client until the timeout; ours asks the server.
#[test]
fn a_server_that_speaks_first_is_heard() {
    let set_up = detecting_bootstrap(json!({"listener_filters_timeout": "600s"}));
    let plane = DataPlane::start(Peer::Outrigger, &set_up.bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("its listener");
    let stream = connect(address).expect("a connection");
    let mut stream = BufReader::new(stream);
    assert_eq!(name(&line(&mut stream).expect("a greeting")), "raw");
    stream.get_mut().write_all(b"EHLO\r\n").expect("it is taken");
    assert_eq!(line(&mut stream).expect("an echo"), "EHLO\r");
    assert_eq!(set_up.raw.connections(), 1);
}

#[test]
fn a_client_that_says_nothing_is_waited_for_as_configured() {
    let quiet = Talker::start("raw").expect("a talker");
    for (goes_on, fields) in [
        (false, json!({"listener_filters_timeout": "0.3s", "stat_prefix": "main"})),
        (
            true,
            json!({"listener_filters_timeout": "0.3s", "stat_prefix": "main", "continue_on_listener_filters_timeout": true}),
        ),
    ] {
        let bootstrap = ["raw", "tls", "http"]
            .into_iter()
            .fold(Bootstrap::new(), |bootstrap, name| bootstrap.cluster(cluster(name, &[quiet.address()])))
            .listener(detecting(fields));
        for peer in Peer::all() {
            let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
            let mut stream = connect(plane.listener("main").expect("its listener")).expect("a connection");
            let timeouts = plane.admin.stat_reaches("listener.main.downstream_pre_cx_timeout", 1, DEADLINE);
            timeouts.unwrap_or_else(|error| panic!("{}: {error:#}", peer.name()));
            let _ = stream.write_all(b"late\n");
            let answer = line(&mut BufReader::new(stream));
            assert_eq!(answer.is_ok(), goes_on, "{}: {answer:?}", peer.name());
        }
    }
}

#[test]
fn a_unix_socket_is_listened_on() {
    use std::os::unix::fs::PermissionsExt;
    let talker = Talker::start("a").expect("a talker");
    let mut listener = tcp_listener("main", "a");
    listener["address"] = json!({"pipe": {"path": "@DIR@/main.sock", "mode": 0o600}});
    let bootstrap = Bootstrap::new().cluster(cluster("a", &[talker.address()])).listener(listener);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let path = plane.dir().join("main.sock");
        let stream = outrigger_e2e::eventually(DEADLINE, || std::os::unix::net::UnixStream::connect(&path));
        let mut stream = stream.expect("a connection");
        stream.write_all(b"hi").expect("it is taken");
        assert_eq!(name(&line(&mut BufReader::new(stream)).expect("an answer")), "a", "{}", peer.name());
        let mode = std::fs::metadata(&path).expect("the socket").permissions().mode();
        assert_eq!(mode & 0o777, 0o600, "{}", peer.name());
    }
}

/// Changing one chain of a listener leaves the connections of the others alone.
#[test]
fn connections_of_other_chains_stay() {
    let talker = Talker::start("a").expect("a talker");
    let folder = tempfile::tempdir().expect("a folder");
    let lds = folder.path().join("lds.json");
    let write = |names: &[&str], version: &str| {
        let mut listener = with(
            tcp_listener("main", "a"),
            json!({
                "@type": "type.googleapis.com/envoy.config.listener.v3.Listener",
                "listener_filters": [tls_inspector()],
                "filter_chains": names.iter().map(|name| {
                    with(chain("a", json!({"server_names": [name]})), json!({"name": name}))
                }).collect::<Vec<_>>(),
            }),
        );
        listener["metadata"] = json!({"filter_metadata": {"test": {"version": version}}});
        let response = json!({"version_info": version, "resources": [listener]});
        let next = folder.path().join("next.json");
        std::fs::write(&next, response.to_string()).expect("a file");
        std::fs::rename(&next, &lds).expect("in place");
    };
    write(&["a.test", "b.test"], "1");
    let bootstrap = Bootstrap::new().cluster(cluster("a", &[talker.address()])).set(
        "dynamic_resources",
        json!({"lds_config": {"path_config_source": {"path": lds}, "resource_api_version": "V3"}}),
    );
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("its listener");
    let open = |server_name: &str| {
        let bytes = hello(server_name, &[]);
        let mut stream = connect(address).expect("a connection");
        stream.write_all(&bytes).expect("it is taken");
        let mut stream = BufReader::new(stream);
        line(&mut stream).expect("an answer");
        let mut echo = vec![0; bytes.len()];
        stream.read_exact(&mut echo).expect("the echo");
        stream
    };
    let mut stays = open("a.test");
    write(&["a.test", "c.test"], "2");
    outrigger_e2e::eventually(DEADLINE, || match ask(address, &hello("c.test", &[])) {
        Ok(_) => Ok(()),
        Err(error) => Err(format!("{error:#}")),
    })
    .expect("the new chain");
    ask(address, &hello("b.test", &[])).expect_err("its chain is gone");
    stays.get_mut().write_all(b"still here\n").expect("it is taken");
    assert_eq!(line(&mut stays).expect("an echo"), "still here");
    stays.get_ref().set_read_timeout(Some(Duration::from_secs(1))).expect("a timeout");
}
