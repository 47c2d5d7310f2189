//! Values of attributes.

use std::collections::BTreeMap;

use bytes::Bytes;
use outrigger_http::{MetadataStruct, MetadataValue};

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

impl Property {
    #[must_use]
    pub fn string(text: &str) -> Property {
        Property::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// Follows the rest of a path.
    #[must_use]
    pub fn walk(&self, path: &[&str]) -> Lookup {
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

/// Where a path leads.
#[derive(Debug, PartialEq)]
pub enum Lookup {
    Found(Property),
    Absent,
    /// A group of attributes, which has no encoding of its own.
    NotAValue,
}
