//! TLS towards clients: the settings of a `DownstreamTlsContext`, and a handshake with them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use outrigger_config::{Bundle, DownstreamTls, ResolvedTls, StaplePolicy, Trust};
use outrigger_http::{CertificateInfo, TlsInfo};
use rustls::ServerConfig;
use rustls::server::{
    ClientHello, NoServerSessionStorage, ResolvesServerCert, ServerSessionMemoryCache, UnbufferedServerConnection,
};
use rustls::sign::{CertifiedKey, SigningKey};
use rustls_pki_types::UnixTime;
use tokio::time::timeout;

use super::key_log::Logger;
use super::session::{HandshakeError, Session};
use super::tickets::Tickets;
use super::verify::Verifier;
use super::{ContextError, TlsStats, certificate, provider};
use crate::inspect::client_hello;
use crate::transport::{Socket, read_more};

/// Sessions by id that a context keeps at most.
const SESSIONS_MAX: usize = 1024;
/// A client's first message is no longer (Envoy's inspector: 16 KiB).
const HELLO_BYTES_MAX: usize = 64 * 1024;

/// What clients of a context are served with. Shared by all workers, so that sessions are found again.
#[derive(Debug)]
pub(crate) struct Acceptor {
    config: Arc<ServerConfig>,
    /// For clients whose protocols are none of ours: they are served without one, as in Envoy.
    without_alpn: Arc<ServerConfig>,
    resolver: Arc<Resolver>,
    certificates: Vec<Option<Arc<CertificateInfo>>>,
    validates: bool,
    /// `None`: nothing is validated.
    authorities: Option<Arc<[Bytes]>>,
    log: Option<Logger>,
}

/// What a client that wants an OCSP response gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stapling {
    Staple,
    Omit,
    Fail,
}

impl Acceptor {
    pub(crate) fn new(tls: &DownstreamTls, resolved: &ResolvedTls) -> Result<Acceptor, ContextError> {
        let provider = provider::provider(&tls.context.params);
        let versions = provider::versions(&tls.context.params);
        let keys = resolved.certificates.iter().map(|certificate| NamedKey::new(certificate));
        let keys: Vec<NamedKey> = keys.collect::<Result<_, _>>()?;
        let validation = resolved.validation.as_ref();
        let asks = tls.require_client_certificate
            || validation.is_some_and(|v| v.verifies_chain() || !v.hashes.is_empty() || !v.spkis.is_empty());
        let verifier = Verifier::new(validation, &provider)?.required(tls.require_client_certificate);
        let validates = asks && verifier.validates();
        let builder = ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(versions)
            .map_err(ContextError::Settings)?;
        let builder =
            if asks { builder.with_client_cert_verifier(Arc::new(verifier)) } else { builder.with_no_client_auth() };
        if tls.staple_policy == StaplePolicy::Must && keys.iter().any(|key| key.staple.is_none()) {
            return Err(ContextError::Staple);
        }
        let (require_sni, full_scan) = (tls.require_sni, tls.full_scan);
        let resolver = Arc::new(Resolver { keys, require_sni, full_scan, staple_policy: tls.staple_policy });
        let mut config = builder.with_cert_resolver(resolver.clone());
        config.ignore_client_order = !tls.prefer_client_ciphers;
        config.send_half_rtt_data = false;
        resumption(&mut config, tls, resolved, asks)?;
        let without_alpn = Arc::new(config.clone());
        config.alpn_protocols = tls.context.alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let certificates = resolved.certificates.iter().map(|certificate| certificate::info(&certificate.chain));
        let certificates = certificates.collect();
        let log = Logger::open(tls.context.key_log.as_ref());
        let authorities = validation.filter(|_| validates).map(|validation| authorities(&validation.trust));
        let config = Arc::new(config);
        Ok(Acceptor { config, without_alpn, resolver, certificates, validates, authorities, log })
    }

    /// Shakes hands with a client, of whom `incoming` was read already.
    pub(crate) async fn accept(
        &self,
        socket: &mut Socket,
        incoming: BytesMut,
        time_max: Duration,
        stats: &TlsStats,
    ) -> Result<Session, HandshakeError> {
        let shaking = self.shake(socket, incoming, stats);
        let shaken = match timeout(time_max, shaking).await {
            Ok(shaken) => shaken,
            Err(_) => Err(HandshakeError::Timeout),
        };
        match &shaken {
            Ok(session) => stats.shaken(session, &session.info),
            Err(error) => stats.failed(error),
        }
        shaken
    }

    async fn shake(
        &self,
        socket: &mut Socket,
        mut incoming: BytesMut,
        stats: &TlsStats,
    ) -> Result<Session, HandshakeError> {
        let hello = self.read_hello(socket, &mut incoming).await?;
        let began = Instant::now();
        let mut config = if hello.wants_other_protocols { &self.without_alpn } else { &self.config }.clone();
        if let Some(log) = self.log.as_ref().and_then(|log| log.of(socket.addresses())) {
            Arc::make_mut(&mut config).key_log = log;
        }
        if let Some(how) = self.stapling(&hello, &incoming) {
            stats.stapled(how);
            if how == Stapling::Fail {
                // The client is told that there is no certificate for it.
                Arc::make_mut(&mut config).cert_resolver = Arc::new(Nobody);
            }
        }
        let connection = UnbufferedServerConnection::new(config).map_err(HandshakeError::Tls)?;
        let mut session = Session::server(connection, incoming);
        session.handshake(socket).await?;
        let local = hello.certificate(self);
        let info = TlsInfo {
            server_name: hello.server_name,
            handshake: Some((began, Instant::now())),
            local,
            authorities: self.authorities.clone(),
            ..TlsInfo::default()
        };
        session.learn(info, self.validates);
        Ok(session)
    }

    /// `None`: it doesn't want an OCSP response, or the chosen certificate never had one.
    fn stapling(&self, hello: &Hello, incoming: &[u8]) -> Option<Stapling> {
        let key = self.resolver.keys.get(hello.chosen?)?;
        key.staple.as_ref()?;
        if !client_hello::may_want_status(incoming) {
            return None;
        }
        Some(match (key.fresh_staple(), self.resolver.staple_policy) {
            (Some(_), _) => Stapling::Staple,
            (None, StaplePolicy::Lenient) if !key.must_staple => Stapling::Omit,
            (None, _) => Stapling::Fail,
        })
    }

    /// Reads until the client's first message is there, and looks into it.
    async fn read_hello(&self, socket: &mut Socket, incoming: &mut BytesMut) -> Result<Hello, HandshakeError> {
        let mut acceptor = rustls::server::Acceptor::default();
        let mut seen = 0;
        loop {
            while seen < incoming.len() {
                let mut rest = &incoming[seen..];
                match acceptor.read_tls(&mut rest) {
                    Ok(0) | Err(_) => break,
                    Ok(taken) => seen += taken,
                }
                match acceptor.accept() {
                    Ok(Some(accepted)) => return Ok(Hello::of(&accepted.client_hello(), self)),
                    Ok(None) => {}
                    // The session says it to the client.
                    Err(_) => return Ok(Hello::default()),
                }
            }
            if incoming.len() > HELLO_BYTES_MAX {
                return Ok(Hello::default());
            }
            if read_more(socket, incoming).await.map_err(HandshakeError::Io)? == 0 {
                return Err(HandshakeError::Closed);
            }
        }
    }
}

/// What matters of a client's first message.
#[derive(Debug, Default)]
struct Hello {
    /// Empty: none.
    server_name: Arc<str>,
    wants_other_protocols: bool,
    chosen: Option<usize>,
}

impl Hello {
    fn of(hello: &ClientHello<'_>, acceptor: &Acceptor) -> Hello {
        let ours = &acceptor.config.alpn_protocols;
        let wants_other_protocols = !ours.is_empty()
            && hello.alpn().is_some_and(|mut theirs| !theirs.any(|protocol| ours.iter().any(|our| our == protocol)));
        let chosen = acceptor.resolver.choose(hello);
        let name = hello.server_name().unwrap_or_default().to_ascii_lowercase();
        Hello { server_name: Arc::from(name), wants_other_protocols, chosen }
    }

    fn certificate(&self, acceptor: &Acceptor) -> Option<Arc<CertificateInfo>> {
        acceptor.certificates.get(self.chosen?)?.clone()
    }
}

/// In DER, of all trust domains.
fn authorities(trust: &Trust) -> Arc<[Bytes]> {
    let der = |bundle: &Bundle| -> Vec<Bytes> {
        bundle.certificates.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect()
    };
    match trust {
        Trust::Anybody => Arc::default(),
        Trust::Bundle(bundle) => der(bundle).into(),
        Trust::Spiffe(domains) => domains.iter().flat_map(|domain| der(&domain.bundle)).collect(),
    }
}

fn resumption(
    config: &mut ServerConfig,
    tls: &DownstreamTls,
    resolved: &ResolvedTls,
    asks: bool,
) -> Result<(), ContextError> {
    let (stateless, stateful) = (tls.stateless_resumption && !asks, tls.stateful_resumption && !asks);
    if stateless {
        config.ticketer = match &resolved.ticket_keys {
            Some(keys) => {
                let leaves = resolved.certificates.iter().filter_map(|certificate| certificate.chain.first());
                let server = certificate::identity(leaves);
                Arc::new(Tickets::new(keys, tls.session_timeout, server).ok_or(ContextError::TicketKey)?)
            }
            None => rustls::crypto::aws_lc_rs::Ticketer::new().map_err(ContextError::Settings)?,
        };
    }
    config.session_storage = match stateful {
        true => ServerSessionMemoryCache::new(SESSIONS_MAX),
        false => Arc::new(NoServerSessionStorage {}),
    };
    config.send_tls13_tickets = if stateless || stateful { 1 } else { 0 };
    Ok(())
}

/// A certificate with the names that it is chosen by.
#[derive(Debug)]
struct NamedKey {
    key: Arc<CertifiedKey>,
    names: Vec<String>,
    is_ecdsa: bool,
    /// The same with an OCSP response, and when that expires.
    staple: Option<(Arc<CertifiedKey>, i64)>,
    must_staple: bool,
}

/// A chain with what signs for it.
pub(super) fn certified(
    certificate: &outrigger_config::TlsCertificate,
) -> Result<(Arc<CertifiedKey>, rustls::SignatureAlgorithm), ContextError> {
    let signer: Arc<dyn SigningKey> =
        rustls::crypto::aws_lc_rs::sign::any_supported_type(certificate.key.der()).map_err(|_| ContextError::Key)?;
    let algorithm = signer.algorithm();
    Ok((Arc::new(CertifiedKey::new(certificate.chain.clone(), signer)), algorithm))
}

impl NamedKey {
    fn new(certificate: &outrigger_config::TlsCertificate) -> Result<NamedKey, ContextError> {
        let (key, algorithm) = certified(certificate)?;
        let names = certificate.chain.first().map(certificate::server_names).unwrap_or_default();
        let staple = certificate.staple.as_ref().map(|staple| {
            let mut stapled = CertifiedKey::clone(&key);
            stapled.ocsp = Some(staple.response.to_vec());
            (Arc::new(stapled), staple.expires)
        });
        let (is_ecdsa, must_staple) = (algorithm == rustls::SignatureAlgorithm::ECDSA, certificate.must_staple);
        Ok(NamedKey { key, names, is_ecdsa, staple, must_staple })
    }

    fn fresh_staple(&self) -> Option<&Arc<CertifiedKey>> {
        let (stapled, expires) = self.staple.as_ref()?;
        (i64::try_from(UnixTime::now().as_secs()).is_ok_and(|now| now <= *expires)).then_some(stapled)
    }

    fn takes(&self, hello: &ClientHello<'_>) -> bool {
        self.key.key.choose_scheme(hello.signature_schemes()).is_some()
    }
}

#[derive(Debug)]
struct Resolver {
    keys: Vec<NamedKey>,
    require_sni: bool,
    full_scan: bool,
    staple_policy: StaplePolicy,
}

/// Has no certificate for anybody.
#[derive(Debug)]
struct Nobody;

impl ResolvesServerCert for Nobody {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        None
    }
}

impl Resolver {
    /// By its exact name, else by a wildcard; without a name any; of several the first ECDSA one that the client takes.
    /// Where none fits it is the first one, whether the client takes it or not.
    fn choose(&self, hello: &ClientHello<'_>) -> Option<usize> {
        let name = hello.server_name();
        if name.is_none() && self.require_sni {
            return None;
        }
        if self.keys.len() == 1 {
            return Some(0);
        }
        let best = |has_name: &dyn Fn(&NamedKey) -> bool| {
            let candidates = || self.keys.iter().enumerate().filter(|(_, key)| has_name(key) && key.takes(hello));
            candidates().find(|(_, key)| key.is_ecdsa).or_else(|| candidates().next()).map(|(index, _)| index)
        };
        if let Some(name) = name {
            let exact = best(&|key| key.names.iter().any(|known| known.eq_ignore_ascii_case(name)));
            let found =
                exact.or_else(|| best(&|key| key.names.iter().any(|known| certificate::dns_matches(name, known))));
            if found.is_some() || !self.full_scan {
                return found.or(Some(0));
            }
        }
        best(&|_| true).or(Some(0))
    }
}

impl ResolvesServerCert for Resolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        self.keys.get(self.choose(&hello)?).map(|key| key.fresh_staple().unwrap_or(&key.key).clone())
    }
}
