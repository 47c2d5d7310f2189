//! Property values, and how guests see them.
//!
//! Encodings are Envoy's (`serializeValue`): numbers as 8 little-endian bytes, a boolean as one, maps and lists as pairs.

mod attributes;
mod messages;
mod names;

use std::collections::BTreeMap;

use bytes::Bytes;
use outrigger_http::{MetadataStruct, MetadataValue};

use crate::pairs;

pub(crate) use attributes::lookup;
pub(crate) use names::{ROOTS, fields_of};

/// A value that a property path leads to.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Property {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    /// A string, or a message's serialized form.
    Bytes(Bytes),
    Map(BTreeMap<String, Property>),
    List(Vec<Property>),
}

/// Trees of metadata are not deeper than this.
const DEPTH_MAX: usize = 32;

impl Property {
    #[must_use]
    pub fn string(text: &str) -> Property {
        Property::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// As guests see it; `None` for what has no encoding.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        self.encode_at(0)
    }

    fn encode_at(&self, depth: usize) -> Option<Bytes> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match self {
            Property::Null => return None,
            Property::Bool(value) => Bytes::copy_from_slice(&[u8::from(*value)]),
            Property::Int(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
            Property::Uint(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
            Property::Double(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
            Property::Bytes(bytes) => bytes.clone(),
            Property::Map(map) => encode_pairs(map.iter().filter_map(|(key, value)| {
                // An entry without an encoding (null) is left out rather than taking the map with it.
                Some((Bytes::copy_from_slice(key.as_bytes()), value.encode_at(depth + 1)?))
            })),
            Property::List(list) => {
                encode_pairs(list.iter().filter_map(|value| Some((value.encode_at(depth + 1)?, Bytes::new()))))
            }
        })
    }

    /// Follows the rest of a path.
    fn walk(&self, path: &[&str]) -> Lookup {
        let Some((first, rest)) = path.split_first() else { return Lookup::Found(self.clone()) };
        let next = match self {
            Property::Map(map) => map.get(*first),
            Property::List(list) => first.parse().ok().and_then(|index: usize| list.get(index)),
            _ => None,
        };
        next.map_or(Lookup::Absent, |next| next.walk(rest))
    }
}

impl From<&MetadataValue> for Property {
    fn from(value: &MetadataValue) -> Property {
        match value {
            MetadataValue::Null => Property::Null,
            MetadataValue::Bool(value) => Property::Bool(*value),
            MetadataValue::Number(bits) => Property::Double(f64::from_bits(*bits)),
            MetadataValue::String(text) => Property::string(text),
            MetadataValue::List(values) => Property::List(values.iter().map(Property::from).collect()),
            MetadataValue::Struct(fields) => Property::from(fields),
        }
    }
}

impl From<&MetadataStruct> for Property {
    fn from(fields: &MetadataStruct) -> Property {
        Property::Map(fields.iter().map(|(key, value)| (key.to_string(), Property::from(value))).collect())
    }
}

fn encode_pairs(pairs: impl Iterator<Item = (Bytes, Bytes)>) -> Bytes {
    let pairs: Vec<(Bytes, Bytes)> = pairs.collect();
    let mut out = vec![0; pairs::encoded_len(pairs.iter().map(|(key, value)| (key.len(), value.len())))];
    pairs::encode_into(&mut out, pairs.len(), |each| pairs.iter().for_each(|(key, value)| each(key, value)));
    out.into()
}

/// Where a path leads.
#[derive(Debug, PartialEq)]
pub(crate) enum Lookup {
    Found(Property),
    Absent,
    /// A group of attributes, which has no encoding of its own.
    NotAValue,
}

/// What `declare_property` said of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Declared {
    /// Can be set once a stream.
    pub(crate) readonly: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_envoys() {
        let check = |property: Property, expected: Option<&[u8]>| {
            assert_eq!(property.encode().as_deref(), expected, "{property:?}");
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
        assert!(deep.encode().is_some_and(|bytes| bytes.len() < 4096));
    }
}
