//! Shared data and shared queues of a `vm_id`.
//!
//! Queues can be written and read; `proxy_on_queue_ready` isn't delivered, so a consumer reads them from its tick.

use bytes::Bytes;

use super::{Answer, Cx, HostcallTable, hostcalls, piece};
use crate::shared::{CasMismatch, QueueError};
use crate::status::Status;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_get_shared_data" (key: u32, key_len: u32, ptr_out: u32, len_out: u32, cas_out: u32) = get;
        "proxy_set_shared_data" (key: u32, key_len: u32, value: u32, value_len: u32, cas: u32) = set;
        "proxy_register_shared_queue" (name: u32, name_len: u32, id_out: u32) = register_queue;
        "proxy_resolve_shared_queue" (vm_id: u32, vm_id_len: u32, name: u32, name_len: u32, id_out: u32) = resolve_queue;
        "proxy_dequeue_shared_queue" (id: u32, ptr_out: u32, len_out: u32) = dequeue;
        "proxy_enqueue_shared_queue" (id: u32, value: u32, value_len: u32) = enqueue;
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
    host.shared.set(key, Bytes::copy_from_slice(value), cas).map_err(|CasMismatch| Status::CasMismatch.into())
}

impl From<QueueError> for Status {
    fn from(error: QueueError) -> Status {
        match error {
            QueueError::NotFound => Status::NotFound,
            QueueError::Empty => Status::Empty,
            QueueError::Full => Status::InternalFailure,
        }
    }
}

fn register_queue(cx: &mut Cx<'_>, name: u32, name_len: u32, id_out: u32) -> Answer {
    let id = cx.host().shared.register_queue(cx.bytes(name, name_len)?).ok_or(Status::InternalFailure)?;
    cx.write_u32(id_out, id)
}

fn resolve_queue(cx: &mut Cx<'_>, vm_id: u32, vm_id_len: u32, name: u32, name_len: u32, id_out: u32) -> Answer {
    let (memory, host) = cx.split();
    let (vm_id, name) = (piece(memory, vm_id, vm_id_len)?, piece(memory, name, name_len)?);
    // Ids count within a `vm_id`, so another one's queue has no number here.
    if vm_id != host.plugin.vm_id.as_bytes() {
        return Err(Status::NotFound.into());
    }
    let id = host.shared.resolve_queue(name).ok_or(Status::NotFound)?;
    cx.write_u32(id_out, id)
}

fn dequeue(cx: &mut Cx<'_>, id: u32, ptr_out: u32, len_out: u32) -> Answer {
    if !cx.host().is_serving() {
        return Err(Status::Empty.into());
    }
    let message = cx.host().shared.dequeue(id).map_err(Status::from)?;
    cx.give(&message, ptr_out, len_out)
}

fn enqueue(cx: &mut Cx<'_>, id: u32, value: u32, value_len: u32) -> Answer {
    let message = cx.bytes(value, value_len)?;
    let host = cx.host();
    if !host.is_serving() {
        return Ok(());
    }
    Ok(host.shared.enqueue(id, Bytes::copy_from_slice(message)).map_err(Status::from)?)
}
