//! Peers that are Python scripts (`e2e/peers`), run by the peers' own Python.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde_json::Value;
use tempfile::TempDir;

use crate::process::Process;
use crate::wait::{DEADLINE, eventually};
use crate::workspace;

/// Starts a script; its log lies in `dir`.
pub fn start(name: &str, script: &str, dir: &Path, arguments: &[&str]) -> Result<Process> {
    let path = workspace::root().join("e2e/peers").join(script);
    Process::spawn(name, &workspace::peer("venv/bin/python3")?, dir, |command| {
        command.arg("-u").arg(path).args(arguments).env_remove("http_proxy").env_remove("https_proxy");
    })
}

/// Waits for the file in which a script leaves its address.
pub fn address(file: &Path, process: &mut Process) -> Result<SocketAddr> {
    crate::data_plane::read_address(file, process)
}

/// A control plane that sends whatever a test wants (`rubbish_xds.py`).
#[derive(Debug)]
pub struct RubbishXds {
    pub process: Process,
    pub address: SocketAddr,
    script: PathBuf,
    log: PathBuf,
    responses: Vec<Value>,
    _dir: TempDir,
}

impl RubbishXds {
    /// Starts with these responses.
    pub fn start(responses: Vec<Value>) -> Result<RubbishXds> {
        let dir = tempfile::tempdir()?;
        let (script, log, file) =
            (dir.path().join("script.json"), dir.path().join("log.jsonl"), dir.path().join("address"));
        std::fs::write(&script, Value::Array(responses.clone()).to_string())?;
        let text = |path: &Path| path.to_string_lossy().into_owned();
        let arguments = [text(&script), text(&file), text(&log)];
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        let mut process = start("rubbish-xds", "rubbish_xds.py", dir.path(), &arguments)?;
        let address = address(&file, &mut process)?;
        Ok(RubbishXds { process, address, script, log, responses, _dir: dir })
    }

    /// Sends one more response.
    pub fn send(&mut self, response: Value) -> Result<()> {
        self.responses.push(response);
        let beside = self.script.with_extension("new");
        std::fs::write(&beside, Value::Array(self.responses.clone()).to_string())?;
        Ok(std::fs::rename(&beside, &self.script)?)
    }

    /// Every request so far.
    pub fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }

    /// Waits for the answer to a nonce: the reason of a NACK, or nothing for an ACK.
    pub fn answer(&self, nonce: &str) -> Result<Option<String>> {
        let found = eventually(DEADLINE, || {
            let all = self.requests();
            all.into_iter().find(|request| request["response_nonce"] == nonce).ok_or("no answer yet")
        });
        let request = found.with_context(|| format!("the answer to {nonce}"))?;
        Ok(request["error_detail"]["message"].as_str().map(str::to_owned))
    }
}
