//! A seeded simulation: a client that behaves as Envoy does (or asks at random), snapshots that change, answers that come
//! late, rejections. Invariants are checked at every step.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Answer, Names, Request, Response, StreamOptions, StreamState, Variant};
use crate::resource::{NodeSnapshot, Resource, ResourceType};

/// SplitMix64: a seed is all it takes to replay a run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        usize::try_from(self.next() % bound as u64).unwrap()
    }

    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }
}

/// A consistent snapshot: routes name clusters that exist, listeners name filters that exist.
fn snapshot(random: &mut Random) -> Arc<NodeSnapshot> {
    let mut snapshot = NodeSnapshot::default();
    let mut add = |kind, name: String, body: String| {
        snapshot.insert(Arc::new(Resource::new(kind, &name, body.into_bytes())));
    };
    let clusters: Vec<_> = (0..6).filter(|_| random.chance(60)).map(|n| format!("c{n}")).collect();
    for name in &clusters {
        add(ResourceType::Cluster, name.clone(), random.below(3).to_string());
        add(ResourceType::Endpoints, name.clone(), random.below(4).to_string());
    }
    let filters: Vec<_> = (0..3).filter(|_| random.chance(60)).map(|n| format!("f{n}")).collect();
    for name in &filters {
        add(ResourceType::ExtensionConfig, name.clone(), random.below(3).to_string());
    }
    for listener in (0..3).filter(|_| random.chance(70)).map(|n| format!("l{n}")).collect::<Vec<_>>() {
        let used: Vec<_> = filters.iter().filter(|_| random.chance(50)).cloned().collect();
        let routed: Vec<_> = clusters.iter().filter(|_| random.chance(50)).cloned().collect();
        add(ResourceType::Listener, listener.clone(), used.join(","));
        add(ResourceType::Route, listener, routed.join(","));
    }
    Arc::new(snapshot)
}

#[derive(Clone, Copy, PartialEq)]
struct Setup {
    variant: Variant,
    /// Subscribes as Envoy does; otherwise at random.
    envoy: bool,
    /// Percent of responses that are rejected.
    rejects: usize,
}

#[derive(Default)]
struct Client {
    wildcard: BTreeSet<ResourceType>,
    names: BTreeMap<ResourceType, BTreeSet<String>>,
    held: BTreeMap<ResourceType, BTreeMap<String, Arc<Resource>>>,
    inbox: VecDeque<Response>,
    asked: BTreeSet<ResourceType>,
    last_nonce: BTreeMap<ResourceType, String>,
    last_version: BTreeMap<ResourceType, String>,
    /// What was sent last, taken or not.
    sent: BTreeMap<(ResourceType, String), Arc<Resource>>,
    /// May be sent again unchanged.
    excused: BTreeSet<(ResourceType, String)>,
}

impl Client {
    fn covers(&self, kind: ResourceType, name: &str) -> bool {
        self.wildcard.contains(&kind) || self.names.get(&kind).is_some_and(|names| names.contains(name))
    }
}

struct Run {
    setup: Setup,
    random: Random,
    now: Instant,
    server: StreamState,
    client: Client,
    current: Arc<NodeSnapshot>,
    rejected_any: bool,
}

impl Run {
    fn new(setup: Setup, seed: u64) -> Self {
        let mut random = Random(seed);
        Self {
            setup,
            now: Instant::now(),
            server: StreamState::new(setup.variant, StreamOptions::default(), "n"),
            client: Client::default(),
            current: snapshot(&mut random),
            random,
            rejected_any: false,
        }
    }

    fn go(mut self, steps: usize) {
        let first = Arc::clone(&self.current);
        let responses = self.server.on_snapshot(first, self.now);
        self.receive(responses);
        self.ask(ResourceType::Cluster, &[], &[]);
        self.ask(ResourceType::Listener, &[], &[]);
        for _ in 0..steps {
            match self.random.below(10) {
                0 | 1 => self.change(),
                2 if !self.setup.envoy => self.ask_at_random(),
                3 => {
                    self.now += Duration::from_millis(self.random.next() % 500);
                    let responses = self.server.on_timer(self.now);
                    self.receive(responses);
                }
                _ => self.answer_one(self.setup.rejects),
            }
        }
        while !self.client.inbox.is_empty() {
            self.answer_one(0);
        }
        // After the last rejection something must change before a rejected resource is sent again.
        if self.rejected_any {
            self.change();
            while !self.client.inbox.is_empty() {
                self.answer_one(0);
            }
        }
        self.check_settled();
    }

    fn change(&mut self) {
        self.current = snapshot(&mut self.random);
        let responses = self.server.on_snapshot(Arc::clone(&self.current), self.now);
        self.receive(responses);
    }

    fn ask_at_random(&mut self) {
        let kind = ResourceType::ALL[self.random.below(5)];
        let prefix = match kind {
            ResourceType::Cluster | ResourceType::Endpoints => "c",
            ResourceType::ExtensionConfig => "f",
            ResourceType::Listener | ResourceType::Route => "l",
        };
        let name = match self.random.below(12) {
            0 => "*".to_owned(),
            n => format!("{prefix}{}", n % 6),
        };
        if self.random.chance(60) { self.ask(kind, &[name], &[]) } else { self.ask(kind, &[], &[name]) }
    }

    /// A request that changes the subscription and answers nothing.
    fn ask(&mut self, kind: ResourceType, subscribe: &[String], unsubscribe: &[String]) {
        let first = self.client.asked.insert(kind);
        let legacy = first && subscribe.is_empty() && unsubscribe.is_empty() && kind.has_legacy_wildcard();
        if legacy {
            self.client.wildcard.insert(kind);
        }
        for name in subscribe {
            self.client_subscribes(kind, name);
        }
        for name in unsubscribe {
            self.client_unsubscribes(kind, name);
        }
        let names = self.subscription_of(kind, subscribe, unsubscribe);
        let nonce = match self.setup.variant {
            Variant::Delta => String::new(),
            Variant::StateOfTheWorld => self.client.last_nonce.get(&kind).cloned().unwrap_or_default(),
        };
        self.request(&Request { type_url: kind.type_url().into(), nonce, rejection: None, names });
    }

    fn client_subscribes(&mut self, kind: ResourceType, name: &str) {
        let client = &mut self.client;
        if name == "*" {
            client.wildcard.insert(kind);
            client.excused.extend(client.sent.keys().filter(|(sent, _)| *sent == kind).cloned());
            return;
        }
        client.excused.insert((kind, name.to_owned()));
        client.names.entry(kind).or_default().insert(name.to_owned());
        // In state of the world the first explicit name ends a legacy wildcard; the simulated client always says `*`.
    }

    fn client_unsubscribes(&mut self, kind: ResourceType, name: &str) {
        let client = &mut self.client;
        if name == "*" {
            client.wildcard.remove(&kind);
        } else {
            client.names.entry(kind).or_default().remove(name);
            client.excused.insert((kind, name.to_owned()));
        }
        let gone: Vec<_> = client
            .held
            .get(&kind)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.clone())
            .filter(|name| !client.covers(kind, name))
            .collect();
        for name in gone {
            client.held.entry(kind).or_default().remove(&name);
        }
        let sent: Vec<_> =
            client.sent.keys().filter(|(of, name)| *of == kind && !client.covers(kind, name)).cloned().collect();
        client.excused.extend(sent);
    }

    fn subscription_of(&self, kind: ResourceType, subscribe: &[String], unsubscribe: &[String]) -> Names {
        match self.setup.variant {
            Variant::Delta => {
                Names::Delta { subscribe: subscribe.to_vec(), unsubscribe: unsubscribe.to_vec(), initial: Vec::new() }
            }
            Variant::StateOfTheWorld => {
                let mut names: Vec<_> = self.client.names.get(&kind).into_iter().flatten().cloned().collect();
                if self.client.wildcard.contains(&kind) && !self.setup.envoy {
                    names.push("*".into());
                }
                Names::Full { names, version: self.client.last_version.get(&kind).cloned().unwrap_or_default() }
            }
        }
    }

    fn request(&mut self, request: &Request) {
        let nacks = request.rejection.is_some();
        let (responses, answer) = self.server.on_request(request, self.now).unwrap();
        assert_eq!(nacks, matches!(answer, Some(Answer::Nacked { .. })));
        if nacks && self.setup.variant == Variant::Delta {
            let again = responses.iter().flat_map(|response| &response.resources).find(|resource| {
                let key = (resource.kind, resource.name.to_string());
                resource.kind.type_url() == request.type_url
                    && self.client.sent.get(&key).is_some_and(|sent| sent.version == resource.version)
                    && !self.client.excused.contains(&key)
            });
            assert_eq!(again, None, "a rejection was answered with the same resource");
        }
        self.receive(responses);
    }

    fn receive(&mut self, responses: Vec<Response>) {
        for response in responses {
            let kind = response.kind;
            assert!(self.client.inbox.iter().all(|waiting| waiting.kind != kind), "two {kind} responses wait");
            let full = self.setup.variant == Variant::StateOfTheWorld && kind.is_full_state();
            for resource in &response.resources {
                let key = (kind, resource.name.to_string());
                let unchanged = self.client.sent.get(&key).is_some_and(|sent| sent.version == resource.version);
                let excused = self.client.excused.remove(&key);
                assert!(full || excused || !unchanged, "{kind} {} was sent again", resource.name);
                if kind == ResourceType::Cluster {
                    self.client.excused.insert((ResourceType::Endpoints, key.1.clone()));
                }
                self.client.sent.insert(key, Arc::clone(resource));
            }
            for name in &response.removed {
                self.client.sent.remove(&(kind, name.to_string()));
            }
            self.client.inbox.push_back(response);
        }
    }

    /// The client takes the oldest response, or rejects it.
    fn answer_one(&mut self, rejects: usize) {
        let Some(response) = self.client.inbox.pop_front() else { return };
        let kind = response.kind;
        let rejected = !response.resources.is_empty() && self.random.chance(rejects);
        let exact = self.random.chance(50);
        let mut rejection = None;
        if rejected {
            self.rejected_any = true;
            let bad = &response.resources[self.random.below(response.resources.len())].name;
            rejection = Some(if exact { format!("{} {bad}: no", kind.message()) } else { "no".to_owned() });
            if exact {
                self.apply(&response, Some(bad));
            } else {
                self.client.excused.extend(response.resources.iter().map(|resource| (kind, resource.name.to_string())));
            }
        } else {
            self.apply(&response, None);
            self.client.last_version.insert(kind, response.version.to_string());
        }
        self.client.last_nonce.insert(kind, response.nonce.clone());
        let names = self.subscription_of(kind, &[], &[]);
        let nonce = response.nonce.clone();
        self.request(&Request { type_url: kind.type_url().into(), nonce, rejection, names });
        if self.setup.envoy {
            self.follow(kind);
        }
    }

    fn apply(&mut self, response: &Response, except: Option<&Arc<str>>) {
        let kind = response.kind;
        let client = &mut self.client;
        let full = self.setup.variant == Variant::StateOfTheWorld && kind.is_full_state();
        if full {
            let listed: BTreeSet<_> = response.resources.iter().map(|resource| resource.name.to_string()).collect();
            client.held.entry(kind).or_default().retain(|name, _| listed.contains(name));
        }
        for resource in response.resources.iter().filter(|resource| Some(&resource.name) != except) {
            if client.covers(kind, &resource.name) {
                client.held.entry(kind).or_default().insert(resource.name.to_string(), Arc::clone(resource));
            }
        }
        for name in &response.removed {
            client.held.entry(kind).or_default().remove(name.as_ref());
        }
        if self.setup.envoy && self.setup.rejects == 0 {
            self.check_references();
        }
    }

    /// As Envoy: clusters bring endpoints, listeners bring routes and filters.
    fn follow(&mut self, kind: ResourceType) {
        let held = |kind| self.client.held.get(&kind).cloned().unwrap_or_default();
        match kind {
            ResourceType::Cluster => {
                self.want(ResourceType::Endpoints, &held(kind).into_keys().collect());
            }
            ResourceType::Listener => {
                let filters = held(kind).values().flat_map(|listener| references(listener)).collect();
                self.want(ResourceType::Route, &held(kind).into_keys().collect());
                self.want(ResourceType::ExtensionConfig, &filters);
            }
            _ => {}
        }
    }

    fn want(&mut self, kind: ResourceType, wanted: &BTreeSet<String>) {
        let had = self.client.names.get(&kind).cloned().unwrap_or_default();
        let more: Vec<_> = wanted.difference(&had).cloned().collect();
        let less: Vec<_> = had.difference(wanted).cloned().collect();
        if !more.is_empty() || !less.is_empty() {
            self.ask(kind, &more, &less);
        }
    }

    /// No applied route names a cluster that the client does not have.
    fn check_references(&self) {
        let none = BTreeMap::new();
        let clusters = self.client.held.get(&ResourceType::Cluster).unwrap_or(&none);
        for route in self.client.held.get(&ResourceType::Route).unwrap_or(&none).values() {
            for cluster in references(route) {
                assert!(clusters.contains_key(&cluster), "route {} uses {cluster}, which is not there", route.name);
            }
        }
    }

    /// Once everything is answered, the client has what it asked for.
    fn check_settled(&self) {
        for kind in ResourceType::ALL {
            let state = &self.server.types[kind.index()];
            assert!(state.outstanding.is_none());
            let all = self.current.resources(kind);
            let held = self.client.held.get(&kind).cloned().unwrap_or_default();
            for (name, resource) in all.iter() {
                let rejected = state.nacked.contains_key(name) || !state.plan.changed.is_empty();
                if self.client.asked.contains(&kind) && self.client.covers(kind, name) && !self.rejected_any {
                    assert!(!rejected);
                    let version = held.get(name.as_ref()).map(|resource| &resource.version);
                    assert_eq!(version, Some(&resource.version), "{kind} {name}");
                }
            }
            let tells = match self.setup.variant {
                Variant::Delta => kind != ResourceType::ExtensionConfig,
                Variant::StateOfTheWorld => kind.is_full_state(),
            };
            if tells && !self.rejected_any {
                let extra: Vec<_> = held.keys().filter(|name| !all.contains_key(name.as_str())).collect();
                assert!(extra.is_empty(), "{kind} {extra:?} should be gone");
            }
        }
    }
}

fn references(resource: &Resource) -> Vec<String> {
    let text = std::str::from_utf8(&resource.body).unwrap();
    text.split(',').filter(|name| !name.is_empty()).map(ToOwned::to_owned).collect()
}

fn simulate(setup: Setup, seeds: std::ops::Range<u64>) {
    for seed in seeds {
        let run = std::panic::AssertUnwindSafe(|| Run::new(setup, seed).go(150));
        if let Err(panic) = std::panic::catch_unwind(run) {
            eprintln!("seed {seed}: {:?}, envoy {}, rejects {}", setup.variant, setup.envoy, setup.rejects);
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn an_envoy_ends_with_the_snapshot_and_never_routes_to_nothing() {
    for variant in [Variant::Delta, Variant::StateOfTheWorld] {
        simulate(Setup { variant, envoy: true, rejects: 0 }, 0..150);
    }
}

#[test]
fn rejections_never_loop() {
    for variant in [Variant::Delta, Variant::StateOfTheWorld] {
        simulate(Setup { variant, envoy: true, rejects: 30 }, 1000..1100);
        simulate(Setup { variant, envoy: false, rejects: 30 }, 2000..2100);
    }
}

#[test]
fn a_client_that_asks_at_random_ends_with_what_it_asked_for() {
    for variant in [Variant::Delta, Variant::StateOfTheWorld] {
        simulate(Setup { variant, envoy: false, rejects: 0 }, 3000..3150);
    }
}
