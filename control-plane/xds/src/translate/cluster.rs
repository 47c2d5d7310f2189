//! Services as clusters with their endpoints.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_model::{AppProtocol, ClusterView, Endpoint};
use outrigger_proto::pb::envoy::config::cluster::v3::Cluster;
use outrigger_proto::pb::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use outrigger_proto::pb::envoy::config::core::v3::{HealthStatus, Http2ProtocolOptions, Locality};
use outrigger_proto::pb::envoy::config::endpoint::v3::{
    self as endpoint, ClusterLoadAssignment, LbEndpoint, LocalityLbEndpoints, lb_endpoint::HostIdentifier,
};
use outrigger_proto::pb::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use outrigger_proto::pb::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};
use outrigger_proto::type_url;

use super::Profile;
use super::proto::{Place, address, ads, any, duration, origin, uint32};
use crate::canonical;
use crate::resource::{Resource, ResourceType};

/// The cluster that our proxies fetch modules through.
pub const MODULES_CLUSTER: &str = "outrigger-modules";

/// A cluster without endpoints: connections that nobody takes are closed.
pub(super) const NOWHERE_CLUSTER: &str = "outrigger-nowhere";

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// The cluster and its endpoints.
pub(super) fn resources(view: &ClusterView, profile: Profile) -> Vec<Resource> {
    let name = view.key.to_string();
    let body = canonical::encode(&cluster(view, &name, profile), &canonical::CLUSTER);
    let endpoints = canonical::encode(&assignment(&name, &view.endpoints), &canonical::PLAIN);
    vec![Resource::new(ResourceType::Cluster, &name, body), Resource::new(ResourceType::Endpoints, &name, endpoints)]
}

fn cluster(view: &ClusterView, name: &str, profile: Profile) -> Cluster {
    // What gRPC clients must know; the others spread better by the load that they see.
    let policy = if profile == Profile::Grpc { LbPolicy::RoundRobin } else { LbPolicy::LeastRequest };
    let mut cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Eds.into())),
        eds_cluster_config: Some(EdsClusterConfig { eds_config: Some(ads()), ..EdsClusterConfig::default() }),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        lb_policy: policy.into(),
        metadata: Some(origin(&view.service.source, Place::File)),
        ..Cluster::default()
    };
    if view.protocol == AppProtocol::H2c && profile != Profile::Grpc {
        let key = type_url::message_name(type_url::HTTP_PROTOCOL_OPTIONS).to_owned();
        cluster.typed_extension_protocol_options = [(key, any(&http2()))].into();
    }
    cluster
}

/// HTTP/2 by prior knowledge.
fn http2() -> HttpProtocolOptions {
    let config = ProtocolConfig::Http2ProtocolOptions(Http2ProtocolOptions::default());
    let explicit = ExplicitHttpConfig { protocol_config: Some(config) };
    HttpProtocolOptions {
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(explicit)),
        ..HttpProtocolOptions::default()
    }
}

fn assignment(name: &str, endpoints: &[Endpoint]) -> ClusterLoadAssignment {
    let mut zones: BTreeMap<Option<&Arc<str>>, Vec<LbEndpoint>> = BTreeMap::new();
    for endpoint in endpoints {
        zones.entry(endpoint.zone.as_ref()).or_default().push(lb_endpoint(endpoint.address));
    }
    ClusterLoadAssignment {
        cluster_name: name.to_owned(),
        endpoints: zones.into_iter().map(|(zone, endpoints)| locality(zone.map(AsRef::as_ref), endpoints)).collect(),
        ..ClusterLoadAssignment::default()
    }
}

/// gRPC clients ignore a locality without a weight, or without a locality.
fn locality(zone: Option<&str>, lb_endpoints: Vec<LbEndpoint>) -> LocalityLbEndpoints {
    LocalityLbEndpoints {
        locality: Some(Locality { zone: zone.unwrap_or_default().to_owned(), ..Locality::default() }),
        load_balancing_weight: Some(uint32(u32::try_from(lb_endpoints.len()).unwrap_or(u32::MAX))),
        lb_endpoints,
        ..LocalityLbEndpoints::default()
    }
}

fn lb_endpoint(value: SocketAddr) -> LbEndpoint {
    let endpoint = endpoint::Endpoint { address: Some(address(value)), ..endpoint::Endpoint::default() };
    LbEndpoint {
        health_status: HealthStatus::Healthy.into(),
        host_identifier: Some(HostIdentifier::Endpoint(endpoint)),
        ..LbEndpoint::default()
    }
}

/// Where our proxies fetch modules.
pub(super) fn modules(at: SocketAddr) -> Resource {
    fixed(MODULES_CLUSTER, &[at])
}

pub(super) fn nowhere() -> Resource {
    fixed(NOWHERE_CLUSTER, &[])
}

fn fixed(name: &str, addresses: &[SocketAddr]) -> Resource {
    let endpoints: Vec<_> = addresses.iter().map(|at| lb_endpoint(*at)).collect();
    let localities = if endpoints.is_empty() { Vec::new() } else { vec![locality(None, endpoints)] };
    let cluster = Cluster {
        name: name.to_owned(),
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(DiscoveryType::Static.into())),
        connect_timeout: Some(duration(CONNECT_TIMEOUT)),
        load_assignment: Some(ClusterLoadAssignment {
            cluster_name: name.to_owned(),
            endpoints: localities,
            ..ClusterLoadAssignment::default()
        }),
        ..Cluster::default()
    };
    Resource::new(ResourceType::Cluster, name, canonical::encode(&cluster, &canonical::CLUSTER))
}
