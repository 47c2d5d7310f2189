//! Encodes messages the same way every time.
//!
//! Versions are hashes of the encoded bytes, but the generated types keep protobuf maps in hash maps, whose order
//! differs from one process to the next (and from one map to the next). So after encoding, map entries are sorted by
//! their key, in the few places where the resources of this server have maps; everything else prost encodes in field
//! order.

use prost::Message;
use prost::encoding::{WireType, decode_key, decode_varint, encode_key, encode_varint};

/// Where a message has maps, and which of its fields lead to more of them.
#[derive(Debug)]
pub(crate) struct Shape(&'static [(u32, Field)]);

#[derive(Debug, Clone, Copy)]
enum Field {
    /// A map whose values have this shape.
    Map(&'static Shape),
    Message(&'static Shape),
}

/// Messages without any map that this server sets.
pub(crate) const PLAIN: Shape = Shape(&[]);

/// `google.protobuf.Struct`. The structs written here are flat, so that values need no shape of their own.
const STRUCT: Shape = Shape(&[(1, Field::Map(&PLAIN))]);

/// `envoy.config.core.v3.Metadata`.
const METADATA: Shape = Shape(&[(1, Field::Map(&STRUCT))]);

const ROUTE: Shape = Shape(&[(4, Field::Message(&METADATA)), (13, Field::Map(&PLAIN))]);

const VIRTUAL_HOST: Shape = Shape(&[(3, Field::Message(&ROUTE)), (15, Field::Map(&PLAIN))]);

/// `envoy.config.route.v3.RouteConfiguration`.
pub(crate) const ROUTE_CONFIGURATION: Shape =
    Shape(&[(2, Field::Message(&VIRTUAL_HOST)), (16, Field::Map(&PLAIN)), (17, Field::Message(&METADATA))]);

/// `envoy.config.cluster.v3.Cluster`.
pub(crate) const CLUSTER: Shape = Shape(&[(25, Field::Message(&METADATA)), (36, Field::Map(&PLAIN))]);

/// `envoy.config.listener.v3.Listener`; its network filters are `Any` and encoded on their own.
pub(crate) const LISTENER: Shape = Shape(&[(6, Field::Message(&METADATA))]);

const ENVIRONMENT: Shape = Shape(&[(2, Field::Map(&PLAIN))]);

const VM_CONFIG: Shape = Shape(&[(7, Field::Message(&ENVIRONMENT))]);

const PLUGIN_CONFIG: Shape = Shape(&[(3, Field::Message(&VM_CONFIG))]);

const REVISION: Shape = Shape(&[(1, Field::Message(&PLUGIN_CONFIG))]);

const ROLLOUT: Shape = Shape(&[(2, Field::Message(&REVISION))]);

/// `envoy.extensions.filters.http.wasm.v3.Wasm` and our own `Wasm`: both carry the plugin in field 1; ours may have a
/// rollout in field 5.
pub(crate) const WASM: Shape = Shape(&[(1, Field::Message(&PLUGIN_CONFIG)), (5, Field::Message(&ROLLOUT))]);

/// Encodes `message` with its maps sorted.
pub(crate) fn encode(message: &impl Message, shape: &Shape) -> Vec<u8> {
    let bytes = message.encode_to_vec();
    // What prost has just encoded is well formed; were it not, an unsorted message is still the right one.
    sorted(&bytes, shape).unwrap_or(bytes)
}

/// A field as it stands in the bytes.
struct Raw<'a> {
    number: u32,
    /// Key, length and value.
    whole: &'a [u8],
    /// The value, of a length-delimited field.
    value: Option<&'a [u8]>,
}

fn sorted(bytes: &[u8], shape: &Shape) -> Option<Vec<u8>> {
    if shape.0.is_empty() {
        return Some(bytes.to_vec());
    }
    let mut out = Vec::with_capacity(bytes.len());
    let mut rest = bytes;
    let mut entries = Entries { number: 0, list: Vec::new() };
    while !rest.is_empty() {
        let raw = next(&mut rest)?;
        if raw.number != entries.number {
            entries.flush(&mut out);
        }
        let field = shape.0.iter().find(|(number, _)| *number == raw.number).map(|(_, field)| *field);
        match (field, raw.value) {
            (Some(Field::Map(values)), Some(entry)) => {
                entries.number = raw.number;
                entries.list.push((entry_key(entry)?, sorted_child(entry, 2, values)?));
            }
            (Some(Field::Message(shape)), Some(value)) => write(&mut out, raw.number, &sorted(value, shape)?),
            _ => out.extend_from_slice(raw.whole),
        }
    }
    entries.flush(&mut out);
    Some(out)
}

/// Sorts inside the one field `number` of a message: the value of a map entry.
fn sorted_child(message: &[u8], number: u32, shape: &Shape) -> Option<Vec<u8>> {
    if shape.0.is_empty() {
        return Some(message.to_vec());
    }
    let mut out = Vec::with_capacity(message.len());
    let mut rest = message;
    while !rest.is_empty() {
        let raw = next(&mut rest)?;
        match raw.value {
            Some(value) if raw.number == number => write(&mut out, number, &sorted(value, shape)?),
            _ => out.extend_from_slice(raw.whole),
        }
    }
    Some(out)
}

/// The entries of a map, as they come; prost writes a map's entries one after the other.
struct Entries {
    number: u32,
    list: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Entries {
    fn flush(&mut self, out: &mut Vec<u8>) {
        self.list.sort();
        for (_, entry) in self.list.drain(..) {
            write(out, self.number, &entry);
        }
    }
}

/// The key of a map entry; an absent one is the empty string.
fn entry_key(entry: &[u8]) -> Option<Vec<u8>> {
    let mut rest = entry;
    while !rest.is_empty() {
        let raw = next(&mut rest)?;
        if raw.number == 1 {
            return Some(raw.value?.to_vec());
        }
    }
    Some(Vec::new())
}

fn write(out: &mut Vec<u8>, number: u32, value: &[u8]) {
    encode_key(number, WireType::LengthDelimited, out);
    encode_varint(value.len() as u64, out);
    out.extend_from_slice(value);
}

fn next<'a>(bytes: &mut &'a [u8]) -> Option<Raw<'a>> {
    let start = *bytes;
    let mut rest = start;
    let (number, wire_type) = decode_key(&mut rest).ok()?;
    let mut value = None;
    match wire_type {
        WireType::Varint => {
            decode_varint(&mut rest).ok()?;
        }
        WireType::SixtyFourBit => rest = rest.get(8..)?,
        WireType::ThirtyTwoBit => rest = rest.get(4..)?,
        WireType::LengthDelimited => {
            let length = usize::try_from(decode_varint(&mut rest).ok()?).ok()?;
            value = Some(rest.get(..length)?);
            rest = rest.get(length..)?;
        }
        WireType::StartGroup | WireType::EndGroup => return None,
    }
    *bytes = rest;
    Some(Raw { number, whole: start.get(..start.len() - rest.len())?, value })
}

#[cfg(test)]
mod tests {
    use super::*;
    use outrigger_proto::pb::envoy::config::core::v3::Metadata;
    use outrigger_proto::pb::envoy::config::route::v3::{Route, RouteConfiguration, VirtualHost};
    use outrigger_proto::pb::google::protobuf::{Any, Struct, Value, value::Kind};

    fn routes() -> RouteConfiguration {
        let text = |text: &str| Value { kind: Some(Kind::StringValue(text.into())) };
        let fields = (0..20).map(|n| (format!("field{n}"), text("x"))).collect();
        let metadata = Metadata {
            filter_metadata: [("a".into(), Struct { fields }), ("b".into(), Struct::default())].into(),
            ..Metadata::default()
        };
        let configs: Vec<_> = (0..20).map(|n| (format!("filter{n}"), Any::default())).collect();
        let route = Route {
            name: "r".into(),
            metadata: Some(metadata),
            typed_per_filter_config: configs.into_iter().collect(),
            stat_prefix: "after".into(),
            ..Route::default()
        };
        RouteConfiguration {
            name: "n".into(),
            virtual_hosts: vec![VirtualHost {
                name: "h".into(),
                routes: vec![route.clone(), route],
                ..VirtualHost::default()
            }],
            ..RouteConfiguration::default()
        }
    }

    #[test]
    fn equal_messages_have_equal_bytes() {
        let first = encode(&routes(), &ROUTE_CONFIGURATION);
        for _ in 0..20 {
            assert_eq!(encode(&routes(), &ROUTE_CONFIGURATION), first);
        }
        assert_eq!(RouteConfiguration::decode(first.as_slice()).unwrap(), routes());
    }

    #[test]
    fn rubbish_is_refused_without_panic() {
        for bytes in [&[0xff_u8][..], &[0x12, 0x7f, 1], &[0x0b], &[0x09, 1, 2]] {
            assert_eq!(sorted(bytes, &ROUTE_CONFIGURATION), None);
        }
    }
}
