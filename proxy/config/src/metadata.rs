//! Metadata of endpoints, clusters and routes (`envoy.config.core.v3.Metadata`): what a control plane attaches, and what
//! subsets and transport sockets are chosen by.

use std::collections::BTreeMap;
use std::sync::Arc;

/// The namespace that load balancing reads.
pub const LB_NAMESPACE: &str = "envoy.lb";

/// `filter_metadata`: values by namespace and key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct Metadata(BTreeMap<Arc<str>, MetadataStruct>);

/// A `google.protobuf.Struct`.
pub type MetadataStruct = BTreeMap<Arc<str>, MetadataValue>;

/// A `google.protobuf.Value`. Numbers are equal where their bits are.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MetadataValue {
    Null,
    Bool(bool),
    /// The bits of a 64-bit float; zero has no sign.
    Number(u64),
    String(Arc<str>),
    List(Box<[MetadataValue]>),
    Struct(MetadataStruct),
}

impl MetadataValue {
    #[must_use]
    pub fn number(value: f64) -> MetadataValue {
        MetadataValue::Number(if value == 0.0 { 0 } else { value.to_bits() })
    }

    #[must_use]
    pub fn as_str(&self) -> Option<&str> {
        match self {
            MetadataValue::String(text) => Some(text),
            _ => None,
        }
    }
}

impl Metadata {
    #[must_use]
    pub fn new(namespaces: BTreeMap<Arc<str>, MetadataStruct>) -> Metadata {
        Metadata(namespaces)
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&MetadataStruct> {
        self.0.get(name)
    }

    #[must_use]
    pub fn get(&self, namespace: &str, key: &str) -> Option<&MetadataValue> {
        self.0.get(namespace)?.get(key)
    }
}

/// `metadata_match` of a route, its `envoy.lb` part: what an endpoint's metadata has to say. Sorted by key.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct MetadataMatch(Box<[(Arc<str>, MetadataValue)]>);

impl MetadataMatch {
    #[must_use]
    pub fn new(values: MetadataStruct) -> MetadataMatch {
        MetadataMatch(values.into_iter().collect())
    }

    /// These with those of `more` added, which win: a weighted cluster's over its route's.
    #[must_use]
    pub fn merged(&self, more: &MetadataMatch) -> MetadataMatch {
        MetadataMatch::new(self.0.iter().chain(&more.0).cloned().collect())
    }

    #[must_use]
    pub fn pairs(&self) -> &[(Arc<str>, MetadataValue)] {
        &self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(value: &str) -> MetadataValue {
        MetadataValue::String(value.into())
    }

    #[test]
    fn values_are_found_by_namespace_and_key() {
        let inner = MetadataStruct::from([("stage".into(), text("prod")), ("n".into(), MetadataValue::number(-0.0))]);
        let metadata = Metadata::new(BTreeMap::from([(LB_NAMESPACE.into(), inner)]));
        assert_eq!(metadata.get(LB_NAMESPACE, "stage").and_then(MetadataValue::as_str), Some("prod"));
        assert_eq!(metadata.get(LB_NAMESPACE, "n"), Some(&MetadataValue::number(0.0)));
        assert_eq!((metadata.get("other", "stage"), metadata.get(LB_NAMESPACE, "x")), (None, None));
    }

    #[test]
    fn the_more_specific_match_wins() {
        let of = |pairs: &[(&str, &str)]| {
            MetadataMatch::new(pairs.iter().map(|(key, value)| (Arc::from(*key), text(value))).collect())
        };
        let merged = of(&[("b", "1"), ("a", "1")]).merged(&of(&[("b", "2")]));
        assert_eq!(merged, of(&[("a", "1"), ("b", "2")]));
    }
}
