//! The main job's set-up for tests: origin, folder, control plane and a proxy that takes its configuration from it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Result;
use serde_json::{Value, json};

use crate::data_plane::Options;
use crate::folder::{self, Folder};
use crate::wait::{DEADLINE, eventually};
use crate::{Bootstrap, ControlPlane, DataPlane, Origin, Peer, Request, Response, modules, ports, workspace};

/// The API key that the filter `keys` knows.
pub const KEY: &str = "open-sesame-8f3a";
/// The proxy's `node.id`.
pub const PROXY: &str = "proxy-under-test";

/// Everything that the main job needs, running.
#[derive(Debug)]
pub struct Rig {
    pub origin: Origin,
    pub folder: Folder,
    pub control_plane: ControlPlane,
    pub plane: DataPlane,
    /// The Gateway's address.
    pub gateway: SocketAddr,
}

impl Rig {
    /// A Gateway with one route and no filter; the proxy takes it by delta ADS.
    pub fn start(peer: Peer) -> Result<Rig> {
        Rig::start_with(peer, "DELTA_GRPC", |_| Ok(()))
    }

    /// The same, with what `arrange` adds to the folder before anything starts; `api_type` is `DELTA_GRPC` or `GRPC`.
    pub fn start_with(peer: Peer, api_type: &str, arrange: impl FnOnce(&Folder) -> Result<()>) -> Result<Rig> {
        let origin = Origin::start("api")?;
        let port = ports::free_port()?;
        let folder = Folder::mesh(port, &[origin.address()])?;
        arrange(&folder)?;
        let control_plane = ControlPlane::start(folder.path())?;
        let plane = DataPlane::start_with(peer, &bootstrap(control_plane.xds, api_type), &Options::default())?;
        let gateway = SocketAddr::from(([127, 0, 0, 1], port));
        let rig = Rig { origin, folder, control_plane, plane, gateway };
        rig.wait_acked(|_| true)?;
        rig.serves_when(|_| true)?;
        Ok(rig)
    }

    pub fn get(&self, path: &str) -> Result<Response> {
        Request::get(path).send(self.gateway)
    }

    /// Waits until the proxy has acknowledged everything and `wanted` is true of its state.
    pub fn wait_acked(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        self.control_plane
            .proxy_until(PROXY, DEADLINE, |proxy| proxy["state"] == "acked" && has_types(proxy) && wanted(proxy))
    }

    /// Waits until the proxy has rejected something; returns its state.
    pub fn wait_nacked(&self) -> Result<Value> {
        self.control_plane.proxy_until(PROXY, DEADLINE, |proxy| proxy["state"] == "nacked")
    }

    /// Waits until a plain request through the Gateway is answered, and so that `wanted` is true of the answer.
    pub fn serves_when(&self, wanted: impl Fn(&Response) -> bool) -> Result<Response> {
        eventually(DEADLINE, || {
            let response = self.get("/").map_err(|error| format!("{error:#}"))?;
            if wanted(&response) { Ok(response) } else { Err(format!("{response:?}")) }
        })
    }

    /// Does something to the folder, and waits until the proxy has acknowledged what follows from it: how long that took.
    pub fn push(&self, edit: impl FnOnce(&Folder) -> Result<()>) -> Result<Duration> {
        let before = versions(&self.wait_acked(|_| true)?);
        let begun = Instant::now();
        edit(&self.folder)?;
        self.wait_acked(|proxy| versions(proxy) != before)?;
        Ok(begun.elapsed())
    }

    /// What the control plane says is wrong with the folder.
    pub fn problems(&self) -> Result<Vec<Value>> {
        let all = self.control_plane.json("/v1/problems")?;
        Ok(all.as_array().or_else(|| all["problems"].as_array()).cloned().unwrap_or_default())
    }
}

fn has_types(proxy: &Value) -> bool {
    proxy["types"].as_array().is_some_and(|types| types.len() >= 3)
}

/// The version of each type that a proxy has taken.
pub fn versions(proxy: &Value) -> Vec<(String, String)> {
    let types = proxy["types"].as_array().into_iter().flatten();
    types.map(|t| (t["type"].to_string(), t["version"].to_string())).collect()
}

/// The bootstrap of a proxy that takes everything from a control plane.
pub fn bootstrap(xds: SocketAddr, api_type: &str) -> Bootstrap {
    Bootstrap::new().node(PROXY, &format!("{}/{}", folder::NAMESPACE, folder::GATEWAY)).ads(xds, api_type)
}

/// Puts one of our filters' modules into the folder, as `filters/NAME.wasm`.
pub fn put_module(folder: &Folder, name: &str) -> Result<()> {
    folder.write(&format!("filters/{name}.wasm"), modules::read(&workspace::filter(name)?)?)
}

/// The filter `keys`: api-key-auth with [`KEY`].
pub fn keys() -> Value {
    let config = json!({"keys": [{"name": "alice", "sha256": modules::sha256(KEY.as_bytes())}]});
    folder::filter("keys", "filters/api_key_auth.wasm", "AuthN", &config, json!({}))
}

/// The filter `limit`: three requests an hour for each `x-tenant`.
pub fn limit() -> Value {
    let config = json!({"limits": [{
        "name": "tenant", "key": {"header": "x-tenant", "missing": "skip"}, "requests": 3, "per": "1h",
    }]});
    folder::filter("limit", "filters/rate_limit.wasm", "Unspecified", &config, json!({"priority": 10}))
}

/// The filter `policy`: header-policy that stamps requests and responses with a generation.
pub fn policy(module: &str, generation: &str) -> Value {
    let stamp = json!({"set": [{"name": "x-gen-filter", "value": generation}]});
    let config = json!({"request": stamp, "response": stamp});
    folder::filter("policy", &format!("filters/{module}.wasm"), "Unspecified", &config, json!({}))
}
