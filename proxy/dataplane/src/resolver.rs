//! Names to addresses, with hickory. Used on the control thread.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::IpAddr;
use std::rc::Rc;
use std::time::Duration;

use hickory_resolver::TokioResolver;
use hickory_resolver::config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolveHosts, ResolverConfig};
use hickory_resolver::net::runtime::TokioRuntimeProvider;
use outrigger_config::{DNS_ADDRESSES_MAX, DnsFamily, DnsResolver};

/// What a name came to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// In the order of the answer, each once; may be empty where the name exists without addresses.
    pub addresses: Vec<IpAddr>,
    /// The least of the records.
    pub ttl: Duration,
}

/// Resolvers by what they ask. They keep no answers: clusters have their own times for asking again.
#[derive(Debug, Default)]
pub struct Resolvers(RefCell<HashMap<(DnsResolver, DnsFamily), Rc<TokioResolver>>>);

/// More kinds of resolvers than anybody configures; beyond it the known ones are made anew.
const RESOLVERS_MAX: usize = 64;

impl Resolvers {
    /// Resolves a name, or takes an IP address as it is.
    pub async fn resolve(&self, config: &DnsResolver, family: DnsFamily, host: &str) -> Result<Resolved, String> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(Resolved { addresses: vec![address], ttl: Duration::MAX });
        }
        let resolver = self.get(config, family)?;
        let host = match config.no_default_search_domain && !host.ends_with('.') {
            true => format!("{host}."),
            false => host.to_owned(),
        };
        match resolver.lookup_ip(host).await {
            Ok(found) => {
                let mut addresses: Vec<IpAddr> = Vec::new();
                for address in found.iter().take(DNS_ADDRESSES_MAX) {
                    if !addresses.contains(&address) {
                        addresses.push(address);
                    }
                }
                let ttl = found.as_lookup().answers().iter().map(|record| record.ttl).min().unwrap_or(0);
                Ok(Resolved { addresses, ttl: Duration::from_secs(ttl.into()) })
            }
            // The server has said so: there is no such name, or it has no address.
            Err(error) if error.is_no_records_found() => Ok(Resolved { addresses: Vec::new(), ttl: Duration::ZERO }),
            Err(error) => Err(error.to_string()),
        }
    }

    fn get(&self, config: &DnsResolver, family: DnsFamily) -> Result<Rc<TokioResolver>, String> {
        let mut known = self.0.borrow_mut();
        let key = (config.clone(), family);
        if let Some(resolver) = known.get(&key) {
            return Ok(resolver.clone());
        }
        if known.len() >= RESOLVERS_MAX {
            known.clear();
        }
        let resolver = Rc::new(build(config, family)?);
        known.insert(key, resolver.clone());
        Ok(resolver)
    }
}

fn build(config: &DnsResolver, family: DnsFamily) -> Result<TokioResolver, String> {
    let provider = TokioRuntimeProvider::default();
    let mut builder = if config.servers.is_empty() {
        let system = hickory_resolver::system_conf::read_system_conf();
        let (mut servers, options) = system.map_err(|error| format!("cannot read /etc/resolv.conf: {error}"))?;
        if config.use_tcp {
            servers.name_servers.iter_mut().for_each(|server| server.connections = vec![ConnectionConfig::tcp()]);
        }
        let mut builder = TokioResolver::builder_with_config(servers, provider);
        *builder.options_mut() = options;
        builder
    } else {
        let mut servers = ResolverConfig::default();
        for address in &config.servers {
            let mut server = NameServerConfig::udp_and_tcp(address.ip());
            if config.use_tcp {
                server.connections = vec![ConnectionConfig::tcp()];
            }
            server.connections.iter_mut().for_each(|connection| connection.port = address.port());
            servers.name_servers.push(server);
        }
        TokioResolver::builder_with_config(servers, provider)
    };
    let options = builder.options_mut();
    options.ip_strategy = match family {
        DnsFamily::Auto => LookupIpStrategy::Ipv6thenIpv4,
        DnsFamily::V4Only => LookupIpStrategy::Ipv4Only,
        DnsFamily::V6Only => LookupIpStrategy::Ipv6Only,
        DnsFamily::V4Preferred => LookupIpStrategy::Ipv4thenIpv6,
        DnsFamily::All => LookupIpStrategy::Ipv6AndIpv4,
    };
    options.cache_size = 0;
    options.use_hosts_file = ResolveHosts::Always;
    if let Some(timeout) = config.timeout {
        options.timeout = timeout;
    }
    if let Some(tries) = config.tries {
        // Those after the first one. (Within each of them hickory repeats its datagrams.)
        options.attempts = tries.saturating_sub(1) as usize;
    }
    builder.build().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_try_is_one_of_them() {
        for (tries, expected) in [(Some(1), 0), (Some(4), 3)] {
            let config =
                DnsResolver { servers: vec!["127.0.0.1:53".parse().unwrap()], tries, ..DnsResolver::default() };
            assert_eq!(build(&config, DnsFamily::Auto).unwrap().options().attempts, expected, "{tries:?}");
        }
    }
}
