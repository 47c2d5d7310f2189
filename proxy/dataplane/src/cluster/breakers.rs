//! Circuit breakers: how much of a cluster the whole process may use at a time.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use outrigger_config::{CircuitBreakers, Cluster};

/// The counts of one cluster, shared by the workers.
#[derive(Debug)]
pub(crate) struct Breakers {
    max: CircuitBreakers,
    counts: Arc<[AtomicU32; 3]>,
}

/// What is counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Breaker {
    Connections = 0,
    Pending = 1,
    Requests = 2,
}

/// One counted use; gives it back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    counts: Arc<[AtomicU32; 3]>,
    breaker: Breaker,
}

impl Breakers {
    /// `None`: the maximum is reached.
    pub(crate) fn acquire(&self, breaker: Breaker) -> Option<Permit> {
        let max = match breaker {
            Breaker::Connections => self.max.max_connections,
            Breaker::Pending => self.max.max_pending_requests,
            Breaker::Requests => self.max.max_requests,
        };
        let count = &self.counts[breaker as usize];
        if count.fetch_add(1, Ordering::Relaxed) >= max {
            count.fetch_sub(1, Ordering::Relaxed);
            return None;
        }
        Some(Permit { counts: self.counts.clone(), breaker })
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.counts[self.breaker as usize].fetch_sub(1, Ordering::Relaxed);
    }
}

/// The breakers of all clusters that anybody uses.
#[derive(Debug, Clone, Default)]
pub(crate) struct BreakerSet(Arc<Mutex<HashMap<Arc<str>, Weak<Counts>>>>);

type Counts = [AtomicU32; 3];

impl BreakerSet {
    /// The counts outlive a change of the maxima.
    pub(crate) fn get(&self, cluster: &Cluster) -> Arc<Breakers> {
        let mut set = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let counts = match set.get(&cluster.name).and_then(Weak::upgrade) {
            Some(counts) => counts,
            None => {
                let counts = Arc::new([AtomicU32::new(0), AtomicU32::new(0), AtomicU32::new(0)]);
                set.retain(|_, counts| counts.strong_count() > 0);
                set.insert(cluster.name.clone(), Arc::downgrade(&counts));
                counts
            }
        };
        Arc::new(Breakers { max: cluster.breakers, counts })
    }
}
