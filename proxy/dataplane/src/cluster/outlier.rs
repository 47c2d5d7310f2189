//! Outlier detection: endpoints that fail requests are left alone for a while.
//!
//! Workers count ([`ClusterHealth::record`]) and eject at a number of failures in a row; the control thread judges rates
//! and ends ejections ([`ClusterHealth::judge_outliers`]). Thresholds, defaults and statistics are Envoy's.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use outrigger_config::{OutlierDetection, Rule};
use outrigger_http::EndpointAddress;
use outrigger_stats::Registry;
use rand::Rng;
use tokio::time::Instant;

use super::health::{ClusterHealth, HealthFlags, HostState, lock};
use super::stats::GroupStats;

/// What became of a request or a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The endpoint answered with this status.
    Status(u16),
    /// The connection stands.
    Connected,
    /// The connection stands, and nothing else will be known of it (`tcp_proxy`).
    ConnectedFinally,
    /// No connection, or it broke.
    Broken,
    /// No answer in time.
    TimedOut,
}

/// What is counted of an address.
#[derive(Debug, Default)]
pub(crate) struct OutlierCounts {
    consecutive_5xx: AtomicU32,
    consecutive_gateway: AtomicU32,
    consecutive_local: AtomicU32,
    external: Rate,
    local: Rate,
}

/// Requests of the current interval, and the success rate of the last one.
#[derive(Debug)]
struct Rate {
    total: AtomicU32,
    success: AtomicU32,
    /// The bits of a percentage; -1: not enough requests.
    last: AtomicU32,
}

impl Default for Rate {
    fn default() -> Rate {
        Rate { total: AtomicU32::new(0), success: AtomicU32::new(0), last: AtomicU32::new((-1_f32).to_bits()) }
    }
}

impl Rate {
    fn count(&self, success: bool) {
        self.total.fetch_add(1, Ordering::Relaxed);
        if success {
            self.success.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Requests and the share of successes in percent; begins the next interval.
    fn take(&self, volume_min: u32) -> (u32, f64) {
        let (total, success) = (self.total.swap(0, Ordering::Relaxed), self.success.swap(0, Ordering::Relaxed));
        let rate = if total == 0 { -1.0 } else { f64::from(success.min(total)) * 100.0 / f64::from(total) };
        let shown = if total >= volume_min { rate } else { -1.0 };
        #[expect(clippy::cast_possible_truncation, reason = "a percentage for the eye")]
        self.last.store((shown as f32).to_bits(), Ordering::Relaxed);
        (total, rate)
    }

    fn last(&self) -> f64 {
        f64::from(f32::from_bits(self.last.load(Ordering::Relaxed)))
    }
}

impl OutlierCounts {
    /// The success rates of the last interval in percent, -1 where there were too few requests: of answers, and of
    /// what happened on this side.
    pub(crate) fn success_rates(&self) -> (f64, f64) {
        (self.external.last(), self.local.last())
    }

    fn reset(&self) {
        for counter in [&self.consecutive_5xx, &self.consecutive_gateway, &self.consecutive_local] {
            counter.store(0, Ordering::Relaxed);
        }
    }
}

/// Why a host is ejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reason {
    Consecutive5xx,
    ConsecutiveGatewayFailure,
    ConsecutiveLocalOriginFailure,
    SuccessRate,
    LocalOriginSuccessRate,
    FailurePercentage,
    LocalOriginFailurePercentage,
}

impl Reason {
    const fn detected(self) -> &'static str {
        match self {
            Reason::Consecutive5xx => "ejections_detected_consecutive_5xx",
            Reason::ConsecutiveGatewayFailure => "ejections_detected_consecutive_gateway_failure",
            Reason::ConsecutiveLocalOriginFailure => "ejections_detected_consecutive_local_origin_failure",
            Reason::SuccessRate => "ejections_detected_success_rate",
            Reason::LocalOriginSuccessRate => "ejections_detected_local_origin_success_rate",
            Reason::FailurePercentage => "ejections_detected_failure_percentage",
            Reason::LocalOriginFailurePercentage => "ejections_detected_failure_percentage_local_origin",
        }
    }

    const fn enforced(self) -> &'static str {
        match self {
            Reason::Consecutive5xx => "ejections_enforced_consecutive_5xx",
            Reason::ConsecutiveGatewayFailure => "ejections_enforced_consecutive_gateway_failure",
            Reason::ConsecutiveLocalOriginFailure => "ejections_enforced_consecutive_local_origin_failure",
            Reason::SuccessRate => "ejections_enforced_success_rate",
            Reason::LocalOriginSuccessRate => "ejections_enforced_local_origin_success_rate",
            Reason::FailurePercentage => "ejections_enforced_failure_percentage",
            Reason::LocalOriginFailurePercentage => "ejections_enforced_failure_percentage_local_origin",
        }
    }
}

/// Who is ejected.
#[derive(Debug)]
pub(crate) struct Ejections {
    stats: GroupStats,
    active: HashMap<EndpointAddress, Ejection>,
    /// How often in a row, while it isn't ejected; falls with every quiet interval.
    backoff: HashMap<EndpointAddress, u32>,
}

#[derive(Debug)]
struct Ejection {
    at: Instant,
    times: u32,
    jitter: Duration,
}

impl Ejections {
    pub(super) fn new(registry: &Arc<Registry>, stat_name: &Arc<str>) -> Ejections {
        let stats = GroupStats::new(registry, stat_name, "outlier_detection");
        Ejections { stats, active: HashMap::new(), backoff: HashMap::new() }
    }

    /// The host is gone.
    pub(super) fn forget(&mut self, address: &EndpointAddress) {
        self.backoff.remove(address);
        if self.active.remove(address).is_some() {
            self.stats.gauge("ejections_active", -1);
        }
    }
}

impl ClusterHealth {
    /// Counts what became of a request, and ejects where it was one failure too many.
    pub(crate) fn record(&self, address: &EndpointAddress, host: &HostState, outcome: Outcome) {
        let entry = self.entry.load();
        let Some(config) = &entry.cluster.outlier else { return };
        let counts = &host.outlier;
        let local = |success: bool| {
            counts.local.count(success);
            if success {
                counts.consecutive_local.store(0, Ordering::Relaxed);
                return;
            }
            let rule = config.consecutive_local_origin_failure;
            if one_too_many(&counts.consecutive_local, rule) {
                self.eject(config, address, host, Reason::ConsecutiveLocalOriginFailure);
            }
        };
        match outcome {
            Outcome::Status(status) => self.answered(config, address, host, status),
            Outcome::Connected if config.split => local(true),
            Outcome::Broken | Outcome::TimedOut if config.split => local(false),
            Outcome::Connected => {}
            Outcome::ConnectedFinally if config.split => {}
            Outcome::ConnectedFinally => self.answered(config, address, host, 200),
            Outcome::Broken => self.answered(config, address, host, 503),
            Outcome::TimedOut => self.answered(config, address, host, 504),
        }
    }

    fn answered(&self, config: &OutlierDetection, address: &EndpointAddress, host: &HostState, status: u16) {
        let counts = &host.outlier;
        counts.external.count(status < 500);
        if status < 500 {
            // A load costs less than a store that others have to see.
            for counter in [&counts.consecutive_5xx, &counts.consecutive_gateway] {
                if counter.load(Ordering::Relaxed) != 0 {
                    counter.store(0, Ordering::Relaxed);
                }
            }
            return;
        }
        if matches!(status, 502..=504) {
            if one_too_many(&counts.consecutive_gateway, config.consecutive_gateway_failure) {
                self.eject(config, address, host, Reason::ConsecutiveGatewayFailure);
            }
        } else {
            counts.consecutive_gateway.store(0, Ordering::Relaxed);
        }
        if one_too_many(&counts.consecutive_5xx, config.consecutive_5xx) {
            self.eject(config, address, host, Reason::Consecutive5xx);
        }
    }

    /// Ejects a host, unless it is already, too many are, or the dice say no.
    fn eject(&self, config: &OutlierDetection, address: &EndpointAddress, host: &HostState, reason: Reason) {
        let total = lock(&self.hosts).len().max(1);
        let mut ejections = lock(&self.ejections);
        let ejections = &mut *ejections;
        if ejections.active.contains_key(address) {
            return;
        }
        ejections.stats.inc(reason.detected());
        let mut random = rand::rng();
        if random.random_range(0..100) >= enforcing(config, reason) {
            return;
        }
        let share = (ejections.active.len() + 1) * 100;
        let allowed = share <= total * config.max_ejection_percent as usize
            || (config.always_eject_one && ejections.active.is_empty());
        if !allowed {
            ejections.stats.inc("ejections_overflow");
            return;
        }
        let times = ejections.backoff.remove(address).unwrap_or(0) + 1;
        let jitter = config.max_ejection_time_jitter.mul_f64(random.random());
        ejections.active.insert(address.clone(), Ejection { at: Instant::now(), times, jitter });
        ejections.stats.gauge("ejections_active", 1);
        ejections.stats.inc("ejections_enforced_total");
        ejections.stats.inc(reason.enforced());
        host.set(HealthFlags::FAILED_OUTLIER_CHECK);
        self.touch();
        tracing::info!(cluster = %self.name, endpoint = %address, ?reason, "ejected by outlier detection");
    }

    /// Once an interval: ends ejections and judges rates.
    pub(super) fn judge_outliers(&self, now: Instant) {
        let entry = self.entry.load();
        let Some(config) = &entry.cluster.outlier else { return };
        let hosts: Vec<(EndpointAddress, Arc<HostState>)> =
            lock(&self.hosts).iter().map(|(address, host)| (address.clone(), host.state.clone())).collect();
        for (address, host) in &hosts {
            self.end_ejection(config, address, host, now);
        }
        self.judge_rates(config, &hosts, |host| &host.outlier.external, Reason::SuccessRate, Reason::FailurePercentage);
        if config.split {
            let (rate, percentage) = (Reason::LocalOriginSuccessRate, Reason::LocalOriginFailurePercentage);
            self.judge_rates(config, &hosts, |host| &host.outlier.local, rate, percentage);
        }
    }

    fn end_ejection(&self, config: &OutlierDetection, address: &EndpointAddress, host: &HostState, now: Instant) {
        let mut ejections = lock(&self.ejections);
        let Some(ejection) = ejections.active.get(address) else {
            // A quiet interval: the next ejection is shorter again.
            if let Some(times) = ejections.backoff.get_mut(address) {
                *times -= 1;
                if *times == 0 {
                    ejections.backoff.remove(address);
                }
            }
            return;
        };
        let longest = config.max_ejection_time.max(config.base_ejection_time);
        let time = config.base_ejection_time.saturating_mul(ejection.times).min(longest) + ejection.jitter;
        if now.duration_since(ejection.at) < time {
            return;
        }
        // No longer than it takes to be at the longest.
        let most = longest.div_duration_f64(config.base_ejection_time.max(Duration::from_nanos(1))).ceil();
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "saturates")]
        let times = ejection.times.min(most as u32);
        drop(ejections);
        self.uneject(address, host, times);
    }

    fn uneject(&self, address: &EndpointAddress, host: &HostState, times: u32) {
        let mut ejections = lock(&self.ejections);
        if ejections.active.remove(address).is_none() {
            return;
        }
        ejections.stats.gauge("ejections_active", -1);
        if times > 0 {
            ejections.backoff.insert(address.clone(), times);
        }
        drop(ejections);
        host.outlier.reset();
        host.clear(HealthFlags::FAILED_OUTLIER_CHECK);
        self.touch();
        tracing::info!(cluster = %self.name, endpoint = %address, "back after its ejection");
    }

    /// A passed health check ends an ejection, unless the configuration says otherwise.
    pub(super) fn uneject_healthy(&self, address: &EndpointAddress, host: &HostState) {
        let entry = self.entry.load();
        if entry.cluster.outlier.as_ref().is_some_and(|config| config.uneject_when_healthy) {
            self.uneject(address, host, 0);
        }
    }

    /// There is no outlier detection any more.
    pub(super) fn uneject_all(&self) {
        let states: Vec<(EndpointAddress, Arc<HostState>)> =
            lock(&self.hosts).iter().map(|(address, host)| (address.clone(), host.state.clone())).collect();
        for (address, host) in states {
            self.uneject(&address, &host, 0);
        }
    }

    fn judge_rates(
        &self,
        config: &OutlierDetection,
        hosts: &[(EndpointAddress, Arc<HostState>)],
        rate: impl Fn(&HostState) -> &Rate,
        by_rate: Reason,
        by_percentage: Reason,
    ) {
        let (success, failure) = (config.success_rate, config.failure_percentage);
        let volume_min = success.request_volume.min(failure.request_volume);
        let judged: Vec<(usize, u32, f64)> = hosts
            .iter()
            .enumerate()
            .filter(|(_, (_, host))| !host.flags().contains(HealthFlags::FAILED_OUTLIER_CHECK))
            .map(|(index, (_, host))| {
                let (total, rate) = rate(host).take(volume_min);
                (index, total, rate)
            })
            .collect();
        let rated: Vec<(usize, f64)> = judged
            .iter()
            .filter(|(_, n, _)| *n > 0 && *n >= success.request_volume)
            .map(|(i, _, r)| (*i, *r))
            .collect();
        if !rated.is_empty() && rated.len() >= success.minimum_hosts as usize {
            let threshold = ejection_threshold(&rated, f64::from(success.stdev_factor) / 1000.0);
            for (index, _) in rated.iter().filter(|(_, rate)| *rate < threshold) {
                self.eject(config, &hosts[*index].0, &hosts[*index].1, by_rate);
            }
        }
        let failing: Vec<(usize, f64)> = judged
            .iter()
            .filter(|(_, n, _)| *n > 0 && *n >= failure.request_volume)
            .map(|(i, _, r)| (*i, *r))
            .collect();
        if !failing.is_empty() && failing.len() >= failure.minimum_hosts as usize {
            for (index, _) in failing.iter().filter(|(_, rate)| 100.0 - rate >= f64::from(failure.threshold)) {
                self.eject(config, &hosts[*index].0, &hosts[*index].1, by_percentage);
            }
        }
    }
}

/// The mean less so many standard deviations.
fn ejection_threshold(rates: &[(usize, f64)], factor: f64) -> f64 {
    #[expect(clippy::cast_precision_loss, reason = "a number of hosts")]
    let count = rates.len() as f64;
    let mean = rates.iter().map(|(_, rate)| rate).sum::<f64>() / count;
    let variance = rates.iter().map(|(_, rate)| (rate - mean).powi(2)).sum::<f64>() / count;
    mean - factor * variance.sqrt()
}

/// Counts a failure; true where it makes the threshold full, and the count begins anew.
fn one_too_many(counter: &AtomicU32, rule: Rule) -> bool {
    let count = counter.fetch_add(1, Ordering::Relaxed) + 1;
    let full = rule.threshold > 0 && count >= rule.threshold;
    if full {
        counter.store(0, Ordering::Relaxed);
    }
    full
}

fn enforcing(config: &OutlierDetection, reason: Reason) -> u32 {
    match reason {
        Reason::Consecutive5xx => config.consecutive_5xx.enforcing,
        Reason::ConsecutiveGatewayFailure => config.consecutive_gateway_failure.enforcing,
        Reason::ConsecutiveLocalOriginFailure => config.consecutive_local_origin_failure.enforcing,
        Reason::SuccessRate => config.success_rate.enforcing,
        Reason::LocalOriginSuccessRate => config.success_rate.enforcing_local_origin,
        Reason::FailurePercentage => config.failure_percentage.enforcing,
        Reason::LocalOriginFailurePercentage => config.failure_percentage.enforcing_local_origin,
    }
}

#[cfg(test)]
#[path = "outlier/tests.rs"]
mod tests;
