//! The filters of one stream.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Poll, Waker};

use outrigger_http::{BodyBuffer, StreamState};

use crate::error::{LocalReply, StreamError};
use crate::exchange::Selection;
use crate::plugin::WasmFilter;

/// Which of a stream's two messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Way {
    Request,
    Response,
}

/// What a filter wants after a callback.
#[derive(Debug)]
pub(crate) enum Action {
    Continue,
    /// The message waits here until the filter resumes it (or, for data, until a later call continues).
    Pause(Pause),
    /// The proxy answers instead of the origin.
    Respond(LocalReply),
    /// The filter can't do its work.
    Fail(StreamError),
    Reset,
}

/// How a message waits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pause {
    /// Head: data callbacks go on while the head waits (`StopIteration`).
    Hold,
    /// Data is kept, up to a bound, beyond which the stream fails. `all`: the filter isn't called for it while the head
    /// waits.
    Buffer { all: bool },
    /// Data is kept; beyond a bound reading stops.
    Watermark,
    /// Data isn't kept: the filter has taken it.
    Drop,
}

/// What a filter may touch.
#[derive(Debug)]
pub(crate) struct StreamCx<'a> {
    pub(crate) stream: &'a Rc<RefCell<StreamState>>,
    pub(crate) slot: &'a Rc<StreamSlot>,
    /// The filter's place in the chain.
    pub(crate) index: usize,
    /// The route, as it is chosen now.
    pub(crate) selection: &'a Selection,
}

/// One filter of one stream. Callbacks are synchronous; whatever takes time ends in [`StreamSlot::push`].
pub(crate) trait StreamFilter {
    fn on_request_headers(&mut self, _cx: &mut StreamCx<'_>, _end: bool) -> Action {
        Action::Continue
    }
    /// Whether data may pass by without this filter being shown it, as long as it holds nothing back.
    fn ignores_data(&self, _way: Way) -> bool {
        false
    }
    /// The data is in [`StreamState::request_body`].
    fn on_request_data(&mut self, _cx: &mut StreamCx<'_>, _end: bool) -> Action {
        Action::Continue
    }
    fn on_request_trailers(&mut self, _cx: &mut StreamCx<'_>) -> Action {
        Action::Continue
    }
    fn on_response_headers(&mut self, _cx: &mut StreamCx<'_>, _end: bool) -> Action {
        Action::Continue
    }
    fn on_response_data(&mut self, _cx: &mut StreamCx<'_>, _end: bool) -> Action {
        Action::Continue
    }
    fn on_response_trailers(&mut self, _cx: &mut StreamCx<'_>) -> Action {
        Action::Continue
    }
    /// The stream is over; called once, before the access log is written.
    fn on_log(&mut self, _cx: &mut StreamCx<'_>) {}
}

/// What happens to a paused stream from outside.
#[derive(Debug)]
pub(crate) enum FilterEvent {
    Resume(Way),
    Respond(LocalReply),
    /// The filter's instance is gone; its policy decides.
    Failed(StreamError),
    Reset,
    /// The request's head was changed: the route is chosen again.
    ClearRouteCache,
}

/// Where events for a stream's filters arrive; bounded, since a guest may ask without end.
#[derive(Debug, Default)]
pub(crate) struct StreamSlot {
    events: RefCell<VecDeque<(usize, FilterEvent)>>,
    waker: RefCell<Option<Waker>>,
    route_dirty: Cell<bool>,
}

const EVENTS_MAX: usize = 64;

impl StreamSlot {
    /// Tells the stream that something happened to the filter at `index`.
    pub(crate) fn push(&self, index: usize, event: FilterEvent) {
        let mut events = self.events.borrow_mut();
        if events.len() < EVENTS_MAX {
            events.push_back((index, event));
        }
        drop(events);
        if let Some(waker) = self.waker.borrow_mut().take() {
            waker.wake();
        }
    }

    /// A running filter has changed the request's head: the route is chosen again before the request is routed.
    pub(crate) fn mark_route_dirty(&self) {
        self.route_dirty.set(true);
    }

    pub(crate) fn take_route_dirty(&self) -> bool {
        self.route_dirty.take()
    }

    pub(crate) fn poll(&self, cx: &mut Context<'_>) -> Poll<(usize, FilterEvent)> {
        if let Some(event) = self.events.borrow_mut().pop_front() {
            return Poll::Ready(event);
        }
        let mut waker = self.waker.borrow_mut();
        if waker.as_ref().is_none_or(|waker| !waker.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A filter of a stream. Wasm filters, which most are, cost no allocation.
pub(crate) enum FilterSlot {
    Wasm(WasmFilter),
    /// Wasm under a rollout.
    Staged(Box<dyn StreamFilter>),
    Other(Box<dyn StreamFilter>),
}

impl FilterSlot {
    #[inline]
    fn filter(&mut self) -> &mut dyn StreamFilter {
        match self {
            FilterSlot::Wasm(filter) => filter,
            FilterSlot::Staged(filter) | FilterSlot::Other(filter) => &mut **filter,
        }
    }
}

/// Lists of streams that are over, for the next ones: so many at most.
const LISTS_KEPT: usize = 64;

thread_local! {
    static LISTS: RefCell<Vec<Vec<FilterSlot>>> = const { RefCell::new(Vec::new()) };
}

/// An empty list of filters.
pub(crate) fn new_list() -> Vec<FilterSlot> {
    LISTS.with_borrow_mut(Vec::pop).unwrap_or_default()
}

thread_local! {
    static UNUSED: Rc<StreamSlot> = Rc::default();
}

/// The slot of streams without filters: nobody leaves anything there.
pub(crate) fn unused_slot() -> Rc<StreamSlot> {
    UNUSED.with(Rc::clone)
}

/// The filters of a stream with what they share.
pub(crate) struct Filters {
    pub(crate) list: Vec<FilterSlot>,
    /// How many filters see the response.
    pub(crate) response_len: usize,
    /// How many filters, from the first, have seen the request by the time of its answer.
    pub(crate) seen: usize,
    pub(crate) stream: Rc<RefCell<StreamState>>,
    pub(crate) slot: Rc<StreamSlot>,
    pub(crate) selection: Selection,
}

impl std::fmt::Debug for Filters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Filters").field("len", &self.list.len()).finish_non_exhaustive()
    }
}

impl Drop for Filters {
    fn drop(&mut self) {
        let mut list = std::mem::take(&mut self.list);
        // Filters end here, which may enter a guest.
        list.clear();
        if list.capacity() > 0 {
            LISTS.with_borrow_mut(|lists| {
                if lists.len() < LISTS_KEPT {
                    lists.push(list);
                }
            });
        }
    }
}

impl Filters {
    pub(crate) const fn len(&self) -> usize {
        self.list.len()
    }

    /// The filter at a place of a walk: responses walk backwards.
    pub(crate) const fn index(&self, way: Way, at: usize) -> usize {
        match way {
            Way::Request => at,
            Way::Response => self.response_len.saturating_sub(1 + at),
        }
    }

    /// An answer to a request that a plugin hasn't seen: it has no context for it, and gets none for an answer alone.
    fn passes(&self, way: Way, index: usize) -> bool {
        way == Way::Response && index >= self.seen && !matches!(self.list[index], FilterSlot::Other(_))
    }

    pub(crate) fn head(&mut self, way: Way, at: usize, end: bool) -> Action {
        let index = self.index(way, at);
        if self.passes(way, index) {
            return Action::Continue;
        }
        if way == Way::Request && self.slot.take_route_dirty() {
            // The filter before has changed the head: this one sees the route that it leads to.
            self.selection.choose(&self.stream);
        }
        let mut cx = StreamCx { stream: &self.stream, slot: &self.slot, index, selection: &self.selection };
        match way {
            Way::Request => self.list[index].filter().on_request_headers(&mut cx, end),
            Way::Response => self.list[index].filter().on_response_headers(&mut cx, end),
        }
    }

    pub(crate) fn ignores_data(&mut self, way: Way, at: usize) -> bool {
        let index = self.index(way, at);
        self.list[index].filter().ignores_data(way)
    }

    pub(crate) fn data(&mut self, way: Way, at: usize, end: bool) -> Action {
        let index = self.index(way, at);
        if self.passes(way, index) {
            return Action::Continue;
        }
        let mut cx = StreamCx { stream: &self.stream, slot: &self.slot, index, selection: &self.selection };
        match way {
            Way::Request => self.list[index].filter().on_request_data(&mut cx, end),
            Way::Response => self.list[index].filter().on_response_data(&mut cx, end),
        }
    }

    pub(crate) fn trailers(&mut self, way: Way, at: usize) -> Action {
        let index = self.index(way, at);
        if self.passes(way, index) {
            return Action::Continue;
        }
        let mut cx = StreamCx { stream: &self.stream, slot: &self.slot, index, selection: &self.selection };
        match way {
            Way::Request => self.list[index].filter().on_request_trailers(&mut cx),
            Way::Response => self.list[index].filter().on_response_trailers(&mut cx),
        }
    }

    pub(crate) fn log(&mut self) {
        for index in 0..self.list.len() {
            let mut cx = StreamCx { stream: &self.stream, slot: &self.slot, index, selection: &self.selection };
            self.list[index].filter().on_log(&mut cx);
        }
    }

    pub(crate) fn body_len(&self, way: Way) -> usize {
        let stream = self.stream.borrow();
        match way {
            Way::Request => stream.request_body.len(),
            Way::Response => stream.response_body.len(),
        }
    }

    pub(crate) fn set_body(&self, way: Way, data: BodyBuffer) {
        let mut stream = self.stream.borrow_mut();
        match way {
            Way::Request => stream.request_body = data,
            Way::Response => stream.response_body = data,
        }
    }

    pub(crate) fn take_body(&self, way: Way) -> BodyBuffer {
        let mut stream = self.stream.borrow_mut();
        match way {
            Way::Request => std::mem::take(&mut stream.request_body),
            Way::Response => std::mem::take(&mut stream.response_body),
        }
    }
}
