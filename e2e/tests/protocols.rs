//! Other people's suites, through our proxy: h2spec (HTTP/2), Autobahn's cases (WebSocket), gRPC's interop cases, and
//! Prometheus' own check of our metrics.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use outrigger_e2e::bootstrap::{HttpListener, cluster, http2, route};
use outrigger_e2e::closing::closing_line;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer, Process, Request, eventually, ports, script, workspace};
use serde_json::{Value, json};

/// A whole suite, on two busy cores.
const SUITE: Duration = Duration::from_secs(180);
const H2SPEC_CASES: &str = "146 tests, 146 passed, 0 skipped, 0 failed";

fn wants_ours() -> bool {
    Peer::all().contains(&Peer::Outrigger)
}

/// Our proxy with one listener, and its address.
fn plane(listener: HttpListener, cluster: Value) -> (DataPlane, SocketAddr) {
    let bootstrap =
        Bootstrap::new().cluster(cluster).listener(listener).set("enable_dispatcher_stats", Value::Bool(true));
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("its listener");
    (plane, address)
}

/// Runs a program to its end, whatever its exit code: what it printed.
fn run(name: &str, program: &Path, dir: &Path, arguments: &[String]) -> (bool, String) {
    let process = Process::spawn(name, program, dir, |command| {
        command.args(arguments).current_dir(dir);
    });
    let mut process = process.expect(name).quiet();
    let status = process.wait(SUITE).expect(name);
    (status.success(), process.log())
}

fn words(text: &[&str]) -> Vec<String> {
    text.iter().map(|word| (*word).to_owned()).collect()
}

#[test]
fn h2spec_passes() {
    if !wants_ours() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let origin = Origin::start("o").expect("origin");
    // Where the codec is to be found out, a bad preface is a bad HTTP/1 request; h2spec asks a server of HTTP/2 alone.
    let listener = HttpListener::new("main", &json!([route("/", "o")])).manager(json!({"codec_type": "HTTP2"}));
    let (_plane, address) = plane(listener, cluster("o", &[origin.address()]));
    let program = workspace::peer("bin/h2spec").expect("h2spec");
    let arguments = words(&["-h", "127.0.0.1", "-p", &address.port().to_string(), "-S"]);
    let (_, log) = run("h2spec", &program, dir.path(), &arguments);
    let last = log.lines().rev().find(|line| line.contains(" tests, ")).unwrap_or_default();
    closing_line(&format!("h2spec: {last}"));
    // What it says about failures comes after this line.
    let failures = log.split_once("Failures:").map_or("", |(_, failures)| failures);
    assert_eq!(last.trim(), H2SPEC_CASES, "{failures}");
}

/// Autobahn's cases against a server: what each came to.
fn autobahn(server: SocketAddr) -> BTreeMap<String, (String, String)> {
    let dir = tempfile::tempdir().expect("a folder");
    let program = workspace::peer("venv/bin/kosoku").expect("kosoku");
    let mut arguments = words(&["-p", "4"]);
    // Limits and speed (9), compression (12, 13).
    arguments.extend(words(&["-x", "9.*", "-x", "12.*", "-x", "13.*", "-o", "report", &server.to_string()]));
    let (_, log) = run("kosoku", &program, dir.path(), &arguments);
    let index = std::fs::read(dir.path().join("report/index.json")).expect(&log);
    let index: Value = serde_json::from_slice(&index).expect("its report");
    let agents = index.as_object().expect("one agent").values();
    let cases = agents.filter_map(Value::as_object).flatten();
    // Whether a peer fails strictly or only as fast as the last bytes came (NON-STRICT) depends on how they were cut.
    let came = |behavior: &Value| match behavior.as_str() {
        Some("OK" | "NON-STRICT") => "passed".to_owned(),
        other => other.unwrap_or_default().to_owned(),
    };
    cases.map(|(id, case)| (id.clone(), (came(&case["behavior"]), came(&case["behaviorClose"])))).collect()
}

#[test]
fn autobahn_through_the_proxy_equals_direct() {
    if !wants_ours() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let file = dir.path().join("address");
    let arguments = [file.to_str().expect("a path in UTF-8")];
    let mut server = script::start("echo", "echo_websocket.py", dir.path(), &arguments).expect("the echo server");
    let echo = script::address(&file, &mut server).expect("its address");
    let listener = HttpListener::new("main", &json!([route("/", "echo")])).websocket();
    let (_plane, address) = plane(listener, cluster("echo", &[echo]));
    let (direct, through) = (autobahn(echo), autobahn(address));
    let differing: Vec<_> = direct.iter().filter(|(id, came)| through.get(*id) != Some(came)).collect();
    let ok = through.values().filter(|came| came.0 == "passed").count();
    closing_line(&format!("Autobahn: {} cases, {ok} pass, {} unlike direct", through.len(), differing.len()));
    assert!(direct.len() >= 247, "{} cases", direct.len());
    assert!(differing.is_empty(), "unlike direct: {differing:?}");
}

/// Those that Go's interop client and server pass with each other without credentials (ORCA's and `pick_first_unary` want a
/// server that this one isn't).
const INTEROP_CASES: [&str; 14] = [
    "empty_unary",
    "large_unary",
    "client_streaming",
    "server_streaming",
    "ping_pong",
    "empty_stream",
    "timeout_on_sleeping_server",
    "cancel_after_begin",
    "cancel_after_first_response",
    "status_code_and_message",
    "special_status_message",
    "custom_metadata",
    "unimplemented_method",
    "unimplemented_service",
];

#[test]
fn grpc_interop_cases_pass() {
    if !wants_ours() {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let port = ports::free_port().expect("a port");
    let program = workspace::peer("bin/grpc-interop-server").expect("the server");
    let _server = Process::spawn("interop-server", &program, dir.path(), |command| {
        command.arg(format!("--port={port}"));
    });
    let server = SocketAddr::from(([127, 0, 0, 1], port));
    let up = || std::net::TcpStream::connect(server).map(drop).map_err(|error| error.to_string());
    eventually(DEADLINE, up).expect("the server listens");
    let listener = HttpListener::new("main", &json!([route("/", "grpc")]));
    let (_plane, address) = plane(listener, http2(cluster("grpc", &[server])));
    let client = workspace::peer("bin/grpc-interop-client").expect("the client");
    let mut failures = Vec::new();
    for case in INTEROP_CASES {
        let arguments = [
            format!("--test_case={case}"),
            "--server_host=127.0.0.1".into(),
            format!("--server_port={}", address.port()),
        ];
        let (mut passed, mut log) = run(case, &client, dir.path(), &arguments);
        // Client and server have the same deadline. The server, which is at it first now and then, resets the stream, and
        // whoever is between them can tell the client no more than that.
        let races = |log: &str| case == "timeout_on_sleeping_server" && log.contains("reset reason: remote reset");
        for _ in 0..5 {
            if passed || !races(&log) {
                break;
            }
            (passed, log) = run(case, &client, dir.path(), &arguments);
        }
        if !passed {
            failures.push(format!("{case}: {log}"));
        }
    }
    let passed = INTEROP_CASES.len() - failures.len();
    closing_line(&format!("gRPC interop: {passed} of {} cases pass", INTEROP_CASES.len()));
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

/// What `promtool check metrics` may find fault with: the names are Envoy's, and so are their units and the lack of `_total`.
const NAMES_ARE_ENVOYS: [&str; 5] = [
    "should have \"_total\" suffix",
    "should not have \"_total\" suffix",
    "no help text",
    "use base unit",
    "should not contain abbreviated units",
];

#[test]
fn prometheus_takes_our_metrics() {
    if !wants_ours() {
        return;
    }
    let origin = Origin::start("o").expect("origin");
    let filter = workspace::filter("header_policy").expect("the filter");
    let filter = outrigger_e2e::bootstrap::wasm_filter("policy", &filter, &json!({}));
    let listener = HttpListener::new("main", &json!([route("/", "o")])).filter(filter);
    let (plane, address) = plane(listener, cluster("o", &[origin.address()]));
    for path in ["/", "/again"] {
        assert_eq!(Request::get(path).send(address).expect("an answer").status, 200);
    }
    let metrics = plane.admin.get("/stats/prometheus").expect("the metrics");
    let file = plane.dir().join("metrics");
    std::fs::write(&file, &metrics.body).expect("written");
    let mut promtool = Command::new("promtool");
    promtool.args(["check", "metrics"]).stdin(std::fs::File::open(&file).expect("open")).stderr(Stdio::piped());
    let output = promtool.output().expect("promtool runs");
    let said = String::from_utf8_lossy(&output.stderr).into_owned() + &String::from_utf8_lossy(&output.stdout);
    let faults: Vec<&str> =
        said.lines().filter(|line| !NAMES_ARE_ENVOYS.iter().any(|known| line.contains(known))).collect();
    // 0: no fault; 3: faults of style, which are those above.
    assert!(matches!(output.status.code(), Some(0 | 3)), "{}: {said}", output.status);
    assert!(faults.is_empty(), "{}", faults.join("\n"));
    for name in ["envoy_http_downstream_rq_total", "envoy_listener_manager_dispatcher_loop_duration_us_bucket"] {
        assert!(metrics.text().contains(name), "{name} in {}", metrics.text());
    }
}
