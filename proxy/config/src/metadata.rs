//! What subsets and transport sockets are chosen by: matches of an endpoint's metadata.

use std::sync::Arc;

use outrigger_http::{MetadataStruct, MetadataValue};

/// The namespace that load balancing reads.
pub const LB_NAMESPACE: &str = "envoy.lb";

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
    fn the_more_specific_match_wins() {
        let of = |pairs: &[(&str, &str)]| {
            MetadataMatch::new(pairs.iter().map(|(key, value)| (Arc::from(*key), text(value))).collect())
        };
        let merged = of(&[("b", "1"), ("a", "1")]).merged(&of(&[("b", "2")]));
        assert_eq!(merged, of(&[("a", "1"), ("b", "2")]));
    }
}
