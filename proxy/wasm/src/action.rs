//! What callbacks answer, and the effects that guests ask for.
//!
//! The host never acts on a stream while a guest runs: a hostcall queues an [`Effect`], and whoever entered the VM takes
//! the effects once the call has returned. That is what makes re-entry impossible.

use std::time::Duration;

use bytes::Bytes;
use outrigger_http::{Headers, RequestHead, ResponseHead};

/// A root context's id within its VM: a plugin there. Never reused as long as the VM lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RootId {
    pub(crate) id: u32,
    /// Where the VM keeps it; reused.
    pub(crate) slot: u32,
}

impl RootId {
    /// The number that the guest sees.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.id
    }
}

/// A stream context's id within its VM. Never reused as long as the VM lives.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContextId {
    pub(crate) id: u32,
    /// Where the VM keeps it; reused.
    pub(crate) slot: u32,
}

impl ContextId {
    /// The number that the guest sees.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.id
    }

    /// Its place among the streams that live in the VM: small, and taken again by a later stream.
    #[must_use]
    pub const fn slot(self) -> usize {
        self.slot as usize
    }
}

/// Which half of a stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Direction {
    Request,
    Response,
}

/// The answer of `proxy_on_request_headers` and `proxy_on_response_headers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HeadersAction {
    Continue,
    /// Hold the head; body callbacks run, and a `Continue` from one of them releases the head.
    StopIteration,
    ContinueAndEndStream,
    /// Hold the head and buffer the body; no callback until `continue_stream`. Past the buffer limit: 413 or 500.
    StopAllIterationAndBuffer,
    /// Hold the head and stop reading at the buffer limit; no callback until `continue_stream`.
    StopAllIterationAndWatermark,
}

/// The answer of `proxy_on_request_body` and `proxy_on_response_body`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DataAction {
    Continue,
    /// Keep the bytes; the next call sees them with what came since.
    StopIterationAndBuffer,
    /// As above, and stop reading at the buffer limit instead of failing the stream.
    StopIterationAndWatermark,
    /// The guest has taken the bytes: drop what its buffer holds.
    StopIterationNoBuffer,
}

/// The answer of `proxy_on_request_trailers` and `proxy_on_response_trailers`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TrailersAction {
    Continue,
    StopIteration,
}

/// The answer of `proxy_on_new_connection`, `proxy_on_downstream_data` and `proxy_on_upstream_data`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetworkAction {
    Continue,
    /// Keep the bytes and read on; the next call sees them with what came since. Ends with an [`Effect::Continue`].
    StopIteration,
}

/// Who closed a connection: the ABI's `PeerType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseType {
    Unknown = 0,
    /// This proxy.
    Local = 1,
    Remote = 2,
}

/// Something that a guest asked for, to be done now that its callback has returned.
#[derive(Debug)]
pub enum Effect {
    /// `proxy_continue_stream`; for a connection the request is what the client sends. May come for a stream that isn't paused (nothing to do then), and for one that pauses
    /// with the very callback that asked for it (it goes on at once then).
    Continue { context: ContextId, direction: Direction },
    /// `proxy_send_local_response`: overrides the action that the callback returned.
    LocalReply { context: ContextId, reply: Box<LocalReply> },
    /// `proxy_close_stream`.
    Reset { context: ContextId },
    /// `proxy_close_stream` of a connection's context, for either side: write what is queued, then close it.
    CloseConnection { context: ContextId },
    /// Request headers were changed, or the guest asked for it: select the route again.
    ClearRouteCache { context: ContextId },
    /// The body was changed: `content-length` no longer holds.
    BodyChanged { context: ContextId, direction: Direction },
    /// `proxy_http_call`: answer by [`crate::Vm::on_http_call_response`], never within this call.
    HttpCall(Box<HttpCall>),
    /// `proxy_grpc_call` and `proxy_grpc_stream`: answer by [`crate::Vm::on_grpc`], never within this call.
    GrpcOpen(Box<GrpcOpen>),
    /// `proxy_grpc_send`; without a message only the end: `proxy_grpc_close`.
    GrpcSend { token: u32, message: Option<Bytes>, end: bool },
    /// `proxy_grpc_cancel`: nothing more is told.
    GrpcCancel { token: u32 },
}

/// An answer that a guest gives in place of the upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LocalReply {
    /// 200..=599.
    pub status: u16,
    /// For `%RESPONSE_CODE_DETAILS%`: no white space, bounded.
    pub details: String,
    /// Valid fields; no pseudo headers and nothing that frames the message.
    pub headers: Headers,
    pub body: Bytes,
    /// 0..=16, if the guest gave one.
    pub grpc_status: Option<u8>,
}

/// A request that a guest sends to a cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpCall {
    pub token: u32,
    /// Whose call it is.
    pub root: RootId,
    pub cluster: String,
    pub head: RequestHead,
    pub body: Bytes,
    pub trailers: Headers,
    /// `None`: no timeout.
    pub timeout: Option<Duration>,
}

/// How a [`HttpCall`] ended.
#[derive(Debug, Clone, Default)]
pub struct CallResponse {
    pub head: Option<ResponseHead>,
    pub body: Bytes,
    pub trailers: Headers,
    /// Why there is no head.
    pub failure: Option<CallFailure>,
}

/// Something that came of a gRPC call or stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GrpcEvent {
    /// A stream's; a call doesn't show it.
    InitialMetadata(Headers),
    /// A message; of a call, its answer and end.
    Message(Bytes),
    /// A stream's; a call doesn't show it.
    TrailingMetadata(Headers),
    /// The end, with gRPC's status; of a call, only a failure.
    Close { status: u32, message: String },
}

/// Why a call has no answer. Guests see what Envoy shows them: a 504, a 503, or an empty answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallFailure {
    /// The timeout ran out: a synthesized 504.
    Timeout,
    /// No endpoint or no connection: a synthesized 503.
    Connect,
    /// The stream was reset: no headers, no body, `proxy_get_status` 11.
    Reset,
    /// The answer was larger than the caller takes: as a reset.
    TooLarge,
}

/// A gRPC call or stream that a guest opens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcOpen {
    pub token: u32,
    /// Whose it is.
    pub root: RootId,
    pub cluster: String,
    pub authority: String,
    pub service: String,
    pub method: String,
    pub metadata: Headers,
    /// The only message of a call; `None` for a stream, whose messages come as [`Effect::GrpcSend`].
    pub message: Option<Bytes>,
    /// `None`: no timeout.
    pub timeout: Option<Duration>,
}
