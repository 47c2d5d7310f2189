//! A successor process takes the listening sockets over: no connection is refused and no request lost.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::process::Command;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, with};
use outrigger_e2e::closing::closing_line;
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Load, Origin, Request, eventually, ports, workspace};
use serde_json::{Value, json};

/// A proxy on a fixed port, whose answers say which process gave them.
fn bootstrap(origin: &Origin, port: u16, process: &str) -> Bootstrap {
    let stamp = json!({"response_headers_to_add": [{"header": {"key": "x-process", "value": process}}]});
    let mut listener: Value = HttpListener::new("main", &json!([with(route("/", "o"), stamp)])).into();
    listener["address"] = json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener)
}

fn start(bootstrap: &Bootstrap, base_id: u32, epoch: u32, concurrency: u32) -> DataPlane {
    let arguments = [
        "--base-id",
        &base_id.to_string(),
        "--restart-epoch",
        &epoch.to_string(),
        "--drain-time-s",
        "60",
        "--drain-strategy",
        "immediate",
    ];
    let arguments = arguments.iter().map(|argument| (*argument).to_owned()).collect();
    let options = Options { concurrency, arguments, ..Options::default() };
    DataPlane::start_with(Peer::Outrigger, bootstrap, &options).expect("the proxy starts")
}

fn base_id() -> u32 {
    std::process::id() * 16
}

#[test]
fn a_successor_takes_the_traffic_over() {
    let origin = Origin::start("o").expect("origin");
    let port = ports::free_port().expect("a port");
    let id = base_id();
    let mut first = start(&bootstrap(&origin, port, "first"), id, 0, 2);
    let address = first.listener("main").expect("listener");
    let mut kept = Connection::open(address).expect("a connection");
    let answer = kept.exchange(&Request::get("/")).expect("answer");
    assert_eq!(answer.header("x-process"), Some("first"));

    let load = Load::new(address, 200.0, Request::get("/")).start().expect("load");
    // One worker fewer: the sockets of the other one are served all the same.
    let second = start(&bootstrap(&origin, port, "second"), id, 1, 1);
    // Who was idle is asked to come anew, with an answer.
    eventually(DEADLINE, || {
        let answer = kept.exchange(&Request::get("/")).expect("a kept connection is served");
        assert_eq!(answer.header("x-process"), Some("first"));
        if answer.header("connection") == Some("close") { Ok(()) } else { Err("drains not yet") }
    })
    .expect("it drains");
    assert!(first.process.wait(DEADLINE).expect("the first process ends").success());
    let so_far = load.so_far().served;
    eventually(DEADLINE, || if load.so_far().served > so_far + 100 { Ok(()) } else { Err("not yet") })
        .expect("it goes on");
    let report = load.stop().expect("a report");
    closing_line(&format!("hand-over: served {}, failed {}", report.served, report.failed));
    assert_eq!(report.failed, 0, "{report:?}");
    assert!(report.served > 0);
    let answer = Request::get("/").send(address).expect("answer");
    assert_eq!(answer.header("x-process"), Some("second"));
    assert_eq!(second.admin.json("/server_info").expect("info")["command_line_options"]["restart_epoch"], 1);
    // And it has a successor in turn.
    let _third = start(&bootstrap(&origin, port, "third"), id, 2, 3);
    eventually(DEADLINE, || {
        let answer = Request::get("/").send(address).map_err(|error| format!("{error:#}"))?;
        if answer.header("x-process") == Some("third") { Ok(()) } else { Err("still the second".to_owned()) }
    })
    .expect("the third serves");
}

#[test]
fn places_that_are_taken_or_empty_are_told() {
    let origin = Origin::start("o").expect("origin");
    let port = ports::free_port().expect("a port");
    let id = base_id() + 1;
    let _first = start(&bootstrap(&origin, port, "first"), id, 0, 1);
    let program = workspace::binary("outrigger-proxy").expect("the proxy");
    let run = |arguments: &[&str]| {
        let yaml = "{admin: {address: {socket_address: {address: 127.0.0.1, port_value: 0}}}}";
        let output = Command::new(&program).args(["--config-yaml", yaml]).args(arguments).output().expect("it runs");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let id = id.to_string();
    let (code, words) = run(&["--base-id", &id]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("another proxy runs with --base-id"), "{words}");
    let (code, words) = run(&["--base-id", &id, "--restart-epoch", "7"]);
    assert_eq!(code, Some(1), "{words}");
    assert!(words.contains("--restart-epoch 6"), "{words}");
}
