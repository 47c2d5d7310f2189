//! Bodies, configurations and the other byte buffers.

use bytes::Bytes;
use outrigger_http::{BodyBuffer, StreamState};

use super::{Answer, Cx, HostcallTable, Stop, hostcalls, piece};
use crate::action::{Direction, Effect};
use crate::host::{Host, Phase, open};
use crate::status::{Buffer, Status};

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_get_buffer_bytes" (buffer: u32, start: u32, max: u32, ptr_out: u32, len_out: u32) = get;
        "proxy_get_buffer_status" (buffer: u32, len_out: u32, flags_out: u32) = status;
        "proxy_set_buffer_bytes" (buffer: u32, start: u32, size: u32, ptr: u32, len: u32) = set;
        "proxy_get_configuration" (ptr_out: u32, len_out: u32) = get_configuration;
    }
    Ok(())
}

/// A buffer that a guest may look at now.
enum Readable {
    /// A body of the stream, of so many bytes.
    Body(Direction, usize),
    Bytes(Bytes),
    Empty,
}

const fn bit(direction: Direction) -> u16 {
    match direction {
        Direction::Request => open::REQUEST_BODY,
        Direction::Response => open::RESPONSE_BODY,
    }
}

fn body(state: &StreamState, direction: Direction) -> &BodyBuffer {
    match direction {
        Direction::Request => &state.request_body,
        Direction::Response => &state.response_body,
    }
}

fn readable(host: &Host, buffer: Buffer) -> Option<Readable> {
    Some(match buffer {
        Buffer::RequestBody => open_body(host, Direction::Request, false),
        Buffer::ResponseBody => open_body(host, Direction::Response, false),
        Buffer::DownstreamData => open_body(host, Direction::Request, true),
        Buffer::UpstreamData => open_body(host, Direction::Response, true),
        Buffer::GrpcMessage => match host.grpc_answer.as_ref().and_then(|answer| answer.message.clone()) {
            Some(message) => Readable::Bytes(message),
            None => Readable::Empty,
        },
        // Only a guest's own foreign functions would have arguments here, and hosts call none.
        Buffer::ForeignCallData => Readable::Empty,
        Buffer::CallBody => Readable::Bytes(host.call_answer.as_ref()?.body.clone()),
        Buffer::VmConfiguration if host.phase == Phase::VmStart => {
            Readable::Bytes(host.plugin.vm.configuration.clone())
        }
        Buffer::VmConfiguration => Readable::Empty,
        Buffer::PluginConfiguration if host.phase == Phase::Configure => {
            Readable::Bytes(host.plugin.configuration.clone())
        }
        Buffer::PluginConfiguration => return None,
    })
}

/// An absent body is an empty one.
fn open_body(host: &Host, direction: Direction, of_connection: bool) -> Readable {
    let Some((_, stream)) = host.stream() else { return Readable::Empty };
    if stream.is_connection() != of_connection || stream.open & bit(direction) == 0 {
        return Readable::Empty;
    }
    stream.state.try_borrow().map_or(Readable::Empty, |state| Readable::Body(direction, body(&state, direction).len()))
}

fn get(cx: &mut Cx<'_>, buffer: u32, start: u32, max: u32, ptr_out: u32, len_out: u32) -> Answer {
    let buffer = Buffer::from_number(buffer).ok_or(Status::NotFound)?;
    let (start, max) = (start as usize, max as usize);
    match readable(cx.host(), buffer).ok_or(Status::NotFound)? {
        Readable::Empty => cx.give(&[], ptr_out, len_out),
        Readable::Bytes(bytes) => {
            let start = start.min(bytes.len());
            cx.give(&bytes[start..start.saturating_add(max).min(bytes.len())], ptr_out, len_out)
        }
        Readable::Body(direction, len) => {
            let len = len.saturating_sub(start).min(max);
            cx.give_with(len, ptr_out, len_out, |piece, host| copy_body(host, direction, start, piece))
        }
    }
}

/// Copies from the chunks straight into guest memory.
fn copy_body(host: &Host, direction: Direction, start: usize, piece: &mut [u8]) {
    let Some((_, stream)) = host.stream() else { return };
    let Ok(state) = stream.state.try_borrow() else { return };
    let mut at = 0;
    body(&state, direction).for_each_slice(start, piece.len(), |slice| {
        if let Some(target) = piece.get_mut(at..at + slice.len()) {
            target.copy_from_slice(slice);
        }
        at += slice.len();
    });
}

fn status(cx: &mut Cx<'_>, buffer: u32, len_out: u32, flags_out: u32) -> Answer {
    let buffer = Buffer::from_number(buffer).ok_or(Status::NotFound)?;
    let len = match readable(cx.host(), buffer).ok_or(Status::NotFound)? {
        Readable::Empty => 0,
        Readable::Bytes(bytes) => bytes.len(),
        Readable::Body(_, len) => len,
    };
    cx.write_u32(len_out, u32::try_from(len).unwrap_or(u32::MAX))?;
    cx.write_u32(flags_out, 0)
}

fn set(cx: &mut Cx<'_>, buffer: u32, start: u32, size: u32, ptr: u32, len: u32) -> Answer {
    let (direction, of_connection) = match Buffer::from_number(buffer) {
        Some(Buffer::RequestBody) => (Direction::Request, false),
        Some(Buffer::ResponseBody) => (Direction::Response, false),
        Some(Buffer::DownstreamData) => (Direction::Request, true),
        Some(Buffer::UpstreamData) => (Direction::Response, true),
        // What is there cannot be changed, what is not there cannot be found: as in Envoy.
        Some(buffer) if readable(cx.host(), buffer).is_none() => return Err(Status::NotFound.into()),
        _ => return Err(Status::BadArgument.into()),
    };
    let (memory, host) = cx.split();
    let bytes = piece(memory, ptr, len)?;
    if host.stream().is_none_or(|(_, stream)| stream.is_connection() != of_connection) {
        return Err(Status::BadArgument.into());
    }
    let id = edit(host, direction, start as usize, size as usize, bytes)?;
    if let Some(id) = id
        && !of_connection
    {
        host.push(Effect::BodyChanged { context: id, direction });
    }
    Ok(())
}

/// Prepends, replaces from the start, or appends. Returns the stream if its body is another one now.
fn edit(
    host: &Host,
    direction: Direction,
    start: usize,
    size: usize,
    bytes: &[u8],
) -> Result<Option<crate::action::ContextId>, Stop> {
    let (id, stream) = host.stream().ok_or(Status::BadArgument)?;
    if stream.open & bit(direction) == 0 {
        return Err(Status::BadArgument.into());
    }
    let mut state = stream.state.try_borrow_mut().map_err(|_| Status::BadArgument)?;
    let body = match direction {
        Direction::Request => &mut state.request_body,
        Direction::Response => &mut state.response_body,
    };
    let removed = match start {
        0 => size.min(body.len()),
        start if start >= body.len() => 0,
        _ => return Err(Status::BadArgument.into()),
    };
    let grows = bytes.len() > removed;
    if grows && body.len() - removed + bytes.len() > host.plugin.vm.limits.body_buffer_bytes {
        return Err(Status::BadArgument.into());
    }
    if removed == 0 && bytes.is_empty() {
        return Ok(None);
    }
    body.splice(start, removed, Bytes::copy_from_slice(bytes));
    Ok(Some(id))
}

/// ABI 0.1.0: the configuration of the callback that runs.
fn get_configuration(cx: &mut Cx<'_>, ptr_out: u32, len_out: u32) -> Answer {
    let host = cx.host();
    let bytes = match host.phase {
        Phase::VmStart => host.plugin.vm.configuration.clone(),
        Phase::Configure => host.plugin.configuration.clone(),
        _ => Bytes::new(),
    };
    cx.give(&bytes, ptr_out, len_out)
}
