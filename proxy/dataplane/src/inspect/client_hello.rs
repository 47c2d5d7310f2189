//! The start of a TLS connection (RFC 8446 §4.1.2 and §5.1, RFC 6066 §3, RFC 7301 §3.1): who is asked for, and by which
//! protocols.
//!
//! The bytes are a stranger's. Nothing here holds more than the hello, reads past a length, or runs longer than the bytes
//! are long.

/// What a ClientHello asks for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct ClientHello {
    /// In lower case; empty: none.
    pub(crate) server_name: Box<str>,
    /// ALPN, in the client's order.
    pub(crate) protocols: Vec<Box<[u8]>>,
    /// It wants to know the state of the server's certificate (RFC 6066 §8).
    pub(crate) wants_status: bool,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Tls {
    /// So far a ClientHello; nothing more can be told before there are this many bytes.
    Partial(usize),
    Hello(ClientHello),
    /// Another protocol.
    No,
    /// Began as TLS, and is no ClientHello.
    Malformed,
}

const HANDSHAKE: u8 = 22;
const CLIENT_HELLO: u8 = 1;
/// RFC 8446 §5.1.
const RECORD_BYTES_MAX: usize = 1 << 14;
pub(super) const SERVER_NAME: u16 = 0;
const STATUS_REQUEST: u16 = 5;
pub(super) const ALPN: u16 = 16;
const HOST_NAME: u8 = 0;
/// RFC 1035 §2.3.4.
const HOST_NAME_BYTES_MAX: usize = 255;

/// Reads a ClientHello from the first bytes of a connection. It may come in several records.
pub(crate) fn read(bytes: &[u8]) -> Tls {
    // Content type, the version's major number, the type of the message: each decides as soon as it is there.
    let expected = [(0, HANDSHAKE), (1, 3), (5, CLIENT_HELLO)];
    if expected.iter().any(|(at, wanted)| bytes.get(*at).is_some_and(|byte| byte != wanted)) {
        return Tls::No;
    }
    if bytes.len() < 6 {
        return Tls::Partial(bytes.len() + 1);
    }
    match message(bytes) {
        Ok(body) => hello(Reader(&body)).map_or(Tls::Malformed, Tls::Hello),
        Err(other) => other,
    }
}

/// Whether a client wants to know the state of the server's certificate. One whose hello says more than we can read, and
/// is read by others, may.
pub(crate) fn may_want_status(bytes: &[u8]) -> bool {
    !matches!(read(bytes), Tls::Hello(hello) if !hello.wants_status)
}

/// The body of the first message, put together from its records.
pub(super) fn message(bytes: &[u8]) -> Result<Vec<u8>, Tls> {
    let mut message: Vec<u8> = Vec::new();
    let mut at = 0;
    loop {
        let Some(header) = bytes[at..].first_chunk::<5>() else { return Err(Tls::Partial(at + 5)) };
        let length = usize::from(u16::from_be_bytes([header[3], header[4]]));
        if header[0] != HANDSHAKE || header[1] != 3 || length == 0 || length > RECORD_BYTES_MAX {
            return Err(Tls::Malformed);
        }
        let end = at + 5 + length;
        let Some(part) = bytes.get(at + 5..end) else { return Err(Tls::Partial(end)) };
        message.extend_from_slice(part);
        if let Some(header) = message.first_chunk::<4>() {
            let body_end = 4 + (usize::from(header[1]) << 16 | usize::from(header[2]) << 8 | usize::from(header[3]));
            if message.len() >= body_end {
                message.truncate(body_end);
                return Ok(message.split_off(4));
            }
        }
        at = end;
    }
}

fn hello(mut body: Reader<'_>) -> Option<ClientHello> {
    // legacy_version, random, legacy_session_id, cipher_suites, legacy_compression_methods
    body.take(2 + 32)?;
    let session = body.vector8()?;
    let ciphers = body.vector16()?;
    let compressions = body.vector8()?;
    if session.0.len() > 32 || ciphers.0.len() < 2 || ciphers.0.len() % 2 == 1 || compressions.0.is_empty() {
        return None;
    }
    let mut hello = ClientHello::default();
    if body.0.is_empty() {
        return Some(hello);
    }
    let mut extensions = body.vector16()?;
    if !body.0.is_empty() {
        return None;
    }
    let (mut named, mut negotiates) = (false, false);
    while !extensions.0.is_empty() {
        let (kind, data) = (extensions.u16()?, extensions.vector16()?);
        match kind {
            // Twice would mean two things.
            SERVER_NAME if named => return None,
            ALPN if negotiates => return None,
            SERVER_NAME => {
                named = true;
                hello.server_name = server_name(data)?;
            }
            ALPN => {
                negotiates = true;
                hello.protocols = protocols(data)?;
            }
            STATUS_REQUEST => hello.wants_status = true,
            _ => {}
        }
    }
    Some(hello)
}

fn server_name(mut data: Reader<'_>) -> Option<Box<str>> {
    let mut list = data.vector16()?;
    if !data.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut name = None;
    while !list.0.is_empty() {
        let (kind, value) = (list.take(1)?[0], list.vector16()?.0);
        if kind != HOST_NAME {
            continue;
        }
        let printable = value.iter().all(u8::is_ascii_graphic);
        if name.is_some() || value.is_empty() || value.len() > HOST_NAME_BYTES_MAX || !printable {
            return None;
        }
        name = Some(std::str::from_utf8(value).ok()?.to_ascii_lowercase());
    }
    Some(name.unwrap_or_default().into())
}

fn protocols(mut data: Reader<'_>) -> Option<Vec<Box<[u8]>>> {
    let mut list = data.vector16()?;
    if !data.0.is_empty() || list.0.is_empty() {
        return None;
    }
    let mut protocols = Vec::new();
    while !list.0.is_empty() {
        let protocol = list.vector8()?.0;
        if protocol.is_empty() {
            return None;
        }
        protocols.push(protocol.into());
    }
    Some(protocols)
}

/// The bytes that are still to be read.
pub(super) struct Reader<'a>(pub(super) &'a [u8]);

impl<'a> Reader<'a> {
    pub(super) fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(taken)
    }

    pub(super) fn u16(&mut self) -> Option<u16> {
        let (taken, rest) = self.0.split_first_chunk::<2>()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*taken))
    }

    /// A vector with a length of one byte.
    pub(super) fn vector8(&mut self) -> Option<Reader<'a>> {
        let length = self.take(1)?[0];
        self.take(usize::from(length)).map(Reader)
    }

    /// A vector with a length of two bytes.
    pub(super) fn vector16(&mut self) -> Option<Reader<'a>> {
        let length = self.u16()?;
        self.take(usize::from(length)).map(Reader)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    fn vector8(bytes: &[u8]) -> Vec<u8> {
        [&[u8::try_from(bytes.len()).unwrap()], bytes].concat()
    }

    fn vector16(bytes: &[u8]) -> Vec<u8> {
        [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat()
    }

    fn extension(kind: u16, data: &[u8]) -> Vec<u8> {
        [&kind.to_be_bytes()[..], &vector16(data)].concat()
    }

    fn sni(name: &str) -> Vec<u8> {
        extension(SERVER_NAME, &vector16(&[&[HOST_NAME][..], &vector16(name.as_bytes())].concat()))
    }

    fn alpn(protocols: &[&str]) -> Vec<u8> {
        let list: Vec<u8> = protocols.iter().flat_map(|protocol| vector8(protocol.as_bytes())).collect();
        extension(ALPN, &vector16(&list))
    }

    fn body(extensions: &[Vec<u8>]) -> Vec<u8> {
        let fixed = [&[3, 3][..], &[7; 32], &vector8(&[1; 32]), &vector16(&[0x13, 1]), &vector8(&[0])].concat();
        [fixed, vector16(&extensions.concat())].concat()
    }

    fn records(body: &[u8], record_bytes: usize) -> Vec<u8> {
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        let message = [&[CLIENT_HELLO][..], &length[1..], body].concat();
        let record = |part: &[u8]| [&[HANDSHAKE, 3, 1][..], &vector16(part)].concat();
        message.chunks(record_bytes).flat_map(record).collect()
    }

    /// A hello as a client would send it.
    pub(in crate::inspect) fn hello_for(name: &str, protocols: &[&str]) -> Vec<u8> {
        records(&body(&[extension(43, &[2, 3, 4]), sni(name), alpn(protocols)]), 1 << 14)
    }

    fn found(name: &str, protocols: &[&str]) -> Tls {
        let protocols = protocols.iter().map(|protocol| Box::from(protocol.as_bytes())).collect();
        Tls::Hello(ClientHello { server_name: name.into(), protocols, wants_status: false })
    }

    #[test]
    fn hellos_are_read_whole_and_in_pieces() {
        let wanted = found("a.test", &["h2", "http/1.1"]);
        let body = body(&[sni("A.Test"), alpn(&["h2", "http/1.1"]), extension(10, &[0, 0])]);
        for record_bytes in [1 << 14, 100, 7, 3, 1] {
            let bytes = records(&body, record_bytes);
            assert_eq!(read(&bytes), wanted, "{record_bytes}");
            assert_eq!(read(&[&bytes[..], b"\x14\x03\x03\x00\x01\x01"].concat()), wanted, "{record_bytes}");
            for end in 0..bytes.len() {
                let Tls::Partial(at_least) = read(&bytes[..end]) else { panic!("{record_bytes} {end}") };
                assert!(at_least > end && at_least <= bytes.len(), "{record_bytes} {end} {at_least}");
            }
        }
    }

    #[test]
    fn what_is_absent_is_empty() {
        let check = |extensions: &[Vec<u8>], expected: Tls| {
            assert_eq!(read(&records(&body(extensions), 1 << 14)), expected);
        };
        check(&[], found("", &[]));
        check(&[sni("a")], found("a", &[]));
        check(&[alpn(&["x"])], found("", &["x"]));
        // A name of another type.
        check(&[extension(SERVER_NAME, &vector16(&[9, 0, 1, b'a']))], found("", &[]));
        let asks = read(&records(&body(&[extension(STATUS_REQUEST, &[1, 0, 0, 0, 0])]), 1 << 14));
        assert!(matches!(asks, Tls::Hello(ClientHello { wants_status: true, .. })));
        for (extensions, may) in [
            (vec![], false),
            (vec![extension(STATUS_REQUEST, &[1, 0, 0, 0, 0])], true),
            // Nobody knows what it wants.
            (vec![sni("a"), sni("b")], true),
        ] {
            assert_eq!(may_want_status(&records(&body(&extensions), 1 << 14)), may);
        }
        let none = body(&[]);
        assert_eq!(read(&records(&none[..none.len() - 2], 1 << 14)), found("", &[]));
    }

    #[test]
    fn other_protocols_are_told_by_their_first_bytes() {
        for other in
            [&b"G"[..], b"SSH-2.0", b"\x16\x02", b"\x16G", b"\x80\x2e\x01\x03\x01", b"\x16\x03\x01\x00\x05\x02"]
        {
            assert_eq!(read(other), Tls::No, "{other:?}");
        }
        assert_eq!(read(b""), Tls::Partial(1));
        assert_eq!(read(b"\x16\x03"), Tls::Partial(3));
    }

    #[test]
    fn broken_hellos_are_malformed() {
        let check = |bytes: &[u8]| assert_eq!(read(bytes), Tls::Malformed, "{bytes:?}");
        let with = |extensions: &[Vec<u8>]| records(&body(extensions), 1 << 14);
        check(&with(&[sni("a"), sni("b")]));
        check(&with(&[alpn(&["a"]), alpn(&["a"])]));
        check(&with(&[sni("")]));
        check(&with(&[sni("a b")]));
        check(&with(&[sni("a\0")]));
        check(&with(&[sni(&"a".repeat(256))]));
        check(&with(&[alpn(&[""])]));
        check(&with(&[alpn(&[])]));
        check(&with(&[extension(SERVER_NAME, &[])]));
        check(&with(&[extension(ALPN, &[0, 3, 2, b'h'])]));
        let good = body(&[sni("a")]);
        check(&records(&good[..good.len() - 1], 1 << 14));
        check(&records(&[&good[..], &[0]].concat(), 1 << 14));
        check(&records(&good[..20], 1 << 14));
        // Of the second record: its type, its version, no bytes, too many bytes.
        let first = &records(&good, 30)[..35];
        for second in [
            &b"\x17\x03\x03\x00\x01\x00"[..],
            b"\x16\x04\x03\x00\x01\x00",
            b"\x16\x03\x03\x00\x00",
            b"\x16\x03\x03\x40\x01",
        ] {
            check(&[first, second].concat());
        }
    }

    /// No input reads past its end or asks for what it has.
    #[test]
    fn any_bytes_are_taken() {
        let good = hello_for("a.test", &["h2"]);
        for at in 0..good.len() {
            for byte in [0, 1, 2, 0x7f, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                if let Tls::Partial(at_least) = read(&bytes) {
                    assert!(at_least > bytes.len());
                }
                read(&bytes[..at]);
            }
        }
    }
}
