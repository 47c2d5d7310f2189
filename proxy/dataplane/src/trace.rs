//! Spans of requests: a context that comes in with W3C's or B3's headers goes on to the origin in the same form, and what
//! was sampled is told to the collector by the control side. A request that isn't traced costs one look at an `Option`.

pub(crate) mod context;

use std::borrow::Cow;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use outrigger_config::{TagValue, Tracer, Tracing};
use outrigger_http::{Direction, HeaderName, StreamEvent, StreamState, TimingPoint};
use outrigger_stats::{Counter, Name, Registry};
use tokio::sync::mpsc;

use context::{Form, TraceContext};

/// Spans that wait for the control side; the rest is dropped and counted.
const QUEUE_MAX: usize = 4096;

/// A finished span, in OTLP's terms.
#[derive(Debug, Clone)]
pub struct Span {
    pub tracer: Arc<Tracer>,
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub parent_span_id: Option<[u8; 8]>,
    /// `tracestate` as it came.
    pub trace_state: String,
    pub name: Cow<'static, str>,
    /// Towards the own workload; otherwise the span is a client's.
    pub is_server: bool,
    pub start: SystemTime,
    pub end: SystemTime,
    pub attributes: Vec<(Cow<'static, str>, Attribute)>,
    pub events: Vec<StreamEvent>,
    pub is_error: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Attribute {
    Text(String),
    Number(i64),
}

/// Where workers leave spans.
#[derive(Debug, Clone)]
pub struct SpanSink {
    sender: mpsc::Sender<Span>,
}

/// Where the control side takes them.
pub type SpanQueue = mpsc::Receiver<Span>;

/// A bounded queue for spans.
#[must_use]
pub fn span_queue() -> (SpanSink, SpanQueue) {
    let (sender, receiver) = mpsc::channel(QUEUE_MAX);
    (SpanSink { sender }, receiver)
}

/// A worker's end of the queue, with its count of what found no room.
#[derive(Debug)]
pub(crate) struct Spans {
    sink: SpanSink,
    dropped: Counter,
}

impl Spans {
    pub(crate) fn new(sink: SpanSink, registry: &Registry) -> Spans {
        let dropped = registry.counter(&Name::new("tracing.opentelemetry", "spans_dropped"));
        Spans { sink, dropped }
    }

    fn push(&self, span: Span) {
        if self.sink.sender.try_send(span).is_err() {
            self.dropped.inc();
        }
    }
}

/// One request's place in a trace.
#[derive(Debug)]
pub(crate) struct Trace {
    tracing: Arc<Tracing>,
    context: TraceContext,
    /// The proxy's own span.
    span_id: [u8; 8],
}

impl Trace {
    /// Continues the context of the request, or begins one and decides whether it is sampled.
    pub(crate) fn start(tracing: &Arc<Tracing>, state: &mut StreamState, random: &mut dyn rand::RngCore) -> Box<Trace> {
        let headers = &state.request.headers;
        let client =
            headers.contains(&HeaderName::X_CLIENT_TRACE_ID) && tracing.client_sampling.contains(random.next_u32());
        let service = !client && headers.contains(&HeaderName::X_ENVOY_FORCE_TRACE);
        let chosen = client || service || tracing.random_sampling.contains(random.next_u32());
        let chosen = chosen && tracing.overall_sampling.contains(random.next_u32());
        if chosen && service {
            state.info.extras_mut().trace_forced = true;
        }
        let context = TraceContext::extract(headers).unwrap_or_else(|| {
            let mut trace_id = [0; 16];
            random.fill_bytes(&mut trace_id);
            TraceContext { form: Form::W3c, trace_id, parent: None, sampled: chosen, state: String::new() }
        });
        let mut span_id = [0; 8];
        random.fill_bytes(&mut span_id);
        state.info.trace = Some((context.trace_id, span_id));
        Box::new(Trace { tracing: tracing.clone(), context, span_id })
    }

    /// Writes the context for the origin, whose parent is the proxy's span.
    pub(crate) fn inject(&self, state: &mut StreamState) {
        self.context.inject(&self.span_id, &mut state.request.headers);
    }

    /// The request is over.
    pub(crate) fn finish(&self, state: &StreamState, spans: &Spans) {
        if !self.context.sampled {
            return;
        }
        let end = state.info.timings.get(TimingPoint::ResponseComplete).unwrap_or_default();
        let status = state.response.as_ref().map_or(0, |head| head.status);
        let is_server = state.info.listener.direction != Direction::Outbound;
        let name = if is_server {
            Cow::Borrowed("ingress")
        } else {
            Cow::Owned(format!("egress {}", text(&state.request.authority)))
        };
        spans.push(Span {
            tracer: self.tracing.tracer.clone(),
            trace_id: self.context.trace_id,
            span_id: self.span_id,
            parent_span_id: self.context.parent,
            trace_state: self.context.state.clone(),
            name,
            is_server,
            start: state.info.start_time,
            end: state.info.start_time + end.max(Duration::from_nanos(1)),
            attributes: self.attributes(state, status),
            events: state.info.extras().events.clone(),
            is_error: status == 0 || status >= 500,
        });
    }

    /// Envoy's tags.
    fn attributes(&self, state: &StreamState, status: u16) -> Vec<(Cow<'static, str>, Attribute)> {
        let (head, info) = (&state.request, &state.info);
        let mut all: Vec<(Cow<'static, str>, Attribute)> = Vec::with_capacity(16 + self.tracing.tags.len());
        let mut tag = |name: &'static str, value: String| all.push((name.into(), Attribute::Text(value)));
        tag("component", "proxy".to_owned());
        tag("http.protocol", head.version.as_str().to_owned());
        tag("http.method", text(head.method.as_bytes()));
        let path = &head.path[..head.path.len().min(self.tracing.path_bytes_max)];
        tag("http.url", format!("{}://{}{}", head.scheme.as_str(), text(&head.authority), text(path)));
        tag("http.status_code", status.to_string());
        tag("user_agent", head.headers.get(&HeaderName::USER_AGENT).map_or("-".to_owned(), |value| text(value)));
        if let Some(id) = head.headers.get(&HeaderName::X_REQUEST_ID) {
            tag("guid:x-request-id", text(id));
        }
        tag("request_size", info.request_body_bytes.to_string());
        tag("response_size", info.response_body_bytes.to_string());
        tag("response_flags", info.flags.to_string());
        if let Some(peer) = info.downstream.remote {
            tag("peer.address", peer.ip().to_string());
        }
        if let Some(cluster) = &info.cluster_name {
            tag("upstream_cluster", cluster.to_string());
            tag("upstream_cluster.name", cluster.to_string());
        }
        if let Some(upstream) = &info.upstream {
            tag("upstream_address", upstream.remote.to_string());
        }
        if status == 0 || status >= 500 {
            tag("error", "true".to_owned());
        }
        for custom in &self.tracing.tags {
            let value = match &custom.value {
                TagValue::Literal(value) => value.to_string(),
                TagValue::RequestHeader { name, default } => text(head.headers.get(name).unwrap_or(default)),
            };
            if !value.is_empty() {
                all.push((custom.name.to_string().into(), Attribute::Text(value)));
            }
        }
        all
    }
}

/// What a client wrote is shown as text, whatever it is.
fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
