//! Shared data of one `vm_id`: process-wide, bounded.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;

use crate::plugin::Plugin;
use crate::queues::Queues;
use crate::services::Services;

/// Entries of one `vm_id`.
const DATA_ENTRIES_MAX: usize = 100_000;
/// What an entry costs besides its key and value.
const ENTRY_OVERHEAD: usize = 128;

/// What the VMs of one `vm_id` share.
#[derive(Debug)]
pub(crate) struct SharedVm {
    vm_id: String,
    data: Mutex<Data>,
    queues: Arc<Queues>,
    /// By the plugins' names.
    tenants: Mutex<HashMap<Arc<str>, Weak<Tenant>>>,
}

/// A plugin of a `vm_id`, in whichever of its VMs. While somebody holds it the shared data stays, though an instance traps,
/// and so do the queues that it registered.
#[derive(Debug)]
pub struct Tenant {
    shared: Arc<SharedVm>,
    /// No two have the same, even of one name.
    number: u64,
}

impl Tenant {
    /// One for all plugins of a name in a `vm_id`.
    #[must_use]
    pub fn new(services: &Services, plugin: &Plugin) -> Arc<Tenant> {
        services.shared(&plugin.vm.vm_id).tenant(&plugin.name)
    }

    /// The `vm_id`, and what tells this from all others.
    pub(crate) fn identity(&self) -> (&str, u64) {
        (&self.shared.vm_id, self.number)
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.shared.queues.remove_of(self.number);
    }
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

    /// Beyond so many bytes of keys and values the entries that were used longest ago go.
    fn insert(&mut self, key: &[u8], value: Bytes, bytes_max: usize) {
        self.remove(key);
        let cost = cost(key, &value);
        if cost > bytes_max {
            return;
        }
        while self.bytes + cost > bytes_max || self.entries.len() >= DATA_ENTRIES_MAX {
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
    pub(crate) fn new(vm_id: &str, queues: &Arc<Queues>) -> SharedVm {
        let (data, tenants) = (Mutex::default(), Mutex::default());
        SharedVm { vm_id: vm_id.to_owned(), data, queues: queues.clone(), tenants }
    }

    pub(crate) fn tenant(self: &Arc<Self>, plugin: &str) -> Arc<Tenant> {
        static NUMBERS: AtomicU64 = AtomicU64::new(0);
        let mut all = self.tenants.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(tenant) = all.get(plugin).and_then(Weak::upgrade) {
            return tenant;
        }
        all.retain(|_, tenant| tenant.strong_count() > 0);
        let tenant = Arc::new(Tenant { shared: self.clone(), number: NUMBERS.fetch_add(1, Ordering::Relaxed) });
        all.insert(Arc::from(plugin), Arc::downgrade(&tenant));
        tenant
    }

    fn data(&self) -> MutexGuard<'_, Data> {
        self.data.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The value of a key and the number that a conditional write of it needs.
    pub(crate) fn get(&self, key: &[u8]) -> Option<(Bytes, u32)> {
        self.data().touch(key).map(|entry| (entry.value.clone(), entry.cas))
    }

    /// Writes unless `cas` is neither 0 nor the entry's. An empty value frees the entry: the ABI has no other removal.
    pub(crate) fn set(&self, key: &[u8], value: Bytes, cas: u32, bytes_max: usize) -> Result<(), CasMismatch> {
        let mut data = self.data();
        if cas != 0 && data.entries.get(key).is_some_and(|entry| entry.cas != cas) {
            return Err(CasMismatch);
        }
        if value.is_empty() {
            data.remove(key);
        } else {
            data.insert(key, value, bytes_max);
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATA_BYTES_MAX: usize = 16 << 20;

    #[test]
    fn writes_are_conditional_on_cas() {
        let shared = SharedVm::new("vm", &Arc::default());
        assert_eq!(shared.get(b"k"), None);
        assert_eq!(
            shared.set(b"k", Bytes::from_static(b"1"), 7, DATA_BYTES_MAX),
            Ok(()),
            "cas on an absent key succeeds"
        );
        let (value, cas) = shared.get(b"k").expect("written");
        assert_eq!(value, "1");
        assert_eq!(shared.set(b"k", Bytes::from_static(b"2"), cas, DATA_BYTES_MAX), Ok(()));
        assert_eq!(shared.set(b"k", Bytes::from_static(b"3"), cas, DATA_BYTES_MAX), Err(CasMismatch));
        assert_eq!(shared.set(b"k", Bytes::from_static(b"4"), 0, DATA_BYTES_MAX), Ok(()));
        assert_eq!(shared.get(b"k").expect("written").0, "4");
        assert_eq!(shared.set(b"k", Bytes::new(), 0, DATA_BYTES_MAX), Ok(()));
        assert_eq!(shared.get(b"k"), None);
        assert_eq!(shared.data().bytes, 0);
    }

    #[test]
    fn the_entries_used_longest_ago_go() {
        let shared = SharedVm::new("vm", &Arc::default());
        let value = Bytes::from(vec![0; DATA_BYTES_MAX / 4]);
        for key in [b"a", b"b", b"c"] {
            shared.set(key, value.clone(), 0, DATA_BYTES_MAX).expect("unconditional");
        }
        assert!(shared.get(b"a").is_some());
        shared.set(b"d", value.clone(), 0, DATA_BYTES_MAX).expect("unconditional");
        assert!(shared.get(b"b").is_none() && shared.get(b"a").is_some());
        shared
            .set(b"huge", Bytes::from(vec![0; DATA_BYTES_MAX + 1]), 0, DATA_BYTES_MAX)
            .expect("dropped, not an error");
        assert!(shared.get(b"huge").is_none());
        let data = shared.data();
        assert!(data.bytes <= DATA_BYTES_MAX && data.entries.len() == data.by_use.len());
    }
}
