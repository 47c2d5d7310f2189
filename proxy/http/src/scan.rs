//! Looking for bytes that end something, eight at a time.

const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES << 7;

/// The first byte at or after a place that is below a limit (of at most 0x80), or DEL.
#[must_use]
pub fn find_below<const LIMIT: u8>(bytes: &[u8], at: usize) -> Option<usize> {
    find::<LIMIT, 0x7f>(bytes, at)
}

/// The same, or another byte.
pub(crate) fn find<const LIMIT: u8, const ALSO: u8>(bytes: &[u8], mut at: usize) -> Option<usize> {
    while let Some(eight) = bytes[at..].first_chunk() {
        // Of a byte that is found the highest bit is set, and of none below the first one.
        let word = u64::from_le_bytes(*eight);
        let below = word.wrapping_sub(ONES * LIMIT as u64) & !word;
        let found = (below | equal::<0x7f>(word) | equal::<ALSO>(word)) & HIGH;
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize / 8);
        }
        at += 8;
    }
    let rest = bytes[at..].iter().position(|byte| *byte < LIMIT || *byte == 0x7f || *byte == ALSO)?;
    Some(at + rest)
}

#[inline]
const fn equal<const BYTE: u8>(word: u64) -> u64 {
    let unlike = word ^ (ONES * BYTE as u64);
    unlike.wrapping_sub(ONES) & !unlike
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn control_characters_are_found_wherever_they_stand() {
        for byte in 0..=u8::MAX {
            for length in 1..20 {
                for place in 0..length {
                    // What lies before and after is as hard to tell apart as can be.
                    for filler in [0x20, 0x21, b';', 0x7e, 0x80, 0xba, 0xff] {
                        let mut bytes = vec![filler; length];
                        bytes[place] = byte;
                        let expected = bytes.iter().position(|byte| *byte < 0x20 || *byte == 0x7f);
                        assert_eq!(find_below::<0x20>(&bytes, 0), expected, "{bytes:?}");
                        let expected = bytes.iter().position(|byte| *byte < 0x21 || *byte == 0x7f);
                        assert_eq!(find_below::<0x21>(&bytes, 0), expected, "{bytes:?}");
                        let expected = bytes.iter().position(|byte| *byte < 0x21 || matches!(*byte, 0x7f | b':'));
                        assert_eq!(find::<0x21, b':'>(&bytes, 0), expected, "{bytes:?}");
                    }
                }
            }
        }
    }
}
