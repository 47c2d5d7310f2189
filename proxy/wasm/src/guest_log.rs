//! What guests log: to tracing, within a budget of bytes per second.

use std::collections::VecDeque;
use std::fmt::Write;
use std::time::{Duration, Instant};

use outrigger_stats::Counter;

use crate::status::LogLevel;

/// Guests' lines have a target of their own below this crate's, so that they are told apart and share its level.
pub(crate) const TARGET: &str = "outrigger_wasm::guest";

/// The longest line that is logged.
const LINE_BYTES_MAX: usize = 8 << 10;
/// How many of the last error lines are kept, to explain a trap or a refusal.
const ERRORS_KEPT: usize = 3;
const ERROR_BYTES_KEPT: usize = 512;

/// The log of one VM.
#[derive(Debug)]
pub(crate) struct GuestLog {
    bytes_per_second: usize,
    window: Option<Instant>,
    bytes: usize,
    dropped_in_window: u64,
    /// Lines that the budget cost.
    pub(crate) dropped: Counter,
    errors: VecDeque<String>,
}

impl GuestLog {
    pub(crate) fn new(bytes_per_second: usize) -> GuestLog {
        GuestLog {
            bytes_per_second,
            window: None,
            bytes: 0,
            dropped_in_window: 0,
            dropped: Counter::detached(),
            errors: VecDeque::new(),
        }
    }

    /// Logs one line of a guest, unless the budget of this second is used up.
    pub(crate) fn write(&mut self, plugin: &str, level: LogLevel, text: &[u8]) {
        let is_error = level >= LogLevel::Error;
        let wanted = level >= self.level();
        if !is_error && !wanted {
            return;
        }
        let line = readable(&text[..text.len().min(LINE_BYTES_MAX)]);
        if is_error {
            self.keep_error(&line);
        }
        if wanted && self.admit(plugin, line.len()) {
            emit(plugin, level, &line);
        }
    }

    /// The lowest level that anybody listens to.
    pub(crate) fn level(&self) -> LogLevel {
        use tracing::Level;
        if tracing::enabled!(target: TARGET, Level::TRACE) {
            LogLevel::Trace
        } else if tracing::enabled!(target: TARGET, Level::DEBUG) {
            LogLevel::Debug
        } else if tracing::enabled!(target: TARGET, Level::INFO) {
            LogLevel::Info
        } else if tracing::enabled!(target: TARGET, Level::WARN) {
            LogLevel::Warn
        } else if tracing::enabled!(target: TARGET, Level::ERROR) {
            LogLevel::Error
        } else {
            LogLevel::Critical
        }
    }

    fn admit(&mut self, plugin: &str, bytes: usize) -> bool {
        let now = Instant::now();
        if self.window.is_none_or(|start| now.duration_since(start) >= Duration::from_secs(1)) {
            self.window = Some(now);
            self.bytes = 0;
            if self.dropped_in_window > 0 {
                tracing::warn!(target: TARGET, plugin, lines = self.dropped_in_window, "log lines dropped: over budget");
                self.dropped_in_window = 0;
            }
        }
        if self.bytes.saturating_add(bytes) > self.bytes_per_second {
            self.dropped_in_window += 1;
            self.dropped.inc();
            return false;
        }
        self.bytes += bytes;
        true
    }

    fn keep_error(&mut self, line: &str) {
        if self.errors.len() == ERRORS_KEPT {
            self.errors.pop_front();
        }
        self.errors.push_back(line.chars().take(ERROR_BYTES_KEPT).collect());
    }

    /// Forgets the error lines, at the start of a callback.
    #[inline]
    pub(crate) fn forget_errors(&mut self) {
        if !self.errors.is_empty() {
            self.errors.clear();
        }
    }

    /// The error lines since the guest was entered, joined.
    pub(crate) fn last_errors(&self) -> Option<String> {
        (!self.errors.is_empty()).then(|| self.errors.iter().map(String::as_str).collect::<Vec<_>>().join(" | "))
    }
}

/// Text without control characters, so that a guest cannot forge lines of our log.
fn readable(text: &[u8]) -> String {
    let text = String::from_utf8_lossy(text);
    let text = text.strip_suffix('\n').unwrap_or(&text);
    let mut line = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\n' => line.push_str("\\n"),
            '\t' => line.push(c),
            c if c.is_control() => {
                // Writing to a String cannot fail.
                _ = write!(line, "\\x{:02x}", u32::from(c));
            }
            c => line.push(c),
        }
    }
    line
}

fn emit(plugin: &str, level: LogLevel, line: &str) {
    match level {
        LogLevel::Trace => tracing::trace!(target: TARGET, plugin, "{line}"),
        LogLevel::Debug => tracing::debug!(target: TARGET, plugin, "{line}"),
        LogLevel::Info => tracing::info!(target: TARGET, plugin, "{line}"),
        LogLevel::Warn => tracing::warn!(target: TARGET, plugin, "{line}"),
        LogLevel::Error => tracing::error!(target: TARGET, plugin, "{line}"),
        LogLevel::Critical => tracing::error!(target: TARGET, plugin, critical = true, "{line}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_hold_no_control_characters() {
        let check = |text: &[u8], expected: &str| assert_eq!(readable(text), expected);
        check(b"plain\n", "plain");
        check(b"two\nlines\n", "two\\nlines");
        check(b"\x1b[31m\0\xff", "\\x1b[31m\\x00\u{fffd}");
    }

    #[test]
    fn the_budget_drops_and_counts() {
        let mut log = GuestLog::new(10);
        assert!(log.admit("p", 6) && !log.admit("p", 6) && log.admit("p", 4));
        assert_eq!(log.dropped.get(), 1);
    }

    #[test]
    fn the_last_errors_are_kept() {
        let mut log = GuestLog::new(1000);
        for line in ["a", "b", "c", "d"] {
            log.write("p", LogLevel::Critical, line.as_bytes());
        }
        log.write("p", LogLevel::Info, b"not an error");
        assert_eq!(log.last_errors().as_deref(), Some("b | c | d"));
        log.forget_errors();
        assert_eq!(log.last_errors(), None);
    }
}
