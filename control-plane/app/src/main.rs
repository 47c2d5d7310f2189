//! The control plane and its command line: `serve`, `validate`, `proxy-status`, `get`, `keygen`.

mod args;
mod client;
mod folder;
mod keys;
mod pages;
mod precompile;
mod print;
mod rollout;
mod serve;
mod state;
mod status;
mod watch;

use std::io::Write as _;
use std::process::ExitCode;

use clap::Parser as _;

use args::{Arguments, Command};

/// What a wrong configuration exits with; everything else that fails exits with 2.
const EXIT_PROBLEMS: u8 = 1;
const EXIT_FAILURE: u8 = 2;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let result = match arguments.command {
        Command::Serve(serve) => serve::run(&serve).map(|()| ExitCode::SUCCESS),
        Command::Validate(validate) => folder::validate(&validate),
        Command::ProxyStatus(query) => print::proxy_status(&query).map(|()| ExitCode::SUCCESS),
        Command::Get(query) => print::get(&query).map(|()| ExitCode::SUCCESS),
        Command::Keygen(keygen) => keys::keygen(&keygen).map(|()| ExitCode::SUCCESS),
    };
    result.unwrap_or_else(|error| {
        // A closed pipe leaves nobody to tell.
        let _ = writeln!(std::io::stderr(), "outrigger: {error:#}");
        ExitCode::from(EXIT_FAILURE)
    })
}
