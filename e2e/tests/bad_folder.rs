//! A folder with half-written, duplicate or contradictory YAML, or with modules that aren't there or aren't Wasm: the control
//! plane says which file, line and field is wrong, the last good configuration serves on, and a correction is taken at once.

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use outrigger_e2e::control_plane::validate;
use outrigger_e2e::folder::{self, Folder};
use outrigger_e2e::rig::{policy, put_module, versions};
use outrigger_e2e::wait::DEADLINE;
use outrigger_e2e::{Load, Neighbour, Peer, Request, Rig, eventually};
use serde_json::json;

/// Something that makes the folder bad.
struct Fault {
    name: &'static str,
    file: &'static str,
    text: String,
    /// All of these are in one of the problems.
    words: &'static [&'static str],
}

fn fault(name: &'static str, file: &'static str, text: impl Into<String>, words: &'static [&'static str]) -> Fault {
    Fault { name, file, text: text.into(), words }
}

fn faults() -> Vec<Fault> {
    let mut all = bad_yaml();
    all.extend(bad_objects());
    all
}

/// Files that can't be read, or hold what no object has.
fn bad_yaml() -> Vec<Fault> {
    vec![
        fault(
            "half-written",
            "policy.yaml",
            "apiVersion: outrigger.dev/v1alpha1\nkind: WasmFilter\nmetadata: {name: policy, namesp",
            &["policy.yaml:3"],
        ),
        fault(
            "a tab as indentation",
            "policy.yaml",
            "apiVersion: v1\nkind: Service\nmetadata:\n\tname: x\n",
            &["policy.yaml:4"],
        ),
        fault(
            "a key twice",
            "policy.yaml",
            "apiVersion: v1\nkind: Service\nkind: Gateway\nmetadata: {name: x}\n",
            &["policy.yaml:3", "kind"],
        ),
        fault(
            "an unknown kind",
            "extra.yaml",
            "apiVersion: outrigger.dev/v1alpha1\nkind: WasmFliter\nmetadata: {name: x, namespace: shop}\nspec: {}\n",
            &["extra.yaml:2", "WasmFliter"],
        ),
    ]
}

/// Objects that contradict themselves, each other, or what is there.
fn bad_objects() -> Vec<Fault> {
    let yaml = outrigger_e2e::yaml::to_yaml;
    let filter = |module: &str| yaml(&policy(module, "bad"));
    let mut second_gateway = folder::gateway(1);
    second_gateway["spec"]["listeners"][0]["port"] = json!(70_000);
    vec![
        fault(
            "an unknown field",
            "extra.yaml",
            yaml(&folder::filter("x", "filters/header_policy.wasm", "Unspecified", &json!({}), json!({"prority": 1}))),
            &["extra.yaml", "prority"],
        ),
        fault("the same object twice", "extra.yaml", yaml(&folder::route(&[])), &["extra.yaml", "HTTPRoute", "api"]),
        fault("a port out of range", "gateway.yaml", yaml(&second_gateway), &["gateway.yaml", "port"]),
        fault(
            "a wrong type",
            "extra.yaml",
            yaml(&folder::filter(
                "x",
                "filters/header_policy.wasm",
                "Unspecified",
                &json!({}),
                json!({"priority": "high"}),
            )),
            &["extra.yaml", "spec.priority"],
        ),
        fault(
            "a bad limit",
            "extra.yaml",
            yaml(&folder::filter(
                "x",
                "filters/header_policy.wasm",
                "Unspecified",
                &json!({}),
                json!({"limits": {"memory": "lots"}}),
            )),
            &["extra.yaml", "memory"],
        ),
        fault(
            "two sources",
            "extra.yaml",
            yaml(&folder::filter(
                "x",
                "filters/header_policy.wasm",
                "Unspecified",
                &json!({}),
                json!({"source": {"http": {"url": "http://127.0.0.1:1/x", "sha256": "0".repeat(64)}}}),
            )),
            &["extra.yaml", "spec.source"],
        ),
        fault("a module that isn't there", "policy.yaml", filter("nowhere"), &["policy.yaml", "nowhere.wasm"]),
        fault("a module that isn't Wasm", "policy.yaml", filter("text"), &["policy.yaml", "text.wasm"]),
        fault(
            "a module outside the folder",
            "policy.yaml",
            filter("../../../../etc/passwd"),
            &["policy.yaml", "spec.source.file.path"],
        ),
    ]
}

fn mesh(folder: &Folder) -> anyhow::Result<()> {
    put_module(folder, "header_policy")?;
    folder.write("filters/text.wasm", "this is not Wasm")?;
    folder.apply("policy.yaml", &[policy("header_policy", "good")])
}

#[test]
fn a_bad_folder_is_told_by_file_line_and_field_and_the_good_one_serves_on() {
    let peer = Peer::all().first().copied().unwrap_or(Peer::Outrigger);
    let rig = Rig::start_with(peer, "DELTA_GRPC", mesh).expect("the mesh");
    let mut neighbour = Neighbour::new(rig.gateway, "/").expect("the neighbour");
    let running = Load::new(rig.gateway, 100.0, Request::get("/load")).start().expect("load");
    let mut failures = Vec::new();
    for fault in faults() {
        let held = versions(&rig.wait_acked(|_| true).expect(fault.name));
        let before = std::fs::read(rig.folder.file(fault.file)).ok();
        rig.folder.write(fault.file, &fault.text).expect("the bad file");
        let told = eventually(DEADLINE, || {
            let all = rig.control_plane.get("/v1/problems").map_err(|error| format!("{error:#}"))?.text();
            let page: serde_json::Value = serde_json::from_str(&all).map_err(|error| error.to_string())?;
            let texts: Vec<&str> =
                page["problems"].as_array().into_iter().flatten().filter_map(|p| p["text"].as_str()).collect();
            let found = texts.iter().any(|text| fault.words.iter().all(|word| text.contains(word)));
            if found { Ok(()) } else { Err(format!("{texts:?}")) }
        });
        if let Err(error) = told {
            failures.push(format!("{}: wanted {:?}: {error:#}", fault.name, fault.words));
        }
        // `outrigger validate` says the same.
        let (code, words) = validate(rig.folder.path()).expect("validate");
        if code != 1 || !fault.words.iter().all(|word| words.contains(word)) {
            failures.push(format!("{}: validate exits with {code} and says {words}", fault.name));
        }
        neighbour.must_be_served().expect(fault.name);
        let response = rig.get("/").expect(fault.name);
        assert_eq!(response.header("x-gen-filter"), Some("good"), "{}: the last good configuration", fault.name);
        assert_eq!(
            versions(&rig.control_plane.proxy(outrigger_e2e::rig::PROXY).expect("the proxy")),
            held,
            "{}",
            fault.name
        );
        match before {
            Some(bytes) => rig.folder.write(fault.file, bytes).expect("the good file again"),
            None => rig.folder.remove(fault.file).expect("the bad file goes"),
        }
        let good = eventually(DEADLINE, || match rig.problems() {
            Ok(problems) if problems.is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        });
        good.expect(fault.name);
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
    let metrics = rig.control_plane.metrics().expect("metrics");
    assert!(metrics.contains("outrigger_config_problems"), "{metrics}");
    running.stop().expect("the load").must_be_clean().expect("nobody notices");
    // And the next good edit is taken.
    rig.push(|folder| folder.apply("policy.yaml", &[policy("header_policy", "better")])).expect("a good edit");
    rig.serves_when(|response| response.header("x-gen-filter") == Some("better")).expect("it serves");
}

#[test]
fn a_good_folder_is_valid() {
    let folder = Folder::mesh(8080, &[([127, 0, 0, 1], 9000).into()]).expect("a folder");
    mesh(&folder).expect("its filter");
    let (code, words) = validate(folder.path()).expect("validate");
    assert_eq!(code, 0, "{words}");
}

#[test]
fn a_control_plane_that_starts_on_a_bad_folder_says_so_and_recovers() {
    let folder = Folder::mesh(8080, &[([127, 0, 0, 1], 9000).into()]).expect("a folder");
    folder.write("broken.yaml", "kind: [").expect("a broken file");
    let control_plane = outrigger_e2e::ControlPlane::start(folder.path()).expect("it runs all the same");
    assert_eq!(control_plane.get("/healthz").expect("an answer").status, 200);
    // Nothing good was ever there: not ready, and what is wrong is said as soon as the folder has been read.
    eventually(DEADLINE, || match control_plane.get("/readyz") {
        Ok(response) if response.status == 503 && response.text().contains("broken.yaml") => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("not ready");
    folder.remove("broken.yaml").expect("the broken file goes");
    eventually(DEADLINE, || match control_plane.get("/readyz") {
        Ok(response) if response.status == 200 => Ok(()),
        other => Err(format!("{other:?}")),
    })
    .expect("ready");
}
