//! Golden files: a folder as users write it, and what each kind of client gets of it. `UPDATE=1 cargo test` rewrites.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking, in its helpers as well")]

use std::fmt::Write as _;
use std::fs;
use std::path::Path;
use std::sync::Arc;

use outrigger_api::{LoadOptions, load};
use outrigger_model::{MeshIndex, ObjectId};
use outrigger_proto::audit::audit;
use outrigger_proto::render::{Style, to_json};
use outrigger_proto::type_url::message_name;
use outrigger_xds_server::{Hub, NodeKey, NodeSnapshot, Profile, ResourceType, Scope};

/// The smallest module that there is.
const MODULE: &[u8] = b"\0asm\x01\0\0\0";

fn published(case: &str) -> Hub {
    let folder = tempfile::tempdir().unwrap();
    let input = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case).join("input.yaml");
    fs::copy(&input, folder.path().join("input.yaml")).unwrap();
    fs::write(folder.path().join("filter.wasm"), MODULE).unwrap();
    let report = load(folder.path(), &LoadOptions::default());
    let errors: Vec<_> = report.errors().map(ToString::to_string).collect();
    assert!(errors.is_empty(), "{case}: {errors:#?}");
    let mut index = MeshIndex::new();
    let changes = index.replace(report.objects.unwrap());
    let hub = Hub::new("127.0.0.1:18001".parse().unwrap());
    hub.publish(&Arc::new(index), &changes);
    hub
}

fn snapshot(case: &str, profile: Profile) -> Arc<NodeSnapshot> {
    let scope = match profile {
        Profile::Grpc => Scope::Services,
        Profile::Outrigger | Profile::Envoy => Scope::Gateway(ObjectId::new("shop", "edge")),
    };
    published(case).snapshot(&NodeKey { profile, scope }).unwrap()
}

/// Every resource as a YAML document (whose body is JSON, which YAML includes), in push order.
fn render(snapshot: &NodeSnapshot) -> String {
    let mut out = String::new();
    for kind in ResourceType::ALL {
        for resource in snapshot.resources(kind).values() {
            let json = to_json(message_name(kind.type_url()), &resource.body, Style::Pretty).unwrap();
            write!(out, "--- # {kind} {}\n{json}\n", resource.name).unwrap();
        }
    }
    for limitation in &snapshot.limitations {
        writeln!(out, "# {}: {}: {}", limitation.resource, limitation.field, limitation.message).unwrap();
    }
    out
}

fn check(case: &str, profile: Profile) {
    let found = render(&snapshot(case, profile));
    let name = format!("{profile:?}.yaml").to_lowercase();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/golden").join(case).join(name);
    if std::env::var_os("UPDATE").is_some() {
        fs::write(&path, &found).unwrap();
    }
    let expected = fs::read_to_string(&path).unwrap_or_default();
    assert_eq!(found, expected, "{} differs; UPDATE=1 rewrites it", path.display());
}

#[test]
fn a_gateway_for_outrigger() {
    check("gateway", Profile::Outrigger);
}

#[test]
fn a_gateway_for_envoy() {
    check("gateway", Profile::Envoy);
}

#[test]
fn services_for_grpc() {
    check("gateway", Profile::Grpc);
}

#[test]
fn tcp_for_outrigger() {
    check("tcp", Profile::Outrigger);
}

/// Our proxy has a word for everything that we send it.
#[test]
fn our_own_proxy_supports_every_field() {
    for case in ["gateway", "tcp"] {
        let snapshot = snapshot(case, Profile::Outrigger);
        for kind in ResourceType::ALL {
            for resource in snapshot.resources(kind).values() {
                let findings = audit(message_name(kind.type_url()), &resource.body);
                assert!(findings.is_empty(), "{kind} {}: {findings:#?}", resource.name);
            }
        }
    }
}

#[test]
fn the_same_folder_gives_the_same_versions() {
    let first = snapshot("gateway", Profile::Outrigger);
    for _ in 0..5 {
        assert_eq!(*snapshot("gateway", Profile::Outrigger), *first);
    }
}
