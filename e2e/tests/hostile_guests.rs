//! Filters that mean harm, each on a listener of its own: whatever they do, the proxy lives, their neighbours are served and
//! nothing grows without end.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;
use std::path::Path;

use outrigger_e2e::bootstrap::{HttpListener, address, cluster, http2, route, wasm_filter, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::guest::{assemble, reports};
use outrigger_e2e::ports::free_port;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Neighbour, Origin, Request, eventually};
use serde_json::{Value, json};

/// A guest, how often it is driven, and what its clients may see.
struct Attack {
    name: &'static str,
    requests: usize,
    statuses: &'static [u16],
    script: &'static str,
}

/// Whether its CPU time suffices depends on the machine.
const SERVED_OR_STOPPED: &[u16] = &[200, 503];
/// The answer is cut: its head, with the length of another body, has gone out.
const CUT: &[u16] = &[];

const ATTACKS: &[Attack] = &[
    Attack {
        name: "log-flood",
        requests: 5,
        statuses: SERVED_OR_STOPPED,
        script: "request_headers:\n repeat 5000 log 2 'a line that says nothing at all, again and again'",
    },
    Attack {
        name: "header-flood",
        requests: 5,
        statuses: SERVED_OR_STOPPED,
        script: "request_headers:\n repeat 5000 add_header_map_value 0 'aaaa-flood' 'v'\n
                 response_headers:\n repeat 5000 add_header_map_value 2 'aaaa-flood' 'v'",
    },
    Attack {
        name: "hostcalls-without-end",
        requests: 5,
        statuses: &[503],
        script: "request_headers:\n repeat 1000000 get_header_map_size 0 *w",
    },
    Attack {
        name: "never-returns",
        requests: 3,
        statuses: &[503],
        script: "request_headers:\n loop",
    },
    Attack {
        name: "memory-that-grows",
        requests: 12,
        statuses: SERVED_OR_STOPPED,
        // 16 MiB with each request.
        script: "request_headers:\n grow 256",
    },
    Attack {
        name: "metrics-without-end",
        requests: 5,
        statuses: SERVED_OR_STOPPED,
        script: "request_headers:\n repeat 5000 define_metric 0 'aaaa_metric' *w",
    },
    Attack {
        name: "shared-data-without-end",
        requests: 5,
        statuses: SERVED_OR_STOPPED,
        script: "request_headers:\n repeat 2000 set_shared_data 'aaaa-key' 'a value' 0\n repeat 900 set_shared_data 1024 60000 1024 60000 0",
    },
    Attack {
        name: "queue-that-nobody-reads",
        requests: 5,
        statuses: SERVED_OR_STOPPED,
        script: "configure:\n register_shared_queue 'q' *w\nrequest_headers:\n repeat 2000 enqueue_shared_queue $w 1024 60000",
    },
    Attack {
        name: "calls-without-end",
        requests: 5,
        statuses: SERVED_OR_STOPPED,
        script: "request_headers:\n repeat 3000 http_call 'o' {:method=GET;:path=/called;:authority=a} '' '' 1000 *w\n
                 repeat 3000 grpc_call 'grpc' 's' 'm' '' 'x' 1000 *w",
    },
    Attack {
        name: "garbage-actions",
        requests: 5,
        statuses: CUT,
        script: "response_headers:\n return 0\nresponse_body:\n until_end\n set_buffer_bytes 1 0 99999 'short'\nrequest_trailers:\n return 77",
    },
    Attack {
        name: "two-replies",
        requests: 5,
        statuses: &[403],
        script: "request_headers:\n send_local_response 403 '' 'one' '' -1\n send_local_response 404 '' 'two' '' -1\n
                 continue_stream 0\n return 0\nlog:\n send_local_response 500 '' '' '' -1\n close_stream 0\n continue_stream 0\n
                 done:\n send_local_response 500 '' '' '' -1",
    },
    Attack {
        name: "closes-and-resumes",
        requests: 5,
        statuses: &[200],
        script: "context_create:\n continue_stream 0\n continue_stream 1\nresponse_headers:\n continue_stream 0\n continue_stream 1\n
                 set_effective_context 1\n continue_stream 0\n close_stream 0",
    },
    Attack {
        name: "splits-a-response",
        requests: 5,
        statuses: &[200],
        script: "response_headers:\n add_header_map_value 2 'x-evil' 'a\\x0d\\x0aset-cookie: stolen=1'\n
                 add_header_map_value 2 'x-evil\\x0d\\x0aset-cookie' 'b'\n set_header_map_pairs 2 {x\\x0a=1;y=2}",
    },
    Attack {
        name: "traps-in-an-answer",
        requests: 5,
        statuses: &[503],
        script: "request_headers:\n http_call 'o' {:method=GET;:path=/called;:authority=a} '' '' 5000 *w\n return 1\nhttp_call_response:\n trap",
    },
    Attack {
        name: "resumes-what-it-held-to-the-end",
        requests: 5,
        statuses: &[200],
        script: "response_body:\n until_end\n http_call 'o' {:method=GET;:path=/called;:authority=a} '' '' 5000 *w\n return 2\n
                 http_call_response:\n set_effective_context $context\n get_buffer_bytes 1 0 1 *v\n continue_stream 1",
    },
    Attack {
        name: "traps-at-the-end",
        requests: 5,
        statuses: &[200, 503],
        script: "log:\n trap",
    },
];

fn filter(attack: &Attack, dir: &Path) -> Value {
    let module = dir.join(format!("{}.wasm", attack.name));
    let wasm = wat::parse_str(assemble(attack.name, "0_2_1", attack.script)).expect(attack.name);
    std::fs::write(&module, wasm).expect("the module");
    wasm_filter(attack.name, &module, &json!({}))
}

#[test]
fn hostile_guests_harm_nobody() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let origin = Origin::start("o").expect("origin");
    let dir = tempfile::tempdir().expect("a folder");
    let mut bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .cluster(http2(cluster("grpc", &[origin.address()])))
        .listener(HttpListener::new("plain", &json!([route("/", "o")])));
    for attack in ATTACKS {
        let listener = HttpListener::new(attack.name, &json!([route("/", "o")])).filter(filter(attack, dir.path()));
        bootstrap = bootstrap.listener(listener);
    }
    let mut plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let mut neighbour = Neighbour::new(plane.listener("plain").expect("listener"), "/").expect("the neighbour");
    let mut failures = Vec::new();
    for attack in ATTACKS {
        let listener = plane.listener(attack.name).expect("listener");
        for round in 0..attack.requests {
            match Request::get("/x").send(listener) {
                Ok(response) if attack.statuses.contains(&response.status) => {
                    if let Some(stolen) = response.header("set-cookie") {
                        failures.push(format!("{}: a header was split off: {stolen}", attack.name));
                    }
                }
                Ok(response) => {
                    failures.push(format!("{} {round}: {} {}", attack.name, response.status, response.text()))
                }
                Err(_) if attack.statuses.is_empty() => {}
                Err(error) => failures.push(format!("{} {round}: {error:#}", attack.name)),
            }
            neighbour.must_be_served().expect(attack.name);
        }
        plane.process.must_run().expect(attack.name);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let log = plane.process.log();
    assert!(log.len() < 4 << 20, "a guest's lines are bounded: {} bytes", log.len());
    let two = reports(&log).remove("two-replies").unwrap_or_default();
    assert!(two.iter().any(|line| line.starts_with("log.0 send_local_response=0")), "{two:?}");
    let held = reports(&log).remove("resumes-what-it-held-to-the-end").unwrap_or_default();
    assert!(held.iter().any(|line| line.starts_with("http_call_response.1 get_buffer_bytes=0 {")), "{held:?}");
    let rss = plane.process.rss_mib();
    assert!(rss < 300, "{rss} MiB");
    let settled = eventually(DEADLINE, || {
        let stats = plane.admin.stats().map_err(|error| format!("{error:#}"))?;
        let active: u64 = stats.iter().filter(|(name, _)| name.ends_with("downstream_rq_active")).map(|(_, v)| v).sum();
        if active == 0 { Ok(()) } else { Err(format!("{active} requests are active")) }
    });
    settled.expect("every stream comes to an end");
}

/// A plugin that calls an origin which never answers, waits for it, and traps at its next tick.
fn waits_and_traps(policy: &str, dir: &Path) -> Value {
    let attack = Attack {
        name: "waits",
        requests: 0,
        statuses: &[],
        script: "configure:\n set_tick_period_milliseconds 700\nrequest_headers:\n
                 http_call 'calls' {:method=GET;:path=/called;:authority=a;x-origin=silent} '' '' 0 *w\n
                 grpc_stream 'grpc' 's' 'm' {x-origin=silent} *w\n return 1\ntick:\n trap",
    };
    with(filter(&attack, dir), json!({"typed_config": {"config": {"failure_policy": policy}}}))
}

#[test]
fn whoever_waits_for_a_guest_that_traps_is_answered_and_its_calls_end() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    for (policy, expected) in [("FAIL_CLOSED", 503), ("FAIL_OPEN", 200), ("FAIL_RELOAD", 503)] {
        let origin = Origin::start("o").expect("origin");
        let dir = tempfile::tempdir().expect("a folder");
        let bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .cluster(cluster("calls", &[origin.address()]))
            .cluster(http2(cluster("grpc", &[origin.address()])))
            .listener(HttpListener::new("main", &json!([route("/", "o")])).filter(waits_and_traps(policy, dir.path())));
        let mut plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
        let listener = plane.listener("main").expect("listener");
        // Until one met an instance that was there: it has called, so it waited for what never comes.
        eventually(DEADLINE, || {
            let response = Request::get("/x").send(listener).map_err(|error| format!("{policy}: {error:#}"))?;
            assert_eq!(response.status, expected, "{policy}");
            if origin.seen_at("/called").is_empty() { Err("no call yet".to_owned()) } else { Ok(()) }
        })
        .expect("its policy's answer");
        eventually(DEADLINE, || {
            let stats = plane.admin.stats().map_err(|error| format!("{error:#}"))?;
            let of = |name: &str| stats.get(name).copied().unwrap_or(u64::MAX);
            let (calls, grpc) = (of("cluster.calls.upstream_rq_active"), of("cluster.grpc.upstream_rq_active"));
            if (calls, grpc) == (0, 0) { Ok(()) } else { Err(format!("{calls} calls and {grpc} gRPC streams go on")) }
        })
        .expect("what it asked for ends with it");
        plane.process.must_run().expect("it goes on");
    }
}

#[test]
fn a_guest_that_calls_itself_takes_its_turns_with_the_others() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    // Each request makes another one: this goes on for as long as the proxy runs.
    let attack = Attack {
        name: "calls-itself",
        requests: 2,
        statuses: &[200],
        script: "request_headers:\n http_call 'itself' {:method=GET;:path=/again;:authority=a} '' '' 1000 *w",
    };
    let origin = Origin::start("o").expect("origin");
    let dir = tempfile::tempdir().expect("a folder");
    let itself = SocketAddr::from(([127, 0, 0, 1], free_port().expect("a free port")));
    let listener = HttpListener::new(attack.name, &json!([route("/", "o")])).filter(filter(&attack, dir.path()));
    let bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .cluster(cluster("itself", &[itself]))
        .listener(HttpListener::new("plain", &json!([route("/", "o")])))
        .listener(with(Value::from(listener), json!({"address": address(itself)})));
    let mut plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let mut neighbour = Neighbour::new(plane.listener("plain").expect("listener"), "/").expect("the neighbour");
    for _ in 0..attack.requests {
        let response = Request::get("/x").send(itself).expect("an answer");
        assert!(attack.statuses.contains(&response.status), "{response:?}");
    }
    let again = eventually(DEADLINE, || origin.seen_at("/again").pop().ok_or("it hasn't called itself yet"));
    again.expect("the guest's own call");
    for _ in 0..20 {
        neighbour.must_be_served().expect("the neighbour");
    }
    plane.process.must_run().expect("it goes on");
}
