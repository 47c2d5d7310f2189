//! The command line: Envoy's options, the compiler, and the two children that this binary starts of itself.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use outrigger_dataplane::DrainOptions;

const EXAMPLES: &str = "\
Examples:
  outrigger-proxy -c bootstrap.yaml
      Serve with one worker for each CPU that this container may use.
  outrigger-proxy -c bootstrap.yaml --mode validate
      Print every problem of a configuration with the path of its field; exit code 1 if there is any.
  outrigger-proxy -c bootstrap.yaml --config-yaml 'admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}'
      Merge an override into the file: fields of the override win, lists are joined.
  outrigger-proxy -c bootstrap.yaml --service-node gateway-1 --service-cluster shop/gateway -l debug
      Tell the control plane who this is, and log more.

Signals:
  SIGTERM   drain for at most --drain-time-s, then exit; a second one exits at once
  SIGUSR1   reopen access logs and --log-path";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  outrigger-proxy explain http://shop.example/api/cart
      Against the proxy whose admin interface is at 127.0.0.1:9901.
  outrigger-proxy explain --admin-address 127.0.0.1:15000 -X POST -H 'x-tenant: blue' http://shop.example/api
  outrigger-proxy explain --listener inbound --sni shop.example --alpn h2 https://shop.example/
";

/// Everything that a user can say on the command line.
#[derive(Debug, Parser)]
#[command(
    name = "outrigger-proxy",
    about = "Outrigger's proxy: an L7 proxy that takes Envoy's configuration and hot-loads Proxy-Wasm filters",
    version = version(),
    disable_version_flag = true,
    after_help = EXAMPLES,
    args_conflicts_with_subcommands = true,
    max_term_width = 120
)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) child: Option<Child>,
    #[command(flatten)]
    pub(crate) options: Options,
    /// Print the version
    #[arg(long, action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// What this binary does besides serving: for a user, or for its own kind in a process of its own.
#[derive(Debug, Subcommand)]
pub(crate) enum Child {
    /// Ask a running proxy which way a request would go: what wins at each step, and why everything else loses
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain(Box<ExplainArgs>),
    /// Compile a Wasm module to machine code for proxies of this version on CPUs like this one
    #[command(after_help = COMPILE_EXAMPLES)]
    Compile(CompileArgs),
    /// Turn YAML or JSON from standard input into a binary message, or a binary message into JSON
    #[command(hide = true)]
    Render(RenderArgs),
}

const COMPILE_EXAMPLES: &str = "\
Examples:
  outrigger-proxy compile filter.wasm -o filter.code
  outrigger-proxy compile < filter.wasm > filter.code

What is written has the module's digest, the engine's hash and the code's digest before the code. It is not signed: proxies
take machine code from a control plane that signs it (outrigger serve --precompile) where they have its key
(--wasm-code-key).";

#[derive(Debug, Args)]
pub(crate) struct ExplainArgs {
    /// The request's URL, as a client would write it
    pub(crate) url: String,
    /// The proxy's admin interface
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:9901", env = "OUTRIGGER_ADMIN_ADDRESS")]
    pub(crate) admin_address: SocketAddr,
    #[arg(short = 'X', long, default_value = "GET")]
    pub(crate) method: String,
    /// A header of the request; may be repeated
    #[arg(short = 'H', long, value_name = "NAME: VALUE")]
    pub(crate) header: Vec<String>,
    /// The listener by name; default: the one at --destination, or the only one
    #[arg(long)]
    pub(crate) listener: Option<String>,
    /// Where the client connects to (before redirection)
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) destination: Option<SocketAddr>,
    /// Where the client connects from
    #[arg(long, value_name = "IP:PORT")]
    pub(crate) source: Option<SocketAddr>,
    /// The server name of a TLS connection
    #[arg(long)]
    pub(crate) sni: Option<String>,
    /// The application protocols of a TLS connection, joined by commas
    #[arg(long)]
    pub(crate) alpn: Option<String>,
    /// Decides between weights and fractions
    #[arg(long, value_name = "N")]
    pub(crate) random: Option<u64>,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CompileArgs {
    /// The module; default: standard input
    #[arg(value_name = "MODULE")]
    pub(crate) module: Option<PathBuf>,
    /// Write here instead of to standard output
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// The most address space that the compiler may take
    #[arg(long, value_name = "BYTES", default_value_t = 2 << 30)]
    pub(crate) memory_bytes: u64,
    /// Nothing before the code: to be mapped as it is
    #[arg(long, hide = true)]
    pub(crate) raw: bool,
}

#[derive(Debug, Args)]
pub(crate) struct RenderArgs {
    /// The message's type URL
    #[arg(long = "type")]
    pub(crate) type_url: String,
    #[arg(long, value_enum)]
    pub(crate) from: Form,
    /// A form field mask: only these paths of the message are printed as JSON
    #[arg(long)]
    pub(crate) mask: Option<String>,
    /// Leave out fields that no message has, and name them on standard error
    #[arg(long)]
    pub(crate) allow_unknown: bool,
}

/// How a message is written down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Form {
    /// YAML, of which JSON is a part
    Yaml,
    /// The wire format
    Binary,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Mode {
    /// Serve traffic
    Serve,
    /// Check the configuration and exit
    Validate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum DrainStrategy {
    /// Ask more and more connections to close while the drain time passes
    Gradual,
    /// Ask all connections to close at once
    Immediate,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum IpVersion {
    V4,
    V6,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum LogLevel {
    Trace,
    Debug,
    Info,
    #[value(alias = "warn")]
    Warning,
    #[value(alias = "err")]
    Error,
    Critical,
    Off,
}

/// Envoy's options.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Bootstrap in YAML, JSON or binary (.pb)
    #[arg(short = 'c', long, value_name = "FILE")]
    pub(crate) config_path: Option<PathBuf>,
    /// Bootstrap in YAML or JSON, merged over the file: its fields win, lists are joined
    #[arg(long, value_name = "YAML")]
    pub(crate) config_yaml: Option<String>,
    /// What to do with the configuration
    #[arg(long, value_enum, default_value = "serve")]
    pub(crate) mode: Mode,
    /// Worker threads; default: the CPUs that the cgroup grants, at least one
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(0..=1024))]
    pub(crate) concurrency: Option<u16>,
    #[arg(short = 'l', long, value_enum, ignore_case = true, default_value = "info")]
    pub(crate) log_level: LogLevel,
    /// Levels by component as NAME:LEVEL,…; components: admin, config, http, main, wasm, misc
    #[arg(long, value_name = "LEVELS")]
    pub(crate) component_log_level: Option<String>,
    /// Log to this file instead of standard error
    #[arg(long, value_name = "FILE")]
    pub(crate) log_path: Option<PathBuf>,
    /// The node's id; wins over the bootstrap's
    #[arg(long, value_name = "ID")]
    pub(crate) service_node: Option<String>,
    /// The node's cluster; wins over the bootstrap's
    #[arg(long, value_name = "NAME")]
    pub(crate) service_cluster: Option<String>,
    /// The node's zone; wins over the bootstrap's
    #[arg(long, value_name = "ZONE")]
    pub(crate) service_zone: Option<String>,
    /// How long streams may take to end when the proxy or a listener goes away
    #[arg(long, value_name = "SECONDS", default_value_t = 600)]
    pub(crate) drain_time_s: u32,
    /// When connections of a listener that drains are asked to close: spread over the drain time, or all at once.
    /// The end of a process without a successor is always immediate
    #[arg(long, value_enum, default_value = "gradual")]
    pub(crate) drain_strategy: DrainStrategy,
    /// Write the admin interface's bound address to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) admin_address_path: Option<PathBuf>,
    /// Folder of compiled filters; default: $XDG_CACHE_HOME/outrigger, or ~/.cache/outrigger, or /var/cache/outrigger
    #[arg(long, value_name = "DIR")]
    pub(crate) wasm_cache_dir: Option<PathBuf>,
    /// Public key (PEM, Ed25519) that machine code from a control plane must be signed with; may be given more than once.
    /// Without one every module is compiled here
    #[arg(long, value_name = "FILE")]
    pub(crate) wasm_code_key: Vec<PathBuf>,
    /// Take a bootstrap with fields that are not known: they are named in a warning each, and left out. Without it they
    /// are refused, since one may be a misspelt field
    #[arg(long)]
    pub(crate) allow_unknown_static_fields: bool,
    /// Which processes succeed each other: a successor with the same id and the next --restart-epoch takes the listening
    /// sockets over, and no connection is refused
    #[arg(long, value_name = "N")]
    pub(crate) base_id: Option<u32>,
    /// Choose a base id that is free, whatever --base-id says; only for the first process
    #[arg(long)]
    pub(crate) use_dynamic_base_id: bool,
    /// Write the base id to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) base_id_path: Option<PathBuf>,
    /// Counts the processes of a base id; a successor has its predecessor's plus one
    #[arg(long, value_name = "N")]
    pub(crate) restart_epoch: Option<u32>,
    /// How long the predecessor's streams may take to end once its successor serves, at most the drain time
    #[arg(long, value_name = "SECONDS", default_value_t = 900)]
    pub(crate) parent_shutdown_time_s: u32,
    /// Neither take listening sockets over nor hand them over
    #[arg(long)]
    pub(crate) disable_hot_restart: bool,
    #[command(flatten)]
    pub(crate) accepted: Accepted,
}

/// Options that Envoy's users and agents pass, and that change nothing here.
#[derive(Debug, Args)]
pub(crate) struct Accepted {
    #[arg(long, value_enum, ignore_case = true, help = "Accepted, without effect")]
    local_address_ip_version: Option<IpVersion>,
    #[arg(long, value_name = "MILLISECONDS", help = "Accepted, without effect: logs are written as they come")]
    file_flush_interval_msec: Option<u32>,
    #[arg(long, hide = true)]
    socket_path: Option<String>,
    #[arg(long, hide = true)]
    socket_mode: Option<String>,
    #[arg(long, hide = true)]
    cpuset_threads: bool,
    #[arg(long, hide = true)]
    log_format: Option<String>,
    #[arg(long, hide = true)]
    log_format_escaped: bool,
    #[arg(long, hide = true)]
    enable_fine_grain_logging: bool,
    #[arg(long, hide = true)]
    skip_deprecated_logs: bool,
    #[arg(long, hide = true)]
    reject_unknown_dynamic_fields: bool,
    #[arg(long, hide = true)]
    ignore_unknown_dynamic_fields: bool,
}

/// Which processes succeed each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BaseId {
    Fixed(u32),
    Dynamic,
}

impl Options {
    /// How connections of what drains are asked to close.
    pub(crate) fn drain(&self) -> DrainOptions {
        DrainOptions {
            time: Duration::from_secs(u64::from(self.drain_time_s)),
            gradual: self.drain_strategy == DrainStrategy::Gradual,
        }
    }

    /// The base id and the epoch, where anything was said of hot restarts.
    pub(crate) fn succession(&self) -> Option<(BaseId, u32)> {
        if self.disable_hot_restart {
            return None;
        }
        let epoch = self.restart_epoch.unwrap_or_default();
        match (self.base_id, self.use_dynamic_base_id, self.restart_epoch) {
            (_, true, _) => Some((BaseId::Dynamic, epoch)),
            (Some(id), ..) => Some((BaseId::Fixed(id), epoch)),
            (None, _, Some(_)) => Some((BaseId::Fixed(0), epoch)),
            (None, _, None) => None,
        }
    }

    /// Options that were given and that a user may expect something of.
    pub(crate) fn without_effect(&self) -> Vec<&'static str> {
        let accepted = &self.accepted;
        let given = [
            ("--local-address-ip-version", accepted.local_address_ip_version.is_some()),
            ("--file-flush-interval-msec", accepted.file_flush_interval_msec.is_some()),
            ("--cpuset-threads", accepted.cpuset_threads),
            ("--log-format", accepted.log_format.is_some()),
            ("--log-format-escaped", accepted.log_format_escaped),
            ("--enable-fine-grain-logging", accepted.enable_fine_grain_logging),
            ("--ignore-unknown-dynamic-fields", accepted.ignore_unknown_dynamic_fields),
        ];
        given.into_iter().filter_map(|(name, given)| given.then_some(name)).collect()
    }

    /// What Envoy shows as `command_line_options` in `/server_info`.
    pub(crate) fn to_json(&self, concurrency: usize) -> serde_json::Value {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        let text = |text: &Option<String>| text.clone().unwrap_or_default();
        let accepted = &self.accepted;
        serde_json::json!({
            "base_id": self.base_id.unwrap_or_default().to_string(),
            "use_dynamic_base_id": self.use_dynamic_base_id,
            "concurrency": concurrency,
            "config_path": path(&self.config_path),
            "config_yaml": text(&self.config_yaml),
            "allow_unknown_static_fields": self.allow_unknown_static_fields,
            "reject_unknown_dynamic_fields": accepted.reject_unknown_dynamic_fields,
            "ignore_unknown_dynamic_fields": accepted.ignore_unknown_dynamic_fields,
            "admin_address_path": path(&self.admin_address_path),
            "local_address_ip_version": match accepted.local_address_ip_version {
                Some(IpVersion::V6) => "v6",
                Some(IpVersion::V4) | None => "v4",
            },
            "log_level": self.log_level.name(),
            "component_log_level": text(&self.component_log_level),
            "log_path": path(&self.log_path),
            "service_cluster": text(&self.service_cluster),
            "service_node": text(&self.service_node),
            "service_zone": text(&self.service_zone),
            "drain_time": format!("{}s", self.drain_time_s),
            "drain_strategy": match self.drain_strategy {
                DrainStrategy::Gradual => "Gradual",
                DrainStrategy::Immediate => "Immediate",
            },
            "parent_shutdown_time": format!("{}s", self.parent_shutdown_time_s),
            "mode": match self.mode {
                Mode::Serve => "Serve",
                Mode::Validate => "Validate",
            },
            "disable_hot_restart": self.succession().is_none(),
            "restart_epoch": self.restart_epoch.unwrap_or_default(),
            "file_flush_interval": format!("{}s", f64::from(accepted.file_flush_interval_msec.unwrap_or(10_000)) / 1000.0),
        })
    }
}

impl LogLevel {
    /// The word that Envoy writes.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            LogLevel::Trace => "trace",
            LogLevel::Debug => "debug",
            LogLevel::Info => "info",
            LogLevel::Warning => "warning",
            LogLevel::Error => "error",
            LogLevel::Critical => "critical",
            LogLevel::Off => "off",
        }
    }

    pub(crate) fn parse(name: &str) -> Option<LogLevel> {
        LogLevel::from_str(name, true).ok()
    }
}

/// `REVISION/NUMBER/STATUS/BUILD/SSL`, as Envoy says it in `--version` and `/server_info`.
pub(crate) fn version() -> &'static str {
    if cfg!(debug_assertions) {
        concat!("outrigger/", env!("CARGO_PKG_VERSION"), "/Clean/DEBUG/none")
    } else {
        concat!("outrigger/", env!("CARGO_PKG_VERSION"), "/Clean/RELEASE/none")
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory;

    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
        assert!(Cli::command().render_version().starts_with("outrigger-proxy outrigger/0."));
    }

    #[test]
    fn envoys_command_lines_are_taken() {
        // What Istio's agent passes, and what people write by hand.
        let agent = "outrigger-proxy -c etc/istio/proxy/envoy-rev.json --drain-time-s 45 --drain-strategy immediate \
             --local-address-ip-version v4 --file-flush-interval-msec 1000 --disable-hot-restart \
             --allow-unknown-static-fields -l warning --component-log-level misc:error --skip-deprecated-logs \
             --concurrency 2";
        let options = Cli::try_parse_from(agent.split_whitespace()).unwrap().options;
        assert_eq!((options.drain_time_s, options.drain_strategy), (45, DrainStrategy::Immediate));
        assert_eq!((options.log_level, options.concurrency), (LogLevel::Warning, Some(2)));
        assert!(options.allow_unknown_static_fields);
        assert_eq!(options.without_effect(), ["--local-address-ip-version", "--file-flush-interval-msec"]);

        let plain =
            "outrigger-proxy --config-path a.yaml --config-yaml {} --base-id 3 --use-dynamic-base-id --mode validate";
        let options = Cli::try_parse_from(plain.split_whitespace()).unwrap().options;
        assert_eq!((options.mode, options.drain_time_s, options.concurrency), (Mode::Validate, 600, None));
        assert_eq!(options.to_json(4)["base_id"], "3");
    }

    #[test]
    fn wrong_ones_are_refused() {
        for wrong in
            ["--mode run", "-l loud", "--concurrency many", "--drain-time-s -1", "--drain-strategy slow", "extra"]
        {
            let words = std::iter::once("outrigger-proxy").chain(wrong.split_whitespace());
            assert!(Cli::try_parse_from(words).is_err(), "{wrong}");
        }
    }

    #[test]
    fn log_levels_have_envoys_names() {
        for name in ["trace", "debug", "info", "warning", "error", "critical", "off"] {
            assert_eq!(LogLevel::parse(name).unwrap().name(), name);
        }
        assert_eq!(LogLevel::parse("WARN"), Some(LogLevel::Warning));
        assert_eq!(LogLevel::parse("loud"), None);
    }
}
