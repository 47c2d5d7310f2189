//! Connections of the control side to the endpoints of a cluster, with its transport socket; and gRPC over them.

use std::cell::{Cell, RefCell};
use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::TryFutureExt;
use http::uri::Authority;
use hyper_util::rt::TokioIo;
use outrigger_config::{AutoSni, ClusterEntry, Health, Protocol, ResolvedTls, Snapshot, UpstreamTransport};
use outrigger_dataplane::{Alpn, TlsTarget, connect_control, secure_control};
use outrigger_http::EndpointAddress;
use tokio::io::{AsyncRead, AsyncWrite};
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

/// An endpoint, and how connections go there.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Dial {
    pub(crate) address: EndpointAddress,
    pub(crate) protocol: Protocol,
    pub(crate) connect_timeout: Duration,
    host_name: Arc<str>,
    transport: UpstreamTransport,
    /// Of the transport's TLS.
    secrets: Option<ResolvedTls>,
    auto_sni: Option<AutoSni>,
}

/// A connection, with everything that its cluster has on top.
pub(crate) trait Connection: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Connection for T {}

/// A connection that was made, and whether its server has chosen HTTP/2.
pub(crate) struct Dialed {
    pub(crate) stream: Box<dyn Connection>,
    pub(crate) chose_h2: bool,
}

impl Dial {
    /// Secrets that rotate count from the next one on.
    fn new(
        cluster: &Arc<str>,
        entry: &ClusterEntry,
        endpoint: &outrigger_config::Endpoint,
    ) -> Result<Dial, ConnectError> {
        let transport = entry.cluster.transports.of(endpoint.metadata.as_deref()).clone();
        let tls = transport.tls.as_ref();
        let secrets = tls.map(|tls| tls.context.resolve(|key| entry.secrets.get(key))).transpose();
        let secrets =
            secrets.map_err(|error| ConnectError::Tls { cluster: Arc::clone(cluster), reason: error.to_string() })?;
        Ok(Dial {
            address: endpoint.address.clone(),
            protocol: entry.cluster.http.protocol,
            connect_timeout: entry.cluster.connect_timeout,
            host_name: Arc::clone(&endpoint.hostname),
            transport,
            secrets,
            auto_sni: entry.cluster.http.auto_sni.clone(),
        })
    }

    pub(crate) fn is_secure(&self) -> bool {
        self.transport.tls.is_some()
    }

    /// `host`: whom requests are for, which servers are told where the cluster has it so (`auto_sni`).
    pub(crate) async fn connect(&self, alpn: Alpn, host: Option<&str>) -> io::Result<Dialed> {
        let socket = connect_control(&self.transport, &self.address).await?;
        let (Some(tls), Some(secrets)) = (&self.transport.tls, &self.secrets) else {
            return Ok(Dialed { stream: Box::new(socket), chose_h2: false });
        };
        let host = host.filter(|_| self.auto_sni.is_some());
        let target = TlsTarget {
            // An address is no name to be told.
            server_name: host.filter(|host| host.parse::<IpAddr>().is_err()),
            san: host.filter(|_| self.auto_sni.as_ref().is_some_and(|auto| auto.validates_san)),
            host_name: &self.host_name,
            alpn,
        };
        let stream = secure_control(tls, secrets, &target, socket).await?;
        let chose_h2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
        Ok(Dialed { stream: Box::new(stream), chose_h2 })
    }

    /// Whom requests are for: the configured name, where it may be one (a cluster's name may hold what none may), or else
    /// the address.
    pub(crate) fn authority(&self, configured: &str) -> String {
        let fits = configured.parse::<Authority>().is_ok_and(|authority| !authority.as_str().contains('@'));
        // A path is no authority; nobody looks this one up.
        let address = || self.address.socket().map_or_else(|| "localhost".to_owned(), |socket| socket.to_string());
        if fits { configured.to_owned() } else { address() }
    }

    /// To an address, with nothing on top.
    #[cfg(test)]
    pub(crate) fn raw(address: std::net::SocketAddr) -> Dial {
        Dial {
            address: EndpointAddress::from(address),
            protocol: Protocol::Http1,
            connect_timeout: Duration::from_secs(5),
            host_name: Arc::default(),
            transport: UpstreamTransport::default(),
            secrets: None,
            auto_sni: None,
        }
    }
}

impl Connector {
    pub(crate) fn new(server: Rc<Server>, cluster: Arc<str>, authority: String) -> Connector {
        let next = Cell::new(usize::from(rand::random::<u16>()));
        Connector { server, cluster, authority, next, last: RefCell::default() }
    }

    pub(crate) async fn connect(&self) -> Result<Channel, ConnectError> {
        let dials = dials(&self.server.snapshot.borrow().clone(), &self.cluster)?;
        let position = self.next.get();
        self.next.set(position.wrapping_add(1));
        let dial = dials[position % dials.len()].clone();
        let address = dial.address.clone();
        if self.last.borrow_mut().replace(address.clone()).as_ref() != Some(&address) {
            tracing::info!("connecting to {address} ({})", self.cluster);
        }
        let transport = |error: tonic::transport::Error| ConnectError::Transport {
            address: address.clone(),
            reason: chain(&error),
        };
        let authority = dial.authority(&self.authority);
        let host = host(&authority).to_owned();
        let endpoint = Endpoint::from_shared(format!("http://{authority}")).map_err(transport)?;
        let endpoint = endpoint
            .connect_timeout(dial.connect_timeout)
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .initial_stream_window_size(STREAM_WINDOW_BYTES)
            .initial_connection_window_size(CONNECTION_WINDOW_BYTES);
        let connector = Function(move |_| {
            let (dial, host) = (dial.clone(), host.clone());
            async move { dial.connect(Alpn::Http2, Some(&host)).await }.map_ok(|dialed| TokioIo::new(dialed.stream))
        });
        endpoint.connect_with_connector(connector).await.map_err(transport)
    }
}

/// The usable endpoints of a cluster; there is one at least.
pub(crate) fn dials(snapshot: &Snapshot, cluster: &Arc<str>) -> Result<Vec<Dial>, ConnectError> {
    let Some(entry) = snapshot.clusters.get(cluster) else {
        return Err(ConnectError::NoEndpoint(Arc::clone(cluster)));
    };
    let dials = usable(entry).into_iter().map(|endpoint| Dial::new(cluster, entry, endpoint));
    // One that lacks a secret keeps nobody from the others.
    let (dials, failed): (Vec<_>, Vec<_>) = dials.partition(Result::is_ok);
    let dials: Vec<Dial> = dials.into_iter().flatten().collect();
    if !dials.is_empty() {
        return Ok(dials);
    }
    let failed = failed.into_iter().find_map(Result::err);
    Err(failed.unwrap_or_else(|| ConnectError::NoEndpoint(Arc::clone(cluster))))
}

/// An authority without its port.
pub(crate) fn host(authority: &str) -> &str {
    let authority: Option<&str> = match authority.strip_prefix('[') {
        Some(address) => address.split(']').next(),
        None => authority.split(':').next(),
    };
    authority.unwrap_or_default()
}

fn usable(entry: &ClusterEntry) -> Vec<&outrigger_config::Endpoint> {
    entry
        .assignment
        .iter()
        .flat_map(|assignment| assignment.endpoints())
        .filter(|endpoint| matches!(endpoint.health, Health::Healthy | Health::Degraded))
        .collect()
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
