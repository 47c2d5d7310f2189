//! Properties as guests read and see them: attributes of the stream, and what is the plugin's and the node's.
//!
//! Encodings are Envoy's (`serializeValue`): numbers as 8 little-endian bytes, a boolean as one, maps and lists as pairs.

use bytes::Bytes;
use outrigger_attributes::{Lookup, Objects, Property, of_connection, of_stream};

use crate::host::Host;
use crate::pairs;

/// Trees of metadata are not deeper than this.
const DEPTH_MAX: usize = 32;

/// The value of a path, as the effective context sees it.
pub(crate) fn lookup(host: &Host, path: &[&str]) -> Lookup {
    let text = |text: &str| Lookup::Found(Property::string(text));
    match path {
        [] | [""] | ["request" | "response" | "xds"] => Lookup::NotAValue,
        ["plugin_name"] => text(&host.plugin.name),
        ["plugin_root_id"] => text(&host.plugin.root_id),
        ["plugin_vm_id"] => text(&host.plugin.vm.vm_id),
        ["xds", "node", rest @ ..] | ["node", rest @ ..] => host.services.node.lookup(rest),
        _ => {
            let Some((_, stream)) = host.stream() else { return Lookup::Absent };
            let Ok(state) = stream.state.try_borrow() else { return Lookup::Absent };
            let objects = host.worker.as_ref().map(|worker| &*worker.0 as &dyn Objects);
            if stream.is_connection() { of_connection(&state, objects, path) } else { of_stream(&state, objects, path) }
        }
    }
}

/// As guests see it; `None` for what has no encoding.
pub(crate) fn encode(property: &Property) -> Option<Bytes> {
    encode_at(property, 0)
}

fn encode_at(property: &Property, depth: usize) -> Option<Bytes> {
    if depth > DEPTH_MAX {
        return None;
    }
    Some(match property {
        Property::Null => return None,
        Property::Bool(value) => Bytes::copy_from_slice(&[u8::from(*value)]),
        Property::Int(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
        Property::Uint(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
        Property::Double(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
        Property::Bytes(bytes) => bytes.clone(),
        Property::Map(map) => encode_pairs(map.iter().filter_map(|(key, value)| {
            // An entry without an encoding (null) is left out rather than taking the map with it.
            Some((Bytes::copy_from_slice(key.as_bytes()), encode_at(value, depth + 1)?))
        })),
        Property::List(list) => {
            encode_pairs(list.iter().filter_map(|value| Some((encode_at(value, depth + 1)?, Bytes::new()))))
        }
    })
}

fn encode_pairs(pairs: impl Iterator<Item = (Bytes, Bytes)>) -> Bytes {
    let pairs: Vec<(Bytes, Bytes)> = pairs.collect();
    let mut out = vec![0; pairs::encoded_len(pairs.iter().map(|(key, value)| (key.len(), value.len())))];
    pairs::encode_into(&mut out, pairs.len(), |each| pairs.iter().for_each(|(key, value)| each(key, value)));
    out.into()
}

/// What `declare_property` said of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Declared {
    /// Can be set once a stream.
    pub(crate) readonly: bool,
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn encodings_are_envoys() {
        let check = |property: Property, expected: Option<&[u8]>| {
            assert_eq!(encode(&property).as_deref(), expected, "{property:?}");
        };
        check(Property::Null, None);
        check(Property::Bool(true), Some(&[1]));
        check(Property::Int(-2), Some(&(-2i64).to_le_bytes()));
        check(Property::Double(1.5), Some(&1.5f64.to_le_bytes()));
        check(Property::string("x"), Some(b"x"));
        let map = BTreeMap::from([("a".to_owned(), Property::Bool(false)), ("n".to_owned(), Property::Null)]);
        check(Property::Map(map), Some(b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a\0\0\0"));
        check(Property::List(vec![Property::string("v")]), Some(b"\x01\0\0\0\x01\0\0\0\0\0\0\0v\0\0"));
        let deep = (0..100).fold(Property::Bool(true), |inner, _| Property::List(vec![inner]));
        assert!(encode(&deep).is_some_and(|bytes| bytes.len() < 4096));
    }
}
