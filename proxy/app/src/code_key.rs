//! The public keys that machine code of others must be signed with.
//!
//! A file holds one key or several, as PEM (`-----BEGIN PUBLIC KEY-----`): Ed25519, as `outrigger keygen` or
//! `openssl pkey -pubout` writes them. All of them count, so that one key can take the place of another.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail, ensure};
use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
use outrigger_proto::machine_code::signed_bytes;
use outrigger_proto::pb::outrigger::code::v1::Envelope;
use rustls::pki_types::SubjectPublicKeyInfoDer;
use rustls::pki_types::pem::PemObject;

const FILE_BYTES_MAX: u64 = 64 << 10;
const KEYS_MAX: usize = 16;
/// What a key of this kind has before its 32 bytes, in DER (RFC 8410).
const ED25519_PREFIX: [u8; 12] = [0x30, 0x2a, 0x30, 0x05, 0x06, 0x03, 0x2b, 0x65, 0x70, 0x03, 0x21, 0x00];

/// No key: nothing of others is trusted.
#[derive(Debug, Default)]
pub(crate) struct CodeKeys(Vec<[u8; 32]>);

impl CodeKeys {
    pub(crate) fn load(paths: &[PathBuf]) -> anyhow::Result<CodeKeys> {
        let mut keys = Vec::new();
        for path in paths {
            let of_file = read(path).with_context(|| format!("--wasm-code-key {}", path.display()))?;
            keys.extend(of_file);
        }
        ensure!(keys.len() <= KEYS_MAX, "--wasm-code-key: more than {KEYS_MAX} keys");
        Ok(CodeKeys(keys))
    }

    #[cfg(test)]
    pub(crate) fn only(key: [u8; 32]) -> CodeKeys {
        CodeKeys(vec![key])
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether one of the keys signed the envelope's header.
    pub(crate) fn verify(&self, envelope: &Envelope) -> bool {
        let message = signed_bytes(&envelope.header);
        self.0.iter().any(|key| UnparsedPublicKey::new(&ED25519, key).verify(&message, &envelope.signature).is_ok())
    }
}

fn read(path: &Path) -> anyhow::Result<Vec<[u8; 32]>> {
    let mut pem = Vec::new();
    File::open(path)?.take(FILE_BYTES_MAX + 1).read_to_end(&mut pem)?;
    ensure!(pem.len() as u64 <= FILE_BYTES_MAX, "is larger than {FILE_BYTES_MAX} bytes");
    let mut keys = Vec::new();
    for key in SubjectPublicKeyInfoDer::pem_slice_iter(&pem) {
        let key = key.map_err(|error| anyhow::anyhow!("is no PEM file: {error}"))?;
        match key.strip_prefix(&ED25519_PREFIX).and_then(|raw| <[u8; 32]>::try_from(raw).ok()) {
            Some(raw) => keys.push(raw),
            None => bail!("holds a key that is not an Ed25519 one"),
        }
    }
    ensure!(!keys.is_empty(), "holds no public key (-----BEGIN PUBLIC KEY-----)");
    Ok(keys)
}

#[cfg(test)]
mod tests {
    use aws_lc_rs::encoding::AsDer;
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use base64_of::pem;

    use super::*;

    /// PEM, written by hand.
    mod base64_of {
        pub(super) fn pem(label: &str, der: &[u8]) -> String {
            const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
            let mut text = format!("-----BEGIN {label}-----\n");
            for three in der.chunks(3) {
                let mut group = [0; 4];
                group[1..=three.len()].copy_from_slice(three);
                let number = u32::from_be_bytes(group);
                for place in 0..4 {
                    let digit = DIGITS[(number >> (18 - 6 * place)) as usize & 63];
                    text.push(if place <= three.len() { char::from(digit) } else { '=' });
                }
            }
            text + &format!("\n-----END {label}-----\n")
        }
    }

    fn signed(pair: &Ed25519KeyPair, header: &[u8]) -> Envelope {
        let signature = pair.sign(&signed_bytes(header)).as_ref().to_vec();
        Envelope { header: header.to_vec(), signature, ..Envelope::default() }
    }

    #[test]
    fn only_what_a_key_signed_is_taken() {
        let folder = tempfile::tempdir().unwrap();
        let (one, two) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
        let path = folder.path().join("keys.pem");
        let der = |pair: &Ed25519KeyPair| pair.public_key().as_der().unwrap().as_ref().to_vec();
        std::fs::write(&path, pem("PUBLIC KEY", &der(&one))).unwrap();
        let keys = CodeKeys::load(std::slice::from_ref(&path)).unwrap();
        assert!(keys.verify(&signed(&one, b"header")));
        assert!(!keys.verify(&signed(&two, b"header")));
        assert!(!keys.verify(&Envelope { header: b"other".to_vec(), ..signed(&one, b"header") }));
        assert!(!keys.verify(&Envelope { signature: Vec::new(), ..signed(&one, b"header") }));
        // Without our context in front the same key's signature counts for nothing.
        let bare = Envelope { signature: one.sign(b"header").as_ref().to_vec(), ..signed(&one, b"header") };
        assert!(!keys.verify(&bare));
        assert!(!CodeKeys::default().verify(&signed(&one, b"header")));

        std::fs::write(&path, pem("PUBLIC KEY", &der(&two)) + &pem("PUBLIC KEY", &der(&one))).unwrap();
        let keys = CodeKeys::load(&[path]).unwrap();
        assert!(keys.verify(&signed(&one, b"h")) && keys.verify(&signed(&two, b"h")));
    }

    #[test]
    fn files_that_hold_no_such_key_are_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key.pem");
        let mut of_another_kind = ED25519_PREFIX.to_vec();
        of_another_kind[8] = 0x71;
        of_another_kind.extend([1; 32]);
        for (text, problem) in [
            (String::new(), "holds no public key"),
            ("rubbish".to_owned(), "holds no public key"),
            (pem("PRIVATE KEY", &[1; 48]), "holds no public key"),
            (pem("PUBLIC KEY", &of_another_kind), "not an Ed25519"),
            ("-----BEGIN PUBLIC KEY-----\n!!\n-----END PUBLIC KEY-----\n".to_owned(), "no PEM"),
            (" ".repeat(70_000), "larger"),
        ] {
            std::fs::write(&path, &text).unwrap();
            let error = format!("{:#}", CodeKeys::load(std::slice::from_ref(&path)).unwrap_err());
            assert!(error.contains(problem) && error.contains("key.pem"), "{text:.40}: {error}");
        }
        assert!(CodeKeys::load(&[folder.path().join("none")]).is_err());
    }
}
