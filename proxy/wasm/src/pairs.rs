//! The ABI's encoding of lists of pairs: little-endian `u32` count, lengths, then `key\0value\0` for each.

/// Bounds of the reference host.
const BYTES_MAX: usize = 1 << 20;
const PAIRS_MAX: usize = 1024;
/// What an encoded pair takes besides its key and value: two lengths and two NULs.
pub(crate) const PAIR_OVERHEAD: usize = 10;

/// The encoded size of pairs with these key and value lengths.
pub(crate) fn encoded_len(pairs: impl Iterator<Item = (usize, usize)>) -> usize {
    pairs.fold(4, |sum, (key, value)| sum + PAIR_OVERHEAD + key + value)
}

/// Encodes into a buffer of exactly [`encoded_len`] bytes. `each` calls its argument with every pair, the same ones in the
/// same order at each of its two runs.
pub(crate) fn encode_into(out: &mut [u8], count: usize, each: impl Fn(&mut dyn FnMut(&[u8], &[u8]))) {
    let number = |value: usize| u32::try_from(value).unwrap_or(u32::MAX).to_le_bytes();
    let mut writer = Writer { out, at: 0 };
    writer.put(&number(count));
    each(&mut |key, value| {
        writer.put(&number(key.len()));
        writer.put(&number(value.len()));
    });
    each(&mut |key, value| {
        writer.put(key);
        writer.put(&[0]);
        writer.put(value);
        writer.put(&[0]);
    });
    debug_assert_eq!(writer.at, writer.out.len());
}

struct Writer<'a> {
    out: &'a mut [u8],
    at: usize,
}

impl Writer<'_> {
    fn put(&mut self, bytes: &[u8]) {
        if let Some(piece) = self.out.get_mut(self.at..self.at + bytes.len()) {
            piece.copy_from_slice(bytes);
        }
        self.at += bytes.len();
    }
}

/// The pairs of an encoded list; `None` unless it is one, to the byte. Empty input, one zero byte and a zero count are the
/// empty list.
pub(crate) fn decode(bytes: &[u8]) -> Option<Vec<(&[u8], &[u8])>> {
    if bytes.is_empty() || bytes == [0] {
        return Some(Vec::new());
    }
    if bytes.len() > BYTES_MAX {
        return None;
    }
    let number = |at: usize| -> Option<usize> {
        let number = bytes.get(at..at + 4)?;
        usize::try_from(u32::from_le_bytes(number.try_into().ok()?)).ok()
    };
    let count = number(0)?;
    if count > PAIRS_MAX {
        return None;
    }
    let mut at = 4 + count * 8;
    let mut pairs = Vec::with_capacity(count);
    for index in 0..count {
        let (key_len, value_len) = (number(4 + index * 8)?, number(8 + index * 8)?);
        let key = terminated(bytes, at, key_len)?;
        at += key_len + 1;
        let value = terminated(bytes, at, value_len)?;
        at += value_len + 1;
        pairs.push((key, value));
    }
    (at == bytes.len()).then_some(pairs)
}

fn terminated(bytes: &[u8], at: usize, len: usize) -> Option<&[u8]> {
    let end = at.checked_add(len)?;
    (*bytes.get(end)? == 0).then(|| &bytes[at..end])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn encode(pairs: &[(&str, &str)]) -> Vec<u8> {
        let mut out = vec![0xff; encoded_len(pairs.iter().map(|(key, value)| (key.len(), value.len())))];
        encode_into(&mut out, pairs.len(), |each| {
            pairs.iter().for_each(|(key, value)| each(key.as_bytes(), value.as_bytes()));
        });
        out
    }

    #[test]
    fn what_is_encoded_is_decoded() {
        for pairs in [&[][..], &[("a", "1")], &[("a", ""), ("", "b"), ("a", "1\x002")]] {
            let encoded = encode(pairs);
            let expected: Vec<(&[u8], &[u8])> =
                pairs.iter().map(|(key, value)| (key.as_bytes(), value.as_bytes())).collect();
            assert_eq!(decode(&encoded), Some(expected));
        }
        assert_eq!(encode(&[("a", "bc")]), b"\x01\0\0\0\x01\0\0\0\x02\0\0\0a\0bc\0");
    }

    #[test]
    fn anything_else_is_refused() {
        assert_eq!(decode(&[]), Some(vec![]));
        assert_eq!(decode(&[0]), Some(vec![]));
        assert_eq!(decode(&[0; 4]), Some(vec![]));
        let good = encode(&[("key", "value"), ("k", "v")]);
        for end in 1..good.len() {
            assert_eq!(decode(&good[..end]), None, "cut at {end}");
        }
        let mut long = good.clone();
        long.push(0);
        assert_eq!(decode(&long), None);
        let mut unterminated = good.clone();
        *unterminated.last_mut().expect("not empty") = 1;
        assert_eq!(decode(&unterminated), None);
        assert_eq!(decode(&u32::MAX.to_le_bytes()), None);
        let mut huge = good;
        huge[4..8].copy_from_slice(&u32::MAX.to_le_bytes());
        assert_eq!(decode(&huge), None);
        assert_eq!(decode(&vec![0; BYTES_MAX + 1]), None);
    }
}
