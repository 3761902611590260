//! Clearances that an operator took back: all of a network, or of all clients with a fingerprint, that
//! were issued until then. Whoever solves again is let through again; who must not be is banned.
//!
//! A revocation is forgotten when no clearance from before it can still be good. It outlives a
//! reload, and no restart. What must be gone at every replica and for good goes with the secret that
//! sealed it.

use arc_swap::ArcSwap;
use ipnet::IpNet;
use parking_lot::Mutex;
use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use verdict::{
    clearance::Fingerprint,
    prefix::{Prefix, PrefixLengths},
};

/// About 1 MiB when full.
pub const MAX_REVOKED: usize = 10_000;

/// Whose clearances are revoked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Whose {
    Network(Prefix),
    Fingerprint(Fingerprint),
}

impl Whose {
    /// Of a network. Clearances are bound to a /24 or /48, so none is told apart within these: a
    /// narrower network is widened to it.
    #[must_use]
    pub fn network(network: IpNet) -> Self {
        let (address, mut length) = (network.addr().to_canonical(), network.prefix_len());
        if address.is_ipv4() && network.addr().is_ipv6() {
            length = length.saturating_sub(96);
        }
        let PrefixLengths { ipv4, ipv6 } = PrefixLengths::NETWORK;
        let lengths = PrefixLengths {
            ipv4: length.min(ipv4),
            ipv6: length.min(ipv6),
        };
        Self::Network(Prefix::of(address, lengths))
    }
}

impl fmt::Display for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Network(network) => network.fmt(f),
            Self::Fingerprint(fingerprint) => f.write_str(fingerprint.as_str()),
        }
    }
}

/// What was issued until `at` counts no more. Unix seconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Revocation {
    pub whose: Whose,
    pub at: u64,
    /// When it is forgotten.
    pub until: u64,
}

/// There is no room for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{MAX_REVOKED} revocations are in force, and no more are kept; \
             a new first line in `challenge.secret_file`, and none of the old, revokes everything"
        )
    }
}

/// All revocations in force. Reading takes no lock, and where there are none it is one load.
#[derive(Debug, Default)]
pub struct Revoked {
    any: AtomicBool,
    table: ArcSwap<Table>,
    changing: Mutex<()>,
    /// The longest lifetime of clearances that this process granted, in seconds.
    lifetime: AtomicU64,
}

#[derive(Clone, Debug, Default)]
struct Table {
    /// With the time of each, and when it is forgotten.
    entries: HashMap<Whose, (u64, u64)>,
    /// The lengths of the networks among them, to look for a network under each.
    ipv4: Vec<u8>,
    ipv6: Vec<u8>,
}

impl Revoked {
    /// Clearances may be granted for so long from now on.
    pub fn lives(&self, lifetime: Duration) {
        self.lifetime
            .fetch_max(lifetime.as_secs(), Ordering::Relaxed);
    }

    /// Whether what was issued then, for this network and to a client with this fingerprint, was
    /// taken back since. Allocates nothing.
    #[must_use]
    pub fn covers(&self, network: Prefix, fingerprint: Option<Fingerprint>, issued: u64) -> bool {
        self.any.load(Ordering::Relaxed) && self.table.load().covers(network, fingerprint, issued)
    }

    /// Revokes what was issued up to `now`.
    ///
    /// # Errors
    /// When the table is full.
    pub fn revoke(&self, whose: Whose, now: u64) -> Result<Revocation, Full> {
        let _changing = self.changing.lock();
        let mut table = Table::clone(&self.table.load());
        table.entries.retain(|_, (_, until)| *until > now);
        if table.entries.len() >= MAX_REVOKED && !table.entries.contains_key(&whose) {
            return Err(Full);
        }
        let until = now.saturating_add(self.lifetime.load(Ordering::Relaxed));
        table.entries.insert(whose, (now, until));
        table.note_lengths();
        self.table.store(Arc::new(table));
        self.any.store(true, Ordering::Relaxed);
        Ok(Revocation {
            whose,
            at: now,
            until,
        })
    }

    /// All in force, the last first.
    #[must_use]
    pub fn list(&self, now: u64) -> Vec<Revocation> {
        let table = self.table.load();
        let entries = table.entries.iter();
        let mut all: Vec<_> = entries
            .filter(|(_, (_, until))| *until > now)
            .map(|(whose, (at, until))| Revocation {
                whose: *whose,
                at: *at,
                until: *until,
            })
            .collect();
        all.sort_by_key(|one| (std::cmp::Reverse(one.at), one.whose.to_string()));
        all
    }
}

impl Table {
    fn covers(&self, network: Prefix, fingerprint: Option<Fingerprint>, issued: u64) -> bool {
        let is_revoked = |whose| {
            let revoked = self.entries.get(&whose);
            revoked.is_some_and(|(at, _)| issued <= *at)
        };
        let lengths = if network.address().is_ipv4() {
            &self.ipv4
        } else {
            &self.ipv6
        };
        let mut around = lengths
            .iter()
            .filter(|length| **length <= network.length())
            .map(|length| {
                let lengths = PrefixLengths {
                    ipv4: *length,
                    ipv6: *length,
                };
                Whose::Network(Prefix::of(network.address(), lengths))
            });
        fingerprint.is_some_and(|own| is_revoked(Whose::Fingerprint(own))) || around.any(is_revoked)
    }

    fn note_lengths(&mut self) {
        let of = |wanted_ipv4: bool| {
            let lengths = self.entries.keys().filter_map(|whose| match whose {
                Whose::Network(network) if network.address().is_ipv4() == wanted_ipv4 => {
                    Some(network.length())
                }
                _ => None,
            });
            let mut lengths: Vec<u8> = lengths.collect();
            lengths.sort_unstable();
            lengths.dedup();
            lengths
        };
        (self.ipv4, self.ipv6) = (of(true), of(false));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn revoked() -> Revoked {
        let revoked = Revoked::default();
        revoked.lives(HOUR);
        revoked
    }

    fn of(network: &str) -> Whose {
        Whose::network(network.parse().unwrap())
    }

    fn network(address: &str) -> Prefix {
        Prefix::of(address.parse().unwrap(), PrefixLengths::NETWORK)
    }

    #[test]
    fn a_network_is_covered_by_all_around_it() {
        for (revoke, shown, covered) in [
            ("192.0.2.0/24", "192.0.2.77", true),
            ("192.0.2.0/24", "192.0.3.1", false),
            ("192.0.2.7/32", "192.0.2.200", true),
            ("192.0.0.0/16", "192.0.2.77", true),
            ("192.0.0.0/16", "192.1.2.77", false),
            ("0.0.0.0/0", "192.0.2.77", true),
            ("0.0.0.0/0", "2001:db8::1", false),
            ("::ffff:192.0.2.0/120", "192.0.2.77", true),
            ("2001:db8::/32", "2001:db8:ffff::1", true),
            ("2001:db8::/64", "2001:db8:0:1::1", true),
            ("2001:db8::/48", "2001:db8:1::1", false),
            ("::/0", "192.0.2.77", false),
        ] {
            let revoked = revoked();
            revoked.revoke(of(revoke), 100).unwrap();
            let told = revoked.covers(network(shown), None, 100);
            assert_eq!(told, covered, "{revoke} {shown}");
            assert!(!revoked.covers(network(shown), None, 101), "issued since");
        }
    }

    #[test]
    fn a_fingerprint_is_covered_wherever_it_is() {
        let revoked = revoked();
        let tool = Fingerprint::of("t13d1516h2_8daaf6152771_02713d6af862").unwrap();
        let other = Fingerprint::of("9dc949149365").unwrap();
        assert!(!revoked.covers(network("192.0.2.1"), Some(tool), 0));
        revoked.revoke(Whose::Fingerprint(tool), 100).unwrap();
        for address in ["192.0.2.1", "2001:db8::1"] {
            assert!(revoked.covers(network(address), Some(tool), 100));
            assert!(!revoked.covers(network(address), Some(tool), 101));
            assert!(!revoked.covers(network(address), Some(other), 100));
            assert!(!revoked.covers(network(address), None, 100));
        }
    }

    #[test]
    fn the_last_word_counts_and_is_forgotten_with_the_last_clearance() {
        let revoked = revoked();
        revoked.revoke(of("192.0.2.0/24"), 100).unwrap();
        revoked.lives(HOUR / 2);
        let again = revoked.revoke(of("192.0.2.0/24"), 200).unwrap();
        assert_eq!((again.at, again.until), (200, 3800), "the longest lifetime");
        assert_eq!(revoked.list(200), [again]);
        assert!(revoked.list(3800).is_empty());
    }

    #[test]
    fn the_table_is_bounded_and_says_so() {
        let revoked = revoked();
        let nth = |n: usize| of(&format!("10.{}.{}.0/24", n / 256, n % 256));
        let mut table = Table::default();
        for n in 0..MAX_REVOKED {
            table.entries.insert(nth(n), (100, 3700));
        }
        revoked.table.store(Arc::new(table));
        assert_eq!(revoked.revoke(nth(MAX_REVOKED), 101), Err(Full));
        assert!(revoked.revoke(nth(0), 101).is_ok(), "one that is there");
        assert!(revoked.revoke(nth(MAX_REVOKED), 3700).is_ok());
        assert_eq!(revoked.list(3700).len(), 2);
    }
}
