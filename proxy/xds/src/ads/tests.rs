//! The loop against a real server in this process.

use std::cell::RefCell;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use outrigger_config::{Needed, ResourceKind, ResourceSet, Snapshot, Update};
use outrigger_proto::pb::envoy::config::core::v3::{ControlPlane, Node};
use outrigger_proto::pb::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use outrigger_proto::pb::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse, Resource,
};
use outrigger_proto::pb::google::protobuf::Any;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::{TcpListenerStream, UnboundedReceiverStream};
use tonic::transport::{Channel, Endpoint, Server};
use tonic::{Request, Response, Streaming};

use super::{AdsOptions, run_ads};
use crate::decode::type_url_of;
use crate::testing::{cluster_yaml, eds_yaml, resource};
use crate::{ApiVariant, ConfigSink, Rejected, Status, Verdict};

type Answers<T> = Pin<Box<dyn tokio_stream::Stream<Item = Result<T, tonic::Status>> + Send>>;

/// A stream that a client opened, as the test drives it.
struct Stream<Q, A> {
    requests: Streaming<Q>,
    answers: mpsc::UnboundedSender<Result<A, tonic::Status>>,
}

impl<Q, A> Stream<Q, A> {
    async fn request(&mut self) -> Q {
        self.requests.message().await.unwrap().unwrap()
    }

    fn answer(&self, answer: A) {
        self.answers.send(Ok(answer)).ok().unwrap();
    }
}

type DeltaStream = Stream<DeltaDiscoveryRequest, DeltaDiscoveryResponse>;
type SotwStream = Stream<DiscoveryRequest, DiscoveryResponse>;

struct Service {
    delta: mpsc::UnboundedSender<DeltaStream>,
    sotw: mpsc::UnboundedSender<SotwStream>,
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Answers<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Answers<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, tonic::Status> {
        let (answers, receiver) = mpsc::unbounded_channel();
        self.sotw.send(Stream { requests: request.into_inner(), answers }).ok().unwrap();
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, tonic::Status> {
        let (answers, receiver) = mpsc::unbounded_channel();
        self.delta.send(Stream { requests: request.into_inner(), answers }).ok().unwrap();
        Ok(Response::new(Box::pin(UnboundedReceiverStream::new(receiver))))
    }
}

/// What the application does, without workers.
struct Sink {
    set: RefCell<ResourceSet>,
    snapshot: RefCell<Snapshot>,
    needed: watch::Sender<Needed>,
    /// Rejected whatever it is.
    refused: &'static str,
}

impl Sink {
    fn new(refused: &'static str) -> Sink {
        let needed = watch::Sender::new(Needed::default());
        Sink { set: RefCell::default(), snapshot: RefCell::default(), needed, refused }
    }
}

impl ConfigSink for Sink {
    async fn submit(&self, mut update: Update) -> Verdict {
        tokio::task::yield_now().await;
        let refused = update.upserts.iter().any(|(name, _)| **name == *self.refused);
        update.upserts.retain(|(name, _)| **name != *self.refused);
        self.set.borrow_mut().apply(update);
        let next = Snapshot::compile(&self.set.borrow(), Some(&self.snapshot.borrow()), 1);
        self.needed.send_replace(next.needed.clone());
        *self.snapshot.borrow_mut() = next;
        let rejected = Rejected { name: self.refused.into(), reason: "refused".to_owned() };
        Verdict { rejected: if refused { vec![rejected] } else { Vec::new() } }
    }
}

/// Runs a client against a server that `script` plays, until that is done.
async fn play<F: Future<Output = ()>>(
    variant: ApiVariant,
    sink: &Sink,
    status: &Status,
    script: impl FnOnce(mpsc::UnboundedReceiver<DeltaStream>, mpsc::UnboundedReceiver<SotwStream>) -> F,
) {
    let (delta, delta_streams) = mpsc::unbounded_channel();
    let (sotw, sotw_streams) = mpsc::unbounded_channel();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let service = AggregatedDiscoveryServiceServer::new(Service { delta, sotw });
    let server =
        tokio::spawn(
            async move { Server::builder().serve_with_incoming(service, TcpListenerStream::new(listener)).await },
        );
    let options = AdsOptions {
        node: Node { id: "n".to_owned(), ..Node::default() },
        variant,
        clusters: true,
        listeners: false,
        initial_metadata: vec![("x-mesh".to_owned(), "one".to_owned())],
    };
    let connect = || async move { Endpoint::from_shared(format!("http://{address}")).unwrap().connect().await };
    tokio::select! {
        () = run_ads(options, connect, sink, sink.needed.subscribe(), status) => {
            panic!("the client ended");
        }
        () = script(delta_streams, sotw_streams) => {}
    }
    server.abort();
}

fn any(kind: ResourceKind, yaml: &str) -> Any {
    Any { type_url: type_url_of(kind).to_owned(), value: resource(kind, yaml).to_vec() }
}

fn delta(kind: ResourceKind, nonce: &str, resources: &[(&str, &str)]) -> DeltaDiscoveryResponse {
    let resources = resources.iter().map(|(name, yaml)| Resource {
        name: (*name).to_owned(),
        version: "v1".to_owned(),
        resource: Some(any(kind, yaml)),
        ..Resource::default()
    });
    DeltaDiscoveryResponse {
        type_url: type_url_of(kind).to_owned(),
        nonce: nonce.to_owned(),
        resources: resources.collect(),
        control_plane: Some(ControlPlane { identifier: "test".to_owned() }),
        ..DeltaDiscoveryResponse::default()
    }
}

const CDS: ResourceKind = ResourceKind::Cluster;
const EDS: ResourceKind = ResourceKind::Endpoints;

#[tokio::test]
async fn delta_from_the_first_request_to_a_reconnect() {
    let (sink, status) = (&Sink::new("refused"), &Status::new());
    play(ApiVariant::Delta, sink, status, |mut streams, _| async move {
        let mut streams = async move || streams.recv().await.unwrap();
        let mut stream = streams().await;
        let first = stream.request().await;
        assert_eq!((first.type_url.as_str(), first.node.unwrap().id.as_str()), (type_url_of(CDS), "n"));
        let clusters = [("eds", &*eds_yaml("eds")), ("refused", &*cluster_yaml("refused", 1))];
        stream.answer(delta(CDS, "1", &clusters));
        let nack = stream.request().await;
        assert_eq!((nack.response_nonce.as_str(), nack.node), ("1", None));
        assert_eq!(nack.error_detail.unwrap().message, "Cluster refused: refused");
        let names = stream.request().await;
        assert_eq!((names.response_nonce.as_str(), &names.resource_names_subscribe[..]), ("", &["eds".to_owned()][..]));
        assert!(!sink.snapshot.borrow().clusters.contains_key("eds"), "it is warming");
        stream.answer(delta(EDS, "2", &[("eds", "{cluster_name: eds}")]));
        let ack = stream.request().await;
        assert_eq!((ack.response_nonce.as_str(), ack.error_detail), ("2", None));
        assert!(sink.snapshot.borrow().clusters.contains_key("eds"));
        assert!(status.ads().connected && status.ads().control_plane == "test");
        // The stream breaks: everything stays, and is told to the next one.
        stream.answers.send(Err(tonic::Status::unavailable("going"))).ok().unwrap();
        let mut stream = streams().await;
        assert!(sink.snapshot.borrow().clusters.contains_key("eds"));
        let again = stream.request().await;
        assert!(again.node.is_some());
        assert_eq!(again.initial_resource_versions.keys().collect::<Vec<_>>(), ["eds"]);
        let names = stream.request().await;
        assert_eq!(names.resource_names_subscribe, ["eds"]);
        assert_eq!(names.initial_resource_versions.get("eds").map(String::as_str), Some("v1"));
        let kind = status.kind(CDS);
        assert_eq!(kind.accepted.keys().map(|name| &**name).collect::<Vec<_>>(), ["eds"]);
        assert_eq!(kind.rejected["refused"].reason, "refused");
        assert_eq!((kind.update_attempt, kind.update_rejected, kind.update_success), (1, 1, 0));
        assert!(!status.ads().connected && status.ads().last_error.contains("going"));
    })
    .await;
}

#[tokio::test]
async fn state_of_the_world_end_to_end() {
    let (sink, status) = (&Sink::new(""), &Status::new());
    play(ApiVariant::StateOfTheWorld, sink, status, |_, mut streams| async move {
        let mut stream = streams.recv().await.unwrap();
        let first = stream.request().await;
        assert_eq!((first.type_url.as_str(), first.node.is_some()), (type_url_of(CDS), true));
        let answer = |nonce: &str, names: &[&str]| DiscoveryResponse {
            type_url: type_url_of(CDS).to_owned(),
            version_info: format!("v{nonce}"),
            nonce: nonce.to_owned(),
            resources: names.iter().map(|name| any(CDS, &cluster_yaml(name, 1))).collect(),
            ..DiscoveryResponse::default()
        };
        stream.answer(answer("1", &["a", "b"]));
        let ack = stream.request().await;
        assert_eq!((ack.version_info.as_str(), ack.response_nonce.as_str()), ("v1", "1"));
        let before = sink.snapshot.borrow().clusters.get("a").cloned().unwrap();
        stream.answer(answer("2", &["a"]));
        let ack = stream.request().await;
        assert_eq!((ack.version_info.as_str(), ack.error_detail), ("v2", None));
        let snapshot = sink.snapshot.borrow();
        assert!(Arc::ptr_eq(snapshot.clusters.get("a").unwrap(), &before), "what is as it was isn't made anew");
        assert!(!snapshot.clusters.contains_key("b"));
        assert_eq!(&*status.kind(CDS).version, "v2");
    })
    .await;
}

#[tokio::test]
async fn a_server_that_isnt_there_leaves_everything_waiting() {
    let (sink, status) = (Sink::new(""), Status::new());
    let options = AdsOptions {
        node: Node::default(),
        variant: ApiVariant::Delta,
        clusters: true,
        listeners: true,
        initial_metadata: Vec::new(),
    };
    let (told, mut tries) = mpsc::unbounded_channel();
    let connect = || {
        told.send(()).ok();
        std::future::ready(Err::<Channel, _>("nobody home"))
    };
    tokio::select! {
        () = run_ads(options, connect, &sink, sink.needed.subscribe(), &status) => panic!("the client ended"),
        () = async { for _ in 0..2 { tries.recv().await; } } => {}
    }
    assert!(status.ads().last_error.contains("nobody home"));
    // Without anybody who needs anything the client ends.
    let needed = watch::Sender::new(Needed::default());
    let receiver = needed.subscribe();
    drop(needed);
    let options = AdsOptions {
        node: Node::default(),
        variant: ApiVariant::Delta,
        clusters: true,
        listeners: true,
        initial_metadata: Vec::new(),
    };
    run_ads(options, std::future::pending::<Result<Channel, String>>, &sink, receiver, &status).await;
}

#[tokio::test]
async fn a_server_that_reads_nothing_is_read_no_further() {
    const MANY: u64 = 6000;
    /// Requests that are on their way: in windows and buffers of the connection.
    const UNDER_WAY: u64 = 1500;
    let (sink, status) = (&Sink::new(""), &Status::new());
    play(ApiVariant::Delta, sink, status, |mut streams, _| async move {
        let mut stream = streams.recv().await.unwrap();
        stream.request().await;
        // So long that few acknowledgements fill a window.
        let nonce = |number: u64| format!("{number:0>1000}");
        (0..MANY).for_each(|number| stream.answer(delta(CDS, &nonce(number), &[])));
        let answered = || status.kind(CDS).update_attempt;
        while answered() < super::stream::WAITING_MAX as u64 {
            tokio::task::yield_now().await;
        }
        for _ in 0..100_000 {
            tokio::task::yield_now().await;
        }
        for read in 0..MANY {
            let ahead = answered().saturating_sub(read);
            assert!(ahead <= super::stream::WAITING_MAX as u64 + UNDER_WAY, "{ahead} are ahead of {read}");
            assert_eq!(stream.request().await.response_nonce, nonce(read));
        }
        assert_eq!(answered(), MANY);
    })
    .await;
}
