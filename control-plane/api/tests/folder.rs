//! Folders as they are on disk: what counts, what is kept between loads, and what leads out of the folder.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helper functions, too")]

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use outrigger_api::{LoadOptions, LoadReport, Loader, ModuleFetcher, Severity, load, object, schemas};
use outrigger_model::{Limits, Module, ObjectId};

const MODULE: &[u8] = b"\0asm\x01\0\0\0";
/// With an empty custom section behind it.
const OTHER: &[u8] = b"\0asm\x01\0\0\0\0\x02\x01x";

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: 80}}]}}\n")
}

fn filter(source: &str) -> String {
    format!(
        "apiVersion: outrigger.dev/v1alpha1\nkind: WasmFilter\nmetadata: {{name: f}}\nspec:\n  targetRefs: [{{group: \
         gateway.networking.k8s.io, kind: Gateway, name: edge}}]\n  source: {{{source}}}\n  config: {{a: [1, x], \
         b.c: null}}\n"
    )
}

fn write(dir: &Path, name: &str, text: impl AsRef<[u8]>) {
    let path = dir.join(name);
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn services(report: &LoadReport) -> Vec<String> {
    report.objects.iter().flat_map(|objects| objects.services.keys()).map(|id| id.name.to_string()).collect()
}

fn errors(report: &LoadReport) -> String {
    report.errors().map(|problem| format!("{problem}\n")).collect()
}

#[test]
fn what_counts_as_configuration() {
    let dir = tempfile::tempdir().unwrap();
    for name in
        ["b.yaml", "a.yml", "sub/deep/c.json", ".hidden.yaml", "#x.yaml", "x.yaml~", "x.yaml.swp", ".git/x.yaml"]
    {
        let object = name.rsplit('/').next().unwrap().split('.').next().unwrap().replace('#', "hash");
        write(dir.path(), name, service(if object.is_empty() { "hidden" } else { &object }));
    }
    write(dir.path(), "note.txt", "not configuration");
    let report = load(dir.path(), &LoadOptions::default());
    assert_eq!(errors(&report), "");
    assert_eq!(services(&report), ["a", "b", "c"]);
    assert_eq!(report.inputs, [dir.path().to_path_buf(), dir.path().join("sub"), dir.path().join("sub/deep")]);
    let source = &report.objects.unwrap().services[&ObjectId::new("default", "c")].source;
    assert_eq!((&*source.file, source.line), ("sub/deep/c.json", 1));
}

#[test]
fn what_is_broken_refuses_the_whole_folder() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "good.yaml", service("good"));
    for (text, expected) in [
        (&b""[..], "bad.yaml: empty: half-written?"),
        (b"\n \n", "bad.yaml: empty"),
        (b"a: \xff\n", "bad.yaml: not UTF-8 (line 1)"),
        (b"kind: Service\nspec: {", "bad.yaml:2: not YAML"),
    ] {
        write(dir.path(), "bad.yaml", text);
        let report = load(dir.path(), &LoadOptions::default());
        assert!(report.objects.is_none() && errors(&report).starts_with(expected), "{}", errors(&report));
    }
    // A comment is a file that says nothing on purpose.
    write(dir.path(), "bad.yaml", "# nothing\n");
    assert_eq!(services(&load(dir.path(), &LoadOptions::default())), ["good"]);
    let report = load(&dir.path().join("missing"), &LoadOptions::default());
    assert!(report.objects.is_none() && errors(&report).contains("cannot be read"));
}

#[test]
fn duplicates_name_both_places() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "a.yaml", format!("# first\n{}", service("same")));
    write(dir.path(), "b.yaml", format!("---\n{}", service("same")));
    let report = load(dir.path(), &LoadOptions::default());
    assert_eq!(errors(&report), "b.yaml:2: Service default/same is already written at a.yaml:2\n");
}

#[test]
fn links_stay_within_the_folder() {
    let outside = tempfile::tempdir().unwrap();
    write(outside.path(), "o.yaml", service("outside"));
    write(outside.path(), "o.wasm", MODULE);
    let dir = tempfile::tempdir().unwrap();
    // As Kubernetes mounts a ConfigMap.
    write(dir.path(), "..data/a.yaml", service("mounted"));
    let link = |to: &Path, name: &str| std::os::unix::fs::symlink(to, dir.path().join(name)).unwrap();
    link(Path::new("..data/a.yaml"), "a.yaml");
    link(dir.path(), "loop");
    assert_eq!(services(&load(dir.path(), &LoadOptions::default())), ["mounted"]);

    link(&outside.path().join("o.yaml"), "o.yaml");
    link(&outside.path().join("o.wasm"), "o.wasm");
    write(dir.path(), "f.yaml", filter("file: {path: o.wasm}"));
    let report = load(dir.path(), &LoadOptions::default());
    let expected = "f.yaml:6: spec.source.file.path: `o.wasm` is outside of the configuration folder\n\
                    o.yaml: a link out of the configuration folder\n";
    assert_eq!(errors(&report), expected);
    let allowed = load(dir.path(), &LoadOptions { allow_outside: true, ..LoadOptions::default() });
    assert_eq!(services(&allowed), ["mounted", "outside"], "{:?}", allowed.problems);
}

#[test]
fn modules_are_read_again_only_when_they_change() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "sub/f.yaml", filter("file: {path: ../m/f.wasm}"));
    write(dir.path(), "m/f.wasm", MODULE);
    let mut loader = Loader::new(dir.path(), LoadOptions::default());
    let mut module = || {
        let report = loader.load();
        let filter = report.objects.map(|objects| objects.filters[&ObjectId::new("default", "f")].clone());
        (filter.map(|filter| (filter.revision.module.clone(), filter.revision.config.clone())), report.inputs)
    };
    let (first, inputs) = module();
    let (first, config) = first.unwrap();
    assert_eq!(config, r#"{"a":[1,"x"],"b.c":null}"#.as_bytes());
    assert!(inputs.contains(&dir.path().join("sub/../m/f.wasm")), "{inputs:?}");
    let (second, _) = module().0.unwrap();
    assert_eq!(second.bytes().as_ptr(), first.bytes().as_ptr(), "read again");
    // Replaced by renaming, as builds do.
    write(dir.path(), "m/new", OTHER);
    fs::rename(dir.path().join("m/new"), dir.path().join("m/f.wasm")).unwrap();
    assert_eq!(module().0.unwrap().0, Module::new(Bytes::from_static(OTHER)));
    fs::remove_file(dir.path().join("m/f.wasm")).unwrap();
    let (gone, inputs) = module();
    assert!(gone.is_none() && inputs.contains(&dir.path().join("sub/../m/f.wasm")), "a missing module is watched");
}

#[derive(Debug, Default)]
struct Fetcher(AtomicUsize);

impl ModuleFetcher for Fetcher {
    fn fetch(&self, url: &str, _: usize) -> Result<Bytes, String> {
        self.0.fetch_add(1, Ordering::Relaxed);
        if url.ends_with("good.wasm") { Ok(Bytes::from_static(MODULE)) } else { Err("404".to_owned()) }
    }
}

#[test]
fn modules_over_http_are_fetched_once_and_checked() {
    let dir = tempfile::tempdir().unwrap();
    let fetcher = Arc::new(Fetcher::default());
    let options = LoadOptions { fetcher: Some(fetcher.clone()), ..LoadOptions::default() };
    let mut loader = Loader::new(dir.path(), options);
    let sha256 = Module::new(Bytes::from_static(MODULE)).sha256();
    write(dir.path(), "f.yaml", filter(&format!("http: {{url: 'http://x/good.wasm', sha256: {sha256}}}")));
    for _ in 0..3 {
        assert_eq!(errors(&loader.load()), "");
    }
    assert_eq!(fetcher.0.load(Ordering::Relaxed), 1);
    let zeros = "0".repeat(64);
    for (source, expected) in [
        (format!("http: {{url: 'http://x/good.wasm', sha256: '{zeros}'}}"), format!("is {sha256}, not {zeros}")),
        (format!("http: {{url: 'http://x/bad.wasm', sha256: '{zeros}'}}"), "404".to_owned()),
        ("http: {url: 'ftp://x', sha256: '00'}".to_owned(), "not an http:// or https:// URL".to_owned()),
    ] {
        write(dir.path(), "f.yaml", filter(&source));
        let found = errors(&loader.load());
        assert!(found.contains(&expected), "{found}");
    }
}

#[test]
fn an_api_servers_object_reads_like_a_folders() {
    let json = serde_json::json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "a", "namespace": "b", "uid": "x", "managedFields": []},
        "spec": {"ports": [{"port": 80, "nodePort": 30000}], "clusterIP": "10.0.0.1"},
        "status": {"loadBalancer": {}},
    });
    let (found, problems) = object(&json, None);
    assert!(problems.is_empty(), "{problems:?}");
    assert_eq!(found.unwrap().key().to_string(), "Service b/a");
    let (found, problems) = object(&serde_json::json!({"apiVersion": "v1", "kind": "Service"}), None);
    assert!(found.is_none());
    assert_eq!(problems[0].severity, Severity::Error);
}

/// The schema and the decoder know the same fields: the decoder lists its own when it meets one that it doesn't know.
#[test]
fn the_schema_has_the_fields_that_are_read() {
    let schema = &schemas()["WasmFilter"];
    let fields = |schema: &serde_json::Value| -> Vec<String> {
        schema["properties"].as_object().unwrap().keys().filter(|key| *key != "config").cloned().collect()
    };
    let known = |spec: serde_json::Value, path: &str| -> Vec<String> {
        let json = serde_json::json!({
            "apiVersion": "outrigger.dev/v1alpha1", "kind": "WasmFilter", "metadata": {"name": "a"}, "spec": spec,
        });
        let field = format!("{path}.zzzzzzzz");
        let (_, problems) = object(&json, None);
        let problem = problems.iter().find(|problem| problem.field == field).unwrap_or_else(|| panic!("{problems:#?}"));
        let (_, names) = problem.message.split_once("known: ").unwrap();
        names.split(", ").filter(|name| *name != "config" && *name != "valueFrom").map(str::to_owned).collect()
    };
    let z = || serde_json::json!({"zzzzzzzz": 1});
    let properties = &schema["properties"];
    assert_eq!(known(z(), "spec"), fields(schema));
    for (field, path, spec, schema) in [
        ("limits", "spec.limits", z(), &properties["limits"]),
        ("rollout", "spec.rollout", z(), &properties["rollout"]),
        ("source", "spec.source", z(), &properties["source"]),
        ("source", "spec.source.file", serde_json::json!({"file": z()}), &properties["source"]["properties"]["file"]),
        ("source", "spec.source.http", serde_json::json!({"http": z()}), &properties["source"]["properties"]["http"]),
        ("source", "spec.source.oci", serde_json::json!({"oci": z()}), &properties["source"]["properties"]["oci"]),
        ("env", "spec.env[0]", serde_json::json!([z()]), &properties["env"]["items"]),
        ("targetRefs", "spec.targetRefs[0]", serde_json::json!([z()]), &properties["targetRefs"]["items"]),
    ] {
        assert_eq!(known(serde_json::json!({field: spec}), path), fields(schema), "{path}");
    }
}

#[test]
fn each_limit_is_the_one_of_its_name() {
    let dir = tempfile::tempdir().unwrap();
    write(dir.path(), "filter.wasm", MODULE);
    let limits = "limits: {callbackTimeout: 1s, startTimeout: 2s, memory: 3Mi, bodyBuffer: 4, logBytesPerSecond: 5, \
                  hostcallsPerCallback: 6, sharedData: 7, sharedQueues: 8, sharedQueueBytes: 9, sharedQueueMessages: 10, \
                  httpCallsPending: 11, recycleMemory: 2Mi, recycleStreams: 13}";
    write(dir.path(), "f.yaml", format!("{}  {limits}\n", filter("file: {path: filter.wasm}")));
    let report = load(dir.path(), &LoadOptions::default());
    assert_eq!(errors(&report), "");
    let objects = report.objects.unwrap();
    let expected = Limits {
        callback_timeout: Some(Duration::from_secs(1)),
        start_timeout: Some(Duration::from_secs(2)),
        memory_bytes: Some(3 << 20),
        body_buffer_bytes: Some(4),
        log_bytes_per_second: Some(5),
        hostcalls_per_callback: Some(6),
        shared_data_bytes: Some(7),
        shared_queues: Some(8),
        shared_queue_bytes: Some(9),
        shared_queue_messages: Some(10),
        http_calls_pending: Some(11),
        recycle_memory_bytes: Some(2 << 20),
        recycle_streams: Some(13),
    };
    assert_eq!(objects.filters[&ObjectId::new("default", "f")].revision.limits, expected);
}
