//! One resource type of one stream: what the client subscribed to, what it holds, and what is still to be sent.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use tokio::time::Instant;

use super::Variant;
use super::nack::Rejection;
use crate::resource::{NodeSnapshot, Resource, ResourceType, Resources, Version};

/// The name that stands for everything.
pub(super) const WILDCARD: &str = "*";

/// What the client was last sent, or what it says it has from an earlier stream.
#[derive(Debug, Clone)]
pub(super) struct Held {
    pub(super) version: Version,
    /// Kept where a response must repeat it although it is no longer in the snapshot: clusters in state of the world.
    pub(super) resource: Option<Arc<Resource>>,
}

/// A rejected resource.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nack {
    /// The version that was rejected.
    pub version: Version,
    /// What the client says.
    pub reason: Arc<str>,
    /// Since when.
    pub since: Instant,
}

/// A response that waits for its ACK or NACK.
#[derive(Debug)]
pub(super) struct Outstanding {
    pub(super) nonce: String,
    pub(super) sent_at: Instant,
    /// Resources in it, with their versions.
    pub(super) resources: Vec<(Arc<str>, Version)>,
    /// It adds or changes something (a removal alone delays nobody).
    pub(super) makes: bool,
    /// It holds something that the client waits for: a first answer, or a fresh one after a change of the cluster.
    pub(super) awaited: bool,
}

/// What is to be sent.
#[derive(Debug, Clone, Default)]
pub(super) struct Plan {
    pub(super) changed: Vec<Arc<Resource>>,
    /// Some of `changed` the client does not have at all, or waits for.
    pub(super) awaited: bool,
    /// Held by the client and gone.
    pub(super) removed: Vec<Arc<str>>,
    /// Asked for, never held, and not there.
    pub(super) absent: Vec<Arc<str>>,
}

impl Plan {
    pub(super) fn makes(&self) -> bool {
        !self.changed.is_empty() || !self.absent.is_empty()
    }
}

#[derive(Debug)]
pub(super) struct Subscription {
    pub(super) kind: ResourceType,
    variant: Variant,
    /// A request for this type was seen.
    pub(super) started: bool,
    wildcard: bool,
    /// The wildcard came from a first request without names; in state of the world it ends with the first name.
    legacy: bool,
    names: BTreeSet<Arc<str>>,
    pub(super) held: BTreeMap<Arc<str>, Held>,
    /// Sent again although unchanged: re-subscribed, or an endpoint set whose cluster changed.
    forced: BTreeSet<Arc<str>>,
    /// Of a response that was rejected as a whole: perhaps the client took none of it. They go out again together with
    /// the next change, never by themselves.
    suspect: BTreeSet<Arc<str>>,
    /// The client was told that these do not exist.
    told_absent: BTreeSet<Arc<str>>,
    pub(super) nacked: BTreeMap<Arc<str>, Nack>,
    /// The next response goes out even if it is empty.
    pub(super) must_answer: bool,
    pub(super) outstanding: Option<Outstanding>,
    /// Of the last response that was answered.
    last_nonce: String,
    /// What is to be sent, as [`Self::replan`] found it.
    pub(super) plan: Plan,
    /// The resources that the plan was made for; `None` after a change of the subscription.
    planned_for: Option<Arc<Resources>>,
}

impl Subscription {
    pub(super) fn new(kind: ResourceType, variant: Variant) -> Self {
        Self {
            kind,
            variant,
            started: false,
            wildcard: false,
            legacy: false,
            names: BTreeSet::new(),
            held: BTreeMap::new(),
            forced: BTreeSet::new(),
            suspect: BTreeSet::new(),
            told_absent: BTreeSet::new(),
            nacked: BTreeMap::new(),
            must_answer: false,
            outstanding: None,
            last_nonce: String::new(),
            plan: Plan::default(),
            planned_for: None,
        }
    }

    pub(super) fn covers(&self, name: &str) -> bool {
        self.wildcard || self.names.contains(name)
    }

    pub(super) fn name_count(&self) -> usize {
        self.names.len()
    }

    /// The subscription part of a delta request.
    pub(super) fn apply_delta<'a>(
        &mut self,
        subscribe: impl ExactSizeIterator<Item = &'a str>,
        unsubscribe: impl ExactSizeIterator<Item = &'a str>,
        initial: impl Iterator<Item = (&'a str, &'a str)>,
    ) {
        let first = !self.started;
        self.started = true;
        if first || subscribe.len() > 0 || unsubscribe.len() > 0 {
            self.planned_for = None;
        }
        if first && subscribe.len() == 0 && unsubscribe.len() == 0 && self.kind.has_legacy_wildcard() {
            self.wildcard = true;
            self.legacy = true;
        }
        for name in subscribe {
            self.subscribe(name, first);
        }
        for name in unsubscribe {
            self.unsubscribe(name);
        }
        if first {
            for (name, version) in initial {
                if self.covers(name) {
                    self.held.insert(name.into(), Held { version: Version::claimed(version), resource: None });
                }
            }
            self.must_answer = self.wildcard && self.held.is_empty();
            self.forced.retain(|name| self.held.contains_key(name));
        }
    }

    fn subscribe(&mut self, name: &str, first: bool) {
        if name == WILDCARD {
            if self.wildcard && !first {
                self.forced.extend(self.held.keys().cloned());
            }
            self.wildcard = true;
            self.legacy = false;
            return;
        }
        let name: Arc<str> = name.into();
        self.told_absent.remove(&name);
        // Asking again means that the client wants it again, whatever it was sent before.
        if !first && self.held.contains_key(&name) {
            self.forced.insert(Arc::clone(&name));
        }
        self.names.insert(name);
    }

    fn unsubscribe(&mut self, name: &str) {
        if name == WILDCARD {
            self.wildcard = false;
            self.legacy = false;
        } else if self.names.remove(name) && self.wildcard && self.held.contains_key(name) {
            // The client cannot know whether the wildcard still covers it: tell it.
            self.forced.insert(name.into());
        }
        self.forget_uncovered();
    }

    /// The subscription part of a state-of-the-world request: the names are the whole subscription.
    pub(super) fn apply_sotw<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let first = !self.started;
        self.started = true;
        let mut explicit = false;
        let mut wanted = BTreeSet::new();
        for name in names {
            if name == WILDCARD {
                explicit = true;
            } else {
                wanted.insert(Arc::<str>::from(name));
            }
        }
        let nameless = wanted.is_empty() && !explicit;
        let before = (self.wildcard, std::mem::take(&mut self.names));
        self.legacy = nameless && self.kind.has_legacy_wildcard() && (first || self.legacy);
        let wildcard = explicit || self.legacy;
        // Absence is told by a full list; what is asked for anew must be answered even if nothing else changed.
        let asks_more = (wildcard && !before.0) || !wanted.is_subset(&before.1);
        self.must_answer |= asks_more && self.kind.is_full_state();
        if !first {
            let again = wanted.difference(&before.1).filter(|name| self.held.contains_key(*name));
            self.forced.extend(again.cloned());
        }
        if first || before != (wildcard, wanted.clone()) {
            self.planned_for = None;
        }
        self.wildcard = wildcard;
        self.names = wanted;
        self.forget_uncovered();
    }

    /// What the client no longer wants it no longer has.
    fn forget_uncovered(&mut self) {
        if self.wildcard {
            return;
        }
        let names = &self.names;
        self.held.retain(|name, _| names.contains(name));
        self.nacked.retain(|name, _| names.contains(name));
        self.forced.retain(|name| names.contains(name));
        self.suspect.retain(|name| names.contains(name));
        self.told_absent.retain(|name| names.contains(name));
    }

    /// Everything in the snapshot that the client wants, in order of names.
    pub(super) fn wanted<'a>(&'a self, snapshot: &'a NodeSnapshot) -> Vec<&'a Arc<Resource>> {
        let all = snapshot.resources(self.kind);
        if self.wildcard {
            all.values().collect()
        } else {
            self.names.iter().filter_map(|name| all.get(name)).collect()
        }
    }

    /// What the client holds from an earlier stream, by the version that it names: everything, if the version is that
    /// of what it would be sent now.
    pub(super) fn resume(&mut self, version: &str, snapshot: &NodeSnapshot) {
        let wanted: Vec<_> = self.wanted(snapshot).into_iter().cloned().collect();
        let current = Version::of_all(wanted.iter().map(|resource| (resource.name.as_ref(), &resource.version)));
        if current.as_str() == version {
            // Endpoints whose cluster this stream has already changed go out all the same.
            let forced = std::mem::take(&mut self.forced);
            for resource in wanted {
                self.hold(&resource);
            }
            self.forced = forced;
            self.must_answer = false;
        }
    }

    /// Compares what the client holds with the snapshot, unless neither has changed.
    pub(super) fn replan(&mut self, snapshot: &NodeSnapshot) {
        let resources = snapshot.resources(self.kind);
        if !self.planned_for.as_ref().is_some_and(|planned| Arc::ptr_eq(planned, resources)) {
            self.plan = self.compare(snapshot);
            self.planned_for = Some(Arc::clone(resources));
        }
    }

    fn compare(&self, snapshot: &NodeSnapshot) -> Plan {
        let mut plan = Plan::default();
        if !self.started {
            return plan;
        }
        for resource in self.wanted(snapshot) {
            let name = &resource.name;
            let held = self.held.get(name);
            let forced = self.forced.contains(name);
            if forced || held.is_none_or(|held| held.version != resource.version) {
                plan.awaited |= forced || held.is_none();
                plan.changed.push(Arc::clone(resource));
            }
        }
        let all = snapshot.resources(self.kind);
        if self.tells_removals() {
            plan.removed = self.held.keys().filter(|name| !all.contains_key(*name)).cloned().collect();
        }
        if self.variant == Variant::Delta {
            let news = |name: &&Arc<str>| {
                !all.contains_key(*name) && !self.held.contains_key(*name) && !self.told_absent.contains(*name)
            };
            plan.absent = self.names.iter().filter(news).cloned().collect();
        }
        if plan.makes() && !self.suspect.is_empty() {
            self.add_suspects(&mut plan, snapshot);
        }
        plan
    }

    fn add_suspects(&self, plan: &mut Plan, snapshot: &NodeSnapshot) {
        let all = snapshot.resources(self.kind);
        let again = self.suspect.iter().filter_map(|name| all.get(name));
        plan.changed.extend(again.filter(|resource| self.covers(&resource.name)).cloned());
        plan.changed.sort_by(|a, b| a.name.cmp(&b.name));
        plan.changed.dedup_by(|a, b| a.name == b.name);
    }

    /// A filter that a client asked for by name is never removed: a listener that still runs it (because the client
    /// rejected the listener's update) would answer 500. It is forgotten when the client stops asking for it. In state
    /// of the world only full lists can tell that something is gone.
    fn tells_removals(&self) -> bool {
        match self.variant {
            Variant::Delta => self.kind != ResourceType::ExtensionConfig || self.wildcard,
            Variant::StateOfTheWorld => self.kind.is_full_state(),
        }
    }

    /// The client is being sent this resource.
    pub(super) fn hold(&mut self, resource: &Arc<Resource>) {
        let repeat = self.variant == Variant::StateOfTheWorld && self.kind == ResourceType::Cluster;
        let held = Held { version: resource.version.clone(), resource: repeat.then(|| Arc::clone(resource)) };
        self.forced.remove(&resource.name);
        self.suspect.remove(&resource.name);
        self.told_absent.remove(&resource.name);
        self.held.insert(Arc::clone(&resource.name), held);
        self.planned_for = None;
    }

    /// The client is being told that there is no such resource (any more).
    pub(super) fn drop_held(&mut self, name: &Arc<str>) {
        self.held.remove(name);
        self.nacked.remove(name);
        self.forced.remove(name);
        self.suspect.remove(name);
        self.planned_for = None;
        if self.names.contains(name) {
            self.told_absent.insert(Arc::clone(name));
        }
    }

    /// Sends it again although it is unchanged, if the client has it or turns out to have it.
    pub(super) fn force(&mut self, name: &Arc<str>) {
        if !self.started || self.held.contains_key(name) {
            self.forced.insert(Arc::clone(name));
            self.planned_for = None;
        }
    }

    /// Takes the outstanding response if this is its nonce; a stale nonce answers nothing.
    pub(super) fn answered(&mut self, nonce: &str) -> Option<Outstanding> {
        let answered = self.outstanding.take_if(|outstanding| outstanding.nonce == nonce);
        if answered.is_some() {
            nonce.clone_into(&mut self.last_nonce);
        }
        answered
    }

    /// Names that a client may give up after it has taken them: a second answer to the last response that was answered.
    pub(super) fn revocable(&self, nonce: &str) -> Vec<Arc<str>> {
        if nonce.is_empty() || nonce != self.last_nonce {
            return Vec::new();
        }
        let waits = |name: &Arc<str>| {
            self.outstanding
                .as_ref()
                .is_some_and(|outstanding| outstanding.resources.iter().any(|(one, _)| one == name))
        };
        self.held.keys().filter(|name| !waits(name)).cloned().collect()
    }

    /// What the client held it holds no more in the version that it had.
    pub(super) fn given_up(&mut self, rejection: &Rejection, now: Instant) {
        for (name, reason) in &rejection.names {
            let Some(held) = self.held.get(name) else { continue };
            let nack = Nack { version: held.version.clone(), reason: Arc::clone(reason), since: now };
            self.nacked.insert(Arc::clone(name), nack);
        }
    }

    pub(super) fn acked(&mut self, outstanding: &Outstanding) {
        for (name, _) in &outstanding.resources {
            self.nacked.remove(name);
        }
    }

    pub(super) fn rejected(&mut self, outstanding: &Outstanding, rejection: &Rejection, now: Instant) {
        self.planned_for = None;
        for (name, version) in &outstanding.resources {
            if !self.covers(name) {
                continue;
            }
            match rejection.names.get(name) {
                Some(reason) => {
                    let version = version.clone();
                    self.nacked.insert(Arc::clone(name), Nack { version, reason: Arc::clone(reason), since: now });
                }
                None if rejection.exact => {
                    self.nacked.remove(name);
                }
                None => {}
            }
            if !rejection.exact {
                self.suspect.insert(Arc::clone(name));
            }
        }
    }
}
