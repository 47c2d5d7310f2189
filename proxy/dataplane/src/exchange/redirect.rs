//! Redirects of origins that the proxy follows itself (`internal_redirect_policy`): the request begins anew where they
//! lead to, with a route, filters and a line in the access log of its own. What isn't followed is the client's to see.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::{InternalRedirect, RedirectPredicate, RedirectTarget};
use outrigger_http::{BodyBuffer, HeaderName, Method, RequestHead, ResponseHead, Scheme, StreamInfo, StreamState};

use super::retry::Retry;
use super::{Exchange, Origin, Sent};
use crate::iteration::Stop;
use crate::trace::Trace;

/// The redirects of one request.
#[derive(Debug, Default)]
pub(super) struct Redirects {
    made: u32,
    /// From which route to which, by name, where `previous_routes` asks.
    taken: Vec<(Arc<str>, Arc<str>)>,
    /// What begins when this exchange has ended.
    pub(super) next: Option<Box<Next>>,
}

/// The request as it begins anew, with its trailers.
#[derive(Debug)]
pub(super) struct Next {
    state: StreamState,
    body: BodyBuffer,
}

/// Why a redirect isn't followed: the statistic of it, where there is one.
type NotFollowed = Option<&'static str>;

impl<'a> Exchange<'a> {
    /// The last answer of an attempt has come: true where it is a redirect that is followed.
    pub(super) fn redirect(&mut self, retry: Retry, answer: &ResponseHead) -> bool {
        let policy = self.filters.selection.forward().and_then(|forward| forward.internal_redirect.clone());
        let Some(policy) = policy.filter(|policy| policy.status_codes.contains(&answer.status)) else { return false };
        let followed = self.follow(&policy, retry, answer);
        if let Err(Some(why)) = followed {
            self.chain.stats.inc_rare(why);
        }
        if let Some(cluster) = &self.cluster {
            cluster.stats.inc_rare(match followed {
                Ok(()) => "upstream_internal_redirect_succeeded_total",
                Err(_) => "upstream_internal_redirect_failed_total",
            });
        }
        followed.is_ok()
    }

    fn follow(&mut self, policy: &InternalRedirect, retry: Retry, answer: &ResponseHead) -> Result<(), NotFollowed> {
        let location = answer.headers.get(&HeaderName::LOCATION).ok_or(None)?;
        let body =
            retry.into_body(self.request.passed.head == Some(true)).filter(|_| self.request_ended).ok_or(None)?;
        let target = RedirectTarget::parse(location).ok_or("passthrough_internal_redirect_bad_location")?;
        let mut redirects = self.redirects.take().unwrap_or_default();
        let next = self.next_request(policy, &mut redirects, answer, target, body);
        self.redirects = Some(redirects);
        let next = next?;
        if let Some(redirects) = &mut self.redirects {
            redirects.next = Some(Box::new(next));
        }
        if let Origin::Connected(picked) = &self.origin {
            picked.count_status(answer.status);
        }
        let mut state = self.stream.borrow_mut();
        state.info.code_details = "internal_redirect".into();
        state.response = Some(answer.clone());
        self.answered = true;
        // Nothing of it is the client's.
        self.sent = Sent::All;
        Ok(())
    }

    /// The request that is made where the redirect leads to, if it may.
    fn next_request(
        &self,
        policy: &InternalRedirect,
        redirects: &mut Redirects,
        answer: &ResponseHead,
        target: RedirectTarget,
        mut body: BodyBuffer,
    ) -> Result<Next, NotFollowed> {
        let before = self.stream.borrow();
        let from_scheme = before.request.scheme;
        if from_scheme != target.scheme && !policy.cross_scheme {
            return Err(Some("passthrough_internal_redirect_unsafe_scheme"));
        }
        if redirects.made >= policy.redirects_max {
            return Err(Some("passthrough_internal_redirect_too_many_redirects"));
        }
        let mut state = StreamState { info: begun_anew(&before.info), ..StreamState::default() };
        state.request = redirected(&before.request, policy, answer, target);
        state.request_trailers.clone_from(&before.request_trailers);
        crate::normalize::prepare_again(&mut state, &self.chain.hcm)
            .map_err(|_| "passthrough_internal_redirect_bad_location")?;
        let selection = &self.filters.selection;
        let to = selection.route_of(&state.request).ok_or("passthrough_internal_redirect_no_route")?.name.clone();
        let from = selection.route().map(|route| route.name.clone()).unwrap_or_default();
        let accepts = |predicate: &RedirectPredicate| match predicate {
            RedirectPredicate::PreviousRoutes => {
                !redirects.taken.iter().any(|(source, target)| *source == from && *target == to)
            }
            RedirectPredicate::AllowListedRoutes(names) => names.contains(&to),
            RedirectPredicate::SafeCrossScheme => from_scheme == Scheme::Https || state.request.scheme == Scheme::Http,
        };
        if !policy.predicates.iter().all(accepts) {
            return Err(Some("passthrough_internal_redirect_predicate"));
        }
        // RFC 9110 section 15.4.4: see other is to be got.
        if answer.status == 303 && !matches!(state.request.method, Method::Get | Method::Head) {
            state.request.method = Method::Get;
            state.request.headers.remove(&HeaderName::CONTENT_LENGTH);
            state.request_trailers = None;
            body.clear();
        }
        redirects.made += 1;
        redirects.taken.push((from, to));
        Ok(Next { state, body })
    }

    /// This exchange has ended with a redirect: the next one has its client. With the body of the request.
    pub(super) fn anew(mut self: Box<Self>, next: Box<Next>) -> (Box<Self>, BodyBuffer) {
        self.finish(Ok(()));
        let selection = self.filters.selection.again();
        let Exchange { cx, chain, slot, down, timer, internal, redirects, now, .. } = *self;
        let Next { state, body } = *next;
        let mut exchange = Exchange::new(cx, chain, slot, down, Rc::new(RefCell::new(state)), timer, now);
        exchange.filters.selection = selection;
        exchange.internal = internal;
        exchange.redirects = redirects;
        (exchange, body)
    }

    /// Sends a request that is there as a whole through the filters of its route.
    pub(super) fn begin_whole(&mut self, mut body: BodyBuffer) -> Result<(), Stop> {
        let hcm = self.chain.hcm.clone();
        self.deadlines.idle_timeout = hcm.stream_idle_timeout.filter(|timeout| !timeout.is_zero());
        self.deadlines.idle = self.deadlines.idle_timeout.map(|timeout| self.now + timeout);
        self.request_is_complete();
        if let Some(tracing) = &hcm.tracing {
            self.trace = Some(Trace::start(tracing, &mut self.stream.borrow_mut(), &mut *self.cx.random()));
        }
        self.select_route();
        self.chain.clone().start_filters(self);
        let trailers = self.stream.borrow().request_trailers.is_some();
        let end = body.is_empty() && !trailers;
        if self.filters.len() == 0 {
            let passed = &mut self.request.passed;
            (passed.head, passed.data, passed.end, passed.trailers) = (Some(end), body, !end && !trailers, trailers);
            return Ok(());
        }
        self.request.head(&mut self.filters, end)?;
        while let Some(bytes) = body.pop() {
            self.request.data(&mut self.filters, bytes, body.is_empty() && !trailers)?;
        }
        if trailers {
            self.request.trailers(&mut self.filters)?;
        }
        Ok(())
    }
}

/// The same client's stream, from its beginning.
fn begun_anew(info: &StreamInfo) -> StreamInfo {
    let mut new = StreamInfo::begun_now(info.downstream.clone(), info.listener.clone());
    new.downstream_trusted_ip = info.downstream_trusted_ip;
    new.downstream_socket.clone_from(&info.downstream_socket);
    new.request_header_bytes = info.request_header_bytes;
    new.request_body_bytes = info.request_body_bytes;
    new.generation = info.generation;
    let kept = &info.extras().filter_state;
    if !kept.is_empty() {
        new.extras_mut().filter_state.clone_from(kept);
    }
    new
}

fn redirected(
    head: &RequestHead,
    policy: &InternalRedirect,
    answer: &ResponseHead,
    target: RedirectTarget,
) -> RequestHead {
    let mut new = head.clone();
    for name in &policy.copied_headers {
        new.headers.remove(name);
        for value in answer.headers.get_all(name) {
            new.headers.append(name.clone(), value.clone());
        }
    }
    let original = [head.scheme.as_str().as_bytes(), b"://", &head.authority, &head.path].concat();
    if let Ok(name) = HeaderName::from_bytes(b"x-envoy-original-url") {
        new.headers.set(name, Bytes::from(original));
    }
    (new.scheme, new.authority, new.path) = (target.scheme, target.authority, target.path);
    new
}
