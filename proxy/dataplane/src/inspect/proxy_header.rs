//! The PROXY protocol (haproxy.org, proxy-protocol.txt, versions 1 and 2): who the client is, told by a balancer before us.
//!
//! It says who may do what, so it is read strictly: one wrong byte refuses the connection.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Range;

/// What a header tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ProxyHeader {
    pub(crate) version: u8,
    /// Bytes of the header; the connection's own follow.
    pub(crate) length: usize,
    /// The client and where it connected to; `None`: the balancer speaks for itself (`LOCAL`, `UNKNOWN`).
    pub(crate) addresses: Option<(SocketAddr, SocketAddr)>,
    /// Where among its bytes entries stand.
    pub(crate) entries: Range<usize>,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Proxy {
    /// So far a header.
    Partial,
    Header(ProxyHeader),
    /// Another protocol.
    No,
    /// Began as a header, and is none.
    Malformed,
}

pub(crate) const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
const V1: &[u8] = b"PROXY ";
/// Of version 1, line end included.
const V1_BYTES_MAX: usize = 107;
const V2_HEADER_BYTES: usize = 16;
/// Addresses and what else a header of version 2 tells; real ones have a few hundred bytes.
const V2_BODY_BYTES_MAX: usize = 8 * 1024;

/// Reads a header from the first bytes of a connection.
pub(crate) fn read(bytes: &[u8]) -> Proxy {
    let starts = |with: &[u8]| bytes[..bytes.len().min(with.len())] == with[..bytes.len().min(with.len())];
    if starts(V1) {
        return if bytes.len() < V1.len() { Proxy::Partial } else { version1(bytes) };
    }
    if starts(SIGNATURE) {
        return if bytes.len() < V2_HEADER_BYTES { Proxy::Partial } else { version2(bytes) };
    }
    Proxy::No
}

fn version1(bytes: &[u8]) -> Proxy {
    let window = &bytes[..bytes.len().min(V1_BYTES_MAX)];
    let Some(end) = memchr::memmem::find(window, b"\r\n") else {
        // A line feed of its own ends nothing, and nothing longer is a header.
        let over = window.len() == V1_BYTES_MAX || window.contains(&b'\n');
        return if over { Proxy::Malformed } else { Proxy::Partial };
    };
    let length = end + 2;
    match addresses1(&bytes[V1.len()..end]) {
        Some(addresses) if addresses.is_none_or(are_unicast) => {
            Proxy::Header(ProxyHeader { version: 1, length, addresses, entries: 0..0 })
        }
        _ => Proxy::Malformed,
    }
}

/// Whether they may be those of a connection: nobody connects from or to all hosts, a group, or none.
fn are_unicast((source, destination): (SocketAddr, SocketAddr)) -> bool {
    let is_one_host = |address: SocketAddr| match address.ip() {
        IpAddr::V4(ip) => !ip.is_unspecified() && !ip.is_broadcast() && !ip.is_multicast(),
        IpAddr::V6(ip) => !ip.is_unspecified() && !ip.is_multicast(),
    };
    is_one_host(source) && is_one_host(destination)
}

/// What follows `PROXY `.
#[expect(clippy::option_option, reason = "a malformed line, and one that tells of nobody")]
fn addresses1(line: &[u8]) -> Option<Option<(SocketAddr, SocketAddr)>> {
    let line = std::str::from_utf8(line).ok().filter(|line| line.bytes().all(|byte| (b' '..0x7f).contains(&byte)))?;
    if line == "UNKNOWN" || line.starts_with("UNKNOWN ") {
        return Some(None);
    }
    let mut parts = line.split(' ');
    let family = parts.next()?;
    let mut ip = || -> Option<IpAddr> {
        let text = parts.next()?;
        match family {
            "TCP4" => text.parse::<Ipv4Addr>().ok().map(IpAddr::V4),
            "TCP6" => text.parse::<Ipv6Addr>().ok().map(IpAddr::V6),
            _ => None,
        }
    };
    let (source, destination) = (ip()?, ip()?);
    let mut port = || {
        let text = parts.next()?;
        let digits = text.bytes().all(|byte| byte.is_ascii_digit()) && (text == "0" || !text.starts_with('0'));
        text.parse::<u16>().ok().filter(|_| digits)
    };
    let (source_port, destination_port) = (port()?, port()?);
    if parts.next().is_some() {
        return None;
    }
    Some(Some((SocketAddr::new(source, source_port), SocketAddr::new(destination, destination_port))))
}

fn version2(bytes: &[u8]) -> Proxy {
    let body_length = usize::from(u16::from_be_bytes([bytes[14], bytes[15]]));
    if body_length > V2_BODY_BYTES_MAX {
        return Proxy::Malformed;
    }
    let length = V2_HEADER_BYTES + body_length;
    // Wrong heads are refused before their body is waited for.
    let family = match (bytes[12], bytes[13]) {
        (0x20, _) => None,
        (0x21, family @ (0x11 | 0x21)) => Some(family),
        _ => return Proxy::Malformed,
    };
    let Some(body) = bytes.get(V2_HEADER_BYTES..length) else { return Proxy::Partial };
    let Some(family) = family else {
        return Proxy::Header(ProxyHeader { version: 2, length, addresses: None, entries: 0..0 });
    };
    let found = if family == 0x11 { addresses4(body) } else { addresses6(body) };
    match found {
        Some((addresses, rest)) if are_unicast(addresses) && entries_are_whole(rest) => {
            let entries = length - rest.len()..length;
            Proxy::Header(ProxyHeader { version: 2, length, addresses: Some(addresses), entries })
        }
        _ => Proxy::Malformed,
    }
}

/// A client and where it connected to, and what follows.
type Addresses<'a> = ((SocketAddr, SocketAddr), &'a [u8]);

fn addresses4(body: &[u8]) -> Option<Addresses<'_>> {
    let (source, rest) = body.split_first_chunk::<4>()?;
    let (destination, rest) = rest.split_first_chunk::<4>()?;
    let (ports, rest) = rest.split_first_chunk::<4>()?;
    let (source_port, destination_port) = two_ports(ports);
    let source = SocketAddr::new(Ipv4Addr::from(*source).into(), source_port);
    Some(((source, SocketAddr::new(Ipv4Addr::from(*destination).into(), destination_port)), rest))
}

fn addresses6(body: &[u8]) -> Option<Addresses<'_>> {
    let (source, rest) = body.split_first_chunk::<16>()?;
    let (destination, rest) = rest.split_first_chunk::<16>()?;
    let (ports, rest) = rest.split_first_chunk::<4>()?;
    let (source_port, destination_port) = two_ports(ports);
    let source = SocketAddr::new(Ipv6Addr::from(*source).into(), source_port);
    Some(((source, SocketAddr::new(Ipv6Addr::from(*destination).into(), destination_port)), rest))
}

fn two_ports(bytes: &[u8; 4]) -> (u16, u16) {
    (u16::from_be_bytes([bytes[0], bytes[1]]), u16::from_be_bytes([bytes[2], bytes[3]]))
}

/// The type and the value of the first entry, which is taken off, if it is whole.
fn take_entry<'b>(bytes: &mut &'b [u8]) -> Option<(u8, &'b [u8])> {
    let (head, after) = bytes.split_first_chunk::<3>()?;
    let (value, rest) = after.split_at_checked(usize::from(u16::from_be_bytes([head[1], head[2]])))?;
    *bytes = rest;
    Some((head[0], value))
}

/// Types and values of a header's entries.
pub(crate) fn entries(mut bytes: &[u8]) -> impl Iterator<Item = (u8, &[u8])> {
    std::iter::from_fn(move || take_entry(&mut bytes))
}

/// Whether entries fill what follows the addresses.
fn entries_are_whole(mut rest: &[u8]) -> bool {
    while take_entry(&mut rest).is_some() {}
    rest.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn v2(command: u8, family: u8, body: &[u8]) -> Vec<u8> {
        let length = u16::try_from(body.len()).unwrap().to_be_bytes();
        [&SIGNATURE[..], &[command, family], &length, body].concat()
    }

    fn header(version: u8, length: usize, addresses: Option<(&str, &str)>) -> Proxy {
        let addresses = addresses.map(|(source, destination)| (source.parse().unwrap(), destination.parse().unwrap()));
        Proxy::Header(ProxyHeader { version, length, addresses, entries: 0..0 })
    }

    /// With so many bytes of entries.
    fn with_entries(header: Proxy, bytes: usize) -> Proxy {
        let Proxy::Header(mut header) = header else { return header };
        header.entries = header.length - bytes..header.length;
        Proxy::Header(header)
    }

    /// Every shorter start is partial.
    fn check(bytes: &[u8], expected: &Proxy) {
        assert_eq!(read(bytes), *expected, "{bytes:?}");
        let Proxy::Header(found) = expected else { return };
        for end in 0..found.length {
            assert_eq!(read(&bytes[..end]), Proxy::Partial, "{bytes:?} {end}");
        }
    }

    #[test]
    fn version_1() {
        let check = |line: &str, expected: Option<(&str, &str)>| {
            let bytes = format!("{line}\r\nrest");
            check(bytes.as_bytes(), &header(1, line.len() + 2, expected));
        };
        check("PROXY TCP4 1.2.3.4 5.6.7.8 9 65535", Some(("1.2.3.4:9", "5.6.7.8:65535")));
        check("PROXY TCP6 fd00::1 ::2 0 1", Some(("[fd00::1]:0", "[::2]:1")));
        check("PROXY UNKNOWN", None);
        check("PROXY UNKNOWN ffff:f...f and more", None);
    }

    #[test]
    fn version_1_is_strict() {
        for line in [
            "PROXY TCP4 1.2.3.4 5.6.7.8 9\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 1 2\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 1 \r\n",
            "PROXY  TCP4 1.2.3.4 5.6.7.8 9 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 65536\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 09 1\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 +9 1\r\n",
            "PROXY TCP4 fd00::1 5.6.7.8 9 1\r\n",
            "PROXY TCP6 1.2.3.4 5.6.7.8 9 1\r\n",
            "PROXY TCP4 1.2.3.04 5.6.7.8 9 1\r\n",
            "PROXY UDP4 1.2.3.4 5.6.7.8 9 1\r\n",
            "PROXY UNKNOWNS\r\n",
            "PROXY TCP4 1.2.3.4 5.6.7.8 9 1\n",
            "PROXY TCP4 1.2.3.4\t5.6.7.8 9 1\r\n",
            "PROXY \r\n",
            "PROXY TCP4 0.0.0.0 5.6.7.8 9 1\r\n",
            "PROXY TCP4 1.2.3.4 255.255.255.255 9 1\r\n",
            "PROXY TCP4 224.0.0.1 5.6.7.8 9 1\r\n",
            "PROXY TCP6 fd00::1 :: 9 1\r\n",
            "PROXY TCP6 ff02::1 fd00::1 9 1\r\n",
        ] {
            assert_eq!(read(line.as_bytes()), Proxy::Malformed, "{line:?}");
        }
        assert_eq!(read(format!("PROXY UNKNOWN {}", "a".repeat(93)).as_bytes()), Proxy::Malformed);
    }

    #[test]
    fn version_2() {
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 1, 0];
        let six = [[0; 15].as_slice(), &[1], &[0; 15], &[2], &[0, 9, 1, 0]].concat();
        let addresses = Some(("1.2.3.4:9", "5.6.7.8:256"));
        let rest = b"GET";
        check(&[&v2(0x21, 0x11, &four)[..], rest].concat(), &with_entries(header(2, 28, addresses), 0));
        let values = [&four[..], &[0xea, 0, 2, b'a', b'b', 4, 0, 0]].concat();
        let bytes = [&v2(0x21, 0x11, &values)[..], rest].concat();
        check(&bytes, &with_entries(header(2, 36, addresses), 8));
        assert_eq!(entries(&bytes[28..36]).collect::<Vec<_>>(), [(0xea, &b"ab"[..]), (4, b"")]);
        check(&v2(0x21, 0x21, &six), &with_entries(header(2, 52, Some(("[::1]:9", "[::2]:256"))), 0));
        check(&v2(0x20, 0x00, &[]), &header(2, 16, None));
        // What a LOCAL header carries is skipped, whatever it is.
        check(&v2(0x20, 0x11, &[9, 9]), &header(2, 18, None));
    }

    #[test]
    fn version_2_is_strict() {
        let four = [1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 1, 0];
        for bytes in [
            v2(0x11, 0x11, &four),
            v2(0x22, 0x11, &four),
            v2(0x21, 0x00, &[]),
            v2(0x21, 0x12, &four),
            v2(0x21, 0x31, &[0; 216]),
            v2(0x21, 0x11, &[0, 0, 0, 0, 5, 6, 7, 8, 0, 9, 1, 0]),
            v2(0x21, 0x11, &[1, 2, 3, 4, 239, 6, 7, 8, 0, 9, 1, 0]),
            v2(0x21, 0x21, &[0; 36]),
            v2(0x21, 0x11, &four[..11]),
            v2(0x21, 0x21, &four),
            v2(0x21, 0x11, &[&four[..], &[4, 0]].concat()),
            v2(0x21, 0x11, &[&four[..], &[4, 0, 1]].concat()),
            v2(0x21, 0x11, &[0; V2_BODY_BYTES_MAX + 1])[..16].to_vec(),
        ] {
            assert_eq!(read(&bytes), Proxy::Malformed, "{bytes:?}");
        }
    }

    #[test]
    fn other_protocols() {
        for bytes in [&b"GET / HTTP/1.1\r\n"[..], b"PROXZ", b"\r\n\r\nX", b"\x16\x03\x01", b"proxy tcp4"] {
            assert_eq!(read(bytes), Proxy::No, "{bytes:?}");
        }
    }
}
