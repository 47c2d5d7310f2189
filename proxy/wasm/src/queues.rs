//! Shared queues: process-wide, by `vm_id` and name, bounded. Whoever registered a queue last is told of its messages, on
//! the worker that its VM lives on, and its limits are the queue's: those of another, who only writes, say nothing. The queue
//! counts among those of all that registered it, and goes with the last of them.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::action::RootId;
use crate::plugin::Limits;
use crate::shared::Tenant;

const NAME_BYTES_MAX: usize = 256;
/// What a message costs besides its bytes: its slot, in a ring that may be twice as long as what it holds, and its allocation.
const MESSAGE_OVERHEAD: usize = 80;

/// All queues of the process.
#[derive(Debug, Default)]
pub(crate) struct Queues {
    all: Mutex<All>,
}

#[derive(Debug, Default)]
struct All {
    by_name: HashMap<(String, Vec<u8>), u32>,
    queues: BTreeMap<u32, Queue>,
    last_id: u32,
}

#[derive(Debug)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
    reader: Reader,
    /// Those who registered it before the reader, the last of them at the end: once each.
    others: Vec<Reader>,
}

/// Who registered a queue.
#[derive(Debug)]
struct Reader {
    /// The number of its [`Tenant`].
    owner: u64,
    events: Weak<QueueEvents>,
    root: RootId,
    bytes_max: usize,
    messages_max: usize,
}

fn cost(message: &Bytes) -> usize {
    message.len() + MESSAGE_OVERHEAD
}

impl Queue {
    fn is_of(&self, owner: u64) -> bool {
        self.reader.owner == owner || self.others.iter().any(|other| other.owner == owner)
    }

    /// Another one, or the same anew, is told of messages from now on.
    fn hand_to(&mut self, reader: Reader) {
        let before = std::mem::replace(&mut self.reader, reader);
        self.others.push(before);
        self.others.retain(|other| other.owner != self.reader.owner);
        self.shrink();
    }

    /// Without a plugin that is gone: who registered it before has it again; `false`: nobody is left.
    fn leave(&mut self, owner: u64) -> bool {
        self.others.retain(|other| other.owner != owner);
        if self.reader.owner != owner {
            return true;
        }
        let Some(before) = self.others.pop() else { return false };
        self.reader = before;
        self.shrink();
        true
    }

    fn is_over(&self) -> bool {
        self.bytes > self.reader.bytes_max || self.messages.len() > self.reader.messages_max
    }

    /// Takes a message; how many had to go for it. One that is larger than the queue costs no other its place.
    fn push(&mut self, message: Bytes) -> u64 {
        if cost(&message) > self.reader.bytes_max {
            return 1;
        }
        self.bytes += cost(&message);
        self.messages.push_back(message);
        self.shrink()
    }

    fn pop(&mut self) -> Option<Bytes> {
        let message = self.messages.pop_front()?;
        self.bytes -= cost(&message);
        Some(message)
    }

    fn shrink(&mut self) -> u64 {
        let mut dropped = 0;
        while self.is_over() && self.pop().is_some() {
            dropped += 1;
        }
        dropped
    }

    /// Tells its reader of messages that came, or that wait.
    fn tell(&self, id: u32, times: usize) {
        if let Some(events) = self.reader.events.upgrade() {
            events.push(self.reader.root, id, times, self.messages.len());
        }
    }
}

/// Why a queue gave or took nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    NotFound,
    Empty,
}

/// What became of a message.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Enqueued {
    Kept,
    /// The queue is full and nobody reads it fast enough: its oldest messages made room, or the message is larger than it.
    Dropped(u64),
}

impl Queues {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of a name, made at its first registration; the last one to register is told of messages. `None` past the
    /// number that a plugin may have.
    pub(crate) fn register(
        &self,
        tenant: &Tenant,
        name: &[u8],
        events: &Arc<QueueEvents>,
        root: RootId,
        limits: &Limits,
    ) -> Option<u32> {
        if name.len() > NAME_BYTES_MAX {
            return None;
        }
        let (vm_id, owner) = tenant.identity();
        let reader = Reader {
            owner,
            events: Arc::downgrade(events),
            root,
            bytes_max: limits.shared_queue_bytes,
            messages_max: limits.shared_queue_messages,
        };
        let mut all = self.all();
        let key = (vm_id.to_owned(), name.to_vec());
        let known = all.by_name.get(&key).copied();
        let is_own = known.and_then(|id| all.queues.get(&id)).is_some_and(|queue| queue.is_of(owner));
        if !is_own && all.queues.values().filter(|queue| queue.is_of(owner)).count() >= limits.shared_queues {
            return None;
        }
        if let Some(id) = known {
            let queue = all.queues.get_mut(&id)?;
            queue.hand_to(reader);
            queue.tell(id, queue.messages.len());
            return Some(id);
        }
        let id = all.last_id.checked_add(1)?;
        all.last_id = id;
        all.by_name.insert(key, id);
        all.queues.insert(id, Queue { messages: VecDeque::new(), bytes: 0, reader, others: Vec::new() });
        Some(id)
    }

    pub(crate) fn resolve(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        self.all().by_name.get(&(vm_id.to_owned(), name.to_vec())).copied()
    }

    pub(crate) fn enqueue(&self, id: u32, message: Bytes) -> Result<Enqueued, QueueError> {
        let mut all = self.all();
        let queue = all.queues.get_mut(&id).ok_or(QueueError::NotFound)?;
        let dropped = queue.push(message);
        queue.tell(id, 1);
        Ok(if dropped == 0 { Enqueued::Kept } else { Enqueued::Dropped(dropped) })
    }

    pub(crate) fn dequeue(&self, id: u32) -> Result<Bytes, QueueError> {
        self.all().queues.get_mut(&id).ok_or(QueueError::NotFound)?.pop().ok_or(QueueError::Empty)
    }

    /// A plugin is gone. What another one has registered too stays.
    pub(crate) fn remove_of(&self, owner: u64) {
        let All { by_name, queues, .. } = &mut *self.all();
        queues.retain(|_, queue| queue.leave(owner));
        by_name.retain(|_, id| queues.contains_key(id));
    }
}

/// The queues that wait to be told to one VM; filled by any thread, polled by the worker that the VM lives on.
#[derive(Debug, Default)]
pub struct QueueEvents(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    /// Each queue of each root context once, with how often it is still to be told.
    events: VecDeque<(RootId, u32, usize)>,
    waker: Option<Waker>,
}

impl QueueEvents {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A notification for each message, but no more than there are messages: one that was lost needs none.
    fn push(&self, root: RootId, queue: u32, times: usize, messages: usize) {
        let mut waiting = self.waiting();
        match waiting.events.iter_mut().find(|event| (event.0, event.1) == (root, queue)) {
            Some(event) => event.2 = (event.2 + times).min(messages),
            None if messages > 0 => waiting.events.push_back((root, queue, times.min(messages))),
            None => {}
        }
        let waker = if waiting.events.is_empty() { None } else { waiting.waker.take() };
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next root context and queue for [`crate::Vm::on_queue_ready`]; queues take turns.
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<(RootId, u32)> {
        let mut waiting = self.waiting();
        let Some((root, queue, times)) = waiting.events.pop_front() else {
            waiting.waker = Some(cx.waker().clone());
            return Poll::Pending;
        };
        if times > 1 {
            waiting.events.push_back((root, queue, times - 1));
        }
        Poll::Ready((root, queue))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shared::SharedVm;

    const ROOT: RootId = RootId { id: 1, slot: 0 };

    struct Fixture {
        queues: Arc<Queues>,
        events: Arc<QueueEvents>,
        limits: Limits,
    }

    impl Fixture {
        fn new() -> Fixture {
            let shared_queue_bytes = 10 + 4 * MESSAGE_OVERHEAD;
            let limits = Limits { shared_queues: 3, shared_queue_bytes, shared_queue_messages: 4, ..Limits::default() };
            Fixture { queues: Arc::default(), events: Arc::default(), limits }
        }

        fn vm(&self, id: &str) -> Arc<SharedVm> {
            Arc::new(SharedVm::new(id, &self.queues))
        }

        /// The only plugin of a `vm_id`.
        fn in_vm(&self, id: &str) -> Arc<Tenant> {
            self.vm(id).tenant("plugin")
        }

        fn register(&self, plugin: &Tenant, name: &str) -> Option<u32> {
            self.queues.register(plugin, name.as_bytes(), &self.events, ROOT, &self.limits)
        }

        /// How many messages it cost.
        fn enqueue(&self, queue: u32, message: &'static str) -> u64 {
            match self.queues.enqueue(queue, Bytes::from_static(message.as_bytes())).expect("it is there") {
                Enqueued::Kept => 0,
                Enqueued::Dropped(count) => count,
            }
        }

        fn rest(&self, queue: u32) -> Vec<Bytes> {
            std::iter::from_fn(|| self.queues.dequeue(queue).ok()).collect()
        }
    }

    fn next(events: &QueueEvents) -> Option<u32> {
        match events.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((_, queue)) => Some(queue),
            Poll::Pending => None,
        }
    }

    fn told(events: &QueueEvents) -> Vec<u32> {
        std::iter::from_fn(|| next(events)).collect()
    }

    #[test]
    fn queues_are_of_a_vm_id_and_numbered_in_the_process() {
        let fixture = Fixture::new();
        let queues = &fixture.queues;
        let (in_a, in_b) = (fixture.in_vm("a"), fixture.in_vm("b"));
        let a = fixture.register(&in_a, "q").expect("below the bound");
        let b = fixture.register(&in_b, "q").expect("below the bound");
        assert_ne!(a, b);
        assert_eq!(fixture.register(&in_a, "q"), Some(a));
        assert_eq!((queues.resolve("b", b"q"), queues.resolve("c", b"q")), (Some(b), None));
        assert_eq!(queues.dequeue(a), Err(QueueError::Empty));
        assert_eq!(queues.dequeue(b + 1), Err(QueueError::NotFound));
        assert_eq!(queues.enqueue(0, Bytes::new()), Err(QueueError::NotFound));
        assert_eq!(fixture.enqueue(a, "m"), 0);
        drop(in_b);
        assert_eq!((queues.resolve("b", b"q"), queues.dequeue(b)), (None, Err(QueueError::NotFound)));
        assert_eq!(fixture.rest(a), ["m"]);
        let again = fixture.in_vm("a");
        assert_eq!(fixture.register(&again, "q"), Some(a));
        drop(in_a);
        assert_eq!(queues.resolve("a", b"q"), Some(a), "taken over");
    }

    #[test]
    fn a_full_queue_loses_its_oldest_and_what_is_larger_than_it_costs_nobody() {
        let mut fixture = Fixture::new();
        fixture.limits.shared_queue_bytes = 10 + 2 * MESSAGE_OVERHEAD;
        let vm = fixture.in_vm("vm");
        let id = fixture.register(&vm, "q").expect("below the bound");
        assert_eq!((fixture.enqueue(id, "old"), fixture.enqueue(id, "seven b")), (0, 0), "ten bytes");
        assert_eq!(fixture.enqueue(id, "one"), 1, "by bytes");
        assert_eq!(fixture.queues.enqueue(id, Bytes::from(vec![0; 91 + 80])), Ok(Enqueued::Dropped(1)), "itself");
        assert_eq!(fixture.rest(id), ["seven b", "one"]);
        assert_eq!(
            ["", "", "", ""].map(|message| fixture.enqueue(id, message)),
            [0, 0, 1, 1],
            "no message is for nothing"
        );
        fixture.limits.shared_queue_bytes = 1000;
        fixture.register(&vm, "q").expect("there");
        assert_eq!(["", "", ""].map(|message| fixture.enqueue(id, message)), [0, 0, 1], "by number");
        assert_eq!(fixture.rest(id).len(), 4);
    }

    #[test]
    fn a_plugin_has_so_many_queues() {
        let fixture = Fixture::new();
        let vm = fixture.vm("vm");
        let (one, other) = (vm.tenant("one"), vm.tenant("other"));
        let ids = ["a", "b", "c", "d"].map(|name| fixture.register(&one, name));
        assert_eq!(ids.map(|id| id.is_some()), [true, true, true, false]);
        assert_eq!(fixture.register(&vm.tenant("one"), "a"), ids[0], "one that is there, from another of its VMs");
        let others = ["d", "e", "a"].map(|name| fixture.register(&other, name));
        assert_eq!((others[0].is_some(), others[2]), (true, ids[0]), "each for itself");
        assert_eq!((fixture.register(&other, "b"), fixture.register(&other, "f")), (None, None));
        assert_eq!(fixture.register(&one, "f"), None, "what another has registered too is still one of its own");
        assert_eq!(fixture.register(&fixture.in_vm("another"), &"x".repeat(300)), None);
    }

    #[test]
    fn queues_go_with_the_last_of_their_plugin() {
        let fixture = Fixture::new();
        let vm = fixture.vm("vm");
        let (one, again, other) = (vm.tenant("one"), vm.tenant("one"), vm.tenant("other"));
        let [a, b] = ["a", "b"].map(|name| fixture.register(&one, name).expect("below the bound"));
        let c = fixture.register(&other, "c").expect("below the bound");
        fixture.register(&other, "b").expect("taken over");
        drop(one);
        assert_eq!(fixture.enqueue(a, "m"), 0, "another of its VMs is there");
        drop(again);
        assert_eq!(fixture.queues.dequeue(a), Err(QueueError::NotFound));
        assert_eq!(["a", "b", "c"].map(|name| fixture.queues.resolve("vm", name.as_bytes())), [None, Some(b), Some(c)]);
    }

    #[test]
    fn a_queue_of_two_outlives_who_registered_it_last() {
        let fixture = Fixture::new();
        let vm = fixture.vm("vm");
        let (one, other) = (vm.tenant("one"), vm.tenant("other"));
        let id = fixture.register(&one, "q").expect("below the bound");
        let last = Fixture { events: Arc::default(), queues: fixture.queues.clone(), limits: fixture.limits.clone() };
        assert_eq!(last.register(&other, "q"), Some(id));
        assert_eq!((last.enqueue(id, "m"), told(&last.events), told(&fixture.events)), (0, vec![id], vec![]));
        drop(other);
        assert_eq!((fixture.enqueue(id, "n"), told(&fixture.events)), (0, vec![id]), "the one before is told again");
        assert_eq!(fixture.rest(id), ["m", "n"]);
        drop(one);
        assert_eq!(fixture.queues.dequeue(id), Err(QueueError::NotFound));
    }

    #[test]
    fn the_last_to_register_says_how_large_it_is() {
        let mut fixture = Fixture::new();
        let vm = fixture.in_vm("vm");
        let id = fixture.register(&vm, "q").expect("below the bound");
        assert_eq!(["a", "b", "c"].map(|message| fixture.enqueue(id, message)), [0, 0, 0]);
        fixture.limits.shared_queue_messages = 2;
        fixture.register(&vm, "q").expect("there");
        assert_eq!(fixture.rest(id), ["b", "c"]);
        fixture.limits.shared_queue_messages = 1000;
        fixture.limits.shared_queue_bytes = 10_000;
        fixture.register(&vm, "q").expect("there");
        assert_eq!(["eleven byte", "eleven byte"].map(|message| fixture.enqueue(id, message)), [0, 0]);
    }

    #[test]
    fn the_last_to_register_is_told() {
        let fixture = Fixture::new();
        let vm = fixture.in_vm("vm");
        let first = Arc::clone(&fixture.events);
        let id = fixture.register(&vm, "q").expect("below the bound");
        fixture.enqueue(id, "");
        assert_eq!(told(&first), [id]);
        let fixture = Fixture { events: Arc::default(), ..fixture };
        fixture.register(&vm, "q").expect("there");
        assert_eq!(told(&fixture.events), [id], "what waits is told to who takes over");
        fixture.enqueue(id, "");
        assert_eq!((told(&first), told(&fixture.events)), (vec![], vec![id]));
        let fixture = Fixture { events: Arc::default(), ..fixture };
        assert_eq!(fixture.enqueue(id, ""), 0, "nobody is told");
    }

    #[test]
    fn a_reader_is_told_once_for_each_message_and_of_queues_in_turn() {
        let fixture = Fixture::new();
        let vm = fixture.in_vm("vm");
        let [a, b] = ["a", "b"].map(|name| fixture.register(&vm, name).expect("below the bound"));
        for _ in 0..100 {
            fixture.enqueue(a, "");
        }
        fixture.enqueue(b, "");
        assert_eq!(told(&fixture.events), [a, b, a, a, a], "lost messages need no word");
    }
}
