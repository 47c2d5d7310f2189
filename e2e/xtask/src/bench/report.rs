//! What a scenario measured: rows, ratios from paired rounds, targets.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Serialize;
use serde_json::{Value, json};

use super::Bench;
use super::measure::{Cpu, Spread};
use super::peers::{Kind, Subject};
use crate::paths::{self, which};

/// The control may move by this part of its median within a run.
const CONTROL_WIDTH_MAX: f64 = 0.10;

/// One measurement: a subject in a round.
#[derive(Debug, Clone, Copy, Serialize)]
pub(crate) struct Sample {
    pub(crate) user_us: f64,
    pub(crate) system_us: f64,
    pub(crate) requests_per_second: f64,
    /// Answers that weren't 200, and socket errors.
    pub(crate) errors: u64,
}

impl Sample {
    pub(crate) fn new(cpu: Cpu, requests_per_second: f64, errors: u64) -> Sample {
        Sample { user_us: cpu.user_us, system_us: cpu.system_us, requests_per_second, errors }
    }

    pub(crate) fn total(&self) -> f64 {
        self.user_us + self.system_us
    }
}

/// A subject over all rounds.
#[derive(Debug, Clone)]
pub(crate) struct Row {
    pub(crate) subject: Subject,
    pub(crate) rounds: Vec<Sample>,
    pub(crate) system_calls: Option<f64>,
    pub(crate) rss_idle_kib: u64,
    pub(crate) rss_after_kib: u64,
}

/// A number with the limit that the product promises.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Target {
    pub(crate) name: String,
    /// The issue that promises it, where it isn't the suite's own.
    pub(crate) issue: Option<u32>,
    pub(crate) value: f64,
    pub(crate) limit: f64,
}

impl Target {
    pub(crate) fn is_met(&self) -> bool {
        self.value <= self.limit
    }

    pub(crate) fn verdict(&self) -> &'static str {
        if self.is_met() { "met" } else { "MISSED" }
    }
}

/// A scenario's result.
#[derive(Debug, Default)]
pub(crate) struct Report {
    pub(crate) rows: Vec<Row>,
    pub(crate) targets: Vec<Target>,
    /// More rows for the table, already in words (scenarios without requests).
    pub(crate) words: Vec<String>,
    pub(crate) extra: BTreeMap<String, f64>,
    pub(crate) readable: bool,
}

impl Report {
    pub(crate) fn new(rows: Vec<Row>) -> Report {
        let control = rows.iter().find(|row| row.subject.kind == Kind::Nginx);
        let readable = control.is_none_or(|row| row.cost().width() <= CONTROL_WIDTH_MAX);
        Report { rows, readable, ..Report::default() }
    }

    pub(crate) fn row(&self, name: &str) -> Option<&Row> {
        self.rows.iter().find(|row| row.subject.name == name)
    }

    /// The ratio of two rows' cost: the median of the ratios of each round.
    pub(crate) fn ratio(&self, name: &str, to: &str) -> Option<Spread> {
        paired(self.row(name)?, self.row(to)?, |mine, theirs| mine / theirs)
    }

    /// What a row costs more than another, in microseconds: the median of each round's difference.
    pub(crate) fn added(&self, name: &str, to: &str) -> Option<Spread> {
        paired(self.row(name)?, self.row(to)?, |mine, theirs| mine - theirs)
    }

    /// What one more of `x` costs: the median, least and greatest slope of each round's least-squares line through the
    /// rows, given with their `x`. All rounds' least and greatest are a 98 % interval of the median for seven rounds.
    pub(crate) fn slope(&self, rows: &[(&str, f64)]) -> Option<Spread> {
        let rows: Vec<(&Row, f64)> = rows.iter().filter_map(|(name, x)| Some((self.row(name)?, *x))).collect();
        let rounds = rows.iter().map(|(row, _)| row.rounds.len()).min().filter(|_| rows.len() >= 2)?;
        let slopes: Vec<f64> = (0..rounds)
            .map(|round| {
                least_squares(&rows.iter().map(|(row, x)| (*x, row.rounds[round].total())).collect::<Vec<_>>())
            })
            .collect();
        Some(Spread::of(&slopes))
    }

    /// A promise of the suite's own issue, if it was measured.
    pub(crate) fn target(&mut self, name: &str, value: Option<f64>, limit: f64) {
        self.promise(None, name, value, limit);
    }

    /// The same of another issue.
    pub(crate) fn target_of(&mut self, issue: u32, name: &str, value: Option<f64>, limit: f64) {
        self.promise(Some(issue), name, value, limit);
    }

    fn promise(&mut self, issue: Option<u32>, name: &str, value: Option<f64>, limit: f64) {
        self.targets.extend(value.map(|value| Target { name: name.to_owned(), issue, value, limit }));
    }

    pub(crate) fn table(&self) -> String {
        let mut out = String::new();
        if !self.rows.is_empty() {
            out.push_str(&format!(
                "{:<22} {:>8} {:>6} {:>6} {:>15} {:>8} {:>8} {:>8} {:>9} {:>9} {:>9}\n",
                "", "us/req", "user", "sys", "range", "x nginx", "x envoy", "sys/req", "req/s", "idle MiB", "after MiB"
            ));
        }
        for row in &self.rows {
            out.push_str(&self.line(row));
        }
        for words in &self.words {
            out.push_str(words);
            out.push('\n');
        }
        out
    }

    fn line(&self, row: &Row) -> String {
        let cost = row.cost();
        let ratio =
            |to: &str| self.ratio(row.subject.name, to).map_or_else(|| "-".to_owned(), |r| format!("{:.2}", r.median));
        let calls = row.system_calls.map_or_else(|| "-".to_owned(), |calls| format!("{calls:.2}"));
        let errors: u64 = row.rounds.iter().map(|sample| sample.errors).sum();
        let complaint = if errors > 0 { format!("   {errors} ERRORS") } else { String::new() };
        format!(
            "{:<22} {:>8.2} {:>6.2} {:>6.2} {:>15} {:>8} {:>8} {:>8} {:>9.0} {:>9.1} {:>9.1}{complaint}\n",
            row.subject.name,
            cost.median,
            row.spread(|sample| sample.user_us).median,
            row.spread(|sample| sample.system_us).median,
            format!("{:.2}-{:.2}", cost.min, cost.max),
            ratio("nginx"),
            ratio("envoy"),
            calls,
            row.spread(|sample| sample.requests_per_second).median,
            mib(row.rss_idle_kib),
            mib(row.rss_after_kib),
        )
    }

    fn json(&self) -> Value {
        let rows: Vec<Value> = self
            .rows
            .iter()
            .map(|row| {
                json!({
                    "name": row.subject.name, "filters": row.subject.filters, "cpu_us_per_request": row.cost(),
                    "user_us": row.spread(|s| s.user_us), "system_us": row.spread(|s| s.system_us),
                    "requests_per_second": row.spread(|s| s.requests_per_second),
                    "ratio_to_nginx": self.ratio(row.subject.name, "nginx"),
                    "ratio_to_envoy": self.ratio(row.subject.name, "envoy"),
                    "system_calls_per_request": row.system_calls,
                    "rss_idle_kib": row.rss_idle_kib, "rss_after_kib": row.rss_after_kib, "rounds": row.rounds,
                })
            })
            .collect();
        json!({"readable": self.readable, "rows": rows, "targets": self.targets, "values": self.extra})
    }
}

impl Row {
    pub(crate) fn spread(&self, of: impl Fn(&Sample) -> f64) -> Spread {
        Spread::of(&self.rounds.iter().map(of).collect::<Vec<_>>())
    }

    pub(crate) fn cost(&self) -> Spread {
        self.spread(Sample::total)
    }
}

fn paired(mine: &Row, theirs: &Row, combine: impl Fn(f64, f64) -> f64) -> Option<Spread> {
    let pairs: Vec<f64> = mine.rounds.iter().zip(&theirs.rounds).map(|(a, b)| combine(a.total(), b.total())).collect();
    (!pairs.is_empty()).then(|| Spread::of(&pairs))
}

fn least_squares(points: &[(f64, f64)]) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a handful of points")]
    let count = points.len() as f64;
    let (x, y) = points.iter().fold((0.0, 0.0), |sum, point| (sum.0 + point.0, sum.1 + point.1));
    let (mean_x, mean_y) = (x / count, y / count);
    let (xy, xx) = points
        .iter()
        .fold((0.0, 0.0), |sum, (x, y)| (sum.0 + (x - mean_x) * (y - mean_y), sum.1 + (x - mean_x).powi(2)));
    if xx > 0.0 { xy / xx } else { 0.0 }
}

#[expect(clippy::cast_precision_loss, reason = "memory of at most a few GiB")]
pub(crate) fn mib(kib: u64) -> f64 {
    kib as f64 / 1024.0
}

/// Everything, with what a reader needs in order to compare it with another run.
pub(crate) fn json(bench: &Bench, reports: &[(&str, Report)]) -> Value {
    let scenarios: serde_json::Map<String, Value> =
        reports.iter().map(|(name, report)| ((*name).to_owned(), report.json())).collect();
    json!({
        "machine": {"cpu": cpu_model(), "kernel": first_line("uname", &["-r"])},
        "versions": {
            "nginx": version("nginx", "-v"), "haproxy": version("haproxy", "-v"), "wrk": version("wrk", "-v"),
            "h2load": version("h2load", "--version"),
            "envoy": first_line(&paths::peer("envoy").to_string_lossy(), &["--version"]),
            "outrigger": first_line(&bench.outrigger.to_string_lossy(), &["--version"]),
        },
        "rounds": bench.rounds, "window_seconds": bench.window.as_secs_f64(), "quick": bench.quick,
        "scenarios": scenarios,
    })
}

fn version(program: &str, argument: &str) -> String {
    which(program).map_or_else(String::new, |path| first_line(&path.to_string_lossy(), &[argument]))
}

/// The first line that is not empty of what a program prints, on either stream.
fn first_line(program: &str, arguments: &[&str]) -> String {
    let Ok(output) = Command::new(program).args(arguments).output() else { return String::new() };
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    text.lines().find(|line| !line.trim().is_empty()).unwrap_or_default().trim().to_owned()
}

fn cpu_model() -> String {
    let text = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let line = text.lines().find(|line| line.starts_with("model name"));
    line.and_then(|line| line.split(": ").nth(1)).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::{Report, Row, Sample};
    use crate::bench::peers::TABLE;

    fn row(index: usize, costs: &[f64]) -> Row {
        let rounds = costs
            .iter()
            .map(|cost| Sample { user_us: cost / 2.0, system_us: cost / 2.0, requests_per_second: 1.0, errors: 0 })
            .collect();
        Row { subject: TABLE[index], rounds, system_calls: None, rss_idle_kib: 0, rss_after_kib: 0 }
    }

    #[test]
    fn ratios_are_of_pairs_and_a_moving_control_is_told() {
        let steady = Report::new(vec![row(0, &[10.0, 10.5, 10.0]), row(1, &[12.0, 10.5, 11.0])]);
        assert!(steady.readable);
        let ratio = steady.ratio("outrigger", "nginx").expect("both rows are there");
        assert!((ratio.median - 1.1).abs() < 1e-9, "{ratio:?}");
        let moving = Report::new(vec![row(0, &[10.0, 12.0, 10.0])]);
        assert!(!moving.readable);
        let slope = steady.slope(&[("nginx", 0.0), ("outrigger", 2.0)]).expect("two rows");
        assert!((slope.median - 0.5).abs() < 1e-9 && (slope.max - 1.0).abs() < 1e-9, "{slope:?}");
    }
}
