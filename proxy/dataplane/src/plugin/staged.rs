//! A filter of which two revisions run: one of them for each stream, or the new one as a shadow beside the old one.

use std::cell::RefCell;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use outrigger_config::RolloutShare;
use outrigger_http::{Headers, StreamState};
use tokio::time::Instant;

use super::WasmFilter;
use super::rollout::{Revision, RolloutRun, StreamOutcome};
use crate::filter::{Action, FilterSlot, StreamCx, StreamFilter, StreamSlot, Way};

/// Which revision a stream gets.
#[derive(Debug)]
pub(crate) struct Staged {
    run: Arc<RolloutRun>,
    /// There has been a revision before.
    has_stable: bool,
}

impl Staged {
    pub(crate) fn new(run: &Arc<RolloutRun>, has_stable: bool) -> Staged {
        Staged { run: run.clone(), has_stable }
    }

    /// The filter of a stream with this key, which is decided here for its whole life; `None`: it has none. `of` starts the
    /// filter of a revision.
    pub(crate) fn start(&self, key: &[u8], of: impl Fn(Revision) -> Option<FilterSlot>) -> Option<FilterSlot> {
        match self.run.share() {
            RolloutShare::Of10k(_) => {
                let is_old = self.has_stable && !self.run.takes(key);
                let revision = if is_old { Revision::Stable } else { Revision::Candidate };
                Some(match of(revision)? {
                    FilterSlot::Wasm(inner) => {
                        FilterSlot::Staged(Box::new(MeasuredFilter::new(inner, revision, &self.run)))
                    }
                    other => other,
                })
            }
            RolloutShare::Shadow | RolloutShare::ShadowOnly => self.start_shadow(of),
        }
    }

    fn start_shadow(&self, of: impl Fn(Revision) -> Option<FilterSlot>) -> Option<FilterSlot> {
        let stable = if self.has_stable { of(Revision::Stable) } else { None };
        if !self.run.shadows() {
            return stable;
        }
        let Some(FilterSlot::Wasm(shadow)) = of(Revision::Candidate) else { return stable };
        let decides = match stable {
            Some(FilterSlot::Wasm(decides)) => Some(decides),
            None if !self.has_stable => None,
            other => return other,
        };
        Some(FilterSlot::Staged(Box::new(ShadowedFilter::new(decides, shadow, &self.run))))
    }
}

/// A revision whose streams are counted.
struct MeasuredFilter {
    inner: WasmFilter,
    revision: Revision,
    run: Arc<RolloutRun>,
    began: Instant,
    answered: Option<Instant>,
}

impl MeasuredFilter {
    fn new(inner: WasmFilter, revision: Revision, run: &Arc<RolloutRun>) -> Self {
        MeasuredFilter { inner, revision, run: run.clone(), began: Instant::now(), answered: None }
    }
}

impl StreamFilter for MeasuredFilter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.inner.on_request_headers(cx, end)
    }

    fn on_request_data(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.inner.on_request_data(cx, end)
    }

    fn on_request_trailers(&mut self, cx: &mut StreamCx<'_>) -> Action {
        self.inner.on_request_trailers(cx)
    }

    fn on_response_headers(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        let action = self.inner.on_response_headers(cx, end);
        self.answered.get_or_insert_with(Instant::now);
        action
    }

    fn on_response_data(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.inner.on_response_data(cx, end)
    }

    fn on_response_trailers(&mut self, cx: &mut StreamCx<'_>) -> Action {
        self.inner.on_response_trailers(cx)
    }

    fn on_log(&mut self, cx: &mut StreamCx<'_>) {
        self.inner.on_log(cx);
        let status = cx.stream.borrow().response.as_ref().map(|head| head.status);
        let latency = self.answered.map(|answered| answered.duration_since(self.began));
        self.run.record(self.revision, StreamOutcome { trapped: self.inner.has_failed(), status, latency });
    }
}

/// The old revision decides; the new one gets a copy of everything that the old one got, until they part.
struct ShadowedFilter {
    decides: Option<WasmFilter>,
    shadow: WasmFilter,
    run: Arc<RolloutRun>,
    /// What the shadow sees and changes.
    copy: Rc<RefCell<StreamState>>,
    /// Where what a shadow asks for later ends.
    slot: Rc<StreamSlot>,
    /// They went different ways: what would follow in the one says nothing about the other.
    parted: bool,
    differs: Differs,
}

/// What was counted for this stream.
#[derive(Default)]
struct Differs {
    action: bool,
    reply: bool,
    headers: bool,
}

/// What a shadow gets a copy of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Part {
    Head,
    Data,
    Trailers,
}

impl ShadowedFilter {
    fn new(decides: Option<WasmFilter>, shadow: WasmFilter, run: &Arc<RolloutRun>) -> Self {
        ShadowedFilter {
            decides,
            shadow,
            run: run.clone(),
            copy: Rc::default(),
            slot: Rc::default(),
            parted: false,
            differs: Differs::default(),
        }
    }

    fn step(
        &mut self,
        cx: &mut StreamCx<'_>,
        way: Way,
        part: Part,
        call: impl Fn(&mut WasmFilter, &mut StreamCx<'_>) -> Action,
    ) -> Action {
        if self.parted {
            return self.decides.as_mut().map_or(Action::Continue, |decides| call(decides, cx));
        }
        self.copy_of(cx, way, part);
        let decided = self.decides.as_mut().map_or(Action::Continue, |decides| call(decides, cx));
        let mut own = StreamCx { stream: &self.copy, slot: &self.slot, index: 0, selection: cx.selection };
        let shadowed = call(&mut self.shadow, &mut own);
        self.compare(cx, way, part, &decided, &shadowed);
        decided
    }

    fn copy_of(&self, cx: &StreamCx<'_>, way: Way, part: Part) {
        let real = cx.stream.borrow();
        let mut copy = self.copy.borrow_mut();
        let copy = &mut *copy;
        match (way, part) {
            (Way::Request, Part::Head) => {
                copy.request.clone_from(&real.request);
                copy.info.clone_from(&real.info);
            }
            (Way::Request, Part::Data) => copy.request_body.clone_from(&real.request_body),
            (Way::Request, Part::Trailers) => copy.request_trailers.clone_from(&real.request_trailers),
            (Way::Response, Part::Head) => {
                copy.response.clone_from(&real.response);
                copy.info.clone_from(&real.info);
            }
            (Way::Response, Part::Data) => copy.response_body.clone_from(&real.response_body),
            (Way::Response, Part::Trailers) => copy.response_trailers.clone_from(&real.response_trailers),
        }
    }

    fn compare(&mut self, cx: &StreamCx<'_>, way: Way, part: Part, decided: &Action, shadowed: &Action) {
        let count = self.run.count();
        match (decided, shadowed) {
            (Action::Continue, Action::Continue) => {
                if part != Part::Data && !same_headers(&cx.stream.borrow(), &self.copy.borrow(), way, part) {
                    first(&mut self.differs.headers, &count.headers);
                }
            }
            (Action::Pause(one), Action::Pause(other)) if one == other => {}
            (Action::Respond(one), Action::Respond(other)) => {
                if (one.status, &one.body, &one.headers) != (other.status, &other.body, &other.headers) {
                    first(&mut self.differs.reply, &count.reply);
                }
                // The answer of the one is no answer of the other.
                self.parted = true;
            }
            (Action::Reset, Action::Reset) => self.parted = true,
            _ => {
                first(&mut self.differs.action, &count.action);
                self.parted = true;
            }
        }
    }
}

/// Counts a stream once.
fn first(seen: &mut bool, count: &AtomicU64) {
    if !std::mem::replace(seen, true) {
        count.fetch_add(1, Ordering::Relaxed);
    }
}

fn same_headers(real: &StreamState, copy: &StreamState, way: Way, part: Part) -> bool {
    match (way, part) {
        (Way::Request, Part::Head) => real.request == copy.request,
        (Way::Response, Part::Head) => real.response == copy.response,
        (Way::Request, _) => trailers(&real.request_trailers, &copy.request_trailers),
        (Way::Response, _) => trailers(&real.response_trailers, &copy.response_trailers),
    }
}

fn trailers(one: &Option<Headers>, other: &Option<Headers>) -> bool {
    one == other
}

impl StreamFilter for ShadowedFilter {
    fn on_request_headers(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.step(cx, Way::Request, Part::Head, |filter, cx| filter.on_request_headers(cx, end))
    }

    fn on_request_data(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.step(cx, Way::Request, Part::Data, |filter, cx| filter.on_request_data(cx, end))
    }

    fn on_request_trailers(&mut self, cx: &mut StreamCx<'_>) -> Action {
        self.step(cx, Way::Request, Part::Trailers, |filter, cx| filter.on_request_trailers(cx))
    }

    fn on_response_headers(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.step(cx, Way::Response, Part::Head, |filter, cx| filter.on_response_headers(cx, end))
    }

    fn on_response_data(&mut self, cx: &mut StreamCx<'_>, end: bool) -> Action {
        self.step(cx, Way::Response, Part::Data, |filter, cx| filter.on_response_data(cx, end))
    }

    fn on_response_trailers(&mut self, cx: &mut StreamCx<'_>) -> Action {
        self.step(cx, Way::Response, Part::Trailers, |filter, cx| filter.on_response_trailers(cx))
    }

    fn on_log(&mut self, cx: &mut StreamCx<'_>) {
        if let Some(decides) = &mut self.decides {
            decides.on_log(cx);
        }
        let mut own = StreamCx { stream: &self.copy, slot: &self.slot, index: 0, selection: cx.selection };
        self.shadow.on_log(&mut own);
        let status = cx.stream.borrow().response.as_ref().map(|head| head.status);
        if let Some(decides) = &self.decides {
            let outcome = StreamOutcome { trapped: decides.has_failed(), status, latency: None };
            self.run.record(Revision::Stable, outcome);
        }
        // The answer was not its own.
        let outcome = StreamOutcome { trapped: self.shadow.has_failed(), status: None, latency: None };
        self.run.record(Revision::Candidate, outcome);
    }
}
