//! `Namespace` and `ReferenceGrant`: who may refer to whom.

use std::sync::Arc;

use outrigger_model::{Grantee, Kind, Namespace, Object, ReferenceGrant};

use super::Head;
use crate::decode::{Decoder, Fields};
use crate::scalar;

pub(super) fn namespace(head: &Head) -> Object {
    let mut labels = head.labels.clone();
    // Every namespace of a cluster has this label, so selectors count on it.
    labels.insert(Arc::from("kubernetes.io/metadata.name"), Arc::clone(&head.key.id.name));
    let name = Arc::clone(&head.key.id.name);
    Object::Namespace(Arc::new(Namespace { name, labels, source: Arc::clone(&head.source) }))
}

pub(super) fn decode<'a>(cx: &Decoder<'a>, fields: &mut Fields<'_, 'a>, head: &Head) -> Option<ReferenceGrant> {
    let mut spec = cx.object(fields.required("spec")?)?;
    let mut from = Vec::new();
    if let Some(node) = spec.required("from") {
        for item in cx.list(node, 16) {
            let Some(mut entry) = cx.object(item) else { continue };
            entry.ignore(&["group"]);
            let kind = entry.required("kind").and_then(|node| cx.string(node));
            let namespace = entry.required("namespace").and_then(|node| cx.parsed(node, scalar::label));
            // Grants for kinds that refer to nothing here are without effect.
            let kind = match kind {
                Some("HTTPRoute") => Kind::HttpRoute,
                Some("TCPRoute") => Kind::TcpRoute,
                _ => continue,
            };
            from.extend(namespace.map(|namespace| Grantee { kind, namespace }));
        }
    }
    let mut services = Some(Vec::new());
    if let Some(node) = spec.required("to") {
        for item in cx.list(node, 16) {
            let Some(mut entry) = cx.object(item) else { continue };
            entry.ignore(&["group"]);
            let kind = entry.required("kind").and_then(|node| cx.string(node));
            let name = entry.take("name").map(|node| cx.parsed(node, scalar::label));
            if kind != Some("Service") {
                continue;
            }
            match name {
                None => services = None,
                Some(name) => services.iter_mut().for_each(|services| services.extend(name.clone())),
            }
        }
    }
    Some(ReferenceGrant { id: head.id(), from, services, source: Arc::clone(&head.source) })
}
