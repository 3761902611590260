//! What counts as one client: an address cut to a prefix. A /64 is one client in IPv6.

use std::net::{IpAddr, Ipv6Addr};

/// An address with its host bits cleared. IPv4-mapped IPv6 addresses count as IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Prefix {
    address: IpAddr,
    length: u8,
}

/// How many leading bits make a client, for each family.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefixLengths {
    /// 0 to 32.
    pub ipv4: u8,
    /// 0 to 128.
    pub ipv6: u8,
}

impl PrefixLengths {
    /// One client: one IPv4 address, one IPv6 /64.
    pub const CLIENT: Self = Self { ipv4: 32, ipv6: 64 };
    /// One network: /24 and /48.
    pub const NETWORK: Self = Self { ipv4: 24, ipv6: 48 };
}

impl Prefix {
    /// `address` cut to the length for its family; lengths past the family's own are cut to it.
    #[must_use]
    pub fn of(address: IpAddr, lengths: PrefixLengths) -> Self {
        match address.to_canonical() {
            IpAddr::V4(v4) => {
                let length = lengths.ipv4.min(32);
                let mask = u32::MAX.checked_shl(32 - u32::from(length)).unwrap_or(0);
                Self {
                    address: IpAddr::V4((u32::from(v4) & mask).into()),
                    length,
                }
            }
            IpAddr::V6(v6) => {
                let length = lengths.ipv6.min(128);
                let mask = u128::MAX.checked_shl(128 - u32::from(length)).unwrap_or(0);
                Self {
                    address: IpAddr::V6(Ipv6Addr::from(u128::from(v6) & mask)),
                    length,
                }
            }
        }
    }

    /// The network address: host bits are zero.
    #[must_use]
    pub fn address(self) -> IpAddr {
        self.address
    }

    /// The prefix length in bits.
    #[must_use]
    pub fn length(self) -> u8 {
        self.length
    }
}

impl std::fmt::Display for Prefix {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.address, self.length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_slash_64_is_one_client() {
        let one = Prefix::of(
            "2001:db8:1:2:aaaa::1".parse().unwrap(),
            PrefixLengths::CLIENT,
        );
        let two = Prefix::of(
            "2001:db8:1:2:bbbb::2".parse().unwrap(),
            PrefixLengths::CLIENT,
        );
        assert_eq!(one, two);
        assert_eq!(one.to_string(), "2001:db8:1:2::/64");
    }

    #[test]
    fn mapped_addresses_are_ipv4() {
        let mapped = Prefix::of("::ffff:192.0.2.7".parse().unwrap(), PrefixLengths::NETWORK);
        assert_eq!(mapped.to_string(), "192.0.2.0/24");
    }

    #[test]
    fn zero_length_is_everyone() {
        let lengths = PrefixLengths { ipv4: 0, ipv6: 0 };
        assert_eq!(
            Prefix::of("192.0.2.7".parse().unwrap(), lengths).to_string(),
            "0.0.0.0/0"
        );
        assert_eq!(
            Prefix::of("2001:db8::1".parse().unwrap(), lengths).to_string(),
            "::/0"
        );
    }

    proptest! {
        #[test]
        fn is_the_network_that_holds_the_address(
            address in any::<IpAddr>(),
            ipv4 in 0_u8..=40,
            ipv6 in 0_u8..=140,
        ) {
            let prefix = Prefix::of(address, PrefixLengths { ipv4, ipv6 });
            let address = address.to_canonical();
            let length = if address.is_ipv4() { ipv4.min(32) } else { ipv6.min(128) };
            let network = ipnet::IpNet::new(address, length).unwrap().trunc();
            prop_assert_eq!(prefix.to_string(), network.to_string());
        }

        #[test]
        fn neighbours_are_the_same_client_and_others_are_not(bits: u128, host: u64, flip in 64_u32..128) {
            let of = |bits: u128| Prefix::of(IpAddr::V6(bits.into()), PrefixLengths::CLIENT);
            // Clear of ::ffff:0:0/96, which is IPv4.
            let bits = bits | 1 << 127;
            prop_assert_eq!(of(bits), of(bits >> 64 << 64 | u128::from(host)));
            prop_assert_ne!(of(bits), of(bits ^ 1 << flip));
        }
    }
}
