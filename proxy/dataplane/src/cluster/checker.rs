//! The health of one endpoint by its checks: thresholds and intervals, without I/O. Envoy's rules.

use std::time::Duration;

use outrigger_config::HealthCheck;
use rand::Rng;

/// What one check found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    Healthy,
    /// It serves, and asks to be spared (`x-envoy-degraded`).
    Degraded,
    /// It says itself that it doesn't serve: there is no need to ask again.
    Unhealthy,
    /// It may get better (`retriable_statuses`).
    Retriable,
    /// No connection, or no answer on it.
    Network,
    TimedOut,
}

/// What a check changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Change {
    None,
    /// One more is needed.
    Pending,
    Changed,
}

/// The checks of one endpoint so far.
#[derive(Debug)]
pub(super) struct Checker {
    pub(super) healthy: bool,
    in_a_row: u32,
    first: bool,
}

impl Checker {
    /// `healthy`: what is known from before.
    pub(super) fn new(healthy: bool) -> Checker {
        Checker { healthy, in_a_row: 0, first: !healthy }
    }

    pub(super) fn note(&mut self, found: Found, config: &HealthCheck) -> Change {
        let passed = matches!(found, Found::Healthy | Found::Degraded);
        let first = std::mem::replace(&mut self.first, false);
        if passed == self.healthy {
            self.in_a_row = 0;
            return Change::None;
        }
        self.in_a_row += 1;
        let enough = match found {
            // The first check of all counts at once: starting is quick.
            Found::Healthy | Found::Degraded => first || self.in_a_row >= config.healthy_threshold,
            Found::Unhealthy => true,
            Found::Retriable | Found::Network | Found::TimedOut => self.in_a_row >= config.unhealthy_threshold,
        };
        if !enough {
            return Change::Pending;
        }
        self.healthy = passed;
        self.in_a_row = 0;
        Change::Changed
    }
}

/// How long to wait after a check. `used`: the cluster has traffic.
pub(super) fn interval(
    config: &HealthCheck,
    found: Found,
    change: Change,
    used: bool,
    random: &mut impl Rng,
) -> Duration {
    let passed = matches!(found, Found::Healthy | Found::Degraded);
    let base = match (used, passed, change) {
        (true, true, Change::Pending) => config.healthy_edge_interval,
        (true, true, _) => config.interval,
        (true, false, Change::Pending) => config.unhealthy_edge_interval,
        (true, false, _) => config.unhealthy_interval,
        (false, true, Change::None | Change::Changed) => config.no_traffic_healthy_interval,
        (false, _, _) => config.no_traffic_interval,
    };
    let percent = base * config.interval_jitter_percent / 100;
    base + percent.mul_f64(random.random()) + config.interval_jitter.mul_f64(random.random())
}

#[cfg(test)]
mod tests {
    use outrigger_config::{HealthCheckKind, TcpHealthCheck};
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    fn config() -> HealthCheck {
        let seconds = Duration::from_secs;
        HealthCheck {
            timeout: seconds(1),
            interval: seconds(10),
            initial_jitter: Duration::ZERO,
            interval_jitter: Duration::ZERO,
            interval_jitter_percent: 0,
            unhealthy_threshold: 2,
            healthy_threshold: 3,
            port: None,
            reuse_connection: true,
            no_traffic_interval: seconds(60),
            no_traffic_healthy_interval: seconds(50),
            unhealthy_interval: seconds(5),
            unhealthy_edge_interval: seconds(1),
            healthy_edge_interval: seconds(2),
            kind: HealthCheckKind::Tcp(TcpHealthCheck { send: "".into(), receive: Vec::new() }),
        }
    }

    /// Each check's result, and whether the endpoint is healthy after it and when it is asked again.
    fn check(known: bool, steps: &[(Found, bool, u64)]) {
        let (config, mut random) = (config(), SmallRng::seed_from_u64(1));
        let mut checker = Checker::new(known);
        for (index, (found, healthy, seconds)) in steps.iter().enumerate() {
            let change = checker.note(*found, &config);
            let next = interval(&config, *found, change, true, &mut random);
            assert_eq!((checker.healthy, next.as_secs()), (*healthy, *seconds), "step {index} of {steps:?}");
        }
    }

    #[test]
    fn thresholds_and_edges() {
        use Found::{Degraded, Healthy, Network, Retriable, TimedOut, Unhealthy};
        check(false, &[(Healthy, true, 10), (Network, true, 1), (TimedOut, false, 5), (Network, false, 5)]);
        check(false, &[(Network, false, 5), (Healthy, false, 2), (Healthy, false, 2), (Degraded, true, 10)]);
        check(true, &[(Unhealthy, false, 5), (Healthy, false, 2), (Network, false, 5), (Healthy, false, 2)]);
        check(true, &[(Retriable, true, 1), (Healthy, true, 10), (Retriable, true, 1), (Retriable, false, 5)]);
    }

    #[test]
    fn without_traffic_checks_are_rare_and_jitter_has_bounds() {
        let mut random = SmallRng::seed_from_u64(2);
        let config = HealthCheck { interval_jitter_percent: 50, interval_jitter: Duration::from_secs(1), ..config() };
        for _ in 0..100 {
            let next = interval(&config, Found::Healthy, Change::None, false, &mut random);
            assert!((Duration::from_secs(50)..Duration::from_secs(76)).contains(&next), "{next:?}");
            let next = interval(&config, Found::Network, Change::None, false, &mut random);
            assert!((Duration::from_secs(60)..Duration::from_secs(91)).contains(&next), "{next:?}");
        }
    }
}
