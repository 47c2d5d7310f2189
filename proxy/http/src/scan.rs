//! Looking for bytes that end something, sixteen at a time where every processor can, else eight.

const ONES: u64 = u64::MAX / 255;
const HIGH: u64 = ONES << 7;

/// The first byte at or after a place that is below a limit (of at most 0x80), or DEL.
#[must_use]
pub fn find_below<const LIMIT: u8>(bytes: &[u8], at: usize) -> Option<usize> {
    find::<LIMIT, 0x7f>(bytes, at)
}

/// The same, or another byte.
pub(crate) fn find<const LIMIT: u8, const ALSO: u8>(bytes: &[u8], mut at: usize) -> Option<usize> {
    #[cfg(target_arch = "x86_64")]
    while let Some(sixteen) = bytes[at..].first_chunk() {
        #[expect(unsafe_code, reason = "the compiler wants to be told that the processor has SSE2")]
        // SAFETY: SSE2 is part of this architecture.
        let found = unsafe { among_sixteen::<LIMIT, ALSO>(sixteen) };
        if found != 0 {
            return Some(at + found.trailing_zeros() as usize);
        }
        at += 16;
    }
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

/// A bit for each byte that is looked for.
#[cfg(target_arch = "x86_64")]
#[target_feature(enable = "sse2")]
#[inline]
fn among_sixteen<const LIMIT: u8, const ALSO: u8>(bytes: &[u8; 16]) -> i32 {
    use std::arch::x86_64::{
        _mm_cmpeq_epi8, _mm_min_epu8, _mm_movemask_epi8, _mm_or_si128, _mm_set_epi64x, _mm_set1_epi8,
    };
    let value = i128::from_le_bytes(*bytes);
    #[expect(clippy::cast_possible_truncation, reason = "the halves")]
    let value = _mm_set_epi64x((value >> 64) as i64, value as i64);
    let every = |byte: u8| _mm_set1_epi8(byte.cast_signed());
    let below = _mm_cmpeq_epi8(_mm_min_epu8(value, every(LIMIT - 1)), value);
    let others = _mm_or_si128(_mm_cmpeq_epi8(value, every(0x7f)), _mm_cmpeq_epi8(value, every(ALSO)));
    _mm_movemask_epi8(_mm_or_si128(below, others))
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
            for length in 1..36 {
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
