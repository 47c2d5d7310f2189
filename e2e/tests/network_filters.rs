//! Wasm in the network filter chain and as an access logger: one table for Envoy and ours.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::io::{Read, Write};
use std::net::Shutdown;
use std::path::Path;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, tcp_listener, with};
use outrigger_e2e::talker::{Talker, connect};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, DataPlane, Origin, Peer, Request};
use serde_json::{Value, json};

/// A network filter that does what the first byte of the client says, and counts who calls it; it also counts as an
/// access logger.
const GUEST: &str = r#"(module
  (import "env" "proxy_get_buffer_bytes" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_set_buffer_bytes" (func $set (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_close_stream" (func $close (param i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "connectionsclosedlocalclosedremoteupstreamclosedloggeddeletedreplacedup:")
  (global $free (mut i32) (i32.const 65536))
  (func (export "proxy_abi_version_0_2_1"))
  (func $malloc (export "malloc") (param i32) (result i32)
    (global.set $free (i32.add (i32.and (global.get $free) (i32.const 131064)) (i32.const 0)))
    (global.get $free)
    (global.set $free (i32.add (global.get $free) (i32.and (i32.add (local.get 0) (i32.const 15)) (i32.const -8))))
    (if (i32.gt_u (global.get $free) (i32.const 120000)) (then (global.set $free (i32.const 65536)))))
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) (call $malloc (local.get 0)))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) (i32.const 1))
  (func $metric (param $name i32) (param $size i32) (param $at i32)
    (drop (call $define (i32.const 0) (local.get $name) (local.get $size) (local.get $at))))
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (call $metric (i32.const 0) (i32.const 11) (i32.const 200))
    (call $metric (i32.const 11) (i32.const 11) (i32.const 204))
    (call $metric (i32.const 22) (i32.const 12) (i32.const 208))
    (call $metric (i32.const 34) (i32.const 14) (i32.const 212))
    (call $metric (i32.const 48) (i32.const 6) (i32.const 216))
    (call $metric (i32.const 54) (i32.const 7) (i32.const 220))
    (i32.const 1))
  (func $count (param i32) (drop (call $increment (i32.load (local.get 0)) (i64.const 1))))
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_new_connection") (param i32) (result i32) (call $count (i32.const 200)) (i32.const 0))
  (func $first (param $buffer i32) (result i32)
    (if (i32.ne (call $get (local.get $buffer) (i32.const 0) (i32.const 1) (i32.const 240) (i32.const 244)) (i32.const 0))
      (then (return (i32.const 0))))
    (i32.load8_u (i32.load (i32.const 240))))
  (func (export "proxy_on_downstream_data") (param $id i32) (param $size i32) (param $end i32) (result i32)
    (local $first i32)
    (if (i32.eqz (local.get $size)) (then (return (i32.const 0))))
    (local.set $first (call $first (i32.const 2)))
    ;; S: everything waits until there are ten bytes.
    (if (i32.and (i32.eq (local.get $first) (i32.const 83)) (i32.lt_u (local.get $size) (i32.const 10)))
      (then (return (i32.const 1))))
    ;; R: replaced.
    (if (i32.eq (local.get $first) (i32.const 82))
      (then (drop (call $set (i32.const 2) (i32.const 0) (local.get $size) (i32.const 61) (i32.const 8)))))
    ;; C: closed.
    (if (i32.eq (local.get $first) (i32.const 67)) (then (drop (call $close (i32.const 2))) (return (i32.const 1))))
    ;; T: traps.
    (if (i32.eq (local.get $first) (i32.const 84)) (then (unreachable)))
    (i32.const 0))
  (func (export "proxy_on_upstream_data") (param $id i32) (param $size i32) (param $end i32) (result i32)
    ;; What begins with a t is marked.
    (if (i32.eqz (local.get $size)) (then (return (i32.const 0))))
    (if (i32.eq (call $first (i32.const 3)) (i32.const 116))
      (then (drop (call $set (i32.const 3) (i32.const 0) (i32.const 0) (i32.const 69) (i32.const 3)))))
    (i32.const 0))
  (func (export "proxy_on_downstream_connection_close") (param i32 i32)
    (if (i32.eq (local.get 1) (i32.const 1)) (then (call $count (i32.const 204))))
    (if (i32.eq (local.get 1) (i32.const 2)) (then (call $count (i32.const 208)))))
  (func (export "proxy_on_upstream_connection_close") (param i32 i32) (call $count (i32.const 212)))
  (func (export "proxy_on_log") (param i32) (call $count (i32.const 216)))
  (func (export "proxy_on_done") (param i32) (result i32) (i32.const 1))
  (func (export "proxy_on_delete") (param i32) (call $count (i32.const 220))))"#;

fn plugin(module: &Path, policy: &str) -> Value {
    json!({
        "name": "guest", "root_id": "guest", "failure_policy": policy,
        "vm_config": {
            "vm_id": "guest", "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}},
        },
    })
}

/// A listener that passes bytes through the guest.
fn filtered(module: &Path, policy: &str) -> Value {
    let mut listener = tcp_listener("main", "talker");
    let wasm = json!({
        "name": "guest",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm", "config": plugin(module, policy),
        },
    });
    let filters = listener["filter_chains"][0]["filters"].as_array_mut().expect("filters");
    filters.insert(0, wasm);
    listener
}

/// What a client gets for these pieces, after which it closes its sending side.
fn answer(plane: &DataPlane, pieces: &[&str]) -> String {
    let mut stream = connect(plane.listener("main").expect("its listener")).expect("a connection");
    for piece in pieces {
        let _ = stream.write_all(piece.as_bytes());
    }
    let _ = stream.shutdown(Shutdown::Write);
    let mut bytes = Vec::new();
    let _ = stream.read_to_end(&mut bytes);
    // The talker's words with the filter's mark, without the client's address.
    let text = String::from_utf8_lossy(&bytes).into_owned();
    let text = text.split('\n').map(|line| line.split(" 127.").next().unwrap_or_default()).collect::<Vec<_>>();
    text.join("|")
}

#[test]
fn bytes_pass_a_guest_both_ways() {
    let talker = Talker::start("t").expect("a talker");
    let folder = tempfile::tempdir().expect("a folder");
    let module = folder.path().join("guest.wasm");
    std::fs::write(&module, wat::parse_str(GUEST).expect("the guest assembles")).expect("a file");
    let bootstrap = |policy: &str| {
        Bootstrap::new().cluster(cluster("talker", &[talker.address()])).listener(filtered(&module, policy))
    };
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap("FAIL_CLOSED")).expect("the proxy starts");
        let cases: [(&[&str], &str); 5] = [
            (&["hello"], "up:t|hello"),
            (&["S23456789", "0", "1"], "up:t|S2345678901"),
            (&["Rubbish"], "up:t|replaced"),
            (&["C"], ""),
            (&["again"], "up:t|again"),
        ];
        for (pieces, expected) in cases {
            assert_eq!(answer(&plane, pieces), expected, "{}: {pieces:?}", peer.name());
        }
        let counts = [("connections", 5), ("deleted", 5), ("logged", 5)];
        for (name, expected) in counts {
            let found = plane.admin.stat_reaches(&format!("wasmcustom.{name}"), expected, DEADLINE);
            assert_eq!(found.expect(name), expected, "{}: {name}", peer.name());
        }
        // A trap closes this connection.
        assert_eq!(answer(&plane, &["T"]), "", "{}", peer.name());
        drop(plane);
    }
    // The next one finds a new instance; where the policy is open, bytes pass without the guest.
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap("FAIL_RELOAD")).expect("the proxy starts");
    assert_eq!(answer(&plane, &["T"]), "");
    outrigger_e2e::eventually(DEADLINE, || match answer(&plane, &["hello"]) {
        text if text == "up:t|hello" => Ok(()),
        text => Err(text),
    })
    .expect("a new instance");
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap("FAIL_OPEN")).expect("the proxy starts");
    assert_eq!(answer(&plane, &["Trap"]), "t|Trap");
}

#[test]
fn requests_pass_a_guest_before_the_connection_manager() {
    let origin = Origin::start("origin").expect("an origin");
    let folder = tempfile::tempdir().expect("a folder");
    let module = folder.path().join("guest.wasm");
    std::fs::write(&module, wat::parse_str(GUEST).expect("the guest assembles")).expect("a file");
    let mut listener: Value = HttpListener::new("main", &json!([route("/", "origin")])).into();
    let before = filtered(&module, "FAIL_CLOSED")["filter_chains"][0]["filters"][0].clone();
    listener["filter_chains"][0]["filters"].as_array_mut().expect("filters").insert(0, before);
    let bootstrap = Bootstrap::new().cluster(cluster("origin", &[origin.address()])).listener(listener);
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let address = plane.listener("main").expect("its listener");
        let mut connection = Connection::open(address).expect("a connection");
        for path in ["/a", "/b"] {
            let response = connection.exchange(&Request::get(path)).expect("an answer");
            assert_eq!(response.status, 200, "{} {path}", peer.name());
        }
        // The guest closes what begins with a C.
        let closed = Request::new("CLOSE", "/").send(address);
        assert!(closed.is_err(), "{}: {closed:?}", peer.name());
        let big = Request::get("/big").origin("body=300000").send(address).expect("an answer");
        assert_eq!(big.body.len(), 300_000, "{}", peer.name());
        let connections = plane.admin.stat_reaches("wasmcustom.connections", 3, DEADLINE);
        assert_eq!(connections.expect("the counter"), 3, "{}", peer.name());
    }
}

#[test]
fn a_guest_is_told_of_what_is_over() {
    let origin = Origin::start("origin").expect("an origin");
    let folder = tempfile::tempdir().expect("a folder");
    let module = folder.path().join("guest.wasm");
    std::fs::write(&module, wat::parse_str(GUEST).expect("the guest assembles")).expect("a file");
    let logger = json!([{
        "name": "guest",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.wasm.v3.WasmAccessLog",
            "config": plugin(&module, "FAIL_CLOSED"),
        },
    }]);
    let http = HttpListener::new("http", &json!([route("/", "origin")])).manager(json!({"access_log": logger}));
    let mut tcp = tcp_listener("tcp", "origin");
    tcp["filter_chains"][0]["filters"][0]["typed_config"]["access_log"] = logger.clone();
    let bootstrap =
        Bootstrap::new().cluster(cluster("origin", &[origin.address()])).listener(http).listener(with(tcp, json!({})));
    for peer in Peer::all() {
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for listener in ["http", "tcp"] {
            for _ in 0..2 {
                let request = Request::get("/").with("connection", "close");
                let response = request.send(plane.listener(listener).expect("a listener")).expect("an answer");
                assert_eq!(response.status, 200, "{} {listener}", peer.name());
            }
        }
        let logged = plane.admin.stat_reaches("wasmcustom.logged", 4, DEADLINE);
        assert_eq!(logged.expect("the counter"), 4, "{}", peer.name());
    }
}

#[test]
fn a_guest_is_discovered_and_exchanged() {
    let talker = Talker::start("t").expect("a talker");
    let folder = tempfile::tempdir().expect("a folder");
    let (module, found) = (folder.path().join("guest.wasm"), folder.path().join("ecds.json"));
    std::fs::write(&module, wat::parse_str(GUEST).expect("the guest assembles")).expect("a file");
    let exchanged = folder.path().join("exchanged.wasm");
    let text = GUEST.replace("replaced", "exchange");
    std::fs::write(&exchanged, wat::parse_str(text).expect("the guest assembles")).expect("a file");
    // In one atomic step.
    let tell = |version: &str, module: &Path| {
        let mut filter = filtered(module, "FAIL_CLOSED")["filter_chains"][0]["filters"][0].clone();
        filter["typed_config"]["config"]["vm_config"]["vm_id"] = json!(version);
        let resource = with(json!({"@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig"}), filter);
        let response = json!({"version_info": version, "resources": [resource]});
        outrigger_e2e::tls::replace(&found, &response.to_string()).expect("written");
    };
    let mut listener = tcp_listener("main", "talker");
    let filters = listener["filter_chains"][0]["filters"].as_array_mut().expect("filters");
    filters.insert(
        0,
        json!({"name": "guest", "config_discovery": {
            "config_source": {"path_config_source": {"path": found}, "resource_api_version": "V3"},
            "type_urls": ["type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm"],
        }}),
    );
    let bootstrap = Bootstrap::new().cluster(cluster("talker", &[talker.address()])).listener(listener);
    for peer in Peer::all() {
        tell("1", &module);
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        assert_eq!(answer(&plane, &["Rubbish"]), "up:t|replaced", "{}", peer.name());
        // A connection that is open keeps its guest.
        let mut open = connect(plane.listener("main").expect("its listener")).expect("a connection");
        open.write_all(b"first\n").expect("written");
        let mut start = [0; 4];
        open.read_exact(&mut start).expect("the talker speaks");
        tell("2", &exchanged);
        outrigger_e2e::eventually(DEADLINE, || match answer(&plane, &["Rubbish"]) {
            text if text == "up:t|exchange" => Ok(()),
            text => Err(text),
        })
        .expect("the new guest");
        open.write_all(b"Rubbish").expect("written");
        open.shutdown(Shutdown::Write).expect("the end");
        let mut rest = String::new();
        open.read_to_string(&mut rest).expect("the rest");
        assert!(rest.ends_with("replaced"), "{}: {rest}", peer.name());
    }
}
