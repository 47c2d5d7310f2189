//! Clusters whose endpoints are resolved through DNS (STRICT_DNS, LOGICAL_DNS): what to resolve, and the assignment that
//! the answers make.
//!
//! The answers come as an assignment of a name that no server uses ([`DnsTargets::name`]), so that such a cluster warms,
//! updates and is forgotten as an EDS cluster is.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use crate::{Assignment, AssignmentPolicy, Endpoint, Locality, Origin};

/// Addresses that one name may have; more are left out.
pub const DNS_ADDRESSES_MAX: usize = 256;

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsTargets {
    /// Of the assignment: the cluster's name and a digest of what is to be resolved, so that other targets are another
    /// assignment.
    pub name: Arc<str>,
    pub origin: Arc<Origin>,
    pub localities: Vec<DnsLocality>,
    pub policy: AssignmentPolicy,
    /// LOGICAL_DNS: all addresses of a name are one endpoint; the first one that answers counts.
    pub logical: bool,
    pub options: DnsOptions,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsLocality {
    /// Without endpoints.
    pub place: Locality,
    pub endpoints: Vec<DnsEndpoint>,
}

/// A name, and what its endpoints are but for the address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsEndpoint {
    /// A name, or an IP address as text.
    pub host: Arc<str>,
    pub template: Endpoint,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DnsOptions {
    /// `dns_refresh_rate`: 5 s unless set.
    pub refresh: Duration,
    pub refresh_min: Duration,
    pub jitter: Duration,
    /// `dns_failure_refresh_rate`: base and maximum; `refresh` unless set.
    pub failure_refresh: Option<(Duration, Duration)>,
    pub respect_ttl: bool,
    pub family: DnsFamily,
    /// `None`: the bootstrap's, or the system's.
    pub resolver: Option<DnsResolver>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum DnsFamily {
    /// IPv6, and IPv4 where there is none.
    Auto,
    V4Only,
    V6Only,
    /// IPv4, and IPv6 where there is none.
    V4Preferred,
    All,
}

/// `typed_dns_resolver_config` and its predecessors.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Default)]
pub struct DnsResolver {
    /// Empty: those of `/etc/resolv.conf`.
    pub servers: Vec<SocketAddr>,
    pub use_tcp: bool,
    pub no_default_search_domain: bool,
    pub timeout: Option<Duration>,
    pub tries: Option<u32>,
}

impl DnsTargets {
    /// Sets the name by the content.
    #[must_use]
    pub fn named(mut self, cluster: &str) -> DnsTargets {
        let mut digest = DefaultHasher::new();
        format!("{:?} {:?} {}", self.localities, self.options, self.logical).hash(&mut digest);
        self.name = format!("dns://{cluster}#{:016x}", digest.finish()).into();
        self
    }

    pub fn endpoints(&self) -> impl Iterator<Item = &DnsEndpoint> {
        self.localities.iter().flat_map(|locality| &locality.endpoints)
    }

    /// The assignment of these answers, one list for each of [`DnsTargets::endpoints`].
    #[must_use]
    pub fn assignment(&self, answers: &[Vec<IpAddr>]) -> Assignment {
        let mut answers = answers.iter();
        let localities = self.localities.iter().map(|locality| {
            let mut place = locality.place.without_endpoints();
            for target in &locality.endpoints {
                let addresses = answers.next().map(Vec::as_slice).unwrap_or_default();
                let addresses: Vec<SocketAddr> = addresses
                    .iter()
                    .take(DNS_ADDRESSES_MAX)
                    .map(|ip| SocketAddr::new(*ip, target.template.address.port()))
                    .collect();
                place.endpoints.extend(target.resolved(&addresses, self.logical));
            }
            place
        });
        let mut localities: Vec<Locality> = localities.collect();
        forget_repeated(&mut localities);
        Assignment { name: Arc::clone(&self.name), origin: Arc::clone(&self.origin), localities, policy: self.policy }
    }
}

/// An address is one endpoint, whoever else names it.
fn forget_repeated(localities: &mut [Locality]) {
    let mut seen = std::collections::HashSet::new();
    for locality in localities {
        locality.endpoints.retain(|endpoint| seen.insert(endpoint.address.clone()));
    }
}

impl DnsEndpoint {
    fn resolved(&self, addresses: &[SocketAddr], logical: bool) -> Vec<Endpoint> {
        let hostname = match &self.template.hostname {
            name if name.is_empty() => Arc::clone(&self.host),
            name => Arc::clone(name),
        };
        let of = |address: SocketAddr, more: &[SocketAddr]| Endpoint {
            address: address.into(),
            hostname: Arc::clone(&hostname),
            additional_addresses: more.into(),
            ..self.template.clone()
        };
        match addresses {
            [first, rest @ ..] if logical => vec![of(*first, rest)],
            addresses => addresses.iter().map(|address| of(*address, &[])).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Health, Source};

    fn targets(logical: bool, hosts: &[&str]) -> DnsTargets {
        let origin =
            Arc::new(Origin { source: Source::Static, name: "c".into(), version: "".into(), object: "".into() });
        let template = Endpoint {
            address: SocketAddr::from(([0, 0, 0, 0], 80)).into(),
            hostname: "".into(),
            weight: 3,
            health: Health::Healthy,
            metadata: None,
            additional_addresses: Box::default(),
            health_check: None,
            proxy_entries: Box::default(),
        };
        let place = Locality {
            metadata: None,
            region: String::new(),
            zone: "z".into(),
            sub_zone: String::new(),
            priority: 1,
            weight: None,
            endpoints: Vec::new(),
        };
        let endpoints =
            hosts.iter().map(|host| DnsEndpoint { host: Arc::from(*host), template: template.clone() }).collect();
        let options = DnsOptions {
            refresh: Duration::from_secs(5),
            refresh_min: Duration::ZERO,
            jitter: Duration::ZERO,
            failure_refresh: None,
            respect_ttl: false,
            family: DnsFamily::Auto,
            resolver: None,
        };
        let targets = DnsTargets {
            name: "".into(),
            origin,
            localities: vec![DnsLocality { place, endpoints }],
            policy: AssignmentPolicy::default(),
            logical,
            options,
        };
        targets.named("c")
    }

    fn addresses(assignment: &Assignment) -> Vec<(String, String, usize)> {
        let of = |endpoint: &Endpoint| {
            (endpoint.address.to_string(), endpoint.hostname.to_string(), endpoint.additional_addresses.len())
        };
        assignment.endpoints().map(of).collect()
    }

    #[test]
    fn every_address_is_an_endpoint_or_all_are_one() {
        let answers = [vec!["10.0.0.1".parse().unwrap(), "::1".parse().unwrap()], vec!["10.0.0.1".parse().unwrap()]];
        let strict = targets(false, &["a.test", "b.test"]).assignment(&answers);
        let of = |address: &str, more| (address.to_owned(), "a.test".to_owned(), more);
        assert_eq!(addresses(&strict), [of("10.0.0.1:80", 0), of("[::1]:80", 0)]);
        assert_eq!((strict.localities[0].priority, strict.localities[0].endpoints[0].weight), (1, 3));
        let logical = targets(true, &["a.test"]).assignment(&answers[..1]);
        assert_eq!(addresses(&logical), [of("10.0.0.1:80", 1)]);
        assert!(addresses(&targets(true, &["a.test"]).assignment(&[vec![]])).is_empty());
    }

    #[test]
    fn answers_are_bounded() {
        let many = (0..1000).map(|n: u32| IpAddr::from(n.to_be_bytes())).collect();
        assert_eq!(targets(false, &["a.test"]).assignment(&[many]).endpoints().count(), DNS_ADDRESSES_MAX);
    }

    #[test]
    fn other_targets_are_another_assignment() {
        let (a, b) = (targets(false, &["a.test"]), targets(false, &["b.test"]));
        assert_ne!(a.name, b.name);
        assert_eq!(a.name, targets(false, &["a.test"]).name);
    }
}
