//! The ADS client: a thin loop around [`AdsState`], which knows the protocol.
//!
//! Whatever happens to the stream, what is held keeps serving; only its age is told. Secrets may come over streams of
//! their own, which are driven the same way.

mod backoff;
mod secrets;
mod state;
mod stream;

use std::fmt::Display;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use outrigger_config::{Needed, ResourceKind, Source};
use outrigger_proto::pb;
use rand::SeedableRng;
use rand::rngs::SmallRng;
use tokio::sync::watch;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::{AdsStatus, ApiVariant, ConfigSink, Rejected, Status, Verdict};
use backoff::Backoff;
use state::{AdsState, Pending, Request};
use stream::{AdsStream, Outgoing, Received, Service};

pub use secrets::run_secret_streams;

/// A connection that isn't there after this long isn't coming.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// How an ADS client behaves.
#[derive(Debug, Clone)]
pub struct AdsOptions {
    pub node: pb::envoy::config::core::v3::Node,
    pub variant: ApiVariant,
    /// Whether clusters come over this stream (`cds_config: { ads: {} }`).
    pub clusters: bool,
    /// Whether listeners do.
    pub listeners: bool,
    /// Headers of each stream.
    pub initial_metadata: Vec<(String, String)>,
}

/// Keeps a stream open, until the sender of `needed` is gone.
///
/// `connect` makes a connection to the server; it decides about addresses, keep-alive and transport. Each response is
/// answered once the sink has judged it; other kinds of resources go on meanwhile.
pub async fn run_ads<C, F, E>(
    options: AdsOptions,
    connect: C,
    sink: &impl ConfigSink,
    needed: watch::Receiver<Needed>,
    status: &Status,
) where
    C: Fn() -> F,
    F: Future<Output = Result<Channel, E>>,
    E: Display,
{
    let AdsOptions { node, variant, clusters, listeners, initial_metadata } = options;
    let state = AdsState::new(Source::Ads, variant, node, clusters, listeners);
    let kind = Kind { source: Source::Ads, service: Service::Aggregated, variant };
    run(kind, state, &initial_metadata, connect, sink, needed, status).await;
}

/// What a stream carries, and how.
#[derive(Debug, Clone)]
struct Kind {
    source: Source,
    service: Service,
    variant: ApiVariant,
}

async fn run<C, F, E>(
    kind: Kind,
    state: AdsState,
    initial_metadata: &[(String, String)],
    connect: C,
    sink: &impl ConfigSink,
    needed: watch::Receiver<Needed>,
    status: &Status,
) where
    C: Fn() -> F,
    F: Future<Output = Result<Channel, E>>,
    E: Display,
{
    let mut client = Client { kind, state, sink, needed, status, judging: FuturesUnordered::new(), outgoing: None };
    client.needed.mark_changed();
    let mut backoff = Backoff::new();
    let mut random = SmallRng::from_os_rng();
    loop {
        let Some(connected) = client.meanwhile(tokio::time::timeout(CONNECT_TIMEOUT, connect())).await else { return };
        let ended = match connected {
            Ok(Ok(channel)) => match client.run_stream(channel, initial_metadata, &mut backoff).await {
                Some(ended) => ended,
                None => return,
            },
            Ok(Err(error)) => tonic::Status::unavailable(format!("cannot connect: {error}")),
            Err(_) => tonic::Status::deadline_exceeded("connecting took too long"),
        };
        client.disconnected(&ended);
        let wait = backoff.next(Some(&ended), &mut random);
        let of = &client.kind.source;
        tracing::warn!(%of, code = ?ended.code(), reason = ended.message(), ?wait, "stream ended");
        if client.meanwhile(tokio::time::sleep(wait)).await.is_none() {
            return;
        }
    }
}

type Judging<'a> = Pin<Box<dyn Future<Output = (Option<Box<Pending>>, Verdict)> + 'a>>;

struct Client<'a, S> {
    kind: Kind,
    state: AdsState,
    sink: &'a S,
    needed: watch::Receiver<Needed>,
    status: &'a Status,
    /// What the sink has in hand.
    judging: FuturesUnordered<Judging<'a>>,
    outgoing: Option<Outgoing>,
}

impl<S: ConfigSink> Client<'_, S> {
    /// Waits for a future and does everything else meanwhile; `None` when it is time to end.
    async fn meanwhile<T>(&mut self, future: impl Future<Output = T>) -> Option<T> {
        tokio::pin!(future);
        loop {
            let deadline = self.state.next_time();
            let timer = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                changed = self.needed.changed() => {
                    changed.ok()?;
                    self.on_needed();
                }
                Some((pending, verdict)) = self.judging.next(), if !self.judging.is_empty() => {
                    self.on_verdict(pending, verdict);
                }
                () = timer => self.on_time(),
                (kind, rejected) = self.sink.given_up(&self.kind.source) => self.on_given_up(kind, &rejected),
                out = &mut future => return Some(out),
            }
        }
    }

    /// Runs a stream to its end; `None` when it is time to end altogether.
    async fn run_stream(
        &mut self,
        channel: Channel,
        metadata: &[(String, String)],
        backoff: &mut Backoff,
    ) -> Option<tonic::Status> {
        let (outgoing, opening) = stream::open(channel, self.kind.service, self.kind.variant, metadata);
        self.outgoing = Some(outgoing);
        self.of_ads(|ads| ads.streams += 1);
        let requests = self.state.on_connect(Instant::now());
        self.send(requests);
        let mut stream: AdsStream = match self.meanwhile(opening).await? {
            Ok(stream) => stream,
            Err(status) => return Some(status),
        };
        let mut answered = false;
        loop {
            while !(self.state.has_room() && self.outgoing.as_ref().is_none_or(Outgoing::has_room)) {
                // The server waits until something is judged, and until it has read what it was answered.
                self.meanwhile(tokio::time::sleep(Duration::from_millis(10))).await?;
            }
            let received = match self.meanwhile(stream.next()).await? {
                Ok(Some(received)) => received,
                Ok(None) => return Some(tonic::Status::unavailable("the server ended the stream")),
                Err(status) => return Some(status),
            };
            if !std::mem::replace(&mut answered, true) {
                backoff.reset();
                self.connected();
            }
            self.on_received(received);
        }
    }

    /// Notes something of the ADS stream, where this is it.
    fn of_ads(&self, write: impl FnOnce(&mut AdsStatus)) {
        if self.kind.source == Source::Ads {
            self.status.update_ads(write);
        }
    }

    fn connected(&self) {
        self.of_ads(|ads| {
            ads.connected = true;
            ads.since = Some(SystemTime::now());
            ads.last_error.clear();
        });
    }

    fn disconnected(&mut self, ended: &tonic::Status) {
        self.outgoing = None;
        self.state.on_disconnect();
        self.of_ads(|ads| {
            if std::mem::replace(&mut ads.connected, false) {
                ads.since = Some(SystemTime::now());
            }
            ads.last_error = format!("{:?}: {}", ended.code(), ended.message());
        });
        let all = self.kind.source == Source::Ads;
        for kind in ResourceKind::ALL.into_iter().filter(|kind| all || *kind == ResourceKind::Secret) {
            self.status.update(kind, |status| status.update_failure += 1);
        }
    }

    fn on_received(&mut self, received: Received) {
        self.of_ads(|ads| {
            ads.last_response = Some(SystemTime::now());
            ads.control_plane = received.control_plane;
        });
        match received.response {
            Ok(response) => {
                self.status.update(response.kind, |status| status.update_attempt += 1);
                self.state.on_response(response);
                self.submit_next();
            }
            // Nobody asked for it, so nobody answers.
            Err(type_url) => tracing::warn!(type_url, "a response of a type that was not asked for"),
        }
    }

    /// Hands to the sink whatever may go now.
    fn submit_next(&mut self) {
        while let Some((pending, update)) = self.state.next_pending() {
            pending.batch.log(pending.kind);
            let (pending, sink) = (Box::new(pending), self.sink);
            let watched = pending.batch.watched.iter().cloned();
            self.status.watch(watched);
            let nothing = update.is_empty();
            self.judging.push(Box::pin(async move {
                let verdict = if nothing { Verdict::default() } else { sink.submit(update).await };
                (Some(pending), verdict)
            }));
        }
    }

    fn on_verdict(&mut self, pending: Option<Box<Pending>>, verdict: Verdict) {
        // What was submitted because of a timer has nobody to answer.
        let Some(mut pending) = pending else { return };
        let requests = self.state.on_verdict(&mut pending, verdict, Instant::now());
        self.status.update(pending.kind, |status| {
            pending.batch.record(&self.kind.source, status);
            for name in &pending.removed {
                match status.accepted.get_mut(name) {
                    Some(resource) if pending.kind.is_named() => {
                        resource.warnings = Arc::new(["removed by the control plane, kept while in use".to_owned()]);
                    }
                    _ => status.forget(name, &self.kind.source),
                }
            }
            if pending.batch.rejected.is_empty() {
                status.version = Arc::clone(pending.version());
            }
        });
        self.send(requests);
        // The sink may have told new names before its verdict: they follow the answer.
        if self.needed.has_changed().unwrap_or(false) {
            self.on_needed();
        }
        self.submit_next();
    }

    fn on_given_up(&mut self, kind: ResourceKind, rejected: &Rejected) {
        tracing::warn!(kind = kind.type_name(), name = %rejected.name, reason = %rejected.reason, "given up");
        let Some(version) = self.state.given_up(kind, rejected) else { return };
        self.status.update(kind, |status| {
            status.reject(&Source::Ads, &version, rejected);
            status.update_rejected += 1;
        });
        let requests = self.state.late_rejections(kind);
        self.send(requests);
    }

    fn on_needed(&mut self) {
        let needed = self.needed.borrow_and_update().clone();
        let (requests, forgotten) = self.state.on_needed(&needed, Instant::now());
        for (kind, name) in forgotten {
            self.status.update(kind, |status| status.forget(&name, &self.kind.source));
        }
        self.send(requests);
    }

    fn on_time(&mut self) {
        let (requests, updates) = self.state.on_time(Instant::now());
        self.send(requests);
        for update in updates {
            for name in &update.missing {
                tracing::warn!(kind = update.kind.type_name(), %name, "asked for, and not sent in time");
            }
            let sink = self.sink;
            self.judging.push(Box::pin(async move { (None, sink.submit(update).await) }));
        }
    }

    fn send(&mut self, requests: Vec<Request>) {
        if let Some(outgoing) = &self.outgoing {
            for request in requests {
                outgoing.send(request);
            }
        }
    }
}

#[cfg(test)]
#[path = "ads/tests.rs"]
mod tests;
