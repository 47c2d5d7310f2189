//! `HttpConnectionManager.tracing`: spans over OTLP. Tracers of other kinds only observe: they are ignored with a warning.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{CustomTag, OtlpTransport, Share, TagValue, Tracer, Tracing};
use outrigger_http::HeaderName;
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::trace::v3 as trace;
use pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use pb::envoy::r#type::tracing::v3 as custom;
use pb::envoy::r#type::v3::Percent;

use super::access_log::message;
use super::common::{duration, number};
use crate::Diagnostics;

const TIMEOUT: Duration = Duration::from_secs(5);
const PATH_BYTES: u32 = 256;
const OPEN_TELEMETRY: &str = "envoy.config.trace.v3.OpenTelemetryConfig";

pub(super) fn tracing(
    proto: Option<&hcm::http_connection_manager::Tracing>,
    d: &mut Diagnostics,
) -> Option<Arc<Tracing>> {
    let proto = proto?;
    d.at("tracing", |d| {
        let provider = proto.provider.as_ref();
        let Some(trace::tracing::http::ConfigType::TypedConfig(config)) = provider.and_then(|p| p.config_type.as_ref())
        else {
            // Envoy takes the bootstrap's tracer then, which this proxy doesn't have.
            d.ignore("has no provider: nothing is traced");
            return None;
        };
        let tracer = d.at("provider", |d| {
            d.at("typed_config", |d| match type_url::message_name(&config.type_url) {
                OPEN_TELEMETRY => tracer(&message(config, d)?, d),
                name => {
                    d.ignore(format!("type {name} is not supported; it only observes and is ignored"));
                    None
                }
            })
        })?;
        let share = |percent: Option<Percent>| percent.map_or(Share::ALL, |percent| Share::from_percent(percent.value));
        let path_bytes = number(proto.max_path_tag_length, PATH_BYTES, 0..=65_536, "max_path_tag_length", d);
        let tags = proto.custom_tags.iter().enumerate();
        Some(Arc::new(Tracing {
            tracer: Arc::new(tracer),
            client_sampling: share(proto.client_sampling),
            random_sampling: share(proto.random_sampling),
            overall_sampling: share(proto.overall_sampling),
            path_bytes_max: usize::try_from(path_bytes).unwrap_or(usize::MAX),
            tags: tags.filter_map(|(index, tag)| d.at_index("custom_tags", index, |d| custom_tag(tag, d))).collect(),
        }))
    })
}

fn tracer(proto: &trace::OpenTelemetryConfig, d: &mut Diagnostics) -> Option<Tracer> {
    let (cluster, timeout, transport) = match (&proto.grpc_service, &proto.http_service) {
        (Some(service), None) => d.at("grpc_service", |d| grpc(service, d))?,
        (None, Some(service)) => d.at("http_service", |d| http(service, d))?,
        (Some(_), Some(_)) => {
            d.at("http_service", |d| d.error("is set together with grpc_service"));
            return None;
        }
        (None, None) => {
            d.ignore("names no collector: nothing is traced");
            return None;
        }
    };
    let service_name = if proto.service_name.is_empty() { "unknown_service:envoy" } else { &proto.service_name };
    let spans_max = number(proto.max_cache_size, 1024, 1..=1_000_000, "max_cache_size", d);
    Some(Tracer {
        cluster,
        transport,
        service_name: Arc::from(service_name),
        timeout,
        spans_max: usize::try_from(spans_max).unwrap_or(usize::MAX),
    })
}

type Collector = (Arc<str>, Duration, OtlpTransport);

fn grpc(service: &core::GrpcService, d: &mut Diagnostics) -> Option<Collector> {
    let Some(core::grpc_service::TargetSpecifier::EnvoyGrpc(grpc)) = &service.target_specifier else {
        d.at("envoy_grpc", |d| d.error("is required"));
        return None;
    };
    let timeout = duration(service.timeout.as_ref(), "timeout", d).filter(|timeout| !timeout.is_zero());
    let authority = if grpc.authority.is_empty() { &grpc.cluster_name } else { &grpc.authority };
    let metadata = service.initial_metadata.iter().map(|header| (header.key.clone(), header.value.clone())).collect();
    let transport = OtlpTransport::Grpc { authority: authority.clone(), metadata };
    Some((Arc::from(grpc.cluster_name.as_str()), timeout.unwrap_or(TIMEOUT), transport))
}

fn http(service: &core::HttpService, d: &mut Diagnostics) -> Option<Collector> {
    let Some(uri) = &service.http_uri else {
        d.at("http_uri", |d| d.error("is required"));
        return None;
    };
    let (authority, path) = d.at("http_uri", |d| {
        let Some((authority, path)) = split(&uri.uri) else {
            d.at("uri", |d| d.error(format!("{:?} is no http or https URI with a host", uri.uri)));
            return None;
        };
        Some((authority.to_owned(), path.to_owned()))
    })?;
    let Some(core::http_uri::HttpUpstreamType::Cluster(cluster)) = &uri.http_upstream_type else {
        d.at("http_uri", |d| d.at("cluster", |d| d.error("is required")));
        return None;
    };
    let timeout = d.at("http_uri", |d| duration(uri.timeout.as_ref(), "timeout", d));
    let headers = service.request_headers_to_add.iter().enumerate().filter_map(|(index, option)| {
        let header = option.header.as_ref()?;
        if header.value.contains('%') {
            d.at_index("request_headers_to_add", index, |d| d.error("formatters are not supported here"));
        }
        Some((header.key.clone(), header.value.clone()))
    });
    let headers = headers.collect();
    let transport = OtlpTransport::Http { authority, path, headers };
    let timeout = timeout.filter(|timeout| !timeout.is_zero()).unwrap_or(TIMEOUT);
    Some((Arc::from(cluster.as_str()), timeout, transport))
}

fn split(uri: &str) -> Option<(&str, &str)> {
    // How an endpoint is spoken to is its cluster's to say.
    let rest = uri.strip_prefix("http://").or_else(|| uri.strip_prefix("https://"))?;
    let at = rest.find('/').unwrap_or(rest.len());
    let (authority, path) = rest.split_at(at);
    let valid = !authority.is_empty() && uri.bytes().all(|byte| byte.is_ascii_graphic());
    valid.then_some((authority, if path.is_empty() { "/" } else { path }))
}

fn custom_tag(proto: &custom::CustomTag, d: &mut Diagnostics) -> Option<CustomTag> {
    use custom::custom_tag::Type;
    if proto.tag.is_empty() {
        d.at("tag", |d| d.error("is required"));
        return None;
    }
    let value = match &proto.r#type {
        Some(Type::Literal(literal)) => TagValue::Literal(Arc::from(literal.value.as_str())),
        Some(Type::Environment(variable)) => {
            let value = std::env::var(&variable.name).unwrap_or_else(|_| variable.default_value.clone());
            TagValue::Literal(Arc::from(value))
        }
        Some(Type::RequestHeader(header)) => {
            let Ok(name) = HeaderName::from_bytes(header.name.to_ascii_lowercase().as_bytes()) else {
                d.at("request_header", |d| d.at("name", |d| d.error(format!("{:?} is no header name", header.name))));
                return None;
            };
            TagValue::RequestHeader { name, default: Bytes::from(header.default_value.clone().into_bytes()) }
        }
        _ => {
            d.ignore("only literal, environment and request_header are supported; the tag is left out");
            return None;
        }
    };
    Some(CustomTag { name: Arc::from(proto.tag.as_str()), value })
}
