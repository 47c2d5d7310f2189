//! Which listeners a route is attached to, and for which hosts: Gateway API's rules for `parentRefs`, `allowedRoutes`
//! and hostnames, each refusal with Gateway API's reason.

use std::sync::Arc;

use crate::gateway::{AllowedNamespaces, Gateway, GatewayListener, Protocol};
use crate::ids::ObjectId;
use crate::objects::Objects;
use crate::route::{ParentRef, ParentTarget};
use crate::status::{Condition, ConditionKind};

/// What is the same for HTTP and TCP routes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attachable<'a> {
    pub(crate) id: &'a ObjectId,
    pub(crate) parents: &'a [ParentRef],
    pub(crate) protocol: Protocol,
    pub(crate) hostnames: &'a [Arc<str>],
}

impl Attachable<'_> {
    /// The hosts under which the route serves on a listener of `gateway`; empty: it isn't attached to it.
    pub(crate) fn hosts_on(&self, objects: &Objects, gateway: &Gateway, listener: &GatewayListener) -> Vec<Arc<str>> {
        let named = self.parents.iter().any(|parent| {
            let ParentTarget::Gateway(id) = &parent.target;
            *id == gateway.id && names(parent, listener)
        });
        if named && self.refusal(objects, gateway, listener).is_none() {
            intersect_all(listener.hostname.as_ref(), self.hostnames)
        } else {
            Vec::new()
        }
    }

    fn refusal(&self, objects: &Objects, gateway: &Gateway, listener: &GatewayListener) -> Option<(Reason, String)> {
        let name = &listener.name;
        if listener.protocol != self.protocol {
            let protocol = listener.protocol.as_str();
            return Some((Reason::NotAllowed, format!("listener `{name}` speaks {protocol}")));
        }
        let namespace = &self.id.namespace;
        let allowed = match &listener.allowed {
            AllowedNamespaces::All => true,
            AllowedNamespaces::Same => *namespace == gateway.id.namespace,
            AllowedNamespaces::Selector(selector) => match objects.namespaces.get(namespace) {
                Some(object) => selector.matches(&object.labels),
                None => false,
            },
        };
        if !allowed {
            return Some((Reason::NotAllowed, format!("listener `{name}` takes no routes of namespace {namespace}")));
        }
        if intersect_all(listener.hostname.as_ref(), self.hostnames).is_empty() {
            let host = listener.hostname.as_deref().unwrap_or("*");
            return Some((Reason::Hostname, format!("listener `{name}` serves {host}")));
        }
        None
    }

    /// One condition for each parent.
    pub(crate) fn conditions(&self, objects: &Objects) -> Vec<Condition> {
        self.parents.iter().map(|parent| self.condition(objects, parent)).collect()
    }

    fn condition(&self, objects: &Objects, parent: &ParentRef) -> Condition {
        let ParentTarget::Gateway(id) = &parent.target;
        let condition = match objects.gateways.get(id) {
            None => Condition::new(ConditionKind::Accepted, "NoMatchingParent", format!("Gateway {id} is not there")),
            Some(gateway) => self.accept(objects, gateway, parent),
        };
        condition.of_parent(&parent.to_string(), Some(id))
    }

    fn accept(&self, objects: &Objects, gateway: &Gateway, parent: &ParentRef) -> Condition {
        let mut worst = None;
        for listener in gateway.listeners.iter().filter(|listener| names(parent, listener)) {
            match self.refusal(objects, gateway, listener) {
                None => return Condition::good(ConditionKind::Accepted),
                // The one that got furthest says most.
                Some(refusal) => worst = worst.max(Some(refusal)),
            }
        }
        match worst {
            Some((reason, message)) => Condition::new(ConditionKind::Accepted, reason.as_str(), message),
            None => Condition::new(
                ConditionKind::Accepted,
                "NoMatchingParent",
                format!("Gateway {} has no listener that the reference names", gateway.id),
            ),
        }
    }
}

/// In the order in which they are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Reason {
    NotAllowed,
    Hostname,
}

impl Reason {
    fn as_str(self) -> &'static str {
        match self {
            Self::NotAllowed => "NotAllowedByListeners",
            Self::Hostname => "NoMatchingListenerHostname",
        }
    }
}

impl std::fmt::Display for ParentRef {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let ParentTarget::Gateway(id) = &self.target;
        write!(f, "Gateway {id}")?;
        self.section.iter().try_for_each(|section| write!(f, "#{section}"))?;
        self.port.iter().try_for_each(|port| write!(f, ":{port}"))
    }
}

fn names(parent: &ParentRef, listener: &GatewayListener) -> bool {
    parent.section.as_ref().is_none_or(|section| *section == listener.name)
        && parent.port.is_none_or(|port| port == listener.port)
}

fn intersect_all(listener: Option<&Arc<str>>, route: &[Arc<str>]) -> Vec<Arc<str>> {
    let any: Arc<str> = Arc::from("*");
    match (listener, route) {
        (None, []) => vec![any],
        (Some(host), []) => vec![Arc::clone(host)],
        (None, hosts) => hosts.to_vec(),
        (Some(host), hosts) => hosts.iter().filter_map(|other| intersect(host, other)).collect(),
    }
}

/// The hosts that both name: the narrower of the two, if one contains the other.
fn intersect(a: &Arc<str>, b: &Arc<str>) -> Option<Arc<str>> {
    if covers(a, b) {
        Some(Arc::clone(b))
    } else if covers(b, a) {
        Some(Arc::clone(a))
    } else {
        None
    }
}

/// Whether every host of `narrow` is one of `wide`. A wildcard stands for one label or more.
pub(crate) fn covers(wide: &str, narrow: &str) -> bool {
    match wide.strip_prefix('*') {
        None => wide == narrow,
        Some("") => true,
        Some(suffix) => {
            narrow == wide || narrow.strip_suffix(suffix).is_some_and(|label| !label.is_empty() && label != "*")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hostnames_intersect_as_in_gateway_api() {
        let check = |listener: Option<&str>, route: &[&str], expected: &[&str]| {
            let listener = listener.map(Arc::from);
            let route: Vec<Arc<str>> = route.iter().map(|host| Arc::from(*host)).collect();
            let hosts = intersect_all(listener.as_ref(), &route);
            assert_eq!(hosts.iter().map(|host| &**host).collect::<Vec<_>>(), expected, "{listener:?} {route:?}");
        };
        check(None, &[], &["*"]);
        check(None, &["a.x", "*.x"], &["a.x", "*.x"]);
        check(Some("a.x"), &[], &["a.x"]);
        check(Some("a.x"), &["a.x", "b.x"], &["a.x"]);
        check(Some("a.x"), &["*.x"], &["a.x"]);
        check(Some("*.x"), &["a.x", "b.a.x", "x", "ax", "a.y"], &["a.x", "b.a.x"]);
        check(Some("*.x"), &["*.x", "*.a.x", "*.y"], &["*.x", "*.a.x"]);
        check(Some("*.a.x"), &["*.x"], &["*.a.x"]);
        check(Some("a.x"), &["*.a.x"], &[]);
    }
}
