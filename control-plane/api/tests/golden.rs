//! Folders in, problems out: each `tests/golden/NAME.yaml` is loaded as a folder of its own (with a small module beside
//! it) and its problems, or the word `ok` with the objects, are compared to `NAME.txt`. `UPDATE=1` rewrites.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helper functions, too")]

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use outrigger_api::{LoadOptions, load};

/// An empty core module.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden")
}

fn render(yaml: &Path) -> String {
    let dir = tempfile::tempdir().unwrap();
    fs::copy(yaml, dir.path().join("in.yaml")).unwrap();
    fs::write(dir.path().join("filter.wasm"), MODULE).unwrap();
    fs::write(dir.path().join("cut.wasm"), b"\0asm\x01\0\0\0\x01\x05\x00").unwrap();
    fs::write(dir.path().join("script.wasm"), "#!/bin/sh\n").unwrap();
    let report = load(dir.path(), &LoadOptions::default());
    let mut text = String::new();
    for problem in &report.problems {
        writeln!(text, "{problem}").unwrap();
    }
    match report.objects {
        None => text.push_str("refused\n"),
        Some(objects) => {
            for object in objects.iter() {
                writeln!(text, "ok: {}", object.key()).unwrap();
            }
        }
    }
    text
}

#[test]
fn problems_are_those_of_the_golden_files() {
    let mut names: Vec<_> = fs::read_dir(golden_dir()).unwrap().map(|entry| entry.unwrap().path()).collect();
    names.retain(|path| path.extension().is_some_and(|end| end == "yaml"));
    names.sort();
    assert!(names.len() >= 10, "{names:?}");
    let mut wrong = Vec::new();
    for yaml in names {
        let found = render(&yaml);
        let golden = yaml.with_extension("txt");
        if std::env::var_os("UPDATE").is_some() {
            fs::write(&golden, &found).unwrap();
        } else if fs::read_to_string(&golden).unwrap_or_default() != found {
            wrong.push(format!("{}:\n{found}", yaml.display()));
        }
    }
    assert!(wrong.is_empty(), "UPDATE=1 rewrites.\n{}", wrong.join("\n"));
}

/// What the complete example gives reads as the standard kinds' own types, too: we keep their shape.
#[test]
fn the_example_is_what_standard_types_read() {
    use gateway_api::apis::standard::{gateways::Gateway, httproutes::HttpRoute};
    use k8s_openapi::api::core::v1::Service;
    use k8s_openapi::api::discovery::v1::EndpointSlice;

    let text = fs::read_to_string(golden_dir().join("complete.yaml")).unwrap();
    let documents: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
    assert!(documents.len() >= 6);
    for document in documents {
        let kind = document["kind"].as_str().unwrap().to_owned();
        let result = match kind.as_str() {
            "Gateway" => serde_json::from_value::<Gateway>(document).map(|_| ()),
            "HTTPRoute" => serde_json::from_value::<HttpRoute>(document).map(|_| ()),
            "Service" => serde_json::from_value::<Service>(document).map(|_| ()),
            "EndpointSlice" => serde_json::from_value::<EndpointSlice>(document).map(|_| ()),
            "WasmFilter" => {
                serde_json::from_value::<outrigger_api::WasmFilterSpec>(document["spec"].clone()).map(|_| ())
            }
            _ => Ok(()),
        };
        result.unwrap_or_else(|error| panic!("{kind}: {error}"));
    }
}
