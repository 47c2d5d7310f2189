//! The admin interface of a proxy, ours or Envoy's: the same paths and the same JSON.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde_json::Value;

use crate::http1::{Request, Response};
use crate::wait::eventually;

/// A client of one admin address.
#[derive(Debug, Clone, Copy)]
pub struct Admin {
    address: SocketAddr,
}

impl Admin {
    pub fn new(address: SocketAddr) -> Admin {
        Admin { address }
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    pub fn get(&self, path: &str) -> Result<Response> {
        Request::get(path).with("Connection", "close").send(self.address).with_context(|| format!("GET {path}"))
    }

    pub fn post(&self, path: &str) -> Result<Response> {
        let request = Request::new("POST", path).with("Connection", "close").body("");
        request.send(self.address).with_context(|| format!("POST {path}"))
    }

    pub fn json(&self, path: &str) -> Result<Value> {
        let response = self.get(path)?;
        if response.status != 200 {
            bail!("GET {path}: {} {}", response.status, response.text());
        }
        response.json()
    }

    pub fn is_ready(&self) -> bool {
        self.get("/ready").is_ok_and(|response| response.status == 200)
    }

    /// Counters and gauges by name.
    pub fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.get("/stats")?.text();
        let numbers = text.lines().filter_map(|line| {
            let (name, value) = line.rsplit_once(": ")?;
            Some((name.to_owned(), value.trim().parse().ok()?))
        });
        Ok(numbers.collect())
    }

    /// One counter or gauge; zero if it isn't there (yet).
    pub fn stat(&self, name: &str) -> Result<u64> {
        Ok(self.stats()?.get(name).copied().unwrap_or_default())
    }

    /// Waits until a counter has reached `least`.
    pub fn stat_reaches(&self, name: &str, least: u64, deadline: Duration) -> Result<u64> {
        let seen = eventually(deadline, || match self.stat(name) {
            Ok(value) if value >= least => Ok(value),
            other => Err(format!("{name} is {other:?}, not yet {least}")),
        });
        seen.with_context(|| format!("the metric {name}"))
    }

    /// The address that a listener is bound to.
    pub fn listener(&self, name: &str) -> Result<SocketAddr> {
        let listeners = self.json("/listeners?format=json")?;
        let all = listeners["listener_statuses"].as_array().cloned().unwrap_or_default();
        let found = all.iter().find(|listener| listener["name"] == name);
        let found = found.with_context(|| format!("no listener {name:?} in {listeners}"))?;
        let socket = &found["local_address"]["socket_address"];
        let host = socket["address"].as_str().unwrap_or_default();
        let host = match host {
            "0.0.0.0" => "127.0.0.1".to_owned(),
            "::" => "[::1]".to_owned(),
            host if host.contains(':') => format!("[{host}]"),
            host => host.to_owned(),
        };
        format!("{host}:{}", socket["port_value"]).parse().with_context(|| format!("{found}"))
    }

    /// All the resources of `/config_dump` whose `@type` ends so, for example `ClustersConfigDump`.
    pub fn config_dump(&self, dump: &str) -> Result<Value> {
        let all = self.json("/config_dump")?;
        let sections = all["configs"].as_array().cloned().unwrap_or_default();
        let found = sections.into_iter().find(|section| section["@type"].as_str().is_some_and(|t| t.ends_with(dump)));
        found.with_context(|| format!("no {dump} in /config_dump"))
    }
}
