//! `cargo xtask test`: every check and every test, with each runner's closing line and a table of durations.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use clap::ValueEnum;
use serde_json::Value;

use crate::progress::{Progress, short};
use crate::setup::{Purpose, prepare};
use crate::{filters, guests, paths, shell};

/// The package of the end-to-end tests.
const E2E: &str = "outrigger-e2e";

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
    /// The tally, or an error that says it.
    fn verdict(self, is_ok: bool) -> Result<Tally> {
        if !is_ok {
            bail!("{} passed, {} failed, {} ignored, {} runners", self.passed, self.failed, self.ignored, self.runners);
        }
        Ok(self)
    }

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
        step("guests of four SDKs", &mut || guests::build(&progress).map(|()| Tally::default()));
    }
    // The whole workspace at once, always: another selection of packages has other features, and builds wasmtime again.
    let build = ["build", "--quiet", "--workspace", "--all-targets"];
    if wants(Part::Crates) || wants(Part::E2e) {
        step("build", &mut || quiet(shell::cargo().args(build)));
    }
    let run_all = |is_e2e: bool, arguments: &[String]| {
        let all = programs()?;
        run_programs(&progress, all.iter().filter(|p| (p.package == E2E) == is_e2e), args.full, arguments)
    };
    if wants(Part::Crates) {
        step("tests of the crates", &mut || run_all(false, &[]));
    }
    if wants(Part::E2e) {
        step("end-to-end tests", &mut || run_all(true, &args.rest));
    }
    if wants(Part::Crates) {
        step("examples in the docs", &mut || {
            let mut tally = Tally::default();
            let is_ok = run_one(shell::cargo().args(["test", "--quiet", "--workspace", "--doc"]), &mut tally)?;
            tally.verdict(is_ok)
        });
    }
    report(&progress, &lines)
}

fn environment(command: &mut Command, full: bool) -> &mut Command {
    command.env("OUTRIGGER_FILTER_DIR", paths::target().join("filters"));
    command.env("OUTRIGGER_GUEST_DIR", guests::folder());
    command.env("OUTRIGGER_CLOSING_LINES", closing_lines_file());
    if full {
        command.env("OUTRIGGER_FULL", "1");
    }
    command
}

/// Where tests leave what a reader should see of a long run.
fn closing_lines_file() -> PathBuf {
    paths::target().join("closing-lines.txt")
}

fn quiet(command: &mut Command) -> Result<Tally> {
    shell::run(command).map(|()| Tally::default())
}

/// A test runner that cargo has built.
#[derive(Debug)]
struct Program {
    package: String,
    target: String,
    path: PathBuf,
    dir: PathBuf,
}

/// Every test runner of the workspace, as cargo lists them.
fn programs() -> Result<Vec<Program>> {
    let list = ["test", "--quiet", "--workspace", "--no-run", "--message-format=json"];
    let text = shell::output(shell::cargo().args(list))?;
    let messages = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    Ok(messages.filter(|message| message["profile"]["test"] == true).filter_map(|message| program(&message)).collect())
}

fn program(message: &Value) -> Option<Program> {
    let dir = Path::new(message["manifest_path"].as_str()?).parent()?;
    // An id ends in `NAME#VERSION` or, where the folder has another name, in `FOLDER#NAME@VERSION`.
    let (folder, end) = message["package_id"].as_str()?.rsplit_once('#')?;
    let package = end.split_once('@').map_or_else(|| folder.rsplit('/').next(), |(name, _)| Some(name))?;
    Some(Program {
        package: package.to_owned(),
        target: message["target"]["name"].as_str()?.to_owned(),
        path: PathBuf::from(message["executable"].as_str()?),
        dir: dir.to_owned(),
    })
}

fn run_programs<'p>(
    progress: &Progress,
    programs: impl Iterator<Item = &'p Program>,
    full: bool,
    arguments: &[String],
) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut all_ok = true;
    let _ = std::fs::remove_file(closing_lines_file());
    for program in programs {
        progress.say(&format!("  {} / {}", program.package, program.target));
        let mut command = Command::new(&program.path);
        command.current_dir(&program.dir).env("CARGO_MANIFEST_DIR", &program.dir).args(arguments);
        all_ok &= run_one(environment(&mut command, full), &mut tally)?;
    }
    if let Ok(closing) = std::fs::read_to_string(closing_lines_file()) {
        closing.lines().for_each(|line| println!("    closing: {line}"));
    }
    tally.verdict(all_ok)
}

/// Runs one runner, shows what it says beyond `ok`, and adds its closing line; false if it failed.
fn run_one(command: &mut Command, tally: &mut Tally) -> Result<bool> {
    let mut child = command.stdout(Stdio::piped()).spawn().with_context(|| format!("start {command:?}"))?;
    let stdout = child.stdout.take().context("the output of the tests")?;
    for line in BufReader::new(stdout).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).into_owned();
        tally.add(&line);
        let is_noise = line.is_empty() || line.starts_with("running ") || line.ends_with(" ... ok");
        if !is_noise {
            println!("    {line}");
        }
    }
    Ok(child.wait()?.success())
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
