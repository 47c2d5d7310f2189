//! The gRPC service: one task for each stream, which feeds the state machine and sends what it says.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::Stream;
use outrigger_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{Request, Response, Status, Streaming};

use crate::connection::Connection;
use crate::hub::Hub;
use crate::metrics::Metrics;
use crate::protocol::{Delta, Protocol, StateOfTheWorld};
use crate::proxies::{Proxies, Retention};
use crate::stream::StreamOptions;

/// Largest request, in bytes: a subscription to all that is allowed, with its versions.
const REQUEST_BYTES_MAX: usize = 32 << 20;
/// Responses of a stream that wait for the transport; the state machine has at most one of each type under way.
const RESPONSES_MAX: usize = 8;
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(30);
const KEEPALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// How long streams get to end at shutdown.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(5);

/// Limits of the server.
#[derive(Debug, Clone)]
pub struct ServerOptions {
    /// Streams at the same time.
    pub streams_max: u64,
    /// New streams a second, with a burst of as many.
    pub streams_per_second_max: u32,
    /// How long a client may take to say who it is.
    pub first_request_timeout: Duration,
    /// How long a client may leave a response unread.
    pub send_timeout: Duration,
    /// Of each stream.
    pub stream: StreamOptions,
    /// What is remembered of proxies that have gone.
    pub retention: Retention,
}

impl Default for ServerOptions {
    fn default() -> Self {
        let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
        Self {
            streams_max: 10_000,
            // As istiod: a restart of the control plane brings all proxies back at once, in waves.
            streams_per_second_max: (15 + 5 * cores).min(100),
            first_request_timeout: Duration::from_secs(15),
            send_timeout: Duration::from_secs(30),
            stream: StreamOptions::default(),
            retention: Retention::default(),
        }
    }
}

/// What the streams share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) hub: Arc<Hub>,
    pub(crate) proxies: Proxies,
    pub(crate) metrics: Metrics,
    pub(crate) options: ServerOptions,
    streams: AtomicU64,
    starts: Mutex<Starts>,
    shutdown: watch::Sender<bool>,
}

/// The ADS server.
#[derive(Debug, Clone)]
pub struct AdsServer {
    shared: Arc<Shared>,
}

impl AdsServer {
    /// A server of what `hub` publishes.
    pub fn new(hub: Arc<Hub>, options: ServerOptions) -> Self {
        let starts = Starts::new(options.streams_per_second_max, Instant::now());
        let shared = Shared {
            hub,
            proxies: Proxies::new(options.retention),
            metrics: Metrics::default(),
            options,
            streams: AtomicU64::new(0),
            starts: Mutex::new(starts),
            shutdown: watch::Sender::new(false),
        };
        Self { shared: Arc::new(shared) }
    }

    /// The state of every proxy.
    pub fn proxies(&self) -> Vec<crate::proxies::ProxyStatus> {
        self.shared.proxies.list()
    }

    /// The server's counters, as text.
    pub fn metrics(&self) -> String {
        self.shared.metrics.exposition()
    }

    /// Serves until `shutdown` ends; then ends every stream and waits a little for the connections.
    pub async fn serve(
        &self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), tonic::transport::Error> {
        let service = AggregatedDiscoveryServiceServer::new(Ads { shared: Arc::clone(&self.shared) })
            .max_decoding_message_size(REQUEST_BYTES_MAX);
        let mut closing = self.shared.shutdown.subscribe();
        let server = tonic::transport::Server::builder()
            .http2_keepalive_interval(Some(KEEPALIVE_INTERVAL))
            .http2_keepalive_timeout(Some(KEEPALIVE_TIMEOUT))
            .tcp_nodelay(true)
            .serve_with_incoming_shutdown(service, TcpListenerStream::new(listener), async move {
                // An error says that the server has gone, which is an end as well.
                let _ = closing.wait_for(|closing| *closing).await;
            });
        tokio::pin!(server);
        tokio::select! {
            result = &mut server => return result,
            () = shutdown => {}
        }
        self.shared.shutdown.send_replace(true);
        // A client that keeps its connection open does not hold the process up.
        tokio::time::timeout(SHUTDOWN_TIMEOUT, server).await.unwrap_or(Ok(()))
    }
}

struct Ads {
    shared: Arc<Shared>,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Ads {
    fn start<P: Protocol>(
        &self,
        request: Request<Streaming<P::Request>>,
    ) -> Result<Response<Responses<P::Response>>, Status> {
        let shared = Arc::clone(&self.shared);
        if !shared.starts.lock().unwrap_or_else(PoisonError::into_inner).take(Instant::now()) {
            shared.metrics.stream_refused();
            return Err(Status::resource_exhausted("too many new streams; try again later"));
        }
        let open = OpenStream::new(shared);
        if open.count > open.shared.options.streams_max {
            open.shared.metrics.stream_refused();
            return Err(Status::resource_exhausted("too many streams"));
        }
        let address = request.remote_addr();
        let (responses, receiver) = mpsc::channel(RESPONSES_MAX);
        let closing = open.shared.shutdown.subscribe();
        let id = open.shared.streams.fetch_add(1, Ordering::Relaxed);
        // Its owner is the connection: when that goes, both ends of the stream close and the task ends.
        tokio::spawn(async move {
            let mut connection = Connection::<P>::new(&open.shared, id, address, responses);
            connection.run(request.into_inner(), closing).await;
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receiver))))
    }
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        self.start::<StateOfTheWorld>(request)
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        self.start::<Delta>(request)
    }
}

/// Counts a stream for as long as it lives.
struct OpenStream {
    shared: Arc<Shared>,
    count: u64,
}

impl OpenStream {
    fn new(shared: Arc<Shared>) -> Self {
        let count = shared.metrics.stream_opened();
        Self { shared, count }
    }
}

impl Drop for OpenStream {
    fn drop(&mut self) {
        self.shared.metrics.stream_closed();
    }
}

/// A token bucket of new streams.
#[derive(Debug)]
struct Starts {
    per_second: f64,
    tokens: f64,
    at: Instant,
}

impl Starts {
    fn new(per_second: u32, now: Instant) -> Self {
        Self { per_second: per_second.into(), tokens: per_second.into(), at: now }
    }

    fn take(&mut self, now: Instant) -> bool {
        let refill = now.duration_since(self.at).as_secs_f64() * self.per_second;
        self.tokens = (self.tokens + refill).min(self.per_second);
        self.at = now;
        let allowed = self.tokens >= 1.0;
        if allowed {
            self.tokens -= 1.0;
        }
        allowed
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn streams_start_at_a_bounded_rate() {
        let start = Instant::now();
        let mut starts = Starts::new(2, start);
        assert_eq!([starts.take(start), starts.take(start), starts.take(start)], [true, true, false]);
        assert!(!starts.take(start + Duration::from_millis(400)));
        assert!(starts.take(start + Duration::from_millis(600)));
    }
}
