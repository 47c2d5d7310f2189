//! The life of VMs through the binary: configurations of routes share one, streams may have their own, worn ones are
//! recycled, failing ones are replaced later and later.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;
use std::path::Path;

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, wasm_filter, with};
use outrigger_e2e::closing::{progress, scaled};
use outrigger_e2e::data_plane::{DataPlane, Options, Peer};
use outrigger_e2e::folder;
use outrigger_e2e::guest::{assemble, reports};
use outrigger_e2e::h2raw::{Frame, RawH2, get};
use outrigger_e2e::modules::{Fault, faulty, slow_to_configure};
use outrigger_e2e::rig::put_module;
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::yaml::to_yaml;
use outrigger_e2e::{Bootstrap, Connection, Load, Origin, Request, Response, Rig, eventually, workspace};
use serde_json::{Value, json};

const OWN: &str = "type.googleapis.com/outrigger.filters.http.wasm.v1.Wasm";

fn ours() -> bool {
    Peer::all().contains(&Peer::Outrigger)
}

/// The policy filter that stamps a response.
fn stamping(stamp: &str) -> Value {
    json!({"response": {"set": [{"name": "x-stamp", "value": stamp}]}})
}

/// A filter of our own type, with what only that can say.
fn own(filter: Value, more: &Value) -> Value {
    let mut filter = with(filter, json!({"typed_config": {"@type": OWN}}));
    filter["typed_config"] = with(filter["typed_config"].clone(), more.clone());
    filter
}

fn policy(stamp: &str) -> Value {
    wasm_filter("policy", &workspace::filter("header_policy").expect("the filter"), &stamping(stamp))
}

/// A route with a configuration of its own for the filter.
fn stamped(prefix: &str, stamp: &str) -> Value {
    let config =
        json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": stamping(stamp).to_string()});
    with(
        route(prefix, "o"),
        json!({"typed_per_filter_config": {"policy": {"@type": OWN, "config": {"configuration": config}}}}),
    )
}

fn start(origin: &Origin, routes: &Value, filter: Value) -> DataPlane {
    let bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(HttpListener::new("main", routes).filter(filter));
    DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts")
}

/// The sum of a metric of Wasm plugins over its labels.
fn metric(plane: &DataPlane, name: &str) -> u64 {
    let stats = plane.admin.stats().expect("stats");
    stats.iter().filter(|(key, _)| key.starts_with("wasm.") && key.contains(name)).map(|(_, value)| value).sum()
}

#[test]
fn routes_configure_a_filter_and_share_its_vm() {
    if !ours() {
        return;
    }
    let origin = Origin::start("o").expect("origin");
    let mut routes: Vec<Value> = (0..50).map(|index| stamped(&format!("/{index}/"), &index.to_string())).collect();
    routes.push(route("/", "o"));
    let plane = start(&origin, &json!(routes), policy("filter"));
    let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
    for _ in 0..2 {
        for (path, stamp) in [("/0/a", "0"), ("/49/", "49"), ("/7/x", "7"), ("/other", "filter")] {
            let response = client.exchange(&Request::get(path)).expect("answer");
            assert_eq!((response.status, response.header("x-stamp")), (200, Some(stamp)), "{path}");
        }
    }
    assert_eq!(metric(&plane, "vm_active"), 1, "one VM for the one worker");
}

/// Routes with a configuration each for the filter `slow`, in a watched file, replaced in one step.
fn slow_routes(path: &Path, version: &str, count: usize) {
    let one = |index: usize| {
        let value = format!("{version}-{index}");
        let config = json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": value});
        with(
            route(&format!("/{index}/"), "o"),
            json!({"typed_per_filter_config": {"slow": {"@type": OWN, "config": {"configuration": config}}}}),
        )
    };
    let mut routes: Vec<Value> = (0..count).map(one).collect();
    routes.push(route("/", "o"));
    let routes = json!({"@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration", "name": "routes",
        "virtual_hosts": [{"name": "all", "domains": ["*"], "routes": routes}]});
    let beside = path.with_extension("new");
    std::fs::write(&beside, to_yaml(&json!({"version_info": version, "resources": [routes]}))).expect("write");
    std::fs::rename(&beside, path).expect("rename");
}

/// A listener whose only filter takes its time over each configuration, and whose routes come from a file.
fn slow_listener(module: &Path, routes: &Path) -> Value {
    let config = json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": "own"});
    let filter =
        with(wasm_filter("slow", module, &json!({})), json!({"typed_config": {"config": {"configuration": config}}}));
    let mut listener: Value = HttpListener::new("main", &json!([])).filter(filter).into();
    let manager = &mut listener["filter_chains"][0]["filters"][0]["typed_config"];
    manager.as_object_mut().expect("an object").remove("route_config");
    let source = json!({"path_config_source": {"path": routes}, "resource_api_version": "V3"});
    manager["rds"] = json!({"route_config_name": "routes", "config_source": source});
    listener
}

#[test]
fn configurations_that_take_their_time_share_a_vm_too() {
    if !ours() {
        return;
    }
    let count = scaled(100, 1000);
    let dir = tempfile::tempdir().expect("a folder");
    let (module, routes) = (dir.path().join("slow.wasm"), dir.path().join("rds.yaml"));
    std::fs::write(&module, wat::parse_str(slow_to_configure()).expect("a module")).expect("its file");
    slow_routes(&routes, "a", 0);
    let origin = Origin::start("o").expect("origin");
    let bootstrap =
        Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(slow_listener(&module, &routes));
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let address = plane.listener("main").expect("listener");
    let answer = |path: &str| Request::get(path).send(address).map(|response| (response.status, response.text()));
    let own = (200, "own".to_owned());
    assert_eq!(answer("/").expect("an answer"), own);
    let before = metric(&plane, "vm_memory_bytes");
    let load = Load::new(address, 200.0, Request::get("/0/")).start().expect("load");
    for version in ["b", "c"] {
        slow_routes(&routes, version, count);
        let last = format!("/{}/", count - 1);
        eventually(DEADLINE, || match answer(&last) {
            Ok((200, body)) if body == format!("{version}-{}", count - 1) => Ok(()),
            other => Err(format!("{other:?}")),
        })
        .expect(version);
        for index in (0..count).step_by(9) {
            let answer = answer(&format!("/{index}/")).expect("an answer");
            assert_eq!(answer, (200, format!("{version}-{index}")), "all of them serve from the swap on");
        }
        assert_eq!(answer("/").expect("an answer"), own);
        eventually(DEADLINE, || match metric(&plane, "vm_active") {
            2 => Ok(()),
            active => Err(active),
        })
        .expect("the filter's own, and one for all of the update");
    }
    load.stop().expect("the load").must_be_clean().expect("nobody waits for a configuration");
    let bytes = metric(&plane, "vm_memory_bytes").saturating_sub(before);
    progress(&format!("{count} configurations that take their time: {bytes} bytes of guest memory"));
    assert!(bytes <= 8 << 20, "{bytes} bytes for {count} configurations");
}

#[test]
fn a_bad_configuration_of_a_route_is_named() {
    if !ours() {
        return;
    }
    let origin = Origin::start("o").expect("origin");
    let mut bad = stamped("/bad/", "x");
    bad["typed_per_filter_config"]["policy"]["config"]["configuration"]["value"] = json!("{\"nonsense\": 1}");
    let bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(HttpListener::new("main", &json!([bad, route("/", "o")])).filter(policy("filter")));
    let options = Options { until_ready: false, ..Options::default() };
    // It ends before or after its admin listens.
    let words = match DataPlane::start_with(Peer::Outrigger, &bootstrap, &options) {
        Ok(mut plane) => {
            let status = plane.process.wait(DEADLINE).expect("a listener that cannot be had ends the start");
            assert!(!status.success());
            plane.process.log()
        }
        Err(error) => format!("{error:#}"),
    };
    assert!(words.contains("nonsense"), "{words}");
}

#[test]
fn a_stream_may_have_a_vm_of_its_own() {
    if !ours() {
        return;
    }
    let origin = Origin::start("o").expect("origin");
    let plane =
        start(&origin, &json!([route("/", "o")]), own(policy("alone"), &json!({"isolation": "ISOLATION_STREAM"})));
    let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
    for _ in 0..5 {
        let response = client.exchange(&Request::get("/")).expect("answer");
        assert_eq!((response.status, response.header("x-stamp")), (200, Some("alone")));
    }
    assert!(metric(&plane, "vm_created") >= 5, "one for each stream");
    eventually(DEADLINE, || match metric(&plane, "vm_active") {
        0 => Ok(()),
        active => Err(active),
    })
    .expect("no VM is left");
}

/// A connection with streams that nobody answers.
fn hold(address: SocketAddr, streams: u32) -> RawH2 {
    let mut client = RawH2::open(address, &[]).expect("connect");
    let frames: Vec<Frame> = (0..streams).map(|index| Frame::headers(2 * index + 1, get("/held", &[]), true)).collect();
    client.send(&frames);
    client
}

#[test]
fn streams_beyond_the_pool_get_their_plugins_policy() {
    if !ours() {
        return;
    }
    // A module has half of the pool's 4096 instances where nobody else has any.
    const HELD_MIN: usize = 2000;
    const HELD_MAX: usize = 2048;
    let origin = Origin::start("o").expect("origin");
    let dir = tempfile::tempdir().expect("a folder");
    let module = dir.path().join("holds.wasm");
    let wasm = wat::parse_str(assemble("holds", "0_2_1", "request_headers:\n return 1")).expect("a module");
    std::fs::write(&module, wasm).expect("its file");
    let filter = |policy: &str| {
        let filter = own(wasm_filter("holds", &module, &json!({})), &json!({"isolation": "ISOLATION_STREAM"}));
        with(filter, json!({"typed_config": {"config": {"failure_policy": policy}}}))
    };
    let routes = json!([route("/", "o")]);
    let bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(HttpListener::new("closed", &routes).filter(filter("FAIL_CLOSED")))
        .listener(HttpListener::new("open", &routes).filter(filter("FAIL_OPEN")));
    let mut plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let (closed, open) = (plane.listener("closed").expect("listener"), plane.listener("open").expect("listener"));
    let held: Vec<RawH2> = (0..=HELD_MAX / 100).map(|_| hold(closed, 100)).collect();
    eventually(DEADLINE, || match metric(&plane, "vm_stream_failure") {
        0 => Err("not yet"),
        _ => Ok(()),
    })
    .expect("the pool is exhausted");
    let response = Request::get("/").send(closed).expect("an answer");
    assert_eq!((response.status, response.text().contains("origin")), (503, false));
    assert_eq!(Request::get("/").send(open).expect("an answer").status, 200, "on without the filter");
    let active = metric(&plane, "vm_active");
    assert!((HELD_MIN as u64..=HELD_MAX as u64).contains(&active), "{active}");
    assert!(plane.process.log().matches("no VM for a stream").count() < 20, "one line a second");
    drop(held);
    eventually(DEADLINE, || match metric(&plane, "vm_active") {
        0 => Ok(()),
        active => Err(active),
    })
    .expect("streams that are over give their instances back");
    let failures = metric(&plane, "vm_stream_failure");
    let _one = hold(closed, 1);
    eventually(DEADLINE, || match metric(&plane, "vm_active") {
        1 => Ok(()),
        active => Err(active),
    })
    .expect("the next one has one again");
    assert_eq!(metric(&plane, "vm_stream_failure"), failures);
    plane.process.must_run().expect("it goes on");
}

#[test]
fn worn_vms_are_recycled_between_streams() {
    if !ours() {
        return;
    }
    let origin = Origin::start("o").expect("origin");
    let filter = own(policy("same"), &json!({"limits": {"recycle_streams": 20}}));
    let plane = start(&origin, &json!([route("/", "o")]), filter);
    let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
    let mut recycled = || -> anyhow::Result<()> {
        for _ in 0..30 {
            let response: Response = client.exchange(&Request::get("/"))?;
            anyhow::ensure!(
                (response.status, response.header("x-stamp")) == (200, Some("same")),
                "{}",
                response.text()
            );
        }
        anyhow::ensure!(metric(&plane, "vm_recycled") >= 3, "not yet");
        Ok(())
    };
    eventually(DEADLINE, &mut recycled).expect("nobody notices");
    eventually(DEADLINE, || match metric(&plane, "vm_active") {
        1 => Ok(()),
        active => Err(active),
    })
    .expect("old ones end");
    assert_eq!(metric(&plane, "traps"), 0);
}

/// A plugin of a script, in a proxy of its own.
fn scripted(origin: &Origin, script: &str, config: &Value) -> DataPlane {
    let dir = tempfile::tempdir().expect("a folder");
    let module = dir.path().join("scripted.wasm");
    std::fs::write(&module, wat::parse_str(assemble("scripted", "0_2_1", script)).expect("a module"))
        .expect("its file");
    start(origin, &json!([route("/", "o")]), own(wasm_filter("scripted", &module, &json!({})), config))
}

#[test]
fn vms_that_grew_are_recycled_between_streams() {
    if !ours() {
        return;
    }
    // 16 MiB with each request, and no request meets the limit.
    let limits = json!({"limits": {"memory_bytes": 64 << 20, "recycle_memory_bytes": 24 << 20}});
    let origin = Origin::start("o").expect("origin");
    let plane = scripted(&origin, "request_headers:\n grow 256", &limits);
    let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
    for _ in 0..2 {
        assert_eq!(client.exchange(&Request::get("/")).expect("an answer").status, 200);
    }
    eventually(DEADLINE, || match (metric(&plane, "vm_recycled"), metric(&plane, "vm_active")) {
        (1, 1) => Ok(()),
        not_yet => Err(not_yet),
    })
    .expect("a new one takes over, and the old one ends");
    assert_eq!(client.exchange(&Request::get("/")).expect("an answer").status, 200);
    assert_eq!(metric(&plane, "traps"), 0);
}

#[test]
fn what_plugins_share_outlives_the_only_vm() {
    if !ours() {
        return;
    }
    let script = "configure:
        register_shared_queue 'q' *n
        dequeue_shared_queue $n *v
        get_shared_data 'k' *v *w
        enqueue_shared_queue $n 'message'
        set_shared_data 'k' 'value' 0
      request_headers:
        trap";
    let origin = Origin::start("o").expect("origin");
    let plane = scripted(&origin, script, &json!({"config": {"vm_config": {"vm_id": "shares"}}}));
    assert_eq!(Request::get("/").send(plane.listener("main").expect("listener")).expect("an answer").status, 503);
    let found = ["configure.1 dequeue_shared_queue=0 message", "configure.2 get_shared_data=0 value"];
    eventually(DEADLINE, || {
        let told = reports(&plane.process.log()).remove("scripted").unwrap_or_default();
        let missing = found.iter().find(|line| !told.iter().any(|told| told == *line));
        missing.map_or(Ok(()), |line| Err(format!("{line} is not in {told:?}")))
    })
    .expect("the next instance finds what the one that trapped left");
}

#[test]
fn a_folder_says_when_vms_are_recycled() {
    if !ours() {
        return;
    }
    let limits = json!({"limits": {"recycleStreams": 20, "recycleMemory": "32Mi", "memory": "64Mi"}});
    let rig = Rig::start_with(Peer::Outrigger, "DELTA_GRPC", |folder| {
        put_module(folder, "header_policy")?;
        let module = "filters/header_policy.wasm";
        folder.apply("policy.yaml", &[folder::filter("policy", module, "Stats", &stamping("same"), limits)])
    });
    let rig = rig.expect("the mesh");
    eventually(DEADLINE, || {
        for _ in 0..30 {
            let response = rig.get("/")?;
            anyhow::ensure!((response.status, response.header("x-stamp")) == (200, Some("same")), "{response:?}");
        }
        anyhow::ensure!(metric(&rig.plane, "vm_recycled") >= 2, "not yet");
        Ok(())
    })
    .expect("recycled, and nobody notices");
}

#[test]
fn a_folder_says_how_much_waits_in_shared_queues() {
    if !ours() {
        return;
    }
    let script = "configure:
        register_shared_queue 'q' *n
        register_shared_queue 'one too many' *w
        enqueue_shared_queue $n 'by number'
        enqueue_shared_queue $n 'one'
        enqueue_shared_queue $n 'two'
        enqueue_shared_queue $n 1024 101
        dequeue_shared_queue $n *v
        dequeue_shared_queue $n *v
        dequeue_shared_queue $n *v";
    let guest = wat::parse_str(assemble("queue", "0_2_1", script)).expect("a module");
    let limits = json!({"limits": {"sharedQueues": 1, "sharedQueueBytes": "180", "sharedQueueMessages": 2}});
    let rig = Rig::start_with(Peer::Outrigger, "DELTA_GRPC", |folder| {
        folder.write("filters/queue.wasm", &guest)?;
        folder.apply("queue.yaml", &[folder::filter("queue", "filters/queue.wasm", "Stats", &json!({}), limits)])
    })
    .expect("the mesh");
    assert_eq!(rig.get("/").expect("an answer").status, 200);
    let expected = [
        "configure.1 register_shared_queue=10",
        "configure.2 enqueue_shared_queue=0",
        "configure.3 enqueue_shared_queue=0",
        "configure.4 enqueue_shared_queue=0",
        "configure.5 enqueue_shared_queue=0",
        "configure.6 dequeue_shared_queue=0 one",
        "configure.7 dequeue_shared_queue=0 two",
        "configure.8 dequeue_shared_queue=7",
    ];
    eventually(DEADLINE, || {
        let told = reports(&rig.plane.process.log()).remove("queue").unwrap_or_default();
        let missing = expected.iter().find(|line| !told.iter().any(|told| told == *line));
        missing.map_or(Ok(()), |line| Err(format!("{line} is not in {told:?}")))
    })
    .expect("the guest meets its limits");
}

#[test]
fn a_filter_that_fails_again_and_again_is_replaced_later_and_later() {
    if !ours() {
        return;
    }
    let origin = Origin::start("o").expect("origin");
    let dir = tempfile::tempdir().expect("a folder");
    let module = dir.path().join("trap.wasm");
    std::fs::write(&module, wat::parse_str(faulty(Fault::TrapOnRequest)).expect("a module")).expect("its file");
    let plane = start(&origin, &json!([route("/", "o")]), wasm_filter("bad", Path::new(&module), &json!({})));
    let mut client = Connection::open(plane.listener("main").expect("listener")).expect("connect");
    eventually(DEADLINE, || {
        let response = client.exchange(&Request::get("/"))?;
        anyhow::ensure!(response.status == 503, "closed stays closed: {}", response.status);
        anyhow::ensure!(metric(&plane, "vm_reload_backoff") >= 1, "not yet");
        Ok(())
    })
    .expect("the breaker opens");
    // While it waits, its state is there to see; a try of a new instance closes it for a moment.
    eventually(DEADLINE, || {
        let (open, wait) = (metric(&plane, "vm_breaker_open"), metric(&plane, "vm_breaker_wait_ms"));
        _ = client.exchange(&Request::get("/"))?;
        anyhow::ensure!(open == 1 && wait >= 250, "{open} {wait}");
        Ok(())
    })
    .expect("the breaker's state is shown");
    let (traps, replaced) = (metric(&plane, "traps"), metric(&plane, "vm_reload_success"));
    assert!(traps >= 6 && replaced >= 5, "{traps} traps, {replaced} times replaced");
}
