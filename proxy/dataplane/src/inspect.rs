//! Listener filters at work: they look at a connection's addresses and first bytes before its filter chain is chosen.
//!
//! What they read stays in the transport's input, which the codec, the TLS handshake or the tunnel takes first. Only a PROXY
//! header is taken out. How much is read is bounded, and so is the time, by whoever polls.

pub(crate) mod client_hello;
mod fingerprint;
pub(crate) mod http_version;
mod md5;
pub(crate) mod proxy_header;

use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::{Buf, BytesMut};
use outrigger_config::{ConnectionFacts, Listener, ListenerFilterKind, ProxyProtocol, TlsInspector};
use outrigger_http::{ConnectionInfo, MetadataValue, ProxyEntry, StreamMetadata};

use crate::stats::InspectStats;
use crate::transport::Transport;
use client_hello::{ClientHello, Tls};
use http_version::Http;
use proxy_header::{Proxy, ProxyHeader};

/// A request line that is longer is none that we would serve.
const REQUEST_LINE_BYTES_MAX: usize = 64 * 1024;
/// `transport_protocol` of a connection that no inspector said anything of.
const RAW_BUFFER: &str = "raw_buffer";
const TLS: &str = "tls";

/// What listener filters found out about a connection, beside the addresses, which the transport has.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// SNI, in lower case.
    server_name: Option<Arc<str>>,
    is_tls: bool,
    application_protocols: Vec<Box<[u8]>>,
    /// Fingerprints of the hello, where they are asked for.
    ja3: Arc<str>,
    ja4: Arc<str>,
    /// The peer of the socket, where the PROXY protocol told of another client.
    direct_remote: Option<SocketAddr>,
    /// What was noted of a PROXY header's entries, and those that are passed on.
    metadata: Option<Box<StreamMetadata>>,
    proxy_entries: Arc<[ProxyEntry]>,
    /// The destination is not where the socket was connected to.
    pub(crate) restored: bool,
}

/// The connection is closed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refused {
    /// A filter doesn't take it.
    Filter,
    /// The client has.
    Closed,
}

/// The walk of a connection through the filters of a listener.
#[derive(Debug)]
pub(crate) struct Inspection {
    listener: Arc<Listener>,
    /// The filter that looks now.
    at: usize,
    /// Bytes that it has looked at.
    seen: usize,
    /// With fewer bytes it can't tell more.
    wanted: usize,
}

/// What a filter says of the bytes so far.
enum Look {
    Done,
    /// At least as many bytes are needed.
    More(usize),
    Refused,
}

impl Found {
    /// For the choice of the filter chain.
    pub(crate) fn facts<'a>(&'a self, transport: &Transport) -> ConnectionFacts<'a> {
        ConnectionFacts {
            destination: transport.local,
            source: transport.remote,
            direct_source: self.direct_remote.or(transport.remote),
            server_name: self.server_name.as_deref().unwrap_or_default(),
            transport_protocol: if self.is_tls { TLS } else { RAW_BUFFER },
            application_protocols: &self.application_protocols,
        }
    }

    /// Where the client wanted to, if that isn't us.
    pub(crate) fn original_dst(&self, transport: &Transport) -> Option<SocketAddr> {
        transport.local.filter(|_| self.restored)
    }

    /// For the connection's streams.
    pub(crate) fn info(&self, transport: &Transport) -> Option<Arc<ConnectionInfo>> {
        let told = self.direct_remote.is_some() || self.server_name.is_some() || self.restored;
        let of_header = self.metadata.is_some() || !self.proxy_entries.is_empty();
        if !told && !of_header && self.ja3.is_empty() && self.ja4.is_empty() {
            return None;
        }
        Some(Arc::new(ConnectionInfo {
            direct_remote: self.direct_remote,
            requested_server_name: self.server_name.clone(),
            original_dst: self.original_dst(transport),
            metadata: self.metadata.clone(),
            proxy_entries: self.proxy_entries.clone(),
            ja3: self.ja3.clone(),
            ja4: self.ja4.clone(),
        }))
    }
}

impl Inspection {
    pub(crate) fn new(listener: Arc<Listener>) -> Inspection {
        Inspection { listener, at: 0, seen: 0, wanted: 1 }
    }

    /// Runs the filters as far as they come. What was found out so far holds, whether it is ever ready or not.
    pub(crate) fn poll(
        &mut self,
        transport: &mut Transport,
        found: &mut Found,
        stats: &InspectStats,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refused>> {
        let listener = self.listener.clone();
        while let Some(filter) = listener.listener_filters.get(self.at) {
            let port = transport.local.map(|local| local.port());
            if !filter.disabled.as_ref().is_some_and(|disabled| disabled.matches(port)) {
                match &filter.kind {
                    ListenerFilterKind::OriginalDst => original_dst(&listener, transport, found),
                    kind => ready!(self.poll_bytes(kind, transport, found, stats, cx))?,
                }
            }
            (self.at, self.seen, self.wanted) = (self.at + 1, 0, 1);
        }
        Poll::Ready(Ok(()))
    }

    /// Whether a PROXY header may still come, which tells who the client is.
    pub(crate) fn awaits_header(&self) -> bool {
        let left = self.listener.listener_filters.iter().skip(self.at);
        left.into_iter().any(|filter| matches!(filter.kind, ListenerFilterKind::ProxyProtocol(_)))
    }

    fn poll_bytes(
        &mut self,
        kind: &ListenerFilterKind,
        transport: &mut Transport,
        found: &mut Found,
        stats: &InspectStats,
        cx: &mut Context<'_>,
    ) -> Poll<Result<(), Refused>> {
        loop {
            if transport.input.len() >= self.wanted {
                let look = match kind {
                    ListenerFilterKind::TlsInspector(config) => tls(config, transport, found, stats),
                    ListenerFilterKind::HttpInspector => http(transport, self.seen, found, stats),
                    ListenerFilterKind::ProxyProtocol(config) => proxy(config, transport, found, stats),
                    ListenerFilterKind::OriginalDst => Look::Done,
                };
                match look {
                    Look::Done => return Poll::Ready(Ok(())),
                    Look::Refused => return Poll::Ready(Err(Refused::Filter)),
                    Look::More(wanted) => (self.seen, self.wanted) = (transport.input.len(), wanted),
                }
            }
            if transport.eof {
                // Nothing more comes: it is what it is, but for a header that must be there.
                let required = matches!(kind, ListenerFilterKind::ProxyProtocol(config) if !config.optional);
                let partial = matches!(kind, ListenerFilterKind::ProxyProtocol(_)) && !transport.input.is_empty();
                return Poll::Ready(if required || partial { Err(Refused::Closed) } else { Ok(()) });
            }
            if ready!(transport.poll_fill(cx)).is_err() {
                return Poll::Ready(Err(Refused::Closed));
            }
        }
    }
}

fn tls(config: &TlsInspector, transport: &Transport, found: &mut Found, stats: &InspectStats) -> Look {
    match client_hello::read(&transport.input) {
        Tls::Partial(wanted) if wanted > config.hello_bytes_max as usize => {
            stats.inc("tls_inspector.client_hello_too_large");
            Look::Refused
        }
        Tls::Partial(wanted) => Look::More(wanted),
        Tls::Hello(ClientHello { server_name, protocols, .. }) => {
            stats.inc("tls_inspector.tls_found");
            stats.inc(if server_name.is_empty() { "tls_inspector.sni_not_found" } else { "tls_inspector.sni_found" });
            stats.inc(if protocols.is_empty() { "tls_inspector.alpn_not_found" } else { "tls_inspector.alpn_found" });
            found.is_tls = true;
            found.server_name = (!server_name.is_empty()).then(|| server_name.into());
            found.application_protocols = protocols;
            if config.ja3 || config.ja4 {
                take_fingerprints(config, &transport.input, found);
            }
            Look::Done
        }
        Tls::No | Tls::Malformed => {
            stats.inc("tls_inspector.tls_not_found");
            if config.close_on_malformed { Look::Refused } else { Look::Done }
        }
    }
}

fn take_fingerprints(config: &TlsInspector, bytes: &[u8], found: &mut Found) {
    let Ok(body) = client_hello::message(bytes) else { return };
    let Some(offer) = fingerprint::Offer::read(&body) else { return };
    if config.ja3 {
        found.ja3 = offer.ja3().into();
    }
    if config.ja4 {
        found.ja4 = offer.ja4().into();
    }
}

fn http(transport: &Transport, seen: usize, found: &mut Found, stats: &InspectStats) -> Look {
    if found.is_tls {
        return Look::Done;
    }
    match http_version::read(&transport.input, seen) {
        Http::Partial if transport.input.len() < REQUEST_LINE_BYTES_MAX => {
            return Look::More(transport.input.len() + 1);
        }
        Http::Partial | Http::No => stats.inc("http_inspector.http_not_found"),
        Http::Protocol(protocol) => {
            stats.inc(match protocol {
                "h2c" => "http_inspector.http2_found",
                "http/1.0" => "http_inspector.http10_found",
                _ => "http_inspector.http11_found",
            });
            found.application_protocols = vec![protocol.as_bytes().into()];
        }
    }
    Look::Done
}

fn proxy(config: &ProxyProtocol, transport: &mut Transport, found: &mut Found, stats: &InspectStats) -> Look {
    // A version that is not allowed is not looked for where none is needed.
    let ignored = match transport.input[0] {
        b'P' => !config.version1,
        b'\r' => !config.version2,
        _ => false,
    };
    let read = if config.optional && ignored { Proxy::No } else { proxy_header::read(&transport.input) };
    let header = match read {
        Proxy::Partial => return Look::More(transport.input.len() + 1),
        Proxy::No if config.optional => {
            stats.inc("proxy_proto.not_found_allowed");
            return Look::Done;
        }
        Proxy::No => {
            stats.inc("proxy_proto.not_found_disallowed");
            return Look::Refused;
        }
        Proxy::Malformed => {
            stats.inc(if transport.input[0] == b'P' {
                "proxy_proto.versions.v1.error"
            } else {
                "proxy_proto.versions.v2.error"
            });
            return Look::Refused;
        }
        Proxy::Header(header) => header,
    };
    let (allowed, found_name, disallowed_name) = match header.version {
        1 => (config.version1, "proxy_proto.versions.v1.found", "proxy_proto.versions.v1.disallowed"),
        _ => (config.version2, "proxy_proto.versions.v2.found", "proxy_proto.versions.v2.disallowed"),
    };
    if !allowed {
        stats.inc(disallowed_name);
        return Look::Refused;
    }
    stats.inc(found_name);
    take_entries(config, &transport.input[header.entries.clone()], found);
    take_header(&header, transport, found);
    Look::Done
}

/// Notes entries, the first of each key, and keeps what is passed on.
fn take_entries(config: &ProxyProtocol, bytes: &[u8], found: &mut Found) {
    for (kind, value) in proxy_header::entries(bytes) {
        let Some(rule) = config.rules.iter().find(|rule| rule.kind == kind) else { continue };
        let noted = &mut found.metadata.get_or_insert_default().dynamic;
        if noted.get(&rule.namespace, &rule.key).is_none() {
            let text = if rule.base64 { STANDARD.encode(value) } else { sanitized(value) };
            noted.set(&rule.namespace, &rule.key, MetadataValue::String(text.into()));
        }
    }
    let passed = proxy_header::entries(bytes).filter(|(kind, _)| config.passed.includes(*kind));
    found.proxy_entries = passed.map(|(kind, value)| (kind, value.into())).collect();
}

/// A text, with `!` for each byte that is part of none.
fn sanitized(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        text.push_str(chunk.valid());
        text.extend(std::iter::repeat_n('!', chunk.invalid().len()));
    }
    text
}

fn take_header(header: &ProxyHeader, transport: &mut Transport, found: &mut Found) {
    transport.input.advance(header.length);
    if transport.input.is_empty() {
        transport.input = BytesMut::new();
    }
    transport.bytes_read -= header.length as u64;
    if let Some((source, destination)) = header.addresses {
        found.direct_remote = transport.remote;
        found.restored |= transport.local != Some(destination);
        (transport.remote, transport.local) = (Some(source), Some(destination));
    }
}

/// Takes the destination that a connection had before a rule redirected it to us. By TPROXY its socket has it already.
fn original_dst(listener: &Listener, transport: &mut Transport, found: &mut Found) {
    let Some(local) = transport.local else { return };
    found.restored |= listener.transparent && !listener.listens_on(local);
    let socket = transport.socket_options();
    let original = if local.is_ipv4() { socket.original_dst_v4() } else { socket.original_dst_v6() };
    // Without connection tracking there is none: the connection came straight, or by TPROXY, to where it wanted.
    let Some(original) = original.ok().and_then(|address| address.as_socket()) else { return };
    if original != local {
        found.restored = true;
        transport.local = Some(original);
    }
}
