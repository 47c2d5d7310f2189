//! `Service` (v1): ports and what is spoken on them. Endpoints come from EndpointSlices.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_model::{AppProtocol, Service, ServicePort};

use super::Head;
use crate::decode::{Decoder, Fields};
use crate::node::{Node, Value};
use crate::scalar;

const PORTS_MAX: usize = 100;

pub(super) fn decode<'a>(cx: &Decoder<'a>, fields: &mut Fields<'_, 'a>, head: &Head) -> Option<Service> {
    let mut spec = cx.object(fields.required("spec")?)?;
    spec.ignore(&[
        "allocateLoadBalancerNodePorts",
        "clusterIP",
        "clusterIPs",
        "externalIPs",
        "externalTrafficPolicy",
        "healthCheckNodePort",
        "ipFamilies",
        "ipFamilyPolicy",
        "loadBalancerClass",
        "loadBalancerIP",
        "loadBalancerSourceRanges",
        "publishNotReadyAddresses",
        "selector",
        "sessionAffinityConfig",
    ]);
    spec.refuse(&["externalName"]);
    spec.warn(&["trafficDistribution"], "not supported yet: endpoints of every zone get traffic");
    if let Some(node) = spec.take("type")
        && cx.choice(node, &[("ClusterIP", true), ("NodePort", true), ("LoadBalancer", true), ("ExternalName", false)])
            == Some(false)
    {
        cx.error(node, "ExternalName is not supported yet");
    }
    if let Some(node) = spec.take("sessionAffinity")
        && cx.choice(node, &[("None", false), ("ClientIP", true)]) == Some(true)
    {
        cx.warning(node, "not supported yet: requests of one client go to every endpoint");
    }
    if let Some(node) = spec.take("internalTrafficPolicy")
        && cx.choice(node, &[("Cluster", false), ("Local", true)]) == Some(true)
    {
        cx.warning(node, "not supported yet: endpoints of every node get traffic");
    }
    let ports = spec.take("ports").map(|node| ports(cx, node)).unwrap_or_default();
    Some(Service { id: head.id(), ports, source: Arc::clone(&head.source) })
}

fn ports<'a>(cx: &Decoder<'a>, node: &'a Node) -> Vec<ServicePort> {
    let items = cx.list(node, PORTS_MAX);
    let mut ports: Vec<ServicePort> = Vec::new();
    let mut names: BTreeMap<Arc<str>, u32> = BTreeMap::new();
    for item in items {
        let Some(mut fields) = cx.object(item) else { continue };
        fields.ignore(&["nodePort"]);
        let name = match fields.take("name") {
            Some(node) => cx.parsed(node, scalar::label),
            None if items.len() > 1 => {
                cx.missing(item, "name", "required where a Service has several ports");
                None
            }
            None => Some(Arc::from("")),
        };
        let number_node = fields.required("port");
        let port = number_node.and_then(|node| cx.integer::<u16>(node, 1..=65535));
        if let Some(node) = fields.take("targetPort") {
            target_port(cx, node);
        }
        let app_protocol = fields.take("appProtocol");
        let protocol = app_protocol
            .and_then(|node| self::app_protocol(cx, node))
            .or_else(|| name.as_deref().and_then(protocol_of_name))
            .unwrap_or_default();
        let is_tcp = fields.take("protocol").is_none_or(|node| {
            let is_tcp = cx.choice(node, &[("TCP", true), ("UDP", false), ("SCTP", false)]) != Some(false);
            if !is_tcp {
                cx.warning(node, "only TCP is served: the port is ignored");
            }
            is_tcp
        });
        let (Some(name), Some(port), true) = (name, port, is_tcp) else { continue };
        if let Some(first) = names.insert(Arc::clone(&name), item.mark.line) {
            cx.error(item, format!("a second port named `{name}`, the first is on line {first}"));
        } else if ports.iter().any(|other| other.port == port) {
            cx.error(number_node.unwrap_or(item), format!("a second port {port}"));
        } else {
            ports.push(ServicePort { name, port, protocol });
        }
    }
    ports
}

/// EndpointSlices have the resolved number; here it only has to be a port.
fn target_port<'a>(cx: &Decoder<'a>, node: &'a Node) {
    match node.value {
        Value::String(_) => {
            cx.parsed(node, scalar::label);
        }
        _ => {
            cx.integer::<u16>(node, 1..=65535);
        }
    }
}

/// None (with a warning) for one that is not known: HTTP/1.1 then.
pub(super) fn app_protocol<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<AppProtocol> {
    let text = cx.string(node)?;
    match text {
        "http" | "HTTP" | "http1" | "ws" | "kubernetes.io/ws" => Some(AppProtocol::Http1),
        "h2c" | "http2" | "grpc" | "kubernetes.io/h2c" => Some(AppProtocol::H2c),
        "tcp" | "TCP" => Some(AppProtocol::Tcp),
        "https" | "HTTPS" | "tls" | "kubernetes.io/wss" => {
            cx.error(node, format!("`{text}`: TLS to a Service is not supported yet"));
            None
        }
        _ => {
            cx.warning(node, format!("`{text}` is not known (http, h2c, grpc, ws, tcp): taken as http"));
            None
        }
    }
}

/// Istio's convention, which many manifests follow: `grpc`, `grpc-api`, …
fn protocol_of_name(name: &str) -> Option<AppProtocol> {
    let prefix = name.split_once('-').map_or(name, |(prefix, _)| prefix);
    match prefix {
        "http" => Some(AppProtocol::Http1),
        "http2" | "h2c" | "grpc" => Some(AppProtocol::H2c),
        "tcp" => Some(AppProtocol::Tcp),
        _ => None,
    }
}
