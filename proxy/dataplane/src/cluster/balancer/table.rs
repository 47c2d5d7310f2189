//! Consistent hashing: Envoy's ketama ring and Maglev table, entry for entry, so that a request meets the same endpoint
//! whichever proxy chooses.
//!
//! A table depends on the endpoints and their weights alone and may take megabytes: workers share it.

use std::io::Write;
use std::sync::{Arc, Mutex, PoisonError, Weak};

use outrigger_config::{HashFunction, LbPolicy};
use xxhash_rust::xxh64::{Xxh64, xxh64};

/// An endpoint of a table.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    /// What is hashed: the address, the hostname or the metadata's `hash_key`.
    pub(super) key: Box<[u8]>,
    /// Its share: all sum up to one.
    pub(super) share: f64,
}

/// Which candidate a hash leads to.
#[derive(Debug)]
pub(super) enum Table {
    Ring { hashes: Box<[u64]>, items: Box<[u32]> },
    Maglev(Box<[u32]>),
}

impl Table {
    fn build(policy: LbPolicy, candidates: &[Candidate]) -> Table {
        match policy {
            LbPolicy::RingHash { function, ring_size_min, ring_size_max } => {
                ring(candidates, function, ring_size_min, ring_size_max)
            }
            LbPolicy::Maglev { table_size } => maglev(candidates, table_size),
            _ => Table::Maglev(Box::default()),
        }
    }

    pub(super) fn len(&self) -> usize {
        match self {
            Table::Ring { items, .. } | Table::Maglev(items) => items.len(),
        }
    }

    /// The place of a hash.
    pub(super) fn place(&self, hash: u64) -> usize {
        match self {
            Table::Ring { hashes, .. } => {
                let at = hashes.partition_point(|entry| *entry < hash);
                if at == hashes.len() { 0 } else { at }
            }
            Table::Maglev(items) => {
                #[expect(clippy::cast_possible_truncation, reason = "less than the table's size")]
                let at = (hash % (items.len().max(1) as u64)) as usize;
                at
            }
        }
    }

    /// The candidate at a place; places go round.
    pub(super) fn at(&self, place: usize) -> Option<u32> {
        let items = match self {
            Table::Ring { items, .. } | Table::Maglev(items) => items,
        };
        if items.is_empty() { None } else { items.get(place % items.len()).copied() }
    }
}

fn ring(candidates: &[Candidate], function: HashFunction, min: u32, max: u32) -> Table {
    let least = candidates.iter().map(|candidate| candidate.share).fold(1.0, f64::min);
    // As many entries as give the one with the least share a whole number of them.
    let scale = ((least * f64::from(min)).ceil() / least).min(f64::from(max));
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "at most 8 Mi")]
    let mut entries: Vec<(u64, u32)> = Vec::with_capacity(scale.ceil() as usize);
    let (mut current, mut target) = (0.0, 0.0);
    let mut text = Vec::new();
    for (item, candidate) in (0..).zip(candidates) {
        text.clear();
        text.extend_from_slice(&candidate.key);
        text.push(b'_');
        let stem = text.len();
        target += scale * candidate.share;
        let mut index = 0_u64;
        while current < target {
            text.truncate(stem);
            // Writing to memory cannot fail.
            _ = write!(text, "{index}");
            let hash = match function {
                HashFunction::XxHash => xxh64(&text, 0),
                HashFunction::Murmur2 => murmur2(&text, 0xc70f_6907),
            };
            entries.push((hash, item));
            index += 1;
            current += 1.0;
        }
    }
    entries.sort_by_key(|(hash, _)| *hash);
    Table::Ring {
        hashes: entries.iter().map(|(hash, _)| *hash).collect(),
        items: entries.iter().map(|(_, item)| *item).collect(),
    }
}

fn maglev(candidates: &[Candidate], table_size: u32) -> Table {
    struct Build {
        item: u32,
        offset: u64,
        skip: u64,
        next: u64,
        share: f64,
        target: f64,
    }
    if candidates.is_empty() {
        return Table::Maglev(Box::default());
    }
    const FREE: u32 = u32::MAX;
    let size = u64::from(table_size);
    // Sorted, so that the order in which endpoints come doesn't matter.
    let mut order: Vec<u32> = (0..candidates.len() as u32).collect();
    order.sort_by(|a, b| candidates[*a as usize].key.cmp(&candidates[*b as usize].key));
    let most = candidates.iter().map(|candidate| candidate.share).fold(0.0, f64::max);
    let mut builds: Vec<Build> = order
        .iter()
        .map(|item| {
            let Candidate { key, share } = &candidates[*item as usize];
            let (offset, skip) = (xxh64(key, 0) % size, xxh64(key, 1) % (size - 1) + 1);
            Build { item: *item, offset, skip, next: 0, share: *share, target: 0.0 }
        })
        .collect();
    let mut table = vec![FREE; table_size as usize];
    let mut filled = 0;
    let mut round = 1.0;
    while filled < table.len() {
        for build in &mut builds {
            if filled == table.len() {
                break;
            }
            // Those of less weight sit rounds out.
            if round * build.share < build.target {
                continue;
            }
            build.target += most;
            let place = loop {
                #[expect(clippy::cast_possible_truncation, reason = "less than the table's size")]
                let place = ((build.offset + build.skip * build.next) % size) as usize;
                build.next += 1;
                if table[place] == FREE {
                    break place;
                }
            };
            table[place] = build.item;
            filled += 1;
        }
        round += 1.0;
    }
    Table::Maglev(table.into())
}

/// MurmurHash64A, as libstdc++ hashes.
fn murmur2(bytes: &[u8], seed: u64) -> u64 {
    const M: u64 = 0xc6a4_a793_5bd1_e995;
    let mut hash = seed ^ (bytes.len() as u64).wrapping_mul(M);
    let mut chunks = bytes.chunks_exact(8);
    for chunk in &mut chunks {
        let mut word = u64::from_le_bytes(chunk.try_into().unwrap_or_default()).wrapping_mul(M);
        word ^= word >> 47;
        hash = (hash ^ word.wrapping_mul(M)).wrapping_mul(M);
    }
    let rest = chunks.remainder();
    if !rest.is_empty() {
        let mut word = [0; 8];
        word[..rest.len()].copy_from_slice(rest);
        hash = (hash ^ u64::from_le_bytes(word)).wrapping_mul(M);
    }
    hash = (hash ^ hash >> 47).wrapping_mul(M);
    hash ^ hash >> 47
}

/// The tables of one cluster that are in use, by what they were made of.
#[derive(Debug, Default)]
pub(crate) struct Tables(Mutex<Vec<(u64, Weak<Table>)>>);

impl Tables {
    /// The table of these candidates: one that another worker has made, or a new one.
    pub(super) fn get(&self, policy: LbPolicy, candidates: &[Candidate]) -> Arc<Table> {
        let digest = digest(policy, candidates);
        // Held while a table is built: the other workers are about to need the same.
        let mut known = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        known.retain(|(_, table)| table.strong_count() > 0);
        if let Some(table) = known.iter().find(|(of, _)| *of == digest).and_then(|(_, table)| table.upgrade()) {
            return table;
        }
        let table = Arc::new(Table::build(policy, candidates));
        known.push((digest, Arc::downgrade(&table)));
        table
    }
}

fn digest(policy: LbPolicy, candidates: &[Candidate]) -> u64 {
    let mut hash = Xxh64::new(0);
    hash.update(format!("{policy:?}").as_bytes());
    for Candidate { key, share } in candidates {
        hash.update(&(key.len() as u64).to_le_bytes());
        hash.update(key);
        hash.update(&share.to_bits().to_le_bytes());
    }
    hash.digest()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn candidates(shares: &[f64]) -> Vec<Candidate> {
        let sum: f64 = shares.iter().sum();
        let key = |index| format!("127.0.0.1:{}", 9000 + index).into_bytes().into();
        shares.iter().enumerate().map(|(index, share)| Candidate { key: key(index), share: share / sum }).collect()
    }

    fn picks(table: &Table, hash: u64) -> usize {
        table.at(table.place(hash)).unwrap() as usize
    }

    const RING: LbPolicy =
        LbPolicy::RingHash { function: HashFunction::XxHash, ring_size_min: 1024, ring_size_max: 8 << 20 };
    const MURMUR: LbPolicy =
        LbPolicy::RingHash { function: HashFunction::Murmur2, ring_size_min: 1024, ring_size_max: 8 << 20 };
    const MAGLEV: LbPolicy = LbPolicy::Maglev { table_size: 65_537 };

    #[test]
    fn shares_are_kept() {
        for policy in [RING, MURMUR, MAGLEV] {
            let table = Table::build(policy, &candidates(&[1.0, 1.0, 2.0]));
            let mut counts = [0_u32; 3];
            for number in 0..20_000_u64 {
                counts[picks(&table, xxh64(&number.to_le_bytes(), 7))] += 1;
            }
            for (count, share) in counts.iter().zip([5000, 5000, 10_000]) {
                assert!(count.abs_diff(share) < share / 5, "{policy:?}: {counts:?}");
            }
        }
    }

    #[test]
    fn few_requests_move_when_an_endpoint_leaves() {
        for (policy, moved_max) in [(RING, 1000), (MAGLEV, 400)] {
            let (before, after) = (candidates(&[1.0; 10]), candidates(&[1.0; 9]));
            let (before, after) = (Table::build(policy, &before), Table::build(policy, &after));
            let hashes = (0..10_000_u64).map(|number| xxh64(&number.to_le_bytes(), 3));
            let moved = hashes.filter(|hash| {
                let was = picks(&before, *hash);
                was != 9 && was != picks(&after, *hash)
            });
            let moved = moved.count();
            assert!(moved <= moved_max, "{policy:?}: {moved} moved");
        }
    }

    #[test]
    fn sizes_have_bounds() {
        let size = |min, max, shares: &[f64]| {
            let policy = LbPolicy::RingHash { function: HashFunction::XxHash, ring_size_min: min, ring_size_max: max };
            Table::build(policy, &candidates(shares)).len()
        };
        assert_eq!(size(8, 1024, &[1.0, 1.0, 1.0]), 9);
        assert_eq!(size(1, 1024, &[1.0, 999.0]), 1000);
        assert_eq!(size(1024, 1024, &[1.0, 999.0]), 1024);
        for policy in [RING, MAGLEV] {
            let none = Table::build(policy, &[]);
            assert_eq!(none.at(none.place(5)), None);
        }
    }

    #[test]
    fn murmur_is_the_one_of_the_standard_library() {
        // std::hash<std::string> of libstdc++ on 64 bits.
        assert_eq!(murmur2(b"", 0xc70f_6907), 6_142_509_188_972_423_790);
        assert_eq!(murmur2(b"a", 0xc70f_6907), 4_993_892_634_952_068_459);
    }

    #[test]
    fn workers_share_a_table() {
        let tables = Tables::default();
        let first = tables.get(MAGLEV, &candidates(&[1.0, 2.0]));
        assert!(Arc::ptr_eq(&first, &tables.get(MAGLEV, &candidates(&[1.0, 2.0]))));
        assert!(!Arc::ptr_eq(&first, &tables.get(MAGLEV, &candidates(&[1.0, 1.0]))));
        assert!(!Arc::ptr_eq(&first, &tables.get(RING, &candidates(&[1.0, 2.0]))));
    }
}
