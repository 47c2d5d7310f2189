//! Connections of the control side: gRPC to the endpoints of a static cluster, with its transport socket.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::TryFutureExt;
use hyper_util::rt::TokioIo;
use outrigger_config::{ClusterEntry, Health, ResolvedTls, Snapshot, UpstreamTls};
use outrigger_dataplane::{connect_control, secure_control};
use outrigger_http::EndpointAddress;
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
    cluster: Arc<str>,
    authority: String,
    /// Endpoints are tried in turn from a random one on, so that proxies spread over the control plane's instances.
    next: Cell<usize>,
    /// Told once an endpoint, not at each attempt.
    last: RefCell<Option<EndpointAddress>>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ConnectError {
    #[error("cluster {0} has no usable endpoint")]
    NoEndpoint(Arc<str>),
    #[error("{address}: {reason}")]
    Transport { address: EndpointAddress, reason: String },
    #[error("cluster {cluster}: {reason}")]
    Tls { cluster: Arc<str>, reason: String },
}

/// TLS of a cluster, with its secrets.
type Tls = (Arc<UpstreamTls>, ResolvedTls);

impl Connector {
    pub(crate) fn new(server: Rc<Server>, cluster: Arc<str>, authority: String) -> Connector {
        let next = Cell::new(usize::from(rand::random::<u16>()));
        Connector { server, cluster, authority, next, last: RefCell::default() }
    }

    pub(crate) async fn connect(&self) -> Result<Channel, ConnectError> {
        let snapshot = self.server.snapshot.borrow().clone();
        let Some(entry) = snapshot.clusters.get(&self.cluster) else {
            return Err(ConnectError::NoEndpoint(Arc::clone(&self.cluster)));
        };
        let (endpoints, connect_timeout) = (usable(entry), entry.cluster.connect_timeout);
        if endpoints.is_empty() {
            return Err(ConnectError::NoEndpoint(Arc::clone(&self.cluster)));
        }
        let position = self.next.get();
        self.next.set(position.wrapping_add(1));
        let chosen = endpoints[position % endpoints.len()];
        let (address, host_name) = (&chosen.address, Arc::clone(&chosen.hostname));
        if self.last.borrow_mut().replace(address.clone()).as_ref() != Some(address) {
            tracing::info!("connecting to {address} ({})", self.cluster);
        }
        let transport = |error: tonic::transport::Error| ConnectError::Transport {
            address: address.clone(),
            reason: chain(&error),
        };
        // A path is no authority; nobody looks this one up.
        let authority = address.socket().map_or_else(|| "localhost".to_owned(), |socket| socket.to_string());
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(transport)?;
        let endpoint = endpoint
            .connect_timeout(connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        // A cluster's name may hold what no authority may; the address serves then.
        let endpoint = match format!("http://{}", self.authority).parse::<Uri>() {
            Ok(origin) if origin.path() == "/" && origin.authority().is_some() => endpoint.origin(origin),
            _ => endpoint,
        };
        let (via, to) = (entry.cluster.transports.of(chosen.metadata.as_deref()).clone(), address.clone());
        let dial = move || {
            let (via, to) = (via.clone(), to.clone());
            async move { connect_control(&via, &to).await }
        };
        let Some((tls, resolved)) = tls(&self.cluster, entry, chosen)? else {
            let connector = Function(move |_| dial().map_ok(TokioIo::new));
            return endpoint.connect_with_connector(connector).await.map_err(transport);
        };
        // Secrets that rotate count from the next connection on.
        let connector = Function(move |_| {
            let (tls, resolved, host_name, dialled) = (tls.clone(), resolved.clone(), host_name.clone(), dial());
            async move { secure_control(&tls, &resolved, &host_name, dialled.await?).await.map(TokioIo::new) }
        });
        endpoint.connect_with_connector(connector).await.map_err(transport)
    }
}

/// The usable endpoints of a cluster, and how long a connection to one may take. None where its connections have
/// something on top, nor those of Unix sockets: who asks here can't do better.
pub(crate) fn endpoints(snapshot: &Snapshot, cluster: &str) -> (Vec<SocketAddr>, Duration) {
    let Some(entry) = snapshot.clusters.get(cluster) else { return (Vec::new(), Duration::ZERO) };
    let is_raw = entry.cluster.transports.are_raw();
    let addresses = usable(entry).into_iter().filter(|_| is_raw).filter_map(|endpoint| endpoint.address.socket());
    (addresses.collect(), entry.cluster.connect_timeout)
}

fn usable(entry: &ClusterEntry) -> Vec<&outrigger_config::Endpoint> {
    entry
        .assignment
        .iter()
        .flat_map(|assignment| assignment.endpoints())
        .filter(|endpoint| matches!(endpoint.health, Health::Healthy | Health::Degraded))
        .collect()
}

/// The TLS of an endpoint's transport socket; `None`: cleartext.
fn tls(
    cluster: &Arc<str>,
    entry: &ClusterEntry,
    endpoint: &outrigger_config::Endpoint,
) -> Result<Option<Tls>, ConnectError> {
    let transport = entry.cluster.transports.of(endpoint.metadata.as_deref());
    let Some(tls) = &transport.tls else { return Ok(None) };
    match tls.context.resolve(|key| entry.secrets.get(key)) {
        Ok(resolved) => Ok(Some((Arc::clone(tls), resolved))),
        Err(error) => Err(ConnectError::Tls { cluster: Arc::clone(cluster), reason: error.to_string() }),
    }
}

/// A function as the connector of a channel.
#[derive(Debug, Clone)]
struct Function<F>(F);

impl<F, R, T, E> tonic::codegen::Service<Uri> for Function<F>
where
    F: FnMut(Uri) -> R,
    R: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = R;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> R {
        (self.0)(uri)
    }
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
