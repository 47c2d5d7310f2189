//! The protocol of an ADS client without I/O: what to ask, when to acknowledge, what is held.
//!
//! Rules that servers have made necessary: every response is answered; an acknowledgement never carries a change of the
//! subscription (delta); a node is told once a stream; a reconnect subscribes to everything anew and says what is held,
//! but not what was rejected; of one kind only one response is under way, of several kinds any number.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{Needed, ResourceKind, SharedMap, Source, Update};
use outrigger_proto::pb;
use pb::envoy::config::core::v3::Node;
use pb::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DiscoveryRequest};
use pb::google::rpc;
use tokio::time::Instant;

use crate::batch::{Batch, Held, Raw, prepare};
use crate::decode::type_url_of;
use crate::{ApiVariant, Rejected, Verdict};

/// How long one waits for a name whose config source doesn't say.
const FETCH_TIMEOUT: Duration = Duration::from_secs(15);
/// A second NACK in a row waits this long, each further one twice as long.
const NACK_DELAY: Duration = Duration::from_millis(100);
const NACK_DELAY_MAX: Duration = Duration::from_secs(10);
/// Responses of one kind that wait for the one under way; with more the stream isn't read.
const QUEUE_MAX: usize = 16;

/// A message to the server.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Request {
    Delta(DeltaDiscoveryRequest),
    Sotw(DiscoveryRequest),
}

/// A message from the server.
#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) kind: ResourceKind,
    pub(crate) version: Arc<str>,
    pub(crate) nonce: String,
    pub(crate) resources: Vec<Raw>,
    pub(crate) removed: Vec<String>,
}

/// A response that is being judged.
#[derive(Debug)]
pub(crate) struct Pending {
    pub(crate) kind: ResourceKind,
    pub(crate) batch: Batch,
    pub(crate) removed: Vec<Arc<str>>,
    version: Arc<str>,
    nonce: String,
    stream: u64,
}

#[derive(Debug)]
pub(crate) struct AdsState {
    /// ADS, or a stream of its own, which carries secrets.
    source: Source,
    variant: ApiVariant,
    node: Node,
    node_told: bool,
    connected: bool,
    /// Counts streams, so that a verdict on a response of an old one isn't sent on a new one.
    stream: u64,
    kinds: [KindState; ResourceKind::COUNT],
    /// NACKs that wait.
    deferred: Vec<(Instant, ResourceKind, Request)>,
}

#[derive(Debug, Default)]
struct KindState {
    /// Everything there is (clusters, listeners) is wanted.
    wildcard: bool,
    names: SharedMap<Option<Duration>>,
    /// A request of this kind was sent on this stream.
    subscribed: bool,
    held: BTreeMap<Arc<str>, Held>,
    /// Rejected versions.
    rejected: BTreeMap<Arc<str>, Arc<str>>,
    /// Names that were asked for and haven't come, with the time at which they count as missing.
    waiting: BTreeMap<Arc<str>, Instant>,
    /// `version_info` of the last response that was accepted whole.
    version: Arc<str>,
    /// Of the last response on this stream.
    nonce: String,
    queue: VecDeque<Response>,
    busy: bool,
    /// Of the last response that was answered on this stream.
    answered: String,
    /// Taken, then given up: to be told once nothing is under way.
    given_up: Vec<Rejected>,
    /// Names changed while a response was under way (state of the world).
    names_changed: bool,
    nacks: u32,
}

impl AdsState {
    pub(crate) fn new(source: Source, variant: ApiVariant, node: Node, clusters: bool, listeners: bool) -> AdsState {
        let mut kinds: [KindState; ResourceKind::COUNT] = std::array::from_fn(|_| KindState::default());
        kinds[ResourceKind::Cluster as usize].wildcard = clusters;
        kinds[ResourceKind::Listener as usize].wildcard = listeners;
        AdsState { source, variant, node, node_told: false, connected: false, stream: 0, kinds, deferred: Vec::new() }
    }

    fn kind(&mut self, kind: ResourceKind) -> &mut KindState {
        &mut self.kinds[kind as usize]
    }

    /// A new stream: everything is subscribed to anew, clusters before endpoints before listeners before routes.
    pub(crate) fn on_connect(&mut self, now: Instant) -> Vec<Request> {
        self.on_disconnect();
        self.stream += 1;
        self.connected = true;
        self.node_told = false;
        ResourceKind::ALL.into_iter().filter_map(|kind| self.first_request(kind, now)).collect()
    }

    /// The stream is gone. What is held stays, and so does what is being judged.
    pub(crate) fn on_disconnect(&mut self) {
        self.connected = false;
        self.deferred.clear();
        for kind in &mut self.kinds {
            kind.subscribed = false;
            kind.nonce.clear();
            kind.answered.clear();
            // A reconnect doesn't say that they are held: they come again, and are judged again.
            kind.given_up.clear();
            kind.queue.clear();
            kind.waiting.clear();
            kind.names_changed = false;
        }
    }

    fn first_request(&mut self, kind: ResourceKind, now: Instant) -> Option<Request> {
        let state = &mut self.kinds[kind as usize];
        // What is being judged will be held or not: before that nobody can say what is.
        let wants_nothing = !state.wildcard && state.names.is_empty();
        if !self.connected || state.busy || state.subscribed || wants_nothing {
            return None;
        }
        state.subscribed = true;
        let names: Vec<Arc<str>> = state.names.keys().cloned().collect();
        state.wait_for(&names, now);
        Some(match self.variant {
            ApiVariant::Delta => {
                let versions = state.held.iter().filter(|(name, held)| state.is_retained(name, held));
                let initial_resource_versions =
                    versions.map(|(name, held)| (name.to_string(), held.version.to_string())).collect();
                Request::Delta(DeltaDiscoveryRequest {
                    node: self.node_once(),
                    type_url: type_url_of(kind).to_owned(),
                    resource_names_subscribe: strings(&names),
                    initial_resource_versions,
                    ..DeltaDiscoveryRequest::default()
                })
            }
            ApiVariant::StateOfTheWorld => self.sotw(kind, None),
        })
    }

    fn node_once(&mut self) -> Option<Node> {
        (!std::mem::replace(&mut self.node_told, true)).then(|| self.node.clone())
    }

    /// A state-of-the-world request: the whole subscription, the last good version, the last nonce.
    fn sotw(&mut self, kind: ResourceKind, error_detail: Option<rpc::Status>) -> Request {
        let node = self.node_once();
        let state = self.kind(kind);
        Request::Sotw(DiscoveryRequest {
            node,
            version_info: state.version.to_string(),
            resource_names: state.names.keys().map(ToString::to_string).collect(),
            type_url: type_url_of(kind).to_owned(),
            response_nonce: state.nonce.clone(),
            error_detail,
            ..DiscoveryRequest::default()
        })
    }

    /// What is needed changed: the requests, and the names that are forgotten.
    pub(crate) fn on_needed(&mut self, needed: &Needed, now: Instant) -> (Vec<Request>, Vec<(ResourceKind, Arc<str>)>) {
        let mut requests = Vec::new();
        let mut forgotten = Vec::new();
        for kind in ResourceKind::ALL {
            let Some(names) = needed.names_from(&self.source, kind) else { continue };
            let state = self.kind(kind);
            let changed = names.changed(&state.names, |_, _| true);
            state.names = names.clone();
            if changed.is_empty() {
                continue;
            }
            let (added, gone): (Vec<_>, Vec<_>) = changed.into_iter().partition(|name| names.contains_key(name));
            for name in &gone {
                state.held.remove(name);
                state.rejected.remove(name);
                state.waiting.remove(name);
            }
            requests.extend(self.resubscribe(kind, &added, &gone, now));
            forgotten.extend(gone.into_iter().map(|name| (kind, name)));
        }
        (requests, forgotten)
    }

    fn resubscribe(
        &mut self,
        kind: ResourceKind,
        added: &[Arc<str>],
        gone: &[Arc<str>],
        now: Instant,
    ) -> Option<Request> {
        if !self.connected {
            return None;
        }
        if !self.kind(kind).subscribed {
            return self.first_request(kind, now);
        }
        self.kind(kind).wait_for(added, now);
        match self.variant {
            // Without a nonce: it answers nothing.
            ApiVariant::Delta => Some(Request::Delta(DeltaDiscoveryRequest {
                node: self.node_once(),
                type_url: type_url_of(kind).to_owned(),
                resource_names_subscribe: strings(added),
                resource_names_unsubscribe: strings(gone),
                ..DeltaDiscoveryRequest::default()
            })),
            ApiVariant::StateOfTheWorld => {
                let state = self.kind(kind);
                // The answer to the response under way will carry the names.
                if state.busy || !state.queue.is_empty() {
                    state.names_changed = true;
                    return None;
                }
                Some(self.sotw(kind, None))
            }
        }
    }

    /// Whether another response can be taken from the stream.
    pub(crate) fn has_room(&self) -> bool {
        self.kinds.iter().all(|kind| kind.queue.len() < QUEUE_MAX)
    }

    pub(crate) fn on_response(&mut self, response: Response) {
        let kind = response.kind;
        let state = self.kind(kind);
        state.nonce.clone_from(&response.nonce);
        if self.variant == ApiVariant::StateOfTheWorld {
            // Clusters and listeners always come whole: what waits is outdated. So is, of every kind, a NACK that waits.
            let state = self.kind(kind);
            if state.wildcard {
                state.queue.clear();
            }
            self.deferred.retain(|(_, other, _)| *other != kind);
        }
        self.kind(kind).queue.push_back(response);
    }

    /// The next response to judge, with what is to be submitted; of each kind one at a time.
    pub(crate) fn next_pending(&mut self) -> Option<(Pending, Update)> {
        let kind = ResourceKind::ALL.into_iter().find(|kind| {
            let state = &self.kinds[*kind as usize];
            !state.busy && !state.queue.is_empty()
        })?;
        let (variant, stream, source) = (self.variant, self.stream, self.source.clone());
        let state = self.kind(kind);
        let Response { version, nonce, resources, removed, .. } = state.queue.pop_front()?;
        state.busy = true;
        let wanted = |name: &str| state.wildcard || state.names.contains_key(name);
        let mut batch = prepare(kind, &source, resources, |name| state.held.get(name), wanted);
        let mut update = Update {
            source,
            kind,
            upserts: std::mem::take(&mut batch.upserts),
            removed: Vec::new(),
            missing: Vec::new(),
            refused: Vec::new(),
        };
        match variant {
            ApiVariant::Delta => {
                for name in removed.into_iter().filter(|name| wanted(name)) {
                    let name: Arc<str> = Arc::from(name);
                    // A name that is changed and removed at once is a contradiction; the resource is what is there.
                    if batch.raws.contains_key(&name) {
                        continue;
                    }
                    let known = state.held.contains_key(&name) || kind_is_whole(kind);
                    if known { &mut update.removed } else { &mut update.missing }.push(name);
                }
            }
            ApiVariant::StateOfTheWorld if state.wildcard && !batch.has_unnamed => {
                let there = |name: &Arc<str>| {
                    batch.raws.contains_key(name)
                        || batch.unchanged.binary_search_by(|(other, _)| other.cmp(name)).is_ok()
                        || batch.rejected.iter().any(|(rejected, _)| rejected.name == *name)
                };
                update.removed = state.held.keys().filter(|name| !there(name)).cloned().collect();
            }
            ApiVariant::StateOfTheWorld => {}
        }
        if kind.is_named() {
            // Whoever waits for one of these need not wait any longer.
            let names = batch.rejected.iter().map(|(rejected, _)| &rejected.name);
            update.refused = names.filter(|name| state.names.contains_key(name)).cloned().collect();
        }
        let come = batch.raws.keys().chain(batch.unchanged.iter().map(|(name, _)| name));
        let come = come.chain(batch.rejected.iter().map(|(rejected, _)| &rejected.name));
        for name in come.chain(&update.removed).chain(&update.missing) {
            state.waiting.remove(name);
        }
        let removed = update.removed.clone();
        Some((Pending { kind, batch, removed, version, nonce, stream }, update))
    }

    /// The answer to a response, and a change of the subscription that waited for it.
    pub(crate) fn on_verdict(&mut self, pending: &mut Pending, verdict: Verdict, now: Instant) -> Vec<Request> {
        pending.batch.judge(verdict);
        let current = pending.stream == self.stream && self.connected;
        let kind = pending.kind;
        let state = self.kind(kind);
        state.busy = false;
        for (name, (held, _)) in &pending.batch.raws {
            state.rejected.remove(name);
            if state.wildcard || state.names.contains_key(name) {
                state.held.insert(Arc::clone(name), held.clone());
            }
        }
        for (name, version) in &pending.batch.unchanged {
            state.rejected.remove(name);
            if let Some(held) = state.held.get_mut(name) {
                held.version = Arc::clone(version);
            }
        }
        for (rejected, version) in &pending.batch.rejected {
            state.rejected.insert(Arc::clone(&rejected.name), Arc::clone(version));
        }
        for name in &pending.removed {
            state.held.remove(name);
            state.rejected.remove(name);
        }
        if pending.batch.rejected.is_empty() {
            state.nacks = 0;
            state.version = Arc::clone(&pending.version);
        } else {
            state.nacks += 1;
        }
        if !current {
            return self.first_request(kind, now).into_iter().collect();
        }
        self.answer(pending, now)
    }

    fn answer(&mut self, pending: &Pending, now: Instant) -> Vec<Request> {
        let kind = pending.kind;
        self.kind(kind).answered.clone_from(&pending.nonce);
        let error_detail = (!pending.batch.rejected.is_empty()).then(|| rpc::Status {
            code: tonic::Code::InvalidArgument as i32,
            message: pending.batch.nack_text(kind),
            details: Vec::new(),
        });
        let is_nack = error_detail.is_some();
        let request = match self.variant {
            ApiVariant::Delta => Request::Delta(DeltaDiscoveryRequest {
                node: self.node_once(),
                type_url: type_url_of(kind).to_owned(),
                response_nonce: pending.nonce.clone(),
                error_detail,
                ..DeltaDiscoveryRequest::default()
            }),
            // A newer response has come: it is the one to be answered.
            ApiVariant::StateOfTheWorld if self.kinds[kind as usize].nonce != pending.nonce => return Vec::new(),
            ApiVariant::StateOfTheWorld => {
                self.kind(kind).names_changed = false;
                self.sotw(kind, error_detail)
            }
        };
        let nacks = self.kind(kind).nacks;
        if is_nack && nacks > 1 {
            // A server that answers a NACK by sending the same again must not keep both busy.
            let delay = NACK_DELAY.saturating_mul(1 << (nacks - 2).min(16)).min(NACK_DELAY_MAX);
            self.deferred.push((now + delay, kind, request));
            return Vec::new();
        }
        let mut requests = vec![request];
        requests.extend(self.late_rejections(kind));
        requests
    }

    /// Notes that a resource which is held is rejected after all; its version, or `None` where it isn't held any more.
    pub(crate) fn given_up(&mut self, kind: ResourceKind, rejected: &Rejected) -> Option<Arc<str>> {
        let state = self.kind(kind);
        let held = state.held.get_mut(&rejected.name)?;
        // The same bytes once more are not what is held already: they are judged.
        held.bytes = Bytes::new();
        let version = Arc::clone(&held.version);
        state.rejected.insert(Arc::clone(&rejected.name), Arc::clone(&version));
        state.given_up.push(rejected.clone());
        Some(version)
    }

    /// Tells what was given up, in a second answer to the last response that was answered; not while a newer one is under
    /// way, whose answer it would seem to be.
    pub(crate) fn late_rejections(&mut self, kind: ResourceKind) -> Vec<Request> {
        let (connected, variant) = (self.connected, self.variant);
        let state = self.kind(kind);
        if !connected || state.busy || !state.queue.is_empty() || state.answered.is_empty() || state.given_up.is_empty()
        {
            return Vec::new();
        }
        let rejected: Vec<_> = std::mem::take(&mut state.given_up);
        let message = Batch::rejections(rejected.into_iter().map(|rejected| (rejected, Arc::from("")))).nack_text(kind);
        let nonce = state.answered.clone();
        let error_detail = Some(rpc::Status { code: tonic::Code::Aborted as i32, message, details: Vec::new() });
        vec![match variant {
            ApiVariant::Delta => Request::Delta(DeltaDiscoveryRequest {
                node: self.node_once(),
                type_url: type_url_of(kind).to_owned(),
                response_nonce: nonce,
                error_detail,
                ..DeltaDiscoveryRequest::default()
            }),
            ApiVariant::StateOfTheWorld => self.sotw(kind, error_detail),
        }]
    }

    /// When [`AdsState::on_time`] has something to do.
    pub(crate) fn next_time(&self) -> Option<Instant> {
        let waiting = self.kinds.iter().flat_map(|kind| kind.waiting.values());
        waiting.chain(self.deferred.iter().map(|(at, ..)| at)).min().copied()
    }

    /// Delayed answers that are due, and names that have not come in time.
    pub(crate) fn on_time(&mut self, now: Instant) -> (Vec<Request>, Vec<Update>) {
        let mut requests = Vec::new();
        self.deferred.retain(|(at, _, request)| {
            let due = *at <= now;
            if due {
                requests.push(request.clone());
            }
            !due
        });
        let mut updates = Vec::new();
        for kind in ResourceKind::ALL {
            let source = self.source.clone();
            let state = self.kind(kind);
            let late: Vec<Arc<str>> =
                state.waiting.iter().filter(|(_, at)| **at <= now).map(|(name, _)| Arc::clone(name)).collect();
            for name in &late {
                state.waiting.remove(name);
            }
            if !late.is_empty() {
                updates.push(Update {
                    source,
                    kind,
                    upserts: Vec::new(),
                    removed: Vec::new(),
                    missing: late,
                    refused: Vec::new(),
                });
            }
        }
        (requests, updates)
    }
}

impl Pending {
    pub(crate) fn version(&self) -> &Arc<str> {
        &self.version
    }
}

impl KindState {
    /// Starts the timers of names that aren't held.
    fn wait_for(&mut self, names: &[Arc<str>], now: Instant) {
        for name in names.iter().filter(|name| !self.held.contains_key(*name)) {
            let timeout = self.names.get(name).copied().flatten().unwrap_or(FETCH_TIMEOUT);
            if !timeout.is_zero() {
                self.waiting.insert(Arc::clone(name), now + timeout);
            }
        }
    }

    /// Whether a reconnect says that this version is held. Of a rejected resource that is said only where it makes the
    /// server send the newer version again, and lets it tell a removal.
    fn is_retained(&self, name: &Arc<str>, held: &Held) -> bool {
        self.rejected.get(name).is_none_or(|rejected| !held.version.is_empty() && *rejected != held.version)
    }
}

fn strings(names: &[Arc<str>]) -> Vec<String> {
    names.iter().map(ToString::to_string).collect()
}

/// Removed means removed, whether the resource was known or not.
fn kind_is_whole(kind: ResourceKind) -> bool {
    !kind.is_named()
}

#[cfg(test)]
#[path = "state/tests.rs"]
mod tests;
