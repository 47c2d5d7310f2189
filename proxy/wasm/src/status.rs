//! The numbers of the ABI: statuses, maps, buffers, streams, log levels, WASI errors.

/// `WasmResult`, what a hostcall answers. Only statuses that the SDKs survive are used: proxy-wasm-host.md §2.2, column R.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Status {
    NotFound = 1,
    BadArgument = 2,
    SerializationFailure = 3,
    ParseFailure = 4,
    InvalidMemoryAccess = 6,
    Empty = 7,
    CasMismatch = 8,
    InternalFailure = 10,
}

/// Not a [`Status`] of our own hostcalls: what a shim for a foreign import answers.
pub(crate) const UNIMPLEMENTED: i32 = 12;
/// `proxy_get_status` after a call whose stream was reset.
pub(crate) const BROKEN_CONNECTION: u32 = 11;

/// WASI preview 1 error numbers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Errno {
    Badf = 8,
    Fault = 21,
    Inval = 28,
    Noent = 44,
    Nosys = 52,
    Notsup = 58,
    Notcapable = 76,
}

/// `WasmHeaderMapType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Map {
    RequestHeaders,
    RequestTrailers,
    ResponseHeaders,
    ResponseTrailers,
    GrpcInitialMetadata,
    GrpcTrailingMetadata,
    CallHeaders,
    CallTrailers,
}

impl Map {
    pub(crate) const fn from_number(number: u32) -> Option<Map> {
        Some(match number {
            0 => Map::RequestHeaders,
            1 => Map::RequestTrailers,
            2 => Map::ResponseHeaders,
            3 => Map::ResponseTrailers,
            4 => Map::GrpcInitialMetadata,
            5 => Map::GrpcTrailingMetadata,
            6 => Map::CallHeaders,
            7 => Map::CallTrailers,
            _ => return None,
        })
    }
}

/// `WasmBufferType`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Buffer {
    RequestBody,
    ResponseBody,
    DownstreamData,
    UpstreamData,
    CallBody,
    GrpcMessage,
    VmConfiguration,
    PluginConfiguration,
    ForeignCallData,
}

impl Buffer {
    pub(crate) const fn from_number(number: u32) -> Option<Buffer> {
        Some(match number {
            0 => Buffer::RequestBody,
            1 => Buffer::ResponseBody,
            2 => Buffer::DownstreamData,
            3 => Buffer::UpstreamData,
            4 => Buffer::CallBody,
            5 => Buffer::GrpcMessage,
            6 => Buffer::VmConfiguration,
            7 => Buffer::PluginConfiguration,
            8 => Buffer::ForeignCallData,
            _ => return None,
        })
    }
}

/// `WasmLogLevel`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum LogLevel {
    Trace,
    Debug,
    Info,
    Warn,
    Error,
    Critical,
}

impl LogLevel {
    pub(crate) const fn from_number(number: u32) -> Option<LogLevel> {
        Some(match number {
            0 => LogLevel::Trace,
            1 => LogLevel::Debug,
            2 => LogLevel::Info,
            3 => LogLevel::Warn,
            4 => LogLevel::Error,
            5 => LogLevel::Critical,
            _ => return None,
        })
    }
}
