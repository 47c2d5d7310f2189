//! Warming by example, and under random updates with invariants.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::dirty::Dirty;
use super::{FilterConfig, Snapshot};
use crate::testing::{assignment, cluster, dns, eds, extension, listener, route, secret, tls_cluster};
use crate::{HttpFilter, HttpFilterKind, OverrideNames, Resource, ResourceKind, ResourceSet, Source, Update};

/// A set, and what is served of it.
#[derive(Default)]
struct World {
    set: ResourceSet,
    snapshot: Snapshot,
}

impl World {
    fn apply(&mut self, update: Update) {
        self.set.apply(update);
        self.compile();
    }

    fn compile(&mut self) {
        let next = Snapshot::compile(&self.set, Some(&self.snapshot), self.snapshot.generation + 1);
        self.set.collect(&self.snapshot, &next);
        self.snapshot = next;
    }

    fn add(&mut self, resource: Resource) {
        self.apply(upsert(Source::Ads, [resource]));
    }

    fn remove(&mut self, kind: ResourceKind, name: &str) {
        self.apply(Update { removed: vec![name.into()], ..empty(Source::Ads, kind) });
    }

    fn miss(&mut self, kind: ResourceKind, name: &str) {
        self.apply(Update { missing: vec![name.into()], ..empty(Source::Ads, kind) });
    }

    fn refuse(&mut self, kind: ResourceKind, name: &str) {
        self.apply(Update { refused: vec![name.into()], ..empty(Source::Ads, kind) });
    }

    /// Published listeners with their address' port, the clusters that their routes name, and what is warming.
    fn listeners(&self) -> Vec<String> {
        self.snapshot.listeners.values().map(|listener| format!("{}:{}", listener.name, listener.backlog)).collect()
    }

    fn warming(&self) -> Vec<String> {
        let names = |list: &[(ResourceKind, Arc<str>)]| {
            list.iter().map(|(_, name)| name.to_string()).collect::<Vec<_>>().join(",")
        };
        self.snapshot
            .warming
            .iter()
            .map(|warming| format!("{}<-{}", warming.name, names(&warming.waiting_for)))
            .collect()
    }

    fn assignment_version(&self, cluster: &str) -> Option<u32> {
        self.snapshot
            .clusters
            .get(cluster)?
            .assignment
            .as_ref()
            .map(|assignment| assignment.policy.overprovisioning_percent)
    }
}

fn empty(source: Source, kind: ResourceKind) -> Update {
    Update { source, kind, upserts: Vec::new(), removed: Vec::new(), missing: Vec::new(), refused: Vec::new() }
}

fn upsert<const N: usize>(source: Source, resources: [Resource; N]) -> Update {
    let kind = resources[0].kind();
    let upserts = resources.into_iter().map(|resource| (Arc::clone(resource.name()), resource)).collect();
    Update { upserts, ..empty(source, kind) }
}

#[test]
fn a_first_configuration_serves_when_it_is_complete() {
    let mut world = World::default();
    world.add(eds("c", "e", 1));
    assert_eq!(world.warming(), ["c<-e"]);
    assert!(world.snapshot.needed.endpoints.contains_key("e"));
    world.add(listener("l", 1, "r", &["x"]));
    assert_eq!(world.warming(), ["c<-e", "l<-r,x"]);
    world.add(route("r", 1, &["c"]));
    assert_eq!(world.warming(), ["c<-e", "l<-r,x", "r<-c"]);
    world.add(extension("x", 1));
    assert_eq!(world.warming(), ["c<-e", "l<-r", "r<-c"]);
    assert!(world.listeners().is_empty());
    world.add(assignment("e", 1));
    assert!(world.warming().is_empty());
    assert_eq!(world.listeners(), ["l:1"]);
    assert!(world.snapshot.routes.contains_key("r") && world.snapshot.extensions.contains_key("x"));
}

#[test]
fn names_are_resolved_as_assignments_are_fetched() {
    let mut world = World::default();
    let ((first, a), (second, b)) = (dns("c", "a.test"), dns("c", "b.test"));
    let answer = |targets: &Arc<crate::DnsTargets>, last: u8| {
        let assignment = targets.assignment(&[vec![std::net::IpAddr::from([10, 0, 0, last])]]);
        upsert(Source::Dns, [Resource::Endpoints(Arc::new(assignment))])
    };
    let addresses = |world: &World| -> Option<Vec<String>> {
        let assignment = world.snapshot.clusters.get("c")?.assignment.as_ref()?;
        Some(assignment.endpoints().map(|endpoint| endpoint.address.to_string()).collect())
    };
    world.add(first);
    assert_eq!(world.warming(), [format!("c<-{}", a.name)]);
    assert!(world.snapshot.needed.dns.contains_key(&a.name) && world.snapshot.needed.endpoints.is_empty());
    world.apply(answer(&a, 1));
    assert_eq!((world.warming(), addresses(&world)), (vec![], Some(vec!["10.0.0.1:80".to_owned()])));
    world.apply(answer(&a, 2));
    assert_eq!(addresses(&world), Some(vec!["10.0.0.2:80".to_owned()]));
    // Another name: the old one serves, and is resolved, until the new one is.
    world.add(second);
    assert_eq!(world.warming(), [format!("c<-{}", b.name)]);
    assert!(world.snapshot.needed.dns.contains_key(&a.name) && world.snapshot.needed.dns.contains_key(&b.name));
    world.apply(answer(&a, 3));
    assert_eq!(addresses(&world), Some(vec!["10.0.0.3:80".to_owned()]));
    // A name that cannot be resolved holds nobody up.
    world.apply(Update { missing: vec![Arc::clone(&b.name)], ..empty(Source::Dns, ResourceKind::Endpoints) });
    assert_eq!((world.warming(), addresses(&world)), (vec![], None));
    assert!(!world.snapshot.needed.dns.contains_key(&a.name));
    assert!(world.set.get(ResourceKind::Endpoints, &a.name).is_none(), "what nothing names is forgotten");
    world.apply(answer(&b, 4));
    assert_eq!(addresses(&world), Some(vec!["10.0.0.4:80".to_owned()]));
    world.remove(ResourceKind::Cluster, "c");
    assert!(world.snapshot.needed.dns.is_empty() && world.set.get(ResourceKind::Endpoints, &b.name).is_none());
}

#[test]
fn known_endpoints_are_reused_and_updated_while_a_cluster_warms() {
    let mut world = World::default();
    world.add(eds("c", "e", 1));
    world.add(assignment("e", 1));
    assert_eq!(world.assignment_version("c"), Some(1));
    // A changed cluster with the same assignment is warm at once.
    world.add(eds("c", "e", 2));
    assert!(world.warming().is_empty());
    // With another one the old version serves on, with fresh endpoints.
    world.add(eds("c", "f", 3));
    assert_eq!(world.warming(), ["c<-f"]);
    assert!(world.snapshot.needed.endpoints.contains_key("e") && world.snapshot.needed.endpoints.contains_key("f"));
    world.add(assignment("e", 2));
    assert_eq!(world.assignment_version("c"), Some(2));
    world.miss(ResourceKind::Endpoints, "f");
    assert!(world.warming().is_empty());
    assert_eq!(world.assignment_version("c"), None);
    assert!(!world.snapshot.needed.endpoints.contains_key("e"));
    assert!(world.set.get(ResourceKind::Endpoints, "e").is_none(), "what nothing names is forgotten");
    world.add(assignment("f", 7));
    assert_eq!(world.assignment_version("c"), Some(7));
}

#[test]
fn a_route_waits_for_warming_clusters_and_keeps_what_it_needs() {
    let mut world = World::default();
    world.add(cluster("old", 1));
    world.add(route("r", 1, &["old", "unknown"]));
    world.add(listener("l", 1, "r", &[]));
    assert_eq!(world.listeners(), ["l:1"]);
    let before = Arc::clone(world.snapshot.routes.get("r").unwrap());
    world.add(eds("new", "e", 1));
    world.add(route("r", 2, &["new"]));
    world.remove(ResourceKind::Cluster, "old");
    assert_eq!(world.warming(), ["new<-e", "r<-new"]);
    assert!(Arc::ptr_eq(world.snapshot.routes.get("r").unwrap(), &before));
    assert!(world.snapshot.clusters.contains_key("old"), "the held version still needs it");
    world.add(assignment("e", 1));
    assert!(world.warming().is_empty());
    assert!(!world.snapshot.clusters.contains_key("old"));
    assert!(!Arc::ptr_eq(world.snapshot.routes.get("r").unwrap(), &before));
    // A removed cluster that a current route names is gone, as the server said.
    world.remove(ResourceKind::Cluster, "new");
    assert!(world.snapshot.clusters.is_empty() && world.warming().is_empty());
}

#[test]
fn a_held_listener_keeps_its_route_and_extension() {
    let mut world = World::default();
    world.add(cluster("c", 1));
    world.add(listener("l", 1, "r", &["x"]));
    world.add(route("r", 1, &["c"]));
    world.add(extension("x", 1));
    world.add(listener("l", 2, "s", &["y"]));
    assert_eq!(world.listeners(), ["l:1"]);
    assert_eq!(world.warming(), ["l<-s,y"]);
    assert!(world.set.get(ResourceKind::Route, "r").is_some(), "still needed");
    world.remove(ResourceKind::Cluster, "c");
    world.add(route("s", 1, &[]));
    world.miss(ResourceKind::Extension, "y");
    assert_eq!(world.listeners(), ["l:2"]);
    assert!(world.set.get(ResourceKind::Route, "r").is_none());
    let y = HttpFilter { name: "y".into(), kind: discovered(), disabled: false };
    assert!(matches!(world.snapshot.filter_config(&y), FilterConfig::Missing));
    world.add(extension("y", 3));
    assert!(matches!(world.snapshot.filter_config(&y), FilterConfig::Plugin(plugin) if plugin.configuration == "3"));
    // Removed while in use: the last configuration stays.
    world.remove(ResourceKind::Extension, "y");
    assert!(matches!(world.snapshot.filter_config(&y), FilterConfig::Plugin(_)));
}

/// `route`, with a scope that turns filters on.
fn route_with_filters(name: &str, filters: &[&str]) -> Resource {
    let Resource::Route(mut made) = route(name, 1, &[]) else { panic!() };
    Arc::get_mut(&mut made).unwrap().override_names = OverrideNames::new(filters.iter().map(|name| Arc::from(*name)));
    Resource::Route(made)
}

#[test]
fn routes_that_speak_of_a_new_filter_go_live_with_its_chain() {
    let mut world = World::default();
    world.add(route_with_filters("r", &["x"]));
    world.add(route_with_filters("s", &[]));
    world.add(listener("l", 1, "r", &["x"]));
    world.add(listener("m", 1, "s", &["x"]));
    world.add(extension("x", 1));
    let before = Arc::clone(world.snapshot.routes.get("r").unwrap());
    world.add(listener("l", 2, "r", &["x", "y"]));
    world.add(listener("m", 2, "s", &["x", "y"]));
    world.add(route_with_filters("r", &["y", "z"]));
    world.add(route_with_filters("s", &["z"]));
    // Not `s`: `y` is nothing to it, and no chain has `z`.
    assert_eq!(world.warming(), ["l<-y", "m<-y", "r<-l"]);
    assert!(Arc::ptr_eq(world.snapshot.routes.get("r").unwrap(), &before));
    world.add(extension("y", 1));
    assert!(world.warming().is_empty() && world.listeners() == ["l:2", "m:2"]);
    assert!(!Arc::ptr_eq(world.snapshot.routes.get("r").unwrap(), &before));
    // Whatever holds the listener back: nobody serves the routes without their filter.
    let before = Arc::clone(world.snapshot.routes.get("r").unwrap());
    world.add(extension("v", 1));
    world.add(listener("l", 4, "r", &["x", "v", "u"]));
    world.add(route_with_filters("r", &["v"]));
    world.refuse(ResourceKind::Extension, "u");
    assert_eq!(world.warming(), ["l<-u", "r<-l"]);
    assert!(Arc::ptr_eq(world.snapshot.routes.get("r").unwrap(), &before));
    world.add(extension("u", 1));
    assert!(world.warming().is_empty() && world.listeners() == ["l:4", "m:2"]);
    assert!(!Arc::ptr_eq(world.snapshot.routes.get("r").unwrap(), &before));
    // One that doesn't exist holds nobody up.
    world.add(listener("l", 3, "r", &["x", "w"]));
    world.add(route_with_filters("r", &["w"]));
    assert_eq!(world.warming(), ["l<-w", "r<-l"]);
    world.miss(ResourceKind::Extension, "w");
    assert!(world.warming().is_empty());
}

#[test]
fn a_refused_filter_of_routes_holds_up_nobody() {
    /// `listener`, whose filters are off but for some routes.
    fn listener_of_routes(version: u32, filters: &[&str]) -> Resource {
        let Resource::Listener(mut made) = listener("l", version, "r", filters) else { panic!() };
        let chain = &mut Arc::get_mut(&mut made).unwrap().chains[0];
        let crate::NetworkFilter::Http(manager) = &mut chain.filter else { panic!() };
        Arc::get_mut(manager).unwrap().filters.iter_mut().for_each(|filter| filter.disabled = true);
        Resource::Listener(made)
    }
    let mut world = World::default();
    world.add(route_with_filters("r", &[]));
    world.add(listener_of_routes(1, &[]));
    world.add(listener("all", 1, "r", &[]));
    world.add(listener_of_routes(2, &["x"]));
    world.add(listener("all", 2, "r", &["x"]));
    world.add(route_with_filters("r", &["x"]));
    assert_eq!(world.warming(), ["all<-x", "l<-x", "r<-all,l"]);
    world.refuse(ResourceKind::Extension, "x");
    // A filter of every request keeps what serves, and with it the routes: without the filter they must not be served.
    // The route's own answers 500 where it is on.
    let warming = vec!["all<-x".to_owned(), "r<-all".to_owned()];
    assert_eq!((world.listeners(), world.warming()), (vec!["all:1".into(), "l:2".into()], warming));
    let x = HttpFilter { name: "x".into(), kind: discovered(), disabled: true };
    assert!(matches!(world.snapshot.filter_config(&x), FilterConfig::Missing));
    world.add(extension("x", 1));
    assert!(world.warming().is_empty() && world.listeners() == ["all:2", "l:2"]);
    assert!(matches!(world.snapshot.filter_config(&x), FilterConfig::Plugin(_)));
    world.refuse(ResourceKind::Extension, "x");
    assert!(matches!(world.snapshot.filter_config(&x), FilterConfig::Plugin(_)), "what was there stays");
}

/// What needs something that was refused serves without it, where there is no older version that could.
#[test]
fn who_has_nothing_else_waits_for_nothing_that_was_refused() {
    let mut world = World::default();
    world.add(listener("l", 1, "r", &["x"]));
    world.refuse(ResourceKind::Extension, "x");
    assert_eq!(world.warming(), ["l<-r"]);
    world.refuse(ResourceKind::Route, "r");
    assert_eq!((world.listeners(), world.warming().len()), (vec!["l:1".into()], 0), "with 404 for every request");
    world.add(route_with_filters("r", &[]));
    world.add(listener("l", 2, "s", &["x"]));
    world.refuse(ResourceKind::Route, "s");
    assert_eq!((world.listeners(), world.warming()), (vec!["l:1".into()], vec!["l<-s,x".into()]));
    world.add(extension("x", 1));
    world.add(route_with_filters("s", &[]));
    assert_eq!((world.listeners(), world.warming().len()), (vec!["l:2".into()], 0));
}

fn discovered() -> HttpFilterKind {
    HttpFilterKind::Discovered(crate::DiscoveredFilter {
        default: None,
        apply_default_without_warming: false,
        initial_fetch_timeout: None,
        type_urls: vec!["type.googleapis.com/test.Wasm".to_owned()],
        from: Source::Ads,
    })
}

#[test]
fn sources_dont_overwrite_each_other_and_static_wins() {
    let mut set = ResourceSet::new();
    let file = Source::File("/x".into());
    assert_eq!(set.apply(upsert(Source::Ads, [cluster("c", 1)])).changed.len(), 1);
    let changes = set.apply(upsert(file.clone(), [cluster("c", 2)]));
    assert_eq!(changes.rejected, [("c".into(), "the name is taken by ADS".to_owned())]);
    assert!(set.apply(Update { removed: vec!["c".into()], ..empty(file, ResourceKind::Cluster) }).is_empty());
    assert_eq!(set.apply(upsert(Source::Static, [cluster("c", 3)])).changed.len(), 1);
    assert!(!set.apply(upsert(Source::Ads, [cluster("c", 4)])).rejected.is_empty());
    assert_eq!(set.source(ResourceKind::Cluster, "c"), Some(&Source::Static));
    assert!(set.apply(upsert(Source::Static, [cluster("c", 3)])).is_empty(), "equal is no change");
    let wrong = Update { kind: ResourceKind::Route, ..upsert(Source::Static, [cluster("d", 1)]) };
    assert_eq!(set.apply(wrong).rejected.len(), 1);
}

#[test]
fn an_extension_of_a_type_that_its_listener_forbids_is_rejected() {
    let mut set = ResourceSet::new();
    set.apply(upsert(Source::Ads, [listener("l", 1, "r", &["x"])]));
    let Resource::Extension(good) = extension("x", 1) else { panic!() };
    let bad = crate::ExtensionConfig { type_url: "type.googleapis.com/test.Other".to_owned(), ..clone(&good) };
    let changes = set.apply(upsert(Source::Ads, [Resource::Extension(Arc::new(bad))]));
    assert_eq!(changes.rejected[0].1, "listener l doesn't allow the type type.googleapis.com/test.Other");
    assert_eq!(set.apply(upsert(Source::Ads, [Resource::Extension(good)])).changed.len(), 1);
}

fn clone(extension: &crate::ExtensionConfig) -> crate::ExtensionConfig {
    crate::ExtensionConfig {
        name: Arc::clone(&extension.name),
        origin: Arc::clone(&extension.origin),
        type_url: extension.type_url.clone(),
        plugin: Arc::clone(&extension.plugin),
        rollout: None,
    }
}

#[test]
fn files_and_timeouts_are_told() {
    let mut world = World::default();
    let Resource::Cluster(template) = eds("c", "e", 1) else { panic!() };
    let with = |name: &str, from: Source, timeout| {
        let mut cluster = crate::testing::clone_cluster(&template, name);
        cluster.discovery = crate::Discovery::Eds { service: "e".into(), initial_fetch_timeout: timeout, from };
        Resource::Cluster(Arc::new(cluster))
    };
    world.add(with("a", Source::File("/eds.yaml".into()), None));
    assert!(world.snapshot.needed.endpoints.is_empty());
    assert_eq!(world.snapshot.needed.files.len(), 1);
    world.add(with("b", Source::Ads, Some(Duration::from_secs(3))));
    assert_eq!(world.snapshot.needed.endpoints.get("e"), Some(&Some(Duration::from_secs(3))));
    world.add(with("c", Source::Ads, None));
    assert_eq!(world.snapshot.needed.endpoints.get("e"), Some(&Some(Duration::from_secs(15))));
    world.add(with("d", Source::Ads, Some(Duration::ZERO)));
    assert_eq!(world.snapshot.needed.endpoints.get("e"), Some(&Some(Duration::ZERO)));
    for name in ["a", "b", "c", "d"] {
        world.remove(ResourceKind::Cluster, name);
    }
    assert_eq!(world.snapshot.needed, super::Needed::default());
}

#[test]
fn one_update_of_many_clusters_shares_the_rest() {
    let mut world = World::default();
    let upserts = |range: std::ops::Range<u32>, version| {
        let clusters = range.map(|n| eds(&format!("c{n}"), &format!("e{n}"), version));
        clusters.map(|resource| (Arc::clone(resource.name()), resource)).collect()
    };
    world.apply(Update { upserts: upserts(0..10_000, 1), ..empty(Source::Ads, ResourceKind::Cluster) });
    let assignments = (0..10_000).map(|n| assignment(&format!("e{n}"), 1));
    let assignments = assignments.map(|resource| (Arc::clone(resource.name()), resource)).collect();
    world.apply(Update { upserts: assignments, ..empty(Source::Ads, ResourceKind::Endpoints) });
    assert_eq!((world.snapshot.clusters.len(), world.snapshot.warming.len()), (10_000, 0));
    let before = world.snapshot.clone();
    let start = Instant::now();
    for version in 2..102 {
        world.add(eds("c77", "e77", version));
        world.add(assignment("e78", version));
    }
    let each = start.elapsed() / 200;
    println!("one update of 10,000 clusters: {each:?}");
    let mut changed = world.snapshot.clusters.changed(&before.clusters, Arc::ptr_eq);
    changed.sort();
    assert_eq!(changed, ["c77", "c78"].map(Arc::from));
}

/// A small generator (xorshift), so that a seed can be replayed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }

    fn name(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", self.below(4))
    }
}

fn random_update(random: &mut Random, version: u32) -> Update {
    let kind = ResourceKind::ALL[usize::try_from(random.below(6)).unwrap()];
    let prefix = ["c", "e", "l", "r", "x", "s"][kind as usize];
    let name = random.name(prefix);
    match random.below(10) {
        0..=6 => {}
        7 | 8 => return Update { removed: vec![name.as_str().into()], ..empty(Source::Ads, kind) },
        _ => return Update { missing: vec![name.as_str().into()], ..empty(Source::Ads, kind) },
    }
    let (a, b) = (random.name("c"), random.name("c"));
    let resource = match kind {
        ResourceKind::Cluster if random.below(4) == 0 => cluster(&name, version),
        ResourceKind::Cluster if random.below(3) == 0 => {
            tls_cluster(&name, &random.name("e"), &random.name("s"), version)
        }
        ResourceKind::Cluster => eds(&name, &random.name("e"), version),
        ResourceKind::Endpoints => assignment(&name, version),
        ResourceKind::Listener => listener(&name, version, &random.name("r"), &[&random.name("x")]),
        ResourceKind::Route => route(&name, version, &[&a, &b]),
        ResourceKind::Extension => extension(&name, version),
        ResourceKind::Secret => secret(&name, version),
    };
    upsert(Source::Ads, [resource])
}

/// What holds after each step.
fn check_invariants(set: &ResourceSet, before: &Snapshot, now: &Snapshot) {
    let in_set = |kind, name: &str| set.get(kind, name).is_some();
    for (name, listener) in &now.listeners {
        let entry = now.published(ResourceKind::Listener, name).unwrap();
        assert!(in_set(ResourceKind::Listener, name));
        let new = !before.listeners.get(name).is_some_and(|old| Arc::ptr_eq(old, listener));
        for route in &entry.refs().routes {
            let there = now.routes.contains_key(&route.name);
            assert!(there || set.is_missing(ResourceKind::Route, &route.name) || !new, "{name} lacks {}", route.name);
            assert!(there || !before.routes.contains_key(&route.name), "{name} lost {}", route.name);
        }
        for extension in &entry.refs().extensions {
            let extension = &extension.dependency.name;
            let there = now.extensions.contains_key(extension);
            assert!(there || set.is_missing(ResourceKind::Extension, extension) || !new, "{name} lacks {extension}");
            assert!(there || !before.extensions.contains_key(extension), "{name} lost {extension}");
        }
    }
    for (name, route) in &now.routes {
        let new = !before.routes.get(name).is_some_and(|old| Arc::ptr_eq(old, route));
        let held = now.held.contains_key(&(ResourceKind::Route, Arc::clone(name)));
        for cluster in &now.published(ResourceKind::Route, name).unwrap().refs().clusters {
            let there = now.clusters.contains_key(cluster);
            assert!(there || !new || !in_set(ResourceKind::Cluster, cluster), "{name} lacks {cluster}");
            let lost = !there && before.clusters.contains_key(cluster);
            assert!(!lost || (!held && !in_set(ResourceKind::Cluster, cluster)), "{name} lost {cluster}");
        }
    }
    for (name, entry) in &now.clusters {
        let new = !before.clusters.get(name).is_some_and(|old| Arc::ptr_eq(&old.cluster, &entry.cluster));
        for secret in entry.cluster.transports.secrets() {
            let there = entry.secrets.contains_key(&secret.key);
            assert!(there || !new || set.is_missing(ResourceKind::Secret, &secret.key), "{name} lacks {}", secret.key);
            assert_eq!(there, in_set(ResourceKind::Secret, &secret.key), "{name} {}", secret.key);
            assert!(now.needed.secrets.contains_key(&secret.dependency.name), "{name} {}", secret.key);
        }
    }
    // Nothing that served and still exists stops serving.
    for kind in [ResourceKind::Cluster, ResourceKind::Listener, ResourceKind::Route, ResourceKind::Extension] {
        let names = |snapshot: &Snapshot| -> Vec<Arc<str>> {
            match kind {
                ResourceKind::Cluster => snapshot.clusters.keys().cloned().collect(),
                ResourceKind::Listener => snapshot.listeners.keys().cloned().collect(),
                ResourceKind::Route => snapshot.routes.keys().cloned().collect(),
                _ => snapshot.extensions.keys().cloned().collect(),
            }
        };
        let after = names(now);
        for name in names(before) {
            assert!(after.contains(&name) || !in_set(kind, &name), "{kind} {name} regressed");
        }
        for name in &after {
            let kept = now.kept.contains_key(&(kind, Arc::clone(name)));
            assert!(in_set(kind, name) != kept, "{kind} {name} is published for no reason");
        }
    }
    for warming in &now.warming {
        assert!(!warming.waiting_for.is_empty() && in_set(warming.kind, &warming.name));
        for (kind, name) in &warming.waiting_for {
            let known = now.warming.iter().any(|other| other.kind == *kind && other.name == *name);
            let needed = now.needed.names(*kind).is_some_and(|names| names.contains_key(name));
            assert!(known || needed, "{} waits for {name}, which nobody fetches", warming.name);
        }
    }
}

/// Names and versions of everything that is published, and what is fetched.
fn picture(snapshot: &Snapshot) -> BTreeMap<String, String> {
    let mut picture = BTreeMap::new();
    for (name, listener) in &snapshot.listeners {
        picture.insert(format!("listener {name}"), format!("{:p}", Arc::as_ptr(listener)));
    }
    for (name, route) in &snapshot.routes {
        picture.insert(format!("route {name}"), format!("{:p}", Arc::as_ptr(route)));
    }
    for (name, extension) in &snapshot.extensions {
        picture.insert(format!("extension {name}"), format!("{:p}", Arc::as_ptr(extension)));
    }
    for (name, entry) in &snapshot.clusters {
        let assignment = entry.assignment.as_ref().map(Arc::as_ptr);
        let secrets: Vec<_> = entry.secrets.values().map(Arc::as_ptr).collect();
        picture
            .insert(format!("cluster {name}"), format!("{:p} {assignment:?} {secrets:?}", Arc::as_ptr(&entry.cluster)));
    }
    picture.insert("warming".to_owned(), format!("{:?}", snapshot.warming));
    let needed = |kind| {
        let mut names: Vec<String> =
            snapshot.needed.names(kind).unwrap().keys().map(std::string::ToString::to_string).collect();
        names.sort();
        names.join(",")
    };
    for kind in NAMED {
        picture.insert(format!("needed {kind}"), needed(kind));
    }
    picture
}

const NAMED: [ResourceKind; 4] =
    [ResourceKind::Endpoints, ResourceKind::Route, ResourceKind::Extension, ResourceKind::Secret];

#[test]
fn random_updates_keep_the_invariants() {
    for seed in 1..=60_u64 {
        let mut random = Random(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let mut world = World::default();
        for step in 0..150 {
            let before = world.snapshot.clone();
            world.set.apply(random_update(&mut random, step));
            let dirty = Dirty::all(&before, &world.set);
            let whole = Snapshot::compile_dirty(&world.set, &before, before.generation + 1, &dirty);
            world.snapshot = Snapshot::compile(&world.set, Some(&before), before.generation + 1);
            assert_eq!(picture(&world.snapshot), picture(&whole), "seed {seed}, step {step}: incremental differs");
            let done = std::panic::catch_unwind(|| check_invariants(&world.set, &before, &world.snapshot));
            assert!(done.is_ok(), "seed {seed}, step {step}");
            world.set.collect(&before, &world.snapshot);
        }
        settle(&mut world, seed);
    }
}

/// Tells what is missing until nothing is warming: then the way there doesn't show.
fn settle(world: &mut World, seed: u64) {
    for _ in 0..20 {
        for kind in NAMED {
            let missing = world.snapshot.needed.names(kind).unwrap().keys().cloned().collect();
            world.apply(Update { missing, ..empty(Source::Ads, kind) });
        }
    }
    assert!(world.warming().is_empty(), "seed {seed}: {:?}", world.warming());
    let fresh = Snapshot::compile(&world.set, None, 1);
    assert_eq!(picture(&world.snapshot), picture(&fresh), "seed {seed}: equal sets, different snapshots");
    let again = Snapshot::compile(&world.set, Some(&world.snapshot), 2);
    assert!(again.clusters.changed(&world.snapshot.clusters, Arc::ptr_eq).is_empty());
}

#[test]
fn a_cluster_waits_for_its_own_secrets_only() {
    let mut world = World::default();
    world.add(assignment("e", 1));
    world.add(tls_cluster("a", "e", "s1", 1));
    world.add(tls_cluster("b", "e", "s2", 1));
    assert_eq!(world.warming(), ["a<-s1", "b<-s2"]);
    world.add(secret("s2", 1));
    assert_eq!(world.warming(), ["a<-s1"]);
    assert!(world.snapshot.clusters.contains_key("b") && !world.snapshot.clusters.contains_key("a"));
    // It doesn't exist: the cluster is there, and its connections are refused.
    world.miss(ResourceKind::Secret, "s1");
    assert!(world.warming().is_empty());
    assert!(world.snapshot.clusters.get("a").unwrap().secrets.is_empty());
    // A rotated secret reaches whoever uses it, and nobody else.
    let before = world.snapshot.clone();
    world.add(secret("s2", 2));
    let same = |name: &str| Arc::ptr_eq(before.clusters.get(name).unwrap(), world.snapshot.clusters.get(name).unwrap());
    assert!(same("a") && !same("b"));
    // While a new version waits, the old one serves with its secret.
    world.add(tls_cluster("b", "e", "s3", 2));
    assert_eq!(world.warming(), ["b<-s3"]);
    let served = world.snapshot.clusters.get("b").unwrap();
    assert_eq!(served.cluster.per_connection_buffer_limit_bytes, 1);
    assert!(served.secrets.contains_key("s2"));
    world.add(secret("s3", 1));
    assert!(world.warming().is_empty());
    assert!(world.snapshot.needed.secrets.get("s2").is_none() && world.set.get(ResourceKind::Secret, "s2").is_none());
}
