//! Lines in the host's log, which puts time, level and plugin name before them.

use crate::abi;

/// Something that an operator should look at now.
pub fn error(message: &str) {
    abi::log(4, message);
}

/// Something that an operator should know.
pub fn warn(message: &str) {
    abi::log(3, message);
}

/// What happens seldom and is worth a line.
pub fn info(message: &str) {
    abi::log(2, message);
}

/// For whoever looks for a fault. Hosts drop it by default, but the call is still paid.
pub fn debug(message: &str) {
    abi::log(1, message);
}
