//! What TLS established about a connection, for properties, access logs and forwarded certificates.

use std::sync::Arc;
use std::time::Instant;

use bytes::Bytes;

/// A TLS connection's facts; one for all streams of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsInfo {
    /// `TLSv1.3`, as Envoy says it.
    pub version: &'static str,
    /// OpenSSL's name: `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
    /// Of the key exchange: `X25519`; empty if there was none.
    pub group: &'static str,
    /// From the client's first message to the last one.
    pub handshake: Option<(Instant, Instant)>,
    /// SNI, in lower case; empty if there was none.
    pub server_name: Arc<str>,
    /// The protocol that was negotiated; empty if there was none.
    pub alpn: Arc<str>,
    /// Hex; empty without one.
    pub session_id: Arc<str>,
    /// Our certificate.
    pub local: Option<Arc<CertificateInfo>>,
    /// The peer's, if it showed one.
    pub peer: Option<Arc<CertificateInfo>>,
    /// Whether the peer's certificate was checked against trust anchors, and passed.
    pub peer_validated: bool,
    /// The trust anchors that the peer's certificate was checked against, in DER.
    pub authorities: Option<Arc<[Bytes]>>,
}

/// A leaf certificate's facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateInfo {
    /// RFC 2253: `CN=name,O=organization`.
    pub subject: String,
    pub issuer: String,
    pub dns_sans: Vec<String>,
    pub uri_sans: Vec<String>,
    pub ip_sans: Vec<String>,
    pub email_sans: Vec<String>,
    /// Hex, lower case.
    pub serial: String,
    /// SHA-256 of the DER, hex, lower case.
    pub sha256: String,
    /// Seconds since the epoch.
    pub not_before: i64,
    pub not_after: i64,
    /// The whole chain in DER, the leaf first.
    pub chain: Vec<Bytes>,
}

impl CertificateInfo {
    /// The leaf in PEM.
    #[must_use]
    pub fn pem(&self) -> String {
        self.chain.first().map(|der| pem(der)).unwrap_or_default()
    }

    /// The leaf in PEM, URL-encoded, as `x-forwarded-client-cert` has it.
    #[must_use]
    pub fn url_encoded_pem(&self) -> String {
        self.chain.first().map(|der| url_encoded_pem(der)).unwrap_or_default()
    }

    /// The same of the whole chain.
    #[must_use]
    pub fn url_encoded_pem_chain(&self) -> String {
        self.chain.iter().map(|der| url_encoded_pem(der)).collect()
    }
}

fn pem(der: &[u8]) -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(der.len() * 3 / 2 + 128);
    out.push_str("-----BEGIN CERTIFICATE-----\n");
    let mut column = 0;
    for group in der.chunks(3) {
        let bits = group.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte)) << (8 * (3 - group.len()));
        for position in 0..4 {
            let symbol = match position <= group.len() {
                true => ALPHABET[(bits >> (18 - 6 * position) & 63) as usize],
                false => b'=',
            };
            out.push(char::from(symbol));
        }
        column += 4;
        if column == 64 {
            out.push('\n');
            column = 0;
        }
    }
    if column > 0 {
        out.push('\n');
    }
    out.push_str("-----END CERTIFICATE-----\n");
    out
}

/// PEM of which all that isn't unreserved is escaped.
fn url_encoded_pem(der: &[u8]) -> String {
    let plain = pem(der);
    let mut out = String::with_capacity(plain.len() + 128);
    for symbol in plain.chars() {
        match symbol {
            ' ' => out.push_str("%20"),
            '\n' => out.push_str("%0A"),
            '+' => out.push_str("%2B"),
            '/' => out.push_str("%2F"),
            '=' => out.push_str("%3D"),
            other => out.push(other),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_are_url_encoded() {
        let of = |der: &'static [u8]| CertificateInfo { chain: vec![Bytes::from_static(der)], ..Default::default() };
        let body = |der| of(der).url_encoded_pem().replace("-----BEGIN%20CERTIFICATE-----%0A", "");
        let check = |der, expected: &str| assert_eq!(body(der), format!("{expected}%0A-----END%20CERTIFICATE-----%0A"));
        check(b"a", "YQ%3D%3D");
        check(b"ab", "YWI%3D");
        check(b"abc", "YWJj");
        check(&[0xfb, 0xff], "%2B%2F8%3D");
        assert_eq!(of(b"a").pem(), "-----BEGIN CERTIFICATE-----\nYQ==\n-----END CERTIFICATE-----\n");
        check(&[0; 48], &"A".repeat(64));
        check(&[0; 49], &format!("{}%0AAA%3D%3D", "A".repeat(64)));
    }
}
