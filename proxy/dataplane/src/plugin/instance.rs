//! One instance of a VM on its worker: who is in it, its calls, and its end.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_http::Metadata;
use outrigger_wasm::{
    CallResponse, ContextId, Direction, Effect, FailurePolicy, GrpcEvent, GrpcOpen, HttpCall, Objects, Plugin, ReadyVm,
    RootId, StartError, Trap, Vm, WorkerHost,
};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::{FAILED, Root, VmHandle, call, grpc, local_reply};
use crate::filter::{FilterEvent, StreamSlot, Way};
use crate::worker::WorkerCx;

/// How long a plugin that isn't done yet (`proxy_on_done` returned false) may go on after its last stream.
const DONE_TIME_MAX: Duration = Duration::from_secs(10);

/// A VM that runs, or has trapped.
#[derive(Debug)]
pub(crate) struct Instance {
    /// `None`: it has trapped.
    vm: RefCell<Option<Vm>>,
    handle: Weak<VmHandle>,
    cx: Weak<WorkerCx>,
    roots: RefCell<Vec<Weak<Root>>>,
    /// By [`ContextId::slot`].
    streams: RefCell<Vec<Option<Registered>>>,
    /// By their tokens.
    calls: RefCell<HashMap<u32, (RootId, AbortHandle)>>,
    /// What the guest sends into its gRPC streams, by their tokens.
    grpc_streams: RefCell<HashMap<u32, grpc::Sender>>,
    /// Who tells it of messages in its queues.
    queues: RefCell<Option<AbortHandle>>,
    served: Cell<u64>,
    /// Streams after which it is recycled.
    recycle_streams: u64,
    /// Linear memory when it was installed, and when that was.
    pub(super) started_bytes: usize,
    pub(super) since: Instant,
}

/// Where a stream's events go.
#[derive(Debug)]
struct Registered {
    slot: Rc<StreamSlot>,
    index: usize,
    policy: FailurePolicy,
}

/// What a guest may ask of its worker.
#[derive(Debug)]
struct Host(Weak<WorkerCx>);

impl WorkerHost for Host {
    fn cluster_exists(&self, name: &str) -> bool {
        self.0.upgrade().is_some_and(|cx| cx.live().cluster_exists(name))
    }
}

impl Objects for Host {
    fn cluster_metadata(&self, name: &str) -> Option<Arc<Metadata>> {
        self.0.upgrade()?.live().snapshot().clusters.get(name)?.cluster.metadata.clone()
    }

    fn cluster_endpoints(&self, name: &str) -> Option<usize> {
        let cx = self.0.upgrade()?;
        let live = cx.live();
        let assignment = live.snapshot().clusters.get(name)?.assignment.as_ref();
        Some(assignment.map_or(0, |assignment| assignment.endpoints().count()))
    }

    fn listener_metadata(&self, name: &str) -> Option<Arc<Metadata>> {
        self.0.upgrade()?.live().snapshot().listeners.get(name)?.metadata.clone()
    }
}

impl Instance {
    pub(super) fn new(handle: &Rc<VmHandle>, cx: &Weak<WorkerCx>, vm: ReadyVm) -> Rc<Instance> {
        let vm = vm.into_vm(Rc::new(Host(cx.clone())));
        let instance = Rc::new(Instance {
            recycle_streams: vm.config().limits.recycle_streams.unwrap_or(u64::MAX),
            started_bytes: vm.memory_bytes(),
            since: Instant::now(),
            vm: RefCell::new(Some(vm)),
            handle: Rc::downgrade(handle),
            cx: cx.clone(),
            roots: RefCell::default(),
            streams: RefCell::default(),
            calls: RefCell::default(),
            grpc_streams: RefCell::default(),
            queues: RefCell::new(None),
            served: Cell::new(0),
        });
        instance.watch_queues();
        instance
    }

    pub(super) fn adopt(&self, root: &Rc<Root>) {
        let mut roots = self.roots.borrow_mut();
        roots.retain(|root| root.strong_count() > 0);
        roots.push(Rc::downgrade(root));
    }

    /// One more plugin in this VM.
    pub(super) fn add(self: &Rc<Self>, plugin: &Arc<Plugin>) -> Result<RootId, StartError> {
        let (outcome, failed) = {
            let mut vm = self.vm.borrow_mut();
            let Some(vm) = &mut *vm else {
                return Err(StartError::Instantiate { reason: "its VM has trapped".to_owned() });
            };
            let outcome = vm.add(plugin);
            (outcome, vm.failed().cloned())
        };
        if let Some(trap) = failed {
            self.trapped(&trap);
        }
        outcome
    }

    pub(super) fn tick_period(&self, root: RootId) -> Option<Duration> {
        self.vm.borrow().as_ref().and_then(|vm| vm.tick_period(root))
    }

    /// Calls the VM for a stream or for a root; a trap is dealt with here.
    #[inline]
    pub(super) fn enter<T>(self: &Rc<Self>, f: impl FnOnce(&mut Vm) -> Result<T, Trap>) -> Option<T> {
        let result = f(self.vm.borrow_mut().as_mut()?);
        match result {
            Ok(value) => Some(value),
            Err(trap) => {
                self.trapped(&trap);
                None
            }
        }
    }

    #[inline]
    pub(super) fn ignores_body(&self, direction: Direction) -> bool {
        self.vm.borrow().as_ref().is_some_and(|vm| vm.ignores_body(direction))
    }

    /// A stream's context, and where its events go from now on.
    #[inline]
    pub(super) fn register(&self, context: ContextId, slot: &Rc<StreamSlot>, index: usize, policy: FailurePolicy) {
        let mut streams = self.streams.borrow_mut();
        let at = context.slot();
        if streams.len() <= at {
            streams.resize_with(at + 1, || None);
        }
        streams[at] = Some(Registered { slot: slot.clone(), index, policy });
    }

    #[inline]
    pub(super) fn unregister(&self, context: ContextId) {
        if let Some(stream) = self.streams.borrow_mut().get_mut(context.slot()) {
            *stream = None;
        }
    }

    /// A stream is over and deleted.
    #[inline]
    pub(super) fn stream_ends(self: &Rc<Self>) {
        let served = self.served.get() + 1;
        self.served.set(served);
        if served == self.recycle_streams {
            self.worn();
        }
    }

    #[cold]
    fn worn(self: &Rc<Self>) {
        // Streams that an older instance finishes say nothing about the one that serves.
        if let Some(handle) = self.handle.upgrade().filter(|handle| handle.serves(self)) {
            handle.recycle("streams");
        }
    }

    /// Brings the VM's statistics up to date; its linear memory.
    pub(super) fn refresh_stats(&self) -> usize {
        let vm = self.vm.borrow();
        let Some(vm) = &*vm else { return 0 };
        vm.refresh_stats();
        vm.memory_bytes()
    }

    /// Runs what the guest asked for. Effects for `current` are its caller's to act on.
    #[inline]
    pub(super) fn run_effects(self: &Rc<Self>, current: Option<ContextId>, mut own: impl FnMut(Effect)) {
        let (mut effect, ticks_changed) = match &mut *self.vm.borrow_mut() {
            Some(vm) => (vm.next_effect(), vm.take_ticks_changed()),
            None => return,
        };
        if ticks_changed {
            self.update_tickers();
        }
        while let Some(found) = effect {
            match found {
                Effect::HttpCall(call) => self.call(*call),
                Effect::GrpcOpen(open) => self.open_grpc(*open),
                Effect::GrpcSend { token, message, end } => self.send_grpc(token, message, end),
                Effect::GrpcCancel { token } => self.cancel_grpc(token),
                Effect::Continue { context, .. }
                | Effect::LocalReply { context, .. }
                | Effect::Reset { context }
                | Effect::CloseConnection { context }
                | Effect::ClearRouteCache { context }
                | Effect::BodyChanged { context, .. } => {
                    if current == Some(context) {
                        own(found);
                    } else {
                        self.tell(context, found);
                    }
                }
            }
            effect = self.vm.borrow_mut().as_mut().and_then(Vm::next_effect);
        }
    }

    #[cold]
    fn update_tickers(&self) {
        let roots: Vec<Rc<Root>> = self.roots.borrow().iter().filter_map(Weak::upgrade).collect();
        roots.iter().for_each(Root::update_ticker);
    }

    /// An effect for a stream whose callback isn't running.
    fn tell(&self, context: ContextId, effect: Effect) {
        let streams = self.streams.borrow();
        let Some(Some(stream)) = streams.get(context.slot()) else { return };
        let event = match effect {
            Effect::Continue { direction: Direction::Request, .. } => FilterEvent::Resume(Way::Request),
            Effect::Continue { direction: Direction::Response, .. } => FilterEvent::Resume(Way::Response),
            Effect::LocalReply { reply, .. } => FilterEvent::Respond(local_reply(*reply)),
            Effect::Reset { .. } | Effect::CloseConnection { .. } => FilterEvent::Reset,
            Effect::ClearRouteCache { .. } => FilterEvent::ClearRouteCache,
            Effect::BodyChanged { .. }
            | Effect::HttpCall(_)
            | Effect::GrpcOpen(_)
            | Effect::GrpcSend { .. }
            | Effect::GrpcCancel { .. } => return,
        };
        stream.slot.push(stream.index, event);
    }

    /// The VM is lost: its streams get their plugin's policy at once, its calls end, and a new one is started.
    #[cold]
    pub(super) fn trapped(self: &Rc<Self>, trap: &Trap) {
        self.vm.borrow_mut().take();
        self.calls.borrow_mut().drain().for_each(|(_, (_, call))| call.abort());
        self.grpc_streams.borrow_mut().clear();
        let streams = std::mem::take(&mut *self.streams.borrow_mut());
        for stream in streams.into_iter().flatten() {
            match stream.policy {
                FailurePolicy::Open => {
                    stream.slot.push(stream.index, FilterEvent::Resume(Way::Request));
                    stream.slot.push(stream.index, FilterEvent::Resume(Way::Response));
                }
                FailurePolicy::Closed | FailurePolicy::Reload(_) => {
                    stream.slot.push(stream.index, FilterEvent::Failed(FAILED));
                }
            }
        }
        if let Some(handle) = self.handle.upgrade() {
            handle.lost(self, trap);
        }
    }

    fn call(self: &Rc<Self>, call: HttpCall) {
        let Some(cx) = self.cx.upgrade() else { return };
        let (token, root, instance) = (call.token, call.root, self.clone());
        let task = tokio::task::spawn_local(async move {
            let response = call::run(&cx, call).await;
            instance.calls.borrow_mut().remove(&token);
            instance.answer(token, response);
        });
        self.calls.borrow_mut().insert(token, (root, task.abort_handle()));
    }

    fn open_grpc(self: &Rc<Self>, open: GrpcOpen) {
        let Some(cx) = self.cx.upgrade() else { return };
        let (token, root, instance) = (open.token, open.root, self.clone());
        let (sender, receiver) = grpc::channel();
        if open.message.is_none() {
            self.grpc_streams.borrow_mut().insert(token, sender);
        }
        let task = tokio::task::spawn_local(async move {
            grpc::run(&cx, open, receiver, |event| instance.tell_grpc(token, event)).await;
            instance.forget_grpc(token);
        });
        self.calls.borrow_mut().insert(token, (root, task.abort_handle()));
    }

    fn tell_grpc(self: &Rc<Self>, token: u32, event: GrpcEvent) {
        self.enter(|vm| vm.on_grpc(token, event));
        self.run_effects(None, |_| {});
    }

    fn send_grpc(&self, token: u32, message: Option<Bytes>, end: bool) {
        if let Some(stream) = self.grpc_streams.borrow().get(&token) {
            stream.send(message, end);
        }
    }

    fn cancel_grpc(&self, token: u32) {
        if let Some((_, task)) = self.forget_grpc(token) {
            task.abort();
        }
    }

    fn forget_grpc(&self, token: u32) -> Option<(RootId, AbortHandle)> {
        self.grpc_streams.borrow_mut().remove(&token);
        self.calls.borrow_mut().remove(&token)
    }

    /// Tells the guest of messages in its queues, as long as this instance lives.
    fn watch_queues(self: &Rc<Self>) {
        let Some(events) = self.vm.borrow().as_ref().and_then(Vm::queue_events) else { return };
        let instance = Rc::downgrade(self);
        let task = tokio::task::spawn_local(async move {
            loop {
                let (root, queue) = poll_fn(|cx| events.poll(cx)).await;
                let Some(instance) = instance.upgrade() else { return };
                instance.enter(|vm| vm.on_queue_ready(root, queue));
                instance.run_effects(None, |_| {});
                // One message a turn: a producer that is quicker than its consumer stops nobody else.
                tokio::task::yield_now().await;
            }
        });
        *self.queues.borrow_mut() = Some(task.abort_handle());
    }

    fn answer(self: &Rc<Self>, token: u32, response: CallResponse) {
        self.enter(|vm| vm.on_http_call_response(token, response));
        self.run_effects(None, |_| {});
    }

    /// Ends a plugin here: done, then deleted, at once or when the guest says so within [`DONE_TIME_MAX`].
    pub(super) fn end(self: &Rc<Self>, root: RootId) {
        let over = match &mut *self.vm.borrow_mut() {
            Some(vm) => vm.shutdown(root),
            None => return,
        };
        self.run_effects(None, |_| {});
        if over {
            self.abort_calls(root);
        } else {
            let instance = self.clone();
            tokio::task::spawn_local(async move {
                let ends = Instant::now() + DONE_TIME_MAX;
                while Instant::now() < ends && !instance.is_root_over(root) {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                instance.abort_calls(root);
            });
        }
    }

    /// Calls end with their root context, as in Envoy.
    fn abort_calls(&self, root: RootId) {
        self.calls.borrow_mut().retain(|_, (of, call)| {
            if *of == root {
                call.abort();
            }
            *of != root
        });
        let calls = self.calls.borrow();
        self.grpc_streams.borrow_mut().retain(|token, _| calls.contains_key(token));
    }

    fn is_root_over(&self, root: RootId) -> bool {
        self.vm.borrow().as_ref().is_none_or(|vm| vm.is_root_over(root))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Some(task) = self.queues.get_mut().take() {
            task.abort();
        }
    }
}
