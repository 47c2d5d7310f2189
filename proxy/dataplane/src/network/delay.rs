//! Connections that are closed later than it is decided.

use std::time::Duration;

use tokio::task::JoinHandle;

use super::ConnectionCx;
use crate::filter::FilterEvent;

/// Closes a connection later, unless it is dropped before.
#[derive(Debug)]
pub(super) struct Delay(JoinHandle<()>);

impl Delay {
    pub(super) fn close_after(delay: Duration, cx: &ConnectionCx<'_>) -> Delay {
        let (slot, index) = (cx.slot.clone(), cx.index);
        Delay(tokio::task::spawn_local(async move {
            tokio::time::sleep(delay).await;
            slot.push(index, FilterEvent::Reset);
        }))
    }
}

impl Drop for Delay {
    fn drop(&mut self) {
        self.0.abort();
    }
}
