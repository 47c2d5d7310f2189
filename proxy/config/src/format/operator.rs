//! The operators of a format: what each is called, takes and evaluates to.

use std::fmt::Display;
use std::io::Write;
use std::net::{IpAddr, SocketAddr};
use std::sync::OnceLock;
use std::time::{Duration, SystemTime};

use outrigger_http::{EndpointAddress, HeaderName, Headers, ResponseFlags, StreamInfo, StreamState, TimingPoint};

use super::FormatError;
use super::time::TimeFormat;
use super::tls::TlsOperator;

static HOSTNAME: OnceLock<String> = OnceLock::new();

pub(crate) fn set_hostname(name: &str) {
    HOSTNAME.get_or_init(|| name.to_owned());
}

/// A parsed operator.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Operator {
    Request {
        name: Field,
        fallback: Option<Field>,
        query: bool,
    },
    Response {
        name: Field,
        fallback: Option<Field>,
    },
    Trailer {
        name: Field,
        fallback: Option<Field>,
    },
    StartTime(TimeFormat),
    Fact(Fact),
    Address {
        of: Peer,
        part: Part,
    },
    FilterState {
        key: String,
    },
    GrpcStatus(GrpcForm),
    Tls(TlsOperator),
    /// Envoy knows it, and no stream here has it: virtual clusters, dynamic metadata.
    Nothing,
}

/// A header or a pseudo header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Field {
    Method,
    Path,
    Authority,
    Scheme,
    Status,
    Header(HeaderName),
}

/// Operators without argument that are one fact of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Fact {
    Protocol,
    ResponseCode,
    ResponseCodeDetails,
    ResponseFlags,
    BytesReceived,
    BytesSent,
    Duration,
    RequestDuration,
    RequestTxDuration,
    ResponseDuration,
    ResponseTxDuration,
    UpstreamCluster,
    UpstreamTransportFailureReason,
    RouteName,
    FilterChainName,
    ConnectionId,
    ConnectionTerminationDetails,
    RequestHeadersBytes,
    ResponseHeadersBytes,
    ResponseTrailersBytes,
    UpstreamRequestAttemptCount,
    Hostname,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    DownstreamRemote,
    /// The peer of the socket, whoever the PROXY protocol says it speaks for.
    DownstreamDirect,
    DownstreamLocal,
    UpstreamRemote,
    UpstreamLocal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Ip,
    Port,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

/// What an operator evaluates to.
#[derive(Debug)]
pub(crate) enum Value<'a> {
    Absent,
    Number(i64),
    Bytes(&'a [u8]),
    Address(SocketAddr),
    Ip(IpAddr),
    Flags(ResponseFlags),
    Time(&'a TimeFormat, SystemTime),
    /// As [`Value::Bytes`], put together.
    Owned(Vec<u8>),
}

const FACTS: &[(&str, Fact)] = &[
    ("PROTOCOL", Fact::Protocol),
    ("RESPONSE_CODE", Fact::ResponseCode),
    ("RESPONSE_CODE_DETAILS", Fact::ResponseCodeDetails),
    ("RESPONSE_FLAGS", Fact::ResponseFlags),
    ("BYTES_RECEIVED", Fact::BytesReceived),
    ("BYTES_SENT", Fact::BytesSent),
    ("DURATION", Fact::Duration),
    ("REQUEST_DURATION", Fact::RequestDuration),
    ("REQUEST_TX_DURATION", Fact::RequestTxDuration),
    ("RESPONSE_DURATION", Fact::ResponseDuration),
    ("RESPONSE_TX_DURATION", Fact::ResponseTxDuration),
    ("UPSTREAM_CLUSTER", Fact::UpstreamCluster),
    ("UPSTREAM_CLUSTER_RAW", Fact::UpstreamCluster),
    ("UPSTREAM_TRANSPORT_FAILURE_REASON", Fact::UpstreamTransportFailureReason),
    ("ROUTE_NAME", Fact::RouteName),
    ("FILTER_CHAIN_NAME", Fact::FilterChainName),
    ("CONNECTION_ID", Fact::ConnectionId),
    ("CONNECTION_TERMINATION_DETAILS", Fact::ConnectionTerminationDetails),
    ("REQUEST_HEADERS_BYTES", Fact::RequestHeadersBytes),
    ("RESPONSE_HEADERS_BYTES", Fact::ResponseHeadersBytes),
    ("RESPONSE_TRAILERS_BYTES", Fact::ResponseTrailersBytes),
    ("UPSTREAM_REQUEST_ATTEMPT_COUNT", Fact::UpstreamRequestAttemptCount),
    ("HOSTNAME", Fact::Hostname),
];

const ADDRESSES: &[(&str, Peer, Part)] = &[
    ("DOWNSTREAM_REMOTE_ADDRESS", Peer::DownstreamRemote, Part::Whole),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Peer::DownstreamRemote, Part::Ip),
    ("DOWNSTREAM_REMOTE_PORT", Peer::DownstreamRemote, Part::Port),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", Peer::DownstreamDirect, Part::Whole),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", Peer::DownstreamDirect, Part::Ip),
    ("DOWNSTREAM_DIRECT_REMOTE_PORT", Peer::DownstreamDirect, Part::Port),
    ("DOWNSTREAM_LOCAL_ADDRESS", Peer::DownstreamLocal, Part::Whole),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Peer::DownstreamLocal, Part::Ip),
    ("DOWNSTREAM_LOCAL_PORT", Peer::DownstreamLocal, Part::Port),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS", Peer::DownstreamLocal, Part::Whole),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT", Peer::DownstreamLocal, Part::Ip),
    ("DOWNSTREAM_DIRECT_LOCAL_PORT", Peer::DownstreamLocal, Part::Port),
    ("UPSTREAM_HOST", Peer::UpstreamRemote, Part::Whole),
    ("UPSTREAM_REMOTE_ADDRESS", Peer::UpstreamRemote, Part::Whole),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Peer::UpstreamRemote, Part::Ip),
    ("UPSTREAM_REMOTE_PORT", Peer::UpstreamRemote, Part::Port),
    ("UPSTREAM_LOCAL_ADDRESS", Peer::UpstreamLocal, Part::Whole),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Peer::UpstreamLocal, Part::Ip),
    ("UPSTREAM_LOCAL_PORT", Peer::UpstreamLocal, Part::Port),
];

/// True for every stream that is served here: there are no virtual clusters, and nothing writes dynamic metadata.
const NOTHING: &[&str] = &["VIRTUAL_CLUSTER_NAME"];

/// The same, with an argument.
const NOTHING_WITH_ARGUMENT: &[&str] = &["DYNAMIC_METADATA", "UPSTREAM_METADATA", "CLUSTER_METADATA"];

impl Operator {
    pub(crate) fn parse(name: &str, argument: Option<&str>) -> Result<Operator, FormatError> {
        let problem = |problem: &str| FormatError::Argument { operator: name.to_owned(), problem: problem.to_owned() };
        let fields = || headers_argument(argument).map_err(|text| problem(&text));
        match name {
            "REQ" => return fields().map(|(name, fallback)| Operator::Request { name, fallback, query: true }),
            "REQ_WITHOUT_QUERY" => {
                return fields().map(|(name, fallback)| Operator::Request { name, fallback, query: false });
            }
            "RESP" => return fields().map(|(name, fallback)| Operator::Response { name, fallback }),
            "TRAILER" => return fields().map(|(name, fallback)| Operator::Trailer { name, fallback }),
            "START_TIME" => {
                let format = match argument {
                    None | Some("") => TimeFormat::iso(),
                    Some(text) => TimeFormat::parse(text).map_err(|text| problem(&text))?,
                };
                return Ok(Operator::StartTime(format));
            }
            "FILTER_STATE" => return filter_state(argument.unwrap_or_default()).map_err(problem),
            "GRPC_STATUS" => {
                return Ok(Operator::GrpcStatus(match argument {
                    None | Some("" | "CAMEL_STRING") => GrpcForm::Camel,
                    Some("SNAKE_STRING") => GrpcForm::Snake,
                    Some("NUMBER") => GrpcForm::Number,
                    Some(_) => return Err(problem("takes CAMEL_STRING, SNAKE_STRING or NUMBER")),
                }));
            }
            _ => {}
        }
        if let Some(operator) = TlsOperator::parse(name, argument) {
            return operator.map(Operator::Tls).map_err(|text| problem(&text));
        }
        if NOTHING_WITH_ARGUMENT.contains(&name) {
            return Ok(Operator::Nothing);
        }
        let operator = FACTS
            .iter()
            .find(|(known, _)| *known == name)
            .map(|(_, fact)| Operator::Fact(*fact))
            .or_else(|| {
                let (_, of, part) = ADDRESSES.iter().find(|(known, ..)| *known == name)?;
                Some(Operator::Address { of: *of, part: *part })
            })
            .or_else(|| (name == "GRPC_STATUS_NUMBER").then_some(Operator::GrpcStatus(GrpcForm::Number)))
            .or_else(|| NOTHING.contains(&name).then_some(Operator::Nothing))
            .ok_or_else(|| FormatError::UnknownOperator(name.to_owned()))?;
        if argument.is_some_and(|argument| !argument.is_empty()) {
            return Err(problem("takes no argument"));
        }
        Ok(operator)
    }

    pub(crate) fn value<'a>(&'a self, state: &'a StreamState) -> Value<'a> {
        let info = &state.info;
        match self {
            Operator::Request { name, fallback, query } => {
                let value = either(name, fallback.as_ref(), |field| request_field(state, field));
                match value {
                    Value::Bytes(bytes) if !query => {
                        Value::Bytes(bytes.split(|byte| *byte == b'?').next().unwrap_or_default())
                    }
                    value => value,
                }
            }
            Operator::Response { name, fallback } => either(name, fallback.as_ref(), |field| {
                let response = state.response.as_ref();
                match field {
                    Field::Status => response.map(|response| Value::Number(i64::from(response.status))),
                    field => header_field(response.map(|response| &response.headers), field),
                }
            }),
            Operator::Trailer { name, fallback } => {
                either(name, fallback.as_ref(), |field| header_field(state.response_trailers.as_ref(), field))
            }
            Operator::StartTime(format) => Value::Time(format, info.start_time),
            Operator::Fact(fact) => fact.value(state),
            Operator::Address { of, part } => address(info, *of, *part),
            Operator::FilterState { key } => {
                info.filter_state.get(key).map_or(Value::Absent, |bytes| Value::Bytes(bytes))
            }
            Operator::GrpcStatus(form) => grpc_status(state, *form),
            Operator::Tls(operator) => operator.value(info),
            Operator::Nothing => Value::Absent,
        }
    }
}

impl Fact {
    fn value(self, state: &StreamState) -> Value<'_> {
        let info = &state.info;
        let time = |point| info.timings.get(point);
        match self {
            Fact::Protocol => text(state.request.version.as_str()),
            Fact::ResponseCode => {
                Value::Number(state.response.as_ref().map_or(0, |response| i64::from(response.status)))
            }
            Fact::ResponseCodeDetails => text(&info.code_details),
            Fact::ResponseFlags => Value::Flags(info.flags),
            Fact::BytesReceived => number(info.request_body_bytes),
            Fact::BytesSent => number(info.response_body_bytes),
            Fact::Duration => millis(time(TimingPoint::ResponseComplete)),
            Fact::RequestDuration => millis(time(TimingPoint::RequestComplete)),
            Fact::RequestTxDuration => millis(time(TimingPoint::UpstreamRequestSent)),
            Fact::ResponseDuration => millis(time(TimingPoint::UpstreamResponseStart)),
            Fact::ResponseTxDuration => {
                let span = time(TimingPoint::ResponseComplete).zip(time(TimingPoint::UpstreamResponseStart));
                millis(span.map(|(end, start)| end.saturating_sub(start)))
            }
            Fact::UpstreamCluster => text(info.cluster_name.as_deref().unwrap_or_default()),
            Fact::UpstreamTransportFailureReason => text(&info.upstream_transport_failure_reason),
            Fact::RouteName => text(info.route_name.as_deref().unwrap_or_default()),
            Fact::FilterChainName => text(&info.filter_chain_name),
            Fact::ConnectionId => number(info.connection_id),
            Fact::ConnectionTerminationDetails => text(&info.connection_termination_details),
            Fact::RequestHeadersBytes => number(info.request_header_bytes),
            Fact::ResponseHeadersBytes => number(info.response_header_bytes),
            Fact::ResponseTrailersBytes => {
                number(state.response_trailers.as_ref().map_or(0, |trailers| trailers.byte_size() as u64))
            }
            Fact::UpstreamRequestAttemptCount => number(u64::from(info.upstream_attempts)),
            Fact::Hostname => text(HOSTNAME.get().map(String::as_str).unwrap_or_default()),
        }
    }
}

impl Value<'_> {
    /// Appends at most `max` bytes of the value; nothing where it is absent.
    pub(crate) fn write(&self, out: &mut Vec<u8>, max: Option<usize>) {
        let start = out.len();
        match self {
            Value::Absent => {}
            Value::Number(number) => display(number, out),
            Value::Bytes(bytes) => out.extend_from_slice(cut(bytes, max)),
            Value::Address(address) => display(address, out),
            Value::Ip(ip) => display(ip, out),
            Value::Flags(flags) => display(flags, out),
            Value::Time(format, time) => format.write(*time, out),
            Value::Owned(bytes) => out.extend_from_slice(cut(bytes, max)),
        }
        if let Some(max) = max {
            out.truncate(start.saturating_add(max).min(out.len()));
        }
    }

    /// The same with control bytes as `\x1b`, so that a value can't end a line or steer a terminal.
    pub(crate) fn write_escaped(&self, out: &mut Vec<u8>, max: Option<usize>) {
        let bytes: &[u8] = match self {
            Value::Bytes(bytes) => bytes,
            Value::Owned(bytes) => bytes,
            _ => return self.write(out, max),
        };
        for byte in cut(bytes, max) {
            match byte {
                0..0x20 | 0x7f => {
                    // Writing to a vector cannot fail.
                    let _ = write!(out, "\\x{byte:02x}");
                }
                byte => out.push(*byte),
            }
        }
    }
}

fn cut(bytes: &[u8], max: Option<usize>) -> &[u8] {
    &bytes[..max.unwrap_or(usize::MAX).min(bytes.len())]
}

fn display(value: &impl Display, out: &mut Vec<u8>) {
    // Writing to a vector cannot fail.
    let _ = write!(out, "{value}");
}

/// Empty text is absent.
fn text(text: &str) -> Value<'_> {
    if text.is_empty() { Value::Absent } else { Value::Bytes(text.as_bytes()) }
}

fn number(number: u64) -> Value<'static> {
    Value::Number(i64::try_from(number).unwrap_or(i64::MAX))
}

fn millis(duration: Option<Duration>) -> Value<'static> {
    duration.map_or(Value::Absent, |duration| Value::Number(i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)))
}

fn either<'a>(name: &Field, fallback: Option<&Field>, get: impl Fn(&Field) -> Option<Value<'a>>) -> Value<'a> {
    get(name).or_else(|| get(fallback?)).unwrap_or(Value::Absent)
}

fn request_field<'a>(state: &'a StreamState, field: &Field) -> Option<Value<'a>> {
    let head = &state.request;
    let bytes: &[u8] = match field {
        Field::Method => head.method.as_bytes(),
        Field::Path => &head.path,
        Field::Authority => &head.authority,
        Field::Scheme => head.scheme.as_str().as_bytes(),
        field => return header_field(Some(&head.headers), field),
    };
    (!bytes.is_empty()).then_some(Value::Bytes(bytes))
}

/// The first value of a header, as Envoy logs it.
fn header_field<'a>(headers: Option<&'a Headers>, field: &Field) -> Option<Value<'a>> {
    let Field::Header(name) = field else { return None };
    headers?.get(name).map(|value| Value::Bytes(value))
}

fn address(info: &StreamInfo, of: Peer, part: Part) -> Value<'static> {
    let address = match of {
        Peer::DownstreamRemote => info.downstream_remote,
        Peer::DownstreamDirect => info.direct_remote(),
        Peer::DownstreamLocal => info.downstream_local,
        Peer::UpstreamRemote => match &info.upstream_remote {
            // A path is all there is of an address, and has no port.
            Some(pipe @ EndpointAddress::Pipe(_)) if part != Part::Port => {
                return Value::Owned(pipe.to_string().into_bytes());
            }
            remote => remote.as_ref().and_then(EndpointAddress::socket),
        },
        Peer::UpstreamLocal => info.upstream_local,
    };
    match (address, part) {
        (None, _) => Value::Absent,
        (Some(address), Part::Whole) => Value::Address(address),
        (Some(address), Part::Ip) => Value::Ip(address.ip()),
        (Some(address), Part::Port) => Value::Number(i64::from(address.port())),
    }
}

const GRPC_CODES: [(&str, &str); 17] = [
    ("OK", "OK"),
    ("Canceled", "CANCELLED"),
    ("Unknown", "UNKNOWN"),
    ("InvalidArgument", "INVALID_ARGUMENT"),
    ("DeadlineExceeded", "DEADLINE_EXCEEDED"),
    ("NotFound", "NOT_FOUND"),
    ("AlreadyExists", "ALREADY_EXISTS"),
    ("PermissionDenied", "PERMISSION_DENIED"),
    ("ResourceExhausted", "RESOURCE_EXHAUSTED"),
    ("FailedPrecondition", "FAILED_PRECONDITION"),
    ("Aborted", "ABORTED"),
    ("OutOfRange", "OUT_OF_RANGE"),
    ("Unimplemented", "UNIMPLEMENTED"),
    ("Internal", "INTERNAL"),
    ("Unavailable", "UNAVAILABLE"),
    ("DataLoss", "DATA_LOSS"),
    ("Unauthenticated", "UNAUTHENTICATED"),
];

/// The status of an answer in gRPC's terms: from the trailers, the head, or the HTTP status (gRPC's mapping). `Err`: what
/// stands there for a status. `None`: nothing was answered.
pub(crate) fn grpc_code(state: &StreamState) -> Option<Result<u32, &[u8]>> {
    let told = [state.response_trailers.as_ref(), state.response.as_ref().map(|response| &response.headers)]
        .into_iter()
        .flatten()
        .find_map(|headers| headers.get(&HeaderName::GRPC_STATUS));
    if let Some(text) = told {
        return Some(std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).ok_or(text));
    }
    Some(Ok(match state.response.as_ref()?.status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }))
}

/// The status of a gRPC request; other requests have none.
fn grpc_status(state: &StreamState, form: GrpcForm) -> Value<'_> {
    let content_type = state.request.headers.get(&HeaderName::CONTENT_TYPE);
    if !content_type.is_some_and(|value| value.starts_with(b"application/grpc")) {
        return Value::Absent;
    }
    let code = match grpc_code(state) {
        Some(Ok(code)) => code,
        Some(Err(text)) => return Value::Bytes(text),
        None => return Value::Absent,
    };
    let names = usize::try_from(code).ok().and_then(|code| GRPC_CODES.get(code));
    match (form, names) {
        (GrpcForm::Camel, Some((camel, _))) => text(camel),
        (GrpcForm::Snake, Some((_, snake))) => text(snake),
        _ => Value::Number(i64::from(code)),
    }
}

/// `X?Y`: a header, and the one to take where it is absent.
fn headers_argument(argument: Option<&str>) -> Result<(Field, Option<Field>), String> {
    let argument = argument.unwrap_or_default();
    let (name, fallback) = match argument.split_once('?') {
        Some((name, fallback)) => (name, Some(fallback)),
        None => (argument, None),
    };
    Ok((field(name)?, fallback.map(field).transpose()?))
}

fn field(name: &str) -> Result<Field, String> {
    Ok(match name.to_ascii_lowercase().as_str() {
        ":method" => Field::Method,
        ":path" => Field::Path,
        ":authority" | "host" => Field::Authority,
        ":scheme" => Field::Scheme,
        ":status" => Field::Status,
        other => {
            Field::Header(HeaderName::from_bytes(other.as_bytes()).map_err(|_| format!("{name:?} is no header name"))?)
        }
    })
}

/// `key`, `key:PLAIN` or `key:TYPED`, with a maximum at the end that means nothing more than `:Z`.
fn filter_state(argument: &str) -> Result<Operator, &'static str> {
    let mut parts = argument.split(':');
    let key = parts.next().unwrap_or_default();
    if key.is_empty() {
        return Err("takes the key of a filter state object");
    }
    if !parts.all(|part| matches!(part, "PLAIN" | "TYPED") || part.parse::<u32>().is_ok()) {
        return Err("takes PLAIN or TYPED after the key");
    }
    Ok(Operator::FilterState { key: key.to_owned() })
}
