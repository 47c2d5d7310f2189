//! `envoy.filters.http.fault`: delays requests, and answers them with errors, on purpose.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{Fault, FaultAbort, FaultDelay, Fraction, OverrideConfig};
use outrigger_http::{HeaderName, Headers, ResponseFlags, StreamState};
use tokio::task::JoinHandle;

use super::NativeHandle;
use crate::error::LocalReply;
use crate::filter::{Action, FilterEvent, Pause, StreamCx, StreamFilter, Way};

#[derive(Debug)]
pub(super) struct Filter {
    config: Arc<Fault>,
    handle: Rc<NativeHandle>,
    /// Waits for the delay's end.
    timer: Option<JoinHandle<()>>,
    /// Counted as active; given back at the stream's end.
    active: Option<Arc<Fault>>,
}

impl Filter {
    pub(super) fn new(config: &Arc<Fault>, handle: &Rc<NativeHandle>) -> Filter {
        Filter { config: config.clone(), handle: handle.clone(), timer: None, active: None }
    }

    fn random(&self) -> u64 {
        self.handle.random()
    }

    /// One more fault under way, if there may be.
    fn begin(&mut self, fault: &Arc<Fault>) -> bool {
        if self.active.is_some() {
            return true;
        }
        if !fault.active.begin() {
            self.handle.stats.inc("fault", "faults_overflow");
            return false;
        }
        self.active = Some(fault.clone());
        true
    }
}

impl Drop for Filter {
    fn drop(&mut self) {
        if let Some(timer) = self.timer.take() {
            timer.abort();
        }
        if let Some(fault) = self.active.take() {
            fault.active.end();
        }
    }
}

impl StreamFilter for Filter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, _end: bool) -> Action {
        let fault = match self.handle.by_route(cx) {
            Some(OverrideConfig::Fault(own)) => own.clone(),
            _ => self.config.clone(),
        };
        if !concerns(&fault, &cx.stream.borrow()) {
            return Action::Continue;
        }
        let (delay, abort) = {
            let state = cx.stream.borrow();
            let headers = &state.request.headers;
            let delay = fault.delay.and_then(|(delay, share)| delay_of(delay, share, headers, self.random()));
            let abort = fault.abort.and_then(|(abort, share)| abort_of(abort, share, headers, self.random()));
            (delay, abort)
        };
        if (delay.is_some() || abort.is_some()) && !self.begin(&fault) {
            return Action::Continue;
        }
        let Some(delay) = delay else { return abort.map_or(Action::Continue, |abort| self.abort(cx, abort)) };
        self.handle.stats.inc("fault", "delays_injected");
        cx.stream.borrow_mut().info.flags.insert(ResponseFlags::DELAY_INJECTED);
        let event = match abort {
            Some(abort) => match self.abort(cx, abort) {
                Action::Respond(reply) => FilterEvent::Respond(reply),
                _ => FilterEvent::Resume(Way::Request),
            },
            None => FilterEvent::Resume(Way::Request),
        };
        let (slot, index) = (cx.slot.clone(), cx.index);
        self.timer = Some(tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            slot.push(index, event);
        }));
        Action::Pause(Pause::Watermark)
    }
}

impl Filter {
    fn abort(&self, cx: &StreamCx<'_>, abort: Abort) -> Action {
        self.handle.stats.inc("fault", "aborts_injected");
        cx.stream.borrow_mut().info.flags.insert(ResponseFlags::FAULT_INJECTED);
        let status = if let Abort::Status(status) = abort { status } else { 200 };
        let mut reply = LocalReply::new(status, "fault_filter_abort", "fault filter abort");
        if let Abort::Grpc(status) = abort {
            reply.grpc_status = Some(status);
        }
        Action::Respond(reply)
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Abort {
    Status(u16),
    Grpc(u32),
}

/// Whether the filter has anything to do with the request.
fn concerns(fault: &Fault, state: &StreamState) -> bool {
    let cluster = fault.upstream_cluster.as_ref().is_none_or(|wanted| state.info.cluster_name.as_ref() == Some(wanted));
    let node = || {
        let name = HeaderName::from_bytes(b"x-envoy-downstream-service-node").ok();
        let found = name.as_ref().and_then(|name| state.request.headers.get(name));
        found.is_some_and(|found| fault.downstream_nodes.iter().any(|node| node.as_bytes() == found))
    };
    cluster
        && fault.headers.iter().all(|matcher| matcher.matches(&state.request))
        && (fault.downstream_nodes.is_empty() || node())
}

fn number(headers: &Headers, name: &'static str) -> Option<u64> {
    let name = HeaderName::from_bytes(name.as_bytes()).ok()?;
    std::str::from_utf8(headers.get(&name)?).ok()?.trim().parse().ok()
}

/// A header may lower the share, not raise it.
fn share_of(share: Fraction, headers: &Headers, name: &'static str) -> Fraction {
    match number(headers, name).and_then(|asked| u32::try_from(asked).ok()) {
        Some(asked) => Fraction { numerator: asked.min(share.numerator), ..share },
        None => share,
    }
}

fn delay_of(delay: FaultDelay, share: Fraction, headers: &Headers, random: u64) -> Option<Duration> {
    let (delay, share) = match delay {
        FaultDelay::Fixed(delay) => (delay, share),
        FaultDelay::Header => (
            Duration::from_millis(number(headers, "x-envoy-fault-delay-request")?),
            share_of(share, headers, "x-envoy-fault-delay-request-percentage"),
        ),
    };
    (share.holds(random) && !delay.is_zero()).then_some(delay)
}

fn abort_of(abort: FaultAbort, share: Fraction, headers: &Headers, random: u64) -> Option<Abort> {
    let (abort, share) = match abort {
        FaultAbort::Status(status) => (Abort::Status(status), share),
        FaultAbort::Grpc(status) => (Abort::Grpc(status), share),
        FaultAbort::Header => {
            let status = number(headers, "x-envoy-fault-abort-request").filter(|status| (200..600).contains(status));
            let status = status.and_then(|status| u16::try_from(status).ok()).map(Abort::Status);
            let grpc = || number(headers, "x-envoy-fault-abort-grpc-request").and_then(|code| u32::try_from(code).ok());
            let found = status.or_else(|| grpc().map(Abort::Grpc))?;
            (found, share_of(share, headers, "x-envoy-fault-abort-request-percentage"))
        }
    };
    share.holds(random).then_some(abort)
}
