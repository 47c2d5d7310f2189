//! Endpoints (`envoy.config.endpoint.v3.ClusterLoadAssignment`).

use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_http::{EndpointAddress, ProxyEntry};

use crate::{EndpointHealthCheck, Fraction, Metadata, Origin};

#[derive(Debug, PartialEq, Eq)]
pub struct Assignment {
    pub name: Arc<str>,
    pub origin: Arc<Origin>,
    /// Sorted by priority, as given otherwise.
    pub localities: Vec<Locality>,
    pub policy: AssignmentPolicy,
}

/// `ClusterLoadAssignment.policy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct AssignmentPolicy {
    /// `overprovisioning_factor` in percent: 140 unless set.
    pub overprovisioning_percent: u32,
    /// The healthy share of a priority goes by weight.
    pub weighted_priority_health: bool,
    /// `drop_overloads`: the control plane wants so many requests refused, before an endpoint is asked.
    pub drop_overload: Option<Fraction>,
}

impl Default for AssignmentPolicy {
    fn default() -> AssignmentPolicy {
        AssignmentPolicy { overprovisioning_percent: 140, weighted_priority_health: false, drop_overload: None }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
    pub metadata: Option<Arc<Metadata>>,
    pub priority: u32,
    /// `load_balancing_weight`; 0: takes no traffic where localities are weighted.
    pub weight: Option<u32>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: EndpointAddress,
    pub hostname: Arc<str>,
    /// At least 1.
    pub weight: u32,
    pub health: Health,
    /// `LbEndpoint.metadata`.
    pub metadata: Option<Arc<Metadata>>,
    /// `additional_addresses`: tried beside `address`, the first that answers counts.
    pub additional_addresses: Box<[SocketAddr]>,
    pub health_check: Option<Box<EndpointHealthCheck>>,
    /// `envoy.transport_sockets.proxy_protocol` in its metadata: what it is told beside what its cluster is.
    pub proxy_entries: Box<[ProxyEntry]>,
}

impl Endpoint {
    /// One of which nothing is known but where it is.
    #[must_use]
    pub fn at(address: EndpointAddress) -> Endpoint {
        Endpoint {
            address,
            hostname: Arc::default(),
            weight: 1,
            health: Health::Healthy,
            metadata: None,
            additional_addresses: Box::default(),
            health_check: None,
            proxy_entries: Box::default(),
        }
    }

    /// `health_check_config.disable_active_health_check`.
    #[must_use]
    pub fn is_unchecked(&self) -> bool {
        self.health_check.as_ref().is_some_and(|check| check.disabled)
    }
}

impl Locality {
    #[must_use]
    pub fn is_same_place(&self, other: &Locality) -> bool {
        self.region == other.region && self.zone == other.zone && self.sub_zone == other.sub_zone
    }

    /// What its endpoints have in common.
    #[must_use]
    pub fn without_endpoints(&self) -> Locality {
        Locality {
            region: self.region.clone(),
            zone: self.zone.clone(),
            sub_zone: self.sub_zone.clone(),
            metadata: self.metadata.clone(),
            priority: self.priority,
            weight: self.weight,
            endpoints: Vec::new(),
        }
    }
}

/// `health_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Unknown counts as healthy.
    Healthy,
    Degraded,
    /// Unhealthy or timed out.
    Unhealthy,
    /// Takes no new requests; what it has goes on.
    Draining,
}

impl Assignment {
    /// All endpoints, priority by priority.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }
}
