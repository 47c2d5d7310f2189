//! `HttpConnectionManager` and its filters.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{
    Cidr, CodecType, EscapedSlashes, HttpConnectionManager, HttpFilter, HttpFilterKind, HttpLimits, PathNormalization,
    RouteSource, ServerHeader, UpgradeConfig,
};
use outrigger_config::{ClientCertDetails, ForwardClientCert};
use outrigger_proto::{pb, type_url};
use pb::envoy::extensions::filters::http::router::v3::Router;
use pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use pb::google::protobuf::Any;
use prost::Message;

use super::access_log::{access_logs, message};
use super::cluster::{http1_options, http2_options};
use super::common::{cidrs, config_source, duration, flag, name, number, timeout_or, variant};
use super::{discovered, native, route, wasm};
use crate::Diagnostics;

/// Filters that only observe: without them nothing is served or allowed that wouldn't be with them.
const OBSERVERS: &[&str] = &[
    "envoy.extensions.filters.http.grpc_stats.v3.FilterConfig",
    "stats.PluginConfig",
    "io.istio.http.peer_metadata.Config",
    "envoy.tcp.metadataexchange.config.MetadataExchange",
];

pub(crate) fn manager(proto: &hcm::HttpConnectionManager, d: &mut Diagnostics) -> Option<HttpConnectionManager> {
    const STREAM_IDLE: Duration = Duration::from_secs(300);
    const IDLE: Duration = Duration::from_secs(3600);
    let stat_prefix = name(&proto.stat_prefix, "stat_prefix", d);
    let codec = codec(proto, d);
    let routes = routes(proto.route_specifier.as_ref(), d);
    let filters = filters(&proto.http_filters, d);
    let common = proto.common_http_protocol_options.unwrap_or_default();
    let (idle_timeout, max_connection_duration, max_stream_duration, max_headers_count) =
        d.at("common_http_protocol_options", |d| {
            (
                timeout_or(common.idle_timeout.as_ref(), Some(IDLE), "idle_timeout", d),
                timeout_or(common.max_connection_duration.as_ref(), None, "max_connection_duration", d),
                timeout_or(common.max_stream_duration.as_ref(), None, "max_stream_duration", d),
                number(common.max_headers_count, 100, 1..=100_000, "max_headers_count", d),
            )
        });
    let kilobytes = number(proto.max_request_headers_kb, 60, 1..=8192, "max_request_headers_kb", d);
    let server_name = if proto.server_name.is_empty() { "envoy" } else { &proto.server_name };
    Some(HttpConnectionManager {
        stat_prefix,
        codec: codec?,
        routes: routes?,
        filters: filters?,
        access_logs: access_logs(&proto.access_log, d),
        tracing: super::tracing::tracing(proto.tracing.as_ref(), d),
        server_name: header_text(server_name, "server_name", d),
        server_header: server_header(proto.server_header_transformation, d),
        http1: http1_options(proto.http_protocol_options.as_ref()),
        http2: d.at("http2_protocol_options", |d| http2_options(proto.http2_protocol_options.as_ref(), d)),
        limits: HttpLimits { max_request_headers_bytes: kilobytes * 1024, max_headers_count },
        stream_idle_timeout: timeout_or(
            proto.stream_idle_timeout.as_ref(),
            Some(STREAM_IDLE),
            "stream_idle_timeout",
            d,
        ),
        request_timeout: timeout_or(proto.request_timeout.as_ref(), None, "request_timeout", d),
        request_headers_timeout: duration(proto.request_headers_timeout.as_ref(), "request_headers_timeout", d),
        idle_timeout,
        max_connection_duration,
        max_stream_duration,
        internal_addresses: internal_addresses(proto.internal_address_config.as_ref(), d),
        suppress_envoy_headers: suppresses(&proto.http_filters),
        max_requests_per_connection: common.max_requests_per_connection.map(|max| max.value).filter(|max| *max > 0),
        use_remote_address: flag(proto.use_remote_address, false),
        xff_num_trusted_hops: proto.xff_num_trusted_hops,
        skip_xff_append: proto.skip_xff_append,
        add_proxy_protocol_connection_state: flag(proto.add_proxy_protocol_connection_state, true),
        forward_client_cert: forward_client_cert(proto, d),
        client_cert_details: client_cert_details(proto),
        generate_request_id: flag(proto.generate_request_id, true),
        preserve_external_request_id: proto.preserve_external_request_id,
        always_set_request_id_in_response: proto.always_set_request_id_in_response,
        via: header_text(&proto.via, "via", d),
        path: path_normalization(proto, d),
        upgrades: upgrades(&proto.upgrade_configs, d),
    })
}

/// `internal_address_config`. A Unix socket's clients are none for us: they have no address to trust.
fn internal_addresses(
    proto: Option<&hcm::http_connection_manager::InternalAddressConfig>,
    d: &mut Diagnostics,
) -> Vec<Cidr> {
    let Some(proto) = proto else { return Vec::new() };
    d.at("internal_address_config", |d| cidrs(&proto.cidr_ranges, "cidr_ranges", d))
}

/// The router's own configuration. It is decoded again where it stands, which tells what is wrong with it.
fn suppresses(filters: &[hcm::HttpFilter]) -> bool {
    use hcm::http_filter::ConfigType;
    filters.iter().any(|filter| match &filter.config_type {
        Some(ConfigType::TypedConfig(config)) => {
            type_url::message_name(&config.type_url) == type_url::message_name(type_url::ROUTER)
                && Router::decode(&config.value[..]).is_ok_and(|router| router.suppress_envoy_headers)
        }
        _ => false,
    })
}

fn forward_client_cert(proto: &hcm::HttpConnectionManager, d: &mut Diagnostics) -> ForwardClientCert {
    use hcm::http_connection_manager::ForwardClientCertDetails as Proto;
    match variant(proto.forward_client_cert_details, "forward_client_cert_details", d) {
        Some(Proto::Sanitize) | None => ForwardClientCert::Sanitize,
        Some(Proto::ForwardOnly) => ForwardClientCert::ForwardOnly,
        Some(Proto::AppendForward) => ForwardClientCert::AppendForward,
        Some(Proto::SanitizeSet) => ForwardClientCert::SanitizeSet,
        Some(Proto::AlwaysForwardOnly) => ForwardClientCert::AlwaysForwardOnly,
    }
}

fn client_cert_details(proto: &hcm::HttpConnectionManager) -> ClientCertDetails {
    let details = proto.set_current_client_cert_details.unwrap_or_default();
    ClientCertDetails {
        subject: flag(details.subject, false),
        cert: details.cert,
        chain: details.chain,
        dns: details.dns,
        uri: details.uri,
    }
}

fn codec(proto: &hcm::HttpConnectionManager, d: &mut Diagnostics) -> Option<CodecType> {
    use hcm::http_connection_manager::CodecType as Proto;
    match variant(proto.codec_type, "codec_type", d)? {
        Proto::Auto => Some(CodecType::Auto),
        Proto::Http1 => Some(CodecType::Http1),
        Proto::Http2 => Some(CodecType::Http2),
        Proto::Http3 => {
            d.at("codec_type", |d| d.error("HTTP3 is not supported"));
            None
        }
    }
}

/// Text that stands in a header of every answer.
fn header_text(text: &str, field: &'static str, d: &mut Diagnostics) -> Bytes {
    if !outrigger_http::valid_value(text.as_bytes()) {
        d.at(field, |d| d.error("holds a line break or NUL"));
    }
    Bytes::copy_from_slice(text.as_bytes())
}

fn routes(proto: Option<&hcm::http_connection_manager::RouteSpecifier>, d: &mut Diagnostics) -> Option<RouteSource> {
    use hcm::http_connection_manager::RouteSpecifier as Specifier;
    match proto {
        Some(Specifier::Rds(rds)) => d.at("rds", |d| {
            let source = d.at("config_source", |d| config_source(rds.config_source.as_ref(), d));
            let name = name(&rds.route_config_name, "route_config_name", d);
            let (from, initial_fetch_timeout) = source?;
            Some(RouteSource::Rds { name, initial_fetch_timeout, from })
        }),
        Some(Specifier::RouteConfig(config)) => d.at("route_config", |d| {
            let config = route::route_config(Arc::from(config.name.as_str()), config, d)?;
            Some(RouteSource::Inline(Arc::new(config)))
        }),
        Some(Specifier::ScopedRoutes(_)) => {
            d.at("scoped_routes", |d| d.error("is not supported"));
            None
        }
        None => {
            d.error("has no routes: rds or route_config");
            None
        }
    }
}

fn path_normalization(proto: &hcm::HttpConnectionManager, d: &mut Diagnostics) -> PathNormalization {
    use hcm::http_connection_manager::{PathWithEscapedSlashesAction as Action, StripPortMode};
    let action = variant(proto.path_with_escaped_slashes_action, "path_with_escaped_slashes_action", d);
    let escaped_slashes = match action {
        Some(Action::ImplementationSpecificDefault | Action::KeepUnchanged) | None => EscapedSlashes::Keep,
        Some(Action::RejectRequest) => EscapedSlashes::Reject,
        Some(Action::UnescapeAndRedirect) => EscapedSlashes::UnescapeAndRedirect,
        Some(Action::UnescapeAndForward) => EscapedSlashes::UnescapeAndForward,
    };
    let strip_any_host_port = matches!(proto.strip_port_mode, Some(StripPortMode::StripAnyHostPort(true)));
    if strip_any_host_port && proto.strip_matching_host_port {
        d.at("strip_any_host_port", |d| d.error("is set together with strip_matching_host_port"));
    }
    PathNormalization {
        normalize_path: flag(proto.normalize_path, false),
        merge_slashes: proto.merge_slashes,
        escaped_slashes,
        strip_any_host_port,
        strip_matching_host_port: proto.strip_matching_host_port,
    }
}

fn upgrades(protos: &[hcm::http_connection_manager::UpgradeConfig], d: &mut Diagnostics) -> Vec<UpgradeConfig> {
    let mut upgrades: Vec<UpgradeConfig> = Vec::new();
    for (index, proto) in protos.iter().enumerate() {
        let upgrade_type = proto.upgrade_type.to_ascii_lowercase();
        d.at_index("upgrade_configs", index, |d| {
            if upgrade_type.is_empty() {
                d.at("upgrade_type", |d| d.error("is required"));
            } else if upgrades.iter().any(|upgrade| upgrade.upgrade_type == upgrade_type) {
                d.at("upgrade_type", |d| d.error("stands here twice"));
            }
        });
        upgrades.push(UpgradeConfig { upgrade_type, enabled: flag(proto.enabled, true) });
    }
    upgrades
}

/// The filters before the router, which ends the list and isn't in it.
fn filters(protos: &[hcm::HttpFilter], d: &mut Diagnostics) -> Option<Vec<HttpFilter>> {
    let mut filters = Vec::with_capacity(protos.len());
    let mut names = BTreeSet::new();
    let mut has_router = false;
    for (index, proto) in protos.iter().enumerate() {
        d.at_index("http_filters", index, |d| {
            let name = name(&proto.name, "name", d);
            if !names.insert(Arc::clone(&name)) {
                d.at("name", |d| d.error(format!("{name:?} stands here twice")));
            }
            if let Some(config) = route_filters_config(proto) {
                return d.at("typed_config", |d| route_filters(config, &mut names, &mut filters, d));
            }
            match filter_kind(&name, proto, d) {
                Filter::Router if index + 1 < protos.len() => d.error("the router is not the last filter"),
                Filter::Router if proto.disabled => d.at("disabled", |d| d.error("the router cannot be disabled")),
                Filter::Router => has_router = true,
                Filter::Kind(kind) => filters.push(HttpFilter { name, kind, disabled: proto.disabled }),
                Filter::None => {}
            }
        });
    }
    if !has_router {
        d.at("http_filters", |d| d.error("don't end with the router (envoy.filters.http.router)"));
    }
    Some(filters)
}

fn route_filters_config(proto: &hcm::HttpFilter) -> Option<&Any> {
    match &proto.config_type {
        Some(hcm::http_filter::ConfigType::TypedConfig(config)) => {
            let is_it = type_url::message_name(&config.type_url) == type_url::message_name(type_url::ROUTE_FILTERS);
            is_it.then_some(config)
        }
        _ => None,
    }
}

/// Filters that are off but for some routes, in one entry: from here on they are entries like others.
fn route_filters(config: &Any, names: &mut BTreeSet<Arc<str>>, filters: &mut Vec<HttpFilter>, d: &mut Diagnostics) {
    let Some(config) = message::<pb::outrigger::filters::http::wasm::v1::RouteFilters>(config, d) else { return };
    let Some(source) = &config.discovery else {
        return d.at("discovery", |d| d.error("is required"));
    };
    for (index, text) in config.names.iter().enumerate() {
        let name: Arc<str> = Arc::from(text.as_str());
        d.at_index("names", index, |d| {
            if name.is_empty() {
                d.error("is required");
            } else if !names.insert(Arc::clone(&name)) {
                d.error(format!("{name:?} stands here twice"));
            }
        });
        if let Some(found) = d.at("discovery", |d| discovered::filter(&name, source, d)) {
            filters.push(HttpFilter { name, kind: HttpFilterKind::Discovered(found), disabled: true });
        }
    }
}

enum Filter {
    Router,
    Kind(HttpFilterKind),
    /// Ignored, or wrong: the diagnostics say which.
    None,
}

fn filter_kind(name: &Arc<str>, proto: &hcm::HttpFilter, d: &mut Diagnostics) -> Filter {
    use hcm::http_filter::ConfigType;
    let config = match &proto.config_type {
        Some(ConfigType::TypedConfig(config)) => config,
        Some(ConfigType::ConfigDiscovery(source)) => {
            return d
                .at("config_discovery", |d| discovered::filter(name, source, d))
                .map_or(Filter::None, |found| Filter::Kind(HttpFilterKind::Discovered(found)));
        }
        None => {
            d.at("typed_config", |d| d.error("is required"));
            return Filter::None;
        }
    };
    if type_url::message_name(&config.type_url) == type_url::message_name(type_url::ROUTER) {
        return Filter::Router;
    }
    let plugin = d.at("typed_config", |d| wasm::plugin(name, config, d));
    if let Some(plugin) = plugin {
        return plugin.map_or(Filter::None, |plugin| Filter::Kind(HttpFilterKind::Wasm(Arc::new(plugin))));
    }
    if let Some(native) = d.at("typed_config", |d| native::filter(config, d)) {
        return native.map_or(Filter::None, |filter| Filter::Kind(HttpFilterKind::Native(filter)));
    }
    let message = inner_type(config);
    if OBSERVERS.contains(&message.as_str()) {
        d.ignore(format!("type {message} is not supported; the filter only observes and is ignored"));
    } else if proto.is_optional {
        d.ignore(format!("type {message} is not supported; the filter is optional and ignored"));
    } else {
        d.at("typed_config", |d| d.error(format!("type {message} is not supported")));
    }
    Filter::None
}

/// The name of the message in an `Any`, a `TypedStruct`'s own type unwrapped.
pub(crate) fn inner_type(config: &Any) -> String {
    /// `xds.type.v3.TypedStruct` and `udpa.type.v1.TypedStruct`, whose field 2 doesn't matter here.
    #[derive(Clone, PartialEq, Message)]
    struct TypedStruct {
        #[prost(string, tag = "1")]
        type_url: String,
    }
    let name = type_url::message_name(&config.type_url);
    let is_struct = [type_url::TYPED_STRUCT, type_url::UDPA_TYPED_STRUCT].map(type_url::message_name).contains(&name);
    match TypedStruct::decode(&config.value[..]) {
        Ok(inner) if is_struct => type_url::message_name(&inner.type_url).to_owned(),
        _ => name.to_owned(),
    }
}

fn server_header(proto: i32, d: &mut Diagnostics) -> ServerHeader {
    use hcm::http_connection_manager::ServerHeaderTransformation as Proto;
    match variant::<Proto>(proto, "server_header_transformation", d) {
        Some(Proto::Overwrite) | None => ServerHeader::Overwrite,
        Some(Proto::AppendIfAbsent) => ServerHeader::AppendIfAbsent,
        Some(Proto::PassThrough) => ServerHeader::PassThrough,
    }
}
