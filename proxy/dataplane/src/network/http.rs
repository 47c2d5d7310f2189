//! Network filters in front of an HTTP connection manager.
//!
//! The manager serves one end of a pair of sockets; the client's connection is passed to the other through the filters. So
//! the codecs know nothing of filters, and chains without filters pay nothing for them.

use std::future::ready;
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use futures_util::future::{Either, select};
use outrigger_http::{StreamInfo, StreamState};
use tokio::net::UnixStream;

use super::{ClosedBy, NetworkFactory, NetworkFilters, run};
use crate::listener::Accepted;
use crate::serve;
use crate::transport::Transport;
use crate::worker::WorkerCx;

/// How long a client may take to read what the manager has answered last.
const LINGER: Duration = Duration::from_secs(1);

pub(crate) async fn serve(cx: &Rc<WorkerCx>, accepted: Accepted, factories: &[NetworkFactory]) {
    let Accepted { chain, transport: mut down, info, .. } = accepted;
    let Ok((near, far)) = UnixStream::pair() else { return };
    let (Ok(near), Ok(mut far)) = (Transport::new(near), Transport::new(far)) else { return };
    (far.remote, far.local, far.outer_tls) = (down.remote, down.local, down.tls().cloned());
    let mut stream_info = StreamInfo {
        connection_id: cx.connection_id(),
        downstream_remote: down.remote,
        downstream_local: down.local,
        connection: info.clone(),
        downstream_tls: down.tls().cloned(),
        ..StreamInfo::default()
    };
    chain.describe(&mut stream_info);
    let mut state = StreamState { info: stream_info, ..StreamState::default() };
    state.request.path = Bytes::new();
    let mut filters = NetworkFilters::new(factories, state);
    let mut up = None;
    let served = Box::pin(serve::http(cx, Accepted { chain, transport: far, info, early: None }));
    let by = {
        let tunnel = Box::pin(run(&mut down, &mut up, &mut filters, || ready(Ok(near)), (None, None)));
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
    filters.close(by);
}
