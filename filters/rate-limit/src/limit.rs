//! One limit: which bucket a request belongs to.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use outrigger_filter_sdk::shared::UpdateError;
use outrigger_filter_sdk::{Headers, HostError, property};

use crate::bucket::{Left, Rate, Wait};
use crate::store::Store;

/// What a limit keeps apart.
#[derive(Clone, Debug, Hash, PartialEq, Eq)]
pub(crate) enum Key {
    /// Nothing: one bucket.
    All,
    Header {
        name: String,
        skip_missing: bool,
    },
    ClientAddress {
        ipv6_prefix: u8,
    },
}

/// A validated limit.
#[derive(Debug)]
pub(crate) struct Limit {
    pub(crate) name: String,
    pub(crate) key: Key,
    /// What the client is told: requests, seconds, bucket size.
    pub(crate) quota: (u64, u64, u64),
    pub(crate) rate: Rate,
    pub(crate) store: Store,
}

impl Limit {
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The hash of the request's key, `None` if the limit does not apply.
    pub(crate) fn key(&self, headers: Headers) -> Result<Option<u64>, HostError> {
        Ok(match &self.key {
            Key::All => Some(hash(&())),
            Key::Header { name, skip_missing } => match headers.get(name)? {
                Some(value) => Some(hash(&value)),
                None if *skip_missing => None,
                None => Some(hash(&())),
            },
            Key::ClientAddress { ipv6_prefix } => {
                let address = property::source_address()?.unwrap_or_default();
                Some(match host(&address) {
                    Some(address) => hash(&masked(address, *ipv6_prefix)),
                    // A Unix socket, or none at all: these clients are one.
                    None => hash(&address),
                })
            }
        })
    }

    pub(crate) fn peek(&self, key: u64, now: Duration) -> Result<Result<Left, Wait>, HostError> {
        self.store.peek(key, self.rate, now)
    }

    pub(crate) fn take(&self, key: u64, now: Duration) -> Result<Result<Left, Wait>, UpdateError> {
        self.store.take(key, self.rate, now)
    }
}

/// The same number for the same value in every worker, which is why its seed is no secret: whoever finds two values of
/// one hash makes them share a bucket and gains nothing.
pub(crate) fn hash<T: Hash>(value: &T) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

/// The address of `address:port`.
fn host(address: &[u8]) -> Option<IpAddr> {
    let text = str::from_utf8(address).ok()?;
    text.parse::<SocketAddr>().map(|address| address.ip()).or_else(|_| text.parse::<IpAddr>()).ok()
}

/// An IPv6 address without its host part; an IPv4 address in IPv6 clothes as what it is.
fn masked(address: IpAddr, ipv6_prefix: u8) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V6(address) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(ipv6_prefix.min(128))).unwrap_or(0);
            IpAddr::V6(Ipv6Addr::from_bits(address.to_bits() & mask))
        }
        address @ IpAddr::V4(_) => address,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses() {
        for (text, prefix, expected) in [
            ("10.1.2.3:55", 64, Some("10.1.2.3")),
            ("10.1.2.3", 64, Some("10.1.2.3")),
            ("[2001:db8:1:2:3:4:5:6]:80", 64, Some("2001:db8:1:2::")),
            ("[2001:db8:1:2:3:4:5:6]:80", 48, Some("2001:db8:1::")),
            ("[2001:db8:1:2:3:4:5:6]:80", 128, Some("2001:db8:1:2:3:4:5:6")),
            ("[2001:db8::1]:80", 1, Some("::")),
            ("[::ffff:10.1.2.3]:80", 64, Some("10.1.2.3")),
            ("::1", 128, Some("::1")),
            ("", 64, None),
            ("@/run/socket", 64, None),
            ("10.1.2.3:99999", 64, None),
        ] {
            let found = host(text.as_bytes()).map(|address| masked(address, prefix));
            assert_eq!(found, expected.map(|address| address.parse().unwrap()), "{text}/{prefix}");
        }
        assert_eq!(host(b"\xff"), None);
    }
}
