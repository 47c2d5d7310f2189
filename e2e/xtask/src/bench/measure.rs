//! What the kernel says about a process: CPU time, memory, system calls.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::paths::which;
use crate::shell::{Guard, output, wait_for};
use std::time::Duration;

/// User and system time in microseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Cpu {
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
}

impl Cpu {
    pub(crate) fn total(self) -> f64 {
        self.user_us + self.system_us
    }

    pub(crate) fn since(self, before: Cpu) -> Cpu {
        Cpu { user_us: self.user_us - before.user_us, system_us: self.system_us - before.system_us }
    }

    pub(crate) fn per(self, requests: f64) -> Cpu {
        Cpu { user_us: self.user_us / requests, system_us: self.system_us / requests }
    }
}

/// The fields of `/proc/PID/stat` after the program's name.
fn stat(pid: u32) -> Result<Vec<u64>> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/stat")).with_context(|| format!("process {pid}"))?;
    let rest = text.rsplit_once(") ").map(|(_, rest)| rest).context("the fields of /proc/PID/stat")?;
    Ok(rest.split(' ').map(|field| field.trim().parse().unwrap_or_default()).collect())
}

const PARENT: usize = 1;
const USER: usize = 11;
const SYSTEM: usize = 12;
const CHILDREN_USER: usize = 13;
const CHILDREN_SYSTEM: usize = 14;

/// The process and everything that descends from it (nginx' worker).
pub(crate) fn family(pid: u32) -> Vec<u32> {
    let mut children: BTreeMap<u64, Vec<u32>> = BTreeMap::new();
    for entry in std::fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(id) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        if let Ok(fields) = stat(id) {
            children.entry(fields[PARENT]).or_default().push(id);
        }
    }
    let mut all = vec![pid];
    let mut next = 0;
    while next < all.len() {
        all.extend(children.get(&u64::from(all[next])).into_iter().flatten());
        next += 1;
    }
    all
}

/// CPU time of the processes' own threads.
pub(crate) fn cpu(pids: &[u32]) -> Result<Cpu> {
    sum(pids, &[USER], &[SYSTEM])
}

/// CPU time of the processes with the children that they have waited for.
pub(crate) fn cpu_with_children(pids: &[u32]) -> Result<Cpu> {
    sum(pids, &[USER, CHILDREN_USER], &[SYSTEM, CHILDREN_SYSTEM])
}

fn sum(pids: &[u32], user: &[usize], system: &[usize]) -> Result<Cpu> {
    let tick_us = 1e6 / ticks_per_second();
    let mut cpu = Cpu::default();
    for pid in pids {
        let fields = stat(*pid)?;
        #[expect(clippy::cast_precision_loss, reason = "clock ticks of minutes")]
        let ticks = |at: &[usize]| at.iter().map(|i| fields.get(*i).copied().unwrap_or_default()).sum::<u64>() as f64;
        cpu.user_us += ticks(user) * tick_us;
        cpu.system_us += ticks(system) * tick_us;
    }
    Ok(cpu)
}

fn ticks_per_second() -> f64 {
    output(Command::new("getconf").arg("CLK_TCK")).ok().and_then(|text| text.trim().parse().ok()).unwrap_or(100.0)
}

/// Resident memory of the processes in KiB.
pub(crate) fn rss_kib(pids: &[u32]) -> u64 {
    let one = |pid: &u32| -> Option<u64> {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix("VmRSS:"))?;
        line.trim().trim_end_matches("kB").trim().parse().ok()
    };
    pids.iter().filter_map(one).sum()
}

/// Counts the system calls of the processes while `work` runs.
pub(crate) fn system_calls(pids: &[u32], dir: &Path, work: impl FnOnce() -> Result<f64>) -> Result<f64> {
    let strace = which("strace").context("strace is not installed")?;
    let table = dir.join("strace.txt");
    let log = dir.join("strace.log");
    let _ = std::fs::remove_file(&table);
    let mut command = Command::new(strace);
    command.args(["-c", "-f", "-o"]).arg(&table);
    for pid in pids {
        command.args(["-p", &pid.to_string()]);
    }
    let mut tracer = Guard::spawn(&mut command, &log)?;
    wait_for(Duration::from_secs(10), "strace attaches", || {
        let attached = std::fs::read_to_string(&log).unwrap_or_default();
        (attached.matches("attached").count() >= pids.len()).then_some(())
    })?;
    let requests = work()?;
    tracer.signal("INT");
    tracer.wait()?;
    let text = std::fs::read_to_string(&table)?;
    Ok(count_calls(&text) / requests.max(1.0))
}

/// The total of strace's table.
fn count_calls(table: &str) -> f64 {
    let line = table.lines().rev().find(|line| line.trim_end().ends_with("total"));
    let fields: Vec<&str> = line.unwrap_or_default().split_whitespace().collect();
    fields.get(3).and_then(|calls| calls.parse().ok()).unwrap_or_default()
}

/// Middle, least and greatest of some values.
#[derive(Debug, Clone, Copy, Default, serde::Serialize)]
pub(crate) struct Spread {
    pub(crate) median: f64,
    pub(crate) min: f64,
    pub(crate) max: f64,
}

impl Spread {
    pub(crate) fn of(values: &[f64]) -> Spread {
        let mut sorted = values.to_vec();
        sorted.sort_by(f64::total_cmp);
        let (Some(min), Some(max)) = (sorted.first(), sorted.last()) else { return Spread::default() };
        let middle = sorted.len() / 2;
        let median =
            if sorted.len() % 2 == 1 { sorted[middle] } else { f64::midpoint(sorted[middle - 1], sorted[middle]) };
        Spread { median, min: *min, max: *max }
    }

    /// How far the values lie apart, as a part of the median.
    pub(crate) fn width(self) -> f64 {
        if self.median > 0.0 { (self.max - self.min) / self.median } else { 0.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::{Spread, count_calls};

    #[test]
    fn reads_strace_tables() {
        let table = "% time     seconds  usecs/call     calls    errors syscall\n------ --\n 50.00    0.1   1   1000     20 read\n\
                     ------ --\n100.00    0.242000           3     80211      1123 total\n";
        assert!((count_calls(table) - 80_211.0).abs() < 0.1);
    }

    #[test]
    fn medians() {
        for (values, median) in [(vec![3.0, 1.0, 2.0], 2.0), (vec![4.0, 1.0], 2.5), (vec![], 0.0)] {
            assert!((Spread::of(&values).median - median).abs() < 1e-9, "{values:?}");
        }
    }
}
