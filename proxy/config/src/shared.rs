//! A map that is cheap to clone and to change a little: a trie over the hashes of the names, whose nodes are shared with the
//! map that it was cloned from.

use std::cmp::Ordering;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

/// Names to values. A clone costs one reference count; changing an entry of a clone copies the nodes on the way to it, a few
/// dozen entries each, however many entries there are.
///
/// The iteration order is the same for equal maps, and otherwise arbitrary.
#[derive(Clone)]
pub struct SharedMap<V> {
    root: Node<V>,
    len: usize,
}

/// Entries are ordered by hash, then by name, whatever the map's history.
#[derive(Clone, Default)]
enum Node<V> {
    #[default]
    Empty,
    /// At most [`LEAF_MAX`] entries, but in the depth where the hash is used up.
    Leaf(Arc<Vec<Entry<V>>>),
    /// By the hash's next bits, the highest first.
    Branch(Arc<[Node<V>; FANOUT]>),
}

#[derive(Clone)]
struct Entry<V> {
    hash: u64,
    name: Arc<str>,
    value: V,
}

const BITS: u32 = 5;
const FANOUT: usize = 1 << BITS;
const LEAF_MAX: usize = 32;
const DEPTH_MAX: u32 = u64::BITS / BITS;

impl<V> Default for SharedMap<V> {
    fn default() -> SharedMap<V> {
        SharedMap { root: Node::Empty, len: 0 }
    }
}

fn hash_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    name.hash(&mut hasher);
    hasher.finish()
}

/// The child that a hash belongs to in a branch of this depth, which is below [`DEPTH_MAX`].
fn child_of(hash: u64, depth: u32) -> usize {
    // The remainder is below FANOUT.
    usize::try_from(hash.rotate_left((depth + 1) * BITS) % FANOUT as u64).unwrap_or_default()
}

impl<V> Entry<V> {
    fn compare(&self, hash: u64, name: &str) -> Ordering {
        self.hash.cmp(&hash).then_with(|| (*self.name).cmp(name))
    }
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
        self.get_key_value(name).map(|(_, value)| value)
    }

    #[must_use]
    pub fn get_key_value(&self, name: &str) -> Option<(&Arc<str>, &V)> {
        let hash = hash_of(name);
        let mut node = &self.root;
        for depth in 0.. {
            match node {
                Node::Empty => break,
                Node::Leaf(entries) => {
                    let at = entries.binary_search_by(|entry| entry.compare(hash, name)).ok()?;
                    return entries.get(at).map(|entry| (&entry.name, &entry.value));
                }
                Node::Branch(children) => node = &children[child_of(hash, depth)],
            }
        }
        None
    }

    #[must_use]
    pub fn contains_key(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    #[must_use]
    pub fn iter(&self) -> Iter<'_, V> {
        Iter::of(&self.root)
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
        differences(&self.root, &before.root, &same, &mut names);
        names
    }
}

fn differences<V>(now: &Node<V>, then: &Node<V>, same: &impl Fn(&V, &V) -> bool, names: &mut Vec<Arc<str>>) {
    match (now, then) {
        (Node::Leaf(now), Node::Leaf(then)) if Arc::ptr_eq(now, then) => return,
        (Node::Branch(now), Node::Branch(then)) => {
            if !Arc::ptr_eq(now, then) {
                now.iter().zip(then.iter()).for_each(|(now, then)| differences(now, then, same, names));
            }
            return;
        }
        _ => {}
    }
    let (mut now, mut then) = (Iter::of(now), Iter::of(then));
    let (mut left, mut right) = (now.next_entry(), then.next_entry());
    loop {
        let order = match (left, right) {
            (Some(a), Some(b)) => a.compare(b.hash, &b.name),
            (Some(_), None) => Ordering::Less,
            (None, Some(_)) => Ordering::Greater,
            (None, None) => return,
        };
        let differs = left.zip(right).is_none_or(|(a, b)| order.is_ne() || !same(&a.value, &b.value));
        if differs {
            let differing = if order.is_gt() { right } else { left };
            names.extend(differing.map(|entry| Arc::clone(&entry.name)));
        }
        if order.is_le() {
            left = now.next_entry();
        }
        if order.is_ge() {
            right = then.next_entry();
        }
    }
}

impl<V: Clone> SharedMap<V> {
    pub fn insert(&mut self, name: Arc<str>, value: V) -> Option<V> {
        let old = self.root.insert(Entry { hash: hash_of(&name), name, value }, 0);
        self.len += usize::from(old.is_none());
        old
    }

    pub fn remove(&mut self, name: &str) -> Option<V> {
        if !self.contains_key(name) {
            return None;
        }
        let old = self.root.remove(hash_of(name), name, 0);
        self.len -= usize::from(old.is_some());
        old
    }
}

impl<V: Clone> Node<V> {
    fn insert(&mut self, entry: Entry<V>, depth: u32) -> Option<V> {
        match self {
            Node::Empty => *self = Node::Leaf(Arc::new(vec![entry])),
            Node::Branch(children) => {
                return Arc::make_mut(children)[child_of(entry.hash, depth)].insert(entry, depth + 1);
            }
            Node::Leaf(entries) => match entries.binary_search_by(|held| held.compare(entry.hash, &entry.name)) {
                Ok(at) => return Some(std::mem::replace(&mut Arc::make_mut(entries)[at], entry).value),
                Err(at) if entries.len() < LEAF_MAX || depth == DEPTH_MAX => Arc::make_mut(entries).insert(at, entry),
                Err(_) => {
                    *self = Node::branch(entries, depth);
                    return self.insert(entry, depth);
                }
            },
        }
        None
    }

    /// A leaf's entries, spread over the children of a branch.
    fn branch(entries: &[Entry<V>], depth: u32) -> Node<V> {
        let mut children = std::array::from_fn(|_| Node::Empty);
        let child = |entry: &Entry<V>| child_of(entry.hash, depth);
        for together in entries.chunk_by(|a, b| child(a) == child(b)) {
            children[child(&together[0])] = Node::Leaf(Arc::new(together.to_vec()));
        }
        Node::Branch(Arc::new(children))
    }

    fn remove(&mut self, hash: u64, name: &str, depth: u32) -> Option<V> {
        match self {
            Node::Empty => None,
            Node::Branch(children) => Arc::make_mut(children)[child_of(hash, depth)].remove(hash, name, depth + 1),
            Node::Leaf(entries) => {
                let at = entries.binary_search_by(|held| held.compare(hash, name)).ok()?;
                Some(Arc::make_mut(entries).remove(at).value)
            }
        }
    }
}

/// The entries of a [`SharedMap`].
pub struct Iter<'a, V> {
    /// What is left of the branches that it is in.
    branches: Vec<std::slice::Iter<'a, Node<V>>>,
    entries: std::slice::Iter<'a, Entry<V>>,
}

impl<V> fmt::Debug for Iter<'_, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Iter").finish_non_exhaustive()
    }
}

impl<'a, V> Iter<'a, V> {
    fn of(node: &'a Node<V>) -> Iter<'a, V> {
        let mut iter = Iter { branches: Vec::new(), entries: [].iter() };
        iter.enter(node);
        iter
    }

    fn enter(&mut self, node: &'a Node<V>) {
        match node {
            Node::Empty => {}
            Node::Leaf(entries) => self.entries = entries.iter(),
            Node::Branch(children) => self.branches.push(children.iter()),
        }
    }

    fn next_entry(&mut self) -> Option<&'a Entry<V>> {
        loop {
            if let Some(entry) = self.entries.next() {
                return Some(entry);
            }
            match self.branches.last_mut()?.next() {
                Some(node) => self.enter(node),
                None => drop(self.branches.pop()),
            }
        }
    }
}

impl<'a, V> Iterator for Iter<'a, V> {
    type Item = (&'a Arc<str>, &'a V);

    fn next(&mut self) -> Option<Self::Item> {
        self.next_entry().map(|entry| (&entry.name, &entry.value))
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
    use std::collections::{BTreeMap, BTreeSet};

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

    /// A change among many copies the nodes on its way and shares all others; so looking for it is a look at as few.
    #[test]
    fn a_change_among_many_shares_what_it_is_not_on_the_way_to() {
        let before = map(0..10_000);
        let mut after = before.clone();
        after.insert("n77".into(), 0);
        let compared = std::cell::Cell::new(0);
        let same = |a: &u32, b: &u32| {
            compared.set(compared.get() + 1);
            a == b
        };
        assert_eq!(after.changed(&before, same), [Arc::from("n77")]);
        assert!(compared.get() <= LEAF_MAX, "{} compared", compared.get());
    }

    #[test]
    fn any_history_makes_the_same_map() {
        for bound in [10, 100, 3000] {
            let (mut map, mut model) = (SharedMap::new(), BTreeMap::new());
            let mut before = (map.clone(), model.clone());
            for step in 0..6000 {
                let random = hash_of(&format!("{bound} {step}"));
                let name: Arc<str> = format!("n{}", random % bound).into();
                if random >> 32 & 7 < 3 {
                    assert_eq!(map.remove(&name), model.remove(&name));
                } else {
                    assert_eq!(map.insert(name.clone(), step), model.insert(name, step));
                }
                assert_eq!(map.len(), model.len());
                if step % 500 == 0 {
                    let mut changed = map.changed(&before.0, u32::eq);
                    changed.sort();
                    let names: BTreeSet<_> = model.keys().chain(before.1.keys()).cloned().collect();
                    let differing = names.into_iter().filter(|name| model.get(name) != before.1.get(name));
                    assert_eq!(changed, differing.collect::<Vec<_>>());
                    before = (map.clone(), model.clone());
                }
            }
            let fresh: SharedMap<u32> = model.iter().map(|(name, value)| (name.clone(), *value)).collect();
            assert_eq!(map, fresh);
            assert!(map.iter().eq(fresh.iter()), "one order");
            assert_eq!(map.iter().map(|(name, value)| (name.clone(), *value)).collect::<BTreeMap<_, _>>(), model);
        }
    }

    /// Names of one hash lie together where the hash is used up.
    #[test]
    fn equal_hashes_end_in_one_leaf() {
        let mut root = Node::Empty;
        let names: Vec<Arc<str>> = (0..100_u32).map(|number| Arc::from(format!("n{number}"))).collect();
        for (value, name) in names.iter().enumerate() {
            assert_eq!(root.insert(Entry { hash: 5, name: name.clone(), value }, 0), None);
        }
        assert_eq!(Iter::of(&root).count(), names.len());
        assert_eq!(root.insert(Entry { hash: 5, name: names[3].clone(), value: 0 }, 0), Some(3));
        for name in &names {
            assert!(root.remove(5, name, 0).is_some());
        }
        assert!(Iter::of(&root).next().is_none());
    }

    #[test]
    fn empty_maps_differ_from_others_by_everything() {
        let none = SharedMap::new();
        assert_eq!(map(0..3).changed(&none, u32::eq).len(), 3);
        assert_eq!(none.changed(&map(0..3), u32::eq).len(), 3);
        assert!(none.get("a").is_none() && none.is_empty() && none.iter().next().is_none());
    }
}
