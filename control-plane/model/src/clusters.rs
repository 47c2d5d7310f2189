//! Services and their EndpointSlices become clusters; references to services become clusters or a reason why not.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;

use crate::ids::{Kind, ObjectId};
use crate::objects::Objects;
use crate::route::Backend;
use crate::service::{Endpoint, EndpointSlice, Service, SliceEndpoint};
use crate::status::{Condition, ConditionKind};
use crate::view::{BackendView, ClusterKey, ClusterView};

pub(crate) type Clusters = BTreeMap<ClusterKey, Arc<ClusterView>>;

/// One cluster for each port of each service.
pub(crate) fn clusters(objects: &Objects) -> impl Iterator<Item = ClusterView> + '_ {
    let mut slices: BTreeMap<&ObjectId, Vec<&EndpointSlice>> = BTreeMap::new();
    for slice in objects.slices.values() {
        slices.entry(&slice.service).or_default().push(slice);
    }
    objects.services.values().flat_map(move |service| {
        let slices = slices.get(&service.id).cloned().unwrap_or_default();
        service.ports.iter().map(move |port| ClusterView {
            key: ClusterKey { service: service.id.clone(), port: port.port },
            protocol: port.protocol,
            service: Arc::clone(service),
            endpoints: endpoints(&slices, &port.name),
        })
    })
}

fn endpoints(slices: &[&EndpointSlice], port_name: &str) -> Arc<[Endpoint]> {
    let collect = |takes: fn(&SliceEndpoint) -> bool| {
        let mut endpoints = BTreeSet::new();
        for slice in slices {
            for port in slice.ports.iter().filter(|port| *port.name == *port_name) {
                for endpoint in slice.endpoints.iter().filter(|endpoint| takes(endpoint)) {
                    endpoints.extend(endpoint.addresses.iter().map(|address| Endpoint {
                        address: SocketAddr::new(*address, port.port),
                        zone: endpoint.zone.clone(),
                    }));
                }
            }
        }
        endpoints
    };
    let mut endpoints = collect(|endpoint| endpoint.ready);
    if endpoints.is_empty() {
        endpoints = collect(|endpoint| endpoint.serving && endpoint.terminating);
    }
    // The same address in two slices, while it moves between zones, is one endpoint.
    let mut endpoints: Vec<_> = endpoints.into_iter().collect();
    endpoints.dedup_by(|b, a| a.address == b.address);
    endpoints.into()
}

/// The backends of one rule of `route`, and what is wrong with them.
pub(crate) fn resolve(
    objects: &Objects,
    kind: Kind,
    route: &ObjectId,
    backends: &[Backend],
    problems: &mut Vec<Condition>,
) -> Vec<BackendView> {
    let resolve_one = |backend: &Backend| {
        let cluster = match find(objects, kind, route, backend) {
            Ok(()) => Some(ClusterKey { service: backend.service.clone(), port: backend.port }),
            Err(condition) => {
                problems.push(condition);
                None
            }
        };
        BackendView { cluster, backend: backend.clone() }
    };
    backends.iter().map(resolve_one).collect()
}

fn find(objects: &Objects, kind: Kind, route: &ObjectId, backend: &Backend) -> Result<(), Condition> {
    let problem = |reason, message| Err(Condition::new(ConditionKind::ResolvedRefs, reason, message));
    let Backend { service: id, port, .. } = backend;
    // First, so that nobody learns what there is in a namespace that doesn't let them in.
    if id.namespace != route.namespace && !granted(objects, kind, &route.namespace, id) {
        return problem("RefNotPermitted", format!("no ReferenceGrant in namespace {} allows {id}", id.namespace));
    }
    match objects.services.get(id) {
        None => problem("BackendNotFound", format!("Service {id} is not there")),
        Some(service) if !has_port(service, *port) => {
            problem("BackendNotFound", format!("Service {id} has no port {port}"))
        }
        Some(_) => Ok(()),
    }
}

fn has_port(service: &Service, port: u16) -> bool {
    service.ports.iter().any(|candidate| candidate.port == port)
}

fn granted(objects: &Objects, kind: Kind, namespace: &str, service: &ObjectId) -> bool {
    objects.grants.values().filter(|grant| grant.id.namespace == service.namespace).any(|grant| {
        grant.from.iter().any(|from| from.kind == kind && *from.namespace == *namespace)
            && grant.services.as_ref().is_none_or(|names| names.contains(&service.name))
    })
}
