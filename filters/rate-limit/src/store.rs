//! A limit's buckets in shared data: a table of bounded size, four buckets to an entry.
//!
//! Shared data has no way to remove a key and its users choose what their keys are, so each bucket under a key of its
//! own would let clients fill the proxy's memory. Here a key's hash names an entry, and the whole hash tells the up to
//! four buckets in it apart. Full buckets are dropped whenever an entry is written; if all four are in use, the one that
//! is nearest to full gives way.

use std::time::Duration;

use outrigger_filter_sdk::HostError;
use outrigger_filter_sdk::shared::{self, Step, UpdateError};

use crate::bucket::{Left, Rate, Wait};

/// Buckets in an entry.
pub(crate) const WAYS: u32 = 4;
/// How often a write is tried before the limit counts as failed; each failure means that another worker succeeded.
const ATTEMPTS_MAX: u32 = 16;
/// A bucket's bytes in an entry: key hash, then the time at which it is full, both little-endian.
const BUCKET_BYTES: usize = 16;

#[derive(Debug)]
pub(crate) struct Store {
    /// Begins the keys of all entries; tells the limits of a proxy apart.
    prefix: String,
    entries: u64,
}

impl Store {
    /// `identity` is a hash of what makes the limit.
    pub(crate) fn new(identity: u64, entries: u32) -> Self {
        Self { prefix: format!("rl{identity:016x}."), entries: u64::from(entries.max(1)) }
    }

    fn entry(&self, key: u64) -> String {
        format!("{}{:x}", self.prefix, (key >> 32) % self.entries)
    }

    /// Takes a token.
    pub(crate) fn take(&self, key: u64, rate: Rate, now: Duration) -> Result<Result<Left, Wait>, UpdateError> {
        let now = nanoseconds(now);
        shared::update(&self.entry(key), ATTEMPTS_MAX, |value| {
            let mut buckets = Buckets::read(value);
            match rate.take(buckets.full_at(key), now) {
                Ok(left) => Step::Write(buckets.write(key, left.full_at, now), Ok(left)),
                Err(wait) => Step::Keep(Err(wait)),
            }
        })
    }

    /// What [`Store::take`] would say.
    pub(crate) fn peek(&self, key: u64, rate: Rate, now: Duration) -> Result<Result<Left, Wait>, HostError> {
        let value = shared::read(&self.entry(key))?;
        let buckets = Buckets::read(value.as_ref().map(|(value, _)| value.as_slice()));
        Ok(rate.take(buckets.full_at(key), nanoseconds(now)))
    }
}

fn nanoseconds(time: Duration) -> u64 {
    u64::try_from(time.as_nanos()).unwrap_or(u64::MAX)
}

/// An entry's buckets: key hash and time.
struct Buckets(Vec<(u64, u64)>);

impl Buckets {
    /// What is no entry of ours reads as an empty one.
    fn read(value: Option<&[u8]>) -> Self {
        let (buckets, rest) = value.unwrap_or_default().as_chunks::<BUCKET_BYTES>();
        if !rest.is_empty() || buckets.len() > WAYS as usize {
            return Self(Vec::new());
        }
        let word = |bytes: &[u8]| bytes.iter().rev().fold(0, |word, byte| (word << 8) | u64::from(*byte));
        Self(buckets.iter().map(|bucket| (word(&bucket[..8]), word(&bucket[8..]))).collect())
    }

    fn full_at(&self, key: u64) -> u64 {
        self.0.iter().find(|(hash, _)| *hash == key).map_or(0, |(_, full_at)| *full_at)
    }

    /// The entry with this bucket in it.
    fn write(&mut self, key: u64, full_at: u64, now: u64) -> Vec<u8> {
        self.0.retain(|(hash, full_at)| *hash != key && *full_at > now);
        if self.0.len() >= WAYS as usize
            && let Some(place) = (0..self.0.len()).min_by_key(|place| self.0[*place].1)
        {
            self.0.swap_remove(place);
        }
        self.0.push((key, full_at));
        self.0.iter().flat_map(|(hash, full_at)| [hash.to_le_bytes(), full_at.to_le_bytes()]).flatten().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_round_trip() {
        let mut buckets = Buckets::read(None);
        let value = buckets.write(u64::MAX, 10, 0);
        assert_eq!(value.len(), BUCKET_BYTES);
        let mut buckets = Buckets::read(Some(&value));
        assert_eq!((buckets.full_at(u64::MAX), buckets.full_at(1)), (10, 0));
        let value = buckets.write(u64::MAX, 20, 0);
        assert_eq!((value.len(), Buckets::read(Some(&value)).full_at(u64::MAX)), (BUCKET_BYTES, 20));
    }

    #[test]
    fn full_buckets_leave_and_the_fullest_gives_way() {
        let mut buckets = Buckets(vec![(1, 50), (2, 10), (3, 30), (4, 40)]);
        buckets.write(5, 60, 10);
        assert_eq!(buckets.0, [(1, 50), (3, 30), (4, 40), (5, 60)], "2 was full");
        buckets.write(6, 70, 10);
        assert_eq!(buckets.full_at(3), 0, "3 was nearest to full");
        assert_eq!(buckets.0.len(), 4);
        buckets.write(6, 80, 1_000);
        assert_eq!(buckets.0, [(6, 80)]);
    }

    #[test]
    fn what_is_no_entry_is_empty() {
        for value in [&[][..], &[1], &[0; 15], &[0; 17], &[0; 80]] {
            assert!(Buckets::read(Some(value)).0.is_empty(), "{value:?}");
        }
    }
}
