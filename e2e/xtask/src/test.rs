//! `cargo xtask test`: every check and every test, with each runner's closing line and a table of durations.

use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;

use crate::progress::{Progress, short};
use crate::setup::{Purpose, prepare};
use crate::{filters, paths, shell};

/// A part of the run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Formatting and lints.
    Lint,
    /// The tests of all crates but the end-to-end ones.
    Crates,
    /// The real binaries against real peers.
    E2e,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Run the long forms too (soaks, the full swap test).
    #[arg(long)]
    full: bool,
    /// Only this part.
    #[arg(long, value_enum)]
    only: Option<Part>,
    /// Arguments for the end-to-end test runners, for example a test's name.
    #[arg(last = true)]
    rest: Vec<String>,
}

/// What became of a step.
#[derive(Debug)]
struct Line {
    name: &'static str,
    took: Duration,
    outcome: Result<Tally, String>,
}

/// The sum of the closing lines of a step's runners.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Tally {
    passed: u64,
    failed: u64,
    ignored: u64,
    runners: u64,
}

impl Tally {
    /// Adds a closing line of libtest; false if it isn't one.
    fn add(&mut self, line: &str) -> bool {
        let Some(rest) = line.strip_prefix("test result: ") else { return false };
        let count = |what: &str| -> u64 {
            let part = rest.split([';', '.']).find(|part| part.trim().ends_with(what));
            part.and_then(|part| part.split_whitespace().next()?.parse().ok()).unwrap_or_default()
        };
        self.passed += count(" passed");
        self.failed += count(" failed");
        self.ignored += count(" ignored");
        self.runners += 1;
        true
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    let mut lines = Vec::new();
    let wants = |part| args.only.is_none_or(|only| only == part);
    let mut step = |name: &'static str, work: &mut dyn FnMut() -> Result<Tally>| {
        let begun = Instant::now();
        let outcome = progress.step(name, work).map_err(|error| format!("{error:#}"));
        if let Err(reason) = &outcome {
            eprintln!("{reason}");
        }
        lines.push(Line { name, took: begun.elapsed(), outcome });
    };
    if wants(Part::E2e) {
        step("setup", &mut || prepare(&progress, Purpose::Test).map(|()| Tally::default()));
    }
    if wants(Part::Lint) {
        step("format", &mut || quiet(shell::cargo().args(["fmt", "--all", "--check"])));
        let clippy = ["clippy", "--quiet", "--workspace", "--all-targets", "--", "-D", "warnings"];
        step("clippy", &mut || quiet(shell::cargo().args(clippy)));
    }
    step("filters for Wasm", &mut || filters::build().map(|_| Tally::default()));
    if wants(Part::E2e) {
        // The whole workspace at once: another selection of packages has other features, and builds wasmtime again.
        let build = ["build", "--quiet", "--workspace", "--all-targets"];
        step("build the binaries", &mut || quiet(shell::cargo().args(build)));
    }
    if wants(Part::Crates) {
        let tests = ["test", "--workspace", "--no-fail-fast", "--exclude", "outrigger-e2e"];
        step("tests of the crates", &mut || runners(environment(&mut shell::cargo(), args.full).args(tests)));
    }
    if wants(Part::E2e) {
        let tests = ["test", "-p", "outrigger-e2e", "--no-fail-fast", "--"];
        step("end-to-end tests", &mut || {
            runners(environment(&mut shell::cargo(), args.full).args(tests).args(&args.rest))
        });
    }
    report(&progress, &lines)
}

fn environment(command: &mut Command, full: bool) -> &mut Command {
    let closing = closing_lines_file();
    let _ = std::fs::remove_file(&closing);
    command.env("OUTRIGGER_FILTER_DIR", paths::target().join("filters")).env("OUTRIGGER_CLOSING_LINES", closing);
    if full {
        command.env("OUTRIGGER_FULL", "1");
    }
    command
}

/// Where tests leave what a reader should see of a long run.
fn closing_lines_file() -> std::path::PathBuf {
    paths::target().join("closing-lines.txt")
}

fn quiet(command: &mut Command) -> Result<Tally> {
    shell::run(command).map(|()| Tally::default())
}

/// Runs `cargo test`, shows its output as it comes, and sums the closing lines.
fn runners(command: &mut Command) -> Result<Tally> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {command:?}"))?;
    let stdout = child.stdout.take().context("the output of cargo test")?;
    let mut tally = Tally::default();
    for line in BufReader::new(stdout).lines() {
        let line = line?;
        tally.add(&line);
        let is_noise = line.is_empty() || line.starts_with("running ") || line.ends_with(" ... ok");
        if !is_noise {
            println!("    {line}");
        }
    }
    if let Ok(closing) = std::fs::read_to_string(closing_lines_file()) {
        closing.lines().for_each(|line| println!("    closing: {line}"));
    }
    let status = child.wait()?;
    if !status.success() {
        bail!("{} passed, {} failed, {} ignored ({status})", tally.passed, tally.failed, tally.ignored);
    }
    Ok(tally)
}

fn report(progress: &Progress, lines: &[Line]) -> Result<()> {
    println!("\n{:<22} {:>9}  result", "step", "took");
    for line in lines {
        let result = match &line.outcome {
            Ok(tally) if tally.runners > 0 => {
                let Tally { passed, ignored, runners, .. } = tally;
                format!("ok: {passed} passed, {ignored} ignored, {runners} runners")
            }
            Ok(_) => "ok".to_owned(),
            Err(reason) => format!("FAILED: {}", reason.lines().next().unwrap_or_default()),
        };
        println!("{:<22} {:>9}  {result}", line.name, short(line.took));
    }
    let failed = lines.iter().filter(|line| line.outcome.is_err()).count();
    println!("{:<22} {:>9}", "total", short(progress.elapsed()));
    if failed > 0 {
        bail!("{failed} of {} steps failed", lines.len());
    }
    println!("all of {} steps passed", lines.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Tally;

    #[test]
    fn sums_closing_lines() {
        let mut tally = Tally::default();
        assert!(
            tally.add("test result: ok. 7 passed; 0 failed; 1 ignored; 0 measured; 0 filtered out; finished in 0.01s")
        );
        assert!(
            tally.add(
                "test result: FAILED. 3 passed; 2 failed; 0 ignored; 0 measured; 0 filtered out; finished in 1.0s"
            )
        );
        assert!(!tally.add("running 7 tests"));
        assert_eq!(tally, Tally { passed: 10, failed: 2, ignored: 1, runners: 2 });
    }
}
