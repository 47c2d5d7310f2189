//! Deadlines without a timer operation a request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::{Instant, Sleep};

/// A timer that is armed at the earliest deadline that it has seen and, when it fires early, at the one that it has now.
///
/// A keep-alive connection whose deadline moves on with every request touches the runtime's timers once a timeout, not
/// once a request.
#[derive(Debug, Default)]
pub(crate) struct LazyTimer {
    sleep: Option<Pin<Box<Sleep>>>,
    /// Whom the armed timer wakes.
    waker: Option<Waker>,
}

impl LazyTimer {
    /// Ready when `deadline` has passed.
    pub(crate) fn poll_until(&mut self, deadline: Option<Instant>, cx: &mut Context<'_>) -> Poll<()> {
        let Some(deadline) = deadline else { return Poll::Pending };
        let sleep = self.sleep.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(deadline)));
        let armed = !sleep.is_elapsed();
        if armed && sleep.deadline() <= deadline {
            // It runs, and wakes this task: nothing to do for it.
            if self.waker.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
                return Poll::Pending;
            }
        } else if armed || sleep.deadline() < deadline {
            sleep.as_mut().reset(deadline);
        }
        self.waker = Some(cx.waker().clone());
        while sleep.as_mut().poll(cx).is_ready() {
            if sleep.deadline() >= deadline {
                return Poll::Ready(());
            }
            sleep.as_mut().reset(deadline);
        }
        Poll::Pending
    }
}

/// The earlier of two deadlines.
pub(crate) fn earlier(a: Option<Instant>, b: Option<Instant>) -> Option<Instant> {
    match (a, b) {
        (Some(a), Some(b)) => Some(a.min(b)),
        (a, b) => a.or(b),
    }
}
