//! The messages whose JSON form is not their fields, and JSON's own punctuation.

use super::{Printer, REDACTED, Unprintable, delimited};
use crate::render::Style;
use crate::render::wellknown::message_of;
use crate::schema::{Enum, EnumValue, Message, WellKnown};
use crate::wire::{Reader, Value};

use std::collections::BTreeMap;
use std::fmt::{Display, Write};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

impl Printer {
    pub(super) fn wrapper(&mut self, message: &'static Message, bytes: &[u8], depth: usize) -> Result<(), Unprintable> {
        let Some(field) = message.field_numbered(1) else { return Ok(()) };
        let mut value = super::default_of(field);
        let mut reader = Reader::new(bytes);
        while let Some((number, set)) = reader.field()? {
            if number == 1 {
                value = set;
            }
        }
        self.single(field, value, depth)
    }

    pub(super) fn any(&mut self, bytes: &[u8], depth: usize) -> Result<(), Unprintable> {
        let (mut url, mut value) = (&[][..], &[][..]);
        let mut reader = Reader::new(bytes);
        while let Some((number, set)) = reader.field()? {
            match number {
                1 => url = delimited(set)?,
                2 => value = delimited(set)?,
                _ => {}
            }
        }
        let url = String::from_utf8_lossy(url);
        self.open('{');
        let mut first = true;
        if url.is_empty() && value.is_empty() {
            self.close('}', first);
            return Ok(());
        }
        self.key("@type", &mut first);
        self.text(&url);
        let start = self.out.len();
        let level = self.level;
        if self.any_value(&url, value, depth).is_err() {
            self.out.truncate(start);
            self.level = level;
            self.key("value", &mut first);
            let text = if self.redact { STANDARD.encode(REDACTED) } else { STANDARD.encode(value) };
            self.text(&text);
        }
        self.close('}', first);
        Ok(())
    }

    fn any_value(&mut self, url: &str, value: &[u8], depth: usize) -> Result<(), Unprintable> {
        let message = message_of(url).ok_or_else(|| Unprintable::UnknownMessage(url.to_owned()))?;
        let mut first = false;
        if message.well_known() == WellKnown::None {
            return self.fields(message, value, depth + 1, &mut first);
        }
        self.key("value", &mut first);
        self.message(message, value, depth + 1)
    }

    pub(super) fn structure(&mut self, bytes: &[u8], depth: usize) -> Result<(), Unprintable> {
        let mut entries = BTreeMap::new();
        let mut reader = Reader::new(bytes);
        while let Some((_, set)) = reader.field()? {
            let (mut key, mut value) = (&[][..], &[][..]);
            let mut entry = Reader::new(delimited(set)?);
            while let Some((number, part)) = entry.field()? {
                match number {
                    1 => key = delimited(part)?,
                    2 => value = delimited(part)?,
                    _ => {}
                }
            }
            entries.insert(String::from_utf8_lossy(key), value);
        }
        self.open('{');
        let mut first = true;
        for (key, value) in entries {
            self.key(&key, &mut first);
            self.nested_value(value, depth + 2)?;
        }
        self.close('}', first);
        Ok(())
    }

    pub(super) fn list_value(&mut self, bytes: &[u8], depth: usize) -> Result<(), Unprintable> {
        self.open('[');
        let mut first = true;
        let mut reader = Reader::new(bytes);
        while let Some((_, set)) = reader.field()? {
            self.separate(&mut first);
            self.nested_value(delimited(set)?, depth + 1)?;
        }
        self.close(']', first);
        Ok(())
    }

    fn nested_value(&mut self, bytes: &[u8], depth: usize) -> Result<(), Unprintable> {
        if depth > super::DEPTH_MAX {
            return Err(Unprintable::TooDeep);
        }
        self.value(bytes, depth)
    }

    pub(super) fn value(&mut self, bytes: &[u8], depth: usize) -> Result<(), Unprintable> {
        let mut last = None;
        let mut reader = Reader::new(bytes);
        while let Some(set) = reader.field()? {
            last = Some(set);
        }
        match last {
            Some((2, Value::Fixed64(bits))) if !self.redact => self.double(f64::from_bits(bits)),
            Some((3, Value::Delimited(_))) if self.redact => self.text(REDACTED),
            Some((3, Value::Delimited(text))) => self.text(&String::from_utf8_lossy(text)),
            Some((4, Value::Varint(number))) if !self.redact => {
                self.out.push_str(if number == 0 { "false" } else { "true" });
            }
            Some((5, Value::Delimited(bytes))) => self.structure(bytes, depth + 1)?,
            Some((6, Value::Delimited(bytes))) => self.list_value(bytes, depth + 1)?,
            _ => self.out.push_str("null"),
        }
        Ok(())
    }

    pub(super) fn enum_value(&mut self, enumeration: &Enum, number: u64) {
        let number = number as i32;
        match enumeration.values().iter().find(|value| value.number() == number).map(EnumValue::name) {
            Some("NULL_VALUE") => self.out.push_str("null"),
            Some(name) => self.text(name),
            None => self.plain(number),
        }
    }

    pub(super) fn plain(&mut self, value: impl Display) {
        let written = write!(self.out, "{value}");
        debug_assert!(written.is_ok(), "writing to a String can't fail");
    }

    pub(super) fn float(&mut self, number: f32) {
        if number.is_finite() {
            // The shortest text that reads back as the same float, not that of the double.
            self.plain(number);
        } else {
            self.double(f64::from(number));
        }
    }

    pub(super) fn double(&mut self, number: f64) {
        const PLAIN_MAX: f64 = 1e17;
        match number {
            _ if number.is_nan() => self.text("NaN"),
            f64::INFINITY => self.text("Infinity"),
            f64::NEG_INFINITY => self.text("-Infinity"),
            _ if number.abs() >= PLAIN_MAX => self.plain(format_args!("{number:e}")),
            _ => self.plain(number),
        }
    }

    pub(super) fn text(&mut self, text: &str) {
        self.out.push('"');
        let mut rest = text;
        while let Some(at) = rest.find(|char: char| matches!(char, '"' | '\\' | '\0'..='\x1f' | '\x7f')) {
            let (plain, special) = rest.split_at(at);
            self.out.push_str(plain);
            let mut chars = special.chars();
            match chars.next() {
                Some('"') => self.out.push_str("\\\""),
                Some('\\') => self.out.push_str("\\\\"),
                Some('\n') => self.out.push_str("\\n"),
                Some('\r') => self.out.push_str("\\r"),
                Some('\t') => self.out.push_str("\\t"),
                Some(char) => self.plain(format_args!("\\u{:04x}", u32::from(char))),
                None => {}
            }
            rest = chars.as_str();
        }
        self.out.push_str(rest);
        self.out.push('"');
    }

    pub(super) fn open(&mut self, bracket: char) {
        self.out.push(bracket);
        self.level += 1;
    }

    pub(super) fn close(&mut self, bracket: char, empty: bool) {
        self.level = self.level.saturating_sub(1);
        if !empty {
            self.new_line();
        }
        self.out.push(bracket);
    }

    pub(super) fn separate(&mut self, first: &mut bool) {
        if !std::mem::replace(first, false) {
            self.out.push(',');
        }
        self.new_line();
    }

    pub(super) fn key(&mut self, key: &str, first: &mut bool) {
        self.separate(first);
        self.text(key);
        self.out.push_str(if self.style == Style::Pretty { ": " } else { ":" });
    }

    fn new_line(&mut self) {
        if self.style == Style::Pretty {
            self.out.push('\n');
            self.out.extend(std::iter::repeat_n(' ', self.level));
        }
    }
}
