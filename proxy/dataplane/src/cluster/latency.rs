//! An endpoint's expected latency: an exponentially weighted moving average that follows a rise at once and forgets it
//! slowly (peak EWMA, as Finagle has it).

use std::cell::Cell;
use std::time::Duration;

use outrigger_config::PeakEwma;
use tokio::time::Instant;

/// What one worker knows of an endpoint.
#[derive(Debug, Default)]
pub(crate) struct Latency(Cell<Option<(f64, Instant)>>);

/// How much of what was known still counts.
fn remaining(config: &PeakEwma, since: Instant, now: Instant) -> f64 {
    let age = now.saturating_duration_since(since).as_secs_f64();
    (-age / config.decay.as_secs_f64()).exp()
}

impl Latency {
    /// A request took so long. A failure is taken for a slow answer, or a broken endpoint, which answers fast, would draw
    /// all the traffic.
    pub(crate) fn observe(&self, config: &PeakEwma, took: Duration, failed: bool, now: Instant) {
        let took = if failed { took.max(config.failure_penalty) } else { took }.as_secs_f64();
        let average = match self.0.get() {
            Some((average, since)) if took < average => {
                let old = remaining(config, since, now);
                average * old + took * (1.0 - old)
            }
            _ => took,
        };
        self.0.set(Some((average, now)));
    }

    /// What one more request is expected to cost, in seconds. It falls while nothing is heard, so that an endpoint that
    /// was slow once is tried again.
    pub(crate) fn cost(&self, config: &PeakEwma, active: u32, now: Instant) -> f64 {
        let expected = match self.0.get() {
            Some((average, since)) => average * remaining(config, since, now),
            None => config.default_rtt.as_secs_f64(),
        };
        // Even where nothing is expected to take time, the one with less to do is cheaper.
        (expected + 1e-6) * (f64::from(active) + 1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: PeakEwma = PeakEwma {
        choices: 2,
        decay: Duration::from_secs(10),
        default_rtt: Duration::from_millis(30),
        failure_penalty: Duration::from_secs(1),
    };

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let (latency, start) = (Latency::default(), Instant::now());
        let cost = |seconds| latency.cost(&CONFIG, 0, start + Duration::from_secs(seconds));
        assert!((cost(0) - 0.030).abs() < 1e-3);
        latency.observe(&CONFIG, Duration::from_millis(2), false, start);
        assert!((cost(0) - 0.002).abs() < 1e-4);
        latency.observe(&CONFIG, Duration::from_millis(200), false, start);
        assert!((cost(0) - 0.2).abs() < 1e-3, "a rise isn't averaged");
        latency.observe(&CONFIG, Duration::from_millis(2), false, start + Duration::from_secs(1));
        assert!(cost(1) > 0.15, "a fall is");
        assert!(cost(40) < 0.01);
    }

    #[test]
    fn failures_and_load_cost() {
        let (latency, now) = (Latency::default(), Instant::now());
        latency.observe(&CONFIG, Duration::from_millis(1), true, now);
        assert!(latency.cost(&CONFIG, 0, now) > 0.9);
        assert!((latency.cost(&CONFIG, 3, now) / latency.cost(&CONFIG, 0, now) - 4.0).abs() < 1e-6);
    }
}
