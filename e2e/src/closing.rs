//! Short and long forms of the same test, and the line in which a long one says what it did.

use std::io::Write as _;

/// True if the long forms were asked for (`cargo xtask test --full`).
pub fn is_full() -> bool {
    std::env::var_os("OUTRIGGER_FULL").is_some_and(|value| !value.is_empty() && value != "0")
}

/// The length of a test: the short form by default, the long one on demand.
pub fn scaled<T>(short: T, full: T) -> T {
    if is_full() { full } else { short }
}

/// Says how far a long form has come, past what a test runner captures: a run of many minutes shows that it moves.
pub fn progress(words: &str) {
    if is_full() {
        let _ = writeln!(std::io::stderr(), "{words}");
    }
}

/// Says what a test did; `cargo xtask test` shows it after the runners' own lines.
pub fn closing_line(words: &str) {
    eprintln!("{words}");
    let Some(path) = std::env::var_os("OUTRIGGER_CLOSING_LINES") else { return };
    if let Ok(mut file) = std::fs::File::options().create(true).append(true).open(path) {
        let _ = writeln!(file, "{words}");
    }
}
