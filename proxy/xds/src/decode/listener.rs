//! `Listener`, its network filters, and `TcpProxy`.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    Address, ConnectionFilter, ConnectionFilterKind, Listener, NetworkFilter, Resource, Source, TcpCluster, TcpProxy,
};
use outrigger_http::Direction;
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::listener::v3 as listener;
use pb::envoy::extensions::filters::network::http_connection_manager::v3 as hcm;
use pb::envoy::extensions::filters::network::tcp_proxy::v3 as tcp_proxy;
use pb::envoy::r#type::v3 as kind;

use super::access_log::{access_logs, message};
use super::common::{flag, name, number, origin, shown_metadata, timeout_or, variant};
use super::filter_chain::chains;
use super::listener_filter::listener_filters;
use super::native::{connection_limit, rbac};
use super::socket::addresses;
use super::{Rejection, XdsResource, discovered, http, wasm};
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
        const FILTERS_TIMEOUT: Duration = Duration::from_secs(15);
        let addresses = addresses(&proto, d);
        let first = addresses.as_ref().and_then(|addresses| addresses.first()).map(|first| &first.address);
        // Only a listener of the bootstrap may go without a name: nothing else tells dynamic ones apart.
        let name = match (proto.name.as_str(), &d.source, first) {
            ("", Source::Static, Some(address)) => Arc::from(address.to_string()),
            (text, ..) => name(text, "name", d),
        };
        let stat_prefix = first.map(|address| stat_prefix(&proto.stat_prefix, address));
        let direction = match variant(proto.traffic_direction, "traffic_direction", d) {
            Some(core::TrafficDirection::Inbound) => Direction::Inbound,
            Some(core::TrafficDirection::Outbound) => Direction::Outbound,
            Some(core::TrafficDirection::Unspecified) | None => Direction::Unspecified,
        };
        let chains = chains(&proto, d);
        let access_logs = access_logs(&proto.access_log, d);
        let buffer = proto
            .per_connection_buffer_limit_bytes
            .map(|limit| number(Some(limit), 1 << 20, 1..=1 << 30, "per_connection_buffer_limit_bytes", d));
        let backlog = number(proto.tcp_backlog_size, 1024, 1..=65_535, "tcp_backlog_size", d);
        let origin = origin(&name, proto.metadata.as_ref(), d);
        let listener_filters = listener_filters(&proto, d);
        let filters_timeout = proto.listener_filters_timeout.as_ref();
        let filters_timeout = timeout_or(filters_timeout, Some(FILTERS_TIMEOUT), "listener_filters_timeout", d);
        let (chains, table) = chains.ok_or(Rejection)?;
        Ok(Listener {
            name,
            stat_prefix: stat_prefix.ok_or(Rejection)?,
            origin,
            metadata: shown_metadata(proto.metadata.as_ref(), d),
            addresses: addresses.ok_or(Rejection)?,
            bind_to_port: binds(&proto),
            use_original_dst: flag(proto.use_original_dst, false),
            transparent: flag(proto.transparent, false),
            listener_filters,
            listener_filters_timeout: filters_timeout,
            continue_on_listener_filters_timeout: proto.continue_on_listener_filters_timeout,
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

/// `bind_to_port`, in its older place too.
fn binds(proto: &listener::Listener) -> bool {
    #[expect(deprecated, reason = "still in use")]
    let older = proto.deprecated_v1.as_ref().and_then(|older| older.bind_to_port);
    flag(proto.bind_to_port.or(older), true)
}

/// The address without colons, as Envoy names a listener in its statistics.
fn stat_prefix(given: &str, address: &Address) -> Arc<str> {
    if given.is_empty() { Arc::from(address.to_string().replace(':', "_")) } else { Arc::from(given) }
}

/// A network filter by its place.
pub(super) enum FoundFilter {
    Before(ConnectionFilter),
    Terminal(NetworkFilter),
    /// It does nothing.
    Off,
}

pub(super) fn network_filter(proto: &listener::Filter, d: &mut Diagnostics) -> Option<FoundFilter> {
    use listener::filter::ConfigType;
    let config = match &proto.config_type {
        Some(ConfigType::TypedConfig(config)) => config,
        Some(ConfigType::ConfigDiscovery(source)) => {
            let name = name(&proto.name, "name", d);
            let found = d.at("config_discovery", |d| discovered::network_filter(&name, source, d))?;
            let kind = ConnectionFilterKind::Discovered(Arc::new(found));
            return Some(FoundFilter::Before(ConnectionFilter { name, kind }));
        }
        None => {
            d.at("typed_config", |d| d.error("is required"));
            return None;
        }
    };
    let kind = type_url::message_name(&config.type_url);
    if kind == type_url::message_name(type_url::HTTP_CONNECTION_MANAGER) {
        return d.at("typed_config", |d| {
            let proto: hcm::HttpConnectionManager = message(config, d)?;
            http::manager(&proto, d).map(|manager| FoundFilter::Terminal(NetworkFilter::Http(Arc::new(manager))))
        });
    }
    if kind == type_url::message_name(type_url::TCP_PROXY) {
        return d.at("typed_config", |d| {
            let proto: tcp_proxy::TcpProxy = message(config, d)?;
            tcp(&proto, d).map(|proxy| FoundFilter::Terminal(NetworkFilter::Tcp(Arc::new(proxy))))
        });
    }
    if kind == type_url::message_name(type_url::NETWORK_WASM) {
        let name = name(&proto.name, "name", d);
        let plugin = d.at("typed_config", |d| wasm::network_plugin(&name, config, d)).flatten()?;
        let kind = ConnectionFilterKind::Wasm(Arc::new(plugin));
        return Some(FoundFilter::Before(ConnectionFilter { name, kind }));
    }
    if kind == type_url::message_name(type_url::NETWORK_RBAC) {
        let name = name(&proto.name, "name", d);
        let rbac = d.at("typed_config", |d| rbac::network_filter(&message(config, d)?, d))?;
        return Some(FoundFilter::Before(ConnectionFilter { name, kind: ConnectionFilterKind::Rbac(Arc::new(rbac)) }));
    }
    if kind == type_url::message_name(type_url::CONNECTION_LIMIT) {
        let name = name(&proto.name, "name", d);
        let limit = d.at("typed_config", |d| connection_limit::limit(&message(config, d)?, d))?;
        return Some(match limit {
            Some(limit) => {
                let kind = ConnectionFilterKind::ConnectionLimit(Arc::new(limit));
                FoundFilter::Before(ConnectionFilter { name, kind })
            }
            None => FoundFilter::Off,
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
        hashes_source_ip: hashes_source_ip(&proto.hash_policy, d),
        max_downstream_connection_duration: timeout_or(proto.max_downstream_connection_duration.as_ref(), None, max, d),
        access_logs: access_logs(&proto.access_log, d),
    })
}

/// `hash_policy`: one at most, as in Envoy.
fn hashes_source_ip(policies: &[kind::HashPolicy], d: &mut Diagnostics) -> bool {
    use kind::hash_policy::PolicySpecifier;
    if policies.len() > 1 {
        d.at("hash_policy", |d| d.error(format!("{} policies are more than one", policies.len())));
    }
    d.at_index("hash_policy", 0, |d| match policies.first().map(|policy| &policy.policy_specifier) {
        None => false,
        Some(Some(PolicySpecifier::SourceIp(_))) => true,
        Some(_) => {
            d.error("is not supported, only source_ip");
            false
        }
    })
}
