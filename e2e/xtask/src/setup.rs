//! Checks what is there and installs what is missing: idempotent, and nothing inside the checkout.
//!
//! | what | for | where it comes from |
//! |---|---|---|
//! | a Wasm target | demo, test, bench | rustup, or Debian's compiler (see `filters`) |
//! | Envoy 1.40, grpcio | test, bench | PyPI, in a virtual environment |
//! | Autobahn's cases (kosoku), a WebSocket server | test | PyPI |
//! | go-control-plane's integration server, h2spec, gRPC's interop programs | test | Go modules; Go itself from PyPI where it is missing |
//! | clang for Wasm, promtool, nft, ip, unshare | test | Debian packages |
//! | Node | test | the machine's own, else PyPI |
//! | nginx, HAProxy, wrk, h2load, strace | bench | Debian packages |

pub(crate) mod debian;
pub(crate) mod go;
pub(crate) mod python;

use std::process::Command;

use anyhow::Result;
use clap::ValueEnum;

use crate::progress::Progress;
use crate::shell::output;

/// What the machine is set up for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Purpose {
    /// Only Rust and a Wasm target.
    Demo,
    /// The peers, suites and compilers of the tests beside that.
    Test,
    /// Envoy, nginx, HAProxy and the load tools.
    Bench,
    All,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only what this task needs.
    #[arg(long = "for", value_enum, default_value = "all")]
    purpose: Purpose,
}

pub(crate) fn run(args: &Args) -> Result<()> {
    let progress = Progress::new();
    prepare(&progress, args.purpose)?;
    progress.say("setup is complete");
    Ok(())
}

/// Makes sure that everything for a purpose is there.
pub(crate) fn prepare(progress: &Progress, purpose: Purpose) -> Result<()> {
    let (test, bench) = match purpose {
        Purpose::Demo => (false, false),
        Purpose::Test => (true, false),
        Purpose::Bench => (false, true),
        Purpose::All => (true, true),
    };
    wasm_target(progress);
    if test || bench {
        python::peers(progress)?;
    }
    if test {
        go::peers(progress)?;
        python::node(progress)?;
    }
    debian::tools(progress, test, bench)
}

/// The quick way to a Wasm target; where rustup cannot fetch it, building the filters takes the other way.
fn wasm_target(progress: &Progress) {
    let installed = output(Command::new("rustup").args(["target", "list", "--installed"])).unwrap_or_default();
    for target in ["wasm32-wasip1", "wasm32-unknown-unknown"] {
        if installed.lines().any(|line| line == target) {
            progress.say(&format!("Wasm target {target}: there"));
            continue;
        }
        match output(Command::new("rustup").args(["target", "add", target])) {
            Ok(_) => progress.say(&format!("Wasm target {target}: installed")),
            Err(_) => {
                progress.say(&format!("Wasm target {target}: rustup cannot fetch it; filters use Debian's compiler"))
            }
        }
    }
}
