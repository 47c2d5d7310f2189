//! The file form of machine code ([`pb::outrigger::code::v1`](crate::pb::outrigger::code::v1)): what stands before it.
//!
//! Reading is for hostile bytes: every length is bounded before anything of that length is looked at. Whether the code may
//! be run is not decided here.

use prost::Message;

use crate::pb::outrigger::code::v1::{Envelope, Header};

/// What a file starts with.
pub const MAGIC: &[u8; 8] = b"OUTRMC01";
/// Magic and length of the envelope.
pub const PREFIX_BYTES: usize = 12;
/// The largest envelope.
pub const ENVELOPE_BYTES_MAX: usize = 16 << 10;
/// What is signed before the header's bytes, so that a signature means nothing elsewhere.
const CONTEXT: &[u8] = b"outrigger machine code v1\n";

/// Why bytes are no machine code in its file form.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Malformed {
    /// Something else.
    Magic,
    /// The envelope is longer than it may be.
    TooLarge,
    /// The envelope or the header is no such message.
    Message,
}

impl std::fmt::Display for Malformed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Malformed::Magic => "it doesn't start as machine code does",
            Malformed::TooLarge => "what stands before the machine code is too large",
            Malformed::Message => "what stands before the machine code cannot be read",
        })
    }
}

impl std::error::Error for Malformed {}

/// How long the envelope is that follows the first [`PREFIX_BYTES`] bytes.
///
/// # Errors
///
/// These are not the first bytes of machine code.
pub fn envelope_bytes(prefix: &[u8; PREFIX_BYTES]) -> Result<usize, Malformed> {
    let (magic, length) = prefix.split_at(MAGIC.len());
    if magic != MAGIC {
        return Err(Malformed::Magic);
    }
    let length: [u8; 4] = length.try_into().map_err(|_| Malformed::Magic)?;
    let length = usize::try_from(u32::from_be_bytes(length)).map_err(|_| Malformed::TooLarge)?;
    if length <= ENVELOPE_BYTES_MAX { Ok(length) } else { Err(Malformed::TooLarge) }
}

/// The envelope and the header in it.
///
/// # Errors
///
/// They are no such messages.
pub fn decode(envelope: &[u8]) -> Result<(Envelope, Header), Malformed> {
    let envelope = Envelope::decode(envelope).map_err(|_| Malformed::Message)?;
    let header = Header::decode(envelope.header.as_slice()).map_err(|_| Malformed::Message)?;
    Ok((envelope, header))
}

/// The bytes that a signature is over.
#[must_use]
pub fn signed_bytes(header: &[u8]) -> Vec<u8> {
    [CONTEXT, header].concat()
}

/// What stands before the code; `None`: the envelope is too large.
#[must_use]
pub fn encode(envelope: &Envelope) -> Option<Vec<u8>> {
    let length = u32::try_from(envelope.encoded_len()).ok()?;
    if envelope.encoded_len() > ENVELOPE_BYTES_MAX {
        return None;
    }
    let mut bytes = MAGIC.to_vec();
    bytes.extend_from_slice(&length.to_be_bytes());
    bytes.extend_from_slice(&envelope.encode_to_vec());
    Some(bytes)
}

/// A whole file taken apart: envelope, header, code.
///
/// # Errors
///
/// It is no such file.
pub fn split(bytes: &[u8]) -> Result<(Envelope, Header, &[u8]), Malformed> {
    let (prefix, rest) = bytes.split_first_chunk::<PREFIX_BYTES>().ok_or(Malformed::Magic)?;
    let (envelope, code) = rest.split_at_checked(envelope_bytes(prefix)?).ok_or(Malformed::Message)?;
    let (envelope, header) = decode(envelope)?;
    Ok((envelope, header, code))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let header = Header { engine: "e".to_owned(), code_bytes: 4, ..Header::default() };
        let envelope = Envelope { header: header.encode_to_vec(), signature: vec![1; 64], key_id: vec![2; 8] };
        let file = [encode(&envelope).unwrap(), b"code".to_vec()].concat();
        assert_eq!(split(&file), Ok((envelope, header, b"code".as_slice())));
    }

    #[test]
    fn rubbish_is_refused() {
        let file = [encode(&Envelope::default()).unwrap(), b"code".to_vec()].concat();
        for length in 0..PREFIX_BYTES {
            assert_eq!(split(&file[..length]), Err(Malformed::Magic), "{length}");
        }
        let with_length = |length: u32, rest: &[u8]| [MAGIC.as_slice(), &length.to_be_bytes(), rest].concat();
        assert_eq!(split(&with_length(u32::MAX, b"")), Err(Malformed::TooLarge));
        assert_eq!(split(&with_length(9, b"12345678")), Err(Malformed::Message));
        assert_eq!(split(&with_length(2, &[0xff, 0xff])), Err(Malformed::Message));
        // An envelope whose header is none.
        let envelope = Envelope { header: vec![0xff], ..Envelope::default() };
        assert_eq!(split(&encode(&envelope).unwrap()), Err(Malformed::Message));
        assert_eq!(encode(&Envelope { header: vec![0; ENVELOPE_BYTES_MAX], ..Envelope::default() }), None);
        let mut other = file;
        other[0] = b'X';
        assert_eq!(split(&other), Err(Malformed::Magic));
    }
}
