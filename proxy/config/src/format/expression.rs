//! `%CEL(EXPRESSION)%` and `%TYPED_CEL(EXPRESSION)%`.

use outrigger_attributes::{Expression, Property};
use outrigger_http::StreamState;

use super::value::Value;
use crate::json;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ExpressionOperator {
    expression: Expression,
    /// Numbers, booleans, lists and maps stay what they are.
    typed: bool,
}

impl ExpressionOperator {
    /// `None`: the operator is of another kind. `Err`: its argument is wrong.
    pub(crate) fn parse(name: &str, argument: Option<&str>) -> Option<Result<ExpressionOperator, String>> {
        let typed = match name {
            "CEL" => false,
            "TYPED_CEL" => true,
            _ => return None,
        };
        let expression = Expression::parse(argument.unwrap_or_default());
        Some(expression.map(|expression| ExpressionOperator { expression, typed }).map_err(|error| error.to_string()))
    }

    pub(crate) fn value(&self, state: &StreamState) -> Value<'static> {
        let Some(outcome) = self.expression.evaluate(&|path| outrigger_attributes::lookup(state, path)) else {
            return Value::Absent;
        };
        if !self.typed {
            return Value::Owned(outcome.into_text());
        }
        match outcome.value() {
            Property::Null => Value::Absent,
            Property::Int(number) => Value::Number(*number),
            Property::Bytes(bytes) => Value::Owned(bytes.to_vec()),
            other => {
                let mut json = Vec::new();
                write(other, &mut json);
                Value::Typed { json, text: outcome.into_text() }
            }
        }
    }
}

/// The depth of values is bounded where they are made.
fn write(value: &Property, out: &mut Vec<u8>) {
    match value {
        Property::Null => out.extend_from_slice(b"null"),
        Property::Bool(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Property::Int(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Property::Uint(value) => out.extend_from_slice(value.to_string().as_bytes()),
        Property::Double(value) if value.is_finite() => out.extend_from_slice(value.to_string().as_bytes()),
        Property::Double(_) => out.extend_from_slice(b"null"),
        Property::Bytes(bytes) => json::write_string(bytes, out),
        Property::List(list) => {
            out.push(b'[');
            for (index, value) in list.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                write(value, out);
            }
            out.push(b']');
        }
        Property::Map(map) => {
            out.push(b'{');
            for (index, (key, value)) in map.iter().enumerate() {
                if index > 0 {
                    out.push(b',');
                }
                json::write_string(key.as_bytes(), out);
                out.push(b':');
                write(value, out);
            }
            out.push(b'}');
        }
    }
}
