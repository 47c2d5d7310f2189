//! Shared queues: process-wide, by `vm_id` and name, bounded. Whoever registered a queue last is told of its messages, on
//! the worker that its VM lives on.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};

use bytes::Bytes;

use crate::action::RootId;
use crate::shared::SharedVm;

/// Queues of one `vm_id`.
const QUEUES_MAX: usize = 64;
const NAME_BYTES_MAX: usize = 256;
const QUEUE_BYTES_MAX: usize = 1 << 20;
const QUEUE_MESSAGES_MAX: usize = 10_000;
/// Notifications that wait for one VM; one is enough for a consumer that reads until its queue is empty.
const EVENTS_MAX: usize = 10_000;

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
    /// Who goes with it: what the VMs of its `vm_id` share.
    owner: u64,
    messages: VecDeque<Bytes>,
    bytes: usize,
    listener: Weak<QueueEvents>,
    root: RootId,
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
    /// The queue is full and nobody reads it fast enough: its oldest messages made room.
    DroppedOldest(u64),
}

impl Queues {
    fn all(&self) -> MutexGuard<'_, All> {
        self.all.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of a name, made at its first registration; the last one to register is told of messages. `None` past the
    /// bound.
    pub(crate) fn register(
        &self,
        shared: &SharedVm,
        name: &[u8],
        listener: &Arc<QueueEvents>,
        root: RootId,
    ) -> Option<u32> {
        let (vm_id, owner) = shared.identity();
        let mut all = self.all();
        let key = (vm_id.to_owned(), name.to_vec());
        if let Some(id) = all.by_name.get(&key).copied() {
            let queue = all.queues.get_mut(&id)?;
            queue.listener = Arc::downgrade(listener);
            queue.root = root;
            queue.owner = owner;
            let waiting = queue.messages.len();
            drop(all);
            listener.push(root, id, waiting);
            return Some(id);
        }
        let of_vm = all.by_name.keys().filter(|(of, _)| of == vm_id).count();
        if of_vm >= QUEUES_MAX || name.len() > NAME_BYTES_MAX {
            return None;
        }
        let id = all.last_id.checked_add(1)?;
        all.last_id = id;
        all.by_name.insert(key, id);
        let queue = Queue { owner, messages: VecDeque::new(), bytes: 0, listener: Arc::downgrade(listener), root };
        all.queues.insert(id, queue);
        Some(id)
    }

    pub(crate) fn resolve(&self, vm_id: &str, name: &[u8]) -> Option<u32> {
        self.all().by_name.get(&(vm_id.to_owned(), name.to_vec())).copied()
    }

    pub(crate) fn enqueue(&self, id: u32, message: Bytes) -> Result<Enqueued, QueueError> {
        let mut all = self.all();
        let queue = all.queues.get_mut(&id).ok_or(QueueError::NotFound)?;
        let mut dropped = 0;
        queue.bytes += message.len();
        queue.messages.push_back(message);
        while queue.bytes > QUEUE_BYTES_MAX || queue.messages.len() > QUEUE_MESSAGES_MAX {
            let Some(oldest) = queue.messages.pop_front() else { break };
            queue.bytes -= oldest.len();
            dropped += 1;
        }
        let (listener, root) = (queue.listener.upgrade(), queue.root);
        drop(all);
        if let Some(listener) = listener {
            listener.push(root, id, 1);
        }
        Ok(if dropped == 0 { Enqueued::Kept } else { Enqueued::DroppedOldest(dropped) })
    }

    pub(crate) fn dequeue(&self, id: u32) -> Result<Bytes, QueueError> {
        let mut all = self.all();
        let queue = all.queues.get_mut(&id).ok_or(QueueError::NotFound)?;
        let message = queue.messages.pop_front().ok_or(QueueError::Empty)?;
        queue.bytes -= message.len();
        Ok(message)
    }

    /// The last VM of a `vm_id` is gone. A new one that has taken a queue over meanwhile keeps it.
    pub(crate) fn remove_of(&self, owner: u64) {
        let All { by_name, queues, .. } = &mut *self.all();
        queues.retain(|_, queue| queue.owner != owner);
        by_name.retain(|_, id| queues.contains_key(id));
    }
}

/// The queues that wait to be told to one VM; filled by any thread, polled by the worker that the VM lives on.
#[derive(Debug, Default)]
pub struct QueueEvents(Mutex<Waiting>);

#[derive(Debug, Default)]
struct Waiting {
    events: VecDeque<(RootId, u32)>,
    waker: Option<Waker>,
}

impl QueueEvents {
    fn waiting(&self) -> MutexGuard<'_, Waiting> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn push(&self, root: RootId, queue: u32, times: usize) {
        let mut waiting = self.waiting();
        let room = EVENTS_MAX.saturating_sub(waiting.events.len());
        waiting.events.extend(std::iter::repeat_n((root, queue), times.min(room)));
        let waker = if waiting.events.is_empty() { None } else { waiting.waker.take() };
        drop(waiting);
        if let Some(waker) = waker {
            waker.wake();
        }
    }

    /// The next root context and queue for [`crate::Vm::on_queue_ready`].
    pub fn poll(&self, cx: &mut Context<'_>) -> Poll<(RootId, u32)> {
        let mut waiting = self.waiting();
        if let Some(event) = waiting.events.pop_front() {
            return Poll::Ready(event);
        }
        waiting.waker = Some(cx.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROOT: RootId = RootId { id: 1, slot: 0 };

    fn next(events: &QueueEvents) -> Option<u32> {
        match events.poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready((_, queue)) => Some(queue),
            Poll::Pending => None,
        }
    }

    #[test]
    fn queues_are_of_a_vm_id_and_numbered_in_the_process() {
        let (queues, events) = (Arc::new(Queues::default()), Arc::new(QueueEvents::default()));
        let (in_a, in_b) = (SharedVm::new("a", &queues), SharedVm::new("b", &queues));
        let a = queues.register(&in_a, b"q", &events, ROOT).expect("below the bound");
        let b = queues.register(&in_b, b"q", &events, ROOT).expect("below the bound");
        assert_ne!(a, b);
        assert_eq!(queues.register(&in_a, b"q", &events, ROOT), Some(a));
        assert_eq!((queues.resolve("b", b"q"), queues.resolve("c", b"q")), (Some(b), None));
        assert_eq!(queues.dequeue(a), Err(QueueError::Empty));
        assert_eq!(queues.dequeue(b + 1), Err(QueueError::NotFound));
        assert_eq!(queues.enqueue(0, Bytes::new()), Err(QueueError::NotFound));
        assert_eq!(queues.enqueue(a, Bytes::from_static(b"m")), Ok(Enqueued::Kept));
        drop(in_b);
        assert_eq!((queues.resolve("b", b"q"), queues.dequeue(b)), (None, Err(QueueError::NotFound)));
        assert_eq!(queues.dequeue(a), Ok(Bytes::from_static(b"m")));
        let again = SharedVm::new("a", &queues);
        assert_eq!(queues.register(&again, b"q", &events, ROOT), Some(a));
        drop(in_a);
        assert_eq!(queues.resolve("a", b"q"), Some(a), "taken over");
    }

    #[test]
    fn queues_are_bounded() {
        let (queues, events) = (Arc::new(Queues::default()), Arc::new(QueueEvents::default()));
        let vm = SharedVm::new("vm", &queues);
        let id = queues.register(&vm, b"q", &events, ROOT).expect("below the bound");
        queues.enqueue(id, Bytes::from_static(b"old")).expect("there");
        let large = Bytes::from(vec![0; QUEUE_BYTES_MAX]);
        assert_eq!(queues.enqueue(id, large), Ok(Enqueued::DroppedOldest(1)));
        assert_eq!(queues.enqueue(id, Bytes::from(vec![0; QUEUE_BYTES_MAX + 1])), Ok(Enqueued::DroppedOldest(2)));
        assert_eq!(queues.dequeue(id), Err(QueueError::Empty), "what is larger than the bound is never kept");
        for index in 0..2 * QUEUES_MAX {
            queues.register(&vm, index.to_string().as_bytes(), &events, ROOT);
        }
        assert_eq!(queues.all().queues.len(), QUEUES_MAX);
        assert_eq!(queues.register(&SharedVm::new("other", &queues), &[b'x'; 300], &events, ROOT), None);
    }

    #[test]
    fn the_last_to_register_is_told() {
        let queues = Arc::new(Queues::default());
        let vm = SharedVm::new("vm", &queues);
        let (first, second) = (Arc::new(QueueEvents::default()), Arc::new(QueueEvents::default()));
        let id = queues.register(&vm, b"q", &first, ROOT).expect("below the bound");
        queues.enqueue(id, Bytes::new()).expect("there");
        assert_eq!((next(&first), next(&first)), (Some(id), None));
        queues.register(&vm, b"q", &second, ROOT).expect("there");
        assert_eq!(next(&second), Some(id), "what waits is told to who takes over");
        queues.enqueue(id, Bytes::new()).expect("there");
        assert_eq!((next(&first), next(&second)), (None, Some(id)));
        drop(second);
        assert_eq!(queues.enqueue(id, Bytes::new()), Ok(Enqueued::Kept), "nobody is told");
    }
}
