//! New revisions of a filter come in steps: a good one promotes itself, one that traps, fails or is slow goes again by
//! itself, a shadow changes nothing; and a restart of the control plane in the middle of it changes nothing either.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::net::SocketAddr;

use outrigger_e2e::folder::{self, Folder};
use outrigger_e2e::load::Verdict;
use outrigger_e2e::modules::{Fault, faulty};
use outrigger_e2e::rig::{PROXY, bootstrap, put_module};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{
    ControlPlane, DataPlane, Load, Origin, Peer, Request, Response, Rig, eventually, modules, ports, workspace,
};
use serde_json::{Value, json};

/// The filter `policy` with this module; it stamps requests and responses with a generation if it is header-policy.
fn filter(module: &str, generation: &str, spec: Value) -> Value {
    let stamp = json!({"set": [{"name": "x-gen-filter", "value": generation}]});
    let config = json!({"request": stamp, "response": stamp});
    folder::filter("policy", &format!("filters/{module}.wasm"), "Unspecified", &config, spec)
}

fn rollout(steps: &[u8], pause: &str, guardrails: &Value) -> Value {
    json!({"rollout": {"steps": steps, "pause": pause, "guardrails": guardrails}})
}

/// What `outrigger get` knows of the filter's rollout.
fn state(control_plane: &ControlPlane) -> Value {
    let all = control_plane.json("/v1/resources").expect("resources");
    let found = all.as_array().into_iter().flatten().find(|one| one["kind"] == "WasmFilter");
    found.map(|filter| filter["rollout"].clone()).unwrap_or_default()
}

fn state_until(control_plane: &ControlPlane, wanted: impl Fn(&Value) -> bool) -> Value {
    eventually(DEADLINE, || {
        let state = state(control_plane);
        if wanted(&state) { Ok(state) } else { Err(format!("{state}")) }
    })
    .expect("the rollout's state")
}

fn write_wat(folder: &Folder, name: &str, text: &str) -> anyhow::Result<()> {
    folder.write(&format!("filters/{name}.wasm"), wat::parse_str(text)?)
}

/// A filter whose `proxy_on_request_headers` is this.
fn guest(on_request: &str) -> String {
    format!(
        r#"(module
  (import "env" "proxy_send_local_response" (func $reply (param i32 i32 i32 i32 i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "proxy_abi_version_0_2_1"))
  (func (export "malloc") (param i32) (result i32) i32.const 1024)
  (func (export "proxy_on_vm_start") (param i32 i32) (result i32) i32.const 1)
  (func (export "proxy_on_configure") (param i32 i32) (result i32) i32.const 1)
  (func (export "proxy_on_context_create") (param i32 i32))
  (func (export "proxy_on_request_headers") (param i32 i32 i32) (result i32) (local $n i32) {on_request})
  (func (export "proxy_on_done") (param i32) (result i32) i32.const 1)
  (func (export "proxy_on_delete") (param i32)))"#
    )
}

fn replies(status: u16) -> String {
    guest(&format!(
        "(drop (call $reply (i32.const {status}) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) (i32.const 0) \
         (i32.const 0) (i32.const -1))) i32.const 1"
    ))
}

/// Takes some 20 milliseconds of CPU time.
fn slow() -> String {
    guest(
        "(loop $l (local.set $n (i32.add (local.get $n) (i32.const 1))) \
         (br_if $l (i32.lt_u (local.get $n) (i32.const 40000000)))) i32.const 0",
    )
}

/// Request and response carry the same stamp, once.
fn judge(response: &Response) -> Verdict {
    let mut verdict = Verdict::default();
    let on_response = response.header_all("x-gen-filter");
    if response.status != 200 {
        verdict.failure = Some(format!("status {}", response.status));
    } else if on_response.len() != 1 || response.header_all("x-seen-gen-filter") != on_response {
        verdict.mixed = Some(format!("{on_response:?}"));
    }
    verdict.stamps.extend(on_response.iter().map(|value| (*value).to_owned()));
    verdict
}

/// The mesh with the first revision, header-policy's, which is there at once.
fn rig(spec: &Value) -> Rig {
    let rig = Rig::start_with(Peer::Outrigger, "DELTA_GRPC", |folder| {
        put_module(folder, "header_policy")?;
        folder.apply("policy.yaml", &[filter("header_policy", "one", spec.clone())])
    });
    let rig = rig.expect("the mesh");
    rig.serves_when(|response| response.header("x-gen-filter") == Some("one")).expect("the first revision");
    rig
}

#[test]
fn a_good_revision_promotes_itself_and_nobody_notices() {
    let spec = rollout(&[20, 60], "300ms", &json!({"addedLatency": "2s"}));
    let rig = rig(&spec);
    assert_eq!(state(&rig.control_plane)["state"], "Complete");
    let running = Load::new(rig.gateway, 300.0, Request::get("/load")).check(judge).start().expect("load");
    let code = modules::read(&workspace::filter("header_policy").expect("the filter")).expect("its bytes");
    rig.folder.write("filters/second.wasm", modules::variant(&code, 2)).expect("other code");
    rig.folder.apply("policy.yaml", &[filter("second", "two", spec)]).expect("the second revision");
    for percent in [20, 60] {
        state_until(&rig.control_plane, |state| state["percent"] == percent);
    }
    state_until(&rig.control_plane, |state| state["state"] == "Complete");
    rig.serves_when(|response| response.header("x-gen-filter") == Some("two")).expect("the second revision");
    let all_new = || {
        let stamps: Vec<_> = (0..50).filter_map(|_| rig.get("/").ok()).collect();
        let old = stamps.iter().filter(|response| response.header("x-gen-filter") != Some("two")).count();
        if old == 0 { Ok(()) } else { Err(format!("{old} of 50 are old")) }
    };
    eventually(DEADLINE, all_new).expect("no stream has the old revision any more");
    let report = running.stop().expect("the load");
    report.must_be_clean().expect("nobody notices");
    assert_eq!(report.stamps.len(), 2, "{:?}", report.stamps);
    // The figures of both were counted.
    let stats = rig.plane.admin.stats().expect("stats");
    for revision in ["stable", "candidate"] {
        let streams = stats.get(&format!("wasm_rollout.shop/policy.{revision}.streams"));
        assert!(streams.is_some_and(|streams| *streams > 0), "{revision}: {stats:?}");
    }
}

#[test]
fn a_revision_that_traps_goes_again_and_fails_only_its_own_share() {
    let spec = rollout(&[25, 100], "1h", &json!({"trapRate": "0.1%"}));
    let rig = rig(&spec);
    write_wat(&rig.folder, "traps", &faulty(Fault::TrapOnRequest)).expect("the module");
    let answers = |response: &Response| Verdict {
        // Only 503 is a failure that may happen here; anything else would be mixed up.
        failure: (response.status == 503).then(|| "503".to_owned()),
        mixed: (![200, 503].contains(&response.status)).then(|| format!("status {}", response.status)),
        ..Verdict::default()
    };
    let running = Load::new(rig.gateway, 300.0, Request::get("/load")).check(answers).start().expect("load");
    rig.folder.apply("policy.yaml", &[filter("traps", "two", spec)]).expect("the second revision");
    let rolled_back = state_until(&rig.control_plane, |state| state["state"] == "RolledBack");
    let reason = rolled_back["reason"].as_str().unwrap_or_default();
    assert!(reason.contains(PROXY) && reason.contains("met a trap, more than 0.1 %"), "{rolled_back}");
    rig.wait_acked(|_| true).expect("the old revision alone is acknowledged");
    let report = running.stop().expect("the load");
    // Beyond the share of the bad revision nothing failed: every failure is a stream that it had.
    let stats = rig.plane.admin.stats().expect("stats");
    let streams = stats.get("wasm_rollout.shop/policy.candidate.streams").copied().unwrap_or_default();
    assert!(
        report.failed > 0 && report.failed <= streams as usize as u64,
        "{} failed, {streams} streams",
        report.failed
    );
    assert!(report.failed * 4 < report.served + report.failed, "{} of {}", report.failed, report.served);
    assert_eq!((report.mixed, report.closed), (0, 0));
    for _ in 0..20 {
        let response = rig.get("/").expect("an answer");
        assert_eq!((response.status, response.header("x-gen-filter")), (200, Some("one")));
    }
    assert!(rig.plane.process.log().contains("the new revision is given up"), "{}", rig.plane.process.log());
    let mut get = std::process::Command::new(workspace::binary("outrigger").expect("the binary"));
    let get = get.args(["get", "WasmFilter", "--http-address", &rig.control_plane.http.to_string()]).output();
    let text = String::from_utf8(get.expect("outrigger get").stdout).expect("text");
    assert!(text.contains("rollout: RolledBack") && text.contains("met a trap"), "{text}");
}

#[test]
fn revisions_that_fail_or_are_slow_go_again() {
    let slow_spec = json!({"limits": {"callbackTimeout": "2s"}});
    let cases = [
        ("fails", replies(500), json!({}), json!({"errorRate": "1%"}), "answered with 5xx, more than 1 %"),
        ("slow", slow(), slow_spec, json!({"addedLatency": "3ms"}), "to the response's head, more than 3ms"),
    ];
    for (name, module, more, guardrails, expected) in cases {
        let mut spec = rollout(&[50], "1h", &guardrails);
        let rig = rig(&spec);
        write_wat(&rig.folder, name, &module).expect("the module");
        spec = outrigger_e2e::bootstrap::with(spec, more);
        rig.folder.apply("policy.yaml", &[filter(name, "two", spec)]).expect("the second revision");
        // One request at a time: what is slow slows down nobody else.
        let rolled_back = eventually(DEADLINE, || {
            for _ in 0..10 {
                rig.get("/").map_err(|error| format!("{error:#}"))?;
            }
            let state = state(&rig.control_plane);
            if state["state"] == "RolledBack" { Ok(state) } else { Err(format!("{state}")) }
        });
        let rolled_back = rolled_back.expect(name);
        let reason = rolled_back["reason"].as_str().unwrap_or_default();
        assert!(reason.contains(expected), "{name}: {rolled_back}");
        rig.serves_when(|response| response.header("x-gen-filter") == Some("one")).expect("the old revision");
    }
}

#[test]
fn a_shadow_decides_nothing_and_its_differences_are_counted() {
    let rig = rig(&json!({}));
    let differences = |kind: &str| {
        rig.plane.admin.stat(&format!("wasm_rollout.shop/policy.{kind}.shadow_differences")).expect("a counter")
    };
    let streams = || rig.plane.admin.stat("wasm_rollout.shop/policy.candidate.streams").expect("a counter");
    let until_shadowed = |state_of: &str| {
        state_until(&rig.control_plane, |state| state["state"] == "Shadow" && state["revision"] != state_of);
        rig.wait_acked(|_| true).expect("acked");
    };
    // One that would answer by itself.
    write_wat(&rig.folder, "denies", &replies(403)).expect("the module");
    rig.folder.apply("policy.yaml", &[filter("denies", "two", json!({"shadow": true}))]).expect("the shadow");
    until_shadowed("");
    for _ in 0..10 {
        let response = rig.get("/").expect("an answer");
        assert_eq!((response.status, response.header("x-gen-filter")), (200, Some("one")));
        assert_eq!(response.header("x-seen-gen-filter"), Some("one"));
    }
    assert_eq!((differences("action"), differences("headers"), streams()), (10, 0, 10));
    // One that sets another stamp, and one that traps.
    let first = state(&rig.control_plane)["revision"].as_str().unwrap_or_default().to_owned();
    rig.folder.apply("policy.yaml", &[filter("header_policy", "two", json!({"shadow": true}))]).expect("another");
    until_shadowed(&first);
    for _ in 0..10 {
        assert_eq!(rig.get("/").expect("an answer").header("x-gen-filter"), Some("one"));
    }
    assert_eq!((differences("action"), differences("headers"), streams()), (10, 10, 20));
    let second = state(&rig.control_plane)["revision"].as_str().unwrap_or_default().to_owned();
    write_wat(&rig.folder, "traps", &faulty(Fault::TrapOnRequest)).expect("the module");
    rig.folder.apply("policy.yaml", &[filter("traps", "two", json!({"shadow": true}))]).expect("a third");
    until_shadowed(&second);
    for _ in 0..10 {
        let response = rig.get("/").expect("an answer");
        assert_eq!((response.status, response.header("x-gen-filter")), (200, Some("one")));
    }
    // A new filter that begins as a shadow stands beside nothing.
    let alone = folder::filter("deny", "filters/denies.wasm", "AuthN", &json!({}), json!({"shadow": true}));
    rig.push(|folder| folder.apply("deny.yaml", &[alone])).expect("a filter that is only a shadow");
    for _ in 0..10 {
        assert_eq!(rig.get("/").expect("an answer").status, 200);
    }
    let denied = rig.plane.admin.stat("wasm_rollout.shop/deny.action.shadow_differences").expect("a counter");
    assert_eq!(denied, 10);
}

#[test]
fn a_control_plane_that_restarts_goes_on_where_it_was() {
    let origin = Origin::start("api").expect("origin");
    let port = ports::free_port().expect("a port");
    let folder = Folder::mesh(port, &[origin.address()]).expect("a folder");
    let kept = tempfile::tempdir().expect("a folder");
    let arguments = ["--state-dir".to_owned(), kept.path().display().to_string()];
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let code = modules::read(&workspace::filter("header_policy").expect("the filter")).expect("its bytes");
    folder.write("filters/it.wasm", &code).expect("the module");
    let hour = rollout(&[30], "1h", &json!({}));
    folder.apply("policy.yaml", &[filter("it", "one", hour.clone())]).expect("the filter");
    let first = ControlPlane::start_with(folder.path(), any, any, &arguments).expect("the control plane");
    let (xds, http) = (first.xds, first.http);
    let start = || {
        let options = outrigger_e2e::data_plane::Options::default();
        DataPlane::start_with(Peer::Outrigger, &bootstrap(xds, "DELTA_GRPC"), &options).expect("the proxy starts")
    };
    let plane = start();
    let gateway = SocketAddr::from(([127, 0, 0, 1], port));
    let shares = || {
        let stamps: Vec<Option<String>> = (0..100)
            .filter_map(|_| Some(Request::get("/").send(gateway).ok()?.header("x-gen-filter").map(ToOwned::to_owned)))
            .collect();
        ["one", "two"].map(|value| stamps.iter().filter(|stamp| stamp.as_deref() == Some(value)).count())
    };
    eventually(DEADLINE, || if shares() == [100, 0] { Ok(()) } else { Err(format!("{:?}", shares())) }).expect("one");
    // The old code is gone from the folder.
    folder.write("filters/it.wasm", modules::variant(&code, 2)).expect("other code");
    folder.apply("policy.yaml", &[filter("it", "two", hour)]).expect("the second revision");
    let both = |shares: [usize; 2]| shares[0] > 40 && shares[1] > 10 && shares[0] + shares[1] == 100;
    eventually(DEADLINE, || if both(shares()) { Ok(()) } else { Err(format!("{:?}", shares())) }).expect("both");
    let before = state_until(&first, |state| state["percent"] == 30);
    let status = first.proxy_status().expect("proxy-status");
    assert!(status.contains("at 30 %: acked"), "{status}");
    let dump = plane.admin.get("/config_dump").expect("a dump").text();
    assert!(dump.contains("\"share\": 3000") && dump.contains("\"trap_rate\": 0.001"), "{dump}");
    drop(first);
    assert!(both(shares()), "without a control plane nothing changes");
    let second = ControlPlane::start_with(folder.path(), xds, http, &arguments).expect("it comes again");
    let after = state_until(&second, |state| state["percent"] == 30);
    assert_eq!(before["revision"], after["revision"]);
    second.proxy_until(PROXY, DEADLINE, |proxy| proxy["state"] == "acked").expect("acked");
    assert!(both(shares()), "{:?}", shares());
    // A proxy that starts now gets both revisions as well, the old one's code included.
    drop(plane);
    let plane = start();
    eventually(DEADLINE, || if both(shares()) { Ok(()) } else { Err(format!("{:?}", shares())) }).expect("both again");
    // From here it goes on by itself: another plan is another try, whose steps are short.
    let short = rollout(&[40, 80], "200ms", &json!({}));
    folder.apply("policy.yaml", &[filter("it", "two", short)]).expect("another plan");
    state_until(&second, |state| state["state"] == "Complete");
    eventually(DEADLINE, || if shares() == [0, 100] { Ok(()) } else { Err(format!("{:?}", shares())) }).expect("two");
    drop(plane);
    let third = {
        drop(second);
        ControlPlane::start_with(folder.path(), xds, http, &arguments).expect("once more")
    };
    state_until(&third, |state| state["state"] == "Complete");
}
