//! Properties that are messages: what a read of the whole answers is the message's serialized form.

use outrigger_http::{Metadata, MetadataStruct, MetadataValue};

use crate::value::{Lookup, Property};
use crate::wire::{put_bytes, put_message, put_number};

/// Structs are not deeper than this.
const DEPTH_MAX: usize = 32;

/// `envoy.config.core.v3.Metadata`: whole, or a value under `filter_metadata`.
pub(crate) fn metadata(metadata: Option<&Metadata>, path: &[&str]) -> Lookup {
    let empty = Metadata::default();
    let metadata = metadata.unwrap_or(&empty);
    match path {
        [] => Lookup::Found(Property::Bytes(encode_metadata(metadata).into())),
        ["filter_metadata"] => {
            let all = metadata.namespaces();
            Lookup::Found(Property::Map(all.map(|(name, fields)| (name.to_owned(), Property::from(fields))).collect()))
        }
        // Nothing here has any.
        ["typed_filter_metadata"] => Lookup::Found(Property::Map([].into())),
        ["filter_metadata", namespace] => {
            metadata.namespace(namespace).map_or(Lookup::Absent, |fields| Lookup::Found(Property::from(fields)))
        }
        ["filter_metadata", namespace, key, rest @ ..] => metadata
            .get(namespace, key)
            .and_then(|value| value.walk(rest))
            .map_or(Lookup::Absent, |value| Lookup::Found(Property::from(value))),
        _ => Lookup::Absent,
    }
}

/// `envoy.config.core.v3.Locality`.
pub(crate) fn locality(parts: &[String; 3], path: &[&str]) -> Lookup {
    let [region, zone, sub_zone] = parts;
    let text = |text: &str| Lookup::Found(Property::string(text));
    match path {
        [] => {
            let mut out = Vec::new();
            put_bytes(&mut out, 1, region.as_bytes());
            put_bytes(&mut out, 2, zone.as_bytes());
            put_bytes(&mut out, 3, sub_zone.as_bytes());
            Lookup::Found(Property::Bytes(out.into()))
        }
        ["region"] => text(region),
        ["zone"] => text(zone),
        ["sub_zone"] => text(sub_zone),
        _ => Lookup::Absent,
    }
}

fn encode_metadata(metadata: &Metadata) -> Vec<u8> {
    let mut out = Vec::new();
    for (namespace, fields) in metadata.namespaces() {
        put_entry(&mut out, namespace, &encode_fields(fields, 0));
    }
    out
}

/// An entry of a map field 1: `{key = 1, value = 2}`.
fn put_entry(out: &mut Vec<u8>, key: &str, value: &[u8]) {
    let mut entry = Vec::with_capacity(key.len() + value.len() + 8);
    put_bytes(&mut entry, 1, key.as_bytes());
    put_message(&mut entry, 2, value);
    put_message(out, 1, &entry);
}

/// `google.protobuf.Struct`.
fn encode_fields(fields: &MetadataStruct, depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    if depth <= DEPTH_MAX {
        for (key, value) in fields {
            put_entry(&mut out, key, &encode_value(value, depth + 1));
        }
    }
    out
}

/// `google.protobuf.Value`.
fn encode_value(value: &MetadataValue, depth: usize) -> Vec<u8> {
    let mut out = Vec::new();
    match value {
        // A member of a oneof is written even where it is a default.
        MetadataValue::Null => out.extend_from_slice(&[1 << 3, 0]),
        MetadataValue::Number(bits) => {
            out.push(2 << 3 | 1);
            out.extend_from_slice(&bits.to_le_bytes());
        }
        MetadataValue::String(text) => put_message(&mut out, 3, text.as_bytes()),
        MetadataValue::Bool(false) => out.extend_from_slice(&[4 << 3, 0]),
        MetadataValue::Bool(true) => put_number(&mut out, 4, 1),
        MetadataValue::Struct(fields) => put_message(&mut out, 5, &encode_fields(fields, depth)),
        MetadataValue::List(values) => {
            let mut list = Vec::new();
            if depth <= DEPTH_MAX {
                for value in values {
                    put_message(&mut list, 1, &encode_value(value, depth + 1));
                }
            }
            put_message(&mut out, 6, &list);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn metadata_is_walked_and_serialized() {
        let text = MetadataValue::String(Arc::from("v"));
        let list = MetadataValue::List([MetadataValue::Bool(false), MetadataValue::Null].into());
        let found =
            Metadata::new([("ns".into(), MetadataStruct::from([("k".into(), text), ("l".into(), list)]))].into());
        let bytes = |bytes: &'static [u8]| Some(Property::Bytes(bytes::Bytes::from_static(bytes)));
        let check = |path: &[&str], expected: Option<Property>| {
            let value = match metadata(Some(&found), path) {
                Lookup::Found(value) => Some(value),
                Lookup::Absent | Lookup::NotAValue => None,
            };
            assert_eq!(value, expected, "{path:?}");
        };
        check(&["filter_metadata", "ns", "k"], bytes(b"v"));
        check(&["filter_metadata", "ns", "l", "0"], Some(Property::Bool(false)));
        check(&["filter_metadata", "other"], None);
        check(&["typed_filter_metadata"], Some(Property::Map([].into())));
        check(&["nothing"], None);
        check(
            &[],
            bytes(
                b"\x0a\x21\x0a\x02ns\x12\x1b\x0a\x08\x0a\x01k\x12\x03\x1a\x01v\x0a\x0f\x0a\x01l\x12\x0a\x32\x08\x0a\x02\x20\x00\x0a\x02\x08\x00",
            ),
        );
        assert_eq!(metadata(None, &[]), Lookup::Found(Property::Bytes(bytes::Bytes::new())));
    }

    #[test]
    fn localities_too() {
        let parts = ["r".to_owned(), "z".to_owned(), String::new()];
        let bytes = |bytes: &'static [u8]| Lookup::Found(Property::Bytes(bytes::Bytes::from_static(bytes)));
        assert_eq!(locality(&parts, &[]), bytes(b"\x0a\x01r\x12\x01z"));
        assert_eq!(locality(&parts, &["zone"]), bytes(b"z"));
        assert_eq!(locality(&parts, &["nothing"]), Lookup::Absent);
    }
}
