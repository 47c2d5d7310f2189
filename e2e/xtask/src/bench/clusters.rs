//! 10,000 static clusters, each with a virtual host and a route: memory over idle, and CPU until the proxy is ready, with
//! the children that it started on the way.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::measure::{Spread, cpu_with_children, family, rss_kib};
use super::peers::{Kind, Subject, TABLE, start_envoy_like, wait_ready};
use super::report::{Report, mib};
use super::{Bench, configs};

const COUNT: usize = 10_000;
const DEADLINE: Duration = Duration::from_secs(120);

/// A start with so many clusters.
#[derive(Debug, Clone, Copy)]
struct Start {
    rss_mib: f64,
    cpu_seconds: f64,
    wall_seconds: f64,
}

pub(crate) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report { readable: true, ..Report::default() };
    let (idle, full) = (configs::many_clusters(1), configs::many_clusters(COUNT));
    report.words.push(format!(
        "{:<22} {:>14} {:>14} {:>14} {:>12}",
        "", "MiB over idle", "KiB a cluster", "CPU s to ready", "wall s"
    ));
    let subjects = TABLE.iter().filter(|s| s.filters == 0 && matches!(s.kind, Kind::Outrigger | Kind::Envoy));
    for subject in subjects.filter(|s| bench.wants(s.name)) {
        let rounds = bench.rounds.min(3);
        let mut over_idle = Vec::new();
        let mut cpu = Vec::new();
        let mut wall = Vec::new();
        for _ in 0..rounds {
            let small = start(bench, *subject, &idle)?;
            let large = start(bench, *subject, &full)?;
            over_idle.push(large.rss_mib - small.rss_mib);
            cpu.push(large.cpu_seconds);
            wall.push(large.wall_seconds);
        }
        let (memory, cpu, wall) = (Spread::of(&over_idle), Spread::of(&cpu), Spread::of(&wall));
        let each = memory.median * 1024.0 / 10_000.0;
        report.words.push(format!(
            "{:<22} {:>14.1} {each:>14.2} {:>14.2} {:>12.2}",
            subject.name, memory.median, cpu.median, wall.median
        ));
        for (what, spread) in [("mib_over_idle", memory), ("cpu_seconds", cpu), ("wall_seconds", wall)] {
            report.extra.insert(format!("{}_{what}", subject.name), spread.median);
        }
        if subject.kind == Kind::Outrigger {
            report.target("10,000 clusters: memory over idle, MiB", Some(memory.median), 60.0);
            report.target("10,000 clusters: CPU to ready, children included, s", Some(cpu.median), 0.5);
        }
    }
    Ok(report)
}

fn start(bench: &Bench, subject: Subject, config: &str) -> Result<Start> {
    let begun = Instant::now();
    let (mut guard, admin) = start_envoy_like(bench, subject, config)?;
    wait_ready(&mut guard, admin, DEADLINE).with_context(|| format!("{} with {COUNT} clusters", subject.name))?;
    let wall_seconds = begun.elapsed().as_secs_f64();
    let pids = family(guard.pid());
    let cpu_seconds = cpu_with_children(&pids)?.total() / 1e6;
    Ok(Start { rss_mib: mib(rss_kib(&pids)), cpu_seconds, wall_seconds })
}
