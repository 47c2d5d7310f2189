//! The PROXY protocol towards endpoints (`envoy.transport_sockets.upstream_proxy_protocol`).

use outrigger_http::ProxyEntry;

/// What an endpoint is told first on every connection: who the client is.
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamProxyProtocol {
    pub version: ProxyProtocolVersion,
    /// `added_tlvs`. Version 2 tells them.
    pub added: Vec<ProxyEntry>,
    /// `pass_through_tlvs`: of those that the client's header had.
    pub passed: PassedEntries,
}

/// `envoy.config.core.v3.ProxyProtocolPassThroughTLVs`, by type.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum PassedEntries {
    #[default]
    None,
    All,
    Of(Box<[u8]>),
}

impl PassedEntries {
    #[must_use]
    pub fn includes(&self, kind: u8) -> bool {
        match self {
            PassedEntries::None => false,
            PassedEntries::All => true,
            PassedEntries::Of(kinds) => kinds.contains(&kind),
        }
    }
}

/// `envoy.config.core.v3.ProxyProtocolConfig.Version`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProxyProtocolVersion {
    V1,
    V2,
}
