//! How many of something there are at a time, in the whole process.

use std::sync::atomic::{AtomicU64, Ordering};

/// A count with a maximum. It lives with the configuration, so that it outlives an update that doesn't change that.
#[derive(Debug)]
pub struct ActiveCount {
    max: Option<u64>,
    count: AtomicU64,
}

impl ActiveCount {
    #[must_use]
    pub const fn new(max: Option<u64>) -> ActiveCount {
        ActiveCount { max, count: AtomicU64::new(0) }
    }

    #[must_use]
    pub const fn max(&self) -> Option<u64> {
        self.max
    }

    /// One more; false: there are enough. Who gets true gives it back.
    #[must_use]
    pub fn begin(&self) -> bool {
        let within = |count: u64| self.max.is_none_or(|max| count < max).then(|| count.saturating_add(1));
        self.count.fetch_update(Ordering::Relaxed, Ordering::Relaxed, within).is_ok()
    }

    /// One more whatever the maximum is, to be given back too.
    pub fn begin_beyond(&self) {
        self.count.fetch_add(1, Ordering::Relaxed);
    }

    pub fn end(&self) {
        self.count.fetch_sub(1, Ordering::Relaxed);
    }
}

impl PartialEq for ActiveCount {
    fn eq(&self, other: &ActiveCount) -> bool {
        self.max == other.max
    }
}

impl Eq for ActiveCount {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_than_the_maximum_begin() {
        let count = ActiveCount::new(Some(1));
        assert!(count.begin() && !count.begin());
        count.begin_beyond();
        count.end();
        assert!(!count.begin(), "the one beyond counts");
        count.end();
        assert!(count.begin());
        assert!(ActiveCount::new(None).begin());
        assert_eq!(count, ActiveCount::new(Some(1)));
    }
}
