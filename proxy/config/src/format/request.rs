//! Operators that tell of the request's line: its query, and what it calls its host.

use std::borrow::Cow;

use outrigger_http::StreamState;

use super::operator::{Field, Operator, either, field, request_field};
use super::value::{Value, text};

/// `%QUERY_PARAM(X)%`, `%QUERY_PARAMS(X)%`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum QueryOperator {
    Whole { decoded: bool },
    Parameter(String),
}

/// `%REQUESTED_SERVER_NAME(X:Y)%`: SNI, or what the request calls its host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ServerName {
    prefers: Prefers,
    host: Field,
    fallback: Option<Field>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefers {
    OnlySni,
    Sni,
    Host,
}

/// `None`: the operator is of another kind. `Err`: its argument is wrong.
pub(super) fn parse(name: &str, argument: &str) -> Option<Result<Operator, String>> {
    let (first, second) = argument.split_once(':').unwrap_or((argument, ""));
    Some(match name {
        "PATH" => path(first, second),
        "QUERY_PARAM" if argument.is_empty() => Err("takes the name of a parameter".to_owned()),
        "QUERY_PARAM" => Ok(Operator::Query(QueryOperator::Parameter(argument.to_owned()))),
        "QUERY_PARAMS" => match argument {
            "" | "ORIG" => Ok(Operator::Query(QueryOperator::Whole { decoded: false })),
            "DECODED" => Ok(Operator::Query(QueryOperator::Whole { decoded: true })),
            _ => Err("takes ORIG or DECODED".to_owned()),
        },
        "REQUESTED_SERVER_NAME" => server_name(first, second).map(Operator::ServerName),
        _ => return None,
    })
}

/// What stands in a header, or in the request's line, or there where the header isn't.
fn source(header: &str, own: Field, choice: &str, names: [&str; 3]) -> Result<(Field, Option<Field>), String> {
    let [original, current, either] = names;
    match choice {
        choice if choice == original => Ok((field(header)?, None)),
        choice if choice == current => Ok((own, None)),
        choice if choice.is_empty() || choice == either => Ok((field(header)?, Some(own))),
        _ => Err(format!("takes {original}, {current} or {either} after the colon")),
    }
}

fn path(query: &str, choice: &str) -> Result<Operator, String> {
    let query = match query {
        "" | "WQ" => true,
        "NQ" => false,
        _ => return Err("takes WQ or NQ".to_owned()),
    };
    let (name, fallback) = source("x-envoy-original-path", Field::Path, choice, ["ORIG", "PATH", "ORIG_OR_PATH"])?;
    Ok(Operator::Request { name, fallback, query })
}

fn server_name(prefers: &str, choice: &str) -> Result<ServerName, String> {
    let prefers = match prefers {
        "" | "SNI_ONLY" => Prefers::OnlySni,
        "SNI_FIRST" => Prefers::Sni,
        "HOST_FIRST" => Prefers::Host,
        _ => return Err("takes SNI_ONLY, SNI_FIRST or HOST_FIRST".to_owned()),
    };
    let (host, fallback) = source("x-envoy-original-host", Field::Authority, choice, ["ORIG", "HOST", "ORIG_OR_HOST"])?;
    Ok(ServerName { prefers, host, fallback })
}

impl ServerName {
    pub(super) fn value<'a>(&'a self, state: &'a StreamState) -> Value<'a> {
        let sni = || text(state.info.downstream.requested_server_name().unwrap_or_default());
        let host = || either(&self.host, self.fallback.as_ref(), |field| request_field(state, field));
        let first = match self.prefers {
            Prefers::OnlySni | Prefers::Sni => sni(),
            Prefers::Host => return host(),
        };
        if first.is_absent() && self.prefers == Prefers::Sni { host() } else { first }
    }
}

impl QueryOperator {
    pub(super) fn value<'a>(&'a self, state: &'a StreamState) -> Value<'a> {
        let path = &state.request.path;
        let Some(at) = path.iter().position(|byte| *byte == b'?') else { return Value::Absent };
        let query = path[at + 1..].split(|byte| *byte == b'#').next().unwrap_or_default();
        match self {
            QueryOperator::Whole { decoded: false } => Value::Bytes(query),
            QueryOperator::Whole { decoded: true } => Value::of(decode(query)),
            QueryOperator::Parameter(name) => {
                let mut pairs = query.split(|byte| *byte == b'&');
                let found = pairs.find_map(|pair| {
                    let at = pair.iter().position(|byte| *byte == b'=').unwrap_or(pair.len());
                    let value = pair.get(at + 1..).unwrap_or_default();
                    (*decode(&pair[..at]) == *name.as_bytes()).then(|| decode(value))
                });
                found.map_or(Value::Absent, Value::of)
            }
        }
    }
}

/// With `%XX` as the bytes that they stand for; what is no escape stays.
fn decode(text: &[u8]) -> Cow<'_, [u8]> {
    if !text.contains(&b'%') {
        return Cow::Borrowed(text);
    }
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some((first, after)) = rest.split_first() {
        let digits = after.get(..2).filter(|_| *first == b'%').and_then(|digits| std::str::from_utf8(digits).ok());
        let digits = digits.filter(|digits| digits.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = &after[2..];
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    Cow::Owned(out)
}
