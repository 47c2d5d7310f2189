//! One health check: an HTTP request, a gRPC call or some bytes.

use std::future::poll_fn;
use std::rc::Rc;
use std::sync::Arc;

use bytes::Bytes;
use outrigger_config::{
    ClusterEntry, Endpoint, GrpcHealthCheck, HealthCheck, HealthCheckKind, HttpHealthCheck, Protocol,
    UpstreamProxyProtocol,
};
use outrigger_http::{EndpointAddress, HeaderName, Headers, Method, RequestHead, ResponseHead, Scheme, Version};
use outrigger_stats::Registry;
use tokio::task::AbortHandle;

use super::checker::Found;
use crate::http1::BodyEvent;
use crate::socket::Socket;
use crate::tls::{Alpn, Connector, ContextError, Target, TlsStats};
use crate::transport::Transport;
use crate::upstream::{Upstream, h1, h2};

/// An answer's body and a TCP peer's bytes are kept no longer than this.
const BYTES_MAX: usize = 64 << 10;

/// Checks one endpoint, on one connection while that lasts.
pub(super) struct Prober {
    config: Arc<HealthCheck>,
    address: EndpointAddress,
    request: RequestHead,
    idle: Option<Idle>,
    proxy_protocol: Option<Arc<UpstreamProxyProtocol>>,
    tls: Option<Tls>,
}

/// TLS as the cluster's connections have it.
struct Tls {
    /// The error is one of every check.
    connector: Result<Connector, ContextError>,
    stats: Rc<TlsStats>,
    host_name: Arc<str>,
}

impl Tls {
    fn new(entry: &ClusterEntry, endpoint: &Endpoint, registry: &Arc<Registry>) -> Option<Tls> {
        let metadata = endpoint.metadata.as_deref();
        let tls = entry.cluster.transports.of(metadata).tls.as_ref()?;
        let resolved = tls.context.resolve(|key| entry.secrets.get(key)).map_err(ContextError::from);
        Some(Tls {
            connector: resolved.and_then(|resolved| Connector::new(tls, &resolved)),
            stats: TlsStats::of_cluster(registry, &entry.cluster.stat_name),
            host_name: endpoint.hostname.clone(),
        })
    }
}

enum Idle {
    H1(Box<h1::Stream>),
    H2(H2),
}

/// A shared connection, whose task ends with it.
struct H2 {
    sender: ::h2::client::SendRequest<Bytes>,
    task: AbortHandle,
}

impl Drop for H2 {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Prober {
    pub(super) fn new(
        entry: &ClusterEntry,
        config: &Arc<HealthCheck>,
        endpoint: &Endpoint,
        registry: &Arc<Registry>,
    ) -> Prober {
        let cluster = &entry.cluster;
        let own = endpoint.health_check.as_deref();
        let other = own.and_then(|own| own.address).map(EndpointAddress::Ip);
        let mut address = other.unwrap_or_else(|| endpoint.address.clone());
        if let EndpointAddress::Ip(socket) = &mut address
            && let Some(port) = own.and_then(|own| own.port).or(config.port)
        {
            socket.set_port(port);
        }
        // The endpoint's own name for checks, its hostname, or the cluster's name.
        let host = own.map(|own| &own.hostname).filter(|name| !name.is_empty());
        let host = host.or(Some(&endpoint.hostname)).filter(|name| !name.is_empty()).unwrap_or(&cluster.name);
        let host = Bytes::copy_from_slice(host.as_bytes());
        let request = match &config.kind {
            HealthCheckKind::Http(http) => http_request(http, host),
            HealthCheckKind::Grpc(grpc) => grpc_request(grpc, host),
            HealthCheckKind::Tcp(_) => RequestHead::default(),
        };
        let tls = Tls::new(entry, endpoint, registry);
        let proxy_protocol = cluster.transports.of(endpoint.metadata.as_deref()).proxy_protocol.clone();
        Prober { config: config.clone(), address, request, idle: None, proxy_protocol, tls }
    }

    /// The next check connects anew.
    pub(super) fn close(&mut self) {
        self.idle = None;
    }

    pub(super) async fn probe(&mut self) -> Found {
        let config = self.config.clone();
        let found = match &config.kind {
            HealthCheckKind::Http(http) => self.http(http).await,
            HealthCheckKind::Grpc(grpc) => self.grpc(grpc).await,
            HealthCheckKind::Tcp(tcp) => self.tcp(&tcp.send, &tcp.receive).await,
        };
        found.unwrap_or(Found::Network)
    }

    async fn connect(&self, alpn: Alpn) -> Option<Transport> {
        let socket = Socket::connect(&self.address).await.ok()?;
        let mut transport = Transport::new(socket).ok()?;
        if let Some(config) = &self.proxy_protocol {
            transport.announce(config, None).await.ok()?;
        }
        if let Some(Tls { connector, stats, host_name }) = &self.tls {
            let target = Target { server_name: None, san: None, host_name, alpn };
            transport.connect_tls(connector.as_ref().ok()?, &target, stats).await.ok()?;
        }
        Some(transport)
    }

    /// A stream for a request.
    async fn stream(&mut self, http2: bool) -> Option<Upstream> {
        match self.idle.take() {
            Some(Idle::H1(mut stream)) => {
                let open = stream.is_open(&mut std::task::Context::from_waker(std::task::Waker::noop()));
                if open {
                    return Some(Upstream::H1(stream));
                }
            }
            Some(Idle::H2(connection)) => {
                let ready = connection.sender.clone().ready().await;
                if let Ok(sender) = ready {
                    self.idle = Some(Idle::H2(connection));
                    return Some(Upstream::H2(Box::new(h2::Stream::new(sender, true, (None, None), None, None))));
                }
            }
            None => {}
        }
        let transport = self.connect(if http2 { Alpn::Http2 } else { Alpn::Http1 }).await?;
        if !http2 {
            return Some(Upstream::H1(Box::new(h1::Stream::new(transport, false))));
        }
        let (sender, driver) = ::h2::client::Builder::new()
            .enable_push(false)
            .max_header_list_size(60 * 1024)
            .handshake(transport.into_prefixed())
            .await
            .ok()?;
        let task = tokio::task::spawn_local(async move { _ = driver.await }).abort_handle();
        let connection = H2 { sender, task };
        let sender = connection.sender.clone().ready().await.ok()?;
        self.idle = Some(Idle::H2(connection));
        Some(Upstream::H2(Box::new(h2::Stream::new(sender, false, (None, None), None, None))))
    }

    /// The answer's head, body and trailers.
    async fn exchange(&mut self, http2: bool, body: Option<Bytes>) -> Option<(ResponseHead, Vec<u8>, Option<Headers>)> {
        let mut stream = self.stream(http2).await?;
        stream.send_head(&self.request, body.is_none(), None).ok()?;
        if let Some(body) = body {
            stream.send_data(body, true).ok()?;
        }
        let mut answer = Vec::new();
        let mut trailers = None;
        let (head, end) = loop {
            let found = poll_fn(|cx| {
                // What the peer doesn't take it may still answer.
                _ = stream.poll_flush(cx);
                stream.poll_head(cx)
            });
            let found = found.await.ok()?;
            if found.head.status >= 200 {
                break (found.head, found.end);
            }
        };
        let mut done = end;
        while !done {
            match poll_fn(|cx| stream.poll_body(cx)).await.ok()? {
                Some(BodyEvent::Data { bytes, end }) => {
                    answer.extend_from_slice(&bytes);
                    if answer.len() > BYTES_MAX {
                        return Some((head, answer, trailers));
                    }
                    done = end;
                }
                Some(BodyEvent::Trailers(found)) => {
                    trailers = Some(found);
                    done = true;
                }
                None => done = true,
            }
        }
        if let Upstream::H1(stream) = stream
            && stream.reusable()
        {
            self.idle = Some(Idle::H1(stream));
        }
        Some((head, answer, trailers))
    }

    async fn http(&mut self, config: &HttpHealthCheck) -> Option<Found> {
        let (head, _, _) = self.exchange(config.protocol == Protocol::Http2, None).await?;
        let within = |ranges: &[(u16, u16)]| ranges.iter().any(|(from, to)| (*from..*to).contains(&head.status));
        let degraded = HeaderName::from_bytes(b"x-envoy-degraded").is_ok_and(|name| head.headers.contains(&name));
        Some(match () {
            () if within(&config.expected) && degraded => Found::Degraded,
            () if within(&config.expected) => Found::Healthy,
            () if within(&config.retriable) => Found::Retriable,
            () => Found::Unhealthy,
        })
    }

    async fn grpc(&mut self, config: &GrpcHealthCheck) -> Option<Found> {
        let (head, body, trailers) = self.exchange(true, Some(grpc_body(&config.service))).await?;
        let status = trailers.as_ref().unwrap_or(&head.headers).get(&HeaderName::GRPC_STATUS);
        let ok = head.status == 200 && status.is_some_and(|status| &status[..] == b"0");
        Some(if ok && is_serving(&body) { Found::Healthy } else { Found::Unhealthy })
    }

    async fn tcp(&mut self, send: &Bytes, receive: &[Bytes]) -> Option<Found> {
        let mut transport = self.connect(Alpn::None).await?;
        if !send.is_empty() {
            transport.output.push(send.clone());
            poll_fn(|cx| transport.poll_flush(cx)).await.ok()?;
        }
        loop {
            if contains_all(&transport.input, receive) {
                return Some(Found::Healthy);
            }
            if transport.input.len() > BYTES_MAX || poll_fn(|cx| transport.poll_fill(cx)).await.ok()? == 0 {
                return None;
            }
        }
    }
}

fn http_request(config: &HttpHealthCheck, host: Bytes) -> RequestHead {
    let mut head = RequestHead {
        method: config.method.clone(),
        scheme: Scheme::Http,
        authority: if config.host.is_empty() { host } else { config.host.clone() },
        path: config.path.clone(),
        version: if config.protocol == Protocol::Http2 { Version::Http2 } else { Version::Http11 },
        headers: Headers::new(),
    };
    head.headers.append(HeaderName::USER_AGENT, Bytes::from_static(b"Envoy/HC"));
    mutate(&mut head.headers, &config.headers);
    head
}

fn grpc_request(config: &GrpcHealthCheck, host: Bytes) -> RequestHead {
    let mut head = RequestHead {
        method: Method::Post,
        scheme: Scheme::Http,
        authority: if config.authority.is_empty() { host } else { config.authority.clone() },
        path: Bytes::from_static(b"/grpc.health.v1.Health/Check"),
        version: Version::Http2,
        headers: Headers::new(),
    };
    head.headers.append(HeaderName::CONTENT_TYPE, Bytes::from_static(b"application/grpc"));
    head.headers.append(HeaderName::TE, Bytes::from_static(b"trailers"));
    head.headers.append(HeaderName::USER_AGENT, Bytes::from_static(b"Envoy/HC"));
    mutate(&mut head.headers, &config.headers);
    head
}

/// The configured headers; their values are literals, as the decoder has seen to.
fn mutate(headers: &mut Headers, mutations: &outrigger_config::HeaderMutations) {
    for name in &mutations.remove {
        headers.remove(name);
    }
    for option in &mutations.add {
        let Some(value) = option.value.as_literal() else { continue };
        _ = headers.try_append(option.name.clone(), value.clone());
    }
}

/// A length-prefixed `grpc.health.v1.HealthCheckRequest`.
fn grpc_body(service: &str) -> Bytes {
    let mut message = Vec::with_capacity(service.len() + 8);
    if !service.is_empty() {
        message.push(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.push((length & 0x7f) as u8 | 0x80);
            length >>= 7;
        }
        message.push(length as u8);
        message.extend_from_slice(service.as_bytes());
    }
    let mut body = vec![0];
    body.extend_from_slice(&u32::try_from(message.len()).unwrap_or(0).to_be_bytes());
    body.extend_from_slice(&message);
    body.into()
}

/// Whether a length-prefixed `grpc.health.v1.HealthCheckResponse` says SERVING.
fn is_serving(body: &[u8]) -> bool {
    // Field 1, a varint of 1; anything else of the message doesn't matter.
    matches!(body, [0, _, _, _, _, message @ ..] if message.starts_with(&[0x08, 0x01]))
}

/// Whether blocks stand in the bytes, one after the other.
fn contains_all(bytes: &[u8], blocks: &[Bytes]) -> bool {
    let mut rest = bytes;
    blocks.iter().all(|block| match memchr::memmem::find(rest, block) {
        Some(at) => {
            rest = &rest[at + block.len()..];
            true
        }
        None => false,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_are_found_in_their_order() {
        let blocks = [Bytes::from_static(b"+PO"), Bytes::from_static(b"NG")];
        assert!(contains_all(b"x+PO..NG", &blocks));
        assert!(!contains_all(b"NG+PO", &blocks));
        assert!(contains_all(b"", &[]));
    }

    #[test]
    fn grpc_messages() {
        assert_eq!(&grpc_body("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&grpc_body("ab")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'a', b'b']);
        assert_eq!(grpc_body(&"s".repeat(300)).len(), 5 + 3 + 300);
        assert!(is_serving(&[0, 0, 0, 0, 2, 8, 1]));
        assert!(!is_serving(&[0, 0, 0, 0, 2, 8, 2]) && !is_serving(&[0, 0, 0, 0, 0]) && !is_serving(&[]));
    }
}
