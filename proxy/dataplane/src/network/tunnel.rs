//! Bytes from a client to an upstream and back, through network filters.

use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::time::Instant;

use super::{Close, ClosedBy, NetworkFilters, Passed};
use crate::error::StreamError;
use crate::filter::Way;
use crate::timer::{LazyTimer, earlier};
use crate::transport::Transport;
use crate::tunnel::{End, QUEUE_BYTES_MAX};
use crate::write_queue::WriteQueue;

/// Runs until both sides have closed. `buffer_limit` is what the listener lets it keep for either side, in queues and before
/// the filters. `connect` is asked for the upstream, and for what that lets it keep, once the filters admit the connection.
pub(crate) async fn run<C, F>(
    down: &mut Transport,
    up: &mut Option<Transport>,
    filters: &mut NetworkFilters,
    buffer_limit: usize,
    connect: F,
    times: (Option<Duration>, Option<Instant>),
) -> Result<(End, ClosedBy), StreamError>
where
    C: Future<Output = Result<(Transport, usize), StreamError>>,
    F: FnOnce() -> C,
{
    let (idle, deadline) = times;
    let idle = idle.filter(|idle| !idle.is_zero());
    let mut idle_deadline = idle.map(|idle| Instant::now() + idle);
    let mut timer = LazyTimer::default();
    let mut pump = Pump::new(buffer_limit);
    let mut connect = Some(connect);
    let mut connecting: Option<Pin<Box<C>>> = None;
    let outcome = poll_fn(|task| {
        loop {
            let mut progress = match pump.turn(down, up, filters, task) {
                Ok(progress) => progress,
                Err(end) => return Poll::Ready(Ok(end)),
            };
            if filters.is_admitted()
                && let Some(connect) = connect.take()
            {
                connecting = Some(Box::pin(connect()));
            }
            if let Some(future) = &mut connecting
                && let Poll::Ready(connected) = future.as_mut().poll(task)
            {
                connecting = None;
                match connected {
                    Ok((transport, buffer_limit)) => {
                        *up = Some(transport);
                        pump.queue_bytes_max = pump.queue_bytes_max.min(buffer_limit);
                    }
                    Err(error) => return Poll::Ready(Err(error)),
                }
                progress = true;
            }
            if pump.sent_end && pump.answered_end {
                return Poll::Ready(Ok(End::Closed));
            }
            if progress {
                idle_deadline = idle.map(|idle| Instant::now() + idle);
                continue;
            }
            if timer.poll_until(earlier(idle_deadline, deadline), task).is_pending() {
                return Poll::Pending;
            }
            let over = deadline.is_some_and(|deadline| Instant::now() >= deadline);
            return Poll::Ready(Ok(if over { End::Deadline } else { End::Idle }));
        }
    });
    let end = outcome.await?;
    if end == End::Filtered {
        flush(down).await;
    }
    let by_client = pump.client_was_last || end == End::DownstreamReset;
    Ok((end, if by_client { ClosedBy::Client } else { ClosedBy::Proxy }))
}

/// What a filter let pass before it closed the connection reaches the client.
async fn flush(down: &mut Transport) {
    const TIME_MAX: Duration = Duration::from_secs(1);
    let closing = async {
        if poll_fn(|task| down.poll_flush(task)).await.is_ok() {
            _ = poll_fn(|task| down.poll_shutdown(task)).await;
        }
    };
    _ = tokio::time::timeout(TIME_MAX, closing).await;
}

/// Where both directions are.
#[derive(Debug, Default)]
pub(super) struct Pump {
    begun: bool,
    /// What one side may have in its queue, or before the filters, before the other isn't read.
    queue_bytes_max: usize,
    /// What passed the filters before there was an upstream connection.
    early: WriteQueue,
    read_end: bool,
    /// The client closed when the answer had ended.
    client_was_last: bool,
    answer_read_end: bool,
    /// The end has passed the filters.
    request_over: bool,
    answer_over: bool,
    /// The end has been sent.
    sent_end: bool,
    answered_end: bool,
}

impl Pump {
    pub(super) fn new(buffer_limit: usize) -> Pump {
        Pump { queue_bytes_max: buffer_limit.min(QUEUE_BYTES_MAX), ..Pump::default() }
    }

    /// One turn of everything but connecting; whether anything moved.
    pub(super) fn turn(
        &mut self,
        down: &mut Transport,
        up: &mut Option<Transport>,
        filters: &mut NetworkFilters,
        task: &mut Context<'_>,
    ) -> Result<bool, End> {
        let mut progress = false;
        if !self.begun {
            self.begun = true;
            progress = true;
            self.pass(Way::Request, filters.begin(), down, up)?;
        }
        while let Poll::Ready((way, passed)) = filters.poll_event(task) {
            progress = true;
            self.pass(way, passed, down, up)?;
        }
        progress |= self.read_client(down, up, filters, task)?;
        if let Some(up) = up.as_mut() {
            if !self.early.is_empty() {
                // A fresh connection: nothing was queued before.
                up.output = std::mem::take(&mut self.early);
                progress = true;
            }
            progress |= send(up, self.request_over, &mut self.sent_end, End::UpstreamReset, task)?;
        }
        progress |= self.read_upstream(down, up, filters, task)?;
        progress |= send(down, self.answer_over, &mut self.answered_end, End::DownstreamReset, task)?;
        Ok(progress)
    }

    fn read_client(
        &mut self,
        down: &mut Transport,
        up: &mut Option<Transport>,
        filters: &mut NetworkFilters,
        task: &mut Context<'_>,
    ) -> Result<bool, End> {
        let queued = up.as_ref().map_or(self.early.len(), |up| up.output.len());
        if self.read_end || queued.max(filters.waiting(Way::Request)) >= self.queue_bytes_max {
            return Ok(false);
        }
        // What was read ahead first.
        if down.input.is_empty() {
            match down.poll_fill(task) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Err(End::DownstreamReset),
                Poll::Pending => return Ok(false),
            }
        }
        let bytes = down.input.split().freeze();
        self.read_end = bytes.is_empty();
        self.client_was_last = self.read_end && self.answered_end;
        let passed = filters.data(Way::Request, bytes);
        self.pass(Way::Request, passed, down, up)?;
        if filters.is_abandoned() { Err(End::DownstreamReset) } else { Ok(true) }
    }

    fn read_upstream(
        &mut self,
        down: &mut Transport,
        up: &mut Option<Transport>,
        filters: &mut NetworkFilters,
        task: &mut Context<'_>,
    ) -> Result<bool, End> {
        let Some(from) = up.as_mut() else { return Ok(false) };
        let full = down.output.len().max(filters.waiting(Way::Response)) >= self.queue_bytes_max;
        if self.answer_read_end || full {
            return Ok(false);
        }
        if from.input.is_empty() {
            match from.poll_fill(task) {
                Poll::Ready(Ok(_)) => {}
                Poll::Ready(Err(_)) => return Err(End::UpstreamReset),
                Poll::Pending => return Ok(false),
            }
        }
        let bytes = from.input.split().freeze();
        self.answer_read_end = bytes.is_empty();
        let passed = filters.data(Way::Response, bytes);
        self.pass(Way::Response, passed, down, up)?;
        Ok(true)
    }

    fn pass(
        &mut self,
        way: Way,
        passed: Result<Passed, Close>,
        down: &mut Transport,
        up: &mut Option<Transport>,
    ) -> Result<(), End> {
        let Passed { mut bytes, end } = passed.map_err(|Close| End::Filtered)?;
        let queue = match (way, up) {
            (Way::Response, _) => &mut down.output,
            (Way::Request, Some(up)) => &mut up.output,
            (Way::Request, None) => &mut self.early,
        };
        while let Some(chunk) = bytes.pop() {
            queue.push(chunk);
        }
        match way {
            Way::Request => self.request_over |= end,
            Way::Response => self.answer_over |= end,
        }
        Ok(())
    }
}

/// Writes what is queued, then the end if it is due.
fn send(to: &mut Transport, over: bool, sent_end: &mut bool, failed: End, task: &mut Context<'_>) -> Result<bool, End> {
    let before = to.output.len();
    match to.poll_flush(task) {
        Poll::Ready(Ok(())) => {}
        Poll::Ready(Err(_)) => return Err(failed),
        Poll::Pending => return Ok(to.output.len() < before),
    }
    if over && !*sent_end && to.poll_shutdown(task).is_ready() {
        *sent_end = true;
        return Ok(true);
    }
    Ok(before > 0)
}
