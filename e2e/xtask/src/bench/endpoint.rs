//! One endpoint changes among 10,000 clusters, under load: how long until requests go to the new one, and what the change
//! costs. The control plane is a delta ADS server (`bench_ads.py`) that sends just the changed assignment; a change's time
//! begins when it is handed to the stream, and ends with the first answer from the new endpoint.

use std::net::SocketAddr;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use serde_json::{Value, json};

use super::Bench;
use super::client::{Client, Latencies, OnLoadCore, open_loop};
use super::measure::{Cpu, Spread, cpu, family};
use super::peers::{
    Kind, Origin, Subject, named_listener, start_envoy_like, start_origin, start_other_origin, subject, wait_ready,
};
use super::report::Report;
use super::script::Script;

const CLUSTERS: usize = 10_000;
const CLUSTERS_QUICK: usize = 1_000;
const RATE: u32 = 4000;
const ROUNDS_MAX: usize = 3;
const READY: Duration = Duration::from_secs(180);
/// Between two probes, and between two changes.
const PROBE_PAUSE: Duration = Duration::from_micros(300);
const CHANGE_PAUSE: Duration = Duration::from_millis(10);
const EFFECTIVE_MAX: Duration = Duration::from_secs(20);

/// A window of load with changes, or without.
struct Window {
    cpu: Cpu,
    requests: f64,
    errors: u64,
    effective_ms: Vec<f64>,
}

pub(crate) fn run(bench: &Bench) -> Result<Report> {
    let clusters = if bench.quick { CLUSTERS_QUICK } else { CLUSTERS };
    let origins = [start_origin(bench)?, start_other_origin(bench)?];
    let mut report = Report { readable: true, ..Report::default() };
    report.words.push(format!(
        "{:<22} {:>9} {:>8} {:>8} {:>8} {:>11} {:>15} {:>7}",
        "", "clusters", "changes", "p50 ms", "p99 ms", "longest ms", "CPU ms a change", "errors"
    ));
    for (name, kind) in [("outrigger", Kind::Outrigger), ("envoy", Kind::Envoy)] {
        if !bench.wants(name) {
            continue;
        }
        let (effective, cpu_ms) = one(bench, subject(name, kind, 0), clusters, &origins).context(name)?;
        let [p50, p99, longest] = [500, 990, 1000].map(|wanted| effective.per_mille(wanted));
        report.words.push(format!(
            "{name:<22} {clusters:>9} {:>8} {p50:>8.2} {p99:>8.2} {longest:>11.2} {:>15.3} {:>7}",
            effective.count(),
            cpu_ms.median,
            effective.errors,
        ));
        for (what, value) in [("p50 ms", p50), ("p99 ms", p99), ("CPU ms", cpu_ms.median)] {
            report.extra.insert(format!("{name} endpoint change {what}"), value);
        }
        if kind == Kind::Outrigger {
            let change = format!("an endpoint change at {clusters} clusters");
            report.target_of(5, &format!("{change}: effective, p99 ms"), Some(p99), 20.0);
            report.target_of(5, &format!("{change}: CPU, ms"), Some(cpu_ms.median), 1.0);
            #[expect(clippy::cast_precision_loss, reason = "a handful of errors")]
            report.target_of(5, &format!("{change}: lost requests"), Some(effective.errors as f64), 0.0);
        }
    }
    Ok(report)
}

fn one(bench: &Bench, subject: Subject, clusters: usize, origins: &[Origin; 2]) -> Result<(Latencies, Spread)> {
    let mut server = Script::start("bench_ads.py", &[clusters.to_string(), origins[0].h1.to_string()])?;
    let xds: u16 = server.line()?;
    let (mut guard, admin) = start_envoy_like(bench, subject, &bootstrap(clusters, xds))?;
    wait_ready(&mut guard, admin, READY)?;
    let (address, pids) = (named_listener(admin, "main")?, family(guard.pid()));
    let _here = OnLoadCore::new()?;
    open_loop(address, RATE, Duration::from_secs(1)).context("the warm-up")?;
    let (mut effective_ms, mut cpu_ms, mut errors) = (Vec::new(), Vec::new(), 0);
    for round in 0..bench.rounds.min(ROUNDS_MAX) {
        bench.progress.say(&format!("  {}: round {}", subject.name, round + 1));
        let quiet = window(bench.window, address, &pids, None)?;
        let changing = window(bench.window, address, &pids, Some((&mut server, origins)))?;
        #[expect(clippy::cast_precision_loss, reason = "some hundred changes")]
        let changes = changing.effective_ms.len() as f64;
        ensure!(changes > 0.0, "no change became effective");
        let of_requests = quiet.cpu.total() / quiet.requests * changing.requests;
        cpu_ms.push((changing.cpu.total() - of_requests) / changes / 1000.0);
        errors += quiet.errors + changing.errors;
        effective_ms.extend(changing.effective_ms);
    }
    Ok((Latencies::of(effective_ms, errors), Spread::of(&cpu_ms)))
}

/// Where a change comes from: the server, and the origins to change between.
type Changes<'a> = (&'a mut Script, &'a [Origin; 2]);

fn window(length: Duration, address: SocketAddr, pids: &[u32], changes: Option<Changes<'_>>) -> Result<Window> {
    let before = cpu(pids)?;
    let (load, probed) = std::thread::scope(|scope| {
        let load = scope.spawn(|| open_loop(address, RATE, length));
        let probed = probe(length, address, changes);
        (load.join(), probed)
    });
    let load = load.map_err(|_| anyhow::anyhow!("the load's thread panicked"))??;
    let (probes, effective_ms) = probed?;
    #[expect(clippy::cast_precision_loss, reason = "a count of at most a few million")]
    let requests = (load.count() + probes) as f64;
    Ok(Window { cpu: cpu(pids)?.since(before), requests, errors: load.errors, effective_ms })
}

/// Asks again and again; changes the endpoint as soon as the last change is effective. How many requests, and each change's
/// time in milliseconds.
fn probe(length: Duration, address: SocketAddr, mut changes: Option<Changes<'_>>) -> Result<(usize, Vec<f64>)> {
    let mut client = Client::connect(address)?;
    let (mut requests, mut effective_ms) = (1, Vec::new());
    let mut at = answerer(client.get()?);
    let begun = Instant::now();
    while begun.elapsed() < length {
        let Some((server, origins)) = &mut changes else {
            client.get()?;
            requests += 1;
            std::thread::sleep(PROBE_PAUSE);
            continue;
        };
        let next = 1 - at;
        let told = Duration::from_nanos(server.ask(&origins[next].h1.to_string())?);
        let asked = Instant::now();
        while at != next {
            std::thread::sleep(PROBE_PAUSE);
            at = answerer(client.get()?);
            requests += 1;
            ensure!(asked.elapsed() < EFFECTIVE_MAX, "a change wasn't effective within {EFFECTIVE_MAX:?}");
        }
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?;
        effective_ms.push(now.saturating_sub(told).as_secs_f64() * 1000.0);
        std::thread::sleep(CHANGE_PAUSE);
    }
    Ok((requests, effective_ms))
}

/// The origin that wrote this body.
fn answerer(body: &[u8]) -> usize {
    usize::from(body.starts_with(b"other"))
}

/// A virtual host for each cluster; the first takes whatever no other does. All clusters come by ADS.
fn bootstrap(clusters: usize, xds: u16) -> String {
    let socket = |port: u16| json!({"socket_address": {"address": "127.0.0.1", "port_value": port}});
    let hosts: Vec<Value> = (0..clusters)
        .map(|i| {
            let domain = if i == 0 { "*".to_owned() } else { format!("h{i}.example") };
            let route = json!({"match": {"prefix": "/"}, "route": {"cluster": format!("c{i}")}});
            json!({"name": format!("h{i}"), "domains": [domain], "routes": [route]})
        })
        .collect();
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "main", "generate_request_id": false,
        "route_config": {"name": "main", "validate_clusters": false, "virtual_hosts": hosts},
        "http_filters": [{"name": "envoy.filters.http.router", "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.filters.http.router.v3.Router",
        }}],
    });
    let manager = json!({"name": "envoy.filters.network.http_connection_manager", "typed_config": manager});
    let http2 = json!({"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
        "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }});
    let ads = json!({
        "api_type": "DELTA_GRPC", "transport_api_version": "V3",
        "grpc_services": [{"envoy_grpc": {"cluster_name": "xds"}}],
    });
    json!({
        "admin": {"address": socket(0)},
        "node": {"id": "bench", "cluster": "bench"},
        "dynamic_resources": {"ads_config": ads, "cds_config": {"ads": {}, "resource_api_version": "V3"}},
        "static_resources": {
            "listeners": [{"name": "main", "address": socket(0), "filter_chains": [{"filters": [manager]}]}],
            "clusters": [{
                "name": "xds", "type": "STATIC", "connect_timeout": "2s", "typed_extension_protocol_options": http2,
                "load_assignment": {"cluster_name": "xds", "endpoints": [{"lb_endpoints": [
                    {"endpoint": {"address": socket(xds)}},
                ]}]},
            }],
        },
    })
    .to_string()
}
