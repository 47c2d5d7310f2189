//! What is to be fetched for a generation: names that its resources, and those that are warming, refer to.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::Compiler;
use crate::resources::Slot;
use crate::snapshot::Snapshot;
use crate::snapshot::dirty::Dirty;
use crate::{Dependency, Discovery, DnsTargets, Resource, ResourceKind, SecretRef, SharedMap, Source};

impl Compiler<'_> {
    /// Brings the assignments that clusters need up to date, for these clusters.
    pub(super) fn assignments_needed(&mut self, clusters: &BTreeSet<Arc<str>>) {
        let mut touched = BTreeSet::new();
        let mut of_files = false;
        for name in clusters {
            self.names_to_resolve(name);
            let before = assignments_of(self.previous, name);
            let now = assignments_of(&self.next, name);
            if before == now {
                continue;
            }
            of_files |= before.iter().chain(&now).any(|assignment| matches!(assignment.from, Source::File(_)));
            for assignment in before {
                let mut users = self.next.assignment_users.get(&assignment.name).cloned().unwrap_or_default();
                Arc::make_mut(&mut users).remove(name);
                self.next.assignment_users.insert(Arc::clone(&assignment.name), users);
                touched.insert(assignment.name);
            }
            for assignment in now {
                let mut users = self.next.assignment_users.get(&assignment.name).cloned().unwrap_or_default();
                let service = Arc::clone(&assignment.name);
                Arc::make_mut(&mut users).insert(Arc::clone(name), assignment);
                self.next.assignment_users.insert(Arc::clone(&service), users);
                touched.insert(service);
            }
        }
        for service in touched {
            let users = self.next.assignment_users.get(&service).cloned().unwrap_or_default();
            if users.is_empty() {
                self.next.assignment_users.remove(&service);
            }
            match timeout(users.values().filter(|user| user.from == Source::Ads)) {
                Some(timeout) if self.next.needed.endpoints.get(&service) == Some(&timeout) => {}
                Some(timeout) => drop(self.next.needed.endpoints.insert(service, timeout)),
                None => drop(self.next.needed.endpoints.remove(&service)),
            }
        }
        if of_files {
            let files = &mut self.next.needed.files;
            files.retain(|(kind, _), _| *kind != ResourceKind::Endpoints);
            let users = self.next.assignment_users.values().flat_map(|users| users.values());
            users.for_each(|user| expect(files, ResourceKind::Endpoints, user));
        }
    }

    /// What of a cluster is to be resolved through DNS.
    fn names_to_resolve(&mut self, name: &Arc<str>) {
        let (before, now) = (dns_of(self.previous, name), dns_of(&self.next, name));
        for gone in before.iter().filter(|gone| !now.iter().any(|kept| kept.name == gone.name)) {
            self.next.needed.dns.remove(&gone.name);
        }
        for targets in now {
            if !self.next.needed.dns.contains_key(&targets.name) {
                self.next.needed.dns.insert(Arc::clone(&targets.name), targets);
            }
        }
    }

    /// The routes and extensions that listeners need, the held versions too.
    pub(super) fn names_needed(&mut self) {
        let mut routes: BTreeMap<Arc<str>, Vec<&Dependency>> = BTreeMap::new();
        let mut extensions: BTreeMap<Arc<str>, Vec<&Dependency>> = BTreeMap::new();
        let mut files = Files::new();
        let set = self.set;
        let listeners = set.slots(ResourceKind::Listener).values().filter_map(|slot| match slot {
            Slot::Held(entry) => Some(entry),
            Slot::Missing | Slot::Refused => None,
        });
        let held = self.next.held.iter().filter(|((kind, _), _)| *kind == ResourceKind::Listener);
        for entry in listeners.chain(held.filter_map(|(_, old)| old.as_ref())) {
            for route in &entry.refs().routes {
                expect(&mut files, ResourceKind::Route, route);
                routes.entry(Arc::clone(&route.name)).or_default().push(route);
            }
            for extension in &entry.refs().extensions {
                expect(&mut files, ResourceKind::Extension, &extension.dependency);
                let name = Arc::clone(&extension.dependency.name);
                extensions.entry(name).or_default().push(&extension.dependency);
            }
        }
        let routes = over_ads(routes, &self.previous.needed.routes);
        let extensions = over_ads(extensions, &self.previous.needed.extensions);
        let needed = &mut self.next.needed;
        needed.routes = routes;
        needed.extensions = extensions;
        needed.files.retain(|(kind, _), _| !matches!(kind, ResourceKind::Route | ResourceKind::Extension));
        needed.files.extend(files);
    }

    /// The secrets that listeners and clusters need, the held versions too.
    pub(super) fn secrets_needed(&mut self, dirty: &Dirty) {
        let changed = dirty.listeners
            || dirty.clusters.iter().any(|name| secrets_of(self.previous, name) != secrets_of(&self.next, name));
        if !changed {
            return;
        }
        let mut secrets: BTreeMap<Arc<str>, Vec<&Dependency>> = BTreeMap::new();
        let mut streams: BTreeMap<Source, BTreeMap<Arc<str>, Vec<&Dependency>>> = BTreeMap::new();
        let mut files = Files::new();
        let set = self.set;
        let kinds = [ResourceKind::Listener, ResourceKind::Cluster];
        let accepted = kinds.into_iter().flat_map(|kind| set.slots(kind).values()).filter_map(|slot| match slot {
            Slot::Held(entry) => Some(entry),
            Slot::Missing | Slot::Refused => None,
        });
        let published = self.next.held.values().flatten().chain(self.next.kept.values());
        for secret in accepted.chain(published).flat_map(|entry| &entry.refs().secrets) {
            let dependency = &secret.dependency;
            let name = Arc::clone(&dependency.name);
            expect(&mut files, ResourceKind::Secret, dependency);
            match &dependency.from {
                Source::Ads => secrets.entry(name).or_default().push(dependency),
                Source::Stream(_) => {
                    streams.entry(dependency.from.clone()).or_default().entry(name).or_default().push(dependency);
                }
                Source::File(_) | Source::Static | Source::Dns => {}
            }
        }
        let secrets = over_ads(secrets, &self.previous.needed.secrets);
        let streams = streams.into_iter().map(|(from, names)| {
            let names = names.into_iter().filter_map(|(name, users)| Some((name, timeout(users.into_iter())?)));
            (from, names.collect::<SharedMap<_>>())
        });
        let streams = streams.collect();
        let needed = &mut self.next.needed;
        needed.secrets = secrets;
        needed.streams = streams;
        needed.files.retain(|(kind, _), _| *kind != ResourceKind::Secret);
        needed.files.extend(files);
    }
}

/// The secrets that the versions of a cluster name.
fn secrets_of<'s>(snapshot: &'s Snapshot, name: &Arc<str>) -> Vec<&'s SecretRef> {
    let accepted = snapshot.set.entry(ResourceKind::Cluster, name);
    let published = snapshot.published(ResourceKind::Cluster, name);
    accepted.into_iter().chain(published).flat_map(|entry| &entry.refs().secrets).collect()
}

/// The assignments that the versions of a cluster name: the accepted one and the published one.
fn assignments_of(snapshot: &Snapshot, name: &Arc<str>) -> Vec<Dependency> {
    let accepted = snapshot.set.entry(ResourceKind::Cluster, name);
    let published = snapshot.published(ResourceKind::Cluster, name);
    let mut assignments: Vec<Dependency> = Vec::new();
    for assignment in accepted.into_iter().chain(published).filter_map(|entry| entry.refs().endpoints.as_ref()) {
        if !assignments.iter().any(|other| other.name == assignment.name) {
            assignments.push(assignment.clone());
        }
    }
    assignments
}

/// What the versions of a cluster resolve: the accepted one and the published one.
fn dns_of(snapshot: &Snapshot, name: &Arc<str>) -> Vec<Arc<DnsTargets>> {
    let accepted = snapshot.set.entry(ResourceKind::Cluster, name);
    let published = snapshot.published(ResourceKind::Cluster, name);
    let targets = accepted.into_iter().chain(published).filter_map(|entry| match &entry.resource {
        Resource::Cluster(cluster) => match &cluster.discovery {
            Discovery::Dns(targets) => Some(Arc::clone(targets)),
            _ => None,
        },
        _ => None,
    });
    targets.collect()
}

type Files = BTreeMap<(ResourceKind, Arc<str>), BTreeSet<Arc<str>>>;

/// Notes a name that is expected in a file.
fn expect(files: &mut Files, kind: ResourceKind, dependency: &Dependency) {
    if let Source::File(path) = &dependency.from {
        files.entry((kind, Arc::clone(path))).or_default().insert(Arc::clone(&dependency.name));
    }
}

fn over_ads(
    names: BTreeMap<Arc<str>, Vec<&Dependency>>,
    previous: &SharedMap<Option<Duration>>,
) -> SharedMap<Option<Duration>> {
    let names = names.into_iter().filter_map(|(name, users)| {
        let users = users.into_iter().filter(|user| user.from == Source::Ads);
        timeout(users).map(|timeout| (name, timeout))
    });
    let names = names.collect();
    if names == *previous { previous.clone() } else { names }
}

/// How long to wait for what several want: the longest, zero being for ever; `None` where nobody wants it.
fn timeout<'a>(users: impl Iterator<Item = &'a Dependency>) -> Option<Option<Duration>> {
    const DEFAULT: Duration = Duration::from_secs(15);
    users.map(|user| user.initial_fetch_timeout).reduce(|a, b| match (a, b) {
        (Some(Duration::ZERO), _) | (_, Some(Duration::ZERO)) => Some(Duration::ZERO),
        (None, None) => None,
        (a, b) => Some(a.unwrap_or(DEFAULT).max(b.unwrap_or(DEFAULT))),
    })
}
