//! The main job, shown: filters go from a folder to live traffic, are edited and swapped under load, and nothing is lost.
//!
//! `cargo xtask demo` builds everything and starts this program. The origin, the control plane and the proxy are processes
//! of their own; this one is the user: it edits files, sends requests and counts.
#![expect(clippy::print_stdout, reason = "a command-line tool: its output is standard output")]

mod mesh;
mod swaps;
mod walk;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::{Parser, Subcommand};
use outrigger_e2e::{Origin, process};

/// Shows the main job of Outrigger.
#[derive(Debug, Parser)]
struct Cli {
    /// How long the load runs.
    #[arg(long, default_value_t = 32)]
    seconds: u64,
    /// Requests a second.
    #[arg(long, default_value_t = 500)]
    rate: u64,
    /// How many times the filter's code is swapped under load.
    #[arg(long, default_value_t = 20)]
    swaps: u64,
    /// Keep everything up afterwards.
    #[arg(long)]
    stay: bool,
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// Only the origin: writes its address to a file and serves until it is killed.
    #[command(hide = true)]
    Origin { address_file: PathBuf },
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let result = match &cli.part {
        Some(Part::Origin { address_file }) => origin(address_file),
        None => demo(&cli),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("\nThe demo failed: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn origin(address_file: &PathBuf) -> Result<()> {
    let origin = Origin::bind("origin", ([127, 0, 0, 1], 0).into(), false)?;
    std::fs::write(address_file, origin.address().to_string())?;
    loop {
        std::thread::park();
    }
}

fn demo(cli: &Cli) -> Result<()> {
    let dir = tempfile::tempdir()?;
    clean_up_on_ctrl_c(dir.path().to_path_buf())?;
    let mesh = mesh::Mesh::start(dir.path())?;
    walk::walk_through(&mesh)?;
    let seconds = Duration::from_secs(cli.seconds);
    let outcome = swaps::swap_under_load(&mesh, seconds, cli.rate, cli.swaps);
    if cli.stay {
        if let Err(error) = &outcome {
            println!("\nNot as it should be: {error:#}");
        }
        mesh.print_curl_lines();
        println!("\nEverything stays up. Ctrl-C ends it.");
        loop {
            std::thread::park();
        }
    }
    outcome
}

/// Ctrl-C ends the children and removes the folder.
fn clean_up_on_ctrl_c(dir: PathBuf) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let watch = move || {
        if runtime.block_on(tokio::signal::ctrl_c()).is_ok() {
            process::kill_all();
            let _ = std::fs::remove_dir_all(&dir);
            std::process::exit(130);
        }
    };
    std::thread::Builder::new().name("ctrl-c".to_owned()).spawn(watch).map(|_| ()).context("a thread for Ctrl-C")
}
