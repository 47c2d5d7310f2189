//! The router: from the chosen route to an origin, a redirect or a direct response.

use std::rc::Rc;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use outrigger_config::{
    AppendAction, ClusterSpec, HeaderMutations, HostRewrite, PathMatcher, PathRewrite, Redirect, RedirectPath, Route,
    RouteAction, RouteForward, WeightedCluster,
};
use outrigger_http::{HeaderName, Headers, RequestHead, ResponseFlags, Scheme, StreamState};
use rand::Rng;

use super::{Exchange, Origin};
use crate::cluster::{Checkout, ClusterHandle, PickKey};
use crate::error::{ErrorKind, LocalReply, StreamError};

impl Exchange<'_> {
    /// Chooses the virtual host, the route and its weighted cluster.
    pub(super) fn select_route(&mut self) {
        let Some(routes) = self.chain.routes.clone() else { return };
        let (host, route) = {
            let state = self.stream.borrow();
            let (host, route) =
                routes.table.select(&routes.virtual_hosts, &state.request, routes.ignore_port_in_host_matching);
            (host.cloned(), route.cloned())
        };
        self.weighted = None;
        if let Some(RouteAction::Forward(forward)) = route.as_ref().map(|route| &route.action) {
            let timeout = forward.timeout.filter(|timeout| !timeout.is_zero());
            self.deadlines.route_timeout = if self.upgrade.is_some() { None } else { timeout };
            if let Some(idle) = forward.idle_timeout {
                self.deadlines.idle_timeout = Some(idle).filter(|timeout| !timeout.is_zero());
                let now = tokio::time::Instant::now();
                self.deadlines.idle = self.deadlines.idle_timeout.map(|timeout| now + timeout);
            }
            if let Some(duration) = forward.max_stream_duration.filter(|duration| !duration.is_zero()) {
                self.deadlines.stream = Some(tokio::time::Instant::now() + duration);
            }
            if let ClusterSpec::Weighted { clusters, total } = &forward.cluster {
                self.weighted = choose(clusters, self.cx.random().random_range(0..(*total).max(1)));
            }
        }
        let mut state = self.stream.borrow_mut();
        state.info.virtual_host_name = host.as_ref().map(|host| host.name.clone());
        state.info.route_name = route.as_ref().map(|route| route.name.clone()).filter(|name| !name.is_empty());
        state.info.cluster_name =
            route.as_ref().and_then(|route| cluster_name(route, self.weighted, &state.request.headers));
        drop(state);
        (self.host, self.route) = (host, route);
    }

    /// A filter has changed the head: the route is chosen again, unless the request is on its way already.
    pub(super) fn clear_route(&mut self) {
        if matches!(self.origin, Origin::None) {
            self.select_route();
        }
    }

    pub(super) fn forward(&self) -> Option<&RouteForward> {
        match &self.route.as_ref()?.action {
            RouteAction::Forward(forward) => Some(forward),
            _ => None,
        }
    }

    /// The request has passed the filters: it is forwarded, redirected or answered.
    pub(super) fn route_request(&mut self) -> Result<(), StreamError> {
        if self.filters.slot.take_route_dirty() {
            self.select_route();
        }
        let Some(route) = self.route.clone() else {
            self.chain.stats.no_route().inc();
            return self.fail(StreamError::internal(ErrorKind::NoRoute));
        };
        let result = match &route.action {
            RouteAction::Forward(forward) => return self.forward_to(&route, forward),
            RouteAction::Redirect(redirect) => {
                self.chain.stats.rq_redirect().inc();
                redirect_reply(redirect, &route, &self.stream.borrow().request)
            }
            RouteAction::DirectResponse(direct) => {
                self.chain.stats.rq_direct_response().inc();
                let mut reply = LocalReply::new(direct.status, "direct_response", "");
                reply.body = match &direct.body_format {
                    Some(format) => {
                        let mut body = Vec::new();
                        format.write(&self.stream.borrow(), &mut body);
                        body.into()
                    }
                    None => direct.body.clone(),
                };
                reply
            }
        };
        // The route's own response headers belong to its answer.
        let mut reply = result;
        self.mutate_reply(&mut reply);
        self.reply(reply, ResponseFlags::NONE)
    }

    fn mutate_reply(&self, reply: &mut LocalReply) {
        let state = self.stream.borrow();
        for mutations in self.mutations(|scope| scope.response) {
            apply(mutations, &state, &mut reply.headers);
        }
    }

    fn forward_to(&mut self, route: &Arc<Route>, forward: &RouteForward) -> Result<(), StreamError> {
        let Some(cluster) = self.cluster(route, forward) else {
            self.chain.stats.no_cluster().inc();
            return self.fail(StreamError::internal(ErrorKind::NoCluster(forward.cluster_not_found_status)));
        };
        self.chain.stats.rq_total().inc();
        self.request_headers_by_route();
        self.rewrite(route, forward);
        if let Some(trace) = &self.trace {
            trace.inject(&mut self.stream.borrow_mut());
        }
        let version = self.stream.borrow().request.version;
        self.origin = Origin::Connecting(cluster.checkout(&PickKey::default(), version));
        if let Origin::Connecting(Checkout::Failed(error)) = &self.origin {
            let error = *error;
            self.origin = Origin::Done;
            return self.fail(error);
        }
        Ok(())
    }

    fn cluster(&self, route: &Arc<Route>, forward: &RouteForward) -> Option<Rc<ClusterHandle>> {
        let name = match &forward.cluster {
            ClusterSpec::Single(name) => name.clone(),
            _ => cluster_name(route, self.weighted, &self.stream.borrow().request.headers)?,
        };
        self.chain.live.cluster(self.cx, &name)
    }

    fn rewrite(&self, route: &Route, forward: &RouteForward) {
        let mut state = self.stream.borrow_mut();
        let state = &mut *state;
        if let Some(rewrite) = &forward.path_rewrite {
            let path = rewrite_path(&state.request, &route.path, rewrite);
            let original = std::mem::replace(&mut state.request.path, path);
            state.request.headers.set(HeaderName::X_ENVOY_ORIGINAL_PATH, original.clone());
            state.info.original_path = Some(original);
        }
        let weighted = self.weighted_cluster(forward).and_then(|cluster| cluster.host_rewrite.clone());
        let host = weighted.or_else(|| match &forward.host_rewrite {
            Some(HostRewrite::Literal(host)) => Some(host.clone()),
            Some(HostRewrite::Header(name)) => state.request.headers.get(name).cloned(),
            Some(HostRewrite::Auto) | None => None,
        });
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            let original = std::mem::replace(&mut state.request.authority, host);
            state.request.headers.set(HeaderName::X_ENVOY_ORIGINAL_HOST, original);
        }
    }

    fn weighted_cluster<'f>(&self, forward: &'f RouteForward) -> Option<&'f WeightedCluster> {
        match &forward.cluster {
            ClusterSpec::Weighted { clusters, .. } => clusters.get(self.weighted?),
            _ => None,
        }
    }

    /// The header mutations of the scopes, in the order in which they are applied.
    fn mutations<'s>(&'s self, pick: impl Fn(Scope<'s>) -> &'s HeaderMutations) -> Vec<&'s HeaderMutations> {
        let mut all = Vec::with_capacity(4);
        if let Some(cluster) = self.forward().and_then(|forward| self.weighted_cluster(forward)) {
            all.push(pick(Scope { request: &cluster.request_headers, response: &cluster.response_headers }));
        }
        if let Some(route) = &self.route {
            all.push(pick(Scope { request: &route.request_headers, response: &route.response_headers }));
        }
        if let Some(host) = &self.host {
            all.push(pick(Scope { request: &host.request_headers, response: &host.response_headers }));
        }
        if let Some(routes) = &self.chain.routes {
            all.push(pick(Scope { request: &routes.request_headers, response: &routes.response_headers }));
            if routes.most_specific_header_mutations_wins {
                all.reverse();
            }
        }
        all.retain(|mutations| !mutations.is_empty());
        all
    }

    fn request_headers_by_route(&self) {
        for mutations in self.mutations(|scope| scope.request) {
            let mut headers = std::mem::take(&mut self.stream.borrow_mut().request.headers);
            // Values are made from the head as it was before the scope changed it, the headers included.
            self.stream.borrow_mut().request.headers = headers.clone();
            apply(mutations, &self.stream.borrow(), &mut headers);
            self.stream.borrow_mut().request.headers = headers;
        }
    }

    pub(super) fn response_headers_by_route(&self) {
        for mutations in self.mutations(|scope| scope.response) {
            let Some(mut headers) = self.stream.borrow().response.as_ref().map(|head| head.headers.clone()) else {
                return;
            };
            apply(mutations, &self.stream.borrow(), &mut headers);
            if let Some(head) = &mut self.stream.borrow_mut().response {
                head.headers = headers;
            }
        }
    }
}

struct Scope<'s> {
    request: &'s HeaderMutations,
    response: &'s HeaderMutations,
}

fn apply(mutations: &HeaderMutations, state: &StreamState, headers: &mut Headers) {
    for name in &mutations.remove {
        headers.remove(name);
    }
    for option in &mutations.add {
        let value = match option.value.as_literal() {
            Some(literal) => literal.clone(),
            None => {
                let mut value = Vec::new();
                option.value.write(state, &mut value);
                value.into()
            }
        };
        if value.is_empty() && !option.keep_empty_value {
            continue;
        }
        let exists = headers.contains(&option.name);
        // A value that would split the message comes from the request: it is left out.
        _ = match (option.action, exists) {
            (AppendAction::AppendIfExistsOrAdd, _) | (AppendAction::AddIfAbsent, false) => {
                headers.try_append(option.name.clone(), value)
            }
            (AppendAction::OverwriteIfExistsOrAdd, _) | (AppendAction::OverwriteIfExists, true) => {
                headers.try_set(option.name.clone(), value)
            }
            (AppendAction::AddIfAbsent, true) | (AppendAction::OverwriteIfExists, false) => Ok(()),
        };
    }
}

fn choose(clusters: &[WeightedCluster], mut at: u32) -> Option<usize> {
    for (index, cluster) in clusters.iter().enumerate() {
        match at.checked_sub(cluster.weight) {
            Some(rest) => at = rest,
            None => return Some(index),
        }
    }
    None
}

fn cluster_name(route: &Route, weighted: Option<usize>, headers: &Headers) -> Option<Arc<str>> {
    let RouteAction::Forward(forward) = &route.action else { return None };
    match &forward.cluster {
        ClusterSpec::Single(name) => Some(name.clone()),
        ClusterSpec::Weighted { clusters, .. } => Some(clusters.get(weighted?)?.name.clone()),
        ClusterSpec::Header(name) => std::str::from_utf8(headers.get(name)?).ok().map(Arc::from),
    }
}

/// The path with its query after a rewrite.
fn rewrite_path(head: &RequestHead, matcher: &PathMatcher, rewrite: &PathRewrite) -> Bytes {
    let path = head.path_only();
    let rest = &head.path[path.len()..];
    let rewritten = match rewrite {
        PathRewrite::Prefix(with) => replace_prefix(path, matcher, with),
        PathRewrite::Regex { regex, substitution } => regex.replace_all(path, substitution),
    };
    if rest.is_empty() {
        return rewritten;
    }
    let mut out = BytesMut::with_capacity(rewritten.len() + rest.len());
    out.extend_from_slice(&rewritten);
    out.extend_from_slice(rest);
    out.freeze()
}

fn replace_prefix(path: &[u8], matcher: &PathMatcher, with: &Bytes) -> Bytes {
    let matched = match matcher {
        PathMatcher::Prefix(prefix) | PathMatcher::SeparatedPrefix(prefix) => prefix.len(),
        PathMatcher::Exact(_) | PathMatcher::Regex(_) | PathMatcher::Connect => path.len(),
    };
    let rest = &path[matched.min(path.len())..];
    let mut out = BytesMut::with_capacity(with.len() + rest.len());
    out.extend_from_slice(with);
    out.extend_from_slice(rest);
    out.freeze()
}

fn redirect_reply(redirect: &Redirect, route: &Route, head: &RequestHead) -> LocalReply {
    let scheme = redirect.scheme.unwrap_or(head.scheme);
    let (host, port) = split_port(&head.authority);
    let mut location = BytesMut::new();
    location.extend_from_slice(scheme.as_str().as_bytes());
    location.extend_from_slice(b"://");
    location.extend_from_slice(redirect.host.as_deref().unwrap_or(host));
    match redirect.port {
        Some(port) => {
            let default = if scheme == Scheme::Https { 443 } else { 80 };
            if port != default {
                location.extend_from_slice(format!(":{port}").as_bytes());
            }
        }
        // A change of scheme drops the port of the other one.
        None if redirect.host.is_none() => {
            let dropped = redirect.scheme.is_some_and(|new| new != head.scheme) && matches!(port, Some(b"80" | b"443"));
            if let Some(port) = port.filter(|_| !dropped) {
                location.extend_from_slice(b":");
                location.extend_from_slice(port);
            }
        }
        None => {}
    }
    let path = head.path_only();
    let query = &head.path[path.len()..];
    let mut own_query = false;
    match &redirect.path {
        Some(RedirectPath::Full(full)) => {
            own_query = full.contains(&b'?');
            location.extend_from_slice(full);
        }
        Some(RedirectPath::Prefix(with)) => location.extend_from_slice(&replace_prefix(path, &route.path, with)),
        Some(RedirectPath::Regex { regex, substitution }) => {
            location.extend_from_slice(&regex.replace_all(path, substitution))
        }
        None => location.extend_from_slice(path),
    }
    if !redirect.strip_query && !own_query {
        location.extend_from_slice(query);
    }
    let mut reply = LocalReply::new(redirect.status, "direct_response", "");
    _ = reply.headers.try_append(HeaderName::LOCATION, location.freeze());
    reply
}

fn split_port(authority: &[u8]) -> (&[u8], Option<&[u8]>) {
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(at) if !authority[at..].contains(&b']') => (&authority[..at], Some(&authority[at + 1..])),
        _ => (authority, None),
    }
}
