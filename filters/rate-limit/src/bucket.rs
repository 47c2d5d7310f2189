//! A token bucket as one number: the time at which it will be full again (the generic cell rate algorithm).
//!
//! Each request moves that time on by one interval; it may lie at most the whole bucket ahead of now. No state is a
//! full bucket, and so is any time that has passed.

use std::time::Duration;

const SECOND: u64 = 1_000_000_000;

/// How fast a bucket refills and how much it holds. Times are nanoseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rate {
    /// Between two tokens.
    interval: u64,
    /// To fill an empty bucket.
    capacity: u64,
}

/// A bucket after a request has passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Left {
    pub(crate) full_at: u64,
    pub(crate) requests: u64,
    full_in: u64,
}

impl Left {
    /// Until the bucket is full, in whole seconds, rounded up.
    pub(crate) fn seconds(self) -> u64 {
        self.full_in.div_ceil(SECOND)
    }
}

/// How long until a bucket has a token again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    nanoseconds: u64,
}

impl Wait {
    /// In whole seconds, rounded up.
    pub(crate) fn seconds(self) -> u64 {
        self.nanoseconds.div_ceil(SECOND)
    }
}

impl Rate {
    /// `None` where the numbers are out of bounds: more than a million a second, or a bucket that takes longer than a
    /// year to fill.
    pub(crate) fn new(requests: u64, per: Duration, burst: u64) -> Option<Self> {
        let per = u64::try_from(per.as_nanos()).ok()?;
        let interval = per.checked_div(requests)?;
        let capacity = interval.checked_mul(burst)?;
        (interval >= SECOND / 1_000_000 && capacity > 0 && capacity <= 366 * 86_400 * SECOND)
            .then_some(Self { interval, capacity })
    }

    /// Takes a token from a bucket that says it is full at `full_at`.
    pub(crate) fn take(self, full_at: u64, now: u64) -> Result<Left, Wait> {
        // A time further ahead than the bucket is large was written before the clock was set back.
        let ahead = full_at.saturating_sub(now).min(self.capacity) + self.interval;
        match self.capacity.checked_sub(ahead) {
            Some(room) => {
                Ok(Left { full_at: now.saturating_add(ahead), requests: room / self.interval, full_in: ahead })
            }
            None => Err(Wait { nanoseconds: ahead - self.capacity }),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_767_225_600 * SECOND;

    fn rate(requests: u64, per_seconds: u64, burst: u64) -> Rate {
        Rate::new(requests, Duration::from_secs(per_seconds), burst).unwrap()
    }

    #[test]
    fn a_burst_then_steadily() {
        let rate = rate(10, 1, 3);
        let mut full_at = 0;
        for left in [2, 1, 0] {
            let after = rate.take(full_at, NOW).unwrap();
            assert_eq!((after.requests, after.seconds()), (left, 1));
            full_at = after.full_at;
        }
        assert_eq!(rate.take(full_at, NOW), Err(Wait { nanoseconds: SECOND / 10 }));
        assert_eq!(rate.take(full_at, NOW + SECOND / 10 - 1), Err(Wait { nanoseconds: 1 }));
        assert_eq!(rate.take(full_at, NOW + SECOND / 10).unwrap().requests, 0);
        assert_eq!(rate.take(full_at, NOW + 10 * SECOND).unwrap().requests, 2, "never more than the bucket holds");
    }

    #[test]
    fn waits_round_up() {
        let rate = rate(1, 60, 1);
        let after = rate.take(0, NOW).unwrap();
        assert_eq!((after.requests, after.seconds()), (0, 60));
        assert_eq!(rate.take(after.full_at, NOW).unwrap_err().seconds(), 60);
        assert_eq!(rate.take(after.full_at, NOW + 1).unwrap_err().seconds(), 60);
        assert_eq!(rate.take(after.full_at, NOW + 60 * SECOND - 1).unwrap_err().seconds(), 1);
    }

    #[test]
    fn a_clock_that_steps() {
        let rate = rate(1, 1, 5);
        // Back by a year: an empty bucket at most, never a client that is locked out for a year.
        let wait = rate.take(NOW, NOW - 365 * 86_400 * SECOND).unwrap_err();
        assert_eq!(wait.seconds(), 1);
        assert_eq!(rate.take(NOW, NOW + 365 * 86_400 * SECOND).unwrap().requests, 4);
        assert_eq!(rate.take(u64::MAX, u64::MAX).unwrap().requests, 4);
        assert_eq!(rate.take(u64::MAX, 0).unwrap_err().seconds(), 1);
    }

    #[test]
    fn bounds() {
        let seconds = Duration::from_secs;
        for (requests, per, burst, good) in [
            (1, seconds(1), 1, true),
            (1_000_000, seconds(1), 1_000_000, true),
            (1_000_001, seconds(1), 1, false),
            (1, seconds(31 * 86_400), 1, true),
            (1, seconds(31 * 86_400), 12, false),
            (0, seconds(1), 1, false),
            (1, seconds(1), 0, false),
            (1, seconds(0), 1, false),
            (u64::MAX, seconds(1), u64::MAX, false),
            (1, seconds(u64::MAX), 1, false),
            (1, seconds(1), u64::MAX, false),
        ] {
            assert_eq!(Rate::new(requests, per, burst).is_some(), good, "{requests} {per:?} {burst}");
        }
    }
}
