//! A stream over gRPC, delta or state of the world: of all kinds of resources, or of secrets.

use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use futures_util::stream::{Stream, StreamExt as _};
use outrigger_proto::pb;
use pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::metadata::{AsciiMetadataKey, AsciiMetadataValue, MetadataMap};
use tonic::transport::Channel;
use tonic::{Status, Streaming};

use super::state::{Request, Response};
use crate::ApiVariant;
use crate::batch::{raw, wrapped};
use crate::decode::kind_of;

/// A message may be as large as gRPC allows: large meshes send megabytes.
const MESSAGE_BYTES_MAX: usize = i32::MAX as usize;

/// Which of the services of a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Service {
    Aggregated,
    Secrets,
}

/// Requests that wait for a server which doesn't read them, beyond which its responses aren't read either.
pub(super) const WAITING_MAX: usize = 1024;

/// Where requests go.
#[derive(Debug)]
pub(crate) struct Outgoing {
    sender: Sender,
    /// How many wait.
    waiting: Arc<AtomicUsize>,
}

#[derive(Debug)]
enum Sender {
    Delta(UnboundedSender<DeltaDiscoveryRequest>),
    Sotw(UnboundedSender<DiscoveryRequest>),
}

impl Outgoing {
    pub(crate) fn send(&self, request: Request) {
        // A stream that has ended says so itself.
        let sent = match (&self.sender, request) {
            (Sender::Delta(sender), Request::Delta(request)) => sender.send(request).is_ok(),
            (Sender::Sotw(sender), Request::Sotw(request)) => sender.send(request).is_ok(),
            _ => false,
        };
        self.waiting.fetch_add(sent.into(), Ordering::Relaxed);
    }

    /// Whether another response may be answered. What changes here besides is little.
    pub(crate) fn has_room(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) < WAITING_MAX
    }
}

/// The requests of a channel, counted as they go.
fn counted<T>(requests: UnboundedReceiver<T>, waiting: &Arc<AtomicUsize>) -> impl Stream<Item = T> + Send + use<T>
where
    T: Send + 'static,
{
    let waiting = waiting.clone();
    UnboundedReceiverStream::new(requests).inspect(move |_| {
        waiting.fetch_sub(1, Ordering::Relaxed);
    })
}

#[derive(Debug)]
pub(crate) enum AdsStream {
    Delta(Box<Streaming<DeltaDiscoveryResponse>>),
    Sotw(Box<Streaming<DiscoveryResponse>>),
}

#[derive(Debug)]
pub(crate) struct Received {
    pub(crate) control_plane: String,
    /// The type URL, where it is none of ours.
    pub(crate) response: Result<Response, String>,
}

/// A stream in the making: requests can be sent at once.
pub(crate) fn open(
    channel: Channel,
    service: Service,
    variant: ApiVariant,
    metadata: &[(String, String)],
) -> (Outgoing, impl Future<Output = Result<AdsStream, Status>> + use<>) {
    let mut ads = AggregatedDiscoveryServiceClient::new(channel.clone()).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let mut secrets = SecretDiscoveryServiceClient::new(channel).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let metadata = headers(metadata);
    let (delta, delta_requests) = mpsc::unbounded_channel();
    let (sotw, sotw_requests) = mpsc::unbounded_channel();
    let sender = match variant {
        ApiVariant::Delta => Sender::Delta(delta),
        ApiVariant::StateOfTheWorld => Sender::Sotw(sotw),
    };
    let waiting = Arc::<AtomicUsize>::default();
    let outgoing = Outgoing { sender, waiting: waiting.clone() };
    let opening = async move {
        match variant {
            ApiVariant::Delta => {
                let mut request = tonic::Request::new(counted(delta_requests, &waiting));
                *request.metadata_mut() = metadata;
                let stream = match service {
                    Service::Aggregated => ads.delta_aggregated_resources(request).await?,
                    Service::Secrets => secrets.delta_secrets(request).await?,
                };
                Ok(AdsStream::Delta(Box::new(stream.into_inner())))
            }
            ApiVariant::StateOfTheWorld => {
                let mut request = tonic::Request::new(counted(sotw_requests, &waiting));
                *request.metadata_mut() = metadata;
                let stream = match service {
                    Service::Aggregated => ads.stream_aggregated_resources(request).await?,
                    Service::Secrets => secrets.stream_secrets(request).await?,
                };
                Ok(AdsStream::Sotw(Box::new(stream.into_inner())))
            }
        }
    };
    (outgoing, opening)
}

fn headers(pairs: &[(String, String)]) -> MetadataMap {
    let mut metadata = MetadataMap::new();
    for (key, value) in pairs {
        if let (Ok(key), Ok(value)) = (key.parse::<AsciiMetadataKey>(), value.parse::<AsciiMetadataValue>()) {
            metadata.append(key, value);
        } else {
            tracing::warn!(key, "initial_metadata: no valid header, not sent");
        }
    }
    metadata
}

impl AdsStream {
    pub(crate) async fn next(&mut self) -> Result<Option<Received>, Status> {
        Ok(match self {
            AdsStream::Delta(stream) => stream.message().await?.map(delta),
            AdsStream::Sotw(stream) => stream.message().await?.map(sotw),
        })
    }
}

fn delta(response: DeltaDiscoveryResponse) -> Received {
    let control_plane = response.control_plane.map(|plane| plane.identifier).unwrap_or_default();
    let Some(kind) = kind_of(&response.type_url) else {
        return Received { control_plane, response: Err(response.type_url) };
    };
    let version: Arc<str> = Arc::from(response.system_version_info);
    // Each resource has its own version; an empty one stays empty, as Istio has it.
    let none: Arc<str> = Arc::from("");
    let resources = response.resources.into_iter().filter_map(|resource| wrapped(resource, &none)).collect();
    let removed = response.removed_resources.into_iter();
    let removed = removed.chain(response.removed_resource_names.into_iter().map(|name| name.name)).collect();
    Received { control_plane, response: Ok(Response { kind, version, nonce: response.nonce, resources, removed }) }
}

fn sotw(response: DiscoveryResponse) -> Received {
    let control_plane = response.control_plane.map(|plane| plane.identifier).unwrap_or_default();
    let Some(kind) = kind_of(&response.type_url) else {
        return Received { control_plane, response: Err(response.type_url) };
    };
    let version: Arc<str> = Arc::from(response.version_info);
    let resources = response.resources.into_iter().filter_map(|any| raw(any, &version)).collect();
    Received {
        control_plane,
        response: Ok(Response { kind, version, nonce: response.nonce, resources, removed: Vec::new() }),
    }
}
