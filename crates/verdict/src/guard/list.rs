//! Membership in a named list of networks, by binary search in sorted ranges.

use super::{Case, Guard, Judgement};
use crate::{
    decision::{Action, Reason},
    expression::Lists,
};
use ipnet::IpNet;
use std::net::IpAddr;

/// The addresses of a list. Networks may overlap and come in any order; host bits are ignored.
#[derive(Clone, Debug)]
pub struct Networks {
    ipv4: Ranges<u32>,
    ipv6: Ranges<u128>,
}

impl Networks {
    /// IPv4-mapped networks count as IPv4. Wider IPv6 networks (`::/0`) hold no IPv4 addresses.
    #[must_use]
    pub fn new(networks: &[IpNet]) -> Self {
        let (mut ipv4, mut ipv6) = (Vec::new(), Vec::new());
        for network in networks {
            match network {
                IpNet::V4(v4) => ipv4.push((v4.network().into(), v4.broadcast().into())),
                IpNet::V6(v6) => {
                    let (from, to) = (v6.network(), v6.broadcast());
                    if let (Some(from), Some(to)) = (from.to_ipv4_mapped(), to.to_ipv4_mapped()) {
                        ipv4.push((from.into(), to.into()));
                    } else {
                        ipv6.push((from.into(), to.into()));
                    }
                }
            }
        }
        Self {
            ipv4: Ranges::new(ipv4),
            ipv6: Ranges::new(ipv6),
        }
    }

    /// Whether one of the networks holds `ip`. IPv4-mapped addresses count as IPv4.
    #[must_use]
    pub fn contains(&self, ip: IpAddr) -> bool {
        match ip.to_canonical() {
            IpAddr::V4(v4) => self.ipv4.contains(v4.into()),
            IpAddr::V6(v6) => self.ipv6.contains(v6.into()),
        }
    }
}

/// Ranges that neither overlap nor touch out of order: sorted starts, and the end of each.
#[derive(Clone, Debug)]
struct Ranges<T> {
    starts: Box<[T]>,
    ends: Box<[T]>,
}

impl<T: Copy + Ord> Ranges<T> {
    /// From pairs of first and last.
    fn new(mut ranges: Vec<(T, T)>) -> Self {
        ranges.sort_unstable();
        ranges.dedup_by(|next, kept| {
            let overlap = next.0 <= kept.1;
            if overlap {
                kept.1 = kept.1.max(next.1);
            }
            overlap
        });
        let (starts, ends): (Vec<T>, Vec<T>) = ranges.into_iter().unzip();
        Self {
            starts: starts.into(),
            ends: ends.into(),
        }
    }

    fn contains(&self, value: T) -> bool {
        let after = self.starts.partition_point(|start| *start <= value);
        after
            .checked_sub(1)
            .and_then(|at| self.ends.get(at))
            .is_some_and(|end| value <= *end)
    }
}

/// All lists by index, for conditions to ask.
#[derive(Debug)]
pub(crate) struct ListSet(pub(crate) Box<[Networks]>);

impl Lists for ListSet {
    fn contains(&self, list: usize, ip: IpAddr) -> bool {
        self.0.get(list).is_some_and(|list| list.contains(ip))
    }
}

/// A list with something that follows from being in it.
#[derive(Debug)]
pub(crate) struct List {
    pub(crate) index: usize,
    pub(crate) then: Action,
}

impl Guard for List {
    fn judge(&self, case: &Case<'_>) -> Judgement {
        if case.lists.contains(self.index, case.facts.client.ip) {
            Judgement::found(self.then, Reason::Listed)
        } else {
            Judgement::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ipnet::{Ipv4Net, Ipv6Net};
    use proptest::prelude::*;

    fn networks(lines: &[&str]) -> Networks {
        Networks::new(&lines.iter().map(|l| l.parse().unwrap()).collect::<Vec<_>>())
    }

    #[test]
    fn holds_what_its_networks_hold() {
        let list = networks(&[
            "192.0.2.0/24",
            "192.0.2.128/25",
            "10.1.2.3/8",
            "203.0.113.7/32",
            "2001:db8::/32",
            "255.255.255.255/32",
        ]);
        for inside in [
            "192.0.2.0",
            "192.0.2.255",
            "10.0.0.0",
            "10.255.255.255",
            "203.0.113.7",
            "2001:db8:ffff::1",
            "255.255.255.255",
        ] {
            assert!(list.contains(inside.parse().unwrap()), "{inside}");
        }
        for outside in [
            "192.0.1.255",
            "192.0.3.0",
            "11.0.0.0",
            "203.0.113.6",
            "203.0.113.8",
            "2001:db9::",
            "0.0.0.0",
            "::",
        ] {
            assert!(!list.contains(outside.parse().unwrap()), "{outside}");
        }
    }

    #[test]
    fn mapped_addresses_and_networks_are_ipv4() {
        let list = networks(&["192.0.2.0/24", "::ffff:198.51.100.0/120"]);
        for inside in ["::ffff:192.0.2.9", "198.51.100.9", "::ffff:198.51.100.9"] {
            assert!(list.contains(inside.parse().unwrap()), "{inside}");
        }
        let all_ipv6 = networks(&["::/0"]);
        assert!(all_ipv6.contains("2001:db8::1".parse().unwrap()));
        assert!(!all_ipv6.contains("192.0.2.9".parse().unwrap()));
        assert!(!networks(&[]).contains("192.0.2.9".parse().unwrap()));
    }

    fn network() -> impl Strategy<Value = IpNet> {
        // Few distinct bits, so that networks overlap and addresses hit.
        prop_oneof![
            (0_u32..256, 0_u8..=32).prop_map(|(bits, length)| {
                Ipv4Net::new((bits << 24 | bits << 2).into(), length)
                    .unwrap()
                    .into()
            }),
            (0_u128..256, 0_u8..=128).prop_map(|(bits, length)| {
                Ipv6Net::new((bits << 120 | bits << 2).into(), length)
                    .unwrap()
                    .into()
            }),
        ]
    }

    proptest! {
        #[test]
        fn agrees_with_asking_each_network(
            networks in proptest::collection::vec(network(), 0..40),
            addresses in proptest::collection::vec((network(), 0_u8..4), 1..40),
        ) {
            let list = Networks::new(&networks);
            for (network, offset) in addresses {
                let ip = match network {
                    IpNet::V4(v4) => IpAddr::V4((u32::from(v4.addr()) + u32::from(offset)).into()),
                    IpNet::V6(v6) => IpAddr::V6((u128::from(v6.addr()) + u128::from(offset)).into()),
                };
                // What `to_canonical` would move to the other family is a test of its own.
                prop_assume!(ip.to_canonical() == ip);
                prop_assert_eq!(
                    list.contains(ip),
                    networks.iter().any(|network| network.contains(&ip))
                );
            }
        }
    }
}
