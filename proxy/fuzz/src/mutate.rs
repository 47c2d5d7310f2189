//! The next input: one of the corpus, changed a little.

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;

const CHANGES_MAX: usize = 6;
/// Lengths and numbers at which code goes another way.
const NUMBERS: [u64; 20] = [
    0,
    1,
    2,
    3,
    7,
    8,
    16,
    127,
    128,
    255,
    256,
    1024,
    65_535,
    65_536,
    0x7fff_ffff,
    0x8000_0000,
    0xffff_fff0,
    0xffff_ffff,
    u64::MAX / 2,
    u64::MAX,
];

pub(crate) fn next(random: &mut StdRng, corpus: &[Vec<u8>], words: &[&[u8]], bytes_max: usize) -> Vec<u8> {
    let mut input = corpus.choose(random).cloned().unwrap_or_default();
    for _ in 0..random.random_range(1..=CHANGES_MAX) {
        change(random, &mut input, corpus, words);
    }
    input.truncate(bytes_max);
    input
}

fn change(random: &mut StdRng, input: &mut Vec<u8>, corpus: &[Vec<u8>], words: &[&[u8]]) {
    let at = random.random_range(0..=input.len());
    let (from, to) = range(random, input.len());
    match random.random_range(0..10) {
        0 if !input.is_empty() => {
            let at = at.min(input.len() - 1);
            input[at] ^= 1 << random.random_range(0..8);
        }
        1 if !input.is_empty() => {
            let at = at.min(input.len() - 1);
            input[at] = random.random();
        }
        2 => insert(input, at, &[random.random()]),
        3 => drop(input.drain(from..to)),
        4 => {
            let piece = input[from..to].to_vec();
            insert(input, at, &piece);
        }
        5 | 6 => {
            let word = words.choose(random).copied().unwrap_or_default();
            if random.random() { insert(input, at, word) } else { overwrite(input, at, word) }
        }
        7 => {
            let number = NUMBERS.choose(random).copied().unwrap_or_default();
            let size = [1, 2, 4, 8][random.random_range(0..4)];
            let bytes =
                if random.random() { number.to_le_bytes() } else { number.rotate_right(size * 8).to_be_bytes() };
            let bytes = &bytes[..size as usize];
            // Where numbers are words of four bytes, they begin at multiples of four.
            let at = if random.random() { at & !3 } else { at };
            if random.random() { overwrite(input, at, bytes) } else { insert(input, at, bytes) }
        }
        8 => {
            let other = corpus.choose(random).map(Vec::as_slice).unwrap_or_default();
            let (from, to) = range(random, other.len());
            insert(input, at, &other[from..to]);
        }
        _ => input.truncate(at),
    }
}

fn range(random: &mut StdRng, len: usize) -> (usize, usize) {
    let (a, b) = (random.random_range(0..=len), random.random_range(0..=len));
    (a.min(b), a.max(b))
}

fn insert(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let at = at.min(input.len());
    input.splice(at..at, bytes.iter().copied());
}

fn overwrite(input: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let at = at.min(input.len());
    let end = (at + bytes.len()).min(input.len());
    input.splice(at..end, bytes.iter().copied());
}
