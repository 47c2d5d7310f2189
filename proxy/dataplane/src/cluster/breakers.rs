//! Circuit breakers: how much of a cluster the whole process may use at a time, by routing priority.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use outrigger_config::{CircuitBreakers, Cluster, RoutingPriority};

use super::balancer::Tables;

/// The counts of one cluster, shared by the workers.
#[derive(Debug)]
pub(crate) struct Breakers {
    max: [CircuitBreakers; 2],
    counts: Arc<Counts>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaker {
    Connections = 0,
    Pending = 1,
    Requests = 2,
    Retries = 3,
}

const KINDS: usize = 4;

/// What the workers share of a cluster.
#[derive(Debug, Default)]
struct Counts {
    /// By priority and kind.
    uses: [AtomicU32; 2 * KINDS],
    tables: Tables,
    /// Some worker writes the gauges of the whole cluster.
    has_gauges: AtomicBool,
}

/// One counted use; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    counts: Arc<Counts>,
    index: u8,
}

/// A retry under way, as the breaker or the budget counts it.
#[derive(Debug)]
pub(crate) struct RetryGuard(#[allow(dead_code, reason = "given back when it is dropped")] Permit);

const fn index(priority: RoutingPriority, breaker: Breaker) -> usize {
    priority as usize * KINDS + breaker as usize
}

impl Breakers {
    /// `None`: the maximum is reached.
    pub(crate) fn acquire(&self, priority: RoutingPriority, breaker: Breaker) -> Option<Permit> {
        self.acquire_below(priority, breaker, self.max(priority, breaker))
    }

    /// The same whatever the maximum: the use that keeps others from waiting for ever.
    pub(crate) fn force(&self, priority: RoutingPriority, breaker: Breaker) -> Permit {
        self.add(priority, breaker).0
    }

    /// A retry within `max_retries`, or within the budget where there is one.
    pub(crate) fn acquire_retry(&self, priority: RoutingPriority) -> Option<RetryGuard> {
        self.acquire_below(priority, Breaker::Retries, self.retries_max(priority)).map(RetryGuard)
    }

    fn acquire_below(&self, priority: RoutingPriority, breaker: Breaker, max: u32) -> Option<Permit> {
        let (permit, before) = self.add(priority, breaker);
        (before < max).then_some(permit)
    }

    fn add(&self, priority: RoutingPriority, breaker: Breaker) -> (Permit, u32) {
        let index = index(priority, breaker);
        let before = self.counts.uses[index].fetch_add(1, Ordering::Relaxed);
        (Permit { counts: self.counts.clone(), index: index as u8 }, before)
    }

    /// Consistent hashing's tables, made once for all workers.
    pub(super) fn tables(&self) -> &Tables {
        &self.counts.tables
    }

    /// The right to write the cluster's gauges, for one worker at a time.
    pub(super) fn claim_gauges(&self) -> Option<GaugeClaim> {
        let taken = self.counts.has_gauges.swap(true, Ordering::Relaxed);
        (!taken).then(|| GaugeClaim(self.counts.clone()))
    }

    fn retries_max(&self, priority: RoutingPriority) -> u32 {
        let max = &self.max[priority as usize];
        let Some(budget) = max.retry_budget else { return max.max_retries };
        let active = self.count(priority, Breaker::Requests).saturating_add(self.count(priority, Breaker::Pending));
        let share = u64::from(active) * u64::from(budget.percent_millis) / 100_000;
        u32::try_from(share).unwrap_or(u32::MAX).max(budget.min_retry_concurrency)
    }

    pub(crate) fn tracks_remaining(&self, priority: RoutingPriority) -> bool {
        self.max[priority as usize].track_remaining
    }

    pub(crate) fn count(&self, priority: RoutingPriority, breaker: Breaker) -> u32 {
        self.counts.uses[index(priority, breaker)].load(Ordering::Relaxed)
    }

    /// The maximum as it is now: a budget's grows with what is active.
    pub(crate) fn max(&self, priority: RoutingPriority, breaker: Breaker) -> u32 {
        let max = &self.max[priority as usize];
        match breaker {
            Breaker::Connections => max.max_connections,
            Breaker::Pending => max.max_pending_requests,
            Breaker::Requests => max.max_requests,
            Breaker::Retries => self.retries_max(priority),
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts.uses[usize::from(self.index)].fetch_sub(1, Ordering::Relaxed);
    }
}

/// Given back when dropped.
#[derive(Debug)]
pub(super) struct GaugeClaim(Arc<Counts>);

impl Drop for GaugeClaim {
    fn drop(&mut self) {
        self.0.has_gauges.store(false, Ordering::Relaxed);
    }
}

/// The breakers of all clusters that anybody uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct BreakerSet(Arc<Mutex<HashMap<Arc<str>, Weak<Counts>>>>);

impl BreakerSet {
    /// Requests that wait for a connection, to any cluster.
    pub(crate) fn pending_requests(&self) -> u64 {
        let set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let priorities = [RoutingPriority::Default, RoutingPriority::High];
        let pending = |counts: Arc<Counts>| {
            priorities.map(|priority| u64::from(counts.uses[index(priority, Breaker::Pending)].load(Ordering::Relaxed)))
        };
        set.values().filter_map(Weak::upgrade).flat_map(pending).sum()
    }

    /// The counts outlive a change of the maxima.
    pub(crate) fn get(&self, cluster: &Cluster) -> Arc<Breakers> {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = match set.get(&cluster.name).and_then(Weak::upgrade) {
            Some(counts) => counts,
            None => {
                let counts = Arc::<Counts>::default();
                // Now and then, so that many clusters cost each no more than a few steps.
                if set.len() == set.capacity() {
                    set.retain(|_, counts| counts.strong_count() > 0);
                }
                set.insert(cluster.name.clone(), Arc::downgrade(&counts));
                counts
            }
        };
        let max = [RoutingPriority::Default, RoutingPriority::High].map(|priority| cluster.breakers_of(priority));
        Arc::new(Breakers { max, counts })
    }
}

#[cfg(test)]
mod tests {
    use outrigger_config::RetryBudget;

    use super::*;

    fn breakers(default: CircuitBreakers) -> Breakers {
        Breakers { max: [default, CircuitBreakers::default()], counts: Arc::default() }
    }

    #[test]
    fn a_maximum_holds_by_priority_and_is_given_back() {
        let breakers = breakers(CircuitBreakers { max_requests: 2, ..CircuitBreakers::default() });
        let get = |priority| breakers.acquire(priority, Breaker::Requests);
        let (first, _second) = (get(RoutingPriority::Default), get(RoutingPriority::Default));
        assert!(first.is_some() && get(RoutingPriority::Default).is_none());
        assert!(get(RoutingPriority::High).is_some(), "the other priority has its own");
        drop(first);
        assert!(get(RoutingPriority::Default).is_some());
        assert_eq!(breakers.count(RoutingPriority::Default, Breaker::Requests), 1);
    }

    #[test]
    fn a_budget_grows_with_what_is_active() {
        let retry_budget = Some(RetryBudget { percent_millis: 20_000, min_retry_concurrency: 1 });
        let breakers = breakers(CircuitBreakers { retry_budget, max_retries: 0, ..CircuitBreakers::default() });
        let priority = RoutingPriority::Default;
        let first = breakers.acquire_retry(priority);
        assert!(first.is_some(), "the least that is always allowed");
        assert!(breakers.acquire_retry(priority).is_none());
        let active: Vec<Option<Permit>> = (0..10).map(|_| breakers.acquire(priority, Breaker::Requests)).collect();
        let second = breakers.acquire_retry(priority);
        assert!(second.is_some() && breakers.acquire_retry(priority).is_none(), "20 % of ten");
        drop((first, second, active));
        assert_eq!(breakers.count(priority, Breaker::Retries), 0);
    }
}
