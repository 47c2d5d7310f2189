//! Native definitions of the hostcalls that a module imports, answered by this thread's [`State`](super::state).
//!
//! They exist so that filters link natively, and they answer as the specification says, with Envoy's choices where it
//! is silent: a map out of its phase is BadArgument for single entries and empty as a list, an absent key to remove is
//! Ok, a swap on an absent key writes. Header values with CR, LF or NUL are BadArgument.

#![expect(unsafe_code, reason = "defines the symbols that the proxy-wasm crate and abi.rs declare as foreign")]

use std::time::Duration;

use super::state::{Metric, SentCallout, SentReply, State, with};
use crate::headers::{HeaderList, serialize};

const OK: u32 = 0;
const NOT_FOUND: u32 = 1;
const BAD_ARGUMENT: u32 = 2;
const CAS_MISMATCH: u32 = 8;
const INTERNAL_FAILURE: u32 = 10;

/// A copy of the bytes that a guest passed.
///
/// # Safety
/// `data` is valid for reads of `size` bytes, or `size` is 0.
unsafe fn bytes(data: *const u8, size: usize) -> Vec<u8> {
    if data.is_null() || size == 0 {
        return Vec::new();
    }
    // SAFETY: as this function's own contract says.
    unsafe { std::slice::from_raw_parts(data, size) }.to_vec()
}

/// As [`bytes`], for what is text.
///
/// # Safety
/// As [`bytes`].
unsafe fn text(data: *const u8, size: usize) -> String {
    // SAFETY: as this function's own contract says.
    String::from_utf8_lossy(&unsafe { bytes(data, size) }).into_owned()
}

/// Hands bytes over to the guest, as a host does through `proxy_on_memory_allocate`; null for no bytes.
///
/// # Safety
/// `data` and `size` are valid for writes.
unsafe fn give(value: Vec<u8>, data: *mut *mut u8, size: *mut usize) -> u32 {
    let length = value.len();
    let start = if length == 0 { std::ptr::null_mut() } else { Box::into_raw(value.into_boxed_slice()).cast::<u8>() };
    // SAFETY: as this function's own contract says.
    unsafe {
        data.write(start);
        size.write(length);
    }
    OK
}

/// Runs a hostcall that only answers a status.
fn call(name: &'static str, run: impl FnOnce(&mut State) -> u32) -> u32 {
    with(|state| match state.enter(name) {
        Ok(()) => run(state),
        Err(status) => status,
    })
}

/// Runs a hostcall that answers bytes.
///
/// # Safety
/// As [`give`].
unsafe fn call_bytes(
    name: &'static str,
    data: *mut *mut u8,
    size: *mut usize,
    run: impl FnOnce(&mut State) -> Result<Vec<u8>, u32>,
) -> u32 {
    match with(|state| state.enter(name).and_then(|()| run(state))) {
        // SAFETY: as this function's own contract says.
        Ok(value) => unsafe { give(value, data, size) },
        Err(status) => status,
    }
}

fn is_value(value: &[u8]) -> bool {
    !value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0))
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_log(level: u32, data: *const u8, size: usize) -> u32 {
    // SAFETY: the guest passes a live slice.
    let line = unsafe { text(data, size) };
    with(|state| state.log(level, line));
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_log_level(level: *mut u32) -> u32 {
    // SAFETY: the guest passes a live out variable.
    unsafe { level.write(2) };
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32 {
    call("proxy_get_current_time_nanoseconds", |state| {
        // SAFETY: the guest passes a live out variable.
        unsafe { time.write(state.time_nanoseconds) };
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_buffer_bytes(
    buffer: u32,
    start: usize,
    size_max: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    let read = |state: &mut State| {
        let bytes = match buffer {
            7 => state.configuration.as_deref().ok_or(NOT_FOUND)?,
            0 | 1 | 4 if state.body_open == Some(buffer as usize) => state.stream.bodies[buffer as usize].as_slice(),
            _ => &[],
        };
        let start = start.min(bytes.len());
        let end = start.saturating_add(size_max).min(bytes.len());
        Ok(bytes[start..end].to_vec())
    };
    // SAFETY: the guest passes live out variables.
    unsafe { call_bytes("proxy_get_buffer_bytes", data, size, read) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_buffer_bytes(
    buffer: u32,
    start: usize,
    size: usize,
    data: *const u8,
    data_size: usize,
) -> u32 {
    // SAFETY: the guest passes a live slice.
    let new = unsafe { bytes(data, data_size) };
    call("proxy_set_buffer_bytes", |state| {
        let index = buffer as usize;
        if state.body_open != Some(index) || index > 1 {
            return BAD_ARGUMENT;
        }
        let body = &mut state.stream.bodies[index];
        let range = match start {
            0 => 0..size.min(body.len()),
            _ if start >= body.len() => body.len()..body.len(),
            _ => return BAD_ARGUMENT,
        };
        body.splice(range, new);
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32 {
    let read = |state: &mut State| {
        let entries = state.map(map).map(std::mem::take).unwrap_or_default();
        let bytes = serialize(entries.iter().map(|(key, value)| (key.as_bytes(), value.as_slice())));
        if let Some(place) = state.map(map) {
            *place = entries;
        }
        Ok(bytes)
    };
    // SAFETY: the guest passes live out variables.
    unsafe { call_bytes("proxy_get_header_map_pairs", data, size, read) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_header_map_pairs(map: u32, data: *const u8, size: usize) -> u32 {
    // SAFETY: the guest passes a live slice.
    let list = HeaderList::new(unsafe { bytes(data, size) });
    call("proxy_set_header_map_pairs", |state| {
        let Some(entries) = state.map(map) else { return BAD_ARGUMENT };
        *entries =
            list.iter().map(|(key, value)| (String::from_utf8_lossy(key).to_lowercase(), value.to_vec())).collect();
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_header_map_value(
    map: u32,
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    // SAFETY: the guest passes a live slice.
    let key = unsafe { text(key, key_size) }.to_lowercase();
    let read = |state: &mut State| {
        let entries = state.map(map).ok_or(BAD_ARGUMENT)?;
        entries.iter().find(|(name, _)| *name == key).map(|(_, value)| value.clone()).ok_or(NOT_FOUND)
    };
    // SAFETY: the guest passes live out variables.
    unsafe { call_bytes("proxy_get_header_map_value", data, size, read) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_add_header_map_value(
    map: u32,
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the guest passes live slices.
    let (key, value) = unsafe { (text(key, key_size).to_lowercase(), bytes(value, value_size)) };
    call("proxy_add_header_map_value", |state| match state.map(map) {
        Some(entries) if is_value(&value) => {
            entries.push((key, value));
            OK
        }
        _ => BAD_ARGUMENT,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_replace_header_map_value(
    map: u32,
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
) -> u32 {
    // SAFETY: the guest passes live slices.
    let (key, value) = unsafe { (text(key, key_size).to_lowercase(), bytes(value, value_size)) };
    call("proxy_replace_header_map_value", |state| match state.map(map) {
        Some(entries) if is_value(&value) => {
            // The first entry only, which is the least that hosts do: filters must be right there too.
            match entries.iter_mut().find(|(name, _)| *name == key) {
                Some(entry) => entry.1 = value,
                None => entries.push((key, value)),
            }
            OK
        }
        _ => BAD_ARGUMENT,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32 {
    // SAFETY: the guest passes a live slice.
    let key = unsafe { text(key, key_size) }.to_lowercase();
    call("proxy_remove_header_map_value", |state| match state.map(map) {
        Some(entries) => {
            entries.retain(|(name, _)| *name != key);
            OK
        }
        None => BAD_ARGUMENT,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_property(
    path: *const u8,
    path_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    // SAFETY: the guest passes a live slice.
    let path = unsafe { text(path, path_size) }.replace('\0', ".");
    // SAFETY: the guest passes live out variables.
    unsafe {
        call_bytes("proxy_get_property", data, size, |state| state.properties.get(&path).cloned().ok_or(NOT_FOUND))
    }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_property(path: *const u8, path_size: usize, value: *const u8, value_size: usize) -> u32 {
    // SAFETY: the guest passes live slices.
    let (path, value) = unsafe { (text(path, path_size).replace('\0', "."), bytes(value, value_size)) };
    call("proxy_set_property", |state| {
        state.properties.insert(path, value);
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_shared_data(
    key: *const u8,
    key_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
    cas: *mut u32,
) -> u32 {
    // SAFETY: the guest passes a live slice.
    let key = unsafe { bytes(key, key_size) };
    let read = |state: &mut State| {
        let (value, number) = state.shared.get(&key).ok_or(NOT_FOUND)?;
        // SAFETY: the guest passes a live out variable.
        unsafe { cas.write(*number) };
        Ok(value.clone())
    };
    // SAFETY: the guest passes live out variables.
    unsafe { call_bytes("proxy_get_shared_data", data, size, read) }
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_set_shared_data(
    key: *const u8,
    key_size: usize,
    value: *const u8,
    value_size: usize,
    cas: u32,
) -> u32 {
    // SAFETY: the guest passes live slices.
    let (key, value) = unsafe { (bytes(key, key_size), bytes(value, value_size)) };
    call("proxy_set_shared_data", |state| {
        let stale = state.shared.get(&key).is_some_and(|(_, current)| cas != 0 && *current != cas);
        if stale || state.conflicts > 0 {
            state.conflicts = state.conflicts.saturating_sub(1);
            return CAS_MISMATCH;
        }
        state.cas_last += 1;
        state.shared.insert(key, (value, state.cas_last));
        OK
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32 {
    // SAFETY: the guest passes a live slice.
    let name = unsafe { text(name, name_size) };
    call("proxy_define_metric", |state| {
        if kind > 2 {
            return BAD_ARGUMENT;
        }
        let known = state.metrics.iter().position(|metric| metric.name == name);
        let index = known.unwrap_or_else(|| {
            state.metrics.push(Metric { kind, name, value: 0 });
            state.metrics.len() - 1
        });
        // SAFETY: the guest passes a live out variable.
        unsafe { id.write(u32::try_from(index).unwrap_or(u32::MAX)) };
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_increment_metric(id: u32, offset: i64) -> u32 {
    call("proxy_increment_metric", |state| match state.metrics.get_mut(id as usize) {
        None => NOT_FOUND,
        Some(metric) if metric.kind == 2 || (metric.kind == 0 && offset <= 0) => BAD_ARGUMENT,
        Some(metric) => {
            metric.value = metric.value.wrapping_add_signed(offset);
            OK
        }
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_record_metric(id: u32, value: u64) -> u32 {
    call("proxy_record_metric", |state| match state.metrics.get_mut(id as usize) {
        None => NOT_FOUND,
        Some(metric) => {
            metric.value = if metric.kind == 0 { metric.value + value } else { value };
            OK
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_get_metric(id: u32, value: *mut u64) -> u32 {
    call("proxy_get_metric", |state| match state.metrics.get(id as usize) {
        None => NOT_FOUND,
        Some(metric) => {
            // SAFETY: the guest passes a live out variable.
            unsafe { value.write(metric.value) };
            OK
        }
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_send_local_response(
    status: u32,
    details: *const u8,
    details_size: usize,
    body: *const u8,
    body_size: usize,
    headers: *const u8,
    headers_size: usize,
    grpc_status: i32,
) -> u32 {
    // SAFETY: the guest passes live slices.
    let (details, body, list) =
        unsafe { (text(details, details_size), text(body, body_size), HeaderList::new(bytes(headers, headers_size))) };
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers = list.iter().map(|(key, value)| (lossy(key).to_lowercase(), lossy(value))).collect();
    call("proxy_send_local_response", |state| match u16::try_from(status) {
        Ok(status) if (200..600).contains(&status) => {
            // The first reply of a stream wins.
            state.stream.reply.get_or_insert(SentReply { status, details, headers, body, grpc_status });
            OK
        }
        _ => BAD_ARGUMENT,
    })
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_http_call(
    cluster: *const u8,
    cluster_size: usize,
    headers: *const u8,
    headers_size: usize,
    body: *const u8,
    body_size: usize,
    _trailers: *const u8,
    _trailers_size: usize,
    timeout_milliseconds: u32,
    token: *mut u32,
) -> u32 {
    // SAFETY: the guest passes live slices.
    let (cluster, list, body) =
        unsafe { (text(cluster, cluster_size), HeaderList::new(bytes(headers, headers_size)), text(body, body_size)) };
    let lossy = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let headers: Vec<_> = list.iter().map(|(key, value)| (lossy(key), lossy(value))).collect();
    call("proxy_http_call", |state| {
        if cluster.is_empty() || headers.iter().any(|(_, value)| !is_value(value.as_bytes())) {
            return BAD_ARGUMENT;
        }
        // Never the same number twice: tokens of one stream are not another's.
        state.token_last += 1;
        let timeout = Duration::from_millis(timeout_milliseconds.into());
        state.stream.callouts.push(SentCallout { token: state.token_last, cluster, headers, body, timeout });
        // SAFETY: the guest passes a live out variable.
        unsafe { token.write(state.token_last) };
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_continue_stream(half: u32) -> u32 {
    call("proxy_continue_stream", |state| {
        state.stream.continued = Some(half);
        OK
    })
}

#[unsafe(no_mangle)]
extern "C" fn proxy_set_effective_context(_context: u32) -> u32 {
    // The harness has one stream in place when it calls; nothing is to be switched.
    OK
}

#[unsafe(no_mangle)]
unsafe extern "C" fn proxy_call_foreign_function(
    name: *const u8,
    name_size: usize,
    arguments: *const u8,
    arguments_size: usize,
    data: *mut *mut u8,
    size: *mut usize,
) -> u32 {
    // SAFETY: the guest passes two live slices.
    let (name, arguments) = unsafe { (text(name, name_size), text(arguments, arguments_size)) };
    if name != "skip_stream_callbacks" {
        return NOT_FOUND;
    }
    // The SDK asks by itself: it is no hostcall of the filter's.
    with(|state| state.skipped.push(arguments));
    // SAFETY: the guest passes live out variables.
    unsafe { give(Vec::new(), data, size) }
}

/// Hostcalls that the test host does not act out: each answers InternalFailure, which every SDK takes.
macro_rules! refused {
    ($($name:ident($($argument:ty),*);)*) => {
        $(
            #[unsafe(no_mangle)]
            extern "C" fn $name($(_: $argument),*) -> u32 {
                call(stringify!($name), |_| INTERNAL_FAILURE)
            }
        )*
    };
}

refused! {
    proxy_set_tick_period_milliseconds(u32);
    proxy_register_shared_queue(*const u8, usize, *mut u32);
    proxy_resolve_shared_queue(*const u8, usize, *const u8, usize, *mut u32);
    proxy_dequeue_shared_queue(u32, *mut *mut u8, *mut usize);
    proxy_enqueue_shared_queue(u32, *const u8, usize);
    proxy_close_stream(u32);
    proxy_grpc_call(*const u8, usize, *const u8, usize, *const u8, usize, *const u8, usize, *const u8, usize, u32, *mut u32);
    proxy_grpc_stream(*const u8, usize, *const u8, usize, *const u8, usize, *const u8, usize, *mut u32);
    proxy_grpc_send(u32, *const u8, usize, bool);
    proxy_grpc_cancel(u32);
    proxy_grpc_close(u32);
    proxy_get_status(*mut u32, *mut *mut u8, *mut usize);
    proxy_done();
}
