//! Header maps and trailers.

use outrigger_http::{Headers, StreamState};

use super::{Answer, Cx, HostcallTable, Stop, hostcalls, piece};
use crate::action::ContextId;
use crate::host::{Host, acting_on, open};
use crate::interner::Interner;
use crate::maps::{Found, MapMut, MapRef};
use crate::module::Abi;
use crate::pairs;
use crate::plugin::Limits;
use crate::status::{Map, Status};

pub(super) fn link(table: &mut HostcallTable) -> wasmtime::Result<()> {
    hostcalls! { table, Env;
        "proxy_get_header_map_size" (map: u32, size_out: u32) = size;
        "proxy_get_header_map_pairs" (map: u32, ptr_out: u32, len_out: u32) = pairs;
        "proxy_set_header_map_pairs" (map: u32, ptr: u32, len: u32) = set_pairs;
        "proxy_get_header_map_value" (map: u32, key: u32, key_len: u32, ptr_out: u32, len_out: u32) = get;
        "proxy_add_header_map_value" (map: u32, key: u32, key_len: u32, value: u32, value_len: u32) = add;
        "proxy_replace_header_map_value" (map: u32, key: u32, key_len: u32, value: u32, value_len: u32) = replace;
        "proxy_remove_header_map_value" (map: u32, key: u32, key_len: u32) = remove;
    }
    Ok(())
}

/// The bit that opens a stream's map.
const fn bit(map: Map) -> u16 {
    match map {
        Map::RequestHeaders => open::REQUEST_HEADERS,
        Map::RequestTrailers => open::REQUEST_TRAILERS,
        Map::ResponseHeaders => open::RESPONSE_HEADERS,
        Map::ResponseTrailers => open::RESPONSE_TRAILERS,
        _ => 0,
    }
}

fn map_of(state: &StreamState, map: Map) -> Option<MapRef<'_>> {
    Some(match map {
        Map::RequestHeaders => MapRef::Request(&state.request),
        Map::RequestTrailers => MapRef::Fields(state.request_trailers.as_ref()?),
        Map::ResponseHeaders => MapRef::Response(state.response.as_ref()?),
        Map::ResponseTrailers => MapRef::Fields(state.response_trailers.as_ref()?),
        _ => return None,
    })
}

/// Runs with a map that can be read now; `None` where there is none.
#[inline]
fn read<T>(host: &Host, map: Map, run: impl FnOnce(MapRef<'_>) -> T) -> Option<T> {
    match map {
        Map::CallHeaders => Some(run(MapRef::Response(host.call_answer.as_ref()?.head.as_ref()?))),
        Map::CallTrailers => Some(run(MapRef::Fields(&host.call_answer.as_ref()?.trailers))),
        Map::GrpcInitialMetadata => Some(run(MapRef::Fields(host.grpc_answer.as_ref()?.initial_metadata.as_ref()?))),
        Map::GrpcTrailingMetadata => Some(run(MapRef::Fields(host.grpc_answer.as_ref()?.trailing_metadata.as_ref()?))),
        _ => {
            let (_, stream) = host.stream()?;
            if stream.open & (bit(map) | open::LOG) == 0 || stream.is_connection() {
                return None;
            }
            let state = stream.state.try_borrow().ok()?;
            map_of(&state, map).map(run)
        }
    }
}

/// Runs with a map that can be changed now, and marks the route for another selection if that was the request's head.
#[inline]
fn change(
    host: &mut Host,
    map: Map,
    run: impl FnOnce(MapMut<'_>, &Limits, &mut Interner) -> Result<(), Status>,
) -> Result<(), Status> {
    let (id, stream) = acting_on(&host.contexts, host.effective, host.current).ok_or(Status::BadArgument)?;
    if stream.open & bit(map) == 0 || stream.open & open::LOG != 0 {
        return Err(Status::BadArgument);
    }
    let mut state = stream.state.try_borrow_mut().map_err(|_| Status::BadArgument)?;
    let (limits, interner) = (&host.plugin.vm.limits, &mut host.interner);
    match map {
        Map::RequestHeaders => run(MapMut::Request(&mut state.request), limits, interner)?,
        Map::ResponseHeaders => {
            run(MapMut::Response(state.response.as_mut().ok_or(Status::BadArgument)?), limits, interner)?
        }
        Map::RequestTrailers => run_trailers(&mut state.request_trailers, |map| run(map, limits, interner))?,
        Map::ResponseTrailers => run_trailers(&mut state.response_trailers, |map| run(map, limits, interner))?,
        _ => return Err(Status::BadArgument),
    }
    drop(state);
    changed(host, id, map);
    Ok(())
}

/// Trailers are made when the last body callback adds the first one.
fn run_trailers(
    trailers: &mut Option<Headers>,
    run: impl FnOnce(MapMut<'_>) -> Result<(), Status>,
) -> Result<(), Status> {
    if let Some(trailers) = trailers {
        return run(MapMut::Fields(trailers));
    }
    let mut new = Headers::new();
    run(MapMut::Fields(&mut new))?;
    if !new.is_empty() {
        *trailers = Some(new);
    }
    Ok(())
}

#[inline]
fn changed(host: &mut Host, id: ContextId, map: Map) {
    if map == Map::RequestHeaders {
        host.clear_route(id);
    }
}

fn known(map: u32) -> Result<Map, Stop> {
    Map::from_number(map).ok_or_else(|| Status::BadArgument.into())
}

fn size(cx: &mut Cx<'_>, map: u32, size_out: u32) -> Answer {
    // Bytes, as in Envoy; the specification would rather have the size of the encoded pairs.
    let (_, bytes) = read(cx.host(), known(map)?, |map| map.size()).ok_or(Status::BadArgument)?;
    cx.write_u32(size_out, u32::try_from(bytes).unwrap_or(u32::MAX))
}

fn pairs(cx: &mut Cx<'_>, map: u32, ptr_out: u32, len_out: u32) -> Answer {
    let map = known(map)?;
    // A map that isn't there is an empty one.
    let Some((entries, bytes)) = read(cx.host(), map, |map| map.size()).filter(|(entries, _)| *entries > 0) else {
        return cx.give(&[], ptr_out, len_out);
    };
    let len = pairs::encoded_len(std::iter::empty()) + bytes + entries * pairs::PAIR_OVERHEAD;
    cx.give_with(len, ptr_out, len_out, |piece, host| {
        read(host, map, |map| pairs::encode_into(piece, entries, |each| map.for_each(each)));
    })
}

fn set_pairs(cx: &mut Cx<'_>, map: u32, ptr: u32, len: u32) -> Answer {
    let map = known(map)?;
    let (memory, host) = cx.split();
    let list = pairs::decode(piece(memory, ptr, len)?).ok_or(Status::BadArgument)?;
    Ok(change(host, map, |mut map, limits, interner| map.set_all(&list, limits, interner))?)
}

fn get(cx: &mut Cx<'_>, map: u32, key: u32, key_len: u32, ptr_out: u32, len_out: u32) -> Answer {
    // A number that is no map, too: the SDKs take only NotFound from here.
    let map = Map::from_number(map).ok_or(Status::NotFound)?;
    let found: Option<Found> = {
        let key = cx.bytes(key, key_len)?;
        read(cx.host(), map, |map| map.get(key)).flatten()
    };
    match found {
        Some(value) => cx.give(&value, ptr_out, len_out),
        None if cx.host().abi == Abi::V0_1_0 => cx.give(&[], ptr_out, len_out),
        None => Err(Status::NotFound.into()),
    }
}

fn add(cx: &mut Cx<'_>, map: u32, key: u32, key_len: u32, value: u32, value_len: u32) -> Answer {
    let (memory, host) = cx.split();
    let (key, value) = (piece(memory, key, key_len)?, piece(memory, value, value_len)?);
    Ok(change(host, known(map)?, |mut map, limits, interner| map.add(key, value, limits, interner))?)
}

fn replace(cx: &mut Cx<'_>, map: u32, key: u32, key_len: u32, value: u32, value_len: u32) -> Answer {
    let (memory, host) = cx.split();
    let (key, value) = (piece(memory, key, key_len)?, piece(memory, value, value_len)?);
    Ok(change(host, known(map)?, |mut map, limits, interner| map.replace(key, value, limits, interner))?)
}

fn remove(cx: &mut Cx<'_>, map: u32, key: u32, key_len: u32) -> Answer {
    let (memory, host) = cx.split();
    let key = piece(memory, key, key_len)?;
    Ok(change(host, known(map)?, |mut map, _, _| {
        map.remove(key);
        Ok(())
    })?)
}
