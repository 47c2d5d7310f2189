//! From a request's head to its route: by host (exact, suffix, prefix, any), then the first route that matches.

use std::collections::HashMap;
use std::sync::Arc;

use foldhash::fast::RandomState;
use outrigger_http::{HeaderName, Method, RequestHead};

use crate::{PathMatcher, Route, RouteConfig, VirtualHost};

/// The compiled index of a route configuration's virtual hosts.
#[derive(Debug, PartialEq, Eq, Default)]
pub struct RouteTable {
    exact: HashMap<Vec<u8>, usize, RandomState>,
    /// `*.b`, longest first: the suffix with its dot.
    suffixes: Vec<(Vec<u8>, usize)>,
    /// `a.*`, longest first: the prefix with its dot.
    prefixes: Vec<(Vec<u8>, usize)>,
    any: Option<usize>,
}

/// A host longer than this is no DNS name and matches only `*`.
const HOST_MAX: usize = 256;

impl RouteTable {
    /// Indexes the domains; the error names a domain that two virtual hosts share.
    pub fn compile(virtual_hosts: &[Arc<VirtualHost>]) -> Result<RouteTable, String> {
        let mut table = RouteTable::default();
        for (index, host) in virtual_hosts.iter().enumerate() {
            for domain in &host.domains {
                let domain = domain.to_ascii_lowercase();
                let taken = if domain == "*" {
                    table.any.replace(index).is_some()
                } else if let Some(suffix) = domain.strip_prefix('*') {
                    push(&mut table.suffixes, suffix, index)
                } else if let Some(prefix) = domain.strip_suffix('*') {
                    push(&mut table.prefixes, prefix, index)
                } else {
                    table.exact.insert(domain.clone().into_bytes(), index).is_some()
                };
                if taken {
                    return Err(domain);
                }
            }
        }
        table.suffixes.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        table.prefixes.sort_by_key(|(text, _)| std::cmp::Reverse(text.len()));
        Ok(table)
    }

    /// The index of the virtual host for an authority.
    fn host(&self, authority: &[u8], ignore_port: bool) -> Option<usize> {
        // One virtual host for all is the commonest configuration: nothing to look up.
        if self.exact.is_empty() && self.suffixes.is_empty() && self.prefixes.is_empty() {
            return self.any;
        }
        let mut buffer = [0; HOST_MAX];
        let host = if ignore_port { without_port(authority) } else { authority };
        let Some(lower) = buffer.get_mut(..host.len()) else { return self.any };
        lower.copy_from_slice(host);
        lower.make_ascii_lowercase();
        if let Some(index) = self.exact.get(&lower[..]) {
            return Some(*index);
        }
        // A wildcard stands for at least one byte.
        let suffix = self.suffixes.iter().find(|(text, _)| lower.len() > text.len() && lower.ends_with(text));
        let found = suffix
            .or_else(|| self.prefixes.iter().find(|(text, _)| lower.len() > text.len() && lower.starts_with(text)));
        found.map(|(_, index)| *index).or(self.any)
    }

    /// The virtual host and the route for a request; `random` is the request's. Allocates nothing.
    #[must_use]
    pub fn select<'a>(
        &self,
        virtual_hosts: &'a [Arc<VirtualHost>],
        head: &RequestHead,
        ignore_port: bool,
        random: u64,
    ) -> (Option<&'a Arc<VirtualHost>>, Option<&'a Arc<Route>>) {
        let (host, route) = self.places(virtual_hosts, head, ignore_port, random);
        let host = host.and_then(|host| virtual_hosts.get(host));
        (host, host.zip(route).and_then(|(host, route)| host.routes.get(route)))
    }

    fn places(
        &self,
        virtual_hosts: &[Arc<VirtualHost>],
        head: &RequestHead,
        ignore_port: bool,
        random: u64,
    ) -> (Option<usize>, Option<usize>) {
        let Some(index) = self.host(&head.authority, ignore_port) else { return (None, None) };
        let Some(host) = virtual_hosts.get(index) else { return (None, None) };
        let path = head.path_only();
        (Some(index), host.routes.iter().position(|route| route.matches(head, path, random)))
    }
}

impl RouteConfig {
    /// The places of a request's virtual host in the configuration, and of its route there.
    #[must_use]
    pub fn select(&self, head: &RequestHead, random: u64) -> (Option<usize>, Option<usize>) {
        self.table.places(&self.virtual_hosts, head, self.ignore_port_in_host_matching, random)
    }
}

/// Adds a wildcard; whether it was there already.
fn push(list: &mut Vec<(Vec<u8>, usize)>, text: &str, index: usize) -> bool {
    let taken = list.iter().any(|(entry, _)| entry == text.as_bytes());
    list.push((text.as_bytes().to_vec(), index));
    taken
}

/// The authority without `:port`; brackets of an IPv6 literal stay.
fn without_port(authority: &[u8]) -> &[u8] {
    match authority.iter().rposition(|byte| *byte == b':') {
        Some(at) if !authority[at..].contains(&b']') && authority[at + 1..].iter().all(u8::is_ascii_digit) => {
            &authority[..at]
        }
        _ => authority,
    }
}

impl Route {
    pub(crate) fn path_matches(&self, head: &RequestHead, path: &[u8]) -> bool {
        match &self.path {
            PathMatcher::Connect => head.method == Method::Connect,
            matcher => matcher.matches(path, !self.case_sensitive),
        }
    }

    fn matches(&self, head: &RequestHead, path: &[u8], random: u64) -> bool {
        self.path_matches(head, path)
            && self.headers.iter().all(|matcher| matcher.matches(head))
            && (self.query.is_empty() || self.query.iter().all(|matcher| matcher.matches(head.query())))
            && (self.cookies.is_empty() || self.cookies.iter().all(|matcher| matcher.matches(&head.headers)))
            && (!self.grpc_only || is_grpc(head))
            && self.fraction.is_none_or(|fraction| fraction.holds(random))
    }
}

pub(crate) fn is_grpc(head: &RequestHead) -> bool {
    head.headers.get(&HeaderName::CONTENT_TYPE).is_some_and(|value| {
        value.strip_prefix(b"application/grpc").is_some_and(|rest| rest.is_empty() || rest[0] == b'+')
    })
}

#[cfg(test)]
#[path = "select/tests.rs"]
mod tests;
