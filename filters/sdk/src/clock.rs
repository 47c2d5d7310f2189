//! The host's wall clock.

use std::time::Duration;

use crate::abi::{self, HostError};

/// Time since the Unix epoch. It may step when the machine's clock is set.
///
/// # Errors
/// The host refuses.
pub fn since_epoch() -> Result<Duration, HostError> {
    abi::time_nanoseconds().map(Duration::from_nanos)
}
