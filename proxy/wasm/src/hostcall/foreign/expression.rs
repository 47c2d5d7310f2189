//! `expr_create`, `expr_evaluate` and `expr_delete`: CEL over the attributes of the stream, as far as its cost is bounded.
//!
//! An expression is small, not deep, has no loop (`map`, `filter`, `all`, `exists`: Envoy turns them off as well) and
//! matches only patterns that it spells out and that compile small. So evaluating it takes time in proportion to its text
//! and to what it reads.

use std::collections::HashMap;
use std::sync::Arc;

use cel::common::ast::{EntryExpr, Expr, IdedExpr, LiteralValue};
use cel::{Context, Program, Value};

use super::Arguments;
use crate::host::Host;
use crate::hostcall::{Cx, Stop};
use crate::property::{self, Lookup, Property, ROOTS};
use crate::status::Status;

const TEXT_BYTES_MAX: usize = 1024;
/// Brackets in brackets: the parser descends for each.
const BRACKETS_MAX: usize = 16;
/// Operators that nest to the right or stand in a row.
const OPERATORS_MAX: usize = 128;
const UNARY_RUN_MAX: usize = 8;
const DEPTH_MAX: usize = 64;
const PATTERNS_MAX: usize = 4;
/// What a pattern may compile to.
const PATTERN_BYTES_MAX: usize = 32 << 10;
/// Expressions of one VM.
const EXPRESSIONS_MAX: usize = 1024;
/// Values are not deeper than this.
const VALUE_DEPTH_MAX: usize = 32;

/// The expressions of one VM.
#[derive(Default)]
pub(crate) struct Expressions {
    by_token: HashMap<u32, Program>,
    next_token: u32,
}

/// The result is the expression's token.
pub(super) fn create(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let program = compile(arguments.of(cx)?).ok_or(Status::BadArgument)?;
    let expressions = &mut cx.host_mut().expressions;
    if expressions.by_token.len() >= EXPRESSIONS_MAX {
        return Err(Status::InternalFailure.into());
    }
    let token = expressions.next_token;
    expressions.next_token = token.checked_add(1).ok_or(Status::InternalFailure)?;
    expressions.by_token.insert(token, program);
    Ok(token.to_le_bytes().to_vec())
}

fn token(cx: &Cx<'_>, arguments: Arguments) -> Result<u32, Stop> {
    let token = arguments.of(cx)?.try_into().map_err(|_| Status::BadArgument)?;
    Ok(u32::from_le_bytes(token))
}

/// The result is the value in the encoding of properties.
pub(super) fn evaluate(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let token = token(cx, arguments)?;
    let host = cx.host();
    let program = host.expressions.by_token.get(&token).ok_or(Status::NotFound)?;
    let value = run(host, program).ok_or(Status::InternalFailure)?;
    let encoded = from_cel(&value, 0).encode().ok_or(Status::SerializationFailure)?;
    Ok(encoded.to_vec())
}

pub(super) fn delete(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let token = token(cx, arguments)?;
    cx.host_mut().expressions.by_token.remove(&token);
    Ok(Vec::new())
}

fn compile(text: &[u8]) -> Option<Program> {
    let text = std::str::from_utf8(text).ok().filter(|text| text.len() <= TEXT_BYTES_MAX && is_shallow(text))?;
    let program = Program::compile(text).ok()?;
    let mut patterns = 0;
    is_bounded(program.expression(), DEPTH_MAX, &mut patterns).then_some(program)
}

/// Whether the parser can be let loose on a text: what it descends for is counted first, over the literals too.
fn is_shallow(text: &str) -> bool {
    let (mut depth, mut run, mut operators) = (0usize, 0, 0);
    for byte in text.bytes() {
        match byte {
            b'(' | b'[' | b'{' => {
                depth += 1;
                if depth > BRACKETS_MAX {
                    return false;
                }
            }
            // One too many is for the parser to complain about.
            b')' | b']' | b'}' => depth = depth.saturating_sub(1),
            b'!' | b'-' => {
                run += 1;
                operators += 1;
                if run > UNARY_RUN_MAX {
                    return false;
                }
                continue;
            }
            b'?' | b':' | b'.' | b'&' | b'|' | b'+' | b'*' | b'/' | b'%' | b'<' | b'>' | b'=' => operators += 1,
            b' ' | b'\t' | b'\r' | b'\n' => continue,
            _ => {}
        }
        run = 0;
    }
    operators <= OPERATORS_MAX
}

/// No loops, no depth, no patterns that aren't literal and small.
fn is_bounded(expression: &IdedExpr, depth: usize, patterns: &mut usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    let mut all = |parts: &[&IdedExpr]| parts.iter().all(|part| is_bounded(part, depth, patterns));
    match &expression.expr {
        Expr::Unspecified | Expr::Ident(_) | Expr::Literal(_) => true,
        Expr::Comprehension(_) | Expr::Struct(_) => false,
        Expr::Select(select) => all(&[&select.operand]),
        Expr::List(list) => all(&list.elements.iter().collect::<Vec<_>>()),
        Expr::Map(map) => map.entries.iter().all(|entry| match &entry.expr {
            EntryExpr::MapEntry(entry) => all(&[&entry.key, &entry.value]),
            EntryExpr::StructField(_) => false,
        }),
        Expr::Call(call) => {
            if !all(&call.target.as_deref().into_iter().chain(&call.args).collect::<Vec<_>>()) {
                return false;
            }
            if call.func_name == "matches" {
                *patterns += 1;
                return *patterns <= PATTERNS_MAX && call.args.last().is_some_and(is_small_pattern);
            }
            true
        }
    }
}

fn is_small_pattern(expression: &IdedExpr) -> bool {
    let Expr::Literal(LiteralValue::String(pattern)) = &expression.expr else { return false };
    regex::RegexBuilder::new(pattern.inner()).size_limit(PATTERN_BYTES_MAX).build().is_ok()
}

/// `None`: an error, such as a name that isn't there.
fn run(host: &Host, program: &Program) -> Option<Value> {
    let mut context = Context::default();
    let references = program.references();
    for name in references.variables() {
        if let Some(value) = root(host, name) {
            context.add_variable_from_value(name, value);
        }
    }
    program.execute(&context).ok()
}

/// The value of a variable: a group of attributes as a map, or what a property of that name is.
fn root(host: &Host, name: &str) -> Option<Value> {
    if let Some((_, members)) = ROOTS.iter().find(|(root, _)| *root == name) {
        let members =
            members.iter().filter_map(|member| Some(((*member).to_owned(), property_at(host, &[name, member])?)));
        return to_cel(&Property::Map(members.collect()), 0);
    }
    to_cel(&property_at(host, &[name])?, 0)
}

/// What a path leads to; of a message, its fields.
fn property_at(host: &Host, path: &[&str]) -> Option<Property> {
    let Some(fields) = property::fields_of(path) else {
        return match property::lookup(host, path) {
            Lookup::Found(value) => Some(value),
            Lookup::Absent | Lookup::NotAValue => None,
        };
    };
    if property::lookup(host, path) == Lookup::Absent {
        return None;
    }
    let fields =
        fields.iter().filter_map(|field| Some(((*field).to_owned(), property_at(host, &[path, &[field]].concat())?)));
    Some(Property::Map(fields.collect()))
}

fn to_cel(value: &Property, depth: usize) -> Option<Value> {
    if depth > VALUE_DEPTH_MAX {
        return None;
    }
    Some(match value {
        Property::Null => Value::Null,
        Property::Bool(value) => Value::Bool(*value),
        Property::Int(value) => Value::Int(*value),
        Property::Uint(value) => Value::UInt(*value),
        Property::Double(value) => Value::Float(*value),
        Property::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => Value::String(Arc::new(text.to_owned())),
            Err(_) => Value::Bytes(Arc::new(bytes.to_vec())),
        },
        Property::Map(map) => {
            let entries = map.iter().filter_map(|(key, value)| Some((key.clone(), to_cel(value, depth + 1)?)));
            Value::from(entries.collect::<HashMap<String, Value>>())
        }
        Property::List(list) => {
            Value::List(Arc::new(list.iter().filter_map(|value| to_cel(value, depth + 1)).collect()))
        }
    })
}

/// What has no counterpart (functions, types) is null, which has no encoding.
fn from_cel(value: &Value, depth: usize) -> Property {
    if depth > VALUE_DEPTH_MAX {
        return Property::Null;
    }
    match value {
        Value::Bool(value) => Property::Bool(*value),
        Value::Int(value) => Property::Int(*value),
        Value::UInt(value) => Property::Uint(*value),
        Value::Float(value) => Property::Double(*value),
        Value::String(text) => Property::string(text),
        Value::Bytes(bytes) => Property::Bytes(bytes.as_ref().clone().into()),
        Value::List(list) => Property::List(list.iter().map(|value| from_cel(value, depth + 1)).collect()),
        Value::Map(map) => {
            let entries = map.map.iter();
            Property::Map(entries.map(|(key, value)| (key.to_string(), from_cel(value, depth + 1))).collect())
        }
        _ => Property::Null,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn expressions_are_bounded() {
        let check = |text: &str, good: bool| assert_eq!(compile(text.as_bytes()).is_some(), good, "{text:.80}");
        check("request.path.startsWith('/a') && !(response.code >= 500)", true);
        check("has(request.headers.cookie) ? 'a' : 'b'", true);
        check("'x' in ['x', 'y'] || {'a': 1}['a'] == 1", true);
        check("request.path.matches('^/a+$')", true);
        check("request.path.matches(request.headers.pattern)", false);
        check("request.path.matches('((a{99}){99}){99}')", false);
        check("1 +", false);
        check("[1, 2].map(x, x)", false);
        check("[1, 2].exists(x, x == 1)", false);
        check(&"(".repeat(900), false);
        check(&"!".repeat(900), false);
        check(&"- ".repeat(400), false);
        check(&format!("1{}", "+1".repeat(400)), false);
        check(&format!("a{}", ".a".repeat(400)), false);
        check(&format!("{}1", "true?1:".repeat(100)), false);
        check(&format!("'{}'", "a".repeat(TEXT_BYTES_MAX)), false);
        assert!(compile(b"\xff").is_none());
    }
}
