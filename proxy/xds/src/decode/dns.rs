//! STRICT_DNS and LOGICAL_DNS clusters: the legacy fields of `Cluster` and `envoy.clusters.dns`.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{DnsEndpoint, DnsFamily, DnsLocality, DnsOptions, DnsResolver, DnsTargets};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::cluster::v3 as cluster;
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::endpoint::v3 as endpoint;
use pb::envoy::extensions::clusters::common::dns::v3::DnsLookupFamily;
use pb::envoy::extensions::clusters::dns::v3::DnsCluster;
use pb::envoy::extensions::network::dns_resolver as resolvers;
use pb::google::protobuf;

use super::access_log::message;
use super::common::{duration, origin, socket_address, variant};
use super::endpoint::{lb_endpoint_with, locality_of};
use crate::Diagnostics;

const REFRESH: Duration = Duration::from_secs(5);

/// The targets of a cluster by the legacy fields.
#[expect(deprecated, reason = "the fields of the cluster are what everybody uses")]
pub(crate) fn legacy(
    proto: &cluster::Cluster,
    name: &Arc<str>,
    logical: bool,
    d: &mut Diagnostics,
) -> Option<DnsTargets> {
    use cluster::cluster::DnsLookupFamily as Family;
    let family = match variant::<Family>(proto.dns_lookup_family, "dns_lookup_family", d)? {
        Family::Auto => DnsFamily::Auto,
        Family::V4Only => DnsFamily::V4Only,
        Family::V6Only => DnsFamily::V6Only,
        Family::V4Preferred => DnsFamily::V4Preferred,
        Family::All => DnsFamily::All,
    };
    let failure = proto.dns_failure_refresh_rate.as_ref();
    let failure = failure.map(|rate| (rate.base_interval.as_ref(), rate.max_interval.as_ref()));
    let options = DnsOptions {
        refresh: refresh(proto.dns_refresh_rate.as_ref(), d),
        refresh_min: Duration::ZERO,
        jitter: duration(proto.dns_jitter.as_ref(), "dns_jitter", d).unwrap_or_default(),
        failure_refresh: failure.and_then(|failure| failure_refresh(failure, d)),
        respect_ttl: proto.respect_dns_ttl,
        family,
        resolver: legacy_resolver(proto, d),
    };
    targets(proto.load_assignment.as_ref(), name, logical, options, d)
}

/// The same by `cluster_type`.
pub(crate) fn typed(
    proto: &cluster::Cluster,
    config: &DnsCluster,
    name: &Arc<str>,
    d: &mut Diagnostics,
) -> Option<DnsTargets> {
    let options = d.at("cluster_type", |d| d.at("typed_config", |d| typed_options(config, d)))?;
    targets(proto.load_assignment.as_ref(), name, config.all_addresses_in_single_endpoint, options, d)
}

fn typed_options(config: &DnsCluster, d: &mut Diagnostics) -> Option<DnsOptions> {
    let family = match variant::<DnsLookupFamily>(config.dns_lookup_family, "dns_lookup_family", d)? {
        DnsLookupFamily::Unspecified | DnsLookupFamily::Auto => DnsFamily::Auto,
        DnsLookupFamily::V4Only => DnsFamily::V4Only,
        DnsLookupFamily::V6Only => DnsFamily::V6Only,
        DnsLookupFamily::V4Preferred => DnsFamily::V4Preferred,
        DnsLookupFamily::All => DnsFamily::All,
    };
    let failure = config.dns_failure_refresh_rate.as_ref();
    let failure = failure.map(|rate| (rate.base_interval.as_ref(), rate.max_interval.as_ref()));
    Some(DnsOptions {
        refresh: refresh(config.dns_refresh_rate.as_ref(), d),
        refresh_min: duration(config.dns_min_refresh_rate.as_ref(), "dns_min_refresh_rate", d).unwrap_or_default(),
        jitter: duration(config.dns_jitter.as_ref(), "dns_jitter", d).unwrap_or_default(),
        failure_refresh: failure.and_then(|failure| failure_refresh(failure, d)),
        respect_ttl: config.respect_dns_ttl,
        family,
        resolver: config.typed_dns_resolver_config.as_ref().and_then(|config| typed_resolver(config, d)),
    })
}

fn refresh(proto: Option<&protobuf::Duration>, d: &mut Diagnostics) -> Duration {
    let refresh = duration(proto, "dns_refresh_rate", d).unwrap_or(REFRESH);
    if refresh < Duration::from_millis(1) {
        d.at("dns_refresh_rate", |d| d.error("is less than a millisecond"));
    }
    refresh
}

fn failure_refresh(
    (base, max): (Option<&protobuf::Duration>, Option<&protobuf::Duration>),
    d: &mut Diagnostics,
) -> Option<(Duration, Duration)> {
    d.at("dns_failure_refresh_rate", |d| {
        let base = duration(base, "base_interval", d);
        if base.is_none_or(|base| base < Duration::from_millis(1)) {
            d.at("base_interval", |d| d.error("is required, and at least a millisecond"));
        }
        let base = base?;
        let max = duration(max, "max_interval", d).unwrap_or(base.saturating_mul(10));
        if max < base {
            d.at("max_interval", |d| d.error("is less than base_interval"));
        }
        Some((base, max.max(base)))
    })
}

fn targets(
    assignment: Option<&endpoint::ClusterLoadAssignment>,
    name: &Arc<str>,
    logical: bool,
    options: DnsOptions,
    d: &mut Diagnostics,
) -> Option<DnsTargets> {
    let Some(assignment) = assignment else {
        d.at("load_assignment", |d| d.error("is required for a cluster that is resolved through DNS"));
        return None;
    };
    let targets = d.at("load_assignment", |d| {
        let localities = assignment.endpoints.iter().enumerate();
        let mut localities: Vec<DnsLocality> =
            localities.filter_map(|(index, proto)| d.at_index("endpoints", index, |d| locality(proto, d))).collect();
        localities.sort_by_key(|locality| locality.place.priority);
        DnsTargets {
            name: Arc::clone(name),
            origin: origin(name, None, d),
            localities,
            policy: super::endpoint::policy(assignment, d),
            logical,
            options,
        }
    });
    if logical && targets.endpoints().count() != 1 {
        d.at("load_assignment", |d| d.error("has not exactly one endpoint, as LOGICAL_DNS asks for"));
    }
    Some(targets.named(name))
}

fn locality(proto: &endpoint::LocalityLbEndpoints, d: &mut Diagnostics) -> Option<DnsLocality> {
    let place = locality_of(proto, d)?;
    let endpoints = proto.lb_endpoints.iter().enumerate();
    let endpoints = endpoints.filter_map(|(index, proto)| d.at_index("lb_endpoints", index, |d| target(proto, d)));
    Some(DnsLocality { endpoints: endpoints.collect(), place })
}

fn target(proto: &endpoint::LbEndpoint, d: &mut Diagnostics) -> Option<DnsEndpoint> {
    let mut found = None;
    let template = lb_endpoint_with(proto, d, |address, d| {
        let (host, port) = host_and_port(address, d)?;
        found = Some(host);
        Some(SocketAddr::from((Ipv4Addr::UNSPECIFIED, port)).into())
    })?;
    Some(DnsEndpoint { host: found?, template })
}

/// A name and a port.
fn host_and_port(address: Option<&core::Address>, d: &mut Diagnostics) -> Option<(Arc<str>, u16)> {
    use core::socket_address::PortSpecifier;
    let Some(core::address::Address::SocketAddress(socket)) = address.and_then(|address| address.address.as_ref())
    else {
        d.error("only socket_address is supported");
        return None;
    };
    d.at("socket_address", |d| {
        if socket.protocol != core::socket_address::Protocol::Tcp as i32 {
            d.at("protocol", |d| d.error("only TCP is supported"));
        }
        if !socket.resolver_name.is_empty() {
            d.at("resolver_name", |d| d.error("is not supported"));
        }
        let port = match &socket.port_specifier {
            Some(PortSpecifier::PortValue(port)) => u16::try_from(*port).ok(),
            _ => None,
        };
        if port.is_none() {
            d.at("port_value", |d| d.error("is not a port number up to 65535"));
        }
        let is_name = !socket.address.is_empty()
            && socket.address.len() <= 253
            && socket.address.bytes().all(|byte| byte.is_ascii_graphic());
        if !is_name {
            d.at("address", |d| d.error(format!("{:?} is no host name", socket.address)));
        }
        Some((Arc::from(socket.address.as_str()), port?))
    })
}

/// What a cluster's legacy fields say of the resolver, the newest first.
#[expect(deprecated, reason = "the older fields are still in use")]
fn legacy_resolver(proto: &cluster::Cluster, d: &mut Diagnostics) -> Option<DnsResolver> {
    if let Some(config) = &proto.typed_dns_resolver_config {
        return typed_resolver(config, d);
    }
    if let Some(config) = &proto.dns_resolution_config {
        return Some(d.at("dns_resolution_config", |d| resolution_config(config, d)));
    }
    if proto.dns_resolvers.is_empty() && !proto.use_tcp_for_dns_lookups {
        return None;
    }
    Some(DnsResolver {
        servers: servers(&proto.dns_resolvers, "dns_resolvers", d),
        use_tcp: proto.use_tcp_for_dns_lookups,
        ..DnsResolver::default()
    })
}

/// `DnsResolutionConfig`.
pub(crate) fn resolution_config(proto: &core::DnsResolutionConfig, d: &mut Diagnostics) -> DnsResolver {
    let options = proto.dns_resolver_options.unwrap_or_default();
    DnsResolver {
        servers: servers(&proto.resolvers, "resolvers", d),
        use_tcp: options.use_tcp_for_dns_lookups,
        no_default_search_domain: options.no_default_search_domain,
        ..DnsResolver::default()
    }
}

/// `typed_dns_resolver_config`.
pub(crate) fn typed_resolver(proto: &core::TypedExtensionConfig, d: &mut Diagnostics) -> Option<DnsResolver> {
    d.at("typed_dns_resolver_config", |d| {
        let Some(config) = &proto.typed_config else {
            d.at("typed_config", |d| d.error("is required"));
            return None;
        };
        d.at("typed_config", |d| match type_url::message_name(&config.type_url) {
            name if name == type_url::message_name(type_url::DNS_CARES) => {
                let config: resolvers::cares::v3::CaresDnsResolverConfig = message(config, d)?;
                let options = config.dns_resolver_options.unwrap_or_default();
                Some(DnsResolver {
                    servers: servers(&config.resolvers, "resolvers", d),
                    use_tcp: options.use_tcp_for_dns_lookups,
                    no_default_search_domain: options.no_default_search_domain,
                    timeout: config.query_timeout_seconds.map(|time| Duration::from_secs(time.value.max(1))),
                    tries: config.query_tries.map(|tries| tries.value),
                })
            }
            name if name == type_url::message_name(type_url::DNS_HICKORY) => {
                let config: resolvers::hickory::v3::HickoryDnsResolverConfig = message(config, d)?;
                Some(DnsResolver {
                    servers: servers(&config.resolvers, "resolvers", d),
                    timeout: duration(config.query_timeout.as_ref(), "query_timeout", d),
                    tries: config.query_tries.map(|tries| tries.value),
                    ..DnsResolver::default()
                })
            }
            name if name == type_url::message_name(type_url::DNS_GETADDRINFO) => Some(DnsResolver::default()),
            name => {
                d.error(format!("type {name} is not supported"));
                None
            }
        })
    })
}

fn servers(proto: &[core::Address], field: &'static str, d: &mut Diagnostics) -> Vec<SocketAddr> {
    let server = |(index, address): (usize, &core::Address)| {
        d.at_index(field, index, |d| {
            // A server is asked over UDP, however the address says it.
            let mut address = address.clone();
            if let Some(core::address::Address::SocketAddress(socket)) = &mut address.address {
                socket.protocol = core::socket_address::Protocol::Tcp as i32;
            }
            let (address, _) = socket_address(Some(&address), d)?;
            Some(if address.port() == 0 { SocketAddr::new(address.ip(), 53) } else { address })
        })
    };
    proto.iter().enumerate().filter_map(server).collect()
}
