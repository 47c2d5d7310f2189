//! The PROXY protocol towards endpoints: the first bytes of a connection tell who the client is
//! (haproxy.org, proxy-protocol.txt, versions 1 and 2). A connection that tells of a client serves nobody else.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use outrigger_config::{ProxyProtocolVersion, UpstreamProxyProtocol};
use outrigger_http::ProxyEntry;

use super::endpoint::EndpointHandle;
use super::{ClusterHandle, PickKey};
use crate::inspect::proxy_header::SIGNATURE;
use crate::transport::Transport;

/// What follows the fixed part of a header.
const BODY_BYTES_MAX: usize = u16::MAX as usize;

/// Whom a connection was made for, where that counts: requests of others don't go on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MadeFor {
    /// Whom the server was told (`auto_sni`).
    pub(crate) server_name: Option<Arc<str>>,
    /// Of whom it was told by the PROXY protocol.
    pub(crate) client: Option<Client>,
    /// What of the client's own header it was told.
    pub(crate) passed: Box<[ProxyEntry]>,
}

/// What a header tells.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    client: Client,
    /// The endpoint's own entries, which go before those of its cluster.
    of_endpoint: &'a [ProxyEntry],
    /// Those of the client's header, which come last.
    passed: &'a [ProxyEntry],
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
        let config = self.transport_of(endpoint).proxy_protocol.as_ref();
        let client = key.client.filter(|_| config.is_some());
        if key.server_name.is_none() && client.is_none() {
            return None;
        }
        let entries = key.connection.map_or(&[][..], |connection| &connection.proxy_entries);
        let passes =
            |entry: &&ProxyEntry| client.is_some() && config.is_some_and(|config| config.passed.includes(entry.0));
        let passed = entries.iter().filter(passes).cloned().collect();
        Some(Arc::new(MadeFor { server_name: key.server_name.cloned(), client, passed }))
    }

    /// Tells an endpoint who the client is, where its transport socket says so.
    pub(super) async fn announce(&self, transport: &mut Transport, endpoint: &EndpointHandle) -> io::Result<()> {
        let Some(config) = &self.transport_of(endpoint).proxy_protocol else { return Ok(()) };
        let made_for = transport.made_for.clone();
        let told = made_for.as_ref().and_then(|made_for| {
            let of_endpoint = &endpoint.endpoint.proxy_entries;
            Some(Told { client: made_for.client?, of_endpoint, passed: &made_for.passed })
        });
        transport.announce(config, told).await
    }
}

/// The header of a connection. `own`: its own ends, which version 1 tells where it is made for nobody.
pub(crate) fn header(config: &UpstreamProxyProtocol, told: Option<Told<'_>>, own: Option<Client>) -> Vec<u8> {
    match config.version {
        ProxyProtocolVersion::V1 => version1(told.map(|told| told.client).or(own)),
        ProxyProtocolVersion::V2 => version2(told, &config.added),
    }
}

fn version1(told: Option<Client>) -> Vec<u8> {
    let Some(client) = told else { return b"PROXY UNKNOWN\r\n".to_vec() };
    let Client { source, destination } = client.in_one_family();
    let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
    let (from, to) = (source.ip(), destination.ip());
    format!("PROXY {family} {from} {to} {} {}\r\n", source.port(), destination.port()).into_bytes()
}

fn version2(told: Option<Told<'_>>, added: &[ProxyEntry]) -> Vec<u8> {
    const LOCAL: [u8; 4] = [0x20, 0, 0, 0];
    let mut header = SIGNATURE.to_vec();
    let Some(told) = told else {
        header.extend(LOCAL);
        return header;
    };
    let Client { source, destination } = told.client.in_one_family();
    let mut body = Vec::new();
    for address in [source, destination] {
        match address.ip() {
            IpAddr::V4(ip) => body.extend(ip.octets()),
            IpAddr::V6(ip) => body.extend(ip.octets()),
        }
    }
    body.extend(source.port().to_be_bytes());
    body.extend(destination.port().to_be_bytes());
    write_entries(told, added, &mut body);
    header.extend([0x21, if source.is_ipv4() { 0x11 } else { 0x21 }]);
    header.extend(u16::try_from(body.len()).unwrap_or(u16::MAX).to_be_bytes());
    header.extend(body);
    header
}

/// A type that is told by the endpoint isn't by its cluster, nor passed on if either tells it; one that has no room is left
/// out, as in Envoy.
fn write_entries(told: Told<'_>, added: &[ProxyEntry], body: &mut Vec<u8>) {
    let among = |entries: &[ProxyEntry], entry: &ProxyEntry| entries.iter().any(|(kind, _)| *kind == entry.0);
    let own = told.of_endpoint;
    let added_rest = added.iter().filter(|entry| !among(own, entry));
    let passed_rest = told.passed.iter().filter(|entry| !among(own, entry) && !among(added, entry));
    for (kind, value) in own.iter().chain(added_rest).chain(passed_rest) {
        let Some(length) = u16::try_from(value.len()).ok().filter(|_| body.len() + 3 + value.len() <= BODY_BYTES_MAX)
        else {
            continue;
        };
        body.push(*kind);
        body.extend(length.to_be_bytes());
        body.extend(&value[..]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::proxy_header::{Proxy, entries, read};
    use outrigger_config::PassedEntries;

    fn client(source: &str, destination: &str) -> Client {
        Client { source: source.parse().unwrap(), destination: destination.parse().unwrap() }
    }

    fn config(version: ProxyProtocolVersion, added: Vec<ProxyEntry>) -> UpstreamProxyProtocol {
        UpstreamProxyProtocol { version, added, passed: PassedEntries::None }
    }

    fn entry(kind: u8, value: &[u8]) -> ProxyEntry {
        (kind, value.into())
    }

    /// What we write we read.
    fn check(version: ProxyProtocolVersion, told: Option<Client>, expected: Option<Client>) {
        let added = vec![entry(0xe0, b"hi"), entry(0xe1, b"")];
        let told = told.map(|client| Told { client, of_endpoint: &[], passed: &[] });
        let bytes = header(&config(version, added), told, None);
        let Proxy::Header(found) = read(&bytes) else { panic!("{bytes:?}") };
        assert_eq!(found.addresses, expected.map(|client| (client.source, client.destination)));
        assert_eq!(found.length, bytes.len());
        assert_eq!(found.version, if version == ProxyProtocolVersion::V1 { 1 } else { 2 });
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
    fn entries_follow_the_addresses() {
        let told_entries = |added: Vec<ProxyEntry>, of_endpoint: &[ProxyEntry], passed: &[ProxyEntry]| {
            let told = Told { client: client("1.2.3.4:5", "6.7.8.9:10"), of_endpoint, passed };
            let bytes = header(&config(ProxyProtocolVersion::V2, added), Some(told), None);
            let Proxy::Header(found) = read(&bytes) else { panic!("{bytes:?}") };
            entries(&bytes[found.entries]).map(|(kind, value)| entry(kind, value)).collect::<Vec<_>>()
        };
        let hi = || entry(0xe0, b"hi");
        assert_eq!(told_entries(vec![hi(), entry(0xe1, b"")], &[], &[]), [hi(), entry(0xe1, b"")]);
        let own = [entry(1, b"own"), entry(1, b"again")];
        let passed = [entry(1, b"x"), entry(2, b"y"), entry(3, b"z"), entry(3, b"z")];
        let added = vec![entry(1, b"a"), entry(2, b"b"), entry(2, b"c")];
        let expected = [&own[..], &[entry(2, b"b"), entry(2, b"c"), entry(3, b"z"), entry(3, b"z")]].concat();
        assert_eq!(told_entries(added, &own, &passed), expected);
    }

    #[test]
    fn entries_without_room_are_left_out() {
        let long = entry(1, &[0; 65_000]);
        let told = Told {
            client: client("1.2.3.4:5", "6.7.8.9:10"),
            of_endpoint: &[],
            passed: &[entry(2, &[0; 600]), entry(3, b"fits")],
        };
        let bytes = header(&config(ProxyProtocolVersion::V2, vec![long]), Some(told), None);
        assert_eq!(bytes.len(), 16 + 12 + 3 + 65_000 + 3 + 4);
        assert_eq!(bytes[14..16], (12 + 3 + 65_000 + 3 + 4_u16).to_be_bytes());
    }

    #[test]
    fn a_connection_for_nobody_tells_of_itself() {
        let own = Some(client("1.2.3.4:5", "6.7.8.9:10"));
        let of = |version| header(&config(version, Vec::new()), None, own);
        assert_eq!(of(ProxyProtocolVersion::V1), b"PROXY TCP4 1.2.3.4 6.7.8.9 5 10\r\n");
        assert_eq!(of(ProxyProtocolVersion::V2)[12..], [0x20, 0, 0, 0]);
    }
}
