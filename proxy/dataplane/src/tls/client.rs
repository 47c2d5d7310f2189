//! TLS towards origins: the settings of an `UpstreamTlsContext`, and a handshake with them.

use std::io;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use outrigger_config::{ResolvedTls, UpstreamTls};
use outrigger_http::{CertificateInfo, TlsInfo};
use rustls::ClientConfig;
use rustls::client::{ClientSessionMemoryCache, Resumption, UnbufferedClientConnection};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};

use super::key_log::Logger;
use super::session::{HandshakeError, Session};
use super::verify::Verifier;
use super::{ContextError, TlsStats, certificate, provider, server};
use crate::transport::Socket;

/// The protocols that are offered where the context doesn't say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Alpn {
    None = 0,
    Http1 = 1,
    Http2 = 2,
    /// Either: the server chooses.
    Any = 3,
}

impl Alpn {
    fn protocols(self) -> Vec<Vec<u8>> {
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        match self {
            Alpn::None => Vec::new(),
            Alpn::Http1 => vec![h1],
            Alpn::Http2 => vec![h2],
            Alpn::Any => vec![h2, h1],
        }
    }
}

/// Whom a connection is for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// `auto_sni`: wins over what the context says.
    pub server_name: Option<&'a str>,
    /// `auto_san_validation`: must be a SAN of the server.
    pub san: Option<&'a str>,
    /// The endpoint's.
    pub host_name: &'a str,
    pub alpn: Alpn,
}

/// What connections of a context are made with.
#[derive(Debug)]
pub(crate) struct Connector {
    tls: Arc<UpstreamTls>,
    base: ClientConfig,
    verifier: Verifier,
    configs: [OnceLock<Arc<ClientConfig>>; 4],
    local: Option<Arc<CertificateInfo>>,
    log: Option<Logger>,
}

impl Connector {
    pub(crate) fn new(tls: &Arc<UpstreamTls>, resolved: &ResolvedTls) -> Result<Connector, ContextError> {
        let provider = provider::provider(&tls.context.params);
        let verifier =
            Verifier::new(resolved.validation.as_ref(), &provider)?.san_is_server_name(tls.auto_sni_san_validation);
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(provider::versions(&tls.context.params))
            .map_err(ContextError::Settings)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier.clone()));
        let certificate = resolved.certificates.first();
        let mut base = match certificate {
            None => builder.with_no_client_auth(),
            Some(certificate) => {
                let (key, _) = server::certified(certificate)?;
                builder.with_client_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(key)))
            }
        };
        base.resumption = match certificate.is_none() && tls.max_session_keys > 0 {
            true => Resumption::store(Arc::new(ClientSessionMemoryCache::new(tls.max_session_keys as usize))),
            false => Resumption::disabled(),
        };
        let local = certificate.and_then(|certificate| certificate::info(&certificate.chain));
        let log = Logger::open(tls.context.key_log.as_ref());
        Ok(Connector { tls: tls.clone(), base, verifier, configs: [const { OnceLock::new() }; 4], local, log })
    }

    fn config(&self, target: &Target<'_>) -> Arc<ClientConfig> {
        let made = || {
            let mut config = self.base.clone();
            config.alpn_protocols = match &self.tls.context.alpn {
                configured if !configured.is_empty() => configured.iter().map(|protocol| protocol.to_vec()).collect(),
                _ => target.alpn.protocols(),
            };
            Arc::new(config)
        };
        let config = self.configs[target.alpn as usize].get_or_init(made);
        let Some(san) = target.san else { return config.clone() };
        let mut config = ClientConfig::clone(config);
        config.dangerous().set_certificate_verifier(Arc::new(self.verifier.clone().wanted(Some(san.to_owned()))));
        // A session was verified for somebody else.
        config.resumption = Resumption::disabled();
        Arc::new(config)
    }

    /// The name that the server is told; `None`: none.
    fn server_name(&self, target: &Target<'_>) -> Option<ServerName<'static>> {
        let by_host = self.tls.auto_host_sni && !target.host_name.is_empty();
        let configured = if by_host { target.host_name } else { &self.tls.sni };
        let name = target.server_name.unwrap_or(configured);
        match ServerName::try_from(name.to_owned()) {
            Ok(name @ ServerName::DnsName(_)) => Some(name),
            _ => None,
        }
    }

    /// Shakes hands with a server.
    pub(crate) async fn connect(
        &self,
        socket: &mut Socket,
        target: &Target<'_>,
        stats: &TlsStats,
    ) -> Result<Session, HandshakeError> {
        let shaken = self.shake(socket, target).await;
        match &shaken {
            Ok(session) => stats.shaken(session, &session.info),
            Err(error) => stats.failed(error),
        }
        shaken
    }

    async fn shake(&self, socket: &mut Socket, target: &Target<'_>) -> Result<Session, HandshakeError> {
        let name = self.server_name(target);
        let server_name = name.as_ref().map(|name| Arc::from(&*name.to_str())).unwrap_or_default();
        let mut config = self.config(target);
        if let Some(log) = self.log.as_ref().and_then(|log| log.of(socket.addresses())) {
            Arc::make_mut(&mut config).key_log = log;
        }
        let connection =
            UnbufferedClientConnection::new(config, name.unwrap_or_else(nobody)).map_err(HandshakeError::Tls)?;
        let mut session = Session::client(connection);
        let began = Instant::now();
        session.handshake(socket).await?;
        let handshake = Some((began, Instant::now()));
        let info = TlsInfo { server_name, handshake, local: self.local.clone(), ..TlsInfo::default() };
        session.learn(info, self.verifier.validates());
        Ok(session)
    }
}

/// For an address no name is sent.
fn nobody() -> ServerName<'static> {
    ServerName::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED))
}

/// TLS on a connection of the control side: to a control plane, to a server of secrets, to where code lies.
pub async fn secure_control<S: AsyncRead + AsyncWrite + Unpin>(
    tls: &Arc<UpstreamTls>,
    resolved: &ResolvedTls,
    target: &Target<'_>,
    stream: S,
) -> io::Result<tokio_rustls::client::TlsStream<S>> {
    let connector = Connector::new(tls, resolved).map_err(io::Error::other)?;
    let name = connector.server_name(target).unwrap_or_else(nobody);
    tokio_rustls::TlsConnector::from(connector.config(target)).connect(name, stream).await
}
