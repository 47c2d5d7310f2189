//! Bootstraps of the scenarios that change while they run, as JSON (which is YAML), and clients at a fixed rate.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Value, json};

use crate::bench::peers::{LOAD_CORE, get, pinned};
use crate::paths::which;
use crate::shell::output;

const WASM: &str = "type.googleapis.com/envoy.extensions.filters.http.wasm.v3.Wasm";
const HCM: &str =
    "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager";
const ROUTER: &str = "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router";

/// A listener: its name and its filters before the router.
pub(super) type Listener<'a> = (&'a str, Vec<Value>);

/// A listener with routes of its own.
#[derive(Debug)]
pub(super) struct Routed<'a> {
    pub(super) name: &'a str,
    pub(super) filters: Vec<Value>,
    pub(super) routes: Vec<Value>,
}

/// A route to the origin.
pub(super) fn to_origin(prefix: &str) -> Value {
    json!({"match": {"prefix": prefix}, "route": {"cluster": "origin"}})
}

/// A bootstrap with these listeners in front of one origin, whose workers tell how long their turns are.
pub(super) fn bootstrap(origin: u16, listeners: Vec<Listener<'_>>) -> String {
    let all = |(name, filters)| Routed { name, filters, routes: vec![to_origin("/")] };
    routed(origin, listeners.into_iter().map(all).collect())
}

/// The same, with the listeners' own routes.
pub(super) fn routed(origin: u16, listeners: Vec<Routed<'_>>) -> String {
    let socket = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let listeners: Vec<Value> = listeners
        .into_iter()
        .map(|Routed { name, mut filters, routes }| {
            filters.push(json!({"name": "envoy.filters.http.router", "typed_config": {"@type": ROUTER}}));
            let manager = json!({
                "@type": HCM, "stat_prefix": name, "generate_request_id": false, "http_filters": filters,
                "route_config": {"name": name, "virtual_hosts": [{
                    "name": "all", "domains": ["*"], "routes": routes,
                }]},
            });
            let filter = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
            json!({"name": name, "address": socket(0), "filter_chains": [{"filters": [filter]}]})
        })
        .collect();
    json!({
        "admin": {"address": socket(0)},
        "node": {"id": "bench", "cluster": "bench"},
        "enable_dispatcher_stats": true,
        "static_resources": {"listeners": listeners, "clusters": [{
            "name": "origin", "type": "STATIC", "connect_timeout": "2s",
            "load_assignment": {"cluster_name": "origin", "endpoints": [{"lb_endpoints": [
                {"endpoint": {"address": socket(origin)}},
            ]}]},
        }]},
    })
    .to_string()
}

/// The configuration of one Wasm filter.
pub(super) fn wasm(name: &str, module: &Path, configuration: &str) -> Value {
    json!({"@type": WASM, "config": {
        "name": name, "root_id": name,
        "vm_config": {"vm_id": name, "runtime": "envoy.wasm.runtime.v8", "code": {"local": {"filename": module}}},
        "configuration": {"@type": "type.googleapis.com/google.protobuf.StringValue", "value": configuration},
    }})
}

/// A filter whose configuration comes from a watched file.
pub(super) fn discovered(name: &str, file: &Path) -> Value {
    json!({"name": name, "config_discovery": {
        "config_source": {"path_config_source": {"path": file}, "resource_api_version": "V3"},
        "type_urls": [WASM],
    }})
}

/// Puts the next configuration there, in one step.
pub(super) fn publish(file: &Path, version: usize, name: &str, config: &Value) -> Result<()> {
    let resource = json!({
        "@type": "type.googleapis.com/envoy.config.core.v3.TypedExtensionConfig", "name": name, "typed_config": config,
    });
    let beside = file.with_extension("new");
    std::fs::write(&beside, json!({"version_info": version.to_string(), "resources": [resource]}).to_string())?;
    std::fs::rename(&beside, file).with_context(|| format!("{}", file.display()))
}

/// What a client at a fixed rate saw.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Seen {
    pub(super) requests: u64,
    pub(super) errors: u64,
    pub(super) mean_ms: f64,
    pub(super) longest_ms: f64,
}

/// Asks for `/` at a rate, on four connections.
pub(super) fn at_rate(address: SocketAddr, rate: u64, window: Duration) -> Result<Seen> {
    const CLIENTS: u64 = 4;
    let program = which("h2load").context("h2load is not installed")?;
    let mut command = pinned(LOAD_CORE, &program);
    command.args(["--h1", "-t1"]).arg(format!("-c{CLIENTS}")).arg(format!("-n{}", rate * window.as_secs().max(1)));
    command.arg(format!("--rps={}", rate / CLIENTS));
    let text = output(command.arg(format!("http://{address}/")))?;
    parse(&text).with_context(|| format!("the words of h2load:\n{text}"))
}

fn parse(text: &str) -> Option<Seen> {
    let number = |line: &str| line.split_whitespace().next()?.parse::<u64>().ok();
    let total = number(text.lines().find_map(|line| line.strip_prefix("requests:"))?)?;
    let good = number(text.lines().find_map(|line| line.strip_prefix("status codes:"))?)?;
    let times = text.lines().find_map(|line| line.trim().strip_prefix("time for request:"))?;
    let times: Vec<f64> = times.split_whitespace().take(3).filter_map(millis).collect();
    Some(Seen {
        requests: total,
        errors: total.saturating_sub(good),
        mean_ms: *times.get(2)?,
        longest_ms: *times.get(1)?,
    })
}

/// 1.5 for `1.50ms`, 0.2 for `200us`.
fn millis(text: &str) -> Option<f64> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0)];
    units.iter().find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

/// The longest turn of the first worker since it started, in milliseconds.
pub(super) fn longest_turn_ms(admin: SocketAddr) -> Result<f64> {
    let (_, text) = get(admin, "/stats?filter=worker_0.dispatcher.loop_duration_us")?;
    let longest = longest(&text).with_context(|| format!("the worker's turns: {text}"))?;
    Ok(longest / 1000.0)
}

/// The last number of `P100(nan,1234)`: Envoy shows the current interval and all.
fn longest(text: &str) -> Option<f64> {
    let (_, rest) = text.rsplit_once("P100(")?;
    rest.split(')').next()?.rsplit(',').next()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::{Seen, longest, parse};

    #[test]
    fn reads_what_the_tools_say() {
        let text = "requests: 2000 total, 2000 started, 1999 done, 1999 succeeded, 1 failed, 1 errored, 0 timeout\n\
                    status codes: 1998 2xx, 0 3xx, 0 4xx, 1 5xx\n\
                    time for request:       83us     12.50ms       150us        90us    98.10%\n";
        assert_eq!(parse(text), Some(Seen { requests: 2000, errors: 2, mean_ms: 0.15, longest_ms: 12.5 }));
        let text = "listener_manager.worker_0.dispatcher.loop_duration_us: P0(nan,1) P99.9(nan,200) P100(nan,3100)\n";
        assert_eq!(longest(text), Some(3100.0));
    }
}
