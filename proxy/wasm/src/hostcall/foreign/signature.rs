//! `verify_signature` and `sign`: RSA (PKCS #1 v1.5) and ECDSA (ASN.1) over a hash, keys as DER or PEM.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeyPair as RsaKeyPair;
use aws_lc_rs::signature::{self, EcdsaKeyPair, EcdsaSigningAlgorithm, UnparsedPublicKey, VerificationAlgorithm};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{PrivateKeyDer, SubjectPublicKeyInfoDer};

use super::Arguments;
use crate::hostcall::{Cx, Stop};
use crate::status::Status;
use outrigger_attributes::wire::{Fields, put_bytes, put_number};

/// The largest RSA modulus that is signed with: an operation beyond that takes milliseconds.
const RSA_SIGNING_BYTES_MAX: usize = 512;

/// `VerifySignatureArguments` and `SignArguments`, which differ in one field.
#[derive(Default)]
struct Parsed<'a> {
    hash: &'a str,
    key: &'a [u8],
    pem: &'a [u8],
    signature: &'a [u8],
    text: &'a [u8],
}

/// The fields of a message by number: hash function, DER key, PEM key, signature, text.
fn parse(bytes: &[u8], [hash, key, pem, signature, text]: [u32; 5]) -> Option<Parsed<'_>> {
    let mut parsed = Parsed::default();
    for field in Fields::new(bytes) {
        let (number, value) = field.ok()?;
        if number == hash {
            parsed.hash = value.text()?;
        } else if number == key {
            parsed.key = value.bytes()?;
        } else if number == pem {
            parsed.pem = value.bytes()?;
        } else if number == signature {
            parsed.signature = value.bytes()?;
        } else if number == text {
            parsed.text = value.bytes()?;
        }
    }
    Some(parsed)
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum KeyKind {
    Rsa,
    P256,
    P384,
    P521,
}

/// From the algorithm's identifier, which stands at the beginning of every key (RFC 5480, RFC 8017).
fn key_kind(der: &[u8]) -> Option<KeyKind> {
    let head = &der[..der.len().min(48)];
    let has = |oid: &[u8]| head.windows(oid.len()).any(|window| window == oid);
    if has(&[0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01]) {
        Some(KeyKind::Rsa)
    } else if has(&[0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07]) {
        Some(KeyKind::P256)
    } else if has(&[0x2b, 0x81, 0x04, 0x00, 0x22]) {
        Some(KeyKind::P384)
    } else if has(&[0x2b, 0x81, 0x04, 0x00, 0x23]) {
        Some(KeyKind::P521)
    } else {
        None
    }
}

fn verifier(kind: KeyKind, hash: &str) -> Option<&'static dyn VerificationAlgorithm> {
    Some(match (kind, hash) {
        (KeyKind::Rsa, "sha1") => &signature::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (KeyKind::Rsa, "sha256") => &signature::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (KeyKind::Rsa, "sha384") => &signature::RSA_PKCS1_2048_8192_SHA384,
        (KeyKind::Rsa, "sha512") => &signature::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        (KeyKind::P256, "sha1") => &signature::ECDSA_P256_SHA1_ASN1,
        (KeyKind::P256, "sha256") => &signature::ECDSA_P256_SHA256_ASN1,
        (KeyKind::P256, "sha384") => &signature::ECDSA_P256_SHA384_ASN1,
        (KeyKind::P256, "sha512") => &signature::ECDSA_P256_SHA512_ASN1,
        (KeyKind::P384, "sha256") => &signature::ECDSA_P384_SHA256_ASN1,
        (KeyKind::P384, "sha384") => &signature::ECDSA_P384_SHA384_ASN1,
        (KeyKind::P384, "sha512") => &signature::ECDSA_P384_SHA512_ASN1,
        (KeyKind::P521, "sha1") => &signature::ECDSA_P521_SHA1_ASN1,
        (KeyKind::P521, "sha224") => &signature::ECDSA_P521_SHA224_ASN1,
        (KeyKind::P521, "sha256") => &signature::ECDSA_P521_SHA256_ASN1,
        (KeyKind::P521, "sha384") => &signature::ECDSA_P521_SHA384_ASN1,
        (KeyKind::P521, "sha512") => &signature::ECDSA_P521_SHA512_ASN1,
        _ => return None,
    })
}

/// A result with `result`, `signature` (of `sign` only) and `error`.
pub(super) fn verify(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    let parsed = parse(arguments.of(cx)?, [1, 2, 5, 3, 4]).ok_or(Status::BadArgument)?;
    let key = match (parsed.key, parsed.pem) {
        ([], []) => return Err(Status::BadArgument.into()),
        (der, []) => SubjectPublicKeyInfoDer::from(der),
        ([], pem) => SubjectPublicKeyInfoDer::from_pem_slice(pem).map_err(|_| Status::BadArgument)?,
        _ => return Err(Status::BadArgument.into()),
    };
    let kind = key_kind(&key).ok_or(Status::BadArgument)?;
    let hash = parsed.hash.to_ascii_lowercase();
    let verified = match verifier(kind, &hash) {
        None => Err(format!("{hash} is not supported.")),
        Some(algorithm) => UnparsedPublicKey::new(algorithm, &key)
            .verify(parsed.text, parsed.signature)
            .map_err(|_| "Failed to verify digest.".to_owned()),
    };
    let mut out = Vec::new();
    put_number(&mut out, 1, u64::from(verified.is_ok()));
    put_bytes(&mut out, 2, verified.err().unwrap_or_default().as_bytes());
    Ok(out)
}

pub(super) fn sign(cx: &mut Cx<'_>, arguments: Arguments) -> Result<Vec<u8>, Stop> {
    const ABSENT: u32 = 0;
    let parsed = parse(arguments.of(cx)?, [1, 2, 4, ABSENT, 3]).ok_or(Status::BadArgument)?;
    let pem_key;
    let der = match (parsed.key, parsed.pem) {
        ([], []) => return Err(Status::BadArgument.into()),
        (der, []) => der,
        ([], pem) => {
            pem_key = PrivateKeyDer::from_pem_slice(pem).map_err(|_| Status::BadArgument)?;
            pem_key.secret_der()
        }
        _ => return Err(Status::BadArgument.into()),
    };
    let hash = parsed.hash.to_ascii_lowercase();
    let signed = match signing_key(der)? {
        SigningKey::Rsa(key) => sign_rsa(&key, &hash, parsed.text),
        SigningKey::Ec(kind) => sign_ec(der, kind, &hash, parsed.text),
    };
    let mut out = Vec::new();
    put_number(&mut out, 1, u64::from(signed.is_ok()));
    put_bytes(&mut out, 2, signed.as_deref().unwrap_or_default());
    put_bytes(&mut out, 3, signed.err().unwrap_or_default().as_bytes());
    Ok(out)
}

enum SigningKey {
    Rsa(Box<RsaKeyPair>),
    Ec(KeyKind),
}

/// PKCS #8, or the older forms of the two kinds.
fn signing_key(der: &[u8]) -> Result<SigningKey, Status> {
    match key_kind(der) {
        Some(KeyKind::Rsa) => RsaKeyPair::from_pkcs8(der).map(Box::new).map(SigningKey::Rsa),
        Some(kind) => return Ok(SigningKey::Ec(kind)),
        None => match RsaKeyPair::from_der(der) {
            Ok(key) => Ok(SigningKey::Rsa(Box::new(key))),
            // RFC 5915 names the curve after the key, past where the kind is looked for.
            Err(error) => {
                return key_kind(&der[der.len().min(32)..]).map(SigningKey::Ec).ok_or_else(|| {
                    tracing::debug!("no private key: {error}");
                    Status::BadArgument
                });
            }
        },
    }
    .map_err(|_| Status::BadArgument)
}

fn sign_rsa(key: &RsaKeyPair, hash: &str, text: &[u8]) -> Result<Vec<u8>, String> {
    let encoding = match hash {
        "sha256" => &signature::RSA_PKCS1_SHA256,
        "sha384" => &signature::RSA_PKCS1_SHA384,
        "sha512" => &signature::RSA_PKCS1_SHA512,
        _ => return Err(format!("{hash} is not supported.")),
    };
    if key.public_modulus_len() > RSA_SIGNING_BYTES_MAX {
        return Err("The key is too large.".to_owned());
    }
    let mut signed = vec![0; key.public_modulus_len()];
    key.sign(encoding, &SystemRandom::new(), text, &mut signed).map_err(|_| "Failed to sign.".to_owned())?;
    Ok(signed)
}

fn sign_ec(der: &[u8], kind: KeyKind, hash: &str, text: &[u8]) -> Result<Vec<u8>, String> {
    let algorithm: &'static EcdsaSigningAlgorithm = match (kind, hash) {
        (KeyKind::P256, "sha256") => &signature::ECDSA_P256_SHA256_ASN1_SIGNING,
        (KeyKind::P384, "sha384") => &signature::ECDSA_P384_SHA384_ASN1_SIGNING,
        (KeyKind::P521, "sha224") => &signature::ECDSA_P521_SHA224_ASN1_SIGNING,
        (KeyKind::P521, "sha256") => &signature::ECDSA_P521_SHA256_ASN1_SIGNING,
        (KeyKind::P521, "sha384") => &signature::ECDSA_P521_SHA384_ASN1_SIGNING,
        (KeyKind::P521, "sha512") => &signature::ECDSA_P521_SHA512_ASN1_SIGNING,
        _ => return Err(format!("{hash} is not supported for this key.")),
    };
    let key = EcdsaKeyPair::from_pkcs8(algorithm, der)
        .or_else(|_| EcdsaKeyPair::from_private_key_der(algorithm, der))
        .map_err(|_| "The key is invalid.".to_owned())?;
    let signed = key.sign(&SystemRandom::new(), text).map_err(|_| "Failed to sign.".to_owned())?;
    Ok(signed.as_ref().to_vec())
}
