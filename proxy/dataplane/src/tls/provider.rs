//! The cryptography of a context: aws-lc-rs with the suites and curves that are asked for.

use std::sync::Arc;

use outrigger_config::{CipherSuite, Curve, TlsParams, TlsVersions};
use rustls::crypto::aws_lc_rs::{self, cipher_suite, kx_group};
use rustls::crypto::{CryptoProvider, SupportedKxGroup};
use rustls::{SupportedCipherSuite, SupportedProtocolVersion};

static ONLY_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

/// In the order of the parameters.
pub(super) fn provider(params: &TlsParams) -> Arc<CryptoProvider> {
    let mut provider = aws_lc_rs::default_provider();
    if !params.cipher_suites.is_empty() {
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.extend(params.cipher_suites.iter().map(|suite| suite_of(*suite)));
    }
    if !params.curves.is_empty() {
        provider.kx_groups = params.curves.iter().map(|curve| group_of(*curve)).collect();
    }
    Arc::new(provider)
}

pub(super) fn versions(params: &TlsParams) -> &'static [&'static SupportedProtocolVersion] {
    match params.versions {
        TlsVersions::Both => rustls::ALL_VERSIONS,
        TlsVersions::Only12 => ONLY_12,
        TlsVersions::Only13 => ONLY_13,
    }
}

fn suite_of(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::EcdheEcdsaAes128 => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128 => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheEcdsaAes256 => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaAes256 => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    }
}

fn group_of(curve: Curve) -> &'static dyn SupportedKxGroup {
    match curve {
        Curve::X25519MlKem768 => kx_group::X25519MLKEM768,
        Curve::X25519 => kx_group::X25519,
        Curve::P256 => kx_group::SECP256R1,
        Curve::P384 => kx_group::SECP384R1,
    }
}

/// A suite as Envoy (BoringSSL) calls it.
pub(super) fn suite_name(suite: rustls::CipherSuite) -> &'static str {
    use rustls::CipherSuite as S;
    match suite {
        S::TLS13_AES_128_GCM_SHA256 => "TLS_AES_128_GCM_SHA256",
        S::TLS13_AES_256_GCM_SHA384 => "TLS_AES_256_GCM_SHA384",
        S::TLS13_CHACHA20_POLY1305_SHA256 => "TLS_CHACHA20_POLY1305_SHA256",
        other => {
            let known = CipherSuite::ALL.iter().find(|suite| suite_of(**suite).suite() == other);
            known.map_or("unknown", |suite| suite.name())
        }
    }
}

pub(super) fn version_name(version: Option<rustls::ProtocolVersion>) -> &'static str {
    match version {
        Some(rustls::ProtocolVersion::TLSv1_3) => "TLSv1.3",
        Some(rustls::ProtocolVersion::TLSv1_2) => "TLSv1.2",
        _ => "unknown",
    }
}

pub(super) fn curve_name(group: rustls::NamedGroup) -> &'static str {
    use rustls::NamedGroup as G;
    match group {
        G::X25519MLKEM768 => "X25519MLKEM768",
        G::X25519 => "X25519",
        G::secp256r1 => "P-256",
        G::secp384r1 => "P-384",
        _ => "unknown",
    }
}
