//! `Cluster`.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    AutoSni, CircuitBreakers, Cluster, Discovery, Http1Options, Http2Keepalive, Http2Options, LbOptions, LbPolicy,
    Preconnect, Protocol, Real, Resource, RetryBudget, TransportMatch, Transports, UpstreamHttpOptions,
};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::cluster::v3 as cluster;
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::upstreams::http::v3 as upstream;

use super::access_log::message;
use super::common::{
    config_source, duration, metadata_struct, name, number, origin, percent_millis, shown_metadata, timeout_or, variant,
};
use super::matcher::header_name;
use super::{Rejection, XdsResource, balancing, dns, endpoint, health_check, original_dst, outlier, tls};
use crate::Diagnostics;

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

impl XdsResource for Cluster {
    type Proto = cluster::Cluster;
    const TYPE_URL: &'static str = type_url::CLUSTER;

    fn name(proto: &Self::Proto) -> &str {
        &proto.name
    }

    fn validate(proto: Self::Proto, diagnostics: &mut Diagnostics) -> Result<Cluster, Rejection> {
        let d = diagnostics;
        let name = name(&proto.name, "name", d);
        let stat_name =
            if proto.alt_stat_name.is_empty() { Arc::clone(&name) } else { proto.alt_stat_name.as_str().into() };
        let connect_timeout = duration(proto.connect_timeout.as_ref(), "connect_timeout", d);
        if connect_timeout.is_some_and(|timeout| timeout.is_zero()) {
            d.at("connect_timeout", |d| d.error("is zero"));
        }
        let discovery = discovery(&proto, &name, d);
        let lb = match &discovery {
            Some(Discovery::OriginalDst(_)) => Some((LbPolicy::RoundRobin, LbOptions::default())),
            _ => balancing::decode(&proto, d),
        };
        let bind = proto.upstream_bind_config.as_ref();
        let bind = bind.map(|bind| d.at("upstream_bind_config", |d| Box::new(original_dst::bind(bind, d))));
        let outlier =
            proto.outlier_detection.as_ref().map(|proto| d.at("outlier_detection", |d| outlier::decode(proto, d)));
        let health_check = health_check::decode(&proto, d);
        let [breakers, high] = breakers(proto.circuit_breakers.as_ref(), d);
        let http = http_options(&proto, d);
        let transport = tls::upstream_transport(proto.transport_socket.as_ref(), d);
        let matches = transport_matches(&proto, d);
        let transports = transport
            .and_then(|default| Some(Transports { default, matches: matches? }))
            .inspect(|transports| check_alpn(transports, http.as_ref(), d));
        let buffer = number(
            proto.per_connection_buffer_limit_bytes,
            1 << 20,
            1..=1 << 30,
            "per_connection_buffer_limit_bytes",
            d,
        );
        let preconnect = preconnect(proto.preconnect_policy, d);
        let origin = origin(&name, proto.metadata.as_ref(), d);
        Ok(Cluster {
            name,
            stat_name,
            origin,
            metadata: shown_metadata(proto.metadata.as_ref(), d),
            discovery: discovery.ok_or(Rejection)?,
            lb: lb.as_ref().ok_or(Rejection)?.0,
            lb_options: lb.map(|(_, options)| options).filter(|options| *options != LbOptions::default()).map(Box::new),
            outlier: outlier.map(Box::new),
            health_check: health_check.map(Arc::new),
            ignore_health_on_host_removal: proto.ignore_health_on_host_removal,
            close_connections_on_health_failure: proto.close_connections_on_host_health_failure,
            connect_timeout: connect_timeout.unwrap_or(Duration::from_secs(5)),
            breakers: breakers.unwrap_or_default(),
            breakers_high: high.map(Box::new),
            http: http.ok_or(Rejection)?,
            per_connection_buffer_limit_bytes: buffer,
            tcp_keepalive: keepalive(proto.upstream_connection_options.as_ref()),
            bind,
            preconnect,
            transports: transports.ok_or(Rejection)?,
        })
    }

    fn into_resource(self) -> Resource {
        Resource::Cluster(Arc::new(self))
    }
}

fn discovery(proto: &cluster::Cluster, name: &Arc<str>, d: &mut Diagnostics) -> Option<Discovery> {
    use cluster::cluster::{ClusterDiscoveryType as Type, DiscoveryType};
    let kind = match &proto.cluster_discovery_type {
        None => DiscoveryType::Static,
        Some(Type::Type(kind)) => variant(*kind, "type", d)?,
        Some(Type::ClusterType(custom)) => return custom_discovery(proto, custom, name, d),
    };
    match kind {
        DiscoveryType::Static => {
            let Some(assignment) = &proto.load_assignment else {
                d.at("load_assignment", |d| d.error("is required for a STATIC cluster"));
                return None;
            };
            if proto.eds_cluster_config.is_some() {
                d.at("eds_cluster_config", |d| d.error("is set for a STATIC cluster"));
            }
            let assignment = d.at("load_assignment", |d| endpoint::assignment(Arc::clone(name), assignment, d));
            Some(Discovery::Static(Arc::new(assignment)))
        }
        DiscoveryType::Eds => {
            let Some(eds) = &proto.eds_cluster_config else {
                d.at("eds_cluster_config", |d| d.error("is required for an EDS cluster"));
                return None;
            };
            if proto.load_assignment.is_some() {
                d.at("load_assignment", |d| d.error("is set for an EDS cluster"));
            }
            let source =
                d.at("eds_cluster_config", |d| d.at("eds_config", |d| config_source(eds.eds_config.as_ref(), d)));
            let service = if eds.service_name.is_empty() { name } else { &Arc::from(eds.service_name.as_str()) };
            let (from, initial_fetch_timeout) = source?;
            Some(Discovery::Eds { service: Arc::clone(service), initial_fetch_timeout, from })
        }
        DiscoveryType::StrictDns | DiscoveryType::LogicalDns => {
            let targets = dns::legacy(proto, name, kind == DiscoveryType::LogicalDns, d);
            targets.map(|targets| Discovery::Dns(Arc::new(targets)))
        }
        DiscoveryType::OriginalDst => Some(Discovery::OriginalDst(original_dst::original_dst(proto, d))),
    }
}

/// `cluster_type`: of the extensions only `envoy.clusters.dns`.
fn custom_discovery(
    proto: &cluster::Cluster,
    custom: &cluster::cluster::CustomClusterType,
    name: &Arc<str>,
    d: &mut Diagnostics,
) -> Option<Discovery> {
    let config = custom.typed_config.as_ref();
    let config = config
        .filter(|config| type_url::message_name(&config.type_url) == type_url::message_name(type_url::DNS_CLUSTER));
    let Some(config) = config else {
        d.at("cluster_type", |d| d.error(format!("{} is not supported", custom.name)));
        return None;
    };
    let config = d.at("cluster_type", |d| d.at("typed_config", |d| message(config, d)))?;
    dns::typed(proto, &config, name, d).map(|targets| Discovery::Dns(Arc::new(targets)))
}

/// `None`: nothing is made ahead.
fn preconnect(proto: Option<cluster::cluster::PreconnectPolicy>, d: &mut Diagnostics) -> Option<Box<Preconnect>> {
    let proto = proto?;
    let mut ratio = |value: Option<pb::google::protobuf::DoubleValue>, field| {
        let value = value.map_or(1.0, |value| value.value);
        if !(1.0..=3.0).contains(&value) {
            d.at("preconnect_policy", |d| d.at(field, |d| d.error(format!("{value} is not between 1 and 3"))));
        }
        Real::new(value)
    };
    let policy = Preconnect {
        per_upstream_ratio: ratio(proto.per_upstream_preconnect_ratio, "per_upstream_preconnect_ratio"),
        predictive_ratio: ratio(proto.predictive_preconnect_ratio, "predictive_preconnect_ratio"),
    };
    let makes_none = policy.per_upstream_ratio.get() == 1.0 && policy.predictive_ratio.get() == 1.0;
    (!makes_none).then(|| Box::new(policy))
}

/// The thresholds of the priorities DEFAULT and HIGH.
fn breakers(proto: Option<&cluster::CircuitBreakers>, d: &mut Diagnostics) -> [Option<CircuitBreakers>; 2] {
    let mut found = [None, None];
    for (index, thresholds) in proto.map(|proto| proto.thresholds.iter()).into_iter().flatten().enumerate() {
        d.at("circuit_breakers", |d| {
            d.at_index("thresholds", index, |d| {
                let Some(priority) = variant::<core::RoutingPriority>(thresholds.priority, "priority", d) else {
                    return;
                };
                let slot = &mut found[usize::from(priority == core::RoutingPriority::High)];
                if slot.is_some() {
                    d.error(format!("the priority {} has thresholds already", priority.as_str_name()));
                }
                *slot = Some(breakers_of(thresholds, d));
            });
        });
    }
    found
}

fn breakers_of(proto: &cluster::circuit_breakers::Thresholds, d: &mut Diagnostics) -> CircuitBreakers {
    let default = CircuitBreakers::default();
    let value = |value: Option<pb::google::protobuf::UInt32Value>, default| value.map_or(default, |v| v.value);
    CircuitBreakers {
        max_connections: value(proto.max_connections, default.max_connections),
        max_pending_requests: value(proto.max_pending_requests, default.max_pending_requests),
        max_requests: value(proto.max_requests, default.max_requests),
        max_retries: value(proto.max_retries, default.max_retries),
        retry_budget: proto.retry_budget.as_ref().map(|budget| {
            d.at("retry_budget", |d| RetryBudget {
                percent_millis: percent_millis(budget.budget_percent.as_ref(), 20.0, "budget_percent", d),
                min_retry_concurrency: value(budget.min_retry_concurrency, 3),
            })
        }),
        track_remaining: proto.track_remaining,
    }
}

/// `typed_extension_protocol_options`, or the older fields of the cluster.
#[expect(deprecated, reason = "the older fields are still in use")]
fn http_options(proto: &cluster::Cluster, d: &mut Diagnostics) -> Option<UpstreamHttpOptions> {
    let mut options = UpstreamHttpOptions::default();
    if let Some(key) = proto.typed_extension_protocol_options.keys().find(|key| *key != HTTP_OPTIONS) {
        d.at_key("typed_extension_protocol_options", key, |d| d.error("is not supported"));
    }
    if let Some(config) = proto.typed_extension_protocol_options.get(HTTP_OPTIONS) {
        return d.at_key("typed_extension_protocol_options", HTTP_OPTIONS, |d| {
            let name = type_url::message_name(&config.type_url);
            if name != type_url::message_name(type_url::HTTP_PROTOCOL_OPTIONS) {
                d.error(format!("type {name} is not supported"));
                return None;
            }
            let config: upstream::HttpProtocolOptions = message(config, d)?;
            typed_http_options(&config, d)
        });
    }
    if let Some(common) = &proto.common_http_protocol_options {
        d.at("common_http_protocol_options", |d| common_options(common, &mut options, d));
    }
    if let Some(max) = proto.max_requests_per_connection {
        options.max_requests_per_connection = Some(max.value).filter(|max| *max > 0);
    }
    options.http1 = http1_options(proto.http_protocol_options.as_ref());
    if let Some(http2) = &proto.http2_protocol_options {
        options.protocol = Protocol::Http2;
        options.http2 = d.at("http2_protocol_options", |d| http2_options(Some(http2), d));
    }
    if proto.protocol_selection == cluster::cluster::ClusterProtocolSelection::UseDownstreamProtocol as i32 {
        options.protocol = Protocol::Downstream;
    }
    Some(options)
}

fn typed_http_options(proto: &upstream::HttpProtocolOptions, d: &mut Diagnostics) -> Option<UpstreamHttpOptions> {
    use upstream::http_protocol_options::UpstreamProtocolOptions as Options;
    use upstream::http_protocol_options::explicit_http_config::ProtocolConfig;
    let mut options = UpstreamHttpOptions::default();
    if let Some(common) = &proto.common_http_protocol_options {
        d.at("common_http_protocol_options", |d| common_options(common, &mut options, d));
    }
    let names = proto.upstream_http_protocol_options.as_ref();
    options.auto_sni = d.at("upstream_http_protocol_options", |d| auto_sni(names, d));
    match &proto.upstream_protocol_options {
        Some(Options::ExplicitHttpConfig(explicit)) => {
            d.at("explicit_http_config", |d| match &explicit.protocol_config {
                Some(ProtocolConfig::HttpProtocolOptions(http1)) => options.http1 = http1_options(Some(http1)),
                Some(ProtocolConfig::Http2ProtocolOptions(http2)) => {
                    options.protocol = Protocol::Http2;
                    options.http2 = d.at("http2_protocol_options", |d| http2_options(Some(http2), d));
                }
                Some(ProtocolConfig::Http3ProtocolOptions(_)) => {
                    d.at("http3_protocol_options", |d| d.error("is not supported"));
                }
                None => d.error("names no protocol"),
            })
        }
        Some(Options::UseDownstreamProtocolConfig(both)) => d.at("use_downstream_protocol_config", |d| {
            options.protocol = Protocol::Downstream;
            options.http1 = http1_options(both.http_protocol_options.as_ref());
            options.http2 = d.at("http2_protocol_options", |d| http2_options(both.http2_protocol_options.as_ref(), d));
        }),
        Some(Options::AutoConfig(auto)) => d.at("auto_config", |d| {
            options.protocol = Protocol::Alpn;
            options.http1 = http1_options(auto.http_protocol_options.as_ref());
            options.http2 = d.at("http2_protocol_options", |d| http2_options(auto.http2_protocol_options.as_ref(), d));
        }),
        None => d.error("names no protocol: explicit_http_config, use_downstream_protocol_config or auto_config"),
    }
    Some(options)
}

fn auto_sni(proto: Option<&core::UpstreamHttpProtocolOptions>, d: &mut Diagnostics) -> Option<AutoSni> {
    let proto = proto?;
    let name = proto.override_auto_sni_header.as_str();
    let header = match name {
        "" => None,
        name => d.at("override_auto_sni_header", |d| header_name(name, d)),
    };
    if !proto.auto_sni {
        if proto.auto_san_validation {
            d.at("auto_san_validation", |d| d.error("needs auto_sni"));
        }
        return None;
    }
    Some(AutoSni { header, validates_san: proto.auto_san_validation })
}

fn common_options(proto: &core::HttpProtocolOptions, options: &mut UpstreamHttpOptions, d: &mut Diagnostics) {
    options.idle_timeout = timeout_or(proto.idle_timeout.as_ref(), options.idle_timeout, "idle_timeout", d);
    options.max_connection_duration =
        timeout_or(proto.max_connection_duration.as_ref(), None, "max_connection_duration", d);
    if let Some(max) = proto.max_requests_per_connection {
        options.max_requests_per_connection = Some(max.value).filter(|max| *max > 0);
    }
    // The head of a response is bounded by the proxy itself.
    if proto.max_headers_count.is_some() {
        d.at("max_headers_count", |d| d.warn("of responses is fixed"));
    }
}

pub(crate) fn http1_options(proto: Option<&core::Http1ProtocolOptions>) -> Http1Options {
    proto.map_or_else(Http1Options::default, |proto| Http1Options {
        enable_trailers: proto.enable_trailers,
        accept_http_10: proto.accept_http_10,
    })
}

pub(crate) fn http2_options(proto: Option<&core::Http2ProtocolOptions>, d: &mut Diagnostics) -> Http2Options {
    const MAX: u32 = i32::MAX as u32;
    let default = Http2Options::default();
    let Some(proto) = proto else { return default };
    Http2Options {
        max_concurrent_streams: number(
            proto.max_concurrent_streams,
            default.max_concurrent_streams,
            1..=MAX,
            "max_concurrent_streams",
            d,
        ),
        initial_stream_window_bytes: number(
            proto.initial_stream_window_size,
            default.initial_stream_window_bytes,
            65_535..=MAX,
            "initial_stream_window_size",
            d,
        ),
        initial_connection_window_bytes: number(
            proto.initial_connection_window_size,
            default.initial_connection_window_bytes,
            65_535..=MAX,
            "initial_connection_window_size",
            d,
        ),
        keepalive: proto.connection_keepalive.as_ref().and_then(|keepalive| {
            d.at("connection_keepalive", |d| {
                let timeout = duration(keepalive.timeout.as_ref(), "timeout", d);
                if timeout.is_none_or(|timeout| timeout.is_zero()) {
                    d.at("timeout", |d| d.error("is required, and not zero"));
                }
                let jitter_millis = percent_millis(keepalive.interval_jitter.as_ref(), 15.0, "interval_jitter", d);
                let interval = duration(keepalive.interval.as_ref(), "interval", d).filter(|every| !every.is_zero())?;
                Some(Http2Keepalive {
                    interval: interval.max(Duration::from_millis(1)),
                    timeout: timeout?,
                    jitter_millis,
                })
            })
        }),
    }
}

/// Only TLS lets a server choose its protocol.
fn check_alpn(transports: &Transports, http: Option<&UpstreamHttpOptions>, d: &mut Diagnostics) {
    if http.is_some_and(|http| http.protocol == Protocol::Alpn) && !transports.are_secure() {
        d.at_key("typed_extension_protocol_options", HTTP_OPTIONS, |d| {
            d.at("auto_config", |d| d.error("needs transport sockets of TLS, all of them"));
        });
    }
}

fn transport_matches(proto: &cluster::Cluster, d: &mut Diagnostics) -> Option<Vec<TransportMatch>> {
    let matches = proto.transport_socket_matches.iter().enumerate();
    let decoded = matches.map(|(index, proto)| {
        d.at_index("transport_socket_matches", index, |d| {
            let name = name(&proto.name, "name", d);
            let criteria = proto.r#match.as_ref().map(metadata_struct).unwrap_or_default();
            let transport = tls::upstream_transport(proto.transport_socket.as_ref(), d)?;
            Some(TransportMatch { name, criteria, transport })
        })
    });
    // All of them, so that every problem is told.
    decoded.collect::<Vec<_>>().into_iter().collect()
}

fn keepalive(proto: Option<&cluster::UpstreamConnectionOptions>) -> Option<(u32, u32, u32)> {
    let proto = proto?.tcp_keepalive.as_ref()?;
    let value = |value: Option<pb::google::protobuf::UInt32Value>, default| value.map_or(default, |value| value.value);
    // The defaults of Linux.
    Some((value(proto.keepalive_time, 7200), value(proto.keepalive_interval, 75), value(proto.keepalive_probes, 9)))
}
