//! `envoy.filters.http.rbac`: refuses by rules, and watches what other rules would do.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{OverrideConfig, RbacFilter, RbacVerdict};
use outrigger_http::{MetadataValue, StreamState};

use super::NativeHandle;
use crate::error::LocalReply;
use crate::filter::{Action, StreamCx, StreamFilter};

/// Where the verdicts stand in the stream's metadata.
const NAMESPACE: &str = "envoy.filters.http.rbac";

#[derive(Debug)]
pub(super) struct Filter {
    config: Arc<RbacFilter>,
    handle: Rc<NativeHandle>,
}

impl Filter {
    pub(super) fn new(config: &Arc<RbacFilter>, handle: &Rc<NativeHandle>) -> Filter {
        Filter { config: config.clone(), handle: handle.clone() }
    }
}

impl StreamFilter for Filter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, _end: bool) -> Action {
        let config = match self.handle.by_route(cx) {
            Some(OverrideConfig::Rbac(None)) => return Action::Continue,
            Some(OverrideConfig::Rbac(Some(own))) => own,
            _ => &self.config,
        };
        let mut state = cx.stream.borrow_mut();
        if let Some(shadow) = &config.shadow {
            let verdict = shadow.judge(&state);
            self.count(&config.shadow_stat_prefix, if verdict.allowed { "shadow_allowed" } else { "shadow_denied" });
            let prefix = &config.shadow_stat_prefix;
            note(&mut state, NAMESPACE, &format!("{prefix}shadow"), verdict);
        }
        let Some(rules) = &config.rules else { return Action::Continue };
        let verdict = rules.judge(&state);
        self.count(&config.stat_prefix, if verdict.allowed { "allowed" } else { "denied" });
        let prefix = &config.stat_prefix;
        note(&mut state, NAMESPACE, &format!("{prefix}enforced"), verdict);
        hint(&mut state, verdict);
        if verdict.allowed {
            return Action::Continue;
        }
        let mut reply = LocalReply::new(403, "", "RBAC: access denied");
        reply.details = verdict.details().into();
        Action::Respond(reply)
    }
}

impl Filter {
    fn count(&self, prefix: &str, what: &'static str) {
        if prefix.is_empty() {
            self.handle.stats.inc("rbac", what);
        } else {
            self.handle.stats.inc(&format!("rbac.{}", prefix.trim_end_matches('.')), what);
        }
    }
}

/// Notes in a filter's namespace what rules said; `rules` is before the keys.
pub(crate) fn note(state: &mut StreamState, namespace: &str, rules: &str, verdict: RbacVerdict<'_>) {
    let text = if verdict.allowed { "allowed" } else { "denied" };
    set(state, namespace, &format!("{rules}_engine_result"), MetadataValue::String(Arc::from(text)));
    if let Some(name) = verdict.policy {
        set(state, namespace, &format!("{rules}_effective_policy_id"), MetadataValue::String(name.clone()));
    }
}

/// Tells the access log what rules that only log have found.
pub(crate) fn hint(state: &mut StreamState, verdict: RbacVerdict<'_>) {
    if let Some(logged) = verdict.logged {
        set(state, "envoy.common", "access_log_hint", MetadataValue::Bool(logged));
    }
}

fn set(state: &mut StreamState, namespace: &str, key: &str, value: MetadataValue) {
    state.info.metadata.get_or_insert_default().dynamic.set(namespace, key, value);
}
