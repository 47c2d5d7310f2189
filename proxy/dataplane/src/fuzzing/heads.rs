//! What of a request's head has a grammar of its own: paths, timeouts, trace contexts, client certificates.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{ClientCertDetails, EscapedSlashes, PathNormalization};
use outrigger_http::{CertificateInfo, HeaderName, Headers, StreamState, TlsInfo};

use crate::client_cert;
use crate::exchange::{grpc_text, grpc_timeout};
use crate::normalize::normalize_path;
use crate::trace::context::TraceContext;

/// Normalises a path; the first byte says how.
///
/// # Panics
///
/// If a path that was normalised isn't normal, or its query has changed.
#[must_use]
pub fn path(bytes: &[u8]) -> String {
    let Some((how, path)) = bytes.split_first() else { return String::new() };
    let escaped_slashes = match how & 3 {
        0 => EscapedSlashes::Keep,
        1 => EscapedSlashes::Reject,
        2 => EscapedSlashes::UnescapeAndRedirect,
        _ => EscapedSlashes::UnescapeAndForward,
    };
    let (normalize, merge_slashes) = (how & 4 != 0, how & 8 != 0);
    let options =
        PathNormalization { normalize_path: normalize, merge_slashes, escaped_slashes, ..PathNormalization::default() };
    let normalized = |path: &[u8]| {
        let mut state = StreamState::default();
        state.request.path = Bytes::from([b"/", path].concat());
        let outcome = normalize_path(&mut state, &options).map_err(|reply| reply.status);
        (state.request, outcome)
    };
    let (once, outcome) = normalized(path);
    if outcome == Err(400) {
        return format!("refused {}", how & 15);
    }
    let query = |path: &[u8]| path.iter().position(|byte| *byte == b'?').map(|at| path[at..].to_vec());
    assert_eq!(query(path), query(&once.path), "another query");
    assert!(once.path.starts_with(b"/"), "{once:?}");
    let (twice, again) = normalized(&once.path[1..]);
    assert_eq!((&once.path, again), (&twice.path, Ok(())), "not normal yet");
    let (mut segments, only) = (once.path_only().split(|byte| *byte == b'/'), once.path_only());
    if normalize {
        let climbs = segments.any(|segment| matches!(segment, b"." | b".." | b"%2e" | b"%2e%2e" | b"%2E%2E"));
        assert!(!climbs && !only.contains(&b'\\'), "{once:?}");
    }
    assert!(!merge_slashes || memchr::memmem::find(only, b"//").is_none(), "{once:?}");
    format!("{outcome:?} {} {}", how & 15, only == &path[..only.len().min(path.len())])
}

/// Reads the values of headers that ask for something: one a line, `grpc-timeout`, then those of traces.
///
/// # Panics
///
/// If what is read is written as something else.
#[must_use]
pub fn header_values(bytes: &[u8]) -> String {
    const NAMES: [HeaderName; 7] = [
        HeaderName::GRPC_TIMEOUT,
        HeaderName::TRACEPARENT,
        HeaderName::TRACESTATE,
        HeaderName::B3,
        HeaderName::X_B3_TRACEID,
        HeaderName::X_B3_SPANID,
        HeaderName::X_B3_SAMPLED,
    ];
    let mut headers = Headers::new();
    for (name, value) in NAMES.into_iter().zip(bytes.split(|byte| *byte == b'\n')) {
        if !value.is_empty() {
            _ = headers.try_append(name, Bytes::copy_from_slice(value));
        }
    }
    let timeout = grpc_timeout(&headers);
    if let Some(asked) = timeout {
        let mut told = Headers::new();
        told.append(HeaderName::GRPC_TIMEOUT, grpc_text(u64::try_from(asked.as_millis()).unwrap_or(u64::MAX)));
        let read = grpc_timeout(&told);
        // The larger the unit, the more can be lost by it.
        let most = [(6_000_000_000, 3600), (99_999_999, 60)].into_iter().find(|(above, _)| asked.as_secs() >= *above);
        let most = most.map_or(1, |(_, most)| most);
        let is_close = read.is_some_and(|read| read <= asked && asked - read <= Duration::from_secs(most));
        assert!(is_close, "{asked:?} is told as {told:?}");
    }
    format!("{} {}", timeout.map_or(0, |timeout| timeout.as_millis().max(1).ilog10()), trace_context(&headers))
}

/// The next one is told of the same trace, with our span as its parent.
fn trace_context(headers: &Headers) -> String {
    const SPAN: [u8; 8] = [9; 8];
    let Some(context) = TraceContext::extract(headers) else { return "none".to_owned() };
    let mut told = Headers::new();
    context.inject(&SPAN, &mut told);
    let expected = TraceContext { parent: Some(SPAN), ..context.clone() };
    assert_eq!(TraceContext::extract(&told), Some(expected), "told as {told:?}");
    format!("{:?} {} {}", context.form, context.sampled, context.state.len().min(2))
}

/// Writes a client's certificate for an origin: one name a line, the subject first; the first byte says what.
///
/// # Panics
///
/// If somebody who reads it finds other names than there are.
#[must_use]
pub fn client_certificate(bytes: &[u8]) -> String {
    let Some((how, text)) = bytes.split_first() else { return String::new() };
    let text = String::from_utf8_lossy(text);
    let mut lines = text.split('\n').map(str::to_owned);
    let subject = lines.next().unwrap_or_default();
    let (uris, names): (Vec<String>, Vec<String>) = lines.partition(|line| line.contains(':'));
    let details =
        ClientCertDetails { subject: how & 1 != 0, uri: how & 2 != 0, dns: how & 4 != 0, ..Default::default() };
    let mut expected: Vec<(String, String)> = vec![("Hash".into(), "00ff".into())];
    if details.subject {
        expected.push(("Subject".into(), subject.clone()));
    }
    if details.uri {
        let none = [String::new()];
        let all = if uris.is_empty() { &none[..] } else { &uris };
        expected.extend(all.iter().map(|uri| ("URI".into(), uri.clone())));
    }
    if details.dns {
        expected.extend(names.iter().map(|name| ("DNS".into(), name.clone())));
    }
    let peer =
        CertificateInfo { subject, uri_sans: uris, dns_sans: names, sha256: "00ff".into(), ..Default::default() };
    let tls = TlsInfo { peer: Some(Arc::new(peer)), ..TlsInfo::default() };
    let element = client_cert::element(&tls, details);
    assert_eq!(parts(&element).as_ref(), Some(&expected), "{element}");
    let kinds = expected.iter().fold(String::new(), |mut kinds, (name, value)| {
        _ = write!(kinds, "{name}{}", u8::from(value.contains(['"', '\\', ',', ';', '='])));
        kinds
    });
    kinds.chars().take(64).collect()
}

/// How a reader takes an element apart: quotes protect what stands in them; a comma outside of them begins another element.
fn parts(element: &str) -> Option<Vec<(String, String)>> {
    let mut parts = Vec::new();
    let mut rest = element;
    loop {
        let (name, after) = rest.split_once('=')?;
        let mut value = String::new();
        let mut chars = after.char_indices();
        let mut quoted = false;
        let end = loop {
            match chars.next() {
                None if quoted => return None,
                None => break after.len(),
                Some((_, '\\')) if quoted => value.push(chars.next()?.1),
                Some((_, '"')) => quoted = !quoted,
                Some((at, ';')) if !quoted => break at,
                Some((_, ',')) if !quoted => return None,
                Some((_, c)) => value.push(c),
            }
        };
        parts.push((name.to_owned(), value));
        match after.get(end + 1..) {
            Some(next) => rest = next,
            None => return Some(parts),
        }
    }
}
