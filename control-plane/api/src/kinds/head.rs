//! What every object has: `metadata`.

use std::collections::BTreeMap;
use std::sync::Arc;

use outrigger_model::{Kind, ObjectId, ObjectKey, Source};

use crate::decode::{Decoder, Fields};
use crate::node::{Node, Value};
use crate::scalar;

/// Where an object without a namespace is, as with kubectl.
const DEFAULT_NAMESPACE: &str = "default";

#[derive(Clone, Debug)]
pub(crate) struct Head {
    pub(crate) key: ObjectKey,
    pub(crate) labels: BTreeMap<Arc<str>, Arc<str>>,
    pub(crate) created: Option<u64>,
    pub(crate) source: Arc<Source>,
}

impl Head {
    /// None if the object has no usable name.
    pub(crate) fn read<'a>(cx: &Decoder<'a>, kind: Kind, fields: &mut Fields<'_, 'a>) -> Option<Self> {
        let node = fields.required("metadata")?;
        let mut metadata = cx.object(node)?;
        // What an API server adds, and what is for people and tools.
        metadata.ignore(&[
            "annotations",
            "creationTimestamp",
            "deletionGracePeriodSeconds",
            "deletionTimestamp",
            "finalizers",
            "generateName",
            "generation",
            "managedFields",
            "ownerReferences",
            "resourceVersion",
            "selfLink",
            "uid",
        ]);
        let name = metadata.required("name").and_then(|node| {
            cx.parsed(node, |text| match kind {
                Kind::Service | Kind::Namespace => scalar::label(text),
                _ => scalar::subdomain(text),
            })
        });
        let namespace = metadata.take("namespace").map(|node| (node, cx.parsed(node, scalar::label)));
        let namespace = match (kind, namespace) {
            (Kind::Namespace, Some((node, _))) => {
                cx.error(node, "a Namespace is in no namespace");
                None
            }
            (Kind::Namespace, None) => Some(Arc::from("")),
            (_, Some((_, namespace))) => namespace,
            (_, None) => Some(Arc::from(DEFAULT_NAMESPACE)),
        };
        let labels = metadata.take("labels").map(|node| labels(cx, node)).unwrap_or_default();
        let created = metadata.take("creationTimestamp").and_then(|node| cx.parsed(node, scalar::timestamp));
        let key = ObjectKey::new(kind, ObjectId::new(namespace?, name?));
        cx.set_object(key.to_string());
        let source = Arc::new(Source::new(&key, Arc::clone(cx.file_name()), cx.root().mark.line));
        Some(Self { key, labels, created, source })
    }

    pub(crate) fn id(&self) -> ObjectId {
        self.key.id.clone()
    }

    pub(crate) fn namespace(&self) -> &Arc<str> {
        &self.key.id.namespace
    }
}

/// A map of texts.
pub(crate) fn labels(cx: &Decoder<'_>, node: &Node) -> BTreeMap<Arc<str>, Arc<str>> {
    let Value::Mapping(entries) = &node.value else {
        cx.error(node, format!("must be an object, not {}", node.type_name()));
        return BTreeMap::new();
    };
    let mut labels = BTreeMap::new();
    for (key, value) in entries {
        match value.as_str() {
            Some(text) => {
                labels.insert(Arc::from(key.text.as_str()), Arc::from(text));
            }
            None => cx.error(value, format!("must be a string, not {}: put it in quotes", value.type_name())),
        }
    }
    labels
}
