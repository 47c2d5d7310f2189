//! The ports of a gateway.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use outrigger_model::{BackendView, FilterEntry, FilterScope, GatewayView, ListenerView, Protocol};
use outrigger_proto::pb::envoy::config::core::v3::{ExtensionConfigSource, Http2ProtocolOptions};
use outrigger_proto::pb::envoy::config::listener::v3::filter::ConfigType;
use outrigger_proto::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use outrigger_proto::pb::envoy::extensions::filters::http::router::v3::Router;
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    PathWithEscapedSlashesAction, RouteSpecifier, UpgradeConfig,
};
use outrigger_proto::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, Rds, http_filter,
};
use outrigger_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use outrigger_proto::pb::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::{
    ClusterSpecifier, WeightedCluster, weighted_cluster::ClusterWeight,
};
use outrigger_proto::pb::google::protobuf::Any;
use outrigger_proto::pb::outrigger::filters::http::wasm::v1::RouteFilters;

use sha2::{Digest, Sha256};

use super::cluster::NOWHERE_CLUSTER;
use super::proto::{Place, address, ads, any, boolean, duration, origin, uint32};
use super::{Profile, filter};
use crate::canonical;
use crate::resource::{Resource, ResourceType};

const HCM: &str = "envoy.filters.network.http_connection_manager";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";
const ROUTER: &str = "envoy.filters.http.router";
const ROUTE_FILTERS: &str = "outrigger.route_filters";

const STREAM_IDLE_TIMEOUT: Duration = Duration::from_secs(300);
const REQUEST_HEADERS_TIMEOUT: Duration = Duration::from_secs(10);

/// Bounds what one connection can hold; Envoy's own defaults are 16 MiB a stream and no limit of streams.
const H2_STREAMS_MAX: u32 = 1024;
const H2_STREAM_WINDOW_BYTES: u32 = 1 << 20;
const H2_CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

pub(super) fn resource(view: &ListenerView, gateway: &GatewayView, profile: Profile) -> Resource {
    let network_filter = match view.protocol {
        Protocol::Http => network_filter(HCM, any(&connection_manager(view, profile))),
        Protocol::Tcp => network_filter(TCP_PROXY, any(&tcp_proxy(view))),
    };
    let ip = view.address.unwrap_or(IpAddr::V4(Ipv4Addr::UNSPECIFIED));
    let listener = Listener {
        name: view.name.clone(),
        address: Some(address(SocketAddr::new(ip, view.port))),
        filter_chains: vec![FilterChain { filters: vec![network_filter], ..FilterChain::default() }],
        metadata: Some(origin(&gateway.gateway.source, Place::File)),
        ..Listener::default()
    };
    let body = canonical::encode(&listener, &canonical::LISTENER);
    Resource::new(ResourceType::Listener, &view.name, body)
}

fn network_filter(name: &str, config: Any) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(ConfigType::TypedConfig(config)) }
}

fn connection_manager(view: &ListenerView, profile: Profile) -> HttpConnectionManager {
    let entries: Vec<_> = runs(view, profile).collect();
    let mut http_filters = wasm_filters(&entries, profile);
    http_filters.push(router());
    HttpConnectionManager {
        stat_prefix: view.name.clone(),
        route_specifier: Some(routes_by_name(&route_name(view, profile))),
        http_filters,
        use_remote_address: Some(boolean(true)),
        normalize_path: Some(boolean(true)),
        merge_slashes: true,
        path_with_escaped_slashes_action: PathWithEscapedSlashesAction::UnescapeAndRedirect.into(),
        stream_idle_timeout: Some(duration(STREAM_IDLE_TIMEOUT)),
        request_headers_timeout: Some(duration(REQUEST_HEADERS_TIMEOUT)),
        upgrade_configs: vec![UpgradeConfig { upgrade_type: "websocket".to_owned(), ..UpgradeConfig::default() }],
        http2_protocol_options: Some(Http2ProtocolOptions {
            max_concurrent_streams: Some(uint32(H2_STREAMS_MAX)),
            initial_stream_window_size: Some(uint32(H2_STREAM_WINDOW_BYTES)),
            initial_connection_window_size: Some(uint32(H2_CONNECTION_WINDOW_BYTES)),
            ..Http2ProtocolOptions::default()
        }),
        ..HttpConnectionManager::default()
    }
}

fn runs(view: &ListenerView, profile: Profile) -> impl Iterator<Item = &FilterEntry> {
    view.filters.iter().filter(move |entry| filter::runs(&entry.filter, profile))
}

/// What the listener's routes are called: which filters they may turn on is part of it. So a chain and the routes that know
/// it change together: the routes of a new chain are new ones, which a client waits for before it uses either, while
/// connections that still have the old chain keep the old routes. Under one name either could come first, and requests
/// would pass with the filter that goes off already, and the one that comes not there yet.
pub(super) fn route_name(view: &ListenerView, profile: Profile) -> String {
    let of_routes = runs(view, profile).filter(|entry| entry.scope == FilterScope::Routes);
    let names: String = of_routes.map(|entry| format!("{}\n", entry.filter.id)).collect();
    if names.is_empty() {
        return view.name.clone();
    }
    let digest: String = Sha256::digest(names)[..6].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}/{digest}", view.name)
}

pub(super) fn routes_by_name(name: &str) -> RouteSpecifier {
    RouteSpecifier::Rds(Rds { config_source: Some(ads()), route_config_name: name.to_owned() })
}

/// The chain. Our proxies get filters of routes that stand together in one entry, as a mesh may have a thousand of them;
/// which of them run on a route is the route's to say, in the same words for every client, so that no entry that comes or
/// goes means another route.
fn wasm_filters(entries: &[&FilterEntry], profile: Profile) -> Vec<HttpFilter> {
    let together = |a: &&FilterEntry, b: &&FilterEntry| {
        profile == Profile::Outrigger && (a.scope, b.scope) == (FilterScope::Routes, FilterScope::Routes)
    };
    entries.chunk_by(together).map(|run| wasm_filter(run, profile)).collect()
}

/// Filters by name, whose configurations come as resources of their own: a change of one touches no listener.
fn wasm_filter(run: &[&FilterEntry], profile: Profile) -> HttpFilter {
    let discovery = ExtensionConfigSource {
        config_source: Some(ads()),
        type_urls: vec![filter::type_url(profile).to_owned()],
        ..ExtensionConfigSource::default()
    };
    let mut names: Vec<_> = run.iter().map(|entry| entry.filter.id.to_string()).collect();
    if let ([only], [entry]) = (names.as_mut_slice(), run) {
        return HttpFilter {
            name: std::mem::take(only),
            disabled: entry.scope == FilterScope::Routes,
            config_type: Some(http_filter::ConfigType::ConfigDiscovery(discovery)),
            ..HttpFilter::default()
        };
    }
    HttpFilter {
        // No filter has such a name: it has a slash more.
        name: format!("{ROUTE_FILTERS}/{}", names.first().map_or("", String::as_str)),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&RouteFilters {
            discovery: Some(discovery),
            names,
        }))),
        ..HttpFilter::default()
    }
}

pub(super) fn router() -> HttpFilter {
    HttpFilter {
        name: ROUTER.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(any(&Router::default()))),
        ..HttpFilter::default()
    }
}

fn tcp_proxy(view: &ListenerView) -> TcpProxy {
    let backends = view.tcp.as_ref().map_or(&[][..], |(_, backends)| backends);
    TcpProxy { stat_prefix: view.name.clone(), cluster_specifier: Some(tcp_clusters(backends)), ..TcpProxy::default() }
}

/// The share of a reference that cannot be followed has its connections closed.
fn tcp_clusters(backends: &[BackendView]) -> ClusterSpecifier {
    let name = |backend: &BackendView| backend.cluster.as_ref().map_or(NOWHERE_CLUSTER.to_owned(), ToString::to_string);
    let weighted: Vec<_> = backends.iter().filter(|backend| backend.backend.weight > 0).collect();
    match weighted.as_slice() {
        [] => ClusterSpecifier::Cluster(NOWHERE_CLUSTER.to_owned()),
        [backend] => ClusterSpecifier::Cluster(name(backend)),
        many => {
            let weight = |backend: &&BackendView| ClusterWeight {
                name: name(backend),
                weight: backend.backend.weight,
                ..ClusterWeight::default()
            };
            ClusterSpecifier::WeightedClusters(WeightedCluster { clusters: many.iter().map(weight).collect() })
        }
    }
}

/// Whether some of the listener's connections are closed by way of a cluster without endpoints.
pub(super) fn needs_nowhere(view: &ListenerView) -> bool {
    let open = |backend: &BackendView| backend.backend.weight > 0 && backend.cluster.is_some();
    view.protocol == Protocol::Tcp
        && view.tcp.as_ref().is_none_or(|(_, backends)| backends.is_empty() || !backends.iter().all(open))
}

#[cfg(test)]
#[path = "listener/tests.rs"]
mod tests;
