//! Address prefixes (`envoy.config.core.v3.CidrRange`).

use std::net::IpAddr;

/// A prefix of IPv4 or IPv6 addresses; the bits behind the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Cidr {
    address: IpAddr,
    len: u8,
}

impl Cidr {
    /// `None`: the prefix is longer than the address.
    #[must_use]
    pub fn new(address: IpAddr, len: u32) -> Option<Cidr> {
        let len = u8::try_from(len).ok()?;
        let address = masked(address, len)?;
        Some(Cidr { address, len })
    }

    #[must_use]
    pub fn address(&self) -> IpAddr {
        self.address
    }

    #[must_use]
    pub fn prefix_len(&self) -> u8 {
        self.len
    }

    /// An address of the other family is never within.
    #[must_use]
    pub fn contains(&self, address: IpAddr) -> bool {
        masked(address, self.len) == Some(self.address)
    }
}

impl std::fmt::Display for Cidr {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.len)
    }
}

/// An address without the bits behind a prefix; `None`: the prefix is longer than the address.
pub(crate) fn masked(address: IpAddr, len: u8) -> Option<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let rest = 32_u32.checked_sub(u32::from(len))?;
            let mask = u32::MAX.checked_shl(rest).unwrap_or(0);
            Some(IpAddr::V4((address.to_bits() & mask).into()))
        }
        IpAddr::V6(address) => {
            let rest = 128_u32.checked_sub(u32::from(len))?;
            let mask = u128::MAX.checked_shl(rest).unwrap_or(0);
            Some(IpAddr::V6((address.to_bits() & mask).into()))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prefixes_contain_what_shares_their_bits() {
        let check = |prefix: (&str, u32), address: &str, expected: bool| {
            let cidr = Cidr::new(prefix.0.parse().unwrap(), prefix.1).unwrap();
            assert_eq!(cidr.contains(address.parse().unwrap()), expected, "{cidr} {address}");
        };
        check(("10.1.2.3", 8), "10.9.9.9", true);
        check(("10.1.2.3", 8), "11.1.2.3", false);
        check(("10.1.2.3", 32), "10.1.2.3", true);
        check(("10.1.2.3", 32), "10.1.2.2", false);
        check(("0.0.0.0", 0), "255.1.2.3", true);
        check(("0.0.0.0", 0), "::1", false);
        check(("fd00::1", 64), "fd00::2:3", true);
        check(("fd00::1", 64), "fd00:0:0:1::", false);
        check(("::", 0), "fd00::1", true);
        check(("::", 0), "1.2.3.4", false);
        check(("::1", 128), "::1", true);
        assert_eq!(Cidr::new("1.2.3.4".parse().unwrap(), 33), None);
        assert_eq!(Cidr::new("::".parse().unwrap(), 129), None);
        assert_eq!(Cidr::new("10.1.2.3".parse().unwrap(), 9).unwrap().to_string(), "10.0.0.0/9");
    }
}
