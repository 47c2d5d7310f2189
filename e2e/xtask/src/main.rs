//! `cargo xtask`: sets the machine up, shows the main job, runs every test, measures, builds the filters.
//!
//! It depends on next to nothing, so that its first words appear seconds after the command was typed.
#![expect(clippy::print_stdout, reason = "a command-line tool: its output is standard output")]

mod bench;
mod demo;
mod filters;
mod guests;
mod paths;
mod progress;
mod release;
mod setup;
mod shell;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};

const EXAMPLES: &str = "\
Examples:
  cargo xtask demo              see the main job: filters go from a folder to live traffic
  cargo xtask demo --stay       the same, and keep everything up for your own curl
  cargo xtask test              set up what is missing and run every test
  cargo xtask test --full       the same with the long forms
  cargo xtask bench --quick     our proxy beside nginx, HAProxy and Envoy, in a few minutes
  cargo xtask bench wasm        our Wasm host beside Envoy's
  cargo xtask filters           build the Wasm filters
  cargo xtask release           build the proxy as it is shipped, by a profile of its work";

/// Tasks of the Outrigger checkout.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", after_help = EXAMPLES)]
struct Cli {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Check what is there and install what is missing (nothing inside the checkout).
    #[command(after_help = "Examples:\n  cargo xtask setup\n  cargo xtask setup --for demo")]
    Setup(setup::Args),
    /// Build everything and walk through the main job.
    #[command(
        after_help = "Examples:\n  cargo xtask demo\n  cargo xtask demo --stay\n  cargo xtask demo --seconds 60 --rate 1000"
    )]
    Demo(demo::Args),
    /// Format, lints, every test of every crate, and the end-to-end tests against real peers.
    #[command(
        after_help = "Examples:\n  cargo xtask test\n  cargo xtask test --full\n  cargo xtask test --only e2e -- swap"
    )]
    Test(test::Args),
    /// Our proxy, nginx, HAProxy and Envoy side by side.
    #[command(
        after_help = "Examples:\n  cargo xtask bench\n  cargo xtask bench --quick --only h1-c32\n  cargo xtask bench --json bench.json\n  cargo xtask bench wasm --only headers"
    )]
    Bench(bench::Args),
    /// Build the proxy as it is shipped: with counters, to serve the benchmark's loads, then by what they counted.
    #[command(after_help = "Examples:\n  cargo xtask release\n  RUSTFLAGS=-Ctarget-cpu=x86-64-v3 cargo xtask release")]
    Release,
    /// Build the Wasm filters.
    #[command(after_help = "Examples:\n  cargo xtask filters\n  cargo xtask filters --guests")]
    Filters {
        /// The guest of the SDK tests too, in Rust, C++, Go and AssemblyScript.
        #[arg(long)]
        guests: bool,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().task) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(task: Task) -> Result<()> {
    match task {
        Task::Setup(args) => setup::run(&args),
        Task::Demo(args) => demo::run(&args),
        Task::Test(args) => test::run(&args),
        Task::Bench(args) => bench::run(&args),
        Task::Release => release::run(),
        Task::Filters { guests } => {
            for path in filters::build()? {
                println!("{}", path.display());
            }
            if guests {
                guests::build(&progress::Progress::new())?;
            }
            Ok(())
        }
    }
}
