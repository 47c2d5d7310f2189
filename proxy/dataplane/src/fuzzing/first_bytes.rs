//! A connection's first bytes, as inspectors look at them while they come.

use crate::inspect::{client_hello, http_version, proxy_header};
use client_hello::Tls;
use http_version::Http;
use proxy_header::Proxy;

/// Beyond so many bytes not every length is tried.
const EVERY_LENGTH_MAX: usize = 160;
const STEP: usize = 61;

/// How many bytes have come, each time that somebody looks.
fn lengths(whole: usize) -> impl Iterator<Item = usize> {
    let dense = 0..whole.min(EVERY_LENGTH_MAX);
    dense.chain((EVERY_LENGTH_MAX..whole).step_by(STEP)).chain([whole])
}

/// What is known once stays true, whatever comes after it.
fn decided<T: PartialEq + std::fmt::Debug>(bytes: &[u8], read: impl Fn(&[u8]) -> Option<T>) -> Option<T> {
    let mut known: Option<T> = None;
    for end in lengths(bytes.len()) {
        let now = read(&bytes[..end]);
        if known.is_some() {
            assert_eq!(known, now, "another answer after {end} bytes");
        }
        known = now;
    }
    known
}

/// Reads the header of the PROXY protocol.
///
/// # Panics
///
/// If more bytes change what is known, or a header is longer than what it was read from.
#[must_use]
pub fn proxy_header(bytes: &[u8]) -> String {
    let known = decided(bytes, |bytes| match proxy_header::read(bytes) {
        Proxy::Partial => None,
        Proxy::Header(header) => {
            assert!(header.length <= bytes.len(), "{header:?} of {} bytes", bytes.len());
            if let Some((source, destination)) = header.addresses {
                assert_eq!(source.is_ipv4(), destination.is_ipv4(), "{header:?}");
            }
            Some(Proxy::Header(header))
        }
        other => Some(other),
    });
    match known {
        Some(Proxy::Header(header)) => {
            // What follows is the connection's own: nothing of it counts.
            assert_eq!(proxy_header::read(&bytes[..header.length]), Proxy::Header(header.clone()));
            let family = header.addresses.map(|(source, _)| source.is_ipv4());
            format!("{} {family:?} {}", header.version, header.length.ilog2())
        }
        other => format!("{other:?}"),
    }
}

/// Reads a TLS ClientHello.
///
/// # Panics
///
/// If more bytes change what is known, or a name or a protocol is none.
#[must_use]
pub fn client_hello(bytes: &[u8]) -> String {
    let known = decided(bytes, |bytes| match client_hello::read(bytes) {
        Tls::Partial(at_least) => {
            assert!(at_least > bytes.len(), "asks for {at_least} bytes and has {}", bytes.len());
            None
        }
        other => Some(other),
    });
    let Some(Tls::Hello(hello)) = known else { return format!("{known:?}") };
    let is_name = |byte: u8| byte.is_ascii_graphic() && !byte.is_ascii_uppercase();
    assert!(hello.server_name.len() < 256 && hello.server_name.bytes().all(is_name), "{hello:?}");
    assert!(hello.protocols.iter().all(|protocol| !protocol.is_empty()), "{hello:?}");
    format!("hello {} {}", hello.server_name.len().min(2), hello.protocols.len().min(4))
}

/// Tells HTTP by its first line.
///
/// # Panics
///
/// If more bytes change what is known, or it matters how often somebody looks.
#[must_use]
pub fn http_version(bytes: &[u8]) -> String {
    let decision = |found: Http| (found != Http::Partial).then_some(found);
    let known = decided(bytes, |bytes| if bytes.is_empty() { None } else { decision(http_version::read(bytes, 0)) });
    let mut seen = 0;
    let piece_by_piece = lengths(bytes.len()).filter(|end| *end > 0).find_map(|end| {
        let before = std::mem::replace(&mut seen, end);
        decision(http_version::read(&bytes[..end], before))
    });
    assert_eq!(known, piece_by_piece, "another answer piece by piece");
    format!("{known:?}")
}
