//! Where the instances of single streams come from: a pool of slots, each a fresh copy-on-write mapping of its module's
//! initial memory.
//!
//! What a stream wrote is dropped with its instance, and only that is paid for. The pool is bounded, and shared fairly: a
//! module may hold as many instances as are left for all others, so that slow streams of one filter never starve another.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use wasmtime::{Enabled, InstanceAllocationStrategy, PoolingAllocationConfig};

/// Instances of the pool. Each reserves [`MEMORY_BYTES_MAX`] of address space, and takes up to five of the 65,530 mappings
/// that Linux grants a process.
pub(crate) const INSTANCES_MAX: usize = 4096;
/// What the linear memory of a pooled instance may grow to: it is reserved as a whole, since it cannot move.
pub const MEMORY_BYTES_MAX: usize = 64 << 20;

const TABLES_MAX: u32 = 2;
const TABLE_ELEMENTS_MAX: usize = 64 << 10;
/// Slots that stay mapped for their module while nobody uses them.
const WARM_SLOTS_MAX: u32 = 100;
/// Memory that a slot keeps while nobody uses it, and half as much for its tables.
const KEPT_BYTES_MAX: usize = 32 << 10;

pub(crate) fn strategy() -> InstanceAllocationStrategy {
    let instances = u32::try_from(INSTANCES_MAX).unwrap_or(u32::MAX);
    let mut config = PoolingAllocationConfig::new();
    config.total_core_instances(instances).total_memories(instances).total_tables(instances * TABLES_MAX);
    config.max_memories_per_module(1).max_memory_size(MEMORY_BYTES_MAX);
    config.max_tables_per_module(TABLES_MAX).table_elements(TABLE_ELEMENTS_MAX);
    config.total_gc_heaps(instances).max_unused_warm_slots(WARM_SLOTS_MAX);
    // Pages that were written are found and made again by hand, where Linux tells them: that costs less than new ones.
    config
        .pagemap_scan(Enabled::Auto)
        .linear_memory_keep_resident(KEPT_BYTES_MAX)
        .table_keep_resident(KEPT_BYTES_MAX / 2);
    InstanceAllocationStrategy::Pooling(config)
}

/// How many instances live in an engine's pool.
#[derive(Debug, Default)]
pub(crate) struct Pool {
    live: AtomicUsize,
}

/// What one module has of it.
#[derive(Debug)]
pub(crate) struct Share {
    pool: Arc<Pool>,
    live: AtomicUsize,
}

/// A module has as many instances as it may have.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Exhausted {
    pub(crate) live: usize,
}

/// One instance, counted as long as this is held.
#[derive(Debug)]
pub(crate) struct Place(Arc<Share>);

impl Share {
    pub(crate) fn new(pool: &Arc<Pool>) -> Arc<Share> {
        Arc::new(Share { pool: pool.clone(), live: AtomicUsize::new(0) })
    }

    pub(crate) fn take(self: &Arc<Share>) -> Result<Place, Exhausted> {
        let live = self.live.fetch_add(1, Ordering::Relaxed);
        let all = self.pool.live.fetch_add(1, Ordering::Relaxed);
        // Given back by its drop, also where there is none.
        let place = Place(self.clone());
        if live + all < INSTANCES_MAX { Ok(place) } else { Err(Exhausted { live }) }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.pool.live.fetch_sub(1, Ordering::Relaxed);
        self.0.live.fetch_sub(1, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_module_leaves_room_for_others() {
        let pool = Arc::default();
        let (greedy, modest) = (Share::new(&pool), Share::new(&pool));
        let fill = |share: &Arc<Share>| {
            let mut held = Vec::new();
            while let Ok(place) = share.take() {
                held.push(place);
            }
            held
        };
        let held = fill(&greedy);
        assert_eq!(held.len(), INSTANCES_MAX / 2);
        assert_eq!(greedy.take().map(|_| ()), Err(Exhausted { live: INSTANCES_MAX / 2 }));
        let rest = fill(&modest);
        assert_eq!(rest.len(), INSTANCES_MAX / 4);
        drop(held);
        assert!(modest.take().is_ok());
        drop(rest);
        assert_eq!((pool.live.load(Ordering::Relaxed), modest.live.load(Ordering::Relaxed)), (0, 0));
    }
}
