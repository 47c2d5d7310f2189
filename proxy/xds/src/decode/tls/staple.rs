//! OCSP responses (RFC 6960 §4.2.1): of which certificate one speaks, and until when.
//!
//! Nobody here judges a signature or a status: that is for the client, for whom the response is passed on as it is.

use outrigger_config::Staple;
use outrigger_proto::pb;
use pb::envoy::extensions::transport_sockets::tls::v3 as tls;
use rustls_pki_types::CertificateDer;
use x509_parser::der_parser::asn1_rs::GeneralizedTime;
use x509_parser::prelude::{FromDer, X509Certificate};

use super::super::common::data_source;
use crate::Diagnostics;

/// A response with a delegate's certificate has some 2 kB.
const RESPONSE_BYTES_MAX: usize = 64 << 10;

const INTEGER: u8 = 0x02;
const OCTETS: u8 = 0x04;
const ENUMERATED: u8 = 0x0a;
const GENERALIZED_TIME: u8 = 0x18;
const SEQUENCE: u8 = 0x30;
const EXPLICIT_0: u8 = 0xa0;

/// TLS features (RFC 7633), and the one that stands for OCSP.
const TLS_FEATURES: &str = "1.3.6.1.5.5.7.1.24";
const STATUS_REQUEST: [u8; 3] = [INTEGER, 1, 5];

/// What a response says of its first certificate.
#[derive(Debug, PartialEq, Eq)]
struct Response<'a> {
    serial: &'a [u8],
    /// `None`: it has no end.
    next_update: Option<i64>,
}

/// `ocsp_staple` of a certificate.
pub(super) fn staple(
    proto: &tls::TlsCertificate,
    leaf: &CertificateDer<'_>,
    d: &mut Diagnostics,
) -> Option<Option<Staple>> {
    let Some(source) = &proto.ocsp_staple else { return Some(None) };
    d.at("ocsp_staple", |d| {
        // In text it would be something else.
        if matches!(source.specifier, Some(pb::envoy::config::core::v3::data_source::Specifier::InlineString(_))) {
            d.at("inline_string", |d| d.error("a response is DER: inline_bytes or filename"));
            return None;
        }
        let bytes = data_source(source, RESPONSE_BYTES_MAX, d)?;
        match read(&bytes) {
            Err(problem) => {
                d.error(problem);
                None
            }
            Ok(response) if serial(leaf).is_none_or(|serial| serial != response.serial) => {
                d.error("is about another certificate");
                None
            }
            Ok(response) => {
                Some(Some(Staple { expires: response.next_update.unwrap_or(i64::MIN), response: bytes.clone() }))
            }
        }
    })
}

fn serial<'a>(leaf: &'a CertificateDer<'a>) -> Option<&'a [u8]> {
    X509Certificate::from_der(leaf).ok().map(|(_, leaf)| leaf.raw_serial())
}

/// Whether a certificate says that it must not come without a response.
pub(super) fn must_staple(leaf: &CertificateDer<'_>) -> bool {
    let Ok((_, leaf)) = X509Certificate::from_der(leaf) else { return false };
    let mut features = leaf.extensions().iter().filter(|extension| extension.oid.to_id_string() == TLS_FEATURES);
    features.any(|features| features.value.windows(STATUS_REQUEST.len()).any(|part| part == STATUS_REQUEST))
}

fn read(bytes: &[u8]) -> Result<Response<'_>, &'static str> {
    const MALFORMED: &str = "is no well-formed OCSP response";
    let (mut outer, rest) = value(bytes, SEQUENCE).ok_or(MALFORMED)?;
    if !rest.is_empty() {
        return Err(MALFORMED);
    }
    if take(&mut outer, ENUMERATED).ok_or(MALFORMED)? != [0] {
        return Err("says that the responder had no answer");
    }
    basic(outer).ok_or(MALFORMED)
}

/// `ResponseBytes` with a `BasicOCSPResponse`, the only kind.
fn basic(mut outer: &[u8]) -> Option<Response<'_>> {
    let mut bytes = take(&mut outer, EXPLICIT_0)?;
    let mut typed = take(&mut bytes, SEQUENCE)?;
    skip(&mut typed)?;
    let (mut basic, _) = value(take(&mut typed, OCTETS)?, SEQUENCE)?;
    let mut data = take(&mut basic, SEQUENCE)?;
    // version, responderID, producedAt
    if data.first() == Some(&EXPLICIT_0) {
        skip(&mut data)?;
    }
    skip(&mut data)?;
    take(&mut data, GENERALIZED_TIME)?;
    let mut responses = take(&mut data, SEQUENCE)?;
    let mut single = take(&mut responses, SEQUENCE)?;
    let mut id = take(&mut single, SEQUENCE)?;
    // hashAlgorithm, issuerNameHash, issuerKeyHash
    skip(&mut id)?;
    take(&mut id, OCTETS)?;
    take(&mut id, OCTETS)?;
    let serial = take(&mut id, INTEGER)?;
    // certStatus, thisUpdate
    skip(&mut single)?;
    take(&mut single, GENERALIZED_TIME)?;
    let next_update = match single.first() {
        Some(&EXPLICIT_0) => Some(time(take(&mut single, EXPLICIT_0)?)?),
        _ => None,
    };
    Some(Response { serial, next_update })
}

fn time(bytes: &[u8]) -> Option<i64> {
    let (_, time) = GeneralizedTime::from_der(bytes).ok()?;
    Some(time.utc_datetime().ok()?.unix_timestamp())
}

fn take<'a>(bytes: &mut &'a [u8], tag: u8) -> Option<&'a [u8]> {
    let (found, rest) = value(bytes, tag)?;
    *bytes = rest;
    Some(found)
}

fn skip(bytes: &mut &[u8]) -> Option<()> {
    let tag = *bytes.first()?;
    take(bytes, tag).map(|_| ())
}

/// The value with this tag at the beginning, and what comes after it. Lengths of up to four bytes.
fn value(bytes: &[u8], tag: u8) -> Option<(&[u8], &[u8])> {
    let (found, rest) = bytes.split_first()?;
    let (length, rest) = rest.split_first()?;
    let (length, rest) = match length {
        0..=0x7f => (usize::from(*length), rest),
        0x81..=0x84 => {
            let (digits, rest) = rest.split_at_checked(usize::from(length & 0x7f))?;
            (digits.iter().fold(0, |sum, digit| sum << 8 | usize::from(*digit)), rest)
        }
        _ => return None,
    };
    (*found == tag).then(|| rest.split_at_checked(length)).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn der(tag: u8, parts: &[&[u8]]) -> Vec<u8> {
        let body = parts.concat();
        let length = body.len();
        let head =
            if length < 128 { vec![tag, length as u8] } else { vec![tag, 0x82, (length >> 8) as u8, length as u8] };
        [head, body].concat()
    }

    /// A response of a responder that says nothing about its status.
    fn response(status: u8, serial: &[u8], next_update: Option<&str>) -> Vec<u8> {
        let time = |text: &str| der(GENERALIZED_TIME, &[text.as_bytes()]);
        let id = der(
            SEQUENCE,
            &[&der(SEQUENCE, &[]), &der(OCTETS, &[&[1; 20]]), &der(OCTETS, &[&[2; 20]]), &der(INTEGER, &[serial])],
        );
        let next = next_update.map(|text| der(EXPLICIT_0, &[&time(text)])).unwrap_or_default();
        let single = der(SEQUENCE, &[&id, &der(0x80, &[]), &time("20260101000000Z"), &next]);
        let data =
            der(SEQUENCE, &[&der(0xa1, &[&der(SEQUENCE, &[])]), &time("20260101000000Z"), &der(SEQUENCE, &[&single])]);
        let basic = der(SEQUENCE, &[&data, &der(SEQUENCE, &[]), &der(0x03, &[&[0, 1]])]);
        let typed = der(SEQUENCE, &[&der(0x06, &[&[43, 6, 1]]), &der(OCTETS, &[&basic])]);
        der(SEQUENCE, &[&der(ENUMERATED, &[&[status]]), &der(EXPLICIT_0, &[&typed])])
    }

    #[test]
    fn responses_tell_their_certificate_and_their_end() {
        let ends = response(0, &[0, 0x9a, 1], Some("20300102030405Z"));
        assert_eq!(read(&ends), Ok(Response { serial: &[0, 0x9a, 1], next_update: Some(1_893_553_445) }));
        assert_eq!(read(&response(0, &[7], None)), Ok(Response { serial: &[7], next_update: None }));
        assert_eq!(read(&response(3, &[7], None)), Err("says that the responder had no answer"));
    }

    #[test]
    fn anything_else_is_no_response() {
        let good = response(0, &[7], Some("20300102030405Z"));
        assert!(read(&[&good[..], &[0]].concat()).is_err());
        for end in 0..good.len() {
            assert!(read(&good[..end]).is_err());
        }
        for at in 0..good.len() {
            for byte in [0, 1, 0x30, 0x7f, 0x80, 0x84, 0xff] {
                let mut bytes = good.clone();
                bytes[at] = byte;
                // Whatever it says: it ends, within its bytes.
                _ = read(&bytes);
            }
        }
        assert!(read(&response(0, &[7], Some("tomorrow"))).is_err());
    }
}
