//! `expr_create`, `expr_evaluate` and `expr_delete`: CEL over the attributes of the stream.

use std::collections::HashMap;

use outrigger_attributes::Expression;

use super::Arguments;
use crate::hostcall::{Cx, Stop};
use crate::property;
use crate::status::Status;

/// Expressions of one VM.
const EXPRESSIONS_MAX: usize = 1024;

/// The expressions of one VM.
#[derive(Default)]
pub(crate) struct Expressions {
    by_token: HashMap<u32, Expression>,
    next_token: u32,
}

/// The result is the expression's token.
pub(super) fn create(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let text = std::str::from_utf8(arguments.of(cx)?).map_err(|_| Status::BadArgument)?;
    let expression = Expression::parse(text).map_err(|_| Status::BadArgument)?;
    let expressions = &mut cx.host_mut().expressions;
    if expressions.by_token.len() >= EXPRESSIONS_MAX {
        return Err(Status::InternalFailure.into());
    }
    let token = expressions.next_token;
    expressions.next_token = token.checked_add(1).ok_or(Status::InternalFailure)?;
    expressions.by_token.insert(token, expression);
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
    let expression = host.expressions.by_token.get(&token).ok_or(Status::NotFound)?;
    let outcome = expression.evaluate(&|path| property::lookup(host, path)).ok_or(Status::InternalFailure)?;
    let encoded = property::encode(&outcome.into_value()).ok_or(Status::SerializationFailure)?;
    Ok(encoded.to_vec())
}

pub(super) fn delete(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let token = token(cx, arguments)?;
    cx.host_mut().expressions.by_token.remove(&token);
    Ok(Vec::new())
}
