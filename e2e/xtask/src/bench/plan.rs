//! How long a run takes, told before it begins; and how long each window may be, so that a whole run ends in time.

use std::time::Duration;

use super::Scenario;
use crate::progress::short;

/// What a full run may take.
const BUDGET: Duration = Duration::from_secs(30 * 60);
/// The longest window first. The kernel counts CPU time in ticks of 10 ms, so shorter ones would measure the ticks.
const WINDOWS_SECONDS: [u64; 3] = [4, 3, 2];
const QUICK_WINDOW_SECONDS: u64 = 2;
/// What a window takes beside the load: the load tool's start, reading `/proc`.
const BESIDE_WINDOW_SECONDS: f64 = 0.15;
/// What a row takes once: its start, a warm-up, a second under strace.
const BESIDE_ROW_SECONDS: f64 = 4.0;

/// What a scenario takes.
struct Cost {
    name: &'static str,
    /// Rows that are measured for a window in each round.
    rows: u32,
    /// What it does beside that, in seconds.
    fixed_seconds: u32,
}

const fn cost(name: &'static str, rows: u32, fixed_seconds: u32) -> Cost {
    Cost { name, rows, fixed_seconds }
}

/// Scenarios that aren't here are taken to be of the usual size.
const COSTS: [Cost; 20] = [
    cost("h1-c32", 8, 0),
    cost("h1-c256", 4, 0),
    cost("h2c-20k", 4, 0),
    cost("h2c-10k", 4, 0),
    cost("tls-c32", 6, 0),
    cost("tls-handshakes", 3, 0),
    cost("policies", 5, 0),
    cost("latency", 4, 0),
    cost("idle", 0, 75),
    cost("clusters", 0, 50),
    cost("endpoint", 0, 80),
    cost("headers", 9, 0),
    cost("body-1k", 7, 0),
    cost("body-16k", 7, 0),
    cost("body-256k", 7, 0),
    cost("properties", 5, 0),
    cost("call", 5, 0),
    cost("load", 0, 75),
    cost("swap", 0, 95),
    cost("neighbour", 0, 20),
];
const USUAL: Cost = cost("", 4, 30);

/// What will be done.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Plan {
    pub(super) window: Duration,
    total: Duration,
}

impl Plan {
    /// The longest windows with which the scenarios end within the budget.
    pub(super) fn new(scenarios: &[&Scenario], rounds: usize, quick: bool) -> Plan {
        let at = |seconds: u64| {
            let window = Duration::from_secs(seconds);
            Plan { window, total: scenarios.iter().map(|scenario| takes(scenario.name, rounds, window)).sum() }
        };
        if quick {
            return at(QUICK_WINDOW_SECONDS);
        }
        let fitting = WINDOWS_SECONDS.into_iter().map(at).find(|plan| plan.total <= BUDGET);
        fitting.unwrap_or_else(|| at(QUICK_WINDOW_SECONDS))
    }

    pub(super) fn words(&self, scenarios: &[&Scenario], rounds: usize) -> String {
        let window = self.window.as_secs();
        let mut words = format!("the plan: {rounds} rounds with windows of {window} s, about {}", short(self.total));
        for scenario in scenarios {
            let takes = short(takes(scenario.name, rounds, self.window));
            words.push_str(&format!("\n            {:<16} {takes:>8}  {}", scenario.name, scenario.about));
        }
        words
    }
}

fn takes(name: &str, rounds: usize, window: Duration) -> Duration {
    let Cost { rows, fixed_seconds, .. } = COSTS.iter().find(|cost| cost.name == name).unwrap_or(&USUAL);
    #[expect(clippy::cast_precision_loss, reason = "a handful of rounds")]
    let in_windows = rounds as f64 * (window.as_secs_f64() + BESIDE_WINDOW_SECONDS);
    Duration::from_secs_f64(f64::from(*rows) * (in_windows + BESIDE_ROW_SECONDS) + f64::from(*fixed_seconds))
}

#[cfg(test)]
mod tests {
    use super::super::{SCENARIOS, wasm};
    use super::{BUDGET, COSTS, Plan};

    #[test]
    fn full_runs_end_in_time() {
        for suite in [&SCENARIOS[..], &wasm::SCENARIOS[..]] {
            let plan = Plan::new(&suite.iter().collect::<Vec<_>>(), 7, false);
            assert!(plan.total <= BUDGET && plan.window.as_secs() >= 3, "{plan:?}");
        }
    }

    #[test]
    fn costs_are_of_scenarios() {
        for cost in &COSTS {
            let is_there = SCENARIOS.iter().chain(&wasm::SCENARIOS).any(|scenario| scenario.name == cost.name);
            assert!(is_there, "{}", cost.name);
        }
    }
}
