//! Metadata: what configuration and filters attach to listeners, routes, clusters, endpoints and streams
//! (`envoy.config.core.v3.Metadata`), without its typed part.

use std::collections::BTreeMap;
use std::sync::Arc;

/// A value of a `google.protobuf.Struct`.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum MetadataValue {
    #[default]
    Null,
    Bool(bool),
    Number(f64),
    String(Arc<str>),
    List(Vec<MetadataValue>),
    Struct(BTreeMap<String, MetadataValue>),
}

impl MetadataValue {
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

/// `filter_metadata`: a struct by namespace.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Metadata {
    pub filter_metadata: BTreeMap<String, MetadataValue>,
}

// Numbers come from configuration, which has no NaN: JSON cannot say it, and a binary one equals nothing anyway.
impl Eq for Metadata {}

impl Metadata {
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.filter_metadata.is_empty()
    }

    /// A namespace's value at a path.
    #[must_use]
    pub fn get(&self, namespace: &str, path: &[&str]) -> Option<&MetadataValue> {
        self.filter_metadata.get(namespace)?.walk(path)
    }
}

/// All metadata of a stream: its own, and that of what it was routed by.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct StreamMetadata {
    /// `%DYNAMIC_METADATA%`: what filters set.
    pub dynamic: Metadata,
    pub listener: Option<Arc<Metadata>>,
    pub virtual_host: Option<Arc<Metadata>>,
    pub route: Option<Arc<Metadata>>,
    pub cluster: Option<Arc<Metadata>>,
    pub upstream_host: Option<Arc<Metadata>>,
    pub upstream_locality: Option<Arc<Metadata>>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_lead_through_structs_and_lists() {
        let text = |text: &str| MetadataValue::String(Arc::from(text));
        let list = MetadataValue::List(vec![text("a"), MetadataValue::Number(2.0)]);
        let value = MetadataValue::Struct([("list".to_owned(), list)].into());
        let metadata = Metadata { filter_metadata: [("ns".to_owned(), value)].into() };
        assert_eq!(metadata.get("ns", &["list", "0"]), Some(&text("a")));
        for path in [&["list", "2"][..], &["list", "x"], &["none"], &["list", "0", "deeper"]] {
            assert_eq!(metadata.get("ns", path), None, "{path:?}");
        }
        assert_eq!(metadata.get("other", &[]), None);
    }
}
