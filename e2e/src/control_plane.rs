//! A running `outrigger serve` and what it says about the proxies.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::http1::{Request, Response};
use crate::process::{Process, run};
use crate::wait::{DEADLINE, eventually};
use crate::workspace;

/// The control plane under test; killed when dropped.
#[derive(Debug)]
pub struct ControlPlane {
    pub process: Process,
    pub xds: SocketAddr,
    pub http: SocketAddr,
    dir: TempDir,
}

impl ControlPlane {
    /// Serves a folder on free ports.
    pub fn start(folder: &Path) -> Result<ControlPlane> {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        ControlPlane::start_at(folder, any, any)
    }

    /// Serves a folder on these addresses (a restart in the same place).
    pub fn start_at(folder: &Path, xds: SocketAddr, http: SocketAddr) -> Result<ControlPlane> {
        ControlPlane::start_with(folder, xds, http, &[])
    }

    /// The same with more arguments.
    pub fn start_with(folder: &Path, xds: SocketAddr, http: SocketAddr, arguments: &[String]) -> Result<ControlPlane> {
        let dir = tempfile::tempdir()?;
        let file = dir.path().join("addresses.json");
        let mut process = Process::spawn("outrigger", &workspace::binary("outrigger")?, dir.path(), |command| {
            command.arg("serve").arg("--config-dir").arg(folder).arg("--address-file").arg(&file);
            command.args(["--xds-address", &xds.to_string(), "--http-address", &http.to_string()]);
            if !arguments.iter().any(|argument| argument == "--state-dir") {
                command.arg("--state-dir").arg(dir.path().join("state"));
            }
            command.args(arguments);
        })?;
        let addresses = eventually(DEADLINE, || {
            if let Err(error) = process.must_run() {
                return Ok(Err(error));
            }
            let text = std::fs::read(&file).map_err(|error| error.to_string())?;
            serde_json::from_slice::<Value>(&text).map(Ok).map_err(|error| error.to_string())
        })??;
        let address = |name: &str| -> Result<SocketAddr> {
            addresses[name].as_str().unwrap_or_default().parse().with_context(|| format!("{name} in {addresses}"))
        };
        Ok(ControlPlane { xds: address("xds")?, http: address("http")?, process, dir })
    }

    pub fn get(&self, path: &str) -> Result<Response> {
        Request::get(path).with("Connection", "close").send(self.http).with_context(|| format!("GET {path}"))
    }

    pub fn json(&self, path: &str) -> Result<Value> {
        self.get(path)?.json()
    }

    /// The metrics page.
    pub fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics")?.text())
    }

    /// What `outrigger proxy-status` prints.
    pub fn proxy_status(&self) -> Result<String> {
        let http = self.http.to_string();
        let mut command = std::process::Command::new(workspace::binary("outrigger")?);
        run(command.args(["proxy-status", "--http-address", &http]))
    }

    /// What `/v1/proxies` says about one proxy.
    pub fn proxy(&self, id: &str) -> Result<Value> {
        let all = self.json("/v1/proxies")?;
        let list = all.as_array().or_else(|| all["proxies"].as_array()).cloned().unwrap_or_default();
        let found =
            list.into_iter().find(|proxy| proxy["node"]["id"] == id || proxy["id"] == id || proxy["node"] == id);
        found.with_context(|| format!("no proxy {id:?} in {all}"))
    }

    /// Waits until a proxy's state satisfies `wanted`.
    pub fn proxy_until(&self, id: &str, deadline: Duration, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(deadline, || {
            let proxy = self.proxy(id).map_err(|error| format!("{error:#}"))?;
            if wanted(&proxy) { Ok(proxy) } else { Err(format!("{proxy:#}")) }
        })
    }

    pub fn dir(&self) -> &Path {
        self.dir.path()
    }
}

/// Runs `outrigger validate` on a folder: its exit code and what it printed.
pub fn validate(folder: &Path) -> Result<(i32, String)> {
    let output = std::process::Command::new(workspace::binary("outrigger")?).arg("validate").arg(folder).output()?;
    let mut text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.push_str(&String::from_utf8_lossy(&output.stderr));
    Ok((output.status.code().unwrap_or(-1), text))
}
