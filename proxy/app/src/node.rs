//! The node as guests see it (`xds.node`).

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::google::protobuf::{Struct, Value, value::Kind};
use outrigger_wasm::{Node, Property};
use prost::Message;

/// Metadata may nest this deep; what is deeper is left out.
const DEPTH_MAX: usize = 32;

pub(crate) fn to_host(node: &core::Node) -> Node {
    let locality = node.locality.clone().unwrap_or_default();
    let version = match &node.user_agent_version_type {
        Some(core::node::UserAgentVersionType::UserAgentVersion(version)) => version.clone(),
        _ => String::new(),
    };
    Node {
        user_agent_name: node.user_agent_name.clone(),
        user_agent_version: version,
        id: node.id.clone(),
        cluster: node.cluster.clone(),
        metadata: node.metadata.as_ref().map_or_else(|| Property::Map([].into()), |metadata| from_struct(metadata, 0)),
        locality: [locality.region, locality.zone, locality.sub_zone],
        encoded: node.encode_to_vec().into(),
    }
}

fn from_struct(message: &Struct, depth: usize) -> Property {
    Property::Map(message.fields.iter().map(|(key, value)| (key.clone(), from_value(value, depth + 1))).collect())
}

fn from_value(value: &Value, depth: usize) -> Property {
    match &value.kind {
        _ if depth > DEPTH_MAX => Property::Null,
        None | Some(Kind::NullValue(_)) => Property::Null,
        Some(Kind::BoolValue(value)) => Property::Bool(*value),
        Some(Kind::NumberValue(value)) => Property::Double(*value),
        Some(Kind::StringValue(value)) => Property::string(value),
        Some(Kind::StructValue(value)) => from_struct(value, depth),
        Some(Kind::ListValue(list)) => {
            Property::List(list.values.iter().map(|value| from_value(value, depth + 1)).collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metadata_becomes_properties() {
        let value = |kind| Value { kind: Some(kind) };
        let metadata = Struct {
            fields: [("A".to_owned(), value(Kind::BoolValue(true))), ("B".to_owned(), value(Kind::NullValue(0)))]
                .into(),
        };
        let node = core::Node { id: "n".into(), metadata: Some(metadata), ..core::Node::default() };
        let host = to_host(&node);
        let expected = [("A".to_owned(), Property::Bool(true)), ("B".to_owned(), Property::Null)];
        assert_eq!((host.id.as_str(), host.metadata), ("n", Property::Map(expected.into())));
        assert_eq!(host.encoded, node.encode_to_vec());
    }
}
