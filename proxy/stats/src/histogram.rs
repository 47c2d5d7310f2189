//! Log-linear histograms: 16 buckets for each power of two, so a value is known to 6 %.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

const SUB_BITS: u32 = 4;
const SUB: usize = 1 << SUB_BITS;
/// Values up to 2^40 (milliseconds or bytes) are told apart; larger ones fall into the last bucket.
const BUCKETS: usize = (40 - SUB_BITS as usize) * SUB + SUB;

pub(crate) struct Buckets {
    counts: Box<[AtomicU64]>,
    sum: AtomicU64,
}

impl std::fmt::Debug for Buckets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Buckets").finish_non_exhaustive()
    }
}

impl Default for Buckets {
    fn default() -> Buckets {
        Buckets { counts: (0..BUCKETS).map(|_| AtomicU64::new(0)).collect(), sum: AtomicU64::new(0) }
    }
}

impl Buckets {
    pub(crate) fn add_to(&self, snapshot: &mut HistogramSnapshot) {
        snapshot.sum += self.sum.load(Ordering::Relaxed);
        for (total, count) in snapshot.counts.iter_mut().zip(&self.counts) {
            *total += count.load(Ordering::Relaxed);
        }
    }
}

/// A histogram cell: one writer.
#[derive(Debug)]
pub struct Histogram {
    buckets: Arc<Buckets>,
    single_writer: PhantomData<Cell<()>>,
}

fn bucket_of(value: u64) -> usize {
    if value < SUB as u64 {
        return usize::try_from(value).unwrap_or(0);
    }
    let magnitude = 63 - value.leading_zeros();
    let sub = (value >> (magnitude - SUB_BITS)) as usize & (SUB - 1);
    (((magnitude - SUB_BITS + 1) as usize) * SUB + sub).min(BUCKETS - 1)
}

/// The largest value of a bucket.
fn upper_bound(bucket: usize) -> u64 {
    if bucket < SUB {
        return bucket as u64;
    }
    let magnitude = bucket / SUB - 1;
    ((SUB + bucket % SUB + 1) as u64) << magnitude
}

impl Histogram {
    pub(crate) fn new(buckets: Arc<Buckets>) -> Histogram {
        Histogram { buckets, single_writer: PhantomData }
    }

    /// A histogram that no registry shows.
    #[must_use]
    pub fn detached() -> Histogram {
        Histogram::new(Arc::default())
    }

    /// Records one value, in the metric's unit.
    #[inline]
    pub fn record(&self, value: u64) {
        let count = &self.buckets.counts[bucket_of(value)];
        count.store(count.load(Ordering::Relaxed) + 1, Ordering::Relaxed);
        let sum = &self.buckets.sum;
        sum.store(sum.load(Ordering::Relaxed).wrapping_add(value), Ordering::Relaxed);
    }
}

/// The sum of a histogram's cells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HistogramSnapshot {
    counts: Vec<u64>,
    sum: u64,
}

impl Default for HistogramSnapshot {
    fn default() -> HistogramSnapshot {
        HistogramSnapshot { counts: vec![0; BUCKETS], sum: 0 }
    }
}

impl HistogramSnapshot {
    #[must_use]
    pub fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    #[must_use]
    pub const fn sum(&self) -> u64 {
        self.sum
    }

    /// How many values are at most `bound`, to the resolution of a bucket.
    #[must_use]
    pub fn count_le(&self, bound: u64) -> u64 {
        self.counts.iter().take(bucket_of(bound) + 1).sum()
    }

    /// The value below which the share `quantile` (0..=1) lies.
    #[must_use]
    pub fn quantile(&self, quantile: f64) -> u64 {
        #[expect(
            clippy::cast_precision_loss,
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "a rank within the count"
        )]
        let rank = (self.count() as f64 * quantile).ceil() as u64;
        let mut seen = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            seen += count;
            if *count > 0 && seen >= rank {
                return upper_bound(bucket);
            }
        }
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn buckets_are_ordered_and_six_percent_wide() {
        let mut last = 0;
        for value in (0..100_000u64).chain([1 << 30, 1 << 39, 1 << 50, u64::MAX]) {
            let bucket = bucket_of(value);
            assert!(bucket >= last && bucket < BUCKETS, "{value}");
            last = bucket;
            if value < 1 << 39 {
                assert!(upper_bound(bucket) >= value && upper_bound(bucket) <= value + value / 15 + 1, "{value}");
            }
        }
    }

    #[test]
    fn quantiles_and_counts() {
        let histogram = Histogram::detached();
        (1..=100).for_each(|value| histogram.record(value));
        let mut snapshot = HistogramSnapshot::default();
        histogram.buckets.add_to(&mut snapshot);
        assert_eq!((snapshot.count(), snapshot.sum()), (100, 5050));
        assert_eq!(snapshot.count_le(10), 10);
        assert!((50..=54).contains(&snapshot.quantile(0.5)), "{}", snapshot.quantile(0.5));
        assert_eq!(HistogramSnapshot::default().quantile(0.9), 0);
    }
}
