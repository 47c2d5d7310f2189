//! Operators without an argument that are one fact of the stream.

use std::hash::BuildHasher;
use std::sync::OnceLock;
use std::time::SystemTime;

use outrigger_http::{CloseType, Closed, EndpointAddress, HeaderName, LogType, StreamState, TimingPoint, WireBytes};

use super::value::{Value, millis, number, text};

static HOSTNAME: OnceLock<String> = OnceLock::new();

pub(crate) fn set_hostname(name: &str) {
    HOSTNAME.get_or_init(|| name.to_owned());
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    RawCodeDetails,
    ResponseFlags,
    ResponseFlagsLong,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    RequestTxDuration,
    ResponseDuration,
    ResponseTxDuration,
    UpstreamCluster,
    UpstreamProtocol,
    UpstreamTransportFailureReason,
    RouteName,
    FilterChainName,
    ConnectionId,
    UpstreamConnectionId,
    DownstreamRoundTripTime,
    /// Bytes between the proxy and a side.
    Wire(Side, Wire),
    CloseType(Side),
    LocalCloseReason(Side),
    ConnectionTerminationDetails,
    RequestHeadersBytes,
    ResponseHeadersBytes,
    ResponseTrailersBytes,
    UpstreamRequestAttemptCount,
    UpstreamHostName {
        port: bool,
    },
    Hostname,
    AccessLogType,
    TraceId,
    SpanId,
    StreamId,
    UniqueId,
    /// Of QUIC, which isn't spoken.
    Zero,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Side {
    Downstream,
    Upstream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wire {
    Received,
    Sent,
    HeaderReceived,
    HeaderSent,
}

pub(super) const FACTS: &[(&str, Fact)] = &[
    ("PROTOCOL", Fact::Protocol),
    ("RESPONSE_CODE", Fact::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Fact::ResponseCodeDetails),
    ("RESPONSE_FLAGS", Fact::ResponseFlags),
    ("RESPONSE_FLAGS_LONG", Fact::ResponseFlagsLong),
    ("BYTES_RECEIVED", Fact::BytesReceived),
    ("BYTES_SENT", Fact::BytesSent),
    ("DURATION", Fact::Duration),
    ("REQUEST_DURATION", Fact::RequestDuration),
    ("REQUEST_TX_DURATION", Fact::RequestTxDuration),
    ("RESPONSE_DURATION", Fact::ResponseDuration),
    ("RESPONSE_TX_DURATION", Fact::ResponseTxDuration),
    ("UPSTREAM_CLUSTER", Fact::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Fact::UpstreamCluster),
    ("UPSTREAM_PROTOCOL", Fact::UpstreamProtocol),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Fact::UpstreamTransportFailureReason),
    ("ROUTE_NAME", Fact::RouteName),
    ("FILTER_CHAIN_NAME", Fact::FilterChainName),
    ("CONNECTION_ID", Fact::ConnectionId),
    ("UPSTREAM_CONNECTION_ID", Fact::UpstreamConnectionId),
    ("DOWNSTREAM_CX_RTT", Fact::DownstreamRoundTripTime),
    ("DOWNSTREAM_WIRE_BYTES_RECEIVED", Fact::Wire(Side::Downstream, Wire::Received)),
    ("DOWNSTREAM_WIRE_BYTES_SENT", Fact::Wire(Side::Downstream, Wire::Sent)),
    ("DOWNSTREAM_HEADER_BYTES_RECEIVED", Fact::Wire(Side::Downstream, Wire::HeaderReceived)),
    ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", Fact::Wire(Side::Downstream, Wire::HeaderReceived)),
    ("DOWNSTREAM_HEADER_BYTES_SENT", Fact::Wire(Side::Downstream, Wire::HeaderSent)),
    ("DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", Fact::Wire(Side::Downstream, Wire::HeaderSent)),
    ("DOWNSTREAM_DETECTED_CLOSE_TYPE", Fact::CloseType(Side::Downstream)),
    ("DOWNSTREAM_LOCAL_CLOSE_REASON", Fact::LocalCloseReason(Side::Downstream)),
    ("UPSTREAM_WIRE_BYTES_RECEIVED", Fact::Wire(Side::Upstream, Wire::Received)),
    ("UPSTREAM_WIRE_BYTES_SENT", Fact::Wire(Side::Upstream, Wire::Sent)),
    ("UPSTREAM_HEADER_BYTES_RECEIVED", Fact::Wire(Side::Upstream, Wire::HeaderReceived)),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED", Fact::Wire(Side::Upstream, Wire::HeaderReceived)),
    ("UPSTREAM_HEADER_BYTES_SENT", Fact::Wire(Side::Upstream, Wire::HeaderSent)),
    ("UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT", Fact::Wire(Side::Upstream, Wire::HeaderSent)),
    ("UPSTREAM_DETECTED_CLOSE_TYPE", Fact::CloseType(Side::Upstream)),
    ("UPSTREAM_LOCAL_CLOSE_REASON", Fact::LocalCloseReason(Side::Upstream)),
    ("CONNECTION_TERMINATION_DETAILS", Fact::ConnectionTerminationDetails),
    ("REQUEST_HEADERS_BYTES", Fact::RequestHeadersBytes),
    ("RESPONSE_HEADERS_BYTES", Fact::ResponseHeadersBytes),
    ("RESPONSE_TRAILERS_BYTES", Fact::ResponseTrailersBytes),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Fact::UpstreamRequestAttemptCount),
    ("UPSTREAM_HOST_NAME", Fact::UpstreamHostName { port: true }),
    ("UPSTREAM_HOST_NAME_WITHOUT_PORT", Fact::UpstreamHostName { port: false }),
    ("HOSTNAME", Fact::Hostname),
    ("ACCESS_LOG_TYPE", Fact::AccessLogType),
    ("TRACE_ID", Fact::TraceId),
    ("SPAN_ID", Fact::SpanId),
    ("STREAM_ID", Fact::StreamId),
    ("UNIQUE_ID", Fact::UniqueId),
    ("BYTES_RETRANSMITTED", Fact::Zero),
    ("PACKETS_RETRANSMITTED", Fact::Zero),
];

impl Fact {
    pub(super) fn value(self, state: &StreamState) -> Value<'_> {
        let info = &state.info;
        let time = |point| info.timings.get(point);
        match self {
            Fact::Protocol => text(state.request.version.as_str()),
            Fact::ResponseCode => {
                Value::Number(state.response.as_ref().map_or(0, |response| i64::from(response.status)))
            }
            Fact::ResponseCodeDetails => unspaced(&info.code_details),
            Fact::RawCodeDetails => text(&info.code_details),
            Fact::ResponseFlags => Value::Flags(info.flags),
            Fact::ResponseFlagsLong => Value::LongFlags(info.flags),
            Fact::BytesReceived => number(info.request_body_bytes),
            Fact::BytesSent => number(info.response_body_bytes),
            Fact::Duration => millis(time(TimingPoint::ResponseComplete)),
            Fact::RequestDuration => millis(time(TimingPoint::RequestComplete)),
            Fact::RequestTxDuration => millis(time(TimingPoint::UpstreamRequestComplete)),
            Fact::ResponseDuration => millis(time(TimingPoint::UpstreamResponseStart)),
            Fact::ResponseTxDuration => {
                let span = time(TimingPoint::ResponseComplete).zip(time(TimingPoint::UpstreamResponseStart));
                millis(span.map(|(end, start)| end.saturating_sub(start)))
            }
            Fact::UpstreamCluster => text(info.cluster_name.as_deref().unwrap_or_default()),
            Fact::UpstreamProtocol => {
                let version = info.upstream.as_ref().and_then(|upstream| upstream.version);
                version.map_or(Value::Absent, |version| text(version.as_str()))
            }
            Fact::UpstreamTransportFailureReason => unspaced(&info.extras().upstream_transport_failure_reason),
            Fact::RouteName => text(info.route_name.as_deref().unwrap_or_default()),
            Fact::FilterChainName => text(&info.listener.chain_name),
            Fact::ConnectionId => number(info.downstream.id),
            Fact::UpstreamConnectionId => number(info.upstream_connection().map_or(0, |connection| connection.id)),
            Fact::DownstreamRoundTripTime => {
                millis(info.downstream_socket.as_ref().and_then(|socket| socket.round_trip_time()))
            }
            Fact::Wire(side, what) => what.of(side.pick(info.downstream_wire, info.upstream_wire)),
            Fact::CloseType(side) => close_type(side.pick(info.downstream_closed, info.upstream_closed)),
            Fact::LocalCloseReason(side) => text(side.pick(info.downstream_closed, info.upstream_closed).local_reason),
            Fact::ConnectionTerminationDetails => text(&info.extras().connection_termination_details),
            Fact::RequestHeadersBytes => number(info.request_header_bytes),
            Fact::ResponseHeadersBytes => number(info.response_header_bytes),
            Fact::ResponseTrailersBytes => {
                number(state.response_trailers.as_ref().map_or(0, |trailers| trailers.byte_size() as u64))
            }
            Fact::UpstreamRequestAttemptCount => number(u64::from(info.upstream_attempts)),
            Fact::UpstreamHostName { port } => info.upstream.as_ref().map_or(Value::Absent, |upstream| {
                Value::Owned(host(&upstream.remote, upstream.host_name.as_deref(), port).into_bytes())
            }),
            Fact::Hostname => text(HOSTNAME.get().map(String::as_str).unwrap_or_default()),
            Fact::AccessLogType => text(match info.log_type {
                LogType::NotSet => "NotSet",
                LogType::TcpConnectionEnd => "TcpConnectionEnd",
                LogType::DownstreamEnd => "DownstreamEnd",
            }),
            Fact::TraceId => info.trace.map_or(Value::Absent, |(trace, _)| Value::hex(&trace)),
            Fact::SpanId => info.trace.map_or(Value::Absent, |(_, span)| Value::hex(&span)),
            Fact::StreamId => {
                let id = state.request.headers.get(&HeaderName::X_REQUEST_ID);
                id.map_or(Value::Absent, |id| Value::Bytes(id))
            }
            Fact::UniqueId => Value::Owned(uuid().into_bytes()),
            Fact::Zero => Value::Number(0),
        }
    }
}

impl Side {
    fn pick<T>(self, downstream: T, upstream: T) -> T {
        match self {
            Side::Downstream => downstream,
            Side::Upstream => upstream,
        }
    }
}

impl Wire {
    fn of(self, bytes: WireBytes) -> Value<'static> {
        number(match self {
            Wire::Received => bytes.received,
            Wire::Sent => bytes.sent,
            Wire::HeaderReceived => bytes.header_received,
            Wire::HeaderSent => bytes.header_sent,
        })
    }
}

fn close_type(closed: Closed) -> Value<'static> {
    text(match closed.how {
        None => "",
        Some(CloseType::Normal) => "Normal",
        Some(CloseType::LocalReset) => "LocalReset",
        Some(CloseType::RemoteReset) => "RemoteReset",
    })
}

/// Lines are split at spaces.
pub(super) fn unspaced(reason: &str) -> Value<'_> {
    if reason.contains(char::is_whitespace) {
        return Value::Owned(reason.replace(char::is_whitespace, "_").into_bytes());
    }
    text(reason)
}

/// An endpoint as a line names it.
pub(super) fn host(address: &EndpointAddress, name: Option<&str>, port: bool) -> String {
    match (name, port) {
        (Some(name), true) => name.to_owned(),
        (Some(name), false) => name.rsplit_once(':').map_or(name, |(name, _)| name).to_owned(),
        (None, true) => address.to_string(),
        (None, false) => address.socket().map_or_else(|| address.to_string(), |socket| socket.ip().to_string()),
    }
}

/// A random UUID, of a hash with random keys.
fn uuid() -> String {
    let half = || std::hash::RandomState::new().hash_one(SystemTime::now());
    let bits = (u128::from(half()) << 64) | u128::from(half());
    // Version 4, variant 1 (RFC 9562 §5.4).
    let bits = bits & !(0xf << 76) & !(0x3 << 62) | (4 << 76) | (2 << 62);
    let digits = format!("{bits:032x}");
    [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]].join("-")
}
