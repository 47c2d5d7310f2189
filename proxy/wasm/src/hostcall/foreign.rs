//! Foreign functions: what a host offers beyond the ABI, by name.

use bytes::Bytes;

use super::{Answer, Cx, HostcallTable, hostcalls};
use crate::status::Status;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_call_foreign_function" (
            name: u32, name_len: u32, arguments: u32, arguments_len: u32, ptr_out: u32, len_out: u32
        ) = call;
    }
    Ok(())
}

/// A function that is offered.
enum Function {
    /// Envoy's.
    ClearRouteCache,
    /// Ours: the ABI has no other way to remove an entry than an empty value, which other hosts keep.
    SharedDataDelete,
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
    let function = match cx.bytes(name, name_len)? {
        b"clear_route_cache" => Function::ClearRouteCache,
        b"shared_data_delete" => Function::SharedDataDelete,
        _ => return Err(Status::NotFound.into()),
    };
    let arguments = cx.bytes(arguments, arguments_len)?;
    match function {
        Function::ClearRouteCache => super::stream::clear_route_cache(cx)?,
        Function::SharedDataDelete => {
            if cx.host().is_serving() {
                // Unconditional, so there is nothing to mismatch.
                _ = cx.host().shared.set(arguments, Bytes::new(), 0);
            }
        }
    }
    // Guests that want no result name no place for it.
    if ptr_out == 0 || len_out == 0 { Ok(()) } else { cx.give(&[], ptr_out, len_out) }
}
