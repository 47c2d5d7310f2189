//! A map that is cheap to clone and to change a little: its shards are shared with the map that it was cloned from.

use std::collections::{BTreeMap, btree_map};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Names to values. A clone costs one reference count; changing an entry of a clone copies one shard of 256.
///
/// The iteration order is the same for equal maps, and otherwise arbitrary.
#[derive(Clone)]
pub struct SharedMap<V> {
    shards: Arc<Vec<Shard<V>>>,
    len: usize,
}

type Shard<V> = Arc<BTreeMap<Arc<str>, V>>;

const SHARDS: usize = 256;

impl<V> Default for SharedMap<V> {
    fn default() -> SharedMap<V> {
        SharedMap { shards: Arc::new(Vec::new()), len: 0 }
    }
}

fn shard_of(name: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    // The remainder is below SHARDS.
    usize::try_from(hasher.finish() % SHARDS as u64).unwrap_or_default()
}

impl<V> SharedMap<V> {
    #[must_use]
    pub fn new() -> SharedMap<V> {
        SharedMap::default()
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    #[must_use]
    pub fn get(&self, name: &str) -> Option<&V> {
        self.shards.get(shard_of(name))?.get(name)
    }

    #[must_use]
    pub fn get_key_value(&self, name: &str) -> Option<(&Arc<str>, &V)> {
        self.shards.get(shard_of(name))?.get_key_value(name)
    }

    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    #[must_use]
    pub fn iter(&self) -> Iter<'_, V> {
        Iter { shards: self.shards.iter(), entries: btree_map::Iter::default() }
    }

    pub fn keys(&self) -> impl Iterator<Item = &Arc<str>> {
        self.iter().map(|(name, _)| name)
    }

    pub fn values(&self) -> impl Iterator<Item = &V> {
        self.iter().map(|(_, value)| value)
    }

    /// The names whose values differ from those in `before`: added, removed and changed ones. Costs as much as what
    /// differs, where one map came from the other.
    pub fn changed(&self, before: &SharedMap<V>, same: impl Fn(&V, &V) -> bool) -> Vec<Arc<str>> {
        let mut names = Vec::new();
        if Arc::ptr_eq(&self.shards, &before.shards) {
            return names;
        }
        for index in 0..SHARDS {
            match (self.shards.get(index), before.shards.get(index)) {
                (Some(now), Some(then)) => {
                    if Arc::ptr_eq(now, then) {
                        continue;
                    }
                    let differs =
                        |(name, value): &(&Arc<str>, &V)| !then.get(*name).is_some_and(|old| same(value, old));
                    names.extend(now.iter().filter(differs).map(|(name, _)| Arc::clone(name)));
                    names.extend(then.keys().filter(|name| !now.contains_key(*name)).cloned());
                }
                (Some(only), None) | (None, Some(only)) => names.extend(only.keys().cloned()),
                (None, None) => {}
            }
        }
        names
    }
}

impl<V: Clone> SharedMap<V> {
    pub fn insert(&mut self, name: Arc<str>, value: V) -> Option<V> {
        let shards = Arc::make_mut(&mut self.shards);
        if shards.is_empty() {
            let empty = Arc::new(BTreeMap::new());
            shards.resize_with(SHARDS, || Arc::clone(&empty));
        }
        let old = shards.get_mut(shard_of(&name)).and_then(|shard| Arc::make_mut(shard).insert(name, value));
        self.len += usize::from(old.is_none());
        old
    }

    pub fn remove(&mut self, name: &str) -> Option<V> {
        if !self.contains_key(name) {
            return None;
        }
        let shard = Arc::make_mut(&mut self.shards).get_mut(shard_of(name))?;
        let old = Arc::make_mut(shard).remove(name);
        self.len -= usize::from(old.is_some());
        old
    }
}

/// The entries of a [`SharedMap`].
pub struct Iter<'a, V> {
    shards: std::slice::Iter<'a, Shard<V>>,
    entries: btree_map::Iter<'a, Arc<str>, V>,
}

impl<V> fmt::Debug for Iter<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a Arc<str>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(entry);
            }
            self.entries = self.shards.next()?.iter();
        }
    }
}

impl<'a, V> IntoIterator for &'a SharedMap<V> {
    type Item = (&'a Arc<str>, &'a V);
    type IntoIter = Iter<'a, V>;

    fn into_iter(self) -> Iter<'a, V> {
        self.iter()
    }
}

impl<V: Clone> FromIterator<(Arc<str>, V)> for SharedMap<V> {
    fn from_iter<I: IntoIterator<Item = (Arc<str>, V)>>(entries: I) -> SharedMap<V> {
        let mut map = SharedMap::new();
        for (name, value) in entries {
            map.insert(name, value);
        }
        map
    }
}

impl<V: PartialEq> PartialEq for SharedMap<V> {
    fn eq(&self, other: &SharedMap<V>) -> bool {
        // What both share isn't looked at.
        self.len == other.len && self.changed(other, V::eq).is_empty()
    }
}

impl<V: Eq> Eq for SharedMap<V> {}

impl<V: fmt::Debug> fmt::Debug for SharedMap<V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn map(range: std::ops::Range<u32>) -> SharedMap<u32> {
        range.map(|number| (Arc::from(format!("n{number}")), number)).collect()
    }

    #[test]
    fn clones_are_independent_and_differ_by_name() {
        let before = map(0..1000);
        let mut after = before.clone();
        assert!(after.changed(&before, u32::eq).is_empty());
        assert_eq!(after.insert("n5".into(), 7), Some(5));
        assert_eq!(after.insert("new".into(), 1), None);
        assert_eq!(after.remove("n6"), Some(6));
        assert_eq!(after.remove("n6"), None);
        assert_eq!((before.len(), after.len()), (1000, 1000));
        assert_eq!((before.get("n5"), after.get("n5")), (Some(&5), Some(&7)));
        let mut changed = after.changed(&before, u32::eq);
        changed.sort();
        assert_eq!(changed, ["n5", "n6", "new"].map(Arc::from));
        let mut back = before.changed(&after, u32::eq);
        back.sort();
        assert_eq!(back, changed);
        assert_ne!(before, after);
        assert_eq!(before, map(0..1000));
    }

    #[test]
    fn empty_maps_differ_from_others_by_everything() {
        let none = SharedMap::new();
        assert_eq!(map(0..3).changed(&none, u32::eq).len(), 3);
        assert_eq!(none.changed(&map(0..3), u32::eq).len(), 3);
        assert!(none.get("a").is_none() && none.is_empty() && none.iter().next().is_none());
    }
}
