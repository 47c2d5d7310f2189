//! The state of one HTTP stream: what filters read and change, and what access logs and properties tell.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::{IpAddr, SocketAddr};
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;

use crate::{
    BodyBuffer, EndpointAddress, Headers, Metadata, RequestHead, ResponseFlags, ResponseHead, StreamMetadata, TlsInfo,
    Version,
};

/// Everything of a stream that a filter may see. One per stream, owned by its worker.
///
/// `request_body` and `response_body` are what the filter that runs now may see and edit: what was buffered and the
/// chunk that has just come. Between callbacks they hold what the iteration keeps.
#[derive(Debug, Default)]
pub struct StreamState {
    pub request: RequestHead,
    pub request_body: BodyBuffer,
    pub request_trailers: Option<Headers>,
    pub response: Option<ResponseHead>,
    pub response_body: BodyBuffer,
    pub response_trailers: Option<Headers>,
    pub info: StreamInfo,
}

impl StreamState {
    /// A stream of which nothing has come but the request's head.
    #[must_use]
    #[inline]
    pub fn new(request: RequestHead, info: StreamInfo) -> StreamState {
        StreamState {
            request,
            request_body: BodyBuffer::new(),
            request_trailers: None,
            response: None,
            response_body: BodyBuffer::new(),
            response_trailers: None,
            info,
        }
    }
}

/// `traffic_direction` of the listener; the numbers are Envoy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Direction {
    #[default]
    Unspecified = 0,
    Inbound = 1,
    Outbound = 2,
}

/// When a line of an access log is written; the numbers are Envoy's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum LogType {
    /// Of a listener's log.
    #[default]
    NotSet = 0,
    TcpConnectionEnd = 3,
    /// A request is over.
    DownstreamEnd = 6,
}

/// A point on a stream's way, as time since its start.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TimingPoint {
    /// The last byte of the request was received.
    RequestComplete,
    /// An attempt began.
    UpstreamAsked,
    /// The upstream connection was ready.
    UpstreamReady,
    /// The request's head was sent upstream.
    UpstreamRequestSent,
    /// The request's last byte was.
    UpstreamRequestComplete,
    /// The first byte of the response came.
    UpstreamResponseStart,
    /// The first byte of the response's body.
    UpstreamBodyStart,
    /// The last byte of the response came.
    UpstreamResponseComplete,
    /// The response's head was handed to the client's connection.
    ResponseStart,
    /// The whole response was.
    ResponseComplete,
}

/// When the points of a stream were reached, in nanoseconds: enough for five centuries.
#[derive(Debug, Clone, Copy)]
pub struct Timings([u64; 10]);

impl Timings {
    /// Not reached.
    const NEVER: u64 = u64::MAX;

    /// The first time counts.
    pub fn set(&mut self, point: TimingPoint, since_start: Duration) {
        let at = &mut self.0[point as usize];
        if *at == Timings::NEVER {
            let nanos = since_start.as_secs().saturating_mul(1_000_000_000);
            *at = nanos.saturating_add(since_start.subsec_nanos().into()).min(Timings::NEVER - 1);
        }
    }

    #[must_use]
    pub fn get(&self, point: TimingPoint) -> Option<Duration> {
        let nanos = self.0[point as usize];
        (nanos != Timings::NEVER).then(|| Duration::from_nanos(nanos))
    }

    /// Forgets what an attempt has reached, since another one begins.
    pub fn forget_attempt(&mut self) {
        self.0[TimingPoint::UpstreamAsked as usize..=TimingPoint::UpstreamResponseComplete as usize]
            .fill(Timings::NEVER);
    }
}

impl Default for Timings {
    fn default() -> Timings {
        Timings([Timings::NEVER; 10])
    }
}

/// Bytes of a stream as they stood on the wire, within TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct WireBytes {
    pub received: u64,
    pub sent: u64,
    /// Those of heads and trailers.
    pub header_received: u64,
    pub header_sent: u64,
}

/// What all streams of a connection to an endpoint share.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct UpstreamConnection {
    pub id: u64,
    pub connect_start: Instant,
    pub connected: Instant,
}

/// How a connection came to its end, as far as a log can tell (`%…_DETECTED_CLOSE_TYPE%`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseType {
    Normal,
    LocalReset,
    RemoteReset,
}

/// The end of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Closed {
    /// `None`: it is open.
    pub how: Option<CloseType>,
    /// Why we have closed it; empty: the peer has, or nothing is known.
    pub local_reason: &'static str,
}

/// Something that happened to a traced stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEvent {
    pub name: &'static str,
    /// Since the stream's start.
    pub at: Duration,
    pub attributes: Vec<(&'static str, Arc<str>)>,
}

/// An entry of a PROXY header: its type and its value.
pub type ProxyEntry = (u8, Box<[u8]>);

/// What all streams of a downstream connection share beyond its addresses.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ConnectionInfo {
    /// The peer of the socket, where the PROXY protocol told of another client.
    pub direct_remote: Option<SocketAddr>,
    /// SNI, in lower case.
    pub requested_server_name: Option<Arc<str>>,
    /// Where the client wanted to, if it was redirected to us, or a balancer says so.
    pub original_dst: Option<SocketAddr>,
    /// What listener filters have noted, for logs and filters of the connection.
    pub metadata: Option<Box<StreamMetadata>>,
    /// Of the PROXY header, what may be passed on to endpoints.
    pub proxy_entries: Arc<[ProxyEntry]>,
    /// Fingerprints of the client's hello, where the listener's inspector takes them; else empty.
    pub ja3: Arc<str>,
    pub ja4: Arc<str>,
}

/// The client's socket, as far as a stream may ask about it.
pub trait ClientSocket: Debug + Send + Sync {
    /// Smoothed over the connection so far; once it is closed, what it was then. `None`: the kernel doesn't tell.
    fn round_trip_time(&self) -> Option<Duration>;
}

/// A client's connection, as all of its streams have it.
#[derive(Debug, Clone, Default)]
pub struct DownstreamInfo {
    pub id: u64,
    /// When it was accepted.
    pub start: Option<Instant>,
    pub remote: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    /// `None`: there is nothing to tell, as of most connections in cleartext.
    pub connection: Option<Arc<ConnectionInfo>>,
    pub tls: Option<Arc<TlsInfo>>,
    /// Why the TLS handshake failed, as far as a stream can still tell.
    pub transport_failure_reason: Cow<'static, str>,
}

impl DownstreamInfo {
    /// The peer of the socket.
    #[must_use]
    pub fn direct_remote(&self) -> Option<SocketAddr> {
        self.connection.as_ref().and_then(|connection| connection.direct_remote).or(self.remote)
    }

    /// SNI, as an inspector or the handshake found it.
    #[must_use]
    pub fn requested_server_name(&self) -> Option<&str> {
        let inspected = self.connection.as_ref().and_then(|connection| connection.requested_server_name.as_deref());
        let agreed = self.tls.as_ref().map(|tls| &*tls.server_name);
        inspected.or(agreed).filter(|name| !name.is_empty())
    }
}

/// The listener and the filter chain that a connection came by.
#[derive(Debug, Clone, Default)]
pub struct ListenerInfo {
    pub name: Arc<str>,
    pub direction: Direction,
    pub metadata: Option<Arc<Metadata>>,
    pub chain_name: Arc<str>,
    pub chain_metadata: Option<Arc<Metadata>>,
}

/// An endpoint, and the connection to it where there is one: the same for all streams on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UpstreamInfo {
    pub remote: EndpointAddress,
    /// The name that the endpoint was found by.
    pub host_name: Option<Arc<str>>,
    /// Region, zone and sub-zone.
    pub locality: Option<Arc<[String; 3]>>,
    pub local: Option<SocketAddr>,
    pub version: Option<Version>,
    pub tls: Option<Arc<TlsInfo>>,
    pub connection: Option<UpstreamConnection>,
}

impl UpstreamInfo {
    /// An endpoint of which nothing is known but where it is.
    #[must_use]
    pub const fn new(remote: EndpointAddress) -> UpstreamInfo {
        UpstreamInfo {
            remote,
            host_name: None,
            locality: None,
            local: None,
            version: None,
            tls: None,
            connection: None,
        }
    }

    /// Whether there was a connection to it; one on a Unix socket counts as connected.
    #[must_use]
    pub fn connected(&self) -> bool {
        self.local.is_some() || matches!(self.remote, EndpointAddress::Pipe(_))
    }
}

/// What few streams have something of.
#[derive(Debug, Clone)]
pub struct StreamExtras {
    /// Endpoints of earlier attempts, with their names.
    pub upstream_attempted: Vec<(EndpointAddress, Option<Arc<str>>)>,
    /// Connections of earlier attempts.
    pub upstream_connections_attempted: Vec<u64>,
    /// Traced because a service within the mesh asked for it (`x-envoy-force-trace`).
    pub trace_forced: bool,
    /// What the proxy's span tells besides.
    pub events: Vec<StreamEvent>,
    pub connection_termination_details: Cow<'static, str>,
    pub upstream_transport_failure_reason: Cow<'static, str>,
    /// Filter state by Envoy's keys. What `set_property` stores is `wasm.` and the path's segments, joined with `.`.
    pub filter_state: BTreeMap<String, Bytes>,
}

impl StreamExtras {
    const NONE: StreamExtras = StreamExtras {
        upstream_attempted: Vec::new(),
        upstream_connections_attempted: Vec::new(),
        trace_forced: false,
        events: Vec::new(),
        connection_termination_details: Cow::Borrowed(""),
        upstream_transport_failure_reason: Cow::Borrowed(""),
        filter_state: BTreeMap::new(),
    };
}

impl Default for StreamExtras {
    fn default() -> StreamExtras {
        StreamExtras::NONE
    }
}

/// Facts of a stream for access logs, properties and metrics. What streams share is behind a pointer, what few of them
/// have as well: one is made for every request.
#[derive(Debug, Clone)]
pub struct StreamInfo {
    /// Wall clock at the start.
    pub start_time: SystemTime,
    /// The same instant on the monotonic clock; timings count from here.
    pub start: Instant,
    pub timings: Timings,
    pub downstream: Rc<DownstreamInfo>,
    pub listener: Rc<ListenerInfo>,
    /// `None`: it isn't TCP.
    pub downstream_socket: Option<Arc<dyn ClientSocket>>,
    /// The client's address as `x-forwarded-for` tells it, where that is trusted and says something else than the peer.
    pub downstream_trusted_ip: Option<IpAddr>,
    /// Of the attempt that was made last; `None`: no endpoint was chosen.
    pub upstream: Option<Rc<UpstreamInfo>>,
    pub downstream_wire: WireBytes,
    pub upstream_wire: WireBytes,
    pub downstream_closed: Closed,
    pub upstream_closed: Closed,
    /// What an access log's line is about.
    pub log_type: LogType,
    /// The trace that the stream is in, and the proxy's own span in it.
    pub trace: Option<([u8; 16], [u8; 8])>,
    /// Whether a route was found.
    pub routed: bool,
    pub virtual_host_name: Option<Arc<str>>,
    pub virtual_host_metadata: Option<Arc<Metadata>>,
    pub route_name: Option<Arc<str>>,
    pub route_metadata: Option<Arc<Metadata>>,
    pub cluster_name: Option<Arc<str>>,
    pub cluster_metadata: Option<Arc<Metadata>>,
    pub flags: ResponseFlags,
    pub code_details: Cow<'static, str>,
    /// Size of the request's head as it was received.
    pub request_header_bytes: u64,
    pub request_body_bytes: u64,
    pub response_header_bytes: u64,
    pub response_body_bytes: u64,
    pub upstream_attempts: u32,
    /// `None`: nothing that the stream was routed by has any, and no filter set any.
    pub metadata: Option<Box<StreamMetadata>>,
    /// The configuration's generation that this stream is pinned to.
    pub generation: u64,
    extras: Option<Box<StreamExtras>>,
}

impl Default for StreamInfo {
    fn default() -> StreamInfo {
        StreamInfo::begun_now(Rc::default(), Rc::default())
    }
}

impl StreamInfo {
    /// A stream that began at one instant, told by two clocks.
    #[must_use]
    #[inline]
    pub fn new(
        start: Instant,
        start_time: SystemTime,
        downstream: Rc<DownstreamInfo>,
        listener: Rc<ListenerInfo>,
    ) -> StreamInfo {
        StreamInfo {
            start_time,
            start,
            timings: Timings::default(),
            downstream,
            listener,
            downstream_socket: None,
            downstream_trusted_ip: None,
            upstream: None,
            downstream_wire: WireBytes::default(),
            upstream_wire: WireBytes::default(),
            downstream_closed: Closed::default(),
            upstream_closed: Closed::default(),
            log_type: LogType::NotSet,
            trace: None,
            routed: false,
            virtual_host_name: None,
            virtual_host_metadata: None,
            route_name: None,
            route_metadata: None,
            cluster_name: None,
            cluster_metadata: None,
            flags: ResponseFlags::NONE,
            code_details: Cow::Borrowed(""),
            request_header_bytes: 0,
            request_body_bytes: 0,
            response_header_bytes: 0,
            response_body_bytes: 0,
            upstream_attempts: 0,
            metadata: None,
            generation: 0,
            extras: None,
        }
    }

    /// A stream that begins now.
    #[must_use]
    pub fn begun_now(downstream: Rc<DownstreamInfo>, listener: Rc<ListenerInfo>) -> StreamInfo {
        StreamInfo::new(Instant::now(), SystemTime::now(), downstream, listener)
    }

    /// The client's connection, to be written before streams share it.
    pub fn downstream_mut(&mut self) -> &mut DownstreamInfo {
        Rc::make_mut(&mut self.downstream)
    }

    /// What few streams have.
    #[must_use]
    pub fn extras(&self) -> &StreamExtras {
        static NONE: StreamExtras = StreamExtras::NONE;
        self.extras.as_deref().unwrap_or(&NONE)
    }

    /// The same, to be written.
    pub fn extras_mut(&mut self) -> &mut StreamExtras {
        self.extras.get_or_insert_default()
    }

    /// Whether there was a connection to the endpoint that was chosen last.
    #[must_use]
    pub fn upstream_connected(&self) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| upstream.connected())
    }

    /// What is known of the connection to that endpoint; `None`: there was none.
    #[must_use]
    pub fn upstream_connection(&self) -> Option<UpstreamConnection> {
        self.upstream.as_ref()?.connection
    }

    /// Who asks: as trusted proxies tell it, who don't tell the port; else the peer.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        self.downstream_trusted_ip.map(|ip| SocketAddr::new(ip, 0)).or(self.downstream.remote)
    }

    /// Records that a point was reached.
    pub fn mark(&mut self, point: TimingPoint, at: Instant) {
        self.timings.set(point, at.saturating_duration_since(self.start));
    }
}
