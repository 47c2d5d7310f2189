//! Runs fuzz targets for as long as one likes.

#![expect(clippy::print_stdout, reason = "a command-line tool: its output is standard output")]

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;
use outrigger_fuzz::{Length, TARGETS, Target, fuzz, replay};

const EXAMPLES: &str = "\
Examples:
  cargo run -p outrigger-fuzz --                       every target, a moment each
  cargo run -p outrigger-fuzz -- http1 --inputs 10000000 --seed 7
  cargo run -p outrigger-fuzz -- http1 --replay /tmp/outrigger-fuzz-http1-0123456789abcdef";

/// Fuzz targets of the proxy.
#[derive(Debug, Parser)]
#[command(after_help = EXAMPLES)]
struct Cli {
    /// Only these targets.
    targets: Vec<String>,
    /// Inputs for each target [default: each target's own moment].
    #[arg(long)]
    inputs: Option<u64>,
    /// Further inputs for so many seconds.
    #[arg(long, default_value_t = 0)]
    seconds: u64,
    /// What all of them follow from [default: any].
    #[arg(long)]
    seed: Option<u64>,
    /// Runs this input again instead.
    #[arg(long, value_name = "FILE")]
    replay: Option<PathBuf>,
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let is_wanted = |target: &&Target| cli.targets.is_empty() || cli.targets.iter().any(|name| name == target.name);
    let wanted: Vec<&Target> = TARGETS.iter().filter(is_wanted).collect();
    if wanted.is_empty() {
        eprintln!("no such target; there are");
        TARGETS.iter().for_each(|target| eprintln!("  {:<14} {}", target.name, target.about));
        return ExitCode::FAILURE;
    }
    let seed = cli.seed.unwrap_or_else(rand::random);
    for target in wanted {
        if let Some(file) = &cli.replay {
            let Ok(input) = std::fs::read(file) else {
                eprintln!("{} cannot be read", file.display());
                return ExitCode::FAILURE;
            };
            println!("{}: {:016x}", target.name, replay(target, &input));
            continue;
        }
        let inputs = cli.inputs.unwrap_or(target.short);
        match fuzz(target, seed, Length { inputs, further: Duration::from_secs(cli.seconds) }) {
            Ok(ran) => println!("{}: {} inputs, {} outcomes (seed {seed})", target.name, ran.inputs, ran.outcomes),
            Err(find) => {
                eprintln!("{}: a find (seed {seed}): {}", target.name, find.file.display());
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}
