//! The request's way: from the client through the filters to the origin.

use std::rc::Rc;
use std::task::{Context, Poll};

use super::{Exchange, Incoming, Origin, Sent};
use crate::cluster::{Checkout, FailedConnect, Picked};
use crate::error::{ErrorKind, ErrorSource, StreamError};
use crate::filter::Way;
use crate::http1::BodyEvent;
use crate::iteration::{Iteration, Stop};
use crate::trace::Trace;
use bytes::Bytes;
use outrigger_http::{
    CloseType, HeaderName, Method, ResponseHead, StreamExtras, StreamInfo, TimingPoint, UpstreamInfo,
};

/// What is queued for one side before the other one is no longer read.
pub(crate) const QUEUE_BYTES_MAX: usize = 64 * 1024;

impl Exchange<'_> {
    /// Prepares the head, chooses the route, starts the filters and sends the head through them.
    pub(super) fn begin(&mut self, incoming: Incoming) -> Result<(), Stop> {
        let chain = self.chain.clone();
        let hcm = &chain.hcm;
        self.upgrade = incoming.upgrade;
        if incoming.shed {
            self.chain.stats.downstream_rq_overload_close().inc();
            return Err(Stop::Error(StreamError::internal(ErrorKind::Overload)));
        }
        self.deadlines.idle_timeout = hcm.stream_idle_timeout.filter(|timeout| !timeout.is_zero());
        self.deadlines.idle = self.deadlines.idle_timeout.map(|timeout| self.now + timeout);
        self.deadlines.request = hcm.request_timeout.filter(|t| !t.is_zero() && !incoming.end).map(|t| self.now + t);
        let end = incoming.end && self.upgrade.is_none();
        if end {
            // Before anything can answer: an answer then finds a request that is whole, and keeps the connection.
            self.request_is_complete();
        }
        let prepared = crate::normalize::prepare(&mut self.stream.borrow_mut(), hcm, self.cx);
        self.internal = prepared.map_err(|reply| {
            if reply.status == 400 {
                self.down.close_after();
            }
            Stop::Reply(*reply)
        })?;
        if let Some(tracing) = &hcm.tracing {
            self.trace = Some(Trace::start(tracing, &mut self.stream.borrow_mut(), &mut *self.cx.random()));
        }
        self.select_route();
        self.check_upgrade()?;
        chain.start_filters(self);
        let end = incoming.end && self.upgrade.is_none();
        if self.filters.len() == 0 {
            self.request.passed.head = Some(end);
        } else {
            self.request.head(&mut self.filters, end)?;
            if incoming.expect_continue && self.request.is_paused() {
                // A filter may be waiting for the body, and nobody else would ask the client for it.
                self.stream.borrow_mut().request.headers.remove(&HeaderName::EXPECT);
                self.down.send_informational(&ResponseHead::new(100));
            }
        }
        Ok(())
    }

    /// What a stream's share in a rollout is decided by: its request id, or chance where it has none.
    pub(crate) fn stream_key(&self) -> Bytes {
        let id = self.stream.borrow().request.headers.get(&HeaderName::X_REQUEST_ID).cloned();
        id.unwrap_or_else(|| self.cx.request_id())
    }

    /// Called by the chain: the filters of this stream.
    pub(crate) fn set_filters(&mut self, list: Vec<crate::filter::FilterSlot>, buffer_bytes_max: usize) {
        self.request = Iteration::new(Way::Request, list.len(), buffer_bytes_max);
        self.response = Iteration::new(Way::Response, list.len(), buffer_bytes_max);
        if !list.is_empty() {
            self.filters.slot = Rc::default();
        }
        self.filters.response_len = list.len();
        self.filters.list = list;
    }

    /// What the scopes of the route say about the filter at a place.
    pub(crate) fn filter_override(&self, position: Option<usize>) -> Option<&outrigger_config::FilterOverride> {
        self.filters.selection.filter_override(position)
    }

    /// What the scopes of the route say about filters; `None`: there is no route.
    pub(crate) fn overrides(&self) -> Option<&outrigger_config::Overrides> {
        self.filters.selection.overrides()
    }

    fn check_upgrade(&mut self) -> Result<(), Stop> {
        let Some(protocol) = &self.upgrade else { return Ok(()) };
        let protocol = String::from_utf8_lossy(protocol).to_ascii_lowercase();
        if protocol == "h2c" {
            // The client offers what we don't do; the request goes on without (RFC 9110 §7.8).
            self.upgrade = None;
            return Ok(());
        }
        let by_manager = self.chain.hcm.upgrades.iter().find(|upgrade| upgrade.upgrade_type == protocol);
        let by_route = self.filters.selection.forward().and_then(|forward| forward.upgrades.get(&protocol).copied());
        if by_route.unwrap_or(by_manager.is_some_and(|upgrade| upgrade.enabled)) {
            return Ok(());
        }
        self.chain.stats.downstream_rq_ws_on_non_ws_route().inc();
        Err(Stop::Error(StreamError::internal(ErrorKind::UpgradeForbidden)))
    }

    pub(super) fn request_is_complete(&mut self) {
        self.request_ended = true;
        self.deadlines.request = None;
        self.stream.borrow_mut().info.timings.set(TimingPoint::RequestComplete, self.elapsed);
        // The route's timeout counts from here (Envoy: "when the entire downstream request has been processed").
        if self.deadlines.route.is_none() {
            self.deadlines.route = self.deadlines.route_timeout.map(|timeout| self.now + timeout);
        }
        if self.attempt_timeout.is_some() {
            self.arm_attempt();
        }
    }

    /// Reads the request's body as far as somebody takes it.
    pub(super) fn poll_request(&mut self, cx: &mut Context<'_>) -> Result<bool, StreamError> {
        let mut progress = false;
        loop {
            progress |= match self.forward_request() {
                Ok(progress) => progress,
                Err(error) => self.unsendable(error)?,
            };
            if self.request_ended
                || self.sent == Sent::All
                || matches!(self.origin, Origin::Done)
                || !self.wants_request()
            {
                return Ok(progress);
            }
            match self.down.poll_body(cx) {
                Poll::Pending => return Ok(progress),
                Poll::Ready(Ok(Some(event))) => {
                    progress = true;
                    self.request_event(event)?;
                }
                Poll::Ready(Ok(None)) => {
                    progress = true;
                    self.request_is_complete();
                }
                Poll::Ready(Err(error)) => {
                    if error.kind == ErrorKind::Protocol {
                        self.chain.stats.downstream_cx_protocol_error().inc();
                    }
                    self.down.close_after();
                    self.request_ended = true;
                    self.fail(error)?;
                    return Ok(true);
                }
            }
        }
    }

    pub(super) fn wants_request(&self) -> bool {
        if self.upgrade.is_some() {
            return false;
        }
        let passed = self.request.passed.data.len() < QUEUE_BYTES_MAX;
        match &self.origin {
            Origin::None => passed && self.request.wants_data(&self.filters),
            Origin::Connecting(_) | Origin::Waiting | Origin::Done => false,
            Origin::Connected(picked) => passed && picked.has_room() && self.request.wants_data(&self.filters),
        }
    }

    fn request_event(&mut self, event: BodyEvent) -> Result<(), StreamError> {
        let result = match event {
            BodyEvent::Data { bytes, end } => {
                self.stream.borrow_mut().info.request_body_bytes += bytes.len() as u64;
                if end {
                    self.request_is_complete();
                }
                if self.filters.len() == 0 {
                    self.request.passed.data.push(bytes);
                    self.request.passed.end |= end;
                    Ok(())
                } else {
                    self.request.data(&mut self.filters, bytes, end)
                }
            }
            BodyEvent::Trailers(trailers) => {
                self.stream.borrow_mut().request_trailers = Some(trailers);
                self.request_is_complete();
                if self.filters.len() == 0 {
                    self.request.passed.trailers = true;
                    Ok(())
                } else {
                    self.request.trailers(&mut self.filters)
                }
            }
        };
        result.or_else(|stop| self.stop(stop))
    }

    /// Hands on what has passed the filters.
    fn forward_request(&mut self) -> Result<bool, StreamError> {
        let mut progress = false;
        if matches!(self.origin, Origin::None) && self.sent == Sent::Nothing && self.request.passed.head.is_some() {
            progress = true;
            self.route_request()?;
        }
        let Origin::Connected(picked) = &mut self.origin else { return Ok(progress) };
        let (mut abandoned, mut mirrored, mut ended) = (false, Vec::new(), None);
        while let Some(bytes) = self.request.passed.data.pop() {
            progress = true;
            let last = self.request.passed.data.is_empty() && self.request.passed.end && !self.request.passed.trailers;
            picked.cluster.stats.upstream_cx_tx_bytes_total().add(bytes.len() as u64);
            if self.mirrors.is_some() {
                mirrored.push(bytes.clone());
            }
            if let Some(retry) = &mut self.retry {
                abandoned |= !retry.keep(&bytes);
                if last {
                    retry.keep_end(false);
                }
            }
            if last {
                ended = Some(false);
            }
            picked.stream.send_data(bytes, last)?;
            if last {
                self.request.passed.end = false;
            }
        }
        if self.request.passed.trailers {
            progress = true;
            self.request.passed.trailers = false;
            self.request.passed.end = false;
            ended = Some(true);
            if let Some(retry) = &mut self.retry {
                retry.keep_end(true);
            }
            if let Some(trailers) = &self.stream.borrow().request_trailers {
                picked.stream.send_trailers(trailers)?;
            }
        } else if std::mem::take(&mut self.request.passed.end) {
            progress = true;
            ended = Some(false);
            if let Some(retry) = &mut self.retry {
                retry.keep_end(false);
            }
            picked.stream.send_data(Bytes::new(), true)?;
        }
        if ended.is_some() {
            self.stream.borrow_mut().info.timings.set(TimingPoint::UpstreamRequestComplete, self.elapsed);
        }
        if abandoned {
            self.give_up_retries();
        }
        if self.mirrors.is_some() {
            mirrored.iter().for_each(|bytes| self.keep_for_mirrors(bytes));
            if let Some(with_trailers) = ended {
                self.send_mirrors(with_trailers);
            }
        }
        Ok(progress)
    }

    /// The request's body doesn't fit the head that is on its way: a filter changed it too late. The connection is in no
    /// state to serve anybody; the client is told, if nothing has been sent to it yet.
    #[cold]
    fn unsendable(&mut self, error: StreamError) -> Result<bool, StreamError> {
        self.origin = Origin::Done;
        self.fail(error)?;
        Ok(true)
    }

    /// Connects, sends the head, flushes.
    pub(super) fn poll_origin(&mut self, cx: &mut Context<'_>) -> Result<bool, StreamError> {
        let mut progress = false;
        if let Origin::Connecting(checkout) = &mut self.origin {
            let result = match checkout {
                Checkout::Connecting(future) => match future.as_mut().poll(cx) {
                    Poll::Ready(result) => result,
                    Poll::Pending => return Ok(false),
                },
                Checkout::Failed(error) => Err(*error),
                Checkout::Ready(_) => {
                    match std::mem::replace(checkout, Checkout::Failed(StreamError::internal(ErrorKind::Protocol))) {
                        Checkout::Ready(picked) => Ok(picked),
                        _ => return Ok(false),
                    }
                }
            };
            progress = true;
            match result {
                Ok(picked) => self.connected(picked)?,
                Err(error) => {
                    self.origin = Origin::Done;
                    self.note_failed_connect(error);
                    self.attempt_failed(error, false)?;
                    return Ok(true);
                }
            }
            if let Err(error) = self.forward_request() {
                return self.unsendable(error);
            }
        }
        if let Origin::Connected(picked) = &mut self.origin {
            let full = !picked.has_room();
            if let Poll::Ready(result) = picked.stream.poll_flush(cx) {
                result?;
            }
            // Where there is room again, the client must be read again: nothing else would wake the exchange.
            progress |= full && picked.has_room();
        }
        Ok(progress)
    }

    /// Notes where a connection wasn't made, and why.
    fn note_failed_connect(&self, error: StreamError) {
        self.stream.borrow_mut().info.timings.set(TimingPoint::UpstreamReady, self.elapsed);
        if !matches!(error.kind, ErrorKind::ConnectFailure | ErrorKind::ConnectTimeout) {
            return;
        }
        let mut state = self.stream.borrow_mut();
        let cluster = state.info.cluster_name.as_ref().and_then(|name| self.chain.live.cluster(self.cx, name));
        let Some(failed) = cluster.and_then(|cluster| cluster.take_failed()) else { return };
        let FailedConnect { address, host_name, reason } = &*failed;
        // What is known of the last one's connection still holds: protocols and names of localities.
        let last = state.info.upstream.as_deref().cloned();
        went_to(
            &mut state.info,
            Rc::new(UpstreamInfo {
                remote: address.clone(),
                host_name: host_name.clone(),
                local: None,
                connection: None,
                ..last.unwrap_or_else(|| UpstreamInfo::new(address.clone()))
            }),
        );
        state.info.extras_mut().upstream_transport_failure_reason = reason.clone().unwrap_or_default().into();
    }

    fn connected(&mut self, mut picked: Box<crate::cluster::Picked>) -> Result<(), StreamError> {
        let end = self.request.passed.head == Some(true);
        {
            let mut state = self.stream.borrow_mut();
            note_endpoint(&mut state.info, &mut picked);
            state.info.timings.set(TimingPoint::UpstreamReady, self.elapsed);
            picked.stream.send_head(&state.request, end, self.upgrade.as_ref())?;
            state.info.timings.set(TimingPoint::UpstreamRequestSent, self.elapsed);
            if end {
                state.info.timings.set(TimingPoint::UpstreamRequestComplete, self.elapsed);
            }
        }
        self.origin = Origin::Connected(picked);
        if self.attempt_timeout.is_some() || self.retry.is_some() {
            self.arm_attempt();
        }
        Ok(())
    }

    /// The origin closed a pooled connection while the request was on its way, or goes away and hasn't seen it: a request
    /// that may be repeated goes out once more on a fresh connection (RFC 9110 §9.2.2).
    pub(super) fn may_repeat(&self, error: StreamError) -> bool {
        let Origin::Connected(picked) = &self.origin else { return false };
        let idempotent = matches!(
            self.stream.borrow().request.method,
            Method::Get | Method::Head | Method::Options | Method::Put | Method::Delete | Method::Trace
        );
        matches!(error.kind, ErrorKind::Terminated | ErrorKind::RefusedStream)
            && error.source == ErrorSource::Upstream
            && picked.stream.reused()
            && !picked.stream.answered()
            && !self.repeated
            && idempotent
            && self.request.passed.head == Some(true)
    }
}

/// The endpoint of this attempt; that of the one before is kept, if there was a connection to it.
fn went_to(info: &mut StreamInfo, upstream: Rc<UpstreamInfo>) {
    info.upstream_closed.how = Some(CloseType::Normal);
    let Some(last) = info.upstream.replace(upstream) else { return };
    let StreamExtras { upstream_attempted: hosts, upstream_connections_attempted: connections, .. } = info.extras_mut();
    connections.extend(last.connection.map(|connection| connection.id));
    let host = (last.remote.clone(), last.host_name.clone());
    if last.connected() && !hosts.contains(&host) {
        hosts.push(host);
    }
}

/// What logs and filters can tell of the endpoint.
fn note_endpoint(info: &mut StreamInfo, picked: &mut Picked) {
    went_to(info, picked.stream.info(&picked.endpoint));
    info.cluster_metadata.clone_from(&picked.cluster.cluster().metadata);
    let (host, locality) = (&picked.endpoint.endpoint.metadata, picked.endpoint.locality_metadata());
    // An earlier attempt's endpoint may have had what this one hasn't.
    if info.metadata.is_some() || host.is_some() || locality.is_some() {
        let metadata = info.metadata.get_or_insert_default();
        metadata.upstream_host.clone_from(host);
        metadata.upstream_locality = locality.cloned();
    }
}
