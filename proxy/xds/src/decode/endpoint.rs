//! `ClusterLoadAssignment`.

use std::net::SocketAddr;
use std::sync::Arc;

use endpoint::cluster_load_assignment::policy::DropOverload;
use outrigger_config::{Assignment, AssignmentPolicy, Endpoint, Fraction, Health, Locality, Resource};
use outrigger_http::EndpointAddress;
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::config::endpoint::v3 as endpoint;

use super::common::{metadata, name, number, origin, shown_metadata, socket_address, variant};
use super::{Rejection, XdsResource, forward, health_check, proxy_protocol, socket};
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
    let localities = proto.endpoints.iter().enumerate();
    let mut localities: Vec<Locality> = localities
        .filter_map(|(index, locality)| diagnostics.at_index("endpoints", index, |d| decode(locality, d)))
        .collect();
    localities.sort_by_key(|locality| locality.priority);
    let origin = origin(&name, None, diagnostics);
    Assignment { name, origin, localities, policy: policy(proto, diagnostics) }
}

pub(crate) fn policy(proto: &endpoint::ClusterLoadAssignment, diagnostics: &mut Diagnostics) -> AssignmentPolicy {
    let Some(proto) = &proto.policy else { return AssignmentPolicy::default() };
    diagnostics.at("policy", |d| AssignmentPolicy {
        overprovisioning_percent: number(
            proto.overprovisioning_factor,
            AssignmentPolicy::default().overprovisioning_percent,
            100..=100_000,
            "overprovisioning_factor",
            d,
        ),
        weighted_priority_health: proto.weighted_priority_health,
        drop_overload: drop_overload(&proto.drop_overloads, d),
    })
}

/// `drop_overloads`: one category at most, as in Envoy.
fn drop_overload(protos: &[DropOverload], d: &mut Diagnostics) -> Option<Fraction> {
    if protos.len() > 1 {
        d.at("drop_overloads", |d| d.error(format!("{} categories are more than one", protos.len())));
    }
    d.at_index("drop_overloads", 0, |d| {
        let proto = protos.first()?;
        name(&proto.category, "category", d);
        let percentage = proto.drop_percentage.unwrap_or_default();
        d.at("drop_percentage", |d| {
            let fraction = forward::fraction(&percentage, d)?;
            if fraction.numerator > fraction.denominator {
                d.error(format!("{} of {} are more than all", fraction.numerator, fraction.denominator));
            }
            (fraction.numerator > 0).then_some(fraction)
        })
    })
}

fn decode(proto: &endpoint::LocalityLbEndpoints, diagnostics: &mut Diagnostics) -> Option<Locality> {
    let mut found = locality_of(proto, diagnostics)?;
    let endpoints = proto.lb_endpoints.iter().enumerate();
    let endpoints: Vec<Endpoint> = endpoints
        .filter_map(|(index, endpoint)| diagnostics.at_index("lb_endpoints", index, |d| lb_endpoint(endpoint, d)))
        .collect();
    let weight: u64 = endpoints.iter().map(|endpoint| u64::from(endpoint.weight)).sum();
    if weight > u64::from(u32::MAX) {
        diagnostics.at("lb_endpoints", |d| d.error(format!("the weights sum up to {weight}, more than 32 bits")));
    }
    found.endpoints = endpoints;
    Some(found)
}

/// A locality without its endpoints.
pub(crate) fn locality_of(proto: &endpoint::LocalityLbEndpoints, diagnostics: &mut Diagnostics) -> Option<Locality> {
    if proto.priority > PRIORITY_MAX {
        diagnostics.at("priority", |d| d.error(format!("{} is more than {PRIORITY_MAX}", proto.priority)));
    }
    if proto.lb_config.is_some() {
        diagnostics.error("endpoints by reference are not supported, only lb_endpoints");
        return None;
    }
    let locality = proto.locality.clone().unwrap_or_default();
    Some(Locality {
        region: locality.region,
        zone: locality.zone,
        sub_zone: locality.sub_zone,
        metadata: shown_metadata(proto.metadata.as_ref(), diagnostics),
        priority: proto.priority,
        weight: proto.load_balancing_weight.map(|weight| weight.value),
        endpoints: Vec::new(),
    })
}

fn lb_endpoint(proto: &endpoint::LbEndpoint, diagnostics: &mut Diagnostics) -> Option<Endpoint> {
    lb_endpoint_with(proto, diagnostics, socket::endpoint_address)
}

/// An endpoint whose address is read by `address`.
pub(crate) fn lb_endpoint_with(
    proto: &endpoint::LbEndpoint,
    diagnostics: &mut Diagnostics,
    address: impl FnOnce(Option<&core::Address>, &mut Diagnostics) -> Option<EndpointAddress>,
) -> Option<Endpoint> {
    use core::HealthStatus as Status;
    let Some(endpoint::lb_endpoint::HostIdentifier::Endpoint(host)) = &proto.host_identifier else {
        diagnostics.at("endpoint", |d| d.error("is required"));
        return None;
    };
    let address = diagnostics.at("endpoint", |d| d.at("address", |d| address(host.address.as_ref(), d)));
    let weight = number(proto.load_balancing_weight, 1, 1..=u32::MAX, "load_balancing_weight", diagnostics);
    let health = match variant::<Status>(proto.health_status, "health_status", diagnostics)? {
        Status::Unknown | Status::Healthy => Health::Healthy,
        Status::Degraded => Health::Degraded,
        Status::Unhealthy | Status::Timeout => Health::Unhealthy,
        Status::Draining => Health::Draining,
    };
    let address = address?;
    if address.socket().is_some_and(|socket| socket.port() == 0) {
        diagnostics.at("endpoint", |d| d.at("address", |d| d.error("port 0 cannot be connected to")));
    }
    let metadata = metadata(proto.metadata.as_ref());
    let additional = host.additional_addresses.iter().enumerate();
    let additional = additional.filter_map(|(index, more)| {
        let more = diagnostics.at("endpoint", |d| {
            d.at_index("additional_addresses", index, |d| d.at("address", |d| socket_address(more.address.as_ref(), d)))
        });
        more.map(|(address, _)| address)
    });
    let additional_addresses: Box<[SocketAddr]> = additional.collect();
    if address.socket().is_none() && !additional_addresses.is_empty() {
        diagnostics.at("endpoint", |d| d.at("additional_addresses", |d| d.error("have no meaning beside a pipe")));
    }
    let check = host.health_check_config.as_ref();
    let health_check = check.map(|check| {
        Box::new(diagnostics.at("endpoint", |d| d.at("health_check_config", |d| health_check::of_endpoint(check, d))))
    });
    let hostname = Arc::from(host.hostname.as_str());
    let proxy_entries = proxy_protocol::of_endpoint(proto.metadata.as_ref(), diagnostics);
    Some(Endpoint { address, hostname, weight, health, metadata, additional_addresses, health_check, proxy_entries })
}
