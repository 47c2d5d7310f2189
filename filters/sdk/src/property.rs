//! What the host knows about the stream, the connection and the plugin (Envoy's attributes).

use crate::abi::{self, HostError};

/// A property by its path, e.g. `&["request", "path"]`. Text comes as its bytes, numbers as eight bytes, little-endian.
///
/// # Errors
/// The host refuses; e.g. a value that has no serialized form.
pub fn get(path: &[&str]) -> Result<Option<Vec<u8>>, HostError> {
    abi::property(path.join("\0").as_bytes())
}

/// The client's `address:port` (`[address]:port` for IPv6), as the host took it from the connection or from trusted
/// `x-forwarded-for` hops.
///
/// # Errors
/// The host refuses.
pub fn source_address() -> Result<Option<Vec<u8>>, HostError> {
    abi::property(b"source\0address")
}

/// The plugin's name in the host's configuration, empty where it has none.
///
/// # Errors
/// The host refuses.
pub fn plugin_name() -> Result<Vec<u8>, HostError> {
    Ok(abi::property(b"plugin_name")?.unwrap_or_default())
}
