//! The operators of a format: what each is called, takes and evaluates to.

use std::net::SocketAddr;
use std::time::SystemTime;

use outrigger_http::{EndpointAddress, HeaderName, Headers, StreamInfo, StreamState};

use super::FormatError;
use super::coalesce::Coalesce;
use super::duration::DurationOperator;
use super::expression::ExpressionOperator;
use super::facts::{FACTS, Fact, host};
use super::grpc::{GrpcForm, grpc_status};
use super::metadata::MetadataOperator;
use super::request::{self, QueryOperator, ServerName};
use super::time::TimeFormat;
use super::tls::TlsOperator;
use super::value::Value;
use crate::Cidr;

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
    /// When the line is written.
    EmitTime(TimeFormat),
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
    Duration(DurationOperator),
    Coalesce(Coalesce),
    Expression(ExpressionOperator),
    Metadata(MetadataOperator),
    Query(QueryOperator),
    ServerName(ServerName),
    /// Of the process's environment, as it was when the configuration came.
    Environment(String),
    /// Addresses or names of the endpoints of all attempts.
    Attempted {
        names: bool,
        port: bool,
    },
    /// The connections of all attempts.
    ConnectionsAttempted,
    /// A text that is empty for every stream.
    Empty,
    /// Envoy knows it, and no stream here has it, such as virtual clusters.
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

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Peer {
    DownstreamRemote,
    /// The peer of the socket, whoever the PROXY protocol says it speaks for.
    DownstreamDirect,
    DownstreamLocal,
    /// The endpoint that was chosen.
    UpstreamHost,
    /// The same, where there is a connection to it.
    UpstreamRemote,
    UpstreamLocal,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Part {
    Whole,
    Ip,
    Port,
    /// The address without the bits behind a prefix.
    Masked(u8),
    /// Of addresses within Envoy, which no address is here.
    EndpointId,
}

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
    ("UPSTREAM_HOST", Peer::UpstreamHost, Part::Whole),
    ("UPSTREAM_REMOTE_ADDRESS", Peer::UpstreamRemote, Part::Whole),
    ("UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", Peer::UpstreamRemote, Part::Ip),
    ("UPSTREAM_REMOTE_PORT", Peer::UpstreamRemote, Part::Port),
    ("UPSTREAM_LOCAL_ADDRESS", Peer::UpstreamLocal, Part::Whole),
    ("UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", Peer::UpstreamLocal, Part::Ip),
    ("UPSTREAM_LOCAL_PORT", Peer::UpstreamLocal, Part::Port),
    ("UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID", Peer::UpstreamRemote, Part::EndpointId),
    ("DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID", Peer::DownstreamLocal, Part::EndpointId),
    ("DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID", Peer::DownstreamLocal, Part::EndpointId),
];

/// True for every stream that is served here: there are no virtual clusters, and no QUIC.
const NOTHING: &[&str] = &["VIRTUAL_CLUSTER_NAME", "ROUNDTRIP_DURATION"];

/// No filter sets flags of its own; and the body of a reply is only known where the reply is made.
const EMPTY: &[&str] = &["CUSTOM_FLAGS", "LOCAL_REPLY_BODY"];

const ATTEMPTED: &[(&str, bool, bool)] = &[
    ("UPSTREAM_HOSTS_ATTEMPTED", false, true),
    ("UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT", false, false),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED", true, true),
    ("UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT", true, false),
];

impl Operator {
    /// `depth`: so many operators it stands within.
    pub(crate) fn parse(name: &str, argument: Option<&str>, depth: usize) -> Result<Operator, FormatError> {
        let problem = |problem: &str| FormatError::Argument { operator: name.to_owned(), problem: problem.to_owned() };
        let fields = || headers_argument(argument).map_err(|text| problem(&text));
        match name {
            "REQ" | "REQUEST_HEADER" => {
                return fields().map(|(name, fallback)| Operator::Request { name, fallback, query: true });
            }
            "REQ_WITHOUT_QUERY" => {
                return fields().map(|(name, fallback)| Operator::Request { name, fallback, query: false });
            }
            "RESP" | "RESPONSE_HEADER" => {
                return fields().map(|(name, fallback)| Operator::Response { name, fallback });
            }
            "TRAILER" | "RESPONSE_TRAILER" => {
                return fields().map(|(name, fallback)| Operator::Trailer { name, fallback });
            }
            "START_TIME" | "EMIT_TIME" | "START_TIME_LOCAL" | "EMIT_TIME_LOCAL" => {
                let format = match argument {
                    None | Some("") if name.ends_with("LOCAL") => TimeFormat::iso_local(),
                    None | Some("") => TimeFormat::iso(),
                    Some(text) => TimeFormat::parse(text).map_err(|text| problem(&text))?,
                };
                let format = if name.ends_with("LOCAL") { format.local() } else { format };
                let emits = name.starts_with("EMIT");
                return Ok(if emits { Operator::EmitTime(format) } else { Operator::StartTime(format) });
            }
            "COALESCE" => return Coalesce::parse(argument.unwrap_or_default(), depth).map(Operator::Coalesce),
            "ENVIRONMENT" => {
                let variable = argument.filter(|name| !name.is_empty());
                let variable = variable.ok_or_else(|| problem("takes the name of a variable"))?;
                return Ok(Operator::Environment(std::env::var(variable).unwrap_or_else(|_| "-".to_owned())));
            }
            "RESPONSE_CODE_DETAILS" if argument == Some("ALLOW_WHITESPACES") => {
                return Ok(Operator::Fact(Fact::RawCodeDetails));
            }
            "FILTER_STATE" => return filter_state(argument.unwrap_or_default()).map_err(problem),
            "UPSTREAM_FILTER_STATE" => {
                // No cluster and no transport socket here puts anything there.
                return filter_state(argument.unwrap_or_default()).map(|_| Operator::Nothing).map_err(problem);
            }
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
        if let Some(operator) = DurationOperator::parse(name, argument) {
            return operator.map(Operator::Duration).map_err(problem);
        }
        if let Some(operator) = ExpressionOperator::parse(name, argument) {
            return operator.map(Operator::Expression).map_err(|text| problem(&text));
        }
        if let Some(operator) = MetadataOperator::parse(name, argument) {
            return operator.map(Operator::Metadata).map_err(problem);
        }
        if let Some(operator) = request::parse(name, argument.unwrap_or_default()) {
            return operator.map_err(|text| problem(&text));
        }
        if let Some(operator) = masked(name, argument) {
            return operator.map_err(problem);
        }
        let operator = without_argument(name).ok_or_else(|| FormatError::UnknownOperator(name.to_owned()))?;
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
            Operator::EmitTime(format) => Value::Time(format, SystemTime::now()),
            Operator::Fact(fact) => fact.value(state),
            Operator::Address { of, part } => address(info, *of, *part),
            Operator::FilterState { key } => {
                info.extras().filter_state.get(key).map_or(Value::Absent, |bytes| Value::Bytes(bytes))
            }
            Operator::GrpcStatus(form) => grpc_status(state, *form),
            Operator::Tls(operator) => operator.value(info),
            Operator::Duration(operator) => operator.value(info),
            Operator::Coalesce(operators) => operators.value(state),
            Operator::Expression(expression) => expression.value(state),
            Operator::Metadata(operator) => operator.value(info),
            Operator::Query(operator) => operator.value(state),
            Operator::ServerName(name) => name.value(state),
            Operator::Environment(value) => Value::Bytes(value.as_bytes()),
            Operator::Attempted { names, port } => attempted(info, *names, *port),
            Operator::ConnectionsAttempted => connections_attempted(info),
            Operator::Empty => Value::Bytes(b""),
            Operator::Nothing => Value::Absent,
        }
    }
}

/// An operator that is a name alone.
fn without_argument(name: &str) -> Option<Operator> {
    FACTS
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, fact)| Operator::Fact(*fact))
        .or_else(|| {
            let (_, of, part) = ADDRESSES.iter().find(|(known, ..)| *known == name)?;
            Some(Operator::Address { of: *of, part: *part })
        })
        .or_else(|| {
            let (_, names, port) = ATTEMPTED.iter().find(|(known, ..)| *known == name)?;
            Some(Operator::Attempted { names: *names, port: *port })
        })
        .or_else(|| (name == "GRPC_STATUS_NUMBER").then_some(Operator::GrpcStatus(GrpcForm::Number)))
        .or_else(|| EMPTY.contains(&name).then_some(Operator::Empty))
        .or_else(|| (name == "UPSTREAM_CONNECTION_IDS_ATTEMPTED").then_some(Operator::ConnectionsAttempted))
        .or_else(|| NOTHING.contains(&name).then_some(Operator::Nothing))
}

pub(super) fn either<'a>(
    name: &Field,
    fallback: Option<&Field>,
    get: impl Fn(&Field) -> Option<Value<'a>>,
) -> Value<'a> {
    get(name).or_else(|| get(fallback?)).unwrap_or(Value::Absent)
}

pub(super) fn request_field<'a>(state: &'a StreamState, field: &Field) -> Option<Value<'a>> {
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
        Peer::DownstreamRemote => info.remote(),
        Peer::DownstreamDirect => info.downstream.direct_remote(),
        Peer::DownstreamLocal => info.downstream.local,
        Peer::UpstreamHost | Peer::UpstreamRemote => return upstream(info, of, part),
        Peer::UpstreamLocal => info.upstream.as_ref().and_then(|upstream| upstream.local),
    };
    address.map_or(Value::Absent, |address| part.of(address))
}

impl Part {
    fn of(self, address: SocketAddr) -> Value<'static> {
        match self {
            Part::Whole => Value::Address(address),
            Part::Ip => Value::Ip(address.ip()),
            Part::Port => Value::Number(i64::from(address.port())),
            Part::Masked(len) => {
                let all = if address.is_ipv4() { 32 } else { 128 };
                let prefix = Cidr::new(address.ip(), u32::from(len).min(all));
                prefix.map_or(Value::Absent, |prefix| Value::Owned(prefix.to_string().into_bytes()))
            }
            Part::EndpointId => Value::Bytes(b""),
        }
    }
}

fn upstream(info: &StreamInfo, of: Peer, part: Part) -> Value<'static> {
    let chosen = info.upstream.as_ref().filter(|chosen| of == Peer::UpstreamHost || chosen.connected());
    match chosen.map(|chosen| &chosen.remote) {
        None => Value::Absent,
        Some(EndpointAddress::Ip(address)) => part.of(*address),
        // A path is all there is of an address, and has no port.
        Some(EndpointAddress::Pipe(_)) if part == Part::Port => Value::Absent,
        Some(pipe) => Value::Owned(pipe.to_string().into_bytes()),
    }
}

/// `…_WITHOUT_PORT(16)`: `None` where it is another operator, or takes the whole address.
fn masked(name: &str, argument: Option<&str>) -> Option<Result<Operator, &'static str>> {
    let (_, of, _) = ADDRESSES.iter().find(|(known, _, part)| *known == name && *part == Part::Ip)?;
    let len = argument.filter(|argument| !argument.is_empty())?;
    let len = len.parse().ok().filter(|len| *len <= 128).ok_or("takes the length of a prefix");
    Some(len.map(|len| Operator::Address { of: *of, part: Part::Masked(len) }))
}

fn attempted(info: &StreamInfo, names: bool, port: bool) -> Value<'static> {
    let last = info.upstream.as_ref().filter(|last| last.connected());
    let last = last.map(|last| (last.remote.clone(), last.host_name.clone()));
    let earlier = &info.extras().upstream_attempted;
    let last = last.filter(|last| !earlier.contains(last));
    let hosts = earlier.iter().chain(last.as_ref());
    let hosts: Vec<String> =
        hosts.map(|(address, name)| host(address, name.as_deref().filter(|_| names), port)).collect();
    if hosts.is_empty() { Value::Absent } else { Value::Owned(hosts.join(",").into_bytes()) }
}

fn connections_attempted(info: &StreamInfo) -> Value<'static> {
    let last = info.upstream_connection().map(|connection| connection.id);
    let ids: Vec<String> =
        info.extras().upstream_connections_attempted.iter().copied().chain(last).map(|id| id.to_string()).collect();
    if ids.is_empty() { Value::Absent } else { Value::Owned(ids.join(",").into_bytes()) }
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

pub(super) fn field(name: &str) -> Result<Field, String> {
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

/// `key`, `key:PLAIN` or `key:TYPED`, with a maximum at the end that means nothing more than `:Z`; or `key:FIELD:name`.
fn filter_state(argument: &str) -> Result<Operator, &'static str> {
    let mut parts = argument.split(':');
    let key = parts.next().unwrap_or_default();
    if key.is_empty() {
        return Err("takes the key of a filter state object");
    }
    if let Some(field) = argument.strip_prefix(key).and_then(|rest| rest.strip_prefix(":FIELD")) {
        // What filters store here is one value, without fields.
        return match field.strip_prefix(':') {
            Some(name) if !name.is_empty() && !name.contains(':') => Ok(Operator::Nothing),
            _ => Err("takes one name of a field after FIELD"),
        };
    }
    if !parts.all(|part| matches!(part, "PLAIN" | "TYPED") || part.parse::<u32>().is_ok()) {
        return Err("takes PLAIN, TYPED or FIELD after the key");
    }
    Ok(Operator::FilterState { key: key.to_owned() })
}
