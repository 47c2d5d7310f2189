//! Network filters: what a filter chain does with a connection's bytes before its terminal filter, both ways.
//!
//! [`NetworkFilters`] is the walk over them, without I/O. The client's bytes pass the filters in order, the upstream's in
//! reverse. A filter that stops keeps the bytes: they come again, with what came since, to all filters from the first one,
//! as in Envoy; or, when it resumes, they go on behind it.

mod connection_limit;
mod delay;
mod http;
mod rbac;
mod tunnel;

use std::cell::RefCell;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use outrigger_http::{BodyBuffer, StreamState};

pub(crate) use connection_limit::LimitHandle;
pub(crate) use http::serve as serve_http;
pub(crate) use rbac::RbacHandle;
pub(crate) use tunnel::run;

use crate::filter::{FilterEvent, StreamSlot, Way};
use crate::plugin::{PluginHandle, WasmConnection};

/// What a filter wants after a callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NetworkAction {
    Continue,
    /// The bytes wait here.
    Stop,
    /// Nothing passes any more, whatever other filters say, until this one closes the connection.
    Refuse,
    /// What has passed is written, then the connection is closed.
    Close,
}

/// Who closed the client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ClosedBy {
    Proxy,
    Client,
}

/// What a filter may touch.
#[derive(Debug)]
pub(crate) struct ConnectionCx<'a> {
    /// The client's bytes are its request's body, the upstream's its response's.
    pub(crate) state: &'a Rc<RefCell<StreamState>>,
    pub(crate) slot: &'a Rc<StreamSlot>,
    /// The filter's place in the chain.
    pub(crate) index: usize,
}

/// One filter of one connection. Callbacks are synchronous; whatever takes time ends in [`StreamSlot::push`].
pub(crate) trait NetworkFilter {
    /// Before anything is read, and before there is an upstream connection.
    fn on_new_connection(&mut self, cx: &ConnectionCx<'_>) -> NetworkAction;
    fn on_downstream_data(&mut self, cx: &ConnectionCx<'_>, end: bool) -> NetworkAction;
    fn on_upstream_data(&mut self, cx: &ConnectionCx<'_>, end: bool) -> NetworkAction;
    /// The connection is over; called once.
    fn on_close(&mut self, cx: &ConnectionCx<'_>, by: ClosedBy);
    /// Whether it says what it has to say when the connection is new, and doesn't look at bytes.
    fn decides_at_once(&self) -> bool {
        false
    }
}

/// What makes the filters of a connection.
#[derive(Debug, Clone)]
pub(crate) enum NetworkFactory {
    Wasm(Rc<PluginHandle>),
    Rbac(Rc<RbacHandle>),
    ConnectionLimit(Rc<LimitHandle>),
    /// It can't run, and its policy lets nothing pass.
    Failed,
}

impl NetworkFactory {
    /// The factories of a chain whose filters are the same as before: connections that are there go on counting.
    pub(crate) fn after(now: &[NetworkFactory], before: &[NetworkFactory]) -> Rc<[NetworkFactory]> {
        let mut counting = before.iter().filter(|factory| matches!(factory, NetworkFactory::ConnectionLimit(_)));
        let kept = now.iter().map(|factory| match factory {
            NetworkFactory::ConnectionLimit(_) => counting.next().unwrap_or(factory).clone(),
            other => other.clone(),
        });
        kept.collect()
    }
}

/// Closes every connection.
struct Failed;

impl NetworkFilter for Failed {
    fn on_new_connection(&mut self, _cx: &ConnectionCx<'_>) -> NetworkAction {
        NetworkAction::Close
    }
    fn on_downstream_data(&mut self, _cx: &ConnectionCx<'_>, _end: bool) -> NetworkAction {
        NetworkAction::Close
    }
    fn on_upstream_data(&mut self, _cx: &ConnectionCx<'_>, _end: bool) -> NetworkAction {
        NetworkAction::Close
    }
    fn on_close(&mut self, _cx: &ConnectionCx<'_>, _by: ClosedBy) {}
}

/// The filters of a connection, and how far its bytes are.
pub(crate) struct NetworkFilters {
    list: Vec<Box<dyn NetworkFilter>>,
    pub(crate) state: Rc<RefCell<StreamState>>,
    slot: Rc<StreamSlot>,
    /// Filters that know of the connection.
    begun: usize,
    /// All filters let the connection through to the terminal filter.
    admitted: bool,
    /// A filter has refused the connection and closes it later.
    refused: bool,
    /// A client that has said its last word still wants an answer; not so in front of HTTP, as long as nothing is asked.
    half_closes: bool,
    ends: [End; 2],
}

/// The end of one direction's bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Open,
    /// It has come.
    Come,
    /// It has passed all filters.
    Passed,
}

/// Bytes that have passed all filters.
#[derive(Debug, Default)]
pub(crate) struct Passed {
    pub(crate) bytes: BodyBuffer,
    /// Nothing follows.
    pub(crate) end: bool,
}

impl std::fmt::Debug for NetworkFilters {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("NetworkFilters").field("len", &self.list.len()).finish_non_exhaustive()
    }
}

/// Filters that have said what they have to say. As long as this lives, the connection counts for them.
pub(crate) struct Decided(#[expect(dead_code, reason = "it is held, not read")] Vec<Box<dyn NetworkFilter>>);

/// The connection is to be closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Close;

impl NetworkFilters {
    pub(crate) fn new(factories: &[NetworkFactory], state: StreamState) -> NetworkFilters {
        let make = |factory: &NetworkFactory| match factory {
            NetworkFactory::Wasm(handle) => Box::new(WasmConnection::new(handle)) as Box<dyn NetworkFilter>,
            NetworkFactory::Rbac(handle) => Box::new(rbac::Filter::new(handle)),
            NetworkFactory::ConnectionLimit(handle) => Box::new(connection_limit::Filter::new(handle)),
            NetworkFactory::Failed => Box::new(Failed),
        };
        NetworkFilters::of(factories.iter().map(make).collect(), state)
    }

    fn of(list: Vec<Box<dyn NetworkFilter>>, state: StreamState) -> NetworkFilters {
        let state = Rc::new(RefCell::new(state));
        NetworkFilters {
            list,
            state,
            slot: Rc::default(),
            begun: 0,
            admitted: false,
            refused: false,
            half_closes: true,
            ends: [End::Open; 2],
        }
    }

    /// Whether the terminal filter may begin.
    pub(crate) fn is_admitted(&self) -> bool {
        self.admitted
    }

    /// Whether nobody waits for what the filters will say: the client is gone.
    fn is_abandoned(&self) -> bool {
        !self.half_closes && !self.admitted && self.ends[Way::Request as usize] != End::Open
    }

    /// Whether no filter has anything to do once the connection has begun: its bytes need not pass them.
    pub(crate) fn decide_at_once(&self) -> bool {
        self.list.iter().all(|filter| filter.decides_at_once())
    }

    /// Bytes of a direction that wait before or between the filters.
    pub(crate) fn waiting(&self, way: Way) -> usize {
        let state = self.state.borrow();
        match way {
            Way::Request => state.request_body.len(),
            Way::Response => state.response_body.len(),
        }
    }

    /// Begins: what the filters let pass at once.
    pub(crate) fn begin(&mut self) -> Result<Passed, Close> {
        self.walk(Way::Request, 0)
    }

    /// More bytes of a direction, or (with none) its end.
    pub(crate) fn data(&mut self, way: Way, bytes: Bytes) -> Result<Passed, Close> {
        if bytes.is_empty() {
            self.ends[way as usize] = End::Come;
        }
        {
            let mut state = self.state.borrow_mut();
            match way {
                Way::Request => state.request_body.push(bytes),
                Way::Response => state.response_body.push(bytes),
            }
        }
        self.walk(way, 0)
    }

    /// What happened to a filter from outside.
    pub(crate) fn poll_event(&mut self, task: &mut Context<'_>) -> Poll<(Way, Result<Passed, Close>)> {
        let (index, event) = std::task::ready!(self.slot.poll(task));
        let way = match event {
            FilterEvent::Resume(way) => way,
            FilterEvent::ClearRouteCache => return Poll::Ready((Way::Request, Ok(Passed::default()))),
            FilterEvent::Respond(_) | FilterEvent::Failed(_) | FilterEvent::Reset => {
                return Poll::Ready((Way::Request, Err(Close)));
            }
        };
        let next = match way {
            Way::Request => index + 1,
            Way::Response => self.list.len().saturating_sub(index),
        };
        Poll::Ready((way, self.walk(way, next)))
    }

    /// Walks from the `at`-th filter of a direction on.
    fn walk(&mut self, way: Way, at: usize) -> Result<Passed, Close> {
        if self.refused {
            return Ok(Passed::default());
        }
        let end = self.ends[way as usize] == End::Come;
        for at in at..self.list.len() {
            let index = if way == Way::Request { at } else { self.list.len() - 1 - at };
            if way == Way::Request && index >= self.begun {
                self.begun = index + 1;
                match self.call(index, |filter, cx| filter.on_new_connection(cx)) {
                    NetworkAction::Continue => {}
                    NetworkAction::Stop => return Ok(Passed::default()),
                    NetworkAction::Refuse => return self.refuse(),
                    NetworkAction::Close => return Err(Close),
                }
            }
            if self.waiting(way) == 0 && !end {
                continue;
            }
            let action = self.call(index, |filter, cx| match way {
                Way::Request => filter.on_downstream_data(cx, end),
                Way::Response => filter.on_upstream_data(cx, end),
            });
            match action {
                NetworkAction::Continue => {}
                NetworkAction::Stop => return Ok(Passed::default()),
                NetworkAction::Refuse => return self.refuse(),
                NetworkAction::Close => return Err(Close),
            }
        }
        if way == Way::Request {
            self.admitted = true;
        }
        if end {
            self.ends[way as usize] = End::Passed;
        }
        let mut state = self.state.borrow_mut();
        let bytes = match way {
            Way::Request => std::mem::take(&mut state.request_body),
            Way::Response => std::mem::take(&mut state.response_body),
        };
        Ok(Passed { bytes, end })
    }

    fn refuse(&mut self) -> Result<Passed, Close> {
        self.refused = true;
        Ok(Passed::default())
    }

    fn call(
        &mut self,
        index: usize,
        call: impl FnOnce(&mut dyn NetworkFilter, &ConnectionCx<'_>) -> NetworkAction,
    ) -> NetworkAction {
        let cx = ConnectionCx { state: &self.state, slot: &self.slot, index };
        call(&mut *self.list[index], &cx)
    }

    /// Begins where nothing is to be done after that: the filters' verdict, and what they knew of the connection.
    pub(crate) fn decide(mut self) -> (Result<(), Close>, StreamState, Decided) {
        let verdict = self.begin().map(|_| ());
        (verdict, self.state.take(), Decided(self.list))
    }

    /// The connection is over: the filters are told, and what they knew of it.
    pub(crate) fn close(mut self, by: ClosedBy) -> StreamState {
        for index in 0..self.begun {
            let cx = ConnectionCx { state: &self.state, slot: &self.slot, index };
            self.list[index].on_close(&cx, by);
        }
        self.list.clear();
        self.state.take()
    }
}

#[cfg(test)]
mod tests;
