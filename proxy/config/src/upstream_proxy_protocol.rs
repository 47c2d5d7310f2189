//! The PROXY protocol towards endpoints (`envoy.transport_sockets.upstream_proxy_protocol`).

/// What an endpoint is told first on every connection: who the client is.
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamProxyProtocol {
    pub version: ProxyProtocolVersion,
    /// `added_tlvs`: types, each one once, and values. Version 2 tells them.
    pub added: Vec<(u8, Box<[u8]>)>,
}

/// `envoy.config.core.v3.ProxyProtocolConfig.Version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}
