//! Keys of session tickets.

use std::fmt;
use std::sync::Arc;

use super::SecretRef;

/// Where a server's ticket keys are.
#[derive(Debug, PartialEq, Eq)]
pub enum TicketKeySource {
    Inline(Arc<TicketKeys>),
    Secret(SecretRef),
}

/// `TlsSessionTicketKeys`: the first one makes tickets, any of them takes one.
#[derive(Debug, PartialEq, Eq)]
pub struct TicketKeys {
    /// At least one.
    pub keys: Vec<TicketKey>,
}

/// What Envoy takes 80 bytes for. Shows nothing of itself.
#[derive(PartialEq, Eq)]
pub struct TicketKey {
    pub name: [u8; 16],
    pub hmac: [u8; 32],
    pub aes: [u8; 32],
}

impl fmt::Debug for TicketKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[redacted]")
    }
}

impl TicketKey {
    /// `None`: other than 80 bytes.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<TicketKey> {
        let (name, rest) = bytes.split_first_chunk::<16>()?;
        let (hmac, rest) = rest.split_first_chunk::<32>()?;
        let aes = <&[u8; 32]>::try_from(rest).ok()?;
        Some(TicketKey { name: *name, hmac: *hmac, aes: *aes })
    }
}
