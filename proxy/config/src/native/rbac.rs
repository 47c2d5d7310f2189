//! Role-based access control (`envoy.config.rbac.v3`), for HTTP and for connections.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use outrigger_attributes::Expression;
use outrigger_http::{StreamInfo, StreamState};

use crate::expression::holds;
use crate::{Cidr, HeaderMatcher, Input, MatchTree, MetadataMatcher, StringMatcher, UriTemplate};

/// The filter: enforced rules, and rules that are only watched.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RbacFilter {
    /// `None`: nothing is refused.
    pub rules: Option<RbacEngine>,
    pub shadow: Option<RbacEngine>,
    /// Before the names of the statistics.
    pub stat_prefix: Arc<str>,
    /// Before those of the shadow rules, and before their keys in the metadata.
    pub shadow_stat_prefix: Arc<str>,
}

/// The network filter (`envoy.extensions.filters.network.rbac.v3.RBAC`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct NetworkRbac {
    pub filter: RbacFilter,
    /// `enforcement_type: CONTINUOUS`: judged whenever the client has sent something, not once.
    pub continuous: bool,
    /// `delay_deny`: what is refused stays open for so long.
    pub delay_deny: Option<Duration>,
}

/// What decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RbacEngine {
    Rules(RbacRules),
    Matcher(RbacMatcher),
}

/// `matcher`: what no action is found for is refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbacMatcher {
    tree: MatchTree<RbacMatch>,
    /// One of its actions is to log.
    logs: bool,
}

/// `envoy.config.rbac.v3.Action`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbacMatch {
    pub name: Arc<str>,
    pub action: RbacAction,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbacRules {
    pub action: RbacAction,
    /// By name.
    pub policies: Vec<RbacPolicy>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RbacAction {
    /// What matches a policy is let through, nothing else.
    Allow,
    /// What matches a policy is refused, nothing else.
    Deny,
    /// Nothing is refused; what matches is marked for the access log.
    Log,
}

/// Matches where one of its permissions and one of its principals does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RbacPolicy {
    pub name: Arc<str>,
    pub permissions: Vec<Permission>,
    pub principals: Vec<Principal>,
    /// Must hold as well.
    pub condition: Option<Expression>,
}

/// What is done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Permission {
    Any,
    And(Vec<Permission>),
    Or(Vec<Permission>),
    Not(Box<Permission>),
    Header(HeaderMatcher),
    UrlPath(StringMatcher),
    UriTemplate(UriTemplate),
    DestinationIp(Cidr),
    DestinationPort(u16),
    /// `start..end`.
    DestinationPorts(u32, u32),
    ServerName(StringMatcher),
    Metadata(MetadataMatcher),
    RouteMetadata(MetadataMatcher),
}

/// Who does it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Principal {
    Any,
    And(Vec<Principal>),
    Or(Vec<Principal>),
    Not(Box<Principal>),
    /// By a URI or DNS name of the client's certificate, or its subject; `None`: any checked certificate.
    Authenticated(Option<StringMatcher>),
    /// The peer of the socket.
    DirectRemoteIp(Cidr),
    /// The connection's peer, as the PROXY protocol tells it.
    SourceIp(Cidr),
    /// The client, as far as `x-forwarded-for` is trusted.
    RemoteIp(Cidr),
    Header(HeaderMatcher),
    UrlPath(StringMatcher),
    Metadata(MetadataMatcher),
    RouteMetadata(MetadataMatcher),
}

/// What rules say of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RbacVerdict<'r> {
    pub allowed: bool,
    /// The policy that matched.
    pub policy: Option<&'r Arc<str>>,
    /// What the access log is told where something may be there to be logged.
    pub logged: Option<bool>,
}

impl NetworkRbac {
    /// Whether the rules depend on what filters note about a connection, which may come with its bytes.
    #[must_use]
    pub fn reads_metadata(&self) -> bool {
        let both = [&self.filter.rules, &self.filter.shadow];
        both.into_iter().flatten().any(RbacEngine::reads_metadata)
    }
}

impl RbacVerdict<'_> {
    /// The details of what was refused. They go into logs that are split at spaces.
    #[must_use]
    pub fn details(&self) -> String {
        let name = self.policy.map_or("none", |name| name);
        let name: String = name.chars().map(|c| if c.is_whitespace() { '_' } else { c }).collect();
        format!("rbac_access_denied_matched_policy[{name}]")
    }
}

impl RbacEngine {
    #[must_use]
    pub fn judge(&self, state: &StreamState) -> RbacVerdict<'_> {
        match self {
            RbacEngine::Rules(rules) => rules.judge(state),
            RbacEngine::Matcher(matcher) => matcher.judge(state),
        }
    }

    fn reads_metadata(&self) -> bool {
        match self {
            RbacEngine::Rules(rules) => rules.reads_metadata(),
            RbacEngine::Matcher(matcher) => matcher.tree.reads(|input| matches!(input, Input::FilterState(_))),
        }
    }
}

impl RbacMatcher {
    #[must_use]
    pub fn new(tree: MatchTree<RbacMatch>) -> RbacMatcher {
        let logs = tree.actions().iter().any(|found| found.action == RbacAction::Log);
        RbacMatcher { tree, logs }
    }

    fn judge(&self, state: &StreamState) -> RbacVerdict<'_> {
        let Some(found) = self.tree.find(state) else {
            return RbacVerdict { allowed: false, policy: None, logged: None };
        };
        RbacVerdict {
            allowed: found.action != RbacAction::Deny,
            policy: Some(&found.name),
            logged: self.logs.then_some(found.action == RbacAction::Log),
        }
    }
}

impl RbacRules {
    fn reads_metadata(&self) -> bool {
        self.policies.iter().any(|policy| {
            policy.permissions.iter().any(Permission::reads_metadata)
                || policy.principals.iter().any(Principal::reads_metadata)
                || policy.condition.as_ref().is_some_and(|condition| condition.reads("metadata"))
        })
    }

    #[must_use]
    pub fn judge(&self, state: &StreamState) -> RbacVerdict<'_> {
        let matches = |policy: &&RbacPolicy| {
            policy.permissions.iter().any(|permission| permission.matches(state))
                && policy.principals.iter().any(|principal| principal.matches(state))
                && policy.condition.as_ref().is_none_or(|condition| holds(condition, state))
        };
        let policy = self.policies.iter().find(matches).map(|policy| &policy.name);
        let allowed = match self.action {
            RbacAction::Allow => policy.is_some(),
            RbacAction::Deny => policy.is_none(),
            RbacAction::Log => true,
        };
        RbacVerdict { allowed, policy, logged: (self.action == RbacAction::Log).then_some(policy.is_some()) }
    }
}

impl Permission {
    fn matches(&self, state: &StreamState) -> bool {
        let local = state.info.downstream.local;
        match self {
            Permission::Any => true,
            Permission::And(all) => all.iter().all(|one| one.matches(state)),
            Permission::Or(any) => any.iter().any(|one| one.matches(state)),
            Permission::Not(not) => !not.matches(state),
            Permission::Header(matcher) => matcher.matches(&state.request),
            Permission::UrlPath(matcher) => matcher.matches(url_path(state)),
            Permission::UriTemplate(template) => template.matches(url_path(state)),
            Permission::DestinationIp(cidr) => local.is_some_and(|local| cidr.contains(local.ip())),
            Permission::DestinationPort(port) => local.is_some_and(|local| local.port() == *port),
            Permission::DestinationPorts(start, end) => {
                local.is_some_and(|local| (*start..*end).contains(&u32::from(local.port())))
            }
            Permission::ServerName(matcher) => {
                matcher.matches(state.info.downstream.requested_server_name().unwrap_or_default().as_bytes())
            }
            Permission::Metadata(matcher) => matcher.matches(state.info.metadata.as_deref()),
            Permission::RouteMetadata(matcher) => of_route(matcher, &state.info),
        }
    }

    fn reads_metadata(&self) -> bool {
        match self {
            Permission::And(rules) | Permission::Or(rules) => rules.iter().any(Permission::reads_metadata),
            Permission::Not(not) => not.reads_metadata(),
            other => matches!(other, Permission::Metadata(_)),
        }
    }
}

impl Principal {
    fn matches(&self, state: &StreamState) -> bool {
        let info = &state.info;
        match self {
            Principal::Any => true,
            Principal::And(all) => all.iter().all(|one| one.matches(state)),
            Principal::Or(any) => any.iter().any(|one| one.matches(state)),
            Principal::Not(not) => !not.matches(state),
            Principal::Authenticated(matcher) => authenticated(info, matcher.as_ref()),
            Principal::DirectRemoteIp(cidr) => {
                info.downstream.direct_remote().is_some_and(|direct| cidr.contains(direct.ip()))
            }
            Principal::SourceIp(cidr) => remote(info).is_some_and(|ip| cidr.contains(ip)),
            Principal::RemoteIp(cidr) => {
                info.downstream_trusted_ip.or_else(|| remote(info)).is_some_and(|ip| cidr.contains(ip))
            }
            Principal::Header(matcher) => matcher.matches(&state.request),
            Principal::UrlPath(matcher) => matcher.matches(url_path(state)),
            Principal::Metadata(matcher) => matcher.matches(info.metadata.as_deref()),
            Principal::RouteMetadata(matcher) => of_route(matcher, info),
        }
    }

    fn reads_metadata(&self) -> bool {
        match self {
            Principal::And(all) | Principal::Or(all) => all.iter().any(Principal::reads_metadata),
            Principal::Not(not) => not.reads_metadata(),
            other => matches!(other, Principal::Metadata(_)),
        }
    }
}

fn remote(info: &StreamInfo) -> Option<IpAddr> {
    info.downstream.remote.map(|address| address.ip())
}

/// Where there is no route nothing matches, inverted or not.
fn of_route(matcher: &MetadataMatcher, info: &StreamInfo) -> bool {
    info.routed && matcher.matches_in(info.route_metadata.as_deref())
}

/// The path without query and fragment.
fn url_path(state: &StreamState) -> &[u8] {
    state.request.path_only().split(|byte| *byte == b'#').next().unwrap_or_default()
}

/// A certificate that wasn't checked says nothing about who the client is.
fn authenticated(info: &StreamInfo, matcher: Option<&StringMatcher>) -> bool {
    let Some(tls) = info.downstream.tls.as_ref().filter(|tls| tls.peer_validated) else { return false };
    let Some(peer) = &tls.peer else { return false };
    let Some(matcher) = matcher else { return true };
    let names = peer.uri_sans.iter().chain(&peer.dns_sans).chain([&peer.subject]);
    names.into_iter().any(|name| matcher.matches(name.as_bytes()))
}

#[cfg(test)]
#[path = "rbac/tests.rs"]
mod tests;
