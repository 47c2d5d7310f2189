//! What is done to a request's head before anything looks at it: paths, forwarded headers, request ids, and the removal
//! of what only the proxy may say.

use std::net::IpAddr;

use bytes::{Bytes, BytesMut};
use outrigger_config::{EscapedSlashes, HttpConnectionManager, PathNormalization};
use outrigger_http::{HeaderName, Headers, Method, StreamState};

use crate::error::LocalReply;
use crate::worker::WorkerCx;

/// Headers by which a client could steer the proxy or pretend to be one.
const ENVOY_PREFIX: &[u8] = b"x-envoy-";

/// Those of them that only internal clients may send, wherever the proxy stands (Envoy's `mutateRequestHeaders`).
const INTERNAL_ONLY: &[&[u8]] = &[
    b"x-envoy-internal",
    b"x-envoy-retriable-status-codes",
    b"x-envoy-retriable-header-names",
    b"x-envoy-retry-on",
    b"x-envoy-retry-grpc-on",
    b"x-envoy-max-retries",
    b"x-envoy-upstream-alt-stat-name",
    b"x-envoy-upstream-rq-timeout-ms",
    b"x-envoy-upstream-rq-per-try-timeout-ms",
    b"x-envoy-upstream-rq-timeout-alt-response",
    b"x-envoy-expected-rq-timeout-ms",
    b"x-envoy-force-trace",
    b"x-envoy-ip-tags",
    b"x-envoy-original-url",
    b"x-envoy-hedge-on-per-try-timeout",
    b"x-envoy-decorator-operation",
];

/// Prepares the head; an answer where the request must not go on. True: the client is one of
/// `internal_address_config`, and may steer the proxy by its headers.
pub(crate) fn prepare(
    state: &mut StreamState,
    hcm: &HttpConnectionManager,
    cx: &WorkerCx,
) -> Result<bool, Box<LocalReply>> {
    if state.request.method != Method::Connect {
        normalize_path(state, &hcm.path)?;
    }
    strip_port(state, &hcm.path);
    crate::client_cert::forward(state, hcm);
    // What the connection is counts, not what a client calls it.
    let scheme = if state.info.downstream.tls.is_some() { "https" } else { "http" };
    let remote = state.info.downstream.remote.map(|address| address.ip());
    state.info.downstream_trusted_ip = trusted_ip(&state.request.headers, hcm);
    let head = &mut state.request;
    let internal = !hcm.internal_addresses.is_empty() && is_internal(&head.headers, remote, hcm);
    if !internal {
        remove_envoy_headers(&mut head.headers, hcm.use_remote_address);
    }
    if hcm.use_remote_address {
        if hcm.xff_num_trusted_hops == 0 || !head.headers.contains(&HeaderName::X_FORWARDED_PROTO) {
            head.headers.set(HeaderName::X_FORWARDED_PROTO, Bytes::from_static(scheme.as_bytes()));
        }
        if let Some(remote) = remote.filter(|_| !hcm.skip_xff_append) {
            append_forwarded_for(&mut head.headers, cx.address_text(remote));
        }
    } else if !head.headers.contains(&HeaderName::X_FORWARDED_PROTO) {
        head.headers.append(HeaderName::X_FORWARDED_PROTO, Bytes::from_static(scheme.as_bytes()));
    }
    let external = state.info.downstream_trusted_ip.or(remote).filter(|_| hcm.use_remote_address && !internal);
    if let Some(external) = external {
        head.headers.set(HeaderName::X_ENVOY_EXTERNAL_ADDRESS, cx.address_text(external));
    }
    if internal {
        head.headers.set(HeaderName::X_ENVOY_INTERNAL, Bytes::from_static(b"true"));
    }
    if hcm.generate_request_id {
        let keep = head.headers.contains(&HeaderName::X_REQUEST_ID)
            && (!hcm.use_remote_address || hcm.preserve_external_request_id);
        if !keep {
            head.headers.set(HeaderName::X_REQUEST_ID, cx.request_id());
        }
    }
    Ok(internal)
}

/// Prepares the head of a request that an origin has redirected: it was prepared once, and leads elsewhere now.
pub(crate) fn prepare_again(state: &mut StreamState, hcm: &HttpConnectionManager) -> Result<(), Box<LocalReply>> {
    normalize_path(state, &hcm.path)?;
    strip_port(state, &hcm.path);
    Ok(())
}

/// The client's address as the last proxy that is trusted tells it: of x-forwarded-for the last address, or the one that
/// so many trusted hops left before it.
fn trusted_ip(headers: &Headers, hcm: &HttpConnectionManager) -> Option<IpAddr> {
    let hops = match (hcm.use_remote_address, hcm.xff_num_trusted_hops as usize) {
        (true, 0) => return None,
        (true, hops) => hops - 1,
        (false, hops) => hops,
    };
    if !headers.contains(&HeaderName::X_FORWARDED_FOR) {
        return None;
    }
    let values: Vec<&[u8]> = headers
        .get_all(&HeaderName::X_FORWARDED_FOR)
        .flat_map(|value| value.split(|byte| *byte == b','))
        .map(<[u8]>::trim_ascii)
        .collect();
    let value = values.len().checked_sub(hops + 1).and_then(|at| values.get(at))?;
    std::str::from_utf8(value).ok()?.parse().ok()
}

/// A client of `internal_address_config`: the peer itself at the edge, else the only address of x-forwarded-for.
fn is_internal(headers: &Headers, remote: Option<IpAddr>, hcm: &HttpConnectionManager) -> bool {
    let within = |address: IpAddr| hcm.internal_addresses.iter().any(|cidr| cidr.contains(address));
    let mut forwarded = headers.get_all(&HeaderName::X_FORWARDED_FOR);
    match (forwarded.next(), forwarded.next()) {
        (None, _) => hcm.use_remote_address && remote.is_some_and(within),
        (Some(value), None) if !hcm.use_remote_address => {
            std::str::from_utf8(value).ok().and_then(|text| text.trim().parse().ok()).is_some_and(within)
        }
        // Somebody forwarded it, or several did: who asks isn't inside.
        _ => false,
    }
}

/// Envoy joins by a comma without a space.
fn append_forwarded_for(headers: &mut Headers, remote: Bytes) {
    if !headers.contains(&HeaderName::X_FORWARDED_FOR) {
        headers.set(HeaderName::X_FORWARDED_FOR, remote);
        return;
    }
    let mut joined = BytesMut::new();
    for value in headers.get_all(&HeaderName::X_FORWARDED_FOR) {
        if !joined.is_empty() {
            joined.extend_from_slice(b",");
        }
        joined.extend_from_slice(value);
    }
    if !joined.is_empty() {
        joined.extend_from_slice(b",");
    }
    joined.extend_from_slice(&remote);
    headers.set(HeaderName::X_FORWARDED_FOR, joined.freeze());
}

/// `all`: at the edge nothing of a stranger's `x-envoy-*` headers is kept.
fn remove_envoy_headers(headers: &mut Headers, all: bool) {
    let removed = |name: &HeaderName| {
        let name = name.as_bytes();
        name.starts_with(ENVOY_PREFIX) && (all || INTERNAL_ONLY.contains(&name))
    };
    if headers.iter().any(|(name, _)| removed(name)) {
        headers.retain(|name, _| !removed(name));
    }
}

fn strip_port(state: &mut StreamState, options: &PathNormalization) {
    if !options.strip_any_host_port && !options.strip_matching_host_port {
        return;
    }
    let authority = &state.request.authority;
    let Some(at) = authority.iter().rposition(|byte| *byte == b':') else { return };
    let digits = &authority[at + 1..];
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return;
    }
    let local = state.info.downstream.local.map(|address| address.port().to_string());
    if options.strip_any_host_port || local.is_some_and(|port| port.as_bytes() == digits) {
        state.request.authority = authority.slice(..at);
    }
}

fn bad_path() -> Box<LocalReply> {
    Box::new(LocalReply::new(400, "path_normalization_failed", ""))
}

pub(crate) fn normalize_path(state: &mut StreamState, options: &PathNormalization) -> Result<(), Box<LocalReply>> {
    let path = state.request.path_only();
    if is_plain(path) || *path == *b"*" {
        return Ok(());
    }
    let query = state.request.path.slice(path.len()..);
    let (unescaped, escaped) = unescape_slashes(path, options.escaped_slashes);
    let mut new = unescaped;
    let rejected = escaped && options.escaped_slashes == EscapedSlashes::Reject;
    if options.normalize_path && !rejected {
        new = remove_dots(&decode_unreserved(&new)?)?;
    }
    if options.merge_slashes && !rejected {
        new = merge(&new);
    }
    let redirect = escaped && options.escaped_slashes == EscapedSlashes::UnescapeAndRedirect;
    if new != path || redirect {
        let mut whole = BytesMut::from(&new[..]);
        whole.extend_from_slice(&query);
        // What is refused is logged as it was understood.
        state.request.path = whole.freeze();
    }
    if rejected {
        return Err(bad_path());
    }
    if redirect {
        let mut reply = LocalReply::new(307, "path_normalized_redirect", "");
        _ = reply.headers.try_append(HeaderName::LOCATION, state.request.path.clone());
        return Err(Box::new(reply));
    }
    Ok(())
}

/// Whether there is nothing to normalise, as in nearly every path: no escapes, and no dots or doubled slashes that count.
fn is_plain(path: &[u8]) -> bool {
    let mut before = 0;
    path.iter().all(|byte| {
        let plain = match byte {
            b'%' | b'\\' => false,
            b'/' | b'.' => before != b'/',
            _ => true,
        };
        before = *byte;
        plain
    })
}

/// `%2F` and `%5C` in either case.
fn unescape_slashes(path: &[u8], action: EscapedSlashes) -> (Vec<u8>, bool) {
    if action == EscapedSlashes::Keep {
        return (path.to_vec(), false);
    }
    let mut out = Vec::with_capacity(path.len());
    let (mut at, mut found) = (0, false);
    while at < path.len() {
        match path.get(at..at + 3) {
            Some([b'%', b'2', b'f' | b'F']) => {
                out.push(b'/');
                (at, found) = (at + 3, true);
            }
            Some([b'%', b'5', b'c' | b'C']) => {
                out.push(b'\\');
                (at, found) = (at + 3, true);
            }
            _ => {
                out.push(path[at]);
                at += 1;
            }
        }
    }
    (out, found)
}

/// Decodes escapes of unreserved bytes (RFC 3986 §6.2.2.2); an escape that is none is refused.
fn decode_unreserved(path: &[u8]) -> Result<Vec<u8>, Box<LocalReply>> {
    let mut out = Vec::with_capacity(path.len());
    let mut at = 0;
    while at < path.len() {
        if path[at] != b'%' {
            // A backslash is a slash to many an origin (the WHATWG URL standard says so too).
            out.push(if path[at] == b'\\' { b'/' } else { path[at] });
            at += 1;
            continue;
        }
        let digits =
            path.get(at + 1..at + 3).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit)).ok_or_else(bad_path)?;
        let text = std::str::from_utf8(digits).map_err(|_| bad_path())?;
        let byte = u8::from_str_radix(text, 16).map_err(|_| bad_path())?;
        if byte == 0 {
            return Err(bad_path());
        }
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(byte);
        } else {
            out.extend_from_slice(&path[at..at + 3]);
        }
        at += 3;
    }
    Ok(out)
}

/// Removes `.` and `..` segments (RFC 3986 §5.2.4); a path that climbs above the root is refused.
fn remove_dots(path: &[u8]) -> Result<Vec<u8>, Box<LocalReply>> {
    let mut segments: Vec<&[u8]> = Vec::new();
    let mut parts = path.split(|byte| *byte == b'/').skip(1).peekable();
    while let Some(part) = parts.next() {
        let last = parts.peek().is_none();
        match part {
            b"." if last => segments.push(b""),
            b"." => {}
            b".." => {
                segments.pop().ok_or_else(bad_path)?;
                if last {
                    segments.push(b"");
                }
            }
            _ => segments.push(part),
        }
    }
    let mut out = Vec::with_capacity(path.len());
    for segment in &segments {
        out.push(b'/');
        out.extend_from_slice(segment);
    }
    if out.is_empty() {
        out.push(b'/');
    }
    Ok(out)
}

fn merge(path: &[u8]) -> Vec<u8> {
    let mut out: Vec<u8> = Vec::with_capacity(path.len());
    for byte in path {
        if *byte != b'/' || out.last() != Some(&b'/') {
            out.push(*byte);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    fn normalized(path: &str, options: PathNormalization) -> Result<String, u16> {
        let mut state = StreamState::default();
        state.request.path = Bytes::copy_from_slice(path.as_bytes());
        match normalize_path(&mut state, &options) {
            Ok(()) => Ok(String::from_utf8_lossy(&state.request.path).into_owned()),
            Err(reply) => Err(reply.status),
        }
    }

    #[test]
    fn paths() {
        let on = PathNormalization { normalize_path: true, merge_slashes: true, ..PathNormalization::default() };
        let check =
            |path, expected: Result<&str, u16>| assert_eq!(normalized(path, on), expected.map(str::to_owned), "{path}");
        check("/a/b?c=//..", Ok("/a/b?c=//.."));
        check("/a/./b/../c", Ok("/a/c"));
        check("/a/b/..", Ok("/a/"));
        check("/a/b/.", Ok("/a/b/"));
        check("/..", Err(400));
        check("/a/../../b", Err(400));
        check("/a//b///c", Ok("/a/b/c"));
        check("/%61/%2e%2e/b", Ok("/b"));
        check("/a%2fb", Ok("/a%2fb"));
        check("/a%zz", Err(400));
        check("/a%00", Err(400));
        check("/a\\..\\b", Ok("/b"));
        let off = PathNormalization::default();
        assert_eq!(normalized("/a/../b//c%2f", off), Ok("/a/../b//c%2f".to_owned()));
    }

    #[test]
    fn escaped_slashes() {
        let check = |action, expected: Result<&str, u16>| {
            let options = PathNormalization { escaped_slashes: action, ..PathNormalization::default() };
            assert_eq!(normalized("/a%2Fb%5cc?d", options), expected.map(str::to_owned), "{action:?}");
        };
        check(EscapedSlashes::Keep, Ok("/a%2Fb%5cc?d"));
        check(EscapedSlashes::Reject, Err(400));
        check(EscapedSlashes::UnescapeAndForward, Ok("/a/b\\c?d"));
        check(EscapedSlashes::UnescapeAndRedirect, Err(307));
    }
}
