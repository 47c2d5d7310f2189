//! Transport sockets, and `Secret`.
//!
//! What can be wrong with a certificate, a key or a bundle is found here, and told by its field: never by its bytes.

mod certificate;
mod staple;
mod validation;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{
    CertificateSource, CipherSuite, Curve, Dependency, DownstreamTls, DownstreamTransport, KeyLog, Resource, Secret,
    SecretContent, SecretRef, Source, StaplePolicy, TicketKey, TicketKeySource, TicketKeys, TlsContext, TlsParams,
    TlsVersions, UpstreamTls, UpstreamTransport, ValidationContext,
};
use outrigger_proto::{pb, type_url};
use pb::envoy::config::core::v3 as core;
use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use pb::google::protobuf::Any;

use super::access_log::message;
use super::common::{cidrs, data_source, duration, flag, name, origin, secret_source, variant};
use super::{Rejection, XdsResource, proxy_protocol};
use crate::Diagnostics;

pub(crate) use certificate::files as certificate_files;

/// Suites that Envoy knows and rustls leaves out: RSA key exchange and CBC.
const OLD_SUITES: &[&str] = &[
    "ECDHE-ECDSA-AES128-SHA",
    "ECDHE-RSA-AES128-SHA",
    "ECDHE-ECDSA-AES256-SHA",
    "ECDHE-RSA-AES256-SHA",
    "ECDHE-ECDSA-AES128-SHA256",
    "ECDHE-RSA-AES128-SHA256",
    "ECDHE-ECDSA-AES256-SHA384",
    "ECDHE-RSA-AES256-SHA384",
    "AES128-GCM-SHA256",
    "AES256-GCM-SHA384",
    "AES128-SHA",
    "AES256-SHA",
    "DES-CBC3-SHA",
];
/// Curves that Envoy knows and we leave out.
const OLD_CURVES: &[&str] = &["P-521", "X25519Kyber768Draft00", "P-224"];
/// As many as any context needs.
const CERTIFICATES_MAX: usize = 64;
const TICKET_KEYS_MAX: usize = 64;
const TICKET_KEY_BYTES_MAX: usize = 4096;
/// BoringSSL's default.
const SESSION_TIMEOUT: Duration = Duration::from_secs(2 * 3600);

impl XdsResource for Secret {
    type Proto = tls::Secret;
    const TYPE_URL: &'static str = type_url::SECRET;

    fn name(proto: &Self::Proto) -> &str {
        &proto.name
    }

    fn validate(proto: Self::Proto, d: &mut Diagnostics) -> Result<Secret, Rejection> {
        use tls::secret::Type;
        let name = name(&proto.name, "name", d);
        let content = match &proto.r#type {
            Some(Type::TlsCertificate(proto)) => d
                .at("tls_certificate", |d| certificate::certificate(proto, d))
                .map(|certificate| SecretContent::Certificate(Arc::new(certificate))),
            Some(Type::ValidationContext(proto)) => d
                .at("validation_context", |d| validation::context(proto, d))
                .map(|validation| SecretContent::Validation(Arc::new(validation))),
            Some(Type::SessionTicketKeys(proto)) => {
                d.at("session_ticket_keys", |d| ticket_keys(proto, d)).map(SecretContent::TicketKeys)
            }
            Some(Type::GenericSecret(_)) => {
                d.at("generic_secret", |d| d.error("is not supported"));
                None
            }
            None => {
                d.error("holds no secret");
                None
            }
        };
        let origin = origin(&name, None, d);
        Ok(Secret { name, origin, content: content.ok_or(Rejection)? })
    }

    fn into_resource(self) -> Resource {
        Resource::Secret(Arc::new(self))
    }
}

/// A transport socket by its type; `None` for one that is none.
fn typed(socket: Option<&core::TransportSocket>) -> Option<(&str, Option<&Any>)> {
    use core::transport_socket::ConfigType;
    let socket = socket?;
    match &socket.config_type {
        Some(ConfigType::TypedConfig(config)) => Some((type_url::message_name(&config.type_url), Some(config))),
        None if socket.name == "envoy.transport_sockets.raw_buffer" => None,
        None => Some((&socket.name, None)),
    }
}

/// `FilterChain.transport_socket`.
pub(crate) fn downstream_transport(
    socket: Option<&core::TransportSocket>,
    d: &mut Diagnostics,
) -> Option<DownstreamTransport> {
    d.at("transport_socket", |d| match typed(socket) {
        None => Some(DownstreamTransport::Raw),
        Some((kind, _)) if kind == type_url::message_name(type_url::RAW_BUFFER) => Some(DownstreamTransport::Raw),
        Some((kind, Some(config))) if kind == type_url::message_name(type_url::DOWNSTREAM_TLS_CONTEXT) => {
            d.at("typed_config", |d| {
                let proto: tls::DownstreamTlsContext = message(config, d)?;
                downstream(&proto, d).map(|tls| DownstreamTransport::Tls(Arc::new(tls)))
            })
        }
        Some((kind, _)) => {
            d.error(format!("{kind} is not supported, only DownstreamTlsContext and raw_buffer"));
            None
        }
    })
}

/// The transport socket of a cluster, or one of its matches.
pub(crate) fn upstream_transport(
    socket: Option<&core::TransportSocket>,
    d: &mut Diagnostics,
) -> Option<UpstreamTransport> {
    d.at("transport_socket", |d| match typed(socket) {
        None => Some(UpstreamTransport::default()),
        Some((kind, _)) if kind == type_url::message_name(type_url::RAW_BUFFER) => Some(UpstreamTransport::default()),
        Some((kind, Some(config))) if kind == type_url::message_name(type_url::UPSTREAM_TLS_CONTEXT) => {
            d.at("typed_config", |d| {
                let proto: tls::UpstreamTlsContext = message(config, d)?;
                upstream(&proto, d)
                    .map(|tls| UpstreamTransport { tls: Some(Arc::new(tls)), ..UpstreamTransport::default() })
            })
        }
        Some((kind, Some(config))) if kind == type_url::message_name(type_url::UPSTREAM_PROXY_PROTOCOL) => {
            d.at("typed_config", |d| proxy_protocol::upstream(&message(config, d)?, d))
        }
        Some((kind, _)) => {
            d.error(format!(
                "{kind} is not supported, only UpstreamTlsContext, ProxyProtocolUpstreamTransport and raw_buffer"
            ));
            None
        }
    })
}

fn downstream(proto: &tls::DownstreamTlsContext, d: &mut Diagnostics) -> Option<DownstreamTls> {
    use tls::downstream_tls_context::{OcspStaplePolicy as Policy, SessionTicketKeysType as Tickets};
    let none = tls::CommonTlsContext::default();
    let common = proto.common_tls_context.as_ref().unwrap_or(&none);
    let mut context = d.at("common_tls_context", |d| {
        if common.tls_certificates.is_empty() && common.tls_certificate_sds_secret_configs.is_empty() {
            d.error("has no certificate for the server: tls_certificates or tls_certificate_sds_secret_configs");
        }
        context(common, d)
    })?;
    let require_client_certificate = flag(proto.require_client_certificate, false);
    let verifies =
        context.validation_secret.is_some() || context.validation.as_ref().is_some_and(|v| v.verifies_chain());
    if require_client_certificate && !verifies {
        d.at("require_client_certificate", |d| d.warn("without a trusted_ca any certificate will do, as in Envoy"));
    }
    let mut stateless_resumption = true;
    match &proto.session_ticket_keys_type {
        None => {}
        Some(Tickets::DisableStatelessSessionResumption(disable)) => stateless_resumption = !disable,
        Some(Tickets::SessionTicketKeys(keys)) => {
            let keys = d.at("session_ticket_keys", |d| ticket_keys(keys, d))?;
            context.ticket_keys = Some(TicketKeySource::Inline(keys));
        }
        Some(Tickets::SessionTicketKeysSdsSecretConfig(proto)) => {
            let keys = d.at("session_ticket_keys_sds_secret_config", |d| secret(proto, d))?;
            context.ticket_keys = Some(TicketKeySource::Secret(keys));
        }
    }
    let staple_policy = match variant(proto.ocsp_staple_policy, "ocsp_staple_policy", d)? {
        Policy::LenientStapling => StaplePolicy::Lenient,
        Policy::StrictStapling => StaplePolicy::Strict,
        Policy::MustStaple => StaplePolicy::Must,
    };
    if staple_policy == StaplePolicy::Must {
        let lacks = |source: &CertificateSource| matches!(source, CertificateSource::Inline(it) if it.staple.is_none());
        if context.certificates.iter().any(lacks) {
            d.at("ocsp_staple_policy", |d| d.error("MUST_STAPLE needs an ocsp_staple in each certificate"));
        }
    }
    let session_timeout = duration(proto.session_timeout.as_ref(), "session_timeout", d);
    Some(DownstreamTls {
        context,
        require_client_certificate,
        require_sni: flag(proto.require_sni, false),
        full_scan: flag(proto.full_scan_certs_on_sni_mismatch, false),
        stateless_resumption,
        stateful_resumption: !proto.disable_stateful_session_resumption,
        prefer_client_ciphers: proto.prefer_client_ciphers,
        staple_policy,
        session_timeout: session_timeout.unwrap_or(SESSION_TIMEOUT),
    })
}

fn upstream(proto: &tls::UpstreamTlsContext, d: &mut Diagnostics) -> Option<UpstreamTls> {
    let none = tls::CommonTlsContext::default();
    let common = proto.common_tls_context.as_ref().unwrap_or(&none);
    let context = d.at("common_tls_context", |d| {
        if common.tls_certificates.len() + common.tls_certificate_sds_secret_configs.len() > 1 {
            d.error("has several certificates: a client has one");
        }
        context(common, d)
    })?;
    let verifies = context.validation_secret.is_some() || context.validation.is_some();
    if !verifies {
        d.at("common_tls_context", |d| d.warn("without a validation_context any server will do, as in Envoy"));
    }
    if !proto.sni.is_empty() && !is_host_name(&proto.sni) {
        d.at("sni", |d| d.error(format!("{:?} is no DNS name", proto.sni)));
    }
    if proto.auto_sni_san_validation && proto.sni.is_empty() && !proto.auto_host_sni {
        // The name may also come of the request, by auto_sni.
        d.at("auto_sni_san_validation", |d| d.warn("validates nothing where no server name is sent"));
    }
    Some(UpstreamTls {
        context,
        sni: Arc::from(proto.sni.to_ascii_lowercase()),
        auto_host_sni: proto.auto_host_sni,
        auto_sni_san_validation: proto.auto_sni_san_validation,
        max_session_keys: proto.max_session_keys.map_or(1, |max| max.value),
    })
}

/// A name that can stand in a server name extension.
pub(crate) fn is_host_name(name: &str) -> bool {
    matches!(rustls_pki_types::ServerName::try_from(name), Ok(rustls_pki_types::ServerName::DnsName(_)))
}

fn context(proto: &tls::CommonTlsContext, d: &mut Diagnostics) -> Option<TlsContext> {
    use tls::common_tls_context::ValidationContextType as Validation;
    let params = d.at("tls_params", |d| params(proto.tls_params.as_ref(), d));
    let mut certificates: Vec<Option<CertificateSource>> = Vec::new();
    if proto.tls_certificates.len() + proto.tls_certificate_sds_secret_configs.len() > CERTIFICATES_MAX {
        d.error(format!("has more than {CERTIFICATES_MAX} certificates"));
        return None;
    }
    for (index, proto) in proto.tls_certificates.iter().enumerate() {
        let found = d.at_index("tls_certificates", index, |d| certificate::certificate(proto, d));
        certificates.push(found.map(|certificate| CertificateSource::Inline(Arc::new(certificate))));
    }
    for (index, proto) in proto.tls_certificate_sds_secret_configs.iter().enumerate() {
        let found = d.at_index("tls_certificate_sds_secret_configs", index, |d| secret(proto, d));
        certificates.push(found.map(CertificateSource::Secret));
    }
    let inline = |field, proto: &tls::CertificateValidationContext, d: &mut Diagnostics| {
        d.at(field, |d| validation::context(proto, d)).map(Arc::new)
    };
    let (validation, validation_secret): (Option<Option<Arc<ValidationContext>>>, Option<Option<SecretRef>>) =
        match &proto.validation_context_type {
            None => (None, None),
            Some(Validation::ValidationContext(proto)) => (Some(inline("validation_context", proto, d)), None),
            Some(Validation::ValidationContextSdsSecretConfig(proto)) => {
                (None, Some(d.at("validation_context_sds_secret_config", |d| secret(proto, d))))
            }
            Some(Validation::CombinedValidationContext(proto)) => d.at("combined_validation_context", |d| {
                let default = proto.default_validation_context.clone().unwrap_or_default();
                // What it lacks may be in the secret.
                let default = d.at("default_validation_context", |d| validation::partial(&default, d)).map(Arc::new);
                let dynamic = proto.validation_context_sds_secret_config.as_ref();
                let dynamic = d.at("validation_context_sds_secret_config", |d| match dynamic {
                    Some(dynamic) => secret(dynamic, d),
                    None => {
                        d.error("is required");
                        None
                    }
                });
                (Some(default), Some(dynamic))
            }),
            // The audit says so.
            Some(_) => (None, None),
        };
    for (index, protocol) in proto.alpn_protocols.iter().enumerate() {
        if protocol.is_empty() || protocol.len() > 255 {
            d.at_index("alpn_protocols", index, |d| d.error("is empty or longer than 255 bytes"));
        }
    }
    Some(TlsContext {
        params: params?,
        certificates: certificates.into_iter().collect::<Option<_>>()?,
        validation: validation.map_or(Some(None), |found| found.map(Some))?,
        validation_secret: validation_secret.map_or(Some(None), |found| found.map(Some))?,
        alpn: proto.alpn_protocols.iter().map(|text| Bytes::copy_from_slice(text.as_bytes())).collect(),
        ticket_keys: None,
        key_log: proto.key_log.as_ref().and_then(|log| d.at("key_log", |d| key_log(log, d))).map(Arc::new),
    })
}

/// `TlsKeyLog`; without a path nothing is logged, as in Envoy.
fn key_log(proto: &tls::TlsKeyLog, d: &mut Diagnostics) -> Option<KeyLog> {
    let local = cidrs(&proto.local_address_range, "local_address_range", d);
    let remote = cidrs(&proto.remote_address_range, "remote_address_range", d);
    if proto.path.is_empty() {
        d.at("path", |d| d.error("is required"));
        return None;
    }
    if let Err(error) = KeyLog::open(&proto.path) {
        d.at("path", |d| d.error(format!("{} cannot be opened: {error}", proto.path)));
        return None;
    }
    Some(KeyLog { path: proto.path.as_str().into(), local, remote })
}

/// `TlsSessionTicketKeys`, of which nothing is told but what is wrong with their number and length.
fn ticket_keys(proto: &tls::TlsSessionTicketKeys, d: &mut Diagnostics) -> Option<Arc<TicketKeys>> {
    if proto.keys.is_empty() || proto.keys.len() > TICKET_KEYS_MAX {
        d.at("keys", |d| d.error(format!("{} keys are not between 1 and {TICKET_KEYS_MAX}", proto.keys.len())));
        return None;
    }
    let keys = proto.keys.iter().enumerate().map(|(index, source)| {
        d.at_index("keys", index, |d| {
            let bytes = data_source(source, TICKET_KEY_BYTES_MAX, d)?;
            let key = TicketKey::parse(&bytes);
            if key.is_none() {
                d.error(format!("has {} bytes, not 80", bytes.len()));
            }
            key
        })
    });
    // All of them, so that every problem is told.
    let keys = keys.collect::<Vec<_>>().into_iter().collect::<Option<Vec<_>>>()?;
    Some(Arc::new(TicketKeys { keys }))
}

/// `SdsSecretConfig`; without a source it is one of `static_resources`.
fn secret(proto: &tls::SdsSecretConfig, d: &mut Diagnostics) -> Option<SecretRef> {
    let name = name(&proto.name, "name", d);
    let (from, initial_fetch_timeout) = match &proto.sds_config {
        None => (Source::Static, None),
        Some(config) => d.at("sds_config", |d| secret_source(config, d))?,
    };
    Some(SecretRef::new(Dependency { name, from, initial_fetch_timeout }))
}

fn params(proto: Option<&tls::TlsParameters>, d: &mut Diagnostics) -> Option<TlsParams> {
    let Some(proto) = proto else { return Some(TlsParams::default()) };
    let versions = versions(proto, d);
    let mut cipher_suites = Vec::new();
    for (index, entry) in proto.cipher_suites.iter().enumerate() {
        // `[A|B]`: of equal rank.
        for name in entry.trim_start_matches('[').trim_end_matches(']').split('|') {
            let known = CipherSuite::parse(name);
            named(known, name, OLD_SUITES, ("cipher_suites", index), &mut cipher_suites, d);
        }
    }
    if !proto.cipher_suites.is_empty() && cipher_suites.is_empty() {
        d.at("cipher_suites", |d| d.error("names no cipher suite that is supported"));
    }
    let mut curves = Vec::new();
    for (index, name) in proto.ecdh_curves.iter().enumerate() {
        named(Curve::parse(name), name, OLD_CURVES, ("ecdh_curves", index), &mut curves, d);
    }
    if !proto.ecdh_curves.is_empty() && curves.is_empty() {
        d.at("ecdh_curves", |d| d.error("names no curve that is supported"));
    }
    Some(TlsParams { versions: versions?, cipher_suites, curves })
}

/// One that we leave out only narrows who can connect, as long as there is another.
fn named<T: PartialEq>(
    known: Option<T>,
    name: &str,
    old: &[&str],
    (field, index): (&'static str, usize),
    found: &mut Vec<T>,
    d: &mut Diagnostics,
) {
    match known {
        Some(known) if !found.contains(&known) => found.push(known),
        Some(_) => {}
        None if old.contains(&name) => d.at_index(field, index, |d| d.warn(format!("{name} is left out"))),
        None => d.at_index(field, index, |d| d.error(format!("{name:?} is not supported"))),
    }
}

fn versions(proto: &tls::TlsParameters, d: &mut Diagnostics) -> Option<TlsVersions> {
    use tls::tls_parameters::TlsProtocol as P;
    let min = variant(proto.tls_minimum_protocol_version, "tls_minimum_protocol_version", d)?;
    let max = variant(proto.tls_maximum_protocol_version, "tls_maximum_protocol_version", d)?;
    if matches!(min, P::TlSv10 | P::TlSv11) {
        d.at("tls_minimum_protocol_version", |d| d.warn("TLS 1.2 is the lowest version"));
    }
    match (min, max) {
        (_, P::TlSv10 | P::TlSv11) => {
            d.at("tls_maximum_protocol_version", |d| d.error("is below TLS 1.2, the lowest version"));
            None
        }
        (P::TlSv13, P::TlSv12) => {
            d.at("tls_minimum_protocol_version", |d| d.error("is above tls_maximum_protocol_version"));
            None
        }
        (P::TlSv13, _) => Some(TlsVersions::Only13),
        (_, P::TlSv12) => Some(TlsVersions::Only12),
        _ => Some(TlsVersions::Both),
    }
}

#[cfg(test)]
mod tests;
