//! What a plugin that traps does to its stream, to itself and to the others, and what is told of it.

#![allow(clippy::needless_pass_by_value, reason = "literals are written where they are used")]
#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::path::{Path, PathBuf};

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, wasm_filter, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::guest::{assemble, reports};
use outrigger_e2e::wait::{DEADLINE, until};
use outrigger_e2e::{Bootstrap, Connection, Origin, Request, Response, eventually};
use serde_json::{Value, json};

const OWN: &str = "type.googleapis.com/outrigger.filters.http.wasm.v1.Wasm";
const WASM_LOG: &str = "type.googleapis.com/envoy.extensions.access_loggers.wasm.v3.WasmAccessLog";
const FAULT: &str = "type.googleapis.com/envoy.extensions.filters.http.fault.v3.HTTPFault";
const FILTER_CONFIG: &str = "type.googleapis.com/envoy.config.route.v3.FilterConfig";

/// Marks requests with `x-seen: 1`, and traps at those that have an `x-trap`.
const GUEST: &str = r#"(module
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_add_header_map_value" (func $add (param i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "x-trapx-seen1")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) i32.const 1024)
  (func (export "proxy_on_memory_allocate") (param i32) (result i32) i32.const 1024)
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) i32.const 1)
  (func (export "proxy_on_configure") (param i32 i32) (result i32) i32.const 1)
  (func $the_culprit unreachable)
  (func $who_calls_it (call $the_culprit))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32)
    (i32.store (i32.const 104) (i32.const 0))
    (drop (call $get (i32.const 0) (i32.const 0) (i32.const 6) (i32.const 100) (i32.const 104)))
    (if (i32.load (i32.const 104)) (then (call $who_calls_it)))
    (drop (call $add (i32.const 0) (i32.const 6) (i32.const 6) (i32.const 12) (i32.const 1)))
    i32.const 0)
  (func (export "proxy_on_done") (param i32) (result i32) i32.const 1)
  (func (export "proxy_on_delete") (param i32)))"#;

/// Counts what is over, and traps at what had an `x-trap`.
const LOGGER: &str = r#"(module
  (import "env" "proxy_get_header_map_value" (func $get (param i32 i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_define_metric" (func $define (param i32 i32 i32 i32) (result i32)))
  (import "env" "proxy_increment_metric" (func $increment (param i32 i64) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "x-traplogged")
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) i32.const 1024)
  (func (export "proxy_on_configure") (param i32 i32) (result i32)
    (drop (call $define (i32.const 0) (i32.const 6) (i32.const 6) (i32.const 112)))
    i32.const 1)
  (func (export "proxy_on_log") (param i32)
    (i32.store (i32.const 104) (i32.const 0))
    (drop (call $get (i32.const 0) (i32.const 0) (i32.const 6) (i32.const 100) (i32.const 104)))
    (if (i32.load (i32.const 104)) (then unreachable))
    (drop (call $increment (i32.load (i32.const 112)) (i64.const 1)))))"#;

/// Tells of a stream's callbacks.
const WATCHES: &str = "context_create:\n args\nrequest_headers:\n args\nresponse_headers:\n args\nresponse_body:\n args
                       log:\n args\ndone:\n args\ndelete:\n args";

fn module(dir: &Path) -> PathBuf {
    module_of(dir, GUEST)
}

fn module_of(dir: &Path, text: &str) -> PathBuf {
    let path = dir.join("guest.wasm");
    std::fs::write(&path, wat::parse_str(text).expect("a module")).expect("its file");
    path
}

fn guest(name: &str, module: &Path, config: Value) -> Value {
    with(wasm_filter(name, module, &json!({})), json!({"typed_config": {"config": config}}))
}

fn start(peer: Peer, origin: &Origin, filters: &[(&str, Value)]) -> DataPlane {
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()]));
    let bootstrap = filters.iter().fold(bootstrap, |bootstrap, (name, filter)| {
        bootstrap.listener(HttpListener::new(name, &json!([route("/", "o")])).filter(filter.clone()))
    });
    DataPlane::start(peer, &bootstrap).expect("the proxy starts")
}

/// The status, and whether the plugin has seen the request.
fn ask(plane: &DataPlane, listener: &str, traps: bool) -> (u16, bool) {
    let request = if traps { Request::get("/").with("x-trap", "1") } else { Request::get("/") };
    told(&request.send(plane.listener(listener).expect("its listener")).expect("an answer"))
}

fn told(response: &Response) -> (u16, bool) {
    (response.status, response.seen("x-seen").is_some())
}

/// The sum of a metric of one plugin.
fn metric(plane: &DataPlane, plugin: &str, name: &str) -> u64 {
    let stats = plane.admin.stats().expect("stats");
    let of = |key: &&String| key.starts_with(&format!("wasm.{plugin}.")) && key.contains(name);
    stats.keys().filter(of).map(|key| stats[key]).sum()
}

#[test]
fn policies_in_both_forms() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let dir = tempfile::tempdir().expect("a folder");
        let module = module(dir.path());
        let reload = json!({"failure_policy": "FAIL_RELOAD", "reload_config": {"backoff": {"base_interval": "0.05s"}}});
        let filters = [
            ("old_open", json!({"fail_open": true})),
            ("old_closed", json!({"fail_open": false})),
            ("new_open", json!({"failure_policy": "FAIL_OPEN"})),
            ("new_closed", json!({"failure_policy": "FAIL_CLOSED"})),
            ("reload", reload),
        ];
        let filters = filters.map(|(name, config)| (name, guest(name, &module, config)));
        let plane = start(peer, &origin, &filters);
        // Of the newer field Envoy takes notice for the streams after the one that trapped.
        let new_open = if peer == Peer::Envoy { 503 } else { 200 };
        for (name, trapped) in
            [("old_open", 200), ("new_open", new_open), ("old_closed", 503), ("new_closed", 503), ("reload", 503)]
        {
            assert_eq!(ask(&plane, name, false), (200, true), "{}: {name}", peer.name());
            assert_eq!(ask(&plane, name, true), (trapped, false), "{}: {name}", peer.name());
        }
        eventually(DEADLINE, || match ask(&plane, "reload", false) {
            (200, true) => Ok(()),
            other => Err(format!("{}: {other:?}", peer.name())),
        })
        .expect("it is there again");
    }
}

#[test]
fn a_logger_that_traps_costs_no_answer() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let dir = tempfile::tempdir().expect("a folder");
        let module = module_of(dir.path(), LOGGER);
        let reload = json!({"failure_policy": "FAIL_RELOAD", "reload_config": {"backoff": {"base_interval": "0.05s"}}});
        let policies = [json!({"failure_policy": "FAIL_OPEN"}), json!({"failure_policy": "FAIL_CLOSED"}), reload];
        let mut bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()]));
        for (name, policy) in ["open", "closed", "reload"].into_iter().zip(policies) {
            let config = guest(name, &module, policy)["typed_config"]["config"].clone();
            let log = json!([{"name": name, "typed_config": {"@type": WASM_LOG, "config": config}}]);
            let listener = HttpListener::new(name, &json!([route("/", "o")])).manager(json!({"access_log": log}));
            bootstrap = bootstrap.listener(listener);
        }
        let plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let logged = || plane.admin.stat("wasmcustom.logged").unwrap_or_default();
        for name in ["open", "closed", "reload"] {
            let mut client = Connection::open(plane.listener(name).expect("its listener")).expect("a connection");
            let mut ask = |request: &Request| client.exchange(request).expect("an answer").status;
            let before = logged();
            assert_eq!(ask(&Request::get("/")), 200, "{}: {name}", peer.name());
            until(DEADLINE, "it is logged", || logged() > before).expect(name);
            // Its own answer, and those that come while there is no logger.
            for _ in 0..3 {
                assert_eq!(ask(&Request::get("/").with("x-trap", "1")), 200, "{}: {name}", peer.name());
            }
            // Envoy begins a VM again only where the policy says so.
            if peer == Peer::Envoy && name != "reload" {
                continue;
            }
            let before = logged();
            eventually(DEADLINE, || match (ask(&Request::get("/")), logged() > before) {
                (200, true) => Ok(()),
                other => Err(format!("{}: {name}: {other:?}", peer.name())),
            })
            .expect("it logs again");
            if peer == Peer::Outrigger {
                assert!(metric(&plane, name, "traps") >= 1, "{name}");
                assert!(metric(&plane, name, "vm_reload_success") >= 1, "{name}");
            }
        }
    }
}

#[test]
fn a_filter_that_never_ran_is_created_for_its_log_alone() {
    for peer in Peer::all() {
        let origin = Origin::start("o").expect("an origin");
        let dir = tempfile::tempdir().expect("a folder");
        let watching = |name: &str| {
            let folder = dir.path().join(name);
            std::fs::create_dir(&folder).expect("its folder");
            guest(name, &module_of(&folder, &assemble(name, "0_2_1", WATCHES)), json!({}))
        };
        let abort = json!({"http_status": 418, "percentage": {"numerator": 100}});
        let abort = json!({"name": "abort", "typed_config": {"@type": FAULT, "abort": abort}});
        let answered =
            HttpListener::new("answered", &json!([route("/", "o")])).filter(abort).filter(watching("answered"));
        let off = json!({"typed_per_filter_config": {"disabled": {"@type": FILTER_CONFIG, "disabled": true}}});
        let disabled = HttpListener::new("disabled", &json!([with(route("/", "o"), off)])).filter(watching("disabled"));
        let bootstrap =
            Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(answered).listener(disabled);
        let mut plane = DataPlane::start(peer, &bootstrap).expect("the proxy starts");
        let figures = |plane: &DataPlane| ["callbacks", "vm_contexts"].map(|name| metric(plane, "disabled", name));
        let before = figures(&plane);
        for (name, expected) in [("disabled", 200), ("answered", 418)] {
            let mut client = Connection::open(plane.listener(name).expect("its listener")).expect("a connection");
            for _ in 0..50 {
                assert_eq!(client.exchange(&Request::get("/")).expect("an answer").status, expected);
            }
        }
        let told = eventually(DEADLINE, || {
            let told = reports(&plane.process.log());
            let of = |name: &str| -> Vec<String> {
                let lines = told.get(name).into_iter().flatten();
                // But for the root context's own, which has no parent.
                lines
                    .filter(|line| *line != "context_create.0 args=0 ")
                    .map(|line| line.trim_end().to_owned())
                    .collect()
            };
            let told = (of("answered"), of("disabled"));
            if told.0.iter().any(|line| line.starts_with("delete")) { Ok(told) } else { Err(told) }
        })
        .expect("the contexts are deleted");
        let (answered, disabled) = told;
        let callbacks: Vec<&str> = answered.iter().filter_map(|line| line.split('.').next()).collect();
        assert_eq!(callbacks, ["context_create", "log", "done", "delete"], "{}", peer.name());
        assert!(disabled.is_empty(), "{}: {disabled:?}", peer.name());
        if peer == Peer::Outrigger {
            assert_eq!(figures(&plane), before, "nobody is told, and nothing is made");
            until(DEADLINE, "only its root context is left", || metric(&plane, "answered", "vm_contexts") == before[1])
                .expect("nothing stays");
        }
        plane.process.must_run().expect("it goes on");
    }
}

#[test]
fn a_trap_names_the_functions_that_led_to_it() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let origin = Origin::start("o").expect("an origin");
    let dir = tempfile::tempdir().expect("a folder");
    let plane = start(Peer::Outrigger, &origin, &[("main", guest("p", &module(dir.path()), json!({})))]);
    assert_eq!(ask(&plane, "main", true), (503, false));
    let mut plane = plane;
    let line = eventually(DEADLINE, || {
        let log = plane.process.log();
        log.lines().find(|line| line.contains("the_culprit")).map(str::to_owned).ok_or(log)
    })
    .expect("a line with the function's name");
    let at = |name: &str| line.find(name).unwrap_or(usize::MAX);
    assert!(at("proxy_on_request_headers") < at("the_culprit"), "the callback first: {line}");
    assert!(at("the_culprit") < at("who_calls_it") && line.contains("who_calls_it"), "innermost first: {line}");
    assert!(plane.process.must_run().is_ok());
}

#[test]
fn plugins_share_a_vm_or_have_their_own() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    for (isolation, vms) in [("ISOLATION_SHARED", 1), ("ISOLATION_PLUGIN", 2)] {
        let origin = Origin::start("o").expect("an origin");
        let dir = tempfile::tempdir().expect("a folder");
        let module = module(dir.path());
        let own = |name: &str| {
            let filter = guest(name, &module, json!({"vm_config": {"vm_id": "same"}}));
            (
                if name == "p" { "one" } else { "other" },
                with(filter, json!({"typed_config": {"@type": OWN, "isolation": isolation}})),
            )
        };
        let plane = start(Peer::Outrigger, &origin, &[own("p"), own("q")]);
        assert_eq!((ask(&plane, "one", false), ask(&plane, "other", false)), ((200, true), (200, true)));
        let active = metric(&plane, "p", "vm_active") + metric(&plane, "q", "vm_active");
        assert_eq!(active, vms, "{isolation}");
        let created = metric(&plane, "q", "vm_created");
        // A stream of the one plugin is under way while the other traps.
        let mut held = Connection::open(plane.listener("other").expect("its listener")).expect("a connection");
        held.send(Request::get("/held").origin("gate=open").bytes()).expect("sends");
        held.expect_answer_to("GET");
        until(DEADLINE, "the origin has it", || !origin.seen_at("/held").is_empty()).expect("held");
        assert_eq!(ask(&plane, "one", true), (503, false), "{isolation}");
        if isolation == "ISOLATION_PLUGIN" {
            assert_eq!(ask(&plane, "other", false), (200, true), "its own VM lives");
            assert_eq!((metric(&plane, "q", "traps"), metric(&plane, "q", "vm_created")), (0, created));
            origin.open_gate("open");
            assert_eq!(told(&held.response().expect("an answer")), (200, true), "and so do its streams");
        } else {
            origin.open_gate("open");
        }
        for listener in ["one", "other"] {
            eventually(DEADLINE, || match ask(&plane, listener, false) {
                (200, true) => Ok(()),
                other => Err(format!("{isolation}: {listener}: {other:?}")),
            })
            .expect("a new VM takes its place");
        }
    }
}

#[test]
fn a_plugins_work_is_measured() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let origin = Origin::start("o").expect("an origin");
    let dir = tempfile::tempdir().expect("a folder");
    let plane = start(Peer::Outrigger, &origin, &[("main", guest("p", &module(dir.path()), json!({})))]);
    assert_eq!(metric(&plane, "p", "vm_memory_bytes"), 2 << 16, "two pages");
    let before = metric(&plane, "p", ".callbacks");
    let mut client = Connection::open(plane.listener("main").expect("its listener")).expect("a connection");
    for _ in 0..100 {
        assert_eq!(told(&client.exchange(&Request::get("/")).expect("an answer")), (200, true));
    }
    // Created, asked, and done and deleted a moment after the answer.
    let callbacks = || metric(&plane, "p", ".callbacks") - before;
    until(DEADLINE, "all callbacks are counted", || callbacks() >= 400).expect("counted");
    assert_eq!(callbacks(), 400);
    let page = plane.admin.get("/stats/prometheus").expect("a page").text();
    let count = page.lines().find(|line| line.contains("callback_time_ns_count") && line.contains("\"p\""));
    let count = count.and_then(|line| line.rsplit(' ').next()?.parse::<u64>().ok());
    assert!(count.is_some_and(|count| count > 0), "some of them were timed: {count:?}");
}
