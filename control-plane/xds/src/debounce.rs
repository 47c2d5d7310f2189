//! When a burst of changes is over: after a quiet time, and never later than a bound.

use std::time::Duration;

use tokio::time::Instant;

/// How long changes are gathered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct DebounceOptions {
    /// So long after the last change.
    pub quiet: Duration,
    /// At most so long after the first.
    pub max: Duration,
}

impl Default for DebounceOptions {
    fn default() -> Self {
        Self { quiet: Duration::from_millis(100), max: Duration::from_secs(10) }
    }
}

/// Gathers changes.
#[derive(Debug)]
pub struct Debounce {
    options: DebounceOptions,
    /// The first change and the last.
    pending: Option<(Instant, Instant)>,
}

impl Debounce {
    /// Nothing has changed yet.
    pub fn new(options: DebounceOptions) -> Self {
        Self { options, pending: None }
    }

    /// Something changed.
    pub fn changed(&mut self, now: Instant) {
        let first = self.pending.map_or(now, |(first, _)| first);
        self.pending = Some((first, now));
    }

    /// When to act; `None`: nothing has changed.
    pub fn due(&self) -> Option<Instant> {
        let (first, last) = self.pending?;
        Some((last + self.options.quiet).min(first + self.options.max))
    }

    /// The changes are being acted on.
    pub fn take(&mut self) {
        self.pending = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_one_change_and_an_endless_one_is_cut() {
        let start = Instant::now();
        let at = |millis| start + Duration::from_millis(millis);
        let mut debounce = Debounce::new(DebounceOptions::default());
        assert_eq!(debounce.due(), None);
        debounce.changed(at(0));
        assert_eq!(debounce.due(), Some(at(100)));
        debounce.changed(at(60));
        assert_eq!(debounce.due(), Some(at(160)));
        for millis in (100..20_000).step_by(50) {
            debounce.changed(at(millis));
        }
        assert_eq!(debounce.due(), Some(at(10_000)));
        debounce.take();
        assert_eq!(debounce.due(), None);
    }
}
