//! Single-writer cells.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};

/// A counter cell: one writer, any number of readers. Not `Sync`, so that there is one writer at a time.
#[derive(Debug)]
pub struct Counter {
    cell: Arc<AtomicU64>,
    single_writer: PhantomData<Cell<()>>,
}

impl Counter {
    pub(crate) fn new(cell: Arc<AtomicU64>) -> Counter {
        Counter { cell, single_writer: PhantomData }
    }

    /// A counter that no registry shows.
    #[must_use]
    pub fn detached() -> Counter {
        Counter::new(Arc::default())
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn add(&self, n: u64) {
        // One writer: load and store lose nothing and need no locked instruction.
        self.cell.store(self.cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> u64 {
        self.cell.load(Ordering::Relaxed)
    }
}

/// A gauge cell: what this writer contributes to the metric's sum. A dropped cell contributes nothing.
#[derive(Debug)]
pub struct Gauge {
    cell: Arc<AtomicI64>,
    single_writer: PhantomData<Cell<()>>,
}

impl Gauge {
    pub(crate) fn new(cell: Arc<AtomicI64>) -> Gauge {
        Gauge { cell, single_writer: PhantomData }
    }

    /// A gauge that no registry shows.
    #[must_use]
    pub fn detached() -> Gauge {
        Gauge::new(Arc::default())
    }

    #[inline]
    pub fn add(&self, n: i64) {
        self.cell.store(self.cell.load(Ordering::Relaxed).wrapping_add(n), Ordering::Relaxed);
    }

    #[inline]
    pub fn inc(&self) {
        self.add(1);
    }

    #[inline]
    pub fn dec(&self) {
        self.add(-1);
    }

    #[inline]
    pub fn set(&self, value: i64) {
        self.cell.store(value, Ordering::Relaxed);
    }

    #[must_use]
    pub fn get(&self) -> i64 {
        self.cell.load(Ordering::Relaxed)
    }
}
