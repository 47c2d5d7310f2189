//! What many messages hold: durations, addresses, numbers with bounds, config sources, origins.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{Cidr, Metadata, MetadataStruct, MetadataValue, Origin, Source, StreamSource};
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::google::protobuf;

use crate::Diagnostics;

/// No name of a resource is longer.
const NAME_BYTES_MAX: usize = 4096;

/// A duration that is set and valid: not negative, and no longer than protobuf's 10,000 years.
pub(crate) fn duration(
    value: Option<&protobuf::Duration>,
    field: &'static str,
    diagnostics: &mut Diagnostics,
) -> Option<Duration> {
    let value = value?;
    let seconds = u64::try_from(value.seconds).ok().filter(|seconds| *seconds <= 315_576_000_000);
    let nanos = u32::try_from(value.nanos).ok().filter(|nanos| *nanos < 1_000_000_000);
    match (seconds, nanos) {
        (Some(seconds), Some(nanos)) => Some(Duration::new(seconds, nanos)),
        _ => {
            diagnostics.at(field, |d| d.error("is not a duration from 0 on"));
            None
        }
    }
}

/// A timeout where unset is `default` and zero is none.
pub(crate) fn timeout_or(
    value: Option<&protobuf::Duration>,
    default: Option<Duration>,
    field: &'static str,
    diagnostics: &mut Diagnostics,
) -> Option<Duration> {
    if value.is_none() {
        return default;
    }
    duration(value, field, diagnostics).filter(|duration| !duration.is_zero())
}

/// A number within bounds, `default` where it is unset.
pub(crate) fn number(
    value: Option<protobuf::UInt32Value>,
    default: u32,
    bounds: RangeInclusive<u32>,
    field: &'static str,
    diagnostics: &mut Diagnostics,
) -> u32 {
    let Some(value) = value.map(|value| value.value) else { return default };
    if !bounds.contains(&value) {
        let text = format!("{value} is not between {} and {}", bounds.start(), bounds.end());
        diagnostics.at(field, |d| d.error(text));
        return default;
    }
    value
}

/// A percentage in thousandths of a percent.
pub(crate) fn percent_millis(
    value: Option<&pb::envoy::r#type::v3::Percent>,
    default: f64,
    field: &'static str,
    diagnostics: &mut Diagnostics,
) -> u32 {
    let value = value.map_or(default, |value| value.value);
    if !(0.0..=100.0).contains(&value) {
        diagnostics.at(field, |d| d.error(format!("{value} is not between 0 and 100")));
        return 0;
    }
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "between 0 and 100,000")]
    let millis = (value * 1000.0).round() as u32;
    millis
}

pub(crate) fn flag(value: Option<protobuf::BoolValue>, default: bool) -> bool {
    value.map_or(default, |value| value.value)
}

/// A value of an enum; an unknown number is an error.
pub(crate) fn variant<E: TryFrom<i32>>(value: i32, field: &'static str, diagnostics: &mut Diagnostics) -> Option<E> {
    let variant = E::try_from(value).ok();
    if variant.is_none() {
        diagnostics.at(field, |d| d.error(format!("{value} is no value of this enum")));
    }
    variant
}

/// A name that must be there.
pub(crate) fn name(text: &str, field: &'static str, diagnostics: &mut Diagnostics) -> Arc<str> {
    if text.is_empty() {
        diagnostics.at(field, |d| d.error("is required"));
    } else if text.len() > NAME_BYTES_MAX {
        diagnostics.at(field, |d| d.error(format!("is longer than {NAME_BYTES_MAX} bytes")));
    }
    Arc::from(text)
}

/// An IP address and a TCP port, and `ipv4_compat`.
pub(crate) fn socket_address(
    address: Option<&core::Address>,
    diagnostics: &mut Diagnostics,
) -> Option<(SocketAddr, bool)> {
    use core::socket_address::{PortSpecifier, Protocol};
    let Some(address) = address else {
        diagnostics.error("is required");
        return None;
    };
    let socket = match &address.address {
        Some(core::address::Address::SocketAddress(socket)) => socket,
        Some(_) => {
            diagnostics.error("only socket_address is supported");
            return None;
        }
        None => {
            diagnostics.at("socket_address", |d| d.error("is required"));
            return None;
        }
    };
    diagnostics.at("socket_address", |d| {
        if socket.protocol != Protocol::Tcp as i32 {
            d.at("protocol", |d| d.error("only TCP is supported"));
        }
        let port = match &socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).ok(),
            Some(PortSpecifier::NamedPort(_)) => None,
            None => Some(0),
        };
        if port.is_none() {
            d.at("port_value", |d| d.error("is not a port number up to 65535"));
        }
        let ip: Option<IpAddr> = socket.address.parse().ok();
        if ip.is_none() {
            d.at("address", |d| d.error(format!("{:?} is no IP address (names are not resolved)", socket.address)));
        }
        Some((SocketAddr::new(ip?, port?), socket.ipv4_compat))
    })
}

/// Address prefixes.
pub(crate) fn cidrs(ranges: &[core::CidrRange], field: &'static str, diagnostics: &mut Diagnostics) -> Vec<Cidr> {
    let ranges = ranges.iter().enumerate();
    ranges.filter_map(|(index, range)| diagnostics.at_index(field, index, |d| cidr(range, d))).collect()
}

pub(crate) fn cidr(range: &core::CidrRange, diagnostics: &mut Diagnostics) -> Option<Cidr> {
    let address: Option<IpAddr> = range.address_prefix.parse().ok();
    if address.is_none() {
        diagnostics.at("address_prefix", |d| d.error(format!("{:?} is no IP address", range.address_prefix)));
    }
    let len = range.prefix_len.map_or(0, |len| len.value);
    let cidr = Cidr::new(address?, len);
    if cidr.is_none() {
        diagnostics.at("prefix_len", |d| d.error(format!("{len} is longer than the address")));
    }
    cidr
}

/// Where further resources are fetched, and for how long one waits for them.
pub(crate) fn config_source(
    source: Option<&core::ConfigSource>,
    diagnostics: &mut Diagnostics,
) -> Option<(Source, Option<Duration>)> {
    use core::config_source::ConfigSourceSpecifier as Specifier;
    let Some(source) = source else {
        diagnostics.error("is required");
        return None;
    };
    if is_v2(source.resource_api_version) {
        diagnostics.at("resource_api_version", |d| d.error("only V3 is supported"));
    }
    let timeout = duration(source.initial_fetch_timeout.as_ref(), "initial_fetch_timeout", diagnostics);
    let from = match &source.config_source_specifier {
        Some(Specifier::Ads(_)) => Source::Ads,
        // What came over ADS means ADS, what came from a file has no self.
        Some(Specifier::Self_(_)) if diagnostics.source == Source::Ads => Source::Ads,
        #[expect(deprecated, reason = "still in use")]
        Some(Specifier::Path(path)) => file(path, None, "path", diagnostics)?,
        Some(Specifier::PathConfigSource(file_source)) => {
            let watched = file_source.watched_directory.as_ref().map(|folder| folder.path.as_str());
            diagnostics.at("path_config_source", |d| file(&file_source.path, watched, "path", d))?
        }
        Some(Specifier::ApiConfigSource(_)) => {
            diagnostics.at("api_config_source", |d| d.error("streams of their own are not supported, use ads"));
            return None;
        }
        Some(Specifier::Self_(_)) | None => {
            diagnostics.error("names no source: ads or path_config_source");
            return None;
        }
    };
    Some((from, timeout))
}

/// Where a secret is fetched: a stream of its own will do, too.
pub(crate) fn secret_source(
    source: &core::ConfigSource,
    diagnostics: &mut Diagnostics,
) -> Option<(Source, Option<Duration>)> {
    use core::config_source::ConfigSourceSpecifier as Specifier;
    let Some(Specifier::ApiConfigSource(api)) = &source.config_source_specifier else {
        return config_source(Some(source), diagnostics);
    };
    let timeout = duration(source.initial_fetch_timeout.as_ref(), "initial_fetch_timeout", diagnostics);
    let stream = diagnostics.at("api_config_source", |d| stream_source(api, d))?;
    Some((Source::Stream(Arc::new(stream)), timeout))
}

/// A gRPC stream to a cluster.
pub(crate) fn stream_source(proto: &core::ApiConfigSource, d: &mut Diagnostics) -> Option<StreamSource> {
    use core::api_config_source::ApiType;
    let is_delta = match ApiType::try_from(proto.api_type) {
        Ok(ApiType::Grpc) => Some(false),
        Ok(ApiType::DeltaGrpc) => Some(true),
        Ok(other) => {
            let text = format!("{} is not supported, only GRPC and DELTA_GRPC", other.as_str_name());
            d.at("api_type", |d| d.error(text));
            None
        }
        Err(_) => {
            d.at("api_type", |d| d.error("is no value of this enum"));
            None
        }
    };
    if is_v2(proto.transport_api_version) {
        d.at("transport_api_version", |d| d.error("only V3 is supported"));
    }
    let [service] = &proto.grpc_services[..] else {
        d.at("grpc_services", |d| d.error("is required, one of them"));
        return None;
    };
    let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)) = &service.target_specifier else {
        d.at_index("grpc_services", 0, |d| d.at("envoy_grpc", |d| d.error("is required")));
        return None;
    };
    let cluster =
        d.at_index("grpc_services", 0, |d| d.at("envoy_grpc", |d| name(&grpc.cluster_name, "cluster_name", d)));
    let authority = if grpc.authority.is_empty() { &grpc.cluster_name } else { &grpc.authority };
    let initial_metadata =
        service.initial_metadata.iter().map(|header| (header.key.clone(), header.value.clone())).collect();
    Some(StreamSource { cluster, authority: authority.clone(), is_delta: is_delta?, initial_metadata })
}

/// Version 2 of the API, which Envoy has dropped too.
pub(crate) fn is_v2(version: i32) -> bool {
    #[expect(deprecated, reason = "named to be refused")]
    let v2 = core::ApiVersion::V2;
    version == v2 as i32
}

fn file(path: &str, watched: Option<&str>, field: &'static str, diagnostics: &mut Diagnostics) -> Option<Source> {
    if path.is_empty() {
        diagnostics.at(field, |d| d.error("is required"));
        return None;
    }
    let path: Arc<str> = Arc::from(path);
    if let Some(folder) = watched {
        diagnostics.watched.push((Arc::clone(&path), Arc::from(folder)));
    }
    Some(Source::File(path))
}

/// The origin of the resource that is validated.
pub(crate) fn origin(name: &Arc<str>, metadata: Option<&core::Metadata>, diagnostics: &Diagnostics) -> Arc<Origin> {
    Arc::new(Origin {
        source: diagnostics.source.clone(),
        name: Arc::clone(name),
        version: Arc::clone(&diagnostics.version),
        object: object(metadata),
    })
}

/// What our control plane notes at what it makes.
const OWN_NAMESPACE: &str = "outrigger.dev";

/// What the control plane made this from: `filter_metadata["outrigger.dev"]`, as `HTTPRoute shop/api (api.yaml:12)`.
pub(crate) fn object(metadata: Option<&core::Metadata>) -> Arc<str> {
    use protobuf::value::Kind;
    let Some(fields) = metadata.and_then(|metadata| metadata.filter_metadata.get(OWN_NAMESPACE)) else {
        return Arc::from("");
    };
    let text = |key: &str| match fields.fields.get(key).and_then(|value| value.kind.as_ref()) {
        Some(Kind::StringValue(text)) => text.clone(),
        Some(Kind::NumberValue(number)) => number.to_string(),
        _ => String::new(),
    };
    let join = |a: String, by: &str, b: String| match (a.is_empty(), b.is_empty()) {
        (false, false) => format!("{a}{by}{b}"),
        (true, _) => b,
        (_, true) => a,
    };
    let name = join(text("namespace"), "/", text("name"));
    let place = join(text("file"), ":", text("line"));
    let place = if place.is_empty() { place } else { format!("({place})") };
    Arc::from(join(join(text("kind"), " ", name), " ", place))
}

/// Says which typed metadata nobody looks at: all but that of `known`.
pub(crate) fn note_typed_metadata(
    proto: Option<&core::Metadata>,
    field: &'static str,
    known: &str,
    d: &mut Diagnostics,
) {
    for name in proto.iter().flat_map(|proto| proto.typed_filter_metadata.keys()).filter(|name| *name != known) {
        d.at(field, |d| d.at_key("typed_filter_metadata", name, |d| d.warn("is not supported")));
    }
}

/// `filter_metadata`; `None` where there is none.
pub(crate) fn metadata(proto: Option<&core::Metadata>) -> Option<Arc<Metadata>> {
    let proto = proto.filter(|proto| !proto.filter_metadata.is_empty())?;
    let namespaces =
        proto.filter_metadata.iter().map(|(name, fields)| (Arc::from(name.as_str()), metadata_struct(fields)));
    Some(Arc::new(Metadata::new(namespaces.collect())))
}

/// As [`metadata`], of what is shown to guests: without our control plane's own notes ([`object`]), which stand at every
/// object of a mesh and would be kept for nobody.
pub(crate) fn shown_metadata(proto: Option<&core::Metadata>, d: &mut Diagnostics) -> Option<Arc<Metadata>> {
    note_typed_metadata(proto, "metadata", "", d);
    let namespaces = &proto?.filter_metadata;
    let shown = namespaces.iter().filter(|(name, _)| *name != OWN_NAMESPACE);
    let shown: BTreeMap<_, _> =
        shown.map(|(name, fields)| (Arc::from(name.as_str()), metadata_struct(fields))).collect();
    (!shown.is_empty()).then(|| Arc::new(Metadata::new(shown)))
}

pub(crate) fn metadata_struct(proto: &protobuf::Struct) -> MetadataStruct {
    proto.fields.iter().map(|(key, value)| (Arc::from(key.as_str()), metadata_value(value))).collect()
}

pub(crate) fn metadata_value(proto: &protobuf::Value) -> MetadataValue {
    use protobuf::value::Kind;
    match &proto.kind {
        None | Some(Kind::NullValue(_)) => MetadataValue::Null,
        Some(Kind::BoolValue(value)) => MetadataValue::Bool(*value),
        Some(Kind::NumberValue(value)) => MetadataValue::number(*value),
        Some(Kind::StringValue(value)) => MetadataValue::String(Arc::from(value.as_str())),
        Some(Kind::ListValue(list)) => MetadataValue::List(list.values.iter().map(metadata_value).collect()),
        Some(Kind::StructValue(fields)) => MetadataValue::Struct(metadata_struct(fields)),
    }
}

/// The bytes of a data source, read now, at most `max` of them.
pub(crate) fn data_source(source: &core::DataSource, max: usize, diagnostics: &mut Diagnostics) -> Option<Bytes> {
    use core::data_source::Specifier;
    let (field, bytes) = match &source.specifier {
        Some(Specifier::InlineString(text)) => ("inline_string", Ok(Bytes::copy_from_slice(text.as_bytes()))),
        Some(Specifier::InlineBytes(bytes)) => ("inline_bytes", Ok(Bytes::copy_from_slice(bytes))),
        Some(Specifier::Filename(path)) => ("filename", read(path, max)),
        Some(Specifier::EnvironmentVariable(name)) => (
            "environment_variable",
            std::env::var(name).map(Bytes::from).map_err(|_| format!("the environment has no {name}")),
        ),
        None => {
            diagnostics.error("names no source");
            return None;
        }
    };
    diagnostics.at(field, |d| match bytes {
        Ok(bytes) if bytes.len() <= max => Some(bytes),
        Ok(bytes) => {
            d.error(format!("{} bytes are more than {max}", bytes.len()));
            None
        }
        Err(text) => {
            d.error(text);
            None
        }
    })
}

/// A regular file of at most `max` bytes, one more being read to notice a longer one.
fn read(path: &str, max: usize) -> Result<Bytes, String> {
    use std::io::Read;
    let text = |error: std::io::Error| format!("cannot read {path}: {error}");
    let file = std::fs::File::open(path).map_err(text)?;
    if !file.metadata().map_err(text)?.is_file() {
        return Err(format!("{path} is no regular file"));
    }
    let mut bytes = Vec::new();
    file.take(max as u64 + 1).read_to_end(&mut bytes).map_err(text)?;
    Ok(Bytes::from(bytes))
}

/// At least one element, all valid.
pub(crate) fn list<P, T>(
    protos: &[P],
    field: &'static str,
    d: &mut Diagnostics,
    mut decode: impl FnMut(&P, &mut Diagnostics) -> Option<T>,
) -> Option<Vec<T>> {
    if protos.is_empty() {
        d.at(field, |d| d.error("is required"));
        return None;
    }
    let decoded: Vec<Option<T>> =
        protos.iter().enumerate().map(|(index, proto)| d.at_index(field, index, |d| decode(proto, d))).collect();
    decoded.into_iter().collect()
}
