//! The state behind a VM's hostcalls: the data of its wasmtime store.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;

use wasmtime::{Memory, TypedFunc};

use crate::action::{ContextId, Direction, Effect, RootId};
use crate::call_answer::{CallAnswer, GrpcAnswer};
pub(crate) use crate::contexts::{Contexts, Counted, RootContext, RootDone, StreamContext, Target, open, queued};
use crate::guest_log::GuestLog;
use crate::hostcall::Expressions;
use crate::interner::Interner;
use crate::limiter::Limiter;
use crate::metrics::{GuestMetrics, PluginStats};
use crate::module::Abi;
use crate::plugin::{Plugin, VmConfig};
use crate::property::Declared;
use crate::queues::QueueEvents;
use crate::services::Services;
use crate::shared::{SharedVm, Tenant};
use crate::start::StartMode;
use crate::ticker::Deadline;
use crate::vm::WorkerHost;

/// Before the first root context is there; no context has this number.
const NO_ROOT: RootId = RootId { id: 0, slot: 0 };

/// What the guest is entered for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Start,
    ContextCreate,
    VmStart,
    Configure,
    RequestHeaders,
    RequestBody,
    RequestTrailers,
    ResponseHeaders,
    ResponseBody,
    ResponseTrailers,
    Log,
    Done,
    Delete,
    Tick,
    HttpCallResponse,
    NewConnection,
    DownstreamData,
    UpstreamData,
    DownstreamClose,
    UpstreamClose,
    GrpcInitialMetadata,
    GrpcReceive,
    GrpcTrailingMetadata,
    GrpcClose,
    QueueReady,
}

/// What was opened under a token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum CallKind {
    Http,
    GrpcCall,
    GrpcStream,
}

impl Phase {
    /// The export that runs.
    pub(crate) const fn export(self) -> &'static str {
        match self {
            Phase::Start => "start",
            Phase::ContextCreate => "proxy_on_context_create",
            Phase::VmStart => "proxy_on_vm_start",
            Phase::Configure => "proxy_on_configure",
            Phase::RequestHeaders => "proxy_on_request_headers",
            Phase::RequestBody => "proxy_on_request_body",
            Phase::RequestTrailers => "proxy_on_request_trailers",
            Phase::ResponseHeaders => "proxy_on_response_headers",
            Phase::ResponseBody => "proxy_on_response_body",
            Phase::ResponseTrailers => "proxy_on_response_trailers",
            Phase::Log => "proxy_on_log",
            Phase::Done => "proxy_on_done",
            Phase::Delete => "proxy_on_delete",
            Phase::Tick => "proxy_on_tick",
            Phase::HttpCallResponse => "proxy_on_http_call_response",
            Phase::NewConnection => "proxy_on_new_connection",
            Phase::DownstreamData => "proxy_on_downstream_data",
            Phase::UpstreamData => "proxy_on_upstream_data",
            Phase::DownstreamClose => "proxy_on_downstream_connection_close",
            Phase::UpstreamClose => "proxy_on_upstream_connection_close",
            Phase::GrpcInitialMetadata => "proxy_on_grpc_receive_initial_metadata",
            Phase::GrpcReceive => "proxy_on_grpc_receive",
            Phase::GrpcTrailingMetadata => "proxy_on_grpc_receive_trailing_metadata",
            Phase::GrpcClose => "proxy_on_grpc_close",
            Phase::QueueReady => "proxy_on_queue_ready",
        }
    }
}

/// Callbacks of streams that a guest has said it has no need of: bits of [`Host::skipped`].
pub(crate) mod skip {
    use super::Phase;

    const PHASES: [Phase; 8] = [
        Phase::RequestHeaders,
        Phase::RequestBody,
        Phase::RequestTrailers,
        Phase::ResponseHeaders,
        Phase::ResponseBody,
        Phase::ResponseTrailers,
        Phase::Log,
        Phase::Done,
    ];

    pub(crate) const fn bit(phase: Phase) -> u32 {
        1 << phase as u32
    }

    /// `None` for what cannot be left out.
    pub(crate) fn of_export(name: &[u8]) -> Option<u32> {
        PHASES.into_iter().find(|phase| phase.export().as_bytes() == name).map(bit)
    }
}

/// The data of a VM's store.
pub(crate) struct Host {
    /// The plugin of the effective context; before there is one, the one that the VM is started for.
    pub(crate) plugin: Rc<Counted>,
    /// Whose `plugin` this is.
    root: RootId,
    pub(crate) services: Arc<Services>,
    pub(crate) shared: Arc<SharedVm>,
    pub(crate) worker: Option<Worker>,
    pub(crate) mode: StartMode,
    pub(crate) abi: Abi,

    pub(crate) memory: Option<Memory>,
    pub(crate) allocator: Option<TypedFunc<u32, u32>>,
    pub(crate) limiter: Limiter,
    pub(crate) deadline: Deadline,
    /// What each hostcall is closed by: see [`crate::hostcall`].
    pub(crate) gates: Box<[u8]>,
    pub(crate) gate_mask: u8,
    pub(crate) hostcalls_left: u32,
    /// Callbacks that streams go without: see [`skip`].
    pub(crate) skipped: u32,

    pub(crate) phase: Phase,
    pub(crate) current: Target,
    pub(crate) effective: Target,
    pub(crate) contexts: Contexts,
    effects: VecDeque<Effect>,
    /// Bytes of replies and calls in `effects`.
    effect_bytes: usize,
    /// A [`Effect::ClearRouteCache`] of the current stream.
    pub(crate) route_changed: bool,

    pub(crate) interner: Interner,
    pub(crate) log: GuestLog,
    pub(crate) metrics: GuestMetrics,
    next_token: u32,
    /// Calls and streams that wait for their answers, with the root context of each.
    pub(crate) calls: HashMap<u32, (RootId, CallKind)>,
    pub(crate) call_answer: Option<Box<CallAnswer>>,
    pub(crate) grpc_answer: Option<Box<GrpcAnswer>>,
    pub(crate) queue_events: Arc<QueueEvents>,
    /// `declare_property`, by name.
    pub(crate) declared: BTreeMap<String, Declared>,
    pub(crate) expressions: Expressions,
    /// Some root context wants other ticks than before.
    pub(crate) ticks_changed: bool,
    /// Some root context is done and to be deleted.
    pub(crate) roots_done: bool,
}

/// The worker's part of the host; only there once the VM is on its worker.
pub(crate) struct Worker(pub(crate) Rc<dyn WorkerHost>);

impl Host {
    pub(crate) fn new(
        plugin: Arc<Plugin>,
        services: Arc<Services>,
        mode: StartMode,
        abi: Abi,
        gates: Box<[u8]>,
    ) -> Host {
        let VmConfig { limits, vm_id, .. } = &*plugin.vm;
        let shared = services.shared(vm_id);
        Host {
            limiter: Limiter::new(limits.memory_bytes),
            log: GuestLog::new(limits.log_bytes_per_second),
            metrics: GuestMetrics::new(limits.metrics),
            interner: Interner::new(),
            plugin: Rc::new(Counted { plugin, stats: Rc::new(PluginStats::detached()) }),
            root: NO_ROOT,
            services,
            shared,
            worker: None,
            mode,
            abi,
            memory: None,
            allocator: None,
            deadline: Deadline::default(),
            gates,
            gate_mask: crate::hostcall::GATE_DENIED,
            hostcalls_left: 0,
            skipped: 0,
            phase: Phase::Start,
            current: Target::Root(NO_ROOT),
            effective: Target::Root(NO_ROOT),
            contexts: Contexts::new(),
            effects: VecDeque::new(),
            effect_bytes: 0,
            route_changed: false,
            next_token: 1,
            calls: HashMap::new(),
            call_answer: None,
            grpc_answer: None,
            queue_events: Arc::default(),
            declared: BTreeMap::new(),
            expressions: Expressions::default(),
            ticks_changed: false,
            roots_done: false,
        }
    }

    /// Whether what the guest asks for is to happen: a canary's effects are dropped.
    pub(crate) fn is_serving(&self) -> bool {
        self.mode == StartMode::Serving
    }

    /// Makes a context the one that hostcalls act on; false where it is gone.
    #[inline]
    pub(crate) fn set_effective(&mut self, target: Target) -> bool {
        let Some(root) = self.contexts.root_of(target) else { return false };
        self.effective = target;
        root == self.root || self.focus(root)
    }

    fn focus(&mut self, root: RootId) -> bool {
        let Some(context) = self.contexts.root(root) else { return false };
        self.plugin = context.plugin.clone();
        self.root = root;
        true
    }

    /// What ended here: whose plugin it was, and which export ran.
    pub(crate) fn ended(&self) -> (Arc<str>, &'static str) {
        (self.plugin.name.clone(), self.phase.export())
    }

    /// The root context of the plugin that hostcalls act for.
    pub(crate) const fn root_id(&self) -> RootId {
        self.root
    }

    /// The plugin that hostcalls act for, as one that shares with others; `None` before there is a root context.
    pub(crate) fn tenant(&mut self) -> Option<Arc<Tenant>> {
        let (shared, name) = (&self.shared, &self.plugin.name);
        let root = self.contexts.root_mut(self.root)?;
        Some(root.tenant.get_or_insert_with(|| shared.tenant(name)).clone())
    }

    pub(crate) fn root(&self) -> Option<&RootContext> {
        self.contexts.root(self.root)
    }

    pub(crate) fn root_mut(&mut self) -> Option<&mut RootContext> {
        self.contexts.root_mut(self.root)
    }

    /// The stream that hostcalls act on: the effective context's, or the current one's once that is gone.
    #[inline]
    pub(crate) fn stream(&self) -> Option<(ContextId, &StreamContext)> {
        acting_on(&self.contexts, self.effective, self.current)
    }

    /// A token that no call of this VM ever had.
    pub(crate) fn new_token(&mut self) -> Option<u32> {
        let token = self.next_token;
        self.next_token = token.checked_add(1)?;
        Some(token)
    }

    /// Whether bytes of a reply or call may still be queued in this callback.
    pub(crate) fn reserve_effect_bytes(&mut self, bytes: usize) -> bool {
        let bytes_max = self.plugin.vm.limits.body_buffer_bytes.saturating_mul(8);
        match self.effect_bytes.checked_add(bytes) {
            Some(sum) if sum <= bytes_max => {
                self.effect_bytes = sum;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn has_effects(&self) -> bool {
        !self.effects.is_empty() || self.route_changed
    }

    /// The request's head was changed: its route is to be chosen again. Where it is the stream that the guest was entered
    /// for, a mark is enough.
    #[inline]
    pub(crate) fn clear_route(&mut self, id: ContextId) {
        if self.current == Target::Stream(id) && self.is_serving() {
            self.route_changed = true;
        } else {
            self.push(Effect::ClearRouteCache { context: id });
        }
    }

    /// Another context is entered before the mark was taken.
    #[cold]
    pub(crate) fn keep_mark(&mut self) {
        self.route_changed = false;
        if let Target::Stream(context) = self.current {
            self.push(Effect::ClearRouteCache { context });
        }
    }

    /// Queues an effect, unless the same is queued already or the stream is over.
    pub(crate) fn push(&mut self, effect: Effect) {
        if !self.is_serving() {
            return;
        }
        if let Some((context, bit)) = queued_bit(&effect) {
            let Some(stream) = self.contexts.get_mut(context) else { return };
            if stream.open & open::OVER != 0 || stream.queued & bit != 0 {
                return;
            }
            stream.queued |= bit;
        }
        self.effects.push_back(effect);
    }

    #[inline]
    pub(crate) fn pop(&mut self) -> Option<Effect> {
        if std::mem::take(&mut self.route_changed)
            && let Target::Stream(context) = self.current
        {
            return Some(Effect::ClearRouteCache { context });
        }
        if self.effects.is_empty() { None } else { self.pop_queued() }
    }

    fn pop_queued(&mut self) -> Option<Effect> {
        let effect = self.effects.pop_front()?;
        if let Some((context, bit)) = queued_bit(&effect)
            && let Some(stream) = self.contexts.get_mut(context)
        {
            stream.queued &= !bit;
            // What goes on can no longer be changed, even if the callback that asked for it paused.
            stream.open &= match effect {
                Effect::Continue { direction: Direction::Request, .. } => !open::REQUEST,
                Effect::Continue { direction: Direction::Response, .. } => !open::RESPONSE,
                _ => u16::MAX,
            };
        }
        if self.effects.is_empty() {
            self.effect_bytes = 0;
        }
        Some(effect)
    }

    /// Drops what is queued for a stream's earlier local reply: a later one replaces it.
    pub(crate) fn drop_reply(&mut self, id: ContextId) {
        self.effects.retain(|effect| !matches!(effect, Effect::LocalReply { context, .. } if *context == id));
    }
}

/// The stream of the effective context, or of the current one once that is gone.
#[inline]
pub(crate) fn acting_on(
    contexts: &Contexts,
    effective: Target,
    current: Target,
) -> Option<(ContextId, &StreamContext)> {
    if let Target::Stream(id) = effective
        && let Some(context) = contexts.get(id)
    {
        return Some((id, context));
    }
    match (effective, current) {
        (Target::Stream(_), Target::Stream(id)) => Some((id, contexts.get(id)?)),
        _ => None,
    }
}

/// The stream and the bit that mark an effect as queued; a zero bit where the stream only has to live.
fn queued_bit(effect: &Effect) -> Option<(ContextId, u8)> {
    match effect {
        Effect::Continue { context, direction: Direction::Request } => Some((*context, queued::CONTINUE_REQUEST)),
        Effect::Continue { context, direction: Direction::Response } => Some((*context, queued::CONTINUE_RESPONSE)),
        Effect::Reset { context } | Effect::CloseConnection { context } => Some((*context, queued::RESET)),
        Effect::ClearRouteCache { context } => Some((*context, queued::ROUTE)),
        Effect::BodyChanged { context, direction: Direction::Request } => Some((*context, queued::REQUEST_BODY)),
        Effect::BodyChanged { context, direction: Direction::Response } => Some((*context, queued::RESPONSE_BODY)),
        Effect::LocalReply { context, .. } => Some((*context, 0)),
        Effect::HttpCall(_) | Effect::GrpcOpen(_) | Effect::GrpcSend { .. } | Effect::GrpcCancel { .. } => None,
    }
}
