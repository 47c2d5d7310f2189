//! The processes of the demo and the folder that the control plane serves.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use outrigger_e2e::data_plane::Options;
use outrigger_e2e::folder::{self, Folder};
use outrigger_e2e::{Bootstrap, ControlPlane, DataPlane, Peer, Process, eventually, modules, ports, workspace};
use serde_json::{Value, json};

const START: Duration = Duration::from_secs(60);
/// The proxy's `node.id`.
pub(crate) const PROXY: &str = "demo-proxy";
/// The one key that the demo knows.
pub(crate) const KEY: &str = "open-sesame-8f3a";

/// Everything that runs.
#[derive(Debug)]
pub(crate) struct Mesh {
    pub(crate) folder: Folder,
    pub(crate) control_plane: ControlPlane,
    pub(crate) proxy: DataPlane,
    /// Where the clients go.
    pub(crate) gateway: SocketAddr,
    /// header-policy as it was built.
    pub(crate) header_policy: Vec<u8>,
    _origin: Process,
}

impl Mesh {
    pub(crate) fn start(dir: &Path) -> Result<Mesh> {
        println!("Starting three processes:");
        let (origin_process, origin) = start_origin(dir)?;
        println!("  origin         {origin}   (echoes what it is sent)");
        let port = ports::free_port()?;
        let folder = Folder::mesh(port, &[origin])?;
        let header_policy = modules::read(&workspace::filter("header_policy")?)?;
        for name in ["api_key_auth", "rate_limit", "header_policy"] {
            folder.write(&format!("filters/{name}.wasm"), modules::read(&workspace::filter(name)?)?)?;
        }
        folder.apply("keys.yaml", &[keys()])?;
        folder.apply("limit.yaml", &[limit()])?;
        folder.apply("policy.yaml", &[policy("header_policy", "first")])?;
        let control_plane = ControlPlane::start(folder.path())?;
        println!("  control plane  {}   outrigger serve --config-dir {}", control_plane.xds, folder.path().display());
        let bootstrap = Bootstrap::new()
            .node(PROXY, &format!("{}/{}", folder::NAMESPACE, folder::GATEWAY))
            .ads(control_plane.xds, "DELTA_GRPC");
        let options = Options { concurrency: 2, ..Options::default() };
        let proxy = DataPlane::start_with(Peer::Outrigger, &bootstrap, &options)?;
        let gateway = SocketAddr::from(([127, 0, 0, 1], port));
        println!("  proxy          {gateway}   outrigger-proxy -c bootstrap.yaml (admin on {})", proxy.admin.address());
        let mesh = Mesh { folder, control_plane, proxy, gateway, header_policy, _origin: origin_process };
        let acked = mesh.wait_acked(START, |_| true).context("the proxy takes the first configuration")?;
        println!("The proxy has taken the folder's Gateway, route, Service and three Wasm filters:");
        for filter in acked["filters"].as_array().into_iter().flatten() {
            println!("  {:<14} {}", text(&filter["name"]), text(&filter["state"]));
        }
        Ok(mesh)
    }

    /// Waits until the control plane says that the proxy has acknowledged everything, and what `wanted` says beyond.
    pub(crate) fn wait_acked(&self, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(deadline, || {
            let proxy = self.control_plane.proxy(PROXY).map_err(|error| format!("{error:#}"))?;
            let is_so = proxy["state"] == "acked" && proxy["types"].as_array().is_some_and(|t| !t.is_empty());
            if is_so && wanted(&proxy) { Ok(proxy) } else { Err(format!("{proxy:#}")) }
        })
    }

    pub(crate) fn print_curl_lines(&self) {
        let gateway = self.gateway;
        println!("\nTry it yourself:");
        println!("  curl -i http://{gateway}/api/hello                          # 401: no key");
        println!("  curl -i -H 'x-api-key: {KEY}' http://{gateway}/api/hello    # 200: the origin's echo");
        println!(
            "  for i in 1 2 3 4 5 6 7; do curl -s -o /dev/null -w '%{{http_code}}\\n' -H 'x-api-key: {KEY}' -H 'x-tenant: free' http://{gateway}/; done"
        );
        println!("  $EDITOR {}", self.folder.file("policy.yaml").display());
        println!("  {} proxy-status --http-address {}", program("outrigger"), self.control_plane.http);
        println!("  curl http://{}/config_dump", self.proxy.admin.address());
    }
}

fn program(name: &str) -> String {
    workspace::binary(name).unwrap_or_else(|_| PathBuf::from(name)).display().to_string()
}

fn start_origin(dir: &Path) -> Result<(Process, SocketAddr)> {
    let file = dir.join("origin-address");
    let own = std::env::current_exe()?;
    let process = Process::spawn("origin", &own, dir, |command| {
        command.arg("origin").arg(&file);
    })?;
    let address = eventually(START, || {
        let text = std::fs::read_to_string(&file).map_err(|error| error.to_string())?;
        text.parse::<SocketAddr>().map_err(|error| error.to_string())
    })?;
    Ok((process, address))
}

/// Everyone needs the key.
fn keys() -> Value {
    let config = json!({"header": "x-api-key", "keys": [{"name": "alice", "sha256": modules::sha256(KEY.as_bytes())}]});
    folder::filter("keys", "filters/api_key_auth.wasm", "AuthN", &config, json!({}))
}

/// Tenants that name themselves have five requests in ten seconds.
fn limit() -> Value {
    let config = json!({"limits": [{
        "name": "tenant", "key": {"header": "x-tenant", "missing": "skip"}, "requests": 5, "per": "10s",
    }]});
    folder::filter("limit", "filters/rate_limit.wasm", "Unspecified", &config, json!({"priority": 10}))
}

/// header-policy stamps requests and responses with a generation.
pub(crate) fn policy(module: &str, generation: &str) -> Value {
    let stamp = json!({"set": [{"name": "x-gen-filter", "value": generation}]});
    let config = json!({"request": stamp, "response": stamp});
    folder::filter("policy", &format!("filters/{module}.wasm"), "Unspecified", &config, json!({}))
}

/// A JSON string as it is.
pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("-")
}
