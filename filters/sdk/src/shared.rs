//! Shared data: values that all workers' instances of a VM id see, changed by compare-and-swap.
//!
//! Proxy-Wasm has no way to remove a key, so a filter bounds the keys that it uses itself.

use crate::abi::{self, HostError};

/// The compare-and-swap number of a value that is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Version(u32);

/// No value ever has this number (hosts count up from 1); swapping with it writes only where no value is.
const ABSENT: u32 = u32::MAX;

/// A value and its version, if there is one.
///
/// # Errors
/// The host refuses.
pub fn read(key: &str) -> Result<Option<(Vec<u8>, Version)>, HostError> {
    Ok(abi::shared_get(key)?.map(|(value, cas)| (value, Version(cas))))
}

/// Writes only if the value still has this version (`None`: is still absent). False where it has not.
///
/// # Errors
/// The host refuses, e.g. because its store is full.
pub fn replace(key: &str, value: &[u8], expected: Option<Version>) -> Result<bool, HostError> {
    abi::shared_set(key, value, expected.map_or(ABSENT, |version| version.0))
}

/// What a step of [`update`] decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Leave the value as it is.
    Keep(T),
    /// Write this value.
    Write(Vec<u8>, T),
}

/// Why an [`update`] did not happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UpdateError {
    /// Others changed the value before each of the attempts.
    Contended,
    /// The host refuses.
    Host(HostError),
}

impl From<HostError> for UpdateError {
    fn from(error: HostError) -> Self {
        Self::Host(error)
    }
}

impl std::fmt::Display for UpdateError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Contended => f.write_str("shared data changed under every attempt"),
            Self::Host(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for UpdateError {}

/// Reads a value, asks `step` what to make of it, and writes that, again from the start while others are faster, at
/// most `attempts_max` times.
///
/// # Errors
/// The last attempt was too late, or the host refuses.
pub fn update<T>(
    key: &str,
    attempts_max: u32,
    mut step: impl FnMut(Option<&[u8]>) -> Step<T>,
) -> Result<T, UpdateError> {
    for _ in 0..attempts_max {
        let current = read(key)?;
        match step(current.as_ref().map(|(value, _)| value.as_slice())) {
            Step::Keep(outcome) => return Ok(outcome),
            Step::Write(value, outcome) => {
                if replace(key, &value, current.map(|(_, version)| version))? {
                    return Ok(outcome);
                }
            }
        }
    }
    Err(UpdateError::Contended)
}
