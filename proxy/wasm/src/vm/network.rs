//! The network filter's callbacks: a connection's context.
//!
//! A connection uses the same state as an HTTP stream: what the client sends is its `request_body`, what the upstream sends
//! is its `response_body`, and its facts are its `info`. Heads and trailers stay empty and cannot be reached.

use std::cell::RefCell;
use std::rc::Rc;

use outrigger_http::StreamState;

use super::Vm;
use crate::action::{CloseType, ContextId, Direction, NetworkAction, RootId};
use crate::host::{Phase, Target, open};
use crate::trap::Trap;

impl Vm {
    /// A context for a connection: `proxy_on_context_create`. The state must not be borrowed while a callback runs.
    pub fn create_connection(&mut self, root: RootId, connection: Rc<RefCell<StreamState>>) -> Result<ContextId, Trap> {
        self.create_context(root, connection, open::CONNECTION)
    }

    /// `proxy_on_new_connection`: nothing has been read yet.
    pub fn on_new_connection(&mut self, id: ContextId) -> Result<NetworkAction, Trap> {
        if self.0.exports.new_connection.is_none() {
            return self.skip(NetworkAction::Continue);
        }
        self.on_network(Phase::NewConnection, id, 0, false)
    }

    /// `proxy_on_downstream_data`: the client's bytes are in the state's `request_body`, all that the filter has not
    /// passed on yet.
    pub fn on_downstream_data(&mut self, id: ContextId, end_of_stream: bool) -> Result<NetworkAction, Trap> {
        if self.0.exports.downstream_data.is_none() {
            return self.skip(NetworkAction::Continue);
        }
        self.on_data(Phase::DownstreamData, Direction::Request, id, end_of_stream)
    }

    /// `proxy_on_upstream_data`: the upstream's bytes are in the state's `response_body`.
    pub fn on_upstream_data(&mut self, id: ContextId, end_of_stream: bool) -> Result<NetworkAction, Trap> {
        if self.0.exports.upstream_data.is_none() {
            return self.skip(NetworkAction::Continue);
        }
        self.on_data(Phase::UpstreamData, Direction::Response, id, end_of_stream)
    }

    fn on_data(
        &mut self,
        phase: Phase,
        direction: Direction,
        id: ContextId,
        end_of_stream: bool,
    ) -> Result<NetworkAction, Trap> {
        let bit = if direction == Direction::Request { open::REQUEST_BODY } else { open::RESPONSE_BODY };
        let Some(state) = self.open(id, bit) else { return self.skip(NetworkAction::Continue) };
        let bytes = state.try_borrow().map_or(0, |state| match direction {
            Direction::Request => state.request_body.len(),
            Direction::Response => state.response_body.len(),
        });
        let action = self.on_network(phase, id, u32::try_from(bytes).unwrap_or(u32::MAX), end_of_stream)?;
        if action == NetworkAction::Continue {
            self.close(id, bit);
        }
        Ok(action)
    }

    fn on_network(&mut self, phase: Phase, id: ContextId, bytes: u32, end: bool) -> Result<NetworkAction, Trap> {
        if self.0.store.data().contexts.get(id).is_none() {
            return self.skip(NetworkAction::Continue);
        }
        let action = self.enter(phase, Target::Stream(id), |exports, store| {
            let function = match phase {
                Phase::NewConnection => {
                    return exports.new_connection.as_ref().map_or(Ok(0), |function| function.call(store, id.id));
                }
                Phase::DownstreamData => &exports.downstream_data,
                _ => &exports.upstream_data,
            };
            function.as_ref().map_or(Ok(0), |function| function.call(store, (id.id, bytes, u32::from(end))))
        })?;
        Ok(if action == 0 { NetworkAction::Continue } else { NetworkAction::StopIteration })
    }

    /// `proxy_on_downstream_connection_close`.
    pub fn on_downstream_connection_close(&mut self, id: ContextId, by: CloseType) -> Result<(), Trap> {
        self.on_close(Phase::DownstreamClose, id, by)
    }

    /// `proxy_on_upstream_connection_close`.
    pub fn on_upstream_connection_close(&mut self, id: ContextId, by: CloseType) -> Result<(), Trap> {
        self.on_close(Phase::UpstreamClose, id, by)
    }

    fn on_close(&mut self, phase: Phase, id: ContextId, by: CloseType) -> Result<(), Trap> {
        let exports = &self.0.exports;
        let downstream = phase == Phase::DownstreamClose;
        let function = if downstream { &exports.downstream_close } else { &exports.upstream_close };
        if function.is_none() || self.0.store.data().contexts.get(id).is_none() {
            return self.skip(());
        }
        self.enter(phase, Target::Stream(id), |exports, store| {
            let function = if downstream { &exports.downstream_close } else { &exports.upstream_close };
            function.as_ref().map_or(Ok(()), |function| function.call(store, (id.id, by as u32)))
        })
    }

    /// The connection's end, once both sides are closed: done, log and delete, in Envoy's order for connections. The
    /// context is gone afterwards, whatever this returns.
    pub fn delete_connection(&mut self, id: ContextId) -> Result<(), Trap> {
        self.close(id, open::REQUEST | open::RESPONSE);
        if self.open(id, open::LOG).is_none() {
            return self.skip(());
        }
        let result = self.done_log_and_delete(id);
        self.0.store.data_mut().contexts.remove(id);
        result
    }

    fn done_log_and_delete(&mut self, id: ContextId) -> Result<(), Trap> {
        let target = Target::Stream(id);
        self.done(target, id.id)?;
        self.on_log(id)?;
        _ = self.open(id, open::OVER);
        self.delete(target, id.id)
    }
}
