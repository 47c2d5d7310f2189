//! What one exchange has on the wire of its connection, which counts for all.

use outrigger_http::WireBytes;

use crate::transport::Transport;

/// Where the connection's counts stood when the exchange began, and what is known of its heads.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Meter {
    received_before: u64,
    sent_before: u64,
    pub(crate) header_received: u64,
    pub(crate) header_sent: u64,
}

impl Meter {
    /// `taken`: so many bytes of the exchange have been taken from the connection already.
    pub(crate) fn begin(transport: &Transport, taken: usize) -> Meter {
        Meter {
            received_before: transport.bytes_taken().saturating_sub(taken as u64),
            sent_before: transport.bytes_queued(),
            ..Meter::default()
        }
    }

    pub(crate) fn read(&self, transport: &Transport) -> WireBytes {
        WireBytes {
            received: transport.bytes_taken().saturating_sub(self.received_before),
            sent: transport.bytes_queued().saturating_sub(self.sent_before),
            header_received: self.header_received,
            header_sent: self.header_sent,
        }
    }
}
