//! `cargo xtask demo`: sets up what is missing, builds, and hands over to the walk-through (`outrigger-demo`).

use std::os::unix::process::CommandExt as _;
use std::process::Command;

use anyhow::{Context, Result};

use crate::progress::Progress;
use crate::setup::{Purpose, prepare};
use crate::{filters, paths, shell};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Keep everything up afterwards, for your own curl; Ctrl-C ends it.
    #[arg(long)]
    stay: bool,
    /// How long the load runs (at least 30, unless you only want a look).
    #[arg(long, default_value_t = 32)]
    seconds: u64,
    /// Requests a second.
    #[arg(long, default_value_t = 500)]
    rate: u64,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    prepare(&progress, Purpose::Demo)?;
    progress.step("build the filters for Wasm", filters::build)?;
    progress.step("build the proxy and the control plane (several minutes the first time)", || {
        // The whole workspace and its tests, as `cargo xtask test` builds them: fewer targets mean other features of the
        // dependencies, which would then be built twice.
        shell::run(shell::cargo().args(["build", "--workspace", "--all-targets"]))
    })?;
    let mut demo = Command::new(paths::target().join("debug/outrigger-demo"));
    demo.arg("--seconds").arg(args.seconds.to_string()).arg("--rate").arg(args.rate.to_string());
    if args.stay {
        demo.arg("--stay");
    }
    // The walk-through takes our place, so that its exit code and Ctrl-C are the command's own.
    let error = demo.env("OUTRIGGER_FILTER_DIR", paths::target().join("filters")).exec();
    Err(error).context("start outrigger-demo")
}
