//! Whether an HTTP/2 client opens streams only to reset them (CVE-2023-44487): Envoy's rule, with its defaults.

use std::time::Duration;

/// `overload.premature_reset_total_stream_count`: how many streams are looked at before the rule counts.
const STREAMS_MIN: u64 = 500;
/// `overload.premature_reset_min_stream_lifetime_seconds`: a stream that lived longer was meant.
pub(crate) const LIFETIME_MIN: Duration = Duration::from_secs(1);

/// The ended streams of one connection.
#[derive(Debug, Default)]
pub(crate) struct Resets {
    ended: u64,
    premature: u64,
}

impl Resets {
    /// Counts a stream that has ended.
    pub(crate) fn count(&mut self, premature: bool) {
        self.ended += 1;
        self.premature += u64::from(premature);
    }

    /// More than half of the streams were reset early; before there are enough of them, so many that no good behaviour of
    /// the rest would help.
    pub(crate) fn are_too_many(&self) -> bool {
        self.premature * 2 >= self.ended.max(STREAMS_MIN)
    }
}

#[cfg(test)]
mod tests {
    use super::Resets;

    fn after(good: u64, premature: u64) -> bool {
        let mut resets = Resets::default();
        (0..good).for_each(|_| resets.count(false));
        (0..premature).for_each(|_| resets.count(true));
        resets.are_too_many()
    }

    #[test]
    fn half_of_enough_streams() {
        for (good, premature, expected) in
            [(0, 0, false), (0, 249, false), (0, 250, true), (251, 249, false), (1000, 999, false), (1000, 1000, true)]
        {
            assert_eq!(after(good, premature), expected, "{good} good, {premature} premature");
        }
    }
}
