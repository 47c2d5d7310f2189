//! One stream: reads requests, watches for snapshots, sends responses, and keeps the books.

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::sync::mpsc::error::SendTimeoutError;
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};

use crate::hub::Snapshots;
use crate::node::NodeInfo;
use crate::protocol::Protocol;
use crate::resource::{NodeSnapshot, ResourceType};
use crate::server::Shared;
use crate::stream::{Answer, Request, Response, StreamOptions, StreamState};
use crate::translate::Profile;

pub(crate) struct Connection<'a, P: Protocol> {
    shared: &'a Arc<Shared>,
    id: u64,
    address: Option<SocketAddr>,
    responses: mpsc::Sender<Result<P::Response, Status>>,
    /// Types that the client asked for and that this server does not have, as far as they were logged.
    unknown_types: Vec<String>,
}

/// At most so many unknown types are remembered (and logged) for a stream.
const UNKNOWN_TYPES_MAX: usize = 8;

impl<'a, P: Protocol> Connection<'a, P> {
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        id: u64,
        address: Option<SocketAddr>,
        responses: mpsc::Sender<Result<P::Response, Status>>,
    ) -> Self {
        Self { shared, id, address, responses, unknown_types: Vec::new() }
    }

    /// The stream's whole life; why it ends is told to the client.
    pub(crate) async fn run(&mut self, mut requests: Streaming<P::Request>, closing: watch::Receiver<bool>) {
        let timeout = self.shared.options.first_request_timeout;
        let first = match tokio::time::timeout(timeout, requests.message()).await {
            Ok(Ok(Some(first))) => first,
            Ok(_) => return,
            Err(_) => return self.end(Status::deadline_exceeded("no request came")).await,
        };
        let node = match NodeInfo::new(P::node(&first)) {
            Ok(node) => node,
            Err(problem) => return self.end(Status::invalid_argument(problem.to_string())).await,
        };
        self.welcome(&node);
        self.shared.proxies.connected(self.id, &node, self.address, P::VARIANT);
        let snapshots = self.shared.hub.subscribe(&node.key);
        let ended = self.exchange(&node, (snapshots, closing), first, requests).await;
        self.shared.hub.release(&node.key);
        self.shared.proxies.disconnected(self.id);
        match ended {
            Ok(()) => info!(node = node.id, "disconnected"),
            Err(status) => {
                info!(node = node.id, "disconnected: {}", status.message());
                self.end(status).await;
            }
        }
    }

    fn welcome(&self, node: &NodeInfo) {
        let address = self.address.map_or("unknown".to_owned(), |address| address.to_string());
        info!(node = node.id, %address, client = node.user_agent, serves = %node.key.scope, "connected");
        if let Some(problem) = &node.problem {
            warn!(node = node.id, "gets nothing: {problem}");
        } else if self.shared.hub.knows(&node.key) == Some(false) {
            warn!(node = node.id, "gets nothing: there is no {}", node.key.scope);
        }
    }

    async fn exchange(
        &mut self,
        node: &NodeInfo,
        (mut snapshots, mut closing): (Snapshots, watch::Receiver<bool>),
        first: P::Request,
        mut requests: Streaming<P::Request>,
    ) -> Result<(), Status> {
        let options = StreamOptions {
            endpoints_after_cluster: node.key.profile == Profile::Envoy,
            ..self.shared.options.stream.clone()
        };
        let mut state = StreamState::new(P::VARIANT, options, &format!("{}-", self.id));
        let mut snapshot = snapshots.borrow_and_update().clone();
        if let Some(snapshot) = &snapshot {
            state.on_snapshot(Arc::clone(snapshot), Instant::now());
        }
        let mut responses = self.take_request(node, &mut state, P::decode(first))?;
        loop {
            self.send_all(node, &state, responses, snapshot.as_deref()).await?;
            let wake = state.deadline(Instant::now());
            let event = tokio::select! {
                request = requests.message() => request?.map_or(Event::Ended, Event::Request),
                changed = snapshots.changed() => if changed.is_ok() { Event::Snapshot } else { Event::Closing },
                () = sleep_until(wake) => Event::Timer,
                () = self.responses.closed() => Event::Ended,
                () = closed(&mut closing) => Event::Closing,
            };
            responses = match event {
                Event::Request(request) => self.take_request(node, &mut state, P::decode(request))?,
                Event::Snapshot => {
                    snapshot.clone_from(&snapshots.borrow_and_update());
                    let now = Instant::now();
                    snapshot.as_ref().map_or_else(Vec::new, |snapshot| state.on_snapshot(Arc::clone(snapshot), now))
                }
                Event::Timer => state.on_timer(Instant::now()),
                Event::Ended => return Ok(()),
                Event::Closing => return Err(Status::unavailable("the control plane is shutting down")),
            };
        }
    }

    fn take_request(
        &mut self,
        node: &NodeInfo,
        state: &mut StreamState,
        request: Request,
    ) -> Result<Vec<Response>, Status> {
        if ResourceType::from_type_url(&request.type_url).is_none() {
            self.note_unknown(node, request.type_url);
            return Ok(Vec::new());
        }
        debug!(node = node.id, ?request, "request");
        let (responses, answer) = state
            .on_request(&request, Instant::now())
            .map_err(|refused| Status::resource_exhausted(refused.to_string()))?;
        match answer {
            Some(Answer::Acked { kind, latency }) => {
                self.shared.metrics.acked(kind, latency);
                debug!(node = node.id, r#type = %kind, ?latency, "acked");
            }
            Some(Answer::Nacked { kind, reason, names }) => {
                self.shared.metrics.nacked(kind);
                warn!(node = node.id, r#type = %kind, resources = names.join(" "), "rejected: {reason}");
            }
            None => {}
        }
        Ok(responses)
    }

    fn note_unknown(&mut self, node: &NodeInfo, type_url: String) {
        if self.unknown_types.len() < UNKNOWN_TYPES_MAX && !self.unknown_types.contains(&type_url) {
            warn!(node = node.id, "asks for {type_url}, which is not served");
            self.unknown_types.push(type_url);
        }
    }

    /// Sends, and notes where the proxy stands.
    async fn send_all(
        &self,
        node: &NodeInfo,
        state: &StreamState,
        responses: Vec<Response>,
        snapshot: Option<&NodeSnapshot>,
    ) -> Result<(), Status> {
        self.shared.proxies.update(self.id, state, snapshot);
        for response in responses {
            let (kind, resources, removed) = (response.kind, response.resources.len(), response.removed.len());
            debug!(node = node.id, r#type = %kind, resources, removed, nonce = response.nonce, "push");
            self.shared.metrics.pushed(kind, resources);
            let sent = self.responses.send_timeout(Ok(P::encode(response)), self.shared.options.send_timeout).await;
            match sent {
                Ok(()) => {}
                Err(SendTimeoutError::Timeout(_)) => {
                    return Err(Status::deadline_exceeded("responses are not being read"));
                }
                Err(SendTimeoutError::Closed(_)) => return Ok(()),
            }
        }
        Ok(())
    }

    async fn end(&self, status: Status) {
        // Bounded: a client that reads nothing is not told.
        let _ = self.responses.send_timeout(Err(status), self.shared.options.send_timeout).await;
    }
}

enum Event<R> {
    Request(R),
    Snapshot,
    Timer,
    Ended,
    Closing,
}

async fn closed(closing: &mut watch::Receiver<bool>) {
    // An error says that the server has gone, which is the same.
    let _ = closing.wait_for(|closing| *closing).await;
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
