//! The rules of the house: which crate may know which (ARCHITECTURE.md, *Invariants*).

#![allow(clippy::expect_used, reason = "a test that cannot set itself up fails")]

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// The names of each member's normal dependencies.
fn dependencies() -> BTreeMap<String, BTreeSet<String>> {
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml");
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".to_owned());
    let output = Command::new(cargo)
        .args(["metadata", "--no-deps", "--offline", "--format-version", "1", "--manifest-path", manifest])
        .output()
        .expect("cargo metadata runs");
    let metadata: Value = serde_json::from_slice(&output.stdout).expect("cargo metadata prints JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    packages
        .iter()
        .map(|package| {
            let normal = package["dependencies"].as_array().expect("dependencies").iter();
            let names = normal
                .filter(|dependency| dependency["kind"].is_null())
                .filter_map(|dependency| dependency["name"].as_str().map(str::to_owned));
            (package["name"].as_str().expect("a name").to_owned(), names.collect())
        })
        .collect()
}

#[test]
fn crates_know_only_what_they_may() {
    let dependencies = dependencies();
    let rules: &[(&str, &[&str])] = &[
        ("outrigger-http", &["tokio", "prost", "tonic", "hyper", "wasmtime", "outrigger-proto"]),
        (
            "outrigger-attributes",
            &["tokio", "prost", "tonic", "hyper", "wasmtime", "outrigger-proto", "outrigger-config"],
        ),
        ("outrigger-stats", &["tokio", "prost", "tonic", "hyper", "outrigger-proto"]),
        ("outrigger-config", &["tokio", "prost", "tonic", "hyper", "wasmtime", "outrigger-proto"]),
        ("outrigger-wasm", &["tokio", "hyper", "tonic", "outrigger-proto", "outrigger-xds", "outrigger-config"]),
        ("outrigger-dataplane", &["hyper", "tonic", "prost", "outrigger-proto", "outrigger-xds"]),
        ("outrigger-model", &["kube-core", "kube", "k8s-openapi", "tonic", "outrigger-proto", "tokio"]),
        ("outrigger-xds-server", &["kube-core", "kube", "k8s-openapi"]),
    ];
    for (name, forbidden) in rules {
        let known = dependencies.get(*name).unwrap_or_else(|| panic!("no crate {name}"));
        for other in *forbidden {
            assert!(!known.contains(*other), "{name} must not know {other}");
        }
    }
}

#[test]
fn proxy_and_control_plane_share_only_the_protos() {
    let proxy = [
        "outrigger-http",
        "outrigger-attributes",
        "outrigger-stats",
        "outrigger-config",
        "outrigger-xds",
        "outrigger-wasm",
        "outrigger-dataplane",
    ];
    let control = ["outrigger-api", "outrigger-model", "outrigger-xds-server", "outrigger"];
    let dependencies = dependencies();
    for name in control {
        for other in proxy {
            assert!(!dependencies[name].contains(other), "{name} must not know {other}");
        }
    }
    for name in proxy {
        for other in control {
            assert!(!dependencies[name].contains(other), "{name} must not know {other}");
        }
    }
}
