//! The endpoints of an ORIGINAL_DST cluster: wherever its clients wanted to go.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::{Endpoint, Locality, OriginalDst, UpstreamHttpOptions};
use tokio::time::Instant;

use super::endpoint::EndpointHandle;
use super::health::Placed;
use crate::stats::ClusterStats;

/// Destinations that are remembered at one time; beyond that a new one is nobody's.
const DESTINATIONS_MAX: usize = 65_536;

/// Endpoints by destination, as they come up; those that nobody asks for any more are forgotten.
#[derive(Debug)]
pub(super) struct Destinations {
    config: OriginalDst,
    locality: Arc<Locality>,
    endpoints: RefCell<HashMap<SocketAddr, Known>>,
    /// Nobody sweeps them any more.
    retired: Cell<bool>,
}

#[derive(Debug)]
struct Known {
    endpoint: Rc<EndpointHandle>,
    used: Instant,
}

impl Destinations {
    pub(super) fn new(config: &OriginalDst) -> Destinations {
        let nowhere = String::new;
        let locality = Locality {
            metadata: None,
            region: nowhere(),
            zone: nowhere(),
            sub_zone: nowhere(),
            priority: 0,
            weight: None,
            endpoints: Vec::new(),
        };
        Destinations {
            config: config.clone(),
            locality: Arc::new(locality),
            endpoints: RefCell::default(),
            retired: Cell::new(false),
        }
    }

    /// The endpoint of a destination; `None`: the client wasn't redirected, or there are too many destinations.
    pub(super) fn pick(&self, destination: Option<SocketAddr>) -> Option<Rc<EndpointHandle>> {
        let mut address = destination?;
        if let Some(port) = self.config.port {
            address.set_port(port);
        }
        let now = Instant::now();
        let mut endpoints = self.endpoints.borrow_mut();
        if let Some(known) = endpoints.get_mut(&address) {
            known.used = now;
            return Some(known.endpoint.clone());
        }
        if endpoints.len() >= DESTINATIONS_MAX {
            return None;
        }
        let endpoint = Endpoint::at(address.into());
        let placed = Placed { endpoint, locality: self.locality.clone() };
        let endpoint = EndpointHandle::build(placed, None, None, now);
        if self.retired.get() {
            endpoint.pools().retire();
        }
        endpoints.insert(address, Known { endpoint: endpoint.clone(), used: now });
        Some(endpoint)
    }

    /// Forgets what wasn't asked for in `cleanup_interval` and has no connection, and closes idle connections.
    pub(super) fn sweep(&self, stats: &ClusterStats, http: &UpstreamHttpOptions, now: Instant) {
        self.endpoints.borrow_mut().retain(|_, known| {
            known.endpoint.pools().sweep(stats, http, now);
            let used = known.endpoint.counts.cx_active.get() > 0 || known.endpoint.active.get() > 0;
            used || now.duration_since(known.used) < self.config.cleanup_interval
        });
    }

    /// Keeps no connection for a next request.
    pub(super) fn retire(&self) {
        self.retired.set(true);
        self.endpoints.borrow().values().for_each(|known| known.endpoint.pools().retire());
    }

    pub(super) fn list(&self) -> Vec<Rc<EndpointHandle>> {
        self.endpoints.borrow().values().map(|known| known.endpoint.clone()).collect()
    }
}
