//! Serde's view of a [`Json`] value; errors know the path of the value that they are about.

use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    Deserialize, DeserializeSeed, Deserializer, EnumAccess, Error as _, Expected, MapAccess, SeqAccess, Unexpected,
    VariantAccess, Visitor,
};

use super::ConfigError;
use super::json::Json;

/// Reads a typed value.
pub(super) fn from_json<'de, T: Deserialize<'de>>(json: &'de Json) -> Result<T, ConfigError> {
    T::deserialize(Node { json, path: &Path::Root })
        .map_err(|error| ConfigError { path: error.path.unwrap_or_default(), message: error.message })
}

/// Where a value is; it lives on the stack of the reading functions and costs nothing until something is wrong.
enum Path<'a> {
    Root,
    Member(&'a Path<'a>, &'a str),
    Element(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root => Ok(()),
            Path::Member(Path::Root, name) => f.write_str(name),
            Path::Member(parent, name) => write!(f, "{parent}.{name}"),
            Path::Element(parent, index) => write!(f, "{parent}[{index}]"),
        }
    }
}

/// Serde makes errors where it knows no path; [`Node`] adds it on the way up.
#[derive(Debug)]
struct Error {
    path: Option<String>,
    /// A member of the value at `path` that the error is about.
    member: Option<String>,
    message: String,
}

impl Error {
    fn new(message: String) -> Self {
        Self { path: None, member: None, message }
    }

    fn of_member(name: &str, message: String) -> Self {
        Self { path: None, member: Some(name.to_owned()), message }
    }

    /// Gives it a path unless a deeper value did so.
    fn at(mut self, path: &Path<'_>) -> Self {
        if self.path.is_none() {
            self.path = Some(match &self.member {
                Some(name) => Path::Member(path, name).to_string(),
                None => path.to_string(),
            });
        }
        self
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl serde::de::Error for Error {
    fn custom<T: fmt::Display>(message: T) -> Self {
        Self::new(message.to_string())
    }

    // Serde's own texts print floating-point numbers, whose code is larger than this file's.
    fn invalid_type(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("is {}, expected {expected}", Found(found)))
    }

    fn invalid_value(found: Unexpected<'_>, expected: &dyn Expected) -> Self {
        Self::new(format!("is {}, expected {expected}", Found(found)))
    }

    fn unknown_variant(variant: &str, expected: &'static [&'static str]) -> Self {
        Self::new(format!("is `{}`, expected {}", variant.escape_default(), OneOf(expected)))
    }

    fn unknown_field(field: &str, expected: &'static [&'static str]) -> Self {
        Self::of_member(field, format!("unknown field, expected {}", OneOf(expected)))
    }

    fn missing_field(field: &'static str) -> Self {
        Self::of_member(field, "missing".to_owned())
    }

    fn duplicate_field(field: &'static str) -> Self {
        Self::of_member(field, "given twice".to_owned())
    }
}

struct Found<'a>(Unexpected<'a>);

impl fmt::Display for Found<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            Unexpected::Unsigned(number) => number.fmt(f),
            Unexpected::Signed(number) => number.fmt(f),
            Unexpected::Str(text) => write!(f, "\"{}\"", text.escape_default()),
            Unexpected::Bool(value) => value.fmt(f),
            Unexpected::Float(_) => f.write_str("a number"),
            Unexpected::Unit | Unexpected::Option => f.write_str("null"),
            Unexpected::Seq => f.write_str("a list"),
            Unexpected::Map => f.write_str("an object"),
            _ => f.write_str("something else"),
        }
    }
}

struct OneOf(&'static [&'static str]);

impl fmt::Display for OneOf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (at, name) in self.0.iter().enumerate() {
            let before = match at {
                0 => "",
                _ if at + 1 == self.0.len() => " or ",
                _ => ", ",
            };
            write!(f, "{before}`{name}`")?;
        }
        if self.0.is_empty() { f.write_str("none") } else { Ok(()) }
    }
}

/// A value and its path.
#[derive(Clone, Copy)]
struct Node<'a, 'de> {
    json: &'de Json,
    path: &'a Path<'a>,
}

impl Node<'_, '_> {
    fn mismatch(&self, expected: &str) -> Error {
        Error::new(format!("is {}, expected {expected}", self.json.kind())).at(self.path)
    }
}

/// Methods for whole numbers of every width: the visitor checks the range.
macro_rules! whole_numbers {
    ($($method:ident)*) => {
        $(
            fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
                let Json::Number(text) = self.json else { return Err(self.mismatch("a whole number")) };
                let visited = if let Ok(number) = text.parse::<u64>() {
                    visitor.visit_u64(number)
                } else if let Ok(number) = text.parse::<i64>() {
                    visitor.visit_i64(number)
                } else {
                    Err(Error::new(format!("is {text}, expected a whole number of 64 bits")))
                };
                visited.map_err(|error: Error| error.at(self.path))
            }
        )*
    };
}

impl<'de> Deserializer<'de> for Node<'_, 'de> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.json {
            Json::Null => self.deserialize_unit(visitor),
            Json::Bool(_) => self.deserialize_bool(visitor),
            Json::Number(text) if text.parse::<i64>().is_ok() || text.parse::<u64>().is_ok() => {
                self.deserialize_u64(visitor)
            }
            Json::Number(_) => self.deserialize_f64(visitor),
            Json::String(_) => self.deserialize_str(visitor),
            Json::List(_) => self.deserialize_seq(visitor),
            Json::Object(_) => self.deserialize_map(visitor),
        }
    }

    whole_numbers! {
        deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Json::Bool(value) = self.json else { return Err(self.mismatch("true or false")) };
        visitor.visit_bool(*value).map_err(|error: Error| error.at(self.path))
    }

    fn deserialize_f64<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Json::Number(text) = self.json else { return Err(self.mismatch("a number")) };
        match text.parse::<f64>() {
            Ok(number) if number.is_finite() => visitor.visit_f64(number).map_err(|error: Error| error.at(self.path)),
            _ => Err(Error::new(format!("is {text}, which is too large")).at(self.path)),
        }
    }

    fn deserialize_f32<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_f64(visitor)
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Json::String(text) = self.json else { return Err(self.mismatch("a string")) };
        visitor.visit_borrowed_str(text).map_err(|error: Error| error.at(self.path))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_char<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_identifier<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_bytes<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_byte_buf<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.json {
            Json::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
        .map_err(|error: Error| error.at(self.path))
    }

    fn deserialize_unit<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Json::Null = self.json else { return Err(self.mismatch("null")) };
        visitor.visit_unit().map_err(|error: Error| error.at(self.path))
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_unit(visitor)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self).map_err(|error: Error| error.at(self.path))
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Json::List(elements) = self.json else { return Err(self.mismatch("a list")) };
        let mut list = List { elements: elements.iter().enumerate(), path: self.path };
        let value = visitor.visit_seq(&mut list).map_err(|error: Error| error.at(self.path))?;
        match list.elements.next() {
            None => Ok(value),
            Some((index, _)) => {
                Err(Error::new(format!("has {} elements, expected {index}", elements.len())).at(self.path))
            }
        }
    }

    fn deserialize_tuple<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_tuple_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: usize,
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_seq(visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let Json::Object(members) = self.json else { return Err(self.mismatch("an object")) };
        let object = Object { members: members.iter(), value: None, path: self.path };
        visitor.visit_map(object).map_err(|error: Error| error.at(self.path))
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        self.deserialize_map(visitor)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        _: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let variant = match self.json {
            Json::String(name) => Variant { name, value: None, path: self.path },
            Json::Object(members) => match members.as_slice() {
                [(name, value)] => Variant { name, value: Some(value), path: self.path },
                _ => return Err(Error::new("is an object, expected one with one member".to_owned()).at(self.path)),
            },
            _ => return Err(self.mismatch("a string or an object")),
        };
        visitor.visit_enum(variant).map_err(|error: Error| error.at(self.path))
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }
}

struct List<'a, 'de> {
    elements: std::iter::Enumerate<std::slice::Iter<'de, Json>>,
    path: &'a Path<'a>,
}

impl<'de> SeqAccess<'de> for &mut List<'_, 'de> {
    type Error = Error;

    fn next_element_seed<T: DeserializeSeed<'de>>(&mut self, seed: T) -> Result<Option<T::Value>, Error> {
        let Some((index, json)) = self.elements.next() else { return Ok(None) };
        let path = Path::Element(self.path, index);
        seed.deserialize(Node { json, path: &path }).map(Some).map_err(|error: Error| error.at(&path))
    }

    fn size_hint(&self) -> Option<usize> {
        Some(self.elements.len())
    }
}

struct Object<'a, 'de> {
    members: std::slice::Iter<'de, (String, Json)>,
    value: Option<&'de (String, Json)>,
    path: &'a Path<'a>,
}

impl<'de> MapAccess<'de> for Object<'_, 'de> {
    type Error = Error;

    fn next_key_seed<K: DeserializeSeed<'de>>(&mut self, seed: K) -> Result<Option<K::Value>, Error> {
        self.value = self.members.next();
        let Some((name, _)) = self.value else { return Ok(None) };
        seed.deserialize(StrDeserializer::<Error>::new(name)).map(Some)
    }

    fn next_value_seed<V: DeserializeSeed<'de>>(&mut self, seed: V) -> Result<V::Value, Error> {
        let Some((name, json)) = self.value.take() else { return Err(Error::custom("a value without its name")) };
        let path = Path::Member(self.path, name);
        seed.deserialize(Node { json, path: &path }).map_err(|error: Error| error.at(&path))
    }
}

/// An enum's variant: `"name"`, or `{"name": value}`.
struct Variant<'a, 'de> {
    name: &'de str,
    value: Option<&'de Json>,
    path: &'a Path<'a>,
}

impl<'a, 'de> Variant<'a, 'de> {
    fn content<T>(&self, read: impl FnOnce(Node<'_, 'de>) -> Result<T, Error>) -> Result<T, Error> {
        let Some(json) = self.value else {
            return Err(Error::new(format!("is \"{}\", expected an object with its value", self.name)));
        };
        read(Node { json, path: &Path::Member(self.path, self.name) })
    }
}

impl<'de> EnumAccess<'de> for Variant<'_, 'de> {
    type Error = Error;
    type Variant = Self;

    fn variant_seed<V: DeserializeSeed<'de>>(self, seed: V) -> Result<(V::Value, Self), Error> {
        Ok((seed.deserialize(StrDeserializer::<Error>::new(self.name))?, self))
    }
}

impl<'de> VariantAccess<'de> for Variant<'_, 'de> {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        match self.value {
            None | Some(Json::Null) => Ok(()),
            Some(_) => Err(Error::new(format!("`{}` takes no value", self.name))),
        }
    }

    fn newtype_variant_seed<T: DeserializeSeed<'de>>(self, seed: T) -> Result<T::Value, Error> {
        self.content(|node| seed.deserialize(node))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, visitor: V) -> Result<V::Value, Error> {
        self.content(|node| node.deserialize_seq(visitor))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], visitor: V) -> Result<V::Value, Error> {
        self.content(|node| node.deserialize_map(visitor))
    }
}
