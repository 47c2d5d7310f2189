//! `outrigger keygen`, and the key that machine code is signed with.

use std::fs::{File, OpenOptions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::Path;

use anyhow::{Context as _, Result, bail, ensure};
use aws_lc_rs::encoding::AsDer as _;
use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
use outrigger_proto::machine_code::signed_bytes;
use outrigger_proto::pb::outrigger::code::v1::Envelope;
use rustls_pki_types::PrivatePkcs8KeyDer;
use rustls_pki_types::pem::PemObject as _;
use sha2::{Digest as _, Sha256};

use crate::args::Keygen;

const FILE_BYTES_MAX: u64 = 64 << 10;
const KEY_ID_BYTES: usize = 8;

/// Signs for the fleet.
pub(crate) struct SigningKey {
    pair: Ed25519KeyPair,
    id: Vec<u8>,
}

impl std::fmt::Debug for SigningKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SigningKey").field("id", &self.id).finish_non_exhaustive()
    }
}

/// Makes a pair; never in the place of another one.
pub(crate) fn keygen(arguments: &Keygen) -> Result<()> {
    let pair = Ed25519KeyPair::generate().map_err(|_| anyhow::anyhow!("the system gives no randomness"))?;
    let fail = |_| anyhow::anyhow!("the key cannot be written down");
    let private = pair.to_pkcs8v1().map_err(fail)?;
    let public = pair.public_key().as_der().map_err(fail)?;
    create(&arguments.private_key, 0o600, &pem("PRIVATE KEY", private.as_ref()))?;
    create(&arguments.public_key, 0o644, &pem("PUBLIC KEY", public.as_ref()))?;
    let mut out = std::io::stdout().lock();
    writeln!(out, "private key, for outrigger serve --machine-code-key: {}", arguments.private_key.display())?;
    writeln!(out, "public key, for outrigger-proxy --wasm-code-key:     {}", arguments.public_key.display())?;
    Ok(())
}

fn create(path: &Path, mode: u32, text: &str) -> Result<()> {
    let file = OpenOptions::new().write(true).create_new(true).mode(mode).open(path);
    file.and_then(|mut file| file.write_all(text.as_bytes())).with_context(|| path.display().to_string())
}

fn pem(label: &str, der: &[u8]) -> String {
    use std::fmt::Write as _;
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let digit = |number: u32, place: u32| char::from(DIGITS[(number >> (18 - 6 * place)) as usize & 63]);
    let mut text = format!("-----BEGIN {label}-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let mut group = [0; 4];
            group[1..=three.len()].copy_from_slice(three);
            let number = u32::from_be_bytes(group);
            let filled = three.len() as u32;
            text.extend((0..4).map(|place| if place <= filled { digit(number, place) } else { '=' }));
        }
        text.push('\n');
    }
    // Writing to a string cannot fail.
    let _ = writeln!(text, "-----END {label}-----");
    text
}

impl SigningKey {
    /// An Ed25519 key in PKCS#8, as PEM, that others cannot read.
    pub(crate) fn load(path: &Path) -> Result<Self> {
        let read = || {
            let file = File::open(path)?;
            let mode = file.metadata()?.mode();
            ensure!(mode & 0o007 == 0, "others can read it (mode {:o}); it must be 600", mode & 0o777);
            let mut text = Vec::new();
            file.take(FILE_BYTES_MAX + 1).read_to_end(&mut text)?;
            ensure!(text.len() as u64 <= FILE_BYTES_MAX, "it is larger than {FILE_BYTES_MAX} bytes");
            let Ok(key) = PrivatePkcs8KeyDer::from_pem_slice(&text) else {
                bail!("it holds no key (-----BEGIN PRIVATE KEY-----)");
            };
            let Ok(pair) = Ed25519KeyPair::from_pkcs8(key.secret_pkcs8_der()) else {
                bail!("it holds no Ed25519 key");
            };
            let der = pair.public_key().as_der().map_err(|_| anyhow::anyhow!("it holds no Ed25519 key"))?;
            let id = Sha256::digest(der.as_ref())[..KEY_ID_BYTES].to_vec();
            Ok(Self { pair, id })
        };
        read().with_context(|| format!("--machine-code-key {}", path.display()))
    }

    /// The envelope of a header, signed.
    pub(crate) fn sign(&self, header: Vec<u8>) -> Envelope {
        let signature = self.pair.sign(&signed_bytes(&header)).as_ref().to_vec();
        Envelope { header, signature, key_id: self.id.clone() }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use aws_lc_rs::signature::{ED25519, UnparsedPublicKey};
    use rustls_pki_types::SubjectPublicKeyInfoDer;

    use super::*;

    fn arguments(folder: &Path) -> Keygen {
        Keygen { private_key: folder.join("code.key"), public_key: folder.join("code.pub") }
    }

    #[test]
    fn a_pair_signs_and_checks() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(folder.path());
        keygen(&arguments).unwrap();
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!(mode(&arguments.private_key), 0o600);
        let key = SigningKey::load(&arguments.private_key).unwrap();
        let envelope = key.sign(b"header".to_vec());
        let public = SubjectPublicKeyInfoDer::from_pem_file(&arguments.public_key).unwrap();
        let public = UnparsedPublicKey::new(&ED25519, public.as_ref());
        assert!(public.verify(&signed_bytes(b"header"), &envelope.signature).is_ok());
        assert!(public.verify(&signed_bytes(b"another"), &envelope.signature).is_err());
        // Never in the place of another pair.
        assert!(keygen(&arguments).is_err());
        assert!(SigningKey::load(&arguments.private_key).is_ok());
    }

    #[test]
    fn other_files_are_no_keys() {
        let folder = tempfile::tempdir().unwrap();
        let arguments = arguments(folder.path());
        keygen(&arguments).unwrap();
        let refused = |path: &Path| format!("{:#}", SigningKey::load(path).unwrap_err());
        assert!(refused(&folder.path().join("none")).contains("No such file"));
        std::fs::set_permissions(&arguments.public_key, std::fs::Permissions::from_mode(0o600)).unwrap();
        assert!(refused(&arguments.public_key).contains("holds no key"));
        std::fs::write(&arguments.public_key, pem("PRIVATE KEY", &[1, 2, 3])).unwrap();
        assert!(refused(&arguments.public_key).contains("no Ed25519 key"));
        std::fs::set_permissions(&arguments.private_key, std::fs::Permissions::from_mode(0o604)).unwrap();
        assert!(refused(&arguments.private_key).contains("others can read it"));
    }
}
