//! `envoy.filters.http.local_ratelimit`: a bucket of tokens that the whole process shares, for all requests or for those
//! with a descriptor.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{HostLimits, LimitAction, LimitActions, LimitDescriptor, LocalRateLimit, OverrideConfig};
use outrigger_http::{Headers, ResponseFlags, StreamState};

use super::NativeHandle;
use crate::error::LocalReply;
use crate::exchange::Selection;
use crate::filter::{Action, StreamCx, StreamFilter, Way};
use crate::mutation;

#[derive(Debug)]
pub(super) struct Filter {
    config: Arc<LocalRateLimit>,
    handle: Rc<NativeHandle>,
}

impl Filter {
    pub(super) fn new(config: &Arc<LocalRateLimit>, handle: &Rc<NativeHandle>) -> Filter {
        Filter { config: config.clone(), handle: handle.clone() }
    }
}

impl StreamFilter for Filter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, _end: bool) -> Action {
        let config = match self.handle.by_route(cx) {
            Some(OverrideConfig::LocalRateLimit(own)) => own,
            _ => &self.config,
        };
        if !config.enabled.holds(self.handle.random()) {
            return Action::Continue;
        }
        let count = |what| self.handle.stats.inc_named("http_local_rate_limit", &config.stat_prefix, what);
        count("enabled");
        let mut state = cx.stream.borrow_mut();
        if is_allowed(config, cx.selection, &state, self.handle.uptime()) {
            count("ok");
            return Action::Continue;
        }
        count("rate_limited");
        if !config.enforced.holds(self.handle.random()) {
            mutation::apply(&config.request_headers, &mut state, Way::Request);
            return Action::Continue;
        }
        count("enforced");
        state.info.flags.insert(ResponseFlags::RATE_LIMITED);
        let mut reply = LocalReply::new(config.status, "local_rate_limited", "local_rate_limited");
        let mut headers = Headers::new();
        mutation::apply_to(&config.response_headers, &state, &mut headers);
        reply.headers = headers;
        // By default a call sees UNAVAILABLE.
        reply.grpc_status = Some(if config.resource_exhausted { 8 } else { 14 });
        Action::Respond(reply)
    }
}

/// Takes tokens: of every descriptor that the request has, and of the filter's own bucket.
fn is_allowed(config: &LocalRateLimit, selection: &Selection, state: &StreamState, now: Duration) -> bool {
    let mut limited_by_descriptor = false;
    for actions in applicable(config, selection) {
        let Some(entries) = entries(actions, state) else { continue };
        if let Some(descriptor) = config.descriptors.iter().find(|descriptor| has(descriptor, &entries)) {
            limited_by_descriptor = true;
            if !descriptor.bucket.take(now) {
                return false;
            }
        }
    }
    if limited_by_descriptor && !config.takes_from_both {
        return true;
    }
    config.bucket.as_ref().is_none_or(|bucket| bucket.take(now))
}

/// The filter's own actions; where it has none, those of its stage that the route has, and the virtual host's.
fn applicable<'c>(config: &'c LocalRateLimit, selection: &'c Selection) -> impl Iterator<Item = &'c LimitActions> {
    let forward = selection.forward().filter(|_| config.actions.is_empty() && !config.descriptors.is_empty());
    let route = forward.map(|forward| &forward.rate_limits[..]).unwrap_or_default();
    let with_host = forward.is_some_and(|forward| match config.host_limits {
        _ if forward.includes_host_limits => true,
        HostLimits::Override => route.is_empty(),
        HostLimits::Include => true,
        HostLimits::Ignore => false,
    });
    let host = selection.host().filter(|_| with_host).map(|host| &host.rate_limits[..]).unwrap_or_default();
    let limits = route.iter().chain(host).filter(|limit| limit.stage == config.stage).map(|limit| &limit.actions);
    config.actions.iter().chain(limits)
}

fn has(descriptor: &LimitDescriptor, entries: &[(String, String)]) -> bool {
    let same = |(wanted, found): (&(String, String), &(String, String))| {
        wanted.0 == found.0 && (wanted.1.is_empty() || wanted.1 == found.1)
    };
    descriptor.entries.len() == entries.len() && descriptor.entries.iter().zip(entries).all(same)
}

/// The descriptor's entries; `None`: one of the actions makes none.
fn entries(actions: &[LimitAction], state: &StreamState) -> Option<Vec<(String, String)>> {
    let entry = |action: &LimitAction| match action {
        LimitAction::GenericKey { key, value } => Some(Some((key.clone(), value.clone()))),
        LimitAction::RequestHeader { name, key, skip_if_absent } => match state.request.headers.get(name) {
            Some(value) => Some(Some((key.clone(), String::from_utf8_lossy(value).into_owned()))),
            None if *skip_if_absent => Some(None),
            None => None,
        },
        LimitAction::RemoteAddress => {
            let remote = state.info.remote().map(|address| address.ip());
            Some(Some(("remote_address".to_owned(), remote?.to_string())))
        }
        LimitAction::HeaderValueMatch { key, value, expect, headers } => {
            let matches = headers.iter().all(|matcher| matcher.matches(&state.request));
            (matches == *expect).then(|| Some((key.clone(), value.clone())))
        }
        LimitAction::DestinationCluster => {
            Some(Some(("destination_cluster".to_owned(), state.info.cluster_name.as_ref()?.to_string())))
        }
    };
    let entries: Vec<(String, String)> =
        actions.iter().map(entry).collect::<Option<Vec<_>>>()?.into_iter().flatten().collect();
    (!entries.is_empty()).then_some(entries)
}
