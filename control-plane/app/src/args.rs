//! The command line.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Outrigger's control plane: reads what you write, and keeps proxies in step with it over xDS.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger",
    version,
    propagate_version = true,
    after_help = "\
Examples:
  outrigger validate ./config                    check a folder
  outrigger serve --config-dir ./config          serve it to proxies
  outrigger proxy-status                         see what each proxy took, rejected, or still owes
  outrigger get WasmFilter                       see how your filters are doing"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Serve a folder of YAML files to proxies
    Serve(Box<Serve>),
    /// Check a folder and print every problem as `file:line: field: what is wrong`; exit code 1 if there is an error
    Validate(Validate),
    /// Show where each proxy stands: acked, nacked with the reason, pending, stale
    ProxyStatus(ProxyStatus),
    /// Show the status of what you wrote: gateways, routes, filters, and how far new revisions have come
    Get(Get),
    /// Make a pair of keys: machine code for a fleet is signed with one and checked with the other
    Keygen(Keygen),
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrigger keygen
  outrigger serve --config-dir ./config --precompile --machine-code-key machine-code.key
  outrigger-proxy -c bootstrap.yaml --wasm-code-key machine-code.pub

Files that are there already are never overwritten.")]
pub(crate) struct Keygen {
    /// Where the private key goes (PEM, Ed25519, mode 600): for outrigger serve
    #[arg(long, value_name = "FILE", default_value = "machine-code.key")]
    pub(crate) private_key: PathBuf,
    /// Where the public key goes (PEM): for the proxies
    #[arg(long, value_name = "FILE", default_value = "machine-code.pub")]
    pub(crate) public_key: PathBuf,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrigger serve --config-dir ./config
  outrigger serve --config-dir ./config --xds-address 0.0.0.0:18000 --http-address 0.0.0.0:18001 \\
      --http-advertise-address 10.0.0.7:18001
  outrigger serve --config-dir ./config --precompile --machine-code-key machine-code.key

The folder is watched: a change is checked and pushed at once; while something is wrong, the last good state stays and
/v1/problems says what it is. GET /readyz, /healthz, /metrics, /v1/proxies, /v1/resources, /v1/problems.")]
pub(crate) struct Serve {
    /// The folder with your YAML files
    #[arg(long, value_name = "DIR")]
    pub(crate) config_dir: PathBuf,
    /// Where proxies connect (xDS over gRPC); port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18000")]
    pub(crate) xds_address: SocketAddr,
    /// Where modules, metrics and status pages are served; port 0 takes any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18001")]
    pub(crate) http_address: SocketAddr,
    /// Where proxies reach the HTTP address, if they see it under another one
    #[arg(long, value_name = "HOST:PORT")]
    pub(crate) http_advertise_address: Option<String>,
    /// Write the bound addresses here as JSON, once both listen
    #[arg(long, value_name = "FILE")]
    pub(crate) address_file: Option<PathBuf>,
    /// Where rollouts are remembered, so that a restart continues them; default: a folder for this configuration in
    /// $XDG_STATE_HOME/outrigger, or ~/.local/state/outrigger, or /var/lib/outrigger
    #[arg(long, value_name = "DIR")]
    pub(crate) state_dir: Option<PathBuf>,
    /// Compile every module once for all proxies, with this outrigger-proxy; without a value the one beside this program,
    /// or on the PATH
    #[arg(long, value_name = "PROGRAM", num_args = 0..=1, default_missing_value = "", requires = "machine_code_key")]
    pub(crate) precompile: Option<PathBuf>,
    /// The private key that signs what is compiled (outrigger keygen makes one)
    #[arg(long, value_name = "FILE", requires = "precompile")]
    pub(crate) machine_code_key: Option<PathBuf>,
    /// Let module paths and links lead out of the folder
    #[arg(long)]
    pub(crate) allow_outside: bool,
    /// Act so long after the last of a burst of changes
    #[arg(long, value_name = "DURATION", default_value = "100ms", value_parser = duration)]
    pub(crate) debounce: Duration,
    /// And at most so long after the first
    #[arg(long, value_name = "DURATION", default_value = "10s", value_parser = duration)]
    pub(crate) debounce_max: Duration,
    /// Look for changes that the system did not report this often
    #[arg(long, value_name = "DURATION", default_value = "5s", value_parser = duration)]
    pub(crate) rescan_interval: Duration,
    /// Most proxies at the same time
    #[arg(long, value_name = "N", default_value_t = 10_000)]
    pub(crate) streams_max: u64,
    /// What to log: error, warn, info, debug, trace, or a filter such as `outrigger_xds_server=debug`
    #[arg(short, long, value_name = "LEVEL", default_value = "info", env = "OUTRIGGER_LOG")]
    pub(crate) log_level: String,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrigger validate ./config
  outrigger validate ./config --output json")]
pub(crate) struct Validate {
    /// The folder
    #[arg(value_name = "DIR")]
    pub(crate) dir: PathBuf,
    /// Let module paths and links lead out of the folder
    #[arg(long)]
    pub(crate) allow_outside: bool,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
pub(crate) struct Target {
    /// The control plane's HTTP address
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:18001", env = "OUTRIGGER_HTTP_ADDRESS")]
    pub(crate) http_address: String,
    /// How to print
    #[arg(short, long, value_name = "FORMAT", default_value = "table")]
    pub(crate) output: Output,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrigger proxy-status
  outrigger proxy-status edge-1 --output json
  outrigger proxy-status --http-address 10.0.0.7:18001")]
pub(crate) struct ProxyStatus {
    /// Only the proxy with this node id
    #[arg(value_name = "NODE")]
    pub(crate) node: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  outrigger get
  outrigger get WasmFilter
  outrigger get WasmFilter shop/keys --output json")]
pub(crate) struct Get {
    /// Only this kind: Gateway, HTTPRoute, TCPRoute, WasmFilter
    #[arg(value_name = "KIND")]
    pub(crate) kind: Option<String>,
    /// Only this object, NAMESPACE/NAME or NAME
    #[arg(value_name = "NAME")]
    pub(crate) name: Option<String>,
    #[command(flatten)]
    pub(crate) target: Target,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    Json,
}

/// `100ms`, `5s`, `2m`.
fn duration(text: &str) -> Result<Duration, String> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "a number and ms, s or m are expected, such as 100ms".to_owned())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err("the unit must be ms, s or m".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn durations() {
        assert_eq!(duration("100ms"), Ok(Duration::from_millis(100)));
        assert_eq!(duration("5s"), Ok(Duration::from_secs(5)));
        assert_eq!(duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "5h", "-1s", "1.5s"] {
            assert!(duration(bad).is_err(), "{bad}");
        }
    }
}
