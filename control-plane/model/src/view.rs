//! Views: exactly what one client needs, resolved and in order, so that a translator only has to spell it in its own
//! types. Parts that did not change are the same `Arc` from one generation to the next.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use crate::filter::WasmFilter;
use crate::gateway::{Gateway, Protocol};
use crate::ids::ObjectId;
use crate::route::{Backend, Match, Route, Rule, TcpRoute};
use crate::service::{AppProtocol, Endpoint, Service};

/// Everything that one gateway proxy serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GatewayView {
    pub gateway: Arc<Gateway>,
    /// One for each port, by port.
    pub listeners: Vec<Arc<ListenerView>>,
    /// The clusters that the listeners refer to.
    pub clusters: BTreeMap<ClusterKey, Arc<ClusterView>>,
    /// The filters that the listeners refer to.
    pub filters: BTreeMap<ObjectId, Arc<WasmFilter>>,
}

/// One port of a gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerView {
    /// `NAMESPACE/GATEWAY/PORT`: the listener's name, and what that of its route configuration begins with.
    pub name: String,
    pub address: Option<IpAddr>,
    pub port: u16,
    pub protocol: Protocol,
    /// HTTP: by host, exact before wildcard, long before short, `*` last. A request is served by the first that matches
    /// and by no other (as Envoy's virtual hosts). A host can be without routes: it answers 404, because it belongs to
    /// a listener that has none for it, and a wider listener on the same port must not serve it.
    pub hosts: Vec<VirtualHost>,
    /// HTTP: the chain, in the order in which requests run through it.
    pub filters: Vec<FilterEntry>,
    /// TCP: the route, if there is one; without one, connections are closed.
    pub tcp: Option<(Arc<TcpRoute>, Vec<BackendView>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct VirtualHost {
    /// `a.example`, `*.example` or `*`; unique in its listener.
    pub domain: Arc<str>,
    /// In order of precedence: the first that matches serves.
    pub routes: Vec<RouteEntry>,
}

/// One match of one rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RouteEntry {
    /// `NAMESPACE/ROUTE/RULE/MATCH` with indices from 0: unique in its virtual host.
    pub name: String,
    pub matcher: Match,
    pub rule: Arc<Rule>,
    pub route: Arc<Route>,
    /// The rule's backends, resolved. None with a weight above 0 (and no redirect): the answer is 500 (Gateway API).
    pub backends: Vec<BackendView>,
    /// Which filters of scope [`FilterScope::Routes`] run here.
    pub filters: Vec<ObjectId>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendView {
    /// None where the reference cannot be followed: this share of the requests gets 500 (Gateway API).
    pub cluster: Option<ClusterKey>,
    pub backend: Backend,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterEntry {
    pub filter: Arc<WasmFilter>,
    pub scope: FilterScope,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FilterScope {
    /// Every request of the listener.
    Listener,
    /// Off, but for the routes that name it in [`RouteEntry::filters`].
    Routes,
}

/// A service's port, the unit that routes send requests to; written `NAMESPACE/SERVICE:PORT`, which is also the name of
/// the cluster.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterKey {
    pub service: ObjectId,
    pub port: u16,
}

impl fmt::Display for ClusterKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.service, self.port)
    }
}

/// A text that names no service's port.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not of the form NAMESPACE/SERVICE:PORT or SERVICE.NAMESPACE.svc:PORT")]
pub struct ClusterKeyError(pub String);

impl FromStr for ClusterKey {
    type Err = ClusterKeyError;

    /// Takes `NAMESPACE/SERVICE:PORT` and `SERVICE.NAMESPACE.svc:PORT` (also with `.cluster.local`), the names under
    /// which gRPC's `xds:///` clients ask.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ClusterKeyError(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(error)?;
        let port = port.parse().ok().filter(|port| *port != 0).ok_or_else(error)?;
        if let Ok(service) = host.parse() {
            return Ok(Self { service, port });
        }
        let host = host.strip_suffix('.').unwrap_or(host);
        let host = host.strip_suffix(".cluster.local").unwrap_or(host);
        let parts = host.strip_suffix(".svc").and_then(|host| host.split_once('.'));
        match parts {
            Some((name, namespace)) if !name.is_empty() && !namespace.is_empty() && !namespace.contains('.') => {
                Ok(Self { service: ObjectId::new(namespace, name), port })
            }
            _ => Err(error()),
        }
    }
}

/// A cluster with its endpoints.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterView {
    pub key: ClusterKey,
    pub protocol: AppProtocol,
    pub service: Arc<Service>,
    /// Those that get traffic, sorted, each once: the ready ones; where none is ready, those that still serve while
    /// they terminate (as kube-proxy does).
    pub endpoints: Arc<[Endpoint]>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_names() {
        for (text, expected) in [
            ("shop/api:80", Some("shop/api:80")),
            ("api.shop.svc:80", Some("shop/api:80")),
            ("api.shop.svc.cluster.local:80", Some("shop/api:80")),
            ("api.shop.svc.cluster.local.:80", Some("shop/api:80")),
            ("shop/api", None),
            ("shop/api:0", None),
            ("shop/api:65536", None),
            ("shop/api:x", None),
            ("/api:80", None),
            ("a/b/c:80", None),
            ("api.shop:80", None),
            ("api.shop.x.svc:80", None),
            (".shop.svc:80", None),
            (":80", None),
        ] {
            let key = text.parse::<ClusterKey>().ok().map(|key| key.to_string());
            assert_eq!(key.as_deref(), expected, "{text}");
        }
    }
}
