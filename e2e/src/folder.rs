//! A configuration folder for `outrigger serve`: a Gateway, routes, a Service with its endpoints, and Wasm filters, in the
//! shape that a user writes them.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::yaml::to_yaml;

/// The namespace of everything in it.
pub const NAMESPACE: &str = "shop";
/// The Gateway's name.
pub const GATEWAY: &str = "edge";

/// A folder; removed when dropped.
#[derive(Debug)]
pub struct Folder {
    dir: TempDir,
}

impl Folder {
    pub fn new() -> Result<Folder> {
        Ok(Folder { dir: tempfile::tempdir()? })
    }

    /// A Gateway on `port`, one route for everything, and the Service `api` at `endpoints`.
    pub fn mesh(port: u16, endpoints: &[SocketAddr]) -> Result<Folder> {
        let folder = Folder::new()?;
        folder.apply("gateway.yaml", &[gateway(port)])?;
        folder.apply("route.yaml", &[route(&[])])?;
        folder.apply("service.yaml", &service("api", endpoints))?;
        Ok(folder)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// Writes objects into a file, in one atomic step, as `kubectl`-style YAML documents.
    pub fn apply(&self, file: &str, objects: &[Value]) -> Result<()> {
        let documents: Vec<String> = objects.iter().map(to_yaml).collect();
        self.write(file, documents.join("---\n"))
    }

    /// Writes a file in one atomic step: beside it first, then renamed.
    pub fn write(&self, file: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.file(file);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        let name = path.file_name().context("a file name")?.to_string_lossy().into_owned();
        let beside = path.with_file_name(format!(".{name}.new"));
        std::fs::write(&beside, bytes)?;
        std::fs::rename(&beside, &path)?;
        Ok(())
    }

    pub fn remove(&self, file: &str) -> Result<()> {
        Ok(std::fs::remove_file(self.file(file))?)
    }

    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }
}

/// The Gateway with one HTTP listener.
pub fn gateway(port: u16) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "Gateway",
        "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
        "spec": {
            "gatewayClassName": "outrigger",
            "listeners": [{"name": "http", "port": port, "protocol": "HTTP"}],
        },
    })
}

/// The route `api`: everything to the Service `api`, with these Gateway API filters.
pub fn route(filters: &[Value]) -> Value {
    let mut rule = json!({
        "matches": [{"path": {"type": "PathPrefix", "value": "/"}}],
        "backendRefs": [{"name": "api", "port": 80}],
    });
    if !filters.is_empty() {
        rule["filters"] = Value::Array(filters.to_vec());
    }
    route_with(&[rule])
}

/// The route `api` with these rules.
pub fn route_with(rules: &[Value]) -> Value {
    json!({
        "apiVersion": "gateway.networking.k8s.io/v1", "kind": "HTTPRoute",
        "metadata": {"name": "api", "namespace": NAMESPACE},
        "spec": {"parentRefs": [{"name": GATEWAY}], "rules": rules},
    })
}

/// Sets one request and one response header on the route.
pub fn stamp(request_header: &str, response_header: &str, value: &str) -> Vec<Value> {
    vec![
        json!({
            "type": "RequestHeaderModifier",
            "requestHeaderModifier": {"set": [{"name": request_header, "value": value}]},
        }),
        json!({
            "type": "ResponseHeaderModifier",
            "responseHeaderModifier": {"set": [{"name": response_header, "value": value}]},
        }),
    ]
}

/// A Service with port 80 and its EndpointSlices (one for each endpoint, since each has a port of its own).
pub fn service(name: &str, endpoints: &[SocketAddr]) -> Vec<Value> {
    let mut objects = vec![json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {"ports": [{"name": "http", "port": 80, "targetPort": 9000, "appProtocol": "http"}]},
    })];
    objects.extend(endpoints.iter().enumerate().map(|(index, endpoint)| {
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": format!("{name}-{index}"), "namespace": NAMESPACE,
                "labels": {"kubernetes.io/service-name": name},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [endpoint.ip().to_string()], "conditions": {"ready": true}}],
            "ports": [{"name": "http", "port": endpoint.port()}],
        })
    }));
    objects
}

/// A `WasmFilter` on the Gateway; `spec` adds to or changes its fields.
pub fn filter(name: &str, module: &str, phase: &str, config: &Value, spec: Value) -> Value {
    let base = json!({
        "targetRefs": [{"group": "gateway.networking.k8s.io", "kind": "Gateway", "name": GATEWAY}],
        "source": {"file": {"path": module}},
        "phase": phase,
        "config": config,
    });
    json!({
        "apiVersion": "outrigger.dev/v1alpha1", "kind": "WasmFilter",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": crate::bootstrap::with(base, spec),
    })
}
