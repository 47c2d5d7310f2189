//! Earliest deadline first: weighted round robin whose weights may change from pick to pick.

use std::cmp::Ordering;
use std::collections::BinaryHeap;

/// A schedule of items. A pick costs O(log n) and allocates nothing.
#[derive(Debug)]
pub(super) struct Edf {
    heap: BinaryHeap<Entry>,
    turn: u64,
}

#[derive(Debug)]
struct Entry {
    deadline: f64,
    /// Whose turn was longer ago comes first among equals.
    turn: u64,
    item: u32,
}

impl Ord for Entry {
    /// The greatest of a heap is the next: the earliest.
    fn cmp(&self, other: &Entry) -> Ordering {
        other.deadline.total_cmp(&self.deadline).then(other.turn.cmp(&self.turn))
    }
}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Entry) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Entry) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Entry {}

/// Weights of zero and below would never come.
fn period(weight: f64) -> f64 {
    1.0 / weight.max(1e-6)
}

impl Edf {
    /// `phase` gives every item its place in its first period, from 0 to 1, so that schedules of several workers don't
    /// run in step.
    pub(super) fn new(items: impl Iterator<Item = (u32, f64)>, mut phase: impl FnMut() -> f64) -> Edf {
        let mut turn = 0;
        let heap = items
            .map(|(item, weight)| {
                turn += 1;
                Entry { deadline: period(weight) * phase(), turn, item }
            })
            .collect();
        Edf { heap, turn }
    }

    /// The next item; `weight` says what it weighs from now on.
    pub(super) fn pick(&mut self, weight: impl FnOnce(u32) -> f64) -> Option<u32> {
        let mut top = self.heap.peek_mut()?;
        let item = top.item;
        self.turn += 1;
        top.deadline += period(weight(item));
        top.turn = self.turn;
        Some(item)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn picks_are_in_proportion_and_spread() {
        let weights = [1.0, 2.0, 5.0];
        let items = || weights.iter().enumerate().map(|(item, weight)| (item as u32, *weight));
        let mut edf = Edf::new(items(), || 1.0);
        let picks: Vec<u32> = (0..80).filter_map(|_| edf.pick(|item| weights[item as usize])).collect();
        let count = |item| picks.iter().filter(|picked| **picked == item).count();
        assert_eq!((count(0), count(1), count(2)), (10, 20, 50));
        // In every round of eight each has its share.
        for round in picks.chunks(8) {
            assert_eq!(round.iter().filter(|picked| **picked == 2).count(), 5, "{picks:?}");
        }
    }

    #[test]
    fn a_weight_that_changes_counts_from_the_next_turn_on() {
        let mut edf = Edf::new([(0, 1.0), (1, 1.0)].into_iter(), || 1.0);
        let picks: Vec<u32> = (0..44).filter_map(|_| edf.pick(|item| if item == 0 { 0.1 } else { 1.0 })).collect();
        assert_eq!(picks.iter().filter(|picked| **picked == 0).count(), 4);
        assert_eq!(Edf::new(std::iter::empty(), || 0.0).pick(|_| 1.0), None);
    }
}
