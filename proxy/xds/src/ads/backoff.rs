//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng;
use tonic::{Code, Status};

const BASE: Duration = Duration::from_millis(500);
const MAX: Duration = Duration::from_secs(30);
/// The least after a server said that it has too much to do.
const EXHAUSTED: Duration = Duration::from_secs(5);

/// Jittered exponential back-off.
#[derive(Debug)]
pub(crate) struct Backoff {
    interval: Duration,
}

impl Backoff {
    pub(crate) fn new() -> Backoff {
        Backoff { interval: BASE }
    }

    /// The server has answered: the next wait is short again.
    pub(crate) fn reset(&mut self) {
        self.interval = BASE;
    }

    /// Between a half and the whole of the interval, which then doubles.
    pub(crate) fn next(&mut self, ended: Option<&Status>, random: &mut impl Rng) -> Duration {
        if ended.is_some_and(|status| status.code() == Code::ResourceExhausted) {
            self.interval = self.interval.max(EXHAUSTED);
        }
        let wait = self.interval.mul_f64(random.random_range(0.5..1.0));
        self.interval = (self.interval * 2).min(MAX);
        wait
    }
}

#[cfg(test)]
mod tests {
    use rand::SeedableRng;
    use rand::rngs::SmallRng;

    use super::*;

    #[test]
    fn waits_grow_are_bounded_and_start_anew() {
        let mut random = SmallRng::seed_from_u64(1);
        let mut backoff = Backoff::new();
        let mut upper = BASE;
        for _ in 0..20 {
            let wait = backoff.next(None, &mut random);
            assert!(wait >= upper / 2 && wait <= upper, "{wait:?} of {upper:?}");
            upper = (upper * 2).min(MAX);
        }
        backoff.reset();
        assert!(backoff.next(None, &mut random) <= BASE);
        let busy = Status::resource_exhausted("later");
        assert!(backoff.next(Some(&busy), &mut random) >= EXHAUSTED / 2);
    }
}
