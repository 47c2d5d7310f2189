//! The state machine of one ADS stream, without I/O: requests and snapshots in, responses out.
//!
//! Both variants of the protocol are one machine; they differ in how a request changes the subscription and in how a
//! removal is told. Promises, checked by the simulation in the tests:
//!
//! - the client ends up with exactly what it subscribed to of the snapshot;
//! - nothing unchanged is sent, but for what the client asked for anew and for endpoints of a changed cluster;
//! - at most one response of a type waits for its answer; while it waits, newer snapshots replace each other;
//! - a rejection is recorded, and nothing is sent because of it;
//! - make before break (`order`).

mod nack;
mod order;
#[cfg(test)]
mod simulation;
mod subscription;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::resource::{NodeSnapshot, Resource, ResourceType, Version};
use order::{Part, Phase};
use subscription::{Outstanding, Plan, Subscription};

pub use subscription::Nack;

/// The protocol's two variants.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Variant {
    /// `DeltaAggregatedResources`.
    Delta,
    /// `StreamAggregatedResources`.
    StateOfTheWorld,
}

/// How a stream behaves.
#[derive(Debug, Clone)]
pub struct StreamOptions {
    /// A changed cluster is followed by its endpoints, changed or not: Envoy warms it only with a fresh answer.
    pub endpoints_after_cluster: bool,
    /// How long a type waits for the answer to another one before it goes out all the same.
    pub order_wait_max: Duration,
    /// Most names in the subscription of one type.
    pub names_max: usize,
    /// Longest name, in bytes.
    pub name_bytes_max: usize,
}

impl Default for StreamOptions {
    fn default() -> Self {
        Self {
            endpoints_after_cluster: true,
            order_wait_max: Duration::from_secs(10),
            names_max: 100_000,
            name_bytes_max: 1024,
        }
    }
}

/// What a request says, in either variant.
#[derive(Debug, Clone, Default)]
pub struct Request {
    /// The resource type's URL.
    pub type_url: String,
    /// Of the response that this answers; empty: it answers none.
    pub nonce: String,
    /// Why that response was rejected.
    pub rejection: Option<String>,
    /// How the subscription changes.
    pub names: Names,
}

/// The subscription in a request.
#[derive(Debug, Clone)]
pub enum Names {
    /// Delta: changes.
    Delta {
        /// Wanted from now on.
        subscribe: Vec<String>,
        /// No longer wanted.
        unsubscribe: Vec<String>,
        /// On a type's first request: what the client has, by name, with its version.
        initial: Vec<(String, String)>,
    },
    /// State of the world: all of it.
    Full {
        /// Wanted.
        names: Vec<String>,
        /// What the client has.
        version: String,
    },
}

impl Default for Names {
    fn default() -> Self {
        Self::Delta { subscribe: Vec::new(), unsubscribe: Vec::new(), initial: Vec::new() }
    }
}

/// A response to be sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Response {
    /// Its type.
    pub kind: ResourceType,
    /// Unique in the stream.
    pub nonce: String,
    /// The hash of everything that the client then has of this type.
    pub version: Version,
    /// Added, changed, or (state of the world, LDS and CDS) everything.
    pub resources: Vec<Arc<Resource>>,
    /// Delta: what is gone.
    pub removed: Vec<Arc<str>>,
}

/// What a request did, for the log and the metrics.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// The response was taken.
    Acked {
        /// Its type.
        kind: ResourceType,
        /// From sending it to the answer.
        latency: Duration,
    },
    /// The response was rejected.
    Nacked {
        /// Its type.
        kind: ResourceType,
        /// What the client says.
        reason: Arc<str>,
        /// The resources that it is about.
        names: Vec<Arc<str>>,
    },
}

/// The client asks for more than the limits allow; the stream ends.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refused {
    /// Too many names.
    #[error("{kind}: more than {max} names in one subscription")]
    TooManyNames {
        /// The type.
        kind: ResourceType,
        /// The limit.
        max: usize,
    },
    /// A name that is too long.
    #[error("{kind}: a resource name is longer than {max} bytes")]
    NameTooLong {
        /// The type.
        kind: ResourceType,
        /// The limit.
        max: usize,
    },
}

/// What one type of a stream is at.
#[derive(Debug, Clone)]
pub struct TypeState {
    /// The type.
    pub kind: ResourceType,
    /// How many resources the client holds or is being sent.
    pub held: usize,
    /// Since when a response waits for its answer.
    pub pending_since: Option<Instant>,
    /// Rejected resources.
    pub nacked: Vec<(Arc<str>, Nack)>,
    /// The version of all that was acknowledged last.
    pub acked: Option<Version>,
    /// When the client last answered, either way.
    pub answered_at: Option<Instant>,
    /// From push to ACK, the last time.
    pub push_duration: Option<Duration>,
}

/// The state of one stream.
#[derive(Debug)]
pub struct StreamState {
    variant: Variant,
    options: StreamOptions,
    snapshot: Option<Arc<NodeSnapshot>>,
    types: [Subscription; 5],
    acked: [Option<Version>; 5],
    in_flight: [Option<Version>; 5],
    answered_at: [Option<Instant>; 5],
    push_durations: [Option<Duration>; 5],
    nonce_prefix: String,
    nonces: u64,
}

impl StreamState {
    /// A stream that knows nothing yet. Nonces begin with `nonce_prefix`.
    pub fn new(variant: Variant, options: StreamOptions, nonce_prefix: &str) -> Self {
        Self {
            variant,
            options,
            snapshot: None,
            types: ResourceType::ALL.map(|kind| Subscription::new(kind, variant)),
            acked: [const { None }; 5],
            in_flight: [const { None }; 5],
            answered_at: [None; 5],
            push_durations: [None; 5],
            nonce_prefix: nonce_prefix.to_owned(),
            nonces: 0,
        }
    }

    /// Takes a request: first its answer to a response, then its subscription, which counts even if the nonce is stale.
    /// A request for a type that this server does not have changes nothing.
    pub fn on_request(&mut self, request: &Request, now: Instant) -> Result<(Vec<Response>, Option<Answer>), Refused> {
        let Some(kind) = ResourceType::from_type_url(&request.type_url) else { return Ok((Vec::new(), None)) };
        let answer = self.take_answer(kind, request, now);
        self.subscribe(kind, &request.names)?;
        Ok((self.advance(now), answer))
    }

    /// Takes a new snapshot; one that comes while responses wait for their answers replaces the one before.
    pub fn on_snapshot(&mut self, snapshot: Arc<NodeSnapshot>, now: Instant) -> Vec<Response> {
        self.snapshot = Some(snapshot);
        self.advance(now)
    }

    /// Sends what waited for another type's answer long enough.
    pub fn on_timer(&mut self, now: Instant) -> Vec<Response> {
        self.advance(now)
    }

    /// When [`Self::on_timer`] has something to do at the earliest.
    pub fn deadline(&self, now: Instant) -> Option<Instant> {
        let waits = self.types.iter().filter_map(|kind| kind.outstanding.as_ref());
        waits.map(|outstanding| outstanding.sent_at + self.options.order_wait_max).filter(|at| *at > now).min()
    }

    /// The state of every type that the client asked for.
    pub fn types(&self) -> Vec<TypeState> {
        let started = self.types.iter().filter(|subscription| subscription.started);
        started.map(|subscription| self.type_state(subscription)).collect()
    }

    fn type_state(&self, subscription: &Subscription) -> TypeState {
        let index = subscription.kind.index();
        let nacked = subscription.nacked.iter();
        TypeState {
            kind: subscription.kind,
            held: subscription.held.len(),
            pending_since: subscription.outstanding.as_ref().map(|outstanding| outstanding.sent_at),
            nacked: nacked.map(|(name, nack)| (Arc::clone(name), nack.clone())).collect(),
            acked: self.acked[index].clone(),
            answered_at: self.answered_at[index],
            push_duration: self.push_durations[index],
        }
    }

    /// Whether the client holds this very version of a resource, acknowledged.
    pub fn confirmed(&self, resource: &Resource) -> bool {
        let subscription = &self.types[resource.kind.index()];
        let waiting = |outstanding: &Outstanding| outstanding.resources.iter().any(|(name, _)| *name == resource.name);
        subscription.held.get(&resource.name).is_some_and(|held| held.version == resource.version)
            && !subscription.nacked.contains_key(&resource.name)
            && !subscription.outstanding.as_ref().is_some_and(waiting)
    }

    fn take_answer(&mut self, kind: ResourceType, request: &Request, now: Instant) -> Option<Answer> {
        let index = kind.index();
        let subscription = &mut self.types[index];
        let Some(outstanding) = subscription.answered(&request.nonce) else {
            return self.take_late_rejection(kind, request, now);
        };
        let version = self.in_flight[index].take();
        self.answered_at[index] = Some(now);
        let Some(message) = &request.rejection else {
            subscription.acked(&outstanding);
            let latency = now.duration_since(outstanding.sent_at);
            self.acked[index] = version;
            self.push_durations[index] = Some(latency);
            return Some(Answer::Acked { kind, latency });
        };
        let sent: Vec<_> = outstanding.resources.iter().map(|(name, _)| Arc::clone(name)).collect();
        let rejection = nack::parse(message, &sent);
        subscription.rejected(&outstanding, &rejection, now);
        let names = rejection.names.into_keys().collect();
        Some(Answer::Nacked { kind, reason: nack::bounded(message), names })
    }

    /// A client gives up what it had taken, by exact names: our own proxy, when a new revision of a filter misbehaves.
    fn take_late_rejection(&mut self, kind: ResourceType, request: &Request, now: Instant) -> Option<Answer> {
        let message = request.rejection.as_ref()?;
        let subscription = &mut self.types[kind.index()];
        let rejection = nack::parse(message, &subscription.revocable(&request.nonce));
        if !rejection.exact {
            return None;
        }
        subscription.given_up(&rejection, now);
        self.answered_at[kind.index()] = Some(now);
        let names = rejection.names.into_keys().collect();
        Some(Answer::Nacked { kind, reason: nack::bounded(message), names })
    }

    fn subscribe(&mut self, kind: ResourceType, names: &Names) -> Result<(), Refused> {
        let StreamOptions { names_max, name_bytes_max, .. } = self.options;
        let subscription = &mut self.types[kind.index()];
        let wanted = match names {
            Names::Delta { subscribe, .. } => subscribe,
            Names::Full { names, .. } => names,
        };
        if wanted.iter().any(|name| name.len() > name_bytes_max) {
            return Err(Refused::NameTooLong { kind, max: name_bytes_max });
        }
        let before = if self.variant == Variant::Delta { subscription.name_count() } else { 0 };
        let initial_count = if let Names::Delta { initial, .. } = names { initial.len() } else { 0 };
        if before.saturating_add(wanted.len()).max(initial_count) > names_max {
            return Err(Refused::TooManyNames { kind, max: names_max });
        }
        match names {
            Names::Delta { subscribe, unsubscribe, initial } => subscription.apply_delta(
                subscribe.iter().map(String::as_str),
                unsubscribe.iter().map(String::as_str),
                initial.iter().map(|(name, version)| (name.as_str(), version.as_str())),
            ),
            Names::Full { names, version } => {
                let first = !subscription.started;
                subscription.apply_sotw(names.iter().map(String::as_str));
                if first && !version.is_empty() {
                    self.resume(kind, version);
                }
            }
        }
        Ok(())
    }

    /// Only where there is a snapshot already; without one the first push repeats everything, which is right as well.
    fn resume(&mut self, kind: ResourceType, version: &str) {
        if let Some(snapshot) = &self.snapshot {
            self.types[kind.index()].resume(version, snapshot);
        }
    }

    /// Sends what may go out now.
    fn advance(&mut self, now: Instant) -> Vec<Response> {
        let Some(snapshot) = self.snapshot.clone() else { return Vec::new() };
        let mut responses = Vec::new();
        for phase in order::PHASES {
            self.types.iter_mut().for_each(|subscription| subscription.replan(&snapshot));
            responses.extend(self.push(phase, &snapshot, now));
        }
        responses
    }

    fn push(&mut self, phase: Phase, snapshot: &NodeSnapshot, now: Instant) -> Option<Response> {
        let subscription = &self.types[phase.kind.index()];
        if !subscription.started || subscription.outstanding.is_some() {
            return None;
        }
        let plan = self.allowed(phase, subscription.plan.clone(), now);
        let answers = subscription.must_answer && phase.part != Part::Breaks && !self.makes_blocked(phase.kind, now);
        if !plan.makes() && plan.removed.is_empty() && !answers {
            return None;
        }
        Some(self.respond(phase, plan, snapshot, now))
    }

    fn respond(&mut self, phase: Phase, plan: Plan, snapshot: &NodeSnapshot, now: Instant) -> Response {
        let kind = phase.kind;
        self.nonces += 1;
        let nonce = format!("{}{}", self.nonce_prefix, self.nonces);
        let makes = plan.makes();
        if kind == ResourceType::Cluster && self.options.endpoints_after_cluster {
            let endpoints = &mut self.types[ResourceType::Endpoints.index()];
            plan.changed.iter().for_each(|cluster| endpoints.force(&cluster.name));
        }
        let subscription = &mut self.types[kind.index()];
        subscription.must_answer = false;
        plan.changed.iter().for_each(|resource| subscription.hold(resource));
        plan.removed.iter().chain(&plan.absent).for_each(|name| subscription.drop_held(name));
        let full: Vec<Arc<Resource>> = subscription.wanted(snapshot).into_iter().cloned().collect();
        let (resources, removed) = match self.variant {
            Variant::Delta => (plan.changed, plan.removed.into_iter().chain(plan.absent).collect()),
            Variant::StateOfTheWorld if kind.is_full_state() => (with_kept(subscription, full.clone()), Vec::new()),
            Variant::StateOfTheWorld => (plan.changed, Vec::new()),
        };
        // The version of all that the client then has; what it still keeps of clusters about to go counts as well.
        let all = if kind == ResourceType::Cluster { with_kept(subscription, full) } else { full };
        let version = Version::of_all(all.iter().map(|resource| (resource.name.as_ref(), &resource.version)));
        subscription.outstanding = Some(Outstanding {
            nonce: nonce.clone(),
            sent_at: now,
            resources: resources
                .iter()
                .map(|resource| (Arc::clone(&resource.name), resource.version.clone()))
                .collect(),
            makes,
            awaited: plan.awaited,
        });
        self.in_flight[kind.index()] = Some(version.clone());
        Response { kind, nonce, version, resources, removed }
    }
}

/// Adds what the client must keep for now although the snapshot no longer has it.
fn with_kept(subscription: &Subscription, mut resources: Vec<Arc<Resource>>) -> Vec<Arc<Resource>> {
    let kept = subscription.held.values().filter_map(|held| held.resource.as_ref());
    resources.extend(kept.cloned());
    resources.sort_by(|a, b| a.name.cmp(&b.name));
    resources.dedup_by(|a, b| a.name == b.name);
    resources
}
