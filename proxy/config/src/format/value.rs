//! What an operator evaluates to, and how that is written.

use std::borrow::Cow;
use std::fmt::Display;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, SystemTime};

use outrigger_http::{MetadataStruct, MetadataValue, ResponseFlags};

use super::time::TimeFormat;
use crate::json;

/// What an operator evaluates to.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    Absent,
    Number(i64),
    Bytes(&'a [u8]),
    Address(SocketAddr),
    Ip(IpAddr),
    Flags(ResponseFlags),
    LongFlags(ResponseFlags),
    Time(&'a TimeFormat, SystemTime),
    /// As [`Value::Bytes`], put together.
    Owned(Vec<u8>),
    /// What is no text, as JSON and among text.
    Typed {
        json: Vec<u8>,
        text: Vec<u8>,
    },
    Metadata(&'a MetadataValue),
    Struct(&'a MetadataStruct),
}

impl<'a> Value<'a> {
    pub(crate) fn of(bytes: Cow<'a, [u8]>) -> Value<'a> {
        match bytes {
            Cow::Borrowed(bytes) => Value::Bytes(bytes),
            Cow::Owned(bytes) => Value::Owned(bytes),
        }
    }

    /// Bytes in hexadecimal digits.
    pub(crate) fn hex(bytes: &[u8]) -> Value<'static> {
        Value::Owned(outrigger_http::hex(bytes).into_bytes())
    }

    /// A value of metadata that is no text, as JSON.
    pub(crate) fn json(&self) -> Option<Vec<u8>> {
        let mut out = Vec::new();
        match self {
            Value::Metadata(MetadataValue::String(_) | MetadataValue::Null) => return None,
            Value::Metadata(value) => json::write_value(value, &mut out),
            Value::Struct(fields) => json::write_struct(fields, &mut out),
            Value::Typed { json, .. } => out.extend_from_slice(json),
            _ => return None,
        }
        Some(out)
    }

    /// Whether there is nothing to write.
    pub(crate) fn is_absent(&self) -> bool {
        matches!(self, Value::Absent | Value::Metadata(MetadataValue::Null))
    }

    /// Whether it is a text without a character.
    pub(crate) fn is_empty(&self) -> bool {
        match self {
            Value::Bytes(bytes) => bytes.is_empty(),
            Value::Owned(bytes) => bytes.is_empty(),
            Value::Metadata(MetadataValue::String(text)) => text.is_empty(),
            _ => false,
        }
    }

    /// A text of at most so many bytes; other values as they are.
    pub(crate) fn cut_to(self, max: Option<usize>) -> Value<'a> {
        match self {
            Value::Bytes(bytes) => Value::Bytes(cut(bytes, max)),
            Value::Metadata(MetadataValue::String(text)) => Value::Bytes(cut(text.as_bytes(), max)),
            Value::Owned(mut bytes) => {
                bytes.truncate(max.unwrap_or(usize::MAX));
                Value::Owned(bytes)
            }
            other => other,
        }
    }

    /// Appends at most `max` bytes of the value; nothing where it is absent.
    pub(crate) fn write(&self, out: &mut Vec<u8>, max: Option<usize>) {
        let start = out.len();
        match self {
            Value::Absent | Value::Metadata(MetadataValue::Null) => {}
            Value::Number(number) => display(number, out),
            Value::Bytes(bytes) => out.extend_from_slice(cut(bytes, max)),
            Value::Address(address) => display(address, out),
            Value::Ip(ip) => display(ip, out),
            Value::Flags(flags) => display(flags, out),
            // Writing to a vector cannot fail.
            Value::LongFlags(flags) => _ = write!(out, "{flags:#}"),
            Value::Metadata(MetadataValue::String(text)) => out.extend_from_slice(cut(text.as_bytes(), max)),
            Value::Metadata(value) => json::write_value(value, out),
            Value::Struct(fields) => json::write_struct(fields, out),
            Value::Time(format, time) => format.write(*time, out),
            Value::Owned(bytes) | Value::Typed { text: bytes, .. } => out.extend_from_slice(cut(bytes, max)),
        }
        if let Some(max) = max {
            out.truncate(start.saturating_add(max).min(out.len()));
        }
    }

    /// The same with control bytes as `\x1b`, so that a value can't end a line or steer a terminal.
    pub(crate) fn write_escaped(&self, out: &mut Vec<u8>, max: Option<usize>) {
        let bytes: &[u8] = match self {
            Value::Bytes(bytes) => bytes,
            Value::Metadata(MetadataValue::String(text)) => text.as_bytes(),
            Value::Owned(bytes) => bytes,
            _ => return self.write(out, max),
        };
        for byte in cut(bytes, max) {
            match byte {
                0..0x20 | 0x7f => {
                    // Writing to a vector cannot fail.
                    let _ = write!(out, "\\x{byte:02x}");
                }
                byte => out.push(*byte),
            }
        }
    }
}

fn cut(bytes: &[u8], max: Option<usize>) -> &[u8] {
    &bytes[..max.unwrap_or(usize::MAX).min(bytes.len())]
}

fn display(value: &impl Display, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
}

/// Empty text is absent.
pub(crate) fn text(text: &str) -> Value<'_> {
    if text.is_empty() { Value::Absent } else { Value::Bytes(text.as_bytes()) }
}

pub(crate) fn number(number: u64) -> Value<'static> {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

pub(crate) fn millis(duration: Option<Duration>) -> Value<'static> {
    duration.map_or(Value::Absent, |duration| Value::Number(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
}
