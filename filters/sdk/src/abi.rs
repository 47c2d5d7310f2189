//! The Proxy-Wasm 0.2.1 hostcalls that the SDK uses, with every status as a value.
//!
//! The `proxy-wasm` crate brings the exports, the contexts and the allocator. Its hostcall wrappers panic on every
//! status that they don't expect, and some of them copy or allocate where a filter needs neither, so this file
//! declares the imports once more and turns what is neither `Ok` nor `NotFound` into a [`HostError`].
//!
//! Natively the same symbols are defined by `testing/imports.rs`.

#![expect(unsafe_code, reason = "hostcalls are foreign functions over raw pointers; this file is the only caller")]

use std::fmt;
use std::ptr::{null, null_mut};

/// A hostcall that the host refused.
///
/// A filter may handle it, or return it from its callback with `?`: the SDK then logs it and answers 500, so that a
/// request never passes a filter that could not do its work.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HostError {
    call: &'static str,
    status: u32,
}

impl HostError {
    pub(crate) const fn new(call: &'static str, status: u32) -> Self {
        Self { call, status }
    }

    /// The hostcall, e.g. `proxy_set_shared_data`.
    #[must_use]
    pub fn call(&self) -> &'static str {
        self.call
    }

    /// Proxy-Wasm's status code.
    #[must_use]
    pub fn status(&self) -> u32 {
        self.status
    }
}

impl fmt::Display for HostError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let meaning = match self.status {
            1 => "not found",
            2 => "bad argument",
            3 => "serialization failure",
            4 => "parse failure",
            6 => "invalid memory access",
            7 => "empty",
            8 => "compare-and-swap mismatch",
            10 => "internal failure",
            12 => "unimplemented",
            _ => "unexpected status",
        };
        write!(f, "{}: {meaning} (status {})", self.call, self.status)
    }
}

impl std::error::Error for HostError {}

/// Proxy-Wasm's status codes as far as the SDK treats them apart.
pub(crate) mod status {
    pub(crate) const OK: u32 = 0;
    pub(crate) const NOT_FOUND: u32 = 1;
    pub(crate) const CAS_MISMATCH: u32 = 8;
}

/// The header maps that a filter reaches, by Proxy-Wasm's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Map {
    RequestHeaders = 0,
    RequestTrailers = 1,
    ResponseHeaders = 2,
    ResponseTrailers = 3,
    CalloutHeaders = 6,
}

/// The buffers that a filter reaches, by Proxy-Wasm's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Buffer {
    RequestBody = 0,
    ResponseBody = 1,
    CalloutBody = 4,
    PluginConfiguration = 7,
}

mod raw {
    #[cfg_attr(target_arch = "wasm32", link(wasm_import_module = "env"))]
    unsafe extern "C" {
        pub(super) fn proxy_log(level: u32, data: *const u8, size: usize) -> u32;
        pub(super) fn proxy_get_current_time_nanoseconds(time: *mut u64) -> u32;
        pub(super) fn proxy_get_buffer_bytes(
            buffer: u32,
            start: usize,
            size_max: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_set_buffer_bytes(
            buffer: u32,
            start: usize,
            size: usize,
            data: *const u8,
            data_size: usize,
        ) -> u32;
        pub(super) fn proxy_get_header_map_pairs(map: u32, data: *mut *mut u8, size: *mut usize) -> u32;
        pub(super) fn proxy_get_header_map_value(
            map: u32,
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_add_header_map_value(
            map: u32,
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub(super) fn proxy_replace_header_map_value(
            map: u32,
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
        ) -> u32;
        pub(super) fn proxy_remove_header_map_value(map: u32, key: *const u8, key_size: usize) -> u32;
        pub(super) fn proxy_get_property(
            path: *const u8,
            path_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_get_shared_data(
            key: *const u8,
            key_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
            cas: *mut u32,
        ) -> u32;
        pub(super) fn proxy_set_shared_data(
            key: *const u8,
            key_size: usize,
            value: *const u8,
            value_size: usize,
            cas: u32,
        ) -> u32;
        pub(super) fn proxy_define_metric(kind: u32, name: *const u8, name_size: usize, id: *mut u32) -> u32;
        pub(super) fn proxy_increment_metric(id: u32, offset: i64) -> u32;
        pub(super) fn proxy_record_metric(id: u32, value: u64) -> u32;
        pub(super) fn proxy_continue_stream(half: u32) -> u32;
        pub(super) fn proxy_call_foreign_function(
            name: *const u8,
            name_size: usize,
            arguments: *const u8,
            arguments_size: usize,
            data: *mut *mut u8,
            size: *mut usize,
        ) -> u32;
        pub(super) fn proxy_send_local_response(
            status: u32,
            details: *const u8,
            details_size: usize,
            body: *const u8,
            body_size: usize,
            headers: *const u8,
            headers_size: usize,
            grpc_status: i32,
        ) -> u32;
    }
}

/// The halves of a stream that a filter may hold back, by Proxy-Wasm's numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u32)]
pub(crate) enum Half {
    Request = 0,
    Response = 1,
}

/// What the host wrote through its two out pointers.
struct Returned {
    data: *mut u8,
    size: usize,
}

impl Returned {
    const fn new() -> Self {
        Self { data: null_mut(), size: 0 }
    }

    /// Takes the bytes over; hosts answer an empty value with a null pointer or with size 0.
    fn into_bytes(self) -> Vec<u8> {
        if self.data.is_null() || self.size == 0 {
            return Vec::new();
        }
        // SAFETY: the host got this block from `proxy_on_memory_allocate(size)`, which makes a boxed slice of exactly
        // `size` bytes with the global allocator, filled all of it, and handed its ownership over.
        unsafe { Vec::from_raw_parts(self.data, self.size, self.size) }
    }
}

fn done(call: &'static str, status: u32) -> Result<(), HostError> {
    if status == status::OK { Ok(()) } else { Err(HostError::new(call, status)) }
}

fn found(call: &'static str, status: u32, returned: Returned) -> Result<Option<Vec<u8>>, HostError> {
    match status {
        status::OK => Ok(Some(returned.into_bytes())),
        status::NOT_FOUND => Ok(None),
        _ => Err(HostError::new(call, status)),
    }
}

/// Writes a log line; a host that refuses it leaves nobody to tell.
pub(crate) fn log(level: u32, message: &str) {
    // SAFETY: pointer and length are of one live string, which the host only reads.
    let _status = unsafe { raw::proxy_log(level, message.as_ptr(), message.len()) };
}

pub(crate) fn time_nanoseconds() -> Result<u64, HostError> {
    let mut time = 0;
    // SAFETY: the host writes eight bytes to a live `u64`.
    let status = unsafe { raw::proxy_get_current_time_nanoseconds(&raw mut time) };
    done("proxy_get_current_time_nanoseconds", status).map(|()| time)
}

pub(crate) fn buffer_read(buffer: Buffer, start: usize, size_max: usize) -> Result<Option<Vec<u8>>, HostError> {
    let mut out = Returned::new();
    // SAFETY: the host writes a pointer and a length to the two live out variables.
    let status =
        unsafe { raw::proxy_get_buffer_bytes(buffer as u32, start, size_max, &raw mut out.data, &raw mut out.size) };
    found("proxy_get_buffer_bytes", status, out)
}

pub(crate) fn buffer_write(buffer: Buffer, start: usize, size: usize, data: &[u8]) -> Result<(), HostError> {
    // SAFETY: pointer and length are of one live slice, which the host only reads.
    let status = unsafe { raw::proxy_set_buffer_bytes(buffer as u32, start, size, data.as_ptr(), data.len()) };
    done("proxy_set_buffer_bytes", status)
}

pub(crate) fn map_pairs(map: Map) -> Result<Vec<u8>, HostError> {
    let mut out = Returned::new();
    // SAFETY: the host writes a pointer and a length to the two live out variables.
    let status = unsafe { raw::proxy_get_header_map_pairs(map as u32, &raw mut out.data, &raw mut out.size) };
    done("proxy_get_header_map_pairs", status).map(|()| out.into_bytes())
}

pub(crate) fn map_get(map: Map, key: &str) -> Result<Option<Vec<u8>>, HostError> {
    let mut out = Returned::new();
    // SAFETY: the key is a live string that the host only reads; the host writes to the two live out variables.
    let status = unsafe {
        raw::proxy_get_header_map_value(map as u32, key.as_ptr(), key.len(), &raw mut out.data, &raw mut out.size)
    };
    found("proxy_get_header_map_value", status, out)
}

pub(crate) fn map_add(map: Map, key: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: both pointers are of live slices, which the host only reads.
    let status =
        unsafe { raw::proxy_add_header_map_value(map as u32, key.as_ptr(), key.len(), value.as_ptr(), value.len()) };
    done("proxy_add_header_map_value", status)
}

pub(crate) fn map_set(map: Map, key: &str, value: &[u8]) -> Result<(), HostError> {
    // SAFETY: both pointers are of live slices, which the host only reads.
    let status = unsafe {
        raw::proxy_replace_header_map_value(map as u32, key.as_ptr(), key.len(), value.as_ptr(), value.len())
    };
    done("proxy_replace_header_map_value", status)
}

pub(crate) fn map_remove(map: Map, key: &str) -> Result<(), HostError> {
    // SAFETY: pointer and length are of one live string, which the host only reads.
    let status = unsafe { raw::proxy_remove_header_map_value(map as u32, key.as_ptr(), key.len()) };
    match status {
        // The specification answers Ok for a header that isn't there; some hosts say so.
        status::NOT_FOUND => Ok(()),
        _ => done("proxy_remove_header_map_value", status),
    }
}

pub(crate) fn property(path: &[u8]) -> Result<Option<Vec<u8>>, HostError> {
    let mut out = Returned::new();
    // SAFETY: the path is a live slice that the host only reads; the host writes to the two live out variables.
    let status = unsafe { raw::proxy_get_property(path.as_ptr(), path.len(), &raw mut out.data, &raw mut out.size) };
    found("proxy_get_property", status, out)
}

/// The value and its compare-and-swap number.
pub(crate) fn shared_get(key: &str) -> Result<Option<(Vec<u8>, u32)>, HostError> {
    let mut out = Returned::new();
    let mut cas = 0;
    // SAFETY: the key is a live string that the host only reads; the host writes to the three live out variables.
    let status = unsafe {
        raw::proxy_get_shared_data(key.as_ptr(), key.len(), &raw mut out.data, &raw mut out.size, &raw mut cas)
    };
    Ok(found("proxy_get_shared_data", status, out)?.map(|value| (value, cas)))
}

/// False where the number no longer is the stored value's.
pub(crate) fn shared_set(key: &str, value: &[u8], cas: u32) -> Result<bool, HostError> {
    // SAFETY: both pointers are of live slices, which the host only reads.
    let status = unsafe { raw::proxy_set_shared_data(key.as_ptr(), key.len(), value.as_ptr(), value.len(), cas) };
    match status {
        status::CAS_MISMATCH => Ok(false),
        _ => done("proxy_set_shared_data", status).map(|()| true),
    }
}

pub(crate) fn metric_define(kind: u32, name: &str) -> Result<u32, HostError> {
    let mut id = 0;
    // SAFETY: the name is a live string that the host only reads; the host writes four bytes to a live `u32`.
    let status = unsafe { raw::proxy_define_metric(kind, name.as_ptr(), name.len(), &raw mut id) };
    done("proxy_define_metric", status).map(|()| id)
}

pub(crate) fn metric_increment(id: u32, offset: i64) -> Result<(), HostError> {
    // SAFETY: passes two numbers.
    done("proxy_increment_metric", unsafe { raw::proxy_increment_metric(id, offset) })
}

pub(crate) fn metric_record(id: u32, value: u64) -> Result<(), HostError> {
    // SAFETY: passes two numbers.
    done("proxy_record_metric", unsafe { raw::proxy_record_metric(id, value) })
}

/// Lets a half go on that a callback has held back.
pub(crate) fn continue_stream(half: Half) -> Result<(), HostError> {
    // SAFETY: passes a number.
    done("proxy_continue_stream", unsafe { raw::proxy_continue_stream(half as u32) })
}

/// Calls what this host offers beyond the ABI; what it gives back is dropped.
pub(crate) fn foreign_function(name: &str, arguments: &[u8]) -> Result<(), HostError> {
    let mut out = Returned::new();
    // SAFETY: name and arguments are live slices that the host only reads; it writes to the two live out variables.
    let status = unsafe {
        raw::proxy_call_foreign_function(
            name.as_ptr(),
            name.len(),
            arguments.as_ptr(),
            arguments.len(),
            &raw mut out.data,
            &raw mut out.size,
        )
    };
    found("proxy_call_foreign_function", status, out)?
        .map(drop)
        .ok_or(HostError::new("proxy_call_foreign_function", status))
}

/// `headers` is a serialized map; `grpc_status` −1 lets the host derive it from the HTTP status.
pub(crate) fn local_response(
    status: u16,
    details: &str,
    body: &[u8],
    headers: &[u8],
    grpc_status: i32,
) -> Result<(), HostError> {
    let details_data = if details.is_empty() { null() } else { details.as_ptr() };
    // SAFETY: every pointer is of a live slice with its own length (null with length 0), which the host only reads.
    let status = unsafe {
        raw::proxy_send_local_response(
            u32::from(status),
            details_data,
            details.len(),
            body.as_ptr(),
            body.len(),
            headers.as_ptr(),
            headers.len(),
            grpc_status,
        )
    };
    done("proxy_send_local_response", status)
}
