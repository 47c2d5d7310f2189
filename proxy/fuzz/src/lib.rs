//! Fuzzing on stable Rust: seeded, in process, guided by what the code under test answers.
//!
//! A [`Target`] takes bytes and returns a fingerprint of the outcome: which error, how many parts, which way. An input whose
//! fingerprint is new joins the corpus and is mutated further, so the search goes where behaviour differs (libFuzzer's
//! coverage would need a nightly compiler). A target panics where something is wrong: that is the find, and the input is
//! kept in a file. The same seed and count do the same again, however long they take.
//!
//! `cargo run -p outrigger-fuzz -- --help`; the tests of this crate run every target for a moment.

mod mutate;
mod targets;

use std::collections::HashSet;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

/// What keeps the corpus small enough to be looked through often.
const CORPUS_MAX: usize = 2_000;
/// Longer inputs only take longer.
const INPUT_BYTES_MAX: usize = 16 * 1024;

/// Runs an input, and returns a fingerprint of what came of it.
type Run = Box<dyn FnMut(&[u8]) -> u64>;

/// Something to be fed with bytes.
#[derive(Clone, Copy)]
pub struct Target {
    pub name: &'static str,
    /// What it promises, in one line.
    pub about: &'static str,
    /// Well-formed inputs to begin with.
    seeds: fn() -> Vec<Vec<u8>>,
    /// Words that its inputs are made of.
    words: &'static [&'static [u8]],
    /// Builds what all runs share.
    prepare: fn() -> Run,
    /// Inputs of a moment in CI.
    pub short: u64,
}

impl std::fmt::Debug for Target {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Target").field("name", &self.name).finish_non_exhaustive()
    }
}

/// Every target.
pub const TARGETS: &[Target] = targets::ALL;

/// What a run has seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ran {
    pub inputs: u64,
    /// Different outcomes.
    pub outcomes: usize,
}

/// An input that made a target panic.
#[derive(Debug)]
pub struct Find {
    pub input: Vec<u8>,
    pub file: PathBuf,
}

/// How long a target is fed: so many inputs, and then more for so long.
#[derive(Debug, Clone, Copy)]
pub struct Length {
    pub inputs: u64,
    pub further: Duration,
}

/// Feeds a target with inputs that follow from `seed`. Only their number may follow from the clock.
///
/// # Errors
///
/// The first input that makes it panic.
pub fn fuzz(target: &Target, seed: u64, length: Length) -> Result<Ran, Find> {
    let mut random = StdRng::seed_from_u64(seed);
    let mut run = (target.prepare)();
    let mut corpus = (target.seeds)();
    let mut seen = HashSet::new();
    for input in &corpus {
        seen.insert(attempt(target, &mut run, input)?);
    }
    let mut inputs = 0;
    let mut until = None;
    while inputs < length.inputs || *until.get_or_insert_with(|| Instant::now() + length.further) > Instant::now() {
        inputs += 1;
        let input = mutate::next(&mut random, &corpus, target.words, INPUT_BYTES_MAX);
        if seen.insert(attempt(target, &mut run, &input)?) {
            if corpus.len() < CORPUS_MAX {
                corpus.push(input);
            } else {
                let at = random.random_range(0..corpus.len());
                corpus[at] = input;
            }
        }
    }
    Ok(Ran { inputs, outcomes: seen.len() })
}

/// Runs one input again, as it was.
pub fn replay(target: &Target, input: &[u8]) -> u64 {
    (target.prepare)()(input)
}

fn attempt(target: &Target, run: &mut dyn FnMut(&[u8]) -> u64, input: &[u8]) -> Result<u64, Find> {
    catch_unwind(AssertUnwindSafe(|| run(input))).map_err(|_| {
        let file = std::env::temp_dir().join(format!("outrigger-fuzz-{}-{:016x}", target.name, fingerprint(&input)));
        // Without the file the input is still in the error.
        let _ = std::fs::write(&file, input);
        Find { input: input.to_vec(), file }
    })
}

/// A fingerprint of anything.
fn fingerprint(of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    of.hash(&mut hasher);
    hasher.finish()
}
