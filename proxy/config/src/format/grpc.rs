//! `%GRPC_STATUS%`.

use outrigger_http::{HeaderName, StreamState, grpc_status_of_http};

use super::value::{Value, text};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

const GRPC_CODES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The status of an answer in gRPC's terms: from the trailers, the head, or the HTTP status (gRPC's mapping). `Err`: what
/// stands there for a status. `None`: nothing was answered.
pub(crate) fn grpc_code(state: &StreamState) -> Option<Result<u32, &[u8]>> {
    if let Some(text) = state.told_grpc_status() {
        return Some(std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(text));
    }
    Some(Ok(grpc_status_of_http(state.response.as_ref()?.status)))
}

/// The status of a gRPC request; other requests have none.
pub(crate) fn grpc_status(state: &StreamState, form: GrpcForm) -> Value<'_> {
    let content_type = state.request.headers.get(&HeaderName::CONTENT_TYPE);
    if !content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
        return Value::Absent;
    }
    let code = match grpc_code(state) {
        Some(Ok(code)) => code,
        Some(Err(text)) => return Value::Bytes(text),
        None => return Value::Absent,
    };
    let names = usize::try_from(code).ok().and_then(|code| GRPC_CODES.get(code));
    match (form, names) {
        (GrpcForm::Camel, Some((camel, _))) => text(camel),
        (GrpcForm::Snake, Some((_, snake))) => text(snake),
        _ => Value::Number(i64::from(code)),
    }
}
