//! How long a worker's turns are: from the moment it wakes until it sleeps again (Envoy's `enable_dispatcher_stats`).
//!
//! Whatever a turn does, other streams of the worker wait for it: a swap of the configuration, a guest, a large body. A worker
//! that never sleeps has one long turn, so the figure says something at loads that leave it time to.

use std::cell::RefCell;

use outrigger_stats::{Histogram, Name, Registry};
use tokio::runtime::Builder;
use tokio::time::Instant;

#[derive(Debug)]
struct Turns {
    since: Instant,
    durations: Histogram,
}

thread_local! {
    static TURNS: RefCell<Option<Turns>> = const { RefCell::new(None) };
}

/// Measures this thread from now on, as `listener_manager.worker_N.dispatcher.loop_duration_us`.
pub(crate) fn measure(worker: usize, registry: &Registry, runtime: &mut Builder) {
    let name =
        Name::new("listener_manager", "dispatcher.loop_duration_us").tag("envoy_worker_id", format!("worker_{worker}"));
    let turns = Turns { since: Instant::now(), durations: registry.histogram(&name) };
    TURNS.set(Some(turns));
    runtime.on_thread_unpark(|| {
        TURNS.with_borrow_mut(|turns| {
            if let Some(turns) = turns {
                turns.since = Instant::now();
            }
        });
    });
    runtime.on_thread_park(|| {
        TURNS.with_borrow(|turns| {
            if let Some(turns) = turns {
                turns.durations.record(u64::try_from(turns.since.elapsed().as_micros()).unwrap_or(u64::MAX));
            }
        });
    });
}
