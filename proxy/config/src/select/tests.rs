//! Which route a request gets.

use std::sync::Arc;

use bytes::Bytes;
use outrigger_http::{HeaderName, Method, RequestHead};

use super::RouteTable;
use crate::testing::{route_entry, virtual_host};
use crate::{PathMatcher, Route, VirtualHost};

fn head(authority: &'static str, path: &'static str) -> RequestHead {
    RequestHead {
        authority: Bytes::from_static(authority.as_bytes()),
        path: Bytes::from_static(path.as_bytes()),
        ..RequestHead::default()
    }
}

fn hosts(domains: &[&[&str]]) -> Vec<Arc<VirtualHost>> {
    let host = |(index, domains): (usize, &&[&str])| Arc::new(virtual_host(&index.to_string(), domains, Vec::new()));
    domains.iter().enumerate().map(host).collect()
}

#[test]
fn hosts_by_exact_name_suffix_prefix_and_any() {
    let hosts = hosts(&[&["*"], &["a.test", "b.test:81"], &["*.test"], &["*.a.test"], &["a.*"], &["a.b.*"]]);
    let table = RouteTable::compile(&hosts).unwrap();
    let check = |authority: &'static str, ignore_port: bool, expected: &str| {
        let (host, route) = table.select(&hosts, &head(authority, "/"), ignore_port, 0);
        assert_eq!(host.map(|host| &*host.name), Some(expected), "{authority}");
        assert!(route.is_none());
    };
    check("a.test", false, "1");
    check("A.Test", false, "1");
    check("b.test:81", false, "1");
    check("a.test:80", false, "4");
    check("a.test:80", true, "1");
    check("b.test:81", true, "2");
    check("x.a.test", false, "3");
    check(".a.test", false, "2");
    check("c.test", false, "2");
    check("a.example", false, "4");
    check("a.b.example", false, "5");
    check("other", false, "0");
    check("", false, "0");
    check("[::1]:80", true, "0");
    let long: &'static str = Box::leak("x".repeat(300).into_boxed_str());
    check(long, false, "0");
}

#[test]
fn without_a_host_for_all_there_may_be_none() {
    let hosts = hosts(&[&["a.test"]]);
    let table = RouteTable::compile(&hosts).unwrap();
    assert!(table.select(&hosts, &head("b.test", "/"), false, 0).0.is_none());
    assert_eq!(RouteTable::compile(&[]).unwrap().select(&[], &head("a", "/"), false, 0), (None, None));
}

#[test]
fn a_domain_belongs_to_one_host() {
    let check = |domains: &[&[&str]], expected: &str| {
        assert_eq!(RouteTable::compile(&hosts(domains)).unwrap_err(), expected);
    };
    check(&[&["a.test"], &["A.TEST"]], "a.test");
    check(&[&["*"], &["*"]], "*");
    check(&[&["*.a"], &["*.a"]], "*.a");
    check(&[&["a.*", "a.*"]], "a.*");
}

#[test]
fn the_first_route_that_matches_is_taken() {
    let prefix = |path: &'static str| PathMatcher::Prefix(Bytes::from_static(path.as_bytes()));
    let any_case = Route { case_sensitive: false, ..route_entry(prefix("/lower"), "any-case") };
    let grpc = Route { grpc_only: true, ..route_entry(prefix("/grpc"), "grpc") };
    let routes = vec![
        any_case,
        grpc,
        route_entry(PathMatcher::Connect, "connect"),
        route_entry(PathMatcher::SeparatedPrefix(Bytes::from_static(b"/a")), "separated"),
        route_entry(PathMatcher::Exact(Bytes::from_static(b"/ab")), "exact"),
        route_entry(prefix("/a"), "prefix"),
        route_entry(prefix("/"), "rest"),
    ];
    let hosts = vec![Arc::new(virtual_host("v", &["*"], routes))];
    let table = RouteTable::compile(&hosts).unwrap();
    let check = |head: &RequestHead, expected: &str| {
        let (_, route) = table.select(&hosts, head, false, 0);
        let crate::RouteAction::Forward(forward) = &route.unwrap().action else { panic!() };
        assert_eq!(forward.cluster, crate::ClusterSpec::Single(expected.into()), "{:?}", head.path);
    };
    check(&head("h", "/LOWER/x"), "any-case");
    check(&head("h", "/a?x=/b"), "separated");
    check(&head("h", "/a/b"), "separated");
    check(&head("h", "/ab?"), "exact");
    check(&head("h", "/abc"), "prefix");
    check(&head("h", "/A"), "rest");
    check(&head("h", "/grpc"), "rest");
    let mut grpc = head("h", "/grpc");
    grpc.headers.append(HeaderName::CONTENT_TYPE, Bytes::from_static(b"application/grpc+proto"));
    check(&grpc, "grpc");
    let mut almost = head("h", "/grpc");
    almost.headers.append(HeaderName::CONTENT_TYPE, Bytes::from_static(b"application/grpc-web"));
    check(&almost, "rest");
    check(&RequestHead { method: Method::Connect, ..head("h", "") }, "connect");
}
