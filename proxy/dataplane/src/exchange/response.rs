//! The answer's way: from the origin, or from the proxy itself, through the filters to the client.

use std::task::{Context, Poll};

use bytes::Bytes;
use outrigger_http::{HeaderName, Method, ResponseFlags, ResponseHead, TimingPoint};

use super::request::QUEUE_BYTES_MAX;
use super::{Exchange, Origin, Sent};
use crate::error::{ErrorKind, LocalReply, StreamError};
use crate::filter::Way;
use crate::http1::BodyEvent;
use crate::iteration::Iteration;
use crate::texts::decimal;
use crate::upstream::UpstreamHead;

/// How many informational responses an origin may send before its answer.
const INTERIM_MAX: u8 = 32;

impl Exchange<'_> {
    /// Reads the origin's answer as far as the client takes it.
    pub(super) fn poll_response(&mut self, cx: &mut Context<'_>) -> Result<bool, StreamError> {
        let mut progress = false;
        loop {
            progress |= self.forward_response()?;
            if self.sent == Sent::All || self.upgraded {
                return Ok(progress);
            }
            let Origin::Connected(picked) = &mut self.origin else { return Ok(progress) };
            if !self.answered {
                match picked.stream.poll_head(cx) {
                    Poll::Pending => return Ok(progress),
                    Poll::Ready(Ok(head)) => self.origin_head(head)?,
                    Poll::Ready(Err(error)) => self.origin_failed(error)?,
                }
                progress = true;
                continue;
            }
            let room = self.down.buffered() < self.down_queue_max && self.response.passed.data.len() < QUEUE_BYTES_MAX;
            if !room || !self.response.wants_data(&self.filters) {
                return Ok(progress);
            }
            match picked.stream.poll_body(cx) {
                Poll::Pending => return Ok(progress),
                Poll::Ready(Ok(Some(event))) => self.response_event(event)?,
                Poll::Ready(Ok(None)) => return Ok(progress),
                Poll::Ready(Err(error)) => {
                    let stats = &picked.cluster.stats;
                    stats.upstream_rq_rx_reset().inc();
                    stats.upstream_cx_destroy_remote_with_active_rq().inc();
                    if error.kind == ErrorKind::Protocol {
                        stats.upstream_cx_protocol_error().inc();
                    }
                    let mut state = self.stream.borrow_mut();
                    state.info.flags.insert(error.flags());
                    state.info.code_details = "upstream_reset_after_response_started".into();
                    drop(state);
                    // Truncated, never silently completed.
                    self.fail(error)?;
                }
            }
            progress = true;
        }
    }

    /// The origin's connection failed before its head came.
    fn origin_failed(&mut self, error: StreamError) -> Result<(), StreamError> {
        // A policy that retries it counts the attempt; without one it costs nothing.
        if self.may_repeat(error) && !self.would_retry(error) {
            self.repeated = true;
            let Origin::Connected(picked) = std::mem::replace(&mut self.origin, Origin::Done) else { return Ok(()) };
            self.origin = Origin::Connecting(self.checkout(&picked.cluster, true));
            return Ok(());
        }
        if let Origin::Connected(picked) = &self.origin {
            picked.cluster.stats.upstream_rq_rx_reset().inc();
            match error.kind {
                ErrorKind::Protocol => picked.cluster.stats.upstream_cx_protocol_error().inc(),
                _ => picked.cluster.stats.upstream_cx_destroy_remote_with_active_rq().inc(),
            }
        }
        self.attempt_failed(error, true)
    }

    fn origin_head(&mut self, answer: UpstreamHead) -> Result<(), StreamError> {
        let UpstreamHead { mut head, end, upgrade, head_bytes } = answer;
        if head.status < 200 && upgrade.is_none() {
            // 100, 103 and their likes are the origin's to say, but not for ever: nothing holds their source back.
            self.interim += 1;
            if self.interim > INTERIM_MAX {
                return self.origin_failed(StreamError::upstream(ErrorKind::Protocol));
            }
            self.down.send_informational(&head);
            return Ok(());
        }
        if self.retry.is_some() && upgrade.is_none() && self.retry_after_answer(&head) {
            return Ok(());
        }
        self.answered = true;
        self.deadlines.attempt = None;
        if let Origin::Connected(picked) = &self.origin {
            picked.count_status(head.status);
        }
        {
            let mut state = self.stream.borrow_mut();
            state.info.timings.set(TimingPoint::UpstreamResponseStart, self.elapsed);
            state.info.response_header_bytes = head_bytes as u64;
            state.info.code_details = "via_upstream".into();
            let timings = &state.info.timings;
            let since = timings.get(TimingPoint::RequestComplete).or(timings.get(TimingPoint::UpstreamRequestSent));
            let answered = timings.get(TimingPoint::UpstreamResponseStart).unwrap_or_default();
            let elapsed = answered.saturating_sub(since.unwrap_or_default());
            let text = decimal(u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX));
            head.headers.set(HeaderName::X_ENVOY_UPSTREAM_SERVICE_TIME, text);
            state.response = Some(head);
            if end {
                state.info.timings.set(TimingPoint::UpstreamResponseComplete, self.elapsed);
            }
        }
        if let Some(cookie) = self.cookie.take()
            && let Some(head) = &mut self.stream.borrow_mut().response
        {
            head.headers.append(HeaderName::SET_COOKIE, cookie);
        }
        self.response_headers_by_route();
        self.attempt_count_in_response();
        if let Some(protocol) = upgrade {
            self.upgrade = Some(protocol);
            self.upgraded = true;
        }
        self.deadlines.route = if self.upgraded { None } else { self.deadlines.route };
        self.start_response(end)
    }

    fn attempt_count_in_response(&self) {
        if self.filters.selection.host().is_some_and(|host| host.attempt_count_in_response)
            && let Some(head) = &mut self.stream.borrow_mut().response
        {
            head.headers.set(HeaderName::X_ENVOY_ATTEMPT_COUNT, decimal(u64::from(self.attempts)));
        }
    }

    fn start_response(&mut self, end: bool) -> Result<(), StreamError> {
        if self.filters.len() == 0 {
            self.response.passed.head = Some(end);
        } else if let Err(stop) = self.response.head(&mut self.filters, end) {
            return self.stop(stop);
        }
        self.forward_response().map(|_| ())
    }

    fn response_event(&mut self, event: BodyEvent) -> Result<(), StreamError> {
        let result = match event {
            BodyEvent::Data { bytes, end } => {
                if let Origin::Connected(picked) = &self.origin {
                    picked.cluster.stats.upstream_cx_rx_bytes_total().add(bytes.len() as u64);
                }
                let mut state = self.stream.borrow_mut();
                if !bytes.is_empty() {
                    state.info.timings.set(TimingPoint::UpstreamBodyStart, self.elapsed);
                }
                if end {
                    state.info.timings.set(TimingPoint::UpstreamResponseComplete, self.elapsed);
                }
                drop(state);
                if self.filters.len() == 0 {
                    self.response.passed.data.push(bytes);
                    self.response.passed.end |= end;
                    Ok(())
                } else {
                    self.response.data(&mut self.filters, bytes, end)
                }
            }
            BodyEvent::Trailers(trailers) => {
                let mut state = self.stream.borrow_mut();
                state.info.timings.set(TimingPoint::UpstreamResponseComplete, self.elapsed);
                state.response_trailers = Some(trailers);
                drop(state);
                if self.filters.len() == 0 {
                    self.response.passed.trailers = true;
                    Ok(())
                } else {
                    self.response.trailers(&mut self.filters)
                }
            }
        };
        result.or_else(|stop| self.stop(stop))
    }

    /// Sends what has passed the filters.
    fn forward_response(&mut self) -> Result<bool, StreamError> {
        let mut progress = false;
        if let Some(end) = self.response.passed.head
            && self.sent == Sent::Nothing
        {
            progress = true;
            self.send_head(end)?;
        }
        if self.sent != Sent::Head {
            return Ok(progress);
        }
        while let Some(bytes) = self.response.passed.data.pop() {
            progress = true;
            let last =
                self.response.passed.data.is_empty() && self.response.passed.end && !self.response.passed.trailers;
            self.stream.borrow_mut().info.response_body_bytes += bytes.len() as u64;
            self.down.send_data(bytes, last)?;
            if last {
                self.sent = Sent::All;
                return Ok(true);
            }
        }
        if self.response.passed.trailers {
            self.sent = Sent::All;
            if let Some(trailers) = &self.stream.borrow().response_trailers {
                self.down.send_trailers(trailers)?;
            }
            return Ok(true);
        }
        if self.response.passed.end {
            self.sent = Sent::All;
            self.down.send_data(Bytes::new(), true)?;
            return Ok(true);
        }
        Ok(progress)
    }

    fn send_head(&mut self, end: bool) -> Result<(), StreamError> {
        let hcm = &self.chain.hcm;
        let mut state = self.stream.borrow_mut();
        let state = &mut *state;
        let Some(head) = &mut state.response else { return Err(StreamError::internal(ErrorKind::Protocol)) };
        if hcm.server_header.tells_ours(head.headers.contains(&HeaderName::SERVER)) {
            head.headers.set(HeaderName::SERVER, hcm.server_name.clone());
        }
        if !head.headers.contains(&HeaderName::DATE) {
            head.headers.append(HeaderName::DATE, self.cx.date());
        }
        if !hcm.via.is_empty() {
            head.headers.append(HeaderName::VIA, hcm.via.clone());
        }
        if hcm.always_set_request_id_in_response
            && let Some(id) = state.request.headers.get(&HeaderName::X_REQUEST_ID)
        {
            head.headers.set(HeaderName::X_REQUEST_ID, id.clone());
        }
        if self.slot.is_closing(state.info.downstream.id) || self.cx.ending.includes(state.info.downstream.id) {
            self.down.close_after();
        }
        // Counted before the client can see it, so that whoever has an answer finds it in the statistics.
        self.chain.stats.response(head.status);
        let upgrade = if self.upgraded { self.upgrade.as_ref() } else { None };
        self.down.send_head(head, end, upgrade)?;
        state.info.timings.set(TimingPoint::ResponseStart, self.elapsed);
        self.sent = if end { Sent::All } else { Sent::Head };
        Ok(())
    }

    /// Answers instead of the origin. The answer passes the response filters, as in Envoy.
    pub(super) fn reply(&mut self, reply: LocalReply, flags: ResponseFlags) -> Result<(), StreamError> {
        if self.sent != Sent::Nothing {
            return Err(StreamError::internal(ErrorKind::FilterFailed));
        }
        let direct = self.response.passed.head.is_some() || self.answered;
        let was_answered = std::mem::replace(&mut self.answered, true);
        self.origin_is_done(was_answered, reply.status);
        let body = self.set_reply(reply, flags);
        let end = body.is_empty();
        // Filters that haven't seen the request see its answer all the same, but for those that only know whole streams.
        self.filters.seen = self.request.reached();
        self.response = Iteration::new(Way::Response, self.filters.response_len, usize::MAX);
        if direct || self.filters.response_len == 0 {
            // Where the origin's answer was on its way, its place is taken without another walk.
            self.response.passed.head = Some(end);
            self.response.passed.data.push(body);
            self.response.passed.end = !end;
        } else {
            let mut result = self.response.head(&mut self.filters, end);
            if result.is_ok() && !end {
                result = self.response.data(&mut self.filters, body, true);
            }
            if let Err(stop) = result {
                return self.stop(stop);
            }
        }
        if !self.request_ended {
            self.down.close_after();
        }
        self.forward_response().map(|_| ())
    }

    /// Where nobody was asked the answer is counted as the cluster's all the same.
    pub(super) fn count_reply(&self, error: StreamError, status: u16) {
        let was_counted = matches!(error.kind, ErrorKind::DropAll | ErrorKind::DropOverload);
        if let Some(cluster) = &self.cluster
            && !was_counted
            && !matches!(self.origin, Origin::Connected(_))
        {
            cluster.stats.answered(status);
        }
    }

    fn origin_is_done(&mut self, was_answered: bool, status: u16) {
        if let Origin::Connected(picked) = &self.origin {
            picked.cluster.stats.upstream_rq_tx_reset().inc();
            if !was_answered {
                picked.count_failure(status);
            }
            let state = self.stream.borrow();
            picked.record(504, state.info.flags);
        }
        self.origin = Origin::Done;
    }

    /// Puts the reply's head into the stream's state; its body.
    fn set_reply(&self, reply: LocalReply, flags: ResponseFlags) -> Bytes {
        let mut state = self.stream.borrow_mut();
        state.info.flags.insert(flags);
        state.info.code_details = reply.details.clone();
        let grpc = state
            .request
            .headers
            .get(&HeaderName::CONTENT_TYPE)
            .and_then(|value| value.strip_prefix(b"application/grpc"))
            .is_some_and(|rest| rest.is_empty() || rest[0] == b'+');
        let head_request = state.request.method == Method::Head;
        let mut head;
        let mut body = reply.body.clone();
        if grpc {
            // Trailers-only: the status of the call is what a gRPC client reads.
            head = ResponseHead::new(200);
            head.headers.append(HeaderName::CONTENT_TYPE, Bytes::from_static(b"application/grpc"));
            head.headers.append(HeaderName::GRPC_STATUS, decimal(u64::from(reply.grpc_status())));
            if !body.is_empty() {
                head.headers.append(HeaderName::GRPC_MESSAGE, percent_encode(&body));
            }
            body = Bytes::new();
        } else {
            head = ResponseHead::new(if (200..600).contains(&reply.status) { reply.status } else { 500 });
            if !body.is_empty() && head.status != 204 && head.status != 304 {
                head.headers.append(HeaderName::CONTENT_LENGTH, decimal(body.len() as u64));
                if !reply.headers.contains(&HeaderName::CONTENT_TYPE) {
                    head.headers.append(HeaderName::CONTENT_TYPE, Bytes::from_static(b"text/plain"));
                }
            } else {
                body = Bytes::new();
            }
        }
        for (name, value) in reply.headers {
            let framing = name == HeaderName::CONTENT_TYPE || name == HeaderName::CONTENT_LENGTH;
            if !(grpc && framing) {
                head.headers.append(name, value);
            }
        }
        if head_request {
            body = Bytes::new();
        }
        state.response = Some(head);
        state.response_trailers = None;
        state.response_body.clear();
        body
    }
}

/// Percent-encodes a gRPC message (gRPC over HTTP/2, `Status-Message`).
fn percent_encode(text: &[u8]) -> Bytes {
    let mut out = Vec::with_capacity(text.len());
    for byte in text {
        match byte {
            b' '..=b'~' if *byte != b'%' => out.push(*byte),
            _ => out.extend_from_slice(format!("%{byte:02X}").as_bytes()),
        }
    }
    out.into()
}
