//! A new revision of a filter on trial: what its streams and the old revision's did, and when it is given up.
//!
//! One [`RolloutRun`] for all workers. Streams are counted when they end; the guardrails are judged there and then, so that
//! a bad revision is gone a moment after it shows. A run that is given up stays so: every further stream gets the old
//! revision, and whoever waits at [`GivenUps`] tells the control plane.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use outrigger_config::{Guardrails, Rollout, RolloutShare};
use tokio::sync::Notify;
use xxhash_rust::xxh64::xxh64;

/// A share of errors and an average say nothing of fewer streams.
const STREAMS_MIN: u64 = 20;
/// A stream that takes longer counts as this long: one that hangs must not decide for all.
const LATENCY_MAX: Duration = Duration::from_secs(60);
/// Times are summed in tenths of milliseconds, so that their squares fit.
const UNIT: Duration = Duration::from_micros(100);
/// Given up and not told yet.
const WAITING_MAX: usize = 1024;
/// How sure one has to be, in standard deviations: one in forty on one side.
const CERTAINTY: f64 = 1.96;

/// Why a try ended; shared by everything that has to do with it.
pub type Verdict = Arc<OnceLock<String>>;

/// A try that was given up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GivenUp {
    pub filter: Arc<str>,
    pub id: Arc<str>,
    pub reason: String,
}

/// Tries that were given up, in order, for the control side.
#[derive(Debug, Default)]
pub struct GivenUps {
    queue: Mutex<VecDeque<GivenUp>>,
    notify: Notify,
}

impl GivenUps {
    fn push(&self, given_up: GivenUp) {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        if queue.len() < WAITING_MAX {
            queue.push_back(given_up);
        }
        drop(queue);
        self.notify.notify_one();
    }

    /// The next one; for one waiter.
    pub async fn next(&self) -> GivenUp {
        loop {
            let next = self.queue.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
            if let Some(next) = next {
                return next;
            }
            self.notify.notified().await;
        }
    }
}

/// What the streams of one revision did.
#[derive(Debug, Default)]
struct Figures {
    streams: AtomicU64,
    traps: AtomicU64,
    errors: AtomicU64,
    timed: AtomicU64,
    time: AtomicU64,
    time_squares: AtomicU64,
}

/// [`Figures`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct RevisionFigures {
    /// That have ended.
    pub streams: u64,
    /// That met a trap.
    pub traps: u64,
    /// That were answered with 5xx.
    pub errors: u64,
    /// That had a response's head, with the sum of the times to it (tenths of milliseconds) and of their squares.
    timed: u64,
    time: u64,
    time_squares: u64,
}

impl Figures {
    fn now(&self) -> RevisionFigures {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        RevisionFigures {
            streams: load(&self.streams),
            traps: load(&self.traps),
            errors: load(&self.errors),
            timed: load(&self.timed),
            time: load(&self.time),
            time_squares: load(&self.time_squares),
        }
    }
}

/// How shadows differed from what was decided, in streams.
#[derive(Debug, Default)]
pub(crate) struct Differences {
    pub(crate) action: AtomicU64,
    pub(crate) reply: AtomicU64,
    pub(crate) headers: AtomicU64,
}

/// [`Differences`] at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ShadowDifferences {
    /// One went on where the other paused, answered or failed.
    pub action: u64,
    /// Both answered, differently.
    pub reply: u64,
    /// Both went on, with different headers.
    pub headers: u64,
}

/// Which revision a stream belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revision {
    Stable,
    Candidate,
}

/// How a stream ended.
#[derive(Debug, Clone, Copy)]
pub(crate) struct StreamOutcome {
    pub(crate) trapped: bool,
    pub(crate) status: Option<u16>,
    /// From the request's head to the response's.
    pub(crate) latency: Option<Duration>,
}

/// One try at one share.
#[derive(Debug)]
pub struct RolloutRun {
    filter: Arc<str>,
    rollout: Arc<Rollout>,
    stable: Figures,
    candidate: Figures,
    /// Of the old revision at the share before: what there is to compare with when it has no streams any more.
    before: RevisionFigures,
    differences: Differences,
    verdict: Verdict,
    given_ups: Arc<GivenUps>,
    seed: u64,
}

impl RolloutRun {
    /// `verdict` is that of the same try at other shares, and `before` the run at the share before.
    #[must_use]
    pub fn new(
        filter: &Arc<str>,
        rollout: &Arc<Rollout>,
        verdict: Verdict,
        before: Option<&RolloutRun>,
        given_ups: &Arc<GivenUps>,
    ) -> Arc<RolloutRun> {
        let before = before.map(RolloutRun::baseline).unwrap_or_default();
        Arc::new(RolloutRun {
            filter: filter.clone(),
            rollout: rollout.clone(),
            stable: Figures::default(),
            candidate: Figures::default(),
            before,
            differences: Differences::default(),
            verdict,
            given_ups: given_ups.clone(),
            // The same at every share.
            seed: xxh64(rollout.id.as_bytes(), 0),
        })
    }

    #[must_use]
    pub fn rollout(&self) -> &Arc<Rollout> {
        &self.rollout
    }

    #[must_use]
    pub fn filter(&self) -> &Arc<str> {
        &self.filter
    }

    /// Why it was given up.
    #[must_use]
    pub fn given_up(&self) -> Option<&str> {
        self.verdict.get().map(String::as_str)
    }

    #[must_use]
    pub fn stable(&self) -> RevisionFigures {
        self.stable.now()
    }

    #[must_use]
    pub fn candidate(&self) -> RevisionFigures {
        self.candidate.now()
    }

    #[must_use]
    pub fn differences(&self) -> ShadowDifferences {
        let load = |cell: &AtomicU64| cell.load(Ordering::Relaxed);
        let Differences { action, reply, headers } = &self.differences;
        ShadowDifferences { action: load(action), reply: load(reply), headers: load(headers) }
    }

    pub(crate) fn count(&self) -> &Differences {
        &self.differences
    }

    pub(crate) fn share(&self) -> RolloutShare {
        self.rollout.share
    }

    fn baseline(&self) -> RevisionFigures {
        let now = self.stable.now();
        if now.streams >= STREAMS_MIN { now } else { self.before }
    }

    /// Whether a stream gets the new revision: by a hash of its key, so that a higher share only adds streams.
    pub(crate) fn takes(&self, key: &[u8]) -> bool {
        const ALL: u64 = 10_000;
        match self.rollout.share {
            RolloutShare::Of10k(share) => {
                self.verdict.get().is_none() && xxh64(key, self.seed) % ALL < u64::from(share)
            }
            RolloutShare::Shadow | RolloutShare::ShadowOnly => false,
        }
    }

    /// Whether a shadow runs (still).
    pub(crate) fn shadows(&self) -> bool {
        self.verdict.get().is_none()
    }

    /// A stream has ended.
    pub(crate) fn record(&self, revision: Revision, outcome: StreamOutcome) {
        let figures = match revision {
            Revision::Stable => &self.stable,
            Revision::Candidate => &self.candidate,
        };
        let add = |cell: &AtomicU64, number: u64| _ = cell.fetch_add(number, Ordering::Relaxed);
        if outcome.trapped {
            add(&figures.traps, 1);
        }
        if outcome.status.is_some_and(|status| status >= 500) {
            add(&figures.errors, 1);
        }
        if let Some(latency) = outcome.latency {
            let units = u64::try_from(latency.min(LATENCY_MAX).as_micros() / UNIT.as_micros()).unwrap_or(u64::MAX);
            add(&figures.time, units);
            add(&figures.time_squares, units * units);
            add(&figures.timed, 1);
        }
        add(&figures.streams, 1);
        if revision == Revision::Candidate
            && let Some(reason) = judge(&self.rollout.guardrails, &self.baseline(), &self.candidate.now())
        {
            self.give_up(reason);
        }
    }

    fn give_up(&self, reason: String) {
        // The first one counts.
        if self.verdict.set(reason.clone()).is_err() {
            return;
        }
        let id = self.rollout.id.clone();
        tracing::error!(filter = %self.filter, rollout = %id, "the new revision is given up: {reason}");
        self.given_ups.push(GivenUp { filter: self.filter.clone(), id, reason });
    }
}

/// What a new revision breaks of the guardrails, if anything.
fn judge(guardrails: &Guardrails, stable: &RevisionFigures, candidate: &RevisionFigures) -> Option<String> {
    let of_million = |rate: u32| f64::from(rate) / 1_000_000.0;
    let streams = candidate.streams;
    if let Some(limit) = guardrails.trap_rate.map(of_million)
        && surely(candidate.traps, streams) > limit
    {
        return Some(format!("{} of {streams} streams met a trap, more than {}", candidate.traps, percent(limit)));
    }
    if let Some(limit) = guardrails.error_rate.map(of_million)
        && streams >= STREAMS_MIN
    {
        let old = share(stable.errors, stable.streams);
        if surely(candidate.errors, streams) > limit + old {
            let errors = candidate.errors;
            return Some(format!(
                "{errors} of {streams} streams were answered with 5xx, more than {} beyond the old revision's {}",
                percent(limit),
                percent(old)
            ));
        }
    }
    let limit = guardrails.added_latency?;
    if candidate.timed < STREAMS_MIN || stable.timed < STREAMS_MIN {
        return None;
    }
    let ((new, new_error), (old, old_error)) = (average(candidate), average(stable));
    let sure = new - old - CERTAINTY * (new_error + old_error).sqrt();
    let of_units = |units: f64| Duration::from_secs_f64(units.max(0.0) * UNIT.as_secs_f64());
    (sure * UNIT.as_secs_f64() > limit.as_secs_f64()).then(|| {
        let (new, old) = (of_units(new), of_units(old));
        format!(
            "streams take {new:.1?} to the response's head, more than {limit:?} beyond the old revision's {old:.1?}"
        )
    })
}

fn share(part: u64, whole: u64) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

/// The least share that is likely where `part` of `whole` were seen (the lower end of Wilson's interval).
fn surely(part: u64, whole: u64) -> f64 {
    if part == 0 || whole == 0 {
        return 0.0;
    }
    let (n, p, z) = (whole as f64, share(part, whole), CERTAINTY);
    let centre = p + z * z / (2.0 * n);
    let margin = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    (centre - margin) / (1.0 + z * z / n)
}

/// The average time in units, and the square of its standard error.
fn average(figures: &RevisionFigures) -> (f64, f64) {
    let n = figures.timed as f64;
    let mean = figures.time as f64 / n;
    let variance = (figures.time_squares as f64 / n - mean * mean).max(0.0);
    (mean, variance / n)
}

fn percent(share: f64) -> String {
    format!("{} %", (share * 10_000.0).round() / 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn figures(streams: u64, traps: u64, errors: u64) -> RevisionFigures {
        RevisionFigures { streams, traps, errors, ..RevisionFigures::default() }
    }

    fn timed(count: u64, each: u64) -> RevisionFigures {
        // A tenth of them takes twice as long.
        let long = count / 10;
        RevisionFigures {
            streams: count,
            timed: count,
            time: (count + long) * each,
            time_squares: (count + 3 * long) * each * each,
            ..RevisionFigures::default()
        }
    }

    #[test]
    fn guardrails_want_evidence() {
        let rails = Guardrails { trap_rate: Some(1000), error_rate: Some(10_000), added_latency: None };
        for (stable, candidate, expected) in [
            (figures(100, 0, 0), figures(100, 0, 0), None),
            // The very first stream that traps is enough against one in a thousand; one in a thousand is not.
            (figures(0, 0, 0), figures(1, 1, 1), Some("1 of 1 streams met a trap")),
            (figures(0, 0, 0), figures(1000, 1, 1), None),
            (figures(0, 0, 0), figures(1000, 5, 5), Some("5 of 1000 streams met a trap")),
            // A few errors of few streams say nothing, and those that the old revision has as well neither.
            (figures(100, 0, 0), figures(19, 0, 19), None),
            (figures(100, 0, 0), figures(20, 0, 1), None),
            (figures(100, 0, 0), figures(20, 0, 4), Some("4 of 20 streams were answered with 5xx, more than 1 %")),
            (figures(100, 0, 20), figures(100, 0, 25), None),
            (figures(100, 0, 20), figures(100, 0, 60), Some("beyond the old revision's 20 %")),
        ] {
            let found = judge(&rails, &stable, &candidate);
            match expected {
                None => assert_eq!(found, None, "{candidate:?}"),
                Some(part) => assert!(found.as_deref().is_some_and(|text| text.contains(part)), "{part}: {found:?}"),
            }
        }
        assert_eq!(judge(&Guardrails::default(), &figures(100, 0, 0), &figures(100, 100, 100)), None);
    }

    #[test]
    fn latency_is_compared_with_the_old_revision() {
        let rails = Guardrails { added_latency: Some(Duration::from_millis(5)), ..Guardrails::default() };
        let found = |stable: &RevisionFigures, candidate: &RevisionFigures| judge(&rails, stable, candidate);
        // In tenths of milliseconds.
        assert_eq!(found(&timed(100, 100), &timed(100, 140)), None);
        assert!(found(&timed(100, 100), &timed(100, 300)).is_some_and(|text| text.contains("more than 5ms")));
        assert_eq!(found(&timed(19, 100), &timed(100, 300)), None);
        assert_eq!(found(&timed(100, 100), &timed(19, 300)), None);
        // One that hangs makes the average uncertain and decides nothing.
        let mut one_hangs = timed(100, 100);
        one_hangs.time += 600_000;
        one_hangs.time_squares += 600_000 * 600_000;
        assert_eq!(found(&timed(100, 100), &one_hangs), None);
    }

    fn run(
        share: RolloutShare,
        verdict: &Verdict,
        before: Option<&RolloutRun>,
        queue: &Arc<GivenUps>,
    ) -> Arc<RolloutRun> {
        let vm = outrigger_config::WasmVm {
            vm_id: String::new(),
            code: outrigger_config::ModuleCode {
                source: outrigger_config::CodeSource::Inline(bytes::Bytes::new()),
                sha256: None,
            },
            configuration: bytes::Bytes::new(),
            environment: Vec::new(),
            limits: outrigger_config::Limits::default(),
            capabilities: None,
            isolation: outrigger_config::Isolation::default(),
            revision: "new".into(),
            shadow: false,
        };
        let candidate = outrigger_config::WasmPlugin {
            name: "f".into(),
            root_id: String::new(),
            configuration: bytes::Bytes::new(),
            failure_policy: outrigger_config::FailurePolicy::default(),
            allow_on_headers_stop_iteration: false,
            vm: Arc::new(vm),
        };
        let guardrails = Guardrails { trap_rate: Some(1000), ..Guardrails::default() };
        let rollout = Rollout { id: "try".into(), candidate: Arc::new(candidate), share, guardrails };
        RolloutRun::new(&"f".into(), &Arc::new(rollout), verdict.clone(), before, queue)
    }

    #[test]
    fn a_higher_share_only_adds_streams() {
        let (verdict, queue) = (Verdict::default(), Arc::default());
        let keys: Vec<String> = (0..10_000).map(|key| format!("request-{key}")).collect();
        let mut before: Vec<&String> = Vec::new();
        for share in [0, 100, 2500, 10_000] {
            let run = run(RolloutShare::Of10k(share), &verdict, None, &queue);
            let now: Vec<&String> = keys.iter().filter(|key| run.takes(key.as_bytes())).collect();
            assert!(before.iter().all(|key| now.contains(key)));
            assert!(now.len().abs_diff(share as usize) < 200, "{} of {share}", now.len());
            before = now;
        }
        assert!(!run(RolloutShare::Shadow, &verdict, None, &queue).takes(b"x"));
    }

    #[test]
    fn a_run_is_given_up_once_and_for_all_shares() {
        let (verdict, queue) = (Verdict::default(), Arc::<GivenUps>::default());
        let small = run(RolloutShare::Of10k(500), &verdict, None, &queue);
        let large = run(RolloutShare::Of10k(10_000), &verdict, Some(&small), &queue);
        assert!(large.takes(b"x"));
        let trapped = StreamOutcome { trapped: true, status: Some(503), latency: None };
        small.record(Revision::Stable, trapped);
        assert_eq!(small.given_up(), None, "the old revision is not on trial");
        small.record(Revision::Candidate, trapped);
        large.record(Revision::Candidate, trapped);
        assert!(large.given_up().is_some_and(|reason| reason.starts_with("1 of 1 streams")));
        assert!(!large.takes(b"x") && !small.takes(b"x"));
        assert_eq!(queue.queue.lock().unwrap().len(), 1);
    }
}
