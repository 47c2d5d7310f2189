//! What comes back for a root context: messages of gRPC calls and streams, and queues that filled.

use std::sync::Arc;

use super::Vm;
use crate::action::{GrpcEvent, RootId};
use crate::call_answer::GrpcAnswer;
use crate::host::{CallKind, Phase, Target};
use crate::queues::QueueEvents;
use crate::trap::Trap;

impl Vm {
    /// What came of an [`crate::Effect::GrpcOpen`]; a token that isn't awaited is ignored.
    pub fn on_grpc(&mut self, token: u32, event: GrpcEvent) -> Result<(), Trap> {
        let Some((root, kind)) = self.0.store.data().calls.get(&token).copied() else { return self.skip(()) };
        let exports = &self.0.exports;
        let (phase, exists) = match &event {
            GrpcEvent::InitialMetadata(_) | GrpcEvent::TrailingMetadata(_) if kind == CallKind::GrpcCall => {
                return self.skip(());
            }
            GrpcEvent::InitialMetadata(_) => (Phase::GrpcInitialMetadata, exports.grpc_initial_metadata.is_some()),
            GrpcEvent::Message(_) => (Phase::GrpcReceive, exports.grpc_receive.is_some()),
            GrpcEvent::TrailingMetadata(_) => (Phase::GrpcTrailingMetadata, exports.grpc_trailing_metadata.is_some()),
            GrpcEvent::Close { .. } => (Phase::GrpcClose, exports.grpc_close.is_some()),
        };
        let is_last = matches!(event, GrpcEvent::Close { .. }) || kind == CallKind::GrpcCall;
        if is_last {
            self.0.store.data_mut().calls.remove(&token);
        }
        if !exists {
            return self.skip(());
        }
        let (answer, number) = GrpcAnswer::new(event);
        self.0.store.data_mut().grpc_answer = Some(Box::new(answer));
        let result = self.enter(phase, Target::Root(root), |exports, store| {
            let function = match phase {
                Phase::GrpcInitialMetadata => &exports.grpc_initial_metadata,
                Phase::GrpcReceive => &exports.grpc_receive,
                Phase::GrpcTrailingMetadata => &exports.grpc_trailing_metadata,
                _ => &exports.grpc_close,
            };
            function.as_ref().map_or(Ok(()), |function| function.call(store, (root.id, token, number)))
        });
        self.0.store.data_mut().grpc_answer = None;
        result?;
        self.finish_roots()
    }

    /// `proxy_on_queue_ready`, for what [`Vm::queue_events`] gave.
    pub fn on_queue_ready(&mut self, root: RootId, queue: u32) -> Result<(), Trap> {
        if self.0.exports.queue_ready.is_none() || self.is_root_over(root) {
            return self.skip(());
        }
        self.enter(Phase::QueueReady, Target::Root(root), |exports, store| {
            exports.queue_ready.as_ref().map_or(Ok(()), |function| function.call(store, (root.id, queue)))
        })?;
        self.finish_roots()
    }

    /// Where the VM is told of messages in its queues, to be polled by its worker; `None` if the guest has no callback for
    /// them.
    #[must_use]
    pub fn queue_events(&self) -> Option<Arc<QueueEvents>> {
        self.0.exports.queue_ready.as_ref().map(|_| self.0.store.data().queue_events.clone())
    }
}
