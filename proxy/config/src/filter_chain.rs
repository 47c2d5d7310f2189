//! Filter chains (`envoy.config.listener.v3.FilterChain`) and how a connection finds its own.

mod table;

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

pub use table::{FilterChainClash, FilterChainTable};

use outrigger_http::Metadata;

use crate::{Cidr, ConnectionLimit, DiscoveredFilter, DownstreamTransport, NetworkFilter, NetworkRbac, WasmPlugin};

#[derive(Debug, PartialEq, Eq)]
pub struct FilterChain {
    pub name: Arc<str>,
    pub metadata: Option<Arc<Metadata>>,
    /// Unique among the chains of a listener. The default chain's is empty and not looked at.
    pub criteria: FilterChainMatch,
    pub transport: DownstreamTransport,
    /// `transport_socket_connect_timeout`: for the handshake of the transport socket.
    pub transport_timeout: Option<Duration>,
    /// Filters before the terminal one, in order.
    pub filters: Vec<ConnectionFilter>,
    /// The terminal filter.
    pub filter: NetworkFilter,
}

/// A network filter that stands before the terminal one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ConnectionFilter {
    pub name: Arc<str>,
    pub kind: ConnectionFilterKind,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConnectionFilterKind {
    /// `envoy.filters.network.wasm`.
    Wasm(Arc<WasmPlugin>),
    /// `envoy.filters.network.rbac`.
    Rbac(Arc<NetworkRbac>),
    /// `envoy.filters.network.connection_limit`.
    ConnectionLimit(Arc<ConnectionLimit>),
    /// A Wasm filter by `config_discovery`.
    Discovered(Arc<DiscoveredFilter>),
}

impl ConnectionFilter {
    /// Its own plugin, or its default one.
    #[must_use]
    pub fn plugin(&self) -> Option<&Arc<WasmPlugin>> {
        match &self.kind {
            ConnectionFilterKind::Wasm(plugin) => Some(plugin),
            ConnectionFilterKind::Rbac(_) | ConnectionFilterKind::ConnectionLimit(_) => None,
            ConnectionFilterKind::Discovered(discovered) => discovered.default.as_ref(),
        }
    }
}

/// `filter_chain_match`. What is empty matches every connection; lists are sorted, each entry once.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct FilterChainMatch {
    pub destination_port: Option<u16>,
    /// `prefix_ranges`.
    pub destination_prefixes: Vec<Cidr>,
    /// Lower case; `*.example.com` is `.example.com` here.
    pub server_names: Vec<Box<str>>,
    pub transport_protocol: Option<Box<str>>,
    pub application_protocols: Vec<Box<[u8]>>,
    pub direct_source_prefixes: Vec<Cidr>,
    pub source_type: SourceType,
    pub source_prefixes: Vec<Cidr>,
    pub source_ports: Vec<u16>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum SourceType {
    #[default]
    Any,
    /// From a loopback address, from the address that it goes to, or over a Unix socket.
    SameIpOrLoopback,
    External,
}

/// What is known of a connection when its chain is chosen.
#[derive(Debug, Clone, Copy)]
pub struct ConnectionFacts<'a> {
    /// The original destination where that was found out; `None`: a Unix socket.
    pub destination: Option<SocketAddr>,
    /// As the PROXY protocol tells it; `None`: a Unix socket.
    pub source: Option<SocketAddr>,
    /// The peer of the socket.
    pub direct_source: Option<SocketAddr>,
    /// In lower case; empty: none.
    pub server_name: &'a str,
    /// `raw_buffer` unless an inspector found something else.
    pub transport_protocol: &'a str,
    /// In the client's order.
    pub application_protocols: &'a [Box<[u8]>],
}

impl FilterChain {
    /// A chain that takes every connection as it is.
    #[must_use]
    pub fn new(filter: NetworkFilter) -> FilterChain {
        FilterChain {
            name: Arc::from(""),
            metadata: None,
            criteria: FilterChainMatch::default(),
            transport: DownstreamTransport::Raw,
            transport_timeout: None,
            filters: Vec::new(),
            filter,
        }
    }

    /// Whether what was agreed with a connection of this chain when it was accepted holds in the other one: else
    /// connections must not go on in it.
    #[must_use]
    pub fn takes_as(&self, other: &FilterChain) -> bool {
        self.transport == other.transport && self.filters == other.filters
    }
}

impl FilterChainMatch {
    /// Whether every connection matches.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == FilterChainMatch::default()
    }
}

impl ConnectionFacts<'_> {
    /// Envoy's `isSameIpOrLoopback`, for which only 127.0.0.1 and ::1 are loopback addresses.
    pub(crate) fn is_local(&self) -> bool {
        let Some(source) = self.source.map(|source| source.ip().to_canonical()) else { return true };
        let loopback = source == Ipv4Addr::LOCALHOST || source == Ipv6Addr::LOCALHOST;
        loopback || self.destination.is_some_and(|destination| destination.ip().to_canonical() == source)
    }
}
