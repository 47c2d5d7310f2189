//! A filter with a thousand configurations, one for each route: what they take of memory beside the same routes with the
//! filter's own, after every route was asked. Envoy takes no part: its Wasm filter has no configuration by route.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::dynamic::{Routed, routed, to_origin, wasm};
use crate::bench::measure::{Spread, family, rss_kib};
use crate::bench::peers::{
    Kind, Origin, get, get_header, named_listener, start_envoy_like, start_origin, subject, wait_ready,
};
use crate::bench::report::{Report, mib};
use crate::bench::{Bench, configs};
use crate::shell::wait_for;

const COUNT: usize = 1000;
const FILTER: &str = "header-policy";
const OWN: &str = "type.googleapis.com/outrigger.filters.http.wasm.v1.Wasm";
const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report { readable: true, ..Report::default() };
    if !bench.wants("outrigger") {
        return Ok(report);
    }
    let origin = start_origin(bench)?;
    let mut added = Vec::new();
    report.words.push(format!("{:<22} {:>10} {:>16}", "", "MiB", "guest KiB"));
    for round in 0..bench.rounds.min(3) {
        let [one, many] = [false, true].map(|own| start(bench, &origin, own));
        let (one, many) = (one?, many?);
        added.push(many.rss_mib - one.rss_mib);
        for (name, seen) in [("one configuration", one), ("1,000 by route", many)] {
            let name = format!("{name}, round {}", round + 1);
            report.words.push(format!("{name:<28} {:>4.1} {:>16}", seen.rss_mib, seen.guest_kib));
        }
        report.extra.insert("guest_kib_added".to_owned(), many.guest_kib - one.guest_kib);
    }
    let added = Spread::of(&added);
    report.extra.insert("mib_added".to_owned(), added.median);
    report.target("1,000 route configurations over one: memory, MiB", Some(added.median), 8.0);
    Ok(report)
}

#[derive(Debug, Clone, Copy)]
struct Seen {
    rss_mib: f64,
    /// Linear memory.
    guest_kib: f64,
}

fn start(bench: &Bench, origin: &Origin, own: bool) -> Result<Seen> {
    let route = |index: usize| {
        let mut route = to_origin(&format!("/{index}/"));
        if own {
            let value = configs::header_policy(0, &index.to_string());
            let configuration = json!({"@type": "type.googleapis.com/google.protobuf.StringValue", "value": value});
            route["typed_per_filter_config"] =
                json!({FILTER: {"@type": OWN, "config": {"configuration": configuration}}});
        }
        route
    };
    let filter = json!({
        "name": FILTER, "typed_config": wasm(FILTER, &bench.header_policy, &configs::header_policy(0, "own")),
    });
    let routes: Vec<Value> = (0..COUNT).map(route).collect();
    let config = routed(origin.h1, vec![Routed { name: "main", filters: vec![filter], routes }]);
    let (mut guard, admin) = start_envoy_like(bench, subject("outrigger", Kind::Outrigger, 1), &config)?;
    wait_ready(&mut guard, admin, DEADLINE)?;
    let address = named_listener(admin, "main")?;
    for index in 0..COUNT {
        let stamp = get_header(address, &format!("/{index}/"), "x-filter-0")?;
        let expected = if own { index.to_string() } else { "own".to_owned() };
        ensure!(stamp.as_deref() == Some(expected.as_str()), "route {index} is stamped {stamp:?}");
    }
    settled(|| Ok(rss_kib(&family(guard.pid()))))?;
    Ok(Seen { rss_mib: mib(rss_kib(&family(guard.pid()))), guest_kib: guest_bytes(admin)? / 1024.0 })
}

/// Waits until memory stays as it is: what only starting needed is given back a moment after that.
fn settled(rss: impl Fn() -> Result<u64>) -> Result<()> {
    let mut before = rss()?;
    wait_for(DEADLINE, "steady memory", || {
        std::thread::sleep(Duration::from_secs(1));
        let now = rss().ok()?;
        (std::mem::replace(&mut before, now) == now).then_some(())
    })
}

fn guest_bytes(admin: SocketAddr) -> Result<f64> {
    let (_, text) = get(admin, "/stats?filter=vm_memory_bytes")?;
    let values = text.lines().filter_map(|line| line.rsplit_once(": ")?.1.trim().parse::<f64>().ok());
    let sum = values.sum();
    ensure!(sum > 0.0, "no memory of VMs in {text}");
    Ok(sum)
}
