//! Filters that are built into the proxy.

mod header_mutation;

use std::sync::Arc;

pub use header_mutation::{HeaderChange, HeaderMutationFilter};

/// A native filter with its configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NativeFilter {
    HeaderMutation(Arc<HeaderMutationFilter>),
}
