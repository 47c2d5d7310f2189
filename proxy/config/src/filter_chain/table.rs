//! Filter chains by what they match, level by level in Envoy's order. Each level takes the most specific entry and never
//! comes back: a connection whose best entry has nothing for it at a later level gets the default chain.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::Hash;
use std::net::IpAddr;

use super::{ConnectionFacts, FilterChain, FilterChainMatch, SourceType};
use crate::Cidr;
use crate::cidr::masked;

/// A listener may not have more combinations of what its chains match.
const ENTRIES_MAX: usize = 1 << 20;

/// Finds the chain of a connection by its facts.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct FilterChainTable {
    /// The one chain that takes everything.
    only: Option<usize>,
    default: Option<usize>,
    ports: Keyed<u16, Destinations>,
}

/// Why a table cannot be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterChainClash {
    #[error("filter chains {0} and {1} match the same connections")]
    Same(usize, usize),
    #[error("the filter chains match more than {ENTRIES_MAX} combinations")]
    TooMany,
}

type Destinations = Prefixes<ServerNames>;
type ServerNames = Keyed<Box<str>, Transports>;
type Transports = Keyed<Box<str>, Protocols>;
type Protocols = Keyed<Box<[u8]>, DirectSources>;
type DirectSources = Prefixes<SourceTypes>;
type Sources = Prefixes<SourcePorts>;
type SourcePorts = Keyed<u16, Option<usize>>;

/// A level of exact keys, and what applies where none does.
#[derive(Debug, PartialEq, Eq)]
struct Keyed<K: Hash + Eq, T> {
    exact: HashMap<K, T>,
    any: Option<Box<T>>,
}

/// A level of address prefixes, the longest first.
#[derive(Debug, PartialEq, Eq)]
struct Prefixes<T> {
    v4: Vec<(u8, HashMap<IpAddr, T>)>,
    v6: Vec<(u8, HashMap<IpAddr, T>)>,
    any: Option<Box<T>>,
}

#[derive(Debug, Default, PartialEq, Eq)]
struct SourceTypes {
    any: Option<Box<Sources>>,
    local: Option<Box<Sources>>,
    external: Option<Box<Sources>>,
}

impl FilterChainTable {
    /// Of the chains of a listener; `default`: the index of the default chain among them.
    pub fn new(chains: &[FilterChain], default: Option<usize>) -> Result<FilterChainTable, FilterChainClash> {
        let mut table = FilterChainTable { default, ..FilterChainTable::default() };
        let mut entries = 0_usize;
        for (index, chain) in chains.iter().enumerate() {
            if default == Some(index) {
                continue;
            }
            entries = entries.saturating_add(combinations(&chain.criteria));
            if entries > ENTRIES_MAX {
                return Err(FilterChainClash::TooMany);
            }
            table.insert(&chain.criteria, index)?;
        }
        table.only = match chains {
            [_] if default.is_some() => default,
            [chain] if chain.criteria.is_empty() => Some(0),
            _ => None,
        };
        Ok(table)
    }

    /// The index of a connection's chain; `None`: it is closed.
    #[must_use]
    pub fn find(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        self.only.or_else(|| self.matching(facts)).or(self.default)
    }

    /// The index of the default chain.
    #[must_use]
    pub fn default_chain(&self) -> Option<usize> {
        self.default
    }

    fn insert(&mut self, criteria: &FilterChainMatch, index: usize) -> Result<(), FilterChainClash> {
        let mut clash = None;
        let port = criteria.destination_port;
        let transport = criteria.transport_protocol.clone();
        let mut leaf = |leaf: &mut Option<usize>| match leaf {
            Some(other) if *other != index => clash = Some(*other),
            _ => *leaf = Some(index),
        };
        let mut sources = |sources: &mut Sources| {
            sources.each(&criteria.source_prefixes, &mut |ports| ports.each(&criteria.source_ports, &mut leaf));
        };
        let mut direct = |direct: &mut DirectSources| {
            direct.each(&criteria.direct_source_prefixes, &mut |types| sources(types.of(criteria.source_type)));
        };
        let mut transports = |transports: &mut Transports| {
            transports.each(transport.as_slice(), &mut |protocols| {
                protocols.each(&criteria.application_protocols, &mut direct);
            });
        };
        self.ports.each(port.as_slice(), &mut |destinations| {
            destinations.each(&criteria.destination_prefixes, &mut |names| {
                names.each(&criteria.server_names, &mut transports);
            });
        });
        clash.map_or(Ok(()), |other| Err(FilterChainClash::Same(other, index)))
    }

    fn matching(&self, facts: &ConnectionFacts<'_>) -> Option<usize> {
        let ip = |address: Option<std::net::SocketAddr>| address.map(|address| address.ip().to_canonical());
        let port = facts.destination.map(|destination| destination.port());
        let names = self.ports.get(port.as_ref())?.get(ip(facts.destination))?;
        let protocols = names.by_server_name(facts.server_name)?.get(Some(facts.transport_protocol))?;
        let direct = protocols.by_first(facts.application_protocols)?;
        let sources = direct.get(ip(facts.direct_source))?.get(facts)?;
        let port = facts.source.map(|source| source.port());
        *sources.get(ip(facts.source))?.get(port.as_ref())?
    }
}

fn combinations(criteria: &FilterChainMatch) -> usize {
    [
        criteria.destination_prefixes.len(),
        criteria.server_names.len(),
        criteria.application_protocols.len(),
        criteria.direct_source_prefixes.len(),
        criteria.source_prefixes.len(),
        criteria.source_ports.len(),
    ]
    .into_iter()
    .fold(1, |product, length| product.saturating_mul(length.max(1)))
}

impl<K: Hash + Eq, T> Default for Keyed<K, T> {
    fn default() -> Keyed<K, T> {
        Keyed { exact: HashMap::new(), any: None }
    }
}

impl<K: Hash + Eq + Clone, T: Default> Keyed<K, T> {
    /// The entries of these keys, made where they are missing; of no key where there is none.
    fn each(&mut self, keys: &[K], visit: &mut impl FnMut(&mut T)) {
        if keys.is_empty() {
            visit(self.any.get_or_insert_default());
        }
        for key in keys {
            visit(self.exact.entry(key.clone()).or_default());
        }
    }
}

impl<K: Hash + Eq, T> Keyed<K, T> {
    fn get<Q: Hash + Eq + ?Sized>(&self, key: Option<&Q>) -> Option<&T>
    where
        K: Borrow<Q>,
    {
        // Most levels of most tables ask for nothing.
        let exact = if self.exact.is_empty() { None } else { key.and_then(|key| self.exact.get(key)) };
        exact.or(self.any.as_deref())
    }
}

impl ServerNames {
    /// The name itself, then its suffixes from the longest.
    fn by_server_name(&self, name: &str) -> Option<&Transports> {
        if self.exact.is_empty() || name.is_empty() {
            return self.any.as_deref();
        }
        if let Some(found) = self.exact.get(name) {
            return Some(found);
        }
        let dots = name.bytes().enumerate().skip(1).filter(|(_, byte)| *byte == b'.').map(|(at, _)| at);
        let suffixes = dots.map(|at| &name[at..]).filter(|suffix| suffix.len() > 1);
        suffixes.into_iter().find_map(|suffix| self.exact.get(suffix)).or(self.any.as_deref())
    }
}

impl Protocols {
    /// The first of the client's protocols that there is an entry for.
    fn by_first(&self, offered: &[Box<[u8]>]) -> Option<&DirectSources> {
        let exact = offered.iter().find_map(|protocol| self.exact.get(&**protocol));
        exact.or(self.any.as_deref())
    }
}

impl<T> Default for Prefixes<T> {
    fn default() -> Prefixes<T> {
        Prefixes { v4: Vec::new(), v6: Vec::new(), any: None }
    }
}

impl<T: Default> Prefixes<T> {
    fn each(&mut self, prefixes: &[Cidr], visit: &mut impl FnMut(&mut T)) {
        if prefixes.is_empty() {
            visit(self.any.get_or_insert_default());
        }
        for prefix in prefixes {
            let lengths = if prefix.address().is_ipv4() { &mut self.v4 } else { &mut self.v6 };
            let at = lengths.partition_point(|(len, _)| *len > prefix.prefix_len());
            if lengths.get(at).is_none_or(|(len, _)| *len != prefix.prefix_len()) {
                lengths.insert(at, (prefix.prefix_len(), HashMap::new()));
            }
            if let Some((_, entries)) = lengths.get_mut(at) {
                visit(entries.entry(prefix.address()).or_default());
            }
        }
    }
}

impl<T> Prefixes<T> {
    /// The longest prefix of an address; where it has none, or there is no address, what asks for none.
    fn get(&self, address: Option<IpAddr>) -> Option<&T> {
        let lengths = match address {
            Some(IpAddr::V4(_)) => &self.v4,
            Some(IpAddr::V6(_)) => &self.v6,
            None => return self.any.as_deref(),
        };
        let exact = lengths.iter().find_map(|(len, entries)| entries.get(&masked(address?, *len)?));
        exact.or(self.any.as_deref())
    }
}

impl SourceTypes {
    fn of(&mut self, source_type: SourceType) -> &mut Sources {
        match source_type {
            SourceType::Any => self.any.get_or_insert_default(),
            SourceType::SameIpOrLoopback => self.local.get_or_insert_default(),
            SourceType::External => self.external.get_or_insert_default(),
        }
    }

    fn get(&self, facts: &ConnectionFacts<'_>) -> Option<&Sources> {
        if self.local.is_none() && self.external.is_none() {
            return self.any.as_deref();
        }
        let own = if facts.is_local() { &self.local } else { &self.external };
        own.as_deref().or(self.any.as_deref())
    }
}

#[cfg(test)]
mod tests;
