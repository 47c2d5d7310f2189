//! Nodes → objects of the model, kind by kind. Standard kinds keep their standard shape; of their fields, those that
//! change what is served or allowed and that are not implemented are refused by path, the others that are not
//! implemented are warned about, and what says nothing about traffic is passed over.

mod endpoint_slice;
mod gateway;
mod grant;
mod head;
mod http_filters;
mod http_match;
mod http_route;
mod refs;
mod service;
mod wasm_filter;

use outrigger_model::{Kind, Object, ObjectKey};

use crate::decode::Decoder;
use crate::module::ModuleSource;
use crate::node::Node;

pub(crate) use head::Head;

/// What a document turned out to be.
#[derive(Debug, Default)]
pub(crate) struct Decoded {
    /// Also of an object that has errors, so that duplicates are found.
    pub(crate) key: Option<ObjectKey>,
    pub(crate) object: Option<Object>,
}

/// How a kind is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reading {
    As(Kind),
    /// A kind that people keep in the same folder and that says nothing to a proxy.
    Silent,
    /// A kind that does something in a cluster, and nothing in a folder.
    WithoutEffect,
}

const GATEWAY: &[&str] = &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1"];
const TCP_ROUTE: &[&str] = &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1alpha2"];

/// Kinds with the versions in which they are read.
const KINDS: &[(&str, &[&str], Reading)] = &[
    ("Gateway", GATEWAY, Reading::As(Kind::Gateway)),
    ("HTTPRoute", GATEWAY, Reading::As(Kind::HttpRoute)),
    ("TCPRoute", TCP_ROUTE, Reading::As(Kind::TcpRoute)),
    ("ReferenceGrant", GATEWAY, Reading::As(Kind::ReferenceGrant)),
    ("GatewayClass", GATEWAY, Reading::Silent),
    ("Namespace", &["v1"], Reading::As(Kind::Namespace)),
    ("Service", &["v1"], Reading::As(Kind::Service)),
    ("EndpointSlice", &["discovery.k8s.io/v1"], Reading::As(Kind::EndpointSlice)),
    ("WasmFilter", &["outrigger.dev/v1alpha1"], Reading::As(Kind::WasmFilter)),
    ("ConfigMap", &["v1"], Reading::WithoutEffect),
    ("Pod", &["v1"], Reading::WithoutEffect),
    ("Secret", &["v1"], Reading::WithoutEffect),
    ("ServiceAccount", &["v1"], Reading::WithoutEffect),
    ("DaemonSet", &["apps/v1"], Reading::WithoutEffect),
    ("Deployment", &["apps/v1"], Reading::WithoutEffect),
    ("StatefulSet", &["apps/v1"], Reading::WithoutEffect),
];

/// Whether the document is a `List`, whose items are objects.
pub(crate) fn list_items(node: &Node) -> Option<&Node> {
    let is_list = node.get("apiVersion").and_then(Node::as_str) == Some("v1")
        && node.get("kind").and_then(Node::as_str) == Some("List");
    if is_list { node.get("items") } else { None }
}

/// Reads the decoder's document.
pub(crate) fn decode(cx: &Decoder<'_>, modules: &mut dyn ModuleSource) -> Decoded {
    let Some(reading) = reading(cx) else { return Decoded::default() };
    let kind = match reading {
        Reading::As(kind) => kind,
        Reading::Silent => return Decoded::default(),
        Reading::WithoutEffect => {
            cx.warning(cx.root(), "a kind that has no effect in a folder: ignored");
            return Decoded::default();
        }
    };
    let Some(mut fields) = cx.object(cx.root()) else { return Decoded::default() };
    fields.ignore(&["apiVersion", "kind", "status"]);
    let Some(head) = Head::read(cx, kind, &mut fields) else {
        // Without a name there is no object; its other problems come when it has one.
        fields.ignore(&["spec", "addressType", "endpoints", "ports"]);
        return Decoded::default();
    };
    let object = match kind {
        Kind::Namespace => {
            fields.ignore(&["spec"]);
            Some(grant::namespace(&head))
        }
        Kind::Service => service::decode(cx, &mut fields, &head).map(Into::into).map(Object::Service),
        Kind::EndpointSlice => {
            endpoint_slice::decode(cx, &mut fields, &head).map(Into::into).map(Object::EndpointSlice)
        }
        Kind::ReferenceGrant => grant::decode(cx, &mut fields, &head).map(Into::into).map(Object::ReferenceGrant),
        Kind::Gateway => gateway::decode(cx, &mut fields, &head).map(Into::into).map(Object::Gateway),
        Kind::HttpRoute => http_route::decode(cx, &mut fields, &head).map(Into::into).map(Object::Route),
        Kind::TcpRoute => http_route::decode_tcp(cx, &mut fields, &head).map(Into::into).map(Object::TcpRoute),
        Kind::WasmFilter => {
            wasm_filter::decode(cx, &mut fields, &head, modules).map(Into::into).map(Object::WasmFilter)
        }
    };
    Decoded { key: Some(head.key), object }
}

fn reading(cx: &Decoder<'_>) -> Option<Reading> {
    let root = cx.root();
    if !matches!(root.value, crate::node::Value::Mapping(_)) {
        cx.error(root, format!("must be an object with apiVersion and kind, not {}", root.type_name()));
        return None;
    }
    let (Some(version_node), Some(kind_node)) = (root.get("apiVersion"), root.get("kind")) else {
        for field in ["apiVersion", "kind"].into_iter().filter(|field| root.get(field).is_none()) {
            cx.missing(root, field, "required");
        }
        return None;
    };
    let (version, kind) = (cx.string(version_node)?, cx.string(kind_node)?);
    let Some((_, versions, reading)) = KINDS.iter().find(|(name, ..)| *name == kind) else {
        let known: Vec<_> = KINDS.iter().filter(|(.., how)| matches!(how, Reading::As(_))).map(|(k, ..)| *k).collect();
        cx.error(kind_node, format!("unknown kind `{kind}`; known: {}", known.join(", ")));
        return None;
    };
    if !versions.contains(&version) {
        cx.error(version_node, format!("{kind} is read as {}, not as `{version}`", versions.join(" or ")));
        return None;
    }
    Some(*reading)
}
