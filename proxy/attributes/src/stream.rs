//! The tree of properties that guests read: attributes of request, response, connection, upstream and node.
//!
//! Names are Envoy's (attributes.rst). Request attributes stay readable after the request's callbacks, which Envoy doesn't
//! do; names that it has dropped for `xds.*` are served as well, old filters ask for them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_http::{
    CertificateInfo, HeaderName, Headers, Metadata, RequestHead, ResponseHead, StreamInfo, StreamMetadata, StreamState,
    TimingPoint, TlsInfo, grpc_status_of_http,
};

use crate::messages;
use crate::names::XDS_METADATA;
use crate::value::{Lookup, Property};

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

/// A connection is no request and has no fields, but has begun, has a duration and sizes.
#[must_use]
pub fn of_connection(state: &StreamState, objects: Option<&dyn Objects>, path: &[&str]) -> Lookup {
    match path {
        ["request" | "response", "headers"] | ["response", "trailers"] => fields(None, &[]),
        ["request" | "response", "headers_bytes"] => found(int(0)),
        ["request", "total_size"] => found(int(state.info.request_body_bytes)),
        ["request", "time" | "duration" | "size"] | ["response", "flags" | "size" | "total_size" | "code_details"] => {
            of_stream(state, objects, path)
        }
        ["request" | "response", ..] => Lookup::Absent,
        ["upstream", "transport_failure_reason"] => found(text(&state.info.extras().upstream_transport_failure_reason)),
        path => of_stream(state, objects, path),
    }
}

/// Where facts of objects are found that streams only know by their names.
pub trait Objects {
    /// `xds.cluster_metadata`.
    fn cluster_metadata(&self, name: &str) -> Option<Arc<Metadata>> {
        _ = name;
        None
    }

    /// `upstream.num_endpoints`.
    fn cluster_endpoints(&self, name: &str) -> Option<usize> {
        _ = name;
        None
    }

    /// `xds.listener_metadata`.
    fn listener_metadata(&self, name: &str) -> Option<Arc<Metadata>> {
        _ = name;
        None
    }
}

/// What a path leads to in a stream.
#[must_use]
pub fn of_stream(state: &StreamState, objects: Option<&dyn Objects>, path: &[&str]) -> Lookup {
    let info = &state.info;
    match path {
        ["connection" | "source" | "destination" | "upstream" | "filter_state"] => Lookup::NotAValue,
        ["request", "headers", rest @ ..] => fields(Some(Message::Request(&state.request)), rest),
        ["response", "headers", rest @ ..] => fields(state.response.as_ref().map(Message::Response), rest),
        ["request", "trailers", rest @ ..] => fields(state.request_trailers.as_ref().map(Message::Fields), rest),
        ["response", "trailers", rest @ ..] => fields(state.response_trailers.as_ref().map(Message::Fields), rest),
        ["request", name] => found(request(state, name)),
        ["response", name] => found(response(state, name)),
        ["source", name] => found(address(info.remote(), name)),
        ["destination", name] => found(address(info.downstream.local, name)),
        ["connection", name] => found(connection(info, name)),
        ["connection_id"] => found(Some(Property::Uint(info.downstream.id))),
        ["upstream", "locality", rest @ ..] => {
            // An endpoint without a locality has an empty one.
            match info.upstream.as_ref().map(|upstream| &upstream.locality) {
                Some(Some(locality)) => messages::locality(locality, rest),
                Some(None) => messages::locality(&[const { String::new() }; 3], rest),
                None => Lookup::Absent,
            }
        }
        ["upstream", "num_endpoints"] => {
            let count =
                info.cluster_name.as_ref().zip(objects).and_then(|(name, objects)| objects.cluster_endpoints(name));
            found(count.map(|count| Property::Uint(count as u64)))
        }
        ["upstream", name] => found(upstream(info, name)),
        ["metadata", rest @ ..] => messages::metadata(info.metadata.as_ref().map(|all| &all.dynamic), rest),
        ["xds", name, rest @ ..] | [name, rest @ ..] if XDS_METADATA.contains(name) => {
            xds_metadata(info, objects, name, rest)
        }
        ["xds", name]
        | [name @ ("cluster_name" | "route_name" | "virtual_host_name" | "filter_chain_name" | "listener_direction")] => {
            found(xds(info, name))
        }
        ["filter_state", rest @ ..] => found(filter_state(info, &rest.join("."))),
        // What the upstream's connection would carry: nothing puts anything there.
        ["upstream_filter_state"] if info.upstream.is_some() => Lookup::NotAValue,
        ["upstream_filter_state", ..] => Lookup::Absent,
        path => found(filter_state(info, &format!("wasm.{}", path.join(".")))),
    }
}

fn filter_state(info: &StreamInfo, key: &str) -> Option<Property> {
    info.extras().filter_state.get(key).cloned().map(Property::Bytes)
}

/// An object's metadata. The metadata of what has none is an empty message, but for endpoints, which have no message then.
fn xds_metadata(info: &StreamInfo, objects: Option<&dyn Objects>, name: &str, path: &[&str]) -> Lookup {
    let endpoint = |pick: fn(&StreamMetadata) -> &Option<Arc<Metadata>>| {
        let found = info.metadata.as_deref().and_then(|all| pick(all).as_deref());
        match found {
            Some(found) => messages::metadata(Some(found), path),
            None if info.upstream.is_some() => Lookup::NotAValue,
            None => Lookup::Absent,
        }
    };
    let shown = |exists: bool, found: Option<&Arc<Metadata>>| match exists {
        true => messages::metadata(found.map(|found| &**found), path),
        false => Lookup::Absent,
    };
    match name {
        "virtual_host_metadata" => shown(info.virtual_host_name.is_some(), info.virtual_host_metadata.as_ref()),
        "route_metadata" => shown(info.virtual_host_name.is_some(), info.route_metadata.as_ref()),
        "listener_metadata" => {
            let found = objects.and_then(|objects| objects.listener_metadata(&info.listener.name));
            shown(true, found.as_ref().or(info.listener.metadata.as_ref()))
        }
        "cluster_metadata" => {
            let cluster = info.cluster_name.as_ref();
            let found = cluster.zip(objects).and_then(|(name, objects)| objects.cluster_metadata(name));
            shown(cluster.is_some(), found.as_ref().or(info.cluster_metadata.as_ref()))
        }
        "upstream_host_metadata" => endpoint(|all| &all.upstream_host),
        "upstream_host_locality_metadata" => endpoint(|all| &all.upstream_locality),
        _ => Lookup::Absent,
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
        "total_size" => int(bytes_of(Message::Request(head)).saturating_add(info.request_body_bytes)),
        "headers_bytes" => int(bytes_of(Message::Request(head))),
        _ => None,
    }
}

/// Names and values, as they are now.
fn bytes_of(map: Message<'_>) -> u64 {
    let mut bytes = 0;
    map.for_each(&mut |name, value| bytes += name.len() + value.len());
    bytes as u64
}

fn response_bytes(state: &StreamState) -> u64 {
    state.response.as_ref().map_or(0, |head| bytes_of(Message::Response(head)))
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
        "total_size" => int(response_bytes(state).saturating_add(info.response_body_bytes)),
        "headers_bytes" => int(response_bytes(state)),
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
    if let Some(told) = state.told_grpc_status() {
        return int(std::str::from_utf8(told).ok()?.parse().ok()?);
    }
    int(u64::from(grpc_status_of_http(head.status)))
}

fn address(address: Option<SocketAddr>, name: &str) -> Option<Property> {
    match name {
        "address" => text(&address?.to_string()),
        "port" => int(u64::from(address?.port())),
        _ => None,
    }
}

fn connection(info: &StreamInfo, name: &str) -> Option<Property> {
    let tls = info.downstream.tls.as_deref();
    match name {
        "id" => Some(Property::Uint(info.downstream.id)),
        "mtls" => Some(Property::Bool(tls.is_some_and(|tls| tls.peer.is_some()))),
        "requested_server_name" => text(tls.map_or("", |tls| &tls.server_name)),
        "transport_failure_reason" => not_empty(&info.downstream.transport_failure_reason),
        "termination_details" => not_empty(&info.extras().connection_termination_details),
        name => of_tls(tls?, name),
    }
}

/// What both sides tell of TLS.
fn of_tls(tls: &TlsInfo, name: &str) -> Option<Property> {
    let (local, peer) = (tls.local.as_deref(), tls.peer.as_deref());
    // Of no certificate it is an empty one; all else that is of none isn't there.
    let subject = |certificate: Option<&CertificateInfo>| text(certificate.map_or("", |known| &known.subject));
    let first = |sans: &[String]| text(sans.first()?);
    match name {
        "tls_version" => text(tls.version),
        "subject_local_certificate" => subject(local),
        "subject_peer_certificate" => subject(peer),
        "dns_san_local_certificate" => first(&local?.dns_sans),
        "dns_san_peer_certificate" => first(&peer?.dns_sans),
        "uri_san_local_certificate" => first(&local?.uri_sans),
        "uri_san_peer_certificate" => first(&peer?.uri_sans),
        "sha256_peer_certificate_digest" => text(&peer?.sha256),
        "peer_certificate" => text(&peer?.pem()),
        _ => None,
    }
}

fn not_empty(value: &str) -> Option<Property> {
    (!value.is_empty()).then(|| Property::string(value))
}

fn upstream(info: &StreamInfo, name: &str) -> Option<Property> {
    match name {
        "address" => text(&info.upstream.as_ref()?.remote.to_string()),
        "port" => address(info.upstream.as_ref()?.remote.socket(), name),
        "local_address" => text(&info.upstream.as_ref()?.local?.to_string()),
        "transport_failure_reason" if info.upstream.is_some() => text(&info.extras().upstream_transport_failure_reason),
        "transport_failure_reason" => not_empty(&info.extras().upstream_transport_failure_reason),
        "request_attempt_count" => Some(Property::Uint(u64::from(info.upstream_attempts))),
        "cx_pool_ready_duration" => {
            let ready = info.timings.get(TimingPoint::UpstreamReady)?;
            nanoseconds(ready.saturating_sub(info.timings.get(TimingPoint::UpstreamAsked)?))
        }
        name => of_tls(info.upstream.as_ref()?.tls.as_deref()?, name),
    }
}

fn xds(info: &StreamInfo, name: &str) -> Option<Property> {
    match name {
        "cluster_name" => text(info.cluster_name.as_deref()?),
        // A route without a name has an empty one.
        "route_name" => text(info.route_name.as_deref().or(info.virtual_host_name.as_deref().map(|_| ""))?),
        "virtual_host_name" => text(info.virtual_host_name.as_deref()?),
        "filter_chain_name" => text(&info.listener.chain_name),
        "listener_direction" => int(info.listener.direction as u64),
        _ => None,
    }
}

/// A head with its pseudo headers, or trailers.
#[derive(Clone, Copy)]
enum Message<'a> {
    Request(&'a RequestHead),
    Response(&'a ResponseHead),
    Fields(&'a Headers),
}

impl Message<'_> {
    fn for_each(self, each: &mut dyn FnMut(&[u8], &[u8])) {
        match self {
            Message::Request(head) => head.for_each_entry(each),
            Message::Response(head) => head.for_each_entry(each),
            Message::Fields(fields) => fields.iter().for_each(|(name, value)| each(name.as_bytes(), value)),
        }
    }
}

/// A header map, whole (repeated fields joined by commas) or one name of it. One that isn't there is empty.
fn fields(map: Option<Message<'_>>, path: &[&str]) -> Lookup {
    let Some(map) = map else {
        return if path.is_empty() { Lookup::Found(Property::Map(BTreeMap::new())) } else { Lookup::Absent };
    };
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
            let name = |name: Vec<u8>| String::from_utf8_lossy(&name).into_owned();
            let all = all.into_iter().map(|(key, value)| (name(key), Property::Bytes(value.into())));
            Lookup::Found(Property::Map(all.collect()))
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
    use std::rc::Rc;
    use std::sync::Arc;

    use outrigger_http::UpstreamInfo;

    use super::*;

    #[test]
    fn stream_attributes() {
        let mut state = StreamState::default();
        state.request.path = Bytes::from_static(b"/a?b=c");
        state.request.authority = Bytes::from_static(b"example");
        state.request.headers.append(HeaderName::COOKIE, Bytes::from_static(b"a"));
        state.request.headers.append(HeaderName::COOKIE, Bytes::from_static(b"b"));
        state.info.downstream_mut().remote = Some(SocketAddr::from(([127, 0, 0, 1], 4321)));
        state.info.extras_mut().filter_state.insert("wasm.own.key".to_owned(), Bytes::from_static(b"v"));
        let check = |path: &str, expected: Option<Property>| {
            let path: Vec<&str> = path.split('/').collect();
            let found = match of_stream(&state, None, &path) {
                Lookup::Found(value) => Some(value),
                Lookup::Absent | Lookup::NotAValue => None,
            };
            assert_eq!(found, expected, "{path:?}");
        };
        check("request/path", text("/a?b=c"));
        check("request/url_path", text("/a"));
        check("request/query", text("b=c"));
        check("request/method", text("GET"));
        check("request/protocol", text("HTTP/1.1"));
        check("request/headers/cookie", text("a,b"));
        check("request/headers/:path", text("/a?b=c"));
        check("request/headers/missing", None);
        check("request/nothing", None);
        check("response/code", None);
        check("response/headers", Some(Property::Map(BTreeMap::new())));
        check("response/headers/x", None);
        check("response/flags", Some(Property::Int(0)));
        check("source/address", text("127.0.0.1:4321"));
        check("source/port", Some(Property::Int(4321)));
        check("destination/address", None);
        check("xds/listener_direction", Some(Property::Int(0)));
        check("own/key", text("v"));
        check("filter_state/wasm.own/key", text("v"));
        check("cluster_name", None);
        check("connection/mtls", Some(Property::Bool(false)));
        check("connection/tls_version", None);
        check("metadata", text(""));
        check("xds/route_metadata", None);
        check("xds/listener_metadata", text(""));
        check("upstream/locality", None);
        check("upstream_filter_state/x", None);
    }

    #[test]
    fn tls_and_metadata() {
        let mut state = StreamState::default();
        let peer = CertificateInfo {
            subject: "CN=peer".to_owned(),
            dns_sans: vec!["a".to_owned(), "b".to_owned()],
            sha256: "00ff".to_owned(),
            ..CertificateInfo::default()
        };
        let tls = TlsInfo {
            version: "TLSv1.3",
            server_name: Arc::from("sni"),
            peer: Some(Arc::new(peer)),
            ..TlsInfo::default()
        };
        state.info.downstream_mut().tls = Some(Arc::new(tls.clone()));
        let mut upstream = UpstreamInfo::new(SocketAddr::from(([10, 0, 0, 1], 443)).into());
        upstream.tls = Some(Arc::new(tls));
        upstream.locality = Some(Arc::new(["r".to_owned(), "z".to_owned(), String::new()]));
        state.info.upstream = Some(Rc::new(upstream));
        let flag = outrigger_http::MetadataStruct::from([("flag".into(), outrigger_http::MetadataValue::Bool(true))]);
        let route = Metadata::new([("ns".into(), flag)].into());
        state.info.virtual_host_name = Some(Arc::from("host"));
        state.info.route_metadata = Some(Arc::new(route));
        let check = |path: &str, expected: Option<Property>| {
            let path: Vec<&str> = path.split('/').collect();
            let found = match of_stream(&state, None, &path) {
                Lookup::Found(value) => Some(value),
                Lookup::Absent | Lookup::NotAValue => None,
            };
            assert_eq!(found, expected, "{path:?}");
        };
        check("connection/mtls", Some(Property::Bool(true)));
        check("connection/requested_server_name", text("sni"));
        for side in ["connection", "upstream"] {
            check(&format!("{side}/tls_version"), text("TLSv1.3"));
            check(&format!("{side}/subject_peer_certificate"), text("CN=peer"));
            check(&format!("{side}/dns_san_peer_certificate"), text("a"));
            check(&format!("{side}/uri_san_peer_certificate"), None);
            check(&format!("{side}/subject_local_certificate"), text(""));
            check(&format!("{side}/uri_san_local_certificate"), None);
            check(&format!("{side}/sha256_peer_certificate_digest"), text("00ff"));
        }
        check("upstream/locality/zone", text("z"));
        check("xds/route_metadata/filter_metadata/ns/flag", Some(Property::Bool(true)));
        check("route_metadata/filter_metadata/ns/flag", Some(Property::Bool(true)));
    }
}
