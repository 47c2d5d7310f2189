//! Rules against requests.

use bytes::Bytes;
use outrigger_http::{CertificateInfo, StreamState, TlsInfo};

use super::*;
use crate::{Branches, HeaderMatch, HeaderMatchName, OnMatch, StringMatch};

fn exact(text: &'static str) -> StringMatcher {
    StringMatcher { pattern: StringMatch::Exact(Bytes::from_static(text.as_bytes())), ignore_case: false }
}

fn cidr(address: &str, len: u32) -> Cidr {
    Cidr::new(address.parse().unwrap(), len).unwrap()
}

fn state() -> StreamState {
    let mut state = StreamState::default();
    state.request.path = Bytes::from_static(b"/api/x?q");
    state.info.downstream_mut().remote = Some("10.1.2.3:4000".parse().unwrap());
    state.info.downstream_mut().local = Some("10.9.9.9:8080".parse().unwrap());
    state
}

fn with_peer(uris: &[&str], validated: bool) -> StreamState {
    let mut state = state();
    let peer = CertificateInfo {
        uri_sans: uris.iter().map(|uri| (*uri).to_owned()).collect(),
        dns_sans: vec!["a.test".to_owned()],
        subject: "CN=a".to_owned(),
        ..CertificateInfo::default()
    };
    let tls = TlsInfo {
        server_name: "sni.test".into(),
        peer: Some(Arc::new(peer)),
        peer_validated: validated,
        ..TlsInfo::default()
    };
    state.info.downstream_mut().tls = Some(Arc::new(tls));
    state
}

#[test]
fn permissions() {
    let check = |permission: Permission, expected: bool| {
        assert_eq!(permission.matches(&state()), expected, "{permission:?}");
        assert_eq!(Permission::Not(Box::new(permission)).matches(&state()), !expected);
    };
    check(Permission::Any, true);
    check(Permission::UrlPath(exact("/api/x")), true);
    check(Permission::UrlPath(exact("/api/x?q")), false);
    check(Permission::DestinationIp(cidr("10.9.0.0", 16)), true);
    check(Permission::DestinationIp(cidr("10.1.0.0", 16)), false);
    check(Permission::DestinationPort(8080), true);
    check(Permission::DestinationPorts(8000, 8080), false);
    check(Permission::DestinationPorts(8080, 8081), true);
    check(Permission::ServerName(exact("")), true);
    check(Permission::And(vec![Permission::Any, Permission::DestinationPort(1)]), false);
    check(Permission::Or(vec![Permission::Any, Permission::DestinationPort(1)]), true);
    check(Permission::And(Vec::new()), true);
    check(Permission::Or(Vec::new()), false);
    let method = HeaderMatcher {
        name: HeaderMatchName::Method,
        matcher: HeaderMatch::String(exact("GET")),
        invert: false,
        treat_missing_as_empty: false,
    };
    check(Permission::Header(method), true);
    assert!(Permission::ServerName(exact("sni.test")).matches(&with_peer(&[], true)));
}

#[test]
fn principals() {
    let check = |state: &StreamState, principal: Principal, expected: bool| {
        assert_eq!(principal.matches(state), expected, "{principal:?}");
    };
    let plain = state();
    check(&plain, Principal::Any, true);
    check(&plain, Principal::DirectRemoteIp(cidr("10.1.2.3", 32)), true);
    check(&plain, Principal::RemoteIp(cidr("10.1.2.3", 32)), true);
    let mut forwarded = state();
    forwarded.info.downstream_trusted_ip = Some("1.2.3.4".parse().unwrap());
    check(&forwarded, Principal::RemoteIp(cidr("10.1.2.3", 32)), false);
    check(&forwarded, Principal::RemoteIp(cidr("1.2.3.4", 32)), true);
    check(&forwarded, Principal::DirectRemoteIp(cidr("10.1.2.3", 32)), true);
    check(&plain, Principal::Authenticated(None), false);
    let peer = with_peer(&["spiffe://td/a"], true);
    check(&peer, Principal::Authenticated(None), true);
    check(&peer, Principal::Authenticated(Some(exact("spiffe://td/a"))), true);
    check(&peer, Principal::Authenticated(Some(exact("a.test"))), true);
    check(&peer, Principal::Authenticated(Some(exact("CN=a"))), true);
    check(&peer, Principal::Authenticated(Some(exact("spiffe://td/b"))), false);
    check(&with_peer(&[], true), Principal::Authenticated(Some(exact("a.test"))), true);
    check(&with_peer(&["spiffe://td/a"], false), Principal::Authenticated(None), false);
    check(&with_peer(&["spiffe://td/a"], false), Principal::Not(Box::new(Principal::Authenticated(None))), true);
}

#[test]
fn actions() {
    let rules = |action, port| RbacRules {
        action,
        policies: vec![RbacPolicy {
            name: "p".into(),
            permissions: vec![Permission::DestinationPort(port)],
            principals: vec![Principal::Any],
            condition: None,
        }],
    };
    let check = |action, port, allowed, matched: bool| {
        let rules = rules(action, port);
        let verdict = rules.judge(&state());
        assert_eq!((verdict.allowed, verdict.policy.is_some()), (allowed, matched), "{action:?} {port}");
    };
    check(RbacAction::Allow, 8080, true, true);
    check(RbacAction::Allow, 1, false, false);
    check(RbacAction::Deny, 8080, false, true);
    check(RbacAction::Deny, 1, true, false);
    check(RbacAction::Log, 8080, true, true);
    check(RbacAction::Log, 1, true, false);
    let none = RbacRules { action: RbacAction::Allow, policies: Vec::new() };
    assert!(!none.judge(&state()).allowed);
}

#[test]
fn the_longest_prefix_that_leads_somewhere_counts() {
    let found = |name: &str, action| RbacMatch { name: name.into(), action };
    let deny = |name| OnMatch::Action(found(name, RbacAction::Deny));
    let nowhere = MatchTree { branches: Branches::None, on_no_match: None };
    let entries =
        [("", deny("all")), ("/a", deny("a")), ("/ab/c", OnMatch::Tree(Box::new(nowhere))), ("/ac", deny("ac"))];
    let map = entries.into_iter().map(|(key, on_match)| (Bytes::from(key), on_match)).collect();
    let tree =
        MatchTree { branches: Branches::Prefix(Input::RequestHeader(HeaderMatchName::Path), map), on_no_match: None };
    let matcher = RbacMatcher::new(tree);
    let check = |path: &'static str, expected: &str| {
        let mut state = StreamState::default();
        state.request.path = Bytes::from_static(path.as_bytes());
        let verdict = matcher.judge(&state);
        assert_eq!(verdict.policy.map(|name| &**name), Some(expected), "{path}");
        assert!(!verdict.allowed);
    };
    check("/", "all");
    check("/b", "all");
    check("/a", "a");
    check("/ab/d", "a");
    check("/ab/c", "a");
    check("/acx", "ac");
    check("/ad", "a");
}

#[test]
fn what_no_tree_leads_to_is_refused() {
    let tree = MatchTree { branches: Branches::None, on_no_match: None };
    let matcher = RbacMatcher::new(tree);
    assert_eq!(matcher.judge(&state()), RbacVerdict { allowed: false, policy: None, logged: None });
}
