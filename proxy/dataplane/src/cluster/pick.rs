//! What a request asks of the balancer.

use std::cell::OnceCell;
use std::net::SocketAddr;
use std::sync::Arc;

use outrigger_config::{MetadataMatch, RoutingPriority};
use outrigger_http::{ConnectionInfo, EndpointAddress};

use super::announce::Client;

/// How an endpoint is to be chosen. The default: any, for a request of the default priority.
#[derive(Debug, Clone, Copy, Default)]
#[allow(dead_code, reason = "retries and hash policies fill it in")]
pub(crate) struct PickKey<'a> {
    /// What the route's hash policies make of the request; `None`: a random one. Ring hash and Maglev choose by it.
    pub(crate) hash: Option<u64>,
    /// `metadata_match`: the subset.
    pub(crate) metadata: Option<&'a MetadataMatch>,
    /// Endpoints that were tried already (`previous_hosts`): another one is taken, where one turns up within
    /// `attempts_max` further picks.
    pub(crate) avoid: &'a [EndpointAddress],
    /// `host_selection_retry_max_attempts`; 0 counts as Envoy's default of 1 where there is something to avoid.
    pub(crate) attempts_max: u32,
    /// Priorities that were tried already (`previous_priorities`): load goes to the others, while one of them can serve.
    pub(crate) avoid_priorities: &'a [u32],
    /// Whose circuit breakers the request counts for.
    pub(crate) priority: RoutingPriority,
    /// Whom servers are told, and connections are kept for (`auto_sni`).
    pub(crate) server_name: Option<&'a Arc<str>>,
    /// Who the client is, for endpoints that are told (PROXY protocol).
    pub(crate) client: Option<Client>,
    /// The client's connection, which may have come with more to tell of it.
    pub(crate) connection: Option<&'a ConnectionInfo>,
    /// Where the client wanted to: the endpoint of an ORIGINAL_DST cluster.
    pub(crate) destination: Option<SocketAddr>,
    /// Not on a pooled connection.
    pub(crate) fresh: bool,
    /// The client wants another protocol on the connection, which is HTTP/1's to offer.
    pub(crate) upgrade: bool,
    /// Where the address and the priority of the endpoint are told, for those who want to know it even if connecting fails.
    pub(crate) told: Option<&'a OnceCell<(EndpointAddress, u32)>>,
}

impl PickKey<'_> {
    /// How many picks there are at most.
    pub(super) fn rounds(&self) -> u32 {
        if self.avoid.is_empty() { 1 } else { self.attempts_max.clamp(1, 64) + 1 }
    }
}
