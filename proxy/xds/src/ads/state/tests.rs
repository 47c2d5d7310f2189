//! The protocol by example, and against a model server under random events.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{Needed, ResourceKind, SharedMap};
use outrigger_proto::pb::envoy::config::core::v3::Node;
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};
use tokio::time::Instant;

use super::{AdsState, Request, Response};
use crate::batch::Raw;
use crate::decode::type_url_of;
use crate::testing::{cluster_yaml, resource};
use crate::{ApiVariant, Rejected, Verdict};

const CDS: ResourceKind = ResourceKind::Cluster;
const EDS: ResourceKind = ResourceKind::Endpoints;

fn new(variant: ApiVariant) -> AdsState {
    let node = Node { id: "n".to_owned(), ..Node::default() };
    AdsState::new(outrigger_config::Source::Ads, variant, node, true, false)
}

fn raw(kind: ResourceKind, name: &str, version: &str, bytes: Bytes) -> Raw {
    Raw { name: Some(name.to_owned()), version: version.into(), type_url: type_url_of(kind).to_owned(), bytes }
}

fn good(kind: ResourceKind, name: &str, version: &str) -> Raw {
    let port = version.trim_start_matches('v').parse().unwrap_or(1);
    let bytes = match kind {
        CDS => resource(kind, &cluster_yaml(name, port)),
        _ => resource(kind, &format!("{{cluster_name: {name}, policy: {{overprovisioning_factor: {}}}}}", 100 + port)),
    };
    raw(kind, name, version, bytes)
}

/// A resource that can be named and isn't valid.
fn broken(kind: ResourceKind, name: &str, version: &str) -> Raw {
    let bytes = match kind {
        CDS => resource(kind, &format!("{{name: {name}, type: LOGICAL_DNS}}")),
        _ => resource(kind, &format!("{{cluster_name: {name}, endpoints: [{{priority: 999}}]}}")),
    };
    raw(kind, name, version, bytes)
}

fn response(kind: ResourceKind, nonce: &str, resources: Vec<Raw>, removed: &[&str]) -> Response {
    let removed = removed.iter().map(|name| (*name).to_owned()).collect();
    Response { kind, version: format!("s{nonce}").into(), nonce: nonce.to_owned(), resources, removed }
}

fn needs(names: &[&str]) -> Needed {
    let endpoints: SharedMap<Option<Duration>> = names.iter().map(|name| (Arc::from(*name), None)).collect();
    Needed { endpoints, ..Needed::default() }
}

/// Judges everything that waits; the sink takes it all.
fn judge(state: &mut AdsState, now: Instant) -> Vec<Request> {
    let mut requests = Vec::new();
    while let Some((mut pending, _)) = state.next_pending() {
        requests.extend(state.on_verdict(&mut pending, Verdict::default(), now));
    }
    requests
}

/// `CDS +a -b ack(1)` and the like.
fn text(requests: &[Request]) -> Vec<String> {
    requests
        .iter()
        .map(|request| {
            let mut parts = Vec::new();
            let mut part = |prefix: &str, names: &[String]| {
                let mut names = names.to_vec();
                names.sort();
                parts.extend(names.iter().map(|name| format!("{prefix}{name}")));
            };
            let (url, node, nonce, error) = match request {
                Request::Delta(delta) => {
                    part("+", &delta.resource_names_subscribe);
                    part("-", &delta.resource_names_unsubscribe);
                    let held =
                        delta.initial_resource_versions.iter().map(|(name, version)| format!("{name}@{version}"));
                    part("has:", &held.collect::<Vec<_>>());
                    (&delta.type_url, &delta.node, &delta.response_nonce, &delta.error_detail)
                }
                Request::Sotw(sotw) => {
                    part("", &sotw.resource_names);
                    if !sotw.version_info.is_empty() {
                        part("at:", std::slice::from_ref(&sotw.version_info));
                    }
                    (&sotw.type_url, &sotw.node, &sotw.response_nonce, &sotw.error_detail)
                }
            };
            let kind = if url.ends_with(".Cluster") { "CDS" } else { "EDS" };
            let mut out = vec![kind.to_owned()];
            out.extend(node.iter().map(|node| format!("node={}", node.id)));
            out.extend(parts);
            if !nonce.is_empty() {
                out.push(format!("{}({nonce})", if error.is_some() { "nack" } else { "ack" }));
            }
            out.extend(error.iter().map(|error| format!("[{}]", error.message)));
            out.join(" ")
        })
        .collect()
}

#[test]
fn delta_acknowledges_first_and_subscribes_afterwards() {
    let now = Instant::now();
    let mut state = new(ApiVariant::Delta);
    assert_eq!(text(&state.on_connect(now)), ["CDS node=n"]);
    state.on_response(response(CDS, "1", vec![good(CDS, "a", "v1")], &[]));
    let (mut pending, update) = state.next_pending().unwrap();
    assert_eq!(update.upserts.len(), 1);
    assert!(state.next_pending().is_none(), "one at a time");
    assert_eq!(text(&state.on_verdict(&mut pending, Verdict::default(), now)), ["CDS ack(1)"]);
    assert_eq!(text(&state.on_needed(&needs(&["a", "b"]), now).0), ["EDS +a +b"]);
    assert_eq!(text(&state.on_needed(&needs(&["b", "c"]), now).0), ["EDS +c -a"]);
    state.on_response(response(EDS, "2", vec![good(EDS, "b", "v1")], &["c"]));
    let (mut pending, update) = state.next_pending().unwrap();
    assert_eq!((update.upserts.len(), update.missing.len()), (1, 1));
    assert_eq!(text(&state.on_verdict(&mut pending, Verdict::default(), now)), ["EDS ack(2)"]);
    assert_eq!(text(&state.on_connect(now)), ["CDS node=n has:a@v1", "EDS +b +c has:b@v1"]);
}

#[test]
fn the_good_resources_of_a_bad_response_are_taken() {
    let now = Instant::now();
    let mut state = new(ApiVariant::Delta);
    state.on_connect(now);
    let resources = vec![
        good(CDS, "a", "v1"),
        broken(CDS, "b", "v1"),
        good(CDS, "twice", "v1"),
        good(CDS, "twice", "v2"),
        Raw { type_url: type_url_of(EDS).to_owned(), ..good(CDS, "wrong", "v1") },
        Raw { name: Some("other".to_owned()), ..good(CDS, "self", "v1") },
        Raw { name: None, bytes: Bytes::from_static(b"\xff\xff"), ..good(CDS, "", "v1") },
    ];
    state.on_response(response(CDS, "1", resources, &[]));
    let (mut pending, update) = state.next_pending().unwrap();
    assert_eq!(update.upserts.iter().map(|(name, _)| &**name).collect::<Vec<_>>(), ["a"]);
    let verdict = Verdict { rejected: vec![Rejected { name: "a".into(), reason: "no module".to_owned() }] };
    let requests = state.on_verdict(&mut pending, verdict, now);
    let Request::Delta(nack) = &requests[0] else { panic!() };
    let message = &nack.error_detail.as_ref().unwrap().message;
    let mut lines: Vec<&str> = message.lines().collect();
    lines.sort_unstable();
    assert_eq!(lines.len(), 6, "{message}");
    assert!(lines[0].starts_with("Cluster (unnamed): malformed message"), "{message}");
    assert_eq!(lines[1], "Cluster a: no module");
    assert_eq!(lines[2], "Cluster b: load_assignment: is required for a cluster that is resolved through DNS");
    assert_eq!(lines[3], "Cluster other: calls itself \"self\"");
    assert_eq!(lines[4], "Cluster twice: stands in the response more than once");
    assert!(lines[5].starts_with("Cluster wrong: is a envoy.config.endpoint.v3"), "{message}");
    assert_eq!(text(&state.on_connect(now)), ["CDS node=n"], "nothing of it is said to be held");
}

#[test]
fn a_reconnect_tells_the_version_before_a_rejected_one() {
    let now = Instant::now();
    let mut state = new(ApiVariant::Delta);
    state.on_connect(now);
    state.on_response(response(CDS, "1", vec![good(CDS, "a", "v1"), good(CDS, "b", "")], &[]));
    judge(&mut state, now);
    state.on_response(response(CDS, "2", vec![broken(CDS, "a", "v2"), broken(CDS, "b", "")], &[]));
    judge(&mut state, now);
    assert_eq!(text(&state.on_connect(now)), ["CDS node=n has:a@v1"]);
}

#[test]
fn state_of_the_world_removes_by_absence_and_answers_the_last_nonce() {
    let now = Instant::now();
    let mut state = new(ApiVariant::StateOfTheWorld);
    assert_eq!(text(&state.on_connect(now)), ["CDS node=n"]);
    state.on_response(response(CDS, "1", vec![good(CDS, "a", "v1"), good(CDS, "b", "v1")], &[]));
    assert_eq!(text(&judge(&mut state, now)), ["CDS at:s1 ack(1)"]);
    state.on_response(response(CDS, "2", vec![good(CDS, "a", "v1"), broken(CDS, "b", "v2")], &[]));
    let (mut pending, update) = state.next_pending().unwrap();
    assert!(update.upserts.is_empty() && update.removed.is_empty(), "a is as it was, the bad b keeps its version");
    let requests = state.on_verdict(&mut pending, Verdict::default(), now);
    assert!(text(&requests)[0].starts_with("CDS at:s1 nack(2) [Cluster b: "), "{:?}", text(&requests));
    state.on_response(response(CDS, "3", vec![good(CDS, "a", "v1")], &[]));
    let (mut pending, update) = state.next_pending().unwrap();
    assert_eq!(update.removed, ["b".into()]);
    // A newer response came meanwhile: it is the one that is answered.
    state.on_response(response(CDS, "4", Vec::new(), &[]));
    assert!(state.on_verdict(&mut pending, Verdict::default(), now).is_empty());
    assert_eq!(text(&judge(&mut state, now)), ["CDS at:s4 ack(4)"]);
    assert_eq!(text(&state.on_needed(&needs(&["x"]), now).0), ["EDS x"]);
    state.on_response(response(EDS, "5", vec![good(EDS, "x", "v1")], &[]));
    // Names that change under way go with the answer.
    let (mut pending, _) = state.next_pending().unwrap();
    assert!(state.on_needed(&needs(&["x", "y"]), now).0.is_empty());
    assert_eq!(text(&state.on_verdict(&mut pending, Verdict::default(), now)), ["EDS x y at:s5 ack(5)"]);
    assert_eq!(text(&state.on_connect(now)), ["CDS node=n at:s4", "EDS x y at:s5"]);
}

#[test]
fn names_that_dont_come_are_missing_after_their_time() {
    let now = Instant::now();
    let mut state = new(ApiVariant::Delta);
    let mut needed = needs(&["a", "b"]);
    needed.endpoints.insert("c".into(), Some(Duration::ZERO));
    needed.endpoints.insert("d".into(), Some(Duration::from_secs(1)));
    state.on_needed(&needed, now);
    assert_eq!(state.next_time(), None, "nothing is asked yet");
    state.on_connect(now);
    state.on_response(response(EDS, "1", vec![good(EDS, "a", "v1")], &[]));
    judge(&mut state, now);
    assert_eq!(state.next_time(), Some(now + Duration::from_secs(1)));
    let missing = |state: &mut AdsState, at| -> Vec<String> {
        let (_, updates) = state.on_time(at);
        updates.iter().flat_map(|update| update.missing.iter().map(ToString::to_string)).collect()
    };
    assert_eq!(missing(&mut state, now + Duration::from_secs(1)), ["d"]);
    assert_eq!(missing(&mut state, now + Duration::from_secs(15)), ["b"]);
    assert_eq!(state.next_time(), None, "zero waits for ever");
}

#[test]
fn repeated_nacks_slow_down() {
    let now = Instant::now();
    let mut state = new(ApiVariant::StateOfTheWorld);
    state.on_connect(now);
    let mut nack = |nonce: &str| {
        state.on_response(response(CDS, nonce, vec![broken(CDS, "a", "v1")], &[]));
        let sent = judge(&mut state, now).len();
        (sent, state.next_time().map(|at| at - now))
    };
    assert_eq!(nack("1"), (1, None));
    assert_eq!(nack("2"), (0, Some(Duration::from_millis(100))));
    assert_eq!(nack("3"), (0, Some(Duration::from_millis(200))));
    let (due, _) = state.on_time(now + Duration::from_millis(200));
    assert!(text(&due)[0].starts_with("CDS nack(3)"), "{:?}", text(&due));
}

#[test]
fn nacks_name_everything_within_their_bound() {
    let now = Instant::now();
    let mut state = new(ApiVariant::Delta);
    state.on_connect(now);
    let resources = (0..200).map(|number| broken(CDS, &format!("{number:03}{}", "x".repeat(40)), "v1")).collect();
    state.on_response(response(CDS, "1", resources, &[]));
    let requests = judge(&mut state, now);
    let Request::Delta(nack) = &requests[0] else { panic!() };
    let message = &nack.error_detail.as_ref().unwrap().message;
    assert!(message.len() <= 16 << 10, "{}", message.len());
    assert_eq!(message.lines().count(), 200);
    assert!((0..200).all(|number| message.contains(&format!("Cluster {number:03}x"))));
}

/// A server that knows what it has and what the client told it.
#[derive(Default)]
struct Server {
    /// Name to version; odd versions are broken.
    resources: BTreeMap<String, u32>,
    wanted: BTreeSet<String>,
    /// What the client has, as far as the server can know.
    sent: BTreeMap<String, u32>,
    unanswered: BTreeSet<String>,
    nonces: u32,
    streamed: bool,
}

impl Server {
    fn on_request(&mut self, request: &Request, seed: u64) {
        let Request::Delta(request) = request else { panic!() };
        if request.type_url != type_url_of(EDS) {
            return;
        }
        let changes = !request.resource_names_subscribe.is_empty() || !request.resource_names_unsubscribe.is_empty();
        if !request.response_nonce.is_empty() {
            assert!(!changes, "seed {seed}: an answer that changes the subscription");
            assert!(self.unanswered.remove(&request.response_nonce), "seed {seed}: answered twice or never asked");
            return;
        }
        assert!(changes, "seed {seed}: a request that says nothing");
        self.streamed = true;
        for (name, version) in &request.initial_resource_versions {
            let version = version.trim_start_matches('v').parse().unwrap();
            assert!(version % 2 == 0, "seed {seed}: a rejected version is said to be held");
            self.sent.insert(name.clone(), version);
        }
        for name in &request.resource_names_subscribe {
            assert!(self.wanted.insert(name.clone()), "seed {seed}: subscribed twice");
            // A server answers for each new name, also for one that doesn't exist.
            self.sent.entry(name.clone()).or_insert(u32::MAX);
        }
        for name in &request.resource_names_unsubscribe {
            assert!(self.wanted.remove(name), "seed {seed}: unsubscribed what wasn't");
            self.sent.remove(name);
        }
    }

    /// What the client lacks.
    fn push(&mut self) -> Option<Response> {
        let differs = |name: &&String| self.resources.get(*name) != self.sent.get(*name);
        let names: Vec<String> = self.wanted.iter().filter(differs).cloned().collect();
        if !self.streamed || names.is_empty() {
            return None;
        }
        let mut resources = Vec::new();
        let mut removed = Vec::new();
        for name in &names {
            match self.resources.get(name) {
                Some(version) => {
                    self.sent.insert(name.clone(), *version);
                    let text = format!("v{version}");
                    resources.push(if version % 2 == 0 { good(EDS, name, &text) } else { broken(EDS, name, &text) });
                }
                None => {
                    self.sent.remove(name);
                    removed.push(name.as_str());
                }
            }
        }
        self.nonces += 1;
        let nonce = self.nonces.to_string();
        self.unanswered.insert(nonce.clone());
        Some(response(EDS, &nonce, resources, &removed))
    }

    fn disconnect(&mut self) {
        self.wanted.clear();
        self.sent.clear();
        self.unanswered.clear();
        self.streamed = false;
    }
}

#[test]
fn random_events_end_in_what_the_server_has() {
    for seed in 0..200 {
        let mut random = SmallRng::seed_from_u64(seed);
        let mut now = Instant::now();
        let mut state = new(ApiVariant::Delta);
        let mut server = Server::default();
        let mut pending = Vec::new();
        let mut version = 0;
        let mut names: Vec<String> = Vec::new();
        for step in 0..140 {
            // The last steps only settle.
            let event = if step < 100 { random.random_range(0..8) } else { 5 + step % 3 };
            let requests = match event {
                0 => {
                    version += 1;
                    server.resources.insert(format!("e{}", random.random_range(0..5)), version);
                    Vec::new()
                }
                1 => {
                    server.resources.remove(&format!("e{}", random.random_range(0..5)));
                    Vec::new()
                }
                2 => {
                    names = (0..5).filter(|_| random.random_bool(0.5)).map(|name| format!("e{name}")).collect();
                    let names: Vec<&str> = names.iter().map(String::as_str).collect();
                    state.on_needed(&needs(&names), now).0
                }
                3 if random.random_bool(0.3) => {
                    server.disconnect();
                    state.on_disconnect();
                    Vec::new()
                }
                3 | 4 if !state.connected => state.on_connect(now),
                5 => {
                    if !state.connected {
                        let requests = state.on_connect(now);
                        requests.iter().for_each(|request| server.on_request(request, seed));
                    }
                    if let Some(response) = server.push() {
                        state.on_response(response);
                    }
                    Vec::new()
                }
                6 => {
                    pending.extend(state.next_pending().map(|(pending, _)| pending));
                    Vec::new()
                }
                7 => match pending.pop() {
                    Some(mut pending) => state.on_verdict(&mut pending, Verdict::default(), now),
                    None => {
                        now += Duration::from_secs(11);
                        state.on_time(now).0
                    }
                },
                _ => Vec::new(),
            };
            requests.iter().for_each(|request| server.on_request(request, seed));
        }
        now += Duration::from_secs(60);
        let (due, _) = state.on_time(now);
        due.iter().for_each(|request| server.on_request(request, seed));
        assert!(server.unanswered.is_empty(), "seed {seed}: {:?}", server.unanswered);
        assert_eq!(server.wanted, names.iter().cloned().collect(), "seed {seed}");
        for name in &names {
            let held = state.kinds[EDS as usize].held.get(name.as_str()).map(|held| held.version.to_string());
            match server.resources.get(name) {
                Some(version) if version % 2 == 0 => {
                    assert_eq!(held, Some(format!("v{version}")), "seed {seed} {name}")
                }
                Some(_) => {}
                None => assert_eq!(held, None, "seed {seed} {name}"),
            }
        }
    }
}

#[test]
fn what_is_given_up_is_told_and_comes_again() {
    for variant in [ApiVariant::Delta, ApiVariant::StateOfTheWorld] {
        let now = Instant::now();
        let mut state = new(variant);
        state.on_connect(now);
        state.on_response(response(CDS, "1", vec![good(CDS, "a", "v1"), good(CDS, "b", "v1")], &[]));
        let (mut pending, _) = state.next_pending().unwrap();
        assert_eq!(state.on_verdict(&mut pending, Verdict::default(), now).len(), 1);
        let bad = |name: &str| Rejected { name: name.into(), reason: "traps too often".to_owned() };
        assert_eq!(state.given_up(CDS, &bad("unknown")), None);
        assert_eq!(state.given_up(CDS, &bad("a")).as_deref(), Some("v1"));
        // Not while a newer response waits for its answer; then right after it.
        state.on_response(response(CDS, "2", vec![good(CDS, "a", "v1"), good(CDS, "b", "v2")], &[]));
        assert!(state.late_rejections(CDS).is_empty());
        let (mut pending, update) = state.next_pending().unwrap();
        // The very bytes that were given up are judged anew.
        assert!(update.upserts.iter().any(|(name, _)| &**name == "a"));
        let verdict = Verdict { rejected: vec![bad("a")] };
        let requests = state.on_verdict(&mut pending, verdict, now);
        assert_eq!(requests.len(), 2, "{requests:?}");
        for request in &requests {
            let (nonce, detail) = match request {
                Request::Delta(request) => (&request.response_nonce, &request.error_detail),
                Request::Sotw(request) => (&request.response_nonce, &request.error_detail),
            };
            assert_eq!((nonce.as_str(), detail.is_some()), ("2", true));
            assert!(detail.as_ref().is_some_and(|detail| detail.message.contains("a: traps too often")));
        }
        // A new stream doesn't say that it is held.
        let first = state.on_connect(now);
        if let Some(Request::Delta(request)) = first.first() {
            let held: Vec<_> = request.initial_resource_versions.keys().map(String::as_str).collect();
            assert_eq!(held, ["b"]);
        }
        assert!(state.late_rejections(CDS).is_empty());
    }
}
