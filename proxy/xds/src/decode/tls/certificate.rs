//! `TlsCertificate`, and what PEM files hold.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use outrigger_config::{Bundle, PrivateKey, TlsCertificate};
use outrigger_proto::pb;
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use prost::Message;
use rustls::crypto::aws_lc_rs;
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::common::data_source;
use super::staple::{must_staple, staple};
use crate::Diagnostics;

/// No chain, key or bundle is longer; a bundle of all public authorities has some 250 kB.
pub(super) const PEM_BYTES_MAX: usize = 4 << 20;

/// Bytes of a source, and the file that they come from.
pub(super) fn source(
    proto: Option<&core::DataSource>,
    field: &'static str,
    d: &mut Diagnostics,
) -> Option<(Bytes, Arc<str>)> {
    d.at(field, |d| {
        let Some(proto) = proto else {
            d.error("is required");
            return None;
        };
        let path = file(proto).unwrap_or_default();
        Some((data_source(proto, PEM_BYTES_MAX, d)?, Arc::from(path)))
    })
}

fn file(source: &core::DataSource) -> Option<&str> {
    match &source.specifier {
        Some(core::data_source::Specifier::Filename(path)) => Some(path),
        _ => None,
    }
}

pub(super) fn certificate(proto: &tls::TlsCertificate, d: &mut Diagnostics) -> Option<TlsCertificate> {
    let chain = source(proto.certificate_chain.as_ref(), "certificate_chain", d);
    let key = source(proto.private_key.as_ref(), "private_key", d);
    let (chain, path) = chain?;
    let chain = d.at("certificate_chain", |d| {
        let chain = certificates(&chain, d)?;
        leaf_is_valid(&chain, d).then_some(chain)
    });
    let key = d.at("private_key", |d| private_key(&key?.0, d));
    let (chain, key) = (chain?, key?);
    let signer = match aws_lc_rs::sign::any_supported_type(&key) {
        Ok(signer) => signer,
        Err(_) => {
            d.at("private_key", |d| d.error("is of a kind that is not supported: RSA, ECDSA or Ed25519"));
            return None;
        }
    };
    if CertifiedKey::new(chain.clone(), signer).keys_match().is_err() {
        d.at("private_key", |d| d.error("is not the key of the certificate"));
        return None;
    }
    let must_staple = must_staple(&chain[0]);
    let staple = staple(proto, &chain[0], d)?;
    if must_staple && staple.is_none() {
        d.at("ocsp_staple", |d| d.error("is required: the certificate says that it must be stapled"));
        return None;
    }
    Some(TlsCertificate { chain, key: PrivateKey::new(key), path, staple, must_staple })
}

/// PKCS#8, SEC 1 or PKCS#1.
fn private_key(pem: &[u8], d: &mut Diagnostics) -> Option<PrivateKeyDer<'static>> {
    // The parser's errors may quote the text.
    let found = PrivateKeyDer::from_pem_slice(pem).ok();
    if found.is_none() {
        let is_encrypted = pem.windows(9).any(|window| window == b"ENCRYPTED");
        d.error(if is_encrypted { "is encrypted, which is not supported" } else { "holds no private key in PEM" });
    }
    found
}

/// All certificates of a PEM text; at least one, each well formed.
pub(super) fn certificates(pem: &[u8], d: &mut Diagnostics) -> Option<Vec<CertificateDer<'static>>> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let Ok(found) = found else {
        d.error("is no well-formed PEM");
        return None;
    };
    if found.is_empty() {
        d.error("holds no certificate in PEM");
        return None;
    }
    for (index, certificate) in found.iter().enumerate() {
        match X509Certificate::from_der(certificate) {
            Ok(([], _)) => {}
            _ => {
                d.error(format!("certificate {} is malformed", index + 1));
                return None;
            }
        }
    }
    Some(found)
}

/// Peers refuse an expired certificate: what serves now serves on.
fn leaf_is_valid(chain: &[CertificateDer<'_>], d: &mut Diagnostics) -> bool {
    let Some((_, leaf)) = chain.first().and_then(|leaf| X509Certificate::from_der(leaf).ok()) else { return false };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let now = i64::try_from(now).unwrap_or(i64::MAX);
    let validity = leaf.validity();
    if validity.not_after.timestamp() < now {
        d.error(format!("the certificate expired at {}", validity.not_after));
        return false;
    }
    if validity.not_before.timestamp() > now {
        d.warn(format!("the certificate is not valid before {}", validity.not_before));
    }
    true
}

pub(super) fn bundle(proto: &core::DataSource, field: &'static str, d: &mut Diagnostics) -> Option<Arc<Bundle>> {
    let (pem, path) = source(Some(proto), field, d)?;
    d.at(field, |d| authorities(&pem, path, d))
}

/// Certificates that chains may end at.
pub(super) fn authorities(pem: &[u8], path: Arc<str>, d: &mut Diagnostics) -> Option<Arc<Bundle>> {
    let certificates = certificates(pem, d)?;
    let mut roots = rustls::RootCertStore::empty();
    for (index, certificate) in certificates.iter().enumerate() {
        if roots.add(certificate.clone()).is_err() {
            d.error(format!("certificate {} can be no authority", index + 1));
            return None;
        }
    }
    Some(Arc::new(Bundle { certificates, path }))
}

/// The files that a secret's message names, each with the folder to watch for it: Envoy watches those of secrets, not
/// those of contexts.
pub(crate) fn files(secret: &[u8]) -> Vec<(Arc<str>, Arc<Path>)> {
    use tls::secret::Type;
    let Ok(secret) = tls::Secret::decode(secret) else { return Vec::new() };
    let (watched, sources) = match &secret.r#type {
        Some(Type::TlsCertificate(proto)) => {
            let sources = [&proto.certificate_chain, &proto.private_key, &proto.ocsp_staple];
            (&proto.watched_directory, sources.map(Option::as_ref).to_vec())
        }
        Some(Type::ValidationContext(proto)) => {
            (&proto.watched_directory, vec![proto.trusted_ca.as_ref(), proto.crl.as_ref()])
        }
        Some(Type::SessionTicketKeys(proto)) => (&None, proto.keys.iter().map(Some).collect()),
        _ => return Vec::new(),
    };
    let paths = sources.into_iter().flatten().filter_map(file);
    let folder = |path: &str| match watched {
        Some(folder) => Arc::from(Path::new(&folder.path)),
        None => {
            let parent = Path::new(path).parent().filter(|parent| !parent.as_os_str().is_empty());
            Arc::from(parent.unwrap_or(Path::new(".")))
        }
    };
    paths.map(|path| (Arc::from(path), folder(path))).collect()
}
