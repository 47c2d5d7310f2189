//! A running proxy, ours or Envoy: the same command line, bootstrap and admin drive both, so one table of requests serves
//! both.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use serde_json::Value;
use tempfile::TempDir;

use crate::admin::Admin;
use crate::bootstrap::Bootstrap;
use crate::process::Process;
use crate::wait::{DEADLINE, eventually};
use crate::workspace;

/// Which proxy.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    Outrigger,
    Envoy,
}

impl Peer {
    /// The proxies that a table of requests runs against: both, or those that `OUTRIGGER_E2E_PEERS` names (a list of
    /// `outrigger` and `envoy`).
    pub fn all() -> Vec<Peer> {
        let wanted = std::env::var("OUTRIGGER_E2E_PEERS").unwrap_or_else(|_| "outrigger,envoy".to_owned());
        let both = [Peer::Outrigger, Peer::Envoy];
        both.into_iter().filter(|peer| wanted.split(',').any(|w| w.trim() == peer.name())).collect()
    }

    pub fn name(self) -> &'static str {
        match self {
            Peer::Outrigger => "outrigger",
            Peer::Envoy => "envoy",
        }
    }

    /// The program.
    pub fn program(self) -> Result<PathBuf> {
        match self {
            Peer::Outrigger => workspace::binary("outrigger-proxy"),
            Peer::Envoy => workspace::peer("bin/envoy"),
        }
    }
}

/// A proxy under test; killed when dropped.
#[derive(Debug)]
pub struct DataPlane {
    pub peer: Peer,
    pub process: Process,
    pub admin: Admin,
    dir: TempDir,
}

/// How to start a proxy.
#[derive(Debug, Clone)]
pub struct Options {
    pub concurrency: u32,
    /// Wait until `/ready` says 200.
    pub until_ready: bool,
    /// More arguments.
    pub arguments: Vec<String>,
    /// A cache of machine code that nobody else fills.
    pub own_cache: bool,
}

impl Default for Options {
    fn default() -> Options {
        Options { concurrency: 1, until_ready: true, arguments: Vec::new(), own_cache: false }
    }
}

impl DataPlane {
    /// Starts a proxy with one worker and waits until it is ready.
    pub fn start(peer: Peer, bootstrap: &Bootstrap) -> Result<DataPlane> {
        DataPlane::start_with(peer, bootstrap, &Options::default())
    }

    pub fn start_with(peer: Peer, bootstrap: &Bootstrap, options: &Options) -> Result<DataPlane> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("bootstrap.yaml");
        let here = dir.path().to_string_lossy().into_owned();
        std::fs::write(&config, bootstrap.yaml().replace("@DIR@", &here))?;
        let admin_file = dir.path().join("admin-address");
        // As a rule one for all tests: a module is compiled once a run, as on a node.
        let caches = if options.own_cache { dir.path().to_path_buf() } else { workspace::binaries()? };
        let cache = caches.join("e2e-wasm-cache");
        let process = Process::spawn(peer.name(), &peer.program()?, dir.path(), |command| {
            arrange(command, peer, &config, options.concurrency);
            command.arg("--admin-address-path").arg(&admin_file).args(&options.arguments);
            if peer == Peer::Outrigger {
                command.arg("--wasm-cache-dir").arg(&cache);
            }
        })?;
        let mut process = process;
        let admin = Admin::new(read_address(&admin_file, &mut process)?);
        let mut plane = DataPlane { peer, process, admin, dir };
        if options.until_ready {
            plane.wait_ready()?;
        }
        Ok(plane)
    }

    /// Runs the proxy with `--mode validate`: its exit code and all that it printed.
    pub fn validate(peer: Peer, bootstrap: &Bootstrap) -> Result<(i32, String)> {
        let dir = tempfile::tempdir()?;
        let config = dir.path().join("bootstrap.yaml");
        std::fs::write(&config, bootstrap.yaml().replace("@DIR@", &dir.path().to_string_lossy()))?;
        let mut process = Process::spawn(peer.name(), &peer.program()?, dir.path(), |command| {
            arrange(command, peer, &config, 1);
            command.args(["--mode", "validate"]);
        })?;
        let status = process.wait(DEADLINE)?;
        Ok((status.code().unwrap_or(-1), process.log()))
    }

    pub fn wait_ready(&mut self) -> Result<()> {
        let ready = eventually(DEADLINE, || {
            self.process.must_run().map_err(|error| error.to_string())?;
            if self.admin.is_ready() {
                Ok(())
            } else {
                Err(self.admin.get("/ready").map(|r| r.text()).unwrap_or_default())
            }
        });
        ready.map_err(|error| anyhow!("{} isn't ready: {error}\n{}", self.peer.name(), self.process.log()))
    }

    /// The folder with its bootstrap, access log and caches.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// The address of a listener; waits for it.
    pub fn listener(&self, name: &str) -> Result<SocketAddr> {
        eventually(DEADLINE, || self.admin.listener(name).map_err(|error| format!("{error:#}")))
    }

    /// The first access-log record whose `x-test` header was `test`; waits for it.
    pub fn access_record(&self, test: &str) -> Result<Value> {
        self.access_record_where(|record| record["test"] == test).with_context(|| format!("the record of {test:?}"))
    }

    /// The first access-log record for which `wanted` is true; waits for it.
    pub fn access_record_where(&self, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        eventually(DEADLINE, || {
            let records = self.access_records();
            records.iter().find(|record| wanted(record)).cloned().ok_or_else(|| format!("{} records", records.len()))
        })
    }

    /// All records of the access log so far.
    pub fn access_records(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.dir.path().join("access.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}

fn arrange(command: &mut Command, peer: Peer, config: &Path, concurrency: u32) {
    command.arg("-c").arg(config).arg("--concurrency").arg(concurrency.to_string()).args(["-l", "info"]);
    if peer == Peer::Envoy {
        command.arg("--use-dynamic-base-id");
        // Envoy keeps access-log lines for ten seconds otherwise.
        command.args(["--file-flush-interval-msec", "20"]);
    }
}

/// Waits for the file in which a process leaves the address that it bound.
pub(crate) fn read_address(file: &Path, process: &mut Process) -> Result<SocketAddr> {
    let mut failure = None;
    let read = eventually(Duration::from_secs(60), || {
        if let Err(error) = process.must_run() {
            failure = Some(error);
            return Ok(String::new());
        }
        let text = std::fs::read_to_string(file).map_err(|error| error.to_string())?;
        if text.trim().is_empty() { Err("empty".to_owned()) } else { Ok(text) }
    })?;
    match failure {
        Some(error) => Err(error),
        None => read.trim().parse().with_context(|| format!("an address in {}: {read:?}", file.display())),
    }
}
