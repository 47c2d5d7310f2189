//! Services and their endpoints.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::ids::{ObjectId, Source};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Service {
    pub id: ObjectId,
    pub ports: Vec<ServicePort>,
    pub source: Arc<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServicePort {
    /// Empty where the service has one port without a name.
    pub name: Arc<str>,
    pub port: u16,
    pub protocol: AppProtocol,
}

/// What the workload speaks (`appProtocol`, else the port's name `grpc-…`, `http2-…`, `http-…`, `tcp-…`).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AppProtocol {
    #[default]
    Http1,
    /// HTTP/2 by prior knowledge (`kubernetes.io/h2c`, `grpc`).
    H2c,
    /// Opaque bytes.
    Tcp,
}

/// One EndpointSlice.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EndpointSlice {
    pub id: ObjectId,
    /// From the label `kubernetes.io/service-name`, in the slice's namespace.
    pub service: ObjectId,
    pub ports: Vec<SlicePort>,
    pub endpoints: Vec<SliceEndpoint>,
    pub source: Arc<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlicePort {
    /// The [`ServicePort::name`] that it belongs to.
    pub name: Arc<str>,
    pub port: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SliceEndpoint {
    pub addresses: Vec<IpAddr>,
    pub ready: bool,
    pub serving: bool,
    pub terminating: bool,
    pub zone: Option<Arc<str>>,
}

/// One address of a cluster, as it gets traffic.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Endpoint {
    pub address: SocketAddr,
    pub zone: Option<Arc<str>>,
}
