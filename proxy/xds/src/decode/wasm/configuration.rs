//! What a guest gets as its configuration.

use bytes::Bytes;
use outrigger_proto::pb::google::protobuf::{self, Any, value::Kind};
use outrigger_proto::type_url;
use prost::Message;

use super::super::access_log::json_number;
use crate::Diagnostics;

/// The bytes that a guest sees of a configuration: text and bytes as they are, a struct as JSON, else the message.
pub(super) fn any_bytes(config: Option<&Any>, field: &'static str, d: &mut Diagnostics) -> Bytes {
    let Some(config) = config else { return Bytes::new() };
    d.at(field, |d| {
        let name = type_url::message_name(&config.type_url);
        let bytes = if name == type_url::message_name(type_url::STRING_VALUE) {
            String::decode(&config.value[..]).map(Bytes::from)
        } else if name == type_url::message_name(type_url::BYTES_VALUE) {
            Vec::<u8>::decode(&config.value[..]).map(Bytes::from)
        } else if name == type_url::message_name(type_url::STRUCT) {
            protobuf::Struct::decode(&config.value[..]).map(|fields| {
                let mut out = String::new();
                json_object(&fields, &mut out);
                Bytes::from(out)
            })
        } else {
            Ok(Bytes::copy_from_slice(&config.value))
        };
        bytes.unwrap_or_else(|error| {
            d.error(format!("malformed message: {error}"));
            Bytes::new()
        })
    })
}

/// A struct as JSON, keys sorted. Its depth is what prost decodes, 100 at most.
fn json_object(fields: &protobuf::Struct, out: &mut String) {
    let mut names: Vec<(&String, &protobuf::Value)> = fields.fields.iter().collect();
    names.sort_by_key(|(name, _)| *name);
    out.push('{');
    for (index, (name, value)) in names.into_iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        json_string(name, out);
        out.push(':');
        json_value(value, out);
    }
    out.push('}');
}

fn json_value(value: &protobuf::Value, out: &mut String) {
    match &value.kind {
        Some(Kind::StringValue(text)) => json_string(text, out),
        Some(Kind::NumberValue(number)) => out.push_str(&json_number(*number)),
        Some(Kind::BoolValue(value)) => out.push_str(if *value { "true" } else { "false" }),
        Some(Kind::NullValue(_)) | None => out.push_str("null"),
        Some(Kind::StructValue(fields)) => json_object(fields, out),
        Some(Kind::ListValue(list)) => {
            out.push('[');
            for (index, value) in list.values.iter().enumerate() {
                if index > 0 {
                    out.push(',');
                }
                json_value(value, out);
            }
            out.push(']');
        }
    }
}

fn json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\0'..' ' | '\x7f' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
            c => out.push(c),
        }
    }
    out.push('"');
}
