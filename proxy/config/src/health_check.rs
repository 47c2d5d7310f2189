//! Active health checks (`envoy.config.core.v3.HealthCheck`).

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_http::Method;

use crate::{HeaderMutations, Protocol};

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HealthCheck {
    pub timeout: Duration,
    pub interval: Duration,
    pub initial_jitter: Duration,
    pub interval_jitter: Duration,
    pub interval_jitter_percent: u32,
    /// 1 or more.
    pub unhealthy_threshold: u32,
    pub healthy_threshold: u32,
    /// `alt_port`.
    pub port: Option<u16>,
    pub reuse_connection: bool,
    /// 60 s unless set; while the cluster has had no traffic.
    pub no_traffic_interval: Duration,
    /// For healthy endpoints meanwhile; `no_traffic_interval` unless set.
    pub no_traffic_healthy_interval: Duration,
    pub unhealthy_interval: Duration,
    pub unhealthy_edge_interval: Duration,
    pub healthy_edge_interval: Duration,
    pub kind: HealthCheckKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HealthCheckKind {
    Http(HttpHealthCheck),
    Grpc(GrpcHealthCheck),
    Tcp(TcpHealthCheck),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HttpHealthCheck {
    /// Empty: the endpoint's hostname, or the cluster's name.
    pub host: Bytes,
    pub path: Bytes,
    pub method: Method,
    pub protocol: Protocol,
    /// Ranges without their end; `[200, 201)` unless set.
    pub expected: Vec<(u16, u16)>,
    /// They count as failures, up to the threshold; others that aren't expected at once.
    pub retriable: Vec<(u16, u16)>,
    pub headers: HeaderMutations,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GrpcHealthCheck {
    pub service: Arc<str>,
    /// Empty: the endpoint's hostname, or the cluster's name.
    pub authority: Bytes,
    pub headers: HeaderMutations,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TcpHealthCheck {
    /// Empty: a connection is enough.
    pub send: Bytes,
    /// To be found in what comes back, in this order.
    pub receive: Vec<Bytes>,
}

/// `Endpoint.health_check_config`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct EndpointHealthCheck {
    pub port: Option<u16>,
    pub address: Option<SocketAddr>,
    /// For the host of requests; may be empty.
    pub hostname: Arc<str>,
    pub disabled: bool,
}
