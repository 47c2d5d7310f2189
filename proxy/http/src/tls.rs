//! What TLS established about a connection, for properties, access logs and forwarded certificates.

use std::sync::Arc;

/// A TLS connection's facts; one for all streams of the connection.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsInfo {
    /// `TLSv1.3`, as Envoy says it.
    pub version: &'static str,
    /// OpenSSL's name: `TLS_AES_128_GCM_SHA256`.
    pub cipher: &'static str,
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
}

/// A leaf certificate's facts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct CertificateInfo {
    /// RFC 2253: `CN=name,O=organization`.
    pub subject: String,
    pub issuer: String,
    pub dns_sans: Vec<String>,
    pub uri_sans: Vec<String>,
    /// Hex, lower case.
    pub serial: String,
    /// SHA-256 of the DER, hex, lower case.
    pub sha256: String,
    /// PEM, URL-encoded, as `x-forwarded-client-cert` has it.
    pub url_encoded_pem: String,
}
