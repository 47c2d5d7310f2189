//! Whether a peer is who it should be: its chain, names and digests, as `CertificateValidationContext` says.

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use outrigger_config::{Bundle, Trust, ValidationContext};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature};
use rustls::server::WebPkiClientVerifier;
use rustls::server::danger::{ClientCertVerified, ClientCertVerifier};
use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, OtherError, RootCertStore, SignatureScheme,
};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};

use super::ContextError;
use super::certificate;

/// Why a peer's certificate is not taken, where its chain is in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Mismatch {
    #[error("no subject alternative name of the certificate matches")]
    San,
    #[error("the certificate's digest is none of the expected ones")]
    Hash,
    #[error("the certificate is no identity of a known trust domain")]
    TrustDomain,
}

impl From<Mismatch> for Error {
    fn from(mismatch: Mismatch) -> Error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(mismatch))))
    }
}

/// What a handshake error says of a mismatch.
pub(super) fn mismatch(error: &Error) -> Option<Mismatch> {
    match error {
        Error::InvalidCertificate(CertificateError::Other(OtherError(source))) => source.downcast_ref().copied(),
        _ => None,
    }
}

/// Which end the peer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Peer {
    Client,
    Server,
}

/// The verifier of a context, for peers of either kind.
#[derive(Debug, Clone)]
pub(super) struct Verifier {
    /// `None`: any certificate will do.
    validation: Option<Arc<ValidationContext>>,
    trust: Authorities,
    algorithms: WebPkiSupportedAlgorithms,
    hints: Vec<DistinguishedName>,
    /// Of a client: it must show one.
    required: bool,
    /// Of a server: a DNS SAN must be the name that it was asked for.
    san_is_server_name: bool,
    /// Of a server: this must be a SAN.
    wanted: Option<String>,
}

#[derive(Debug, Clone)]
enum Authorities {
    Anybody,
    One(Arc<Chains>),
    ByTrustDomain(Arc<[(Arc<str>, Chains)]>),
}

/// Verifies chains up to one bundle.
struct Chains {
    client: Arc<dyn ClientCertVerifier>,
    server: Arc<WebPkiServerVerifier>,
    /// Leaves that are trusted by themselves (OpenSSL: partial chains). None where certificates can be revoked.
    pinned: HashSet<[u8; 32]>,
}

impl fmt::Debug for Chains {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Chains")
    }
}

impl Verifier {
    pub(super) fn new(
        validation: Option<&Arc<ValidationContext>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, ContextError> {
        // A default that a secret should have completed, and didn't: names that anybody can claim prove nothing.
        let is_empty = |v: &ValidationContext| v.sans.is_empty() && v.crls.is_empty() && !v.allow_expired_certificate;
        if validation.is_some_and(|validation| !validation.verifies_chain() && !is_empty(validation)) {
            return Err(ContextError::Trust);
        }
        let trust = match validation.map(|validation| (validation, &validation.trust)) {
            None | Some((_, Trust::Anybody)) => Authorities::Anybody,
            Some((validation, Trust::Bundle(bundle))) => {
                Authorities::One(Arc::new(Chains::new(bundle, validation, provider)?))
            }
            Some((validation, Trust::Spiffe(domains))) => {
                let chains = domains
                    .iter()
                    .map(|domain| Ok((Arc::clone(&domain.name), Chains::new(&domain.bundle, validation, provider)?)));
                Authorities::ByTrustDomain(chains.collect::<Result<_, ContextError>>()?)
            }
        };
        let hints = match validation {
            Some(validation) if !validation.suppress_client_ca_list => match &validation.trust {
                Trust::Bundle(bundle) => roots(bundle)?.subjects(),
                Trust::Anybody | Trust::Spiffe(_) => Vec::new(),
            },
            _ => Vec::new(),
        };
        let algorithms = provider.signature_verification_algorithms;
        let validation = validation.cloned();
        Ok(Verifier { validation, trust, algorithms, hints, required: false, san_is_server_name: false, wanted: None })
    }

    pub(super) fn required(self, required: bool) -> Verifier {
        Verifier { required, ..self }
    }

    pub(super) fn san_is_server_name(self, san_is_server_name: bool) -> Verifier {
        Verifier { san_is_server_name, ..self }
    }

    pub(super) fn wanted(self, wanted: Option<String>) -> Verifier {
        Verifier { wanted, ..self }
    }

    /// Whether what passes was really verified.
    pub(super) fn validates(&self) -> bool {
        self.validation.as_ref().is_some_and(|validation| {
            let asked = validation.verifies_chain() || !validation.hashes.is_empty() || !validation.spkis.is_empty();
            asked && !validation.accept_untrusted
        })
    }

    fn verify(
        &self,
        peer: Peer,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        server_name: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let outcome = self.judge(peer, leaf, chain, server_name, now);
        match outcome {
            Err(error) if self.validation.as_ref().is_some_and(|validation| validation.accept_untrusted) => {
                tracing::debug!("an untrusted certificate is accepted: {error}");
                Ok(())
            }
            outcome => outcome,
        }
    }

    fn judge(
        &self,
        peer: Peer,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        server_name: Option<&ServerName<'_>>,
        now: UnixTime,
    ) -> Result<(), Error> {
        let Some(validation) = &self.validation else { return self.judge_server_name(leaf, server_name) };
        let chains = match &self.trust {
            Authorities::Anybody => None,
            Authorities::One(chains) => Some(&**chains),
            Authorities::ByTrustDomain(domains) => {
                let domain = certificate::trust_domain(leaf).ok_or(Mismatch::TrustDomain)?;
                let found = domains.iter().find(|(name, _)| **name == *domain);
                Some(&found.ok_or(Mismatch::TrustDomain)?.1)
            }
        };
        if let Some(chains) = chains {
            chains.verify(peer, leaf, chain, now, validation.allow_expired_certificate)?;
        }
        if !validation.sans.is_empty() && !certificate::any_san_matches(leaf, &validation.sans) {
            return Err(Mismatch::San.into());
        }
        let pinned = !validation.hashes.is_empty() || !validation.spkis.is_empty();
        if pinned {
            let by_hash = validation.hashes.contains(&certificate::sha256(leaf));
            let by_spki = || certificate::spki_digest(leaf).is_some_and(|digest| validation.spkis.contains(&digest));
            if !by_hash && !by_spki() {
                return Err(Mismatch::Hash.into());
            }
        }
        self.judge_server_name(leaf, server_name)
    }

    fn judge_server_name(&self, leaf: &CertificateDer<'_>, server_name: Option<&ServerName<'_>>) -> Result<(), Error> {
        if self.wanted.as_ref().is_some_and(|wanted| !certificate::dns_san_is(leaf, wanted)) {
            return Err(Mismatch::San.into());
        }
        match server_name {
            Some(name @ ServerName::DnsName(_))
                if self.san_is_server_name && !certificate::dns_san_is(leaf, &name.to_str()) =>
            {
                Err(Mismatch::San.into())
            }
            _ => Ok(()),
        }
    }
}

fn roots(bundle: &Bundle) -> Result<RootCertStore, ContextError> {
    let mut roots = RootCertStore::empty();
    for certificate in &bundle.certificates {
        roots.add(certificate.clone()).map_err(|_| ContextError::Trust)?;
    }
    Ok(roots)
}

impl Chains {
    fn new(
        bundle: &Bundle,
        validation: &ValidationContext,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Chains, ContextError> {
        let roots = Arc::new(roots(bundle)?);
        let crls = || validation.crls.iter().cloned();
        let mut client = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone()).with_crls(crls());
        let mut server = WebPkiServerVerifier::builder_with_provider(roots, provider.clone()).with_crls(crls());
        // A list that should have been replaced says nothing about who was revoked since.
        if !validation.allow_expired_certificate {
            client = client.enforce_revocation_expiration();
            server = server.enforce_revocation_expiration();
        }
        if validation.only_verify_leaf_cert_crl {
            client = client.only_check_end_entity_revocation();
            server = server.only_check_end_entity_revocation();
        }
        let pinned = match validation.crls.is_empty() {
            true => bundle.certificates.iter().map(|certificate| certificate::sha256(certificate)).collect(),
            false => HashSet::new(),
        };
        Ok(Chains {
            client: client.build().map_err(|_| ContextError::Trust)?,
            server: server.build().map_err(|_| ContextError::Trust)?,
            pinned,
        })
    }

    fn verify(
        &self,
        peer: Peer,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
        allow_expired: bool,
    ) -> Result<(), Error> {
        if self.pinned.contains(&certificate::sha256(leaf)) {
            return in_time(leaf, now, allow_expired);
        }
        let error = match self.verify_at(peer, leaf, chain, now) {
            Ok(()) => return Ok(()),
            Err(error) => error,
        };
        if !allow_expired || !is_about_time(&error) {
            return Err(error);
        }
        // At a moment at which the certificates were valid: the ends of their times.
        let ends = std::iter::once(leaf).chain(chain).filter_map(certificate::validity);
        let moments = ends.flat_map(|(from, until)| [from, until]);
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let found = moments.take(MOMENTS_MAX).any(|seconds| self.verify_at(peer, leaf, chain, at(seconds)).is_ok());
        if found { Ok(()) } else { Err(error) }
    }

    fn verify_at(
        &self,
        peer: Peer,
        leaf: &CertificateDer<'_>,
        chain: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        match peer {
            Peer::Client => self.client.verify_client_cert(leaf, chain, now).map(drop),
            Peer::Server => {
                // The name is compared last, and is not what a server is known by here.
                let name = ServerName::IpAddress(std::net::Ipv4Addr::UNSPECIFIED.into());
                match self.server.verify_server_cert(leaf, chain, &name, &[], now) {
                    Ok(_)
                    | Err(Error::InvalidCertificate(
                        CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
                    )) => Ok(()),
                    Err(error) => Err(error),
                }
            }
        }
    }
}

const MOMENTS_MAX: usize = 8;

fn in_time(leaf: &CertificateDer<'_>, now: UnixTime, allow_expired: bool) -> Result<(), Error> {
    let (from, until) = certificate::validity(leaf).ok_or(Error::InvalidCertificate(CertificateError::BadEncoding))?;
    match now.as_secs() {
        _ if allow_expired => Ok(()),
        now if now < from => Err(Error::InvalidCertificate(CertificateError::NotValidYet)),
        now if now > until => Err(Error::InvalidCertificate(CertificateError::Expired)),
        _ => Ok(()),
    }
}

fn is_about_time(error: &Error) -> bool {
    matches!(
        error,
        Error::InvalidCertificate(
            CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. }
        )
    )
}

impl ClientCertVerifier for Verifier {
    fn offer_client_auth(&self) -> bool {
        true
    }

    fn client_auth_mandatory(&self) -> bool {
        self.required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &self.hints
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        self.verify(Peer::Client, end_entity, intermediates, None, now)?;
        Ok(ClientCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        self.verify(Peer::Server, end_entity, intermediates, Some(server_name), now)?;
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}
