//! Gauges of a cluster as a whole. Workers' gauges are summed, so one worker writes them for all.

use outrigger_config::RoutingPriority;

use super::breakers::{Breaker, Breakers, GaugeClaim};
use super::endpoint::Standing;
use super::hosts::Hosts;
use super::stats::GroupStats;

/// `membership_*` and `circuit_breakers.*` of a cluster.
#[derive(Debug)]
pub(super) struct Gauges {
    stats: GroupStats,
    _claim: GaugeClaim,
    /// What was shown last of each breaker: that it is open, and what remains.
    shown: [[(bool, u32); 4]; 2],
}

/// The names of a breaker's gauges.
const NAMES: [[(Breaker, &str, &str); 4]; 2] = [
    [
        (Breaker::Connections, "circuit_breakers.default.cx_open", "circuit_breakers.default.remaining_cx"),
        (Breaker::Pending, "circuit_breakers.default.rq_pending_open", "circuit_breakers.default.remaining_pending"),
        (Breaker::Requests, "circuit_breakers.default.rq_open", "circuit_breakers.default.remaining_rq"),
        (Breaker::Retries, "circuit_breakers.default.rq_retry_open", "circuit_breakers.default.remaining_retries"),
    ],
    [
        (Breaker::Connections, "circuit_breakers.high.cx_open", "circuit_breakers.high.remaining_cx"),
        (Breaker::Pending, "circuit_breakers.high.rq_pending_open", "circuit_breakers.high.remaining_pending"),
        (Breaker::Requests, "circuit_breakers.high.rq_open", "circuit_breakers.high.remaining_rq"),
        (Breaker::Retries, "circuit_breakers.high.rq_retry_open", "circuit_breakers.high.remaining_retries"),
    ],
];

impl Gauges {
    pub(super) fn new(stats: GroupStats, claim: GaugeClaim) -> Gauges {
        Gauges { stats, _claim: claim, shown: [[(false, u32::MAX); 4]; 2] }
    }

    pub(super) fn membership(&self, hosts: &Hosts) {
        let count = |wanted: Standing| hosts.list.iter().filter(|host| host.standing(true) == wanted).count();
        let set = |name, value: usize| self.stats.set(name, i64::try_from(value).unwrap_or(i64::MAX));
        set("membership_total", hosts.list.len());
        set("membership_healthy", count(Standing::Healthy));
        set("membership_degraded", count(Standing::Degraded));
        set("membership_excluded", count(Standing::Excluded));
    }

    /// About once a second: a breaker that opens for less isn't seen.
    pub(super) fn breakers(&mut self, breakers: &Breakers) {
        for priority in [RoutingPriority::Default, RoutingPriority::High] {
            let index = priority as usize;
            for ((breaker, open, remaining), shown) in NAMES[index].iter().zip(&mut self.shown[index]) {
                let (count, max) = (breakers.count(priority, *breaker), breakers.max(priority, *breaker));
                if (count >= max) != shown.0 {
                    shown.0 = count >= max;
                    self.stats.set(open, shown.0.into());
                }
                let left = max.saturating_sub(count);
                if breakers.tracks_remaining(priority) && left != shown.1 {
                    shown.1 = left;
                    self.stats.set(remaining, left.into());
                }
            }
        }
    }
}
