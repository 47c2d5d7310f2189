//! The workers, as the control side sees them.

use std::collections::BTreeMap;
use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use outrigger_http::EndpointAddress;
use outrigger_stats::Registry;
use outrigger_wasm::Services;
use tokio::sync::{mpsc, oneshot};

use crate::access_log::AccessLogWriter;
use crate::cluster::{self, BreakerSet, ClusterStatus, EndpointStatus, HealthSet, LocalZone};
use crate::overload::Overload;
use crate::prepared::{BoundListener, Prepared, WorkerVms};
use crate::trace::SpanSink;
use crate::turns;
use crate::worker::{self, Command, Shared};

/// How the data plane runs.
#[derive(Debug, Clone)]
pub struct Options {
    /// Worker threads, at least one.
    pub concurrency: usize,
    pub stats: Arc<Registry>,
    pub services: Arc<Services>,
    /// Where finished spans are left.
    pub spans: SpanSink,
    pub drain: DrainOptions,
    /// Each worker measures its turns (Envoy's `enable_dispatcher_stats`).
    pub dispatcher_stats: bool,
    /// `None`: the bootstrap names no local cluster.
    pub local: Option<LocalZone>,
}

/// When connections of a listener that drains are asked to close: with an answer, so that no request crosses the close.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainOptions {
    /// Those that are idle at the end of this time are closed.
    pub time: Duration,
    /// Turns are spread over the time; else all are asked from its beginning on.
    pub gradual: bool,
}

/// A drain that somebody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DrainRequest {
    pub inbound_only: bool,
    /// Connections are asked to close, and the listeners accept until the drain time is over; else they stop at once.
    pub graceful: bool,
    /// They go on accepting then too.
    pub keep_accepting: bool,
}

/// A worker has died: it panicked, or the process is shutting down.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a worker is gone")]
pub struct PublishError;

/// The worker threads. Dropping it ends them at once.
#[derive(Debug)]
pub struct Workers {
    commands: Vec<mpsc::UnboundedSender<Command>>,
    threads: Vec<JoinHandle<()>>,
    access_log: AccessLogWriter,
    overload: Arc<Overload>,
    published: Mutex<Option<Arc<Prepared>>>,
    health: HealthSet,
    registry: Arc<Registry>,
}

impl Workers {
    pub fn start(options: Options) -> io::Result<Workers> {
        let concurrency = options.concurrency.max(1);
        let dispatcher_stats = options.dispatcher_stats;
        let access_log = AccessLogWriter::start()?;
        let breakers = BreakerSet::default();
        let overload = Arc::new(Overload::new(breakers.clone()));
        let health = HealthSet::default();
        let registry = options.stats.clone();
        let shared = Shared {
            registry: options.stats,
            services: options.services,
            drain: options.drain,
            access_log: access_log.clone(),
            breakers,
            overload: overload.clone(),
            spans: options.spans,
            health: health.clone(),
            local: options.local,
            connections: (0..concurrency).map(|_| AtomicUsize::new(0)).collect(),
        };
        let (commands, receivers): (Vec<_>, Vec<_>) = (0..concurrency).map(|_| mpsc::unbounded_channel()).unzip();
        let mut threads = Vec::with_capacity(concurrency);
        for (index, receiver) in receivers.into_iter().enumerate() {
            let (shared, peers) = (shared.clone(), commands.clone());
            let thread = std::thread::Builder::new().name(format!("wrk:worker_{index}")).spawn(move || {
                let mut runtime = tokio::runtime::Builder::new_current_thread();
                runtime.enable_all().max_blocking_threads(4).thread_keep_alive(Duration::from_secs(5));
                if dispatcher_stats {
                    turns::measure(index, &shared.registry, &mut runtime);
                }
                match runtime.build_local(tokio::runtime::LocalOptions::default()) {
                    Ok(runtime) => runtime.block_on(worker::run(index, shared, receiver, peers)),
                    Err(error) => tracing::error!(worker = index, "no runtime: {error}"),
                }
            })?;
            threads.push(thread);
        }
        Ok(Workers { commands, threads, access_log, overload, published: Mutex::new(None), health, registry })
    }

    #[must_use]
    pub fn concurrency(&self) -> usize {
        self.commands.len()
    }

    /// Swaps all workers to a generation; resolves when the last one has. `vms`: one entry a worker.
    pub fn publish(
        &self,
        prepared: &Arc<Prepared>,
        vms: Vec<WorkerVms>,
    ) -> impl Future<Output = Result<(), PublishError>> + use<> {
        let mut published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        let previous = published.replace(prepared.clone());
        let before = previous.as_ref().map(|previous| &*previous.snapshot);
        self.health.update(&prepared.snapshot, before, &self.registry);
        drop(published);
        let mut vms = vms.into_iter();
        let confirmations: Vec<_> = self
            .commands
            .iter()
            .map(|worker| {
                let (confirm, confirmed) = oneshot::channel();
                let vms = vms.next().unwrap_or_default();
                _ = worker.send(Command::Publish(prepared.clone(), vms, confirm));
                confirmed
            })
            .collect();
        async move {
            for confirmed in confirmations {
                confirmed.await.map_err(|_| PublishError)?;
            }
            Ok(())
        }
    }

    /// Copies of the listening sockets of the published generation, where they are kept for a successor.
    #[must_use]
    pub fn sockets_for_successor(&self) -> Vec<(SocketAddr, OwnedFd)> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.as_ref().map(|prepared| prepared.sockets_for_successor()).unwrap_or_default()
    }

    /// The listening addresses of the published generation.
    #[must_use]
    pub fn listeners(&self) -> Vec<BoundListener> {
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner);
        published.as_ref().map(|prepared| prepared.listeners()).unwrap_or_default()
    }

    /// Every cluster of the published generation with its endpoints; counts are summed over the workers.
    pub fn clusters(&self) -> impl Future<Output = Vec<ClusterStatus>> + use<> {
        let answers: Vec<_> = self
            .commands
            .iter()
            .map(|worker| {
                let (answer, answered) = oneshot::channel();
                _ = worker.send(Command::Clusters(answer));
                answered
            })
            .collect();
        let published = self.published.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let health = self.health.clone();
        async move {
            let mut seen: BTreeMap<(Arc<str>, EndpointAddress), EndpointStatus> = BTreeMap::new();
            for answer in answers {
                for cluster in answer.await.unwrap_or_default() {
                    for endpoint in cluster.endpoints {
                        let key = (cluster.name.clone(), endpoint.address.clone());
                        seen.entry(key).and_modify(|known| known.add(&endpoint)).or_insert(endpoint);
                    }
                }
            }
            published.map(|prepared| all_clusters(&prepared, &mut seen, &health)).unwrap_or_default()
        }
    }

    /// Watches the endpoints' health: checks them, judges outliers. To be polled on the control thread for as long as the
    /// process serves, within a `LocalSet` or a local runtime.
    pub fn watch_health(&self) -> impl Future<Output = ()> + use<> {
        cluster::keep(self.health.clone())
    }

    pub fn drain_listeners(&self, request: DrainRequest) {
        for worker in &self.commands {
            _ = worker.send(Command::Drain(request));
        }
    }

    /// What the workers shed; for the one who watches the resources.
    #[must_use]
    pub const fn overload(&self) -> &Arc<Overload> {
        &self.overload
    }

    /// Access-log files are opened anew.
    pub fn reopen_access_logs(&self) {
        self.access_log.reopen();
    }

    /// Access-log lines that were dropped.
    #[must_use]
    pub fn access_log_dropped(&self) -> u64 {
        self.access_log.dropped()
    }

    /// Stops accepting, lets streams finish, and ends at the latest after `deadline`.
    pub async fn shutdown(self, deadline: Duration, drain: DrainOptions) {
        for worker in &self.commands {
            _ = worker.send(Command::Shutdown(deadline, drain));
        }
        let (threads, access_log) = (self.threads, self.access_log);
        let joined = tokio::task::spawn_blocking(move || {
            for thread in threads {
                _ = thread.join();
            }
            access_log.flush();
        });
        _ = joined.await;
    }
}

fn all_clusters(
    prepared: &Prepared,
    seen: &mut BTreeMap<(Arc<str>, EndpointAddress), EndpointStatus>,
    health: &HealthSet,
) -> Vec<ClusterStatus> {
    let mut all: Vec<ClusterStatus> = prepared
        .snapshot
        .clusters
        .iter()
        .map(|(name, entry)| {
            let health = health.get(name);
            let mut endpoints = Vec::new();
            for locality in entry.assignment.iter().flat_map(|assignment| assignment.localities.iter()) {
                let place = Arc::new(locality.without_endpoints());
                endpoints.extend(locality.endpoints.iter().map(|endpoint| {
                    seen.remove(&(name.clone(), endpoint.address.clone()))
                        .unwrap_or_else(|| EndpointStatus::unused(endpoint, &place, health.as_ref()))
                }));
            }
            if health.is_some() {
                // Those that are kept though the configuration no longer names them.
                let rest: Vec<_> = seen.keys().filter(|(cluster, _)| cluster == name).cloned().collect();
                endpoints.extend(rest.iter().filter_map(|key| seen.remove(key)));
            }
            ClusterStatus { name: name.clone(), endpoints }
        })
        .collect();
    all.sort_by(|a, b| a.name.cmp(&b.name));
    all
}
