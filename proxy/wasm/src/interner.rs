//! Names and values that a guest writes again and again: kept, so that writing them copies nothing.
//!
//! A small table without chains: what falls on a taken place goes in its stead. A value is kept from its second time on, so
//! that values which differ with each request push nothing out. All of it is bounded: places times [`VALUE_BYTES_MAX`].

use bytes::Bytes;
use outrigger_http::{HeaderName, InvalidName};

const PLACES: usize = 64;
const VALUE_BYTES_MAX: usize = 128;

/// What one VM wrote lately.
#[derive(Debug)]
pub(crate) struct Interner {
    names: Vec<Option<HeaderName>>,
    values: Vec<Value>,
}

#[derive(Debug, Clone, Default)]
struct Value {
    bytes: Bytes,
    /// The hash of what came here last and isn't kept.
    seen: u64,
}

impl Interner {
    pub(crate) const fn new() -> Interner {
        Interner { names: Vec::new(), values: Vec::new() }
    }

    #[inline]
    pub(crate) fn name(&mut self, bytes: &[u8]) -> Result<HeaderName, InvalidName> {
        let at = place(hash(bytes));
        if let Some(Some(name)) = self.names.get(at)
            && name.as_bytes() == bytes
        {
            return Ok(name.clone());
        }
        let name = HeaderName::from_bytes(bytes)?;
        if self.names.is_empty() {
            self.names.resize(PLACES, None);
        }
        if bytes.len() <= VALUE_BYTES_MAX {
            self.names[at] = Some(name.clone());
        }
        Ok(name)
    }

    #[inline]
    pub(crate) fn value(&mut self, bytes: &[u8]) -> Bytes {
        if bytes.is_empty() || bytes.len() > VALUE_BYTES_MAX {
            return Bytes::copy_from_slice(bytes);
        }
        let hash = hash(bytes);
        let at = place(hash);
        if let Some(value) = self.values.get(at)
            && value.bytes == bytes
        {
            return value.bytes.clone();
        }
        self.new_value(bytes, hash, at)
    }

    fn new_value(&mut self, bytes: &[u8], hash: u64, at: usize) -> Bytes {
        if self.values.is_empty() {
            self.values.resize(PLACES, Value::default());
        }
        let copy = Bytes::copy_from_slice(bytes);
        let value = &mut self.values[at];
        if value.seen == hash {
            value.bytes = copy.clone();
        }
        value.seen = hash;
        copy
    }
}

/// Mixes length, first and last eight bytes: headers of one length that agree in these meet at one place, and no harm is done.
#[inline]
fn hash(bytes: &[u8]) -> u64 {
    let word = |piece: &[u8]| {
        let mut word = [0; 8];
        word[..piece.len()].copy_from_slice(piece);
        u64::from_le_bytes(word)
    };
    let (first, last) = match bytes.len() {
        0..8 => (word(bytes), 0),
        len => (word(&bytes[..8]), word(&bytes[len - 8..])),
    };
    let mixed = (first ^ last.rotate_left(23) ^ bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ mixed >> 32
}

#[inline]
#[expect(clippy::cast_possible_truncation, reason = "below the number of places")]
fn place(hash: u64) -> usize {
    (hash % PLACES as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_is_made_once() {
        let mut interner = Interner::new();
        let first = interner.name(b"x-custom").expect("a token");
        let second = interner.name(b"x-custom").expect("a token");
        assert_eq!(first.as_bytes().as_ptr(), second.as_bytes().as_ptr());
        assert_eq!(interner.name(b"X-Custom").expect("a token"), first);
        assert!(interner.name(b"no token").is_err());
        assert_eq!(interner.name(b"Content-Type").expect("a token"), HeaderName::CONTENT_TYPE);
    }

    #[test]
    fn a_value_is_kept_from_its_second_time_on() {
        let mut interner = Interner::new();
        let mut value = |bytes: &[u8]| interner.value(bytes);
        let (a, b, c) = (value(b"constant"), value(b"constant"), value(b"constant"));
        assert_ne!(a.as_ptr(), b.as_ptr());
        assert_eq!(b.as_ptr(), c.as_ptr());
        for index in 0..1000_u32 {
            assert_eq!(value(&index.to_le_bytes()), &index.to_le_bytes()[..]);
        }
        assert_eq!(value(b"constant").as_ptr(), b.as_ptr(), "what comes once pushes nothing out");
        assert_eq!(value(&[7; VALUE_BYTES_MAX + 1]).len(), VALUE_BYTES_MAX + 1);
        assert!(value(b"").is_empty());
    }
}
