//! CEL over the attributes of a stream, as far as its cost is bounded.
//!
//! An expression is small, not deep, has no loop (`map`, `filter`, `all`, `exists`: Envoy turns them off as well) and
//! matches only patterns that it spells out and that compile small. So evaluating it takes time in proportion to its text
//! and to what it reads; and it reads only what it names: `request.headers['x']` is one header, not all.

mod bounds;
mod needs;

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

pub use cel::IdedExpr as Ast;
/// The syntax tree of expressions, for those who have no text.
pub use cel::common::ast;
use cel::{Context, Env, Program, Value};

use crate::value::{Lookup, Property};
use crate::{ROOTS, fields_of};
use needs::Path;

/// Values are not deeper than this.
const VALUE_DEPTH_MAX: usize = 32;

/// An expression that can be evaluated for any stream.
#[derive(Debug, Clone, PartialEq)]
pub struct Expression {
    ast: Arc<Ast>,
    /// What it names, none of them within another.
    needs: Vec<Path>,
}

// Numbers in an expression are literals, none of which is unequal to itself.
impl Eq for Expression {}

/// Why a text or a tree is no expression.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ExpressionError {
    #[error("is no CEL expression")]
    Syntax,
    #[error("is longer, deeper or has more operators than an expression may have")]
    TooLarge,
    #[error("has a loop (all, exists, map, filter) or makes a message")]
    Unsupported,
    #[error("calls '{0}', which is no function here")]
    Function(String),
    #[error("matches a pattern that is no text in the expression, or compiles too large")]
    Pattern,
}

/// What an expression evaluates to.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome(Property);

impl Outcome {
    #[must_use]
    pub fn as_bool(&self) -> Option<bool> {
        match self.0 {
            Property::Bool(value) => Some(value),
            _ => None,
        }
    }

    #[must_use]
    pub const fn value(&self) -> &Property {
        &self.0
    }

    #[must_use]
    pub fn into_value(self) -> Property {
        self.0
    }

    /// As Envoy writes it into a text.
    #[must_use]
    pub fn into_text(self) -> Vec<u8> {
        match self.0 {
            Property::Null => b"NULL".to_vec(),
            Property::Bool(value) => value.to_string().into_bytes(),
            Property::Int(value) => value.to_string().into_bytes(),
            Property::Uint(value) => value.to_string().into_bytes(),
            Property::Double(value) => value.to_string().into_bytes(),
            Property::Bytes(bytes) => bytes.to_vec(),
            Property::Map(_) => b"CelMap value".to_vec(),
            Property::List(_) => b"CelList value".to_vec(),
        }
    }
}

thread_local! {
    /// Making one costs more than most expressions.
    static ENV: Arc<Env> = Arc::new(Env::stdlib());
}

impl Expression {
    pub fn parse(text: &str) -> Result<Expression, ExpressionError> {
        if !bounds::is_shallow(text) {
            return Err(ExpressionError::TooLarge);
        }
        let program = Program::compile(text).map_err(|_| ExpressionError::Syntax)?;
        Expression::of_ast(program.expression().clone())
    }

    pub fn of_ast(ast: Ast) -> Result<Expression, ExpressionError> {
        bounds::check(&ast)?;
        let needs = needs::of(&ast);
        Ok(Expression { ast: Arc::new(ast), needs })
    }

    /// Whether it names something in this group of attributes.
    #[must_use]
    pub fn reads(&self, root: &str) -> bool {
        self.needs.iter().any(|path| *path[0] == *root)
    }

    /// `None`: an error, such as a name that isn't there. `lookup` is asked for what the expression names.
    pub fn evaluate(&self, lookup: &dyn Fn(&[&str]) -> Lookup) -> Option<Outcome> {
        let mut roots: BTreeMap<&str, Option<Property>> = BTreeMap::new();
        for path in &self.needs {
            let (root, rest) = path.split_first()?;
            let value = roots.entry(&**root).or_default();
            let parts: Vec<&str> = path.iter().map(|part| &**part).collect();
            match (whole(lookup, &parts), rest) {
                (found, []) => *value = found,
                (None, _) if !is_group(root) => {}
                (found, rest) => put(value.get_or_insert_with(empty), rest, found),
            }
        }
        ENV.with(|env| {
            let mut context = Context::with_env(env.clone());
            for (root, value) in roots {
                if let Some(value) = value.and_then(|value| to_cel(&value, 0)) {
                    context.add_variable_from_value(root, value);
                }
            }
            Value::resolve(&self.ast, &context).ok().map(|value| Outcome(from_cel(&value, 0)))
        })
    }
}

/// Whether a variable is there for every stream, whatever is in it.
fn is_group(root: &str) -> bool {
    root == "filter_state" || ROOTS.iter().any(|(known, _)| *known == root) || fields_of(&[root]).is_some()
}

fn empty() -> Property {
    Property::Map(BTreeMap::new())
}

/// Puts a value where a path leads to. What is on the way is there, whether the value is or not.
fn put(at: &mut Property, path: &[Arc<str>], value: Option<Property>) {
    let (Property::Map(map), Some((first, rest))) = (at, path.split_first()) else { return };
    match (rest.is_empty(), value) {
        (true, None) => {}
        (true, Some(value)) => _ = map.insert(first.to_string(), value),
        (false, value) => put(map.entry(first.to_string()).or_insert_with(empty), rest, value),
    }
}

/// What a path leads to; of a group its members, of a message its fields.
fn whole(lookup: &dyn Fn(&[&str]) -> Lookup, path: &[&str]) -> Option<Property> {
    let members = match path {
        [root] => ROOTS.iter().find(|(known, _)| known == root).map(|(_, members)| *members),
        _ => None,
    };
    if members.is_none() && fields_of(path).is_some() && lookup(path) == Lookup::Absent {
        return None;
    }
    let Some(members) = members.or_else(|| fields_of(path)) else {
        return match lookup(path) {
            Lookup::Found(value) => Some(value),
            Lookup::Absent | Lookup::NotAValue => None,
        };
    };
    let found =
        members.iter().filter_map(|member| Some(((*member).to_owned(), whole(lookup, &[path, &[member]].concat())?)));
    Some(Property::Map(found.collect()))
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
        // A text always: a byte that a client slips in must not keep a condition from looking at the rest.
        Property::Bytes(bytes) => Value::String(Arc::new(String::from_utf8_lossy(bytes).into_owned())),
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
#[path = "expression/tests.rs"]
mod tests;
