//! The state behind a VM's hostcalls: the data of its wasmtime store.

use std::cell::RefCell;
use std::collections::{BTreeMap, HashMap, VecDeque};
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_http::StreamState;
use wasmtime::{Memory, ResourceLimiter, TypedFunc};

use crate::action::{ContextId, Direction, Effect, RootId};
use crate::call_answer::{CallAnswer, GrpcAnswer};
use crate::guest_log::GuestLog;
use crate::hostcall::Expressions;
use crate::metrics::GuestMetrics;
use crate::module::Abi;
use crate::plugin::Plugin;
use crate::property::Declared;
use crate::queues::QueueEvents;
use crate::services::Services;
use crate::shared::SharedVm;
use crate::start::StartMode;
use crate::ticker::Deadline;
use crate::vm::WorkerHost;

/// The root context's id; stream contexts come after it.
pub(crate) const ROOT_ID: u32 = 1;

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

/// What of a stream the guest may reach now: bits of [`StreamContext::open`].
pub(crate) mod open {
    pub(crate) const REQUEST_HEADERS: u16 = 1;
    pub(crate) const REQUEST_BODY: u16 = 1 << 1;
    pub(crate) const REQUEST_TRAILERS: u16 = 1 << 2;
    pub(crate) const RESPONSE_HEADERS: u16 = 1 << 3;
    pub(crate) const RESPONSE_BODY: u16 = 1 << 4;
    pub(crate) const RESPONSE_TRAILERS: u16 = 1 << 5;
    /// The stream is over: all maps, to read only.
    pub(crate) const LOG: u16 = 1 << 6;
    /// Done or being deleted: it takes no effects any more.
    pub(crate) const OVER: u16 = 1 << 7;
    /// Not an HTTP stream but a connection: its two bodies are the bytes of its two sides, there are no heads.
    pub(crate) const CONNECTION: u16 = 1 << 8;

    pub(crate) const REQUEST: u16 = REQUEST_HEADERS | REQUEST_BODY | REQUEST_TRAILERS;
    pub(crate) const RESPONSE: u16 = RESPONSE_HEADERS | RESPONSE_BODY | RESPONSE_TRAILERS;
}

/// Effects of a stream that are queued and not taken yet, so that none is queued twice: bits of
/// [`StreamContext::queued`].
mod queued {
    pub(super) const CONTINUE_REQUEST: u8 = 1;
    pub(super) const CONTINUE_RESPONSE: u8 = 1 << 1;
    pub(super) const RESET: u8 = 1 << 2;
    pub(super) const ROUTE: u8 = 1 << 3;
    pub(super) const REQUEST_BODY: u8 = 1 << 4;
    pub(super) const RESPONSE_BODY: u8 = 1 << 5;
}

/// One stream that this VM has a context for.
#[derive(Debug)]
pub(crate) struct StreamContext {
    pub(crate) state: Rc<RefCell<StreamState>>,
    pub(crate) open: u16,
    queued: u8,
    /// The phase of the local reply, if the guest gave one.
    pub(crate) replied: Option<Phase>,
}

impl StreamContext {
    pub(crate) const fn is_connection(&self) -> bool {
        self.open & open::CONNECTION != 0
    }
}

/// Stream contexts in slots, so that the worker's calls look nothing up; ids are never reused.
#[derive(Debug)]
pub(crate) struct Contexts {
    ids: Vec<u32>,
    streams: Vec<Option<StreamContext>>,
    free: Vec<u32>,
    next_id: u32,
}

/// Where hostcalls act: the root context or a stream's slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Target {
    Root,
    Stream(ContextId),
}

impl Contexts {
    pub(crate) fn new() -> Contexts {
        Contexts { ids: Vec::new(), streams: Vec::new(), free: Vec::new(), next_id: ROOT_ID + 1 }
    }

    /// A new context; `None` once all ids of this VM are used up.
    pub(crate) fn insert(&mut self, state: Rc<RefCell<StreamState>>, kind: u16) -> Option<ContextId> {
        let id = self.next_id;
        let next_id = id.checked_add(1)?;
        let context = StreamContext { state, open: kind, queued: 0, replied: None };
        let slot = if let Some(slot) = self.free.pop() {
            self.ids[slot as usize] = id;
            self.streams[slot as usize] = Some(context);
            slot
        } else {
            let slot = u32::try_from(self.ids.len()).ok()?;
            self.ids.push(id);
            self.streams.push(Some(context));
            slot
        };
        self.next_id = next_id;
        Some(ContextId { id, slot })
    }

    #[inline]
    pub(crate) fn get(&self, id: ContextId) -> Option<&StreamContext> {
        if *self.ids.get(id.slot as usize)? != id.id {
            return None;
        }
        self.streams[id.slot as usize].as_ref()
    }

    #[inline]
    pub(crate) fn get_mut(&mut self, id: ContextId) -> Option<&mut StreamContext> {
        if *self.ids.get(id.slot as usize)? != id.id {
            return None;
        }
        self.streams[id.slot as usize].as_mut()
    }

    pub(crate) fn remove(&mut self, id: ContextId) {
        if self.get(id).is_some() {
            self.streams[id.slot as usize] = None;
            self.ids[id.slot as usize] = 0;
            self.free.push(id.slot);
        }
    }

    /// The context of a number that the guest names.
    pub(crate) fn find(&self, id: u32) -> Option<ContextId> {
        if id <= ROOT_ID {
            return None;
        }
        let slot = self.ids.iter().position(|found| *found == id)?;
        Some(ContextId { id, slot: u32::try_from(slot).ok()? })
    }

    pub(crate) fn len(&self) -> usize {
        self.ids.len() - self.free.len()
    }
}

/// Counts linear memory and tables against the plugin's limit.
#[derive(Debug)]
pub(crate) struct Limiter {
    bytes_max: usize,
    bytes: usize,
    /// Growth was refused since the guest was entered: how a following trap is explained.
    pub(crate) refused: bool,
}

impl Limiter {
    pub(crate) const fn new(bytes_max: usize) -> Limiter {
        Limiter { bytes_max, bytes: 0, refused: false }
    }

    fn grow(&mut self, current: usize, desired: usize) -> bool {
        let bytes = self.bytes.saturating_sub(current).saturating_add(desired);
        if bytes > self.bytes_max {
            self.refused = true;
            return false;
        }
        self.bytes = bytes;
        true
    }
}

const TABLE_ELEMENT_BYTES: usize = size_of::<usize>();

impl ResourceLimiter for Limiter {
    fn memory_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        // Past its own maximum a memory doesn't grow, so that isn't ours to count.
        Ok(maximum.is_none_or(|maximum| desired <= maximum) && self.grow(current, desired))
    }

    fn table_growing(&mut self, current: usize, desired: usize, maximum: Option<usize>) -> wasmtime::Result<bool> {
        let (current, desired) =
            (current.saturating_mul(TABLE_ELEMENT_BYTES), desired.saturating_mul(TABLE_ELEMENT_BYTES));
        Ok(maximum.is_none_or(|maximum| desired / TABLE_ELEMENT_BYTES <= maximum) && self.grow(current, desired))
    }

    fn instances(&self) -> usize {
        1
    }

    fn tables(&self) -> usize {
        64
    }

    fn memories(&self) -> usize {
        16
    }
}

/// The data of a VM's store.
pub(crate) struct Host {
    pub(crate) plugin: Arc<Plugin>,
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

    pub(crate) phase: Phase,
    pub(crate) current: Target,
    pub(crate) effective: Target,
    pub(crate) contexts: Contexts,
    effects: VecDeque<Effect>,
    /// Bytes of replies and calls in `effects`.
    effect_bytes: usize,

    pub(crate) log: GuestLog,
    pub(crate) metrics: GuestMetrics,
    pub(crate) tick_period: Option<Duration>,
    next_token: u32,
    /// Calls and streams that wait for their answers, with the root context of each.
    pub(crate) calls: HashMap<u32, (RootId, CallKind)>,
    pub(crate) call_answer: Option<Box<CallAnswer>>,
    pub(crate) grpc_answer: Option<Box<GrpcAnswer>>,
    pub(crate) queue_events: Arc<QueueEvents>,
    /// What `proxy_get_status` answers.
    pub(crate) call_status: (u32, &'static str),
    pub(crate) root_done: RootDone,
    /// `declare_property`, by name.
    pub(crate) declared: BTreeMap<String, Declared>,
    pub(crate) expressions: Expressions,
}

/// The worker's part of the host; only there once the VM is on its worker.
pub(crate) struct Worker(pub(crate) Rc<dyn WorkerHost>);

/// How far the root context is on its way out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RootDone {
    Live,
    /// `proxy_on_done` returned false: the guest says `proxy_done` later.
    Pending,
    /// `proxy_done` was called; to be deleted once the guest has returned.
    Finished,
    Deleted,
}

impl Host {
    pub(crate) fn new(
        plugin: Arc<Plugin>,
        services: Arc<Services>,
        mode: StartMode,
        abi: Abi,
        gates: Box<[u8]>,
    ) -> Host {
        let shared = services.shared(&plugin.vm_id);
        Host {
            limiter: Limiter::new(plugin.limits.memory_bytes),
            log: GuestLog::new(plugin.limits.log_bytes_per_second),
            metrics: GuestMetrics::new(plugin.limits.metrics),
            plugin,
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
            phase: Phase::Start,
            current: Target::Root,
            effective: Target::Root,
            contexts: Contexts::new(),
            effects: VecDeque::new(),
            effect_bytes: 0,
            tick_period: None,
            next_token: 1,
            calls: HashMap::new(),
            call_answer: None,
            grpc_answer: None,
            queue_events: Arc::default(),
            call_status: (0, ""),
            root_done: RootDone::Live,
            declared: BTreeMap::new(),
            expressions: Expressions::default(),
        }
    }

    /// Whether what the guest asks for is to happen: a canary's effects are dropped.
    pub(crate) fn is_serving(&self) -> bool {
        self.mode == StartMode::Serving
    }

    /// The stream that hostcalls act on: the effective context's, or the current one's once that is gone.
    #[inline]
    pub(crate) fn stream(&self) -> Option<(ContextId, &StreamContext)> {
        if let Target::Stream(id) = self.effective
            && let Some(context) = self.contexts.get(id)
        {
            return Some((id, context));
        }
        match (self.effective, self.current) {
            (Target::Stream(_), Target::Stream(id)) => Some((id, self.contexts.get(id)?)),
            _ => None,
        }
    }

    pub(crate) const fn root_id(&self) -> RootId {
        RootId { id: ROOT_ID, slot: 0 }
    }

    /// A token that no call of this VM ever had.
    pub(crate) fn new_token(&mut self) -> Option<u32> {
        let token = self.next_token;
        self.next_token = token.checked_add(1)?;
        Some(token)
    }

    /// Whether bytes of a reply or call may still be queued in this callback.
    pub(crate) fn reserve_effect_bytes(&mut self, bytes: usize) -> bool {
        let bytes_max = self.plugin.limits.body_buffer_bytes.saturating_mul(8);
        match self.effect_bytes.checked_add(bytes) {
            Some(sum) if sum <= bytes_max => {
                self.effect_bytes = sum;
                true
            }
            _ => false,
        }
    }

    pub(crate) fn has_effects(&self) -> bool {
        !self.effects.is_empty()
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

    pub(crate) fn pop(&mut self) -> Option<Effect> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn context_ids_are_never_reused_and_slots_are() {
        let mut contexts = Contexts::new();
        let state = || Rc::new(RefCell::new(StreamState::default()));
        let a = contexts.insert(state(), 0).expect("ids left");
        let b = contexts.insert(state(), 0).expect("ids left");
        contexts.remove(a);
        let c = contexts.insert(state(), 0).expect("ids left");
        assert_eq!((a.slot, a.id < b.id, b.id < c.id), (c.slot, true, true));
        assert!(contexts.get(a).is_none() && contexts.find(a.id).is_none());
        assert_eq!(contexts.find(c.id), Some(c));
        contexts.remove(a);
        assert_eq!(contexts.len(), 2);
        for number in [0, ROOT_ID, 99] {
            assert_eq!(contexts.find(number), None);
        }
        contexts.next_id = u32::MAX;
        assert!(contexts.insert(state(), 0).is_none());
    }

    #[test]
    fn the_limiter_counts_all_memories_and_tables() {
        let mut limiter = Limiter::new(1000);
        let mut memory =
            |current, desired, maximum| limiter.memory_growing(current, desired, maximum).expect("no error");
        assert!(memory(0, 600, None));
        assert!(!memory(0, 600, None));
        assert!(memory(600, 700, None));
        assert!(!memory(700, 750, Some(720)));
        assert!(limiter.table_growing(0, 30, None).expect("no error"));
        assert!(limiter.refused);
        assert!(!limiter.table_growing(30, 100, None).expect("no error"));
    }
}
