//! The rules of xDS that name a situation, one test for each.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::{Answer, Names, Refused, Request, Response, StreamOptions, StreamState, Variant};
use crate::resource::{NodeSnapshot, Resource, ResourceType};

const CDS: ResourceType = ResourceType::Cluster;
const EDS: ResourceType = ResourceType::Endpoints;
const ECDS: ResourceType = ResourceType::ExtensionConfig;
const LDS: ResourceType = ResourceType::Listener;
const RDS: ResourceType = ResourceType::Route;

/// A snapshot from `(type, "name=content name=content")`.
fn snapshot(parts: &[(ResourceType, &str)]) -> Arc<NodeSnapshot> {
    let mut snapshot = NodeSnapshot::default();
    for (kind, resources) in parts {
        for (name, content) in resources.split_whitespace().filter_map(|part| part.split_once('=')) {
            snapshot.insert(Arc::new(Resource::new(*kind, name, content.as_bytes().to_vec())));
        }
    }
    Arc::new(snapshot)
}

struct Stream {
    state: StreamState,
    now: Instant,
}

impl Stream {
    fn new(variant: Variant, parts: &[(ResourceType, &str)]) -> Self {
        let mut state = StreamState::new(variant, StreamOptions::default(), "n");
        let now = Instant::now();
        assert!(state.on_snapshot(snapshot(parts), now).is_empty(), "nobody asked");
        Self { state, now }
    }

    fn push(&mut self, parts: &[(ResourceType, &str)]) -> Vec<String> {
        show(&self.state.on_snapshot(snapshot(parts), self.now))
    }

    fn delta(
        &mut self,
        kind: ResourceType,
        subscribe: &str,
        unsubscribe: &str,
        initial: &[(&str, &str)],
    ) -> Vec<String> {
        let list = |names: &str| names.split_whitespace().map(ToOwned::to_owned).collect();
        let initial = initial.iter().map(|(name, version)| ((*name).to_owned(), (*version).to_owned())).collect();
        let names = Names::Delta { subscribe: list(subscribe), unsubscribe: list(unsubscribe), initial };
        self.request(kind, "", None, names).0
    }

    fn sotw(&mut self, kind: ResourceType, names: &str, version: &str, nonce: &str) -> Vec<String> {
        let names = names.split_whitespace().map(ToOwned::to_owned).collect();
        self.request(kind, nonce, None, Names::Full { names, version: version.to_owned() }).0
    }

    fn ack(&mut self, kind: ResourceType, nonce: &str) -> Vec<String> {
        let (responses, answer) = self.request(kind, nonce, None, Names::default());
        assert!(matches!(answer, Some(Answer::Acked { .. })), "{answer:?}");
        responses
    }

    fn nack(&mut self, kind: ResourceType, nonce: &str, reason: &str) -> Vec<String> {
        let (responses, answer) = self.request(kind, nonce, Some(reason), Names::default());
        assert!(matches!(answer, Some(Answer::Nacked { .. })), "{answer:?}");
        responses
    }

    fn request(
        &mut self,
        kind: ResourceType,
        nonce: &str,
        rejection: Option<&str>,
        names: Names,
    ) -> (Vec<String>, Option<Answer>) {
        let request = Request {
            type_url: kind.type_url().to_owned(),
            nonce: nonce.to_owned(),
            rejection: rejection.map(ToOwned::to_owned),
            names,
        };
        let (responses, answer) = self.state.on_request(&request, self.now).unwrap();
        (show(&responses), answer)
    }
}

/// `n1 CDS a b -c`: nonce, type, resources, removals.
fn show(responses: &[Response]) -> Vec<String> {
    let line = |response: &Response| {
        let mut line = format!("{} {}", response.nonce, response.kind);
        response.resources.iter().for_each(|resource| line.push_str(&format!(" {}", resource.name)));
        response.removed.iter().for_each(|name| line.push_str(&format!(" -{name}")));
        line
    };
    responses.iter().map(line).collect()
}

fn none() -> [&'static str; 0] {
    []
}

#[test]
fn a_first_delta_request_without_names_is_the_wildcard_for_clusters_and_listeners_only() {
    let parts = [(CDS, "a=1 b=1"), (EDS, "a=1 b=1")];
    let mut stream = Stream::new(Variant::Delta, &parts);
    assert_eq!(stream.delta(CDS, "", "", &[]), ["n1 CDS a b"]);
    assert_eq!(stream.delta(EDS, "", "", &[]), none());
    stream.ack(CDS, "n1");
    assert_eq!(stream.delta(LDS, "", "", &[]), ["n2 LDS"], "that there is nothing is told as well");
}

#[test]
fn subscribing_to_and_from_the_wildcard_at_once_is_asking_for_nothing_yet() {
    let mut stream = Stream::new(Variant::Delta, &[(CDS, "a=1 b=1")]);
    assert_eq!(stream.delta(CDS, "*", "*", &[]), none());
    assert_eq!(stream.delta(CDS, "b", "", &[]), ["n1 CDS b"]);
}

#[test]
fn a_reconnect_gets_what_differs() {
    let version = |content: &str| Resource::new(CDS, "x", content.as_bytes().to_vec()).version.to_string();
    let mut stream = Stream::new(Variant::Delta, &[(CDS, "a=1 b=2 c=1")]);
    let initial = [("a", version("1")), ("b", version("1")), ("gone", version("1"))];
    let initial = initial.each_ref().map(|(name, version)| (*name, version.as_str()));
    assert_eq!(stream.delta(CDS, "*", "", &initial), ["n1 CDS b c"]);
    assert_eq!(stream.ack(CDS, "n1"), ["n2 CDS -gone"]);

    let mut stream = Stream::new(Variant::Delta, &[(EDS, "a=1")]);
    assert_eq!(stream.delta(EDS, "a", "", &initial[..1]), none());
    // And an endpoint set whose cluster this stream changed before goes out all the same.
    let mut stream = Stream::new(Variant::Delta, &[(CDS, "a=1"), (EDS, "a=1")]);
    assert_eq!(stream.delta(CDS, "*", "", &[]), ["n1 CDS a"]);
    assert_eq!(stream.delta(EDS, "a", "", &initial[..1]), ["n2 EDS a"]);
}

#[test]
fn a_state_of_the_world_reconnect_with_the_current_version_gets_nothing() {
    let parts = [(CDS, "a=1"), (EDS, "a=1 b=1")];
    let mut stream = Stream::new(Variant::StateOfTheWorld, &parts);
    let first = Request {
        type_url: EDS.type_url().to_owned(),
        names: Names::Full { names: vec!["a".into()], version: String::new() },
        ..Request::default()
    };
    let version = stream.state.on_request(&first, stream.now).unwrap().0[0].version.to_string();
    let mut again = Stream::new(Variant::StateOfTheWorld, &parts);
    assert_eq!(again.sotw(EDS, "a", &version, ""), none());
    assert_eq!(again.sotw(EDS, "a b", &version, ""), ["n1 EDS b"]);
    let mut other = Stream::new(Variant::StateOfTheWorld, &parts);
    assert_eq!(other.sotw(EDS, "a b", &version, ""), ["n1 EDS a b"], "the version is not that of these names");
}

#[test]
fn asking_again_is_answered_again() {
    let mut stream = Stream::new(Variant::Delta, &[(RDS, "r=1")]);
    assert_eq!(stream.delta(RDS, "r", "", &[]), ["n1 RDS r"]);
    assert_eq!(stream.ack(RDS, "n1"), none());
    assert_eq!(stream.delta(RDS, "r", "", &[]), ["n2 RDS r"]);
    stream.ack(RDS, "n2");
    assert_eq!(stream.delta(RDS, "", "r", &[]), none());
    assert_eq!(stream.delta(RDS, "r", "", &[]), ["n3 RDS r"]);
}

#[test]
fn what_is_not_there_is_told_once_and_comes_when_it_is() {
    let mut stream = Stream::new(Variant::Delta, &[]);
    assert_eq!(stream.delta(RDS, "r", "", &[]), ["n1 RDS -r"]);
    assert_eq!(stream.ack(RDS, "n1"), none());
    assert_eq!(stream.push(&[(RDS, "r=1")]), ["n2 RDS r"]);
    stream.ack(RDS, "n2");
    assert_eq!(stream.push(&[]), ["n3 RDS -r"]);
}

#[test]
fn one_response_of_a_type_waits_and_the_newest_follows() {
    let mut stream = Stream::new(Variant::Delta, &[(CDS, "a=1")]);
    assert_eq!(stream.delta(CDS, "*", "", &[]), ["n1 CDS a"]);
    for content in 2..50 {
        assert_eq!(stream.push(&[(CDS, &format!("a={content}"))]), none());
    }
    assert_eq!(stream.ack(CDS, "n1"), ["n2 CDS a"]);
    assert_eq!(stream.ack(CDS, "n2"), none());
}

#[test]
fn a_subscription_counts_although_its_nonce_is_stale() {
    let parts = [(EDS, "a=1 b=1")];
    let mut stream = Stream::new(Variant::StateOfTheWorld, &parts);
    assert_eq!(stream.sotw(EDS, "a", "", ""), ["n1 EDS a"]);
    assert_eq!(stream.sotw(EDS, "a b", "", "stale"), none(), "an answer is still due");
    assert_eq!(stream.sotw(EDS, "a b", "", "n1"), ["n2 EDS b"]);
}

#[test]
fn a_rejection_is_kept_and_answered_by_nothing() {
    let mut stream = Stream::new(Variant::Delta, &[(CDS, "a=1 b=1")]);
    stream.delta(CDS, "*", "", &[]);
    assert_eq!(stream.nack(CDS, "n1", "Cluster a: lb_policy: no"), none());
    let nacked = &stream.state.types()[0].nacked;
    assert_eq!((nacked.len(), nacked[0].0.as_ref(), nacked[0].1.reason.as_ref()), (1, "a", "lb_policy: no"));
    assert_eq!(stream.push(&[(CDS, "a=1 b=2")]), ["n2 CDS b"], "only the one that changed");
    stream.ack(CDS, "n2");
    assert_eq!(stream.state.types()[0].nacked.len(), 1);
    assert_eq!(stream.push(&[(CDS, "a=2 b=2")]), ["n3 CDS a"]);
    stream.ack(CDS, "n3");
    assert!(stream.state.types()[0].nacked.is_empty());
}

#[test]
fn what_was_in_a_response_that_was_rejected_whole_goes_with_the_next_change() {
    let mut stream = Stream::new(Variant::Delta, &[(CDS, "a=1 b=1")]);
    stream.delta(CDS, "*", "", &[]);
    assert_eq!(stream.nack(CDS, "n1", "Proto constraint validation failed"), none());
    assert_eq!(stream.push(&[(CDS, "a=2 b=1")]), ["n2 CDS a b"]);
}

#[test]
fn old_clusters_go_when_the_routes_that_used_them_are_acked() {
    let mut stream = Stream::new(Variant::Delta, &[(CDS, "old=1"), (LDS, "l=1"), (RDS, "l=old")]);
    stream.delta(CDS, "*", "", &[]);
    stream.ack(CDS, "n1");
    assert_eq!(stream.delta(LDS, "*", "", &[]), ["n2 LDS l"]);
    stream.ack(LDS, "n2");
    assert_eq!(stream.delta(RDS, "l", "", &[]), ["n3 RDS l"]);
    stream.ack(RDS, "n3");
    assert_eq!(stream.push(&[(CDS, "new=1"), (LDS, "l=1"), (RDS, "l=new")]), ["n4 CDS new"]);
    assert_eq!(stream.ack(CDS, "n4"), ["n5 RDS l"]);
    assert_eq!(stream.nack(RDS, "n5", "RouteConfiguration l: no"), none(), "the old route is still in use");
    assert_eq!(stream.push(&[(CDS, "new=1"), (LDS, "l=1"), (RDS, "l=new2")]), ["n6 RDS l"]);
    assert_eq!(stream.ack(RDS, "n6"), ["n7 CDS -old"]);
}

#[test]
fn a_state_of_the_world_client_keeps_old_clusters_until_then() {
    let mut stream = Stream::new(Variant::StateOfTheWorld, &[(CDS, "old=1"), (RDS, "l=old")]);
    assert_eq!(stream.sotw(CDS, "", "", ""), ["n1 CDS old"]);
    stream.sotw(CDS, "", "", "n1");
    assert_eq!(stream.sotw(RDS, "l", "", ""), ["n2 RDS l"]);
    stream.sotw(RDS, "l", "", "n2");
    assert_eq!(stream.push(&[(CDS, "new=1"), (RDS, "l=new")]), ["n3 CDS new old"]);
    assert_eq!(stream.sotw(CDS, "", "", "n3"), ["n4 RDS l"]);
    assert_eq!(stream.sotw(RDS, "l", "", "n4"), ["n5 CDS new"]);
}

#[test]
fn a_client_that_never_answers_holds_additions_up_for_a_bounded_time_only() {
    let mut stream = Stream::new(Variant::Delta, &[(CDS, "a=1"), (LDS, "l=1")]);
    assert_eq!(stream.delta(CDS, "*", "", &[]), ["n1 CDS a"]);
    assert_eq!(stream.delta(LDS, "*", "", &[]), none());
    let deadline = stream.state.deadline(stream.now).unwrap();
    assert_eq!(show(&stream.state.on_timer(deadline - Duration::from_millis(1))), none());
    assert_eq!(show(&stream.state.on_timer(deadline)), ["n2 LDS l"]);
    assert!(stream.state.deadline(deadline).is_some(), "the listener's answer is awaited now");
}

#[test]
fn a_filter_that_a_listener_may_still_run_is_not_removed() {
    let mut stream = Stream::new(Variant::Delta, &[(ECDS, "f=1"), (LDS, "l=f")]);
    stream.delta(LDS, "*", "", &[]);
    stream.ack(LDS, "n1");
    assert_eq!(stream.delta(ECDS, "f", "", &[]), ["n2 ECDS f"]);
    stream.ack(ECDS, "n2");
    assert_eq!(stream.push(&[(LDS, "l=none")]), ["n3 LDS l"]);
    assert_eq!(stream.nack(LDS, "n3", "Listener l: no"), none());
    assert_eq!(stream.delta(ECDS, "", "f", &[]), none());
}

#[test]
fn subscriptions_are_bounded() {
    let options = StreamOptions { names_max: 2, name_bytes_max: 4, ..StreamOptions::default() };
    let check = |names: &[&str], expected: Result<(), Refused>| {
        let mut state = StreamState::new(Variant::Delta, options.clone(), "n");
        let subscribe = names.iter().map(|name| (*name).to_owned()).collect();
        let names = Names::Delta { subscribe, unsubscribe: Vec::new(), initial: Vec::new() };
        let request = Request { type_url: RDS.type_url().to_owned(), names, ..Request::default() };
        assert_eq!(state.on_request(&request, Instant::now()).map(|_| ()), expected);
    };
    check(&["a", "b"], Ok(()));
    check(&["a", "b", "c"], Err(Refused::TooManyNames { kind: RDS, max: 2 }));
    check(&["abcde"], Err(Refused::NameTooLong { kind: RDS, max: 4 }));
}

#[test]
fn before_anything_is_published_nothing_is_said() {
    let mut state = StreamState::new(Variant::Delta, StreamOptions::default(), "n");
    let now = Instant::now();
    let request = Request { type_url: CDS.type_url().to_owned(), ..Request::default() };
    assert!(state.on_request(&request, now).unwrap().0.is_empty());
    assert_eq!(show(&state.on_snapshot(snapshot(&[(CDS, "a=1")]), now)), ["n1 CDS a"]);
}

#[test]
fn a_client_may_give_up_what_it_had_taken() {
    let mut stream = Stream::new(Variant::Delta, &[(ECDS, "shop/keys=1 shop/other=1")]);
    assert_eq!(stream.delta(ECDS, "shop/keys shop/other", "", &[]), ["n1 ECDS shop/keys shop/other"]);
    stream.ack(ECDS, "n1");
    let late = |stream: &mut Stream, nonce: &str, reason: &str| {
        let (responses, answer) = stream.request(ECDS, nonce, Some(reason), Names::default());
        assert_eq!(responses, none());
        answer
    };
    // By exact names and about the last answered response, or not at all.
    assert_eq!(late(&mut stream, "n0", "Extension shop/keys: traps"), None);
    assert_eq!(late(&mut stream, "n1", "shop/keys is bad"), None);
    let Some(Answer::Nacked { names, .. }) = late(&mut stream, "n1", "Extension shop/keys: traps") else { panic!() };
    assert_eq!(names.iter().map(AsRef::as_ref).collect::<Vec<_>>(), ["shop/keys"]);
    let nacked = |stream: &Stream| -> Vec<String> {
        let types = stream.state.types();
        types.iter().flat_map(|of| &of.nacked).map(|(name, nack)| format!("{name}: {}", nack.reason)).collect()
    };
    assert_eq!(nacked(&stream), ["shop/keys: traps"]);
    // Nothing is sent because of it; what is new is, and an ACK ends the rejection.
    assert_eq!(stream.push(&[(ECDS, "shop/keys=2 shop/other=1")]), ["n2 ECDS shop/keys"]);
    // About what is on its way, it would be an answer to the wrong version.
    assert_eq!(late(&mut stream, "n1", "Extension shop/keys: traps"), None);
    assert!(late(&mut stream, "n1", "Extension shop/other: traps").is_some());
    stream.ack(ECDS, "n2");
    assert_eq!(nacked(&stream), ["shop/other: traps"]);
}
