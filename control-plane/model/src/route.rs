//! Routes: [`Route`] is an HTTPRoute, [`TcpRoute`] a TCPRoute. Words and meaning are Gateway API's.

use std::sync::Arc;
use std::time::Duration;

use crate::ids::{ObjectId, Source};

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub id: ObjectId,
    pub parents: Vec<ParentRef>,
    /// Lower case, exact or `*.suffix`; none: every host of the listener.
    pub hostnames: Vec<Arc<str>>,
    pub rules: Vec<Arc<Rule>>,
    /// Seconds since 1970 of `creationTimestamp`: the oldest route wins a tie. Files have none, so names decide.
    pub created: Option<u64>,
    pub source: Arc<Source>,
}

/// A TCPRoute: the connections of a TCP listener go to its backends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TcpRoute {
    pub id: ObjectId,
    pub parents: Vec<ParentRef>,
    pub backends: Vec<Backend>,
    pub created: Option<u64>,
    pub source: Arc<Source>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentRef {
    pub target: ParentTarget,
    /// The name of one listener; none: every listener of the gateway.
    pub section: Option<Arc<str>>,
    pub port: Option<u16>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ParentTarget {
    Gateway(ObjectId),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rule {
    pub name: Option<Arc<str>>,
    /// Never empty: a rule without matches has one with the prefix `/`.
    pub matches: Vec<Match>,
    pub actions: Actions,
    pub timeouts: Timeouts,
    pub backends: Vec<Backend>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Match {
    pub path: PathMatch,
    /// `GET`, `POST`, …
    pub method: Option<Arc<str>>,
    /// Names in lower case; every one must match.
    pub headers: Vec<(Arc<str>, ValueMatch)>,
    pub query: Vec<(Arc<str>, ValueMatch)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathMatch {
    Exact(Arc<str>),
    /// By path segments (Gateway API's `PathPrefix`): `/api` matches `/api` and `/api/x`, not `/apix`. No slash at the
    /// end, but for `/` itself, which matches every path.
    Prefix(Arc<str>),
    /// RE2 syntax, matched against the whole path.
    Regex(Arc<str>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ValueMatch {
    Exact(Arc<str>),
    /// RE2 syntax, matched against the whole value.
    Regex(Arc<str>),
}

/// What a rule does to its requests and responses (`filters`).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Actions {
    pub request_headers: HeaderMutation,
    pub response_headers: HeaderMutation,
    /// With a redirect there is no backend and no rewrite.
    pub redirect: Option<Redirect>,
    pub rewrite: Option<Rewrite>,
}

/// Names in lower case.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HeaderMutation {
    pub set: Vec<(Arc<str>, Arc<str>)>,
    pub add: Vec<(Arc<str>, Arc<str>)>,
    pub remove: Vec<Arc<str>>,
}

impl HeaderMutation {
    pub fn is_empty(&self) -> bool {
        self.set.is_empty() && self.add.is_empty() && self.remove.is_empty()
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// `http` or `https`; none: the request's.
    pub scheme: Option<Arc<str>>,
    pub hostname: Option<Arc<str>>,
    /// None: the scheme's well-known port if `scheme` is set, else the listener's port.
    pub port: Option<u16>,
    pub path: Option<PathRewrite>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rewrite {
    pub hostname: Option<Arc<str>>,
    pub path: Option<PathRewrite>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum PathRewrite {
    Full(Arc<str>),
    /// Replaces what the match's [`PathMatch::Prefix`] matched; only with prefix matches.
    Prefix(Arc<str>),
}

/// `Some(ZERO)` turns a timeout off, `None` leaves the proxy's default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Timeouts {
    pub request: Option<Duration>,
    pub backend_request: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backend {
    pub service: ObjectId,
    pub port: u16,
    pub weight: u32,
    /// Applied to requests that this backend gets, after the rule's.
    pub request_headers: HeaderMutation,
    pub response_headers: HeaderMutation,
}
