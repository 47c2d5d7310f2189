//! A message's binary form to JSON.
//!
//! What is set on the wire is printed, in the order of field numbers. Fields that the API marks as sensitive (private keys,
//! inline secrets) are not: as in Envoy their text becomes `[redacted]`, their bytes the base64 of it, and anything else
//! below them is left out. An `Any` of a type that we don't know, or whose bytes don't fit their type, is printed as the
//! base64 of its bytes.

mod special;

use std::collections::BTreeMap;
use std::fmt;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use super::Style;
use super::wellknown::{duration_text, timestamp_text};
use crate::schema::{self, Field, Kind, Message, WellKnown, WireType};
use crate::wire::{Malformed, Reader, Value};

const REDACTED: &str = "[redacted]";
/// Messages within messages; what prost decodes at most.
const DEPTH_MAX: usize = 100;

/// Why a message can't be printed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unprintable {
    /// There is no message of this name.
    UnknownMessage(String),
    /// The bytes are no such message.
    Malformed(Malformed),
    /// Messages are nested more than 100 deep.
    TooDeep,
}

impl fmt::Display for Unprintable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::UnknownMessage(name) => write!(f, "there is no message {name}"),
            Self::Malformed(malformed) => malformed.fmt(f),
            Self::TooDeep => f.write_str("the message is nested too deep"),
        }
    }
}

impl std::error::Error for Unprintable {}

impl From<Malformed> for Unprintable {
    fn from(malformed: Malformed) -> Self {
        Self::Malformed(malformed)
    }
}

/// Writes a message of the type `message` (its full name) in its binary form as JSON.
///
/// # Errors
///
/// If there is no such message or the bytes are none.
pub fn to_json(message: &str, bytes: &[u8], style: Style) -> Result<String, Unprintable> {
    let schema = schema::message(message).ok_or_else(|| Unprintable::UnknownMessage(message.to_owned()))?;
    let mut printer = Printer { out: String::with_capacity(bytes.len() * 2), style, level: 0, redact: false };
    printer.message(schema, bytes, 0)?;
    Ok(printer.out)
}

struct Printer {
    out: String,
    style: Style,
    /// Objects and arrays around.
    level: usize,
    /// Within a sensitive field.
    redact: bool,
}

impl Printer {
    fn message(&mut self, message: &'static Message, bytes: &[u8], depth: usize) -> Result<(), Unprintable> {
        if depth > DEPTH_MAX {
            return Err(Unprintable::TooDeep);
        }
        match message.well_known() {
            WellKnown::None | WellKnown::Empty => {
                self.open('{');
                let mut first = true;
                self.fields(message, bytes, depth, &mut first)?;
                self.close('}', first);
                Ok(())
            }
            WellKnown::Any => self.any(bytes, depth),
            WellKnown::Wrapper => self.wrapper(message, bytes, depth),
            WellKnown::Duration | WellKnown::Timestamp => {
                let (seconds, nanos) = instant(bytes)?;
                let text = match message.well_known() {
                    WellKnown::Duration => duration_text(seconds, nanos),
                    _ => timestamp_text(seconds, nanos),
                };
                match text {
                    Some(text) => self.text(&text),
                    None => self.out.push_str("null"),
                }
                Ok(())
            }
            WellKnown::Struct => self.structure(bytes, depth),
            WellKnown::ListValue => self.list_value(bytes, depth),
            WellKnown::Value => self.value(bytes, depth),
        }
    }

    /// A message's members within braces that are open; the sets of a field belong together, wherever they stand.
    fn fields(
        &mut self,
        message: &'static Message,
        bytes: &[u8],
        depth: usize,
        first: &mut bool,
    ) -> Result<(), Unprintable> {
        let mut reader = Reader::new(bytes);
        let mut sets: Vec<(&'static Field, Value<'_>)> = Vec::new();
        while let Some((number, value)) = reader.field()? {
            let Some(field) = message.field_numbered(number) else { continue };
            if field.oneof().is_some() {
                // The last of a oneof counts.
                sets.retain(|(other, _)| other.oneof() != field.oneof() || other.number() == number);
            }
            sets.push((field, value));
        }
        sets.sort_by_key(|(field, _)| field.number());
        for of_field in sets.chunk_by(|(a, _), (b, _)| a.number() == b.number()) {
            let Some((field, _)) = of_field.first() else { continue };
            let hidden = self.redact;
            if hidden && !matches!(field.kind(), Kind::String | Kind::Bytes | Kind::Message) {
                continue;
            }
            self.key(field.name(), first);
            self.redact = hidden || field.is_sensitive();
            let printed = self.field(field, of_field, depth);
            self.redact = hidden;
            printed?;
        }
        Ok(())
    }

    fn field(
        &mut self,
        field: &'static Field,
        sets: &[(&'static Field, Value<'_>)],
        depth: usize,
    ) -> Result<(), Unprintable> {
        if field.is_map() {
            return self.map(field, sets, depth);
        }
        if field.is_repeated() {
            self.open('[');
            let mut first = true;
            for (_, value) in sets {
                self.elements(field, *value, depth, &mut first)?;
            }
            self.close(']', first);
            return Ok(());
        }
        let Some((_, last)) = sets.last() else { return Ok(()) };
        match field.message() {
            // Pieces of one message are merged, which is what writing them one after the other means.
            Some(message) if sets.len() > 1 => {
                let mut whole = Vec::new();
                for (_, value) in sets {
                    whole.extend_from_slice(delimited(*value)?);
                }
                self.message(message, &whole, depth + 1)
            }
            _ => self.single(field, *last, depth),
        }
    }

    /// One set of a repeated field: an element, or several that are packed.
    fn elements(
        &mut self,
        field: &'static Field,
        value: Value<'_>,
        depth: usize,
        first: &mut bool,
    ) -> Result<(), Unprintable> {
        let wire_type = field.kind().wire_type();
        let Value::Delimited(bytes) = value else {
            self.separate(first);
            return self.single(field, value, depth);
        };
        if wire_type == WireType::Delimited {
            self.separate(first);
            return self.single(field, value, depth);
        }
        let mut reader = Reader::new(bytes);
        while !reader.is_empty() {
            let element = reader.element(wire_type)?;
            self.separate(first);
            self.single(field, element, depth)?;
        }
        Ok(())
    }

    fn map(
        &mut self,
        field: &'static Field,
        sets: &[(&'static Field, Value<'_>)],
        depth: usize,
    ) -> Result<(), Unprintable> {
        let Some((key_field, value_field)) = field.map_entry() else { return Ok(()) };
        let mut entries = BTreeMap::new();
        for (_, set) in sets {
            let (mut key, mut value) = (None, None);
            let mut reader = Reader::new(delimited(*set)?);
            while let Some((number, part)) = reader.field()? {
                match number {
                    1 => key = Some(part),
                    2 => value = Some(part),
                    _ => {}
                }
            }
            // The last of a key counts.
            entries.insert(key_text(key_field, key)?, value);
        }
        self.open('{');
        let mut first = true;
        for (key, value) in entries {
            self.key(&key, &mut first);
            self.single(value_field, value.unwrap_or_else(|| default_of(value_field)), depth + 1)?;
        }
        self.close('}', first);
        Ok(())
    }

    fn single(&mut self, field: &'static Field, value: Value<'_>, depth: usize) -> Result<(), Unprintable> {
        if let Some(message) = field.message() {
            return self.message(message, delimited(value)?, depth + 1);
        }
        match (field.kind(), value) {
            (Kind::String, Value::Delimited(_)) if self.redact => self.text(REDACTED),
            (Kind::String, Value::Delimited(bytes)) => self.text(&String::from_utf8_lossy(bytes)),
            (Kind::Bytes, Value::Delimited(_)) if self.redact => self.text(&STANDARD.encode(REDACTED)),
            (Kind::Bytes, Value::Delimited(bytes)) => self.text(&STANDARD.encode(bytes)),
            (Kind::Bool, Value::Varint(number)) => self.out.push_str(if number == 0 { "false" } else { "true" }),
            (Kind::Enum, Value::Varint(number)) => match field.enumeration() {
                Some(enumeration) => self.enum_value(enumeration, number),
                None => self.plain(number),
            },
            (Kind::Int32, Value::Varint(number)) => self.plain(number as i32),
            (Kind::Uint32, Value::Varint(number)) => self.plain(number as u32),
            (Kind::Sint32, Value::Varint(number)) => self.plain(unzigzag(number) as i32),
            (Kind::Fixed32, Value::Fixed32(number)) => self.plain(number),
            (Kind::Sfixed32, Value::Fixed32(number)) => self.plain(number as i32),
            (Kind::Float, Value::Fixed32(bits)) => self.float(f32::from_bits(bits)),
            (Kind::Double, Value::Fixed64(bits)) => self.double(f64::from_bits(bits)),
            // JSON's numbers are doubles, so that these are texts.
            (Kind::Int64, Value::Varint(number)) => self.text(&(number as i64).to_string()),
            (Kind::Uint64, Value::Varint(number)) => self.text(&number.to_string()),
            (Kind::Sint64, Value::Varint(number)) => self.text(&unzigzag(number).to_string()),
            (Kind::Fixed64, Value::Fixed64(number)) => self.text(&number.to_string()),
            (Kind::Sfixed64, Value::Fixed64(number)) => self.text(&(number as i64).to_string()),
            _ => return Err(Malformed::Mismatch.into()),
        }
        Ok(())
    }
}

fn delimited(value: Value<'_>) -> Result<&[u8], Malformed> {
    match value {
        Value::Delimited(bytes) => Ok(bytes),
        _ => Err(Malformed::Mismatch),
    }
}

/// What a field is that is not on the wire.
fn default_of(field: &Field) -> Value<'static> {
    match field.kind().wire_type() {
        WireType::Varint => Value::Varint(0),
        WireType::Fixed64 => Value::Fixed64(0),
        WireType::Fixed32 => Value::Fixed32(0),
        WireType::Delimited => Value::Delimited(&[]),
    }
}

/// A map's key as JSON spells it.
fn key_text(field: &Field, key: Option<Value<'_>>) -> Result<String, Malformed> {
    Ok(match (field.kind(), key.unwrap_or_else(|| default_of(field))) {
        (Kind::String, Value::Delimited(bytes)) => String::from_utf8_lossy(bytes).into_owned(),
        (Kind::Bool, Value::Varint(number)) => (number != 0).to_string(),
        (Kind::Int32 | Kind::Int64, Value::Varint(number)) => (number as i64).to_string(),
        (Kind::Sint32 | Kind::Sint64, Value::Varint(number)) => unzigzag(number).to_string(),
        (_, Value::Varint(number) | Value::Fixed64(number)) => number.to_string(),
        (_, Value::Fixed32(number)) => number.to_string(),
        (_, Value::Delimited(_)) => return Err(Malformed::Mismatch),
    })
}

fn unzigzag(number: u64) -> i64 {
    (number >> 1) as i64 ^ -((number & 1) as i64)
}

/// Seconds and nanoseconds.
fn instant(bytes: &[u8]) -> Result<(i64, i32), Malformed> {
    let (mut seconds, mut nanos) = (0, 0);
    let mut reader = Reader::new(bytes);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Value::Varint(number)) => seconds = number as i64,
            (2, Value::Varint(number)) => nanos = number as i32,
            _ => {}
        }
    }
    Ok((seconds, nanos))
}
