//! `/runtime`: the static layers of the bootstrap. They are the only ones that have values here.

use std::collections::BTreeMap;

use outrigger_proto::pb::envoy::config::bootstrap::v3::LayeredRuntime;
use outrigger_proto::pb::envoy::config::bootstrap::v3::runtime_layer::LayerSpecifier;
use outrigger_proto::pb::google::protobuf::{Struct, Value as PbValue, value::Kind};
use serde_json::{Value, json};

use super::reply::Reply;
use crate::server::Server;

/// As deep as keys are split into objects.
const DEPTH_MAX: usize = 16;

/// Of each key its value in every layer, empty where it has none.
type Entries = BTreeMap<String, Vec<String>>;

pub(super) fn answer(server: &Server) -> Reply {
    let layered = server.bootstrap.decode().and_then(|bootstrap| bootstrap.layered_runtime);
    Reply::json(&page(&layered.unwrap_or_default()))
}

fn page(layered: &LayeredRuntime) -> Value {
    let names: Vec<&str> = layered.layers.iter().map(|layer| &*layer.name).collect();
    let mut entries = Entries::new();
    for (index, layer) in layered.layers.iter().enumerate() {
        if let Some(LayerSpecifier::StaticLayer(values)) = &layer.layer_specifier {
            let mut tell = |key: &str, value: String| {
                entries.entry(key.to_owned()).or_insert_with(|| vec![String::new(); names.len()])[index] = value;
            };
            read(values, &mut String::new(), 0, &mut tell);
        }
    }
    let entries = entries.into_iter().map(|(key, values)| {
        // The last layer that has one.
        let last = values.iter().rev().find(|value| !value.is_empty()).cloned().unwrap_or_default();
        (key, json!({"layer_values": values, "final_value": last}))
    });
    json!({"layers": names, "entries": entries.collect::<serde_json::Map<_, _>>()})
}

/// Every value by its key; an object's keys stand behind its own, but for a fraction's.
fn read(values: &Struct, key: &mut String, depth: usize, tell: &mut impl FnMut(&str, String)) {
    for (name, value) in &values.fields {
        let before = key.len();
        if before > 0 {
            key.push('.');
        }
        key.push_str(name);
        match &value.kind {
            Some(Kind::StructValue(inner)) if depth < DEPTH_MAX && !is_fraction(inner) => {
                read(inner, key, depth + 1, tell);
            }
            _ => tell(key, text(value)),
        }
        key.truncate(before);
    }
}

fn is_fraction(value: &Struct) -> bool {
    value.fields.contains_key("numerator") || value.fields.contains_key("denominator")
}

fn text(value: &PbValue) -> String {
    match &value.kind {
        Some(Kind::StringValue(text)) => text.clone(),
        Some(Kind::NumberValue(number)) => number.to_string(),
        Some(Kind::BoolValue(flag)) => flag.to_string(),
        Some(Kind::StructValue(fields)) => {
            let fields = fields.fields.iter().map(|(name, value)| format!("{name}: {}", text(value)));
            format!("{{{}}}", fields.collect::<Vec<_>>().join(", "))
        }
        Some(Kind::NullValue(_) | Kind::ListValue(_)) | None => String::new(),
    }
}
