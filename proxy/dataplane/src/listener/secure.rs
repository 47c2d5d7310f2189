//! The transport socket of a filter chain, brought up on an accepted connection.

use std::borrow::Cow;
use std::rc::Rc;

use outrigger_config::{DownstreamTransport, HANDSHAKE_TIMEOUT};

use super::{Accepted, ListenerSlot};
use crate::tls::HandshakeError;
use crate::worker::WorkerCx;

/// Shakes hands as the chain's transport socket has it; `Err`: the connection is over, for this reason, if it is empty for
/// none that the client has to do with.
pub(super) async fn secure(
    cx: &Rc<WorkerCx>,
    slot: &ListenerSlot,
    mut accepted: Accepted,
) -> Result<Accepted, Cow<'static, str>> {
    let config = accepted.chain.config(|chain| (chain.transport.clone(), chain.transport_timeout));
    let Some((transport, timeout)) = config else { return Err("".into()) };
    let DownstreamTransport::Tls(tls) = transport else { return Ok(accepted) };
    let stats = slot.tls_stats(cx);
    let live = cx.live();
    let acceptor = match live.prepared.acceptors.get(&tls) {
        Some(Ok(acceptor)) => acceptor.clone(),
        Some(Err(error)) => {
            stats.failed(&HandshakeError::Context(error.clone()));
            return Err(format!("TLS_error: {error}").into());
        }
        // Of a generation that is gone.
        None => return Err("".into()),
    };
    drop(live);
    let shaking = accepted.transport.accept_tls(&acceptor, timeout.unwrap_or(HANDSHAKE_TIMEOUT), &stats);
    match Box::pin(cx.handshakes.run(shaking)).await {
        Some(Ok(())) => Ok(accepted),
        Some(Err(error)) => {
            tracing::debug!(listener = %slot.name, remote = ?accepted.transport.remote, "TLS: {error}");
            Err(format!("TLS_error: {error}").into())
        }
        None => {
            stats.overflow();
            Err("TLS_error: too many handshakes".into())
        }
    }
}
