//! `%COALESCE({"operators": [..]})%`: the first of several operators that has a value.

use outrigger_http::StreamState;
use serde_json::Value as Json;

use super::FormatError;
use super::operator::Operator;
use super::value::Value;

/// Operators with how much of each one's value is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Coalesce(Vec<(Operator, Option<usize>)>);

/// Operators within operators.
const DEPTH_MAX: usize = 8;

impl Coalesce {
    /// The error says what is wrong with the argument, or with an operator in it.
    pub(super) fn parse(argument: &str, depth: usize) -> Result<Coalesce, FormatError> {
        if depth > DEPTH_MAX {
            return Err(problem("is nested too deep"));
        }
        let parsed: Json = serde_json::from_str(argument).map_err(|_| problem("takes a JSON object"))?;
        let entries = parsed.get("operators").and_then(Json::as_array);
        let entries = entries.ok_or_else(|| problem("takes an object with a list of operators"))?;
        if entries.is_empty() {
            return Err(problem("has no operators"));
        }
        Ok(Coalesce(entries.iter().map(|entry| operator(entry, depth + 1)).collect::<Result<_, _>>()?))
    }

    pub(super) fn value<'a>(&'a self, state: &'a StreamState) -> Value<'a> {
        let mut values = self.0.iter().map(|(operator, max)| operator.value(state).cut_to(*max));
        values.find(|value| !value.is_absent() && !value.is_empty()).unwrap_or(Value::Absent)
    }
}

fn problem(problem: &str) -> FormatError {
    FormatError::Argument { operator: "COALESCE".to_owned(), problem: problem.to_owned() }
}

/// A name, or an object with a name, an argument and a length.
fn operator(entry: &Json, depth: usize) -> Result<(Operator, Option<usize>), FormatError> {
    if let Some(name) = entry.as_str() {
        return Ok((Operator::parse(name, None, depth)?, None));
    }
    let name = entry.get("command").and_then(Json::as_str);
    let name = name.ok_or_else(|| problem("an operator is neither a name nor an object with a command"))?;
    let argument = match entry.get("param") {
        Some(param) => Some(param.as_str().ok_or_else(|| problem("the param of an operator is no text"))?),
        None => None,
    };
    let max = match entry.get("max_length") {
        Some(max) => {
            let max = max.as_u64().filter(|max| *max > 0).and_then(|max| usize::try_from(max).ok());
            Some(max.ok_or_else(|| problem("the max_length of an operator is no positive number"))?)
        }
        None => None,
    };
    Ok((Operator::parse(name, argument, depth)?, max))
}
