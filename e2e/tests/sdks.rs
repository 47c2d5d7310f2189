//! Real modules from four SDKs: one guest in Rust (both targets), C++, Go and AssemblyScript (`e2e/peers/README.md`), and one
//! table of requests that every module must pass, in our proxy and in real Envoy.
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};

use outrigger_e2e::bootstrap::{HttpListener, address, cluster, http2, route, wasm_filter, with};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, DataPlane, Origin, Peer, Request, Response, eventually, workspace};
use serde_json::{Value, json};

/// A module: its file, what it calls itself.
struct Sdk {
    module: &'static str,
    language: &'static str,
}

const SDKS: [Sdk; 5] = [
    Sdk { module: "rust-wasip1", language: "rust" },
    Sdk { module: "rust-unknown", language: "rust" },
    Sdk { module: "cpp", language: "cpp" },
    Sdk { module: "go", language: "go" },
    Sdk { module: "assemblyscript", language: "assemblyscript" },
];

type Check = fn(&Response) -> Result<(), String>;

/// One request and what must be so of its exchange.
struct Case {
    request: Request,
    status: u16,
    check: Check,
}

fn case(request: Request, check: Check) -> Case {
    Case { request, status: 200, check }
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, seen: &T, expected: &T) -> Result<(), String> {
    if seen == expected { Ok(()) } else { Err(format!("{what} is {seen:?}, not {expected:?}")) }
}

/// Every value that the origin saw for a request header; Envoy may have joined them.
fn seen_all(response: &Response, name: &str) -> Vec<String> {
    let echo = response.json().unwrap_or_default();
    let pairs = echo["headers"].as_array().cloned().unwrap_or_default();
    let named = pairs.iter().filter(|pair| pair[0].as_str().is_some_and(|n| n.eq_ignore_ascii_case(name)));
    named
        .flat_map(|pair| pair[1].as_str().unwrap_or_default().split(',').map(str::to_owned).collect::<Vec<_>>())
        .collect()
}

fn seen(response: &Response, name: &str, expected: &str) -> Result<(), String> {
    same(&format!("{name} at the origin"), &response.seen(name).as_deref(), &Some(expected))
}

fn cases() -> Vec<Case> {
    let headers = Request::get("/headers").with("x-replaced", "old").with("x-removed", "1").with("x-added", "1");
    vec![
        case(headers, |response| {
            seen(response, "x-replaced", "new")?;
            same("x-removed", &response.seen("x-removed"), &None)?;
            same("x-added", &seen_all(response, "x-added"), &vec!["1".to_owned(), "2".to_owned()])
        }),
        case(Request::new("POST", "/body").body("whole"), |response| {
            let text = response.text();
            let inner = text.strip_prefix('{').and_then(|rest| rest.strip_suffix('}'));
            let echo: Value = serde_json::from_str(inner.ok_or_else(|| format!("no braces: {text}"))?)
                .map_err(|error| error.to_string())?;
            same("the body at the origin", &echo["body"].as_str(), &Some("[whole]"))
        }),
        case(Request::get("/call"), |response| seen(response, "x-callout", "201 pong")),
        Case {
            request: Request::get("/local"),
            status: 418,
            check: |response| {
                same("x-local", &response.header("x-local"), &Some("yes"))?;
                same("the body", &response.text(), &"short and stout".to_owned())
            },
        },
        case(Request::get("/shared"), |response| seen(response, "x-shared", "1")),
        case(Request::get("/shared"), |response| seen(response, "x-shared", "2")),
        case(Request::get("/property?q"), |response| seen(response, "x-property", "GET /property?q guest 127.0.0.1")),
        case(Request::get("/enqueue"), |_| Ok(())),
        case(Request::get("/grpc"), |response| seen(response, "x-grpc", "ping")),
    ]
}

/// What every response of a guest shows; its own replies never were at the origin.
fn common(sdk: &Sdk, response: &Response) -> Result<(), String> {
    same("x-guest-response", &response.header("x-guest-response"), &Some("tuned"))?;
    match response.seen("x-guest") {
        Some(language) => same("x-guest", &language.as_str(), &sdk.language),
        None => Ok(()),
    }
}

fn guest_filter(sdk: &Sdk, word: &str) -> Value {
    let module = workspace::guest(sdk.module).expect("the guest");
    let filter = wasm_filter("guest", &module, &Value::Null);
    let vm = json!({"vm_id": sdk.module});
    with(filter, json!({"typed_config": {"config": {"vm_config": vm, "configuration": {"value": word}}}}))
}

/// Runs the table against one module; what went wrong.
fn judge(sdk: &Sdk, listener: SocketAddr) -> Vec<String> {
    let mut failures = Vec::new();
    for Case { request, status, check } in cases() {
        let outcome = request.send(listener).map_err(|error| format!("{error:#}")).and_then(|response| {
            same("the status", &response.status, &status)?;
            common(sdk, &response)?;
            check(&response)
        });
        if let Err(reason) = outcome {
            failures.push(format!("{}: {reason}", request.target));
        }
    }
    // The queue's message and the timer come when they come.
    let told = eventually(DEADLINE, || {
        let response = Request::get("/job").send(listener).map_err(|error| format!("{error:#}"))?;
        seen(&response, "x-job", "job-1")?;
        let ticks = response.seen("x-ticks").and_then(|ticks| ticks.parse::<u64>().ok()).unwrap_or_default();
        if ticks >= 2 { Ok(()) } else { Err(format!("x-ticks is {ticks}")) }
    });
    failures.extend(told.err().map(|error| format!("/job: {error:#}")));
    failures
}

#[test]
fn every_sdks_module_does_the_same_in_both_proxies() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("origin");
        let callout = Origin::answering("callout", "pong").expect("origin");
        let mut bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .cluster(cluster("callout", &[callout.address()]))
            .cluster(http2(cluster("grpc", &[origin.address()])));
        for sdk in &SDKS {
            let listener = HttpListener::new(sdk.module, &json!([route("/", "o")]));
            bootstrap = bootstrap.listener(listener.filter(guest_filter(sdk, "tuned")));
        }
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let mut failures = Vec::new();
        for sdk in &SDKS {
            let listener = plane.listener(sdk.module).expect("its listener");
            let wrong = judge(sdk, listener);
            failures.extend(wrong.into_iter().map(|reason| format!("{} / {}: {reason}", peer.name(), sdk.module)));
        }
        let stats = plane.admin.stats().expect("stats");
        let counted: u64 =
            stats.iter().filter(|(name, _)| name.ends_with("guest_requests")).map(|(_, count)| count).sum();
        if counted < (SDKS.len() * cases().len()) as u64 {
            failures.push(format!("{}: guest_requests counts only {counted}", peer.name()));
        }
        assert!(failures.is_empty(), "{}", failures.join("\n"));
        assert!(callout.seen().iter().all(|seen| seen.body == b"ping" && seen.method == "POST"));
    }
}

/// A TCP origin that sends back what it gets.
fn echo() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let (mut reader, mut writer) = (stream.try_clone().expect("a second handle"), stream);
                std::io::copy(&mut reader, &mut writer)
            });
        }
    });
    address
}

fn tcp_listener(sdk: &Sdk) -> Value {
    let http = guest_filter(sdk, "tcp");
    let wasm = json!({
        "name": "envoy.filters.network.wasm",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm",
            "config": http["typed_config"]["config"],
        },
    });
    let proxy = json!({
        "name": "envoy.filters.network.tcp_proxy",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
            "stat_prefix": sdk.module, "cluster": "echo",
        },
    });
    json!({
        "name": sdk.module, "address": address(SocketAddr::from(([127, 0, 0, 1], 0))),
        "filter_chains": [{"filters": [wasm, proxy]}],
    })
}

#[test]
fn every_sdks_network_filter_does_the_same_in_both_proxies() {
    let echo = echo();
    for peer in Peer::all() {
        let mut bootstrap = Bootstrap::new().cluster(cluster("echo", &[echo]));
        for sdk in &SDKS {
            bootstrap = bootstrap.listener(tcp_listener(sdk));
        }
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        for sdk in &SDKS {
            let listener = plane.listener(sdk.module).expect("its listener");
            let mut client = TcpStream::connect(listener).expect("connect");
            client.set_read_timeout(Some(DEADLINE)).expect("a timeout");
            for (sent, expected) in [("first", "<FIRST>"), ("and more", "<AND MORE>")] {
                client.write_all(sent.as_bytes()).expect("send");
                let mut answer = vec![0; expected.len()];
                let read = client.read_exact(&mut answer);
                let text = String::from_utf8_lossy(&answer).into_owned();
                assert!(read.is_ok() && text == expected, "{} / {}: {text:?} {read:?}", peer.name(), sdk.module);
            }
        }
    }
}
