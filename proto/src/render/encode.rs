//! A tree to a message's binary form, written while the tree is walked.
//!
//! The result is what a protobuf library writes: fields in the order of their numbers, maps in the order of their keys,
//! numbers packed, defaults left out. Equal messages so have equal bytes. A problem is noted and the walk goes on, so that
//! one run names them all.

mod special;

use std::borrow::Cow;
use std::fmt::Write;

use super::scalar::{self, Scalar};
use super::suggest;
use super::tree::{Entry, Node, Value, excerpt};
use super::{Problem, wellknown};
use crate::schema::{Field, Kind, Message, WellKnown, WireType};
use crate::wire::{self, close, open, put_key};

/// Problems that are kept.
const PROBLEMS_MAX: usize = 1000;

/// Nodes that are visited through aliases: what a text of a few lines can blow up to.
const ALIASED_MAX: usize = 1_000_000;

/// Messages within messages on the wire; what protobuf libraries decode is 100. An `Any` starts afresh.
const WIRE_DEPTH_MAX: usize = 96;

/// A step of the path to the node that is being read.
#[derive(Debug, Clone, Copy)]
enum Step<'n> {
    Field(&'n str),
    Index(usize),
    Key(&'n str),
}

/// A field of the message that is being written.
#[derive(Debug, Clone, Copy)]
struct Set<'n, 't> {
    field: &'static Field,
    entry: &'n Entry<'t>,
}

#[derive(Debug)]
pub(crate) struct Encoder<'n, 't> {
    pub(crate) out: Vec<u8>,
    pub(crate) problems: Vec<Problem>,
    /// Fields that no message has, where they are left out instead of being problems.
    pub(crate) unknown: Option<Vec<Problem>>,
    path: Vec<Step<'n>>,
    /// The fields of the messages around, the innermost last.
    sets: Vec<Set<'n, 't>>,
    wire_depth: usize,
    bytes_max: usize,
    /// Levels of aliases around.
    aliases: usize,
    aliased: usize,
    stopped: bool,
}

impl<'n, 't> Encoder<'n, 't> {
    pub(crate) fn new(bytes_max: usize) -> Self {
        Self {
            out: Vec::new(),
            problems: Vec::new(),
            unknown: None,
            path: Vec::new(),
            sets: Vec::new(),
            wire_depth: 0,
            bytes_max,
            aliases: 0,
            aliased: 0,
            stopped: false,
        }
    }

    /// Notes a problem with the node that is being read.
    pub(crate) fn problem(&mut self, line: u32, message: impl Into<String>) {
        if self.problems.len() < PROBLEMS_MAX {
            let problem = Problem { path: self.path_text(), line: Some(line), message: message.into() };
            self.problems.push(problem);
        }
    }

    fn path_text(&self) -> String {
        let mut text = String::new();
        for step in &self.path {
            match step {
                Step::Field(name) => {
                    if !text.is_empty() {
                        text.push('.');
                    }
                    text.push_str(name);
                }
                Step::Index(index) => {
                    let written = write!(text, "[{index}]");
                    debug_assert!(written.is_ok(), "writing to a String can't fail");
                }
                Step::Key(key) => {
                    let written = write!(text, "[\"{}\"]", excerpt(key));
                    debug_assert!(written.is_ok(), "writing to a String can't fail");
                }
            }
        }
        text
    }

    /// The node itself, or what an alias stands for, with bounds on how often it may.
    pub(super) fn resolve(&mut self, node: &'n Node<'t>) -> Option<(&'n Node<'t>, usize)> {
        let mut node = node;
        let mut levels = 0;
        while let Value::Shared(shared) = &node.value {
            node = shared;
            levels += 1;
        }
        if self.aliases + levels > 0 {
            self.aliased += 1;
            if self.aliased > ALIASED_MAX || self.out.len() > self.bytes_max {
                if !self.stopped {
                    self.problem(node.line, "aliases make the document too large");
                }
                self.stopped = true;
            }
        }
        (!self.stopped).then_some((node, levels))
    }

    /// Writes a message's fields, without the length before them.
    pub(crate) fn message(&mut self, message: &'static Message, node: &'n Node<'t>) {
        let Some((node, levels)) = self.resolve(node) else { return };
        self.aliases += levels;
        match message.well_known() {
            WellKnown::None => match &node.value {
                Value::Map(entries) => self.fields(message, entries),
                other => self.problem(node.line, format!("expected a mapping, found {}", other.describe())),
            },
            WellKnown::Any => self.any(node),
            WellKnown::Wrapper => {
                if let Some(field) = message.field_numbered(1) {
                    self.singular(field, node);
                }
            }
            WellKnown::Struct => self.structure(node),
            WellKnown::ListValue => self.list_value(node),
            WellKnown::Value => self.value(node),
            WellKnown::Empty => match &node.value {
                Value::Map(entries) if entries.is_empty() => {}
                other => self.problem(node.line, format!("expected {{}}, found {}", other.describe())),
            },
            WellKnown::Duration => self.instant(node, wellknown::put_duration),
            WellKnown::Timestamp => self.instant(node, wellknown::put_timestamp),
        }
        self.aliases -= levels;
    }

    fn instant(&mut self, node: &'n Node<'t>, put: fn(&str, &mut Vec<u8>) -> Result<(), String>) {
        let written = match &node.value {
            Value::Plain(text) | Value::Text(text) => put(text, &mut self.out),
            other => Err(format!("expected a text, found {}", other.describe())),
        };
        if let Err(message) = written {
            self.problem(node.line, message);
        }
    }

    /// A mapping whose keys are fields.
    fn fields(&mut self, message: &'static Message, entries: &'n [Entry<'t>]) {
        let start = self.sets.len();
        for entry in entries {
            match message.field_named(&entry.key) {
                Some(field) => self.sets.push(Set { field, entry }),
                None => self.unknown_field(message, entry),
            }
        }
        self.write_sets(start);
    }

    fn unknown_field(&mut self, message: &'static Message, entry: &'n Entry<'t>) {
        let mut text = format!("{} has no such field", message.name());
        let names = message.fields().iter().map(Field::name);
        if let Some(nearest) = suggest::nearest(&entry.key, names) {
            let written = write!(text, "; did you mean {nearest}?");
            debug_assert!(written.is_ok(), "writing to a String can't fail");
        }
        self.path.push(Step::Field(&entry.key));
        if self.unknown.is_some() {
            let problem = Problem { path: self.path_text(), line: Some(entry.line), message: text };
            self.unknown.iter_mut().filter(|unknown| unknown.len() < PROBLEMS_MAX).for_each(|unknown| {
                unknown.push(problem.clone());
            });
        } else {
            self.problem(entry.line, text);
        }
        self.path.pop();
    }

    /// Writes the fields that were pushed from `start` on, and takes them off.
    fn write_sets(&mut self, start: usize) {
        if let Some(sets) = self.sets.get_mut(start..) {
            sets.sort_by_key(|set| set.field.number());
        }
        let end = self.sets.len();
        let mut before: Option<Set<'n, 't>> = None;
        for index in start..end {
            let Some(set) = self.sets.get(index).copied() else { break };
            self.path.push(Step::Field(&set.entry.key));
            if self.is_first(start, index, set, before) {
                self.field(set.field, &set.entry.value, set.entry.line);
            }
            self.path.pop();
            before = Some(set);
            if self.stopped {
                break;
            }
        }
        self.sets.truncate(start);
    }

    /// Notes a field that is set twice, and a second one of a oneof.
    fn is_first(&mut self, start: usize, index: usize, set: Set<'n, 't>, before: Option<Set<'n, 't>>) -> bool {
        if let Some(before) = before.filter(|before| before.field.number() == set.field.number()) {
            self.problem(set.entry.line, format!("is set twice, first in line {}", before.entry.line));
            return false;
        }
        if set.field.oneof().is_none() || is_null(&set.entry.value) {
            return true;
        }
        let earlier = self.sets.get(start..index).unwrap_or_default();
        let other =
            earlier.iter().find(|other| other.field.oneof() == set.field.oneof() && !is_null(&other.entry.value));
        match other.map(|other| (&other.entry.key, other.entry.line)) {
            Some((key, line)) => {
                let message = format!("only one of its kind may be set, and {key} is set in line {line}");
                self.problem(set.entry.line, message);
                false
            }
            None => true,
        }
    }

    /// Writes a field, or nothing where it is null.
    fn field(&mut self, field: &'static Field, node: &'n Node<'t>, line: u32) {
        let Some((node, levels)) = self.resolve(node) else { return };
        self.aliases += levels;
        match &node.value {
            // Of all messages only Value has a null of its own; `key:` without a value is no value.
            Value::Null if !is_value(field) || field.is_repeated() => {}
            Value::Map(entries) if field.is_map() => self.map(field, entries),
            other if field.is_map() => self.problem(line, format!("expected a mapping, found {}", other.describe())),
            Value::List(items) if field.is_repeated() => self.list(field, items),
            other if field.is_repeated() => self.problem(line, format!("expected a list, found {}", other.describe())),
            _ => self.singular(field, node),
        }
        self.aliases -= levels;
    }

    fn list(&mut self, field: &'static Field, items: &'n [Node<'t>]) {
        let packed = field.is_packed() && !items.is_empty();
        let length = packed.then(|| {
            put_key(&mut self.out, field.number(), WireType::Delimited);
            open(&mut self.out)
        });
        for (index, item) in items.iter().enumerate() {
            self.path.push(Step::Index(index));
            if is_null(item) && !is_value(field) {
                self.problem(item.line, "an element has no value");
            } else if packed {
                self.scalar(field, item, false);
            } else {
                self.element(field, item);
            }
            self.path.pop();
            if self.stopped {
                break;
            }
        }
        if let Some(length) = length {
            close(&mut self.out, &length);
        }
    }

    fn map(&mut self, field: &'static Field, entries: &'n [Entry<'t>]) {
        let Some((key_field, value_field)) = field.map_entry() else { return };
        let mut sorted: Vec<&'n Entry<'t>> = entries.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let mut before: Option<&Entry<'_>> = None;
        for entry in sorted {
            self.path.push(Step::Key(&entry.key));
            if let Some(before) = before.filter(|before| before.key == entry.key) {
                self.problem(entry.line, format!("is set twice, first in line {}", before.line));
            } else if is_null(&entry.value) && !is_value(value_field) {
                self.problem(entry.line, "an entry has no value");
            } else {
                put_key(&mut self.out, field.number(), WireType::Delimited);
                let length = self.open_message(entry.line);
                let key = Scalar { text: &entry.key, quoted: key_field.kind() == Kind::String };
                if let Err(message) = scalar::put(key_field, &key, key_field.kind() == Kind::String, &mut self.out) {
                    self.problem(entry.line, format!("a key: {message}"));
                }
                self.singular(value_field, &entry.value);
                self.close_message(&length);
            }
            self.path.pop();
            before = Some(entry);
            if self.stopped {
                break;
            }
        }
    }

    /// One value of a field that is not repeated.
    pub(crate) fn singular(&mut self, field: &'static Field, node: &'n Node<'t>) {
        if field.message().is_some() {
            self.element(field, node);
        } else {
            self.scalar(field, node, true);
        }
    }

    /// An element with its key: of a list, or a message.
    fn element(&mut self, field: &'static Field, node: &'n Node<'t>) {
        let Some(message) = field.message() else {
            self.scalar_with_key(field, node, false);
            return;
        };
        put_key(&mut self.out, field.number(), WireType::Delimited);
        let length = self.open_message(node.line);
        if self.wire_depth <= WIRE_DEPTH_MAX {
            self.message(message, node);
        }
        self.close_message(&length);
    }

    pub(crate) fn open_message(&mut self, line: u32) -> wire::Open {
        self.wire_depth += 1;
        if self.wire_depth == WIRE_DEPTH_MAX + 1 {
            self.problem(line, "is nested too deep");
        }
        open(&mut self.out)
    }

    pub(crate) fn close_message(&mut self, length: &wire::Open) {
        self.wire_depth -= 1;
        close(&mut self.out, length);
    }

    fn scalar(&mut self, field: &'static Field, node: &'n Node<'t>, with_key: bool) {
        if with_key {
            self.scalar_with_key(field, node, !field.has_presence());
            return;
        }
        let Some((node, _)) = self.resolve(node) else { return };
        let written = match scalar_of(node) {
            Ok(scalar) => scalar::put_value(field, &scalar, &mut self.out),
            Err(message) => Err(message),
        };
        if let Err(message) = written {
            self.problem(node.line, message);
        }
    }

    fn scalar_with_key(&mut self, field: &'static Field, node: &'n Node<'t>, skip_default: bool) {
        let Some((node, _)) = self.resolve(node) else { return };
        let written = match scalar_of(node) {
            Ok(scalar) => scalar::put(field, &scalar, skip_default, &mut self.out),
            Err(message) => Err(message),
        };
        if let Err(message) = written {
            self.problem(node.line, message);
        }
    }
}

/// A scalar's text, or what stands there instead.
fn scalar_of<'n>(node: &'n Node<'_>) -> Result<Scalar<'n>, String> {
    match &node.value {
        Value::Plain(text) => Ok(Scalar { text, quoted: false }),
        Value::Text(text) => Ok(Scalar { text, quoted: true }),
        other => Err(format!("expected a single value, found {}", other.describe())),
    }
}

pub(super) fn text_of<'n>(node: &'n Node<'_>) -> Option<&'n str> {
    match &node.value {
        Value::Plain(text) | Value::Text(text) => Some(match text {
            Cow::Borrowed(text) => text,
            Cow::Owned(text) => text,
        }),
        Value::Shared(node) => text_of(node),
        _ => None,
    }
}

fn is_null(node: &Node<'_>) -> bool {
    match &node.value {
        Value::Null => true,
        Value::Shared(node) => is_null(node),
        _ => false,
    }
}

fn is_value(field: &Field) -> bool {
    field.message().is_some_and(|message| message.well_known() == WellKnown::Value)
}
