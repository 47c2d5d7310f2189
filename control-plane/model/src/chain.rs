//! Which filters run on a listener: those that target its gateway or a route on it, in the order of
//! [`crate::order::compare_filters`].

use std::sync::Arc;

use crate::filter::{FilterTarget, TargetKind, WasmFilter};
use crate::gateway::{Gateway, GatewayListener};
use crate::ids::ObjectId;
use crate::objects::Objects;
use crate::order::compare_filters;
use crate::route::{Route, Rule};
use crate::status::{Condition, ConditionKind};
use crate::view::{FilterEntry, FilterScope, RouteEntry};

/// Every filter of the mesh, in chain order.
pub(crate) fn in_order(objects: &Objects) -> Vec<Arc<WasmFilter>> {
    let mut filters: Vec<_> = objects.filters.values().cloned().collect();
    filters.sort_by(|a, b| compare_filters(a, b));
    filters
}

/// The filters of a port. `listeners` are those that share it.
pub(crate) fn of_port(
    filters: &[Arc<WasmFilter>],
    gateway: &Gateway,
    listeners: &[&GatewayListener],
    entries: &[&RouteEntry],
) -> Vec<FilterEntry> {
    let scope = |filter: &WasmFilter| {
        if listeners.iter().all(|listener| targets_listener(filter, gateway, listener)) {
            return Some(FilterScope::Listener);
        }
        let on_route = entries.iter().any(|entry| entry.filters.contains(&filter.id));
        on_route.then_some(FilterScope::Routes)
    };
    let entry = |filter: &Arc<WasmFilter>| Some(FilterEntry { filter: Arc::clone(filter), scope: scope(filter)? });
    filters.iter().filter_map(entry).collect()
}

/// Which filters run for one rule on one listener because of that rule, that route or that one of several listeners.
/// Sorted by id: the place in the chain is the listener's business.
pub(crate) fn of_rule(
    filters: &[Arc<WasmFilter>],
    gateway: &Gateway,
    listeners: &[&GatewayListener],
    listener: &GatewayListener,
    route: &Route,
    rule: &Rule,
) -> Vec<ObjectId> {
    let runs = |filter: &&Arc<WasmFilter>| {
        let everywhere = listeners.iter().all(|listener| targets_listener(filter, gateway, listener));
        !everywhere && (targets_listener(filter, gateway, listener) || targets_rule(filter, route, rule))
    };
    let mut ids: Vec<_> = filters.iter().filter(runs).map(|filter| filter.id.clone()).collect();
    ids.sort();
    ids
}

fn targets_listener(filter: &WasmFilter, gateway: &Gateway, listener: &GatewayListener) -> bool {
    filter.targets.iter().any(|target| {
        target.kind == TargetKind::Gateway
            && target.id == gateway.id
            && target.section.as_ref().is_none_or(|section| *section == listener.name)
    })
}

fn targets_rule(filter: &WasmFilter, route: &Route, rule: &Rule) -> bool {
    filter.targets.iter().any(|target| {
        target.kind == TargetKind::HttpRoute
            && target.id == route.id
            && target.section.as_ref().is_none_or(|section| Some(section) == rule.name.as_ref())
    })
}

/// One condition for each target.
pub(crate) fn conditions(objects: &Objects, filter: &WasmFilter) -> Vec<Condition> {
    filter.targets.iter().map(|target| condition(objects, target)).collect()
}

fn condition(objects: &Objects, target: &FilterTarget) -> Condition {
    let FilterTarget { kind, id, section } = target;
    let has_section = |found: bool| found || section.is_none();
    let problem = match kind {
        TargetKind::Gateway => match objects.gateways.get(id) {
            None => Some(("TargetNotFound", format!("Gateway {id} is not there"))),
            Some(gateway) => {
                let found = gateway.listeners.iter().any(|listener| Some(&listener.name) == section.as_ref());
                (!has_section(found)).then(|| ("TargetNotFound", format!("Gateway {id} has no such listener")))
            }
        },
        TargetKind::HttpRoute => match objects.routes.get(id) {
            None => Some(("TargetNotFound", format!("HTTPRoute {id} is not there"))),
            Some(route) => {
                let found = route.rules.iter().any(|rule| rule.name == *section);
                (!has_section(found)).then(|| ("TargetNotFound", format!("HTTPRoute {id} has no such rule")))
            }
        },
        TargetKind::Service => {
            let message = "a Service's filters run in its sidecars, which are not served yet: without effect";
            Some(("UnsupportedTarget", message.to_owned()))
        }
    };
    let condition = match problem {
        None => Condition::good(ConditionKind::Accepted),
        Some((reason, message)) => Condition::new(ConditionKind::Accepted, reason, message),
    };
    let section = section.as_ref().map(|section| format!("#{section}")).unwrap_or_default();
    let gateway = (*kind == TargetKind::Gateway).then_some(id);
    condition.of_parent(&format!("{} {id}{section}", kind.as_str()), gateway)
}
