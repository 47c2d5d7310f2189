//! Objects → views and status. Pure; what equals the previous generation's is that generation's `Arc`.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::attach::{Attachable, covers};
use crate::chain;
use crate::clusters::{self, Clusters};
use crate::filter::{Digest, Module, WasmFilter};
use crate::gateway::{Gateway, GatewayListener, Protocol};
use crate::ids::{Kind, ObjectId, ObjectKey};
use crate::objects::Objects;
use crate::order::{Precedence, compare_domains};
use crate::route::{Route, TcpRoute};
use crate::status::{Condition, ConditionKind, ObjectStatus};
use crate::view::{BackendView, ClusterKey, GatewayView, ListenerView, RouteEntry, VirtualHost};

/// Everything that follows from one state of the objects.
#[derive(Clone, Debug, Default)]
pub(crate) struct Compiled {
    pub(crate) clusters: Clusters,
    pub(crate) gateways: BTreeMap<ObjectId, Arc<GatewayView>>,
    pub(crate) statuses: BTreeMap<ObjectKey, Arc<ObjectStatus>>,
    pub(crate) modules: BTreeMap<Digest, Module>,
}

/// A route with its backends resolved, by rule.
struct Resolved<'a, R> {
    route: &'a Arc<R>,
    backends: Vec<Vec<BackendView>>,
}

struct Context<'a> {
    objects: &'a Objects,
    routes: Vec<Resolved<'a, Route>>,
    tcp_routes: Vec<Resolved<'a, TcpRoute>>,
    filters: Vec<Arc<WasmFilter>>,
}

impl Compiled {
    pub(crate) fn new(objects: &Objects, previous: &Self) -> Self {
        let mut compiled = Self::default();
        for view in clusters::clusters(objects) {
            let old = previous.clusters.get(&view.key);
            compiled.clusters.insert(view.key.clone(), share(old, view));
        }
        let mut statuses = Vec::new();
        let context = Context {
            objects,
            routes: objects.routes.values().map(|route| resolve_route(objects, route, &mut statuses)).collect(),
            tcp_routes: objects.tcp_routes.values().map(|route| resolve_tcp(objects, route, &mut statuses)).collect(),
            filters: chain::in_order(objects),
        };
        for gateway in objects.gateways.values() {
            let (accepted, conditions) = accept_listeners(gateway);
            let old = previous.gateways.get(&gateway.id);
            let view = gateway_view(&context, gateway, &accepted, old.map(|old| &**old), &compiled.clusters);
            compiled.gateways.insert(gateway.id.clone(), share(old, view));
            statuses.push(ObjectStatus { source: Arc::clone(&gateway.source), conditions });
        }
        for filter in objects.filters.values() {
            let conditions = chain::conditions(objects, filter);
            statuses.push(ObjectStatus { source: Arc::clone(&filter.source), conditions });
            compiled.modules.extend(filter.modules().map(|module| (module.sha256(), module.clone())));
        }
        for status in statuses {
            let key = status.key();
            let status = share(previous.statuses.get(&key), status);
            compiled.statuses.insert(key, status);
        }
        compiled
    }
}

fn share<T: Eq>(old: Option<&Arc<T>>, new: T) -> Arc<T> {
    match old {
        Some(old) if **old == new => Arc::clone(old),
        _ => Arc::new(new),
    }
}

impl<'a> Attachable<'a> {
    fn http(route: &'a Route) -> Self {
        Self { id: &route.id, parents: &route.parents, protocol: Protocol::Http, hostnames: &route.hostnames }
    }

    fn tcp(route: &'a TcpRoute) -> Self {
        Self { id: &route.id, parents: &route.parents, protocol: Protocol::Tcp, hostnames: &[] }
    }
}

fn resolve_route<'a>(
    objects: &Objects,
    route: &'a Arc<Route>,
    statuses: &mut Vec<ObjectStatus>,
) -> Resolved<'a, Route> {
    let mut problems = Vec::new();
    let resolve = |rule: &Arc<crate::route::Rule>| {
        clusters::resolve(objects, Kind::HttpRoute, &route.id, &rule.backends, &mut problems)
    };
    let backends = route.rules.iter().map(resolve).collect();
    let conditions = route_conditions(objects, Attachable::http(route), problems);
    statuses.push(ObjectStatus { source: Arc::clone(&route.source), conditions });
    Resolved { route, backends }
}

fn resolve_tcp<'a>(
    objects: &Objects,
    route: &'a Arc<TcpRoute>,
    statuses: &mut Vec<ObjectStatus>,
) -> Resolved<'a, TcpRoute> {
    let mut problems = Vec::new();
    let backends = clusters::resolve(objects, Kind::TcpRoute, &route.id, &route.backends, &mut problems);
    let conditions = route_conditions(objects, Attachable::tcp(route), problems);
    statuses.push(ObjectStatus { source: Arc::clone(&route.source), conditions });
    Resolved { route, backends: vec![backends] }
}

fn route_conditions(objects: &Objects, route: Attachable<'_>, mut problems: Vec<Condition>) -> Vec<Condition> {
    let mut conditions = route.conditions(objects);
    problems.dedup();
    if problems.is_empty() {
        problems.push(Condition::good(ConditionKind::ResolvedRefs));
    }
    conditions.extend(problems);
    conditions
}

/// The listeners that don't contradict an earlier one, and the gateway's conditions.
fn accept_listeners(gateway: &Gateway) -> (Vec<&GatewayListener>, Vec<Condition>) {
    let mut accepted: Vec<&GatewayListener> = Vec::new();
    let mut conflicts = Vec::new();
    for listener in &gateway.listeners {
        let conflict = accepted.iter().filter(|other| other.port == listener.port).find_map(|other| {
            if other.protocol != listener.protocol {
                Some(("ProtocolConflict", other))
            } else if other.hostname == listener.hostname {
                Some(("HostnameConflict", other))
            } else {
                None
            }
        });
        match conflict {
            None => accepted.push(listener),
            Some((reason, other)) => {
                let message = format!("port {} is already taken by listener `{}`", listener.port, other.name);
                let condition = Condition::new(ConditionKind::Accepted, reason, message);
                conflicts.push(condition.of_parent(&format!("listener {}", listener.name), Some(&gateway.id)));
            }
        }
    }
    let accepted_condition = match conflicts.len() {
        0 => Condition::good(ConditionKind::Accepted),
        bad => Condition::new(
            ConditionKind::Accepted,
            "ListenersNotValid",
            format!("{bad} of {} listeners are not served", gateway.listeners.len()),
        ),
    };
    let mut conditions = vec![accepted_condition];
    conditions.extend(conflicts);
    (accepted, conditions)
}

fn gateway_view(
    context: &Context<'_>,
    gateway: &Arc<Gateway>,
    accepted: &[&GatewayListener],
    old: Option<&GatewayView>,
    clusters: &Clusters,
) -> GatewayView {
    let mut ports: BTreeMap<u16, Vec<&GatewayListener>> = BTreeMap::new();
    for listener in accepted {
        ports.entry(listener.port).or_default().push(listener);
    }
    let mut view = GatewayView {
        gateway: Arc::clone(gateway),
        listeners: Vec::with_capacity(ports.len()),
        clusters: BTreeMap::new(),
        filters: BTreeMap::new(),
    };
    for (port, listeners) in ports {
        let listener = listener_view(context, gateway, port, &listeners);
        let mut refer = |backends: &[BackendView]| {
            for key in backends.iter().filter_map(|backend| backend.cluster.as_ref()) {
                if let Some(cluster) = clusters.get(key) {
                    view.clusters.insert(ClusterKey::clone(key), Arc::clone(cluster));
                }
            }
        };
        listener.hosts.iter().flat_map(|host| &host.routes).for_each(|entry| refer(&entry.backends));
        listener.tcp.iter().for_each(|(_, backends)| refer(backends));
        view.filters.extend(listener.filters.iter().map(|entry| (entry.filter.id.clone(), Arc::clone(&entry.filter))));
        let old = old.and_then(|old| old.listeners.iter().find(|old| old.port == port));
        view.listeners.push(share(old, listener));
    }
    view
}

fn listener_view(context: &Context<'_>, gateway: &Gateway, port: u16, listeners: &[&GatewayListener]) -> ListenerView {
    let protocol = listeners.first().map_or(Protocol::Http, |listener| listener.protocol);
    let hosts = match protocol {
        Protocol::Http => hosts(context, gateway, listeners),
        Protocol::Tcp => Vec::new(),
    };
    let entries: Vec<_> = hosts.iter().flat_map(|host| &host.routes).collect();
    let filters = match protocol {
        Protocol::Http => chain::of_port(&context.filters, gateway, listeners, &entries),
        Protocol::Tcp => Vec::new(),
    };
    let tcp = match protocol {
        Protocol::Http => None,
        Protocol::Tcp => tcp_route(context, gateway, listeners),
    };
    ListenerView {
        name: format!("{}/{port}", gateway.id),
        address: gateway.address,
        port,
        protocol,
        hosts,
        filters,
        tcp,
    }
}

fn hosts(context: &Context<'_>, gateway: &Gateway, listeners: &[&GatewayListener]) -> Vec<VirtualHost> {
    let mut domains: BTreeMap<Arc<str>, Vec<(Precedence<'_>, RouteEntry)>> = BTreeMap::new();
    for listener in listeners {
        // A listener's host belongs to it alone, also where none of its routes serves it.
        if let (Some(host), true) = (&listener.hostname, listeners.len() > 1) {
            domains.entry(Arc::clone(host)).or_default();
        }
        for resolved in &context.routes {
            let hosts = Attachable::http(resolved.route).hosts_on(context.objects, gateway, listener);
            for host in hosts.into_iter().filter(|host| owner(listeners, host) == Some(*listener)) {
                let entries = domains.entry(host).or_default();
                entries.extend(entries_of(context, gateway, listeners, listener, resolved));
            }
        }
    }
    let finish = |(domain, mut entries): (Arc<str>, Vec<(Precedence<'_>, RouteEntry)>)| {
        entries.sort_by(|a, b| a.0.cmp(&b.0));
        // A route that names a host twice serves it once.
        entries.dedup_by(|b, a| a.0 == b.0);
        VirtualHost { domain, routes: entries.into_iter().map(|(_, entry)| entry).collect() }
    };
    let mut hosts: Vec<_> = domains.into_iter().map(finish).collect();
    hosts.sort_by(|a, b| compare_domains(&a.domain, &b.domain));
    hosts
}

/// The most specific listener for a host: it alone serves it (Gateway API's listener isolation).
fn owner<'a>(listeners: &[&'a GatewayListener], host: &str) -> Option<&'a GatewayListener> {
    let domain = |listener: &GatewayListener| listener.hostname.clone().unwrap_or_else(|| Arc::from("*"));
    let covering = listeners.iter().copied().filter(|listener| covers(&domain(listener), host));
    covering.min_by(|a, b| compare_domains(&domain(a), &domain(b)))
}

fn entries_of<'a>(
    context: &Context<'_>,
    gateway: &Gateway,
    listeners: &[&GatewayListener],
    listener: &GatewayListener,
    resolved: &Resolved<'a, Route>,
) -> Vec<(Precedence<'a>, RouteEntry)> {
    let route: &'a Arc<Route> = resolved.route;
    let mut entries = Vec::new();
    for (i, (rule, backends)) in route.rules.iter().zip(&resolved.backends).enumerate() {
        let filters = chain::of_rule(&context.filters, gateway, listeners, listener, route, rule);
        for (j, matcher) in rule.matches.iter().enumerate() {
            let entry = RouteEntry {
                name: format!("{}/{i}/{j}", route.id),
                matcher: matcher.clone(),
                rule: Arc::clone(rule),
                route: Arc::clone(route),
                backends: backends.clone(),
                filters: filters.clone(),
            };
            entries.push((Precedence::new(matcher, route.created, &route.id, i, j), entry));
        }
    }
    entries
}

/// The oldest TCPRoute wins; a port has one.
fn tcp_route(
    context: &Context<'_>,
    gateway: &Gateway,
    listeners: &[&GatewayListener],
) -> Option<(Arc<TcpRoute>, Vec<BackendView>)> {
    let listener = listeners.first()?;
    let attached = context
        .tcp_routes
        .iter()
        .filter(|resolved| !Attachable::tcp(resolved.route).hosts_on(context.objects, gateway, listener).is_empty());
    let first = attached.min_by_key(|resolved| {
        let route = resolved.route;
        (route.created.is_none(), route.created.unwrap_or(0), &route.id)
    })?;
    let backends = first.backends.iter().flatten().cloned().collect();
    Some((Arc::clone(first.route), backends))
}
