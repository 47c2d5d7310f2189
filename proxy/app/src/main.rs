//! Outrigger's proxy: the process around the data plane.
//!
//! One thread controls (bootstrap, xDS, admin, signals: [`control`]), the workers of `outrigger-dataplane` serve, and a few
//! short-lived threads prepare filters. What is costly in memory or takes hostile input runs in a child of this same
//! binary: [`compile_child`] makes machine code of Wasm modules, [`render_child`] turns YAML and JSON into messages and
//! back. [`sink`] is where every configuration goes through, whatever its source.
//!
//! *Architecture invariant:* the only place where the proxy's crates meet.

mod admin;
mod allocator;
mod args;
mod bootstrap;
mod cache;
mod certificates;
mod channel;
mod child;
mod code_key;
mod compile_child;
mod control;
mod dns;
mod explain;
mod fetch;
mod hand_over;
mod http_client;
mod logging;
mod machine_code;
mod metrics;
mod modules;
mod node;
mod otlp;
mod overload;
mod plugins;
mod render_child;
mod rollouts;
mod server;
mod sink;
mod system;

use std::io::Write;
use std::process::ExitCode;
use std::time::Duration;

use args::{Child, Cli, Mode, Options};
use clap::Parser;
use logging::{Logging, Unknown};
use tokio::runtime::LocalOptions;

/// Threads that prepare filters at one time.
const PREPARE_THREADS_MAX: usize = 2;
/// An idle one ends after this time.
const PREPARE_THREAD_IDLE: Duration = Duration::from_secs(2);

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match cli.child {
        Some(Child::Compile(arguments)) => return compile_child::run(&arguments),
        Some(Child::Render(arguments)) => return render_child::run(&arguments),
        Some(Child::Explain(arguments)) => explain::run(&arguments),
        None => run(cli.options),
    };
    outcome.unwrap_or_else(|error| {
        _ = writeln!(std::io::stderr(), "outrigger-proxy: {error:#}");
        ExitCode::FAILURE
    })
}

fn run(options: Options) -> anyhow::Result<ExitCode> {
    let logging = Logging::start(options.log_level, options.log_path.as_deref())?;
    if let Some(levels) = &options.component_log_level
        && let Err(Unknown(what)) = logging.set_components(levels)
    {
        tracing::warn!("--component-log-level: there is no such component or level: {what}; nothing of it is applied");
    }
    for option in options.without_effect() {
        tracing::warn!("{option} is accepted, and has no effect");
    }
    if options.mode == Mode::Serve {
        tracing::info!("outrigger-proxy {}", args::version());
    }
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .max_blocking_threads(PREPARE_THREADS_MAX)
        .thread_keep_alive(PREPARE_THREAD_IDLE)
        .thread_name("prepare")
        .build_local(LocalOptions::default())?;
    let code = runtime.block_on(control::run(options, logging));
    // What still prepares needn't be waited for.
    runtime.shutdown_background();
    Ok(code)
}
