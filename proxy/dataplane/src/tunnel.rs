//! Two connections that only pass bytes: after an upgrade, and for `tcp_proxy`.

use std::future::poll_fn;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use crate::cluster::Picked;
use crate::downstream::h1::Connection;
use crate::timer::LazyTimer;
use crate::transport::Transport;
use crate::upstream::Upstream;

/// What one side may have in its queue before the other isn't read.
const QUEUE_BYTES_MAX: usize = 64 * 1024;

/// How a tunnel ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides have closed.
    Closed,
    DownstreamReset,
    UpstreamReset,
    Idle,
    Deadline,
    /// A network filter has closed the connection.
    Filtered,
}

/// Passes bytes after a 101.
pub(crate) async fn upgraded(mut connection: Connection, mut picked: Box<Picked>, idle: Option<Duration>) {
    let Upstream::H1(stream) = &mut picked.stream else { return };
    run(&mut connection.transport, &mut stream.transport, idle, None).await;
}

/// Passes bytes both ways until both sides have closed; a side that closes its sending side still receives.
pub(crate) async fn run(
    down: &mut Transport,
    up: &mut Transport,
    idle: Option<Duration>,
    deadline: Option<Instant>,
) -> End {
    let mut timer = LazyTimer::default();
    let idle = idle.filter(|idle| !idle.is_zero());
    let mut idle_deadline = idle.map(|idle| Instant::now() + idle);
    let (mut to_up, mut to_down) = (Half::default(), Half::default());
    poll_fn(|cx| {
        loop {
            let mut progress = false;
            match to_up.poll(down, up, cx) {
                Ok(moved) => progress |= moved,
                Err(Side::From) => return Poll::Ready(End::DownstreamReset),
                Err(Side::To) => return Poll::Ready(End::UpstreamReset),
            }
            match to_down.poll(up, down, cx) {
                Ok(moved) => progress |= moved,
                Err(Side::From) => return Poll::Ready(End::UpstreamReset),
                Err(Side::To) => return Poll::Ready(End::DownstreamReset),
            }
            if to_up.closed && to_down.closed {
                return Poll::Ready(End::Closed);
            }
            if progress {
                idle_deadline = idle.map(|idle| Instant::now() + idle);
                continue;
            }
            if timer.poll_until(crate::timer::earlier(idle_deadline, deadline), cx).is_pending() {
                return Poll::Pending;
            }
            let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            return Poll::Ready(if over { End::Deadline } else { End::Idle });
        }
    })
    .await
}

/// One direction.
#[derive(Debug, Default)]
struct Half {
    closed: bool,
}

/// Which side of a direction failed.
enum Side {
    From,
    To,
}

impl Half {
    fn poll(&mut self, from: &mut Transport, to: &mut Transport, cx: &mut Context<'_>) -> Result<bool, Side> {
        if self.closed {
            return Ok(false);
        }
        let mut progress = false;
        if from.input.is_empty() && !from.eof && to.output.len() < QUEUE_BYTES_MAX {
            match from.poll_fill(cx) {
                Poll::Ready(Ok(_)) => progress = true,
                Poll::Ready(Err(_)) => return Err(Side::From),
                Poll::Pending => {}
            }
        }
        if !from.input.is_empty() && to.output.len() < QUEUE_BYTES_MAX {
            to.output.push(from.input.split().freeze());
            progress = true;
        }
        match to.poll_flush(cx) {
            Poll::Ready(Ok(())) => {}
            Poll::Ready(Err(_)) => return Err(Side::To),
            Poll::Pending => return Ok(progress),
        }
        if from.eof && from.input.is_empty() && to.output.is_empty() {
            match to.poll_shutdown(cx) {
                Poll::Ready(_) => {
                    self.closed = true;
                    progress = true;
                }
                Poll::Pending => {}
            }
        }
        Ok(progress)
    }
}
