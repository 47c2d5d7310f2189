//! Make before break: clusters, endpoints, filters, listeners, routes; and the clusters that are gone last, when the
//! routes that used them are no longer in use.
//!
//! Order on the stream is not enough: a client applies types on their own, and Envoy acknowledges clusters only when
//! they are warm. So a later type waits for the answer to an earlier one. It waits only for what it can depend on, never
//! for what the client can ask for only after it has the later one (endpoints after clusters, filters and routes after
//! listeners), and an addition never longer than `order_wait_max`.

use tokio::time::Instant;

use super::StreamState;
use super::subscription::Plan;
use crate::resource::ResourceType;

/// Which part of a type's changes goes out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    /// Additions and changes.
    Makes,
    /// Removals.
    Breaks,
    Both,
}

#[derive(Debug, Clone, Copy)]
pub(super) struct Phase {
    pub(super) kind: ResourceType,
    pub(super) part: Part,
}

const fn phase(kind: ResourceType, part: Part) -> Phase {
    Phase { kind, part }
}

/// The order of a push.
pub(super) const PHASES: [Phase; 7] = [
    phase(ResourceType::Cluster, Part::Makes),
    phase(ResourceType::Endpoints, Part::Makes),
    phase(ResourceType::ExtensionConfig, Part::Both),
    // A listener is a root: removing one breaks nothing that is still in use.
    phase(ResourceType::Listener, Part::Both),
    phase(ResourceType::Route, Part::Both),
    phase(ResourceType::Cluster, Part::Breaks),
    phase(ResourceType::Endpoints, Part::Breaks),
];

/// What of another type holds a type up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wait {
    /// Everything that adds or changes something, until it is answered.
    Made,
    /// Only what the client waits for: endpoints that change all the time must not hold up routes for ever.
    Awaited,
    /// Only until it is sent.
    Sent,
    /// Everything, until it is answered and nothing of it is rejected.
    Taken,
}

impl StreamState {
    /// What of a plan may go out in this phase.
    pub(super) fn allowed(&self, phase: Phase, mut plan: Plan, now: Instant) -> Plan {
        if phase.part == Part::Breaks || self.makes_blocked(phase.kind, now) {
            plan.changed.clear();
            plan.absent.clear();
            plan.awaited = false;
        } else if phase.kind == ResourceType::Route && self.waits(ResourceType::Listener, Wait::Made, now) {
            // A route configuration that the client does not have yet is what its listener waits for.
            let routes = &self.types[phase.kind.index()];
            plan.changed.retain(|resource| !routes.held.contains_key(&resource.name));
        }
        if phase.part == Part::Makes || self.breaks_blocked(phase.kind, now) {
            plan.removed.clear();
        }
        plan
    }

    pub(super) fn makes_blocked(&self, kind: ResourceType, now: Instant) -> bool {
        let waits = |kind, wait| self.waits(kind, wait, now);
        match kind {
            ResourceType::Cluster | ResourceType::Endpoints => false,
            // Its code may come through a cluster.
            ResourceType::ExtensionConfig => waits(ResourceType::Cluster, Wait::Made),
            ResourceType::Listener | ResourceType::Route => {
                waits(ResourceType::Cluster, Wait::Made)
                    || waits(ResourceType::Endpoints, Wait::Awaited)
                    || waits(ResourceType::ExtensionConfig, Wait::Sent)
            }
        }
    }

    fn breaks_blocked(&self, kind: ResourceType, now: Instant) -> bool {
        let waits = |kind, wait| self.waits(kind, wait, now);
        match kind {
            ResourceType::Cluster => {
                waits(ResourceType::Listener, Wait::Taken) || waits(ResourceType::Route, Wait::Taken)
            }
            ResourceType::Endpoints => waits(ResourceType::Cluster, Wait::Taken),
            ResourceType::ExtensionConfig | ResourceType::Route => waits(ResourceType::Listener, Wait::Taken),
            ResourceType::Listener => self.makes_blocked(kind, now),
        }
    }

    /// Whether `kind` still holds up what depends on it.
    fn waits(&self, kind: ResourceType, wait: Wait, now: Instant) -> bool {
        let subscription = &self.types[kind.index()];
        // A rejected listener or route still runs in its old form, for as long as the rejection stands.
        if wait == Wait::Taken && !subscription.nacked.is_empty() {
            return true;
        }
        if let Some(outstanding) = &subscription.outstanding {
            // A removal has time: only the answer ends its wait.
            if wait != Wait::Taken && now.duration_since(outstanding.sent_at) >= self.options.order_wait_max {
                return false;
            }
            let holds = match wait {
                Wait::Made => outstanding.makes,
                Wait::Awaited => outstanding.awaited,
                Wait::Sent => false,
                Wait::Taken => true,
            };
            if holds {
                return true;
            }
        }
        let plan = &subscription.plan;
        match wait {
            Wait::Made | Wait::Sent => plan.makes(),
            Wait::Awaited => plan.awaited,
            Wait::Taken => plan.makes() || !plan.removed.is_empty(),
        }
    }
}
