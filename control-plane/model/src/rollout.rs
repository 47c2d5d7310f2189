//! [`Rollouts`]: which revision of a filter runs, and which new one is tried beside it.
//!
//! A pure state machine. In go the filters as users wrote them ([`Rollouts::stage`]) and what proxies report
//! ([`Rollouts::advance`]); the filters come out as proxies get them. A revision that was given up stays so until its
//! filter's revision, plan or mode changes. What must survive a restart of the control plane is in [`Record`]; the time
//! that a step has served is not, so that after a restart the step serves its whole pause again.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use sha2::{Digest as _, Sha256};

use crate::filter::{Digest, Guardrails, Revision, RolloutPlan, Trial, WasmFilter};
use crate::ids::ObjectId;
use crate::objects::Objects;

/// Filters, by id.
#[derive(Clone, Debug, Default)]
pub struct Rollouts {
    entries: BTreeMap<ObjectId, Entry>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Entry {
    record: Record,
    /// The user wants rollouts or a shadow: the record must outlive the process.
    staged: bool,
    plan: Option<RolloutPlan>,
    shadow: bool,
    /// Since when every proxy has the step as it is; milliseconds of the caller's clock.
    since: Option<u64>,
}

/// What is to be remembered of a filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    /// What runs. `None`: there has only been a shadow yet.
    pub stable: Option<Arc<Revision>>,
    pub progress: Option<Progress>,
    pub given_up: Option<GivenUp>,
}

/// A new revision on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Progress {
    pub id: String,
    pub revision: Arc<Revision>,
    /// Into the plan's steps.
    pub step: usize,
}

/// A new revision that is not tried any more.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GivenUp {
    pub id: String,
    /// [`Revision::name`].
    pub revision: String,
    /// The share that it had.
    pub percent: u8,
    pub reason: String,
}

/// What proxies say of one filter.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reports {
    /// Connected, with this filter.
    pub proxies: usize,
    /// Of those, the ones that have the stage that they should.
    pub current: usize,
    /// One that doesn't take it, or has given it up, and why.
    pub rejected: Option<(String, String)>,
}

/// Where a filter's rollout stands, for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RolloutState {
    /// One revision everywhere.
    Complete,
    /// A step serves, or is on its way to the proxies.
    Progressing {
        progress: Progress,
        percent: u8,
        steps: Vec<u8>,
        since: Option<u64>,
    },
    /// The new revision sees copies.
    Shadow {
        progress: Progress,
    },
    GivenUp(GivenUp),
}

/// What [`Rollouts::advance`] did, for the log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    Step { percent: u8 },
    Promoted { revision: String },
    GivenUp { revision: String, reason: String },
}

impl Rollouts {
    /// Continues what an earlier process remembered.
    pub fn restore(records: impl IntoIterator<Item = (ObjectId, Record)>) -> Self {
        let entry = |record| Entry { record, staged: true, ..Entry::default() };
        Self { entries: records.into_iter().map(|(id, record)| (id, entry(record))).collect() }
    }

    /// What to remember: of filters whose new revisions come in steps or as shadows.
    pub fn records(&self) -> BTreeMap<ObjectId, Record> {
        let staged = self.entries.iter().filter(|(_, entry)| entry.staged);
        staged.map(|(id, entry)| (id.clone(), entry.record.clone())).collect()
    }

    /// Turns the filters as users wrote them into what proxies get. Filters that are gone are forgotten.
    pub fn stage(&mut self, objects: &mut Objects) {
        self.entries.retain(|id, _| objects.filters.contains_key(id));
        for (id, filter) in &mut objects.filters {
            let entry = self.entries.entry(id.clone()).or_default();
            entry.follow(filter);
            if let Some(staged) = entry.staged(filter) {
                *filter = Arc::new(staged);
            }
        }
    }

    /// Whether anything waits for [`Rollouts::advance`].
    pub fn is_active(&self) -> bool {
        self.entries.values().any(|entry| entry.record.progress.is_some())
    }

    /// Filters with a new revision on its way.
    pub fn active(&self) -> impl Iterator<Item = &ObjectId> {
        self.entries.iter().filter(|(_, entry)| entry.record.progress.is_some()).map(|(id, _)| id)
    }

    /// Goes on with what serves long enough, and gives up what a proxy rejects. Returns what changed; [`Rollouts::stage`]
    /// then tells what proxies get.
    pub fn advance(&mut self, now: u64, reports: impl Fn(&ObjectId) -> Reports) -> Vec<(ObjectId, Event)> {
        let active = self.entries.iter_mut().filter(|(_, entry)| entry.record.progress.is_some());
        active.filter_map(|(id, entry)| Some((id.clone(), entry.advance(now, &reports(id))?))).collect()
    }

    /// `None`: there is no such filter, or its revisions come everywhere at once.
    pub fn state(&self, id: &ObjectId) -> Option<RolloutState> {
        let entry = self.entries.get(id).filter(|entry| entry.staged)?;
        let record = &entry.record;
        Some(match (&record.progress, &record.given_up) {
            (Some(progress), _) if entry.shadow => RolloutState::Shadow { progress: progress.clone() },
            (Some(progress), _) => RolloutState::Progressing {
                progress: progress.clone(),
                percent: entry.percent(progress.step),
                steps: entry.steps().to_vec(),
                since: entry.since,
            },
            (None, Some(given_up)) => RolloutState::GivenUp(given_up.clone()),
            (None, None) => RolloutState::Complete,
        })
    }
}

impl RolloutState {
    /// What a proxy has when it has this state, see [`Trial::stage`].
    pub fn stage(&self) -> Option<String> {
        match self {
            Self::Progressing { progress, percent, .. } => Some(format!("{}@{percent}", progress.id)),
            Self::Shadow { progress } => Some(format!("{}@0", progress.id)),
            Self::Complete | Self::GivenUp(_) => None,
        }
    }
}

impl Entry {
    /// Takes what the user wants now.
    fn follow(&mut self, filter: &WasmFilter) {
        let wanted = &filter.revision;
        self.staged = filter.is_staged();
        self.plan.clone_from(&filter.rollout);
        self.shadow = filter.shadow;
        let record = &mut self.record;
        let is_stable = record.stable.as_ref() == Some(wanted);
        let is_first = record.stable.is_none() && !filter.shadow;
        if !self.staged || is_stable || is_first {
            *record = Record { stable: Some(Arc::clone(wanted)), ..Record::default() };
            self.since = None;
            return;
        }
        let id = try_id(filter);
        if record.given_up.as_ref().is_some_and(|given_up| given_up.id == id) {
            record.progress = None;
            return;
        }
        record.given_up = None;
        if record.progress.as_ref().is_none_or(|progress| progress.id != id) {
            record.progress = Some(Progress { id, revision: Arc::clone(wanted), step: 0 });
            self.since = None;
        }
    }

    fn steps(&self) -> &[u8] {
        self.plan.as_ref().map_or(&[], |plan| &plan.steps)
    }

    fn percent(&self, step: usize) -> u8 {
        match self.steps() {
            _ if self.shadow => 0,
            [] => 100,
            steps => steps.get(step).or(steps.last()).copied().unwrap_or(100),
        }
    }

    /// The filter as proxies get it, where that is not what the user wrote.
    fn staged(&self, filter: &WasmFilter) -> Option<WasmFilter> {
        let Record { stable, progress, .. } = &self.record;
        let trial = progress.as_ref().map(|progress| {
            Arc::new(Trial {
                id: progress.id.clone(),
                revision: Arc::clone(&progress.revision),
                percent: self.percent(progress.step),
                guardrails: self.plan.as_ref().map_or_else(Guardrails::default, |plan| plan.guardrails),
                shadow: self.shadow,
                alone: stable.is_none(),
            })
        });
        if trial.is_none() && stable.as_ref().is_none_or(|stable| *stable == filter.revision) && !self.is_lost() {
            return None;
        }
        let revision = stable.clone().unwrap_or_else(|| Arc::clone(&filter.revision));
        // A shadow that was given up and had nobody to stand beside: nothing of it may run.
        let trial = if self.is_lost() { Some(Arc::new(nothing(filter))) } else { trial };
        Some(WasmFilter { revision, trial, ..filter.clone() })
    }

    /// A shadow without an old revision has been given up.
    fn is_lost(&self) -> bool {
        self.record.stable.is_none() && self.record.progress.is_none()
    }

    fn advance(&mut self, now: u64, reports: &Reports) -> Option<Event> {
        let progress = self.record.progress.clone()?;
        if let Some((proxy, reason)) = &reports.rejected {
            let reason = format!("{proxy}: {reason}");
            let revision = progress.revision.name();
            let percent = self.percent(progress.step);
            self.record.progress = None;
            self.record.given_up =
                Some(GivenUp { id: progress.id, revision: revision.clone(), percent, reason: reason.clone() });
            self.since = None;
            return Some(Event::GivenUp { revision, reason });
        }
        if self.shadow || reports.proxies == 0 || reports.current < reports.proxies {
            return None;
        }
        let since = *self.since.get_or_insert(now);
        let pause = self.plan.as_ref().map_or(Duration::ZERO, |plan| plan.pause);
        if u128::from(now.saturating_sub(since)) < pause.as_millis() {
            return None;
        }
        self.since = None;
        let step = progress.step + 1;
        if step < self.steps().len() {
            let percent = self.percent(step);
            self.record.progress = Some(Progress { step, ..progress });
            return Some(Event::Step { percent });
        }
        let revision = progress.revision.name();
        self.record = Record { stable: Some(progress.revision), ..Record::default() };
        Some(Event::Promoted { revision })
    }
}

/// What stands for a filter of which nothing runs: a shadow of nobody that gets nothing.
fn nothing(filter: &WasmFilter) -> Trial {
    Trial {
        id: String::new(),
        revision: Arc::clone(&filter.revision),
        percent: 0,
        guardrails: Guardrails::default(),
        shadow: true,
        alone: true,
    }
}

/// Names a try: the same revision under another plan or mode is another try.
fn try_id(filter: &WasmFilter) -> String {
    let plan = filter.rollout.as_ref().map(|plan| {
        let Guardrails { trap_rate, error_rate, added_latency } = plan.guardrails;
        let rate = |rate: Option<u32>| rate.map_or("-".to_owned(), |rate| rate.to_string());
        let latency = added_latency.map_or("-".to_owned(), |latency| latency.as_micros().to_string());
        let (steps, pause) = (&plan.steps, plan.pause.as_millis());
        format!("{steps:?} {pause} {} {} {latency}", rate(trap_rate), rate(error_rate))
    });
    let text = format!("{} {} {} {plan:?}", filter.id, filter.revision.name(), filter.shadow);
    Digest(Sha256::digest(text).into()).to_string()[..12].to_owned()
}

#[cfg(test)]
mod tests;
