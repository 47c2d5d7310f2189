//! What a guest does with its stream and its contexts: replies, continues, resets; ticks, done, the effective context.

use std::time::Duration;

use bytes::Bytes;

use super::{Answer, Cx, HostcallTable, hostcalls, piece};
use crate::action::{ContextId, Direction, Effect, LocalReply};
use crate::host::{Host, Phase, RootDone, Target, open};
use crate::status::Status;
use crate::{maps, pairs};

const DETAILS_BYTES_MAX: usize = 256;

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_send_local_response" (
            status: u32, details: u32, details_len: u32, body: u32, body_len: u32, headers: u32, headers_len: u32,
            grpc_status: i32
        ) = send_local_response;
        "proxy_continue_stream" (stream: u32) = continue_stream;
        "proxy_continue_request" () = continue_request;
        "proxy_continue_response" () = continue_response;
        "proxy_close_stream" (stream: u32) = close_stream;
        "proxy_clear_route_cache" () = clear_route_cache;
        "proxy_set_effective_context" (context: u32) = set_effective_context;
        "proxy_done" () = done;
        "proxy_set_tick_period_milliseconds" (period: u32) = set_tick_period;
        "proxy_get_status" (code_out: u32, message_out: u32, message_len_out: u32) = get_status;
    }
    Ok(())
}

#[expect(clippy::too_many_arguments, reason = "the ABI's signature")]
fn send_local_response(
    cx: &mut Cx<'_>,
    status: u32,
    details: u32,
    details_len: u32,
    body: u32,
    body_len: u32,
    headers: u32,
    headers_len: u32,
    grpc_status: i32,
) -> Answer {
    let (memory, host) = cx.split();
    let details = piece(memory, details, details_len)?;
    let body = piece(memory, body, body_len)?;
    let headers = piece(memory, headers, headers_len)?;
    let status = u16::try_from(status).ok().filter(|status| (200..=599).contains(status)).ok_or(Status::BadArgument)?;
    let Some((id, stream)) = host.stream().filter(|(_, stream)| !stream.is_connection()) else {
        // From the root context and from a connection there is nobody to answer.
        return Ok(());
    };
    // The first reply counts, but one to the response's head replaces an earlier one.
    let again = stream.replied.is_some();
    if stream.open & open::OVER != 0
        || host.phase == Phase::Log
        || (again && (host.phase != Phase::ResponseHeaders || stream.replied == Some(Phase::ResponseHeaders)))
    {
        return Ok(());
    }
    if body.len() > host.plugin.vm.limits.body_buffer_bytes {
        return Err(Status::BadArgument.into());
    }
    // A list that isn't one is an empty one, as in the reference host.
    let headers = maps::plain_fields(&pairs::decode(headers).unwrap_or_default())?;
    let reply = LocalReply {
        status,
        details: details_text(details),
        headers,
        body: Bytes::copy_from_slice(body),
        grpc_status: u8::try_from(grpc_status).ok().filter(|status| *status <= 16),
    };
    let phase = host.phase;
    if again {
        host.drop_reply(id);
    }
    if let Some(stream) = host.contexts.get_mut(id) {
        stream.replied = Some(phase);
    }
    host.push(Effect::LocalReply { context: id, reply: Box::new(reply) });
    Ok(())
}

/// Details stand in one field of an access log line: no white space, bounded.
fn details_text(details: &[u8]) -> String {
    let text = String::from_utf8_lossy(&details[..details.len().min(DETAILS_BYTES_MAX)]);
    text.chars().map(|c| if c.is_whitespace() || c.is_control() { '_' } else { c }).collect()
}

fn go_on(cx: &mut Cx<'_>, direction: Direction, of_connection: bool) -> Answer {
    let host = cx.host_mut();
    if let Some(id) = stream_of_kind(host, of_connection) {
        host.push(Effect::Continue { context: id, direction });
        let bits = match direction {
            Direction::Request => open::REQUEST,
            Direction::Response => open::RESPONSE,
        };
        // What was held goes on and can no longer be changed, unless it is this callback's own.
        if host.current != Target::Stream(id)
            && let Some(stream) = host.contexts.get_mut(id)
        {
            stream.open &= !bits;
        }
    }
    Ok(())
}

/// The stream that hostcalls act on, if it is of the kind that the guest names.
fn stream_of_kind(host: &Host, connection: bool) -> Option<ContextId> {
    host.stream().filter(|(_, stream)| stream.is_connection() == connection).map(|(id, _)| id)
}

fn continue_request(cx: &mut Cx<'_>) -> Answer {
    go_on(cx, Direction::Request, false)
}

fn continue_response(cx: &mut Cx<'_>) -> Answer {
    go_on(cx, Direction::Response, false)
}

fn continue_stream(cx: &mut Cx<'_>, stream: u32) -> Answer {
    match stream {
        0 => go_on(cx, Direction::Request, false),
        1 => go_on(cx, Direction::Response, false),
        2 => go_on(cx, Direction::Request, true),
        // Unimplemented in Envoy, which the Rust SDK doesn't survive.
        3 => go_on(cx, Direction::Response, true),
        _ => Err(Status::BadArgument.into()),
    }
}

fn close_stream(cx: &mut Cx<'_>, stream: u32) -> Answer {
    let host = cx.host_mut();
    match stream {
        0 | 1 => {
            if let Some(context) = stream_of_kind(host, false) {
                host.push(Effect::Reset { context });
            }
            Ok(())
        }
        2 | 3 => {
            if let Some(context) = stream_of_kind(host, true) {
                host.push(Effect::CloseConnection { context });
            }
            Ok(())
        }
        _ => Err(Status::BadArgument.into()),
    }
}

pub(super) fn clear_route_cache(cx: &mut Cx<'_>) -> Answer {
    let host = cx.host_mut();
    if let Some(context) = stream_of_kind(host, false) {
        host.push(Effect::ClearRouteCache { context });
    }
    Ok(())
}

fn set_effective_context(cx: &mut Cx<'_>, context: u32) -> Answer {
    let host = cx.host_mut();
    let target = host.contexts.find(context).ok_or(Status::BadArgument)?;
    if host.set_effective(target) { Ok(()) } else { Err(Status::BadArgument.into()) }
}

fn done(cx: &mut Cx<'_>) -> Answer {
    let host = cx.host_mut();
    let in_done = host.phase == Phase::Done;
    let root = host.root_mut().filter(|root| root.done == RootDone::Pending && !in_done).ok_or(Status::NotFound)?;
    root.done = RootDone::Finished;
    host.roots_done = true;
    Ok(())
}

fn set_tick_period(cx: &mut Cx<'_>, period: u32) -> Answer {
    let host = cx.host_mut();
    host.ticks_changed = true;
    if let Some(root) = host.root_mut() {
        root.tick_period = (period > 0).then(|| Duration::from_millis(u64::from(period)));
    }
    Ok(())
}

fn get_status(cx: &mut Cx<'_>, code_out: u32, message_out: u32, message_len_out: u32) -> Answer {
    let host = cx.host();
    let of_grpc = host.grpc_answer.as_ref().and_then(|answer| answer.status.clone());
    let of_http = || host.root().map_or((0, ""), |root| root.call_status);
    let (code, message) = of_grpc.unwrap_or_else(|| (of_http().0, of_http().1.to_owned()));
    cx.write_u32(code_out, code)?;
    cx.give(message.as_bytes(), message_out, message_len_out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn details_are_one_word() {
        assert_eq!(details_text(b"missing api key\r\n"), "missing_api_key__");
        assert_eq!(details_text(&[b'x'; 1000]).len(), DETAILS_BYTES_MAX);
    }
}
