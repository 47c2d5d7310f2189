//! The access logger's callback.

use std::cell::RefCell;
use std::rc::Rc;

use outrigger_http::StreamState;

use super::Vm;
use crate::action::RootId;
use crate::host::{Phase, Target, open};
use crate::trap::{HostTrap, Trap};

impl Vm {
    /// `proxy_on_log` of a root context, for a stream or connection that is over: its heads, trailers and properties can be
    /// read. The state must not be borrowed.
    pub fn on_access_log(&mut self, root: RootId, stream: Rc<RefCell<StreamState>>) -> Result<(), Trap> {
        if self.0.exports.log.is_none() || self.0.failed.is_some() {
            return self.skip(());
        }
        // Behind the root context's number hostcalls find the stream, as if it were a context of its own.
        let contexts = &mut self.0.store.data_mut().contexts;
        if contexts.root(root).is_none() {
            return self.skip(());
        }
        let Some(id) = contexts.insert(root, stream, 0) else {
            self.0.store.data_mut().phase = Phase::Log;
            return Err(self.fail(&HostTrap::ContextIds.into()));
        };
        _ = self.open(id, open::LOG);
        let result = self.enter(Phase::Log, Target::Stream(id), |exports, store| match &exports.log {
            Some(function) => function.call(store, root.id),
            None => Ok(()),
        });
        self.0.store.data_mut().contexts.remove(id);
        result
    }
}
