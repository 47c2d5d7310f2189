//! The index's laws over random objects and events, and what single views look like. The seed of a failing run is in
//! its message; `SEED=n` replays it.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test fails by panicking, its helper functions, too")]

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_model::{
    Actions, AllowedNamespaces, AppProtocol, Backend, ConditionKind, EndpointSlice, Event, FailurePolicy, FilterScope,
    FilterTarget, Gateway, GatewayListener, Grantee, HeaderMutation, Isolation, Kind, Limits, Match, MeshIndex, Module,
    NodeQuery, Object, ObjectId, ObjectKey, Objects, ParentRef, ParentTarget, PathMatch, Phase, Protocol,
    ReferenceGrant, Revision, Route, Rule, Service, ServicePort, SliceEndpoint, SlicePort, Source, TargetKind,
    TcpRoute, Timeouts, WasmFilter,
};
use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{Rng as _, SeedableRng as _};

fn id(text: &str) -> ObjectId {
    text.parse().unwrap()
}

fn source(kind: Kind, id: &ObjectId) -> Arc<Source> {
    Arc::new(Source::new(&ObjectKey::new(kind, id.clone()), "a.yaml", 1))
}

fn gateway(name: &str, listeners: Vec<GatewayListener>) -> Object {
    let id = id(name);
    Object::Gateway(Arc::new(Gateway { source: source(Kind::Gateway, &id), address: None, listeners, id }))
}

fn listener(name: &str, port: u16, protocol: Protocol, host: Option<&str>) -> GatewayListener {
    let allowed = AllowedNamespaces::All;
    GatewayListener { name: name.into(), port, hostname: host.map(Arc::from), protocol, allowed }
}

fn prefix(path: &str) -> Match {
    Match { path: PathMatch::Prefix(path.into()), method: None, headers: vec![], query: vec![] }
}

fn backend(service: &str, port: u16) -> Backend {
    let headers = HeaderMutation::default;
    Backend { service: id(service), port, weight: 1, request_headers: headers(), response_headers: headers() }
}

fn parent(gateway: &str, section: Option<&str>) -> ParentRef {
    ParentRef { target: ParentTarget::Gateway(id(gateway)), section: section.map(Arc::from), port: None }
}

fn route(name: &str, gateway: &str, hosts: &[&str], rules: Vec<(Match, Option<&str>)>) -> Object {
    let id = id(name);
    let rule = |(i, (matcher, service)): (usize, (Match, Option<&str>))| {
        Arc::new(Rule {
            name: Some(format!("r{i}").into()),
            matches: vec![matcher],
            actions: Actions::default(),
            timeouts: Timeouts::default(),
            backends: service.map(|service| backend(service, 80)).into_iter().collect(),
        })
    };
    Object::Route(Arc::new(Route {
        source: source(Kind::HttpRoute, &id),
        id,
        parents: vec![parent(gateway, None)],
        hostnames: hosts.iter().map(|host| Arc::from(*host)).collect(),
        rules: rules.into_iter().enumerate().map(rule).collect(),
        created: None,
    }))
}

fn service(name: &str) -> Object {
    let id = id(name);
    let ports = vec![ServicePort { name: "".into(), port: 80, protocol: AppProtocol::Http1 }];
    Object::Service(Arc::new(Service { source: source(Kind::Service, &id), id, ports }))
}

fn slice(name: &str, service: &str, endpoints: &[(&str, bool, bool)]) -> Object {
    let slice_id = id(name);
    let endpoint = |(address, ready, terminating): &(&str, bool, bool)| SliceEndpoint {
        addresses: vec![address.parse().unwrap()],
        ready: *ready,
        serving: true,
        terminating: *terminating,
        zone: None,
    };
    Object::EndpointSlice(Arc::new(EndpointSlice {
        source: source(Kind::EndpointSlice, &slice_id),
        id: slice_id,
        service: id(service),
        ports: vec![SlicePort { name: "".into(), port: 9000 }],
        endpoints: endpoints.iter().map(endpoint).collect(),
    }))
}

fn filter(name: &str, phase: Phase, priority: i32, targets: &[(TargetKind, &str, Option<&str>)]) -> Object {
    let filter_id = id(name);
    let target = |(kind, name, section): &(TargetKind, &str, Option<&str>)| FilterTarget {
        kind: *kind,
        id: id(name),
        section: section.map(Arc::from),
    };
    Object::WasmFilter(Arc::new(WasmFilter {
        source: source(Kind::WasmFilter, &filter_id),
        id: filter_id,
        targets: targets.iter().map(target).collect(),
        phase,
        priority,
        revision: Arc::new(Revision {
            module: Module::new(Bytes::copy_from_slice(name.as_bytes())),
            config: Bytes::new(),
            failure_policy: FailurePolicy::Closed,
            limits: Limits::default(),
            isolation: Isolation::Shared,
            env: vec![],
        }),
        rollout: None,
        shadow: false,
        trial: None,
    }))
}

fn index(objects: impl IntoIterator<Item = Object>) -> MeshIndex {
    let mut index = MeshIndex::new();
    index.apply(objects.into_iter().map(Event::Apply));
    index
}

fn conditions(index: &MeshIndex, kind: Kind, name: &str) -> Vec<(ConditionKind, &'static str)> {
    let status = index.status(&ObjectKey::new(kind, id(name))).unwrap();
    status.conditions.iter().map(|condition| (condition.kind, condition.reason)).collect()
}

#[test]
fn routes_are_in_order_and_resolved() {
    let index = index([
        gateway("shop/edge", vec![listener("http", 8080, Protocol::Http, None)]),
        route("shop/a", "shop/edge", &["a.example"], vec![(prefix("/"), Some("shop/api")), (prefix("/x"), None)]),
        route("shop/b", "shop/edge", &["*.example", "a.example"], vec![(prefix("/x"), Some("shop/missing"))]),
        route("shop/c", "shop/other", &[], vec![(prefix("/"), Some("shop/api"))]),
        service("shop/api"),
        slice(
            "shop/api-1",
            "shop/api",
            &[("10.0.0.2", true, false), ("10.0.0.1", true, false), ("10.0.0.3", false, true)],
        ),
        slice("shop/api-2", "shop/api", &[("10.0.0.1", true, false)]),
    ]);
    let view = index.view(&NodeQuery::new(None, "shop/edge").unwrap()).unwrap();
    let [listener] = view.listeners.as_slice() else { panic!("{view:#?}") };
    assert_eq!(listener.name, "shop/edge/8080");
    let hosts: Vec<_> = listener
        .hosts
        .iter()
        .map(|host| (&*host.domain, host.routes.iter().map(|entry| entry.name.as_str()).collect::<Vec<_>>()))
        .collect();
    let expected = [("a.example", vec!["shop/a/1/0", "shop/b/0/0", "shop/a/0/0"]), ("*.example", vec!["shop/b/0/0"])];
    assert_eq!(hosts, expected);
    assert_eq!(listener.hosts[0].routes[1].backends[0].cluster, None);
    let clusters: Vec<_> =
        view.clusters.iter().map(|(key, cluster)| (key.to_string(), cluster.endpoints.len())).collect();
    assert_eq!(clusters, [("shop/api:80".to_owned(), 2)]);
    let good = [(ConditionKind::Accepted, "Accepted"), (ConditionKind::ResolvedRefs, "ResolvedRefs")];
    assert_eq!(conditions(&index, Kind::HttpRoute, "shop/a"), good);
    let missing = [(ConditionKind::Accepted, "Accepted"), (ConditionKind::ResolvedRefs, "BackendNotFound")];
    assert_eq!(conditions(&index, Kind::HttpRoute, "shop/b"), missing);
    let detached = [(ConditionKind::Accepted, "NoMatchingParent"), (ConditionKind::ResolvedRefs, "ResolvedRefs")];
    assert_eq!(conditions(&index, Kind::HttpRoute, "shop/c"), detached);
}

#[test]
fn listeners_of_one_port_keep_to_their_hosts() {
    let index = index([
        gateway(
            "shop/edge",
            vec![
                listener("any", 80, Protocol::Http, None),
                listener("admin", 80, Protocol::Http, Some("admin.example")),
                listener("twice", 80, Protocol::Http, None),
                listener("tcp", 80, Protocol::Tcp, None),
            ],
        ),
        route("shop/a", "shop/edge", &[], vec![(prefix("/"), None)]),
        route("shop/b", "shop/edge", &["admin.example", "b.example"], vec![(prefix("/b"), None)]),
        filter("shop/on-admin", Phase::AuthN, 0, &[(TargetKind::Gateway, "shop/edge", Some("admin"))]),
    ]);
    let view = index.view(&NodeQuery::Gateway(id("shop/edge"))).unwrap();
    let [listener] = view.listeners.as_slice() else { panic!("{view:#?}") };
    let hosts: Vec<_> = listener
        .hosts
        .iter()
        .map(|host| {
            (&*host.domain, host.routes.iter().map(|entry| (entry.name.as_str(), entry.filters.len())).collect())
        })
        .collect();
    let expected: Vec<(&str, Vec<(&str, usize)>)> = vec![
        ("admin.example", vec![("shop/b/0/0", 1), ("shop/a/0/0", 1)]),
        ("b.example", vec![("shop/b/0/0", 0)]),
        ("*", vec![("shop/a/0/0", 0)]),
    ];
    assert_eq!(hosts, expected);
    assert_eq!(listener.filters[0].scope, FilterScope::Routes);
    let found: Vec<_> = conditions(&index, Kind::Gateway, "shop/edge").into_iter().map(|(_, reason)| reason).collect();
    assert_eq!(found, ["ListenersNotValid", "HostnameConflict", "ProtocolConflict"]);
}

#[test]
fn filters_are_in_order_and_on_what_they_target() {
    let edge = |section| (TargetKind::Gateway, "shop/edge", section);
    let index = index([
        gateway("shop/edge", vec![listener("http", 80, Protocol::Http, None)]),
        route("shop/a", "shop/edge", &[], vec![(prefix("/a"), None), (prefix("/b"), None)]),
        filter("shop/z", Phase::AuthN, 5, &[edge(None)]),
        filter("shop/y", Phase::AuthN, 9, &[(TargetKind::HttpRoute, "shop/a", Some("r1"))]),
        filter("shop/x", Phase::Unspecified, 99, &[edge(Some("http"))]),
        filter("shop/w", Phase::AuthZ, 0, &[(TargetKind::HttpRoute, "shop/a", None), edge(None)]),
        filter("shop/v", Phase::AuthN, 5, &[edge(None)]),
        filter("shop/u", Phase::AuthN, 5, &[(TargetKind::Service, "shop/api", None)]),
        filter("shop/t", Phase::AuthN, 5, &[edge(Some("nope"))]),
    ]);
    let view = index.view(&NodeQuery::Gateway(id("shop/edge"))).unwrap();
    let listener = &view.listeners[0];
    let chain: Vec<_> = listener.filters.iter().map(|entry| (entry.filter.id.name.to_string(), entry.scope)).collect();
    let everywhere = |name: &str| (name.to_owned(), FilterScope::Listener);
    let expected =
        [("y".to_owned(), FilterScope::Routes), everywhere("v"), everywhere("z"), everywhere("w"), everywhere("x")];
    assert_eq!(chain, expected);
    let by_route: Vec<_> =
        listener.hosts[0].routes.iter().map(|entry| (entry.name.as_str(), entry.filters.as_slice())).collect();
    assert_eq!(by_route, [("shop/a/0/0", &[][..]), ("shop/a/1/0", &[id("shop/y")][..])]);
    assert_eq!(view.filters.len(), 5);
    assert_eq!(conditions(&index, Kind::WasmFilter, "shop/t"), [(ConditionKind::Accepted, "TargetNotFound")]);
    assert_eq!(conditions(&index, Kind::WasmFilter, "shop/u"), [(ConditionKind::Accepted, "UnsupportedTarget")]);
}

#[test]
fn other_namespaces_need_a_grant() {
    let grant_id = id("data/grant");
    let grant = |services: Option<Vec<Arc<str>>>| {
        Object::ReferenceGrant(Arc::new(ReferenceGrant {
            source: source(Kind::ReferenceGrant, &grant_id),
            id: grant_id.clone(),
            from: vec![Grantee { kind: Kind::TcpRoute, namespace: "shop".into() }],
            services,
        }))
    };
    let tcp = id("shop/db");
    let tcp_route = Object::TcpRoute(Arc::new(TcpRoute {
        source: source(Kind::TcpRoute, &tcp),
        id: tcp,
        parents: vec![parent("shop/edge", Some("db"))],
        backends: vec![backend("data/db", 80)],
        created: None,
    }));
    let mut index = index([
        gateway("shop/edge", vec![listener("db", 5432, Protocol::Tcp, None)]),
        route("shop/http", "shop/edge", &[], vec![(prefix("/"), Some("data/db"))]),
        tcp_route,
        service("data/db"),
    ]);
    let mut check = |event: Option<Event>, granted: bool| {
        index.apply(event);
        let view = index.view(&NodeQuery::Gateway(id("shop/edge"))).unwrap();
        let (_, backends) = view.listeners[0].tcp.as_ref().unwrap();
        assert_eq!(backends[0].cluster.is_some(), granted);
        assert_eq!(view.clusters.len(), usize::from(granted));
    };
    check(None, false);
    check(Some(Event::Apply(grant(None))), true);
    check(Some(Event::Apply(grant(Some(vec!["other".into()])))), false);
    check(Some(Event::Apply(grant(Some(vec!["db".into()])))), true);
    check(Some(Event::Delete(ObjectKey::new(Kind::ReferenceGrant, grant_id.clone()))), false);
    // A listener that speaks TCP takes no HTTPRoute, and the grant is for TCPRoutes only.
    let expected =
        [(ConditionKind::Accepted, "NotAllowedByListeners"), (ConditionKind::ResolvedRefs, "RefNotPermitted")];
    assert_eq!(conditions(&index, Kind::HttpRoute, "shop/http"), expected);
}

#[test]
fn endpoints_that_terminate_serve_when_no_other_does() {
    let check = |endpoints: &[(&str, bool, bool)], expected: &[&str]| {
        let index = index([service("shop/api"), slice("shop/s", "shop/api", endpoints)]);
        let cluster = index.cluster(&"api.shop.svc:80".parse().unwrap()).unwrap();
        let found: Vec<_> = cluster.endpoints.iter().map(|endpoint| endpoint.address.to_string()).collect();
        assert_eq!(found, expected);
    };
    check(&[("10.0.0.1", true, false), ("10.0.0.2", false, true)], &["10.0.0.1:9000"]);
    check(&[("10.0.0.1", false, false), ("10.0.0.2", false, true)], &["10.0.0.2:9000"]);
    check(&[("10.0.0.1", false, false)], &[]);
}

#[test]
fn nodes_say_who_they_are() {
    let check = |role: Option<&str>, cluster: &str, expected: Result<&str, &str>| {
        let found = NodeQuery::new(role, cluster).map(|NodeQuery::Gateway(id)| id.to_string());
        let found = found.map_err(|error| error.to_string());
        assert_eq!(found.as_deref().map_err(|error| error.split(':').next().unwrap_or_default()), expected);
    };
    check(None, "shop/edge", Ok("shop/edge"));
    check(Some("gateway"), "shop/edge", Ok("shop/edge"));
    check(Some("sidecar"), "shop/edge", Err("node.metadata.role"));
    check(None, "edge", Err("node.cluster"));
    check(None, "", Err("node.cluster"));
}

/// An object out of a small world, so that references meet.
fn random_object(rng: &mut StdRng) -> Object {
    let names = ["a/x", "a/y", "b/x"];
    let mut pick = |of: &[&'static str]| of[rng.random_range(0..of.len())];
    let (name, other, host) = (pick(&names), pick(&names), pick(&["h.example", "*.example", "i.h.example"]));
    let hosts: &[&str] = if pick(&["", "host"]).is_empty() { &[] } else { &[host] };
    let path = pick(&["/", "/a", "/a/b"]);
    match rng.random_range(0..6) {
        0 => gateway(
            name,
            vec![
                listener("one", 80, Protocol::Http, None),
                listener("two", rng.random_range(80..82), Protocol::Http, hosts.first().copied()),
            ],
        ),
        1 => route(name, other, hosts, vec![(prefix(path), Some(other)), (prefix("/z"), None)]),
        2 => service(name),
        3 => slice(name, other, &[("10.0.0.1", rng.random(), rng.random())]),
        4 => filter(name, Phase::AuthN, rng.random_range(0..3), &[(TargetKind::Gateway, other, None)]),
        _ => filter(name, Phase::AuthZ, 0, &[(TargetKind::HttpRoute, other, Some("r0"))]),
    }
}

fn same_answers(a: &MeshIndex, b: &MeshIndex, context: &str) {
    assert!(a.objects() == b.objects(), "{context}: objects");
    assert!(a.gateways().eq(b.gateways()), "{context}: gateways");
    assert!(a.clusters().eq(b.clusters()), "{context}: clusters");
    assert!(a.statuses().eq(b.statuses()), "{context}: statuses");
}

/// A view refers to nothing that it doesn't hold.
fn is_closed(index: &MeshIndex, context: &str) {
    for view in index.gateways() {
        let ports: BTreeSet<_> = view.listeners.iter().map(|listener| listener.port).collect();
        assert_eq!(ports.len(), view.listeners.len(), "{context}: one listener a port");
        let mut used = BTreeSet::new();
        for listener in &view.listeners {
            let domains: BTreeSet<_> = listener.hosts.iter().map(|host| &host.domain).collect();
            assert_eq!(domains.len(), listener.hosts.len(), "{context}: one virtual host a domain");
            let chain: BTreeSet<_> = listener.filters.iter().map(|entry| &entry.filter.id).collect();
            assert!(chain.iter().all(|id| view.filters.contains_key(id)), "{context}: filters");
            for entry in listener.hosts.iter().flat_map(|host| &host.routes) {
                assert!(entry.filters.iter().all(|id| chain.contains(id)), "{context}: a route's filters");
                used.extend(entry.backends.iter().filter_map(|backend| backend.cluster.clone()));
            }
        }
        assert_eq!(used, view.clusters.keys().cloned().collect(), "{context}: clusters");
        for filter in view.filters.values() {
            assert!(index.module(&filter.revision.module.sha256()).is_some(), "{context}: modules");
        }
    }
}

#[test]
fn laws_hold_over_random_events() {
    let seeds = match std::env::var("SEED") {
        Ok(seed) => vec![seed.parse().unwrap()],
        Err(_) => (0..40).collect::<Vec<u64>>(),
    };
    for seed in seeds {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut index = MeshIndex::new();
        for step in 0..40 {
            let context = format!("seed {seed}, step {step}");
            let object = random_object(&mut rng);
            let event = if rng.random_bool(0.3) { Event::Delete(object.key()) } else { Event::Apply(object) };
            let before = index.clone();
            let changes = index.apply([event.clone()]);
            // What is not named as changed is the same, in place.
            for view in before.gateways().filter(|view| !changes.gateways.contains(&view.gateway.id)) {
                let now = index.view(&NodeQuery::Gateway(view.gateway.id.clone())).unwrap();
                assert!(Arc::ptr_eq(view, &now), "{context}: an unchanged view moved");
            }
            assert_eq!(index.generation() - before.generation(), u64::from(!changes.is_empty()), "{context}");
            // The same event again changes nothing.
            let generation = index.generation();
            assert!(index.apply([event]).is_empty() && index.generation() == generation, "{context}: idempotent");
            is_closed(&index, &context);
        }
        // The way doesn't matter: all at once, or one by one in another order.
        let context = format!("seed {seed}");
        let mut objects: Vec<Object> = index.objects().iter().collect();
        let mut at_once = MeshIndex::new();
        at_once.replace(index.objects().clone());
        same_answers(&index, &at_once, &context);
        objects.shuffle(&mut rng);
        let mut one_by_one = MeshIndex::new();
        for object in objects {
            one_by_one.apply([Event::Apply(object)]);
        }
        same_answers(&index, &one_by_one, &context);
        // And nothing remains of what goes.
        let changes = index.replace(Objects::default());
        assert!(changes.gateways.len() + changes.clusters.len() + changes.statuses.len() > 0, "{context}");
        same_answers(&index, &MeshIndex::new(), &context);
    }
}
