//! YAML (and JSON, which is YAML) → one [`Node`] for each document. Bounded in nodes, depth and copies through aliases;
//! duplicate keys, custom tags and broken syntax are problems with their line.
//!
//! Scalars are read as YAML 1.2 has them: `yes` and `on` are strings. Merge keys (`<<`) work, since kubectl takes them.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_json::Number;
use serde_saphyr::granit_parser::{Event, Options, Parser, ScalarStyle, Span, StrInput, Tag, options};

use crate::node::{Key, Mark, Node, Value};

/// Nodes of one file, with what aliases copy.
const NODES_MAX: usize = 4_000_000;
/// Levels of lists and objects.
const DEPTH_MAX: usize = 64;

/// What is wrong with the text.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SyntaxProblem {
    pub(crate) line: u32,
    pub(crate) message: String,
}

#[derive(Debug, Default)]
pub(crate) struct Parsed {
    /// Those before the first error of syntax; documents that are empty are left out.
    pub(crate) documents: Vec<Node>,
    pub(crate) problems: Vec<SyntaxProblem>,
}

pub(crate) fn parse(text: &str) -> Parsed {
    let options: Options =
        options! { emit_comments: false, flow_nesting_limit: DEPTH_MAX, block_nesting_limit: DEPTH_MAX };
    let mut builder =
        Builder { parser: Parser::new_from_str_with_options(text, options), nodes: 0, problems: Vec::new() };
    let mut parsed = Parsed::default();
    loop {
        match builder.document() {
            Ok(Some(node)) if node.is_null() => {}
            Ok(Some(node)) => parsed.documents.push(node),
            Ok(None) => break,
            Err(Stop(problem)) => {
                builder.problems.push(problem);
                break;
            }
        }
    }
    parsed.problems = builder.problems;
    parsed
}

/// Parsing cannot go on.
struct Stop(SyntaxProblem);

impl Stop {
    fn new(mark: Mark, message: impl Into<String>) -> Self {
        Self(SyntaxProblem { line: mark.line, message: message.into() })
    }
}

/// An anchored node and how many nodes it has.
type Anchors = HashMap<usize, (Node, usize)>;

struct Builder<'a> {
    parser: Parser<'a, StrInput<'a>>,
    nodes: usize,
    problems: Vec<SyntaxProblem>,
}

impl<'a> Builder<'a> {
    fn next(&mut self) -> Result<Option<(Event<'a>, Span)>, Stop> {
        match self.parser.next_event() {
            None => Ok(None),
            Some(Ok(event)) => Ok(Some(event)),
            Some(Err(error)) => {
                let mark = mark(error.marker().line(), error.marker().col());
                Err(Stop::new(mark, format!("not YAML: {} (column {})", error.info(), mark.column)))
            }
        }
    }

    fn document(&mut self) -> Result<Option<Node>, Stop> {
        let mut anchors = Anchors::new();
        let mut root = None;
        while let Some((event, span)) = self.next()? {
            match event {
                Event::DocumentEnd => return Ok(Some(root.unwrap_or(Node::new(at(span), Value::Null)))),
                Event::StreamEnd => return Ok(None),
                event if event.is_node() => root = Some(self.node(event, span, &mut anchors, 0)?),
                _ => {}
            }
        }
        Ok(None)
    }

    fn node(&mut self, event: Event<'a>, span: Span, anchors: &mut Anchors, depth: usize) -> Result<Node, Stop> {
        let mark = at(span);
        if depth > DEPTH_MAX {
            return Err(Stop::new(mark, format!("nested deeper than {DEPTH_MAX} levels")));
        }
        let before = self.nodes;
        self.count(1, mark)?;
        let anchor = event.anchor_id().filter(|id| *id != 0 && !event.is_alias());
        let value = match event {
            Event::Alias(id) => {
                let Some((node, count)) = anchors.get(&id) else {
                    return Err(Stop::new(mark, "an alias to what contains it"));
                };
                let (value, count) = (node.value.clone(), *count);
                self.count(count, mark)?;
                value
            }
            Event::Scalar(text, style, _, ref tag) => self.scalar(&text, style, tag.as_deref(), mark),
            Event::SequenceStart(..) => self.sequence(anchors, depth)?,
            Event::MappingStart(..) => self.mapping(anchors, depth)?,
            _ => Value::Null,
        };
        let node = Node::new(mark, value);
        if let Some(id) = anchor {
            let count = self.nodes - before;
            self.count(count, mark)?;
            anchors.insert(id, (node.clone(), count));
        }
        Ok(node)
    }

    fn count(&mut self, nodes: usize, mark: Mark) -> Result<(), Stop> {
        self.nodes += nodes;
        if self.nodes > NODES_MAX {
            return Err(Stop::new(mark, format!("more than {NODES_MAX} values, those from aliases included")));
        }
        Ok(())
    }

    fn problem(&mut self, mark: Mark, message: impl fmt::Display) {
        self.problems.push(SyntaxProblem { line: mark.line, message: message.to_string() });
    }

    fn sequence(&mut self, anchors: &mut Anchors, depth: usize) -> Result<Value, Stop> {
        let mut items = Vec::new();
        while let Some((event, span)) = self.next()? {
            match event {
                Event::SequenceEnd => break,
                event if event.is_node() => items.push(self.node(event, span, anchors, depth + 1)?),
                _ => {}
            }
        }
        Ok(Value::Sequence(items))
    }

    fn mapping(&mut self, anchors: &mut Anchors, depth: usize) -> Result<Value, Stop> {
        let mut entries: Vec<(Key, Node)> = Vec::new();
        let mut keys: HashMap<String, u32> = HashMap::new();
        let mut merged = Vec::new();
        while let Some((event, span)) = self.next()? {
            if matches!(event, Event::MappingEnd) {
                break;
            }
            if !event.is_node() {
                continue;
            }
            let is_merge = matches!(&event, Event::Scalar(text, ScalarStyle::Plain, ..) if text == "<<");
            let key = self.node(event, span, anchors, depth + 1)?;
            let Some((event, span)) = self.next()? else { break };
            let value = self.node(event, span, anchors, depth + 1)?;
            let mark = key.mark;
            if is_merge {
                merged.push(value);
                continue;
            }
            let text = match key.value {
                Value::String(text) => text,
                // `80: x` and `true: x` are what JSON would have as strings.
                Value::Number(number) => number.to_string(),
                Value::Bool(value) => value.to_string(),
                _ => {
                    self.problem(mark, "a key must be a string");
                    continue;
                }
            };
            if let Some(first) = keys.get(&text) {
                self.problem(mark, format_args!("duplicate key `{text}`, first on line {first}"));
                continue;
            }
            keys.insert(text.clone(), mark.line);
            entries.push((Key { mark, text }, value));
        }
        for value in merged {
            self.merge(value, &mut keys, &mut entries);
        }
        Ok(Value::Mapping(entries))
    }

    /// `<<: *base` or `<<: [*a, *b]`: what is written wins over what is merged.
    fn merge(&mut self, value: Node, keys: &mut HashMap<String, u32>, entries: &mut Vec<(Key, Node)>) {
        match value.value {
            Value::Mapping(base) => {
                for (key, node) in base {
                    if !keys.contains_key(&key.text) {
                        keys.insert(key.text.clone(), key.mark.line);
                        entries.push((key, node));
                    }
                }
            }
            Value::Sequence(items) if items.iter().all(|item| matches!(item.value, Value::Mapping(_))) => {
                for item in items {
                    self.merge(item, keys, entries);
                }
            }
            _ => self.problem(value.mark, "`<<` takes an object or a list of objects"),
        }
    }

    fn scalar(&mut self, text: &str, style: ScalarStyle, tag: Option<&Tag>, mark: Mark) -> Value {
        match tag.map(|tag| (tag, tag.core_suffix())) {
            None if style == ScalarStyle::Plain => self.plain(text, mark),
            None | Some((_, Some("str"))) => Value::String(text.to_owned()),
            Some((_, Some("null" | "bool" | "int" | "float"))) => self.plain(text, mark),
            Some((tag, _)) => {
                self.problem(mark, format_args!("the tag `{}` is not known", tag.original()));
                Value::String(text.to_owned())
            }
        }
    }

    fn plain(&mut self, text: &str, mark: Mark) -> Value {
        match text {
            "" | "~" | "null" | "Null" | "NULL" => Value::Null,
            "true" | "True" | "TRUE" => Value::Bool(true),
            "false" | "False" | "FALSE" => Value::Bool(false),
            _ if !text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.')) => {
                Value::String(text.to_owned())
            }
            _ => match number(text) {
                Ok(Some(number)) => Value::Number(number),
                Ok(None) => Value::String(text.to_owned()),
                Err(OutOfRange) => {
                    self.problem(mark, format_args!("the number {text} is out of range; quote it if it is a text"));
                    Value::Null
                }
            },
        }
    }
}

struct OutOfRange;

/// YAML's core schema: decimal, `0x`, `0o` and floating point; not infinity and not NaN, which JSON lacks.
fn number(text: &str) -> Result<Option<Number>, OutOfRange> {
    for (prefix, radix) in [("0x", 16), ("0o", 8)] {
        if let Some(digits) = text.strip_prefix(prefix)
            && !digits.is_empty()
            && digits.chars().all(|c| c.is_digit(radix))
        {
            return u64::from_str_radix(digits, radix).map(|value| Some(value.into())).map_err(|_| OutOfRange);
        }
    }
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    if !unsigned.is_empty() && unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        let digits = text.strip_prefix('+').unwrap_or(text);
        let number = digits.parse::<u64>().map(Number::from).or_else(|_| digits.parse::<i64>().map(Number::from));
        return number.map(Some).map_err(|_| OutOfRange);
    }
    let mut seen = HashSet::new();
    let is_float = unsigned.chars().zip(std::iter::once(' ').chain(unsigned.chars())).all(|(c, before)| match c {
        '0'..='9' => true,
        '.' => seen.insert('.') && !seen.contains(&'e'),
        'e' | 'E' => before != ' ' && seen.insert('e'),
        '-' | '+' => matches!(before, 'e' | 'E'),
        _ => false,
    });
    if !is_float || !unsigned.contains(|c: char| c.is_ascii_digit()) {
        return Ok(None);
    }
    match text.parse::<f64>() {
        Ok(value) => Number::from_f64(value).map(Some).ok_or(OutOfRange),
        Err(_) => Ok(None),
    }
}

fn at(span: Span) -> Mark {
    mark(span.start.line(), span.start.col())
}

/// The parser's lines count from 1, its columns from 0.
fn mark(line: usize, column: usize) -> Mark {
    let clamp = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
    Mark { line: clamp(line), column: clamp(column).saturating_add(1) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, json: &str, problems: &[(u32, &str)]) {
        let parsed = parse(text);
        let found: Vec<_> = parsed.problems.iter().map(|problem| (problem.line, problem.message.as_str())).collect();
        assert_eq!(found.len(), problems.len(), "{text}: {found:?}");
        for ((line, message), (expected_line, expected)) in found.iter().zip(problems) {
            assert!(line == expected_line && message.contains(expected), "{text}: {found:?}");
        }
        let documents: Vec<_> = parsed.documents.iter().map(Node::to_json).collect();
        assert_eq!(documents.join(" "), json, "{text}");
    }

    #[test]
    fn documents_and_scalars() {
        check("", "", &[]);
        check("# only a comment\n", "", &[]);
        check("a: 1\n---\n---\nb: [x, 'y', \"z\"]\n", r#"{"a":1} {"b":["x","y","z"]}"#, &[]);
        check("[1, -1, +1, 0x1f, 0o17, 1.5, -.5, 1e3, 007]", "[1,-1,1,31,15,1.5,-0.5,1000.0,7]", &[]);
        check(
            "[10ms, 64Mi, 1.2.3, ., e5, 1e, 0x, 1-2, .inf, 127.0.0.1]",
            r#"["10ms","64Mi","1.2.3",".","e5","1e","0x","1-2",".inf","127.0.0.1"]"#,
            &[],
        );
        check("[~, null, true, yes, !!str 5, !!int 5, '5']", r#"[null,null,true,"yes","5",5,"5"]"#, &[]);
        check("{80: a, true: b}", r#"{"80":"a","true":"b"}"#, &[]);
        check(r#"{"a": "\u00e9\n"}"#, r#"{"a":"é\n"}"#, &[]);
    }

    #[test]
    fn aliases_and_merge_keys() {
        check("a: &x {b: 1, c: 2}\nd: *x\n", r#"{"a":{"b":1,"c":2},"d":{"b":1,"c":2}}"#, &[]);
        check("a: &x {b: 1, c: 2}\nd: {<<: *x, c: 3}\n", r#"{"a":{"b":1,"c":2},"d":{"c":3,"b":1}}"#, &[]);
        check("a: {<<: 1}\n", r#"{"a":{}}"#, &[(1, "`<<` takes an object")]);
        check("a: &x [*x]\n", "", &[(1, "alias")]);
        check("a: *nope\n", "", &[(1, "not YAML")]);
    }

    #[test]
    fn what_is_not_taken() {
        check("a: 1\nb:\n  c: 1\n  c: 2\n", r#"{"a":1,"b":{"c":1}}"#, &[(4, "duplicate key `c`, first on line 3")]);
        check("a: 1\n---\nb: [1,\n", r#"{"a":1}"#, &[(3, "unclosed bracket")]);
        check("a: !thing 1\n", r#"{"a":"1"}"#, &[(1, "the tag `!thing`")]);
        check("a: 99999999999999999999\n", r#"{"a":null}"#, &[(1, "out of range")]);
        check("[a]: 1\n", "{}", &[(1, "a key must be a string")]);
        check(&"[".repeat(100), "", &[(1, "not YAML")]);
    }

    #[test]
    fn a_bomb_of_aliases_is_refused() {
        let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
        for i in 1..12 {
            let aliases = vec![format!("*a{}", i - 1); 10].join(", ");
            text += &format!("a{i}: &a{i} [{aliases}]\n");
        }
        let parsed = parse(&text);
        assert!(parsed.documents.is_empty());
        assert!(parsed.problems[0].message.contains("those from aliases included"), "{:?}", parsed.problems);
    }

    #[test]
    fn marks_are_those_of_the_text() {
        let parsed = parse("a:\n  - b: 1\n    c:\n      d: [2,\n        3]\n");
        let root = &parsed.documents[0];
        let Value::Sequence(items) = &root.get("a").unwrap().value else { panic!("not a list") };
        assert_eq!(items[0].mark, Mark { line: 2, column: 5 });
        let Value::Sequence(items) = &items[0].get("c").unwrap().get("d").unwrap().value else { panic!("not a list") };
        assert_eq!(items[1].mark, Mark { line: 5, column: 9 });
    }
}
