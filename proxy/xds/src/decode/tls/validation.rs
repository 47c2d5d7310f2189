//! `CertificateValidationContext`.

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use outrigger_config::{Bundle, SanKind, SanMatcher, Trust, TrustDomain, ValidationContext};
use outrigger_proto::{pb, type_url};
use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use rustls::client::WebPkiServerVerifier;
use rustls::crypto::aws_lc_rs;
use rustls_pki_types::CertificateRevocationListDer;
use rustls_pki_types::pem::PemObject;

use super::super::access_log::message;
use super::super::common::variant;
use super::super::matcher;
use super::certificate::{authorities, bundle, source};
use crate::Diagnostics;

const SPIFFE: &str = "envoy.extensions.transport_sockets.tls.v3.SPIFFECertValidatorConfig";
/// Where systems keep the public authorities.
const SYSTEM_ROOTS: &[&str] = &[
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/cert.pem",
];
const TRUST_DOMAINS_MAX: usize = 1024;

/// One that stands for itself.
pub(super) fn context(proto: &tls::CertificateValidationContext, d: &mut Diagnostics) -> Option<ValidationContext> {
    let context = partial(proto, d)?;
    if context.trust == Trust::Anybody {
        // Names in a certificate that anybody could have made say nothing.
        if !context.sans.is_empty() {
            d.at("match_typed_subject_alt_names", |d| d.error("without trusted_ca is insecure, and not allowed"));
        }
        if !context.crls.is_empty() {
            d.at("crl", |d| d.error("needs trusted_ca"));
        }
        if context.allow_expired_certificate {
            d.at("allow_expired_certificate", |d| d.error("needs trusted_ca"));
        }
    }
    Some(context)
}

/// One that a secret completes.
pub(super) fn partial(proto: &tls::CertificateValidationContext, d: &mut Diagnostics) -> Option<ValidationContext> {
    use tls::certificate_validation_context::TrustChainVerification;
    let before = d.errors().len();
    let trust = trust(proto, d);
    let crls = crls(proto, trust.as_ref(), d);
    let sans = sans(proto, d);
    let hashes = digests(&proto.verify_certificate_hash, "verify_certificate_hash", d, hex_digest);
    let spkis = digests(&proto.verify_certificate_spki, "verify_certificate_spki", d, |text| {
        STANDARD.decode(text).ok()?.try_into().ok()
    });
    let verification = variant(proto.trust_chain_verification, "trust_chain_verification", d);
    let accept_untrusted = verification == Some(TrustChainVerification::AcceptUntrusted);
    if accept_untrusted {
        d.at("trust_chain_verification", |d| d.warn("ACCEPT_UNTRUSTED lets any certificate in"));
    }
    if d.errors().len() > before {
        return None;
    }
    Some(ValidationContext {
        trust: trust?,
        crls: crls?,
        only_verify_leaf_cert_crl: proto.only_verify_leaf_cert_crl,
        sans,
        hashes,
        spkis,
        allow_expired_certificate: proto.allow_expired_certificate,
        accept_untrusted,
        suppress_client_ca_list: proto.suppress_client_ca_list,
    })
}

fn trust(proto: &tls::CertificateValidationContext, d: &mut Diagnostics) -> Option<Trust> {
    if let Some(custom) = &proto.custom_validator_config {
        if proto.trusted_ca.is_some() {
            d.at("trusted_ca", |d| d.warn("has no effect beside custom_validator_config"));
        }
        return d.at("custom_validator_config", |d| d.at("typed_config", |d| spiffe(custom.typed_config.as_ref(), d)));
    }
    match (&proto.trusted_ca, proto.system_root_certs.is_some()) {
        (Some(ca), beside) => {
            if beside {
                d.at("system_root_certs", |d| d.warn("has no effect beside trusted_ca"));
            }
            bundle(ca, "trusted_ca", d).map(Trust::Bundle)
        }
        (None, true) => d.at("system_root_certs", system_roots).map(Trust::Bundle),
        (None, false) => Some(Trust::Anybody),
    }
}

fn system_roots(d: &mut Diagnostics) -> Option<Arc<Bundle>> {
    for path in SYSTEM_ROOTS {
        if let Ok(pem) = std::fs::read(path) {
            return authorities(&pem, Arc::from(*path), d);
        }
    }
    d.error("this system has no bundle of authorities in a known place");
    None
}

fn spiffe(config: Option<&pb::google::protobuf::Any>, d: &mut Diagnostics) -> Option<Trust> {
    let kind = config.map(|config| type_url::message_name(&config.type_url)).unwrap_or_default();
    let Some(config) = config.filter(|_| kind == SPIFFE) else {
        d.error(format!("type {kind} is not supported, only {SPIFFE}"));
        return None;
    };
    let proto: tls::SpiffeCertValidatorConfig = message(config, d)?;
    if proto.trust_domains.is_empty() || proto.trust_domains.len() > TRUST_DOMAINS_MAX {
        d.at("trust_domains", |d| d.error(format!("are required, at most {TRUST_DOMAINS_MAX}")));
        return None;
    }
    let mut domains: Vec<TrustDomain> = Vec::with_capacity(proto.trust_domains.len());
    for (index, domain) in proto.trust_domains.iter().enumerate() {
        d.at_index("trust_domains", index, |d| {
            if domain.name.is_empty() || domains.iter().any(|known| *known.name == domain.name) {
                d.at("name", |d| d.error("is empty, or stands here twice"));
            }
            let Some(source) = &domain.trust_bundle else {
                d.at("trust_bundle", |d| d.error("is required"));
                return;
            };
            if let Some(bundle) = bundle(source, "trust_bundle", d) {
                domains.push(TrustDomain { name: Arc::from(domain.name.as_str()), bundle });
            }
        });
    }
    Some(Trust::Spiffe(domains))
}

fn crls(
    proto: &tls::CertificateValidationContext,
    trust: Option<&Trust>,
    d: &mut Diagnostics,
) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let Some(crl) = &proto.crl else { return Some(Vec::new()) };
    let (pem, _) = source(Some(crl), "crl", d)?;
    d.at("crl", |d| {
        let found: Result<Vec<_>, _> = CertificateRevocationListDer::pem_slice_iter(&pem).collect();
        let found = found.unwrap_or_default();
        if found.is_empty() {
            d.error("holds no revocation list in PEM");
            return None;
        }
        if let Some(Trust::Bundle(bundle)) = trust {
            let mut roots = rustls::RootCertStore::empty();
            roots.add_parsable_certificates(bundle.certificates.iter().cloned());
            let provider = Arc::new(aws_lc_rs::default_provider());
            let builder = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider);
            if builder.with_crls(found.iter().cloned()).build().is_err() {
                d.error("holds a revocation list that is malformed");
                return None;
            }
        }
        Some(found)
    })
}

fn sans(proto: &tls::CertificateValidationContext, d: &mut Diagnostics) -> Vec<SanMatcher> {
    use tls::subject_alt_name_matcher::SanType;
    let mut found = Vec::new();
    for (index, san) in proto.match_typed_subject_alt_names.iter().enumerate() {
        d.at_index("match_typed_subject_alt_names", index, |d| {
            let kind = match variant(san.san_type, "san_type", d) {
                Some(SanType::Email) => SanKind::Email,
                Some(SanType::Dns) => SanKind::Dns,
                Some(SanType::Uri) => SanKind::Uri,
                Some(SanType::IpAddress) => SanKind::Ip,
                Some(SanType::OtherName) => return d.at("san_type", |d| d.error("OTHER_NAME is not supported")),
                Some(SanType::Unspecified) => return d.at("san_type", |d| d.error("is required")),
                None => return,
            };
            let Some(proto) = &san.matcher else { return d.at("matcher", |d| d.error("is required")) };
            if let Some(matcher) = d.at("matcher", |d| matcher::string(proto, d)) {
                found.push(SanMatcher { kind, matcher });
            }
        });
    }
    #[expect(deprecated, reason = "still in use")]
    let older = &proto.match_subject_alt_names;
    for (index, proto) in older.iter().enumerate() {
        if let Some(matcher) = d.at_index("match_subject_alt_names", index, |d| matcher::string(proto, d)) {
            found.push(SanMatcher { kind: SanKind::Any, matcher });
        }
    }
    found
}

fn digests(
    texts: &[String],
    field: &'static str,
    d: &mut Diagnostics,
    parse: impl Fn(&str) -> Option<[u8; 32]>,
) -> Vec<[u8; 32]> {
    let mut found = Vec::with_capacity(texts.len());
    for (index, text) in texts.iter().enumerate() {
        match parse(text) {
            Some(digest) => found.push(digest),
            None => d.at_index(field, index, |d| d.error("is no SHA-256 digest")),
        }
    }
    found
}

/// Hexadecimal, with or without colons.
fn hex_digest(text: &str) -> Option<[u8; 32]> {
    let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b':').collect();
    if digits.len() != 64 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(digits.chunks(2)) {
        *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
    }
    Some(digest)
}
