//! HTTP/2 by prior knowledge at a fixed rate: at full speed the less busy proxy is punished, because it batches less.
//! nginx cannot speak HTTP/2 to an origin; it takes part as the control, with HTTP/1 behind it.

use std::time::Duration;

use anyhow::{Context, Result};

use super::Bench;
use super::http1::{Load, run_rounds};
use super::peers::{LOAD_CORE, Running, pinned, start, start_origin, table};
use super::report::Report;
use crate::paths::which;
use crate::shell::output;

const CLIENTS: u32 = 4;
const STREAMS: u32 = 16;

pub(crate) fn at_20k(bench: &Bench) -> Result<Report> {
    let mut report = at(bench, 20_000)?;
    let ratio = report.ratio("outrigger", "envoy").map(|r| r.median);
    report.target("h2c at 20,000 requests a second: ratio to Envoy", ratio, 0.75);
    report.target_of(5, "h2c at 20,000 requests a second: ratio to Envoy", ratio, 0.65);
    Ok(report)
}

pub(crate) fn at_10k(bench: &Bench) -> Result<Report> {
    at(bench, 10_000)
}

fn at(bench: &Bench, rate: u32) -> Result<Report> {
    let origin = start_origin(bench)?;
    let rows = run_rounds(
        bench,
        &table(bench, 0),
        |subject| start(bench, subject, &origin, true),
        |proxy, window| h2load(proxy, rate, window),
    )?;
    Ok(Report::new(rows))
}

fn h2load(proxy: &Running, rate: u32, window: Duration) -> Result<Load> {
    let program = which("h2load").context("h2load is not installed")?;
    let mut command = pinned(LOAD_CORE, &program);
    let seconds = u32::try_from(window.as_secs().max(1)).unwrap_or(1);
    command.arg(format!("-c{CLIENTS}")).arg(format!("-m{STREAMS}")).arg("-t1");
    command.arg(format!("-n{}", rate * seconds)).arg(format!("--rps={}", rate / CLIENTS));
    let text = output(command.arg(format!("http://{}/", proxy.address)))?;
    parse(&text).with_context(|| format!("the words of h2load:\n{text}"))
}

fn parse(text: &str) -> Option<Load> {
    let line = text.lines().find(|line| line.starts_with("requests:"))?;
    let count = |what: &str| -> Option<u64> {
        line.trim_start_matches("requests:")
            .split(',')
            .find(|part| part.trim().ends_with(what))?
            .split_whitespace()
            .next()?
            .parse()
            .ok()
    };
    let codes = text.lines().find(|line| line.starts_with("status codes:"))?;
    let good: u64 = codes.trim_start_matches("status codes:").split_whitespace().next()?.parse().ok()?;
    let finished = text.lines().find_map(|line| line.strip_prefix("finished in "))?.split(',').next()?;
    let seconds = match finished.strip_suffix("ms") {
        Some(millis) => millis.parse::<f64>().ok()? / 1000.0,
        None => finished.strip_suffix('s')?.parse().ok()?,
    };
    let (done, total) = (count("done")?, count("total")?);
    #[expect(clippy::cast_precision_loss, reason = "a count of at most a few million")]
    Some(Load { requests: done as f64, seconds, errors: total.saturating_sub(good) })
}

#[cfg(test)]
mod tests {
    use super::{Load, parse};

    #[test]
    fn reads_h2load() {
        let text = "finished in 4.01s, 19950.12 req/s, 1.2MB/s\nrequests: 80000 total, 80000 started, 79998 done, 79998 succeeded, 2 failed, 2 errored, 0 timeout\n\
                    status codes: 79990 2xx, 0 3xx, 0 4xx, 8 5xx\n";
        assert_eq!(parse(text), Some(Load { requests: 79_998.0, seconds: 4.01, errors: 10 }));
    }
}
