//! How long a module takes to serve: a start with an empty cache, a start with the compiled form on disk, and, inside the
//! process, compiling, mapping and starting a VM.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};

use super::dynamic::{bootstrap, wasm};
use crate::bench::measure::{Spread, cpu_with_children, family};
use crate::bench::peers::{Kind, Subject, start_envoy_like, subject, wait_ready};
use crate::bench::report::Report;
use crate::bench::{Bench, configs};
use crate::guests;
use crate::shell::output;

const DEADLINE: Duration = Duration::from_secs(60);

pub(super) fn run(bench: &Bench) -> Result<Report> {
    let mut report = Report { readable: true, ..Report::default() };
    guests::build(&bench.progress)?;
    let policy = configs::header_policy(0, "response");
    let go = guests::folder().join("go.wasm");
    let modules = [("header-policy", bench.header_policy.clone(), policy.as_str()), ("the Go guest", go, "tuned")];
    report.words.push(format!("{:<34} {:>14} {:>14}", "start to ready, over no filter", "wall ms", "CPU ms"));
    for (name, module, configuration) in &modules {
        starts(bench, &mut report, name, module, configuration)?;
    }
    if let Some(hotpath) = &bench.hotpath {
        inside(&mut report, hotpath, &modules)?;
    }
    Ok(report)
}

/// Starts with and without the module, cold and cached.
fn starts(bench: &Bench, report: &mut Report, name: &str, module: &Path, configuration: &str) -> Result<()> {
    let with = bootstrap(9, vec![("main", vec![filter(module, configuration)])]);
    let without = bootstrap(9, vec![("main", Vec::new())]);
    for (program, kind) in [("outrigger", Kind::Outrigger), ("envoy", Kind::Envoy)] {
        if !bench.wants(program) {
            continue;
        }
        let row = subject(program, kind, 0);
        let (mut cold, mut cached) = (Vec::new(), Vec::new());
        for _ in 0..bench.rounds.min(5) {
            let cache = bench.file(program).join("cache");
            let _ = std::fs::remove_dir_all(&cache);
            let base = start(bench, row, &without)?;
            let first = start(bench, row, &with)?;
            cold.push((first.0 - base.0, first.1 - base.1));
            if kind == Kind::Outrigger {
                let again = start(bench, row, &with)?;
                cached.push((again.0 - base.0, again.1 - base.1));
            }
        }
        for (how, samples) in [("cold", cold), ("cached", cached)] {
            if samples.is_empty() {
                continue;
            }
            let of = |pick: fn(&(f64, f64)) -> f64| Spread::of(&samples.iter().map(pick).collect::<Vec<_>>()).median;
            let (wall, cpu) = (of(|s| s.0), of(|s| s.1));
            let label = format!("{program} {name} {how}");
            report.words.push(format!("{label:<34} {wall:>14.1} {cpu:>14.1}"));
            report.extra.insert(format!("{label} wall_ms"), wall);
            report.extra.insert(format!("{label} cpu_ms"), cpu);
        }
    }
    Ok(())
}

fn filter(module: &Path, configuration: &str) -> serde_json::Value {
    serde_json::json!({
        "name": "envoy.filters.http.wasm", "typed_config": wasm("header-policy", module, configuration),
    })
}

/// Wall time until ready, and CPU time with the children's, in milliseconds.
fn start(bench: &Bench, subject: Subject, config: &str) -> Result<(f64, f64)> {
    let begun = Instant::now();
    let (mut guard, admin) = start_envoy_like(bench, subject, config)?;
    wait_ready(&mut guard, admin, DEADLINE).context(subject.name)?;
    let wall_ms = begun.elapsed().as_secs_f64() * 1000.0;
    let cpu_ms = cpu_with_children(&family(guard.pid()))?.total() / 1000.0;
    Ok((wall_ms, cpu_ms))
}

/// What the host itself takes, from the program `hotpath`.
fn inside(report: &mut Report, hotpath: &Path, modules: &[(&str, PathBuf, &str)]) -> Result<()> {
    for (name, module, configuration) in modules {
        let text = output(Command::new(hotpath).arg(module).arg(configuration))?;
        let line = text.lines().find(|line| line.starts_with(&*module.to_string_lossy()));
        let line = line.with_context(|| format!("the words of hotpath:\n{text}"))?;
        for what in ["compile", "load", "start"] {
            let ms = field(line, what).with_context(|| format!("{what} in {line}"))?;
            report.words.push(format!("{:<34} {ms:>14.2}", format!("in process: {what} {name}")));
            report.extra.insert(format!("in process {what} {name} ms"), ms);
            if (what, *name) == ("load", "header-policy") {
                report.target("cached load of header-policy, ms", Some(ms), 1.5);
            }
        }
    }
    Ok(())
}

/// 1.2 for `load 1.2ms`.
fn field(line: &str, name: &str) -> Option<f64> {
    let part = line.split(", ").find_map(|part| part.trim().strip_prefix(name)?.strip_prefix(' '))?;
    let units = [("µs", 0.001), ("ms", 1.0), ("s", 1000.0)];
    units.iter().find_map(|(unit, factor)| Some(part.strip_suffix(unit)?.parse::<f64>().ok()? * factor))
}

#[cfg(test)]
mod tests {
    use super::field;

    #[test]
    fn reads_hotpath() {
        let line =
            "/f.wasm: 130000 B of wasm, 370000 B of code, compile 160.1ms, load 310.5µs, start 1.2ms, memory 1 KiB";
        assert_eq!(field(line, "compile"), Some(160.1));
        assert!(field(line, "load").is_some_and(|ms| (ms - 0.3105).abs() < 1e-9));
        assert_eq!(field(line, "start"), Some(1.2));
    }
}
