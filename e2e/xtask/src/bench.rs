//! `cargo xtask bench`: our proxy, nginx, HAProxy and Envoy side by side in one run; `cargo xtask bench wasm`: the Wasm host
//! beside Envoy's.
//!
//! The rules, each of which is there because a benchmark without it misled someone:
//! - one worker each, pinned to core 0; origin and load on core 1;
//! - rounds are interleaved and alternate their order, ratios come from pairs of the same round;
//! - the measure is CPU time per request from `/proc`, not requests per second;
//! - the same job on all sides: no access log, no request id, the same added headers;
//! - nginx is the control: if it moves by more than 10 % within the run, the run is marked unreadable.
//!
//! A scenario is a module with one entry in [`SCENARIOS`]; a proxy is one entry in [`peers::table`].

mod client;
mod clusters;
mod configs;
mod endpoint;
mod h2c;
mod http1;
mod idle;
mod latency;
mod measure;
mod peers;
mod plan;
mod policies;
mod report;
mod script;
mod tls;
mod wasm;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};

use crate::progress::Progress;
use crate::setup::{Purpose, prepare};
use crate::{filters, release};
use clap::ValueEnum;
use peers::{Kind, Subject};
use report::Report;

/// A scenario: its name for `--only`, and what runs it.
struct Scenario {
    name: &'static str,
    about: &'static str,
    run: fn(&Bench) -> Result<Report>,
}

/// Which scenarios.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
enum Suite {
    /// The proxy beside nginx, HAProxy and Envoy.
    #[default]
    Proxy,
    /// The Wasm host beside Envoy's.
    Wasm,
    /// Both.
    All,
}

const SCENARIOS: [Scenario; 11] = [
    Scenario { name: "h1-c32", about: "HTTP/1, 32 connections, no, one and four filters", run: http1::c32 },
    Scenario { name: "h1-c256", about: "HTTP/1, 256 connections", run: http1::c256 },
    Scenario { name: "h2c-20k", about: "HTTP/2 both ways at 20,000 requests a second", run: h2c::at_20k },
    Scenario { name: "h2c-10k", about: "HTTP/2 both ways at 10,000 requests a second", run: h2c::at_10k },
    Scenario { name: "tls-c32", about: "HTTP/1 over TLS 1.3, 32 connections", run: tls::keep_alive },
    Scenario { name: "tls-handshakes", about: "a TLS 1.3 connection for each request", run: tls::handshakes },
    Scenario { name: "policies", about: "RBAC, rate limit, access log and traces together", run: policies::run },
    Scenario { name: "latency", about: "an open loop at 6,000 requests a second", run: latency::run },
    Scenario { name: "idle", about: "10,000 idle connections, plain and TLS", run: idle::run },
    Scenario { name: "clusters", about: "10,000 static clusters with a route each", run: clusters::run },
    Scenario {
        name: "endpoint",
        about: "one endpoint changes among 10,000 clusters, by delta ADS",
        run: endpoint::run,
    },
];

#[derive(Debug, Default, clap::Args)]
pub(crate) struct Args {
    /// What to measure.
    #[arg(value_enum, default_value = "proxy")]
    suite: Suite,
    /// Fewer and shorter rounds: a look, not a result.
    #[arg(long)]
    quick: bool,
    /// Only this scenario (or all whose name begins so); may be repeated.
    #[arg(long, value_name = "NAME")]
    only: Vec<String>,
    /// Only these proxies: outrigger, nginx, haproxy, envoy (nginx always runs: it is the control).
    #[arg(long, value_delimiter = ',', value_name = "NAMES")]
    peers: Vec<String>,
    /// Rounds of each scenario [default: 7, with --quick 3].
    #[arg(long)]
    rounds: Option<usize>,
    /// Write the result, with every round, as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Measure this proxy (and `examples/hotpath` beside it) instead of building ours for release.
    #[arg(long, value_name = "PROGRAM")]
    proxy: Option<PathBuf>,
    /// Build ours without a profile of its work: in half the time, and not what is shipped.
    #[arg(long, conflicts_with = "proxy")]
    no_profile: bool,
}

/// What every scenario needs.
#[derive(Debug)]
struct Bench {
    progress: Progress,
    /// Configurations and logs of this run.
    dir: PathBuf,
    outrigger: PathBuf,
    /// The program that times the host without a network; with `--proxy` only if it lies beside that, in `examples/`.
    hotpath: Option<PathBuf>,
    header_policy: PathBuf,
    /// The bench guest (`e2e/peers/bench`).
    guest: PathBuf,
    rounds: usize,
    /// How long one measurement lasts.
    window: Duration,
    quick: bool,
    peers: Vec<String>,
}

impl Bench {
    /// With the filters and the guest built.
    fn new(
        progress: Progress,
        scenarios: &[&Scenario],
        args: &Args,
        outrigger: PathBuf,
        hotpath: Option<PathBuf>,
    ) -> Result<Bench> {
        let modules = progress.step("build the filters for Wasm", filters::build)?;
        let header_policy = modules.into_iter().find(|path| path.ends_with("header_policy.wasm"));
        let header_policy = header_policy.context("header_policy.wasm is not among the filters")?;
        let guest = progress.step("build the bench guest", || filters::compile("wasm32-wasip1", &["bench-guest"]))?;
        let dir = std::env::temp_dir().join(format!("outrigger-bench-{}", std::process::id()));
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let rounds = args.rounds.unwrap_or(if args.quick { 3 } else { 7 }).max(1);
        let plan = plan::Plan::new(scenarios, rounds, args.quick);
        progress.say(&plan.words(scenarios, rounds));
        Ok(Bench {
            progress,
            dir,
            outrigger,
            hotpath,
            header_policy,
            guest: guest.join("bench_guest.wasm"),
            rounds,
            window: plan.window,
            quick: args.quick,
            peers: args.peers.clone(),
        })
    }

    /// Leaves nothing behind.
    fn clean(&self) -> Result<()> {
        std::fs::remove_dir_all(&self.dir).with_context(|| format!("{}", self.dir.display()))
    }

    fn wants(&self, peer: &str) -> bool {
        self.peers.is_empty() || self.peers.iter().any(|wanted| wanted == peer)
    }

    /// Whether a row is measured: nginx always is, as the control.
    fn wants_row(&self, subject: &Subject) -> bool {
        subject.kind == Kind::Nginx || self.wants(subject.name.split(' ').next().unwrap_or_default())
    }

    fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let scenarios = chosen(args)?;
    let progress = Progress::new();
    prepare(&progress, Purpose::Bench)?;
    let (outrigger, hotpath) = match &args.proxy {
        Some(program) => {
            let beside = program.with_file_name("examples").join("hotpath");
            (program.clone(), beside.is_file().then_some(beside))
        }
        None => release_build(progress, args)?,
    };
    let bench = Bench::new(progress, &scenarios, args, outrigger, hotpath)?;
    let mut reports = Vec::new();
    for (index, scenario) in scenarios.iter().enumerate() {
        let words = format!("{} of {}: {}: {}", index + 1, scenarios.len(), scenario.name, scenario.about);
        let mut report = bench.progress.step(&words, || (scenario.run)(&bench))?;
        let issue = if SCENARIOS.iter().any(|own| own.name == scenario.name) { 3 } else { 4 };
        report.targets.iter_mut().for_each(|target| target.issue = target.issue.or(Some(issue)));
        for target in &report.targets {
            let (name, value, limit) = (&target.name, target.value, target.limit);
            bench.progress.say(&format!("  {name}: {value:.2} of at most {limit:.2}: {}", target.verdict()));
        }
        reports.push((scenario.name, report));
    }
    finish(&bench, &reports, args.json.as_deref())
}

/// Puts a proxy that counts what it does to the work that proxies do most.
pub(crate) fn train(progress: Progress, proxy: &Path) -> Result<()> {
    let only = ["h1-c32", "h1-c256", "h2c-20k", "tls-c32", "tls-handshakes", "policies"].map(str::to_owned);
    let peers = vec!["outrigger".to_owned()];
    let args = Args { only: only.into(), peers, rounds: Some(1), quick: true, ..Args::default() };
    let scenarios = chosen(&args)?;
    let bench = Bench::new(progress, &scenarios, &args, proxy.to_owned(), None)?;
    for scenario in scenarios {
        progress.step(scenario.name, || (scenario.run)(&bench))?;
    }
    bench.clean()
}

/// The scenarios that the arguments name. A name that is one's whole name is only that one.
fn chosen(args: &Args) -> Result<Vec<&'static Scenario>> {
    let all: Vec<&Scenario> = match args.suite {
        Suite::Proxy => SCENARIOS.iter().collect(),
        Suite::Wasm => wasm::SCENARIOS.iter().collect(),
        Suite::All => SCENARIOS.iter().chain(&wasm::SCENARIOS).collect(),
    };
    let names: Vec<&str> = all.iter().map(|scenario| scenario.name).collect();
    let is_exact = |wanted: &String| names.contains(&wanted.as_str());
    let matches = |name: &str, wanted: &String| name == wanted || (!is_exact(wanted) && name.starts_with(&**wanted));
    for wanted in &args.only {
        if !names.iter().any(|name| matches(name, wanted)) {
            bail!("no scenario is named {wanted}; there are {}", names.join(", "));
        }
    }
    let is_wanted = |s: &&Scenario| args.only.is_empty() || args.only.iter().any(|wanted| matches(s.name, wanted));
    Ok(all.into_iter().filter(is_wanted).collect())
}

/// Our proxy, and the program that times the Wasm host.
fn release_build(progress: Progress, args: &Args) -> Result<(PathBuf, Option<PathBuf>)> {
    if !args.peers.is_empty() && !args.peers.iter().any(|peer| peer == "outrigger") {
        return Ok((PathBuf::new(), None));
    }
    let [proxy, hotpath] = release::for_bench(progress, !args.no_profile)?;
    Ok((proxy, Some(hotpath)))
}

fn finish(bench: &Bench, reports: &[(&str, Report)], json: Option<&Path>) -> Result<()> {
    for (name, report) in reports {
        println!("\n{name}{}", if report.readable { "" } else { "   UNREADABLE: the control moved by more than 10 %" });
        print!("{}", report.table());
    }
    let targets: Vec<_> = reports.iter().flat_map(|(_, report)| &report.targets).collect();
    println!("\n{:<62} {:>5} {:>10} {:>10}", "target", "issue", "measured", "at most");
    for target in &targets {
        let issue = target.issue.map_or_else(|| "-".to_owned(), |issue| issue.to_string());
        let (name, verdict) = (&target.name, target.verdict());
        println!("{name:<62} {issue:>5} {:>10.2} {:>10.2}  {verdict}", target.value, target.limit);
    }
    if bench.quick {
        println!("\nThis was a quick run: a look, not a result.");
    }
    if let Some(path) = json {
        let value = report::json(bench, reports);
        std::fs::write(path, serde_json::to_vec_pretty(&value)?).with_context(|| format!("{}", path.display()))?;
        println!("\nwritten: {}", path.display());
    }
    bench.clean()
}
