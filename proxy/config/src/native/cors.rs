//! `envoy.extensions.filters.http.cors.v3`.

use bytes::Bytes;

use crate::{Fraction, StringMatcher};

/// `CorsPolicy` of a scope: what is unset is for the scope around it to say.
#[derive(Debug, PartialEq, Eq)]
pub struct CorsPolicy {
    pub origins: Vec<StringMatcher>,
    pub methods: Bytes,
    pub headers: Bytes,
    pub expose: Bytes,
    pub max_age: Bytes,
    pub credentials: Option<bool>,
    pub private_network: Option<bool>,
    /// A preflight from an origin that isn't allowed goes to the origin server, unless this says no.
    pub forward_preflights: Option<bool>,
    /// All unless set.
    pub enabled: Fraction,
    /// Counted, without effect.
    pub shadow: Fraction,
}
