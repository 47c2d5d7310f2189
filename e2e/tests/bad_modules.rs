//! Modules that no host should run: the update is rejected by name and the old filter serves, or, where the fault only shows
//! with a request, the policy of the plugin applies, and only to that plugin's streams.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::path::{Path, PathBuf};

use outrigger_e2e::bootstrap::{HttpListener, cluster, route, wasm_filter, with};
use outrigger_e2e::data_plane::{DataPlane, Peer};
use outrigger_e2e::folder;
use outrigger_e2e::modules::{Fault, faulty};
use outrigger_e2e::rig::{PROXY, policy, put_module};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Bootstrap, Connection, Load, Neighbour, Origin, Request, Rig};
use serde_json::json;

fn assemble(text: &str) -> Vec<u8> {
    wat::parse_str(text).expect("the module assembles")
}

fn write_faulty(dir: &Path, fault: Fault) -> PathBuf {
    let path = dir.join(format!("{fault:?}.wasm"));
    std::fs::write(&path, assemble(&faulty(fault))).expect("write");
    path
}

#[test]
fn a_bad_module_is_rejected_by_name_and_the_old_one_serves() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let rig = Rig::start_with(Peer::Outrigger, "DELTA_GRPC", |folder| {
        put_module(folder, "header_policy")?;
        folder.apply("policy.yaml", &[policy("header_policy", "good")])
    })
    .expect("the mesh");
    let mut neighbour = Neighbour::new(rig.gateway, "/").expect("the neighbour");
    let running = Load::new(rig.gateway, 100.0, Request::get("/load")).start().expect("load");
    let header = b"\0asm\x01\0\0\0".to_vec();
    let truncated = [&header[..], &[1, 200]].concat();
    let table: [(&str, Vec<u8>, &[&str]); 7] = [
        ("nothing-exported", header, &["shop/policy"]),
        ("truncated", truncated, &[]),
        ("unknown-import", assemble(&faulty(Fault::UnknownImport)), &["proxy_no_host_has_this"]),
        ("trap-on-configure", assemble(&faulty(Fault::TrapOnConfigure)), &["unreachable"]),
        ("refuses", assemble(&faulty(Fault::RefuseConfiguration)), &["configur"]),
        ("loops", assemble(&faulty(Fault::LoopOnConfigure)), &["time"]),
        (
            "start-traps",
            assemble(
                r#"(module (memory (export "memory") 1) (func (export "proxy_abi_version_0_2_1"))
                  (func (export "malloc") (param i32) (result i32) i32.const 1024) (func $s unreachable) (start $s))"#,
            ),
            &["unreachable"],
        ),
    ];
    let mut failures = Vec::new();
    for (name, bytes, words) in table {
        let rejected = rig.plane.admin.stat("extension_config_discovery.ecds.update_rejected").expect("stats");
        let mut bad = policy(name, "bad");
        bad["spec"]["limits"] = json!({"startTimeout": "1s"});
        rig.folder.write(&format!("filters/{name}.wasm"), bytes).expect("the module");
        rig.folder.apply("policy.yaml", &[bad]).expect("the filter");
        // Either the control plane sees it first and says so, or the proxy rejects it by name.
        let told = outrigger_e2e::eventually(DEADLINE, || {
            let problems = format!("{:?}", rig.problems().map_err(|error| format!("{error:#}"))?);
            let proxy = rig.control_plane.proxy(PROXY).map_err(|error| format!("{error:#}"))?;
            let reasons: Vec<String> =
                proxy["filters"].as_array().into_iter().flatten().map(|filter| filter["reason"].to_string()).collect();
            let says = |text: &str| words.iter().all(|word| text.to_lowercase().contains(&word.to_lowercase()));
            if proxy["state"] == "nacked" && says(&format!("shop/policy {reasons:?}")) {
                return Ok("proxy");
            }
            if problems.contains("policy.yaml") { Ok("control plane") } else { Err(format!("{reasons:?} {problems}")) }
        });
        match told {
            Err(error) => failures.push(format!("{name}: {error:#}")),
            Ok("proxy") => {
                let words = rig.control_plane.proxy_status().expect("proxy-status");
                if !words.to_lowercase().contains("nacked") || !words.contains("shop/policy") {
                    failures.push(format!("{name}: proxy-status says {words}"));
                }
                let counted = rig.plane.admin.stat("extension_config_discovery.ecds.update_rejected").expect("stats");
                if counted <= rejected {
                    failures.push(format!("{name}: update_rejected stays {counted}"));
                }
            }
            Ok(_) => {}
        }
        neighbour.must_be_served().expect(name);
        assert_eq!(rig.get("/").expect(name).header("x-gen-filter"), Some("good"), "{name}: the old filter serves");
        rig.folder.apply("policy.yaml", &[policy("header_policy", "good")]).expect("the good filter");
        rig.wait_acked(|proxy| proxy["filters"].as_array().is_some_and(|f| f.iter().all(|f| f["state"] == "acked")))
            .expect(name);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    running.stop().expect("the load").must_be_clean().expect("nobody notices");
}

/// What other hosts offer, and what is somebody's own, links: a filter that only calls it where it is there runs here too.
#[test]
fn an_import_of_another_host_is_unimplemented_and_said() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let import =
        |name: &str, local: &str| format!(r#"(import "env" "{name}" (func ${local} (param i32) (result i32)))"#);
    let both = format!("(module {} {}", import("proxy_redis_call", "redis"), import("our_own_extension", "own"));
    let calls = "(i32.and (i32.eq (call $redis (i32.const 1)) (i32.const 12)) (i32.eq (call $own (i32.const 1)) (i32.const 12)))";
    let configure = r#"(func (export "proxy_on_configure") (param i32 i32) (result i32)"#;
    let text = faulty(Fault::RefuseConfiguration).replacen("(module", &both, 1);
    let text = text.replace(&format!("{configure} i32.const 0)"), &format!("{configure} {calls})"));
    assert!(text.contains(calls), "{text}");
    let dir = tempfile::tempdir().expect("a folder");
    let module = dir.path().join("private.wasm");
    std::fs::write(&module, assemble(&text)).expect("write");
    let origin = Origin::start("o").expect("origin");
    let listener = HttpListener::new("main", &json!([route("/", "o")])).filter(wasm_filter("p", &module, &json!({})));
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()])).listener(listener);
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("it starts, so both calls answered 12");
    let response = Request::get("/").send(plane.listener("main").expect("listener")).expect("an answer");
    assert_eq!(response.status, 200);
    let log = plane.process.log();
    for name in ["proxy_redis_call", "our_own_extension"] {
        assert!(log.contains(&format!("plugin p: env.{name} is imported as (i32) -> i32: calls answer 12")), "{log}");
    }
}

#[test]
fn a_filter_that_fails_at_run_time_fails_only_its_own_streams() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    for fault in [Fault::TrapOnRequest, Fault::LoopOnRequest, Fault::AllocateOnRequest] {
        let origin = Origin::start("o").expect("origin");
        let module = write_faulty(dir.path(), fault);
        let filtered =
            HttpListener::new("filtered", &json!([route("/", "o")])).filter(wasm_filter("bad", &module, &json!({})));
        let bootstrap = Bootstrap::new()
            .cluster(cluster("o", &[origin.address()]))
            .listener(filtered)
            .listener(HttpListener::new("plain", &json!([route("/", "o")])));
        let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
        let address = plane.listener("filtered").expect("listener");
        let mut neighbour = Neighbour::new(plane.listener("plain").expect("listener"), "/").expect("the neighbour");
        for round in 0..3 {
            let test = format!("{fault:?}-{round}");
            let mut client = Connection::open(address).expect("connect");
            client.send(Request::get("/bad").with("x-test", &test).bytes()).expect("send");
            neighbour.must_be_served().expect("the neighbour");
            let response = client.response().unwrap_or_else(|error| panic!("{fault:?}, request {round}: {error:#}"));
            assert_eq!(response.status, 503, "{fault:?}: closed is the default: {}", response.text());
            let record = plane.access_record(&test).expect("a record");
            assert_eq!(record["status"].to_string().trim_matches('"'), "503", "{record}");
            neighbour.must_be_served().expect("the neighbour");
        }
        assert!(origin.seen_at("/bad").is_empty(), "{fault:?}: nothing goes round a closed filter");
        let stats = plane.admin.stats().expect("stats");
        let traps: u64 = stats
            .iter()
            .filter(|(name, _)| name.starts_with("wasm.") && name.contains("trap"))
            .map(|(_, value)| value)
            .sum();
        assert!(
            traps >= 1,
            "{fault:?}: traps are counted: {:?}",
            stats.keys().filter(|k| k.starts_with("wasm")).collect::<Vec<_>>()
        );
        assert!(plane.process.rss_mib() < 300, "{fault:?}: memory is capped");
    }
}

#[test]
fn an_open_filter_that_traps_is_left_out() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let dir = tempfile::tempdir().expect("a folder");
    let origin = Origin::start("o").expect("origin");
    let module = write_faulty(dir.path(), Fault::TrapOnRequest);
    let open = with(
        wasm_filter("open", &module, &json!({})),
        json!({"typed_config": {"config": {"failure_policy": "FAIL_OPEN"}}}),
    );
    let bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .listener(HttpListener::new("main", &json!([route("/", "o")])).filter(open));
    let plane = DataPlane::start(Peer::Outrigger, &bootstrap).expect("the proxy starts");
    let mut neighbour =
        Neighbour::new(plane.listener("main").expect("listener"), "/").expect("served without the filter");
    for _ in 0..5 {
        neighbour.must_be_served().expect("served without the filter");
    }
}

#[test]
fn the_control_planes_failure_policy_reaches_the_proxy() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    for (policy, status) in [("Open", 200), ("Closed", 503)] {
        let rig = Rig::start_with(Peer::Outrigger, "DELTA_GRPC", |folder| {
            folder.write("filters/trap.wasm", assemble(&faulty(Fault::TrapOnRequest)))?;
            let spec = json!({"failurePolicy": policy});
            folder.apply("trap.yaml", &[folder::filter("trap", "filters/trap.wasm", "AuthN", &json!({}), spec)])
        })
        .expect("the mesh");
        assert_eq!(rig.get("/").expect("an answer").status, status, "{policy}");
        // The filter goes, and everything is as if it had never been.
        rig.push(|folder| folder.remove("trap.yaml")).expect(policy);
        rig.serves_when(|response| response.status == 200).expect(policy);
    }
}

#[test]
fn remote_code_with_another_digest_is_never_run() {
    if !Peer::all().contains(&Peer::Outrigger) {
        return;
    }
    let origin = Origin::start("o").expect("origin");
    let store = Origin::answering("store", b"\0asm\x01\0\0\0 something else".to_vec()).expect("the module store");
    let code = json!({"remote": {
        "http_uri": {"uri": format!("http://{}/module.wasm", store.address()), "cluster": "store", "timeout": "2s"},
        "sha256": "0".repeat(64),
    }});
    let mut remote = wasm_filter("remote", Path::new("unused"), &json!({}));
    remote["typed_config"]["config"]["vm_config"]["code"] = code;
    let bootstrap = Bootstrap::new()
        .cluster(cluster("o", &[origin.address()]))
        .cluster(cluster("store", &[store.address()]))
        .listener(HttpListener::new("plain", &json!([route("/", "o")])))
        .listener(HttpListener::new("main", &json!([route("/", "o")])).filter(remote));
    let options = outrigger_e2e::data_plane::Options { until_ready: false, ..Default::default() };
    // A static listener that can't be had ends the start; whether before or after the admin listens is a race.
    let started = DataPlane::start_with(Peer::Outrigger, &bootstrap, &options);
    let mut plane = match started {
        Ok(plane) => plane,
        Err(error) => {
            let words = format!("{error:#}");
            assert!(words.contains("sha256") || words.contains("digest"), "the digest is named: {words}");
            assert_eq!(store.seen().len(), 1, "the module was asked for");
            return;
        }
    };
    let told = outrigger_e2e::eventually(DEADLINE, || {
        let ended = plane.process.ended().is_some();
        let ready = if ended { String::new() } else { plane.admin.get("/ready").map(|r| r.text()).unwrap_or_default() };
        let all = format!("{}\n{ready}", plane.process.log());
        if all.contains("sha256") || all.contains("digest") { Ok(()) } else { Err(all) }
    });
    told.expect("the digest is named");
    // The filter's listener never serves without its filter.
    if let Ok(response) = plane.admin.listener("main").and_then(|address| Request::get("/bad").send(address)) {
        assert_ne!(response.status, 200);
    }
    assert!(origin.seen_at("/bad").is_empty());
}
