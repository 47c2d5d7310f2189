//! A guest that never returns, asked five times a second, and a client of another listener on the same worker: how long that
//! one waits, beside the same without it. Envoy takes no part: there such a guest holds its worker for good.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::json;

use super::dynamic::{bootstrap, longest_turn_ms, wasm};
use crate::bench::Bench;
use crate::bench::peers::{
    Kind, LOAD_CORE, get, named_listener, pinned, start_envoy_like, start_origin, subject, wait_ready,
};
use crate::bench::report::Report;
use crate::paths::which;
use crate::shell::output;

const CONNECTIONS: u32 = 8;
/// What a callback may take by default.
const DEADLINE_MS: f64 = 10.0;

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report { readable: true, ..Report::default() };
    if !bench.wants("outrigger") {
        return Ok(report);
    }
    let origin = start_origin(bench)?;
    let filter = json!({"name": "spin", "typed_config": wasm("spin", &bench.guest, "spin")});
    let config = bootstrap(origin.h1, vec![("main", Vec::new()), ("spin", vec![filter])]);
    let (mut guard, admin) = start_envoy_like(bench, subject("outrigger", Kind::Outrigger, 0), &config)?;
    wait_ready(&mut guard, admin, Duration::from_secs(60))?;
    let (address, spinner) = (named_listener(admin, "main")?, named_listener(admin, "spin")?);
    wrk_latency(address, Duration::from_secs(1)).context("the warm-up")?;
    let quiet = wrk_latency(address, bench.window * 2)?;
    let stop = Arc::new(AtomicBool::new(false));
    let asker = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            let mut asked = 0_u32;
            while !stop.load(Ordering::Relaxed) {
                // Whatever it answers: it is the spinning that counts.
                asked += u32::from(get(spinner, "/").is_ok());
                std::thread::sleep(Duration::from_millis(200));
            }
            asked
        })
    };
    let spinning = wrk_latency(address, bench.window * 2);
    stop.store(true, Ordering::Relaxed);
    let asked = asker.join().map_err(|_| anyhow::anyhow!("the asker panicked"))?;
    let spinning = spinning?;
    report.words.push(format!("{:<22} {:>10} {:>10} {:>12}", "the neighbour", "p50 ms", "p99 ms", "longest ms"));
    for (name, seen) in [("quiet", quiet), ("beside a spinning one", spinning)] {
        report.words.push(format!("{name:<22} {:>10.2} {:>10.2} {:>12.2}", seen.p50, seen.p99, seen.longest));
        report.extra.insert(format!("{name} p99_ms"), seen.p99);
        report.extra.insert(format!("{name} longest_ms"), seen.longest);
    }
    report
        .words
        .push(format!("the spinning guest was asked {asked} times; longest turn {:.2} ms", longest_turn_ms(admin)?));
    report.target(
        "a neighbour's p99 moves beside a spinning guest by, ms",
        Some(spinning.p99 - quiet.p99),
        DEADLINE_MS,
    );
    Ok(report)
}

/// Latencies in milliseconds.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Latency {
    p50: f64,
    p99: f64,
    longest: f64,
}

fn wrk_latency(address: std::net::SocketAddr, window: Duration) -> Result<Latency> {
    let program = which("wrk").context("wrk is not installed")?;
    let mut command = pinned(LOAD_CORE, &program);
    command.args(["--latency", "-t1"]).arg(format!("-c{CONNECTIONS}")).arg(format!("-d{}s", window.as_secs().max(1)));
    let text = output(command.arg(format!("http://{address}/")))?;
    parse(&text).with_context(|| format!("the words of wrk:\n{text}"))
}

fn parse(text: &str) -> Option<Latency> {
    let units = [("us", 0.001), ("ms", 1.0), ("s", 1000.0)];
    let millis = |text: &str| units.iter().find_map(|(u, f)| Some(text.strip_suffix(u)?.parse::<f64>().ok()? * f));
    let percentile = |name: &str| millis(text.lines().find_map(|line| line.trim().strip_prefix(name))?.trim());
    let summary = text.lines().find_map(|line| line.trim().strip_prefix("Latency "))?;
    Some(Latency {
        p50: percentile("50%")?,
        p99: percentile("99%")?,
        longest: millis(summary.split_whitespace().nth(2)?)?,
    })
}

#[cfg(test)]
mod tests {
    use super::{Latency, parse};

    #[test]
    fn reads_wrk() {
        let text = "  Thread Stats   Avg      Stdev     Max   +/- Stdev\n    Latency   300.11us  101.00us  12.50ms   90.00%\n\
                    \x20 Latency Distribution\n     50%  290.00us\n     99%    1.20ms\n";
        assert_eq!(parse(text), Some(Latency { p50: 0.29, p99: 1.2, longest: 12.5 }));
    }
}
