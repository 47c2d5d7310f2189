//! Waiting for something to become true: the only place of the harness that sleeps.

use std::fmt::Debug;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};

const FIRST_PAUSE: Duration = Duration::from_millis(2);
const LONGEST_PAUSE: Duration = Duration::from_millis(50);

/// How long a test waits for what normally takes milliseconds. Long, because two cores may be shared by everything else.
pub const DEADLINE: Duration = Duration::from_secs(90);

/// Polls `attempt` until it answers `Ok`, and returns that. After `deadline` the last error is returned as the reason.
pub fn eventually<T, E: Debug>(deadline: Duration, mut attempt: impl FnMut() -> Result<T, E>) -> Result<T> {
    let end = Instant::now() + deadline;
    let mut pause = FIRST_PAUSE;
    loop {
        match attempt() {
            Ok(value) => return Ok(value),
            Err(error) if Instant::now() >= end => {
                bail!("not so within {deadline:?}: {error:?}");
            }
            Err(_) => std::thread::sleep(pause),
        }
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// `eventually` for a plain condition; `what` names it in the error.
pub fn until(deadline: Duration, what: &str, mut condition: impl FnMut() -> bool) -> Result<()> {
    eventually(deadline, || if condition() { Ok(()) } else { Err(what.to_owned()) })
}

#[cfg(test)]
mod tests {
    use super::{Duration, eventually, until};

    #[test]
    fn returns_the_first_success() {
        let mut calls = 0;
        let seen = eventually(Duration::from_secs(5), || {
            calls += 1;
            if calls == 3 { Ok(calls) } else { Err("not yet") }
        });
        assert_eq!(seen.expect("third call succeeds"), 3);
    }

    #[test]
    fn names_what_did_not_happen() {
        let error = until(Duration::ZERO, "the moon is blue", || false).expect_err("never true");
        assert!(format!("{error}").contains("the moon is blue"), "{error}");
    }
}
