//! gRPC calls and streams that guests open to clusters.

use std::time::Duration;

use bytes::Bytes;
use outrigger_http::Headers;

use super::{Answer, Cx, HostcallTable, Stop, hostcalls, piece};
use crate::action::{Effect, GrpcOpen};
use crate::host::{CallKind, Host};
use crate::maps::plain_fields;
use crate::pairs;
use crate::status::Status;
use outrigger_attributes::wire::Fields;

const NAME_BYTES_MAX: usize = 1024;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_grpc_call" (
            upstream: u32, upstream_len: u32, service: u32, service_len: u32, method: u32, method_len: u32, metadata: u32,
            metadata_len: u32, message: u32, message_len: u32, timeout_ms: u32, token_out: u32
        ) = call;
        "proxy_grpc_stream" (
            upstream: u32, upstream_len: u32, service: u32, service_len: u32, method: u32, method_len: u32, metadata: u32,
            metadata_len: u32, token_out: u32
        ) = stream;
        "proxy_grpc_send" (token: u32, message: u32, message_len: u32, end: u32) = send;
        "proxy_grpc_cancel" (token: u32) = cancel;
        "proxy_grpc_close" (token: u32) = close;
    }
    Ok(())
}

/// Pieces of guest memory: pointer and length.
type Piece = (u32, u32);

/// What a call and a stream are opened with.
struct Opening {
    upstream: Piece,
    service: Piece,
    method: Piece,
    metadata: Piece,
    message: Option<Piece>,
    timeout_ms: u32,
}

#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
fn call(
    cx: &mut Cx<'_>,
    upstream: u32,
    upstream_len: u32,
    service: u32,
    service_len: u32,
    method: u32,
    method_len: u32,
    metadata: u32,
    metadata_len: u32,
    message: u32,
    message_len: u32,
    timeout_ms: u32,
    token_out: u32,
) -> Answer {
    let opening = Opening {
        upstream: (upstream, upstream_len),
        service: (service, service_len),
        method: (method, method_len),
        metadata: (metadata, metadata_len),
        message: Some((message, message_len)),
        timeout_ms,
    };
    open(cx, &opening, token_out)
}

#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
fn stream(
    cx: &mut Cx<'_>,
    upstream: u32,
    upstream_len: u32,
    service: u32,
    service_len: u32,
    method: u32,
    method_len: u32,
    metadata: u32,
    metadata_len: u32,
    token_out: u32,
) -> Answer {
    let opening = Opening {
        upstream: (upstream, upstream_len),
        service: (service, service_len),
        method: (method, method_len),
        metadata: (metadata, metadata_len),
        message: None,
        timeout_ms: 0,
    };
    open(cx, &opening, token_out)
}

fn open(cx: &mut Cx<'_>, opening: &Opening, token_out: u32) -> Answer {
    cx.bytes(token_out, 4)?;
    let (memory, host) = cx.split();
    let read = |(ptr, len): Piece| piece(memory, ptr, len);
    let upstream = upstream(host, read(opening.upstream)?)?;
    let service = path_part(read(opening.service)?, b"/")?;
    let method = path_part(read(opening.method)?, b"/")?;
    let given = pairs::decode(read(opening.metadata)?).ok_or(Status::ParseFailure)?;
    let mut metadata = upstream.metadata;
    for (name, value) in &plain_fields(&given).map_err(|_| Status::ParseFailure)? {
        metadata.append(name.clone(), value.clone());
    }
    let message = opening.message.map(read).transpose()?.map(Bytes::copy_from_slice);
    let message_len = message.as_ref().map_or(0, Bytes::len);
    if message_len > host.plugin.vm.limits.body_buffer_bytes
        || host.calls.len() >= host.plugin.vm.limits.calls_in_flight
        || !host.reserve_effect_bytes(message_len + metadata.byte_size())
    {
        return Err(Status::InternalFailure.into());
    }
    let token = host.new_token().ok_or(Status::InternalFailure)?;
    if host.is_serving() {
        let root = host.root_id();
        let kind = if message.is_some() { CallKind::GrpcCall } else { CallKind::GrpcStream };
        host.calls.insert(token, (root, kind));
        let timeout_ms = u64::from(opening.timeout_ms);
        host.push(Effect::GrpcOpen(Box::new(GrpcOpen {
            token,
            root,
            cluster: upstream.cluster,
            authority: upstream.authority,
            service,
            method,
            metadata,
            message,
            timeout: (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms)).or(upstream.timeout),
        })));
    }
    cx.write_u32(token_out, token)
}

/// A name that becomes part of the path: visible characters only.
fn path_part(name: &[u8], excluded: &[u8]) -> Result<String, Stop> {
    let fits = |byte: &u8| byte.is_ascii_graphic() && !excluded.contains(byte) && !matches!(byte, b'?' | b'#');
    if name.is_empty() || name.len() > NAME_BYTES_MAX || !name.iter().all(fits) {
        return Err(Status::ParseFailure.into());
    }
    Ok(String::from_utf8_lossy(name).into_owned())
}

/// Where a call goes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Upstream {
    cluster: String,
    authority: String,
    metadata: Headers,
    timeout: Option<Duration>,
}

/// A serialized `envoy.config.core.v3.GrpcService`, or a cluster's name. No name begins with a control character, and
/// every such message does.
fn upstream(host: &Host, bytes: &[u8]) -> Result<Upstream, Stop> {
    let is_message = bytes.first().is_some_and(|byte| *byte < b' ');
    let upstream = if is_message { grpc_service(bytes) } else { named(bytes) }.ok_or(Status::ParseFailure)?;
    // On a prepare thread no cluster is known: a call to one that isn't there fails later.
    if host.worker.as_ref().is_some_and(|worker| !worker.0.cluster_exists(&upstream.cluster)) {
        return Err(Status::ParseFailure.into());
    }
    Ok(upstream)
}

fn named(name: &[u8]) -> Option<Upstream> {
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.len() <= NAME_BYTES_MAX)?;
    Some(Upstream { cluster: name.to_owned(), authority: authority(name), ..Upstream::default() })
}

/// Envoy's own client only: `google_grpc` has a library of its own for that, which nobody else has.
fn grpc_service(bytes: &[u8]) -> Option<Upstream> {
    let mut upstream = Upstream::default();
    for field in Fields::new(bytes) {
        match field.ok()? {
            (1, value) => {
                for field in Fields::new(value.bytes()?) {
                    match field.ok()? {
                        (1, value) => value.text()?.clone_into(&mut upstream.cluster),
                        (2, value) => value.text()?.clone_into(&mut upstream.authority),
                        _ => {}
                    }
                }
            }
            (3, value) => upstream.timeout = Some(duration(value.bytes()?)?).filter(|timeout| !timeout.is_zero()),
            (5, value) => {
                let (mut name, mut text) = (&b""[..], &b""[..]);
                for field in Fields::new(value.bytes()?) {
                    match field.ok()? {
                        (1, value) => name = value.bytes()?,
                        (2 | 3, value) => text = value.bytes()?,
                        _ => {}
                    }
                }
                for (name, value) in &plain_fields(&[(name, text)]).ok()? {
                    upstream.metadata.append(name.clone(), value.clone());
                }
            }
            _ => {}
        }
    }
    if upstream.cluster.is_empty() || upstream.cluster.len() > NAME_BYTES_MAX {
        return None;
    }
    let wanted = if upstream.authority.is_empty() { &upstream.cluster } else { &upstream.authority };
    upstream.authority = authority(wanted);
    Some(upstream)
}

/// `google.protobuf.Duration`; `None` for a negative one.
fn duration(bytes: &[u8]) -> Option<Duration> {
    let mut duration = Duration::ZERO;
    for field in Fields::new(bytes) {
        match field.ok()? {
            (1, value) => duration += Duration::from_secs(value.number().filter(|seconds| *seconds < 1 << 40)?),
            (2, value) => duration += Duration::from_nanos(value.number().filter(|nanos| *nanos < 1_000_000_000)?),
            _ => {}
        }
    }
    Some(duration)
}

/// A cluster may be called what no host is called: what doesn't fit becomes `-`.
fn authority(name: &str) -> String {
    let fits = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':' | '[' | ']');
    name.chars().take(255).map(|c| if fits(c) { c } else { '-' }).collect()
}

fn kind(host: &Host, token: u32) -> Result<CallKind, Stop> {
    let (_, kind) = host.calls.get(&token).ok_or(Status::NotFound)?;
    if *kind == CallKind::Http { Err(Status::NotFound.into()) } else { Ok(*kind) }
}

fn send(cx: &mut Cx<'_>, token: u32, message: u32, message_len: u32, end: u32) -> Answer {
    let (memory, host) = cx.split();
    let message = piece(memory, message, message_len)?;
    if kind(host, token)? == CallKind::GrpcCall
        || message.len() > host.plugin.vm.limits.body_buffer_bytes
        || !host.reserve_effect_bytes(message.len())
    {
        return Err(Status::BadArgument.into());
    }
    host.push(Effect::GrpcSend { token, message: Some(Bytes::copy_from_slice(message)), end: end != 0 });
    Ok(())
}

/// No more callbacks.
fn cancel(cx: &mut Cx<'_>, token: u32) -> Answer {
    let host = cx.host_mut();
    kind(host, token)?;
    host.calls.remove(&token);
    host.push(Effect::GrpcCancel { token });
    Ok(())
}

/// A call ends as if it was cancelled; a stream is closed on this side, its answers still come.
fn close(cx: &mut Cx<'_>, token: u32) -> Answer {
    let host = cx.host_mut();
    if kind(host, token)? == CallKind::GrpcCall {
        return cancel(cx, token);
    }
    host.push(Effect::GrpcSend { token, message: None, end: true });
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_are_read() {
        let message = b"\x0a\x0b\x0a\x05auth1\x12\x02a!\x1a\x04\x08\x02\x10\x05\x2a\x08\x0a\x02x-\x12\x02v1";
        let found = grpc_service(message).expect("a service");
        assert_eq!((found.cluster.as_str(), found.authority.as_str()), ("auth1", "a-"));
        assert_eq!(found.timeout, Some(Duration::new(2, 5)));
        assert_eq!(found.metadata.len(), 1);
        for bad in
            [&b"\x0a\x00"[..], b"\x12\x02\x0a\x00", b"\x0a\x09\x0a\x05auth1", b"\x0a\x03\x0a\x01a\x1a\x02\x08\x80"]
        {
            assert_eq!(grpc_service(bad), None, "{bad:?}");
        }
        assert_eq!(named(b"shop/auth").expect("a name").authority, "shop-auth");
        assert_eq!(named(b""), None);
    }
}
