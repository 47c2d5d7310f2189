//! The transport socket of a filter chain, brought up on an accepted connection.

use std::rc::Rc;

use outrigger_config::{DownstreamTransport, HANDSHAKE_TIMEOUT};

use super::{Accepted, ListenerSlot};
use crate::tls::HandshakeError;
use crate::worker::WorkerCx;

/// Shakes hands as the chain's transport socket has it; `None`: the connection is over.
pub(super) async fn secure(cx: &Rc<WorkerCx>, slot: &ListenerSlot, mut accepted: Accepted) -> Option<Accepted> {
    let (transport, timeout) = accepted.chain.config(|chain| (chain.transport.clone(), chain.transport_timeout))?;
    let DownstreamTransport::Tls(tls) = transport else { return Some(accepted) };
    let stats = slot.tls_stats(cx);
    let live = cx.live();
    let acceptor = match live.prepared.acceptors.get(&tls) {
        Some(Ok(acceptor)) => acceptor.clone(),
        Some(Err(error)) => {
            stats.failed(&HandshakeError::Context(error.clone()));
            return None;
        }
        // Of a generation that is gone.
        None => return None,
    };
    drop(live);
    let shaking = accepted.transport.accept_tls(&acceptor, timeout.unwrap_or(HANDSHAKE_TIMEOUT), &stats);
    match Box::pin(cx.handshakes.run(shaking)).await {
        Some(Ok(())) => Some(accepted),
        Some(Err(error)) => {
            tracing::debug!(listener = %slot.name, remote = ?accepted.transport.remote, "TLS: {error}");
            None
        }
        None => {
            stats.overflow();
            None
        }
    }
}
