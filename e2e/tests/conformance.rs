//! The Proxy-Wasm ABI, case by case, in real Envoy and in our proxy: what each hostcall answered in each callback, and what
//! the client got. Where we differ on purpose, the case says so and why; `proxy/docs/envoy-differences.md` has the table.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

#[path = "conformance/cases.rs"]
mod cases;
#[path = "conformance/edges.rs"]
mod edges;
#[path = "conformance/properties.rs"]
mod properties;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::path::Path;

use cases::{CASES, Case, Drive};
use edges::EDGES;
use outrigger_e2e::bootstrap::{HttpListener, cluster, http2, route, tcp_listener, wasm_filter, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::guest::{assemble, reports};
use outrigger_e2e::h2c::{H2Connection, H2Request};
use outrigger_e2e::ports::free_port;
use outrigger_e2e::talker::{Talker, ask};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Origin, Request, eventually};
use properties::PROPERTIES;
use serde_json::{Value, json};

const NETWORK_WASM: &str = "type.googleapis.com/envoy.extensions.filters.network.wasm.v3.Wasm";
const WASM_LOG: &str = "type.googleapis.com/envoy.extensions.access_loggers.wasm.v3.WasmAccessLog";

const FLOOD_BYTES: usize = 2 << 20;
const BOUND_BYTES: usize = 16 * 1024;

/// What a case showed: each line's value, and the order of the lines.
#[derive(Debug, Default)]
struct Observed {
    values: BTreeMap<String, String>,
    order: Vec<String>,
}

impl Observed {
    fn add(&mut self, line: &str) {
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        // What a callback answers at its first run counts: how a body is cut into pieces is not the ABI's affair.
        if !self.values.contains_key(key) {
            self.order.push(key.to_owned());
            self.values.insert(key.to_owned(), value.trim_end().to_owned());
        }
    }
}

fn filter(case: &Case, dir: &Path) -> Value {
    let module = dir.join(format!("{}.wasm", case.name));
    let text = assemble(case.name, case.abi, case.script);
    let wasm = wat::parse_str(&text).expect(case.name);
    std::fs::write(&module, wasm).expect("the module");
    let mut filter = wasm_filter(case.name, &module, &json!({"of": case.name}));
    if !case.plugin.is_empty() {
        let changes: Value = serde_json::from_str(case.plugin).expect(case.name);
        filter = with(filter, json!({"typed_config": {"config": changes}}));
    }
    filter
}

/// Metadata of a scope: one namespace with one value, so that there is one order to write it in.
fn noted(scope: &str) -> Value {
    json!({"filter_metadata": {"test": {"text": format!("of-the-{scope}")}}})
}

/// A cluster whose every scope has metadata.
fn noted_cluster(name: &str, endpoint: SocketAddr) -> Value {
    let mut cluster = with(cluster(name, &[endpoint]), json!({"metadata": noted("cluster")}));
    let locality = &mut cluster["load_assignment"]["endpoints"][0];
    locality["metadata"] = noted("locality");
    locality["lb_endpoints"][0]["metadata"] = noted("endpoint");
    cluster
}

fn listener(case: &Case, dir: &Path) -> Value {
    let filter = filter(case, dir);
    if let Drive::Tcp(_) = case.drive {
        let mut listener = tcp_listener(case.name, "talker");
        let config = json!({"@type": NETWORK_WASM, "config": filter["typed_config"]["config"]});
        let guest = json!({"name": case.name, "typed_config": config});
        listener["filter_chains"][0]["filters"].as_array_mut().expect("filters").insert(0, guest);
        return with(listener, json!({"metadata": noted("listener")}));
    }
    let mut metadata = noted("route");
    for (key, value) in [
        ("number", json!(15)),
        ("flag", json!(true)),
        ("list", json!(["a", 2, false])),
        ("inner", json!({"text": "t"})),
    ] {
        metadata["filter_metadata"]["test"][key] = value;
    }
    let cluster = if matches!(case.drive, Drive::Trailers) { "grpc" } else { "o" };
    let route = with(route("/", cluster), json!({"metadata": metadata}));
    let host = json!({"name": "all", "domains": ["*"], "routes": [route], "metadata": noted("virtual-host")});
    let listener = HttpListener::hosts(case.name, &json!([host]));
    let listener = if let Drive::AccessLog = case.drive {
        let config = json!({"@type": WASM_LOG, "config": filter["typed_config"]["config"]});
        listener.manager(json!({"access_log": [{"name": case.name, "typed_config": config}]}))
    } else {
        listener.filter(filter)
    };
    let listener = with(Value::from(listener), json!({"metadata": noted("listener")}));
    match case.drive {
        Drive::Bounded => with(listener, json!({"per_connection_buffer_limit_bytes": BOUND_BYTES})),
        _ => listener,
    }
}

fn start(peer: Peer, cases: &[&Case], origin: &Origin, talker: &Talker, dir: &Path) -> DataPlane {
    let nobody = SocketAddr::from(([127, 0, 0, 1], free_port().expect("a free port")));
    let mut bootstrap = Bootstrap::new()
        .node("node-of-test", "cluster-of-test")
        .cluster(noted_cluster("o", origin.address()))
        .cluster(http2(cluster("grpc", &[origin.address()])))
        .cluster(cluster("talker", &[talker.address()]))
        .cluster(cluster("nobody", &[nobody]))
        .cluster(cluster("empty", &[]));
    for case in cases {
        bootstrap = bootstrap.listener(listener(case, dir));
    }
    DataPlane::start(peer, &bootstrap).expect("the proxy starts")
}

/// What a client of a case got, but for what proxies add or have their own way with.
fn client(case: &Case, address: SocketAddr) -> Option<String> {
    let request = match case.drive {
        Drive::Root => return None,
        Drive::Get | Drive::AccessLog => Request::get("/path?q=1"),
        Drive::Flood => Request::new("POST", "/path?q=1").body("x".repeat(FLOOD_BYTES)),
        Drive::Bounded => Request::new("POST", "/path?q=1").body("x".repeat(2 * BOUND_BYTES)),
        Drive::Post(body) => Request::new("POST", "/path?q=1").body(body),
        Drive::Grpc => Request::new("POST", "/s/m").with("content-type", "application/grpc").body("x"),
        Drive::Trailers => return Some(trailers(address)),
        Drive::Tcp(bytes) => {
            // The talker's name, its client's address, and what it was sent.
            let answer = ask(address, bytes.as_bytes()).unwrap_or_default();
            return Some(format!("client={}", answer.split_once('\n').map_or("no answer", |(_, rest)| rest)));
        }
    };
    let request = request.with("x-a", "1").with("x-a", "2").with("user-agent", "tester").origin(match case.drive {
        Drive::Flood => "body=2097152",
        Drive::Bounded => "body=32768",
        _ => "header=x-o:1",
    });
    Some(match request.send(address) {
        Ok(response) => {
            let shown = |name: &str| {
                name.starts_with("x-t")
                    || name.starts_with("grpc-")
                    || name == "content-length" && response.body.len() < 128
            };
            let headers = response.headers.iter().map(|(name, value)| (name.to_ascii_lowercase(), value));
            let mut headers: Vec<String> =
                headers.filter(|(name, _)| shown(name)).map(|(name, value)| format!("{name}:{value}")).collect();
            headers.sort();
            let mut line = format!("client={} {} ", response.status, headers.join(" "));
            // The origin's echo tells what each proxy adds to a request, which is not the ABI's affair either.
            if response.body.len() < 128 {
                line.push_str(&response.text());
            }
            line
        }
        Err(_) => "client=no answer".to_owned(),
    })
}

/// A request with trailers, and what came of it.
fn trailers(address: SocketAddr) -> String {
    let mut request = H2Request::get("/path").body(&[b"body"]).origin("trailers; body=5");
    request.trailers.push(("x-t-end", "yes".to_owned()));
    match H2Connection::open(address).and_then(|connection| connection.exchange(&request)) {
        Ok(response) => {
            let mut trailers: Vec<String> =
                response.trailers.iter().map(|(name, value)| format!("{name}:{value}")).collect();
            trailers.sort();
            let body = response.body.len();
            format!("client={} {body} {} {:?}", response.status, trailers.join(" "), response.reset)
        }
        Err(_) => "client=no answer".to_owned(),
    }
}

/// Runs the cases through a proxy.
fn observe(peer: Peer, cases: &[&Case]) -> BTreeMap<&'static str, Observed> {
    let origin = Origin::start("o").expect("origin");
    let talker = Talker::start("t").expect("a talker");
    let dir = tempfile::tempdir().expect("a folder");
    let mut plane = start(peer, cases, &origin, &talker, dir.path());
    let mut clients = BTreeMap::new();
    for case in cases {
        let address = plane.listener(case.name).expect("listener");
        clients.extend(client(case, address).map(|line| (case.name, line)));
    }
    let mut all = BTreeMap::new();
    for case in cases {
        let lines = eventually(DEADLINE, || {
            let lines = reports(&plane.process.log()).remove(case.name).unwrap_or_default();
            if lines.iter().any(|line| line.starts_with(case.until)) { Ok(lines) } else { Err(format!("{lines:?}")) }
        });
        let mut observed = Observed::default();
        match lines {
            Ok(lines) => lines.iter().for_each(|line| observed.add(line)),
            Err(error) => observed.add(&format!("end={error:#}")),
        }
        if let Some(line) = clients.get(case.name) {
            observed.add(line);
        }
        all.insert(case.name, observed);
    }
    plane.process.must_run().expect("no guest ends the proxy");
    all
}

#[test]
fn cases_are_answered_as_in_envoy() {
    if Peer::all().len() < 2 {
        return;
    }
    let wanted = std::env::var("OUTRIGGER_E2E_CASE").unwrap_or_default();
    let cases: Vec<&Case> =
        CASES.iter().chain(EDGES).chain(PROPERTIES).filter(|case| case.name.contains(&wanted)).collect();
    let (envoy, ours) = std::thread::scope(|scope| {
        let envoy = scope.spawn(|| observe(Peer::Envoy, &cases));
        let ours = observe(Peer::Outrigger, &cases);
        (envoy.join().expect("Envoy's cases"), ours)
    });
    let mut problems = String::new();
    for case in &cases {
        compare(case, &envoy[case.name], &ours[case.name], &mut problems);
    }
    assert!(problems.is_empty(), "{problems}");
}

fn compare(case: &Case, envoy: &Observed, ours: &Observed, problems: &mut String) {
    let absent = "-".to_owned();
    let mut keys: Vec<&String> = envoy.values.keys().chain(ours.values.keys()).collect();
    keys.sort();
    keys.dedup();
    for key in keys {
        let (theirs, own) = (envoy.values.get(key).unwrap_or(&absent), ours.values.get(key).unwrap_or(&absent));
        let declared = case.differs.iter().find(|(line, ..)| *line == key.as_str());
        match declared {
            None if theirs != own => {
                let _ = writeln!(problems, "{}: {key}: Envoy {theirs:?}, ours {own:?}", case.name);
            }
            Some((_, expected_theirs, expected_own, why)) if (*expected_theirs, *expected_own) != (theirs, own) => {
                let _ = writeln!(
                    problems,
                    "{}: {key}: Envoy {theirs:?}, ours {own:?}, but the table says {expected_theirs:?} and {expected_own:?} ({why})",
                    case.name
                );
            }
            _ => {}
        }
    }
    for (line, ..) in case.differs {
        if !envoy.values.contains_key(*line) && !ours.values.contains_key(*line) {
            let _ = writeln!(problems, "{}: the table knows {line:?}, which nobody showed", case.name);
        }
    }
    // Lines that only one of them shows are in the table; the others come in the same order.
    let order = |observed: &Observed, other: &Observed| -> Vec<String> {
        observed.order.iter().filter(|key| other.values.contains_key(*key)).cloned().collect()
    };
    let (theirs, own) = (order(envoy, ours), order(ours, envoy));
    if theirs != own {
        let _ = writeln!(problems, "{}: the order is Envoy's {theirs:?}, ours {own:?}", case.name);
    }
}
