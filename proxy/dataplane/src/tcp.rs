//! `tcp_proxy`.

use std::rc::Rc;
use std::sync::Arc;

use outrigger_config::TcpProxy;
use outrigger_http::{ResponseFlags, StreamInfo, StreamState, TimingPoint};
use rand::Rng;
use tokio::time::Instant;

use crate::cluster::PickKey;
use crate::error::{ErrorKind, StreamError};
use crate::listener::Accepted;
use crate::live::TcpChain;
use crate::stats::{ActiveGuard, TcpStats};
use crate::transport::Transport;
use crate::tunnel::{self, End};
use crate::worker::WorkerCx;

/// Passes a client's bytes to a cluster and back.
pub(crate) async fn proxy(cx: &Rc<WorkerCx>, chain: &Rc<TcpChain>, accepted: Accepted) {
    let Accepted { chain: slot, transport: mut down, info } = accepted;
    let stats = &chain.stats;
    stats.downstream_cx_total().inc();
    let _active = ActiveGuard::new(stats, TcpStats::downstream_cx_active);
    let started = Instant::now();
    let mut info = StreamInfo {
        connection_id: cx.connection_id(),
        downstream_remote: down.remote,
        downstream_local: down.local,
        connection: info,
        downstream_tls: down.tls().cloned(),
        ..StreamInfo::default()
    };
    slot.describe(&mut info);
    let mut state = StreamState { info, ..StreamState::default() };
    state.request.path = bytes::Bytes::new();
    if let Err(error) = run(cx, chain, &mut down, &mut state).await {
        state.info.flags.insert(error.flags());
    }
    stats.downstream_cx_rx_bytes_total().add(down.bytes_read);
    stats.downstream_cx_tx_bytes_total().add(down.bytes_written);
    stats.downstream_cx_length_ms().record(u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX));
    state.info.request_body_bytes = down.bytes_read;
    state.info.response_body_bytes = down.bytes_written;
    state.info.mark(TimingPoint::ResponseComplete);
    for log in &chain.proxy.access_logs {
        cx.access_log.write(log, &state);
    }
}

async fn run(
    cx: &Rc<WorkerCx>,
    chain: &TcpChain,
    down: &mut Transport,
    state: &mut StreamState,
) -> Result<(), StreamError> {
    let proxy = &chain.proxy;
    let name = choose(proxy, cx);
    state.info.cluster_name.clone_from(&name);
    let cluster = name.and_then(|name| chain.live.cluster(cx, &name));
    let Some(cluster) = cluster else {
        chain.stats.downstream_cx_no_route().inc();
        return Err(StreamError::internal(ErrorKind::NoCluster(503)));
    };
    let mut attempts = 0;
    let (mut up, _guard, _endpoint) = loop {
        attempts += 1;
        match cluster.connect_raw(&PickKey::default()).await {
            Ok(connected) => break connected,
            Err(error) if attempts >= proxy.max_connect_attempts.max(1) => return Err(error),
            Err(_) => {}
        }
    };
    state.info.upstream_remote = up.remote;
    state.info.upstream_local = up.local;
    state.info.upstream_tls = up.tls().cloned();
    state.info.upstream_attempts = attempts;
    let deadline = proxy.max_downstream_connection_duration.map(|duration| Instant::now() + duration);
    match tunnel::run(down, &mut up, proxy.idle_timeout, deadline).await {
        End::Closed => Ok(()),
        End::DownstreamReset => {
            up.reset();
            Err(StreamError::downstream(ErrorKind::Terminated))
        }
        End::UpstreamReset => {
            down.reset();
            Err(StreamError::upstream(ErrorKind::Terminated))
        }
        End::Idle => {
            chain.stats.idle_timeout().inc();
            state.info.flags.insert(ResponseFlags::STREAM_IDLE_TIMEOUT);
            Ok(())
        }
        End::Deadline => {
            chain.stats.max_downstream_connection_duration().inc();
            Ok(())
        }
    }
}

fn choose(proxy: &TcpProxy, cx: &WorkerCx) -> Option<Arc<str>> {
    if let [only] = &proxy.clusters[..] {
        return Some(only.name.clone());
    }
    let mut at = cx.random().random_range(0..proxy.total_weight.max(1));
    for cluster in &proxy.clusters {
        match at.checked_sub(cluster.weight) {
            Some(rest) => at = rest,
            None => return Some(cluster.name.clone()),
        }
    }
    None
}
