//! What has begun comes before what could begin.
//!
//! A worker that is busy finds hundreds of sockets readable at once. If it began all of their requests before it came to the
//! first answer, each one's memory, and the kernel's for its origin connection, would have left the processor's caches when
//! the answer is there. So a connection that rests is woken for a request only while its worker has begun few since it last
//! asked for events; the others wait in order, their bytes with the kernel, and answers that come in between go first.
//! Nobody waits for an answer that isn't there: the worker asks without sleeping, and goes on. At 256 busy connections that
//! is a tenth of a request's whole cost, the kernel's part included.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::task::{Context, Poll, Wake, Waker};

/// Requests that begin between two looks for events: enough to make a look cheap, few enough to stay in a cache of 1 MiB.
const BEGUN_MAX: usize = 32;

thread_local! {
    static PACE: Pace = const { Pace::new() };
}

/// How far a worker is in beginning requests.
#[derive(Debug)]
struct Pace {
    begun: Cell<usize>,
    /// Connections whose turn hasn't come.
    waiting: RefCell<VecDeque<Arc<Connection>>>,
    /// Who lets them on; `None`: nobody waits on this thread.
    keeper: RefCell<Option<Waker>>,
}

/// A client's connection, as whatever wakes it knows it.
#[derive(Debug)]
struct Connection {
    state: AtomicU8,
    task: Waker,
}

const BUSY: u8 = 0;
const RESTING: u8 = 1;
const WAITING: u8 = 2;

/// For the one who serves a connection: to tell that it waits for a request.
#[derive(Debug, Clone)]
pub(crate) struct Rest(Arc<Connection>);

impl Rest {
    /// Whatever wakes the connection may be a request.
    pub(crate) fn begin(&self) {
        self.0.state.store(RESTING, Ordering::Relaxed);
    }
}

/// Runs what serves a connection, in a task of its own, at the worker's pace.
pub(crate) async fn paced<F: Future<Output = ()>>(serve: impl FnOnce(Rest) -> F) {
    let task = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let connection = Arc::new(Connection { state: AtomicU8::new(BUSY), task });
    let waker = Waker::from(connection.clone());
    let mut serving = pin!(serve(Rest(connection)));
    poll_fn(|_| serving.as_mut().poll(&mut Context::from_waker(&waker))).await;
}

impl Wake for Connection {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if self.state.load(Ordering::Relaxed) == RESTING {
            // A thread that ends has nothing to hold anybody back for.
            let begins = PACE.try_with(|pace| pace.begins(self)).unwrap_or(true);
            self.state.store(if begins { BUSY } else { WAITING }, Ordering::Relaxed);
            if !begins {
                return;
            }
        }
        self.task.wake_by_ref();
    }
}

/// Lets waiting connections on, on the worker's thread for as long as it serves.
pub(crate) async fn keep() {
    let waker = poll_fn(|cx| Poll::Ready(cx.waker().clone())).await;
    let _keeper = Keeper::begin(waker);
    loop {
        poll_fn(|_| if PACE.with(Pace::is_idle) { Poll::Pending } else { Poll::Ready(()) }).await;
        // The runtime asks for events, and puts those whom they wake before this task.
        tokio::task::yield_now().await;
        PACE.with(|pace| pace.let_on(BEGUN_MAX));
    }
}

struct Keeper;

impl Keeper {
    fn begin(waker: Waker) -> Keeper {
        PACE.with(|pace| pace.keeper.replace(Some(waker)));
        Keeper
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        PACE.with(|pace| {
            pace.keeper.take();
            pace.let_on(usize::MAX);
        });
    }
}

impl Pace {
    const fn new() -> Pace {
        Pace { begun: Cell::new(0), waiting: RefCell::new(VecDeque::new()), keeper: RefCell::new(None) }
    }

    fn is_idle(&self) -> bool {
        self.waiting.borrow().is_empty()
    }

    /// Whether a connection that was called may begin; else it waits.
    fn begins(&self, connection: &Arc<Connection>) -> bool {
        let keeper = self.keeper.borrow();
        let Some(keeper) = &*keeper else { return true };
        let mut waiting = self.waiting.borrow_mut();
        if waiting.is_empty() {
            if self.begun.get() < BEGUN_MAX {
                self.begun.set(self.begun.get() + 1);
                return true;
            }
            keeper.wake_by_ref();
        }
        waiting.push_back(connection.clone());
        false
    }

    fn let_on(&self, max: usize) {
        let next: Vec<Arc<Connection>> = {
            let mut waiting = self.waiting.borrow_mut();
            let count = waiting.len().min(max);
            waiting.drain(..count).collect()
        };
        self.begun.set(next.len());
        for connection in next {
            connection.state.store(BUSY, Ordering::Relaxed);
            connection.task.wake_by_ref();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::rc::Rc;

    use tokio::runtime::{Builder, LocalOptions};
    use tokio::sync::oneshot;
    use tokio::task::{spawn_local, yield_now};

    use super::*;

    #[derive(Debug, Clone, Copy, PartialEq, Eq)]
    enum Event {
        Rests,
        Begun(usize),
        Answered,
    }

    type Log = Rc<RefCell<Vec<Event>>>;

    /// A connection that rests until it is told of a request, begins it, and then waits for its answer.
    fn connection(log: &Log, number: usize) -> oneshot::Sender<()> {
        let (request, mut requested) = oneshot::channel::<()>();
        let log = log.clone();
        spawn_local(paced(move |rest| async move {
            let next = poll_fn(|task| {
                let next = pin!(&mut requested).poll(task);
                if next.is_pending() {
                    log.borrow_mut().push(Event::Rests);
                    rest.begin();
                }
                next
            });
            next.await.expect("a request");
            log.borrow_mut().push(Event::Begun(number));
            yield_now().await;
            log.borrow_mut().push(Event::Answered);
        }));
        request
    }

    async fn until(done: impl Fn() -> bool) {
        while !done() {
            yield_now().await;
        }
    }

    /// What happens when so many connections get a request at once.
    fn run(connections: usize, then: impl AsyncFnOnce(tokio::task::JoinHandle<()>)) -> Vec<Event> {
        let runtime = Builder::new_current_thread().build_local(LocalOptions::default()).expect("a runtime");
        runtime.block_on(async {
            let log = Log::default();
            let keeper = spawn_local(keep());
            let requests: Vec<_> = (0..connections).map(|number| connection(&log, number)).collect();
            until(|| log.borrow().len() == connections).await;
            log.borrow_mut().clear();
            requests.into_iter().for_each(|request| request.send(()).expect("it rests"));
            then(keeper).await;
            until(|| log.borrow().len() == 2 * connections).await;
            assert!(PACE.with(Pace::is_idle));
            log.take()
        })
    }

    #[test]
    fn requests_begin_in_order_a_few_at_a_time() {
        let (mut open, mut open_max, mut begun) = (0, 0, Vec::new());
        for event in run(200, async |_| {}) {
            match event {
                Event::Begun(number) => {
                    open += 1;
                    begun.push(number);
                }
                _ => open -= 1,
            }
            open_max = open_max.max(open);
        }
        assert_eq!(begun, (0..200).collect::<Vec<_>>());
        // Those of one turn may begin before the answers to those of the turn before are looked at.
        assert!((BEGUN_MAX..=2 * BEGUN_MAX).contains(&open_max), "{open_max}");
    }

    #[test]
    fn a_task_that_never_rests_keeps_nobody_waiting() {
        let log = run(200, async |_| {
            spawn_local(async {
                loop {
                    yield_now().await;
                }
            });
        });
        assert_eq!(log.len(), 400);
    }

    #[test]
    fn whoever_waits_goes_on_when_nobody_keeps_the_pace() {
        let log = run(200, async |keeper| {
            assert!(!PACE.with(Pace::is_idle));
            keeper.abort();
        });
        assert_eq!(log.iter().filter(|event| matches!(event, Event::Begun(_))).count(), 200);
    }
}
