//! `envoy.extensions.filters.network.connection_limit.v3`.

use std::sync::Arc;
use std::time::Duration;

use crate::ActiveCount;

/// How many connections a filter chain has at a time.
#[derive(Debug, PartialEq, Eq)]
pub struct ConnectionLimit {
    pub stat_prefix: Arc<str>,
    /// How long a connection beyond the limit is kept before it is closed; `None`: not at all.
    pub delay: Option<Duration>,
    pub active: ActiveCount,
}
