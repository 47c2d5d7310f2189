//! `outrigger serve`: binds, follows the folder, serves, and closes when it is told to.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context as _, Result};
use outrigger_xds_server::{AdsServer, DebounceOptions, Hub, ServerOptions};
use tokio::net::TcpListener;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing::{info, warn};
use tracing_subscriber::EnvFilter;

use crate::args::Serve;
use crate::client;
use crate::folder::Follower;
use crate::keys::SigningKey;
use crate::pages::Pages;
use crate::precompile::Precompiler;
use crate::rollout::{self, Staging};
use crate::state::State;

pub(crate) fn run(arguments: &Serve) -> Result<()> {
    let filter = EnvFilter::try_new(&arguments.log_level)
        .with_context(|| format!("--log-level: {:?} is no level and no filter", arguments.log_level))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stderr());
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal).init();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(serve(arguments))
}

async fn serve(arguments: &Serve) -> Result<()> {
    let xds = bind(arguments.xds_address, "--xds-address").await?;
    let http = bind(arguments.http_address, "--http-address").await?;
    let (xds_address, http_address) = (xds.local_addr()?, http.local_addr()?);
    info!("xds listening on {xds_address}");
    info!("http listening on {http_address}");
    if let Some(file) = &arguments.address_file {
        write_addresses(file, xds_address, http_address)?;
    }
    let modules = match &arguments.http_advertise_address {
        Some(address) => client::resolve(address).context("--http-advertise-address")?,
        None => reachable(http_address),
    };
    let precompiler = precompiler(arguments)?.map(Arc::new);
    let hub = Hub::new(modules);
    let hub = Arc::new(if precompiler.is_some() { hub.with_machine_code() } else { hub });
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let state_folder =
        arguments.state_dir.clone().unwrap_or_else(|| rollout::default_folder(&arguments.config_dir, variable));
    let staging = Arc::new(Staging::open(Some(state_folder)));
    let state = Arc::new(State::default());
    let options = ServerOptions { streams_max: arguments.streams_max, ..ServerOptions::default() };
    let ads = AdsServer::new(Arc::clone(&hub), options);
    let follower = Follower {
        dir: arguments.config_dir.clone(),
        allow_outside: arguments.allow_outside,
        debounce: DebounceOptions { quiet: arguments.debounce, max: arguments.debounce_max },
        rescan_interval: arguments.rescan_interval,
        hub: Arc::clone(&hub),
        state: Arc::clone(&state),
        ads: ads.clone(),
        staging: Arc::clone(&staging),
        precompiler: precompiler.clone(),
    };
    let (close, closing) = watch::channel(false);
    let compiling = {
        let precompiler = precompiler.clone();
        async move {
            match precompiler {
                Some(precompiler) => precompiler.run().await,
                None => std::future::pending().await,
            }
        }
    };
    let pages = Pages { hub, ads: ads.clone(), state, staging, precompiler }.serve(http, closing.clone());
    let streams = {
        let mut closing = closing;
        async move {
            let shutdown = async move {
                // An error is an end as well.
                let _ = closing.wait_for(|closing| *closing).await;
            };
            ads.serve(xds, shutdown).await.context("the xDS server has failed")
        }
    };
    let servers = async { tokio::join!(pages, streams).1 };
    tokio::pin!(servers);
    tokio::select! {
        result = &mut servers => return result,
        result = follower.run() => return result,
        () = compiling => {}
        result = told_to_stop() => info!("{}: closing", result?),
    }
    close.send_replace(true);
    servers.await?;
    info!("closed");
    Ok(())
}

/// Compiles for the fleet, where that was asked for.
fn precompiler(arguments: &Serve) -> Result<Option<Precompiler>> {
    let (Some(program), Some(key)) = (&arguments.precompile, &arguments.machine_code_key) else { return Ok(None) };
    let key = SigningKey::load(key)?;
    let program = if program.as_os_str().is_empty() { beside() } else { program.clone() };
    Ok(Some(Precompiler::new(program, key)))
}

/// The proxy that was installed with this program, else the one that the system finds.
fn beside() -> PathBuf {
    const NAME: &str = "outrigger-proxy";
    let beside = std::env::current_exe().ok().map(|own| own.with_file_name(NAME));
    beside.filter(|path| path.is_file()).unwrap_or_else(|| PathBuf::from(NAME))
}

async fn bind(address: SocketAddr, flag: &str) -> Result<TcpListener> {
    TcpListener::bind(address).await.with_context(|| format!("{flag}: cannot listen on {address}"))
}

/// What proxies are told if nobody says otherwise. Every address of this machine is not one that others can dial.
fn reachable(address: SocketAddr) -> SocketAddr {
    if !address.ip().is_unspecified() {
        return address;
    }
    let ip = match address.ip() {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::LOCALHOST),
    };
    warn!("--http-advertise-address is not set: only proxies of this machine can fetch modules");
    SocketAddr::new(ip, address.port())
}

/// Whoever waits for the file never reads half of it.
fn write_addresses(file: &Path, xds: SocketAddr, http: SocketAddr) -> Result<()> {
    let name = file.file_name().context("--address-file: not a file name")?.to_string_lossy();
    let temporary = file.with_file_name(format!(".{name}.{}", std::process::id()));
    let text = format!("{}\n", serde_json::json!({"xds": xds.to_string(), "http": http.to_string()}));
    std::fs::write(&temporary, text)
        .and_then(|()| std::fs::rename(&temporary, file))
        .with_context(|| format!("--address-file: cannot write {}", file.display()))
}

async fn told_to_stop() -> Result<&'static str> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    Ok(tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    })
}
