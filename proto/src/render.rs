//! Messages as YAML and JSON, by Envoy's conventions.
//!
//! [`parse`] reads a text into a message's binary form and names every problem by its path and line; [`to_json`] writes a
//! binary message as JSON. Both walk the tables of `schema`: no message is built in between, so that a configuration of
//! 10,000 clusters takes a fraction of a second. Memory that a large text takes goes back to the system only with the
//! process, so the proxy renders in a short-lived child.
//!
//! - Fields are written in snake_case or camelCase; JSON comes out in snake_case, as from Envoy's `/config_dump`.
//! - An `Any` is a mapping with `@type`; what it holds stands inline, or in `value` for messages with a JSON form of their
//!   own (`Struct`, `Duration`, wrappers ...).
//! - Durations are `1.5s`, bytes are base64, 64-bit numbers may be quoted, enums are names or numbers.
//! - YAML: one document; `key:` without a value is a key that is not set; entries whose key has the tag `!ignore` are left
//!   out. A text that looks like a number or a truth value must be quoted.
//!
//! The binary form of a later text may be appended to that of an earlier one of the same type: protobuf defines that as
//! merging the two, which is what `--config-yaml` over a configuration file means. Decode and encode the result once
//! before it is audited, since [`crate::audit`] rejects a message that is in two pieces.

mod encode;
mod json;
mod plain;
mod print;
mod scalar;
mod suggest;
mod tree;
mod wellknown;
mod yaml;

use std::fmt;

use crate::schema;

pub use print::{Unprintable, to_json};

/// What [`parse`] takes at most.
pub const TEXT_BYTES_MAX: usize = 64 << 20;

/// What a text is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Format {
    /// YAML 1.2.
    Yaml,
    /// JSON.
    Json,
    /// JSON where the text starts with `{`, else YAML.
    Auto,
}

/// How JSON is laid out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// In one line.
    Compact,
    /// Indented by one space a level, as Envoy does.
    Pretty,
}

/// Something wrong in a text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// As the text spells it: `static_resources.listeners[0].filter_chains[0].filters[0].typed_config.stat_prefx`. Empty for
    /// the document as a whole.
    pub path: String,
    /// From 1.
    pub line: Option<u32>,
    /// One sentence without the path.
    pub message: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(line) = self.line {
            write!(f, "line {line}: ")?;
        }
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

/// Reads a text of at most [`TEXT_BYTES_MAX`] as the message `message` (its full name) and returns the binary form.
///
/// # Errors
///
/// Every problem of the text, in its order, up to 1,000. A text that is no YAML or JSON has one, where it stops being so.
pub fn parse(message: &str, text: &[u8], format: Format) -> Result<Vec<u8>, Vec<Problem>> {
    parse_bounded(message, text, format, TEXT_BYTES_MAX)
}

/// [`parse`] with another bound.
///
/// # Errors
///
/// As [`parse`].
pub fn parse_bounded(message: &str, text: &[u8], format: Format, bytes_max: usize) -> Result<Vec<u8>, Vec<Problem>> {
    read_message(message, text, format, bytes_max, false).map(|(bytes, _)| bytes)
}

/// [`parse`], but fields that a message doesn't have are left out, and told beside the binary form.
///
/// # Errors
///
/// As [`parse`], for everything else.
pub fn parse_lenient(message: &str, text: &[u8], format: Format) -> Result<(Vec<u8>, Vec<Problem>), Vec<Problem>> {
    read_message(message, text, format, TEXT_BYTES_MAX, true)
}

fn read_message(
    message: &str,
    text: &[u8],
    format: Format,
    bytes_max: usize,
    lenient: bool,
) -> Result<(Vec<u8>, Vec<Problem>), Vec<Problem>> {
    let whole = |line, message: String| vec![Problem { path: String::new(), line, message }];
    if text.len() > bytes_max {
        return Err(whole(None, format!("is larger than {bytes_max} bytes")));
    }
    let Some(message) = schema::message(message) else {
        return Err(whole(None, format!("there is no message {message}")));
    };
    let text = match std::str::from_utf8(text) {
        Ok(text) => text.strip_prefix('\u{feff}').unwrap_or(text),
        Err(error) => {
            let before = text.get(..error.valid_up_to()).unwrap_or_default();
            let line = before.iter().filter(|byte| **byte == b'\n').count() + 1;
            return Err(whole(u32::try_from(line).ok(), "is not UTF-8".to_owned()));
        }
    };
    let root = read(text, format).map_err(|unreadable| whole(Some(unreadable.line), unreadable.message))?;
    if matches!(root.value, tree::Value::Null) {
        return Err(whole(None, "is empty".to_owned()));
    }
    let mut encoder = encode::Encoder::new(bytes_max);
    encoder.unknown = lenient.then(Vec::new);
    encoder.message(message, &root);
    // The walk follows field numbers; people read from top to bottom.
    let sorted = |mut problems: Vec<Problem>| {
        problems.sort_by_key(|problem| problem.line);
        problems
    };
    if encoder.problems.is_empty() {
        return Ok((encoder.out, sorted(encoder.unknown.unwrap_or_default())));
    }
    Err(sorted(encoder.problems))
}

fn read(text: &str, format: Format) -> Result<tree::Node<'_>, tree::Unreadable> {
    match format {
        Format::Yaml => read_yaml(text),
        Format::Json => json::read(text),
        // A YAML mapping may start so as well; whoever wrote JSON wants to read what is wrong with the JSON.
        Format::Auto if text.trim_start().starts_with('{') => {
            json::read(text).or_else(|unreadable| yaml::read(text).map_err(|_| unreadable))
        }
        Format::Auto => read_yaml(text),
    }
}

fn read_yaml(text: &str) -> Result<tree::Node<'_>, tree::Unreadable> {
    plain::read(text).map_or_else(|| yaml::read(text), Ok)
}

#[cfg(test)]
mod tests;
