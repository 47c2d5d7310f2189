//! Shared data and shared queues of one `vm_id`: process-wide, bounded.

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

/// Bytes of keys and values of one `vm_id`; beyond it the entries that were used longest ago go.
const DATA_BYTES_MAX: usize = 16 << 20;
/// Entries of one `vm_id`.
const DATA_ENTRIES_MAX: usize = 100_000;
/// What an entry costs besides its key and value.
const ENTRY_OVERHEAD: usize = 128;
const QUEUES_MAX: usize = 64;
const QUEUE_BYTES_MAX: usize = 1 << 20;
const QUEUE_MESSAGES_MAX: usize = 10_000;

/// What the VMs of one `vm_id` share.
#[derive(Debug, Default)]
pub(crate) struct SharedVm {
    data: Mutex<Data>,
    queues: Mutex<Queues>,
}

#[derive(Debug, Default)]
struct Data {
    entries: HashMap<Arc<[u8]>, Entry>,
    /// Keys by when they were used last.
    by_use: BTreeMap<u64, Arc<[u8]>>,
    bytes: usize,
    clock: u64,
    cas: u32,
}

#[derive(Debug)]
struct Entry {
    value: Bytes,
    cas: u32,
    used: u64,
}

/// Another write came in between.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct CasMismatch;

fn cost(key: &[u8], value: &[u8]) -> usize {
    key.len() + value.len() + ENTRY_OVERHEAD
}

impl Data {
    fn touch(&mut self, key: &[u8]) -> Option<&mut Entry> {
        let entry = self.entries.get_mut(key)?;
        if let Some(key) = self.by_use.remove(&entry.used) {
            self.clock += 1;
            entry.used = self.clock;
            self.by_use.insert(self.clock, key);
        }
        Some(entry)
    }

    fn remove(&mut self, key: &[u8]) {
        if let Some(entry) = self.entries.remove(key) {
            self.by_use.remove(&entry.used);
            self.bytes -= cost(key, &entry.value);
        }
    }

    fn insert(&mut self, key: &[u8], value: Bytes) {
        self.remove(key);
        let cost = cost(key, &value);
        if cost > DATA_BYTES_MAX {
            return;
        }
        while self.bytes + cost > DATA_BYTES_MAX || self.entries.len() >= DATA_ENTRIES_MAX {
            let Some((_, oldest)) = self.by_use.pop_first() else { break };
            self.remove(&oldest);
        }
        self.cas = self.cas.wrapping_add(1).max(1);
        self.clock += 1;
        let key: Arc<[u8]> = Arc::from(key);
        self.by_use.insert(self.clock, key.clone());
        self.entries.insert(key, Entry { value, cas: self.cas, used: self.clock });
        self.bytes += cost;
    }
}

impl SharedVm {
    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a key and the number that a conditional write of it needs.
    pub(crate) fn get(&self, key: &[u8]) -> Option<(Bytes, u32)> {
        self.data().touch(key).map(|entry| (entry.value.clone(), entry.cas))
    }

    /// Writes unless `cas` is neither 0 nor the entry's. An empty value frees the entry: the ABI has no other removal.
    pub(crate) fn set(&self, key: &[u8], value: Bytes, cas: u32) -> Result<(), CasMismatch> {
        let mut data = self.data();
        if cas != 0 && data.entries.get(key).is_some_and(|entry| entry.cas != cas) {
            return Err(CasMismatch);
        }
        if value.is_empty() {
            data.remove(key);
        } else {
            data.insert(key, value);
        }
        Ok(())
    }
}

#[derive(Debug, Default)]
struct Queues {
    by_name: HashMap<Vec<u8>, u32>,
    queues: Vec<Queue>,
}

#[derive(Debug, Default)]
struct Queue {
    messages: VecDeque<Bytes>,
    bytes: usize,
}

/// Why a queue gave or took nothing.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum QueueError {
    NotFound,
    Empty,
    Full,
}

impl SharedVm {
    fn queues(&self) -> MutexGuard<'_, Queues> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The queue of a name, made at its first registration; `None` past the bound. Numbers start at 1.
    pub(crate) fn register_queue(&self, name: &[u8]) -> Option<u32> {
        let mut queues = self.queues();
        if let Some(id) = queues.by_name.get(name) {
            return Some(*id);
        }
        if queues.queues.len() >= QUEUES_MAX {
            return None;
        }
        queues.queues.push(Queue::default());
        let id = u32::try_from(queues.queues.len()).ok()?;
        queues.by_name.insert(name.to_vec(), id);
        Some(id)
    }

    pub(crate) fn resolve_queue(&self, name: &[u8]) -> Option<u32> {
        self.queues().by_name.get(name).copied()
    }

    fn with_queue<T>(&self, id: u32, run: impl FnOnce(&mut Queue) -> Result<T, QueueError>) -> Result<T, QueueError> {
        let index = id.checked_sub(1).ok_or(QueueError::NotFound)? as usize;
        run(self.queues().queues.get_mut(index).ok_or(QueueError::NotFound)?)
    }

    pub(crate) fn enqueue(&self, id: u32, message: Bytes) -> Result<(), QueueError> {
        self.with_queue(id, |queue| {
            if queue.messages.len() >= QUEUE_MESSAGES_MAX || queue.bytes + message.len() > QUEUE_BYTES_MAX {
                return Err(QueueError::Full);
            }
            queue.bytes += message.len();
            queue.messages.push_back(message);
            Ok(())
        })
    }

    pub(crate) fn dequeue(&self, id: u32) -> Result<Bytes, QueueError> {
        self.with_queue(id, |queue| {
            let message = queue.messages.pop_front().ok_or(QueueError::Empty)?;
            queue.bytes -= message.len();
            Ok(message)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_are_conditional_on_cas() {
        let shared = SharedVm::default();
        assert_eq!(shared.get(b"k"), None);
        assert_eq!(shared.set(b"k", Bytes::from_static(b"1"), 7), Ok(()), "cas on an absent key succeeds");
        let (value, cas) = shared.get(b"k").expect("written");
        assert_eq!(value, "1");
        assert_eq!(shared.set(b"k", Bytes::from_static(b"2"), cas), Ok(()));
        assert_eq!(shared.set(b"k", Bytes::from_static(b"3"), cas), Err(CasMismatch));
        assert_eq!(shared.set(b"k", Bytes::from_static(b"4"), 0), Ok(()));
        assert_eq!(shared.get(b"k").expect("written").0, "4");
        assert_eq!(shared.set(b"k", Bytes::new(), 0), Ok(()));
        assert_eq!(shared.get(b"k"), None);
        assert_eq!(shared.data().bytes, 0);
    }

    #[test]
    fn the_entries_used_longest_ago_go() {
        let shared = SharedVm::default();
        let value = Bytes::from(vec![0; DATA_BYTES_MAX / 4]);
        for key in [b"a", b"b", b"c"] {
            shared.set(key, value.clone(), 0).expect("unconditional");
        }
        assert!(shared.get(b"a").is_some());
        shared.set(b"d", value.clone(), 0).expect("unconditional");
        assert!(shared.get(b"b").is_none() && shared.get(b"a").is_some());
        shared.set(b"huge", Bytes::from(vec![0; DATA_BYTES_MAX + 1]), 0).expect("dropped, not an error");
        assert!(shared.get(b"huge").is_none());
        let data = shared.data();
        assert!(data.bytes <= DATA_BYTES_MAX && data.entries.len() == data.by_use.len());
    }

    #[test]
    fn queues_are_bounded() {
        let shared = SharedVm::default();
        let id = shared.register_queue(b"q").expect("below the bound");
        assert_eq!(shared.register_queue(b"q"), Some(id));
        assert_eq!((shared.resolve_queue(b"q"), shared.resolve_queue(b"x")), (Some(id), None));
        assert_eq!(shared.dequeue(id), Err(QueueError::Empty));
        assert_eq!(shared.dequeue(id + 1), Err(QueueError::NotFound));
        assert_eq!(shared.enqueue(0, Bytes::new()), Err(QueueError::NotFound));
        shared.enqueue(id, Bytes::from_static(b"m")).expect("room");
        assert_eq!(shared.enqueue(id, Bytes::from(vec![0; QUEUE_BYTES_MAX])), Err(QueueError::Full));
        assert_eq!(shared.dequeue(id), Ok(Bytes::from_static(b"m")));
        for index in 0..2 * QUEUES_MAX {
            shared.register_queue(index.to_string().as_bytes());
        }
        assert_eq!(shared.queues().queues.len(), QUEUES_MAX);
    }
}
