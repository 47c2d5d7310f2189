//! The router: from the chosen route to an origin, a redirect or a direct response.

use std::cell::OnceCell;
use std::rc::Rc;

use bytes::{Bytes, BytesMut};
use outrigger_config::{
    ClusterSpec, HeaderMutations, HostRewrite, PathMatcher, PathRewrite, Redirect, RedirectPath, Route, RouteAction,
    RouteForward,
};
use outrigger_http::{HeaderName, Headers, RequestHead, ResponseFlags};
use rand::RngCore;

use super::{Exchange, Origin};
use crate::cluster::{Checkout, Client, ClusterHandle, PickKey};
use crate::error::{ErrorKind, LocalReply, StreamError};
use crate::filter::Way;
use crate::mutation;
use crate::texts::decimal;

impl Exchange<'_> {
    /// Chooses the virtual host, the route and its weighted cluster.
    pub(super) fn select_route(&mut self) {
        self.filters.selection.choose(&self.stream);
        self.adopt_route();
    }

    /// Takes over what the chosen route says about time.
    fn adopt_route(&mut self) {
        if !self.filters.selection.take_changed() {
            return;
        }
        let Some(forward) = self.filters.selection.forward() else { return };
        // Until the filters are through, what the route says holds.
        self.deadlines.route_timeout = forward.timeout.filter(|_| self.upgrade.is_none());
        let limited = forward.max_stream_duration.set || self.chain.hcm.max_stream_duration.is_some();
        if !limited {
            self.deadlines.stream = None;
        }
        if (limited || forward.idle_timeout.is_some())
            && let Some(route) = self.filters.selection.route_in(&self.chain.clone())
            && let RouteAction::Forward(forward) = &route.action
        {
            self.stream_deadlines(forward);
        }
    }

    /// A filter has changed the head: the route is chosen again, unless the request is on its way already.
    pub(super) fn clear_route(&mut self) {
        if matches!(self.origin, Origin::None) {
            self.select_route();
        }
    }

    /// The request has passed the filters: it is forwarded, redirected or answered.
    pub(super) fn route_request(&mut self) -> Result<(), StreamError> {
        if self.filters.len() > 0 {
            // What they took counts as theirs.
            self.begin_turn();
        }
        if self.filters.slot.take_route_dirty() {
            self.filters.selection.choose(&self.stream);
        }
        self.adopt_route();
        let chain = self.chain.clone();
        let Some(route) = self.filters.selection.route_in(&chain) else {
            self.chain.stats.no_route().inc();
            return self.fail(StreamError::internal(ErrorKind::NoRoute));
        };
        let result = match &route.action {
            RouteAction::Forward(forward) => return self.forward_to(route, forward),
            RouteAction::Redirect(redirect) => {
                self.chain.stats.rq_redirect().inc();
                redirect_reply(redirect, route, &self.stream.borrow().request)
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

    pub(super) fn mutate_reply(&self, reply: &mut LocalReply) {
        if self.routed && self.filters.selection.host().is_some_and(|host| host.attempt_count_in_response) {
            reply.headers.set(HeaderName::X_ENVOY_ATTEMPT_COUNT, decimal(u64::from(self.attempts.max(1))));
        }
        let state = self.stream.borrow();
        for mutations in self.mutations(|scope| scope.response) {
            mutation::apply_to(mutations, &state, &mut reply.headers);
        }
    }

    fn forward_to(&mut self, route: &Route, forward: &RouteForward) -> Result<(), StreamError> {
        self.routed = true;
        let Some(cluster) = self.cluster(forward) else {
            self.stream.borrow_mut().info.cluster_name = None;
            self.chain.stats.no_cluster().inc();
            return self.fail(StreamError::internal(ErrorKind::NoCluster(forward.cluster_not_found_status)));
        };
        self.chain.stats.rq_total().inc();
        self.cluster = Some(cluster.clone());
        if let Some(error) = cluster.dropped(|| self.cx.random().next_u64()) {
            return self.fail(error);
        }
        self.steered = (self.internal || self.filters.len() > 0) && self.has_envoy_headers();
        self.route_timeouts(forward);
        self.prepare_retries(forward);
        self.timeout_headers(forward);
        self.request_headers_by_route();
        self.rewrite(route, forward);
        if let Some(trace) = &self.trace {
            trace.inject(&mut self.stream.borrow_mut());
        }
        if cluster.cluster().lb.hashes() {
            self.hash = self.hash_request(forward);
        }
        self.begin_mirrors(forward);
        self.attempt_headers();
        self.attempt(&cluster)
    }

    /// What changes from one attempt to the next.
    pub(super) fn attempt_headers(&self) {
        let made = self.retry.as_ref().map_or(0, |retry| retry.made);
        if self.filters.selection.host().is_some_and(|host| host.attempt_count_in_request) {
            let count = decimal(u64::from(made) + 1);
            self.stream.borrow_mut().request.headers.set(HeaderName::X_ENVOY_ATTEMPT_COUNT, count);
        }
        if made > 0
            && let Some(forward) = self.filters.selection.forward()
        {
            self.timeout_headers(forward);
        }
    }

    /// An endpoint and a connection for the next attempt; `fresh`: not a pooled one.
    pub(super) fn checkout(&mut self, cluster: &Rc<ClusterHandle>, fresh: bool) -> Checkout {
        let (version, client, connection, server_name) = {
            let stream = self.stream.borrow();
            let connection = stream.info.downstream.connection.clone();
            let client = Client::of(stream.info.downstream.remote, stream.info.downstream.local);
            let client = client.filter(|_| self.chain.hcm.add_proxy_protocol_connection_state);
            (stream.request.version, client, connection, cluster.server_name(&stream.request))
        };
        let connection = connection.as_deref();
        let mut key = PickKey {
            hash: self.hash,
            client,
            connection,
            destination: connection.and_then(|connection| connection.original_dst),
            fresh,
            server_name: server_name.as_ref(),
            upgrade: self.upgrade.is_some(),
            ..PickKey::default()
        };
        if let Some(forward) = self.filters.selection.forward() {
            key.priority = forward.priority;
            key.metadata = self.filters.selection.metadata();
        }
        let Some(retry) = &mut self.retry else { return cluster.checkout(&key, version) };
        let told = OnceCell::new();
        key.told = Some(&told);
        let checkout = cluster.checkout(&retry.elsewhere(key), version);
        retry.went_to(told.into_inner());
        checkout
    }

    fn cluster(&self, forward: &RouteForward) -> Option<Rc<ClusterHandle>> {
        if let ClusterSpec::Single(name) = &forward.cluster {
            return self.chain.live.cluster(self.cx, name);
        }
        let name = self.filters.selection.cluster_name(&self.stream.borrow().request.headers)?;
        self.chain.live.cluster(self.cx, &name)
    }

    fn rewrite(&self, route: &Route, forward: &RouteForward) {
        let mut state = self.stream.borrow_mut();
        let state = &mut *state;
        let told = !self.chain.hcm.suppress_envoy_headers;
        let weighted = self.filters.selection.weighted_cluster().and_then(|cluster| cluster.host_rewrite.clone());
        // A weighted cluster's own host is told to nobody, as in Envoy.
        let told_host = told && weighted.is_none();
        let host = weighted.or_else(|| match forward.host_rewrite.as_ref()? {
            HostRewrite::Literal(host) => Some(host.clone()),
            HostRewrite::Header(name) => state.request.headers.get(name).cloned(),
            HostRewrite::Path { regex, substitution } => {
                Some(regex.replace_all(state.request.path_only(), substitution))
            }
            HostRewrite::Auto => None,
        });
        if let Some(host) = host.filter(|host| !host.is_empty()) {
            let original = std::mem::replace(&mut state.request.authority, host);
            if forward.append_x_forwarded_host && !original.is_empty() {
                append(&mut state.request.headers, HeaderName::X_FORWARDED_HOST, &original);
            }
            if told_host {
                state.request.headers.set(HeaderName::X_ENVOY_ORIGINAL_HOST, original);
            }
        }
        if let Some(rewrite) = &forward.path_rewrite {
            let path = rewrite_path(&state.request, &route.path, rewrite);
            let original = std::mem::replace(&mut state.request.path, path);
            if told {
                state.request.headers.set(HeaderName::X_ENVOY_ORIGINAL_PATH, original);
            }
        }
    }

    /// The header mutations of the scopes that ask for any, in the order in which they are applied.
    fn mutations<'s>(
        &'s self,
        pick: impl Fn(Scope<'s>) -> &'s HeaderMutations,
    ) -> impl Iterator<Item = &'s HeaderMutations> {
        let selection = &self.filters.selection;
        let cluster = selection.weighted_cluster();
        let cluster =
            cluster.map(|cluster| Scope { request: &cluster.request_headers, response: &cluster.response_headers });
        let route = selection.route();
        let route = route.map(|route| Scope { request: &route.request_headers, response: &route.response_headers });
        let host = selection.host();
        let host = host.map(|host| Scope { request: &host.request_headers, response: &host.response_headers });
        let routes = self.chain.routes.as_ref();
        let reverse = routes.is_some_and(|routes| routes.most_specific_header_mutations_wins);
        let routes =
            routes.map(|routes| Scope { request: &routes.request_headers, response: &routes.response_headers });
        let mut scopes = [route, host, routes];
        if reverse {
            scopes.reverse();
        }
        // A weighted cluster's come first either way, as in Envoy.
        std::iter::once(cluster).chain(scopes).flatten().map(pick).filter(|mutations| !mutations.is_empty())
    }

    fn request_headers_by_route(&self) {
        for mutations in self.mutations(|scope| scope.request) {
            mutation::apply(mutations, &mut self.stream.borrow_mut(), Way::Request);
        }
    }

    pub(super) fn response_headers_by_route(&self) {
        for mutations in self.mutations(|scope| scope.response) {
            mutation::apply(mutations, &mut self.stream.borrow_mut(), Way::Response);
        }
    }
}

struct Scope<'s> {
    request: &'s HeaderMutations,
    response: &'s HeaderMutations,
}

/// Joins a value to those that a header has already.
fn append(headers: &mut Headers, name: HeaderName, value: &Bytes) {
    let mut joined = BytesMut::new();
    for known in headers.get_all(&name).chain(std::iter::once(value)) {
        if !joined.is_empty() {
            joined.extend_from_slice(b",");
        }
        joined.extend_from_slice(known);
    }
    headers.set(name, joined.freeze());
}

/// The path with its query after a rewrite.
fn rewrite_path(head: &RequestHead, matcher: &PathMatcher, rewrite: &PathRewrite) -> Bytes {
    let path = head.path_only();
    let rest = &head.path[path.len()..];
    let rewritten = match rewrite {
        PathRewrite::Prefix(with) => replace_prefix(path, matcher, with),
        PathRewrite::Regex { regex, substitution } => regex.replace_all(path, substitution),
        PathRewrite::Template(template) => template.rewrite(path),
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
        PathMatcher::Exact(_) | PathMatcher::Regex(_) | PathMatcher::Template(_) | PathMatcher::Connect => path.len(),
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
        Some(port) => location.extend_from_slice(format!(":{port}").as_bytes()),
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
