//! TLS as transport sockets have it (`envoy.extensions.transport_sockets.tls.v3`), and the secrets that they name.
//!
//! Certificates are DER, checked where they were decoded. A private key is never shown: not by `Debug`, not in an error.

mod tickets;

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::OpenOptionsExt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

use crate::{Cidr, Dependency, Origin, Source, StringMatcher, UpstreamProxyProtocol};

pub use tickets::{TicketKey, TicketKeySource, TicketKeys};

/// How a chain's connections come from clients.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum DownstreamTransport {
    #[default]
    Raw,
    Tls(Arc<DownstreamTls>),
}

/// How connections go to an endpoint.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct UpstreamTransport {
    /// What comes before everything else.
    pub proxy_protocol: Option<Arc<UpstreamProxyProtocol>>,
    /// `None`: cleartext.
    pub tls: Option<Arc<UpstreamTls>>,
}

/// `DownstreamTlsContext`.
#[derive(Debug, PartialEq, Eq)]
pub struct DownstreamTls {
    pub context: TlsContext,
    pub require_client_certificate: bool,
    pub require_sni: bool,
    /// `full_scan_certs_on_sni_mismatch`: where no certificate has the client's server name, one whose key the client
    /// takes is looked for among all; else the first certificate serves.
    pub full_scan: bool,
    /// Sessions by ticket; `disable_stateless_session_resumption` turns them off.
    pub stateless_resumption: bool,
    /// Sessions by id; `disable_stateful_session_resumption` turns them off.
    pub stateful_resumption: bool,
    /// `prefer_client_ciphers`: the client's order of cipher suites counts.
    pub prefer_client_ciphers: bool,
    pub staple_policy: StaplePolicy,
    /// `session_timeout`: how long a ticket of configured keys is taken; 2 hours unless set.
    pub session_timeout: Duration,
}

/// `ocsp_staple_policy`: what happens without a fresh OCSP response for a client that wants one.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum StaplePolicy {
    #[default]
    Lenient,
    /// One that has expired is worse than none: the client is refused.
    Strict,
    /// There must be one, and a fresh one.
    Must,
}

/// `UpstreamTlsContext`.
#[derive(Debug, PartialEq, Eq)]
pub struct UpstreamTls {
    pub context: TlsContext,
    /// Empty: none is sent, unless one of the next says otherwise.
    pub sni: Arc<str>,
    /// `auto_host_sni`: the endpoint's host name.
    pub auto_host_sni: bool,
    /// `auto_sni_san_validation`: a DNS SAN must equal the server name that was sent.
    pub auto_sni_san_validation: bool,
    /// `max_session_keys`: sessions that are kept for resumption; 0 turns it off.
    pub max_session_keys: u32,
}

/// `CommonTlsContext`.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsContext {
    pub params: TlsParams,
    pub certificates: Vec<CertificateSource>,
    /// `validation_context`, or the default of a combined one.
    pub validation: Option<Arc<ValidationContext>>,
    /// `validation_context_sds_secret_config`, alone or of a combined context.
    pub validation_secret: Option<SecretRef>,
    pub alpn: Vec<Bytes>,
    /// `session_ticket_keys`; `None`: those of this process, that nobody else has.
    pub ticket_keys: Option<TicketKeySource>,
    pub key_log: Option<Arc<KeyLog>>,
}

/// `key_log`: where the secrets of connections are written, for those who look into captured bytes.
#[derive(Debug, PartialEq, Eq)]
pub struct KeyLog {
    pub path: Arc<str>,
    /// Empty: whatever this side's address is.
    pub local: Vec<Cidr>,
    /// Empty: whoever the peer is.
    pub remote: Vec<Cidr>,
}

impl KeyLog {
    /// Opens the file, which is made where it is missing, to append to it. Never waits: a pipe must have its reader.
    pub fn open(path: &str) -> io::Result<File> {
        // Who reads it reads everything.
        OpenOptions::new().append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK).open(path)
    }
}

/// Where a certificate of a context is.
#[derive(Debug, PartialEq, Eq)]
pub enum CertificateSource {
    Inline(Arc<TlsCertificate>),
    Secret(SecretRef),
}

/// `SdsSecretConfig`: a secret, and where it is fetched. Two secrets of one name from two sources are two secrets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretRef {
    pub dependency: Dependency,
    /// What the secret is called in a [`ResourceSet`](crate::ResourceSet).
    pub key: Arc<str>,
}

impl SecretRef {
    #[must_use]
    pub fn new(dependency: Dependency) -> SecretRef {
        let key = secret_key(&dependency.name, &dependency.from);
        SecretRef { dependency, key }
    }
}

pub(crate) fn secret_key(name: &Arc<str>, from: &Source) -> Arc<str> {
    match from {
        Source::Ads => Arc::clone(name),
        other => Arc::from(format!("{name} of {other}")),
    }
}

/// `tls_params`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct TlsParams {
    pub versions: TlsVersions,
    /// For TLS 1.2; empty: all that we have. TLS 1.3 has its own, which are not configured (as in Envoy).
    pub cipher_suites: Vec<CipherSuite>,
    /// Empty: all that we have, X25519MLKEM768 first.
    pub curves: Vec<Curve>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TlsVersions {
    #[default]
    Both,
    Only12,
    Only13,
}

macro_rules! named {
    ($(#[$doc:meta])* $name:ident { $($variant:ident = $text:literal),* $(,)? }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum $name { $($variant),* }

        impl $name {
            pub const ALL: &[$name] = &[$($name::$variant),*];

            /// As Envoy (BoringSSL) calls it.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $($name::$variant => $text),* }
            }

            #[must_use]
            pub fn parse(text: &str) -> Option<$name> {
                $name::ALL.iter().copied().find(|known| known.name() == text)
            }
        }
    };
}

named! {
    /// Cipher suites of TLS 1.2.
    CipherSuite {
        EcdheEcdsaAes128 = "ECDHE-ECDSA-AES128-GCM-SHA256",
        EcdheEcdsaChacha20 = "ECDHE-ECDSA-CHACHA20-POLY1305",
        EcdheRsaAes128 = "ECDHE-RSA-AES128-GCM-SHA256",
        EcdheRsaChacha20 = "ECDHE-RSA-CHACHA20-POLY1305",
        EcdheEcdsaAes256 = "ECDHE-ECDSA-AES256-GCM-SHA384",
        EcdheRsaAes256 = "ECDHE-RSA-AES256-GCM-SHA384",
    }
}

named! {
    /// Groups for the key exchange.
    Curve {
        X25519MlKem768 = "X25519MLKEM768",
        X25519 = "X25519",
        P256 = "P-256",
        P384 = "P-384",
    }
}

/// A private key. Shows nothing of itself.
pub struct PrivateKey(PrivateKeyDer<'static>);

impl PrivateKey {
    #[must_use]
    pub const fn new(der: PrivateKeyDer<'static>) -> PrivateKey {
        PrivateKey(der)
    }

    /// For whoever signs.
    #[must_use]
    pub const fn der(&self) -> &PrivateKeyDer<'static> {
        &self.0
    }
}

impl fmt::Debug for PrivateKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl PartialEq for PrivateKey {
    fn eq(&self, other: &PrivateKey) -> bool {
        self.0.secret_der() == other.0.secret_der()
    }
}

impl Eq for PrivateKey {}

/// `TlsCertificate`: a chain, the leaf first, and the leaf's key.
#[derive(Debug, PartialEq, Eq)]
pub struct TlsCertificate {
    /// Never empty.
    pub chain: Vec<CertificateDer<'static>>,
    pub key: PrivateKey,
    /// The file that the chain was read from; empty where it stood in the configuration.
    pub path: Arc<str>,
    /// `ocsp_staple`.
    pub staple: Option<Staple>,
    /// The certificate says that it must not come without one (RFC 7633).
    pub must_staple: bool,
}

/// An OCSP response about a certificate, in DER.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Staple {
    pub response: Bytes,
    /// `nextUpdate`, in seconds of Unix time; one without it counts as expired (as in Envoy).
    pub expires: i64,
}

/// `CertificateValidationContext`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ValidationContext {
    /// Where it holds nothing, chains are not verified (as in Envoy).
    pub trust: Trust,
    pub crls: Vec<CertificateRevocationListDer<'static>>,
    pub only_verify_leaf_cert_crl: bool,
    /// One of them must match, if there are any.
    pub sans: Vec<SanMatcher>,
    /// SHA-256 of the leaf; one of these or of [`ValidationContext::spkis`] must match, if there are any.
    pub hashes: Vec<[u8; 32]>,
    /// SHA-256 of the leaf's public key.
    pub spkis: Vec<[u8; 32]>,
    pub allow_expired_certificate: bool,
    /// `trust_chain_verification: ACCEPT_UNTRUSTED`: whatever comes is let in, and counted as not validated.
    pub accept_untrusted: bool,
    /// The authorities aren't told to clients.
    pub suppress_client_ca_list: bool,
}

/// Whom a validation context trusts.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    #[default]
    Anybody,
    Bundle(Arc<Bundle>),
    /// `SPIFFECertValidatorConfig`: a bundle for each trust domain, by its name.
    Spiffe(Vec<TrustDomain>),
}

/// `trusted_ca`.
#[derive(Debug, PartialEq, Eq)]
pub struct Bundle {
    pub certificates: Vec<CertificateDer<'static>>,
    /// The file that it was read from, or empty.
    pub path: Arc<str>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TrustDomain {
    pub name: Arc<str>,
    pub bundle: Arc<Bundle>,
}

/// `SubjectAltNameMatcher`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SanMatcher {
    pub kind: SanKind,
    pub matcher: StringMatcher,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SanKind {
    /// Any of them: `match_subject_alt_names`, the older field.
    Any,
    Email,
    /// An exact matcher takes a wildcard of the certificate, as Envoy's does.
    Dns,
    Uri,
    Ip,
}

impl ValidationContext {
    /// A combined context: what the secret says, on top of the default (proto merge, as in Envoy).
    #[must_use]
    pub fn merged(&self, dynamic: &ValidationContext) -> ValidationContext {
        let joined = |a: &[[u8; 32]], b: &[[u8; 32]]| a.iter().chain(b).copied().collect();
        ValidationContext {
            trust: if dynamic.trust == Trust::Anybody { self.trust.clone() } else { dynamic.trust.clone() },
            crls: if dynamic.crls.is_empty() { self.crls.clone() } else { dynamic.crls.clone() },
            only_verify_leaf_cert_crl: self.only_verify_leaf_cert_crl || dynamic.only_verify_leaf_cert_crl,
            sans: self.sans.iter().chain(&dynamic.sans).cloned().collect(),
            hashes: joined(&self.hashes, &dynamic.hashes),
            spkis: joined(&self.spkis, &dynamic.spkis),
            allow_expired_certificate: self.allow_expired_certificate || dynamic.allow_expired_certificate,
            accept_untrusted: self.accept_untrusted || dynamic.accept_untrusted,
            suppress_client_ca_list: self.suppress_client_ca_list || dynamic.suppress_client_ca_list,
        }
    }

    /// Whether a certificate is asked of the peer's chain at all.
    #[must_use]
    pub fn verifies_chain(&self) -> bool {
        self.trust != Trust::Anybody
    }
}

/// A resource of SDS.
#[derive(Debug, PartialEq, Eq)]
pub struct Secret {
    pub name: Arc<str>,
    pub origin: Arc<Origin>,
    pub content: SecretContent,
}

#[derive(Debug, PartialEq, Eq)]
pub enum SecretContent {
    Certificate(Arc<TlsCertificate>),
    Validation(Arc<ValidationContext>),
    TicketKeys(Arc<TicketKeys>),
}

/// A context's certificates and validation, with what its secrets say now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ResolvedTls {
    pub certificates: Vec<Arc<TlsCertificate>>,
    /// `None`: the peer isn't looked at.
    pub validation: Option<Arc<ValidationContext>>,
    pub ticket_keys: Option<Arc<TicketKeys>>,
}

/// A secret that a context needs and doesn't have: connections are refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unresolved {
    #[error("the secret {0} is not there")]
    Missing(Arc<str>),
    #[error("the secret {0} is no certificate")]
    NoCertificate(Arc<str>),
    #[error("the secret {0} is no validation context")]
    NoValidation(Arc<str>),
    #[error("the secret {0} holds no ticket keys")]
    NoTicketKeys(Arc<str>),
}

impl TlsContext {
    /// The secrets that it names.
    pub fn secrets(&self) -> impl Iterator<Item = &SecretRef> {
        let certificates = self.certificates.iter().filter_map(|source| match source {
            CertificateSource::Secret(secret) => Some(secret),
            CertificateSource::Inline(_) => None,
        });
        let ticket_keys = self.ticket_keys.iter().filter_map(|source| match source {
            TicketKeySource::Secret(secret) => Some(secret),
            TicketKeySource::Inline(_) => None,
        });
        certificates.chain(&self.validation_secret).chain(ticket_keys)
    }

    /// Puts the secrets in; `lookup` finds one by its key.
    pub fn resolve<'a>(&self, lookup: impl Fn(&str) -> Option<&'a Arc<Secret>>) -> Result<ResolvedTls, Unresolved> {
        let find = |secret: &SecretRef| lookup(&secret.key).ok_or_else(|| Unresolved::Missing(Arc::clone(&secret.key)));
        let certificate = |source: &CertificateSource| match source {
            CertificateSource::Inline(certificate) => Ok(Arc::clone(certificate)),
            CertificateSource::Secret(secret) => match &find(secret)?.content {
                SecretContent::Certificate(certificate) => Ok(Arc::clone(certificate)),
                _ => Err(Unresolved::NoCertificate(Arc::clone(&secret.key))),
            },
        };
        let certificates = self.certificates.iter().map(certificate).collect::<Result<_, _>>()?;
        let dynamic = match &self.validation_secret {
            None => None,
            Some(secret) => match &find(secret)?.content {
                SecretContent::Validation(validation) => Some(validation),
                _ => return Err(Unresolved::NoValidation(Arc::clone(&secret.key))),
            },
        };
        let validation = match (&self.validation, dynamic) {
            (Some(default), Some(dynamic)) => Some(Arc::new(default.merged(dynamic))),
            (one, other) => one.as_ref().or(other).cloned(),
        };
        let ticket_keys = match &self.ticket_keys {
            None => None,
            Some(TicketKeySource::Inline(keys)) => Some(Arc::clone(keys)),
            Some(TicketKeySource::Secret(secret)) => match &find(secret)?.content {
                SecretContent::TicketKeys(keys) => Some(Arc::clone(keys)),
                _ => return Err(Unresolved::NoTicketKeys(Arc::clone(&secret.key))),
            },
        };
        Ok(ResolvedTls { certificates, validation, ticket_keys })
    }
}

impl DownstreamTransport {
    #[must_use]
    pub fn tls(&self) -> Option<&Arc<DownstreamTls>> {
        match self {
            DownstreamTransport::Raw => None,
            DownstreamTransport::Tls(tls) => Some(tls),
        }
    }
}

/// `transport_socket_connect_timeout` unless set: Envoy waits for ever, and a client that says nothing holds memory.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// `forward_client_cert_details`: what becomes of `x-forwarded-client-cert`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum ForwardClientCert {
    #[default]
    Sanitize,
    ForwardOnly,
    AppendForward,
    SanitizeSet,
    AlwaysForwardOnly,
}

/// `set_current_client_cert_details`: what is told of the client besides its `By` and `Hash`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ClientCertDetails {
    pub subject: bool,
    pub cert: bool,
    pub chain: bool,
    pub dns: bool,
    pub uri: bool,
}

#[cfg(test)]
mod tests;
