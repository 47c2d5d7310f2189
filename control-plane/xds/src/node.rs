//! Who a client is, from the `node` of its first request: the form that its resources take, and which it gets.

use std::fmt;

use outrigger_model::{NodeQuery, ObjectId};
use outrigger_proto::pb::envoy::config::core::v3::Node;
use outrigger_proto::pb::envoy::config::core::v3::node::UserAgentVersionType;
use outrigger_proto::pb::google::protobuf::value::Kind;

use crate::translate::Profile;

/// Longest text that is kept of a node, in bytes.
const TEXT_BYTES_MAX: usize = 512;

/// Which resources a client gets.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Scope {
    /// Those of a gateway.
    Gateway(ObjectId),
    /// Every service, by name.
    Services,
    /// None: the node does not say what it is, or says something that is not served.
    Nothing,
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Gateway(id) => write!(f, "Gateway {id}"),
            Self::Services => f.write_str("services"),
            Self::Nothing => f.write_str("nothing"),
        }
    }
}

/// Clients with the same key get the same snapshot.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    /// The form of the resources.
    pub profile: Profile,
    /// Which resources.
    pub scope: Scope,
}

/// A client, as it presents itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeInfo {
    /// `node.id`.
    pub id: String,
    /// `node.cluster`.
    pub cluster: String,
    /// `node.metadata.role`, `gateway` unless set.
    pub role: String,
    /// `node.user_agent_name`.
    pub user_agent: String,
    /// Its version.
    pub version: String,
    /// What it gets.
    pub key: NodeKey,
    /// Why it gets nothing.
    pub problem: Option<String>,
}

/// A first request that does not say who asks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// No node.
    #[error("the first request of a stream must have a node")]
    Missing,
    /// A node without id.
    #[error("node.id: must not be empty")]
    NoId,
}

impl NodeInfo {
    /// Reads the node of a first request.
    pub fn new(node: Option<&Node>) -> Result<Self, NodeError> {
        let node = node.ok_or(NodeError::Missing)?;
        if node.id.is_empty() {
            return Err(NodeError::NoId);
        }
        let role = metadata(node, "role");
        let profile = profile(&node.user_agent_name);
        let (scope, problem) = scope(profile, role, node);
        Ok(Self {
            id: bounded(&node.id),
            cluster: bounded(&node.cluster),
            role: bounded(role.filter(|role| !role.is_empty()).unwrap_or("gateway")),
            user_agent: bounded(&node.user_agent_name),
            version: version(node),
            key: NodeKey { profile, scope },
            problem,
        })
    }
}

fn profile(user_agent: &str) -> Profile {
    let is_grpc = user_agent.get(..4).is_some_and(|start| start.eq_ignore_ascii_case("grpc"));
    match user_agent {
        "outrigger" => Profile::Outrigger,
        _ if is_grpc => Profile::Grpc,
        _ => Profile::Envoy,
    }
}

fn scope(profile: Profile, role: Option<&str>, node: &Node) -> (Scope, Option<String>) {
    if profile == Profile::Grpc {
        return (Scope::Services, None);
    }
    match NodeQuery::new(role, &node.cluster) {
        Ok(NodeQuery::Gateway(id)) => (Scope::Gateway(id), None),
        Err(problem) => (Scope::Nothing, Some(problem.to_string())),
    }
}

fn metadata<'a>(node: &'a Node, key: &str) -> Option<&'a str> {
    match node.metadata.as_ref()?.fields.get(key)?.kind.as_ref()? {
        Kind::StringValue(value) => Some(value),
        _ => None,
    }
}

fn version(node: &Node) -> String {
    match &node.user_agent_version_type {
        Some(UserAgentVersionType::UserAgentVersion(version)) => bounded(version),
        Some(UserAgentVersionType::UserAgentBuildVersion(build)) => match &build.version {
            Some(version) => format!("{}.{}.{}", version.major_number, version.minor_number, version.patch),
            None => String::new(),
        },
        None => String::new(),
    }
}

fn bounded(text: &str) -> String {
    text[..text.floor_char_boundary(TEXT_BYTES_MAX)].to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nodes_get_what_they_name() {
        let check = |agent: &str, cluster: &str, profile: Profile, scope: &str| {
            let node =
                Node { id: "n".into(), cluster: cluster.into(), user_agent_name: agent.into(), ..Node::default() };
            let info = NodeInfo::new(Some(&node)).unwrap();
            assert_eq!((info.key.profile, info.key.scope.to_string().as_str()), (profile, scope), "{agent} {cluster}");
            assert_eq!(info.problem.is_some(), scope == "nothing");
        };
        check("outrigger", "shop/edge", Profile::Outrigger, "Gateway shop/edge");
        check("envoy", "shop/edge", Profile::Envoy, "Gateway shop/edge");
        check("", "shop/edge", Profile::Envoy, "Gateway shop/edge");
        check("gRPC C-core linux", "", Profile::Grpc, "services");
        check("grpc-go", "x", Profile::Grpc, "services");
        check("envoy", "edge", Profile::Envoy, "nothing");
        check("ßßß", "edge", Profile::Envoy, "nothing");
        assert_eq!(NodeInfo::new(None), Err(NodeError::Missing));
        assert_eq!(NodeInfo::new(Some(&Node::default())), Err(NodeError::NoId));
    }
}
