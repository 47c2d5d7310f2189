//! The gRPC status of an answer.

use bytes::Bytes;

use crate::{HeaderName, StreamState};

/// The gRPC status that stands for an HTTP status (gRPC's `http-grpc-status-mapping`).
#[must_use]
pub const fn grpc_status_of_http(status: u16) -> u32 {
    match status {
        400 => 13,
        401 => 16,
        403 => 7,
        404 => 12,
        429 | 502..=504 => 14,
        _ => 2,
    }
}

impl StreamState {
    /// What the answer says its gRPC status is: its trailers, else its head.
    #[must_use]
    pub fn told_grpc_status(&self) -> Option<&Bytes> {
        let headers = [self.response_trailers.as_ref(), self.response.as_ref().map(|head| &head.headers)];
        headers.into_iter().flatten().find_map(|headers| headers.get(&HeaderName::GRPC_STATUS))
    }
}
