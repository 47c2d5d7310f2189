//! `HTTPRoute` and `TCPRoute` (gateway.networking.k8s.io).

use std::sync::Arc;

use outrigger_model::{Actions, Match, PathMatch, PathRewrite, Route, Rule, TcpRoute, Timeouts};

use super::{Head, http_filters, http_match, refs};
use crate::decode::{Decoder, Fields};
use crate::node::{Node, Value};
use crate::scalar;

/// Gateway API's bounds.
const RULES_MAX: usize = 16;
const HOSTNAMES_MAX: usize = 16;

pub(super) fn decode<'a>(cx: &Decoder<'a>, fields: &mut Fields<'_, 'a>, head: &Head) -> Option<Route> {
    let mut spec = cx.object(fields.required("spec")?)?;
    let parents = refs::parents(cx, &mut spec, head);
    spec.refuse(&["useDefaultGateways"]);
    let items = spec.list("hostnames", HOSTNAMES_MAX);
    let hostnames: Vec<_> = items.iter().filter_map(|node| cx.parsed(node, scalar::hostname)).collect();
    let rules = match spec.take("rules") {
        Some(node) => rules(cx, node, head),
        None => vec![Arc::new(Rule {
            name: None,
            matches: vec![http_match::everything()],
            actions: Actions::default(),
            timeouts: Timeouts::default(),
            backends: Vec::new(),
        })],
    };
    let source = Arc::clone(&head.source);
    Some(Route { id: head.id(), parents, hostnames, rules, created: head.created, source })
}

fn rules<'a>(cx: &Decoder<'a>, node: &'a Node, head: &Head) -> Vec<Arc<Rule>> {
    let mut rules: Vec<Arc<Rule>> = Vec::new();
    for item in cx.list(node, RULES_MAX) {
        let Some(rule) = rule(cx, item, head) else { continue };
        if rule.name.is_some() && rules.iter().any(|other| other.name == rule.name) {
            cx.error(item, format!("a second rule named `{}`", rule.name.as_deref().unwrap_or_default()));
        }
        rules.push(Arc::new(rule));
    }
    rules
}

fn rule<'a>(cx: &Decoder<'a>, node: &'a Node, head: &Head) -> Option<Rule> {
    let mut fields = cx.object(node)?;
    let name = fields.take("name").and_then(|node| cx.parsed(node, scalar::subdomain));
    let matches = http_match::decode(cx, &mut fields);
    let filters_node = fields.take("filters");
    let actions = http_filters::decode(cx, &mut fields);
    let timeouts = fields.take("timeouts").map(|node| timeouts(cx, node)).unwrap_or_default();
    let backends_node = fields.take("backendRefs");
    let backends = refs::backends(cx, &mut fields, head, true);
    fields.refuse(&["retry", "sessionPersistence"]);
    if let (Some(_), Some(backends)) = (&actions.redirect, backends_node.filter(|_| !backends.is_empty())) {
        cx.error(backends, "a rule that redirects has no backends");
    }
    if let Some(filters) = filters_node {
        check_prefix_rewrite(cx, filters, &actions, &matches);
    }
    let names_none = backends_node.is_none_or(|node| matches!(&node.value, Value::Sequence(items) if items.is_empty()));
    if names_none && actions.redirect.is_none() {
        cx.warning(node, "no backendRefs: requests get 500");
    }
    Some(Rule { name, matches, actions, timeouts, backends })
}

/// A prefix can only be replaced where one was matched.
fn check_prefix_rewrite(cx: &Decoder<'_>, filters: &Node, actions: &Actions, matches: &[Match]) {
    let redirect = actions.redirect.as_ref().and_then(|redirect| redirect.path.as_ref());
    let rewrite = actions.rewrite.as_ref().and_then(|rewrite| rewrite.path.as_ref());
    let replaces_prefix = [redirect, rewrite].into_iter().flatten().any(|path| matches!(path, PathRewrite::Prefix(_)));
    let all_prefixes = matches.iter().all(|matcher| matches!(matcher.path, PathMatch::Prefix(_)));
    if replaces_prefix && !all_prefixes {
        cx.error(filters, "ReplacePrefixMatch needs matches of type PathPrefix only");
    }
}

fn timeouts<'a>(cx: &Decoder<'a>, node: &'a Node) -> Timeouts {
    let Some(mut fields) = cx.object(node) else { return Timeouts::default() };
    let mut take = |field| {
        let node = fields.take(field)?;
        cx.parsed(node, scalar::gateway_duration)
    };
    let (request, backend_request) = (take("request"), take("backendRequest"));
    if let (Some(request), Some(backend)) = (request, backend_request)
        && !request.is_zero()
        && backend > request
    {
        cx.error(node, "backendRequest is longer than request");
    }
    Timeouts { request, backend_request }
}

pub(super) fn decode_tcp<'a>(cx: &Decoder<'a>, fields: &mut Fields<'_, 'a>, head: &Head) -> Option<TcpRoute> {
    let mut spec = cx.object(fields.required("spec")?)?;
    let parents = refs::parents(cx, &mut spec, head);
    spec.refuse(&["useDefaultGateways"]);
    let rules = spec.required("rules")?;
    let items = cx.list(rules, RULES_MAX);
    if items.len() != 1 {
        cx.error(rules, "a TCPRoute has exactly one rule");
    }
    let item = items.first()?;
    let mut rule = cx.object(item)?;
    rule.ignore(&["name"]);
    let backends = refs::backends(cx, &mut rule, head, false);
    if backends.is_empty() {
        cx.warning(item, "no backendRefs: connections are closed");
    }
    let source = Arc::clone(&head.source);
    Some(TcpRoute { id: head.id(), parents, backends, created: head.created, source })
}
