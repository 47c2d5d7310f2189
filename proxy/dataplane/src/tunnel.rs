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

/// What one side may have in its queue before the other isn't read; less where listener or cluster say so.
pub(crate) const QUEUE_BYTES_MAX: usize = 64 * 1024;

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

/// Passes bytes after a 101. `buffer_limit` is the listener's.
pub(crate) async fn upgraded(
    mut connection: Connection,
    mut picked: Box<Picked>,
    buffer_limit: usize,
    idle: Option<Duration>,
) {
    let buffer_limit = buffer_limit.min(picked.cluster.buffer_limit());
    let Upstream::H1(stream) = &mut picked.stream else { return };
    run(&mut connection.transport, &mut stream.transport, buffer_limit, idle, None).await;
}

/// Passes bytes both ways until both sides have closed; a side that closes its sending side still receives. `buffer_limit`
/// is what listener and cluster let it keep for either side.
pub(crate) async fn run(
    down: &mut Transport,
    up: &mut Transport,
    buffer_limit: usize,
    idle: Option<Duration>,
    deadline: Option<Instant>,
) -> End {
    let mut timer = LazyTimer::default();
    let idle = idle.filter(|idle| !idle.is_zero());
    let mut idle_deadline = idle.map(|idle| Instant::now() + idle);
    let (mut to_up, mut to_down) = (Half::new(buffer_limit), Half::new(buffer_limit));
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
#[derive(Debug)]
struct Half {
    queue_bytes_max: usize,
    closed: bool,
}

/// Which side of a direction failed.
enum Side {
    From,
    To,
}

impl Half {
    fn new(buffer_limit: usize) -> Half {
        Half { queue_bytes_max: buffer_limit.min(QUEUE_BYTES_MAX), closed: false }
    }

    fn poll(&mut self, from: &mut Transport, to: &mut Transport, cx: &mut Context<'_>) -> Result<bool, Side> {
        if self.closed {
            return Ok(false);
        }
        let mut progress = false;
        if from.input.is_empty() && !from.eof && to.output.len() < self.queue_bytes_max {
            match from.poll_fill(cx) {
                Poll::Ready(Ok(_)) => progress = true,
                Poll::Ready(Err(_)) => return Err(Side::From),
                Poll::Pending => {}
            }
        }
        if !from.input.is_empty() && to.output.len() < self.queue_bytes_max {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::UnixStream;

    use super::*;

    fn pair() -> (Transport, UnixStream) {
        let (near, far) = UnixStream::pair().unwrap();
        (Transport::new(near).unwrap(), far)
    }

    /// What is queued of a client that sends without an end to an upstream that doesn't read.
    async fn kept(buffer_limit: usize) -> usize {
        let ((mut down, mut client), (mut up, _origin)) = (pair(), pair());
        let mut half = Half::new(buffer_limit);
        let fills = poll_fn(|cx| {
            while half.poll(&mut down, &mut up, cx).is_ok_and(|progress| progress) {}
            if up.output.len() < half.queue_bytes_max { Poll::Pending } else { Poll::Ready(up.output.len()) }
        });
        let sends = async { while client.write_all(&[0; 1024]).await.is_ok() {} };
        tokio::select! {
            kept = fills => kept,
            () = sends => 0,
        }
    }

    #[tokio::test]
    async fn no_more_is_queued_than_listener_and_cluster_allow() {
        const READ_BYTES: usize = 16 * 1024;
        for (buffer_limit, least) in [(1, 1), (20_000, 20_000), (usize::MAX, QUEUE_BYTES_MAX)] {
            let kept = kept(buffer_limit).await;
            assert!((least..least + READ_BYTES).contains(&kept), "{buffer_limit}: {kept}");
        }
    }

    #[tokio::test]
    async fn all_passes_within_the_smallest_limit() {
        let ((mut down, mut client), (mut up, mut origin)) = (pair(), pair());
        let asks = async {
            client.write_all(&[b'q'; 1 << 20]).await.unwrap();
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer.len()
        };
        let answers = async {
            let mut asked = Vec::new();
            origin.read_to_end(&mut asked).await.unwrap();
            origin.write_all(&asked).await.unwrap();
            origin.shutdown().await.unwrap();
        };
        let (end, answer, ()) = tokio::join!(run(&mut down, &mut up, 1, None, None), asks, answers);
        assert_eq!((end, answer), (End::Closed, 1 << 20));
    }
}
