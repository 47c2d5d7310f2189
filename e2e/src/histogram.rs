//! Latencies in log-linear buckets: 64 for each power of two of microseconds, so an error of at most 1.6 %.

use std::time::Duration;

const SUB_BUCKETS: u64 = 64;
const SUB_BITS: u32 = SUB_BUCKETS.trailing_zeros();

/// Counts of durations; merging and reading cost nothing worth mentioning.
#[derive(Debug, Clone, Default)]
pub struct Histogram {
    counts: Vec<u64>,
    total: u64,
    max_us: u64,
}

impl Histogram {
    pub fn record(&mut self, value: Duration) {
        let micros = u64::try_from(value.as_micros()).unwrap_or(u64::MAX).min(1 << 40);
        let bucket = bucket(micros);
        if self.counts.len() <= bucket {
            self.counts.resize(bucket + 1, 0);
        }
        self.counts[bucket] += 1;
        self.total += 1;
        self.max_us = self.max_us.max(micros);
    }

    pub fn merge(&mut self, other: &Histogram) {
        if self.counts.len() < other.counts.len() {
            self.counts.resize(other.counts.len(), 0);
        }
        for (mine, theirs) in self.counts.iter_mut().zip(&other.counts) {
            *mine += theirs;
        }
        self.total += other.total;
        self.max_us = self.max_us.max(other.max_us);
    }

    pub fn count(&self) -> u64 {
        self.total
    }

    pub fn max(&self) -> Duration {
        Duration::from_micros(self.max_us)
    }

    /// The upper bound of the bucket that holds the given per mille of the values; zero if there are none.
    pub fn per_mille(&self, per_mille: u64) -> Duration {
        let wanted = (self.total * per_mille).div_ceil(1000).max(1);
        let mut seen = 0;
        for (index, count) in self.counts.iter().enumerate() {
            seen += count;
            if seen >= wanted {
                return Duration::from_micros(upper_bound(index).min(self.max_us));
            }
        }
        self.max()
    }
}

fn bucket(micros: u64) -> usize {
    if micros < SUB_BUCKETS {
        return usize::try_from(micros).unwrap_or_default();
    }
    let power = micros.ilog2() - SUB_BITS;
    let index = u64::from(power) * SUB_BUCKETS + (micros >> power);
    usize::try_from(index).unwrap_or_default()
}

fn upper_bound(bucket: usize) -> u64 {
    let bucket = bucket as u64;
    if bucket < SUB_BUCKETS {
        return bucket;
    }
    let power = bucket / SUB_BUCKETS - 1;
    let offset = bucket - power * SUB_BUCKETS;
    ((offset + 1) << power) - 1
}

#[cfg(test)]
mod tests {
    use super::{Duration, Histogram, bucket, upper_bound};

    #[test]
    fn buckets_are_contiguous_and_narrow() {
        let mut last = 0;
        for micros in 0..200_000 {
            let index = bucket(micros);
            assert!(index == last || index == last + 1, "{micros} jumps to {index}");
            let bound = upper_bound(index);
            assert!(bound >= micros && bound - micros <= micros / 32 + 1, "{micros} in a bucket up to {bound}");
            last = index;
        }
    }

    #[test]
    fn quantiles() {
        let mut histogram = Histogram::default();
        (1..=1000).for_each(|ms| histogram.record(Duration::from_millis(ms)));
        let p50 = histogram.per_mille(500).as_secs_f64();
        assert!((0.49..0.52).contains(&p50), "{p50}");
        assert_eq!(histogram.max(), Duration::from_secs(1));
        assert_eq!(histogram.per_mille(1000), Duration::from_secs(1));
    }
}
