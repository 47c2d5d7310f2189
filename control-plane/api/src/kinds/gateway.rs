//! `Gateway` (gateway.networking.k8s.io): listeners with HTTP and TCP.

use std::net::IpAddr;
use std::sync::Arc;

use outrigger_model::{AllowedNamespaces, Gateway, GatewayListener, LabelSelector, Protocol, Requirement};

use super::Head;
use super::head::labels;
use crate::decode::{Decoder, Fields};
use crate::node::Node;
use crate::scalar;

/// Gateways of other classes belong to other controllers.
const CLASS: &str = "outrigger";
/// Gateway API's bound.
const LISTENERS_MAX: usize = 64;

pub(super) fn decode<'a>(cx: &Decoder<'a>, fields: &mut Fields<'_, 'a>, head: &Head) -> Option<Gateway> {
    let mut spec = cx.object(fields.required("spec")?)?;
    let class = spec.required("gatewayClassName").and_then(|node| Some((node, cx.string(node)?)));
    if let Some((node, class)) = class
        && class != CLASS
    {
        cx.warning(node, format!("`{class}` is not our class (`{CLASS}`): the Gateway is ignored"));
        spec.ignore(&["listeners", "addresses", "infrastructure", "backendTLS", "tls", "allowedListeners"]);
        spec.ignore(&["defaultScope"]);
        return None;
    }
    spec.warn(&["infrastructure"], "has no effect: nothing is deployed for a Gateway");
    spec.warn(&["allowedListeners", "defaultScope"], "not supported yet: only this object's own listeners are served");
    spec.refuse(&["backendTLS", "tls"]);
    let address = spec.take("addresses").and_then(|node| address(cx, node));
    let listeners = spec.required("listeners").map(|node| listeners(cx, node)).unwrap_or_default();
    Some(Gateway { id: head.id(), address, listeners, source: Arc::clone(&head.source) })
}

/// The address that the proxy listens on.
fn address<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<IpAddr> {
    let items = cx.list(node, 16);
    if let Some(second) = items.get(1) {
        cx.error(second, "only one address is supported");
    }
    let item = items.first()?;
    let mut fields = cx.object(item)?;
    if let Some(kind) = fields.take("type") {
        cx.choice(kind, &[("IPAddress", ())]);
    }
    let value = fields.required("value")?;
    cx.parsed(value, |text| text.parse().map_err(|_| format!("`{text}` is not an IP address")))
}

fn listeners<'a>(cx: &Decoder<'a>, node: &'a Node) -> Vec<GatewayListener> {
    let items = cx.list(node, LISTENERS_MAX);
    if items.is_empty() {
        cx.error(node, "at least one listener is required");
    }
    let mut listeners: Vec<(&Node, GatewayListener)> = Vec::new();
    for item in items {
        let Some(listener) = listener(cx, item) else { continue };
        let conflict = listeners.iter().find_map(|(first, other)| Some((first, conflict(other, &listener)?)));
        if let Some((first, conflict)) = conflict {
            cx.error(item, format!("{conflict} (line {})", first.mark.line));
        } else {
            listeners.push((item, listener));
        }
    }
    listeners.into_iter().map(|(_, listener)| listener).collect()
}

fn conflict(first: &GatewayListener, second: &GatewayListener) -> Option<String> {
    let (name, port) = (&first.name, second.port);
    if first.name == second.name {
        Some(format!("a second listener named `{name}`"))
    } else if first.port != second.port {
        None
    } else if first.protocol != second.protocol {
        let protocol = first.protocol.as_str();
        Some(format!("contradicts listener `{name}`, which has {protocol} on port {port}"))
    } else if first.hostname == second.hostname {
        let host = second.hostname.as_deref().unwrap_or("every host");
        Some(format!("contradicts listener `{name}`, which has port {port} for {host}"))
    } else {
        None
    }
}

fn listener<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<GatewayListener> {
    let mut fields = cx.object(node)?;
    let name = fields.required("name").and_then(|node| cx.parsed(node, scalar::subdomain));
    let port = fields.required("port").and_then(|node| cx.integer::<u16>(node, 0..=65535));
    let protocol = fields.required("protocol").and_then(|node| {
        let text = cx.string(node)?;
        match text {
            "HTTP" => Some(Protocol::Http),
            "TCP" => Some(Protocol::Tcp),
            "HTTPS" | "TLS" | "UDP" => {
                cx.error(node, format!("{text} is not supported yet"));
                None
            }
            _ => {
                cx.error(node, format!("`{text}` is not one of HTTP, TCP"));
                None
            }
        }
    });
    fields.refuse(&["tls"]);
    let hostname_node = fields.take("hostname");
    let hostname = hostname_node.filter(|node| node.as_str() != Some(""));
    let hostname = hostname.map(|node| cx.parsed(node, scalar::hostname));
    if let (Some(Protocol::Tcp), Some(node)) = (protocol, hostname_node) {
        cx.error(node, "a TCP listener has no hostname");
    }
    let allowed = fields.take("allowedRoutes").map(|node| allowed_routes(cx, node, protocol)).unwrap_or_default();
    // A hostname that is there and wrong must not become "every host".
    let hostname = match hostname {
        None => None,
        Some(hostname) => Some(hostname?),
    };
    Some(GatewayListener { name: name?, port: port?, hostname, protocol: protocol?, allowed })
}

fn allowed_routes<'a>(cx: &Decoder<'a>, node: &'a Node, protocol: Option<Protocol>) -> AllowedNamespaces {
    let Some(mut fields) = cx.object(node) else { return AllowedNamespaces::default() };
    if let Some(kinds) = fields.take("kinds") {
        let mut allowed = false;
        for item in cx.list(kinds, 8) {
            let Some(mut kind) = cx.object(item) else { continue };
            kind.ignore(&["group"]);
            let name = kind.required("kind").and_then(|node| cx.string(node));
            allowed |= matches!(
                (name, protocol),
                (Some("HTTPRoute"), Some(Protocol::Http)) | (Some("TCPRoute"), Some(Protocol::Tcp))
            );
        }
        if !allowed && protocol.is_some() {
            cx.error(kinds, "names no kind that this listener's protocol can have (HTTP: HTTPRoute, TCP: TCPRoute)");
        }
    }
    let Some(mut namespaces) = fields.take("namespaces").and_then(|node| cx.object(node)) else {
        return AllowedNamespaces::default();
    };
    let selector = namespaces.take("selector");
    let from = namespaces.take("from");
    match from.map(|node| cx.choice(node, &[("Same", From::Same), ("All", From::All), ("Selector", From::Selector)])) {
        Some(Some(From::All)) => AllowedNamespaces::All,
        Some(Some(From::Selector)) => match selector {
            Some(node) => AllowedNamespaces::Selector(label_selector(cx, node)),
            None => {
                cx.missing(namespaces.node(), "selector", "required with `from: Selector`");
                AllowedNamespaces::default()
            }
        },
        _ => AllowedNamespaces::Same,
    }
}

#[derive(Clone, Copy, Debug)]
enum From {
    Same,
    All,
    Selector,
}

fn label_selector<'a>(cx: &Decoder<'a>, node: &'a Node) -> LabelSelector {
    let Some(mut fields) = cx.object(node) else { return LabelSelector::default() };
    let equal = fields.take("matchLabels").map(|node| labels(cx, node)).unwrap_or_default();
    let mut requirements: Vec<_> =
        equal.into_iter().map(|(key, value)| Requirement::In { key, values: vec![value] }).collect();
    for item in fields.list("matchExpressions", 64) {
        let Some(mut expression) = cx.object(item) else { continue };
        let key = expression.required("key").and_then(|node| cx.text(node, 317)).map(Arc::from);
        let values: Vec<Arc<str>> =
            expression.list("values", 64).iter().filter_map(|node| cx.string(node)).map(Arc::from).collect();
        let choices = [("In", 0), ("NotIn", 1), ("Exists", 2), ("DoesNotExist", 3)];
        let operator_node = expression.required("operator");
        let operator = operator_node.and_then(|node| cx.choice(node, &choices));
        if let (Some(operator), Some(node)) = (operator, operator_node)
            && values.is_empty() == (operator < 2)
        {
            cx.error(node, "In and NotIn need values, Exists and DoesNotExist take none");
        }
        let Some(key) = key else { continue };
        requirements.extend(match operator {
            Some(0) => Some(Requirement::In { key, values }),
            Some(1) => Some(Requirement::NotIn { key, values }),
            Some(2) => Some(Requirement::Exists { key }),
            Some(_) => Some(Requirement::DoesNotExist { key }),
            None => None,
        });
    }
    LabelSelector { requirements }
}
