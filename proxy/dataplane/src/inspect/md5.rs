//! MD5 (RFC 1321), which JA3 is made with. It secures nothing.

const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];

pub(super) fn md5(bytes: &[u8]) -> [u8; 16] {
    let mut message = bytes.to_vec();
    message.push(0x80);
    message.resize(message.len().next_multiple_of(64), 0);
    if message.len() - bytes.len() < 9 {
        message.resize(message.len() + 64, 0);
    }
    let bits = (bytes.len() as u64).wrapping_mul(8).to_le_bytes();
    let end = message.len();
    message[end - 8..].copy_from_slice(&bits);
    let mut state: [u32; 4] = [0x6745_2301, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in message.chunks_exact(64) {
        let words: Vec<u32> = block.as_chunks::<4>().0.iter().map(|word| u32::from_le_bytes(*word)).collect();
        let turned = turn(state, &words);
        for (sum, word) in state.iter_mut().zip(turned) {
            *sum = sum.wrapping_add(word);
        }
    }
    let mut out = [0; 16];
    for (place, word) in out.as_chunks_mut::<4>().0.iter_mut().zip(state) {
        *place = word.to_le_bytes();
    }
    out
}

/// The four rounds of one block.
fn turn([mut a, mut b, mut c, mut d]: [u32; 4], words: &[u32]) -> [u32; 4] {
    for step in 0..64_usize {
        let (mixed, word) = match step / 16 {
            0 => ((b & c) | (!b & d), step),
            1 => ((d & b) | (!d & c), (5 * step + 1) % 16),
            2 => (b ^ c ^ d, (3 * step + 5) % 16),
            _ => (c ^ (b | !d), 7 * step % 16),
        };
        let sum = a.wrapping_add(mixed).wrapping_add(constant(step)).wrapping_add(words[word]);
        (a, d, c, b) = (d, c, b, b.wrapping_add(sum.rotate_left(SHIFTS[step / 16][step % 4])));
    }
    [a, b, c, d]
}

/// The integer part of 2^32 times the sine of the step, which is counted from 1 (RFC 1321 section 3.4).
#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "below 2^32, and not negative")]
fn constant(step: usize) -> u32 {
    let step = u32::try_from(step).unwrap_or_default();
    (4_294_967_296.0 * (f64::from(step) + 1.0).sin().abs()) as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_of_the_rfc() {
        let check = |text: &[u8], expected: u128| assert_eq!(u128::from_be_bytes(md5(text)), expected, "{text:?}");
        check(b"", 0xd41d_8cd9_8f00_b204_e980_0998_ecf8_427e);
        check(b"abc", 0x9001_5098_3cd2_4fb0_d696_3f7d_28e1_7f72);
        check(b"abcdefghijklmnopqrstuvwxyz", 0xc3fc_d3d7_6192_e400_7dfb_496c_ca67_e13b);
        let digits = b"1234567890".repeat(8);
        check(&digits, 0x57ed_f4a2_2be3_c955_ac49_da2e_2107_b67a);
    }
}
