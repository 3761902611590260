//! A client's address in sixteen bytes, IPv4 as its mapped IPv6 address. How long its prefix is goes
//! without saying: it is the same for all clients of a family.

use std::net::{IpAddr, Ipv6Addr};
use verdict::prefix::{Prefix, PrefixLengths};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Key([u8; 16]);

impl Key {
    pub(super) fn of(client: Prefix) -> Self {
        Self(match client.address() {
            IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
            IpAddr::V6(v6) => v6.octets(),
        })
    }

    pub(super) fn prefix(self, lengths: PrefixLengths) -> Prefix {
        Prefix::of(Ipv6Addr::from(self.0).into(), lengths)
    }

    pub(super) fn number(self) -> u128 {
        u128::from_ne_bytes(self.0)
    }
}
