//! `Bootstrap.layered_runtime`: of its static layers, the keys that bound connections.

use std::sync::Arc;

use outrigger_config::OverloadManager;
use outrigger_proto::pb;
use pb::envoy::config::bootstrap::v3::{LayeredRuntime, runtime_layer::LayerSpecifier};
use pb::google::protobuf::{Struct, value::Kind};

use crate::Diagnostics;

/// Envoy's key for a process without a monitor of its connections.
const PROCESS: &str = "overload.global_downstream_max_connections";
const LISTENER: (&str, &str) = ("envoy.resource_limits.listener.", ".connection_limit");
/// As deep as keys are split into objects.
const DEPTH_MAX: usize = 16;

/// Bounds by the layers: a later one wins.
pub(super) fn decode(proto: &LayeredRuntime, overload: &mut OverloadManager, d: &mut Diagnostics) {
    let mut process = None;
    for (index, layer) in proto.layers.iter().enumerate() {
        let Some(LayerSpecifier::StaticLayer(values)) = &layer.layer_specifier else { continue };
        d.at_index("layers", index, |d| {
            let mut key = String::new();
            read(values, &mut key, 0, d, &mut |key, kind, d| match listener_of(key) {
                _ if key == PROCESS => process = bound(kind, d),
                Some(name) => match bound(kind, d) {
                    Some(max) => _ = overload.max_listener_connections.insert(Arc::from(name), max),
                    None => _ = overload.max_listener_connections.remove(name),
                },
                None => d.warn("has no effect: there is no runtime but for bounds of connections"),
            });
        });
    }
    overload.max_downstream_connections = overload.max_downstream_connections.or(process);
}

fn listener_of(key: &str) -> Option<&str> {
    key.strip_prefix(LISTENER.0)?.strip_suffix(LISTENER.1)
}

/// Every value by its key; an object's keys stand behind its own.
fn read(
    values: &Struct,
    key: &mut String,
    depth: usize,
    d: &mut Diagnostics,
    tell: &mut impl FnMut(&str, &Kind, &mut Diagnostics),
) {
    for (name, value) in &values.fields {
        let before = key.len();
        if before > 0 {
            key.push('.');
        }
        key.push_str(name);
        match &value.kind {
            Some(Kind::StructValue(inner)) if depth < DEPTH_MAX => read(inner, key, depth + 1, d, tell),
            Some(kind) => d.at_key("static_layer", key, |d| tell(key, kind, d)),
            None => {}
        }
        key.truncate(before);
    }
}

/// `None`: none, by an empty text, or by what is no number.
fn bound(kind: &Kind, d: &mut Diagnostics) -> Option<u64> {
    let max = match kind {
        Kind::StringValue(text) if text.is_empty() => return None,
        Kind::StringValue(text) => text.parse().ok(),
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "what a number may be is asked first"
        )]
        Kind::NumberValue(number) if (0.0..=9e15).contains(number) && number.fract() == 0.0 => Some(*number as u64),
        _ => None,
    };
    if max.is_none() {
        d.error("is no whole number from 0 on");
    }
    max
}
