//! New revisions of filters on trial, across generations: which run counts which filter's streams, what was given up, and
//! the figures as metrics.

use std::cell::RefCell;
use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use outrigger_config::{Resource, RolloutShare, Snapshot};
use outrigger_dataplane::{GivenUps, RevisionFigures, RolloutRun, RolloutVerdict};
use outrigger_stats::{Counter, Gauge, Name, Registry};

/// Tries that are remembered: a control plane may bring one again that was given up here.
const TRIES_MAX: usize = 256;

type Runs = HashMap<Arc<str>, (Arc<RolloutRun>, RunMetrics)>;

/// On the control thread only.
#[derive(Debug)]
pub(crate) struct Rollouts {
    registry: Arc<Registry>,
    given_ups: Arc<GivenUps>,
    /// Of the published generation, by filter.
    runs: RefCell<Runs>,
    /// By try, the newest last.
    verdicts: RefCell<VecDeque<(Arc<str>, RolloutVerdict)>>,
}

/// What a rejection says of a try that was given up.
pub(crate) fn refusal(id: &str, reason: &str) -> String {
    format!("rollout {id} is given up, all streams have the old revision again: {reason}")
}

impl Rollouts {
    pub(crate) fn new(registry: &Arc<Registry>) -> Rollouts {
        Rollouts {
            registry: Arc::clone(registry),
            given_ups: Arc::default(),
            runs: RefCell::default(),
            verdicts: RefCell::default(),
        }
    }

    pub(crate) fn given_ups(&self) -> &GivenUps {
        &self.given_ups
    }

    /// Why a resource is not taken, where it brings a try that was given up.
    pub(crate) fn refusal(&self, resource: &Resource) -> Option<String> {
        let Resource::Extension(extension) = resource else { return None };
        let id = &extension.rollout.as_ref()?.id;
        let verdicts = self.verdicts.borrow();
        let (_, verdict) = verdicts.iter().find(|(known, _)| known == id)?;
        verdict.get().map(|reason| refusal(id, reason))
    }

    /// The runs of a generation: those that go on, and new ones. What the generation doesn't have is forgotten when it is
    /// published, which is what follows.
    pub(crate) fn runs(&self, snapshot: &Snapshot) -> HashMap<Arc<str>, Arc<RolloutRun>> {
        let mut runs = self.runs.borrow_mut();
        runs.retain(|filter, (run, metrics)| {
            let goes_on = snapshot.extensions.get(filter).is_some_and(|found| found.rollout.is_some());
            if !goes_on {
                // Its last streams count.
                metrics.refresh(run);
                metrics.end();
            }
            goes_on
        });
        for (filter, extension) in &snapshot.extensions {
            let Some(rollout) = &extension.rollout else { continue };
            let before = runs.get(filter);
            if before.is_some_and(|(run, _)| run.rollout() == rollout) {
                continue;
            }
            let before = before.map(|(run, _)| run).filter(|run| run.rollout().id == rollout.id).cloned();
            let verdict = self.verdict(&rollout.id);
            let run = RolloutRun::new(filter, rollout, verdict, before.as_deref(), &self.given_ups);
            let counted = runs.remove(filter).map(|(old, mut metrics)| {
                metrics.refresh(&old);
                metrics
            });
            let metrics = counted.map_or_else(|| RunMetrics::new(&self.registry, filter), RunMetrics::restart);
            runs.insert(Arc::clone(filter), (run, metrics));
        }
        runs.iter().map(|(filter, (run, _))| (Arc::clone(filter), Arc::clone(run))).collect()
    }

    fn verdict(&self, id: &Arc<str>) -> RolloutVerdict {
        let mut verdicts = self.verdicts.borrow_mut();
        if let Some((_, verdict)) = verdicts.iter().find(|(known, _)| known == id) {
            return RolloutVerdict::clone(verdict);
        }
        if verdicts.len() >= TRIES_MAX {
            verdicts.pop_front();
        }
        let verdict = RolloutVerdict::default();
        verdicts.push_back((Arc::clone(id), RolloutVerdict::clone(&verdict)));
        verdict
    }

    /// Brings the metrics up to date; for a scrape.
    pub(crate) fn refresh(&self) {
        self.runs.borrow_mut().values_mut().for_each(|(run, metrics)| metrics.refresh(run));
    }
}

/// The metrics of one filter's tries.
#[derive(Debug)]
struct RunMetrics {
    /// Hundredths of a percent.
    share: Gauge,
    given_up: Gauge,
    /// Action, reply, headers.
    differences: [Counted; 3],
    revisions: [RevisionMetrics; 2],
}

#[derive(Debug)]
struct RevisionMetrics {
    streams: Counted,
    traps: Counted,
    errors: Counted,
}

/// A counter that follows a number which begins anew with each run.
#[derive(Debug)]
struct Counted {
    counter: Counter,
    seen: u64,
}

impl Counted {
    fn new(registry: &Registry, name: &Name) -> Counted {
        Counted { counter: registry.counter(name), seen: 0 }
    }

    fn follow(&mut self, now: u64) {
        self.counter.add(now.saturating_sub(self.seen));
        self.seen = now;
    }
}

impl RunMetrics {
    fn new(registry: &Registry, filter: &str) -> RunMetrics {
        let name = |rest: &str| Name::new("wasm_rollout", rest).tag("wasm_filter", filter);
        let difference = |kind: &str| Counted::new(registry, &name("shadow_differences").tag("difference", kind));
        let revision = |revision: &str| {
            let counted = |rest: &str| Counted::new(registry, &name(rest).tag("revision", revision));
            RevisionMetrics { streams: counted("streams"), traps: counted("traps"), errors: counted("errors_5xx") }
        };
        RunMetrics {
            share: registry.gauge(&name("share")),
            given_up: registry.gauge(&name("given_up")),
            differences: [difference("action"), difference("reply"), difference("headers")],
            revisions: [revision("stable"), revision("candidate")],
        }
    }

    /// Another run of the same filter: its numbers begin at zero.
    fn restart(mut self) -> RunMetrics {
        let of_revisions = self.revisions.iter_mut().flat_map(|of| [&mut of.streams, &mut of.traps, &mut of.errors]);
        self.differences.iter_mut().chain(of_revisions).for_each(|counted| counted.seen = 0);
        self
    }

    /// There is no try any more.
    fn end(&self) {
        self.share.set(0);
        self.given_up.set(0);
    }

    fn refresh(&mut self, run: &RolloutRun) {
        let given_up = run.given_up().is_some();
        self.share.set(match run.rollout().share {
            RolloutShare::Of10k(share) if !given_up => i64::from(share),
            _ => 0,
        });
        self.given_up.set(i64::from(given_up));
        let differences = run.differences();
        for (counted, now) in
            self.differences.iter_mut().zip([differences.action, differences.reply, differences.headers])
        {
            counted.follow(now);
        }
        for (metrics, figures) in self.revisions.iter_mut().zip([run.stable(), run.candidate()]) {
            let RevisionFigures { streams, traps, errors, .. } = figures;
            metrics.streams.follow(streams);
            metrics.traps.follow(traps);
            metrics.errors.follow(errors);
        }
    }
}
