//! Shared queues.

use bytes::Bytes;

use super::{Answer, Cx, HostcallTable, hostcalls, piece};
use crate::metrics::PluginStats;
use crate::queues::{Enqueued, QueueError};
use crate::status::Status;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_register_shared_queue" (name: u32, name_len: u32, id_out: u32) = register;
        "proxy_resolve_shared_queue" (vm_id: u32, vm_id_len: u32, name: u32, name_len: u32, id_out: u32) = resolve;
        "proxy_dequeue_shared_queue" (id: u32, ptr_out: u32, len_out: u32) = dequeue;
        "proxy_enqueue_shared_queue" (id: u32, value: u32, value_len: u32) = enqueue;
    }
    Ok(())
}

impl From<QueueError> for Status {
    fn from(error: QueueError) -> Status {
        match error {
            QueueError::NotFound => Status::NotFound,
            QueueError::Empty => Status::Empty,
        }
    }
}

/// A canary's queue is its own number, that nobody else's message ever comes to.
fn register(cx: &mut Cx<'_>, name: u32, name_len: u32, id_out: u32) -> Answer {
    cx.bytes(id_out, 4)?;
    let (memory, host) = cx.split();
    let name = piece(memory, name, name_len)?;
    let id = if host.is_serving() {
        let tenant = host.tenant().ok_or(Status::InternalFailure)?;
        let (queues, limits) = (&host.services.queues, &host.plugin.vm.limits);
        let id = queues.register(&tenant, name, &host.queue_events, host.root_id(), limits);
        id.ok_or(Status::InternalFailure)?
    } else {
        u32::MAX
    };
    cx.write_u32(id_out, id)
}

fn resolve(cx: &mut Cx<'_>, vm_id: u32, vm_id_len: u32, name: u32, name_len: u32, id_out: u32) -> Answer {
    let (memory, host) = cx.split();
    let (vm_id, name) = (piece(memory, vm_id, vm_id_len)?, piece(memory, name, name_len)?);
    let vm_id = std::str::from_utf8(vm_id).map_err(|_| Status::NotFound)?;
    let id = host.services.queues.resolve(vm_id, name).ok_or(Status::NotFound)?;
    cx.write_u32(id_out, id)
}

fn dequeue(cx: &mut Cx<'_>, id: u32, ptr_out: u32, len_out: u32) -> Answer {
    // Looked at before the message is taken, so that a bad pointer loses none.
    cx.bytes(ptr_out, 4)?;
    cx.bytes(len_out, 4)?;
    if !cx.host().is_serving() {
        return Err(Status::Empty.into());
    }
    let message = cx.host().services.queues.dequeue(id).map_err(Status::from)?;
    cx.give(&message, ptr_out, len_out)
}

/// A full queue loses messages: the SDKs take no status that would say so, a metric does.
fn enqueue(cx: &mut Cx<'_>, id: u32, value: u32, value_len: u32) -> Answer {
    let message = cx.bytes(value, value_len)?;
    let host = cx.host();
    if !host.is_serving() {
        return Ok(());
    }
    let message = Bytes::copy_from_slice(message);
    if let Enqueued::Dropped(count) = host.services.queues.enqueue(id, message).map_err(Status::from)? {
        PluginStats::queue_messages_dropped(&host.services.registry, &host.plugin).add(count);
    }
    Ok(())
}
