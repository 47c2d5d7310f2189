//! Endpoints (`envoy.config.endpoint.v3.ClusterLoadAssignment`).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::Origin;

#[derive(Debug, PartialEq, Eq)]
pub struct Assignment {
    pub name: Arc<str>,
    pub origin: Arc<Origin>,
    /// Sorted by priority, as given otherwise.
    pub localities: Vec<Locality>,
    /// `policy.overprovisioning_factor` in percent: 140 unless set.
    pub overprovisioning_percent: u32,
}

#[derive(Debug, PartialEq, Eq)]
pub struct Locality {
    pub region: String,
    pub zone: String,
    pub sub_zone: String,
    pub priority: u32,
    /// `load_balancing_weight`; 0: takes no traffic where localities are weighted.
    pub weight: Option<u32>,
    pub endpoints: Vec<Endpoint>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub hostname: Arc<str>,
    /// At least 1.
    pub weight: u32,
    pub health: Health,
}

/// `health_status`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Health {
    /// Unknown counts as healthy.
    Healthy,
    Degraded,
    /// Unhealthy, draining or timed out.
    Unhealthy,
}

impl Assignment {
    /// All endpoints of the lowest priority number that has a healthy one.
    pub fn endpoints(&self) -> impl Iterator<Item = &Endpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }
}
