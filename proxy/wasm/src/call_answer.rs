//! The answers that `proxy_on_http_call_response` and the gRPC callbacks are entered with.

use bytes::Bytes;
use outrigger_http::{HeaderName, Headers, ResponseHead};

use crate::action::{CallFailure, CallResponse, GrpcEvent};
use crate::status::BROKEN_CONNECTION;

/// What maps 6 and 7 and buffer 4 show while the callback runs.
#[derive(Debug, Default)]
pub(crate) struct CallAnswer {
    pub(crate) head: Option<ResponseHead>,
    pub(crate) body: Bytes,
    pub(crate) trailers: Headers,
}

impl CallAnswer {
    /// The answer and what `proxy_get_status` says about it. A call that failed looks as in Envoy: a 504, a 503, or nothing
    /// and the status of a broken connection.
    pub(crate) fn new(response: CallResponse) -> (CallAnswer, (u32, &'static str)) {
        let CallResponse { head, body, trailers, failure } = response;
        if let Some(head) = head
            && failure.is_none()
        {
            return (CallAnswer { head: Some(head), body, trailers }, (0, ""));
        }
        let (status, text) = match failure {
            Some(CallFailure::Timeout) => (504, "upstream request timeout"),
            Some(CallFailure::Connect) => (503, "no healthy upstream"),
            Some(CallFailure::Reset | CallFailure::TooLarge) | None => {
                return (CallAnswer::default(), (BROKEN_CONNECTION, "the stream was reset"));
            }
        };
        let mut head = ResponseHead::new(status);
        head.headers.append(HeaderName::CONTENT_LENGTH, text.len().to_string().into());
        head.headers.append(HeaderName::CONTENT_TYPE, Bytes::from_static(b"text/plain"));
        (CallAnswer { head: Some(head), body: Bytes::from_static(text.as_bytes()), trailers: Headers::new() }, (0, ""))
    }
}

/// What maps 4 and 5, buffer 5 and `proxy_get_status` show while a gRPC callback runs.
#[derive(Debug, Default)]
pub(crate) struct GrpcAnswer {
    pub(crate) initial_metadata: Option<Headers>,
    pub(crate) trailing_metadata: Option<Headers>,
    pub(crate) message: Option<Bytes>,
    pub(crate) status: Option<(u32, String)>,
}

impl GrpcAnswer {
    /// The answer, and the number that the callback is entered with: pairs, bytes or the status.
    pub(crate) fn new(event: GrpcEvent) -> (GrpcAnswer, u32) {
        let number = |len: usize| u32::try_from(len).unwrap_or(u32::MAX);
        let mut answer = GrpcAnswer::default();
        let number = match event {
            GrpcEvent::InitialMetadata(headers) => number(answer.initial_metadata.insert(headers).len()),
            GrpcEvent::TrailingMetadata(headers) => number(answer.trailing_metadata.insert(headers).len()),
            GrpcEvent::Message(message) => number(answer.message.insert(message).len()),
            GrpcEvent::Close { status, message } => answer.status.insert((status, message)).0,
        };
        (answer, number)
    }
}
