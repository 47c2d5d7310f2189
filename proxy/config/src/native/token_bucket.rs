//! A token bucket that all workers share (`envoy.type.v3.TokenBucket`).

use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

/// Tokens that come back evenly over time, as in Envoy.
///
/// The count lives with the configuration, so that it is one for the whole process and outlives an update that doesn't
/// change it. There is no clock in here: who takes says what time it is.
#[derive(Debug)]
pub struct TokenBucket {
    max: u32,
    per_fill: u32,
    interval: Duration,
    /// Nanoseconds of the caller's clock at which the bucket would have been empty; the start: full.
    empty_at: AtomicI64,
}

const FULL: i64 = i64::MIN;

impl TokenBucket {
    #[must_use]
    pub const fn new(max: u32, per_fill: u32, interval: Duration) -> TokenBucket {
        TokenBucket { max, per_fill, interval, empty_at: AtomicI64::new(FULL) }
    }

    /// Takes a token at a time of a clock that never goes back.
    #[must_use]
    pub fn take(&self, now: Duration) -> bool {
        let now = i64::try_from(now.as_nanos()).unwrap_or(i64::MAX);
        let token = self.nanos_per_token();
        let full_span = token.saturating_mul(i64::from(self.max));
        let taken = self.empty_at.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |empty_at| {
            // No more than a full bucket counts.
            let empty_at = empty_at.max(now.saturating_sub(full_span));
            let next = empty_at.saturating_add(token);
            (next <= now).then_some(next)
        });
        taken.is_ok()
    }

    fn nanos_per_token(&self) -> i64 {
        let nanos = self.interval.as_nanos() / u128::from(self.per_fill.max(1));
        i64::try_from(nanos).unwrap_or(i64::MAX).max(1)
    }
}

impl PartialEq for TokenBucket {
    fn eq(&self, other: &TokenBucket) -> bool {
        (self.max, self.per_fill, self.interval) == (other.max, other.per_fill, other.interval)
    }
}

impl Eq for TokenBucket {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_come_back_evenly_up_to_the_maximum() {
        let bucket = TokenBucket::new(3, 2, Duration::from_secs(1));
        let at = |millis| bucket.take(Duration::from_millis(millis));
        assert_eq!([at(0), at(0), at(0), at(0)], [true, true, true, false]);
        assert_eq!([at(499), at(500), at(500)], [false, true, false]);
        assert_eq!([at(1500), at(1500), at(1500)], [true, true, false]);
        assert_eq!([at(60_000), at(60_000), at(60_000), at(60_000)], [true, true, true, false]);
    }

    #[test]
    fn threads_share_the_tokens() {
        let bucket = TokenBucket::new(1000, 1, Duration::from_secs(3600));
        let taken: usize = std::thread::scope(|scope| {
            let take = || (0..500).filter(|_| bucket.take(Duration::from_secs(1))).count();
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(take)).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(taken, 1000);
    }
}
