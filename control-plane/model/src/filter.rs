//! A Wasm filter: which module, on what, in which place of the chain, and within which limits.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::ids::{ObjectId, Source};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmFilter {
    pub id: ObjectId,
    /// In the filter's own namespace; never empty.
    pub targets: Vec<FilterTarget>,
    pub module: Module,
    pub phase: Phase,
    /// Higher runs earlier within a phase.
    pub priority: i32,
    /// What the plugin gets as its configuration: JSON, or a text as it is; empty: none.
    pub config: Bytes,
    pub failure_policy: FailurePolicy,
    pub limits: Limits,
    pub isolation: Isolation,
    /// Sorted by name.
    pub env: Vec<(Arc<str>, Arc<str>)>,
    pub source: Arc<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FilterTarget {
    pub kind: TargetKind,
    pub id: ObjectId,
    /// A listener of the gateway, or a named rule of the route; none: all of it.
    pub section: Option<Arc<str>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TargetKind {
    Gateway,
    HttpRoute,
    /// The service's sidecars, inbound; nothing for a gateway.
    Service,
}

impl TargetKind {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "Gateway",
            Self::HttpRoute => "HTTPRoute",
            Self::Service => "Service",
        }
    }
}

/// Module bytes with their digest. Two modules are equal when their digests are.
#[derive(Clone)]
pub struct Module {
    sha256: Digest,
    bytes: Bytes,
}

impl Module {
    pub fn new(bytes: Bytes) -> Self {
        Self { sha256: Digest(Sha256::digest(&bytes).into()), bytes }
    }

    pub fn sha256(&self) -> Digest {
        self.sha256
    }

    pub fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl PartialEq for Module {
    fn eq(&self, other: &Self) -> bool {
        self.sha256 == other.sha256
    }
}

impl Eq for Module {}

impl fmt::Debug for Module {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Module(sha256:{}, {} bytes)", self.sha256, self.bytes.len())
    }
}

/// A SHA-256; written as 64 lower-case hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest(pub [u8; 32]);

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for Digest {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A text that is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a SHA-256: 64 hexadecimal digits are expected")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    /// Takes an optional `sha256:` in front, and upper case.
    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let hex = text.strip_prefix("sha256:").unwrap_or(text).as_bytes();
        let (pairs, rest) = hex.as_chunks::<2>();
        let mut digest = [0; 32];
        if pairs.len() != digest.len() || !rest.is_empty() {
            return Err(DigestError);
        }
        for (byte, pair) in digest.iter_mut().zip(pairs) {
            let nibble = |digit: u8| char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok());
            let (Some(high), Some(low)) = (nibble(pair[0]), nibble(pair[1])) else { return Err(DigestError) };
            *byte = high << 4 | low;
        }
        Ok(Self(digest))
    }
}

/// The chain's order is phase, then priority, then namespace and name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Phase {
    AuthN,
    AuthZ,
    Stats,
    #[default]
    Unspecified,
}

/// What happens to streams when the plugin is out of order.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum FailurePolicy {
    /// 503.
    #[default]
    Closed,
    /// On without the filter.
    Open,
    /// Closed until a new instance is up.
    Reload,
}

/// Whom a plugin shares its VM with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Isolation {
    /// Every plugin with the same module, environment and limits.
    #[default]
    Shared,
    Plugin,
    Stream,
}

/// `None` leaves the proxy's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Limits {
    pub callback_timeout: Option<Duration>,
    pub start_timeout: Option<Duration>,
    pub memory_bytes: Option<u64>,
    pub body_buffer_bytes: Option<u64>,
    pub log_bytes_per_second: Option<u64>,
    pub hostcalls_per_callback: Option<u32>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digests_read_what_they_write() {
        let module = Module::new(Bytes::from_static(b"abc"));
        let text = module.sha256().to_string();
        assert_eq!(text, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
        assert_eq!(text.parse(), Ok(module.sha256()));
        assert_eq!(format!("sha256:{}", text.to_uppercase()).parse(), Ok(module.sha256()));
        for bad in ["", "ba78", "sha256:", &text[..63], &format!("{text}0"), &text.replace('b', "g"), "é"] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError), "{bad}");
        }
    }
}
