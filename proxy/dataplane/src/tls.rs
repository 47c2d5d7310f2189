//! TLS towards clients and origins, on rustls with aws-lc-rs.
//!
//! `session` drives a connection's records (no buffer while it is idle), `server` and `client` make the settings of a
//! context with its secrets, `verify` decides about a peer's certificate, `certificate` reads what one says.
//!
//! A context whose secrets aren't there refuses connections. Where a client certificate is asked for nothing is resumed:
//! every connection's peer is verified anew.

mod acceptors;
mod certificate;
mod client;
mod handshakes;
mod key_log;
mod provider;
mod server;
mod session;
mod stats;
mod tickets;
mod verify;

pub(crate) use acceptors::Acceptors;
pub(crate) use client::Connector;
pub(crate) use handshakes::Handshakes;
pub(crate) use server::Acceptor;
pub(crate) use session::{HandshakeError, Session};
pub(crate) use stats::TlsStats;

pub use client::{Alpn, Target, secure_control};

use outrigger_config::Unresolved;

/// Makes aws-lc-rs what every use of rustls in this process takes.
pub fn install_provider() {
    // Somebody else has, where this fails.
    _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
}

/// Why a context serves nobody. Never tells a key's or a certificate's bytes.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub(crate) enum ContextError {
    #[error(transparent)]
    Unresolved(#[from] Unresolved),
    #[error("a private key cannot be used")]
    Key,
    #[error("a session ticket key cannot be used")]
    TicketKey,
    #[error("a certificate has no OCSP response, which the context demands")]
    Staple,
    #[error("the trusted authorities or revocation lists cannot be used")]
    Trust,
    #[error("{0}")]
    Settings(rustls::Error),
}

#[cfg(test)]
mod tests;
