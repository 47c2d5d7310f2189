//! `envoy.filters.http.cors`: answers preflights, and marks answers for origins that are allowed.

use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::{CorsPolicy, OverrideConfig, StringMatcher};
use outrigger_http::{HeaderName, Headers, Method};

use super::NativeHandle;
use crate::error::LocalReply;
use crate::filter::{Action, StreamCx, StreamFilter};

#[derive(Debug)]
pub(super) struct Filter {
    handle: Rc<NativeHandle>,
    /// The allowed origin with the policies of its scopes, the most specific first.
    allowed: Option<(Bytes, Vec<Arc<CorsPolicy>>)>,
}

impl Filter {
    pub(super) fn new(handle: &Rc<NativeHandle>) -> Filter {
        Filter { handle: handle.clone(), allowed: None }
    }
}

fn named(name: &'static str) -> HeaderName {
    // Only names of this file, all of them tokens.
    HeaderName::from_bytes(name.as_bytes()).unwrap_or(HeaderName::ORIGIN)
}

/// The first scope's value that says something.
fn text<'p>(policies: &'p [Arc<CorsPolicy>], field: impl Fn(&'p CorsPolicy) -> &'p Bytes) -> Option<&'p Bytes> {
    policies.iter().map(|policy| field(policy)).find(|value| !value.is_empty())
}

fn flag(policies: &[Arc<CorsPolicy>], field: impl Fn(&CorsPolicy) -> Option<bool>) -> Option<bool> {
    policies.iter().find_map(|policy| field(policy))
}

fn is_allowed(policies: &[Arc<CorsPolicy>], origin: &[u8]) -> bool {
    let origins: &[StringMatcher] =
        policies.iter().map(|policy| &policy.origins[..]).find(|origins| !origins.is_empty()).unwrap_or_default();
    origins.iter().any(|matcher| matcher.matches(b"*") || matcher.matches(origin))
}

impl StreamFilter for Filter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, _end: bool) -> Action {
        let Some(OverrideConfig::Cors(policies)) = self.handle.by_route(cx) else { return Action::Continue };
        let Some(first) = policies.first() else { return Action::Continue };
        let random = self.handle.random();
        let (enabled, shadow) = (first.enabled.holds(random), first.shadow.holds(random));
        if !enabled && !shadow {
            return Action::Continue;
        }
        let state = cx.stream.borrow();
        let headers = &state.request.headers;
        let Some(origin) = headers.get(&HeaderName::ORIGIN).filter(|origin| !origin.is_empty()) else {
            return Action::Continue;
        };
        let preflight = state.request.method == Method::Options
            && headers.get(&named("access-control-request-method")).is_some_and(|method| !method.is_empty());
        if !is_allowed(policies, origin) {
            self.handle.stats.inc("cors", "origin_invalid");
            if enabled && preflight && flag(policies, |policy| policy.forward_preflights) == Some(false) {
                return Action::Respond(LocalReply::new(200, "cors_response", ""));
            }
            return Action::Continue;
        }
        self.handle.stats.inc("cors", "origin_valid");
        if !enabled {
            return Action::Continue;
        }
        self.allowed = Some((origin.clone(), policies.clone()));
        if preflight {
            let private =
                headers.get(&named("access-control-request-private-network")).is_some_and(|value| value == "true");
            return Action::Respond(preflight_reply(policies, origin, private));
        }
        Action::Continue
    }

    fn on_response_headers(&mut self, cx: &mut StreamCx<'_>, _end: bool) -> Action {
        if let Some((origin, policies)) = &self.allowed
            && let Some(head) = &mut cx.stream.borrow_mut().response
        {
            allow(&mut head.headers, policies, origin);
            if let Some(expose) = text(policies, |policy| &policy.expose) {
                head.headers.set(named("access-control-expose-headers"), expose.clone());
            }
        }
        Action::Continue
    }
}

fn allow(headers: &mut Headers, policies: &[Arc<CorsPolicy>], origin: &Bytes) {
    headers.set(named("access-control-allow-origin"), origin.clone());
    if flag(policies, |policy| policy.credentials) == Some(true) {
        headers.set(named("access-control-allow-credentials"), Bytes::from_static(b"true"));
    }
}

fn preflight_reply(policies: &[Arc<CorsPolicy>], origin: &Bytes, private: bool) -> LocalReply {
    let mut reply = LocalReply::new(200, "cors_response", "");
    allow(&mut reply.headers, policies, origin);
    for (name, value) in [
        ("access-control-allow-methods", text(policies, |policy| &policy.methods)),
        ("access-control-allow-headers", text(policies, |policy| &policy.headers)),
        ("access-control-max-age", text(policies, |policy| &policy.max_age)),
    ] {
        if let Some(value) = value {
            reply.headers.set(named(name), value.clone());
        }
    }
    if private && flag(policies, |policy| policy.private_network) == Some(true) {
        reply.headers.set(named("access-control-allow-private-network"), Bytes::from_static(b"true"));
    }
    reply
}
