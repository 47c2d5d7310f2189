//! What a certificate says.

use std::fmt::Write;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;

use aws_lc_rs::digest;
use bytes::Bytes;
use outrigger_config::{SanKind, SanMatcher, StringMatch};
use outrigger_http::CertificateInfo;
use rustls_pki_types::CertificateDer;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate, X509Name};

/// The facts of a chain's leaf; `None` where it can't be read.
pub(super) fn info(chain: &[CertificateDer<'_>]) -> Option<Arc<CertificateInfo>> {
    let leaf = chain.first()?;
    let (_, certificate) = X509Certificate::from_der(leaf).ok()?;
    let mut info = CertificateInfo {
        subject: name(certificate.subject()),
        issuer: name(certificate.issuer()),
        serial: hex(strip_zeros(certificate.raw_serial())),
        sha256: hex(&sha256(leaf)),
        not_before: certificate.validity().not_before.timestamp(),
        not_after: certificate.validity().not_after.timestamp(),
        chain: chain.iter().map(|certificate| Bytes::copy_from_slice(certificate)).collect(),
        ..CertificateInfo::default()
    };
    for san in sans(&certificate) {
        match san {
            GeneralName::URI(uri) => info.uri_sans.push((*uri).to_owned()),
            GeneralName::DNSName(dns) => info.dns_sans.push((*dns).to_owned()),
            GeneralName::RFC822Name(email) => info.email_sans.push((*email).to_owned()),
            GeneralName::IPAddress(bytes) => info.ip_sans.extend(ip(bytes).map(|ip| ip.to_string())),
            _ => {}
        }
    }
    Some(Arc::new(info))
}

fn sans<'c>(certificate: &'c X509Certificate<'_>) -> &'c [GeneralName<'c>] {
    match certificate.subject_alternative_name() {
        Ok(Some(extension)) => &extension.value.general_names,
        _ => &[],
    }
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    match bytes.len() {
        4 => <[u8; 4]>::try_from(bytes).ok().map(|bytes| IpAddr::V4(Ipv4Addr::from(bytes))),
        16 => <[u8; 16]>::try_from(bytes).ok().map(|bytes| IpAddr::V6(Ipv6Addr::from(bytes))),
        _ => None,
    }
}

pub(super) fn sha256(bytes: &[u8]) -> [u8; 32] {
    let digest = digest::digest(&digest::SHA256, bytes);
    digest.as_ref().try_into().unwrap_or_default()
}

/// Whom the certificates of a server are for, and who says so: the same for those that they are renewed by.
pub(super) fn identity<'c>(leaves: impl Iterator<Item = &'c CertificateDer<'c>>) -> [u8; 32] {
    let mut told = digest::Context::new(&digest::SHA256);
    let mut tell = |kind: u8, bytes: &[u8]| {
        told.update(&[kind]);
        told.update(&(bytes.len() as u64).to_be_bytes());
        told.update(bytes);
    };
    for leaf in leaves {
        let Ok((_, certificate)) = X509Certificate::from_der(leaf) else {
            tell(b'?', leaf);
            continue;
        };
        tell(b'I', certificate.issuer().as_raw());
        certificate.subject().iter_common_name().for_each(|name| tell(b'C', name.attr_value().data));
        for san in sans(&certificate) {
            match san {
                GeneralName::DNSName(name) => tell(b'D', name.as_bytes()),
                GeneralName::URI(name) => tell(b'U', name.as_bytes()),
                GeneralName::IPAddress(bytes) => tell(b'A', bytes),
                _ => {}
            }
        }
    }
    told.finish().as_ref().try_into().unwrap_or_default()
}

/// SHA-256 of a certificate's public key.
pub(super) fn spki_digest(certificate: &CertificateDer<'_>) -> Option<[u8; 32]> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    Some(sha256(certificate.public_key().raw))
}

/// The names that a server certificate is chosen by: its DNS SANs, or its common name where it has none; lower case.
pub(super) fn server_names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return Vec::new() };
    let dns = sans(&certificate).iter().filter_map(|san| match san {
        GeneralName::DNSName(dns) => Some(dns.to_ascii_lowercase()),
        _ => None,
    });
    let names: Vec<String> = dns.collect();
    if !names.is_empty() {
        return names;
    }
    let common = certificate.subject().iter_common_name().filter_map(|name| name.as_str().ok());
    common.map(str::to_ascii_lowercase).collect()
}

/// Whether a SAN of a certificate is what one of the matchers wants.
pub(super) fn any_san_matches(certificate: &CertificateDer<'_>, matchers: &[SanMatcher]) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    sans(&certificate).iter().any(|san| matchers.iter().any(|matcher| matches(matcher, san)))
}

/// Whether a DNS SAN of a certificate is this name.
pub(super) fn dns_san_is(certificate: &CertificateDer<'_>, wanted: &str) -> bool {
    let Ok((_, certificate)) = X509Certificate::from_der(certificate) else { return false };
    let address: Option<IpAddr> = wanted.parse().ok();
    sans(&certificate).iter().any(|san| match san {
        GeneralName::DNSName(dns) => dns_matches(wanted, dns),
        GeneralName::IPAddress(bytes) => address.is_some() && ip(bytes) == address,
        _ => false,
    })
}

/// The trust domain of a SPIFFE identity: of the only URI SAN, `spiffe://DOMAIN/...`. `None` for anything that is no
/// X.509-SVID: a certificate of an authority, or of one that may sign certificates.
pub(super) fn trust_domain(certificate: &CertificateDer<'_>) -> Option<String> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    // One that doesn't say what its key is for may sign certificates, too.
    let signs = match certificate.key_usage() {
        Ok(Some(usage)) => usage.value.key_cert_sign() || usage.value.crl_sign(),
        Ok(None) | Err(_) => true,
    };
    if certificate.is_ca() || signs {
        return None;
    }
    let mut uris = sans(&certificate).iter().filter_map(|san| match san {
        GeneralName::URI(uri) => Some(*uri),
        _ => None,
    });
    let (uri, another) = (uris.next()?, uris.next());
    if another.is_some() {
        return None;
    }
    let domain = uri.strip_prefix("spiffe://")?.split('/').next()?;
    (!domain.is_empty()).then(|| domain.to_owned())
}

/// When a certificate begins and ends to be valid.
pub(super) fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let (_, certificate) = X509Certificate::from_der(certificate).ok()?;
    let validity = certificate.validity();
    let seconds = |timestamp: i64| u64::try_from(timestamp).unwrap_or_default();
    Some((seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp())))
}

fn matches(matcher: &SanMatcher, san: &GeneralName<'_>) -> bool {
    let text = |text: &str| matcher.matcher.matches(text.as_bytes());
    let any = matcher.kind == SanKind::Any;
    match san {
        GeneralName::DNSName(dns) if any || matcher.kind == SanKind::Dns => match &matcher.matcher.pattern {
            StringMatch::Exact(wanted) => std::str::from_utf8(wanted).is_ok_and(|wanted| dns_matches(wanted, dns)),
            _ => text(dns),
        },
        GeneralName::URI(uri) if any || matcher.kind == SanKind::Uri => text(uri),
        GeneralName::RFC822Name(email) if any || matcher.kind == SanKind::Email => text(email),
        GeneralName::IPAddress(bytes) if any || matcher.kind == SanKind::Ip => {
            ip(bytes).is_some_and(|ip| text(&ip.to_string()))
        }
        _ => false,
    }
}

/// A name against one of a certificate, which may have a wildcard for its first label.
pub(super) fn dns_matches(name: &str, presented: &str) -> bool {
    if name.eq_ignore_ascii_case(presented) {
        return true;
    }
    let Some(suffix) = presented.strip_prefix('*').filter(|suffix| suffix.len() > 1 && suffix.starts_with('.')) else {
        return false;
    };
    name.split_once('.').is_some_and(|(first, rest)| !first.is_empty() && rest.eq_ignore_ascii_case(&suffix[1..]))
}

fn strip_zeros(bytes: &[u8]) -> &[u8] {
    let zeros = bytes.iter().take_while(|byte| **byte == 0).count();
    &bytes[zeros.min(bytes.len().saturating_sub(1))..]
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a string cannot fail.
        _ = write!(text, "{byte:02x}");
        text
    })
}

/// RFC 2253: the most specific part first, as OpenSSL prints it with `XN_FLAG_RFC2253`.
fn name(name: &X509Name<'_>) -> String {
    let mut parts: Vec<String> = name
        .iter_rdn()
        .map(|rdn| {
            let attributes = rdn.iter().map(|attribute| {
                let oid = attribute.attr_type().to_id_string();
                match (short_name(&oid), attribute.as_str()) {
                    (Some(short), Ok(text)) => format!("{short}={}", escaped(text)),
                    (_, Ok(text)) => format!("{oid}={}", escaped(text)),
                    (short, Err(_)) => format!("{}=#{}", short.unwrap_or(&oid), hex(attribute.attr_value().data)),
                }
            });
            attributes.collect::<Vec<_>>().join("+")
        })
        .collect();
    parts.reverse();
    parts.join(",")
}

fn short_name(oid: &str) -> Option<&'static str> {
    Some(match oid {
        "2.5.4.3" => "CN",
        "2.5.4.4" => "SN",
        "2.5.4.5" => "serialNumber",
        "2.5.4.6" => "C",
        "2.5.4.7" => "L",
        "2.5.4.8" => "ST",
        "2.5.4.9" => "street",
        "2.5.4.10" => "O",
        "2.5.4.11" => "OU",
        "2.5.4.12" => "title",
        "2.5.4.42" => "GN",
        "1.2.840.113549.1.9.1" => "emailAddress",
        "0.9.2342.19200300.100.1.1" => "UID",
        "0.9.2342.19200300.100.1.25" => "DC",
        _ => return None,
    })
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (at, byte) in text.bytes().enumerate() {
        let edge = (at == 0 && matches!(byte, b' ' | b'#')) || (at + 1 == text.len() && byte == b' ');
        match byte {
            b',' | b'+' | b'"' | b'\\' | b'<' | b'>' | b';' => {
                out.push('\\');
                out.push(char::from(byte));
            }
            _ if edge => {
                out.push('\\');
                out.push(char::from(byte));
            }
            0x20..0x7f => out.push(char::from(byte)),
            // Writing to a string cannot fail.
            _ => _ = write!(out, "\\{byte:02X}"),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_hosts() {
        let check =
            |name, presented, expected| assert_eq!(dns_matches(name, presented), expected, "{name} {presented}");
        check("a.test", "A.test", true);
        check("a.test", "*.test", true);
        check("a.b.test", "*.test", false);
        check("test", "*.test", false);
        check(".test", "*.test", false);
        check("a.test", "*", false);
        check("a.test", "*.", false);
        check("a.test", "b.test", false);
    }

    #[test]
    fn texts_of_names_are_escaped() {
        assert_eq!(escaped("a,b+\"c\""), "a\\,b\\+\\\"c\\\"");
        assert_eq!(escaped(" #x "), "\\ #x\\ ");
        assert_eq!(escaped("é\n"), "\\C3\\A9\\0A");
    }

    #[test]
    fn serial_numbers_lose_their_sign_byte() {
        assert_eq!(hex(strip_zeros(&[0, 0xa1, 0])), "a100");
        assert_eq!(hex(strip_zeros(&[0])), "00");
    }
}
