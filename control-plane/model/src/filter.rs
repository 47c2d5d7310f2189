//! A Wasm filter: which module, on what, in which place of the chain, and within which limits.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::ids::{ObjectId, Source};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct WasmFilter {
    pub id: ObjectId,
    /// In the filter's own namespace; never empty.
    pub targets: Vec<FilterTarget>,
    pub phase: Phase,
    /// Higher runs earlier within a phase.
    pub priority: i32,
    /// What runs.
    pub revision: Arc<Revision>,
    /// How a new revision comes; `None`: everywhere at once.
    pub rollout: Option<RolloutPlan>,
    /// A new revision only sees copies.
    pub shadow: bool,
    /// A new revision beside [`Self::revision`]. [`Rollouts`](crate::Rollouts) sets it, no user does.
    pub trial: Option<Arc<Trial>>,
    pub source: Arc<Source>,
}

impl WasmFilter {
    /// Whether new revisions come in some other way than everywhere at once.
    pub fn is_staged(&self) -> bool {
        self.rollout.is_some() || self.shadow
    }

    /// Every module that a proxy may need for it.
    pub fn modules(&self) -> impl Iterator<Item = &Module> {
        std::iter::once(&self.revision.module).chain(self.trial.iter().map(|trial| &trial.revision.module))
    }
}

/// Code and configuration: what a rollout brings as one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    pub module: Module,
    /// What the plugin gets as its configuration: JSON, or a text as it is; empty: none.
    pub config: Bytes,
    pub failure_policy: FailurePolicy,
    pub limits: Limits,
    pub isolation: Isolation,
    /// Sorted by name.
    pub env: Vec<(Arc<str>, Arc<str>)>,
}

impl Revision {
    /// A content hash of twelve digits.
    pub fn name(&self) -> String {
        let Self { module, config, failure_policy, limits, isolation, env } = self;
        let Limits {
            callback_timeout,
            start_timeout,
            memory_bytes,
            body_buffer_bytes,
            log_bytes_per_second,
            hostcalls_per_callback,
            shared_data_bytes,
            shared_queues,
            shared_queue_bytes,
            shared_queue_messages,
            http_calls_pending,
            recycle_memory_bytes,
            recycle_streams,
        } = limits;
        let millis = |time: &Option<Duration>| time.map(|time| u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update((bytes.len() as u64).to_le_bytes());
            hash.update(bytes);
        };
        add(&module.sha256.0);
        add(config);
        add(&[*failure_policy as u8, *isolation as u8]);
        let numbers = [millis(callback_timeout), millis(start_timeout), *memory_bytes, *body_buffer_bytes];
        let counts = [hostcalls_per_callback, http_calls_pending, shared_queues, shared_queue_messages];
        let counts = counts.map(|count| count.map(u64::from));
        let others =
            [*log_bytes_per_second, *shared_data_bytes, *shared_queue_bytes, *recycle_memory_bytes, *recycle_streams];
        for number in numbers.into_iter().chain(counts).chain(others) {
            add(&number.map_or_else(Vec::new, |number| number.to_le_bytes().to_vec()));
        }
        for (name, value) in env {
            add(name.as_bytes());
            add(value.as_bytes());
        }
        let text = Digest(hash.finalize().into()).to_string();
        text[..12].to_owned()
    }
}

/// `spec.rollout`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RolloutPlan {
    /// Percentages of the streams, rising; never empty.
    pub steps: Vec<u8>,
    /// How long each step stays.
    pub pause: Duration,
    pub guardrails: Guardrails,
}

/// What makes a new revision go again. `None`: not judged.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Guardrails {
    /// Streams that met a trap, in parts of a million.
    pub trap_rate: Option<u32>,
    /// Streams that were answered with 5xx, beyond the old revision's share; in parts of a million.
    pub error_rate: Option<u32>,
    /// Of the average time to the response's head, beyond the old revision's.
    pub added_latency: Option<Duration>,
}

/// A new revision that gets a share of the streams, or copies of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Trial {
    /// Of this try.
    pub id: String,
    pub revision: Arc<Revision>,
    pub percent: u8,
    pub guardrails: Guardrails,
    pub shadow: bool,
    /// There is no old revision: streams pass without the filter, and [`WasmFilter::revision`] is this one.
    pub alone: bool,
}

impl Trial {
    /// What a proxy has when it has this trial as it is now.
    pub fn stage(&self) -> String {
        format!("{}@{}", self.id, self.percent)
    }
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

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
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
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Isolation {
    /// Every plugin with the same module, environment and limits.
    #[default]
    Shared,
    Plugin,
    Stream,
}

/// `None` leaves the proxy's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Limits {
    pub callback_timeout: Option<Duration>,
    pub start_timeout: Option<Duration>,
    pub memory_bytes: Option<u64>,
    pub body_buffer_bytes: Option<u64>,
    pub log_bytes_per_second: Option<u64>,
    pub hostcalls_per_callback: Option<u32>,
    pub shared_data_bytes: Option<u64>,
    pub shared_queues: Option<u32>,
    /// Of one queue.
    pub shared_queue_bytes: Option<u64>,
    pub shared_queue_messages: Option<u32>,
    pub http_calls_pending: Option<u32>,
    /// Linear memory from which an instance is recycled.
    pub recycle_memory_bytes: Option<u64>,
    /// Streams after which an instance is recycled.
    pub recycle_streams: Option<u64>,
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
