//! `matches` of an HTTPRoute's rule.

use std::sync::Arc;

use outrigger_model::{Match, PathMatch, ValueMatch};

use crate::decode::{Decoder, Fields};
use crate::node::Node;
use crate::scalar;

/// Gateway API's bounds.
const MATCHES_MAX: usize = 64;
const VALUES_MAX: usize = 16;

const METHODS: &[(&str, &str)] = &[
    ("GET", "GET"),
    ("HEAD", "HEAD"),
    ("POST", "POST"),
    ("PUT", "PUT"),
    ("DELETE", "DELETE"),
    ("CONNECT", "CONNECT"),
    ("OPTIONS", "OPTIONS"),
    ("TRACE", "TRACE"),
    ("PATCH", "PATCH"),
];

/// Never empty: without matches, everything matches.
pub(super) fn decode<'a>(cx: &Decoder<'a>, rule: &mut Fields<'_, 'a>) -> Vec<Match> {
    let items = rule.list("matches", MATCHES_MAX);
    if items.is_empty() { vec![everything()] } else { items.iter().filter_map(|item| one(cx, item)).collect() }
}

pub(super) fn everything() -> Match {
    Match { path: any_path(), method: None, headers: Vec::new(), query: Vec::new() }
}

fn any_path() -> PathMatch {
    PathMatch::Prefix(Arc::from("/"))
}

fn one<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<Match> {
    let mut fields = cx.object(node)?;
    let path = fields.take("path").map_or(Some(any_path()), |node| path(cx, node));
    let method = fields.take("method").map(|node| cx.choice(node, METHODS));
    let headers = values(cx, &mut fields, "headers", scalar::header_name);
    let query = values(cx, &mut fields, "queryParams", query_name);
    let method = super::refs::flatten(method)?.map(Arc::from);
    Some(Match { path: path?, method, headers: headers?, query: query? })
}

#[derive(Clone, Copy, Debug)]
enum PathKind {
    Exact,
    Prefix,
    Regex,
}

fn path<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<PathMatch> {
    let mut fields = cx.object(node)?;
    let kinds = [("Exact", PathKind::Exact), ("PathPrefix", PathKind::Prefix), ("RegularExpression", PathKind::Regex)];
    let kind = fields.take("type").map_or(Some(PathKind::Prefix), |node| cx.choice(node, &kinds));
    let value = fields.take("value");
    let kind = kind?;
    let Some(value) = value else {
        return match kind {
            PathKind::Prefix => Some(any_path()),
            PathKind::Exact | PathKind::Regex => {
                cx.missing(node, "value", "required");
                None
            }
        };
    };
    match kind {
        PathKind::Exact => cx.parsed(value, scalar::path).map(PathMatch::Exact),
        PathKind::Regex => cx.parsed(value, scalar::regex).map(PathMatch::Regex),
        PathKind::Prefix => {
            let path = cx.parsed(value, scalar::path)?;
            let trimmed = path.trim_end_matches('/');
            Some(if trimmed.is_empty() { any_path() } else { PathMatch::Prefix(Arc::from(trimmed)) })
        }
    }
}

fn query_name(text: &str) -> Result<Arc<str>, String> {
    if text.is_empty() || text.len() > 256 || text.chars().any(char::is_control) {
        return Err("must be a name of 1 to 256 characters".to_owned());
    }
    Ok(Arc::from(text))
}

/// None if one of them is wrong: without it, the match would be wider.
fn values<'a>(
    cx: &Decoder<'a>,
    fields: &mut Fields<'_, 'a>,
    field: &'static str,
    parse_name: fn(&str) -> Result<Arc<str>, String>,
) -> Option<Vec<(Arc<str>, ValueMatch)>> {
    let mut values: Option<Vec<(Arc<str>, ValueMatch)>> = Some(Vec::new());
    for item in fields.list(field, VALUES_MAX) {
        let value = value(cx, item, parse_name);
        if let (Some(values), Some((name, _))) = (&values, &value)
            && values.iter().any(|(other, _)| other == name)
        {
            cx.error(item, format!("`{name}` twice in one match"));
        }
        values = values.and_then(|mut values| {
            values.push(value?);
            Some(values)
        });
    }
    values
}

fn value<'a>(
    cx: &Decoder<'a>,
    node: &'a Node,
    parse_name: fn(&str) -> Result<Arc<str>, String>,
) -> Option<(Arc<str>, ValueMatch)> {
    let mut fields = cx.object(node)?;
    let is_regex = fields
        .take("type")
        .map_or(Some(false), |node| cx.choice(node, &[("Exact", false), ("RegularExpression", true)]));
    let name = fields.required("name").and_then(|node| cx.parsed(node, parse_name));
    let value = fields.required("value");
    let value = if is_regex? {
        ValueMatch::Regex(cx.parsed(value?, scalar::regex)?)
    } else {
        ValueMatch::Exact(Arc::from(cx.text(value?, 4096)?))
    };
    Some((name?, value))
}
