//! Match trees (`xds.type.matcher.v3.Matcher`): from what is known of a stream to an action.

use std::borrow::Cow;
use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::ops::Bound;

use bytes::Bytes;
use outrigger_http::{CertificateInfo, StreamState};

use super::{HeaderMatchName, MetadataMatcher, StringMatcher};
use crate::Cidr;

/// A tree whose leaves are actions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MatchTree<A> {
    pub branches: Branches<A>,
    pub on_no_match: Option<Box<OnMatch<A>>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Branches<A> {
    /// The tree is its `on_no_match`.
    None,
    /// The first one counts whose predicate holds, and which leads to an action.
    List(Vec<(Predicate, OnMatch<A>)>),
    Exact(Input, HashMap<Bytes, OnMatch<A>>),
    /// The longest prefix counts that leads to an action.
    Prefix(Input, BTreeMap<Bytes, OnMatch<A>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum OnMatch<A> {
    Action(A),
    Tree(Box<MatchTree<A>>),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Predicate {
    And(Vec<Predicate>),
    Or(Vec<Predicate>),
    Not(Box<Predicate>),
    Value(Input, StringMatcher),
    /// An address within one of these.
    Ip(Input, Vec<Cidr>),
    Metadata(MetadataMatcher),
}

/// What a branch looks at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    DestinationIp,
    DestinationPort,
    /// As far as `x-forwarded-for` is trusted.
    SourceIp,
    SourcePort,
    /// The peer of the socket.
    DirectSourceIp,
    ServerName,
    /// Of the client's certificate, if that was checked; several with commas between them.
    UriSan,
    DnsSan,
    Subject,
    /// All values, with commas between them.
    RequestHeader(HeaderMatchName),
    FilterState(String),
}

impl<A> MatchTree<A> {
    /// `None`: nothing matches.
    pub fn find(&self, state: &StreamState) -> Option<&A> {
        self.branch(state).or_else(|| self.on_no_match.as_ref()?.find(state))
    }

    fn branch(&self, state: &StreamState) -> Option<&A> {
        match &self.branches {
            Branches::None => None,
            Branches::List(list) => list
                .iter()
                .filter(|(predicate, _)| predicate.holds(state))
                .find_map(|(_, on_match)| on_match.find(state)),
            Branches::Exact(input, map) => map.get(&*input.value(state)?)?.find(state),
            Branches::Prefix(input, map) => {
                prefixes(map, &input.value(state)?).find_map(|on_match| on_match.find(state))
            }
        }
    }

    /// All actions of the tree.
    pub fn actions(&self) -> Vec<&A> {
        let mut found = Vec::new();
        self.walk(&mut |_| {}, &mut |action| found.push(action));
        found
    }

    /// Whether the tree looks at something like that.
    pub fn reads(&self, mut wanted: impl FnMut(&Input) -> bool) -> bool {
        let mut found = false;
        self.walk(&mut |input| found |= wanted(input), &mut |_| {});
        found
    }

    fn walk<'a>(&'a self, inputs: &mut dyn FnMut(&'a Input), actions: &mut dyn FnMut(&'a A)) {
        match &self.branches {
            Branches::None => {}
            Branches::List(list) => {
                for (predicate, on_match) in list {
                    predicate.walk(inputs);
                    on_match.walk(inputs, actions);
                }
            }
            Branches::Exact(input, map) => {
                inputs(input);
                map.values().for_each(|on_match| on_match.walk(inputs, actions));
            }
            Branches::Prefix(input, map) => {
                inputs(input);
                map.values().for_each(|on_match| on_match.walk(inputs, actions));
            }
        }
        if let Some(on_match) = &self.on_no_match {
            on_match.walk(inputs, actions);
        }
    }
}

/// What the prefixes of a value lead to, the longest first.
fn prefixes<'m, A>(map: &'m BTreeMap<Bytes, OnMatch<A>>, value: &[u8]) -> impl Iterator<Item = &'m OnMatch<A>> {
    let mut rest = Some(value);
    std::iter::from_fn(move || {
        loop {
            let text = rest?;
            let (key, on_match) = map.range::<[u8], _>((Bound::Unbounded, Bound::Included(text))).next_back()?;
            let common = key.iter().zip(text).take_while(|(a, b)| a == b).count();
            if common == key.len() {
                rest = common.checked_sub(1).map(|shorter| &text[..shorter]);
                return Some(on_match);
            }
            // Longer prefixes of the text would stand behind this key.
            rest = Some(&text[..common]);
        }
    })
}

impl<A> OnMatch<A> {
    fn find(&self, state: &StreamState) -> Option<&A> {
        match self {
            OnMatch::Action(action) => Some(action),
            OnMatch::Tree(tree) => tree.find(state),
        }
    }

    fn walk<'a>(&'a self, inputs: &mut dyn FnMut(&'a Input), actions: &mut dyn FnMut(&'a A)) {
        match self {
            OnMatch::Action(action) => actions(action),
            OnMatch::Tree(tree) => tree.walk(inputs, actions),
        }
    }
}

impl Predicate {
    /// What isn't there matches nothing.
    fn holds(&self, state: &StreamState) -> bool {
        match self {
            Predicate::And(all) => all.iter().all(|one| one.holds(state)),
            Predicate::Or(any) => any.iter().any(|one| one.holds(state)),
            Predicate::Not(not) => !not.holds(state),
            Predicate::Value(input, matcher) => input.value(state).is_some_and(|value| matcher.matches(&value)),
            Predicate::Ip(input, ranges) => {
                input.ip(state).is_some_and(|ip| ranges.iter().any(|range| range.contains(ip)))
            }
            Predicate::Metadata(matcher) => matcher.matches(state.info.metadata.as_deref()),
        }
    }

    fn walk<'a>(&'a self, inputs: &mut dyn FnMut(&'a Input)) {
        match self {
            Predicate::And(all) | Predicate::Or(all) => all.iter().for_each(|one| one.walk(inputs)),
            Predicate::Not(not) => not.walk(inputs),
            Predicate::Value(input, _) | Predicate::Ip(input, _) => inputs(input),
            Predicate::Metadata(_) => {}
        }
    }
}

impl Input {
    /// `None`: it isn't there.
    fn value<'s>(&'s self, state: &'s StreamState) -> Option<Cow<'s, [u8]>> {
        let info = &state.info;
        let port = |port: u16| Cow::Owned(port.to_string().into_bytes());
        match self {
            Input::DestinationPort => info.downstream.local.map(|address| port(address.port())),
            Input::SourcePort => info.remote().map(|address| port(address.port())),
            Input::DestinationIp | Input::SourceIp | Input::DirectSourceIp => {
                Some(Cow::Owned(self.ip(state)?.to_string().into_bytes()))
            }
            Input::ServerName => info.downstream.requested_server_name().map(|name| Cow::Borrowed(name.as_bytes())),
            Input::UriSan => names(&peer(state)?.uri_sans),
            Input::DnsSan => names(&peer(state)?.dns_sans),
            Input::Subject => Some(Cow::Borrowed(peer(state)?.subject.as_bytes())).filter(|name| !name.is_empty()),
            Input::RequestHeader(name) => name.joined(&state.request),
            Input::FilterState(key) => info.extras().filter_state.get(key).map(|value| Cow::Borrowed(&value[..])),
        }
    }

    fn ip(&self, state: &StreamState) -> Option<IpAddr> {
        let info = &state.info;
        let address = match self {
            Input::DestinationIp => info.downstream.local,
            Input::SourceIp => info.remote(),
            Input::DirectSourceIp => info.downstream.direct_remote(),
            other => return std::str::from_utf8(&other.value(state)?).ok()?.parse().ok(),
        };
        address.map(|address| address.ip())
    }
}

/// A certificate that wasn't checked says nothing about who the client is.
fn peer(state: &StreamState) -> Option<&CertificateInfo> {
    state.info.downstream.tls.as_ref().filter(|tls| tls.peer_validated)?.peer.as_deref()
}

fn names(names: &[String]) -> Option<Cow<'_, [u8]>> {
    match names {
        [] => None,
        [only] => Some(Cow::Borrowed(only.as_bytes())),
        several => Some(Cow::Owned(several.join(",").into_bytes())),
    }
}
