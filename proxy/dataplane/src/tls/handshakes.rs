//! Handshakes that are under way: bounded, the oldest gives way.
//!
//! A client that is slow on purpose must not keep others out: of too many handshakes the one that began first ends, and a
//! real one takes milliseconds.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::Future;
use std::rc::{Rc, Weak};

use tokio::sync::Notify;

/// Of one worker; each holds some 10 kB.
const HANDSHAKES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(crate) struct Handshakes {
    running: RefCell<VecDeque<Weak<Turn>>>,
}

#[derive(Debug, Default)]
struct Turn {
    evicted: Cell<bool>,
    told: Notify,
}

impl Handshakes {
    /// Runs a handshake; `None` where it had to give way.
    pub(crate) async fn run<T>(&self, handshake: impl Future<Output = T>) -> Option<T> {
        let turn = self.enter(HANDSHAKES_MAX);
        tokio::select! {
            biased;
            out = handshake => Some(out),
            () = turn.told.notified() => None,
        }
    }

    fn enter(&self, max: usize) -> Rc<Turn> {
        let turn = Rc::new(Turn::default());
        let mut running = self.running.borrow_mut();
        running.push_back(Rc::downgrade(&turn));
        while running.front().is_some_and(|oldest| oldest.strong_count() == 0) {
            running.pop_front();
        }
        if running.len() > max {
            // Some in the middle may have ended.
            running.retain(|turn| turn.strong_count() > 0);
            while running.len() > max {
                if let Some(oldest) = running.pop_front().and_then(|turn| turn.upgrade()) {
                    oldest.evicted.set(true);
                    oldest.told.notify_one();
                }
            }
        }
        turn
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_gives_way() {
        let handshakes = Handshakes::default();
        let turns: Vec<_> = (0..4).map(|_| handshakes.enter(3)).collect();
        let evicted = |turns: &[Rc<Turn>]| turns.iter().map(|turn| turn.evicted.get()).collect::<Vec<_>>();
        assert_eq!(evicted(&turns), [true, false, false, false]);
        let mut turns = turns;
        turns.remove(2);
        turns.push(handshakes.enter(3));
        assert_eq!(evicted(&turns), [true, false, false, false]);
        turns.push(handshakes.enter(3));
        assert_eq!(evicted(&turns), [true, true, false, false, false]);
    }
}
