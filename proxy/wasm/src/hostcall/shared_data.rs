//! Shared data of a `vm_id`.

use bytes::Bytes;

use super::{Answer, Cx, HostcallTable, hostcalls};
use crate::shared::CasMismatch;
use crate::status::Status;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_get_shared_data" (key: u32, key_len: u32, ptr_out: u32, len_out: u32, cas_out: u32) = get;
        "proxy_set_shared_data" (key: u32, key_len: u32, value: u32, value_len: u32, cas: u32) = set;
    }
    Ok(())
}

fn get(cx: &mut Cx<'_>, key: u32, key_len: u32, ptr_out: u32, len_out: u32, cas_out: u32) -> Answer {
    let key = cx.bytes(key, key_len)?;
    let (value, cas) = cx.host().shared.get(key).ok_or(Status::NotFound)?;
    cx.give(&value, ptr_out, len_out)?;
    cx.write_u32(cas_out, cas)
}

fn set(cx: &mut Cx<'_>, key: u32, key_len: u32, value: u32, value_len: u32, cas: u32) -> Answer {
    let key = cx.bytes(key, key_len)?;
    let value = cx.bytes(value, value_len)?;
    let host = cx.host();
    if !host.is_serving() {
        return Ok(());
    }
    let bytes_max = host.plugin.vm.limits.shared_data_bytes;
    host.shared
        .set(key, Bytes::copy_from_slice(value), cas, bytes_max)
        .map_err(|CasMismatch| Status::CasMismatch.into())
}
