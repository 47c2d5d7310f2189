//! Foreign functions: what a host offers beyond the ABI, by name. Envoy's, and our own `shared_data_delete` and
//! `skip_stream_callbacks`.

mod compression;
mod expression;
mod signature;
mod state;

use bytes::Bytes;

pub(crate) use expression::Expressions;

use super::{Answer, Cx, HostcallTable, Stop, hostcalls};
use crate::host::skip;
use crate::status::Status;

/// Arguments that are looked at, as far as they are copied or worked through: what is larger is refused.
const ARGUMENT_BYTES_MAX: u32 = 4 << 20;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_call_foreign_function" (
            name: u32, name_len: u32, arguments: u32, arguments_len: u32, ptr_out: u32, len_out: u32
        ) = call;
    }
    Ok(())
}

/// What a function works with, and what it gives back.
type Function = fn(&mut Cx<'_>, Arguments) -> Result<Vec<u8>, Stop>;

/// A function's arguments, still in the guest's memory.
#[derive(Debug, Clone, Copy)]
struct Arguments {
    ptr: u32,
    len: u32,
}

impl Arguments {
    fn of<'a>(self, cx: &'a Cx<'_>) -> Result<&'a [u8], Stop> {
        cx.bytes(self.ptr, self.len)
    }
}

fn function(name: &[u8]) -> Option<Function> {
    Some(match name {
        b"compress" => compression::compress,
        b"uncompress" => compression::uncompress,
        b"verify_signature" => signature::verify,
        b"sign" => signature::sign,
        b"set_envoy_filter_state" => state::set_envoy_filter_state,
        b"declare_property" => state::declare_property,
        b"clear_route_cache" => clear_route_cache,
        b"expr_create" => expression::create,
        b"expr_evaluate" => expression::evaluate,
        b"expr_delete" => expression::delete,
        b"shared_data_delete" => shared_data_delete,
        b"skip_stream_callbacks" => skip_stream_callbacks,
        _ => return None,
    })
}

fn call(
    cx: &mut Cx<'_>,
    name: u32,
    name_len: u32,
    arguments: u32,
    arguments_len: u32,
    ptr_out: u32,
    len_out: u32,
) -> Answer {
    let function = function(cx.bytes(name, name_len)?).ok_or(Status::NotFound)?;
    let arguments = Arguments { ptr: arguments, len: arguments_len };
    arguments.of(cx)?;
    if arguments_len > ARGUMENT_BYTES_MAX {
        return Err(Status::BadArgument.into());
    }
    let result = function(cx, arguments)?;
    // Guests that want no result name no place for it.
    if ptr_out == 0 || len_out == 0 { Ok(()) } else { cx.give(&result, ptr_out, len_out) }
}

fn clear_route_cache(cx: &mut Cx<'_>, _: Arguments) -> Result<Vec<u8>, Stop> {
    super::stream::clear_route_cache(cx)?;
    Ok(Vec::new())
}

/// Ours: the ABI has no other way to remove an entry than an empty value, which other hosts keep.
fn shared_data_delete(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let key = arguments.of(cx)?;
    if cx.host().is_serving() {
        // Unconditional, so there is nothing to mismatch.
        _ = cx.host().shared.set(key, Bytes::new(), 0, 0);
    }
    Ok(Vec::new())
}

/// Ours: names of callbacks, with commas between them, that this VM's guest has no need of for streams. SDKs export them all.
fn skip_stream_callbacks(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let mut skipped = 0;
    for name in arguments.of(cx)?.split(|byte| *byte == b',') {
        skipped |= skip::of_export(name).ok_or(Status::BadArgument)?;
    }
    cx.host_mut().skipped |= skipped;
    Ok(Vec::new())
}
