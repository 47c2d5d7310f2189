//! What the control thread's parts share: the process's state, and what the admin interface tells of it.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use outrigger_config::{ResourceKind, Snapshot};
use outrigger_dataplane::{DrainOptions, Inherited, Workers};
use outrigger_proto::pb::envoy::config::bootstrap::v3::Bootstrap;
use outrigger_stats::Registry;
use outrigger_xds::{AcceptedResource, Status};
use prost::Message;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::args::Options;
use crate::logging::Logging;
use crate::metrics::ServerMetrics;
use crate::rollouts::Rollouts;
use crate::{allocator, certificates, system};

/// Where the process is in its life; Envoy's words and numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum State {
    Live = 0,
    Draining = 1,
    PreInitializing = 2,
    Initializing = 3,
}

impl State {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            State::Live => "LIVE",
            State::Draining => "DRAINING",
            State::PreInitializing => "PRE_INITIALIZING",
            State::Initializing => "INITIALIZING",
        }
    }
}

/// Who asks the process to end, and how.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    No,
    /// Let streams end first.
    Drain,
    Now,
}

/// What the bootstrap says of this proxy, for the admin interface.
#[derive(Debug, Clone, Default)]
pub(crate) struct Node {
    /// `envoy.config.core.v3.Node`.
    pub(crate) message: Bytes,
}

/// The bootstrap as it was loaded.
#[derive(Debug, Clone)]
pub(crate) struct BootstrapDump {
    pub(crate) message: Bytes,
    pub(crate) at: SystemTime,
}

impl BootstrapDump {
    /// The message, if it still decodes: it did when it was loaded.
    pub(crate) fn decode(&self) -> Option<Bootstrap> {
        Bootstrap::decode(self.message.clone()).ok()
    }
}

/// A kind and a name.
pub(crate) type Key = (ResourceKind, Arc<str>);

/// The shared state; on the control thread only.
pub(crate) struct Server {
    pub(crate) options: Options,
    pub(crate) concurrency: usize,
    pub(crate) node: Node,
    pub(crate) bootstrap: BootstrapDump,
    pub(crate) logging: Logging,
    pub(crate) metrics: ServerMetrics,
    pub(crate) status: Status,
    /// Kinds that the bootstrap fetches whole, and whose first answer is waited for.
    pub(crate) awaited: Vec<ResourceKind>,
    /// `None` once they are being shut down.
    pub(crate) workers: RefCell<Option<Workers>>,
    /// Sockets of a predecessor that nothing has bound yet.
    pub(crate) inherited: Inherited,
    /// A copy of the admin interface's, where a successor may ask for it.
    pub(crate) admin_socket: RefCell<Option<(SocketAddr, OwnedFd)>>,
    /// A successor serves: this process ends.
    has_successor: Cell<bool>,
    pub(crate) snapshot: RefCell<Arc<Snapshot>>,
    /// Versions that serve while a later one, which the status tells of, is warming.
    pub(crate) held: RefCell<HashMap<Key, AcceptedResource>>,
    /// New revisions on trial.
    pub(crate) rollouts: Rollouts,
    pub(crate) started: Instant,
    pub(crate) exit: watch::Sender<Exit>,
    state: Cell<State>,
    /// `/healthcheck/fail`.
    failing: Cell<bool>,
}

/// The parts that a server is made of.
pub(crate) struct Parts {
    pub(crate) options: Options,
    pub(crate) concurrency: usize,
    pub(crate) node: Node,
    pub(crate) bootstrap: BootstrapDump,
    pub(crate) logging: Logging,
    pub(crate) registry: Arc<Registry>,
    pub(crate) status: Status,
    pub(crate) awaited: Vec<ResourceKind>,
    pub(crate) workers: Workers,
    pub(crate) inherited: Inherited,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("state", &self.state.get()).finish_non_exhaustive()
    }
}

impl Server {
    pub(crate) fn new(parts: Parts) -> Server {
        let metrics = ServerMetrics::new(&parts.registry, parts.concurrency);
        let rollouts = Rollouts::new(&parts.registry);
        let server = Server {
            options: parts.options,
            concurrency: parts.concurrency,
            node: parts.node,
            bootstrap: parts.bootstrap,
            logging: parts.logging,
            metrics,
            status: parts.status,
            awaited: parts.awaited,
            workers: RefCell::new(Some(parts.workers)),
            snapshot: RefCell::default(),
            held: RefCell::default(),
            rollouts,
            started: Instant::now(),
            exit: watch::Sender::new(Exit::No),
            state: Cell::new(State::PreInitializing),
            failing: Cell::new(false),
            inherited: parts.inherited,
            admin_socket: RefCell::default(),
            has_successor: Cell::new(false),
        };
        server.enter(State::PreInitializing);
        server
    }

    pub(crate) fn state(&self) -> State {
        self.state.get()
    }

    /// What clients are told: failing health checks look as draining, as in Envoy.
    pub(crate) fn shown_state(&self) -> State {
        match self.state.get() {
            State::Live if self.failing.get() => State::Draining,
            state => state,
        }
    }

    pub(crate) fn enter(&self, state: State) {
        self.state.set(state);
        self.show();
    }

    pub(crate) fn fail_health_checks(&self, failing: bool) {
        self.failing.set(failing);
        self.show();
    }

    fn show(&self) {
        let state = self.shown_state();
        self.metrics.state.set(state as i64);
        self.metrics.live.set(i64::from(state == State::Live));
    }

    /// The listening sockets for a successor, the admin interface's among them.
    pub(crate) fn sockets_for_successor(&self) -> Vec<(SocketAddr, OwnedFd)> {
        let workers = self.workers.borrow();
        let mut sockets = workers.as_ref().map(Workers::sockets_for_successor).unwrap_or_default();
        let admin = self.admin_socket.borrow();
        sockets.extend(admin.as_ref().and_then(|(address, socket)| Some((*address, socket.try_clone().ok()?))));
        sockets
    }

    /// Resolves when a successor serves.
    pub(crate) async fn has_successor(&self) {
        let mut asked = self.exit.subscribe();
        // The sender lives as long as this.
        _ = asked.wait_for(|_| self.has_successor.get()).await;
    }

    /// A successor serves: this process lets its streams finish and ends.
    pub(crate) fn succeeded(&self) {
        self.has_successor.set(true);
        self.ask_exit(Exit::Drain);
    }

    /// Asks the process to end; what was asked for before counts if it is more urgent.
    pub(crate) fn ask_exit(&self, exit: Exit) {
        self.exit.send_if_modified(|asked| {
            let more = matches!((*asked, exit), (Exit::No, Exit::Drain | Exit::Now) | (Exit::Drain, Exit::Now));
            if more {
                *asked = exit;
            }
            more
        });
    }

    pub(crate) fn uptime(&self) -> Duration {
        self.started.elapsed()
    }

    /// How connections are asked to close as the process ends. Without a successor nobody comes back to it: there is nothing
    /// to spread over a time, and nothing to wait for.
    pub(crate) fn drain_at_end(&self) -> DrainOptions {
        if self.has_successor.get() { self.options.drain() } else { DrainOptions::default() }
    }

    pub(crate) fn drain_time(&self) -> Duration {
        let seconds = match self.has_successor.get() {
            true => self.options.drain_time_s.min(self.options.parent_shutdown_time_s),
            false => self.options.drain_time_s,
        };
        Duration::from_secs(u64::from(seconds))
    }

    /// Brings metrics that nobody tells up to date; for a scrape.
    pub(crate) fn refresh_metrics(&self) {
        self.rollouts.refresh();
        let dropped = self.workers.borrow().as_ref().map(Workers::access_log_dropped).unwrap_or_default();
        self.metrics.refresh(self.uptime(), &self.status, dropped);
        self.metrics.certificates(&certificates::all(&self.snapshot.borrow()));
    }

    /// Opens access logs and the process's own log anew.
    pub(crate) fn reopen_logs(&self) -> std::io::Result<()> {
        if let Some(workers) = &*self.workers.borrow() {
            workers.reopen_access_logs();
        }
        self.logging.reopen()
    }

    /// Goes live once the first complete configuration serves.
    pub(crate) fn settle(&self) {
        if self.state.get() == State::Initializing && self.missing().is_empty() {
            self.enter(State::Live);
            self.metrics.workers_started.set(1);
            tracing::info!("all dependencies are there: serving");
            // What only starting needed doesn't stay resident.
            allocator::purge();
            system::forget_startup_code();
        }
    }

    /// What the first complete configuration lacks, a line each.
    pub(crate) fn missing(&self) -> Vec<String> {
        let mut missing = Vec::new();
        let last_error = self.status.ads().last_error;
        for kind in &self.awaited {
            self.status.read(*kind, |status| {
                if status.last_update.is_some() || status.update_success > 0 || !status.accepted.is_empty() {
                    return;
                }
                if status.rejected.is_empty() {
                    let why = if last_error.is_empty() { String::new() } else { format!(" ({last_error})") };
                    missing.push(format!("{kind}: no answer yet{why}"));
                }
                for (name, rejected) in &status.rejected {
                    missing.push(format!("{kind} {name}: rejected: {}", rejected.reason));
                }
            });
        }
        for warming in self.snapshot.borrow().warming.iter().filter(|warming| !warming.has_previous) {
            for (kind, name) in &warming.waiting_for {
                let mut line = format!("{kind} {name}: missing for {} {}", warming.kind, warming.name);
                // A secret is called by its source, too.
                let plain = name.split_once(" of ").map_or(&**name, |(plain, _)| plain);
                if let Some(rejected) = self.status.rejected(*kind, plain) {
                    line.push_str(": rejected: ");
                    line.push_str(&rejected.reason);
                }
                missing.push(line);
            }
        }
        missing.sort();
        missing.dedup();
        missing
    }
}
