//! Who is never banned, and why: what this process stands behind, or needs.

use super::{canonical, net_of};
use ipnet::IpNet;
use verdict::prefix::Prefix;

/// Why a network can't be banned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Because {
    TrustedProxy,
    /// A list with `then: allow`.
    Allowed,
    /// `bans.never`.
    Never,
    /// A DNS server of `/etc/resolv.conf`, or `challenge.resolver`.
    Resolver,
    /// An endpoint of an upstream that is given by its address.
    Upstream,
}

impl Because {
    fn what(self) -> &'static str {
        match self {
            Self::TrustedProxy => "a trusted proxy",
            Self::Allowed => "allowed by a list",
            Self::Never => "in `bans.never`",
            Self::Resolver => "a DNS server that is asked from here",
            Self::Upstream => "an endpoint of an upstream",
        }
    }
}

impl std::fmt::Display for Because {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.what())
    }
}

/// Networks that no ban may hit: merged and sorted, so that a look-up is a binary search, and as they
/// were said, to name one.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Protected {
    merged: Vec<IpNet>,
    said: Vec<(IpNet, Because)>,
}

impl Protected {
    pub(super) fn new(networks: &[(IpNet, Because)]) -> Self {
        let said: Vec<_> = networks
            .iter()
            .map(|(network, why)| (canonical(*network), *why))
            .collect();
        let all: Vec<_> = said.iter().map(|(network, _)| *network).collect();
        let mut merged = IpNet::aggregate(&all);
        merged.sort_by_key(IpNet::network);
        Self { merged, said }
    }

    /// Whether a ban of `prefix` would hit somebody protected.
    pub(super) fn is_hit_by(&self, prefix: Prefix) -> bool {
        let banned = net_of(prefix);
        // They are disjoint: only the last that starts at or before the ban's end can touch it.
        let after = self
            .merged
            .partition_point(|network| network.network() <= banned.broadcast());
        let last = after.checked_sub(1).and_then(|at| self.merged.get(at));
        last.is_some_and(|network| network.broadcast() >= banned.network())
    }

    /// A protected network that shares an address with `prefix`, and why it is.
    pub(super) fn hit_by(&self, prefix: Prefix) -> Option<(IpNet, Because)> {
        if !self.is_hit_by(prefix) {
            return None;
        }
        let banned = net_of(prefix);
        let touches =
            |network: &IpNet| network.contains(&banned.network()) || banned.contains(network);
        self.said
            .iter()
            .find(|(network, _)| touches(network))
            .copied()
    }

    /// All of them, merged.
    pub(super) fn networks(&self) -> Vec<IpNet> {
        self.merged.clone()
    }
}
