//! HTTP/1 keep-alive, closed loop with wrk: the cost of a request at saturation of the load side.

use std::time::Duration;

use anyhow::{Context, Result, bail};

use super::Bench;
use super::measure::{cpu, rss_kib, system_calls};
use super::peers::{LOAD_CORE, Running, Subject, pinned, start, start_origin, table};
use super::report::{Report, Row, Sample, mib};
use crate::paths::which;
use crate::shell::output;

/// 32 connections, with and without filters: the main table.
pub(crate) fn c32(bench: &Bench) -> Result<Report> {
    let mut report = Report::new(rounds(bench, 32, 4)?);
    let ratio = report.ratio("outrigger", "nginx").map(|r| r.median);
    report.target("plain HTTP/1, 32 connections: ratio to nginx", ratio, 1.2);
    report.target_of(5, "plain HTTP/1, 32 connections: ratio to nginx", ratio, 1.0);
    let first = report.added("outrigger +1 filter", "outrigger").map(|s| s.median);
    report.target("one header filter adds, us", first, 2.0);
    let further = report.added("outrigger +4 filters", "outrigger +1 filter").map(|s| s.median / 3.0);
    report.target("each further header filter adds, us", further, 1.2);
    let idle = |name: &str| report.row(name).map(|row| mib(row.rss_idle_kib));
    let (plain, filtered) = (idle("outrigger"), idle("outrigger +1 filter"));
    report.target("idle memory, MiB", plain, 15.0);
    report.target("idle memory with one filter, MiB", filtered, 25.0);
    Ok(report)
}

/// 256 connections, without filters.
pub(crate) fn c256(bench: &Bench) -> Result<Report> {
    let mut report = Report::new(rounds(bench, 256, 0)?);
    let ratio = report.ratio("outrigger", "nginx").map(|r| r.median);
    report.target("plain HTTP/1, 256 connections: ratio to nginx", ratio, 1.2);
    report.target_of(5, "plain HTTP/1, 256 connections: ratio to nginx", ratio, 0.85);
    Ok(report)
}

fn rounds(bench: &Bench, connections: u32, filters_max: usize) -> Result<Vec<Row>> {
    let origin = start_origin(bench)?;
    run_rounds(
        bench,
        &table(bench, filters_max),
        |subject| start(bench, subject, &origin, false),
        |running, window| wrk(running, connections, window),
    )
}

/// Starts every subject, measures them round by round in alternating order, then counts system calls.
pub(crate) fn run_rounds(
    bench: &Bench,
    subjects: &[Subject],
    start: impl Fn(Subject) -> Result<Running>,
    load: impl Fn(&Running, Duration) -> Result<Load>,
) -> Result<Vec<Row>> {
    let mut running = Vec::new();
    let mut rows = Vec::new();
    for subject in subjects {
        let proxy = start(*subject)?;
        let rss_idle_kib = rss_kib(&proxy.pids());
        rows.push(Row { subject: *subject, rounds: Vec::new(), system_calls: None, rss_idle_kib, rss_after_kib: 0 });
        running.push(proxy);
    }
    for proxy in &running {
        load(proxy, Duration::from_secs(1)).context("the warm-up")?;
    }
    for round in 0..bench.rounds {
        bench.progress.say(&format!("  round {} of {}", round + 1, bench.rounds));
        let forward = 0..running.len();
        let order: Vec<usize> = if round % 2 == 0 { forward.collect() } else { forward.rev().collect() };
        for index in order {
            let sample = measure(&running[index], |proxy| load(proxy, bench.window));
            let name = rows[index].subject.name;
            rows[index].rounds.push(sample.context(name)?);
        }
    }
    for (row, proxy) in rows.iter_mut().zip(&running) {
        row.rss_after_kib = rss_kib(&proxy.pids());
        let counted = system_calls(&proxy.pids(), &bench.dir, || Ok(load(proxy, Duration::from_secs(1))?.requests));
        match counted {
            Ok(calls) => row.system_calls = Some(calls),
            Err(error) => bench.progress.say(&format!("  no system calls for {}: {error:#}", row.subject.name)),
        }
    }
    Ok(rows)
}

fn measure(proxy: &Running, load: impl FnOnce(&Running) -> Result<Load>) -> Result<Sample> {
    let pids = proxy.pids();
    let before = cpu(&pids)?;
    let load = load(proxy)?;
    if load.requests < 1.0 {
        bail!("no request was answered");
    }
    let used = cpu(&pids)?.since(before);
    Ok(Sample::new(used.per(load.requests), load.requests / load.seconds, load.errors))
}

/// What a load tool reports.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Load {
    pub(crate) requests: f64,
    pub(crate) seconds: f64,
    pub(crate) errors: u64,
}

pub(crate) fn wrk(proxy: &Running, connections: u32, window: Duration) -> Result<Load> {
    wrk_with(proxy, connections, window, &[])
}

/// The same with more arguments.
pub(crate) fn wrk_with(proxy: &Running, connections: u32, window: Duration, arguments: &[&str]) -> Result<Load> {
    let program = which("wrk").context("wrk is not installed")?;
    let mut command = pinned(LOAD_CORE, &program);
    command.arg("-t1").arg(format!("-c{connections}")).arg(format!("-d{}s", window.as_secs().max(1)));
    let text = output(command.args(arguments).arg(format!("{}://{}{}", proxy.scheme, proxy.address, proxy.path)))?;
    parse_wrk(&text).with_context(|| format!("the words of wrk:\n{text}"))
}

pub(crate) fn parse_wrk(text: &str) -> Option<Load> {
    let line = text.lines().find(|line| line.contains(" requests in "))?;
    let mut words = line.split_whitespace();
    let requests = words.next()?.parse().ok()?;
    let seconds = seconds(words.nth(2)?.trim_end_matches(','))?;
    let number =
        |line: &str| line.split(|c: char| !c.is_ascii_digit()).filter_map(|n| n.parse::<u64>().ok()).sum::<u64>();
    let wrong = text.lines().filter(|line| line.contains("Non-2xx") || line.contains("Socket errors"));
    let errors = wrong.map(|line| number(line.split(':').skip(1).collect::<String>().as_str())).sum();
    Some(Load { requests, seconds, errors })
}

/// 4.02 for `4.02s`, 61.2 for `1.02m`.
fn seconds(text: &str) -> Option<f64> {
    match text.strip_suffix('m') {
        Some(minutes) => minutes.parse::<f64>().ok().map(|m| m * 60.0),
        None => text.strip_suffix('s')?.parse().ok(),
    }
}

#[cfg(test)]
mod tests {
    use super::{Load, parse_wrk};

    #[test]
    fn reads_wrk() {
        let clean = "Running 4s test @ http://127.0.0.1:1/\n  1 threads and 32 connections\n  204800 requests in 4.10s, 30.1MB read\n\
                     Requests/sec:  49951.22\n";
        assert_eq!(parse_wrk(clean), Some(Load { requests: 204_800.0, seconds: 4.1, errors: 0 }));
        let bad = "  10 requests in 1.02m, 1MB read\n  Socket errors: connect 0, read 2, write 0, timeout 1\n  Non-2xx or 3xx responses: 7\n";
        assert_eq!(parse_wrk(bad), Some(Load { requests: 10.0, seconds: 61.2, errors: 10 }));
    }
}
