//! Another module each second under a steady load: lost requests, the longest wait of a client, the longest turn of the
//! worker; beside the same without swaps.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};

use super::dynamic::{Seen, at_rate, bootstrap, discovered, longest_turn_ms, publish, wasm};
use crate::bench::peers::{
    Kind, Origin, Subject, get_header, named_listener, start_envoy_like, start_origin, subject, wait_ready,
};
use crate::bench::report::Report;
use crate::bench::{Bench, configs};
use crate::shell::wait_for;

const RATE: u64 = 2000;
const FILTER: &str = "header-policy";
const DEADLINE: Duration = Duration::from_secs(60);

/// One run of one proxy.
#[derive(Debug, Default)]
struct Run {
    seen: Seen,
    turn_ms: f64,
    swaps: usize,
}

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let origin = start_origin(bench)?;
    let mut report = Report { readable: true, ..Report::default() };
    report.words.push(format!(
        "{:<22} {:>6} {:>9} {:>7} {:>9} {:>12} {:>16}",
        "", "swaps", "requests", "errors", "mean ms", "longest ms", "longest turn ms"
    ));
    for (name, kind) in [("outrigger", Kind::Outrigger), ("envoy", Kind::Envoy)] {
        if !bench.wants(name) {
            continue;
        }
        for swapping in [false, true] {
            let once = one(bench, subject(name, kind, 1), &origin, swapping)?;
            let label = if swapping { "swapping" } else { "quiet" };
            let Run { seen, turn_ms, swaps } = once;
            report.words.push(format!(
                "{:<22} {swaps:>6} {:>9} {:>7} {:>9.2} {:>12.2} {turn_ms:>16.2}",
                format!("{name} {label}"),
                seen.requests,
                seen.errors,
                seen.mean_ms,
                seen.longest_ms,
            ));
            report.extra.insert(format!("{name} {label} longest_ms"), seen.longest_ms);
            report.extra.insert(format!("{name} {label} longest_turn_ms"), turn_ms);
            if kind == Kind::Outrigger && swapping {
                #[expect(clippy::cast_precision_loss, reason = "a count of at most a few million")]
                report.target("swap each second: errors", Some(seen.errors as f64), 0.0);
                report.target("swap each second: longest turn of the worker, ms", Some(turn_ms), 1.0);
            }
        }
    }
    Ok(report)
}

fn one(bench: &Bench, subject: Subject, origin: &Origin, swapping: bool) -> Result<Run> {
    let seconds = if bench.quick { 5 } else { 20 };
    let file = bench.file(&format!("{}-ecds.json", subject.name));
    let module = std::fs::read(&bench.header_policy)?;
    let next = |version: usize| -> Result<()> {
        let code = variant(bench, &module, version)?;
        publish(&file, version, FILTER, &wasm(FILTER, &code, &configs::header_policy(0, &format!("g{version}"))))
    };
    next(0)?;
    let config = bootstrap(origin.h1, vec![("main", vec![discovered(FILTER, &file)])]);
    let (mut guard, admin) = start_envoy_like(bench, subject, &config)?;
    wait_ready(&mut guard, admin, DEADLINE).context(subject.name)?;
    let address = named_listener(admin, "main")?;
    at_rate(address, RATE, Duration::from_secs(1)).context("the warm-up")?;
    let load = std::thread::spawn(move || at_rate(address, RATE, Duration::from_secs(seconds)));
    let mut swaps = 0;
    while swapping && !load.is_finished() {
        swaps += 1;
        next(swaps)?;
        std::thread::sleep(Duration::from_secs(1));
    }
    let seen = load.join().map_err(|_| anyhow::anyhow!("the load's thread panicked"))??;
    // The last one serves: so all of them were taken.
    let last = format!("g{swaps}");
    wait_for(DEADLINE, "the last module serves", || {
        (get_header(address, "/", "x-filter-0").ok()?? == last).then_some(())
    })?;
    Ok(Run { seen, turn_ms: longest_turn_ms(admin)?, swaps })
}

/// The same code with other bytes, and so another module: a custom section at the end.
fn variant(bench: &Bench, module: &[u8], version: usize) -> Result<PathBuf> {
    let path = bench.file(&format!("variant-{version}.wasm"));
    let mut payload = vec![1, b'v'];
    payload.extend_from_slice(&version.to_le_bytes());
    let mut bytes = module.to_vec();
    bytes.extend([0, u8::try_from(payload.len()).unwrap_or_default()]);
    bytes.extend(payload);
    std::fs::write(&path, bytes)?;
    Ok(path)
}
