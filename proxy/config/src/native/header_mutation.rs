//! `envoy.extensions.filters.http.header_mutation.v3`.

use outrigger_http::HeaderName;

use crate::HeaderValueOption;

/// Header changes of the filter, or of a scope of the routes.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct HeaderMutationFilter {
    pub request: Vec<HeaderChange>,
    pub response: Vec<HeaderChange>,
    /// Of the filter itself: the widest scope is applied last.
    pub most_specific_wins: bool,
}

/// One change (`envoy.config.common.mutation_rules.v3.HeaderMutation`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HeaderChange {
    Remove(HeaderName),
    Set(HeaderValueOption),
}
