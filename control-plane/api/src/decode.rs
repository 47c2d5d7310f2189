//! [`Decoder`] and [`Fields`]: how kinds read their [`Node`]s. Nothing stops at the first problem: each reading function
//! reports what is wrong and gives `None`, so that one run finds everything. A field that nobody took is reported when
//! its [`Fields`] go out of scope.

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::ops::RangeInclusive;
use std::sync::Arc;

use outrigger_model::ObjectId;

use crate::node::{Key, Mark, Node, Value, push_field};
use crate::problem::{Place, Problem, Severity};

/// A reference to another object, looked up once everything is loaded.
#[derive(Clone, Debug)]
pub(crate) struct Reference {
    pub(crate) place: Place,
    pub(crate) wanted: Wanted,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Wanted {
    /// With the name of a listener.
    Gateway(ObjectId, Option<Arc<str>>),
    /// With the name of a rule.
    Route(ObjectId, Option<Arc<str>>),
    Service(ObjectId, Option<u16>),
}

/// Reads one object.
#[derive(Debug)]
pub(crate) struct Decoder<'a> {
    file: Arc<str>,
    root: &'a Node,
    /// The path of `root` in its document (`items[3]` in a `List`).
    prefix: String,
    object: RefCell<Option<String>>,
    problems: RefCell<Vec<Problem>>,
    references: RefCell<Vec<Reference>>,
}

impl<'a> Decoder<'a> {
    pub(crate) fn new(file: Arc<str>, root: &'a Node, prefix: String) -> Self {
        let object = RefCell::new(None);
        Self { file, root, prefix, object, problems: RefCell::default(), references: RefCell::default() }
    }

    pub(crate) fn root(&self) -> &'a Node {
        self.root
    }

    pub(crate) fn file_name(&self) -> &Arc<str> {
        &self.file
    }

    /// What problems from here on are about.
    pub(crate) fn set_object(&self, object: String) {
        *self.object.borrow_mut() = Some(object);
    }

    pub(crate) fn finish(self) -> (Vec<Problem>, Vec<Reference>) {
        (self.problems.into_inner(), self.references.into_inner())
    }

    pub(crate) fn place(&self, node: &Node) -> Place {
        self.place_at(node, node.mark, None)
    }

    /// `field` is below `node`, where there is no node for it (it is missing, or what is wrong is the key).
    fn place_at(&self, node: &Node, mark: Mark, field: Option<&str>) -> Place {
        let mut path = self.prefix.clone();
        // A node that isn't below the root is one that came with an alias; the root is the best that is known then.
        let below = self.root.path_of(node).unwrap_or_default();
        if !path.is_empty() && !below.is_empty() && !below.starts_with('[') {
            path.push('.');
        }
        path.push_str(&below);
        field.iter().for_each(|field| push_field(&mut path, field));
        Place { file: Arc::clone(&self.file), line: mark.line, field: path, object: self.object.borrow().clone() }
    }

    pub(crate) fn error(&self, node: &Node, message: impl Into<String>) {
        self.push(self.place(node).problem(Severity::Error, message));
    }

    pub(crate) fn warning(&self, node: &Node, message: impl Into<String>) {
        self.push(self.place(node).problem(Severity::Warning, message));
    }

    pub(crate) fn missing(&self, parent: &Node, field: &str, message: impl Into<String>) {
        self.push(self.place_at(parent, parent.mark, Some(field)).problem(Severity::Error, message));
    }

    fn key_error(&self, parent: &Node, key: &Key, message: impl Into<String>) {
        self.push(self.place_at(parent, key.mark, Some(&key.text)).problem(Severity::Error, message));
    }

    fn push(&self, problem: Problem) {
        self.problems.borrow_mut().push(problem);
    }

    pub(crate) fn refer(&self, node: &Node, wanted: Wanted) {
        self.references.borrow_mut().push(Reference { place: self.place(node), wanted });
    }

    fn wrong_type(&self, node: &Node, expected: &str) {
        self.error(node, format!("must be {expected}, not {}", node.type_name()));
    }

    pub(crate) fn object<'d>(&'d self, node: &'a Node) -> Option<Fields<'d, 'a>> {
        match &node.value {
            Value::Mapping(entries) => Some(Fields { decoder: self, node, entries, taken: BTreeSet::new() }),
            _ => {
                self.wrong_type(node, "an object");
                None
            }
        }
    }

    /// At most `max` items; more are reported and cut off.
    pub(crate) fn list(&self, node: &'a Node, max: usize) -> &'a [Node] {
        match &node.value {
            Value::Sequence(items) if items.len() <= max => items,
            Value::Sequence(items) => {
                self.error(node, format!("at most {max} entries, not {}", items.len()));
                &items[..max]
            }
            _ => {
                self.wrong_type(node, "a list");
                &[]
            }
        }
    }

    pub(crate) fn string(&self, node: &'a Node) -> Option<&'a str> {
        match &node.value {
            Value::String(text) => Some(text),
            Value::Number(_) | Value::Bool(_) => {
                self.error(node, format!("must be a string, not {}: put it in quotes", node.type_name()));
                None
            }
            _ => {
                self.wrong_type(node, "a string");
                None
            }
        }
    }

    pub(crate) fn text(&self, node: &'a Node, chars_max: usize) -> Option<&'a str> {
        let text = self.string(node)?;
        if text.is_empty() || text.chars().count() > chars_max {
            self.error(node, format!("must have 1 to {chars_max} characters"));
            return None;
        }
        Some(text)
    }

    pub(crate) fn boolean(&self, node: &Node) -> Option<bool> {
        match node.value {
            Value::Bool(value) => Some(value),
            _ => {
                self.wrong_type(node, "true or false");
                None
            }
        }
    }

    pub(crate) fn integer<T: TryFrom<i64>>(&self, node: &Node, range: RangeInclusive<i64>) -> Option<T> {
        let Value::Number(number) = &node.value else {
            self.wrong_type(node, "a whole number");
            return None;
        };
        let value = number.as_i64().filter(|value| range.contains(value)).and_then(|value| T::try_from(value).ok());
        if value.is_none() {
            self.error(node, format!("must be a whole number from {} to {}", range.start(), range.end()));
        }
        value
    }

    pub(crate) fn choice<T: Copy>(&self, node: &'a Node, choices: &[(&str, T)]) -> Option<T> {
        let text = self.string(node)?;
        let found = choices.iter().find(|(name, _)| *name == text);
        if found.is_none() {
            let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
            let hint = suggestion(text, names.iter().copied());
            self.error(node, format!("`{text}` is not one of {}{hint}", names.join(", ")));
        }
        found.map(|(_, value)| *value)
    }

    /// What `parse` makes of a string, its error being the problem.
    pub(crate) fn parsed<T>(&self, node: &'a Node, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        let text = self.string(node)?;
        match parse(text) {
            Ok(value) => Some(value),
            Err(message) => {
                self.error(node, message);
                None
            }
        }
    }
}

/// The fields of one object, each to be taken once.
#[derive(Debug)]
pub(crate) struct Fields<'d, 'a> {
    decoder: &'d Decoder<'a>,
    node: &'a Node,
    entries: &'a [(Key, Node)],
    taken: BTreeSet<&'static str>,
}

impl<'a> Fields<'_, 'a> {
    pub(crate) fn node(&self) -> &'a Node {
        self.node
    }

    /// None if the field is absent or null.
    pub(crate) fn take(&mut self, field: &'static str) -> Option<&'a Node> {
        self.taken.insert(field);
        self.find(field)
    }

    fn find(&self, field: &str) -> Option<&'a Node> {
        let (_, node) = self.entries.iter().find(|(key, _)| key.text == field)?;
        (!node.is_null()).then_some(node)
    }

    pub(crate) fn required(&mut self, field: &'static str) -> Option<&'a Node> {
        let node = self.take(field);
        if node.is_none() {
            self.decoder.missing(self.node, field, "required");
        }
        node
    }

    /// The items of a list that may be absent.
    pub(crate) fn list(&mut self, field: &'static str, max: usize) -> &'a [Node] {
        let decoder = self.decoder;
        self.take(field).map_or(&[], |node| decoder.list(node, max))
    }

    /// The fields are part of the kind and say nothing that matters here.
    pub(crate) fn ignore(&mut self, fields: &[&'static str]) {
        self.taken.extend(fields);
    }

    /// A field of the kind that would change what is served or allowed, and that is not implemented.
    pub(crate) fn refuse(&mut self, fields: &[&'static str]) {
        for field in fields {
            if let Some(node) = self.take(field) {
                self.decoder.error(node, "not supported yet");
            }
        }
    }

    /// A field of the kind that is not implemented, and without which everything is served and allowed all the same.
    pub(crate) fn warn(&mut self, fields: &[&'static str], message: &str) {
        for field in fields {
            if let Some(node) = self.take(field) {
                self.decoder.warning(node, message);
            }
        }
    }

    /// Exactly one of the fields.
    pub(crate) fn one_of(&mut self, fields: &[&'static str]) -> Option<(&'static str, &'a Node)> {
        let set: Vec<_> = fields.iter().filter_map(|field| Some((*field, self.take(field)?))).collect();
        match set.as_slice() {
            [one] => Some(*one),
            [] => {
                self.decoder.error(self.node, format!("one of {} is required", fields.join(", ")));
                None
            }
            [_, (_, second), ..] => {
                self.decoder.error(second, format!("only one of {} can be set", fields.join(", ")));
                None
            }
        }
    }
}

impl Drop for Fields<'_, '_> {
    fn drop(&mut self) {
        for (key, _) in self.entries.iter().filter(|(key, _)| !self.taken.contains(key.text.as_str())) {
            let hint = suggestion(&key.text, self.taken.iter().copied());
            let known = if hint.is_empty() {
                let names: Vec<_> = self.taken.iter().copied().collect();
                format!("; known: {}", names.join(", "))
            } else {
                hint
            };
            self.decoder.key_error(self.node, key, format!("unknown field{known}"));
        }
    }
}

/// `, did you mean …?` where a name is near.
fn suggestion<'n>(text: &str, names: impl Iterator<Item = &'n str>) -> String {
    const CHARS_MAX: usize = 64;
    if text.len() > CHARS_MAX {
        return String::new();
    }
    let allowed = if text.len() <= 3 { 1 } else { 2 };
    let near = names.map(|name| (distance(text, name), name)).filter(|(distance, _)| *distance <= allowed).min();
    near.map(|(_, name)| format!(", did you mean `{name}`?")).unwrap_or_default()
}

/// Levenshtein's, without regard to case.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<_> = b.bytes().map(|byte| byte.to_ascii_lowercase()).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = std::mem::replace(&mut row[0], i + 1);
        for (j, y) in b.iter().enumerate() {
            let replaced = diagonal + usize::from(x.to_ascii_lowercase() != *y);
            diagonal = row[j + 1];
            row[j + 1] = replaced.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::parse::parse;

    #[test]
    fn distances() {
        for (a, b, expected) in [("", "", 0), ("abc", "", 3), ("priorty", "priority", 1), ("Phase", "phase", 0)] {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }

    #[test]
    fn untaken_fields_are_reported_with_their_line() {
        let parsed = parse("name: x\nspec:\n  prot: 80\n  other: 1\n");
        let root = &parsed.documents[0];
        let decoder = Decoder::new("f.yaml".into(), root, "items[2]".into());
        {
            let mut fields = decoder.object(root).unwrap();
            fields.ignore(&["name"]);
            let spec = fields.required("spec").unwrap();
            let mut spec = decoder.object(spec).unwrap();
            assert!(spec.required("port").is_none());
        }
        let (problems, _) = decoder.finish();
        let texts: Vec<_> = problems.iter().map(ToString::to_string).collect();
        assert_eq!(
            texts,
            [
                "f.yaml:3: items[2].spec.port: required",
                "f.yaml:3: items[2].spec.prot: unknown field, did you mean `port`?",
                "f.yaml:4: items[2].spec.other: unknown field; known: port",
            ]
        );
    }
}
