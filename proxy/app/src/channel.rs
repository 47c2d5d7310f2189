//! The connection to the control plane: gRPC to the endpoints of a static cluster.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{Health, Snapshot};
use outrigger_xds::AdsServer;
use tonic::transport::{Channel, Endpoint, Uri};

use crate::server::Server;

const KEEP_ALIVE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// Large enough that a response of a large mesh doesn't wait for window updates.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
const CONNECTION_WINDOW_BYTES: u32 = 2 << 20;

/// Makes connections, to one endpoint after the other.
#[derive(Debug)]
pub(crate) struct Connector {
    server: Rc<Server>,
    ads: AdsServer,
    /// Endpoints are tried in turn from a random one on, so that proxies spread over the control plane's instances.
    next: Cell<usize>,
    /// Told once an endpoint, not at each attempt.
    last: RefCell<Option<SocketAddr>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cluster {0} has no usable endpoint")]
    NoEndpoint(Arc<str>),
    #[error("{address}: {reason}")]
    Transport { address: SocketAddr, reason: String },
}

impl Connector {
    pub(crate) fn new(server: Rc<Server>, ads: AdsServer) -> Connector {
        let next = Cell::new(usize::from(rand::random::<u16>()));
        Connector { server, ads, next, last: RefCell::default() }
    }

    pub(crate) async fn connect(&self) -> Result<Channel, ConnectError> {
        let snapshot = self.server.snapshot.borrow().clone();
        let (addresses, connect_timeout) = endpoints(&snapshot, &self.ads.cluster);
        if addresses.is_empty() {
            return Err(ConnectError::NoEndpoint(Arc::clone(&self.ads.cluster)));
        }
        let position = self.next.get();
        self.next.set(position.wrapping_add(1));
        let address = addresses[position % addresses.len()];
        if self.last.borrow_mut().replace(address) != Some(address) {
            tracing::info!("connecting to the control plane at {address} ({})", self.ads.cluster);
        }
        let transport = |error: tonic::transport::Error| ConnectError::Transport { address, reason: chain(&error) };
        let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(transport)?;
        let endpoint = endpoint
            .connect_timeout(connect_timeout)
            .tcp_nodelay(true)
            .tcp_keepalive(Some(KEEP_ALIVE))
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        // A cluster's name may hold what no authority may; the address serves then.
        let endpoint = match format!("http://{}", self.ads.authority).parse::<Uri>() {
            Ok(origin) if origin.path() == "/" && origin.authority().is_some() => endpoint.origin(origin),
            _ => endpoint,
        };
        endpoint.connect().await.map_err(transport)
    }
}

/// The usable endpoints of a cluster, and how long a connection to one may take.
pub(crate) fn endpoints(snapshot: &Snapshot, cluster: &str) -> (Vec<SocketAddr>, Duration) {
    let Some(entry) = snapshot.clusters.get(cluster) else { return (Vec::new(), Duration::ZERO) };
    let assignment = entry.assignment.iter();
    let usable = assignment
        .flat_map(|assignment| assignment.endpoints())
        .filter(|endpoint| matches!(endpoint.health, Health::Healthy | Health::Degraded));
    (usable.map(|endpoint| endpoint.address).collect(), entry.cluster.connect_timeout)
}

/// An error with its causes: the transport's own text says nothing.
fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
