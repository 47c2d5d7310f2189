//! Watches memory and requests that wait, and tells the workers what to shed while there is little room.

use std::sync::Arc;

use outrigger_config::{Action, OverloadManager, ResourceMonitor, monitored};
use outrigger_dataplane::Overload;
use outrigger_stats::{Gauge, Name, Registry};

use crate::{allocator, system};

/// An action with its statistics.
#[derive(Debug)]
struct Watched {
    active: Gauge,
    scale_percent: Gauge,
}

/// Reads the monitors at every interval, for ever.
pub(crate) async fn watch(manager: OverloadManager, overload: Arc<Overload>, registry: Arc<Registry>) {
    if manager.monitors.iter().all(|monitor| pressure(monitor, &overload).is_none()) {
        // Without a limit there is no pressure: a process outside a cgroup isn't woken for it.
        return;
    }
    let gauge = |rest: String| registry.gauge(&Name::new("", format!("overload.{rest}")));
    let pressures: Vec<Gauge> =
        manager.monitors.iter().map(|monitor| gauge(format!("{}.pressure", monitor.name))).collect();
    let actions: Vec<Watched> = manager
        .actions
        .iter()
        .map(|action| Watched {
            active: gauge(format!("{}.active", action.action.name())),
            scale_percent: gauge(format!("{}.scale_percent", action.action.name())),
        })
        .collect();
    loop {
        let now: Vec<f64> =
            manager.monitors.iter().map(|monitor| pressure(monitor, &overload).unwrap_or(0.0)).collect();
        for (gauge, pressure) in pressures.iter().zip(&now) {
            gauge.set(percent(*pressure));
        }
        for (action, watched) in manager.actions.iter().zip(&actions) {
            let state = action.state(&now);
            let was = watched.scale_percent.get();
            watched.active.set(i64::from(state >= 1.0));
            watched.scale_percent.set(percent(state));
            overload.set(action.action, state);
            if was != percent(state) {
                tracing::warn!("overload: {} is at {} %", action.action.name(), percent(state));
            }
            if action.action == Action::ShrinkHeap && state > 0.0 {
                allocator::purge();
            }
        }
        tokio::time::sleep(manager.refresh_interval).await;
    }
}

/// How full a resource is; `None`: it has no limit.
fn pressure(monitor: &ResourceMonitor, overload: &Overload) -> Option<f64> {
    let (used, max) = match monitor.resource {
        monitored::Resource::FixedHeap { bytes_max } => (system::memory().anonymous, bytes_max),
        monitored::Resource::CgroupMemory { bytes_max } => {
            let cgroup = system::cgroup_memory()?;
            (cgroup.used, bytes_max.map_or(cgroup.limit, |max| max.min(cgroup.limit)))
        }
        monitored::Resource::PendingRequests { max } => (overload.pending_requests(), max),
    };
    Some(share(used, max))
}

#[expect(clippy::cast_precision_loss, reason = "a share needs no more than three digits")]
fn share(used: u64, max: u64) -> f64 {
    used as f64 / max.max(1) as f64
}

#[expect(clippy::cast_possible_truncation, reason = "it is clamped before")]
fn percent(share: f64) -> i64 {
    (share.clamp(0.0, 100.0) * 100.0).round() as i64
}
