//! The control thread: from the bootstrap to a serving process, and to its end.

use std::cell::RefCell;
use std::collections::HashMap;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::PathBuf;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use outrigger_config::{CodeSource, ResourceKind, StreamSource};
use outrigger_dataplane::{Inherited, LocalZone, Workers, span_queue};
use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_stats::Registry;
use outrigger_wasm::Services;
use outrigger_xds::{
    AdsOptions, Bootstrap, BootstrapOptions, ConfigSink, Problem, ResourceSource, Status, decode_bootstrap, run_ads,
    run_files, run_secret_files, run_secret_streams,
};
use prost::Message;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::Instant;

use crate::args::{Mode, Options};
use crate::cache::{Cache, default_folder};
use crate::channel::{Connector, Dial};
use crate::code_key::CodeKeys;
use crate::hand_over::Succession;
use crate::logging::Logging;
use crate::metrics::WasmMetrics;
use crate::modules::{Endpoints, Modules};
use crate::plugins::{Plugins, of_resource};
use crate::render_child::Children;
use crate::server::{BootstrapDump, Exit, Node, Parts, Server, State};
use crate::sink::Sink;
use crate::{admin, allocator, bootstrap, node, otlp, overload, system};

/// How soon it is looked again whether everything that the start waits for is there; each time a little later.
const SETTLE_PAUSE: Duration = Duration::from_millis(10);
const SETTLE_PAUSE_MAX: Duration = Duration::from_millis(250);
/// How long metrics of what is gone are shown, unless the bootstrap says it; and in how many steps that is looked at.
const STATS_IDLE_TIME: Duration = Duration::from_secs(600);
const STATS_SWEEPS: u32 = 10;
/// For workers to end when nobody waits for streams.
const EXIT_TIME_MAX: Duration = Duration::from_secs(5);

/// Serves or validates; what is wrong was logged when it returns a failure.
pub(crate) async fn run(options: Options, logging: Logging) -> ExitCode {
    let loaded = load(&options).await;
    let (message, bootstrap) = match loaded {
        Ok(loaded) => loaded,
        Err(problems) => return refuse(&options, &problems),
    };
    if options.mode == Mode::Validate {
        return validate(&options, &bootstrap).await;
    }
    for problem in &bootstrap.warnings {
        tracing::warn!("bootstrap: {problem}");
    }
    match serve(options, logging, message, bootstrap).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn load(options: &Options) -> Result<(Bytes, Bootstrap), Vec<String>> {
    let bootstrap::Loaded { message, unknown } = bootstrap::load(options).await?;
    let of_line = BootstrapOptions {
        service_node: options.service_node.clone(),
        service_cluster: options.service_cluster.clone(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        allow_unknown_fields: options.allow_unknown_static_fields,
    };
    let mut bootstrap = decode_bootstrap(&message, &of_line)
        .map_err(|problems| problems.iter().map(ToString::to_string).collect::<Vec<_>>())?;
    if let Some(zone) = &options.service_zone {
        bootstrap.node.locality.get_or_insert_default().zone.clone_from(zone);
    }
    let unknown = unknown.into_iter().map(|message| Problem { path: String::new(), message });
    bootstrap.warnings.splice(0..0, unknown);
    Ok((message, bootstrap))
}

fn local_zone(bootstrap: &Bootstrap) -> Option<LocalZone> {
    let cluster = bootstrap.local_cluster.clone()?;
    let core::Locality { region, zone, sub_zone } = bootstrap.node.locality.clone().unwrap_or_default();
    Some(LocalZone { cluster, region, zone, sub_zone })
}

fn name(options: &Options) -> String {
    options.config_path.as_ref().map_or_else(|| "--config-yaml".to_owned(), |path| path.display().to_string())
}

fn refuse(options: &Options, problems: &[String]) -> ExitCode {
    if options.mode == Mode::Validate {
        let mut stderr = std::io::stderr().lock();
        for problem in problems {
            _ = writeln!(stderr, "{problem}");
        }
        _ = writeln!(stderr, "configuration '{}' has {} problem(s)", name(options), problems.len());
    } else {
        for problem in problems {
            tracing::error!("bootstrap: {problem}");
        }
    }
    ExitCode::FAILURE
}

/// There is nobody to fetch from while a configuration is only checked.
struct NoEndpoints;

impl Endpoints for NoEndpoints {
    async fn endpoints(&self, cluster: &Arc<str>) -> Result<Vec<Dial>, String> {
        Err(format!("nothing is fetched from cluster {cluster} while validating"))
    }
}

/// Checks what needs no network: modules that lie here must compile, start and take their configuration.
async fn validate(options: &Options, bootstrap: &Bootstrap) -> ExitCode {
    let registry = Arc::new(Registry::default());
    let metrics = Rc::new(WasmMetrics::new(&registry));
    let modules = Modules::new(open_cache(options), CodeKeys::default(), Rc::clone(&metrics));
    let plugins = Plugins::new(modules, Services::new(registry, node::to_host(&bootstrap.node)), 0, metrics);
    let mut problems = Vec::new();
    for (name, resource) in bootstrap.static_resources.iter().flat_map(|update| &update.upserts) {
        for plugin in of_resource(resource) {
            if matches!(plugin.vm.code.source, CodeSource::Remote(_)) {
                continue;
            }
            if let Err(reason) = plugins.prepare(&plugin, Instant::now(), &NoEndpoints).await {
                problems.push(format!("{} {name}: {reason}", resource.kind()));
            }
        }
    }
    if !problems.is_empty() {
        return refuse(options, &problems);
    }
    for problem in &bootstrap.warnings {
        _ = writeln!(std::io::stderr(), "warning: {problem}");
    }
    _ = writeln!(std::io::stdout(), "configuration '{}' OK", name(options));
    ExitCode::SUCCESS
}

fn open_cache(options: &Options) -> Option<Cache> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from);
    let folder = options.wasm_cache_dir.clone().unwrap_or_else(|| default_folder(variable));
    match Cache::open(&folder) {
        Ok(cache) => Some(cache),
        Err(error) => {
            tracing::warn!("no cache for compiled filters: {error}; they are compiled at each start");
            None
        }
    }
}

async fn serve(options: Options, logging: Logging, message: Bytes, bootstrap: Bootstrap) -> anyhow::Result<()> {
    let concurrency = options.concurrency.map_or(0, usize::from);
    let concurrency = if concurrency == 0 { system::cpus() } else { concurrency };
    set_hostname();
    outrigger_config::set_local_zone(system::local_zone);
    outrigger_dataplane::install_provider();
    let keys = CodeKeys::load(&options.wasm_code_key)?;
    let registry = Arc::new(Registry::default());
    let services = Services::new(Arc::clone(&registry), node::to_host(&bootstrap.node));
    outrigger_wasm::set_node(node::to_host(&bootstrap.node));
    let (span_sink, span_queue) = span_queue();
    let workers = Workers::start(outrigger_dataplane::Options {
        concurrency,
        stats: Arc::clone(&registry),
        services: Arc::clone(&services),
        spans: span_sink,
        drain: options.drain(),
        dispatcher_stats: bootstrap.dispatcher_stats,
        local: local_zone(&bootstrap),
    })?;
    tokio::task::spawn_local(workers.watch_health());
    let wasm_metrics = Rc::new(WasmMetrics::new(&registry));
    let modules = Modules::new(open_cache(&options), keys, Rc::clone(&wasm_metrics));
    let plugins = Plugins::new(modules, services, concurrency, wasm_metrics);
    let address_file = options.admin_address_path.clone();
    let succession = Succession::open(&options)?;
    let inherited = match &succession {
        Some(succession) => succession.inherit()?,
        None => Inherited::default(),
    };
    let server = Rc::new(Server::new(Parts {
        options,
        concurrency,
        node: Node { message: bootstrap.node.encode_to_vec().into() },
        bootstrap: BootstrapDump { message, at: SystemTime::now() },
        logging,
        registry,
        status: Status::new(),
        awaited: awaited(&bootstrap),
        workers,
        inherited,
    }));
    server.status.note_bootstrap(&bootstrap);
    tracing::info!("node {:?} of cluster {:?}, {concurrency} worker(s)", bootstrap.node.id, bootstrap.node.cluster);
    if let Some(admin) = &bootstrap.admin {
        let listener = admin::bind(admin.address, address_file.as_deref(), &server.inherited)
            .map_err(|error| anyhow::anyhow!("cannot bind the admin address {}: {error}", admin.address))?;
        tracing::info!("admin listening on {}", listener.local_addr()?);
        if succession.is_some() {
            let copy = listener.as_fd().try_clone_to_owned()?;
            *server.admin_socket.borrow_mut() = Some((listener.local_addr()?, copy));
        }
        tokio::task::spawn_local(admin::serve(listener, Rc::clone(&server)));
    }
    if let Some(succession) = succession {
        let (base_id, epoch) = succession.place();
        tracing::info!("base id {base_id}, epoch {epoch}");
        tokio::task::spawn_local(succeed(base_id, epoch, Rc::clone(&server)));
        tokio::task::spawn_local(hand_over(succession, Rc::clone(&server)));
    }
    let registry = Arc::clone(server.metrics.registry());
    let exporter = tokio::task::spawn_local(otlp::export(span_queue, Rc::clone(&server), registry));
    let signals = Signals::new()?;
    let sink = Rc::new(Sink::new(Rc::clone(&server), plugins));
    let ending = tokio::task::spawn_local(until_asked(signals, Rc::clone(&server)));
    let started = start(bootstrap, &server, &sink);
    tokio::pin!(started);
    let mut asked = server.exit.subscribe();
    tokio::select! {
        started = &mut started => started?,
        // Compiling filters may take a while; nobody has to wait for it.
        _ = asked.wait_for(|exit| *exit != Exit::No) => {}
    }
    let exit = *asked.wait_for(|exit| *exit != Exit::No).await?;
    end(&server, exit).await;
    // The workers are gone, and with them the queue's other end: the last spans go out within a moment.
    _ = tokio::time::timeout(EXIT_TIME_MAX, exporter).await;
    ending.abort();
    Ok(())
}

/// Publishes the static resources and starts the sources of the others.
async fn start(bootstrap: Bootstrap, server: &Rc<Server>, sink: &Rc<Sink>) -> anyhow::Result<()> {
    let files = bootstrap.files();
    let overload = server.workers.borrow().as_ref().map(|workers| Arc::clone(workers.overload()));
    if let Some(overload) = &overload {
        overload.bound_connections(&bootstrap.overload);
    }
    for update in bootstrap.static_resources {
        let verdict = sink.submit(update).await;
        if let Some(rejected) = verdict.rejected.first() {
            anyhow::bail!("static_resources: {}: {}", rejected.name, rejected.reason);
        }
    }
    allocator::purge();
    server.enter(State::Initializing);
    let own = (Rc::clone(sink), Rc::clone(server));
    tokio::task::spawn_local(async move {
        let (sink, server) = own;
        run_files(files, &Children, &*sink, sink.needed(), &server.status).await;
    });
    tokio::task::spawn_local(forget_idle(bootstrap.stats_eviction_interval, Arc::clone(server.metrics.registry())));
    if let Some(overload) = overload {
        let registry = Arc::clone(server.metrics.registry());
        tokio::task::spawn_local(overload::watch(bootstrap.overload, overload, registry));
    }
    start_secrets(bootstrap.node.clone(), server, sink);
    let own = (Rc::clone(sink), server.metrics.registry().clone());
    let resolver = bootstrap.dns_resolver;
    tokio::task::spawn_local(async move {
        let (sink, registry) = own;
        crate::dns::run(resolver, registry, &*sink, sink.needed()).await;
    });
    if let Some(ads) = bootstrap.ads {
        let options = AdsOptions {
            node: bootstrap.node,
            variant: ads.variant,
            clusters: bootstrap.cds == Some(ResourceSource::Ads),
            listeners: bootstrap.lds == Some(ResourceSource::Ads),
            initial_metadata: ads.initial_metadata.clone(),
        };
        let own = (Rc::clone(sink), Rc::clone(server));
        let connector = Rc::new(Connector::new(Rc::clone(server), ads.cluster, ads.authority));
        tokio::task::spawn_local(async move {
            let (sink, server) = own;
            let connect = || {
                let connector = Rc::clone(&connector);
                async move { connector.connect().await }
            };
            run_ads(options, connect, &*sink, sink.needed(), &server.status).await;
        });
    }
    tokio::task::spawn_local(settle(Rc::clone(server)));
    Ok(())
}

/// Lets the predecessor go once this process serves.
async fn succeed(base_id: u32, epoch: u32, server: Rc<Server>) {
    if epoch == 0 {
        return;
    }
    let mut pause = SETTLE_PAUSE;
    while server.state() != State::Live {
        tokio::time::sleep(pause).await;
        pause = (pause + pause / 8).min(SETTLE_PAUSE_MAX);
    }
    for address in server.inherited.forget() {
        tracing::info!("the predecessor's listener on {address} is no longer configured");
    }
    let told = tokio::task::spawn_blocking(move || Succession::tell_predecessor(base_id, epoch));
    match told.await {
        Ok(Ok(())) => tracing::info!("the predecessor drains and ends"),
        Ok(Err(error)) => tracing::warn!("the predecessor was not told to end: {error:#}"),
        Err(error) => tracing::warn!("the predecessor was not told to end: {error}"),
    }
}

async fn hand_over(succession: Succession, server: Rc<Server>) {
    if let Err(error) = succession.serve(server).await {
        tracing::warn!("no successor can take this process's sockets: {error}");
    }
}

/// Metrics of what is gone are shown for a while, so that a scrape finds the last counts, and then forgotten.
async fn forget_idle(interval: Option<Duration>, registry: Arc<Registry>) {
    let sweep_interval = interval.unwrap_or(STATS_IDLE_TIME) / STATS_SWEEPS;
    loop {
        tokio::time::sleep(sweep_interval).await;
        registry.sweep(STATS_SWEEPS);
    }
}

/// Starts the sources of secrets that are no ADS: streams of their own, and the files that secrets name.
fn start_secrets(node: core::Node, server: &Rc<Server>, sink: &Rc<Sink>) {
    let (streams, files) = ((Rc::clone(sink), Rc::clone(server)), (Rc::clone(sink), Rc::clone(server)));
    tokio::task::spawn_local(async move {
        let (sink, server) = streams;
        // One connector a source: it goes from endpoint to endpoint.
        let connectors: RefCell<HashMap<Arc<StreamSource>, Rc<Connector>>> = RefCell::default();
        let connect = |source: Arc<StreamSource>| {
            let (cluster, authority) = (Arc::clone(&source.cluster), source.authority.clone());
            let made = || Rc::new(Connector::new(Rc::clone(&server), cluster, authority));
            let mut connectors = connectors.borrow_mut();
            // What nobody names any more goes.
            connectors.retain(|known, _| Arc::strong_count(known) > 1);
            let connector = Rc::clone(connectors.entry(source).or_insert_with(made));
            async move { connector.connect().await }
        };
        run_secret_streams(node, connect, &*sink, sink.needed(), &server.status).await;
    });
    tokio::task::spawn_local(async move {
        let (sink, server) = files;
        run_secret_files(&*sink, sink.needed(), &server.status).await;
    });
}

/// Watches for the moment when the first complete configuration serves.
async fn settle(server: Rc<Server>) {
    let mut pause = SETTLE_PAUSE;
    while server.state() == State::Initializing {
        server.settle();
        tokio::time::sleep(pause).await;
        pause = (pause + pause / 8).min(SETTLE_PAUSE_MAX);
    }
}

/// Kinds whose first answer the start waits for.
fn awaited(bootstrap: &Bootstrap) -> Vec<ResourceKind> {
    let sources = [(&bootstrap.cds, ResourceKind::Cluster), (&bootstrap.lds, ResourceKind::Listener)];
    sources.into_iter().filter_map(|(source, kind)| source.is_some().then_some(kind)).collect()
}

/// For `%HOSTNAME%` in access logs.
fn set_hostname() {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let name = name.trim();
    outrigger_config::set_hostname(if name.is_empty() { "-" } else { name });
}

struct Signals {
    terminate: Signal,
    interrupt: Signal,
    reopen: Signal,
    /// Taken so that it ends nobody.
    hang_up: Signal,
}

impl Signals {
    fn new() -> std::io::Result<Signals> {
        Ok(Signals {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            reopen: signal(SignalKind::user_defined1())?,
            hang_up: signal(SignalKind::hangup())?,
        })
    }
}

/// Acts on signals: the first one that ends the process lets streams finish, the second one doesn't.
async fn until_asked(mut signals: Signals, server: Rc<Server>) {
    loop {
        let asks_to_end = tokio::select! {
            _ = signals.terminate.recv() => true,
            _ = signals.interrupt.recv() => true,
            _ = signals.reopen.recv() => {
                if let Err(error) = server.reopen_logs() {
                    tracing::error!("cannot reopen the log: {error}");
                }
                false
            }
            _ = signals.hang_up.recv() => false,
        };
        if asks_to_end {
            let again = server.state() == State::Draining;
            server.ask_exit(if again { Exit::Now } else { Exit::Drain });
        }
    }
}

/// Lets streams finish within the drain time, unless somebody is in a hurry.
async fn end(server: &Rc<Server>, exit: Exit) {
    server.enter(State::Draining);
    let Some(workers) = server.workers.borrow_mut().take() else { return };
    let time = if exit == Exit::Drain { server.drain_time() } else { Duration::ZERO };
    tracing::info!("ending: streams have {} s to finish", time.as_secs());
    let mut asked = server.exit.subscribe();
    let hurry = async {
        _ = asked.wait_for(|exit| *exit == Exit::Now).await;
        if exit == Exit::Now {
            tokio::time::sleep(EXIT_TIME_MAX).await;
        }
    };
    tokio::select! {
        () = workers.shutdown(time, server.drain_at_end()) => {}
        () = hurry => {}
    }
    tracing::info!("ended");
}
