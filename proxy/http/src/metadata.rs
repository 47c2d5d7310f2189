//! Metadata: what a control plane and filters attach to listeners, routes, clusters, endpoints and streams
//! (`envoy.config.core.v3.Metadata`), without its typed part.

use std::collections::BTreeMap;
use std::sync::Arc;

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

    /// The value that a path of keys and list positions leads to.
    #[must_use]
    pub fn walk(&self, path: &[&str]) -> Option<&MetadataValue> {
        let Some((first, rest)) = path.split_first() else { return Some(self) };
        match self {
            MetadataValue::Struct(fields) => fields.get(*first)?.walk(rest),
            MetadataValue::List(values) => values.get(first.parse::<usize>().ok()?)?.walk(rest),
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

    pub fn namespaces(&self) -> impl Iterator<Item = (&str, &MetadataStruct)> {
        self.0.iter().map(|(name, fields)| (&**name, fields))
    }

    #[must_use]
    pub fn namespace(&self, name: &str) -> Option<&MetadataStruct> {
        self.0.get(name)
    }

    pub fn set(&mut self, namespace: &str, key: &str, value: MetadataValue) {
        let fields = match self.0.get_mut(namespace) {
            Some(fields) => fields,
            None => self.0.entry(namespace.into()).or_default(),
        };
        fields.insert(key.into(), value);
    }

    #[must_use]
    pub fn get(&self, namespace: &str, key: &str) -> Option<&MetadataValue> {
        self.0.get(namespace)?.get(key)
    }
}

/// What filters have noted about a stream, and the metadata of where it went. That of its route and virtual host stands in
/// [`StreamInfo`](crate::StreamInfo).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct StreamMetadata {
    /// `%DYNAMIC_METADATA%`: what filters set.
    pub dynamic: Metadata,
    pub upstream_host: Option<Arc<Metadata>>,
    pub upstream_locality: Option<Arc<Metadata>>,
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
        let metadata = Metadata::new(BTreeMap::from([("envoy.lb".into(), inner)]));
        assert_eq!(metadata.get("envoy.lb", "stage").and_then(MetadataValue::as_str), Some("prod"));
        assert_eq!(metadata.get("envoy.lb", "n"), Some(&MetadataValue::number(0.0)));
        assert_eq!((metadata.get("other", "stage"), metadata.get("envoy.lb", "x")), (None, None));
    }

    #[test]
    fn paths_lead_through_structs_and_lists() {
        let list = MetadataValue::List([text("a"), MetadataValue::number(2.0)].into());
        let value = MetadataValue::Struct([("list".into(), list)].into());
        assert_eq!(value.walk(&["list", "0"]), Some(&text("a")));
        for path in [&["list", "2"][..], &["list", "x"], &["none"], &["list", "0", "deeper"]] {
            assert_eq!(value.walk(path), None, "{path:?}");
        }
    }
}
