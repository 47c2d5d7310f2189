//! `RouteAction.hash_policy`: what of a request decides its endpoint.

use std::time::Duration;

use bytes::Bytes;
use outrigger_http::HeaderName;

use crate::Regex;

/// One policy of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashPolicy {
    pub from: HashFrom,
    /// Where this one finds something, the rest of the list isn't asked.
    pub terminal: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum HashFrom {
    /// Every value of a header; `rewrite`: what remains of a value after it.
    Header {
        name: HeaderName,
        rewrite: Option<(Regex, Bytes)>,
    },
    Cookie(HashCookie),
    SourceIp,
    /// The first parameter of this name.
    Query(Bytes),
    FilterState(String),
}

/// A cookie, that is made where a request has none and `ttl` is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HashCookie {
    pub name: Bytes,
    /// Zero: a cookie of the session.
    pub ttl: Option<Duration>,
    pub path: Bytes,
    /// `; name=value` for each attribute.
    pub attributes: Bytes,
}
