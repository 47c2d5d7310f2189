//! TLS for tests: an authority that issues whatever is asked for, and a client on rustls that shows what it was agreed.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::SystemTime;

use anyhow::{Context, Result, anyhow, bail};
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType, SerialNumber,
};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime};
use rustls::{ClientConfig, ClientConnection, DigitallySignedStruct, SignatureScheme, StreamOwned};
use serde_json::{Value, json};

use crate::bootstrap::{HttpListener, cluster, route, with};
use crate::http1::{Request, Response, absorb};
use crate::parser::{Parser, Role};
use crate::wait::{DEADLINE, eventually};
use crate::yaml::to_yaml;
use crate::{Bootstrap, DataPlane, Origin, Peer, Process, script};

/// A certificate authority.
#[derive(Debug)]
pub struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

/// A certificate with its key, in PEM.
#[derive(Debug, Clone)]
pub struct Leaf {
    pub chain: String,
    pub key: String,
}

impl Authority {
    pub fn new(name: &str) -> Result<Authority> {
        Ok(Authority { issuer: CertifiedIssuer::self_signed(authority(name)?, KeyPair::generate()?)? })
    }

    /// One below this one; `serial`: what it is revoked by.
    pub fn below(&self, name: &str, serial: u64) -> Result<Authority> {
        let mut params = authority(name)?;
        params.serial_number = Some(serial.into());
        Ok(Authority { issuer: CertifiedIssuer::signed_by(params, KeyPair::generate()?, &self.issuer)? })
    }

    /// A list of those that it has revoked, in PEM; it is told for so long that a next one will come then.
    pub fn revocations(&self, serials: &[u64], until: SystemTime) -> Result<String> {
        let revoked = |serial: &u64| RevokedCertParams {
            serial_number: SerialNumber::from(*serial),
            revocation_time: SystemTime::UNIX_EPOCH.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: SystemTime::UNIX_EPOCH.into(),
            next_update: until.into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: serials.iter().map(revoked).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        Ok(params.signed_by(&self.issuer)?.pem()?)
    }

    /// The bundle.
    pub fn pem(&self) -> String {
        self.issuer.pem()
    }

    /// What it signs with.
    pub fn key_pem(&self) -> String {
        self.issuer.key().serialize_pem()
    }

    /// A leaf for both roles with a DNS and a URI name.
    pub fn issue(&self, dns: &str, uri: &str) -> Result<Leaf> {
        self.issue_with(dns, uri, |_| {})
    }

    pub fn issue_with(&self, dns: &str, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Result<Leaf> {
        self.issue_for(&KeyPair::generate()?, dns, uri, change)
    }

    pub fn issue_for(
        &self,
        key: &KeyPair,
        dns: &str,
        uri: &str,
        change: impl FnOnce(&mut CertificateParams),
    ) -> Result<Leaf> {
        let mut params = CertificateParams::new(vec![dns.to_owned()])?;
        params.distinguished_name.push(DnType::CommonName, dns);
        params.subject_alt_names.push(SanType::URI(uri.try_into()?));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        Ok(Leaf { chain: params.signed_by(key, &self.issuer)?.pem(), key: key.serialize_pem() })
    }
}

fn authority(name: &str) -> Result<CertificateParams> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name.push(DnType::CommonName, name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    Ok(params)
}

impl Leaf {
    /// `TlsCertificate`.
    pub fn config(&self) -> Value {
        json!({"certificate_chain": {"inline_string": self.chain}, "private_key": {"inline_string": self.key}})
    }

    /// `Secret`.
    pub fn secret(&self, name: &str) -> Value {
        json!({"name": name, "tls_certificate": self.config()})
    }

    /// Writes both, the key first, each in one step.
    pub fn write(&self, folder: &Path, name: &str) -> Result<()> {
        replace(&folder.join(format!("{name}.key")), &self.key)?;
        replace(&folder.join(format!("{name}.crt")), &self.chain)
    }
}

/// Replaces a file in one step.
pub fn replace(path: &Path, text: &str) -> Result<()> {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path).with_context(|| format!("{}", path.display()))
}

/// Replaces a watched file of secrets in one step.
pub fn write_secrets(path: &Path, version: &str, secrets: &[Value]) -> Result<()> {
    let typed = json!({"@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret"});
    let resources: Vec<Value> = secrets.iter().map(|secret| with(typed.clone(), secret.clone())).collect();
    replace(path, &to_yaml(&json!({"version_info": version, "resources": resources})))
}

/// `SdsSecretConfig` of a watched file.
pub fn from_file(name: &str, path: &Path) -> Value {
    json!({"name": name, "sds_config": {"path_config_source": {"path": path}, "resource_api_version": "V3"}})
}

/// Waits until a new connection is shown this leaf.
pub fn shows(address: SocketAddr, client: &Client, leaf: &Leaf) -> Result<()> {
    let wanted = der(leaf)?;
    eventually(DEADLINE, || {
        let connection = client.connect(address).map_err(|error| format!("{error:#}"))?;
        let shown = connection.server_leaf().map_err(|error| format!("{error:#}"))?;
        if shown == wanted { Ok(()) } else { Err("another certificate".to_owned()) }
    })
    .map_err(|error| anyhow!("the new certificate is not shown: {error}"))
}

/// `transport_socket` of a filter chain.
pub fn downstream(context: &Value) -> Value {
    socket("DownstreamTlsContext", context)
}

/// A listener whose clients speak TLS.
pub fn secured(listener: impl Into<Value>, context: &Value) -> Value {
    let mut listener = listener.into();
    listener["filter_chains"][0]["transport_socket"] = downstream(context);
    listener
}

/// One that leads to the cluster `o`.
pub fn secure(name: &str, context: &Value) -> Value {
    secured(HttpListener::new(name, &json!([route("/", "o")])), context)
}

/// A proxy with such listeners.
pub fn start(peer: Peer, origin: &Origin, listeners: Vec<Value>) -> Result<DataPlane> {
    let bootstrap = Bootstrap::new().cluster(cluster("o", &[origin.address()]));
    DataPlane::start(peer, &listeners.into_iter().fold(bootstrap, Bootstrap::listener))
}

/// `transport_socket` of a cluster.
pub fn upstream(context: &Value) -> Value {
    socket("UpstreamTlsContext", context)
}

fn socket(kind: &str, context: &Value) -> Value {
    let mut config = context.clone();
    config["@type"] = format!("type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.{kind}").into();
    json!({"name": "envoy.transport_sockets.tls", "typed_config": config})
}

/// What a client does.
#[derive(Debug, Clone, Default)]
pub struct Client {
    pub leaf: Option<Leaf>,
    /// `None`: none is sent.
    pub server_name: Option<String>,
    pub alpn: Vec<&'static str>,
    pub only_version: Option<&'static rustls::SupportedProtocolVersion>,
    /// For the key exchange; `None`: all that there are.
    pub only_group: Option<&'static dyn rustls::crypto::SupportedKxGroup>,
}

/// A connection after its handshake.
#[derive(Debug)]
pub struct TlsConnection {
    stream: StreamOwned<ClientConnection, TcpStream>,
    parser: Parser,
}

impl Client {
    pub fn named(name: &str) -> Client {
        Client { server_name: Some(name.to_owned()), ..Client::default() }
    }

    pub fn with(mut self, leaf: &Leaf) -> Client {
        self.leaf = Some(leaf.clone());
        self
    }

    pub fn config(&self) -> Result<ClientConfig> {
        let versions = self.only_version.map_or_else(|| rustls::ALL_VERSIONS.to_vec(), |version| vec![version]);
        let mut provider = aws_lc_rs::default_provider();
        if let Some(group) = self.only_group {
            provider.kx_groups = vec![group];
        }
        let builder = ClientConfig::builder_with_provider(Arc::new(provider))
            .with_protocol_versions(&versions)?
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(Anybody));
        let mut config = match &self.leaf {
            None => builder.with_no_client_auth(),
            Some(leaf) => {
                let chain = CertificateDer::pem_slice_iter(leaf.chain.as_bytes()).collect::<Result<Vec<_>, _>>()?;
                builder.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(leaf.key.as_bytes())?)?
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|protocol| protocol.as_bytes().to_vec()).collect();
        config.enable_sni = self.server_name.is_some();
        Ok(config)
    }

    /// Connects and shakes hands.
    pub fn connect(&self, address: SocketAddr) -> Result<TlsConnection> {
        let name = ServerName::try_from(self.server_name.clone().unwrap_or_else(|| "none.test".to_owned()))?;
        let mut connection = ClientConnection::new(Arc::new(self.config()?), name)?;
        let mut socket = TcpStream::connect_timeout(&address, DEADLINE)?;
        socket.set_nodelay(true)?;
        socket.set_read_timeout(Some(DEADLINE))?;
        socket.set_write_timeout(Some(DEADLINE))?;
        while connection.is_handshaking() {
            connection.complete_io(&mut socket)?;
        }
        let parser = Parser::new(Role::Responses { to_head: false });
        Ok(TlsConnection { stream: StreamOwned::new(connection, socket), parser })
    }

    /// One request on a connection of its own.
    pub fn send(&self, address: SocketAddr, request: &Request) -> Result<Response> {
        self.connect(address)?.exchange(request)
    }
}

impl TlsConnection {
    pub fn exchange(&mut self, request: &Request) -> Result<Response> {
        self.stream.write_all(&request.bytes())?;
        let mut response = Response::default();
        let mut buffer = [0; 16 << 10];
        loop {
            while let Some(event) = self.parser.poll()? {
                if absorb(&mut response, event)? {
                    return Ok(response);
                }
            }
            match self.stream.read(&mut buffer)? {
                0 => bail!("the peer closed without an answer"),
                read => self.parser.feed(&buffer[..read]),
            }
        }
    }

    /// The protocol that was agreed on.
    pub fn alpn(&self) -> Option<String> {
        self.stream.conn.alpn_protocol().map(|name| String::from_utf8_lossy(name).into_owned())
    }

    /// The server's leaf in PEM's base 64, without lines: what a `Leaf` holds contains it.
    pub fn server_leaf(&self) -> Result<Vec<u8>> {
        let leaf = self.stream.conn.peer_certificates().and_then(<[_]>::first);
        leaf.map(|leaf| leaf.to_vec()).ok_or_else(|| anyhow!("no certificate"))
    }

    pub fn version(&self) -> Option<rustls::ProtocolVersion> {
        self.stream.conn.protocol_version()
    }
}

/// The DER of a leaf.
pub fn der(leaf: &Leaf) -> Result<Vec<u8>> {
    Ok(CertificateDer::from_pem_slice(leaf.chain.as_bytes())?.to_vec())
}

/// Takes every server.
#[derive(Debug)]
struct Anybody;

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _message: &[u8],
        _cert: &CertificateDer<'_>,
        _dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        aws_lc_rs::default_provider().signature_verification_algorithms.supported_schemes()
    }
}

/// What OpenSSL's client prints of a request on a connection of its own; files that it names lie in `folder`.
pub fn openssl(address: SocketAddr, folder: &Path, arguments: &[&str]) -> Result<String> {
    let mut client = Command::new("openssl")
        .args(["s_client", "-connect", &address.to_string(), "-ign_eof"])
        .args(arguments)
        .current_dir(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    let mut input = client.stdin.take().context("its input")?;
    // Where it was refused nobody reads.
    _ = input.write_all(b"GET / HTTP/1.1\r\nhost: server.test\r\nconnection: close\r\n\r\n");
    let output = client.wait_with_output()?;
    drop(input);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr))
}

/// A server of secrets (`sds.py`): by SDS, and by ADS.
#[derive(Debug)]
pub struct SecretServer {
    pub address: SocketAddr,
    /// A Unix socket that it listens on as well.
    pub socket: PathBuf,
    _process: Process,
    folder: tempfile::TempDir,
}

impl SecretServer {
    pub fn start() -> Result<SecretServer> {
        let folder = tempfile::tempdir()?;
        let address_file = folder.path().join("address");
        let socket = folder.path().join("sds.sock");
        let arguments = [folder.path().to_string_lossy(), address_file.to_string_lossy(), socket.to_string_lossy()];
        let arguments: Vec<&str> = arguments.iter().map(|argument| &**argument).collect();
        let mut process = script::start("sds", "sds.py", folder.path(), &arguments)?;
        let address = script::address(&address_file, &mut process)?;
        Ok(SecretServer { address, socket, _process: process, folder })
    }

    /// Sets a secret; whoever asks for it is told.
    pub fn set(&self, secret: &Value) -> Result<()> {
        let name = secret["name"].as_str().unwrap_or_default();
        replace(&self.folder.path().join(format!("{name}.json")), &secret.to_string())
    }

    /// The requests so far.
    pub fn requests(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.folder.path().join("requests.log")).unwrap_or_default();
        text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect()
    }
}
