//! The tree of properties that guests read: attributes of request, response, connection, upstream and node.
//!
//! Names and encodings are Envoy's (attributes.rst, `serializeValue`). Request attributes stay readable after the request's
//! callbacks, which Envoy doesn't do; names that it has dropped for `xds.*` are served as well, old filters ask for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_http::{HeaderName, Headers, StreamInfo, StreamState, TimingPoint};

use crate::host::Host;
use crate::maps::MapRef;
use crate::pairs;

/// A value that a property path leads to.
#[derive(Debug, Clone, PartialEq, Default)]
pub enum Property {
    #[default]
    Null,
    Bool(bool),
    Int(i64),
    Uint(u64),
    Double(f64),
    /// A string, or a message's serialized form.
    Bytes(Bytes),
    Map(BTreeMap<String, Property>),
    List(Vec<Property>),
}

/// Trees of metadata are not deeper than this.
const DEPTH_MAX: usize = 32;

impl Property {
    #[must_use]
    pub fn string(text: &str) -> Property {
        Property::Bytes(Bytes::copy_from_slice(text.as_bytes()))
    }

    /// As guests see it; `None` for what has no encoding.
    pub(crate) fn encode(&self) -> Option<Bytes> {
        self.encode_at(0)
    }

    fn encode_at(&self, depth: usize) -> Option<Bytes> {
        if depth > DEPTH_MAX {
            return None;
        }
        Some(match self {
            Property::Null => return None,
            Property::Bool(value) => Bytes::copy_from_slice(&[u8::from(*value)]),
            Property::Int(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
            Property::Uint(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
            Property::Double(value) => Bytes::copy_from_slice(&value.to_le_bytes()),
            Property::Bytes(bytes) => bytes.clone(),
            Property::Map(map) => encode_pairs(map.iter().filter_map(|(key, value)| {
                // An entry without an encoding (null) is left out rather than taking the map with it.
                Some((Bytes::copy_from_slice(key.as_bytes()), value.encode_at(depth + 1)?))
            })),
            Property::List(list) => {
                encode_pairs(list.iter().filter_map(|value| Some((value.encode_at(depth + 1)?, Bytes::new()))))
            }
        })
    }

    /// Follows the rest of a path.
    fn walk(&self, path: &[&str]) -> Lookup {
        let Some((first, rest)) = path.split_first() else { return Lookup::Found(self.clone()) };
        let next = match self {
            Property::Map(map) => map.get(*first),
            Property::List(list) => first.parse().ok().and_then(|index: usize| list.get(index)),
            _ => None,
        };
        next.map_or(Lookup::Absent, |next| next.walk(rest))
    }
}

fn encode_pairs(pairs: impl Iterator<Item = (Bytes, Bytes)>) -> Bytes {
    let pairs: Vec<(Bytes, Bytes)> = pairs.collect();
    let mut out = vec![0; pairs::encoded_len(pairs.iter().map(|(key, value)| (key.len(), value.len())))];
    pairs::encode_into(&mut out, pairs.len(), |each| pairs.iter().for_each(|(key, value)| each(key, value)));
    out.into()
}

/// Where a path leads.
#[derive(Debug, PartialEq)]
pub(crate) enum Lookup {
    Found(Property),
    Absent,
    /// A group of attributes, which has no encoding of its own.
    NotAValue,
}

fn found(value: Option<Property>) -> Lookup {
    value.map_or(Lookup::Absent, Lookup::Found)
}

fn text(text: &str) -> Option<Property> {
    Some(Property::string(text))
}

fn int(value: u64) -> Option<Property> {
    Some(Property::Int(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn nanoseconds(duration: Duration) -> Option<Property> {
    Some(Property::Int(i64::try_from(duration.as_nanos()).unwrap_or(i64::MAX)))
}

fn header(headers: &Headers, name: &HeaderName) -> Option<Property> {
    headers.get(name).cloned().map(Property::Bytes)
}

/// The value of a path, as the effective context sees it.
pub(crate) fn lookup(host: &Host, path: &[&str]) -> Lookup {
    match path {
        [] | [""] | ["request" | "response" | "connection" | "source" | "destination" | "upstream" | "xds"] => {
            Lookup::NotAValue
        }
        ["plugin_name"] => found(text(&host.plugin.name)),
        ["plugin_root_id"] => found(text(&host.plugin.root_id)),
        ["plugin_vm_id"] => found(text(&host.plugin.vm_id)),
        ["xds", "node", rest @ ..] | ["node", rest @ ..] => node(host, rest),
        _ => {
            let Some((_, stream)) = host.stream() else { return Lookup::Absent };
            let Ok(state) = stream.state.try_borrow() else { return Lookup::Absent };
            of_stream(&state, path)
        }
    }
}

fn node(host: &Host, path: &[&str]) -> Lookup {
    let node = &host.services.node;
    match path {
        [] => found(Some(Property::Bytes(node.encoded.clone()))),
        ["id"] => found(text(&node.id)),
        ["cluster"] => found(text(&node.cluster)),
        ["metadata", rest @ ..] => node.metadata.walk(rest),
        ["locality", "region"] => found(text(&node.locality[0])),
        ["locality", "zone"] => found(text(&node.locality[1])),
        ["locality", "sub_zone"] => found(text(&node.locality[2])),
        _ => Lookup::Absent,
    }
}

fn of_stream(state: &StreamState, path: &[&str]) -> Lookup {
    let info = &state.info;
    match path {
        ["request", "headers", rest @ ..] => fields(Some(MapRef::Request(&state.request)), rest),
        ["response", "headers", rest @ ..] => fields(state.response.as_ref().map(MapRef::Response), rest),
        ["request", "trailers", rest @ ..] => fields(state.request_trailers.as_ref().map(MapRef::Fields), rest),
        ["response", "trailers", rest @ ..] => fields(state.response_trailers.as_ref().map(MapRef::Fields), rest),
        ["request", name] => found(request(state, name)),
        ["response", name] => found(response(state, name)),
        ["source", name] => found(address(info.downstream_remote, name)),
        ["destination", name] => found(address(info.downstream_local, name)),
        ["connection", name] => found(connection(info, name)),
        ["connection_id"] => found(Some(Property::Uint(info.connection_id))),
        ["upstream", name] => found(upstream(info, name)),
        ["xds", name] | [name @ ("cluster_name" | "route_name" | "listener_direction")] => found(xds(info, name)),
        ["filter_state", rest @ ..] => {
            let key = rest.join(".");
            found(info.filter_state.get(key.strip_prefix("wasm.").unwrap_or(&key)).cloned().map(Property::Bytes))
        }
        path => found(info.filter_state.get(&path.join(".")).cloned().map(Property::Bytes)),
    }
}

fn request(state: &StreamState, name: &str) -> Option<Property> {
    let (head, info) = (&state.request, &state.info);
    match name {
        "path" => Some(Property::Bytes(head.path.clone())),
        "url_path" => Some(Property::Bytes(Bytes::copy_from_slice(head.path_only()))),
        "query" => Some(Property::Bytes(Bytes::copy_from_slice(head.query().unwrap_or_default()))),
        "host" => Some(Property::Bytes(head.authority.clone())),
        "scheme" => text(head.scheme.as_str()),
        "method" => Some(Property::Bytes(Bytes::copy_from_slice(head.method.as_bytes()))),
        "protocol" => text(head.version.as_str()),
        "referer" => header(&head.headers, &HeaderName::REFERER),
        "useragent" => header(&head.headers, &HeaderName::USER_AGENT),
        "id" => header(&head.headers, &HeaderName::X_REQUEST_ID),
        "time" => nanoseconds(info.start_time.duration_since(UNIX_EPOCH).unwrap_or_default()),
        "duration" => nanoseconds(info.timings.get(TimingPoint::ResponseComplete)?),
        "size" => int(content_length(&head.headers).unwrap_or(info.request_body_bytes)),
        "total_size" => int(info.request_header_bytes.saturating_add(info.request_body_bytes)),
        "headers_bytes" => int(info.request_header_bytes),
        _ => None,
    }
}

fn content_length(headers: &Headers) -> Option<u64> {
    std::str::from_utf8(headers.get(&HeaderName::CONTENT_LENGTH)?).ok()?.parse().ok()
}

fn response(state: &StreamState, name: &str) -> Option<Property> {
    let info = &state.info;
    match name {
        "code" => int(u64::from(state.response.as_ref()?.status)),
        "code_details" => (!info.code_details.is_empty()).then(|| Property::string(&info.code_details)),
        "flags" => int(u64::from(info.flags.bits())),
        "size" => int(info.response_body_bytes),
        "total_size" => int(info.response_header_bytes.saturating_add(info.response_body_bytes)),
        "headers_bytes" => int(info.response_header_bytes),
        "grpc_status" => grpc_status(state),
        "backend_latency" => {
            let sent = info.timings.get(TimingPoint::UpstreamRequestSent)?;
            nanoseconds(info.timings.get(TimingPoint::UpstreamResponseComplete)?.saturating_sub(sent))
        }
        _ => None,
    }
}

/// From the trailers or the head; else what gRPC makes of the HTTP status.
fn grpc_status(state: &StreamState) -> Option<Property> {
    let head = state.response.as_ref()?;
    let trailers = state.response_trailers.as_ref();
    let given = trailers.and_then(|trailers| trailers.get(&HeaderName::GRPC_STATUS));
    if let Some(given) = given.or_else(|| head.headers.get(&HeaderName::GRPC_STATUS)) {
        return int(std::str::from_utf8(given).ok()?.parse().ok()?);
    }
    int(match head.status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    })
}

fn address(address: Option<SocketAddr>, name: &str) -> Option<Property> {
    match name {
        "address" => text(&address?.to_string()),
        "port" => int(u64::from(address?.port())),
        _ => None,
    }
}

fn connection(info: &StreamInfo, name: &str) -> Option<Property> {
    match name {
        "id" => Some(Property::Uint(info.connection_id)),
        "mtls" => Some(Property::Bool(false)),
        "requested_server_name" => text(""),
        "termination_details" => {
            let details = &info.connection_termination_details;
            (!details.is_empty()).then(|| Property::string(details))
        }
        _ => None,
    }
}

fn upstream(info: &StreamInfo, name: &str) -> Option<Property> {
    match name {
        "address" | "port" => address(info.upstream_remote, name),
        "local_address" => text(&info.upstream_local?.to_string()),
        "transport_failure_reason" => {
            let reason = &info.upstream_transport_failure_reason;
            (!reason.is_empty()).then(|| Property::string(reason))
        }
        "request_attempt_count" => Some(Property::Uint(u64::from(info.upstream_attempts))),
        "cx_pool_ready_duration" => nanoseconds(info.timings.get(TimingPoint::UpstreamReady)?),
        _ => None,
    }
}

fn xds(info: &StreamInfo, name: &str) -> Option<Property> {
    match name {
        "cluster_name" => text(info.cluster_name.as_deref()?),
        "route_name" => text(info.route_name.as_deref()?),
        "virtual_host_name" => text(info.virtual_host_name.as_deref()?),
        "filter_chain_name" => text(&info.filter_chain_name),
        "listener_direction" => int(info.listener_direction as u64),
        _ => None,
    }
}

/// A header map, whole (repeated fields joined by commas) or one name of it.
fn fields(map: Option<MapRef<'_>>, path: &[&str]) -> Lookup {
    let Some(map) = map else { return Lookup::Absent };
    let mut all: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    let mut collect = |key: &[u8], value: &[u8]| match all.get_mut(key) {
        Some(joined) => {
            joined.push(b',');
            joined.extend_from_slice(value);
        }
        None => {
            all.insert(key.to_vec(), value.to_vec());
        }
    };
    match path {
        [] => {
            map.for_each(&mut collect);
            let pairs = all.into_iter().map(|(key, value)| (Bytes::from(key), Bytes::from(value)));
            Lookup::Found(Property::Bytes(encode_pairs(pairs)))
        }
        [name] => {
            let wanted = name.to_ascii_lowercase();
            map.for_each(&mut |key, value| {
                if key == wanted.as_bytes() {
                    collect(key, value);
                }
            });
            found(all.into_values().next().map(|value| Property::Bytes(value.into())))
        }
        _ => Lookup::Absent,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encodings_are_envoys() {
        let check = |property: Property, expected: Option<&[u8]>| {
            assert_eq!(property.encode().as_deref(), expected, "{property:?}");
        };
        check(Property::Null, None);
        check(Property::Bool(true), Some(&[1]));
        check(Property::Int(-2), Some(&(-2i64).to_le_bytes()));
        check(Property::Double(1.5), Some(&1.5f64.to_le_bytes()));
        check(Property::string("x"), Some(b"x"));
        let map = BTreeMap::from([("a".to_owned(), Property::Bool(false)), ("n".to_owned(), Property::Null)]);
        check(Property::Map(map), Some(b"\x01\0\0\0\x01\0\0\0\x01\0\0\0a\0\0\0"));
        check(Property::List(vec![Property::string("v")]), Some(b"\x01\0\0\0\x01\0\0\0\0\0\0\0v\0\0"));
        let deep = (0..100).fold(Property::Bool(true), |inner, _| Property::List(vec![inner]));
        assert!(deep.encode().is_some_and(|bytes| bytes.len() < 4096));
    }

    #[test]
    fn stream_attributes() {
        let mut state = StreamState::default();
        state.request.path = Bytes::from_static(b"/a?b=c");
        state.request.authority = Bytes::from_static(b"example");
        state.request.headers.append(HeaderName::COOKIE, Bytes::from_static(b"a"));
        state.request.headers.append(HeaderName::COOKIE, Bytes::from_static(b"b"));
        state.info.downstream_remote = Some(SocketAddr::from(([127, 0, 0, 1], 4321)));
        state.info.filter_state.insert("own.key".to_owned(), Bytes::from_static(b"v"));
        let check = |path: &str, expected: Option<&[u8]>| {
            let path: Vec<&str> = path.split('/').collect();
            let encoded = match of_stream(&state, &path) {
                Lookup::Found(value) => value.encode(),
                Lookup::Absent | Lookup::NotAValue => None,
            };
            assert_eq!(encoded.as_deref(), expected, "{path:?}");
        };
        check("request/path", Some(b"/a?b=c"));
        check("request/url_path", Some(b"/a"));
        check("request/query", Some(b"b=c"));
        check("request/method", Some(b"GET"));
        check("request/protocol", Some(b"HTTP/1.1"));
        check("request/headers/cookie", Some(b"a,b"));
        check("request/headers/:path", Some(b"/a?b=c"));
        check("request/headers/missing", None);
        check("request/nothing", None);
        check("response/code", None);
        check("response/headers", None);
        check("response/flags", Some(&[0; 8]));
        check("source/address", Some(b"127.0.0.1:4321"));
        check("source/port", Some(&4321i64.to_le_bytes()));
        check("destination/address", None);
        check("xds/listener_direction", Some(&[0; 8]));
        check("own/key", Some(b"v"));
        check("filter_state/wasm.own/key", Some(b"v"));
        check("cluster_name", None);
    }
}
