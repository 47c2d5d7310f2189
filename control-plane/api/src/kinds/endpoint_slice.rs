//! `EndpointSlice` (discovery.k8s.io/v1). Loopback addresses, which a cluster refuses, are fine in files.

use std::net::IpAddr;
use std::sync::Arc;

use outrigger_model::{EndpointSlice, ObjectId, SliceEndpoint, SlicePort};

use super::{Head, service};
use crate::decode::{Decoder, Fields, Wanted};
use crate::node::Node;
use crate::scalar;

const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Kubernetes' own bounds.
const ENDPOINTS_MAX: usize = 1000;
const PORTS_MAX: usize = 100;

pub(super) fn decode<'a>(cx: &Decoder<'a>, fields: &mut Fields<'_, 'a>, head: &Head) -> Option<EndpointSlice> {
    let family = fields.required("addressType").and_then(|node| {
        let choices = [("IPv4", Some(Family::V4)), ("IPv6", Some(Family::V6)), ("FQDN", None)];
        let choice = cx.choice(node, &choices)?;
        if choice.is_none() {
            cx.error(node, "FQDN is not supported");
        }
        choice
    });
    let ports = fields.list("ports", PORTS_MAX).iter().filter_map(|item| port(cx, item)).collect();
    let list = fields.take("endpoints");
    let items = list.map_or(&[] as &[Node], |node| cx.list(node, ENDPOINTS_MAX));
    let endpoints = items.iter().filter_map(|item| endpoint(cx, item, family)).collect();
    let label = cx.root().get("metadata").and_then(|node| node.get("labels")).and_then(|node| node.get(SERVICE_LABEL));
    let Some(name) = head.labels.get(SERVICE_LABEL) else {
        cx.warning(cx.root(), format!("without the label {SERVICE_LABEL} the endpoints belong to no Service"));
        return None;
    };
    let service = ObjectId::new(Arc::clone(head.namespace()), Arc::clone(name));
    cx.refer(label.unwrap_or(cx.root()), Wanted::Service(service.clone(), None));
    Some(EndpointSlice { id: head.id(), service, ports, endpoints, source: Arc::clone(&head.source) })
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    V4,
    V6,
}

fn port<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<SlicePort> {
    let mut fields = cx.object(node)?;
    let name = match fields.take("name") {
        Some(node) if node.as_str() == Some("") => Some(Arc::from("")),
        Some(node) => cx.parsed(node, scalar::label),
        None => Some(Arc::from("")),
    };
    // The Service's own decides; here it must only be one that is known.
    if let Some(node) = fields.take("appProtocol") {
        service::app_protocol(cx, node);
    }
    let port = fields.required("port").and_then(|node| cx.integer::<u16>(node, 1..=65535));
    let is_tcp = fields
        .take("protocol")
        .is_none_or(|node| cx.choice(node, &[("TCP", true), ("UDP", false), ("SCTP", false)]) == Some(true));
    is_tcp.then_some(SlicePort { name: name?, port: port? })
}

fn endpoint<'a>(cx: &Decoder<'a>, node: &'a Node, family: Option<Family>) -> Option<SliceEndpoint> {
    let mut fields = cx.object(node)?;
    fields.ignore(&["deprecatedTopology", "hints", "hostname", "nodeName", "targetRef"]);
    let zone = fields.take("zone").and_then(|node| cx.text(node, 253)).map(Arc::from);
    let addresses = fields.required("addresses").map_or(&[] as &[Node], |node| cx.list(node, 100));
    let addresses = addresses.iter().filter_map(|node| address(cx, node, family)).collect();
    let (mut ready, mut serving, mut terminating) = (None, None, None);
    if let Some(mut conditions) = fields.take("conditions").and_then(|node| cx.object(node)) {
        ready = conditions.take("ready").and_then(|node| cx.boolean(node));
        serving = conditions.take("serving").and_then(|node| cx.boolean(node));
        terminating = conditions.take("terminating").and_then(|node| cx.boolean(node));
    }
    // As Kubernetes reads absence: ready, serving as it is ready, not terminating.
    let ready = ready.unwrap_or(true);
    Some(SliceEndpoint {
        addresses,
        ready,
        serving: serving.unwrap_or(ready),
        terminating: terminating.unwrap_or(false),
        zone,
    })
}

fn address<'a>(cx: &Decoder<'a>, node: &'a Node, family: Option<Family>) -> Option<IpAddr> {
    cx.parsed(node, |text| {
        let address: IpAddr = text.parse().map_err(|_| format!("`{text}` is not an IP address"))?;
        match (family, address) {
            (Some(Family::V4), IpAddr::V6(_)) => Err(format!("{address} is not IPv4, which addressType says")),
            (Some(Family::V6), IpAddr::V4(_)) => Err(format!("{address} is not IPv6, which addressType says")),
            _ if address.is_unspecified() || address.is_multicast() => Err(format!("{address} is no endpoint's")),
            _ => Ok(address),
        }
    })
}
