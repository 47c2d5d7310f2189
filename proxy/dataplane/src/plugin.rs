//! Proxy-Wasm plugins on a worker: the VM, the streams in it, and what happens when it traps.

mod call;
mod stream;

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::{Rc, Weak};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::WasmPlugin;
use outrigger_wasm::{
    CallResponse, CompiledModule, ContextId, Direction, Effect, FailurePolicy, GrpcEvent, ReadyVm, StartMode, Trap, Vm,
    WorkerHost,
};
use tokio::time::Instant;

pub(crate) use stream::{FailedFilter, WasmFilter};

use crate::error::{ErrorKind, LocalReply, StreamError};
use crate::filter::{FilterEvent, StreamSlot, Way};
use crate::worker::WorkerCx;

/// A plugin that has passed its canary.
#[derive(Debug, Clone)]
pub struct PreparedPlugin {
    pub plugin: Arc<outrigger_wasm::Plugin>,
    pub module: CompiledModule,
}

/// How often a trapped instance is replaced within [`RESTART_WINDOW`]; beyond that the plugin's policy holds until the
/// window has room again.
const RESTARTS_MAX: usize = 30;
const RESTART_WINDOW: Duration = Duration::from_secs(60);
/// Calls of one plugin that wait for their answer.
const CALLS_MAX: u32 = 1024;

/// A plugin's instance on this worker, and its streams.
#[derive(Debug)]
pub(crate) struct PluginHandle {
    pub(crate) config: Arc<WasmPlugin>,
    prepared: PreparedPlugin,
    cx: Weak<WorkerCx>,
    vm: RefCell<Option<Vm>>,
    /// Counts the instances: a stream belongs to the one that it was created in.
    instance: Cell<u64>,
    streams: RefCell<HashMap<ContextId, Registered, BuildHasherDefault<IdHasher>>>,
    restarts: RefCell<VecDeque<Instant>>,
    tick: Cell<Option<Duration>>,
    ticker: Cell<u64>,
    calls: Cell<u32>,
    /// A newer generation doesn't have this plugin: no ticks, no new instance.
    retired: Cell<bool>,
}

/// Hashes context ids: the host numbers them itself, so nobody can make them collide.
#[derive(Debug, Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|byte| self.write_u32(u32::from(*byte)));
    }

    fn write_u32(&mut self, number: u32) {
        self.0 = (self.0.rotate_left(5) ^ u64::from(number)).wrapping_mul(0x517c_c1b7_2722_0a95);
    }
}

#[derive(Debug)]
struct Registered {
    slot: Rc<StreamSlot>,
    index: usize,
}

/// What a guest may ask of its worker.
#[derive(Debug)]
struct Host(Weak<WorkerCx>);

impl WorkerHost for Host {
    fn cluster_exists(&self, name: &str) -> bool {
        self.0.upgrade().is_some_and(|cx| cx.live().cluster_exists(name))
    }
}

impl PluginHandle {
    pub(crate) fn new(
        config: &Arc<WasmPlugin>,
        prepared: &PreparedPlugin,
        vm: Option<ReadyVm>,
        cx: &Rc<WorkerCx>,
    ) -> Rc<PluginHandle> {
        let handle = Rc::new(PluginHandle {
            config: config.clone(),
            prepared: prepared.clone(),
            cx: Rc::downgrade(cx),
            vm: RefCell::new(None),
            instance: Cell::new(0),
            streams: RefCell::default(),
            restarts: RefCell::default(),
            tick: Cell::new(None),
            ticker: Cell::new(0),
            calls: Cell::new(0),
            retired: Cell::new(false),
        });
        match vm {
            Some(vm) => handle.install(vm),
            None => handle.restart(),
        }
        handle
    }

    fn install(self: &Rc<Self>, vm: ReadyVm) {
        self.instance.set(self.instance.get() + 1);
        *self.vm.borrow_mut() = Some(vm.into_vm(Rc::new(Host(self.cx.clone()))));
        self.run_effects(None);
    }

    pub(crate) fn policy(&self) -> FailurePolicy {
        self.prepared.plugin.failure_policy
    }

    /// Calls the VM for a stream or for the root; a trap is dealt with here.
    fn enter<T>(self: &Rc<Self>, f: impl FnOnce(&mut Vm) -> Result<T, Trap>) -> Option<T> {
        let result = f(self.vm.borrow_mut().as_mut()?);
        match result {
            Ok(value) => Some(value),
            Err(trap) => {
                self.trapped(&trap);
                None
            }
        }
    }

    /// Runs what the guest asked for. Effects for `current` are its caller's to act on and are returned.
    fn run_effects(self: &Rc<Self>, current: Option<ContextId>) -> Vec<Effect> {
        let mut own = Vec::new();
        loop {
            let effect = match self.vm.borrow_mut().as_mut() {
                Some(vm) if vm.has_effects() => vm.next_effect(),
                _ => None,
            };
            let Some(effect) = effect else { break };
            match effect {
                Effect::HttpCall(call) => self.call(*call),
                Effect::GrpcOpen(open) => self.refuse_grpc(open.token),
                // Nothing is open.
                Effect::GrpcSend { .. } | Effect::GrpcCancel { .. } => {}
                Effect::Continue { context, .. }
                | Effect::LocalReply { context, .. }
                | Effect::Reset { context }
                | Effect::CloseConnection { context }
                | Effect::ClearRouteCache { context }
                | Effect::BodyChanged { context, .. } => {
                    if current == Some(context) {
                        own.push(effect);
                    } else {
                        self.tell(context, effect);
                    }
                }
            }
        }
        self.update_ticker();
        own
    }

    /// An effect for a stream whose callback isn't running.
    fn tell(&self, context: ContextId, effect: Effect) {
        let streams = self.streams.borrow();
        let Some(stream) = streams.get(&context) else { return };
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

    /// The instance is lost: its streams get the plugin's policy at once, and a new one is started.
    fn trapped(self: &Rc<Self>, trap: &Trap) {
        tracing::error!(plugin = %self.prepared.plugin.name, policy = ?self.policy(), "{trap}");
        *self.vm.borrow_mut() = None;
        self.instance.set(self.instance.get() + 1);
        self.tick.set(None);
        for (_, stream) in self.streams.borrow_mut().drain() {
            match self.policy() {
                FailurePolicy::Open => {
                    stream.slot.push(stream.index, FilterEvent::Resume(Way::Request));
                    stream.slot.push(stream.index, FilterEvent::Resume(Way::Response));
                }
                FailurePolicy::Closed | FailurePolicy::Reload => {
                    stream.slot.push(stream.index, FilterEvent::Failed(FAILED))
                }
            }
        }
        self.restart();
    }

    /// Starts a new instance off the worker's loop, now or when the window has room.
    fn restart(self: &Rc<Self>) {
        let Some(cx) = self.cx.upgrade().filter(|_| !self.retired.get()) else { return };
        let now = Instant::now();
        let mut restarts = self.restarts.borrow_mut();
        while restarts.front().is_some_and(|at| now.duration_since(*at) > RESTART_WINDOW) {
            restarts.pop_front();
        }
        let at = if restarts.len() < RESTARTS_MAX {
            now
        } else {
            restarts.front().map_or(now, |oldest| *oldest + RESTART_WINDOW)
        };
        if at > now {
            tracing::error!(plugin = %self.prepared.plugin.name, "traps too often: replaced again in {:?}", at - now);
        }
        restarts.push_back(at);
        drop(restarts);
        let handle = self.clone();
        let prepared = self.prepared.clone();
        let services = cx.services.clone();
        tokio::task::spawn_local(async move {
            tokio::time::sleep_until(at).await;
            let started = tokio::task::spawn_blocking(move || {
                outrigger_wasm::start(&prepared.module, &prepared.plugin, &services, StartMode::Serving)
            });
            match started.await {
                Ok(Ok(vm)) if !handle.retired.get() => handle.install(vm),
                Ok(Err(error)) => {
                    tracing::error!(plugin = %handle.prepared.plugin.name, "no new instance: {error}");
                    tokio::time::sleep(Duration::from_secs(1)).await;
                    handle.restart();
                }
                _ => {}
            }
        });
    }

    /// Keeps one ticking task for the period that the guest wants.
    fn update_ticker(self: &Rc<Self>) {
        let period = self.vm.borrow().as_ref().and_then(Vm::tick_period).filter(|_| !self.retired.get());
        if period == self.tick.replace(period) {
            return;
        }
        let ticker = self.ticker.get() + 1;
        self.ticker.set(ticker);
        let Some(period) = period else { return };
        let handle = Rc::downgrade(self);
        tokio::task::spawn_local(async move {
            loop {
                tokio::time::sleep(period).await;
                let Some(handle) =
                    handle.upgrade().filter(|handle| handle.ticker.get() == ticker && !handle.retired.get())
                else {
                    return;
                };
                handle.enter(Vm::on_tick);
                handle.run_effects(None);
            }
        });
    }

    fn call(self: &Rc<Self>, call: outrigger_wasm::HttpCall) {
        let handle = self.clone();
        let token = call.token;
        let Some(cx) = self.cx.upgrade() else { return };
        if self.calls.get() >= CALLS_MAX {
            tokio::task::spawn_local(async move { handle.answer(token, call::refused()) });
            return;
        }
        self.calls.set(self.calls.get() + 1);
        let instance = self.instance.get();
        tokio::task::spawn_local(async move {
            let response = call::run(&cx, call).await;
            handle.calls.set(handle.calls.get() - 1);
            // A token belongs to its instance; a new one has never heard of it.
            if handle.instance.get() == instance {
                handle.answer(token, response);
            }
        });
    }

    /// This data plane has no gRPC client yet: the call fails as one to a cluster without endpoints does.
    fn refuse_grpc(self: &Rc<Self>, token: u32) {
        let handle = self.clone();
        let instance = self.instance.get();
        tokio::task::spawn_local(async move {
            if handle.instance.get() == instance {
                let message = "no healthy upstream".to_owned();
                handle.enter(|vm| vm.on_grpc(token, GrpcEvent::Close { status: 14, message }));
                handle.run_effects(None);
            }
        });
    }

    fn answer(self: &Rc<Self>, token: u32, response: CallResponse) {
        self.enter(|vm| vm.on_http_call_response(token, response));
        self.run_effects(None);
    }

    /// The newest generation doesn't have this plugin: its streams finish, nothing else happens any more.
    pub(crate) fn retire(&self) {
        self.retired.set(true);
        self.tick.set(None);
        self.ticker.set(self.ticker.get() + 1);
        if self.streams.borrow().is_empty() {
            self.shut_down();
        }
    }

    fn shut_down(&self) {
        if let Some(mut vm) = self.vm.borrow_mut().take() {
            vm.shutdown();
        }
    }
}

pub(crate) const FAILED: StreamError = StreamError::internal(ErrorKind::FilterFailed);

pub(crate) fn local_reply(reply: outrigger_wasm::LocalReply) -> LocalReply {
    LocalReply {
        status: reply.status,
        details: reply.details.into(),
        headers: reply.headers,
        body: reply.body,
        grpc_status: reply.grpc_status.map(u32::from),
    }
}
