//! Endpoints (`envoy.config.endpoint.v3.ClusterLoadAssignment`).

use std::net::SocketAddr;
use std::sync::Arc;

use crate::{Metadata, Origin};

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
    /// `LbEndpoint.metadata`.
    pub metadata: Option<Arc<Metadata>>,
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
