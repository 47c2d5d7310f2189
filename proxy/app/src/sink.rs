//! The update pipeline (ARCHITECTURE.md, "One update"): what a source decoded becomes what the workers serve.
//!
//! Costly things are prepared resource by resource before the base is touched; a failure there rejects one resource and
//! leaves its previous version. Then, without a wait in between: apply, compile, open sockets, hand over to the workers.
//! Nothing that can be rejected happens after that.

use std::cell::RefCell;
use std::collections::HashSet;
use std::collections::hash_map::Entry;
use std::future::Future;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use futures_util::stream::{self, StreamExt};
use outrigger_config::{
    FailurePolicy, Needed, Resource, ResourceKind, ResourceSet, Snapshot, Source, Update, WasmPlugin,
};
use outrigger_dataplane::{ListenerFailure, Prepared, PublishError};
use outrigger_xds::{ConfigSink, Rejected, Verdict};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::allocator;
use crate::channel::{Dial, dials};
use crate::metrics::milliseconds;
use crate::modules::Endpoints;
use crate::plugins::{Missing, Plugins, brings, of_resource};
use crate::rollouts::refusal;
use crate::server::Server;

/// For the workers to take a generation over; a busy one is waited for no longer, since it will.
const CONFIRM_TIME_MAX: Duration = Duration::from_secs(5);
/// For a cluster that code is fetched from, and that may be on its way.
const CLUSTER_TIME_MAX: Duration = Duration::from_secs(10);
/// Resources of one update that are prepared at one time.
const PREPARED_AT_ONCE: usize = 4;
/// A generation's plugins are looked for again when something changed while the missing ones were prepared.
const ROUNDS_MAX: usize = 8;
/// Updates of this many resources leave much garbage behind.
const LARGE_UPDATE: usize = 500;

/// Where all sources' updates go.
#[derive(Debug)]
pub(crate) struct Sink {
    server: Rc<Server>,
    plugins: Plugins,
    set: RefCell<ResourceSet>,
    prepared: RefCell<Option<Arc<Prepared>>>,
    needed: watch::Sender<Needed>,
    /// The generation that is published.
    generation: watch::Sender<u64>,
}

/// What came of trying to publish.
enum Outcome<F> {
    /// Handed over to the workers; done when they have swapped.
    Published(F),
    /// Nothing changed.
    Same,
    /// The generation needs something that isn't ready.
    Missing(Missing),
}

impl ConfigSink for Sink {
    async fn submit(&self, mut update: Update) -> Verdict {
        let started = Instant::now();
        let (kind, size) = (update.kind, update.upserts.len());
        let mut rejected = self.prepare(&mut update, started).await;
        for _ in 0..ROUNDS_MAX {
            match self.commit(&mut update, &mut rejected) {
                Outcome::Same => break,
                Outcome::Published(confirmed) => {
                    if let Some(confirmed) = confirmed {
                        self.confirm(confirmed).await;
                    }
                    break;
                }
                Outcome::Missing(missing) => self.make_ready(missing, &mut update, &mut rejected, started).await,
            }
        }
        if size > LARGE_UPDATE {
            drop(update);
            allocator::purge();
        }
        if let Some(metrics) = self.server.metrics.update(kind) {
            metrics.duration.record(milliseconds(started.elapsed()));
        }
        for Rejected { name, reason } in &rejected {
            tracing::warn!("{kind} {name} is rejected: {reason}");
        }
        Verdict { rejected }
    }

    async fn given_up(&self, source: &Source) -> (ResourceKind, Rejected) {
        if *source != Source::Ads {
            return std::future::pending().await;
        }
        let given_up = self.server.rollouts.given_ups().next().await;
        let reason = refusal(&given_up.id, &given_up.reason);
        (ResourceKind::Extension, Rejected { name: given_up.filter, reason })
    }
}

impl Sink {
    pub(crate) fn new(server: Rc<Server>, plugins: Plugins) -> Sink {
        Sink {
            server,
            plugins,
            set: RefCell::default(),
            prepared: RefCell::default(),
            needed: watch::Sender::new(Needed::default()),
            generation: watch::Sender::new(0),
        }
    }

    /// What the sources have to fetch, as it changes.
    pub(crate) fn needed(&self) -> watch::Receiver<Needed> {
        self.needed.subscribe()
    }

    /// Prepares what every resource of an update brings, and takes out those that fail.
    async fn prepare(&self, update: &mut Update, asked: Instant) -> Vec<Rejected> {
        let source = update.source.clone();
        let jobs = update.upserts.iter().filter_map(|(name, resource)| {
            let plugins = of_resource(resource);
            let refused = self.server.rollouts.refusal(resource);
            (!plugins.is_empty()).then(|| self.prepare_resource(name, plugins, refused, &source, asked))
        });
        let outcomes: Vec<Option<Rejected>> = stream::iter(jobs).buffer_unordered(PREPARED_AT_ONCE).collect().await;
        let rejected: Vec<Rejected> = outcomes.into_iter().flatten().collect();
        if !rejected.is_empty() {
            let names: HashSet<&Arc<str>> = rejected.iter().map(|rejected| &rejected.name).collect();
            update.upserts.retain(|(name, _)| !names.contains(name));
        }
        rejected
    }

    async fn prepare_resource(
        &self,
        name: &Arc<str>,
        plugins: Vec<Arc<WasmPlugin>>,
        refused: Option<String>,
        source: &Source,
        asked: Instant,
    ) -> Option<Rejected> {
        if let Some(reason) = refused {
            return Some(Rejected { name: Arc::clone(name), reason });
        }
        for plugin in plugins {
            let Err(reason) = self.plugins.prepare(&plugin, asked, self).await else { continue };
            if self.passes_over(&plugin, &reason, source) {
                continue;
            }
            return Some(Rejected { name: Arc::clone(name), reason });
        }
        None
    }

    /// A proxy starts without a static plugin that can't be had, where that plugin's policy lets requests pass.
    fn passes_over(&self, plugin: &Arc<WasmPlugin>, reason: &str, source: &Source) -> bool {
        let passes = *source == Source::Static && plugin.failure_policy == FailurePolicy::Open;
        if passes {
            tracing::warn!("{reason}; its policy is FAIL_OPEN, so requests pass without it");
            self.plugins.pass_over(plugin);
        }
        passes
    }

    /// Prepares what a generation turned out to need further; what cannot be is taken out of the update.
    async fn make_ready(&self, missing: Missing, update: &mut Update, rejected: &mut Vec<Rejected>, asked: Instant) {
        let mut failed = Vec::new();
        match missing {
            Missing::Plugins(plugins) => {
                for plugin in plugins {
                    if let Err(reason) = self.plugins.prepare(&plugin, asked, self).await {
                        failed.push((plugin, reason));
                    }
                }
            }
            Missing::Vms(wanted) => {
                let started = stream::iter(wanted).map(|wanted| self.plugins.start(wanted));
                failed = started.buffer_unordered(PREPARED_AT_ONCE).concat().await;
            }
        }
        for (plugin, reason) in failed {
            self.take_out(&plugin, &reason, update, rejected);
        }
    }

    /// Rejects what brings a plugin that can't be had.
    fn take_out(&self, plugin: &Arc<WasmPlugin>, reason: &str, update: &mut Update, rejected: &mut Vec<Rejected>) {
        if self.passes_over(plugin, reason, &update.source) {
            return;
        }
        let before = update.upserts.len();
        update.upserts.retain(|(name, resource)| {
            let brings = brings(resource, plugin);
            if brings {
                rejected.push(Rejected { name: Arc::clone(name), reason: reason.to_owned() });
            }
            !brings
        });
        if update.upserts.len() == before {
            // Something else brings it to light: an older resource that could be prepared when it came.
            tracing::error!("{reason}; requests are answered as its failure policy has it");
            self.plugins.pass_over(plugin);
        }
    }

    /// Applies, compiles and publishes, without a wait. Listeners that cannot be opened are taken out and it starts over.
    fn commit(
        &self,
        update: &mut Update,
        rejected: &mut Vec<Rejected>,
    ) -> Outcome<Option<impl Future<Output = Result<(), PublishError>> + use<>>> {
        let previous = self.server.snapshot.borrow().clone();
        let mut demoted: Vec<Update> = Vec::new();
        loop {
            let mut candidate = self.set.borrow().clone();
            let mut applied = update.clone();
            applied.refused.extend(rejected.iter().map(|rejected| Arc::clone(&rejected.name)));
            let changes = candidate.apply(applied);
            for demoted in &demoted {
                candidate.apply(demoted.clone());
            }
            if changes.is_empty() && previous.generation > 0 {
                rejected.extend(not_applied(changes.rejected));
                return Outcome::Same;
            }
            let snapshot = Arc::new(Snapshot::compile(&candidate, Some(&previous), previous.generation + 1));
            if let Some(missing) = self.plugins.missing(&snapshot) {
                return Outcome::Missing(missing);
            }
            let taken = self.plugins.take(&snapshot);
            let last = self.prepared.borrow().clone();
            let plugins = taken.plugins.clone();
            let (concurrency, inherited) = (self.server.concurrency, &self.server.inherited);
            let (plugins_of, rollouts) = (plugins.clone(), self.server.rollouts.runs(&snapshot));
            let prepared =
                Prepared::new(Arc::clone(&snapshot), plugins_of, rollouts, last.as_ref(), concurrency, inherited);
            match prepared {
                Ok(prepared) => {
                    rejected.extend(not_applied(changes.rejected));
                    self.hold_back(&snapshot);
                    candidate.collect(&previous, &snapshot);
                    self.plugins.published(plugins, &snapshot, &candidate);
                    let prepared = Arc::new(prepared);
                    let workers = self.server.workers.borrow();
                    let confirmed = workers.as_ref().map(|workers| workers.publish(&prepared, taken.vms));
                    drop(workers);
                    *self.prepared.borrow_mut() = Some(prepared);
                    *self.set.borrow_mut() = candidate;
                    self.announce(snapshot);
                    return Outcome::Published(confirmed);
                }
                Err(failures) => {
                    self.plugins.give_back(taken);
                    self.server.metrics.listener_create_failure.add(failures.len() as u64);
                    for failure in failures {
                        demoted.extend(demote(failure, update, rejected, &candidate, &previous));
                    }
                }
            }
        }
    }

    /// Remembers the versions that serve on while the ones of this update are warming.
    fn hold_back(&self, snapshot: &Snapshot) {
        let mut held = self.server.held.borrow_mut();
        let warming = snapshot.warming.iter().filter(|warming| warming.has_previous);
        let keys: HashSet<_> = warming.map(|warming| (warming.kind, Arc::clone(&warming.name))).collect();
        held.retain(|key, _| keys.contains(key));
        for key in keys {
            if let Entry::Vacant(vacant) = held.entry(key) {
                // The status still tells of the version before this update.
                let (kind, name) = vacant.key();
                if let Some(resource) = self.server.status.accepted(*kind, name) {
                    vacant.insert(resource);
                }
            }
        }
    }

    /// Tells everybody about a generation that the workers are about to serve.
    fn announce(&self, snapshot: Arc<Snapshot>) {
        let metrics = &self.server.metrics;
        let count = |number: usize| i64::try_from(number).unwrap_or(i64::MAX);
        let warming = |kind| count(snapshot.warming.iter().filter(|warming| warming.kind == kind).count());
        metrics.generation.set(i64::try_from(snapshot.generation).unwrap_or(i64::MAX));
        metrics.listeners_active.set(count(snapshot.listeners.len()));
        metrics.listeners_warming.set(warming(ResourceKind::Listener));
        metrics.clusters_active.set(count(snapshot.clusters.len()));
        metrics.clusters_warming.set(warming(ResourceKind::Cluster));
        let (needed, generation) = (snapshot.needed.clone(), snapshot.generation);
        *self.server.snapshot.borrow_mut() = snapshot;
        self.needed.send_if_modified(|current| {
            let differs = *current != needed;
            if differs {
                *current = needed;
            }
            differs
        });
        self.generation.send_replace(generation);
    }

    async fn confirm(&self, confirmed: impl Future<Output = Result<(), PublishError>>) {
        match tokio::time::timeout(CONFIRM_TIME_MAX, confirmed).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::error!("a worker didn't take the new configuration over: {error}"),
            Err(_) => {
                self.server.metrics.publish_timeouts.inc();
                tracing::warn!("not every worker took the new configuration over within {CONFIRM_TIME_MAX:?}");
            }
        }
    }
}

fn not_applied(rejected: Vec<(Arc<str>, String)>) -> impl Iterator<Item = Rejected> {
    rejected.into_iter().map(|(name, reason)| Rejected { name, reason })
}

/// What to do about a listener that can't be opened: reject it where this update brings it; otherwise (it was warming)
/// go back to the version that serves.
fn demote(
    failure: ListenerFailure,
    update: &mut Update,
    rejected: &mut Vec<Rejected>,
    candidate: &ResourceSet,
    previous: &Snapshot,
) -> Option<Update> {
    let ListenerFailure { listener, reason } = failure;
    let before = update.upserts.len();
    if update.kind == ResourceKind::Listener {
        update.upserts.retain(|(name, _)| *name != listener);
    }
    if update.upserts.len() < before {
        rejected.push(Rejected { name: listener, reason });
        return None;
    }
    tracing::error!("listener {listener}: {reason}");
    let source = candidate.source(ResourceKind::Listener, &listener)?.clone();
    let serving = previous.listeners.get(&listener).cloned();
    let (upserts, removed) = match serving {
        Some(serving) => (vec![(listener, Resource::Listener(serving))], Vec::new()),
        None => (Vec::new(), vec![listener]),
    };
    Some(Update { source, kind: ResourceKind::Listener, upserts, removed, missing: Vec::new(), refused: Vec::new() })
}

impl Endpoints for Sink {
    async fn endpoints(&self, cluster: &Arc<str>) -> Result<Vec<Dial>, String> {
        let mut generation = self.generation.subscribe();
        let until = Instant::now() + CLUSTER_TIME_MAX;
        loop {
            let snapshot = self.server.snapshot.borrow().clone();
            let error = match dials(&snapshot, cluster) {
                Ok(dials) => return Ok(dials),
                Err(error) => error,
            };
            match tokio::time::timeout_at(until, generation.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) | Err(_) => return Err(format!("there is nowhere to fetch the code from: {error}")),
            }
        }
    }
}
