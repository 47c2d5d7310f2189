//! Which fields of a message are set and not supported.
//!
//! The walk goes over the message's bytes, so that nothing is lost that a decoder drops: fields of a newer API, fields that
//! the Rust types lack. `supported.txt` says what is supported; what is not is a rejection, or a warning where the file
//! says that it can't change what is served or allowed. An `Any` is followed by its type URL.

use std::fmt::{self, Write};

use crate::schema::{self, Class, Field, Kind, Message, WellKnown};
use crate::type_url;
use crate::wire::{Malformed, Reader, Value};

/// Rejections after which the walk stops, and warnings after which no further one is kept. A rejection is never lost to
/// warnings before it.
pub const FINDINGS_MAX: usize = 1000;

/// Messages within messages; what prost decodes at most.
const DEPTH_MAX: usize = 100;

/// A field that is set and not supported.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// From the audited message on, as in YAML: `filter_chains[0].filters[0].typed_config.tracing`. For what has no name,
    /// the message that holds it.
    pub path: String,
    /// Whether the resource must be rejected.
    pub severity: Severity,
    /// What is wrong there.
    pub problem: Problem,
}

/// What a finding means for the resource.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Severity {
    /// The field is ignored, and can't change what is served or allowed.
    Warn,
    /// It could.
    Reject,
}

/// What is wrong with a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// It is not supported.
    Unsupported,
    /// The message has no field of this number in the API's version that we were built with.
    UnknownField(u32),
    /// An `Any` holds a message that is not supported, or that no API which we know defines.
    UnsupportedType(String),
    /// The bytes are no such message.
    Malformed(Malformed),
    /// A message that may stand once stands twice: a decoder would merge the two, into what nobody wrote.
    Repeated,
    /// Messages are nested more than 100 deep.
    TooDeep,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        match &self.problem {
            Problem::Unsupported => f.write_str("is not supported"),
            Problem::UnknownField(number) => write!(f, "unknown field {number}"),
            Problem::UnsupportedType(name) if name.is_empty() => f.write_str("has no type URL"),
            Problem::UnsupportedType(name) => write!(f, "type {name} is not supported"),
            Problem::Malformed(malformed) => malformed.fmt(f),
            Problem::Repeated => f.write_str("is set twice"),
            Problem::TooDeep => f.write_str("is nested too deep"),
        }?;
        match self.severity {
            Severity::Warn => f.write_str(" (ignored)"),
            Severity::Reject => Ok(()),
        }
    }
}

/// Audits a message of the type `full_name` in its binary form.
///
/// The findings are in the order of the bytes. A message that can't be read has a rejection as its last finding.
pub fn audit(full_name: &str, bytes: &[u8]) -> Vec<Finding> {
    let mut audit = Audit::default();
    audit.typed(full_name, bytes, &Path::Root, 0);
    audit.findings
}

/// Where the walk is: a list through the stack frames, turned into text only for a finding.
enum Path<'p> {
    Root,
    Field { parent: &'p Path<'p>, name: &'static str },
    Element { parent: &'p Path<'p>, name: &'static str, index: usize },
    Entry { parent: &'p Path<'p>, name: &'static str, key: &'p [u8] },
}

impl Path<'_> {
    fn write(&self, to: &mut String) {
        let (Path::Field { parent, name } | Path::Element { parent, name, .. } | Path::Entry { parent, name, .. }) =
            self
        else {
            return;
        };
        parent.write(to);
        if !to.is_empty() {
            to.push('.');
        }
        to.push_str(name);
        let written = match self {
            Path::Element { index, .. } => write!(to, "[{index}]"),
            Path::Entry { key, .. } => write!(to, "[\"{}\"]", String::from_utf8_lossy(key).escape_debug()),
            _ => Ok(()),
        };
        debug_assert!(written.is_ok(), "writing to a String can't fail");
    }
}

#[derive(Default)]
struct Audit {
    findings: Vec<Finding>,
    rejections: usize,
    warnings: usize,
}

impl Audit {
    fn is_full(&self) -> bool {
        self.rejections >= FINDINGS_MAX
    }

    fn report(&mut self, path: &Path<'_>, severity: Severity, problem: Problem) {
        let count = match severity {
            Severity::Warn => &mut self.warnings,
            Severity::Reject => &mut self.rejections,
        };
        if *count >= FINDINGS_MAX {
            return;
        }
        *count += 1;
        let mut text = String::new();
        path.write(&mut text);
        self.findings.push(Finding { path: text, severity, problem });
    }

    /// The audited message itself, or what an `Any` holds.
    fn typed(&mut self, full_name: &str, bytes: &[u8], path: &Path<'_>, depth: usize) {
        let message = schema::message(full_name);
        let severity = match message.map_or(Class::Reject, Message::class) {
            Class::Warn => Severity::Warn,
            Class::Reject => Severity::Reject,
            Class::Supported | Class::Opaque => {
                if let Some(message) = message {
                    self.message(message, bytes, path, depth);
                }
                return;
            }
        };
        self.report(path, severity, Problem::UnsupportedType(full_name.to_owned()));
    }

    fn message(&mut self, message: &'static Message, bytes: &[u8], path: &Path<'_>, depth: usize) {
        if depth > DEPTH_MAX {
            return self.report(path, Severity::Reject, Problem::TooDeep);
        }
        match message.well_known() {
            WellKnown::None => {}
            WellKnown::Any => return self.any(bytes, path, depth),
            _ => return,
        }
        let mut reader = Reader::new(bytes);
        let mut instance = Instance::default();
        loop {
            match reader.field() {
                Ok(Some((number, value))) => self.field(message, number, value, path, depth, &mut instance),
                Ok(None) => return,
                Err(malformed) => return self.report(path, Severity::Reject, Problem::Malformed(malformed)),
            }
            if self.is_full() {
                return;
            }
        }
    }

    fn field(
        &mut self,
        message: &'static Message,
        number: u32,
        value: Value<'_>,
        path: &Path<'_>,
        depth: usize,
        instance: &mut Instance,
    ) {
        let Some(field) = message.field_numbered(number) else {
            if instance.is_first(number) {
                self.report(path, Severity::Reject, Problem::UnknownField(number));
            }
            return;
        };
        let severity = match field.class() {
            Class::Opaque => return,
            Class::Supported => return self.supported(field, value, path, depth, instance),
            Class::Warn => Severity::Warn,
            Class::Reject => Severity::Reject,
        };
        // A list that is not supported is one finding, however long it is.
        if changes_nothing(field, value) || !instance.is_first(number) {
            return;
        }
        self.report(&Path::Field { parent: path, name: field.name() }, severity, Problem::Unsupported);
    }

    /// Nothing is wrong with the field itself: look below it.
    fn supported(
        &mut self,
        field: &'static Field,
        value: Value<'_>,
        parent: &Path<'_>,
        depth: usize,
        instance: &mut Instance,
    ) {
        let Some(message) = field.message() else { return };
        let name = field.name();
        let Value::Delimited(bytes) = value else {
            let path = Path::Field { parent, name };
            return self.report(&path, Severity::Reject, Problem::Malformed(Malformed::Mismatch));
        };
        if field.is_map() {
            self.entry(message, bytes, parent, name, depth);
        } else if field.is_repeated() {
            let index = instance.next_index(field.number());
            self.message(message, bytes, &Path::Element { parent, name, index }, depth + 1);
        } else if instance.is_first(field.number()) {
            self.message(message, bytes, &Path::Field { parent, name }, depth + 1);
        } else {
            self.report(&Path::Field { parent, name }, Severity::Reject, Problem::Repeated);
        }
    }

    /// A map's entry: its value is what may hold findings, its key is part of their path.
    fn entry(&mut self, entry: &'static Message, bytes: &[u8], parent: &Path<'_>, name: &'static str, depth: usize) {
        let Some(target) = entry.field_numbered(2).and_then(Field::message) else { return };
        match pair(bytes) {
            Ok((key, value)) => self.message(target, value, &Path::Entry { parent, name, key }, depth + 2),
            Err(malformed) => {
                self.report(&Path::Field { parent, name }, Severity::Reject, Problem::Malformed(malformed));
            }
        }
    }

    fn any(&mut self, bytes: &[u8], path: &Path<'_>, depth: usize) {
        match pair(bytes) {
            // An Any that holds nothing; whether that will do is for the decoder to say.
            Ok((b"", b"")) => {}
            Ok((url, value)) => {
                let url = String::from_utf8_lossy(url);
                self.typed(type_url::message_name(&url), value, path, depth + 1);
            }
            Err(malformed) => self.report(path, Severity::Reject, Problem::Malformed(malformed)),
        }
    }
}

/// Fields 1 and 2, both strings, bytes or messages: a map's entry, an `Any`.
fn pair(bytes: &[u8]) -> Result<(&[u8], &[u8]), Malformed> {
    let mut reader = Reader::new(bytes);
    let (mut first, mut second) = (&[][..], &[][..]);
    while let Some((number, value)) = reader.field()? {
        match (number, value) {
            (1, Value::Delimited(bytes)) => first = bytes,
            (2, Value::Delimited(bytes)) => second = bytes,
            _ => {}
        }
    }
    Ok((first, second))
}

/// What the walk remembers about one message while it reads it.
#[derive(Default)]
struct Instance {
    /// Repeated fields and how many elements were seen.
    counts: Vec<(u32, usize)>,
    /// One bit for each of the fields 0 to 63.
    seen: u64,
    seen_high: Vec<u32>,
}

impl Instance {
    fn next_index(&mut self, number: u32) -> usize {
        match self.counts.iter_mut().rev().find(|(counted, _)| *counted == number) {
            Some((_, count)) => {
                *count += 1;
                *count
            }
            None => {
                self.counts.push((number, 0));
                0
            }
        }
    }

    /// Whether a field that is not repeated, or not known, is met for the first time.
    fn is_first(&mut self, number: u32) -> bool {
        if let Some(bit) = 1_u64.checked_shl(number) {
            let first = self.seen & bit == 0;
            self.seen |= bit;
            return first;
        }
        let first = !self.seen_high.contains(&number);
        // A message of many unknown fields is rejected by the first of them.
        if first && self.seen_high.len() < FINDINGS_MAX {
            self.seen_high.push(number);
        }
        first
    }
}

/// Whether a field that is not supported is set to what holds without it.
fn changes_nothing(field: &Field, value: Value<'_>) -> bool {
    let scalar = match value {
        Value::Varint(number) | Value::Fixed64(number) => Some(number),
        Value::Fixed32(number) => Some(u64::from(number)),
        Value::Delimited(_) => None,
    };
    let is_default = match value {
        Value::Delimited(bytes) => bytes.is_empty(),
        _ => scalar == Some(0),
    };
    // A zero without presence is what an encoder need not have written.
    if is_default && !field.is_repeated() && !field.has_presence() && field.kind() != Kind::Message {
        return true;
    }
    if field.inert().is_empty() || field.is_repeated() {
        return false;
    }
    let number = match (value, field.message()) {
        (Value::Delimited(bytes), Some(message)) => wrapped(message, bytes),
        _ => scalar,
    };
    number.is_some_and(|number| field.inert().contains(&number))
}

/// The number in a wrapper, the nanoseconds of a duration, 0 for a message without fields.
fn wrapped(message: &Message, bytes: &[u8]) -> Option<u64> {
    let mut reader = Reader::new(bytes);
    let (mut first, mut second) = (0, 0);
    while let Some((number, value)) = reader.field().ok()? {
        match (number, value, message.well_known()) {
            (1, Value::Varint(number), WellKnown::Wrapper | WellKnown::Duration) => first = number,
            (2, Value::Varint(number), WellKnown::Duration) => second = number,
            _ => return None,
        }
    }
    match message.well_known() {
        WellKnown::Duration => first.checked_mul(1_000_000_000)?.checked_add(second),
        _ => Some(first),
    }
}

#[cfg(test)]
mod tests;
