//! Network filters in front of an HTTP connection manager.
//!
//! The manager serves one end of a pair of sockets; the client's connection is passed to the other through the filters. So
//! the codecs know nothing of filters, and chains without filters pay nothing for them.

use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

use futures_util::future::{Either, select};
use outrigger_http::StreamState;
use tokio::net::UnixStream;

use super::{ClosedBy, NetworkFactory, NetworkFilters, run};
use crate::listener::Accepted;
use crate::serve;
use crate::transport::Transport;
use crate::worker::WorkerCx;

/// How long a client may take to read what the manager has answered last.
const LINGER: Duration = Duration::from_secs(1);

/// Serves a connection to its end; what there is to tell of it.
pub(crate) async fn serve(cx: &Rc<WorkerCx>, accepted: Accepted, factories: &[NetworkFactory]) -> StreamState {
    let mut filters = NetworkFilters::new(factories, describe(cx, &accepted));
    filters.half_closes = false;
    if filters.decide_at_once() {
        let (verdict, state, _decided) = filters.decide();
        if verdict.is_ok() {
            serve::http(cx, accepted).await;
        }
        return state;
    }
    serve_between(cx, accepted, filters).await
}

fn describe(cx: &WorkerCx, accepted: &Accepted) -> StreamState {
    let Accepted { chain, transport, info, .. } = accepted;
    transport.connection_state(cx.connection_id(), info.clone(), chain.info())
}

async fn serve_between(cx: &Rc<WorkerCx>, accepted: Accepted, mut filters: NetworkFilters) -> StreamState {
    let Accepted { chain, transport: mut down, info, .. } = accepted;
    let ends = UnixStream::pair().and_then(|(near, far)| Ok((Transport::new(near)?, Transport::new(far)?)));
    let Ok((near, mut far)) = ends else { return filters.close(ClosedBy::Proxy) };
    (far.remote, far.local, far.outer_tls) = (down.remote, down.local, down.tls().cloned());
    (far.opened, far.outer_probe) = (down.opened, down.probe().cloned());
    let mut up = None;
    let buffer_limit = chain.buffer_limit();
    let served = Box::pin(serve::http(cx, Accepted { chain, transport: Box::new(far), info, early: None }));
    let by = {
        let connect = || ready(Ok((near, usize::MAX)));
        let tunnel = Box::pin(run(&mut down, &mut up, &mut filters, buffer_limit, connect, (None, None)));
        match select(served, tunnel).await {
            // The manager has closed: what it said last is passed on.
            Either::Left(((), tunnel)) => match tokio::time::timeout(LINGER, tunnel).await {
                Ok(Ok((_, by))) => by,
                _ => ClosedBy::Proxy,
            },
            Either::Right((ended, served)) => {
                let by = ended.map_or(ClosedBy::Proxy, |(_, by)| by);
                // It reads the end when its other side goes, below.
                tokio::task::yield_now().await;
                _ = tokio::time::timeout(LINGER, served).await;
                by
            }
        }
    };
    drop(up);
    down.tell_sizes(&mut filters.state.borrow_mut().info);
    filters.close(by)
}
