//! A clear word for each step, with the time since the command began and how long the step took.

use std::io::Write as _;
use std::time::{Duration, Instant};

use anyhow::Result;

/// Tells the reader what is going on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Progress {
    start: Instant,
}

impl Progress {
    pub(crate) fn new() -> Progress {
        Progress { start: Instant::now() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.start.elapsed()
    }

    /// Says a line.
    pub(crate) fn say(&self, words: &str) {
        println!("[{:>7}] {words}", short(self.elapsed()));
        let _ = std::io::stdout().flush();
    }

    /// Says what begins, does it, and says how it ended.
    pub(crate) fn step<T>(&self, words: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        self.say(&format!("{words} ..."));
        let begun = Instant::now();
        let result = work();
        let end = if result.is_ok() { "done" } else { "FAILED" };
        self.say(&format!("{words}: {end} in {}", short(begun.elapsed())));
        result
    }
}

/// A duration for people: `0.3 s`, `75.2 s`, `12m 05s`.
pub(crate) fn short(duration: Duration) -> String {
    let seconds = duration.as_secs();
    if seconds < 100 {
        return format!("{:.1} s", duration.as_secs_f64());
    }
    format!("{}m {:02}s", seconds / 60, seconds % 60)
}

#[cfg(test)]
mod tests {
    use super::{Duration, short};

    #[test]
    fn durations() {
        for (millis, expected) in [(340, "0.3 s"), (75_249, "75.2 s"), (725_000, "12m 05s")] {
            assert_eq!(short(Duration::from_millis(millis)), expected);
        }
    }
}
