//! The messages whose text form is not their fields: `Any`, `Struct`, `ListValue`, `Value`.

use super::{Encoder, Set, Step, WIRE_DEPTH_MAX, text_of};
use crate::render::tree::{Entry, Node, Value, excerpt};
use crate::render::wellknown;
use crate::schema::{Message, WellKnown, WireType};
use crate::wire::{close, open, put_delimited, put_key, put_varint};

impl<'n, 't> Encoder<'n, 't> {
    /// `{"@type": URL, fields or value}`.
    pub(super) fn any(&mut self, node: &'n Node<'t>) {
        let Value::Map(entries) = &node.value else {
            self.problem(node.line, format!("expected a mapping with an @type, found {}", node.value.describe()));
            return;
        };
        let mut types = entries.iter().filter(|entry| entry.key == "@type");
        let Some((url, line)) = types.next().and_then(|entry| Some((text_of(&entry.value)?, entry.line))) else {
            self.problem(node.line, "@type is missing: the type URL of what is configured here");
            return;
        };
        if let Some(second) = types.next() {
            self.path.push(Step::Field("@type"));
            self.problem(second.line, format!("is set twice, first in line {line}"));
            self.path.pop();
        }
        let Some(message) = wellknown::message_of(url) else {
            self.path.push(Step::Field("@type"));
            self.problem(line, format!("there is no type {}", excerpt(url)));
            self.path.pop();
            return;
        };
        put_key(&mut self.out, 1, WireType::Delimited);
        put_delimited(&mut self.out, url.as_bytes());
        let before = self.out.len();
        put_key(&mut self.out, 2, WireType::Delimited);
        let depth = std::mem::take(&mut self.wire_depth);
        let length = open(&mut self.out);
        let start = self.out.len();
        self.any_value(message, entries, node.line);
        let is_empty = self.out.len() == start;
        close(&mut self.out, &length);
        self.wire_depth = depth;
        if is_empty {
            self.out.truncate(before);
        }
    }

    fn any_value(&mut self, message: &'static Message, entries: &'n [Entry<'t>], line: u32) {
        let inline = message.well_known() == WellKnown::None;
        let start = self.sets.len();
        let mut value = None;
        for entry in entries.iter().filter(|entry| entry.key != "@type") {
            match message.field_named(&entry.key) {
                Some(field) if inline => self.sets.push(Set { field, entry }),
                _ if !inline && entry.key == "value" => value = Some(entry),
                _ if inline => self.unknown_field(message, entry),
                _ => {
                    self.path.push(Step::Field(&entry.key));
                    self.problem(entry.line, format!("{} stands in `value`, beside @type", message.name()));
                    self.path.pop();
                }
            }
        }
        if inline {
            self.write_sets(start);
            return;
        }
        match value {
            Some(entry) => {
                self.path.push(Step::Field(&entry.key));
                self.message(message, &entry.value);
                self.path.pop();
            }
            // {"@type": ".../google.protobuf.Empty"}, and a Struct that is written so by mistake.
            None if message.well_known() == WellKnown::Empty => {}
            None => self.problem(line, format!("`value` is missing: {} stands there", message.name())),
        }
    }

    pub(super) fn structure(&mut self, node: &'n Node<'t>) {
        let Value::Map(entries) = &node.value else {
            self.problem(node.line, format!("expected a mapping, found {}", node.value.describe()));
            return;
        };
        let mut sorted: Vec<&'n Entry<'t>> = entries.iter().collect();
        sorted.sort_by(|a, b| a.key.cmp(&b.key));
        let mut before: Option<&Entry<'_>> = None;
        for entry in sorted {
            self.path.push(Step::Field(&entry.key));
            if let Some(before) = before.filter(|before| before.key == entry.key) {
                self.problem(entry.line, format!("is set twice, first in line {}", before.line));
            } else {
                put_key(&mut self.out, 1, WireType::Delimited);
                let length = self.open_message(entry.line);
                if !entry.key.is_empty() {
                    put_key(&mut self.out, 1, WireType::Delimited);
                    put_delimited(&mut self.out, entry.key.as_bytes());
                }
                self.value_within(2, &entry.value);
                self.close_message(&length);
            }
            self.path.pop();
            before = Some(entry);
            if self.stopped {
                break;
            }
        }
    }

    pub(super) fn list_value(&mut self, node: &'n Node<'t>) {
        let Value::List(items) = &node.value else {
            self.problem(node.line, format!("expected a list, found {}", node.value.describe()));
            return;
        };
        for (index, item) in items.iter().enumerate() {
            self.path.push(Step::Index(index));
            self.value_within(1, item);
            self.path.pop();
            if self.stopped {
                break;
            }
        }
    }

    /// A `google.protobuf.Value` as a field.
    fn value_within(&mut self, number: u32, node: &'n Node<'t>) {
        put_key(&mut self.out, number, WireType::Delimited);
        let length = self.open_message(node.line);
        if self.wire_depth <= WIRE_DEPTH_MAX
            && let Some((node, levels)) = self.resolve(node)
        {
            self.aliases += levels;
            self.value(node);
            self.aliases -= levels;
        }
        self.close_message(&length);
    }

    /// A `google.protobuf.Value`: what a plain word is, YAML 1.2 says.
    pub(super) fn value(&mut self, node: &'n Node<'t>) {
        match &node.value {
            Value::Null => {
                put_key(&mut self.out, 1, WireType::Varint);
                put_varint(&mut self.out, 0);
            }
            Value::Plain(text) => match wellknown::plain_value(text, &mut self.out) {
                Ok(()) => {}
                Err(message) => self.problem(node.line, message),
            },
            Value::Text(text) => {
                put_key(&mut self.out, 3, WireType::Delimited);
                put_delimited(&mut self.out, text.as_bytes());
            }
            Value::Map(_) | Value::List(_) => {
                let is_map = matches!(node.value, Value::Map(_));
                put_key(&mut self.out, if is_map { 5 } else { 6 }, WireType::Delimited);
                let length = self.open_message(node.line);
                if self.wire_depth <= WIRE_DEPTH_MAX {
                    if is_map {
                        self.structure(node);
                    } else {
                        self.list_value(node);
                    }
                }
                self.close_message(&length);
            }
            Value::Shared(shared) => self.value(shared),
        }
    }
}
