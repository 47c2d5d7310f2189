//! The node that this process is.

use std::sync::OnceLock;

use bytes::Bytes;

use crate::messages;
use crate::value::{Lookup, Property};

/// The node that `xds.node` shows.
#[derive(Debug, Clone, Default)]
pub struct Node {
    pub id: String,
    pub cluster: String,
    pub metadata: Property,
    pub user_agent_name: String,
    pub user_agent_version: String,
    /// Region, zone, sub-zone.
    pub locality: [String; 3],
    /// The serialized `envoy.config.core.v3.Node`: what a read of the whole `xds.node` answers.
    pub encoded: Bytes,
}

static NODE: OnceLock<Node> = OnceLock::new();

/// Tells expressions which node this is. Called once, before anything is served; later calls change nothing.
pub fn set_node(node: Node) {
    NODE.get_or_init(|| node);
}

#[must_use]
pub fn node() -> Option<&'static Node> {
    NODE.get()
}

impl Node {
    #[must_use]
    pub fn lookup(&self, path: &[&str]) -> Lookup {
        let text = |text: &str| Lookup::Found(Property::string(text));
        match path {
            [] => Lookup::Found(Property::Bytes(self.encoded.clone())),
            ["id"] => text(&self.id),
            ["cluster"] => text(&self.cluster),
            ["metadata", rest @ ..] => self.metadata.walk(rest),
            ["locality", rest @ ..] => messages::locality(&self.locality, rest),
            ["user_agent_name"] => text(&self.user_agent_name),
            ["user_agent_version"] => text(&self.user_agent_version),
            _ => Lookup::Absent,
        }
    }
}
