//! The two variants on the wire: their messages to and from what the state machine understands.

use outrigger_proto::pb::envoy::config::core::v3::{ControlPlane, Node};
use outrigger_proto::pb::envoy::service::discovery::v3::{
    self as pb, DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use outrigger_proto::pb::google::protobuf::Any;

use crate::resource::Resource;
use crate::stream::{Names, Request, Response, Variant};

const IDENTIFIER: &str = concat!("outrigger/", env!("CARGO_PKG_VERSION"));

pub(crate) trait Protocol: Send + 'static {
    const VARIANT: Variant;
    type Request: Send + 'static;
    type Response: Send + 'static;

    fn node(request: &Self::Request) -> Option<&Node>;
    fn decode(request: Self::Request) -> Request;
    fn encode(response: Response) -> Self::Response;
}

#[derive(Debug)]
pub(crate) enum Delta {}

#[derive(Debug)]
pub(crate) enum StateOfTheWorld {}

fn any(resource: &Resource) -> Any {
    Any { type_url: resource.kind.type_url().to_owned(), value: resource.body.to_vec() }
}

fn control_plane() -> Option<ControlPlane> {
    Some(ControlPlane { identifier: IDENTIFIER.to_owned() })
}

impl Protocol for Delta {
    const VARIANT: Variant = Variant::Delta;
    type Request = DeltaDiscoveryRequest;
    type Response = DeltaDiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn decode(request: Self::Request) -> Request {
        Request {
            type_url: request.type_url,
            nonce: request.response_nonce,
            rejection: request.error_detail.map(|status| status.message),
            names: Names::Delta {
                subscribe: request.resource_names_subscribe,
                unsubscribe: request.resource_names_unsubscribe,
                initial: request.initial_resource_versions.into_iter().collect(),
            },
        }
    }

    fn encode(response: Response) -> Self::Response {
        let resources = response.resources.iter().map(|resource| pb::Resource {
            name: resource.name.to_string(),
            version: resource.version.to_string(),
            resource: Some(any(resource)),
            ..pb::Resource::default()
        });
        DeltaDiscoveryResponse {
            system_version_info: response.version.to_string(),
            resources: resources.collect(),
            type_url: response.kind.type_url().to_owned(),
            removed_resources: response.removed.iter().map(ToString::to_string).collect(),
            nonce: response.nonce,
            control_plane: control_plane(),
            ..DeltaDiscoveryResponse::default()
        }
    }
}

impl Protocol for StateOfTheWorld {
    const VARIANT: Variant = Variant::StateOfTheWorld;
    type Request = DiscoveryRequest;
    type Response = DiscoveryResponse;

    fn node(request: &Self::Request) -> Option<&Node> {
        request.node.as_ref()
    }

    fn decode(request: Self::Request) -> Request {
        Request {
            type_url: request.type_url,
            nonce: request.response_nonce,
            rejection: request.error_detail.map(|status| status.message),
            names: Names::Full { names: request.resource_names, version: request.version_info },
        }
    }

    fn encode(response: Response) -> Self::Response {
        DiscoveryResponse {
            version_info: response.version.to_string(),
            resources: response.resources.iter().map(|resource| any(resource)).collect(),
            type_url: response.kind.type_url().to_owned(),
            nonce: response.nonce,
            control_plane: control_plane(),
            ..DiscoveryResponse::default()
        }
    }
}
