//! When a VM that was lost is replaced: at once, and after longer and longer waits where it is lost again and again.

use std::time::Duration;

use outrigger_wasm::Backoff;
use tokio::time::Instant;

/// Losses after which a replacement still comes at once.
const FREE: u32 = 5;
const BACKOFF: Backoff = Backoff { base: Duration::from_millis(500), max: Duration::from_secs(60) };
/// A VM that lasted this long has nothing to do with what came before.
const FORGIVEN_AFTER: Duration = Duration::from_secs(60);

/// Counts losses in a row.
#[derive(Debug, Default)]
pub(super) struct Breaker {
    losses: u32,
    last: Option<Instant>,
}

impl Breaker {
    /// A VM was lost, or didn't start. How long to wait for the next; `random`: 0..1, so that proxies which fail together
    /// don't come back together. `reload`: waits that a plugin asks for, from the first loss on.
    pub(super) fn lost(&mut self, now: Instant, random: f64, reload: Option<Backoff>) -> Duration {
        if self.last.is_some_and(|last| now.duration_since(last) >= FORGIVEN_AFTER) {
            self.losses = 0;
        }
        self.losses = self.losses.saturating_add(1);
        let (free, backoff) = reload.map_or((FREE, BACKOFF), |backoff| (0, backoff));
        let wait = match self.losses.checked_sub(free + 1) {
            None => Duration::ZERO,
            Some(doublings) => {
                let longest = backoff.base.saturating_mul(1 << doublings.min(20)).min(backoff.max.max(backoff.base));
                // Never less than half: a wait that is drawn short must still be one.
                longest / 2 + longest.mul_f64(random.clamp(0.0, 1.0) / 2.0)
            }
        };
        self.last = Some(now + wait);
        wait
    }

    /// Losses in a row.
    pub(super) const fn losses(&self) -> u32 {
        self.losses
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_grow_to_their_bound_and_are_forgiven() {
        let mut breaker = Breaker::default();
        let start = Instant::now();
        for _ in 0..FREE {
            assert_eq!(breaker.lost(start, 1.0, None), Duration::ZERO);
        }
        let waits: Vec<u128> = (0..9).map(|_| breaker.lost(start, 1.0, None).as_millis()).collect();
        assert_eq!(waits, [500, 1000, 2000, 4000, 8000, 16_000, 32_000, 60_000, 60_000]);
        assert_eq!(breaker.lost(start, 0.0, None), Duration::from_secs(30), "half at least");
        let later = start + Duration::from_secs(30) + FORGIVEN_AFTER;
        assert_eq!(breaker.lost(later, 1.0, None), Duration::ZERO);
        assert_eq!(breaker.losses(), 1);
    }

    #[test]
    fn reload_waits_from_the_first_loss_on() {
        let backoff = Backoff { base: Duration::from_secs(1), max: Duration::from_secs(3) };
        let mut breaker = Breaker::default();
        let now = Instant::now();
        let waits: Vec<u64> = (0..4).map(|_| breaker.lost(now, 1.0, Some(backoff)).as_secs()).collect();
        assert_eq!(waits, [1, 2, 3, 3]);
    }

    #[test]
    fn a_month_of_losses_overflows_nothing() {
        let mut breaker = Breaker { losses: u32::MAX - 1, last: None };
        for _ in 0..3 {
            assert_eq!(breaker.lost(Instant::now(), 1.0, None), BACKOFF.max);
        }
    }
}
