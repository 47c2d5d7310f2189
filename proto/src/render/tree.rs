//! What YAML and JSON have in common: a tree of values that know their line, borrowed from the text where nothing is
//! escaped.

use std::borrow::Cow;
use std::rc::Rc;

/// Values in one document; more are refused, so that memory stays bounded.
pub(crate) const NODES_MAX: usize = 4_000_000;

/// Lists and mappings within each other.
pub(crate) const DEPTH_MAX: usize = 128;

#[derive(Debug)]
pub(crate) struct Node<'t> {
    /// From 1.
    pub(crate) line: u32,
    pub(crate) value: Value<'t>,
}

#[derive(Debug)]
pub(crate) enum Value<'t> {
    Null,
    /// Not quoted: a number or a word, and what it means depends on the field.
    Plain(Cow<'t, str>),
    /// Quoted, or a block of text.
    Text(Cow<'t, str>),
    List(Vec<Node<'t>>),
    Map(Vec<Entry<'t>>),
    /// An anchored node, where it stands and wherever an alias names it.
    Shared(Rc<Node<'t>>),
}

#[derive(Debug)]
pub(crate) struct Entry<'t> {
    pub(crate) key: Cow<'t, str>,
    pub(crate) line: u32,
    pub(crate) value: Node<'t>,
}

/// Why a text is no document: nothing after this place was read.
#[derive(Debug)]
pub(crate) struct Unreadable {
    pub(crate) line: u32,
    pub(crate) message: String,
}

impl Unreadable {
    pub(crate) fn new(line: u32, message: impl Into<String>) -> Self {
        Self { line, message: message.into() }
    }
}

/// What YAML's core schema takes for null is; everything else depends on the field.
pub(crate) fn plain(text: Cow<'_, str>) -> Value<'_> {
    match text.as_ref() {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        _ => Value::Plain(text),
    }
}

impl Value<'_> {
    /// For messages: "a list", "the text `x`".
    pub(crate) fn describe(&self) -> String {
        match self {
            Self::Null => "nothing".to_owned(),
            Self::Plain(text) => format!("`{}`", excerpt(text)),
            Self::Text(text) => format!("the text \"{}\"", excerpt(text)),
            Self::List(_) => "a list".to_owned(),
            Self::Map(_) => "a mapping".to_owned(),
            Self::Shared(node) => node.value.describe(),
        }
    }
}

/// The start of a text in one line: what a message quotes.
pub(crate) fn excerpt(text: &str) -> String {
    const CHARS_MAX: usize = 60;
    let mut short: String = text.chars().take(CHARS_MAX).map(visible).collect();
    if text.chars().nth(CHARS_MAX).is_some() {
        short.push_str("...");
    }
    short
}

/// A character as it is, but for those that can't be seen.
pub(crate) fn visible(char: char) -> String {
    if char.is_control() { char.escape_debug().to_string() } else { char.to_string() }
}
