//! [`Node`]: a parsed document that knows where each part of it stands. Everything that users write is decoded from
//! this tree, so that every problem, also one that is found long after parsing, has its line.

use std::fmt::Write as _;

use serde_json::Number;

/// Line and column, from 1; (0, 0) for what came from an API server.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Mark {
    pub(crate) line: u32,
    pub(crate) column: u32,
}

#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) mark: Mark,
    pub(crate) value: Value,
}

#[derive(Clone, Debug)]
pub(crate) enum Value {
    Null,
    Bool(bool),
    Number(Number),
    String(String),
    Sequence(Vec<Node>),
    /// In the order of the document; keys are unique.
    Mapping(Vec<(Key, Node)>),
}

#[derive(Clone, Debug)]
pub(crate) struct Key {
    pub(crate) mark: Mark,
    pub(crate) text: String,
}

impl Node {
    pub(crate) fn new(mark: Mark, value: Value) -> Self {
        Self { mark, value }
    }

    /// The value of a field, if this is a mapping that has it and it isn't null.
    pub(crate) fn get(&self, field: &str) -> Option<&Self> {
        let Value::Mapping(entries) = &self.value else { return None };
        let (_, node) = entries.iter().find(|(key, _)| key.text == field)?;
        (!node.is_null()).then_some(node)
    }

    pub(crate) fn as_str(&self) -> Option<&str> {
        match &self.value {
            Value::String(text) => Some(text),
            _ => None,
        }
    }

    pub(crate) fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }

    /// With an article: `a list`.
    pub(crate) fn type_name(&self) -> &'static str {
        match &self.value {
            Value::Null => "null",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::String(_) => "a string",
            Value::Sequence(_) => "a list",
            Value::Mapping(_) => "an object",
        }
    }

    /// Where `target` (the same node, not an equal one) is below this one: `spec.listeners[0].port`.
    pub(crate) fn path_of(&self, target: &Self) -> Option<String> {
        let mut path = String::new();
        self.find(target, &mut path).then_some(path)
    }

    fn find(&self, target: &Self, path: &mut String) -> bool {
        if std::ptr::eq(self, target) {
            return true;
        }
        let length = path.len();
        match &self.value {
            Value::Sequence(items) => {
                for (i, item) in items.iter().enumerate() {
                    // Writing to a string cannot fail.
                    let _ = write!(path, "[{i}]");
                    if item.find(target, path) {
                        return true;
                    }
                    path.truncate(length);
                }
            }
            Value::Mapping(entries) => {
                for (key, node) in entries {
                    push_field(path, &key.text);
                    if node.find(target, path) {
                        return true;
                    }
                    path.truncate(length);
                }
            }
            _ => {}
        }
        false
    }

    /// Compact JSON, in the document's order.
    pub(crate) fn to_json(&self) -> String {
        let mut out = String::new();
        self.write_json(&mut out);
        out
    }

    fn write_json(&self, out: &mut String) {
        match &self.value {
            Value::Null => out.push_str("null"),
            Value::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Value::Number(number) => {
                let _ = write!(out, "{number}");
            }
            Value::String(text) => write_json_string(text, out),
            Value::Sequence(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write_json(out);
                }
                out.push(']');
            }
            Value::Mapping(entries) => {
                out.push('{');
                for (i, (key, node)) in entries.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_json_string(&key.text, out);
                    out.push(':');
                    node.write_json(out);
                }
                out.push('}');
            }
        }
    }
}

fn write_json_string(text: &str, out: &mut String) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            c if c.is_ascii_control() => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

/// Appends a field to a path; one that reads like several is quoted.
pub(crate) fn push_field(path: &mut String, field: &str) {
    let plain = !field.is_empty() && field.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-');
    if plain {
        if !path.is_empty() {
            path.push('.');
        }
        path.push_str(field);
    } else {
        path.push('[');
        write_json_string(field, path);
        path.push(']');
    }
}

/// What an API server gave, without places.
impl From<&serde_json::Value> for Node {
    fn from(value: &serde_json::Value) -> Self {
        let mark = Mark::default();
        let value = match value {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => Value::Number(number.clone()),
            serde_json::Value::String(text) => Value::String(text.clone()),
            serde_json::Value::Array(items) => Value::Sequence(items.iter().map(Self::from).collect()),
            serde_json::Value::Object(fields) => {
                let entry = |(key, value)| (Key { mark, text: String::clone(key) }, Self::from(value));
                Value::Mapping(fields.iter().map(entry).collect())
            }
        };
        Self { mark, value }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_round_trip_and_paths() {
        let json: serde_json::Value =
            serde_json::from_str(r#"{"a": [1, -2.5, true, null, "x\"\\\n\u0001é"], "b.c": {"d": {}}, "e": []}"#)
                .unwrap();
        let node = Node::from(&json);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&node.to_json()).unwrap(), json);
        let deep = node.get("b.c").and_then(|node| node.get("d")).unwrap();
        assert_eq!(node.path_of(deep).as_deref(), Some("[\"b.c\"].d"));
        let Value::Sequence(items) = &node.get("a").unwrap().value else { panic!("not a list") };
        assert_eq!(node.path_of(&items[2]).as_deref(), Some("a[2]"));
        assert_eq!(node.path_of(&Node::from(&json)), None);
    }
}
