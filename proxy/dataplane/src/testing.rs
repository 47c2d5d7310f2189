//! Configuration for this crate's tests.

use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{
    Assignment, AssignmentPolicy, CircuitBreakers, Cluster, Discovery, Endpoint, LbPolicy, Locality, Origin, Source,
    Transports, UpstreamHttpOptions,
};
use outrigger_http::EndpointAddress;

/// With all endpoints in one place.
pub(crate) fn cluster(name: &str, addresses: impl Iterator<Item = EndpointAddress>) -> Cluster {
    let origin = Arc::new(Origin { source: Source::Static, name: name.into(), version: "".into(), object: "".into() });
    let locality = Locality {
        metadata: None,
        region: String::new(),
        zone: String::new(),
        sub_zone: String::new(),
        priority: 0,
        weight: None,
        endpoints: addresses.map(Endpoint::at).collect(),
    };
    let assignment = Arc::new(Assignment {
        name: name.into(),
        origin: origin.clone(),
        localities: vec![locality],
        policy: AssignmentPolicy::default(),
    });
    Cluster {
        metadata: None,
        name: name.into(),
        stat_name: name.into(),
        origin,
        discovery: Discovery::Static(assignment),
        lb: LbPolicy::RoundRobin,
        lb_options: None,
        outlier: None,
        health_check: None,
        ignore_health_on_host_removal: false,
        close_connections_on_health_failure: false,
        connect_timeout: Duration::from_secs(1),
        breakers: CircuitBreakers::default(),
        breakers_high: None,
        http: UpstreamHttpOptions::default(),
        per_connection_buffer_limit_bytes: 1 << 20,
        tcp_keepalive: None,
        bind: None,
        preconnect: None,
        transports: Transports::default(),
    }
}
