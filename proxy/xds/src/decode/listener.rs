//! `Listener`, its network filters, and `TcpProxy`.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{Listener, NetworkFilter, Resource, Source, TcpCluster, TcpProxy};
use outrigger_http::Direction;
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::listener::v3 as listener;
use pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;

use super::access_log::{access_logs, message};
use super::common::{name, number, origin, socket_address, timeout_or, variant};
use super::filter_chain::chains;
use super::{Rejection, XdsResource, http};
use crate::Diagnostics;

/// Network filters that only observe.
const OBSERVERS: &[&str] = &["envoy.tcp.metadataexchange.config.MetadataExchange", "stats.PluginConfig"];

impl XdsResource for Listener {
    type Proto = listener::Listener;
    const TYPE_URL: &'static str = type_url::LISTENER;

    fn name(proto: &Self::Proto) -> &str {
        &proto.name
    }

    fn validate(proto: Self::Proto, d: &mut Diagnostics) -> Result<Listener, Rejection> {
        let address = d.at("address", |d| socket_address(proto.address.as_ref(), d));
        // Only a listener of the bootstrap may go without a name: nothing else tells dynamic ones apart.
        let name = match (proto.name.as_str(), &d.source, address) {
            ("", Source::Static, Some((address, _))) => Arc::from(address.to_string()),
            (text, ..) => name(text, "name", d),
        };
        let direction = match variant(proto.traffic_direction, "traffic_direction", d) {
            Some(core::TrafficDirection::Inbound) => Direction::Inbound,
            Some(core::TrafficDirection::Outbound) => Direction::Outbound,
            Some(core::TrafficDirection::Unspecified) | None => Direction::Unspecified,
        };
        let chains = chains(&proto, d);
        let access_logs = access_logs(&proto.access_log, d);
        let buffer = number(
            proto.per_connection_buffer_limit_bytes,
            1 << 20,
            1..=1 << 30,
            "per_connection_buffer_limit_bytes",
            d,
        );
        let backlog = number(proto.tcp_backlog_size, 1024, 1..=65_535, "tcp_backlog_size", d);
        let origin = origin(&name, proto.metadata.as_ref(), d);
        let (address, ipv4_compat) = address.ok_or(Rejection)?;
        let (chains, table) = chains.ok_or(Rejection)?;
        Ok(Listener {
            name,
            stat_prefix: stat_prefix(&proto.stat_prefix, address),
            origin,
            address,
            ipv4_compat,
            direction,
            chains,
            table,
            per_connection_buffer_limit_bytes: buffer,
            backlog,
            ignores_connection_limit: proto.ignore_global_conn_limit,
            bypasses_overload: proto.bypass_overload_manager,
            access_logs,
        })
    }

    fn into_resource(self) -> Resource {
        Resource::Listener(Arc::new(self))
    }
}

/// The address without colons, as Envoy names a listener in its statistics.
fn stat_prefix(given: &str, address: SocketAddr) -> Arc<str> {
    if given.is_empty() { Arc::from(address.to_string().replace(':', "_")) } else { Arc::from(given) }
}

pub(super) fn network_filter(proto: &listener::Filter, d: &mut Diagnostics) -> Option<NetworkFilter> {
    let Some(listener::filter::ConfigType::TypedConfig(config)) = &proto.config_type else {
        d.at("typed_config", |d| d.error("is required"));
        return None;
    };
    let kind = type_url::message_name(&config.type_url);
    if kind == type_url::message_name(type_url::HTTP_CONNECTION_MANAGER) {
        return d.at("typed_config", |d| {
            let proto: hcm::HttpConnectionManager = message(config, d)?;
            http::manager(&proto, d).map(|manager| NetworkFilter::Http(Arc::new(manager)))
        });
    }
    if kind == type_url::message_name(type_url::TCP_PROXY) {
        return d.at("typed_config", |d| {
            let proto: tcp_proxy::TcpProxy = message(config, d)?;
            tcp(&proto, d).map(|proxy| NetworkFilter::Tcp(Arc::new(proxy)))
        });
    }
    let kind = http::inner_type(config);
    if OBSERVERS.contains(&kind.as_str()) {
        d.ignore(format!("type {kind} is not supported; the filter only observes and is ignored"));
    } else {
        d.at("typed_config", |d| d.error(format!("type {kind} is not supported")));
    }
    None
}

fn tcp(proto: &tcp_proxy::TcpProxy, d: &mut Diagnostics) -> Option<TcpProxy> {
    use tcp_proxy::tcp_proxy::ClusterSpecifier;
    const IDLE: Duration = Duration::from_secs(3600);
    let stat_prefix = name(&proto.stat_prefix, "stat_prefix", d);
    let clusters = match &proto.cluster_specifier {
        Some(ClusterSpecifier::Cluster(cluster)) => vec![TcpCluster { name: name(cluster, "cluster", d), weight: 1 }],
        Some(ClusterSpecifier::WeightedClusters(weighted)) => d.at("weighted_clusters", |d| {
            let clusters = weighted.clusters.iter().enumerate();
            let cluster = |(index, cluster): (usize, &tcp_proxy::tcp_proxy::weighted_cluster::ClusterWeight)| {
                d.at_index("clusters", index, |d| {
                    if cluster.weight == 0 {
                        d.at("weight", |d| d.error("is required, at least 1"));
                    }
                    TcpCluster { name: name(&cluster.name, "name", d), weight: cluster.weight }
                })
            };
            clusters.map(cluster).collect()
        }),
        None => {
            d.error("names no cluster: cluster or weighted_clusters");
            return None;
        }
    };
    let total: u64 = clusters.iter().map(|cluster| u64::from(cluster.weight)).sum();
    let total_weight = u32::try_from(total).ok().filter(|total| *total > 0);
    if total_weight.is_none() {
        d.at("weighted_clusters", |d| d.error(format!("the weights sum up to {total}")));
    }
    let max = "max_downstream_connection_duration";
    Some(TcpProxy {
        stat_prefix,
        clusters,
        total_weight: total_weight?,
        idle_timeout: timeout_or(proto.idle_timeout.as_ref(), Some(IDLE), "idle_timeout", d),
        max_connect_attempts: number(proto.max_connect_attempts, 1, 1..=1000, "max_connect_attempts", d),
        max_downstream_connection_duration: timeout_or(proto.max_downstream_connection_duration.as_ref(), None, max, d),
        access_logs: access_logs(&proto.access_log, d),
    })
}
