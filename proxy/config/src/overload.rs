//! What the proxy sheds when a resource runs short (`envoy.config.overload.v3.OverloadManager`).

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

/// Monitors that are read regularly, and actions that follow from how full they are.
#[derive(Debug, Clone, PartialEq)]
pub struct OverloadManager {
    pub refresh_interval: Duration,
    pub monitors: Vec<ResourceMonitor>,
    pub actions: Vec<OverloadAction>,
    /// Open downstream connections of the whole process; `None`: as many as there are descriptors for.
    pub max_downstream_connections: Option<u64>,
    /// Open connections of a listener, by its name.
    pub max_listener_connections: BTreeMap<Arc<str>, u64>,
}

/// A resource whose pressure is between 0 (free) and 1 (used up).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResourceMonitor {
    /// As the triggers and the statistics call it.
    pub name: Arc<str>,
    pub resource: monitored::Resource,
}

/// What monitors look at.
pub mod monitored {
    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    pub enum Resource {
        /// The heap against a fixed size.
        FixedHeap { bytes_max: u64 },
        /// The memory of the cgroup against its limit, or against less where that is configured.
        CgroupMemory { bytes_max: Option<u64> },
        /// Requests that wait for an upstream connection.
        PendingRequests { max: u64 },
    }
}

/// What is done under pressure.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Action {
    /// New streams are answered with 503.
    StopAcceptingRequests,
    /// New connections wait in the kernel's queue.
    StopAcceptingConnections,
    /// New connections are closed at once.
    RejectIncomingConnections,
    /// Connections close with their next answer.
    DisableHttpKeepalive,
    /// Free memory goes back to the system.
    ShrinkHeap,
}

impl Action {
    pub const ALL: [Action; 5] = [
        Action::StopAcceptingRequests,
        Action::StopAcceptingConnections,
        Action::RejectIncomingConnections,
        Action::DisableHttpKeepalive,
        Action::ShrinkHeap,
    ];

    /// Envoy's name.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Action::StopAcceptingRequests => "envoy.overload_actions.stop_accepting_requests",
            Action::StopAcceptingConnections => "envoy.overload_actions.stop_accepting_connections",
            Action::RejectIncomingConnections => "envoy.overload_actions.reject_incoming_connections",
            Action::DisableHttpKeepalive => "envoy.overload_actions.disable_http_keepalive",
            Action::ShrinkHeap => "envoy.overload_actions.shrink_heap",
        }
    }

    #[must_use]
    pub fn from_name(name: &str) -> Option<Action> {
        Action::ALL.into_iter().find(|action| action.name() == name)
    }
}

#[derive(Debug, Clone, PartialEq)]
pub struct OverloadAction {
    pub action: Action,
    /// The strongest one decides.
    pub triggers: Vec<Trigger>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Trigger {
    /// Its place in [`OverloadManager::monitors`].
    pub monitor: usize,
    pub threshold: Threshold,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Threshold {
    /// Fully active from this pressure on.
    Fixed(f64),
    /// Active by degrees between the two.
    Scaled { scaling: f64, saturation: f64 },
}

impl Threshold {
    fn state(self, pressure: f64) -> f64 {
        match self {
            Threshold::Fixed(value) => f64::from(u8::from(pressure >= value)),
            Threshold::Scaled { scaling, saturation } => {
                if pressure <= scaling {
                    0.0
                } else if pressure >= saturation {
                    1.0
                } else {
                    (pressure - scaling) / (saturation - scaling)
                }
            }
        }
    }
}

impl OverloadAction {
    /// How active the action is, from 0 to 1, under the pressures of the monitors.
    #[must_use]
    pub fn state(&self, pressures: &[f64]) -> f64 {
        let states = self.triggers.iter().map(|trigger| {
            let pressure = pressures.get(trigger.monitor).copied().unwrap_or(0.0);
            trigger.threshold.state(pressure)
        });
        states.fold(0.0, f64::max)
    }
}

impl Default for OverloadManager {
    /// What holds where the bootstrap names no overload manager: a process in a cgroup with a memory limit sheds load
    /// before the kernel ends it.
    fn default() -> OverloadManager {
        let at = |action, threshold| OverloadAction { action, triggers: vec![Trigger { monitor: 0, threshold }] };
        OverloadManager {
            refresh_interval: Duration::from_millis(250),
            monitors: vec![ResourceMonitor {
                name: Arc::from("envoy.resource_monitors.cgroup_memory"),
                resource: monitored::Resource::CgroupMemory { bytes_max: None },
            }],
            actions: vec![
                at(Action::ShrinkHeap, Threshold::Fixed(0.85)),
                at(Action::DisableHttpKeepalive, Threshold::Fixed(0.9)),
                at(Action::StopAcceptingRequests, Threshold::Scaled { scaling: 0.92, saturation: 0.97 }),
                at(Action::StopAcceptingConnections, Threshold::Fixed(0.98)),
            ],
            max_downstream_connections: None,
            max_listener_connections: BTreeMap::new(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(threshold: Threshold, pressures: &[f64], expected: f64) {
        let action = OverloadAction {
            action: Action::ShrinkHeap,
            triggers: vec![Trigger { monitor: 1, threshold }, Trigger { monitor: 7, threshold }],
        };
        assert!((action.state(pressures) - expected).abs() < 1e-9, "{threshold:?} {pressures:?}");
    }

    #[test]
    fn pressure_becomes_a_state() {
        check(Threshold::Fixed(0.9), &[1.0, 0.89], 0.0);
        check(Threshold::Fixed(0.9), &[0.0, 0.9], 1.0);
        let scaled = Threshold::Scaled { scaling: 0.8, saturation: 0.9 };
        check(scaled, &[1.0, 0.8], 0.0);
        check(scaled, &[1.0, 0.85], 0.5);
        check(scaled, &[0.0, 2.0], 1.0);
        check(scaled, &[], 0.0);
    }

    #[test]
    fn names_are_envoys() {
        for action in Action::ALL {
            assert_eq!(Action::from_name(action.name()), Some(action));
        }
        assert_eq!(Action::from_name("envoy.overload_actions.reset_high_memory_stream"), None);
    }
}
