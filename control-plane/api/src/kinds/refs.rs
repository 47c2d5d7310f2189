//! References of routes: `parentRefs` and `backendRefs`.

use std::sync::Arc;

use outrigger_model::{Backend, ObjectId, ParentRef, ParentTarget};

use super::{Head, http_filters};
use crate::decode::{Decoder, Fields, Wanted};
use crate::node::Node;
use crate::scalar;

pub(super) const GATEWAY_GROUP: &str = "gateway.networking.k8s.io";
/// Gateway API's bounds.
const PARENTS_MAX: usize = 32;
const BACKENDS_MAX: usize = 16;
const WEIGHT_MAX: i64 = 1_000_000;

pub(super) fn parents<'a>(cx: &Decoder<'a>, spec: &mut Fields<'_, 'a>, head: &Head) -> Vec<ParentRef> {
    let Some(node) = spec.take("parentRefs") else {
        cx.warning(spec.node(), "no parentRefs: the route is attached to nothing");
        return Vec::new();
    };
    let mut parents: Vec<ParentRef> = Vec::new();
    for item in cx.list(node, PARENTS_MAX) {
        let Some(parent) = parent(cx, item, head) else { continue };
        if parents.contains(&parent) {
            cx.error(item, "the same parent twice");
        } else {
            parents.push(parent);
        }
    }
    parents
}

fn parent<'a>(cx: &Decoder<'a>, node: &'a Node, head: &Head) -> Option<ParentRef> {
    let mut fields = cx.object(node)?;
    let group = fields.take("group").map_or(Some(GATEWAY_GROUP), |node| cx.string(node));
    let kind_node = fields.take("kind");
    let kind = kind_node.map_or(Some("Gateway"), |node| cx.string(node));
    let namespace = namespace(cx, &mut fields, head);
    let name = fields.required("name").and_then(|node| cx.parsed(node, scalar::subdomain));
    let section = fields.take("sectionName").map(|node| cx.parsed(node, scalar::subdomain));
    let port = fields.take("port").map(|node| cx.integer::<u16>(node, 0..=65535));
    match (group?, kind?) {
        (GATEWAY_GROUP, "Gateway") => {}
        (_, "Service") => {
            cx.error(kind_node.unwrap_or(node), "a Service as parent (mesh routing) is not supported yet");
            return None;
        }
        (group, kind) => {
            cx.error(kind_node.unwrap_or(node), format!("`{kind}` of group `{group}` is no parent: only Gateway is"));
            return None;
        }
    }
    let id = ObjectId::new(namespace?, name?);
    let section = flatten(section)?;
    let port = flatten(port)?;
    cx.refer(node, Wanted::Gateway(id.clone(), section.clone()));
    Some(ParentRef { target: ParentTarget::Gateway(id), section, port })
}

/// The object's own where the reference names none; None if it names one that is none.
fn namespace<'a>(cx: &Decoder<'a>, fields: &mut Fields<'_, 'a>, head: &Head) -> Option<Arc<str>> {
    match fields.take("namespace") {
        None => Some(Arc::clone(head.namespace())),
        Some(node) => cx.parsed(node, scalar::label),
    }
}

/// Absent is fine, wrong (already reported) is not.
pub(super) fn flatten<T>(value: Option<Option<T>>) -> Option<Option<T>> {
    match value {
        None => Some(None),
        Some(value) => value.map(Some),
    }
}

pub(super) fn backends<'a>(cx: &Decoder<'a>, rule: &mut Fields<'_, 'a>, head: &Head, filters: bool) -> Vec<Backend> {
    let items = rule.list("backendRefs", BACKENDS_MAX);
    items.iter().filter_map(|item| backend(cx, item, head, filters)).collect()
}

fn backend<'a>(cx: &Decoder<'a>, node: &'a Node, head: &Head, filters: bool) -> Option<Backend> {
    let mut fields = cx.object(node)?;
    let group = fields.take("group").map_or(Some(""), |node| cx.string(node));
    let kind_node = fields.take("kind");
    let kind = kind_node.map_or(Some("Service"), |node| cx.string(node));
    let namespace = namespace(cx, &mut fields, head);
    let name = fields.required("name").and_then(|node| cx.parsed(node, scalar::subdomain));
    let port = fields.required("port").and_then(|node| cx.integer::<u16>(node, 1..=65535));
    let weight = fields.take("weight").map_or(Some(1), |node| cx.integer::<u32>(node, 0..=WEIGHT_MAX));
    let actions = match fields.take("filters") {
        Some(node) if !filters => {
            cx.error(node, "this route's backends have no filters");
            return None;
        }
        Some(node) => http_filters::of_backend(cx, node),
        None => Default::default(),
    };
    if (group?, kind?) != ("", "Service") {
        cx.error(kind_node.unwrap_or(node), "only a Service can be a backend");
        return None;
    }
    let service = ObjectId::new(namespace?, name?);
    let port = port?;
    cx.refer(node, Wanted::Service(service.clone(), Some(port)));
    Some(Backend {
        service,
        port,
        weight: weight?,
        request_headers: actions.request_headers,
        response_headers: actions.response_headers,
    })
}
