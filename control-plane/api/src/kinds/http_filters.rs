//! `filters` of an HTTPRoute's rule and of its backends.

use std::sync::Arc;

use outrigger_model::{Actions, HeaderMutation, PathRewrite, Redirect, Rewrite};

use crate::decode::{Decoder, Fields};
use crate::node::Node;
use crate::scalar;

/// Gateway API's bounds.
const FILTERS_MAX: usize = 16;
const HEADERS_MAX: usize = 16;

/// Gateway API's filter types: where their settings are, and whether they are implemented.
const TYPES: &[(&str, (&str, bool))] = &[
    ("RequestHeaderModifier", ("requestHeaderModifier", true)),
    ("ResponseHeaderModifier", ("responseHeaderModifier", true)),
    ("RequestRedirect", ("requestRedirect", true)),
    ("URLRewrite", ("urlRewrite", true)),
    ("RequestMirror", ("requestMirror", false)),
    ("CORS", ("cors", false)),
    ("ExternalAuth", ("externalAuth", false)),
    ("ExtensionRef", ("extensionRef", false)),
];

pub(super) fn decode<'a>(cx: &Decoder<'a>, rule: &mut Fields<'_, 'a>) -> Actions {
    rule.take("filters").map(|node| list(cx, node)).unwrap_or_default()
}

/// Backends change headers only.
pub(super) fn of_backend<'a>(cx: &Decoder<'a>, node: &'a Node) -> Actions {
    let actions = list(cx, node);
    if actions.redirect.is_some() || actions.rewrite.is_some() {
        cx.error(node, "a backend has RequestHeaderModifier and ResponseHeaderModifier only");
    }
    actions
}

fn list<'a>(cx: &Decoder<'a>, node: &'a Node) -> Actions {
    let mut actions = Actions::default();
    let mut seen = Vec::new();
    for item in cx.list(node, FILTERS_MAX) {
        let Some(field) = one(cx, item, &mut actions) else { continue };
        if seen.contains(&field) {
            cx.error(item, format!("a second `{field}` in the same list"));
        }
        seen.push(field);
    }
    if actions.redirect.is_some() && actions.rewrite.is_some() {
        cx.error(node, "RequestRedirect and URLRewrite exclude each other");
    }
    actions
}

fn one<'a>(cx: &Decoder<'a>, node: &'a Node, actions: &mut Actions) -> Option<&'static str> {
    let mut fields = cx.object(node)?;
    let settings: Vec<_> = TYPES.iter().map(|(_, (field, _))| (*field, fields.take(field))).collect();
    let type_node = fields.required("type")?;
    let (field, implemented) = cx.choice(type_node, TYPES)?;
    for (other, node) in settings.iter().filter(|(other, _)| *other != field) {
        if let Some(node) = node {
            cx.error(node, format!("`{other}` doesn't go with this type, which is set in `{field}`"));
        }
    }
    if !implemented {
        cx.error(type_node, "not supported yet");
        return Some(field);
    }
    let setting = settings.iter().find_map(|(other, node)| (*other == field).then_some(*node)).flatten();
    let Some(setting) = setting else {
        cx.missing(node, field, "required by this type");
        return Some(field);
    };
    match field {
        "requestHeaderModifier" => actions.request_headers = headers(cx, setting),
        "responseHeaderModifier" => actions.response_headers = headers(cx, setting),
        "requestRedirect" => actions.redirect = redirect(cx, setting),
        _ => actions.rewrite = rewrite(cx, setting),
    }
    Some(field)
}

fn headers<'a>(cx: &Decoder<'a>, node: &'a Node) -> HeaderMutation {
    let Some(mut fields) = cx.object(node) else { return HeaderMutation::default() };
    let mut names: Vec<Arc<str>> = Vec::new();
    let mut name = |node: &'a Node| {
        let name = cx.parsed(node, modifiable)?;
        if names.contains(&name) {
            cx.error(node, format!("`{name}` twice in one filter"));
        }
        names.push(Arc::clone(&name));
        Some(name)
    };
    let mut pairs = |items: &'a [Node]| -> Vec<_> {
        items
            .iter()
            .filter_map(|item| {
                let mut fields = cx.object(item)?;
                let name = fields.required("name").and_then(&mut name);
                let value = fields.required("value").and_then(|node| cx.parsed(node, scalar::header_value));
                Some((name?, value?))
            })
            .collect()
    };
    let set = pairs(fields.list("set", HEADERS_MAX));
    let add = pairs(fields.list("add", HEADERS_MAX));
    let remove = fields.list("remove", HEADERS_MAX).iter().filter_map(name).collect();
    HeaderMutation { set, add, remove }
}

fn modifiable(text: &str) -> Result<Arc<str>, String> {
    let name = scalar::header_name(text)?;
    match &*name {
        "host" => Err("the host is changed with a URLRewrite filter's `hostname`".to_owned()),
        "connection" | "content-length" | "keep-alive" | "te" | "transfer-encoding" | "upgrade" => {
            Err(format!("`{name}` belongs to the connection and is not for routes to change"))
        }
        _ => Ok(name),
    }
}

fn redirect<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<Redirect> {
    let mut fields = cx.object(node)?;
    let scheme = fields.take("scheme").and_then(|node| cx.choice(node, &[("http", "http"), ("https", "https")]));
    let hostname = fields.take("hostname").and_then(|node| cx.parsed(node, scalar::precise_hostname));
    let path = fields.take("path").and_then(|node| path(cx, node));
    let port = fields.take("port").and_then(|node| cx.integer(node, 1..=65535));
    let status = fields.take("statusCode").and_then(|node| {
        let status = cx.integer(node, 300..=399)?;
        let known = matches!(status, 301 | 302 | 303 | 307 | 308);
        if !known {
            cx.error(node, format!("{status} is not one of 301, 302, 303, 307, 308"));
        }
        known.then_some(status)
    });
    Some(Redirect { scheme: scheme.map(Arc::from), hostname, port, path, status: status.unwrap_or(302) })
}

fn rewrite<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<Rewrite> {
    let mut fields = cx.object(node)?;
    let hostname = fields.take("hostname").and_then(|node| cx.parsed(node, scalar::precise_hostname));
    let path = fields.take("path").and_then(|node| path(cx, node));
    Some(Rewrite { hostname, path })
}

fn path<'a>(cx: &Decoder<'a>, node: &'a Node) -> Option<PathRewrite> {
    let mut fields = cx.object(node)?;
    let full = fields.take("replaceFullPath");
    let prefix = fields.take("replacePrefixMatch");
    let kinds = [("ReplaceFullPath", true), ("ReplacePrefixMatch", false)];
    let is_full = fields.required("type").and_then(|node| cx.choice(node, &kinds))?;
    let (value, field, other) =
        if is_full { (full, "replaceFullPath", prefix) } else { (prefix, "replacePrefixMatch", full) };
    if let Some(other) = other {
        cx.error(other, "doesn't go with this type");
    }
    let Some(value) = value else {
        cx.missing(node, field, "required by this type");
        return None;
    };
    // An empty prefix is how one is taken away.
    let path = cx.parsed(value, |text| if text.is_empty() { Ok(Arc::from("/")) } else { scalar::path(text) })?;
    Some(if is_full { PathRewrite::Full(path) } else { PathRewrite::Prefix(path) })
}
