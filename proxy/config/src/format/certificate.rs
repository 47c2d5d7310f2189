//! What of certificates is only worked out for the logs that name it: digests of chains, serial numbers, other names, the
//! issuer.

use aws_lc_rs::digest::{self, Algorithm};
use bytes::Bytes;
use outrigger_http::{TlsInfo, hex};
use x509_parser::der_parser::ber::{BerObject, BerObjectContent};
use x509_parser::der_parser::der::parse_der;
use x509_parser::extensions::ParsedExtension;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Hash {
    Sha1,
    Sha256,
}

/// In hexadecimal digits.
pub(super) fn fingerprint(der: &[u8], hash: Hash) -> String {
    let algorithm: &Algorithm = match hash {
        Hash::Sha1 => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        Hash::Sha256 => &digest::SHA256,
    };
    hex(digest::digest(algorithm, der).as_ref())
}

/// In hexadecimal digits, without leading zeros in bytes; empty where the certificate can't be read.
pub(super) fn serial(der: &[u8]) -> String {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return String::new() };
    let serial = certificate.raw_serial();
    let zeros = serial.iter().take_while(|byte| **byte == 0).count();
    hex(&serial[zeros.min(serial.len().saturating_sub(1))..])
}

/// The values of the OtherNames among a certificate's subject alternative names.
pub(super) fn other_names(der: &[u8]) -> Vec<String> {
    let Ok((_, certificate)) = X509Certificate::from_der(der) else { return Vec::new() };
    let Ok(Some(names)) = certificate.subject_alternative_name() else { return Vec::new() };
    let others = names.value.general_names.iter().filter_map(|name| match name {
        GeneralName::OtherName(_, value) => other_name(value),
        _ => None,
    });
    others.collect()
}

/// The value stands in a tag of its own (RFC 5280 §4.2.1.6).
fn other_name(tagged: &[u8]) -> Option<String> {
    let (_, explicit) = parse_der(tagged).ok()?;
    let inner = explicit.content.as_slice().unwrap_or_default();
    let (_, value) = parse_der(inner).ok()?;
    text_of(&value)
}

fn text_of(value: &BerObject<'_>) -> Option<String> {
    match &value.content {
        BerObjectContent::Boolean(value) => Some(value.to_string()),
        BerObjectContent::Integer(_) | BerObjectContent::Enum(_) => {
            value.as_i64().ok().map(|number| number.to_string())
        }
        BerObjectContent::OID(oid) => Some(oid.to_id_string()),
        BerObjectContent::Null => Some(String::new()),
        other => other.as_slice().ok().map(|bytes| String::from_utf8_lossy(bytes).into_owned()),
    }
}

/// The certificate that issued the peer's, out of what the peer has shown and of the trust anchors; `None`: the peer's was
/// not checked, or is a trust anchor itself.
pub(super) fn issuer(tls: &TlsInfo) -> Option<&Bytes> {
    let peer = tls.peer.as_deref().filter(|_| tls.peer_validated)?;
    let (leaf, shown) = peer.chain.split_first()?;
    let authorities = tls.authorities.as_deref().unwrap_or_default();
    let (_, leaf) = X509Certificate::from_der(leaf).ok()?;
    shown.iter().chain(authorities).find(|candidate| {
        X509Certificate::from_der(candidate).is_ok_and(|(_, candidate)| has_issued(&candidate, &leaf))
    })
}

/// By its name, and its key's id where both say one: authorities of one name may have had several keys.
fn has_issued(candidate: &X509Certificate<'_>, leaf: &X509Certificate<'_>) -> bool {
    let wanted = leaf.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    });
    let own = candidate.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    });
    candidate.subject().as_raw() == leaf.issuer().as_raw() && wanted.zip(own).is_none_or(|(wanted, own)| wanted == own)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fingerprints() {
        assert_eq!(fingerprint(b"abc", Hash::Sha1), "a9993e364706816aba3e25717850c26c9cd0d89d");
        assert!(fingerprint(b"abc", Hash::Sha256).starts_with("ba7816bf8f01cfea"));
        assert_eq!(serial(b"no certificate"), "");
        assert!(other_names(b"no certificate").is_empty());
    }

    #[test]
    fn other_names_are_texts() {
        let check = |value: &[u8], expected: Option<&str>| {
            let tagged = [&[0xa0, u8::try_from(value.len()).unwrap()], value].concat();
            assert_eq!(other_name(&tagged).as_deref(), expected, "{value:x?}");
        };
        check(b"\x0c\x04user", Some("user"));
        check(b"\x16\x01a", Some("a"));
        check(b"\x01\x01\xff", Some("true"));
        check(b"\x02\x01\x2a", Some("42"));
        check(b"\x06\x03\x2a\x03\x04", Some("1.2.3.4"));
        check(b"\x0c\x09", None);
    }
}
