//! Clearances that hold for one network more, of the address family that they were not granted for.
//!
//! A browser on a dual-stack network uses now IPv4 and now IPv6, as the one or the other answers
//! first (RFC 8305), and its visitor must not solve twice for that. The first network of the other
//! family from which a clearance is shown has it from then on; any later one solves for itself.
//!
//! Asked only when a clearance does not hold by itself. Bounded: an entry costs its client a solved
//! challenge (what costs nothing is not adopted), and when the table is full the next visitor solves
//! once more, after which the token holds both networks and needs no table.

use parking_lot::RwLock;
use std::collections::{HashMap, hash_map::Entry};
use verdict::prefix::Prefix;

/// About 6 MiB when full.
const MAX_ADOPTED: usize = 65_536;

/// Which network adopted a clearance, by the clearance's id.
#[derive(Debug, Default)]
pub struct Adopted(RwLock<Table>);

#[derive(Debug, Default)]
struct Table {
    /// With the Unix second at which the clearance ends.
    networks: HashMap<[u8; 16], (Prefix, u64)>,
    /// The Unix second in which the expired were last cleared away: a full table is gone through
    /// once a second at the most.
    swept: u64,
}

impl Adopted {
    /// Whether this network is, or now becomes, the one that has the clearance.
    #[must_use]
    pub fn adopt(&self, id: [u8; 16], network: Prefix, expires: u64, now: u64) -> bool {
        if let Some((known, _)) = self.0.read().networks.get(&id) {
            return *known == network;
        }
        let mut table = self.0.write();
        if table.networks.len() >= MAX_ADOPTED && table.swept != now {
            table.swept = now;
            table.networks.retain(|_, (_, end)| *end > now);
        }
        let is_full = table.networks.len() >= MAX_ADOPTED;
        match table.networks.entry(id) {
            Entry::Occupied(entry) => entry.get().0 == network,
            Entry::Vacant(_) if is_full => false,
            Entry::Vacant(entry) => {
                entry.insert((network, expires));
                true
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use verdict::prefix::PrefixLengths;

    fn id(number: usize) -> [u8; 16] {
        (number as u128).to_be_bytes()
    }

    fn network(address: &str) -> Prefix {
        Prefix::of(address.parse().unwrap(), PrefixLengths::NETWORK)
    }

    #[test]
    fn the_first_network_has_it() {
        let adopted = Adopted::default();
        let (home, thief) = (network("2001:db8:1::"), network("2001:db8:2::"));
        for now in 0..3 {
            assert!(adopted.adopt(id(1), home, 100, now));
            assert!(!adopted.adopt(id(1), thief, 100, now));
        }
        assert!(adopted.adopt(id(2), thief, 100, 3));
    }

    #[test]
    fn a_full_table_keeps_what_it_has_until_that_ends() {
        let adopted = Adopted::default();
        let home = network("2001:db8:1::");
        for number in 0..MAX_ADOPTED {
            let expires = if number < 10 { 50 } else { 100 };
            assert!(adopted.adopt(id(number), home, expires, 0));
        }
        assert!(!adopted.adopt(id(MAX_ADOPTED), home, 100, 1));
        assert!(adopted.adopt(id(0), home, 50, 1));
        for number in 0..10 {
            assert!(adopted.adopt(id(MAX_ADOPTED + number), home, 100, 50));
        }
        assert!(!adopted.adopt(id(MAX_ADOPTED + 10), home, 100, 51));
        assert_eq!(adopted.0.read().networks.len(), MAX_ADOPTED);
    }

    #[test]
    fn of_many_who_come_at_once_one_has_it() {
        let adopted = Adopted::default();
        let winners: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..8)
                .map(|n| {
                    let adopted = &adopted;
                    let network = network(&format!("2001:db8:{n}::"));
                    scope.spawn(move || usize::from(adopted.adopt(id(1), network, 100, 0)))
                })
                .collect();
            threads.into_iter().map(|one| one.join().unwrap()).sum()
        });
        assert_eq!(winners, 1);
    }
}
