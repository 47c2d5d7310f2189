//! From heads to bytes.

use bytes::Bytes;
use outrigger_http::{HeaderName, RequestHead, ResponseHead};

use super::body::BodyEncoder;
use crate::write_queue::WriteQueue;

/// Writes a request's head; how its body is written, and how long its fields are. `end`: no body follows. `upgrade`: an
/// upgrade that goes on to the origin.
pub(crate) fn write_request(
    out: &mut WriteQueue,
    head: &RequestHead,
    end: bool,
    upgrade: Option<&Bytes>,
    trailers: bool,
) -> (BodyEncoder, usize) {
    out.push_slice(head.method.as_bytes());
    out.push_slice(b" ");
    // A CONNECT names its target, every other request has a path.
    out.push_slice(if head.path.is_empty() { &head.authority } else { &head.path });
    out.push_slice(b" HTTP/1.1\r\n");
    let before = out.len();
    out.push_field(&HeaderName::HOST, &head.authority);
    let mut length = None;
    for (name, value) in &head.headers {
        if name.is_hop_by_hop() && *name != HeaderName::TE || *name == HeaderName::HOST {
            continue;
        }
        if *name == HeaderName::CONTENT_LENGTH {
            if end || upgrade.is_some() {
                // Said below where it matters: a filter may have changed the body.
                continue;
            }
            length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            if length.is_none() {
                continue;
            }
        }
        out.push_field(name, value);
    }
    let encoder = match (upgrade, end, length) {
        (Some(protocol), ..) => {
            out.push_slice(b"connection: upgrade\r\nupgrade: ");
            out.push_slice(protocol);
            out.push_slice(b"\r\n");
            BodyEncoder::UntilClose
        }
        (None, true, _) => {
            if head.headers.contains(&HeaderName::CONTENT_LENGTH) || has_body_semantics(head) {
                out.push_slice(b"content-length: 0\r\n");
            }
            BodyEncoder::None
        }
        (None, false, Some(length)) => BodyEncoder::Length(length),
        (None, false, None) => {
            out.push_slice(b"transfer-encoding: chunked\r\n");
            BodyEncoder::Chunked { trailers }
        }
    };
    let field_bytes = out.len() - before;
    out.push_slice(b"\r\n");
    (encoder, field_bytes)
}

/// Methods whose empty body is said (RFC 9110 §8.6).
fn has_body_semantics(head: &RequestHead) -> bool {
    use outrigger_http::Method;
    matches!(head.method, Method::Post | Method::Put | Method::Patch)
}

/// How a response's connection goes on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ResponseFraming<'a> {
    pub(crate) end: bool,
    /// The request was HEAD: the head is written as if a body followed.
    pub(crate) head_request: bool,
    pub(crate) http10: bool,
    pub(crate) close: bool,
    pub(crate) upgrade: Option<&'a Bytes>,
    pub(crate) trailers: bool,
}

/// Writes a response's head; how its body is written, and how long its fields are.
pub(crate) fn write_response(
    out: &mut WriteQueue,
    head: &ResponseHead,
    framing: ResponseFraming<'_>,
) -> (BodyEncoder, usize) {
    status_line(out, head.status);
    let before = out.len();
    let encoder = write_fields(out, head, framing);
    let field_bytes = out.len() - before;
    out.push_slice(b"\r\n");
    (encoder, field_bytes)
}

fn write_fields(out: &mut WriteQueue, head: &ResponseHead, framing: ResponseFraming<'_>) -> BodyEncoder {
    let bodyless = head.status < 200 || head.status == 204 || head.status == 304;
    let mut length = None;
    for (name, value) in &head.headers {
        if name.is_hop_by_hop() {
            continue;
        }
        if *name == HeaderName::CONTENT_LENGTH {
            if head.status < 200 || head.status == 204 {
                continue;
            }
            length = std::str::from_utf8(value).ok().and_then(|text| text.parse().ok());
            if length.is_none() || (framing.end && length != Some(0) && !framing.head_request && head.status != 304) {
                length = None;
                continue;
            }
        }
        out.push_field(name, value);
    }
    if let Some(protocol) = framing.upgrade {
        out.push_slice(b"connection: upgrade\r\nupgrade: ");
        out.push_slice(protocol);
        out.push_slice(b"\r\n");
        return BodyEncoder::UntilClose;
    }
    let encoder = match length {
        _ if bodyless || framing.head_request => {
            if framing.head_request && !bodyless && length.is_none() && !framing.end {
                out.push_slice(b"transfer-encoding: chunked\r\n");
            }
            BodyEncoder::None
        }
        Some(length) => BodyEncoder::Length(length),
        None if framing.end => {
            out.push_slice(b"content-length: 0\r\n");
            BodyEncoder::None
        }
        None if framing.http10 => BodyEncoder::UntilClose,
        None => {
            out.push_slice(b"transfer-encoding: chunked\r\n");
            BodyEncoder::Chunked { trailers: framing.trailers }
        }
    };
    if framing.close || encoder == BodyEncoder::UntilClose {
        out.push_slice(b"connection: close\r\n");
    } else if framing.http10 {
        out.push_slice(b"connection: keep-alive\r\n");
    }
    encoder
}

/// Writes a 1xx head.
pub(crate) fn write_informational(out: &mut WriteQueue, head: &ResponseHead) {
    status_line(out, head.status);
    for (name, value) in &head.headers {
        if !name.is_hop_by_hop() && *name != HeaderName::CONTENT_LENGTH {
            out.push_field(name, value);
        }
    }
    out.push_slice(b"\r\n");
}

fn status_line(out: &mut WriteQueue, status: u16) {
    if status == 200 {
        // Nearly all of them.
        out.push_slice(b"HTTP/1.1 200 OK\r\n");
        return;
    }
    let digits = [b'0' + (status / 100 % 10) as u8, b'0' + (status / 10 % 10) as u8, b'0' + (status % 10) as u8];
    out.push_slice(b"HTTP/1.1 ");
    out.push_slice(&digits);
    out.push_slice(b" ");
    out.push_slice(reason(status).as_bytes());
    out.push_slice(b"\r\n");
}

fn reason(status: u16) -> &'static str {
    http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()).unwrap_or("Unknown")
}
