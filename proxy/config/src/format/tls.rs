//! Operators that tell of a connection's TLS.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_http::{CertificateInfo, StreamInfo, TlsInfo};

use super::certificate::{self, Hash};
use super::facts::unspaced;
use super::time::TimeFormat;
use super::value::Value;

/// A fact of the client's or the origin's connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct TlsOperator {
    side: Side,
    fact: Fact,
    /// Of a point in time.
    format: TimeFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Downstream,
    Upstream,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Fact {
    Failure,
    Version,
    Cipher,
    Group,
    SessionId,
    /// That the origin was asked for.
    ServerName,
    Local(Of),
    Peer(Of),
    /// The certificate that issued the peer's.
    PeerIssuer(Issuer),
    Ja3,
    Ja4,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Issuer {
    Fingerprint,
    Serial,
}

/// What of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Subject,
    Issuer,
    Serial,
    Fingerprint,
    Sha1,
    ChainFingerprints(Hash),
    ChainSerials,
    OtherNames,
    Uris,
    DnsNames,
    Ips,
    Emails,
    Pem,
    Start,
    End,
}

const CERTIFICATE: &[(&str, Of)] = &[
    ("SUBJECT", Of::Subject),
    ("ISSUER", Of::Issuer),
    ("SERIAL", Of::Serial),
    ("FINGERPRINT_256", Of::Fingerprint),
    ("FINGERPRINT_1", Of::Sha1),
    ("CHAIN_FINGERPRINTS_256", Of::ChainFingerprints(Hash::Sha256)),
    ("CHAIN_FINGERPRINTS_1", Of::ChainFingerprints(Hash::Sha1)),
    ("CHAIN_SERIALS", Of::ChainSerials),
    ("OTHERNAME_SAN", Of::OtherNames),
    ("URI_SAN", Of::Uris),
    ("DNS_SAN", Of::DnsNames),
    ("IP_SAN", Of::Ips),
    ("EMAIL_SAN", Of::Emails),
    ("CERT", Of::Pem),
    ("CERT_V_START", Of::Start),
    ("CERT_V_END", Of::End),
];

impl TlsOperator {
    /// `None`: the operator is of another kind. `Err`: its argument is wrong.
    pub(crate) fn parse(name: &str, argument: Option<&str>) -> Option<Result<TlsOperator, String>> {
        let (side, fact) = match name {
            "DOWNSTREAM_TRANSPORT_FAILURE_REASON" => (Side::Downstream, Fact::Failure),
            "UPSTREAM_SERVER_NAME" => (Side::Upstream, Fact::ServerName),
            "TLS_JA3_FINGERPRINT" => (Side::Downstream, Fact::Ja3),
            "TLS_JA4_FINGERPRINT" => (Side::Downstream, Fact::Ja4),
            _ => {
                let downstream = name.strip_prefix("DOWNSTREAM_").map(|rest| (Side::Downstream, rest));
                let (side, rest) =
                    downstream.or_else(|| name.strip_prefix("UPSTREAM_").map(|rest| (Side::Upstream, rest)))?;
                (side, of_connection(rest)?)
            }
        };
        if matches!((side, fact), (Side::Upstream, Fact::PeerIssuer(_))) {
            return None;
        }
        let is_time = matches!(fact, Fact::Peer(Of::Start | Of::End) | Fact::Local(Of::Start | Of::End));
        let format = match argument {
            None | Some("") => TimeFormat::iso(),
            Some(text) if is_time => match TimeFormat::parse(text) {
                Ok(format) => format,
                Err(problem) => return Some(Err(problem)),
            },
            Some(_) => return Some(Err("takes no argument".to_owned())),
        };
        Some(Ok(TlsOperator { side, fact, format }))
    }

    pub(crate) fn value<'a>(&'a self, info: &'a StreamInfo) -> Value<'a> {
        let of_hello = || info.downstream.connection.as_deref();
        match self.fact {
            Fact::Failure => return unspaced(&info.downstream.transport_failure_reason),
            Fact::Ja3 => return of_hello().map_or(Value::Absent, |connection| text(&connection.ja3)),
            Fact::Ja4 => return of_hello().map_or(Value::Absent, |connection| text(&connection.ja4)),
            _ => {}
        }
        let tls = match self.side {
            Side::Downstream => info.downstream.tls.as_ref(),
            Side::Upstream => info.upstream.as_ref().and_then(|upstream| upstream.tls.as_ref()),
        };
        tls.map_or(Value::Absent, |tls| self.of_tls(tls))
    }

    fn of_tls<'a>(&'a self, tls: &'a TlsInfo) -> Value<'a> {
        let certificate = |of, certificate: &'a Option<Arc<CertificateInfo>>| match certificate {
            Some(certificate) => self.of_certificate(of, certificate),
            None => Value::Absent,
        };
        match self.fact {
            Fact::Version => text(tls.version),
            Fact::Cipher => text(tls.cipher),
            Fact::Group => text(tls.group),
            Fact::SessionId => text(&tls.session_id),
            Fact::ServerName => text(&tls.server_name),
            Fact::Local(of) => certificate(of, &tls.local),
            Fact::Peer(of) => certificate(of, &tls.peer),
            Fact::PeerIssuer(of) => certificate::issuer(tls).map_or(Value::Absent, |issuer| match of {
                Issuer::Fingerprint => owned(certificate::fingerprint(issuer, Hash::Sha256)),
                Issuer::Serial => owned(certificate::serial(issuer)),
            }),
            Fact::Failure | Fact::Ja3 | Fact::Ja4 => Value::Absent,
        }
    }

    fn of_certificate<'a>(&'a self, of: Of, info: &'a CertificateInfo) -> Value<'a> {
        let leaf = info.chain.first();
        let of_chain = |of: &dyn Fn(&[u8]) -> String| {
            let all: Vec<String> = info.chain.iter().map(|der| of(der)).collect();
            owned(all.join(","))
        };
        match of {
            Of::Sha1 => leaf.map_or(Value::Absent, |leaf| owned(certificate::fingerprint(leaf, Hash::Sha1))),
            Of::ChainFingerprints(hash) => of_chain(&|der| certificate::fingerprint(der, hash)),
            Of::ChainSerials => of_chain(&certificate::serial),
            Of::OtherNames => leaf.map_or(Value::Absent, |leaf| owned(certificate::other_names(leaf).join(","))),
            Of::Subject => text(&info.subject),
            Of::Issuer => text(&info.issuer),
            Of::Serial => text(&info.serial),
            Of::Fingerprint => text(&info.sha256),
            Of::Uris => joined(&info.uri_sans),
            Of::DnsNames => joined(&info.dns_sans),
            Of::Ips => joined(&info.ip_sans),
            Of::Emails => joined(&info.email_sans),
            Of::Pem => Value::Owned(info.url_encoded_pem().into_bytes()),
            Of::Start => Value::Time(&self.format, time(info.not_before)),
            Of::End => Value::Time(&self.format, time(info.not_after)),
        }
    }
}

/// `TLS_VERSION` and the like, of either side.
fn of_connection(rest: &str) -> Option<Fact> {
    let of = |rest: &str| CERTIFICATE.iter().find(|(name, _)| *name == rest).map(|(_, of)| *of);
    match rest {
        "TLS_VERSION" => Some(Fact::Version),
        "TLS_CIPHER" => Some(Fact::Cipher),
        "TLS_GROUP" => Some(Fact::Group),
        "PEER_ISSUER_FINGERPRINT_256" => Some(Fact::PeerIssuer(Issuer::Fingerprint)),
        "PEER_ISSUER_SERIAL" => Some(Fact::PeerIssuer(Issuer::Serial)),
        "TLS_SESSION_ID" => Some(Fact::SessionId),
        _ => match rest.strip_prefix("PEER_") {
            Some(rest) => of(rest).map(Fact::Peer),
            None => of(rest.strip_prefix("LOCAL_")?).map(Fact::Local),
        },
    }
}

/// As the inspector or the handshake saw it.
fn text(text: &str) -> Value<'_> {
    if text.is_empty() { Value::Absent } else { Value::Bytes(text.as_bytes()) }
}

fn owned(text: String) -> Value<'static> {
    if text.is_empty() { Value::Absent } else { Value::Owned(text.into_bytes()) }
}

/// Envoy joins by a comma.
fn joined(names: &[String]) -> Value<'_> {
    match names {
        [] => Value::Absent,
        [one] => text(one),
        several => Value::Owned(several.join(",").into_bytes()),
    }
}

fn time(seconds: i64) -> SystemTime {
    UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;
    use std::rc::Rc;

    use outrigger_http::{StreamState, UpstreamInfo};

    use super::*;
    use crate::Format;

    #[test]
    fn facts_of_tls() {
        let peer = CertificateInfo {
            subject: "CN=p".to_owned(),
            uri_sans: vec!["spiffe://a/b".to_owned()],
            dns_sans: vec!["x".to_owned(), "y".to_owned()],
            sha256: "ab".to_owned(),
            not_after: 1_000_000_000,
            ..CertificateInfo::default()
        };
        let tls = TlsInfo {
            version: "TLSv1.3",
            cipher: "TLS_AES_128_GCM_SHA256",
            server_name: "sni.test".into(),
            peer: Some(Arc::new(peer)),
            ..TlsInfo::default()
        };
        let mut state = StreamState::default();
        state.info.downstream_mut().tls = Some(Arc::new(tls.clone()));
        let mut upstream = UpstreamInfo::new(SocketAddr::from(([10, 0, 0, 1], 443)).into());
        upstream.tls = Some(Arc::new(tls));
        state.info.upstream = Some(Rc::new(upstream));
        let check = |format: &str, expected: &str| {
            let mut found = Vec::new();
            Format::parse(format).unwrap().write(&state, &mut found);
            assert_eq!(String::from_utf8_lossy(&found), expected, "{format}");
        };
        check(
            "%REQUESTED_SERVER_NAME% %DOWNSTREAM_TLS_VERSION% %UPSTREAM_TLS_CIPHER%",
            "sni.test TLSv1.3 TLS_AES_128_GCM_SHA256",
        );
        check("%DOWNSTREAM_PEER_SUBJECT% %DOWNSTREAM_PEER_URI_SAN% %DOWNSTREAM_PEER_DNS_SAN%", "CN=p spiffe://a/b x,y");
        check("%DOWNSTREAM_PEER_FINGERPRINT_256% %UPSTREAM_PEER_URI_SAN%", "ab spiffe://a/b");
        check("%DOWNSTREAM_PEER_CERT_V_END(%Y-%m-%d)% %DOWNSTREAM_LOCAL_SUBJECT%", "2001-09-09 -");
        assert!(Format::parse("%DOWNSTREAM_PEER_SUBJECT(x)%").is_err());
        assert!(Format::parse("%DOWNSTREAM_PEER_NONE%").is_err());
    }
}
