//! Machine code that somebody else made: it is hostile until its signature is checked, and nothing is written before.
//!
//! A key vouches for a header; the header names the module, the engine and the digest of the code. So the header is
//! checked as soon as it is there, and the code while it comes.

use std::fs::File;
use std::io::Write;

use outrigger_http::hex;
use outrigger_proto::machine_code::{self, Malformed, PREFIX_BYTES};
use outrigger_proto::pb::outrigger::code::v1::Header;
use sha2::{Digest as _, Sha256};

use crate::cache::Digest;
use crate::code_key::CodeKeys;

/// Machine code that is fetched is at most this large.
pub(crate) const FETCHED_BYTES_MAX: u64 = 256 << 20;

/// What the bytes must be.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Expected<'a> {
    pub(crate) module: &'a Digest,
    pub(crate) engine: &'a str,
    pub(crate) keys: &'a CodeKeys,
}

/// Why they are not.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    #[error(transparent)]
    Malformed(#[from] Malformed),
    #[error("nobody has signed it")]
    Unsigned,
    #[error("none of our keys has signed it")]
    Signature,
    #[error("it is of module {0}")]
    Module(String),
    #[error("it is for engine {0}")]
    Engine(String),
    #[error("it has {0} bytes, more than {FETCHED_BYTES_MAX}")]
    TooLarge(u64),
    #[error("it is cut off: {0} of {1} bytes")]
    Truncated(u64, u64),
    #[error("it has more bytes than its header says")]
    TooLong,
    #[error("its bytes are not those that were signed")]
    Code,
    #[error("cannot keep it: {0}")]
    Write(#[source] std::io::Error),
}

/// Takes a file of machine code piece by piece, and writes the code.
#[derive(Debug)]
pub(crate) struct Receiver<'a> {
    expected: Expected<'a>,
    to: &'a File,
    /// What came before the header was whole.
    head: Vec<u8>,
    /// Once its signature is checked.
    header: Option<Header>,
    hasher: Sha256,
    written: u64,
}

impl<'a> Receiver<'a> {
    pub(crate) fn new(expected: Expected<'a>, to: &'a File) -> Receiver<'a> {
        Receiver { expected, to, head: Vec::new(), header: None, hasher: Sha256::new(), written: 0 }
    }

    pub(crate) fn take(&mut self, piece: &[u8]) -> Result<(), Refused> {
        if self.header.is_some() {
            return self.write(piece);
        }
        self.head.extend_from_slice(piece);
        let Some((prefix, rest)) = self.head.split_first_chunk::<PREFIX_BYTES>() else { return Ok(()) };
        let length = machine_code::envelope_bytes(prefix)?;
        let Some((envelope, code)) = rest.split_at_checked(length) else { return Ok(()) };
        let header = check(self.expected, envelope)?;
        let code = code.to_vec();
        self.head = Vec::new();
        self.header = Some(header);
        self.write(&code)
    }

    fn write(&mut self, piece: &[u8]) -> Result<(), Refused> {
        let length = self.header.as_ref().map_or(0, |header| header.code_bytes);
        self.written += piece.len() as u64;
        if self.written > length {
            return Err(Refused::TooLong);
        }
        self.hasher.update(piece);
        self.to.write_all(piece).map_err(Refused::Write)
    }

    /// All has come: whether it is what was signed.
    pub(crate) fn finish(self) -> Result<(), Refused> {
        let header = self.header.ok_or(Malformed::Message)?;
        if self.written < header.code_bytes {
            return Err(Refused::Truncated(self.written, header.code_bytes));
        }
        if self.hasher.finalize()[..] == header.code_sha256[..] { Ok(()) } else { Err(Refused::Code) }
    }
}

fn check(expected: Expected<'_>, envelope: &[u8]) -> Result<Header, Refused> {
    let (envelope, header) = machine_code::decode(envelope)?;
    if envelope.signature.is_empty() {
        return Err(Refused::Unsigned);
    }
    if !expected.keys.verify(&envelope) {
        return Err(Refused::Signature);
    }
    if header.module_sha256[..] != expected.module[..] {
        return Err(Refused::Module(hex(&header.module_sha256)));
    }
    if header.engine != expected.engine {
        return Err(Refused::Engine(header.engine.chars().take(64).collect()));
    }
    if header.code_bytes > FETCHED_BYTES_MAX {
        return Err(Refused::TooLarge(header.code_bytes));
    }
    Ok(header)
}

#[cfg(test)]
pub(crate) mod tests {
    use std::io::{Read, Seek, SeekFrom};

    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair};
    use outrigger_proto::pb::outrigger::code::v1::Envelope;
    use prost::Message;

    use super::*;
    use crate::cache::digest;

    fn header(code: &[u8]) -> Header {
        Header {
            module_sha256: digest(b"module").to_vec(),
            engine: "engine".to_owned(),
            code_sha256: digest(code).to_vec(),
            code_bytes: code.len() as u64,
            ..Header::default()
        }
    }

    fn file(pair: &Ed25519KeyPair, header: &Header, code: &[u8]) -> Vec<u8> {
        let header = header.encode_to_vec();
        let signature = pair.sign(&machine_code::signed_bytes(&header)).as_ref().to_vec();
        let envelope = Envelope { header, signature, key_id: Vec::new() };
        [machine_code::encode(&envelope).unwrap(), code.to_vec()].concat()
    }

    fn receive(keys: &CodeKeys, bytes: &[u8], piece: usize) -> (Result<(), Refused>, Vec<u8>) {
        let module = digest(b"module");
        let mut to = tempfile::tempfile().unwrap();
        let mut receiver = Receiver::new(Expected { module: &module, engine: "engine", keys }, &to);
        let taken = bytes.chunks(piece).try_for_each(|piece| receiver.take(piece));
        let outcome = taken.and_then(|()| receiver.finish());
        let mut written = Vec::new();
        to.seek(SeekFrom::Start(0)).unwrap();
        to.read_to_end(&mut written).unwrap();
        (outcome, written)
    }

    fn keys(pair: &Ed25519KeyPair) -> CodeKeys {
        CodeKeys::only(pair.public_key().as_ref().try_into().unwrap())
    }

    #[test]
    fn signed_code_is_written_whatever_its_pieces() {
        let pair = Ed25519KeyPair::generate().unwrap();
        let bytes = file(&pair, &header(b"machine code"), b"machine code");
        for piece in [1, 7, 64, 4096] {
            let (outcome, written) = receive(&keys(&pair), &bytes, piece);
            assert!(outcome.is_ok(), "{piece}: {outcome:?}");
            assert_eq!(written, b"machine code");
        }
    }

    #[test]
    fn everything_else_is_refused_and_nothing_unsigned_is_written() {
        let (pair, other) = (Ed25519KeyPair::generate().unwrap(), Ed25519KeyPair::generate().unwrap());
        let code = b"machine code".as_slice();
        let good = header(code);
        let whole = file(&pair, &good, code);
        let unsigned = {
            let envelope = Envelope { header: good.encode_to_vec(), ..Envelope::default() };
            [machine_code::encode(&envelope).unwrap(), code.to_vec()].concat()
        };
        let mut signature = whole.clone();
        let at = signature.len() - code.len() - 3;
        signature[at] ^= 1;
        let cases: Vec<(&str, Vec<u8>, &str)> = vec![
            ("wrong key", file(&other, &good, code), "none of our keys"),
            ("unsigned", unsigned, "nobody has signed"),
            ("signature", signature, "none of our keys"),
            ("module", file(&pair, &Header { module_sha256: vec![7; 32], ..good.clone() }, code), "of module 0707"),
            ("no module", file(&pair, &Header { module_sha256: Vec::new(), ..good.clone() }, code), "of module "),
            ("engine", file(&pair, &Header { engine: "e2".to_owned(), ..good.clone() }, code), "for engine e2"),
            (
                "oversized",
                file(&pair, &Header { code_bytes: FETCHED_BYTES_MAX + 1, ..good.clone() }, code),
                "more than",
            ),
            ("rubbish", b"<html>not here</html>".to_vec(), "doesn't start"),
            ("empty", Vec::new(), "cannot be read"),
        ];
        for (name, bytes, problem) in cases {
            for piece in [1, 4096] {
                let (outcome, written) = receive(&keys(&pair), &bytes, piece);
                let error = outcome.expect_err(name).to_string();
                assert!(error.contains(problem), "{name}: {error}");
                assert_eq!(written, b"", "{name}");
            }
        }
        // What is signed and doesn't keep its word.
        let mut tampered = whole.clone();
        *tampered.last_mut().unwrap() ^= 1;
        assert!(matches!(receive(&keys(&pair), &tampered, 64).0, Err(Refused::Code)));
        for cut in [1, code.len()] {
            let cut = receive(&keys(&pair), &whole[..whole.len() - cut], 64).0;
            assert!(matches!(cut, Err(Refused::Truncated(..))), "{cut:?}");
        }
        let longer = [whole.clone(), b"!".to_vec()].concat();
        assert!(matches!(receive(&keys(&pair), &longer, 64).0, Err(Refused::TooLong)));
        // No input at all makes it panic.
        for length in 0..whole.len() {
            assert!(receive(&keys(&pair), &whole[..length], 9).0.is_err(), "{length}");
        }
    }
}
