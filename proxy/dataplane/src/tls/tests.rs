//! Our acceptor and our connector with each other: who is let in, what is agreed on, and bytes both ways.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use outrigger_config::{
    Bundle, CertificateSource, DownstreamTls, PrivateKey, ResolvedTls, SanKind, SanMatcher, StaplePolicy, StringMatch,
    StringMatcher, TlsCertificate, TlsContext, TlsParams, TlsVersions, Trust, TrustDomain, UpstreamTls,
    ValidationContext,
};
use outrigger_stats::Registry;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair, SanType};
use rustls_pki_types::{CertificateRevocationListDer, PrivateKeyDer};
use tokio::net::TcpListener;

use super::{Acceptor, Alpn, Connector, ContextError, Target, TlsStats};
use crate::transport::Transport;

struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    fn new() -> Authority {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        Authority { issuer: CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap() }
    }

    fn bundle(&self) -> Arc<Bundle> {
        Arc::new(Bundle { certificates: vec![self.issuer.der().clone()], path: "".into() })
    }

    fn issue(&self, dns: &str, uri: &str, change: impl FnOnce(&mut CertificateParams)) -> Arc<TlsCertificate> {
        let mut params = CertificateParams::new(vec![dns.to_owned()]).unwrap();
        params.subject_alt_names.push(SanType::URI(uri.try_into().unwrap()));
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.key_usages = vec![rcgen::KeyUsagePurpose::DigitalSignature];
        change(&mut params);
        let key = KeyPair::generate().unwrap();
        let leaf = params.signed_by(&key, &self.issuer).unwrap();
        let key = PrivateKey::new(PrivateKeyDer::try_from(key.serialize_der()).unwrap());
        Arc::new(TlsCertificate {
            chain: vec![leaf.der().clone()],
            key,
            path: "".into(),
            staple: None,
            must_staple: false,
        })
    }

    /// A list that revokes one certificate.
    fn revokes(&self, serial: u64) -> CertificateRevocationListDer<'static> {
        let params = rcgen::CertificateRevocationListParams {
            this_update: rcgen::date_time_ymd(2024, 1, 1),
            next_update: rcgen::date_time_ymd(2044, 1, 1),
            crl_number: 1.into(),
            issuing_distribution_point: None,
            revoked_certs: vec![rcgen::RevokedCertParams {
                serial_number: serial.into(),
                revocation_time: rcgen::date_time_ymd(2024, 1, 1),
                reason_code: None,
                invalidity_date: None,
            }],
            key_identifier_method: rcgen::KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).unwrap().der().clone()
    }

    fn trusted(&self) -> ValidationContext {
        ValidationContext { trust: Trust::Bundle(self.bundle()), ..ValidationContext::default() }
    }
}

fn san(kind: SanKind, pattern: StringMatch) -> SanMatcher {
    SanMatcher { kind, matcher: StringMatcher { pattern, ignore_case: false } }
}

fn exact(text: &'static str) -> StringMatch {
    StringMatch::Exact(Bytes::from_static(text.as_bytes()))
}

fn context(
    certificates: Vec<Arc<TlsCertificate>>,
    validation: Option<ValidationContext>,
    alpn: &[&'static str],
) -> TlsContext {
    TlsContext {
        params: TlsParams::default(),
        certificates: certificates.into_iter().map(CertificateSource::Inline).collect(),
        validation: validation.map(Arc::new),
        validation_secret: None,
        alpn: alpn.iter().map(|protocol| Bytes::from_static(protocol.as_bytes())).collect(),
        ticket_keys: None,
        key_log: None,
    }
}

fn resolved(context: &TlsContext) -> ResolvedTls {
    context.resolve(|_| None).unwrap()
}

fn server(context: TlsContext) -> DownstreamTls {
    DownstreamTls {
        context,
        require_client_certificate: false,
        require_sni: false,
        full_scan: false,
        stateless_resumption: true,
        stateful_resumption: true,
        prefer_client_ciphers: false,
        staple_policy: StaplePolicy::Lenient,
        session_timeout: Duration::from_secs(7200),
    }
}

fn client(context: TlsContext) -> UpstreamTls {
    UpstreamTls {
        context,
        sni: "a.test".into(),
        auto_host_sni: false,
        auto_sni_san_validation: false,
        max_session_keys: 1,
    }
}

/// A pair that can shake hands any number of times.
struct Pair {
    acceptor: Acceptor,
    connector: Connector,
    registry: Arc<Registry>,
}

type Shaken = (Result<Transport, String>, Result<Transport, String>);

impl Pair {
    fn new(server: &DownstreamTls, client: UpstreamTls) -> Pair {
        let (resolved_server, resolved_client) = (resolved(&server.context), resolved(&client.context));
        Pair {
            acceptor: Acceptor::new(server, &resolved_server).unwrap(),
            connector: Connector::new(&Arc::new(client), &resolved_client).unwrap(),
            registry: Arc::new(Registry::default()),
        }
    }

    /// The server's and the client's end.
    async fn shake(&self) -> Shaken {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = async {
            let mut transport = Transport::new(listener.accept().await.unwrap().0).unwrap();
            let stats = TlsStats::of_listener(&self.registry, &Arc::from("l"));
            let shaken = transport.accept_tls(&self.acceptor, Duration::from_secs(30), &stats).await;
            shaken.map(|()| transport).map_err(|error| error.to_string())
        };
        let client = async {
            let mut transport = Transport::new(tokio::net::TcpStream::connect(address).await.unwrap()).unwrap();
            let stats = TlsStats::of_cluster(&self.registry, &Arc::from("c"));
            let target = Target { server_name: None, san: None, host_name: "", alpn: Alpn::Http1 };
            let shaken = transport.connect_tls(&self.connector, &target, &stats).await;
            shaken.map(|()| transport).map_err(|error| error.to_string())
        };
        tokio::join!(server, client)
    }

    fn count(&self, prefix: &str, name: &str) -> u64 {
        let tag = if prefix == "listener" { ("envoy_listener_address", "l") } else { ("envoy_cluster_name", "c") };
        let name = outrigger_stats::Name::new(prefix, format!("ssl.{name}")).tag(tag.0, tag.1);
        match self.registry.value(&name) {
            Some(outrigger_stats::Value::Counter(count)) => count,
            _ => 0,
        }
    }
}

async fn send(transport: &mut Transport, bytes: &[u8]) {
    transport.output.push(Bytes::copy_from_slice(bytes));
    poll_fn(|cx| transport.poll_flush(cx)).await.unwrap();
}

async fn receive(transport: &mut Transport, count: usize) -> Vec<u8> {
    while transport.input.len() < count {
        assert_ne!(poll_fn(|cx| transport.poll_fill(cx)).await.unwrap(), 0, "{} bytes", transport.input.len());
    }
    transport.input.split_to(count).to_vec()
}

#[tokio::test]
async fn bytes_go_both_ways_and_the_end_is_told() {
    let authority = Authority::new();
    let leaf = authority.issue("a.test", "spiffe://t/a", |_| {});
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let mut settings = server(context(vec![leaf.clone()], None, &["h2", "http/1.1"]));
        settings.context.params.versions = versions;
        let pair = Pair::new(&settings, client(context(Vec::new(), Some(authority.trusted()), &[])));
        let (down, up) = pair.shake().await;
        let (mut down, mut up) = (down.unwrap(), up.unwrap());
        assert_eq!(&*down.tls().unwrap().alpn, "http/1.1");
        assert_eq!(&*down.tls().unwrap().server_name, "a.test");
        assert!(up.tls().unwrap().peer_validated && !down.tls().unwrap().peer_validated);
        let mut large = vec![0; 3_000_000];
        large.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at % 251) as u8);
        // Both ways at once, more than any buffer takes.
        let ((), found) = tokio::join!(send(&mut up, &large), receive(&mut down, large.len()));
        assert_eq!(found, large);
        let ((), found) = tokio::join!(send(&mut down, &large), receive(&mut up, large.len()));
        assert_eq!(found, large);
        for size in [1, 16_384, 16_385] {
            send(&mut up, &large[..size]).await;
            assert_eq!(receive(&mut down, size).await, &large[..size]);
        }
        poll_fn(|cx| up.poll_shutdown(cx)).await.unwrap();
        assert_eq!(poll_fn(|cx| down.poll_fill(cx)).await.unwrap(), 0);
        assert!(down.eof && !down.truncated);
        // One that leaves without a word is found out.
        drop(down);
        while poll_fn(|cx| up.poll_fill(cx)).await.is_ok_and(|bytes| bytes > 0) {}
        assert!(up.truncated || !up.eof);
    }
}

#[tokio::test]
async fn clients_are_let_in_by_their_certificates() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let leaf = ours.issue("a.test", "spiffe://t/server", |_| {});
    let good = ours.issue("b.test", "spiffe://t/client", |_| {});
    let other = theirs.issue("b.test", "spiffe://t/client", |_| {});
    let expired = ours.issue("b.test", "spiffe://t/client", |params| {
        params.not_before = rcgen::date_time_ymd(2001, 1, 1);
        params.not_after = rcgen::date_time_ymd(2002, 1, 1);
    });
    let signing = ours.issue("b.test", "spiffe://t/client", |params| params.key_usages.clear());
    let spiffe = |bundles: &[(&str, &Authority)]| ValidationContext {
        trust: Trust::Spiffe(
            bundles.iter().map(|(name, of)| TrustDomain { name: (*name).into(), bundle: of.bundle() }).collect(),
        ),
        ..ValidationContext::default()
    };
    let named = |pattern| ValidationContext { sans: vec![san(SanKind::Uri, pattern)], ..ours.trusted() };
    let digest = super::certificate::sha256(&good.chain[0]);
    let spki = super::certificate::spki_digest(&good.chain[0]).unwrap();
    let prefix = StringMatch::Prefix(Bytes::from_static(b"spiffe://t/"));
    let expired_ok = ValidationContext { allow_expired_certificate: true, ..ours.trusted() };
    let anybody = ValidationContext { accept_untrusted: true, ..ours.trusted() };
    let revoked = ours.issue("b.test", "spiffe://t/client", |params| params.serial_number = Some(77_u64.into()));
    let listed = || ValidationContext { crls: vec![ours.revokes(77)], ..ours.trusted() };
    let unlisted = ValidationContext { crls: vec![theirs.revokes(77)], ..ours.trusted() };
    let hash = |hashes, spkis| ValidationContext { hashes, spkis, ..ValidationContext::default() };
    let pinned = ValidationContext {
        trust: Trust::Bundle(Arc::new(Bundle { certificates: other.chain.clone(), path: "".into() })),
        ..ValidationContext::default()
    };
    // What the server asks, what the client shows, and what is counted where that won't do.
    type Row<'a> = (&'a str, ValidationContext, Option<&'a Arc<TlsCertificate>>, Option<&'a str>);
    let table: Vec<Row<'_>> = vec![
        ("its own", ours.trusted(), Some(&good), None),
        ("none", ours.trusted(), None, Some("fail_verify_no_cert")),
        ("another authority's", ours.trusted(), Some(&other), Some("fail_verify_error")),
        ("an expired one", ours.trusted(), Some(&expired), Some("fail_verify_error")),
        ("an expired one that will do", expired_ok, Some(&expired), None),
        ("an exact name", named(exact("spiffe://t/client")), Some(&good), None),
        ("a prefix", named(prefix), Some(&good), None),
        ("another name", named(exact("spiffe://t/x")), Some(&good), Some("fail_verify_san")),
        ("a hash", hash(vec![digest], Vec::new()), Some(&good), None),
        ("a key", hash(vec![[0; 32]], vec![spki]), Some(&good), None),
        ("another hash", hash(vec![[0; 32]], Vec::new()), Some(&good), Some("fail_verify_cert_hash")),
        ("anybody", anybody, Some(&other), None),
        ("a leaf in the bundle", pinned, Some(&other), None),
        ("one that is not revoked", listed(), Some(&good), None),
        ("a revoked one", listed(), Some(&revoked), Some("fail_verify_error")),
        ("one that no list tells of", unlisted, Some(&good), Some("fail_verify_error")),
        ("a trust domain", spiffe(&[("x", &theirs), ("t", &ours)]), Some(&good), None),
        ("a domain's other authority", spiffe(&[("t", &theirs)]), Some(&good), Some("fail_verify_error")),
        ("one that may sign others", spiffe(&[("t", &ours)]), Some(&signing), Some("fail_verify_error")),
        ("an unknown domain", spiffe(&[("x", &ours)]), Some(&good), Some("fail_verify_error")),
    ];
    for (what, validation, shown, refused) in table {
        let validates = !validation.accept_untrusted;
        let mut settings = server(context(vec![leaf.clone()], Some(validation), &[]));
        settings.require_client_certificate = true;
        let shown = shown.into_iter().cloned().collect();
        let pair = Pair::new(&settings, client(context(shown, Some(ours.trusted()), &[])));
        let (down, up) = pair.shake().await;
        match refused {
            None => {
                let down = down.unwrap_or_else(|error| panic!("{what}: {error}"));
                let tls = down.tls().unwrap();
                assert_eq!(tls.peer_validated, validates, "{what}");
                assert_eq!(tls.peer.as_ref().unwrap().uri_sans, ["spiffe://t/client"], "{what}");
                assert_eq!(tls.local.as_ref().unwrap().uri_sans, ["spiffe://t/server"], "{what}");
                up.unwrap();
                // Verified anew, each time.
                pair.shake().await.0.unwrap();
                assert_eq!((pair.count("listener", "handshake"), pair.count("listener", "session_reused")), (2, 0));
            }
            Some(counted) => {
                assert!(down.is_err(), "{what}");
                assert_eq!(pair.count("listener", counted), 1, "{what}");
                // With TLS 1.3 a client learns of it afterwards.
                if let Ok(mut up) = up {
                    assert!(poll_fn(|cx| up.poll_fill(cx)).await.is_err(), "{what}");
                }
            }
        }
    }
}

#[test]
fn names_without_an_authority_are_no_context() {
    let authority = Authority::new();
    let leaf = authority.issue("a.test", "x://a", |_| {});
    let sans = vec![san(SanKind::Uri, exact("x://a"))];
    let validation = ValidationContext { sans, ..ValidationContext::default() };
    let towards = Arc::new(client(context(Vec::new(), Some(validation.clone()), &[])));
    assert_eq!(Connector::new(&towards, &resolved(&towards.context)).unwrap_err(), ContextError::Trust);
    let mut settings = server(context(vec![leaf], Some(validation), &[]));
    settings.require_client_certificate = true;
    assert_eq!(Acceptor::new(&settings, &resolved(&settings.context)).unwrap_err(), ContextError::Trust);
}

#[tokio::test]
async fn servers_are_who_they_should_be() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let leaf = ours.issue("*.test", "spiffe://t/server", |_| {});
    let sans = |matchers| ValidationContext { sans: matchers, ..ours.trusted() };
    let table: Vec<(&str, ValidationContext, &str, bool, Option<&str>)> = vec![
        ("its authority", ours.trusted(), "a.test", false, None),
        ("another authority", theirs.trusted(), "a.test", false, Some("fail_verify_error")),
        ("a name that was asked for", ours.trusted(), "a.test", true, None),
        ("a name that wasn't", ours.trusted(), "a.b.test", true, Some("fail_verify_san")),
        ("a DNS name", sans(vec![san(SanKind::Dns, exact("x.test"))]), "a.test", false, None),
        (
            "one of two",
            sans(vec![san(SanKind::Dns, exact("x")), san(SanKind::Uri, exact("spiffe://t/server"))]),
            "",
            false,
            None,
        ),
        (
            "a name of another kind",
            sans(vec![san(SanKind::Email, exact("x.test"))]),
            "",
            false,
            Some("fail_verify_san"),
        ),
    ];
    for (what, validation, sni, same, refused) in table {
        let settings = server(context(vec![leaf.clone()], None, &[]));
        let mut towards = client(context(Vec::new(), Some(validation), &[]));
        towards.sni = sni.into();
        towards.auto_sni_san_validation = same;
        let pair = Pair::new(&settings, towards);
        let (down, up) = pair.shake().await;
        assert_eq!(up.is_err(), refused.is_some(), "{what}");
        if let Some(counted) = refused {
            assert_eq!(pair.count("cluster", counted), 1, "{what}");
            assert!(down.is_err(), "{what}");
        } else {
            assert_eq!(&*down.unwrap().tls().unwrap().server_name, sni, "{what}");
        }
    }
}

#[tokio::test]
async fn a_certificate_is_chosen_by_name() {
    let authority = Authority::new();
    let of = |dns: &str, uri: &str| authority.issue(dns, uri, |_| {});
    let certificates = vec![of("first.test", "x://first"), of("*.test", "x://wildcard"), of("a.test", "x://exact")];
    let check = async |sni: &str, required: bool, expected: Option<&str>| {
        let mut settings = server(context(certificates.clone(), None, &[]));
        settings.require_sni = required;
        let mut towards = client(context(Vec::new(), Some(authority.trusted()), &[]));
        towards.sni = sni.into();
        let (down, up) = Pair::new(&settings, towards).shake().await;
        let found = up.ok().map(|up| up.tls().unwrap().peer.as_ref().unwrap().uri_sans[0].clone());
        assert_eq!(found.as_deref(), expected, "{sni}");
        let shown = down.ok().map(|down| down.tls().unwrap().local.as_ref().unwrap().uri_sans[0].clone());
        assert_eq!(shown.as_deref(), expected, "{sni}");
    };
    check("a.test", false, Some("x://exact")).await;
    check("b.test", false, Some("x://wildcard")).await;
    check("first.test", true, Some("x://first")).await;
    check("a.b.test", false, Some("x://first")).await;
    check("", false, Some("x://first")).await;
    check("", true, None).await;
}

#[tokio::test]
async fn protocols_are_agreed_on_or_there_is_none() {
    let authority = Authority::new();
    let leaf = authority.issue("a.test", "x://a", |_| {});
    let check = async |ours: &[&'static str], theirs: &[&'static str], expected: &str| {
        let settings = server(context(vec![leaf.clone()], None, ours));
        let (down, up) = Pair::new(&settings, client(context(Vec::new(), None, theirs))).shake().await;
        assert_eq!(&*down.unwrap().tls().unwrap().alpn, expected);
        assert_eq!(&*up.unwrap().tls().unwrap().alpn, expected);
    };
    check(&["h2", "http/1.1"], &["http/1.1", "h2"], "h2").await;
    check(&["h2"], &["istio"], "").await;
    check(&[], &["h2"], "").await;
}

#[tokio::test]
async fn sessions_of_plain_servers_are_found_again() {
    let authority = Authority::new();
    let leaf = authority.issue("a.test", "x://a", |_| {});
    for versions in [TlsVersions::Only12, TlsVersions::Only13] {
        let mut settings = server(context(vec![leaf.clone()], None, &[]));
        settings.context.params.versions = versions;
        let pair = Pair::new(&settings, client(context(Vec::new(), Some(authority.trusted()), &[])));
        for _ in 0..2 {
            let (down, up) = pair.shake().await;
            let (mut down, mut up) = (down.unwrap(), up.unwrap());
            // Tickets come with the first bytes.
            send(&mut down, b"x").await;
            assert_eq!(receive(&mut up, 1).await, b"x");
        }
        assert_eq!(pair.count("listener", "session_reused"), 1, "{versions:?}");
        assert_eq!(pair.count("cluster", "session_reused"), 1, "{versions:?}");
    }
}

#[tokio::test]
async fn rubbish_is_refused() {
    let authority = Authority::new();
    let leaf = authority.issue("a.test", "x://a", |_| {});
    let settings = server(context(vec![leaf], None, &["h2"]));
    let acceptor = Acceptor::new(&settings, &resolved(&settings.context)).unwrap();
    let registry = Arc::new(Registry::default());
    let stats = TlsStats::of_listener(&registry, &Arc::from("l"));
    let mut endless = vec![22, 3, 1, 0x40, 0, 1, 0, 0xff, 0xff];
    endless.resize(200_000, 0);
    for sent in [&b"GET / HTTP/1.1\r\n\r\n"[..], &[22, 3, 1, 0, 5, 1, 0, 0, 1, 0], &[21, 3, 3, 0, 2, 2, 40], &endless] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let client = async {
            let mut socket = tokio::net::TcpStream::connect(address).await.unwrap();
            // The server may have left before it has all.
            _ = tokio::io::AsyncWriteExt::write_all(&mut socket, sent).await;
            socket
        };
        let server = async {
            let mut transport = Transport::new(listener.accept().await.unwrap().0).unwrap();
            transport.accept_tls(&acceptor, Duration::from_secs(30), &stats).await
        };
        let (_socket, refused) = tokio::join!(client, server);
        refused.unwrap_err();
    }
}

/// Passes bytes on, so many at a time.
async fn chop(from: tokio::net::TcpStream, to: tokio::net::TcpStream, size: usize) {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let pass = |mut from: tokio::net::tcp::OwnedReadHalf, mut to: tokio::net::tcp::OwnedWriteHalf| async move {
        let mut buffer = vec![0; size];
        while let Ok(read) = from.read(&mut buffer).await {
            if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
                break;
            }
            tokio::task::yield_now().await;
        }
        _ = to.shutdown().await;
    };
    to.set_nodelay(true).unwrap();
    let ((from_read, from_write), (to_read, to_write)) = (from.into_split(), to.into_split());
    tokio::join!(pass(from_read, to_write), pass(to_read, from_write));
}

#[tokio::test]
async fn records_may_come_in_pieces_of_any_size() {
    let authority = Authority::new();
    let leaf = authority.issue("a.test", "spiffe://t/a", |_| {});
    let other = Authority::new().issue("b.test", "spiffe://t/b", |_| {});
    for (size, shown, good) in [(1, &leaf, true), (1, &other, false), (7, &leaf, true), (300, &leaf, true)] {
        let mut settings = server(context(vec![leaf.clone()], Some(authority.trusted()), &["h2"]));
        settings.require_client_certificate = true;
        let towards = client(context(vec![shown.clone()], Some(authority.trusted()), &[]));
        let pair = Pair::new(&settings, towards);
        let (front, back) =
            (TcpListener::bind("127.0.0.1:0").await.unwrap(), TcpListener::bind("127.0.0.1:0").await.unwrap());
        let (front_at, back_at) = (front.local_addr().unwrap(), back.local_addr().unwrap());
        let stats = TlsStats::of_listener(&pair.registry, &Arc::from("l"));
        let relay = async {
            let from = front.accept().await.unwrap().0;
            chop(from, tokio::net::TcpStream::connect(back_at).await.unwrap(), size).await;
        };
        let down = async {
            let mut down = Transport::new(back.accept().await.unwrap().0).unwrap();
            let shaken = down.accept_tls(&pair.acceptor, Duration::from_secs(60), &stats).await;
            assert_eq!(shaken.is_ok(), good, "{size}: {shaken:?}");
            if good {
                let found = receive(&mut down, 20_000).await;
                send(&mut down, &found).await;
                poll_fn(|cx| down.poll_shutdown(cx)).await.unwrap();
            }
        };
        let up = async {
            let mut up = Transport::new(tokio::net::TcpStream::connect(front_at).await.unwrap()).unwrap();
            let target = Target { server_name: None, san: None, host_name: "", alpn: Alpn::Http1 };
            let shaken = up.connect_tls(&pair.connector, &target, &stats).await;
            if good {
                shaken.unwrap();
                let sent = vec![7; 20_000];
                send(&mut up, &sent).await;
                assert_eq!(receive(&mut up, sent.len()).await, sent);
                assert_eq!(poll_fn(|cx| up.poll_fill(cx)).await.unwrap(), 0);
                assert!(!up.truncated);
            } else {
                assert!(poll_fn(|cx| up.poll_fill(cx)).await.is_err());
                // Whatever is tried then, nothing goes on.
                assert!(poll_fn(|cx| up.poll_fill(cx)).await.is_err());
                _ = poll_fn(|cx| up.poll_shutdown(cx)).await;
            }
        };
        tokio::join!(relay, down, up);
    }
}
