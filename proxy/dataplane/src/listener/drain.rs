//! When the connections of a listener that goes away are asked to close.

use std::cell::Cell;
use std::rc::{Rc, Weak};
use std::time::Duration;

use tokio::time::Instant;

use crate::worker::WorkerCx;
use crate::workers::DrainOptions;

/// How often connections look whether it is their turn.
const WAKES: u32 = 100;
const WAKE_PAUSE_MIN: Duration = Duration::from_millis(50);

/// Whether a listener drains, since when, and how fast.
#[derive(Debug, Default)]
pub(crate) struct Drain(Cell<Option<(Instant, DrainOptions)>>);

impl Drain {
    /// Begins; a faster drain takes the place of a slower one.
    pub(crate) fn begin(&self, cx: &Rc<WorkerCx>, options: DrainOptions) {
        if self.0.get().is_some_and(|(_, before)| before.time <= options.time) {
            return;
        }
        self.0.set(Some((Instant::now(), options)));
        if !options.time.is_zero() {
            tokio::task::spawn_local(wake_in_turn(Rc::downgrade(cx), options));
        }
    }

    /// Whether it is a connection's turn to close, with its next answer.
    pub(crate) fn includes(&self, connection: u64) -> bool {
        self.0
            .get()
            .is_some_and(|(since, options)| !options.gradual || is_turn(options.time, since.elapsed(), connection))
    }

    /// Whether the time is over: who is idle is closed.
    pub(crate) fn is_over(&self) -> bool {
        self.0.get().is_some_and(|(since, options)| since.elapsed() >= options.time)
    }

    /// The same for a connection. One that came later, since the listener goes on accepting (`skip_exit`), has a request
    /// first and is asked to close with its answer.
    pub(crate) fn is_over_for(&self, opened: Instant) -> bool {
        self.is_over() && self.0.get().is_some_and(|(since, options)| opened < since + options.time)
    }
}

/// Each connection has its own turn within the drain time, so that clients don't all come back at once.
fn is_turn(time: Duration, elapsed: Duration, connection: u64) -> bool {
    time.is_zero() || elapsed >= time.mul_f64(share(connection))
}

/// A number from 0 up to 1 for a connection's id, evenly spread.
fn share(connection: u64) -> f64 {
    // The finaliser of splitmix64.
    let mut mixed = connection.wrapping_add(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    (mixed ^ (mixed >> 31)) as f64 / u64::MAX as f64
}

/// Connections notice their turn (HTTP/2 tells it at once), and the end of the time, when they are woken.
async fn wake_in_turn(cx: Weak<WorkerCx>, DrainOptions { time, gradual }: DrainOptions) {
    let pause = if gradual { (time / WAKES).max(WAKE_PAUSE_MIN) } else { time };
    let until = Instant::now() + time;
    loop {
        tokio::time::sleep(pause).await;
        let Some(cx) = cx.upgrade() else { return };
        cx.wake_idle();
        if Instant::now() >= until {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_are_spread_over_the_drain_time() {
        let time = Duration::from_secs(100);
        let asked = |time, elapsed| (0..1000).filter(|connection| is_turn(time, elapsed, *connection)).count();
        assert!(asked(time, Duration::ZERO) <= 1);
        for (elapsed, expected) in [(25, 250), (50, 500), (75, 750), (100, 1000), (101, 1000)] {
            let now = asked(time, Duration::from_secs(elapsed));
            assert!(now.abs_diff(expected) < 60, "{now} and not {expected} after {elapsed} s");
        }
        assert_eq!(asked(time, time), 1000);
        assert_eq!(asked(Duration::ZERO, Duration::ZERO), 1000);
    }
}
