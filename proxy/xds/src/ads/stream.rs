//! A stream over gRPC, delta or state of the world: of all kinds of resources, or of secrets.

use std::future::Future;
use std::sync::Arc;

use outrigger_proto::pb;
use pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use pb::envoy::service::secret::v3::secret_discovery_service_client::SecretDiscoveryServiceClient;
use tokio::sync::mpsc::{self, UnboundedSender};
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

/// Where requests go. What waits is bounded by the responses that are answered.
#[derive(Debug)]
pub(crate) enum Outgoing {
    Delta(UnboundedSender<DeltaDiscoveryRequest>),
    Sotw(UnboundedSender<DiscoveryRequest>),
}

impl Outgoing {
    pub(crate) fn send(&self, request: Request) {
        // A stream that has ended says so itself.
        let _ = match (self, request) {
            (Outgoing::Delta(sender), Request::Delta(request)) => sender.send(request).ok(),
            (Outgoing::Sotw(sender), Request::Sotw(request)) => sender.send(request).ok(),
            _ => None,
        };
    }
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
    let outgoing = match variant {
        ApiVariant::Delta => Outgoing::Delta(delta),
        ApiVariant::StateOfTheWorld => Outgoing::Sotw(sotw),
    };
    let opening = async move {
        match variant {
            ApiVariant::Delta => {
                let mut request = tonic::Request::new(UnboundedReceiverStream::new(delta_requests));
                *request.metadata_mut() = metadata;
                let stream = match service {
                    Service::Aggregated => ads.delta_aggregated_resources(request).await?,
                    Service::Secrets => secrets.delta_secrets(request).await?,
                };
                Ok(AdsStream::Delta(Box::new(stream.into_inner())))
            }
            ApiVariant::StateOfTheWorld => {
                let mut request = tonic::Request::new(UnboundedReceiverStream::new(sotw_requests));
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
