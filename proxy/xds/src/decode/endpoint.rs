//! `ClusterLoadAssignment`.

use std::sync::Arc;

use outrigger_config::{Assignment, Endpoint, Health, Locality, Resource};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::endpoint::v3 as endpoint;

use super::common::{metadata, name, number, origin, socket_address, variant};
use super::{Rejection, XdsResource};
use crate::Diagnostics;

/// Priorities go up to this number, as in Envoy.
const PRIORITY_MAX: u32 = 128;

impl XdsResource for Assignment {
    type Proto = endpoint::ClusterLoadAssignment;
    const TYPE_URL: &'static str = type_url::CLUSTER_LOAD_ASSIGNMENT;

    fn name(proto: &Self::Proto) -> &str {
        &proto.cluster_name
    }

    fn validate(proto: Self::Proto, diagnostics: &mut Diagnostics) -> Result<Assignment, Rejection> {
        let name = name(&proto.cluster_name, "cluster_name", diagnostics);
        Ok(assignment(name, &proto, diagnostics))
    }

    fn into_resource(self) -> Resource {
        Resource::Endpoints(Arc::new(self))
    }
}

pub(crate) fn assignment(
    name: Arc<str>,
    proto: &endpoint::ClusterLoadAssignment,
    diagnostics: &mut Diagnostics,
) -> Assignment {
    let policy = proto.policy.as_ref();
    let factor = policy.and_then(|policy| policy.overprovisioning_factor);
    let overprovisioning_percent =
        diagnostics.at("policy", |d| number(factor, 140, 100..=100_000, "overprovisioning_factor", d));
    let localities = proto.endpoints.iter().enumerate();
    let mut localities: Vec<Locality> = localities
        .filter_map(|(index, locality)| diagnostics.at_index("endpoints", index, |d| decode(locality, d)))
        .collect();
    localities.sort_by_key(|locality| locality.priority);
    let origin = origin(&name, None, diagnostics);
    Assignment { name, origin, localities, overprovisioning_percent }
}

fn decode(proto: &endpoint::LocalityLbEndpoints, diagnostics: &mut Diagnostics) -> Option<Locality> {
    if proto.priority > PRIORITY_MAX {
        diagnostics.at("priority", |d| d.error(format!("{} is more than {PRIORITY_MAX}", proto.priority)));
    }
    if proto.lb_config.is_some() {
        diagnostics.error("endpoints by reference are not supported, only lb_endpoints");
        return None;
    }
    let endpoints = proto.lb_endpoints.iter().enumerate();
    let endpoints: Vec<Endpoint> = endpoints
        .filter_map(|(index, endpoint)| diagnostics.at_index("lb_endpoints", index, |d| lb_endpoint(endpoint, d)))
        .collect();
    let weight: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    if weight > u64::from(u32::MAX) {
        diagnostics.at("lb_endpoints", |d| d.error(format!("the weights sum up to {weight}, more than 32 bits")));
    }
    let locality = proto.locality.clone().unwrap_or_default();
    Some(Locality {
        region: locality.region,
        zone: locality.zone,
        sub_zone: locality.sub_zone,
        priority: proto.priority,
        weight: proto.load_balancing_weight.map(|weight| weight.value),
        endpoints,
    })
}

fn lb_endpoint(proto: &endpoint::LbEndpoint, diagnostics: &mut Diagnostics) -> Option<Endpoint> {
    use core::HealthStatus as Status;
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = &proto.host_identifier else {
        diagnostics.at("endpoint", |d| d.error("is required"));
        return None;
    };
    let address = diagnostics.at("endpoint", |d| d.at("address", |d| socket_address(host.address.as_ref(), d)));
    let weight = number(proto.load_balancing_weight, 1, 1..=u32::MAX, "load_balancing_weight", diagnostics);
    let health = match variant::<Status>(proto.health_status, "health_status", diagnostics)? {
        Status::Unknown | Status::Healthy => Health::Healthy,
        Status::Degraded => Health::Degraded,
        Status::Unhealthy | Status::Timeout => Health::Unhealthy,
        Status::Draining => Health::Draining,
    };
    let (address, _) = address?;
    if address.port() == 0 {
        diagnostics.at("endpoint", |d| d.at("address", |d| d.error("port 0 cannot be connected to")));
    }
    let metadata = metadata(proto.metadata.as_ref());
    Some(Endpoint { address, hostname: Arc::from(host.hostname.as_str()), weight, health, metadata })
}
