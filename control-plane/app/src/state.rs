//! What `serve` knows about its folder: the problems of the last attempt, and since when the last good state serves.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::SystemTime;

use outrigger_api::{Problem, Severity};
use serde::Serialize;
use tokio::time::Instant;

/// Shared by the loop that loads and the pages.
#[derive(Debug, Default)]
pub(crate) struct State {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    problems: Vec<Problem>,
    last_good: Option<(SystemTime, Instant)>,
    generation: u64,
    loads: u64,
    failed_loads: u64,
}

/// `/v1/problems`.
#[derive(Debug, Serialize)]
pub(crate) struct ProblemsPage {
    /// The folder is taken as it is now.
    pub(crate) ok: bool,
    /// The generation that is served; 0: none.
    pub(crate) generation: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) last_good_at: Option<String>,
    pub(crate) problems: Vec<ShownProblem>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ShownProblem {
    #[serde(flatten)]
    pub(crate) problem: Problem,
    /// `file:line: field: message`.
    pub(crate) text: String,
}

/// The numbers of the metrics page.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Numbers {
    pub(crate) errors: usize,
    pub(crate) warnings: usize,
    /// Seconds; `None`: nothing was ever good.
    pub(crate) last_good_age: Option<f64>,
    pub(crate) generation: u64,
    pub(crate) loads: u64,
    pub(crate) failed_loads: u64,
}

impl State {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The folder was loaded: with `generation`, or with an error. Returns whether the problems differ from before.
    pub(crate) fn loaded(&self, generation: Option<u64>, problems: Vec<Problem>) -> bool {
        let mut inner = self.lock();
        inner.loads += 1;
        match generation {
            Some(generation) => {
                inner.generation = generation;
                inner.last_good = Some((SystemTime::now(), Instant::now()));
            }
            None => inner.failed_loads += 1,
        }
        let differ = inner.problems != problems;
        inner.problems = problems;
        differ
    }

    /// Something else than the folder made a new generation of it.
    pub(crate) fn republished(&self, generation: u64) {
        self.lock().generation = generation;
    }

    /// The folder was looked at and is what it was: what was good still is.
    pub(crate) fn unchanged(&self) {
        let mut inner = self.lock();
        if inner.last_good.is_some() && !has_errors(&inner.problems) {
            inner.last_good = Some((SystemTime::now(), Instant::now()));
        }
    }

    /// `Err`: what keeps it from being ready.
    pub(crate) fn ready(&self) -> Result<(), String> {
        let inner = self.lock();
        if inner.last_good.is_some() {
            return Ok(());
        }
        if inner.loads == 0 {
            return Err("the folder is being read\n".to_owned());
        }
        let lines: String = inner.problems.iter().map(|problem| format!("{problem}\n")).collect();
        Err(format!("the folder has never been good:\n{lines}"))
    }

    pub(crate) fn problems(&self) -> ProblemsPage {
        let inner = self.lock();
        let shown =
            inner.problems.iter().map(|problem| ShownProblem { problem: problem.clone(), text: problem.to_string() });
        ProblemsPage {
            ok: inner.loads > 0 && !has_errors(&inner.problems),
            generation: inner.generation,
            last_good_at: inner.last_good.map(|(at, _)| outrigger_xds_server::rfc3339(at)),
            problems: shown.collect(),
        }
    }

    pub(crate) fn numbers(&self) -> Numbers {
        let inner = self.lock();
        let errors = inner.problems.iter().filter(|problem| problem.severity == Severity::Error).count();
        Numbers {
            errors,
            warnings: inner.problems.len() - errors,
            last_good_age: inner.last_good.map(|(_, at)| at.elapsed().as_secs_f64()),
            generation: inner.generation,
            loads: inner.loads,
            failed_loads: inner.failed_loads,
        }
    }
}

fn has_errors(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.severity == Severity::Error)
}
