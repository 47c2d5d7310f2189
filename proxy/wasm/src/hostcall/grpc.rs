//! gRPC calls, which this host doesn't make yet: answers that the SDKs take as a failed call.

use super::{Answer, Cx, HostcallTable, hostcalls};
use crate::status::Status;

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
        "proxy_grpc_cancel" (token: u32) = end;
        "proxy_grpc_close" (token: u32) = end;
    }
    Ok(())
}

fn refuse(cx: &Cx<'_>, function: &str) -> Answer {
    let plugin = &cx.host().plugin.name;
    tracing::warn!(target: crate::guest_log::TARGET, plugin, "{function} is not supported: the call fails");
    Err(Status::InternalFailure.into())
}

#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
fn call(
    cx: &mut Cx<'_>,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
    _: u32,
) -> Answer {
    refuse(cx, "proxy_grpc_call")
}

#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
fn stream(cx: &mut Cx<'_>, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32, _: u32) -> Answer {
    refuse(cx, "proxy_grpc_stream")
}

/// No token is ever given, so none is known.
fn send(_: &mut Cx<'_>, _: u32, _: u32, _: u32, _: u32) -> Answer {
    Err(Status::NotFound.into())
}

fn end(_: &mut Cx<'_>, _: u32) -> Answer {
    Err(Status::NotFound.into())
}
