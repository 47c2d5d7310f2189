//! The server over a socket, with a real gRPC client: both variants, a change, a rejection, the end.

#![expect(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking, in its helpers as well")]

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_model::{
    AllowedNamespaces, AppProtocol, EndpointSlice, Gateway, GatewayListener, Kind, MeshIndex, Object, ObjectId,
    ObjectKey, Objects, Protocol, Service, ServicePort, SliceEndpoint, SlicePort, Source,
};
use outrigger_proto::pb::envoy::config::core::v3::Node;
use outrigger_proto::pb::envoy::config::endpoint::v3::ClusterLoadAssignment;
use outrigger_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest,
};
use outrigger_proto::pb::google::rpc::Status;
use outrigger_proto::type_url;
use outrigger_xds_server::{AdsServer, Hub, ServerOptions, SyncState};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Channel;

fn source(kind: Kind, name: &str) -> Arc<Source> {
    Arc::new(Source::new(&ObjectKey::new(kind, ObjectId::new("shop", name)), "shop.yaml", 1))
}

/// A gateway without routes, and a service whose endpoint listens on `port`.
fn mesh(port: u16) -> Objects {
    let mut objects = Objects::default();
    objects.insert(Object::Gateway(Arc::new(Gateway {
        id: ObjectId::new("shop", "edge"),
        address: None,
        listeners: vec![GatewayListener {
            name: "http".into(),
            port: 8080,
            hostname: None,
            protocol: Protocol::Http,
            allowed: AllowedNamespaces::Same,
        }],
        source: source(Kind::Gateway, "edge"),
    })));
    objects.insert(Object::Service(Arc::new(Service {
        id: ObjectId::new("shop", "api"),
        ports: vec![ServicePort { name: "http".into(), port: 80, protocol: AppProtocol::Http1 }],
        source: source(Kind::Service, "api"),
    })));
    objects.insert(Object::EndpointSlice(Arc::new(EndpointSlice {
        id: ObjectId::new("shop", "api-1"),
        service: ObjectId::new("shop", "api"),
        ports: vec![SlicePort { name: "http".into(), port }],
        endpoints: vec![SliceEndpoint {
            addresses: vec!["127.0.0.1".parse().unwrap()],
            ready: true,
            serving: true,
            terminating: false,
            zone: None,
        }],
        source: source(Kind::EndpointSlice, "api-1"),
    })));
    objects
}

struct Server {
    hub: Arc<Hub>,
    ads: AdsServer,
    address: SocketAddr,
    index: MeshIndex,
    stop: oneshot::Sender<()>,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start() -> Self {
        let hub = Arc::new(Hub::new("127.0.0.1:1".parse().unwrap()));
        let ads = AdsServer::new(Arc::clone(&hub), ServerOptions::default());
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = ads.clone();
        let task = tokio::spawn(async move {
            serving.serve(listener, async { drop(stopped.await) }).await.unwrap();
        });
        let mut server = Self { hub, ads, address, index: MeshIndex::new(), stop, task };
        server.publish(mesh(9000));
        server
    }

    fn publish(&mut self, objects: Objects) {
        let changes = self.index.replace(objects);
        self.hub.publish(&Arc::new(self.index.clone()), &changes);
    }

    async fn client(&self) -> AggregatedDiscoveryServiceClient<Channel> {
        AggregatedDiscoveryServiceClient::connect(format!("http://{}", self.address)).await.unwrap()
    }
}

fn node(agent: &str, cluster: &str) -> Option<Node> {
    let (id, cluster, user_agent_name) = ("n1".to_owned(), cluster.to_owned(), agent.to_owned());
    Some(Node { id, cluster, user_agent_name, ..Node::default() })
}

/// What never comes fails the test instead of hanging it.
async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(30), future).await.expect("an answer in time")
}

fn delta(kind: &str, nonce: &str, subscribe: &[&str]) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node: node("outrigger", "shop/edge"),
        type_url: kind.to_owned(),
        response_nonce: nonce.to_owned(),
        resource_names_subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
        ..DeltaDiscoveryRequest::default()
    }
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response.resources.iter().map(|resource| resource.name.as_str()).collect()
}

#[tokio::test]
async fn delta_from_connect_to_shutdown() {
    let mut server = Server::start().await;
    let (requests, receiver) = mpsc::channel(8);
    requests.send(delta(type_url::CLUSTER, "", &[])).await.unwrap();
    let mut client = server.client().await;
    let mut responses =
        within(client.delta_aggregated_resources(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    let clusters = within(responses.message()).await.unwrap().unwrap();
    // No route uses the service: only the cluster of the modules is there.
    assert_eq!(names(&clusters), ["outrigger-modules"]);
    requests.send(delta(type_url::CLUSTER, &clusters.nonce, &[])).await.unwrap();
    requests.send(delta(type_url::LISTENER, "", &[])).await.unwrap();
    let listeners = within(responses.message()).await.unwrap().unwrap();
    assert_eq!(names(&listeners), ["shop/edge/8080"]);
    let rejection = DeltaDiscoveryRequest {
        error_detail: Some(Status { message: "Listener shop/edge/8080: address: in use".into(), ..Status::default() }),
        ..delta(type_url::LISTENER, &listeners.nonce, &[])
    };
    requests.send(rejection).await.unwrap();
    requests.send(delta(type_url::ROUTE_CONFIGURATION, "", &["shop/edge/8080"])).await.unwrap();
    let routes = within(responses.message()).await.unwrap().unwrap();
    assert_eq!(names(&routes), ["shop/edge/8080"]);
    let proxies = server.ads.proxies();
    assert_eq!((proxies.len(), proxies[0].state), (1, SyncState::Nacked));
    let rejected: BTreeMap<_, _> = proxies[0]
        .types
        .iter()
        .flat_map(|status| &status.rejections)
        .map(|found| (&found.name, &found.reason))
        .collect();
    assert_eq!(rejected, BTreeMap::from([(&"shop/edge/8080".to_owned(), &"address: in use".to_owned())]));

    // The gateway goes: the listener is taken back.
    let mut objects = mesh(9000);
    objects.remove(&ObjectKey::new(Kind::Gateway, ObjectId::new("shop", "edge")));
    server.publish(objects);
    let removed = within(responses.message()).await.unwrap().unwrap();
    assert_eq!(removed.removed_resources, ["shop/edge/8080"]);

    server.stop.send(()).unwrap();
    let end = within(responses.message()).await.unwrap_err();
    assert_eq!(end.code(), tonic::Code::Unavailable);
    drop((requests, responses, client));
    within(server.task).await.unwrap();
}

#[tokio::test]
async fn a_grpc_client_follows_endpoints_in_state_of_the_world() {
    let mut server = Server::start().await;
    let (requests, receiver) = mpsc::channel(8);
    let request = |nonce: &str, version: &str| DiscoveryRequest {
        node: node("gRPC test", ""),
        type_url: type_url::CLUSTER_LOAD_ASSIGNMENT.to_owned(),
        resource_names: vec!["shop/api:80".to_owned()],
        response_nonce: nonce.to_owned(),
        version_info: version.to_owned(),
        ..DiscoveryRequest::default()
    };
    requests.send(request("", "")).await.unwrap();
    let mut client = server.client().await;
    let mut responses =
        within(client.stream_aggregated_resources(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    let mut versions = Vec::new();
    for port in [9000, 9001] {
        let response = within(responses.message()).await.unwrap().unwrap();
        let assignment = ClusterLoadAssignment::decode(response.resources[0].value.as_slice()).unwrap();
        let text = format!("{assignment:?}");
        assert!(text.contains(&format!("PortValue({port})")), "{text}");
        requests.send(request(&response.nonce, &response.version_info)).await.unwrap();
        versions.push(response.version_info);
        server.publish(mesh(9001));
    }
    assert_ne!(versions[0], versions[1]);
}

#[tokio::test]
async fn whoever_does_not_say_who_it_is_is_refused_and_an_unknown_gateway_is_empty() {
    let server = Server::start().await;
    let mut client = server.client().await;
    let (requests, receiver) = mpsc::channel(8);
    requests.send(DeltaDiscoveryRequest { node: None, ..delta(type_url::CLUSTER, "", &[]) }).await.unwrap();
    let mut responses =
        within(client.delta_aggregated_resources(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    assert_eq!(within(responses.message()).await.unwrap_err().code(), tonic::Code::InvalidArgument);

    let (requests, receiver) = mpsc::channel(8);
    let unknown = DeltaDiscoveryRequest { node: node("envoy", "shop/none"), ..delta(type_url::CLUSTER, "", &[]) };
    requests.send(unknown).await.unwrap();
    let mut responses =
        within(client.delta_aggregated_resources(ReceiverStream::new(receiver))).await.unwrap().into_inner();
    let clusters = within(responses.message()).await.unwrap().unwrap();
    assert!(clusters.resources.is_empty());
}

#[test]
fn a_module_is_served_for_a_while_after_its_last_filter() {
    use outrigger_model::{
        FailurePolicy, FilterTarget, Isolation, Limits, Module, Phase, Revision, TargetKind, WasmFilter,
    };
    let hub = Hub::new("127.0.0.1:1".parse().unwrap());
    let mut index = MeshIndex::new();
    let module = Module::new(Bytes::from_static(b"\0asm\x01\0\0\0"));
    let mut objects = mesh(9000);
    objects.insert(Object::WasmFilter(Arc::new(WasmFilter {
        id: ObjectId::new("shop", "keys"),
        targets: vec![FilterTarget { kind: TargetKind::Gateway, id: ObjectId::new("shop", "edge"), section: None }],
        phase: Phase::AuthN,
        priority: 0,
        revision: Arc::new(Revision {
            module: module.clone(),
            config: Bytes::new(),
            failure_policy: FailurePolicy::Closed,
            limits: Limits::default(),
            isolation: Isolation::Shared,
            env: Vec::new(),
        }),
        rollout: None,
        shadow: false,
        trial: None,
        source: source(Kind::WasmFilter, "keys"),
    })));
    for objects in [objects, mesh(9000)] {
        let changes = index.replace(objects);
        hub.publish(&Arc::new(index.clone()), &changes);
        assert_eq!(hub.module(&module.sha256()), Some(module.clone()));
    }
    assert!(index.module(&module.sha256()).is_none());
}
