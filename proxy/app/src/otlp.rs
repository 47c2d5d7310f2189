//! Tells spans to OTLP collectors: batches by tracer, over gRPC or HTTP, to the endpoints of a cluster, with its transport
//! socket.
//!
//! A collector that is slow or gone costs spans, never requests or memory: what waits is bounded by the tracer's
//! `max_cache_size`, the rest is dropped and counted.

use std::collections::HashMap;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use outrigger_config::{OtlpTransport, Tracer};
use outrigger_dataplane::{Alpn, Attribute, Span, SpanQueue};
use outrigger_http::{EndpointAddress, StreamEvent};
use outrigger_proto::pb::outrigger::otlp::v1 as pb;
use outrigger_stats::{Counter, Name, Registry};
use prost::Message;
use rand::seq::IndexedRandom;
use tokio::time::Instant;

use crate::channel::{Dial, dials, host};
use crate::http_client::{Client, alpn};
use crate::server::Server;

/// A batch goes out when it is full, or this long after its first span.
const FLUSH_INTERVAL: Duration = Duration::from_secs(1);
/// A tracer that has had nothing to send for so long has its connection closed.
const UNUSED_FOR: Duration = Duration::from_secs(90);
const BATCH_SPANS_MAX: usize = 512;
/// How long spans gather before they are taken: being woken for each would cost more than the span.
const GATHERED_FOR: Duration = Duration::from_millis(5);
/// Tracers that configuration may name at one time; beyond it the one that was idle longest is forgotten.
const TRACERS_MAX: usize = 64;
const RESPONSE_BYTES_MAX: usize = 64 * 1024;
const GRPC_PATH: &str = "/opentelemetry.proto.collector.trace.v1.TraceService/Export";

/// What became of spans.
#[derive(Debug)]
struct Metrics {
    sent: Counter,
    dropped: Counter,
    export_failures: Counter,
}

/// Spans of one tracer on their way.
struct Batch {
    spans: Vec<Span>,
    due: Instant,
    /// One export at a time; the next batch gathers meanwhile. It leaves its connection to the next one.
    exporting: Option<tokio::task::JoinHandle<Option<Kept>>>,
}

/// Takes spans from the workers until they are gone.
pub(crate) async fn export(mut queue: SpanQueue, server: Rc<Server>, registry: Arc<Registry>) {
    let counter = |name: &str| registry.counter(&Name::new("tracing.opentelemetry", name));
    let metrics = Rc::new(Metrics {
        sent: counter("spans_sent"),
        dropped: counter("spans_dropped"),
        export_failures: counter("export_failures"),
    });
    let mut batches: HashMap<Arc<Tracer>, Batch> = HashMap::new();
    loop {
        let now = Instant::now();
        let due = batches.values().map(|batch| batch.due(now)).min();
        let timer = async {
            match due {
                Some(due) => tokio::time::sleep_until(due).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            span = queue.recv() => match span {
                Some(span) => {
                    take(span, &mut batches, &metrics);
                    tokio::time::sleep(GATHERED_FOR).await;
                    while let Ok(span) = queue.try_recv() {
                        take(span, &mut batches, &metrics);
                    }
                }
                None => break,
            },
            () = timer => {}
        }
        let now = Instant::now();
        batches.retain(|_, batch| !batch.spans.is_empty() || now < batch.due(now));
        for (tracer, batch) in &mut batches {
            let ready = batch.spans.len() >= BATCH_SPANS_MAX || (!batch.spans.is_empty() && batch.due <= now);
            if ready && !batch.is_busy() {
                batch.send(tracer, &server, &metrics).await;
            } else if ready {
                batch.due = now + FLUSH_INTERVAL;
            }
        }
    }
    // The workers have ended: what is left goes out before the process does.
    for (tracer, batch) in &mut batches {
        batch.finish(tracer, &server, &metrics).await;
    }
}

fn take(span: Span, batches: &mut HashMap<Arc<Tracer>, Batch>, metrics: &Rc<Metrics>) {
    let tracer = Arc::clone(&span.tracer);
    if batches.len() >= TRACERS_MAX && !batches.contains_key(&tracer) {
        let idle = batches.iter().filter(|(_, batch)| batch.spans.is_empty()).min_by_key(|(_, batch)| batch.due);
        match idle.map(|(tracer, _)| Arc::clone(tracer)) {
            Some(idle) => _ = batches.remove(&idle),
            None => return metrics.dropped.inc(),
        }
    }
    let spans_max = tracer.spans_max;
    let batch = batches.entry(tracer).or_insert_with(Batch::new);
    if batch.spans.len() >= spans_max {
        return metrics.dropped.inc();
    }
    if batch.spans.is_empty() {
        batch.due = Instant::now() + FLUSH_INTERVAL;
    }
    batch.spans.push(span);
}

impl Batch {
    fn new() -> Batch {
        Batch { spans: Vec::new(), due: Instant::now(), exporting: None }
    }

    fn is_busy(&self) -> bool {
        self.exporting.as_ref().is_some_and(|export| !export.is_finished())
    }

    /// When something is to be done: its spans are sent, or its connection is closed, since nobody uses it.
    fn due(&self, now: Instant) -> Instant {
        match (self.spans.is_empty(), self.is_busy()) {
            (false, _) => self.due,
            (true, false) => self.due + UNUSED_FOR,
            (true, true) => now + UNUSED_FOR,
        }
    }

    /// Waits for the export before this one.
    async fn send(&mut self, tracer: &Arc<Tracer>, server: &Rc<Server>, metrics: &Rc<Metrics>) {
        let kept = match self.exporting.take() {
            Some(exporting) => exporting.await.ok().flatten(),
            None => None,
        };
        let spans = std::mem::take(&mut self.spans);
        let dials = dials(&server.snapshot.borrow().clone(), &tracer.cluster);
        let (tracer, metrics) = (Arc::clone(tracer), Rc::clone(metrics));
        self.exporting = Some(tokio::task::spawn_local(async move {
            let count = spans.len() as u64;
            let delivered = match dials {
                Ok(dials) => deliver(&tracer, &dials, kept, &spans).await,
                Err(error) => Err(error.to_string()),
            };
            match delivered {
                Ok(kept) => {
                    metrics.sent.add(count);
                    Some(kept)
                }
                Err(reason) => {
                    metrics.export_failures.inc();
                    metrics.dropped.add(count);
                    tracing::warn!("{count} span(s) for cluster {} are lost: {reason}", tracer.cluster);
                    None
                }
            }
        }));
    }

    async fn finish(&mut self, tracer: &Arc<Tracer>, server: &Rc<Server>, metrics: &Rc<Metrics>) {
        if !self.spans.is_empty() {
            self.send(tracer, server, metrics).await;
        }
        if let Some(exporting) = self.exporting.take() {
            _ = exporting.await;
        }
    }
}

/// A connection that has served, and may again.
struct Kept {
    dial: Dial,
    client: Client<Full<Bytes>>,
}

/// Why an export failed.
enum Failed {
    /// The connection was closed before the request went out.
    Unsent(String),
    Final(String),
}

async fn deliver(tracer: &Tracer, dials: &[Dial], kept: Option<Kept>, spans: &[Span]) -> Result<Kept, String> {
    let message = request(tracer, spans);
    let body = match &tracer.transport {
        OtlpTransport::Grpc { .. } => framed(&message)?,
        OtlpTransport::Http { .. } => message.encode_to_vec().into(),
    };
    let exchange = async {
        let usable = kept.filter(|kept| kept.client.is_open() && dials.contains(&kept.dial));
        if let Some(mut kept) = usable {
            match kept.export(tracer, body.clone()).await {
                Ok(()) => return Ok(kept),
                Err(Failed::Final(reason)) => return Err(reason),
                // It was idle for too long.
                Err(Failed::Unsent(_)) => {}
            }
        }
        let mut fresh = Kept::open(tracer, dials).await?;
        match fresh.export(tracer, body).await {
            Ok(()) => Ok(fresh),
            Err(Failed::Unsent(reason) | Failed::Final(reason)) => Err(reason),
        }
    };
    match tokio::time::timeout(tracer.timeout, exchange).await {
        Ok(outcome) => outcome,
        Err(_) => Err(format!("it took longer than {:?}", tracer.timeout)),
    }
}

impl Kept {
    async fn open(tracer: &Tracer, dials: &[Dial]) -> Result<Kept, String> {
        let dial = dials.choose(&mut rand::rng()).ok_or("the cluster has no usable endpoint")?;
        let (alpn, authority) = match &tracer.transport {
            OtlpTransport::Grpc { authority, .. } => (Alpn::Http2, authority),
            OtlpTransport::Http { authority, .. } => (alpn(dial.protocol), authority),
        };
        let opened = Client::open(dial, alpn, host(&dial.authority(authority))).await;
        let (client, connection) = opened.map_err(|reason| format!("{}: {reason}", dial.address))?;
        // It ends when nobody sends on it any more, or when its server closes it.
        tokio::task::spawn_local(connection);
        Ok(Kept { dial: dial.clone(), client })
    }

    async fn export(&mut self, tracer: &Tracer, body: Bytes) -> Result<(), Failed> {
        let address = self.dial.address.clone();
        let request = self.request(tracer, body).map_err(Failed::Final)?;
        let response = self.client.send(request).await.map_err(|error| {
            let reason = format!("{address}: {error}");
            if error.is_canceled() || error.is_closed() { Failed::Unsent(reason) } else { Failed::Final(reason) }
        })?;
        let is_grpc = matches!(tracer.transport, OtlpTransport::Grpc { .. });
        answered(&address, is_grpc, response).await.map_err(Failed::Final)
    }

    fn request(&self, tracer: &Tracer, body: Bytes) -> Result<Request<Full<Bytes>>, String> {
        let (authority, path, headers, content) = match &tracer.transport {
            OtlpTransport::Grpc { authority, metadata } => (authority, GRPC_PATH, metadata, "application/grpc"),
            OtlpTransport::Http { authority, path, headers } => {
                (authority, path.as_str(), headers, "application/x-protobuf")
            }
        };
        let request = self.client.request(Method::POST, &self.dial.authority(authority), path);
        let mut request = request.header(header::CONTENT_TYPE, content);
        if matches!(tracer.transport, OtlpTransport::Grpc { .. }) {
            request = request.header(header::TE, "trailers");
        }
        for (name, value) in headers {
            let name = HeaderName::try_from(name.as_str()).map_err(|error| format!("{name}: {error}"))?;
            let value = HeaderValue::try_from(value.as_str()).map_err(|error| format!("{name}: {error}"))?;
            request = request.header(name, value);
        }
        request.body(Full::new(body)).map_err(|error| error.to_string())
    }
}

/// What a collector says of an export.
async fn answered(address: &EndpointAddress, is_grpc: bool, response: Response<Incoming>) -> Result<(), String> {
    if response.status() != StatusCode::OK {
        return Err(format!("{address} answered with status {}", response.status()));
    }
    // A failure without a message comes in the head.
    let early = grpc_status(response.headers());
    let body = Limited::new(response.into_body(), RESPONSE_BYTES_MAX).collect().await;
    let body = body.map_err(|error| format!("{address} broke off: {error}"))?;
    let status = early.or_else(|| grpc_status(body.trailers()?));
    match status {
        Some(0) => Ok(()),
        Some(status) => Err(format!("{address} answered with gRPC status {status}")),
        None if is_grpc => Err(format!("{address} answered without a gRPC status")),
        None => Ok(()),
    }
}

fn grpc_status(headers: &http::HeaderMap) -> Option<u32> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// A gRPC message.
fn framed(message: &pb::ExportTraceServiceRequest) -> Result<Bytes, String> {
    let length = message.encoded_len();
    let mut body = BytesMut::with_capacity(5 + length);
    body.put_u8(0);
    body.put_u32(u32::try_from(length).map_err(|_| "the batch is too large")?);
    message.encode(&mut body).map_err(|error| error.to_string())?;
    Ok(body.freeze())
}

fn request(tracer: &Tracer, spans: &[Span]) -> pb::ExportTraceServiceRequest {
    let attribute = |key: &str, value: &str| key_value(key, &Attribute::Text(value.to_owned()));
    pb::ExportTraceServiceRequest {
        resource_spans: vec![pb::ResourceSpans {
            resource: Some(pb::Resource {
                attributes: vec![
                    attribute("service.name", &tracer.service_name),
                    attribute("telemetry.sdk.language", "rust"),
                    attribute("telemetry.sdk.name", "outrigger"),
                    attribute("telemetry.sdk.version", env!("CARGO_PKG_VERSION")),
                ],
            }),
            scope_spans: vec![pb::ScopeSpans {
                scope: Some(pb::Scope {
                    name: "outrigger-proxy".to_owned(),
                    version: env!("CARGO_PKG_VERSION").to_owned(),
                }),
                spans: spans.iter().map(message).collect(),
            }],
        }],
    }
}

fn message(span: &Span) -> pb::Span {
    let kind = if span.is_server { pb::span::Kind::Server } else { pb::span::Kind::Client };
    let code = if span.is_error { pb::status::Code::Error } else { pb::status::Code::Unset };
    pb::Span {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        trace_state: span.trace_state.clone(),
        parent_span_id: span.parent_span_id.map_or_else(Vec::new, |id| id.to_vec()),
        name: span.name.clone().into_owned(),
        kind: kind.into(),
        start_time_unix_nano: nanoseconds(span.start),
        end_time_unix_nano: nanoseconds(span.end),
        attributes: span.attributes.iter().map(|(key, value)| key_value(key, value)).collect(),
        events: span.events.iter().map(|event| self::event(span, event)).collect(),
        status: Some(pb::Status { message: String::new(), code: code.into() }),
    }
}

fn event(span: &Span, event: &StreamEvent) -> pb::span::Event {
    let attribute = |(key, value): &(&'static str, Arc<str>)| key_value(key, &Attribute::Text(value.to_string()));
    pb::span::Event {
        time_unix_nano: nanoseconds(span.start + event.at),
        name: event.name.to_owned(),
        attributes: event.attributes.iter().map(attribute).collect(),
    }
}

fn key_value(key: &str, value: &Attribute) -> pb::KeyValue {
    let value = match value {
        Attribute::Text(text) => pb::any_value::Value::StringValue(text.clone()),
        Attribute::Number(number) => pb::any_value::Value::IntValue(*number),
    };
    pb::KeyValue { key: key.to_owned(), value: Some(pb::AnyValue { value: Some(value) }) }
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}
