//! The PROXY protocol towards endpoints: the first bytes of a connection tell who the client is
//! (haproxy.org, proxy-protocol.txt, versions 1 and 2). A connection that tells of a client serves nobody else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrigger_config::{ProxyProtocolVersion, UpstreamProxyProtocol};

use super::endpoint::EndpointHandle;
use super::{ClusterHandle, PickKey};
use crate::inspect::proxy_header::SIGNATURE;
use crate::transport::Transport;

/// Whom a connection was made for, where that counts: requests of others don't go on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MadeFor {
    /// Whom the server was told (`auto_sni`).
    pub(crate) server_name: Option<Arc<str>>,
    /// Of whom it was told by the PROXY protocol.
    pub(crate) client: Option<Client>,
}

/// The two ends of a client's connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Client {
    pub(crate) source: SocketAddr,
    /// Where it wanted to.
    pub(crate) destination: SocketAddr,
}

impl Client {
    /// `None`: a Unix socket has no such addresses.
    pub(crate) fn of(source: Option<SocketAddr>, destination: Option<SocketAddr>) -> Option<Client> {
        Some(Client { source: source?, destination: destination? })
    }

    /// Both addresses in one family, as a header has them.
    fn in_one_family(self) -> Client {
        let wide = |address: SocketAddr| match address.ip() {
            IpAddr::V4(ip) => SocketAddr::new(ip.to_ipv6_mapped().into(), address.port()),
            IpAddr::V6(_) => address,
        };
        match self.source.is_ipv4() == self.destination.is_ipv4() {
            true => self,
            false => Client { source: wide(self.source), destination: wide(self.destination) },
        }
    }
}

impl ClusterHandle {
    /// Whom a connection to an endpoint is made for; `None`: for everybody.
    pub(super) fn made_for(&self, key: &PickKey<'_>, endpoint: &EndpointHandle) -> Option<Arc<MadeFor>> {
        let client = key.client.filter(|_| self.transport_of(endpoint).proxy_protocol.is_some());
        if key.server_name.is_none() && client.is_none() {
            return None;
        }
        Some(Arc::new(MadeFor { server_name: key.server_name.cloned(), client }))
    }

    /// Tells an endpoint who the client is, where its transport socket says so.
    pub(super) async fn announce(&self, transport: &mut Transport, endpoint: &EndpointHandle) -> io::Result<()> {
        let Some(config) = &self.transport_of(endpoint).proxy_protocol else { return Ok(()) };
        let client = transport.made_for.as_ref().and_then(|made_for| made_for.client);
        transport.announce(config, client).await
    }
}

/// The header of a connection. `own`: its own ends, which version 1 tells where it is made for nobody.
pub(crate) fn header(config: &UpstreamProxyProtocol, client: Option<Client>, own: Option<Client>) -> Vec<u8> {
    match config.version {
        ProxyProtocolVersion::V1 => version1(client.or(own)),
        ProxyProtocolVersion::V2 => version2(client, &config.added),
    }
}

fn version1(told: Option<Client>) -> Vec<u8> {
    let Some(client) = told else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let Client { source, destination } = client.in_one_family();
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn version2(told: Option<Client>, values: &[(u8, Box<[u8]>)]) -> Vec<u8> {
    const LOCAL: [u8; 4] = [0x20, 0, 0, 0];
    let mut header = SIGNATURE.to_vec();
    let Some(client) = told else {
        header.extend(LOCAL);
        return header;
    };
    let Client { source, destination } = client.in_one_family();
    let mut body = Vec::new();
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => body.extend(ip.octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    for (kind, value) in values {
        body.push(*kind);
        // Their sum was checked with the configuration.
        body.extend(u16::try_from(value.len()).unwrap_or(u16::MAX).to_be_bytes());
        body.extend(&value[..]);
    }
    header.extend([0x21, if source.is_ipv4() { 0x11 } else { 0x21 }]);
    header.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend(body);
    header
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::proxy_header::{Proxy, ProxyHeader, read};

    fn client(source: &str, destination: &str) -> Client {
        Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    /// What we write we read.
    fn check(version: ProxyProtocolVersion, told: Option<Client>, expected: Option<Client>) -> Vec<u8> {
        let added = vec![(0xe0, b"hi".as_slice().into()), (0xe1, Box::default())];
        let bytes = header(&UpstreamProxyProtocol { version, added }, told, None);
        let addresses = expected.map(|client| (client.source, client.destination));
        let version = if version == ProxyProtocolVersion::V1 { 1 } else { 2 };
        assert_eq!(read(&bytes), Proxy::Header(ProxyHeader { version, length: bytes.len(), addresses }), "{bytes:?}");
        bytes
    }

    #[test]
    fn headers_are_those_that_are_read() {
        let four = client("1.2.3.4:5", "6.7.8.9:10");
        let six = client("[fd00::1]:5", "[fd00::2]:65535");
        let mixed = client("1.2.3.4:5", "[fd00::2]:10");
        let mapped = client("[::ffff:1.2.3.4]:5", "[fd00::2]:10");
        for version in [ProxyProtocolVersion::V1, ProxyProtocolVersion::V2] {
            for (told, expected) in [(four, four), (six, six), (mixed, mapped)] {
                check(version, Some(told), Some(expected));
            }
            check(version, None, None);
        }
    }

    #[test]
    fn values_follow_the_addresses() {
        let bytes = check(
            ProxyProtocolVersion::V2,
            Some(client("1.2.3.4:5", "6.7.8.9:10")),
            Some(client("1.2.3.4:5", "6.7.8.9:10")),
        );
        assert_eq!(bytes[28..], [0xe0, 0, 2, b'h', b'i', 0xe1, 0, 0]);
    }

    #[test]
    fn a_connection_for_nobody_tells_of_itself() {
        let of = |version| {
            header(&UpstreamProxyProtocol { version, added: Vec::new() }, None, Some(client("1.2.3.4:5", "6.7.8.9:10")))
        };
        assert_eq!(of(ProxyProtocolVersion::V1), b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n");
        assert_eq!(of(ProxyProtocolVersion::V2)[12..], [0x20, 0, 0, 0]);
    }
}
