//! Requests that guests send to clusters.

use std::time::Duration;

use bytes::Bytes;
use outrigger_http::{RequestHead, Version};

use super::{Answer, Cx, HostcallTable, Stop, hostcalls, piece};
use crate::action::{Effect, HttpCall};
use crate::host::{CallKind, Host};
use crate::interner::Interner;
use crate::maps::{MapMut, plain_fields};
use crate::pairs;
use crate::status::Status;

const CLUSTER_BYTES_MAX: usize = 1024;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_http_call" (
            cluster: u32, cluster_len: u32, headers: u32, headers_len: u32, body: u32, body_len: u32, trailers: u32,
            trailers_len: u32, timeout_ms: i32, token_out: u32
        ) = http_call;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
fn http_call(
    cx: &mut Cx<'_>,
    cluster: u32,
    cluster_len: u32,
    headers: u32,
    headers_len: u32,
    body: u32,
    body_len: u32,
    trailers: u32,
    trailers_len: u32,
    timeout_ms: i32,
    token_out: u32,
) -> Answer {
    cx.bytes(token_out, 4)?;
    let (memory, host) = cx.split();
    let cluster = cluster_name(host, piece(memory, cluster, cluster_len)?)?;
    let head = request_head(host, piece(memory, headers, headers_len)?)?;
    let body = piece(memory, body, body_len)?;
    if body.len() > host.plugin.vm.limits.body_buffer_bytes {
        return Err(Status::BadArgument.into());
    }
    let trailers = pairs::decode(piece(memory, trailers, trailers_len)?).ok_or(Status::BadArgument)?;
    let trailers = plain_fields(&trailers)?;
    let timeout_ms = u64::try_from(timeout_ms).map_err(|_| Status::BadArgument)?;
    let timeout = (timeout_ms > 0).then(|| Duration::from_millis(timeout_ms));

    if host.calls.len() >= host.plugin.vm.limits.calls_in_flight
        || !host.reserve_effect_bytes(body.len() + headers_len as usize + trailers_len as usize)
    {
        return Err(Status::InternalFailure.into());
    }
    let token = host.new_token().ok_or(Status::InternalFailure)?;
    if host.is_serving() {
        let root = host.root_id();
        host.calls.insert(token, (root, CallKind::Http));
        let call = HttpCall { token, root, cluster, head, body: Bytes::copy_from_slice(body), trailers, timeout };
        host.push(Effect::HttpCall(Box::new(call)));
    }
    cx.write_u32(token_out, token)
}

/// On a prepare thread no cluster is known: a call from `on_configure` to one that isn't there fails later.
fn cluster_name(host: &Host, name: &[u8]) -> Result<String, Stop> {
    let name = std::str::from_utf8(name).ok().filter(|name| !name.is_empty() && name.len() <= CLUSTER_BYTES_MAX);
    let name = name.ok_or(Status::BadArgument)?;
    if host.worker.as_ref().is_some_and(|worker| !worker.0.cluster_exists(name)) {
        return Err(Status::BadArgument.into());
    }
    Ok(name.to_owned())
}

/// `:method`, `:path` and `:authority` (or `host`) must be there; `:scheme` is http unless given.
fn request_head(host: &Host, encoded: &[u8]) -> Result<RequestHead, Stop> {
    let list = pairs::decode(encoded).ok_or(Status::BadArgument)?;
    let given = |name: &[u8]| list.iter().any(|(key, _)| key.eq_ignore_ascii_case(name));
    if !given(b":method") || !given(b":path") || !(given(b":authority") || given(b"host")) {
        return Err(Status::BadArgument.into());
    }
    let mut head = RequestHead { path: Bytes::new(), version: Version::Http11, ..RequestHead::default() };
    let (pseudo, _): (Vec<_>, Vec<_>) =
        list.iter().partition(|(key, _)| key.first() == Some(&b':') || key.eq_ignore_ascii_case(b"host"));
    MapMut::Request(&mut head).set_all(&pseudo, &host.plugin.vm.limits, &mut Interner::new())?;
    head.headers = plain_fields(&list)?;
    Ok(head)
}
