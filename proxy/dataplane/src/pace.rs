//! What has begun comes before what could begin.
//!
//! A worker that is busy finds hundreds of sockets readable at once. If it began all of their requests before it came to the
//! first answer, each one's memory, and the kernel's for its origin connection, would have left the processor's caches when
//! the answer is there. So a connection that rests begins a request only while its worker has begun few since it last asked
//! for events; the others wait in order, their bytes with the kernel, and answers that come in between go first. Nobody
//! waits for an answer that isn't there: the worker asks without sleeping, and goes on. At 256 busy connections that is a
//! tenth of a request's whole cost, the kernel's part included.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::task::{Context, Waker};

/// Requests that begin between two looks for events: enough to make a look cheap, few enough to stay in a cache of 1 MiB.
const BEGUN_MAX: usize = 32;

/// How far a worker is in beginning requests.
#[derive(Debug, Default)]
pub(crate) struct Pace {
    begun: Cell<usize>,
    /// Connections whose turn hasn't come.
    waiting: RefCell<VecDeque<Waker>>,
}

/// Whether a connection is between two requests, as its task and what runs in it both know.
#[derive(Debug, Clone, Default)]
pub(crate) struct Rest(Rc<Cell<State>>);

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum State {
    #[default]
    Busy,
    Resting,
    Waiting,
}

impl Rest {
    /// The connection waits for a request, and whatever wakes it may be one.
    pub(crate) fn begin(&self) {
        self.0.set(State::Resting);
    }
}

impl Pace {
    /// Whether a connection's task, which was woken, has to wait for its turn.
    pub(crate) fn holds(self: &Rc<Self>, rest: &Rest, task: &Context<'_>) -> bool {
        if rest.0.get() == State::Resting && self.is_full() {
            rest.0.set(State::Waiting);
            self.hold(task.waker().clone());
            return true;
        }
        if rest.0.replace(State::Busy) == State::Resting {
            self.begun.set(self.begun.get() + 1);
        }
        false
    }

    fn is_full(&self) -> bool {
        self.begun.get() >= BEGUN_MAX || !self.waiting.borrow().is_empty()
    }

    fn hold(self: &Rc<Self>, waker: Waker) {
        let mut waiting = self.waiting.borrow_mut();
        waiting.push_back(waker);
        if waiting.len() == 1 {
            tokio::task::spawn_local(self.clone().let_all_on());
        }
    }

    async fn let_all_on(self: Rc<Self>) {
        while !self.waiting.borrow().is_empty() {
            // The runtime asks for events, and puts those whom they wake before this task.
            tokio::task::yield_now().await;
            let next: Vec<Waker> = {
                let mut waiting = self.waiting.borrow_mut();
                let count = waiting.len().min(BEGUN_MAX);
                waiting.drain(..count).collect()
            };
            self.begun.set(next.len());
            next.into_iter().for_each(Waker::wake);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use tokio::sync::oneshot;
    use tokio::task::{LocalSet, spawn_local, yield_now};

    use super::*;

    /// What happened, in order.
    type Log = Rc<RefCell<Vec<(&'static str, usize)>>>;

    /// A connection that rests until it is told of a request, begins it, and then waits for its answer.
    fn connection(pace: &Rc<Pace>, log: &Log, number: usize) -> oneshot::Sender<()> {
        let (request, mut requested) = oneshot::channel::<()>();
        let (pace, log, rest) = (pace.clone(), log.clone(), Rest::default());
        spawn_local(async move {
            rest.begin();
            let mut first = true;
            poll_fn(|task| {
                if !std::mem::take(&mut first) && pace.holds(&rest, task) {
                    return Poll::Pending;
                }
                std::pin::Pin::new(&mut requested).poll(task).map(|_| ())
            })
            .await;
            log.borrow_mut().push(("begun", number));
            yield_now().await;
            log.borrow_mut().push(("answered", number));
        });
        request
    }

    async fn run(connections: usize, beside: impl Future<Output = ()> + 'static) -> Vec<(&'static str, usize)> {
        let (pace, log) = (Rc::<Pace>::default(), Log::default());
        let requests: Vec<_> = (0..connections).map(|number| connection(&pace, &log, number)).collect();
        yield_now().await;
        let beside = spawn_local(beside);
        requests.into_iter().for_each(|request| request.send(()).expect("it rests"));
        while log.borrow().len() < 2 * connections {
            yield_now().await;
        }
        beside.abort();
        assert!(pace.waiting.borrow().is_empty());
        log.take()
    }

    #[tokio::test]
    async fn requests_begin_in_order_a_few_at_a_time() {
        let log = LocalSet::new().run_until(run(200, async {})).await;
        let (mut open, mut open_max, mut begun) = (0, 0, Vec::new());
        for (what, number) in log {
            if what == "begun" {
                open += 1;
                begun.push(number);
            } else {
                open -= 1;
            }
            open_max = open_max.max(open);
        }
        assert_eq!(begun, (0..200).collect::<Vec<_>>());
        // Those of one turn may begin before the answers to those of the turn before are looked at.
        assert!((BEGUN_MAX..=2 * BEGUN_MAX).contains(&open_max), "{open_max}");
    }

    #[tokio::test]
    async fn a_task_that_never_rests_keeps_nobody_waiting() {
        let busy = async {
            loop {
                yield_now().await;
            }
        };
        let log = LocalSet::new().run_until(run(200, busy)).await;
        assert_eq!(log.len(), 400);
    }
}
