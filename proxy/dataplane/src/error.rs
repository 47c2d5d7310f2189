//! What can go wrong with a stream, and the one place where that becomes a reply.

use bytes::Bytes;
use outrigger_http::{HeaderName, Headers, ResponseFlags, grpc_status_of_http};

/// Whose fault it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorSource {
    Downstream,
    Upstream,
    Internal,
}

/// What went wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ErrorKind {
    /// No connection could be made.
    ConnectFailure,
    ConnectTimeout,
    /// The peer closed or reset the connection or stream.
    Terminated,
    /// The origin reset the stream (HTTP/2).
    RemoteReset,
    /// The origin refused the stream, before it looked at it (HTTP/2's REFUSED_STREAM).
    RefusedStream,
    /// An attempt took longer than `per_try_timeout`.
    PerTryTimeout,
    PerTryIdleTimeout,
    /// The peer's bytes were no valid HTTP.
    Protocol,
    NoRoute,
    NoCluster(u16),
    NoHealthyUpstream,
    Overflow,
    /// The control plane has a share of the cluster's requests refused, or all of them.
    DropOverload,
    DropAll,
    /// The overload manager sheds new streams.
    Overload,
    RouteTimeout,
    IdleTimeout,
    MaxStreamDuration,
    /// A request took longer than `request_timeout`.
    RequestTimeout,
    /// A body outgrew a filter's buffer.
    RequestTooLarge,
    ResponseTooLarge,
    /// A fail-closed filter that trapped, or whose VM isn't there.
    FilterFailed,
    /// No configuration by ECDS.
    FilterMissing,
    UpgradeForbidden,
}

/// A failed stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamError {
    pub(crate) source: ErrorSource,
    pub(crate) kind: ErrorKind,
}

impl StreamError {
    pub(crate) const fn upstream(kind: ErrorKind) -> StreamError {
        StreamError { source: ErrorSource::Upstream, kind }
    }

    pub(crate) const fn downstream(kind: ErrorKind) -> StreamError {
        StreamError { source: ErrorSource::Downstream, kind }
    }

    pub(crate) const fn internal(kind: ErrorKind) -> StreamError {
        StreamError { source: ErrorSource::Internal, kind }
    }

    /// Whether the router answers for it, in the route's name; else it is the connection manager, or a filter.
    pub(crate) const fn is_routers(self) -> bool {
        matches!(self.source, ErrorSource::Upstream)
            || matches!(
                self.kind,
                ErrorKind::NoCluster(_)
                    | ErrorKind::RouteTimeout
                    | ErrorKind::PerTryTimeout
                    | ErrorKind::PerTryIdleTimeout
            )
    }

    /// The response flag.
    pub(crate) const fn flags(self) -> ResponseFlags {
        match (self.kind, self.source) {
            (ErrorKind::ConnectFailure | ErrorKind::ConnectTimeout, _) => ResponseFlags::UPSTREAM_CONNECTION_FAILURE,
            (ErrorKind::Terminated, ErrorSource::Downstream) => ResponseFlags::DOWNSTREAM_CONNECTION_TERMINATION,
            (ErrorKind::Terminated, _) => ResponseFlags::UPSTREAM_CONNECTION_TERMINATION,
            (ErrorKind::Protocol, ErrorSource::Downstream) => ResponseFlags::DOWNSTREAM_PROTOCOL_ERROR,
            (ErrorKind::Protocol, _) => ResponseFlags::UPSTREAM_PROTOCOL_ERROR,
            (ErrorKind::NoRoute, _) => ResponseFlags::NO_ROUTE,
            (ErrorKind::NoCluster(_), _) => ResponseFlags::NO_CLUSTER_FOUND,
            (ErrorKind::NoHealthyUpstream, _) => ResponseFlags::NO_HEALTHY_UPSTREAM,
            (ErrorKind::Overflow, _) => ResponseFlags::UPSTREAM_OVERFLOW,
            (ErrorKind::DropOverload, _) => ResponseFlags::DROP_OVERLOAD,
            (ErrorKind::DropAll, _) => ResponseFlags::UNCONDITIONAL_DROP_OVERLOAD,
            (ErrorKind::Overload, _) => ResponseFlags::OVERLOAD_MANAGER,
            (ErrorKind::RemoteReset | ErrorKind::RefusedStream, _) => ResponseFlags::UPSTREAM_REMOTE_RESET,
            (ErrorKind::RouteTimeout | ErrorKind::PerTryTimeout | ErrorKind::PerTryIdleTimeout, _) => {
                ResponseFlags::UPSTREAM_REQUEST_TIMEOUT
            }
            (ErrorKind::IdleTimeout, _) => ResponseFlags::STREAM_IDLE_TIMEOUT,
            (ErrorKind::FilterMissing, _) => ResponseFlags::NO_FILTER_CONFIG_FOUND,
            _ => ResponseFlags::NONE,
        }
    }

    /// What the client is told, where nothing has been sent yet.
    pub(crate) fn reply(self) -> LocalReply {
        let (status, details, body) = match self.kind {
            ErrorKind::ConnectFailure => (
                503,
                "upstream_reset_before_response_started{remote_connection_failure}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote connection failure",
            ),
            ErrorKind::ConnectTimeout => (
                503,
                "upstream_reset_before_response_started{connection_timeout}",
                "upstream connect error or disconnect/reset before headers. reset reason: connection timeout",
            ),
            ErrorKind::Terminated => (
                503,
                "upstream_reset_before_response_started{connection_termination}",
                "upstream connect error or disconnect/reset before headers. reset reason: connection termination",
            ),
            ErrorKind::RemoteReset => (
                503,
                "upstream_reset_before_response_started{remote_reset}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote reset",
            ),
            ErrorKind::RefusedStream => (
                503,
                "upstream_reset_before_response_started{remote_refused_stream_reset}",
                "upstream connect error or disconnect/reset before headers. reset reason: remote refused stream reset",
            ),
            ErrorKind::PerTryTimeout => (504, "upstream_per_try_timeout", "upstream request timeout"),
            ErrorKind::PerTryIdleTimeout => (504, "upstream_per_try_idle_timeout", "upstream request timeout"),
            ErrorKind::Protocol if matches!(self.source, ErrorSource::Downstream) => {
                (400, "http1.codec_error", "Bad Request")
            }
            ErrorKind::Protocol => (
                502,
                "upstream_reset_before_response_started{protocol_error}",
                "upstream connect error or disconnect/reset before headers. reset reason: protocol error",
            ),
            ErrorKind::NoRoute => (404, "route_not_found", ""),
            ErrorKind::NoCluster(status) => (status, "cluster_not_found", ""),
            ErrorKind::NoHealthyUpstream => (503, "no_healthy_upstream", "no healthy upstream"),
            ErrorKind::Overflow => (
                503,
                "upstream_reset_before_response_started{overflow}",
                "upstream connect error or disconnect/reset before headers. reset reason: overflow",
            ),
            ErrorKind::DropOverload => (503, "drop_overload", "drop overload"),
            ErrorKind::DropAll => (503, "unconditional_drop_overload", "unconditional drop overload"),
            ErrorKind::Overload => (503, "overload", "envoy overloaded"),
            ErrorKind::RouteTimeout => (504, "response_timeout", "upstream request timeout"),
            ErrorKind::IdleTimeout => (504, "stream_idle_timeout", "stream timeout"),
            ErrorKind::MaxStreamDuration => (504, "max_duration_timeout", "downstream duration timeout"),
            ErrorKind::RequestTimeout => (408, "request_overall_timeout", "request timeout"),
            ErrorKind::RequestTooLarge => (413, "request_payload_too_large", "Payload Too Large"),
            ErrorKind::ResponseTooLarge => (500, "response_payload_too_large", "Internal Server Error"),
            ErrorKind::FilterFailed => (503, "wasm_fail_stream", ""),
            ErrorKind::FilterMissing => (500, "filter_config_not_found", ""),
            ErrorKind::UpgradeForbidden => (403, "upgrade_failed", ""),
        };
        let mut reply = LocalReply::new(status, details, body);
        if self.kind == ErrorKind::MaxStreamDuration {
            // DEADLINE_EXCEEDED.
            reply.grpc_status = Some(4);
        }
        let told: &[u8] = match self.kind {
            ErrorKind::Overflow => b"x-envoy-overloaded",
            ErrorKind::DropOverload => b"x-envoy-drop-overload",
            ErrorKind::DropAll => b"x-envoy-unconditional-drop-overload",
            _ => b"",
        };
        if let Ok(name) = HeaderName::from_bytes(told) {
            reply.headers.append(name, Bytes::from_static(b"true"));
        }
        reply
    }
}

/// An answer that the proxy gives itself. Not an error: a filter's 401 is one, too.
#[derive(Debug, Clone)]
pub(crate) struct LocalReply {
    /// A final status.
    pub(crate) status: u16,
    /// `RESPONSE_CODE_DETAILS`.
    pub(crate) details: std::borrow::Cow<'static, str>,
    pub(crate) headers: Headers,
    pub(crate) body: Bytes,
    /// For gRPC requests; `None`: made from the status.
    pub(crate) grpc_status: Option<u32>,
}

impl LocalReply {
    /// A reply of plain text.
    #[must_use]
    pub(crate) fn new(status: u16, details: &'static str, body: &'static str) -> LocalReply {
        let body = Bytes::from_static(body.as_bytes());
        LocalReply { status, details: details.into(), headers: Headers::new(), body, grpc_status: None }
    }

    /// The reply's gRPC status: what was chosen for it, else what stands for its HTTP status.
    pub(crate) fn grpc_status(&self) -> u32 {
        let chosen = self.grpc_status.filter(|status| *status <= 16);
        chosen.unwrap_or_else(|| grpc_status_of_http(self.status))
    }
}
