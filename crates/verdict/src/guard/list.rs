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
