//! Deadlines without a timer operation a request.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::task::unconstrained;
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
        // A task that has spent its budget is not polled again for this timer's sake: it must be armed now.
        while std::pin::pin!(unconstrained(sleep.as_mut())).poll(cx).is_ready() {
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

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::time::Duration;

    use tokio::task::coop;

    use super::*;

    fn spend_budget(cx: &mut Context<'_>) {
        while coop::has_budget_remaining() {
            _ = pin!(coop::consume_budget()).poll(cx);
        }
    }

    #[tokio::test]
    async fn a_deadline_comes_though_the_budget_was_spent_when_it_was_set() {
        let mut timer = LazyTimer::default();
        let begun = Instant::now();
        let first = begun + Duration::from_millis(10);
        let later = begun + Duration::from_millis(30);
        // The deadline moves on; the timer fires at the first one, and is set again by a task without budget.
        let mut moved = false;
        let passed = poll_fn(|cx| {
            spend_budget(cx);
            let deadline = if std::mem::replace(&mut moved, true) { later } else { first };
            timer.poll_until(Some(deadline), cx)
        });
        tokio::time::timeout(Duration::from_secs(30), passed).await.expect("the timer was armed");
        assert!(Instant::now() >= later);
    }
}
