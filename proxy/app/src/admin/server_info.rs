//! `/server_info`.

use outrigger_proto::pb::envoy::config::core::v3 as core;
use outrigger_proto::pb::google::protobuf::{Struct, Value as PbValue, value::Kind};
use prost::Message;
use serde_json::{Map, Value, json};

use super::reply::Reply;
use crate::args::version;
use crate::server::Server;

/// A node's metadata may nest this deep; what is deeper is left out.
const DEPTH_MAX: usize = 64;

pub(crate) fn answer(server: &Server) -> Reply {
    let uptime = format!("{}s", server.uptime().as_secs());
    Reply::json(&json!({
        "version": version(),
        "state": server.shown_state().name(),
        "hot_restart_version": "disabled",
        "command_line_options": server.options.to_json(server.concurrency),
        "node": node(&server.node.message),
        "uptime_current_epoch": uptime,
        "uptime_all_epochs": uptime,
    }))
}

fn node(message: &[u8]) -> Value {
    let Ok(node) = core::Node::decode(message) else { return Value::Null };
    let locality = node.locality.unwrap_or_default();
    let mut shown = json!({
        "id": node.id,
        "cluster": node.cluster,
        "metadata": node.metadata.map_or(json!({}), |metadata| from_struct(metadata, 0)),
        "locality": {"region": locality.region, "zone": locality.zone, "sub_zone": locality.sub_zone},
        "user_agent_name": node.user_agent_name,
        "client_features": node.client_features,
    });
    if let Some(core::node::UserAgentVersionType::UserAgentVersion(version)) = node.user_agent_version_type {
        shown["user_agent_version"] = version.into();
    }
    shown
}

fn from_struct(message: Struct, depth: usize) -> Value {
    let fields = message.fields.into_iter().map(|(key, value)| (key, from_value(value, depth + 1)));
    Value::Object(fields.collect::<Map<_, _>>())
}

fn from_value(value: PbValue, depth: usize) -> Value {
    if depth > DEPTH_MAX {
        return Value::Null;
    }
    match value.kind {
        None | Some(Kind::NullValue(_)) => Value::Null,
        Some(Kind::BoolValue(value)) => value.into(),
        Some(Kind::StringValue(value)) => value.into(),
        Some(Kind::NumberValue(value)) if value.fract() == 0.0 && value.abs() < 9e15 => json!(value as i64),
        Some(Kind::NumberValue(value)) => value.into(),
        Some(Kind::StructValue(value)) => from_struct(value, depth),
        Some(Kind::ListValue(list)) => list.values.into_iter().map(|value| from_value(value, depth + 1)).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_shown_with_its_metadata() {
        let value = |kind| PbValue { kind: Some(kind) };
        let metadata = Struct {
            fields: [
                ("LABELS".to_owned(), value(Kind::NumberValue(3.0))),
                ("NONE".to_owned(), value(Kind::NullValue(0))),
            ]
            .into(),
        };
        let message = core::Node { id: "n".into(), metadata: Some(metadata), ..core::Node::default() };
        let shown = node(&message.encode_to_vec());
        assert_eq!(shown["id"], "n");
        assert_eq!(shown["metadata"], json!({"LABELS": 3, "NONE": null}));
        assert_eq!(node(&[0xff]), Value::Null);
    }
}
