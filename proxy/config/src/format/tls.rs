//! Operators that tell of a connection's TLS.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use outrigger_http::{CertificateInfo, StreamInfo, TlsInfo};

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
    SessionId,
    Local(Of),
    Peer(Of),
}

/// What of a certificate.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Of {
    Subject,
    Issuer,
    Serial,
    Fingerprint,
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
            _ => {
                let downstream = name.strip_prefix("DOWNSTREAM_").map(|rest| (Side::Downstream, rest));
                let (side, rest) =
                    downstream.or_else(|| name.strip_prefix("UPSTREAM_").map(|rest| (Side::Upstream, rest)))?;
                (side, of_connection(rest)?)
            }
        };
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
        if self.fact == Fact::Failure {
            return text(&info.downstream_transport_failure_reason);
        }
        let tls = match self.side {
            Side::Downstream => &info.downstream_tls,
            Side::Upstream => &info.upstream_tls,
        };
        tls.as_deref().map_or(Value::Absent, |tls| self.of_tls(tls))
    }

    fn of_tls<'a>(&'a self, tls: &'a TlsInfo) -> Value<'a> {
        let certificate = |of, certificate: &'a Option<Arc<CertificateInfo>>| match certificate {
            Some(certificate) => self.of_certificate(of, certificate),
            None => Value::Absent,
        };
        match self.fact {
            Fact::Version => text(tls.version),
            Fact::Cipher => text(tls.cipher),
            Fact::SessionId => text(&tls.session_id),
            Fact::Local(of) => certificate(of, &tls.local),
            Fact::Peer(of) => certificate(of, &tls.peer),
            Fact::Failure => Value::Absent,
        }
    }

    fn of_certificate<'a>(&'a self, of: Of, certificate: &'a CertificateInfo) -> Value<'a> {
        match of {
            Of::Subject => text(&certificate.subject),
            Of::Issuer => text(&certificate.issuer),
            Of::Serial => text(&certificate.serial),
            Of::Fingerprint => text(&certificate.sha256),
            Of::Uris => joined(&certificate.uri_sans),
            Of::DnsNames => joined(&certificate.dns_sans),
            Of::Ips => joined(&certificate.ip_sans),
            Of::Emails => joined(&certificate.email_sans),
            Of::Pem => Value::Owned(certificate.url_encoded_pem().into_bytes()),
            Of::Start => Value::Time(&self.format, time(certificate.not_before)),
            Of::End => Value::Time(&self.format, time(certificate.not_after)),
        }
    }
}

/// `TLS_VERSION` and the like, of either side.
fn of_connection(rest: &str) -> Option<Fact> {
    let of = |rest: &str| CERTIFICATE.iter().find(|(name, _)| *name == rest).map(|(_, of)| *of);
    match rest {
        "TLS_VERSION" => Some(Fact::Version),
        "TLS_CIPHER" => Some(Fact::Cipher),
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
    use outrigger_http::StreamState;

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
        state.info.downstream_tls = Some(Arc::new(tls.clone()));
        state.info.upstream_tls = Some(Arc::new(tls));
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
